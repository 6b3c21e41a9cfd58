# SPDX-License-Identifier: BSD-3-Clause
"""The simulated bench: counts, brighter-fatter, full well, persistence, transfer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kit.simulated_detector import (
    BIAS,
    FLAT,
    FOCUSED,
    GAIN,
    KERNEL,
    SECOND,
    STARS,
    START,
    bench,
    keeping,
    measure,
    signal,
)  # fmt: skip
from nightjard.simulators.detector import brighter_fatter, kernels
from nightjard.simulators.detector.truth import BrighterFatterTruth

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


@pytest.mark.parametrize(("mu", "step_e"), [(3e4, 70000.0), (1e5, 70000.0)])
def test_brighter_fatter_flats_have_the_theory_s_variance_and_correlations(
    mu: float, step_e: float
) -> None:
    truth = BrighterFatterTruth(KERNEL, step_e)
    assert truth.centre == pytest.approx(-1.3e-6)
    side, pairs = 512, 8
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
            for step in (70000.0, 1500.0)
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
