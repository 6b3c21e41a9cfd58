# SPDX-License-Identifier: BSD-3-Clause
"""What a follower knows of the clocks: the edges of the minutes it looked at, fitted for others."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable
from typing import Any

from nightjar.clock import NS_PER_S
from nightjar.das.naming import MINUTE_NS
from nightjar.executor.tasks import Executor, Task
from nightjard.merged.alignment import Alignment, fit
from nightjard.merged.config import MergedConfig
from nightjard.merged.edges import FIND_EDGES

_EDGE_MEMORY = 50_000_000
_KEPT_WINDOWS = 4


class Clocks:
    """Edges by minute, found once for each state of its files.

    Parameters
    ----------
    config
        The merge's.
    executor
        Finds the edges.
    """

    def __init__(self, config: MergedConfig, executor: Executor) -> None:
        self._config, self._executor = config, executor
        self._edges: dict[int, tuple[str, dict[str, Any]]] = {}

    @property
    def is_off(self) -> bool:
        """Whether nobody wants to know."""
        return self._config.alignment.align == "off"

    @property
    def half_ns(self) -> int:
        """How far the edges reach to each side of a minute."""
        return round(self._config.alignment.window_s / 2) * NS_PER_S

    def learn(
        self, minutes: list[int], signature: Callable[[int], str], cancelled: Callable[[], bool]
    ) -> None:
        """Find the edges of minutes that are not known, or whose files have changed."""
        tasks = []
        for start in minutes:
            mark = signature(start)
            if start not in self._edges or self._edges[start][0] != mark:
                arguments = {"config": self._config.text, "start_ns": start}
                tasks.append(Task(f"edges {start}", FIND_EDGES, arguments, _EDGE_MEMORY))
        marks = {task.arguments["start_ns"]: signature(task.arguments["start_ns"])
                 for task in tasks}  # fmt: skip

        def take(task: Task, result: Any) -> None:
            start = task.arguments["start_ns"]
            self._edges[start] = (marks[start], result)

        # A minute without edges is aligned by the others'; what is wrong is told by its merging.
        self._executor.run(tasks, take, lambda *_: None, cancelled)
        oldest = min(minutes, default=0) - _KEPT_WINDOWS * self.half_ns
        for start in [one for one in self._edges if one < oldest]:
            del self._edges[start]

    def align(self, minutes: Iterable[int]) -> Alignment:
        """Return the alignment of minutes by all that is known."""
        edges = [edges for _, edges in self._edges.values()]
        return fit(edges, minutes, self._config.alignment, self._config.levels)


def near(minutes: list[int], chosen: list[int], before_ns: int, after_ns: int) -> list[int]:
    """Return those of some minutes that are near a chosen one; both in order."""
    found = []
    for start in minutes:
        index = bisect.bisect_left(chosen, start - after_ns)
        if index < len(chosen) and chosen[index] <= start + before_ns:
            found.append(start)
    return found


def offset_of(alignment: Alignment, start_ns: int) -> float | None:
    """Return the clock offset in the middle of a minute, DAS minus telescope, s; None for none."""
    pieces = alignment.get(start_ns)
    if not pieces:
        return None
    value = pieces[0].offset_at(start_ns + MINUTE_NS // 2)
    return value if math.isfinite(value) else None
