# SPDX-License-Identifier: BSD-3-Clause
"""The simulated bench: light and charge have the moments that the truth tells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nightjar.calibration.detector import load_detector
from nightjard.simulators.detector import brighter_fatter, kernels, pixels
from nightjard.simulators.detector.bench import Bench
from nightjard.simulators.detector.profile import PlainProfile
from nightjard.simulators.detector.truth import BrighterFatterTruth, Truth, channels_of

DETECTOR = load_detector("ccd273-8th")
GAIN = DETECTOR.gain_e_adu
START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
BIAS = {"exptime": 0, "shuttr": 0}
DARK = {"exptime": 565, "shuttr": 0}
FLAT = {"exptime": 1.75, "source": "flat", "wave": 4}
STARS = {"exptime": 1.1, "source": "point", "wave": 4}
FOCUSED = {"mirr_on": 1, "mirr_pos": 47.21}
KERNEL = ((0, 1, 3.0e-7), (1, 0, 1.5e-7), (1, 1, 0.6e-7), (0, 2, 0.5e-7), (2, 0, 0.3e-7))


def bench(*on: str, overrides: dict[str, Any] | None = None) -> Bench:
    """A bench with nothing but some effects."""
    effects = {"only": True, **dict.fromkeys(on, True)}
    return Bench(DETECTOR, Truth.default(DETECTOR, "TEST", 1, effects, overrides), PlainProfile())


def signal(
    made: Bench, obsid: int, values: dict[str, Any], name: str = "1E", *,
    sector: Any = "image", time_ns: int = START,
) -> np.ndarray:  # fmt: skip
    """Return ADU above offset of a sector of a channel."""
    frame = made.expose(obsid, values, time_ns, [int(name[0])])[int(name[0])]
    pixels_ = DETECTOR.sector(DETECTOR.canonical(frame, name[1:]), sector).astype(float)
    return np.asarray(pixels_ - made.truth.electronics.offset_adu[name])


# --- random numbers ---


@pytest.mark.parametrize("mean", [0.02, 0.6, 5.0, 29.0, 31.0, 2000.0])
def test_counts_have_the_moments_of_poisson(mean: float) -> None:
    counts = np.empty((500, 1000), np.float32)
    kernels.draw_counts(np.full(counts.shape, mean, np.float32), np.uint64(5), counts)
    drawn = counts.astype(float)
    error = 4.5 / math.sqrt(drawn.size)
    away = drawn - mean
    assert drawn.mean() == pytest.approx(mean, abs=error * math.sqrt(mean))
    assert away.var() == pytest.approx(mean, abs=error * math.sqrt(mean + 2 * mean**2))
    skewness = (away**3).mean() / mean**1.5
    assert skewness == pytest.approx(1 / math.sqrt(mean), abs=0.02 + 0.4 * error / mean)
    if mean < 30:
        assert np.array_equal(drawn, np.rint(drawn))


def test_normal_deviates_are_normal_far_into_the_tails() -> None:
    bits = [kernels.bits_of(np.uint64(3), np.uint64(i)) for i in range(200_000)]
    z = np.sort(np.array([kernels.normal_of(np.uint64(b)) for b in bits], float))
    expected = 0.5 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in z]))
    assert np.abs(expected - (np.arange(z.size) + 0.5) / z.size).max() < 1.63 / math.sqrt(z.size)
    assert z[0] < -4.0
    assert z[-1] > 4.0
    assert (np.abs(z) > 3).sum() == pytest.approx(540, abs=95)


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


def measure(made: Bench, name: str, half: int = 12) -> dict[str, float]:
    """Return light, place and width of a star of the last, noiseless exposure, by moments."""
    assert made.last is not None
    star = made.last.stars[name]
    channel = f"{name[0]}{star.quadrant}"
    image = made.last_image[channel]
    x0, y0 = round(star.canonical_x), round(star.canonical_y)
    box = image[y0 - half : y0 + half + 1, x0 - half : x0 + half + 1]
    y, x = np.mgrid[y0 - half : y0 + half + 1, x0 - half : x0 + half + 1]
    total = box.sum()
    cx, cy = (box * x).sum() / total, (box * y).sum() / total
    xx, yy = (box * (x - cx) ** 2).sum() / total, (box * (y - cy) ** 2).sum() / total
    xy = (box * (x - cx) * (y - cy)).sum() / total
    return {
        "light": total, "x": cx, "y": cy, "peak": box.max(),
        "fwhm": math.sqrt(8 * math.log(2) * 0.5 * (xx + yy)),
        "e1": (xx - yy) / (xx + yy - 1 / 6), "e2": 2 * xy / (xx + yy - 1 / 6),
    }  # fmt: skip


class Keeping(Bench):
    """A bench that keeps the signals before the converter, in electrons."""

    def _convert(self, exposure: Any, ccd: int, quadrant: str, image: Any) -> Any:
        self.last_image = getattr(self, "last_image", {})
        self.last_image[f"{ccd}{quadrant}"] = image.astype(float) * GAIN
        return super()._convert(exposure, ccd, quadrant, image)


def keeping(*on: str, overrides: dict[str, Any] | None = None) -> Any:
    made = bench(*on, overrides=overrides)
    return Keeping(DETECTOR, made.truth, PlainProfile())


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
    assert profile[-1] == pytest.approx(0.5 * 210000 / GAIN, rel=0.01)
    assert start == pytest.approx(0.0, abs=1.0)
    assert slope == pytest.approx(profile[-1] / 258, rel=1e-3)
    assert signal(made, 1, values | {"rdmode": "rwd_bas_v"}).max() == 0


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


# --- brighter-fatter ---


def exact(mu: float) -> tuple[float, dict[tuple[int, int], float]]:
    """Return V/mu - 1 and correlations over mu at lags (row, column), by the transform of K."""
    n = 64
    kernel = np.zeros((n, n))
    for i, j, k in KERNEL:
        for x in {i, -i}:
            for y in {j, -j}:
                kernel[y % n, x % n] = k
    kernel[0, 0] = -kernel.sum()
    growth = 2 * np.fft.fft2(kernel).real * mu
    power = np.where(np.abs(growth) < 1e-12, 1.0, np.expm1(growth) / np.where(growth, growth, 1.0))
    covariance = np.fft.ifft2(power).real
    lags = ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2))
    variance = covariance[0, 0]
    return variance - 1, {lag: covariance[lag] / variance / mu for lag in lags}


@pytest.mark.parametrize(("mu", "step_e"), [(3e4, 20000.0), (1e5, 20000.0)])
def test_brighter_fatter_flats_have_the_theory_s_variance_and_correlations(
    mu: float, step_e: float
) -> None:
    truth = BrighterFatterTruth(KERNEL, step_e)
    assert truth.centre == pytest.approx(-1.3e-6)
    side, pairs = 400, 4
    light = np.full((side, side), mu, np.float32)
    variance, products = [], {lag: [] for lag in exact(mu)[1]}
    for pair in range(pairs):
        one, two = (
            brighter_fatter.collect(
                light, truth, 2 * pair + i, boxes=None, is_noisy=True, limit_e=1e12
            ).astype(float)
            for i in (0, 1)
        )
        assert one.mean() == pytest.approx(mu, abs=5 * math.sqrt(mu) / side)
        difference = one - two
        difference -= difference.mean()
        v = difference.var()
        variance.append(v / 2 / mu - 1)
        for (y, x), found in products.items():
            shifted = difference[: side - y, : side - x] * difference[y:, x:]
            found.append(shifted.mean() / v / mu)
    expected, correlations = exact(mu)
    error = math.sqrt(2 / (pairs * side**2))  # of a relative variance
    assert np.mean(variance) == pytest.approx(expected, abs=3.5 * error + 5e-4)
    for lag, want in correlations.items():
        assert np.mean(products[lag]) == pytest.approx(want, abs=3.5 * error / math.sqrt(2) / mu)


def test_few_steps_of_second_order_are_as_good_as_a_hundred() -> None:
    rng = np.random.default_rng(1)
    light = (1e5 * (1 + 0.01 * rng.standard_normal((80, 80)))).astype(np.float32)
    y, x = np.mgrid[:80, :80]
    star = (1.5e5 * np.exp(-((x - 40) ** 2 + (y - 40) ** 2) / 2.0)).astype(np.float32)
    for scene in (light, star):
        few, many = (
            brighter_fatter.collect(
                scene, BrighterFatterTruth(KERNEL, step), 1, boxes=None, is_noisy=False,
                limit_e=1e12,
            ).astype(float)
            for step in (20000.0, 1500.0)
        )  # fmt: skip
        moved = np.abs(many - scene).max()
        assert moved > 200
        assert np.abs(few - many).max() < 0.004 * moved
        assert many.sum() == pytest.approx(float(scene.sum()), rel=1e-6)


def test_stars_grow_with_their_light() -> None:
    made = keeping("brighter_fatter", overrides={"stars.tilt_mm": (0.0, 0.0)})
    widths, peaks = [], []
    for share in (0.02, 0.25, 0.5, 0.75):
        made.expose(1, STARS | FOCUSED | {"exptime": 2.2 * share}, START)
        seen = measure(made, "1HC")
        assert seen["light"] == pytest.approx(made.last.stars["1HC"].electrons, rel=2e-4)
        widths.append(seen["fwhm"])
        peaks.append(seen["peak"])
    growth, start = np.polyfit(peaks, widths, 1)
    assert start == pytest.approx(made.last.stars["1HC"].fwhm_image_px, abs=0.01)
    assert 1e-7 < growth < 1e-6
    assert np.abs(np.polyval([growth, start], peaks) - widths).max() < 0.1 * np.ptp(widths)


def test_stars_have_the_noise_of_their_light() -> None:
    made = keeping("photon_noise", "brighter_fatter")
    light = []
    for obsid in range(40):
        made.expose(obsid, STARS, START, [1])
        light += [measure(made, f"1{q}C")["light"] for q in "EFGH"]
    mean = made.last.stars["1EC"].electrons
    assert np.mean(light) == pytest.approx(mean, rel=4 / math.sqrt(160 * mean) + 2e-4)
    assert np.std(light) == pytest.approx(math.sqrt(mean), rel=0.25)


# --- full well, persistence, transfer ---


def test_full_well_caps_flats_and_lowers_their_variance() -> None:
    made = bench("full_well", "photon_noise", overrides={"full_well.edge_drop": 0.0})
    capacity = made.truth.full_well.electrons["1H"] / GAIN
    below = [signal(made, i, FLAT | {"exptime": 2.8}, "1H") for i in (1, 2)]
    above = [signal(made, i, FLAT | {"exptime": 3.7}, "1H") for i in (1, 2)]
    assert below[0].mean() == pytest.approx(65536 * 2.8 / 3.5, rel=1e-3)
    # Full pixels hold a little more the more falls on them.
    assert capacity * 0.99 < above[0].mean() < capacity * 1.03
    variance = [(a - b).var() / 2 for a, b in (below, above)]
    assert variance[0] == pytest.approx(below[0].mean() / GAIN, rel=0.03)
    assert variance[1] < 0.1 * variance[0]


def test_what_a_pixel_cannot_hold_flows_along_its_column() -> None:
    image = np.full((50, 9), 100.0, np.float32)
    image[20, 4] = 8000.0
    total = float(image.sum())
    zero = (np.zeros(50, np.float32), np.zeros(9, np.float32))
    kernels.bloom(image, np.uint64(1), np.float32(1000), np.float32(0), *zero, np.float32(0),
                  np.float32(1))  # fmt: skip
    assert image.sum() == pytest.approx(total, rel=1e-6)
    assert image.max() == pytest.approx(1000.0)
    assert np.flatnonzero(image[:, 4] > 999).tolist() == list(range(17, 24))
    assert image[16, 4] == image[24, 4] == pytest.approx(900.0, abs=0.1)
    assert (np.delete(image, 4, axis=1) == 100.0).all()
    image[:] = 0
    image[2, 4] = 30000.0
    kernels.bloom(image, np.uint64(1), np.float32(1000), np.float32(0), *zero, np.float32(0),
                  np.float32(1))  # fmt: skip
    # Two rows to the near end: what reaches it is lost.
    assert image.sum() == pytest.approx(1000.0 + 2000.0 + 14500.0, rel=1e-5)


def test_saturated_pixels_leave_charge_that_decays_and_is_flushed() -> None:
    made = bench("persistence", "full_well")
    truth = made.truth.persistence
    burn = {"exptime": 600, "source": "point", "wave": 2, "mirr_on": 1, "mirr_pos": 37.2}
    burnt = signal(made, 1, burn | {"flushes": 0}, "1E") > 65535 - 2650 - 1
    assert 0.002 < burnt.mean() < 0.2
    end = START + 600 * SECOND
    state = made.state()
    for later, flushes in ((0, 0), (665, 0), (665, 100)):
        made.restore(state)
        frame = signal(made, 2, BIAS | {"flushes": flushes}, time_ns=end + later * SECOND)
        want = truth.electrons["1E"] * math.exp(-later / truth.tau_s)
        want *= (1 - truth.flush_fraction) ** flushes
        assert frame[burnt].mean() == pytest.approx(want / GAIN, abs=0.51)
        assert not frame[:, :20].any()
    made.restore(state)
    signal(made, 2, BIAS | {"flushes": 3}, time_ns=end + 300 * SECOND)
    assert made.last is not None
    twice = made.state()["1E"]
    latent = made.last.channels["1E"].latent_e
    assert twice.electrons.sum() / (256 * 258) == pytest.approx(latent)
    # Long after, nothing is left, and the memory is empty.
    signal(made, 3, BIAS, time_ns=end + 20000 * SECOND)
    assert made.state() == {}


def test_deferred_charge_is_in_the_overscans() -> None:
    made = keeping("transfer", overrides={"transfer.serial": 2e-5, "transfer.parallel": 4e-5})
    truth = made.truth.transfer
    made.expose(1, FLAT, START, [1])
    image = made.last_image["1G"]
    level = 0.5 * 65536 * GAIN
    keep = math.exp(-1 / truth.serial_tail_px)
    lost = 2e-5 * np.arange(52, 52 + 256)
    waiting = sum(lost[-1 - n] * keep**n for n in range(60))
    serial = image[100, 51 + 256 :]
    line = image[100, 51 + 200]
    assert line == pytest.approx(level, rel=2e-2)
    assert serial[0] / level == pytest.approx(waiting * (1 - keep), rel=0.02)
    assert serial[1:6] / serial[:5] == pytest.approx(np.full(5, keep), rel=1e-4)
    keep = math.exp(-1 / truth.parallel_tail_px)
    waiting = sum(4e-5 * (258 - n) * keep**n for n in range(120))
    parallel = image[258:, 51 + 60]
    assert parallel[0] / level == pytest.approx(waiting * (1 - keep), rel=0.02)
    assert parallel[1:6] / parallel[:5] == pytest.approx(np.full(5, keep), rel=1e-3)
    # Nothing is lost: what is late is in the overscans.
    columns = image[:, 51 + 30]
    assert columns.sum() == pytest.approx(258 * level, rel=1.5e-3)
