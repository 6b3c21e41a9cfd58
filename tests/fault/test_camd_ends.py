# SPDX-License-Identifier: BSD-3-Clause
"""Ends of a real camera daemon that go wrong, a disk that fills, a count that is lost."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from astropy.io import fits

from kit.site import FakePipeline, Site, descendants, eventually, is_alive
from nightjar.clock import ManualClock
from nightjard.camd.handover import HandOver, SpooledFrame


@pytest.fixture
def site(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Site]:
    site = Site(tmp_path, free_ports(4), worker_processes=1)
    yield site
    site.close()


def numbers(site: Site) -> list[int]:
    return [int(path.name.split("-")[1]) for path in sorted(site.spool.glob("test-*.fits"))]


def test_a_stop_during_init_disconnects_and_leaves_no_process(site: Site) -> None:
    fault = {"kind": "wedge", "at_call": "open", "seconds": 4.0}
    camera = site.start("camd", "test", site.camera_config({"faults": [fault]}))
    camera.call("init")
    assert camera.status()["state"] == "INITIALIZING"
    children = eventually(lambda: descendants(camera.process.pid))
    assert camera.stop() == 0
    assert "Traceback" not in camera.log
    assert "camera disconnected" in camera.log
    for pid in children:
        eventually(lambda pid=pid: not is_alive(pid))


def test_a_stop_with_frames_that_cannot_be_saved_is_reported_and_can_be_hurried(
    site: Site,
) -> None:
    camera = site.camera()
    camera.call("set_exposure", seconds=0.05)
    reply = camera.call("start", count=0)
    eventually(lambda: camera.status()["frames_saved"] >= 1)
    shutil.move(site.spool, site.folder / "elsewhere")
    assert camera.finish(reply)["code"] == "STORAGE_FAILED"
    unsaved = camera.status()["frames_unsaved"]
    assert unsaved > 0
    camera.process.send_signal(signal.SIGTERM)
    eventually(lambda: camera.log.count(f"saving the last {unsaved} frames") >= 3)
    assert camera.process.poll() is None
    camera.process.send_signal(signal.SIGTERM)
    assert camera.process.wait(10) == 0
    shutil.move(site.folder / "elsewhere", site.spool)
    camera = site.start("camd", "test", site.camera_config())
    eventually(lambda: camera.status()["frames_unsaved"] == 0)
    saved = numbers(site)
    assert saved == list(range(1, len(saved) + 1))
    assert camera.finish(camera.call("init"))["state"] == "done"


def test_a_stop_while_the_pipeline_hangs_is_bounded(site: Site) -> None:
    pipeline = FakePipeline()
    with pipeline.served(site.registry):
        camera = site.camera(pipeline_daemon="pipeline", pipeline_handover_timeout=60.0)
        pipeline.gate.clear()
        camera.call("start", count=2)
        eventually(lambda: camera.status()["state"] == "DRAINING")
        camera.process.send_signal(signal.SIGTERM)
        eventually(lambda: "handing over the last frames" in camera.log)
        camera.process.send_signal(signal.SIGTERM)
        assert camera.process.wait(10) == 0
        pipeline.gate.set()
        camera = site.start("camd", "test", site.camera_config(pipeline_daemon="pipeline"))
        eventually(lambda: len(pipeline.accepted) == 2)
        eventually(lambda: camera.status()["frames_waiting"] == 0)


def test_a_count_that_is_lost_repeats_no_number_of_this_life(site: Site) -> None:
    camera = site.camera()
    for expected in ([1, 2], [1, 2, 3, 4]):
        assert camera.finish(camera.call("start", count=2))["state"] == "done"
        assert numbers(site) == expected
        assert camera.finish(camera.call("shutdown"))["state"] == "done"
        (site.folder / "counter.json").unlink()
        assert camera.finish(camera.call("init"))["state"] == "done"


def test_a_frame_on_its_way_between_two_lists_is_counted_once(tmp_path: Path) -> None:
    ignore = [lambda *_: None] * 3
    desk = HandOver(None, 1.0, *ignore, ManualClock())  # type: ignore[arg-type]
    frame = SpooledFrame("TEST", "run", 1, tmp_path / "test-1.fits", 0, "0")
    desk.saved(frame)
    counted: list[int] = []
    look = threading.Thread(target=lambda: counted.append(desk.waiting))
    with desk._lock:  # as the hand-over moves it
        desk._waiting[frame.path] = frame
        look.start()
        look.join(0.05)
        del desk._saved[frame.path]
    look.join(10)
    assert counted == [1]


def test_a_disk_that_fills_stops_the_sequence_while_there_is_room(site: Site) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(site.spool)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        camera = site.camera(minimum_free_bytes=20_000_000)
        camera.call("set_exposure", seconds=0.1)
        reply = camera.call("start", count=0)
        eventually(lambda: camera.status()["frames_saved"] >= 2)
        (site.spool / "other").write_bytes(bytes(46_000_000))
        snapshot = camera.finish(reply)
        assert (snapshot["state"], snapshot["code"]) == ("failed", "NO_SPACE")
        status = camera.status()
        assert (status["summary"], status["frames_unsaved"]) == ("READY", 0)
        assert "MB free" in status["last_stop"]
        assert status["health"]["parts"]["space"]["level"] == "DEGRADED"
        taken = [fits.getheader(path)["EXPCNT"] for path in site.spool.glob("test-*.fits")]
        assert sorted(taken) == list(range(1, snapshot["detail"]["frames"] + 1))
        (site.spool / "other").unlink()
        eventually(lambda: camera.status()["health"]["level"] == "OK")
        assert camera.finish(camera.call("start", count=1))["state"] == "done"
        assert camera.stop() == 0
    finally:
        site.close()
        subprocess.run(["umount", "-l", str(site.spool)], check=True)
