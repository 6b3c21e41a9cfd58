# SPDX-License-Identifier: BSD-3-Clause
"""The practical case of the campaign's manual, by the commands that a data analyst types.

A work tree, scripts, sessions; session D00 followed while another process acquires it; masks from
COSMETICS00; session D11 afterwards, by its OBSIDs; reports; clearing up. Data are simulated, of a
detector of an eighth of the size.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kit.depth import soaked
from nightjar.calibration.detector import load_detector

TESTS = ("BIAS01", "BIAS02", "CHINJ01", "CHINJ02", "TP01", "FOCUS00")
FOCUS = "FOCUS00_800"
#: Test, columns, minutes, frames of a column: as the manual has them.
INVENTORY = (
    ("BIAS01", 1, "15.58", 10), ("BIAS02", 1, "15.58", 10), ("CHINJ01", 36, "58.58", 1),
    ("CHINJ02", 26, "42.31", 1), ("TP01", 50, "120.31", 1), ("FOCUS00_590", 9, "15.11", 1),
    ("FOCUS00_730", 9, "14.25", 1), ("FOCUS00_800", 9, "14.22", 1), ("FOCUS00_880", 9, "14.39", 1),
)  # fmt: skip


@dataclass(frozen=True)
class Extent:
    """How much of the practical case is done.

    Attributes
    ----------
    d11
        Tests of session D11: name, first and last OBSID, sub-tasks (None for all).
    """

    ccds: int
    d11: tuple[tuple[str, int, int, tuple[str, ...] | None], ...]
    speed: float
    workers: int
    timeout_s: float = 120.0
    serials: tuple[str, ...] = ("14888-88-81", "14888-88-82", "14888-88-83")


SHORT = Extent(1, (("BIAS02", 17273, 17282, ("check", "prep")),), 60.0, 1)
WHOLE = Extent(
    3,
    (
        ("BIAS02", 17273, 17282, None), ("BIAS01", 17283, 17292, None),
        ("CHINJ01", 17293, 17328, None), ("CHINJ02", 17329, 17354, None),
        ("TP01", 17355, 17404, ("check",)),
    ),
    20.0, 2, 600.0,
)  # fmt: skip


class Desk:
    """The folder in which somebody works, and what is typed there."""

    def __init__(self, root: Path, extent: Extent) -> None:
        self.root, self.extent = root, extent
        self.block = root / "NOSTROMO"
        self.scripts, self.analysis = self.block / "SCRIPTS", self.block / "ANALYSIS"
        self.data = self.block / "atCALDATA" / "data"
        self.results = self.analysis / "results_atCALDATA"
        self.where = root

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start ``calib``."""
        return subprocess.Popen(
            [sys.executable, "-m", "nightjard.calib", *map(str, arguments)], cwd=self.where,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def calib(self, *arguments: object, typed: str = "", code: int = 0) -> str:
        """Run ``calib`` to its end; return what it prints."""
        process = self.start(*arguments)
        try:
            out, error = process.communicate(typed, timeout=self.extent.timeout_s)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert process.returncode == code, (arguments, out, error)
        assert "Traceback" not in error
        return out

    def log(self, tag: str) -> str:
        """Return the newest log with a tag, its line breaks taken out."""
        paths = sorted(self.analysis.glob(f"Calib_FM*{tag}.log"))
        return " ".join(paths[-1].read_text().split()) if paths else ""

    def read(self, *parts: str) -> Any:
        """Return a JSON file of the results."""
        return json.loads(self.results.joinpath(*parts).read_text())


def edit(path: Path, changes: Mapping[str, Any]) -> None:
    """Change keys of a JSON file, as with an editor."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=1))


def until(condition: Callable[[], object], timeout_s: float, process: Any) -> None:
    """Poll until something is so."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("extent", [pytest.param(SHORT, id="short"), soaked(WHOLE, name="whole")])
def test_the_practical_case(tmp_path: Path, extent: Extent) -> None:
    desk = Desk(tmp_path, extent)
    make_the_tree(desk)
    write_scripts(desk)
    build_sessions(desk)
    follow_d00(desk)
    promote_masks(desk)
    analyse_d11(desk)
    nothing_new(desk)
    clear_up(desk)


def make_the_tree(desk: Desk) -> None:
    """ENVIRONMENT SETUP."""
    serials = [part for serial in desk.extent.serials for part in ("--ccd", serial)]
    desk.calib("init", "NOSTROMO", "--date", "2019-04-29", "--roe", "FM15", "--rpsu", "FM15",
               *serials)  # fmt: skip
    assert sorted(path.name for path in desk.block.iterdir()) == [
        "ANALYSIS", "CALDATA", "SCRIPTS", "atCALDATA",
    ]  # fmt: skip
    assert sorted(path.name for path in desk.scripts.iterdir()) == [
        "scripts_inputs_NOSTROMO_APR19_W18.json", "sessions_builder_NOSTROMO_APR19_W18.json",
    ]  # fmt: skip
    assert str((desk.analysis / "results_atCALDATA").readlink()) == "../atCALDATA/results"


def write_scripts(desk: Desk) -> None:
    """Write acquisition scripts: those of the manual, then those of a small detector."""
    desk.where = desk.scripts
    inputs = desk.scripts / "scripts_inputs_NOSTROMO_APR19_W18.json"
    edit(inputs, {"toWrite": dict.fromkeys(TESTS, 1)})
    out = desk.calib("scripts", "-j", inputs.name, "--date", "01Apr19").splitlines()
    assert out[:2] == ["WRITING SCRIPTS...", "BIAS01..."]
    made = desk.scripts / "Scripts_NOSTROMO_APR19_W18"
    names = sorted(path.name for path in made.iterdir() if not path.name.endswith(".sha256"))
    assert names == [
        "CHECK_SUMS_01Apr19.txt", "TESTS_INVENTORY_01Apr19.txt", "TESTS_SCHEDULER_01Apr19.xlsx",
        *(f"vis_CalCamp_{test}_01Apr19_v7.5.X.xlsx" for test in (
            "BIAS01", "BIAS02", "CHINJ01", "CHINJ02", "FOCUS00_590", "FOCUS00_730", "FOCUS00_800",
            "FOCUS00_880", "TP01",
        )),
    ]  # fmt: skip
    lines = (made / "TESTS_INVENTORY_01Apr19.txt").read_text().splitlines()
    assert lines[0] == "Scripts written on 01Apr19 00:00:00"
    assert lines[1] == "checksumf: CHECK_SUMS_01Apr19.txt"
    assert lines[2].startswith("vison version: nightjar ")
    assert lines[4:13] == [
        f"{test}: {columns} [{minutes} min] cols: {[frames] * columns}"
        for test, columns, minutes, frames in INVENTORY
    ]
    assert lines[13:] == ["", " 168 Frames Total", "", " 310.33 Minutes Total"]
    body = load_detector("ccd273-8th").model_dump(mode="json") | {"ccds": desk.extent.ccds}
    (desk.root / "small.json").write_text(json.dumps(body))
    edit(inputs, {"detector": str(desk.root / "small.json"), "outpath": "Small",
                  "toWrite": dict.fromkeys([*TESTS, "COSMETICS00"], 1),
                  "equipment": serials_of(desk, inputs, "equipment")})  # fmt: skip
    desk.calib("scripts", "-j", inputs.name, "--date", "01Apr19")


def serials_of(desk: Desk, path: Path, key: str) -> dict[str, str]:
    """Return the hardware of a file without the CCDs that the small detector does not have."""
    found = json.loads(path.read_text())[key]
    return {
        name: value for name, value in found.items()
        if not name.startswith("sn_ccd") or int(name[-1]) <= desk.extent.ccds
    }  # fmt: skip


def build_sessions(desk: Desk) -> None:
    """Create the sequences, of the manual's scripts and of the small ones."""
    builder = desk.scripts / "sessions_builder_NOSTROMO_APR19_W18.json"
    all_d11 = ["BIAS01", "BIAS02", "CHINJ01", "CHINJ02", "TP01"]
    edit(builder, {"sessions": {"D11": all_d11, "D00": [FOCUS]}})
    out = desk.calib("sessions", "-j", builder.name).splitlines()
    assert out == [
        "session: D11", *(f"vis_CalCamp_{test}_01Apr19_v7.5.X.xlsx" for test in all_d11),
        "session: D00", f"vis_CalCamp_{FOCUS}_01Apr19_v7.5.X.xlsx",
    ]  # fmt: skip
    built = desk.scripts / "SEQUENCES_NOSTROMO_APR19_W18"
    assert (built / "D00" / "TEST_SEQUENCE_D00.txt").read_text().split() == [
        f"vis_CalCamp_{FOCUS}_01Apr19_v7.5.X.xlsx"
    ]
    edit(builder, {"inpath": "Small", "outpath": "SMALL_SEQUENCES", "sessions": {
        "D00": [FOCUS], "D10": ["COSMETICS00"], "D11": [test for test, *_ in desk.extent.d11],
    }})  # fmt: skip
    desk.calib("sessions", "-j", builder.name)
    campaign = desk.analysis / "campaign_NOSTROMO_APR19.json"
    masks = json.loads(campaign.read_text())["inCDPs"]["Mask"]
    edit(campaign, {
        "inCDPs": {"Mask": {key: masks[key] for key in sorted(masks)[: desk.extent.ccds]}},
        "detector": str(desk.root / "small.json"),
        "diffvalues": serials_of(desk, campaign, "diffvalues"),
        "tasks2execute": {"D00": ["FOCUS00"], "D10": ["COSMETICS00"],
                          "D11": [test for test, *_ in desk.extent.d11]},
        "test_specifics": {
            "D10": {"datapath": "11_Mar_19", "schedule": [["COSMETICS00"]]},
            "D11": {"datapath": "13_Mar_19", "schedule": [
                [test, [first, last], todo and dict.fromkeys(todo, True)]
                for test, first, last, todo in desk.extent.d11
            ]},
        },
    })  # fmt: skip


def simulated(session: str, day: str, obsid: int, *more: object) -> list[object]:
    """Return the arguments that have a session acquired."""
    return ["simulate", "-s", f"../SCRIPTS/SMALL_SEQUENCES/{session}", "-o", "../atCALDATA/data",
            "--detector", "../../small.json", "--date", f"2019-03-{day}T09:00:00",
            "--start-obsid", obsid, *more]  # fmt: skip


def follow_d00(desk: Desk) -> None:
    """Session D00: the pipeline waits, the acquisition goes on beside it, then Ctrl-C."""
    desk.where = desk.analysis
    campaign = "campaign_NOSTROMO_APR19.json"
    waiting = desk.start(
        "run", "-y", campaign, "-R", "D00", "-d", "../atCALDATA/data/12_Mar_19/", "-v", "7.5.X",
        "-W", "-l", "-m", desk.extent.workers, "-t", "_D00", "--sleep", 0.5,
    )  # fmt: skip
    try:
        until(lambda: "sleeping" in desk.log("_D00"), 60, waiting)
        assert "Awaited: FOCUS00_590 (9 frames)" in desk.log("_D00")
        acquiring = desk.start(*simulated("D00", "12", 17210, "--speed", desk.extent.speed))
        try:
            until(lambda: "acquiring" in str(desk.read("D00", "state.json")), 60, waiting)
            until(lambda: "[17210,17218]" in desk.log("_D00"), desk.extent.timeout_s, waiting)
        finally:
            out, error = acquiring.communicate(timeout=60)
        assert acquiring.returncode == 0, error
        assert f"{FOCUS}      OBSID 17210 to 17218" in out
        until(lambda: "sleeping" in desk.log("_D00").rpartition("[17210,17218]")[2], 60, waiting)
        waiting.send_signal(signal.SIGINT)
        out, error = waiting.communicate(timeout=30)
    finally:
        if waiting.poll() is None:
            waiting.kill()
            waiting.wait()
    assert waiting.returncode == 130
    assert "Traceback" not in error
    assert f"Task {FOCUS} exited with Errors: False" in out.splitlines()
    judge_the_log(desk)
    judge_the_focus(desk)


def judge_the_log(desk: Desk) -> None:
    """The log is the one that analysts know."""
    path = next(desk.analysis.glob("Calib_FM*_D00.log"))
    assert re.fullmatch(r"Calib_FM\d{8}_\d{6}_D00\.log", path.name)
    text = path.read_text()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - INFO - "
    assert re.match(stamp + r"_\nStarting FM Calib\. Pipeline\nPipeline ID: FM\d{8}_\d{6}_D00\n"
                    r"BLOCK ID: NOSTROMO\nChamber: B_NOSTROMO\n", text)  # fmt: skip
    assert re.search(stamp + rf"  Running Task: {FOCUS}\n", text)
    assert re.search(stamp + r"Pipeline sleeping for \d+ seconds\.\.\.\n", text)
    assert re.search(stamp + rf"\d+\.\d minutes in running Task: {FOCUS}\n", text)
    assert f"Task {FOCUS} exited with Errors: False" in text
    assert "terminated by user" in text
    block = re.compile(
        r"_\n_\n_\n_\n#{70}\nPipeline ID: FM\d{8}_\d{6}_D00\nBLOCK ID: NOSTROMO\n"
        r"Chamber: B_NOSTROMO\nnightjar version: \S+\n"
        r"Tasks: \['FOCUS00_590', 'FOCUS00_730', 'FOCUS00_800', 'FOCUS00_880'\]\n_\n"
        rf"{FOCUS}\nExecuted in \d+\.\d minutes\nOBSIDs range = \[17210,17218\]\n"
        r"Raised Flags = \[[^]]*\]\n_\n_\n_\n_\n#{70}\n"
    )
    assert block.search(text), text[-1500:]
    assert text.rstrip().endswith("#" * 70)


def judge_the_focus(desk: Desk) -> None:
    """The results lie where they should, and the best focus is that of the truth."""
    folder = desk.results / "D00" / FOCUS
    assert {path.name for path in folder.iterdir()} >= {
        "figs", "products", "results.json", "flags.json", "current", "attempt-01",
        f"{FOCUS}_report.pdf", f"{FOCUS}_report.html",
    }  # fmt: skip
    found = desk.read("D00", FOCUS, "results.json")
    assert found["obsids"] == [17210, 17218]
    truth = json.loads((desk.data / "12_Mar_19_truth" / "17210_bench.json").read_text())["stars"]
    values = {one["name"]: one for one in found["values"] if "ccd" not in one["where"]}
    assert values["best_focus"]["value"] == pytest.approx(truth["focus_mm"], abs=0.015)
    assert values["best_focus"]["error"] < 0.01
    assert values["best_fwhm"]["value"] == pytest.approx(truth["fwhm0_px"], abs=0.1)
    states = {one["test"]: one["stage"] for one in desk.read("D00", "state.json")["tests"]}
    assert states.pop(FOCUS) == "processed"
    assert set(states.values()) == {"expected"}


def promote_masks(desk: Desk) -> None:
    """Masks of COSMETICS00 become products that later tests read."""
    desk.calib(*simulated("D10", "11", 17000))
    desk.calib("run", "campaign_NOSTROMO_APR19.json", "-R", "D10", "-m", desk.extent.workers)
    out = desk.calib("masks", "promote", "results_atCALDATA/D10/COSMETICS00", "calproducts")
    serials = enumerate(desk.extent.serials[: desk.extent.ccds], start=1)
    names = [f"EUC_MASK_NOSTROMO_CCD{ccd}_SN_{serial}.fits" for ccd, serial in serials]
    assert [line.split(":")[0] for line in out.splitlines()] == [
        f"calproducts/masks/{name}" for name in names
    ]
    masks = (desk.analysis / "calproducts" / "masks").glob("*.fits")
    assert {path.name for path in masks} == set(names)


def analyse_d11(desk: Desk) -> None:
    """Session D11: acquired before, found by its OBSIDs, prepared with the masks."""
    desk.calib(*simulated("D11", "13", 17273))
    desk.calib("run", "-y", "campaign_NOSTROMO_APR19.json", "-R", "D11", "-l", "-m",
               desk.extent.workers, "-t", "_D11")  # fmt: skip
    log = desk.log("_D11")
    for test, first, last, todo in desk.extent.d11:
        assert f"OBSIDs range = [{first},{last}]" in log
        found = desk.read("D11", test, "results.json")
        assert found["obsids"] == [first, last]
        steps = {one["name"]: one["status"] for one in found["steps"]}
        wanted = set(todo) if todo else set(steps)
        assert {name for name, status in steps.items() if status == "done"} == wanted | {"init"}
        inputs = found["provenance"]["inputs"]
        assert {key for key in inputs if key.startswith("Mask.")} == {
            f"Mask.CCD{ccd + 1}" for ccd in range(desk.extent.ccds)
        }
        assert not {"MISSDATA", "BADDATA", "SUBTASKCRASH"} & set(found["flag_names"])
    tests = ("COSMETICS00", FOCUS, *(test for test, *_ in desk.extent.d11))
    assert sorted(path.name for path in desk.results.glob("*/*/*_report.pdf")) == sorted(
        f"{test}_report.pdf" for test in tests
    )
    told = desk.calib("status", "campaign_NOSTROMO_APR19.json", "-R", "D11")
    for test, first, last, _ in desk.extent.d11:
        row = next(line for line in told.splitlines() if f" {test} " in line)
        assert " processed " in row
        assert f"{first}-{last}" in row


def nothing_new(desk: Desk) -> None:
    """Run again, nothing is done again; reports written again are the same."""
    folder = desk.results / "D11"
    before = contents(folder)
    started = time.monotonic()
    desk.calib("run", "campaign_NOSTROMO_APR19.json", "-R", "D11", "-l", "-t", "_again")
    spent_s = time.monotonic() - started
    log = desk.log("_again")
    assert "Executing" not in log
    assert log.count("was done before with the same input") >= len(desk.extent.d11)
    assert {path.name for path in folder.glob("*/attempt-*")} == {"attempt-01"}
    assert spent_s < desk.extent.timeout_s / 3
    after = contents(folder)
    assert {name for name in before if after[name] != before[name]} <= {
        "state.json", "summary.json", "index.html", "D11_summary.pdf",
        *(f"{test}/attempt-01/{name}" for test, *_ in desk.extent.d11
          for name in ("attempt.json", "results.json")),
    }  # fmt: skip
    out = desk.calib("report", "results_atCALDATA/D11")
    assert out.count("_report.pdf") == out.count("_report.html") == len(desk.extent.d11)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder; links and locks, which hold a process number, left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.suffix != ".lock"
    }  # fmt: skip


def clear_up(desk: Desk) -> None:
    """Intermediate files go after two questions; results stay; a second time there is nothing."""
    kept = {
        name: data for name, data in contents(desk.results.resolve()).items()
        if "/intermediate/" not in name
    }  # fmt: skip
    refused = desk.calib("clear", "-p", "results_atCALDATA/", "-k", "intermediate", typed="n\n",
                         code=3)  # fmt: skip
    assert "TOTAL" not in refused
    out = desk.calib("clear", "-p", "results_atCALDATA/", "-k", "intermediate", typed="y\ny\n")
    assert "results_atCALDATA/D10/COSMETICS00/attempt-01/intermediate" in out
    assert "TOTAL: 0 files" not in out
    assert out.rstrip().endswith("cleared")
    assert contents(desk.results.resolve()) == kept
    out = desk.calib("clear", "-p", "results_atCALDATA/", "-k", "intermediate", typed="y\n")
    assert "TOTAL: 0 files" in out
    assert contents(desk.results.resolve()) == kept
