# SPDX-License-Identifier: BSD-3-Clause
"""What every motor and encoder of a rotator must do; truth is what the mechanics really did."""

from __future__ import annotations

import pytest

from kit.rotator import Bench
from nightjar.errors import DeviceError, DeviceLost, DeviceNotFound
from nightjard.simulators.rotator.wire import Pty

SPEED, RATE = 5000.0, 5000.0  # counts/s, counts/s2; 1000 counts are a degree


class RotatorContract:
    """Inherit and provide the fixture `bench`."""

    @pytest.fixture
    def open_bench(self, bench: Bench) -> Bench:
        capabilities = bench.motor.open()
        bench.encoder.open()
        assert capabilities.has_home_input
        assert capabilities.has_limit_inputs
        assert not capabilities.keeps_position
        bench.motor.clear()
        return bench

    def test_at_rest_it_tells_that(self, open_bench: Bench) -> None:
        state = open_bench.motor.state()
        assert (state.counts, state.is_moving, state.is_powered) == (0, False, True)
        assert (state.is_limit_low, state.is_limit_high, state.fault) == (False, False, "")
        assert not state.was_reset
        assert state.is_answering

    @pytest.mark.parametrize("target", [-1234, 1, 9876])
    def test_a_move_ends_at_its_count(self, open_bench: Bench, target: int) -> None:
        open_bench.motor.move_to(target, SPEED, RATE)
        if abs(target) > 1:
            open_bench.pass_time(0.1)
            assert open_bench.motor.state().is_moving
        open_bench.run()
        assert open_bench.motor.state().counts == target

    def test_speed_is_what_was_asked(self, open_bench: Bench) -> None:
        open_bench.motor.move_to(-20000, 4000.0, 8000.0)
        open_bench.pass_time(1.0)
        velocity = open_bench.mechanics.shaft_velocity_deg_s
        open_bench.pass_time(1.0)
        assert velocity == pytest.approx(-4.0, rel=0.01)
        assert open_bench.mechanics.motor_counts == pytest.approx(-7000, abs=400)

    def test_a_move_that_goes_on_is_replaced(self, open_bench: Bench) -> None:
        open_bench.motor.move_to(-20000, SPEED, RATE)
        open_bench.mechanics.stop(1e9)
        open_bench.pass_time(0.1)
        open_bench.motor.move_to(3000, SPEED, RATE)
        open_bench.run()
        assert open_bench.motor.state().counts == 3000

    def test_stop_decelerates_at_its_rate(self, open_bench: Bench) -> None:
        open_bench.motor.move_to(-30000, SPEED, RATE)
        open_bench.pass_time(2.0)
        at = open_bench.mechanics.motor_counts
        open_bench.motor.stop(20000.0)
        assert open_bench.run() <= 0.35  # 5000 / 20000 s, looked at every 0.05 s
        assert open_bench.motor.state().counts == pytest.approx(at - 625, abs=120)

    def test_stop_at_rest_is_harmless(self, open_bench: Bench) -> None:
        open_bench.motor.stop(20000.0)
        open_bench.pass_time(0.1)
        state = open_bench.motor.state()
        assert (state.counts, state.is_moving) == (0, False)

    def test_the_counter_can_be_set(self, open_bench: Bench) -> None:
        open_bench.motor.set_counts(-4321)
        assert open_bench.motor.state().counts == -4321
        open_bench.motor.move_to(-4000, SPEED, RATE)
        open_bench.run()
        assert open_bench.motor.state().counts == -4000

    def test_the_homing_sensor_is_told(self, open_bench: Bench) -> None:
        assert open_bench.motor.state().is_home is False
        open_bench.motor.move_to(-7150, SPEED, RATE)  # the tab is at -0.3 to 0, it is at 7
        open_bench.run()
        assert open_bench.mechanics.is_home
        assert open_bench.motor.state().is_home is True

    def test_without_supply_it_is_lost_and_then_was_reset(self, open_bench: Bench) -> None:
        open_bench.mechanics.cut_power()
        open_bench.pass_time(0.1)
        self.expect_silence(open_bench)
        open_bench.mechanics.set_power(True)
        open_bench.pass_time(0.6)
        assert open_bench.motor.state().was_reset
        open_bench.motor.clear()
        assert not open_bench.motor.state().was_reset

    def expect_silence(self, bench: Bench) -> None:
        with bench.impatience(), pytest.raises(DeviceLost):
            bench.motor.state()

    def test_a_limit_is_told_until_cleared(self, open_bench: Bench) -> None:
        open_bench.motor.move_to(25000, SPEED, RATE)
        open_bench.pass_time(10.0)
        assert open_bench.mechanics.limits == (False, True)
        open_bench.mechanics.set_power(True)
        open_bench.pass_time(0.6)
        state = open_bench.motor.state()
        assert not state.is_limit_low
        assert state.is_limit_high or state.was_reset  # a motor may forget without power
        open_bench.motor.clear()
        state = open_bench.motor.state()
        assert not state.is_limit_high
        assert not state.was_reset

    def test_the_encoder_follows_the_load(self, open_bench: Bench) -> None:
        per_deg = open_bench.encoder.counts_per_turn / 45
        before, load = open_bench.encoder.read(), open_bench.mechanics.load_deg
        assert before.is_absolute
        open_bench.motor.move_to(-9000, SPEED, RATE)
        open_bench.run()
        after = open_bench.encoder.read()
        turned = (after.counts - before.counts) / per_deg
        assert turned == pytest.approx(open_bench.mechanics.load_deg - load, abs=0.13)
        assert after.utc_ns == open_bench.clock.now_ns()

    def test_the_encoder_wraps_at_its_turn(self, open_bench: Bench) -> None:
        per_turn = open_bench.encoder.counts_per_turn
        seen = set()
        for target in range(0, -46000, -2000):
            open_bench.motor.move_to(target, 50 * SPEED, 100 * RATE)
            open_bench.run()
            seen.add(open_bench.encoder.read().counts)
        assert all(0 <= counts < per_turn for counts in seen)
        assert max(seen) - min(seen) > 0.9 * per_turn

    def test_closed_they_are_lost_and_found_again(self, open_bench: Bench) -> None:
        for device in (open_bench.motor, open_bench.encoder):
            device.close()
            device.close()
        open_bench.motor.open()
        open_bench.encoder.open()
        assert open_bench.motor.state().counts == 0


class WireContract(RotatorContract):
    """What those on a serial line must do in addition."""

    def test_power_off_lets_go_and_no_move_begins(self, open_bench: Bench) -> None:
        open_bench.motor.set_power(False)
        assert not open_bench.motor.state().is_powered
        open_bench.motor.set_power(True)
        state = open_bench.motor.state()
        assert (state.is_powered, state.is_moving) == (True, False)
        open_bench.motor.move_to(500, SPEED, RATE)
        open_bench.run()
        assert open_bench.motor.state().counts == 500

    def test_a_second_program_is_refused(self, open_bench: Bench) -> None:
        assert open_bench.second_motor is not None
        with pytest.raises(DeviceNotFound, match="another program has it open"):
            open_bench.second_motor().open()
        assert open_bench.motor.state().counts == 0

    def test_a_pulled_cable_is_lost_and_found_again(self, open_bench: Bench) -> None:
        for wire, device in zip(
            open_bench.wires, (open_bench.motor.state, open_bench.encoder.read), strict=True
        ):
            assert isinstance(wire, Pty)
            path = wire.path
            wire.unplug()
            with pytest.raises(DeviceLost, match=path):
                device()
            with pytest.raises(DeviceLost, match="is not open"):
                device()
        with pytest.raises(DeviceNotFound):
            open_bench.motor.open()

    def test_an_answer_that_is_cut_is_asked_for_again(self, open_bench: Bench) -> None:
        for wire in open_bench.wires:
            wire.cut_answers = 1
        with open_bench.impatience(tries=75):  # of 0.2 s
            assert open_bench.motor.state().counts == 0
            assert 0 <= open_bench.encoder.read().counts < 4096

    def test_garbage_is_no_answer(self, open_bench: Bench) -> None:
        for wire in open_bench.wires:
            wire.garble = 1.0
        with open_bench.impatience(), pytest.raises(DeviceError):
            open_bench.motor.state()
        for wire in open_bench.wires:
            wire.garble = 0.0
        assert open_bench.motor.state().counts == 0
