# SPDX-License-Identifier: BSD-3-Clause
"""Products: what is in them, that raw is read once and left alone, what hashes mean."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from blake3 import blake3

from kit.depth import soaked
from kit.product_night import CARDS, Night, big_endian, cards_text, frames_of
from nightjar.errors import InvalidArgument, StorageError
from nightjar.fits.cards import Card
from nightjar.fits.header import NotFits
from nightjard.archived.nights.writing import (
    ProductResult,
    ProductTask,
    cube_head,
    hash_cube,
    output,
    raw_hash,
    verify_product,
    write_product,
)

TESTS = Path(__file__).resolve().parents[1]
PICKS = [(0, index) for index in range(1, 12, 2)] + [(1, 4), (1, 5), (1, 6)] + [(2, 0), (2, 11)]


def make_night(folder: Path) -> Night:
    night = Night(folder)
    for seed, kind in enumerate(("milk", "logger", "tiles")):
        night.add(frames_of(seed, 12, (31, 47)), kind)
    return night


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return make_night(tmp_path / "20260101")


def path_of(task: dict[str, Any]) -> Path:
    return Path(task["night"]) / task["target"]


@pytest.mark.parametrize("compression", ["rice", "none"])
def test_a_product_holds_its_frames_and_where_they_are_from(night: Night, compression: str) -> None:
    task = night.task(PICKS, compression=compression)
    write_product(task)
    rows = night.rows(PICKS)
    with fits.open(path_of(task), checksum=True) as hdus:
        image, table = hdus[-2], hdus["FRAMES"]
        assert image.data.dtype == np.uint16
        assert np.array_equal(image.data, night.wanted(PICKS))
        for card in CARDS[:3]:
            assert image.header[card.keyword] == card.value
        assert image.header["U_LONG"].strip() == str(CARDS[-1].value).strip()
        columns = table.data
        for name in ("ATIME", "LTIME", "MTIME", "TRIGGER", "OFFSET", "SYNCCONF", "FLCCONF"):
            assert np.array_equal(columns[name], rows[name]), name
        for name in ("CNT0", "CNT1"):
            assert columns[name].dtype == np.uint64
            assert np.array_equal(columns[name], rows[name]), name
        assert np.array_equal(columns["STATE"], rows["STATE"])
        assert columns["FRAME"].tolist() == list(range(len(PICKS)))
        assert list(zip(columns["SRCCUBE"] - 1, columns["SRCIDX"], strict=True)) == PICKS


def test_cards_are_written_as_they_are_given(night: Night) -> None:
    odd = "MJD-OLD =       61234.12345679 / cut by another program".ljust(80)
    odd += "BAD     =                   1E5 / and aligned its own way".ljust(80)
    task = night.task(PICKS, cards=odd + cards_text())
    write_product(task)
    assert (odd + cards_text()).encode() in path_of(task).read_bytes()


def test_hashes_are_those_of_the_definition(night: Night) -> None:
    task = night.task(PICKS)
    result = ProductResult.from_json(write_product(task))
    digests = [blake3(data).digest() for data in big_endian(night.wanted(PICKS))]
    stored = np.load(Path(task["night"]) / task["hashes_file"])
    assert stored.dtype == np.uint8
    assert stored.tobytes() == b"".join(digests)
    assert result.payload_hash == blake3(b"".join(digests)).hexdigest()
    assert result.file_hash == blake3(path_of(task).read_bytes()).hexdigest()
    assert result.size == path_of(task).stat().st_size
    assert (result.frames, result.verified) == (len(PICKS), True)


def test_the_same_frames_make_the_same_bytes_however_raw_was_kept(tmp_path: Path) -> None:
    frames = frames_of(1, 9, (20, 33))
    made = set()
    for kind in ("milk", "logger", "tiles"):
        night = Night(tmp_path / kind)
        night.add(frames, kind)
        for verify, threads in (("inline", 1), ("deferred", 2)):
            task = night.task([(0, n) for n in (0, 1, 2, 5, 7)], name=verify, verify=verify)
            result = write_product(task, threads=threads)
            assert result["verified"] is (verify == "inline")
            assert verify_product(task, result) == []
            made.add(result["file_hash"])
    assert len(made) == 1


@pytest.mark.parametrize("compression", ["rice", "none"])
def test_again_changes_nothing(night: Night, compression: str) -> None:
    task = night.task(PICKS, compression=compression)
    first = write_product(task)
    files = {path: (path.stat(), path.read_bytes()) for path in night.folder.rglob("*.*")}
    again = write_product(task)
    assert again["was_there"]
    assert (again["file_hash"], again["payload_hash"]) == (
        first["file_hash"], first["payload_hash"]
    )  # fmt: skip
    for path, (status, data) in files.items():
        assert path.read_bytes() == data
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == (
            status.st_mtime_ns, status.st_ino
        )  # fmt: skip


def counted(night: Night, *, verify: str, **more: Any) -> tuple[int, int, list[dict[str, Any]]]:
    """Write two products of the frames of the first cube; return bytes read, written, results."""
    count = len(night.frames[0])
    states = [[(0, n) for n in range(count) if n % 2 == state] for state in (0, 1)]
    tasks = [night.task(picks, f"S{n}", verify=verify) for n, picks in enumerate(states)]
    start = bytes_through_calls()
    results = [write_product(task, **more) for task in tasks]
    read, written = (now - then for now, then in zip(bytes_through_calls(), start, strict=True))
    for result in results:
        data = (night.folder / result["path"]).read_bytes()
        assert result["file_hash"] == blake3(data).hexdigest()
    return read, written, results


def test_raw_is_read_once_and_left_alone(tmp_path: Path) -> None:
    night = Night(tmp_path / "night")
    path = night.add(frames_of(1, 30, (300, 400)))
    before = (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).digest())
    read, written, results = counted(night, verify="deferred")
    raw = path.stat().st_size
    products = sum(result["size"] for result in results)
    assert sum(result["bytes_read"] for result in results) <= raw
    assert raw * 0.99 < read < 1.1 * raw
    assert products <= written < 1.1 * products
    assert before == (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).digest())
    read, written, results = counted(night, verify="deferred")  # they are there: compared
    assert all(result["was_there"] for result in results)
    assert raw * 0.99 + products < read < 1.1 * raw + products
    assert written < 0.1 * products


def test_verified_inline_a_product_is_read_once(tmp_path: Path) -> None:
    night = Night(tmp_path / "night")
    raw = night.add(frames_of(1, 30, (300, 400))).stat().st_size
    read, _, results = counted(night, verify="inline")
    products = sum(result["size"] for result in results)
    assert sum(result["bytes_verified"] for result in results) == products
    assert raw * 0.99 + products < read < 1.1 * raw + products


@pytest.mark.parametrize("compression", ["rice", "none"])
@pytest.mark.parametrize("writes", [1000, 4096, 1 << 20])
def test_what_is_not_kept_is_read_back_for_the_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str, writes: int
) -> None:
    monkeypatch.setattr(output, "WRITE_BYTES", writes)
    night = Night(tmp_path / "night")
    night.add(frames_of(1, 12, (30, 40)))
    picks = [(0, n) for n in range(12)]
    made = []
    for kept in (0, 999, 5000, 12_000, 1 << 20):
        task = night.task(picks, f"K{kept}", compression, "deferred")
        result = write_product(task, kept_bytes=kept)
        data = (night.folder / result["path"]).read_bytes()
        assert result["file_hash"] == blake3(data).hexdigest()
        assert verify_product(task, result) == []
        head = len(data) - result["bytes_read_back"]
        assert head <= kept
        made.append(head)
    assert made[0] == 0
    assert made == sorted(made)
    assert result["bytes_read_back"] < 4 * 2880  # header and table of tiles


def bytes_through_calls() -> tuple[int, int]:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"]), int(lines["wchar"])


_MEMORY = """
import json, sys
from pathlib import Path
from nightjard.archived.nights.writing import verify_product, write_product
task = json.loads(sys.stdin.read())
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
Path("/proc/self/clear_refs").write_text("5")
before = peak()
result = write_product(task, kept_bytes=int(sys.argv[1]))
assert verify_product(task, result) == []
print(peak() - before, result["size"])
"""


@pytest.mark.parametrize(
    ("compression", "verify"), [("rice", "inline"), ("none", "deferred"), soaked("none", "inline")]
)
def test_memory_does_not_grow_with_the_cube(
    tmp_path: Path, compression: str, verify: str
) -> None:
    night = Night(tmp_path / "night")
    frames = np.zeros((100, 500, 1500), np.uint16)
    frames[:, ::50] = 7
    night.add(frames)
    task = night.task([(0, n) for n in range(100)], compression=compression, verify=verify)
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(20 << 20)], input=json.dumps(task), timeout=60,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    grown, _ = map(int, done.stdout.split())
    assert grown < 60e6 + (20 << 20 if verify == "deferred" else 0) < frames.nbytes * 0.6


@pytest.mark.parametrize("kind", ["milk", "logger", "tiles"])
def test_a_raw_cube_is_proven_by_the_hashes_of_its_products(tmp_path: Path, kind: str) -> None:
    night = Night(tmp_path / "night")
    path = night.add(frames_of(1, 12, (31, 47)), kind)
    hashes = np.zeros((12, 32), np.uint8)
    for state in (0, 1):
        picks = [(0, index) for index in range(12) if index % 2 == state]
        task = night.task(picks, name=f"S{state}")
        write_product(task)
        hashes[state::2] = np.load(Path(task["night"]) / task["hashes_file"])
    head, read, content = hash_cube(path)
    assert np.array_equal(read, hashes)
    assert raw_hash(head.head_hash, hashes, head.tail_hash) == content
    data = path.read_bytes()
    frames = b"".join(blake3(part).digest() for part in big_endian(night.frames[0]))
    parts = blake3(data[: head.data_offset]).digest() + frames
    parts += blake3(data[head.tail_offset :]).digest()
    assert content == blake3(parts).hexdigest()
    if kind != "tiles":
        assert head.tail_offset == head.data_offset + 12 * 31 * 47 * 2


def test_a_cube_that_was_cut_gives_the_frames_that_are_whole(tmp_path: Path) -> None:
    night = Night(tmp_path / "night")
    path = night.add(frames_of(1, 12, (31, 47)))
    whole, _, _ = hash_cube(path)
    path.write_bytes(path.read_bytes()[: whole.data_offset + 5 * 31 * 47 * 2 + 100])
    head, hashes, _ = hash_cube(path)
    assert (head.frames, head.present, len(hashes)) == (12, 5, 5)
    night.cubes[0] = vars(head.ref(0, night.cubes[0]["path"]))
    write_product(night.task([(0, index) for index in range(5)]))
    with pytest.raises(StorageError, match="has 5 frames"):
        write_product(night.task([(0, 5)], name="beyond"))


def test_what_is_no_cube_has_no_head(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    fits.PrimaryHDU().writeto(path)
    with pytest.raises(NotFits, match="no image"):
        cube_head(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": "/etc/a.fits.fz"}, "below the night"),
        ({"target": "../a.fits.fz"}, "below the night"),
        ({"hashes_file": "a/../../b.npy"}, "below the night"),
        ({"target": "vgen2/a.fits"}, r"end in \.fits\.fz"),
        ({"compression": "none"}, r"end in \.fits"),
        ({"compression": "best"}, "compression 'best'"),
        ({"verify": "never"}, "verify 'never'"),
        ({"stop": 3}, "rows 3 to 3"),
        ({"cubes": []}, "no raw cubes"),
        ({"cards": "A card"}, "lines of 80"),
        ({"cards": "Ä".ljust(80)}, "ASCII"),
        ({"cards": cards_text([Card("NAXIS1", 3)])}, "NAXIS1"),
        ({"cards": cards_text([Card("BZERO", 3)])}, "BZERO"),
        ({"cards": cards_text([Card("ZIMAGE", True)])}, "ZIMAGE"),
        ({"cards": cards_text([Card("OBJECT", "a"), Card("OBJECT", "b")])}, "twice"),
        ({"cards": "KEY     = not a value".ljust(80)}, "card 1"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(
    night: Night, change: dict[str, Any], said: str
) -> None:
    task = {**night.task(PICKS), **change}
    with pytest.raises(InvalidArgument, match=said):
        write_product(task)
    assert not (night.folder / "vgen2").exists()


def test_frames_of_unlike_kinds_do_not_mix(night: Night) -> None:
    night.add(frames_of(4, 3, (31, 48)))
    with pytest.raises(InvalidArgument, match="several kinds"):
        write_product(night.task([(0, 1), (3, 1)]))


@pytest.mark.parametrize("how", ["gone", "other", "cubes", "cut"])
def test_rows_that_are_not_the_plan_are_refused(night: Night, how: str) -> None:
    task = night.task(PICKS)
    rows_file = Path(task["rows_file"])
    if how == "gone":
        rows_file.unlink()
    elif how == "other":
        task["start"] -= 1
    elif how == "cubes":
        task["cubes"] = task["cubes"][1:]
    else:
        np.save(rows_file, np.load(rows_file)[:5])
    with pytest.raises(StorageError, match="plan the night again"):
        write_product(task)


def test_tasks_and_results_go_through_json(night: Night) -> None:
    task = night.task(PICKS)
    through = json.loads(json.dumps(task))
    assert ProductTask.from_json(through).to_json() == task
    result = write_product(through)
    again = ProductResult.from_json({**json.loads(json.dumps(result)), "else": 1})
    assert again.to_json() == result
    assert verify_product(through, dataclasses.asdict(again)) == []
