# SPDX-License-Identifier: BSD-3-Clause
"""The RPC face of a fast camera: checks, the model, and what lies around it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nightjar.api.commands import Command
from nightjar.api.fast_camera import COMMANDS, CONFIGURE_KEYS
from nightjar.child import Child
from nightjar.daemon import Context, heartbeat_age
from nightjar.errors import InvalidArgument, NightjarError
from nightjar.files import locked
from nightjar.operations import Operation
from nightjar.rpc.server import Handler
from nightjar.streams.inspect import describe
from nightjar.times import iso
from nightjard.camd.fast.config import FastCameraConfig
from nightjard.camd.fast.link import Process
from nightjard.camd.fast.model import MAKE_TIMEOUT_S, FastCamera
from nightjard.camd.ring import lock_path

GRABBER = "nightjard.camd.fast.grabber"
_READERS_PERIOD_S = 1.0
_QUICK_KEYS = frozenset({"exposure", "rate", "trigger", "data_type"})


class FastCameraService:
    """A fast camera daemon's service; see :class:`nightjar.daemon.Service`."""

    def __init__(self, context: Context[FastCameraConfig]) -> None:
        self._context = context
        self.config = context.config
        # Two daemons of other names must not share a camera.
        self._camera_lock = contextlib.ExitStack()
        self._camera_lock.enter_context(
            locked(lock_path(self.config.camera_id), f"a daemon of camera {self.config.camera_id}")
        )
        self.commands: Sequence[Command] = COMMANDS
        self._table = {command.name: command for command in COMMANDS}
        self._readers = 0
        self._ending = threading.Event()
        self.camera = FastCamera(
            self.config, self._make_grabber, context.obslog.info, context.clock, context.health,
            context.operations,
        )  # fmt: skip
        self._looker = threading.Thread(target=self._look, name="readers", daemon=True)

    def _make_grabber(
        self, on_message: Callable[[dict[str, Any]], None], on_end: Callable[[str], None]
    ) -> Process:
        config = self.config
        options = {
            "source": config.source.model_dump(mode="json"),
            "priority": config.realtime_priority,
            "cpus": list(config.cpus) if config.cpus else None,
        }
        return Child(
            f"grabber of {config.stream}", GRABBER, [json.dumps(options)],
            on_message=on_message, on_end=on_end,
        )  # fmt: skip

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """Start the owner thread, and the camera where that is configured."""
        self.camera.start_thread()
        self._looker.start()

    def stop(self, report: Callable[[str], None]) -> None:
        """Stop streaming and remove the stream."""
        self._ending.set()
        self.camera.close_for_exit(report)
        lock_path(self.config.camera_id).unlink(missing_ok=True)
        self._camera_lock.close()

    def heartbeat_age_s(self) -> float:
        """Return the age of the owner thread's last turn, beyond what asking may take."""
        age_s = heartbeat_age(self._context.clock.monotonic_ns(), self.camera.beat_ns)
        patience_s = self.config.open_timeout + MAKE_TIMEOUT_S if self.camera.is_asking else 0.0
        return max(0.0, age_s - patience_s)

    def _look(self) -> None:
        """Watch the grabber, and count the stream's readers: a look at a file, not for a status."""
        while not self._ending.is_set():
            self.camera.watch()
            path = self.camera.stream_path
            try:
                readers = describe(path).readers if path else ()
                self._readers = sum(1 for each in readers if each.is_alive)
            except NightjarError:
                self._readers = 0
            self._note_metrics()
            self._context.clock.wait(self._ending, _READERS_PERIOD_S)

    def _note_metrics(self) -> None:
        status = self.camera.status()
        metrics = self._context.metrics
        metrics.gauge("fast_camera_rate_hz", "Measured frame rate", status["rate"])
        metrics.gauge("fast_camera_frames_lost", "Frames lost by the camera", status["frames_lost"])

    # ---------------------------------------------------------------- commands

    def handlers(self) -> Mapping[str, Handler]:
        """Return a handler per command of the table."""
        camera = self.camera
        return {
            "init": lambda: _operation(camera.init()),
            "shutdown": lambda: _operation(camera.shutdown()),
            "start": lambda count: _operation(camera.start(count)),
            "stop": camera.stop,
            "abort": lambda: _operation(camera.abort()),
            "set_exposure": lambda seconds: camera.set({"exposure": seconds}),
            "set_rate": lambda hertz: camera.set({"rate": hertz}),
            "set_trigger": lambda external: camera.set({"trigger": external}),
            "set_crop": lambda crop, window: _operation(
                camera.reshape({"crop": crop, "window": window}, "set_crop")
            ),
            "set_readout_mode": lambda mode: _operation(
                camera.reshape({"readout_mode": mode}, "set_readout_mode")
            ),
            "set_data_type": lambda data_type: camera.set({"data_type": data_type}),
            "set_keyword": self._set_keyword,
            "configure": self._configure,
        }

    def _set_keyword(self, name: str, value: list[Any], comment: str | None) -> None:
        if len(value) != 1:
            raise InvalidArgument(f"set_keyword: value must be a list of one, not {len(value)}")
        self.camera.set_keyword(name, value[0], comment)

    def _configure(self, settings: dict[str, Any]) -> dict[str, str]:
        for key, value in settings.items():
            if key not in CONFIGURE_KEYS:
                known = ", ".join(CONFIGURE_KEYS)
                raise InvalidArgument(f"configure: unknown key {key!r}; known: {known}")
            command, parameter = CONFIGURE_KEYS[key]
            described = next(p for p in self._table[command].parameters if p.name == parameter)
            described.check(value)
        if not settings:
            raise InvalidArgument("configure: nothing to set")
        return _operation(self.camera.reshape(settings, "configure"))

    def status(self) -> Mapping[str, Any]:
        """Return the snapshot; see :data:`nightjar.api.fast_camera.STATUS_KEYS`."""
        return {
            "time": iso(self._context.clock.now_ns(), 3),
            "daemon": self.config.daemon,
            "pid": os.getpid(),
            **self.camera.status(),
            "readers": self._readers,
        }


def _operation(operation: Operation) -> dict[str, str]:
    return {"operation": operation.id}


