# SPDX-License-Identifier: BSD-3-Clause
"""DARK01: dark current, hot pixels and cosmic rays against what was put in."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.calib_bench import FIRST_OBSID, flags_of, run_all, take, values_of
from nightjar.calibration.detector import load_detector
from nightjard.calib.science.defects import dark_defects, events_in
from nightjard.simulators.detector.truth import Truth

EIGHTH = load_detector("ccd273-8th")
GAIN = 3.5
RATE = 0.02  # e-/s: 3 ADU in a frame, so that 5 % is above the noise of so few pixels
Found = dict[str, dict[str, Any]]
DEFECTS_ADU = 50.0


def hot_list() -> list[tuple[int, int, float, float]]:
    """Hot pixels around the threshold and far above it: x, y, electrons, electrons per s."""
    rng = np.random.default_rng(3)
    places = rng.choice(256 * 258, 400, replace=False)
    adu = np.exp(rng.uniform(math.log(10), math.log(5000), 400))
    return [
        (int(place % 256), int(place // 256), 0.0, float(one * GAIN / 565))
        for place, one in zip(places, adu, strict=True)
    ]


def truth_with(rate: float, **effects: bool) -> Truth:
    truth = Truth.default(
        EIGHTH, effects={"defects": False, "persistence": False, "gain_spread": False,
                         "transfer": False, "crosstalk": False, "nonlinearity": False, **effects},
        overrides={"dark.rate_e_s": rate, "electronics.gain_e_adu": GAIN},
    )  # fmt: skip
    channel = dataclasses.replace(truth.defects["1F"], hot_pixels=tuple(hot_list()))
    return dataclasses.replace(truth, defects={**truth.defects, "1F": channel})


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Found, Truth]:
    truth = truth_with(RATE, cosmics=True)
    bias = take(tmp_path_factory.mktemp("bias"), "BIAS01", truth)
    run_all(bias, "prep", "meta")
    folder = tmp_path_factory.mktemp("dark")
    work = take(folder, "DARK01", truth)
    work.inputs.biases[1] = bias.image_path(
        "meta", f"EUC_MASTERBIAS_CCD1_SN_14888-88-81_{truth.block}"
    )
    work.dataset = dataclasses.replace(work.dataset, hk={
        frame.obsid: {f"CCD1_TEMP_{half}": (-120.0, 0.0, -120.0, -120.0) for half in "TB"}
        for frame in work.dataset.frames
    })  # fmt: skip
    return work, run_all(work), truth


def test_the_dark_current_is_that_which_was_put_in(dark: tuple[Any, Found, Truth]) -> None:
    _work, found, _truth = dark
    rates = values_of(found["meta"], "dark_rate")
    hourly = values_of(found["meta"], "dark_rate_h")
    for quadrant in EIGHTH.names:
        value, error = rates[1, quadrant]
        # 5 % at full scale, where the offset is known four times better.
        assert value == pytest.approx(RATE, abs=0.05 * RATE + 2.5 * error)
        assert 0 < error < 0.05 * RATE
        assert hourly[1, quadrant] == pytest.approx((value * 3600, error * 3600))


def test_errors_of_the_dark_current_are_right(dark: tuple[Any, Found, Truth]) -> None:
    _work, found, _truth = dark
    pulls = [
        (value - RATE) / error for value, error in values_of(found["meta"], "dark_rate").values()
    ]
    assert max(abs(one) for one in pulls) < 4
    assert np.std(pulls) < 2.5


def test_it_is_told_for_the_reference_temperature(dark: tuple[Any, Found, Truth]) -> None:
    _work, found, _truth = dark
    kelvin = -120.0 + 273.15
    factor = math.exp(0.65 / 8.617333e-5 * (1 / kelvin - 1 / 153.0))
    rates = values_of(found["meta"], "dark_rate")
    for key, (value, _error) in values_of(found["meta"], "dark_rate_153K").items():
        assert value == pytest.approx(rates[key][0] * factor)


def test_hot_pixels_are_found_and_only_they(dark: tuple[Any, Found, Truth]) -> None:
    work, _found, _truth = dark
    hot = work.table("meta", "HOT")
    seen = {
        (int(row["x"]) - EIGHTH.prescan, int(row["y"]))
        for row in hot if row["quadrant"] == "F"
    }  # fmt: skip
    adu = {(x, y): rate * 565 / GAIN for x, y, _, rate in hot_list()}
    clear = {place for place, one in adu.items() if one > 1.1 * DEFECTS_ADU}
    assert len(clear) > 150
    assert len(seen & clear) / len(clear) > 0.98  # but for those in a cosmic ray's way
    possible = {place for place, one in adu.items() if one > 0.9 * DEFECTS_ADU}
    assert len(seen & possible) / len(seen) > 0.98
    own = [row for row in hot if row["quadrant"] == "F"]
    by_place = {(int(row["x"]) - EIGHTH.prescan, int(row["y"])): row for row in own}
    found = np.array([by_place[place]["rate"] for place in sorted(clear)])
    known = np.array([adu[place] * GAIN / 565 for place in sorted(clear)])
    assert np.median(np.abs(found / known - 1)) < 0.02
    assert (np.diff(np.asarray(hot["signal"][hot["quadrant"] == "F"])) <= 0).all()


def test_cosmic_rays_are_counted_and_left_out(dark: tuple[Any, Found, Truth]) -> None:
    work, found, truth = dark
    rates = values_of(found["meta"], "cosmic_rate")
    total = sum(value for value, _ in rates.values()) / 4
    error = math.sqrt(sum(error**2 for _, error in rates.values())) / 4
    assert total == pytest.approx(truth.cosmics.rate_cm2_min, abs=3 * error + 0.3)
    with fits.open(work.image_path("meta", "EUC_DK_ROE1_CCD1"), checksum=True) as units:
        assert units[0].header["CCDTEMP"] == -120.0
        image = EIGHTH.sector(EIGHTH.canonical(units["DARK"].data, "E"), "image")
        errors = EIGHTH.sector(EIGHTH.canonical(units["EDARK"].data, "E"), "image")
    # Cosmic rays leave hundreds of ADU; none of them is left, but the tail of the dark current is.
    assert (image > 30).sum() <= 10
    assert np.median(errors) == pytest.approx(1.2 / 2, rel=0.25)


def test_good_darks_raise_no_flag(dark: tuple[Any, Found, Truth]) -> None:
    _work, found, _truth = dark
    assert flags_of(found["meta"]) == {}
    assert set(flags_of(found["check"])) == set()
    judged = [one for one in found["check"]["compliances"] if one["metric"] == "background"]
    assert len(judged) == 4
    assert {(one["low"], one["high"]) for one in judged} == {(-2, 5)}


def test_light_in_the_dark_is_told_and_a_missing_bias_noted(tmp_path: Path) -> None:
    truth = truth_with(0.08)
    work = take(tmp_path, "DARK01", truth, frames={"col001": 2})
    found = run_all(work)
    assert "background is 1" in flags_of(found["check"])["BGD_OOL"]["cause"]
    assert any("no master bias is configured" in note for note in found["meta"]["notes"])
    assert any("fewer than three frames" in note for note in found["meta"]["notes"])
    assert values_of(found["meta"], "cosmic_rate")[1, "E"] == (None, None)
    notes = {one["note"] for one in found["meta"]["values"] if one["name"] == "dark_rate"}
    assert notes == {"with the structure of the bias"}


def test_a_lost_frame_and_a_dead_quadrant_change_nothing_else(tmp_path: Path) -> None:
    def spoil(obsid: int, _ccd: int, pixels: Any) -> None:
        EIGHTH.canonical(pixels, "F")[...] = 0
        if obsid == FIRST_OBSID + 1:
            pixels[...] = 0

    truth = Truth.default(EIGHTH, effects="plain")
    work = take(tmp_path / "spoilt", "DARK01", truth, spoil=spoil)
    found = run_all(work, "prep", "meta", is_drawn=False)
    less = take(tmp_path / "less", "DARK01", truth)
    kept = tuple(one for one in less.dataset.frames if one.obsid != FIRST_OBSID + 1)
    less = dataclasses.replace(less, dataset=dataclasses.replace(less.dataset, frames=kept))
    expected = run_all(less, "prep", "meta", is_drawn=False)
    for name in ("dark_rate", "dark_rate_h", "cosmic_events", "cosmic_rate", "hot_pixels"):
        values, wanted = (values_of(one["meta"], name) for one in (found, expected))
        for channel in ((1, "E"), (1, "G"), (1, "H")):
            for one, other in zip(values[channel], wanted[channel], strict=True):
                assert one == (None if other is None else pytest.approx(other, rel=1e-6))
    assert values_of(found["meta"], "dark_rate")[1, "F"] == (None, None)
    assert values_of(found["meta"], "cosmic_rate")[1, "F"] == (None, None)
    assert values_of(found["meta"], "hot_pixels")[1, "F"][0] == 258 * 256


# --- cores ---


def test_a_column_is_bad_as_a_whole_from_its_limit_on() -> None:
    rng = np.random.default_rng(1)
    stack = rng.normal(0, 0.6, EIGHTH.quadrant_shape).astype(np.float32)
    counts = np.full(stack.shape, 4)
    stack[:24, 60] = stack[:25, 80] = 60.0  # the limit is 25 of 258, as 200 of 2066
    stack[3, 90] = stack[3, 5] = -1500.0
    counts[7, 100] = 0
    found = dark_defects(EIGHTH, stack, counts)
    expected = np.zeros(stack.shape, bool)
    expected[:24, 60] = expected[: EIGHTH.image_rows, 80] = True
    expected[3, 90] = expected[7, 100] = True
    np.testing.assert_array_equal(found.bad, expected)
    assert found.columns == [80]
    full = load_detector("ccd273")
    stack = np.zeros(full.quadrant_shape, np.float32)
    stack[:199, 300] = stack[5:205, 301] = 60.0
    found = dark_defects(full, stack, np.full(stack.shape, 4, np.int8))
    assert found.columns == [301]
    assert found.bad.sum() == 199 + 2066


def test_tracks_are_counted_once() -> None:
    hits = np.zeros((50, 50), bool)
    hits[10, 10:20] = hits[30, 30] = True
    hits[[41, 42, 43], [1, 2, 3]] = True
    assert events_in(hits) == 3
