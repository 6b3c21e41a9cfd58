# SPDX-License-Identifier: BSD-3-Clause
"""Messages in a database, SQLite or PostgreSQL, through the same SQLAlchemy expressions.

Writing and reading each have a lane (thread and connection) of their own, so that a long search
does not hold up a daemon that reports. Every failure of the database becomes one of three codes:
BUSY (locked), NO_SPACE (full), STORAGE_FAILED (gone, damaged, hung).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from nightjar.api.obslog import MAX_SOURCE
from nightjar.errors import Busy, Code, NightjarError, StorageError
from nightjar.files import free_bytes
from nightjard.obslogd.lane import Lane
from nightjard.obslogd.migrations import SCHEMA

_MAX_PAGE_BYTES = 400_000  # a reply, with every letter escaped, stays under the RPC limit of 1 MB
_WRITER_LOCK = 0x6E6A6F6C  # "njol": several log daemons on one PostgreSQL write one at a time
_SQLITE_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_POSTGRESQL_BUSY = {"55P03", "57014", "40001", "40P01"}  # lock, statement timeout, serialization
_POSTGRESQL_FULL = {"53100"}

KEYED = 0
"""Sequence number of a message with a key of its own; those of spools begin at 1."""

_Result = TypeVar("_Result")

metadata = sa.MetaData()

message_table = sa.Table(
    "message",
    metadata,
    sa.Column(
        "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True,
        autoincrement=True,
    ),
    sa.Column("time_ns", sa.BigInteger, nullable=False),
    sa.Column("received_ns", sa.BigInteger, nullable=False),
    sa.Column("source", sa.String(MAX_SOURCE), nullable=False),
    sa.Column("severity", sa.SmallInteger, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("spool", sa.String(120)),
    sa.Column("sequence", sa.BigInteger),
    sa.UniqueConstraint("spool", "sequence", name="uq_message_spool_sequence"),
    sa.Index("ix_message_time_ns_id", "time_ns", "id"),
    sa.Index("ix_message_source_id", "source", "id"),
    sqlite_autoincrement=True,  # ids are cursors of readers: never given twice
)  # fmt: skip

probe_table = sa.Table(
    "probe",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("time_ns", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A message to store; `spool` and `sequence` are None for one that may not come again."""

    time_ns: int
    received_ns: int
    source: str
    severity: int
    text: str
    spool: str | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A stored message."""

    id: int
    time_ns: int
    received_ns: int
    source: str
    severity: int
    text: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages are wanted; None for all."""

    text: str = ""
    source: str | None = None
    severity: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What a database held when it was opened."""

    messages: int
    last: Found | None


class Store:
    """One database of messages; every method may be called from any thread.

    Parameters
    ----------
    url
        ``sqlite`` with an absolute path or ``postgresql+psycopg``.
    timeout_s
        Longest wait of :meth:`append`, :meth:`tail`, :meth:`search`.
    """

    def __init__(self, url: URL, timeout_s: float) -> None:
        self.kind = url.get_backend_name()
        self.path = Path(url.database or "") if self.kind == "sqlite" else None
        self.label = str(self.path or url.render_as_string(hide_password=True))
        self._timeout_s = timeout_s
        self._may_create = True
        self._inodes: dict[bool, tuple[int, int]] = {}  # of the writer's and the reader's file
        self._engines = [self._make_engine(url, is_writer) for is_writer in (True, False)]
        self._writer = Lane("database-write", self._engines[0], self._is_passing)
        self._reader = Lane("database-read", self._engines[1], self._is_passing)

    # --- connections -----------------------------------------------------------------------

    def _make_engine(self, url: URL, is_writer: bool) -> Engine:
        # The database gives up before the lane does, so that the answer says why.
        patience_s = self._timeout_s * 0.7
        if self.path is None:
            settings = {
                "lock_timeout": f"{patience_s * 1000:.0f}",
                "statement_timeout": f"{patience_s * 1000:.0f}",
                "default_transaction_read_only": "off" if is_writer else "on",
                "application_name": "obslogd",
            }
            arguments = {
                "connect_timeout": max(2, round(self._timeout_s)),
                "tcp_user_timeout": round(self._timeout_s * 1000),
                "options": " ".join(f"-c {key}={value}" for key, value in settings.items()),
            }
            return sa.create_engine(url, poolclass=NullPool, connect_args=arguments)
        engine = sa.create_engine(
            url, poolclass=NullPool, creator=lambda: self._open_file(is_writer, patience_s)
        )
        # A writer that begins as a reader cannot wait for its turn: SQLite refuses at once.
        begin = "BEGIN IMMEDIATE" if is_writer else "BEGIN"
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine

    def _open_file(self, is_writer: bool, patience_s: float) -> sqlite3.Connection:
        assert self.path is not None
        mode = "rwc" if is_writer and self._may_create else "rw"
        db = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}", uri=True, timeout=patience_s,
            isolation_level=None, check_same_thread=False,
        )  # fmt: skip
        try:
            if is_writer:
                db.execute("PRAGMA journal_mode=WAL")
                # A sender forgets what was acknowledged: it must survive a power cut.
                db.execute("PRAGMA synchronous=FULL")
            else:
                db.execute("PRAGMA query_only=ON")
            db.create_function("lower", 1, _lower, deterministic=True)  # SQLite's knows ASCII only
            stat = os.stat(self.path)
            self._inodes[is_writer] = (stat.st_dev, stat.st_ino)
        except BaseException:
            db.close()
            raise
        return db

    def _require_file(self, is_writer: bool = True) -> None:
        """Raise where the open file is no more the one of that name: what is written is lost."""
        if self.path is None:
            return
        try:
            stat = os.stat(self.path)
            if (stat.st_dev, stat.st_ino) == self._inodes.get(is_writer):
                return
            what = "was replaced"
        except OSError as error:
            what = f"is gone ({error.strerror})"
        raise StorageError(
            f"the database file {self.path} {what}; put it back, or restart the daemon to begin "
            f"a new one",
            path=str(self.path),
        )

    def _is_passing(self, error: SQLAlchemyError) -> bool:
        return self._translate(error).code in (Code.BUSY, Code.NO_SPACE)

    def _translate(self, error: Exception) -> NightjarError:
        if isinstance(error, NightjarError):
            return error
        original = error.orig if isinstance(error, DBAPIError) else error
        text = " ".join(str(original).split())[:200] or type(original).__name__
        primary = (getattr(original, "sqlite_errorcode", None) or 0) & 0xFF
        state = getattr(original, "sqlstate", None)
        if primary in _SQLITE_BUSY or state in _POSTGRESQL_BUSY:
            return Busy(f"the database {self.label} is locked by another program ({text})")
        if primary == sqlite3.SQLITE_FULL or state in _POSTGRESQL_FULL:
            return StorageError(
                f"no space for the database {self.label}: {text}; free some", code=Code.NO_SPACE
            )
        return StorageError(f"the database {self.label} failed: {text}")

    def _run(self, lane: Lane, work: Callable[[Connection], _Result]) -> _Result:
        try:
            return lane.run(work, self._timeout_s)
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise self._translate(error) from error

    # --- opening and watching, for one supervising thread -------------------------------------

    def begin_open(self) -> Future[Totals]:
        """Bring the schema up to date; the future gives what is there or a NightjarError."""
        return self._supervised(self._open)

    def begin_check(self, probe_ns: int | None) -> Future[int | None]:
        """Look whether the database is still there; the future gives the free bytes of its disk.

        `probe_ns`, where given, is written into the database to see whether that works again.
        """

        def check(connection: Connection) -> int | None:
            self._require_file()
            if probe_ns is not None:
                with connection.begin():
                    done = connection.execute(probe_table.update().values(time_ns=probe_ns))
                    if done.rowcount == 0:
                        connection.execute(probe_table.insert().values(id=1, time_ns=probe_ns))
            else:
                with connection.begin():
                    connection.execute(sa.select(1))
            return None if self.path is None else free_bytes(self.path.parent)

        return self._supervised(check)

    def _supervised(self, work: Callable[[Connection], _Result]) -> Future[_Result]:
        translated: Future[_Result] = Future()

        def done(future: Future[_Result]) -> None:
            error = future.exception()
            if error is None:
                translated.set_result(future.result())
            elif isinstance(error, Exception):
                translated.set_exception(self._translate(error))

        self._writer.submit(work).add_done_callback(done)
        return translated

    def interrupt(self) -> None:
        """Break what the writing thread is stuck in."""
        self._writer.interrupt()

    def _open(self, connection: Connection) -> Totals:
        with connection.begin():
            if self.path is None:
                # A migration may take longer than any command may.
                connection.execute(sa.text("SET LOCAL statement_timeout = '10min'"))
            SCHEMA.upgrade(connection)
            count = connection.execute(sa.select(sa.func.count()).select_from(message_table))
            rows = connection.execute(_newest(Filter()).limit(1)).all()
            totals = Totals(count.scalar_one(), _found(rows[0]) if rows else None)
        self._may_create = False  # a file that goes away later is not silently begun anew
        self._require_file()
        return totals

    def close(self) -> None:
        """Finish what is queued and end both threads."""
        self._writer.close(self._timeout_s)
        self._reader.close(self._timeout_s)
        for engine in self._engines:
            engine.dispose()

    # --- messages ----------------------------------------------------------------------------

    def append(self, rows: Sequence[Row]) -> list[int]:
        """Store messages in one transaction; return the ids of those that were new, ascending.

        Raises
        ------
        Busy, StorageError
            Nothing was stored, or (no answer in time) it is not known: send it again.
        """

        def insert(connection: Connection) -> list[int]:
            self._require_file()
            with connection.begin():
                if self.path is None:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITER_LOCK)))
                ids = self._insert_new(connection, rows)
            self._require_file()
            return ids

        return self._run(self._writer, insert)

    def _insert_new(self, connection: Connection, rows: Sequence[Row]) -> list[int]:
        kept = self._kept(connection, rows)
        fresh = []
        for row in rows:
            time_ns = None if row.sequence is None else kept.get((row.spool, row.sequence))
            values = {name: getattr(row, name) for name in Row.__slots__}
            if time_ns is not None and time_ns != row.time_ns and row.sequence != KEYED:
                # A spool file that was put back from a copy counts from an old number again:
                # another message, not the same one once more.
                values["spool"] = f"{row.spool}/{row.time_ns:x}"
            elif time_ns is not None:
                continue
            fresh.append(values)
        if not fresh:
            return []
        dialect: Any = sqlite if self.path is not None else postgresql
        statement = dialect.insert(message_table).on_conflict_do_nothing(
            index_elements=["spool", "sequence"]
        )
        return sorted(connection.execute(statement.returning(message_table.c.id), fresh).scalars())

    @staticmethod
    def _kept(connection: Connection, rows: Sequence[Row]) -> dict[tuple[str | None, int], int]:
        """Return the times of those that are stored, by (spool, sequence)."""
        table = message_table.c
        kept: dict[tuple[str | None, int], int] = {}
        for spool in {row.spool for row in rows if row.spool is not None}:
            numbers = [row.sequence for row in rows if row.spool == spool]
            found = connection.execute(
                sa.select(table.sequence, table.time_ns).where(
                    table.spool == spool, table.sequence.in_(numbers)
                )
            )
            kept.update({(spool, number): time_ns for number, time_ns in found})
        return kept

    def tail(self, count: int, after: int | None, wanted: Filter) -> tuple[list[Found], int]:
        """Return messages in order of arrival, and the id of the last message of all.

        `after` None gives the last `count`, else the first `count` with a greater id.
        """
        table = message_table.c

        def read(connection: Connection) -> tuple[list[Found], int]:
            self._require_file(is_writer=False)
            query = _newest(wanted).limit(count)
            if after is not None:
                query = _select(wanted).where(table.id > after).order_by(table.id).limit(count)
            with connection.begin():
                # First: a reader that goes on after it must not skip what arrives meanwhile.
                last = connection.execute(sa.select(sa.func.max(table.id))).scalar_one() or 0
                found = _page(connection.execute(query))
            found = found if after is not None else found[::-1]
            return found, max(last, found[-1].id) if found else last

        return self._run(self._reader, read)

    def search(
        self, wanted: Filter, limit: int, before: tuple[int, int] | None
    ) -> tuple[list[Found], bool]:
        """Return messages by time, newest first, and whether there are more.

        `before` is the (time_ns, id) of the last message of the page before.
        """
        table = message_table.c

        def read(connection: Connection) -> tuple[list[Found], bool]:
            self._require_file(is_writer=False)
            order = (table.time_ns.desc(), table.id.desc())
            query = _select(wanted).order_by(*order).limit(limit + 1)
            if before is not None:
                query = query.where(sa.tuple_(table.time_ns, table.id) < sa.tuple_(*before))
            with connection.begin():
                rows = connection.execute(query).all()
            found = _page(rows[:limit])
            return found, len(found) < len(rows)

        return self._run(self._reader, read)


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


def _select(wanted: Filter) -> sa.Select[Any]:
    table = message_table.c
    query = sa.select(
        table.id, table.time_ns, table.received_ns, table.source, table.severity, table.text
    )
    if wanted.text:
        query = query.where(table.text.icontains(wanted.text.lower(), autoescape=True))
    if wanted.source is not None and "*" in wanted.source:
        parts = [_escaped(part) for part in wanted.source.lower().split("*")]
        query = query.where(sa.func.lower(table.source).like("%".join(parts), escape="/"))
    elif wanted.source is not None:
        query = query.where(table.source == wanted.source)
    if wanted.severity is not None:
        query = query.where(table.severity >= wanted.severity)
    if wanted.since_ns is not None:
        query = query.where(table.time_ns >= wanted.since_ns)
    if wanted.until_ns is not None:
        query = query.where(table.time_ns < wanted.until_ns)
    return query


def _escaped(text: str) -> str:
    return text.replace("/", "//").replace("%", "/%").replace("_", "/_")


def _newest(wanted: Filter) -> sa.Select[Any]:
    return _select(wanted).order_by(message_table.c.id.desc())


def _found(row: Any) -> Found:
    return Found(*row)


def _page(rows: Any) -> list[Found]:
    """Return as many rows, from the first, as one reply can hold; at least one if there is one."""
    found: list[Found] = []
    size = 0
    for row in rows:
        message = _found(row)
        size += len(message.text.encode()) + len(message.source.encode()) + 100
        if found and size > _MAX_PAGE_BYTES:
            break
        found.append(message)
    return found
