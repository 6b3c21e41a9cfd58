# SPDX-License-Identifier: BSD-3-Clause
"""Wait mode: each test once, as soon as it is whole, whatever the acquisition does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kit.calib_engine import FIRST, START_NS, Site, Source, processed, with_subtask
from kit.terminal import Terminal
from nightjar.clock import NS_PER_S
from nightjar.errors import TimedOut
from nightjard.calib.work import Work


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("CALIB_ENGINE_CALLS", str(tmp_path / "calls"))
    site = Site(tmp_path)
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]])
    return site


def test_tests_are_processed_as_they_become_complete(site: Site) -> None:
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]], wait={"sleep_s": 100})
    stages: list[list[str]] = []

    def acquire() -> None:
        if site.clock.slept == 2:
            site.acquire("BIAS02")
        if site.clock.slept == 5:
            site.acquire("BIAS01")
        stages.append([site.state(test)["stage"] for test in ("BIAS01", "BIAS02")])

    site.clock.on_sleep = acquire
    result = site.run(is_wait=True, log_folder=site.root)
    assert processed(site) == ["BIAS02", "BIAS01"]
    assert [one["obsids"] for one in result["tests"]] == [
        (FIRST + 3, FIRST + 5), (FIRST, FIRST + 2)
    ]  # fmt: skip
    assert stages[0] == ["expected", "expected"]
    assert stages[4] == ["expected", "processed"]
    log = next(site.root.glob("*.log")).read_text()
    assert "Awaited: BIAS01 (3 frames), BIAS02 (3 frames)" in log
    assert log.count("Pipeline sleeping for 100 seconds...") == site.clock.slept


def test_a_test_waits_for_its_last_file(site: Site) -> None:
    source = Source(site)
    obsids = source.take("BIAS01")
    seen: list[tuple[str, str]] = []

    def look() -> None:
        state = site.state("BIAS01")
        seen.append((state["stage"], state["reason"]))

    def cut() -> None:
        look()
        (path,) = source.folder.glob(f"EUC_{obsids[1]}_*CCD2.fits")
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])

    source.steps = [
        look,
        lambda: source.give(obsids[:2]),
        lambda: (look(), source.give(obsids, but=f"EUC_{obsids[2]}_*CCD1*")),  # type: ignore[func-returns-value]
        lambda: (look(), source.give(obsids, but=f"HK_{obsids[0]}_*")),  # type: ignore[func-returns-value]
        lambda: (look(), source.give(obsids), cut()),  # type: ignore[func-returns-value]
        lambda: (look(), source.give(obsids)),  # type: ignore[func-returns-value]
    ]  # fmt: skip
    site.write_campaign(tests=[["BIAS01"]])
    site.run(is_wait=True)
    stages = [stage for stage, _ in seen]
    assert stages == ["expected", "acquiring", "log complete", "log complete", "log complete",
                      "log complete"][: len(stages)]  # fmt: skip
    assert len(seen) == 6
    assert f"EUC_{obsids[2]}" in seen[2][1]
    assert f"housekeeping of {obsids[0]}" in seen[3][1]
    assert "cut short" in seen[5][1]
    assert processed(site) == ["BIAS01"]


def test_files_that_still_change_are_looked_at_twice(site: Site) -> None:
    source = Source(site)
    obsids = source.take("BIAS01")
    sizes: list[int] = []

    def grow() -> None:
        (path,) = source.folder.glob(f"HK_{obsids[2]}_*")
        with open(path, "a") as file:
            file.write(path.read_text().splitlines()[-1] + "\n")
        sizes.append(path.stat().st_size)

    source.give(obsids)
    source.steps = [grow, grow, grow]
    site.write_campaign(tests=[["BIAS01"]])
    site.run(is_wait=True)
    # A last look after the last change, then one that finds it the same.
    assert len(sizes) == 3
    assert site.clock.slept == 4
    assert processed(site) == ["BIAS01"]


def test_data_that_have_long_been_there_need_no_second_look(site: Site) -> None:
    site.acquire("BIAS01", "BIAS02")
    # An hour after they came here: an old mtime proves nothing, copies bring it along.
    site.clock.advance((time.time_ns() - START_NS) / NS_PER_S + 3600)
    site.run(is_wait=True)
    assert site.clock.slept == 0
    assert processed(site) == ["BIAS01", "BIAS02"]


def test_a_resubmitted_test_counts_its_latest_complete_run(site: Site) -> None:
    """The seed's example, smaller: 2 frames of an aborted submission, then the whole test."""
    source = Source(site)
    obsids = source.take("BIAS01", faults=["aborted:frames=2"])
    assert len(obsids) == 5
    source.steps = [
        lambda: source.give(obsids[:2]), lambda: source.give(obsids[:3]),
        lambda: source.give(obsids[:4]), lambda: source.give(obsids),
    ]  # fmt: skip
    site.write_campaign(tests=[["BIAS01"]], wait={"sleep_s": 90})
    site.run(is_wait=True, log_folder=site.root)
    assert processed(site) == ["BIAS01"]
    assert site.state("BIAS01")["obsids"] == obsids[2::2]
    log = " ".join(next(site.root.glob("*.log")).read_text().split())
    assert f"the latest complete run is OBSIDs {obsids[2]}-{obsids[4]}" in log
    assert f"left out are OBSIDs {obsids[0]}-{obsids[1]}" in log


def test_columns_tell_where_a_run_begins(site: Site) -> None:
    source = Source(site)
    obsids = source.take("FOCUS00_800", faults=["aborted:frames=4"])
    source.steps = [lambda end=end: source.give(obsids[:end]) for end in range(3, 14)]  # type: ignore[misc]
    site.write_campaign(tests=[["FOCUS00_800"]])
    site.run(is_wait=True)
    assert processed(site) == ["FOCUS00_800"]
    assert site.state("FOCUS00_800")["obsids"] == [obsids[4], obsids[12]]


def test_a_start_obsid_leaves_earlier_exposures_out(site: Site) -> None:
    site.acquire("BIAS01", faults=["aborted:frames=2"])
    site.write_campaign(tests=[["BIAS01"]])
    site.run(is_wait=True, first_obsid=FIRST + 2)
    assert site.state("BIAS01")["obsids"] == [FIRST + 2, FIRST + 4]
    assert site.state("BIAS01")["frames"] == 3


def test_it_asks_after_four_hours_and_gives_up_without_an_answer(site: Site) -> None:
    site.acquire("BIAS02")
    with pytest.raises(TimedOut, match="gave up waiting for BIAS01"):
        site.run(is_wait=True, log_folder=site.root)
    assert site.said[-1] == "the wait is given up"
    assert "Give up waiting? 60" in site.said
    assert any("BIAS01 (expected, 0 of 3 frames)" in line for line in site.said)
    # Two looks until BIAS02 is stable, then four hours: not a look more.
    assert site.clock.slept * 120 == pytest.approx(14400 + 120, abs=120)
    assert processed(site) == ["BIAS02"]
    log = next(site.root.glob("*.log")).read_text()
    assert log.rstrip().endswith("#" * 70)
    # Run again, it goes on where it was.
    site.acquire("BIAS01")
    site.clock.slept = 0
    result = site.run(is_wait=True)
    assert processed(site) == ["BIAS02", "BIAS01"]
    assert "Processed before: BIAS02" in site.said
    assert result["failed"] == []


def test_who_wants_to_wait_longer_says_so(site: Site) -> None:
    site.acquire("BIAS02")
    site.answers = [True, True]
    with pytest.raises(TimedOut):
        site.run(is_wait=True)
    assert sum("Give up" in line for line in site.said) == 3
    assert site.clock.slept * 120 == pytest.approx(3 * 14400, rel=0.05)


def test_ctrl_c_ends_it_with_a_summary_and_a_restart_goes_on(site: Site) -> None:
    site.acquire("BIAS01")

    def interrupt() -> None:
        if site.clock.slept == 3:
            raise KeyboardInterrupt

    site.clock.on_sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        site.run(is_wait=True, log_folder=site.root, tag="_one")
    log = next(site.root.glob("*_one.log")).read_text()
    assert "terminated by user" in log
    assert log.rstrip().endswith("#" * 70)
    site.clock.on_sleep = lambda: site.acquire("BIAS02") if site.clock.slept == 4 else None
    pipeline = site.pipeline(is_wait=True)
    pipeline.run()
    assert processed(site) == ["BIAS01", "BIAS02"]
    # The progress block of the second run tells of both.
    assert [one.test for one in pipeline.done] == ["BIAS01", "BIAS02"]


def test_killed_while_it_processes_it_goes_on_with_the_same_attempt(site: Site) -> None:
    site.acquire("BIAS01")
    site.write_campaign(tests=[["BIAS01"]])

    def die(work: Work) -> None:
        raise SystemExit  # as if killed: nothing is written after this

    with pytest.raises(SystemExit):
        site.run(is_wait=True, task=with_subtask("basic", die))
    assert site.state("BIAS01")["stage"] == "processing"
    site.run(is_wait=True)
    assert site.state("BIAS01")["stage"] == "processed"
    assert processed(site) == ["BIAS01"]
    assert [path.name for path in (site.results / "D11" / "BIAS01").glob("attempt-*")] == [
        "attempt-01"
    ]


def test_a_test_that_is_acquired_again_after_it_was_processed(site: Site) -> None:
    site.acquire("BIAS01")

    def acquire() -> None:
        if site.clock.slept == 3:
            site.acquire("BIAS01", pause_s=1800)
        if site.clock.slept == 8:
            site.acquire("BIAS02")

    site.clock.on_sleep = acquire
    site.run(is_wait=True)
    assert processed(site) == ["BIAS01", "BIAS01", "BIAS02"]
    assert site.state("BIAS01")["obsids"] == [FIRST + 3, FIRST + 5]
    assert site.state("BIAS01")["attempt"] == "attempt-02"
    text = "BIAS01 was acquired again: OBSIDs 17213-17215 takes the place of OBSIDs 17210-17212"
    assert text in site.said


def test_some_more_frames_of_a_processed_test_are_told(site: Site) -> None:
    source = Source(site)
    obsids = source.take("BIAS01") + source.take("BIAS01", "BIAS02", pause_s=30)
    source.give(obsids[:3])
    stages: list[str] = []
    source.steps = [
        lambda: None, lambda: source.give(obsids[:5]),
        lambda: stages.append(site.state("BIAS01")["stage"]),
        lambda: stages.append(site.state("BIAS01")["stage"]),
        lambda: source.give(obsids[:5] + obsids[6:]),
    ]  # fmt: skip
    site.run(is_wait=True)
    assert "over-acquired" in stages
    assert processed(site) == ["BIAS01", "BIAS02"]
    assert site.state("BIAS01")["obsids"] == [FIRST, FIRST + 2]


def test_a_day_folder_may_come_later(site: Site) -> None:
    site.write_campaign(tests=[["BIAS01"]])
    reasons: list[str] = []

    def acquire() -> None:
        reasons.append(site.state("BIAS01")["reason"])
        if site.clock.slept == 2:
            site.acquire("BIAS01")

    site.clock.on_sleep = acquire
    site.run(is_wait=True)
    assert "cannot list the day folder" in reasons[0]
    assert processed(site) == ["BIAS01"]


def test_checks_first_then_the_whole_analysis(site: Site) -> None:
    site.acquire("BIAS01", "BIAS02")
    site.run(is_wait=True, is_check_only=True)
    assert (site.state("BIAS01")["stage"], site.state("BIAS01")["subtasks"]) == (
        "checked", ["check"]
    )  # fmt: skip
    site.run(is_wait=True)
    assert processed(site) == ["BIAS01", "BIAS02"]  # checks are not done again
    assert site.state("BIAS01")["subtasks"] is None
    steps = site.read("D11", "BIAS01", "results.json")["steps"]
    assert {one["status"] for one in steps} == {"done"}
    assert site.state("BIAS01")["stage"] == "processed"
    site.run(is_check_only=True)  # takes nothing back
    assert site.state("BIAS01")["stage"] == "processed"


def test_a_person_is_asked_and_may_answer_or_not(site: Site) -> None:
    site.write_campaign(tests=[["BIAS01"]], wait={"answer_s": 2})
    with Terminal("nightjard.calib", "run", str(site.path), "-R", "D11", "-W", "-T",
                  "--sleep", "0.05", "--give-up", "0.2") as terminal:  # fmt: skip
        terminal.type("n\n")  # ahead: held up after the question, we would be late
        terminal.expect("Awaited: BIAS01 (3 frames)", 30)
        terminal.expect("Give up waiting? y/n, 2 s to answer:", 20)
        terminal.expect("Give up waiting? y/n, 2 s to answer:", 20)
        terminal.expect("the wait is given up")
        assert terminal.wait() == 6
