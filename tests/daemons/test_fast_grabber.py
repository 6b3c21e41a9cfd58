# SPDX-License-Identifier: BSD-3-Clause
"""The grabber in one thread: source, stream and the loop between, on a clock of our own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from kit.fast_camera import SleepingClock
from nightjar.clock import NS_PER_S
from nightjar.errors import Code, DeviceLost, NightjarError, Refused, StorageError
from nightjar.streams.inspect import describe
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter
from nightjard.camd.fast.grabber import Grabber
from nightjard.camd.fast.grabbing import RateMeter, stream_plan
from nightjard.camd.fast.options import FastFaultOptions, VcamOptions
from nightjard.camd.fast.pattern import check_cube, read_truths
from nightjard.camd.fast.publisher import Publisher
from nightjard.camd.fast.source import SourceFrame, SourceGeometry
from nightjard.camd.fast.vcam import VcamSource
from nightjard.camd.geometry import Region

PLAN = {
    "name": "cam", "ring_seconds": 1.0, "ring_bytes": 10_000_000, "least_frames": 16,
    "mode": 0o640, "group": None, "keyword_slots": 100,
}  # fmt: skip
SETTINGS = {
    "region": [101, 132, 201, 220], "readout_mode": "FAST", "exposure_s": 0.001,
    "rate_hz": 100.0, "external_trigger": False, "crop": "",
}  # fmt: skip


class Rig:
    """A grabber whose loop the test turns."""

    def __init__(self, **options: Any) -> None:
        self.clock = SleepingClock()
        self.told: list[dict[str, Any]] = []
        self.source = VcamSource(VcamOptions(**options), self.clock)
        self.publisher = Publisher(self.clock)
        self.grabber = Grabber(self.source, self.publisher, self.told.append, self.clock)
        self.grabber.open()

    def configure(self, plan: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        return self.grabber.configure(
            {**SETTINGS, **changes}, {**PLAN, **(plan or {})}, {"OBJECT": ["M 31", "target"]}
        )

    def started(self, count: int = 0, **changes: Any) -> Rig:
        self.configure(**changes)
        self.grabber.start(count)
        return self

    def grab(self, until: Callable[[], bool]) -> None:
        for _ in range(5000):
            if until():
                return
            self.grabber._grab()
        raise AssertionError("it did not happen")

    def publish(self, count: int) -> None:
        goal = self.publisher.published + count
        self.grab(lambda: self.publisher.published >= goal)

    def keyword(self, name: str) -> Any:
        assert self.publisher.writer is not None
        return self.publisher.writer.keywords()[name].value

    def news(self) -> dict[str, Any]:
        return [message["news"] for message in self.told if "news" in message][-1]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.grabber.finish(unlink=True)


def test_frames_are_published_whole_in_order_with_their_stamps(rig: Rig) -> None:
    rig.configure()
    with StreamReader("cam", use_semaphore=False) as reader:
        rig.grabber.start()
        rig.publish(50)
        frames = [reader.next_frame() for _ in range(50)]
    pixels = np.stack([frame.data for frame in frames if frame is not None])
    assert check_cube(pixels).is_perfect
    truths = read_truths(pixels)
    for frame, truth in zip(frames, truths, strict=True):
        assert frame is not None
        assert frame.counter == truth["frame_id"]
        assert frame.atime_ns == truth["start_ns"] + 1_000_000 + 108_000


def test_exactly_so_many_frames_are_published(rig: Rig) -> None:
    rig.started(count=7)
    rig.grab(lambda: any("ended" in message for message in rig.told))
    assert [m["ended"] for m in rig.told if "ended" in m] == [
        {"count": 7, "reason": "count reached"}
    ]
    assert rig.publisher.published == 7
    assert rig.news()["streaming"] is False
    rig.grabber.start(3)
    rig.grab(lambda: rig.publisher.published == 10)
    assert rig.publisher.writer is not None
    assert rig.publisher.writer.counter == 10


def test_same_geometry_needs_no_new_file_and_another_gets_one(rig: Rig) -> None:
    rig.started()
    rig.publish(3)
    inode = describe("cam").path, rig.publisher.writer
    reply = rig.configure(exposure_s=0.002)
    assert (reply["is_new"], rig.publisher.writer) == (False, inode[1])
    rig.publish(3)
    with StreamReader("cam", use_semaphore=False) as reader:
        reply = rig.configure(region=[1, 48, 1, 30])
        assert reply["is_new"]
        assert reply["shape"] == [30, 48]
        rig.publish(5)
        assert reader.relink()
        frames = [reader.next_frame() for _ in range(5)]
    assert check_cube(np.stack([frame.data for frame in frames if frame])).is_perfect
    assert rig.keyword("OBJECT") == "M 31"


def test_ring_is_made_deeper_where_it_holds_less_than_half(rig: Rig) -> None:
    assert rig.configure()["depth"] == 100
    assert rig.configure(rate_hz=150.0)["is_new"] is False
    reply = rig.configure(rate_hz=400.0)
    assert (reply["is_new"], reply["depth"]) == (True, 400)
    assert rig.configure(rate_hz=10.0)["is_new"] is False


def test_stream_has_the_permissions_that_were_asked_for(rig: Rig) -> None:
    rig.configure(plan={"mode": 0o604})
    assert describe("cam").mode == 0o604


@pytest.mark.parametrize(
    ("rate_hz", "seconds", "most", "depth"),
    [(100, 5, 10**9, 500), (1, 5, 10**9, 16), (100, 5, 60 * 1280, 60), (100.4, 1, 10**9, 101),
     (100, 5, 1, 2)],
)  # fmt: skip
def test_depth_of_the_ring(rate_hz: float, seconds: float, most: int, depth: int) -> None:
    geometry = SourceGeometry((20, 32), Region(1, 32, 1, 20), 0.001, 1000, rate_hz)
    plan = {**PLAN, "ring_seconds": seconds, "ring_bytes": most}
    assert stream_plan(geometry, plan).depth == depth


def test_hardware_number_follows_from_the_keywords_after_a_loss() -> None:
    rig = Rig(faults=[FastFaultOptions(kind="drop", at_frame=21, frames=5)])
    rig.started()
    rig.publish(20)
    assert (rig.keyword("HW-OFF"), rig.keyword("HW-FROM")) == (0, 1)
    rig.publish(10)
    first = rig.keyword("HW-FROM")
    assert (rig.keyword("HW-OFF"), rig.keyword("HW-OFFP")) == (5, 0)
    assert rig.keyword("LOST-CAM") == 5
    with StreamReader("cam", use_semaphore=False, start="oldest") as reader:
        for _ in range(30):
            frame = reader.next_frame()
            assert frame is not None
            number = read_truths(frame.data[None])[0]["frame_id"]
            assert number - frame.counter == (5 if frame.counter >= first else 0)
    rig.grabber.finish(unlink=True)


def test_next_grabber_goes_on_with_the_stream_of_one_that_was_killed() -> None:
    dead = Rig()
    dead.started()
    dead.publish(12)
    assert dead.publisher.writer is not None
    dead.publisher.writer._set_owner(2**22 + 1)  # nobody has that process id
    rig = Rig()
    with StreamReader("cam", use_semaphore=False) as reader:
        rig.started()
        rig.publish(4)
        assert not reader.is_replaced()
        assert [reader.next_frame().counter for _ in range(4)] == [13, 14, 15, 16]  # type: ignore[union-attr]
    assert (rig.keyword("HW-OFF"), rig.keyword("HW-FROM"), rig.keyword("HW-OFFP")) == (-12, 13, 0)
    rig.grabber.finish(unlink=True)


def test_living_owner_keeps_its_stream(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with StreamWriter.create("cam", (20, 32), "uint16", depth=4) as other:
        other._set_owner(1)  # always alive, never ours
        with pytest.raises(Refused, match="belongs to living process 1"):
            rig.configure()


def test_stream_without_room_leaves_everything_as_it_was(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.started()
    rig.publish(3)
    writer = rig.publisher.writer

    def full(*_: Any, **__: Any) -> StreamWriter:
        raise StorageError("no room", code=Code.NO_SPACE)

    with monkeypatch.context() as patch:
        patch.setattr(StreamWriter, "create", full)
        with pytest.raises(StorageError):
            rig.configure(region=[1, 48, 1, 30])
    assert rig.publisher.writer is writer
    rig.publish(5)
    with StreamReader("cam", use_semaphore=False, start="oldest") as reader:
        frames = [reader.next_frame() for _ in range(8)]
    assert check_cube(np.stack([frame.data for frame in frames if frame])).is_perfect


def test_refused_settings_leave_the_camera_streaming(rig: Rig) -> None:
    rig.started()
    rig.publish(3)
    with pytest.raises(Refused):
        rig.configure(region=[1, 10, 1, 30])
    rig.publish(3)


def test_incomplete_frame_is_not_published_and_counts_as_lost(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.started()
    rig.publish(3)
    fetch = rig.source.fetch

    def half(slot: Any) -> SourceFrame:
        frame = fetch(slot)
        frame.is_incomplete = frame.hardware_id == 5
        return frame

    monkeypatch.setattr(rig.source, "fetch", half)
    rig.publish(4)
    assert (rig.publisher.lost, rig.publisher.incomplete) == (1, 1)
    with StreamReader("cam", use_semaphore=False, start="oldest") as reader:
        frames = [reader.next_frame() for _ in range(7)]
        assert reader.lost == reader.torn == 0
    truths = read_truths(np.stack([frame.data for frame in frames if frame]))
    assert truths["frame_id"].tolist() == [1, 2, 3, 4, 6, 7, 8]


def test_changed_geometry_is_set_right_and_streaming_goes_on() -> None:
    rig = Rig(faults=[FastFaultOptions(kind="geometry", at_frame=5)])
    rig.started()
    rig.publish(20)
    assert not any("failed" in message for message in rig.told)
    rig.grabber.finish(unlink=True)


def test_lost_camera_is_told_and_the_loop_goes_on() -> None:
    rig = Rig(faults=[FastFaultOptions(kind="lost_camera", at_frame=5)])
    rig.started()
    rig.grab(lambda: any("failed" in message for message in rig.told))
    failed = next(message["failed"] for message in rig.told if "failed" in message)
    assert failed["code"] == "DEVICE_LOST"
    assert not rig.grabber._is_streaming
    rig.grabber.finish(unlink=True)


def test_commands_are_carried_out_between_frames_and_their_errors_come_back(rig: Rig) -> None:
    handlers = rig.grabber.handlers()
    thread = threading.Thread(target=lambda: rig.grabber.run(lambda: False))
    thread.start()
    try:
        handlers["configure"](settings=SETTINGS, plan=PLAN, keywords={})
        with pytest.raises(NightjarError, match="outside the sensor"):
            handlers["configure"](
                settings={**SETTINGS, "region": [1, 9999, 1, 3]}, plan=PLAN, keywords={}
            )
        handlers["set_keywords"](keywords={"GAIN": [0.5, ""]})
        assert rig.keyword("GAIN") == 0.5
    finally:
        handlers["close"]()
        thread.join(10)
    assert not thread.is_alive()


def test_daemon_that_went_ends_the_grabber_but_not_the_stream(rig: Rig) -> None:
    rig.started()
    rig.grabber.run(lambda: True)
    assert describe("cam").owner_pid == 0
    with pytest.raises(Refused):
        rig.source.telemetry()


def test_start_before_configure_is_refused(rig: Rig) -> None:
    with pytest.raises(Refused):
        rig.grabber.start()


def test_dead_source_does_not_open() -> None:
    source = VcamSource(
        VcamOptions(faults=[FastFaultOptions(kind="lost_camera")]), SleepingClock()
    )
    with pytest.raises(DeviceLost):
        source.open()


def test_rate_is_measured_by_the_stamps() -> None:
    meter = RateMeter()
    for tick in range(40):
        now_ns = tick * NS_PER_S // 5
        meter.note(tick * 100, tick * 100 * 2_000_000 + 12345, now_ns)
    assert meter.hz == pytest.approx(500.0)
    # No frames any more: the rate falls to nothing.
    for tick in range(40, 60):
        meter.note(3900, 3900 * 2_000_000 + 12345, tick * NS_PER_S // 5)
    assert meter.hz == 0.0


def test_rate_of_a_slow_camera_is_measured_too() -> None:
    meter = RateMeter()
    for tick in range(400):  # a frame every 7 s, looked at five times a second
        frame = tick // 35
        meter.note(frame, frame * 7 * NS_PER_S, tick * NS_PER_S // 5)
    assert meter.hz == pytest.approx(1 / 7)
