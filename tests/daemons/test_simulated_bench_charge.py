# SPDX-License-Identifier: BSD-3-Clause
"""The simulated bench: light and pixels have the moments that the truth tells."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kit.simulated_detector import (
    BIAS,
    DARK,
    DETECTOR,
    FLAT,
    FOCUSED,
    GAIN,
    SECOND,
    STARS,
    START,
    bench,
    keeping,
    measure,
    signal,
)  # fmt: skip
from nightjar.calibration.detector import load_detector
from nightjard.simulators.detector import pixels
from nightjard.simulators.detector.bench import Bench
from nightjard.simulators.detector.profile import PlainProfile
from nightjard.simulators.detector.truth import Truth, channels_of

# --- light ---


def test_a_flat_of_the_saturation_time_fills_the_converter() -> None:
    plain = bench()
    made = bench("illumination", "lamp")
    for wave, slot in ((590, 1), (800, 4), (0, 6)):
        seconds = 0.5 * PlainProfile().saturation_s("flat", wave)
        values = FLAT | {"exptime": seconds, "wave": slot}
        assert signal(plain, 1, values).mean() == pytest.approx(32768, abs=0.6)
        field = np.concatenate([signal(made, 1, values, f"1{q}").ravel() for q in "EFGH"])
        assert made.last is not None
        assert field.mean() == pytest.approx(32768 * made.last.lamp, rel=3e-4)
        assert 0.005 < np.ptp(field) / 2 / 32768 < 0.06
    assert signal(plain, 1, FLAT | {"shuttr": 0}).max() <= 0.0


def test_the_lamp_drifts_and_the_shutter_is_late() -> None:
    made = bench("lamp")
    period = made.truth.light.lamp_period_s
    times = [START + int(k * period / 8 * SECOND) for k in range(8)]
    light = np.array([signal(made, 1, FLAT, time_ns=t).mean() for t in times])
    assert (light.max() - light.min()) / light.mean() == pytest.approx(0.005, rel=0.1)
    late = bench(overrides={"light.shutter_error_s": 0.03})
    assert signal(late, 1, FLAT).mean() == pytest.approx(32768 * 1.78 / 1.75, abs=1.0)
    slow = Bench(DETECTOR, late.truth, PlainProfile(shutter_delay_s=0.1))
    assert signal(slow, 1, FLAT).mean() == pytest.approx(32768 * 1.88 / 1.75, abs=1.0)
    assert signal(slow, 1, BIAS).max() == 0


def test_stars_have_the_place_light_and_shape_of_the_truth() -> None:
    made = keeping("pattern", "shape")
    truth = made.truth.stars
    made.expose(1, STARS | FOCUSED, START)
    spots = {f"{ccd}{s.id}": s for ccd in (1, 2, 3) for s in PlainProfile().spots(ccd, DETECTOR)}
    assert set(made.last.stars) == set(spots)
    assert len(spots) == 60
    angle = math.radians(truth.rotation_deg)
    for name, star in made.last.stars.items():
        spot = spots[name]
        x = truth.scale * (math.cos(angle) * spot.x - math.sin(angle) * spot.y)
        y = truth.scale * (math.sin(angle) * spot.x + math.cos(angle) * spot.y)
        assert (star.x, star.y) == pytest.approx((x + 12, y - 7), abs=1e-9)
        seen = measure(made, name)
        assert (seen["x"], seen["y"]) == pytest.approx(
            (star.canonical_x, star.canonical_y), abs=2e-3
        )
        assert seen["light"] == pytest.approx(star.electrons, rel=1e-4)
        assert seen["fwhm"] == pytest.approx(star.fwhm_image_px, abs=3e-3)
        # Axes turn with the orientation of the quadrant: e2 changes its sign where one does.
        place = DETECTOR.quadrants[star.quadrant]
        sign = -1 if place.reads_from_right != place.reads_from_top else 1
        assert (seen["e1"], sign * seen["e2"]) == pytest.approx((truth.e1, truth.e2), abs=2e-3)
    anchored = keeping(overrides={"stars.fwhm0_px": 2.5})
    anchored.expose(1, STARS | FOCUSED, START)
    light = 55000 * GAIN / 2 * 2 * math.pi * (2.5 / 2.3548) ** 2
    assert anchored.last.stars["1EA"].electrons == pytest.approx(light, rel=1e-4)


def test_focus_moves_with_the_mirror_and_the_field() -> None:
    made = keeping("shape")
    truth = made.truth.stars
    widths = {}
    for mirror in (46.4, 46.8, 47.2, 47.6, 48.0):
        made.expose(1, STARS | {"mirr_on": 1, "mirr_pos": mirror}, START)
        widths[mirror] = {name: star.fwhm_px for name, star in made.last.stars.items()}
        seen = measure(made, "1HC", half=20)
        assert seen["fwhm"] == pytest.approx(made.last.stars["1HC"].fwhm_image_px, rel=3e-3)
    z = np.array(list(widths))
    focus = {}
    for name in widths[47.2]:
        a, b, c = np.polyfit(z, [widths[m][name] ** 2 for m in widths], 2)
        assert math.sqrt(c - b * b / 4 / a) == pytest.approx(truth.fwhm0_px, abs=1e-3)
        focus[name] = -b / 2 / a
    assert np.mean(list(focus.values())) == pytest.approx(truth.focus_mm, abs=2e-3)
    assert focus["1FB"] - focus["1EA"] == pytest.approx(0.8 * truth.tilt_mm[0], rel=0.02)


def test_missing_stars_moffat_and_dither() -> None:
    made = keeping(overrides={
        "stars.missing": ("1EA", "1GC"), "stars.profile": "moffat", "stars.fwhm0_px": 3.0,
        "stars.slope_px_mm": 0.0})  # fmt: skip
    made.expose(1, STARS, START)
    assert "1EA" not in made.last.stars
    assert "1GC" not in made.last.stars
    assert len(made.last.stars) == 58
    star = made.last.stars["1EC"]
    image = made.last_image["1E"]
    assert image[66 - 12 : 66 + 13, 51:100].max() < 0.05 * image.max()  # where 1EA would be
    row = image[round(star.canonical_y), round(star.canonical_x) - 20 :][:41]
    assert (row > row.max() / 2).sum() in (3, 4)
    moved = STARS | {"motr_on": 1, "motr_cnt": 2, "motr_siz": 120}
    places = []
    for obsid in (10, 11, 12):
        made.expose(obsid, moved, START)
        places.append(made.last.stars["1EC"].x - star.x)
    assert places == pytest.approx([-5.0, 5.0, -5.0])


# --- pixels ---


def test_response_has_the_spread_of_the_truth_at_each_wavelength() -> None:
    made = bench("prnu", overrides={"prnu.low_sigma": 0.0})
    for slot, wave in ((1, 590), (4, 800)):
        full = 0.5 * PlainProfile().saturation_s("flat", wave)
        flat = signal(made, 1, FLAT | {"exptime": full, "wave": slot}, "2G")
        factor = made.truth.prnu.wavelength_factor[str(wave)]
        sigma = made.truth.prnu.sigma["2G"] * factor
        assert flat.std() / flat.mean() == pytest.approx(sigma, rel=0.02)
        response = pixels.response(DETECTOR, made.truth, "2G", wave)
        assert np.abs(flat / 32768 - response).max() < 2e-5
    smooth = bench("prnu", overrides={"prnu.sigma": 0.0})
    spreads = [pixels.response(DETECTOR, smooth.truth, n, 800).std() for n in channels_of(DETECTOR)]
    assert np.mean(spreads) == pytest.approx(0.002, rel=0.25)


def test_defects_are_where_the_truth_says() -> None:
    made = bench("defects")
    bias, flat = signal(made, 1, BIAS, "1F"), signal(made, 1, FLAT, "1F")
    defects = made.truth.defects["1F"]
    assert defects.hot_pixels
    assert defects.hot_columns
    want_hot = {(x, y) for x, y, e, _ in defects.hot_pixels if e / GAIN > 2}
    want_hot |= {(x, y) for x, y0, _ in defects.hot_columns for y in range(y0, 258)}
    assert {(int(x), int(y)) for y, x in np.argwhere(bias > 1.5)} == want_hot
    for x, y, factor in defects.dark_pixels:
        assert flat[y, x] == pytest.approx(32768 * factor, abs=1.0)
    clean = (flat == 32768).mean()
    assert clean > 0.98
    dead = signal(made, 1, FLAT, "1E")
    (x, factor) = made.truth.defects["1E"].dead_columns[0]
    assert np.median(dead[:, x]) == pytest.approx(32768 * factor, abs=1.0)
    cluster = signal(made, 1, FLAT, "1G")
    x, y, radius, factor = made.truth.defects["1G"].clusters[0]
    assert np.isclose(cluster, 32768 * factor, atol=1.0).sum() == pytest.approx(
        math.pi * radius**2, rel=0.1
    )


def test_dark_current_follows_arrhenius_and_has_a_tail() -> None:
    made = bench("dark", "photon_noise", overrides={"dark.tail_fraction": 0.0})
    truth = made.truth
    made.expose(1, DARK, START)
    assert made.last is not None
    for name, rate in truth.dark.rate_e_s.items():
        waiting = 0.5 * 258 * (4e-3 + 14.3e-6 * 327)
        assert made.last.channels[name].mean_e == pytest.approx(rate * (565 + waiting), rel=0.025)
    ratio = pixels.dark_rate(truth, "1E", 158.0) / pixels.dark_rate(truth, "1E", 148.0)
    exponent = 0.65 / 8.617333e-5 * (1 / 148 - 1 / 158)
    assert ratio == pytest.approx(math.exp(exponent), rel=1e-3)
    made.temperature_k = 163.0
    made.expose(1, DARK, START)
    warmer = made.last.channels["1E"].mean_e
    assert warmer == pytest.approx(565.6 * pixels.dark_rate(truth, "1E", 163.0), rel=0.02)
    tail = bench("dark")
    places, rates = pixels.hot_tail(DETECTOR, tail.truth, "1E")
    assert places.size == pytest.approx(0.003 * 258 * 256, rel=0.02)
    assert np.median(rates) == pytest.approx(0.01, rel=0.3)
    seen = signal(tail, 1, DARK).ravel()
    assert set(np.flatnonzero(seen > 6)) <= set(places)


def test_a_warm_test_is_a_ramp() -> None:
    made = bench("dark")
    values = BIAS | {"test": "MOT_WARM", "toi_ro": 500}
    profile = signal(made, 1, values).mean(axis=1)
    slope, start = np.polyfit(np.arange(1, 259), profile, 1)
    # Four transfers of 500 us and the pixels of a row at 70 kHz; 0.08 of full well a second.
    line_s = 4 * 500e-6 + DETECTOR.quadrant_shape[1] / 70e3
    assert profile[-1] == pytest.approx(0.08 * 210000 * 258 * line_s / GAIN, rel=0.01)
    assert 6000 < profile[-1] < 12000
    assert start == pytest.approx(0.0, abs=1.0)
    assert slope == pytest.approx(profile[-1] / 258, rel=1e-3)
    assert signal(made, 1, values | {"rdmode": "rwd_bas_v"}).max() == 0


def test_the_ramp_of_a_full_detector_ends_at_half_of_full_well() -> None:
    full = load_detector("ccd273")
    rate = Truth.default(full, seed=1).dark.warm_e_s
    seconds = full.image_rows * (4 * 500e-6 + full.quadrant_shape[1] / 70e3)
    assert rate * seconds == pytest.approx(0.5 * 210000, rel=0.01)


def test_cosmic_rays_come_at_their_rate() -> None:
    made = bench("cosmics", overrides={"cosmics.rate_cm2_min": 26.0})
    hit, total = 0, 0
    for obsid in range(8):
        seen = signal(made, obsid, DARK, "1H")
        hit += int((seen > 20).sum())
        total += 1
    area = 256 * 258 * 12e-4**2
    tracks = 26.0 * area * 565 / 60 * total
    assert hit / tracks == pytest.approx(6.0, rel=0.35)  # 60 um are 5 px, at least one
