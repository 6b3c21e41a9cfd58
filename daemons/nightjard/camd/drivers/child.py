# SPDX-License-Identifier: BSD-3-Clause
"""The child process of an isolated detector: ``python -m nightjard.camd.drivers.child``.

It serves one parent on an inherited socket, call after call, and ends when the parent does: the
socket then ends, and where a driver hangs the kernel's parent-death signal ends it. Its standard
error carries log lines ``<level>logger: text`` and whatever the vendor's library prints.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import logging
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nightjar.errors import Code, DeviceError, NightjarError
from nightjard.camd.drivers import childwire as wire
from nightjard.camd.drivers.base import FrameBuffer

if TYPE_CHECKING:
    from nightjard.camd.drivers.base import Detector

_LOG = logging.getLogger("nightjard.camd.drivers.child")  # __name__ is __main__ here
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


class _LineFormatter(logging.Formatter):
    """One line a record, the level first; a traceback's lines each carry it too."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{record.levelno}>{record.name}: "
        text = super().format(record)
        return "\n".join(prefix + line for line in text.splitlines() or [""])


class StreamFiles:
    """Maps stream files by path, and keeps the last one mapped as long as it is the same file."""

    def __init__(self) -> None:
        self._key: tuple[int, int, int] | None = None
        self._map: mmap.mmap | None = None

    def buffer(self, path: str, offset: int, shape: tuple[int, int]) -> FrameBuffer:
        """Return the pixels at `offset` of the file that now has that path.

        Raises
        ------
        DeviceError
            The file is not there or too small.
        """
        import numpy as np

        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            stat = os.fstat(descriptor)
            key = (stat.st_dev, stat.st_ino, stat.st_size)
            if key != self._key:
                # An array of the old map may still live in the driver: leave closing to it.
                self._map = mmap.mmap(descriptor, 0)
                self._key = key
        except (OSError, ValueError) as error:
            raise DeviceError(f"cannot map stream file {path}: {error}") from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        assert self._map is not None
        count = shape[0] * shape[1]
        if offset < 0 or offset + 2 * count > len(self._map):
            raise DeviceError(
                f"stream file {path} has {len(self._map)} bytes: no frame of {shape} at {offset}"
            )
        array = np.frombuffer(self._map, np.uint16, count, offset).reshape(shape)
        return FrameBuffer(path, offset, array)


class Server:
    """Answers calls with one detector.

    Parameters
    ----------
    detector
        The driver.
    is_cancelled
        Whether the present call shall be cancelled.
    """

    def __init__(self, detector: Detector, is_cancelled: Callable[[], bool]) -> None:
        self._detector = detector
        self._is_cancelled = is_cancelled
        self._files = StreamFiles()
        self._calls: dict[str, Callable[..., Any]] = {
            "open": lambda: wire.pack_capabilities(detector.open()),
            "close": detector.close,
            "configure": lambda settings: wire.pack_readout(
                detector.configure(wire.unpack_settings(settings))
            ),
            "start": detector.start,
            "poll": lambda: wire.pack_progress(detector.poll()),
            "fetch": self._fetch,
            "abort": detector.abort,
            "telemetry": lambda: wire.pack_telemetry(detector.telemetry()),
            "set_cooler_power": detector.set_cooler_power,
            "set_cooler_target": detector.set_cooler_target,
            "move_filter": detector.move_filter,
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one call; whatever it raises becomes the reply."""
        name = request["call"]
        try:
            return {"id": request["id"], "result": self._calls[name](*request["args"])}
        except NightjarError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 (a process boundary: reported to the parent)
            _LOG.exception("driver call %s failed", name)
            failure = DeviceError(
                f"driver call {name} failed: {type(error).__name__}: {error}", code=Code.INTERNAL
            )
        return {"id": request["id"], "error": wire.pack_error(failure)}

    def _fetch(self, path: str, offset: int, shape: list[int]) -> dict[str, Any]:
        buffer = self._files.buffer(path, offset, (shape[0], shape[1]))
        return wire.pack_record(self._detector.fetch(buffer, self._is_cancelled))


def die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process with its parent, and end now if that has happened."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, b"camd-detector", 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def serve(channel: socket.socket, cancel: mmap.mmap) -> None:
    """Make the detector that the first message names, then answer until the parent leaves."""
    hello = wire.receive(channel)
    try:
        detector = make_detector(hello["options"], hello["serial"])
    except NightjarError as error:
        wire.send(channel, {"id": hello["id"], "error": wire.pack_error(error)})
        return
    server = Server(detector, lambda: cancel[0] != 0)
    wire.send(channel, {"id": hello["id"], "result": os.getpid()})
    while True:
        request = wire.receive(channel)
        try:
            wire.send(channel, server.answer(request))
        except (TypeError, ValueError) as error:
            failure = DeviceError(
                f"driver call {request['call']} returned what cannot cross: {error}",
                code=Code.INTERNAL,
            )
            wire.send(channel, {"id": request["id"], "error": wire.pack_error(failure)})


def make_detector(options_json: str, serial: int | str) -> Detector:
    """Return the driver of JSON options, told that it has this process for itself."""
    from nightjar.clock import SystemClock
    from nightjard.camd.drivers import make_local_detector
    from nightjard.camd.drivers.options import options_from_json

    detector = make_local_detector(options_from_json(options_json), serial, SystemClock())
    if hasattr(detector, "in_own_process"):
        detector.in_own_process = True
    return detector


def main(arguments: list[str] | None = None) -> int:
    """Run the child."""
    parser = argparse.ArgumentParser(description="detector process of camd; started by camd only")
    for name in ("channel-fd", "cancel-fd", "parent", "log-level"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args(arguments)
    # The daemon answers these signals; the detector must stay until the daemon lets go of it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever the starting thread had blocked
    die_with_parent(options.parent)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter())
    logging.basicConfig(level=options.log_level, handlers=[handler])
    cancel = mmap.mmap(options.cancel_fd, mmap.PAGESIZE)
    os.close(options.cancel_fd)
    with socket.socket(fileno=options.channel_fd) as channel:
        try:
            serve(channel, cancel)
        except wire.PeerGone:
            _LOG.debug("the daemon has closed the connection")
    return 0


if __name__ == "__main__":
    # Not sys.exit: a vendor's exit handlers may hang, and nothing here needs them.
    code = main()
    sys.stderr.flush()
    os._exit(code)
