# SPDX-License-Identifier: BSD-3-Clause
"""Frames made ready: offsets to a hundredth of an ADU, products of the right orientation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.calib_bench import run, take, values_of
from nightjar.calibration.detector import load_detector
from nightjar.errors import StorageError
from nightjard.calib.frames import Frame, open_frame
from nightjard.calib.prepare import (
    Recipe,
    clipped_mean,
    offset_of,
    prepared,
    recipe_for,
    row_levels,
)
from nightjard.calib.preparing import prep_subtask, recipes_of
from nightjard.simulators.detector.truth import Truth

EIGHTH = load_detector("ccd273-8th")
ROWS, COLUMNS = EIGHTH.quadrant_shape
NOISE = 1.15
Floats = np.ndarray[Any, Any]


def scene(seed: int = 1, level: float = 2650.3) -> dict[str, Floats]:
    """Quadrants with an offset that wanders from row to row, and what it is."""
    rng = np.random.default_rng(seed)
    rows = level + 2.0 * np.sin(np.arange(ROWS) / 40.0)
    return {
        quadrant: rows[:, None] + number + rng.normal(0, NOISE, (ROWS, COLUMNS))
        for number, quadrant in enumerate(EIGHTH.names)
    }


def write(path: Path, quadrants: dict[str, Floats], **cards: Any) -> Frame:
    frame = EIGHTH.assemble(quadrants).round().clip(0, 65535).astype(np.uint16)
    unit = fits.ImageHDU(frame, name="ROE1_CCD1")
    unit.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(path)
    return open_frame(path, EIGHTH)


def write_product(path: Path, name: str, quadrants: dict[str, Floats]) -> str:
    unit = fits.ImageHDU(EIGHTH.assemble(quadrants), name=name)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2)), name="OTHER"), unit]).writeto(
        path
    )
    return str(path)


def test_the_offset_of_rows_follows_them_without_steps(tmp_path: Path) -> None:
    quadrants = scene()
    frame = write(tmp_path / "a.fits", quadrants)
    for number, quadrant in enumerate(EIGHTH.names):
        truth = 2650.3 + number + 2.0 * np.sin(np.arange(ROWS) / 40.0)
        error = offset_of(frame, quadrant, "row") - truth
        # 21 pixels with the noise and the converter's rounding; a median would be 25 % worse,
        # and in steps of half an ADU.
        assert error.std() == pytest.approx(np.hypot(NOISE, 0.2887) / np.sqrt(21), rel=0.2)
        assert abs(error.mean()) < 0.06
        pixels, bad = prepared(frame, quadrant, Recipe())
        assert pixels.dtype == np.float32
        assert not bad.any()
        assert abs(pixels.mean()) < 0.06
        level = offset_of(frame, quadrant, "median")
        assert np.ptp(level) == 0
        assert level[0] == pytest.approx(truth[: EIGHTH.image_rows].mean(), abs=0.06)
        assert not offset_of(frame, quadrant, "none").any()


@pytest.mark.parametrize("level", [2650.0, 2650.13, 2650.5, 2650.87])
def test_levels_of_whole_numbers_are_not_rounded(level: float) -> None:
    rng = np.random.default_rng(4)
    values = np.rint(rng.normal(level, NOISE, (2066, 21)))
    values[::90, 3] = 65535  # a spot in the scan
    assert clipped_mean(values.astype(np.uint16)) == pytest.approx(level, abs=0.02)
    assert clipped_mean(values) == pytest.approx(level, abs=0.02)
    assert row_levels(values, 0.0).mean() == pytest.approx(level, abs=0.02)


def test_pixels_without_a_value_are_bad_and_do_not_spoil_others(tmp_path: Path) -> None:
    quadrants = scene()
    quadrants["F"][10, 100] = 0
    quadrants["F"][11, 101] = 65535
    quadrants["F"][250:] = 0
    quadrants["F"][:5] = 0
    frame = write(tmp_path / "a.fits", quadrants, VSTART=5, VEND=250)
    pixels, bad = prepared(frame, "F", Recipe())
    expected = np.zeros_like(bad)
    expected[10, 100] = expected[11, 101] = expected[250:] = expected[:5] = True
    np.testing.assert_array_equal(bad, expected)
    assert np.isfinite(pixels).all()
    assert pixels[11, 101] == pytest.approx(65535 - 2651.3, abs=3)
    assert abs(pixels[~bad].mean()) < 0.1


def test_products_act_where_they_are_in_the_frame(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    quadrants = scene(2)
    shapes = dict.fromkeys(EIGHTH.names, (ROWS, COLUMNS))
    mask = {q: (rng.random(shape) < 0.01).astype(np.uint8) for q, shape in shapes.items()}
    structure = {q: rng.normal(0, 20, shape) for q, shape in shapes.items()}
    for one in structure.values():  # none in the scan that gives the offset
        one[:, EIGHTH.columns_of("prescan")] = 0
    flat = {q: rng.uniform(0.5, 1.5, shape) for q, shape in shapes.items()}
    flat["G"][30, 90] = 0.0
    area = (slice(0, EIGHTH.image_rows), EIGHTH.columns_of("image"))
    seen = {}
    for quadrant, base in quadrants.items():
        light = np.zeros((ROWS, COLUMNS))
        light[area] = 5000.0 * flat[quadrant][area]
        seen[quadrant] = base + structure[quadrant] + light
    frame = write(tmp_path / "a.fits", seen)
    recipe = Recipe(
        "row", write_product(tmp_path / "mask.fits", "MASK", mask),
        write_product(tmp_path / "bias.fits", "STACK",
                      {q: 300 + one for q, one in structure.items()}),
        write_product(tmp_path / "flat.fits", "FLAT", flat),
    )  # fmt: skip
    assert Recipe.from_json(recipe.as_json()) == recipe
    for quadrant in EIGHTH.names:
        pixels, bad = prepared(frame, quadrant, recipe)
        hole = np.zeros_like(bad)
        hole[30, 90] = quadrant == "G"
        np.testing.assert_array_equal(bad, (mask[quadrant] != 0) | hole)
        image = pixels[area][~bad[area]]
        assert image.mean() == pytest.approx(5000, abs=0.3)
        assert image.std() < 3.0  # the noise over a flat of at least 0.5
        scans = pixels[:, EIGHTH.columns_of("overscan")]
        assert abs(scans.mean()) < 0.2
        assert scans.std() < 1.4


def test_a_master_bias_with_an_offset_of_rows_does_not_take_it_twice(tmp_path: Path) -> None:
    ramp = np.linspace(0, 9, ROWS)[:, None] + np.zeros((1, COLUMNS))
    frame = write(tmp_path / "a.fits", {q: one + ramp for q, one in scene(3).items()})
    path = write_product(tmp_path / "bias.fits", "STACK", dict.fromkeys(EIGHTH.names, 2600 + ramp))
    for offset in ("row", "median"):
        pixels, _ = prepared(frame, "E", Recipe(offset, bias=path))  # type: ignore[arg-type]
        rows = pixels.mean(axis=1)
        slope = np.polyfit(np.arange(ROWS), rows - 2.0 * np.sin(np.arange(ROWS) / 40.0)
                           * (offset == "median"), 1)[0]  # fmt: skip
        assert abs(slope * ROWS) < 0.3


def test_a_product_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    frame = write(tmp_path / "a.fits", scene())
    with pytest.raises(StorageError, match=r"cannot read .*nowhere"):
        prepared(frame, "E", Recipe(mask=str(tmp_path / "nowhere.fits")))
    fits.PrimaryHDU(np.zeros((7, 9), np.uint8)).writeto(tmp_path / "small.fits")
    with pytest.raises(StorageError, match=r"small\.fits: no image MASK of shape \(556, 654\)"):
        prepared(frame, "E", Recipe(mask=str(tmp_path / "small.fits")))


def test_a_product_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    frame = write(tmp_path / "a.fits", scene())
    none = {q: np.zeros((ROWS, COLUMNS), np.uint8) for q in EIGHTH.names}
    path = tmp_path / "mask.fits"
    recipe = Recipe(mask=write_product(path, "MASK", none))
    assert not prepared(frame, "H", recipe)[1].any()
    path.unlink()
    write_product(path, "MASK", {q: one + 1 for q, one in none.items()})
    assert prepared(frame, "H", recipe)[1].all()


def test_prep_records_recipes_and_offsets(tmp_path: Path) -> None:
    truth = Truth.default(EIGHTH)
    work = take(tmp_path, "BIAS01", truth, frames={"col001": 3})
    mask = write_product(
        tmp_path / "mask.fits", "MASK",
        {q: np.eye(ROWS, COLUMNS, dtype=np.uint8) for q in EIGHTH.names},
    )  # fmt: skip
    work.inputs.masks[1] = Path(mask)
    found = run(work, "prep", prep_subtask(is_debiased=True).function)
    assert recipes_of(work) == {1: Recipe(mask=mask)}
    assert "CCD 1: prepared without master bias: there is none" in found["notes"]
    table = work.table("prep", "prep")
    assert len(table) == 3 * 4
    assert set(table["bad"]) == {ROWS}
    for row in table:
        offset = truth.electronics.offset_adu[f"1{row['quadrant']}"]
        assert row["offset"] == pytest.approx(offset, abs=4 * truth.electronics.drift_adu)
        ron = truth.electronics.read_noise_adu[f"1{row['quadrant']}"]
        assert row["row_noise"] == pytest.approx(ron / np.sqrt(21), rel=0.25)
        assert row["offset_error"] == pytest.approx(ron / np.sqrt(21 * ROWS), rel=0.25)
    assert not values_of(found, "offset")


def test_what_is_not_configured_is_left_out_and_told(tmp_path: Path) -> None:
    work = take(tmp_path, "BIAS01", Truth.default(EIGHTH), frames={"col001": 1})
    work.inputs.flats[800, 1] = tmp_path / "flat.fits"
    assert recipe_for(work, 1, wave_nm=800) == Recipe(flat=str(tmp_path / "flat.fits"))
    assert work.results.notes == ["CCD 1: prepared without cosmetics mask: there is none"]
    assert recipe_for(work, 1, is_masked=False, wave_nm=590).flat is None
    assert "flat of 590 nm" in work.results.notes[-1]
    drill = dataclasses.replace(work, is_drill=True)
    assert run(drill, "prep", prep_subtask().function)["notes"] == ["drill: prep was not done"]
