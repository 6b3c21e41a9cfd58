# SPDX-License-Identifier: BSD-3-Clause
"""Ends of stream links for tests: engines in threads, worker processes, and bad networks."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kit.site import eventually
from nightjar.child import Child
from nightjar.clock import SystemClock
from nightjar.errors import NightjarError
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter
from nightjard.streamlinkd import net, wire
from nightjard.streamlinkd.config import LinkConfig
from nightjard.streamlinkd.worker import make_engine

SHAPE = (16, 24)
net.SLICE_S = 0.03  # engines in threads of the tests end and connect sooner


def send_config(port: int, streams: dict[str, str] | None = None, **more: Any) -> LinkConfig:
    values = {"name": "test", "role": "send", "policy": "all", "address": "127.0.0.1",
              "port": port, "streams": streams or {"source": "wire"}, **more}  # fmt: skip
    return LinkConfig.model_validate(values)


def receive_config(port: int, streams: dict[str, str] | None = None, **more: Any) -> LinkConfig:
    return send_config(port, streams or {"far": "wire"}, **{"role": "receive", **more})


class End:
    """One end of a link, its engine in a thread of this process."""

    def __init__(self, config: LinkConfig) -> None:
        self.engine = make_engine(config, SystemClock())
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.engine.run, args=(self.stop,))

    def __enter__(self) -> End:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()

    @property
    def told(self) -> dict[str, Any]:
        return self.engine.snapshot()

    def is_(self, state: str) -> bool:
        return bool(self.told["state"] == state)


class Process:
    """One end of a link in its worker process."""

    def __init__(self, config: LinkConfig) -> None:
        self.told: dict[str, Any] = {"state": "STARTING"}
        self._config = config
        self.child = self._make()

    def _make(self) -> Child:
        return Child(
            self._config.role, "nightjard.streamlinkd.worker", [self._config.model_dump_json()],
            on_message=self._hear,
        )  # fmt: skip

    def again(self) -> None:
        """Start it again after its end, as its daemon does."""
        self.child = self._make()
        self.child.start()

    def _hear(self, message: dict[str, Any]) -> None:
        self.told = message.get("status", self.told)

    def __enter__(self) -> Process:
        self.child.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.is_alive:
            self.signal(18)  # SIGCONT
        self.child.stop(10)

    def signal(self, number: int) -> None:
        assert self.child.pid is not None
        os.kill(self.child.pid, number)

    def is_(self, state: str) -> bool:
        return bool(self.told["state"] == state)


class Source:
    """A stream whose frames prove themselves: pixels and times follow from the number."""

    def __init__(self, name: str = "source", shape: tuple[int, ...] = SHAPE, dtype: str = "u2",
                 depth: int | None = 64, **more: Any) -> None:  # fmt: skip
        self.writer = StreamWriter.create(name, shape, dtype, depth=depth, **more)

    def publish(self, count: int = 1, pause_s: float = 0.0) -> None:
        for _ in range(count):
            number = self.writer.counter + 1
            geometry = self.writer.geometry
            pixels = pattern(number, geometry.frame_shape, geometry.dtype)
            self.writer.write(pixels, atime(number), atime(number) + 7)
            time.sleep(pause_s)


def atime(number: int) -> int:
    return 1_700_000_000_000_000_000 + number * 1_000_003


def pattern(number: int, shape: tuple[int, ...], dtype: Any) -> Any:
    size = int(np.prod(shape))
    return ((np.arange(size) * 31 + number * 7919) % 60_000).astype(dtype).reshape(shape)


class Follower:
    """Reads every frame of a stream from its first on and checks it against :class:`Source`."""

    def __init__(self, name: str = "far") -> None:
        self.name = name
        self.numbers: list[int] = []
        self.times: list[float] = []
        self.shapes: list[tuple[int, ...]] = []
        self.wrong: list[int] = []
        self.keywords: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        reader = None
        while reader is None and not self._stop.is_set():
            try:
                reader = StreamReader(self.name, start="oldest")
            except NightjarError:
                self._stop.wait(0.005)
        if reader is None:
            return
        with reader:
            while not self._stop.is_set():
                for frame in reader.frames(0.5, self._stop):
                    expected = pattern(frame.counter, frame.data.shape, frame.data.dtype)
                    times = (atime(frame.counter), atime(frame.counter) + 7)
                    if not np.array_equal(frame.data, expected) or times != (
                        frame.atime_ns, frame.writetime_ns,
                    ):  # fmt: skip
                        self.wrong.append(frame.counter)
                    self.times.append(time.monotonic())
                    self.numbers.append(frame.counter)
                    self.shapes.append(frame.data.shape)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def wait_for(self, number: int, timeout_s: float = 15.0) -> None:
        eventually(
            lambda: self.numbers and self.numbers[-1] >= number, timeout_s,
            f"frame {number} arrives",
        )  # fmt: skip


class Proxy:
    """A TCP relay between sender and receiver that can be slow, or change a byte.

    Attributes
    ----------
    spoil
        Kind of message, and the position in it of the byte that is changed: in the next such
        message of the sender, once.
    bytes_per_s
        Speed towards the receiver; None for no limit.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.spoil: tuple[int, int] | None = None
        self.bytes_per_s: float | None = None
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.port = int(self._listener.getsockname()[1])
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def __enter__(self) -> Proxy:
        self._begin(self._accept)
        return self

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
        self._listener.close()
        for each in self._open:
            each.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                here, _ = self._listener.accept()
            except TimeoutError:
                continue
            try:
                there = socket.create_connection(("127.0.0.1", self.target), 2)
            except OSError:
                here.close()
                continue
            for each in (here, there):
                each.settimeout(None)
            self._open += [here, there]
            self.connections += 1
            self._begin(self._relay, here, there, True)
            self._begin(self._relay, there, here, False)

    def _relay(self, source: socket.socket, target: socket.socket, is_forward: bool) -> None:
        passed, flip_at = 0, -1
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(16384 if self.bytes_per_s else 65536)):
                if is_forward:
                    if self.spoil is not None:
                        kind, offset = self.spoil
                        found = data.find(b"NJSL" + struct.pack("<HB", wire.VERSION, kind))
                        if found >= 0:
                            flip_at, self.spoil = passed + found + offset, None
                    if passed <= flip_at < passed + len(data):
                        data[flip_at - passed] ^= 0x40
                    passed += len(data)
                    if self.bytes_per_s is not None:
                        self._stop.wait(len(data) / self.bytes_per_s)
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def secret_file(folder: Path, name: str = "secret", content: str = "s" * 32) -> Iterator[str]:
    path = folder / name
    path.write_text(content)
    path.chmod(0o600)
    yield str(path)
