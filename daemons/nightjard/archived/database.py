# SPDX-License-Identifier: BSD-3-Clause
"""Connections to the archive's database: transactions, durability, deadlines.

A change is durable when the call returns, unless it says otherwise. With SQLite that is done here
and not by SQLite: it would sync while it holds the lock of all writers, and on a disk that is busy
with frames a sync takes tens of milliseconds. So it commits to its write-ahead log without a sync,
and the log file is synced after the lock is free, by all who wait at the same time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from nightjar.errors import Code, StorageError
from nightjard.archived.migrations import SCHEMA

TIMEOUT_S = 3


class Duplicate(StorageError):
    """A frame of that key, or a target of that name, is there already."""


class Database:
    """Transactions on one database; thread-safe.

    Parameters
    ----------
    url
        SQLAlchemy address.

    Raises
    ------
    StorageError
        The database cannot be opened or brought to the present form.
    """

    def __init__(self, url: str) -> None:
        # SQLite's own wait for its write lock sleeps up to 100 ms; this one wakes at once.
        self._writing = threading.Lock()
        self._drivers: list[Any] = []
        self._busy: dict[int, float] = {}  # thread -> when it went into the database
        with _failures("open the database"):
            address = sa.make_url(url)
            self._is_sqlite = address.get_backend_name() == "sqlite"
            self._log_path = f"{address.database}-wal"
            self._engine = _sqlite(address) if self._is_sqlite else _postgresql(address)
            self._writer = self._engine.execution_options(nightjar_writes=True)
            sa.event.listen(self._engine, "connect", self._remember)
            with self._writer.begin() as connection:
                SCHEMA.upgrade(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def write(self, what: str, *, durable: bool = True) -> Iterator[Connection]:
        """Give a transaction that writes; committed, and durable if asked, when the block ends.

        Raises
        ------
        StorageError
            The database failed or did not answer in time; `what` says what was tried.
        """
        if not self._writing.acquire(timeout=TIMEOUT_S):
            raise StorageError(f"cannot {what}: the database is busy for {TIMEOUT_S} s")
        try:
            with _failures(what), self._watched(), self._writer.begin() as connection:
                if not durable and not self._is_sqlite:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
                yield connection
        finally:
            self._writing.release()
        if durable and self._is_sqlite:
            self._sync(what)

    def _sync(self, what: str) -> None:
        try:
            descriptor = os.open(self._log_path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(
                f"cannot {what}: {self._log_path} cannot be synced: {error.strerror}"
            ) from error

    def tidy(self) -> None:
        """Move SQLite's write-ahead log into its database; called now and then by one thread."""
        if self._is_sqlite:
            with _failures("tidy the database"), self._engine.connect() as connection:
                driver = connection.connection.driver_connection
                assert driver is not None
                driver.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a transaction that reads; StorageError as :meth:`write`."""
        with (
            _failures("read the database"), self._watched(), self._engine.begin() as connection,
        ):  # fmt: skip
            yield connection

    # --- a server that hangs ---

    def _remember(self, driver: Any, _record: Any) -> None:
        self._drivers = [each for each in self._drivers if not getattr(each, "closed", False)]
        self._drivers.append(driver)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        thread = threading.get_ident()
        self._busy[thread] = time.monotonic()
        try:
            yield
        finally:
            del self._busy[thread]

    def end_stuck_calls(self) -> None:
        """Make calls fail that have waited too long for the server; called twice a second.

        The drivers have no deadline for an answer. SQLite's is its own, of a local disk.
        """
        started = min(list(self._busy.values()), default=None)
        if self._is_sqlite or started is None or time.monotonic() - started < 2 * TIMEOUT_S:
            return
        for driver in list(self._drivers):
            with contextlib.suppress(OSError, SQLAlchemyError, driver.Error):
                if not driver.closed:
                    with socket.socket(fileno=socket.dup(driver.fileno())) as channel:
                        channel.shutdown(socket.SHUT_RDWR)


def _postgresql(address: sa.URL) -> Engine:
    return sa.create_engine(
        address, pool_pre_ping=True, pool_timeout=TIMEOUT_S, pool_size=8, max_overflow=24,
        connect_args={
            "connect_timeout": TIMEOUT_S,
            "options": f"-c statement_timeout={TIMEOUT_S}s -c lock_timeout={TIMEOUT_S}s",
        },
    )  # fmt: skip


def _sqlite(address: sa.URL) -> Engine:
    engine = sa.create_engine(
        address, pool_timeout=TIMEOUT_S, pool_size=8, max_overflow=24,
        connect_args={"timeout": TIMEOUT_S, "check_same_thread": False},
    )  # fmt: skip

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise StorageError(
                f"the database {address.database} cannot use a write-ahead log: put it on a local "
                "disk or use PostgreSQL"
            )
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON", "wal_autocheckpoint=0"):
            connection.execute(f"PRAGMA {pragma}")

    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("nightjar_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    sa.event.listen(engine, "connect", connected)
    sa.event.listen(engine, "begin", begun)
    return engine


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Duplicate(f"cannot {what}: {error.orig}") from error
    except SQLAlchemyError as error:
        text = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        code = Code.NO_SPACE if "disk is full" in text else Code.STORAGE_FAILED
        raise StorageError(f"cannot {what}: database: {text}", code=code) from error
