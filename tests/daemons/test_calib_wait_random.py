# SPDX-License-Identifier: BSD-3-Clause
"""Sessions that come in pieces of any size, with aborted tests and restarts: each test once."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

from hypothesis import strategies as st

from kit.calib_engine import Site, Source
from kit.depth import examples

TESTS = {"BIAS01": 3, "BIAS02": 3, "FOCUS00_800": 9}


@st.composite
def sessions(draw: st.DrawFn) -> tuple[list[str], dict[str, int], list[tuple[int, int, bool]]]:
    """Return tests in order, frames after which each is aborted, pieces of delivery.

    A piece: exposures more in the log, those whose files lag behind, restart after it.
    """
    tests = draw(st.permutations(list(TESTS)))[: draw(st.integers(1, 3))]
    aborted = {test: draw(st.integers(0, TESTS[test] - 1)) for test in tests}
    piece = st.tuples(st.integers(1, 4), st.integers(0, 2), st.sampled_from([False, False, True]))
    return tests, aborted, draw(st.lists(piece, min_size=30, max_size=30))


@examples(2, 80, sessions())
def test_each_test_is_processed_once_with_its_latest_complete_run(
    session: tuple[list[str], dict[str, int], list[tuple[int, int, bool]]],
) -> None:
    tests, aborted, pieces = session
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with mock.patch.dict(os.environ, {"CALIB_ENGINE_CALLS": str(root / "calls")}):
            site = Site(root, ccds=1)
            site.write_campaign(tests=[[test] for test in tests])
            source = Source(site)
            acquired = source.elsewhere.acquire(
                *tests,
                faults=[f"aborted:test={test},frames={n}" for test, n in aborted.items() if n],
            )
            obsids = list(range(acquired.runs[0].first, acquired.next_obsid))
            _deliver(site, source, obsids, pieces)
            while True:
                try:
                    result = site.run(is_wait=True)
                    break
                except InterruptedError:
                    continue
            calls = Counter((root / "calls").read_text().splitlines())
            for one in result["tests"]:
                assert tuple(one["obsids"]) == acquired.obsids(one["test"])
                assert one["stage"] == "processed"
            assert calls == {
                f"{test} {subtask}": 1 for test in tests for subtask in ("check", "basic", "meta")
            }


def _deliver(
    site: Site, source: Source, obsids: list[int], pieces: list[tuple[int, int, bool]]
) -> None:
    """Have something come at every pause, files late, the program restarted now and then."""
    at = {"log": 0, "piece": 0}

    def step() -> None:
        more, lag, restarts = pieces[at["piece"] % len(pieces)]
        at["piece"] += 1
        at["log"] = min(at["log"] + more, len(obsids))
        is_last = at["log"] == len(obsids)
        whole = at["log"] if is_last else max(at["log"] - lag, 0)
        source.give(obsids[:whole])
        source.log(obsids[: at["log"]])
        if restarts and not is_last:
            raise InterruptedError  # ends the run where it stands

    site.clock.on_sleep = step
