# SPDX-License-Identifier: BSD-3-Clause
"""Every sample is in the slot of its time, or said to be missing; files are whole or hidden."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.das import START_NS, Bench, bench, counters_in
from nightjar.das.naming import index_path, raw_path
from nightjar.das.raw import (
    CLOCK_UNLOCKED,
    GAP,
    HEADER_BYTES,
    INDEX_KEYS,
    MISSING,
    RESTARTED,
    SATURATED,
    SLIP,
    RawMinute,
    read_raw,
)
from nightjar.das.raw_journal import KILLED, orphans_in, parts_in
from nightjar.errors import Refused, StorageError
from nightjar.files import is_temporary
from nightjard.dasd.leftovers import QUARANTINE

MINUTE = 60_000_000_000
TICK = 20_000_000


@pytest.fixture
def das(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


def minute(das: Bench, number: int = 0) -> RawMinute:
    return read_raw(raw_path(das.root, START_NS + number * MINUTE))


def names(das: Bench) -> list[str]:
    folder = raw_path(das.root, START_NS).parent
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_minute_is_exact_and_appears_when_it_is_over(das: Bench) -> None:
    recorder = das.begin()
    das.feed(0, 2995, START_NS)
    recorder.tick(das.now_ns)
    assert all(name.startswith(".") for name in names(das))
    das.feed(2995, 15, START_NS + 2995 * TICK)
    found = minute(das)
    assert np.array_equal(counters_in(found.samples), np.arange(3000))
    assert os.path.getsize(found.path) == HEADER_BYTES + 3000 * 8 * 2
    index = found.index
    assert index is not None
    assert set(index) == set(INDEX_KEYS)
    assert index["crc32_data"] == zlib.crc32(found.path.read_bytes()[HEADER_BYTES:])
    assert (index["valid"], index["first_slot"], index["last_slot"]) == (3000, 0, 2999)
    assert index["gaps"] == []
    assert [second["valid"] for second in index["seconds"]] == [50] * 60
    assert [second["counter"] for second in index["seconds"]] == list(range(0, 3000, 50))
    assert index["seconds"][0]["flags"] == RESTARTED
    assert {second["flags"] for second in index["seconds"][1:]} == {0}
    assert found.header["serial"] == index["serial"] == 1


def test_offsets_tell_when_samples_were_really_taken(das: Bench) -> None:
    das.begin()
    period = TICK * (1 + 27e-6)
    begin = START_NS + 4_000_000
    for counter in range(0, 3005, 5):
        das.feed(counter, 5, begin + round(counter * period), period)
    found = minute(das)
    true_s = (4e6 + np.arange(3000) * period - np.arange(3000) * TICK) / 1e9
    assert np.abs(found.offsets_s() - true_s).max() < 1e-6


def test_a_loss_shifts_nothing(das: Bench) -> None:
    das.begin()
    das.feed(0, 500, START_NS)
    das.feed(515, 500, START_NS + 515 * TICK, why="ADC overrun: 15 samples lost")
    das.feed(1015, 2000, START_NS + 1015 * TICK)
    found = minute(das)
    valid = found.is_valid()
    assert np.array_equal(np.flatnonzero(~valid), np.arange(500, 515))
    assert np.array_equal(counters_in(found.samples)[valid], np.flatnonzero(valid))
    index = found.index
    assert index is not None
    assert index["gaps"] == [{"slot": 500, "count": 15, "reason": "ADC overrun: 15 samples lost"}]
    assert index["seconds"][10]["flags"] & GAP
    assert [499, 0] in index["marks"]
    assert [515, 0] in index["marks"]
    assert das.recorder is not None
    assert (das.recorder.counts.gaps, das.recorder.counts.missing) == (1, 15)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_drifting_clock_slips_one_slot_and_says_so(das: Bench, sign: int) -> None:
    das.begin()
    period = TICK * (1 + sign * 200e-6)
    # The sample clock crosses half a slot and the hysteresis in the middle of the minute.
    phase = sign * (0.6 - 1500 * 200e-6) * TICK
    for counter in range(0, 3010, 5):
        das.feed(counter, 5, START_NS + round(counter * period + phase), period)
    found = minute(das)
    index = found.index
    assert index is not None
    slipped = [number for number, one in enumerate(index["seconds"]) if one["flags"] & SLIP]
    assert slipped == [30]
    assert [gap["count"] for gap in index["gaps"] if "slip" in gap["reason"]] == [max(0, sign)]
    valid = found.is_valid()
    told = np.arange(3000) + found.offsets_s() * 50
    counters = counters_in(found.samples)
    true_slot = (counters * period + phase) / TICK
    assert np.abs(told - true_slot)[valid].max() < 0.01  # by what the file says, nothing moved
    assert np.all(np.diff(counters[valid]) >= 1)


def test_the_clock_is_set_ahead_and_back(das: Bench) -> None:
    recorder = das.begin()
    das.feed(0, 1000, START_NS)
    recorder.interrupt("the host's clock was set by +1.300 s")
    das.feed(1000, 500, START_NS + 1065 * TICK)
    recorder.interrupt("the host's clock was set by -0.400 s")
    das.feed(1500, 1600, START_NS + 1545 * TICK)
    found = minute(das)
    index = found.index
    assert index is not None
    counters = counters_in(found.samples)
    assert [gap["count"] for gap in index["gaps"]] == [65, 0]
    assert all("clock was set" in gap["reason"] for gap in index["gaps"])
    assert counters[999] == 999
    assert counters[1065] == 1000
    assert counters[1564] == 1499
    assert counters[1565] == 1520  # 20 samples came at times that were recorded already
    assert das.recorder is not None
    assert das.recorder.counts.dropped == 20
    assert {number for number, one in enumerate(index["seconds"]) if one["flags"] & SLIP} == {31}


def test_rails_are_counted_and_never_taken_for_missing(das: Bench) -> None:
    recorder = das.begin()
    samples = np.zeros((5, 8), np.int16)
    samples[2] = MISSING
    samples[3, 4] = 32767
    recorder.write(samples, 0, START_NS, 2e7)
    recorder.close("test")
    found = minute(das)
    assert found.is_valid()[:5].all()
    assert found.samples[2].tolist() == [-32767] * 8
    assert found.index is not None
    assert found.index["saturated"] == {str(n): 2 if n == 4 else 1 for n in range(8)}
    assert found.index["seconds"][0]["flags"] & SATURATED


def test_an_unlocked_clock_marks_its_seconds(das: Bench) -> None:
    das.begin()
    das.feed(0, 100, START_NS)
    das.is_locked = False
    das.feed(100, 100, START_NS + 100 * TICK)
    das.is_locked = True
    das.feed(200, 100, START_NS + 200 * TICK)
    assert das.recorder is not None
    das.recorder.close("test")
    index = minute(das).index
    assert index is not None
    marked = [n for n, one in enumerate(index["seconds"]) if one["flags"] & CLOCK_UNLOCKED]
    assert marked == [2, 3]


def test_minutes_without_a_sample_leave_no_file_and_the_gap_is_told(das: Bench) -> None:
    recorder = das.begin()
    das.feed(0, 1000, START_NS)
    recorder.interrupt("the ADC was away: unplugged", counter_restarts=True)
    recorder.tick(START_NS + MINUTE + 3_000_000_000)
    assert minute(das).index is not None  # not waited for the next sample
    das.feed(0, 100, START_NS + 3 * MINUTE + 500 * TICK)
    recorder.close("test")
    first, last = minute(das).index, minute(das, 3).index
    assert first is not None
    assert last is not None
    away = "the ADC was away: unplugged"
    assert first["gaps"] == [{"slot": 1000, "count": 2000, "reason": away}]
    assert last["gaps"][0] == {"slot": 0, "count": 500, "reason": away}
    assert names(das) == sorted(
        path.name for number in (0, 3) for raw in [raw_path(das.root, START_NS + number * MINUTE)]
        for path in (raw, index_path(raw))
    )  # fmt: skip


def test_stopped_and_started_in_one_minute_nothing_is_lost(das: Bench) -> None:
    das.begin()
    das.feed(0, 500, START_NS)
    assert das.recorder is not None
    das.recorder.close("stopped")
    first = minute(das).samples.copy()
    das.now_ns = START_NS + 800 * TICK
    recorder = das.begin()
    assert np.array_equal(minute(das).samples, first)  # it keeps its name while it grows
    das.feed(7000, 100, START_NS + 800 * TICK)
    recorder.close("stopped again")
    found = minute(das)
    assert np.array_equal(counters_in(found.samples)[:500], np.arange(500))
    assert np.array_equal(counters_in(found.samples)[800:900], np.arange(7000, 7100))
    assert found.index is not None
    assert [gap["slot"] for gap in found.index["gaps"]] == [500, 900]
    assert found.index["seconds"][16]["flags"] & RESTARTED
    assert found.index["seconds"][0]["utc_ns"] == START_NS


def killed(das: Bench) -> None:
    """Leave the recorder as a kill does: nothing is closed, the lock is gone."""
    assert das.recorder is not None
    das.recorder._held.close()
    das.recorder = None


def test_what_is_missing_over_the_end_of_minutes_is_counted(das: Bench) -> None:
    das.begin()
    das.feed(0, 100, START_NS)
    n_slots = das.config.adc.n_slots
    das.feed(2 * n_slots + 40, 10, START_NS + (2 * n_slots + 40) * TICK, why="lost")
    assert das.recorder is not None
    assert das.recorder.counts.missing == 2 * n_slots + 40 - 100
    assert das.recorder.counts.gaps == 1


def test_a_start_that_brings_no_sample_leaves_the_published_minute_as_it_is(das: Bench) -> None:
    das.begin()
    das.feed(0, 500, START_NS)
    assert das.recorder is not None
    das.recorder.close("test")
    (path,) = das.root.glob("*/raw_*.bin")
    before = (path.stat().st_ino, path.with_suffix(".idx").read_bytes())
    das.now_ns = START_NS + 250 * TICK
    again = das.begin()
    das.feed(100, 50, START_NS + 100 * TICK)  # the clock was set back: all of it is there already
    again.close("test")
    assert (path.stat().st_ino, path.with_suffix(".idx").read_bytes()) == before
    assert (again.counts.files, again.counts.dropped) == (0, 50)
    assert not list(das.root.glob("*/.raw*"))


def test_after_a_kill_the_same_minute_goes_on(das: Bench) -> None:
    recorder = das.begin()
    das.feed(0, 520, START_NS + 3_000_000)
    recorder.tick(das.now_ns)
    das.feed(520, 30, START_NS + 3_000_000 + 520 * TICK)  # written, but not yet told
    killed(das)
    das.now_ns = START_NS + 700 * TICK
    recorder = das.begin()
    das.feed(0, 2400, START_NS - 2_000_000 + 700 * TICK)
    found = minute(das)
    assert np.array_equal(counters_in(found.samples)[:550], np.arange(550))
    assert np.array_equal(counters_in(found.samples)[700:], np.arange(2300))
    index = found.index
    assert index is not None
    assert index["gaps"] == [{"slot": 550, "count": 150, "reason": KILLED}]
    assert index["recovered"] is True
    assert index["seconds"][14]["flags"] & RESTARTED
    assert np.abs(found.offsets_s()[:549] - 0.003).max() < 1e-9
    assert np.abs(found.offsets_s()[700:] + 0.002).max() < 1e-9


def test_after_a_kill_the_next_life_publishes_the_minute(das: Bench) -> None:
    recorder = das.begin()
    das.feed(0, 2950, START_NS)
    recorder.tick(das.now_ns)  # the next minute is prepared as well
    assert len(parts_in(raw_path(das.root, START_NS).parent)) == 2
    killed(das)
    das.now_ns = START_NS + 4 * MINUTE
    das.begin()
    found = minute(das)
    assert np.array_equal(counters_in(found.samples)[:2950], np.arange(2950))
    assert found.index is not None
    assert found.index["gaps"] == [{"slot": 2950, "count": 50, "reason": KILLED}]
    assert found.index["recovered"] is True
    folder = raw_path(das.root, START_NS).parent
    assert len(parts_in(folder)) == 1  # the new recording's
    assert orphans_in(folder) == []


def test_a_sample_cut_by_the_kill_is_thrown_away(das: Bench) -> None:
    das.begin()
    das.feed(0, 100, START_NS)
    killed(das)
    part = parts_in(raw_path(das.root, START_NS).parent)[0]
    with part.open("r+b") as file:  # a row of which the end never came
        file.seek(HEADER_BYTES + 100 * 16)
        file.write(b"\x01\x00" * 5)
    das.now_ns = START_NS + 2 * MINUTE
    das.begin()
    found = minute(das)
    assert found.is_valid().sum() == 100
    assert (found.samples[100] == MISSING).all()


def test_a_kill_between_the_renames_is_mended(das: Bench) -> None:
    das.begin()
    das.feed(0, 500, START_NS)
    assert das.recorder is not None
    das.recorder.close("stopped")
    das.now_ns = START_NS + 800 * TICK
    recorder = das.begin()
    das.feed(800, 100, START_NS + 800 * TICK)
    writer = recorder._writer
    assert writer is not None
    real, renamed = os.replace, []

    def replace(source: Any, target: Any) -> None:
        if renamed:
            raise OSError(5, "killed here")
        renamed.append(target)
        real(source, target)

    os.replace = replace
    try:
        with pytest.raises(StorageError):
            recorder.close("stopped")
    finally:
        os.replace = real
    das.now_ns = START_NS + 2 * MINUTE
    das.begin()
    found = minute(das)
    assert found.is_valid().sum() == 600


def test_what_is_not_the_same_minute_is_set_aside_and_kept(das: Bench) -> None:
    das.begin()
    das.feed(0, 500, START_NS)
    killed(das)
    path = raw_path(das.root, START_NS)
    hidden = parts_in(path.parent)[0]
    das.now_ns = START_NS
    other = hidden.read_bytes()
    path.write_bytes(other[:HEADER_BYTES] + b"\x07\x00" * 24000)
    das.now_ns = START_NS + 2 * MINUTE
    das.begin()
    kept = sorted((das.root / QUARANTINE).iterdir())
    assert kept[0].read_bytes() == other
    assert "other samples" in kept[1].read_text()
    assert path.read_bytes()[HEADER_BYTES:] == b"\x07\x00" * 24000


def test_two_recordings_in_one_folder_are_refused(das: Bench) -> None:
    das.begin()
    with pytest.raises(Refused, match="already running"):
        das.begin()


def test_any_number_of_channels_at_any_rate(tmp_path: Path) -> None:
    with bench(tmp_path, adc={"sample_rate_hz": 12.5}, channels={"count": 3, "groups": []}) as das:
        recorder = das.begin()
        for counter in range(0, 760, 10):
            samples = np.full((10, 3), counter, np.int16)
            recorder.write(samples, counter, START_NS + counter * 80_000_000, 8e7)
        found = minute(das)
        assert found.samples.shape == (750, 3)
        assert [one["valid"] for one in found.index["seconds"]][:4] == [13, 12, 13, 12]  # type: ignore[index]
        assert found.samples[:, 0].tolist() == [n // 10 * 10 for n in range(750)]


def test_midnight_makes_the_folder_ahead_or_warns(tmp_path: Path) -> None:
    day = 86_400_000_000_000
    midnight = START_NS // day * day + day
    for auto in (True, False):
        folder = tmp_path / str(auto)
        folder.mkdir()
        with bench(folder, auto_mkdir=auto) as das:
            das.now_ns = midnight - 360_000_000_000
            raw_path(das.root, das.now_ns).parent.mkdir(exist_ok=True)
            recorder = das.begin()
            tomorrow = raw_path(das.root, midnight).parent
            recorder.tick(das.now_ns)
            assert not tomorrow.exists()
            recorder.tick(midnight - 299_000_000_000)
            assert tomorrow.exists() == auto
            assert ("midnight" in recorder.warnings) != auto
            if not auto:
                das.feed(0, 10, midnight - 10 * TICK)
                with pytest.raises(StorageError, match="create it"):
                    das.feed(10, 10, midnight)
                recorder.close("no folder")
                assert read_raw(raw_path(das.root, midnight - 1)).is_valid().sum() == 10


def test_a_missing_folder_is_refused_with_what_to_do(das: Bench) -> None:
    das.root.rmdir()
    with pytest.raises(StorageError, match="does not exist; create it"):
        das.begin()


def test_low_room_warns_and_no_room_refuses(tmp_path: Path) -> None:
    space = {"warn_hours": 0, "low_bytes": 10**15, "stop_bytes": 0}
    with bench(tmp_path, space=space) as das:
        recorder = das.begin()
        das.feed(0, 5, START_NS)
        recorder.tick(das.now_ns)
        assert "GB are free" in recorder.warnings["room"]
    folder = tmp_path / "full"
    folder.mkdir()
    with (
        bench(folder, space={"low_bytes": 10**15, "stop_bytes": 10**15}) as das,
        pytest.raises(StorageError, match="make room"),
    ):
        das.begin()


def test_hidden_files_are_hidden_by_the_rule_of_the_house(das: Bench) -> None:
    das.begin()
    das.feed(0, 5, START_NS)
    folder = raw_path(das.root, START_NS).parent
    assert all(is_temporary(path) for path in folder.iterdir())
