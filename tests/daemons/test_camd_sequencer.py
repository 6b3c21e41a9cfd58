# SPDX-License-Identifier: BSD-3-Clause
"""Exposure sequences in process: phases, delays, full buffers, bad frames, faults, aborts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.camera_bench import Bench
from nightjar.api.states import Level
from nightjar.errors import (
    Busy,
    Code,
    DeviceError,
    DeviceLost,
    Refused,
    StorageError,
    Unreachable,
)  # fmt: skip
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter
from nightjar.times import iso, parse_iso
from nightjard.camd.drivers.base import Phase, Progress
from nightjard.camd.ring import leftover_jobs

MakeBench = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> MakeBench:
    return lambda driver=None, **changes: Bench(tmp_path, driver, **changes).init()


def starts(bench: Bench) -> list[int]:
    return [parse_iso(header["DATE-BEG"]) for header in bench.headers]


# ---------------------------------------------------------------- the plain course


def test_a_sequence_goes_through_its_states(make: MakeBench) -> None:
    bench = make()
    states = [bench.status["state"]]
    operation = bench.camera.start(2, 0.5)
    bench.outlets.is_handed_over = False

    def watch() -> bool:
        if bench.status["state"] != states[-1]:
            states.append(bench.status["state"])
        return states[-1] == "DRAINING"

    bench.until(watch)
    turn = ["WAITING", "EXPOSING", "READING"]
    assert states == ["IDLE", *turn, *turn, "DRAINING"]
    bench.run(5)
    assert not operation.is_done, "complete only when the pipeline has answered for every frame"
    assert operation.snapshot()["message"] == "saving the last frames"
    bench.outlets.is_handed_over = True
    snapshot = bench.finish(operation)
    assert snapshot["result"]["frames"] == 2
    assert snapshot["result"]["reason"] == "all frames taken"
    assert bench.status["state"] == "IDLE"
    assert bench.outlets.expected == [Path(job["path"]) for job in bench.outlets.jobs]


def test_the_cards_that_count_are_right(make: MakeBench) -> None:
    bench = make()
    bench.take(3, 2.0)
    bench.take(2)
    counts = [(h["EXPCNT"], h["SEQ-NUM"], h["SEQ-LIM"]) for h in bench.headers]
    assert counts == [(1, 1, 3), (2, 2, 3), (3, 3, 3), (4, 1, 2), (5, 2, 2)]
    assert len({h["RUN-ID"] for h in bench.headers}) == 2
    begun = starts(bench)
    cadence = [h["EXPCADNC"] for h in bench.headers]
    assert cadence[0] is cadence[3] is None, "no exposure came before"
    assert cadence[1] == pytest.approx((begun[1] - begun[0]) / 1e9, abs=1e-5)
    # 1 s of exposure, 0.1 s of read-out, 2 s of delay, and the polling between.
    assert 3.1 <= cadence[1] < 3.2
    assert 1.1 <= cadence[4] < 1.2
    assert all(h["LOST-PRE"] == h["LOST-SEQ"] == h["INVALPRE"] == 0 for h in bench.headers)
    assert all(h["EXPTIME"] == h["EXPRQSTD"] == 1.0 for h in bench.headers)
    status = bench.status
    assert (status["frames_taken"], status["frame_number"]) == (5, 5)


def test_the_temperature_in_the_header_is_recent(make: MakeBench) -> None:
    bench = make(cooler_setpoint=-5.0)
    bench.camera.set_exposure(20.0)
    bench.take(2)
    ages = [header["TEMP-AGE"] for header in bench.headers]
    assert all(-1.2 < age < 1.2 for age in ages), "within an update delay of the end"
    assert all(header["TEMP-SET"] == -5.0 for header in bench.headers)


def test_a_sequence_until_stopped(make: MakeBench) -> None:
    bench = make()
    operation = bench.camera.start(0)
    bench.until(lambda: bench.status["sequence_frame_count"] == 3)
    bench.until_state("EXPOSING")
    bench.camera.stop()
    snapshot = bench.finish(operation)
    assert (snapshot["state"], snapshot["result"]["frames"]) == ("done", 4)
    assert snapshot["result"]["reason"] == "stopped by command"
    with pytest.raises(Refused) as caught:
        bench.camera.stop()
    assert caught.value.code is Code.NOT_ACQUIRING


def test_a_stop_in_the_delay_ends_at_once(make: MakeBench) -> None:
    bench = make()
    operation = bench.camera.start(5, 1000.0)
    bench.until(lambda: bench.status["sequence_frame_count"] == 1)
    bench.run(1)
    assert bench.status["state"] == "WAITING"
    bench.camera.stop()
    assert bench.until(lambda: operation.is_done) < 1
    assert operation.snapshot()["result"]["frames"] == 1


@pytest.mark.parametrize("state", ["WAITING", "EXPOSING", "READING", "DRAINING"])
@pytest.mark.parametrize("how", ["abort", "cancel", "shutdown"])
def test_an_abort_ends_every_phase_at_once_and_keeps_finished_frames(
    make: MakeBench, state: str, how: str
) -> None:
    bench = make({"readout_time": 5.0})
    operation = bench.camera.start(2, 5.0)
    bench.until(lambda: bench.status["sequence_frame_count"] == 1)
    if state == "DRAINING":
        bench.outlets.is_saving = False
    bench.until_state(state)
    taken = len(bench.outlets.jobs)
    if how == "abort":
        abort = bench.camera.abort()
        assert bench.until(lambda: abort.is_done) < 0.5
        assert abort.snapshot()["result"] == {"was_acquiring": True}
    elif how == "cancel":
        operation.cancel()
    else:
        bench.camera.shutdown()
    assert bench.until(lambda: operation.is_done) < 0.5
    snapshot = operation.snapshot()
    assert (snapshot["state"], snapshot["detail"]["frames"]) == ("cancelled", taken)
    bench.run(1)
    assert bench.status["state"] == ("OFFLINE" if how == "shutdown" else "IDLE")
    assert not bench.unended
    assert bench.status["buffer_used"] == len(bench.outlets.unsaved)
    if how != "shutdown":
        bench.outlets.is_saving = True
        while bench.outlets.unsaved:
            bench.outlets.save_one()
        assert bench.take(6)["state"] == "done", "no slot of the four was leaked"


def test_abort_when_nothing_is_exposed(make: MakeBench) -> None:
    bench = make()
    assert bench.finish(bench.camera.abort())["result"] == {"was_acquiring": False}


def test_an_abort_reaches_into_a_long_read_out(make: MakeBench) -> None:
    """The fetch looks at its flag, and finds the command in the queue when it gives up."""
    bench = make()
    operation = bench.camera.start(3)
    abort: list[Any] = []
    real = bench.detector.inner.fetch

    def fetch(buffer: Any, is_cancelled: Callable[[], bool]) -> Any:
        if not abort:
            abort.append(bench.camera.abort())
        assert is_cancelled()
        from nightjar.errors import Cancelled

        raise Cancelled("fetch")

    bench.detector.inner.fetch = fetch
    snapshot = bench.finish(operation)
    assert snapshot["state"] == "cancelled"
    assert bench.finish(abort[0])["result"] == {"was_acquiring": True}
    assert bench.status["health"]["level"] == "OK"
    bench.detector.inner.fetch = real
    assert bench.take(5)["state"] == "done"


def test_a_flag_of_an_earlier_sequence_does_not_cancel_the_next(make: MakeBench) -> None:
    bench = make()
    bench.camera.start(0)
    bench.until_state("EXPOSING")
    assert bench.camera._open is not None
    old = bench.camera._open.sequencer.cancel_fetch
    bench.finish(bench.camera.abort())
    operation = bench.camera.start(2)
    old.set()
    assert bench.finish(operation)["state"] == "done"


def test_a_cancelled_fetch_whose_command_never_comes_ends_the_sequence(make: MakeBench) -> None:
    bench = make()
    operation = bench.camera.start(0)
    bench.until_state("EXPOSING")
    assert bench.camera._open is not None
    bench.camera._open.sequencer.cancel_fetch.set()
    assert bench.finish(operation, 10)["state"] in ("cancelled", "failed")
    assert bench.take(1)["state"] == "done"


def test_a_late_cancel_does_not_end_the_next_sequence(make: MakeBench) -> None:
    bench = make()
    first = bench.camera.start(1)
    bench.until(lambda: first.is_done)
    second = bench.camera.start(1)
    bench.camera._abort_by_cancel(first)  # was on its way when the first one ended
    assert bench.finish(second)["state"] == "done"


def test_commands_while_busy(make: MakeBench) -> None:
    bench = make({"filters": ["B", "R"]})
    operation = bench.camera.start(2)
    bench.until_state("EXPOSING")
    settings: list[Callable[[], Any]] = [
        lambda: bench.camera.start(1), lambda: bench.camera.set_gain(1),
        lambda: bench.camera.set_exposure(2), lambda: bench.camera.set_filter("R"),
        lambda: bench.camera.set_window(None), lambda: bench.camera.configure({}),
        lambda: bench.camera.set_binning(2, None), lambda: bench.camera.set_stream(True),
    ]  # fmt: skip
    for command in settings:
        with pytest.raises(Busy, match="stop or abort"):
            command()
    with pytest.raises(Refused):
        bench.camera.init()
    bench.camera.set_temperature(-5.0)
    assert bench.finish(operation)["state"] == "done"


def test_a_sequence_waits_for_the_filter_wheel(make: MakeBench) -> None:
    bench = make({"filters": ["1", "2"], "filter_time": 7.0}, filters=["B", "R"])
    bench.camera.set_filter("R")
    operation = bench.camera.start(1)
    bench.run(5)
    assert bench.status["state"] == "WAITING"
    assert bench.status["filter"] is None
    bench.finish(operation)
    assert bench.headers[0]["FILTER"] == "R"


def test_a_delay_needs_single_exposures(make: MakeBench) -> None:
    bench = make()
    bench.camera.set_stream(True)
    with pytest.raises(Refused, match="delay"):
        bench.camera.start(3, 1.0)


# ---------------------------------------------------------------- full buffer


def test_full_buffer_wait(make: MakeBench) -> None:
    bench = make(full_buffer="wait")
    bench.outlets.is_saving = False
    operation = bench.camera.start(8)
    bench.until(lambda: bench.status["buffer_used"] == 4)
    bench.run(30)
    assert (bench.status["state"], bench.status["buffer_waits"]) == ("WAITING", 1)
    exposures = bench.detector.calls["start"]
    bench.run(30)
    assert bench.detector.calls["start"] == exposures, "no exposure that cannot be kept"
    bench.outlets.save_one()
    bench.until(lambda: bench.status["frames_taken"] == 5)
    bench.run(5)
    bench.outlets.is_saving = True
    while bench.outlets.unsaved:
        bench.outlets.save_one()
    assert bench.finish(operation)["result"]["lost"] == 0
    waits = [header["BUF-FULL"] for header in bench.headers]
    assert waits == [0, 0, 0, 0, 1, 2, 2, 2]
    assert bench.status["buffer_waits"] == 2


def test_a_stop_while_waiting_for_a_slot_ends(make: MakeBench) -> None:
    bench = make(full_buffer="wait")
    bench.outlets.is_saving = False
    operation = bench.camera.start(0)
    bench.until(lambda: bench.status["buffer_waits"] == 1)
    bench.camera.stop()
    bench.until_state("DRAINING")
    assert not operation.is_done
    while bench.outlets.unsaved:
        bench.outlets.save_one()
    assert bench.finish(operation)["result"]["frames"] == 4


def test_full_buffer_drop_counts_what_it_drops(make: MakeBench) -> None:
    bench = make(full_buffer="drop")
    bench.outlets.is_saving = False
    operation = bench.camera.start(6, 0.5)
    bench.until(lambda: bench.status["frames_lost"] == 3)
    assert bench.status["frames_taken"] == 4
    bench.outlets.is_saving = True
    while bench.outlets.unsaved:
        bench.outlets.save_one()
    result = bench.finish(operation)["result"]
    assert (result["frames"], result["lost"]) == (6, 3)
    assert [header["LOST-PRE"] for header in bench.headers] == [0, 0, 0, 0, 3, 0]
    assert [header["LOST-SEQ"] for header in bench.headers] == [0, 0, 0, 0, 3, 3]
    assert [header["EXPCNT"] for header in bench.headers] == [1, 2, 3, 4, 5, 6]
    assert bench.status["buffer_waits"] == 3
    # The pause between exposures holds after a dropped one too.
    assert bench.headers[4]["EXPCADNC"] == pytest.approx(4 * 1.6, abs=0.3)


def test_full_buffer_stop(make: MakeBench) -> None:
    bench = make(full_buffer="stop")
    bench.outlets.is_saving = False
    operation = bench.camera.start(10)
    bench.until_state("DRAINING")
    while bench.outlets.unsaved:
        bench.outlets.save_one()
    snapshot = bench.finish(operation)
    assert (snapshot["state"], snapshot["detail"]["frames"]) == ("failed", 4)
    assert "buffer is full" in snapshot["message"]
    assert "buffer is full" in bench.status["last_stop"]


@pytest.mark.parametrize("policy", ["wait", "drop", "stop"])
def test_full_buffer_in_stream_mode(make: MakeBench, policy: str) -> None:
    bench = make(full_buffer=policy)
    bench.camera.set_stream(True)
    bench.outlets.is_saving = False
    operation = bench.camera.start(0)
    bench.until(lambda: bench.status["buffer_waits"] == 1)
    bench.run(20)  # the camera holds two frames and overwrites the others
    bench.outlets.is_saving = True
    while bench.outlets.unsaved:
        bench.outlets.save_one()
    bench.run(3)
    if policy != "stop":
        bench.camera.stop()
    snapshot = bench.finish(operation)
    assert snapshot["state"] == ("failed" if policy == "stop" else "done")
    counted = snapshot["detail"] if policy == "stop" else snapshot["result"]
    ids = [header["HW-FRAME"] for header in bench.headers]
    assert ids == sorted(set(ids))
    missing = ids[-1] - ids[0] + 1 - len(ids)
    assert missing > 10
    assert counted["lost"] == missing == sum(header["LOST-PRE"] for header in bench.headers)
    assert bench.status["frames_lost"] == missing
    assert bench.headers[4]["LOST-PRE"] == missing


# ---------------------------------------------------------------- stream mode


def test_stream_mode_overlaps_exposures(make: MakeBench) -> None:
    bench = make({"readout_time": 0.5})
    bench.camera.set_stream(True)
    assert bench.take(5)["state"] == "done"
    assert [header["HW-FRAME"] for header in bench.headers] == [1, 2, 3, 4, 5]
    assert [header["EXPCADNC"] for header in bench.headers] == [None, 1.0, 1.0, 1.0, 1.0]
    assert {header["CAM-TFER"] for header in bench.headers} == {"STREAM"}
    assert bench.status["frames_lost"] == 0
    assert bench.detector.inner.poll().phase is Phase.IDLE, "the stream was ended"


def test_losses_beside_bad_frames_are_counted_once(make: MakeBench) -> None:
    """A bad frame in a stream is neither lost twice nor does it hide what was lost before it."""
    bench = make({"memory_frames": 1, "faults": [{"kind": "zero_frame", "at_frame": 8}]})
    bench.camera.set_stream(True)
    operation = bench.camera.start(0)
    bench.until(lambda: bench.status["frames_taken"] == 3)
    bench.clock.advance(4.0)  # the computer was away: 4, 5, 6 are overwritten
    bench.until(lambda: bench.status["frames_taken"] == 6)
    bench.camera.stop()
    snapshot = bench.finish(operation)
    ids = [header["HW-FRAME"] for header in bench.headers]
    invalid = bench.status["frames_invalid"]
    assert invalid == 1
    assert 8 not in ids
    assert snapshot["result"]["lost"] == ids[-1] - len(ids) - invalid
    assert sum(h["LOST-PRE"] for h in bench.headers) == snapshot["result"]["lost"] >= 2
    assert [h["INVALPRE"] for h in bench.headers if h["HW-FRAME"] == 9] == [1]


def test_a_bad_frame_of_a_long_stream_is_no_hang(make: MakeBench) -> None:
    bench = make({"faults": [{"kind": "zero_frame", "at_frame": 2}]}, readout_timeout=5)
    bench.camera.set_stream(True)
    bench.camera.set_exposure(30.0)
    assert bench.take(3, limit_s=200)["state"] == "done"
    assert [header["HW-FRAME"] for header in bench.headers] == [1, 3, 4]


# ---------------------------------------------------------------- bad frames


@pytest.mark.parametrize("kind", ["zero_frame", "stale_frame"])
def test_a_bad_frame_is_taken_again(make: MakeBench, kind: str) -> None:
    bench = make({"faults": [{"kind": kind, "at_frame": 2, "frames": 2}]})
    snapshot = bench.take(3)
    assert (snapshot["state"], snapshot["result"]["frames"]) == ("done", 3)
    assert [header["INVALPRE"] for header in bench.headers] == [0, 2, 0]
    assert [header["EXPCNT"] for header in bench.headers] == [1, 2, 3]
    assert bench.status["frames_invalid"] == 2
    assert bench.status["frames_lost"] == 0


def test_an_old_frame_at_the_beginning_of_a_sequence_is_seen(make: MakeBench) -> None:
    bench = make({"hardware_id": False, "embed": False})
    bench.take(1)
    bench.detector.inner._faults._armed.clear()
    bench.detector.inner.options.faults.append(_fault("stale_frame"))
    bench.detector.inner._faults._configured = tuple(bench.detector.inner.options.faults)
    bench.detector.inner._faults.arm(bench.clock.monotonic_ns())
    assert bench.take(1)["code"] == "FRAME_INVALID"


def _fault(kind: str) -> Any:
    from nightjard.camd.drivers.options import FaultOptions

    return FaultOptions(kind=kind)  # type: ignore[arg-type]


def test_saturated_frames_are_frames(make: MakeBench) -> None:
    bench = make(
        {"scene": "flat", "flat_level": 1e9, "embed": False, "hardware_id": False,
         "full_well": 1e6, "hot_pixels": 0},
    )  # fmt: skip
    assert bench.take(3)["state"] == "done"


def test_too_many_bad_frames_end_the_sequence(make: MakeBench) -> None:
    bench = make({"faults": [{"kind": "zero_frame", "at_frame": 2, "frames": 99}]}, frame_retries=2)
    snapshot = bench.take(3)
    assert (snapshot["code"], snapshot["detail"]["frames"]) == ("FRAME_INVALID", 1)
    assert "3 times in a row" in snapshot["message"]
    assert bench.status["state"] == "IDLE"
    assert bench.status["buffer_used"] == 0
    assert bench.health.level_of("camera") is Level.DEGRADED


def test_no_retries_when_none_are_wanted(make: MakeBench) -> None:
    bench = make({"faults": [{"kind": "zero_frame", "at_frame": 1}]}, frame_retries=0)
    assert bench.take(1)["code"] == "FRAME_INVALID"
    assert bench.detector.calls["start"] == 1


# ---------------------------------------------------------------- faults


def test_an_exposure_that_hangs_is_given_up(make: MakeBench) -> None:
    bench = make(
        {"faults": [{"kind": "slow_readout", "at_frame": 2, "seconds": 1e6}]}, readout_timeout=10
    )
    snapshot = bench.take(3)
    assert (snapshot["code"], snapshot["detail"]["frames"]) == ("DEVICE_WEDGED", 1)
    assert bench.status["summary"] == "STANDBY"
    bench.init()
    assert bench.take(1)["state"] == "done"


def test_an_exposure_that_vanishes_is_an_error_not_a_hang(make: MakeBench) -> None:
    bench = make()
    bench.detector.inner.poll = lambda: Progress(Phase.IDLE)
    snapshot = bench.take(3)
    assert snapshot["code"] == "DEVICE_FAULT"
    assert "without a frame" in snapshot["message"]


@pytest.mark.parametrize("call", ["start", "poll", "fetch", "abort", "telemetry"])
@pytest.mark.parametrize("frames", [0, 1])
def test_a_camera_lost_in_any_phase_leaves_standby_and_every_finished_frame(
    make: MakeBench, call: str, frames: int
) -> None:
    bench = make()
    operation = bench.camera.start(3)
    bench.until(lambda: bench.status["sequence_frame_count"] == frames)
    bench.detector.always[call] = DeviceLost("the cable was pulled")
    snapshot = bench.finish(operation)
    assert (snapshot["code"], bench.status["summary"]) == ("DEVICE_LOST", "STANDBY")
    assert snapshot["detail"]["frames"] == len(bench.outlets.jobs)
    assert bench.status["buffer_used"] == 0
    assert bench.health.level_of("camera") is Level.FAILED
    assert not bench.unended
    bench.detector.always.clear()
    bench.init()
    bench.take(5)
    numbers = [header["EXPCNT"] for header in bench.headers]
    assert numbers == sorted(set(numbers))


def test_a_device_error_ends_the_sequence_but_not_the_connection(make: MakeBench) -> None:
    bench = make()
    operation = bench.camera.start(3)
    bench.until_state("EXPOSING")
    bench.detector.failures["poll"] = [DeviceError("bad answer")]
    assert bench.finish(operation)["code"] == "DEVICE_FAULT"
    assert bench.status["summary"] == "READY"
    assert bench.status["health"]["level"] == "DEGRADED"
    assert bench.take(1)["state"] == "done"
    assert bench.status["health"]["level"] == "OK"


def test_a_frame_that_cannot_be_numbered_is_not_exposed(
    make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightjard.camd.counter.BLOCK", 2)
    bench = make()
    exposures = []

    def fail(*_: Any) -> None:
        exposures.append(bench.detector.calls["start"])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nightjard.camd.counter.write_json_durably", fail)
    snapshot = bench.take(5)
    assert (snapshot["code"], snapshot["detail"]["frames"]) == ("STORAGE_FAILED", 2)
    assert exposures == [2], "asked before the exposure, not after it"
    assert bench.status["state"] == "IDLE"


def test_a_frame_that_cannot_be_published_blocks_nothing(
    make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    publish = StreamWriter.publish
    calls = []

    def fail_once(self: StreamWriter, *arguments: Any) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise StorageError("no")
        return publish(self, *arguments)

    monkeypatch.setattr(StreamWriter, "publish", fail_once)
    assert bench.take(3)["code"] == "STORAGE_FAILED"
    assert leftover_jobs("TEST") == [], "a later daemon does not find what was given up"
    assert bench.outlets.expected == [Path(job["path"]) for job in bench.outlets.jobs]
    assert bench.status["buffer_used"] == 0
    assert bench.take(5)["state"] == "done"


def test_a_pipeline_that_does_not_take_a_frame_aborts(make: MakeBench) -> None:
    bench = make()
    operation = bench.camera.start(0)
    bench.until(lambda: bench.status["sequence_frame_count"] == 2)
    bench.camera.frame_not_accepted(1, Unreachable("nobody answers"))
    snapshot = bench.finish(operation)
    assert (snapshot["state"], snapshot["code"]) == ("failed", "UNREACHABLE")
    assert "frame 1" in bench.status["last_stop"]
    said = len(bench.outlets.errors)
    bench.camera.frame_not_accepted(2, Unreachable("nobody answers"))
    bench.run(1)
    assert len(bench.outlets.errors) == said, "the health tells it; the log is not filled"


@pytest.mark.parametrize("state", ["EXPOSING", "DRAINING"])
def test_a_frame_that_cannot_be_saved_ends_the_sequence(make: MakeBench, state: str) -> None:
    bench = make()
    bench.outlets.is_saving = False
    operation = bench.camera.start(1 if state == "DRAINING" else 3)
    bench.until_state(state)
    bench.camera.frame_not_saved(1, StorageError("disk full", code=Code.NO_SPACE))
    assert bench.finish(operation)["code"] == "NO_SPACE"
    assert bench.health.level_of("storage") is Level.FAILED


def test_a_frame_that_is_saved_before_its_trouble_is_looked_at_leaves_all_well(
    make: MakeBench,
) -> None:
    bench = make()
    bench.camera.start(3)
    bench.until_state("EXPOSING")
    bench.camera.frame_not_saved(1, StorageError("disk full", code=Code.NO_SPACE))
    bench.health.ok("storage")  # the thread that saves was quicker than the camera's
    bench.run(1)
    assert bench.status["state"] == "IDLE"
    assert bench.health.level_of("storage") is Level.OK


def test_a_stepped_clock_is_counted_and_ends_nothing(make: MakeBench) -> None:
    bench = make()
    operation = bench.camera.start(5)
    bench.until(lambda: bench.status["sequence_frame_count"] == 2)
    bench.clock.step_wall(-3600.0)
    bench.until(lambda: bench.status["sequence_frame_count"] == 4)
    bench.clock.step_wall(7200.0)
    assert bench.finish(operation)["state"] == "done"
    steps = [header["CLK-STEP"] for header in bench.headers]
    assert steps == pytest.approx([0, 0, -3600, -3600, 3600])
    assert len({job["path"] for job in bench.outlets.jobs}) == 5
    assert sum("stepped" in text for text in bench.outlets.said) == 2


def test_the_stream_tells_times_and_numbers_of_its_newest_frame(make: MakeBench) -> None:
    bench = make()
    for _ in range(2):
        bench.take(1)
        reader = StreamReader("TEST")
        try:
            found = {name: keyword.value for name, keyword in reader.keywords().items()}
            atime_ns = reader.latest().atime_ns
        finally:
            reader.close()
        header = bench.headers[-1]
        assert (found["EXPCNT"], found["HW-FRAME"]) == (header["EXPCNT"], header["HW-FRAME"])
        assert found["START-NS"] == atime_ns
        assert found["END-NS"] - found["START-NS"] == 10**9
        assert 2 * found["MID-NS"] == found["START-NS"] + found["END-NS"]
        assert iso(found["END-NS"]) == header["DATE-END"]
        assert found["TIME-SRC"] == header["TIME-SRC"]


def test_every_job_is_plain_json(make: MakeBench) -> None:
    bench = make()
    bench.take(1)
    job = bench.outlets.jobs[0]
    assert json.loads(json.dumps(job)) == job
