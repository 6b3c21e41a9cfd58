# SPDX-License-Identifier: BSD-3-Clause
"""The thin face of the rotator on the network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nightjar.api.commands import Command
from nightjar.api.rot import COMMANDS
from nightjar.clock import NS_PER_S
from nightjar.daemon import Context, Spec, heartbeat_age
from nightjar.errors import NightjarError
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjar.rpc.server import Handler
from nightjard.rotd.config import RotdConfig, WiredLines
from nightjard.rotd.drivers.table import make_devices, make_lines, make_power
from nightjard.rotd.model import Rotator

_NARROW_TAB_DEG = 0.25
_ASK_S = 1.0
_ANSWER_S = 2.0
_GAUGES = {
    "angle_deg": "Angle of the rotator",
    "error_deg": "Target minus angle",
    "difference_deg": "Motor minus encoder angle",
    "reading_age_s": "Age of the encoder reading",
    "moves": "Moves since the daemon started",
}


class TelescopeFacts:
    """What the telescope log knows, asked again and again by a thread of its own.

    Parameters
    ----------
    client
        Of its daemon.
    clock
        Paces the questions.
    """

    def __init__(self, client: Client, context: Context[RotdConfig]) -> None:
        self._client = client
        self._clock = context.clock
        self._known: dict[str, Any] | None = None
        self._at_ns = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telescope", daemon=True)

    def __call__(self) -> Mapping[str, Any] | None:
        """Return the newest answer, older by what has passed since."""
        known = self._known
        if known is None:
            return None
        age = known.get("age_s")
        passed = (self._clock.monotonic_ns() - self._at_ns) / NS_PER_S
        return {**known, "age_s": None if age is None else age + passed}

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def _run(self) -> None:
        while not self._clock.wait(self._stopping, _ASK_S):
            try:
                self._known = self._client.call("telescope", timeout_s=_ANSWER_S)
                self._at_ns = self._clock.monotonic_ns()
            except NightjarError:
                continue  # its age grows, and commands that need it say so

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_ANSWER_S + 1)


class RotatorService:
    """Carries :class:`nightjard.rotd.model.Rotator`."""

    commands: Sequence[Command] = COMMANDS

    def __init__(self, context: Context[RotdConfig]) -> None:
        self._context = context
        config, clock = context.config, context.clock
        self._facts: TelescopeFacts | None = None
        if config.telescope_daemon is not None:
            entry = context.registry.daemon(config.telescope_daemon)
            self._facts = TelescopeFacts(Client(entry), context)
        motor, encoder = make_devices(config, clock)
        self._rotator = Rotator(
            config, motor, encoder, make_lines(config.lines), clock=clock, health=context.health,
            operations=context.operations, log=context.obslog, folder=context.state,
            power=make_power(config.power), telescope=self._facts or (lambda: None),
        )  # fmt: skip
        self._stopping = threading.Event()
        self._beat_ns = clock.monotonic_ns()
        self._measured_ns = 0
        self._thread = threading.Thread(target=self._run, name="rotator", daemon=True)

    def handlers(self) -> Mapping[str, Handler]:
        """Return a handler per command."""
        it = self._rotator
        return {
            "home": it.home, "goto": it.goto, "offset": it.offset, "choose": it.choose,
            "scan": it.scan, "auto": it.auto, "stop": it.stop, "power": it.power,
            "reset": it.reset, "calibrate": it.calibrate, "log": it.log, "rotator": it.rotator,
        }  # fmt: skip

    def status(self) -> Mapping[str, Any]:
        """Return the snapshot."""
        return self._context.snapshot(self._rotator.status())

    def start(self) -> None:
        """Start the thread that owns motor and encoder."""
        if self._facts is not None:
            self._facts.start()
        self._thread.start()

    def _run(self) -> None:
        clock, wake, period = self._context.clock, self._rotator.wake, self._context.config.poll_s
        next_ns = clock.monotonic_ns()
        while not self._stopping.is_set():
            self._beat_ns = clock.monotonic_ns()
            wake.clear()
            self._rotator.tick()
            if self._beat_ns - self._measured_ns > NS_PER_S:
                self._measured_ns = self._beat_ns
                self._measure()
            next_ns = max(next_ns + round(period * NS_PER_S), clock.monotonic_ns())
            clock.wait(wake, (next_ns - clock.monotonic_ns()) / NS_PER_S)

    def _measure(self) -> None:
        status = self._rotator.status()
        for key, text in _GAUGES.items():
            if status[key] is not None:
                self._context.metrics.gauge(f"rotator_{key}", text, status[key])

    def stop(self, report: Callable[[str], None]) -> None:
        """Stop what moves, then let go."""
        report("stopping the rotator")
        self._stopping.set()
        self._rotator.wake.set()
        if self._facts is not None:
            self._facts.stop()
        if self._thread.is_alive():
            self._thread.join(15)
        self._rotator.close()

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the rotator was last looked after."""
        return heartbeat_age(self._context.clock.monotonic_ns(), self._beat_ns)


def check(config: RotdConfig, registry: Registry) -> Sequence[str]:
    """Return what is doubtful about a valid configuration."""
    warnings = []
    if config.telescope_daemon is not None:
        registry.daemon(config.telescope_daemon)
    elif config.auto.axis in ("ra", "dec", "pa"):
        warnings.append(
            f"auto.axis is {config.auto.axis} and telescope_daemon is not given: every answer to "
            "the telescope would fail"
        )
    step = config.homing.speed_deg_s * config.poll_s
    if step > _NARROW_TAB_DEG:
        warnings.append(
            f"homing.speed_deg_s times poll_s is {step:.2f} deg: a narrow homing tab may be passed "
            "unseen between two readings"
        )
    if isinstance(config.lines, WiredLines) and not config.lines.file.exists():
        warnings.append(f"lines.file: {config.lines.file} does not exist yet")
    return warnings


SPEC = Spec(
    program="rotd", help="The rotator: homes, moves, answers the telescope.",
    config_model=RotdConfig, build=RotatorService, check=check,
)  # fmt: skip
