# SPDX-License-Identifier: BSD-3-Clause
"""The thin face of the observatory log on the network."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nightjar.api.commands import Command
from nightjar.api.obslog import COMMANDS
from nightjar.daemon import Context, Spec, heartbeat_age
from nightjar.registry import Registry
from nightjar.rpc.server import Handler
from nightjard.obslogd.config import ObslogConfig
from nightjard.obslogd.model import LogBook
from nightjard.obslogd.store import Store

log = logging.getLogger(__name__)

TICK_S = 0.1
_HELP = {
    "stored": "Messages stored",
    "duplicates": "Messages that came again and were not stored again",
    "failures": "Commands that the database failed",
}


class ObslogService:
    """Carries :class:`nightjard.obslogd.model.LogBook`."""

    commands: Sequence[Command] = COMMANDS

    def __init__(self, context: Context[ObslogConfig]) -> None:
        config = context.config
        self._context = context
        self._store = Store(config.url(context.state), config.database_timeout)
        self._book = LogBook(
            self._store, context.clock, context.health, config.minimum_free_bytes, self._count
        )
        self._stopping = threading.Event()
        self._beat_ns = context.clock.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name="obslogd", daemon=True)
        for what in _HELP:
            self._count(what, 0)

    def _count(self, what: str, amount: int) -> None:
        self._context.metrics.count(f"obslog_{what}_total", _HELP[what], amount)

    def handlers(self) -> Mapping[str, Handler]:
        """Return a handler per command."""
        book = self._book
        return {
            "append": book.append,
            "write": book.write,
            "tail": book.tail,
            "search": book.search,
        }

    def status(self) -> Mapping[str, Any]:
        """Return the snapshot."""
        return self._context.snapshot(self._book.status())

    def start(self) -> None:
        """Open the database; one that is away is no reason not to start, nor to wait long."""
        self._thread.start()
        self._book.has_tried.wait(self._context.config.database_timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._beat_ns = self._context.clock.monotonic_ns()
            self._book.tick()
            self._context.clock.wait(self._stopping, TICK_S)

    def stop(self, report: Callable[[str], None]) -> None:
        """Finish what is being stored and close the database."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5)
        report("closing the database")
        self._book.close()

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the database was last looked after."""
        return heartbeat_age(self._context.clock.monotonic_ns(), self._beat_ns)


def check(config: ObslogConfig, registry: Registry) -> Sequence[str]:
    """Return what is doubtful about a valid configuration."""
    if registry.log_daemon != config.daemon:
        return [
            f"log_daemon of {registry.path} is {registry.log_daemon!r}: "
            f"no daemon sends its messages to {config.daemon!r}"
        ]
    return []


SPEC = Spec(
    program="obslogd",
    help="The observatory log: keeps what daemons and people say.",
    config_model=ObslogConfig,
    build=ObslogService,
    check=check,
)
