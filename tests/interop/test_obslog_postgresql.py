# SPDX-License-Identifier: BSD-3-Clause
"""The observatory log on a real PostgreSQL server: the same contract, and the server's troubles."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import make_url

from kit.obslog_site import LogDaemon
from kit.obslog_store import StoreContract, everything, opened, row
from kit.postgresql import PostgresServer
from kit.site import eventually
from kit.soon import assert_soon
from nightjar.clock import SystemClock
from nightjar.errors import Busy, NightjarError, StorageError
from nightjar.obslog import ObservatoryLog
from nightjard.obslogd.store import Filter, Store, metadata

pytestmark = pytest.mark.needs("initdb", "pg_ctl", "setpriv")
TIMEOUT_S = 1.0
PATIENT_S = 15.0  # where nobody hangs: a server that is held up is none that hangs


@pytest.fixture
def store(server: PostgresServer) -> Iterator[Store]:
    server.clear()
    made = Store(make_url(server.url), PATIENT_S)
    opened(made)
    yield made
    made.close()


@pytest.fixture
def brief(store: Store, server: PostgresServer) -> Iterator[Store]:
    """Another store on the same database, of little patience."""
    made = Store(make_url(server.url), TIMEOUT_S)
    yield made
    made.close()


class TestPostgresql(StoreContract):
    """The contract."""


def test_the_migrations_make_the_tables_that_the_program_uses(
    store: Store, server: PostgresServer
) -> None:
    engine = sa.create_engine(server.url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_locked_table_is_busy_and_then_well(
    store: Store, brief: Store, server: PostgresServer
) -> None:
    def refused() -> tuple[float, str]:
        started = time.monotonic()
        with pytest.raises(NightjarError) as refusal:
            brief.append([row(1)])
        is_said = isinstance(refusal.value, Busy) and "locked by another" in str(refusal.value)
        return time.monotonic() - started if is_said else math.inf, str(refusal.value)

    with server.connect() as other, other.transaction():
        other.execute("LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
        assert_soon(refused, TIMEOUT_S)
    assert len(store.append([row(1)])) == 1


def test_two_log_daemons_on_one_database(store: Store, server: PostgresServer) -> None:
    other = Store(make_url(server.url), PATIENT_S)
    opened(other)
    batch = [row(n, f"m{n}") for n in range(1, 50)]
    assert len(store.append(batch)) == 49
    assert other.append(batch) == []
    assert len(other.append([row(50)])) == 1
    assert len(everything(store)) == 50
    other.close()


def test_a_server_that_stops_and_comes_back(store: Store, server: PostgresServer) -> None:
    store.append([row(1)])
    store.tail(1, None, Filter())
    server.stop()
    try:
        for _ in range(2):
            with pytest.raises(StorageError) as failure:
                store.append([row(2)])
            assert "\n" not in failure.value.message
        with pytest.raises(StorageError):
            store.tail(1, None, Filter())
        with pytest.raises(StorageError):
            opened(store)
    finally:
        server.start()
    assert opened(store).messages == 1
    assert len(store.append([row(1), row(2)])) == 1


def test_a_server_that_hangs(store: Store, brief: Store, server: PostgresServer) -> None:
    def is_there() -> bool:  # before and after, as often as the server is held up
        try:
            brief.append([row(1)])
            brief.tail(1, None, Filter())
        except NightjarError:
            return False
        return True

    def ask(question: Callable[[], Any]) -> tuple[float, str]:
        started = time.monotonic()
        with pytest.raises(StorageError, match="did not answer within 1 s") as refusal:
            question()
        return time.monotonic() - started, str(refusal.value)

    eventually(is_there)
    server.freeze()
    try:
        for question in (lambda: brief.append([row(2)]), lambda: brief.tail(1, None, Filter())):
            assert_soon(partial(ask, question), TIMEOUT_S + 0.5)
    finally:
        server.thaw()
    eventually(is_there)
    store.append([row(2)])
    assert sorted(m.id for m in everything(store)) == [m.id for m in everything(store)]
    assert len(everything(store)) == 2


def test_a_wrong_database_says_which(server: PostgresServer) -> None:
    url = make_url(server.url).set(database="nosuch", password="secret")
    store = Store(url, 1.0)
    with pytest.raises(StorageError, match='nosuch" does not exist') as failure:
        opened(store)
    assert "secret" not in failure.value.message
    store.close()


def test_the_daemon_lives_through_an_outage_and_every_message_arrives_once(
    store: Store, server: PostgresServer, free_port: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store.close()
    folder = tmp_path_factory.mktemp("sender")
    daemon = LogDaemon(free_port, database_url=server.url, database_timeout=4.0).start()
    client = daemon.client()
    sender = ObservatoryLog("camd@test", daemon.client(), folder / "spool.db", SystemClock())
    try:
        for number in range(100):
            sender.info(f"before {number}")
        daemon.wait(lambda client: client.call("status")["messages"] == 100)
        server.stop("immediate")
        for number in range(100):
            sender.warning(f"during {number}")
        daemon.wait(lambda client: client.call("status")["health"]["level"] == "DEGRADED")
        with pytest.raises(StorageError):
            client.call("write", {"source": "me", "text": "lost?", "key": uuid.uuid4().hex})
        server.start()
        for number in range(100):
            sender.error(f"after {number}")
        daemon.wait(lambda client: client.call("status")["messages"] == 300)
        daemon.wait(lambda client: client.call("status")["health"]["level"] == "OK")
        found = [(m["severity"], m["text"]) for m in daemon.messages()]
        assert found == [
            (severity, f"{when} {number}")
            for severity, when in (("info", "before"), ("warning", "during"), ("error", "after"))
            for number in range(100)
        ]
        status = client.call("status")
        assert status["database_kind"] == "postgresql"
        assert status["free_bytes"] is None
    finally:
        sender.close()
        client.close()
        assert daemon.stop() == 0
