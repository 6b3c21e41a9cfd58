# SPDX-License-Identifier: BSD-3-Clause
"""Health: the worst part is the daemon's, with its reason."""

from __future__ import annotations

import json
import threading

from nightjar.api.states import Level
from nightjar.clock import ManualClock
from nightjar.health import Health


def test_nothing_reported_is_well() -> None:
    health = Health(ManualClock().now_ns)
    assert health.snapshot() == {"level": "OK", "reason": "", "parts": {}}
    assert health.level_of("camera") is Level.OK


def test_the_worst_part_counts_and_says_why() -> None:
    clock = ManualClock(5)
    health = Health(clock.now_ns)
    health.set("pipeline", Level.DEGRADED, "does not answer")
    clock.advance(1)
    health.set("camera", Level.FAILED, "lost")
    health.ok("disk")
    assert health.snapshot() == {
        "level": "FAILED",
        "reason": "lost",
        "parts": {
            "pipeline": {"level": "DEGRADED", "reason": "does not answer", "since_ns": 5},
            "camera": {"level": "FAILED", "reason": "lost", "since_ns": 1_000_000_005},
        },
    }
    health.set("wheel", Level.FAILED, "stuck")
    assert health.snapshot()["reason"] == "lost; stuck"
    health.ok("camera")
    health.ok("wheel")
    assert health.snapshot()["level"] == "DEGRADED"
    assert health.snapshot()["reason"] == "does not answer"
    json.dumps(health.snapshot())


def test_since_moves_with_the_level_only() -> None:
    clock = ManualClock(0)
    health = Health(clock.now_ns)
    health.set("camera", Level.DEGRADED, "first")
    clock.advance(1)
    health.set("camera", Level.DEGRADED, "another reason")
    part = health.snapshot()["parts"]["camera"]
    assert (part["reason"], part["since_ns"]) == ("another reason", 0)
    health.set("camera", Level.FAILED, "worse")
    assert health.snapshot()["parts"]["camera"]["since_ns"] == 1_000_000_000


def test_changes_are_told_once_and_the_one_told_may_ask_back() -> None:
    told = []

    def on_change(part: str, level: Level, reason: str) -> None:
        # Asking back would block if the lock were held.
        told.append((part, level, reason, health.snapshot()["level"]))

    health = Health(ManualClock().now_ns, on_change)
    health.ok("camera")  # well before, well now: no news
    health.set("camera", Level.DEGRADED, "warm")
    health.set("camera", Level.DEGRADED, "warmer")
    health.set("camera", Level.FAILED, "hot")
    health.ok("camera")
    health.ok("camera")
    assert told == [
        ("camera", Level.DEGRADED, "warm", "DEGRADED"),
        ("camera", Level.FAILED, "hot", "FAILED"),
        ("camera", Level.OK, "", "OK"),
    ]


def test_many_threads_tell_each_change_once() -> None:
    told = []
    health = Health(ManualClock().now_ns, lambda *change: told.append(change))
    start = threading.Barrier(8)

    def work() -> None:
        start.wait(5)
        for _ in range(50):
            health.set("camera", Level.FAILED, "x")
            health.snapshot()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert told == [("camera", Level.FAILED, "x")]
