# SPDX-License-Identifier: BSD-3-Clause
"""What is said of the host's clock."""

from __future__ import annotations

import subprocess

import pytest

from nightjar.api.states import Level
from nightjar.clock import ClockHealth
from nightjard.dasd.clockcheck import ClockState, judge, look, parse_chrony
from nightjard.dasd.config import ClockConfig

GOOD = (
    "C0A80001,192.168.0.1,3,1750000000.123456789,0.000012,-0.000010,0.000020,"
    "-27.345,0.001,0.050,0.000400,0.000300,64.2,Normal\n"
)


def silent() -> ClockHealth:
    return ClockHealth(False, None, None)


def test_what_chrony_says() -> None:
    state = parse_chrony(GOOD)
    assert state == ClockState("chrony", True, 1.2e-5, 2e-5, 3e-4, 4e-4, -27.345, 3)
    assert state.error_s == pytest.approx(1.2e-5 + 3e-4 + 2e-4)
    lost = parse_chrony(GOOD.replace("Normal", "Not synchronised"))
    assert lost is not None
    assert not lost.is_locked


@pytest.mark.parametrize("line", ["", "506 Cannot talk to daemon", "a,b", GOOD.replace("3,", "x,")])
def test_what_chrony_does_not_say_is_asked_of_the_kernel(line: str) -> None:
    assert parse_chrony(line) is None
    state = look(lambda: line, lambda: ClockHealth(True, 0.001, 0.02))
    assert (state.source, state.is_locked, state.error_s) == ("kernel", True, 0.021)


def test_a_chronyc_that_is_missing_or_hangs() -> None:
    def missing() -> str:
        raise FileNotFoundError

    def hangs() -> str:
        raise subprocess.TimeoutExpired("chronyc", 0.4)

    for run in (missing, hangs):
        assert look(run, silent) == ClockState("kernel", False)


@pytest.mark.parametrize(
    ("offset_s", "level"), [(0.0049, 0), (-0.0049, 0), (0.0051, 1), (-0.049, 1), (0.051, 2)]
)
def test_limits(offset_s: float, level: int) -> None:
    found, text = judge(ClockState("chrony", True, offset_s), ClockConfig())
    assert found is Level(level)
    assert "ms" in text
    if level:
        assert "das check --clock" in text


def test_an_unsynchronised_clock_fails() -> None:
    assert judge(ClockState("kernel", False), ClockConfig())[0] is Level.FAILED
    assert judge(ClockState("kernel", True), ClockConfig())[0] is Level.OK


def test_this_machine_can_be_asked() -> None:
    assert look().source in ("chrony", "kernel")


def test_a_simulated_clock_that_is_wrong_on_purpose_is_told_and_is_no_alarm() -> None:
    state = ClockState("simulated", False)
    level, text = judge(state, ClockConfig())
    assert level is Level.DEGRADED
    assert "simulated" in text
