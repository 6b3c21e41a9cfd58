# SPDX-License-Identifier: BSD-3-Clause
"""Linearity from levels and frames whose curve, lamp and shutter are known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.kit.calib_bench import flags_of, run_all, take, values_of
from tests.kit.depth import counts, soaked

from nightjar.calibration.detector import load_detector
from nightjar.errors import ConfigError
from nightjard.calib.results import Results
from nightjard.calib.science.latent import fading, follow
from nightjard.calib.science.linearity import Exposures, lamp_track, measure_linearity
from nightjard.calib.science.linearity_curve import Curve, referenced
from nightjard.calib.tasks.linearity import _take_out_dark
from nightjard.calib.tasks.transfer_options import TransferOptions
from nightjard.calib.tasks.transfer_pairs import curves_of, linearised, load_curves
from nightjard.calib.work import Work
from nightjard.simulators.detector.scene import lamp_factor
from nightjard.simulators.detector.truth import Truth

FULL = 65536.0
TILES, PIXELS, GAIN = 36, 1764, 3.5
SATURATION_S = {0: 73.4, 1: 7.2}


def truth_pc(part: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """The curve that frames are made with, percent, by light in parts of full scale."""
    curve = 2.0 * np.exp(-(part - 0.05) / 0.1) + 0.6 * part - 0.3 * part**2 + 0.5 * part**3
    return strength * curve


def plan(test: str) -> list[tuple[float, int]]:
    """Commanded exposure and group of every frame: 0 behind the neutral density filter."""
    if test == "NL01":
        parts = (0.5, 0.7, 1, 2, 3, 5, 10, 20, 30, 55, 70, 80, 85, 90, 95, 100, 110)
        levels = [(part, 0) for part in parts]
    else:
        levels = [(part, 0) for part in (0.5, 0.7, 1, 2, 3, 5, 10, 15, 20, 25)]
        levels += [(part, 1) for part in (15, 20, 25, 50, 70, 80, 85, 90, 95, 100, 110)]
    stable = (0.5 * SATURATION_S[levels[-1][1]], levels[-1][1])
    frames = [stable]
    for part, group in levels:
        frames += [(part / 100 * SATURATION_S[group], group)] * 4 + [stable]
    return frames


def exposures(
    test: str, *, seed: int = 0, shutter_s: float = 0.0, drift: float = 0.005,
    strength: float = 1.0, rate: float = 1.03,
) -> tuple[Exposures, np.ndarray, np.ndarray]:  # fmt: skip
    """Return levels of a test, the lamp, and which frames are the repeated ones."""
    generator = np.random.default_rng(seed)
    frames = plan(test)
    time_s = 100.0 * np.arange(len(frames))
    phase = time_s / time_s[-1]
    lamp = 1 + drift * 4 * phase * (1 - phase) * 0.8 + 0.2 * drift * phase
    seconds = np.array([one for one, _ in frames])
    group = np.array([one for _, one in frames])
    place = 1 + 0.03 * np.linspace(-1, 1, TILES)
    light = (seconds + shutter_s) / np.array([SATURATION_S[one] for one in group]) * lamp
    light = FULL * (light * np.where(group == 1, rate, 1.0))[:, None] * place
    signal = np.minimum(light * (1 + truth_pc(light / FULL, strength) / 100), 60000.0)
    error = np.sqrt((signal / GAIN + 1.2) / PIXELS)
    level = signal + error * generator.standard_normal(signal.shape)
    stable = seconds == frames[0][0]
    return Exposures(time_s, seconds, group, level, error), lamp, stable


def truth_curve(strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return signals as measured and their true non-linearity, on the reference of results."""
    light = np.linspace(300, 60000, 4000)
    signal = light * (1 + truth_pc(light / FULL, strength) / 100)
    middle = np.linspace(0.15, 0.25, 41) * FULL
    rate = float((middle / np.interp(middle, signal, light)).mean())
    return signal, 100 * (signal / (rate * light) - 1)


@pytest.mark.parametrize("test", ["NL01", "NL02"])
def test_the_curve_is_found_to_a_tenth_of_the_tolerance(test: str) -> None:
    data, lamp, stable = exposures(test)
    track = lamp_track(data.time_s[stable], data.level[stable], data.error[stable])
    left = track(data.time_s) / lamp
    assert np.ptp(left / left.mean()) < 0.0005  # of 0.5 %; it is far better than that
    found = measure_linearity(data, track)
    signal, true = truth_curve()
    inside = (signal > 500) & (signal < 55000)
    assert np.abs(found.curve(signal) - true)[inside].max() < 0.03  # 0.1 is wanted
    worst = np.interp(found.maximum_at, signal, true)
    assert found.maximum_pc == pytest.approx(worst, abs=0.05)
    assert 0 < found.maximum_error_pc < 0.02
    assert found.residual_pc < 0.03
    assert abs(found.shutter_s) < 4 * found.shutter_error_s < 0.001
    # Straight again: what a linear detector would have given, but for one factor.
    ratio = found.curve.linearised(signal[inside]) / np.linspace(300, 60000, 4000)[inside]
    assert np.ptp(ratio / ratio.mean()) < 0.0006


@pytest.mark.parametrize("count", counts(4, 12))
def test_errors_of_the_largest_deviation_are_honest(count: int) -> None:
    signal, true = truth_curve()
    pulls = []
    for seed in range(count):
        data, _, stable = exposures("NL02", seed=seed)
        track = lamp_track(data.time_s[stable], data.level[stable], data.error[stable])
        found = measure_linearity(data, track, draws=8, seed=seed)
        wanted = np.interp(found.maximum_at, signal, true, left=2.59)
        pulls.append((found.maximum_pc - wanted) / np.hypot(found.maximum_error_pc, 0.01))
    assert np.std(pulls) < 2.0
    assert abs(np.mean(pulls)) < 1.5


@pytest.mark.parametrize(("test", "shutter_s"), [("NL01", 0.03), ("NL02", -0.03)])
def test_exposure_times_that_are_30_ms_wrong_are_found(test: str, shutter_s: float) -> None:
    data, _, stable = exposures(test, shutter_s=shutter_s, strength=0.2)
    track = lamp_track(data.time_s[stable], data.level[stable], data.error[stable])
    found = measure_linearity(data, track, draws=2)
    assert found.shutter_s == pytest.approx(shutter_s, abs=0.002)
    assert abs(found.shutter_s) > 10 * found.shutter_error_s
    mended = measure_linearity(data, track, draws=2, is_shutter_fitted=True)
    signal, true = truth_curve(0.2)
    inside = (signal > 500) & (signal < 55000)
    assert np.abs(mended.curve(signal) - true)[inside].max() < 0.1
    # Not corrected, the faint end is off by percents: it matters.
    assert np.abs(found.curve(signal) - true)[inside].max() > 1.0


def test_a_frame_that_was_exposed_wrongly_is_left_out() -> None:
    data, _, stable = exposures("NL02")
    clean = lamp_track(data.time_s[stable], data.level[stable], data.error[stable])
    data.level[33] *= 1.02
    repeated = np.nonzero(stable)[0][5]
    data.level[repeated] *= 0.98
    track = lamp_track(data.time_s[stable], data.level[stable], data.error[stable])
    assert track.kept.sum() == stable.sum() - 1
    assert np.abs(track(data.time_s) / clean(data.time_s) - 1).max() < 2e-4
    found = measure_linearity(data, track, draws=2)
    assert {33, repeated} <= set(found.dropped)
    signal, true = truth_curve()
    inside = (signal > 500) & (signal < 55000)
    assert np.abs(found.curve(signal) - true)[inside].max() < 0.03


def faint_frames(charge: float, tau_s: float, seed: int) -> tuple[np.ndarray, ...]:
    """Return time, level, error and kind of faint frames of four quadrants of another response."""
    generator = np.random.default_rng(seed)
    kind = np.repeat(np.arange(6), [3, 4, 4, 4, 4, 4])
    time_s = 27.0 * np.arange(kind.size)
    light = np.array([0.0, 330.0, 460.0, 650.0, 800.0, 950.0])[kind]
    error = np.repeat(0.02 + 1e-3 * np.sqrt(light)[:, None], 4, axis=1)
    level = light[:, None] * (1 + 0.02 * np.exp(-light / 300))[:, None] * [1.0, 1.02, 0.97, 1.01]
    level = level + charge * np.array([1.0, 1.1, 0.9, 1.0]) * np.exp(-time_s / tau_s)[:, None]
    return time_s, level + error * generator.standard_normal(error.shape), error, kind


def test_charge_that_fades_from_an_earlier_test_is_found_whatever_the_response() -> None:
    for seed in range(6):
        data = faint_frames(15.0, 600.0, seed)
        found = fading(*data)
        true = 15.0 * np.outer([1.0, 1.1, 0.9, 1.0], np.exp(-data[0] / 600.0))
        left = found.at(data[0]) - true
        # A constant part is what dark frames have, too. 0.1 % of 500 ADU is what matters: half.
        assert np.abs(left - left.mean(axis=1, keepdims=True)).max() < 0.25
        assert not fading(*faint_frames(0.0, 600.0, seed)).charge.any()
        assert not fading(*faint_frames(-15.0, 600.0, seed)).charge.any()  # nothing that grows


@pytest.mark.parametrize("phase", [0.0, 0.7, 1.5, 2.2, 3.0])
def test_the_lamp_is_followed_past_frames_that_trapped_in_part(phase: float) -> None:
    time_s = np.arange(46) * 180.0
    lamp = 1 + 0.0025 * np.sin(2 * np.pi * time_s / 15000 + phase)
    latent = np.where(time_s > 6400, 0.85, 0.0)
    partly = np.where((time_s > 6000) & (time_s < 6400), 1.2e-4, 0.0)
    noise = np.random.default_rng(3).normal(0, 7e-6, 46)
    track, part = follow(time_s, lamp + 5e-4 * latent + partly + noise, latent)
    assert part == pytest.approx(5e-4, rel=0.2)
    found = track(time_s)
    # A fifth of what the drift of the lamp may leave, 0.05 %.
    np.testing.assert_allclose(found / found.mean(), lamp / lamp.mean(), atol=1e-4)


def test_too_few_levels_are_refused() -> None:
    data, _, stable = exposures("NL02")
    track = lamp_track(data.time_s[stable], data.level[stable], data.error[stable])
    with pytest.raises(ValueError, match="too few levels"):
        measure_linearity(data.chosen(data.exposure_s > 6.0), track)


def test_both_references_are_zero_where_they_say() -> None:
    raw = Curve(FULL, 0.2, 0.1, (0.5, 0.06, -0.03, 0.05, 0.0))
    middle = np.linspace(0.15, 0.25, 41) * FULL
    for name in ("origin", "segment"):
        curve = referenced(raw, name)  # type: ignore[arg-type]
        assert np.abs(curve(middle).mean()) < 1e-3
        assert Curve.from_json(json.loads(json.dumps(curve.as_json()))) == curve
    line = referenced(raw, "segment")
    # On its own line there is no slope left; on the one through zero light there is.
    slopes = [np.polyfit(middle, referenced(raw, name)(middle), 1)[0] * FULL
              for name in ("origin", "segment")]  # type: ignore[arg-type]  # fmt: skip
    assert abs(slopes[1]) < 0.1 * abs(slopes[0])
    assert line.intercept != 0


def test_pixels_are_linearised_without_new_noise() -> None:
    curve = referenced(Curve(FULL, 0.2, 0.1, (0.5, 0.06, -0.03, 0.05, 0.0)), "origin")
    pixels = np.random.default_rng(1).uniform(-5, 60000, (50, 60)).astype(np.float32)
    exact = curve.linearised(np.maximum(pixels, 1.0)) * pixels / np.maximum(pixels, 1.0)
    assert linearised(pixels, curve) == pytest.approx(exact, abs=0.02)


def test_a_product_that_is_none_is_refused_by_name(tmp_path) -> None:
    path = tmp_path / "NL.json"
    path.write_text('{"content": [{"ccd": 1}]}')
    with pytest.raises(ConfigError, match=r"NL\.json.*NL_MODEL"):
        load_curves(str(path))
    assert load_curves(None) == {}


# --- the whole test on simulated frames ---

DETECTOR = load_detector("ccd273-8th")


def dark_pc(truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """Return measured signals and the true curve of a simulated detector."""
    amplitude, start, scale = truth.electronics.nonlinearity
    light = np.linspace(300, 60000, 3000)
    part = light / FULL
    curve = amplitude * np.exp(-(part - start) / scale)
    curve += np.polyval(truth.electronics.nonlinearity_polynomial, part)
    signal = light * (1 + truth.electronics.nonlinearity_scale * curve / 100)
    middle = np.linspace(0.15, 0.25, 41) * FULL
    rate = float((middle / np.interp(middle, signal, light)).mean())
    return signal, 100 * (signal / (rate * light) - 1)


def measured(folder: Path, test: str) -> tuple[Work, dict[str, Any], Truth]:
    """Take a linearity test of a detector with the published curve; return what was found."""
    truth = Truth.default(
        DETECTOR, effects={"crosstalk": False}, overrides={"electronics.nonlinearity_scale": 1.0}
    )
    frames = {f"col{i:03d}": 2 if i < 23 else 1 for i in range(3, 45, 2)}
    work = take(folder, test, truth, frames=frames)
    names = ("check", "prep", "extract", "NL", "satCTE")
    return work, run_all(work, *names, is_drawn=False), truth


@pytest.fixture(scope="module")
def nl02(tmp_path_factory) -> tuple[Work, dict[str, Any], Truth]:
    return measured(tmp_path_factory.mktemp("NL02"), "NL02")


@pytest.mark.parametrize("test", ["NL02", soaked("NL01")])
def test_linearity_tests_give_the_curve_of_the_detector(tmp_path, request, test: str) -> None:
    shared = test == "NL02"
    work, found, truth = (
        request.getfixturevalue("nl02") if shared else measured(tmp_path, test)
    )
    curves = load_curves(str(work.folder / found["NL"]["documents"][0]["path"]))
    assert set(curves) == {(1, quadrant) for quadrant in "EFGH"}
    signal, true = dark_pc(truth)
    inside = (signal > 500) & (signal < 55000)
    for curve in curves.values():
        assert np.abs(curve(signal) - true)[inside].max() < 0.1
    offset, error = values_of(found["NL"], "shutter_offset")[()]
    assert abs(offset) < 0.003
    assert error < 0.001
    assert "POORQUALDATA" not in flags_of(found["NL"])
    for (_, quadrant), (value, _) in values_of(found["satCTE"], "cti_parallel").items():
        assert value == pytest.approx(truth.transfer.parallel[f"1{quadrant}"], rel=0.1)
    waves = {one["where"].get("wave") for one in found["check"]["values"]
             if one["name"] == "saturation_time"}  # fmt: skip
    assert waves == ({0, 880} if test == "NL02" else {0})
    assert "FLUX_OOL" not in flags_of(found["check"])


def test_the_lamp_is_that_of_the_truth(nl02: tuple[Work, dict[str, Any], Truth]) -> None:
    work, found, truth = nl02
    table, frames = work.table("NL", "NL_LAMP"), {one.obsid: one for one in work.dataset.frames}
    lamp = np.array([lamp_factor(truth, frames[int(obsid)].utc_ns) for obsid in table["obsid"]])
    track = np.asarray(table["track"])
    np.testing.assert_allclose(track / track.mean(), lamp / lamp.mean(), atol=5e-5)
    kept = np.asarray(table["is_used"], bool)
    assert kept.sum() >= len(kept) - 1
    # Without what bright frames left behind.
    seen, lamp = np.asarray(table["brightness"])[kept], lamp[kept]
    np.testing.assert_allclose(seen / seen.mean(), lamp / lamp.mean(), atol=1e-4)
    charge, _ = values_of(found["NL"], "latent_charge")[()]
    electrons = np.mean([truth.persistence.electrons[f"1{quadrant}"] for quadrant in "EFGH"])
    gain = np.mean([truth.electronics.gain_e_adu[f"1{quadrant}"] for quadrant in "EFGH"])
    assert charge == pytest.approx(electrons / gain, rel=0.15)


def test_frames_without_light_that_are_lost_are_told(tmp_path, nl02) -> None:
    work, found, _truth = nl02
    table = work.table("extract", "NL_LEVELS")
    dark = {one.obsid for one in work.dataset.frames if one.exposure_s == 0}
    is_lost = np.isin(table["obsid"], list(dark)) & (table["quadrant"] == "G")
    again = dataclasses.replace(work, folder=tmp_path)
    again.results = Results(tmp_path, "NL02", "extract")
    again.results.table("NL_LEVELS", table[~np.asarray(is_lost)])
    again.results.close()
    less = run_all(again, "NL", is_drawn=False)["NL"]
    cause = flags_of(less)["POORQUALDATA"]["cause"]
    assert cause.startswith("CCD1 G: no frame without light")
    before, after = (values_of(one, "nl_max") for one in (found["NL"], less))
    assert after[1, "E"][0] == pytest.approx(before[1, "E"][0], rel=1e-4)
    assert after[1, "G"][0] == pytest.approx(before[1, "G"][0], abs=0.3)


def test_a_tile_that_no_frame_without_light_shows_does_not_count() -> None:
    level = np.array([[5.0, np.nan, 4.0], [7.0, np.nan, np.nan], [100.0, 100.0, 100.0]])
    work: Any = None  # nothing is to be told
    _take_out_dark(work, {(1, "E"): (level, np.ones((3, 3)))}, np.array([True, True, False]))
    np.testing.assert_array_equal(level[2], [94.0, np.nan, 96.0])


def test_photon_transfer_with_the_curves_of_a_linearity_test(tmp_path, nl02) -> None:
    """NL02's product goes into PTC01: gain and noise are those of a linear detector."""
    first, done, truth = nl02
    path = first.folder / done["NL"]["documents"][0]["path"]
    few = {f"col{i:03d}": (4 if i < 4 else 2) if i < 7 else 0 for i in range(1, 12)}
    work = take(tmp_path / "PTC01", "PTC01", truth, frames=few)
    plain = run_all(work, "prep", "extract_PTC", "meta", is_drawn=False)["meta"]
    work.inputs.linearity = path
    found = run_all(work, "extract_PTC", "meta", is_drawn=False)["meta"]
    amplitude, start, scale = truth.electronics.nonlinearity
    middle = np.linspace(0.15, 0.25, 41)
    curve = amplitude * np.exp(-(middle - start) / scale)
    curve += np.polyval(truth.electronics.nonlinearity_polynomial, middle)
    rate = 1 + float(curve.mean()) / 100  # the factor that no linearity test can know
    pulls, before = [], []
    for channel, (gain, error) in values_of(found, "gain").items():
        name = f"{channel[0]}{channel[1]}"
        true = truth.electronics.gain_e_adu[name] / rate
        pulls.append((gain - true) / error)
        before.append((values_of(plain, "gain")[channel][0] - true) / error)
        noise, noise_error = values_of(found, "read_noise_adu")[channel]
        assert noise == pytest.approx(truth.electronics.read_noise_adu[name], abs=4 * noise_error)
    assert abs(np.mean(pulls)) < 3.5 / np.sqrt(len(pulls))
    assert abs(np.mean(before)) > 3.5 / np.sqrt(len(pulls)) + abs(np.mean(pulls))
    alphas = np.array(list(values_of(found, "alpha").values()))
    assert abs(((alphas[:, 0] - 1.3e-6) / alphas[:, 1]).mean()) < 3.5 / np.sqrt(len(pulls))


def test_curves_that_lack_a_quadrant_are_told(tmp_path) -> None:
    work = take(tmp_path, "PTC01", Truth.default(DETECTOR, effects="plain"),
                frames={f"col{i:03d}": 0 for i in range(2, 12)} | {"col001": 1})  # fmt: skip
    curve = Curve(FULL, 0.2, 0.1, (0.5, 0.06, -0.03, 0.05, 0.0)).as_json()
    path = tmp_path / "NL_MODEL.json"
    path.write_text(json.dumps({"content": [{"ccd": 1, "quadrant": "E", "curve": curve}]}))
    work.inputs.linearity = path
    assert set(curves_of(work, TransferOptions())) == {(1, "E")}
    assert "no curve of CCD1 F, CCD1 G, CCD1 H" in work.results.notes[0]


def test_a_shutter_table_that_is_30_ms_wrong_is_flagged(nl02) -> None:
    work = dataclasses.replace(nl02[0])
    profile = work.dataset.profile
    short = [(one, 0.0 if one == 0 else is_open - 0.03) for one, is_open in profile.shutter]
    work.dataset = dataclasses.replace(
        work.dataset, profile=profile.model_copy(update={"shutter": short})
    )
    found = run_all(work, "NL", is_drawn=False)["NL"]
    assert values_of(found, "shutter_offset")[()][0] == pytest.approx(0.03, abs=0.003)
    assert flags_of(found)["POORQUALDATA"]["metric"] == "shutter_offset"
    assert any("shutter table" in note for note in found["notes"])
