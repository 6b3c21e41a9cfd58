# SPDX-License-Identifier: BSD-3-Clause
"""Products when processes die, disks fill, bits flip and files change under the writer."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.depth import soaked
from kit.product_night import Night, frames_of
from kit.small_disk import prove
from nightjar.errors import StorageError
from nightjard.archived.nights.writing import (
    compress_file,
    cube_head,
    hash_cube,
    verify_product,
    write_product,
)
from nightjard.archived.nights.writing.raw import RawFrames

TESTS = Path(__file__).resolve().parents[1]
PICKS = [(0, index) for index in (0, 1, 2, 3, 5, 7, 8)]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    made = Night(tmp_path / "night")
    made.add(frames_of(1, 9, (31, 47)))
    return made


def path_of(task: dict[str, Any]) -> Path:
    return Path(task["night"]) / task["target"]


def products(night: Night) -> list[str]:
    return sorted(os.listdir(night.folder / "vgen2"))


@pytest.mark.parametrize("step", [4, soaked(1)])
def test_killed_at_system_calls_then_done_again(tmp_path: Path, step: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kit.product_crash", tmp_path, str(step)],
        cwd=TESTS, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == 3
    for report in reports:
        assert report["problems"] == [], report["name"]
        assert report["kills"] >= report["calls"] // step
        assert report["calls"] > 9


@pytest.mark.needs("unshare")
def test_a_real_disk_that_is_full_then_read_only(tmp_path: Path) -> None:
    prove("product_full_disk", tmp_path)


@pytest.mark.parametrize("limit", [1, 3000, 8000, 15000, 20000])
def test_a_file_that_cannot_grow_leaves_nothing(night: Night, limit: int) -> None:
    task = night.task(PICKS, compression="none")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            write_product(task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert products(night) == []
    assert verify_product(task, write_product(task)) == []


@pytest.mark.parametrize("compression", ["rice", "none"])
def test_every_flipped_bit_of_a_product_is_found(night: Night, compression: str) -> None:
    task = night.task(PICKS, compression=compression)
    result = write_product(task)
    path = path_of(task)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(5)
    # Everywhere: headers, fill, table of tiles, tiles, frame table, the very first and last byte.
    places = {0, len(data) - 1, *range(0, len(data), 1499), *rng.integers(0, len(data), 120)}
    with open(path, "r+b") as file:
        for place in sorted(places):
            flipped = data[place] ^ (1 << int(rng.integers(8)))
            os.pwrite(file.fileno(), bytes([flipped]), place)
            assert verify_product(task, result) != [], f"byte {place}"
            # Also by those who do not know what the file's hash should be.
            alone = verify_product(task, {**result, "file_hash": "", "size": 0})
            assert len(alone) > 2, f"byte {place}: only its hash told"
            os.pwrite(file.fileno(), data[place : place + 1], place)
    assert verify_product(task, result) == []


@pytest.mark.parametrize("compression", ["rice", "none"])
def test_products_that_are_cut_longer_or_gone_are_found(night: Night, compression: str) -> None:
    task = night.task(PICKS, compression=compression)
    result = write_product(task)
    path = path_of(task)
    data = path.read_bytes()
    for size in (0, 1, 2880, 5760, len(data) // 2, len(data) - 2880, len(data) - 1):
        path.write_bytes(data[:size])
        assert verify_product(task, result) != []
    path.write_bytes(data + bytes(2880))
    assert any("behind its end" in text for text in verify_product(task, result))
    path.unlink()
    assert any("No such file" in text for text in verify_product(task, result))


def test_hashes_that_are_gone_or_changed_are_found(night: Night) -> None:
    task = night.task(PICKS)
    result = write_product(task)
    path = Path(task["night"]) / task["hashes_file"]
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    found = verify_product(task, result)
    assert any("frame 5 is not the one" in text for text in found)
    assert any("not those that were taken" in text for text in found)
    path.unlink()
    assert "cannot be read" in verify_product(task, result)[0]
    assert write_product(task)["was_there"]  # makes them again
    assert verify_product(task, result) == []


def test_the_wrong_plan_is_found(night: Night) -> None:
    task = night.task(PICKS)
    result = write_product(task)
    rows = np.load(task["rows_file"])
    rows["OFFSET"] += 1
    np.save(task["rows_file"], rows)
    assert any("FRAMES" in text for text in verify_product(task, result))


@pytest.mark.parametrize("kind", ["logger", "tiles"])
def test_a_flipped_bit_in_pixels_of_a_logger_is_found(tmp_path: Path, kind: str) -> None:
    night = Night(tmp_path / "night")
    path = night.add(frames_of(1, 9, (31, 47)), kind)
    task = night.task(PICKS)
    head = cube_head(path)
    data = bytearray(path.read_bytes())
    status = path.stat()
    rng = np.random.default_rng(6)
    begin = head.data_offset if kind == "logger" else head.data_offset + 12 * 16
    end = head.tail_offset
    wanted = {index for _, index in PICKS}
    found = 0
    for place in rng.integers(begin, end, 100).tolist():
        flip(path, data, place, status)
        frame = (place - begin) // (31 * 47 * 2)
        if kind == "logger" and frame not in wanted:
            continue  # its other frames are good, and are written
        said = refusal(task)
        if said:
            assert "damaged" in said
            assert str(path) in said
            found += 1
        else:  # a byte of a tile that is not wanted
            assert kind == "tiles"
            path_of(task).unlink()
    assert found > 40
    if kind == "logger":
        flip(path, data, begin + 5, status)
        result = write_product(night.task(PICKS, accepts_damage=True))
        assert result["damaged"] == [f"{night.cubes[0]['path']}[0]"]
    flip(path, data, None, status)


def refusal(task: dict[str, Any]) -> str:
    """Return why a product was not written; "" if it was."""
    try:
        write_product(task)
    except StorageError as error:
        return error.message
    return ""


def flip(path: Path, data: bytearray, place: int | None, status: os.stat_result) -> None:
    """Have one wrong bit in a file, with nothing in its size and times to tell."""
    changed = bytearray(data)
    if place is not None:
        changed[place] ^= 4
    with open(path, "r+b") as file:
        file.write(changed)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_flipped_bit_in_the_header_of_raw_is_found(night: Night) -> None:
    path = night.folder / night.cubes[0]["path"]
    task = night.task(PICKS)
    data, status = bytearray(path.read_bytes()), path.stat()
    for place in (3, 500, 2879):
        flip(path, data, place, status)
        with pytest.raises(StorageError, match=r"header of raw cube .* damaged"):
            write_product(task)
    flip(path, data, None, status)
    write_product(task)


def test_a_flipped_pixel_of_milk_is_found_by_its_content_hash(night: Night) -> None:
    # The format has no sums of its own: what is there when it is first read is taken for right.
    path = night.folder / night.cubes[0]["path"]
    head, _, content = hash_cube(path)
    task = night.task(PICKS)
    result = write_product(task)
    flip(path, bytearray(path.read_bytes()), head.data_offset + 7, path.stat())
    assert hash_cube(path)[2] != content
    with pytest.raises(StorageError, match="holds something else"):
        write_product(task)  # the product that was made before is not touched
    assert verify_product(task, result) == []


@pytest.mark.parametrize("how", ["cut", "gone", "replaced", "touched", "longer"])
def test_raw_that_changed_since_it_was_planned(night: Night, how: str) -> None:
    path = night.folder / night.cubes[0]["path"]
    task = night.task(PICKS)
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[:-2880])
    elif how == "gone":
        path.unlink()
    elif how == "replaced":
        path.unlink()
        path.write_bytes(data)
    elif how == "touched":
        os.utime(path)
    else:
        path.write_bytes(data + bytes(2880))
    with pytest.raises(StorageError, match="plan the night again"):
        write_product(task)
    assert not path_of(task).exists()
    assert products(night) == []


@pytest.mark.parametrize("how", ["replaced", "touched", "cut"])
def test_raw_that_changes_while_it_is_read(
    night: Night, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = night.folder / night.cubes[0]["path"]
    data, status = path.read_bytes(), path.stat()
    task = night.task(PICKS)

    def meddle(self: RawFrames, *_: Any) -> None:
        if how == "replaced":
            path.unlink()
            path.write_bytes(data)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        elif how == "touched":
            os.utime(path)
        else:
            os.truncate(path, len(data) - 1)

    monkeypatch.setattr(RawFrames, "check", meddle)
    with pytest.raises(StorageError, match=r"plan the night again"):
        write_product(task)
    assert products(night) == []


def test_another_file_of_that_name_stops_it(night: Night) -> None:
    task = night.task(PICKS)
    result = write_product(task)
    path = path_of(task)
    data = path.read_bytes()
    for other in (b"", b"precious", data[:-1], data + b"!", data[:9000] + b"?" + data[9001:]):
        path.write_bytes(other)
        with pytest.raises(StorageError, match="holds something else"):
            write_product(task)
        assert path.read_bytes() == other
    path.write_bytes(data)
    assert write_product(task)["file_hash"] == result["file_hash"]
    assert products(night) == [path.name]


def test_a_folder_that_is_none(night: Night) -> None:
    (night.folder / "vgen2").write_text("a file")
    with pytest.raises(StorageError, match=r"cannot write .*; correct the folder"):
        write_product(night.task(PICKS))


def test_leftovers_of_the_dead_go_those_of_the_living_stay(night: Night) -> None:
    task = night.task(PICKS)
    folder = path_of(task).parent
    folder.mkdir()
    dead = folder / f".{path_of(task).name}.4711-0.tmp"
    living = folder / f".{path_of(task).name}.4712-0.tmp"
    of_others = folder / ".VMPA00000002.fits.fz.4711-0.tmp"
    for path in (dead, living, of_others):
        path.write_bytes(b"half")
    with open(living, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_product(task)
    assert products(night) == sorted((living.name, of_others.name, path_of(task).name))
    write_product(task)
    assert living.name not in products(night)


def test_several_workers_with_the_same_task(tmp_path: Path) -> None:
    night = Night(tmp_path / "night")
    night.add(frames_of(1, 40, (200, 200)))
    tasks = [night.task([(0, n) for n in range(40)], f"P{number}") for number in range(4)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as pool:
        for task in tasks:
            results = list(pool.map(write_product, [task, task, task]))
            assert len({result["file_hash"] for result in results}) == 1
            assert not all(result["was_there"] for result in results)
            assert verify_product(task, results[0]) == []
    assert products(night) == sorted(path_of(task).name for task in tasks)


def test_a_file_that_changes_while_it_is_compressed_stays(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = night.folder / night.cubes[0]["path"]
    monkeypatch.setattr(
        "nightjard.archived.nights.writing.packing._hash",
        lambda *_: os.utime(path) or "0" * 64,
    )
    with pytest.raises(StorageError, match="changed while it was compressed"):
        compress_file(path, keep=False)
    assert path.exists()
