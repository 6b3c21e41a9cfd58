# SPDX-License-Identifier: BSD-3-Clause
"""Groups of loggers: one rule for all streams, all or nothing, and what survives a death."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.fake_logger import FakeRoom
from nightjar.api.states import Level
from nightjar.errors import (
    Busy,
    Code,
    InvalidArgument,
    NightjarError,
    Refused,
    StorageError,
    TimedOut,
    Unreachable,
)
from nightjar.times import iso


@pytest.fixture
def room(tmp_path: Path) -> FakeRoom:
    (tmp_path / "data").mkdir()
    return FakeRoom(tmp_path)


# --- prep, start ---------------------------------------------------------------------------------


def test_streams_of_a_group_get_one_session_and_one_time_ahead(room: FakeRoom) -> None:
    assert room.prep()["state"] == "armed"
    reply = room.start(frames=500)
    one, two = room.orders("start")["vcam1"], room.orders("start")["vcam2"]
    assert one == two
    assert one["not_before_ns"] - room.clock.now_ns() >= 50_000_000
    assert one["frames"] == 500
    assert reply["state"] == "saving"
    assert reply["session"] == one["session"]
    assert reply["session"].startswith("vcam-2025")
    assert not reply["pending"]


def test_started_again_it_is_the_same_session_and_nothing_is_asked(room: FakeRoom) -> None:
    room.prep()
    first = room.start()["session"]
    room.asked.clear()
    again = room.start(frames=3)
    assert again["session"] == first
    assert "already" in again["message"]
    assert room.asked == []


def test_a_stream_that_joins_later_joins_the_session(room: FakeRoom) -> None:
    room.prep()
    first = room.start(streams=["vcam1"])["session"]
    assert room.states() == {"vcam1": "saving", "vcam2": "armed"}
    room.asked.clear()
    room.start()
    assert list(room.orders("start")) == ["vcam2"]
    assert room.orders("start")["vcam2"]["session"] == first


def test_a_stream_that_left_a_session_does_not_come_back_to_it(room: FakeRoom) -> None:
    room.prep()
    first = room.start()["session"]
    room.pause(streams=["vcam1"])
    room.loggers["vcam1"].end_session(40)
    reply = room.start()
    assert room.states() == {"vcam1": "saving", "vcam2": "saving"}
    assert room.loggers["vcam1"].state["session"] != first
    assert room.loggers["vcam2"].state["session"] == first
    room.tick()
    assert room.model.ledger.runs()["vcam1"].goal == "saving"
    assert reply["results"].keys() == {"vcam1"}


def test_each_start_after_a_pause_is_another_session(room: FakeRoom) -> None:
    room.prep()
    room.prep("pupil")
    sessions = []
    for _ in range(13):  # in the same second
        sessions += [room.start()["session"], room.start("pupil")["session"]]
        room.pause()
        for logger in room.loggers.values():
            logger.end_session()
    assert len(set(sessions)) == len(sessions)


def test_number_of_cubes_is_that_of_prep_unless_start_names_one(room: FakeRoom) -> None:
    room.prep(cubes=7)
    room.start(streams=["vcam1"])
    room.start(streams=["vcam2"], cubes=0)
    assert room.orders("start")["vcam1"]["cubes"] == 7
    assert room.orders("start")["vcam2"]["cubes"] is None


def test_prep_advises_where_no_number_is_given(room: FakeRoom) -> None:
    room.streams_seen["vcam2"] = {"shape": [1096, 2236], "frame_bytes": 2 * 1096 * 2236}
    room.prep(cube_frames=None)
    assert room.orders("prepare")["vcam1"]["cube_frames"] == 250  # what suits both
    del room.streams_seen["vcam2"]
    with pytest.raises(Refused, match=r"vcam2: there is no such stream.*-n"):
        room.prep(cube_frames=None)


def test_settings_reach_the_logger(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    room = FakeRoom(
        tmp_path, names="clock", folders="night", noon_utc_hours=22, fsync=False,
        cards={"OBSERVER": ["A", "who"], "SITE": ["X", "where"]},
        streams={"vcam1": {"cards": {"SITE": ["Y", "where"]}}}, groups={},
    )  # fmt: skip
    room.prep("vcam1", directory="sub/deep", data_type="DARK", compress=True, cubes=10)
    given = room.orders("prepare")["vcam1"]
    assert given["root"] == str(tmp_path / "data/sub/deep")
    assert Path(given["root"]).is_dir()
    assert (given["names"], given["folders"], given["noon_utc_hours"]) == ("clock", "night", 22)
    assert given["cards"] == {"OBSERVER": ["A", "who"], "SITE": ["Y", "where"]}
    assert (given["compress"], given["fsync"], given["data_type"]) == (True, False, "DARK")
    assert given["session_seconds"] == pytest.approx(10 * 100 / 500)


@pytest.mark.parametrize("directory", ["/etc", "../x", "a/../../x", "/"])
def test_a_client_cannot_save_anywhere(room: FakeRoom, directory: str) -> None:
    with pytest.raises(Refused, match="may lie in"):
        room.prep(directory=directory)
    assert room.asked == []


def test_archive_is_a_folder_of_its_own(room: FakeRoom) -> None:
    room.prep(archive=True)
    assert room.orders("prepare")["vcam1"]["root"] == str(room.folder / "archive")
    with pytest.raises(InvalidArgument, match="not both"):
        room.prep(archive=True, directory="x")


def test_not_prepared_is_refused_then_prepared_as_the_last_time(room: FakeRoom) -> None:
    with pytest.raises(Refused, match="vcam is not prepared"):
        room.start()
    room.prep(cube_frames=123)
    room.stop()
    assert room.states() == {"vcam1": "idle", "vcam2": "idle"}
    room.asked.clear()
    assert room.start()["state"] == "saving"
    assert room.orders("prepare")["vcam1"]["cube_frames"] == 123


def test_only_prepared_streams_are_started(room: FakeRoom) -> None:
    room.prep(streams=["vcam2"])
    room.start()
    assert list(room.orders("start")) == ["vcam2"]
    with pytest.raises(Refused, match="vcam1"):
        room.start(streams=["vcam1"])


def test_prep_while_saving_changes_nothing(room: FakeRoom) -> None:
    room.prep()
    room.start()
    assert room.prep()["state"] == "saving"  # the same settings
    with pytest.raises(Busy, match="pause it first"):
        room.prep(cube_frames=7)


def test_a_stream_is_in_one_active_group_at_a_time(room: FakeRoom) -> None:
    room.prep("vcam1")
    with pytest.raises(Refused, match="vcam1 is armed in group vcam1"):
        room.prep("vcam")
    for name in ("pause", "stop"):
        with pytest.raises(Refused, match="group vcam1"):
            getattr(room, name)("vcam")
    assert room.prep("pupil")["state"] == "armed"
    room.stop("vcam1")
    assert room.prep("vcam")["state"] == "armed"
    assert room.model.status()["groups"]["vcam1"]["in_use_by"] == ["vcam"]


def test_names_that_are_none(room: FakeRoom) -> None:
    with pytest.raises(Refused, match="no group 'vacm'; there are: vcam, vcam1") as refusal:
        room.prep("vacm")
    assert refusal.value.code is Code.UNKNOWN_ITEM
    with pytest.raises(InvalidArgument, match="'pupil' is not in group vcam"):
        room.prep(streams=["pupil"])


def test_an_end_that_has_passed_is_refused(room: FakeRoom) -> None:
    room.prep()
    with pytest.raises(InvalidArgument, match="has passed"):
        room.start(until=iso(room.clock.now_ns() - 1))
    with pytest.raises(InvalidArgument, match="until"):
        room.start(until="tomorrow")
    later = room.clock.now_ns() + 5_000_000_000
    room.start(until=iso(later, 9))
    assert room.orders("start")["vcam1"]["until_ns"] == later


# --- one of two fails ----------------------------------------------------------------------------


def test_prep_of_both_or_none(room: FakeRoom) -> None:
    room.failures["vcam2", "prepare"] = StorageError("no room", code=Code.NO_SPACE)
    with pytest.raises(StorageError, match="vcam2: no room\nvcam1 is as it was before") as failure:
        room.prep()
    assert failure.value.detail["results"]["vcam2"] == {"ok": False, "message": "no room"}
    assert room.states() == {"vcam1": "idle", "vcam2": "idle"}


def test_failed_prep_leaves_the_old_settings_in_force(room: FakeRoom) -> None:
    room.prep(cube_frames=10)
    room.failures["vcam2", "prepare"] = StorageError("no room")
    with pytest.raises(StorageError):
        room.prep(cube_frames=20)
    assert room.loggers["vcam1"].state["cube_frames"] == 10
    assert room.model.views()["vcam1"]["settings"]["cube_frames"] == 10


def test_start_of_both_or_none_leaves_no_frame(room: FakeRoom) -> None:
    room.prep()
    room.failures["vcam1", "start"] = Refused("stream vcam1 has gone")
    with pytest.raises(Refused, match="vcam does not start: vcam1: stream vcam1 has gone"):
        room.start()
    begun, ended = room.orders("start")["vcam2"], room.orders("pause")["vcam2"]
    assert ended == {"finish": False, "not_after_ns": begun["not_before_ns"]}
    room.loggers["vcam2"].end_session()
    room.tick()
    assert room.states() == {"vcam1": "armed", "vcam2": "armed"}
    del room.failures["vcam1", "start"]
    assert room.start()["state"] == "saving"


def test_partial_goes_on_with_the_other(room: FakeRoom) -> None:
    room.prep()
    room.failures["vcam1", "start"] = Refused("gone")
    reply = room.start(partial=True)
    assert reply["results"]["vcam1"] == {"ok": False, "message": "gone"}
    assert room.states() == {"vcam1": "armed", "vcam2": "saving"}
    assert "pause" not in {name for _, name, _ in room.asked}


def test_partial_with_none_that_can_fails(room: FakeRoom) -> None:
    for stream in ("vcam1", "vcam2"):
        room.failures[stream, "prepare"] = Refused("no stream")
    with pytest.raises(Refused, match=r"vcam1, vcam2: no stream$"):
        room.prep(partial=True)


# --- pause, stop ---------------------------------------------------------------------------------


def test_pause_ends_all_at_one_time(room: FakeRoom) -> None:
    room.prep()
    room.start()
    reply = room.pause()
    one, two = room.orders("pause").values()
    assert one == two
    assert one["not_after_ns"] - room.clock.now_ns() >= 50_000_000
    assert reply["pending"]  # the loggers have that frame still before them
    assert reply["target"] == "armed"
    for logger in room.loggers.values():
        logger.end_session(40)
    room.tick()
    done = room.operations.get(reply["operation"])
    assert done.outcome()["state"] == "armed"


def test_finish_returns_at_once_and_the_end_is_noticed(room: FakeRoom) -> None:
    room.prep()
    session = room.start()["session"]
    reply = room.pause(finish=True)
    assert (reply["state"], reply["pending"]) == ("finishing", False)
    assert room.orders("pause")["vcam1"] == {"finish": True, "not_after_ns": None}
    room.asked.clear()
    room.pause(finish=True)
    assert room.asked == []
    with pytest.raises(Busy, match="fills its last cube"):
        room.start()
    for stream in ("vcam1", "vcam2"):
        room.loggers[stream].end_session(100)
    room.tick()
    assert room.model.ledger.runs()["vcam1"].goal == "armed"
    assert ("info", f"vcam1: session {session} has ended: 100 frames, 0 missed") in room.said


def test_a_session_that_has_no_frame_yet_is_let_begin_before_it_is_finished(
    room: FakeRoom,
) -> None:
    room.first_frames = 0
    room.prep()
    room.start()
    asked_at: list[int] = []

    def pass_time(seconds: float) -> None:
        room.clock.advance(seconds)
        asked_at.append(len(room.asked))
        if len(asked_at) == 5:
            for logger in room.loggers.values():
                logger.change(frames_saved=1)

    room.clock.sleep = pass_time  # type: ignore[method-assign]
    room.pause(finish=True)
    assert len(asked_at) == 5
    assert set(asked_at) == {4}, "nothing was asked but prepare and start of both"
    assert room.orders("pause").keys() == {"vcam1", "vcam2"}


def test_a_cube_that_is_being_filled_can_be_closed_now(room: FakeRoom) -> None:
    room.prep()
    room.start()
    room.pause(finish=True)
    room.pause()
    assert room.orders("pause")["vcam1"]["finish"] is False


def test_wait_ends_when_the_last_file_has_its_name(room: FakeRoom) -> None:
    room.prep()
    room.start()
    reply = room.pause(finish=True, wait=True)
    operation = room.operations.get(reply["operation"])
    room.loggers["vcam1"].change(cube_index=25)
    room.loggers["vcam2"].change(cube_index=75)
    room.tick()
    assert operation.snapshot()["fraction"] == pytest.approx(0.25)
    room.loggers["vcam1"].end_session(100)
    room.loggers["vcam2"].end_session(100)
    room.loggers["vcam2"].change(closing=1)
    room.tick()
    assert not operation.is_done
    room.loggers["vcam2"].change(closing=0)
    room.tick()
    assert operation.outcome()["state"] == "armed"


def test_wait_gives_up_where_nothing_moves(room: FakeRoom) -> None:
    room.prep()
    room.start()
    operation = room.operations.get(room.pause(finish=True, wait=True)["operation"])
    room.tick(1, times=59)
    assert not operation.is_done
    room.tick(1, times=3)
    assert isinstance(operation.error, TimedOut)
    assert "do frames arrive?" in operation.error.message


def test_pause_and_stop_of_what_is_idle_are_no_errors(room: FakeRoom) -> None:
    assert room.pause()["state"] == "idle"
    assert room.stop()["state"] == "idle"
    assert room.asked == []


def test_kill_waits_for_nobody_and_forgets(room: FakeRoom) -> None:
    room.prep()
    room.start()
    with room.model.crew.turn(["vcam1", "vcam2"]):  # another command hangs
        reply = room.stop(kill=True)
    assert reply["state"] == "idle"
    assert sorted(room.ended) == ["vcam1", "vcam2"]
    with pytest.raises(Refused, match="not prepared"):
        room.start()
    room.tick(1)
    assert room.level("vcam1") is Level.OK
    assert room.model.views()["vcam1"]["restarts"] == 0


def test_ends_by_itself_after_enough_frames(room: FakeRoom) -> None:
    room.prep()
    room.start(frames=100)
    room.tick()
    assert room.model.ledger.runs()["vcam1"].goal == "saving"
    room.loggers["vcam1"].end_session(100)
    room.tick()
    assert room.model.ledger.runs()["vcam1"].goal == "armed"
    assert room.states() == {"vcam1": "armed", "vcam2": "saving"}
    assert room.model.status()["groups"]["vcam"]["state"] == "saving"


def test_one_that_is_about_to_begin_has_not_ended(room: FakeRoom) -> None:
    """It has taken the session and attaches to its stream, which may take a second."""
    room.prep()
    session = room.start()["session"]
    room.loggers["vcam1"].change(state="armed", session=None, last_session=session)
    room.tick()
    assert room.model.ledger.runs()["vcam1"].goal == "saving"
    room.loggers["vcam1"].change(state="armed", session=None, over=session)
    room.tick()
    assert room.model.ledger.runs()["vcam1"].goal == "armed"


# --- a logger that hangs or dies -----------------------------------------------------------------


def test_a_busy_logger_is_waited_for(room: FakeRoom) -> None:
    """It obeys only when its disk lets it; the command is not done before."""
    room.prep()
    logger = room.loggers["vcam2"]
    logger.is_stuck = True

    def and_then(seconds: float) -> None:
        room.clock.advance(seconds)
        logger.free()

    room.clock.sleep = and_then  # type: ignore[method-assign]
    assert room.start()["state"] == "saving"
    assert room.states()["vcam2"] == "saving"


def test_one_that_stays_stuck_fails_the_start_of_both(room: FakeRoom) -> None:
    room.prep()
    room.loggers["vcam2"].is_stuck = True
    with pytest.raises(TimedOut, match=r"vcam2: .*does its disk hang"):
        room.start()
    assert room.orders("pause").keys() == {"vcam1", "vcam2"}  # also the one that may start later


def test_a_logger_that_dies_is_restarted_and_goes_on(room: FakeRoom) -> None:
    room.prep()
    room.start(frames=1000)
    begun = room.orders("start")["vcam1"]
    room.asked.clear()
    room.loggers["vcam1"].die()
    room.tick(0.01)
    assert room.level("vcam1") is Level.DEGRADED
    assert "SIGKILL" in room.health.snapshot()["reason"]
    assert room.states() == {"vcam1": "error", "vcam2": "saving"}
    room.tick(0.3)
    assert [name for _, name, _ in room.asked] == ["prepare", "start"]
    assert room.orders("start")["vcam1"] == {**begun, "resume": True}
    assert room.states() == {"vcam1": "saving", "vcam2": "saving"}
    room.tick(0.1)
    assert room.level("vcam1") is Level.OK
    assert room.model.views()["vcam1"]["restarts"] == 1


def test_one_that_dies_while_it_fills_its_last_cube_fills_it(room: FakeRoom) -> None:
    room.prep()
    room.start()
    operation = room.operations.get(room.pause(finish=True, wait=True)["operation"])
    room.loggers["vcam1"].die()
    room.loggers["vcam2"].end_session(100)
    room.tick(0.05)
    assert not operation.is_done, "its death is no end"
    room.asked.clear()
    room.tick(0.3)
    assert [name for _, name, _ in room.asked] == ["prepare", "start", "pause"]
    assert not operation.is_done
    room.loggers["vcam1"].end_session(100)
    room.tick()
    assert operation.outcome()["state"] == "armed"


def test_one_that_dies_while_it_is_paused_saves_what_is_left_of_its_session(
    room: FakeRoom,
) -> None:
    room.prep()
    room.start()
    room.pause()
    ends_ns = room.orders("pause")["vcam1"]["not_after_ns"]
    room.loggers["vcam1"].die()
    room.asked.clear()
    room.tick(0.05, times=8)
    assert [name for _, name, _ in room.asked] == ["prepare", "start"]
    again = room.orders("start")["vcam1"]
    assert (again["until_ns"], again["resume"]) == (ends_ns, True)
    room.loggers["vcam1"].end_session(100)
    room.tick(30)
    room.loggers["vcam1"].die()
    room.asked.clear()
    room.tick(0.05, times=8)
    assert [name for _, name, _ in room.asked] == ["prepare"], "its frames are in no ring"
    assert room.states()["vcam1"] == "armed"


def test_it_is_tried_again_until_its_stream_is_back(room: FakeRoom) -> None:
    room.prep()
    room.start()
    room.failures["vcam1", "prepare"] = Refused("no stream vcam1")
    room.loggers["vcam1"].die()
    room.tick(0.3)
    assert room.level("vcam1") is Level.DEGRADED
    assert "no stream vcam1" in room.model.views()["vcam1"]["error"]
    room.asked.clear()
    room.tick(1, times=30)
    assert 3 <= len(room.asked) <= 8, "with growing pauses"
    room.failures.clear()
    room.tick(10)
    assert room.states()["vcam1"] == "saving"
    room.tick()
    assert room.level("vcam1") is Level.OK


def test_one_that_forgot_its_session_is_reminded(room: FakeRoom) -> None:
    """It said that it would save, and does not."""
    room.prep()
    session = room.start()["session"]
    room.loggers["vcam1"].change(state="armed", session=None, last_session=None)
    room.asked.clear()
    room.tick(1, times=6)
    assert room.orders("start")["vcam1"]["session"] == session
    assert room.states()["vcam1"] == "saving"
    room.tick()
    assert room.level("vcam1") is Level.OK


def test_one_that_is_slow_to_be_taken_up_is_not_told_twice(room: FakeRoom) -> None:
    room.prep()
    session = room.start()["session"]
    room.loggers["vcam1"].die()
    make = room.model.world.make
    room.tick(0.05)

    def stuck(*given: Any) -> Any:
        logger = make(*given)
        logger.is_stuck = True  # type: ignore[attr-defined]
        return logger

    room.model.crew.workers["vcam1"]._make = stuck
    room.tick(0.3)
    assert "was not prepared" in room.model.views()["vcam1"]["error"]
    room.loggers["vcam1"].free()
    room.loggers["vcam1"].change(state="saving", session=session, last_session=session)
    room.asked.clear()
    room.tick(5)
    assert room.asked == []
    assert room.states()["vcam1"] == "saving"


def test_a_person_who_stops_it_ends_the_attempts(room: FakeRoom) -> None:
    room.prep()
    room.start()
    room.failures["vcam1", "prepare"] = Refused("no stream vcam1")
    room.loggers["vcam1"].die()
    room.tick(0.3)
    room.stop()
    assert room.states() == {"vcam1": "idle", "vcam2": "idle"}
    room.asked.clear()
    room.tick(1, times=20)
    assert room.asked == []
    assert room.states() == {"vcam1": "idle", "vcam2": "idle"}


def test_one_that_dies_again_and_again_is_given_longer_pauses(room: FakeRoom) -> None:
    lives = 0
    for _ in range(200):  # 20 s
        if room.loggers["pupil"].is_alive:
            lives += 1
            room.loggers["pupil"].die()
        room.tick(0.1)
    assert 5 <= lives <= 9


def test_errors_of_loggers_are_health(room: FakeRoom) -> None:
    room.prep()
    room.start()
    room.loggers["vcam1"].change(warning="2 frames missed")
    room.loggers["vcam2"].change(state="error", error="disk full")
    room.tick()
    assert (room.level("vcam1"), room.level("vcam2")) == (Level.DEGRADED, Level.FAILED)
    assert room.model.status()["groups"]["vcam"]["state"] == "error"


# --- the daemon's own restart --------------------------------------------------------------------


def test_what_was_saved_goes_on_after_a_restart_of_the_daemon(room: FakeRoom) -> None:
    room.prep(cube_frames=77)
    room.prep("pupil")
    session = room.start(frames=9999)["session"]
    room.clock.advance(20)
    room.begin()
    room.tick()
    orders = room.orders("start")
    assert orders["vcam1"]["session"] == orders["vcam2"]["session"] == session
    assert orders["vcam1"]["resume"]
    assert room.orders("prepare")["vcam1"]["cube_frames"] == 77
    assert room.states() == {"vcam1": "saving", "vcam2": "saving"}
    assert room.states("pupil") == {"pupil": "armed"}


def test_what_a_person_stopped_stays_stopped(room: FakeRoom) -> None:
    room.prep()
    room.start()
    room.stop()
    room.begin()
    room.tick()
    assert room.states() == {"vcam1": "idle", "vcam2": "idle"}
    assert room.start()["state"] == "saving"  # as the last time


def test_after_a_long_absence_it_is_only_prepared(room: FakeRoom) -> None:
    room.prep()
    room.start()
    room.clock.advance(7200)
    room.begin()
    room.tick()
    assert room.states() == {"vcam1": "armed", "vcam2": "armed"}
    assert any(level == "warning" and "not resumed" in text for level, text in room.said)


def test_absence_is_counted_from_the_last_sign_of_life(room: FakeRoom) -> None:
    room.prep()
    room.start()
    room.tick(10, times=720)
    room.begin()
    room.tick()
    assert room.states()["vcam1"] == "saving"


def test_an_end_time_that_passed_meanwhile_is_the_end(room: FakeRoom) -> None:
    room.prep()
    room.start(until=iso(room.clock.now_ns() + 30_000_000_000, 9))
    room.clock.advance(60)
    room.begin()
    room.tick()
    assert room.states() == {"vcam1": "armed", "vcam2": "armed"}
    assert room.orders("start") == {}


@pytest.mark.parametrize("content", ["", "{", '{"version": 2}', "[]", '{"version": 1, "runs": 3}'])
def test_sessions_that_cannot_be_read_are_put_aside(tmp_path: Path, content: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "sessions.json").write_text(content)
    room = FakeRoom(tmp_path)
    assert room.states() == {"vcam1": "idle", "vcam2": "idle"}
    assert (tmp_path / "sessions.unreadable").read_text() == content
    room.prep()
    assert json.loads((tmp_path / "sessions.json").read_text())["runs"]["vcam1"]


def test_a_stream_that_left_its_group_is_not_taken_up(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    FakeRoom(tmp_path).prep()
    room = FakeRoom(tmp_path, groups={"vcam": ["vcam1", "pupil"]})
    room.tick()
    assert room.states() == {"vcam1": "armed", "pupil": "idle"}
    assert room.states("vcam2") == {"vcam2": "idle"}


def test_sessions_that_cannot_be_kept_are_no_reason_to_stop(
    room: FakeRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nightjard.fitslogd.sessions.write_json_durably", full)
    assert room.prep()["state"] == "armed"
    assert room.health.level_of("sessions") is Level.DEGRADED
    monkeypatch.undo()
    room.tick(6)
    assert room.health.level_of("sessions") is Level.OK


# --- set, type, looking --------------------------------------------------------------------------


def test_cube_length_changes_while_saving(room: FakeRoom) -> None:
    room.prep()
    room.start()
    reply = room.changes.set("vcam", (), 5000, False)
    assert room.orders("set")["vcam1"] == {"cube_frames": 5000}
    assert "advised are 2000" in reply["message"]
    room.loggers["vcam1"].die()
    room.tick(0.3)
    assert room.orders("prepare")["vcam1"]["cube_frames"] == 5000
    room.changes.set("vcam", (), None, True)
    assert room.orders("set")["vcam2"] == {"next_cube": True}


def test_cube_length_of_what_is_not_prepared(room: FakeRoom) -> None:
    with pytest.raises(Refused, match="not prepared"):
        room.changes.set("vcam", (), 10, False)
    with pytest.raises(InvalidArgument, match="cube_frames or next_cube"):
        room.changes.set("vcam", (), None, False)
    room.prep()
    room.stop()
    room.changes.set("vcam", (), 10, False)
    room.asked.clear()
    room.start()
    assert room.orders("prepare")["vcam1"]["cube_frames"] == 10


def test_data_type_is_told_to_loggers_and_cameras(room: FakeRoom) -> None:
    room.prep()
    assert room.cameras_told == [("cam1", "OBJECT")]
    room.changes.type("vcam", "DARK", ())
    assert room.orders("set") == {"vcam1": {"data_type": "DARK"}, "vcam2": {"data_type": "DARK"}}
    assert room.cameras_told[-1] == ("cam1", "DARK")
    room.camera_failure = Unreachable("cannot reach cam1")
    reply = room.changes.type("vcam", "FLAT", ())
    assert "not told: cam1" in reply["message"]
    assert room.model.views()["vcam1"]["data_type"] == "FLAT"


def test_files_are_listed_newest_first(room: FakeRoom) -> None:
    heard = room.model.crew.workers["vcam1"]._heard
    for number in range(3):
        heard({"event": "cube", "path": f"/d/{number}.fits", "frames": 10, "missed": number})
    found = room.changes.cubes("vcam", 2)
    assert [cube["path"] for cube in found] == ["/d/2.fits", "/d/1.fits"]
    assert room.changes.cubes("pupil", 5) == []
    assert [level for level, _ in room.said] == ["warning", "warning"]  # of those with losses


def test_the_end_closes_all_and_refuses_more(room: FakeRoom) -> None:
    import threading

    room.prep()
    room.start()
    room.model.stop(lambda text: None, threading.Event())
    assert sorted(room.ended) == ["pupil", "vcam1", "vcam2"]
    with pytest.raises(Refused, match="stopping"):
        room.start()
    assert room.model.status()["state"] == "STOPPING"


def test_a_fault_of_the_program_is_told_and_no_end(room: FakeRoom) -> None:
    room.failures["vcam1", "prepare"] = RuntimeError("oops")  # type: ignore[assignment]
    with pytest.raises(NightjarError, match="internal error: oops"):
        room.prep()
    room.failures.clear()
    assert room.prep()["state"] == "armed"
