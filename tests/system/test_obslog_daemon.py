# SPDX-License-Identifier: BSD-3-Clause
"""The real log daemon and the real command: processes, network, files."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from kit.obslog_site import NAME, LogDaemon
from kit.ports import free_ports
from kit.rawrpc import RawClient
from nightjar.api.obslog import STATUS_KEYS
from nightjar.clock import SystemClock
from nightjar.obslog import ObservatoryLog
from nightjar.times import parse_iso
from nightjarctl.obslog import main


@pytest.fixture
def daemon(free_port: int) -> Iterator[LogDaemon]:
    """A daemon of the test's own, to be ill-treated."""
    made = LogDaemon(free_port, database_timeout=0.5).start()
    yield made
    assert made.stop() == 0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogDaemon]:
    (port,) = free_ports(1)
    made = LogDaemon(port, tmp_path_factory.mktemp("obslogd")).start()
    yield made
    assert made.stop() == 0


@pytest.fixture
def shared(running: LogDaemon, monkeypatch: pytest.MonkeyPatch) -> LogDaemon:
    """A daemon that several tests use one after the other; its log is not empty."""
    for name, value in running.variables.items():
        monkeypatch.setenv(name, value)
    return running


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


class Command(Protocol):
    def __call__(self, *arguments: str) -> Done: ...


@pytest.fixture
def obslog(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return the command as a function: in this process, or it would cost 0.3 s each time."""

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


@pytest.fixture
def told(obslog: Command) -> Callable[..., Any]:
    """Return what the command prints with --json."""

    def run(*arguments: str) -> Any:
        done = obslog(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_write_tail_search_status(
    daemon: LogDaemon, obslog: Command, told: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = time.time_ns()
    written = obslog("write", "clouds", "from the west", "--severity", "warning", "--source", "me")
    assert (written.returncode, written.stderr) == (0, "")
    assert written.stdout.rstrip().endswith("as me")
    monkeypatch.setenv("USER", "jane")
    obslog("write", "all clear")
    plain = obslog("tail")
    lines = plain.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("  WARNING  me: clouds from the west")
    assert "  INFO     jane@" in lines[1]
    assert "\x1b" not in plain.stdout
    (message,) = told("tail", "--severity", "warning")
    assert (message["id"], message["source"], message["text"]) == (1, "me", "clouds from the west")
    assert before <= parse_iso(message["time"]) + 1000 <= time.time_ns() + 1000
    assert [m["text"] for m in told("tail", "-n", "1")] == ["all clear"]
    assert [m["text"] for m in told("tail", "--source", "jane@*")] == ["all clear"]
    assert [m["text"] for m in told("search", "WEST", "--since", "1h")] == ["clouds from the west"]
    assert told("search", "west", "--until", "1h") == []
    assert obslog("search", "nothing of it").stderr == "nothing found\n"
    status = told("status")
    assert set(status) == set(STATUS_KEYS)
    assert (status["summary"], status["messages"], status["daemon"]) == ("READY", 2, NAME)
    assert "READY" in obslog("status").stdout
    assert [m["text"] for m in told("tail", "--daemon", "log", "-n", "1")] == ["all clear"]


def test_search_goes_through_pages_and_prints_by_time(
    shared: LogDaemon, obslog: Command, told: Callable[..., Any]
) -> None:
    client = shared.client()
    t0 = 1_700_000_000_000_000_000
    order = [(n * 7919) % 2500 for n in range(2500)]  # arrives out of order
    for start in range(0, 2500, 500):
        batch = [
            [k + 1, t0 + order[k] * 1_000_000, "info", f"paged {order[k]}"]
            for k in range(start, start + 500)
        ]
        client.call("append", {"source": "s", "spool": "ab", "messages": batch})
    client.close()
    found = told("search", "paged", "--limit", "2400")
    assert [m["text"] for m in found] == [f"paged {n}" for n in range(100, 2500)]
    some = obslog("search", "paged", "-n", "3")
    lines = some.stdout.splitlines()
    assert [line.partition(" (")[0][-10:] for line in lines] == [
        "paged 2497", "paged 2498", "paged 2499",
    ]  # fmt: skip
    assert all(" (arrived 20" in line for line in lines)  # years late
    assert "older messages match too" in some.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["search", "x", "--since", "yesterdayish"], 2, "is no time"),
        (["tail", "--severity", "fatal"], 2, "fatal"),
        (["tail", "-n", "0"], 2, "0"),
        (["write"], 2, "TEXT"),
        (["tail", "--daemon", "nosuch"], 2, "nosuch"),
        (["write", "x", "--source", ""], 2, "source is empty"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_wrong_use(
    shared: LogDaemon, obslog: Command, arguments: list[str], code: int, text: str
) -> None:
    done = obslog(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert text in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_no_daemon(free_port: int, obslog: Command) -> None:
    LogDaemon(free_port)
    done = obslog("tail")
    assert done.returncode == 5
    assert "connection refused" in done.stderr
    assert json.loads(obslog("tail", "--json").stdout)["error"]["name"] == "UNREACHABLE"


def test_follow_shows_what_arrives_and_survives_a_restart(daemon: LogDaemon) -> None:
    client = daemon.client()
    client.call("write", {"source": "me", "text": "before"})
    command = [sys.executable, "-m", "nightjarctl.obslog", "tail", "-f", "-n", "5", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        try:
            assert json.loads(follower.stdout.readline())["text"] == "before"
            client.call("write", {"source": "me", "text": "while following"})
            assert json.loads(follower.stdout.readline())["text"] == "while following"
            daemon.kill()
            daemon.start()
            client.call("write", {"source": "me", "text": "after the restart"}, is_safe=True)
            assert json.loads(follower.stdout.readline())["text"] == "after the restart"
        finally:
            follower.terminate()
    client.close()


def test_following_for_a_time(shared: LogDaemon, obslog: Command) -> None:
    started = time.monotonic()
    done = obslog("tail", "-f", "--timeout", "1.2", "--source", "nobody")
    assert (done.returncode, done.stdout) == (0, "")
    assert 1.2 <= time.monotonic() - started < 10


def test_who_may_write_and_who_may_read(shared: LogDaemon) -> None:
    port = shared.entry.port
    with RawClient(port) as control:
        control.shake_hands(NAME)
        assert control.call(NAME, "write", {"source": "me", "text": "hello"})["name"] == "OK"
    with RawClient(port, "127.0.0.2") as reader:
        reader.shake_hands(NAME)
        for command, arguments in (
            ("write", {"source": "me", "text": "no"}),
            ("append", {"source": "me", "spool": "a", "messages": [[1, 1, "info", "no"]]}),
        ):
            reply = reader.call(NAME, command, arguments)
            assert reply["name"] == "ACCESS_DENIED"
            assert "Reader (127.0.0.2)" in reply["message"]
        found = reader.call(NAME, "tail", {"count": 1})["value"]["messages"]
        assert [m["text"] for m in found] == ["hello"]
    with RawClient(port, "127.0.0.3") as stranger:
        assert stranger.is_closed()
    assert "127.0.0.3" in shared.errors.read_text()


def test_control_characters_never_reach_a_terminal(shared: LogDaemon, obslog: Command) -> None:
    client = shared.client()
    client.call("write", {"source": "\x1b[31mme", "text": "a\x1b]0;title\x07\nb\u202ec\x9bd"})
    client.close()
    shown = obslog("tail", "-n", "1").stdout
    assert shown.count("\n") == 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e" for c in shown.rstrip("\n"))


def test_a_locked_database(
    daemon: LogDaemon, obslog: Command, told: Callable[..., Any]
) -> None:
    database = daemon.state / "observatory-log.db"
    sender = ObservatoryLog("camd@t", daemon.client(), daemon.state / "s.db", SystemClock())
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        done = obslog("write", "x")
        assert done.returncode == 4
        assert "locked by another program" in done.stderr
        sender.info("kept meanwhile")
        daemon.wait(lambda client: client.call("status")["health"]["level"] == "DEGRADED")
        assert told("tail") == []  # reading goes on
        assert "DEGRADED" in obslog("status").stdout
    finally:
        other.execute("ROLLBACK")
        other.close()
    daemon.wait(lambda client: client.call("status")["health"]["level"] == "OK")
    daemon.wait(lambda client: client.call("status")["messages"] == 1)
    sender.close()
    assert [m["text"] for m in daemon.messages()] == ["kept meanwhile"]


def test_a_database_that_is_taken_away_and_put_back(
    daemon: LogDaemon, obslog: Command
) -> None:
    database = daemon.state / "observatory-log.db"
    obslog("write", "before")
    moved = daemon.state / "moved.db"
    os.rename(database, moved)
    done = obslog("write", "lost?")
    assert done.returncode == 1
    assert "put it back" in done.stderr
    daemon.wait(lambda client: client.call("status")["summary"] == "STANDBY")
    assert not database.exists()
    os.rename(moved, database)
    daemon.wait(lambda client: client.call("status")["summary"] == "READY")
    obslog("write", "after")
    assert [m["text"] for m in daemon.messages()] == ["before", "after"]


def test_a_damaged_database_does_not_end_the_daemon(
    free_port: int, obslog: Command, told: Callable[..., Any]
) -> None:
    daemon = LogDaemon(free_port)
    daemon.state.mkdir(parents=True)
    (daemon.state / "observatory-log.db").write_bytes(b"no database " * 1000)
    daemon.start()
    try:
        status = told("status")
        assert (status["summary"], status["health"]["level"]) == ("STANDBY", "DEGRADED")
        assert "not a database" in status["health"]["reason"]
        assert obslog("write", "x").returncode == 1
    finally:
        assert daemon.stop() == 0
    assert (daemon.state / "observatory-log.db").read_bytes().startswith(b"no database")


def test_a_second_daemon_is_refused_and_says_why(
    shared: LogDaemon, told: Callable[..., Any], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "nightjard.obslogd", str(shared.config)]
    same = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert same.returncode == 3
    assert "already running" in same.stderr
    elsewhere = {**os.environ, "NIGHTJAR_STATE_ROOT": str(tmp_path)}
    port = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env=elsewhere
    )
    assert port.returncode == 2
    assert "already in use" in port.stderr
    assert told("status")["summary"] == "READY"


def test_what_was_acknowledged_survives_kill_9(daemon: LogDaemon) -> None:
    client = daemon.client()
    for number in range(20):
        client.call("write", {"source": "me", "text": f"m{number}"})
    daemon.kill()
    client.close()
    daemon.start()
    assert [m["text"] for m in daemon.messages()] == [f"m{n}" for n in range(20)]


def test_check_says_what_is_doubtful(free_port: int) -> None:
    daemon = LogDaemon(free_port)
    command = [sys.executable, "-m", "nightjard.obslogd", str(daemon.config), "--check"]
    good = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert good.returncode == 0
    assert f"{NAME} on 127.0.0.1:{free_port}" in good.stdout
    daemon.config.write_text(daemon.config.read_text().replace("log_name", "logname"))
    bad = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert bad.returncode == 2
    assert "logname: unknown key" in bad.stderr
