# SPDX-License-Identifier: BSD-3-Clause
"""The log daemon dead, deaf, killed and back: a caller never waits, every message arrives once."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.depth import counts
from kit.obslog_site import LogDaemon
from kit.site import eventually
from nightjar import obslog
from nightjar.clock import ScaledClock
from nightjar.obslog import ObservatoryLog, Spool

WAIT_LIMIT_S = 0.005


@pytest.fixture
def daemon(free_port: int) -> Iterator[LogDaemon]:
    made = LogDaemon(free_port)
    yield made
    made.stop()


@pytest.fixture
def sender(
    daemon: LogDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObservatoryLog]:
    """A sender that is twenty times as hasty as in life."""
    monkeypatch.setattr(obslog, "CALL_TIMEOUT_S", 0.3)
    made = ObservatoryLog("camd@test", daemon.client(), tmp_path / "spool.db", ScaledClock(20))
    yield made
    made.close()


def say(sender: ObservatoryLog, texts: list[str]) -> list[float]:
    """Say them and return how long each call took, seconds, ascending."""
    taken = []
    for text in texts:
        started = time.perf_counter()
        sender.info(text)
        taken.append(time.perf_counter() - started)
    return sorted(taken)


def assert_nobody_waited(taken: list[float]) -> None:
    # On a busy machine the scheduler may take a caller away for some time slices, a hypervisor
    # once for longer; an attempt to reach the daemon would take 0.3 s, and they do not end.
    assert taken[len(taken) * 98 // 100] < WAIT_LIMIT_S
    assert taken[-2] < 0.2


def numbered(first: int, last: int) -> list[str]:
    return [f"m{number}" for number in range(first, last)]


def arrived(daemon: LogDaemon, count: int) -> list[str]:
    daemon.wait(lambda client: client.call("status")["messages"] == count)
    return [message["text"] for message in daemon.messages()]


def test_dead_from_the_beginning(daemon: LogDaemon, sender: ObservatoryLog) -> None:
    assert_nobody_waited(say(sender, numbered(0, 1000)))
    daemon.start()
    assert arrived(daemon, 1000) == numbered(0, 1000)
    say(sender, ["and now"])
    assert arrived(daemon, 1001)[-1] == "and now"
    eventually(lambda: sender.is_reachable)  # an answer may have come too late


@contextlib.contextmanager
def deaf_listener(port: int, backlog: int, fill: int) -> Iterator[None]:
    """A socket that listens and never answers; with its backlog filled it does not even connect."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(backlog)
        for _ in range(fill):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield


@pytest.mark.parametrize(("backlog", "fill"), [(50, 0), (0, 4)], ids=["never answers", "full"])
def test_black_hole(
    daemon: LogDaemon, sender: ObservatoryLog, tmp_path: Path, backlog: int, fill: int
) -> None:
    taken: list[float] = []
    with deaf_listener(daemon.entry.port, backlog, fill):
        say(sender, ["m0"])
        deadline = time.monotonic() + 10
        while sender.is_reachable is not False:  # the first attempt has failed, more follow
            assert time.monotonic() < deadline
            time.sleep(0.005)
        # For longer than one attempt takes.
        while len(taken) < 500 or time.monotonic() < deadline - 8.5:
            taken += say(sender, [f"m{len(taken) + 1}"])
            time.sleep(0.001)
        while sender.undelivered > len(spooled(tmp_path)):
            assert time.monotonic() < deadline + 5
            time.sleep(0.005)
        assert len(spooled(tmp_path)) == len(taken) + 1  # all safe on disk meanwhile
    assert_nobody_waited(sorted(taken))
    daemon.start()
    assert arrived(daemon, len(taken) + 1) == numbered(0, len(taken) + 1)


def spooled(folder: Path) -> list[list[object]]:
    spool = Spool(folder / "spool.db")
    try:
        return spool.head(10**6, 10**9)
    finally:
        spool.close()


@pytest.mark.parametrize("lives", counts(2, 8))
def test_killed_again_and_again_in_the_middle_of_batches(
    daemon: LogDaemon, sender: ObservatoryLog, lives: int
) -> None:
    total = 0
    on_the_way = []
    for _ in range(lives):
        daemon.start()
        seen = total
        say(sender, numbered(total, total + 5000))
        total += 5000
        # Some of these are in the database, some on the way, some not sent.
        daemon.wait(lambda client, seen=seen: client.call("status")["messages"] > seen)
        daemon.kill()
        on_the_way.append(sender.undelivered)
        say(sender, numbered(total, total + 100))
        total += 100
    daemon.start()
    assert arrived(daemon, total) == numbered(0, total)
    assert max(on_the_way) > 0, "never killed in the middle: send more"


def test_stopped_and_started_in_order(daemon: LogDaemon, sender: ObservatoryLog) -> None:
    for turn in range(2):
        daemon.start()
        say(sender, numbered(100 * turn, 100 * turn + 50))
        assert len(arrived(daemon, 100 * turn + 50)) == 100 * turn + 50
        assert daemon.stop() == 0
        assert_nobody_waited(say(sender, numbered(100 * turn + 50, 100 * turn + 100)))
    daemon.start()
    assert arrived(daemon, 200) == numbered(0, 200)


SENDER = """
import sys, time
from pathlib import Path
from nightjar.clock import SystemClock
from nightjar.obslog import ObservatoryLog
from nightjar.registry import Registry
from nightjar.rpc.client import Client

entry = Registry.load(Path(sys.argv[1])).daemon("observatory_log")
log = ObservatoryLog("camd@test", Client(entry), Path(sys.argv[2]), SystemClock())
number = int(sys.argv[3])
while True:
    log.info(f"m{number}")
    print(number, flush=True)
    number += 1
    time.sleep(0.001)
"""


def test_the_sender_killed_while_it_sends(daemon: LogDaemon, tmp_path: Path) -> None:
    spool_path = tmp_path / "spool.db"
    daemon.start()
    said = 0
    for turn in range(3):
        if turn == 1:
            daemon.kill()  # the second life of the sender has nobody to send to
        arguments = [str(daemon.registry_path), str(spool_path), str(said)]
        command = [sys.executable, "-c", SENDER, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(200):
                said = int(process.stdout.readline()) + 1
            process.kill()
            said = max([said, *(int(line) + 1 for line in process.stdout.read().split())])
        if turn == 1:
            daemon.start()
    last = ObservatoryLog("camd@test", daemon.client(), spool_path, ScaledClock(20))
    last.info("the end")
    daemon.wait(lambda client: bool(client.call("search", {"text": "the end"})["messages"]))
    last.close()
    numbers = [int(m["text"][1:]) for m in daemon.messages()[:-1]]
    assert numbers == sorted(set(numbers))  # in order, once
    # At kill -9 only what was said in the last milliseconds may be missing.
    missing = sorted(set(range(said)) - set(numbers))
    assert len(missing) <= 3 * 60
    assert len(numbers) > said * 0.7
