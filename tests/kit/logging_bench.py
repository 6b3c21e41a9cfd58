# SPDX-License-Identifier: BSD-3-Clause
"""A bench for loggers: numbered frames on command or on schedule, a driver, a reader of results.

Every frame carries its number in its pixels (:mod:`nightjard.camd.fast.pattern`), equal to its
stream counter, so that what was saved can be proven frame by frame. :class:`Bench` runs a logger
inside the test, with a clock of the test's; :class:`Process` drives a real logger process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from astropy.io import fits

from kit.site import eventually
from nightjar.child import Child
from nightjar.clock import Clock, ManualClock
from nightjar.errors import NightjarError
from nightjar.fits.cube import CubeWriter
from nightjar.fits.frame_table import read_table
from nightjar.fits.verify import verify_image
from nightjar.streams.writer import StreamWriter
from nightjard.camd.fast.pattern import Pattern, Truth, check_cube, read_truths
from nightjard.fitslogd.logger import Logger

SHAPE = (12, 20)
T0 = 1_750_000_000_000_000_000  # ns UTC of frame 0 where the clock is a manual one
PERIOD_NS = 10_000_000
READY_S = 15.0


class Source:
    """Publishes numbered frames into a stream, when told to."""

    def __init__(
        self, name: str = "cam", shape: tuple[int, int] = SHAPE, *, depth: int = 64,
        keywords: Mapping[str, Any] | None = None, dtype: str = "u2",
    ) -> None:  # fmt: skip
        self.name, self.shape = name, shape
        self.pattern = Pattern(shape, bank=4)
        self.writer = StreamWriter.create(name, shape, dtype, depth=depth, keywords=keywords)

    def publish(self, count: int = 1, *, atime_ns: int | None = None) -> int:
        """Publish frames at T0 + number x 10 ms; return the last one's number."""
        writer = self.writer
        for _ in range(count):
            number = writer.counter + 1
            stamp = T0 + number * PERIOD_NS if atime_ns is None else atime_ns
            slot = writer.next_slot
            writer.begin(slot)
            self.pattern.fill(writer.slot(slot), number)
            self.pattern.stamp(writer.slot(slot), Truth(number, stamp))
            writer.publish(slot, stamp, stamp)
        return writer.counter

    def close(self) -> None:
        self.writer.close(unlink=True)


class FakeParent:
    """The daemon of a logger that runs inside the test: takes what it says, gives commands."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.handlers: dict[str, Callable[..., Any]] = {}
        self.said: list[dict[str, Any]] = []
        self.ready = threading.Event()

    def serve(self, handlers: Mapping[str, Callable[..., Any]]) -> None:
        self.handlers = dict(handlers)

    def tell(self, message: Mapping[str, Any]) -> None:
        self.said.append(json.loads(json.dumps(message)))
        if message.get("event") == "ready":
            self.ready.set()


class Driver:
    """What both kinds of loggers have: commands, waits, what was said."""

    stream: str
    root: Path

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def heard(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    @property
    def cubes(self) -> list[dict[str, Any]]:
        """Told cubes."""
        return [each for each in list(self.heard) if each["event"] == "cube"]

    @property
    def notes(self) -> list[str]:
        """Told notes: level and text."""
        return [f"{m['level']}: {m['text']}" for m in list(self.heard) if m["event"] == "note"]

    def status(self) -> dict[str, Any]:
        return self.ask("status")

    def prepare(self, cube_frames: int = 10, **settings: Any) -> dict[str, Any]:
        wanted = {
            "root": str(self.root), "cube_frames": cube_frames, "minimum_free_bytes": 0,
            "session_seconds": 0.001, "fsync": False, **settings,
        }  # fmt: skip
        return self.ask("prepare", **wanted)

    def start(self, session: str = "s1", not_before_ns: int = 0, **limits: Any) -> dict[str, Any]:
        """Begin a session, and wait for that where the logger answers before it has obeyed."""
        answer = self.ask("start", session=session, not_before_ns=not_before_ns, **limits)
        if not answer["pending"]:
            return answer
        return self.until(
            "session begun",
            lambda s: s["over"] == session
            or (s["session"] == session and s["state"] not in ("armed", "idle")),
        )

    def until(self, what: str, check: Callable[[dict[str, Any]], Any], timeout_s: float = 15.0):  # type: ignore[no-untyped-def]
        """Return the first status for which a check is true."""
        last: dict[str, Any] = {}

        def look() -> bool:
            last.update(self.status())
            return bool(check(last))

        try:
            eventually(look, timeout_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}: {last}; {self.notes[-5:]}") from None
        return last

    def saved(self, count: int) -> dict[str, Any]:
        """Wait until that many frames of the session are saved."""
        return self.until(f"{count} frames saved", lambda s: s["frames_saved"] >= count)

    def over(self, timeout_s: float = 15.0) -> dict[str, Any]:
        """Wait until the session is over and all its cubes have their names."""
        return self.until(
            "session over",
            lambda s: s["state"] in ("armed", "idle") and s["closing"] == 0, timeout_s,
        )  # fmt: skip


class _Patched:
    """What is other for loggers inside a test; undone when the last of them has ended."""

    def __init__(self) -> None:
        self._count = 0
        self._patches: list[Any] = []

    def enter(self) -> None:
        self._count += 1
        if self._count == 1:
            # A logger freezes what it has; here that would be the whole test run.
            self._patches = [
                mock.patch("nightjard.fitslogd.logger.gc"),
                mock.patch("nightjard.fitslogd.logger._RETRY_S", 0.2),
            ]
            for patch in self._patches:
                patch.start()

    def leave(self) -> None:
        self._count -= 1
        if self._count == 0:
            for patch in self._patches:
                patch.stop()


_patched = _Patched()


class Bench(Driver):
    """A logger in a thread of the test; its wall clock stands at `T0` until it is advanced."""

    def __init__(self, folder: Path, stream: str = "cam", clock: Clock | None = None) -> None:
        self.stream = stream
        self.clock = ManualClock(T0)
        self.root = folder / "data"
        self.state = folder / "state"
        for each in (self.root, self.state):
            each.mkdir(parents=True, exist_ok=True)
        self.parent = FakeParent()
        options = {"stream": stream, "state": str(self.state), "roots": [str(self.root)]}
        self.logger = Logger(options, self.parent, clock or self.clock)  # type: ignore[arg-type]
        _patched.enter()
        self._thread = threading.Thread(target=self.logger.run, name=f"logger-{stream}")
        self._thread.start()
        assert self.parent.ready.wait(READY_S)

    def stall(self) -> tuple[threading.Event, threading.Event]:
        """Have the next frame's write last until the second event is set; the first: it is in."""
        gate, entered = threading.Event(), threading.Event()
        cube = self.logger._recorder._cube
        assert cube is not None
        writer: Any = cube.writer

        def slowed(write: Any) -> Any:
            def slow(*frames: Any) -> Any:
                entered.set()
                gate.wait(30)
                return write(*frames)

            return slow

        writer.append = slowed(writer.append)
        if isinstance(writer, CubeWriter):
            writer.append_run = slowed(writer.append_run)
        return entered, gate

    def stall_main(self) -> threading.Event:
        """Have the main thread wait for the event that is returned."""
        gate = threading.Event()
        entered = threading.Event()
        self.logger._requests.put(lambda: entered.set() or gate.wait(30))  # type: ignore[func-returns-value]
        assert entered.wait(10)
        return gate

    @property
    def heard(self) -> list[dict[str, Any]]:
        return self.parent.said

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        assert self.is_alive, f"the logger has ended; {self.notes[-5:]}"
        answer: dict[str, Any] = self.parent.handlers[command](**arguments)
        return answer

    def close(self) -> None:
        self.parent.gone.set()
        self._thread.join(20)
        _patched.leave()
        assert not self._thread.is_alive()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Process(Driver):
    """A real logger process."""

    def __init__(self, folder: Path, stream: str = "cam", root: Path | None = None) -> None:
        self.stream = stream
        self.root = root or folder / "data"
        self.state = folder / "state"
        for each in (self.root, self.state):
            each.mkdir(parents=True, exist_ok=True)
        self._heard: list[dict[str, Any]] = []
        self.ended = threading.Event()
        self.begin()

    def begin(self) -> None:
        """Start it, the first time or again."""
        ready = threading.Event()
        self.ended = threading.Event()

        def hear(message: dict[str, Any]) -> None:
            self._heard.append(message)
            if message["event"] == "ready":
                ready.set()

        options = {"stream": self.stream, "state": str(self.state), "roots": [str(self.root)]}
        self.child = Child(
            self.stream, "nightjard.fitslogd.logger", [json.dumps(options)],
            on_message=hear, on_end=lambda _how: self.ended.set(),
        )  # fmt: skip
        self.child.start()
        if not ready.wait(30):
            raise AssertionError(f"no logger: {self.child.how_it_ended}; {self.notes[-5:]}")

    @property
    def heard(self) -> list[dict[str, Any]]:
        return self._heard

    @property
    def pid(self) -> int:
        assert self.child.pid is not None
        return self.child.pid

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.child.ask(command, arguments, 20)
        return answer

    def kill(self) -> None:
        self.child.kill()
        assert self.ended.wait(20)

    def close(self) -> None:
        self.child.stop(30)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Camera:
    """A process that publishes on a schedule until it is stopped: ``stream_producer.py``."""

    def __init__(
        self, name: str, shape: tuple[int, int], rate_hz: float, depth: int, *, render: str = "dma"
    ) -> None:
        program = Path(__file__).resolve().parents[2] / "benchmarks/peers/stream_producer.py"
        self.process = subprocess.Popen(
            [sys.executable, str(program), name, *map(str, (*shape, rate_hz, depth)), render],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self) -> int:
        """Return the frames published."""
        if self.process.poll() is None:
            said, _ = self.process.communicate(timeout=20)
            self.frames = int(json.loads(said)["frames"])
        return self.frames

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.TimeoutExpired, ValueError):
            self.stop()
        self.process.kill()
        self.process.wait(10)


class Cube:
    """A cube read back: header, pixels, table."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with fits.open(path, checksum=True) as units:
            image = units[1] if path.suffix == ".fz" else units[0]
            self.header = image.header.copy()
            self.pixels = np.asarray(image.data)
        self.rows = read_table(path)
        self.counters: list[int] = [int(n) for n in self.rows["CNT0"]]

    @property
    def ids(self) -> list[int]:
        """The numbers in the pixels."""
        return [int(number) for number in read_truths(self.pixels)["frame_id"]]

    @property
    def text(self) -> np.ndarray:
        name = self.path.name.removesuffix(".fz").removesuffix(".fits") + ".txt"
        return np.loadtxt(self.path.with_name(name), ndmin=2)

    def check(self, pattern: Pattern | None = None) -> Cube:
        """Prove it: sums, pixels, table, numbers, header."""
        verified = verify_image(self.path)
        assert verified.is_good, (self.path, verified.problems)
        report = check_cube(self.pixels, pattern)
        assert report.whole == report.frames, (self.path, report.text())
        assert not report.altered, (self.path, report.text())
        assert self.ids == self.counters, self.path
        assert self.header["NSAVED"] == self.header["NAXIS3"] == len(self.rows)
        assert self.header["CNT0-STR"] == self.counters[0]
        assert self.header["CNT0-END"] == self.counters[-1]
        text = self.text
        assert text.shape == (len(self.rows), 7)
        assert text[:, 1].astype(int).tolist() == self.counters
        return self


def cube_paths(root: Path) -> list[Path]:
    """Return the finished cubes below a folder, in order of their numbers in the session."""
    paths = [p for p in root.rglob("*.fits*") if not p.name.startswith(".")]
    return sorted(paths)


def read_cubes(root: Path, pattern: Pattern | None = None) -> list[Cube]:
    """Return all cubes below a folder, each proven, in the order in which they were begun."""
    cubes = [Cube(path).check(pattern) for path in cube_paths(root)]
    return sorted(cubes, key=lambda cube: cube.header["CUBE-NUM"])


def numbers(cubes: Iterable[Cube]) -> list[int]:
    """Return the frame numbers of several cubes."""
    return [number for cube in cubes for number in cube.ids]


def hidden(root: Path) -> list[str]:
    """Return the unfinished files below a folder."""
    return sorted(p.name for p in root.rglob(".*") if p.is_file())


def fitsverify(*paths: Path) -> str:
    """Return what fitsverify complains about; the empty text where nothing is wrong."""
    done = subprocess.run(
        ["fitsverify", "-q", *map(str, paths)], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    lines = (done.stdout + done.stderr).splitlines()
    return "\n".join(line for line in lines if "verification OK" not in line)


def refused(call: Callable[[], Any]) -> NightjarError:
    """Return the error that a call raises."""
    try:
        call()
    except NightjarError as error:
        return error
    raise AssertionError("nothing was refused")


def has_fitsverify() -> bool:
    return shutil.which("fitsverify") is not None


def open_files(pid: int) -> int:
    """Return how many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory_bytes(pid: int) -> int:
    """Return the private memory of a process (its mapped streams not counted)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no RssAnon of {pid}")
