# SPDX-License-Identifier: BSD-3-Clause
"""Raw files come from the DAS host, by a mount and by a real rsync over a real sshd."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.das import bench as das_bench
from kit.site import eventually
from kit.sshd import PROGRAMS, Sshd
from kit.telog import MINUTE0_NS, S, Told, freeze, manual
from nightjar.das.naming import MINUTE_NS, day_of, index_path, minute_start_ns, raw_path
from nightjar.das.raw import read_raw
from nightjar.errors import NightjarError, StorageError, Unreachable
from nightjard.telogd.config import MountedDas, SshDas
from nightjard.telogd.copying import INCOMING, RawCopier
from nightjard.telogd.drivers.das_host import MountedHost, RsyncHost
from nightjard.telogd.ledger import Ledger
from nightjard.telogd.quarantine import Quarantine

pytestmark = pytest.mark.needs(*PROGRAMS)
DAY = day_of(MINUTE0_NS)


class Bench:
    """A DAS host's folder, our root, a copier between them."""

    def __init__(self, folder: Path, sshd: Sshd | None = None) -> None:
        self.folder, self.sshd = folder, sshd
        self.far, self.root = folder / "far", folder / "raw"
        self.far.mkdir()
        self.root.mkdir()
        self.clock = manual(MINUTE0_NS + MINUTE_NS + S)
        self.told = Told()
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.db", self.clock)
        self.quarantine = Quarantine(folder / "quarantine", self.clock)
        self.copier = self.new()

    def new(self, **changes: Any) -> RawCopier:
        if self.sshd is None:
            self.source: Any = MountedHost(MountedDas(folder=self.far, limit_s=2.0))
        else:
            to = self.sshd.destination(self.far)
            self.source = RsyncHost(SshDas(
                host="127.0.0.1", folder=self.far, user=to["user"], port=to["port"],
                identity=Path(to["identity"]), ssh_options=tuple(to["ssh_options"]), limit_s=5,
            ))  # fmt: skip

        def note(file: Any) -> None:
            self.told.append(file)
            self.ledger.note(file)

        return RawCopier(
            self.source, self.root, 1, changes.get("stop_bytes", 0), self.clock, self.quarantine,
            note, lambda day: self.ledger.known("raw", day),
        )  # fmt: skip

    def record(self, start_ns: int = MINUTE0_NS, count: int = 3000, serial: int = 0) -> Path:
        """Have the DAS's own recorder write a minute; return its raw file there."""
        scratch = self.folder / f"das-{start_ns}-{count}-{serial}"
        scratch.mkdir()
        with das_bench(scratch) as das:
            das.now_ns, das.serial = start_ns, serial
            recorder = das.begin()
            das.feed(serial * 7, count, start_ns)
            recorder.close("test")
            made = raw_path(das.root, start_ns)
        target = raw_path(self.far, start_ns)
        target.parent.mkdir(exist_ok=True)
        index_path(made).replace(index_path(target))
        return made.replace(target)

    def look(self, times: int = 1) -> float:
        for _ in range(times):
            pause = self.copier.tick()
            self.clock.advance(1)
        return pause

    def same(self) -> None:
        """Check that our days are the DAS host's, byte by byte, and nothing half-made is left."""
        theirs = {p.relative_to(self.far): p.read_bytes() for p in self.far.glob("*/*")}
        ours = {p.relative_to(self.root): p.read_bytes() for p in self.root.glob("[0-9]*/*")}
        assert ours == theirs
        assert not list((self.root / INCOMING).glob("*"))


@pytest.fixture(params=["folder", "rsync"])
def make(
    request: pytest.FixtureRequest, tmp_path: Path, sshd: Sshd
) -> Iterator[Callable[[], Bench]]:
    made: list[Bench] = []

    def build() -> Bench:
        made.append(Bench(tmp_path, sshd if request.param == "rsync" else None))
        return made[-1]

    yield build
    for one in made:
        one.copier.close()
        one.ledger.close()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.copier.close()
    made.ledger.close()


def test_the_days_are_made_equal_and_every_file_is_in_the_ledger(
    make: Callable[[], Bench],
) -> None:
    bench = make()
    today = [bench.record(MINUTE0_NS - k * MINUTE_NS, serial=k) for k in range(3)]
    yesterday = bench.record(MINUTE0_NS - 86400 * S, 2990, serial=9)
    (bench.far / DAY / "notes.txt").write_text("bias at 1.0 V\n")
    os.utime(bench.far / DAY / "notes.txt", (MINUTE0_NS / 1e9 - 99, MINUTE0_NS / 1e9 - 99))
    bench.look()
    bench.same()
    rows = {row["name"]: row for row in bench.ledger.files(None, "raw", None, 100)}
    assert set(rows) == {p.name for p in bench.far.glob("*/*")}
    assert {rows[p.name]["state"] for p in today} == {"whole"}
    assert (rows[yesterday.name]["state"], rows[yesterday.name]["records"]) == ("partial", 2990)
    assert rows[yesterday.name]["reason"] == "2990 of 3000 samples"
    assert rows["notes.txt"]["state"] == "other"
    assert all(row["verified_ns"] >= row["seen_ns"] for row in rows.values() if row["records"])
    assert bench.copier.waiting == set()


def test_a_second_look_copies_nothing_and_a_new_minute_alone(mounted: Bench) -> None:
    mounted.record()
    mounted.look(2)
    assert mounted.copier.counts["copied"] == 2
    inode = raw_path(mounted.root, MINUTE0_NS).stat().st_ino
    mounted.record(MINUTE0_NS + MINUTE_NS, serial=1)
    mounted.look()
    assert mounted.copier.counts["copied"] == 4
    assert raw_path(mounted.root, MINUTE0_NS).stat().st_ino == inode
    mounted.same()


def test_a_restart_knows_by_the_ledger_what_is_here(mounted: Bench) -> None:
    mounted.record()
    mounted.look()
    mounted.copier.close()
    left = mounted.root / INCOMING / "20200101"
    left.mkdir(parents=True)
    (left / "half").write_text("of a copy that was killed")
    mounted.copier = mounted.new()
    mounted.look()
    assert mounted.copier.counts["copied"] == 0
    mounted.same()


def test_a_host_that_is_away_is_told_and_nothing_is_lost(make: Callable[[], Bench]) -> None:
    bench = make()
    bench.record()
    away = bench.far.with_name("away")
    bench.far.rename(away)
    with pytest.raises(NightjarError, match="far"):
        bench.look()
    away.rename(bench.far)
    bench.look()
    bench.same()


def test_nothing_is_deleted_here_when_it_goes_there(mounted: Bench) -> None:
    first, second = mounted.record(), mounted.record(MINUTE0_NS - MINUTE_NS, serial=1)
    mounted.look()
    first.unlink()
    index_path(first).unlink()
    mounted.look(2)
    assert raw_path(mounted.root, MINUTE0_NS).exists()
    assert second.exists()
    second.parent.rename(mounted.far / "gone")
    mounted.look()
    assert len(list(mounted.root.glob("*/*.bin"))) == 2


def test_a_raw_file_waits_for_its_sidecar(mounted: Bench) -> None:
    raw = mounted.record()
    hidden = index_path(raw).rename(mounted.folder / "later")
    os.utime(raw, ns=(mounted.clock.now_ns(), mounted.clock.now_ns()))
    mounted.look(2)
    assert not list(mounted.root.glob("*/*.bin"))
    assert mounted.copier.waiting == {MINUTE0_NS}
    hidden.rename(index_path(raw))
    mounted.look()
    mounted.same()


def test_a_raw_file_without_a_sidecar_is_taken_in_the_end_and_not_called_whole(
    mounted: Bench,
) -> None:
    raw = mounted.record()
    index_path(raw).unlink()
    os.utime(raw, ns=(mounted.clock.now_ns(), mounted.clock.now_ns()))
    mounted.clock.advance(40)
    mounted.look()
    mounted.same()
    assert mounted.told[-1].state.value == "partial"
    assert "no sidecar" in mounted.told[-1].reason


def test_damage_on_the_way_or_there_goes_to_quarantine_not_to_its_name(
    mounted: Bench,
) -> None:
    raw = mounted.record()
    data = bytearray(raw.read_bytes())
    data[20_000] ^= 4
    raw.write_bytes(data)
    other = mounted.record(MINUTE0_NS - MINUTE_NS, serial=1)
    mounted.look(3)
    assert not raw_path(mounted.root, MINUTE0_NS).exists()
    assert raw_path(mounted.root, MINUTE0_NS - MINUTE_NS).read_bytes() == other.read_bytes()
    notes = {note["name"]: note["reason"] for note in mounted.quarantine.listed(9)}
    assert set(notes) == {raw.name, index_path(raw).name}
    assert "data was changed" in notes[raw.name]
    assert mounted.copier.counts["damaged"] == 1
    mounted.copier.close()
    mounted.copier = mounted.new()  # also after a restart it is not fetched again and again
    mounted.look(2)
    assert mounted.copier.counts["damaged"] == 0
    mounted.record(serial=2)  # the DAS has mended it
    mounted.look()
    mounted.same()


def test_a_minute_that_the_das_publishes_again_with_more_replaces_ours(
    mounted: Bench,
) -> None:
    first = mounted.record(count=1000)
    before = first.read_bytes()
    mounted.look()
    mounted.record(count=2500, serial=1)
    mounted.look()
    mounted.same()
    kept = {note["name"]: note["file"] for note in mounted.quarantine.listed(9)}
    assert (mounted.quarantine.folder / kept[first.name]).read_bytes() == before


def test_a_verified_minute_is_not_replaced_by_one_with_less(mounted: Bench) -> None:
    mounted.record(count=2500)
    mounted.look()
    ours = raw_path(mounted.root, MINUTE0_NS).read_bytes()
    less = mounted.record(count=100, serial=1)
    mounted.look(3)
    assert raw_path(mounted.root, MINUTE0_NS).read_bytes() == ours
    assert read_raw(raw_path(mounted.root, MINUTE0_NS)).index is not None
    (note,) = [one for one in mounted.quarantine.listed(9) if one["name"] == less.name]
    assert "holds less than ours" in note["reason"]


def test_many_files_come_in_parts_and_who_asked_is_told_at_the_end(mounted: Bench) -> None:
    raw = mounted.record()
    for k in range(1, 45):
        target = raw_path(mounted.far, MINUTE0_NS - k * MINUTE_NS)
        target.write_bytes(raw.read_bytes())
        index_path(target).write_bytes(index_path(raw).read_bytes())
    told: list[tuple[int, str]] = []
    mounted.copier.look_back(lambda count, why: told.append((count, why)))
    assert mounted.look() < 0.1
    assert told == []
    assert mounted.look() < 0.1
    mounted.look()
    assert told == [(90, "")]
    mounted.same()


def test_a_database_that_is_away_holds_up_no_copy(mounted: Bench) -> None:
    mounted.record()
    mounted.copier.close()
    mounted.ledger = Ledger(f"sqlite:///{mounted.folder}/none/ledger.db", mounted.clock)
    mounted.copier = mounted.new()
    mounted.look()
    mounted.same()
    assert mounted.ledger.waiting > 0


def test_a_file_deleted_here_comes_again(mounted: Bench) -> None:
    mounted.record()
    mounted.look()
    raw_path(mounted.root, MINUTE0_NS).unlink()
    mounted.look()
    mounted.same()


def test_files_that_were_here_before_the_ledger_are_proven_and_not_copied(
    mounted: Bench,
) -> None:
    raw = mounted.record()
    target = raw_path(mounted.root, MINUTE0_NS)
    target.parent.mkdir()
    target.write_bytes(raw.read_bytes())
    index_path(target).write_bytes(index_path(raw).read_bytes())
    inode = target.stat().st_ino
    mounted.look(2)
    assert target.stat().st_ino == inode
    assert mounted.told.states()[raw.name] == "whole"
    assert mounted.copier.counts["copied"] == 0


def test_no_room_leaves_all_on_the_das_host(mounted: Bench) -> None:
    mounted.record()
    mounted.copier.close()
    mounted.copier = mounted.new(stop_bytes=1 << 60)
    with pytest.raises(StorageError, match="MB needed"):
        mounted.look()
    assert not list(mounted.root.glob("*/*"))
    assert mounted.copier.waiting == {MINUTE0_NS}


def test_our_root_that_vanishes_is_told_and_found_again(mounted: Bench) -> None:
    mounted.record()
    away = mounted.root.with_name("away")
    mounted.root.rename(away)
    with pytest.raises(StorageError, match="stay on the DAS host"):
        mounted.look()
    assert not mounted.root.exists()
    away.rename(mounted.root)
    mounted.look()
    mounted.same()


def test_hidden_and_strange_names_are_left(mounted: Bench) -> None:
    raw = mounted.record()
    (raw.parent / ".raw_growing.tmp").write_text("x")
    (raw.parent / "-rf").write_text("x")
    (raw.parent / "link").symlink_to("/etc/passwd")
    (raw.parent / "folder").mkdir()
    for path in raw.parent.iterdir():
        os.utime(path, (1, 1), follow_symlinks=False)
    mounted.look()
    assert sorted(p.name for p in (mounted.root / DAY).iterdir()) == [
        raw.name, index_path(raw).name
    ]  # fmt: skip


def test_it_looks_often_while_a_minute_is_expected_and_seldom_when_all_is_here(
    mounted: Bench,
) -> None:
    mounted.record()
    assert mounted.look() == pytest.approx(5.0)
    mounted.clock.advance(MINUTE0_NS / S + 120.5 - mounted.clock.now_ns() / S)
    assert mounted.copier.tick() == pytest.approx(1.0), "the next minute has just closed"
    mounted.record(MINUTE0_NS + MINUTE_NS, serial=1)
    assert mounted.copier.tick() > 1.0
    assert mounted.copier.last_lag_s == pytest.approx(0.5)


def test_midnight(tmp_path: Path) -> None:
    last = minute_start_ns("20251231", 1439)
    bench = Bench(tmp_path)
    bench.clock.advance((last - bench.clock.now_ns()) / S + 62)
    bench.record(last)
    bench.record(last + MINUTE_NS, serial=1)
    bench.look()
    bench.same()
    assert {p.parent.name for p in bench.root.glob("*/*.bin")} == {"20251231", "20260101"}
    bench.copier.close()
    bench.ledger.close()


def test_a_mount_that_hangs_is_told(mounted: Bench) -> None:
    mounted.record()
    mounted.look()
    reader = mounted.source.reader
    pid, patient_s = reader.pid, reader.limit_s
    reader.limit_s = 0.3
    freeze(pid)
    with pytest.raises(StorageError, match="does the mount hang"):
        mounted.look()
    reader.limit_s = patient_s
    eventually(lambda: not Path(f"/proc/{pid}").exists(), what="the stuck reader is gone")
    mounted.record(MINUTE0_NS + MINUTE_NS, serial=1)
    mounted.look()
    mounted.same()


def test_what_is_wrong_with_ssh_is_said(tmp_path: Path, sshd: Sshd, free_port: int) -> None:
    to = sshd.destination(tmp_path)
    config: dict[str, Any] = {
        "host": "127.0.0.1", "folder": tmp_path, "port": to["port"], "limit_s": 5,
        "identity": Path(to["identity"]), "ssh_options": tuple(to["ssh_options"]),
    }  # fmt: skip

    def fails(text: str, **changes: Any) -> None:
        with pytest.raises(NightjarError, match=text):
            RsyncHost(SshDas(**(config | changes))).scan(DAY)

    fails("no sshd listens there", port=free_port)
    fails("does not accept our key", identity=sshd.receipt_key)
    fails("the folder is not there", folder=tmp_path / "nowhere")
    hosts = tmp_path / "hosts"
    hosts.write_text("")
    options = [word.replace(str(sshd.known_hosts), str(hosts)) for word in to["ssh_options"]]
    fails("host key is not known", ssh_options=tuple(options))


def test_an_ssh_that_hangs_is_ended(tmp_path: Path, sshd: Sshd) -> None:
    to = sshd.destination(tmp_path)
    hanging = ("-o", "ProxyCommand=sleep 600", *to["ssh_options"])
    host = RsyncHost(SshDas(host="127.0.0.1", folder=tmp_path, limit_s=1, ssh_options=hanging))
    with pytest.raises((NightjarError, Unreachable), match=r"nothing was heard|timed out|answer"):
        host.scan(DAY)


def test_close_ends_a_copy_under_way(tmp_path: Path) -> None:
    host = RsyncHost(SshDas(
        host="127.0.0.1", folder=tmp_path, ssh_options=("-o", "ProxyCommand=sleep 600")
    ))  # fmt: skip
    host.close()
    with pytest.raises(NightjarError, match="ended"):
        host.scan(DAY)
