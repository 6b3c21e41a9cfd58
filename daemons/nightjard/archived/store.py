# SPDX-License-Identifier: BSD-3-Clause
"""The archive's database: frames, their history, settings, the identity of roots.

SQLite or PostgreSQL through the same code. Whoever calls gets plain records; a database that fails
or does not answer is a StorageError within seconds.

A change is durable when the call returns, unless it says otherwise. With SQLite that is done here
and not by SQLite: it would sync while it holds the lock of all writers, and on a disk that is busy
with frames a sync takes tens of milliseconds. So it commits to its write-ahead log without a sync,
and the log file is synced after the lock is free, by all who wait at the same time.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from nightjar.api.archive import FrameState
from nightjar.errors import Code, StorageError
from nightjard.archived import migrations

TIMEOUT_S = 3
_BIG = sa.BigInteger()
_IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts only INTEGER keys

metadata = sa.MetaData()

raw_file = sa.Table(
    "raw_file",
    metadata,
    sa.Column("id", _IDENTITY, primary_key=True, autoincrement=True),
    sa.Column("daemon", sa.String(80), nullable=False),
    sa.Column("camera", sa.String(80), nullable=False),
    sa.Column("run", sa.String(200), nullable=False),
    sa.Column("number", _BIG, nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("size", _BIG, nullable=False),
    sa.Column("datasum", _BIG, nullable=False),
    sa.Column("data_offset", _BIG, nullable=False),
    sa.Column("night", sa.String(8), nullable=False),
    sa.Column("begin_ns", _BIG, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("is_archived", sa.Boolean, nullable=False),
    sa.Column("object", sa.String(80)),
    sa.Column("frame_type", sa.String(32)),
    sa.Column("prefix", sa.String(80)),
    sa.Column("target", sa.String(600)),
    sa.Column("new_header", sa.LargeBinary),
    sa.Column("plan_size", _BIG),
    sa.Column("plan_datasum", _BIG),
    sa.Column("verdict", sa.Text),
    sa.Column("path", sa.String(600)),
    sa.Column("file_name", sa.String(255)),
    sa.Column("accepted_ns", _BIG, nullable=False),
    sa.Column("finished_ns", _BIG),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_error", sa.Text),
    sa.Column("is_acknowledged", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("camera", "run", "number", name="uq_raw_file_key"),
    sa.UniqueConstraint("target", name="uq_raw_file_target"),
    sa.Index("ix_raw_file_state", "daemon", "state"),
    sa.Index("ix_raw_file_night", "night", "camera", "state"),
    sa.Index("ix_raw_file_name", "name"),
    sa.Index("ix_raw_file_file_name", "file_name"),
)
event = sa.Table(
    "event",
    metadata,
    sa.Column("id", _IDENTITY, primary_key=True, autoincrement=True),
    sa.Column("raw_file_id", _BIG, sa.ForeignKey("raw_file.id")),
    sa.Column("time_ns", _BIG, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Index("ix_event_raw_file", "raw_file_id"),
)
setting = sa.Table(
    "setting",
    metadata,
    sa.Column("daemon", sa.String(80), primary_key=True),
    sa.Column("name", sa.String(80), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("changed_ns", _BIG, nullable=False),
    sa.Column("changed_by", sa.String(200), nullable=False),
)
archive_root = sa.Table(
    "archive_root",
    metadata,
    sa.Column("path", sa.String(600), primary_key=True),
    sa.Column("identity", sa.String(64), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One row of ``raw_file``.

    Attributes
    ----------
    is_archived
        Whether archiving was on for the camera when the frame was accepted.
    object, frame_type, prefix
        The settings at that time.
    target, new_header, plan_size, plan_datasum
        The plan being carried out (:class:`nightjard.archived.placing.Plan`).
    verdict
        Why the frame goes to quarantine; None for one that is good.
    path
        Where the file lies, below the root; None while it is in the incoming folder.
    file_name
        The last part of `path`, kept after a discard.
    """

    id: int
    daemon: str
    camera: str
    run: str
    number: int
    name: str
    size: int
    datasum: int
    data_offset: int
    night: str
    begin_ns: int
    state: str
    is_archived: bool
    object: str | None
    frame_type: str | None
    prefix: str | None
    target: str | None
    new_header: bytes | None
    plan_size: int | None
    plan_datasum: int | None
    verdict: str | None
    path: str | None
    file_name: str | None
    accepted_ns: int
    finished_ns: int | None
    attempts: int
    last_error: str | None
    is_acknowledged: bool

    @property
    def key(self) -> str:
        """``CAMERA/RUN/NUMBER``."""
        return f"{self.camera}/{self.run}/{self.number}"


@dataclass(frozen=True, slots=True)
class Stored:
    """A setting with its age."""

    value: Any
    changed_ns: int
    changed_by: str


class Duplicate(StorageError):
    """A frame of that key, or a target of that name, is there already."""


# Made once: building a statement of so many columns takes longer than SQLite to carry it out.
_COLUMNS = [raw_file.c[field.name] for field in fields(Frame)]
_SELECT = sa.select(*_COLUMNS).order_by(raw_file.c.id.desc())
_INSERT = sa.insert(raw_file).returning(*_COLUMNS)
_UPDATE = sa.update(raw_file).returning(*_COLUMNS)


class Store:
    """All access to the database; thread-safe.

    Parameters
    ----------
    url
        SQLAlchemy address.
    daemon
        Name under which this daemon's frames and settings are kept.

    Raises
    ------
    StorageError
        The database cannot be opened or brought to the present form.
    """

    def __init__(self, url: str, daemon: str) -> None:
        self.daemon = daemon
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
                migrations.upgrade(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _write(self, what: str, *, durable: bool = True) -> Iterator[Connection]:
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
    def _read(self) -> Iterator[Connection]:
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

    # --- frames ---

    def add(self, values: Mapping[str, Any], text: str) -> Frame:
        """Store an accepted frame; durable when this returns.

        Raises
        ------
        Duplicate
            A frame of the same camera, run and number is there.
        """
        with self._write("store the frame") as connection:
            row = connection.execute(
                _INSERT, {"daemon": self.daemon, "state": FrameState.ACCEPTED.value, **values}
            ).one()
            frame = _frame(row)
            _say(connection, frame.id, frame.accepted_ns, FrameState.ACCEPTED.value, text)
        return frame

    def update(
        self,
        identity: int,
        kind: str,
        text: str,
        now_ns: int,
        *,
        durable: bool = True,
        **values: Any,
    ) -> Frame:
        """Change a frame and say so in its history, in one transaction.

        Parameters
        ----------
        durable
            False where a power cut may undo it because the next life finds out by itself.

        Raises
        ------
        Duplicate
            Another frame has the new target.
        """
        with self._write("update the frame", durable=durable) as connection:
            row = connection.execute(
                _UPDATE.where(raw_file.c.id == identity).values(**values)
            ).one()
            _say(connection, identity, now_ns, kind, text)
        return _frame(row)

    def by_key(self, camera: str, run: str, number: int) -> Frame | None:
        """Return the frame of a key."""
        condition = sa.and_(
            raw_file.c.camera == camera, raw_file.c.run == run, raw_file.c.number == number
        )
        return next(iter(self._select(condition)), None)

    def by_id(self, identity: int) -> Frame | None:
        """Return a frame."""
        return next(iter(self._select(raw_file.c.id == identity)), None)

    def require(self, identity: int) -> Frame:
        """Return a frame that must be there; StorageError where it is not."""
        frame = self.by_id(identity)
        if frame is None:
            raise StorageError(f"frame {identity} is not in the database any more")
        return frame

    def named(self, name: str) -> list[Frame]:
        """Return frames that arrived, or lie, under a file name, newest first."""
        return self._select(sa.or_(raw_file.c.name == name, raw_file.c.file_name == name))

    def accepted(self) -> list[Frame]:
        """Return this daemon's frames that are not in their place, oldest first."""
        mine = sa.and_(
            raw_file.c.daemon == self.daemon, raw_file.c.state == FrameState.ACCEPTED.value
        )
        return self._select(mine)[::-1]

    def half_discarded(self) -> list[Frame]:
        """Return frames whose discard was decided but perhaps not carried out."""
        return self._select(
            sa.and_(
                raw_file.c.daemon == self.daemon,
                raw_file.c.state == FrameState.DISCARDED.value,
                raw_file.c.path.is_not(None),
            )
        )

    def find(
        self,
        *,
        night: str | None = None,
        camera: str | None = None,
        state: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Frame]:
        """Return frames that match, newest first."""
        conditions = [
            column == value
            for column, value in (
                (raw_file.c.night, night),
                (raw_file.c.camera, camera),
                (raw_file.c.state, state),
            )
            if value is not None
        ]
        if before is not None:
            conditions.append(raw_file.c.id < before)
        return self._select(sa.and_(sa.true(), *conditions), limit)

    def last_finished(self) -> dict[str, Frame]:
        """Return each camera's newest frame that is in its place."""
        newest = (
            sa.select(sa.func.max(raw_file.c.id))
            .where(raw_file.c.finished_ns.is_not(None))
            .group_by(raw_file.c.camera)
        )
        return {frame.camera: frame for frame in self._select(raw_file.c.id.in_(newest))}

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Return how many frames there are, by (night, camera, state)."""
        columns = (raw_file.c.night, raw_file.c.camera, raw_file.c.state)
        with self._read() as connection:
            rows = connection.execute(sa.select(*columns, sa.func.count()).group_by(*columns))
            return {(night, camera, state): count for night, camera, state, count in rows}

    def unacknowledged(self) -> dict[str, int]:
        """Return how many quarantined and missing frames nobody has looked at, by state."""
        bad = (FrameState.QUARANTINED.value, FrameState.MISSING.value)
        with self._read() as connection:
            rows = connection.execute(
                sa.select(raw_file.c.state, sa.func.count())
                .where(raw_file.c.state.in_(bad), raw_file.c.is_acknowledged.is_(False))
                .group_by(raw_file.c.state)
            )
            return {str(state): int(count) for state, count in rows}

    def acknowledge(self) -> int:
        """Mark all quarantined and missing frames as looked at; return how many were not."""
        bad = (FrameState.QUARANTINED.value, FrameState.MISSING.value)
        with self._write("acknowledge frames") as connection:
            result = connection.execute(
                sa.update(raw_file)
                .where(raw_file.c.state.in_(bad), raw_file.c.is_acknowledged.is_(False))
                .values(is_acknowledged=True)
            )
            return int(result.rowcount)

    def events(self, identity: int) -> list[tuple[int, str, str]]:
        """Return a frame's history as (time_ns, kind, text), oldest first."""
        with self._read() as connection:
            rows = connection.execute(
                sa.select(event.c.time_ns, event.c.kind, event.c.text)
                .where(event.c.raw_file_id == identity)
                .order_by(event.c.id)
            )
            return [(time_ns, kind, text) for time_ns, kind, text in rows]

    def is_known_target(self, target: str) -> bool:
        """Tell whether a path below the root was ever given to a frame."""
        with self._read() as connection:
            statement = sa.select(raw_file.c.id).where(raw_file.c.target == target)
            return connection.execute(statement).first() is not None

    def _select(self, condition: Any, limit: int | None = None) -> list[Frame]:
        with self._read() as connection:
            rows = connection.execute(_SELECT.where(condition).limit(limit))
            return [_frame(row) for row in rows]

    # --- settings and roots ---

    def setting(self, name: str) -> Stored | None:
        """Return a setting of this daemon."""
        condition = sa.and_(setting.c.daemon == self.daemon, setting.c.name == name)
        columns = (setting.c.value, setting.c.changed_ns, setting.c.changed_by)
        with self._read() as connection:
            row = connection.execute(sa.select(*columns).where(condition)).first()
        return None if row is None else Stored(json.loads(row[0]), row[1], row[2])

    def put_setting(self, name: str, stored: Stored, text: str) -> None:
        """Keep a setting and say in the history what changed."""
        condition = sa.and_(setting.c.daemon == self.daemon, setting.c.name == name)
        values = {
            "value": json.dumps(stored.value, sort_keys=True),
            "changed_ns": stored.changed_ns,
            "changed_by": stored.changed_by,
        }
        with self._write("keep the settings") as connection:
            result = connection.execute(sa.update(setting).where(condition).values(**values))
            if result.rowcount == 0:
                connection.execute(
                    sa.insert(setting).values(daemon=self.daemon, name=name, **values)
                )
            _say(connection, None, stored.changed_ns, "settings", text)

    def root_identity(self, path: Path) -> str | None:
        """Return the identity that a root is known to have."""
        with self._read() as connection:
            statement = sa.select(archive_root.c.identity).where(archive_root.c.path == str(path))
            row = connection.execute(statement).first()
        return None if row is None else str(row[0])

    def put_root_identity(self, path: Path, identity: str) -> None:
        """Remember the identity of a root."""
        condition = archive_root.c.path == str(path)
        with self._write("keep the root's identity") as connection:
            connection.execute(sa.delete(archive_root).where(condition))
            connection.execute(sa.insert(archive_root).values(path=str(path), identity=identity))


def _frame(row: Any) -> Frame:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name for it
    if values["new_header"] is not None:
        values["new_header"] = bytes(values["new_header"])
    return Frame(**values)


def _say(connection: Connection, identity: int | None, time_ns: int, kind: str, text: str) -> None:
    connection.execute(
        sa.insert(event).values(raw_file_id=identity, time_ns=time_ns, kind=kind, text=text)
    )


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
