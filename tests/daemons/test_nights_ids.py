# SPDX-License-Identifier: BSD-3-Clause
"""Frame IDs: their form, numbers without gaps, products in order of time, files on disk."""

from __future__ import annotations

import itertools
import json
import logging
import random
import subprocess
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from kit.archive_frames import empty_database
from nightjar.clock import ManualClock, SystemClock
from nightjar.errors import ConfigError, InvalidArgument, Refused, StorageError
from nightjar.files import rename_new
from nightjar.fits.compressed_cube import CompressedCube, TilePool
from nightjar.fits.frame_table import empty_rows
from nightjar.fits.header import Header, read_header
from nightjar.fits.tile_file import TileLayout
from nightjar.fits.verify import verify_image
from nightjar.fits.writer import write_image
from nightjar.times import NS_PER_S, iso, mjd_text, parse_iso
from nightjard.archived.database import Database
from nightjard.archived.nights.ids import (
    Assigned,
    FrameIds,
    Gen2Allocator,
    Item,
    LocalAllocator,
    check,
    exp_id,
    fix,
    frame_id,
    parse,
    parse_file_name,
    read_name_changes,
    write_name_changes,
)
from nightjard.archived.nights.ids.header import read_main_header, write_patched
from nightjard.archived.nights.tables import frame_id as ids_table
from nightjard.archived.nights.tables import id_batch
from nightjard.simulators.gen2 import FrameIdService, Gen2Server, parse_faults

T0 = parse_iso("2025-06-03T06:00:00")
CLOCK = SystemClock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "archive.db").write_bytes(empty_database())
    made = Database(f"sqlite:///{tmp_path / 'archive.db'}")
    yield made
    made.close()


@pytest.fixture
def local(database: Database) -> FrameIds:
    return FrameIds(database, LocalAllocator(database, first=100), CLOCK)


@pytest.fixture
def gen2(tmp_path: Path) -> Iterator[Callable[..., Gen2Server]]:
    servers: list[tuple[Gen2Server, threading.Thread]] = []

    def start(faults: str = "") -> Gen2Server:
        service = FrameIdService(tmp_path / "gen2", first=425_189, faults=parse_faults(faults))
        server = Gen2Server(service)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.stop()
        thread.join(5)


def items(count: int, code: str = "VMPA", start: int = 0) -> list[Item]:
    return [Item(f"vsync_{n:04d}.cam1", code, T0 + n * NS_PER_S)
            for n in range(start, start + count)]  # fmt: skip


def numbers(assigned: dict[str, Assigned]) -> list[int]:
    return sorted(parse(one.frame_id)[1] for one in assigned.values())


# --- the form ----------------------------------------------------------------------------------


def test_the_form_of_an_id() -> None:
    assert frame_id("VMPA", 425189) == "VMPA00425189"
    assert parse("VMPA00425189") == ("VMPA", 425189)
    assert parse_file_name("VMPA00425189.fits.fz") == "VMPA00425189"
    assert parse_file_name("VMPA00425189.fits") == "VMPA00425189"
    assert parse_file_name("vsync_06:00:00.000000.cam1.fits") == ""
    for wrong in ("VMPA0042518", "vmpa00425189", "VMPA004251890", "VM1A0042518", "", "VMPA-425189"):
        with pytest.raises(InvalidArgument):
            parse(wrong)
    with pytest.raises(StorageError):
        frame_id("VMPA", 100_000_000)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("VMPA00425189", "VMPE00425189"),
        ("SCXC00000001", "SCXE00000001"),
        ("AAAA00000001", "AAAE00000001"),  # the first A would be the wrong one
        ("CXXC00000007", "CXXE00000007"),
        ("EXPE00000007", "EXPE00000007"),
    ],
)
def test_an_exposure_id_differs_in_the_fourth_character(given: str, expected: str) -> None:
    assert exp_id(given) == expected


# --- numbers from the database -----------------------------------------------------------------


def test_a_request_has_the_same_numbers_for_ever(database: Database) -> None:
    allocator = LocalAllocator(database, first=7)
    assert allocator.grant("VMPA", 3, "one") == [7, 8, 9]
    assert allocator.grant("VMPA", 2, "two") == [10, 11]
    assert allocator.grant("SCXB", 2, "three") == [7, 8]
    assert LocalAllocator(database, first=7).grant("VMPA", 3, "one") == [7, 8, 9]
    with pytest.raises(Refused, match="must not be changed"):
        allocator.grant("VMPA", 4, "one")
    assert allocator.grant("VMPA", 1, "four") == [12]


@pytest.mark.parametrize(("code", "count"), [("VMP", 1), ("vmpa", 1), ("VMPA", 0), ("VMPA", -1)])
def test_what_is_no_request_is_refused(database: Database, code: str, count: int) -> None:
    with pytest.raises(InvalidArgument):
        LocalAllocator(database).grant(code, count, "one")


def test_the_digits_run_out_loudly(database: Database) -> None:
    allocator = LocalAllocator(database, first=99_999_998)
    with pytest.raises(StorageError, match="all numbers"):
        allocator.grant("VMPA", 3, "three")
    assert allocator.grant("VMPA", 2, "two") == [99_999_998, 99_999_999]
    with pytest.raises(StorageError, match="all numbers"):
        allocator.grant("VMPA", 1, "one")


# --- products in order of time -----------------------------------------------------------------


def test_ids_follow_time_and_then_names(local: FrameIds) -> None:
    wanted = [
        Item("b", "VMPA", T0 + 5), Item("a", "VMPA", T0 + 5), Item("z", "VMPA", T0),
        Item("c", "VMPA", T0 + 9), Item("p", "SCXB", T0 + 7), Item("q", "SCXB", T0 + 6),
    ]  # fmt: skip
    shuffled = wanted[:]
    random.Random(1).shuffle(shuffled)
    found = local.assign("archival", "20250603", shuffled)
    assert found == {
        "z": Assigned("VMPA00000100", "VMPE00000100"),
        "a": Assigned("VMPA00000101", "VMPE00000101"),
        "b": Assigned("VMPA00000102", "VMPE00000102"),
        "c": Assigned("VMPA00000103", "VMPE00000103"),
        "q": Assigned("SCXB00000100", "SCXE00000100"),
        "p": Assigned("SCXB00000101", "SCXE00000101"),
    }
    assert local.assign("archival", "20250603", wanted) == found
    assert local.assigned("archival", "20250603") == found
    assert local.unused("archival", "20250603") == []


def test_later_items_get_new_ids_and_old_ones_keep_theirs(
    local: FrameIds, caplog: pytest.LogCaptureFixture
) -> None:
    first = local.assign("archival", "20250603", items(3, start=5))
    with caplog.at_level(logging.WARNING):
        more = local.assign("archival", "20250603", items(10))
    assert {name: more[name] for name in first} == first
    assert numbers(more) == list(range(100, 110))
    assert "come after later ones" in caplog.text


def test_an_older_night_is_refused_unless_it_is_allowed(local: FrameIds) -> None:
    local.assign("archival", "20250604", items(2))
    with pytest.raises(Refused, match="20250604 has frame IDs of VMPA from 00000100 on"):
        local.assign("archival", "20250603", items(3))
    assert local.assigned("archival", "20250603") == {}
    local.assign("archival", "20250603", items(1, "SCXB"))  # of another code
    assert numbers(local.assign("archival", "20250604", items(3))) == [100, 101, 102]
    older = local.assign("archival", "20250603", items(3, start=50), allow_older=True)
    assert numbers(older) == [103, 104, 105]
    # What it has it keeps, without any permission.
    assert local.assign("archival", "20250603", items(3, start=50)) == older


def test_withdrawn_products_get_their_ids_back_and_nobody_else_does(local: FrameIds) -> None:
    first = local.assign("archival", "20250603", items(4))
    names = list(first)
    assert local.withdraw("archival", "20250603", [*names[:2], "never"]) == {
        name: first[name] for name in names[:2]
    }
    other = local.assign("archival", "20250605", items(2))
    assert not set(numbers(other)) & set(numbers(first))
    assert local.assign("archival", "20250603", items(4)) == first


def test_wrong_items_are_refused(local: FrameIds) -> None:
    with pytest.raises(InvalidArgument, match="two products"):
        local.assign("archival", "20250603", [*items(1), *items(1)])
    with pytest.raises(InvalidArgument, match="no night"):
        local.assign("../x", "20250603", items(1))
    with pytest.raises(InvalidArgument, match="no night"):
        local.assign("archival", "2025", items(1))
    local.assign("archival", "20250603", items(1))
    with pytest.raises(InvalidArgument, match="give its stream the code VMPA again"):
        local.assign("archival", "20250603", items(1, "SCXB"))
    assert local.assign("archival", "20250603", []) == {}


def test_adopted_ids_are_given_to_nobody_else(local: FrameIds) -> None:
    given = {item: frame_id("VMPA", 500 - n) for n, item in enumerate(items(3))}
    local.adopt("archival", "20250601", given)
    local.adopt("archival", "20250601", given)
    assert local.assigned("archival", "20250601")["vsync_0000.cam1"].frame_id == "VMPA00000500"
    assert numbers(local.assign("archival", "20250603", items(2))) == [501, 502]
    with pytest.raises(Refused, match="given before"):
        local.adopt("archival", "20250602", {items(1)[0]: "VMPA00000501"})
    with pytest.raises(Refused, match="has VMPA00000500, not VMPA00000777"):
        local.adopt("archival", "20250601", {items(1)[0]: "VMPA00000777"})


def test_gaps_are_told(local: FrameIds) -> None:
    assert local.gaps("VMPA") == []
    given = {one: frame_id("VMPA", n) for one, n in zip(items(5), (3, 4, 6, 9, 10), strict=True)}
    local.adopt("archival", "20250601", given)
    local.assign("archival", "20250603", items(2))  # from 100 on
    assert local.gaps("VMPA") == [
        ("VMPA00000005", "VMPA00000005"), ("VMPA00000007", "VMPA00000008"),
        ("VMPA00000011", "VMPA00000099"),
    ]  # fmt: skip
    assert local.gaps("SCXB") == []


def test_ids_may_be_exchanged_and_nothing_else(local: FrameIds) -> None:
    found = local.assign("archival", "20250603", items(3))
    names = list(found)
    ids = [found[name].frame_id for name in names]
    rotated = dict(zip(names, [*ids[1:], ids[0]], strict=True))
    local.rebind("archival", "20250603", rotated)
    now = local.assigned("archival", "20250603")
    assert {name: one.frame_id for name, one in now.items()} == rotated
    with pytest.raises(Refused, match="exchanged, not replaced"):
        local.rebind("archival", "20250603", {names[0]: "VMPA00000999"})


def test_ten_thousand_products_and_a_call_again(local: FrameIds) -> None:
    found = local.assign("archival", "20250603", items(10_000))
    assert [one.frame_id for one in found.values()] == [
        frame_id("VMPA", 100 + n) for n in range(10_000)
    ]
    assert local.assign("archival", "20250603", items(10_000)) == found


# --- numbers from the observatory --------------------------------------------------------------


def test_the_observatory_gives_numbers(
    database: Database, gen2: Callable[..., Gen2Server]
) -> None:
    server = gen2()
    ids = FrameIds(database, Gen2Allocator(server.url, 5, CLOCK), CLOCK)
    found = ids.assign("archival", "20250603", [*items(3), Item("p", "SCXB", T0)])
    assert [one.frame_id for one in found.values()] == [
        "SCXB00425189", "VMPA00425189", "VMPA00425190", "VMPA00425191",
    ]  # fmt: skip
    assert ids.assign("archival", "20250603", [*items(3), Item("p", "SCXB", T0)]) == found
    truth = [json.loads(line) for line in server.service._truth.read_text().splitlines()]
    assert len(truth) == 2
    with database.read() as connection:
        rows = connection.execute(sa.select(id_batch.c.state, id_batch.c.allocator)).all()
    assert set(rows) == {("granted", "gen2")}


@pytest.mark.parametrize("text", ["late@1", "stale@x", "stale@x%", "@2"])
def test_a_fault_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is no fault"):
        parse_faults(text)


def test_the_simulated_service_knows_instruments_and_remembers(
    gen2: Callable[..., Gen2Server], tmp_path: Path
) -> None:
    server = gen2()
    with xmlrpc.client.ServerProxy(server.url) as service:
        assert service.get_frames(31, "A", 1, "one") == {
            "request": "one", "frames": ["VMPA00425189"],
        }  # fmt: skip
        assert service.get_frames("VMP", "A", 1, "one") == service.get_frames(31, "A", 1, "one")
        two = service.get_frames(16, "B", 2, "two")
        assert two == {"request": "two", "frames": ["SCXB00425189", "SCXB00425190"]}
        for wrong in ((99, "A", 1, "x"), ("VMP", "a", 1, "x"), ("VMP", "A", 0, "x"),
                      ("VMP", "A", 3, "one")):  # fmt: skip
            with pytest.raises(xmlrpc.client.Fault):
                service.get_frames(*wrong)
    with pytest.raises(Refused, match="was for 1 of VMPA"):
        Gen2Allocator(server.url).grant("VMPA", 3, "one")
    again = FrameIdService(tmp_path / "gen2", first=1)
    assert again.get_frames(31, "A", 1, "one")["frames"] == ["VMPA00425189"]
    assert again.get_frames(31, "A", 1, "three")["frames"] == ["VMPA00425190"]


def test_faults_by_chance_come_as_often_as_asked_and_the_same_again(tmp_path: Path) -> None:
    def told(folder: Path) -> list[int]:
        service = FrameIdService(folder, faults=parse_faults("short@30%"), seed=5)
        return [len(service.get_frames("VMP", "A", 3, f"r{n}")["frames"]) for n in range(60)]

    first = told(tmp_path / "a")
    assert first == told(tmp_path / "b")
    assert 8 <= first.count(2) <= 30


@pytest.mark.parametrize("url", ["https://x:1/", "http://x/", "x:1", "http://x:notaport/", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Gen2Allocator(url)


# --- files on disk -----------------------------------------------------------------------------


def make(
    folder: Path, name: str, start_ns: int, frame: str = "", exp: str | None = None, *,
    fz: bool = False, spare: int = 0, frames: int = 2,
) -> Path:  # fmt: skip
    """Write a product, its pixels a function of its start; compressed by the real program."""
    folder.mkdir(exist_ok=True)
    header = Header()
    date, _, time = iso(start_ns, 3).partition("T")
    header.add("DATE-OBS", date, "UT date")
    header.add("UT-STR", time, "start")
    header.add("MJD-STR", float(mjd_text(start_ns)), "start")
    header.add("OBJECT", "HD 1234")
    if frame:
        header.add("FRAMEID", frame, "Image sequential number")
        header.add("EXP-ID", exp if exp is not None else exp_id(frame), "Exposure")
    for number in range(spare):
        header.add(f"SPARE{number}", number)
    path = folder / f"{name}.fits"
    write_image(path, pixels(start_ns, frames), header)
    if fz:
        subprocess.run(["fpack", "-r", "-D", "-Y", str(path)], check=True, capture_output=True)
        path = folder / f"{name}.fits.fz"
    (folder / f"{name}.txt").write_text(f"times of {start_ns}\n")
    return path


def pixels(start_ns: int, frames: int = 2) -> np.ndarray:
    return np.random.default_rng(start_ns).integers(190, 260, (frames, 24, 32)).astype(np.uint16)


def start_by_pixels(path: Path, starts: list[int]) -> int:
    """Tell which product a file is by its pixels."""
    from astropy.io import fits

    with fits.open(path, checksum=False) as hdus:
        data = hdus[1 if path.name.endswith(".fz") else 0].data
        for start in starts:
            if np.array_equal(data, pixels(start, len(data))):
                return start
    raise AssertionError(f"{path} has strange pixels")


def ids_of(count: int) -> list[str]:
    return [frame_id("VMPA", 500 + n) for n in range(count)]


def assert_in_order(folder: Path, starts: list[int], end: str = ".fits") -> None:
    """Every product stands under the ID of its place in time, with its sidecar, all sums right."""
    for number, start in enumerate(sorted(starts)):
        name = ids_of(len(starts))[number]
        path = folder / f"{name}{end}"
        assert start_by_pixels(path, starts) == start
        header = read_main_header(path, ("FRAMEID", "EXP-ID"))
        assert header["FRAMEID"] == name
        assert header["EXP-ID"] == exp_id(name)
        assert (folder / f"{name}.txt").read_text() == f"times of {start}\n"
        found = verify_image(path, checksums_required=False)
        assert found.problems == ()
    assert all(row.problem == "" for row in check([folder]))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.needs("fpack", "fitsverify")
@pytest.mark.parametrize("is_fz", [False, True])
def test_a_permutation_is_put_right(tmp_path: Path, is_fz: bool) -> None:
    """A cycle, a swap and a fixed point: no rename may meet a file that is still there."""
    folder = tmp_path / "vgen2"
    order = [2, 0, 1, 4, 3, 5]
    starts = [T0 + n * NS_PER_S for n in order]
    ids = ids_of(6)
    for one, start in zip(ids, starts, strict=True):
        make(folder, one, start, one, fz=is_fz)
    old_names = [(f"old{n}.fits", f"{one}.fits") for n, one in zip(order, ids, strict=True)]
    write_name_changes(folder, old_names)
    end = ".fits.fz" if is_fz else ".fits"
    before = check([folder])
    assert [row.problem != "" for row in before] == [True, True, True, True, True, False]
    assert [row.expected for row in before] == ids
    planned = fix([folder], dry_run=True)
    assert check([folder]) == before
    done = fix([folder / f"{one}{end}" for one in ids])
    assert done == planned
    assert len(done) == 5
    assert_in_order(folder, starts, end)
    assert read_name_changes(folder) == [(f"old{n}.fits", f"{ids[n]}.fits") for n in order]
    for one in ids:
        assert " 0 error(s)" in subprocess.run(
            ["fitsverify", str(folder / f"{one}{end}")], capture_output=True, text=True, check=True
        ).stdout  # fmt: skip
    assert fix([folder]) == []


@pytest.mark.needs("fpack", "funpack", "fitsverify")
def test_a_compressed_file_unpacks_to_one_whose_sums_are_right(tmp_path: Path) -> None:
    ids = ids_of(2)
    for one, start in zip(ids, (T0 + NS_PER_S, T0), strict=True):
        make(tmp_path, one, start, one, fz=True)
    assert read_main_header(tmp_path / f"{ids[0]}.fits.fz", ["ZHECKSUM"]) != {}
    fix([tmp_path])
    for one in ids:
        subprocess.run(["funpack", str(tmp_path / f"{one}.fits.fz")], check=True)
        found = verify_image(tmp_path / f"{one}.fits")
        assert found.is_good, found.problems
        assert found.header is not None
        assert found.header["FRAMEID"] == one


@pytest.mark.needs("funpack", "fitsverify")
@pytest.mark.parametrize("capacity", [3, 400])
def test_a_product_of_our_own_writer(tmp_path: Path, capacity: int) -> None:
    """Compressed, with spare cards and a table behind: every sum right, also after funpack."""
    path = tmp_path / f"{ids_of(1)[0]}.fits.fz"
    frames = pixels(T0, 3)
    pool = TilePool(frames.shape[1:], "u2", 1)
    try:
        cube = CompressedCube(path, TileLayout.make(frames.shape[1:], "u2", capacity, 60), pool)
        rows = empty_rows(3)
        for number, frame in enumerate(frames):
            rows["DATASUM"][number] = cube.append(frame)
        header = Header()
        header.add("MJD-STR", float(mjd_text(T0)), "start")
        header.add("FRAMEID", "VMPA00000499", "Image sequential number")
        header.add("EXP-ID", "VMPE00000499")
        cube.complete(header.cards, rows)
    finally:
        pool.stop()
    good = ids_of(1)[0]
    copy = tmp_path / f"copy_{good}.fits.fz"
    write_patched(path, copy, {"FRAMEID": good, "EXP-ID": exp_id(good)})
    assert verify_image(copy).problems == ()
    told = subprocess.run(["fitsverify", str(copy)], capture_output=True, text=True, check=True)
    assert "found 0 warning(s) and 0 error(s)" in told.stdout
    assert copy.stat().st_size == path.stat().st_size
    subprocess.run(["funpack", str(copy)], check=True)
    found = verify_image(copy.with_suffix(""))
    assert found.problems == ()
    assert found.header is not None
    assert (found.header["FRAMEID"], found.header["EXP-ID"]) == (good, exp_id(good))


def test_an_interrupted_naming_is_finished(tmp_path: Path) -> None:
    """The old program dies between header and rename; it would give the file another ID."""
    ids = ids_of(3)
    starts = [T0 + n * NS_PER_S for n in range(3)]
    make(tmp_path, ids[0], starts[0], ids[0])
    make(tmp_path, "vsync_06:00:01.000000.cam1.A", starts[1], ids[1])
    make(tmp_path, ids[2], starts[2], ids[2], exp=ids[2].replace("M", "E"))
    rows = check([tmp_path])
    assert [row.problem for row in rows] == [
        "", f"the name is not {ids[1]}",
        f"EXP-ID is VEPA00000502, not {exp_id(ids[2])}",
    ]  # fmt: skip
    assert [row.ut for row in rows] == [iso(start, 3) for start in starts]
    fix([tmp_path])
    assert_in_order(tmp_path, starts)
    old = "vsync_06:00:01.000000.cam1.A.fits"
    assert read_name_changes(tmp_path) == [(old, f"{ids[1]}.fits")]


@pytest.mark.parametrize("spare", [0, 20, 24, 25, 26, 27, 28])
def test_cards_are_added_where_they_are_missing(tmp_path: Path, spare: int) -> None:
    """Whatever room the header has; the name alone has the ID."""
    (one,) = ids_of(1)
    path = make(tmp_path, one, T0, spare=spare)
    assert "no FRAMEID" in check([path])[0].problem
    fix([path])
    assert_in_order(tmp_path, [T0])
    assert read_header(path)["OBJECT"] == "HD 1234"


def test_other_bytes_stay_as_they_are(tmp_path: Path) -> None:
    (one,) = ids_of(1)
    path = make(tmp_path, one, T0, "VMPA00000499")
    before = path.read_bytes()
    copy = tmp_path / "copy.fits"
    write_patched(path, copy, {"FRAMEID": one, "EXP-ID": exp_id(one)})
    after = copy.read_bytes()
    different = {
        before[at : at + 8].rstrip()
        for at in range(0, len(before), 80)
        if before[at : at + 80] != after[at : at + 80]
    }
    assert len(after) == len(before)
    assert different == {b"FRAMEID", b"EXP-ID", b"CHECKSUM"}
    assert path.read_bytes() == before


def test_damage_is_not_blessed_with_a_new_sum(tmp_path: Path) -> None:
    ids = ids_of(2)
    paths = [make(tmp_path, one, start, one)
             for one, start in zip(ids, (T0 + NS_PER_S, T0), strict=True)]  # fmt: skip
    damaged = bytearray(paths[1].read_bytes())
    damaged[-2000] ^= 4
    paths[1].write_bytes(damaged)
    names = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(Refused, match=rf"{ids[1]}\.fits: DATASUM does not agree"):
        fix([tmp_path])
    assert paths[1].read_bytes() == damaged
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with pytest.raises(Refused, match="fetch a good copy first"):
        write_patched(paths[1], tmp_path / "copy.fits", {"FRAMEID": ids[0]})
    damaged[-2000] ^= 4
    paths[1].write_bytes(damaged)
    (tmp_path / "copy.fits").unlink()
    fix([tmp_path])
    assert_in_order(tmp_path, [T0, T0 + NS_PER_S])


def test_doubled_ids_are_named_and_not_dealt_out(tmp_path: Path) -> None:
    """What a stale answer did: two files have one ID; by name they are different here."""
    ids = ids_of(3)
    starts = [T0 + n * NS_PER_S for n in range(3)]
    for one, start in zip(ids, starts, strict=True):
        make(tmp_path, one, start, ids[0])
    assert [row.expected for row in check([tmp_path])] == ids
    fix([tmp_path])
    assert_in_order(tmp_path, starts)
    make(tmp_path, "vsync_x", starts[0], ids[1])
    problems = {row.file.name: row.problem for row in check([tmp_path])}
    assert "is also that of" in problems["vsync_x.fits"]
    assert "is also that of" in problems[f"{ids[1]}.fits"]
    assert fix([tmp_path]) == []


def test_a_file_that_stays_is_never_overwritten(tmp_path: Path) -> None:
    ids = ids_of(2)
    path = make(tmp_path, "vsync_a", T0, ids[0])
    stranger = tmp_path / f"{ids[0]}.fits"
    stranger.write_bytes(b"precious")
    with pytest.raises(Refused, match="there is such a file and it stays"):
        fix([path])
    assert stranger.read_bytes() == b"precious"
    stranger.unlink()
    (tmp_path / f"{ids[0]}.txt").write_text("also precious")
    with pytest.raises(Refused, match="there is such a file and it stays"):
        fix([path])
    assert path.exists()
    assert (tmp_path / "vsync_a.txt").read_text() == f"times of {T0}\n"


def test_sidecars_go_with_their_own_file(tmp_path: Path) -> None:
    """The name of one product may be the beginning of another's."""
    ids = ids_of(3)
    starts = [T0 + n * NS_PER_S for n in range(3)]
    make(tmp_path, "vsync_x.cam1", starts[0], ids[0])
    make(tmp_path, "vsync_x.cam1.A", starts[2], ids[1])
    make(tmp_path, "vsync_x.cam10", starts[1], ids[2])
    (tmp_path / "vsync_x.cam1.A.json").write_text("{}")
    (tmp_path / "vsync_x.txt").write_text("nobody's")
    fix([tmp_path])
    assert_in_order(tmp_path, starts)
    assert (tmp_path / f"{ids[2]}.json").exists()
    assert (tmp_path / "vsync_x.txt").exists()


def test_what_belongs_to_two_files_and_what_is_none_is_refused(tmp_path: Path) -> None:
    ids = ids_of(2)
    make(tmp_path, "vsync_a", T0, ids[0], fz=True)
    make(tmp_path, "vsync_a", T0 + 9, ids[1])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Refused, match=r"vsync_a\.txt goes with two files"):
        fix([tmp_path])
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "vsync_a.fits").rename(tmp_path / "elsewhere")
    (tmp_path / "vsync_a.fits").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="not a plain file"):
        fix([tmp_path / "vsync_a.fits"])


@pytest.mark.needs("fpack")
@pytest.mark.parametrize("seed", range(12))
def test_whatever_state_a_folder_is_in_nothing_is_lost(tmp_path: Path, seed: int) -> None:
    """Headers and names with or without IDs, both kinds of files, equal times; then all agree."""
    rng = random.Random(seed)
    count = rng.randrange(1, 7)
    ids = ids_of(count)
    shuffled = rng.sample(ids, count)
    starts = [T0 + n * NS_PER_S for n in range(count)]
    for number, one in enumerate(shuffled):
        where = rng.choice(["both", "header", "name"])
        make(
            tmp_path, f"vsync_{number}" if where == "header" else one, starts[number],
            "" if where == "name" else one, rng.choice([None, "", "VMPE00000001"]),
            fz=rng.random() < 0.5 and where != "name",
        )  # fmt: skip
    fix([tmp_path])
    rows = check([tmp_path])
    assert [row.problem for row in rows] == [""] * count
    assert [row.frame_id for row in rows] == ids
    assert [start_by_pixels(row.file, starts) for row in rows] == starts
    for one, start in zip(ids, starts, strict=True):
        assert (tmp_path / f"{one}.txt").read_text() == f"times of {start}\n"
    assert fix([tmp_path]) == []


def test_strange_files_are_rows_with_a_problem(tmp_path: Path) -> None:
    ids = ids_of(4)
    make(tmp_path, ids[0], T0, ids[0])
    (tmp_path / f"{ids[1]}.fits").write_bytes(b"no FITS file")
    make(tmp_path, "vsync_b", T0 + 1)
    make(tmp_path, ids[2], T0 + 2, "VMP2", "x")
    rows = {row.file.name: row.problem for row in check([tmp_path])}
    assert rows[f"{ids[0]}.fits"] == ""
    assert "cannot be read" in rows[f"{ids[1]}.fits"]
    assert rows["vsync_b.fits"] == "no frame ID"
    assert "which is none" in rows[f"{ids[2]}.fits"]
    with pytest.raises(InvalidArgument, match="named twice"):
        check([tmp_path / "x.fits", tmp_path / "x.fits"])
    with pytest.raises(InvalidArgument, match=r"\.fits"):
        check([tmp_path / "x.txt"])


def test_the_same_id_in_two_folders_is_told(tmp_path: Path) -> None:
    (one,) = ids_of(1)
    make(tmp_path / "a", one, T0, one)
    make(tmp_path / "b", one, T0 + 9, one)
    rows = check([tmp_path / "a", tmp_path / "b"])
    assert ["also in" in row.problem for row in rows] == [True, True]


def test_all_permutations_of_four(tmp_path: Path) -> None:
    starts = [T0 + n * NS_PER_S for n in range(4)]
    ids = ids_of(4)
    good = tmp_path / "good"
    for one, start in zip(ids, starts, strict=True):
        make(good, one, start, one, frames=1)
    for number, order in enumerate(itertools.permutations(range(4))):
        if number % 5:
            continue
        folder = tmp_path / f"{number}"
        folder.mkdir()
        for at, one in enumerate(order):
            for end in (".fits", ".txt"):
                (folder / f"{ids[at]}{end}").write_bytes((good / f"{ids[one]}{end}").read_bytes())
        fix([folder])
        assert_in_order(folder, starts)


# --- the list of old names ---------------------------------------------------------------------


def test_the_list_of_old_names(tmp_path: Path) -> None:
    assert read_name_changes(tmp_path) == []
    path = write_name_changes(tmp_path, [("a.fits", "VMPA00000001.fits")])
    write_name_changes(tmp_path, [("a.fits", "VMPA00000001.fits"), ("b.fits", "VMPA00000002.fits")])
    assert path.read_bytes() == b"a.fits\tVMPA00000001.fits\nb.fits\tVMPA00000002.fits\n"
    with pytest.raises(Refused, match=r"was a\.fits and cannot have been c\.fits"):
        write_name_changes(tmp_path, [("c.fits", "VMPA00000001.fits")])
    path.write_text("a b c\n")
    with pytest.raises(StorageError, match="line 1 has not two columns"):
        read_name_changes(tmp_path)


def test_records_of_a_fix_are_kept(tmp_path: Path) -> None:
    ids = ids_of(2)
    for one, start in zip(ids, (T0 + NS_PER_S, T0), strict=True):
        make(tmp_path, one, start, one)
    fix([tmp_path], clock=ManualClock(T0))
    (record,) = tmp_path.glob("ids_fix_*.json")
    told = json.loads(record.read_text())
    assert record.name == "ids_fix_20250603T060000.000.json"
    assert [(one["old"], one["new"]) for one in told["entries"]][::2] == [
        (f"{ids[1]}.fits", f"{ids[0]}.fits"), (f"{ids[0]}.fits", f"{ids[1]}.fits"),
    ]  # fmt: skip
    rename_new(record, tmp_path / "elsewhere.json")


def test_rows_of_the_database_are_never_rewritten_by_a_repeated_call(
    database: Database, local: FrameIds
) -> None:
    local.assign("archival", "20250603", items(20))

    def everything() -> list[tuple[object, ...]]:
        with database.read() as connection:
            return [tuple(row) for table in (ids_table, id_batch)
                    for row in connection.execute(sa.select(table))]  # fmt: skip

    before = everything()
    local.assign("archival", "20250603", items(20))
    local.withdraw("archival", "20250603", [item.name for item in items(20)])
    assert everything() == before
