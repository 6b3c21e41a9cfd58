# SPDX-License-Identifier: BSD-3-Clause
"""The keyword log of a night: a row of tab-separated values every ten seconds, and it is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nightjar.times import NS_PER_S, iso
from nightjard.simulators.night.headers import Setup, bench_keywords, sky_keywords

LOG = Path("logging") / "keywords_log.tsv"


def write_log(
    night: Path, changes: Sequence[tuple[int, Setup]], end_ns: int, every_s: float
) -> None:
    """Write the log below a night's folder.

    Parameters
    ----------
    night
        Folder of the night.
    changes
        (ns UTC, set-up from then on), in order.
    end_ns
        Of the log.
    every_s
        Between its rows.
    """
    begin = np.array([time_ns for time_ns, _ in changes], np.int64)
    step = round(every_s * NS_PER_S)
    lines: list[str] = []
    for time_ns in range(int(begin[0]) // NS_PER_S * NS_PER_S, end_ns + step, step):
        number = max(0, int(np.searchsorted(begin, time_ns, side="right")) - 1)
        setup = changes[number][1]
        # One set of WCS cards, whatever the crop: a log's columns never change.
        values = sky_keywords(setup, time_ns) | {
            name: item for name, item in bench_keywords(replace(setup, columns=536), 1).items()
            if not name.startswith("U_")
        }  # fmt: skip
        if not lines:
            lines.append("\t".join(["WRITTIME", *sorted(values)]))
        stamp = iso(time_ns, 0).replace("-", "").replace("T", "-")
        lines.append("\t".join([stamp, *(str(values[name][0]) for name in sorted(values))]))
    path = night / LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
