# SPDX-License-Identifier: BSD-3-Clause
"""A camera model on a bench: simulated detector, manual clock, no threads, no daemons.

The test is the owner thread: it steps the model and moves the clock. What the detector is asked is
recorded, and any of its calls can be made to fail.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nightjar.clock import NS_PER_S, ManualClock
from nightjar.health import Health
from nightjar.operations import Operation, Operations
from nightjard.camd.config import CameraConfig
from nightjard.camd.counter import FrameCounter
from nightjard.camd.drivers.base import FrameRecord
from nightjard.camd.drivers.options import SimulatedOptions
from nightjard.camd.drivers.simulated import SimulatedDetector
from nightjard.camd.model import Camera
from nightjard.camd.ring import FrameRing

WIDTH, HEIGHT = 32, 24
FRAME_BYTES = 2 * WIDTH * HEIGHT


def camera_values(folder: Path, driver: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Return the values of a small, quick simulated camera's configuration file."""
    simulated = {
        "name": "simulated", "isolated": False, "width": WIDTH, "height": HEIGHT,
        "readout_time": 0.1, **(driver or {}),
    }  # fmt: skip
    return {
        "daemon": "camera", "pipeline_daemon": None, "pipeline_handover_timeout": 1,
        "log_name": "camd@test", "control_machines": ["LocalHost"], "camera_serial": 12345,
        "cooler_setpoint": None, "cooler_update_delay": 1, "cooler_pwm_step": 3,
        "worker_processes": 1, "framebuffer_bytes": 4 * FRAME_BYTES, "gain": 26,
        "header_card_capacity": 144, "camera_id": "TEST", "output_path": str(folder),
        "output_prefix": "test", "expcount_path": str(folder / "counter.json"),
        "driver": simulated, "exposure": 1.0, "minimum_free_bytes": 0, **changes,
    }  # fmt: skip


def camera_config(folder: Path, driver: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Return that configuration, validated."""
    return CameraConfig.model_validate_json(json.dumps(camera_values(folder, driver, **changes)))


class ScriptedDetector:
    """A detector that passes every call on, records it, and fails where the test says so.

    Attributes
    ----------
    calls
        How often each call was made.
    failures
        Call -> the errors that its next calls raise, in order; None lets one pass.
    always
        Call -> the error that it raises every time.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, list[Exception | None]] = {}
        self.always: dict[str, Exception] = {}
        self.pwm: list[tuple[int, int]] = []
        self.targets: list[float | None] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            queued = self.failures.get(name)
            error = queued.pop(0) if queued else self.always.get(name)
            if error is not None:
                raise error
            if name == "set_cooler_target":
                self.targets.append(arguments[0])
            if name == "set_cooler_power":
                self.pwm.append((self.inner._clock.monotonic_ns(), arguments[0]))
            return method(*arguments)

        return call


class Recorder:
    """Where the model's frames and news go; frames are "saved" when the test lets them."""

    def __init__(self) -> None:
        self.camera: Camera
        self.is_saving = True
        self.is_handed_over = True
        self.unsaved: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.expected: list[Path] = []
        self.said: list[str] = []
        self.errors: list[str] = []

    def submit(self, job: dict[str, Any]) -> None:
        self.jobs.append(job)
        self.unsaved.append(job)
        if self.is_saving:
            self.save_one()

    def save_one(self) -> None:
        job = self.unsaved.pop(0)
        assert self.camera.ring is not None
        self.camera.ring.release(job["slot"])

    def expect(self, path: Path) -> None:
        self.expected.append(path)

    def is_drained(self) -> bool:
        return not self.unsaved and self.is_handed_over

    def on_frame(self, job: dict[str, Any], record: FrameRecord) -> None:
        pass

    def info(self, text: str) -> None:
        self.said.append(text)

    def warning(self, text: str) -> None:
        self.info(text)

    def error(self, text: str) -> None:
        self.errors.append(text)


class Bench:
    """One camera model and all that it touches."""

    def __init__(
        self, folder: Path, driver: dict[str, Any] | None = None, **changes: Any
    ) -> None:
        self.clock = ManualClock()
        self.config = camera_config(folder, driver, **changes)
        assert isinstance(self.config.driver, SimulatedOptions)
        self.detector = ScriptedDetector(
            SimulatedDetector(self.config.driver, self.config.camera_serial, self.clock)
        )
        self.outlets = Recorder()
        self.health = Health(self.clock.now_ns)
        self.operations = Operations(self.clock)
        self.camera = Camera(
            self.config, self.detector, self.make_ring, self.make_counter, self.outlets,
            self.clock, self.health, self.operations,
        )  # fmt: skip
        self.outlets.camera = self.camera

    def make_ring(self, shape: tuple[int, int]) -> FrameRing:
        return FrameRing("TEST", shape, self.config.framebuffer_bytes, self.clock)

    def make_counter(self) -> FrameCounter:
        return FrameCounter(self.config.expcount_path, self.clock)

    # ---------------------------------------------------------------- moving on

    def until(self, check: Callable[[], Any], limit_s: float = 60.0) -> float:
        """Step and advance the clock until `check` holds; returns the seconds that it took."""
        begun = self.clock.monotonic_ns()
        while not check():
            spent_s = (self.clock.monotonic_ns() - begun) / NS_PER_S
            assert spent_s <= limit_s, f"not within {limit_s} s; {self.status}"
            pause_s = self.camera.step()
            self.clock.advance(min(max(pause_s, 0.001), 0.25))
        return (self.clock.monotonic_ns() - begun) / NS_PER_S

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.clock.monotonic_ns() + round(seconds * NS_PER_S)
        self.until(lambda: self.clock.monotonic_ns() >= end, seconds + 1)

    def finish(self, operation: Operation, limit_s: float = 60.0) -> dict[str, Any]:
        """Run until an operation has ended; returns its snapshot."""
        self.until(lambda: operation.is_done, limit_s)
        return operation.snapshot()

    def init(self) -> Bench:
        """Initialize the camera, which must work."""
        snapshot = self.finish(self.camera.init())
        assert snapshot["state"] == "done", snapshot
        return self

    def take(self, count: int, delay_s: float = 0.0, limit_s: float = 60.0) -> dict[str, Any]:
        """Take a sequence."""
        return self.finish(self.camera.start(count, delay_s), limit_s)

    def until_state(self, *states: str) -> None:
        """Run until the camera is in one of the states."""
        self.until(lambda: self.status["state"] in states)

    # ---------------------------------------------------------------- what is seen

    @property
    def status(self) -> dict[str, Any]:
        return self.camera.status()

    @property
    def headers(self) -> list[dict[str, Any]]:
        """The header values of the frames in order."""
        return [job["header"] for job in self.outlets.jobs]

    @property
    def unended(self) -> list[Operation]:
        return self.operations.running()
