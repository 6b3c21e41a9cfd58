# SPDX-License-Identifier: BSD-3-Clause
"""A simulated device behind a pseudo-terminal: what a program opens as its serial port.

The faults are those of serial lines: bytes lost or changed on their way, answers that come too
late, a device that says nothing, a cable that is pulled.
"""

from __future__ import annotations

import os
import random
import select
import threading
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self


class Device(Protocol):
    """What understands bytes."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they come; return what is answered at once."""
        ...


class Wire:
    """A device and the faults of the line to it.

    Parameters
    ----------
    device
        What answers.
    baud
        Line speed that takes its time; None: none is taken.
    seed
        Of the faults.

    Attributes
    ----------
    lose, garble
        Chance of a byte, each way, to be lost; of a byte of an answer to be changed.
    stall_s
        Before each answer.
    is_silent
        Nothing is answered, nothing heard.
    cut_answers
        So many answers to come are cut in the middle.
    """

    def __init__(self, device: Device, *, baud: int | None = None, seed: int = 1) -> None:
        self.device = device
        self.lose = self.garble = 0.0
        self.stall_s = 0.0
        self.is_silent = False
        self.cut_answers = 0
        self._baud = baud
        self._random = random.Random(seed)

    def exchange(self, data: bytes) -> tuple[bytes, float]:
        """Return what is answered to bytes, and how long the line takes for both, s."""
        if self.is_silent:
            return b"", 0.0
        answer = self._spoilt(self.device.feed(self._spoilt(data, 0.0)), self.garble)
        if self.cut_answers and answer:
            self.cut_answers -= 1
            answer = answer[: len(answer) // 2]
        line_s = 0.0 if self._baud is None else len(data + answer) * 10 / self._baud
        return answer, line_s + (self.stall_s if answer else 0.0)

    def _spoilt(self, data: bytes, garble: float) -> bytes:
        if not (self.lose or garble) or not data:
            return data
        kept = bytearray()
        for byte in data:
            if self.lose and self._random.random() < self.lose:
                continue
            if garble and self._random.random() < garble:
                byte ^= 1 << self._random.randrange(8)
            kept.append(byte)
        return bytes(kept)


class Pty(Wire):
    """A device on a pseudo-terminal, served by a thread of its own.

    Parameters
    ----------
    device
        What answers; where it has a method ``unasked``, it is asked again and again for what it
        says by itself.
    link
        Name under which programs find the terminal: a symbolic link, made anew; None: none.
    baud
        Line speed that is simulated by waiting; None: none is.
    seed
        Of the faults.

    Attributes
    ----------
    path
        What programs open.
    """

    def __init__(
        self, device: Device, link: Path | None = None, *, baud: int | None = None, seed: int = 1
    ) -> None:
        super().__init__(device, baud=baud, seed=seed)
        self._unasked: Callable[[], bytes] | None = getattr(device, "unasked", None)
        self._link = link
        self._ended = threading.Event()
        self._master = self._slave = -1
        self._waker = os.pipe()
        # A descriptor that is closed may be another file's a moment later: nobody reads it then.
        self._lock = threading.Lock()
        self.path = ""
        self._plug()
        self._thread = threading.Thread(target=self._serve, name="pty", daemon=True)
        self._thread.start()

    def _plug(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        # The slave stays open here: without anybody at it reading the master would end.
        self.path = os.ttyname(self._slave)
        if self._link is not None:
            temporary = self._link.with_name(f".{self._link.name}.{os.getpid()}")
            with suppress(FileNotFoundError):
                temporary.unlink()
            temporary.symlink_to(self.path)
            temporary.replace(self._link)

    def unplug(self) -> None:
        """Pull the cable: the port vanishes; who has it open gets errors."""
        if self._master >= 0:
            os.write(self._waker[1], b".")
            with self._lock:
                master, slave, self._master, self._slave = self._master, self._slave, -1, -1
                os.close(slave)
                os.close(master)
            if self._link is not None:
                with suppress(FileNotFoundError):
                    self._link.unlink()

    def plug(self) -> None:
        """Put the cable back: a port under the same link."""
        if self._master < 0:
            self._plug()
            os.write(self._waker[1], b".")

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self.unplug()
        with suppress(OSError):
            os.write(self._waker[1], b".")
        self._thread.join(5)
        waker, self._waker = self._waker, (-1, -1)
        for descriptor in waker:
            with suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            master = self._master
            waited = [self._waker[0]] + ([master] if master >= 0 else [])
            try:
                ready, _, _ = select.select(waited, [], [], 1.0 if self._unasked is None else 0.05)
                if self._waker[0] in ready:
                    os.read(self._waker[0], 64)
                with self._lock:
                    if master < 0 or master != self._master:
                        continue
                    data = os.read(master, 4096) if master in ready else b""
                if data:
                    self._answer(master, data)
                if self._unasked is not None:
                    self._send(master, self._unasked())
            except (OSError, ValueError):  # pulled in this very moment
                continue

    def _answer(self, master: int, data: bytes) -> None:
        answer, pause_s = self.exchange(data)
        if pause_s and self._ended.wait(pause_s):
            return
        self._send(master, answer)

    def _send(self, master: int, answer: bytes) -> None:
        with self._lock:
            if answer and master == self._master:
                os.write(master, answer)
