# SPDX-License-Identifier: BSD-3-Clause
"""The thin face of the telescope logs on the network."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nightjar.api.commands import Command
from nightjar.api.telog import COMMANDS
from nightjar.clock import Clock
from nightjar.daemon import Context, Spec, heartbeat_age
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjar.rpc.server import Handler
from nightjard.telogd.config import IndiTelescope, Telinfo, TelogdConfig
from nightjard.telogd.drivers.base import TelescopeSource
from nightjard.telogd.drivers.das_host import make_das
from nightjard.telogd.drivers.indi import IndiSource
from nightjard.telogd.drivers.plog_folder import PlogFolder
from nightjard.telogd.drivers.plog_tcp import PlogTcp
from nightjard.telogd.drivers.telinfo import TelinfoSource
from nightjard.telogd.model import Sources, TelescopeLogs

log = logging.getLogger(__name__)

_CARE_S = 0.25
_MEASURE_EVERY = 8
_ROTATOR_S = 0.5


class TelogService:
    """Carries :class:`nightjard.telogd.model.TelescopeLogs`."""

    commands: Sequence[Command] = COMMANDS

    def __init__(self, context: Context[TelogdConfig]) -> None:
        self._context = context
        self._logs = TelescopeLogs(
            context.config, sources_of(context.config, context.registry, context.clock),
            context.clock, context.health, context.operations, context.state,
        )  # fmt: skip
        self._stopping = threading.Event()
        self._beat_ns = context.clock.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name="care", daemon=True)

    def handlers(self) -> Mapping[str, Handler]:
        """Return a handler per command."""
        it = self._logs
        return {
            "start": it.start, "stop": it.stop, "telescope": it.telescope, "minutes": it.minutes,
            "files": it.files, "recover": it.recover,
            "quarantine": lambda count: {
                "folder": str(it.quarantine.folder), "files": it.quarantine.listed(count)
            },
        }  # fmt: skip

    def status(self) -> Mapping[str, Any]:
        """Return the snapshot."""
        return self._context.snapshot(self._logs.status())

    def start(self) -> None:
        """Start the helpers, where configured, and the thread that looks after them."""
        if self._context.config.auto_start:
            self._logs.start()
        self._thread.start()

    def _run(self) -> None:
        clock, rounds, told = self._context.clock, 0, ""
        while not clock.wait(self._stopping, _CARE_S):
            stuck = ", ".join(self._logs.stuck())
            if not stuck:
                self._beat_ns = clock.monotonic_ns()
            elif stuck != told:
                log.error("helpers that do not move: %s", stuck)
            told = stuck
            try:
                self._logs.look_after()
                if rounds % _MEASURE_EVERY == 0:
                    self._measure()
            except Exception:  # care must go on
                log.exception("looking after the helpers")
            rounds += 1

    def _measure(self) -> None:
        metrics, status = self._context.metrics, self._logs.status()
        for key, text in (
            ("pointing", "Age of the newest pointing record"),
            ("housekeeping", "Age of the telescope's record"),
        ):
            part = status[key]
            if part is not None and part["age_s"] is not None:
                metrics.gauge(f"telog_{key}_age_seconds", text, part["age_s"])
        for stream, lag_s in status["lag"].items():
            metrics.gauge(
                "telog_lag_seconds", "Age of the oldest closed minute that is not here", lag_s,
                stream=stream,
            )  # fmt: skip
        for key in ("pointing", "ring", "housekeeping", "raw"):
            for name, value in (status[key] or {}).items():
                if isinstance(value, int) and not isinstance(value, bool):
                    metrics.gauge(
                        f"telog_{key}_{name}", f"{name} of {key} since the start", value
                    )
        metrics.gauge("telog_quarantined", "Files put aside", status["quarantined"])

    def stop(self, report: Callable[[str], None]) -> None:
        """Publish what runs, then let go."""
        report("publishing the minutes that run")
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._logs.close()

    def heartbeat_age_s(self) -> float:
        """Return the seconds since all helpers were seen to move."""
        return heartbeat_age(self._context.clock.monotonic_ns(), self._beat_ns)


def sources_of(config: TelogdConfig, registry: Registry, clock: Clock) -> Sources:
    """Return what makes the drivers of a configuration."""
    stream, ring = config.pointing_stream, config.pointing_ring
    telescope, das, name = config.telescope, config.das, config.rotator_daemon
    client = None if name is None else Client(registry.daemon(name), _ROTATOR_S)

    def ask_rotator() -> Mapping[str, Any]:
        assert client is not None
        told: Mapping[str, Any] = client.call("rotator")
        return told

    return Sources(
        pointing=None if stream is None else lambda: PlogTcp(stream, clock),
        ring=None if ring is None else lambda: PlogFolder(ring),
        telescope=None if telescope is None else lambda: _telescope(telescope, clock),
        rotator=None if client is None else ask_rotator,
        das=None if das is None else lambda: make_das(das),
    )


def _telescope(config: Telinfo | IndiTelescope, clock: Clock) -> TelescopeSource:
    return TelinfoSource(config) if isinstance(config, Telinfo) else IndiSource(config, clock)


def check(config: TelogdConfig, registry: Registry) -> Sequence[str]:
    """Return what is doubtful about a valid configuration."""
    warnings = []
    if config.rotator_daemon is not None:
        registry.daemon(config.rotator_daemon)
    else:
        warnings.append("rotator_daemon is not given: the rotator's angle is not logged")
    if config.pointing_stream is None and config.pointing_ring is None:
        warnings.append(
            "neither pointing_stream nor pointing_ring is given: there is no pointing log"
        )
    if config.telescope is None:
        warnings.append("telescope is not given: there is no housekeeping of the telescope")
    return warnings


SPEC = Spec(
    program="telogd", help="The telescope's logs: pointing, housekeeping, copies of raw files.",
    config_model=TelogdConfig, build=TelogService, check=check,
)  # fmt: skip
