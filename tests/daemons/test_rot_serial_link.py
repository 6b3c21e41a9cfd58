# SPDX-License-Identifier: BSD-3-Clause
"""Answers on a serial port, where this process is held up while they come."""

from __future__ import annotations

import os
import tty
from collections.abc import Iterator

import pytest

from kit.site import eventually
from nightjar.clock import ManualClock
from nightjard.rotd.config import SerialPort
from nightjard.rotd.drivers.serial_link import NoAnswer, SerialLink


class HeldUp(ManualClock):
    """Each look at it is two seconds after the one before."""

    def monotonic_ns(self) -> int:
        self.advance(2.0)
        return super().monotonic_ns()


@pytest.fixture
def ends() -> Iterator[tuple[int, str]]:
    """Return the device's end and the name of ours."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    yield ours, os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


def test_an_answer_that_came_meanwhile_is_one(ends: tuple[int, str]) -> None:
    device, path = ends
    link = SerialLink(SerialPort(port=path), "motor", HeldUp())
    link.open()

    def say(data: bytes) -> None:
        os.write(device, data)
        eventually(lambda: link._port.in_waiting == len(data), what="it has come")

    try:
        say(b"17\r")
        assert link.receive(lambda got: got.endswith(b"\r")) == b"17\r"
        say(b"1")
        with pytest.raises(NoAnswer, match="only b'1'"):
            link.receive(lambda got: got.endswith(b"\r"))
        with pytest.raises(NoAnswer, match="nothing"):
            link.receive(lambda got: got.endswith(b"\r"))
        assert link.lost_answers == 2
    finally:
        link.close()
