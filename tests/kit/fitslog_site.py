# SPDX-License-Identifier: BSD-3-Clause
"""Producers of streams and a real daemon of FITS loggers, each a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from kit.site import Daemon, eventually
from nightjar.registry import Registry
from nightjar.rpc.client import Client

NAME = "fitslog"
SHAPE = (24, 40)
RATE = 200
PRODUCER = Path(__file__).with_name("stream_producer.py")


class Producer:
    """A process that writes one stream."""

    def __init__(
        self, name: str, rate: int = RATE, shape: tuple[int, int] = SHAPE,
        depth: int | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        deep = [] if depth is None else [str(depth)]
        self.process = subprocess.Popen(
            [sys.executable, str(PRODUCER), name, *map(str, shape), str(rate), *deep],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def wait_ready(self) -> Producer:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def freeze(self) -> None:
        """Stop it from writing frames."""
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")

    def thaw(self) -> None:
        """Let it go on: it writes what has become due."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


class FitslogSite:
    """Configured in the folders of the test; streams vcam1 and vcam2, group vcam."""

    def __init__(self, folder: Path, port: int, **config: Any) -> None:
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        etc = Path(os.environ["NIGHTJAR_CONFIG_ROOT"])
        self.config_path = etc / "fitslogd" / "site.json"
        for path in (self.config_path, etc / "nightjar" / "registry.json"):
            path.parent.mkdir(parents=True, exist_ok=True)
        registry = etc / "nightjar" / "registry.json"
        registry.write_text(json.dumps({
            "machines": {"LocalHost": ["127.0.0.1"], "Reader": ["127.0.0.2"]},
            "daemons": {NAME: {"machine": "LocalHost", "port": port}},
        }))  # fmt: skip
        self.config = {
            "daemon": NAME, "log_name": "fitslogd", "control_machines": ["LocalHost"],
            "streams": {"vcam1": {}, "vcam2": {}}, "groups": {"vcam": ["vcam1", "vcam2"]},
            "save_root": str(self.data), "archive_root": str(self.data / "archive"),
            "minimum_free_bytes": 1_000_000, "space_seconds": 1, "start_lead_ms": 60, **config,
        }  # fmt: skip
        self.config_path.write_text(json.dumps(self.config))
        self.registry = Registry.load(registry)
        self.log = folder / "fitslogd.log"
        self.producers: dict[str, Producer] = {}
        self.daemon: Daemon | None = None

    def produce(self, *names: str, **options: Any) -> None:
        """Start producers."""
        for name in names:
            self.producers[name] = Producer(name, **options)
        for name in names:
            self.producers[name].wait_ready()

    @contextmanager
    def without_frames(self) -> Iterator[None]:
        """Let no frame come meanwhile; all that became due come afterwards."""
        for producer in self.producers.values():
            producer.freeze()
        try:
            yield
        finally:
            for producer in self.producers.values():
                producer.thaw()

    def start(self) -> Daemon:
        """Start the daemon, or start it again."""
        client = Client(self.registry.daemon(NAME))
        self.daemon = Daemon("fitslogd", self.config_path, client, self.log)
        return self.daemon.wait_ready()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return its last reply, waiting for its end."""
        return self.finish(self.tell(command, **arguments))

    def tell(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return its first reply."""
        assert self.daemon is not None
        reply: dict[str, Any] = self.daemon.call(command, **{"group": "vcam", **arguments})
        return reply

    def finish(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Return the last reply of a command, waiting for its end."""
        assert self.daemon is not None
        if reply["pending"]:
            state = self.daemon.finish(reply)
            assert state["state"] == "done", state
            reply = state["result"]
        return reply

    def streams(self) -> dict[str, dict[str, Any]]:
        assert self.daemon is not None
        found: dict[str, dict[str, Any]] = self.daemon.status()["streams"]
        return found

    def until(self, stream: str, timeout_s: float = 15.0, **wanted: Any) -> dict[str, Any]:
        """Wait until a stream's view has these values; numbers may be greater."""

        def reached() -> dict[str, Any] | None:
            view = self.streams()[stream]
            for key, value in wanted.items():
                is_count = isinstance(value, int) and not isinstance(value, bool)
                fits_ = (view[key] or 0) >= value if is_count else view[key] == value
                if not fits_:
                    return None
            return view

        found: dict[str, Any] = eventually(reached, timeout_s, f"{stream}: {wanted}")
        return found

    def cubes(self, stream: str, session: str | None = None) -> list[Cube]:
        """Return the cubes of a stream, in order; of one session where it is named."""
        found = [Cube(path) for path in sorted(self.data.rglob(f"{stream}_*.fits"))]
        return [cube for cube in found if session in (None, cube.header["SESSION"])]

    def leftovers(self) -> list[str]:
        return [path.name for path in self.data.rglob(".*")]

    def close(self) -> None:
        for producer in self.producers.values():
            producer.stop()
        if self.daemon is not None:
            self.daemon.stop()
            self.daemon.client.close()


class Cube:
    """A cube as a reader that is not ours sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with fits.open(path, memmap=False, checksum=True) as file:
            self.header = file[0].header.copy()
            self.pixels = file[0].data
            self.table = file["FRAMES"].data.copy()

    @property
    def numbers(self) -> list[int]:
        """What the producer wrote into the pixels of each frame."""
        words = self.pixels.reshape(len(self.pixels), -1)[:, :4].astype(np.uint64)
        return [int(sum(int(word) << 16 * place for place, word in enumerate(row)))
                for row in words]  # fmt: skip

    @property
    def stamps(self) -> list[int]:
        """Acquisition times, ns."""
        return [int(value) for value in self.table["ATIME"]]


def numbers(cubes: list[Cube]) -> list[int]:
    """Return the numbers of all frames of some cubes, one after the other."""
    return [number for cube in cubes for number in cube.numbers]


def is_gapless(found: list[int]) -> bool:
    """Tell whether each number follows the one before."""
    return bool(found) and found == list(range(found[0], found[0] + len(found)))
