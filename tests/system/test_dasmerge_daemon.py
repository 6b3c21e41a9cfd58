# SPDX-License-Identifier: BSD-3-Clause
"""The real merge daemon with its workers: live minutes, holes, commands, metrics, a quick stop."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.dasmerge import Bench, config_value
from kit.observatory import made_night
from kit.site import Daemon, eventually
from nightjar.api.merge import COMMANDS, MINUTE_KEYS, STATUS_KEYS
from nightjar.das.naming import MINUTE_NS, day_of, minute_of
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjar.times import iso
from nightjard.merged.command import main

COUNT = 6
LAG_S = 10.0  # after the files are there; the machine of a test may be busy: thrice


class MergeSite:
    """A registry, a merge daemon, and a made night that ended some minutes ago."""

    def __init__(self, root: Path, ports: list[int]) -> None:
        self.root, self.etc = root, root / "etc"
        self.start_ns = (time.time_ns() // MINUTE_NS - COUNT - 2) * MINUTE_NS
        night = made_night(root / "night", COUNT, start=iso(self.start_ns), seed=3)
        self.bench = Bench(root, night.folder, self.start_ns)
        (self.etc / "nightjar").mkdir(parents=True)
        (self.etc / "merged").mkdir()
        registry = {
            "machines": {"LocalHost": ["127.0.0.1"]},
            "daemons": {"test_merged": {"machine": "LocalHost", "port": ports[0]}},
        }
        (self.etc / "nightjar/registry.json").write_text(json.dumps(registry))
        self.config = self.etc / "merged/bolo.json"
        value = config_value(
            root, metrics_port=ports[1], executor={"workers": 2},
            follow={"poll_s": 0.1, "companion_wait_s": 2},
        )  # fmt: skip
        self.config.write_text(json.dumps(value))
        self.metrics = f"http://127.0.0.1:{ports[1]}/metrics"
        self.daemons: list[Daemon] = []

    def start(self) -> Daemon:
        entry = Registry.load(self.etc / "nightjar/registry.json").daemon("test_merged")
        daemon = Daemon("merged", self.config, Client(entry), self.root / "merged.log")
        self.daemons.append(daemon)
        return daemon.wait_ready()

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.stop()
            daemon.client.close()


@pytest.fixture
def site(
    free_ports: Callable[[int], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MergeSite]:
    site = MergeSite(tmp_path, free_ports(2))
    monkeypatch.setenv("NIGHTJAR_CONFIG_ROOT", str(site.etc))
    monkeypatch.setenv("NIGHTJAR_STATE_ROOT", str(tmp_path / "state"))
    try:
        yield site
    finally:
        site.close()


def test_live_minutes_holes_and_commands(
    site: MergeSite, capsys: pytest.CaptureFixture[str]
) -> None:
    bench, daemon = site.bench, site.start()
    status = daemon.status()
    assert set(status) == set(STATUS_KEYS)
    assert (status["state"], status["newest_merged"]) == ("WAITING", None)
    bench.put(0)
    eventually(lambda: daemon.status()["merged"] >= 1, 40, "the first minute: workers start")

    lags = []
    for minute in (1, 2):
        wanted = iso(bench.at(minute), 0)
        begin = time.monotonic()
        bench.put(minute)
        eventually(lambda wanted=wanted: daemon.status()["newest_merged"] == wanted, 40, "merged")
        lags.append(time.monotonic() - begin)
    print(f"lag behind the files: {max(lags):.2f} s")
    assert max(lags) < 3 * LAG_S

    bench.put(3, ["raw", "housekeeping"])  # no pointing: fill after 2 s, healed when it comes
    night, number = day_of(bench.at(3)), minute_of(bench.at(3))

    def state(wanted: str) -> Any:
        entries = daemon.call("minutes", night=night)["minutes"]
        assert all(set(one) == set(MINUTE_KEYS) for one in entries)
        return [one for one in entries if (one["minute"], one["status"]) == (number, wanted)]

    eventually(lambda: state("no_pointing"), 40, "filled")
    bench.put(3, ["pointing"])
    eventually(lambda: state("complete"), 40, "healed")

    def told(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(words)
        said = capsys.readouterr()
        return code, said.out + said.err

    assert told("pause") == (0, "paused\n")
    eventually(lambda: daemon.status()["summary"] == "STANDBY", 20, "what runs is finished")
    merged = daemon.status()["merged"]
    bench.put(4)
    code, said = told("status")
    assert (code, said.splitlines()[0]) == (0, "Merge is PAUSED")
    assert daemon.status()["merged"] == merged
    assert told("resume")[0] == 0
    wanted = iso(bench.at(4), 0)
    eventually(lambda: daemon.status()["newest_merged"] == wanted, 40, "it goes on")
    before = daemon.status()["again"]
    code, said = told("again", night, str(number), str(number))
    assert (code, said) == (0, "1 minute will be merged again\n")
    eventually(lambda: daemon.status()["again"] > before, 40, "again")
    code, said = told("minutes", night)
    assert code == 0
    assert f"{night}: " in said
    assert "complete" in said
    assert told("again", "20200101")[0] == 2  # further back than it heals
    with urllib.request.urlopen(site.metrics, timeout=10) as reply:
        text = reply.read().decode()
    assert "merge_lag_s" in text
    assert "merge_merged" in text
    assert {one.name for one in COMMANDS} <= {
        one["name"] for one in daemon.call("describe")["commands"]
    }

    away = site.root / "away"
    (site.root / "merged").rename(away)
    eventually(lambda: daemon.status()["health"]["level"] == "FAILED", 20, "it says so")
    assert "mount its disk" in daemon.status()["health"]["reason"]
    away.rename(site.root / "merged")
    eventually(lambda: daemon.status()["health"]["level"] == "OK", 20, "and goes on")
    (site.root / "raw").rename(away)
    eventually(lambda: daemon.status()["health"]["level"] == "DEGRADED", 20, "it says so")
    assert "raw: not there" in daemon.status()["health"]["reason"]
    away.rename(site.root / "raw")
    eventually(lambda: daemon.status()["health"]["level"] == "OK", 20, "and goes on")
    assert daemon.stop() == 0


def test_stopped_in_a_backlog_it_ends_soon_and_goes_on_later(site: MergeSite) -> None:
    site.bench.put(range(COUNT))
    daemon = site.start()
    eventually(
        lambda: (status := daemon.status())["state"] == "MERGING" or status["merged"], 20, "at work"
    )  # fmt: skip
    begin = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begin < 15
    daemon = site.start()
    nights = {day_of(site.bench.at(minute)) for minute in range(COUNT)}

    def states() -> list[str]:
        days = [daemon.call("minutes", night=night)["minutes"] for night in sorted(nights)]
        return [one["status"] for entries in days for one in entries]

    # The DAS's clock is ahead: the first minute begins in a log that nobody has.
    wanted = ["no_pointing"] + ["complete"] * (COUNT - 1)
    eventually(lambda: states() == wanted, 40, "all")
