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
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self


class Device(Protocol):
    """What understands bytes."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they come; return what is answered at once."""
        ...


class Pty:
    """A device on a pseudo-terminal, served by a thread of its own.

    Parameters
    ----------
    device
        What answers.
    link
        Name under which programs find the terminal: a symbolic link, made anew; None: none.
    baud
        Line speed that is simulated by waiting; None: none is.
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
    """

    def __init__(
        self, device: Device, link: Path | None = None, *, baud: int | None = None, seed: int = 1
    ) -> None:
        self.device = device
        self.lose = self.garble = 0.0
        self.stall_s = 0.0
        self.is_silent = False
        self._baud = baud
        self._random = random.Random(seed)
        self._link = link
        self._ended = threading.Event()
        self._master = self._slave = -1
        self._waker = os.pipe()
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
            master, slave, self._master, self._slave = self._master, self._slave, -1, -1
            os.write(self._waker[1], b".")
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
        for descriptor in self._waker:
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
                ready, _, _ = select.select(waited, [], [], 1.0)
                if self._waker[0] in ready:
                    os.read(self._waker[0], 64)
                if master in ready and master >= 0:
                    self._answer(master, os.read(master, 4096))
            except (OSError, ValueError):  # pulled in this very moment
                continue

    def _answer(self, master: int, data: bytes) -> None:
        if self.is_silent:
            return
        answer = self.device.feed(self._spoilt(data, 0.0))
        answer = self._spoilt(answer, self.garble)
        if not answer:
            return
        pause = self.stall_s + (0.0 if self._baud is None else len(data + answer) * 10 / self._baud)
        if pause and self._ended.wait(pause):
            return
        os.write(master, answer)

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
