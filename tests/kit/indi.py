# SPDX-License-Identifier: BSD-3-Clause
"""INDI servers for tests: the real one with its simulators, and one that a test plays itself."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightjard.camd.drivers.base import Detector, FrameBuffer, FrameRecord, Phase, Readout

START_TIMEOUT_S = 10.0
CAMERA = "CCD Simulator"
WHEEL = "Filter Simulator"


class IndiServer:
    """A real indiserver with simulated devices, of its own home, port and socket.

    It binds to all interfaces: the program has no option for that.
    """

    def __init__(self, folder: Path, port: int, *drivers: str) -> None:
        self.folder = folder
        self.port = port
        self.drivers = drivers
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        environment = {**os.environ, "HOME": str(self.folder)}
        with open(self.folder / "indiserver.log", "ab") as log:
            self._process = subprocess.Popen(
                ["indiserver", "-v", "-p", str(self.port), "-u", str(self.folder / "socket"),
                 *self.drivers],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send a signal to the server alone, not to its drivers."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def stop(self) -> None:
        """Kill it; its drivers end when their standard input does."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait(5.0)
            self._process = None


class PlayedServer:
    """A server of one connection at a time whose device does what the test says.

    Definitions are sent at getProperties; every new...Vector is confirmed with state Ok, an
    exposure with Busy, unless `answer` says otherwise.
    """

    DEFINITIONS = (
        '<defSwitchVector device="Played" name="CONNECTION" state="Ok" perm="rw" '
        'rule="OneOfMany"><defSwitch name="CONNECT">On</defSwitch>'
        '<defSwitch name="DISCONNECT">Off</defSwitch></defSwitchVector>',
        '<defNumberVector device="Played" name="CCD_INFO" state="Idle" perm="ro">'
        '<defNumber name="CCD_MAX_X">8</defNumber><defNumber name="CCD_MAX_Y">6</defNumber>'
        '<defNumber name="CCD_BITSPERPIXEL">16</defNumber></defNumberVector>',
        '<defNumberVector device="Played" name="CCD_EXPOSURE" state="Idle" perm="rw">'
        '<defNumber name="CCD_EXPOSURE_VALUE" min="0" max="3600">1</defNumber></defNumberVector>',
        '<defSwitchVector device="Played" name="CCD_ABORT_EXPOSURE" state="Idle" perm="rw" '
        'rule="AtMostOne"><defSwitch name="ABORT">Off</defSwitch></defSwitchVector>',
        '<defNumberVector device="Played" name="CCD_FRAME" state="Idle" perm="rw">'
        '<defNumber name="X" min="0" max="7">0</defNumber>'
        '<defNumber name="Y" min="0" max="5">0</defNumber>'
        '<defNumber name="WIDTH" min="1" max="8">8</defNumber>'
        '<defNumber name="HEIGHT" min="1" max="6">6</defNumber></defNumberVector>',
        '<defNumberVector device="Played" name="CCD_CONTROLS" state="Idle" perm="rw">'
        '<defNumber name="Gain" min="0" max="300">1</defNumber>'
        '<defNumber name="Offset" min="0" max="50">1</defNumber></defNumberVector>',
        '<defBLOBVector device="Played" name="CCD1" state="Idle" perm="ro">'
        '<defBLOB name="CCD1"/></defBLOBVector>',
    )

    def __init__(self) -> None:
        self.received = ""
        self.is_mute = False
        self.answer: Callable[[str, str], str | None] = lambda name, text: None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._connection: socket.socket | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="played-indi")
        self._thread.start()

    def close(self) -> None:
        """End connection and thread."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join(5.0)

    def hang_up(self) -> None:
        """Close the connection, as a killed server does."""
        if self._connection is not None:
            try:
                self._connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client was first

    def send(self, data: str | bytes) -> None:
        """Send to the client."""
        assert self._connection is not None
        self._connection.sendall(data.encode() if isinstance(data, str) else data)

    def send_blob(
        self, data: bytes, *, suffix: str = ".fits", size: int | None = None, vector: str = "CCD1"
    ) -> None:
        """Send an image; `size` announces another number of bytes than come."""
        self.send(blob_element(data, suffix=suffix, size=size, vector=vector))

    def wait_for(self, text: str, count: int = 1, timeout_s: float = 5.0) -> None:
        """Wait until the client has sent `text` so many times."""
        with self._changed:
            is_there = self._changed.wait_for(
                lambda: self.received.count(text) >= count, timeout_s
            )
        assert is_there, f"the client did not send {text!r}; it sent {self.received!r}"

    def _serve(self) -> None:
        while True:
            try:
                self._connection, _ = self._listener.accept()
            except OSError:
                return
            pending = ""
            with self._connection:
                while True:
                    try:
                        data = self._connection.recv(65536)
                    except OSError:
                        break
                    if not data:
                        break
                    *lines, pending = (pending + data.decode()).split("\n")
                    for line in lines:
                        self._take(line)

    def _take(self, line: str) -> None:
        # Answered first: who has waited for the command may rely on the answer being sent.
        try:
            if not self.is_mute:
                self.send(self._answer(line))
        except OSError:
            pass  # the client did not wait for it
        with self._changed:
            self.received += line + "\n"
            self._changed.notify_all()

    def _answer(self, line: str) -> str:
        name = re.search(r' name="(\w+)"', line)
        if line.startswith("<getProperties"):
            return "".join(
                text for text in self.DEFINITIONS if name is None or f' name="{name[1]}"' in text
            )
        if name is None or not line.startswith("<new"):
            return ""
        given = self.answer(name[1], line)
        if given is not None:
            return given
        state = "Busy" if name[1] == "CCD_EXPOSURE" else "Ok"
        text = line.replace("<new", "<set").replace("</new", "</set")
        return text.replace(' name="', f' state="{state}" name="', 1)


def blob_element(
    data: bytes, *, suffix: str = ".fits", size: int | None = None, vector: str = "CCD1"
) -> str:
    """Return an image as a server sends it."""
    return (
        f'<setBLOBVector device="Played" name="{vector}" state="Ok">\n'
        f'<oneBLOB name="{vector}" size="{len(data) if size is None else size}" '
        f'format="{suffix}">\n{base64.b64encode(data).decode()}\n</oneBLOB>\n</setBLOBVector>\n'
    )


def fits_bytes(pixels: NDArray[np.generic], **cards: float | str) -> bytes:
    """Return a FITS file as INDI drivers write it, made by astropy."""
    import io

    from astropy.io import fits

    unit = fits.PrimaryHDU(pixels)
    unit.header.update(cards)
    file = io.BytesIO()
    unit.writeto(file)
    return file.getvalue()


def wait_phase(detector: Detector, phase: Phase, timeout_s: float = 10.0) -> float:
    """Poll until the phase is reached; return how long it took, s."""
    begin = time.monotonic()
    while detector.poll().phase is not phase:
        assert time.monotonic() - begin < timeout_s, f"not {phase} within {timeout_s} s"
        time.sleep(0.002)
    return time.monotonic() - begin


def take_frame(
    detector: Detector, readout: Readout, timeout_s: float = 10.0
) -> tuple[NDArray[np.uint16], FrameRecord]:
    """Expose once and return the frame."""
    detector.start()
    wait_phase(detector, Phase.READY, timeout_s)
    return fetch_frame(detector, readout)


def fetch_frame(
    detector: Detector, readout: Readout
) -> tuple[NDArray[np.uint16], FrameRecord]:
    """Fetch the frame that is ready into memory that was not zero before."""
    pixels = np.full(readout.shape, 0xAAAA, np.uint16)
    record = detector.fetch(FrameBuffer("", 0, pixels), lambda: False)
    return pixels, record
