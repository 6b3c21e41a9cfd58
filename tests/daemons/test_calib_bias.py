# SPDX-License-Identifier: BSD-3-Clause
"""BIAS01 and its cores: offsets, read noise, pick-up, master bias against what was put in."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.calib_bench import EQUIPMENT, FIRST_OBSID, START_NS, run_all, take, values_of
from kit.depth import counts
from nightjar.calibration.catalogue import load_catalogue
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import load_detector
from nightjard.calib.prepare import Recipe
from nightjard.calib.science.background import smooth_model
from nightjard.calib.science.noise_power import (
    PIXEL_S,
    Timing,
    correlations,
    find_lines,
    spectrum_of,
)
from nightjard.calib.science.read_noise import (
    clipped_std,
    converter_hints,
    drift_of,
    noise_of_differences,
)
from nightjard.calib.science.stack import stack_frames
from nightjard.calib.tasks.bias_channel import analyse_channel, channel_strips
from nightjard.simulators.detector.bench import Bench
from nightjard.simulators.detector.truth import Truth

EIGHTH = load_detector("ccd273-8th")
LINE_S = 4e-3 + PIXEL_S * EIGHTH.quadrant_shape[1]
PICKUP_ADU = 0.1
TRUTH = Truth.default(
    EIGHTH, effects={"persistence": False}, overrides={"electronics.pickup": [(5010.0, PICKUP_ADU)]}
)
Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def bias(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Found]:
    work = take(tmp_path_factory.mktemp("bias"), "BIAS01", TRUTH)
    return work, run_all(work)


def offset_of_frames(quadrant: str) -> list[float]:
    """The offset of every frame as the bench put it in, drift included."""
    profile = load_profile("B_NOSTROMO")
    script = load_catalogue().script(
        "BIAS01", equipment=EQUIPMENT, profile=profile, detector=EIGHTH
    )
    bench, found = Bench(EIGHTH, TRUTH, profile), []
    for number in range(10):
        bench.expose(FIRST_OBSID + number, dict(script.columns[0].values),
                     START_NS + number * 93_000_000_000, (1,))  # fmt: skip
        assert bench.last is not None
        found.append(bench.last.channels[f"1{quadrant}"].offset_adu)
    return found


def test_good_biases_raise_no_flag(bias: tuple[Any, Found]) -> None:
    assert all(one["flags"] == [] for one in bias[1].values())


def test_offsets_are_those_that_were_put_in(bias: tuple[Any, Found]) -> None:
    work, found = bias
    frames = work.table("basic", "FRAMES")
    for quadrant in "EH":
        truth = offset_of_frames(quadrant)
        own = frames[frames["quadrant"] == quadrant]
        # 5418 pixels of 1.2 ADU: 0.02 ADU a frame at this scale, four times less at full scale.
        np.testing.assert_allclose(own["offset_pre"], truth, atol=0.07)
        value, error = values_of(found["basic"], "offset")[1, quadrant]
        assert value == pytest.approx(np.mean(truth), abs=0.05)
        assert error == pytest.approx(np.std(truth, ddof=1) / math.sqrt(10), rel=0.1)


def test_read_noise_is_that_which_was_put_in(bias: tuple[Any, Found]) -> None:
    work, found = bias
    measured = values_of(found["basic"], "ron")
    about_model = values_of(found["basic"], "ron_model")
    for quadrant in EIGHTH.names:
        name = f"1{quadrant}"
        truth = math.hypot(TRUTH.electronics.read_noise_adu[name], PICKUP_ADU / math.sqrt(2))
        value, error = measured[1, quadrant]
        assert value == pytest.approx(truth, rel=0.003 + 2.5 * error / truth)
        assert error == pytest.approx(truth * 0.5 * math.sqrt(3 / 9 / 66048), rel=0.1)
        # What pixels differ by is in this one as well.
        assert about_model[1, quadrant][0] == pytest.approx(truth, rel=0.02)
        in_electrons = values_of(found["basic"], "ron_e")[1, quadrant][0]
        assert in_electrons == pytest.approx(value * TRUTH.electronics.gain_e_adu[name])
    table = work.table("basic", "RON")
    assert table["ron_e"].unit == "electron"
    assert table["ron_img"].unit == "adu"


def test_pickup_is_found_with_its_amplitude_and_nothing_else(bias: tuple[Any, Found]) -> None:
    work, _found = bias
    lines = work.table("basic", "PICKUP")
    assert len(lines) == 4
    step_hz = 1 / (EIGHTH.quadrant_shape[0] * LINE_S)
    for row in lines:
        assert row["hertz"] == pytest.approx(5010, abs=min(step_hz, 6 * row["hertz_error"] + 1e-3))
        assert row["adu"] == pytest.approx(PICKUP_ADU, abs=4 * row["adu_error"])


def test_the_master_bias_is_the_structure_within_its_noise(bias: tuple[Any, Found]) -> None:
    work, _found = bias
    path = work.image_path("meta", f"EUC_MASTERBIAS_CCD1_SN_14888-88-81_{TRUTH.block}")
    with fits.open(path, checksum=True) as units:
        assert [unit.name for unit in units] == ["PRIMARY", "STACK", "STD", "MASK"]
        stack, std, mask = (units[name].data for name in ("STACK", "STD", "MASK"))
        assert (units[0].header["NCOMB"], units[0].header["SN_CCD"]) == (10, "14888-88-81")
    rows, columns = EIGHTH.quadrant_shape
    u, v = np.linspace(-1, 1, columns), np.linspace(-1, 1, rows)[:, None]
    for quadrant in EIGHTH.names:
        name = f"1{quadrant}"
        c0, c1, c2, c3, c4 = TRUTH.electronics.structure_adu[name]
        truth = c0 * u + c1 * v + c2 * u * u + c3 * v * v + c4 * u * v
        area = (slice(0, EIGHTH.image_rows), EIGHTH.columns_of("image"))
        scan = EIGHTH.columns_of("prescan", is_trimmed=True)
        truth -= truth[: EIGHTH.image_rows, scan].mean()
        good = EIGHTH.canonical(mask, quadrant)[area] == 0
        residual = (EIGHTH.canonical(stack, quadrant) - truth)[area][good]
        defects = {(x, y) for x, y, *_ in TRUTH.defects[name].hot_pixels}
        ron = TRUTH.electronics.read_noise_adu[name]
        assert len(defects) < 50
        assert clipped_std(residual).value < 1.1 * ron / math.sqrt(10)
        assert abs(np.median(residual)) < 0.03
        spread = EIGHTH.canonical(std, quadrant)[area][good]
        assert math.sqrt(np.mean(spread**2)) == pytest.approx(math.hypot(ron, 0.07), rel=0.03)


def test_products_do_not_depend_on_when_they_are_made(
    bias: tuple[Any, Found], tmp_path: Path
) -> None:
    work, _ = bias
    before = {path.name: path.read_bytes() for path in (work.folder / "products").iterdir()}
    again = take(tmp_path, "BIAS01", TRUTH)
    run_all(again, "prep", "meta")
    for path in (again.folder / "products").iterdir():
        assert path.read_bytes() == before[path.name], path.name


# --- cores ---


def tones(lines: list[tuple[float, float]], seed: int, frames: int = 6) -> list[Any]:
    rng = np.random.default_rng(seed)
    rows, columns = EIGHTH.quadrant_shape
    times = np.arange(rows)[:, None] * LINE_S + np.arange(columns) * PIXEL_S
    found = []
    for _ in range(frames):
        noise = rng.normal(0, 1.1, (rows, columns))
        for hertz, adu in lines:
            noise += adu * np.sin(2 * np.pi * hertz * times + rng.uniform(0, 2 * np.pi))
        found.append(noise.astype(np.float32))
    return found


@pytest.mark.parametrize("repeat", counts(1, 8))
@pytest.mark.parametrize(
    "lines",
    [[(50.0, 0.2)], [(50.0, 0.1), (1000.0, 0.3), (20001.5, 0.1)], [(34000.0, 0.15)],
     [(2500.0, 2.0), (2501.3, 0.15)], []],
)  # fmt: skip
def test_lines_are_found_whatever_their_frequency(
    lines: list[tuple[float, float]], repeat: int
) -> None:
    for seed in range(repeat):
        frames = tones(lines, seed)
        timing = Timing(PIXEL_S, LINE_S)
        found = find_lines(frames, spectrum_of(frames, timing), timing)
        step_hz = 1 / (EIGHTH.quadrant_shape[0] * LINE_S)
        assert len(found) == len(lines)
        for line, (hertz, adu) in zip(
            found, sorted(lines, key=lambda one: -one[1]), strict=True
        ):
            if abs(line.hertz - hertz) > 10 and adu == 0.1:
                continue  # two of the same strength, in either order
            assert line.hertz == pytest.approx(hertz, abs=step_hz)
            assert line.adu == pytest.approx(adu, abs=5 * line.adu_error + 0.01 * adu)


def test_white_noise_has_its_variance_at_all_frequencies() -> None:
    spectrum = spectrum_of(tones([], 3), Timing(PIXEL_S, LINE_S))
    for part in np.array_split(spectrum.power[1:], 5):
        assert part.mean() == pytest.approx(1.1**2, rel=0.03)


def test_noise_of_differences_does_not_see_fixed_patterns() -> None:
    rng = np.random.default_rng(5)
    pattern = rng.normal(0, 30, (200, 200)).astype(np.float32)
    frames = [pattern + rng.normal(0, 1.3, pattern.shape).astype(np.float32) for _ in range(6)]
    frames[2][10:14, 10:90] += 500  # a cosmic ray
    noise = noise_of_differences(frames)
    assert noise.value == pytest.approx(1.3, abs=4 * noise.error)
    assert math.isnan(noise_of_differences(frames[:1]).value)


@pytest.mark.parametrize("repeat", counts(150, 3000))
def test_errors_of_noise_and_drift_are_right(repeat: int) -> None:
    rng = np.random.default_rng(6)
    pulls, slopes = [], []
    hours = np.arange(10) / 4
    for _ in range(repeat):
        frames = rng.normal(0, 1.2, (5, 20, 20)).astype(np.float32)
        noise = noise_of_differences(list(frames))
        pulls.append((noise.value - 1.2) / noise.error)
        _, slope, _ = drift_of(hours, 2650 + 0.7 * hours + rng.normal(0, 0.5, 10))
        slopes.append((slope.value - 0.7) / slope.error)
    for some in (pulls, slopes):
        assert abs(np.mean(some)) < 0.2 + 4 / math.sqrt(repeat)
        assert np.std(some) == pytest.approx(1.0, abs=0.2 + 3 / math.sqrt(repeat))


def test_codes_that_never_occur_are_told() -> None:
    rng = np.random.default_rng(7)
    codes = np.rint(rng.normal(2650.4, 1.2, 400000)).astype(np.int64)
    hints = converter_hints(np.bincount(codes, minlength=65536))
    assert hints.missing == []
    assert hints.odd_fraction == pytest.approx(0.5, abs=0.005)
    codes[codes == 2651] = 2650
    hints = converter_hints(np.bincount(codes, minlength=65536))
    assert hints.missing == [2651]
    assert hints.odd_fraction < 0.4


def test_a_smooth_model_is_not_moved_by_defects() -> None:
    rng = np.random.default_rng(8)
    y, x = np.mgrid[-1:1:258j, -1:1:256j]
    truth = 3 * x + 2 * y**2 - x * y**3 + 0.5 * x**5
    image = (truth + rng.normal(0, 1, truth.shape)).astype(np.float32)
    image[:, 40] += 3000
    image[rng.integers(0, 258, 300), rng.integers(0, 256, 300)] += 2000
    bad = np.zeros(image.shape, bool)
    bad[100:140, 100:140] = True
    image[bad] = -1e4
    model = smooth_model(image, bad, 42, 5, clip_sigma=6.0)
    assert np.abs(model - truth).max() < 0.5  # in a corner
    assert np.std(model - truth) < 0.05


def test_correlations_have_the_error_that_is_told() -> None:
    rng = np.random.default_rng(9)
    common = rng.normal(size=200000)
    streams = rng.normal(size=(5, 200000)).astype(np.float32)
    streams[:2] += 0.2 * common
    streams[4, 3] = 1e6  # a hot pixel
    matrix, error = correlations(streams)
    assert matrix[0, 1] == pytest.approx(0.04 / 1.04, abs=4 * error)
    assert np.abs(matrix[2:, :2]).max() < 4 * error


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 16, 17, 80, 81])
def test_stacks_are_medians_and_means_of_what_counts(frames: int) -> None:
    rng = np.random.default_rng(frames)
    cube = rng.integers(2000, 2100, (frames, 13, 17)).astype(np.uint16)
    cube[0, 2, 3] = 0
    cube[:, 4, 5] = 65535
    levels = rng.normal(2000, 5, (frames, 13)).astype(np.float32)
    stack = stack_frames(cube, levels, top=65535)
    values = cube.astype(float) - levels[:, :, None]
    values[(cube == 0) | (cube == 65535)] = np.nan
    counted = np.isfinite(values).sum(axis=0)
    np.testing.assert_array_equal(stack.counts, counted)
    for row, column in ((0, 0), (2, 3), (12, 16)):
        if counted[row, column]:
            own = values[:, row, column]
            assert stack.median[row, column] == pytest.approx(np.nanmedian(own), abs=1e-3)
            assert stack.mean[row, column] == pytest.approx(np.nanmean(own), abs=1e-3)
            if counted[row, column] > 1:
                assert stack.std[row, column] == pytest.approx(np.nanstd(own, ddof=1), rel=1e-3)
    assert stack.counts[4, 5] == 0
    assert stack.median[4, 5] == 0
    assert np.isnan(stack.std[4, 5])


def test_one_frame_gives_the_noise_about_a_model(tmp_path: Path) -> None:
    work = take(tmp_path, "BIAS01", TRUTH, frames={"col001": 1})
    path = work.dataset.frames[0].path
    found = analyse_channel(
        [str(path)], "ccd273-8th", 1, "E", Recipe("median").as_json(), LINE_S, degree=5, box_px=42,
        spectrum_frames=6, most_lines=10, out=str(tmp_path / "arrays.npz"),
    )  # fmt: skip
    assert found["ron"]["img"] == [None, None]
    value, error = found["ron_model"]
    assert value == pytest.approx(TRUTH.electronics.read_noise_adu["1E"], rel=0.05)
    assert 0 < error < 0.01
    run_all(work, "prep", "meta")
    row = work.table("meta", "MASTERBIAS")[0]
    assert (row["bad"], row["unstable"]) == (0, 0)


def test_strips_of_rows_tell_the_same_as_the_whole(
    bias: tuple[Any, Found], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, _found = bias
    asked: dict[str, Any] = {
        "paths": [str(one.path) for one in work.dataset.of_ccd(1)], "detector": "ccd273-8th",
        "ccd": 1, "quadrant": "F", "recipe": Recipe("median").as_json(), "line_s": LINE_S,
        "degree": 5, "box_px": EIGHTH.tile_px, "spectrum_frames": 6, "most_lines": 10,
    }  # fmt: skip
    whole = analyse_channel(**asked, out=str(tmp_path / "whole.npz"))
    monkeypatch.setattr("nightjard.calib.tasks.bias_channel._MOST_BYTES", 3_000_000)
    assert len(channel_strips(EIGHTH, 10)) == 4
    strips = analyse_channel(**asked, out=str(tmp_path / "strips.npz"))
    assert strips["levels"] == whole["levels"]
    assert strips["converter"] == whole["converter"]
    for sector in ("pre", "ove", "img"):
        value, error = whole["ron"][sector]
        assert strips["ron"][sector] == pytest.approx([value, error], rel=0.5 * error / value)
    assert [round(one["hertz"]) for one in strips["lines"]] == [5010]
    with np.load(tmp_path / "whole.npz") as a, np.load(tmp_path / "strips.npz") as b:
        for name in ("mean_hor", "mean_ver", "std_hor", "std_ver"):
            # One value at the limit of what counts as a cosmic ray is 0.01 ADU.
            np.testing.assert_allclose(a[name], b[name], atol=0.02)
            assert np.median(np.abs(a[name] - b[name])) < 1e-3


def test_charge_in_pixels_is_no_read_noise(tmp_path: Path) -> None:
    truth = Truth.default(EIGHTH, effects={"persistence": False})
    work = take(tmp_path, "BIAS01", truth, detector="ccd273-8th")
    found = analyse_channel(
        [str(one.path) for one in work.dataset.of_ccd(1)], "ccd273-8th", 1, "F",
        Recipe("median").as_json(), LINE_S, 5, EIGHTH.tile_px, 2, 10, str(tmp_path / "o.npz"),
    )  # fmt: skip
    value, error = found["ron"]["img"]
    assert value == pytest.approx(truth.electronics.read_noise_adu["1F"], abs=3.5 * error)
    assert 100 < found["charged"] < 2000  # a column of 258 among them
    with np.load(tmp_path / "o.npz") as saved:
        assert saved["std_hor"].max() > 2 * value  # the profile of columns shows it


def test_lost_frames_and_a_dead_quadrant_leave_all_others_what_they_are(tmp_path: Path) -> None:
    def spoil(obsid: int, ccd: int, pixels: Any) -> None:
        if ccd == 1:
            EIGHTH.canonical(pixels, "F")[...] = 0
        elif obsid == FIRST_OBSID + 3:
            pixels[...] = 65535
        # What all channels of a frame have in common: seen only where frames are paired rightly.
        common = np.random.default_rng(obsid).normal(0.0, 2.0, EIGHTH.quadrant_shape)
        for quadrant in EIGHTH.names:
            own = EIGHTH.canonical(pixels, quadrant)
            own[...] = np.where((own > 0) & (own < 65535), own + np.rint(common), own)

    plain = Truth.default(EIGHTH, effects="plain")
    work = take(tmp_path, "BIAS01", plain, ccds=(1, 2), frames={"col001": 6}, spoil=spoil)
    frames = tuple(
        one for one in work.dataset.frames if (one.ccd, one.obsid) != (1, FIRST_OBSID + 1)
    )
    work = dataclasses.replace(work, dataset=dataclasses.replace(work.dataset, frames=frames))
    found = run_all(work, "prep", "basic", "meta", is_drawn=False)
    ron, noise = values_of(found["basic"], "ron"), values_of(found["meta"], "masterbias_noise")
    drift = values_of(found["basic"], "offset_drift")
    assert ron.pop((1, "F"))[0] is noise.pop((1, "F"))[0] is drift.pop((1, "F"))[0] is None
    for (ccd, quadrant), (value, error) in ron.items():
        true = np.hypot(plain.electronics.read_noise_adu[f"{ccd}{quadrant}"], 2.0)
        assert value == pytest.approx(true, abs=4 * error + 0.04)  # rounded twice
        # Five frames of six are in the mean; half of the deviations are smaller than the noise.
        assert noise[ccd, quadrant][0] == pytest.approx(value / math.sqrt(5), rel=0.03)
        assert abs(drift[ccd, quadrant][0]) < 100  # a frame of 65535 would be 10^5
    matrix = work.table("basic", "CORRELATION")
    assert np.isnan(matrix["1F"]).all()
    assert matrix["1E"][4] == pytest.approx(4.0 / (4.0 + 1.2), abs=0.1)  # with 2E
    assert values_of(found["basic"], "largest_correlation")[()][0] > 0.6


def test_many_lost_frames_leave_a_master_bias_its_pixels(tmp_path: Path) -> None:
    def spoil(obsid: int, _ccd: int, pixels: Any) -> None:
        if obsid < FIRST_OBSID + 2:
            pixels[...] = 0

    plain = Truth.default(EIGHTH, effects="plain")
    work = take(tmp_path, "BIAS01", plain, ccds=(1,), frames={"col001": 7}, spoil=spoil)
    run_all(work, "prep", "meta", is_drawn=False)
    table = work.table("meta", "MASTERBIAS")
    assert max(table["bad"]) < 0.01 * 258 * 256
