# SPDX-License-Identifier: BSD-3-Clause
"""Checks, names and header values of a frame."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.camera_bench import camera_config
from nightjar.api.states import CoolerMode
from nightjar.clock import ClockHealth
from nightjar.errors import DeviceError, FrameInvalid
from nightjar.times import parse_iso
from nightjard.camd.cooler import NO_READING, CoolerReading
from nightjard.camd.drivers.base import Capabilities, FrameRecord, Range, Readout, Telemetry
from nightjard.camd.frames import (
    FrameContext,
    check_frame,
    crop_for,
    file_path,
    header_values,
    sample,
    saving_job,
)
from nightjard.camd.geometry import Region
from nightjard.camd.settings import Observation

SENSOR = Region.full(40, 30)
CAPABILITIES = Capabilities(
    "Model", "S1", SENSOR, Region(5, 40, 1, 26), Range(0, 10), bias_region=Region(1, 40, 28, 30),
    dark_region=Region(1, 4, 1, 26), row_period_ns=38_900,
)  # fmt: skip
PLAIN = Observation(1.0, None, 1, "sum", 26, None, False)
START = parse_iso("2025-06-15T01:02:03.123456789")
RECORD = FrameRecord(START, START + 2 * 10**9, START + 3 * 10**9, "PC", 20_000, 7)
CONTEXT = FrameContext(
    5, "2025-01-01", "run", 2, 3, 4.0, None, 1, 2, 3, 4, -0.25,
    ClockHealth(True, 1e-5, None), NO_READING, "R",
)  # fmt: skip


def frame(seed: int) -> Any:
    return np.random.default_rng(seed).integers(100, 200, (30, 40), dtype=np.uint16)


def check(pixels: Any, number: int | None, last: int | None, old: Any) -> None:
    record = replace(RECORD, hardware_id=number)
    check_frame(pixels, sample(pixels), record, last, None if old is None else sample(old))


def test_new_frames_pass() -> None:
    check(frame(1), 1, None, None)
    check(frame(2), 2, 1, frame(1))
    check(frame(2), None, None, frame(1))
    check(frame(2), None, 4, frame(1))


def test_bad_frames_do_not() -> None:
    with pytest.raises(FrameInvalid, match="all-zero"):
        check(np.zeros((30, 40), np.uint16), 2, 1, frame(1))
    with pytest.raises(FrameInvalid, match="again"):
        check(frame(2), 1, 1, frame(1))
    with pytest.raises(FrameInvalid, match="again"):
        check(frame(2), 1, 5, frame(1))
    with pytest.raises(FrameInvalid, match="same pixels"):
        check(frame(1), 2, 1, frame(1))
    with pytest.raises(FrameInvalid, match="same pixels"):
        check(frame(1), None, None, frame(1))


@pytest.mark.parametrize("place", [(0, 0), (29, 39), (1, 17)])
def test_one_pixel_that_is_not_zero_makes_a_frame(place: tuple[int, int]) -> None:
    pixels = np.zeros((30, 40), np.uint16)
    pixels[place] = 1
    check(pixels, None, None, None)


def test_saturation_is_no_fault() -> None:
    white = np.full((30, 40), 65535, np.uint16)
    check(white, 2, 1, white)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9000), (9000, 1), (15, 15), (200, 5000)])
def test_a_sample_sees_any_shape(shape: tuple[int, int]) -> None:
    pixels = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape) + np.uint16(1)
    assert 0 < len(sample(pixels)) <= 33 * 2 * 4096
    other = pixels.copy()
    other[0, 0] += 1
    assert sample(other) != sample(pixels)


def test_a_window_that_was_not_read_out_is_an_error() -> None:
    wanted = PLAIN.with_(window=Region(1, 20, 1, 10))
    with pytest.raises(DeviceError, match="lacks"):
        crop_for(wanted, CAPABILITIES, Readout(Region(2, 40, 1, 30)))


def test_times_are_those_of_the_windows_first_row(tmp_path: Path) -> None:
    whole = values(tmp_path)
    window = values(tmp_path, PLAIN.with_(window=Region(1, 40, 11, 30)))
    begun = [parse_iso(header["DATE-BEG"]) for header in (whole, window)]
    ended = [parse_iso(header["DATE-END"]) for header in (whole, window)]
    late_ns = 10 * CAPABILITIES.row_period_ns
    assert begun[1] - begun[0] == ended[1] - ended[0] == late_ns
    assert window["EXPTIME"] == whole["EXPTIME"]
    assert window["PC-RDEND"] == whole["PC-RDEND"]


def test_names_sort_by_number_and_differ_by_time(tmp_path: Path) -> None:
    config = camera_config(tmp_path)
    names = [file_path(config, number, START).name for number in (1, 9, 10, 99_999_999)]
    assert names == sorted(names)
    assert names[0] == "test-00000001-20250615T010203123.fits"
    assert file_path(config, 1, START + 10**6).name != names[0]


def values(tmp_path: Path, observation: Observation = PLAIN, **context: Any) -> dict[str, Any]:
    return header_values(
        camera_config(tmp_path), CAPABILITIES, observation, Readout(CAPABILITIES.readout), RECORD,
        replace(CONTEXT, **context),
    )  # fmt: skip


def test_times(tmp_path: Path) -> None:
    header = values(tmp_path)
    assert header["DATE-BEG"] == header["DATE-OBS"] == "2025-06-15T01:02:03.123456"
    assert header["DATE-AVG"] == "2025-06-15T01:02:04.123456"
    assert header["DATE-END"] == "2025-06-15T01:02:05.123456"
    assert header["PC-RDEND"] == "2025-06-15T01:02:06.123456"
    assert (header["EXPTIME"], header["EXPRQSTD"], header["EXPCADNC"]) == (2.0, 1.0, 4.0)
    assert (header["TIME-SRC"], header["TIME-ERR"]) == ("PC", 2e-5)
    assert (header["CLK-SYNC"], header["CLK-ERR"], header["CLK-STEP"]) == (True, 1e-5, -0.25)
    assert header["ROWDELTA"] == 38.9
    assert values(tmp_path, cadence_s=None)["EXPCADNC"] is None
    mjd = [float(header[f"MJD-{part}"]) for part in ("BEG", "AVG", "END")]
    assert mjd[1] - mjd[0] == pytest.approx(1 / 86400, abs=2e-11)
    assert len(header["MJD-BEG"].partition(".")[2]) == 11


def test_counts(tmp_path: Path) -> None:
    header = values(tmp_path)
    wanted = {
        "EXPCNT": 5, "EXPCREF": "2025-01-01", "RUN-ID": "run", "SEQ-NUM": 2, "SEQ-LIM": 3,
        "LOST-PRE": 1, "LOST-SEQ": 2, "INVALPRE": 3, "BUF-FULL": 4, "HW-FRAME": 7,
    }  # fmt: skip
    assert {key: header[key] for key in wanted} == wanted


def test_temperature_and_its_age(tmp_path: Path) -> None:
    reading = CoolerReading(
        Telemetry(temperature_c=-4.98765, cooler_power=0.4567, humidity_percent=8.0),
        CoolerMode.LOCKED, -5.0, RECORD.end_ns - 1_500_000_000, 0,
    )  # fmt: skip
    header = values(tmp_path, cooler=reading, temperature_age_s=1.5)
    assert (header["CAM-TEMP"], header["TEMP-AGE"], header["TEMP-PWR"]) == (-4.988, 1.5, 45.7)
    assert (header["TEMP-MOD"], header["TEMP-SET"], header["TEMP-LCK"]) == ("LOCKED", -5.0, True)
    assert (header["CAM-HUMD"], header["CAM-PRES"]) == (8.0, None)
    missing = values(tmp_path)
    assert [missing[key] for key in ("CAM-TEMP", "TEMP-AGE", "TEMP-PWR", "TEMP-SET")] == [None] * 4
    assert (missing["TEMP-LCK"], missing["TEMP-MOD"]) == (False, "UNKNOWN")


@pytest.mark.parametrize(
    ("window", "binning", "image", "bias", "dark"),
    [
        (None, 1, "[5:40,1:26]", "[1:40,28:30]", "[1:4,1:26]"),
        (None, 2, "[3:20,1:13]", "[1:20,15:15]", "[1:2,1:13]"),
        (Region(3, 12, 21, 30), 1, "[3:10,1:6]", "[1:10,8:10]", "[1:2,1:6]"),
        (Region(3, 12, 21, 30), 5, "[2:2,1:1]", None, None),
        (Region(11, 20, 1, 10), 1, "[1:10,1:10]", None, None),
    ],
)
def test_regions_are_those_of_the_image(
    tmp_path: Path,
    window: Region | None,
    binning: int,
    image: str,
    bias: str | None,
    dark: str | None,
) -> None:
    header = values(tmp_path, PLAIN.with_(window=window, binning=binning))
    found = [header[key] for key in ("IMAG-RGN", "BIAS-RGN", "DARK-RGN")]
    assert found == [image, bias, dark]
    assert header["CAM-WIND"] == str(window or SENSOR)
    assert header["CAM-BIN"] == binning


def test_a_job_has_all_that_a_saving_process_needs(tmp_path: Path) -> None:
    config = camera_config(tmp_path)
    wanted = PLAIN.with_(window=Region(11, 20, 1, 10), binning=2)
    readout = Readout(SENSOR)
    job = saving_job(
        config, crop_for(wanted, CAPABILITIES, readout), wanted, readout, RECORD,
        values(tmp_path, wanted), ("/dev/shm/TEST.im.shm", 4096, 3),
    )  # fmt: skip
    assert json.loads(json.dumps(job)) == job
    assert (job["number"], job["run"], job["slot"], job["offset"]) == (5, "run", 3, 4096)
    assert (job["shape"], job["crop"], job["binning"]) == ([30, 40], [0, 10, 10, 20], 2)
    assert job["path"] == str(tmp_path / "test-00000005-20250615T010203123.fits")
