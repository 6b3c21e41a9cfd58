# SPDX-License-Identifier: BSD-3-Clause
"""The aravis source against the real simulated GigE Vision camera, on the loopback."""

from __future__ import annotations

import importlib.util
import math
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.aravis import (
    ADDRESS,
    FIRST_ID,
    PROGRAMS,
    UNIT_EXPOSURE_S,
    GvCamera,
    description,
    expected,
    frames,
    genicam_with_mono12,
    the_port,
)
from kit.soon import assert_soon
from nightjar.clock import NS_PER_S, SystemClock
from nightjar.errors import Busy, Code, DeviceError, DeviceLost, DeviceNotFound, Refused
from nightjard.camd.fast import aravis_library
from nightjard.camd.fast.aravis import AravisSource
from nightjard.camd.fast.aravis_options import AravisOptions
from nightjard.camd.fast.source import FrameSource, SourceFrame, SourceSettings
from nightjard.camd.geometry import Region

pytestmark = [
    pytest.mark.needs(*PROGRAMS),
    pytest.mark.skipif(
        importlib.util.find_spec("gi") is None,
        reason="needs PyGObject: pip install 'nightjar[aravis]' (make native)",
    ),
]
Make = Callable[..., AravisSource]
SMALL = Region(1, 64, 1, 48)
LOST_WITHIN_S = 8.0
PATIENT = 4096  # frames that wait while the test is held up


@pytest.fixture
def camera(request: pytest.FixtureRequest) -> Iterator[GvCamera]:
    with the_port():
        running = GvCamera(*getattr(request, "param", ()))
        running.start()
        yield running
        running.kill()


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[AravisSource] = []

    def maker(**options: Any) -> AravisSource:
        if not {"device", "serial", "address"} & set(options):
            options["address"] = ADDRESS
        made.append(AravisSource(AravisOptions(**options), SystemClock()))
        return made[-1]

    yield maker
    for source in made:
        source.close()
    assert aravis_library.wait_for_releases(15.0)


def settings(region: Region = SMALL, mode: str = "Mono8", **more: Any) -> SourceSettings:
    values = {"exposure_s": UNIT_EXPOSURE_S, "rate_hz": 100.0, **more}
    return SourceSettings(region, mode, **values)


def slot_for(source: FrameSource, wanted: SourceSettings) -> np.ndarray[Any, Any]:
    geometry = source.configure(wanted)
    return np.full(geometry.shape, 0xAA, geometry.pixel_type)


# ---------------------------------------------------------------- finding


def test_open_says_what_the_camera_is(camera: GvCamera, make: Make) -> None:
    capabilities = make(trigger_source="Line0").open()
    assert capabilities.model == "Aravis Fake"
    assert capabilities.serial == camera.serial
    assert capabilities.sensor == (2048, 2048)
    assert capabilities.readout_modes == ("Mono16", "Mono8")
    assert capabilities.pixel_type == "uint16"
    assert capabilities.exposure_s == (1e-5, 10.0)
    assert capabilities.rate_hz is not None
    assert capabilities.rate_hz.low == 0.1
    assert capabilities.has_external_trigger


def test_camera_is_found_by_serial_and_a_wrong_one_names_what_is_there(
    camera: GvCamera, make: Make
) -> None:
    source = make(serial=camera.serial)
    assert source.open().serial == camera.serial
    with pytest.raises(DeviceNotFound, match=f"serial number 4711; there are: .*{camera.serial}"):
        make(serial="4711").open()
    with pytest.raises(DeviceNotFound, match=f"no camera Nikon-9.*{camera.serial}"):
        make(device="Nikon-9").open()


def test_no_camera_at_that_address(make: Make) -> None:
    with the_port(), pytest.raises(DeviceNotFound, match=r"127\.0\.0\.1.*same network"):
        make().open()


def test_list_names_the_camera(camera: GvCamera) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nightjard.camd.fast.aravis", "--list"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"serial {camera.serial}" in done.stdout
    assert ADDRESS in done.stdout


def test_camera_that_another_program_has_is_not_taken(
    camera: GvCamera, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aravis_library, "CONTROL_TIMEOUT_S", 0.0)
    first = make()
    first.open()
    with pytest.raises(DeviceError, match="another program controls camera"):
        make().open()
    slot = slot_for(first, settings())
    first.start()
    frames(first, slot, 2)


# ---------------------------------------------------------------- frames


def test_every_frame_arrives_once_with_its_pixels_across_the_overflow_of_its_number(
    camera: GvCamera, make: Make
) -> None:
    source = make(pixel_format="Mono8", buffers=PATIENT)
    source.open()
    wanted = settings(Region(11, 110, 21, 70), rate_hz=None)
    slot = slot_for(source, wanted)
    assert slot.shape == (50, 100)
    assert slot.dtype == np.uint8

    late_ns = []

    def look(frame: SourceFrame) -> None:
        late_ns.append(abs(time.time_ns() - frame.start_ns))
        np.testing.assert_array_equal(slot, expected(frame.hardware_id, slot.shape, np.uint8))

    source.start()
    taken = frames(source, slot, 150, look=look)
    ids = [frame.hardware_id for frame in taken]
    assert ids == list(range(FIRST_ID, FIRST_ID + 150))
    assert not any(frame.lost_before or frame.is_incomplete for frame in taken)
    starts = np.array([frame.start_ns for frame in taken])
    assert min(late_ns) < NS_PER_S // 2
    assert np.median(np.diff(starts)) == pytest.approx(1e7, rel=0.02)  # exposure: 100 Hz at most
    assert all(frame.atime_ns - frame.start_ns == 10_000_000 for frame in taken)
    telemetry = source.telemetry()
    assert telemetry["frames_received"] == 150
    assert telemetry["significant_bits"] == 8
    assert telemetry["buffer_underruns"] == 0


def test_16_bit_pixels_and_another_crop_after_a_stop(camera: GvCamera, make: Make) -> None:
    source = make(packet_size=8000)
    source.open()
    for region in (Region(1, 536, 1, 536), Region(201, 400, 101, 160)):
        slot = slot_for(source, settings(region, "Mono16", rate_hz=50.0))
        assert slot.dtype == np.uint16
        source.start()
        (*_, last) = frames(source, slot, 4)
        assert not last.is_incomplete
        np.testing.assert_array_equal(slot, expected(last.hardware_id, slot.shape, np.uint16))
        with pytest.raises(Busy, match="region needs a stop"):
            source.configure(settings(SMALL, "Mono16"))
        source.stop()
    assert source.telemetry()["packet_size"] == 8000


def test_exposure_and_rate_change_while_it_streams(camera: GvCamera, make: Make) -> None:
    source = make(pixel_format="Mono8", buffers=PATIENT)
    source.open()
    slot = slot_for(source, settings(rate_hz=20.0))
    source.start()
    seen: list[SourceFrame] = []

    def assert_period(count: int, period_ns: float) -> None:
        found_ns = []
        for _ in range(5):  # the simulator is a process of this machine, too, and is held up
            seen.extend(frames(source, slot, count))
            starts_ns = [one.start_ns for one in seen[-count:]]
            found_ns.append(float(np.median(np.diff(starts_ns))))
            if found_ns[-1] == pytest.approx(period_ns, rel=0.1):
                return
        raise AssertionError(f"{found_ns} are no periods of {period_ns:g} ns")

    assert_period(5, 5e7)
    geometry = source.configure(settings(exposure_s=0.001, rate_hz=200.0))
    assert geometry.exposure_s == pytest.approx(0.001)
    assert geometry.rate_hz == pytest.approx(200.0)
    changed_ns = time.time_ns()
    while seen[-1].start_ns < changed_ns:  # what was on its way
        seen += frames(source, slot, 1)
    seen += frames(source, slot, 10)
    assert not slot.any()  # the simulator's pixels are zero at a tenth of the unit exposure
    assert_period(50, 5e6)
    assert not any(one.lost_before for one in seen)
    for exposure_s, limit in ((0.01, 100.0), (0.0001, 1000.0)):
        geometry = source.configure(settings(exposure_s=exposure_s, rate_hz=5000.0))
        assert (geometry.max_rate_hz, geometry.rate_hz) == (limit, limit)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"region": Region(2000, 2049, 1, 48)}, Code.WINDOW_OUT_OF_BOUNDS),
        ({"exposure_s": 11.0}, Code.OUT_OF_RANGE),
        ({"exposure_s": 1e-6}, Code.OUT_OF_RANGE),
        ({"rate_hz": 0.05}, Code.OUT_OF_RANGE),
        ({"mode": "BayerBG8"}, Code.UNSUPPORTED),
        ({"external_trigger": True}, Code.UNSUPPORTED),
    ],
)
def test_what_the_camera_cannot_is_refused_and_changes_nothing(
    camera: GvCamera, make: Make, changes: dict[str, Any], code: Code
) -> None:
    source = make(pixel_format="Mono8")
    source.open()
    slot = slot_for(source, settings())
    source.start()
    with pytest.raises(Refused) as refusal:
        source.configure(settings(**changes))
    assert refusal.value.code is code
    last = frames(source, slot, 3)[-1]
    np.testing.assert_array_equal(slot, expected(last.hardware_id, slot.shape, np.uint8))


FEATURES = """
<Integer Name="WidthMax"><pValue>SensorWidthRegister</pValue></Integer>
<Integer Name="HeightMax"><Value>1024</Value></Integer>
<Integer Name="SensorReadoutTime"><Value>1500</Value></Integer>
<Float Name="DeviceTemperature"><Value>-12.5</Value></Float>
"""


def test_steps_readout_time_temperature_and_binned_size_of_the_camera_are_respected(
    camera: GvCamera, make: Make, tmp_path: Path
) -> None:
    xml = description()
    stepped = re.sub(r"(<pMax>SensorWidth</pMax>\s*<Inc>)1<", r"\g<1>16<", xml)
    stepped = stepped.replace('<Integer Name="TLP', f'{FEATURES}<Integer Name="TLP')
    assert len(stepped) > len(xml) + len(FEATURES)
    path = tmp_path / "camera.xml"
    path.write_text(stepped)
    _restart(camera, "-g", str(path))
    source = make(pixel_format="Mono8", stamp_marks="readout_end")
    assert source.open().sensor == (2048, 1024)
    for region in (Region(1, 60, 1, 48), Region(2, 65, 1, 48)):
        with pytest.raises(Refused, match="takes multiples of 16") as refusal:
            source.configure(settings(region))
        assert refusal.value.code is Code.OUT_OF_RANGE
    slot = slot_for(source, settings(Region(17, 80, 3, 50)))
    source.start()
    for frame in frames(source, slot, 3):
        assert frame.atime_ns - frame.start_ns == 11_500_000
    assert source.telemetry()["temperature_c"] == -12.5


def _restart(camera: GvCamera, *options: str) -> None:
    camera.kill()
    camera._options = options
    camera.start()


def test_12_bit_pixels_stay_as_they_are_and_are_told(
    camera: GvCamera, make: Make, tmp_path: Path
) -> None:
    path = genicam_with_mono12(tmp_path)
    _restart(camera, "-g", str(path))
    source = make()
    assert source.open().readout_modes == ("Mono12", "Mono8")
    slot = slot_for(source, settings(mode="Mono12"))
    source.start()
    last = frames(source, slot, 3)[-1]
    np.testing.assert_array_equal(slot, expected(last.hardware_id, slot.shape, np.uint16))
    assert source.telemetry()["significant_bits"] == 12


def test_features_are_set_at_open_and_wrong_ones_are_refused(camera: GvCamera, make: Make) -> None:
    source = make(features_at_open={"TestRegister": 77, "ExposureTimeAbs": 2000})
    source.open()
    assert source._camera is not None
    assert source._camera._camera.get_integer("TestRegister") == 77
    assert source._camera.number("ExposureTimeAbs") == 2000.0
    source.close()
    for features, text in (
        ({"Nonsense": 1}, "no feature Nonsense"),
        ({"TestRegister": "many"}, "another type"),
        ({"AcquisitionMode": 3}, "a name in quotes"),
        ({"PixelFormat": "Mono99"}, "Mono99"),
    ):
        with pytest.raises((Refused, DeviceError), match=text):
            make(features_at_open=features).open()
    with pytest.raises(Refused, match="no trigger source Line7; it has Line0, Software"):
        make(trigger_source="Line7").open()
    with pytest.raises(Refused, match="no pixel format Mono10"):
        make(pixel_format="Mono10").open()


def test_trigger_makes_one_frame_a_pulse_and_waiting_blocks_nobody(
    camera: GvCamera, make: Make
) -> None:
    source = make(trigger_source="Software", pixel_format="Mono8")
    source.open()
    slot = slot_for(source, settings(external_trigger=True))
    source.start()
    ended = threading.Event()
    turns = [0]

    def spin() -> None:
        while not ended.is_set():
            turns[0] += 1

    def wait() -> tuple[float, str]:
        began, before = time.monotonic(), turns[0]
        assert not source.wait(0.4)
        waited_s = time.monotonic() - began
        assert waited_s > 0.35
        has_spun = turns[0] - before > 100_000  # it had the interpreter all the time
        return waited_s if has_spun else math.inf, f"{turns[0] - before} turns in"

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        assert_soon(wait, 2.0)
    finally:
        ended.set()
        thread.join()
    assert source._camera is not None
    ids = []
    for _ in range(3):
        source._camera.send_trigger()
        ids += [frame.hardware_id for frame in frames(source, slot, 1)]
    assert np.diff(ids).tolist() == [1, 1]
    # A shorter exposure while it is armed does not let it run by itself.
    source.configure(settings(external_trigger=True, exposure_s=0.001))
    assert not source.wait(0.3)
    source.stop()
    slot = slot_for(source, settings())
    source.start()
    frames(source, slot, 5)


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("camera", [("-r", "60")], indirect=True)
def test_lost_packets_make_incomplete_frames_which_are_told_and_counted(
    camera: GvCamera, make: Make
) -> None:
    source = make(pixel_format="Mono8", packet_resend=False)
    source.open()
    slot = slot_for(source, settings(Region(1, 100, 1, 80)))  # 8 kB: 6 packets and two more
    source.start()
    whole = 0

    def look(frame: SourceFrame) -> None:
        nonlocal whole
        if not frame.is_incomplete:
            whole += 1
            np.testing.assert_array_equal(slot, expected(frame.hardware_id, slot.shape, np.uint8))

    taken = frames(source, slot, 80, look=look)
    incomplete = sum(frame.is_incomplete for frame in taken)
    assert incomplete > 5
    assert whole > 5
    # The very first may have come without the packet that holds its number.
    numbered = [frame for frame in taken if frame.hardware_id]
    span = numbered[-1].hardware_id - numbered[0].hardware_id + 1
    assert span == len(numbered) + sum(frame.lost_before for frame in numbered)
    assert source.telemetry()["frames_incomplete"] == incomplete


def test_frames_that_found_no_buffer_are_counted_lost(camera: GvCamera, make: Make) -> None:
    source = make(pixel_format="Mono8", buffers=4)
    source.open()
    slot = slot_for(source, settings(rate_hz=100.0))
    source.start()
    deadline = time.monotonic() + 10.0
    while int(source.telemetry()["buffer_underruns"] or 0) < 40:  # of packets, five a frame
        assert time.monotonic() < deadline
    taken = frames(source, slot, 8)
    assert taken[0].is_late
    assert sum(frame.lost_before for frame in taken) >= 7
    span = taken[-1].hardware_id - taken[0].hardware_id + 1
    assert span == len(taken) + sum(frame.lost_before for frame in taken)


@pytest.mark.parametrize("fault", [GvCamera.kill, GvCamera.freeze])
def test_camera_that_vanishes_is_lost_within_seconds_and_opens_again(
    camera: GvCamera, make: Make, fault: Callable[[GvCamera], None]
) -> None:
    source = make(pixel_format="Mono8")

    def stream() -> np.ndarray[Any, Any]:
        source.open()
        slot = slot_for(source, settings())
        source.start()
        frames(source, slot, 3)
        return slot

    def vanish() -> tuple[float, str]:
        slot = stream()
        fault(camera)
        began = time.monotonic()
        longest_s = 0.0
        with pytest.raises(DeviceLost, match=r"does not answer.*power and cable"):  # noqa: PT012
            while time.monotonic() - began < LOST_WITHIN_S:
                turn = time.monotonic()
                if source.wait(0.1):
                    source.fetch(slot)
                source.telemetry()
                longest_s = max(longest_s, time.monotonic() - turn)
        began = time.monotonic()
        source.close()
        closed_s = time.monotonic() - began
        if fault is GvCamera.kill:
            camera.start()
        else:
            camera.thaw()
        return max((longest_s, "a look"), (closed_s / 2, "half of close()"))

    assert_soon(vanish, 0.5)
    stream()


OWNER = """
import sys
from nightjar.clock import SystemClock
from nightjard.camd.fast.aravis import AravisSource
from nightjard.camd.fast.aravis_options import AravisOptions
from nightjard.camd.fast.source import SourceSettings
from nightjard.camd.geometry import Region
source = AravisSource(AravisOptions(address=sys.argv[1], pixel_format="Mono8"), SystemClock())
source.open()
source.configure(SourceSettings(Region(1, 64, 1, 48), "Mono8", 0.01, 100.0))
source.start()
while not source.wait(0.2):
    pass
print("streaming", flush=True)
sys.stdin.read()
"""


def test_camera_of_a_killed_process_is_taken_over(camera: GvCamera, make: Make) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, ADDRESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"streaming\n"
        owner.send_signal(signal.SIGKILL)
    source = make(pixel_format="Mono8")
    source.open()
    slot = slot_for(source, settings())
    source.start()
    frames(source, slot, 3)


# ---------------------------------------------------------------- without a network


def test_camera_inside_the_library(make: Make) -> None:
    source = make(device="Fake_1", pixel_format="Mono8")
    assert source.open().serial == "1"
    for mode, kind in (("Mono8", np.uint8), ("Mono16", np.uint16)):
        slot = slot_for(source, settings(mode=mode))
        assert slot.dtype == kind
        source.start()
        taken = frames(source, slot, 5)
        assert [frame.lost_before for frame in taken] == [0] * 5
        np.testing.assert_array_equal(slot, expected(taken[-1].hardware_id, slot.shape, kind))
        source.stop()
    with pytest.raises(Refused, match="not streaming"):
        source.wait(0.1)
