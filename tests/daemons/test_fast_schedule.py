# SPDX-License-Identifier: BSD-3-Clause
"""The trigger box and the frames that it makes: the same for two cameras, true to its physics."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjard.camd.fast.schedule import FreeRunning, Planned, Triggered
from nightjard.camd.fast.sensor import Timing
from nightjard.camd.fast.trigger import EPOCH_NS, TriggerBox

NOW_NS = EPOCH_NS + 200_000_000 * 10**9
US = 1000


def box(rate_hz: float = 200.0, half_width_us: int | None = 500, seed: int = 1) -> TriggerBox:
    half = None if half_width_us is None else half_width_us * US
    return TriggerBox(rate_hz, seed, 2 * US, half)


def take(schedule: Triggered | FreeRunning, count: int) -> list[Planned]:
    return [schedule.next() for _ in range(count)]


def times(pulses: Iterable[int], of: TriggerBox) -> np.ndarray:
    return np.array([of.time_ns(pulse) for pulse in pulses])


def test_pulses_are_those_of_another_process_with_the_same_numbers() -> None:
    one, other = box(), box()
    first = one.first_after(NOW_NS)
    assert first == other.first_after(NOW_NS)
    assert [one.time_ns(k) for k in range(first, first + 5000)] == [
        other.time_ns(k) for k in range(first, first + 5000)
    ]
    assert [box(seed=2).time_ns(k) for k in range(99)] != [one.time_ns(k) for k in range(99)]


@given(st.floats(0.01, 1400), st.integers(0, 10**19 // 20))
def test_first_pulse_after_a_time_is_the_first(rate_hz: float, after_ns: int) -> None:
    train = box(rate_hz, 100)
    pulse = train.first_after(EPOCH_NS + after_ns)
    assert train.time_ns(pulse) >= EPOCH_NS + after_ns
    assert pulse == 0 or train.time_ns(pulse - 1) < EPOCH_NS + after_ns


def test_interval_after_a_low_pulse_is_longer_by_twice_the_half_width() -> None:
    train = box(200.0, 500)
    first = train.first_after(NOW_NS)
    intervals = np.diff(times(range(first, first + 1001), train))
    states = np.array([train.flc_state(k) for k in range(first, first + 1000)])
    after_low, after_high = intervals[states == "B"], intervals[states == "A"]
    assert len(after_low) == len(after_high) == 500
    assert np.abs(after_low - after_high - 1000 * US).max() <= 4 * US
    assert intervals.mean() == pytest.approx(5_000_000, rel=1e-3)


def test_states_alternate_and_there_are_none_without_the_flc() -> None:
    assert [box().flc_state(k) for k in range(4)] == ["B", "A", "B", "A"]
    plain = box(half_width_us=None)
    assert {plain.flc_state(k) for k in range(4)} == {""}
    intervals = np.diff(times(range(1000), plain))
    assert np.ptp(intervals) <= 4 * US


def test_train_does_not_drift_over_years() -> None:
    train = box(508.7505, 500)
    year = round(508.7505 * 365 * 86400)
    assert train.time_ns(year) - train.time_ns(0) == pytest.approx(365 * 86400 * 10**9, abs=10**6)


def triggered(rate_hz: float, exposure_s: float, camera: int = 1, **options: int) -> Triggered:
    timing = Timing.of(536, "FAST")
    return Triggered(
        box(rate_hz, **options), NOW_NS, exposure_s, timing.readout_s, timing.line_s,
        f"camera {camera}",
    )  # fmt: skip


def test_two_cameras_expose_at_the_same_pulses_each_with_its_own_jitter() -> None:
    one, two = take(triggered(200, 0.001, 1), 500), take(triggered(200, 0.001, 2), 500)
    assert [frame.pulse for frame in one] == [frame.pulse for frame in two]
    assert [frame.flc for frame in one] == [frame.flc for frame in two]
    apart = np.array([a.start_ns - b.start_ns for a, b in zip(one, two, strict=True)])
    assert apart.any()
    assert np.abs(apart).max() <= 7200  # one line time
    assert all(frame.missed == 0 for frame in one)


def test_pulses_that_come_too_early_are_missed_and_counted() -> None:
    # 2 ms period, 2.97 ms busy: every other pulse, all of the same FLC state.
    frames = take(triggered(500, 0.001), 100)
    assert {frame.missed for frame in frames[1:]} == {1}
    assert len({frame.flc for frame in frames}) == 1
    for earlier, later in itertools.pairwise(frames):
        assert later.start_ns >= earlier.ready_ns


def test_early_pulse_of_the_jitter_is_missed_where_the_later_one_is_not() -> None:
    # 3.2 ms period, 2.97 ms busy: 3.7 ms after a low pulse fit, 2.7 ms after a high one do not.
    frames = take(triggered(312.5, 0.001), 100)
    assert sum(frame.missed for frame in frames) > 40


@given(st.floats(0.0007, 0.01), st.integers(0, 10**7))
def test_free_running_frames_are_a_period_apart_and_skipping_loses_none(
    period_s: float, later_ns: int
) -> None:
    schedule, plain = (FreeRunning(1000, period_s, 0.0005, 0.0002) for _ in range(2))
    frames = take(plain, 50)
    assert frames[49].start_ns - frames[0].start_ns == pytest.approx(49 * period_s * 1e9, abs=2)
    assert all(frame.ready_ns - frame.start_ns == 700_000 for frame in frames)
    skipped = schedule.skip_to(later_ns)
    following = schedule.next()
    index = round((following.start_ns - 1000) / (period_s * 1e9))
    assert index == skipped
    assert skipped == 0 or following.ready_ns <= later_ns


def test_skipping_pulses_keeps_their_numbers() -> None:
    skipping, plain = triggered(200, 0.001), triggered(200, 0.001)
    frames = take(plain, 5000)
    skipped = skipping.skip_to(frames[4000].ready_ns)
    assert 3900 < skipped <= 4000
    assert skipping.next() == frames[skipped]
