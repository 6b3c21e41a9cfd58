# SPDX-License-Identifier: BSD-3-Clause
"""What all tests of a run share while it goes on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Code, NightjarError
from nightjard.calib.drawing import Drawer
from nightjard.calib.engine.plan import Setup
from nightjard.calib.engine.progress import ProgressLine
from nightjard.calib.engine.runlog import RunLog
from nightjard.calib.task import Task, load_task
from nightjard.calib.work import HereMapper, Mapper

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass
class Context:
    """What all tests of a run share.

    Attributes
    ----------
    folder
        Of the session: ``<resroot>/<RUN>``.
    say
        Prints a line for the person who runs it.
    first_obsid
        Earlier exposures do not count.
    on_figure
        Shows a figure that was written; interactive runs only.
    drawer
        Draws figures beside the analysis; None: they are drawn where they are made.
    told
        What is true of several tests and was told: with the first of them.
    """

    setup: Setup
    run: str
    folder: Path
    log: RunLog
    clock: Clock
    say: Callable[[str], None]
    progress: ProgressLine
    mapper: Mapper = field(default_factory=HereMapper)
    load: Callable[[str], Task] = load_task
    first_obsid: int | None = None
    is_check_only: bool = False
    is_drill: bool = False
    is_debug: bool = False
    clears_intermediate: bool = False
    on_figure: Callable[[Path], None] | None = None
    drawer: Drawer | None = None
    told: dict[str, str] = field(default_factory=dict)

    def tell(self, text: str) -> None:
        """Print a line and log it."""
        self.progress.clear()
        self.say(text)
        self.log.write(text)

    def minutes_since(self, start_ns: int) -> float:
        """Return how long ago a monotonic time was, minutes."""
        return (self.clock.monotonic_ns() - start_ns) / NS_PER_S / 60.0


def is_storage_full(error: BaseException) -> bool:
    """Tell whether an error means that nothing more can be written: no test can go on then."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    if isinstance(error, NightjarError) and error.code is Code.NO_SPACE:
        return True
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL


class LearningMapper:
    """Passes calls on, and tells of the digests of files that the results bring along."""

    def __init__(self, inner: Mapper, learn: Callable[[str, str], None]) -> None:
        self._inner = inner
        self._learn = learn

    def map(
        self, function: str, items: Sequence[Mapping[str, Any]], memory_bytes: int,
        on_done: Callable[[int], None],
    ) -> list[Any]:
        """Return the results in order."""
        results = self._inner.map(function, items, memory_bytes, on_done)
        for item, result in zip(items, results, strict=True):
            if isinstance(result, dict) and "blake3" in result and "path" in item:
                self._learn(str(item["path"]), str(result["blake3"]))
        return results
