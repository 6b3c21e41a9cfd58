# SPDX-License-Identifier: BSD-3-Clause
"""The whole camera daemon on a real INDI server: files, filters, cooling, abort, server killed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from kit.indi import CAMERA, WHEEL, IndiServer
from kit.site import Daemon, Site, eventually
from kit.soon import assert_soon

pytestmark = pytest.mark.needs("indiserver", "indi_simulator_ccd", "indi_simulator_wheel")


@pytest.fixture
def site(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Site]:
    site = Site(tmp_path, free_ports(4))
    yield site
    site.close()


@pytest.fixture
def server(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[IndiServer]:
    folder = tmp_path / "indi"
    folder.mkdir()
    server = IndiServer(folder, free_ports(1)[0], "indi_simulator_ccd", "indi_simulator_wheel")
    server.start()
    yield server
    server.stop()


def indi_camera(site: Site, server: IndiServer, **changes: Any) -> Daemon:
    driver = {
        "name": "indi", "host": "127.0.0.1", "port": server.port, "device": CAMERA,
        "filter_wheel": WHEEL,
        "properties_at_open": [
            {"vector": "POLLING_PERIOD", "members": {"PERIOD_MS": 20.0}},
        ],
    }  # fmt: skip
    return site.camera(
        driver, camera_serial="CCD Simulator", framebuffer_bytes=40_000_000, gain=None, **changes
    )


def images(site: Site) -> list[Path]:
    return sorted(site.spool.glob("test-*.fits"))


@pytest.mark.needs("fitsverify")
def test_frames_windows_binning_filter_and_cooling(site: Site, server: IndiServer) -> None:
    camera = indi_camera(site, server)
    assert camera.finish(camera.call("start", count=3), 60)["state"] == "done"
    filters = camera.status()["filters"]
    moved = camera.finish(camera.call("set_filter", filter=filters[2]), 30)
    assert moved["result"] == {"filter": filters[2]}
    camera.call("set_window", window=[101, 300, 51, 150])
    camera.call("set_binning", binning=2, method="sum")
    assert camera.finish(camera.call("start", count=1), 60)["state"] == "done"
    camera.call("set_temperature", celsius=-10.0)
    eventually(lambda: camera.status()["cooler_mode"] in ("COOLING", "LOCKING", "LOCKED"))
    paths = images(site)
    headers = [fits.getheader(path) for path in paths]
    assert [(h["NAXIS1"], h["NAXIS2"]) for h in headers] == [(1280, 1024)] * 3 + [(100, 50)]
    assert headers[3]["FILTER"] == filters[2]
    assert (headers[3]["CAM-WIND"], headers[3]["CAM-BIN"]) == ("[101:300,51:150]", 2)
    assert headers[0]["CAMSER"] == "CCD Simulator"
    verdict = subprocess.run(
        ["fitsverify", "-q", *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert verdict.stdout.count("verification OK") == 4, verdict.stdout


def test_abort_is_ready_within_half_a_second(site: Site, server: IndiServer) -> None:
    camera = indi_camera(site, server)

    def abort(exposure_s: float, after_s: float) -> tuple[float, str]:
        camera.call("set_exposure", seconds=exposure_s)
        camera.call("start", count=0)
        eventually(lambda: camera.status()["state"] == "EXPOSING")
        until = time.monotonic() + after_s
        while time.monotonic() < until:
            camera.status()
        before = time.monotonic()
        camera.call("abort")
        eventually(lambda: camera.status()["summary"] == "READY")
        return time.monotonic() - before, f"abort of {exposure_s} s"

    for exposure_s, after_s in ((60.0, 0.3), (0.2, 0.19)):
        assert_soon(partial(abort, exposure_s, after_s), 0.5)
    eventually(lambda: camera.status()["frames_unsaved"] == 0)
    taken = len(images(site))
    camera.call("set_exposure", seconds=0.1)
    assert camera.finish(camera.call("start", count=2), 60)["state"] == "done"
    assert len(images(site)) == taken + 2


def test_a_killed_server_is_told_and_init_brings_the_camera_back(
    site: Site, server: IndiServer
) -> None:
    camera = indi_camera(site, server)
    camera.call("set_exposure", seconds=30)
    reply = camera.call("start", count=1)
    eventually(lambda: camera.status()["state"] == "EXPOSING")
    server.stop()
    snapshot = camera.finish(reply)
    assert (snapshot["state"], snapshot["code"]) == ("failed", "DEVICE_LOST")
    assert camera.status()["summary"] == "STANDBY"
    failed = camera.finish(camera.call("init"), 30)
    assert failed["state"] == "failed"
    assert str(server.port) in failed["message"]
    server.start()
    assert camera.finish(camera.call("init"), 30)["state"] == "done"
    camera.call("set_exposure", seconds=0.1)
    assert camera.finish(camera.call("start", count=1), 60)["state"] == "done"


def test_a_stopped_server_does_not_stop_status_or_abort(site: Site, server: IndiServer) -> None:
    camera = indi_camera(site, server)
    camera.call("set_exposure", seconds=30)

    def abort() -> tuple[float, str]:
        camera.call("start", count=1)
        eventually(lambda: camera.status()["state"] == "EXPOSING")
        server.signal(signal.SIGSTOP)
        try:
            before = time.monotonic()
            camera.call("abort")
            took_s = time.monotonic() - before
            eventually(lambda: camera.status()["summary"] in ("READY", "STANDBY"), 10)
        finally:
            server.signal(signal.SIGCONT)
        return took_s, "abort"

    assert_soon(abort, 0.5)
