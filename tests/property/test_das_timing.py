# SPDX-License-Identifier: BSD-3-Clause
"""Times and slots of samples, whatever the crystal, the stamps and the clock do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjard.dasd.timing import MINUTE_NS, SampleClock, Slots, WallClock

S = 1_000_000_000


def run_line(
    rate_hz: float, ppm: float, jitter_s: float, blocks: int, seed: int, late_every: int = 0
) -> tuple[SampleClock, float]:
    """Return the line after so many blocks, and the worst error of its last half, s."""
    random = np.random.default_rng(seed)
    line = SampleClock(rate_hz)
    size = max(1, round(rate_hz / 10))
    period = S / rate_hz / (1 + ppm * 1e-6)
    worst = 0.0
    begin = 123_456_789_012
    for block in range(blocks):
        last = (block + 1) * size - 1
        true = begin + last * period
        late = 0.2 if late_every and block % late_every == late_every - 1 else 0.0
        line.update(1, last, round(true + (abs(random.normal(0, jitter_s)) + late) * S))
        if block > blocks // 2:
            worst = max(worst, abs(line.time_ns(last) - true) / S)
    return line, worst


@given(
    ppm=st.floats(-300, 300), jitter_s=st.floats(0, 0.001), rate_hz=st.sampled_from([10, 50, 1000]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_line_is_smoother_than_the_stamps(
    ppm: float, jitter_s: float, rate_hz: float, seed: int
) -> None:
    line, worst = run_line(rate_hz, ppm, jitter_s, 600, seed)
    # Stamps are only ever late: their mean, 0.8 sigma, stays; the noise about it does not.
    assert worst < 1.4 * jitter_s + 5e-6
    assert line.ppm == pytest.approx(-ppm, abs=1 + 2e4 * jitter_s)
    assert line.resets == 0


def test_late_stamps_are_left_out() -> None:
    line, worst = run_line(50, -27, 2e-4, 1200, 3, late_every=7)
    assert line.late > 150
    assert worst < 4e-4
    assert line.ppm == pytest.approx(27, abs=2)


def test_a_counter_that_jumps_begins_a_new_line() -> None:
    line, _ = run_line(50, 0, 1e-5, 100, 1)
    begin = 123_456_789_012 + 500 * 20_000_000
    for block in range(60):  # the counter has lost 250 samples that nobody told
        last = 500 + (block + 1) * 5 - 1
        line.update(1, last, begin + 250 * 20_000_000 + (block + 1) * 100_000_000)
    assert line.resets == 1
    want = begin + 250 * 20_000_000 + 60 * 100_000_000
    assert abs(line.time_ns(500 + 60 * 5 - 1) - want) < 50_000


@given(
    ppm=st.floats(-400, 400), phase=st.floats(0, 1), rate=st.sampled_from([1.0, 12.5, 50.0, 200.0]),
    noise=st.floats(0, 0.05), seed=st.integers(0, 99),
)  # fmt: skip
def test_slots_never_repeat_and_are_nearest(
    ppm: float, phase: float, rate: float, noise: float, seed: int
) -> None:
    n_slots = round(rate * 60)
    slots, period = Slots(n_slots), S / rate * (1 + ppm * 1e-6)
    random = np.random.default_rng(seed)
    start = 29_166_667 * MINUTE_NS
    previous = None
    for counter in range(0, 6000, 5):
        utc_ns = start + round((counter + phase) * period + random.normal(0, noise) * S / rate)
        slot, moved = slots.number(counter, utc_ns)
        nominal = slot * MINUTE_NS // n_slots  # a float of 1e18 ns is good to 256 ns
        assert abs(utc_ns - nominal) <= 0.6 * S / rate + 2
        assert abs(moved) <= 1
        if previous is not None:
            assert slot - previous == 5 + moved
        previous = slot


def test_a_drifting_clock_slips_as_often_as_it_must() -> None:
    slots, slips = Slots(3000), 0
    period = 2e7 * (1 + 27e-6)
    for counter in range(0, 180_000, 5):  # an hour
        _, moved = slots.number(counter, round(29_166_667 * MINUTE_NS + counter * period))
        slips += moved
    assert slips in (4, 5)  # 27 ppm are a slot of 20 ms every 12.3 minutes


def test_steps_of_the_host_are_seen_and_small_noise_is_none() -> None:
    wall = WallClock()
    assert wall.update(5_000 * S, 10 * S) is None
    assert wall.update(5_001 * S + 30_000, 11 * S) is None
    step = wall.update(5_003 * S + 300_000_000, 12 * S)
    assert step is not None
    assert step.is_followed
    assert step.seconds == pytest.approx(1.3, abs=1e-4)
    assert wall.update(5_004 * S + 300_000_000, 13 * S) is None
    assert wall.offset_ns == pytest.approx(4991 * S + 300_000_000, abs=1000)


def test_a_clock_that_is_set_far_back_is_not_followed_until_it_comes_back() -> None:
    wall = WallClock()
    wall.update(5_000 * S, 0)
    step = wall.update(1_401 * S, 1 * S)
    assert step is not None
    assert not step.is_followed
    assert step.seconds == pytest.approx(-3600)
    assert wall.offset_ns == 5_000 * S
    assert wall.held_ns == 3_600 * S
    assert wall.update(1_402 * S, 2 * S) is None
    back = wall.update(5_003 * S, 3 * S)
    assert back is not None
    assert back.is_followed
    assert (wall.offset_ns, wall.held_ns) == (5_000 * S, 0)
