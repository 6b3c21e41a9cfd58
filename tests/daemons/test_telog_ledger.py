# SPDX-License-Identifier: BSD-3-Clause
"""The ledger and what it says of hours: complete, or which minutes are missing."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.das import bench as das_bench
from kit.telog import MINUTE0_NS, S, manual, records, telog_config
from nightjar.api.telog import FileState
from nightjar.das.housekeeping import line
from nightjar.das.naming import (
    MINUTE_NS,
    day_of,
    housekeeping_path,
    index_path,
    minute_of,
    pointing_path,
    raw_path,
)
from nightjar.errors import ConfigError, InvalidArgument
from nightjard.telogd.completeness import HOUR_NS, Completeness, marker_path
from nightjard.telogd.ledger import Ledger
from nightjard.telogd.minutes import MinuteFile

HOUR0_NS = MINUTE0_NS // HOUR_NS * HOUR_NS
DAY = day_of(HOUR0_NS)


class Bench:
    """Three roots, a ledger, a clock 2 minutes into the next hour."""

    def __init__(self, folder: Path) -> None:
        self.roots = {name: folder / name for name in ("raw", "pointing", "housekeeping")}
        for root in self.roots.values():
            root.mkdir()
        self.clock = manual(HOUR0_NS + HOUR_NS + 2 * MINUTE_NS)
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.db", self.clock)
        self.completeness = Completeness(self.roots, ("rot",), self.ledger, self.clock)
        scratch = folder / "scratch"
        scratch.mkdir()
        with das_bench(scratch) as das:
            recorder = das.begin()
            das.feed(0, 3000, das.now_ns)
            recorder.close("test")
        self._raw = next(scratch.glob("raw/*/*.bin"))

    def put(self, stream: str, start_ns: int) -> Path:
        """Put a whole minute there."""
        if stream == "pointing":
            path = pointing_path(self.roots[stream], start_ns)
            data = records(start_ns)
        elif stream == "raw":
            path = raw_path(self.roots[stream], start_ns)
            data = self._raw.read_bytes()
        else:
            path = housekeeping_path(self.roots[stream], start_ns)
            data = "".join(
                line(k + 1, start_ns + k * S // 2, "rot", {}) for k in range(120)
            ).encode()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        if stream == "raw":
            index_path(path).write_bytes(index_path(self._raw).read_bytes())
        return path

    def hour(self) -> None:
        for k in range(60):
            for stream in self.roots:
                self.put(stream, HOUR0_NS + k * MINUTE_NS)

    def tick(self) -> None:
        for _ in range(3):
            self.completeness.tick(2)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.ledger.close()


def test_an_hour_of_which_all_is_here_gets_its_marker_with_every_file_in_it(
    bench: Bench,
) -> None:
    bench.hour()
    hole = pointing_path(bench.roots["pointing"], HOUR0_NS + 17 * MINUTE_NS)
    hole.unlink()
    bench.tick()
    marker = marker_path(bench.roots["housekeeping"], HOUR0_NS)
    assert not marker.exists()
    row = bench.completeness.day(DAY)["hours"][-2]
    assert row["pointing"] == {
        "whole": 59, "partial": [], "missing": [minute_of(HOUR0_NS) + 17]
    }  # fmt: skip
    assert not row["is_complete"]
    bench.put("pointing", HOUR0_NS + 17 * MINUTE_NS)
    bench.tick()
    told = json.loads(marker.read_bytes())
    assert {stream: len(rows) for stream, rows in told["streams"].items()} == {
        "raw": 60, "pointing": 60, "housekeeping": 60
    }  # fmt: skip
    row = told["streams"]["pointing"][17]
    assert row["size"] == 312_000
    assert row["crc32"] == f"{zlib.crc32(hole.read_bytes()):08x}"
    assert bench.completeness.day(DAY)["hours"][-2]["is_complete"]


def test_a_partial_minute_keeps_the_marker_back_and_is_named(bench: Bench) -> None:
    bench.hour()
    start = HOUR0_NS + 5 * MINUTE_NS
    pointing_path(bench.roots["pointing"], start).write_bytes(records(start, 5000))
    bench.tick()
    assert not marker_path(bench.roots["housekeeping"], HOUR0_NS).exists()
    row = bench.completeness.day(DAY)["hours"][-2]
    assert row["pointing"]["partial"] == [minute_of(start)]
    assert row["raw"]["whole"] == row["housekeeping"]["whole"] == 60


def test_a_file_that_went_away_after_it_was_proven_is_missing(bench: Bench) -> None:
    bench.hour()
    bench.tick()
    raw_path(bench.roots["raw"], HOUR0_NS).unlink()
    row = bench.completeness.day(DAY)["hours"][-2]
    assert row["raw"]["missing"] == [minute_of(HOUR0_NS)]


def test_the_hour_that_runs_has_only_the_minutes_that_are_over(bench: Bench) -> None:
    last = bench.completeness.day(DAY)["hours"][-1]
    assert last["minutes"] == 2
    assert len(last["raw"]["missing"]) == 2
    with pytest.raises(InvalidArgument, match="YYYYMMDD"):
        bench.completeness.day("yesterday")


def test_an_entry_is_updated_never_doubled_and_keeps_when_it_was_seen(bench: Bench) -> None:
    seen = MinuteFile("raw", DAY, "x.bin", HOUR0_NS, FileState.SEEN, 10, source="far")
    bench.ledger.note(seen)
    bench.ledger.flush()
    first = bench.ledger.files(DAY, None, None, 9)[0]
    assert (first["copied_ns"], first["verified_ns"]) == (None, None)
    bench.clock.advance(3)
    bench.ledger.note(MinuteFile("raw", DAY, "x.bin", HOUR0_NS, FileState.WHOLE, 10, 7, 3000))
    (row,) = bench.ledger.files(DAY, "raw", "whole", 9)
    assert row["seen_ns"] == first["seen_ns"]
    assert row["verified_ns"] == row["copied_ns"] == first["seen_ns"] + 3 * S
    assert bench.ledger.days() == [DAY]


def test_a_locked_database_keeps_entries_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}", manual())
    ledger.note(MinuteFile("raw", DAY, "a", None, FileState.OTHER))
    ledger.flush()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.note(MinuteFile("raw", DAY, "b", None, FileState.OTHER))
    ledger.flush()
    assert "locked" in ledger.trouble
    assert ledger.waiting == 1
    other.close()
    ledger.flush()
    assert (ledger.trouble, ledger.waiting) == ("", 0)
    assert len(ledger.files(None, None, None, 9)) == 2
    ledger.close()


@pytest.mark.parametrize(("change", "text"), [
    ({}, "nothing to log"),
    ({"pointing_stream": {"host": "h", "port": 1, "rate": 5}}, "unknown key"),
    ({"telescope": {"kind": "snmp", "host": "h"}}, "kind must be one of"),
    ({"das": {"kind": "rsync", "host": "-oProxyCommand=x", "folder": "/d"}}, "das"),
    ({"das": {"kind": "folder", "folder": "{folder}/raw"}}, "must not be one of the roots"),
    ({"pointing_ring": {"folder": "{folder}/pointing"}}, "must not be one of the roots"),
])  # fmt: skip
def test_configurations_that_are_refused(
    tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    value = json.loads(json.dumps(change).replace("{folder}", str(tmp_path)))
    with pytest.raises(ConfigError, match=text):
        telog_config(tmp_path, **value)
