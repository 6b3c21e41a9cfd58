# SPDX-License-Identifier: BSD-3-Clause
"""The cam command against a fake camera behind the real RPC server."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.fake_camera import FakeCamera
from kit.site import eventually
from kit.soon import assert_soon
from nightjar.api.camera import COMMANDS, CONFIGURE_KEYS
from nightjar.errors import Busy, Code, NightjarError, Refused
from nightjar.operations import Operation

CAM = [sys.executable, "-c", "import sys; from nightjarctl.cam import main; sys.exit(main())"]
Run = Callable[..., Any]

SENT = [
    ("init --no-wait", "init", {}),
    ("shutdown --no-wait", "shutdown", {"warm": True}),
    ("kill --no-warm --no-wait", "shutdown", {"warm": False}),
    ("start 3", "start", {"count": 3, "delay": 0.0}),
    ("start continuous --delay 2.5", "start", {"count": 0, "delay": 2.5}),
    ("stop", "stop", {}),
    ("abort --no-wait", "abort", {}),
    ("exposure 0.25", "set_exposure", {"seconds": 0.25}),
    ("window 1 100 201 300", "set_window", {"window": [1, 100, 201, 300], "name": None}),
    ("window default", "set_window", {"window": None, "name": None}),
    ("window sky", "set_window", {"window": None, "name": "sky"}),
    ("bin 2", "set_binning", {"binning": 2, "method": None}),
    ("bin 2 mean", "set_binning", {"binning": 2, "method": "mean"}),
    ("bin default", "set_binning", {"binning": None, "method": None}),
    ("gain 26", "set_gain", {"gain": 26}),
    ("offset 30", "set_offset", {"offset": 30}),
    ("filter R --no-wait", "set_filter", {"filter": "R"}),
    ("stream enable", "set_stream", {"enabled": True}),
    ("stream disable", "set_stream", {"enabled": False}),
    ("controls source=point mirr_pos=47.2 chinj=1", "set_controls",
     {"values": {"source": "point", "mirr_pos": 47.2, "chinj": 1}}),
    ("temperature -5", "set_temperature", {"celsius": -5.0}),
    ("temperature -5.5", "set_temperature", {"celsius": -5.5}),
    ("temperature warm", "set_temperature", {"celsius": None}),
    ("last -n 3", "last", {"count": 3}),
    ("hand-over", "hand_over", {}),
    (
        "configure exposure=2 window=1,100,1,50 bin=2 bin_method=mean stream=enable temperature=-7",
        "configure",
        {"settings": {"exposure": 2.0, "window": [1, 100, 1, 50], "bin": 2, "bin_method": "mean",
                      "stream": True, "temperature": -7.0}},
    ),
    ("configure window=default temperature=warm", "configure",
     {"settings": {"window": None, "temperature": None}}),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "command", "arguments"), SENT)
def test_what_is_typed_is_what_is_sent(
    run: Run, fake: FakeCamera, typed: str, command: str, arguments: dict[str, Any]
) -> None:
    ran = run("test", *typed.split())
    assert (ran.code, ran.err) == (0, "")
    assert fake.calls == [(command, arguments)]
    assert ran.out.count("\n") == 1


def test_every_command_of_the_table_can_be_typed() -> None:
    assert {command for _, command, _ in SENT} == {command.name for command in COMMANDS}


@pytest.mark.parametrize(
    "typed",
    [
        "start 0", "start -3", "start x", "start", "start 1 2", "exposure abc", "exposure nan",
        "window 1 2 3", "window 1 2 3 x", "window", "bin x", "bin 2 median", "gain 1.5",
        "temperature cold", "stream maybe", "frobnicate", "status --nonsense", "last -n 0",
        "configure nonsense=1", "configure exposure", "configure exposure=abc",
        "configure gain=1.5", "configure gain=default", "configure exposure=1 exposure=2",
        "configure /no/such/file.json",
        "wait --state SLEEPING", "wait --state IDLE --operation x", "status --timeout 0",
        "start 3 --delay soon",
    ],
)  # fmt: skip
def test_bad_usage_is_two_lines_and_exit_code_2(run: Run, fake: FakeCamera, typed: str) -> None:
    ran = run("test", *typed.split())
    assert ran.code == 2
    assert ran.out == ""
    assert re.match(r"error: .+\n(usage: cam test.*\n)?\Z", ran.err), ran.err
    assert fake.calls == []


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (Busy("camera is exposing", code=Code.NOT_IDLE), 4),
        (Refused("gain must be 0 to 100, not 200", code=Code.OUT_OF_RANGE, low=0, high=100), 3),
        (NightjarError("cooler reports UVLO", code=Code.DEVICE_FAULT), 1),
    ],
)
def test_refusals_keep_text_and_exit_code(
    run: Run, fake: FakeCamera, error: NightjarError, exit_code: int
) -> None:
    fake.errors["set_gain"] = error
    ran = run("test", "gain", "50")
    assert (ran.code, ran.out, ran.err) == (exit_code, "", f"error: {error.message}\n")
    ran = run("test", "gain", "50", "--json")
    told = json.loads(ran.out)["error"]
    assert (told["name"], told["exit_code"]) == (error.code.name, exit_code)
    assert told["detail"] == error.detail


def test_value_beyond_the_table_is_refused_by_the_daemon(run: Run, fake: FakeCamera) -> None:
    ran = run("test", "exposure", "-1")
    assert ran.code == 3
    assert ran.err == "error: seconds must be 0 to 86400 s, not -1.0\n"


def test_dead_daemon_is_one_line_and_exit_code_5(run: Run, site: Path) -> None:
    ran = run("guide", "status")
    assert ran.code == 5
    assert re.fullmatch(
        r"error: cannot reach localhost_guide at 127\.0\.0\.1:\d+: connection refused; "
        r"is it running on LocalHost\?\n", ran.err,
    )  # fmt: skip


def test_silent_daemon_is_exit_code_6(run: Run, site: Path, free_port: int) -> None:
    import socket

    registry = json.loads((site / "nightjar" / "registry.json").read_text())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry["daemons"]["localhost_test"]["port"] = silent.getsockname()[1]
        (site / "nightjar" / "registry.json").write_text(json.dumps(registry))
        ran = run("test", "stop", "--timeout", "0.2")
    assert ran.code == 6
    assert "localhost_test" in ran.err
    assert ran.err.count("\n") == 1


def test_unknown_id_names_those_that_are_configured(run: Run, site: Path) -> None:
    ran = run("tset", "status")
    assert ran.code == 2
    assert "configured there: guide, test" in ran.err


def test_registered_name_will_do_where_no_file_is(run: Run, fake: FakeCamera) -> None:
    ran = run("localhost_test", "status", "--json")
    assert json.loads(ran.out)["camera_id"] == "TEST"


def test_id_may_come_from_the_environment(
    run: Run, fake: FakeCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run("status")
    assert ran.code == 2
    assert "CAM_ID" in ran.err
    monkeypatch.setenv("CAM_ID", "test")
    assert run("stop").code == 0
    assert run("test", "abort", "--no-wait").code == 0
    assert [command for command, _ in fake.calls] == ["stop", "abort"]
    assert run("guide", "status").code == 5  # an id that is given wins


@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_shared_options_may_stand_anywhere(run: Run, fake: FakeCamera, where: int) -> None:
    words = ["test", "bin", "2"]
    words.insert(where, "--json")
    assert json.loads(run(*words).out) == {"command": "set_binning", "value": None}


def test_help_goes_to_stdout_and_its_absence_to_stderr(run: Run, site: Path) -> None:
    for arguments in ([], ["test"]):
        ran = run(*arguments)
        assert (ran.code, ran.out) == (2, "")
        asked = run(*arguments, "--help")
        assert (asked.code, asked.err) == (0, "")
        assert asked.out == ran.err
        for command in ("status", "temperature", "configure"):
            assert command in asked.out


def test_quiet_silences_confirmations_only(run: Run, fake: FakeCamera) -> None:
    assert run("test", "stop", "-q").out == ""
    assert "Camera is" in run("test", "status", "-q").out
    assert run("test", "start", "0", "-q").err.startswith("error: ")


def test_configure_reads_a_file_and_standard_input(
    run: Run, fake: FakeCamera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"exposure": 3, "window": None, "filter": "B"}
    path = tmp_path / "night.json"
    path.write_text(json.dumps(wanted))
    assert run("test", "configure", str(path)).code == 0
    monkeypatch.setattr("sys.stdin", path.open())
    assert run("test", "configure", "-").code == 0
    assert fake.calls == [("configure", {"settings": wanted})] * 2
    path.write_text('{"exposure": "long"}')
    ran = run("test", "configure", str(path))
    assert (ran.code, ran.err) == (2, "error: exposure must be a number, not 'long'\n")


def test_every_configure_key_can_be_typed() -> None:
    from nightjarctl.settings import parameter_of

    tables = {each.name: {p.name: p for p in each.parameters} for each in COMMANDS}
    for key, (command, parameter) in CONFIGURE_KEYS.items():
        assert parameter_of(key).name == key
        assert parameter_of(key).kind == tables[command][parameter].kind


# --- waiting --------------------------------------------------------------------------------------


def test_wait_takes_summary_or_detail_state_in_any_case(run: Run, fake: FakeCamera) -> None:
    assert run("test", "wait", "--state", "ready").code == 0
    assert run("test", "wait", "--state", "IDLE", "--cooler", "locked").code == 0
    assert run("test", "wait", "--state", "EXPOSING", "--state", "IDLE").code == 0


def test_wait_ends_with_6_at_the_deadline_and_tells_the_state(run: Run, fake: FakeCamera) -> None:
    def wait() -> tuple[float, str]:
        began = time.monotonic()
        ran = run("test", "wait", "--state", "exposing", "--timeout", "0.3")
        took_s = time.monotonic() - began
        assert ran.code == 6
        assert took_s >= 0.3
        # Of a daemon that is held up so long, no state is known.
        return took_s if "READY, IDLE" in ran.err else math.inf, ran.err

    assert_soon(wait, 3)


def test_wait_sees_the_state_when_it_comes(run: Run, fake: FakeCamera) -> None:
    fake.snapshot["state"] = "EXPOSING"
    timer = threading.Timer(0.3, lambda: fake.snapshot.update(state="IDLE"))
    timer.start()
    ran = run("test", "wait", "--state", "idle", "--timeout", "10", "--json")
    timer.join()
    assert ran.code == 0
    assert json.loads(ran.out)["state"] == "IDLE"


def test_wait_gives_up_on_a_fault(run: Run, fake: FakeCamera) -> None:
    fake.snapshot.update(summary="FAULT", health={"level": "FAILED", "reason": "camera is gone"})
    ran = run("test", "wait", "--state", "idle", "--cooler", "LOCKING")
    assert (ran.code, "camera is gone" in ran.err) == (1, True)
    assert run("test", "wait", "--state", "fault").code == 0


def _walk(operation: Operation, end: Callable[[Operation], None]) -> None:
    is_followed, snapshot = threading.Event(), operation.snapshot

    def look() -> dict[str, Any]:
        seen = snapshot()
        if seen["stage"]:
            is_followed.set()
        return seen

    operation.snapshot = look  # type: ignore[method-assign]

    def work() -> None:
        for part in range(1, 11):
            operation.update(part / 10, "exposing" if part < 8 else "saving", f"frame {part}")
            time.sleep(0.01)
            if part == 5:
                is_followed.wait(15)
        end(operation)

    threading.Thread(target=work, name="walk").start()


def test_start_wait_tells_progress_and_the_end(run: Run, fake: FakeCamera) -> None:
    fake.on_operation = lambda operation: _walk(
        operation, lambda o: o.finish({"frames": 10}, "10 frames")
    )
    ran = run("test", "start", "10", "--wait")
    assert ran.code == 0
    assert ran.out == "sequence of camera test is done: 10 frames\n"
    lines = ran.err.splitlines()
    assert 1 <= len(lines) <= 12  # at most one a tenth and one a stage
    assert lines == list(dict.fromkeys(lines))
    assert all(line.startswith("sequence of camera test: ") for line in lines)
    ran = run("test", "start", "10", "--wait", "--json")
    assert ran.err == ""
    assert json.loads(ran.out)["result"] == {"frames": 10}


def test_failed_operation_fails_the_command(run: Run, fake: FakeCamera) -> None:
    error = NightjarError("no camera with serial 12345", code=Code.DEVICE_NOT_FOUND)
    fake.on_operation = lambda operation: operation.fail(error)
    ran = run("test", "init")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "error: no camera with serial 12345\n"


def test_deadline_leaves_the_operation_running(run: Run, fake: FakeCamera) -> None:
    def is_left() -> bool:  # unless the daemon was held up and could not begin in time
        ran = run("test", "init", "--timeout", "0.3")
        assert ran.code == 6
        return "cam test wait" in ran.err

    eventually(is_left)
    assert not any(operation.is_done for operation in fake.begun)
    assert fake.cancelled == []


def test_wait_without_options_follows_what_is_under_way(run: Run, fake: FakeCamera) -> None:
    assert "nothing under way" in run("test", "wait").out
    operation = fake.operations.begin("start")
    fake.snapshot["operation"] = operation.id
    _walk(operation, lambda o: o.finish(None, "10 frames"))
    ran = run("test", "wait")
    assert (ran.code, operation.is_done) == (0, True)


def test_operation_of_an_earlier_life_is_said_to_be_gone(run: Run, fake: FakeCamera) -> None:
    ran = run("test", "wait", "--operation", "start-0-1")
    assert ran.code == 3
    assert "the daemon was restarted" in ran.err


# --- Ctrl-C ---------------------------------------------------------------------------------------


def _poll(condition: Callable[[], Any], limit_s: float = 10.0) -> Any:
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "deadline passed"
        time.sleep(0.01)
    return value


def _begin(fake: FakeCamera, *arguments: str) -> subprocess.Popen[str]:
    fake.on_operation = lambda operation: operation.update(0.1, "exposing")
    child = subprocess.Popen(
        [*CAM, "test", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    assert "exposing" in child.stderr.readline()  # it follows
    return child


def test_first_interrupt_detaches(fake: FakeCamera) -> None:
    with _begin(fake, "start", "5", "--wait") as child:
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "goes on" in err
    assert "cam test wait" in err
    assert "Traceback" not in out + err
    assert fake.cancelled == []
    assert not fake.begun[0].is_done


def test_second_interrupt_aborts_what_this_command_started(fake: FakeCamera) -> None:
    with _begin(fake, "start", "5", "--wait") as child:
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        assert "goes on" in child.stderr.readline()
        child.send_signal(signal.SIGINT)
        _poll(lambda: fake.cancelled)
        fake.begun[0].fail(NightjarError("aborted", code=Code.CANCELLED))
        out, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert fake.cancelled == ["start"]
    assert "Traceback" not in out + err


def test_interrupts_of_a_mere_onlooker_abort_nothing(fake: FakeCamera) -> None:
    operation = fake.operations.begin("start", lambda: fake.cancelled.append("start"))
    operation.update(0.1, "exposing")
    fake.snapshot["operation"] = operation.id
    with subprocess.Popen(
        [*CAM, "test", "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        assert "exposing" in child.stderr.readline()
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "again within" not in err
    assert fake.cancelled == []


# --- terminal and pipe ----------------------------------------------------------------------------


def _in_terminal(*arguments: str, **environment: str) -> str:
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm", **environment}
    env = {name: value for name, value in env.items() if value}
    with subprocess.Popen([*CAM, *arguments], stdout=slave, stderr=slave, env=env) as child:
        os.close(slave)
        seen = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # how Linux tells that the terminal's other end is closed
                break
            if not part:
                break
            seen += part
        child.wait(20)
    os.close(master)
    return seen.decode()


def test_colour_is_for_terminals(fake: FakeCamera) -> None:
    fake.snapshot.update(state="OFFLINE", summary="STANDBY")
    assert "\x1b[31m" in _in_terminal("test", "status", NO_COLOR="")
    for arguments, environment in (
        (["test", "status"], {"NO_COLOR": "1"}),
        (["test", "status", "--no-color"], {"NO_COLOR": ""}),
        (["test", "status"], {"TERM": "dumb", "NO_COLOR": ""}),
    ):
        assert "\x1b[" not in _in_terminal(*arguments, **environment)


def test_progress_bar_ends_with_the_operation(fake: FakeCamera) -> None:
    fake.on_operation = lambda operation: _walk(operation, lambda o: o.finish(None, "10 frames"))
    seen = _in_terminal("test", "start", "10", "--wait", NO_COLOR="1", COLUMNS="100")
    assert "100 %" in seen
    assert seen.rstrip().endswith("sequence of camera test is done: 10 frames")


def test_nothing_wraps_when_piped(run: Run, fake: FakeCamera, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    path = "/data/" + "x" * 200 + ".fits"
    fake.snapshot["last_file"] = path
    ran = run("test", "status")
    assert f"   Last file is {path}\n" in ran.out
    assert "\x1b" not in ran.out


def test_reader_that_goes_away_is_no_traceback(fake: FakeCamera) -> None:
    with subprocess.Popen(
        [*CAM, "test", "watch", "--interval", "0.02"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert "IDLE" in child.stdout.readline()
        child.stdout.close()
        fake.snapshot["state"] = "EXPOSING"
        assert child.wait(20) == 1
        assert child.stderr is not None
        assert child.stderr.read() == ""


def test_watch_piped_prints_a_line_a_change(fake: FakeCamera) -> None:
    with subprocess.Popen(
        [*CAM, "test", "watch", "--interval", "0.02", "--json"], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["state"] == "IDLE"
        fake.snapshot.update(state="EXPOSING", summary="BUSY")
        assert json.loads(child.stdout.readline())["state"] == "EXPOSING"
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130


# --- completion -----------------------------------------------------------------------------------


def _complete(line: str) -> tuple[list[str], float]:
    words = line.split(" ")
    env = {**os.environ, "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
           "_CAM_COMPLETE": "bash_complete"}  # fmt: skip
    began = time.monotonic()
    ran = subprocess.run([*CAM], env=env, capture_output=True, text=True, timeout=20, check=False)
    assert ran.stderr == ""
    offered = [word.partition(",")[2] for word in ran.stdout.split()]
    return offered, time.monotonic() - began


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cam ", ["guide", "test"]),
        ("cam te", ["test"]),
        ("cam test st", ["start", "status", "stop", "stream"]),
        ("cam test start c", ["continuous"]),
        ("cam test bin 2 ", ["sum", "mean"]),
        ("cam test window ", ["sky", "star", "default"]),
        ("cam test temperature ", ["warm"]),
        ("cam test stream ", ["enable", "disable"]),
        ("cam test filter ", ["B", "R", "V"]),
        ("cam test filter V", ["V"]),
        ("cam nowhere filter ", []),
        ("cam test wait --state re", ["READING", "READY"]),
        ("cam test wait --cooler LOCK", ["LOCKED", "LOCKING"]),
    ],
)
def test_completion(fake: FakeCamera, line: str, offered: list[str]) -> None:
    # A daemon that is held up is not waited for: then nothing is offered.
    eventually(lambda: _complete(line)[0] == offered, what=line)


def test_completion_of_a_black_hole_is_empty_and_quick(site: Path) -> None:
    import socket

    registry = json.loads((site / "nightjar" / "registry.json").read_text())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry["daemons"]["localhost_test"]["port"] = silent.getsockname()[1]
        (site / "nightjar" / "registry.json").write_text(json.dumps(registry))

        def complete() -> tuple[float, str]:
            offered, took_s = _complete("cam test filter ")
            assert offered == []
            return took_s, "completion"

        assert_soon(complete, 5)  # the limit is 0.3 s beyond the start of Python


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_the_program(run: Run, shell: str) -> None:
    ran = run("--completion", shell)
    assert (ran.code, ran.err) == (0, "")
    assert "_CAM_COMPLETE" in ran.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=ran.out, text=True, check=True, timeout=20)
