# SPDX-License-Identifier: BSD-3-Clause
"""Frame IDs from a real PostgreSQL server: several processes, kills, a server that crashes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from kit.postgresql import PostgresServer
from kit.site import eventually
from nightjar.clock import SystemClock
from nightjar.errors import Refused, StorageError
from nightjar.times import NS_PER_S
from nightjard.archived.database import Database
from nightjard.archived.nights.ids import FrameIds, Item, LocalAllocator, parse
from nightjard.archived.nights.tables import frame_id

pytestmark = pytest.mark.needs("initdb", "pg_ctl", "setpriv")

AT_WORK = """
SELECT pid FROM pg_stat_activity
WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()
"""
T0 = 1_750_000_000 * NS_PER_S

WORKER = """
import sys
from nightjar.clock import SystemClock
from nightjard.archived.database import Database
from nightjard.archived.nights.ids import FrameIds, Item, LocalAllocator
database = Database(sys.argv[1])
ids = FrameIds(database, LocalAllocator(database), SystemClock())
print("ready", flush=True)
sys.stdin.readline()
for round in range(int(sys.argv[3])):
    names = [Item(f"{round}-{n}", "VMPA", n) for n in range(5)]
    ids.assign(f"own{sys.argv[2]}", "20250603", names, allow_older=True)
    ids.assign("shared", f"202507{round % 28 + 1:02d}", names, allow_older=True)
"""


@pytest.fixture
def database(server: PostgresServer) -> Iterator[Database]:
    server.clear()
    made = Database(server.url)
    yield made
    made.close()


def ids_on(database: Database) -> FrameIds:
    return FrameIds(database, LocalAllocator(database), SystemClock())


def workers_on(server: PostgresServer, count: int, rounds: int) -> list[subprocess.Popen[str]]:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, server.url, str(me), str(rounds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for me in range(count)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    return workers


def all_numbers(database: Database) -> list[int]:
    with database.read() as connection:
        rows = connection.execute(
            sa.select(frame_id.c.number, frame_id.c.product).order_by(frame_id.c.number)
        ).all()
    assert all(product for _, product in rows)
    return [number for number, _ in rows]


def test_the_same_as_on_sqlite(database: Database) -> None:
    ids = ids_on(database)
    items = [Item(f"p{n}", "VMPA", T0 - n) for n in range(50)]
    found = ids.assign("archival", "20250603", items)
    assert [parse(found[f"p{n}"].frame_id)[1] for n in range(50)] == list(range(50, 0, -1))
    assert ids.assign("archival", "20250603", items) == found
    with pytest.raises(Refused, match="oldest night first"):
        ids.assign("archival", "20250602", items)
    assert ids.gaps("VMPA") == []
    swapped = {"p0": found["p1"].frame_id, "p1": found["p0"].frame_id}
    ids.rebind("archival", "20250603", swapped)
    assert ids.assigned("archival", "20250603")["p0"] == found["p1"]


def test_several_processes_make_neither_gap_nor_duplicate(
    server: PostgresServer, database: Database
) -> None:
    workers = workers_on(server, 3, 6)
    for worker in workers:
        errors = worker.communicate(timeout=60)[1]
        assert worker.returncode == 0, errors
    assert all_numbers(database) == list(range(1, 3 * 6 * 5 + 6 * 5 + 1))


def test_killed_processes_make_neither_gap_nor_duplicate(
    server: PostgresServer, database: Database
) -> None:
    """One after the other dies while the others go on; their nights are then done again."""
    workers = workers_on(server, 3, 100_000)  # more than they live to do
    for number, worker in enumerate(workers):
        wanted = 40 * (number + 1)
        with server.connect() as connection:
            while True:  # the test's own timeout is the deadline
                row = connection.execute("SELECT count(*) FROM frame_id").fetchone()
                assert row is not None
                if row[0] >= wanted:
                    break
        worker.kill()
        worker.communicate(timeout=10)
        assert worker.returncode == -signal.SIGKILL
    with server.connect() as connection:  # the server may still be at what a dead one asked for
        eventually(lambda: connection.execute(AT_WORK).fetchone() is None)
    numbers = all_numbers(database)
    assert len(numbers) >= 120
    assert numbers == list(range(1, len(numbers) + 1))
    ids_on(database).assign("archival", "20250901", [Item("next", "VMPA", T0)])
    assert all_numbers(database) == list(range(1, len(numbers) + 2))


def test_a_server_that_crashes(server: PostgresServer, database: Database) -> None:
    ids = ids_on(database)
    items = [Item(f"p{n}", "VMPA", T0 + n) for n in range(5)]
    first = ids.assign("archival", "20250603", items[:2])
    server.stop("immediate")
    with pytest.raises(StorageError):
        ids.assign("archival", "20250603", items)
    server.start()
    assert ids.assign("archival", "20250603", items[:2]) == first
    found = ids.assign("archival", "20250603", items)
    assert [parse(one.frame_id)[1] for one in found.values()] == [1, 2, 3, 4, 5]
