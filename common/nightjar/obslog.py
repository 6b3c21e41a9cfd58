# SPDX-License-Identifier: BSD-3-Clause
"""Messages for people, sent to the observatory log without ever waiting for it.

A message is queued in memory; one thread writes it to a local spool file within milliseconds,
another delivers. While the log daemon is away the spool keeps the messages; later they arrive in
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
BATCH_LETTERS = 60_000  # escaped, a letter may take 10 bytes: stays under the RPC limit of 1 MB
MAX_TEXT = 4000
CALL_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
MAX_SPOOLED = 200_000
_MAX_TAKEN = 1000  # messages that go into the spool in one transaction
_MAX_WAITING = 10_000  # messages kept in memory while the spool cannot be written
_SPOOL_RETRY_S = 1.0
_IDLE_S = 60.0
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
    """The messages not yet delivered, in one SQLite file; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        if path.name != ":memory:":
            path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, timeout=2, check_same_thread=False)
        try:
            self.identity = self._prepare()
            self._count = int(self._db.execute("SELECT count(*) FROM message").fetchone()[0])
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> str:
        self._db.execute("PRAGMA journal_mode=WAL")
        # A power cut may take the last messages back, and their numbers: the log daemon tells two
        # messages of one number apart by their times.
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
        return str(row[0])

    def add(self, messages: list[Message]) -> None:
        """Append messages in one transaction."""
        with self._lock, self._db:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO message (time_ns, severity, text) VALUES (?, ?, ?)",
                [(m.time_ns, m.severity, m.text) for m in messages],
            )
        with self._lock:
            self._count += len(messages)

    def head(self, count: int = BATCH, letters: int = BATCH_LETTERS) -> list[list[Any]]:
        """Return the oldest messages as ``[sequence, time_ns, severity, text]``.

        At most `count`, and at most `letters` in their texts, but at least one.
        """
        with self._lock:
            rows = self._db.execute(
                "SELECT sequence, time_ns, severity, text FROM message ORDER BY sequence LIMIT ?",
                (count,),
            ).fetchall()
        batch: list[list[Any]] = []
        for row in rows:
            letters -= len(row[3])
            if batch and letters < 0:
                break
            batch.append(list(row))
        return batch

    def drop_through(self, sequence: int) -> None:
        """Forget delivered messages."""
        with self._lock:
            done = self._db.execute("DELETE FROM message WHERE sequence <= ?", (sequence,))
            self._count -= done.rowcount

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()


def open_spool(path: Path, now_ns: int) -> Spool:
    """Return the spool of a file; a damaged one is put aside, an unusable one kept in memory."""
    try:
        return Spool(path)
    except sqlite3.DatabaseError as error:
        if not isinstance(error, sqlite3.OperationalError):  # not a database, damaged
            aside = path.with_name(f"{path.name}.damaged-{now_ns}")
            log.error("observatory log spool %s: %s; put aside as %s", path, error, aside.name)
            with contextlib.suppress(OSError, sqlite3.Error):
                path.rename(aside)
                for suffix in ("-wal", "-shm"):
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
                return Spool(path)
        reason: Exception = error
    except OSError as error:
        reason = error
    log.error(
        "observatory log spool %s cannot be used (%s): messages are kept in memory", path, reason
    )
    return Spool(Path(":memory:"))


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

    Attributes
    ----------
    is_reachable
        Whether the last delivery succeeded; None before the first.
    lost
        Messages that found no room: the spool was full.
    """

    def __init__(self, source: str, caller: Caller | None, spool_path: Path, clock: Clock) -> None:
        self.source = source
        self.is_reachable: bool | None = None
        self.lost = 0
        self._caller = caller
        self._spool_path = spool_path
        self._clock = clock
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._spool: Spool | None = None
        self._told_lost = 0
        self._stopping = threading.Event()
        self._spooled_all = threading.Event()
        self._news = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="obslog-spool", daemon=True)
        self._sender = threading.Thread(target=self._send, name="obslog-send", daemon=True)
        if caller is not None:
            self._keeper.start()

    @property
    def undelivered(self) -> int:
        """Messages that the log daemon does not have yet."""
        return self._queue.qsize() + (len(self._spool) if self._spool is not None else 0)

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
            # A file name may hold lone surrogates, which no database takes.
            fit = str(text)[:MAX_TEXT].encode("utf-8", "replace").decode()
            self._queue.put(Message(self._clock.now_ns(), severity, fit))

    def close(self, timeout_s: float = 2.0) -> None:
        """Spool what is queued, try once more to deliver, and end the threads.

        A delivery that hangs is left behind after `timeout_s`; its messages stay in the spool.
        """
        if self._caller is None or self._stopping.is_set():
            return
        self._stopping.set()
        self._queue.put(None)
        self._keeper.join(timeout_s)
        if self._sender.ident is not None:  # not where the spool's disk hangs
            self._sender.join(timeout_s)

    # --- the thread that writes the spool ---------------------------------------------------------

    def _keep(self) -> None:
        self._spool = open_spool(self._spool_path, self._clock.now_ns())
        self._sender.start()
        waiting: list[Message] = []
        is_last = False
        while not is_last:
            is_last = self._take(waiting)
            if waiting and self._spooled(waiting, self._spool):
                waiting.clear()
                self._news.set()
        if waiting:
            self._lose(len(waiting), "it cannot be written")
        self._spooled_all.set()
        self._news.set()

    def _take(self, waiting: list[Message]) -> bool:
        """Move queued messages into `waiting`; True when no more will come."""
        with contextlib.suppress(queue.Empty):
            message = self._queue.get(timeout=_SPOOL_RETRY_S if waiting else _IDLE_S)
            for _ in range(_MAX_TAKEN):
                if message is None:
                    return True
                waiting.append(message)
                message = self._queue.get_nowait()
            if message is None:
                return True
            waiting.append(message)
        return False

    def _spooled(self, waiting: list[Message], spool: Spool) -> bool:
        """Write messages into the spool; False where they must wait for another try."""
        messages = waiting
        if self.lost > self._told_lost and len(spool) < MAX_SPOOLED:
            number = self.lost - self._told_lost
            text = f"{number} messages of {self.source} were lost before this one: no room for them"
            messages = [Message(waiting[0].time_ns, "warning", text), *waiting]
        told, room = self.lost, max(0, MAX_SPOOLED - len(spool))
        try:
            if room:
                spool.add(messages[:room])
                self._told_lost = told
        except sqlite3.Error as error:
            if len(waiting) < _MAX_WAITING:
                return False
            self._lose(len(waiting), str(error))
        else:
            if len(messages) > room:
                self._lose(len(messages) - room, "it is full")
        return True

    def _lose(self, number: int, why: str) -> None:
        log.error("observatory log spool: %s; %d messages not kept", why, number)
        self.lost += number

    # --- the thread that delivers -----------------------------------------------------------------

    def _send(self) -> None:
        assert self._spool is not None
        assert self._caller is not None
        pause_s = FIRST_PAUSE_S
        while True:
            is_last = self._spooled_all.is_set()
            self._news.clear()
            if self._deliver(self._spool, self._caller):
                pause_s = FIRST_PAUSE_S
                if is_last:
                    break
                self._news.wait(_IDLE_S)
            elif is_last:
                log.warning("%d messages for the observatory log stay spooled", len(self._spool))
                break
            else:
                self._clock.wait(self._spooled_all, pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        self._caller.close()
        self._spool.close()

    def _deliver(self, spool: Spool, caller: Caller) -> bool:
        """Send spooled messages until none is left or it fails; True when none is left."""
        while True:
            try:
                batch = spool.head()
                if not batch:
                    return True
                caller.call(
                    "append",
                    {"source": self.source, "spool": spool.identity, "messages": batch},
                    timeout_s=CALL_TIMEOUT_S, is_safe=True,
                )  # fmt: skip
                spool.drop_through(batch[-1][0])
            except NightjarError as error:
                self._note_away(error.message)
                return False
            except Exception as error:
                # Whatever it is, the thread must live: it is tried again.
                if self.is_reachable is not False:
                    log.exception("delivering to the observatory log")
                self._note_away(str(error))
                return False
            if self.is_reachable is False:
                log.info("observatory log is back")
            self.is_reachable = True

    def _note_away(self, message: str) -> None:
        if self.is_reachable is not False:
            log.warning("observatory log: %s; messages are kept", message)
        self.is_reachable = False
