# SPDX-License-Identifier: BSD-3-Clause
"""Streams between real processes that are killed, overtaken, locked out or short of room."""

import grp
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from kit.site import eventually
from nightjar.errors import Refused
from nightjar.streams.inspect import describe
from nightjar.streams.reader import StreamReader, Wake
from nightjar.streams.writer import StreamWriter

DEADLINE_S = 40.0


@contextmanager
def child(script, *arguments):
    """A Python process that says "ready" on its output; it is killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait(30)


WRITER = """if True:
    import sys
    import numpy as np
    from nightjar.streams.writer import StreamWriter
    name, rows, columns, depth = sys.argv[1], *map(int, sys.argv[2:5])
    writer = StreamWriter.create(name, (rows, columns), "u2", depth=depth)
    def publish(number):
        slot = writer.next_slot
        writer.begin(slot)
        writer.slot(slot)[:] = number % 65536
        writer.publish(slot, number)
"""
FAST_WRITER = (
    WRITER
    + """
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        publish(number)
"""
)
HALF_WRITER = (
    WRITER
    + """
    for number in range(1, 4):
        publish(number)
    slot = writer.next_slot
    writer.begin(slot)
    writer.slot(slot)[: rows // 2] = 4
    print("ready", flush=True)
    sys.stdin.read()
"""
)


def test_a_faster_writer_never_gives_a_torn_frame():
    """About 1 MB a frame, two slots, no pause: the writer overtakes nearly every copy."""
    with child(FAST_WRITER, "fast", 500, 1000, 2), StreamReader("fast") as reader:
        start = reader._seen  # its counter may have gone on since
        delivered = []

        def read(count):
            deadline = time.monotonic() + DEADLINE_S
            while len(delivered) < count and time.monotonic() < deadline:
                frame = reader.next_frame()
                if frame is None:
                    reader.wait(1.0)
                    continue
                assert (frame.data == frame.counter % 65536).all()
                assert frame.atime_ns == frame.counter
                delivered.append(frame.counter)
            assert len(delivered) >= count, f"{reader.lost} lost, {reader.torn} torn"

        read(30)
        # A copy that lasts until the other process has gone round the ring must be thrown away.
        real_copy = StreamReader._copy
        slow = []

        def copy_slowly(pixels):
            copied, now = real_copy(pixels), reader.counter
            deadline = time.monotonic() + DEADLINE_S
            while reader.counter < now + 3 and time.monotonic() < deadline:
                time.sleep(0.001)
            slow.append(now)
            copied[250:] = pixels[250:]
            if len(slow) == 5:
                reader._copy = real_copy
            return copied

        reader._copy = copy_slowly
        torn = reader.torn
        read(31)
        assert len(slow) == 5
        assert reader.torn >= torn + 5
        assert delivered == sorted(set(delivered))
        accounted = reader.delivered + reader.lost + reader.torn
        assert reader.delivered == len(delivered)
        assert accounted == delivered[-1] - start


FOREIGN_RING = """if True:
    import mmap, struct, sys
    path, rows, columns, depth, slices = sys.argv[1], *map(int, sys.argv[2:6])
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    # As C does it, a word at once: struct.pack_into writes zeros first.
    words, size = memoryview(memory)[: len(memory) // 8 * 8].cast("Q"), rows * columns * 2
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        slot = (number - 1) % depth
        memory[288] = 1
        memory[384 + slot * size : 384 + (slot + 1) * size] = (
            struct.pack("<H", number % 65536) * (rows * columns)
        )
        words[184 // 8] = number
        words[272 // 8] = slot
        words[264 // 8] = number
        words[slices // 8 + 2 * slot] = number  # after the count: the slice's record
        words[slices // 8 + 4 * depth + slot] = number
        memory[288] = 0
"""


def test_foreign_ring_that_counts_before_its_slice_record_gives_no_torn_frame():
    """The order of the MagAO-X grabber: the old slice count stays while a slot is overwritten."""
    with StreamWriter.create("ring", (300, 500), "u2", depth=3) as made:
        slices = made.geometry.offsets().slice_atimes
        with child(FOREIGN_RING, made.path, 300, 500, 3, slices):
            with StreamReader("ring", use_semaphore=False) as reader:
                start, delivered = reader._seen, []  # its counter may have gone on since
                deadline = time.monotonic() + DEADLINE_S
                while len(delivered) < 300 and time.monotonic() < deadline:
                    frame = reader.next_frame()
                    if frame is None:
                        reader.wait(1.0)
                        continue
                    assert frame.data.min() == frame.data.max() == frame.counter % 65536
                    assert frame.atime_ns == frame.counter * 10**9
                    delivered.append(frame.counter)
                assert len(delivered) == 300
                assert delivered == sorted(set(delivered))
                accounted = reader.delivered + reader.lost + reader.torn
                assert accounted == delivered[-1] - start


def test_writer_killed_in_mid_frame_and_taken_over():
    with child(HALF_WRITER, "cam", 40, 50, 3) as process:
        with StreamReader("cam", start="oldest") as reader:
            assert reader.is_writer_alive is True
            inode = reader.path.stat().st_ino
            with pytest.raises(Refused, match=f"living process {process.pid}"):
                StreamWriter.attach("cam")
            with pytest.raises(Refused, match=f"living process {process.pid}"):
                StreamWriter.create("cam", (40, 50), "u2", depth=3)
            kill(process)
            assert reader.is_writer_alive is False
            # The first of three frames was being overwritten by the fourth.
            frames = [reader.next_frame(), reader.next_frame()]
            assert [frame.counter for frame in frames] == [2, 3]
            assert [int(frame.data.min()) for frame in frames] == [2, 3]
            assert (reader.next_frame(), reader.lost) == (None, 1)
            with StreamWriter.attach("cam") as writer:
                assert writer.path.stat().st_ino == inode
                assert (writer.counter, writer.next_slot) == (3, 0)
                result = []
                thread = threading.Thread(target=lambda: result.append(reader.wait(DEADLINE_S)))
                thread.start()
                writer.write(np.full((40, 50), 4, "u2"), 4)
                thread.join(DEADLINE_S)
                assert result == [Wake.FRAME]
                frame = reader.next_frame()
                assert (frame.counter, int(frame.data.min()), frame.generation) == (4, 4, 0)


def test_killed_owner_of_a_stream_can_be_replaced_by_create():
    with child(HALF_WRITER, "cam", 40, 50, 3) as process:
        kill(process)
    with StreamReader("cam") as reader, StreamWriter.create("cam", (4, 5), "f4") as writer:
        assert writer.counter == 0
        assert reader.wait(DEADLINE_S) is Wake.REPLACED


READER = """if True:
    import sys
    from nightjar.streams.reader import StreamReader
    readers = [StreamReader(sys.argv[1]) for _ in range(int(sys.argv[2]))]
    assert [reader.semaphore_index for reader in readers] == list(range(len(readers)))
    print("ready", flush=True)
    for frame in readers[0].frames(600.0):  # killed while it waits in the semaphore
        pass
"""


def test_killed_readers_give_their_semaphores_back():
    with StreamWriter.create("cam", (4, 5), "u2", depth=32) as writer:
        with child(READER, "cam", 10) as process:
            with StreamReader("cam") as late:
                assert late.semaphore_index is None  # all ten are taken: it polls
                writer.write(np.ones((4, 5), "u2"), 1)
                assert late.wait(DEADLINE_S) is Wake.FRAME
            kill(process)
            for number in range(20):  # nobody takes the ticks; the writer is not held up
                writer.write(np.ones((4, 5), "u2"), number)
            with StreamReader("cam") as first, StreamReader("cam") as second:
                assert (first.semaphore_index, second.semaphore_index) == (0, 1)
                # The ticks of the dead were thrown away; eight entries of theirs are left.
                assert [entry.pending for entry in describe("cam").readers] == [0, 0, *[10] * 8]
                assert second.wait(0.0) is Wake.TIMEOUT
                writer.write(np.ones((4, 5), "u2"), 1)
                assert second.wait(DEADLINE_S) is Wake.FRAME
                assert second.next_frame().counter == 22


FORK = """if True:
    import os
    from nightjar.streams.reader import StreamReader
    reader = StreamReader("cam")
    pid = os.fork()
    if pid == 0:
        reader.close()
        os._exit(0)
    os.waitpid(pid, 0)
    other = StreamReader("cam")
    print(reader.semaphore_index, other.semaphore_index)
"""


def test_forked_child_does_not_free_its_parents_semaphore():
    with StreamWriter.create("cam", (4, 5), "u2"):
        done = subprocess.run(
            [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == "0 1\n"


LOCKED_OUT = """if True:
    import os, sys
    from nightjar.errors import StorageError
    from nightjar.streams.reader import StreamReader, Wake
    from nightjar.streams.writer import StreamWriter
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    with StreamReader(sys.argv[1], start="oldest") as reader:
        try:
            StreamWriter.attach(sys.argv[1])
        except StorageError as error:
            assert "Permission denied" in str(error), error
        else:
            raise AssertionError("attached without permission")
        print("ready", flush=True)
        sys.stdin.readline()
        for frame in reader.frames(60.0):
            print(frame.counter, int(frame.data.min()), reader.semaphore_index, flush=True)
            if frame.counter == 5:
                break
"""


def test_reader_without_write_permission_polls():
    mode = 0o644 if os.getuid() == 0 else 0o444
    with StreamWriter.create("cam", (4, 5), "u2", depth=8, mode=mode) as writer:
        writer.path.parent.chmod(0o711)
        writer.write(np.full((4, 5), 11, "u2"), 1)
        with child(LOCKED_OUT, writer.path) as process:
            for value in (12, 13, 14, 15):
                writer.write(np.full((4, 5), value, "u2"), 1)
            output, _ = process.communicate("go\n", timeout=DEADLINE_S)
            assert output.split("\n")[:-1] == [f"{n} {n + 10} None" for n in range(1, 6)]
            assert process.returncode == 0


IN_THE_GROUP = """if True:
    import os, sys
    from nightjar.errors import StorageError
    from nightjar.streams.reader import StreamReader
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(65534)
    try:
        reader = StreamReader(sys.argv[1], start="oldest")
    except StorageError as error:
        print(error, flush=True)
    else:
        print("semaphore", reader.semaphore_index, reader.latest().counter, flush=True)
        reader.close()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="takes on other users, which only root can")
def test_group_may_read_and_be_woken_and_others_may_not():
    group = grp.getgrgid(65534)
    with StreamWriter.create("cam", (4, 5), "u2", depth=8, mode=0o660, group=group.gr_name) as made:
        made.path.parent.chmod(0o711)
        made.write(np.ones((4, 5), "u2"), 1)
        stat = made.path.stat()
        assert (stat.st_gid, stat.st_mode & 0o777) == (group.gr_gid, 0o660)
        told = [
            subprocess.run(
                [sys.executable, "-c", IN_THE_GROUP, made.path, str(number)],
                capture_output=True, text=True, timeout=60, check=True,
            ).stdout
            for number in (group.gr_gid, 1)
        ]  # fmt: skip
    assert told[0] == "semaphore 0 1\n"
    assert "cannot open stream" in told[1]
    assert "Permission denied" in told[1]


def test_stream_removed_now_and_made_later_is_followed_by_a_waiting_reader():
    """Other files of other shapes in between; the reader sleeps in the dead file's semaphore."""
    first = StreamWriter.create("cam", (4, 5), "u2", depth=8)
    with StreamReader("cam") as reader:
        stop, seen = threading.Event(), []

        def follow():
            for frame in reader.frames(DEADLINE_S, stop):
                seen.append((frame.generation, frame.counter, frame.data.shape))

        thread = threading.Thread(target=follow)
        thread.start()
        first.write(np.ones((4, 5), "u2"), 1)
        eventually(lambda: len(seen) == 1)
        first.close(unlink=True)
        assert reader.is_removed()
        assert not reader.is_replaced()
        first.path.write_bytes(bytes(2000))  # unfinished, as the C library leaves it for a moment
        first.path.unlink()
        for generation, shape in enumerate([(8, 3), (4, 5)], start=1):
            with StreamWriter.create("cam", shape, "u2", depth=8) as writer:
                writer.write(np.ones(shape, "u2"), 1)
                eventually(lambda count=generation: len(seen) == count + 1)
                writer.close(unlink=True)
        begin = time.monotonic()
        stop.set()
        thread.join(DEADLINE_S)
        assert time.monotonic() - begin < 5.0  # 0.1 s where the machine is idle
    assert seen == [(0, 1, (4, 5)), (1, 1, (8, 3)), (2, 1, (4, 5))]


SMALL_FILE_SYSTEM = """if True:
    import os, sys
    from pathlib import Path
    from nightjar.errors import Code, StorageError
    from nightjar.streams.writer import StreamWriter
    folder = Path(sys.argv[1])
    first = StreamWriter.create("first", (512, 512), "u2", depth=2, folder=folder)
    try:
        StreamWriter.create("second", (512, 512), "u2", depth=2, folder=folder)
    except StorageError as error:
        assert error.code is Code.NO_SPACE, error
        print(error)
    else:
        raise AssertionError("made a stream without room")
    assert [item.name for item in folder.iterdir()] == ["first.im.shm"]
    try:
        with open(folder / "filler", "wb") as filler:
            filler.write(bytes(2_000_000))
    except OSError:
        pass
    for number in range(4):  # every page of the first has its room: no SIGBUS
        slot = first.next_slot
        first.begin(slot)
        first.slot(slot)[:] = number
        first.publish(slot, number)
"""


def test_full_shared_memory_is_an_error_and_never_a_signal(tmp_path):
    tool = shutil.which("unshare")
    mount = 'mount -t tmpfs -o size=2000k none "$1" && exec "$2" -c "$3" "$1"'
    probe = ["sh", "-c", 'mount -t tmpfs none "$1"', "sh", str(tmp_path)]
    space = [tool or "unshare", "--user", "--map-root-user", "--mount"]
    if tool is None or subprocess.run([*space, *probe], capture_output=True, timeout=30).returncode:
        pytest.skip("no small file system can be mounted here (user namespaces are off)")
    done = subprocess.run(
        [*space, "sh", "-c", mount, "sh", str(tmp_path), sys.executable, SMALL_FILE_SYSTEM],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no room for stream" in done.stdout


@pytest.mark.heavy
def test_616_megabyte_stream_between_two_processes():
    """Five slots of 6422 x 9600, the ring of the full-frame camera."""
    with child(FAST_WRITER, "large", 6422, 9600, 5) as process, StreamReader("large") as reader:
        assert reader.path.stat().st_size > 616_512_000
        deadline = time.monotonic() + DEADLINE_S
        delivered = 0
        while delivered < 3 and time.monotonic() < deadline:
            frame = reader.next_frame()
            if frame is None:
                reader.wait(1.0)
            else:
                assert frame.data.shape == (6422, 9600)
                assert frame.data.min() == frame.data.max() == frame.counter % 65536
                delivered += 1
        kill(process)
        assert delivered == 3
