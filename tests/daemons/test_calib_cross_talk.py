# SPDX-License-Identifier: BSD-3-Clause
"""Cross-talk between all channels: recovered without bias, with true errors, or not claimed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.calib_bench import flags_of, run, take
from kit.calib_spots import spot
from nightjar.calibration.detector import load_detector
from nightjar.errors import Refused
from nightjard.calib.science.cross_talk import Star, Sums, accumulate, lit_stars, matrix
from nightjard.calib.tasks import cross_talk
from nightjard.simulators.detector.truth import Truth

SMALL = load_detector("ccd273-8th")


# --- the regression ---


def scene(
    rng: np.random.Generator, places: list[list[tuple[float, float]]], truth: Any, *,
    trail: float = 0.0, slope: float = 0.0,
) -> tuple[list[Any], list[Any], list[list[Star]]]:  # fmt: skip
    """Channels of 160 x 160 pixels with stars, and each other's light in them."""
    light = []
    for stars in places:
        image = np.zeros((160, 160))
        for x, y in stars:
            a, b = round(x) - 12, round(y) - 12
            image[b : b + 25, a : a + 25] += spot(25, x - a, y - b, flux=3e5, fwhm=2.2)
        late = np.zeros_like(image)
        for step in range(1, 40):
            late[step:] += image[:-step] * trail * np.exp(-step / 5)
        light.append(image + late)
    pixels = np.stack(light)
    mixed = pixels + np.einsum("sv,sij->vij", truth, pixels)
    mixed += slope * np.linspace(0, 1, 160)[None, None, :]
    noisy = mixed + rng.normal(0, 1.2, mixed.shape)
    bad = [np.zeros((160, 160), bool) for _ in places]
    return list(noisy), bad, [lit_stars(one, bad[0]) for one in noisy]


def solved(places: Any, truth: Any, exposures: int = 12, **options: Any) -> Any:
    rng = np.random.default_rng(1)
    sums = Sums.none(len(places))
    for _ in range(exposures):
        sums.add(Sums.from_json(accumulate(*scene(rng, places, truth, **options)).as_json()))
    return matrix(sums)


def apart() -> list[list[tuple[float, float]]]:
    return [[(30.2, 40.1), (120.5, 90.3)], [(70.4, 40.6), (40.0, 120.2)], [(110.1, 30.8),
            (80.3, 130.4)]]  # fmt: skip


def test_ratios_come_out_and_background_does_not_enter() -> None:
    truth = np.array([[0, 2e-4, -1e-5], [-2e-4, 0, 3e-5], [1e-6, 0, 0]])
    found = solved(apart(), truth, slope=40.0)
    off = ~np.eye(3, dtype=bool)
    deviation = (found.ratio - truth)[off]
    assert np.isnan(np.diag(found.ratio)).all()
    assert np.all(np.abs(deviation) < 4.5 * found.error[off])
    assert np.all(found.error[off] < 6e-6)
    assert found.noise_adu == pytest.approx(1.2, rel=0.05)
    assert np.all(found.stars[off] == 24)


def test_errors_are_true() -> None:
    rng = np.random.default_rng(9)
    pulls: list[float] = []
    for _ in range(25):
        found = matrix(accumulate(*scene(rng, apart(), np.zeros((3, 3)))))
        pulls += (found.ratio / found.error)[~np.eye(3, dtype=bool)].tolist()
    assert abs(np.mean(pulls)) < 4 / np.sqrt(len(pulls))
    assert 0.85 < np.std(pulls) < 1.15


def test_sources_at_nearly_the_same_place_are_told_from_each_other() -> None:
    """Stars of one pattern fall on nearly the same pixels of several CCDs."""
    places = [[(50.2, 60.1)], [(51.4, 60.9)], [(100.0, 100.0)]]
    truth = np.array([[0, 0, 2e-4], [0, 0, -5e-5], [0, 0, 0]])
    found = solved(places, truth, exposures=25)
    for source in (0, 1):
        deviation = found.ratio[source, 2] - truth[source, 2]
        assert abs(deviation) < 4.5 * found.error[source, 2]
        assert found.error[source, 2] < 1.2e-5
    # On each other they cannot be seen at all, and that is what is said.
    assert np.isnan(found.ratio[0, 1])
    assert np.isnan(found.ratio[1, 0])


def test_a_missing_ccd_leaves_the_others() -> None:
    truth = np.array([[0, 2e-4, 0], [0, 0, 0], [0, 0, 0]])
    rng = np.random.default_rng(3)
    images, bads, stars = scene(rng, apart(), truth)
    images[2], bads[2], stars[2] = None, None, []
    found = matrix(accumulate(images, bads, stars))
    assert found.ratio[0, 1] == pytest.approx(2e-4, abs=4.5 * found.error[0, 1])
    assert np.isnan(found.ratio[2]).all()
    assert np.isnan(found.ratio[:, 2]).all()


def test_sources_that_are_the_same_are_not_told_apart() -> None:
    places = [[(50.2, 60.1)], [(50.2, 60.1)], [(100.0, 100.0)]]
    found = solved(places, np.zeros((3, 3)), exposures=3)
    assert np.isnan(found.ratio[0, 2])
    assert np.isnan(found.ratio[1, 2])


def test_charge_left_behind_by_a_star_of_the_victim_is_no_cross_talk() -> None:
    places = [[(50.2, 80.1)], [(51.0, 62.0)], [(120.0, 120.0)]]
    found = solved(places, np.zeros((3, 3)), exposures=25, trail=2e-3)
    assert abs(found.ratio[0, 1]) < 4.5 * found.error[0, 1]
    assert found.error[0, 1] < 2e-5


def test_lit_stars_are_no_defects() -> None:
    image = np.zeros((160, 160))
    image[30:55, 40:65] += spot(25, 12, 12, flux=1e5, fwhm=2.2)
    image[:, 100] = 3000
    image[120, 20:24] = 4000
    image[10, 10] = 6e4
    found = lit_stars(image, np.zeros(image.shape, bool))
    assert [(star.x, star.y) for star in found] == [(52, 42)]
    assert lit_stars(np.full((160, 160), 900.0), np.zeros((160, 160), bool)) == []


# --- the analysis ---


def test_the_matrix_of_a_block_comes_out(tmp_path: Path) -> None:
    """All 12 channels; what the exposures allow is 3e-6 a pair, of the mean of all below 1e-6."""
    truth = Truth.default(SMALL)
    frames = {"col001": 1, "col002": 1, "col003": 6, "col004": 4, "col005": 4}
    work = take(tmp_path, "PSF01_800", truth, ccds=(1, 2, 3), frames=frames)
    with pytest.raises(Refused, match="needs xtalk_sex"):
        run(work, "xtalk_build", cross_talk.build)
    run(work, "xtalk_sex", cross_talk.find_sources)
    run(work, "xtalk_build", cross_talk.build)
    found = run(work, "xtalk_meta", cross_talk.meta)
    table = work.table("xtalk_meta", "crosstalk")
    assert len(table) == 132
    names = [(ccd, quadrant) for ccd in (1, 2, 3) for quadrant in SMALL.names]
    index = [
        [names.index((int(row[f"{one}_ccd"]), str(row[one]))) for row in table]
        for one in ("source", "victim")
    ]
    injected = np.array(truth.electronics.crosstalk)[index[0], index[1]]
    ratio, error = np.asarray(table["ratio"]), np.asarray(table["ratio_error"])
    # The pattern of a small detector puts the stars of equal quadrants onto each other.
    known = np.isfinite(ratio) & (error < 6e-6)
    assert known.sum() >= 100
    deviation = (ratio - injected)[known]
    pulls = deviation / error[known]
    assert abs(np.average(deviation, weights=error[known] ** -2.0)) < 1e-6
    assert 0.8 < np.std(pulls) < 1.25
    assert np.abs(pulls).max() < 4.5
    forced = known & (np.abs(injected) > 1.5e-4)
    assert forced.sum() == 2
    assert np.all(np.abs(ratio - injected)[forced] < 0.05 * 2e-4 + 2 * error[forced])
    assert np.asarray(table["level"])[known] == pytest.approx(ratio[known] * 65536)
    assert "1E to 1F" in flags_of(found)["REQNOTMET"]["cause"]
    assert {one["name"] for one in found["figures"]} == {"crosstalk_adu", "crosstalk_ratio"}


def test_exposures_without_stars_make_no_matrix(tmp_path: Path) -> None:
    truth = Truth.default(
        SMALL, effects={"only": True, "read_noise": True},
        overrides={"light.point_rate_factor": 1e-6},
    )  # fmt: skip
    work = take(tmp_path, "PSF01_800", truth, frames=dict.fromkeys(
        ("col001", "col002", "col003", "col004", "col005"), 1))  # fmt: skip
    run(work, "xtalk_sex", cross_talk.find_sources)
    run(work, "xtalk_build", cross_talk.build)
    found = run(work, "xtalk_meta", cross_talk.meta)
    assert "BADDATAPROD" in flags_of(found)


def test_a_single_channel_has_no_other_to_talk_to(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    one = load_detector("camd-61mpx").model_copy(
        update={"image_columns": 256, "image_rows": 258, "tile_px": 42}
    )
    path.write_text(one.model_dump_json())
    truth = Truth.default(load_detector(str(path)), effects="plain")
    work = take(tmp_path, "PSF01_800", truth, detector=str(path), frames=dict.fromkeys(
        (f"col00{i}" for i in range(1, 6)), 1))  # fmt: skip
    run(work, "xtalk_sex", cross_talk.find_sources)
    run(work, "xtalk_build", cross_talk.build)
    found = run(work, "xtalk_meta", cross_talk.meta)
    assert "one channel only" in found["notes"][0]
    assert not found["values"]
