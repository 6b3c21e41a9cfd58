# SPDX-License-Identifier: BSD-3-Clause
"""The simulated sensor's numbers against those published for the real one."""

from __future__ import annotations

import pytest

from nightjard.camd.fast.sensor import SENSOR, Timing, crop_number, crops_of
from nightjard.camd.geometry import Region

# crop: (columns, rows) and full rate of camera 1, of camera 2; FAST read-out
PUBLISHED = {
    "STANDARD": ((536, 536, 508.7), (536, 536, 508.7)),
    "NPBS": ((536, 536, 508.7), (536, 536, 508.7)),
    "TWOARC": ((360, 360, 751), (360, 360, 751)),
    "HALFARC": ((268, 268, 999), (268, 268, 999)),
    "ONEARC": ((184, 184, 1432), (184, 184, 1432)),
    "MBI": ((2236, 1096, 251), (2240, 1096, 251)),
    "MBI_REDUCED": ((2232, 540, 505), (2228, 552, 494)),
    "MBI_ONEHALF": ((1888, 220, 1208), (1888, 236, 1129)),
    "PUPIL": ((888, 892, 308), (760, 760, 361)),
    "FULL": ((4096, 2304, 120.0), (4096, 2304, 120.0)),
}


@pytest.mark.parametrize("crop", PUBLISHED)
@pytest.mark.parametrize("camera", [1, 2])
def test_sizes_and_rates_are_those_published(crop: str, camera: int) -> None:
    columns, rows, rate = PUBLISHED[crop][camera - 1]
    region = crops_of(camera)[crop]
    assert (region.width, region.height) == (columns, rows)
    assert Region.full(*SENSOR).contains(region)
    timing = Timing.of(region.height, "FAST")
    assert timing.max_rate_hz(1e-5, is_triggered=False) == pytest.approx(rate, rel=2e-3)


def test_table_has_every_crop() -> None:
    assert set(crops_of(1)) == set(crops_of(2)) == set(PUBLISHED)


@pytest.mark.parametrize(("crop", "rate"), [("STANDARD", 21.2), ("MBI", 10.5)])
def test_slow_rates(crop: str, rate: float) -> None:
    timing = Timing.of(crops_of(1)[crop].height, "SLOW")
    assert timing.max_rate_hz(1e-5, is_triggered=False) == pytest.approx(rate, rel=5e-3)


def test_exposure_and_readout_overlap_only_when_free_running() -> None:
    timing = Timing.of(536, "FAST")
    assert timing.max_rate_hz(0.01, is_triggered=False) == pytest.approx(100)
    assert timing.max_rate_hz(0.01, is_triggered=True) == pytest.approx(
        1 / (0.01 + timing.readout_s)
    )


def test_offset_crop_lies_elsewhere_in_camera_2() -> None:
    assert crops_of(1)["NPBS"] == crops_of(1)["STANDARD"]
    assert crops_of(2)["NPBS"] != crops_of(2)["STANDARD"]


def test_crops_have_different_numbers_and_a_free_one_0() -> None:
    numbers = [crop_number(name) for name in crops_of(1)]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > crop_number("mine") == 0
