# SPDX-License-Identifier: BSD-3-Clause
"""The INDI driver while the real indiserver, or its camera driver, dies, stops and comes back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.indi import CAMERA, IndiServer, take_frame, wait_phase
from nightjar.clock import NS_PER_S, SystemClock
from nightjar.errors import DeviceError, DeviceLost
from nightjard.camd.drivers.base import FrameBuffer, Phase, Settings
from nightjard.camd.drivers.indi import IndiDetector
from nightjard.camd.drivers.options import IndiOptions

pytestmark = pytest.mark.needs("indiserver", "indi_simulator_ccd")
SHORT = Settings(50_000_000)
LONG = Settings(600 * NS_PER_S)


@pytest.fixture
def server(tmp_path: Path, free_port: int) -> Iterator[IndiServer]:
    running = IndiServer(tmp_path, free_port, "indi_simulator_ccd")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def detector(server: IndiServer) -> Iterator[IndiDetector]:
    options = IndiOptions(
        name="indi", host="127.0.0.1", port=server.port, device=CAMERA,
        call_timeout=30.0, answer_timeout=20.0, reply_timeout=20.0, exposure_margin=5.0,
    )  # fmt: skip
    made = IndiDetector(options, 0, SystemClock())
    made.open()
    yield made
    made.close()


@contextmanager
def impatience(detector: IndiDetector) -> Iterator[None]:
    """Have silence end soon, where it is on purpose."""
    patient = detector._options
    short = patient.model_copy(update={"answer_timeout": 0.5, "reply_timeout": 0.5})
    assert detector._device is not None
    detector._options = detector._device.options = short
    yield
    detector._options = patient  # for the device that is opened next


def until_lost(call: Callable[[], object], timeout_s: float = 10.0) -> DeviceLost:
    """Call until DeviceLost comes; no single call may take long."""
    deadline = time.monotonic() + timeout_s
    while True:
        begin = time.monotonic()
        try:
            call()
        except DeviceLost as lost:
            assert time.monotonic() - begin < 1.0
            return lost
        assert time.monotonic() - begin < 1.0
        assert time.monotonic() < deadline, "the loss was never noticed"
        time.sleep(0.01)


def test_killed_server_loses_the_exposure_and_says_so(
    server: IndiServer, detector: IndiDetector
) -> None:
    detector.configure(LONG)
    detector.start()
    server.stop()
    lost = until_lost(detector.poll)
    assert f"127.0.0.1:{server.port}" in lost.message
    assert "the exposure in course is lost" in lost.message
    # Told once; from then on it is only gone.
    for call in (detector.poll, detector.telemetry, detector.start):
        with pytest.raises(DeviceLost) as again:
            call()
        assert "exposure" not in again.value.message
    detector.abort()
    with pytest.raises(DeviceError, match=r"is indiserver running\?"):
        detector.open()

    server.start()
    detector.open()
    pixels, _ = take_frame(detector, detector.configure(SHORT))
    assert pixels.max() < 100


def test_frame_that_has_come_survives_the_server(
    server: IndiServer, detector: IndiDetector
) -> None:
    import numpy as np

    readout = detector.configure(SHORT)
    detector.start()
    wait_phase(detector, Phase.READY)
    server.stop()
    assert detector.poll().phase is Phase.READY
    pixels = np.full(readout.shape, 0xAAAA, np.uint16)
    detector.fetch(FrameBuffer("", 0, pixels), lambda: False)
    assert pixels.max() < 100
    until_lost(detector.poll)


def test_stopped_server_is_noticed_by_its_silence(
    server: IndiServer, detector: IndiDetector
) -> None:
    detector.configure(SHORT)
    server.signal(signal.SIGSTOP)
    with impatience(detector):
        begin = time.monotonic()
        with pytest.raises(DeviceError, match="did not confirm CCD_BINNING in time"):
            detector.configure(Settings(50_000_000, binning=2))
        assert time.monotonic() - begin < 1.0
        lost = until_lost(detector.telemetry)
    assert "no answer for 0.5 s" in lost.message
    server.signal(signal.SIGCONT)
    detector.open()
    take_frame(detector, detector.configure(SHORT))


def test_server_that_stops_in_mid_exposure(server: IndiServer, detector: IndiDetector) -> None:
    detector.configure(LONG)
    detector.start()
    detector.poll()
    server.signal(signal.SIGSTOP)
    with impatience(detector):
        lost = until_lost(detector.poll)
    assert "no answer" in lost.message
    assert "the exposure in course is lost" in lost.message
    server.signal(signal.SIGCONT)
    detector.open()  # ends the exposure that goes on in the camera
    take_frame(detector, detector.configure(SHORT))


def test_crash_of_the_camera_driver(server: IndiServer, detector: IndiDetector) -> None:
    detector.configure(LONG)
    detector.start()
    assert detector._client is not None
    crash = detector._client.find(CAMERA, "CCD_SIMULATE_CRASH")
    assert crash is not None
    detector._client.set(crash, {"CRASH": True})
    lost = until_lost(detector.poll)
    assert f"withdrew device {CAMERA}; its driver has ended" in lost.message
    assert "the exposure in course is lost" in lost.message
    detector.open()  # indiserver has started the driver again
    take_frame(detector, detector.configure(SHORT))


def test_other_client_disconnects_the_camera(server: IndiServer, detector: IndiDetector) -> None:
    options = IndiOptions(name="indi", host="127.0.0.1", port=server.port, device=CAMERA)
    other = IndiDetector(options, 0, SystemClock())
    other.open()
    assert other._client is not None
    connection = other._client.find(CAMERA, "CONNECTION")
    assert connection is not None
    other._client.set(connection, {"DISCONNECT": True})
    lost = until_lost(detector.poll)
    assert "was disconnected by another client" in lost.message
    other.close()
    detector.open()
    take_frame(detector, detector.configure(SHORT))
