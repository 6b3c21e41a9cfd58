# SPDX-License-Identifier: BSD-3-Clause
"""The observatory log: what is accepted, how it is stored and found, how the database is doing."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from nightjar.api.obslog import MAX_APPEND, MAX_SOURCE, MAX_TEXT, SEVERITIES
from nightjar.api.states import Level, Summary
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Code, InvalidArgument, NightjarError, StorageError
from nightjar.health import Health
from nightjar.times import iso, parse_iso
from nightjard.obslogd.store import KEYED, Filter, Found, Row, Totals
from nightjard.obslogd.text import one_line

CHECK_INTERVAL_S = 5.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
STUCK_S = 30.0
_HEALTH_PART = "database"
_SPACE_PART = "disk space"
_SPOOL = re.compile(r"[0-9A-Za-z-]{1,64}\Z")
_PAGE = re.compile(r"(\d{1,19}):(\d{1,19})\Z")
_LARGEST = 2**63 - 1


class Database(Protocol):
    """What is needed of :class:`nightjard.obslogd.store.Store`."""

    kind: str
    label: str

    def begin_open(self) -> Future[Totals]:
        """Open it; the future gives what is there."""
        ...

    def begin_check(self, probe_ns: int | None) -> Future[int | None]:
        """Look whether it is well; the future gives the free bytes of its disk."""
        ...

    def interrupt(self) -> None:
        """Break what hangs."""
        ...

    def append(self, rows: list[Row]) -> list[int]:
        """Store rows; return the ids of the new ones."""
        ...

    def tail(self, count: int, after: int | None, wanted: Filter) -> tuple[list[Found], int]:
        """Return messages by arrival and the last id of all."""
        ...

    def search(
        self, wanted: Filter, limit: int, before: tuple[int, int] | None
    ) -> tuple[list[Found], bool]:
        """Return messages by time and whether there are more."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class LogBook:
    """The log of one observatory; commands may come from any thread.

    Parameters
    ----------
    store
        Where messages are kept.
    clock
        Stamps what has no time of its own, and paces looking after the database.
    health
        Told how the database is doing.
    minimum_free_bytes
        Less space than this on the database's disk is a reason for DEGRADED.
    count
        Called as ``count(what, amount)`` for stored, duplicates and failures.
    """

    def __init__(
        self,
        store: Database,
        clock: Clock,
        health: Health,
        minimum_free_bytes: int = 0,
        count: Callable[[str, int], None] = lambda what, amount: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._health = health
        self._minimum_free_bytes = minimum_free_bytes
        self._report = count
        self._lock = threading.Lock()
        self.has_tried = threading.Event()
        """Set when the database was opened, or could not be, for the first time."""
        self._state = "OPENING"
        self._state_since_ns = clock.now_ns()
        self._reason = "the database is being opened"
        self._pending: Future[Totals] | Future[int | None] | None = None
        self._pending_since_ns = 0
        self._next_look_ns = 0
        self._pause_s = FIRST_PAUSE_S
        self._counts = {"stored": 0, "duplicates": 0, "failures": 0}
        self._messages: int | None = None
        self._last: Found | None = None
        self._free_bytes: int | None = None
        self._last_error: dict[str, Any] | None = None

    # --- looking after the database, from one thread ------------------------------------------

    def tick(self) -> None:
        """Open the database where it is not, look whether it is well where it is; never waits."""
        now = self._clock.monotonic_ns()
        if self._pending is not None:
            if self._pending.done():
                pending, self._pending = self._pending, None
                self._take(pending)
                self.has_tried.set()
            elif now - self._pending_since_ns > STUCK_S * NS_PER_S:
                self._pending_since_ns = now
                self._lose(StorageError(f"{self._store.label} has not answered for {STUCK_S:g} s"))
                self._store.interrupt()
            return
        if now < self._next_look_ns or self._state == "CLOSED":
            return
        self._pending_since_ns = now
        try:
            if self._state == "OPEN":
                is_ill = self._health.level_of(_HEALTH_PART) is not Level.OK
                self._pending = self._store.begin_check(self._clock.now_ns() if is_ill else None)
            else:
                self._pending = self._store.begin_open()
        except NightjarError as error:  # too many commands wait: it is alive, but slow
            self._look_again(FIRST_PAUSE_S)
            self._health.set(_HEALTH_PART, Level.DEGRADED, error.message)

    def _take(self, pending: Future[Any]) -> None:
        error = pending.exception()
        if error is not None:
            if not isinstance(error, NightjarError):
                raise error
            self._note_failure(error)
            if self._state == "OPEN":  # locked or full: still there
                self._look_again(FIRST_PAUSE_S * 4)
            else:
                self._look_again(self._pause_s)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return
        result = pending.result()
        if isinstance(result, Totals):
            with self._lock:
                self._messages, self._last = result.messages, result.last
            self._set_state("OPEN", "")
            self._pause_s = FIRST_PAUSE_S
            self._look_again(0)
        else:
            self._free_bytes = result
            self._look_again(CHECK_INTERVAL_S)
        self._health.ok(_HEALTH_PART)
        self._watch_space()

    def _look_again(self, after_s: float) -> None:
        self._next_look_ns = self._clock.monotonic_ns() + round(after_s * NS_PER_S)

    def _watch_space(self) -> None:
        free = self._free_bytes
        if free is not None and free < self._minimum_free_bytes:
            self._health.set(
                _SPACE_PART, Level.DEGRADED,
                f"{free / 1e6:.0f} MB free for {self._store.label}, less than "
                f"{self._minimum_free_bytes / 1e6:.0f} MB: free some",
            )  # fmt: skip
        else:
            self._health.ok(_SPACE_PART)

    def _note_failure(self, error: NightjarError) -> None:
        with self._lock:
            self._counts["failures"] += 1
            self._last_error = {
                "time": iso(self._clock.now_ns()), "name": error.code.name,
                "message": error.message,
            }  # fmt: skip
        self._report("failures", 1)
        if error.code in (Code.BUSY, Code.NO_SPACE):
            self._health.set(_HEALTH_PART, Level.DEGRADED, error.message)
        else:
            self._lose(error)

    def _lose(self, error: NightjarError) -> None:
        self._set_state("LOST", error.message)
        self._health.set(_HEALTH_PART, Level.DEGRADED, error.message)

    def _set_state(self, state: str, reason: str) -> None:
        with self._lock:
            if self._state == "CLOSED":
                return
            if state != self._state:
                self._state, self._state_since_ns = state, self._clock.now_ns()
            self._reason = reason

    def close(self) -> None:
        """Let what is being stored end, then close the database."""
        self._set_state("CLOSED", "the daemon is stopping")
        self._store.close()

    # --- commands ------------------------------------------------------------------------------

    def append(self, source: str, spool: str, messages: list[Any]) -> dict[str, Any]:
        """Store the messages of a sender's spool, each once.

        Returns
        -------
        dict
            ``stored`` and ``duplicates`` (counts), ``through`` (the last sequence number that is
            safe), ``received``, ``first`` and ``last`` (ISO times).
        """
        if _SPOOL.match(spool) is None:
            raise InvalidArgument("spool must be 1 to 64 letters, digits and -", name="spool")
        if len(messages) > MAX_APPEND:
            raise InvalidArgument(f"messages must be at most {MAX_APPEND}, not {len(messages)}")
        name, now_ns = _source(source), self._clock.now_ns()
        rows = [_row(index, raw, name, spool, now_ns) for index, raw in enumerate(messages)]
        stored = self._put(rows) if rows else 0
        return {
            "stored": stored,
            "duplicates": len(rows) - stored,
            "through": rows[-1].sequence if rows else None,
            "received": iso(now_ns),
            "first": iso(rows[0].time_ns) if rows else None,
            "last": iso(rows[-1].time_ns) if rows else None,
        }

    def write(self, source: str, severity: str, text: str, key: str | None) -> dict[str, Any]:
        """Store one message; with a key, once."""
        line = one_line(text, MAX_TEXT)
        if not line:
            raise InvalidArgument("text is empty", name="text")
        if key is not None and _SPOOL.match(key) is None:
            raise InvalidArgument("key must be 1 to 64 letters, digits and -", name="key")
        now_ns = self._clock.now_ns()
        spool, sequence = (None, None) if key is None else (f"key:{key}", KEYED)
        rank = SEVERITIES.index(severity)
        row = Row(now_ns, now_ns, _source(source), rank, line, spool, sequence)
        return {"stored": self._put([row]), "time": iso(now_ns)}

    def _put(self, rows: list[Row]) -> int:
        self._require_open()
        try:
            ids = self._store.append(rows)
        except NightjarError as error:
            self._note_failure(error)
            raise
        duplicates = len(rows) - len(ids)
        with self._lock:
            self._counts["stored"] += len(ids)
            self._counts["duplicates"] += duplicates
            self._messages = (self._messages or 0) + len(ids)
            if ids and (self._last is None or ids[-1] > self._last.id):
                row = rows[-1]
                self._last = Found(
                    ids[-1], row.time_ns, row.received_ns, row.source, row.severity, row.text
                )
        for what, amount in (("stored", len(ids)), ("duplicates", duplicates)):
            if amount:
                self._report(what, amount)
        if self._health.level_of(_HEALTH_PART) is not Level.OK:
            self._health.ok(_HEALTH_PART)
        return len(ids)

    def _require_open(self) -> None:
        if self._state == "CLOSED":
            raise StorageError("the observatory log is stopping", code=Code.STOPPING)
        if self._state != "OPEN":
            raise StorageError(self._reason)

    def tail(
        self, count: int, after: int | None, source: str | None, severity: str | None
    ) -> dict[str, Any]:
        """Return messages in order of arrival and the id of the last of all."""
        wanted = Filter(source=source, severity=_rank(severity))
        found, last_id = self._ask(lambda: self._store.tail(count, after, wanted))
        return {"messages": [_shown(message) for message in found], "last_id": last_id}

    def search(
        self,
        text: str,
        source: str | None,
        severity: str | None,
        since: str | None,
        until: str | None,
        limit: int,
        page: str | None,
    ) -> dict[str, Any]:
        """Return messages by time, newest first, and what to give as `page` for those before."""
        wanted = Filter(
            one_line(text, MAX_TEXT), source, _rank(severity), _time("since", since),
            _time("until", until),
        )  # fmt: skip
        before = None
        if page is not None:
            match = _PAGE.match(page)
            if match is None or int(match[1]) > _LARGEST or int(match[2]) > _LARGEST:
                raise InvalidArgument("page must be the `next` of a reply", name="page")
            before = (int(match[1]), int(match[2]))
        found, has_more = self._ask(lambda: self._store.search(wanted, limit, before))
        last = found[-1] if found else None
        return {
            "messages": [_shown(message) for message in found],
            "next": f"{last.time_ns}:{last.id}" if has_more and last is not None else None,
        }

    def _ask(self, question: Callable[[], Any]) -> Any:
        self._require_open()
        try:
            return question()
        except NightjarError as error:
            # A slow search is no fault of the log; whether the database is, the next look tells.
            with self._lock:
                self._last_error = {
                    "time": iso(self._clock.now_ns()), "name": error.code.name,
                    "message": error.message,
                }  # fmt: skip
            self._next_look_ns = 0
            raise

    def status(self) -> Mapping[str, Any]:
        """Return the snapshot; see :data:`nightjar.api.obslog.STATUS_KEYS`."""
        summary = {"OPEN": Summary.READY, "CLOSED": Summary.STOPPING}
        with self._lock:
            last = self._last
            return {
                "summary": summary.get(self._state, Summary.STANDBY).name,
                "state": self._state,
                "state_since": iso(self._state_since_ns),
                "database": self._store.label,
                "database_kind": self._store.kind,
                "messages": self._messages,
                "last_id": last.id if last else None,
                "last_time": iso(last.time_ns) if last else None,
                "last_source": last.source if last else None,
                **self._counts,
                "last_error": self._last_error,
                "free_bytes": self._free_bytes,
            }


def _source(given: str) -> str:
    name = one_line(given, MAX_SOURCE)
    if not name:
        raise InvalidArgument("source is empty", name="source")
    return name


def _rank(severity: str | None) -> int | None:
    return None if severity is None or severity == SEVERITIES[0] else SEVERITIES.index(severity)


def _time(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_iso(text)
    except ValueError:
        raise InvalidArgument(
            f"{name} must be UTC as YYYY-MM-DD or YYYY-MM-DDThh:mm:ss, not {text[:40]!r}", name=name
        ) from None


def _row(index: int, raw: Any, source: str, spool: str, received_ns: int) -> Row:
    """Return the row of one ``[sequence, time, severity, text]`` of a sender."""

    def wrong(what: str) -> InvalidArgument:
        return InvalidArgument(f"messages[{index}]: {what}", name="messages")

    if not isinstance(raw, list | tuple) or len(raw) != 4:
        raise wrong("must be [sequence, time, severity, text]")
    sequence, time, severity, text = raw
    if type(sequence) is not int or not 0 <= sequence <= _LARGEST:
        raise wrong("sequence must be a whole number from 0")
    if isinstance(time, str):
        try:
            time = parse_iso(time)
        except ValueError:
            raise wrong("time must be nanoseconds UTC or ISO text") from None
    if type(time) is not int or not 0 <= time <= _LARGEST:
        raise wrong("time must be nanoseconds UTC or ISO text")
    if not isinstance(severity, str) or severity not in SEVERITIES:
        raise wrong(f"severity must be one of {', '.join(SEVERITIES)}")
    if not isinstance(text, str):
        raise wrong("text must be a text")
    # A sender would offer a refused message for ever, so an empty or odd text is still stored.
    line = one_line(text, MAX_TEXT) or "(empty message)"
    return Row(time, received_ns, source, SEVERITIES.index(severity), line, spool, sequence)


def _shown(message: Found) -> dict[str, Any]:
    return {
        "id": message.id,
        "time": iso(message.time_ns),
        "received": iso(message.received_ns),
        "source": message.source,
        "severity": SEVERITIES[message.severity],
        "text": message.text,
    }
