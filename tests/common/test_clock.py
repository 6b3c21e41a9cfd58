# SPDX-License-Identifier: BSD-3-Clause
"""The three clocks and what the kernel says of its own."""

from __future__ import annotations

import ctypes
import threading
import time

import pytest

from kit.sleepers import SleepersClock
from kit.soon import assert_soon
from nightjar.clock import (
    NS_PER_S,
    Clock,
    ClockHealth,
    ManualClock,
    ScaledClock,
    SystemClock,
    clock_health,
    together_ns,
)  # fmt: skip


def test_the_system_clock_is_the_systems() -> None:
    clock = SystemClock()
    before = time.time_ns()
    assert before <= clock.now_ns() <= time.time_ns()
    mono = time.monotonic_ns()
    assert mono <= clock.monotonic_ns() <= time.monotonic_ns()
    started = time.monotonic()
    clock.sleep(0.02)
    assert time.monotonic() - started >= 0.02
    clock.sleep(-1)
    event = threading.Event()
    assert clock.wait(event, 0.01) is False
    event.set()
    assert clock.wait(event, -1) is True


@pytest.mark.parametrize("held_up", [0, 1, 4, 99])
def test_two_clocks_are_read_together(held_up: int) -> None:
    clock = ManualClock()
    offset_ns = clock.now_ns() - clock.monotonic_ns()

    class HeldUp:
        """Reads UTC and is held up, less each time."""

        count = 0

        def monotonic_ns(self) -> int:
            return clock.monotonic_ns()

        def now_ns(self) -> int:
            now_ns = clock.now_ns()
            self.count += 1
            if self.count <= held_up:
                clock.advance(1 / self.count)
            return now_ns

    utc_ns, monotonic_ns = together_ns(HeldUp())  # type: ignore[arg-type]
    found_ns = utc_ns - monotonic_ns
    assert found_ns == (offset_ns if held_up < 5 else offset_ns - NS_PER_S // 5)


def test_a_scaled_clock_runs_faster() -> None:
    clock = ScaledClock(100)

    def sleep() -> tuple[float, str]:
        wall, mono, real = clock.now_ns(), clock.monotonic_ns(), time.monotonic_ns()
        clock.sleep(2.0)
        passed = time.monotonic_ns() - real
        assert passed >= 0.02 * NS_PER_S
        assert clock.monotonic_ns() - mono >= 2 * NS_PER_S
        assert clock.now_ns() - wall >= 2 * NS_PER_S
        return passed / NS_PER_S, "2 s"

    assert_soon(sleep, 1.5)
    # 100 times as fast; the readings around those of the clock bound what passed for it.
    before, mono, after = time.monotonic_ns(), clock.monotonic_ns(), time.monotonic_ns()
    clock.sleep(2.0)
    second, scaled, last = time.monotonic_ns(), clock.monotonic_ns(), time.monotonic_ns()
    assert 99.99 * (second - after) <= scaled - mono <= 100.01 * (last - before)
    assert clock.wait(threading.Event(), 1.0) is False


@pytest.mark.parametrize("rate", [0, -1])
def test_a_clock_does_not_stand_or_run_backwards(rate: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        ScaledClock(rate)


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(1000)
    assert (clock.now_ns(), clock.monotonic_ns()) == (1000, 0)
    clock.advance(1.5)
    assert (clock.now_ns(), clock.monotonic_ns()) == (1000 + 1_500_000_000, 1_500_000_000)
    clock.step_wall(-10)
    assert (clock.now_ns(), clock.monotonic_ns()) == (1000 - 8_500_000_000, 1_500_000_000)


def test_who_sleeps_on_a_manual_clock_wakes_when_it_is_advanced() -> None:
    clock = SleepersClock()
    woken = threading.Event()

    def sleeper() -> None:
        clock.sleep(10)
        woken.set()

    thread = threading.Thread(target=sleeper)
    thread.start()
    clock.until_asleep()
    for _ in range(9):
        clock.advance(1)
        clock.step_wall(100)  # a step of the wall clock wakes nobody
    assert not woken.wait(0.05)
    clock.advance(1)
    assert woken.wait(5)
    thread.join(5)


def test_waiting_on_a_manual_clock_ends_with_the_event_or_the_deadline() -> None:
    clock = ManualClock()
    event = threading.Event()
    assert clock.wait(event, 0) is False
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(clock.wait(event, 3600)))
    thread.start()
    event.set()  # without the clock moving at all
    thread.join(5)
    assert results == [True]


def test_all_of_them_are_clocks() -> None:
    clocks: list[Clock] = [SystemClock(), ScaledClock(2), ManualClock()]
    for clock in clocks:
        assert clock.monotonic_ns() <= clock.monotonic_ns()


class FakeLibc:
    def __init__(self, state: int, status: int, error_us: int) -> None:
        self.answer = state, status, error_us

    def adjtimex(self, pointer: object) -> int:
        timex = pointer._obj  # type: ignore[attr-defined]
        state, timex.status, timex.esterror = self.answer
        timex.maxerror = 2 * timex.esterror
        return state


@pytest.mark.parametrize(
    ("state", "status", "health"),
    [
        (0, 0x2001, ClockHealth(True, 0.000_25, 0.000_5)),
        (0, 0x0041, ClockHealth(False, None, None)),  # STA_UNSYNC
        (5, 0x0001, ClockHealth(False, None, None)),  # TIME_ERROR
        (-1, 0, ClockHealth(False, None, None)),  # not allowed here
    ],
)
def test_clock_health(
    monkeypatch: pytest.MonkeyPatch, state: int, status: int, health: ClockHealth
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_named: FakeLibc(state, status, 250))
    assert clock_health() == health
    assert clock_health().label == ("SYNC" if health.is_synchronised else "UNSYNC")


def test_without_adjtimex_the_clock_counts_as_unsynchronised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_named: object())
    assert clock_health() == ClockHealth(False, None, None)


def test_the_real_kernel_answers_within_its_struct() -> None:
    health = clock_health()
    if health.is_synchronised:
        assert health.maximum_error_s is not None
        assert 0 <= health.maximum_error_s <= 16.1  # NTP_PHASE_MAX
