# SPDX-License-Identifier: BSD-3-Clause
"""Nights when disks fill, raw changes, bits flip, folders and databases go, and two at once."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from kit.archive_frames import empty_database
from kit.depth import soaked
from kit.night_crash import Inline
from kit.nights import NightBench, files_of, product_tags, products_of
from kit.small_disk import prove
from kit.tiny_nights import DATE, RAW, bench_of, make_tiny
from nightjar.errors import Busy, Code, Refused, StorageError
from nightjar.fits.header import read_header
from nightjard.archived import database as database_module
from nightjard.archived.nights import engine
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.steps.context import Progress
from nightjard.simulators.night import damage
from nightjard.simulators.night.truth import NightTruth

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> NightTruth:
    return make_tiny(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def night(truth: NightTruth, tmp_path: Path) -> Path:
    return Path(shutil.copytree(truth.folder, tmp_path / "raw" / DATE))


def opened(root: Path, state: Path) -> NightBench:
    """Return a bench whose tasks run in this process."""
    state.mkdir(exist_ok=True)
    if not (state / "archive.db").exists():
        (state / "archive.db").write_bytes(empty_database())
    bench = bench_of(root, f"sqlite:///{state / 'archive.db'}")
    bench.tools = engine.Tools(**{**vars(bench.tools), "executor": Inline})
    bench.engine = engine.Engine(bench.tools)
    return bench


@pytest.fixture
def bench(night: Path, tmp_path: Path) -> Iterator[NightBench]:
    made = opened(night.parent, tmp_path / "state")
    yield made
    made.close()


def rewrite(path: Path, data: bytes) -> None:
    """Give a file other bytes and its old time."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    rewrite(path, data)


def cubes(night: Path, camera: int = 1) -> list[Path]:
    return sorted((night / f"vcam{camera}").glob("*.fits"))


def is_whole(night: Path, truth: NightTruth) -> bool:
    return bool(truth.conservation(product_tags(path) for path in products_of(night)).is_exact)


# --- disks and folders --------------------------------------------------------------------------


@pytest.mark.needs("unshare")
def test_a_real_disk_that_is_full_at_every_step_then_read_only(tmp_path: Path) -> None:
    for name in ("disk", "base"):
        (tmp_path / name).mkdir()
    prove("night_full_disk", tmp_path / "disk", tmp_path / "base")


def test_a_folder_that_is_gone_is_told_and_comes_back(
    bench: NightBench, night: Path, truth: NightTruth
) -> None:
    away = night.with_name("away")

    def vanish(progress: Progress) -> None:
        if progress.step == "consolidate" and night.exists():
            night.rename(away)

    with pytest.raises(StorageError, match="No such file or directory"):
        bench.run(night, progress=vanish)
    with pytest.raises(StorageError, match=r"cannot be begun: .*No such file or directory"):
        bench.run(night)
    shutil.rmtree(night, ignore_errors=True)  # nothing but what was made in vain
    away.rename(night)
    bench.run(night)
    assert is_whole(night, truth)


# --- raw that changes ---------------------------------------------------------------------------


def test_raw_that_shrinks_between_plan_and_products(
    bench: NightBench, night: Path, truth: NightTruth
) -> None:
    cube = cubes(night)[-1]
    whole = cube.read_bytes()

    def cut(progress: Progress) -> None:
        if progress.step == "consolidate" and cube.stat().st_size == len(whole):
            rewrite(cube, whole[:-3000])

    with pytest.raises(StorageError, match="has changed since it was planned"):
        bench.run(night, progress=cut)
    with pytest.raises(Refused, match=rf"it has {len(whole) - 3000} bytes and had {len(whole)}"):
        bench.run(night)
    assert bench.night(night)["processed_ns"] is None
    rewrite(cube, whole)
    bench.run(night)
    assert is_whole(night, truth)


def test_a_header_that_rots_after_the_plan(bench: NightBench, night: Path) -> None:
    bench.run(night, "sync", "headers", "ids")
    flip(cubes(night)[0], 400)  # same size, same time
    with pytest.raises(StorageError, match=r"not the header that was planned: it is damaged"):
        bench.run(night, "consolidate")
    flip(cubes(night)[0], 400)
    bench.run(night)
    assert bench.night(night)["state"] == "verified"


def test_pixels_that_rot_after_they_were_read_do_not_go_into_new_products(
    bench: NightBench, night: Path
) -> None:
    bench.run(night)
    first = files_of(night / "vgen2")
    cube = cubes(night)[0]
    flip(cube, read_header(cube).data_offset + 1000)
    path = products_of(night)[0]  # of the same cube; it is lost as well
    flip(path, path.stat().st_size // 2)
    with pytest.raises(StorageError, match="products are damaged"):
        bench.run(night, "verify", is_forced=True)
    for _ in range(2):  # not only once
        with pytest.raises(StorageError, match="not what they were when they were first read"):
            bench.run(night)
        row = bench.night(night)
        assert (row["state"], row["processed_ns"]) == ("failed", None)
    assert (night / "superseded" / path.name).exists()
    flip(cube, read_header(cube).data_offset + 1000)
    path.unlink()
    bench.run(night)
    assert files_of(night / "vgen2") == first


def test_a_frame_that_rotted_is_found_by_its_loggers_checksum(tmp_path: Path) -> None:
    truth = make_tiny(tmp_path / "raw", form="fitslogd")
    bench = opened(tmp_path / "raw", tmp_path / "state")
    done = damage.apply(truth.folder, "bit-flip", np.random.default_rng(8))
    raw = {name: files_of(truth.folder / name) for name in RAW}
    with pytest.raises(StorageError, match=r"frame \d+ of raw cube .* is not what was logged"):
        bench.run(truth.folder)
    assert bench.night(truth.folder)["state"] == "failed"
    # All others are made; a person may take this one as it is.
    made = len(products_of(truth.folder))
    bench.run(truth.folder, "consolidate", is_forced=True)
    assert len(products_of(truth.folder)) == made + 1
    bench.run(truth.folder)
    (told,) = [each["text"] for each in bench.store.events(bench.night(truth.folder)["id"])
               if each["kind"] == "damaged"]  # fmt: skip
    assert f"{done.cube}[" in told
    assert {name: files_of(truth.folder / name) for name in RAW} == raw
    bench.close()


@pytest.mark.parametrize("share", [0.02, 0.9, soaked(0.2), soaked(0.5), soaked(1.0)])
def test_a_flipped_bit_of_a_product_is_found_wherever_it_is(
    bench: NightBench, night: Path, share: float
) -> None:
    bench.run(night)
    first = files_of(night / "vgen2")
    for path in products_of(night):
        flip(path, min(path.stat().st_size - 1, int(share * path.stat().st_size)))
    with pytest.raises(StorageError, match=f"{len(first) - 1} of {len(first) - 1} products"):
        bench.run(night, "verify", is_forced=True)
    bench.run(night)
    assert files_of(night / "vgen2") == first


# --- the database -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["sync", "ids", "consolidate"])
def test_a_database_that_another_process_holds(
    night: Path, tmp_path: Path, truth: NightTruth, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "TIMEOUT_S", 0.2)
    bench = opened(night.parent, tmp_path / "state")
    with closing(sqlite3.connect(tmp_path / "state" / "archive.db")) as other:
        other.isolation_level = None

        def hold(progress: Progress) -> None:
            if progress.step == step and not other.in_transaction:
                other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StorageError, match="database is locked"):
            bench.run(night, progress=hold)
        other.execute("ROLLBACK")
    bench.run(night)
    assert is_whole(night, truth)
    bench.close()


def test_workers_end_where_the_database_does_not_answer(
    night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "TIMEOUT_S", 0.2)
    opened(night.parent, tmp_path / "state").close()
    bench = bench_of(night.parent, f"sqlite:///{tmp_path / 'state' / 'archive.db'}")
    with closing(sqlite3.connect(tmp_path / "state" / "archive.db")) as other:
        other.isolation_level = None

        def hold(progress: Progress) -> None:
            if products_of(night) and not other.in_transaction:
                other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StorageError, match="database is locked"):
            bench.run(night, progress=hold)
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        named = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
        assert not [line for line in named if b"executor.worker" in line]
        other.execute("ROLLBACK")
    bench.close()


def test_a_database_that_is_removed(
    bench: NightBench, night: Path, truth: NightTruth, tmp_path: Path
) -> None:
    earlier = night.with_name("20260610")
    shutil.copytree(truth.folder, earlier)
    bench.run(earlier)  # so that the numbers of the night are not the first ones

    def remove(progress: Progress) -> None:
        if progress.step == "manifest":
            shutil.rmtree(tmp_path / "state", ignore_errors=True)

    with pytest.raises(StorageError, match=r"archive\.db-wal cannot be synced"):
        bench.run(night, progress=remove)
    with pytest.raises(StorageError):
        bench.run(night)
    first = files_of(night / "vgen2")
    later = opened(night.parent, tmp_path / "state")
    for each in (earlier, night):
        later.run(each)
        assert is_whole(each, truth)
    # With a new database the products have the numbers that they had.
    assert files_of(night / "vgen2") == first
    every = [path.name for each in (earlier, night) for path in products_of(each)]
    assert len(set(every)) == len(every)
    later.close()


# --- two at once --------------------------------------------------------------------------------


def test_two_processes_on_one_night(tmp_path: Path) -> None:
    truth = make_tiny(tmp_path / "raw", frame_shape=(192, 256))
    opened(tmp_path / "raw", tmp_path / "state").close()
    command = [sys.executable, "-m", "kit.night_runner", tmp_path / "raw",
               f"sqlite:///{tmp_path / 'state' / 'archive.db'}"]  # fmt: skip
    first = subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "step sync\n"
    first.send_signal(signal.SIGSTOP)  # so that it cannot end before we look
    bench = opened(tmp_path / "raw", tmp_path / "state")
    with pytest.raises(Busy, match=f"another process .pid {first.pid}.") as caught:
        bench.run(truth.folder)
    assert caught.value.code is Code.BUSY
    first.send_signal(signal.SIGCONT)
    said, _ = first.communicate(timeout=60)
    assert said.endswith("done\n"), said
    assert set(bench.run(truth.folder).values()) == {"done before"}
    assert is_whole(truth.folder, truth)
    bench.close()


def test_plans_of_raw_that_comes_while_it_is_looked_at_are_refused(
    bench: NightBench, night: Path
) -> None:
    late = cubes(night)[-1]
    held = late.with_name("held")
    late.rename(held)

    def come(progress: Progress) -> None:
        if progress.step == "sync" and progress.total and held.exists():
            held.rename(late)

    with pytest.raises(Refused, match="still being recorded"):
        bench.run(night, "sync", progress=come)
    assert bench.night(night)["plan_hash"] is None
    bench.run(night, "sync")
    plan = Plan.load(night, bench.night(night)["plan_hash"])
    assert str(late.relative_to(night)) in {cube.path for cube in plan.cubes}
