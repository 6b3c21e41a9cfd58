# SPDX-License-Identifier: BSD-3-Clause
"""A rotator that lives: on pseudo-terminals in real time, with a socket through which it suffers.

A line sent to the socket is a command, its answer one line of JSON; see :data:`COMMANDS`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nightjar.clock import SystemClock
from nightjar.errors import Busy, ConfigError, DeviceLost, InvalidArgument
from nightjard.simulators.rotator.galil import GalilDevice
from nightjard.simulators.rotator.mechanics import Mechanics, Parameters
from nightjard.simulators.rotator.pyxis import PyxisDevice
from nightjard.simulators.rotator.sei import SeiDevice
from nightjard.simulators.rotator.smartmotor import SmartMotorDevice
from nightjard.simulators.rotator.wire import Device, Pty
from nightjard.simulators.rotator.zaber import ZaberDevice
from nightjard.simulators.wires import Wires

KINDS = ("smartmotor", "galil", "zaber", "pyxis")
CONTROL, TRUTH = "control", "truth.jsonl"
_STEP_S = 0.02
_TRUTH_NS = 100_000_000
_LONGEST = 1000

COMMANDS = {
    "status": "tell the truth: angle, power, limits, faults",
    "power on|off": "switch the motor's supply",
    "cut": "the motor loses its power in whatever it is doing",
    "slip DEG": "the belt slips by so much",
    "stick on|off": "the encoder goes on telling where it is now",
    "jump COUNTS": "the encoder tells so much too much from now on",
    "tab hide|show": "the homing sensor never sees the tab, or does again",
    "lose PROBABILITY": "of every byte, each way",
    "garble PROBABILITY": "of every byte of an answer",
    "silent motor|encoder on|off": "nothing is answered",
    "stall SECONDS": "before every answer",
    "unplug motor|encoder": "pull its cable",
    "plug motor|encoder": "put it back",
}
"""What may be sent to the socket -> what it does."""


class Station:
    """Motor and encoder at DIR/motor and DIR/encoder, the truth in DIR/truth.jsonl.

    Parameters
    ----------
    folder
        Made where it is missing.
    kind
        Of the motor; a Pyxis has no encoder of its own.
    parameters
        Of the mechanics.
    wires
        File of the simulated observatory's wires, which is told the true angle; None: none.
    baud
        Speed of the lines that is simulated by waiting; None: none is.
    seed
        Of what comes by chance.

    Raises
    ------
    Busy
        Another one lives in the folder.
    """

    def __init__(
        self,
        folder: Path,
        kind: str = "smartmotor",
        parameters: Parameters | None = None,
        *,
        wires: Path | None = None,
        baud: int | None = None,
        seed: int = 1,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._clock = SystemClock()
        self._listener = _listen(folder / CONTROL)
        self._truth = (folder / TRUTH).open("a", buffering=1)
        self._truth_ns = 0
        self._wires = None if wires is None else Wires.ensure(wires)
        chosen = parameters or Parameters()
        if kind == "pyxis":
            chosen = Parameters(
                start_deg=chosen.start_deg, belt_play_deg=0.0, stiction_deg=0.0, stretch_s2=0.0,
                limit_low_deg=-181.0, limit_high_deg=181.0,
            )  # fmt: skip
        self.mechanics = Mechanics(self._clock, chosen, seed=seed, on_angle=self._at)
        self.ports = {
            "motor": Pty(_motor(kind, self.mechanics), folder / "motor", baud=baud, seed=seed)
        }
        if kind != "pyxis":
            self.ports["encoder"] = Pty(
                SeiDevice(self.mechanics), folder / "encoder", baud=baud, seed=seed + 1
            )
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for name, run in (("rotator", self._live), ("control", self._serve))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End it; the ports vanish. Harmless when it has ended."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
        for port in self.ports.values():
            port.close()
        (self.folder / CONTROL).unlink(missing_ok=True)
        self._truth.close()
        if self._wires is not None:
            self._wires.close()

    # --- truth ---

    def _at(self, t_ns: int, angle_deg: float) -> None:
        """Write down where the load is; called in order of time with the mechanics locked."""
        if self._wires is not None:
            self._wires.put_angle(t_ns, angle_deg)
        if t_ns - self._truth_ns >= _TRUTH_NS:
            self._truth_ns = t_ns
            row = {"time_ns": t_ns, "angle_deg": round(angle_deg, 5)}
            self._truth.write(json.dumps(row) + "\n")

    def _live(self) -> None:
        while not self._stopping.wait(_STEP_S):
            _ = self.mechanics.load_deg  # asked, so that the truth is told as it happens

    # --- control ---

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5.0)
                line = connection.makefile("rb").readline(_LONGEST)
                connection.sendall((json.dumps(self._answer(line)) + "\n").encode())

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            self.suffer(line.decode("ascii", "replace").split())
        except InvalidArgument as error:
            return {"error": error.message}
        return self.status()

    def status(self) -> dict[str, Any]:
        """Return the truth."""
        it = self.mechanics
        return {
            "angle_deg": it.load_deg, "is_powered": it.is_powered, "is_moving": it.is_moving,
            "limits": list(it.limits), "limit_hits": it.limit_hits,
            "is_tab_hidden": it.is_tab_hidden,
            "ports": {name: port.path for name, port in self.ports.items()},
        }  # fmt: skip

    def suffer(self, words: list[str]) -> None:
        """Do what a command says.

        Raises
        ------
        InvalidArgument
            There is no such command.
        """
        it = self.mechanics
        text = " ".join(words)
        one: dict[str, Callable[[], None]] = {
            "status": lambda: None, "cut": it.cut_power,
            "power on": partial(it.set_power, True), "power off": partial(it.set_power, False),
            "stick on": partial(it.stick_encoder, True),
            "stick off": partial(it.stick_encoder, False),
            "tab hide": partial(setattr, it, "is_tab_hidden", True),
            "tab show": partial(setattr, it, "is_tab_hidden", False),
        }  # fmt: skip
        for name, port in self.ports.items():
            one[f"unplug {name}"], one[f"plug {name}"] = port.unplug, port.plug
            one[f"silent {name} on"] = partial(setattr, port, "is_silent", True)
            one[f"silent {name} off"] = partial(setattr, port, "is_silent", False)
        if text in one:
            one[text]()
        elif len(words) == 2 and words[0] in ("slip", "jump", "lose", "garble", "stall"):
            self._suffer_by(words[0], _number(words[1]))
        else:
            raise InvalidArgument(f"{text!r}: must be one of: {'; '.join(COMMANDS)}")
        if text != "status":
            note = {"time_ns": self._clock.now_ns(), "angle_deg": it.load_deg, "event": text}
            self._truth.write(json.dumps(note) + "\n")

    def _suffer_by(self, word: str, value: float) -> None:
        if word == "slip":
            self.mechanics.slip(value)
        elif word == "jump":
            self.mechanics.encoder_jump_counts = int(value)
        elif value < 0 or (word != "stall" and value > 1):
            raise InvalidArgument(f"{word} {value:g}: must be at least 0, a probability at most 1")
        else:
            for port in self.ports.values():
                setattr(port, "stall_s" if word == "stall" else word, value)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidArgument(f"{text!r} must be a number")
    return value


def _motor(kind: str, mechanics: Mechanics) -> Device:
    makers: dict[str, Callable[[Mechanics], Device]] = {
        "smartmotor": SmartMotorDevice, "galil": GalilDevice, "zaber": ZaberDevice,
        "pyxis": PyxisDevice,
    }  # fmt: skip
    return makers[kind](mechanics)


def _listen(path: Path) -> socket.socket:
    """Return a listening socket in a folder that no other one has."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if path.exists():
        try:
            ask(path.parent, "status", timeout_s=1.0)
        except DeviceLost:
            path.unlink(missing_ok=True)  # of one that was killed
        else:
            listener.close()
            raise Busy(f"a simulated rotator lives in {path.parent}; choose another folder")
    try:
        listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{path}: {error.strerror or error}; choose a folder with a shorter name"
        ) from error
    listener.listen(8)
    return listener


def ask(folder: Path, command: str, *, timeout_s: float = 5.0) -> dict[str, Any]:
    """Send a command to the rotator that lives in a folder; return its answer.

    Raises
    ------
    DeviceLost
        None does.
    InvalidArgument
        There is no such command.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(os.fspath(folder / CONTROL))
            connection.sendall(command.encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile("rb").readline())
    except (OSError, ValueError) as error:
        raise DeviceLost(
            f"no simulated rotator lives in {folder} ({error}): start one with `nightjar simulate "
            f"rotator {folder}`"
        ) from error
    if "error" in answer:
        raise InvalidArgument(str(answer["error"]))
    return answer
