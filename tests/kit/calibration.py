# SPDX-License-Identifier: BSD-3-Clause
"""Simulated tests of a detector, each made once for all tests and workers of a run.

``simulated_test("PTC01", ccds=1, max_frames=4)`` gives the day folder, the script and the truth.
Asked for again with the same arguments, in this process or another of the same run, it is the same
folder: never change what is in it; copy it first (:meth:`SimulatedSession.copy`).
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nightjar.calibration.catalogue import PlannedTest, load_catalogue
from nightjar.calibration.chamber import ChamberProfile, load_profile
from nightjar.calibration.dayfolder import Day, day_folder_name, list_days
from nightjar.calibration.detector import Detector, load_detector
from nightjar.calibration.elvis import parse_stamp
from nightjar.calibration.explog import LogRow, read_explogs
from nightjar.calibration.housekeeping import hk_statistics, read_hk
from nightjar.calibration.script import Script
from nightjar.files import write_durably
from nightjard.calib.dataset import Dataset
from nightjard.calib.engine.runs import exposures_of
from nightjard.calib.ingest import frames_of
from nightjard.calib.results import Results
from nightjard.calib.work import Work
from nightjard.simulators.detector.bench import Bench
from nightjard.simulators.detector.campaign import acquire_session
from nightjard.simulators.detector.truth import Truth

EQUIPMENT = {
    "operator": "unk", "sn_roe": "FM15", "sn_rpsu": "FM15", "sn_ccd1": "14888-88-81",
    "sn_ccd2": "14888-88-82", "sn_ccd3": "14888-88-83",
}  # fmt: skip
BLOCK, CHAMBER, ELVIS = "NOSTROMO", "B_NOSTROMO", "7.5.X"
START_NS = parse_stamp("120319D100000T")
_PREFIX = "nightjar-calib-"


@dataclass(frozen=True)
class SimulatedSession:
    """Tests that were acquired one after the other.

    Attributes
    ----------
    root
        Holds the day folders and ``truth``.
    scripts
        In order of acquisition.
    detector_name
        By which a worker loads the detector: a name or a path.
    told
        What the simulator wrote down: runs, faults, exposures with the truth of each.
    limits
        Test -> limits of the catalogue, as :class:`Work` has them.
    """

    root: Path
    scripts: tuple[Script, ...]
    detector: Detector
    detector_name: str
    profile: ChamberProfile
    told: Mapping[str, Any]
    limits: Mapping[str, Mapping[str, Any]]

    @property
    def folders(self) -> list[Path]:
        """Day folders: two where midnight split the session."""
        return [self.root / name for name in self.told["folders"]]

    @property
    def folder(self) -> Path:
        """The day folder."""
        return self.folders[0]

    @cached_property
    def truth(self) -> Truth:
        """All that was injected into the block."""
        return Truth.load(next((self.root / "truth").glob("*_bench.json")))

    @cached_property
    def day(self) -> Day:
        """The files."""
        return list_days(self.folders)

    @cached_property
    def rows(self) -> list[LogRow]:
        """The exposure log."""
        return read_explogs(self.day.logs, ELVIS)

    def script(self, test: str) -> Script:
        """Return the script of a test."""
        return next(script for script in self.scripts if script.test == test)

    def obsids(self, test: str) -> range:
        """Return the OBSIDs of the last complete run of a test."""
        run = next(
            run for run in reversed(self.told["runs"])
            if run["test"] == test and run["is_complete"]
        )  # fmt: skip
        return range(run["first"], run["last"] + 1)

    def frame_truths(self, test: str) -> dict[int, dict[str, Any]]:
        """Return what each exposure of a test was made of, by OBSID."""
        wanted = self.obsids(test)
        return {
            one["obsid"]: one["truth"] for one in self.told["exposures"] if one["obsid"] in wanted
        }

    def copy(self, root: Path) -> SimulatedSession:
        """Return the same session in a folder that may be changed (hard links: replace files)."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return dataclasses.replace(self, root=root)

    def dataset(self, test: str = "") -> Dataset:
        """Return the data of a test (default: the first), as the engine would ingest them."""
        script = self.script(test) if test else self.scripts[0]
        wanted = self.obsids(script.test)
        exposures = exposures_of([row for row in self.rows if row.obsid in wanted])
        hk_paths = {obsid: self.day.hk[obsid] for obsid in wanted if obsid in self.day.hk}
        return Dataset(
            test=script.test, handle=script.handle, block=BLOCK, detector=self.detector,
            detector_name=self.detector_name, profile=self.profile, script=script,
            frames=tuple(frames_of(exposures, script, self.day, self.detector)),
            serials=EQUIPMENT,
            hk={
                obsid: {
                    name: (stat.mean, stat.std, stat.min, stat.max)
                    for name, stat in hk_statistics(read_hk(path, ELVIS)).items()
                }
                for obsid, path in hk_paths.items()
            },
            hk_missing=tuple(obsid for obsid in wanted if obsid not in hk_paths),
            hk_paths=hk_paths,
        )  # fmt: skip

    def work(self, folder: Path, test: str = "", subtask: str = "basic", **more: Any) -> Work:
        """Return what a sub-task gets; `more` are further attributes of it."""
        dataset = self.dataset(test)
        more.setdefault("limits", self.limits[dataset.test])
        return Work(dataset, folder, Results(folder, dataset.test, subtask), **more)


@dataclass(frozen=True)
class SimulatedTest(SimulatedSession):
    """A session of one test: nothing needs its name."""

    @property
    def test(self) -> str:
        """Its specific name."""
        return self.scripts[0].test

    @property
    def only_script(self) -> Script:
        """Its script."""
        return self.scripts[0]

    @property
    def truths(self) -> list[dict[str, Any]]:
        """What each exposure was made of, in order."""
        return list(self.frame_truths(self.test).values())


def simulated_test(test: str, **options: Any) -> SimulatedTest:
    """Return a simulated test; options as :func:`simulated_session`."""
    session = simulated_session([test], **options)
    return SimulatedTest(**{f.name: getattr(session, f.name) for f in dataclasses.fields(session)})


def simulated_session(
    tests: Sequence[str],
    *,
    detector: str = "ccd273-8th",
    ccds: int | None = None,
    effects: Mapping[str, bool] | str = "standard",
    overrides: Mapping[str, Any] | None = None,
    commands: Mapping[str, Any] | None = None,
    max_frames: int | None = None,
    columns: Sequence[int] | None = None,
    faults: Sequence[str] = (),
    seed: int = 1,
    start_obsid: int = 1000,
    start_ns: int = START_NS,
    camptype: str = "Full",
    hk_period_s: float = 1.0,
) -> SimulatedSession:
    """Return tests that were acquired by a simulated bench, one after the other.

    Parameters
    ----------
    tests
        Specific names.
    detector, ccds
        Description, and how many of its CCDs there shall be: fewer are made faster.
    effects, overrides, seed
        Of the truth: see `Truth.default`. ``only=True`` among `effects` switches all others off.
    commands
        Keys of the script that all columns have, whatever the catalogue says.
    max_frames
        At most so many frames of each column.
    columns
        Indices of the columns that are acquired; default all.
    faults
        See ``nightjard.simulators.detector.faults``.
    """
    options = dict(sorted(locals().items()))
    key = hashlib.blake2b(
        json.dumps(options, sort_keys=True, default=dict).encode(), digest_size=10
    ).hexdigest()
    description = load_detector(detector)
    if ccds is not None:
        description = description.model_copy(update={"ccds": ccds})
    profile = load_profile(CHAMBER)
    catalogue = load_catalogue(camptype)
    planned = [
        shortened(
            catalogue.planned(
                test, equipment=EQUIPMENT, profile=profile, detector=description, elvis=ELVIS,
                overrides=commands,
            ),
            max_frames, columns,
        )
        for test in tests
    ]  # fmt: skip
    scripts = tuple(one.script for one in planned)
    root = _cache() / f"{tests[0]}-{key}"
    with _locked(root):
        if not (root / "done").exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
            write_durably(root / "detector.json", description.model_dump_json().encode())
            bench = Bench(
                description, Truth.default(description, BLOCK, seed, effects, overrides), profile
            )
            acquire_session(
                bench, scripts, root / day_folder_name(start_ns), start_obsid=start_obsid,
                start_time_ns=start_ns, faults=faults, seed=seed, hk_period_s=hk_period_s,
                truth_folder=root / "truth",
            )  # fmt: skip
            (root / "done").touch()
    told = json.loads((root / "truth" / f"{start_obsid}_session.json").read_bytes())
    name = detector if ccds is None else str(root / "detector.json")
    limits = {one.script.test: _limits(one) for one in planned}
    return SimulatedSession(root, scripts, description, name, profile, told, limits)


def shortened(
    planned: PlannedTest, max_frames: int | None = None, columns: Sequence[int] | None = None
) -> PlannedTest:
    """Return a test with fewer frames in each column, or fewer columns."""
    script = planned.script
    old = script.columns if columns is None else [script.columns[index] for index in columns]
    new = tuple(
        dataclasses.replace(
            column, name=f"col{number:03d}", frames=min(column.frames, max_frames or 10**6)
        )
        for number, column in enumerate(old, 1)
    )
    return PlannedTest(
        dataclasses.replace(script, columns=new),
        {
            after.name: planned.expectations[before.name]
            for before, after in zip(old, new, strict=True)
            if before.name in planned.expectations
        },
    )


def _limits(planned: PlannedTest) -> dict[str, Any]:
    return {
        "columns": {
            name: {
                "limits": {
                    key: limit and list(limit) for key, limit in expected.limits.items()
                },
                "is_exempt": expected.is_exempt,
                "variables": {
                    key: value
                    for key, value in expected.variables.items()
                    if isinstance(value, str | int | float)
                },
            }
            for name, expected in planned.expectations.items()
        }
    }


# --- the folder of a run of tests ---


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path.with_name(path.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_HELD: list[Any] = []


def _cache() -> Path:
    """Return the folder of this run of tests; workers of pytest-xdist have one parent, thus one."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    parent = Path(tempfile.gettempdir())
    root = parent / f"{_PREFIX}{os.getppid() if is_worker else os.getpid()}"
    if not _HELD:
        for old in parent.glob(f"{_PREFIX}*"):
            owner = old.name.removeprefix(_PREFIX)
            if owner.isdigit() and not Path("/proc", owner).exists():
                shutil.rmtree(old, ignore_errors=True)
        root.mkdir(exist_ok=True)
        users = open(root / "users", "w")  # held until the process ends
        fcntl.flock(users, fcntl.LOCK_SH)
        _HELD.append(users)
        atexit.register(_leave, root)
    return root


def _leave(root: Path) -> None:
    """Remove the folder, if this process is the last one that uses it."""
    users = _HELD.pop()
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        shutil.rmtree(root, ignore_errors=True)
    users.close()
