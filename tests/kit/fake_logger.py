# SPDX-License-Identifier: BSD-3-Clause
"""A logger process that is none: the states of the real one, told at once, and faults on demand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nightjar.api.states import Level
from nightjar.clock import ManualClock
from nightjar.errors import NightjarError, TimedOut, Unreachable
from nightjar.health import Health
from nightjar.operations import Operations
from nightjard.fitslogd.changes import ChangeCommands
from nightjard.fitslogd.commands import SessionCommands
from nightjard.fitslogd.config import FitslogConfig
from nightjard.fitslogd.model import LoggerGroups
from nightjard.fitslogd.sessions import Store
from nightjard.fitslogd.world import World

Message = dict[str, Any]


class FakeLogger:
    """Of one stream; `asked` is what it was told, over all its lives."""

    def __init__(
        self, stream: str, on_message: Callable[[Message], None], on_end: Callable[[str], None],
        room: FakeRoom,
    ) -> None:  # fmt: skip
        self.stream = stream
        self.pid = room.next_pid()
        self.is_alive = False
        self.lived_s = 1.0
        self.is_stuck = False
        """It takes commands and obeys later: see :meth:`free`."""
        self._say, self._on_end, self._room = on_message, on_end, room
        self._late: list[Callable[[], None]] = []
        self.state: Message = {
            "state": "idle", "stream": stream, "session": None, "last_session": None, "over": None,
            "shape": [536, 536], "dtype": "uint16", "rate_hz": 500.0, "ring_depth": 2500,
            "ring_unread": 0, "is_alive": True, "frames_saved": 0, "missed": 0, "torn": 0,
            "cube_index": 0, "cube_count": 0, "closing": 0, "warning": None, "error": None,
        }  # fmt: skip

    # --- as a process ---

    def start(self) -> None:
        self.is_alive = True
        self._room.loggers[self.stream] = self
        self.tell()

    def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 5.0
    ) -> Message:
        if not self.is_alive:
            raise Unreachable(f"logger of {self.stream} is not running")
        given = dict(arguments or {})
        self._room.asked.append((self.stream, command, given))
        failure = self._room.failures.get((self.stream, command))
        if isinstance(failure, TimedOut):
            raise failure
        if failure is not None:
            raise failure
        if self.is_stuck:
            self._late.append(lambda: self._obey(command, given))
            return {**self.state, "pending": True}
        self._obey(command, given)
        return {**self.state, "pending": False}

    def stop(self, timeout_s: float) -> None:
        self._room.ended.append(self.stream)
        self.is_alive = False

    def kill(self) -> None:
        self.is_alive = False

    # --- what happens to it ---

    def die(self, how: str = "ended by SIGKILL") -> None:
        """End as nobody wanted."""
        self.is_alive = False
        self._on_end(how)

    def free(self) -> None:
        """Carry out what had to wait."""
        self.is_stuck = False
        for each in self._late:
            each()
        self._late.clear()
        self.tell()

    def change(self, **values: Any) -> None:
        """Be in another state, and say so."""
        self.state |= values
        self.tell()

    def end_session(self, frames: int = 0) -> None:
        """Have saved enough."""
        self.change(state="armed", session=None, over=self.state["session"],
                    frames_saved=frames, cube_index=0)  # fmt: skip

    def tell(self) -> None:
        self._say({"event": "status", **self.state})

    def _obey(self, command: str, given: Message) -> None:
        state = self.state
        if command == "prepare":
            state |= {"state": "armed", "cube_frames": given["cube_frames"]}
        elif command == "start":
            session = given["session"]
            if session == state["last_session"]:
                return  # the same command again
            state |= {"state": "saving", "session": session, "last_session": session}
            state |= {"frames_saved": self._room.first_frames}
        elif command == "pause" and state["session"]:
            state |= {"state": "finishing"}
        elif command == "set":
            state |= {key: given[key] for key in ("cube_frames",) if key in given}
        elif command == "release":
            state |= {"state": "idle", "session": None}


class FakeRoom:
    """A model of groups with fake loggers, a clock by hand, and no thread."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.clock = ManualClock()
        self.clock.sleep = self.clock.advance  # type: ignore[method-assign]
        self.first_frames = 1
        """What a logger has saved when it has begun."""
        self.loggers: dict[str, FakeLogger] = {}
        self.asked: list[tuple[str, str, Message]] = []
        self.ended: list[str] = []
        self.failures: dict[tuple[str, str], NightjarError] = {}
        self.streams_seen: dict[str, Message] = {
            name: {"shape": [536, 536], "dtype": "uint16", "frame_bytes": 574592}
            for name in ("vcam1", "vcam2", "pupil")
        }
        self.cameras_told: list[tuple[str, str]] = []
        self.camera_failure: NightjarError | None = None
        self.said: list[tuple[str, str]] = []
        self._pids = 100
        self.folder = folder
        value = {
            "daemon": "fitslog", "log_name": "fitslogd", "control_machines": ["LocalHost"],
            "streams": {"vcam1": {"camera": "cam1"}, "vcam2": {}, "pupil": {}},
            "groups": {"vcam": ["vcam1", "vcam2"]}, "save_root": str(folder / "data"),
            "archive_root": str(folder / "archive"), **config,
        }  # fmt: skip
        self.config = FitslogConfig.model_validate_json(json.dumps(value))
        self.begin()

    def next_pid(self) -> int:
        self._pids += 1
        return self._pids

    def begin(self) -> None:
        """Begin a life of the daemon, with what the one before left."""
        self.health = Health(self.clock.now_ns)
        self.operations = Operations(self.clock)
        world = World(
            lambda stream, say, over: FakeLogger(stream, say, over, self),
            lambda stream: self.streams_seen.get(stream, {}), self._tell_camera,
            lambda level, text: self.said.append((level, text)),
            spawn=lambda function, name: function(),
        )  # fmt: skip
        self.model = LoggerGroups(
            self.config, world, self.clock, self.health, self.operations,
            Store(self.folder / "sessions.json"),
        )  # fmt: skip
        self.sessions = SessionCommands(self.model)
        self.changes = ChangeCommands(self.model)
        self.asked.clear()
        self.model.start()

    def _tell_camera(self, camera: str, data_type: str) -> None:
        if self.camera_failure is not None:
            raise self.camera_failure
        self.cameras_told.append((camera, data_type))

    # --- commands with the defaults of their tables ---

    def prep(self, group: str = "vcam", **given: Any) -> Message:
        defaults: Message = {
            "cube_frames": 100, "cubes": None, "streams": (), "archive": False,
            "data_type": "OBJECT", "directory": None, "compress": None, "partial": False,
        }  # fmt: skip
        reply: Message = self.sessions.prep(group, **{**defaults, **given})
        return reply

    def start(self, group: str = "vcam", **given: Any) -> Message:
        defaults: Message = {
            "streams": (), "frames": None, "cubes": None, "until": None, "partial": False,
        }  # fmt: skip
        reply: Message = self.sessions.start(group, **{**defaults, **given})
        return reply

    def pause(self, group: str = "vcam", **given: Any) -> Message:
        defaults: Message = {"streams": (), "finish": False, "wait": False}
        reply: Message = self.sessions.pause(group, **{**defaults, **given})
        return reply

    def stop(self, group: str = "vcam", *, kill: bool = False, streams: Any = ()) -> Message:
        reply: Message = self.sessions.stop(group, streams, kill)
        return reply

    def tick(self, seconds: float = 0.1, times: int = 1) -> None:
        """Let time pass and have the model look."""
        for _ in range(times):
            self.clock.advance(seconds)
            self.model.tick()

    def states(self, group: str = "vcam") -> dict[str, str]:
        views = self.model.views(self.model.groups[group])
        return {name: view["state"] for name, view in views.items()}

    def orders(self, command: str) -> dict[str, Message]:
        """Return the last arguments of a command by stream."""
        return {stream: given for stream, name, given in self.asked if name == command}

    def level(self, stream: str) -> Level:
        return self.health.level_of(f"logger {stream}")
