# SPDX-License-Identifier: BSD-3-Clause
"""Handing frames over: order, refusals, absences, files that go, stops; on a clock of its own."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.sleepers import SleepersClock
from nightjar.clock import ManualClock
from nightjar.errors import NightjarError, Refused, TimedOut, Unreachable
from nightjar.fits.header import Header
from nightjard.camd.handover import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    HandOver,
    SpooledFrame,
    spooled_frames,
)


class Pipeline:
    """Takes frames over, or fails as it is told; keeps every offer with its time."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.offers: list[tuple[float, Path]] = []
        self.taken: list[Path] = []
        self.error: NightjarError | None = None
        self.refused: set[Path] = set()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def notify(self, frame: SpooledFrame, timeout_s: float) -> None:
        self.offers.append((self.clock.monotonic_ns() / 1e9, frame.path))
        self.entered.set()
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        if frame.path in self.refused:
            raise Refused("bad frame")
        self.taken.append(frame.path)


class Desk:
    """A hand-over with its pipeline and what it told."""

    def __init__(self, folder: Path, *, is_configured: bool = True) -> None:
        self.folder = folder
        self.clock = SleepersClock()
        self.pipeline = Pipeline(self.clock)
        self.accepted: list[Path] = []
        self.failed: list[tuple[Path, NightjarError]] = []
        self.gone: list[Path] = []
        self.handover = HandOver(
            self.pipeline if is_configured else None, 5.0,
            lambda frame: self.accepted.append(frame.path),
            lambda frame, error: self.failed.append((frame.path, error)),
            lambda frame: self.gone.append(frame.path), self.clock,
        )  # fmt: skip

    def frame(self, number: int, run: str = "20250101T000000.000") -> SpooledFrame:
        path = self.folder / f"test-{number:08d}-{run.replace('.', '')}.fits"
        path.write_bytes(b"")
        return SpooledFrame("TEST", run, number, path, 0, "0")

    def give(self, *frames: SpooledFrame) -> None:
        for frame in frames:
            self.handover.expect(frame.path)
            self.handover.saved(frame)

    def until(self, check: Callable[[], bool], advance_s: float = 0.0) -> None:
        """Wait for the thread, advancing its clock; with a deadline in real time."""
        deadline = time.monotonic() + 10
        while not check():
            assert time.monotonic() < deadline, (self.pipeline.offers, self.failed)
            if self.clock.is_slept_on():
                self.clock.advance(advance_s)
            time.sleep(0.001)  # polling another thread, with a deadline

    def settle(self) -> None:
        """Wait until the thread has nothing left to do at this time."""
        self.until(lambda: self.handover.is_idle)
        seen = -1
        while seen != len(self.pipeline.offers):
            seen = len(self.pipeline.offers)
            self.clock.advance(0.6)
            time.sleep(0.02)  # two turns of the thread


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.pipeline.gate.set()
    desk.handover.stop(10)


def test_frames_are_offered_in_order_however_they_are_saved(desk: Desk) -> None:
    frames = [desk.frame(number) for number in range(1, 7)]
    for frame in frames:
        desk.handover.expect(frame.path)
    desk.handover.start()
    for index in (3, 1, 5, 0):
        desk.handover.saved(frames[index])
    desk.until(lambda: len(desk.accepted) == 2)
    assert not desk.handover.is_idle, "the third is not saved yet"
    for index in (4, 2):
        desk.handover.saved(frames[index])
    desk.until(lambda: desk.handover.is_idle)
    assert desk.accepted == [frame.path for frame in frames] == desk.pipeline.taken
    assert (desk.handover.waiting, desk.handover.is_reachable) == (0, True)


def test_a_refused_frame_is_told_once_and_does_not_hold_up_the_others(desk: Desk) -> None:
    frames = [desk.frame(number) for number in range(1, 5)]
    desk.pipeline.refused = {frames[1].path}
    desk.handover.start()
    desk.give(*frames)
    desk.until(lambda: len(desk.accepted) == 3)
    assert [path for path, _ in desk.failed] == [frames[1].path]
    desk.until(lambda: len(desk.pipeline.offers) >= 8, 1.0)
    assert len(desk.failed) == 1
    assert desk.handover.is_reachable, "it answers"
    desk.pipeline.refused.clear()
    desk.until(lambda: desk.handover.waiting == 0, 1.0)
    assert desk.accepted[-1] == frames[1].path


@pytest.mark.parametrize("error", [Unreachable("nobody there"), TimedOut("no answer")])
def test_an_absent_pipeline_is_asked_with_growing_pauses(
    desk: Desk, error: NightjarError
) -> None:
    desk.pipeline.error = error
    desk.handover.start()
    desk.give(*[desk.frame(number) for number in range(1, 6)])
    desk.until(lambda: desk.handover.is_idle)
    assert len(desk.pipeline.offers) == 1, "frames do not each wait for their own time-out"
    assert len(desk.failed) == 5, "but none is kept silently: each would end a sequence"
    assert desk.handover.is_reachable is False
    assert desk.handover.message == error.message
    desk.until(lambda: len(desk.pipeline.offers) == 10, 0.25)
    times = [at for at, _ in desk.pipeline.offers]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] >= FIRST_PAUSE_S
    assert all(b > a - 2 for a, b in itertools.pairwise(pauses))
    assert LONGEST_PAUSE_S <= pauses[-1] < LONGEST_PAUSE_S + 5
    assert len(desk.failed) == 5
    desk.pipeline.error = None
    desk.until(lambda: desk.handover.waiting == 0, 1.0)
    assert [path.name[5:13] for path in desk.accepted] == [f"{n:08d}" for n in range(1, 6)]


def test_a_frame_of_a_new_sequence_during_an_absence_is_told(desk: Desk) -> None:
    """The retries of old frames must not let a whole new sequence pass unnoticed."""
    desk.pipeline.error = Unreachable("nobody there")
    desk.handover.start()
    desk.give(desk.frame(1))
    desk.until(lambda: len(desk.failed) == 1)
    desk.until(lambda: len(desk.pipeline.offers) >= 6, 0.5)
    new = desk.frame(2)
    desk.give(new)
    desk.until(lambda: len(desk.failed) == 2)
    assert desk.failed[1][0] == new.path
    assert isinstance(desk.failed[1][1], Unreachable)


def test_retry_now_does_not_wait(desk: Desk) -> None:
    desk.pipeline.error = Unreachable("nobody there")
    desk.handover.start()
    desk.give(desk.frame(1))
    desk.until(lambda: len(desk.pipeline.offers) >= 6, 0.5)
    desk.pipeline.error = None
    desk.handover.retry_now()
    desk.until(lambda: desk.handover.waiting == 0)


def test_frames_that_were_left_are_handed_over_oldest_first(desk: Desk) -> None:
    frames = [desk.frame(3), desk.frame(1), desk.frame(2)]
    desk.handover.adopt(frames)
    desk.handover.start()
    desk.until(lambda: len(desk.accepted) == 3)
    assert [path.name[5:13] for path in desk.accepted] == ["00000001", "00000002", "00000003"]
    assert not desk.failed


def test_equal_numbers_are_different_frames(desk: Desk) -> None:
    """The counter file was lost: numbers begin again while old frames still wait."""
    old = [desk.frame(n, "20240101T000000.000") for n in (1, 2)]
    desk.pipeline.error = Unreachable("nobody there")
    desk.handover.adopt(old)
    new = [desk.frame(n) for n in (1, 2)]
    desk.handover.start()
    desk.give(*new)
    desk.until(lambda: desk.handover.is_idle)
    assert desk.handover.waiting == 4
    desk.pipeline.error = None
    desk.handover.retry_now()
    desk.until(lambda: desk.handover.waiting == 0, 0.5)
    assert sorted(desk.accepted) == sorted(frame.path for frame in old + new)
    assert desk.accepted[:2] == [frame.path for frame in old]


def test_a_frame_that_waits_and_is_saved_anew_is_offered_once(desk: Desk) -> None:
    frame = desk.frame(1)
    desk.handover.adopt([frame])
    desk.give(frame)
    desk.handover.start()
    desk.until(lambda: desk.handover.waiting == 0)
    desk.settle()
    assert desk.accepted == [frame.path]


@pytest.mark.parametrize("is_known", [True, False])
def test_of_a_file_that_was_taken_away_the_pipeline_is_asked(desk: Desk, is_known: bool) -> None:
    desk.pipeline.error = TimedOut("no answer")
    desk.handover.start()
    frame = desk.frame(1)
    desk.give(frame)
    desk.until(lambda: len(desk.failed) == 1)
    frame.path.unlink()
    desk.pipeline.error = None
    if not is_known:  # somebody else took it
        desk.pipeline.refused.add(frame.path)
    desk.until(lambda: desk.handover.waiting == 0, 1.0)
    assert desk.gone == ([] if is_known else [frame.path])
    assert desk.accepted == ([frame.path] if is_known else [])


def test_a_new_frame_goes_before_a_long_queue_of_waiting_ones(desk: Desk) -> None:
    desk.pipeline.gate.clear()
    desk.handover.adopt([desk.frame(number) for number in range(1, 50)])
    desk.handover.start()
    assert desk.pipeline.entered.wait(10)
    new = desk.frame(100)
    desk.give(new)
    desk.pipeline.gate.set()
    desk.until(lambda: desk.handover.waiting == 0)
    assert desk.accepted.index(new.path) <= 1
    assert len(desk.accepted) == 50


def test_without_a_pipeline_frames_stay(tmp_path: Path) -> None:
    desk = Desk(tmp_path, is_configured=False)
    desk.handover.start()
    desk.give(desk.frame(1), desk.frame(2))
    desk.until(lambda: desk.handover.is_idle)
    assert (desk.handover.waiting, desk.failed) == (2, [])
    desk.handover.stop(10)


def test_a_bug_in_a_callback_loses_and_blocks_nothing(desk: Desk) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("bug")

    desk.handover._on_accepted = bug
    desk.handover._on_failure = bug
    frames = [desk.frame(number) for number in range(1, 4)]
    desk.pipeline.refused = {frames[1].path}
    desk.handover.start()
    desk.give(*frames)
    desk.until(lambda: desk.handover.is_idle, 0.5)
    assert desk.pipeline.taken == [frames[0].path, frames[2].path]
    assert desk.handover.waiting == 1


def test_a_stop_ends_after_the_call_in_hand(desk: Desk) -> None:
    desk.pipeline.gate.clear()
    desk.handover.start()
    desk.give(desk.frame(1), desk.frame(2))
    assert desk.pipeline.entered.wait(10)
    desk.handover.stop(0.01)
    desk.pipeline.gate.set()
    desk.handover._thread.join(10)
    assert not desk.handover._thread.is_alive()
    assert len(desk.pipeline.offers) == 1


def test_a_hand_over_that_never_started_can_be_stopped(desk: Desk) -> None:
    desk.handover.stop(0.0)


def write_frame(path: Path, **cards: object) -> None:
    header = Header()
    for keyword, value in (("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), *cards.items()):
        header.add(keyword.replace("_", "-"), value)  # type: ignore[arg-type]
    path.write_bytes(header.to_bytes())


def test_the_spool_folder_is_the_index(tmp_path: Path) -> None:
    for number in (12, 3):
        write_frame(
            tmp_path / f"test-{number:08d}-x.fits", CAMERA="TEST", RUN_ID="r", EXPCNT=number,
            DATASUM="5",
        )  # fmt: skip
    write_frame(tmp_path / "test-b-00000001-x.fits", CAMERA="OTHER", RUN_ID="r", EXPCNT=1)
    write_frame(tmp_path / "test-00000099-x.fits", CAMERA="TEST", RUN_ID="r")
    (tmp_path / "test-00000098-x.fits").write_bytes(b"not FITS")
    (tmp_path / "test-00000097-x.fits").mkdir()
    (tmp_path / ".test-00000004-x.fits.1.tmp").write_bytes(b"")
    found = spooled_frames(tmp_path, "test", "TEST")
    assert [(frame.number, frame.run, frame.datasum) for frame in found] == [
        (3, "r", "5"), (12, "r", "5"),
    ]  # fmt: skip
    assert found[0].size == found[0].path.stat().st_size
    assert spooled_frames(tmp_path / "none", "test", "TEST") == []
