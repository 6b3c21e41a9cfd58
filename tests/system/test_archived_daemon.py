# SPDX-License-Identifier: BSD-3-Clause
"""The real archive daemon: announcing over RPC, its command line, kill -9 while it copies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.archive_frames import FULL_BLOCK, NIGHT, make_frame, pixels
from kit.depth import counts
from nightjar.errors import Code, NightjarError, Refused, TimedOut, Unreachable
from nightjar.fits.header import read_header
from nightjar.fits.verify import verify_image
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjard.archived.intake import Announcement

LIMIT_S = 30.0


class Site:
    """One archive daemon and the folders it works in."""

    def __init__(self, base: Path, port: int, **config: Any) -> None:
        self.etc = Path(os.environ["NIGHTJAR_CONFIG_ROOT"])
        self.incoming = Path(os.environ["MILK_SHM_DIR"]) / "incoming"
        self.incoming.mkdir()
        self.root = base / "archive"
        self.process: subprocess.Popen[str] | None = None
        self.log = base / "log"
        registry = {
            "machines": {"LocalHost": ["127.0.0.1", "::1"], "Camera": ["127.0.0.9"]},
            "daemons": {"pipe": {"machine": "LocalHost", "port": port}},
        }
        values = {
            "daemon": "pipe", "log_name": "archived@test", "control_machines": ["LocalHost"],
            "cameras": ["TEST", "GUIDE"], "incoming_data_path": str(self.incoming),
            "root": str(self.root), "minimum_free_bytes": 0, **config,
        }  # fmt: skip
        for folder, name, content in (
            ("nightjar", "registry", registry), ("archived", "pipe", values),
        ):  # fmt: skip
            (self.etc / folder).mkdir()
            (self.etc / folder / f"{name}.json").write_text(json.dumps(content))
        self.client = Client(Registry.find().daemon("pipe"))

    def start(self) -> None:
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nightjard.archived", "pipe"], stderr=log, text=True
            )
        self.until(lambda: self.status() is not None, "the daemon answers")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(LIMIT_S)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def status(self) -> dict[str, Any] | None:
        try:
            value: dict[str, Any] = self.client.call("status", timeout_s=2)
        except (Unreachable, TimedOut):
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            return None
        return value

    def until(self, is_true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not is_true():
            assert time.monotonic() < deadline, f"{what}: {self.log.read_text()[-3000:]}"
            time.sleep(0.02)

    def notify(self, frame: Announcement) -> dict[str, Any]:
        reply: dict[str, Any] = self.client.call("notify_frame", asdict(frame))
        return reply

    def count(self, state: str, camera: str = "TEST") -> int:
        status = self.status()
        return -1 if status is None else int(status["cameras"][camera]["total"][state])

    def archive(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        code = "import sys; from nightjarctl.archive import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, input=text,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip


@pytest.fixture
def make_site(tmp_path: Path, free_port: int) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(**config: Any) -> Site:
        made.append(Site(tmp_path, free_port, **config))
        made[-1].start()
        return made[-1]

    yield make
    for site in made:
        site.client.close()
        if site.process is not None and site.process.poll() is None:
            site.kill()


def check_frame(path: Path, number: int, shape: tuple[int, int]) -> None:
    assert verify_image(path).problems == ()
    header = read_header(path)
    raw = np.fromfile(path, ">i2", shape[0] * shape[1], offset=header.data_offset)
    image = (raw.astype(np.int32) + 32768).reshape(shape)
    assert np.array_equal(image, pixels("TEST", number, shape))


@pytest.mark.parametrize("lives", counts(2, 10))
def test_killed_at_random_while_copying_nothing_is_lost(
    make_site: Callable[..., Site], lives: int
) -> None:
    site = make_site()
    site.client.call("set_settings", {"changes": {"object": "NGC 7027", "prefix": "k9"}})
    rng = random.Random(9)
    shape = (1500, 2000)
    accepted = []
    for round_ in range(lives):
        frames = [
            make_frame(
                site.incoming, round_ * 10 + n, shape=shape, capacity=0,
                cards=FULL_BLOCK if n == 2 else None,
            )
            for n in range(4)
        ]
        for frame in frames:
            assert site.notify(frame)["state"] in ("accepted", "archived")
            accepted.append(frame)
        time.sleep(rng.uniform(0, 0.1))  # the instant to be killed at: nothing is waited for
        site.kill()
        site.start()
    site.until(lambda: site.count("archived") == len(accepted), "all frames are archived")
    assert os.listdir(site.incoming) in ([], [".recycle"])
    folder = site.root / NIGHT / "TEST"
    assert len(os.listdir(folder)) == len(accepted)
    for frame in accepted:
        path = folder / f"k9-{frame.filename}"
        check_frame(path, frame.frame_number, shape)
        assert read_header(path)["OBJECT"] == "NGC 7027"
    status = site.status()
    assert status is not None
    assert status["health"]["level"] == "OK"
    assert status["settings"]["object"] == "NGC 7027"
    assert site.stop() == 0


def test_one_instance_only_and_an_orderly_stop(make_site: Callable[..., Site]) -> None:
    site = make_site()
    second = subprocess.run(
        [sys.executable, "-m", "nightjard.archived", "pipe"], capture_output=True, text=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert second.returncode == 3
    assert "already running" in second.stderr
    frame = make_frame(site.incoming, 1)
    site.notify(frame)
    assert site.stop() == 0
    site.start()
    site.until(lambda: site.count("archived") == 1, "the frame is archived")


@pytest.mark.parametrize("may_notify", [True, False])
def test_frames_are_taken_from_notify_machines_only(
    make_site: Callable[..., Site], may_notify: bool
) -> None:
    machines = {"LocalHost": "Camera", "Camera": "LocalHost"}
    notifier = "LocalHost" if may_notify else "Camera"
    site = make_site(
        notify_machines=[notifier], control_machines=[machines[notifier]],
        query_machines=["LocalHost", "Camera"],
    )  # fmt: skip
    frame = make_frame(site.incoming, 1)
    if may_notify:
        assert site.notify(frame)["state"] == "accepted"
        with pytest.raises(Refused) as caught:
            site.client.call("set_settings", {"changes": {"object": "x"}})
        assert caught.value.code is Code.ACCESS_DENIED
    else:
        with pytest.raises(Refused, match="notify_machines: Camera") as caught:
            site.notify(frame)
        assert caught.value.code is Code.FRAME_REFUSED
        assert site.count("archived") == 0
        assert (site.incoming / frame.filename).exists()


WRONG: list[tuple[dict[str, Any] | None, str]] = [
    (None, "camera is missing"), ({"camera": 5}, "camera must be a text"),
    ({"frame_number": -1}, "frame_number must be 0"), ({"size": True}, "size must be"),
    ({"size": 0}, "size must be"), ({"path": "/etc"}, "unknown argument"),
    ({"filename": ["a"]}, "filename must be"), ({"filename": "../../x"}, "cannot be used"),
]  # fmt: skip


def test_wrong_arguments_over_the_wire(make_site: Callable[..., Site]) -> None:
    site = make_site()
    good = {"camera": "TEST", "run": "r", "frame_number": 1, "filename": "a.fits", "size": 2880}
    for arguments, text in WRONG:
        given = {} if arguments is None else {**good, **arguments}
        with pytest.raises(NightjarError, match=text):
            site.client.call("notify_frame", given)
    assert site.notify(make_frame(site.incoming, 1))["state"] == "accepted"


def test_the_command_line(make_site: Callable[..., Site]) -> None:
    site = make_site()
    for number in (1, 2, 3):
        site.notify(make_frame(site.incoming, number))
    site.until(lambda: site.count("archived") == 3, "archived")
    shown = site.archive("status")
    assert shown.returncode == 0
    assert "TEST: archiving ON; tonight" in shown.stdout
    assert "all nights: 3 archived" in shown.stdout
    status = json.loads(site.archive("status", "--json").stdout)
    assert status["cameras"]["TEST"]["total"]["archived"] == 3

    changed = site.archive(
        "settings", "--object", "M 31", "--type", "dark", "--archive", "TEST=off"
    )
    assert changed.returncode == 0, changed.stderr
    assert "TEST OFF" in changed.stdout
    assert json.loads(site.archive("settings", "--json").stdout)["frame_type"] == "DARK"
    for wrong, code in ((("--type", "x"), 3), (("--archive", "TEST"), 2), (("--prefix", "a/b"), 3)):
        bad = site.archive("settings", *wrong)
        assert (bad.returncode, bad.stderr.count("\n")) == (code, 1), bad.stderr

    site.notify(make_frame(site.incoming, 4))
    site.until(lambda: site.count("unarchived") == 1, "unarchived")
    listed = site.archive("list", "--camera", "TEST", "-n", "2")
    assert listed.returncode == 0
    assert [line.split()[3] for line in listed.stdout.splitlines()] == ["number", "4", "3"]
    assert len(json.loads(site.archive("unarchived", "--json").stdout)) == 1
    history = site.archive("show", "4").stdout
    assert "is unarchived" in history
    assert "accepted" in history

    asked = site.archive("discard", "--night", NIGHT, text="y\n")
    assert asked.returncode == 3
    assert "nothing was removed" in asked.stderr
    assert site.archive("discard", "1", "--yes").returncode == 3
    assert site.archive("discard").returncode == 2
    assert site.count("unarchived") == 1
    removed = site.archive("discard", "--night", NIGHT, "--yes", "--json")
    assert json.loads(removed.stdout) == {"discarded": 1}
    assert os.listdir(site.root / NIGHT / "unarchived" / "TEST") == []
    for command in ("retry", "acknowledge", "strays"):
        assert site.archive(command).returncode == 0
    assert site.archive("adopt-root").returncode == 3
    assert site.archive("adopt-root", "--yes").returncode == 0
    assert site.archive("show", "no-such.fits").returncode == 3
    assert site.archive("status", "--id", "other").returncode == 2
    assert site.stop() == 0
    away = site.archive("status")
    assert (away.returncode, away.stdout) == (5, "")
