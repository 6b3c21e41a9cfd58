# SPDX-License-Identifier: BSD-3-Clause
"""Two real link daemons on one machine, their processes, and the real command."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kit.links import Follower, Source
from kit.site import Daemon, command_line, descendants, eventually, is_alive
from nightjar.api.streamlink import LINK_KEYS, STATUS_KEYS, STREAM_KEYS
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjarctl.streamlink import main


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@dataclass
class Pair:
    """A sending and a receiving daemon with two links between them."""

    send: Daemon
    recv: Daemon
    capsys: Any

    def run(self, *arguments: str) -> Done:
        self.capsys.readouterr()
        code = main(arguments)
        said = self.capsys.readouterr()
        return Done(code, said.out, said.err)

    def states(self) -> dict[str, str]:
        return {
            f"{name}/{link}": value["state"]
            for name, daemon in (("send", self.send), ("recv", self.recv))
            for link, value in daemon.status()["links"].items()
        }

    def workers(self, daemon: Daemon, link: str) -> list[int]:
        return [
            pid for pid in descendants(daemon.process.pid)
            if f'"name":"{link}"' in command_line(pid)
        ]  # fmt: skip


@pytest.fixture
def source() -> Source:
    return Source(depth=500)


@pytest.fixture
def pair(
    free_ports: Callable[[int], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], source: Source,
) -> Iterator[Pair]:  # fmt: skip
    ports = free_ports(4)
    etc = tmp_path / "etc"
    monkeypatch.setenv("NIGHTJAR_CONFIG_ROOT", str(etc))
    registry = {
        "machines": {"LocalHost": ["127.0.0.1"], "Reader": ["127.0.0.2"]},
        "daemons": {
            name: {"machine": "LocalHost", "port": port}
            for name, port in zip(("link_send", "link_recv"), ports, strict=False)
        },
    }
    ways = [("all", "all", ports[2], "far"), ("view", "latest", ports[3], "near")]
    roles: dict[str, list[dict[str, Any]]] = {"send": [], "recv": []}
    for name, policy, port, local in ways:
        common = {"name": name, "policy": policy, "address": "127.0.0.1", "port": port}
        roles["send"].append({**common, "role": "send", "streams": {"source": "wire"}})
        roles["recv"].append({**common, "role": "receive", "streams": {local: "wire"}})
    (etc / "nightjar").mkdir(parents=True)
    (etc / "nightjar/registry.json").write_text(json.dumps(registry))
    (etc / "streamlinkd").mkdir()
    daemons = []
    for name, links in roles.items():
        path = etc / f"streamlinkd/{name}.json"
        path.write_text(json.dumps({
            "daemon": f"link_{name}", "log_name": f"streamlinkd@{name}",
            "control_machines": ["LocalHost"], "links": links,
        }))  # fmt: skip
        entry = Registry.load(etc / "nightjar/registry.json").daemon(f"link_{name}")
        daemons.append(Daemon("streamlinkd", path, Client(entry), tmp_path / f"{name}.log"))
    try:
        for daemon in daemons:
            daemon.wait_ready()
        yield Pair(daemons[0], daemons[1], capsys)
    finally:
        codes = [daemon.stop() for daemon in daemons]
        for daemon in daemons:
            daemon.client.close()
    assert codes == [0, 0]


def test_a_day_of_two_links(pair: Pair, source: Source) -> None:
    with Follower() as follower:
        _connected(pair, source)
        _status_and_commands(pair, source)
        _killed_process_comes_back(pair, source, follower)
        _hanging_process_delays_no_answer_and_is_stopped(pair)
        _killed_daemon_takes_its_processes_along(pair, source, follower)
        assert follower.wrong == []
        assert follower.numbers == sorted(set(follower.numbers))


def _connected(pair: Pair, source: Source) -> None:
    def all_live() -> bool:
        source.publish()
        return set(pair.states().values()) == {"LIVE"}

    eventually(all_live, 30, "both links live")
    for daemon in (pair.send, pair.recv):
        status = daemon.status()
        assert set(status) == set(STATUS_KEYS)
        for link in status["links"].values():
            assert set(link) == set(LINK_KEYS)
            for stream in link["streams"].values():
                assert set(stream) == set(STREAM_KEYS)


def _status_and_commands(pair: Pair, source: Source) -> None:
    shown = pair.run("status")
    assert shown.code == 0, shown.err
    for words in ("send (link_send):", "recv (link_recv):", "Link all (all) to 127.0.0.1",
                  "Link view (latest) from", "is LIVE", "16x24 uint16"):  # fmt: skip
        assert words in shown.out
    assert "view" not in pair.run("status", "all").out
    told = json.loads(pair.run("--json", "status", "all").out)
    assert told["recv"]["links"]["all"]["streams"]["far"]["lost"] == 0
    assert pair.run("stop", "all").code == 0
    assert [value for key, value in pair.states().items() if key.endswith("/all")] == [
        "STOPPED", "STOPPED",
    ]  # fmt: skip
    assert pair.workers(pair.send, "all") == []
    assert "is STOPPED" in pair.run("status", "all").out
    assert pair.run("start", "all", "--id", "send").code == 0
    assert pair.states()["recv/all"] == "STOPPED"
    assert pair.run("restart", "all").code == 0
    eventually(lambda: source.publish() or pair.states()["recv/all"] == "LIVE")
    assert "5 frames/s, within 40 Mbit/s" in (
        pair.run("budget", "view", "40").out + pair.run("rate", "view", "5").out
    )
    eventually(lambda: pair.send.status()["links"]["view"]["wanted_rate"] == 5.0)
    refusals = {
        ("rate", "all", "5"): (3, "only the sender of a link of policy latest"),
        ("rate", "view", "0"): (2, "not in the range"),
        ("stop", "none"): (3, "no link 'none'; there are: all, view"),
        ("status", "none"): (3, "no link 'none'"),
        ("stop",): (2, "--all"),
        ("status", "--id", "nowhere"): (2, "recv, send"),
    }
    for arguments, (code, words) in refusals.items():
        done = pair.run(*arguments)
        assert (done.code, words in done.err) == (code, True), (arguments, done)


def _killed_process_comes_back(pair: Pair, source: Source, follower: Follower) -> None:
    for daemon in (pair.send, pair.recv):
        (pid,) = pair.workers(daemon, "all")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: not is_alive(pid))
        _goes_on(source, follower)
        assert daemon.status()["links"]["all"]["restarts"] == 1
    assert pair.recv.status()["links"]["all"]["lost"] == 0


def _goes_on(source: Source, follower: Follower) -> None:
    last = source.writer.counter
    eventually(lambda: source.publish() or (follower.numbers and follower.numbers[-1] > last), 20)


def _hanging_process_delays_no_answer_and_is_stopped(pair: Pair) -> None:
    (pid,) = pair.workers(pair.recv, "all")
    os.kill(pid, signal.SIGSTOP)
    times = []
    for _ in range(20):
        began = time.monotonic()
        pair.recv.status()
        times.append(time.monotonic() - began)
    assert sorted(times)[10] < 0.1
    soon = pair.run("stop", "all", "--id", "recv", "--timeout", "0.6")
    assert soon.code == 6
    assert "not stopped within 0.6 s: all of recv" in soon.err
    assert pair.run("stop", "all").code == 0  # its end is waited for: it is killed at last
    assert pair.states()["recv/all"] == pair.states()["send/all"] == "STOPPED"
    assert not is_alive(pid)
    assert pair.run("start", "all").code == 0


def _killed_daemon_takes_its_processes_along(
    pair: Pair, source: Source, follower: Follower
) -> None:
    pids = eventually(lambda: len(found := descendants(pair.recv.process.pid)) == 2 and found)
    pair.recv.kill()
    eventually(lambda: not any(is_alive(pid) for pid in pids), 10, "its processes ended")
    done = pair.run("status")
    assert done.code == 5
    assert "recv: OFFLINE" in done.out
    assert "Link all" in done.out
    again = Daemon(
        "streamlinkd", Path(os.environ["NIGHTJAR_CONFIG_ROOT"], "streamlinkd/recv.json"),
        pair.recv.client, pair.recv.log_path,
    )  # fmt: skip
    pair.recv.process = again.process
    _goes_on(source, follower)
