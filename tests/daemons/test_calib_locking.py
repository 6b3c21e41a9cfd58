# SPDX-License-Identifier: BSD-3-Clause
"""The star pattern is found on frames: transform, missing stars, limits, stored locks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from kit.calib_bench import flags_of, run, run_all, take
from kit.depth import examples
from nightjar.calibration.chamber import load_profile, physical_size
from nightjar.calibration.detector import load_detector
from nightjar.errors import Refused
from nightjard.calib.science.star_match import Limits, Similarity, match_pattern
from nightjard.calib.tasks import locking
from nightjard.calib.work import Work
from nightjard.simulators.detector.truth import Truth

SMALL = "ccd273-8th"
LIGHT = {"only": True, "photon_noise": True, "read_noise": True, "pattern": True}
#: A quarter of the stars beside quadrant G: 30 % of all that are left.
LOST = ("1EA", "1FC", "1FE", "1HB", "1HE")
BLANK = tuple(f"1G{one}" for one in "ABCDE")


def pattern(detector: str) -> tuple[Any, int]:
    kind = load_detector(detector)
    spots = load_profile("B_NOSTROMO").spots(1, kind)
    return np.array([(spot.x, spot.y) for spot in spots]), physical_size(kind)[0]


# --- the matcher ---


@examples(
    25, 1000, st.sampled_from(["ccd273", SMALL]), st.floats(-0.011, 0.011), st.floats(-1.3, 1.3),
    st.floats(-0.2, 0.2), st.floats(-0.2, 0.2), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_transform_of_a_chamber_is_found(
    detector: str, stretch: float, angle: float, dx: float, dy: float, seed: int
) -> None:
    stars, width = pattern(detector)
    rng = np.random.default_rng(seed)
    middle = width / 2
    truth = Similarity(1 + stretch, angle, dx * width, dy * width, middle, middle)
    kept = rng.permutation(20)[:13]
    x, y = truth.apply(*stars[kept].T)
    places = np.stack([x, y], axis=1) + rng.normal(0, 0.02, (13, 2))
    places = np.concatenate([places, rng.uniform(0, width, (20, 2))])
    limits = Limits.for_width(width)
    found = match_pattern(stars, rng.permutation(places), limits, pivot=(middle, middle))
    assert found is not None
    assert found.count >= 12
    one = found.similarity
    assert one.scale == pytest.approx(truth.scale, abs=5 * 0.03 / width)
    assert one.rotation_deg == pytest.approx(angle, abs=np.degrees(5 * 0.03 / width))
    assert one.shift_x == pytest.approx(truth.shift_x, abs=0.1)
    assert one.shift_y == pytest.approx(truth.shift_y, abs=0.1)
    assert abs(one.scale - truth.scale) < 6 * max(one.scale_error, 2e-6)


@pytest.mark.parametrize("change", [
    {"scale": 1.04}, {"rotation_deg": 2.5}, {"shift_x": 0.45},
])  # fmt: skip
def test_what_no_chamber_does_is_not_believed(change: dict[str, float]) -> None:
    stars, width = pattern("ccd273")
    change = {key: value * (width if key == "shift_x" else 1) for key, value in change.items()}
    x, y = Similarity(pivot_x=width / 2, pivot_y=width / 2, **change).apply(*stars.T)
    found = match_pattern(stars, np.stack([x, y], axis=1), Limits.for_width(width))
    assert found is None or found.rms_px > 1 or found.count < 20


@pytest.mark.parametrize("seed", range(5))
def test_sources_anywhere_are_no_pattern(seed: int) -> None:
    stars, width = pattern("ccd273")
    places = np.random.default_rng(seed).uniform(0, width, (60, 2))
    assert match_pattern(stars, places, Limits.for_width(width)) is None


# --- the sub-tasks ---


def taken(folder: Path, spoil: Any = None, **numbers: Any) -> Work:
    truth = Truth.default(load_detector(SMALL), effects=LIGHT, overrides=numbers)
    return take(folder, "PSFLUX00_800", truth, spoil=spoil)


def test_a_lock_recovers_the_transform_with_stars_missing_and_a_quadrant_blank(
    tmp_path: Path,
) -> None:
    work = taken(tmp_path, **{"stars.missing": LOST + BLANK})
    found = run(work, "lock", locking.lock)
    assert not flags_of(found)
    for row in work.table("lock", "lock"):
        assert row["matches"] == 10
        assert row["scale"] == pytest.approx(1.002, abs=1e-4)
        assert row["rotation_deg"] == pytest.approx(0.1, abs=0.005)
        assert row["shift_x"] == pytest.approx(12, abs=0.1)
        assert row["shift_y"] == pytest.approx(-7, abs=0.1)
    spots = work.table("lock", "spots")
    first = spots[spots["column"] == "col001"]
    assert len(first) == 20
    assert {str(one) for one in first["id"][~first["found"]]} == {
        one[1:] for one in LOST + BLANK
    }


def test_canonical_places_are_where_the_light_is(tmp_path: Path) -> None:
    work = taken(tmp_path)
    run(work, "lock", locking.lock)
    from nightjard.calib.frames import open_frame

    arguments = locking.spot_arguments(work, 1)
    frame = open_frame(work.dataset.frames[3].path, work.detector)  # type: ignore[arg-type]
    for _name, quadrant, _spot, x, y in arguments["spots"]["col004"]:
        raw = frame.raw(quadrant).astype(float)
        part = raw[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3]
        assert part.max() > np.median(raw) + 2e4
        assert np.unravel_index(int(part.argmax()), part.shape) in [
            (i, j) for i in (1, 2, 3) for j in (1, 2, 3)
        ]


def test_a_column_without_stars_borrows_the_nearest_lock(tmp_path: Path) -> None:
    def dark(obsid: int, _ccd: int, pixels: Any) -> None:
        if obsid == 17212:
            pixels[...] = np.random.default_rng(obsid).normal(2600, 1.2, pixels.shape)

    work = taken(tmp_path, dark)
    found = run(work, "lock", locking.lock)
    assert flags_of(found)["STARS_MISSING"]["severity"] == "warning"
    table = work.table("lock", "lock")
    assert str(table["locked_on"][2]) == "col002"
    assert table["shift_x"][2] == table["shift_x"][1]


def test_frames_without_stars_are_told_and_the_nominal_places_used(tmp_path: Path) -> None:
    def dark(obsid: int, _ccd: int, pixels: Any) -> None:
        pixels[...] = np.random.default_rng(obsid).normal(2600, 1.2, pixels.shape)

    work = taken(tmp_path, dark)
    flag = flags_of(run(work, "lock", locking.lock))["STARS_MISSING"]
    assert flag["severity"] == "error"
    assert "20 stars" in flag["cause"]
    assert set(work.table("lock", "lock")["scale"]) == {1.0}


def test_a_stored_lock_is_applied(tmp_path: Path) -> None:
    work = taken(tmp_path)
    with pytest.raises(Refused, match="needs lock"):
        run(work, "relock", locking.relock)
    run(work, "lock", locking.lock)
    run(work, "relock", locking.relock)
    before, after = work.table("lock", "spots"), locking.spots_of(work)
    assert np.array_equal(before["x"], after["x"])
    assert np.array_equal(before["y"], after["y"])
    stored = work.folder / "products" / "PSFLUX00_800_lock.ecsv"
    text = stored.read_text().replace("PSFLUX00_800", "other")
    elsewhere = tmp_path / "stored.ecsv"
    elsewhere.write_text(text)
    table = work.table("lock", "lock")
    table["shift_x"] += 3.0
    table.write(elsewhere, format="ascii.ecsv", overwrite=True)
    work.options = {"lock_table": str(elsewhere)}
    run(work, "relock", locking.relock)
    moved = locking.spots_of(work)
    assert np.allclose(np.abs(moved["x"] - before["x"]), 3.0, atol=1e-6)
    elsewhere.write_text("# %ECSV 1.0\n# ---\n# datatype:\n# - {name: a, datatype: int64}\na\n1\n")
    with pytest.raises(Refused, match="has no ccd"):
        run(work, "relock", locking.relock)


@pytest.mark.parametrize("test", ["FOCUS00_800", "PSFLUX00_590", "FLATFLUX00_590", "PSF01_730"])
def test_drills_do_every_sub_task_without_pixels(tmp_path: Path, test: str) -> None:
    truth = Truth.default(load_detector(SMALL), effects="none")
    work = take(tmp_path, test, truth, ccds=())
    work.is_drill = True
    for name, found in run_all(work).items():
        assert not {"SUBTASKCRASH", "STARS_MISSING"} & set(flags_of(found)), name
