# SPDX-License-Identifier: BSD-3-Clause
"""The ledger: every file of the three streams, where it came from, when it was proven.

SQLite beside the daemon's memory, or any database of SQLAlchemy. What cannot be written now is kept
in memory and written later: a database that is full or away never stops a log.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from nightjar.api.telog import FileState
from nightjar.clock import Clock
from nightjar.errors import Code, StorageError
from nightjard.telogd.migrations import SCHEMA
from nightjard.telogd.minutes import MinuteFile

log = logging.getLogger(__name__)

TIMEOUT_S = 3
MOST_WAITING = 20_000
metadata = sa.MetaData()

file_table = sa.Table(
    "file",
    metadata,
    sa.Column(
        "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True,
        autoincrement=True,
    ),
    sa.Column("stream", sa.String(16), nullable=False),
    sa.Column("day", sa.String(8), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("start_ns", sa.BigInteger),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("source", sa.String(400), nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("crc32", sa.BigInteger),
    sa.Column("records", sa.Integer),
    sa.Column("mtime_ns", sa.BigInteger),
    sa.Column("seen_ns", sa.BigInteger, nullable=False),
    sa.Column("copied_ns", sa.BigInteger),
    sa.Column("verified_ns", sa.BigInteger),
    sa.Column("reason", sa.String(1000), nullable=False),
    sa.UniqueConstraint("stream", "day", "name", name="uq_file_stream_day_name"),
    sa.Index("ix_file_day_start_ns", "day", "start_ns"),
)  # fmt: skip

_PROVEN = (FileState.WHOLE, FileState.PARTIAL)


class Ledger:
    """Files that were seen, copied, proven; thread-safe.

    Parameters
    ----------
    url
        SQLAlchemy address.
    clock
        Dates the entries.

    Attributes
    ----------
    trouble
        Why entries wait in memory; "" when none does.
    version
        Counts the times that something was written.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[tuple[int, MinuteFile]] = deque()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._url = url
        self._engine: Engine | None = None
        self.trouble = ""
        self.dropped = self.version = 0

    @property
    def waiting(self) -> int:
        """Entries that are not in the database yet."""
        return len(self._waiting)

    def note(self, file: MinuteFile) -> None:
        """Take an entry; it is written by :meth:`flush`, which the caller need not wait for."""
        with self._lock:
            self._waiting.append((self._clock.now_ns(), file))
            if len(self._waiting) > MOST_WAITING:
                self._waiting.popleft()
                self.dropped += 1

    def flush(self) -> None:
        """Write what waits; where the database refuses, it goes on waiting and `trouble` says why.

        Called by one thread, and before an answer is given.
        """
        with self._writing:
            with self._lock:
                rows = list(self._waiting)
            if not rows and self._engine is not None:
                return
            try:
                with self._transaction("write the ledger") as connection:
                    for when, file in rows:
                        _upsert(connection, when, file)
            except StorageError as error:
                if error.message != self.trouble:
                    log.error("%s", error.message)
                self.trouble = error.message
                return
            self.trouble = ""
            with self._lock:
                for _ in rows:
                    self._waiting.popleft()
            self.version += 1

    @contextlib.contextmanager
    def _transaction(self, what: str) -> Iterator[Connection]:
        try:
            if self._engine is None:
                engine = _engine(self._url)
                with engine.begin() as connection:
                    SCHEMA.upgrade(connection)
                self._engine = engine
            with self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            text = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
            code = Code.NO_SPACE if "disk is full" in text else Code.STORAGE_FAILED
            raise StorageError(f"cannot {what}: database: {text}", code=code) from error

    def files(
        self, day: str | None, stream: str | None, state: str | None, count: int
    ) -> list[dict[str, Any]]:
        """Return entries, newest first.

        Raises
        ------
        StorageError
            The database cannot be read.
        """
        self.flush()
        file = file_table.c
        query = sa.select(file_table).order_by(file.day.desc(), file.name.desc()).limit(count)
        for column, value in ((file.day, day), (file.stream, stream), (file.state, state)):
            if value is not None:
                query = query.where(column == value)
        with self._transaction("read the ledger") as connection:
            rows = connection.execute(query).mappings().all()
        return [{key: row[key] for key in row if key != "id"} for row in rows]

    def states(self, stream: str, day: str) -> dict[int, tuple[str, int | None]]:
        """Return (state, size) of a day's minute files by their start, the best where several."""
        self.flush()
        file = file_table.c
        query = sa.select(file.start_ns, file.state, file.size).where(
            file.stream == stream, file.day == day, file.start_ns.is_not(None)
        )
        found: dict[int, tuple[str, int | None]] = {}
        with self._transaction("read the ledger") as connection:
            for start, state, size in connection.execute(query):
                if state in ("whole", "partial") or start not in found:
                    found[start] = (state, size)
        return found

    def known(self, stream: str, day: str) -> dict[str, tuple[str, int | None, int | None]]:
        """Return (state, size, mtime_ns) of a day's files by name."""
        self.flush()
        file = file_table.c
        query = sa.select(file.name, file.state, file.size, file.mtime_ns).where(
            file.stream == stream, file.day == day
        )
        with self._transaction("read the ledger") as connection:
            return {name: (state, size, mtime) for name, state, size, mtime in
                    connection.execute(query)}  # fmt: skip

    def days(self) -> list[str]:
        """Return the days that have files, newest first."""
        self.flush()
        query = sa.select(file_table.c.day).distinct().order_by(file_table.c.day.desc()).limit(400)
        with self._transaction("read the ledger") as connection:
            return list(connection.execute(query).scalars())

    def close(self) -> None:
        """Write what waits and close the database."""
        self.flush()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


def _upsert(connection: Connection, when: int, one: MinuteFile) -> None:
    file = file_table.c
    key = sa.and_(file.stream == one.stream, file.day == one.day, file.name == one.name)
    is_here = one.state is not FileState.SEEN
    values = {
        "start_ns": one.start_ns, "state": one.state.value, "source": one.source[:400],
        "size": one.size, "crc32": one.crc32, "records": one.records, "mtime_ns": one.mtime_ns,
        "reason": one.reason[:1000],
    }  # fmt: skip
    if is_here:
        values |= {"copied_ns": when, "verified_ns": when if one.state in _PROVEN else None}
    done = connection.execute(sa.update(file_table).where(key).values(**values))
    if done.rowcount == 0:
        connection.execute(
            sa.insert(file_table).values(
                stream=one.stream, day=one.day, name=one.name, seen_ns=when, **values
            )
        )


def _engine(url: str) -> Engine:
    address = sa.make_url(url)
    if address.get_backend_name() != "sqlite":
        return sa.create_engine(
            address, pool_pre_ping=True, pool_timeout=TIMEOUT_S,
            connect_args={
                "connect_timeout": TIMEOUT_S,
                "options": f"-c statement_timeout={TIMEOUT_S}s -c lock_timeout={TIMEOUT_S}s",
            },
        )  # fmt: skip
    engine = sa.create_engine(
        address, pool_timeout=TIMEOUT_S,
        connect_args={"timeout": TIMEOUT_S, "check_same_thread": False},
    )

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    sa.event.listen(engine, "connect", connected)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(
        "BEGIN IMMEDIATE"))  # fmt: skip
    return engine
