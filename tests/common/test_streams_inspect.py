# SPDX-License-Identifier: BSD-3-Clause
"""Looking at streams from outside."""

import os
import subprocess
import sys

import numpy as np
import pytest

from nightjar.clock import ManualClock
from nightjar.errors import Code, Refused, StorageError
from nightjar.files import shared_memory_folder
from nightjar.streams.inspect import (
    BrokenStream,
    StreamInfo,
    describe,
    list_streams,
    remove_orphans,
)
from nightjar.streams.process import is_alive
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter

NOW_NS = 1_750_000_000_000_000_000


def image(value):
    return np.full((4, 5), value, "u2")


def test_description_of_a_living_stream():
    clock = ManualClock(NOW_NS)
    writer = StreamWriter.create(
        "cam", (4, 5), "u2", depth=8, clock=clock, keywords={"GAIN": (3, "setting")}
    )
    with writer, StreamReader("cam"), StreamReader("cam") as second:
        for number in range(10):
            writer.write(image(number), NOW_NS + number * 20_000_000)
        second.wait(0.0)
        clock.advance(3.0)
        info = describe("cam", clock=clock)
        assert (info.name, info.shape, info.dtype, info.depth) == ("cam", (4, 5), "uint16", 8)
        assert (info.counter, info.newest_slot, info.is_writing) == (10, 1, False)
        assert info.atime_ns == NOW_NS + 180_000_000
        assert (info.created_ns, info.writetime_ns, info.age_s) == (NOW_NS, NOW_NS, 3.0)
        assert info.rate_hz == pytest.approx(50.0)
        assert (info.owner_pid, info.is_owner_alive, info.is_orphan) == (os.getpid(), True, False)
        assert [(entry.index, entry.pid, entry.is_alive) for entry in info.readers] == [
            (0, os.getpid(), True), (1, os.getpid(), True),
        ]  # fmt: skip
        assert info.readers[0].pending == 10
        assert info.keywords == {"GAIN": (3, "setting")}
        assert info.size_bytes == writer.path.stat().st_size
        assert info.mode == 0o660
        writer.begin(2)
        assert describe("cam").is_writing
        assert describe("cam", clock=clock).rate_hz == pytest.approx(50.0)


def test_description_before_the_first_frame_and_after_the_end():
    writer = StreamWriter.create("cam", (4, 5), "f4", depth=2)
    info = describe("cam")
    assert (info.counter, info.age_s, info.rate_hz, info.readers) == (0, None, None, ())
    writer.close()
    info = describe("cam")
    assert (info.owner_pid, info.is_owner_alive, info.is_orphan) == (0, False, False)


def test_list_has_the_broken_ones_too_with_their_problem():
    folder = shared_memory_folder()
    (folder / "bad.im.shm").write_bytes(b"rubbish")
    (folder / "unrelated.txt").write_bytes(b"")
    (folder / ".hidden.im.shm").write_bytes(b"")
    with StreamWriter.create("a", (4, 5), "u2"), StreamWriter.create("z", (4, 5), "u2"):
        found = list_streams()
        assert [item.name for item in found] == ["a", "bad", "z"]
        assert [type(item) for item in found] == [StreamInfo, BrokenStream, StreamInfo]
        assert "not a stream" in found[1].problem


def test_missing_stream_and_folder(tmp_path):
    with pytest.raises(Refused) as caught:
        describe("none")
    assert caught.value.code is Code.UNKNOWN_ITEM
    with pytest.raises(StorageError, match="cannot list"):
        list_streams(tmp_path / "nowhere")


def test_only_what_dead_owners_left_is_removed():
    script = """if True:
        import os, signal, sys
        from nightjar.streams.writer import StreamWriter
        StreamWriter.create(sys.argv[1], (4, 5), "u2")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    folder = shared_memory_folder()
    child = subprocess.run([sys.executable, "-c", script, "dead"], timeout=60, check=False)
    assert child.returncode == -9
    closed = StreamWriter.create("closed", (4, 5), "u2")
    closed.close()
    (folder / "bad.im.shm").write_bytes(b"rubbish")
    unfinished = folder / f".x.im.shm.{describe('dead').owner_pid}.tmp"
    unfinished.write_bytes(b"")
    mine = folder / f".y.im.shm.{os.getpid()}.tmp"
    mine.write_bytes(b"")
    with StreamWriter.create("living", (4, 5), "u2"):
        assert describe("dead").is_orphan
        assert remove_orphans() == [unfinished.name, "dead"]
        assert sorted(item.name for item in folder.iterdir()) == sorted(
            [mine.name, "bad.im.shm", "closed.im.shm", "living.im.shm"]
        )
        assert remove_orphans() == []


def test_zombies_and_reused_ids_are_not_alive(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, not yet reaped
        assert not is_alive(child.pid)
    finally:
        child.wait(30)
    assert not is_alive(child.pid)
    assert not is_alive(0)
    assert not is_alive(-1)
    assert is_alive(os.getpid())
    with StreamWriter.create("a", (4, 5), "u2") as writer:
        assert is_alive(os.getpid(), writer.path.stat().st_ino)
    assert not is_alive(os.getpid(), tmp_path.stat().st_ino)
