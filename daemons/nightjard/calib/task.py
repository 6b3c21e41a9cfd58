# SPDX-License-Identifier: BSD-3-Clause
"""What the analysis of a test consists of, and which module has it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nightjar.config.load import StrictModel
from nightjard.calib.work import Work

#: Measures more of a frame while the common check has its pixels in memory. Called in a worker as
#: ``f(frame, arguments) -> plain values`` with :class:`nightjard.calib.frames.Frame`.
FrameCheck = Callable[[Any, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Subtask:
    """A step of an analysis: its name in the todo flags, what it does.

    Attributes
    ----------
    version
        Raised where its findings change for the same input: what was done before is done again.
    drill
        Called in its place in a drill, where there are no pixels: exercises figures, tables and
        report with made-up values. Without it the sub-task is left out of a drill.
    """

    name: str
    function: Callable[[Work], None]
    title: str
    version: int = 1
    drill: Callable[[Work], None] | None = None


@dataclass(frozen=True)
class Task:
    """The analysis of one kind of test.

    Attributes
    ----------
    subtasks
        In order. ``check`` is among them; ``lock`` stands before it where there are spots.
    frame_check
        Called for every frame by the common check.
    frame_check_arguments
        Gives the arguments of `frame_check` for a CCD: the spots to measure, say.
    judge
        Judges what `frame_check` found, within ``check``: ``judge(work, found)`` with
        ``found[(obsid, ccd)]``.
    workers
        Functions that may run in workers.
    options
        Model of what a campaign file may set for it.
    """

    title: str
    subtasks: tuple[Subtask, ...]
    frame_check: FrameCheck | None = None
    frame_check_arguments: Callable[[Work, int], dict[str, Any]] | None = None
    judge: Callable[[Work, dict[tuple[int, int], dict[str, Any]]], None] | None = None
    workers: tuple[Callable[..., Any], ...] = ()
    options: type[StrictModel] = StrictModel

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sub-tasks, in order."""
        return tuple(subtask.name for subtask in self.subtasks)


#: Handle -> module in ``nightjard.calib.tasks`` and name of its Task.
TASKS: dict[str, tuple[str, str]] = {
    "BIAS01": ("bias", "BIAS"),
    "BIAS02": ("bias", "BIAS"),
    "DARK01": ("dark", "DARK"),
    "COSMETICS00": ("cosmetics", "COSMETICS"),
    "FOCUS00": ("focus", "FOCUS"),
    "PSFLUX00": ("flux", "POINT_FLUX"),
    "FLATFLUX00": ("flux", "FLAT_FLUX"),
    "PTC01": ("photon_transfer", "PHOTON_TRANSFER"),
    "PTC02WAVE": ("photon_transfer", "PHOTON_TRANSFER"),
    "PTC02TEMP": ("photon_transfer", "PHOTON_TRANSFER"),
    "PTC02RD": ("photon_transfer", "PHOTON_TRANSFER"),
    "NL01": ("linearity", "LINEARITY"),
    "NL02": ("linearity", "LINEARITY"),
    "NL02RD": ("linearity", "LINEARITY"),
    "FLAT01": ("flat", "FLAT"),
    "FLAT02": ("flat", "FLAT"),
    "FLAT_STB": ("flat", "FLAT"),
    "MOT_FF": ("flat", "FLAT"),
    "CHINJ01": ("injection", "INJECTION_IG1"),
    "CHINJ02": ("injection", "INJECTION_IDL"),
    "TP01": ("pumping", "VERTICAL_PUMPING"),
    "TP11": ("pumping", "VERTICAL_PUMPING"),
    "TP02": ("pumping", "SERIAL_PUMPING"),
    "TP21": ("pumping", "SERIAL_PUMPING"),
    "BF01": ("brighter_fatter", "BRIGHTER_FATTER"),
    "BF01WAVE": ("brighter_fatter", "BRIGHTER_FATTER"),
    "PSF01": ("psf", "PSF"),
    "PSF02": ("psf", "PSF"),
    "PERSIST01": ("persistence", "PERSISTENCE"),
    "MOT_WARM": ("mot_warm", "MOT_WARM"),
}


def load_task(handle: str) -> Task:
    """Return the analysis of a kind of test.

    Raises
    ------
    KeyError
        There is none for this handle.
    """
    module, name = TASKS[handle]
    task: Task = getattr(importlib.import_module(f"nightjard.calib.tasks.{module}"), name)
    return task


def worker_functions(handles: list[str]) -> frozenset[str]:
    """Return ``module:name`` of all functions that workers may call for these tests."""
    from nightjard.calib import checks

    functions = list(checks.WORKERS)
    for handle in handles:
        functions += load_task(handle).workers
    return frozenset(f"{one.__module__}:{one.__qualname__}" for one in functions)
