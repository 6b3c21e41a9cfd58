# SPDX-License-Identifier: BSD-3-Clause
"""What the archive's model is given: clock and sinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nightjar.clock import Clock
from nightjar.health import Health
from nightjar.metrics import Metrics
from nightjar.operations import Operations


class Log(Protocol):
    """What is needed of :class:`nightjar.obslog.ObservatoryLog`."""

    def info(self, text: str) -> None:
        """Say what happened."""
        ...

    def warning(self, text: str) -> None:
        """Say what a person should look at."""
        ...

    def error(self, text: str) -> None:
        """Say what a person must look at."""
        ...


@dataclass(frozen=True)
class Tools:
    """What the model is given by the runtime."""

    clock: Clock
    health: Health
    operations: Operations
    metrics: Metrics
    obslog: Log
