# SPDX-License-Identifier: BSD-3-Clause
"""Parts for tests of the fast camera: a clock that sleeps at once, a grabber without a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nightjar.clock import ManualClock
from nightjar.errors import NightjarError, Unreachable
from nightjard.camd.fast.sensor import crops_of


class SleepingClock(ManualClock):
    """A manual clock for one thread: sleeping moves it forward."""

    def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))


def vcam_config(**changes: Any) -> dict[str, Any]:
    """Return the configuration of a fast simulated camera with small frames and rings."""
    return {
        "daemon": "camera", "mode": "stream", "log_name": "camd@vcam1",
        "control_machines": ["LocalHost"], "camera_id": "VCAM1", "stream": "vcam1",
        "ring_seconds": 1.0, "ring_bytes": 40_000_000, "crop": "ONEARC", "rate": 100.0,
        "grabber_timeout": 1.0, **changes,
    }  # fmt: skip


GEOMETRY = {
    "shape": [184, 184], "window": [1957, 2140, 1061, 1244], "exposure_s": 0.001,
    "max_rate_hz": 1000.0, "rate_hz": 100.0, "readout_s": 0.0007, "pixel_type": "uint16",
    "depth": 100, "frame_bytes": 67712, "path": "/dev/shm/x/vcam1.im.shm", "is_new": True,
    "seconds": 0.1, "is_streaming": False,
}  # fmt: skip


class FakeGrabber:
    """A grabber process as the model sees it; a test says what it answers.

    Attributes
    ----------
    asked
        ``(command, arguments)`` in order.
    answers
        Command -> value, error, or function of the arguments.
    """

    made: list[FakeGrabber]

    def __init__(
        self, on_message: Callable[[dict[str, Any]], None], on_end: Callable[[str], None]
    ) -> None:
        self._on_message, self._on_end = on_message, on_end
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.is_alive = False
        self.was_killed = False
        self.lived_s = 1.0
        self.pid = 4711
        self.answers: dict[str, Any] = {
            "open": {
                "model": "Fake", "serial": "7", "sensor": [4096, 2304],
                "crops": {name: [r.x1, r.x2, r.y1, r.y2] for name, r in crops_of(1).items()},
                "readout_modes": ["FAST", "SLOW"], "exposure_s": [1e-5, 10.0],
                "rate_hz": [0.1, 2000.0], "has_external_trigger": True,
                "telemetry": {"temperature_c": -20.0, "flc": True, "flc_half_width_us": 500},
            },
            "configure": lambda arguments: {
                **GEOMETRY, "window": arguments["settings"]["region"],
                "exposure_s": arguments["settings"]["exposure_s"],
                "rate_hz": arguments["settings"]["rate_hz"] or 1000.0,
            },
            "start": None, "stop": {"count": 5, "reason": "stopped"}, "set_keywords": None,
            "close": None,
        }  # fmt: skip

    def start(self) -> None:
        self.is_alive = True

    def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 5.0
    ) -> Any:
        if not self.is_alive:
            raise Unreachable("the grabber is not running")
        self.asked.append((command, dict(arguments or {})))
        answer = self.answers[command]
        if isinstance(answer, NightjarError):
            raise answer
        return answer(dict(arguments or {})) if callable(answer) else answer

    def commands(self) -> list[str]:
        return [command for command, _ in self.asked]

    def stop(self, timeout_s: float) -> None:
        self.is_alive = False

    def kill(self) -> None:
        self.was_killed = True
        self.is_alive = False

    # What the process would do by itself.

    def tell(self, message: dict[str, Any]) -> None:
        self._on_message(message)

    def die(self, how: str = "ended by SIGKILL") -> None:
        self.is_alive = False
        self._on_end(how)
