# SPDX-License-Identifier: BSD-3-Clause
"""``stream`` as processes beside a camera: ended by signals, source killed, names taken."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.io import fits

from kit.site import eventually
from nightjar.files import shared_memory_folder
from nightjar.streams.inspect import describe
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter

DEADLINE_S = 30.0
CAMERA = """if True:
    import sys, time
    import numpy as np
    from nightjar.streams.writer import StreamWriter
    writer = StreamWriter.create("cam", (40, 60), "u2", depth=4096, keywords={"EXPTIME": 0.5})
    print("ready", flush=True)
    due = time.monotonic()
    for number in range(1, 10**6):
        writer.write(np.full((40, 60), number % 65536, "u2"), time.time_ns())
        due += 0.002
        time.sleep(max(0.0, due - time.monotonic()))
"""


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "nightjard.streamtools", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def stream(*arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "nightjard.streamtools", *map(str, arguments)],
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture
def camera():
    process = subprocess.Popen(
        [sys.executable, "-c", CAMERA], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def test_owner_that_lives_is_respected_and_a_dead_one_told(camera):
    assert json.loads(stream("stat", "cam", "--json"))["is_owner_alive"] is True

    def rate_hz() -> float:
        return json.loads(stream("stat", "cam", "--json"))["now"]["rate_hz"]

    eventually(lambda: rate_hz() == pytest.approx(500, rel=0.25), what="the rate")
    for words in (["rm", "cam"], ["create", "cam", "--shape", "4x4", "--force"],
                  ["copy", "other", "cam"]):  # fmt: skip
        if words[0] == "copy":
            StreamWriter.create("other", (4, 4), "u2").close()
        assert f"process {camera.pid}" in stream(*words, code=3)
    camera.send_signal(signal.SIGKILL)
    camera.wait(DEADLINE_S)
    assert f"dead (pid {camera.pid})" in stream("stat", "cam", "--interval", "0")
    assert stream("rm", "--orphans") == "removed: cam\n"
    assert [item.name for item in shared_memory_folder().iterdir()] == ["other.im.shm"]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_recording_is_whole_when_it_is_ended(camera, tmp_path, end):
    path = tmp_path / "a.fits"
    process = start("record", "cam", path, "--json")
    eventually(lambda: any(entry.pid == process.pid for entry in describe("cam").readers))
    hidden = tmp_path / f".{path.name}.{process.pid}.tmp"
    eventually(lambda: hidden.exists() and hidden.stat().st_blocks * 512 > 60 * 40 * 60 * 2)
    process.send_signal(end)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    done = json.loads(out)
    assert done["ended"] == "interrupted"
    assert done["lost"] + done["torn"] == 0
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    with fits.open(path, checksum=True) as hdus:
        numbers = hdus[1].data["CNT0"]
        assert len(numbers) == done["frames"] >= 50
        assert np.array_equal(numbers, np.arange(numbers[0], numbers[0] + len(numbers)))
        pixels = hdus[0].data
        assert np.array_equal(pixels[:, 0, 0], numbers % 65536)
        assert np.array_equal(pixels.min(axis=(1, 2)), pixels.max(axis=(1, 2)))


def test_copy_takes_every_frame_and_gives_its_stream_up(camera):
    process = start("copy", "cam", "twin", "--json")
    eventually(lambda: (shared_memory_folder() / "twin.im.shm").exists())
    with StreamReader("twin", start="oldest") as twin:
        frames = []
        for frame in twin.frames(DEADLINE_S):
            assert frame.data.min() == frame.data.max() == frame.counter % 65536
            frames.append(frame.counter)
            if len(frames) == 200:
                break
        assert twin.is_writer_alive
        assert f"process {process.pid}" in stream("rm", "twin", code=3)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        assert twin.is_writer_alive is None
    done = json.loads(out)
    assert (done["lost"], done["torn"], done["ended"]) == (0, 0, "interrupted")
    assert frames == list(range(frames[0], frames[0] + 200))


def test_live_picture_in_a_terminal_ends_with_ctrl_c(camera):
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "40", "LINES": "14"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "nightjard.streamtools", "show", "cam", "--follow", "--fps", "30"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + DEADLINE_S
    try:
        while len(set(re.findall(rb"cam #(\d+)", seen))) < 3:
            assert time.monotonic() < deadline, seen[-500:]
            if select.select([ours], [], [], 1.0)[0]:
                seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.05)[0]:
                try:
                    seen += os.read(ours, 65536)
                except OSError:  # the other end has closed
                    break
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        os.close(ours)
    assert seen.startswith(b"\x1b[?25l")
    assert "\u2580".encode() in seen
    assert b"\x1b[48;5" in seen or b";48;5;" in seen


def test_replay_in_a_loop_feeds_a_reader_until_it_is_ended(tmp_path):
    path = tmp_path / "cube.fits"
    fits.PrimaryHDU(np.arange(5 * 48, dtype="u2").reshape(5, 6, 8)).writeto(path)
    process = start("replay", path, "cam", "--rate", "500", "--loop", "--json")
    eventually(lambda: (shared_memory_folder() / "cam.im.shm").exists())
    with StreamReader("cam", start="oldest") as reader:
        values = []
        for frame in reader.frames(DEADLINE_S):
            values.append((frame.counter, int(frame.data[0, 0])))
            if len(values) == 60:
                break
        assert all(value == (counter - 1) % 5 * 48 for counter, value in values)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert json.loads(out)["ended"] == "interrupted"


def test_names_are_completed_from_the_streams_that_are_there():
    for name in ("vcam1", "vcam2", "pupil"):
        StreamWriter.create(name, (4, 4), "u2", keywords={"EXPTIME": 1}).close()
    done = subprocess.run(
        [sys.executable, "-c", "from nightjard.streamtools.__main__ import main; main()"],
        env=os.environ | {
            "_STREAM_COMPLETE": "bash_complete", "COMP_WORDS": "stream stat vc", "COMP_CWORD": "2",
        },
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.stdout.split() == ["plain,vcam1", "plain,vcam2"]
