# SPDX-License-Identifier: BSD-3-Clause
"""The faults that a simulated detector shows: each kind, each way to set it off."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.detector import never
from nightjar.clock import ManualClock
from nightjar.errors import DeviceError, DeviceLost, DeviceNotFound
from nightjard.camd.drivers.base import FrameBuffer, FrameRecord, Phase, Settings
from nightjard.camd.drivers.embedded import read_embedded
from nightjard.camd.drivers.faults import FaultPlan
from nightjard.camd.drivers.options import FaultOptions, SimulatedOptions
from nightjard.camd.drivers.simulated import SimulatedDetector

S = 1_000_000_000


class Camera:
    """A small simulated detector with faults, its clock, and a buffer."""

    def __init__(self, *faults: dict[str, Any], **options: Any) -> None:
        self.clock = ManualClock()
        chosen = SimulatedOptions(
            width=64, height=40, readout_time=0.25,
            faults=[FaultOptions(**fault) for fault in faults], **options,
        )  # fmt: skip
        self.detector = SimulatedDetector(chosen, "A1", self.clock)
        self.pixels = np.zeros((40, 64), np.uint16)

    def open(self) -> Camera:
        self.detector.open()
        return self

    def take(self) -> FrameRecord:
        self.detector.configure(Settings(S))
        self.detector.start()
        self.clock.advance(1.25)
        self.pixels.fill(7)
        return self.detector.fetch(FrameBuffer("memory", 0, self.pixels), never)


def write_faults(path: Path, *faults: dict[str, Any]) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps({"faults": faults}))
    os.replace(scratch, path)


# -- kinds --------------------------------------------------------------------------------------


def test_zero_frame() -> None:
    camera = Camera({"kind": "zero_frame", "at_frame": 2}).open()
    numbers = []
    zero = []
    for _ in range(4):
        numbers.append(camera.take().hardware_id)
        zero.append(not camera.pixels.any())
    assert numbers == [1, 2, 3, 4]
    assert zero == [False, True, False, False]


def test_stale_frame_is_the_last_one_again() -> None:
    camera = Camera({"kind": "stale_frame", "at_frame": 3}).open()
    frames = []
    for _ in range(4):
        record = camera.take()
        frames.append((record.hardware_id, camera.pixels.copy(), record.start_ns))
    assert [number for number, _, _ in frames] == [1, 2, 2, 4]
    assert np.array_equal(frames[1][1], frames[2][1])
    assert read_embedded(frames[2][1]).start_ns == frames[1][2] != frames[2][2]
    assert not np.array_equal(frames[2][1], frames[3][1])


def test_stale_frame_needs_an_earlier_one() -> None:
    camera = Camera({"kind": "stale_frame"}).open()
    assert camera.take().hardware_id == 1
    assert camera.take().hardware_id == 1


def test_slow_read_out_stays_responsive_and_can_be_aborted() -> None:
    camera = Camera({"kind": "slow_readout", "at_frame": 2, "seconds": 20.0}).open()
    camera.take()
    detector, clock = camera.detector, camera.clock
    detector.start()
    clock.advance(1.25)
    for _ in range(19):
        assert detector.poll().phase is Phase.READING
        clock.advance(1.0)
    detector.abort()
    assert detector.poll().phase is Phase.IDLE
    # The frame that was aborted has no number, so number 2 is slow still.
    detector.start()
    clock.advance(21.25)
    record = detector.fetch(FrameBuffer("memory", 0, camera.pixels), never)
    assert record.hardware_id == 2
    assert record.read_end_ns - record.end_ns == 20 * S + S // 4
    assert camera.take().hardware_id == 3


def test_slow_read_out_in_a_stream_loses_frames_and_counts_them() -> None:
    camera = Camera({"kind": "slow_readout", "at_frame": 2, "seconds": 5.0}, memory_frames=1)
    camera.open()
    detector, clock = camera.detector, camera.clock
    detector.configure(Settings(S, stream=True))
    detector.start()
    into = FrameBuffer("memory", 0, camera.pixels)
    clock.advance(1.25)
    assert detector.fetch(into, never).hardware_id == 1
    clock.advance(5.5)
    assert detector.poll().phase is not Phase.READY
    clock.advance(0.5)
    record = detector.fetch(into, never)
    assert record.hardware_id == 2 + record.lost_before
    assert record.lost_before == 5


def test_lost_camera_stays_lost_until_opened_again() -> None:
    camera = Camera({"kind": "lost_camera", "after_s": 10.0, "duration_s": 5.0}).open()
    camera.take()
    camera.clock.advance(10)
    detector = camera.detector
    for call in (detector.poll, detector.telemetry, detector.start, detector.abort):
        with pytest.raises(DeviceLost, match="disappeared"):
            call()
    camera.clock.advance(10)  # it would be back, but the handle is dead
    with pytest.raises(DeviceLost):
        detector.poll()
    detector.close()
    detector.open()
    assert camera.take().hardware_id == 1


def test_not_found() -> None:
    camera = Camera({"kind": "not_found"})
    with pytest.raises(DeviceNotFound, match="A1"):
        camera.open()


def test_crash_in_the_daemon_s_own_process_only_fails_the_call() -> None:
    with pytest.raises(DeviceError, match="crash in open"):
        Camera({"kind": "crash"}).open()
    camera = Camera({"kind": "crash", "at_call": "start"}).open()
    camera.detector.configure(Settings(S))
    with pytest.raises(DeviceError, match="crash in start"):
        camera.detector.start()


def test_stuck_sensor() -> None:
    camera = Camera({"kind": "stuck_sensor", "after_s": 100.0}).open()
    camera.detector.set_cooler_power(255)
    camera.clock.advance(99)
    first = camera.detector.telemetry().temperature_c
    camera.clock.advance(10)
    stuck = camera.detector.telemetry().temperature_c
    camera.clock.advance(500)
    assert camera.detector.telemetry().temperature_c == stuck
    assert first is not None
    assert stuck is not None
    assert stuck < first


def test_cooler_fault_is_reported_and_warms() -> None:
    camera = Camera({"kind": "cooler_fault", "after_s": 1000.0, "duration_s": 1000.0}).open()
    camera.detector.set_cooler_power(255)
    camera.clock.advance(999)
    assert camera.detector.telemetry().fault is None
    camera.clock.advance(2)
    assert camera.detector.telemetry().fault == "UVLO"
    camera.clock.advance(900)
    telemetry = camera.detector.telemetry()
    assert (telemetry.fault, telemetry.cooler_power) == ("UVLO", 0.0)
    assert telemetry.temperature_c == pytest.approx(15, abs=0.5)
    camera.clock.advance(1000)
    assert camera.detector.telemetry().fault is None
    camera.clock.advance(1000)
    assert camera.detector.telemetry().temperature_c == pytest.approx(-25, abs=0.5)


@pytest.mark.parametrize("call", ["start", "poll", "fetch", "telemetry", "abort"])
def test_wedge_holds_the_named_call_only(call: str) -> None:
    camera = Camera({"kind": "wedge", "at_call": call, "seconds": 60.0}).open()
    detector, clock = camera.detector, camera.clock
    detector.configure(Settings(S))
    into = FrameBuffer("memory", 0, camera.pixels)
    calls: dict[str, Any] = {
        "start": detector.start,
        "poll": detector.poll,
        "fetch": lambda: detector.fetch(into, never),
        "telemetry": detector.telemetry,
        "abort": detector.abort,
    }
    if call != "start":
        detector.start()
        clock.advance(1.25)
    for other in ("telemetry", "poll"):
        if other != call:
            calls[other]()
    thread = threading.Thread(target=calls[call])
    thread.start()
    deadline = time.monotonic() + 10
    clock.advance(59)
    thread.join(0.05)
    assert thread.is_alive(), "it returned"
    while thread.is_alive():
        assert time.monotonic() < deadline, "it never returned"
        clock.advance(1)
        thread.join(0.01)


# -- triggers -----------------------------------------------------------------------------------


def struck(fault: dict[str, Any], moments: list[tuple[int, float]]) -> list[bool]:
    """Return at which (frame, second) a fault of a plan strikes."""
    options = FaultOptions(**fault)
    plan = FaultPlan([options], None)
    plan.arm(0)
    return [
        plan.active(options.kind, "fetch", frame, round(second * S)) is not None
        for frame, second in moments
    ]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"kind": "zero_frame"}, [1, 1, 1, 1, 1]),
        ({"kind": "zero_frame", "at_frame": 3}, [0, 0, 1, 0, 0]),
        ({"kind": "zero_frame", "at_frame": 3, "frames": 2}, [0, 0, 1, 1, 0]),
        ({"kind": "zero_frame", "after_s": 1.5}, [0, 1, 0, 0, 0]),
        ({"kind": "zero_frame", "frames": 4}, [1, 1, 1, 1, 0]),
        ({"kind": "lost_camera", "at_frame": 4}, [0, 0, 0, 1, 1]),
        ({"kind": "lost_camera", "after_s": 2.0, "duration_s": 2.0}, [0, 1, 1, 0, 0]),
        ({"kind": "wedge"}, [1, 1, 1, 1, 1]),
        ({"kind": "wedge", "at_call": "poll"}, [0, 0, 0, 0, 0]),
        ({"kind": "wedge", "frames": 1, "at_frame": 2}, [0, 1, 0, 0, 0]),
        ({"kind": "crash"}, [0, 0, 0, 0, 0]),
    ],
)
def test_triggers(fault: dict[str, Any], expected: list[int]) -> None:
    assert struck(fault, [(n, float(n)) for n in range(1, 6)]) == [bool(x) for x in expected]


def test_a_frame_that_is_asked_twice_is_one_strike() -> None:
    moments = [(2, 1.0), (2, 1.1), (2, 1.2), (3, 2.0)]
    fault = {"kind": "slow_readout", "at_frame": 2}
    assert struck(fault, moments) == [True, True, True, False]


# -- control file -------------------------------------------------------------------------------


def test_control_file_injects_into_a_running_camera(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    camera = Camera(fault_path=str(path)).open()
    assert camera.take().hardware_id == 1
    assert camera.pixels.any()
    write_faults(path, {"kind": "zero_frame"})
    camera.take()
    assert not camera.pixels.any()
    write_faults(path, {"kind": "cooler_fault", "after_s": 5.0})
    camera.take()
    assert camera.pixels.any()
    camera.clock.advance(5)
    assert camera.detector.telemetry().fault == "UVLO"
    path.unlink()
    assert camera.detector.telemetry().fault is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"faults": 1}', '{"faults": [{"kind": "gremlin"}]}', '{"faults": [{}]}'],
)
def test_unusable_control_file_is_told_and_changes_nothing(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "faults.json"
    write_faults(path, {"kind": "cooler_fault"})
    camera = Camera(fault_path=str(path)).open()
    assert camera.detector.telemetry().fault == "UVLO"
    path.write_text(text)
    assert camera.detector.telemetry().fault == "UVLO"
    assert caplog.text.count(str(path)) == 1
    camera.detector.telemetry()
    assert caplog.text.count(str(path)) == 1, "it complains again and again"


def test_control_file_works_before_opening(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    write_faults(path, {"kind": "not_found"})
    camera = Camera(fault_path=str(path))
    with pytest.raises(DeviceNotFound):
        camera.open()
    write_faults(path)
    camera.open()
    assert camera.take().hardware_id == 1
