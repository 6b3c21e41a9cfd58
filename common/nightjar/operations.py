# SPDX-License-Identifier: BSD-3-Clause
"""Operations: commands that take longer than half a second.

The command returns an id at once. Whoever works on it reports fraction, stage and message; whoever
waits asks by id, with a deadline; cancelling calls back into the worker. The last ones that ended
are remembered so that a late question still gets its answer.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from nightjar.api.reply import plain
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Cancelled, Code, NightjarError, Refused
from nightjar.times import iso


class Operation:
    """One long command in progress or ended; every method is thread-safe."""

    def __init__(
        self, identity: str, name: str, clock: Clock, on_cancel: Callable[[], None] | None
    ) -> None:
        self.id = identity
        self.name = name
        self._clock = clock
        self._on_cancel = on_cancel
        self._started_ns = clock.now_ns()
        self._mono0 = clock.monotonic_ns()
        self._ended_ns: int | None = None
        self._fraction: float | None = None
        self._eta_s: float | None = None
        self._stage = ""
        self._message = ""
        self._result: Any = None
        self._error: NightjarError | None = None
        self._cancel_asked = False
        self._ended = threading.Event()
        self._lock = threading.Lock()

    @property
    def is_done(self) -> bool:
        """Whether it ended, well or not."""
        return self._ended.is_set()

    @property
    def is_cancel_asked(self) -> bool:
        """Whether somebody asked to cancel it."""
        return self._cancel_asked

    @property
    def error(self) -> NightjarError | None:
        """The failure it ended with."""
        return self._error

    def update(
        self,
        fraction: float | None = None,
        stage: str | None = None,
        message: str | None = None,
        eta_s: float | None = None,
    ) -> None:
        """Report progress; what is None stays as it was, but for the eta, which is recomputed."""
        with self._lock:
            if self._ended.is_set():
                return
            if fraction is not None:
                self._fraction = min(1.0, max(0.0, fraction))
            if stage is not None:
                self._stage = stage
            if message is not None:
                self._message = message
            self._eta_s = eta_s
            if eta_s is None and self._fraction:
                elapsed = (self._clock.monotonic_ns() - self._mono0) / NS_PER_S
                self._eta_s = elapsed * (1 - self._fraction) / self._fraction

    def finish(self, result: Any = None, message: str = "") -> None:
        """End it well; the message says what was achieved."""
        self.update(message=message)
        self._end(plain(result), None)

    def fail(self, error: NightjarError) -> None:
        """End it with a failure."""
        self._end(None, error)

    def _end(self, result: Any, error: NightjarError | None) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            self._result, self._error = result, error
            self._ended_ns = self._clock.now_ns()
            self._eta_s = 0.0
            if error is None:
                self._fraction = 1.0
            self._ended.set()

    def cancel(self) -> None:
        """Ask the worker to give up; it ends the operation when it has."""
        with self._lock:
            if self._ended.is_set() or self._cancel_asked:
                return
            if self._on_cancel is None:
                raise Refused(f"{self.name} cannot be cancelled", operation=self.id)
            self._cancel_asked = True
        self._on_cancel()

    def wait(self, timeout_s: float) -> bool:
        """Return True when it has ended, False after `timeout_s` seconds of real time."""
        return self._ended.wait(timeout_s)

    def outcome(self) -> Any:
        """Return the result of an ended operation or raise its failure."""
        if self._error is not None:
            raise self._error
        return self._result

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain JSON values."""
        with self._lock:
            error = self._error
            state = "running"
            if self._ended.is_set():
                state = "done"
                if error is not None:
                    state = "cancelled" if isinstance(error, Cancelled) else "failed"
            return {
                "operation": self.id,
                "name": self.name,
                "state": state,
                "fraction": self._fraction,
                "stage": self._stage,
                "message": error.message if error else self._message,
                "eta_s": self._eta_s,
                "code": error.code.name if error else Code.OK.name,
                "detail": plain(error.detail) if error else {},
                "result": self._result,
                "started": iso(self._started_ns),
                "ended": iso(self._ended_ns) if self._ended_ns is not None else None,
            }


class Operations:
    """All operations of a daemon: running ones and the last that ended.

    Parameters
    ----------
    clock
        Source of time stamps.
    keep
        How many are remembered.
    """

    def __init__(self, clock: Clock, keep: int = 200) -> None:
        self._clock = clock
        self._keep = keep
        self._operations: OrderedDict[str, Operation] = OrderedDict()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        # Unique over restarts, so that an id of a daemon's earlier life is unknown, not another's.
        self._prefix = f"{clock.now_ns() // NS_PER_S:x}-{os.getpid():x}"

    def begin(self, name: str, on_cancel: Callable[[], None] | None = None) -> Operation:
        """Return a new running operation."""
        with self._lock:
            operation = Operation(
                f"{name}-{self._prefix}-{next(self._numbers)}", name, self._clock, on_cancel
            )
            self._operations[operation.id] = operation
            if len(self._operations) > self._keep:
                for identity, old in list(self._operations.items()):
                    if old.is_done:
                        del self._operations[identity]
                        break
        return operation

    def get(self, identity: str) -> Operation:
        """Return an operation by id.

        Raises
        ------
        Refused
            UNKNOWN_ITEM: never begun here, or ended long ago.
        """
        with self._lock:
            operation = self._operations.get(identity)
        if operation is None:
            raise Refused(
                f"no operation {identity!r}: it ended long ago or the daemon was restarted",
                code=Code.UNKNOWN_ITEM, operation=identity,
            )  # fmt: skip
        return operation

    def running(self) -> list[Operation]:
        """Return those that have not ended."""
        with self._lock:
            return [operation for operation in self._operations.values() if not operation.is_done]
