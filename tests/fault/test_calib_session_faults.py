# SPDX-License-Identifier: BSD-3-Clause
"""Sessions that do not go as planned, and files that say what does not exist."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.calib_day import RUN, campaign_file, look_at, pipeline_of
from kit.calib_engine import SteppedClock
from kit.calibration import EQUIPMENT, SimulatedSession, simulated_session
from nightjard.calib.command import main

SHORT: dict[str, Any] = {"ccds": 1, "max_frames": 3, "seed": 2}


def log_text(root: Path) -> str:
    """Return the log of the run, its lines joined."""
    return " ".join(" ".join(path.read_text() for path in root.glob("Calib_*.log")).split())


# --- one test, several logs or days ---


def test_two_logs_a_day_and_one_of_the_next(tmp_path: Path) -> None:
    """Two logs before midnight, one after it, all in one folder; OBSIDs that leave some out."""
    session = simulated_session(
        ["BIAS01"], faults=["two-logs:frame=2", "overnight:frame=3", "obsid-jump:frame=3"], **SHORT
    )
    assert len(session.day.logs) == 3
    assert {path.name[8:14] for path in session.day.logs} == {"120319", "130319"}
    seen = look_at(session, tmp_path, max_frames=3)
    assert seen.results()["flags"] == []
    assert seen.results()["obsids"] == [1000, 1007]


def test_a_session_over_midnight_in_two_folders(tmp_path: Path) -> None:
    """Frame by frame into two day folders: both together are the test, one alone is not."""
    session = split_at_midnight(simulated_session(["BIAS01"], faults=["overnight"], **SHORT),
                                tmp_path / "data")  # fmt: skip
    both = look_at(session, root_of(tmp_path, "both"), max_frames=3, is_ingested_only=True)
    assert both.results()["flags"] == []
    assert both.results()["obsids"] == [1000, 1002]
    alone = {"test_specifics": {RUN: {"datapath": [str(tmp_path / "data" / "12_Mar_19")],
                                      "schedule": [["BIAS01"]]}}}  # fmt: skip
    one = look_at(
        session, root_of(tmp_path, "one"), max_frames=3, campaign=alone, is_ingested_only=True
    )
    assert "ended too early: missing frames, 1 of 3" in one.cause("MISSDATA")


def root_of(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def split_at_midnight(session: SimulatedSession, root: Path) -> SimulatedSession:
    """Return the session with what was written after midnight in a folder of its own."""
    import dataclasses

    copy = session.copy(root)
    first = copy.folder
    second = first.with_name("13_Mar_19")
    second.mkdir()
    for path in list(first.iterdir()):
        if "130319D" in path.name or path.name.endswith("130319.txt"):
            shutil.move(path, second / path.name)
    return dataclasses.replace(copy, told={**copy.told, "folders": [first.name, second.name]})


# --- taken again ---


def test_a_test_that_was_aborted_and_taken_again(tmp_path: Path) -> None:
    session = simulated_session(["BIAS01"], faults=["aborted:frames=2"], **SHORT)
    seen = look_at(session, tmp_path, max_frames=3, is_ingested_only=True)
    assert seen.results()["obsids"] == [1002, 1004]
    assert seen.results()["flags"] == []
    assert "the latest complete run is OBSIDs 1002-1004, left out are OBSIDs 1000-1001" in (
        log_text(tmp_path)
    )


def test_waiting_for_one_that_is_taken_again(tmp_path: Path) -> None:
    """Files come as they were written; the three first exposures are not taken for the test."""
    session = simulated_session(
        ["BIAS01", "BIAS02"], faults=["aborted:frames=2", "late-files:frame=2"], **SHORT
    )
    source = session.copy(tmp_path / "elsewhere")
    come = Coming(source, session.copy(tmp_path / "data"))
    clock = SteppedClock()
    clock.on_sleep = come.step
    said: list[str] = []
    pipeline = pipeline_of(
        come.here, tmp_path, max_frames=3, is_check_only=True, is_wait=True, clock=clock, said=said
    )
    result = pipeline.run()
    assert [(one["test"], one["obsids"], one["flags"]) for one in result["tests"]] == [
        ("BIAS01", (1002, 1004), []), ("BIAS02", (1005, 1007), []),
    ]  # fmt: skip
    assert [line for line in said if line.startswith("Running")] == [
        "Running: BIAS01", "Running: BIAS02"
    ]  # fmt: skip
    log = log_text(tmp_path)
    assert log.index("OBSIDs range = [1002,1004]") < log.index("OBSIDs range = [1005,1007]")
    assert log.count("Pipeline sleeping for 120 seconds...") == clock.slept


class Coming:
    """A day folder that fills as time passes: an exposure a step, its log row first."""

    def __init__(self, source: SimulatedSession, here: SimulatedSession) -> None:
        self.here, self._source = here, source
        for path in list(here.folder.iterdir()):
            path.unlink()
        (self._log,) = source.day.logs
        self._head, *self._rows = self._log.read_text().splitlines(keepends=True)
        self._steps: list[Callable[[], None]] = []
        for number, row in enumerate(self._rows):
            obsid = row.split("\t")[0]
            self._steps += [
                lambda end=number + 1: self._show(end),  # type: ignore[misc]
                lambda obsid=obsid: self._give(obsid),  # type: ignore[misc]
            ]

    def _show(self, end: int) -> None:
        path = self.here.folder / self._log.name
        path.write_text(self._head + "".join(self._rows[:end]))

    def _give(self, obsid: str) -> None:
        for path in self._source.folder.glob(f"*_{obsid}_*"):
            shutil.copy2(path, self.here.folder / path.name)

    def step(self) -> None:
        """Do what comes next."""
        if self._steps:
            self._steps.pop(0)()


# --- files that say what does not exist ---


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([str(one) for one in arguments])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"test_specifics": {RUN: {"schedule": [["BIAS1"]]}}}, ["'BIAS1'", "BIAS01"]),
        ({"tasks2execute": {RUN: ["FOCUS0"]}}, ["FOCUS0", "did you mean", "FOCUS00"]),
        (
            {"test_specifics": {RUN: {"schedule": [["BIAS01", [1, 2], {"chek": True}]]}}},
            ["no sub-task 'chek'", "check"],
        ),
        ({"resrot": "results"}, ["resrot"]),
        ({"diffvalues": {"sn_ccd9": "x"}}, ["diffvalues.sn_ccd9"]),
        ({"perflimits": {"BIAS01": {"stdd": [0, 1]}}},
         ["perflimits.BIAS01.stdd", "did you mean std"]),
        ({"perflimits": {"BIAS01": {"std": "wide"}}},
         ["perflimits.BIAS01.std: must be [low, high]"]),
        ({"perflimits": {"BIAS01": {"std_pre": [2, 1]}}}, ["low end 2 is above the high end 1"]),
        ({"perflimits": {"BIAS01": {"columns": {"col1": {"std": [0, 1]}}}}}, ["columns.col1"]),
        ({"perflimits": {"BIAS91": {"std": [0, 1]}}}, ["perflimits", "BIAS91", "BIAS01"]),
        ({"CHAMBER": "C_NOSTROMO"}, ["C_NOSTROMO", "B_NOSTROMO"]),
        ({"waivers": [{"flag": "RON_OL", "reason": "x", "expires": "2030-01-01"}]},
         ["RON_OL", "RON_OOL"]),
        ({"elvis": "7.6.X"}, ["7.6.X", "7.5.X"]),
        ({"inCDPs": {"HK": {"CCD1_IG_T": [0.1, 1.0]}}},
         ["inCDPs.HK: 'CCD1_IG_T' is no commanded voltage", "CCD1_IG1_T"]),
        ({"inCDPs": {"HK": {"CCD1_TEMP_T": [0.1, 1.0]}}}, ["'CCD1_TEMP_T' is no commanded"]),
    ],
)  # fmt: skip
def test_a_campaign_file_that_is_wrong_is_refused_with_place_and_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], parts: list[str]
) -> None:
    session = simulated_session(["BIAS01"], **SHORT)
    path = campaign_file(session, tmp_path, **changes)
    code, error = call(capsys, "run", path, "-R", RUN, "-k", "-m", 1)
    assert code == 2, error
    assert str(path) in error or "CHAMBER" in changes or "elvis" in changes
    for part in parts:
        assert part in error
    assert not (tmp_path / "results").exists()


SCRIPTS = {
    "equipment": EQUIPMENT, "elvis": "7.5.X", "CHAMBER": "B_NOSTROMO", "camptype": "Full",
    "outpath": "Scripts", "toWrite": {"BIAS01": 1, "FOCUS00": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"toWrite": {"BIAS01": 1, "FOCUS0": 1}}, ["toWrite", "FOCUS0", "FOCUS00"]),
        ({"toWrite": {"BIAS01": "yes"}}, ["toWrite.BIAS01", "yes"]),
        ({"toWrit": {"BIAS01": 1}}, ["toWrit"]),
        ({"equipment": {**EQUIPMENT, "sn_ccd1": "14XXX-XX-XX"}}, ["sn_ccd1", "14XXX-XX-XX"]),
        ({"CHAMBER": "A_NOSTROMO"}, ["A_NOSTROMO", "B_NOSTROMO"]),
    ],
)
def test_inputs_of_scripts_that_are_wrong_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any], parts: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "inputs.json"
    path.write_text(json.dumps({**SCRIPTS, **changes}))
    code, error = call(capsys, "scripts", "-j", path, "--date", "01Apr19")
    assert code == 2, error
    for part in parts:
        assert part in error
    assert [one.name for one in tmp_path.iterdir()] == ["inputs.json"]


def test_sessions_of_scripts_that_are_missing_or_misspelt_build_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs, builder = tmp_path / "inputs.json", tmp_path / "builder.json"
    inputs.write_text(json.dumps(SCRIPTS))
    assert call(capsys, "scripts", "-j", inputs, "--date", "01Apr19")[0] == 0
    body = {"inpath": "Scripts", "outpath": "Sessions"}
    for sessions, parts in (
        ({"D00": ["FOCUS00_80"]}, ["D00", "FOCUS00_80", "did you mean FOCUS00_"]),
        ({"D00": ["BIAS02"]}, ["D00", "BIAS02"]),
    ):
        builder.write_text(json.dumps({**body, "sessions": sessions}))
        code, error = call(capsys, "sessions", "-j", builder)
        assert code == 2, (sessions, error)
        for part in parts:
            assert part in error
    builder.write_text(json.dumps({**body, "session": {"D00": ["BIAS01"]}}))
    code, error = call(capsys, "sessions", "-j", builder)
    assert code == 2
    assert "session" in error
    assert not (tmp_path / "Sessions").exists()
