# SPDX-License-Identifier: BSD-3-Clause
"""Chamber profiles: what they say, their stars, their history."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from nightjar.calibration.chamber import load_profile, physical_size, profile_history
from nightjar.calibration.coordinates import convert, quadrant_at
from nightjar.calibration.detector import load_detector
from nightjar.errors import ConfigError
from nightjar.files import shipped_folder
from nightjar.times import parse_iso

SHIPPED = shipped_folder("etc") / "calib" / "chambers" / "B_NOSTROMO" / "0001.json"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CALIB_CONFIG_ROOT", str(tmp_path))
    folder = tmp_path / "chambers" / "B_NOSTROMO"
    folder.mkdir(parents=True)
    return folder


def version(folder: Path, number: int, **changes) -> Path:
    content = json.loads(SHIPPED.read_text()) | {"version": number} | changes
    path = folder / f"{number:04d}.json"
    path.write_text(json.dumps(content))
    return path


def test_the_training_profile():
    profile = load_profile("B_NOSTROMO")
    assert profile.saturation_s("flat", 0) == 73.4
    assert profile.saturation_s("point", 2000) == 0.02
    assert profile.mirror_mm(800) == 47.2
    assert [profile.filter_slot(wave) for wave in (590, 2000, 730, 800, 880, 0)] == [*range(1, 7)]
    assert [profile.wave_of(slot) for slot in range(1, 7)] == [590, 2000, 730, 800, 880, 0]
    for ask in (
        lambda: profile.saturation_s("flat", 640), lambda: profile.filter_slot(640),
        lambda: profile.wave_of(7), lambda: profile.saturation_s("lamp", 800),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            ask()


def test_the_shutter_stays_open_longer_than_it_is_told():
    profile = load_profile("B_NOSTROMO")
    for commanded, actual in profile.shutter:
        assert profile.actual_exposure_s(commanded) == pytest.approx(actual)
    assert profile.actual_exposure_s(0) == 0
    assert profile.actual_exposure_s(600) == pytest.approx(600.052)
    grid = np.linspace(0, 130, 5000)
    actual = [profile.actual_exposure_s(float(one)) for one in grid]
    assert (np.diff(actual) > 0).all()


def test_the_stars_fall_where_they_were_measured():
    spots = {spot.id: spot for spot in load_profile("B_NOSTROMO").spots(1)}
    assert len(spots) == 20
    assert (spots["HD"].x, spots["HD"].y) == (471.68, 379.19)
    assert (spots["EA"].x, spots["EA"].y) == (490.39, 3729.01)
    assert spots["EC"].spot == "CHARLIE"
    # the middle star of each quadrant is in the middle of its four others
    for quadrant in "EFGH":
        outer = [spots[quadrant + letter] for letter in "ABDE"]
        centre = spots[quadrant + "C"]
        assert centre.x == pytest.approx(sum(one.x for one in outer) / 4, abs=0.01)
        assert centre.y == pytest.approx(sum(one.y for one in outer) / 4, abs=0.01)


@pytest.mark.parametrize("name", ["ccd273", "ccd273-8th"])
@pytest.mark.parametrize("ccd", [1, 2, 3])
def test_stars_are_on_the_quadrant_that_they_are_named_after(name, ccd):
    detector = load_detector(name)
    spots = load_profile("B_NOSTROMO").spots(ccd, detector)
    x, y = ([getattr(spot, axis) for spot in spots] for axis in "xy")
    assert quadrant_at(detector, x, y, "phys").tolist() == [spot.quadrant for spot in spots]
    assert [spot.id[0] for spot in spots] == [spot.quadrant for spot in spots]
    inner = convert(detector, x, y, "phys", "qcan")
    share = (inner[0] - detector.prescan) / detector.image_columns
    assert share.min() > 0.1
    assert share.max() < 0.9


def test_another_detector_has_the_stars_too():
    camera = load_detector("camd-61mpx")
    spots = load_profile("B_NOSTROMO").spots(1, camera)
    assert {spot.quadrant for spot in spots} == {"A"}
    assert physical_size(camera) == (9576, 6388)
    assert all(0 < spot.x < 9575 and 0 < spot.y < 6387 for spot in spots)


def test_the_newest_version_that_is_valid_holds(root):
    version(root, 2, valid_from="2019-05-01T00:00:00Z", mirror_nom={"F4": 47.3})
    version(root, 3, valid_from="2019-07-01T00:00:00Z", mirror_nom={"F4": 47.4})
    found = [
        load_profile("B_NOSTROMO", at_ns=parse_iso(day)).version
        for day in ("2019-04-01", "2019-05-01", "2019-06-30", "2019-07-01")
    ]
    assert found == [1, 2, 2, 3]
    assert load_profile("B_NOSTROMO").mirror_mm(800) == 47.4
    assert load_profile("B_NOSTROMO", version=1).mirror_mm(800) == 47.2
    assert [one.version for one in profile_history("B_NOSTROMO")] == [1, 2, 3]
    with pytest.raises(ConfigError, match="the first one is from 2019-03-01"):
        load_profile("B_NOSTROMO", at_ns=parse_iso("2019-01-01"))
    with pytest.raises(ConfigError, match=r"versions 1\.\.3, not 4"):
        load_profile("B_NOSTROMO", version=4)


def test_a_version_that_was_edited_is_noticed(root):
    version(root, 1, mirror_nom={"F4": 47.9})
    with pytest.raises(ConfigError, match="one version has two contents"):
        load_profile("B_NOSTROMO")


def test_a_version_that_was_renamed_is_noticed(root):
    version(root, 2).rename(root / "0003.json")
    with pytest.raises(ConfigError, match="says B_NOSTROMO version 2; a version is never renamed"):
        load_profile("B_NOSTROMO")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"tFWC_flat": {"nm805": 3.0}}, "tFWC_flat.nm805: no slot of FW has 805 nm"),
        ({"tFWC_flat": {"nm800": 0}}, "tFWC_flat.nm800: 0: must be greater than 0"),
        ({"FW": {"F1": 590, "F2": 590}}, "two slots have the same wavelength"),
        ({"shutter": [[0, 0], [1, 1.03], [0.5, 1.2]]}, "shutter"),
        ({"mirror": 4}, "mirror: unknown key"),
        ({"valid_from": "yesterday"}, "must be ISO 8601"),
    ],
)
def test_faults_in_a_profile_are_located(root, changes, what):
    path = version(root, 2, **changes)
    with pytest.raises(ConfigError, match=what) as caught:
        load_profile("B_NOSTROMO")
    assert str(path) in caught.value.message


def test_unknown_chambers_are_named():
    with pytest.raises(ConfigError, match="did you mean B_NOSTROMO"):
        load_profile("B_NOSTRMO")
    assert math.isfinite(load_profile("B_NOSTROMO").fwhm_px(800))
