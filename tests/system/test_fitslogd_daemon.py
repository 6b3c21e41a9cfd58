# SPDX-License-Identifier: BSD-3-Clause
"""Two streams of real frames, real loggers, the real command: what is in the files."""

from __future__ import annotations

import contextlib
import json
import signal
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from kit.fitslog_site import FitslogSite, is_gapless, numbers
from kit.ports import free_ports
from kit.site import eventually
from kit.terminal import Terminal
from nightjar.api.fitslog import COMMANDS, REPLY_KEYS, STATUS_KEYS, STREAM_KEYS
from nightjar.errors import InvalidArgument
from nightjar.times import iso
from nightjarctl.fitslog import main

PERIOD_NS = 5_000_000  # of the producers


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, _session_folders: str
) -> Iterator[FitslogSite]:
    """Serve all tests of this module: they stop the group first."""
    (port,) = free_ports(1)
    made = FitslogSite(tmp_path_factory.mktemp("fitslog"), port)
    made.variables = {  # type: ignore[attr-defined]
        "NIGHTJAR_CONFIG_ROOT": str(made.config_path.parent.parent),
    }
    made.produce("vcam1", "vcam2")
    made.start()
    yield made
    made.close()


@pytest.fixture
def site(running: FitslogSite, monkeypatch: pytest.MonkeyPatch) -> FitslogSite:
    for name, value in running.variables.items():  # type: ignore[attr-defined]
        monkeypatch.setenv(name, value)
    running.ask("stop")
    return running


@dataclass
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def fitslog(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process; nobody sits at its terminal."""
    import io

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as end:  # completion leaves so
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


# --- what is in the files ------------------------------------------------------------------------


def test_both_cameras_begin_and_end_with_the_same_frame(site: FitslogSite) -> None:
    site.ask("prep", cube_frames=40, data_type="DARK")
    session = site.ask("start")["session"]
    for stream in ("vcam1", "vcam2"):
        site.until(stream, frames_saved=90)
    with site.without_frames():  # until both have heard of it, however long that takes
        reply = site.tell("pause")
        for stream in ("vcam1", "vcam2"):
            site.until(stream, state="finishing")
    assert site.finish(reply)["state"] == "armed"
    site.ask("pause", wait=True)
    one, two = site.cubes("vcam1", session), site.cubes("vcam2", session)
    assert [len(cube.pixels) for cube in one] == [len(cube.pixels) for cube in two]
    assert one[0].stamps[0] == two[0].stamps[0], "one trigger, one first frame"
    assert one[-1].stamps[-1] == two[-1].stamps[-1]
    for cubes in (one, two):
        assert is_gapless(numbers(cubes))
        assert [cube.header["CUBE-NUM"] for cube in cubes] == list(range(1, len(cubes) + 1))
        assert cubes[-1].header["TRUNCATE"] is True
        assert {cube.header["DATA-TYP"] for cube in cubes} == {"DARK"}
        assert {cube.header["NMISSED"] for cube in cubes} == {0}
    assert site.leftovers() == []


def test_finish_fills_the_last_cube_and_wait_returns_with_its_file(site: FitslogSite) -> None:
    site.ask("prep", cube_frames=60)
    session = site.ask("start")["session"]
    site.until("vcam1", cube_index=10)
    with site.without_frames():
        reply = site.tell("pause", finish=True, wait=True)
        assert reply["pending"], "it cannot have been full at once"
    reply = site.finish(reply)
    last = {stream: reply["streams"][stream]["last_file"] for stream in ("vcam1", "vcam2")}
    assert all(Path(path).is_file() for path in last.values()), "in place when it returns"
    for stream, path in last.items():
        cubes = site.cubes(stream, session)
        assert str(cubes[-1].path) == path
        assert len(cubes[-1].pixels) == 60
        assert cubes[-1].header["TRUNCATE"] is False
        assert is_gapless(numbers(cubes))


def test_exactly_so_many_frames_cubes_and_until(site: FitslogSite) -> None:
    site.ask("prep", cube_frames=25)
    frames = site.ask("start", frames=60)["session"]
    site.until("vcam1", state="armed")
    site.until("vcam2", state="armed", closing=False)
    cubes = site.ask("start", cubes=2)["session"]
    site.until("vcam1", state="armed")
    site.until("vcam2", state="armed")
    for ahead_ns in (500_000_000, 5_000_000_000):  # the first may pass where the machine stops
        end_ns = time.time_ns() + ahead_ns
        with contextlib.suppress(InvalidArgument):
            until = site.ask("start", until=iso(end_ns, 9))["session"]
            site.until("vcam1", state="armed")
            site.until("vcam2", state="armed")
            site.ask("pause", wait=True)
            if all(site.cubes(stream, until) for stream in ("vcam1", "vcam2")):
                break
    for stream in ("vcam1", "vcam2"):
        assert [len(c.pixels) for c in site.cubes(stream, frames)] == [25, 25, 10]
        assert [len(c.pixels) for c in site.cubes(stream, cubes)] == [25, 25]
        last = site.cubes(stream, until)[-1].stamps[-1]
        assert end_ns - PERIOD_NS <= last < end_ns


def test_cube_length_changes_in_mid_session(site: FitslogSite) -> None:
    site.ask("prep", cube_frames=1000)
    session = site.ask("start")["session"]
    site.until("vcam1", cube_index=20)
    site.ask("set", cube_frames=30, next_cube=True)
    site.until("vcam1", cube_count=3)
    site.ask("pause", wait=True)
    found = site.cubes("vcam1", session)
    assert [len(cube.pixels) for cube in found][1:-1] == [30] * (len(found) - 2)
    assert is_gapless(numbers(found))


# --- the command ---------------------------------------------------------------------------------


def test_a_session_typed_by_a_person(site: FitslogSite, fitslog: Run) -> None:
    done = fitslog("vcam", "prep", "-n", "30", "-z", "200", "-t", "flat", "-na", "-d", "by-hand")
    assert done.code == 0, done.err
    assert "30 frames per cube, FLAT" in done.out
    assert fitslog("vcam", "start", "-c", "2").code == 0
    assert fitslog("vcam", "start").code == 0
    site.until("vcam2", frames_saved=1)
    shown = fitslog("vcam", "status")
    assert "Group vcam is SAVING" in shown.out
    assert "ends after 200 cubes" in shown.out
    done = fitslog("vcam", "pause", "--wait", "--json")
    assert json.loads(done.out)["state"] == "armed"
    listed = fitslog("vcam", "cubes", "-n", "1")
    assert str(site.data / "by-hand") in listed.out
    assert fitslog("vcam", "type", "object").code == 0
    assert fitslog("vcam", "set", "-n", "50").code == 0
    assert "50 frames per cube" in fitslog("status").out
    done = fitslog("vcam", "stop", "--json")
    assert set(REPLY_KEYS) == set(json.loads(done.out))
    assert fitslog("vcam", "stop").code == 0, "again"


def test_without_a_number_the_advice_holds_and_is_said(site: FitslogSite, fitslog: Run) -> None:
    done = fitslog("vcam", "prep")
    assert done.code == 0
    assert "advised, none was given" in done.err
    advised = json.loads(fitslog("vcam", "advice", "--json").out)["cube_frames"]
    assert f"{advised} frames per cube" in done.out


def test_deadline_of_wait_is_exit_code_6_and_saving_goes_on(
    site: FitslogSite, fitslog: Run
) -> None:
    site.ask("prep", cube_frames=100_000)
    site.ask("start")
    site.until("vcam1", cube_index=1)
    done = fitslog("vcam", "pause", "--wait", "--timeout", "0.4")
    assert done.code == 6
    assert "goes on" in done.err
    site.until("vcam1", state="finishing")
    assert fitslog("vcam", "pause", "--now", "--wait").code == 0
    assert site.streams()["vcam1"]["state"] == "armed"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("vcam2", "start"), 3, "vcam2 is not prepared"),
        (("vcam", "start", "-c", "3"), 2, "1 (vcam1), 2 (vcam2)"),
        (("vcam", "start", "-z", "0"), 2, "-1 for no limit"),
        (("vcam", "start", "--until", "soon"), 2, "HH:MM"),
        (("vcam", "prep", "-n", "5", "-d", "/etc"), 3, "may lie in"),
        (("vcam", "prep", "-n", "5", "-a", "-d", "x"), 2, "not both"),
        (("vcam", "prep", "-n", "0"), 2, "x>=1"),
        (("vcam", "type", "MOON"), 2, "OBJECT"),
        (("vcam", "set"), 2, "--cube-frames or --next-cube"),
        (("vcam2", "set", "--next-cube"), 3, "not prepared"),
        (("vcam", "pause", "--finish", "--now"), 2, "--finish or --now"),
        (("vacm", "start"), 2, "did you mean vcam"),
        (("vcam", "strat"), 2, "did you mean start"),
        (("start",), 2, "write fitslog GROUP start"),
        (("top",), 2, "needs a terminal"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_line(
    site: FitslogSite, fitslog: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = fitslog(*arguments)
    assert done.code == code, done
    assert said in done.err


def test_one_group_at_a_time(site: FitslogSite, fitslog: Run) -> None:
    assert fitslog("vcam1", "prep", "-n", "5").code == 0
    done = fitslog("vcam", "prep", "-n", "5")
    assert done.code == 3
    assert "vcam1 is armed in group vcam1" in done.err
    assert fitslog("vcam1", "stop").code == 0


def test_daemon_away_is_exit_code_5(tmp_path: Path, free_port: int, fitslog: Run) -> None:
    FitslogSite(tmp_path, free_port)
    assert fitslog("vcam", "status").code == 5
    assert fitslog("status").code == 5


def test_tables_and_answers_agree(site: FitslogSite) -> None:
    assert site.daemon is not None
    status = site.daemon.status()
    assert set(status) == set(STATUS_KEYS)
    assert all(set(view) == set(STREAM_KEYS) for view in status["streams"].values())
    described = {c["name"] for c in site.daemon.call("describe")["commands"]}
    assert {command.name for command in COMMANDS} <= described
    assert site.daemon.call("groups") == {
        "vcam": ["vcam1", "vcam2"], "vcam1": ["vcam1"], "vcam2": ["vcam2"],
    }  # fmt: skip


def test_completion_knows_groups_and_cameras(
    site: FitslogSite, fitslog: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(*typed: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", " ".join(("fitslog", *typed)))
        monkeypatch.setenv("COMP_CWORD", str(len(typed)))
        monkeypatch.setenv("_FITSLOG_COMPLETE", "bash_complete")
        found = [line.partition(",")[2] for line in fitslog().out.splitlines()]
        monkeypatch.delenv("_FITSLOG_COMPLETE")
        return found

    assert set(words("vc")) == {"vcam", "vcam1", "vcam2"}
    assert "pause" in words("vcam", "pa")
    assert words("vcam", "start", "-c", "vcam2") == ["vcam2"]
    assert words("vcam", "type", "SKY") == ["SKYFLAT"]


# --- one of two streams fails --------------------------------------------------------------------


def test_one_camera_is_missing(tmp_path: Path, free_port: int, fitslog: Run) -> None:
    made = FitslogSite(tmp_path, free_port)
    try:
        made.produce("vcam1")
        made.start()
        done = fitslog("vcam", "prep", "-n", "10", "--json")
        assert done.code != 0
        error = json.loads(done.out)["error"]
        assert "vcam2" in error["message"]
        assert error["detail"]["results"]["vcam1"]["ok"] is True
        assert error["detail"]["results"]["vcam2"]["ok"] is False
        assert made.streams()["vcam1"]["state"] == "idle", "rolled back"
        done = fitslog("vcam", "prep", "-n", "10", "--partial")
        assert done.code == 0
        assert "vcam2: " in done.err
        assert fitslog("vcam", "start", "-n", "15").code == 0
        made.until("vcam1", frames_saved=15, state="armed")
        made.produce("vcam2")
        assert fitslog("vcam", "prep", "-n", "10").code == 0
        with made.without_frames():
            assert made.ask("start", cubes=1)["state"] == "saving"
        made.until("vcam2", frames_saved=10, state="armed")
    finally:
        made.close()


def test_folder_that_cannot_be_written(site: FitslogSite, fitslog: Run) -> None:
    (site.data / "file").write_text("no folder")
    done = fitslog("vcam", "prep", "-n", "5", "-d", "file")
    assert done.code == 1
    assert "file" in done.err
    assert site.streams()["vcam1"]["state"] == "idle"


# --- on a terminal -------------------------------------------------------------------------------


def test_prep_asks_in_the_order_that_observers_know(site: FitslogSite) -> None:
    with Terminal("nightjarctl.fitslog", "vcam", "prep") as terminal:
        asked = terminal.expect("Number of frames per cube (advised: ")
        terminal.expect("): ")
        terminal.type("\n")
        terminal.expect("Number of frames per cube")  # there is no default
        terminal.type("77\n")
        asked += terminal.expect("Number of cubes (-1: no limit) [-1]: ")
        terminal.type("\n")
        terminal.expect("Camera (1: vcam1, 2: vcam2, -1: all) [-1]: ")
        terminal.type("2\n")
        terminal.expect("Archive [y/N]: ")
        terminal.type("\n")
        terminal.expect("[OBJECT]: ")
        terminal.type("dark\n")
        terminal.expect("Save directory [")
        terminal.expect("]: ")
        terminal.type("asked\n")
        terminal.expect("vcam is prepared: 77 frames per cube, DARK")
        assert terminal.wait() == 0
    views = site.streams()
    assert views["vcam1"]["state"] == "idle"
    assert views["vcam2"]["settings"]["root"] == str(site.data / "asked")
    assert views["vcam2"]["settings"]["cubes"] is None


def test_what_is_given_is_not_asked(site: FitslogSite) -> None:
    options = ("-n", "9", "-z", "1", "-c", "-1", "-a", "-t", "BIAS")
    with Terminal("nightjarctl.fitslog", "vcam", "prep", *options) as terminal:
        terminal.expect("vcam is prepared: 9 frames per cube, BIAS")
        assert terminal.wait() == 0
        assert "?" not in terminal.said
    root = site.streams()["vcam1"]["settings"]["root"]
    assert root == str(site.data / "archive"), "no folder is asked for where it is the archive's"


def test_prep_that_is_left_changes_nothing(site: FitslogSite) -> None:
    with Terminal("nightjarctl.fitslog", "vcam", "prep", "-n", "5") as terminal:
        terminal.expect("Number of cubes")
        terminal.type("\x04")
        assert terminal.wait() == 130
    assert site.streams()["vcam1"]["state"] == "idle"


def test_top_on_a_terminal(site: FitslogSite) -> None:
    site.ask("prep", cube_frames=400)  # 2 s: what happens meanwhile is seen
    with Terminal("nightjarctl.fitslog", "top", "--filter", "vcam") as terminal:
        terminal.expect("ARMED")
        terminal.type(" ")
        terminal.expect("SAVING")
        site.until("vcam1", frames_saved=10)
        terminal.type("f")
        terminal.expect("ending with a full cube")
        site.until("vcam1", state="armed")
        terminal.type("\x1b[Bc\x1540\n")
        terminal.expect("40 frames per cube")
        terminal.type("q")
        assert terminal.wait() == 0
        assert terminal.modes()[3] & termios.ECHO, "the terminal is as it was"
    assert site.streams()["vcam1"]["cube_frames"] == 40
    assert site.streams()["vcam2"]["cube_frames"] == 400


def test_top_without_a_daemon_waits_for_it(tmp_path: Path, free_port: int) -> None:
    FitslogSite(tmp_path, free_port)
    with Terminal("nightjarctl.fitslog", "top") as terminal:
        terminal.expect("OFFLINE")
        terminal.expect("connection refused")
        terminal.process.send_signal(signal.SIGINT)  # what Ctrl-C is
        assert terminal.wait() == 0


def test_metrics_of_each_logger(
    tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    port, metrics_port = free_ports(2)
    made = FitslogSite(tmp_path, port, metrics_port=metrics_port)
    try:
        made.produce("vcam1", "vcam2")
        made.start()
        made.ask("prep", cube_frames=10)
        made.ask("start", cubes=3)
        made.until("vcam2", state="armed", frames_saved=30)

        def served() -> str:
            with urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5) as page:
                return str(page.read().decode())

        for name, value in (("frames_total", "30.0"), ("missed_total", "0.0"),
                            ("cubes_total", "3.0")):  # fmt: skip
            line = f'nightjar_fitslog_{name}{{daemon="fitslog",stream="vcam2"}} {value}'
            eventually(lambda line=line: line in served(), what=line)
    finally:
        made.close()
