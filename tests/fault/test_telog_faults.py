# SPDX-License-Identifier: BSD-3-Clause
"""The daemon of the telescope logs is killed, starved, cut off; nothing that came is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.observatory import RunningTelescope
from kit.site import eventually
from kit.small_disk import prove
from kit.telog import FakeRotator, TelogSite
from nightjar.das.naming import pointing_start_ns
from nightjar.das.pointing import RECORD
from nightjar.errors import NightjarError
from nightjard.telogd.growing import LIVE_SUFFIX, final_name
from nightjard.telogd.minutes import slots_of


@pytest.fixture(scope="module")
def telescope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTelescope]:
    made = RunningTelescope(tmp_path_factory.mktemp("telescope"))
    yield made
    made.stop()


@pytest.fixture
def site(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[TelogSite]:
    made = TelogSite(tmp_path, free_ports(2))
    yield made
    made.close()


def sources(telescope: RunningTelescope, **changes: Any) -> dict[str, Any]:
    return {
        "pointing_stream": {"host": "127.0.0.1", "port": telescope.ports["hundred"]},
        "telescope": {"kind": "telinfo", "host": "127.0.0.1", "port": telescope.ports["rpc"],
                      "timeout_s": 0.3},
        **changes,
    }  # fmt: skip


def ticks(root: Path) -> list[int]:
    """Return the ticks of all pointing files, growing ones too, in order of files."""
    found = []
    for path in sorted(root.glob("*/*"), key=lambda p: p.name.lstrip(".")):
        final = final_name(path) if path.name.endswith(LIVE_SUFFIX) else path
        start = pointing_start_ns(final)
        assert start is not None, path
        data = path.read_bytes()
        raw = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
        found += (slots_of(raw, start) + start // 10_000_000).tolist()
    return found


@pytest.mark.needs("unshare")
def test_a_full_disk_holds_the_logs_up_and_loses_nothing(tmp_path: Path) -> None:
    disk, base = tmp_path / "disk", tmp_path / "base"
    disk.mkdir()
    base.mkdir()
    prove("telog_full_disk", disk, base)


def test_a_killed_daemon_goes_on_where_it_was(
    telescope: RunningTelescope, site: TelogSite
) -> None:
    root = site.folder / "pointing"
    with FakeRotator().served(site.registry):
        setting = sources(telescope, rotator_daemon="rotator")
        daemon = site.start(**setting)
        eventually(lambda: root.exists() and len(ticks(root)) >= 200, 10, "two bursts")
        eventually(lambda: len(site.lines()) > 15, 10, "lines")
        daemon.kill()
        before, lines = ticks(root), site.lines()
        assert len(before) % 100 == 0
        daemon = site.start(**setting)
        eventually(lambda: len(ticks(root)) >= len(before) + 100, 10, "another burst")
        eventually(lambda: len(site.lines()) > len(lines) + 15, 10, "more lines")
        daemon.stop()
    after = ticks(root)
    assert set(before) <= set(after), "what was written is there"
    assert len(set(after)) == len(after), "nothing is there twice"
    assert sorted(after) == after
    numbers = [line["seq"] for line in site.lines()]
    assert numbers == list(range(1, len(numbers) + 1))
    # The first lines of the new life; a machine that is held up has others later.
    gaps = itertools.takewhile(lambda line: line["kind"] == "gap", site.lines()[len(lines) :])
    assert all(gap["reason"] == "the telescope logs did not run" for gap in gaps)
    assert not list(root.glob(f"*/.*{LIVE_SUFFIX}")), "the stop has published it"


def test_a_dead_record_service_is_what_start_fails_by(
    telescope: RunningTelescope, site: TelogSite
) -> None:
    telescope.tell("fault rpc on")
    try:
        daemon = site.start(**sources(telescope, auto_start=False, start_timeout_s=3.0))
        snapshot = daemon.finish(daemon.call("start"))
        assert snapshot["code"] == "TIMED_OUT"
        assert "housekeeping never came" in snapshot["message"]
        assert "did not answer within 0.3 s" in snapshot["message"]
        assert "pointing" not in snapshot["message"]
        status = daemon.status()
        assert status["state"] == "WAITING"
        assert status["health"]["level"] == "DEGRADED"
        eventually(
            lambda: daemon.status()["pointing"]["age_s"] < 3, 10, "the pointing log is not held up"
        )
        tel = [line for line in site.lines() if line["kind"] == "tel"]
        assert tel
        assert {line["is_ok"] for line in tel} == {False}
    finally:
        telescope.tell("fault rpc off")
    eventually(lambda: daemon.status()["state"] == "RUNNING", 8, "it is well again")
    steps = [
        b["utc"] - a["utc"] for a, b in itertools.pairwise(
            {"utc": int(line["t"][17:19])} for line in site.lines() if line["kind"] == "tel"
        )
    ]  # fmt: skip
    odd = [step for step in steps if step not in (0, 1, 2, -59, -58)]
    assert len(odd) <= 1, "a line a second all the time, but for one moment of the machine's"


def test_a_root_that_vanishes_is_told_and_the_logs_go_on_in_memory(
    telescope: RunningTelescope, site: TelogSite
) -> None:
    daemon = site.start(**sources(telescope))
    root, away = site.folder / "pointing", site.folder / "away"
    eventually(lambda: daemon.status()["pointing"]["records"] >= 100, 10, "records")
    root.rename(away)
    eventually(
        lambda: "kept in memory" in daemon.status()["health"]["reason"], 10, "it is told"
    )
    assert not root.exists()
    before = daemon.status()["pointing"]["records"]
    away.rename(root)
    eventually(lambda: daemon.status()["pointing"]["records"] > before, 10, "records")
    eventually(
        lambda: "kept in memory" not in daemon.status()["health"]["reason"], 10, "it is well"
    )
    told = daemon.status()["pointing"]["records"]
    daemon.stop()
    assert len(ticks(root)) >= told


def test_helpers_stop_and_start_and_a_second_daemon_is_refused(
    telescope: RunningTelescope, site: TelogSite
) -> None:
    daemon = site.start(**sources(telescope))
    assert daemon.finish(daemon.call("start"))["state"] == "done", "a start of what runs waits"
    eventually(lambda: daemon.status()["pointing"]["records"] >= 100, 10, "records")
    stopped = daemon.call("stop")
    assert stopped["stopped"][:2] == ["housekeeping", "telescope"]
    assert daemon.status()["state"] == "STOPPED"
    with pytest.raises(NightjarError, match="telog start"):
        daemon.call("recover")
    first = ticks(site.folder / "pointing")
    assert first
    assert daemon.finish(daemon.call("start"))["state"] == "done"
    daemon.call("stop")
    second = ticks(site.folder / "pointing")
    assert set(first) < set(second)
    assert len(set(second)) == len(second)
