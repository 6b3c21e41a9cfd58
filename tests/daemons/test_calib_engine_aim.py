# SPDX-License-Identifier: BSD-3-Clause
"""Aim mode: tests one after the other, each failing for itself alone, all of it told."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path

import pytest

from kit import calib_engine as kit
from kit.calib_engine import FIRST, PLAIN, Site, basic, items_of, with_subtask
from kit.executor_tasks import PYTHONPATH
from nightjar.errors import ConfigError, Refused
from nightjar.files import locked
from nightjard.calib.engine.steps import DebugStop
from nightjard.calib.task import Task
from nightjard.calib.work import Work


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.acquire("BIAS02", "BIAS01")
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]])
    return site


def test_results_flags_summary_and_record(site: Site) -> None:
    result = site.run()
    assert [one["stage"] for one in result["tests"]] == ["processed", "processed"]
    found = site.read("D11", "BIAS01", "results.json")
    assert (found["test"], found["status"], found["run"]) == ("BIAS01", "ended", "D11")
    assert found["obsids"] == [FIRST + 3, FIRST + 5]
    assert found["flag_names"] == ["RON_OOL"]
    assert found["flag_word"] == 1 << 18
    assert found["severities"] == {"error": 0, "warning": 1, "info": 0, "waived": 0}
    assert found["compliances"]["checked"] == 1
    mean = next(one for one in found["values"] if one["name"] == "mean")
    assert (mean["subtask"], mean["unit"], mean["error"]) == ("check", "ADU", 0.1)
    assert mean["value"] == pytest.approx(2015, abs=1)
    provenance = found["provenance"]
    assert provenance["campaign_file"]["BLOCKID"] == "NOSTROMO"
    assert provenance["limits"]["columns"]["col001"]["limits"]["std"] == [0.86, 1.44, "ADU"]
    flags = site.read("D11", "BIAS01", "flags.json")
    assert (flags["names"], flags["word"]) == (["RON_OOL"], 1 << 18)
    assert flags["flags"][0]["cause"] == "the noise is too high"
    summary = site.read("D11", "summary.json")
    assert [(one["test"], one["obsids"], one["state"]) for one in summary["tests"]] == [
        ("BIAS01", [FIRST + 3, FIRST + 5], "processed"),
        ("BIAS02", [FIRST, FIRST + 2], "processed"),
    ]
    with open(site.results / "D11" / "TESTS_RECORD.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "test": "BIAS01", "handle": "BIAS01", "session": "D11", "obsid_first": str(FIRST + 3),
        "obsid_last": str(FIRST + 5), "script": "vis_CalCamp_BIAS01_v7.5.X.xlsx",
        "day_folder": "12_Mar_19", "state": "processed", "attempt": "attempt-01",
        "flags": "RON_OOL",
    }  # fmt: skip
    assert site.read("D11", "TESTS_RECORD.json")["tests"][1]["obsid_first"] == FIRST
    assert site.said[0] == "Running: BIAS01"
    assert site.said[2] == "Task BIAS01 exited with Errors: False"


def test_the_tree_carries_markers_and_links(site: Site) -> None:
    site.run()
    for folder in (site.results, site.results / "D11", site.results / "D11" / "BIAS01"):
        assert json.loads((folder / ".calib-results.json").read_text())["kind"]
    test = site.results / "D11" / "BIAS01"
    assert os.readlink(test / "current") == "attempt-01"
    assert os.readlink(test / "results.json") == "current/results.json"
    assert (test / "products" / "BIAS01_means.ecsv").is_file()


def test_a_test_without_data_fails_and_the_other_goes_on(site: Site) -> None:
    site.write_campaign(tests=[["BIAS01", [1, 5]], ["BIAS02"]])
    result = site.run()
    assert result["failed"] == ["BIAS01"]
    failed = site.state("BIAS01")
    assert (failed["stage"], failed["flags"], failed["obsids"]) == ("failed", ["UNKNOWN"], [-1, -1])
    assert "no row of BIAS01 with OBSIDs 1 to 5" in failed["reason"]
    assert site.state("BIAS02")["stage"] == "processed"


def _divide(work: Work) -> None:
    work.map(kit.fail_at, items_of(work, at=FIRST + 4), stage="frames divided")
    basic(work)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_worker_raises_names_its_frame(
    site: Site, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    result = site.run(task=with_subtask("basic", _divide), workers=workers, log_folder=site.root)
    assert result["failed"] == ["BIAS01"]  # BIAS02 has no such OBSID
    found = site.read("D11", "BIAS01", "results.json")
    (flag,) = [one for one in found["flags"] if one["name"] == "SUBTASKCRASH"]
    for part in ("basic", "fail_at", f"obsid {FIRST + 4}", "EUC_", "ZeroDivisionError"):
        assert part in flag["cause"]
    assert [one["status"] for one in found["steps"]] == ["done", "done", "crashed", "not reached"]
    log = next(site.root.glob("Calib_FM*.log")).read_text()
    assert "Traceback (most recent call last):" in log
    assert "Task BIAS01 exited with Errors: True" in log
    assert "Executed with Error(s)" in log
    assert site.state("BIAS02")["stage"] == "processed"


def test_the_number_of_workers_changes_no_result(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    site.run(workers=1)
    one = site.read("D11", "BIAS01", "results.json")["values"]
    site.write_campaign(tests=[["BIAS01"]], resroot="again")
    site.results = site.root / "again"
    site.run(workers=2)
    assert site.read("D11", "BIAS01", "results.json")["values"] == one


def test_a_waived_flag_is_told_and_counts_apart(site: Site) -> None:
    rule = {"flag": "RON_OOL", "test": "BIAS01", "reason": "known pick-up", "expires": "2019-03-12"}
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]], waivers=[rule])
    site.run()
    (flag,) = site.read("D11", "BIAS01", "flags.json")["flags"]
    assert flag["waiver"] == "known pick-up (until 2019-03-12)"
    assert site.state("BIAS01")["severities"]["waived"] == 1
    assert site.state("BIAS02")["severities"]["warning"] == 1
    site.clock.advance(86400)  # it has expired
    site.run()
    (flag,) = site.read("D11", "BIAS01", "flags.json")["flags"]
    assert flag["waiver"] == ""
    assert site.state("BIAS01")["severities"] == {
        "error": 0, "warning": 1, "info": 0, "waived": 0
    }  # fmt: skip


def test_an_analysis_that_is_not_there_is_that_test_s_failure(site: Site) -> None:
    def load(handle: str) -> Task:
        if handle == "BIAS01":
            raise ModuleNotFoundError("No module named 'nightjard.calib.tasks.bias'")
        return PLAIN

    result = site.run(task=load)
    assert result["failed"] == ["BIAS01"]
    assert "the analysis of BIAS01 cannot be loaded" in site.state("BIAS01")["reason"]


def test_debug_stops_at_the_first_failure_with_its_traceback(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DebugStop, match=r"sub-task basic failed: .*fail_at"):
        site.run(task=with_subtask("basic", _divide), is_debug=True, tag="_x",
                 log_folder=site.root)  # fmt: skip
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert site.state("BIAS02")["stage"] == "expected"
    assert (site.root / "Calib_PipeDebug_x.log").is_file()


def test_test_mode_only_ingests(site: Site) -> None:
    site.run(asked={"is_test": True})
    found = site.read("D11", "BIAS01", "results.json")
    assert [one["status"] for one in found["steps"]] == ["done", "off", "off", "off"]
    assert site.state("BIAS01")["stage"] == "ingested"
    assert found["obsids"] == [FIRST + 3, FIRST + 5]


def test_a_drill_needs_no_data_and_touches_no_results(site: Site) -> None:
    def drill(work: Work) -> None:
        assert work.is_drill
        work.results.value("frames", len(work.dataset.obsids))
        low, high = work.dataset.hk[1000]["CCD1_TEMP_T"][2:]
        work.results.value("temperature", (low + high) / 2)

    task = dataclasses.replace(
        PLAIN,
        subtasks=tuple(
            dataclasses.replace(one, drill=drill if one.name == "basic" else None)
            for one in PLAIN.subtasks
        ),
    )
    site.write_campaign(tests=[["BIAS01"]], datapath="nothing")
    site.run(task=task, is_drill=True)
    assert not (site.results / "D11").exists()
    found = site.read("D11_drill", "BIAS01", "results.json")
    assert [one["status"] for one in found["steps"]] == ["done", "done", "done", "left out"]
    values = {one["name"]: one["value"] for one in found["values"]}
    assert (values["frames"], values["temperature"]) == (3, -120.0)
    assert found["is_drill"]


def test_two_runs_in_one_folder_are_refused(site: Site) -> None:
    (site.results / "D11").mkdir(parents=True)
    with (
        locked(site.results / "D11" / ".calib.lock", "somebody"),
        pytest.raises(Refused, match=rf"already running \(pid {os.getpid()}"),
    ):
        site.run()


def test_a_log_of_another_version_ends_the_run(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.acquire("BIAS01", faults=["wrong-elvis:version=6.0.0"])
    site.write_campaign(tests=[["BIAS01"]])
    with pytest.raises(ConfigError, match=r"those of ELVIS .*6\.0\.0.*--elvis"):
        site.run()


def test_wrong_serials_are_reported_and_the_analysis_goes_on(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.acquire("BIAS01", faults=["wrong-serials"])
    site.write_campaign(tests=[["BIAS01"]])
    result = site.run(log_folder=site.root)
    assert result["failed"] == []
    found = site.read("D11", "BIAS01", "results.json")
    assert found["flag_names"] == ["MISSDATA", "RON_OOL"]
    (missing,) = [one for one in found["flags"] if one["name"] == "MISSDATA"]
    assert "sn_roe: expected 'FM15'" in missing["cause"]
    assert any(one["name"] == "total" for one in found["values"])
    log = next(site.root.glob("*.log")).read_text()
    assert "BIAS01 acquisition NOT consistent with expectations:" in log


def test_a_cut_file_is_left_out_and_told(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.acquire("BIAS01", faults=["truncated-file:frame=2,ccd=1", "missing-file:frame=3,ccd=2"])
    site.write_campaign(tests=[["BIAS01"]])
    assert site.run()["failed"] == []
    found = site.read("D11", "BIAS01", "results.json")
    assert found["flag_names"] == ["MISSDATA", "BADDATA", "RON_OOL"]
    count = next(one["value"] for one in found["values"] if one["name"] == "count")
    assert count == 4


def test_reports_are_written_and_linked(site: Site) -> None:
    site.write_campaign(tests=[["BIAS01"]], doReport=True)
    site.run()
    test = site.results / "D11" / "BIAS01"
    assert (test / "BIAS01_report.pdf").read_bytes().startswith(b"%PDF")
    assert os.readlink(test / "BIAS01_report.html") == "current/BIAS01_report.html"
    assert (site.results / "D11" / "index.html").is_file()
