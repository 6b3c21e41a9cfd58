# SPDX-License-Identifier: BSD-3-Clause
"""A whole hour, or a night, at once: the edges first, then the hours, each in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nightjar.das.naming import MINUTE_NS
from nightjar.errors import InvalidArgument, NightjarError
from nightjar.executor.tasks import Executor, Task
from nightjard.merged.alignment import Alignment, as_json, fit, pieces_of
from nightjard.merged.config import MergedConfig, config_of
from nightjard.merged.edges import FIND_EDGES, minutes_edges
from nightjard.merged.minute import MERGE_MINUTE, Span, merge_span
from nightjard.merged.netcdf import HOUR_NS, hour_of

MERGE_HOUR = "nightjard.merged.hour:merge_hour"
FIND_HOUR_EDGES = "nightjard.merged.hour:find_hour_edges"
TASKS = frozenset({MERGE_MINUTE, FIND_EDGES, MERGE_HOUR, FIND_HOUR_EDGES})
"""Functions that an executor must allow."""
HOUR_MEMORY = 400_000_000
"""What the merge of an hour holds, bytes."""


def merge_hour(
    config: str, hour_ns: int, minutes: list[int] | None = None,
    alignment: dict[str, Any] | None = None, is_late: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Merge minutes of an hour in one go: the same values as minute by minute, much faster.

    Parameters
    ----------
    config
        The text of a :class:`.config.MergedConfig`.
    hour_ns
        Start of the hour, ns UTC.
    minutes
        Starts of the minutes, ns UTC, without a hole; all 60 if None.
    alignment
        As :func:`.alignment.as_json` makes it; None: fitted from the edges of these minutes and
        of those around them that the window takes.
    is_late
        As of :func:`.minute.merge_minute`.

    Returns
    -------
    dict
        As :func:`.minute.merge_minute`.
    """
    if hour_ns % HOUR_NS:
        raise InvalidArgument(f"hour_ns {hour_ns}: must be the start of a UT hour")
    wanted = list(range(hour_ns, hour_ns + HOUR_NS, MINUTE_NS)) if minutes is None else minutes
    if not wanted or wanted != list(range(wanted[0], wanted[-1] + 1, MINUTE_NS)):
        raise InvalidArgument("minutes: must be starts of minutes, one after the other")
    if hour_of(wanted[0]) != hour_ns or hour_of(wanted[-1]) != hour_ns:
        raise InvalidArgument("minutes: must all be of the hour")
    known = config_of(config)
    pieces = None if alignment is None else pieces_of(alignment)
    return merge_span(Span(known, wanted, pieces, is_late))


def find_hour_edges(config: str, hour_ns: int) -> list[dict[str, Any]]:
    """Return the edges of an hour's minutes, as :func:`.edges.find_edges`."""
    known = config_of(config)
    return minutes_edges(known, list(range(hour_ns, hour_ns + HOUR_NS, MINUTE_NS)))


def merge_hours(
    config: MergedConfig, hours: Iterable[int], executor: Executor,
    cancelled: Callable[[], bool] = lambda: False,
    on_hour: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[int, NightjarError]:  # fmt: skip
    """Merge hours in parallel: first all edges, then all hours with the alignment of the whole.

    Parameters
    ----------
    config
        The configuration.
    hours
        Starts of the hours, ns UTC.
    executor
        Must allow :data:`TASKS`.
    cancelled
        Asked now and then.
    on_hour
        Called with the result of each hour.

    Returns
    -------
    dict
        Start of an hour that failed -> why.
    """
    wanted = sorted(set(hours))
    failed: dict[int, NightjarError] = {}
    alignment: Alignment = {}
    if config.alignment.align != "off":
        edges: list[dict[str, Any]] = []

        def take_edges(_: Task, result: Any) -> None:
            edges.extend(result)

        # Without an hour's edges the others still align: its own failure is told by its merging.
        executor.run(
            _tasks("edges", FIND_HOUR_EDGES, config, wanted), take_edges, lambda *_: None, cancelled
        )
        minutes = [start + one * MINUTE_NS for start in wanted for one in range(60)]
        alignment = fit(edges, minutes, config.alignment, config.levels)

    def fail(task: Task, error: NightjarError) -> None:
        failed[int(task.arguments["hour_ns"])] = error

    tasks = []
    for task in _tasks("merge", MERGE_HOUR, config, wanted):
        start = task.arguments["hour_ns"]
        its = {one: alignment[one] for one in range(start, start + HOUR_NS, MINUTE_NS)
               if one in alignment}  # fmt: skip
        arguments = {**task.arguments, "alignment": as_json(its)}
        tasks.append(Task(task.id, task.function, arguments, task.memory_bytes))
    executor.run(tasks, lambda _, result: on_hour(result), fail, cancelled)
    return failed


def _tasks(what: str, function: str, config: MergedConfig, hours: list[int]) -> list[Task]:
    return [
        Task(f"{what} {start}", function, {"config": config.text, "hour_ns": start}, HOUR_MEMORY)
        for start in hours
    ]
