# SPDX-License-Identifier: BSD-3-Clause
"""The thin face of the merge on the network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nightjar.api.commands import Command
from nightjar.api.merge import COMMANDS
from nightjar.daemon import Context, Spec, heartbeat_age
from nightjar.executor.choosing import executor_of
from nightjar.registry import Registry
from nightjar.rpc.server import Handler
from nightjard.merged.config import MergedConfig
from nightjard.merged.hour import TASKS
from nightjard.merged.model import Merging

_BEAT_S = 1.0
_GAUGES = {
    "merged": "Minutes merged since the start",
    "again": "Of these, merged before",
    "lag_s": "From the end of the newest merged minute to its merging",
    "offset_s": "Clock of the DAS minus the telescope's",
}


class MergedService:
    """Carries :class:`nightjard.merged.model.Merging`."""

    commands: Sequence[Command] = COMMANDS

    def __init__(self, context: Context[MergedConfig]) -> None:
        self._context = context
        config = context.config
        self._executor = executor_of(config.executor, TASKS)
        self._merging = Merging(config, self._executor, context.clock, context.health)
        self._beat_ns = context.clock.monotonic_ns()
        self._worker = threading.Thread(target=self._run, name="merge", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="beat", daemon=True)

    def handlers(self) -> Mapping[str, Handler]:
        """Return a handler per command."""
        it = self._merging
        return {
            "minutes": it.minutes, "again": it.again, "pause": it.pause, "resume": it.resume,
        }  # fmt: skip

    def status(self) -> Mapping[str, Any]:
        """Return the snapshot."""
        return self._context.snapshot(self._merging.status())

    def start(self) -> None:
        """Begin to follow."""
        self._worker.start()
        self._watcher.start()

    def _run(self) -> None:
        it, clock = self._merging, self._context.clock
        while not it.stopping.is_set():
            it.wake.clear()
            it.tick()
            self._measure()
            clock.wait(it.wake, self._context.config.follow.poll_s)

    def _watch(self) -> None:
        """Beat for as long as the worker lives: a backlog of hours is no hang."""
        stopping, clock = self._merging.stopping, self._context.clock
        while self._worker.is_alive() and not clock.wait(stopping, _BEAT_S):
            self._beat_ns = clock.monotonic_ns()

    def _measure(self) -> None:
        status = self._merging.status()
        for key, text in _GAUGES.items():
            if status[key] is not None:
                self._context.metrics.gauge(f"merge_{key}", text, status[key])

    def stop(self, report: Callable[[str], None]) -> None:
        """Finish nothing: a minute under way is merged again at the next start."""
        report("ending the workers")
        self._merging.stopping.set()
        self._merging.wake.set()
        for thread in (self._worker, self._watcher):
            if thread.is_alive():
                thread.join(15)
        self._executor.close()

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the worker was last known to live."""
        if self._merging.stopping.is_set():
            return 0.0
        return heartbeat_age(self._context.clock.monotonic_ns(), self._beat_ns)


def check(config: MergedConfig, _registry: Registry) -> Sequence[str]:
    """Return what is doubtful about a valid configuration."""
    warnings = [
        f"{name}: {folder} does not exist"
        for name, folder in (
            ("raw_root", config.raw_root), ("pointing_root", config.pointing_root),
            ("housekeeping_root", config.housekeeping_root), ("merged_root", config.merged_root),
        ) if folder is not None and not folder.is_dir()
    ]  # fmt: skip
    if config.follow.heal_hours * 3600 < config.follow.companion_wait_s:
        warnings.append("follow: heal_hours is shorter than companion_wait_s")
    return warnings


SPEC = Spec(
    program="merged", help="Merges the streams of a DAS into one netCDF file a UT hour.",
    config_model=MergedConfig, build=MergedService, check=check,
)  # fmt: skip
