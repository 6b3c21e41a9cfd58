# SPDX-License-Identifier: BSD-3-Clause
"""Frame numbers and clock of an Aravis camera, and its options; no library needed."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from nightjar.clock import NS_PER_S, SystemClock
from nightjar.errors import DeviceError
from nightjard.camd.fast.aravis_clock import CameraClock, FrameNumbers
from nightjard.camd.fast.aravis_options import AravisOptions
from nightjard.camd.fast.options import AnySourceOptions
from nightjard.camd.fast.sources import make_source


@given(
    first=st.integers(1, 65535),
    fates=st.lists(st.sampled_from(["whole", "lost", "numbered", "unnumbered"]), max_size=300),
)
def test_every_frame_is_either_told_or_counted_lost(first: int, fates: list[str]) -> None:
    numbers = FrameNumbers()
    assert numbers.take(first) == (first, 0)
    told = lost = 0
    fates = [*fates, "whole"]  # the losses before a frame are known when it is there
    for index, fate in enumerate(fates, start=1):
        raw = (first + index - 1) % 65535 + 1
        if fate == "lost":
            continue
        is_whole = fate == "whole"
        number, before = numbers.take(0 if fate == "unnumbered" else raw, is_whole=is_whole)
        told += 1
        lost += before
        if fate == "whole":
            assert number == first + index
    assert told + lost == len(fates)
    assert lost == fates.count("lost")


def test_before_the_first_number_an_incomplete_frame_has_none() -> None:
    numbers = FrameNumbers()
    assert [numbers.take(0, is_whole=False) for _ in range(2)] == [(0, 0), (0, 0)]
    assert numbers.take(65405) == (65405, 0)
    assert numbers.take(0, is_whole=False) == (65406, 0)
    assert numbers.take(65408) == (65408, 1)


def test_numbers_of_64_bits_of_a_camera_that_counts_0_and_late_frames() -> None:
    wide = FrameNumbers(is_wide=True)
    raws = [0, 1, 2**40, 3]
    assert [wide.take(raw) for raw in raws] == [(0, 0), (1, 0), (2**40, 2**40 - 2), (2**40 + 1, 0)]
    grown = FrameNumbers()
    assert [grown.take(raw)[0] for raw in (65535, 65536, 65537)] == [65535, 65536, 65537]
    zero = FrameNumbers()
    assert [zero.take(raw) for raw in (65534, 65535, 0, 1)] == [
        (65534, 0), (65535, 0), (65536, 0), (65537, 0)
    ]  # fmt: skip
    late = FrameNumbers()
    assert [late.take(raw) for raw in (7, 9, 8, 8, 10)] == [
        (7, 0), (9, 1), (8, 0), (8, 0), (10, 0)
    ]  # fmt: skip


def arrivals(count: int, rate_hz: float, drift_ppm: float, seed: int = 1) -> np.ndarray:
    """Stamps by the camera's clock and arrivals by the host's, ns: late by 50 us and more."""
    rng = np.random.default_rng(seed)
    true_ns = np.arange(count) * NS_PER_S / rate_hz
    stamps = 123_456_789_000 + true_ns * (1 - drift_ppm * 1e-6)
    late = 50_000 + rng.exponential(200_000, count) + (rng.random(count) < 0.01) * 20_000_000
    return np.stack([stamps, 10**15 + true_ns + late, 10**15 + true_ns]).astype(np.int64)


@pytest.mark.parametrize("drift_ppm", [0.0, 80.0, -80.0])
def test_clock_follows_offset_and_drift_below_the_jitter(drift_ppm: float) -> None:
    clock = CameraClock()
    stamps, late, true = arrivals(6000, 100.0, drift_ppm)
    found = np.array([clock.take(int(s), int(a)) for s, a in zip(stamps, late, strict=True)])
    error_us = (found - true)[1000:] / 1e3  # after 10 s
    # 50 us is what even the fastest frame takes; the mean of all is 450 us late.
    assert 40 < error_us.min()
    assert error_us.max() < 75
    assert np.ptp(np.diff(found - true)[1000:]) < 30_000
    assert clock.drift_ppm == pytest.approx(drift_ppm, abs=1.5)
    assert 0 < clock.error_ns < 20_000
    assert clock.resets == 0


def test_clock_that_is_set_is_followed_at_once() -> None:
    clock = CameraClock()
    stamps, late, true = arrivals(3000, 100.0, 20.0)
    stamps[1500:] -= 5_000 * NS_PER_S
    found = np.array([clock.take(int(s), int(a)) for s, a in zip(stamps, late, strict=True)])
    assert clock.resets == 1
    assert np.abs(found - true)[1500:].max() < 25_000_000
    assert np.abs(found - true)[2000:].max() < 150_000


def test_options_name_one_camera_and_are_strict() -> None:
    adapter: TypeAdapter[AravisOptions] = TypeAdapter(AnySourceOptions)
    options = adapter.validate_json('{"name": "aravis", "serial": "S7", "packet_size": 8000}')
    assert isinstance(options, AravisOptions)
    assert options.serial == "S7"
    for text in (
        '{"name": "aravis", "serial": "S7", "address": "10.0.0.7"}',
        '{"name": "aravis", "pixel_format": "Mono12Packed"}',
        '{"name": "aravis", "packet_size": 8001}',
        '{"name": "aravis", "colour": "red"}',
        '{"name": "aravis", "features_at_open": {"a b": 1}}',
    ):
        with pytest.raises(ValidationError):
            adapter.validate_json(text)


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(DeviceError, match=r"gir1\.2-aravis-0\.8.*nightjar\[aravis\]") as error:
        make_source(AravisOptions(), SystemClock()).open()
    assert "\n" not in str(error.value)
