# SPDX-License-Identifier: BSD-3-Clause
"""Stamps of a host's clock that is stepped at any time, against the truth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjar.clock import NS_PER_S, ManualClock
from nightjard.camd.hostclock import HostClock

MS = 1_000_000


class Night:
    """Frames of a sequence: stamped when they begin, looked at when their turn comes."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.clock.advance(1000)
        self.host = HostClock(self.clock)
        self.waiting: list[tuple[int, int]] = []  # what the clock said, and the truth
        self.told: list[float] = []
        self.known: int | None = None
        self.errors_ns: list[int] = []
        self.unknown = 0

    def frame(self) -> None:
        self.waiting.append((self.clock.now_ns(), self.clock.monotonic_ns()))

    def look(self) -> None:
        if not self.waiting:
            return
        utc_ns, true_ns = self.waiting.pop(0)
        step_s = self.host.look()
        if step_s:
            self.told.append(step_s)
        placed_ns = self.host.monotonic_ns(utc_ns, self.known)
        if placed_ns is None:
            self.unknown += 1
        else:
            self.known = placed_ns
            self.errors_ns.append(placed_ns - true_ns)


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["frame", "look"]), st.floats(0.001, 5)), max_size=60
    ),
    at=st.integers(0, 60),
    step_s=st.one_of(st.floats(-1e5, -400), st.floats(400, 1e5)),
)  # fmt: skip
def test_every_frame_is_placed_whenever_a_large_step_comes(
    events: list[tuple[str, float]], at: int, step_s: float
) -> None:
    night = Night()
    night.frame()
    night.look()
    for number, (what, seconds) in enumerate(events):
        if number == at:
            night.clock.step_wall(step_s)
        night.clock.advance(seconds)
        getattr(night, what)()
    while night.waiting:
        night.clock.advance(0.1)
        night.look()
    assert night.unknown == 0
    assert all(abs(error) < MS for error in night.errors_ns)
    assert night.told == pytest.approx([step_s] * len(night.told))
    assert len(night.told) <= 1


@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["frame", "look"]),
            st.floats(0.001, 2),
            st.sampled_from([0.0, 0.0, 0.1, -0.1, 0.3, -0.3, 5.0, -5.0, 86400.0, -86400.0]),
        ),
        max_size=14,
    )
)
def test_what_is_placed_is_placed_rightly_whatever_the_steps(
    events: list[tuple[str, float, float]],
) -> None:
    night = Night()
    night.frame()
    night.look()
    for what, seconds, step_s in events:
        night.clock.step_wall(step_s)
        night.clock.advance(seconds)
        getattr(night, what)()
        night.host.look()  # one step between two looks; of two that cancel nobody can know
        night.clock.advance(0.001)
    while night.waiting:
        night.look()
    assert all(abs(error) < MS for error in night.errors_ns)


def test_a_slewed_clock_is_followed_without_a_word() -> None:
    night = Night()
    for _ in range(1000):
        night.clock.advance(1.0)
        night.clock.step_wall(0.0005)  # 500 ppm, half a second in all
        night.frame()
        night.look()
    assert night.told == []
    assert max(abs(error) for error in night.errors_ns) < MS


def test_a_process_held_up_between_two_readings_is_no_step() -> None:
    clock = ManualClock()
    clock.advance(1000)

    class HeldUp:
        """Reads the time and is held up for 80 ms, every other time."""

        count = 0

        def monotonic_ns(self) -> int:
            return clock.monotonic_ns()

        def now_ns(self) -> int:
            self.count += 1
            if self.count % 2:
                clock.advance(0.08)
            return clock.now_ns()

    host = HostClock(HeldUp())  # type: ignore[arg-type]
    for _ in range(10):
        clock.advance(1.0)
        assert host.look() == 0.0


def test_a_camera_with_a_clock_of_its_own_keeps_its_spans() -> None:
    night = Night()
    night.clock.advance(1.0)
    night.host.look()
    ahead = night.clock.now_ns() + 2 * NS_PER_S  # the host is two seconds behind
    first = night.host.monotonic_ns(ahead)
    second = night.host.monotonic_ns(ahead + 700 * MS, first)
    assert first is not None
    assert second is not None
    assert second - first == 700 * MS
