# SPDX-License-Identifier: BSD-3-Clause
"""A detector process that does not behave as one: garbage, silence, floods, no program at all."""

from __future__ import annotations

import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightjar.errors import ConfigError, DeviceError, DeviceWedged, NightjarError
from nightjard.camd.drivers.isolated import IsolatedDetector
from nightjard.camd.drivers.options import SimulatedOptions, options_from_json

HEAD = """#!{python}
import os, socket, struct, sys, time
fd = int(sys.argv[sys.argv.index("--channel-fd") + 1])
channel = socket.socket(fileno=fd)
"""


@pytest.fixture
def detector() -> Iterator[IsolatedDetector]:
    made = IsolatedDetector(SimulatedOptions(width=32, height=8), "A1")
    yield made
    made.close()


def impersonate(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """Have another program started instead of the detector process."""
    script = folder / "child.py"
    script.write_text(HEAD.format(python=sys.executable) + body)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(script))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("channel.sendall(b'\\xff' * 4000); time.sleep(60)", "4294967295 bytes"),
        ("channel.sendall(struct.pack('>I', 3) + b'{,}'); time.sleep(60)", "not JSON"),
        ("channel.sendall(struct.pack('>I', 2) + b'[]'); time.sleep(60)", "not a message"),
        ("channel.close(); time.sleep(60)", "it closed its connection"),
        ("sys.exit(5)", "exit status 5"),
        ("print('no licence'); sys.exit(1)", "exit status 1; last output: no licence"),
    ],
)
def test_nonsense_is_an_error_and_its_sender_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, detector: IsolatedDetector, body: str,
    told: str,
) -> None:  # fmt: skip
    impersonate(monkeypatch, tmp_path, body)
    with pytest.raises(DeviceError, match=told):
        detector.open()
    assert detector.pid is None


@pytest.mark.parametrize(
    "body", ["time.sleep(60)", "channel.sendall(struct.pack('>I', 9) + b'{'); time.sleep(60)"]
)
def test_silence_is_a_hang(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, detector: IsolatedDetector, body: str
) -> None:
    impersonate(monkeypatch, tmp_path, body)
    detector.options = SimulatedOptions(width=32, height=8, open_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(DeviceWedged, match="open"):
        detector.open()
    assert time.monotonic() - began < 0.5 + 2.5


def test_a_program_that_is_missing_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, detector: IsolatedDetector
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(DeviceError, match=r"cannot start a detector process.*absent"):
        detector.open()
    assert detector.pid is None


def test_output_of_any_shape_becomes_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, detector: IsolatedDetector,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    body = (
        "os.write(1, b'to standard output\\n'); os.write(2, b'\\xff\\x00bin\\n<40>x.y: loud\\n')\n"
        "os.write(2, b'z' * 300000 + b'\\n'); os.write(2, b'no newline at the end'); sys.exit(3)"
    )
    impersonate(monkeypatch, tmp_path, body)
    with pytest.raises(DeviceError, match=r"last output.*no newline at the end"):
        detector.open()
    texts = [record.getMessage() for record in caplog.records]
    assert any(text.endswith("to standard output") for text in texts)
    assert any("bin" in text for text in texts)
    assert max(len(text) for text in texts) < 5000
    assert any("zzz" in text and "bytes cut]" in text for text in texts)
    loud = next(record for record in caplog.records if "loud" in record.getMessage())
    assert loud.levelno == logging.ERROR


def test_a_child_that_leaves_its_output_to_another_is_reaped_still(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, detector: IsolatedDetector
) -> None:
    """A vendor's helper process may hold the standard error that it inherited."""
    told = tmp_path / "helper"
    body = (
        "pid = os.fork()\nif pid == 0:\n    channel.close(); time.sleep(60)\n"
        f"open({str(told)!r}, 'w').write(str(pid))\nos._exit(4)"
    )
    impersonate(monkeypatch, tmp_path, body)
    with pytest.raises(DeviceError, match="exit status 4"):
        detector.open()
    helper = int(told.read_text())
    try:
        assert Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    finally:
        os.kill(helper, signal.SIGKILL)


def test_options_of_no_driver_are_refused() -> None:
    with pytest.raises(ConfigError, match="toaster"):
        options_from_json('{"name": "toaster"}')


def test_a_driver_that_cannot_be_made_says_why(
    monkeypatch: pytest.MonkeyPatch, detector: IsolatedDetector
) -> None:
    monkeypatch.setattr(SimulatedOptions, "model_dump_json", lambda self: '{"name": "toaster"}')
    with pytest.raises(NightjarError, match="no detector driver 'toaster'"):
        detector.open()
    assert detector.pid is None
