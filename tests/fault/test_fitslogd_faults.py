# SPDX-License-Identifier: BSD-3-Clause
"""Loggers and their daemon are killed, stopped and left without frames: nothing is lost unsaid."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.fitslog_site import FitslogSite, is_gapless, numbers
from kit.site import eventually
from nightjarctl.fitslog import main

DEPTH = 6000  # half a minute: a machine may take its time to start a daemon


@pytest.fixture
def site(
    tmp_path: Path, free_port: int, request: pytest.FixtureRequest
) -> Iterator[FitslogSite]:
    """Configured as it comes, but for what the test's parameter says."""
    made = FitslogSite(tmp_path, free_port, **getattr(request, "param", {}))
    made.produce("vcam1", "vcam2", depth=DEPTH)
    made.start()
    yield made
    made.close()


def save(site: FitslogSite, cube_frames: int = 50) -> str:
    """Be in the middle of a session; return its id."""
    site.ask("prep", cube_frames=cube_frames)
    session = str(site.ask("start")["session"])
    for stream in ("vcam1", "vcam2"):
        site.until(stream, frames_saved=60)
    return session


def pid_of(site: FitslogSite, stream: str) -> int:
    pid = site.streams()[stream]["pid"]
    assert isinstance(pid, int)
    return pid


def end(site: FitslogSite) -> None:
    assert site.ask("pause", wait=True)["state"] == "armed"


def frames_of(site: FitslogSite, stream: str, session: str) -> list[int]:
    return numbers(site.cubes(stream, session))


def test_killed_logger_costs_no_frame(site: FitslogSite) -> None:
    session = save(site)
    first = pid_of(site, "vcam1")
    os.kill(first, signal.SIGKILL)
    assert site.daemon is not None
    daemon = site.daemon
    eventually(  # at once: only the last events are told
        lambda: any("SIGKILL" in event["text"] for event in daemon.status()["events"])
    )
    view = site.until("vcam1", restarts=1, state="saving")
    assert view["pid"] != first
    assert view["session"] == session
    seen = view["frames_saved"] or 0
    site.until("vcam1", frames_saved=seen + 60)
    end(site)
    for stream in ("vcam1", "vcam2"):
        found = frames_of(site, stream, session)
        assert is_gapless(found), f"{stream}: {len(found)} frames"
    one, two = (site.cubes(s, session)[0].stamps[0] for s in ("vcam1", "vcam2"))
    assert one == two
    assert site.leftovers() == []
    assert daemon.status()["health"]["level"] == "OK"


def test_killed_daemon_goes_on_with_the_session(site: FitslogSite) -> None:
    session = save(site)
    assert site.daemon is not None
    site.daemon.kill()
    site.start()
    view = site.until("vcam1", state="saving")
    assert view["session"] == session
    site.until("vcam1", frames_saved=130)
    site.until("vcam2", frames_saved=130)
    end(site)
    for stream in ("vcam1", "vcam2"):
        assert is_gapless(frames_of(site, stream, session)), "the ring held what came meanwhile"


def test_ended_daemon_closes_its_cubes_and_goes_on_when_it_is_back(site: FitslogSite) -> None:
    session = save(site, 5000)
    assert site.daemon is not None
    assert site.daemon.stop() == 0
    assert site.leftovers() == []
    for stream in ("vcam1", "vcam2"):
        (cube,) = site.cubes(stream, session)
        assert cube.header["CUBEEND"] == "daemon stopped"
        assert cube.header["TRUNCATE"] is True
    site.start()
    site.until("vcam1", state="saving", session=session)
    before = len(site.cubes("vcam1", session)[0].pixels)
    site.until("vcam1", frames_saved=before + 20)
    end(site)
    assert is_gapless(frames_of(site, "vcam1", session))


def test_what_was_stopped_is_not_taken_up(site: FitslogSite) -> None:
    save(site)
    site.ask("stop")
    assert site.daemon is not None
    site.daemon.kill()
    site.start()
    assert {view["state"] for view in site.streams().values()} == {"idle"}
    assert site.ask("start", cubes=1)["streams"]["vcam1"]["cube_frames"] == 50


@pytest.mark.parametrize("site", [{"command_timeout": 3.0}], indirect=True, ids=[""])
def test_logger_that_hangs_leaves_the_rest_obedient(
    site: FitslogSite, capsys: pytest.CaptureFixture[str]
) -> None:
    session = save(site)
    hung = pid_of(site, "vcam1")
    assert site.daemon is not None
    os.kill(hung, signal.SIGSTOP)
    try:
        reply = site.daemon.call("pause", group="vcam")
        assert reply["pending"]
        assert reply["target"] == "armed"
        site.until("vcam2", state="armed")  # the other one has obeyed
        state = site.daemon.finish(reply)
        assert state["state"] == "failed"
        assert state["code"] == "TIMED_OUT"
        assert "stop --kill" in state["message"]
        assert main(["vcam", "pause", "--wait", "--timeout", "0.5"]) == 6
        assert "goes on" in capsys.readouterr().err
    finally:
        os.kill(hung, signal.SIGCONT)
    site.until("vcam1", state="armed")  # it was told, and obeys as soon as it can
    end(site)
    for stream in ("vcam1", "vcam2"):
        assert is_gapless(frames_of(site, stream, session))


@pytest.mark.parametrize("site", [{"stop_timeout": 2.0}], indirect=True, ids=[""])
def test_kill_ends_what_hangs_and_forgets(site: FitslogSite) -> None:
    session = save(site)
    pids = [pid_of(site, stream) for stream in ("vcam1", "vcam2")]
    os.kill(pids[0], signal.SIGSTOP)
    began = time.monotonic()
    site.ask("stop", kill=True)
    assert time.monotonic() - began < 20
    new = [pid_of(site, stream) for stream in ("vcam1", "vcam2")]
    assert not set(new) & set(pids)
    assert {view["settings"] is None for view in site.streams().values()} == {True}
    assert main(["vcam", "start"]) == 3
    # A second cube only where some of its frames were on the disk: the last megabytes of one that
    # is given up with its session are not.
    eventually(
        lambda: site.cubes("vcam1", session) and not site.leftovers(),
        what="the leftover is recovered",
    )
    for stream in ("vcam1", "vcam2"):
        assert is_gapless(frames_of(site, stream, session))


def test_camera_that_stops_while_the_last_cube_fills(site: FitslogSite) -> None:
    session = save(site, 5000)
    assert site.daemon is not None
    producer = site.producers["vcam1"].process
    os.kill(producer.pid, signal.SIGSTOP)
    try:
        site.ask("pause", finish=True)
        site.until("vcam1", state="finishing")
        site.until("vcam1", timeout_s=20, is_alive=False)
        eventually(lambda: "stands still" in str(site.streams()["vcam1"]["warning"]))
        site.ask("pause")
        site.until("vcam1", state="armed")
    finally:
        os.kill(producer.pid, signal.SIGCONT)
    end(site)
    assert is_gapless(frames_of(site, "vcam1", session))


def test_stream_made_with_other_frames_goes_on(site: FitslogSite) -> None:
    session = save(site)
    site.producers.pop("vcam1").stop()
    site.produce("vcam1", shape=(16, 16), depth=DEPTH)
    site.until("vcam1", shape=[16, 16], is_alive=True)
    site.until("vcam1", state="saving")
    eventually(
        lambda: {c.pixels.shape[1:] for c in site.cubes("vcam1", session)} == {(24, 40), (16, 16)},
        what="cubes of both geometries",
    )
    end(site)
    for shape in ((24, 40), (16, 16)):
        cubes = [c for c in site.cubes("vcam1", session) if c.pixels.shape[1:] == shape]
        assert is_gapless(numbers(cubes))
