# SPDX-License-Identifier: BSD-3-Clause
"""Following: what comes in any order becomes what a merge of all at once gives; holes heal."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.dasmerge import STREAMS, Bench, assert_same
from kit.observatory import MadeNight, made_night
from nightjar.das.naming import MINUTE_NS, minute_start_ns
from nightjar.errors import StorageError
from nightjard.merged import folders, quality
from nightjard.merged.follow import RETRY_S
from nightjard.merged.hour import merge_hour
from nightjard.merged.netcdf import hour_of

OFF = {"align": "off"}
NEW_YEAR = "2026-12-31T23:57:00"
FIRST = minute_start_ns("20261231", 1437)
COUNT = 6
LATER = 13  # minutes: so far behind, a file is late


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> MadeNight:
    """Six minutes over the end of an hour, a day and a year."""
    return made_night(tmp_path_factory.mktemp("year") / "n", COUNT, start=NEW_YEAR, seed=3)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> MadeNight:
    """Minutes 0 to 3 and 13 of an hour."""
    folder = tmp_path_factory.mktemp("long") / "n"
    night = made_night(folder, LATER + 1, start="2026-11-21T10:00:00", seed=5)
    return night


LONG = minute_start_ns("20261121", 600)
FEW = [0, 1, 2, 3, LATER]


def new_year(tmp_path: Path, year: MadeNight, **changes: Any) -> Bench:
    return Bench(tmp_path, year.folder, FIRST, COUNT + 1, **{"alignment": OFF} | changes)


def ten(tmp_path: Path, long: MadeNight, **changes: Any) -> Bench:
    return Bench(tmp_path, long.folder, LONG, LATER + 1, **{"alignment": OFF} | changes)


@pytest.fixture(scope="module")
def whole(year: MadeNight, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What whole hours at once give."""
    bench = new_year(tmp_path_factory.mktemp("whole"), year)
    bench.put(range(COUNT))
    for hour in sorted({hour_of(bench.at(minute)) for minute in range(COUNT)}):
        minutes = [bench.at(m) for m in range(COUNT) if hour_of(bench.at(m)) == hour]
        merge_hour(bench.config.text, hour, minutes)
    return bench.hours()


@pytest.fixture(scope="module")
def sound(long: MadeNight, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the few minutes give when nothing is late."""
    bench = ten(tmp_path_factory.mktemp("sound"), long)
    bench.put(FEW)
    bench.settle()
    return bench.hours()


# --- the same, however it comes -----------------------------------------------------------------


def test_minute_by_minute_is_the_same_as_whole_hours(
    tmp_path: Path, year: MadeNight, whole: Any
) -> None:
    bench = new_year(tmp_path, year)
    merged = []
    for minute in range(COUNT):
        bench.put(minute)
        merged += bench.settle()
    assert sorted(set(merged)) == list(range(COUNT))
    assert sorted(bench.hours()) == ["20261231_23.nc", "20270101_00.nc"]
    assert_same(bench.hours(), whole)


def test_files_in_any_order_are_the_same(tmp_path: Path, year: MadeNight, whole: Any) -> None:
    bench = new_year(tmp_path, year, follow={"companion_wait_s": 0})
    files = [(stream, minute) for stream in STREAMS for minute in range(COUNT)]
    random.Random(1).shuffle(files)
    for number, (stream, minute) in enumerate(files):
        bench.put(minute, [stream])
        if number % 4 == 1:
            bench.settle()
    bench.settle()
    assert_same(bench.hours(), whole)


def test_with_the_clocks_aligned_only_times_differ_and_little(
    tmp_path: Path, year: MadeNight
) -> None:
    """Edges come later than the minute: what they change is below `refit_s`, or merged again."""
    live = Bench(tmp_path / "live", year.folder, FIRST, COUNT + 1, alignment={"window_s": 240})
    for minute in range(COUNT):
        live.put(minute)
        live.settle()
    once = Bench(tmp_path / "once", year.folder, FIRST, COUNT + 1, alignment={"window_s": 240})
    once.put(range(COUNT))
    once.settle()
    for name, variables in once.hours().items():
        other = live.hours()[name]
        for variable in ("ac_bolos", "dc_bolos", "obs_number_das", "rgrt", "obsnumber", "time"):
            assert other[variable].tobytes() == variables[variable].tobytes()
        known = np.isfinite(variables["das_offset"])
        assert (np.isfinite(other["das_offset"]) == known).all()
        apart = np.abs(variables["das_offset"] - other["das_offset"])[known]
        assert apart.max() < 2 * live.config.follow.refit_s
        assert variables["das_offset"][known].mean() == pytest.approx(-0.8, abs=0.01)


def test_merged_once_is_merged_for_good(tmp_path: Path, year: MadeNight, whole: Any) -> None:
    bench = new_year(tmp_path, year)
    bench.put(range(COUNT))
    assert sorted(bench.settle()) == list(range(COUNT))
    bench.begin()
    assert bench.settle() == []
    assert not bench.executor.ran
    bench.follower.again([bench.at(2)])
    assert bench.settle() == [2]
    assert bench.known(2).times == 2
    assert_same(bench.hours(), whole)


def test_a_lost_or_damaged_memory_costs_time_only(tmp_path: Path, year: MadeNight) -> None:
    bench = new_year(tmp_path, year)
    bench.put(2)
    bench.settle()
    before = bench.hours()
    memory = bench.follower.memory.path("20261231")
    for text in (None, b"", b"{", b'{"1": {"status": 3}}', b"[1]", b"\xff\xfe"):
        if text is None:
            memory.unlink()
        else:
            memory.write_bytes(text)
        bench.begin()
        assert bench.settle() == [2]
    assert_same(bench.hours(), before)


def test_a_product_that_was_removed_is_made_anew(
    tmp_path: Path, year: MadeNight, whole: Any
) -> None:
    bench = new_year(tmp_path, year)
    bench.put(range(COUNT))
    bench.settle()
    (tmp_path / "merged/20261231_23.nc").unlink()
    assert sorted(bench.settle()) == [0, 1, 2]
    assert_same(bench.hours(), whole)
    shutil.copy(tmp_path / "merged/20270101_00.nc", tmp_path / "other.nc")
    (tmp_path / "other.nc").replace(tmp_path / "merged/20270101_00.nc")  # say, from a backup
    bench.begin()
    assert sorted(bench.settle()) == [3, 4, 5]


def test_the_folder_of_products_may_go_and_come(
    tmp_path: Path, year: MadeNight, whole: Any
) -> None:
    bench = new_year(tmp_path, year)
    bench.put(range(3))
    bench.settle()
    (tmp_path / "merged").rename(tmp_path / "away")
    bench.put(range(3, COUNT))
    with pytest.raises(StorageError, match="merged: it is not there; mount its disk"):
        bench.step()
    (tmp_path / "away").rename(tmp_path / "merged")
    assert set(bench.settle()) == {2, 3, 4, 5}  # 2 has new neighbours
    assert_same(bench.hours(), whole)


# --- late files ---------------------------------------------------------------------------------


def late_bits(bench: Bench, minute: int) -> np.ndarray:
    values = bench.hours()["20261121_10.nc"]["quality"]
    return values[minute * 3000 : (minute + 1) * 3000] & quality.LATE


@pytest.mark.parametrize("stream", STREAMS)
def test_a_late_file_heals_its_hole(
    tmp_path: Path, long: MadeNight, sound: Any, stream: str
) -> None:
    bench = ten(tmp_path, long)
    for minute in FEW:
        bench.put(minute, [one for one in STREAMS if (one, minute) != (stream, 1)])
    merged = bench.settle()
    if stream == "raw":
        assert 1 not in merged
        assert bench.hours()["20261121_10.nc"]["minute_status"][1] == -1
    else:
        status = {"pointing": "no_pointing", "housekeeping": "no_housekeeping"}[stream]
        assert bench.known(1).status == quality.STATUS[status][0]
        assert bench.file(stream, 1).name in bench.known(1).reason
    bench.clock.advance(23 * 3600)
    assert bench.settle() == []
    bench.put(1, [stream])
    assert 1 in bench.settle()
    assert bench.known(1).status == quality.COMPLETE
    assert (late_bits(bench, 1) > 0).all()
    assert not late_bits(bench, 3).any()
    assert not late_bits(bench, LATER).any()
    bench.follower.again([bench.at(1)])
    assert bench.settle() == [1]
    assert (late_bits(bench, 1) > 0).all()  # once late, always so
    healed = bench.hours()
    healed["20261121_10.nc"]["quality"] &= np.uint16(~quality.LATE & 0xFFFF)
    never = healed["20261121_10.nc"]["quality"] == (0xFFFF & ~quality.LATE)
    healed["20261121_10.nc"]["quality"][never] = 0xFFFF
    assert_same(healed, sound)


def test_what_is_too_old_is_left(tmp_path: Path, long: MadeNight) -> None:
    bench = ten(tmp_path, long)
    bench.put([0, LATER])
    bench.settle()
    bench.clock.advance(24.5 * 3600)
    bench.put(1)
    assert bench.settle() == []


def test_a_file_that_has_gone_takes_nothing_with_it(
    tmp_path: Path, long: MadeNight, sound: Any
) -> None:
    """Retention removes streams at different times: what was merged stays."""
    bench = ten(tmp_path, long)
    bench.put(FEW)
    bench.settle()
    bench.take("pointing", 1)
    bench.take("housekeeping", 2)
    assert bench.settle() == []
    bench.follower.again([bench.at(m) for m in FEW])
    assert sorted(bench.settle()) == [LATER]  # all others miss a file of theirs or a neighbour's
    bench.begin()
    assert bench.settle() == []
    assert_same(bench.hours(), sound)


def test_a_file_written_over_in_place_is_seen(
    tmp_path: Path, long: MadeNight, sound: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders.Folder, "_STALE_S", 0.0)
    bench = ten(tmp_path, long)
    bench.put(FEW)
    raw = bench.file("raw", 1)
    good = raw.read_bytes()
    raw.unlink()
    raw.write_bytes(good[:100_000] + b"\1\2\3" + good[100_003:])
    bench.settle()
    assert bench.known(1).status == quality.WITHOUT_RAW
    assert "was changed: the CRC-32" in bench.known(1).reason
    with raw.open("r+b") as file:
        file.write(good)
    assert bench.settle() == [1]
    assert bench.known(1).status == quality.COMPLETE
    assert_same(bench.hours(), sound, but=["quality"])


# --- missing companions -------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["pointing", "housekeeping"])
def test_a_companion_is_waited_for_then_filled_then_healed(
    tmp_path: Path, year: MadeNight, whole: Any, stream: str
) -> None:
    bench = new_year(tmp_path, year)
    bench.put(range(COUNT - 1))
    bench.settle()
    bench.put(COUNT - 1, [one for one in STREAMS if one != stream])
    step = bench.step()
    assert [one.text for one in step.waiting] == [f"minute 20270101 0002 has no {stream} file"]
    assert COUNT - 1 not in {(s - FIRST) // MINUTE_NS for s, _ in step.merged}
    bench.clock.advance(119)
    assert bench.step().waiting
    bench.clock.advance(2)
    step = bench.step()
    assert len(step.given_up) == 1
    assert [s for s, _ in step.merged] == [bench.at(COUNT - 1)]
    assert bench.known(COUNT - 1).status != quality.COMPLETE
    bench.put(COUNT - 1, [stream])
    assert COUNT - 1 in bench.settle()
    assert_same(bench.hours(), whole)


def test_a_log_that_is_being_written_is_waited_for(tmp_path: Path, year: MadeNight) -> None:
    bench = new_year(tmp_path, year)
    bench.put(0)
    lock = bench.file("pointing", 0).with_name("1437.lck")
    lock.touch()
    step = bench.step()
    assert step.waiting[0].missing == ("pointing",)
    lock.unlink()
    assert bench.settle() == [0]


def test_files_that_still_grow_are_waited_for(tmp_path: Path, year: MadeNight) -> None:
    bench = new_year(tmp_path, year, follow={"settle_s": 5})
    bench.put(0)
    step = bench.step()
    assert "do not keep still" in step.waiting[0].text
    bench.clock.advance(3)
    bench.put(0, ["pointing"])
    bench.file("pointing", 0).touch()
    assert bench.step().waiting
    bench.clock.advance(4)
    assert bench.step().waiting
    bench.clock.advance(2)
    assert [s for s, _ in bench.step().merged] == [FIRST]


def test_a_raw_file_that_does_not_add_up_is_opened_anew(tmp_path: Path, year: MadeNight) -> None:
    """-fixnfs: a network disk may show a file before its end is there."""
    bench = new_year(tmp_path, year, follow={"recheck_s": 120})
    bench.put(0)
    good = bench.file("raw", 0).read_bytes()
    bench.file("raw", 0).unlink()
    bench.file("raw", 0).write_bytes(good[:1_000_000])
    assert bench.step().waiting
    bench.clock.advance(60)
    assert bench.step().waiting
    bench.put(0, ["raw"])
    assert bench.settle() == [0]
    assert bench.known(0).status == quality.COMPLETE
    bench.put(1)
    bench.file("raw", 1).unlink()
    bench.file("raw", 1).write_bytes(good[:1_000_000])
    assert bench.step().waiting
    bench.clock.advance(121)
    assert 1 in bench.settle()  # in the end it is taken as it is
    assert bench.known(1).status != quality.COMPLETE


# --- bad input ----------------------------------------------------------------------------------


def test_each_bad_file_costs_its_own_minute_only(tmp_path: Path) -> None:
    faults = "raw-corrupt@1,raw-truncated@2,pointing-yesterday@3,raw-missing@4,raw-yesterday@5"
    night = made_night(tmp_path / "n", 7, start=NEW_YEAR, seed=3, faults=faults)
    bench = new_year(tmp_path, night)
    bench.put(range(7), ["pointing", "housekeeping"])
    bench.put([0, 1, 2, 3, 5, 6], ["raw"])
    bench.settle()
    names = {value: name for name, (value, _) in quality.STATUS.items()}
    found = {m: names[bench.known(m).status] for m in (0, 1, 2, 3, 5, 6)}
    assert found == {0: "complete", 1: "no_raw", 2: "raw_gaps", 3: "no_pointing", 5: "no_raw",
                     6: "complete"}  # fmt: skip
    assert "CRC-32" in bench.known(1).reason
    assert "was cut short" in bench.known(2).reason
    assert "another minute's file under this name" in bench.known(3).reason
    assert "another minute than its name" in bench.known(5).reason
    assert bench.hours()["20270101_00.nc"]["minute_status"][1] == -1  # minute 4
    for stream in STREAMS:
        bench.put([4] if stream != "raw" else [], [stream])
    assert bench.settle() == []


def test_names_may_be_trusted(tmp_path: Path) -> None:
    """-fixut: where name and header disagree, the name is believed."""
    night = made_night(tmp_path / "n", 3, start=NEW_YEAR, seed=3, faults="raw-yesterday@1")
    bench = new_year(tmp_path, night, follow={"trust_names": True})
    bench.put(range(3))
    bench.settle()
    assert bench.known(1).status == quality.COMPLETE
    assert "its name is believed" in bench.known(1).reason


def test_another_configuration_is_told_and_spoils_nothing(
    tmp_path: Path, year: MadeNight, whole: Any
) -> None:
    bench = new_year(tmp_path, year)
    bench.put(range(3))
    bench.settle()
    before = bench.hours()
    other = new_year(tmp_path, year, site={"height_m": 4100.0})
    other.put(3)
    other.begin()
    step = other.step()
    assert {s for s, _ in step.merged} == {other.at(3)}  # its hour is a new file
    assert [s for s, _ in step.failed] == [other.at(2)]  # 3 is its neighbour
    assert "begun with another configuration" in step.failed[0][1].message
    assert "move it away" in step.failed[0][1].message
    assert_same({"20261231_23.nc": other.hours()["20261231_23.nc"]}, before)
    assert not other.step().failed  # not tried again at each look
    (tmp_path / "merged/20261231_23.nc").rename(tmp_path / "old.nc")
    other.clock.advance(RETRY_S + 1)
    assert sorted(other.settle()) == [0, 1, 2]


def test_another_channel_map_is_told(tmp_path: Path, year: MadeNight) -> None:
    from nightjar.das.channels import BOLOCAM

    groups = [one.model_dump(mode="json") for one in BOLOCAM.groups if one.name != "chop_enc"]
    bench = new_year(tmp_path, year, channels={"count": 384, "groups": groups})
    bench.put(0)
    bench.settle()
    assert "another channel map" in bench.known(0).reason
    assert "chop_enc" not in bench.hours()["20261231_23.nc"]
    fewer = new_year(tmp_path / "few", year, channels={"count": 200, "groups": []}, bolometers=[])
    fewer.put(0)
    fewer.settle()
    assert fewer.known(0).status == quality.WITHOUT_RAW
    assert "384 channels, the configuration has" in fewer.known(0).reason


def test_a_hundred_looks_at_a_quiet_day_are_cheap(tmp_path: Path, long: MadeNight) -> None:
    """A day of files is not looked at one by one once a second."""
    bench = ten(tmp_path, long)
    bench.put(FEW)
    bench.settle()
    bench.executor.ran.clear()
    listed: list[Path] = []
    listing = folders.Folder._list

    def counted(self: folders.Folder, folder: Path) -> Any:
        listed.append(folder)
        return listing(self, folder)

    for stream in STREAMS:  # older than what may still change in the same tick
        os.utime(tmp_path / stream / "20261121", (1e9, 1e9))
    bench.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders.Folder, "_list", counted)
        for _ in range(100):
            bench.step()
    assert len(listed) <= 4
    assert not bench.executor.ran


def test_edges_outside_the_span_align_it(tmp_path: Path, long: MadeNight) -> None:
    """One minute merged around a hole gets its clock from those beside it."""
    bench = ten(tmp_path, long, alignment={}, follow={})
    bench.put(range(5))
    bench._settings = {"first_ns": bench.at(2), "last_ns": bench.at(2), "is_patient": False}
    bench.begin()
    assert bench.settle() == [2]
    assert bench.known(2).offset_s == pytest.approx(0.8, abs=0.01)
    assert bench.hours()["20261121_10.nc"]["clock_applied"][2] == 1
