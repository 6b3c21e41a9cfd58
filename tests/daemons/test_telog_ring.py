# SPDX-License-Identifier: BSD-3-Clause
"""The telescope's ring is copied by content: old, locked, cut and changing files are not taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.site import eventually
from kit.telog import MINUTE0_NS, Ring, S, Told, freeze, manual, records
from nightjar.das.naming import MINUTE_NS, day_of, minute_of, minute_start_ns, pointing_path
from nightjar.das.pointing import RECORD, read_pointing
from nightjar.errors import StorageError
from nightjar.operations import Operations
from nightjard.telogd.config import PointingRing
from nightjard.telogd.drivers.plog_folder import PlogFolder
from nightjard.telogd.growing import live_name
from nightjard.telogd.pointing import PointingLog
from nightjard.telogd.quarantine import Quarantine
from nightjard.telogd.ring import RingCopier

DAY_NS = 86400 * S


class Bench:
    """A ring, a copier, a clock that stands 3 s behind the end of a minute."""

    def __init__(self, folder: Path, start_ns: int = MINUTE0_NS, **changes: object) -> None:
        self.ring = Ring(folder / "plog")
        self.root = folder / "pointing"
        self.root.mkdir()
        self.start_ns = start_ns
        self.clock = manual(start_ns + MINUTE_NS + 3 * S)
        self.told = Told()
        config = PointingRing(folder=self.ring.folder, limit_s=2.0, **changes)  # type: ignore[arg-type]
        self.source = PlogFolder(config)
        self.quarantine = Quarantine(folder / "quarantine", self.clock)
        self.copier = RingCopier(
            config, self.source, self.root, self.clock, self.quarantine, self.told.append
        )

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            self.copier.tick()
            self.clock.advance(1)

    def path(self, start_ns: int | None = None) -> Path:
        return pointing_path(self.root, self.start_ns if start_ns is None else start_ns)

    def files(self) -> list[str]:
        return sorted(str(p.relative_to(self.root)) for p in self.root.glob("*/*"))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(**changes: object) -> Bench:
        made.append(Bench(tmp_path, **changes))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for bench in made:
        bench.copier.close()


def test_whole_minutes_of_the_last_ten_are_copied_and_no_older_ones(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    for k in range(15):
        bench.ring.put(MINUTE0_NS - k * MINUTE_NS)
    bench.look()
    wanted = sorted(
        f"{day_of(t)}/{minute_of(t):04d}"
        for t in (MINUTE0_NS - k * MINUTE_NS for k in range(10))
    )
    assert bench.files() == wanted
    assert bench.path().read_bytes() == records(MINUTE0_NS)
    assert set(bench.told.states().values()) == {"whole"}
    assert bench.copier.missing == []


def test_a_file_is_taken_only_when_it_is_the_same_in_two_looks(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    path = bench.ring.put(MINUTE0_NS, records(MINUTE0_NS, 5000))
    bench.look(1)
    path.write_bytes(records(MINUTE0_NS))
    bench.look(1)
    assert bench.files() == [], "it has grown between two looks"
    bench.look(1)
    assert bench.path().read_bytes() == records(MINUTE0_NS)
    assert bench.quarantine.count == 0


def test_a_locked_file_is_left_until_its_lock_goes(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.ring.put(MINUTE0_NS)
    bench.ring.lock(MINUTE0_NS)
    bench.look(3)
    assert bench.files() == []
    assert bench.copier.locked == [f"{minute_of(MINUTE0_NS):04d}"]
    assert MINUTE0_NS in bench.copier.missing
    bench.ring.lock(MINUTE0_NS, is_locked=False)
    bench.look()
    assert bench.path().read_bytes() == records(MINUTE0_NS)


def test_yesterdays_file_under_todays_name_is_never_todays(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.ring.put(MINUTE0_NS, records(MINUTE0_NS - DAY_NS))
    bench.look(3)
    assert bench.files() == []
    assert bench.told == []
    assert bench.quarantine.count == 0, "it is no damaged file"
    assert bench.copier.stale == {f"{minute_of(MINUTE0_NS):04d}": day_of(MINUTE0_NS - DAY_NS)}
    bench.ring.put(MINUTE0_NS)
    bench.look()
    assert bench.path().read_bytes() == records(MINUTE0_NS)
    assert bench.copier.stale == {}


def test_a_truncated_minute_goes_to_quarantine_and_its_sound_part_is_published(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    cut = records(MINUTE0_NS)[:300_000]
    bench.ring.put(MINUTE0_NS, cut)
    bench.look(4)
    notes = bench.quarantine.listed(10)
    assert len(notes) == 1, "once, however often it is looked at"
    assert "300000 bytes" in notes[0]["reason"]
    assert (bench.quarantine.folder / notes[0]["file"]).read_bytes() == cut
    assert len(read_pointing(bench.path())) == 300_000 // RECORD.itemsize
    assert bench.told.states()[bench.path().name] == "partial"
    assert bench.ring.path(MINUTE0_NS).read_bytes() == cut, "the telescope's file is not touched"
    # The telescope has repaired it: the whole one takes the place of the part.
    bench.ring.put(MINUTE0_NS)
    bench.look()
    assert bench.path().read_bytes() == records(MINUTE0_NS)
    assert len(bench.quarantine.listed(10)) == 1, "the part was wholly in it"


def test_without_the_option_only_quarantine_has_a_truncated_minute(
    make: Callable[..., Bench],
) -> None:
    bench = make(publishes_sound_part=False)
    bench.ring.put(MINUTE0_NS, records(MINUTE0_NS)[:1000])
    bench.look(3)
    assert bench.files() == []
    assert bench.quarantine.count == 1


def test_a_record_of_another_day_among_ours_is_damage(make: Callable[..., Bench]) -> None:
    bench = make()
    data = bytearray(records(MINUTE0_NS))
    data[52 * 100 : 52 * 101] = records(MINUTE0_NS - DAY_NS, 1, 100)
    bench.ring.put(MINUTE0_NS, bytes(data))
    bench.look(3)
    assert "file of another day" in bench.quarantine.listed(1)[0]["reason"]
    assert len(read_pointing(bench.path())) == 5999


def test_an_empty_file_is_damaged_and_nothing_is_published(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.ring.put(MINUTE0_NS, b"")
    bench.look(3)
    assert bench.files() == []
    assert bench.quarantine.count == 1


def test_a_missing_minute_is_told_and_others_are_copied(make: Callable[..., Bench]) -> None:
    bench = make(look_back_min=3)
    bench.ring.put(MINUTE0_NS)
    bench.ring.put(MINUTE0_NS - 2 * MINUTE_NS)
    bench.look()
    assert bench.copier.missing == [MINUTE0_NS - MINUTE_NS]
    assert bench.copier.behind == [], "it closed before we looked, and the ring has it not"
    assert len(bench.files()) == 2
    bench.clock.advance(60)
    bench.look()
    assert bench.copier.behind == [MINUTE0_NS + MINUTE_NS], "this one should have come"


def test_a_verified_file_is_never_replaced_by_a_smaller_one(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.ring.put(MINUTE0_NS)
    bench.look()
    bench.ring.put(MINUTE0_NS, records(MINUTE0_NS, 100))
    bench.copier._whole.clear()  # as after a restart
    bench.look(3)
    assert bench.path().read_bytes() == records(MINUTE0_NS)


def test_the_ring_completes_what_the_stream_has_missed(make: Callable[..., Bench]) -> None:
    bench = make()
    log = PointingLog(bench.root, bench.clock, bench.told.append, "tcp")
    log.take(records(MINUTE0_NS, 2000) + records(MINUTE0_NS, 1000, 4000))
    bench.clock.advance(5)
    log.tick()
    assert bench.path().stat().st_size == 3000 * RECORD.itemsize
    bench.ring.put(MINUTE0_NS)
    bench.look()
    assert bench.path().read_bytes() == records(MINUTE0_NS)
    assert bench.copier.counts["completed"] == 1
    assert bench.quarantine.count == 0


def test_what_the_ring_contradicts_is_kept_in_quarantine(make: Callable[..., Bench]) -> None:
    bench = make()
    ours = bytearray(records(MINUTE0_NS, 2000))
    ours[46] ^= 1
    bench.path().parent.mkdir()
    bench.path().write_bytes(ours)
    bench.ring.put(MINUTE0_NS)
    bench.look()
    assert bench.path().read_bytes() == records(MINUTE0_NS)
    (note,) = bench.quarantine.listed(5)
    assert (bench.quarantine.folder / note["file"]).read_bytes() == bytes(ours)


def test_a_minute_that_the_stream_still_writes_survives_the_copy(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    log = PointingLog(bench.root, bench.clock, bench.told.append, "tcp")
    log.take(records(MINUTE0_NS, 5500))
    bench.ring.put(MINUTE0_NS, records(MINUTE0_NS)[:1040])  # damaged: its part is published
    bench.look()
    assert live_name(bench.path()).exists()
    log.close()
    assert bench.path().read_bytes() == records(MINUTE0_NS, 5500)


def test_over_midnight_each_minute_goes_to_its_day(make: Callable[..., Bench]) -> None:
    first = minute_start_ns("20260101", 0)
    bench = make(start_ns=first)
    for k in range(3):
        bench.ring.put(first - k * MINUTE_NS)
    bench.look()
    assert bench.files() == ["20251231/1438", "20251231/1439", "20260101/0000"]


def test_the_newest_record_is_read_from_the_locked_file_for_freshness_only(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    now = MINUTE0_NS + MINUTE_NS
    bench.ring.put(now, records(now, 250) + b"half a record")
    bench.ring.lock(now)
    bench.look(1)
    assert bench.copier.newest_ns == now + 249 * 10_000_000
    assert bench.copier.newest_name == f"{minute_of(now):04d}"
    assert bench.files() == []
    bench.ring.put(now, records(now - DAY_NS))  # only the lock is new
    bench.look(1)
    assert bench.copier.newest_ns == now + 249 * 10_000_000


def test_recovery_takes_what_the_ring_has_by_its_own_date(make: Callable[..., Bench]) -> None:
    bench = make()
    for k in range(1440):  # some minutes of the whole ring
        if k % 97 == 0:
            bench.ring.put(MINUTE0_NS - k * MINUTE_NS)
    bench.ring.put(MINUTE0_NS - 30 * MINUTE_NS, records(MINUTE0_NS - 30 * MINUTE_NS - 3 * DAY_NS))
    bench.ring.put(MINUTE0_NS - 31 * MINUTE_NS, records(MINUTE0_NS - 31 * MINUTE_NS - DAY_NS))
    bench.ring.put(MINUTE0_NS - 32 * MINUTE_NS, b"junk")
    bench.ring.put(MINUTE0_NS - 33 * MINUTE_NS)
    bench.ring.lock(MINUTE0_NS - 33 * MINUTE_NS)
    operation = Operations(bench.clock).begin("recover")
    bench.copier.recover(23 + 5 / 6, operation)
    for _ in range(200):
        bench.look(1)
        if operation.is_done:
            break
    told = operation.outcome()
    expected = {k for k in range(1430) if k % 97 == 0}
    assert (told["copied"], told["present"]) == (len(expected) + 1, 0)
    assert (told["stale"], told["damaged"], told["locked"]) == (2, 1, 1)
    for k in expected:
        assert bench.path(MINUTE0_NS - k * MINUTE_NS).exists()
    old = MINUTE0_NS - 31 * MINUTE_NS - DAY_NS
    assert bench.path(old).read_bytes() == records(old), "under its own day"
    assert len(bench.files()) == len(expected) + 1


def test_a_folder_that_is_away_is_told_and_found_again(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.ring.put(MINUTE0_NS)
    away = bench.ring.folder.with_name("away")
    bench.ring.folder.rename(away)
    with pytest.raises(StorageError, match=r"plog cannot be looked into: No such file"):
        bench.copier.tick()
    away.rename(bench.ring.folder)
    bench.look()
    assert bench.path().exists()


def test_our_root_that_is_away_is_told_and_the_minute_is_taken_later(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.ring.put(MINUTE0_NS)
    bench.look(1)
    away = bench.root.with_name("away")
    bench.root.rename(away)
    with pytest.raises(StorageError, match="pointing"):
        bench.copier.tick()
    assert not bench.root.exists()
    away.rename(bench.root)
    bench.look(1)
    assert bench.path().exists()


def test_a_mount_that_hangs_costs_its_reader_and_nothing_else(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.ring.put(MINUTE0_NS)
    reader = bench.source.reader
    patient_s = reader.limit_s
    bench.look(1)
    pid = reader.pid
    assert pid is not None
    reader.limit_s = 0.3
    freeze(pid)
    with pytest.raises(StorageError, match=r"did not answer within 0\.3 s: does the mount hang"):
        bench.copier.tick()
    reader.limit_s = patient_s
    eventually(lambda: not Path(f"/proc/{pid}").exists(), what="the stuck reader is gone")
    bench.look()
    assert bench.path().exists()
    assert bench.source.reader.kills == 1
