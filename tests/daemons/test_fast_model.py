# SPDX-License-Identifier: BSD-3-Clause
"""The model of the fast camera: commands, settings, failures and coming back; no process."""

from __future__ import annotations

from typing import Any

import pytest

from kit.fast_camera import FakeGrabber, vcam_config
from nightjar.api.fast_camera import STATUS_KEYS
from nightjar.clock import ManualClock
from nightjar.config.load import parse
from nightjar.errors import (
    Busy,
    Cancelled,
    Code,
    DeviceLost,
    DeviceNotFound,
    InvalidArgument,
    NightjarError,
    Refused,
    StorageError,
    TimedOut,
)
from nightjar.health import Health
from nightjar.operations import Operation, Operations
from nightjard.camd.fast.config import FastCameraConfig
from nightjard.camd.fast.model import FastCamera

NEWS = {
    "streaming": True, "counter": 40, "published": 40, "lost": 2, "missed": 1, "late": 3,
    "incomplete": 0, "sequence": 40, "atime_ns": 1_750_000_000_000_000_000, "hardware_id": 42,
    "rate": 100.0, "telemetry": {"temperature_c": -19.5, "flc": True}, "cost_us": 50.0,
}  # fmt: skip


class Rig:
    """A model whose owner thread is the test's."""

    def __init__(self, **config: Any) -> None:
        self.clock = ManualClock()
        self.health = Health(self.clock.now_ns)
        self.grabbers: list[FakeGrabber] = []
        self.prepare: dict[str, Any] = {}
        self.said: list[str] = []
        self.camera = FastCamera(
            parse(vcam_config(**config), FastCameraConfig, "test"), self._make, self.said.append,
            self.clock, self.health, Operations(self.clock),
        )  # fmt: skip

    def _make(self, on_message: Any, on_end: Any) -> FakeGrabber:
        grabber = FakeGrabber(on_message, on_end)
        grabber.answers |= self.prepare
        self.grabbers.append(grabber)
        return grabber

    @property
    def grabber(self) -> FakeGrabber:
        return self.grabbers[-1]

    @property
    def status(self) -> dict[str, Any]:
        return self.camera.status()

    def seen(self) -> tuple[str, str, str]:
        status = self.status
        return status["summary"], status["state"], status["health"]["level"]

    def done(self, operation: Operation) -> Any:
        """Let the owner thread work; return the operation's message or raise its failure."""
        self.camera.turn()
        assert operation.is_done
        operation.outcome()
        return operation.snapshot()["message"]

    def ready(self) -> Rig:
        self.done(self.camera.init())
        return self

    def streaming(self) -> Rig:
        self.ready()
        self.done(self.camera.start(0))
        return self

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with news of the living grabber as it should send them."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            if self.grabbers and self.grabber.is_alive:
                self.grabber.tell({"news": NEWS})
            self.camera.turn()


def test_status_has_the_keys_of_the_api() -> None:
    own = {"time", "daemon", "pid", "readers"}  # the service adds them
    rig = Rig()
    assert set(rig.status) | own == set(STATUS_KEYS)
    rig.streaming()
    assert set(rig.status) | own == set(STATUS_KEYS)


def test_init_start_stop_shutdown() -> None:
    rig = Rig()
    assert rig.seen() == ("STANDBY", "OFFLINE", "OK")
    rig.ready()
    assert rig.seen() == ("READY", "IDLE", "OK")
    rig.done(rig.camera.start(0))
    assert rig.seen() == ("BUSY", "STREAMING", "OK")
    rig.camera.stop()
    rig.camera.turn()
    assert rig.seen() == ("READY", "IDLE", "OK")
    assert rig.status["last_stop"] == "stopped after 5 frames"
    rig.done(rig.camera.shutdown())
    assert rig.seen() == ("STANDBY", "OFFLINE", "OK")
    assert rig.grabber.commands()[-1] == "close"
    assert not rig.grabber.is_alive


def test_commands_that_do_not_fit_the_state_are_refused() -> None:
    rig = Rig()
    for command in (lambda: rig.camera.start(0), rig.camera.stop, rig.camera.abort):
        with pytest.raises(Refused) as raised:
            command()
        assert raised.value.code is Code.NOT_INITIALIZED
    rig.ready()
    with pytest.raises(Refused) as raised:
        rig.camera.init()
    assert raised.value.code is Code.ALREADY_INITIALIZED
    with pytest.raises(Refused) as raised:
        rig.camera.stop()
    assert raised.value.code is Code.NOT_ACQUIRING
    rig.done(rig.camera.start(0))
    with pytest.raises(Busy):
        rig.camera.start(0)


def test_counted_sequence_is_an_operation_that_ends_with_the_count() -> None:
    rig = Rig().ready()
    operation = rig.camera.start(80)
    rig.camera.turn()
    assert rig.grabber.asked[-1] == ("start", {"count": 80})
    rig.grabber.tell({"news": NEWS})
    assert operation.snapshot()["fraction"] == 0.5
    assert rig.status["operation"] == operation.id
    rig.grabber.tell({"ended": {"count": 80, "reason": "count reached"}})
    rig.camera.turn()
    assert operation.outcome() == {"count": 80}
    assert rig.seen() == ("READY", "IDLE", "OK")
    assert rig.status["operation"] is None


def test_counted_sequence_that_is_stopped_or_cancelled_says_how_far_it_came() -> None:
    for end in ("stop", "cancel"):
        rig = Rig().ready()
        operation = rig.camera.start(80)
        rig.camera.turn()
        rig.camera.stop() if end == "stop" else operation.cancel()
        rig.camera.turn()
        with pytest.raises(Cancelled, match="after 5 of 80 frames"):
            operation.outcome()


def test_settings_before_init_hold_from_then_on() -> None:
    rig = Rig()
    rig.camera.set({"exposure": 0.25})
    rig.done(rig.camera.reshape({"crop": "MBI"}, "set_crop"))
    rig.camera.set_keyword("OBJECT", "HD 1", None)
    rig.ready()
    (configure,) = [arguments for command, arguments in rig.grabber.asked
                    if command == "configure"]  # fmt: skip
    assert configure["settings"]["exposure_s"] == 0.25
    assert configure["settings"]["crop"] == "MBI"
    assert configure["keywords"]["OBJECT"] == ["HD 1", "target"]
    assert configure["keywords"]["PRD-RNG2"][0] == 1096


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"crop": "NOPE"}, Refused, "no crop 'NOPE'; there are: .*STANDARD"),
        ({"crop": "MBI", "window": [1, 2, 3, 4]}, InvalidArgument, "not both"),
        ({"crop": None, "window": None}, InvalidArgument, "give the name"),
        ({"window": [1, 2, 3]}, InvalidArgument, "not 3 numbers"),
        ({"window": [5, 2, 3, 9]}, InvalidArgument, "not a region"),
        ({"window": [1, 5000, 1, 10]}, Refused, "outside the sensor"),
        ({"readout_mode": "ULTRA"}, Refused, "there are: FAST, SLOW"),
        ({"exposure": 11.0}, Refused, "outside of 1e-05 .. 10 s"),
        ({"rate": 1e5}, Refused, "outside of 0.1 .. 2000 Hz"),
    ],
)
def test_impossible_settings_are_refused_at_once(
    changes: dict[str, Any], error: type[NightjarError], text: str
) -> None:
    rig = Rig().streaming()
    before, asked = rig.status, len(rig.grabber.asked)
    with pytest.raises(error, match=text):
        rig.camera.reshape(changes, "configure")
    rig.camera.turn()
    assert len(rig.grabber.asked) == asked
    assert rig.status == before


def test_names_may_be_typed_in_small_letters() -> None:
    rig = Rig().ready()
    rig.done(rig.camera.reshape({"crop": "mbi", "readout_mode": "slow"}, "configure"))
    assert (rig.status["crop"], rig.status["readout_mode"]) == ("MBI", "SLOW")


def test_failed_change_leaves_settings_as_they_were() -> None:
    rig = Rig().streaming()
    rig.grabber.answers["configure"] = StorageError("no room", code=Code.NO_SPACE)
    operation = rig.camera.reshape({"crop": "MBI"}, "set_crop")
    with pytest.raises(StorageError):
        rig.done(operation)
    assert (rig.status["crop"], rig.status["state"]) == ("ONEARC", "STREAMING")
    assert rig.status["last_error"]["name"] == "NO_SPACE"


def test_crop_changes_while_streaming_and_the_stream_goes_on() -> None:
    rig = Rig().streaming()
    rig.done(rig.camera.reshape({"crop": "STANDARD"}, "set_crop"))
    assert rig.seen() == ("BUSY", "STREAMING", "OK")
    assert rig.grabber.commands().count("start") == 1  # the grabber goes on by itself


def test_what_the_camera_made_of_the_settings_goes_into_the_keywords() -> None:
    rig = Rig()
    rig.prepare["configure"] = lambda arguments: {
        **FakeGrabber(print, print).answers["configure"](arguments),
        "exposure_s": 0.00123, "window": [1, 184, 5, 188],
    }
    rig.ready()
    command, arguments = rig.grabber.asked[-1]
    assert command == "set_keywords"
    assert arguments["keywords"]["EXPTIME"][0] == 0.00123
    assert arguments["keywords"]["PRD-MIN2"][0] == 4
    assert rig.status["exposure_time"] == 0.00123


def test_keyword_that_follows_from_the_state_cannot_be_set() -> None:
    rig = Rig().ready()
    for name, value in (("EXPTIME", 3), ("HW-OFF", 1), ("OBJECT", "x" * 17), ("A B", 1)):
        with pytest.raises(InvalidArgument):
            rig.camera.set_keyword(name, value, None)
    rig.camera.set_keyword("U_MINE", True, "mine")
    assert rig.grabber.asked[-1] == (
        "set_keywords", {"keywords": {"U_MINE": ["#TRUE#", "mine"]}},
    )  # fmt: skip
    assert rig.status["keywords"] == {"U_MINE": "#TRUE#"}


# --- failures -----------------------------------------------------------------------------------


def test_killed_grabber_is_replaced_and_streams_again() -> None:
    rig = Rig().streaming()
    rig.pass_time(1.0)
    rig.grabber.die()
    rig.camera.turn()
    assert rig.seen() == ("STANDBY", "OFFLINE", "DEGRADED")
    assert "SIGKILL" in rig.status["health"]["reason"]
    assert "trying again in 0.2 s" in rig.status["health"]["reason"]
    rig.pass_time(0.3)
    assert rig.seen() == ("BUSY", "STREAMING", "OK")
    assert len(rig.grabbers) == 2
    assert rig.grabber.commands()[-1] == "start"
    assert rig.status["grabber_restarts"] == 1
    rig.pass_time(0.2)
    # What the first one counted is not forgotten.
    assert (rig.status["frames_published"], rig.status["frames_lost"]) == (80, 4)


def test_without_reconnect_it_waits_for_an_init() -> None:
    rig = Rig(reconnect=False).streaming()
    rig.grabber.die()
    rig.pass_time(100.0)
    assert rig.seen() == ("STANDBY", "OFFLINE", "DEGRADED")
    assert "init it again" in rig.status["health"]["reason"]
    rig.ready()
    assert rig.seen() == ("READY", "IDLE", "OK")


def test_stopped_camera_that_is_brought_back_does_not_stream() -> None:
    rig = Rig().ready()
    rig.grabber.die()
    rig.pass_time(1.0)
    assert rig.seen() == ("READY", "IDLE", "OK")


def test_counted_sequence_of_a_dead_grabber_fails_and_is_not_begun_again() -> None:
    rig = Rig().ready()
    operation = rig.camera.start(100)
    rig.camera.turn()
    rig.grabber.die()
    rig.camera.turn()
    with pytest.raises(DeviceLost):
        operation.outcome()
    rig.pass_time(1.0)
    assert rig.seen() == ("READY", "IDLE", "OK")


def test_silent_grabber_is_killed() -> None:
    rig = Rig().streaming()
    rig.pass_time(3.0)
    assert not rig.grabber.was_killed
    rig.clock.advance(1.2)
    rig.camera.turn()
    assert rig.grabbers[0].was_killed
    assert "no sign of life" in rig.status["health"]["reason"]


def test_grabber_that_does_not_answer_is_killed() -> None:
    rig = Rig().streaming()
    rig.grabber.answers["configure"] = TimedOut("the grabber did not answer 'configure'")
    with pytest.raises(NightjarError) as raised:
        rig.camera.set({"exposure": 0.002})
    assert raised.value.code is Code.DEVICE_WEDGED
    assert rig.grabbers[0].was_killed
    rig.pass_time(1.0)
    assert rig.seen() == ("BUSY", "STREAMING", "OK")


def test_silence_while_a_stream_is_made_is_no_fault_and_while_asked_else_is() -> None:
    rig = Rig().streaming()

    def slow(arguments: dict[str, Any]) -> Any:
        if arguments["settings"]["exposure_s"] == 0.001:
            rig.grabber.tell({"making": "vcam1"})
        rig.clock.advance(5.0)
        rig.camera.watch()
        return FakeGrabber(print, print).answers["configure"](arguments)

    rig.grabber.answers["configure"] = slow
    rig.done(rig.camera.reshape({"crop": "MBI"}, "set_crop"))
    assert not rig.grabber.was_killed
    rig.camera.set({"exposure": 0.002})
    assert rig.grabber.was_killed


def test_abort_of_a_grabber_that_hangs_ends_it() -> None:
    rig = Rig(reconnect=False).streaming()
    rig.grabber.answers["stop"] = TimedOut("the grabber did not answer 'stop'")
    assert "was ended" in rig.done(rig.camera.abort())
    assert rig.grabber.was_killed


def test_camera_that_is_off_is_tried_again_with_growing_pauses() -> None:
    rig = Rig(autostart=True)
    rig.prepare["open"] = DeviceNotFound("nothing there")
    rig.camera._shall_be_open = rig.camera._shall_stream = True  # as start_thread does
    rig.camera._retry_ns = 0
    rig.pass_time(60.0)
    assert rig.seen() == ("STANDBY", "OFFLINE", "DEGRADED")
    assert 6 <= len(rig.grabbers) <= 12
    assert not rig.grabber.is_alive
    rig.prepare.clear()
    rig.pass_time(60.0)
    assert rig.seen() == ("BUSY", "STREAMING", "OK")


def test_init_that_fails_says_why_and_shutdown_ends_the_trying() -> None:
    rig = Rig()
    rig.prepare["open"] = DeviceNotFound("nothing at 192.0.2.7")
    with pytest.raises(DeviceNotFound, match="nothing at"):
        rig.done(rig.camera.init())
    assert rig.seen() == ("STANDBY", "OFFLINE", "DEGRADED")
    rig.done(rig.camera.shutdown())
    tries = len(rig.grabbers)
    rig.pass_time(60.0)
    assert len(rig.grabbers) == tries
    assert rig.seen() == ("STANDBY", "OFFLINE", "OK")


def test_source_that_fails_is_brought_back() -> None:
    rig = Rig().streaming()
    rig.grabber.tell({"failed": {"code": "DEVICE_LOST", "message": "the camera is gone"}})
    rig.camera.turn()
    assert "the camera is gone" in rig.status["health"]["reason"]
    assert rig.status["last_error"]["name"] == "DEVICE_LOST"
    rig.pass_time(1.0)
    assert rig.seen() == ("BUSY", "STREAMING", "OK")


def test_news_of_a_grabber_that_was_given_up_are_not_listened_to() -> None:
    rig = Rig().streaming()
    old = rig.grabber
    old.die()
    rig.pass_time(1.0)
    old.tell({"news": {**NEWS, "counter": 999_999}})
    old.die()
    rig.camera.turn()
    assert rig.status["counter"] != 999_999
    assert rig.seen() == ("BUSY", "STREAMING", "OK")


def test_exit_closes_the_grabber_in_order() -> None:
    rig = Rig().streaming()
    rig.camera.start_thread()
    rig.camera.close_for_exit(rig.said.append)
    assert rig.grabber.commands()[-1] == "close"
    assert not rig.grabber.is_alive
    assert rig.status["summary"] == "STOPPING"
