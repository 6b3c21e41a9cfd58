# SPDX-License-Identifier: BSD-3-Clause
"""Operations: progress, results, failures, cancelling, remembering."""

from __future__ import annotations

import itertools
import json
import threading
import time

import pytest

from nightjar.clock import ManualClock
from nightjar.errors import Busy, Cancelled, Code, DeviceError, NightjarError, Refused
from nightjar.operations import Operations


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000_000 * 10**9)


@pytest.fixture
def operations(clock: ManualClock) -> Operations:
    return Operations(clock)


def test_progress_and_the_end(operations: Operations, clock: ManualClock) -> None:
    operation = operations.begin("start")
    fresh = operation.snapshot()
    assert (fresh["operation"], fresh["name"], fresh["state"]) == (operation.id, "start", "running")
    assert (fresh["fraction"], fresh["eta_s"], fresh["ended"]) == (None, None, None)
    assert fresh["started"] == "2001-09-09T01:46:40.000000"
    clock.advance(10)
    operation.update(0.25, "exposing", "frame 1 of 4")
    seen = operation.snapshot()
    assert (seen["fraction"], seen["stage"], seen["message"]) == (0.25, "exposing", "frame 1 of 4")
    assert seen["eta_s"] == pytest.approx(30)
    clock.advance(10)
    operation.update(message="frame 2 of 4")  # the rest stays
    seen = operation.snapshot()
    assert (seen["fraction"], seen["stage"]) == (0.25, "exposing")
    assert seen["eta_s"] == pytest.approx(60)
    operation.update(eta_s=5.0)
    assert operation.snapshot()["eta_s"] == 5
    operation.finish({"frames": (1, 2), "bad": float("nan")})
    done = operation.snapshot()
    assert (done["state"], done["code"]) == ("done", "OK")
    assert (done["fraction"], done["eta_s"]) == (1.0, 0.0)
    assert done["result"] == {"frames": [1, 2], "bad": None}
    assert done["ended"] == "2001-09-09T01:47:00.000000"
    assert operation.is_done
    assert operation.outcome() == {"frames": [1, 2], "bad": None}
    json.dumps(done)


@pytest.mark.parametrize(("given", "seen"), [(-1, 0.0), (0, 0.0), (1, 1.0), (7, 1.0)])
def test_a_fraction_stays_in_range(operations: Operations, given: float, seen: float) -> None:
    operation = operations.begin("x")
    operation.update(given)
    assert operation.snapshot()["fraction"] == seen


def test_failure(operations: Operations) -> None:
    operation = operations.begin("init")
    operation.update(0.5, "connecting")
    operation.fail(DeviceError("no answer", code=Code.DEVICE_LOST, serial=5))
    seen = operation.snapshot()
    assert (seen["state"], seen["code"], seen["message"]) == ("failed", "DEVICE_LOST", "no answer")
    assert (seen["detail"], seen["fraction"], seen["result"]) == ({"serial": 5}, 0.5, None)
    with pytest.raises(DeviceError, match="no answer"):
        operation.outcome()


def test_the_first_end_counts(operations: Operations) -> None:
    operation = operations.begin("x")
    operation.finish("first")
    operation.fail(Busy("second"))
    operation.finish("third")
    operation.update(0.1, "late")
    seen = operation.snapshot()
    assert (seen["state"], seen["result"], seen["fraction"], seen["stage"]) == (
        "done", "first", 1.0, "",
    )  # fmt: skip
    assert operation.error is None


def test_cancelling_asks_once_and_the_worker_ends_it(operations: Operations) -> None:
    asked = []
    operation = operations.begin("start", lambda: asked.append(1))
    operation.cancel()
    operation.cancel()
    assert asked == [1]
    assert operation.is_cancel_asked
    assert operation.snapshot()["state"] == "running"
    operation.fail(Cancelled("stopped by a person"))
    assert operation.snapshot()["state"] == "cancelled"
    operation.cancel()
    assert asked == [1]


def test_what_cannot_be_cancelled_says_so_each_time(operations: Operations) -> None:
    operation = operations.begin("init")
    for _ in range(2):
        with pytest.raises(Refused, match="init cannot be cancelled"):
            operation.cancel()
        assert not operation.is_cancel_asked
    operation.finish()
    operation.cancel()  # there is nothing left to cancel


def test_cancelling_may_end_the_operation_at_once(operations: Operations) -> None:
    operation = operations.begin("x", lambda: operation.fail(Cancelled()))
    operation.cancel()
    assert operation.snapshot()["state"] == "cancelled"


def test_waiting(operations: Operations) -> None:
    operation = operations.begin("x")
    started = time.monotonic()
    assert operation.wait(0.02) is False
    assert time.monotonic() - started >= 0.02
    results = []
    thread = threading.Thread(target=lambda: results.append(operation.wait(10)))
    thread.start()
    operation.finish()
    thread.join(5)
    assert results == [True]


def test_ids_are_unique_also_over_restarts(clock: ManualClock) -> None:
    first = [Operations(clock).begin("start").id]
    clock.advance(1)
    later = Operations(clock)
    first += [later.begin("start").id for _ in range(100)]
    assert len(set(first)) == 101
    with pytest.raises(Refused, match="ended long ago or the daemon was restarted") as refusal:
        later.get(first[0])
    assert refusal.value.code is Code.UNKNOWN_ITEM


def test_the_last_ones_are_remembered_and_running_ones_never_forgotten(clock: ManualClock) -> None:
    operations = Operations(clock, keep=5)
    running = operations.begin("long")
    ended = []
    for _ in range(20):
        operation = operations.begin("short")
        operation.finish()
        ended.append(operation.id)
    assert operations.get(running.id) is running
    assert operations.running() == [running]
    for identity in ended[-4:]:
        assert operations.get(identity).is_done
    with pytest.raises(Refused):
        operations.get(ended[0])


def test_many_threads(operations: Operations) -> None:
    numbers = itertools.count()
    errors: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(100):
                operation = operations.begin("x", lambda: None)
                operation.update(next(numbers) % 10 / 10, "s")
                operation.cancel()
                assert operations.get(operation.id).snapshot()["state"] == "running"
                operation.finish()
        except (AssertionError, NightjarError) as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert errors == []
    assert operations.running() == []
