# SPDX-License-Identifier: BSD-3-Clause
"""Data that are not as they should be: analyses say what is wrong and do not fall over."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.calib_bench import flags_of, run, run_all, take, values_of
from kit.calibration import simulated_test
from nightjar.calibration.detector import load_detector
from nightjar.calibration.image_file import write_ccd_image
from nightjar.errors import Refused
from nightjard.calib.prepare import Recipe
from nightjard.calib.task import load_task
from nightjard.calib.tasks import locking
from nightjard.calib.tasks.brighter_fatter_covariances import measure_covariances
from nightjard.calib.work import Work
from nightjard.simulators.detector.truth import Truth

SMALL = load_detector("ccd273-8th")


def of_no_column(work: Work) -> Work:
    """The frames are there, but the log says nothing that the script knows."""
    frames = tuple(
        dataclasses.replace(one, column=None, commanded={}) for one in work.dataset.frames
    )
    return dataclasses.replace(work, dataset=dataclasses.replace(work.dataset, frames=frames))


@pytest.mark.parametrize(("test", "columns", "steps", "last"), [
    ("CHINJ01", [8], ("prep", "basic", "meta"), "meta"),
    ("CHINJ02", [2], ("prep", "basic", "meta"), "meta"),
    ("TP01", [0, 1], ("prep", "injection", "extract", "basic", "meta"), "basic"),
    ("TP02", [0, 1], ("prep", "injection", "extract", "basic", "meta"), "basic"),
    ("PERSIST01", [0], ("prep", "satur_masks", "basic", "meta"), "meta"),
    ("FLAT_STB", [0], ("prep", "indivflats", "masterflat", "prmask"), "prmask"),
])  # fmt: skip
def test_frames_of_no_column_are_told_by_every_step(
    tmp_path: Path, test: str, columns: list[int], steps: tuple[str, ...], last: str
) -> None:
    simulated = simulated_test(test, ccds=1, columns=columns, max_frames=1)
    found = run_all(of_no_column(simulated.work(tmp_path)), *steps)
    assert "BADDATAPROD" in flags_of(found[last])
    assert any("BADDATA" in flags_of(one) for one in found.values())


def test_stars_on_frames_of_no_column_are_not_looked_for(tmp_path: Path) -> None:
    simulated = simulated_test("FOCUS00_800", ccds=1, columns=[4])
    with pytest.raises(Refused, match="no frame of a column of the script"):
        run(of_no_column(simulated.work(tmp_path)), "lock", locking.lock)


@pytest.mark.parametrize("value", [0, 65535])
def test_stamps_without_a_pixel_that_counts_are_told(tmp_path: Path, value: int) -> None:
    def spoil(_obsid: int, _ccd: int, pixels: Any) -> None:
        pixels[...] = value

    truth = Truth.default(SMALL, effects="none")
    work = take(tmp_path, "PSF01_800", truth, frames={f"col00{i}": 1 for i in range(1, 6)},
                spoil=spoil)  # fmt: skip
    names = [one.name for one in load_task("PSF01").subtasks if one.name != "check"]
    found = run_all(work, *names)
    assert flags_of(found["lock"])["STARS_MISSING"]["severity"] == "error"
    for name in ("bayes", "meta", "xtalk_meta"):
        assert "BADDATAPROD" in flags_of(found[name])


def test_hot_columns_are_no_unevenness_of_the_injection(tmp_path: Path) -> None:
    def spoil(_obsid: int, _ccd: int, pixels: Any) -> None:
        SMALL.canonical(pixels, "F")[:, 100] = 65535
        SMALL.canonical(pixels, "F")[:, [101, 150]] = 60000

    few = {f"col{n:03d}": int(n == 1) for n in range(1, 27)}
    work = take(tmp_path, "CHINJ02", Truth.default(SMALL, seed=6), spoil=spoil, frames=few)
    found = run_all(work, "check")["check"]
    assert {"FLUENCEGRAD_OOL", "FLUENCE_OOL"}.isdisjoint(flags_of(found))
    level, std = (
        next(one["value"] for one in found["compliances"]
             if one["metric"] == metric and one["where"]["quadrant"] == "F")
        for metric in ("injection", "injection_std")
    )  # fmt: skip
    assert 0 < std < 0.1 * level


def test_a_half_without_an_unpumped_frame_is_told(tmp_path: Path) -> None:
    simulated = simulated_test("TP01", ccds=1, columns=[0, 1, 26])
    found = run_all(simulated.work(tmp_path), "prep", "injection", "extract")
    flag = flags_of(found["injection"])["BADDATA"]
    assert flag["cause"].startswith("CCD1 G, H: no frame is injected without being pumped")
    assert flag["severity"] == "warning"
    assert set(values_of(found["injection"], "injection_level")) == {(1, "E"), (1, "F")}
    assert not flags_of(found["extract"])


def test_a_pumped_frame_of_zeros_leaves_the_others_their_traps(tmp_path: Path) -> None:
    def spoil(obsid: int, _ccd: int, pixels: Any) -> None:
        if obsid == 17215:
            pixels[...] = 0

    taken = []
    for name, one in (("good", None), ("spoilt", spoil)):
        truth = Truth.default(SMALL, seed=6, effects={"crosstalk": False})
        work = take(tmp_path / name, "TP02", truth, spoil=one)
        run_all(work, "prep", "injection", "extract", "basic", "meta")
        taken.append(work.table("meta", "MERGEDCAT"))
    places = [
        {(str(row["quadrant"]), int(row["x"])) for row in table if row["is_good"]}
        for table in taken
    ]
    assert len(places[0]) > 20
    assert len(places[0] & places[1]) > 0.9 * len(places[0])
    assert all(np.isfinite(table["tau_us"]).all() for table in taken)


@pytest.mark.parametrize("lost", [17214, 17210])
def test_a_lost_frame_leaves_vertical_pumping_its_traps(tmp_path: Path, lost: int) -> None:
    def spoil(obsid: int, _ccd: int, pixels: Any) -> None:
        if obsid == lost:
            pixels[...] = 0
        SMALL.canonical(pixels, "G")[...] = 0

    places = []
    for name, one in (("good", None), ("spoilt", spoil)):
        truth = Truth.default(SMALL, seed=6, effects={"crosstalk": False})
        work = take(tmp_path / name, "TP01", truth, spoil=one)
        found = run_all(work, "prep", "injection", "extract", "meta", is_drawn=False)
        table = work.table("meta", "MERGEDCAT")
        places.append({
            (str(row["quadrant"]), int(row["x"]), int(row["y"])) for row in table
            if row["is_good"] and row["quadrant"] != "G"
        })  # fmt: skip
    assert len(places[0]) > 60
    assert len(places[0] & places[1]) > 0.9 * len(places[0])
    told = [one for one in found["extract"]["notes"] if "take no part" in one]
    assert len(told) == (2 if lost == 17214 else 0)  # the quadrants that were injected
    assert "CCD1 G: all its pumped" in flags_of(found["extract"])["BADDATA"]["cause"]
    levels = values_of(found["injection"], "injection_level")
    assert set(levels) == {(1, name) for name in ("EFH" if lost == 17214 else "H")}


@pytest.mark.parametrize("change", [0.0, 0.06])
def test_a_lamp_that_changes_within_a_pair_is_in_no_covariance(
    tmp_path: Path, change: float
) -> None:
    rng = np.random.default_rng(8)
    detector = SMALL
    # Wide stripes and pixels that respond differently: of both nothing is noise.
    response = 1.0 + rng.normal(0, 0.01, detector.quadrant_shape)
    response *= 1 + 0.01 * np.sin(np.arange(detector.quadrant_shape[1]) / 3.0)
    paths, level = [], 30000.0
    for number in range(2):
        light = level * (1 + change * (number - 0.5)) * response
        light[:, : detector.prescan] = light[:, -detector.overscan :] = 0.0
        light[detector.image_rows :] = 0.0
        pixels = {name: 2600 + rng.poisson(light * 3.5) / 3.5 + rng.normal(0, 1.2, light.shape)
                  for name in detector.names}  # fmt: skip
        frame = detector.assemble({name: np.rint(one).astype(np.uint16)
                                   for name, one in pixels.items()})  # fmt: skip
        paths.append(tmp_path / f"{number}.fits")
        write_ccd_image(paths[-1], frame, [], ccd=1, fsync=False)
    found = measure_covariances(str(paths[0]), str(paths[1]), detector.name,
                                Recipe(offset="median").as_json(), {}, 3, 4.5)  # fmt: skip
    variance = level / 3.5 + 1.2**2 + 1 / 12
    for one in found.values():
        values, errors = np.array(one["values"]), np.array(one["errors"])
        values[0, 0] -= variance * (1 + change**2 / 4)
        assert np.abs(values / errors).max() < 4
    apart = measure_covariances(str(paths[0]), str(paths[1]), detector.name,
                                Recipe(offset="median").as_json(), {}, 3, 4.5, 0.02)  # fmt: skip
    assert all(("values" in one) is (change == 0) for one in apart.values())
