# SPDX-License-Identifier: BSD-3-Clause
"""Validation of what surrounds the analyses: structure check, wait mode, clearing of space."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from calib_block import RUN, Block, Failed
from calib_compare import Judge

_ALONE = {"crosstalk": False}
_TEST, _OTHER = "FLATFLUX00_800", "FLATFLUX00_730"
_DEADLINE_S = 120.0


# --- structure ---


def structure(judge: Judge, folder: Path) -> None:
    """What was acquired beside the script: every fault is told with its key and its column."""
    judge.row = "structure check"
    for what, fault, words in (
        ("nothing wrong", "", ()),
        ("a file is missing", "missing-file:frame=3,ccd=2", ("CCD2",)),
        ("a frame is missing", "missing-frame:frame=4", ("frame",)),
        ("a serial is wrong", "wrong-serials:serial=FM99", ("sn_", "FM99")),
        ("1 % of exposure time", "exptime-error:percent=1.0,frame=2", ("exptime", "col002")),
        ("0.4 % of exposure time", "exptime-error:percent=0.4", ()),
    ):
        place = folder / what.replace(" ", "_").replace("%", "pc")
        block = Block(place, judge.scale, effects="plain")
        block.acquire(_TEST, faults=[fault] if fault else [])
        found = block.analyse(_TEST, todo=("check",), is_failing_allowed=True)
        causes = "; ".join(
            str(one["cause"]) for one in found.document["flags"]
            if one["name"] in ("MISSDATA", "BADDATA")
        )  # fmt: skip
        told = bool(causes) and all(word in causes for word in words)
        judge.fact(what, "told" if words else "accepted", "told" if told else
                   "accepted" if not causes else f"told otherwise: {causes}",
                   note=_short(causes) if words else "")  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= 70 else text[:67] + "..."


# --- wait mode ---


class Stage:
    """A day folder that fills as a copy from another host would fill it.

    Parameters
    ----------
    block
        What was acquired; its day folder is moved away, and comes back bit by bit.
    """

    def __init__(self, block: Block) -> None:
        self.day = block.day
        self.source = self.day.with_name("acquired")
        self.day.rename(self.source)
        self.day.mkdir()

    def bring(self, first: int, last: int, *, has_images: bool = True) -> None:
        """Bring log, housekeeping and images of exposures; the log up to the last of them."""
        for path in sorted(self.source.iterdir()):
            parts = path.name.split("_")
            if path.name.startswith("EXP_LOG"):
                self._log(path, last)
            elif parts[0] in ("EUC", "HK") and len(parts) > 2 and parts[1].isdigit():
                wanted = first <= int(parts[1]) <= last
                if wanted and (has_images or parts[0] == "HK"):
                    shutil.copy2(path, self.day / path.name)
            elif path.is_file():
                shutil.copy2(path, self.day / path.name)

    def _log(self, path: Path, last: int) -> None:
        head, *rows = path.read_text().splitlines(keepends=True)
        kept = [row for row in rows if int(row.split("\t", 1)[0]) <= last]
        (self.day / path.name).write_text("".join([head, *kept]))


def waiting(judge: Judge, folder: Path) -> None:
    """Delayed files, a test that is taken again, a run that is killed."""
    judge.row = "wait mode"
    block = Block(folder, judge.scale, ccds=1, effects=_ALONE)
    taken = block.acquire(_TEST, _OTHER, faults=[f"aborted:test={_TEST},frames=2"])
    wanted = {test: list(block.obsids[test]) for test in (_TEST, _OTHER)}
    aborted = next(run for run in taken.runs if not run.is_complete)
    stage = Stage(block)
    block.obsids.clear()  # the run is to find them
    campaign = block.write_campaign([_TEST, _OTHER])
    results = folder / "results" / RUN
    stage.bring(aborted.first, wanted[_TEST][1] - 1)
    stage.bring(wanted[_TEST][1], wanted[_TEST][1], has_images=False)
    program = _start(campaign)
    _until(results, program, _TEST, "log complete")
    judge.fact("the last image is not there", "waits", "waits")
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    stage.bring(wanted[_TEST][1], wanted[_TEST][1])
    program = _start(campaign)
    _until(results, program, _TEST, "processed")
    stage.bring(wanted[_OTHER][0], wanted[_OTHER][1])
    code = program.wait(timeout=_DEADLINE_S)
    tests = {one["test"]: one for one in _state(results)["tests"]}
    for test, obsids in wanted.items():
        judge.fact(f"{test}: OBSIDs", obsids, tests[test]["obsids"])
        attempts = len(list((results / test).glob("attempt-*")))
        judge.fact(f"{test}: times processed", 1, attempts)
    judge.fact("killed, started again: ends with", 0, code)
    marks = {test: (results / test / "results.json").stat().st_mtime_ns for test in wanted}
    code = _start(campaign).wait(timeout=_DEADLINE_S)
    same = all((results / t / "results.json").stat().st_mtime_ns == m for t, m in marks.items())
    judge.fact("once more: nothing is done again", (0, True), (code, same))


def _start(campaign: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "nightjard.calib", "run", str(campaign), "-R", RUN, "--wait",
         "--sleep", "0.3", "--give-up", str(_DEADLINE_S), "-m", "1", "--json"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=campaign.parent,
    )  # fmt: skip


def _state(results: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((results / "state.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {"tests": []}
    return found


def _until(results: Path, program: subprocess.Popen[bytes], test: str, stage: str) -> None:
    """Wait until a test has come to a stage."""
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        if program.poll() is not None:
            raise Failed(f"calib run --wait ended with {program.returncode}")
        stages = {one["test"]: one["stage"] for one in _state(results)["tests"]}
        if stages.get(test) == stage:
            return
        time.sleep(0.1)
    program.kill()
    raise Failed(f"{test} is {stages.get(test)}, not {stage}, after {_DEADLINE_S:.0f} s")


# --- clearing ---


def clearing(judge: Judge, folder: Path) -> None:
    """Only what is listed goes; links and what they point to stay."""
    judge.row = "clear space"
    block = Block(folder, judge.scale, ccds=1, effects=_ALONE)
    block.acquire("BIAS01", max_frames=3)
    block.analyse("BIAS01")
    attempt = (folder / "results" / RUN / "BIAS01" / "current").resolve()
    place = attempt / "intermediate"
    outside = folder / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    (place / "with a space.npy").write_bytes(b"x" * 1000)
    (place / "link").symlink_to(outside)
    decoys = [attempt / "my intermediate" / "a", attempt / "products" / "intermediate.txt"]
    for decoy in decoys:
        decoy.parent.mkdir(exist_ok=True)
        decoy.write_text("decoy")
    kept = [outside / "kept.txt", *decoys, attempt / "results.json", *_files(attempt / "products")]
    listed = [one for one in place.rglob("*") if one.is_file() and not one.is_symlink()]
    size = sum(one.stat().st_size for one in listed)
    first, second = _clear(folder / "results"), _clear(folder / "results")
    judge.fact("bytes listed", size, first["bytes"])
    judge.fact("bytes left", 0, sum(one.stat().st_size for one in _files(place)))
    judge.fact("files that stay", len(kept), sum(one.is_file() for one in kept))
    judge.fact("second run, bytes", 0, second["bytes"])


def _files(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if one.is_file()]


def _clear(results: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "nightjard.calib", "clear", "-p", str(results), "-k",
         "intermediate", "-y", "--json"],
        check=True, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found.get("result", found)
