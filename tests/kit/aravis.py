# SPDX-License-Identifier: BSD-3-Clause
"""The real simulated GigE Vision camera of Aravis, and what its frames look like."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kit.site import eventually
from nightjard.camd.fast.aravis_library import load
from nightjard.camd.fast.source import FrameSource, SourceFrame

PROGRAMS = ("arv-fake-gv-camera-0.8", "/usr/lib/*/girepository-1.0/Aravis-0.8.typelib")
ADDRESS = "127.0.0.1"
FIRST_ID = 65401  # frames are numbered from here, so that the 16 bits overflow soon
UNIT_EXPOSURE_S = 0.01  # at this exposure the pixels are as `expected` says
_GVCP_PORT = 3956
_LOCK = "\0nightjar-test-gigevision"
_LOCK_TIMEOUT_S = 100.0


@contextmanager
def the_port() -> Iterator[None]:
    """Hold the machine's one place for such a camera, against the other test processes.

    All cameras use the same UDP port, and this one listens on addresses of interfaces only, which
    of 127/8 is just the one.
    """
    with socket.socket(socket.AF_UNIX) as holder:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                holder.bind(_LOCK)
                break
            except OSError:
                assert time.monotonic() < deadline, "another test holds the camera's port"
                time.sleep(0.02)  # polling another process, with a deadline
        yield


class GvCamera:
    """One running arv-fake-gv-camera, with the port held by :func:`the_port`."""

    def __init__(self, *options: str) -> None:
        self.serial = f"NJ{os.getpid()}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            [PROGRAMS[0], "-i", ADDRESS, "-s", self.serial, *self._options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        eventually(self._answers, 10.0, f"{PROGRAMS[0]} answers on {ADDRESS}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "it ended: is UDP port 3956 taken?"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as question:
            question.settimeout(0.1)
            # GVCP: READREG of register 0, acknowledge wanted, request 1
            question.sendto(struct.pack(">BBHHHI", 0x42, 1, 0x80, 4, 1, 0), (ADDRESS, _GVCP_PORT))
            try:
                return len(question.recv(100)) >= 8
            except OSError:
                return False

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as a cable that is pulled does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(5.0)
            self._process = None

    def freeze(self) -> None:
        """Stop it from doing anything."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)


def description() -> str:
    """Return the simulator's description of itself (GenICam XML)."""
    load()
    from gi.repository import Aravis, Gio

    Aravis.get_n_interfaces()  # the library, loaded by its first call, carries the text in itself

    data = Gio.resources_lookup_data(
        "/org/aravis/arv-fake-camera.xml", Gio.ResourceLookupFlags.NONE
    )
    return bytes(data.get_data()).decode()


def genicam_with_mono12(folder: Path) -> Path:
    """Return a file that describes the camera as one of 12 bits, for option -g.

    The simulator fills pixels of 16 bits only, so its Mono12 is that under another name.
    """
    path = folder / "camera.xml"
    path.write_text(
        description().replace('<EnumEntry Name="Mono16"', '<EnumEntry Name="Mono12"')
    )
    return path


def expected(frame_id: int, shape: tuple[int, int], dtype: type) -> NDArray[np.generic]:
    """Return the pixels of a frame at an exposure of 10 ms; `frame_id` may count beyond 65535."""
    raw = (frame_id - 1) % 65535 + 1
    y, x = np.indices(shape)
    if dtype is np.uint8:
        return ((x + y + raw) % 255).astype(np.uint8)
    return (256 * (x + y + raw) % 65535).astype(np.uint16)


def frames(
    source: FrameSource, slot: NDArray[np.generic], count: int, timeout_s: float = 10.0,
    look: Callable[[SourceFrame], None] | None = None,
) -> list[SourceFrame]:  # fmt: skip
    """Return so many frames, incomplete ones too; `look` sees each while it is in `slot`."""
    taken: list[SourceFrame] = []
    deadline = time.monotonic() + timeout_s
    while len(taken) < count:
        assert time.monotonic() < deadline, f"only {len(taken)} frames of {count}"
        if source.wait(0.2):
            taken.append(source.fetch(slot))
            if look is not None:
                look(taken[-1])
    return taken
