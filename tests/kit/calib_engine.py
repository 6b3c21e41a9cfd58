# SPDX-License-Identifier: BSD-3-Clause
"""A campaign of a tiny detector, and analyses that are over at once, to prove the engine with.

Day folders are the simulator's, so names, logs and housekeeping are what ELVIS writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.calibration.catalogue import load_catalogue
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import Detector, load_detector
from nightjar.calibration.elvis import parse_stamp
from nightjar.calibration.script import Script
from nightjar.clock import ManualClock
from nightjar.config.load import StrictModel
from nightjard.calib.campaign import load_campaign
from nightjard.calib.engine.pipeline import Options, Pipeline
from nightjard.calib.engine.plan import Asked, plans_of, set_up
from nightjard.calib.frames import open_frame
from nightjard.calib.task import Subtask, Task
from nightjard.calib.work import Work
from nightjard.simulators.detector.campaign import Acquired, acquire_session

EQUIPMENT = {
    "operator": "unk", "sn_roe": "FM15", "sn_rpsu": "FM15", "sn_ccd1": "14888-88-81",
    "sn_ccd2": "14888-88-82", "sn_ccd3": "14888-88-83",
}  # fmt: skip
START_NS = parse_stamp("120319D100000T")
DAY = "12_Mar_19"
FIRST = 17210


# --- a tiny detector ---


def tiny_detector(folder: Path, ccds: int = 2) -> Path:
    """Write the description of a detector of 60 x 56 pixels; return its path."""
    body = load_detector("ccd273-8th").model_dump(mode="json")
    body |= {
        "name": "tiny", "ccds": ccds, "prescan": 6, "image_columns": 20, "overscan": 4,
        "image_rows": 24, "parallel_overscan": 4, "prescan_trim": [1, 1], "overscan_trim": [1, 1],
        "image_trim": [1, 1], "tile_px": 8,
    }  # fmt: skip
    path = folder / "tiny.json"
    path.write_text(json.dumps(body))
    return path


class TinyBench:
    """Frames of offset and noise, the same for an OBSID each time; its mean tells the OBSID."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    def expose(
        self, obsid: int, values: Mapping[str, Any], time_ns: int
    ) -> dict[int, np.ndarray[Any, Any]]:
        frames = {}
        for ccd in self.detector.ccd_numbers:
            random = np.random.default_rng([obsid, ccd])
            frame = random.normal(2000 + 10 * ccd, 1.2, self.detector.frame_shape)
            frames[ccd] = np.clip(np.rint(frame), 0, 65535).astype(np.uint16)
        return frames


# --- analyses ---


def measure(path: str, detector: str, **_more: Any) -> dict[str, Any]:
    """Return the mean of a frame: in a worker."""
    frame = open_frame(path, load_detector(detector))
    means = [float(frame.raw(quadrant).mean()) for quadrant in frame.detector.names]
    return {"path": path, "mean": sum(means) / len(means), "blake3": frame.blake3()}


def fail_at(path: str, detector: str, obsid: int, at: int) -> dict[str, Any]:
    """Fail with one frame: in a worker."""
    if obsid == at:
        raise ZeroDivisionError("what an analysis may do wrong")
    return measure(path, detector)


def hang_at(path: str, detector: str, obsid: int, at: int, sign: str) -> dict[str, Any]:
    """Say that it came to a frame and stay there for ever; the first that comes there."""
    if obsid == at:
        with contextlib.suppress(FileExistsError), open(sign, "x") as file:
            file.write(str(os.getpid()))
            file.flush()
            while True:
                time.sleep(1)
    return measure(path, detector)


def items_of(work: Work, **more: Any) -> list[dict[str, Any]]:
    """Return the arguments of :func:`measure` for all usable frames."""
    return [
        {"path": str(frame.path), "detector": work.detector_name, "obsid": frame.obsid, **more}
        for frame in work.dataset.frames if frame.is_usable
    ]  # fmt: skip


def check(work: Work) -> None:
    """Leave a table of means, a value, a compliance."""
    from astropy.table import Table

    if work.is_drill:
        work.results.note("drilled")
        return
    found = work.map(measure, items_of(work))
    means = [one["mean"] for one in found]
    work.results.table("means", Table({"mean": means}))
    work.results.value("mean", sum(means) / len(means), error=0.1, unit="ADU")
    work.results.compliance("mean", sum(means) / len(means), 0.0, 3000.0, flag="OFFSET_OOL")
    note(work, "check")


def basic(work: Work) -> None:
    """Use what check left; leave an intermediate file."""
    table = work.table("check", "means")
    (work.intermediate / "stamp.npy").write_bytes(b"made of it")
    work.results.value("count", len(table))
    work.results.value("factor", work.options.get("factor", 1))
    note(work, "basic")


def meta(work: Work) -> None:
    """Use what basic left."""
    (count,) = [one for one in work.earlier("basic")["values"] if one["name"] == "count"]
    work.results.value("total", count["value"])
    work.results.flag("RON_OOL", cause="the noise is too high", ccd=1)
    note(work, "meta")


def note(work: Work, name: str) -> None:
    """Count the calls where a test can read them, in any process."""
    counts = os.environ.get("CALIB_ENGINE_CALLS")
    if counts:
        with open(counts, "a") as file:
            file.write(f"{work.dataset.test} {name}\n")


class PlainOptions(StrictModel):
    """Options of the analysis."""

    factor: float = 1.0


WORKERS = (measure, fail_at, hang_at)
PLAIN = Task(
    "Plain", (
        Subtask("check", check, "Data validation"), Subtask("basic", basic, "Basic analysis"),
        Subtask("meta", meta, "Meta analysis"),
    ),
    workers=WORKERS, options=PlainOptions,
)  # fmt: skip


def with_subtask(name: str, function: Callable[[Work], None], **more: Any) -> Task:
    """Return the plain analysis with another function for a sub-task."""
    return dataclasses.replace(
        PLAIN,
        subtasks=tuple(
            dataclasses.replace(one, function=function, **more) if one.name == name else one
            for one in PLAIN.subtasks
        ),
    )


# --- campaigns ---


class Site:
    """A folder with data, a campaign file and results.

    Attributes
    ----------
    clock
        Moves by what is slept; `on_sleep` is called each time, after it has moved.
    said
        What the person saw.
    """

    def __init__(self, root: Path, *, ccds: int = 2, camptype: str = "Mini") -> None:
        self.root = root
        self.camptype = camptype
        root.mkdir(parents=True, exist_ok=True)
        self.detector_path = tiny_detector(root, ccds)
        self.detector = load_detector(self.detector_path)
        self.clock = SteppedClock()
        self.said: list[str] = []
        self.answers: list[bool] = []
        self.path = root / "campaign.json"
        self.results = root / "results"
        self.next_obsid, self.next_ns = FIRST, START_NS

    def scripts(self, *tests: str) -> list[Script]:
        """Return scripts of the catalogue."""
        catalogue = load_catalogue(self.camptype)
        profile = load_profile("B_NOSTROMO")
        return [
            catalogue.script(
                test, equipment=EQUIPMENT, profile=profile, detector=self.detector
            )
            for test in tests
        ]

    def acquire(
        self, *tests: str, faults: Sequence[str] = (), day: str = DAY, pause_s: float = 0.0,
        **more: Any,
    ) -> Acquired:
        """Acquire tests into a day folder, after those that were acquired before."""
        acquired = acquire_session(
            TinyBench(self.detector), self.scripts(*tests), self.root / "data" / day,
            start_obsid=self.next_obsid, start_time_ns=self.next_ns + round(pause_s * 1e9),
            faults=faults, hk_period_s=20.0, **more,
        )  # fmt: skip
        self.next_obsid, self.next_ns = acquired.next_obsid, acquired.end_ns
        return acquired

    def write_campaign(self, run: str = "D11", tests: Sequence[Any] = (), **changes: Any) -> Path:
        """Write the campaign file; `tests` is the schedule."""
        body: dict[str, Any] = {
            "BLOCKID": "NOSTROMO", "CHAMBER": "B_NOSTROMO", "detector": str(self.detector_path),
            "camptype": self.camptype, "dataroot": ".", "datapath": "data", "resroot": "results",
            "diffvalues": EQUIPMENT, "executor": {"workers": 1}, "doReport": False,
            "test_specifics": {run: {"datapath": [DAY], "schedule": list(tests)}},
        }  # fmt: skip
        self.path.write_text(json.dumps({**body, **changes}, indent=1))
        return self.path

    def pipeline(
        self, run: str = "D11", *, task: Task | Callable[[str], Task] = PLAIN,
        asked: Mapping[str, Any] | None = None, **options: Any,
    ) -> Pipeline:
        """Return a run of the pipeline."""
        campaign = load_campaign(self.path)
        setup = set_up(campaign)

        def load(handle: str) -> Task:
            return task if isinstance(task, Task) else task(handle)

        more = dict(asked or {})
        if options.get("is_check_only"):
            more["is_check_only"] = True
        plans = plans_of(setup, Asked(run, **more), load)
        options.setdefault("wait", campaign.file.wait)
        return Pipeline(
            setup, plans, Options(run=run, **options), clock=self.clock, say=self.said.append,
            stream=io.StringIO(), ask=self._ask, load=load,
        )  # fmt: skip

    def _ask(self, question: str, answer_s: float) -> bool:
        self.said.append(f"{question} {answer_s:.0f}")
        return self.answers.pop(0) if self.answers else False

    def run(self, run: str = "D11", **options: Any) -> dict[str, Any]:
        """Run the pipeline."""
        return self.pipeline(run, **options).run()

    def read(self, *parts: str) -> Any:
        """Return a JSON file of the results."""
        return json.loads(self.results.joinpath(*parts).read_text())

    def state(self, test: str, run: str = "D11") -> dict[str, Any]:
        """Return what was kept of a test."""
        found: dict[str, Any] = next(
            one for one in self.read(run, "state.json")["tests"] if one["test"] == test
        )
        return found


def processed(site: Site) -> list[str]:
    """Return the tests whose check was done, in order."""
    path = site.root / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[0] for line in lines if line.endswith(" check")]


class SteppedClock(ManualClock):
    """Moves by what is slept at once; then somebody else acts."""

    def __init__(self) -> None:
        super().__init__(START_NS)
        self.on_sleep: Callable[[], None] = lambda: None
        self.slept = 0

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        if self.slept > 2000:
            raise AssertionError("it waits for ever")
        self.advance(seconds)
        self.on_sleep()


class Source:
    """A session that was acquired elsewhere and comes file by file.

    Parameters
    ----------
    site
        Gets the files.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.folder = site.root / "data" / DAY
        self.folder.mkdir(parents=True, exist_ok=True)
        self.elsewhere = Site(site.root / "elsewhere")
        self.steps: list[Callable[[], None]] = []
        site.clock.on_sleep = self.step

    def step(self) -> None:
        """Do what comes next."""
        if self.steps:
            self.steps.pop(0)()

    def take(self, *tests: str, **more: Any) -> list[int]:
        """Acquire tests elsewhere; return their OBSIDs."""
        acquired = self.elsewhere.acquire(*tests, **more)
        return list(range(acquired.runs[0].first, acquired.next_obsid))

    def copy(self, *patterns: str) -> None:
        """Copy files."""
        for pattern in patterns:
            for path in sorted((self.elsewhere.root / "data" / DAY).glob(pattern)):
                target = self.folder / path.name
                if not target.exists() or target.stat().st_size != path.stat().st_size:
                    shutil.copy2(path, target)

    def log(self, obsids: list[int]) -> None:
        """Copy the log, its rows up to some OBSIDs only."""
        (path,) = (self.elsewhere.root / "data" / DAY).glob("EXP_LOG_*")
        head, *rows = path.read_text().splitlines(keepends=True)
        wanted = {str(obsid) for obsid in obsids}
        text = head + "".join(row for row in rows if row.split("\t")[0] in wanted)
        (self.folder / path.name).write_text(text)

    def give(self, obsids: list[int], *, but: str = "") -> None:
        """Copy log rows and files of OBSIDs, except files of a pattern."""
        for obsid in obsids:
            self.copy(f"EUC_{obsid}_*", f"HK_{obsid}_*")
        if but:
            for path in self.folder.glob(but):
                path.unlink()
        known = {int(path.name.split("_")[1]) for path in self.folder.glob("EUC_*")}
        self.log(sorted(known | set(obsids)))
