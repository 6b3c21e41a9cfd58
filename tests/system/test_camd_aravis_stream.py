# SPDX-License-Identifier: BSD-3-Clause
"""A camera daemon that streams from the real simulated GigE Vision camera."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.aravis import ADDRESS, PROGRAMS, UNIT_EXPOSURE_S, GvCamera, expected, the_port
from kit.site import Daemon, Site, eventually
from nightjar.streams.reader import Frame, StreamReader

pytestmark = [
    pytest.mark.needs(*PROGRAMS),
    pytest.mark.skipif(
        importlib.util.find_spec("gi") is None,
        reason="needs PyGObject: pip install 'nightjar[aravis]' (make native)",
    ),
]
BOX = [201, 300, 101, 160]


@pytest.fixture
def camera() -> Iterator[GvCamera]:
    with the_port():
        running = GvCamera()
        running.start()
        yield running
        running.kill()


@pytest.fixture
def site(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Site]:
    site = Site(tmp_path / "site", free_ports(4))
    yield site
    site.close()


def config() -> dict[str, Any]:
    return {
        "daemon": "camera", "mode": "stream", "log_name": "camd@gige", "camera_id": "GIGE",
        "control_machines": ["LocalHost"], "stream": "gige",
        "source": {"name": "aravis", "address": ADDRESS, "pixel_format": "Mono8"},
        "crop": "CORNER", "crops": {"CORNER": [1, 120, 1, 80], "BOX": BOX},
        "exposure": UNIT_EXPOSURE_S, "rate": 50.0, "ring_seconds": 1.0, "autostart": True,
    }  # fmt: skip


def take(reader: StreamReader, count: int) -> list[Frame]:
    return [frame for frame, _ in zip(reader.frames(timeout_s=10.0), range(count), strict=False)]


def status_by_cam(site: Site) -> dict[str, Any]:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("cam")), "gige", "status", "--json"],
        env={**os.environ, "NIGHTJAR_CONFIG_ROOT": str(site.etc)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    status: dict[str, Any] = json.loads(done.stdout)
    return status


def is_streaming(daemon: Daemon) -> bool:
    status = daemon.status()
    return bool(status["state"] == "STREAMING" and status["frames_published"])


def test_frames_reach_readers_through_a_crop_change_and_a_pulled_cable(
    camera: GvCamera, site: Site
) -> None:
    daemon = site.start("camd", "gige", config())
    eventually(lambda: is_streaming(daemon), 15.0, "frames come")
    with StreamReader("gige") as reader:
        taken = take(reader, 20)
        offset = daemon.status()["hardware_offset"]
        assert taken[0].data.shape == (80, 120)
        for frame in taken:
            wanted = expected(frame.counter + offset, (80, 120), np.uint8)
            np.testing.assert_array_equal(frame.data, wanted)
        stamps = np.array([frame.atime_ns for frame in taken])
        assert np.median(np.diff(stamps)) == pytest.approx(2e7, rel=0.05)
        eventually(lambda: "DET-BITS" in reader.keywords(), 5.0, "keyword")
        assert reader.keywords()["DET-BITS"].value == 8
        assert reader.keywords()["CLK-ERR"].value >= 0

        assert daemon.finish(daemon.call("set_crop", crop="BOX"))["state"] == "done"
        eventually(lambda: take(reader, 1)[0].data.shape == (60, 100), 5.0, "the new crop")
        status = status_by_cam(site)
        assert status["model"] == "Aravis Fake"
        assert status["serial"] == camera.serial
        assert status["window"] == BOX
        assert (status["frames_lost"], status["frames_incomplete"]) == (0, 0)

        camera.kill()
        lost = eventually(
            lambda: (status := daemon.status())["health"]["level"] != "OK" and status,
            10.0, "the loss is told",
        )  # fmt: skip
        assert "does not answer any more" in lost["last_error"]["message"]
        camera.start()
        eventually(lambda: is_streaming(daemon), 20.0, "it streams again by itself")
        eventually(lambda: take(reader, 1)[0].data.shape == (60, 100), 10.0, "frames again")
    assert daemon.status()["health"]["level"] == "OK"
    assert daemon.stop() == 0
