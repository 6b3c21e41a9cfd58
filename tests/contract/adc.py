# SPDX-License-Identifier: BSD-3-Clause
"""What every ADC driver must do: checks that a driver's test module inherits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pytest

from nightjar.clock import ManualClock
from nightjar.errors import DeviceError, DeviceLost, DeviceNotFound
from nightjard.dasd.drivers.base import Adc, Block

RATE_HZ = 50.0
CHANNELS = 8


@dataclass
class AdcBench:
    """How the checks get at a driver of 8 channels at 50 Hz.

    Attributes
    ----------
    adc, clock
        Not open; the time that it and its host have.
    overrun, unplug, plug, quieten
        What happens to the device.
    """

    adc: Adc
    clock: ManualClock
    overrun: Callable[[], None]
    unplug: Callable[[], None]
    plug: Callable[[], None]
    quieten: Callable[[], None]

    def read(self) -> Block | None:
        """Return what a read with no patience gives, after a tenth of a second."""
        self.clock.advance(0.1)
        return self.adc.read(0.0)

    def blocks(self, count: int) -> list[Block]:
        found: list[Block] = []
        for _ in range(4 * count):
            block = self.read()
            if block is not None:
                found.append(block)
            if len(found) == count:
                return found
        raise AssertionError(f"{len(found)} blocks in {0.4 * count} s")


class AdcContract:
    """Checks; the subclass has the fixture `bench`."""

    @pytest.fixture
    def running(self, bench: AdcBench) -> AdcBench:
        bench.adc.open()
        bench.adc.start()
        return bench

    def test_what_headers_tell_is_plain(self, bench: AdcBench) -> None:
        about = bench.adc.open()
        assert json.loads(json.dumps(about)) == about
        assert json.dumps(asdict(bench.adc.capabilities))
        bench.adc.close()

    def test_blocks_are_int16_and_follow_each_other(self, running: AdcBench) -> None:
        blocks = running.blocks(20)
        counter = 0
        for block in blocks:
            assert block.samples.dtype == np.int16
            assert block.samples.ndim == 2
            assert block.samples.shape[1] == CHANNELS
            assert block.samples.flags.c_contiguous
            assert block.counter == counter
            assert block.epoch == blocks[0].epoch
            assert block.loss == ""
            counter += len(block.samples)
        assert 0.7 * 20 * 5 <= counter <= 1.3 * 20 * 5

    def test_about_ten_blocks_a_second(self, running: AdcBench) -> None:
        sizes = {len(block.samples) for block in running.blocks(10)}
        assert sizes <= set(range(3, 11))

    def test_stamps_are_of_the_last_sample_and_never_early(self, running: AdcBench) -> None:
        period_ns = 1e9 / RATE_HZ
        blocks = running.blocks(30)
        last = [block.counter + len(block.samples) - 1 for block in blocks]
        slope = np.polyfit(last, [block.monotonic_ns for block in blocks], 1)[0]
        assert slope == pytest.approx(period_ns, rel=0.01)
        host = running.adc.host
        offset = host.now_ns() - host.monotonic_ns()
        for block in blocks:
            assert block.utc_ns - block.monotonic_ns == pytest.approx(offset, abs=1e6)
            assert block.monotonic_ns <= host.monotonic_ns() + 1e6

    def test_nothing_before_its_time(self, running: AdcBench) -> None:
        assert running.adc.read(0.0) is None

    def test_a_reader_that_was_late_gets_all(self, running: AdcBench) -> None:
        first = running.blocks(1)[0]
        running.clock.advance(3.0)
        counter = first.counter + len(first.samples)
        while (block := running.adc.read(0.0)) is not None:
            assert block.counter == counter
            assert block.loss == ""
            counter += len(block.samples)
        assert counter >= 3.0 * RATE_HZ - 5

    def test_an_overrun_is_told_and_sampling_goes_on(self, running: AdcBench) -> None:
        before = running.blocks(3)[-1]
        running.overrun()
        after = running.blocks(3)
        assert "overrun" in after[0].loss
        is_new = after[0].epoch != before.epoch
        expected = 0 if is_new else before.counter + len(before.samples) + 1
        assert after[0].counter >= expected
        assert all(block.loss == "" for block in after[1:])

    def test_unplugged_is_lost_and_comes_back(self, running: AdcBench) -> None:
        before = running.blocks(3)[-1]
        running.unplug()
        with pytest.raises(DeviceLost):
            running.blocks(1)
        running.adc.close()
        with pytest.raises(DeviceNotFound):
            running.adc.open()
        running.plug()
        running.adc.open()
        running.adc.start()
        after = running.blocks(2)[0]
        assert after.epoch != before.epoch
        assert after.counter == 0

    def test_a_quiet_device_gives_nothing_in_time(self, running: AdcBench) -> None:
        running.blocks(1)
        running.quieten()
        assert all(running.read() is None for _ in range(5))

    def test_reading_without_a_start_is_refused(self, bench: AdcBench) -> None:
        bench.adc.open()
        with pytest.raises(DeviceError):
            bench.adc.read(0.0)

    def test_close_at_any_time_and_again(self, bench: AdcBench) -> None:
        bench.adc.close()
        bench.adc.open()
        bench.adc.start()
        bench.adc.stop()
        bench.adc.stop()
        bench.adc.close()
        bench.adc.close()
        bench.adc.open()
        bench.adc.start()
        assert bench.blocks(1)[0].counter == 0
