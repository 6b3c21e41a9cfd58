# SPDX-License-Identifier: BSD-3-Clause
"""Lines of housekeeping: numbers that go on, gaps that are told, minutes that are joined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.telog import MINUTE0_NS, S, Told, manual
from nightjar.clock import ManualClock
from nightjar.das.housekeeping import line, read_housekeeping
from nightjar.das.naming import (
    MINUTE_NS,
    housekeeping_path,
    minute_start_ns,
)
from nightjar.errors import DeviceError, NightjarError
from nightjar.times import iso
from nightjard.telogd.growing import live_name
from nightjard.telogd.helpers import RotatorPoll, TelescopePoll
from nightjard.telogd.housekeeping import HousekeepingLog
from nightjard.telogd.minutes import join_lines


class Bench:
    """A log that is fed by hand: tel at 1 Hz, rot at 10 Hz."""

    def __init__(self, folder: Path, start_ns: int = MINUTE0_NS) -> None:
        self.folder, self.root = folder, folder / "housekeeping"
        self.root.mkdir()
        self.clock = manual(start_ns)
        self.told = Told()
        self.log = self.new()
        self.log.resume()

    def new(self) -> HousekeepingLog:
        return HousekeepingLog(
            self.root, self.folder, ("tel", "rot"), self.clock, self.told.append
        )

    def run(self, seconds: float, *, tel: bool = True, rot: bool = True) -> None:
        """Let time pass in tenths of a second."""
        for step in range(round(seconds * 10)):
            if rot:
                self.log.add("rot", {"angle_deg": 1.0})
            if tel and step % 10 == 0:
                self.log.add("tel", {"is_ok": True, "latency_ms": 1.0, "record": None})
            self.clock.advance(0.1)
            self.log.tick()

    def read(self, start_ns: int = MINUTE0_NS) -> list[dict[str, Any]]:
        lines, bad = read_housekeeping(housekeeping_path(self.root, start_ns))
        assert bad == 0
        return lines


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_minute_has_all_its_lines_numbered_and_is_whole(bench: Bench) -> None:
    bench.run(61)
    lines = bench.read()
    assert [one["seq"] for one in lines] == list(range(1, 661))
    assert sum(one["kind"] == "rot" for one in lines) == 600
    assert bench.told[0].state.value == "whole"
    assert live_name(housekeeping_path(bench.root, MINUTE0_NS + MINUTE_NS)).exists()
    bench.log.close()


def test_each_line_is_on_the_disk_before_the_next_comes(bench: Bench) -> None:
    live = live_name(housekeeping_path(bench.root, MINUTE0_NS))
    for count in range(1, 30):
        bench.log.add("rot", {"angle_deg": 1.0})
        assert live.read_bytes().count(b"\n") == count
    bench.log.close()


def test_a_silent_rotator_is_a_gap_with_its_reason_in_every_minute(bench: Bench) -> None:
    bench.run(10)
    bench.log.silent("rot", "rotd is away")
    bench.run(80, rot=False)
    bench.run(40)
    first, second = bench.read(), bench.read(MINUTE0_NS + MINUTE_NS)
    (gap,) = [one for one in first if one["kind"] == "gap"]
    assert (gap["what"], gap["reason"]) == ("rot", "rotd is away")
    assert gap["since"] == iso(MINUTE0_NS + 9_900_000_000, 3)
    assert gap["utc_ns"] == pytest.approx(MINUTE0_NS + 11 * S, abs=S // 5)
    assert [one["what"] for one in second if one["kind"] == "gap"] == ["rot"]
    assert bench.log.counts["gaps"] == 1
    assert [file.state.value for file in bench.told] == ["partial", "partial"]
    assert "rot: 100 lines, 50.1 s without" in bench.told[0].reason
    bench.log.close()


def test_numbers_go_on_after_a_stop_and_the_same_minute_is_joined(bench: Bench) -> None:
    bench.run(20)
    bench.log.close()
    assert len(bench.read()) == 220
    bench.clock.advance(5)
    bench.log = bench.new()
    bench.log.resume()
    bench.run(36)
    lines = bench.read()
    assert [one["seq"] for one in lines] == list(range(1, len(lines) + 1))
    gaps = [one for one in lines if one["kind"] == "gap"]
    assert {one["what"] for one in gaps} == {"rot", "tel"}
    assert {one["reason"] for one in gaps} == {"the telescope logs did not run"}
    bench.log.close()


def test_a_killed_log_is_taken_over_without_loss_and_without_a_duplicate(bench: Bench) -> None:
    bench.run(20)
    live = live_name(housekeeping_path(bench.root, MINUTE0_NS))
    with live.open("ab") as file:  # the kill came in the middle of a line
        file.write(b'{"t":"2025-')
    bench.log = bench.new()
    bench.log.resume()
    assert live.read_bytes().endswith(b"}\n")
    bench.run(42)
    lines = bench.read()
    assert [one["seq"] for one in lines] == list(range(1, 661))
    bench.log.close()


def test_a_minute_that_ended_while_nothing_ran_is_published_at_the_start(bench: Bench) -> None:
    bench.run(20)
    bench.clock.advance(600)
    bench.log = bench.new()
    bench.log.resume()
    assert len(bench.read()) == 220
    bench.run(1)
    now = bench.clock.now_ns() // MINUTE_NS * MINUTE_NS
    bench.log.close()
    later = bench.read(now)
    assert [one["seq"] for one in later] == list(range(221, 221 + len(later)))
    assert [one["kind"] for one in later[:2]] == ["gap", "gap"]
    assert {one["since"] for one in later[:2]} == {
        iso(MINUTE0_NS + 19_900_000_000, 3), iso(MINUTE0_NS + 19_000_000_000, 3)
    }  # fmt: skip


def test_numbers_go_on_where_all_files_were_moved_away(bench: Bench) -> None:
    bench.run(61)
    bench.log.close()
    last = bench.log.seq
    for path in list(bench.root.rglob("enc_*")):
        path.unlink()
    bench.log = bench.new()
    bench.log.resume()
    assert bench.log.seq == last
    bench.log.close()


def test_over_midnight_and_new_year(tmp_path: Path) -> None:
    last = minute_start_ns("20251231", 1439)
    bench = Bench(tmp_path, last)
    bench.run(125)
    names = sorted(str(p.relative_to(bench.root)) for p in bench.root.rglob("enc_*"))
    assert names == ["20251231/enc_251231_1439.jsonl", "20260101/enc_260101_0000.jsonl"]
    assert {file.state.value for file in bench.told} == {"whole"}
    bench.log.close()


def test_a_clock_that_is_stepped_back_loses_no_line(bench: Bench) -> None:
    bench.run(70)
    bench.clock.step_wall(-30)
    bench.run(100)
    bench.log.close()
    seen = [
        one["seq"] for path in bench.root.rglob("enc_*") for one in read_housekeeping(path)[0]
    ]
    assert sorted(seen) == list(range(1, bench.log.seq + 1))


def test_a_root_that_vanishes_loses_nothing(bench: Bench) -> None:
    bench.run(10)
    away = bench.root.with_name("away")
    bench.root.rename(away)
    bench.run(10)
    assert "kept in memory" in bench.log.trouble
    assert not bench.root.exists()
    away.rename(bench.root)
    bench.run(41)
    assert bench.log.trouble == ""
    assert [one["seq"] for one in bench.read()] == list(range(1, 661))
    bench.log.close()


@given(st.lists(st.integers(1, 40), max_size=40), st.lists(st.integers(1, 40), max_size=40))
def test_joined_files_have_each_number_once_in_order(one: list[int], other: list[int]) -> None:
    def made(numbers: list[int]) -> bytes:
        return b"".join(
            line(n, MINUTE0_NS + n * S, "rot", {"angle_deg": n}).encode() for n in numbers
        )

    joined = join_lines(made(one) + b'{"cut', b"junk\n" + made(other))
    assert joined == made(sorted({*one, *other}))


# --- who is asked --------------------------------------------------------------------------------


class _Source:
    def __init__(self, clock: ManualClock) -> None:
        self.clock, self.is_dead = clock, False

    def read(self) -> dict[str, Any]:
        if self.is_dead:
            raise DeviceError("it is dead")
        return {"utc_ns": self.clock.now_ns() // S * S, "el_deg": 40.0}


def test_a_telescope_that_does_not_answer_is_a_line_with_null(bench: Bench) -> None:
    source = _Source(bench.clock)
    poll = TelescopePoll(source, bench.log, bench.clock)  # type: ignore[arg-type]
    bench.clock.advance(0.25)
    assert poll.round() == pytest.approx(0.75)
    assert poll.age_s() == pytest.approx(0.25)
    source.is_dead = True
    bench.clock.advance(3)
    with pytest.raises(DeviceError):
        poll.round()
    assert poll.age_s() == pytest.approx(3.25)
    bench.log.close()
    lines = [one for one in bench.read() if one["kind"] == "tel"]
    assert [one["is_ok"] for one in lines] == [True, False]
    assert lines[0]["record"]["el_deg"] == 40.0
    assert (lines[1]["record"], lines[1]["latency_ms"]) == (None, None)


def test_a_telescope_that_repeats_an_old_record_grows_old(bench: Bench) -> None:
    source = _Source(bench.clock)
    poll = TelescopePoll(source, bench.log, bench.clock)  # type: ignore[arg-type]
    record = source.read()
    source.read = lambda: record  # type: ignore[method-assign]
    for _ in range(10):
        poll.round()
        bench.clock.advance(1)
    assert poll.age_s() == pytest.approx(10)
    bench.log.close()


def test_the_age_of_a_rotator_reading_has_the_time_of_its_way(bench: Bench) -> None:
    def ask() -> dict[str, Any]:
        bench.clock.advance(0.04)
        return {"angle_deg": 3.5, "age_s": 0.1, "time_ns": 1}

    poll = RotatorPoll(ask, bench.log, bench.clock)
    poll.round()

    def away() -> dict[str, Any]:
        raise NightjarError("rotd is away")

    with pytest.raises(NightjarError, match="rotd is away"):
        RotatorPoll(away, bench.log, bench.clock).round()
    bench.log.close()
    (one,) = [each for each in bench.read() if each["kind"] == "rot"]
    assert (one["angle_deg"], one["age_s"], one["state"]) == (3.5, pytest.approx(0.12), None)
