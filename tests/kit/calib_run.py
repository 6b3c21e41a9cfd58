# SPDX-License-Identifier: BSD-3-Clause
"""A run of the pipeline in a process of its own, to be killed: ``... ROOT hang|wait``.

``hang``: two workers, one of which stays at an exposure for ever, the first time.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kit import calib_engine as kit
from kit.calib_engine import FIRST, Site, basic, items_of, with_subtask
from nightjar.clock import SystemClock
from nightjard.calib.engine.pipeline import Pipeline
from nightjard.calib.work import Work


def hang(work: Work) -> None:
    """Have a worker that does not come back."""
    sign = str(work.folder.parents[3] / "sign")
    work.map(kit.hang_at, items_of(work, at=FIRST + 1, sign=sign), stage="frames held")
    basic(work)


def pipeline(root: Path, *, is_wait: bool = False) -> Pipeline:
    """Return the run."""
    site = Site(root)
    made = site.pipeline(
        task=with_subtask("basic", hang), workers=2, is_wait=is_wait, log_folder=root
    )
    made._clock = SystemClock()
    made._say = lambda line: print(line, flush=True)
    return made


def main() -> int:
    """Run it."""
    root, mode = Path(sys.argv[1]), sys.argv[2]
    pipeline(root, is_wait=mode == "wait").run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
