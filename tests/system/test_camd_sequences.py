# SPDX-License-Identifier: BSD-3-Clause
"""A real camera daemon: exposures become files, in order, with true pixels and headers."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.ports import free_ports
from kit.site import Daemon, FakePipeline, Site, eventually
from kit.soon import assert_soon
from nightjar.api.camera import STATUS_KEYS
from nightjar.errors import Busy, NightjarError, Refused
from nightjard.camd.drivers.embedded import read_embedded


@pytest.fixture
def site(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Site]:
    site = Site(tmp_path, free_ports(4), worker_processes=1)
    yield site
    site.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, _session_folders: str) -> Iterator[Site]:
    """One camera for the tests that need none of their own: a start costs more than they do."""
    site = Site(tmp_path_factory.mktemp("camera") / "site", free_ports(4))
    with pytest.MonkeyPatch.context() as patch:  # other modules have a registry in the session's
        patch.setenv("NIGHTJAR_CONFIG_ROOT", str(site.etc))
        try:
            site.camera({"exposure_min": 1e-5}, windows={"middle": [101, 200, 51, 150]})
            yield site
        finally:
            site.close()


@pytest.fixture
def shared(running: Site) -> Daemon:
    """The camera of the module, at rest and as it was configured; its spool is empty."""
    (camera,) = running.daemons
    camera.call("abort")
    eventually(lambda: (s := camera.status())["state"] == "IDLE" and s["frames_unsaved"] == 0)
    camera.call("configure", settings={})
    for path in images(running):
        path.unlink()
    return camera


def images(site: Site) -> list[Path]:
    return sorted(site.spool.glob("test-*.fits"))


def take(camera: Daemon, count: int, **arguments: Any) -> dict[str, Any]:
    snapshot = camera.finish(camera.call("start", count=count, **arguments))
    assert snapshot["state"] == "done", snapshot
    result: dict[str, Any] = snapshot["result"]
    return result


@pytest.mark.needs("fitsverify")
def test_a_sequence_becomes_valid_files_with_true_pixels(site: Site) -> None:
    camera = site.camera(worker_processes=2)
    result = take(camera, 5)
    assert (result["frames"], result["lost"]) == (5, 0)
    paths = images(site)
    assert len(paths) == 5
    verdict = subprocess.run(
        ["fitsverify", "-q", *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert verdict.stdout.count("verification OK") == 5, verdict.stdout
    identities = []
    for index, path in enumerate(paths, start=1):
        with fits.open(path, checksum=True) as hdus:
            header, pixels = hdus[0].header, hdus[0].data
        truth = read_embedded(pixels)
        identities.append(truth.frame_id)
        assert header["HW-FRAME"] == truth.frame_id
        assert (header["EXPCNT"], header["SEQ-NUM"], header["SEQ-LIM"]) == (index, index, 5)
        assert header["CAMERA"] == "TEST"
        assert header["CAMSER"] == "12345"
        start_ns = np.datetime64(header["DATE-BEG"], "ns").astype("i8")
        assert abs(int(start_ns) - truth.start_ns) < 1000
        assert header["EXPTIME"] == pytest.approx(0.01)
        assert header["MJD-BEG"] < header["MJD-AVG"] < header["MJD-END"]
        assert len(header) >= 100  # blank cards count: room for the pipeline
    assert identities == sorted(set(identities))


def test_status_has_every_documented_key_and_only_plain_values(shared: Daemon) -> None:
    take(shared, 1)
    assert set(shared.status()) == set(STATUS_KEYS)


def test_status_answers_within_20_ms_while_frames_are_taken(site: Site) -> None:
    camera = site.camera({"width": 2400, "height": 1600}, framebuffer_bytes=8 * 2400 * 1600 * 2)
    camera.call("start", count=0)
    eventually(lambda: camera.status()["sequence_frame_count"] > 1)
    taken = []
    for _ in range(100):
        before = time.perf_counter()
        camera.status()
        taken.append(time.perf_counter() - before)
    camera.call("stop")
    eventually(lambda: camera.status()["state"] == "IDLE")
    assert statistics.median(taken) < 0.020


def test_frames_reach_the_pipeline_in_order_and_once(site: Site) -> None:
    pipeline = FakePipeline()
    with pipeline.served(site.registry):
        camera = site.camera(pipeline_daemon="pipeline", worker_processes=3)
        take(camera, 12)
        assert pipeline.numbers == list(range(1, 13))
        assert len(pipeline.offers) == 12
        status = camera.status()
    assert (status["frames_handed_over"], status["frames_waiting"]) == (12, 0)
    assert {offer["filename"] for offer in pipeline.offers} == {p.name for p in images(site)}


def test_settings_change_the_file(running: Site, shared: Daemon) -> None:
    camera = shared
    camera.call("set_window", window=[11, 110, 21, 80])
    camera.call("set_binning", binning=2, method="sum")
    camera.call("set_gain", gain=40)
    camera.call("set_exposure", seconds=0.02)
    take(camera, 1)
    with fits.open(images(running)[0]) as hdus:
        header, pixels = hdus[0].header, hdus[0].data
    assert pixels.shape == (30, 50)
    assert pixels.dtype == np.uint32
    assert (header["CAM-WIND"], header["CAM-BIN"], header["CAM-BMET"]) == (
        "[11:110,21:80]", 2, "SUM",
    )  # fmt: skip
    assert (header["CAM-GAIN"], header["EXPRQSTD"]) == (40, 0.02)
    # Four pixels of about the bias level each.
    assert 4 * 100 < np.median(pixels) < 4 * 5000


@pytest.mark.parametrize(
    ("command", "arguments", "code", "text"),
    [
        ("set_window", {"window": [1, 321, 1, 240]}, "WINDOW_OUT_OF_BOUNDS", "outside"),
        ("set_window", {"window": [0, 10, 1, 10]}, "INVALID_ARGUMENT", "1-indexed"),
        ("set_window", {"window": [1, 2, 3]}, "INVALID_ARGUMENT", "4 numbers"),
        ("set_binning", {"binning": 7, "method": "sum"}, "BINNING_MISMATCH", "does not divide"),
        ("set_gain", {"gain": 101}, "OUT_OF_RANGE", "0 to 100"),
        ("set_exposure", {"seconds": 20000.0}, "OUT_OF_RANGE", "to 14400"),
        ("set_exposure", {"seconds": "1"}, "INVALID_ARGUMENT", "a number"),
        ("set_filter", {"filter": "R"}, "UNKNOWN_FILTER", "no filter wheel"),
        ("set_temperature", {"celsius": True}, "INVALID_ARGUMENT", "a number"),
        ("start", {"count": -1}, "OUT_OF_RANGE", "0 to"),
        ("stop", {}, "NOT_ACQUIRING", "not acquiring"),
        ("init", {}, "ALREADY_INITIALIZED", "already"),
        ("configure", {"settings": {"gian": 1}}, "INVALID_ARGUMENT", "gian"),
    ],
)
def test_what_cannot_be_done_is_refused_and_harms_nothing(
    shared: Daemon, command: str, arguments: dict[str, Any], code: str, text: str
) -> None:
    with pytest.raises(NightjarError, match=text) as caught:
        shared.call(command, **arguments)
    assert caught.value.code.name == code
    take(shared, 1)


def test_configure_is_all_or_nothing(shared: Daemon) -> None:
    camera = shared
    camera.call("configure", settings={"window": "middle"})
    assert camera.status()["window"] == [101, 200, 51, 150]
    camera.call("configure", settings={"exposure": 0.03, "gain": 30, "bin": 2})
    status = camera.status()
    assert (status["exposure_time"], status["gain"], status["binning"]) == (0.03, 30, 2)
    with pytest.raises(Refused):
        camera.call("configure", settings={"exposure": 0.05, "gain": 30, "window": [1, 999, 1, 2]})
    status = camera.status()
    assert (status["exposure_time"], status["gain"], status["binning"]) == (0.03, 30, 2)
    camera.call("configure", settings={})
    status = camera.status()
    assert (status["exposure_time"], status["gain"], status["binning"]) == (0.01, 26, 1)


@pytest.mark.parametrize("exposure_s", [0.0, 0.5, 6000.0])
def test_abort_is_ready_within_half_a_second(shared: Daemon, exposure_s: float) -> None:
    camera = shared

    def aborted() -> tuple[float, str]:
        camera.call("set_exposure", seconds=max(exposure_s, 1e-5))
        reply = camera.call("start", count=0, delay=5000.0 if exposure_s == 0.0 else 0.0)
        eventually(lambda: camera.status()["state"] in ("EXPOSING", "WAITING", "READING"))
        before = time.monotonic()
        camera.call("abort")
        eventually(lambda: camera.status()["summary"] == "READY")
        taken_s = time.monotonic() - before
        assert camera.finish(reply)["state"] == "cancelled"
        return taken_s, "the abort"

    assert_soon(aborted, 0.5, tries=3)
    camera.call("set_exposure", seconds=0.01)
    take(camera, 2)


def test_abort_during_a_slow_readout(site: Site) -> None:
    slow = {"kind": "slow_readout", "at_frame": 1, "seconds": 1000}  # each strikes once
    camera = site.camera({"faults": [slow] * 3})

    def aborted() -> tuple[float, str]:
        camera.call("start", count=3)
        eventually(lambda: camera.status()["state"] == "READING")
        before = time.monotonic()
        camera.call("abort")
        eventually(lambda: camera.status()["summary"] == "READY")
        return time.monotonic() - before, "the abort"

    assert_soon(aborted, 0.5, tries=3)


def test_stop_ends_after_the_present_frame(running: Site, shared: Daemon) -> None:
    camera = shared
    camera.call("set_exposure", seconds=0.2)
    reply = camera.call("start", count=0)
    eventually(lambda: camera.status()["state"] == "EXPOSING")
    camera.call("stop")
    snapshot = camera.finish(reply)
    assert snapshot["state"] == "done"
    assert snapshot["result"]["reason"] == "stopped by command"
    assert len(images(running)) == snapshot["result"]["frames"] >= 1


def test_commands_are_refused_while_acquiring(shared: Daemon) -> None:
    camera = shared
    camera.call("set_exposure", seconds=6000)
    camera.call("start", count=1)
    with pytest.raises(Busy, match="stop or abort"):
        camera.call("set_gain", gain=1)
    with pytest.raises(Busy):
        camera.call("start", count=1)
    camera.call("set_temperature", celsius=-5.0)  # always possible
    camera.call("abort")


def test_stream_mode_loses_and_repeats_nothing(running: Site, shared: Daemon) -> None:
    camera = shared
    camera.call("set_stream", enabled=True)
    camera.call("set_exposure", seconds=0.05)
    result = take(camera, 20)
    paths = images(running)
    identities = []
    lost = 0
    for path in paths:
        with fits.open(path) as hdus:
            identities.append(read_embedded(hdus[0].data).frame_id)
            lost += hdus[0].header["LOST-PRE"]
    assert len(set(identities)) == 20
    assert identities == sorted(identities)
    assert lost == result["lost"] == identities[-1] - identities[0] - 19


def test_the_camera_cools_locks_and_warms_up_at_shutdown(site: Site) -> None:
    camera = site.camera({"speed": 100.0}, cooler_setpoint=-5.0, cooler_response=0.5)
    eventually(lambda: camera.status()["cooler_mode"] == "LOCKED", 30)
    assert camera.status()["temperature"] == pytest.approx(-5, abs=1)
    snapshot = camera.finish(camera.call("shutdown"))
    assert snapshot["result"] == {"warm": True}
    assert camera.status()["summary"] == "STANDBY"


def test_sigterm_warms_up_and_leaves_nothing(site: Site) -> None:
    camera = site.camera({"speed": 100.0}, cooler_setpoint=-5.0, cooler_response=0.5)
    eventually(lambda: camera.status()["cooler_mode"] == "LOCKED", 30)
    camera.call("start", count=0)
    eventually(lambda: camera.status()["sequence_frame_count"] >= 2)
    assert camera.stop() == 0
    assert "camera disconnected warm" in camera.log
    numbers = [int(path.name.split("-")[1]) for path in images(site)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert not [path for path in site.spool.iterdir() if path.name.endswith(".tmp")]


def test_a_filter_wheel_is_moved_and_named_in_the_header(site: Site) -> None:
    camera = site.camera(
        {"filters": ["1", "2", "3"], "filter_time": 10.0}, filters=["B", "V", "R"]
    )
    snapshot = camera.finish(camera.call("set_filter", filter="R"))
    assert snapshot["result"] == {"filter": "R"}
    camera.call("configure", settings={"filter": "V"})
    take(camera, 1)
    assert fits.getheader(images(site)[0])["FILTER"] == "V"


def test_the_shared_memory_stream_shows_the_last_frame(site: Site) -> None:
    from nightjar.streams.reader import StreamReader

    camera = site.camera()
    take(camera, 3)
    reader = StreamReader("TEST")
    try:
        frame = reader.latest()
        shown = read_embedded(np.asarray(frame.data))
    finally:
        reader.close()
    with fits.open(images(site)[-1]) as hdus:
        assert read_embedded(hdus[0].data) == shown
