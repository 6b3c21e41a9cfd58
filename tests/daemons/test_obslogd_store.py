# SPDX-License-Identifier: BSD-3-Clause
"""The observatory log's database on SQLite: the common contract, and SQLite's own troubles."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import URL, Connection

from kit.obslog_store import StoreContract, everything, opened, row
from kit.soon import assert_soon
from nightjar.errors import Busy, Code, NightjarError, StorageError
from nightjard.obslogd.store import Filter, Row, Store, metadata

PATIENT_S = 15.0


def url_of(path: Path) -> URL:
    return URL.create("sqlite", database=str(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder %41?#" / "log.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    path.parent.mkdir()
    made = Store(url_of(path), PATIENT_S)
    opened(made)
    yield made
    made.close()


class TestSqlite(StoreContract):
    """The contract."""


def test_capitals_beyond_ascii(store: Store) -> None:
    store.append([row(1, "ÜBERLAUF Σ")])
    assert len(store.search(Filter(text="überlauf σ"), 10, None)[0]) == 1


def test_the_migrations_make_the_tables_that_the_program_uses(store: Store, path: Path) -> None:
    engine = sa.create_engine(url_of(path))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert "AUTOINCREMENT" in db.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'message'"
        ).fetchone()[0]
    db.close()


def test_what_was_stored_is_there_after_reopening(store: Store, path: Path) -> None:
    store.append([row(1, "kept")])
    store.close()
    again = Store(url_of(path), 1.0)
    assert opened(again).messages == 1
    assert again.append([row(1, "kept")]) == []
    again.close()


def test_locked_by_another_program_is_busy_and_then_well(store: Store, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    brief = Store(url_of(path), 1.0)

    def refused() -> tuple[float, str]:
        started = time.monotonic()
        with pytest.raises(NightjarError) as refusal:
            brief.append([row(1)])
        is_said = refusal.value.code is Code.BUSY and "locked by another program" in str(
            refusal.value
        )
        return time.monotonic() - started if is_said else math.inf, str(refusal.value)

    assert_soon(refused, 1.5)
    brief.close()
    assert everything(store) == []  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert len(store.append([row(1)])) == 1


def test_full_is_no_space_and_nothing_of_the_batch_is_stored(store: Store) -> None:
    def limit(connection: Connection) -> None:
        db = connection.connection.driver_connection
        assert isinstance(db, sqlite3.Connection)
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")

    def unlimit(connection: Connection) -> None:
        db = connection.connection.driver_connection
        assert isinstance(db, sqlite3.Connection)
        db.execute("PRAGMA max_page_count = 100000000")

    store._writer.run(limit, 5)
    with pytest.raises(StorageError, match="no space") as refusal:
        store.append([row(n, "y" * 4000) for n in range(1, 100)])
    assert refusal.value.code is Code.NO_SPACE
    with pytest.raises(StorageError, match="no space"):
        store.append([row(n, "y" * 4000) for n in range(1, 100)])
    assert everything(store) == []
    store._writer.run(unlimit, 5)
    assert len(store.append([row(n, "y" * 4000) for n in range(1, 100)])) == 99


def test_a_file_that_is_gone_is_never_written_in_silence(store: Store, path: Path) -> None:
    store.append([row(1)])
    moved = path.with_name("moved.db")
    path.rename(moved)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"is gone|unable to open") as refusal:
            store.append([row(2)])
        assert refusal.value.code is Code.STORAGE_FAILED
        assert not path.exists()
    with pytest.raises(StorageError):
        store.begin_check(None).result(5)
    with pytest.raises(StorageError):
        store.tail(1, None, Filter())
    moved.rename(path)
    opened(store)
    assert len(store.append([row(3)])) == 1


def test_a_file_put_in_its_place_is_noticed(store: Store, path: Path) -> None:
    store.append([row(1, "old")])
    store.tail(1, None, Filter())
    other = Store(url_of(path.with_name("new.db")), 1.0)
    opened(other)
    other.append([row(1, "new")])
    other.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.replace(path.with_name("new.db"), path)
    with pytest.raises(StorageError, match="was replaced"):
        store.append([row(2)])
    assert opened(store).messages == 1
    with pytest.raises(StorageError, match="was replaced"):  # the reader learns it on its own
        store.tail(1, None, Filter())
    assert [m.text for m in everything(store)] == ["new"]


def test_a_file_that_goes_while_it_is_written_is_not_acknowledged(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = store._insert_new

    def insert_and_lose(connection: Connection, rows: Sequence[Row]) -> list[int]:
        ids = insert(connection, rows)
        path.rename(path.with_name("moved.db"))
        return ids

    monkeypatch.setattr(store, "_insert_new", insert_and_lose)
    with pytest.raises(StorageError, match="is gone"):
        store.append([row(1)])


def test_two_programs_that_write_wait_for_each_other(store: Store, path: Path) -> None:
    other = Store(url_of(path), PATIENT_S)
    opened(other)
    errors: list[NightjarError] = []

    def write(target: Store, spool: str) -> None:
        try:
            for number in range(1, 60):
                target.append([row(number, spool=spool)])
        except NightjarError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=pair) for pair in ((store, "a"), (other, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    other.close()
    assert errors == []
    assert len(everything(store)) == 118


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100])
def test_not_a_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(content)
    store = Store(url_of(path), 1.0)
    if content:
        with pytest.raises(StorageError, match="not a database"):
            opened(store)
        assert path.read_bytes() == content
    else:
        assert opened(store).messages == 0  # an empty file is an empty database to SQLite
    store.close()


def test_no_folder(tmp_path: Path) -> None:
    store = Store(url_of(tmp_path / "none" / "log.db"), 1.0)
    with pytest.raises(StorageError, match="unable to open"):
        opened(store)
    with pytest.raises(StorageError, match="unable to open"):
        store.append([row(1)])
    store.close()


def test_schema_of_a_newer_version_is_refused_and_left_alone(store: Store, path: Path) -> None:
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    again = Store(url_of(path), 1.0)
    with pytest.raises(StorageError, match=r"9999.*knows schemas up to 0001"):
        opened(again)
    again.close()


def test_work_without_end_is_interrupted(store: Store) -> None:
    # 1e12 steps of SQLite: hours, if nobody interrupts it.
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000000) "
        "SELECT count(*) FROM n"
    )
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"did not answer within 0\.3 s"):
        store._reader.run(lambda connection: connection.exec_driver_sql(endless).scalar_one(), 0.3)
    assert len(store.append([row(1)])) == 1  # writing is not held up
    assert store.tail(5, None, Filter())[0]
    assert time.monotonic() - started < 5


def test_a_stuck_lane_refuses_when_too_much_waits(store: Store) -> None:
    release = threading.Event()
    store._reader.submit(lambda connection: release.wait(100))
    try:
        with contextlib.suppress(Busy):
            for _ in range(1000):
                store._reader.submit(lambda connection: None)
        with pytest.raises(Busy, match="commands are waiting"):
            store.tail(1, None, Filter())
    finally:
        release.set()
