# SPDX-License-Identifier: BSD-3-Clause
"""The Python face of a daemon: what a TCS or dashboard author writes against."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kit.fake_camera import FakeCamera, served
from kit.soon import assert_soon
from nightjar.api.camera import COMMANDS
from nightjar.errors import (
    AccessDenied,
    Cancelled,
    Code,
    ConfigError,
    InvalidArgument,
    NightjarError,
    Refused,
    TimedOut,
    Unreachable,
)
from nightjar.registry import Registry
from nightjarctl import Camera, Connection, Operation, connect


def test_status_by_registered_name_and_by_id(fake: FakeCamera) -> None:
    for name in ("localhost_test", "test"):
        with connect(name) as camera:
            assert camera.status()["camera_id"] == "TEST"
            assert camera.name == "localhost_test"


def test_unknown_name_lists_known_ones(site: Path) -> None:
    with pytest.raises(ConfigError, match="guide, localhost_guide, localhost_test, test"):
        connect("nowhere")


def test_making_a_connection_sends_nothing(site: Path) -> None:
    camera = connect("guide")
    with pytest.raises(Unreachable, match=r"localhost_guide at 127\.0\.0\.1"):
        camera.status()


def test_every_command_is_a_method_with_signature_and_help(fake: FakeCamera) -> None:
    camera = connect("test")
    for command in COMMANDS:
        for name in (command.name, *command.aliases):
            method = getattr(camera, name)
            assert list(inspect.signature(method).parameters) == [
                parameter.name for parameter in command.parameters
            ]
            assert command.help in (method.__doc__ or "")
            assert name in dir(camera)
    signature = inspect.signature(camera.start)
    assert signature.parameters["count"].annotation is int
    assert signature.parameters["delay"].default == 0.0
    assert signature.return_annotation is Operation
    with pytest.raises(AttributeError, match=r"no command 'fly'; it has: abort, "):
        camera.fly()


def test_written_out_camera_is_the_table() -> None:
    for command in COMMANDS:
        signature = inspect.signature(getattr(Camera, command.name))
        parameters = list(signature.parameters.values())[1:]
        assert [each.name for each in parameters] == [each.name for each in command.parameters]
        for mine, theirs in zip(parameters, command.parameters, strict=True):
            default = inspect.Parameter.empty if theirs.is_required else theirs.default
            assert mine.default == default, (command.name, mine.name)
        assert (signature.return_annotation == "Operation") is command.is_operation


def test_both_faces_send_the_same(fake: FakeCamera) -> None:
    for camera in (connect("test"), connect("test", face=Camera)):
        fake.calls.clear()
        camera.set_exposure(2)
        camera.set_window([1, 10, 1, 20])
        camera.set_binning(2, method="mean")
        camera.set_temperature(None)
        camera.configure({"exposure": 1})
        camera.last(count=2)
        camera.shutdown(warm=False)
        assert fake.calls == [
            ("set_exposure", {"seconds": 2}),
            ("set_window", {"window": [1, 10, 1, 20], "name": None}),
            ("set_binning", {"binning": 2, "method": "mean"}),
            ("set_temperature", {"celsius": None}),
            ("configure", {"settings": {"exposure": 1}}),
            ("last", {"count": 2}),
            ("shutdown", {"warm": False}),
        ]


def test_wrong_calls_are_refused_here_or_there(fake: FakeCamera) -> None:
    camera = connect("test")
    with pytest.raises(TypeError, match="seconds"):
        camera.set_exposure()
    with pytest.raises(InvalidArgument, match="seconds must be a number"):
        camera.set_exposure("long")
    with pytest.raises(Refused, match="must be 0 to") as refusal:
        camera.set_exposure(-1.0)
    assert refusal.value.code is Code.OUT_OF_RANGE
    assert refusal.value.detail["low"] == 0


def test_a_query_machine_reads_and_may_not_command(site: Path) -> None:
    service = FakeCamera()
    with served(service, "localhost_test", Registry.find(), control=("Elsewhere",)):
        camera = connect("localhost_test")
        assert camera.status()["summary"] == "READY"
        assert camera.last() == []
        with pytest.raises(AccessDenied, match="control_machines: Elsewhere"):
            camera.stop()
    assert [command for command, _ in service.calls] == ["last"]


def test_silence_ends_at_the_deadline(site: Path) -> None:
    import socket

    path = site / "nightjar" / "registry.json"
    registry = json.loads(path.read_text())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry["daemons"]["localhost_test"]["port"] = silent.getsockname()[1]
        path.write_text(json.dumps(registry))

        def ask() -> tuple[float, str]:
            began = time.monotonic()
            with pytest.raises(TimedOut):
                connect("localhost_test", 0.2).status()
            return time.monotonic() - began, "status"

        assert_soon(ask, 2)


# --- operations -----------------------------------------------------------------------------------


def test_operation_result_progress_and_deadline(fake: FakeCamera) -> None:
    camera = connect("test", face=Camera)
    operation = camera.start(3)
    under_way = fake.begun[0]
    under_way.update(0.5, "exposing", "frame 2 of 3")
    seen = operation.progress()
    assert (seen["fraction"], seen["stage"], seen["state"]) == (0.5, "exposing", "running")
    assert not operation.is_done
    with pytest.raises(TimedOut, match=r"exposing frame 2 of 3.*goes on"):
        operation.wait(0.1)
    under_way.finish({"frames": 3})
    assert operation.wait(5) == {"frames": 3}
    assert operation.is_done
    assert camera.operation(operation.id).wait(5) == {"frames": 3}


def test_wait_returns_soon_after_the_end(fake: FakeCamera) -> None:
    def wait() -> tuple[float, str]:
        operation = connect("test").init()
        timer = threading.Timer(0.3, fake.begun[-1].finish)
        timer.start()
        began = time.monotonic()
        operation.wait(20)
        timer.join()
        return time.monotonic() - began, "wait"

    assert_soon(wait, 1.5)  # not a whole poll of 2 s


def test_failure_and_cancel_are_exceptions(fake: FakeCamera) -> None:
    camera = connect("test", face=Camera)
    failing = camera.init()
    fake.begun[-1].fail(NightjarError("no such serial", code=Code.DEVICE_NOT_FOUND, serial=5))
    with pytest.raises(NightjarError, match="no such serial") as failure:
        failing.wait(5)
    assert failure.value.code is Code.DEVICE_NOT_FOUND
    assert failure.value.detail == {"serial": 5}
    sequence = camera.start(0)
    sequence.cancel()
    assert fake.cancelled == ["start"]
    fake.begun[-1].fail(Cancelled("aborted by LocalHost"))
    with pytest.raises(Cancelled, match="aborted by LocalHost"):
        sequence.wait(5)


def test_one_connection_serves_many_threads(fake: FakeCamera) -> None:
    camera = connect("test")

    def ask(number: int) -> int:
        camera.set_gain(number)
        return int(camera.status()["frame_number"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(80))) == [12] * 80
    assert sorted(arguments["gain"] for _, arguments in fake.calls) == list(range(80))


def test_daemon_that_comes_back_is_found_again(site: Path) -> None:
    camera: Connection = connect("test")
    for _ in range(2):
        with served(FakeCamera(), "localhost_test", Registry.find()):
            assert camera.status()["state"] == "IDLE"
        with pytest.raises(Unreachable):
            camera.status()


def test_connect_needs_nothing_but_the_bare_install(fake: FakeCamera) -> None:
    # What the bare distribution does not bring must not be asked for.
    program = (
        "import sys\n"
        "for name in ('pydantic','numpy','sqlalchemy','alembic','prometheus_client','textual',"
        "'astropy','rich','nightjard'):\n"
        "    sys.modules[name] = None\n"
        "from nightjarctl import connect, Camera\n"
        "print(connect('localhost_test', face=Camera).status()['camera_id'])\n"
        "connect('test').set_gain(3)\n"
    )
    ran: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
    done = ran([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("TEST\n", "")
    assert fake.calls == [("set_gain", {"gain": 3})]


def test_examples_of_the_how_to_page_run(fake: FakeCamera) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "call-from-python.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    for block in blocks:  # all are Python
        compile(block, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    fake.on_operation = lambda operation: operation.finish({"frames": 5})
    names: dict[str, object] = {}
    ran = 0
    for block in blocks:
        if "while True" in block or "await" in block or "localhost_test2" in block:
            continue
        exec(compile(block, str(page), "exec"), names)
        ran += 1
    assert ran >= 3
    assert [command for command, _ in fake.calls] == [
        "set_exposure", "set_window", "set_temperature", "configure", "start",
    ]  # fmt: skip
    assert names["result"] == {"frames": 5}
