# SPDX-License-Identifier: BSD-3-Clause
"""Brighter-fatter coefficients from noise whose covariances are known exactly."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import fft
from tests.kit.calib_bench import flags_of, run_all, take, values_of

from nightjar.calibration.detector import load_detector
from nightjar.errors import ConfigError
from nightjard.calib.prepare import Recipe
from nightjard.calib.science.charge_shift import (
    Boundaries,
    corrected,
    degraded,
    moved_charge,
    solve_boundaries,
    widths,
)
from nightjard.calib.science.covariance import (
    Coefficients,
    balanced,
    covariance_curve,
    fit_coefficients,
    lag_products,
    low_surface,
    pair_covariances,
)
from nightjard.calib.science.photon_transfer import Points, fit_transfer, moments_like
from nightjard.calib.science.trailing import Trailing, smoothing
from nightjard.calib.tasks import transfer_pairs
from nightjard.calib.tasks.brighter_fatter_correction import correct_pair
from nightjard.calib.tasks.brighter_fatter_covariances import measure_covariances
from nightjard.calib.tasks.brighter_fatter_product import load_boundaries
from nightjard.calib.tasks.transfer_pairs import band_bytes, bands_of, measure_pair
from nightjard.simulators.detector.truth import Truth

LAGS, SIDE = 5, 768


def true_kernel() -> np.ndarray:
    """[row lag, column lag], per electron; the sum over the whole plane is 0."""
    kernel = np.zeros((LAGS, LAGS))
    kernel[1, 0], kernel[0, 1], kernel[1, 1] = 3e-7, 1.5e-7, 0.6e-7
    kernel[2, 0], kernel[0, 2] = 0.5e-7, 0.3e-7
    kernel[0, 0] = -2 * (kernel[1, 0] + kernel[0, 1] + kernel[2, 0] + kernel[0, 2]) - 4 * 0.6e-7
    return kernel


@cache
def amplitudes(mu: float, side: int) -> np.ndarray:
    """Return the square root of the power of the noise at every frequency, electrons."""
    kernel, plane = true_kernel(), np.zeros((side, side))
    for row in range(LAGS):
        for column in range(LAGS):
            plane[np.ix_([row, -row], [column, -column])] = kernel[row, column]
    grown = 2 * fft.rfft2(plane).real * mu
    safe = np.where(np.abs(grown) < 1e-9, 1.0, grown)
    return np.sqrt(mu * np.where(np.abs(grown) < 1e-9, 1.0, np.expm1(safe) / safe)).astype("f4")


def flat(mu: float, generator: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """Return a flat field whose noise has the covariances of the kernel, electrons."""
    white = generator.standard_normal((side, side), dtype=np.float32)
    noise = fft.irfft2(fft.rfft2(white) * amplitudes(mu, side), s=white.shape)
    return (mu + noise).astype(np.float32)


def test_products_of_shifted_pixels_are_those_of_a_loop() -> None:
    generator = np.random.default_rng(1)
    values = generator.standard_normal((70, 23)).astype(np.float32)
    good = generator.random((70, 23)) > 0.1
    products, counts = lag_products(values, good, 3)
    kept = np.where(good, values, 0).astype(float)
    for row in range(3):
        for column in range(3):
            wanted = number = 0.0
            for sign in {1, -1} if row and column else {1}:
                for y in range(70 - row):
                    for x in range(23):
                        other = x + sign * column
                        if 0 <= other < 23:
                            wanted += kept[y, x] * kept[y + row, other]
                            number += good[y, x] and good[y + row, other]
            assert products[row, column] == pytest.approx(wanted, rel=1e-4, abs=1e-3)
            assert counts[row, column] == number


@pytest.mark.parametrize("clip", [3.0, 4.5])
def test_clipping_pixels_leaves_covariances_unbiased(clip: float) -> None:
    generator = np.random.default_rng(2)
    mu, found = 1.2e5, []
    for _ in range(4):
        first, second = flat(mu, generator), flat(mu, generator)
        first.ravel()[generator.integers(0, SIDE**2, 500)] += 2e4  # cosmic rays
        bad = np.zeros(first.shape, bool)
        bad[:, 100:103] = True
        second[:, 100:103] = 0
        found.append(pair_covariances(first, second, bad, 3, clip))
    values = np.mean([one.values for one in found], axis=0)
    error = found[0].errors / 2
    true = covariance_curve(true_kernel(), mu)[:3, :3]
    assert np.abs((values - true) / error).max() < 4
    assert values[1, 0] == pytest.approx(true[1, 0], rel=0.05)
    assert found[0].masked < 0.02


def test_a_slope_across_the_frame_is_no_covariance() -> None:
    generator = np.random.default_rng(3)
    first = generator.normal(0, 100, (300, 300)).astype(np.float32)
    x = np.linspace(-1, 1, 300)
    slope = (200 * x[:, None] + 100 * x**2).astype(np.float32)
    none = np.zeros((300, 300), bool)
    assert np.abs(low_surface(slope, none)[0] - slope).max() < 0.01  # of 300
    values = pair_covariances(first + slope, 0 * first, none, 2).values * 2
    assert values[0, 0] == pytest.approx(1e4, rel=0.02)
    assert abs(values[1, 1]) < 4 * 1e4 / 300


def test_coefficients_are_found_at_any_signal() -> None:
    generator = np.random.default_rng(4)
    signals, values, errors = [], [], []
    none = np.zeros((SIDE, SIDE), bool)
    for mu in (2.3e4, 6.9e4, 1.15e5, 1.6e5):
        pairs = [
            pair_covariances(flat(mu, generator), flat(mu, generator), none, LAGS)
            for _ in range(4)
        ]
        signals.append(mu)
        values.append(np.mean([one.values for one in pairs], axis=0))
        errors.append(pairs[0].errors / 2)
    measured = (np.array(signals), np.array(values), np.array(errors))
    found = fit_coefficients(*measured, has_linear=False)
    true = true_kernel()
    assert np.abs((found.values - true) / found.errors).max() < 4
    for place in ((1, 0), (0, 1)):
        assert found.values[place] == pytest.approx(true[place], rel=0.05)
    for place in ((1, 1), (2, 0), (0, 2)):
        assert found.values[place] == pytest.approx(true[place], rel=0.2)
    # Charge that trails into the next column is told apart by how it grows.
    trailing = measured[1].copy()
    trailing[:, 0, 1] += 1e-3 * measured[0]
    without, apart = (fit_coefficients(measured[0], one, measured[2])
                      for one in (measured[1], trailing))  # fmt: skip
    assert apart.linear[0, 1] - without.linear[0, 1] == pytest.approx(1e-3, rel=0.02)
    assert apart.values[0, 1] == pytest.approx(without.values[0, 1], rel=0.02)
    together = fit_coefficients(measured[0], trailing, measured[2], has_linear=False)
    assert together.values[0, 1] > found.values[0, 1] + 3 * found.errors[0, 1]
    with pytest.raises(ValueError, match="2 levels"):
        fit_coefficients(measured[0][:2], measured[1][:2], measured[2][:2])


def test_charge_that_trails_makes_neighbours_alike_as_its_factors_say() -> None:
    """White noise is moved out packet by packet; what is left of it is known for each frequency."""
    generator, (rows, columns) = np.random.default_rng(7), (240, 16384)
    cti, tail = 2e-4, 3.0
    keep = np.exp(-1 / tail)
    light = generator.normal(0, 1, (rows, columns))
    late, out = np.zeros(columns), np.empty_like(light)
    for row in range(rows):
        left = light[row] * cti * (row + 1)
        out[row] = light[row] - left + late * (1 - keep)
        late = late * keep + left
    power = smoothing(Trailing(0.0, 1.0, 1, columns), Trailing(cti, tail, 1, rows))
    expected = np.fft.ifft2(power).real
    for lag in range(5):
        pairs = out[: rows - lag] * out[lag:]
        error = pairs.std() / np.sqrt(pairs.size)
        # The last packets are not followed for their whole trail: one row in a hundred.
        assert pairs.mean() == pytest.approx(expected[lag, 0], abs=4 * error, rel=0.01)
    assert expected[0, 0] == pytest.approx(1 - 2 * 0.0241, rel=0.002)
    assert np.abs(expected[1:5, 1:]).max() < 1e-15


def test_what_trails_is_no_coefficient() -> None:
    signals = np.array([2e4, 5e4, 9e4, 1.3e5, 1.7e5])
    power = smoothing(Trailing(1e-6, 2.0, 52, 2099), Trailing(5e-6, 5.0, 1, 2066))
    curves = np.array([covariance_curve(true_kernel(), mu, power) for mu in signals])
    errors = 1e-3 * signals[:, None, None] * np.ones(curves.shape)
    true = true_kernel()
    known = fit_coefficients(signals, curves, errors, has_linear=False, smoothed=power)
    assert known.values == pytest.approx(true, abs=1e-11)
    # Left to a part that grows with the signal, nearest neighbours come out 2 % low.
    free = fit_coefficients(signals, curves, errors)
    assert 0.015 < 1 - free.values[1, 0] / true[1, 0] < 0.025
    # And what is known of them is less.
    assert np.all(free.errors[1:, 1:] > 1.5 * known.errors[1:, 1:])


# --- boundaries ---


def true_boundaries() -> Boundaries:
    kernel = true_kernel()
    return solve_boundaries(kernel, np.full_like(kernel, 1e-9))


def test_boundaries_give_the_coefficients_they_were_made_of() -> None:
    kernel = true_kernel()
    found = true_boundaries()
    inside = np.ones_like(kernel, bool)
    inside[0, 0] = False
    assert found.areas()[inside] == pytest.approx(kernel[inside], abs=1e-13)
    # Nothing is gained or lost by all together, so the own one follows to a percent.
    assert found.areas()[0, 0] == pytest.approx(kernel[0, 0], rel=0.02)
    assert found.south[1, 0] > found.west[0, 1] > 0  # nearer ones move more, along columns most


def test_moved_charge_is_neither_lost_nor_made_and_none_moves_on_even_light() -> None:
    generator = np.random.default_rng(5)
    image = generator.uniform(0, 1e5, (60, 47)).astype(np.float32)
    moved = moved_charge(image, true_boundaries())
    assert abs(moved.sum()) < 1e-3 * np.abs(moved).sum()
    even = np.full((60, 47), 1e5, np.float32)
    assert np.abs(moved_charge(even, true_boundaries())).max() < 0.5


def test_shifts_of_one_charge_are_those_of_the_boundaries() -> None:
    bounds, charge = true_boundaries(), 1e5
    image = np.full((31, 31), 1000.0, np.float32)
    image[15, 15] += charge
    moved = moved_charge(image, bounds)
    # One step of the sum by hand: the pixel to the right, its four boundaries.
    west, south = bounds.west * charge, bounds.south * charge
    pixel = 0.25 * ((2000 + charge) * west[0, 1] - 2000 * west[0, 2] - 4000 * south[1, 1])
    assert moved[15, 16] == pytest.approx(pixel, rel=2e-3)
    assert moved[15, 16] == pytest.approx(moved[15, 14], rel=1e-3)
    assert moved[16, 15] == pytest.approx(moved[14, 15], rel=1e-3)
    assert moved[15, 15] < 0


def test_correction_undoes_what_the_effect_did_to_a_star() -> None:
    y, x = np.mgrid[:41, :41] - 20.0
    star = (2e5 * np.exp(-(x**2 + y**2) / 2 / 1.2**2)).astype(np.float32)
    wide = degraded(star, true_boundaries())
    better = corrected(wide, true_boundaries())
    assert np.abs(better - star).max() < 0.15 * np.abs(wide - star).max()
    assert better.sum() == pytest.approx(star.sum(), rel=1e-6)


@pytest.mark.parametrize("mu", [6e4, 1.6e5])
def test_corrected_flat_fields_have_the_noise_of_photons(mu: float) -> None:
    generator = np.random.default_rng(6)
    none = np.zeros((SIDE, SIDE), bool)
    ratios, neighbours = [], []
    for _ in range(3):
        frames = [flat(mu, generator) for _ in range(2)]
        after = [corrected(one, true_boundaries()) for one in frames]
        values = pair_covariances(*after, none, 2).values
        ratios.append(values[0, 0] / mu)
        neighbours.append(values[1, 0] / mu)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.01)
    before = covariance_curve(true_kernel(), mu)
    assert before[0, 0] / mu < 0.94
    assert abs(np.mean(neighbours)) < 0.15 * before[1, 0] / mu


def test_widths_grow_with_charge_most_along_columns() -> None:
    small, large = (widths(true_boundaries(), charge, 12.0) for charge in (5e4, 1.5e5))
    assert small.x_um < large.x_um < large.y_um
    assert small.ellipticity < 0
    # The pixel to the side holds what its boundaries let through.
    bounds = true_boundaries()
    wing = 0.25 * 5e4 * bounds.west[0, 1]
    own = 1 - 0.5 * 5e4 * (bounds.west[0, 1] + bounds.south[1, 0])
    expected = 2.3548 * np.sqrt(-144 / 2 / np.log(wing / own))
    assert small.x_um == pytest.approx(expected, rel=1e-3)


# --- the whole test on simulated frames ---


def alpha_left() -> float:
    """Return the bend that one step of the correction leaves: ``x^2 / 96`` of every frequency."""
    plane = np.zeros((64, 64))
    for row in range(LAGS):
        for column in range(LAGS):
            plane[np.ix_([row, -row], [column, -column])] = true_kernel()[row, column]
    signals = np.repeat([0.05, 0.1, 0.2, 0.3, 0.5, 0.7], 36) * 65536 * 3.5
    spectrum = 2 * np.fft.fft2(plane).real
    variance = []
    for mu in signals:
        x = np.where(np.abs(spectrum * mu) < 1e-9, 1e-9, spectrum * mu)
        variance.append(mu * float((np.expm1(x) / x * (1 - x / 4) ** 2).mean()) + 16)
    points = Points(signals, np.array(variance), np.full(signals.size, 1764), 0 * signals)
    return fit_transfer(points, moments=moments_like(1.15)).alpha


def test_large_quadrants_are_worked_on_in_parts_that_change_nothing(tmp_path, monkeypatch) -> None:
    detector = load_detector("ccd273-8th")
    truth = Truth.default(detector, effects={"nonlinearity": False, "crosstalk": False})
    frames = {f"col{i:03d}": 2 if i == 6 else 0 for i in range(1, 12)}
    work = take(tmp_path, "BF01", truth, frames=frames)
    first, second = (str(frame.path) for frame in work.dataset.of_ccd(1))
    recipe = Recipe(offset="median").as_json()
    pair = {"first": first, "second": second, "detector": detector.name, "recipe": recipe,
            "curves": {}, "clip_sigma": 4.5}  # fmt: skip
    bounds = true_boundaries().in_units_of(3.5)
    shifts = {"F": {"west": bounds.west.tolist(), "south": bounds.south.tolist()}}

    def measured() -> list[dict]:
        return [one["F"] for one in (measure_pair(**pair, has_covariances=True),
                                     measure_covariances(**pair, lags=5),
                                     correct_pair(**pair, shifts=shifts))]  # fmt: skip

    whole = measured()
    monkeypatch.setattr(transfer_pairs, "bands_of", lambda one: bands_of(one, 20_000))
    assert [one.stop - one.start for one in bands_of(detector, 20_000)] == [42] * 5 + [48]
    parts = measured()
    for key in ("mean", "variance", "count"):
        assert parts[0][key] == whole[0][key]
        # Beyond a part's edge there are neighbours.
        assert parts[2]["after"][key] == pytest.approx(whole[2]["after"][key], rel=1e-5)
    assert parts[0]["noise"] == pytest.approx(whole[0]["noise"], rel=0.01)
    assert parts[0]["first"] == pytest.approx(whole[0]["first"], rel=1e-3)
    for number, value, error in ((0, "lags", "lag_errors"), (1, "values", "errors")):
        errors = np.array(whole[number][error])
        values = [np.array(some[number][value]) for some in (whole, parts)]
        assert np.array(parts[number][error]) == pytest.approx(errors, rel=0.1)
        # Pairs of pixels on two sides of an edge are lost: some percent of them.
        assert np.abs((values[1] - values[0]) / errors).max() < 1.5
    assert band_bytes(load_detector("camd-61mpx"), 80) < 4e8


def test_bf01_gives_the_kernel_and_straight_curves(tmp_path) -> None:
    detector = load_detector("ccd273-8th")
    truth = Truth.default(detector, effects={"nonlinearity": False, "crosstalk": False})
    frames = {f"col{i:03d}": 4 if 1 < i < 9 else 0 for i in range(1, 12)}
    work = take(tmp_path, "BF01", truth, frames=frames)
    names = ("prep", "extract_COV", "extract_BF", "correct_BFE_G15", "extract_PTCs", "meta")
    # What the check does is shown with PTC01, of the same frames.
    found = run_all(work, *names, is_drawn=False)
    for one in found.values():
        assert not {"BADFIT", "BADDATAPROD"} & set(flags_of(one))
    true = true_kernel()
    pulls = []
    table = work.table("extract_BF", "KERNEL")
    for row in table:
        place = (int(row["row_lag"]), int(row["column_lag"]))
        pulls.append((float(row["k"]) - true[place]) / float(row["k_error"]))
    assert len(pulls) == 4 * 25
    assert np.max(np.abs(pulls)) < 5
    assert np.std(pulls) == pytest.approx(1.0, abs=0.3)
    for place, most in (((0, 0), 0.05), ((1, 0), 0.05), ((0, 1), 0.1)):
        some = [row for row in table if (row["row_lag"], row["column_lag"]) == place]
        value, error = (np.mean([row[key] for row in some]) for key in ("k", "k_error"))
        # Of the mean of four quadrants, an eighth of the real one wide: 4 sigma.
        assert value == pytest.approx(true[place], abs=4 * error / 2)
        assert error / 2 < most * abs(true[place])
    before = values_of(found["extract_PTCs"], "ptc_bend_before")
    after = values_of(found["extract_PTCs"], "ptc_bend_after")
    for channel, (bend, error) in after.items():
        assert bend < 1.0 + 3 * error
        assert before[channel][0] > 3.0
    own = [row["k_error"] for row in table if row["row_lag"] == row["column_lag"] == 0]
    alphas = np.array(list(values_of(found["extract_PTCs"], "alpha_after").values()))
    error = np.hypot(alphas[:, 1].mean(), np.mean(own)) / 2
    assert alphas[:, 0].mean() == pytest.approx(alpha_left(), abs=4 * error)
    for (ccd, quadrant), (width, error) in values_of(found["meta"], "fwhm_y_hwc").items():
        half = 32768 * truth.electronics.gain_e_adu[f"{ccd}{quadrant}"]
        true_width = widths(true_boundaries(), half, 12.0).y_um
        assert width == pytest.approx(true_width, abs=4 * error)
        assert error < 0.2
    # The product can be read where images are corrected, per ADU.
    path = work.folder / next(one["path"] for one in found["extract_BF"]["tables"]
                              if one["name"] == "G15TABLE")  # fmt: skip
    known = load_boundaries(path)
    gain = truth.electronics.gain_e_adu["1E"]
    mine = [row for row in table if row["quadrant"] == "E"]
    values, errors = (np.reshape([row[key] for row in mine], (LAGS, LAGS))
                      for key in ("k", "k_error"))  # fmt: skip
    kept = balanced(Coefficients(values, errors, 0 * values, 0 * values))
    areas = known[1, "E"].areas()
    assert areas[1:] == pytest.approx(kept[1:] * gain, rel=1e-6, abs=1e-15)
    k_adu = next(one["value"] for one in found["extract_BF"]["values"]
                 if one["name"] == "bf_k_adu" and one["where"]["quadrant"] == "E"
                 and (one["where"]["row_lag"], one["where"]["column_lag"]) == (1, 0))  # fmt: skip
    assert k_adu == pytest.approx(values[1, 0] * gain, rel=1e-9)
    # What makes the sum 0 is spread over all: less than the errors.
    assert np.all(np.abs(kept - values) < 2 * errors)
    (tmp_path / "none.ecsv").write_text("# no table")
    with pytest.raises(ConfigError, match=r"none\.ecsv.*G15TABLE"):
        load_boundaries(tmp_path / "none.ecsv")
