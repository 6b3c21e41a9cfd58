# SPDX-License-Identifier: BSD-3-Clause
"""Rotators for tests: drivers on simulated devices, and a whole rotator in simulated time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightjar.clock import NS_PER_S, ManualClock
from nightjar.health import Health
from nightjar.operations import Operations
from nightjard.rotd import config as options
from nightjard.rotd.config import RotdConfig
from nightjard.rotd.drivers.base import Encoder, Motor
from nightjard.rotd.drivers.galil import GalilMotor
from nightjard.rotd.drivers.sei import SeiEncoder
from nightjard.rotd.drivers.simulated import SimulatedEncoder, SimulatedMotor
from nightjard.rotd.drivers.smartmotor import SmartMotor
from nightjard.rotd.drivers.zaber import ZaberMotor
from nightjard.rotd.model import Rotator
from nightjard.simulators.rotator import protocol_simulated
from nightjard.simulators.rotator.galil import GalilDevice
from nightjard.simulators.rotator.mechanics import Mechanics, Parameters
from nightjard.simulators.rotator.sei import SeiDevice
from nightjard.simulators.rotator.smartmotor import SmartMotorDevice
from nightjard.simulators.rotator.wire import Device, Pty, Wire
from nightjard.simulators.rotator.zaber import ZaberDevice

KINDS = ("smartmotor", "echo", "address", "galil", "zaber")
_names = itertools.count(1)


def motor_device(kind: str, mechanics: Mechanics) -> Device:
    """Return the motor's electronics of a kind."""
    if kind == "galil":
        return GalilDevice(mechanics)
    if kind == "zaber":
        return ZaberDevice(mechanics)
    address = 3 if kind == "address" else None
    return SmartMotorDevice(mechanics, address=address, echoes=kind != "smartmotor")


def motor_options(kind: str, port: str, **changes: Any) -> Any:
    """Return the driver's options for a port."""
    if kind == "galil":
        return options.GalilMotor(port=port, **changes)
    if kind == "zaber":
        return options.ZaberMotor(port=port, **changes)
    address = 3 if kind == "address" else None
    return options.SmartMotor(port=port, address=address, echoes=kind != "smartmotor", **changes)


def make_motor(chosen: Any, clock: Any = None) -> Motor:
    """Return the driver of options."""
    kinds = {"galil": GalilMotor, "zaber": ZaberMotor, "smartmotor": SmartMotor}
    motor: Motor = kinds[chosen.kind](chosen, clock)
    return motor


@dataclass
class Bench:
    """A motor and an encoder on mechanics whose time the test makes pass."""

    clock: ManualClock
    mechanics: Mechanics
    motor: Motor
    encoder: Encoder
    wires: list[Wire] = field(default_factory=list)
    second_motor: Callable[[], Motor] | None = None

    def pass_time(self, seconds: float) -> None:
        """Let mechanics and clock go on."""
        self.clock.advance(seconds)

    def run(self, limit_s: float = 60.0) -> float:
        """Let time pass until the motor tells rest; return how much did."""
        passed = 0.0
        while self.motor.state().is_moving:
            self.pass_time(0.05)
            passed += 0.05
            assert passed < limit_s, "the motor does not come to rest"
        return passed

    @contextmanager
    def impatience(self, tries: int = 1) -> Iterator[None]:
        """Have silence end soon."""
        devices: list[Any] = [self.motor, self.encoder]
        links = [(one._link, one._link._options) for one in devices if hasattr(one, "_link")]
        for link, chosen in links:
            link._options = chosen.model_copy(update={"timeout_s": 0.2, "tries": tries})
        yield
        for link, chosen in links:
            link._options = chosen

    def close(self) -> None:
        """Let go of everything."""
        self.motor.close()
        self.encoder.close()
        for wire in self.wires:
            if isinstance(wire, Pty):
                wire.close()


def pty_bench(kind: str, **parameters: Any) -> Bench:
    """Return drivers at pseudo-terminals; mechanics in a time that the test makes pass."""
    clock = ManualClock()
    mechanics = Mechanics(clock, Parameters(**parameters))
    wires = [Pty(motor_device(kind, mechanics), seed=2), Pty(SeiDevice(mechanics), seed=3)]
    # A busy machine may take long to answer; what is silent on purpose is rare.
    chosen = motor_options(kind, wires[0].path, timeout_s=1.5)
    encoder = SeiEncoder(options.SeiEncoder(port=wires[1].path, timeout_s=1.5), clock=clock)
    encoder._link._clock = _system()  # its waits are real, its stamps are the bench's
    return Bench(
        clock, mechanics, make_motor(chosen), encoder, list(wires), lambda: make_motor(chosen)
    )


def _system() -> Any:
    from nightjar.clock import SystemClock

    return SystemClock()


def simulated_bench(**parameters: Any) -> Bench:
    """Return the drivers in process."""
    clock = ManualClock()
    mechanics = Mechanics(clock, Parameters(**parameters))
    return Bench(clock, mechanics, SimulatedMotor(mechanics), SimulatedEncoder(mechanics, clock))


# --- a whole rotator ----------------------------------------------------------------------------


class Told:
    """An observatory log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def info(self, message: str) -> None:
        self.lines.append(("info", message))

    def warning(self, message: str) -> None:
        self.lines.append(("warning", message))

    def error(self, message: str) -> None:
        self.lines.append(("error", message))

    def all(self, *levels: str) -> list[str]:
        return [text for level, text in self.lines if level in levels]


class PlayedLines:
    """Status lines that the test plays; edges of ROTATING are kept with their times."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.rotate = False
        self.acquired: bool | None = None
        self.tracking: bool | None = None
        self.edges: list[tuple[float, bool]] = []

    def open(self) -> None: ...

    def close(self) -> None: ...

    def is_rotate(self) -> bool:
        return self.rotate

    def is_acquired(self) -> bool | None:
        return self.acquired

    def is_tracking(self) -> bool | None:
        return self.tracking

    def set_rotating(self, busy: bool) -> None:
        self.edges.append((self._clock.monotonic_ns() / NS_PER_S, busy))


def config_value(**changes: Any) -> dict[str, Any]:
    """Return the configuration of a simulated rotator; sections are updated, not replaced."""
    value: dict[str, Any] = {
        "daemon": "rotator", "log_name": "rotd@test", "control_machines": ["LocalHost"],
        "motor": {"kind": "simulated"}, "encoder": {"kind": "simulated"},
        "geometry": {"motor_counts_per_deg": 1000.0},
        "array": {"mountings": [{"since": "2020-01-01", "fiducial_deg": 84.0}]},
    }  # fmt: skip
    for key, change in changes.items():
        is_section = isinstance(change, dict) and isinstance(value.get(key), dict)
        value[key] = {**value[key], **change} if is_section else change
    return value


def rot_config(**changes: Any) -> RotdConfig:
    return RotdConfig.model_validate(config_value(**changes))


class Rig:
    """A rotator in simulated time, with the truth of its mechanics.

    Parameters
    ----------
    folder
        Where it remembers.
    kind
        "simulated": drivers in process; else the kind of motor on a simulated serial port.
    mechanics, clock
        Of an earlier life; None: new ones, with `parameters`.
    """

    def __init__(
        self,
        folder: Path,
        kind: str = "simulated",
        *,
        mechanics: Mechanics | None = None,
        clock: ManualClock | None = None,
        seed: int = 1,
        timeout_s: float = 0.1,
        telescope: Callable[[], Any] = lambda: None,
        config: dict[str, Any] | None = None,
        **parameters: Any,
    ) -> None:
        self.clock = clock or protocol_simulated.SteppingClock()
        self.history: list[tuple[int, float]] = []
        self.mechanics = mechanics or Mechanics(
            self.clock, Parameters(**parameters), seed=seed,
            on_angle=lambda t_ns, angle: self.history.append((t_ns, angle)),
        )  # fmt: skip
        self.motor_wire: Wire | None = None
        self.encoder_wire: Wire | None = None
        self.motor, self.encoder = self._devices(kind, seed, timeout_s)
        self.lines = PlayedLines(self.clock)
        self.told = Told()
        self.health = Health(self.clock.now_ns)
        self.operations = Operations(self.clock)
        folder.mkdir(parents=True, exist_ok=True)
        self.rotator = Rotator(
            rot_config(**(config or {})), self.motor, self.encoder, self.lines, clock=self.clock,
            health=self.health, operations=self.operations, log=self.told, folder=folder,
            telescope=telescope, power=None if kind == "simulated" else Supply(self.mechanics),
        )  # fmt: skip

    def _devices(self, kind: str, seed: int, timeout_s: float) -> tuple[Motor, Encoder]:
        if kind == "simulated":
            return SimulatedMotor(self.mechanics), SimulatedEncoder(self.mechanics, self.clock)
        protocol_simulated.install()
        number = next(_names)
        self.motor_wire = Wire(motor_device(kind, self.mechanics), baud=38400, seed=seed)
        self.encoder_wire = Wire(SeiDevice(self.mechanics), baud=38400, seed=seed + 1)
        ports = [
            protocol_simulated.connect(f"{name}{number}", wire, self.clock)
            for name, wire in (("motor", self.motor_wire), ("encoder", self.encoder_wire))
        ]
        chosen = motor_options(kind, ports[0], timeout_s=timeout_s)
        return make_motor(chosen, self.clock), SeiEncoder(
            options.SeiEncoder(port=ports[1], timeout_s=timeout_s), self.clock
        )

    # --- time ---

    @property
    def now_s(self) -> float:
        return self.clock.monotonic_ns() / NS_PER_S

    def tick(self, seconds: float = 0.0, every_s: float = 0.1) -> None:
        """Look once, and go on looking for some simulated time."""
        self.rotator.tick()
        end = self.now_s + seconds
        while self.now_s < end - 1e-9:
            self.clock.advance(every_s)
            self.rotator.tick()

    def until(self, check: Callable[[], Any], limit_s: float = 400.0, what: str = "") -> float:
        """Tick until `check` is true; return how much simulated time passed."""
        began = self.now_s
        self.rotator.tick()
        while not check():
            assert self.now_s - began < limit_s, what or f"{self.status}"
            self.clock.advance(0.1)
            self.rotator.tick()
        return self.now_s - began

    def finish(self, reply: dict[str, Any], limit_s: float = 400.0) -> dict[str, Any]:
        """Tick until an operation has ended and nothing moves; return its last snapshot."""
        operation = self.operations.get(reply["operation"])
        self.until(lambda: operation.is_done, limit_s, f"{operation.snapshot()}")
        self.until(lambda: self.status["state"] != "STOPPING", 20.0)
        return operation.snapshot()

    # --- short ways ---

    @property
    def status(self) -> dict[str, Any]:
        return self.rotator.status()

    @property
    def load_deg(self) -> float:
        return self.mechanics.load_deg

    def ready(self) -> Rig:
        """Open and home it."""
        self.tick(0.5)
        ended = self.finish(self.rotator.home(True))
        assert ended["state"] == "done", ended
        self.history.clear()
        return self

    def goto(self, angle: float) -> dict[str, Any]:
        """Go somewhere; return how it ended."""
        self.history.clear()
        return self.finish(self.rotator.goto(angle))

    def approach_deg(self) -> float:
        """Return how far the load went clockwise at the end of the last motion.

        Negative where it last went counter-clockwise, further than an encoder tells.
        """
        final = self.load_deg
        highest = final
        for _, angle in reversed(self.history):
            if angle < highest - 1e-6:
                break
            highest = max(highest, angle)
        return highest - final


class Supply:
    """The switch of the motor's supply."""

    def __init__(self, mechanics: Mechanics) -> None:
        self._mechanics = mechanics

    def set_power(self, on: bool) -> None:
        self._mechanics.set_power(on)
