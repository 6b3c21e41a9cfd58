# SPDX-License-Identifier: BSD-3-Clause
"""Frame IDs when programs are killed, services lie and several ask at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.archive_frames import empty_database
from kit.depth import counts, soaked
from kit.small_disk import prove
from nightjar.clock import SystemClock
from nightjar.errors import NightjarError, Refused, StorageError, TimedOut, Unreachable
from nightjar.fits.header import Header
from nightjar.fits.writer import write_image
from nightjar.times import NS_PER_S
from nightjard.archived.database import Database
from nightjard.archived.nights.ids import (
    FrameIds,
    Gen2Allocator,
    Item,
    LocalAllocator,
    exp_id,
    fix,
    frame_id,
    parse,
)
from nightjard.archived.nights.ids.renaming import JOURNAL
from nightjard.simulators.gen2 import FrameIdService, Gen2Server, parse_faults

T0 = 1_750_000_000 * NS_PER_S
CLOCK = SystemClock()
TESTS = Path(__file__).resolve().parent.parent


def ram() -> Path:
    """Hundreds of lives would wait for the disk; the kernel outlives the programs anyway."""
    return Path(os.environ["MILK_SHM_DIR"])


def crash(what: str, folder: Path, lives: int, *more: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "kit.nights_ids_crash", what, str(folder), str(lives), *more],
        capture_output=True, text=True, timeout=100, check=False, cwd=TESTS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "archive.db").write_bytes(empty_database())
    made = Database(f"sqlite:///{tmp_path / 'archive.db'}")
    yield made
    made.close()


@pytest.fixture
def start_gen2(tmp_path: Path) -> Iterator[Callable[..., Gen2Server]]:
    servers: list[tuple[Gen2Server, threading.Thread]] = []

    def start(faults: str = "", port: int = 0) -> Gen2Server:
        service = FrameIdService(tmp_path / "gen2", faults=parse_faults(faults))
        server = Gen2Server(service, port)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.stop()
        thread.join(5)


def items(count: int, start: int = 0) -> list[Item]:
    return [Item(f"p{n:03d}", "VMPA", T0 + n) for n in range(start, start + count)]


# --- killed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lives", counts(8, 50))
@pytest.mark.parametrize("what", [soaked("local", name="local"), "changed"])
def test_kill_at_any_line_of_giving_ids(what: str, lives: int) -> None:
    """Neither a gap nor a duplicate; `changed`: the next life has more products."""
    found = crash(what, ram(), lives)
    assert found["problems"] == []
    assert found["killed"] >= 0.7 * lives


@pytest.mark.parametrize("lives", counts(8, 50))
def test_kill_at_any_line_with_a_service(
    start_gen2: Callable[..., Gen2Server], lives: int
) -> None:
    """One service over all lives: any number given and not used would be a gap in the next."""
    server = start_gen2()
    server.service._first = 10
    found = crash("gen2", ram(), lives, server.url)
    assert found["problems"] == []
    assert found["killed"] >= 0.7 * lives


def make_permuted(folder: Path, count: int = 6) -> None:
    folder.mkdir()
    for n in range(count):
        one = frame_id("VMPA", 500 + (n + 2) % count)
        header = Header()
        header.add("MJD-STR", 60000.0 + n / 1000, "start")
        if n % 2:
            header.add("FRAMEID", one)
            header.add("EXP-ID", exp_id(one))
        write_image(folder / f"{one}.fits", np.full((2, 8, 8), n, np.uint16), header)
        (folder / f"{one}.txt").write_text(f"{n}\n")
    lines = [f"old{n}.fits\t{frame_id('VMPA', 500 + (n + 2) % count)}.fits\n" for n in range(count)]
    (folder / "name_changes.txt").write_text("".join(lines))


@pytest.mark.parametrize("lives", counts(20, 100))
def test_kill_at_any_line_of_a_fix(lives: int) -> None:
    make_permuted(ram() / "template")
    found = crash("fix", ram(), lives)
    assert found["problems"] == []
    assert found["killed"] >= 0.9 * lives
    assert found["half"] >= 0.3 * lives  # in so many lives files stood half-way


def test_a_fix_goes_on_only_with_the_files_that_it_began_with(tmp_path: Path) -> None:
    folder = tmp_path / "night"
    make_permuted(folder)
    # What a program leaves that was killed right after it wrote the journal.
    shutil.copytree(folder, tmp_path / "other")
    fix([tmp_path / "other"])
    (record,) = (tmp_path / "other").glob("ids_fix_*.json")
    journal = json.loads(record.read_text()) | {"phase": "park"}
    for entry in journal["entries"]:
        stat = (folder / entry["old"]).stat()
        entry |= {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    (folder / JOURNAL).write_text(json.dumps(journal))
    victim = folder / journal["entries"][4]["old"]
    keep = victim.read_bytes()
    times = victim.stat()
    victim.write_bytes(keep[:-1])
    with pytest.raises(StorageError, match="not the file that it was"):
        fix([folder])
    assert victim.read_bytes() == keep[:-1]
    victim.unlink()
    with pytest.raises(StorageError, match="vanished"):
        fix([folder])
    with pytest.raises(Refused, match="was interrupted"):
        fix([folder], dry_run=True)
    victim.write_bytes(keep)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    fix([folder])
    for n in range(6):
        one = frame_id("VMPA", 500 + n)
        assert (folder / f"{one}.txt").read_text() == f"{n}\n"
    assert not (folder / JOURNAL).exists()


@pytest.mark.needs("unshare")
def test_a_disk_that_is_full_in_the_middle_of_a_fix(tmp_path: Path) -> None:
    prove("nights_ids_full_disk", tmp_path)


def test_two_fixes_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "night"
    make_permuted(folder)
    code = (
        "import sys; from pathlib import Path\n"
        "from nightjard.archived.nights.ids import renaming\n"
        "with renaming._held(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(Refused, match="another program"):
            fix([folder])
        other.kill()
    assert len(fix([folder])) == 6


# --- a service that lies -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("stale", "a stale answer"),
        ("repeat", "given before"),
        ("duplicate", "twice"),
        ("short", "has 2 frame IDs"),
        ("unsorted", "out of order"),
    ],
)
def test_a_wrong_answer_is_refused_and_no_number_of_it_is_used(
    database: Database, start_gen2: Callable[..., Gen2Server], kind: str, message: str
) -> None:
    server = start_gen2(f"{kind}@2")
    ids = FrameIds(database, Gen2Allocator(server.url, 5), CLOCK)
    first = ids.assign("archival", "20250603", items(3))
    with pytest.raises(Refused, match=message) as caught:
        ids.assign("archival", "20250604", items(3))
    assert "no number of it is used" in str(caught.value)
    assert ids.assigned("archival", "20250604") == {}
    # The service comes to its senses: the same request, and nothing is missing in between.
    second = ids.assign("archival", "20250604", items(3))
    assert [parse(one.frame_id)[1] for one in [*first.values(), *second.values()]] == [
        1, 2, 3, 4, 5, 6,
    ]  # fmt: skip


def test_a_service_that_hangs_is_left_at_the_deadline(
    database: Database, start_gen2: Callable[..., Gen2Server]
) -> None:
    server = start_gen2("hang@1,cut@2")
    ids = FrameIds(database, Gen2Allocator(server.url, 0.3), CLOCK)
    begun = time.monotonic()
    with pytest.raises(TimedOut, match=r"within 0\.3 s"):
        ids.assign("archival", "20250603", items(3))
    assert time.monotonic() - begun < 2
    assert ids.unused("archival", "20250603") != []
    ids = FrameIds(database, Gen2Allocator(server.url, 20), CLOCK)
    with pytest.raises(Unreachable, match="broke off"):
        ids.assign("archival", "20250603", items(3))
    found = ids.assign("archival", "20250603", items(3))
    assert [one.frame_id[-1] for one in found.values()] == ["1", "2", "3"]
    assert ids.unused("archival", "20250603") == []


def test_an_answer_that_trickles_ends_at_the_deadline() -> None:
    """Each byte in time, the whole never."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection:
            while not over.wait(0.02):
                try:
                    connection.sendall(b"H")
                except OSError:
                    return

    thread = threading.Thread(target=trickle)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(TimedOut):
        Gen2Allocator(f"http://127.0.0.1:{listener.getsockname()[1]}/", 0.3).grant("VMPA", 1, "x")
    assert time.monotonic() - begun < 2
    over.set()
    thread.join(5)
    listener.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "broke off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "broke off|does not speak"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "answers 404"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "does not speak XML-RPC"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 90000\r\n\r\n<?xml", "broke off"),
    ],
)
def test_something_else_at_the_address(answer: bytes, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(Unreachable, match=message):
            Gen2Allocator(url, 20).grant("VMPA", 1, "x")
        thread.join(5)


def test_nobody_at_the_address(free_ports: Callable[[int], list[int]]) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unreachable, match="is the service running"):
        Gen2Allocator(f"http://127.0.0.1:{port}/", 2).grant("VMPA", 1, "x")


def test_a_service_that_dies_before_it_answers(
    tmp_path: Path, database: Database, free_ports: Callable[[int], list[int]]
) -> None:
    """The real program: it grants, writes that down, and is gone; started again it remembers."""
    (port,) = free_ports(1)

    def run(faults: str) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [sys.executable, "-m", "nightjard.site", "simulate", "gen2", "--port", str(port),
             "--folder", str(tmp_path / "gen2"), "--faults", faults],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert started.stdout is not None
        assert re.search(rf"http://127\.0\.0\.1:{port}/", started.stdout.readline())
        return started

    ids = FrameIds(database, Gen2Allocator(f"http://127.0.0.1:{port}/", 20), CLOCK)
    with run("crash@1") as first:
        with pytest.raises(Unreachable):
            ids.assign("archival", "20250603", items(3))
        assert first.wait(5) == -signal.SIGKILL
    with pytest.raises(NightjarError):
        ids.assign("archival", "20250603", items(3))
    with run("") as second:
        found = ids.assign("archival", "20250603", items(3))
        second.terminate()
        assert second.wait(5) == 0
    assert [one.frame_id[-1] for one in found.values()] == ["1", "2", "3"]


def test_the_kind_of_allocator_changes_while_a_request_is_open(
    database: Database, start_gen2: Callable[..., Gen2Server]
) -> None:
    server = start_gen2("short@1")
    observatory = FrameIds(database, Gen2Allocator(server.url, 5), CLOCK)
    with pytest.raises(Refused):
        observatory.assign("archival", "20250603", items(3))
    local = FrameIds(database, LocalAllocator(database), CLOCK)
    with pytest.raises(Refused, match=r"set ids\.kind to gen2"):
        local.assign("archival", "20250603", items(3))
    assert len(observatory.assign("archival", "20250603", items(3))) == 3
    assert len(local.assign("archival", "20250603", items(4))) == 4


def test_products_change_while_a_request_is_open(
    database: Database, start_gen2: Callable[..., Gen2Server]
) -> None:
    """What was asked for is used first; what is left over is told, and used by the next call."""
    server = start_gen2("short@1")
    ids = FrameIds(database, Gen2Allocator(server.url, 5), CLOCK)
    with pytest.raises(Refused):
        ids.assign("archival", "20250603", items(4))
    assert len(ids.assign("archival", "20250603", items(3))) == 3
    assert ids.unused("archival", "20250603") == ["VMPA00000004"]
    found = ids.assign("archival", "20250603", items(5))
    assert [one.frame_id[-1] for one in found.values()] == ["1", "2", "3", "4", "5"]
    assert ids.unused("archival", "20250603") == []


# --- several at once ---------------------------------------------------------------------------

WORKER = """
import sys
from nightjar.clock import SystemClock
from nightjard.archived.database import Database
from nightjard.archived.nights.ids import FrameIds, Gen2Allocator, Item, LocalAllocator
url, service, me = sys.argv[1], sys.argv[2], int(sys.argv[3])
database = Database(url)
allocator = Gen2Allocator(service, 10) if service else LocalAllocator(database, first=1)
ids = FrameIds(database, allocator, SystemClock())
print("ready", flush=True)
sys.stdin.readline()
for night in range(4):
    own = [Item(f"w{me}-{n}", "VMPA", n) for n in range(5)]
    shared = [Item(f"s{n}", "VMPA", n) for n in range(5)]
    ids.assign("own", f"2025060{me}", [Item(f"{night}-{i.name}", i.code, i.first_ns) for i in own],
               allow_older=True)
    ids.assign("shared", f"2025070{night}", shared, allow_older=True)
"""


def run_workers(url: str, service: str, count: int = 3) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, url, service, str(me)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for me in range(count)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    outputs = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        outputs.append(worker.communicate(timeout=60)[1])
    assert [worker.returncode for worker in workers] == [0] * count, outputs


@pytest.mark.parametrize("has_service", [False, True])
def test_several_processes_at_once(
    database: Database, tmp_path: Path, start_gen2: Callable[..., Gen2Server], has_service: bool
) -> None:
    service = start_gen2().url if has_service else ""
    run_workers(f"sqlite:///{tmp_path / 'archive.db'}", service)
    ids = FrameIds(database, LocalAllocator(database), CLOCK)
    nights = [("own", f"2025060{me}") for me in range(3)]
    nights += [("shared", f"2025070{night}") for night in range(4)]
    given = sorted(
        parse(one.frame_id)[1]
        for night in nights
        for one in ids.assigned(*night).values()
    )
    assert given == list(range(1, 3 * 4 * 5 + 4 * 5 + 1))
