# SPDX-License-Identifier: BSD-3-Clause
"""The links of a daemon: processes that start, end, hang and are told to stop."""

from __future__ import annotations

import threading

import pytest

from kit.sleepers import SleepersClock
from nightjar.api.states import Level
from nightjar.api.streamlink import LINK_KEYS, STATUS_KEYS, STREAM_KEYS
from nightjar.child import Backoff
from nightjar.clock import ManualClock
from nightjar.errors import NightjarError, Refused
from nightjar.health import Health
from nightjard.streamlinkd import state
from nightjard.streamlinkd.config import LinkConfig
from nightjard.streamlinkd.model import STUCK_S, Link, Links


class FakeWorker:
    made: list[FakeWorker]

    def __init__(self, config, on_message, on_end):
        self.config, self.on_message, self.on_end = config, on_message, on_end
        self.pid, self.lived_s = 77, 0.0
        self.asked, self.ended = [], threading.Event()
        self.killed = self.started = False
        self.refuses = ""

    def start(self):
        if self.refuses:
            raise NightjarError(self.refuses)
        self.started = True

    def ask(self, command, arguments=None, timeout_s=5.0):
        self.asked.append((command, dict(arguments)))

    def stop(self, timeout_s):
        self.ended.set()

    def kill(self):
        self.killed = True

    def tell(self, name="LIVE", reason=""):
        lane = state.Lane("a", "b").snapshot(name, reason)
        told = state.link_snapshot(
            [lane], ["a"], 0.0, state.Trouble(ManualClock()), name, reason,
            address="x:1", peer="y", is_sealed=False, reconnects=0, heard_s=0.1,
        )  # fmt: skip
        self.on_message({"status": told})


def config(name="one", **more):
    return LinkConfig.model_validate({
        "name": name, "role": "send", "policy": "latest", "streams": ["a"], "port": 5, **more,
    })  # fmt: skip


class Bench:
    def __init__(self, *configs):
        self.clock = SleepersClock()
        self.workers = []
        self.health = Health(self.clock.now_ns)

        def make(link, on_message, on_end):
            worker = FakeWorker(link, on_message, on_end)
            self.workers.append(worker)
            return worker

        links = {
            one.name: Link(one, make, Backoff(0.2, 5.0), self.clock) for one in configs
        }
        self.links = Links(links, self.clock, self.health)

    def tick(self, seconds=0.0):
        self.clock.advance(seconds)
        self.links.tick()

    def link(self, name="one"):
        return self.links.status()["links"][name]

    def command(self, method, *names):
        """A command waits up to 0.4 s for its effect: meanwhile the daemon's thread ticks."""
        done = threading.Event()
        result = []

        def run():
            result.append(method(list(names)))
            done.set()

        thread = threading.Thread(target=run)
        thread.start()
        while not done.wait(0.002):
            if self.clock.is_slept_on():
                self.tick(0.02)
        thread.join()
        return result[0]


@pytest.fixture
def bench():
    made = Bench(config())
    made.tick()
    return made


def test_status_has_the_documented_keys(bench):
    assert set(bench.links.status()) < set(STATUS_KEYS)
    assert set(bench.link()) == set(LINK_KEYS)
    bench.workers[0].tell()
    assert set(bench.link()) == set(LINK_KEYS)
    assert set(bench.link()["streams"]["a"]) == set(STREAM_KEYS)


def test_life_of_a_link(bench):
    assert bench.link()["state"] == "STARTING"
    bench.workers[0].tell("LIVE")
    assert (bench.link()["state"], bench.link()["pid"]) == ("LIVE", 77)
    assert bench.links.status()["state"] == "LIVE"
    assert bench.command(bench.links.stop) == {"one": "STOPPED"}
    assert bench.workers[0].ended.is_set()
    assert bench.links.status()["summary"] == "READY"
    assert bench.link()["streams"] == {}
    bench.tick(60)
    assert len(bench.workers) == 1
    assert bench.command(bench.links.start, "one") == {"one": "STARTING"}
    assert len(bench.workers) == 2
    assert bench.command(bench.links.start, "one") == {"one": "STARTING"}  # again: nothing happens
    assert len(bench.workers) == 2


def test_process_that_ends_is_started_again_with_growing_pauses(bench):
    pauses = []
    for _ in range(4):
        count = len(bench.workers)
        bench.workers[-1].on_end("ended by SIGKILL")
        assert bench.link()["state"] == "ERROR"
        assert "SIGKILL" in bench.link()["reason"]
        waited = 0.0
        while len(bench.workers) == count:
            bench.tick(0.1)
            waited += 0.1
        pauses.append(waited)
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.35
    assert pauses[-1] > 1
    assert bench.link()["restarts"] == 4
    assert bench.health.snapshot()["level"] == "DEGRADED"
    bench.workers[-1].tell("LIVE")
    bench.tick()
    assert bench.health.snapshot()["level"] == "OK"


def test_start_does_not_wait_for_the_pause(bench):
    for _ in range(6):
        bench.workers[-1].on_end("exit status 1")
        bench.command(bench.links.start, "one")
    assert len(bench.workers) == 7


def test_reason_of_a_process_that_cannot_work_is_its_own(bench):
    bench.workers[0].on_message({"failed": "cannot read the secret /x"})
    bench.workers[0].on_end("exit status 1")
    assert bench.link()["reason"] == "cannot read the secret /x"


def test_late_news_of_a_stopped_process_change_nothing(bench):
    first = bench.workers[0]
    bench.command(bench.links.stop)
    first.tell("LIVE")
    first.on_end("exit status 0")
    assert bench.link()["state"] == "STOPPED"
    assert bench.link()["restarts"] == 0


def test_stuck_process_is_killed(bench):
    bench.workers[0].tell()
    bench.tick(STUCK_S - 1)
    assert not bench.workers[0].killed
    bench.tick(2)
    assert bench.workers[0].killed


def test_restart(bench):
    bench.workers[0].tell()
    bench.command(bench.links.restart, "one")
    assert bench.workers[0].ended.is_set()
    assert len(bench.workers) == 2


def test_waiting_long_for_the_other_end_degrades(bench):
    bench.workers[0].tell("CONNECTING", "nobody there")
    bench.tick(1)
    assert bench.health.snapshot()["level"] == "OK"
    for _ in range(3):
        bench.tick(4)
        bench.workers[0].tell("CONNECTING", "nobody there")
    assert bench.health.level_of("one") is Level.DEGRADED
    assert "nobody there" in bench.health.snapshot()["reason"]


def test_rate_and_budget_last_over_a_restart(bench):
    assert bench.links.set("one", 5.0, None) == {"rate": 5.0, "budget": 500.0}
    assert bench.workers[0].asked == [("set", {"rate": 5.0, "budget": None})]
    bench.links.set("one", None, 40.0)
    bench.command(bench.links.restart)
    assert (bench.workers[1].config.rate, bench.workers[1].config.budget) == (5.0, 40.0)


def test_only_senders_of_latest_have_a_rate():
    bench = Bench(config(role="receive", address="x"), config("two", policy="all", address="x"))
    for name in ("one", "two"):
        with pytest.raises(Refused, match="only the sender"):
            bench.links.set(name, 5.0, None)


def test_unknown_links_are_named(bench):
    for command in (bench.links.start, bench.links.stop, bench.links.restart):
        with pytest.raises(Refused, match="no link 'x'; there are: one"):
            command(["x"])


def test_a_link_that_shall_not_start_waits_for_its_command():
    bench = Bench(config(start=False))
    bench.tick(5)
    assert bench.workers == []
    assert bench.links.status()["state"] == "STOPPED"
    bench.command(bench.links.start)
    assert len(bench.workers) == 1


def test_worst_link_is_the_state_of_all():
    bench = Bench(config(), config("two"), config("three", start=False))
    bench.tick()
    bench.workers[0].tell("LIVE")
    bench.workers[1].tell("STALE", "nothing heard")
    assert bench.links.status()["state"] == "STALE"
    bench.workers[1].tell("QUIET", "no frames")
    assert bench.links.status()["state"] == "QUIET"


def test_after_the_end_nothing_is_started(bench):
    said = []
    bench.command(lambda _names: bench.links.close(said.append))
    assert said
    assert bench.workers[0].ended.is_set()
    assert bench.links.status()["summary"] == "STOPPING"
    with pytest.raises(Refused, match="stopping"):
        bench.links.start([])
