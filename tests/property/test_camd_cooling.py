# SPDX-License-Identifier: BSD-3-Clause
"""The cooling law under any sequence of times, temperatures and commands."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nightjar.api.states import CoolerMode
from nightjard.camd.cooling import LOCK_SAMPLES, MAX_GAP_S, CoolerControl

STEPS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 3), st.floats(-10, 10_000)),
        st.one_of(st.none(), st.floats(-60, 60), st.just(math.nan), st.just(math.inf)),
        st.one_of(st.none(), st.floats(-50, 30)),
    ),
    max_size=60,
)


@given(STEPS, st.floats(0.5, 50), st.floats(0.1, 30), st.floats(0, 1))
def test_a_power_is_always_possible_and_never_changes_faster_than_configured(
    steps: list[Any], step: float, delay_s: float, power: float
) -> None:
    control = CoolerControl("pwm", 255, step, delay_s, 10.0, 0.5, 40.0)
    control.adopt(power)
    before = control.pwm
    held = 0
    for dt_s, temperature_c, setpoint_c in steps:
        output = control.step(dt_s, temperature_c, setpoint_c)
        assert output.pwm is not None
        assert 0 <= output.pwm <= 255
        assert output.target_c is None
        longest_s = min(max(dt_s, 0.0), max(MAX_GAP_S, 2 * delay_s))
        assert abs(output.pwm - before) <= step / delay_s * longest_s + 1e-6
        if setpoint_c is None:
            assert output.pwm <= before
            assert (output.mode is CoolerMode.WARM) == (output.pwm == 0)
        elif temperature_c is None or not math.isfinite(temperature_c):
            assert (output.mode, output.pwm) == (CoolerMode.FAULT, before)
        else:
            held = held + 1 if abs(temperature_c - setpoint_c) <= 0.5 else 0
            assert (output.mode is CoolerMode.LOCKED) == (held >= LOCK_SAMPLES)
        if output.mode not in (CoolerMode.LOCKING, CoolerMode.LOCKED):
            held = 0
        before = output.pwm


@given(STEPS, st.floats(0.1, 60))
def test_a_target_never_moves_faster_than_its_rate(steps: list[Any], rate: float) -> None:
    control = CoolerControl("setpoint", 0, 3, 1.0, rate, 0.5, 40.0)
    before: float | None = None
    for dt_s, temperature_c, setpoint_c in steps:
        output = control.step(dt_s, temperature_c, setpoint_c)
        assert output.pwm is None
        target = output.target_c
        if target is not None and before is not None:
            longest_s = min(max(dt_s, 0.0), MAX_GAP_S)
            assert abs(target - before) <= rate / 60 * longest_s + 1e-6
        if target is not None:
            assert math.isfinite(target)
        before = target


@given(st.integers(1, 40), st.floats(0.2, 3))
def test_asking_more_often_is_no_faster(times: int, total_s: float) -> None:
    often = CoolerControl("pwm", 255, 3, 1.0, 10.0, 0.5, 40.0)
    once = CoolerControl("pwm", 255, 3, 1.0, 10.0, 0.5, 40.0)
    for _ in range(times):
        often.step(total_s / times, 20.0, -20.0)
    once.step(total_s, 20.0, -20.0)
    assert math.isclose(often.pwm, once.pwm, abs_tol=1e-6)
