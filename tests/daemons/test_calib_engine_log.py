# SPDX-License-Identifier: BSD-3-Clause
"""The log and its progress block have the shape that analysts know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kit.calib_engine import DAY, FIRST, Site, with_subtask
from nightjar import __version__
from nightjar.clock import ManualClock
from nightjar.errors import StorageError
from nightjar.times import parse_iso
from nightjard.calib.engine.runlog import Done, Header, RunLog, pipeline_id, summary_lines
from nightjard.calib.work import Work

HASHES = "#" * 70
NOW_NS = parse_iso("2019-04-01T14:18:40.934")


def test_the_progress_block(tmp_path: Path) -> None:
    header = Header("FM20190401_141840_D00", "NOSTROMO", "B_NOSTROMO", ("FOCUS00_800", "BIAS01"))
    tests = [
        Done("FOCUS00_800", 8.93, (17210, 17218),
             ("MISSDATA", "POORQUALDATA", "HK_OOL", "FLUENCE_OOL", "FOCUS_OOL", "BGD_OOL",
              "FLUX_OOL")),
        Done("BIAS01", 0.02, flags=("UNKNOWN",), has_errors=True),
    ]  # fmt: skip
    path = tmp_path / "x.log"
    log = RunLog(path, ManualClock(NOW_NS))
    log.write(summary_lines(header, tests))
    log.close()
    assert path.read_text() == (
        "2019-04-01 14:18:40,934 - INFO - _\n_\n_\n_\n"
        f"{HASHES}\n"
        "Pipeline ID: FM20190401_141840_D00\nBLOCK ID: NOSTROMO\nChamber: B_NOSTROMO\n"
        f"nightjar version: {__version__}\n"
        "Tasks: ['FOCUS00_800', 'BIAS01']\n"
        "_\nFOCUS00_800\nExecuted in 8.9 minutes\nOBSIDs range = [17210,17218]\n"
        "Raised Flags = ['MISSDATA', 'POORQUALDATA', 'HK_OOL', 'FLUENCE_OOL',\n"
        "'FOCUS_OOL', 'BGD_OOL', 'FLUX_OOL']\n"
        "_\nBIAS01\nExecuted in 0.0 minutes\nExecuted with Error(s)\n"
        "OBSIDs range = [-1,-1]\nRaised Flags = ['UNKNOWN']\n"
        f"_\n_\n_\n_\n{HASHES}\n\n"
    )


def test_names_of_runs() -> None:
    assert pipeline_id(NOW_NS, "_D00") == "FM20190401_141840_D00"
    assert pipeline_id(NOW_NS, "_D00", is_debug=True) == "PipeDebug_D00"


def test_a_folder_that_cannot_hold_the_log(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write the log .*give another --log-folder"):
        RunLog(tmp_path / "nowhere" / "x.log", ManualClock())


def test_a_whole_log(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.acquire("BIAS01")
    site.write_campaign(tests=[["BIAS01"]], perflimits={"BIAS01": {"std": [0.5, 2.0]}})
    site.run(log_folder=tmp_path, tag="_D11")
    (path,) = tmp_path.glob("*.log")
    assert path.name == "Calib_FM20190312_100000_D11.log"
    text = path.read_text()
    records = [
        record.removeprefix("2019-03-12 10:00:00,000 - INFO - ")
        for record in text.rstrip("\n").split("\n\n")
    ]
    assert all(re.match(r"2019-03-12 10:00:00,000 - INFO - ", one) for one in text.split("\n\n")
               if one.strip())  # fmt: skip
    assert records[0] == (
        "_\nStarting FM Calib. Pipeline\nPipeline ID: FM20190312_100000_D11\nBLOCK ID: NOSTROMO\n"
        f"Chamber: B_NOSTROMO\nnightjar version: {__version__}\nTasks: ['BIAS01']"
    )
    assert records[1].split() == ["Results", "will", "be", "saved", "in:", f"{site.results}/D11/"]
    inputs = records[2].splitlines()
    assert inputs[:2] == ["  Running Task: BIAS01", "Inputs:"]
    assert "perflimits = {'std': [0.5, 2.0]}" in inputs
    assert "elvis = 7.5.X" in inputs
    assert "BLOCKID = NOSTROMO" in inputs
    assert "OBSID_lims = [None, None]" in inputs
    assert "frames = [3]" in inputs
    assert records[3] == "BIAS01 acquisition consistent with expectations"
    assert records[4] == "Executing check: kit.calib_engine"
    assert records[5] == "check: within limits:\n  mean: 1 of 1"
    assert records[6] == "0.0 minutes in running Sub-task: check"
    tail = [one for one in records if one.startswith(("Finished", "0.0 minutes in running Task",
                                                      "Task "))]  # fmt: skip
    assert tail == [
        "Finished BIAS01", "0.0 minutes in running Task: BIAS01",
        "Task BIAS01 exited with Errors: False",
    ]  # fmt: skip
    assert records[-1].count(HASHES) == 2
    assert text.count(HASHES) == 2  # one block after the only test, none more at the end
    assert f"OBSIDs range = [{FIRST},{FIRST + 2}]\nRaised Flags = ['RON_OOL']" in records[-1]
    assert all(len(line) <= 80 for one in records for line in one.splitlines()
               if " " in line.strip())  # fmt: skip


def test_what_all_tests_of_a_session_lack_is_told_once(tmp_path: Path) -> None:
    site = Site(tmp_path, ccds=1)
    schedule = [["BIAS01"], ["BIAS02"]]
    site.write_campaign(tests=schedule)
    site.run(log_folder=tmp_path, tag="_none")
    reason = "cannot list the day folder"
    log = " ".join(next(tmp_path.glob("*_none.log")).read_text().split())
    assert log.count(reason) == 1
    assert sum(reason in line for line in site.said) == 1
    assert "BIAS02 failed: as BIAS01" in site.said
    assert "BIAS02 failed: as BIAS01" in log
    assert reason in site.state("BIAS02")["reason"]
    site.acquire("BIAS01", "BIAS02")
    site.write_campaign(
        test_specifics={"D12": {"datapath": [DAY, "13_Mar_19"], "schedule": schedule}}
    )
    site.run("D12", log_folder=tmp_path, tag="_some")
    log = " ".join(next(tmp_path.glob("*_some.log")).read_text().split())
    assert log.count("no day folder") == 1


def test_paths_are_told_without_steps_up(tmp_path: Path) -> None:
    site = Site(tmp_path / "one", ccds=1)
    site.acquire("BIAS01")
    (site.root / "results").mkdir()
    (tmp_path / "one" / "atdata").symlink_to(tmp_path / "one" / "data")
    day = tmp_path / "one" / "results" / ".." / "data" / DAY
    site.write_campaign(
        tests=[["BIAS01"]], resroot="../one/atdata/../results", datapath=str(day.parent)
    )
    site.run(log_folder=tmp_path)
    log = next(tmp_path.glob("*.log")).read_text()
    assert "/../" not in log
    assert f"datapath = ['{tmp_path}/one/data/{DAY}']" in " ".join(log.split())
    site.run(asked={"days": (day,)}, log_folder=tmp_path, tag="_again")
    assert "/../" not in next(tmp_path.glob("*_again.log")).read_text()


def test_a_log_on_a_full_disk_ends_and_the_analyses_go_on(tmp_path: Path) -> None:
    path = tmp_path / "full.log"
    path.symlink_to("/dev/full")
    told: list[str] = []
    log = RunLog(path, ManualClock(NOW_NS), complain=told.append)
    log.write("one")
    log.write("two")
    log.close()
    assert told == [f"the log {path} is not kept any more: No space left on device"]


def test_the_headline_of_a_sub_task_is_told_to_the_person_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.acquire("BIAS01")
    site.write_campaign(tests=[["BIAS01"]])

    def judge(work: Work) -> None:
        work.results.headline = "NO-GO: CCD1 E: the noise is 9 ADU"

    site.run(task=with_subtask("basic", judge))
    told = site.said.index("BIAS01: NO-GO: CCD1 E: the noise is 9 ADU")
    assert told < next(i for i, line in enumerate(site.said) if "exited" in line)
