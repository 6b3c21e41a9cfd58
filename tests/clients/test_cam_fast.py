# SPDX-License-Identifier: BSD-3-Clause
"""``cam`` at a fast camera: what is typed is what is sent, and what does not fit is said."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.conftest import Ran
from kit.fake_camera import FakeCamera, served
from nightjar.api.fast_camera import COMMANDS, CONFIGURE_KEYS, STATUS_KEYS
from nightjar.operations import Operation
from nightjar.registry import Registry
from nightjarctl.fast_render import fast_camera_lines, one_line_words
from nightjarctl.settings import value_of

Run = Callable[..., Ran]

STREAMING: dict[str, Any] = {
    "time": "2025-06-15T12:00:00.000", "daemon": "localhost_guide", "pid": 4242, "mode": "stream",
    "camera_id": "VCAM1", "summary": "BUSY", "state": "STREAMING",
    "state_since": "2025-06-15T11:59:00.000",
    "health": {"level": "OK", "reason": "", "parts": {}}, "source": "vcam",
    "model": "Simulated qCMOS", "serial": "S001", "temperature": -19.9, "crop": "STANDARD",
    "window": [1781, 2316, 885, 1420], "shape": [536, 536], "pixel_type": "uint16",
    "readout_mode": "FAST", "exposure_time": 0.001, "rate_asked": 200.0, "rate_expected": 200.0,
    "rate_limit": 287.78635, "rate": 199.99898, "data_rate": 114_917_811.0,
    "external_trigger": True, "flc": True, "data_type": "OBJECT", "keywords": {},
    "stream": "vcam1", "stream_path": "/dev/shm/vcam1.im.shm", "ring_frames": 400,
    "ring_seconds": 2.0, "ring_bytes": 229_836_800, "counter": 606,
    "newest": "2025-06-15T11:59:59.950000", "hardware_id": 613, "hardware_offset": 7,
    "readers": 2, "frames_published": 606, "frames_lost": 7, "frames_late": 3,
    "frames_incomplete": 0, "pulses_missed": 0, "sequence_frame_limit": 0,
    "sequence_frame_count": 606, "operation": None, "crops": ["MBI", "STANDARD"],
    "readout_modes": ["FAST", "SLOW"], "grabber_pid": 4243, "grabber_restarts": 0,
    "frame_cost_us": 90.0, "last_error": None, "last_stop": None,
}  # fmt: skip


class FakeFastCamera(FakeCamera):
    """Answers every command of the fast camera's table; operations end at once."""

    commands = COMMANDS

    def __init__(self) -> None:
        super().__init__()
        self.snapshot = dict(STREAMING)
        self.on_operation = self._end

    def _end(self, operation: Operation) -> None:
        operation.finish(None, "well")

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {command.name: self._handler(command.name, command.is_operation)
                for command in COMMANDS}  # fmt: skip


@pytest.fixture
def fast(site: Path) -> Iterator[FakeFastCamera]:
    """Serve a fake fast camera as ``guide``."""
    path = site / "camd" / "guide.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mode": "stream"}))
    camera = FakeFastCamera()
    with served(camera, "localhost_guide", Registry.find()):
        yield camera


SENT: list[tuple[str, str, dict[str, Any]]] = [
    ("init", "init", {}),
    ("shutdown", "shutdown", {}),
    ("kill", "shutdown", {}),
    ("start", "start", {"count": 0}),
    ("start continuous", "start", {"count": 0}),
    ("start 500", "start", {"count": 500}),
    ("start 500 --wait", "start", {"count": 500}),
    ("stop", "stop", {}),
    ("abort", "abort", {}),
    ("exposure 0.0005", "set_exposure", {"seconds": 0.0005}),
    ("rate 508.75", "set_rate", {"hertz": 508.75}),
    ("rate fastest", "set_rate", {"hertz": None}),
    ("trigger external", "set_trigger", {"external": True}),
    ("trigger internal", "set_trigger", {"external": False}),
    ("crop MBI_REDUCED", "set_crop", {"crop": "MBI_REDUCED", "window": None}),
    ("crop 1 160 1 90", "set_crop", {"crop": None, "window": [1, 160, 1, 90]}),
    ("readout-mode SLOW", "set_readout_mode", {"mode": "SLOW"}),
    ("data-type dark", "set_data_type", {"data_type": "DARK"}),
    ("keyword OBJECT M31 target", "set_keyword",
     {"name": "OBJECT", "value": ["M31"], "comment": "target"}),
    ("keyword GAIN 0.5", "set_keyword", {"name": "GAIN", "value": [0.5], "comment": None}),
    ("keyword U_N -3", "set_keyword", {"name": "U_N", "value": [-3], "comment": None}),
    ("keyword U_ON true", "set_keyword", {"name": "U_ON", "value": [True], "comment": None}),
    ("keyword OBJECT 3 --text", "set_keyword",
     {"name": "OBJECT", "value": ["3"], "comment": None}),
    ("keyword OBJECT nan", "set_keyword", {"name": "OBJECT", "value": ["nan"], "comment": None}),
    ("configure crop=MBI rate=57 trigger=on exposure=0.001", "configure",
     {"settings": {"crop": "MBI", "rate": 57.0, "trigger": True, "exposure": 0.001}}),
    ("configure window=1,160,1,90 rate=default", "configure",
     {"settings": {"window": [1, 160, 1, 90], "rate": None}}),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "command", "arguments"), SENT)
def test_what_is_typed_is_what_is_sent(
    run: Run, fast: FakeFastCamera, typed: str, command: str, arguments: dict[str, Any]
) -> None:
    ran = run("guide", *typed.split())
    assert ran.code == 0, ran.err
    assert fast.calls == [(command, arguments)]
    assert ran.out.count("\n") == 1


def test_every_command_of_the_table_can_be_typed() -> None:
    assert {command for _, command, _ in SENT} == {command.name for command in COMMANDS}


def test_every_key_of_configure_can_be_typed() -> None:
    texts = {"exposure": "0.1", "rate": "9", "trigger": "off", "crop": "MBI", "window": "1,2,3,4",
             "readout_mode": "SLOW", "data_type": "DARK"}  # fmt: skip
    assert set(texts) == set(CONFIGURE_KEYS)
    for key, text in texts.items():
        value_of(key, text, fast=True)


BAD_USAGE = (
    "start 0", "start x", "rate", "rate abc", "rate nan", "trigger", "trigger maybe", "crop",
    "crop 1 2 3", "crop 1 2 3 x", "readout-mode", "data-type", "data-type SKY", "keyword",
    "keyword OBJECT", "exposure", "configure gain=3", "configure rate=abc", "configure crop",
)  # fmt: skip


def test_bad_usage_is_two_lines_and_exit_code_2(run: Run, fast: FakeFastCamera) -> None:
    for typed in BAD_USAGE:
        ran = run("guide", *typed.split())
        assert (ran.code, ran.out) == (2, ""), typed
        assert re.match(r"error: .+\n(usage: cam guide.*\n)?\Z", ran.err), ran.err
    assert fast.calls == []


OTHER_KIND = (
    ("gain 3", "streams: it has no gain"), ("offset 3", "it has no offset"),
    ("window 1 2 3 4", "it has no window; see: cam guide crop"), ("bin 2", "no bin"),
    ("filter R", "no filter"), ("stream enable", "no stream"),
    ("temperature -5", "no temperature"),
    ("last", "no last; see: cam guide status"), ("hand-over", "no hand-over"),
    ("wait --cooler LOCKED", "no cooler"), ("start 5 --delay 2", "set its rate"),
    ("shutdown --no-warm", "no ramp"),
)  # fmt: skip


def test_verbs_of_the_other_kind_are_refused_in_words(run: Run, fast: FakeFastCamera) -> None:
    for typed, text in OTHER_KIND:
        ran = run("guide", *typed.split())
        assert (ran.code, ran.out) == (3, ""), typed
        assert text in ran.err
        assert ran.err.count("\n") == 1
    assert fast.calls == []


def test_a_camera_of_frames_has_none_of_the_new_verbs(run: Run, fake: FakeCamera) -> None:
    for typed in ("crop MBI", "rate 5", "trigger external", "readout-mode SLOW", "data-type DARK",
                  "keyword A 1"):  # fmt: skip
        ran = run("test", *typed.split())
        assert ran.code == 3, typed
        assert "camera test takes one exposure after the other: it has no" in ran.err
    assert fake.calls == []


def test_kind_is_asked_of_the_daemon_where_no_file_tells_it(
    run: Run, fast: FakeFastCamera
) -> None:
    os.rename(
        os.environ["NIGHTJAR_CONFIG_ROOT"] + "/camd/guide.json",
        os.environ["NIGHTJAR_CONFIG_ROOT"] + "/camd/other.txt",
    )
    assert run("localhost_guide", "crop", "MBI").code == 0
    assert run("localhost_guide", "gain", "3").code == 3
    assert [command for command, _ in fast.calls] == ["set_crop"]


# --- status -------------------------------------------------------------------------------------


def test_fixture_has_the_keys_of_the_api() -> None:
    assert set(STREAMING) == set(STATUS_KEYS)


def test_status_tells_what_matters(run: Run, fast: FakeFastCamera) -> None:
    ran = run("guide", "status")
    assert ran.code == 0
    for text in (
        "STREAMING until stopped", "Simulated qCMOS S001", "STANDARD [1781:2316,885:1420]",
        "536 x 536 pixels uint16", "Rate is 199.999 Hz, asked 200 Hz, at most 287.786 Hz",
        "114.9 MB/s", "EXTERNAL, FLC A/B by turns", "vcam1: 400 frames, 2 s, 229.8 MB; 2 readers",
        "cnt0 606, camera's number 613", "606 published, 7 lost, 3 late", "OBJECT",
    ):
        assert text in ran.out, text


def lines(**changes: Any) -> str:
    return "\n".join(fast_camera_lines({**STREAMING, **changes}))


def test_status_of_a_camera_that_is_away() -> None:
    nothing = {key: None for key in STREAMING if key not in ("state", "summary")}
    away = {
        **nothing, "summary": "STANDBY", "state": "OFFLINE", "crop": "MBI", "rate": 0.0,
        "data_rate": 0.0, "exposure_time": 1e-5, "data_type": "TEST", "frames_published": 0,
        "frames_lost": 0, "stream": "vcam1", "grabber_restarts": 2,
        "health": {"level": "DEGRADED", "reason": "the grabber ended", "parts": {}},
        "last_error": {"time": "2025-06-15T12:00:00", "name": "DEVICE_LOST", "message": "gone"},
    }  # fmt: skip
    text = lines(**away)
    assert "OFFLINE (not initialized)" in text
    assert "Health is DEGRADED: the grabber ended" in text
    assert "2 grabber restarts" in text
    assert "1e-05 s" in text


def test_status_of_counted_free_and_odd_ones() -> None:
    assert "frame 606 of 1000" in lines(sequence_frame_limit=1000)
    assert "Crop is free [1" in lines(crop="")
    assert "Trigger is INTERNAL" in lines(external_trigger=False)
    assert "FLC" not in lines(external_trigger=False)
    assert "FLC OFF" in lines(flc=False)
    assert "12 pulses missed" in lines(pulses_missed=12)
    assert "asked the fastest" in lines(rate_asked=None)
    assert "1 reader\n" in lines(readers=1)


def test_watch_says_it_in_a_line() -> None:
    assert one_line_words(STREAMING) == ["STANDARD", "199.999 Hz", "cnt0 606", "7 lost"]


def test_names_are_completed_from_the_status(fast: FakeFastCamera) -> None:
    from click.shell_completion import ShellComplete

    from nightjarctl.cam import cam

    offered = ShellComplete(cam, {}, "cam", "_CAM_COMPLETE").get_completions(
        ["guide", "crop"], "M"
    )
    assert [each.value for each in offered] == ["MBI"]
