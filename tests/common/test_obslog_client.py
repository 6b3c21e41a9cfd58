# SPDX-License-Identifier: BSD-3-Clause
"""The sending end of the observatory log, against a log daemon that is a list."""

from __future__ import annotations

import itertools
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serpent

from kit.sleepers import SleepersClock
from kit.soon import assert_soon
from nightjar import obslog
from nightjar.clock import SystemClock
from nightjar.errors import AccessDenied, TimedOut, Unreachable
from nightjar.obslog import BATCH_LETTERS, MAX_TEXT, Message, ObservatoryLog, Spool, open_spool
from nightjar.rpc.server import MAX_MESSAGE_BYTES


class ListDaemon:
    """Keeps each (spool, sequence) once, as the real one does; fails when told to."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], list[Any]] = {}
        self.calls = 0
        self.trouble: Exception | None = None
        self.lose_replies = 0
        self.hang = threading.Event()
        self.hang.set()
        self.closed = 0

    def call(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        is_safe: bool = False,
    ) -> Any:
        assert command == "append"
        assert is_safe
        assert timeout_s is not None
        assert arguments is not None
        self.calls += 1
        self.hang.wait(20)
        if self.trouble is not None:
            raise self.trouble
        for message in arguments["messages"]:
            self.kept.setdefault((arguments["spool"], message[0]), message)
        if self.lose_replies > 0:
            self.lose_replies -= 1
            raise TimedOut("the reply was lost")
        return {}

    def close(self) -> None:
        self.closed += 1

    @property
    def texts(self) -> list[str]:
        return [message[3] for message in self.kept.values()]


PATIENT_S = 15.0  # to close in, where nothing hangs


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.002)


@pytest.fixture
def daemon() -> ListDaemon:
    return ListDaemon()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.db"


@pytest.fixture
def sender(daemon: ListDaemon, path: Path) -> Iterator[ObservatoryLog]:
    made = ObservatoryLog("camd@test", daemon, path, SystemClock())
    yield made
    daemon.hang.set()
    made.close()


def test_messages_arrive_in_order_with_time_and_severity(
    sender: ObservatoryLog, daemon: ListDaemon
) -> None:
    before = time.time_ns()
    for number in range(300):
        (sender.info, sender.warning, sender.error)[number % 3](f"m{number}")
    after = time.time_ns()
    wait_until(lambda: len(daemon.kept) == 300)
    messages = list(daemon.kept.values())
    assert [m[3] for m in messages] == [f"m{n}" for n in range(300)]
    assert [m[2] for m in messages] == ["info", "warning", "error"] * 100
    assert [m[0] for m in messages] == list(range(1, 301))
    times = [m[1] for m in messages]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= after
    wait_until(lambda: sender.undelivered == 0)
    assert sender.is_reachable is True


def test_without_a_log_daemon_messages_go_to_the_local_log_only(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    quiet = ObservatoryLog("camd@test", None, path, SystemClock())
    quiet.error("dome is open")
    quiet.close()
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("ERROR", "dome is open")]
    assert not path.exists()


def test_while_it_is_away_messages_are_kept_and_later_delivered_once(
    daemon: ListDaemon, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = SleepersClock()
    sender = ObservatoryLog("camd@test", daemon, path, clock)
    daemon.trouble = Unreachable("connection refused")
    for number in range(5):
        sender.info(f"m{number}")
    wait_until(lambda: daemon.calls == 1)
    for _ in range(4):  # 0.5, 1, 2, 4 s of pause
        calls = daemon.calls
        clock.until_asleep()
        clock.advance(0.4)
        time.sleep(0.02)  # room for an attempt that must not come
        assert daemon.calls == calls
        clock.advance(8)
        wait_until(lambda calls=calls: daemon.calls == calls + 1)  # type: ignore[misc]
    assert sender.is_reachable is False
    wait_until(lambda: sender.undelivered == 5)
    clock.until_asleep()
    daemon.trouble = None
    clock.advance(60)
    wait_until(lambda: sender.undelivered == 0)
    assert daemon.texts == [f"m{n}" for n in range(5)]
    sender.close()
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert told == ["observatory log: connection refused; messages are kept"]
    assert "observatory log is back" in caplog.text


def test_a_lost_reply_delivers_nothing_twice(sender: ObservatoryLog, daemon: ListDaemon) -> None:
    daemon.lose_replies = 1
    sender.info("first")
    wait_until(lambda: daemon.calls >= 2)
    sender.info("second")
    wait_until(lambda: sender.undelivered == 0)
    assert daemon.texts == ["first", "second"]


def test_what_was_not_delivered_survives_the_process(daemon: ListDaemon, path: Path) -> None:
    daemon.trouble = Unreachable("away")
    first = ObservatoryLog("camd@test", daemon, path, SystemClock())
    for number in range(3):
        first.info(f"m{number}")
    first.close(PATIENT_S)
    assert daemon.kept == {}
    daemon.trouble = None
    second = ObservatoryLog("camd@test", daemon, path, SystemClock())
    second.info("m3")
    wait_until(lambda: len(daemon.kept) == 4)
    second.close()
    assert daemon.texts == ["m0", "m1", "m2", "m3"]
    assert len({spool for spool, _ in daemon.kept}) == 1


def test_closing_delivers_what_is_queued(daemon: ListDaemon, path: Path) -> None:
    sender = ObservatoryLog("camd@test", daemon, path, SystemClock())
    for number in range(2500):
        sender.info(f"m{number}")
    sender.close(PATIENT_S)
    assert daemon.texts == [f"m{n}" for n in range(2500)]
    assert daemon.closed == 1
    sender.info("after the end")  # says nothing, breaks nothing
    sender.close()


def test_messages_are_on_disk_while_a_delivery_hangs(
    sender: ObservatoryLog, daemon: ListDaemon, path: Path
) -> None:
    daemon.hang.clear()
    sender.info("first")
    wait_until(lambda: daemon.calls == 1)
    sent = 1

    def say() -> tuple[float, str]:
        nonlocal sent
        slowest = 0.0
        for number in range(500):
            started = time.perf_counter()
            sender.info(f"m{number}")
            slowest = max(slowest, time.perf_counter() - started)
        sent += 500
        return slowest, "a message"

    assert_soon(say, 0.05)

    def on_disk() -> int:
        with sqlite3.connect(path) as db:
            count = int(db.execute("SELECT count(*) FROM message").fetchone()[0])
        db.close()
        return count

    wait_until(lambda: on_disk() == sent)
    assert sender.undelivered >= sent
    daemon.hang.set()
    wait_until(lambda: sender.undelivered == 0)


def test_closing_does_not_wait_for_a_delivery_that_hangs(daemon: ListDaemon, path: Path) -> None:
    paths = (path.with_name(f"spool-{n}.db") for n in itertools.count())
    daemon.hang.clear()

    def close() -> tuple[float, str]:
        calls, own = daemon.calls, next(paths)
        sender = ObservatoryLog("camd@test", daemon, own, SystemClock())
        sender.info("first")
        wait_until(lambda: daemon.calls == calls + 1)
        sender.info("last words")
        started = time.monotonic()
        sender.close(timeout_s=0.2)
        took_s = time.monotonic() - started
        spool = Spool(own)
        wait_until(lambda: [row[3] for row in spool.head()] == ["first", "last words"])
        spool.close()
        return took_s, "closing"

    assert_soon(close, 1.5)
    daemon.trouble = Unreachable("away")
    daemon.hang.set()


def test_a_batch_of_the_longest_messages_fits_into_one_call(path: Path) -> None:
    # Escapes make ten bytes of a letter; what the daemon would refuse would stay for ever.
    spool = Spool(path)
    spool.add([Message(1, "info", "\U000e0001" * MAX_TEXT) for _ in range(200)])
    batch = spool.head()
    assert sum(len(row[3]) for row in batch) <= BATCH_LETTERS
    call = serpent.dumps(("append", {"source": "s" * 80, "spool": "s" * 32, "messages": batch}))
    assert len(call) < MAX_MESSAGE_BYTES * 0.7
    assert spool.head(letters=10) == batch[:1]
    spool.close()


@pytest.mark.parametrize("text", ["lone \ud83d surrogate", "nul \x00", "", "日本", "x" * 10_000])
def test_no_text_ends_the_threads(sender: ObservatoryLog, daemon: ListDaemon, text: str) -> None:
    sender.info(text)
    sender.info("after")
    wait_until(lambda: len(daemon.kept) == 2)
    assert daemon.texts[1] == "after"
    assert len(daemon.texts[0]) <= MAX_TEXT
    daemon.texts[0].encode("utf-8")


def test_an_unexpected_failure_is_tried_again(sender: ObservatoryLog, daemon: ListDaemon) -> None:
    daemon.trouble = RuntimeError("a bug in between")
    sender.info("kept")
    wait_until(lambda: sender.is_reachable is False)
    daemon.trouble = None
    wait_until(lambda: daemon.texts == ["kept"])


def test_a_refusing_daemon_keeps_the_messages(sender: ObservatoryLog, daemon: ListDaemon) -> None:
    daemon.trouble = AccessDenied("append is not accepted from here")
    sender.info("kept")
    wait_until(lambda: sender.is_reachable is False)
    assert sender.undelivered == 1


def test_a_full_spool_is_said_later(
    daemon: ListDaemon,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(obslog, "MAX_SPOOLED", 5)
    clock = SleepersClock()
    daemon.trouble = Unreachable("away")
    sender = ObservatoryLog("camd@test", daemon, path, clock)
    for number in range(9):
        sender.info(f"m{number}")
    wait_until(lambda: sender.lost == 4)
    assert "it is full" in caplog.text
    clock.until_asleep()
    daemon.trouble = None
    clock.advance(60)
    wait_until(lambda: sender.undelivered == 0)
    sender.info("back")
    sender.close(PATIENT_S)
    assert daemon.texts == [
        "m0", "m1", "m2", "m3", "m4",
        "4 messages of camd@test were lost before this one: no room for them", "back",
    ]  # fmt: skip


def test_a_spool_that_cannot_be_written_for_a_while_loses_nothing(
    daemon: ListDaemon, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obslog, "_SPOOL_RETRY_S", 0.05)
    sender = ObservatoryLog("camd@test", daemon, path, SystemClock())
    wait_until(path.exists)
    sender.info("before")
    wait_until(lambda: daemon.texts == ["before"])
    wait_until(lambda: sender.undelivered == 0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    spool = sender._spool
    assert spool is not None
    spool._db.execute("PRAGMA busy_timeout = 20")
    sender.info("during 1")
    sender.info("during 2")
    time.sleep(0.2)  # several tries fail
    assert daemon.texts == ["before"]
    other.execute("ROLLBACK")
    other.close()
    wait_until(lambda: daemon.texts == ["before", "during 1", "during 2"])
    sender.close()


def test_a_damaged_spool_is_put_aside(path: Path, daemon: ListDaemon) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this was a disk once " * 200)
    spool = open_spool(path, 77)
    spool.add([Message(1, "info", "x")])
    spool.close()
    assert path.with_name("spool.db.damaged-77").read_bytes().startswith(b"this was")
    again = Spool(path)
    assert len(again) == 1
    again.close()


def test_a_spool_that_cannot_be_made_is_kept_in_memory(
    tmp_path: Path, daemon: ListDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    sender = ObservatoryLog("camd@test", daemon, tmp_path / "state" / "spool.db", SystemClock())
    sender.info("still said")
    wait_until(lambda: daemon.texts == ["still said"])
    sender.close()
    assert "kept in memory" in caplog.text


def test_numbers_are_never_used_again(path: Path) -> None:
    spool = Spool(path)
    spool.add([Message(n, "info", "x") for n in range(3)])
    spool.drop_through(3)
    assert len(spool) == 0
    spool.close()
    again = Spool(path)
    assert again.identity == spool.identity
    again.add([Message(9, "info", "y")])
    assert again.head() == [[4, 9, "info", "y"]]
    again.close()
