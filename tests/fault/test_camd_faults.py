# SPDX-License-Identifier: BSD-3-Clause
"""The camera daemon under faults, really made: kills, hangs, full disks, dead neighbours."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from kit.depth import counts, soaked
from kit.site import (
    Daemon,
    FakePipeline,
    Site,
    command_line,
    descendants,
    eventually,
    is_alive,
)  # fmt: skip
from kit.soon import assert_soon
from nightjar.errors import NightjarError, Refused
from nightjar.fits.verify import verify_image
from nightjard.camd.drivers.embedded import read_embedded


@pytest.fixture
def site(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Site]:
    # One saving process: each costs a fifth of a second of a core at every start.
    site = Site(tmp_path, free_ports(4), worker_processes=1)
    yield site
    site.close()


def images(site: Site) -> list[Path]:
    return sorted(site.spool.glob("test-*.fits"))


def frame_ids(site: Site) -> list[int]:
    ids = []
    for path in images(site):
        assert not verify_image(path).problems
        with fits.open(path) as hdus:
            ids.append(read_embedded(hdus[0].data).frame_id)
    return ids


def worker_pids(camera: Daemon) -> list[int]:
    return [p for p in descendants(camera.process.pid) if "camd.worker" in command_line(p)]


def child_pids(camera: Daemon) -> list[int]:
    return [p for p in descendants(camera.process.pid) if "drivers.child" in command_line(p)]


def assert_takes_frames(camera: Daemon, count: int = 2) -> None:
    snapshot = camera.finish(camera.call("start", count=count))
    assert snapshot["state"] == "done", snapshot


def assert_fast_status(camera: Daemon) -> None:
    taken = []
    for _ in range(50):
        before = time.perf_counter()
        camera.status()
        taken.append(time.perf_counter() - before)
    assert statistics.median(taken) < 0.020


# ---------------------------------------------------------------- processes are killed


@pytest.mark.parametrize("frames", counts(16, 80))
def test_killed_workers_lose_nothing(site: Site, frames: int) -> None:
    camera = site.camera(
        {"width": 2000, "height": 1500}, framebuffer_bytes=6 * 6_000_000, worker_processes=2
    )
    reply = camera.call("start", count=frames)
    for _ in range(frames // 8):
        eventually(lambda: len(worker_pids(camera)) == 2, what="two workers")
        victim = worker_pids(camera)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda victim=victim: victim not in worker_pids(camera))
    snapshot = camera.finish(reply, 60)
    assert snapshot["state"] == "done", snapshot
    assert len(set(frame_ids(site))) == frames
    # One that was killed when nothing was left to save is missed a second later.
    eventually(lambda: camera.status()["worker_restarts"] >= frames // 8)


def test_a_stopped_worker_is_replaced_and_its_frame_saved(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTJAR_SAVE_TIMEOUT", "1")
    camera = site.camera()
    stopped = worker_pids(camera)[0]
    os.kill(stopped, signal.SIGSTOP)
    snapshot = camera.finish(camera.call("start", count=3), 60)
    assert snapshot["state"] == "done", snapshot
    assert len(images(site)) == 3
    assert not is_alive(stopped)


def test_a_killed_detector_child_ends_the_sequence_and_init_brings_it_back(site: Site) -> None:
    camera = site.camera()
    camera.call("set_exposure", seconds=30)
    reply = camera.call("start", count=1)
    eventually(lambda: camera.status()["state"] == "EXPOSING")
    os.kill(child_pids(camera)[0], signal.SIGKILL)
    snapshot = camera.finish(reply, 10)
    assert snapshot["state"] == "failed"
    assert "init" in json.dumps(camera.status()["health"])
    status = eventually(lambda: (s := camera.status())["summary"] == "STANDBY" and s)
    assert status["last_error"]["message"]
    assert camera.finish(camera.call("init"))["state"] == "done"
    assert_takes_frames(camera)


def test_a_wedged_detector_child_is_ended_within_five_seconds(site: Site) -> None:
    faults = site.folder / "faults.json"
    camera = site.camera({"fault_path": str(faults)})

    def wedged() -> tuple[float, str]:
        reply = camera.call("start", count=0)
        eventually(lambda: camera.status()["sequence_frame_count"] >= 1)
        old = child_pids(camera)[0]
        faults.write_text(json.dumps({"faults": [{"kind": "wedge", "at_call": "poll"}]}))
        before = time.monotonic()
        assert_fast_status(camera)  # also while the driver hangs
        eventually(lambda: camera.status()["summary"] == "STANDBY")
        taken_s = time.monotonic() - before
        assert camera.finish(reply)["code"] == "DEVICE_WEDGED"
        assert not is_alive(old)
        faults.write_text('{"faults": []}')
        assert camera.finish(camera.call("init"))["state"] == "done"
        assert_takes_frames(camera)
        return taken_s, "ending the child"

    assert_soon(wedged, 5.0, tries=3)


def test_a_failing_init_is_told_and_can_be_tried_again(site: Site) -> None:
    faults = site.folder / "faults.json"
    faults.write_text('{"faults": []}')
    camera = site.start("camd", "test", site.camera_config({"fault_path": str(faults)}))
    for kind, code in (("crash", "DEVICE"), ("not_found", "DEVICE_NOT_FOUND")):
        faults.write_text(json.dumps({"faults": [{"kind": kind}]}))
        snapshot = camera.finish(camera.call("init"))
        assert snapshot["state"] == "failed"
        assert snapshot["code"].startswith(code)
        status = camera.status()
        assert (status["summary"], status["health"]["level"]) == ("STANDBY", "DEGRADED")
        assert code in json.dumps(status["last_error"])
    faults.write_text('{"faults": []}')
    assert camera.finish(camera.call("init"))["state"] == "done"
    assert_takes_frames(camera)


def test_abort_ends_an_init_that_hangs(site: Site) -> None:
    faults = site.folder / "faults.json"
    faults.write_text(json.dumps({"faults": [{"kind": "wedge", "at_call": "open"}]}))
    camera = site.start("camd", "test", site.camera_config({"fault_path": str(faults)}))
    reply = camera.call("init")
    eventually(lambda: "open hangs" in camera.log, what="the child is there")
    before = time.monotonic()
    assert camera.finish(camera.call("abort"))["state"] == "done"
    assert camera.finish(reply)["state"] == "failed"
    assert time.monotonic() - before < 5
    assert camera.status()["summary"] == "STANDBY"
    faults.write_text('{"faults": []}')
    assert camera.finish(camera.call("init"))["state"] == "done"


def test_a_bad_frame_is_taken_again_and_never_saved(site: Site) -> None:
    faults = [{"kind": "zero_frame", "at_frame": 3}, {"kind": "stale_frame", "at_frame": 6}]
    camera = site.camera({"faults": faults})
    assert_takes_frames(camera, 7)
    ids = frame_ids(site)
    assert len(set(ids)) == len(ids) == 7
    assert camera.status()["frames_invalid"] == 2
    assert [fits.getheader(path)["INVALPRE"] for path in images(site)].count(1) == 2


def test_a_camera_that_only_delivers_zeros_is_given_up(site: Site) -> None:
    camera = site.camera({"faults": [{"kind": "zero_frame"}]})
    snapshot = camera.finish(camera.call("start", count=2))
    assert (snapshot["state"], snapshot["code"]) == ("failed", "FRAME_INVALID")
    assert not images(site)


def test_a_lost_camera_ends_the_sequence(site: Site) -> None:
    camera = site.camera({"faults": [{"kind": "lost_camera", "at_frame": 3}]})
    snapshot = camera.finish(camera.call("start", count=9))
    assert (snapshot["state"], snapshot["code"]) == ("failed", "DEVICE_LOST")
    assert camera.status()["summary"] == "STANDBY"
    # The last one may still be on its way to the disk.
    eventually(lambda: len(images(site)) == snapshot["detail"]["frames"])


def test_a_camera_that_comes_back_is_connected_again_where_that_is_configured(site: Site) -> None:
    faults = site.folder / "faults.json"
    faults.write_text('{"faults": []}')
    camera = site.camera({"fault_path": str(faults)}, reconnect=True)
    # Found again and lost again, time after time: it is tried again after 2 s, which we may miss.
    faults.write_text(json.dumps({"faults": [{"kind": "lost_camera"}]}))
    eventually(
        lambda: (s := camera.status())["health"]["level"] == "FAILED"
        and s["summary"] in ("STANDBY", "BUSY")
    )
    faults.write_text(json.dumps({"faults": [{"kind": "lost_camera"}, {"kind": "not_found"}]}))
    eventually(lambda: "the camera is tried again" in camera.log)
    faults.write_text('{"faults": []}')
    eventually(lambda: camera.status()["summary"] == "READY", 30)
    assert camera.status()["health"]["level"] == "OK"
    assert_takes_frames(camera)


@pytest.mark.parametrize(
    "delays_s", [(0.01, 0.1), soaked((0.0, 0.01, 0.03, 0.05, 0.08, 0.11, 0.15))], ids=len
)
def test_kill_of_the_daemon_loses_nothing_that_was_read_out(
    site: Site, delays_s: tuple[float, ...]
) -> None:
    """Killed at many different moments; after each restart every read-out frame is a file."""
    config = site.camera_config(
        {"width": 1600, "height": 1200}, framebuffer_bytes=6 * 3_840_000, worker_processes=2
    )
    shown: set[int] = set()
    for delay_s in delays_s:
        camera = site.start("camd", "test", config)
        eventually(lambda camera=camera: camera.status()["frames_unsaved"] == 0)
        assert camera.finish(camera.call("init"))["state"] == "done"
        camera.call("start", count=0)
        eventually(lambda camera=camera: camera.status()["frames_taken"] >= 3)
        deadline = time.monotonic() + delay_s
        while time.monotonic() < deadline:
            camera.status()
        finished = camera.call("last", count=100)
        workers, children = worker_pids(camera), child_pids(camera)
        camera.kill()
        shown.update(int(entry["number"]) for entry in finished)
        for pid in workers + children:
            eventually(lambda pid=pid: not is_alive(pid), what=f"process {pid} ends")
    camera = site.start("camd", "test", config)
    eventually(lambda: camera.status()["frames_unsaved"] == 0)
    numbers = [int(path.name.split("-")[1]) for path in images(site)]
    assert len(numbers) == len(set(numbers)), "a frame number was used twice"
    assert shown <= set(numbers), "a frame that had been read out is not on disk"
    assert not list(site.spool.glob(".*.tmp")), "half-written files are cleared away"
    frame_ids(site)


def test_children_end_with_the_daemon(site: Site) -> None:
    camera = site.camera()
    children = descendants(camera.process.pid)
    assert len(children) >= 2
    camera.kill()
    for pid in children:
        eventually(lambda pid=pid: not is_alive(pid), 10, f"{pid} {command_line(pid)} ends")


# ---------------------------------------------------------------- storage


def mounted(folder: Path, size: str) -> bool:
    """Mount a small tmpfs, where that is allowed."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


def test_a_full_disk_stops_the_sequence_and_loses_nothing(site: Site) -> None:
    if not mounted(site.spool, "1m"):
        pytest.skip("mounting a small file system needs root")
    try:
        camera = site.camera(minimum_free_bytes=0)
        snapshot = camera.finish(camera.call("start", count=0))
        assert (snapshot["state"], snapshot["code"]) == ("failed", "NO_SPACE")
        taken = snapshot["detail"]["frames"]
        status = camera.status()
        assert status["frames_unsaved"] > 0
        assert status["health"]["level"] == "FAILED"
        subprocess.run(["mount", "-o", "remount,size=64m", str(site.spool)], check=True)
        eventually(lambda: camera.status()["frames_unsaved"] == 0, 20)
        assert len(set(frame_ids(site))) == taken
        assert camera.status()["health"]["level"] == "OK"
        assert camera.stop() == 0
    finally:
        site.close()
        subprocess.run(["umount", "-l", str(site.spool)], check=True)


def test_a_read_only_output_folder_stops_the_sequence_and_loses_nothing(site: Site) -> None:
    if not mounted(site.spool, "64m"):
        pytest.skip("mounting a small file system needs root")
    remount = ["mount", "-o", "remount,ro", str(site.spool)]
    try:
        camera = site.camera()
        camera.call("set_exposure", seconds=0.05)
        reply = camera.call("start", count=0)
        eventually(lambda: camera.status()["frames_saved"] >= 2)
        # Refused for as long as a saving process writes there.
        eventually(lambda: subprocess.call(remount, stderr=subprocess.DEVNULL) == 0)
        snapshot = camera.finish(reply)
        assert (snapshot["state"], snapshot["code"]) == ("failed", "STORAGE_FAILED")
        assert "Read-only" in snapshot["message"]
        with pytest.raises(NightjarError, match="Read-only"):
            camera.call("start", count=1)
        subprocess.run(["mount", "-o", "remount,rw", str(site.spool)], check=True)
        eventually(lambda: camera.status()["frames_unsaved"] == 0, 20)
        assert len(set(frame_ids(site))) == snapshot["detail"]["frames"]
    finally:
        site.close()
        subprocess.run(["umount", "-l", str(site.spool)], check=True)


def test_a_removed_stream_file_is_made_anew(site: Site) -> None:
    camera = site.camera()
    assert_takes_frames(camera)
    (Path(os.environ["MILK_SHM_DIR"]) / "TEST.im.shm").unlink()
    assert_takes_frames(camera)
    assert len(set(frame_ids(site))) == 4


def test_too_little_space_refuses_the_start(site: Site) -> None:
    camera = site.camera(minimum_free_bytes=10**18)
    with pytest.raises(NightjarError, match="free in") as caught:
        camera.call("start", count=1)
    assert caught.value.code.name == "NO_SPACE"


def test_the_output_folder_vanishes_and_comes_back(site: Site) -> None:
    camera = site.camera()
    camera.call("set_exposure", seconds=0.05)
    reply = camera.call("start", count=0)
    eventually(lambda: camera.status()["frames_saved"] >= 2)
    shutil.move(site.spool, site.folder / "elsewhere")
    snapshot = camera.finish(reply)
    assert (snapshot["state"], snapshot["code"]) == ("failed", "STORAGE_FAILED")
    with pytest.raises(NightjarError, match="does not exist"):
        camera.call("start", count=1)
    shutil.move(site.folder / "elsewhere", site.spool)
    eventually(lambda: camera.status()["frames_unsaved"] == 0, 20)
    assert len(set(frame_ids(site))) == snapshot["detail"]["frames"]


# ---------------------------------------------------------------- the pipeline


def test_a_dead_pipeline_aborts_the_sequence_and_gets_the_frames_later(site: Site) -> None:
    camera = site.camera(pipeline_daemon="pipeline")
    camera.call("set_exposure", seconds=0.05)
    snapshot = camera.finish(camera.call("start", count=0))
    assert (snapshot["state"], snapshot["code"]) == ("failed", "UNREACHABLE")
    eventually(lambda: camera.status()["frames_unsaved"] == 0)
    status = camera.status()
    assert status["frames_waiting"] == len(images(site)) == snapshot["detail"]["frames"]
    pipeline = FakePipeline()
    with pipeline.served(site.registry):
        camera.call("hand_over")
        eventually(lambda: camera.status()["frames_waiting"] == 0, 40)
        assert pipeline.numbers == sorted(pipeline.numbers)
        assert_takes_frames(camera)
    assert camera.status()["health"]["level"] == "OK"


def test_a_slow_pipeline_is_bounded_by_the_handover_timeout(site: Site) -> None:
    pipeline = FakePipeline()
    pipeline.gate.clear()
    with pipeline.served(site.registry):
        camera = site.camera(pipeline_daemon="pipeline", pipeline_handover_timeout=0.7)

        def refused() -> tuple[float, str]:
            pipeline.gate.clear()
            before = time.monotonic()
            snapshot = camera.finish(camera.call("start", count=3))
            taken_s = time.monotonic() - before
            assert snapshot["code"] == "TIMED_OUT"
            assert taken_s > 0.6
            assert_fast_status(camera)
            pipeline.gate.set()
            eventually(lambda: camera.status()["frames_unsaved"] == 0)
            eventually(lambda: camera.status()["frames_waiting"] == 0, 40)
            return taken_s, "the sequence"

        assert_soon(refused, 2.5, tries=3)
    # Offered again after the time-out: the same keys, so the pipeline can tell.
    assert len(pipeline.offers) > len(pipeline.accepted)


def test_a_frame_that_was_taken_in_a_call_answered_too_late_counts(site: Site) -> None:
    pipeline = FakePipeline()
    pipeline.gate.clear()
    with pipeline.served(site.registry):
        camera = site.camera(pipeline_daemon="pipeline", pipeline_handover_timeout=0.5)
        snapshot = camera.finish(camera.call("start", count=3))
        assert snapshot["code"] == "TIMED_OUT"
        eventually(lambda: camera.status()["frames_unsaved"] == 0)
        for path in images(site):
            path.unlink()  # as the pipeline does with what it has taken
        pipeline.gate.set()
        camera.call("hand_over")
        eventually(lambda: camera.status()["frames_waiting"] == 0, 20)
        status = camera.status()
    assert status["frames_handed_over"] == snapshot["detail"]["frames"]


def test_a_refusing_pipeline_aborts_and_the_reason_is_told(site: Site) -> None:
    pipeline = FakePipeline()
    pipeline.refusal = Refused("camera TEST is not mine")
    with pipeline.served(site.registry):
        camera = site.camera(pipeline_daemon="pipeline")
        snapshot = camera.finish(camera.call("start", count=5))
        assert snapshot["state"] == "failed"
        assert "camera TEST is not mine" in snapshot["message"]
        assert "camera TEST is not mine" in camera.status()["last_stop"]
        pipeline.refusal = None
        eventually(lambda: camera.status()["frames_unsaved"] == 0)
        camera.call("hand_over")
        eventually(lambda: camera.status()["frames_waiting"] == 0, 20)
    assert len(images(site)) == len(pipeline.accepted) == snapshot["detail"]["frames"]


def test_what_waits_in_the_spool_is_handed_over_after_a_restart(site: Site) -> None:
    camera = site.camera(pipeline_daemon=None)
    assert_takes_frames(camera, 3)
    camera.kill()
    pipeline = FakePipeline()
    with pipeline.served(site.registry):
        camera = site.start("camd", "test", site.camera_config(pipeline_daemon="pipeline"))
        eventually(lambda: camera.status()["frames_handed_over"] == 3)
    assert pipeline.numbers == [1, 2, 3]


# ---------------------------------------------------------------- neighbours, clocks, strangers


def test_a_black_holed_log_daemon_slows_nothing(site: Site) -> None:
    hole = socket.socket()
    hole.bind(("127.0.0.1", site.registry.daemon("log").port))
    hole.listen(0)  # accepts by the kernel, never answers
    site.registry_value["log_daemon"] = "log"
    site.write_registry()
    try:
        camera = site.camera()
        before = time.monotonic()
        assert_takes_frames(camera, 5)
        assert time.monotonic() - before < 5
        assert_fast_status(camera)
        assert camera.stop() == 0
    finally:
        hole.close()


def test_a_second_daemon_is_refused_whatever_it_is_called(site: Site) -> None:
    first = site.camera()
    reply = first.call("start", count=0)
    second = site.launch("camd", "test", site.camera_config())
    assert second.process.wait(10) == 3
    assert "already running" in second.log
    assert len(second.log.strip().splitlines()[-1]) < 200
    second = site.launch("camd", "other", site.camera_config(daemon="camera2"))
    assert second.process.wait(10) == 3
    assert "camera TEST is already running" in second.log
    seen = first.status()["sequence_frame_count"]
    eventually(lambda: first.status()["sequence_frame_count"] >= seen + 3)
    first.call("stop")
    assert first.finish(reply)["state"] == "done"

    # The same port, of a daemon and of something else.
    site.registry_value["daemons"]["camera2"]["port"] = first.client.entry.port
    with pytest.raises(NightjarError, match="is taken by"):
        site.write_registry() or site.registry
    site.registry_value["machines"]["Same"] = ["127.0.0.1"]
    site.registry_value["daemons"]["camera2"].pop("port")
    site.registry_value["daemons"].pop("camera2")
    taken = socket.socket()
    taken.bind(("127.0.0.1", site.registry_value["daemons"]["pipeline"]["port"]))
    taken.listen()
    site.write_registry()
    second = site.launch("camd", "third", site.camera_config(daemon="pipeline", camera_id="B"))
    assert second.process.wait(10) == 2
    assert "already in use" in second.log
    taken.close()


def test_a_stranger_gets_nothing_and_a_reader_only_status(site: Site) -> None:
    camera = site.start("camd", "test", site.camera_config(control_machines=["Elsewhere"]))
    assert camera.status()["summary"] == "STANDBY"
    with pytest.raises(NightjarError, match="not accepted from LocalHost") as caught:
        camera.call("init")
    assert caught.value.code.name == "ACCESS_DENIED"
    stranger = socket.socket()
    stranger.bind(("127.0.0.9", 0))  # no machine of the registry
    stranger.settimeout(5)
    stranger.connect(("127.0.0.1", camera.client.entry.port))
    try:
        assert stranger.recv(100) == b""
    except ConnectionResetError:
        pass
    finally:
        stranger.close()
    eventually(lambda: "refused a connection from 127.0.0.9" in camera.log)


@pytest.mark.needs("faketime")
def test_a_stepped_clock_is_noticed_and_harms_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = site.folder / "faketime"
    offset.write_text("+0")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    camera = site.camera({"isolated": False})
    monkeypatch.delenv("LD_PRELOAD")
    camera.call("set_exposure", seconds=0.1)
    reply = camera.call("start", count=0)
    eventually(lambda: camera.status()["sequence_frame_count"] >= 3)
    offset.write_text("-3600")
    seen = camera.status()["sequence_frame_count"]
    eventually(lambda: camera.status()["sequence_frame_count"] >= seen + 9)
    camera.call("stop")
    snapshot = camera.finish(reply)
    assert snapshot["state"] == "done"
    headers = [fits.getheader(path) for path in images(site)]
    # Spans of time are not those of the stepped clock.
    cadences = [header["EXPCADNC"] for header in headers if "EXPCADNC" in header]
    ages = [header["TEMP-AGE"] for header in headers if "TEMP-AGE" in header]
    assert len(cadences) >= len(headers) - 3
    assert all(0.1 <= cadence < 10 for cadence in cadences)
    assert len(ages) >= len(headers) - 1
    assert all(-1 < age < 10 for age in ages)
    steps = [header["CLK-STEP"] for header in headers]
    assert steps[0] == 0
    assert steps[-1] == pytest.approx(-3600, abs=1)
    assert len(steps) == snapshot["result"]["frames"] >= 12
    assert "clock was stepped" in camera.log


def test_many_clients_at_once(site: Site) -> None:
    camera = site.camera()
    camera.call("start", count=0)
    errors: list[Exception] = []

    def look() -> None:
        client = site.client("camera")
        try:
            for _ in range(25):
                client.call("status")
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        finally:
            client.close()

    threads = [threading.Thread(target=look) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    camera.call("abort")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"gian": 26}, "gian: unknown key"),
    ({"gain": "26"}, 'gain: "26": must be'),
    ({"gain": -5}, "gain: -5: must be"),
    ({"worker_processes": 0}, "worker_processes: 0: must be"),
    ({"framebuffer_bytes": 1}, "must be at least 2 frames"),
    ({"pipeline_handover_timeout": -1}, "pipeline_handover_timeout"),
    ({"camera_id": "../x"}, "camera_id"),
    ({"daemon": "nobody"}, "is not in the registry"),
    ({"control_machines": ["Mars"]}, "machine 'Mars' is not in the registry"),
    ({"driver": {"name": "kodak"}}, "driver"),
    ({"windows": {"a": [5, 1, 1, 1]}}, "windows.a"),
]
ONE_AFTER_THE_OTHER = """if True:
    import sys
    from nightjard.camd.__main__ import main
    for path in sys.argv[1:]:
        print(f"{path} ended with {main([path])}", file=sys.stderr)
"""


def test_wrong_configurations_are_refused_in_one_line(site: Site) -> None:
    paths = []
    for number, (changes, _) in enumerate(WRONG):
        paths.append(site.write("camd", f"wrong{number}", {**site.camera_config(), **changes}))
    # The program as it is started, and the same program with all of them: an import costs most.
    first = subprocess.run(
        [sys.executable, "-m", "nightjard.camd", str(paths[0])],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, *map(str, paths)],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert (first.returncode, done.returncode) == (2, 0), first.stderr + done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == first.stderr.strip()
    assert len(lines) == 2 * len(WRONG), done.stderr
    for path, (_, text), said, ended in zip(paths, WRONG, lines[::2], lines[1::2], strict=True):
        assert text in said
        assert ended == f"{path} ended with 2"
