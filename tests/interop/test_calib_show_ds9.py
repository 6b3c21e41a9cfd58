# SPDX-License-Identifier: BSD-3-Clause
"""Frames are shown in a real DS9 under a virtual display."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kit.site import eventually
from nightjar.errors import Refused, Unreachable
from nightjar.fits.cards import Card
from nightjard.calib.command import main
from nightjard.calib.results import fits_bytes
from nightjard.calib.show import Ds9, choose_ds9, running_targets

pytestmark = pytest.mark.needs("ds9", "xpaset", "xpaget", "Xvfb")


@pytest.fixture
def display() -> Iterator[dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="ds9-"))  # short: XPA's sockets lie in it
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x768x24", "-nolisten", "tcp",
         "-noreset"],
        pass_fds=[write], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as told:
        number = told.readline().strip()  # it writes digits and end of line one after the other
    environment = os.environ | {
        "DISPLAY": f":{number}", "HOME": str(folder), "XPA_METHOD": "local",
        "XPA_TMPDIR": str(folder / "xpa"),
    }  # fmt: skip
    yield environment
    for _title, method in running_targets(environment):
        Ds9(method, environment).set("exit")
    end_name_server(folder)
    server.terminate()
    server.wait(10)
    shutil.rmtree(folder)


def end_name_server(folder: Path) -> None:
    """End xpans, which XPA starts by itself and nobody else would end."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"xpans") and any(str(folder).encode() in word for word in words):
            os.kill(int(entry.parent.name), signal.SIGTERM)


def write_frames(folder: Path) -> dict[int, float]:
    """Three OBSIDs of two CCDs, and the value that each frame of CCD 2 is full of."""
    folder.mkdir()
    levels = {}
    for obsid in (1000, 1001, 1003):
        for ccd in (1, 2):
            pixels = np.full((40, 60), obsid + 1000 * ccd, np.uint16)
            name = f"EUC_{obsid}_210280D101010T_ROE1_CCD{ccd}.fits"
            data = fits_bytes({f"ROE1_CCD{ccd}": pixels}, [Card("OBSID", obsid)], {})
            (folder / name).write_bytes(data)
        levels[obsid] = obsid + 2000.0
    return levels


def start(environment: dict[str, str], title: str) -> None:
    subprocess.Popen(
        ["ds9", "-title", title], env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    eventually(lambda: title in [name for name, _ in running_targets(environment)], 30)


def test_frames_of_one_ccd_come_into_frames_of_their_own(
    display: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for key in ("DISPLAY", "HOME", "XPA_METHOD", "XPA_TMPDIR"):
        monkeypatch.setenv(key, display[key])
    known = 0
    for name in ("day", "21 Feb [80]"):  # the second goes into the DS9 that the first started
        levels = write_frames(tmp_path / name)
        assert main(["show", "-p", str(tmp_path / name), "-c", "2", "1000", "1003"]) == 0
        said = capsys.readouterr().out
        assert "OBSID 1002: not found" in said
        assert "3 frames in DS9" in said
        (target,) = running_targets(display)
        ds9 = Ds9(target[1], display)
        frames = ds9.get("frame", "all").split()
        assert len(frames) == known + 3
        seen = {}
        for number in frames[known:]:
            ds9.set("frame", number)
            obsid = int(ds9.get("file").rsplit("EUC_", 1)[1][:4])
            seen[obsid] = float(ds9.get("data", "image", "5", "5", "1", "1", "yes"))
        assert seen == levels
        assert ds9.get("scale", "mode") == "zscale"
        known = len(frames)


def test_of_two_ds9_one_must_be_named(display: dict[str, str]) -> None:
    for title in ("first", "second"):
        start(display, title)
    with pytest.raises(Refused, match=r"DS9 are running: .*name one with -d"):
        choose_ds9(None, display)
    method = dict(running_targets(display))["second"]
    assert choose_ds9(method, display).get("version").startswith("second")
    with pytest.raises(Unreachable, match="no DS9 answers as 'nobody'"):
        Ds9("nobody", display).get("version")


def test_without_a_display_the_way_out_is_told(tmp_path: Path) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key != "DISPLAY"
    } | {"XPA_METHOD": "local", "XPA_TMPDIR": str(tmp_path / "xpa"), "HOME": str(tmp_path)}
    with pytest.raises(Unreachable, match="--png FILE"):
        choose_ds9(None, environment)
    end_name_server(tmp_path)
