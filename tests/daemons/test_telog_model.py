# SPDX-License-Identifier: BSD-3-Clause
"""What the telescope logs know, how fresh it is, what is behind and what they tell of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kit.site import eventually
from kit.telog import Ring, records, telog_config
from nightjar.api.states import Level
from nightjar.clock import SystemClock
from nightjar.das.naming import MINUTE_NS, minute_of
from nightjar.errors import NightjarError, Refused
from nightjar.health import Health
from nightjar.operations import Operations
from nightjar.times import iso
from nightjard.telogd.drivers.base import Capabilities
from nightjard.telogd.drivers.plog_folder import PlogFolder
from nightjard.telogd.model import Sources, TelescopeLogs

S = 1_000_000_000


class Stream:
    """A pointing service that sends what is put into it."""

    capabilities = Capabilities("tcp", "test")

    def __init__(self) -> None:
        self.data: list[bytes] = []

    def open(self) -> None: ...

    def receive(self, timeout_s: float) -> bytes:
        if self.data:
            return self.data.pop(0)
        SystemClock().sleep(0.01)
        return b""

    def close(self) -> None: ...


class Telescope:
    """Tells a record; `ahead_s` is what its clock is ahead."""

    capabilities = Capabilities("telinfo", "test")

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.is_dead = False

    def read(self) -> dict[str, Any]:
        if self.is_dead:
            raise NightjarError("the telescope computer is off")
        now = SystemClock().now_ns() + round(self.ahead_s * S)
        from nightjar.das import telinfo

        return telinfo.unpack(telinfo.pack({
            "utc_ns": now, "source_name": "g34.3", "source_ra_h": 2.0, "source_dec_deg": 1.25,
            "source_epoch": 2000.0, "coordinate_type": 1, "apparent_ra_h": 3.0,
            "apparent_dec_deg": 1.5, "az_deg": 100.0, "el_deg": 40.0, "observation_number": 12,
        }))  # fmt: skip

    def close(self) -> None: ...


class Bench:
    """The model with sources that a test drives."""

    def __init__(
        self, folder: Path, *, ring: bool = False, start_timeout_s: float = 30.0
    ) -> None:
        self.stream, self.telescope = Stream(), Telescope()
        self.ring = Ring(folder / "plog")
        changes: dict[str, Any] = {
            "pointing_ring": {"folder": str(self.ring.folder), "look_s": 0.2}
        } if ring else {}  # fmt: skip
        config = telog_config(
            folder, pointing_stream={"host": "h", "port": 1}, start_timeout_s=start_timeout_s,
            telescope={"kind": "telinfo", "host": "h", "port": 1}, **changes,
        )
        self.health = Health(SystemClock().now_ns)
        self.operations = Operations(SystemClock())
        settings = config.pointing_ring
        self.model = TelescopeLogs(
            config,
            Sources(
                pointing=lambda: self.stream, telescope=lambda: self.telescope,
                ring=None if settings is None else lambda: PlogFolder(settings),
            ),
            SystemClock(), self.health, self.operations, folder,
        )  # fmt: skip

    def send(self, seconds_ago: float = 0.1) -> int:
        """Send 50 records; return the time of the last."""
        last = (SystemClock().now_ns() - round(seconds_ago * S)) // 10_000_000 * 10_000_000
        start = last // MINUTE_NS * MINUTE_NS
        slot = (last - start) // 10_000_000
        self.stream.data.append(records(start, 1, slot))
        return last

    def settled(self, condition: Any, what: str) -> None:
        def check() -> bool:
            self.model.look_after()
            return bool(condition())

        eventually(check, what=what)

    def reasons(self) -> Mapping[str, str]:
        return {
            name: part["reason"] for name, part in self.health.snapshot()["parts"].items()
        }  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.model.close()


def test_nothing_is_known_before_the_start(bench: Bench) -> None:
    assert set(bench.model.telescope().values()) == {None}
    assert bench.model.status()["state"] == "STOPPED"
    with pytest.raises(Refused, match="telog start"):
        bench.model.recover(1.0)


def test_start_waits_until_both_are_fresh(bench: Bench) -> None:
    operation = bench.operations.get(bench.model.start()["operation"])
    bench.settled(lambda: bench.model.poll and bench.model.poll.is_ok, "the record")
    bench.settled(lambda: operation.snapshot()["message"], "what is waited for")
    assert not operation.is_done
    assert "pointing never came" in operation.snapshot()["message"]
    bench.settled(lambda: bench.send() and operation.is_done, "the end of the start")
    assert operation.outcome()["pointing_age_s"] < 3
    assert bench.model.status()["state"] == "RUNNING"


def test_start_fails_by_what_is_not_fresh_and_why(tmp_path: Path) -> None:
    bench = Bench(tmp_path, start_timeout_s=1.0)
    bench.telescope.is_dead = True
    bench.send()
    operation = bench.operations.get(bench.model.start()["operation"])
    bench.settled(lambda: bench.send() and operation.is_done, "the end of the start")
    assert operation.error is not None
    text = operation.error.message
    assert text == (
        "the helpers run, but housekeeping never came: the telescope computer is off"
    )
    bench.telescope.is_dead = False
    bench.settled(
        lambda: bench.send() and bench.model.status()["state"] == "RUNNING", "it goes on trying"
    )
    bench.model.close()


def test_stale_pointing_makes_it_wait_and_say_so(bench: Bench) -> None:
    bench.model.start()
    last = bench.send(seconds_ago=7.0)
    bench.settled(lambda: bench.model.pointing_age_s is not None, "a record")
    before = SystemClock().now_ns()
    age_s = bench.model.pointing_age_s
    assert age_s is not None
    assert before - last <= round(age_s * S) <= SystemClock().now_ns() - last
    bench.settled(lambda: "pointing is" in bench.reasons().get("fresh", ""), "health")
    told = re.search(r"pointing is ([\d.]+) s old", bench.reasons()["fresh"])
    assert told is not None
    assert 7.0 <= float(told[1]) <= (SystemClock().now_ns() - last) / S + 0.05
    assert bench.model.status()["state"] == "WAITING"
    bench.settled(lambda: bench.send() and "fresh" not in bench.reasons(), "health")


def test_the_answer_joins_record_and_pointing(bench: Bench) -> None:
    bench.model.start()
    bench.settled(lambda: bench.model.poll and bench.model.poll.is_ok, "the record")
    only_record = bench.model.telescope()
    assert (only_record["source_name"], only_record["observation_number"]) == ("g34.3", 12)
    assert only_record["source_ra_deg"] == pytest.approx(30.0)
    assert only_record["apparent_ra_deg"] == pytest.approx(45.0)
    assert only_record["az_deg"] == 100.0
    assert (only_record["pa_deg"], only_record["flags"]) == (None, None)
    assert only_record["pointing_age_s"] is None

    def joined() -> dict[str, Any] | None:
        last = bench.send()
        bench.settled(
            lambda: (found := bench.model.newest()) and found[0][0] == last, "the last record"
        )
        both = bench.model.telescope()
        # Unless we were held up, the pointing log is newer than the record.
        return both if both["time_ns"] == last else None

    both = eventually(joined)
    assert both["el_deg"] == pytest.approx(45.0)
    assert both["apparent_ra_deg"] == pytest.approx(10.0)
    assert both["source_name"] == "g34.3"
    assert both["flags"] == 1
    assert all(value is None or not isinstance(value, float) or math.isfinite(value)
               for value in both.values())  # fmt: skip


def test_a_telescope_clock_ahead_of_ours_is_told(bench: Bench) -> None:
    bench.telescope.ahead_s = 30.0
    bench.model.start()
    bench.settled(lambda: "telescope clock" in bench.reasons(), "health")
    assert "s ahead of ours" in bench.reasons()["telescope clock"]


def test_a_stop_takes_back_what_was_told(bench: Bench) -> None:
    bench.telescope.is_dead = True
    bench.model.start()
    bench.settled(lambda: bench.health.level_of("telescope") is Level.DEGRADED, "health")
    bench.model.stop()
    bench.settled(lambda: not bench.reasons(), "all is well")
    assert bench.model.status()["state"] == "STOPPED"


def test_a_minute_that_the_ring_holds_back_is_lag(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ring=True)
    now = SystemClock().now_ns()
    start = now // MINUTE_NS * MINUTE_NS - 3 * MINUTE_NS
    bench.ring.put(start)
    bench.ring.lock(start)
    bench.model.start()
    bench.settled(lambda: bench.model.care.lag.get("pointing", 0) > 100, "lag")
    assert "is not here" in bench.reasons()["pointing lag"]
    assert bench.model.status()["ring"]["locked"] == [f"{minute_of(start):04d}"]
    bench.ring.lock(start, is_locked=False)
    bench.settled(lambda: bench.model.care.lag["pointing"] == 0, "it is here")
    assert "pointing lag" not in bench.reasons()
    old = start - MINUTE_NS
    bench.ring.put(old, records(old - 86400 * S))
    bench.settled(lambda: "old files" in bench.reasons(), "an old file is told")
    bench.model.close()


def test_a_minute_that_is_here_in_part_is_told_as_that(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ring=True)
    now = SystemClock().now_ns()
    start = now // MINUTE_NS * MINUTE_NS - 3 * MINUTE_NS
    bench.ring.put(start, records(start)[: 52 * 5000])  # the telescope died in it
    bench.model.start()
    try:
        bench.settled(
            lambda: "only in part here" in bench.reasons().get("pointing lag", ""), "it is told"
        )
        told = bench.model.status()["ring"]
        assert told["behind"] == [iso(start, 0)]
        assert len(told["missing"]) == 10, "what was before we looked is missing and no alarm"
    finally:
        bench.model.close()


def test_a_reason_is_told_once(bench: Bench) -> None:
    bench.telescope.is_dead = True
    bench.model.start()
    bench.settled(lambda: "fresh" in bench.reasons(), "not fresh")
    bench.settled(lambda: "telescope" in bench.reasons(), "why")
    assert str(bench.health.snapshot()["reason"]).count("is off") == 1
    assert "is off" in bench.model.status()["reason"]
