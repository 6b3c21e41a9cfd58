# SPDX-License-Identifier: BSD-3-Clause
"""The Atik driver against a stand-in library: the detector contract, pixels, and faults.

No camera and no vendor library takes part. What passes here follows the SDK's header as the
stand-in's author read it.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.detector import Bench, DetectorContract, make_buffer, never
from kit.held_up import HeldUpClock
from nightjar.clock import Clock, ManualClock, SystemClock
from nightjar.errors import (
    Code,
    DeviceError,
    DeviceLost,
    DeviceNotFound,
    DeviceWedged,
    FrameInvalid,
)
from nightjard.camd.drivers import make_detector
from nightjard.camd.drivers.atik import AtikDetector
from nightjard.camd.drivers.base import Detector, Phase, Range, Readout, Settings
from nightjard.camd.drivers.isolated import IsolatedDetector
from nightjard.camd.drivers.options import AtikOptions
from nightjard.camd.geometry import Region

pytestmark = pytest.mark.needs("gcc")
SOURCE = Path(__file__).parent.parent / "kit" / "atik_standin.c"
SERIAL = "24680"
SENSOR = Region(1, 96, 1, 72)
OFFSET = 100  # of a stand-in whose offset nobody has set
SHORT = Settings(20_000_000)
HOUR = Settings(3600 * 1_000_000_000)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("gcc")
    assert compiler is not None
    path = tmp_path_factory.mktemp("atik") / "libatikstandin.so"
    subprocess.run(
        [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC",
         "-o", str(path), str(SOURCE)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return str(path)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes the stand-in fail from now on; "" for no more."""
    return lambda kind: monkeypatch.setenv("ATIK_STANDIN_FAULT", kind)


Make = Callable[..., AtikDetector]


@pytest.fixture
def make(library: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[AtikDetector] = []

    def maker(
        serial: int | str = SERIAL, clock: Clock | None = None, **options: Any
    ) -> AtikDetector:
        chosen = AtikOptions(name="atik", **{"library": library, **options})
        made.append(AtikDetector(chosen, serial, clock or SystemClock()))
        return made[-1]

    yield maker
    monkeypatch.setenv("ATIK_STANDIN_FAULT", "")
    for detector in made:
        detector.close()


class TestSetpointCooler(DetectorContract):
    @pytest.fixture
    def bench(self, make: Make) -> Bench:
        return Bench(
            make=lambda: make(filters=["B", "V", "R"]), make_missing=lambda: make("999"),
            exposure_s=0.02,
        )  # fmt: skip


class TestPowerCooler(DetectorContract):
    @pytest.fixture
    def bench(self, make: Make) -> Bench:
        return Bench(make=lambda: make(cooler_control="power"), exposure_s=0.02)


def pattern(frame: int, window: Region, binning: int, offset: int) -> NDArray[np.int64]:
    """Return the pixels of the stand-in (see its first lines), worked out another way."""
    columns = np.arange(window.x1 - 1, window.x2)
    rows = np.arange(window.y1 - 1, window.y2)
    full = offset + (columns[None, :] + 3 * rows[:, None] + 17 * frame) % 1000
    height, width = window.height // binning, window.width // binning
    blocks = full[: height * binning, : width * binning].reshape(height, binning, width, binning)
    return np.minimum(blocks.sum(axis=(1, 3)), 65535)


def wait_ready(detector: AtikDetector, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while detector.poll().phase is not Phase.READY:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def take(detector: AtikDetector, readout: Readout, folder: Path) -> NDArray[np.uint16]:
    detector.start()
    wait_ready(detector)
    buffer = make_buffer(folder, readout.shape)
    detector.fetch(buffer, never)
    return buffer.array


def test_capabilities(make: Make) -> None:
    capabilities = make(filters=["B", "V"]).open()
    assert capabilities.model == "Atik Stand-in"
    assert capabilities.serial == SERIAL
    assert capabilities.readout == SENSOR
    assert capabilities.gain == Range(0, 60)
    assert capabilities.offset == Range(0, 511)
    assert capabilities.binnings == (1, 2, 3, 4)
    assert capabilities.setpoint_c == Range(-40, 20)
    assert capabilities.sdk_version == "20200904"
    assert capabilities.filters == ("B", "V")


@pytest.mark.parametrize(
    ("window", "binning"),
    [(SENSOR, 1), (Region(11, 40, 21, 60), 1), (Region(11, 40, 21, 60), 2), (SENSOR, 4),
     (Region(96, 96, 72, 72), 1), (Region(1, 7, 1, 7), 3)],
)  # fmt: skip
def test_pixels_frame_by_frame(make: Make, tmp_path: Path, window: Region, binning: int) -> None:
    detector = make()
    detector.open()
    readout = detector.configure(
        Settings(1_000_000, window=window, binning=binning, offset=200, gain=5)
    )
    assert readout == Readout(window, binning)
    for frame in (1, 2, 3):
        pixels = take(detector, readout, tmp_path)
        assert (pixels == pattern(frame, window, binning, 200)).all()


def test_serials_that_are_there_are_listed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATIK_STANDIN_SERIALS", "111,222,333")
    with pytest.raises(DeviceNotFound, match=r"serial 999; there are: 111 \(.*222 \(.*333 \("):
        make(999).open()
    assert make(222).open().serial == "222"
    assert make("333").open().serial == "333"
    with pytest.raises(DeviceNotFound, match="exactly one Atik camera; there are: 111"):
        make(0, ignore_serial=True).open()
    monkeypatch.setenv("ATIK_STANDIN_SERIALS", "8675309")
    assert make(0, ignore_serial=True).open().serial == "8675309"


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("absent", DeviceNotFound, "with serial 24680; there are: none"),
        ("in_use", DeviceError, "in use by another program"),
        ("connect", DeviceError, "refuses the connection"),
        ("code:ArtemisProperties", DeviceError, "ArtemisProperties .* ARTEMIS_OPERATION_FAILED"),
        ("lost", DeviceLost, "ARTEMIS_NOT_CONNECTED"),
    ],
)
def test_opening_that_fails_and_then_works(
    make: Make, fault: Callable[[str], None], kind: str, error: type[Exception], message: str
) -> None:
    detector = make()
    fault(kind)
    with pytest.raises(error, match=message):
        detector.open()
    fault("")
    assert detector.open().serial == SERIAL


@pytest.mark.parametrize("path", ["/nowhere/libatikcameras.so", "libno-such-thing.so"])
def test_missing_library(make: Make, path: str) -> None:
    with pytest.raises(DeviceNotFound, match=f"cannot load the Atik library {path}.*SDK"):
        make(library=path).open()


def test_library_of_another_kind(make: Make) -> None:
    with pytest.raises(DeviceError, match=r"libm\.so\.6 has no function Artemis"):
        make(library="libm.so.6").open()


def test_image_of_zeros_is_refused(
    make: Make, fault: Callable[[str], None], tmp_path: Path
) -> None:
    detector = make()
    detector.open()
    readout = detector.configure(SHORT)
    fault("zero")
    with pytest.raises(FrameInvalid, match="zero everywhere"):
        take(detector, readout, tmp_path)
    fault("")
    assert (take(detector, readout, tmp_path) == pattern(2, SENSOR, 1, OFFSET)).all()


def test_old_image_is_not_taken_for_the_new_one(
    make: Make, fault: Callable[[str], None], tmp_path: Path
) -> None:
    """A library that says "ready" of the last image until the next one is there."""
    detector = make()
    detector.open()
    take(detector, detector.configure(SHORT), tmp_path)
    fault("stale")
    detector.configure(HOUR)
    detector.start()
    assert detector.poll().phase is Phase.EXPOSING
    detector.abort()
    readout = detector.configure(SHORT)
    detector.start()
    wait_ready(detector)
    buffer = make_buffer(tmp_path, readout.shape)
    detector.fetch(buffer, never)
    assert (buffer.array == pattern(2, SENSOR, 1, OFFSET)).all()


@pytest.mark.parametrize(
    ("kind", "message"), [("short", "96 x 71 pixels"), ("no_buffer", "no image buffer")]
)
def test_wrong_image(
    make: Make, fault: Callable[[str], None], tmp_path: Path, kind: str, message: str
) -> None:
    detector = make()
    detector.open()
    readout = detector.configure(SHORT)
    fault(kind)
    with pytest.raises(FrameInvalid, match=message):
        take(detector, readout, tmp_path)
    assert detector.poll().phase is Phase.IDLE


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("state_error", "reports an error"),
        ("no_image", "had no image 0.1 s after the exposure's end"),
        ("idle", "became idle without an image"),
    ],
)
def test_exposure_that_fails(
    make: Make, fault: Callable[[str], None], kind: str, message: str
) -> None:
    detector = make(exposure_margin=20.0 if kind == "idle" else 0.1)
    detector.open()
    detector.configure(Settings(1_500_000_000) if kind == "idle" else SHORT)
    detector.start()
    fault(kind)
    with pytest.raises(DeviceError, match=message):
        wait_ready(detector)
    fault("")
    detector.abort()
    assert detector.poll().phase is Phase.IDLE


def test_camera_that_stays_busy_after_an_abort(
    make: Make, fault: Callable[[str], None]
) -> None:
    clock = ManualClock()
    detector = make(clock=clock, exposure_margin=0.1)
    detector.open()
    detector.configure(SHORT)
    fault("never_idle")
    detector.start()
    clock.advance(0.1)
    assert detector.poll() == (Phase.EXPOSING, 0)
    clock.advance(0.01)
    with pytest.raises(DeviceError, match=r"was not idle within 0\.1 s"):
        detector.poll()
    assert detector.poll().phase is Phase.IDLE


def test_the_error_of_the_start_has_the_time_in_which_we_were_held_up(
    make: Make, tmp_path: Path
) -> None:
    clock = HeldUpClock(2.0)
    detector = make(clock=clock)
    detector.open()
    readout = detector.configure(SHORT)
    offset_ns = ManualClock.now_ns(clock) - clock.monotonic_ns()
    detector.start()
    commanded_ns = clock.monotonic_ns() + offset_ns
    clock.advance(1.0)
    wait_ready(detector)
    record = detector.fetch(make_buffer(tmp_path, readout.shape), never)
    assert record.time_error_ns is not None
    assert record.start_ns <= commanded_ns <= record.start_ns + record.time_error_ns


def test_refused_start_leaves_the_camera_idle(
    make: Make, fault: Callable[[str], None], tmp_path: Path
) -> None:
    detector = make()
    detector.open()
    readout = detector.configure(SHORT)
    fault("code:ArtemisStartExposure")
    with pytest.raises(DeviceError, match=r"ArtemisStartExposure .*OPERATION_FAILED"):
        detector.start()
    fault("")
    assert detector.poll().phase is Phase.IDLE
    take(detector, readout, tmp_path)


def test_lost_camera_and_its_return(
    make: Make, fault: Callable[[str], None], tmp_path: Path
) -> None:
    detector = make()
    detector.open()
    detector.configure(HOUR)
    detector.start()
    fault("lost")
    with pytest.raises(DeviceLost, match="not connected any more; the exposure in course is lost"):
        detector.telemetry()
    fault("")
    detector.open()
    take(detector, detector.configure(SHORT), tmp_path)


def test_loss_is_noticed_by_poll(make: Make, fault: Callable[[str], None]) -> None:
    detector = make()
    detector.open()
    detector.configure(HOUR)
    detector.start()
    fault("lost")
    with pytest.raises(DeviceLost):
        detector.poll()


def test_cooler_without_control(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATIK_STANDIN_COOLING", "1")
    assert make().open().cooler == "none"
    monkeypatch.setenv("ATIK_STANDIN_COOLING", str(1 | 2 | 8))
    capabilities = make().open()
    assert (capabilities.cooler, capabilities.pwm_max) == ("pwm", 255)
    monkeypatch.setenv("ATIK_STANDIN_COOLING", str(1 | 2 | 16))
    assert make(cooler_control="power").open().cooler == "setpoint"


def test_warm_up(make: Make) -> None:
    detector = make()
    detector.open()
    detector.set_cooler_target(12.0)
    deadline = time.monotonic() + 5.0
    while detector.telemetry().temperature_c != 12.0:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    detector.set_cooler_target(None)
    while detector.telemetry().temperature_c != 18.0:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert detector.telemetry().cooler_power == 0.0


def test_options_of_the_camera(make: Make) -> None:
    detector = make(camera_options={"14": 2})
    detector.open()
    assert detector._library is not None
    assert detector._library.read_option(detector._handle, 14, 1) == (2,)
    with pytest.raises(DeviceError, match="has no option 99"):
        make(camera_options={"99": 1}).open()


def test_more_filters_than_places(make: Make) -> None:
    with pytest.raises(DeviceError, match="has 5 places; 6 filters"):
        make(filters=list("ABCDEF")).open()


@pytest.mark.parametrize(
    "wrong",
    [{"library": ""}, {"exposure_min": 2.0, "exposure_max": 1.0}, {"filters": ["B", "B"]},
     {"camera_options": {"x": 1}}, {"camera_options": {"1": 70_000}}, {"serial": "1"}],
)  # fmt: skip
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        AtikOptions(name="atik", **wrong)


def open_and_measure(detector: Detector) -> None:
    detector.open()
    detector.telemetry()


@pytest.mark.parametrize("function", ["ArtemisConnect", "ArtemisTemperatureSensorInfo"])
def test_wedge_in_the_library_ends_the_child_not_the_daemon(
    library: str, fault: Callable[[str], None], function: str
) -> None:
    patient = AtikOptions(name="atik", library=library)
    options = patient.model_copy(update={"call_timeout": 0.5, "open_timeout": 3.0})
    detector = make_detector(options, SERIAL, SystemClock())
    assert isinstance(detector, IsolatedDetector)
    fault(f"wedge:{function}")  # the child inherits it
    try:
        with pytest.raises(DeviceWedged) as wedged:
            open_and_measure(detector)
        assert wedged.value.code is Code.DEVICE_WEDGED
        fault("")
        detector.options = patient
        assert detector.open().serial == SERIAL
        assert detector.telemetry().temperature_c is not None
    finally:
        detector.close()
