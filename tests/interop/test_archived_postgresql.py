# SPDX-License-Identifier: BSD-3-Clause
"""The archive on a real PostgreSQL server, and the server's troubles."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from kit.archive_frames import NIGHT, Bench
from kit.postgresql import PostgresServer
from nightjar.errors import Refused, StorageError
from nightjar.fits.verify import verify_image
from nightjard.archived.store import Store
from nightjard.archived.tables import metadata

pytestmark = pytest.mark.needs("initdb", "pg_ctl", "setpriv")


@pytest.fixture
def bench(server: PostgresServer, tmp_path: Path) -> Iterator[Bench]:
    server.clear()
    made = Bench(tmp_path, url=server.url)
    yield made
    made.close()


@pytest.mark.parametrize("is_postgresql", [False, True])
def test_the_migrations_make_the_tables_that_the_program_uses(
    bench: Bench, tmp_path: Path, is_postgresql: bool
) -> None:
    url = bench.url
    if not is_postgresql:
        url = f"sqlite:///{tmp_path / 'other.db'}"
        Store(url, "x").close()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_frames_settings_and_history(bench: Bench, tmp_path: Path) -> None:
    bench.archive.set_settings(
        {"object": "M 31", "frame_type": "SCIENCE", "archive": {"GUIDE": False}}, "test"
    )
    first, second = bench.take(1), bench.take(1, "GUIDE")
    assert (first["state"], second["state"]) == ("archived", "unarchived")
    assert verify_image(Path(first["path"])).is_good
    announced = bench.frame(2)
    path = bench.incoming / announced.filename
    bench.archive.notify(announced)
    content = bytearray(path.read_bytes())
    content[-3000] ^= 1
    path.write_bytes(content)
    bench.work()
    assert bench.archive.catalog.show(announced.key)["state"] == "quarantined"
    assert bench.archive.acknowledge("test") == {"acknowledged": 1}
    begun = bench.archive.discard([second["name"]], "test")
    assert bench.operations.get(begun["operation"]).wait(10)
    assert bench.files()[0] == f"{NIGHT}/TEST/{first['name']}"
    again = Bench(tmp_path, url=bench.url)
    assert again.archive.settings.present.object == "M 31"
    assert again.archive.status()["cameras"] == bench.archive.status()["cameras"]
    again.close()


def test_one_key_is_one_frame_whoever_comes_first(bench: Bench) -> None:
    announced = bench.frame(1)
    replies: list[int] = []
    start = threading.Barrier(6)

    def announce() -> None:
        start.wait(10)
        replies.append(bench.archive.notify(announced)["id"])

    threads = [threading.Thread(target=announce) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(set(replies)) == 1
    assert len(replies) == 6
    assert bench.work() == 1


def test_two_hosts_share_a_database_and_a_root(bench: Bench, tmp_path: Path) -> None:
    other = Bench(
        tmp_path, url=bench.url, daemon="another", incoming_data_path=str(tmp_path / "in2")
    )
    mine, theirs = bench.frame(1, name="a.fits"), other.frame(2, name="a.fits")
    bench.archive.notify(mine)
    other.archive.notify(theirs)
    assert (bench.work(), other.work()) == (1, 1)
    assert bench.files() == [f"{NIGHT}/TEST/a-2.fits", f"{NIGHT}/TEST/a.fits"]
    with pytest.raises(Refused):  # the frame is the other one's, under another file name
        bench.archive.notify(bench.frame(2, name="b.fits"))
    other.close()


def test_a_server_that_crashed_keeps_what_was_accepted(
    bench: Bench, server: PostgresServer
) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    server.stop("immediate")
    late = bench.frame(2)
    with pytest.raises(StorageError, match="database"):
        bench.archive.notify(late)
    assert bench.archive.status()["waiting"] == 1  # status needs no database
    bench.work()
    server.start()
    assert bench.archive.notify(late)["state"] == "accepted"
    assert bench.archive.notify(announced)["state"] == "accepted"
    bench.clock.advance(2)
    bench.archive.probe()
    bench.work()
    assert all(
        bench.archive.catalog.show(frame.key)["state"] == "archived" for frame in (announced, late)
    )


def test_a_server_that_hangs_holds_nobody_for_ever(
    bench: Bench, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightjard.archived.database.TIMEOUT_S", 0.5)
    announced = bench.frame(1)
    bench.archive.status()
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.1):
            bench.store.database.end_stuck_calls()

    thread = threading.Thread(target=beat)
    thread.start()
    server.freeze()
    try:
        started = time.monotonic()
        with pytest.raises(StorageError):
            bench.archive.notify(announced)
        assert time.monotonic() - started < 8
    finally:
        server.thaw()
        over.set()
        thread.join(10)
    assert bench.archive.notify(announced)["state"] == "accepted"
