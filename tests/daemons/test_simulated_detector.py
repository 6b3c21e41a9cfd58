# SPDX-License-Identifier: BSD-3-Clause
"""The simulated detector in time: phases, streams, stamps, truth, cooler, wheel."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contract.detector import never
from nightjar.clock import ManualClock
from nightjar.errors import Cancelled, DeviceError, DeviceNotFound
from nightjard.camd.drivers.base import FrameBuffer, FrameRecord, Phase, Settings
from nightjard.camd.drivers.embedded import read_embedded
from nightjard.camd.drivers.options import SimulatedOptions
from nightjard.camd.drivers.scene import Renderer
from nightjard.camd.drivers.sensor import Exposure
from nightjard.camd.drivers.simulated import SimulatedDetector
from nightjard.camd.drivers.truth import digest
from nightjard.camd.geometry import Region

S = 1_000_000_000
SMALL: dict[str, Any] = {"width": 64, "height": 40, "readout_time": 0.25}


def opened(clock: ManualClock, **options: Any) -> SimulatedDetector:
    detector = SimulatedDetector(SimulatedOptions(**{**SMALL, **options}), "A1", clock)
    detector.open()
    return detector


def buffer(shape: tuple[int, int] = (40, 64)) -> FrameBuffer:
    return FrameBuffer("memory", 0, np.zeros(shape, np.uint16))


def take(
    clock: ManualClock, detector: SimulatedDetector, into: FrameBuffer, exposure_ns: int = S
) -> FrameRecord:
    detector.configure(Settings(exposure_ns))
    detector.start()
    clock.advance(exposure_ns / 1e9 + 0.25)
    return detector.fetch(into, never)


# -- time ---------------------------------------------------------------------------------------


def test_phases_change_at_the_nanosecond() -> None:
    clock = ManualClock()
    detector = opened(clock)
    detector.configure(Settings(2 * S))
    detector.start()
    clock.advance(1.999999999)
    assert detector.poll() == (Phase.EXPOSING, 1_999_999_999)
    clock.advance(1e-9)
    assert detector.poll() == (Phase.READING, 2 * S)
    clock.advance(0.249999999)
    assert detector.poll().phase is Phase.READING
    clock.advance(1e-9)
    assert detector.poll().phase is Phase.READY
    clock.advance(1000)
    assert detector.poll().phase is Phase.READY


def test_stamps_are_those_of_the_clock() -> None:
    clock = ManualClock(now_ns=1_700_000_000 * S)
    detector = opened(clock)
    clock.advance(5)
    detector.configure(Settings(3 * S))
    detector.start()
    clock.advance(10)
    record = detector.fetch(buffer(), never)
    assert record.start_ns == 1_700_000_005 * S
    assert record.end_ns == 1_700_000_008 * S
    assert record.read_end_ns == record.end_ns + S // 4
    assert record.time_source == "SIM"


def test_a_stepped_wall_clock_moves_stamps_but_not_exposures() -> None:
    clock = ManualClock(now_ns=1_700_000_000 * S)
    detector = opened(clock)
    detector.configure(Settings(S))
    detector.start()
    clock.advance(0.5)
    clock.step_wall(-3600)
    assert detector.poll() == (Phase.EXPOSING, S // 2)
    clock.advance(0.75)
    assert detector.fetch(buffer(), never).start_ns == 1_700_000_000 * S
    assert take(clock, detector, buffer()).start_ns == (1_700_000_001 - 3600) * S + S // 4


def test_a_stream_follows_a_stepped_clock() -> None:
    clock = ManualClock(now_ns=1_700_000_000 * S)
    detector = opened(clock)
    detector.configure(Settings(S, stream=True))
    detector.start()
    starts = []
    for number in range(4):
        clock.advance(1.25 if number == 0 else 1.0)
        if number == 2:
            clock.step_wall(100)
        starts.append(detector.fetch(buffer(), never).start_ns - 1_700_000_000 * S)
    assert starts == [0, S, 102 * S, 103 * S]


@pytest.mark.parametrize(
    ("options", "window", "expected_s"),
    [
        ({"readout_time": None, "row_period_ns": 1_000_000}, None, 0.040),
        ({"readout_time": 1.0}, None, 1.0),
        ({"readout_time": 1.0, "speed": 4.0}, None, 0.25),
        ({"readout_time": 1.0, "hardware_window": True}, Region(1, 64, 11, 20), 0.25),
        ({"readout_time": 1.0}, Region(1, 64, 11, 20), 1.0),
    ],
)
def test_read_out_time(options: dict[str, Any], window: Region | None, expected_s: float) -> None:
    clock = ManualClock()
    detector = opened(clock, **options)
    detector.configure(Settings(S, window=window))
    detector.start()
    clock.advance(1.0 + expected_s - 1e-6)
    assert detector.poll().phase is Phase.READING
    clock.advance(2e-6)
    assert detector.poll().phase is Phase.READY


# -- stream -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("exposure_s", "period_s"), [(1.0, 1.0), (0.1, 0.25)])
def test_stream_period_is_the_longer_of_exposure_and_read_out(
    exposure_s: float, period_s: float
) -> None:
    clock = ManualClock()
    detector = opened(clock)
    detector.configure(Settings(round(exposure_s * S), stream=True))
    detector.start()
    clock.advance(exposure_s + 0.25)
    records = []
    for _ in range(6):
        records.append(detector.fetch(buffer(), never))
        assert detector.poll().phase is not Phase.READY
        clock.advance(period_s)
    starts = [record.start_ns for record in records]
    assert [b - a for a, b in pairwise(starts)] == [round(period_s * S)] * 5
    assert [record.hardware_id for record in records] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("memory", [1, 2, 5])
def test_stream_keeps_what_its_memory_holds_and_counts_the_rest(memory: int) -> None:
    clock = ManualClock()
    detector = opened(clock, memory_frames=memory)
    detector.configure(Settings(S, stream=True))
    detector.start()
    clock.advance(1.25)
    assert detector.fetch(buffer(), never).hardware_id == 1
    clock.advance(10.0)  # frames 2..11 have been read out
    got = []
    while detector.poll().phase is Phase.READY:
        record = detector.fetch(buffer(), never)
        got.append((record.hardware_id, record.lost_before))
    first = 11 - memory + 1
    assert got[0] == (first, first - 2)
    assert got[1:] == [(number, 0) for number in range(first + 1, 12)]
    clock.advance(1.0)
    into = buffer()
    assert detector.fetch(into, never).hardware_id == 12
    assert read_embedded(into.array).lost == first - 2


def test_progress_in_a_stream_is_that_of_the_present_exposure() -> None:
    clock = ManualClock()
    detector = opened(clock)
    detector.configure(Settings(S, stream=True))
    detector.start()
    clock.advance(1.25)
    detector.fetch(buffer(), never)
    assert detector.poll() == (Phase.EXPOSING, S // 4)
    clock.advance(0.5)
    assert detector.poll() == (Phase.EXPOSING, 3 * S // 4)


class StreamMachine(RuleBasedStateMachine):
    """Whatever is called in whatever order: numbers are complete and times are consistent."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.detector = opened(self.clock, memory_frames=2)
        self.is_running = False
        self.last_id = 0
        self.free_from_ns = 0

    @precondition(lambda self: not self.is_running)
    @rule(exposure_ns=st.integers(10_000, 3 * S), stream=st.booleans())
    def start(self, exposure_ns: int, stream: bool) -> None:
        self.detector.configure(Settings(exposure_ns, stream=stream))
        self.stream, self.exposure_ns = stream, exposure_ns
        self.detector.start()
        self.started_ns = self.clock.now_ns()
        self.is_running = True

    @rule(seconds=st.floats(0, 4))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def abort(self) -> None:
        self.detector.abort()
        self.is_running = False

    @precondition(lambda self: self.detector.poll().phase is Phase.READY)
    @rule(is_cancelled=st.booleans())
    def fetch(self, is_cancelled: bool) -> None:
        into = buffer()
        if is_cancelled:
            with pytest.raises(Cancelled):
                self.detector.fetch(into, lambda: True)
            return
        record = self.detector.fetch(into, never)
        assert record.hardware_id == self.last_id + 1 + record.lost_before
        self.last_id = record.hardware_id
        assert record.start_ns >= max(self.started_ns, self.free_from_ns)
        assert record.end_ns - record.start_ns == self.exposure_ns
        assert record.read_end_ns <= self.clock.now_ns()
        self.free_from_ns = record.end_ns
        truth = read_embedded(into.array)
        assert (truth.frame_id, truth.start_ns) == (record.hardware_id, record.start_ns)
        self.is_running = self.stream

    @invariant()
    def phase_fits(self) -> None:
        phase, elapsed = self.detector.poll()
        assert (phase is Phase.IDLE) == (not self.is_running)
        if phase is not Phase.IDLE:
            assert 0 <= elapsed <= self.exposure_ns


StreamMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_any_order_of_calls = StreamMachine.TestCase


# -- truth --------------------------------------------------------------------------------------


def test_truth_file_renders_every_frame_again(tmp_path: Path) -> None:
    """The strongest proof that it holds all that is true: the pixels come out again."""
    path = tmp_path / "truth.jsonl"
    clock = ManualClock()
    options = SimulatedOptions(
        **SMALL, stars=5, cosmic_rate=1e4, truth_path=str(path), truth_digest=True, seed=5,
        filters=["V", "R"],
    )  # fmt: skip
    detector = SimulatedDetector(options, "A1", clock)
    detector.open()
    detector.set_cooler_power(200)
    frames = []
    for number in range(4):
        into = buffer()
        detector.configure(Settings((number + 1) * S, gain=10 * number, offset=20))
        detector.start()
        clock.advance(60)
        frames.append((detector.fetch(into, never), into.array))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["frame"] for line in lines] == [1, 2, 3, 4]
    renderer = Renderer(options)
    for line, (record, array) in zip(lines, frames, strict=True):
        exposure = Exposure(
            line["frame"], line["start_ns"], line["exposure_ns"], line["temperature_c"],
            line["gain"], line["offset"], Region.parse(line["window"]), line["binning"],
            line["lost"],
        )  # fmt: skip
        again = np.empty_like(array)
        renderer.render(exposure, again)
        assert np.array_equal(again, array)
        assert line["digest"] == digest(array)
        assert (line["gain"], line["offset"]) == (10 * (line["frame"] - 1), 20)
        assert (line["start_ns"], line["end_ns"]) == (record.start_ns, record.end_ns)
        assert (line["filter"], line["faults"]) == ("V", [])
    assert lines[3]["temperature_c"] < lines[1]["temperature_c"] < 15
    detector.close()


def test_embedding_can_be_switched_off() -> None:
    clock = ManualClock()
    into = buffer()
    take(clock, opened(clock, embed=False), into)
    with pytest.raises(ValueError, match="no embedded truth"):
        read_embedded(into.array)


def test_frame_numbers_start_anew_at_each_opening() -> None:
    clock = ManualClock()
    detector = opened(clock)
    first, again = buffer(), buffer()
    assert take(clock, detector, first).hardware_id == 1
    assert take(clock, detector, buffer()).hardware_id == 2
    detector.close()
    detector.open()
    assert take(clock, detector, again).hardware_id == 1
    assert not np.array_equal(first.array[1:], again.array[1:]), "the noise is not a new one"


def test_default_settings_after_opening(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    clock = ManualClock()
    detector = opened(clock, gain_default=33, offset_default=7, truth_path=str(path))
    detector.start()
    clock.advance(1.25)
    record = detector.fetch(buffer(), never)
    assert record.end_ns - record.start_ns == S
    take(clock, detector, buffer())
    detector.close()
    for line in path.read_text().splitlines():
        assert (json.loads(line)["gain"], json.loads(line)["offset"]) == (33, 7)


def test_gain_and_offset_reach_the_pixels() -> None:
    clock = ManualClock()
    detector = opened(clock, scene="flat", flat_level=1000.0, e_per_adu=1.0, cosmic_rate=0.0)
    means = []
    for gain, offset in ((0, 0), (50, 0), (0, 100)):
        into = buffer()
        detector.configure(Settings(S, gain=gain, offset=offset))
        detector.start()
        clock.advance(1.25)
        detector.fetch(into, never)
        means.append(into.array[1:].mean())
    assert means == pytest.approx([1200, 200 + 1000 * 10**0.5, 2200], rel=0.01)


def test_only_sums_are_binned_in_hardware() -> None:
    detector = opened(ManualClock(), hardware_binnings=[1, 2])
    assert detector.configure(Settings(S, binning=2)).shape == (20, 32)
    assert detector.configure(Settings(S, binning=2, binning_method="mean")).shape == (40, 64)


# -- identity, buffers --------------------------------------------------------------------------


def test_serial_is_the_configured_one() -> None:
    clock = ManualClock()
    options = SimulatedOptions(**SMALL)
    assert SimulatedDetector(options, 10235, clock).open().serial == "10235"


def test_another_serial_is_not_found() -> None:
    options = SimulatedOptions(**SMALL, serial="B2")
    with pytest.raises(DeviceNotFound, match=r"serial A1: found a camera with serial B2"):
        SimulatedDetector(options, "A1", ManualClock()).open()


def test_a_buffer_of_another_shape_is_refused_and_the_frame_stays() -> None:
    clock = ManualClock()
    detector = opened(clock)
    detector.configure(Settings(S))
    detector.start()
    clock.advance(2)
    wrong = buffer((39, 64))
    with pytest.raises(DeviceError, match=r"\(39, 64\)"):
        detector.fetch(wrong, never)
    assert not wrong.array.any()
    assert detector.fetch(buffer(), never).hardware_id == 1


# -- cooler, wheel ------------------------------------------------------------------------------


def test_pwm_cooler_cools_frames_and_sensor() -> None:
    clock = ManualClock()
    detector = opened(clock, scene="dark", dark_current=100.0, cosmic_rate=0.0, hot_pixels=0)
    warm, cold = buffer(), buffer()
    take(clock, detector, warm)
    detector.set_cooler_power(255)
    clock.advance(1000)
    telemetry = detector.telemetry()
    assert telemetry.temperature_c == pytest.approx(-25, abs=0.2)
    assert telemetry.cooler_power == 1.0
    assert telemetry.heatsink_c is not None
    assert telemetry.heatsink_c > 20
    take(clock, detector, cold)
    excess = (warm.array[1:].mean() - 500) / (cold.array[1:].mean() - 500)
    assert excess == pytest.approx(2 ** (40 / 6), rel=0.05)


def test_setpoint_cooler_regulates_and_warms_up() -> None:
    clock = ManualClock()
    detector = opened(clock, cooler="setpoint", speed=100.0)
    detector.set_cooler_target(-12.5)
    clock.advance(20)
    telemetry = detector.telemetry()
    assert telemetry.temperature_c == pytest.approx(-12.5, abs=0.2)
    assert telemetry.cooler_power == pytest.approx(27.5 / 40, abs=0.02)
    detector.set_cooler_target(None)
    clock.advance(20)
    telemetry = detector.telemetry()
    assert telemetry.temperature_c == pytest.approx(15, abs=0.2)
    assert telemetry.cooler_power == 0


def test_cooler_stays_as_it_is_over_closing() -> None:
    clock = ManualClock()
    detector = opened(clock)
    detector.set_cooler_power(255)
    detector.close()
    clock.advance(1000)
    detector.open()
    telemetry = detector.telemetry()
    assert telemetry.cooler_power == 1.0
    assert telemetry.temperature_c == pytest.approx(-25, abs=0.2)


def test_wheel_takes_the_shorter_way() -> None:
    clock = ManualClock()
    detector = opened(clock, filters=["a", "b", "c", "d", "e"], filter_time=2.0)
    assert detector.telemetry().filter == "a"
    for name, steps in (("c", 2), ("e", 2), ("a", 1), ("a", 0), ("d", 2)):
        detector.move_filter(name)
        if steps:
            clock.advance(2.0 * steps - 0.001)
            assert detector.telemetry().filter is None
            clock.advance(0.001)
        assert detector.telemetry().filter == name
