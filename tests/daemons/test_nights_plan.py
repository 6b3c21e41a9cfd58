# SPDX-License-Identifier: BSD-3-Clause
"""Plans: where products begin and end, odd frames, odd files; nights of every form go through."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.archive_frames import empty_database, make_frame
from kit.night_crash import Inline
from kit.nights import NightBench, files_of, product_tags, products_of
from kit.plan_cases import BEGIN_NS, check_plan, config_of, cut, raw_file
from kit.tiny_nights import DATE, RAW, bench_of, make_tiny
from nightjar.errors import Refused, StorageError
from nightjar.executor.choosing import ExecutorConfig
from nightjar.fits.cards import CARD_BYTES
from nightjar.fits.compressed_cube import CompressedCube, TilePool
from nightjar.fits.frame_table import read_table
from nightjar.fits.hdus import read_headers
from nightjar.fits.header import read_header
from nightjar.fits.tile_file import TileLayout
from nightjar.fits.tile_reader import read_frames
from nightjar.times import NS_PER_S
from nightjard.archived.nights import engine
from nightjard.archived.nights.dictionary.table import is_structural
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.records import Kind, Reason
from nightjard.archived.nights.scan import RawFile, Unreadable, look
from nightjard.archived.nights.steps.room import kept_bytes, task_bytes
from nightjard.archived.nights.writing import KEPT_BYTES
from nightjard.simulators.night import damage
from nightjard.simulators.night.triggers import CameraTiming, TriggerSegment, simulate_segment
from nightjard.simulators.night.truth import NightTruth

PERIOD_NS = 2_956_000


def opened(base: Path, **changes: Any) -> NightBench:
    """Return a bench on ``base/raw`` whose tasks run in this process."""
    (base / "archive.db").write_bytes(empty_database())
    return opened_again(base, **changes)


def opened_again(base: Path, **changes: Any) -> NightBench:
    bench = bench_of(base / "raw", f"sqlite:///{base / 'archive.db'}", **changes)
    bench.tools = engine.Tools(**{**vars(bench.tools), "executor": Inline})
    bench.engine = engine.Engine(bench.tools)
    return bench


def plan_of(bench: NightBench, folder: Path) -> Plan:
    name = bench.night(folder)["plan_hash"]
    assert name is not None
    return Plan.load(folder, name)


def pair(
    triggers: int, cubes: Sequence[Sequence[int]] = ((1000,), (1000,)), *,
    timings: tuple[CameraTiming, ...] = (CameraTiming(), CameraTiming(offset_us=150.0)),
    exposure_s: float = 0.001, seed: int = 3, **cards: Any,
) -> list[RawFile | Unreadable]:  # fmt: skip
    """Return the cubes of two cameras on one trigger."""
    segment = TriggerSegment(
        BEGIN_NS, exposure_s, 536, timings, triggers=triggers, has_flc=True
    )
    truth = simulate_segment(segment, np.random.default_rng(seed))
    found: list[RawFile | Unreadable] = []
    for number, camera in enumerate(truth.cameras):
        stream = f"vcam{number + 1}"
        found += cut(stream, camera.acquired_ns.tolist(), camera.counter.tolist(), cubes[number],
                     EXPTIME=exposure_s, **cards)  # fmt: skip
    return found


# --- chunks ------------------------------------------------------------------------------------


def test_a_new_target_or_filter_begins_a_new_product_for_both_cameras() -> None:
    files = pair(60, ((20,), (20,)))
    files = [
        raw_file(
            each.ref.stream, int(each.ref.path[-11:-5]), each.timing.acquired_ns.tolist(),
            counters=each.timing.counter.tolist(), **change,
        )
        for each in files if isinstance(each, RawFile)
        for change in [{"00000": {}, "00020": {"OBJECT": "FLAT"},
                        "00040": {"OBJECT": "FLAT", "FILTER01": "Halpha"}}[each.ref.path[-10:-5]]]
    ]  # fmt: skip
    plan = check_plan(files, config_of())
    groups = {product.group for product in plan.products if product.kind is Kind.SYNC}
    assert len(groups) == 3
    one = check_plan(files, config_of(chunks={"break_keys": ["EXPTIME"]}))
    assert len({product.group for product in one.products if product.kind is Kind.SYNC}) == 1


@pytest.mark.parametrize(("seconds", "exposure_s"), [(0.05, 0.001), (0.5, 0.2), (0.1, 0.2)])
def test_chunks_are_as_long_as_they_may_be(seconds: float, exposure_s: float) -> None:
    plan = check_plan(pair(40, exposure_s=exposure_s), config_of(chunks={"seconds": seconds}))
    groups: dict[str, list[int]] = {}
    for product in plan.products:
        if product.kind is Kind.SYNC and product.camera == 1:
            groups.setdefault(product.group, []).extend(plan.rows_of(product)["MTIME"].tolist())
    assert len(groups) > 1
    chunks = sorted((min(times), max(times), len(times)) for times in groups.values())
    for (first, last, count), (after, _, _) in itertools.pairwise(chunks):
        assert last - first < seconds * NS_PER_S or count == 1
        assert after - first >= seconds * NS_PER_S  # no shorter than need be


def test_a_pause_begins_a_new_product() -> None:
    timings = (CameraTiming(), CameraTiming())
    segment = TriggerSegment(
        BEGIN_NS, 0.001, 536, timings, triggers=40, has_flc=True, pauses=((20, 4.0),)
    )
    truth = simulate_segment(segment, np.random.default_rng(1))
    files = [
        each for number, camera in enumerate(truth.cameras)
        for each in cut(f"vcam{number + 1}", camera.acquired_ns.tolist(),
                        camera.counter.tolist(), (100,))
    ]  # fmt: skip
    for gap_s, groups in ((3.0, 2), (5.0, 1)):
        plan = check_plan(files, config_of(chunks={"gap_seconds": gap_s}))
        found = {product.group for product in plan.products if product.kind is Kind.SYNC}
        assert len(found) == groups


@pytest.mark.parametrize("triggers", [2, 3, 5, 24, 25, 26, 99, 100])
def test_states_are_right_at_every_length_and_none_is_left_out(triggers: int) -> None:
    """The reference inverts short chunks, and drops states and the odd frame of one frame."""
    segment = TriggerSegment(
        BEGIN_NS, 0.001, 536, (CameraTiming(), CameraTiming(offset_us=150.0)), triggers=triggers,
        has_flc=True,
    )  # fmt: skip
    truth = simulate_segment(segment, np.random.default_rng(triggers))
    files = [
        each for number, camera in enumerate(truth.cameras)
        for each in cut(f"vcam{number + 1}", camera.acquired_ns.tolist(),
                        camera.counter.tolist(), (7,))
    ]  # fmt: skip
    plan = check_plan(files, config_of())
    assert sum(product.frames for product in plan.products) == 2 * triggers
    state_of = {
        (number, int(camera.counter[at])): int(camera.state[at])
        for number, camera in enumerate(truth.cameras, start=1)
        for at in range(len(camera.counter))
    }
    labelled = wrong = 0
    for product in plan.products:
        for row in plan.rows_of(product):
            state = state_of[int(product.stream[-1]), int(row["CNT0"])]
            labelled += product.state in ("A", "B")
            wrong += product.state in ("A", "B") and {"A": 1, "B": -1}[product.state] != state
    assert wrong == 0
    assert labelled == 2 * triggers or triggers < 5


def test_names_that_collide_are_told_apart() -> None:
    files: list[RawFile | Unreadable] = []
    for stream in ("other", "vcam1", "vcam2"):
        for name in ("x", "x-2"):
            each = raw_file(stream, 1, [BEGIN_NS], is_single=True)
            files.append(_named(each, f"{stream}/{name}.fits"))
    plan = check_plan(files, config_of())
    assert sorted(product.name for product in plan.products) == [
        "x", "x-2", "x-2-2", "x-2-3", "x-3", "x-4"
    ]  # fmt: skip


def _named(each: RawFile, path: str) -> RawFile:
    return replace(each, ref=replace(each.ref, path=path))


# --- files that make no sense ------------------------------------------------------------------


@pytest.mark.parametrize(("keyword", "value", "text"), [
    ("NAXIS1", "'wide'", "impossible"), ("NAXIS1", "-5", "impossible"),
    ("NAXIS", "9999", "impossible"), ("BITPIX", "17", "impossible"), ("BZERO", "7", "no product"),
    ("BZERO", "'x'", "makes no sense"), ("SIMPLE", "F", ""), ("NAXIS3", "2.5", "impossible"),
])  # fmt: skip
def test_a_header_that_makes_no_sense_costs_one_file(
    tmp_path: Path, keyword: str, value: str, text: str
) -> None:
    truth = make_tiny(tmp_path / "raw")
    cube = sorted((truth.folder / "vcam1").glob("*.fits"))[0]
    _set_card(cube, keyword, value)
    found = look(truth.folder, "vcam1", cube)
    bench = opened(tmp_path)
    bench.run(truth.folder)
    plan = plan_of(bench, truth.folder)
    if text:
        assert isinstance(found, Unreadable)
        assert text in found.problem
        assert [line.text for line in plan.ledger] == [found.problem]
    assert len(products_of(truth.folder)) > 5
    bench.close()


def test_a_header_that_promises_everything(tmp_path: Path) -> None:
    truth = make_tiny(tmp_path / "raw")
    cube = sorted((truth.folder / "vcam1").glob("*.fits"))[-1]
    _set_card(cube, "NAXIS3", "2000000000")
    bench = opened(tmp_path)
    bench.run(truth.folder)
    found = truth.conservation(product_tags(path) for path in products_of(truth.folder))
    assert not len(found.missing)
    assert not len(found.doubled)
    plan = plan_of(bench, truth.folder)
    (note,) = [each for each in plan.notes[str(cube.relative_to(truth.folder))]
               if "2000000000" in each]  # fmt: skip
    assert "cannot be" in note
    bench.close()


def test_headers_of_noise_cost_nothing_but_their_file(tmp_path: Path) -> None:
    truth = make_tiny(tmp_path / "raw")
    cube = sorted((truth.folder / "vcam2").glob("*.fits"))[0]
    good = cube.read_bytes()
    rng = np.random.default_rng(11)
    end = read_header(cube).data_offset
    for _ in range(150):
        data = bytearray(good)
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(0, end if rng.random() < 0.5 else 640))] = int(rng.integers(256))
        cube.write_bytes(data[: int(rng.integers(1, len(data)))] if rng.random() < 0.3 else data)
        found = look(truth.folder, "vcam2", cube)
        if isinstance(found, RawFile):
            assert 0 <= found.ref.present <= found.ref.frames
            assert len(found.timing.acquired_ns) == found.ref.present
        check_plan([found], config_of())


def _set_card(cube: Path, keyword: str, value: str) -> None:
    data = bytearray(cube.read_bytes())
    for at in range(0, 2880 * 20, CARD_BYTES):
        if data[at : at + 8].rstrip() == keyword.encode():
            text = f"{keyword:8s}= {value if value[0] in chr(39) else value.rjust(20)}"
            data[at : at + CARD_BYTES] = text.ljust(CARD_BYTES).encode()
            cube.write_bytes(data)
            return
    raise AssertionError(keyword)


# --- nights of every form ----------------------------------------------------------------------


def tiled(night: Path) -> None:
    """Compress every cube tile by tile, as a logger with compression on leaves it."""
    for path in sorted(night.glob("vcam*/*.fits")):
        frames, rows = _pixels(path), read_table(path)
        pool = TilePool(frames.shape[1:], frames.dtype, 1)
        cards = [card for card in read_header(path).cards if not is_structural(card.keyword)]
        layout = TileLayout.make(frames.shape[1:], frames.dtype, len(frames), len(cards) + 20)
        cube = CompressedCube(path.with_name(f"{path.name}.fz"), layout, pool)
        for frame in frames:
            cube.append(frame)
        cube.complete(cards, rows, fsync=False)
        pool.stop()
        path.unlink()


@pytest.mark.parametrize("form", ["milk", "fitslogd", "tiles"])
def test_nights_of_every_form_go_through(tmp_path: Path, form: str) -> None:
    truth = make_tiny(tmp_path / "raw", form="milk" if form == "milk" else "fitslogd")
    if form == "tiles":
        tiled(truth.folder)
    raw = {name: files_of(truth.folder / name) for name in RAW}
    bench = opened(tmp_path)
    bench.run(truth.folder)
    assert {name: files_of(truth.folder / name) for name in RAW} == raw
    tags = {path: product_tags(path) for path in products_of(truth.folder)}
    assert truth.conservation(tags.values()).is_exact
    plan = plan_of(bench, truth.folder)
    assert all(cube.compressed == (form == "tiles") for cube in plan.cubes)
    paired = sum(product.frames for product in plan.products if product.kind is Kind.SYNC)
    assert paired == 2 * len(truth.pairs()[0])
    for path, each in tags.items():
        letter = read_headers(path)[1]["U_FLC"]
        if letter in ("A", "B"):
            assert (each["state"] == {"A": 1, "B": -1}[str(letter)]).all()
    # What each cube is known by was put together from its frames in products, and is right.
    assert all(row["content_hash"] for row in bench.store.cubes(bench.night(truth.folder)["id"]))
    bench.run(truth.folder, "sync", is_forced=True)
    assert set(bench.run(truth.folder).values()) == {"done before"}
    bench.close()


@pytest.mark.needs("fpack")
def test_a_cube_compressed_in_a_way_that_is_not_read_is_named_and_holds_up_nothing(
    tmp_path: Path
) -> None:
    truth = make_tiny(tmp_path / "raw")
    cube = sorted((truth.folder / "vcam1").glob("*.fits"))[0]
    subprocess.run(["fpack", "-h", "-D", "-Y", cube], check=True, capture_output=True)
    bench = opened(tmp_path)
    bench.run(truth.folder)
    (line,) = plan_of(bench, truth.folder).ledger
    assert line.path == f"vcam1/{cube.name}.fz"
    assert "compression HCOMPRESS_1 of BITPIX 16: not read here; use funpack" in line.text
    assert bench.night(truth.folder)["state"] == "verified"
    bench.close()


def test_single_frames_of_a_camera_go_through(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / DATE / "test"
    folder.mkdir(parents=True)
    pixels = {}
    for number in range(1, 5):
        frame = make_frame(folder, number, begin_ns=BEGIN_NS + number * NS_PER_S)
        path = folder / frame.filename
        pixels[path.stem] = _pixels(path)
    cutoff = folder / sorted(path.name for path in folder.iterdir())[0]
    cutoff.write_bytes(cutoff.read_bytes()[: read_header(cutoff).data_offset + 100])
    (folder / "notes.fits").write_text("no FITS")
    bench = opened(tmp_path, streams={"test": {"folder": "single", "code": "TSTA"}}, groups={})
    night = folder.parent
    bench.run(night)
    rows = bench.store.products(bench.night(night)["id"])
    assert [row["kind"] for row in rows] == ["single"] * 3
    assert [row["frame_id"] for row in rows] == [f"TSTA{n:08d}" for n in (1, 2, 3)]
    for row in rows:
        (found,) = list(read_frames(night / row["path"]))
        assert (found == pixels[row["name"]]).all()
        header = read_headers(night / row["path"])[1]
        assert header["FRAMEID"] == row["frame_id"]
        assert header["U_SYNC"] is False
    plan = plan_of(bench, night)
    assert {(line.path, line.reason) for line in plan.ledger} == {
        (f"test/{cutoff.name}", Reason.NOT_IN_FILE.name), ("test/notes.fits", "UNREADABLE")
    }  # fmt: skip
    bench.close()


def _pixels(path: Path) -> np.ndarray[Any, Any]:
    from astropy.io import fits

    with fits.open(path) as hdus:
        return np.array(hdus[0].data)


@pytest.mark.parametrize("name", ["txt-short", "txt-missing", "txt-no-acquisition"])
def test_a_cube_with_a_poor_text_is_kept_whole(tmp_path: Path, name: str) -> None:
    """The reference deletes a cube whose text is short by one line."""
    truth = make_tiny(tmp_path / "raw")
    cube = sorted((truth.folder / "vcam1").glob("*.fits"))[-1]
    damage.apply(truth.folder, name, np.random.default_rng(1), cube)
    bench = opened(tmp_path)
    bench.run(truth.folder)
    assert truth.conservation(
        product_tags(path) for path in products_of(truth.folder)
    ).is_exact  # fmt: skip
    plan = plan_of(bench, truth.folder)
    (ref,) = [each for each in plan.cubes if each.path == str(cube.relative_to(truth.folder))]
    reasons = np.unique(plan.rows["reason"][plan.rows["cube"] == ref.number]).tolist()
    if name == "txt-missing":
        assert reasons == [Reason.UNTIMED]
        assert "no timing file" in ref.problem
    elif name == "txt-short":
        assert Reason.UNTIMED in reasons  # the last frame alone
        assert (plan.rows["reason"] == Reason.UNTIMED).sum() == 1
    bench.close()


def test_files_that_came_uncompressed_are_compressed_and_stay_readable(tmp_path: Path) -> None:
    truth: NightTruth = make_tiny(tmp_path / "raw")
    bench = opened(tmp_path)
    bench.run(truth.folder)
    guest = truth.folder / "vgen2" / "guest.fits"
    shutil.copy(sorted((truth.folder / "vcam1").glob("*.fits"))[0], guest)
    wanted = _pixels(guest)
    bench.run(truth.folder)
    assert not guest.exists()
    found = np.stack(list(read_frames(guest.with_name("guest.fits.fz"))))
    assert (found == wanted).all()
    assert bench.night(truth.folder)["state"] == "verified"
    bench.close()


@pytest.mark.parametrize("compression", ["rice", "none"])
def test_products_that_are_proven_later(tmp_path: Path, compression: str) -> None:
    truth = make_tiny(tmp_path / "raw")
    bench = opened(tmp_path, verify="deferred", compression=compression)
    bench.run(truth.folder, "sync", "headers", "ids", "consolidate", "compress")
    rows = bench.store.products(bench.night(truth.folder)["id"])
    assert {row["state"] for row in rows} == {"written"}
    assert bench.night(truth.folder)["processed_ns"] is None
    with pytest.raises(Refused, match="step verify has not been done"):
        bench.run(truth.folder, "manifest")
    first = files_of(truth.folder / "vgen2")
    path = truth.folder / rows[2]["path"]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=f"1 of {len(rows)} products are damaged"):
        bench.run(truth.folder)
    bench.run(truth.folder)
    assert files_of(truth.folder / "vgen2") == first
    assert bench.night(truth.folder)["state"] == "verified"
    ending = ".fits.fz" if compression == "rice" else ".fits"
    assert all(name.endswith((ending, ".txt")) for name in first)
    bench.close()


@pytest.mark.parametrize(
    ("config", "kept"),
    [({}, KEPT_BYTES), ({"workers": 1}, KEPT_BYTES), ({"workers": 8}, 0),
     ({"workers": 8, "memory": 2_000_000_000}, 120_000_000),
     ({"scheduler": "tcp://127.0.0.1:8786"}, 70_000_000)],
)  # fmt: skip
def test_what_workers_keep_of_files_fits_the_memory(config: dict[str, Any], kept: int) -> None:
    executor = ExecutorConfig(**config)
    assert kept_bytes(executor) == kept
    if kept and executor.scheduler is None:  # none of them waits because of it
        assert executor.workers * task_bytes(kept) <= executor.memory


def test_a_family_without_ids_keeps_the_names_of_the_plan(tmp_path: Path) -> None:
    truth = make_tiny(tmp_path / "raw")
    families = {"archival": {"root": str(tmp_path / "raw"), "transfer": False}}
    bench = opened(tmp_path, families=families)
    bench.run(truth.folder)
    row = bench.night(truth.folder)
    assert row["state"] == "verified"
    rows = bench.store.products(row["id"])
    assert {each["path"] for each in rows} == {f"vgen2/{each['name']}.fits.fz" for each in rows}
    assert not list(truth.folder.glob("manifest*"))
    assert any(each["name"].startswith("vsync_05:00:03.") for each in rows)
    assert {each["name"].partition(".cam")[2] for each in rows if each["kind"] == "sync"} == {
        "1.A", "1.B", "2.A", "2.B"
    }  # fmt: skip
    for each in rows:
        assert "FRAMEID" not in read_headers(truth.folder / each["path"])[1]
    # With another form of the files all of them are made anew, and nothing is lost on the way.
    later = opened_again(tmp_path, families=families, compression="none")
    later.run(truth.folder)
    names = sorted(path.name for path in (truth.folder / "vgen2").iterdir())
    assert names == sorted(f"{each['name']}.fits" for each in rows)
    assert len(list((truth.folder / "superseded").iterdir())) == len(rows)
    later.close()
    bench.close()
