# SPDX-License-Identifier: BSD-3-Clause
"""Simulated nights and telescopes for tests."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.times import parse_iso
from nightjard.simulators.observatory.faults import parse_faults
from nightjard.simulators.observatory.offline import (
    OfflineParameters,
    load_truth,
    make_observatory,
)

START = "2026-11-21T10:00:00"


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Poll until something is so; fail with what was waited for."""
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.01)


@dataclass(frozen=True)
class MadeNight:
    """A night on disk: its folders, its truth and the truth's model."""

    folder: Path
    truth: dict[str, Any]
    model: dict[str, Any]
    told: dict[str, Any]

    def files(self, stream: str) -> list[Path]:
        """Return the minute files of a stream, in order."""
        return sorted(p for p in (self.folder / stream).glob("*/*") if p.suffix != ".idx")


def made_night(
    folder: Path, minutes: int, *, start: str = START, faults: str = "", **chosen: Any
) -> MadeNight:
    """Write a night and return it with its truth."""
    parameters = OfflineParameters(
        parse_iso(start), minutes, faults=parse_faults(faults, minutes), **chosen
    )
    told = make_observatory(folder, parameters)
    return MadeNight(folder, *load_truth(folder / "truth.npz"), told)


class RunningTelescope:
    """``nightjar simulate telescope`` as a process of its own.

    Attributes
    ----------
    ports
        text, hundred, ten, one, rpc.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.wires = folder / "wires"
        self.plog = folder / "plog"
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "nightjard.site", "--json", "simulate", "telescope",
                "--wires", str(self.wires), "--plog", str(self.plog), *options,
            ],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        text = ""
        for line in self.process.stdout:
            text += line
            if line.rstrip() == "}":
                break
        assert text, f"the telescope did not start: exit {self.process.wait(10)}"
        self.ports: dict[str, int] = json.loads(text)["ports"]
        self._socket = socket.create_connection(("127.0.0.1", self.ports["text"]), 10.0)
        self._lines = self._socket.makefile("rwb")

    def tell(self, command: str) -> tuple[int, str]:
        """Send a command; return code and words of the reply."""
        self._lines.write(command.encode() + b"\n")
        self._lines.flush()
        code, _, words = self._lines.readline().decode().strip().partition(" ")
        return int(code), words

    def status(self) -> dict[str, str]:
        """Return the words of its status by name."""
        return dict(word.partition("=")[::2] for word in self.tell("status")[1].split(" "))

    def stop(self) -> int:
        """End it; return its exit code."""
        self._lines.close()
        self._socket.close()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(10.0)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code
