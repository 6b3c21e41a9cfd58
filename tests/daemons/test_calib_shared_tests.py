# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the same name in two sessions of one day: each session takes its own, in any order."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from kit.calib_engine import DAY, FIRST, Site
from kit.depth import examples
from nightjar.errors import TimedOut

FRAMES = {"BIAS01": 3, "BIAS02": 3, "DARK01": 1, "FLAT01": 6, "COSMETICS00": 6}
Schedules = Mapping[str, Sequence[Any]]


def campaign(site: Site, schedules: Schedules) -> None:
    site.write_campaign(test_specifics={
        name: {"datapath": [DAY], "schedule": [
            [entry] if isinstance(entry, str) else entry for entry in schedule
        ]}
        for name, schedule in schedules.items()
    })  # fmt: skip


def acquired(site: Site, *tests: str) -> list[int]:
    """Acquire tests one after the other; return the first OBSID of each; ``BIAS01:2`` aborts."""
    firsts = []
    for test in tests:
        name, _, frames = test.partition(":")
        site.acquire(name, pause_s=300)
        firsts.append(site.next_obsid - FRAMES[name])
        if frames:
            (log,) = (site.root / "data" / DAY).glob("EXP_LOG_*")
            lines = log.read_text().splitlines(keepends=True)
            late = firsts[-1] + int(frames)
            log.write_text("".join(lines[:1] + [
                line for line in lines[1:] if int(line.split("\t")[0]) < late
            ]))  # fmt: skip
    return firsts


def taken(site: Site, run: str, test: str = "BIAS02") -> int | str:
    """Return the first OBSID that a session has for a test, or why it has none."""
    site.run(run)
    state = site.state(test, run)
    first: int = state["obsids"][0]
    reason: str = state["reason"]
    return reason if state["stage"] == "failed" else first


@pytest.mark.parametrize("order", [("D11", "D12"), ("D12", "D11")])
@pytest.mark.parametrize(
    ("d11", "d12", "log", "own"),
    [
        # In the middle of one, at the beginning of the other.
        (["FLAT01", "BIAS02", "DARK01"], ["BIAS02", "BIAS01"],
         ["FLAT01", "BIAS02", "DARK01", "BIAS02", "BIAS01"], (1, 3)),
        # Both at the border: nothing lies between the two runs.
        (["BIAS01", "BIAS02"], ["BIAS02", "DARK01"], ["BIAS01", "BIAS02", "BIAS02", "DARK01"],
         (1, 2)),
        # First in both; the second session's other tests are still to come.
        (["BIAS02", "DARK01"], ["BIAS02", "BIAS01"], ["BIAS02", "DARK01", "BIAS02"], (0, 2)),
        # The schedule is in another order than the log.
        (["DARK01", "BIAS02"], ["BIAS02", "BIAS01"], ["BIAS02", "DARK01", "BIAS02", "BIAS01"],
         (0, 2)),
        # So much in another order that its order tells nothing.
        (["FLAT01", "BIAS01", "BIAS02"], ["BIAS02", "DARK01"],
         ["BIAS02", "BIAS01", "FLAT01", "BIAS02", "DARK01"], (0, 3)),
        # They have another test in common, too.
        (["BIAS01", "BIAS02", "DARK01"], ["BIAS01", "BIAS02", "FLAT01"],
         ["BIAS01", "BIAS02", "DARK01", "BIAS01", "BIAS02", "FLAT01"], (1, 4)),
        (["BIAS02", "BIAS01", "DARK01"], ["BIAS02", "BIAS01", "FLAT01"],
         ["BIAS02", "BIAS01", "DARK01", "BIAS02", "BIAS01", "FLAT01"], (0, 3)),
        # Aborted in the first session, and taken again at once.
        (["BIAS01", "BIAS02", "DARK01"], ["BIAS02", "FLAT01"],
         ["BIAS01", "BIAS02:2", "BIAS02", "DARK01", "BIAS02", "FLAT01"], (2, 4)),
    ],
)  # fmt: skip
def test_the_place_in_the_log_tells_whose_a_run_is(
    tmp_path: Path, order: Sequence[str], d11: list[str], d12: list[str], log: list[str],
    own: tuple[int, int],
) -> None:  # fmt: skip
    site = Site(tmp_path, ccds=1)
    campaign(site, {"D11": d11, "D12": d12})
    firsts = acquired(site, *log)
    found = {run: taken(site, run) for run in order}
    assert found == {"D11": firsts[own[0]], "D12": firsts[own[1]]}


def test_what_nothing_tells_is_refused_until_obsids_are_given(tmp_path: Path) -> None:
    site = Site(tmp_path, ccds=1)
    campaign(site, {"D11": ["BIAS02"], "D12": ["BIAS02"]})
    acquired(site, "BIAS02", "BIAS02")
    for run in ("D12", "D11"):
        reason = str(taken(site, run))
        assert f"{FIRST}-{FIRST + 2}, {FIRST + 3}-{FIRST + 5}; write the OBSIDs" in reason
        assert "D11" in reason
        assert "D12" in reason
    campaign(site, {"D11": [["BIAS02", [FIRST, FIRST + 2]]], "D12": ["BIAS02"]})
    assert [taken(site, run) for run in ("D12", "D11")] == [FIRST + 3, FIRST]


def test_who_has_obsids_given_lays_no_claim_to_others(tmp_path: Path) -> None:
    """Not even where its own are not in the log yet."""
    site = Site(tmp_path, ccds=1)
    campaign(site, {"D11": ["BIAS02"], "D12": [["BIAS02", [FIRST + 90, FIRST + 92]]]})
    firsts = acquired(site, "BIAS02", "BIAS02")
    assert taken(site, "D11") == firsts[1]
    firsts += acquired(site, "BIAS02")
    assert taken(site, "D11") == firsts[2]  # and so again, with what it has processed


def test_a_session_without_its_own_takes_no_other_s(tmp_path: Path) -> None:
    site = Site(tmp_path, ccds=1)
    campaign(site, {"D11": ["BIAS01", "BIAS02", "DARK01"], "D12": ["BIAS02", "FLAT01"]})
    acquired(site, "BIAS01", "BIAS02", "DARK01", "FLAT01")
    assert taken(site, "D12") == (
        f"BIAS02: OBSIDs {FIRST + 3}-{FIRST + 5} of BIAS02 are, by log and schedules, session "
        "D11's (give OBSIDs or --start-obsid to take them all the same)"
    )
    assert taken(site, "D11") == FIRST + 3


def test_what_may_be_either_s_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path, ccds=1)
    campaign(site, {"D11": ["BIAS02"], "D12": ["BIAS02"]})
    acquired(site, "BIAS02")
    assert taken(site, "D12") == FIRST
    notes = site.read("D12", "BIAS02", "current", "subtasks", "init.json")["notes"]
    assert any("may be session D12 or D11's" in note for note in notes)


def test_frames_that_another_test_analyses_too_are_nobody_s_alone(tmp_path: Path) -> None:
    site = Site(tmp_path, ccds=1)
    campaign(site, {"D11": ["PTC01", "BIAS01"], "D12": ["BF01", "BIAS02"]})
    site.acquire("PTC01", "BIAS01", "BIAS02")
    assert [taken(site, "D12", "BF01"), taken(site, "D11", "PTC01")] == [FIRST, FIRST]


def test_a_failed_test_keeps_its_exposures(tmp_path: Path) -> None:
    """What failed in one session is not another's, which waits for its own."""
    site = Site(tmp_path, ccds=1)
    campaign(site, {"D11": ["BIAS02", "DARK01"], "D12": ["BIAS02", "BIAS01"]})
    firsts = acquired(site, "BIAS02", "DARK01")
    steps = [lambda: acquired(site, "BIAS02", "BIAS01")]
    site.clock.on_sleep = lambda: steps.pop()() if steps else None
    site.run("D12", is_wait=True)
    assert site.state("BIAS02", "D12")["obsids"][0] == firsts[-1] + 1
    assert "attempt-02" not in [one.name for one in (site.results / "D12/BIAS02").iterdir()]


@st.composite
def days(draw: st.DrawFn) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Return two schedules that share BIAS02, and the log: (session, test), aborts among it."""
    others = draw(st.permutations([name for name in FRAMES if name != "BIAS02"]))
    cut = draw(st.integers(0, 4))
    schedules = {}
    log = []
    for run, names in (("D11", others[:cut]), ("D12", others[cut:])):
        at = draw(st.integers(0, len(names)))
        order = schedules[run] = [*names[:at], "BIAS02", *names[at:]]
        for test in order:
            frames = draw(st.integers(0, FRAMES[test] - 1))
            log += [(run, f"{test}:{frames}")] if frames and draw(st.booleans()) else []
            log.append((run, test))
    return schedules, log


@examples(6, 40, days(), st.booleans())
def test_nobody_ever_takes_another_s(
    day: tuple[dict[str, list[str]], list[tuple[str, str]]], is_turned: bool
) -> None:
    """Whole sessions, one after the other: right, or refused; wrong never."""
    schedules, log = day
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), ccds=1)
        campaign(site, schedules)
        firsts = dict(zip(log, acquired(site, *(test for _, test in log)), strict=True))
        for run in ("D12", "D11") if is_turned else ("D11", "D12"):
            found = taken(site, run)
            assert found == firsts[run, "BIAS02"] or "write the OBSIDs" in str(found)


def test_a_run_that_may_be_either_s_is_told_while_waiting(tmp_path: Path) -> None:
    site = Site(tmp_path, ccds=1)
    campaign(site, {"D11": ["BIAS02", "DARK01"], "D12": ["BIAS02", "BIAS01"]})
    acquired(site, "BIAS02", "DARK01", "BIAS02")
    site.run("D11", is_wait=True, log_folder=site.root)
    assert site.state("BIAS02", "D11")["obsids"] == [FIRST, FIRST + 2]
    log = " ".join(next(site.root.glob("Calib_FM*.log")).read_text().split())
    left = f"OBSIDs {FIRST + 4}-{FIRST + 6} of BIAS02 may be session D11 or D12's: left out"
    assert log.count(f"BIAS02: {left}") == 1
    notes = site.read("D11", "BIAS02", "current", "subtasks", "init.json")["notes"]
    assert any(left in note for note in notes)


def test_what_turns_out_to_be_another_s_is_given_back(tmp_path: Path) -> None:
    """Both sessions wait; only the next test tells whose the first one was."""
    site = Site(tmp_path, ccds=1)
    campaign(site, {"D11": ["BIAS02", "DARK01"], "D12": ["BIAS02", "BIAS01"]})
    (first,) = acquired(site, "BIAS02")
    states = []

    def on_sleep() -> None:
        states.append(site.state("BIAS02", "D12"))
        stages = [one["stage"] for one in states]
        if stages.count("processed") == 1 and stages[-1] == "processed":
            acquired(site, "DARK01")
        elif stages[-2:] == ["processed", "expected"]:
            acquired(site, "BIAS01")

    site.clock.on_sleep = on_sleep
    with pytest.raises(TimedOut, match="gave up waiting for BIAS02"):
        site.run("D12", is_wait=True)
    given = states[-1]
    assert (given["stage"], given["obsids"]) == ("expected", [-1, -1])
    assert f"OBSIDs {first}-{first + 2} of BIAS02 are, by log and schedules" in given["reason"]
    assert site.state("BIAS01", "D12")["stage"] == "processed"
    assert any("given back" in line for line in site.said)
