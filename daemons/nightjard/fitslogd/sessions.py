# SPDX-License-Identifier: BSD-3-Clause
"""What each logger is to do, and a file that remembers it over restarts of the daemon."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from nightjar.errors import InvalidArgument, Refused, StorageError
from nightjar.files import write_json_durably
from nightjard.fitslogd.config import FitslogConfig

log = logging.getLogger(__name__)

Goal = Literal["armed", "saving", "finishing"]
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person chooses when a stream is prepared.

    Attributes
    ----------
    root
        Folder below which the days lie.
    cube_frames, cubes
        Frames per cube; cubes after which a session ends, None for no limit.
    data_type
        Card DATA-TYP.
    compress
        Whether the cubes are compressed.
    """

    root: str
    cube_frames: int
    cubes: int | None
    data_type: str
    compress: bool


@dataclass(frozen=True, slots=True)
class Run:
    """What the logger of a stream is to do; a stream without one is idle.

    Attributes
    ----------
    group
        The group in which it was prepared.
    goal
        armed: prepared, or ended. saving, finishing: until the logger says that it has ended.
    session
        Id of the session; None before the first.
    not_before_ns
        First acquisition time of the session.
    frames, cubes, until_ns
        Its limits; None for none.
    """

    group: str
    settings: Settings
    goal: Goal = "armed"
    session: str | None = None
    not_before_ns: int = 0
    frames: int | None = None
    cubes: int | None = None
    until_ns: int | None = None

    def start_arguments(self, *, resume: bool = False) -> dict[str, Any]:
        """Return the arguments of the logger's command start."""
        value = {
            "session": self.session, "not_before_ns": self.not_before_ns, "frames": self.frames,
            "cubes": self.cubes, "until_ns": self.until_ns,
        }  # fmt: skip
        return {**value, "resume": True} if resume else value


@dataclass(slots=True)
class Memory:
    """All that survives a restart."""

    runs: dict[str, Run] = field(default_factory=dict)
    remembered: dict[str, dict[str, Settings]] = field(default_factory=dict)
    """{group: {stream: what it was prepared with the last time}}."""
    last_sessions: dict[str, str] = field(default_factory=dict)
    """{group: id of its last session}."""
    seen_ns: int = 0
    """When the daemon was last known to live."""


class Store:
    """The file of a :class:`Memory`; safe to save from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def load(self) -> Memory:
        """Return what was saved; what cannot be read is put aside and forgotten."""
        try:
            value = json.loads(self._path.read_bytes())
            if value["version"] != _VERSION:
                raise ValueError(f"its version is {value['version']!r}")
            return Memory(
                {name: _run(entry) for name, entry in value["runs"].items()},
                {
                    group: {name: _made(Settings, entry) for name, entry in streams.items()}
                    for group, streams in value["remembered"].items()
                },
                {str(group): str(last) for group, last in value["last_sessions"].items()},
                int(value["seen_ns"]),
            )
        except FileNotFoundError:
            return Memory()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            aside = self._path.with_suffix(".unreadable")
            log.error("sessions are forgotten: %s: %s; kept as %s", self._path, error, aside)
            try:
                os.replace(self._path, aside)
            except OSError as failure:
                log.error("%s cannot be put aside: %s", self._path, failure)
            return Memory()

    def save(self, memory: Memory) -> None:
        """Replace the file.

        Raises
        ------
        StorageError
            It cannot be written.
        """
        value = {"version": _VERSION, **asdict(memory)}
        with self._lock:
            try:
                write_json_durably(self._path, value)
            except OSError as error:
                raise StorageError(
                    f"sessions cannot be kept in {self._path}: {error.strerror}"
                ) from error


_Kind = TypeVar("_Kind")


def _made(kind: type[_Kind], value: Mapping[str, Any]) -> _Kind:
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: item for key, item in value.items() if key in names})


def _run(value: Mapping[str, Any]) -> Run:
    return _made(Run, {**value, "settings": _made(Settings, value["settings"])})


def chosen_root(config: FitslogConfig, archive: bool, directory: str | None) -> str:
    """Return the folder that a person chose to save into.

    Parameters
    ----------
    config
        Names the folders that may be chosen.
    archive, directory
        The archive's; or one named, from :attr:`FitslogConfig.save_root` where it is relative.

    Raises
    ------
    Refused
        It is not in one of the configured folders: a client's text is no path before that.
    InvalidArgument
        Both are given.
    """
    if archive and directory is not None:
        raise InvalidArgument("give archive or a directory, not both")
    if archive:
        return str(config.archive_root)
    if directory is None:
        return str(config.save_root)
    if "\0" in directory:
        raise Refused("directory: there is a NUL in it")
    path = Path(os.path.normpath(config.save_root / directory))
    if not any(path.is_relative_to(root) for root in config.roots()):
        allowed = ", ".join(map(str, config.roots()))
        raise Refused(
            f"directory {path}: may lie in {allowed} or below; others are added as further_roots",
            path=str(path),
        )  # fmt: skip
    return str(path)


def make_folders(config: FitslogConfig, chosen: str) -> None:
    """Make the folder to save into, and the configured ones, where what they lie in is there.

    What cannot be made shows in the loggers' own look at the folder.
    """
    with contextlib.suppress(OSError):
        for root in config.roots():
            if root.parent.is_dir():
                root.mkdir(exist_ok=True)
        if any(root.is_dir() and Path(chosen).is_relative_to(root) for root in config.roots()):
            Path(chosen).mkdir(parents=True, exist_ok=True)


def logger_settings(config: FitslogConfig, stream: str, settings: Settings) -> dict[str, Any]:
    """Return the settings of the logger's command prepare."""
    cards = {**config.cards, **config.streams[stream].cards}
    return {
        "root": settings.root, "cube_frames": settings.cube_frames, "names": config.names,
        "folders": config.folders, "noon_utc_hours": config.noon_utc_hours,
        "compress": settings.compress, "text": config.text, "fsync": config.fsync,
        "data_type": settings.data_type,
        "cards": {key: list(card) for key, card in cards.items()},
        "max_cube_seconds": config.max_cube_seconds,
        "minimum_free_bytes": config.minimum_free_bytes, "local_name": config.local_name,
        "local_offset_hours": config.local_offset_hours,
        "stamps": config.streams[stream].stamps,
    }  # fmt: skip
