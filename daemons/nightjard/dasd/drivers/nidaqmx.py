# SPDX-License-Identifier: BSD-3-Clause
"""National Instruments multiplexers and ADCs, by the package ``nidaqmx``.

The package needs the maker's driver library, which is not needed to build or test Nightjar: this
driver has been run against a stand-in of the package's task and reader (with the package's own
constants and errors), never against hardware.

Two facts of that library shape it. A read of one sample after the other overflows the board's FIFO:
so about ten reads a second, of whole blocks. A read that times out has taken the samples that were
there: so it is asked first how many there are, and only those are read.
"""

from __future__ import annotations

import importlib
import threading
from typing import Any

import numpy as np

from nightjar.clock import NS_PER_S, Clock, together_ns
from nightjar.errors import ConfigError, DeviceError, DeviceLost, DeviceNotFound
from nightjard.dasd.config import AdcConfig, NidaqmxConfig
from nightjard.dasd.drivers.base import Block, Capabilities
from nightjard.dasd.drivers.simulated import BLOCKS_PER_S, no_faults

_POLL_S = 0.002
_OVERRUNS = {
    "SAMPLES_NO_LONGER_AVAILABLE", "ACQ_STOPPED_TO_PREVENT_INPUT_BUFFER_OVERWRITE",
    "ACQ_STOPPED_TO_PREVENT_INPUT_BUFFER_OVERWRITE_ONE_DATA_XFER_MECH", "INPUT_FIFO_OVERFLOW",
    "INPUT_FIFO_OVERFLOW_2", "ACQ_STOPPED_DRIVER_CANT_XFER_DATA_FAST_ENOUGH",
}  # fmt: skip
_MISSING = {
    "INVALID_DEVICE_ID", "DEV_CANNOT_BE_ACCESSED", "PHYSICAL_CHAN_DOES_NOT_EXIST", "DEVICE_REMOVED",
    "PHYSICAL_CHANNEL_NOT_SPECIFIED", "RESOURCE_NOT_IN_POOL_ROUTING",
}  # fmt: skip


class NidaqmxAdc:
    """An ADC of National Instruments.

    Parameters
    ----------
    options, adc
        As configured.
    n_channels
        Channels of a sample; the hardware must have as many.
    clock
        The machine's own.
    """

    def __init__(
        self, options: NidaqmxConfig, adc: AdcConfig, n_channels: int, clock: Clock
    ) -> None:
        self.capabilities = Capabilities("NI-DAQmx")
        self.host: Clock = clock
        self._options, self._adc, self._n_channels = options, adc, n_channels
        self._clock = clock
        self._task: Any = None
        self._reader: Any = None
        self._codes: Any = None
        self._epoch = 0
        self._position = 0
        self._loss = ""
        self._is_sampling = False
        self._block = max(1, round(adc.sample_rate_hz / BLOCKS_PER_S))
        self._room = max(2 * self._block, round(options.buffer_s * adc.sample_rate_hz))
        self._never = threading.Event()

    def open(self) -> dict[str, Any]:
        """Make the task: channels, sample clock, and the convert rate explicitly.

        Raises
        ------
        ConfigError
            The package is not installed.
        DeviceNotFound, DeviceError
            No driver library, no such device; it does not do what is configured.
        """
        try:
            library = importlib.import_module("nidaqmx")
            constants = importlib.import_module("nidaqmx.constants")
            readers = importlib.import_module("nidaqmx.stream_readers")
            self._codes = importlib.import_module("nidaqmx.error_codes").DAQmxErrors
            self._errors = importlib.import_module("nidaqmx.errors")
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"adc.driver nidaqmx: package {error.name} is missing; "
                "pip install 'nightjar[nidaqmx]'"
            ) from None
        options, adc = self._options, self._adc
        try:
            self._task = library.Task()
            self._task.ai_channels.add_ai_voltage_chan(
                ",".join(options.physical_channels), min_val=adc.min_v, max_val=adc.max_v,
                terminal_config=getattr(constants.TerminalConfiguration, options.terminals),
            )  # fmt: skip
            found = int(self._task.number_of_channels)
            if found != self._n_channels:
                raise DeviceError(
                    f"adc.driver.physical_channels are {found} inputs; channels.count is "
                    f"{self._n_channels}: correct one of them"
                )
            timing = self._task.timing
            timing.cfg_samp_clk_timing(
                adc.sample_rate_hz, sample_mode=constants.AcquisitionType.CONTINUOUS,
                samps_per_chan=self._room,
            )  # fmt: skip
            timing.ai_conv_rate = 1 / adc.convert_interval_s
            self._task.in_stream.input_buf_size = self._room
            rate, convert = float(timing.samp_clk_rate), float(timing.ai_conv_rate)
            self._reader = readers.AnalogUnscaledReader(self._task.in_stream)
            self._reader.verify_array_shape = False
        except DeviceError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise self._failure(error, "open the ADC") from error
        if abs(rate / adc.sample_rate_hz - 1) > 1e-3:
            self.close()
            raise DeviceError(
                f"the ADC samples at {rate:g} Hz where {adc.sample_rate_hz:g} Hz are asked for; "
                "set adc.sample_rate_hz to what it can do"
            )
        return {"adc": "NI-DAQmx", "actual_rate_hz": rate, "actual_convert_interval_s": 1 / convert}

    def start(self) -> None:
        """Begin to sample."""
        try:
            self._task.start()
        except Exception as error:
            raise self._failure(error, "start the ADC") from error
        self._epoch += 1
        self._position = 0
        self._is_sampling = True

    def read(self, timeout_s: float) -> Block | None:
        """Return what is there, as soon as that is a block."""
        if not self._is_sampling:
            raise DeviceLost("the ADC does not sample")
        deadline = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        try:
            while True:
                count = int(self._task.in_stream.avail_samp_per_chan)
                utc_ns, monotonic_ns = together_ns(self._clock)
                if count >= self._block:
                    return self._take(min(count, self._room), count, utc_ns, monotonic_ns)
                if monotonic_ns >= deadline:
                    return None
                # To just before the last sample of the block, then looking often: the stamp of the
                # block is the time at which it was seen to be there.
                wait_s = (self._block - count) / self._adc.sample_rate_hz - 2 * _POLL_S
                self._clock.wait(
                    self._never,
                    min(max(wait_s, _POLL_S), (deadline - monotonic_ns) / NS_PER_S),
                )
        except Exception as error:
            if self._code_of(error) not in _OVERRUNS:
                raise self._failure(error, "read the ADC") from error
        self._loss = "ADC overrun: it was started again"
        self.stop()
        self.start()
        return None

    def _take(self, count: int, there: int, utc_ns: int, monotonic_ns: int) -> Block:
        data = np.empty((self._n_channels, count), np.int16)
        self._reader.read_int16(data, number_of_samples_per_channel=count, timeout=1.0)
        late_ns = round((there - count) * NS_PER_S / self._adc.sample_rate_hz)
        first, self._position = self._position, self._position + count
        loss, self._loss = self._loss, ""
        return Block(
            np.ascontiguousarray(data.T), first, utc_ns - late_ns, monotonic_ns - late_ns,
            self._epoch, loss,
        )  # fmt: skip

    def stop(self) -> None:
        """Stop sampling."""
        if self._is_sampling:
            self._is_sampling = False
            try:
                self._task.stop()
            except Exception as error:
                raise self._failure(error, "stop the ADC") from error

    def close(self) -> None:
        """Disconnect."""
        task, self._task, self._is_sampling = self._task, None, False
        if task is not None:
            try:
                task.close()
            except Exception:  # noqa: BLE001, S110 - whatever it says, it is gone
                pass

    def fault(self, kind: str, seconds: float, channel: int | None, amount: float) -> None:
        """Refuse: it is no simulation."""
        raise no_faults(self.capabilities.model)

    def _code_of(self, error: Exception) -> str:
        number = getattr(error, "error_code", None)
        try:
            return str(self._codes(number).name)
        except (ValueError, TypeError):
            return ""

    def _failure(self, error: Exception, what: str) -> DeviceError:
        """Return what the library's error means here."""
        if isinstance(error, DeviceError):
            return error
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        name = self._code_of(error)
        is_missing = name in _MISSING or isinstance(error, self._errors.DaqNotFoundError)
        if is_missing and what.startswith("open"):
            return DeviceNotFound(
                f"cannot {what}: {text}; look at cables, power and the names of its channels"
            )
        return DeviceLost(f"cannot {what}: {text} ({name or type(error).__name__})")
