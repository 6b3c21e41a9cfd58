# SPDX-License-Identifier: BSD-3-Clause
"""Wait mode goes on where a log comes before its files, and where something cannot be read."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from kit.calib_engine import FIRST, START_NS, Site, Source, check, processed, with_subtask
from nightjar.calibration.chamber import load_profile
from nightjar.clock import NS_PER_S
from nightjar.errors import StorageError, TimedOut
from nightjard.calib.work import Work


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("CALIB_ENGINE_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("CALIB_CONFIG_ROOT", str(tmp_path / "config"))
    site = Site(tmp_path)
    site.write_campaign(tests=[["BIAS01"]])
    return site


def accept(site: Site, text: str) -> None:
    """Write version 2 of the profile."""
    folder = site.root / "config" / "chambers" / "B_NOSTROMO"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0002.json").write_text(text)


def second() -> str:
    body = load_profile("B_NOSTROMO", version=1).model_dump(mode="json")
    body |= {"version": 2, "valid_from": "2019-03-12T12:00:00Z", "reason": "another lamp"}
    return json.dumps(body)


def at_the_clock_of_files(site: Site, source: Source) -> None:
    """Advance to when the newest of them came, on the disk's clock."""
    newest_ns = max(path.stat().st_ctime_ns for path in source.folder.iterdir())
    site.clock.advance((newest_ns - START_NS) / NS_PER_S)


def test_a_log_that_comes_before_all_files_is_not_a_test_without_files(site: Site) -> None:
    source = Source(site)
    obsids = source.take("BIAS01")
    source.log(obsids)
    source.steps = [lambda: None, lambda: None, lambda: source.give(obsids)]
    assert site.run(is_wait=True)["failed"] == []
    assert processed(site) == ["BIAS01"]
    assert site.state("BIAS01")["lacking"] == []
    assert site.clock.slept == 4


def test_the_files_of_another_run_are_waited_for_as_long(site: Site) -> None:
    """The files of an aborted run never came; those of the next are late, too."""
    site.write_campaign(tests=[["BIAS01"]], wait={"files_s": 600})
    source = Source(site)
    first, later = source.take("BIAS01"), source.take("BIAS01", pause_s=1000)
    source.log(first)
    source.steps = [
        lambda: None, lambda: None, lambda: source.log([*first, *later]), lambda: None,
        lambda: None, lambda: None,
        lambda: source.copy(*(f"*_{obsid}_*" for obsid in later)),
    ]  # fmt: skip
    site.run(is_wait=True)
    assert processed(site) == ["BIAS01"]
    assert site.state("BIAS01")["obsids"] == [later[0], later[-1]]
    assert not any("done without" in line for line in site.said)


def test_files_that_are_older_than_the_log_say_nothing_of_one_that_is_missing(site: Site) -> None:
    """All but one were copied long before; log and the last image come with the next copying."""
    source = Source(site)
    obsids = source.take("BIAS01")
    source.give(obsids, but=f"EUC_{FIRST + 2}_*CCD2*")
    patience_s = 0.2
    newest_ns = max(path.stat().st_ctime_ns for path in source.folder.glob("[EH]*_1*"))
    while time.time_ns() < newest_ns + 1.5 * patience_s * NS_PER_S:
        time.sleep(0.01)
    source.log(obsids)
    at_the_clock_of_files(site, source)
    site.write_campaign(tests=[["BIAS01"]], wait={"files_s": patience_s, "sleep_s": 0.05})
    source.steps = [lambda: source.give(obsids)]
    site.run(is_wait=True)
    assert processed(site) == ["BIAS01"]
    assert not any("done without" in line for line in site.said)


def test_old_data_without_an_image_are_not_waited_for(site: Site) -> None:
    source = Source(site)
    source.give(source.take("BIAS01"), but=f"EUC_{FIRST + 1}_*CCD2*")
    at_the_clock_of_files(site, source)
    site.clock.advance(3700)
    site.run(is_wait=True)
    assert site.clock.slept == 0
    assert site.state("BIAS01")["lacking"][0].startswith(f"EUC_{FIRST + 1}_")


def test_a_test_whose_results_have_gone_is_done_again(site: Site) -> None:
    site.acquire("BIAS01")
    site.run(is_wait=True)
    shutil.rmtree(site.results / "D11" / "BIAS01")
    site.run(is_wait=True)
    assert processed(site) == ["BIAS01", "BIAS01"]
    assert site.read("D11", "BIAS01", "results.json")["flag_names"] == ["RON_OOL"]


@pytest.mark.parametrize("text", ["[]", "null", '{"tests": null}', '{"tests": [{"x": 1}]}', "{"])
def test_a_state_that_is_none_is_told(site: Site, text: str) -> None:
    site.acquire("BIAS01")
    site.run()
    (site.results / "D11" / "state.json").write_text(text)
    with pytest.raises(StorageError, match=r"cannot read .*state\.json.*; move it away"):
        site.run()


def test_a_test_that_failed_and_was_taken_too_often_has_failed(site: Site) -> None:
    source = Source(site)
    obsids = source.take("BIAS01")
    more = source.take("BIAS01", pause_s=1000)[:1]
    source.give(obsids)

    def fail(_work: Work) -> None:
        source.give([*obsids, *more])
        raise ZeroDivisionError("what an analysis may do wrong")

    assert site.run(is_wait=True, task=with_subtask("check", fail))["failed"] == ["BIAS01"]
    assert site.state("BIAS01")["stage"] == "failed"
    site.run(is_wait=True, task=with_subtask("check", check))
    assert processed(site) == ["BIAS01"]
    assert site.state("BIAS01")["stage"] == "over-acquired"


def test_a_profile_that_cannot_be_read_for_a_while_does_not_end_the_wait(site: Site) -> None:
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]])
    site.acquire("BIAS01", "BIAS02")
    pipeline = site.pipeline(is_wait=True, log_folder=site.root)
    whole = second()
    accept(site, whole[:40])  # being copied
    reasons: list[str] = []

    def act() -> None:
        reasons.append(site.state("BIAS01")["reason"])
        if site.clock.slept == 2:
            accept(site, whole)

    site.clock.on_sleep = act
    assert pipeline.run()["failed"] == []
    assert processed(site) == ["BIAS01", "BIAS02"]
    assert "0002.json:1:" in reasons[0]
    assert len([line for line in site.said if "0002.json" in line]) == 1
    assert site.read("D11", "BIAS01", "results.json")["profile_version"] == 1


def test_a_profile_that_stays_unreadable_is_given_up_with_the_reason(site: Site) -> None:
    site.acquire("BIAS01")
    site.write_campaign(tests=[["BIAS01"]], wait={"give_up_s": 600})
    pipeline = site.pipeline(is_wait=True)
    accept(site, "{")
    with pytest.raises(TimedOut, match="BIAS01"):
        pipeline.run()
    (text,) = [line for line in site.said if line.startswith("no test has become complete")]
    assert "0002.json" in text


def test_a_version_accepted_meanwhile_is_not_told_as_an_old_one(site: Site) -> None:
    site.acquire("BIAS01")
    pipeline = site.pipeline(is_wait=True)  # begins with version 1
    body = json.loads(second()) | {"valid_from": "2019-03-12T09:00:00Z"}
    accept(site, json.dumps(body))
    pipeline.run()
    assert site.read("D11", "BIAS01", "results.json")["profile_version"] == 2
    notes = site.read("D11", "BIAS01", "current", "subtasks", "init.json")["notes"]
    assert not any("today" in note for note in notes)


def test_a_day_folder_that_goes_away_while_a_test_is_processed(site: Site) -> None:
    """Both were seen complete; neither can be finished before the folder is back."""
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]])
    site.acquire("BIAS01", "BIAS02")
    folder, away = site.root / "data", site.root / "away"
    tries: list[str] = []

    def lose(work: Work) -> None:
        tries.append(work.dataset.test)
        check(work)
        if len(tries) == 1:
            folder.rename(away)

    def act() -> None:
        if site.clock.slept == 4:
            away.rename(folder)

    site.clock.on_sleep = act
    assert site.run(is_wait=True, task=with_subtask("check", lose))["failed"] == []
    assert set(tries) == {"BIAS01", "BIAS02"}
    assert site.clock.slept >= 4
    assert any("has gone; it is done again when that is back" in line for line in site.said)
    assert [site.state(test)["stage"] for test in ("BIAS01", "BIAS02")] == ["processed"] * 2


def test_a_day_folder_that_is_away_for_a_while(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that has gone stale gives an error, not merely nothing."""
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]])
    source = Source(site)
    obsids = source.take("BIAS01", "BIAS02")
    source.give(obsids[:3])
    whole = Path.is_dir
    folder = site.root / "data"
    away = site.root / "away"

    def is_dir(path: Path) -> bool:
        if not folder.exists() and path.parent == folder:
            raise OSError(116, "Stale file handle")
        return whole(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)

    def move(one: Path, other: Path) -> None:
        one.rename(other)

    source.steps = [
        lambda: None, lambda: None, lambda: move(folder, away), lambda: None,
        lambda: move(away, folder), lambda: source.give(obsids),
    ]  # fmt: skip
    assert site.run(is_wait=True)["failed"] == []
    assert processed(site) == ["BIAS01", "BIAS02"]
