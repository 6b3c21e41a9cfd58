# SPDX-License-Identifier: BSD-3-Clause
"""The thin face of the FITS loggers on the network, and what they need of the machine."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightjar.api.commands import Command
from nightjar.api.fitslog import COMMANDS
from nightjar.api.states import Level, Summary
from nightjar.child import Child
from nightjar.daemon import Context, Spec, heartbeat_age
from nightjar.errors import NightjarError, StorageError
from nightjar.rpc.client import Client
from nightjar.rpc.server import Handler
from nightjar.streams.inspect import describe
from nightjar.times import iso
from nightjard.fitslogd.announcer import Announcer
from nightjard.fitslogd.changes import ChangeCommands
from nightjard.fitslogd.commands import SessionCommands
from nightjard.fitslogd.config import FitslogConfig, check
from nightjard.fitslogd.model import LoggerGroups
from nightjard.fitslogd.sessions import Store
from nightjard.fitslogd.worker import Message, Process
from nightjard.fitslogd.world import World

log = logging.getLogger(__name__)

TICK_S = 0.1
LOGGER = "nightjard.fitslogd.logger"
_CAMERA_TIMEOUT_S = 2.0
_ARCHIVE_TIMEOUT_S = 5.0
_ALIVE_S = 2.0
_METRICS_TICKS = 10
_COUNTED = {
    "frames": "Frames in finished cubes",
    "missed": "Frames lost",
    "torn": "Frames overwritten while they were read",
    "size": "Bytes of finished cubes",
}
_GAUGED = {
    "rate_hz": "Frames per second",
    "ring_unread": "Frames in the ring that are not saved yet",
    "write_mb_s": "Megabytes written per second",
    "free_bytes": "Space left, bytes",
    "closing": "Files that are being finished",
    "restarts": "Times that the logger died and was restarted",
}


class FitslogService:
    """Carries :class:`nightjard.fitslogd.model.LoggerGroups`."""

    commands: Sequence[Command] = COMMANDS

    def __init__(self, context: Context[FitslogConfig]) -> None:
        self._context = context
        self._config = context.config
        self._loggers_state = context.state / "loggers"
        self._cameras: dict[str, Client] = {}
        world = World(
            self._make, self._look, self._tell_camera, self._say, self._count_cube
        )
        self._model = LoggerGroups(
            context.config, world, context.clock, context.health, context.operations,
            Store(context.state / "sessions.json"),
        )  # fmt: skip
        self._sessions = SessionCommands(self._model)
        self._changes = ChangeCommands(self._model)
        self._announcer = self._make_announcer()
        self._stopping = threading.Event()
        self._beat_ns = context.clock.monotonic_ns()
        self._ticks = 0
        self._thread = threading.Thread(target=self._run, name="fitslogd", daemon=True)

    # --- what the model needs -------------------------------------------------------------------

    def _make(
        self, stream: str, on_message: Callable[[Message], None], on_end: Callable[[str], None]
    ) -> Process:
        folder = self._loggers_state / stream
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.error("the folder %s cannot be made: %s", folder, error.strerror)
        known = [str(root) for root in self._config.roots()]
        kept = [run.settings.root for run in self._model.ledger.runs().values()]
        options = {
            "stream": stream, "state": str(folder), "host": socket.gethostname(),
            "roots": list(dict.fromkeys([*known, *kept])), "log_name": self._config.log_name,
        }  # fmt: skip
        return Child(
            f"logger of {stream}", LOGGER, [json.dumps(options)], on_message=on_message,
            on_end=on_end,
        )  # fmt: skip

    def _look(self, stream: str) -> Mapping[str, Any]:
        try:
            info = describe(stream, clock=self._context.clock)
        except NightjarError:
            return {"is_alive": False}
        return {
            "shape": list(info.shape), "dtype": info.dtype, "frame_bytes": info.frame_bytes,
            "ring_depth": info.depth if info.is_rolling else 1, "rate_hz": info.rate_hz,
            "age_s": info.age_s,
            "is_alive": info.is_owner_alive and info.age_s is not None and info.age_s < _ALIVE_S,
        }  # fmt: skip

    def _tell_camera(self, camera: str, data_type: str) -> None:
        client = self._cameras.get(camera)
        if client is None:
            entry = self._context.registry.daemon(camera)
            client = self._cameras[camera] = Client(entry, _CAMERA_TIMEOUT_S)
        try:
            client.call("set_data_type", {"data_type": data_type}, is_safe=True)
        finally:
            client.close()  # connections belong to threads, and this one ends

    def _say(self, level: str, text: str) -> None:
        obslog = self._context.obslog
        tell = {"warning": obslog.warning, "error": obslog.error}.get(level, obslog.info)
        tell(text)

    def _count_cube(self, stream: str, message: Mapping[str, Any]) -> None:
        metrics = self._context.metrics
        metrics.count("fitslog_cubes_total", "Cubes finished", stream=stream)
        for key, text in _COUNTED.items():
            name = f"fitslog_{'bytes' if key == 'size' else key}_total"
            metrics.count(name, text, message.get(key) or 0, stream=stream)

        path = message.get("path")
        if self._announcer is not None and isinstance(path, str):
            self._announcer.add(Path(path), stream, int(message.get("size") or 0))

    def _make_announcer(self) -> Announcer | None:
        config = self._config
        if config.archive_daemon is None:
            return None
        client = Client(self._context.registry.daemon(config.archive_daemon), _ARCHIVE_TIMEOUT_S)
        roots = {
            config.archive_family: config.archive_root, config.save_family: config.save_root
        }

        def notify(cube: dict[str, str | int]) -> None:
            client.call("notify_cube", dict(cube), is_safe=True)

        return Announcer(notify, roots, self._context.clock)

    def _gauge(self) -> None:
        if self._announcer is not None:
            self._context.metrics.gauge(
                "fitslog_unannounced", "Cubes that the archive was not told of yet",
                self._announcer.waiting,
            )  # fmt: skip
        for stream, view in self._model.views().items():
            for key, text in _GAUGED.items():
                if view.get(key) is not None:
                    self._context.metrics.gauge(
                        f"fitslog_{key}", text, view[key], stream=stream
                    )

    # --- what the runtime needs -----------------------------------------------------------------

    def handlers(self) -> Mapping[str, Handler]:
        """Return a handler per command."""
        sessions, changes = self._sessions, self._changes
        return {
            "prep": sessions.prep, "start": sessions.start, "pause": sessions.pause,
            "stop": sessions.stop, "set": changes.set, "type": changes.type,
            "groups": changes.groups, "advice": changes.advice, "cubes": changes.cubes,
        }  # fmt: skip

    def status(self) -> Mapping[str, Any]:
        """Return the snapshot."""
        context, model = self._context, self._model.status()
        health = context.health.snapshot()
        if model["state"] == "STOPPING":
            summary = Summary.STOPPING
        elif any(v["state"] in ("saving", "finishing") for v in model["streams"].values()):
            summary = Summary.BUSY
        elif health["level"] == Level.FAILED.name:
            summary = Summary.FAULT
        else:
            summary = Summary.READY
        return {
            "time": iso(context.clock.now_ns()), "daemon": context.entry.name,
            "summary": summary.name, "health": health, **model,
        }  # fmt: skip

    def start(self) -> None:
        """Start the loggers."""
        try:
            self._loggers_state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"the folder {self._loggers_state} cannot be made: {error.strerror}"
            ) from error
        self._model.start()
        if self._announcer is not None:
            self._announcer.start()
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._beat_ns = self._context.clock.monotonic_ns()
            try:
                self._model.tick()
                self._ticks += 1
                if self._ticks % _METRICS_TICKS == 0:
                    self._gauge()
            except Exception:  # the loggers go on whatever is wrong with looking after them
                log.exception("looking after the loggers failed")
            self._context.clock.wait(self._stopping, TICK_S)

    def stop(self, report: Callable[[str], None]) -> None:
        """End the loggers: each closes its cube."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self._model.stop(report, self._context.hurry)
        if self._announcer is not None:
            self._announcer.stop()

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the loggers were last looked after."""
        return heartbeat_age(self._context.clock.monotonic_ns(), self._beat_ns)


SPEC = Spec(
    program="fitslogd",
    help="FITS loggers: save streams of frames as FITS cubes.",
    config_model=FitslogConfig,
    build=FitslogService,
    check=check,
)
