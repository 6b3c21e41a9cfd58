# SPDX-License-Identifier: BSD-3-Clause
"""What the model of groups needs of the world, and what a command is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nightjard.fitslogd.crew import Spawn, spawn_thread
from nightjard.fitslogd.ledger import Say
from nightjard.fitslogd.worker import MakeProcess

Facts = Mapping[str, Any]
Results = dict[str, dict[str, Any]]


def no_count(stream: str, message: Mapping[str, Any]) -> None:
    """Count nothing."""


@dataclass(frozen=True)
class World:
    """What the model needs of the world around it.

    Attributes
    ----------
    make
        Makes a logger process.
    look
        Returns what a stream says of itself: shape, dtype, frame_bytes, rate_hz, age_s,
        is_alive; nothing where there is none. Never waits.
    tell_camera
        Tells a camera daemon the data type; raises NightjarError.
    say
        Tells the observatory log.
    count_cube
        Called with the stream and the message of each file.
    spawn
        Runs what must not be waited for.
    """

    make: MakeProcess
    look: Callable[[str], Facts]
    tell_camera: Callable[[str, str], None]
    say: Say
    count_cube: Callable[[str, Mapping[str, Any]], None] = no_count
    spawn: Spawn = spawn_thread


@dataclass
class Chosen:
    """The streams of one command."""

    group: str
    streams: tuple[str, ...]
    is_named: bool
    """Whether somebody named them; else they are all of the group."""
    target: str
    results: Results = field(default_factory=dict)
    message: str = ""


Work = Callable[[Chosen], bool | None]
"""A command's work. Returns what its end waits for: True for the last files to have their names,
False for nothing more to be saved, None for nothing."""
