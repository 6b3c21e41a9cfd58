# SPDX-License-Identifier: BSD-3-Clause
"""Pointing records by TCP become minute files, whatever comes twice, late, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.telog import MINUTE0_NS, PlogServer, S, Told, manual, records
from nightjar.clock import ManualClock, SystemClock
from nightjar.das.naming import MINUTE_NS, minute_start_ns, pointing_path
from nightjar.das.pointing import RECORD, RECORDS, check_minute
from nightjar.errors import DeviceLost, DeviceNotFound
from nightjard.telogd.config import PointingStream
from nightjard.telogd.drivers.plog_tcp import PlogTcp
from nightjard.telogd.growing import live_name
from nightjard.telogd.helpers import Receiver
from nightjard.telogd.pointing import PointingGarbage, PointingLog


class Bench:
    """A receiver that is fed by hand."""

    def __init__(self, root: Path, start_ns: int = MINUTE0_NS) -> None:
        self.root, self.start_ns = root, start_ns
        root.mkdir(exist_ok=True)
        self.clock = manual(start_ns)
        self.told = Told()
        self.log = PointingLog(root, self.clock, self.told.append, "tcp test")

    def burst(self, first: int, count: int = 100, start_ns: int | None = None) -> None:
        """Feed records; the clock is a second behind the last."""
        start = self.start_ns if start_ns is None else start_ns
        end = start + (first + count) * 10_000_000 + S
        if end > self.clock.now_ns():
            self.clock.advance((end - self.clock.now_ns()) / S)
        self.log.take(records(start, count, first))
        self.log.tick()

    @property
    def path(self) -> Path:
        return pointing_path(self.root, self.start_ns)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "pointing")


def test_a_minute_of_bursts_becomes_a_whole_file_with_its_last_record(bench: Bench) -> None:
    for first in range(0, RECORDS - 100, 100):
        bench.burst(first)
    assert not bench.path.exists()
    assert live_name(bench.path).stat().st_size == (RECORDS - 100) * RECORD.itemsize
    bench.burst(RECORDS - 100)
    assert bench.path.read_bytes() == records(MINUTE0_NS)
    check_minute(bench.path.read_bytes(), MINUTE0_NS, "")
    assert [p.name for p in bench.path.parent.iterdir()] == [bench.path.name]
    assert bench.told.states() == {bench.path.name: "whole"}
    assert bench.told[0].records == RECORDS


def test_records_cut_anywhere_by_tcp_are_put_together(bench: Bench) -> None:
    data = records(MINUTE0_NS)
    bench.clock.advance(61)
    for start in range(0, len(data), 777):
        bench.log.take(data[start : start + 777])
    assert bench.path.read_bytes() == data


def test_records_that_come_twice_are_counted_and_written_once(bench: Bench) -> None:
    bench.burst(0, 3000)
    bench.burst(2000, 2000)
    bench.burst(4000, 2000)
    assert bench.path.read_bytes() == records(MINUTE0_NS)
    assert bench.log.counts["duplicates"] == 1000
    assert bench.log.counts["conflicts"] == 0


def test_a_record_that_comes_again_with_another_content_is_a_contradiction(bench: Bench) -> None:
    bench.burst(0, 3000)
    other = np.frombuffer(records(MINUTE0_NS, 1, 10), RECORD).copy()
    other["az"] += 5
    bench.log.take(other.tobytes())
    assert bench.log.counts["conflicts"] == 1
    bench.burst(3000, 3000)
    assert bench.path.read_bytes() == records(MINUTE0_NS), "the first is kept"


def test_missing_records_make_a_partial_minute_that_says_where_the_holes_are(
    bench: Bench,
) -> None:
    bench.burst(0, 1000)
    bench.burst(1250, 4650)
    assert bench.log.counts["gaps"] == 1
    bench.burst(0, 400, start_ns=MINUTE0_NS + MINUTE_NS)
    assert bench.path.exists()
    file = bench.told[0]
    assert (file.state.value, file.records) == ("partial", 5650)
    assert file.reason == "5650 of 6000 records; missing 10.00-12.49 59.00-59.99 s"
    stored = np.frombuffer(bench.path.read_bytes(), RECORD)
    assert stored.tobytes() == records(MINUTE0_NS, 1000) + records(MINUTE0_NS, 4650, 1250)


def test_what_comes_after_a_partial_minute_was_published_completes_it(bench: Bench) -> None:
    bench.burst(0, 5900)
    bench.clock.advance(10)
    bench.log.tick()
    assert bench.path.stat().st_size == 5900 * RECORD.itemsize
    bench.log.take(records(MINUTE0_NS, 200, 5800))
    assert bench.path.read_bytes() == records(MINUTE0_NS)
    assert [file.state.value for file in bench.told] == ["partial", "whole"]


def test_a_stop_publishes_the_partial_minute_and_a_start_goes_on_with_it(bench: Bench) -> None:
    bench.burst(0, 2000)
    bench.log.close()
    assert bench.path.stat().st_size == 2000 * RECORD.itemsize
    again = PointingLog(bench.root, bench.clock, bench.told.append, "tcp test")
    again.resume()
    bench.clock.advance(60)
    again.take(records(MINUTE0_NS, 4000, 2000))
    assert bench.path.read_bytes() == records(MINUTE0_NS)


def test_what_a_killed_daemon_left_is_taken_over(bench: Bench) -> None:
    bench.burst(0, 2550)
    before = MINUTE0_NS - MINUTE_NS
    old = live_name(pointing_path(bench.root, before))
    old.write_bytes(records(before, 1234) + b"cut")
    again = PointingLog(bench.root, bench.clock, bench.told.append, "tcp test")
    again.resume()
    assert pointing_path(bench.root, before).read_bytes() == records(before, 1234)
    assert not old.exists()
    bench.clock.advance(60)
    again.take(records(MINUTE0_NS, 3450, 2550))
    assert bench.path.read_bytes() == records(MINUTE0_NS)
    bench.log.close()


def test_minutes_over_midnight_lie_in_two_days(tmp_path: Path) -> None:
    last = minute_start_ns("20251231", 1439)
    bench = Bench(tmp_path / "pointing", last)
    bench.burst(0, RECORDS)
    bench.start_ns = last + MINUTE_NS
    bench.burst(0, RECORDS)
    files = sorted(str(p.relative_to(bench.root)) for p in bench.root.glob("*/*"))
    assert files == ["20251231/1439", "20260101/0000"]
    check_minute(pointing_path(bench.root, last + MINUTE_NS).read_bytes(), last + MINUTE_NS, "")


def test_a_burst_over_the_edge_of_minutes_is_split(bench: Bench) -> None:
    bench.burst(0, 5950)
    after = MINUTE0_NS + MINUTE_NS
    bench.clock.advance(2)
    bench.log.take(records(MINUTE0_NS, 50, 5950) + records(after, 50))
    assert bench.path.read_bytes() == records(MINUTE0_NS)
    assert live_name(pointing_path(bench.root, after)).read_bytes() == records(after, 50)
    bench.log.close()


def test_records_of_yesterday_are_not_taken(bench: Bench) -> None:
    bench.clock.advance(5)
    bench.log.take(records(MINUTE0_NS - 86400 * S, 300))
    assert bench.log.counts["wrong_time"] == 300
    assert bench.log.newest_ns is None
    assert list(bench.root.iterdir()) == []


def test_garbage_is_refused_and_what_was_sound_before_it_is_kept(bench: Bench) -> None:
    bench.clock.advance(5)
    with pytest.raises(PointingGarbage, match="no record"):
        bench.log.take(records(MINUTE0_NS, 200) + b"\xee" * 520)
    bench.log.begin_stream()
    bench.log.take(records(MINUTE0_NS, 100, 200))
    bench.log.close()
    assert bench.path.read_bytes() == records(MINUTE0_NS, 300)


def test_a_root_that_vanishes_loses_nothing(bench: Bench) -> None:
    bench.burst(0, 1000)
    away = bench.root.with_name("away")
    bench.root.rename(away)
    bench.burst(1000, 2000)
    assert "the root folder is not there" in bench.log.trouble
    assert not bench.root.exists(), "nothing is written under a mount point"
    away.rename(bench.root)
    bench.burst(3000, 1000)
    assert bench.log.trouble == ""
    assert live_name(bench.path).read_bytes() == records(MINUTE0_NS, 4000)
    bench.burst(4000, 2000)
    assert bench.path.read_bytes() == records(MINUTE0_NS)


def test_a_file_that_somebody_removed_is_written_anew(bench: Bench) -> None:
    bench.burst(0, 1000)
    live_name(bench.path).unlink()
    bench.burst(1000, 5000)
    assert bench.path.read_bytes() == records(MINUTE0_NS)


@settings(max_examples=30)
@given(st.data())
def test_any_order_of_any_pieces_gives_the_same_minute(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bench = Bench(tmp_path_factory.mktemp("p") / "pointing")
    bench.clock.advance(61)
    pieces = [(k * 500, 500) for k in range(12)]
    extra = data.draw(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 1000)), max_size=5))
    kill_after = data.draw(st.integers(0, len(pieces) + len(extra)))
    for k, (first, count) in enumerate(data.draw(st.permutations(pieces + extra))):
        if k == kill_after:  # as if killed: a new one takes the folder over
            bench.log = PointingLog(bench.root, bench.clock, bench.told.append, "tcp test")
            bench.log.resume()
        bench.log.take(records(MINUTE0_NS, count, first))
    bench.log.close()
    assert bench.path.read_bytes() == records(MINUTE0_NS)
    assert [p.name for p in bench.path.parent.iterdir()] == [bench.path.name]


# --- the connection ------------------------------------------------------------------------------


def test_nobody_listening_is_told_with_the_address(free_port: int) -> None:
    source = PlogTcp(PointingStream(host="127.0.0.1", port=free_port), SystemClock())
    with pytest.raises(DeviceNotFound, match=rf"127\.0\.0\.1:{free_port}"):
        source.open()


def test_a_connection_that_ends_or_is_silent_is_lost() -> None:
    server, clock = PlogServer(), ManualClock()
    source = PlogTcp(PointingStream(host="127.0.0.1", port=server.port), clock)
    source.open()
    server.accept()
    server.send(b"x" * 52)
    assert source.receive(1.0) == b"x" * 52
    assert source.receive(0.01) == b""
    clock.advance(6)
    with pytest.raises(DeviceLost, match="sent nothing for 6 s"):
        source.receive(0.01)
    server.hang_up()
    with pytest.raises(DeviceLost, match="closed the connection"):
        source.receive(1.0)
    source.close()
    server.close()


def test_a_receiver_connects_again_and_duplicates_of_the_new_connection_are_seen(
    tmp_path: Path,
) -> None:
    server = PlogServer()
    clock = SystemClock()
    start = clock.now_ns() // MINUTE_NS * MINUTE_NS
    (tmp_path / "p").mkdir()
    log = PointingLog(tmp_path / "p", clock, Told().append, "tcp")
    receiver = Receiver(
        PlogTcp(PointingStream(host="127.0.0.1", port=server.port), clock), log, clock
    )

    def until(count: int, name: str) -> None:
        for _ in range(2000):
            if log.counts[name] >= count:
                return
            try:
                receiver.round()
            except DeviceLost:
                continue
        raise AssertionError((name, log.counts))

    receiver.round()
    server.accept()
    server.send(records(start, 150)[:-20])
    until(149, "records")
    server.hang_up()
    for _ in range(100):
        try:
            receiver.round()
        except DeviceLost:
            break
    accepted = False
    while not accepted:
        try:
            receiver.round()
        except DeviceLost:
            continue
        if receiver.connects == 2:
            server.accept()
            accepted = True
    server.send(records(start, 200))
    until(200, "records")
    assert log.counts["duplicates"] == 149
    receiver.end()
    server.close()
    assert os.listdir(tmp_path / "p")
