# SPDX-License-Identifier: BSD-3-Clause
"""A small DAS for tests: configurations, blocks with truth, daemons, a stand-in for NI-DAQmx."""

from __future__ import annotations

import importlib
import json
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit.site import Daemon
from nightjar.access import AccessPolicy
from nightjar.api.commands import COMMON_COMMANDS, Command
from nightjar.clock import Clock, SystemClock
from nightjar.config.load import parse
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjar.rpc.server import RpcServer
from nightjard.dasd.config import DasConfig
from nightjard.dasd.recorder import Plan, Recorder

START_NS = 1_750_000_020_000_000_000 // 60_000_000_000 * 60_000_000_000
"""A UT minute, not the last of a day."""
SMALL_GROUPS = [
    {"name": "ac_bolos", "kind": "bolometers", "first": 0, "count": 4, "lockin": "AC",
     "hextant": 1},
    {"name": "trck_das", "kind": "line", "first": 4},
    {"name": "rot_lim", "kind": "line", "first": 5, "is_connected": False},
    {"name": "rgrt", "kind": "grt", "first": 6},
]  # fmt: skip


def config_value(root: Path, **changes: Any) -> dict[str, Any]:
    """Return a configuration of 8 channels at 50 Hz, a simulated ADC with a good clock."""
    driver = {"name": "simulated", **changes.pop("driver", {})}
    adc = {"driver": driver, **changes.pop("adc", {})}
    return {
        "daemon": "das", "log_name": "dasd@bolo", "control_machines": ["LocalHost"],
        "raw_root": str(root), "adc": adc, "channels": {"count": 8, "groups": SMALL_GROUPS},
        "space": {"warn_hours": 0, "low_bytes": 0, "stop_bytes": 0}, **changes,
    }  # fmt: skip


def das_config(root: Path, **changes: Any) -> DasConfig:
    return parse(config_value(root, **changes), DasConfig, "test")


def truth(counters: NDArray[np.int64], n_channels: int = 8) -> NDArray[np.int16]:
    """Return samples that tell their counter: channel 0 the low, channel 1 the high 14 bits."""
    samples = np.zeros((counters.size, n_channels), np.int16)
    samples[:, 0] = counters & 0x3FFF
    samples[:, 1] = counters >> 14
    samples[:, 2:] = np.arange(2, n_channels)
    return samples


def counters_in(samples: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return the counters that stored samples tell."""
    return samples[:, 0].astype(np.int64) + (samples[:, 1].astype(np.int64) << 14)


@dataclass
class Bench:
    """A recorder that is fed by hand, and the folder it writes.

    ``now_ns`` is the host's time; ``feed`` writes samples of which the first is at a time.
    """

    root: Path
    config: DasConfig
    rescue: Path
    now_ns: int = START_NS
    serial: int = 0
    is_locked: bool = True
    is_test: bool = False
    recorder: Recorder | None = field(default=None)

    @property
    def plan(self) -> Plan:
        return Plan(
            self.root, self.is_test, self.rescue, self.header,
            lambda: {"source": "test", "is_locked": self.is_locked}, lambda: self.now_ns,
        )  # fmt: skip

    def header(self, start_ns: int) -> dict[str, Any]:
        self.serial += 1
        return {
            "utc_start_ns": start_ns, "sample_rate_hz": self.config.adc.sample_rate_hz,
            "n_slots": self.config.adc.n_slots, "n_channels": self.config.channels.count,
            "serial": self.serial,
        }  # fmt: skip

    def begin(self) -> Recorder:
        self.recorder = Recorder(self.config, self.plan, self.now_ns)
        return self.recorder

    def feed(
        self, counter: int, count: int, utc_ns: int, period_ns: float = 2e7, why: str = ""
    ) -> None:
        """Write samples in blocks of 5; the first is at a time."""
        assert self.recorder is not None
        for done in range(0, count, 5):
            counters = np.arange(counter + done, counter + min(done + 5, count))
            at = utc_ns + round(done * period_ns)
            self.now_ns = at + round(5 * period_ns)
            self.recorder.write(
                truth(counters, self.config.channels.count), counter + done, at, period_ns,
                why if done == 0 else "",
            )  # fmt: skip


@contextmanager
def bench(folder: Path, **changes: Any) -> Iterator[Bench]:
    root = folder / "raw"
    root.mkdir(exist_ok=True)
    made = Bench(root, das_config(root, **changes), folder / "rescued")
    try:
        yield made
    finally:
        if made.recorder is not None:
            made.recorder._held.close()


# --- daemons --------------------------------------------------------------------------------------


class FakeTelescope:
    """Answers the query `telescope` with ages that a test chooses."""

    def __init__(self) -> None:
        self.pointing_age_s: float | None = 0.5
        self.age_s: float | None = 0.5

    def told(self) -> dict[str, Any]:
        return {"pointing_age_s": self.pointing_age_s, "age_s": self.age_s}

    @contextmanager
    def served(self, registry: Registry) -> Iterator[None]:
        command = Command("telescope", "Where it points.", access="query", is_safe=True)
        server = RpcServer(
            registry.daemon("telescope"),
            {
                "telescope": (command, self.told),
                "status": (COMMON_COMMANDS[0], lambda: {"summary": "READY"}),
            },
            AccessPolicy(registry, ["LocalHost"]), SystemClock(),
        )  # fmt: skip
        server.start()
        try:
            yield
        finally:
            server.stop()


class DasSite:
    """A folder with a registry of `das` and `telescope`, and real daemons."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.folder, self.etc, self.raw = folder, folder / "etc", folder / "raw"
        self.raw.mkdir()
        (self.etc / "nightjar").mkdir(parents=True)
        (self.etc / "dasd").mkdir()
        value = {
            "machines": {"LocalHost": ["127.0.0.1"]},
            "daemons": {
                name: {"machine": "LocalHost", "port": port}
                for name, port in zip(("das", "telescope"), ports, strict=True)
            },
        }
        (self.etc / "nightjar/registry.json").write_text(json.dumps(value))
        self.daemons: list[Daemon] = []

    @property
    def registry(self) -> Registry:
        return Registry.load(self.etc / "nightjar/registry.json")

    def launch(self, **changes: Any) -> Daemon:
        path = self.etc / "dasd/bolo.json"
        path.write_text(json.dumps(config_value(self.raw, **changes)))
        daemon = Daemon("dasd", path, Client(self.registry.daemon("das")), self.folder / "dasd.log")
        self.daemons.append(daemon)
        return daemon

    def launch_other(self, name: str, value: dict[str, Any]) -> Daemon:
        """Start a daemon of another name and wait for it."""
        path = self.etc / f"dasd/{name}.json"
        path.write_text(json.dumps(value))
        client = Client(self.registry.daemon(name))
        daemon = Daemon("dasd", path, client, self.folder / f"{name}.log")
        self.daemons.append(daemon)
        return daemon.wait_ready()

    def start(self, **changes: Any) -> Daemon:
        return self.launch(**changes).wait_ready()

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.stop()
            daemon.client.close()


# --- NI-DAQmx -------------------------------------------------------------------------------------


class StandInTask:
    """What :mod:`nidaqmx` has for a task, over a board that is made up here.

    The board samples by a test's clock. Reading past the buffer, and what it is told to fail
    with, raises the package's own errors.
    """

    board: Any = None

    def __init__(self) -> None:
        self.board = type(self).board
        if self.board.is_missing:
            raise self.board.error("INVALID_DEVICE_ID", "Device identifier is invalid.")
        self.ai_channels = self
        self.timing = types.SimpleNamespace(
            cfg_samp_clk_timing=self._clock, ai_conv_rate=0.0, samp_clk_rate=0.0
        )
        self.in_stream = self
        self.input_buf_size = 0
        self.number_of_channels = 0
        self._started_ns: int | None = None
        self._read = 0

    def add_ai_voltage_chan(
        self, physical_channel: str, name_to_assign_to_channel: str = "",
        terminal_config: Any = None, min_val: float = -5.0, max_val: float = 5.0,
    ) -> None:  # fmt: skip
        for part in physical_channel.split(","):
            first, _, last = part.partition(":")
            begin = int(first.rpartition("ai")[2])
            self.number_of_channels += (int(last) if last else begin) - begin + 1
        self.board.range = (min_val, max_val)

    def _clock(
        self, rate: float, source: str = "", active_edge: Any = None, sample_mode: Any = None,
        samps_per_chan: int = 1000,
    ) -> None:  # fmt: skip
        self.timing.samp_clk_rate = rate * self.board.rate_factor
        self.board.sample_mode = sample_mode

    def start(self) -> None:
        self._started_ns, self._read = self.board.clock.monotonic_ns(), 0
        self.board.starts += 1

    def stop(self) -> None:
        self._started_ns = None

    def close(self) -> None:
        self._started_ns = None
        self.board.closes += 1

    @property
    def avail_samp_per_chan(self) -> int:
        self.board.reads += 1
        failure = self.board.failure
        if failure is not None:
            self.board.failure = None if self.board.fails_once else failure
            raise self.board.error(failure, "The stand-in was told to fail.")
        assert self._started_ns is not None
        if self.board.is_quiet:
            return 0
        passed_s = (self.board.clock.monotonic_ns() - self._started_ns) / 1e9
        there = int(passed_s * self.timing.samp_clk_rate) - self._read
        if there > self.input_buf_size:
            raise self.board.error(
                "SAMPLES_NO_LONGER_AVAILABLE", "The application is not able to keep up."
            )
        return there

    def read_int16(
        self, data: NDArray[np.int16], number_of_samples_per_channel: int = -1,
        timeout: float = 10.0,
    ) -> int:  # fmt: skip
        count = number_of_samples_per_channel
        assert data.shape == (self.number_of_channels, count)
        assert data.flags.c_contiguous
        counters = np.arange(self._read, self._read + count)
        data[:] = truth(counters, self.number_of_channels).T
        self._read += count
        return count


class Board:
    """The board behind :class:`StandInTask`."""

    def __init__(self, clock: Clock) -> None:
        import nidaqmx.error_codes
        import nidaqmx.errors

        self.clock = clock
        self.is_missing = self.is_quiet = False
        self.failure: str | None = None
        self.fails_once = True
        self.rate_factor = 1.0
        self.starts = self.closes = self.reads = 0
        self._codes = nidaqmx.error_codes.DAQmxErrors
        self._kind = nidaqmx.errors.DaqReadError

    def error(self, name: str, text: str) -> Exception:
        failure: Exception = self._kind(text, self._codes[name].value, 0)
        return failure


def stand_in(board: Board) -> dict[str, types.ModuleType]:
    """Return the modules that stand for the package: its own but for task and reader."""
    own = ("nidaqmx.constants", "nidaqmx.errors", "nidaqmx.error_codes")

    class Task(StandInTask):
        pass

    Task.board = board

    class Reader:
        def __init__(self, in_stream: Any) -> None:
            self._in_stream = in_stream
            self.verify_array_shape = True

        def read_int16(self, data: Any, number_of_samples_per_channel: int = -1,
                       timeout: float = 10.0) -> int:  # fmt: skip
            done: int = self._in_stream.read_int16(data, number_of_samples_per_channel, timeout)
            return done

    package = types.ModuleType("nidaqmx")
    package.Task = Task  # type: ignore[attr-defined]
    readers = types.ModuleType("nidaqmx.stream_readers")
    readers.AnalogUnscaledReader = Reader  # type: ignore[attr-defined]
    return {
        "nidaqmx": package, "nidaqmx.stream_readers": readers,
        **{name: importlib.import_module(name) for name in own},
    }  # fmt: skip
