# SPDX-License-Identifier: BSD-3-Clause
"""The simulated ADC keeps the contract; what it simulates is what it was told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contract.adc import AdcBench, AdcContract
from kit.das import das_config
from nightjar.clock import ManualClock
from nightjar.das.lines import levels
from nightjar.errors import InvalidArgument
from nightjard.dasd.drivers import make_adc
from nightjard.dasd.drivers.base import Adc
from nightjard.dasd.drivers.simulated import SimulatedAdc


def made(**driver: object) -> tuple[Adc, ManualClock]:
    clock = ManualClock()
    return make_adc(das_config(Path("/raw"), driver=driver), clock), clock


class TestSimulatedAdc(AdcContract):
    @pytest.fixture
    def bench(self) -> AdcBench:
        adc, clock = made(offset_s=0.8, drift_ppm=-27, crystal_ppm=3)
        return AdcBench(
            adc, clock,
            overrun=lambda: adc.fault("overrun", 0.5, None, 0.0),
            unplug=lambda: adc.fault("unplug", 0, None, 0.0),
            plug=lambda: adc.fault("clear", 0, None, 0.0),
            quieten=lambda: adc.fault("stall", 100, None, 0.0),
        )  # fmt: skip


def test_clocks_are_as_wrong_as_they_were_told() -> None:
    adc, clock = made(offset_s=0.8, drift_ppm=-27, crystal_ppm=3, jitter_s=0.0)
    bench = AdcBench(adc, clock, *[lambda: None] * 4)
    adc.open()
    adc.start()
    assert adc.host.now_ns() - clock.now_ns() == pytest.approx(0.8e9, abs=1000)
    first, *_, last = bench.blocks(600)
    host_ns = last.monotonic_ns - first.monotonic_ns
    samples = last.counter + len(last.samples) - first.counter - len(first.samples)
    assert host_ns / samples / 2e7 - 1 == pytest.approx(-30e-6, abs=1e-7)
    clock.advance(3600)
    assert adc.host.now_ns() - clock.now_ns() == pytest.approx(0.8e9 - 27e-6 * 3660e9, abs=1e5)
    adc.fault("clock_step", 1, None, 1.3)
    assert adc.host.now_ns() - clock.now_ns() == pytest.approx(2.1e9 - 27e-6 * 3660e9, abs=1e5)


def test_samples_are_of_their_time_although_the_start_was_held_up() -> None:
    class HeldUp(ManualClock):
        """Who reads UTC is held up before he has it."""

        def now_ns(self) -> int:
            self.advance(2.0)
            return super().now_ns()

    clock = HeldUp()
    adc = make_adc(das_config(Path("/raw")), clock)
    assert isinstance(adc, SimulatedAdc)
    adc.open()
    adc.start()
    offset_ns = ManualClock.now_ns(clock) - clock.monotonic_ns()
    assert adc._wall_ns - adc._start_ns == offset_ns


def test_an_overrun_loses_what_it_says() -> None:
    adc, clock = made()
    bench = AdcBench(adc, clock, *[lambda: None] * 4)
    adc.open()
    adc.start()
    before = bench.blocks(2)[-1]
    adc.fault("overrun", 0.5, None, 0.0)
    after = bench.blocks(1)[0]
    assert after.loss == "ADC overrun: 25 samples lost"
    assert after.counter == before.counter + 5 + 25


def test_faults_of_the_configuration_come_by_themselves() -> None:
    adc, clock = made(faults=[{"kind": "stuck", "channel": 2, "after_s": 1.0, "seconds": 1.0}])
    bench = AdcBench(adc, clock, *[lambda: None] * 4)
    adc.open()
    adc.start()
    samples = np.concatenate([block.samples for block in bench.blocks(30)])
    assert np.ptp(samples[:40, 2]) > 3
    assert np.ptp(samples[60:90, 2]) == 0
    assert np.ptp(samples[110:, 2]) > 3
    assert np.ptp(samples[60:90, 1]) > 3


def test_a_channel_that_is_none_cannot_be_stuck() -> None:
    adc, _ = made()
    with pytest.raises(InvalidArgument, match="0 to 7"):
        adc.fault("stuck", 1, 8, 0.0)


def test_signals_are_noise_lines_and_an_open_input() -> None:
    adc, clock = made()
    bench = AdcBench(adc, clock, *[lambda: None] * 4)
    adc.open()
    adc.start()
    samples = np.concatenate([block.samples for block in bench.blocks(300)])
    volts = samples.astype(float) * 20 / 65536
    white = np.diff(samples[:, 0].astype(float)).std() / np.sqrt(2)
    assert white == pytest.approx(6, rel=0.15)
    assert set(levels(volts[:, 4]).tolist()) == {0, 1}
    assert 0.3 < volts[:, 5].min() < volts[:, 5].max() < 2.0
