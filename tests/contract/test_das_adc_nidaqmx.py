# SPDX-License-Identifier: BSD-3-Clause
"""The driver of NI-DAQmx keeps the contract, against a stand-in of the package's task and reader.

Constants, errors and error codes are the package's own. No hardware was ever used.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.adc import AdcBench, AdcContract
from kit.das import Board, StandInTask, config_value, counters_in, stand_in
from kit.held_up import HeldUpClock
from nightjar.clock import ManualClock
from nightjar.config.load import parse
from nightjar.errors import ConfigError, DeviceError, DeviceLost, Refused
from nightjard.dasd.config import DasConfig
from nightjard.dasd.drivers import make_adc
from nightjard.dasd.drivers.base import Adc
from nightjard.dasd.timing import WallClock


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    board = Board(ManualClock())
    for name, module in stand_in(board).items():
        monkeypatch.setitem(sys.modules, name, module)
    return board


def nidaqmx_adc(board: Board, **changes: Any) -> Adc:
    value = config_value(Path("/raw"), **changes)
    value["adc"]["driver"] = {
        "name": "nidaqmx", "physical_channels": ["SC1Mod1/ai0:5", "SC1Mod2/ai0:1"],
    }  # fmt: skip
    return make_adc(parse(value, DasConfig, "test"), board.clock)


class TestNidaqmxAdc(AdcContract):
    @pytest.fixture
    def bench(self, board: Board) -> AdcBench:
        def unplug() -> None:
            board.is_missing, board.fails_once, board.failure = True, False, "DEVICE_REMOVED"

        def plug() -> None:
            board.is_missing, board.failure = False, None

        return AdcBench(
            nidaqmx_adc(board), board.clock,
            overrun=lambda: setattr(board, "failure", "INPUT_FIFO_OVERFLOW_2"),
            unplug=unplug, plug=plug, quieten=lambda: setattr(board, "is_quiet", True),
        )  # fmt: skip


def test_samples_are_in_the_order_of_channels(board: Board) -> None:
    adc = nidaqmx_adc(board)
    adc.open()
    adc.start()
    board.clock.advance(0.5)
    block = adc.read(0.0)
    assert block is not None
    assert np.array_equal(counters_in(block.samples), np.arange(25))
    assert block.samples[0, 2:].tolist() == [2, 3, 4, 5, 6, 7]


def test_the_convert_rate_is_set(board: Board) -> None:
    adc = nidaqmx_adc(board, adc={"convert_interval_s": 50e-6, "min_v": -5.0, "max_v": 5.0})
    about = adc.open()
    assert about["actual_convert_interval_s"] == pytest.approx(50e-6)
    assert about["actual_rate_hz"] == 50
    assert board.range == (-5.0, 5.0)
    assert board.sample_mode.name == "CONTINUOUS"


def test_a_buffer_that_ran_over_is_an_overrun(board: Board) -> None:
    adc = nidaqmx_adc(board)
    adc.open()
    adc.start()
    board.clock.advance(60)
    assert adc.read(0.0) is None
    board.clock.advance(0.1)
    block = adc.read(0.0)
    assert block is not None
    assert "overrun" in block.loss
    assert (block.epoch, board.starts) == (2, 2)


def test_a_process_held_up_between_two_clocks_is_no_step_of_one(board: Board) -> None:
    board.clock = HeldUpClock(0.005)
    adc = nidaqmx_adc(board)
    adc.open()
    adc.start()
    wall = WallClock()
    for _ in range(10):
        board.clock.advance(0.1)
        block = adc.read(0.0)
        assert block is not None
        assert wall.update(block.utc_ns, block.monotonic_ns) is None


def test_another_number_of_inputs_is_refused(board: Board) -> None:
    value = config_value(Path("/raw"))
    value["adc"]["driver"] = {"name": "nidaqmx", "physical_channels": ["Dev1/ai0:3"]}
    adc = make_adc(parse(value, DasConfig, "test"), board.clock)
    with pytest.raises(DeviceError, match=r"4 inputs; channels\.count is 8"):
        adc.open()
    assert board.closes == 1


def test_a_rate_that_the_board_cannot_do_is_refused(board: Board) -> None:
    board.rate_factor = 1.01
    with pytest.raises(DeviceError, match=r"50\.5 Hz where 50 Hz"):
        nidaqmx_adc(board).open()


def test_other_errors_of_the_library_are_told(board: Board) -> None:
    adc = nidaqmx_adc(board)
    adc.open()
    adc.start()
    board.failure = "COUNTER_OVERFLOW"
    board.clock.advance(0.1)
    with pytest.raises(DeviceLost, match="told to fail"):
        adc.read(0.0)


def test_it_cannot_be_told_to_fail(board: Board) -> None:
    with pytest.raises(Refused, match="no simulation"):
        nidaqmx_adc(board).fault("stall", 1, None, 0.0)


def test_without_the_package_it_says_what_to_install(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nidaqmx", None)
    with pytest.raises(ConfigError, match=r"nightjar\[nidaqmx\]"):
        nidaqmx_adc(board).open()


def test_the_stand_in_is_called_as_the_package_can_be() -> None:
    """Every call that the driver makes fits the signature of the real package."""
    task = importlib.import_module("nidaqmx.task")
    timing = importlib.import_module("nidaqmx.task._timing").Timing
    channels = importlib.import_module(
        "nidaqmx.task.collections._ai_channel_collection"
    ).AIChannelCollection
    stream = importlib.import_module("nidaqmx.task._in_stream").InStream
    reader = importlib.import_module("nidaqmx.stream_readers").AnalogUnscaledReader
    inspect.signature(channels.add_ai_voltage_chan).bind(
        None, "Dev1/ai0", min_val=-1.0, max_val=1.0, terminal_config=None
    )
    inspect.signature(timing.cfg_samp_clk_timing).bind(
        None, 50.0, sample_mode=None, samps_per_chan=500
    )
    inspect.signature(reader.read_int16).bind(
        None, None, number_of_samples_per_channel=5, timeout=1.0
    )
    for owner, names in (
        (task.Task, ("start", "stop", "close", "number_of_channels", "ai_channels", "in_stream")),
        (timing, ("ai_conv_rate", "samp_clk_rate")),
        (stream, ("avail_samp_per_chan", "input_buf_size")),
        (reader, ("verify_array_shape",)),
    ):
        assert not [name for name in names if not hasattr(owner, name)]
    for name in ("start", "stop", "close"):
        assert hasattr(StandInTask, name)
