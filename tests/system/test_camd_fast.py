# SPDX-License-Identifier: BSD-3-Clause
"""Real daemons of fast cameras: frames in their streams, proven one by one, whatever happens."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.fast_camera import vcam_config
from kit.site import Daemon, Site, descendants, eventually
from nightjar.api.fast_camera import STATUS_KEYS
from nightjar.errors import Busy, Code, InvalidArgument, NightjarError, Refused
from nightjar.files import shared_memory_folder
from nightjar.streams.inspect import describe
from nightjar.streams.reader import Frame, StreamReader
from nightjard.camd.fast.pattern import check_cube, read_truth, read_truths


@pytest.fixture
def site(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Site]:
    site = Site(tmp_path, free_ports(4))
    yield site
    site.close()


def start_vcam(site: Site, name: str = "vcam1", *, streams: bool = True, **changes: Any) -> Daemon:
    """Start a camera daemon and init its camera; by default it streams.

    A process held up for seconds loses nothing: rings and the camera's memory last longer.
    """
    source = {"name": "vcam", "memory_frames": 1000, **changes.pop("source", {})}
    patient = {"ring_seconds": 5.0, "grabber_timeout": 15.0, **changes}
    daemon = site.start("camd", name, vcam_config(source=source, **patient))
    done(daemon, "init")
    if streams:
        done(daemon, "start")
    return daemon


def done(daemon: Daemon, command: str, **arguments: Any) -> dict[str, Any]:
    snapshot = daemon.finish(daemon.call(command, **arguments))
    assert snapshot["state"] == "done", snapshot
    return snapshot


def take(reader: StreamReader, count: int, timeout_s: float = 10.0) -> list[Frame]:
    """Return the next frames, following the stream."""
    frames = [frame for _, frame in zip(range(count), reader.frames(timeout_s), strict=False)]
    assert len(frames) == count, f"{len(frames)} of {count} frames"
    return frames


def pixels(frames: list[Frame]) -> np.ndarray[Any, Any]:
    return np.stack([frame.data for frame in frames])


def test_frames_of_the_stream_are_whole_in_order_and_told_of(site: Site) -> None:
    camera = start_vcam(site, external_trigger=True, keywords={"OBJECT": "HD 163296"})
    with StreamReader("vcam1") as reader:
        frames = take(reader, 60)
        keywords = reader.keywords()
    report = check_cube(pixels(frames))
    assert report.is_perfect, report.text()
    truths = read_truths(pixels(frames))
    assert (np.diff(truths["trigger"]) == 1).all()
    assert (np.diff(truths["flc"].astype(int)) != 0).all()
    for frame, truth in zip(frames, truths, strict=True):
        offset = int(keywords["HW-OFF"].value)
        assert frame.counter + offset == truth["frame_id"]
        assert 0 < frame.atime_ns - truth["start_ns"] < 3_000_000
    assert keywords["OBJECT"].value == "HD 163296"
    assert (keywords["PRD-RNG1"].value, keywords["EXTTRIG"].value) == (184, "#TRUE#")

    def measured() -> bool:
        return bool(abs(camera.status()["rate"] - 100) < 2)

    eventually(measured, what="the rate is measured")
    status = camera.status()
    assert set(status) == set(STATUS_KEYS)
    assert (status["summary"], status["state"]) == ("BUSY", "STREAMING")
    assert (status["ring_frames"], status["shape"]) == (500, [184, 184])
    camera.call("stop")
    eventually(lambda: camera.status()["state"] == "IDLE")
    counter = describe("vcam1").counter
    assert camera.status()["counter"] == counter


def test_exactly_as_many_frames_as_asked_for(site: Site) -> None:
    camera = start_vcam(site, streams=False)
    assert done(camera, "start", count=25)["result"] == {"count": 25}
    assert describe("vcam1").counter == 25
    operation = camera.call("start", count=100_000)
    eventually(lambda: describe("vcam1").counter > 30)
    camera.call("stop")
    snapshot = camera.finish(operation)
    assert snapshot["state"] == "cancelled"
    assert "of 100000 frames" in snapshot["message"]


def test_crop_change_is_followed_by_a_reader_within_two_seconds(site: Site) -> None:
    camera = start_vcam(site, rate=50.0)
    numbers = {"ONEARC": 5, "TWOARC": 3}
    crops = [("ONEARC", (184, 184)), ("TWOARC", (360, 360))] * 2
    taken: list[float] = []
    with StreamReader("vcam1") as reader:
        for (before, _), (crop, shape) in itertools.pairwise(crops):
            old, new, seconds = followed_crop_change(camera, reader, crop, shape)
            taken.append(seconds)
            assert check_cube(pixels(old)).is_perfect
            assert check_cube(pixels(new)).is_perfect
            assert new[0].counter == 1
            # The camera's own numbers go on; nothing was lost, it was stopped meanwhile.
            assert camera.status()["frames_lost"] == 0
            last, first = read_truth(old[-1].data), read_truth(new[0].data)
            assert first.frame_id == last.frame_id + 1
            assert (last.crop, first.crop) == (numbers[before], numbers[crop])
            if seconds < 2.0:
                break  # once is enough, the machine's own stops left out
        assert reader.lost == 0
    assert min(taken) < 2.0


def followed_crop_change(
    camera: Daemon, reader: StreamReader, crop: str, shape: tuple[int, int]
) -> tuple[list[Frame], list[Frame], float]:
    """Return frames before and after a change, and how long the first new one took to come."""
    old, new = take(reader, 5), list[Frame]()
    began = time.monotonic()
    operation = camera.call("set_crop", crop=crop)
    for frame in reader.frames(10.0):
        if frame.data.shape == shape:
            if not new:
                seconds = time.monotonic() - began
            new.append(frame)
            if len(new) == 20:
                break
        else:
            old.append(frame)
    assert camera.finish(operation)["state"] == "done"
    return old, new, seconds


def test_same_geometry_keeps_the_file(site: Site) -> None:
    camera = start_vcam(site)
    inode = os.stat(describe("vcam1").path).st_ino
    camera.call("set_exposure", seconds=0.002)
    camera.call("set_rate", hertz=120.0)
    done(camera, "set_readout_mode", mode="SLOW")
    camera.call("set_data_type", data_type="DARK")
    camera.call("set_keyword", name="OBJECT", value=["M 31"])
    info = describe("vcam1")
    assert os.stat(info.path).st_ino == inode
    values = {name: keyword.value for name, keyword in info.keywords.items()}
    assert (values["EXPTIME"], values["DATA-TYP"], values["OBJECT"], values["U_DETMOD"]) == (
        0.002, "DARK", "M 31", "Slow",
    )  # fmt: skip


def test_two_cameras_take_frames_of_the_same_pulses(site: Site) -> None:
    shared = {"external_trigger": True}
    start_vcam(site, **shared)
    start_vcam(
        site, "vcam2", daemon="camera2", camera_id="VCAM2", stream="vcam2",
        source={"camera": 2}, **shared,
    )  # fmt: skip
    pulses: list[dict[int, Any]] = [{}, {}]
    with StreamReader("vcam1") as one, StreamReader("vcam2") as two:

        def has_enough_in_common() -> bool:
            # More of the one that is behind: it may have been held up.
            behind = max(pulses[1], default=0) < max(pulses[0], default=0)
            truths = read_truths(pixels(take((one, two)[behind], 40)))
            pulses[behind].update(zip(truths["trigger"].tolist(), truths, strict=True))
            return len(set(pulses[0]) & set(pulses[1])) > 20

        eventually(has_enough_in_common, what="frames of the same pulses")
    common = set(pulses[0]) & set(pulses[1])
    for pulse in common:
        a, b = pulses[0][pulse], pulses[1][pulse]
        assert a["flc"] == b["flc"]
        assert abs(int(a["start_ns"]) - int(b["start_ns"])) <= 7200  # a line time
        assert (a["camera"], b["camera"]) == (1, 2)


def test_killed_grabber_is_replaced_and_the_same_stream_goes_on(
    site: Site, tmp_path: Path
) -> None:
    faults = tmp_path / "faults.json"
    camera = start_vcam(site, source={"fault_path": str(faults)})
    with StreamReader("vcam1") as reader:
        take(reader, 5)
        grabber = camera.status()["grabber_pid"]
        # The next one finds no camera for a while: what the daemon tells meanwhile can be seen.
        os.kill(grabber, signal.SIGSTOP)
        faults.write_text(json.dumps({"faults": [{"kind": "lost_camera"}]}))
        os.kill(grabber, signal.SIGKILL)
        broken = eventually(
            lambda: (s := camera.status())["health"]["level"] == "DEGRADED" and s,
            what="the daemon notices",
        )
        assert broken["summary"] == "STANDBY"
        eventually(lambda: re.search("SIGKILL.*; trying again in", camera.log), what="it is told")
        faults.unlink()
        frames = take(reader, 40)
        assert reader.generation == 0
        assert reader.lost == reader.torn == 0
    counters = [frame.counter for frame in frames]
    assert counters == list(range(counters[0], counters[0] + 40))
    # Frames may be here before the daemon has heard of them.
    status = eventually(
        lambda: (s := camera.status())["state"] == "STREAMING" and s["health"]["level"] == "OK"
        and s, what="all is well again",
    )  # fmt: skip
    assert status["grabber_restarts"] == 1
    assert status["grabber_pid"] != grabber


def answer_ms(camera: Daemon) -> float:
    """Return how long the slowest of some answers took, the machine's own stops left out."""
    times = []
    for _ in range(15):
        began = time.perf_counter()
        camera.status()
        times.append((time.perf_counter() - began) * 1000)
    return sorted(times)[-3]


def test_status_answers_at_once_while_the_source_hangs(site: Site, tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    camera = start_vcam(
        site, source={"fault_path": str(faults)}, grabber_timeout=4.0
    )
    camera.status()
    for kind in ("stall", "wedge"):
        faults.write_text(json.dumps({"faults": [{"kind": kind, "seconds": 600}]}))
        eventually(lambda kind=kind: f"fault: {kind}" in camera.log, what="no frames come")
        assert answer_ms(camera) < 100
        camera.call("set_keyword", name="OBJECT", value=["x"]) if kind == "stall" else None
        faults.unlink()
        if kind == "stall":
            done(camera, "abort")
            done(camera, "shutdown")
            done(camera, "init")
            done(camera, "start")
    # The one that hangs in a call is killed and replaced.
    eventually(lambda: camera.status()["grabber_restarts"] >= 1, what="the grabber is replaced")
    with StreamReader("vcam1") as reader:
        assert check_cube(pixels(take(reader, 10))).is_perfect


def test_camera_side_losses_are_counted_and_the_numbers_jump(site: Site, tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    camera = start_vcam(site, source={"fault_path": str(faults)})
    with StreamReader("vcam1") as reader:
        faults.write_text(json.dumps({"faults": [{"kind": "drop", "frames": 13}]}))
        frames = take(reader, 1)
        eventually(  # read meanwhile: the ring holds no more than a second
            lambda: frames.extend(take(reader, reader.unread + 1))
            or camera.status()["frames_lost"],
            what="the loss is told",
        )
        frames += take(reader, reader.unread + 5)
        assert reader.lost == 0
        keywords = reader.keywords()
    assert check_cube(pixels(frames)).missing == 13
    assert camera.status()["frames_lost"] == 13
    assert keywords["LOST-CAM"].value == 13
    after = [frame for frame in frames if frame.counter >= keywords["HW-FROM"].value]
    for frame in after:
        assert read_truth(frame.data).frame_id - frame.counter == keywords["HW-OFF"].value


def test_daemon_that_was_killed_leaves_a_stream_that_the_next_goes_on_with(site: Site) -> None:
    first = start_vcam(site)
    with StreamReader("vcam1") as reader:
        take(reader, 5)
        grabbers = descendants(first.process.pid)
        first.kill()
        eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in grabbers),
                   what="the grabber goes with its daemon")  # fmt: skip
        start_vcam(site)
        frames = take(reader, 20)
        assert reader.generation == 0
    counters = [frame.counter for frame in frames]
    assert counters == sorted(set(counters))


def test_stop_of_the_daemon_leaves_nothing(site: Site) -> None:
    camera = site.start("camd", "vcam1", vcam_config(autostart=True))
    eventually(lambda: camera.status()["state"] == "STREAMING", what="it streams by itself")
    assert camera.stop() == 0
    assert list(shared_memory_folder().iterdir()) == []


def test_stream_and_camera_have_one_daemon(site: Site) -> None:
    start_vcam(site)
    rival = site.launch("camd", "vcam2", vcam_config(daemon="camera2"))
    rival.process.wait(20)
    assert rival.process.returncode == 3
    assert "a daemon of camera VCAM1 is already running" in rival.log
    thief = site.start(
        "camd", "vcam2", vcam_config(daemon="camera2", camera_id="VCAM2", reconnect=False)
    )
    snapshot = thief.finish(thief.call("init"))
    assert snapshot["state"] == "failed"
    assert "belongs to living process" in snapshot["message"]


def test_wrong_commands_are_refused_and_change_nothing(site: Site) -> None:
    camera = start_vcam(site)
    before = camera.status()
    wrong: list[tuple[str, dict[str, Any], type[NightjarError], Code]] = [
        ("set_crop", {"crop": "NOPE"}, Refused, Code.UNKNOWN_ITEM),
        ("set_crop", {}, InvalidArgument, Code.INVALID_ARGUMENT),
        ("set_crop", {"window": [1, 5000, 1, 9]}, Refused, Code.WINDOW_OUT_OF_BOUNDS),
        ("set_crop", {"window": ["a"]}, InvalidArgument, Code.INVALID_ARGUMENT),
        ("set_readout_mode", {"mode": "ULTRA"}, Refused, Code.UNKNOWN_ITEM),
        ("set_rate", {"hertz": 0}, Refused, Code.OUT_OF_RANGE),
        ("set_rate", {"hertz": "fast"}, InvalidArgument, Code.INVALID_ARGUMENT),
        ("set_exposure", {"seconds": 1e9}, Refused, Code.OUT_OF_RANGE),
        ("set_data_type", {"data_type": "SKY"}, InvalidArgument, Code.INVALID_ARGUMENT),
        ("set_keyword", {"name": "X", "value": []}, InvalidArgument, Code.INVALID_ARGUMENT),
        ("set_keyword", {"name": "X", "value": [{}]}, InvalidArgument, Code.INVALID_ARGUMENT),
        ("start", {"count": -1}, Refused, Code.OUT_OF_RANGE),
        ("start", {}, Busy, Code.NOT_IDLE),
        ("init", {}, Refused, Code.ALREADY_INITIALIZED),
        ("configure", {"settings": {}}, InvalidArgument, Code.INVALID_ARGUMENT),
        ("configure", {"settings": {"gain": 3}}, InvalidArgument, Code.INVALID_ARGUMENT),
        ("configure", {"settings": {"rate": 5, "crop": "NOPE"}}, Refused, Code.UNKNOWN_ITEM),
        ("set_gain", {"gain": 3}, InvalidArgument, Code.INVALID_ARGUMENT),
    ]
    for command, arguments, error, code in wrong:
        with pytest.raises(error) as raised:
            camera.call(command, **arguments)
        assert raised.value.code is code, (command, arguments)
    after = camera.status()
    for key in ("crop", "rate_asked", "exposure_time", "readout_mode", "state", "keywords"):
        assert before[key] == after[key]
