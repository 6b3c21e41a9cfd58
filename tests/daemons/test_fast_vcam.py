# SPDX-License-Identifier: BSD-3-Clause
"""The simulated fast camera on a clock of our own: pacing, memory, stamps, faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.fast_camera import SleepingClock
from nightjar.errors import Busy, Code, DeviceLost, NightjarError, Refused
from nightjard.camd.fast.options import FastFaultOptions, TriggerOptions, VcamOptions
from nightjard.camd.fast.pattern import Pattern, check_cube, read_truth, read_truths
from nightjard.camd.fast.source import GeometryChanged, SourceFrame, SourceSettings
from nightjard.camd.fast.vcam import VcamSource
from nightjard.camd.geometry import Region

SMALL = Region(101, 132, 201, 220)


class Rig:
    """A source on a manual clock, streaming 32 x 20 pixels."""

    def __init__(self, clock: SleepingClock | None = None, **options: Any) -> None:
        self.clock = clock or SleepingClock()
        self.source = VcamSource(VcamOptions(**options), self.clock)
        self.source.open()
        self.slot = np.zeros((20, 32), np.uint16)

    def configure(self, **changes: Any) -> Any:
        settings = {
            "region": SMALL, "readout_mode": "FAST", "exposure_s": 0.001, "rate_hz": 100.0,
            **changes,
        }  # fmt: skip
        return self.source.configure(SourceSettings(**settings))

    def started(self, **changes: Any) -> Rig:
        self.configure(**changes)
        self.source.start()
        return self

    def frame(self, timeout_s: float = 5.0) -> SourceFrame:
        end_ns = self.clock.monotonic_ns() + round(timeout_s * 1e9)
        while not self.source.wait(0.1):
            assert self.clock.monotonic_ns() < end_ns, "no frame came"
        return self.source.fetch(self.slot)

    def frames(self, count: int) -> tuple[list[SourceFrame], np.ndarray[Any, Any]]:
        found, pixels = [], []
        for _ in range(count):
            found.append(self.frame())
            pixels.append(self.slot.copy())
        return found, np.stack(pixels)


def test_frames_keep_their_rate_and_prove_themselves() -> None:
    rig = Rig().started()
    frames, pixels = rig.frames(200)
    assert check_cube(pixels, Pattern((20, 32))).is_perfect
    starts = np.array([frame.start_ns for frame in frames])
    assert np.abs(np.diff(starts) - 10_000_000).max() <= 1
    truths = read_truths(pixels)
    assert (truths["start_ns"] == starts).all()
    assert (truths["frame_id"] == [frame.hardware_id for frame in frames]).all()
    assert (truths["exposure_10us"] == 100).all()
    assert not any(frame.is_late or frame.lost_before for frame in frames)


def test_stamp_is_the_end_of_the_readout() -> None:
    rig = Rig()
    geometry = rig.configure()
    rig.source.start()
    frame = rig.frame()
    readout_ns = round((20 / 2 + 5) * 7200)
    assert geometry.readout_s == pytest.approx(readout_ns / 1e9)
    assert frame.atime_ns - frame.start_ns == 1_000_000 + readout_ns
    assert frame.atime_ns == rig.clock.now_ns()  # noticed when it is there, on this clock


def test_offset_and_latency_of_the_stamps() -> None:
    plain, late = Rig().started(), Rig(stamp_offset_us=800, stamp_latency_us=50).started()
    frames = [(plain.frame(), late.frame()) for _ in range(300)]
    delays = np.array([b.atime_ns - a.atime_ns for a, b in frames]) / 1000
    assert (delays >= 800).all()
    assert delays.mean() == pytest.approx(850, abs=8)
    assert delays.std() == pytest.approx(50 / np.sqrt(2), rel=0.2)


def test_two_triggered_cameras_have_the_same_pulses() -> None:
    clock = SleepingClock()
    one, two = Rig(clock, camera=1), Rig(clock, camera=2)
    for rig in (one, two):
        rig.started(external_trigger=True)
    pairs = []
    for _ in range(60):
        one.frame(), two.frame()
        pairs.append((read_truth(one.slot), read_truth(two.slot)))
    assert all(a.trigger == b.trigger and a.flc == b.flc for a, b in pairs)
    assert [a.camera for a, _ in pairs] == [1] * 60
    assert [b.camera for _, b in pairs] == [2] * 60
    assert {a.flc for a, _ in pairs} == {1, 2}
    apart = [abs(a.start_ns - b.start_ns) for a, b in pairs]
    assert 0 < max(apart) <= 7200


def test_free_running_frames_have_no_pulse() -> None:
    rig = Rig().started()
    rig.frame()
    truth = read_truth(rig.slot)
    assert (truth.trigger, truth.flc) == (0, 0)


def test_frames_not_fetched_in_time_come_late_and_in_order_up_to_the_memory() -> None:
    rig = Rig(memory_frames=16).started()
    rig.frame()
    rig.clock.advance(0.1)  # ten frames
    frames, pixels = rig.frames(14)
    assert check_cube(pixels).is_perfect
    assert sum(frame.lost_before for frame in frames) == 0
    assert [frame.is_late for frame in frames[:8]] == [True] * 8
    assert not frames[-1].is_late


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("asleep_s", [0.3, 25.0, 4000.0])
def test_frames_beyond_the_memory_are_lost_and_counted_exactly(
    external: bool, asleep_s: float
) -> None:
    rig = Rig(memory_frames=8, trigger=TriggerOptions(flc=False)).started(
        external_trigger=external
    )
    first = rig.frame()
    pulse = read_truth(rig.slot).trigger
    rig.clock.advance(asleep_s)
    frames, _ = rig.frames(30)
    lost = sum(frame.lost_before for frame in frames)
    assert lost == pytest.approx(round(asleep_s * 100) - 8, abs=1)  # one: the pulses' jitter
    assert frames[0].lost_before == lost
    assert frames[-1].hardware_id - first.hardware_id == 30 + lost
    # By the clock and by the pulses: as many frame times passed as there are numbers.
    assert (frames[-1].start_ns - first.start_ns) / 1e7 == pytest.approx(30 + lost, abs=2e-3)
    if external:
        assert read_truth(rig.slot).trigger - pulse == 30 + lost
    assert read_truth(rig.slot).lost == lost & 0xFFFF


def test_clock_that_is_stepped_moves_the_pulses_not_the_counts() -> None:
    rig = Rig().started(external_trigger=True)
    before = rig.frames(20)[0][-1]
    rig.clock.step_wall(3600.0)
    rig.clock.advance(0.11)
    frames, _ = rig.frames(40)
    assert frames[-1].start_ns - before.start_ns > 3600e9
    assert sum(frame.lost_before for frame in frames) == 0


def test_a_process_held_up_between_two_clocks_is_no_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class HeldUp(SleepingClock):
        for_s = 0.0

        def now_ns(self) -> int:
            self.advance(self.for_s)
            self.for_s = 0.0
            return super().now_ns()

    clock = HeldUp()
    rig = Rig(clock, memory_frames=1000).started(external_trigger=True)
    for _ in range(2):
        clock.for_s = 0.3
        clock.advance(0.11)
        frames, pixels = rig.frames(60)
        assert (np.diff(read_truths(pixels)["trigger"]) == 1).all()
        assert np.abs(np.diff([frame.start_ns for frame in frames]) - 10_000_000).max() < 1_000_000
    assert "stepped" not in caplog.text


def test_settings_change_while_streaming_unless_the_geometry_does() -> None:
    rig = Rig().started()
    rig.frame()
    geometry = rig.configure(exposure_s=0.004, rate_hz=50.0)
    assert geometry.rate_hz == 50.0
    frames, pixels = rig.frames(5)
    assert check_cube(pixels).is_perfect
    assert frames[-1].start_ns - frames[-2].start_ns == 20_000_000
    with pytest.raises(Busy) as raised:
        rig.configure(region=Region(1, 64, 1, 20))
    assert raised.value.code is Code.NOT_IDLE
    rig.frame()


def test_numbers_go_on_over_a_stop() -> None:
    rig = Rig().started()
    last = rig.frames(5)[0][-1]
    rig.clock.advance(0.05)  # frames in the memory are thrown away
    rig.source.stop()
    with pytest.raises(Refused):
        rig.source.wait(0.1)
    rig.clock.advance(10)
    rig.source.start()
    assert rig.frame().hardware_id == last.hardware_id + 1


def test_slow_camera_gives_no_frame_within_the_wait() -> None:
    rig = Rig().started(rate_hz=1.0, exposure_s=0.5)
    began = rig.clock.monotonic_ns()
    assert not rig.source.wait(0.1)
    assert rig.clock.monotonic_ns() - began == 100_000_000


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"region": Region(4000, 4097, 1, 20)}, Code.WINDOW_OUT_OF_BOUNDS),
        ({"region": Region(1, 15, 1, 20)}, Code.OUT_OF_RANGE),
        ({"readout_mode": "ULTRA"}, Code.UNSUPPORTED),
        ({"exposure_s": 0.0}, Code.OUT_OF_RANGE),
        ({"exposure_s": float("nan")}, Code.OUT_OF_RANGE),
        ({"rate_hz": -1.0}, Code.OUT_OF_RANGE),
        ({"rate_hz": 2500.0, "external_trigger": True}, Code.OUT_OF_RANGE),
    ],
)
def test_what_it_cannot_do_is_refused_and_changes_nothing(
    changes: dict[str, Any], code: Code
) -> None:
    rig = Rig().started()
    with pytest.raises(NightjarError) as raised:
        rig.configure(**changes)
    assert raised.value.code is code
    frames, _ = rig.frames(3)
    assert frames[2].start_ns - frames[1].start_ns == 10_000_000


def test_slots_filled_beforehand_are_only_stamped() -> None:
    rig = Rig(render="dma")
    rig.configure()
    rig.source.prepare([rig.slot])
    rig.source.start()
    rig.slot[5, 5] = 4242  # nobody touches it again
    _, pixels = rig.frames(5)
    assert (pixels[:, 5, 5] == 4242).all()
    report = check_cube(pixels, Pattern((20, 32), bank=1))
    assert report.whole == 5
    assert report.altered == [0, 1, 2, 3, 4]


def faulty(kind: str, **options: Any) -> Rig:
    fault = FastFaultOptions(kind=kind, **options)  # type: ignore[arg-type]
    return Rig(faults=[fault], memory_frames=4).started()


def test_stalled_camera_loses_what_its_memory_does_not_hold() -> None:
    rig = faulty("stall", at_frame=10, seconds=1.0)
    frames, _ = rig.frames(30)
    assert sum(frame.lost_before for frame in frames) == pytest.approx(96, abs=2)


def test_dropped_frames_leave_a_gap_in_the_numbers() -> None:
    rig = faulty("drop", at_frame=10, frames=7)
    frames, pixels = rig.frames(30)
    assert sum(frame.lost_before for frame in frames) == 7
    assert check_cube(pixels).missing == 7


def test_wrong_stamps_are_wrong_for_that_many_frames() -> None:
    rig = faulty("wrong_stamp", at_frame=5, frames=3, seconds=-2.0)
    frames, _ = rig.frames(20)
    late = [frame.atime_ns - frame.start_ns < 0 for frame in frames]
    assert sum(late) == 3


def test_another_geometry_is_told_until_it_is_configured_again() -> None:
    rig = faulty("geometry", at_frame=3)
    with pytest.raises(GeometryChanged):
        rig.frames(10)
    rig.source.stop()
    rig.configure()
    rig.source.start()
    rig.frames(5)


def test_lost_camera_comes_back_when_the_fault_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    rig = Rig(fault_path=str(path)).started()
    rig.frames(3)
    path.write_text(json.dumps({"faults": [{"kind": "lost_camera"}]}))
    with pytest.raises(DeviceLost):
        rig.frames(30)
    with pytest.raises(DeviceLost):
        rig.source.open()
    path.unlink()
    rig.clock.advance(1.0)
    rig.source.open()
    rig.source.stop()
    rig.started().frames(3)


def test_unusable_fault_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text('{"faults": [{"kind": "earthquake"}]}')
    Rig(fault_path=str(path)).started().frames(30)
