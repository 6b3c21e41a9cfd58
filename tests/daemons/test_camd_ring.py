# SPDX-License-Identifier: BSD-3-Clause
"""The frame buffer: one owner a slot, and a journal that a later daemon can read."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightjar.clock import SystemClock
from nightjar.errors import ConfigError, NightjarError, StorageError
from nightjard.camd.ring import (
    RECORD_BYTES,
    FrameRing,
    forget_leftover,
    journal_path,
    leftover_jobs,
    remove_leftovers,
    stream_path,
)

SHAPE = (4, 8)
FRAME = 2 * 4 * 8


def make(slots: int = 4, on_free: Callable[[], None] | None = None) -> FrameRing:
    return FrameRing("TEST", SHAPE, slots * FRAME + 5, SystemClock(), on_free)


def put(ring: FrameRing, number: int, **extra: Any) -> int:
    acquired = ring.acquire()
    assert acquired is not None
    slot, buffer = acquired
    buffer.array.fill(number)
    ring.publish(slot, {"number": number, **extra}, number)
    return slot


def left() -> list[int]:
    return [job["number"] for _, job in leftover_jobs("TEST")]


def test_slots_are_used_in_turn_and_again_only_when_free() -> None:
    freed = []
    ring = make(3, lambda: freed.append(1))
    slots = [put(ring, number) for number in (1, 2, 3)]
    assert len(set(slots)) == 3
    assert (ring.used, ring.has_room, ring.acquire()) == (3, False, None)
    ring.release(slots[1])
    assert (ring.has_room, ring.acquire()) == (False, None), "the oldest comes first"
    ring.release(slots[0])
    assert ring.has_room
    assert len(freed) == 2
    assert put(ring, 4) == slots[0]
    ring.close(unlink=True)


def test_an_abandoned_slot_is_the_next_again() -> None:
    ring = make(2)
    first = ring.acquire()
    assert first is not None
    assert ring.acquire() is None, "one frame at a time"
    ring.abandon(first[0])
    assert (ring.used, put(ring, 1)) == (0, first[0]) or ring.used == 1
    assert left() == [1]
    ring.release(first[0])
    ring.close(unlink=True)
    assert not stream_path("TEST").exists()
    assert not journal_path("TEST").exists()


def test_the_journal_survives_and_keeps_the_order() -> None:
    ring = make(4)
    for number in range(1, 7):
        if number > 4:
            ring.release((number - 1) % 4)
        put(ring, number)
    ring.close(unlink=True)
    assert left() == [3, 4, 5, 6]
    assert stream_path("TEST").exists(), "what is needed is not removed"
    for slot, job in leftover_jobs("TEST"):
        assert (job["number"] - 1) % 4 == slot
        remove_leftovers("TEST")
        assert stream_path("TEST").exists()
        forget_leftover("TEST", slot)
    assert left() == []
    remove_leftovers("TEST")
    assert not stream_path("TEST").exists()
    assert not journal_path("TEST").exists()


def test_a_half_written_record_does_not_count() -> None:
    ring = make(3)
    for number in (1, 2, 3):
        put(ring, number, text="x" * 500)
    ring.close(unlink=False)
    whole = journal_path("TEST").read_bytes()
    for damage in (
        lambda raw: b"\0" * 8 + raw[8:],  # the magic is written last
        lambda raw: raw[:8] + b"\xff\xff\xff\xff" + raw[12:],  # a length beyond the record
        lambda raw: raw[:200] + b"\0" * 100 + raw[300:],  # torn text
        lambda raw: raw[:24] + b"[1, 2]".ljust(len(raw) - 24),  # something else
    ):
        record = damage(whole[RECORD_BYTES : 2 * RECORD_BYTES])
        journal_path("TEST").write_bytes(
            whole[:RECORD_BYTES] + record + whole[2 * RECORD_BYTES :]
        )
        assert left() == [1, 3]


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * RECORD_BYTES])
def test_a_journal_of_no_use_stops_nothing(content: bytes) -> None:
    make().close(unlink=False)
    journal_path("TEST").write_bytes(content)
    assert left() == []
    remove_leftovers("TEST")
    ring = make()
    put(ring, 1)
    ring.release(0)
    ring.close(unlink=True)


def test_a_journal_without_pixels_is_of_no_use() -> None:
    ring = make()
    put(ring, 1)
    ring.close(unlink=False)
    stream_path("TEST").unlink()
    assert left() == []


def test_a_record_that_does_not_fit_is_refused_and_its_slot_usable() -> None:
    ring = make(2)
    acquired = ring.acquire()
    assert acquired is not None
    with pytest.raises(StorageError, match="does not fit"):
        ring.publish(acquired[0], {"text": "x" * RECORD_BYTES}, 1)
    ring.abandon(acquired[0])
    assert put(ring, 1) == acquired[0]
    ring.close(unlink=False)


def test_a_buffer_of_less_than_two_frames_is_refused() -> None:
    for budget in (1, FRAME - 1, 2 * FRAME - 1):
        with pytest.raises(ConfigError, match="at least 2 frames"):
            FrameRing("TEST", SHAPE, budget, SystemClock())
    FrameRing("TEST", SHAPE, 2 * FRAME, SystemClock()).close(unlink=True)


@pytest.mark.parametrize("fails_at", [1, 2])
def test_no_room_in_shared_memory_is_told(
    fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = os.posix_fallocate

    def no_room(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(NightjarError) as caught:
        make()
    assert caught.value.code.name == "NO_SPACE"
    assert not stream_path("TEST").exists()


CHILD = """
import os, signal, sys
from nightjar.clock import SystemClock
from nightjard.camd.ring import FrameRing
ring = FrameRing("TEST", (4, 8), 4 * 64, SystemClock())
for number in range(1, 4):
    slot, buffer = ring.acquire()
    buffer.array.fill(number)
    ring.publish(slot, {"number": number, "stream": buffer.path, "offset": buffer.offset}, number)
ring.acquire()[1].array.fill(99)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_its_frames() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], check=False, timeout=30)
    assert done.returncode == -9
    jobs = [job for _, job in leftover_jobs("TEST")]
    assert [job["number"] for job in jobs] == [1, 2, 3]
    for job in jobs:
        pixels = Path(job["stream"]).read_bytes()[job["offset"] : job["offset"] + FRAME]
        assert pixels == job["number"].to_bytes(2, "little") * (FRAME // 2)


def test_slots_are_released_from_other_threads() -> None:
    ring = make(4)
    full: list[int] = []
    ready, done = threading.Semaphore(0), threading.Semaphore(4)

    def save(count: int) -> None:
        for _ in range(count):
            assert ready.acquire(timeout=10)
            ring.release(full.pop(0))
            done.release()

    threads = [threading.Thread(target=save, args=(100,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(200):
        assert done.acquire(timeout=10)
        while not ring.has_room:
            pass  # the other of two releases comes at once
        full.append(put(ring, number))
        ready.release()
    for thread in threads:
        thread.join(10)
    assert (ring.used, left()) == (0, [])
    ring.close(unlink=True)
