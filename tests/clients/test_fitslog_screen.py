# SPDX-License-Identifier: BSD-3-Clause
"""``fitslog top`` without a terminal: what is shown, and which command a key becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.fake_logger import FakeRoom
from nightjar.api.fitslog import COMMANDS
from nightjar.times import iso
from nightjarctl.fitslog_keys import Order, keys_of, step
from nightjarctl.fitslog_screen import NO, YES, Screen


class Theatre:
    """A screen before a model with fake loggers."""

    def __init__(self, folder: Path, text: str = "") -> None:
        (folder / "data").mkdir()
        self.room = FakeRoom(folder)
        self.screen = Screen(text)
        self.look()

    def look(self) -> None:
        snapshot: dict[str, Any] = {
            "time": iso(self.room.clock.now_ns()), "daemon": "fitslog", "summary": "READY",
            "health": {"level": "OK"}, **self.room.model.status(),
        }  # fmt: skip
        self.screen.snapshots = [snapshot]

    def text(self, width: int = 80, height: int = 24) -> list[str]:
        lines = self.screen.lines(width, height)
        assert len(lines) == height
        assert all(line.cell_len <= width for line in lines)
        return [line.plain.rstrip() for line in lines]

    def row(self, name: str) -> str:
        found = [line for line in self.text() if name in line.split()]
        assert found, self.text()
        return found[0]

    def press(self, *keys: str) -> Order | None:
        """Press keys; what becomes of the last one is carried out."""
        order = None
        for key in keys:
            order = self.screen.press(key)
        if order is not None:
            commands = {command.name: command for command in COMMANDS}
            checked = commands[order.command].check(order.arguments)
            deed = {"set": self.room.changes, "type": self.room.changes}.get(
                order.command, self.room.sessions
            )
            getattr(deed, order.command)(**checked)
        self.look()
        return order


@pytest.fixture
def theatre(tmp_path: Path) -> Theatre:
    return Theatre(tmp_path)


def test_marks_tell_alive_prepared_saving(theatre: Theatre) -> None:
    assert theatre.row("vcam1").startswith(f"{YES} {NO} {NO}")
    theatre.room.prep()
    theatre.look()
    assert theatre.row("vcam1").startswith(f"{YES} {YES} {NO}")
    theatre.room.start()
    theatre.look()
    assert theatre.row("vcam1").startswith(f"{YES} {YES} {YES}")
    assert "SAVING" in theatre.row("vcam")
    assert theatre.row("pupil").startswith(f"{YES} {NO} {NO}")
    theatre.room.loggers["vcam1"].die()
    theatre.look()
    assert theatre.row("vcam1").startswith(NO)
    assert "ERROR" in theatre.row("vcam1")


def test_space_starts_and_pauses_a_group_or_a_stream(theatre: Theatre) -> None:
    theatre.room.prep()
    theatre.look()
    assert theatre.press(" ") == Order(0, "start", {"group": "vcam", "streams": []})
    assert theatre.room.states() == {"vcam1": "saving", "vcam2": "saving"}
    order = theatre.press("down", " ")
    assert order == Order(0, "pause", {"group": "vcam", "streams": ["vcam1"]})


def test_finish_next_and_cube_length(theatre: Theatre) -> None:
    theatre.room.prep(cube_frames=2000)
    theatre.room.start()
    theatre.look()
    theatre.press("n")
    assert theatre.room.orders("set")["vcam2"] == {"next_cube": True}
    theatre.press("+")
    assert theatre.room.orders("set")["vcam2"] == {"cube_frames": 2500}
    theatre.press("-")
    assert theatre.room.orders("set")["vcam1"] == {"cube_frames": 2000}
    theatre.press("c", "1", "2", "enter")
    assert theatre.room.orders("set")["vcam1"] == {"cube_frames": 12}
    theatre.press("f")
    assert theatre.room.orders("pause")["vcam1"]["finish"] is True


def test_stop_asks_first(theatre: Theatre) -> None:
    theatre.room.prep()
    theatre.look()
    assert theatre.press("s") is None
    assert theatre.text()[-1] == "Really stop vcam? (y/n)"
    assert theatre.press("n") is None
    assert theatre.room.states()["vcam1"] == "armed"
    theatre.press("s", "y")
    assert theatre.room.states()["vcam1"] == "idle"
    theatre.press("K", "y")
    assert theatre.room.ended == ["vcam1", "vcam2"]


def test_form_prepares(theatre: Theatre) -> None:
    theatre.press("p")
    assert any("save directory" in line for line in theatre.text())
    for key in ("5", "0", "enter", "3", "tab", "right", "down", "right"):
        theatre.press(key)
    assert theatre.press("enter") is None, "not the last question yet"
    order = theatre.press("enter")
    assert order is not None
    given = theatre.room.orders("prepare")["vcam1"]
    assert given["cube_frames"] == 50
    assert given["root"] == str(theatre.room.config.archive_root)
    assert given["data_type"] == "SKYFLAT"
    assert theatre.room.model.views()["vcam2"]["settings"]["cubes"] == 3


def test_form_says_what_it_cannot_use_and_can_be_left(theatre: Theatre) -> None:
    assert theatre.press("c", "x", "enter") is None
    assert "whole number from 1" in theatre.text()[-1]
    theatre.press("escape")
    assert not any("frames per cube:" in line for line in theatre.text())


def test_type_is_chosen(theatre: Theatre) -> None:
    theatre.room.prep()
    theatre.look()
    order = theatre.press("t", "left", "enter")
    assert order is not None
    assert order.arguments["data_type"] == "FOCUSING"


def test_filter_hides_the_rest_and_groups_that_are_not_whole(tmp_path: Path) -> None:
    theatre = Theatre(tmp_path, "vcam2")
    rows = theatre.screen.rows()
    assert [(row.group, row.stream) for row in rows] == [("vcam2", "vcam2")]
    theatre.screen.text = "vcam"
    assert [row.stream for row in theatre.screen.rows()] == [None, "vcam1", "vcam2"]
    theatre.screen.text = "nothing"
    assert any("no stream with 'nothing'" in line for line in theatre.text())
    assert theatre.press(" ") is None


def test_a_stream_of_an_active_group_is_commanded_through_it(tmp_path: Path) -> None:
    theatre = Theatre(tmp_path, "vcam2")
    theatre.room.prep()
    theatre.look()
    order = theatre.press(" ")
    assert order == Order(0, "start", {"group": "vcam", "streams": ["vcam2"]})


def test_daemon_that_is_away_is_said(theatre: Theatre) -> None:
    theatre.screen.snapshots, theatre.screen.reasons = [None], ["cannot reach fitslog"]
    text = [line.plain for line in theatre.screen.lines(80, 24)]
    assert "1 OFFLINE" in text[0]
    assert any("cannot reach fitslog" in line for line in text)
    assert theatre.screen.press(" ") is None


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 60), (20, 5)])
def test_every_size_is_filled_and_not_more(theatre: Theatre, width: int, height: int) -> None:
    theatre.room.prep()
    theatre.room.start()
    for keys in ((), ("?",), ("x", "p"), ("escape", "down", "down", "down")):
        theatre.press(*keys)
        theatre.text(width, height)


def test_the_chosen_line_is_in_sight_of_a_low_terminal(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    theatre = Theatre.__new__(Theatre)
    streams: dict[str, Any] = {f"s{number:02d}": {} for number in range(30)}
    theatre.room = FakeRoom(tmp_path, streams=streams, groups={})
    theatre.screen = Screen()
    theatre.look()
    for _ in range(25):
        theatre.press("down")
    assert any("s25" in line for line in theatre.text(80, 16))
    for _ in range(40):
        theatre.press("down")
    assert any("s29" in line for line in theatre.text(80, 16))
    for _ in range(40):
        theatre.press("up")
    assert any("s00" in line for line in theatre.text(80, 16))


def test_help_names_every_key_and_q_leaves(theatre: Theatre) -> None:
    theatre.press("?")
    shown = "\n".join(theatre.text())
    for key in ("space", "f ", "s ", "p ", "+ -", "n ", "K ", "t ", "q "):
        assert key in shown
    theatre.press("x")
    assert not theatre.screen.is_over
    theatre.press("q")
    assert theatre.screen.is_over


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]), (b"\x1b[A\x1b[B", ["up", "down"]), (b"\x1bOC", ["right"]),
        (b"\x1b", ["escape"]), (b"a\x1b", ["a", "escape"]), (b"\x1b[3~x", ["x"]),
        (b"\x1b[1;5Cx", ["x"]), (b"\r\x7f\t", ["enter", "backspace", "tab"]),
        (b"\xc3\xa9y", ["y"]), (b"\x00\x01z", ["z"]), (b"", []),
    ],
)  # fmt: skip
def test_what_terminals_send(data: bytes, keys: list[str]) -> None:
    assert list(keys_of(data)) == keys


def test_steps_of_cube_length() -> None:
    lengths = [1]
    for _ in range(9):
        lengths.append(step(lengths[-1], True))
    assert lengths == [1, 2, 5, 10, 20, 25, 50, 100, 200, 250]
    assert step(777, False) == 500
    assert step(1, False) == 1
