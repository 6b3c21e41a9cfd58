# SPDX-License-Identifier: BSD-3-Clause
"""A simulated block of detectors: tests acquired into a day folder, analysed as `calib run` does.

For the programs that compare what is found with what was put in, and that tell how long it takes.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.catalogue import PlannedTest, load_catalogue
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.dayfolder import day_folder_name
from nightjar.calibration.detector import Detector, load_detector
from nightjar.calibration.elvis import parse_stamp
from nightjar.clock import SystemClock
from nightjar.errors import NightjarError
from nightjard.calib.campaign import load_campaign
from nightjard.calib.engine.pipeline import Options, Pipeline
from nightjard.calib.engine.plan import Asked, TestPlan, plans_of, set_up
from nightjard.calib.simulating import EQUIPMENT, SCALES
from nightjard.simulators.detector.bench import Bench
from nightjard.simulators.detector.campaign import Acquired, acquire_session
from nightjard.simulators.detector.truth import Truth

BLOCK, CHAMBER, RUN = "NOSTROMO", "B_NOSTROMO", "D11"
START_NS = parse_stamp("120319D100000T")
Channel = tuple[int, str]


def silent(_text: str) -> None:
    """Say nothing."""


class Failed(NightjarError):
    """A test could not be analysed."""


@dataclass(frozen=True)
class Found:
    """What the analysis of a test left on disk.

    Attributes
    ----------
    folder
        Of the attempt.
    """

    folder: Path
    document: Mapping[str, Any]

    @property
    def flags(self) -> list[str]:
        """Names of the flags."""
        return list(self.document["flag_names"])

    def values(self, name: str, **where: Any) -> list[dict[str, Any]]:
        """Return the values of a name, of a place."""
        return [
            one for one in self.document["values"]
            if one["name"] == name and all(one["where"].get(k) == v for k, v in where.items())
        ]  # fmt: skip

    def value(self, name: str, **where: Any) -> tuple[float, float]:
        """Return a value and its error; the first of those that fit. NaN where it has none."""
        found = self.values(name, **where)
        if not found:
            raise Failed(f"{self.document['test']} has no value {name} of {where}")
        return _number(found[0]["value"]), _number(found[0]["error"])

    def by_channel(self, name: str, **where: Any) -> dict[Channel, tuple[float, float]]:
        """Return the values of a name, and errors, by CCD and quadrant."""
        return {
            (int(one["where"]["ccd"]), str(one["where"]["quadrant"])):
                (_number(one["value"]), _number(one["error"]))
            for one in self.values(name, **where) if "quadrant" in one["where"]
        }  # fmt: skip

    def table(self, name: str) -> Any:
        """Return a table."""
        from astropy.table import Table

        return Table.read(self._path(name, "tables"), format="ascii.ecsv")

    def image(self, name: str, plane: str) -> NDArray[Any]:
        """Return a plane of an image whose name begins so."""
        from astropy.io import fits

        return np.asarray(fits.getdata(self._path(name, "images"), plane))

    def path(self, name: str) -> Path:
        """Return the path of a product: table, image or document."""
        return self._path(name, "tables", "images", "documents")

    def _path(self, name: str, *kinds: str) -> Path:
        for kind in kinds:
            for one in self.document[kind]:
                if one["name"] == name or (kind == "images" and one["name"].startswith(name)):
                    return self.folder / str(one["path"])
        raise Failed(f"{self.document['test']} has no {name} among its {', '.join(kinds)}")


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


class AlikeCcds:
    """A bench whose CCDs all show what the first one shows: made in a fraction of the time.

    For programs that measure how long an analysis takes, which does not depend on it.
    """

    def __init__(self, bench: Bench, ccds: int) -> None:
        self.detector = bench.detector.model_copy(update={"ccds": ccds})
        self.truth = bench.truth
        self._bench = bench

    def expose(
        self, obsid: int, values: Mapping[str, Any], time_ns: int
    ) -> dict[int, NDArray[np.uint16]]:
        """Return the frames of all CCDs, see :meth:`Bench.expose`."""
        (frame,) = self._bench.expose(obsid, values, time_ns).values()
        return dict.fromkeys(self.detector.ccd_numbers, frame)

    @property
    def last(self) -> Any:
        """What the last exposure was made of."""
        return self._bench.last


@dataclass
class Block:
    """A block on the simulated bench, and the campaign that analyses its tests.

    Parameters
    ----------
    folder
        Of data and results; made.
    scale
        ``full`` or ``8th``.
    ccds
        How many it has; None: all of the description.
    effects, overrides
        Of the truth, see `Truth.default`.
    is_alike
        Whether all CCDs show the same, see :class:`AlikeCcds`.
    """

    folder: Path
    scale: str = "8th"
    ccds: int | None = None
    seed: int = 1
    effects: Mapping[str, bool] | str = "standard"
    overrides: Mapping[str, Any] | None = None
    workers: int = 1
    has_report: bool = False
    products: dict[str, Any] = field(default_factory=dict)
    start_obsid: int = 1000
    is_alike: bool = False

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        detector = load_detector(SCALES[self.scale])
        if self.ccds is not None:
            detector = detector.model_copy(update={"ccds": self.ccds})
        self.detector: Detector = detector
        (self.folder / "detector.json").write_text(detector.model_dump_json())
        self.profile = load_profile(CHAMBER)
        self.catalogue = load_catalogue("Full")
        made = detector.model_copy(update={"ccds": 1}) if self.is_alike else detector
        self.truth = Truth.default(made, BLOCK, self.seed, self.effects, self.overrides)
        bench = Bench(made, self.truth, self.profile)
        self.bench = AlikeCcds(bench, detector.ccds) if self.is_alike else bench
        self.planned: dict[str, PlannedTest] = {}
        self.obsids: dict[str, tuple[int, int]] = {}
        self._next = (self.start_obsid, START_NS)
        self._day = self.folder / "data" / day_folder_name(START_NS)
        self.exposures: dict[int, dict[str, Any]] = {}

    @property
    def channels(self) -> list[Channel]:
        """CCD and quadrant of all channels."""
        return [(ccd, q) for ccd in self.detector.ccd_numbers for q in self.detector.names]

    @property
    def day(self) -> Path:
        """The day folder."""
        return self._day

    def acquire(
        self, *tests: str, max_frames: int | None = None, columns: Sequence[int] | None = None,
        commands: Mapping[str, Any] | None = None, faults: Sequence[str] = (),
        on_exposure: Callable[[], None] | None = None,
    ) -> Acquired:
        """Acquire tests, at most so many frames of each column, only some columns."""
        planned = [
            _shortened(
                self.catalogue.planned(
                    test, equipment=EQUIPMENT, profile=self.profile, detector=self.detector,
                    overrides=commands,
                ),
                max_frames, columns,
            )
            for test in tests
        ]  # fmt: skip
        obsid, time_ns = self._next
        acquired = acquire_session(
            self.bench, [one.script for one in planned], self._day, start_obsid=obsid,
            start_time_ns=time_ns, faults=faults, seed=self.seed,
            truth_folder=self.folder / "truth",
            on_exposure=None if on_exposure is None else lambda *_: on_exposure(),
        )  # fmt: skip
        self._next = (acquired.next_obsid, acquired.end_ns + 60 * 10**9)
        for test, one in zip(tests, planned, strict=True):
            self.planned[test] = one
            self.obsids[test] = next(
                ((run.first, run.last) for run in reversed(acquired.runs)
                 if run.test == test and run.is_complete), (0, 0)
            )  # fmt: skip
        told = json.loads((self.folder / "truth" / f"{obsid}_session.json").read_bytes())
        self.exposures |= {one["obsid"]: one["truth"] for one in told["exposures"]}
        return acquired

    def frames_of(self, test: str) -> list[dict[str, Any]]:
        """Return what each exposure of a test was made of."""
        first, last = self.obsids[test]
        return [self.exposures[obsid] for obsid in range(first, last + 1)]

    def analyse(
        self, test: str, *, todo: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None, is_check_only: bool = False,
        is_failing_allowed: bool = False,
    ) -> Found:  # fmt: skip
        """Analyse a test; return what was found.

        Raises
        ------
        Failed
            A sub-task failed.
        """
        pipeline = self.pipeline([test], todo, options, is_check_only=is_check_only)
        result = pipeline.run()
        folder = (pipeline.folder / test / "current").resolve()
        if result["failed"] and not is_failing_allowed:
            raise Failed(f"{test}: {result['tests'][0]['reason']}")
        return Found(folder, json.loads((folder / "results.json").read_bytes()))

    def make_masks(self) -> Found:
        """Take and analyse COSMETICS00; its masks go into all that is analysed later."""
        self.acquire("COSMETICS00")
        found = self.analyse("COSMETICS00", todo=("masks", "meta"))
        self.products["Mask"] = {
            f"CCD{ccd}": str(found.path(f"EUC_MASK_{BLOCK}_CCD{ccd}"))
            for ccd in self.detector.ccd_numbers
        }
        return found

    def pipeline(
        self, tests: Sequence[str], todo: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None, *, is_check_only: bool = False, **more: Any,
    ) -> Pipeline:  # fmt: skip
        """Return a run of the pipeline, ready to go; `more` are attributes of its options."""
        campaign = load_campaign(self.write_campaign(tests, todo, options))
        setup = set_up(campaign)
        plans = [self._as_taken(plan) for plan in plans_of(setup, Asked(RUN, is_check_only))]
        chosen = Options(run=RUN, is_check_only=is_check_only, workers=self.workers, **more)
        return Pipeline(
            setup, plans, chosen, clock=SystemClock(), say=silent, stream=io.StringIO()
        )

    def write_campaign(
        self, tests: Sequence[str], todo: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Path:  # fmt: skip
        """Write the campaign file; return its path."""
        flags = None if todo is None else dict.fromkeys(todo, True)
        schedule = [
            [test, self.obsids.get(self._owner(test), [None, None]), flags, dict(options or {})]
            for test in tests
        ]
        value = {
            "resroot": "results", "BLOCKID": BLOCK, "CHAMBER": CHAMBER,
            "detector": "detector.json", "diffvalues": EQUIPMENT, "inCDPs": self.products,
            "cdppath": "calproducts", "doReport": self.has_report,
            "executor": {"workers": self.workers, "memory": 2_000_000_000},
            "test_specifics": {RUN: {"datapath": self._day.name, "schedule": schedule}},
        }  # fmt: skip
        path = self.folder / "campaign.json"
        path.write_text(json.dumps(value, indent=1))
        return path

    def _owner(self, test: str) -> str:
        return self.catalogue.surrogate_of(test) or test

    def _as_taken(self, plan: TestPlan) -> TestPlan:
        """Return a plan with the columns that were really taken."""
        taken = self.planned.get(self._owner(plan.test))
        if taken is None:
            return plan
        limits = {**plan.limits, "columns": _limits(taken)}
        return dataclasses.replace(plan, planned=taken, limits=limits)


def _shortened(
    planned: PlannedTest, max_frames: int | None, columns: Sequence[int] | None
) -> PlannedTest:
    """Return a test with fewer frames in each column, or fewer columns."""
    if max_frames is None and columns is None:
        return planned
    script = planned.script
    old = script.columns if columns is None else [script.columns[index] for index in columns]
    new = tuple(
        dataclasses.replace(
            column, name=f"col{number:03d}", frames=min(column.frames, max_frames or 10**6)
        )
        for number, column in enumerate(old, 1)
    )
    expected = {
        after.name: planned.expectations[before.name]
        for before, after in zip(old, new, strict=True)
        if before.name in planned.expectations
    }
    return PlannedTest(dataclasses.replace(script, columns=new), expected)


def _limits(planned: PlannedTest) -> dict[str, Any]:
    return {
        name: {
            "limits": {key: limit and list(limit) for key, limit in expected.limits.items()},
            "is_exempt": expected.is_exempt,
            "variables": {
                key: value for key, value in expected.variables.items()
                if isinstance(value, str | int | float)
            },
        }
        for name, expected in planned.expectations.items()
    }  # fmt: skip
