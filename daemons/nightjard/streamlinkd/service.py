# SPDX-License-Identifier: BSD-3-Clause
"""The thin face of the links on the network."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightjar.api.commands import Command
from nightjar.api.streamlink import COMMANDS
from nightjar.child import Backoff, Child
from nightjar.daemon import Context, Spec, heartbeat_age
from nightjar.errors import NightjarError
from nightjar.registry import Registry
from nightjar.rpc.server import Handler
from nightjard.streamlinkd.config import LinkConfig, StreamlinkConfig
from nightjard.streamlinkd.model import Link, Links
from nightjard.streamlinkd.secret import load_secret

TICK_S = 0.1
_WORKER = "nightjard.streamlinkd.worker"
_GAUGES = {
    "frames": "Frames sent or received since the link's process started",
    "lost": "Frames overwritten at the sender before they could be sent",
    "lost_on_wire": "Frames sent that never arrived",
    "torn": "Frames overwritten while they were being sent",
    "dropped": "Frames that came and could not be put into shared memory",
    "bad_messages": "Messages that were refused",
    "rate": "Frames per second",
    "mbit_per_s": "Megabits per second",
    "reconnects": "Connections made after the first",
    "restarts": "Times that the link's process ended by itself",
}


def make_worker(
    link: LinkConfig,
    on_message: Callable[[dict[str, Any]], None],
    on_end: Callable[[str], None],
) -> Child:
    """Return the process of a link, not yet started."""
    return Child(
        f"link {link.name}", _WORKER, [link.model_dump_json()],
        on_message=on_message, on_end=on_end,
    )  # fmt: skip


class StreamlinkService:
    """Carries :class:`nightjard.streamlinkd.model.Links`."""

    commands: Sequence[Command] = COMMANDS

    def __init__(self, context: Context[StreamlinkConfig]) -> None:
        self._context = context
        clock = context.clock
        self._links = Links(
            {
                link.name: Link(link, make_worker, Backoff(first_s=0.2, longest_s=5.0), clock)
                for link in context.config.links
            },
            clock, context.health,
        )  # fmt: skip
        self._stopping = threading.Event()
        self._beat_ns = clock.monotonic_ns()
        self._measured_ns = 0
        self._thread = threading.Thread(target=self._run, name="streamlinkd", daemon=True)

    def handlers(self) -> Mapping[str, Handler]:
        """Return a handler per command."""
        links = self._links
        return {
            "start": links.start, "stop": links.stop, "restart": links.restart, "set": links.set,
        }  # fmt: skip

    def status(self) -> Mapping[str, Any]:
        """Return the snapshot."""
        return self._context.snapshot(self._links.status())

    def start(self) -> None:
        """Start the links that shall run."""
        self._thread.start()

    def _run(self) -> None:
        wake, clock = self._links.wake, self._context.clock
        while not self._stopping.is_set():
            self._beat_ns = clock.monotonic_ns()
            wake.clear()
            self._links.tick()
            if self._beat_ns - self._measured_ns > 1_000_000_000:
                self._measured_ns = self._beat_ns
                self._measure()
            clock.wait(wake, TICK_S)

    def _measure(self) -> None:
        metrics = self._context.metrics
        for name, link in self._links.status()["links"].items():
            label = "".join(letter if letter.isalnum() else "_" for letter in name)
            for key, text in _GAUGES.items():
                metrics.gauge(f"streamlink_{label}_{key}", f"{text} (link {name})", link[key])

    def stop(self, report: Callable[[str], None]) -> None:
        """Stop the links in order."""
        self._stopping.set()
        self._links.wake.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self._links.close(report)

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the links were last looked after."""
        return heartbeat_age(self._context.clock.monotonic_ns(), self._beat_ns)


def check(config: StreamlinkConfig, registry: Registry) -> Sequence[str]:
    """Return what is doubtful about a valid configuration."""
    warnings = []
    if not config.links:
        warnings.append("links: none are configured")
    for link in config.links:
        if link.secret_file is not None:
            try:
                load_secret(Path(link.secret_file))
            except NightjarError as error:
                warnings.append(f"link {link.name}: {error.message}")
        if link.interface is not None and not os.path.isdir(f"/sys/class/net/{link.interface}"):
            warnings.append(f"link {link.name}: interface {link.interface} does not exist here")
    return warnings


SPEC = Spec(
    program="streamlinkd",
    help="Carries shared-memory streams to other hosts and from them.",
    config_model=StreamlinkConfig,
    build=StreamlinkService,
    check=check,
)
