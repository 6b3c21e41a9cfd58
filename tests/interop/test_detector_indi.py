# SPDX-License-Identifier: BSD-3-Clause
"""The INDI driver against the real indiserver with its CCD and filter wheel simulators."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from contract.detector import Bench, DetectorContract, make_buffer
from kit.indi import CAMERA, WHEEL, IndiServer, fetch_frame, take_frame, wait_phase
from kit.ports import free_ports
from kit.site import eventually
from kit.soon import assert_soon
from nightjar.clock import NS_PER_S, SystemClock
from nightjar.errors import Code, DeviceError, DeviceNotFound, Refused
from nightjar.indi.protocol import Blob
from nightjard.camd.drivers import make_detector
from nightjard.camd.drivers.base import Phase, Range, Readout, Settings
from nightjard.camd.drivers.indi import IndiDetector
from nightjard.camd.drivers.options import IndiOptions
from nightjard.camd.geometry import Region

pytestmark = pytest.mark.needs("indiserver", "indi_simulator_ccd", "indi_simulator_wheel")
Make = Callable[..., IndiDetector]
# The simulator adds noise of 0..9 ADU, uniform, to the offset.
NOISE_MEAN = 4.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndiServer]:
    running = IndiServer(
        tmp_path_factory.mktemp("indi"), *free_ports(1), "indi_simulator_ccd",
        "indi_simulator_wheel",
    )  # fmt: skip
    running.start()
    yield running
    running.stop()


@pytest.fixture
def make(server: IndiServer) -> Iterator[Make]:
    made: list[IndiDetector] = []

    def maker(**options: object) -> IndiDetector:
        # A simulator that is held up is not silent.
        patient = {"reply_timeout": 15.0, "call_timeout": 20.0}
        options = {"device": CAMERA, "filter_wheel": WHEEL, **patient, **options}
        chosen = IndiOptions(name="indi", host="127.0.0.1", port=server.port, **options)
        made.append(IndiDetector(chosen, 0, SystemClock()))
        return made[-1]

    yield maker
    for detector in made:
        detector.close()


def resolution(width: int, height: int) -> dict[str, object]:
    members = {"SIM_XRES": float(width), "SIM_YRES": float(height)}
    return {
        "properties_at_open": [
            {"vector": "SIMULATOR_SETTINGS", "members": members},
            # It looks once in this time whether an exposure has ended; 1 s by default.
            {"vector": "POLLING_PERIOD", "members": {"PERIOD_MS": 20.0}},
        ]
    }


SMALL = resolution(1280, 1024)


class TestContract(DetectorContract):
    """The checks that every driver must pass."""

    @pytest.fixture
    def bench(self, make: Make) -> Bench:
        return Bench(
            make=lambda: make(**resolution(512, 512)),
            make_missing=lambda: make(device="Big Camera", connect_timeout=0.5),
        )


def settings(exposure_s: float = 0.05, **more: object) -> Settings:
    return Settings(round(exposure_s * NS_PER_S), **more)  # type: ignore[arg-type]


def test_open_says_what_the_camera_is(make: Make) -> None:
    capabilities = make(**SMALL).open()
    assert capabilities.model == CAMERA
    assert capabilities.readout == capabilities.image_region == Region(1, 1280, 1, 1024)
    assert capabilities.exposure_s == Range(0.01, 3600.0)
    assert capabilities.gain == Range(0, 100)
    assert capabilities.cooler == "setpoint"
    assert capabilities.setpoint_c == Range(-50, 50)
    assert capabilities.binnings == (1, 2, 3, 4)
    assert capabilities.has_window
    assert not capabilities.has_frame_id
    assert len(capabilities.filters) == 8
    assert len(set(capabilities.filters)) == 8


def test_pixels_are_those_of_the_fits_image(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = make(**SMALL)
    sent: list[bytes] = []
    take_blob = detector._tracker.take_blob

    def listen(blob: Blob) -> None:
        sent.append(bytes(blob.data[: blob.size]))
        take_blob(blob)

    monkeypatch.setattr(detector._tracker, "take_blob", listen)
    detector.open()
    readout = detector.configure(settings(0.2, gain=7, offset=1000))
    assert readout == Readout(Region(1, 1280, 1, 1024))
    before_ns = time.time_ns()
    pixels, record = take_frame(detector, readout)
    after_ns = time.time_ns()
    (blob,) = sent
    with fits.open(io.BytesIO(blob)) as units:
        assert (units[0].data == pixels).all()
        assert record.cards["INDIDATE"][0] == units[0].header["DATE-OBS"]
        driver_start_ns = np.datetime64(units[0].header["DATE-OBS"], "ns").astype(int)
    assert pixels.mean() == pytest.approx(1000 + NOISE_MEAN, abs=1.5)
    assert before_ns <= record.start_ns <= record.end_ns <= record.read_end_ns <= after_ns
    assert record.end_ns - record.start_ns == 200_000_000
    assert record.time_source == "PC"
    # The server shares our clock, so its own stamp must lie within our bound (1 ms is its step).
    assert record.time_error_ns is not None
    assert -2_000_000 <= driver_start_ns - record.start_ns <= record.time_error_ns + 2_000_000


def test_phases_of_an_exposure(make: Make) -> None:
    detector = make(**SMALL)
    detector.open()
    detector.configure(settings(60.0))
    assert detector.poll() == (Phase.IDLE, 0)
    begin_ns = time.monotonic_ns()
    detector.start()
    progress = detector.poll()
    assert progress.phase is Phase.EXPOSING
    assert progress.elapsed_ns <= time.monotonic_ns() - begin_ns
    with pytest.raises(DeviceError) as refused:
        detector.configure(settings())
    assert refused.value.code is Code.NOT_IDLE
    detector.abort()
    readout = detector.configure(settings(0.3))
    detector.start()
    wait_phase(detector, Phase.READY)
    fetch_frame(detector, readout)
    assert detector.poll().phase is Phase.IDLE
    with pytest.raises(DeviceError, match="no frame"):
        fetch_frame(detector, readout)


def test_16_megapixels(make: Make) -> None:
    detector = make(**resolution(4096, 4096))
    assert detector.open().readout == Region(1, 4096, 1, 4096)
    readout = detector.configure(settings(0.1, offset=300))
    for _ in range(2):  # the second reuses the memory of the first
        pixels, _ = take_frame(detector, readout)
        assert pixels.shape == (4096, 4096)
        assert pixels.min() >= 300
        assert pixels.mean() == pytest.approx(300 + NOISE_MEAN, abs=1.5)


@pytest.mark.parametrize(
    ("window", "binning", "method", "expected"),
    [
        (Region(101, 500, 201, 500), 1, "sum", Readout(Region(101, 500, 201, 500), 1)),
        (Region(101, 500, 201, 500), 2, "sum", Readout(Region(101, 500, 201, 500), 2)),
        (None, 4, "sum", Readout(Region(1, 1280, 1, 1024), 4)),
        (None, 2, "mean", Readout(Region(1, 1280, 1, 1024), 1)),
        (None, 8, "sum", Readout(Region(1, 1280, 1, 1024), 1)),
        (Region(1280, 1280, 1024, 1024), 1, "sum", Readout(Region(1280, 1280, 1024, 1024), 1)),
    ],
)
def test_window_and_binning(
    make: Make, window: Region | None, binning: int, method: str, expected: Readout
) -> None:
    detector = make(**SMALL)
    detector.open()
    readout = detector.configure(
        settings(window=window, binning=binning, binning_method=method, offset=0)
    )
    assert readout == expected
    pixels, _ = take_frame(detector, readout)
    assert pixels.shape == expected.shape
    assert pixels.max() < 0xAAAA


def test_settings_of_one_exposure_do_not_stay(make: Make) -> None:
    detector = make(**SMALL)
    detector.open()
    detector.configure(settings(window=Region(1, 64, 1, 64), binning=4))
    readout = detector.configure(settings())
    assert readout == Readout(Region(1, 1280, 1, 1024))
    assert take_frame(detector, readout)[0].shape == (1024, 1280)


def test_device_binning_can_be_left_to_the_daemon(make: Make) -> None:
    detector = make(**SMALL, device_binning=False)
    assert detector.open().binnings == (1,)
    assert detector.configure(settings(binning=2)).binning == 1


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"exposure_s": 3601.0}, Code.OUT_OF_RANGE),
        ({"exposure_s": 0.0}, Code.OUT_OF_RANGE),
        ({"gain": 101}, Code.OUT_OF_RANGE),
        ({"offset": -1}, Code.OUT_OF_RANGE),
        ({"window": Region(1, 1281, 1, 1024)}, Code.WINDOW_OUT_OF_BOUNDS),
        ({"stream": True}, Code.UNSUPPORTED),
    ],
)
def test_settings_out_of_range_are_refused(
    make: Make, wrong: dict[str, object], code: Code
) -> None:
    detector = make(**SMALL)
    detector.open()
    with pytest.raises(Refused) as refused:
        detector.configure(settings(**wrong))  # type: ignore[arg-type]
    assert refused.value.code is code
    take_frame(detector, detector.configure(settings()))


def test_cooler(make: Make) -> None:
    detector = make(**SMALL)
    detector.open()
    start_c = detector.telemetry().temperature_c
    assert start_c is not None
    detector.set_cooler_target(start_c - 1.0)
    deadline = time.monotonic() + 10.0
    while (detector.telemetry().temperature_c or 0.0) > start_c - 0.9:
        assert time.monotonic() < deadline, detector.telemetry()
        time.sleep(0.02)
    detector.set_cooler_target(None)
    assert detector.telemetry().fault is None
    with pytest.raises(Refused) as refused:
        detector.set_cooler_target(-51.0)
    assert refused.value.code is Code.OUT_OF_RANGE
    with pytest.raises(Refused) as refused:
        detector.set_cooler_power(10)
    assert refused.value.code is Code.UNSUPPORTED


def test_filter_wheel(make: Make) -> None:
    detector = make(**SMALL)
    names = detector.open().filters
    for name in (names[3], names[0]):
        detector.move_filter(name)
        deadline = time.monotonic() + 10.0
        while detector.telemetry().filter != name:
            assert time.monotonic() < deadline, detector.telemetry()
            time.sleep(0.02)
    with pytest.raises(Refused, match=names[3]) as refused:
        detector.move_filter("no such filter")
    assert refused.value.code is Code.UNKNOWN_FILTER


def test_camera_without_wheel(make: Make) -> None:
    detector = make(**SMALL, filter_wheel=None)
    assert detector.open().filters == ()
    assert detector.telemetry().filter is None
    with pytest.raises(Refused):
        detector.move_filter("Red")


def test_abort_of_a_long_exposure_and_the_next_one_at_once(make: Make) -> None:
    detector = make(**SMALL)
    detector.open()

    def abort() -> tuple[float, str]:
        detector.configure(settings(600.0))
        detector.start()
        detector.poll()
        begin = time.monotonic()
        detector.abort()
        aborted_s = time.monotonic() - begin
        assert detector.poll().phase is Phase.IDLE
        readout = detector.configure(settings(0.05))
        take_frame(detector, readout)
        # No image of the long one can come: nothing has to be waited for.
        return max((aborted_s, "abort"), ((time.monotonic() - begin) / 10, "a tenth of all"))

    assert_soon(abort, 0.2)
    detector.abort()  # harmless when idle
    assert detector.poll().phase is Phase.IDLE


def test_image_of_an_aborted_exposure_is_never_the_next_frame(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aborts around the end of an exposure; the offset tells of which exposure a frame is."""
    detector = make(**resolution(4096, 4096))
    tracker, take_blob = detector._tracker, detector._tracker.take_blob
    come, passing = threading.Event(), threading.Event()
    passing.set()

    def listen(blob: Blob) -> None:
        come.set()
        assert passing.wait(15.0)
        take_blob(blob)

    monkeypatch.setattr(tracker, "take_blob", listen)
    detector.open()
    take_frame(detector, detector.configure(settings()))  # tells how long a read-out takes
    for number, late_s in enumerate((0.0, None)):
        detector.configure(settings(0.2, offset=5000))
        detector.start()
        begin = time.monotonic()
        if late_s is None:  # when its image has come, but nobody has taken it yet
            come.clear()
            passing.clear()
            assert come.wait(15.0)
            dropped_before = tracker.dropped
        else:
            while time.monotonic() < begin + 0.2 + late_s:
                detector.poll()
                time.sleep(0.001)
        detector.abort()
        passing.set()
        assert detector.poll().phase is Phase.IDLE
        readout = detector.configure(settings(0.2, offset=100 * number))
        pixels, _ = take_frame(detector, readout)
        assert pixels.mean() == pytest.approx(100 * number + NOISE_MEAN, abs=1.5)
    assert tracker.dropped == dropped_before + 1


def test_in_a_child_process(server: IndiServer, tmp_path: Path) -> None:
    options = IndiOptions(
        name="indi", host="127.0.0.1", port=server.port, device=CAMERA, **resolution(512, 512)
    )
    detector = make_detector(options, 0, SystemClock())
    try:
        assert detector.open().readout == Region(1, 512, 1, 512)
        readout = detector.configure(settings(offset=50))
        detector.start()
        wait_phase(detector, Phase.READY)
        buffer = make_buffer(tmp_path, readout.shape)
        detector.fetch(buffer, lambda: False)
        assert buffer.array.mean() == pytest.approx(50 + NOISE_MEAN, abs=1.5)
    finally:
        detector.close()


def test_close_and_open_again_in_mid_exposure(make: Make) -> None:
    detector = make(**SMALL)
    detector.close()
    detector.open()
    detector.configure(settings(600.0))
    detector.start()
    detector.close()
    detector.close()
    with pytest.raises(DeviceError) as refused:
        detector.poll()
    assert refused.value.code is Code.NOT_INITIALIZED
    detector.open()
    assert detector.poll().phase is Phase.IDLE
    take_frame(detector, detector.configure(settings()))


def test_exposure_left_behind_by_a_killed_process_is_ended_at_open(make: Make) -> None:
    first, second = make(**SMALL), make(**SMALL)
    first.open()
    first.configure(settings(600.0))
    first.start()
    assert first._client is not None
    first._client.wait(
        lambda: first._tracker.current and first._tracker.current.confirmed_ns, 5.0, "answer"
    )
    first._client.close()  # as the kernel does for a dead process: no abort
    second.open()
    take_frame(second, second.configure(settings()))


def test_missing_device_is_reported_with_those_that_are_there(make: Make) -> None:
    def is_told() -> bool:  # as soon as those that are there have told of themselves
        with pytest.raises(DeviceNotFound, match="'Big Camera'") as missing:
            make(device="Big Camera", connect_timeout=0.5).open()
        return all(f"'{name}'" in missing.value.message for name in (CAMERA, WHEEL))

    eventually(is_told)
    with pytest.raises(DeviceNotFound, match="'Big Wheel'"):
        make(filter_wheel="Big Wheel", connect_timeout=0.5).open()


def test_device_that_is_no_camera(make: Make) -> None:
    def is_told() -> bool:  # as soon as the wheel has told of itself
        with pytest.raises(DeviceError) as refused:
            make(device=WHEEL, connect_timeout=0.5).open()
        said = refused.value.message
        return "no property CCD_INFO" in said and "right device" in said.split("CCD_INFO")[1]

    eventually(is_told)


def test_unknown_property_at_open_is_reported(make: Make) -> None:
    with pytest.raises(DeviceError, match="no property NO_SUCH"):
        make(properties_at_open=[{"vector": "NO_SUCH", "members": {"A": 1.0}}]).open()
    with pytest.raises(DeviceError, match=r"no member 'A'.*SIM_XRES"):
        make(properties_at_open=[{"vector": "SIMULATOR_SETTINGS", "members": {"A": 1.0}}]).open()


def test_no_server(tmp_path: Path, free_port: int) -> None:
    options = IndiOptions(name="indi", host="127.0.0.1", port=free_port, device=CAMERA)
    with pytest.raises(DeviceNotFound, match=rf"127.0.0.1:{free_port}.*is indiserver running"):
        IndiDetector(options, 0, SystemClock()).open()
