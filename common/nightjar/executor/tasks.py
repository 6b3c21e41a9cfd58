# SPDX-License-Identifier: BSD-3-Clause
"""What a task is, who runs it, and how its failures cross to another process."""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from nightjar.errors import (
    Code,
    InvalidArgument,
    NightjarError,
    error_for,
    storage_code,
)
from nightjar.executor.probes import LOOK

Failure = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One call of a function, complete in itself: it can run in any process on any host.

    Attributes
    ----------
    id
        Unique in its run; told in results, failures and logs.
    function
        ``module:name``, one of the functions that its executor allows.
    arguments
        Plain JSON values, given by name.
    memory_bytes
        The most that it holds while it runs.
    """

    id: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    memory_bytes: int = 0


@dataclass(frozen=True)
class Event:
    """What happened to a task on its way.

    Attributes
    ----------
    kind
        ``started``; ``progress``; ``again``: its worker died, it is run once more.
    worker
        Who has it: ``pid 4242`` or the address of a Dask worker.
    frames, bytes
        Done so far in this attempt.
    text
        Stage of the work, or how the worker died.
    """

    kind: Literal["started", "progress", "again"]
    task: Task
    worker: str = ""
    frames: int = 0
    bytes: int = 0
    text: str = ""


OnResult = Callable[[Task, Any], None]
OnFailure = Callable[[Task, NightjarError], None]
OnEvent = Callable[[Event], None]


class Executor(Protocol):
    """Runs tasks somewhere."""

    def run(
        self,
        tasks: Iterable[Task],
        on_result: OnResult,
        on_failure: OnFailure,
        cancelled: Callable[[], bool],
        on_event: OnEvent | None = None,
    ) -> None:
        """Run tasks until all have ended; each has exactly one result or failure.

        The iterable is read as workers become free. All callbacks come from the calling thread;
        what they raise ends the run.

        Raises
        ------
        Cancelled
            `cancelled` returned True; what was running has been ended, the rest never began.
        Busy
            Another thread is in a run of this executor.
        NightjarError
            No worker can be had.
        """
        ...

    def survey(self, folders: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what each worker sees: name -> result of :func:`.probes.look`.

        Raises
        ------
        NightjarError
            No worker can be had.
        """
        ...

    def close(self) -> None:
        """End the workers that were started here."""
        ...


def check(task: Task, allowed: frozenset[str]) -> bytes:
    """Return the task as JSON for its worker.

    Raises
    ------
    InvalidArgument
        The function is not in the table, or the arguments are not plain JSON values.
    """
    if task.function not in allowed and task.function != LOOK:
        raise InvalidArgument(f"task {task.id}: {task.function!r} is not in the table of functions")
    try:
        return json.dumps({"function": task.function, "arguments": task.arguments}).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"task {task.id}: its arguments are no JSON: {error}") from error


def call(function: str, arguments: dict[str, Any]) -> Any:
    """Call a function by ``module:name``; return its result as it is after a way as JSON.

    So a tuple is a list however near the worker is, and all executors give the same values.
    """
    module, _, name = function.partition(":")
    result = getattr(importlib.import_module(module), name)(**arguments)
    return json.loads(json.dumps(result))


def failure_of(error: BaseException) -> Failure:
    """Return an exception as plain JSON values."""
    if isinstance(error, NightjarError):
        detail = json.loads(json.dumps(error.detail, default=str))
        return {"code": error.code.name, "message": error.message, "detail": detail}
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        text = f"{where}{error.strerror or error}"
        return {"code": storage_code(error).name, "message": text, "detail": {}}
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({last[0].filename}, line {last[0].lineno})" if last else ""
    if isinstance(error, MemoryError):
        text = f"not enough memory{where}; smaller chunks or fewer workers need less"
        return {"code": Code.FAILED.name, "message": text, "detail": {}}
    text = f"internal error: {type(error).__name__}: {error}{where}"
    return {"code": Code.INTERNAL.name, "message": text, "detail": {}}


def error_of(failure: Failure) -> NightjarError:
    """Return what :func:`failure_of` made as an exception."""
    detail = {
        key: value for key, value in failure["detail"].items() if key not in ("message", "code")
    }
    return error_for(Code.from_name(failure["code"]), failure["message"], detail)
