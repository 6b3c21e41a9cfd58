# SPDX-License-Identifier: BSD-3-Clause
"""Messages for people, sent to the observatory log without ever waiting for it.

A message is queued in memory, written to a local spool file within milliseconds, and delivered by
a thread of its own. While the log daemon is away the spool keeps the messages; later they arrive in
order and, because each carries the spool's identity and a sequence number, exactly once.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from nightjar.clock import Clock
from nightjar.errors import NightjarError

log = logging.getLogger(__name__)

Severity = Literal["info", "warning", "error"]
BATCH = 200
CALL_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
MAX_SPOOLED = 200_000
_PYTHON_LEVEL = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Caller(Protocol):
    """What is needed of :class:`nightjar.rpc.client.Client`."""

    def call(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        is_safe: bool = False,
    ) -> Any:
        """Return the value of the command's reply."""
        ...

    def close(self) -> None:
        """Drop the connection."""
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """One line for the observatory log."""

    time_ns: int
    severity: Severity
    text: str


class Spool:
    """The messages not yet delivered, in one SQLite file; used by one thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=2, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS message (sequence INTEGER PRIMARY KEY AUTOINCREMENT, "
            "time_ns INTEGER NOT NULL, severity TEXT NOT NULL, text TEXT NOT NULL)"
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS identity (uuid TEXT NOT NULL)")
        row = self._db.execute("SELECT uuid FROM identity").fetchone()
        if row is None:
            row = (uuid.uuid4().hex,)
            self._db.execute("INSERT INTO identity VALUES (?)", row)
        self.identity = str(row[0])

    def add(self, messages: list[Message]) -> None:
        """Append messages in one transaction."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO message (time_ns, severity, text) VALUES (?, ?, ?)",
                [(m.time_ns, m.severity, m.text) for m in messages],
            )

    def head(self, count: int) -> list[list[Any]]:
        """Return the oldest messages as ``[sequence, time_ns, severity, text]``."""
        rows = self._db.execute(
            "SELECT sequence, time_ns, severity, text FROM message ORDER BY sequence LIMIT ?",
            (count,),
        )
        return [list(row) for row in rows]

    def drop_through(self, sequence: int) -> None:
        """Forget delivered messages."""
        self._db.execute("DELETE FROM message WHERE sequence <= ?", (sequence,))

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM message").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class ObservatoryLog:
    """The sending end of one daemon.

    Parameters
    ----------
    source
        The configuration's ``log_name``.
    caller
        Client of the log daemon; None where the registry names none: messages go to the local
        log only.
    spool_path
        Where undelivered messages survive.
    clock
        Stamps messages and paces retries.
    """

    def __init__(self, source: str, caller: Caller | None, spool_path: Path, clock: Clock) -> None:
        self.source = source
        self._caller = caller
        self._spool_path = spool_path
        self._clock = clock
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self.undelivered = 0
        self.is_reachable: bool | None = None
        self._thread = threading.Thread(target=self._run, name="obslog", daemon=True)
        if caller is not None:
            self._thread.start()

    def info(self, text: str) -> None:
        """Say what happened."""
        self._put("info", text)

    def warning(self, text: str) -> None:
        """Say what a person should look at."""
        self._put("warning", text)

    def error(self, text: str) -> None:
        """Say what a person must look at."""
        self._put("error", text)

    def _put(self, severity: Severity, text: str) -> None:
        log.log(_PYTHON_LEVEL[severity], "%s", text)
        if self._caller is not None and not self._stopping.is_set():
            self._queue.put(Message(self._clock.now_ns(), severity, text[:4000]))

    def close(self, timeout_s: float = 2.0) -> None:
        """Spool what is queued, try once more to deliver, and end the thread."""
        if self._caller is None or self._stopping.is_set():
            return
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(timeout_s + CALL_TIMEOUT_S)

    def _run(self) -> None:
        try:
            spool = Spool(self._spool_path)
        except (sqlite3.Error, OSError) as error:
            log.error(
                "the observatory log's spool %s cannot be used (%s): messages are kept in memory",
                self._spool_path, error,
            )  # fmt: skip
            spool = Spool(Path(":memory:"))
        pause_s = FIRST_PAUSE_S
        with contextlib.closing(spool):
            while True:
                last = self._collect(spool, pause_s if self.undelivered else LONGEST_PAUSE_S)
                delivered = self._deliver(spool)
                pause_s = FIRST_PAUSE_S if delivered else min(pause_s * 2, LONGEST_PAUSE_S)
                if last:
                    break
        if self._caller is not None:
            self._caller.close()

    def _collect(self, spool: Spool, wait_s: float) -> bool:
        """Move queued messages into the spool; True when this is the end."""
        messages: list[Message] = []
        is_last = self._stopping.is_set() and self._queue.empty()
        if not is_last:
            with contextlib.suppress(queue.Empty):
                first = self._queue.get(timeout=wait_s)
                while True:
                    if first is None:
                        is_last = True
                    else:
                        messages.append(first)
                    first = self._queue.get_nowait()
        if messages:
            try:
                if len(spool) < MAX_SPOOLED:
                    spool.add(messages)
                else:
                    log.error("observatory log spool is full: %d messages lost", len(messages))
            except sqlite3.Error as error:
                log.error("%d observatory log messages not spooled: %s", len(messages), error)
        return is_last

    def _deliver(self, spool: Spool) -> bool:
        """Send spooled messages until none is left or the daemon fails; True when none is left."""
        assert self._caller is not None
        while True:
            batch = spool.head(BATCH)
            self.undelivered = len(batch)
            if not batch:
                return True
            try:
                self._caller.call(
                    "append",
                    {"source": self.source, "spool": spool.identity, "messages": batch},
                    timeout_s=CALL_TIMEOUT_S, is_safe=True,
                )  # fmt: skip
            except NightjarError as error:
                if self.is_reachable is not False:
                    log.warning("observatory log: %s; messages are kept", error.message)
                self.is_reachable = False
                return False
            if self.is_reachable is False:
                log.info("observatory log is back")
            self.is_reachable = True
            spool.drop_through(batch[-1][0])
