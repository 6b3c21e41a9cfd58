# SPDX-License-Identifier: BSD-3-Clause
"""Photon transfer on flat fields whose gain, noise, wells and trails are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tests.kit.calib_bench import flags_of, run_all, take, values_of
from tests.kit.depth import soaked

from nightjar.calibration.detector import load_detector
from nightjard.calib.science.covariance import covariance_curve
from nightjard.calib.science.edge_response import (
    Edge,
    inefficiency,
    parallel_edge,
    serial_edge,
)
from nightjard.calib.science.full_well import find_knee
from nightjard.calib.science.photon_transfer import (
    Points,
    bootstrap,
    fit_transfer,
    moments_like,
    moments_of,
    tile_pairs,
)
from nightjard.calib.science.robust import clipped_moments, fit_polynomial
from nightjard.simulators.detector.truth import Truth

DETECTOR = load_detector("ccd273-8th")
GAIN, ALPHA, NOISE_ADU = 3.5, 1.3e-6, 1.2


def test_the_variance_of_clipped_values_is_that_of_the_whole_distribution() -> None:
    generator = np.random.default_rng(1)
    found = [
        clipped_moments(generator.normal(50.0, 3.0, 20_000).astype(np.float32), clip)
        for clip in (3.0, 3.0, 3.0, 3.0, 4.5, 4.5)
    ]
    variances = np.array([one.variance for one in found])
    assert variances.mean() == pytest.approx(9.0, rel=3 * np.sqrt(2 / 20_000 / 6))
    # Without its correction the variance at 3 sigma would be 2.7 % low: ten of these errors.
    assert variances[:4].mean() > 9.0 * 0.985


def test_outliers_do_not_reach_mean_and_variance() -> None:
    generator = np.random.default_rng(2)
    values = generator.normal(100.0, 2.0, 10_000)
    values[::100] += generator.uniform(50, 5000, 100)
    found = clipped_moments(values)
    assert found.mean == pytest.approx(100.0, abs=0.08)
    assert found.variance == pytest.approx(4.0, rel=0.05)
    assert found.count == pytest.approx(9900, abs=10)


def test_a_polynomial_is_found_between_points_that_lie_far_off() -> None:
    x = np.linspace(-1, 1, 40)
    y = 1 + 0.5 * x - 0.2 * x**2 + np.random.default_rng(3).normal(0, 1e-3, 40)
    y[[5, 20]] += 0.3
    fit = fit_polynomial(x, y, 2)
    assert fit.kept.sum() == 38
    errors = np.sqrt(np.diag(fit.covariance))
    assert np.all(np.abs(fit.coefficients - [1, 0.5, -0.2]) < 4 * errors)
    with pytest.raises(ValueError, match="2 points for 3"):
        fit_polynomial(x[:2], y[:2], 2)


def true_kernel() -> np.ndarray:
    """[row lag, column lag], per electron; the sum over the whole plane is 0."""
    kernel = np.zeros((3, 3))
    kernel[1, 0], kernel[0, 1], kernel[1, 1] = 3e-7, 1.5e-7, 0.6e-7
    kernel[2, 0], kernel[0, 2] = 0.5e-7, 0.3e-7
    kernel[0, 0] = -ALPHA
    return kernel


SHAPE = moments_of(true_kernel())


def curve_points(
    seed: int | None, *, tiles: int = 36, pixels: int = 1764, pairs: int = 4
) -> Points:
    """Return points of known gain, alpha and noise, as counting scatters them (not: None)."""
    generator = np.random.default_rng(seed)
    mean, tile = [], []
    for level in np.array([0.05, 0.1, 0.2, 0.3, 0.5, 0.7]) * 65536:
        for _ in range(pairs):
            mean.append(level * (1 + 0.02 * np.linspace(-1, 1, tiles)))
            tile.append(np.arange(tiles))
    means = np.concatenate([*mean, np.zeros(20)])
    light, place = np.unique(means, return_inverse=True)
    photons = [covariance_curve(true_kernel(), one * GAIN)[0, 0] / GAIN**2 for one in light]
    true = NOISE_ADU**2 + np.array(photons)[place]
    count = np.where(means > 0, pixels, 5418).astype(float)
    scatter = generator.standard_normal(means.size) * (0 if seed is None else np.sqrt(2 / count))
    measured = true * (1 + scatter)
    return Points(means, measured, count, np.concatenate([*tile, np.full(20, -1)]))


def test_gain_bend_and_noise_scatter_about_the_truth_as_their_errors_say() -> None:
    pulls = []
    for seed in range(24):
        fit = fit_transfer(curve_points(seed), moments=SHAPE)
        assert fit.is_converged
        assert fit.reduced_chi2 == pytest.approx(1.0, abs=0.2)
        pulls.append([
            (fit.gain - GAIN) / fit.gain_error,
            (fit.alpha - ALPHA) / fit.alpha_error,
            (fit.noise_adu - NOISE_ADU) / fit.noise_error_adu,
        ])  # fmt: skip
    table = np.array(pulls)
    assert np.all(np.abs(table.mean(axis=0)) < 0.6)  # 3 sigma of 24
    assert np.all(np.abs(table.std(axis=0) - 1) < 0.43)


def test_the_shape_of_the_neighbours_is_in_the_curve() -> None:
    exact = curve_points(None, pairs=1)
    fit = fit_transfer(exact, moments=SHAPE)
    assert fit.gain == pytest.approx(GAIN, rel=1e-6)
    assert fit.alpha == pytest.approx(ALPHA, rel=1e-5)
    # Statistics of a full quadrant are 0.025 %: an eighth of it is left without covariances.
    like = fit_transfer(exact, moments=moments_like(SHAPE[2]))
    assert like.gain == pytest.approx(GAIN, rel=3e-5)
    assert abs(fit_transfer(exact).gain / GAIN - 1) > 5e-4


def test_errors_of_the_fit_and_of_drawn_tiles_agree() -> None:
    ratios = []
    for seed in range(8):
        points = curve_points(seed)
        fit = fit_transfer(points, moments=SHAPE)
        gain, alpha, noise = bootstrap(points, fit, 50, seed)
        ratios.append((gain / fit.gain_error, alpha / fit.alpha_error))
        assert noise < fit.noise_error_adu  # the prescan is in every draw
    assert np.mean(ratios, axis=0) == pytest.approx([1.0, 1.0], abs=0.2)
    assert bootstrap(points, fit, 50, 7) == (gain, alpha, noise)  # nothing is left to chance


def test_a_parabola_fits_a_parabola_and_a_straight_line_has_no_bend() -> None:
    points = curve_points(1)
    mean = points.mean
    noise = points.variance / curve_points(None).variance
    parabola = (1.44 + mean / GAIN - ALPHA * mean**2) * noise
    fit = fit_transfer(dataclasses.replace(points, variance=parabola), model="quadratic")
    assert fit.gain == pytest.approx(GAIN, abs=4 * fit.gain_error)
    assert fit.alpha == pytest.approx(ALPHA, abs=4 * fit.alpha_error)
    line = dataclasses.replace(points, variance=(1.44 + mean / GAIN) * noise)
    straight = fit_transfer(line)
    assert abs(straight.alpha) < 4 * straight.alpha_error
    with pytest.raises(ValueError, match="too few"):
        fit_transfer(points.chosen(np.arange(3)))


def test_dead_and_hot_pixels_do_not_change_the_variance_of_a_tile() -> None:
    generator = np.random.default_rng(4)
    pattern = 1 + 0.01 * generator.standard_normal((100, 100))
    light = 2e4 * pattern
    light[:, 50] *= 0.05
    frames = [generator.normal(light, np.sqrt(light / GAIN)).astype(np.float32) for _ in range(2)]
    frames[0][10, 20] += 3e4  # a cosmic ray
    found = tile_pairs(*frames, np.zeros((100, 100), bool), [(slice(0, 100), slice(0, 100))])
    assert found.count[0] == pytest.approx(9899, abs=3)
    assert found.mean[0] == pytest.approx(2e4, rel=1e-3)
    assert found.variance[0] == pytest.approx(2e4 / GAIN, rel=3.5 * np.sqrt(2 / 9900))
    bad = np.zeros((100, 100), bool)
    bad[:30] = True
    assert tile_pairs(*frames, bad, [(slice(0, 100), slice(0, 100))]).count[0] == 0


# --- full well ---


def bloomed(light: np.ndarray, well: np.ndarray) -> np.ndarray:
    """Return columns whose excess has flowed up and down until it found room."""
    held, excess = np.minimum(light, well), np.maximum(light - well, 0) / 2
    for rows in (range(light.shape[0]), range(light.shape[0] - 1, -1, -1)):
        flowing = np.zeros(light.shape[1])
        for row in rows:
            taken = np.minimum(well[row] - held[row], flowing)
            held[row] += taken
            flowing = flowing - taken + excess[row]
    return held


@pytest.mark.parametrize("levels", [(0.8, 0.9, 1.0, 1.1), (0.85, 0.94, 0.97, 0.985, 0.995)])
def test_the_knee_is_where_charge_begins_to_flow(levels: tuple[float, ...]) -> None:
    generator = np.random.default_rng(6)
    well = 210e3 * (1 + 0.02 * generator.standard_normal((120, 120)))
    tiles = [(slice(y, y + 40), slice(x, x + 40)) for y in (0, 40, 80) for x in (0, 40, 80)]
    found: list[tuple[float, float, float, int]] = []
    for level in (0.2, 0.4, 0.5, *levels):
        for _ in range(2):
            frames = [
                (bloomed(generator.normal(level * 210e3, np.sqrt(level * 210e3), well.shape), well)
                 / GAIN).astype(np.float32) for _ in range(2)
            ]  # fmt: skip
            measured = tile_pairs(*frames, np.zeros(well.shape, bool), tiles)
            found += zip(measured.mean, measured.variance, measured.count, range(9), strict=True)
    generator.shuffle(found)  # the order of acquisition must not matter
    points = Points(*(np.array(one, float) for one in list(zip(*found, strict=True))[:3]),
                    np.array([one[3] for one in found]))  # fmt: skip
    fit = fit_transfer(points.chosen(points.mean < 32e3))
    knee = find_knee(points, fit, from_adu=31e3)
    assert knee.is_reached
    assert knee.level == pytest.approx(60e3, rel=0.02)
    assert 0 < knee.error < 0.02 * knee.level
    assert knee.onset <= knee.level
    below = find_knee(points.chosen(points.mean < 0.9 * 60e3), fit, from_adu=31e3)
    assert not below.is_reached
    assert below.level == pytest.approx(points.mean[points.mean < 0.9 * 60e3].max())


# --- trails ---


def transferred(
    light: np.ndarray, before: int, behind: int, cti: float, tail: float
) -> np.ndarray:
    """Move packets out along the first axis; each leaves a share of itself at every step."""
    keep = np.exp(-1 / tail)
    late, out = np.zeros(light.shape[1]), np.zeros((light.shape[0] + behind, light.shape[1]))
    for place in range(out.shape[0]):
        charge = light[place] if place < light.shape[0] else np.zeros_like(late)
        left = charge * cti * (before + place + 1)
        out[place] = charge - left + late * (1 - keep)
        late = late * keep + left
    return out


def edge_frame(
    direction: str, cti: float, tail: float, generator: np.random.Generator, slope: float = 0.0
) -> np.ndarray:
    """Return a flat field that trails in one direction, brighter along it, on a sloping offset."""
    rows, columns = DETECTOR.image_rows, DETECTOR.columns_of("image")
    count = DETECTOR.image_columns
    light = np.full((rows, count), 32e3) * generator.normal(1, 0.01, (rows, count))
    light *= np.linspace(0.97, 1.03, rows)[:, None] * np.linspace(0.97, 1.03, count)
    light = generator.poisson(light * GAIN) / GAIN
    image = np.zeros(DETECTOR.quadrant_shape)
    if direction == "serial":
        image[:rows, columns.start :] = transferred(
            light.T, DETECTOR.prescan, DETECTOR.overscan, cti, tail
        ).T
    else:
        image[:, columns] = transferred(light, 0, DETECTOR.parallel_overscan, cti, tail)
    image += slope * np.arange(image.shape[1]) + slope * np.arange(image.shape[0])[:, None]
    return (image + generator.normal(0, 1.2, image.shape)).astype(np.float32)


EDGES = (("serial", serial_edge, DETECTOR.prescan + DETECTOR.image_columns),
         ("parallel", parallel_edge, DETECTOR.image_rows))  # fmt: skip


@pytest.mark.parametrize(("share", "tail"), [(2e-6, 2.0), (6e-6, 5.0)])
def test_trails_tell_the_share_that_each_transfer_leaves_behind(share: float, tail: float) -> None:
    keep = np.exp(-1 / tail)
    none = np.zeros(DETECTOR.quadrant_shape, bool)
    for direction, edge_of, transfers in EDGES:
        generator, pulls = np.random.default_rng(8), []
        for slope in (0.0, 0.003, -0.003):
            frame = edge_frame(direction, share, tail, generator, slope)
            found = edge_of(frame, none, DETECTOR)
            assert found is not None
            assert found.lines > 200
            result = inefficiency(found, transfers)
            assert result.error < 0.12 * share
            pulls.append((result.cti - share) / result.error)
            assert result.deferred == pytest.approx(share / (1 - keep), rel=0.25)
            assert found.hard_edge[0] == pytest.approx(share * transfers, rel=0.15)
        assert np.max(np.abs(pulls)) < 3.5


def test_packets_before_the_last_one_were_moved_less_often() -> None:
    """Of a tail of 5 px it is 4.5 of 258 transfers, 1.7 %; without noise nothing is left of it."""
    light = np.full((DETECTOR.image_rows, 30), 32e3) * np.linspace(0.9, 1.1, 258)[:, None]
    profile = transferred(light, 0, 20, 6e-6, 5.0).mean(axis=1)
    edge = Edge(profile[-30:-20], profile[-20:], np.full(20, 0.01), 30)
    assert inefficiency(edge, 258).cti == pytest.approx(6e-6, rel=2e-3)


def test_the_curve_of_the_converter_is_in_the_error_of_a_trail_without_noise() -> None:
    light = np.full((DETECTOR.image_rows, 30), 32e3)
    profile = transferred(light, 0, 20, 6e-6, 5.0).mean(axis=1)
    for curve in (-0.004, 0.004):  # of the signal; a few ADU are read as they are
        edge = Edge(profile[-30:-20] * (1 + curve), profile[-20:], np.full(20, 1e-4), 30)
        found = inefficiency(edge, 258)
        assert abs(found.cti - 6e-6) < 2 * found.error
        assert found.error < 0.005 * 6e-6


def test_no_trail_is_compatible_with_none_and_dark_frames_have_no_edge() -> None:
    pulls = []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        image = generator.normal(0, 1.2, DETECTOR.quadrant_shape)
        image[: DETECTOR.image_rows, DETECTOR.columns_of("image")] += 32e3
        pixels, bad = image.astype(np.float32), np.zeros(image.shape, bool)
        edge = serial_edge(pixels, bad, DETECTOR)
        assert edge is not None
        found = inefficiency(edge, 307)
        pulls.append(found.cti / found.error)
    assert np.abs(np.mean(pulls)) < 4 / np.sqrt(12)
    assert np.max(np.abs(pulls)) < 4
    assert serial_edge(pixels - np.float32(31e3), bad, DETECTOR) is None


# --- the whole test on simulated frames ---

FEW = {f"col{i:03d}": 4 if i < 7 else 2 for i in range(1, 12)}


@pytest.mark.parametrize("ccds", [(1,), soaked((1, 2, 3))])
def test_ptc01_gives_gain_noise_full_well_and_inefficiency(tmp_path, ccds) -> None:
    truth = Truth.default(DETECTOR, effects={"nonlinearity": False, "crosstalk": False})
    work = take(tmp_path, "PTC01", truth, ccds=ccds,
                frames={} if len(ccds) > 1 else {**FEW, "col003": 5})  # fmt: skip
    found = run_all(work)
    gains, alphas = values_of(found["meta"], "gain"), values_of(found["meta"], "alpha")
    noises = values_of(found["meta"], "read_noise_adu")
    wells = values_of(found["meta"], "bloom_full_well_e")
    assert len(gains) == 4 * len(ccds)
    pulls = []
    for (ccd, quadrant), (gain, error) in gains.items():
        channel = f"{ccd}{quadrant}"
        true = truth.electronics.gain_e_adu[channel]
        assert error < 0.005 * gain
        pulls.append((gain - true) / error)
        assert alphas[ccd, quadrant][0] == pytest.approx(1.3e-6, abs=4 * alphas[ccd, quadrant][1])
        assert noises[ccd, quadrant][0] == pytest.approx(
            truth.electronics.read_noise_adu[channel], rel=0.01
        )
        well, well_error = wells[ccd, quadrant]
        assert well == pytest.approx(truth.full_well.electrons[channel], rel=0.02)
        assert well == pytest.approx(truth.full_well.electrons[channel], abs=3 * well_error)
        assert well_error < 0.02 * well
        for direction, shares in (("serial", truth.transfer.serial),
                                  ("parallel", truth.transfer.parallel)):  # fmt: skip
            cti, cti_error = values_of(found["extract_HER"], f"cti_{direction}")[ccd, quadrant]
            assert cti == pytest.approx(shares[channel], abs=4 * cti_error)
            assert cti_error < 0.03 * shares[channel]  # a tenth is wanted
    count = len(pulls)
    assert abs(np.mean(pulls)) < 3.5 / np.sqrt(count)
    assert np.max(np.abs(pulls)) < 3.5
    mean_alpha = np.mean([value for value, _ in alphas.values()])
    assert mean_alpha == pytest.approx(1.3e-6, rel=0.05)
    times = values_of(found["check"], "saturation_time")
    assert times[1, "E"][0] == pytest.approx(3.5, rel=0.05)
    assert "FLUX_OOL" not in flags_of(found["check"])
    for one in found.values():
        assert not {"BADFIT", "UNDERPERFORM"}.intersection(flags_of(one))
    if len(ccds) == 1:  # of five frames one is left over, and told
        alone = [note for note in found["extract_PTC"]["notes"] if "col003" in note]
        assert len(alone) == 1
        columns = set(work.table("extract_PTC", "PTC")["column"])
        assert "col003" in columns
    assert {image["name"] for image in found["meta"]["images"]} == {
        f"BloomMap_PTC01_CCD{ccd}" for ccd in ccds
    }


def test_a_lamp_that_is_too_bright_is_flagged(tmp_path) -> None:
    truth = Truth.default(
        DETECTOR, effects={"crosstalk": False}, overrides={"light.flat_rate_factor": 1.12}
    )
    frames = {f"col{i:03d}": 0 for i in range(6, 12)} | {f"col{i:03d}": 2 for i in range(1, 6)}
    work = take(tmp_path, "PTC01", truth, frames=frames)
    found = run_all(work, "check", "prep", "extract_PTC", "meta", is_drawn=False)
    assert {"FLUX_OOL", "FLUENCE_OOL"} <= set(flags_of(found["check"]))
    time_s, error = values_of(found["check"], "saturation_time")[1, "F"]
    assert time_s == pytest.approx(3.5 / 1.12, rel=0.03)
    assert error < 0.1
    # The highest level is half of full scale: the well is not reached, and that is said.
    wells = [one for one in found["meta"]["values"] if one["name"] == "bloom_full_well"]
    assert all(one["error"] is None and "lower limit" in one["note"] for one in wells)


def test_a_register_that_leaves_too_much_behind_is_flagged(tmp_path) -> None:
    truth = Truth.default(
        DETECTOR, effects={"nonlinearity": False, "crosstalk": False},
        overrides={"transfer.serial": 8e-6},
    )  # fmt: skip
    frames = {f"col{i:03d}": 2 if 5 <= i <= 7 else 0 for i in range(1, 12)}
    work = take(tmp_path, "PTC01", truth, frames=frames)
    found = run_all(work, "prep", "extract_PTC", "extract_HER", is_drawn=False)
    moved = DETECTOR.prescan + DETECTOR.image_columns
    for channel, (value, _) in values_of(found["extract_HER"], "her_serial").items():
        assert value == pytest.approx(8e-6 * moved, rel=0.1), channel
    (flag,) = [one for one in found["extract_HER"]["flags"] if one["name"] == "UNDERPERFORM"]
    assert "of the signal, allowed are 1.5e-03" in flag["cause"]


def test_a_lamp_that_flickers_bends_no_curve(tmp_path) -> None:
    # Frames of a pair differ by 6 %. What pixels respond differently is then in their difference
    # and grows with the square of the signal: as alpha does, which would be a tenth too small.
    truth = Truth.default(
        DETECTOR, effects={"nonlinearity": False, "crosstalk": False, "persistence": False},
        overrides={"light.lamp_amplitude": 0.03, "light.lamp_period_s": 186.0,
                   "light.lamp_phase": 2.9},
    )  # fmt: skip
    work = take(tmp_path, "PTC01", truth, frames={f"col{i:03d}": 4 for i in range(1, 12)})
    found = run_all(work, "prep", "extract_PTC", "meta", is_drawn=False)
    assert not found["extract_PTC"]["notes"]
    gains, alphas = (values_of(found["meta"], name) for name in ("gain", "alpha"))
    for (ccd, quadrant), (gain, error) in gains.items():
        true = truth.electronics.gain_e_adu[f"{ccd}{quadrant}"]
        assert error < 0.005 * true
        assert gain == pytest.approx(true, abs=3 * error)
    mean_alpha = np.mean([value for value, _ in alphas.values()])
    mean_error = np.mean([error for _, error in alphas.values()]) / 2
    assert mean_alpha == pytest.approx(1.3e-6, abs=2.5 * mean_error)
    assert "BADFIT" not in flags_of(found["meta"])
