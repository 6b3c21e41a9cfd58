# SPDX-License-Identifier: BSD-3-Clause
"""FLAT01: response of pixels without the noise of the flats, illumination, odd pixels."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.calib_bench import FIRST_OBSID, flags_of, run_all, take, values_of
from kit.depth import counts
from nightjar.calibration.catalogue import load_catalogue
from nightjar.calibration.detector import load_detector
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import Recipe, prepared
from nightjard.calib.results import read_subtask
from nightjard.calib.science.illumination import box_medians, illumination
from nightjard.calib.science.pixel_response import odd_pixels, response_of
from nightjard.calib.task import load_task
from nightjard.simulators.detector.pixels import response
from nightjard.simulators.detector.truth import Defects, Truth

EIGHTH = load_detector("ccd273-8th")
Found = dict[str, dict[str, Any]]
DEFECTS = Defects(
    dark_pixels=tuple((20 + 7 * n, 11 + 13 * n, 0.6) for n in range(15)), dead_columns=((99, 0.3),)
)
PRODUCT = "EUC_FF_800nm_col00{}_ROE1_CCD1"


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Found, Truth]:
    # Brighter-fatter evens out what pixels differ by; larger structure goes with the model.
    truth = Truth.default(
        EIGHTH, effects={"brighter_fatter": False, "defects": False, "persistence": False,
                         "nonlinearity": False, "crosstalk": False},
        overrides={"prnu.low_sigma": 0.0},
    )  # fmt: skip
    truth = dataclasses.replace(truth, defects={**truth.defects, "1H": DEFECTS})
    work = take(tmp_path_factory.mktemp("flat"), "FLAT01", truth,
                frames={"col001": 12, "col002": 8, "col003": 5})  # fmt: skip
    return work, run_all(work), truth


def master(work: Any, column: int, quadrant: str, plane: str = "FLAT") -> Any:
    with fits.open(work.image_path("masterflat", PRODUCT.format(column)), checksum=True) as units:
        data = units[plane].data
    return EIGHTH.sector(EIGHTH.canonical(data, quadrant), "image")


def truth_map(truth: Truth, quadrant: str) -> Any:
    return np.asarray(response(EIGHTH, truth, f"1{quadrant}", 800))


def test_non_uniformity_is_that_which_was_put_in(flat: tuple[Any, Found, Truth]) -> None:
    work, found, truth = flat
    values = values_of(found["masterflat"], "prnu")
    assert len(values) == 3 * 4
    table = work.table("masterflat", "PRNU_TB")
    for (_ccd, quadrant, column), (value, error) in values.items():
        sigma = 100 * truth.prnu.sigma[f"1{quadrant}"] * truth.prnu.wavelength_factor["800"]
        assert value == pytest.approx(sigma, rel=0.03)
        assert 0 < error < 0.01 * sigma
        row = table[(table["quadrant"] == quadrant) & (table["column"] == column)][0]
        # Without taking the noise away it would be out by more.
        assert row["TOTAL_PC"] > value
        assert row["NOISE_PC"] == pytest.approx(row["NOISE_GAIN_PC"], rel=0.05)


def test_master_flats_are_the_response_of_pixels(flat: tuple[Any, Found, Truth]) -> None:
    work, _found, truth = flat
    for quadrant in "EF":
        image, error = master(work, 2, quadrant), master(work, 2, quadrant, "EFLAT")
        expected = truth_map(truth, quadrant)
        assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.95
        pulls = (image - expected / expected.mean()) / error
        assert np.median(np.abs(pulls)) == pytest.approx(0.6745, rel=0.15)
    with fits.open(work.image_path("masterflat", PRODUCT.format(2))) as units:
        header = units[0].header
        assert (header["NCOMB"], header["WAVEL"], header["CCDSN"]) == (8, 800, "14888-88-81")
        scans = EIGHTH.canonical(units["FLAT"].data, "G")[:, : EIGHTH.prescan]
        assert (scans == 1).all()


def test_a_master_flat_takes_the_response_out_of_frames(flat: tuple[Any, Found, Truth]) -> None:
    work, _found, _truth = flat
    path = work.image_path("masterflat", PRODUCT.format(1))
    frame = open_frame(work.dataset.frames[-1].path, EIGHTH)
    inner = (slice(110, 135), slice(170, 195))
    plain, _ = prepared(frame, "F", Recipe())
    divided, _ = prepared(frame, "F", Recipe(flat=str(path)))
    assert divided[inner].std() < 0.75 * plain[inner].std()
    assert divided[inner].mean() == pytest.approx(plain[inner].mean(), rel=0.002)


def test_odd_pixels_are_masked(flat: tuple[Any, Found, Truth]) -> None:
    work, found, _truth = flat
    path = work.image_path("prmask", "EUC_PRMASK_NOSTROMO_CCD1_SN_14888-88-81")
    with fits.open(path, checksum=True) as units:
        mask = units["MASK"].data
    expected = np.zeros((258, 256), bool)
    expected[:, 99] = True
    for x, y, _ in DEFECTS.dark_pixels:
        expected[y, x] = True
    seen = EIGHTH.sector(EIGHTH.canonical(mask, "H"), "image") != 0
    np.testing.assert_array_equal(seen, expected)
    assert values_of(found["prmask"], "odd_pixels")[1, "E"] == (0, None)


@pytest.mark.parametrize("handle", ["FLAT01", "FLAT02"])
def test_flats_of_several_fluences_are_analysed_to_the_end(handle: str) -> None:
    asked = load_catalogue("Full").definition(handle).subtasks
    assert list(asked) == [one.name for one in load_task(handle).subtasks]


def test_the_drift_of_the_lamp_is_told(flat: tuple[Any, Found, Truth]) -> None:
    work, found, truth = flat
    light = truth.light
    times = np.array([frame.utc_ns for frame in work.dataset.by_column(1)[0]]) * 1e-9
    lamp = 1 + light.lamp_amplitude * np.sin(
        2 * math.pi * times / light.lamp_period_s + light.lamp_phase
    )
    slope = np.polyfit((times - times[0]) / 3600, lamp / lamp.mean(), 1)[0] * 100
    for (_ccd, _quadrant, column), (value, error) in values_of(
        found["indivflats"], "lamp_drift"
    ).items():
        if column == "col001":
            assert value == pytest.approx(slope, abs=4 * error + 0.02)


def test_good_flats_raise_no_flag(flat: tuple[Any, Found, Truth]) -> None:
    _work, found, _truth = flat
    assert {name: flags_of(one) for name, one in found.items()} == {name: {} for name in found}
    judged = [one for one in found["check"]["compliances"] if one["metric"] == "fluence"]
    assert len(judged) == 3 * 4


def test_only_medians_are_kept_of_single_flats(flat: tuple[Any, Found, Truth]) -> None:
    work, _found, _truth = flat
    kept = sum(path.stat().st_size for path in work.intermediate.glob("illumination_*"))
    assert kept < 0.01 * sum(frame.path.stat().st_size for frame in work.dataset.frames)


def test_a_lamp_that_fades_is_told(tmp_path: Path) -> None:
    def fade(obsid: int, _ccd: int, frame: np.ndarray[Any, Any]) -> None:
        frame[...] = 2600 + (frame - 2600.0) * (1 - 0.2 * (obsid % 2))

    work = take(tmp_path, "FLAT_STB", Truth.default(EIGHTH), frames={"col001": 4}, spoil=fade)
    found = run_all(work, "check", "prep", "indivflats")
    assert "FLUENCE_OOL" in flags_of(found["check"])
    scatter = values_of(found["indivflats"], "lamp_scatter")
    assert scatter[1, "E", "col001"][0] > 5


def test_a_lost_frame_and_a_dead_quadrant_change_nothing_else(tmp_path: Path) -> None:
    def spoil(obsid: int, _ccd: int, pixels: Any) -> None:
        EIGHTH.canonical(pixels, "F")[...] = 0
        if obsid in lost:
            pixels[...] = 65535

    lost = [FIRST_OBSID + 1, FIRST_OBSID + 2]
    truth = Truth.default(EIGHTH, effects={"persistence": False, "prnu": True})
    taken = {}
    for count in (5, 3):
        place = tmp_path / str(count)
        work = take(place, "FLAT_STB", truth, frames={"col001": 5}, spoil=spoil)
        if count == 3:
            kept = tuple(one for one in work.dataset.frames if one.obsid not in lost)
            work = dataclasses.replace(
                work, dataset=dataclasses.replace(work.dataset, frames=kept)
            )
        taken[count] = run_all(work, "prep", "indivflats", "masterflat", "prmask", is_drawn=False)
    for step, name in (("masterflat", "prnu"), ("indivflats", "lamp_drift"),
                       ("indivflats", "lamp_scatter"), ("prmask", "odd_pixels")):  # fmt: skip
        spoilt, fewer = (values_of(one[step], name) for one in taken.values())
        for (_ccd, quadrant, *_column), (value, _error) in spoilt.items():
            if quadrant != "F":
                assert value == pytest.approx(fewer[1, quadrant, *_column][0], rel=1e-6)
            elif name != "odd_pixels":
                assert value is None


def test_a_column_that_is_lost_makes_no_pixel_odd(tmp_path: Path) -> None:
    def spoil(obsid: int, _ccd: int, pixels: Any) -> None:
        if obsid in (FIRST_OBSID + 2, FIRST_OBSID + 3):
            pixels[...] = 65535

    truth = Truth.default(EIGHTH, effects={"persistence": False, "crosstalk": False})
    work = take(tmp_path, "FLAT01", truth, spoil=spoil, frames=dict.fromkeys(
        ("col001", "col002", "col003"), 2))  # fmt: skip
    steps = ("prep", "indivflats", "masterflat", "prmask")
    odd = values_of(run_all(work, *steps, is_drawn=False)["prmask"], "odd_pixels")
    frames = tuple(one for one in work.dataset.frames if one.label != "col002")
    less = dataclasses.replace(work, dataset=dataclasses.replace(work.dataset, frames=frames))
    assert odd == values_of(run_all(less, *steps, is_drawn=False)["prmask"], "odd_pixels")
    assert all(value < 1000 for value, _ in odd.values())


def test_noise_of_few_flats_is_measured_where_charge_lowers_it(tmp_path: Path) -> None:
    truth = Truth.default(EIGHTH, effects={"persistence": False, "crosstalk": False})
    work = take(tmp_path, "FLAT_STB", truth, frames={"col001": 6})
    run_all(work, "prep", "indivflats", is_drawn=False)
    frames = work.dataset.frames
    prnu = {}
    for count in (2, 3, 6):
        few = dataclasses.replace(
            work, dataset=dataclasses.replace(work.dataset, frames=frames[:count])
        )
        prnu[count] = values_of(run_all(few, "masterflat", is_drawn=False)["masterflat"], "prnu")
    for channel, (value, error) in prnu[6].items():
        # As much of the noise of few frames is taken away as there is of it: with what the gain
        # says of the noise, 0.02 % too much.
        for count in (2, 3):
            assert prnu[count][channel][0] == pytest.approx(value, abs=2.5 * error)


def test_a_master_bias_gives_the_offset_where_no_scan_does(tmp_path: Path) -> None:
    path = tmp_path / "bare.json"
    bare = EIGHTH.model_copy(update={
        "ccds": 1, "prescan": 0, "overscan": 0, "parallel_overscan": 0, "prescan_trim": (0, 0),
        "overscan_trim": (0, 0), "offset_sector": "none",
    })  # fmt: skip
    path.write_text(bare.model_dump_json())
    truth = Truth.default(load_detector(str(path)), effects="plain",
                          overrides={"electronics.drift_adu": 0.0})  # fmt: skip
    bias = take(tmp_path / "bias", "BIAS01", truth, detector=str(path), frames={"col001": 3})
    assert not flags_of(run_all(bias, "prep", "meta", is_drawn=False)["prep"])
    work = take(tmp_path / "flat", "FLAT_STB", truth, detector=str(path), frames={"col001": 2})
    work.inputs.biases.clear()
    steps = ("prep", "indivflats")
    without = run_all(work, *steps, is_drawn=False)
    assert "no scan tells its offset" in flags_of(without["prep"])["BADDATAPROD"]["cause"]
    levels = np.asarray(work.table("indivflats", "FLUENCE")["fluence"], float)
    (name,) = [one["name"] for one in read_subtask(bias.folder, "meta")["images"]]
    work.inputs.biases[1] = bias.image_path("meta", name)
    assert not flags_of(run_all(work, *steps, is_drawn=False)["prep"])
    table = work.table("indivflats", "FLUENCE")
    offsets = [truth.electronics.offset_adu[f"1{row['quadrant']}"] for row in table]
    np.testing.assert_allclose(levels - np.asarray(table["fluence"], float), offsets, atol=1.0)


# --- cores ---


@pytest.mark.parametrize("repeat", counts(20, 400))
def test_response_and_its_error_are_right(repeat: int) -> None:
    rng = np.random.default_rng(2)
    pulls = []
    for _ in range(repeat):
        true = 1 + rng.normal(0, 0.008, (120, 120))
        frames = true + rng.normal(0, 0.005, (9, 120, 120))
        found = response_of(
            frames.mean(axis=0).astype(np.float32), frames.std(axis=0, ddof=1).astype(np.float32),
            np.zeros(true.shape, bool), frames=9, fluence_adu=12000, gain_e_adu=1 / (12000 * 25e-6),
            read_noise_adu=0.0,
        )  # fmt: skip
        assert found.noise_measured == pytest.approx(0.005 / 3, rel=0.03)
        assert found.noise_expected == pytest.approx(0.005 / 3, rel=1e-6)
        pulls.append((found.prnu.value - 0.008) / found.prnu.error)
    assert abs(np.mean(pulls)) < 0.1 + 4 / math.sqrt(repeat)
    assert np.std(pulls) == pytest.approx(1, abs=0.15 + 3 / math.sqrt(repeat))


@pytest.mark.parametrize("shape", [(258, 256), (2066, 2048), (100, 130), (300, 77)])
def test_the_illumination_is_followed_to_the_edges(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    truth = 20000 * (1 + 0.03 * x + 0.02 * y - 0.02 * x * y)
    image = (truth * (1 + rng.normal(0, 0.005, shape))).astype(np.float32)
    bad = rng.random(shape) < 0.02
    image[bad] = 0
    image[: shape[0] // 3, : shape[1] // 4][::9, ::9] = 60000  # too few to matter
    model = illumination(box_medians(image, bad), shape)
    np.testing.assert_allclose(model / truth, 1, atol=0.004)
    half = illumination(box_medians(image, bad), shape, slice(5, 20))
    np.testing.assert_allclose(half, model[5:20], rtol=1e-5)


def test_boxes_without_a_good_pixel_take_their_neighbours() -> None:
    image = np.full((100, 100), 7.0, np.float32)
    bad = np.zeros((100, 100), bool)
    bad[:50, :50] = True
    image[bad] = np.nan
    assert (box_medians(image, bad) == 7).all()
    assert (box_medians(image, np.ones_like(bad)) == 0).all()


def test_pixels_that_change_with_the_light_are_told() -> None:
    rng = np.random.default_rng(5)
    true = 1 + rng.normal(0, 0.008, (80, 80)).astype(np.float32)
    errors = [np.full((80, 80), 0.001, np.float32) for _ in range(3)]
    flats = [true + rng.normal(0, 0.001, (80, 80)).astype(np.float32) for _ in range(3)]
    flats[2][7, 9] += 0.05
    for one in flats:
        one[40, 41] = 0.5
    beyond, changes = odd_pixels(flats, errors, np.zeros((80, 80), bool), low=0.8, high=1.2)
    assert np.argwhere(beyond).tolist() == [[40, 41]]
    assert np.argwhere(changes).tolist() == [[7, 9]]
