# SPDX-License-Identifier: BSD-3-Clause
"""Wait mode where something does not come, comes twice, belongs to others, or is copied again."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from kit.calib_engine import DAY, FIRST, PLAIN, Site, Source, check, processed, with_subtask
from nightjar.calibration.explog import read_explogs
from nightjar.errors import TimedOut
from nightjard.calib.engine.runs import exposures_of, latest_run
from nightjard.calib.task import Task
from nightjard.calib.work import Work


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("CALIB_ENGINE_CALLS", str(tmp_path / "calls"))
    site = Site(tmp_path)
    site.write_campaign(tests=[["BIAS01"]])
    return site


def at(site: Site, actions: dict[int, Callable[[], object]]) -> None:
    """Have something done after pauses of these numbers."""

    def act() -> None:
        if site.clock.slept in actions:
            actions[site.clock.slept]()

    site.clock.on_sleep = act


def notes(site: Site, test: str = "BIAS01") -> list[str]:
    found: list[str] = site.read("D11", test, "current", "subtasks", "init.json")["notes"]
    return found


# --- what does not come ---


def test_housekeeping_that_never_comes_is_waited_for_five_minutes(site: Site) -> None:
    source = Source(site)
    obsids = source.take("BIAS01")
    source.steps = [lambda: source.give(obsids, but="HK_1*")]
    site.run(is_wait=True)
    # At the second look first seen; unchanged for 300 s at the fifth.
    assert site.clock.slept == 4
    assert processed(site) == ["BIAS01"]
    state = site.state("BIAS01")
    assert (state["stage"], state["obsids"]) == ("processed", [FIRST, FIRST + 2])
    assert state["lacking"] == [f"housekeeping of {obsid}" for obsid in obsids]
    told = f"done without housekeeping of {FIRST}"
    assert any(told in line for line in site.said)
    assert any(told in note for note in notes(site))
    assert f"no housekeeping for OBSIDs {FIRST}-{FIRST + 2}" in notes(site)


def test_how_long_housekeeping_is_waited_for_is_configured(site: Site) -> None:
    source = Source(site)
    obsids = source.take("BIAS01")
    source.give(obsids, but="HK_1*")
    site.write_campaign(tests=[["BIAS01"]], wait={"housekeeping_s": 1000, "sleep_s": 100})
    site.run(is_wait=True)
    assert site.clock.slept == 10


def test_housekeeping_that_comes_in_time_is_waited_for(site: Site) -> None:
    source = Source(site)
    obsids = source.take("BIAS01")
    source.give(obsids, but="HK_1*")
    at(site, {2: lambda: source.give(obsids)})
    site.run(is_wait=True)
    assert processed(site) == ["BIAS01"]
    assert site.state("BIAS01")["lacking"] == []
    assert not any("housekeeping" in note for note in notes(site))


def test_what_comes_too_late_has_the_test_done_again(site: Site) -> None:
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]])
    source = Source(site)
    obsids = source.take("BIAS01", "BIAS02")
    source.give(obsids[:3], but=f"HK_{FIRST + 1}_*")
    at(site, {8: lambda: source.give(obsids[:3]), 12: lambda: source.give(obsids)})
    site.run(is_wait=True)
    assert processed(site) == ["BIAS01", "BIAS01", "BIAS02"]
    assert "BIAS01: what was missing has come; it is done again" in site.said
    assert site.state("BIAS01")["lacking"] == []
    assert site.state("BIAS01")["attempt"] == "attempt-02"


def test_an_image_that_never_comes_is_waited_for_an_hour(site: Site) -> None:
    source = Source(site)
    obsids = source.take("BIAS01")
    name = f"EUC_{FIRST + 1}_*CCD2*"
    source.give(obsids, but=name)
    result = site.run(is_wait=True)
    assert 3600 <= site.clock.slept * 120 <= 3600 + 240
    assert site.state("BIAS01")["lacking"][0].startswith(f"EUC_{FIRST + 1}_")
    found = site.read("D11", "BIAS01", "results.json")
    (flag,) = [one for one in found["flags"] if one["name"] == "MISSDATA"]
    assert f"CCD2: no file for OBSID {FIRST + 1}" in flag["cause"]
    assert result["failed"] == []


def test_an_image_that_stays_cut_is_waited_for_an_hour(site: Site) -> None:
    site.acquire("BIAS01")
    path = next((site.root / "data" / DAY).glob(f"EUC_{FIRST}_*CCD1.fits"))
    path.write_bytes(path.read_bytes()[:-4000])
    site.write_campaign(tests=[["BIAS01"]], wait={"files_s": 600})
    site.run(is_wait=True)
    assert site.clock.slept == 5
    assert "cut short" in site.state("BIAS01")["lacking"][0]
    assert "BADDATA" in site.read("D11", "BIAS01", "results.json")["flag_names"]


# --- submitted again at once ---


def test_a_single_column_submitted_again_at_once(site: Site) -> None:
    """Two frames of an aborted BIAS01, then three without a pause: nothing in the log tells."""
    source = Source(site)
    obsids = source.take("BIAS01", "BIAS01")[:5]
    source.steps = [
        lambda end=end: source.give(obsids[:end]) for end in (2, 3, 4, 5)
    ]  # fmt: skip
    site.run(is_wait=True)
    assert processed(site) == ["BIAS01"]
    assert site.state("BIAS01")["obsids"] == [FIRST + 2, FIRST + 4]


def two_submissions(source: Source, pause_s: float = 30.0) -> list[int]:
    """Take two frames of BIAS01 and, after a pause too short for a break, all three."""
    return source.take("BIAS01")[1:] + source.take("BIAS01", pause_s=pause_s)


def test_a_single_column_that_is_whole_is_not_waited_for(site: Site) -> None:
    """As many frames as the script has, at an even pace: complete as soon as the files are."""
    source = Source(site)
    obsids = source.take("BIAS01")
    source.give(obsids)
    for number, obsid in enumerate(obsids):  # written as slowly as the log says
        _date(source, obsid, number * 94)
    site.write_campaign(tests=[["BIAS01"]], wait={"sleep_s": 20})
    site.run(is_wait=True)
    assert site.clock.slept == 1
    assert processed(site) == ["BIAS01"]


def test_a_pause_tells_two_submissions_of_a_single_column(site: Site) -> None:
    """Two frames of an aborted one and the first of another: three, but not one test."""
    source = Source(site)
    obsids = two_submissions(source)
    for number, obsid in enumerate(obsids):
        _date(source, obsid, number * 94)
    source.give(obsids[:3])
    site.write_campaign(tests=[["BIAS01"]], wait={"sleep_s": 20})
    at(site, {4: lambda: source.give(obsids[:4]), 7: lambda: source.give(obsids)})
    site.run(is_wait=True)
    assert processed(site) == ["BIAS01"]
    assert site.state("BIAS01")["obsids"] == obsids[2::2]
    assert site.clock.slept == 8  # the last three follow a pause: sure at once


@pytest.mark.parametrize("is_last", [True, False])
def test_two_submissions_that_nothing_tells_are_put_right(site: Site, is_last: bool) -> None:
    """Three frames are taken for the test; then two more come, and the last three are."""
    site.write_campaign(
        tests=[["BIAS01"]] if is_last else [["BIAS01"], ["BIAS02"]],
        wait={"sleep_s": 20},
    )
    source = Source(site)
    obsids = two_submissions(source, pause_s=0)
    source.give(obsids[:3])

    def more(work: Work) -> None:
        source.give(obsids)  # while it is processed
        check(work)

    at(site, {30: lambda: source.give([*obsids, *source.take("BIAS02")])})
    site.run(is_wait=True, task=with_subtask("check", more))
    assert processed(site)[:2] == ["BIAS01", "BIAS01"]
    assert site.state("BIAS01")["obsids"] == obsids[2::2]
    assert any("more of it came after OBSID" in line for line in site.said)


def test_steps_of_the_focus_tell_where_a_run_begins(tmp_path: Path) -> None:
    """One frame of an aborted FOCUS00 and eight of the next: each mirror one step off."""
    site = Site(tmp_path, ccds=1, camptype="Full")
    site.acquire("FOCUS00_800", faults=["aborted:frames=1"])
    (log,) = (tmp_path / "data" / DAY).glob("EXP_LOG_*")
    exposures = exposures_of(read_explogs([log], "7.5.X"))
    (script,) = site.scripts("FOCUS00_800")
    assert len(exposures) == 10
    assert not latest_run(script, exposures[:9], site.detector).is_sure
    whole = latest_run(script, exposures, site.detector)
    assert whole.is_sure
    assert whole.obsids == (FIRST + 1, FIRST + 9)


def test_a_single_column_is_sure_once_another_test_has_begun(site: Site) -> None:
    source = Source(site)
    obsids = two_submissions(source)[:3] + source.take("BIAS02")
    seen: list[str] = []
    source.give(obsids[:3])
    site.write_campaign(tests=[["BIAS01"]], wait={"sleep_s": 20})
    at(site, {
        2: lambda: seen.append(site.state("BIAS01")["reason"]),
        3: lambda: source.give(obsids[:4]),
    })  # fmt: skip
    # Written as slowly as the log says: the pace of life.
    for number, obsid in enumerate(obsids):
        _date(source, obsid, number * 94)
    site.run(is_wait=True)
    assert "more of it comes" in seen[0]
    assert site.clock.slept == 3
    assert processed(site) == ["BIAS01"]


def _date(source: Source, obsid: int, after_s: int) -> None:
    import os

    for folder in (source.folder, source.elsewhere.root / "data" / DAY):
        for path in folder.glob(f"EUC_{obsid}_*"):
            os.utime(path, (1e9 + after_s, 1e9 + after_s))


# --- clocks ---


@pytest.mark.parametrize("step_s", [-7200.0, 7200.0])
def test_a_clock_that_is_put_elsewhere(site: Site, step_s: float) -> None:
    """Put back, nothing waits for two hours; put on, what has just come is not taken for old."""
    source = Source(site)
    obsids = source.take("BIAS01")
    at(site, {1: lambda: (source.give(obsids), site.clock.step_wall(step_s))})
    site.run(is_wait=True)
    assert site.clock.slept == 2
    assert processed(site) == ["BIAS01"]


# --- folders and logs that change ---


def test_the_folder_of_tomorrow_may_be_named_today(site: Site) -> None:
    days = {"test_specifics": {"D11": {
        "datapath": [DAY, "13_Mar_19"], "schedule": [["BIAS01"], ["BIAS02"]]
    }}}  # fmt: skip
    site.write_campaign(**days)
    site.acquire("BIAS01")
    done: list[list[str]] = []

    def next_day() -> None:
        done.append(processed(site))
        site.acquire("BIAS02", day="13_Mar_19")

    at(site, {5: next_day})
    site.run(is_wait=True)
    assert done == [["BIAS01"]]
    assert processed(site) == ["BIAS01", "BIAS02"]
    assert any("no day folder" in note for note in notes(site))
    # Afterwards, too.
    site.write_campaign(**{"test_specifics": {"D11": {
        "datapath": [DAY, "13_Mar_19", "14_Mar_19"], "schedule": [["BIAS01"], ["BIAS02"]]
    }}})  # fmt: skip
    assert site.run()["failed"] == []


def test_a_wrong_day_folder_takes_nothing_back(site: Site) -> None:
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]])
    site.acquire("BIAS01", "BIAS02")
    site.run(is_wait=True)
    before = [site.state(test) for test in ("BIAS01", "BIAS02")]
    right = site.path.read_bytes()
    site.write_campaign(**{"test_specifics": {"D11": {
        "datapath": "14_Mar_19", "schedule": [["BIAS01"], ["BIAS02"]]
    }}})  # fmt: skip
    with pytest.raises(TimedOut, match="gave up waiting for BIAS01, BIAS02"):
        site.run(is_wait=True)
    assert any("BIAS01 (processed before; nothing of it is seen now)" in one for one in site.said)
    assert [site.state(test) for test in ("BIAS01", "BIAS02")] == before
    site.path.write_bytes(right)
    site.clock.slept = 0
    assert site.run(is_wait=True)["failed"] == []
    assert [site.state(test) for test in ("BIAS01", "BIAS02")] == before
    assert processed(site) == ["BIAS01", "BIAS02"]


def test_a_log_that_is_copied_again_while_a_test_is_processed(site: Site) -> None:
    """Both tests were seen complete; the log is short while the second is taken."""
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]])
    site.acquire("BIAS01", "BIAS02")
    (log,) = (site.root / "data" / DAY).glob("EXP_LOG_*")
    whole = log.read_text()

    def copy(work: Work) -> None:
        log.write_text("".join(whole.splitlines(keepends=True)[:5]))
        check(work)

    at(site, {3: lambda: log.write_text(whole)})
    site.run(is_wait=True, task=with_subtask("check", copy))
    assert processed(site) == ["BIAS01", "BIAS02"]
    found = site.read("D11", "BIAS02", "results.json")
    assert "MISSDATA" not in found["flag_names"]
    assert found["obsids"] == [FIRST + 3, FIRST + 5]


def test_lines_of_a_log_that_are_no_rows_are_told_once(site: Site) -> None:
    site.acquire("BIAS01")
    (log,) = (site.root / "data" / DAY).glob("EXP_LOG_*")
    log.write_text(log.read_text() + "17299\tnonsense\n")
    site.run(is_wait=True, log_folder=site.root)
    text = " ".join(next(site.root.glob("*.log")).read_text().split())
    assert text.count("line of a log left out") == 1


@pytest.mark.parametrize("others", [[], [["BIAS02"]]])
def test_a_test_that_cannot_be_analysed_is_tried_once(site: Site, others: list[list[str]]) -> None:
    def load(handle: str) -> Task:
        if handle == "BIAS01":
            raise ModuleNotFoundError("No module named 'nightjard.calib.tasks.bias'")
        return PLAIN

    site.acquire("BIAS01")
    site.write_campaign(tests=[["BIAS01"], *others], wait={"give_up_s": 600})
    site.answers = [False]
    with pytest.raises(TimedOut) if others else nullcontext():
        site.run(is_wait=True, task=load)
    assert site.said.count("Running: BIAS01") == 1
    assert site.state("BIAS01")["obsids"] == [FIRST, FIRST + 2]


# --- the same name in two sessions ---


def two_sessions(site: Site, **wait: object) -> None:
    site.write_campaign(wait=wait, test_specifics={
        name: {"datapath": [DAY], "schedule": [["BIAS02"]]} for name in ("D21", "D22")
    })  # fmt: skip


def test_each_of_two_sessions_of_a_day_takes_its_own(site: Site) -> None:
    two_sessions(site)
    site.acquire("BIAS02")
    site.run("D21", is_wait=True)
    assert site.state("BIAS02", "D21")["obsids"] == [FIRST, FIRST + 2]
    reasons: list[str] = []
    site.clock.slept = 0
    at(site, {
        2: lambda: reasons.append(site.state("BIAS02", "D22")["reason"]),
        3: lambda: site.acquire("BIAS02"),
    })  # fmt: skip
    site.run("D22", is_wait=True)
    assert f"OBSIDs {FIRST}-{FIRST + 2} of BIAS02 were processed as session D21's" in reasons[0]
    assert site.state("BIAS02", "D22")["obsids"] == [FIRST + 3, FIRST + 5]
    assert processed(site) == ["BIAS02", "BIAS02"]
    # Aim mode without OBSIDs: each finds its own, and nothing is to be done.
    site.run("D21")
    site.run("D22")
    assert site.state("BIAS02", "D21")["obsids"] == [FIRST, FIRST + 2]
    assert site.state("BIAS02", "D22")["obsids"] == [FIRST + 3, FIRST + 5]
    assert processed(site) == ["BIAS02", "BIAS02"]


def test_exposures_of_another_session_count_where_obsids_say_so(site: Site) -> None:
    two_sessions(site, give_up_s=500)
    site.acquire("BIAS02")
    site.run("D21")
    with pytest.raises(TimedOut):
        site.run("D22", is_wait=True)
    assert any("--start-obsid" in line for line in site.said)
    site.run("D22", is_wait=True, first_obsid=FIRST)
    assert site.state("BIAS02", "D22")["obsids"] == [FIRST, FIRST + 2]
    # In aim mode, where there are no others, they are taken and it is told.
    (site.results / "D22" / "state.json").unlink()
    assert site.run("D22")["failed"] == []
    kept = json.loads((site.results / "D22/BIAS02/current/subtasks/init.json").read_text())
    assert kept["subtask"] == "init"


def test_a_drill_claims_nothing(site: Site) -> None:
    two_sessions(site)
    site.run("D21", is_drill=True, task=PLAIN)
    site.acquire("BIAS02")
    site.run("D22", is_wait=True)
    assert site.state("BIAS02", "D22")["obsids"] == [FIRST, FIRST + 2]


def test_what_all_wait_for_is_told_once(site: Site) -> None:
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]], wait={"give_up_s": 600})
    with pytest.raises(TimedOut):
        site.run(is_wait=True)
    (text,) = [line for line in site.said if line.startswith("no test has become complete")]
    assert "10 min" in text
    assert text.count("cannot list the day folder") == 1
    assert "BIAS02 (expected, 0 of 3 frames)" in text
