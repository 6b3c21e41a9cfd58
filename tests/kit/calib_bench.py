# SPDX-License-Identifier: BSD-3-Clause
"""Tests of detectors taken with the simulated bench: frames on disk, a Work to analyse them with.

The catalogue says what the columns are, so that scripts and limits are the real ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.calibration.catalogue import load_catalogue
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.dayfolder import file_stem
from nightjar.calibration.detector import Detector, load_detector
from nightjar.calibration.elvis import load_elvis, log_values
from nightjar.calibration.image_file import image_cards, write_ccd_image
from nightjard.calib.dataset import CcdFrame, Dataset
from nightjard.calib.results import Results, read_subtask
from nightjard.calib.work import Inputs, Work
from nightjard.simulators.detector.bench import Bench
from nightjard.simulators.detector.truth import Truth

EQUIPMENT = {
    "operator": "unk", "sn_ccd1": "14888-88-81", "sn_ccd2": "14888-88-82",
    "sn_ccd3": "14888-88-83", "sn_roe": "FM15", "sn_rpsu": "FM15",
}  # fmt: skip
START_NS = 4_107_542_400_000_000_000  # 2100-02-28
FIRST_OBSID = 17210
Spoil = Callable[[int, int, np.ndarray[Any, Any]], None]


def take(
    folder: Path, test: str, truth: Truth, *, detector: str = "ccd273-8th",
    ccds: Sequence[int] = (1,), frames: Mapping[str, int] | None = None,
    spoil: Spoil | None = None, overrides: Mapping[str, Any] | None = None,
) -> Work:  # fmt: skip
    """Take a test of the catalogue; return the work of its first sub-task.

    Parameters
    ----------
    ccds
        That are taken.
    frames
        Column (``col001``) -> frames that are taken instead of the catalogue's number.
    spoil
        Called with OBSID, CCD and the frame, before it is written.
    """
    geometry = load_detector(detector)
    profile = load_profile("B_NOSTROMO")
    catalogue = load_catalogue()
    planned = catalogue.planned(
        test, equipment=EQUIPMENT, profile=profile, detector=geometry, overrides=overrides
    )
    columns = tuple(
        dataclasses.replace(one, frames=(frames or {}).get(one.name, one.frames))
        for one in planned.script.columns
    )
    script = dataclasses.replace(planned.script, columns=columns)
    bench = Bench(geometry, truth, profile)
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    taken: list[CcdFrame] = []
    version = load_elvis("7.5.X")
    for number in range(script.frames):
        index = script.column_of_frame(number)
        values = dict(columns[index].values)
        obsid, utc_ns = FIRST_OBSID + number, START_NS + number * 93_000_000_000
        logged = log_values(values, version)
        for ccd, pixels in bench.expose(obsid, values, utc_ns, ccds).items():
            if spoil is not None:
                spoil(obsid, ccd, pixels)
            stem = file_stem(obsid, utc_ns, ccd)
            path = raw / f"{stem}.fits"
            cards = image_cards(values, obsid=obsid, utc_ns=utc_ns, file_name=stem)
            write_ccd_image(path, pixels, cards, ccd=ccd, fsync=False)
            taken.append(CcdFrame(obsid, ccd, index, path, utc_ns, values, logged))
    dataset = Dataset(
        test, catalogue.handle_of(test), truth.block, geometry, detector, profile, script,
        tuple(taken), EQUIPMENT,
    )  # fmt: skip
    limits = {
        "columns": {
            name: {"limits": {m: limit and list(limit) for m, limit in one.limits.items()},
                   "is_exempt": one.is_exempt}
            for name, one in planned.expectations.items()
        }
    }  # fmt: skip
    inputs = Inputs(
        offsets={
            (ccd, quadrant): truth.electronics.offset_adu[f"{ccd}{quadrant}"]
            for ccd in ccds for quadrant in geometry.names
        },
        gains={
            (ccd, quadrant): truth.electronics.gain_e_adu[f"{ccd}{quadrant}"]
            for ccd in ccds for quadrant in geometry.names
        },
    )  # fmt: skip
    attempt = folder / "attempt"
    results = Results(attempt, test, "check")
    return Work(dataset, attempt, results, inputs, limits=limits)


class Undrawn(Results):
    """Results whose figures are made but not painted, which takes longer than all the rest."""

    def figure(self, name: str, figure: Any, *, caption: str = "") -> Path:
        figure.clear()
        return self.folder / "figs" / name


def run(
    work: Work, name: str, function: Callable[[Work], Any], *, is_drawn: bool = True
) -> dict[str, Any]:
    """Do a sub-task; return what it left on disk."""
    kind = Results if is_drawn else Undrawn
    work.results = kind(work.folder, work.dataset.test, name)
    function(work)
    work.results.close()
    found = read_subtask(work.folder, name)
    assert found is not None
    return found


def run_all(work: Work, *names: str, is_drawn: bool = True) -> dict[str, dict[str, Any]]:
    """Do sub-tasks of the test's analysis (all without names); return what each left.

    The figures of the common check are left out: its own test draws them.
    """
    from nightjard.calib.task import load_task

    task = load_task(work.dataset.handle)
    return {
        one.name: run(work, one.name, one.function, is_drawn=is_drawn and one.name != "check")
        for one in task.subtasks if not names or one.name in names
    }  # fmt: skip


def flags_of(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the flags of a sub-task by name."""
    return {flag["name"]: flag for flag in found["flags"]}


def values_of(found: Mapping[str, Any], name: str) -> dict[Any, tuple[float, float]]:
    """Return the values of a name with their errors: (ccd, quadrant) or CCD -> (value, error)."""
    result: dict[Any, tuple[float, float]] = {}
    for one in found["values"]:
        if one["name"] == name:
            where = one["where"]
            key = tuple(where[part] for part in ("ccd", "quadrant", "column") if part in where)
            result[key] = (one["value"], one["error"])
    return result


__all__ = ["Detector", "flags_of", "run", "run_all", "take", "values_of"]
