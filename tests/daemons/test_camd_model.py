# SPDX-License-Identifier: BSD-3-Clause
"""The camera model: connecting, settings, cooling at the ends of its life, and failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.camera_bench import FRAME_BYTES, HEIGHT, WIDTH, Bench
from kit.site import eventually
from nightjar.api.states import Level
from nightjar.clock import ScaledClock
from nightjar.errors import (
    Busy,
    Code,
    DeviceError,
    DeviceLost,
    DeviceWedged,
    InvalidArgument,
    NightjarError,
    Refused,
    StorageError,
)  # fmt: skip
from nightjard.camd.model import Camera

MakeBench = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> MakeBench:
    return lambda driver=None, **changes: Bench(tmp_path, driver, **changes)


# ---------------------------------------------------------------- init


def test_init_connects_and_tells_what_is_there(make: MakeBench) -> None:
    bench = make()
    assert (bench.status["summary"], bench.status["state"]) == ("STANDBY", "OFFLINE")
    operation = bench.camera.init()
    assert (bench.status["summary"], bench.status["state"]) == ("BUSY", "INITIALIZING")
    with pytest.raises(Busy):
        bench.camera.init()
    snapshot = bench.finish(operation)
    assert snapshot["result"]["serial"] == "12345"
    assert (bench.status["summary"], bench.status["state"]) == ("READY", "IDLE")
    assert bench.status["buffer_slots"] == 4
    with pytest.raises(Refused) as caught:
        bench.camera.init()
    assert caught.value.code is Code.ALREADY_INITIALIZED


@pytest.mark.parametrize("call", ["open", "configure", "telemetry"])
@pytest.mark.parametrize(
    "error",
    [DeviceError("broken"), DeviceLost("gone"), DeviceWedged("hung"), ValueError("driver bug")],
)
def test_init_that_fails_at_any_call_ends_and_can_be_repeated(
    make: MakeBench, call: str, error: Exception
) -> None:
    bench = make()
    bench.detector.failures[call] = [error]
    snapshot = bench.finish(bench.camera.init())
    if call == "telemetry" and type(error) is DeviceError:
        # A temperature that cannot be read is no reason to refuse exposures.
        assert snapshot["state"] == "done"
        assert bench.status["health"]["parts"]["cooler"]["reason"] == "broken"
        bench.run(3)
        assert bench.status["health"]["level"] == "OK"
        return
    assert snapshot["state"] == "failed"
    assert str(error) in snapshot["message"]
    assert bench.status["summary"] == "STANDBY"
    assert bench.status["health"]["level"] != "OK"
    assert bench.status["last_error"]["message"]
    assert not bench.unended
    bench.run(2)
    bench.init()
    assert bench.status["health"]["level"] == "OK"
    assert bench.take(2)["state"] == "done"


def test_init_fails_where_the_counter_or_the_buffer_cannot_be_made(
    make: MakeBench, tmp_path: Path
) -> None:
    (tmp_path / "counter.json").mkdir()
    bench = make()
    assert bench.finish(bench.camera.init())["code"] == "STORAGE_FAILED"
    assert (tmp_path / "counter.json").is_dir(), "a folder is not a damaged count"
    (tmp_path / "counter.json").rmdir()
    make_ring, bench.camera._setup._make_ring = bench.camera._setup._make_ring, _no_room
    assert bench.finish(bench.camera.init())["code"] == "NO_SPACE"
    assert bench.status["summary"] == "STANDBY"
    bench.camera._setup._make_ring = make_ring
    bench.init()


def _no_room(shape: tuple[int, int]) -> Any:
    raise StorageError("no room in shared memory", code=Code.NO_SPACE)


def test_a_damaged_counter_is_told(make: MakeBench, tmp_path: Path) -> None:
    (tmp_path / "counter.json").write_text('{"exposure_count": "many"}')
    bench = make().init()
    assert any("was damaged" in text for text in bench.outlets.errors)


def test_commands_before_init_are_refused_not_queued(make: MakeBench) -> None:
    bench = make()
    commands: list[Callable[[], Any]] = [
        lambda: bench.camera.start(1), bench.camera.stop, lambda: bench.camera.set_gain(1),
        lambda: bench.camera.set_exposure(1), lambda: bench.camera.set_temperature(0),
        lambda: bench.camera.set_filter("R"), lambda: bench.camera.configure({}),
        bench.camera.shutdown,
    ]  # fmt: skip
    for command in commands:
        with pytest.raises(Refused) as caught:
            command()
        assert caught.value.code is Code.NOT_INITIALIZED
    snapshot = bench.finish(bench.camera.abort())
    assert snapshot["code"] == "NOT_INITIALIZED"
    assert not bench.unended


# ---------------------------------------------------------------- settings


def test_configure_is_all_or_nothing_whatever_refuses(make: MakeBench) -> None:
    bench = make({"filters": ["B", "R"]}).init()
    bench.camera.configure({"exposure": 2.0, "gain": 30, "temperature": -3.0, "filter": "R"})
    bench.run(3)
    keys = ("exposure_time", "gain", "binning", "window", "cooler_setpoint", "filter")
    before = {key: bench.status[key] for key in keys}
    assert before["filter"] == "R"
    wrong: list[dict[str, Any]] = [
        {"gain": 40, "window": [1, WIDTH + 1, 1, HEIGHT]}, {"gain": 40, "bin": 7},
        {"gain": 40, "filter": "V"}, {"gain": 40, "offset": 256}, {"gain": 40, "other": 1},
        {"gain": 40, "exposure": 1e9}, {"gain": 40, "exposure": float("nan")},
        {"gain": 40, "window": [1, 2, 3]},
    ]  # fmt: skip
    for settings in wrong:
        with pytest.raises((Refused, InvalidArgument)):
            bench.camera.configure({"temperature": -9.0, **settings})
        assert {key: bench.status[key] for key in keys} == before
    # The driver refuses in the middle, when half has been done.
    for call in ("configure", "move_filter"):
        bench.detector.failures[call] = [Refused(f"{call} refused")]
        with pytest.raises(Refused, match="refused"):
            bench.camera.configure({"gain": 40, "temperature": -9.0, "filter": "B"})
        assert {key: bench.status[key] for key in keys} == before
    assert bench.take(1)["state"] == "done"
    header = bench.headers[-1]
    assert (header["CAM-GAIN"], header["EXPRQSTD"], header["FILTER"]) == (30, 2.0, "R")
    assert not bench.unended


def test_a_driver_that_refuses_the_old_settings_too_keeps_the_first_error(make: MakeBench) -> None:
    bench = make().init()
    bench.detector.failures["configure"] = [DeviceError("first"), DeviceError("second")]
    with pytest.raises(DeviceError, match="first"):
        bench.camera.set_gain(31)
    assert bench.status["gain"] == 26
    assert bench.take(1)["state"] == "done"
    assert bench.headers[-1]["CAM-GAIN"] == 26


@pytest.mark.parametrize("kind", [DeviceLost, DeviceWedged])
def test_a_camera_that_is_lost_while_set_is_disconnected_at_once(
    make: MakeBench, kind: type[NightjarError]
) -> None:
    bench = make().init()
    bench.detector.failures["configure"] = [kind("gone")]
    with pytest.raises(kind):
        bench.camera.set_gain(31)
    assert bench.status["summary"] == "STANDBY"
    assert bench.health.level_of("camera") is Level.FAILED
    bench.init()
    assert bench.take(1)["state"] == "done"


def test_binning_that_the_camera_cannot_fit_to_a_window_is_done_in_software(
    make: MakeBench,
) -> None:
    bench = make({"hardware_binnings": [1, 2]}).init()
    bench.camera.set_binning(2, "sum")
    bench.take(1)
    assert (bench.outlets.jobs[-1]["binning"], bench.outlets.jobs[-1]["shape"]) == (1, [12, 16])
    bench.camera.set_window([2, 21, 3, 12], None)  # begins within one of the camera's pixels
    assert bench.take(1)["state"] == "done"
    job = bench.outlets.jobs[-1]
    assert (job["binning"], job["shape"]) == (2, [HEIGHT, WIDTH])
    assert job["crop"] == [2, 12, 1, 21]
    assert job["header"]["CAM-WIND"] == "[2:21,3:12]"


def test_a_read_out_of_another_size_waits_for_the_frames_of_the_old_one(make: MakeBench) -> None:
    bench = make({"hardware_window": True}).init()
    bench.outlets.is_saving = False
    operation = bench.camera.start(1)
    bench.until_state("DRAINING")
    bench.finish(bench.camera.abort())
    assert operation.snapshot()["state"] == "cancelled"
    with pytest.raises(Busy, match="still being saved"):
        bench.camera.set_window([1, 8, 1, 8], None)
    assert bench.status["window"] == [1, WIDTH, 1, HEIGHT]
    bench.outlets.save_one()
    bench.outlets.is_saving = True
    bench.camera.set_window([1, 8, 1, 8], None)
    assert bench.take(1)["state"] == "done"
    assert bench.outlets.jobs[-1]["shape"] == [8, 8]
    assert bench.status["buffer_slots"] == 4 * FRAME_BYTES // (2 * 8 * 8)


def test_named_windows(make: MakeBench) -> None:
    bench = make(windows={"default": [1, 16, 1, 16], "star": [5, 8, 5, 8]}).init()
    assert bench.status["window"] == [1, 16, 1, 16]
    bench.camera.set_window(None, "star")
    assert bench.status["window"] == [5, 8, 5, 8]
    with pytest.raises(Refused, match="default, star"):
        bench.camera.set_window(None, "moon")
    bench.camera.set_window(None, "default")
    assert bench.status["window"] == [1, 16, 1, 16]


# ---------------------------------------------------------------- filter wheel


def test_a_filter_command_that_is_overtaken_ends(make: MakeBench) -> None:
    bench = make({"filters": ["B", "V", "R"], "filter_time": 5.0}).init()
    first = bench.camera.set_filter("R")
    bench.run(1)
    second = bench.camera.set_filter("V")
    assert first.snapshot()["state"] == "cancelled"
    assert bench.finish(second)["result"] == {"filter": "V"}


@pytest.mark.parametrize("error", [DeviceError("stuck"), DeviceLost("gone")])
@pytest.mark.parametrize("call", ["move_filter", "telemetry"])
def test_a_filter_command_that_fails_ends(make: MakeBench, call: str, error: Exception) -> None:
    bench = make({"filters": ["B", "V"], "filter_time": 5.0}).init()
    if call == "move_filter":
        bench.detector.failures[call] = [error]
        with pytest.raises(DeviceError):
            bench.camera.set_filter("V")
    else:
        operation = bench.camera.set_filter("V")
        bench.detector.failures[call] = [error] * 3
        assert bench.finish(operation, 5)["state"] == "failed"
    assert not bench.unended
    assert (bench.status["summary"] == "STANDBY") == isinstance(error, DeviceLost)


def test_a_filter_wheel_that_never_arrives_is_given_up(make: MakeBench) -> None:
    bench = make({"filters": ["B", "V"], "filter_time": 1e6}).init()
    operation = bench.camera.set_filter("V")
    taken_s = bench.until(lambda: operation.is_done, 70)
    assert taken_s == pytest.approx(60, abs=1)
    assert "did not arrive" in operation.snapshot()["message"]
    assert bench.status["state"] == "IDLE"


def test_shutdown_ends_a_filter_command(make: MakeBench) -> None:
    bench = make({"filters": ["B", "V"], "filter_time": 50.0}).init()
    moving = bench.camera.set_filter("V")
    assert bench.finish(bench.camera.shutdown())["state"] == "done"
    assert moving.snapshot()["state"] == "cancelled"


# ---------------------------------------------------------------- shutdown


def cold(make: MakeBench, **changes: Any) -> Bench:
    bench = make(
        {"cooling_time": 5.0}, cooler_setpoint=-5.0, cooler_response=3.0, cooler_pwm_step=10,
        **changes,
    )  # fmt: skip
    bench.init()
    bench.until(lambda: bench.status["cooler_mode"] == "LOCKED", 300)
    return bench


def test_shutdown_ramps_to_warm_then_disconnects(make: MakeBench) -> None:
    bench = cold(make)
    power = bench.status["cooler_power"]
    operation = bench.camera.shutdown()
    assert bench.status["state"] == "CLOSING"
    with pytest.raises(Busy):
        bench.camera.start(1)
    with pytest.raises(Busy):
        bench.camera.set_temperature(-5)
    assert bench.camera.shutdown() is operation, "asked twice, there is one shutdown"
    taken_s = bench.until(lambda: operation.is_done, 300)
    assert taken_s == pytest.approx(power * 255 / 10, abs=3)
    assert operation.snapshot()["result"] == {"warm": True}
    assert bench.status["summary"] == "STANDBY"
    steps = [
        abs(b[1] - a[1]) / ((b[0] - a[0]) / 1e9)
        for a, b in zip(bench.detector.pwm, bench.detector.pwm[1:], strict=False)
    ]
    assert max(steps) <= 10 + 1.01, "one unit is rounding"
    assert bench.detector.pwm[-1][1] == 0


def test_shutdown_without_warming_cuts_a_ramp_short(make: MakeBench) -> None:
    bench = cold(make)
    operation = bench.camera.shutdown()
    bench.run(3)
    assert bench.camera.shutdown(warm=False) is operation
    assert bench.finish(operation, 2)["result"] == {"warm": False}


def test_a_cancelled_shutdown_leaves_the_camera_usable(make: MakeBench) -> None:
    bench = cold(make)
    operation = bench.camera.shutdown()
    bench.run(2)
    operation.cancel()
    assert bench.finish(operation)["state"] == "cancelled"
    assert bench.status["state"] == "IDLE"
    assert bench.take(1)["state"] == "done"


def test_a_ramp_is_bounded_by_warm_timeout(make: MakeBench) -> None:
    bench = cold(make, warm_timeout=4)
    operation = bench.camera.shutdown()
    taken_s = bench.until(lambda: operation.is_done)
    assert taken_s == pytest.approx(4, abs=1)
    assert operation.snapshot()["result"] == {"warm": False}


def test_a_dead_cooler_does_not_hold_up_the_shutdown(make: MakeBench, tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    bench = make({"fault_path": str(faults)}, cooler_setpoint=-5.0, cooler_pwm_step=20).init()
    bench.run(5)
    faults.write_text(json.dumps({"faults": [{"kind": "cooler_fault"}]}))
    bench.run(3)
    assert bench.status["cooler_mode"] == "FAULT"
    assert "UVLO" in bench.status["health"]["reason"]
    operation = bench.camera.shutdown()
    assert bench.until(lambda: operation.is_done, 60) < 20


@pytest.mark.parametrize("call", ["abort", "close", "telemetry"])
@pytest.mark.parametrize("error", [DeviceError("broken"), DeviceLost("gone"), ValueError("bug")])
def test_shutdown_ends_whatever_fails(make: MakeBench, call: str, error: Exception) -> None:
    bench = make().init()
    bench.camera.start(0)
    bench.until_state("EXPOSING")
    bench.detector.always[call] = error
    try:
        bench.camera.shutdown()
    except (DeviceLost, ValueError):
        bench.detector.always.clear()
        if bench.status["summary"] != "STANDBY":
            bench.camera.shutdown()
    bench.until(lambda: bench.status["summary"] == "STANDBY", 700)
    assert not bench.unended


def test_close_for_exit_without_init_does_nothing(make: MakeBench) -> None:
    bench = make()
    bench.camera.close_for_exit(lambda _: None, threading.Event())
    with pytest.raises(Refused) as caught:
        bench.camera.init()
    assert caught.value.code is Code.STOPPING
    assert bench.status["summary"] == "STOPPING"


def in_thread(bench: Bench, rate: float) -> Camera:
    """Give the model a clock that runs and its own thread."""
    clock = ScaledClock(rate)
    bench.detector.inner._clock = clock
    camera = Camera(
        bench.config, bench.detector, bench.make_ring, bench.make_counter, bench.outlets, clock,
        bench.health, bench.operations,
    )  # fmt: skip
    bench.outlets.camera = camera
    camera.start_thread()
    return camera


def test_a_stop_of_the_daemon_during_init_disconnects(make: MakeBench) -> None:
    bench = make()
    entered, gate = threading.Event(), threading.Event()
    real = bench.detector.inner.open

    def slow_open() -> Any:
        entered.set()
        assert gate.wait(10)
        return real()

    bench.detector.inner.open = slow_open
    camera = in_thread(bench, 20.0)
    operation = camera.init()
    assert entered.wait(10)
    ending = threading.Thread(target=camera.close_for_exit, args=(bench.outlets.info, _set()))
    ending.start()
    gate.set()
    ending.join(20)
    assert not ending.is_alive()
    camera.end_thread()
    assert operation.is_done
    assert camera.status()["state"] == "OFFLINE"
    assert bench.detector.calls["close"] >= 1


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@pytest.mark.parametrize("phase", ["IDLE", "EXPOSING", "WAITING", "CLOSING"])
def test_a_stop_of_the_daemon_in_any_state_disconnects(make: MakeBench, phase: str) -> None:
    bench = make()
    camera = in_thread(bench, 20.0)
    assert camera.init().wait(10)
    if phase in ("EXPOSING", "WAITING"):
        camera.set_exposure(100.0 if phase == "EXPOSING" else 0.001)
        sequence = camera.start(0, 1000.0)
        while camera.status()["state"] != phase:
            assert not sequence.wait(0.001)
    if phase == "CLOSING":
        camera.set_temperature(-30.0)
        camera.shutdown()
    camera.close_for_exit(bench.outlets.info, _set())
    assert camera.status()["state"] == "OFFLINE"
    camera.end_thread()
    assert not bench.unended


# ---------------------------------------------------------------- the owner thread


def test_a_command_that_was_not_taken_in_time_is_not_carried_out_later(
    make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    entered, gate = threading.Event(), threading.Event()
    camera = in_thread(bench, 1.0)
    assert camera.init().wait(10)

    def hang() -> None:
        entered.set()
        gate.wait(10)

    camera.post(hang)
    assert entered.wait(10)
    with monkeypatch.context() as patch:
        patch.setattr("nightjard.camd.owner.COMMAND_TIMEOUT_S", 0.05)
        with pytest.raises(Busy, match="did not take the command"):
            camera.set_gain(50)
    assert camera.status()["gain"] == 26, "status waits for nothing"
    gate.set()
    assert camera.abort().wait(10)  # comes after it in the queue
    assert camera.status()["gain"] == 26
    camera.close_for_exit(bench.outlets.info, _set())
    camera.end_thread()


def test_a_command_that_takes_long_is_not_called_untaken(
    make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    camera = in_thread(bench, 1.0)
    assert camera.init().wait(10)
    gate = threading.Event()
    real = bench.detector.inner.configure

    def slow(settings: Any) -> Any:
        gate.wait(10)
        return real(settings)

    bench.detector.inner.configure = slow

    def is_taken() -> bool:  # unless the owner was held up and has not taken it
        with pytest.raises(NightjarError) as caught:
            camera.set_gain(50)
        if isinstance(caught.value, Busy):
            return False
        assert "is carrying the command out" in caught.value.message
        assert caught.value.code is Code.TIMED_OUT
        return True

    with monkeypatch.context() as patch:
        patch.setattr("nightjard.camd.owner.COMMAND_TIMEOUT_S", 0.2)
        eventually(is_taken)
    gate.set()
    assert camera.abort().wait(10)
    assert camera.status()["gain"] == 50
    camera.close_for_exit(bench.outlets.info, _set())
    camera.end_thread()


def test_no_error_of_a_driver_ends_the_owner_thread(make: MakeBench) -> None:
    """Every call fails in every way, in the midst of a sequence; the model goes on."""
    calls = ("telemetry", "poll", "fetch", "start", "abort", "close", "set_cooler_power")
    errors = (DeviceError("broken"), DeviceLost("gone"), ValueError("bug"), Refused("no"))
    for call in calls:
        for error in errors:
            bench = make(cooler_setpoint=-5.0).init()
            bench.camera.start(0)
            bench.until_state("EXPOSING")
            bench.detector.always = {call: error, "abort": error}
            bench.run(3)
            bench.detector.always = {}
            bench.run(1)
            if bench.status["summary"] == "STANDBY":
                bench.init()
            elif bench.status["summary"] == "BUSY":
                bench.finish(bench.camera.abort())
            assert bench.take(1)["state"] == "done", (call, error)
            assert not bench.unended, (call, error)
            assert len(bench.outlets.errors) < 20, "an error that lasts does not fill the log"
            bench.finish(bench.camera.shutdown(warm=False))
            assert bench.camera.ring is not None
            bench.camera.ring.close(unlink=True)


def test_a_cooler_that_cannot_be_read_does_not_end_a_sequence(make: MakeBench) -> None:
    bench = make(cooler_setpoint=-5.0).init()
    operation = bench.camera.start(5)
    bench.until_state("EXPOSING")
    bench.detector.always["telemetry"] = DeviceError("sensor does not answer")
    bench.run(2)
    assert bench.status["health"]["parts"]["cooler"]["level"] == "FAILED"
    assert bench.status["cooler_mode"] == "FAULT"
    asked = bench.detector.calls["telemetry"]
    bench.run(2)
    assert bench.detector.calls["telemetry"] - asked <= 3, "asked at its own pace"
    bench.detector.always.clear()
    assert bench.finish(operation)["result"]["frames"] == 5
    assert bench.status["health"]["level"] == "OK"
    assert bench.headers[1]["TEMP-MOD"] == "FAULT"
    assert bench.headers[1]["CAM-TEMP"] is None


# ---------------------------------------------------------------- space


def test_too_little_space_stops_a_running_sequence_after_the_present_frame(
    make: MakeBench,
) -> None:
    bench = make(minimum_free_bytes=1_000_000).init()
    bench.camera.note_space(2_000_000)
    operation = bench.camera.start(10)
    bench.until(lambda: bench.status["sequence_frame_count"] == 2)
    bench.until_state("EXPOSING")
    bench.camera.note_space(900_000)
    snapshot = bench.finish(operation)
    assert (snapshot["state"], snapshot["code"]) == ("failed", "NO_SPACE")
    assert snapshot["detail"]["frames"] == 3 == len(bench.outlets.jobs)
    assert "MB free" in bench.status["last_stop"]
    assert bench.status["health"]["parts"]["space"]["level"] == "DEGRADED"
    said = len(bench.outlets.errors)
    for _ in range(5):
        bench.camera.note_space(900_000)
        bench.run(1)
    assert len(bench.outlets.errors) == said
    bench.camera.note_space(1_000_000)
    assert bench.status["health"]["level"] == "OK"
    assert bench.take(1)["state"] == "done"
