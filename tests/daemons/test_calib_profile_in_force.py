# SPDX-License-Identifier: BSD-3-Clause
"""A test is compared with the script of the chamber's profile that was in force when it was taken.

The data are taken on 2019-03-12 from 10:00 on; version 2 holds from 12:00 on, so that it is in
force today.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit.calib_engine import FIRST, START_NS, Site
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.explog import read_explogs
from nightjar.times import parse_iso
from nightjard.calib.command import main

NOON_NS = parse_iso("2019-03-12T12:00:00")
TEST = "FOCUS00_800"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("CALIB_ENGINE_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("CALIB_CONFIG_ROOT", str(tmp_path / "config"))
    site = Site(tmp_path, ccds=1, camptype="Full")
    site.write_campaign(tests=[[TEST]])
    return site


def accept(site: Site, valid_from: str = "2019-03-12T12:00:00Z") -> None:
    """Append version 2 of the profile, its mirror half a millimetre further."""
    body = load_profile("B_NOSTROMO", version=1).model_dump(mode="json")
    body |= {"version": 2, "valid_from": valid_from, "reason": "focus of 800 nm"}
    body["mirror_nom"]["F4"] += 0.5
    folder = site.root / "config" / "chambers" / "B_NOSTROMO"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0002.json").write_text(json.dumps(body))


def calls(site: Site) -> list[str]:
    path = site.root / "calls"
    return path.read_text().splitlines() if path.exists() else []


def found(site: Site, run: str = "D11") -> tuple[bool, int]:
    """Return whether log and script are told to differ, and the version of the profile."""
    results = site.read(run, TEST, "results.json")
    return "MISSDATA" in results["flag_names"], results["profile_version"]


def test_a_later_version_leaves_earlier_tests_as_they_are(site: Site) -> None:
    site.acquire(TEST)
    site.run()
    assert found(site) == (False, 1)
    before = calls(site)
    accept(site)
    site.run(log_folder=site.root)
    assert found(site) == (False, 1)
    assert calls(site) == before
    assert site.state(TEST)["attempt"] == "attempt-01"
    log = " ".join(next(site.root.glob("*.log")).read_text().split())
    assert "version 1 of the profile was in force when it was taken, today it is version 2" in log


def test_a_later_test_has_the_later_script(site: Site) -> None:
    site.acquire(TEST)
    accept(site)
    site.next_ns = NOON_NS
    site.acquire(TEST)  # with the script of version 2
    site.write_campaign("D12", [[TEST, [FIRST + 9, FIRST + 17]]])
    site.run("D12")
    assert found(site, "D12") == (False, 2)
    # Without OBSIDs the latest run counts, by its own script.
    site.write_campaign("D13", [[TEST]])
    site.results.joinpath("D12").rename(site.root / "elsewhere")
    site.run("D13")
    assert site.state(TEST, "D13")["obsids"] == [FIRST + 9, FIRST + 17]
    assert found(site, "D13") == (False, 2)
    site.write_campaign("D14", [[TEST, [FIRST, FIRST + 8]]])
    site.run("D14")
    assert found(site, "D14") == (False, 1)


def test_a_script_that_is_older_than_the_profile_is_told(site: Site) -> None:
    scripts = site.scripts(TEST)
    site.scripts = lambda *_tests: scripts  # type: ignore[method-assign]
    accept(site, "2019-03-12T09:00:00Z")
    site.acquire(TEST)
    site.run()
    assert found(site) == (True, 2)


def test_what_was_taken_before_the_first_version_has_the_first(site: Site) -> None:
    site.next_ns = parse_iso("2019-02-12T10:00:00")
    site.acquire(TEST)
    accept(site)
    site.run()
    assert found(site) == (False, 1)


def test_a_version_that_is_accepted_while_tests_are_waited_for(site: Site) -> None:
    site.write_campaign(tests=[[TEST], ["BIAS01"]])

    def act() -> None:
        if site.clock.slept == 2:
            accept(site)
            site.next_ns = NOON_NS
            site.acquire(TEST)
        if site.clock.slept == 5:
            site.acquire("BIAS01")

    site.clock.on_sleep = act
    site.run(is_wait=True)
    assert found(site) == (False, 2)
    assert site.state(TEST)["stage"] == "processed"


def test_a_test_of_before_that_is_waited_for(site: Site) -> None:
    site.acquire(TEST)
    accept(site)
    site.run(is_wait=True)
    assert found(site) == (False, 1)
    assert START_NS < NOON_NS


def test_a_dry_run_foresees_nothing_to_do(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.acquire(TEST)
    accept(site)
    assert main(["run", str(site.path), "-R", "D11", "--dry-run"]) == 0
    assert "found" not in capsys.readouterr().out


def test_simulated_tests_have_the_script_of_their_day(site: Site) -> None:
    accept(site)
    mirror: list[set[float]] = []
    for begin in ("2019-02-12T09:00:00", "2019-03-12T11:00:00", "2019-03-12T13:00:00"):
        out = site.root / begin
        assert main(
            ["simulate", TEST, "--detector", str(site.detector_path), "--out", str(out),
             "--date", begin, "--effects", "none"]
        ) == 0  # fmt: skip
        rows = read_explogs(list(out.glob("*/EXP_LOG_*")), "7.5.X")
        mirror.append({row["mirr_pos"] for row in rows})
    assert mirror[0] == mirror[1]
    assert min(mirror[2]) == pytest.approx(min(mirror[1]) + 0.5)
