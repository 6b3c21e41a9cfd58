# SPDX-License-Identifier: BSD-3-Clause
"""Killed in mid-minute, a full disk, readers that hold the file, two mergers at once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.dasmerge import Bench, assert_same, config_value
from kit.observatory import MadeNight, made_night
from kit.site import eventually
from kit.small_disk import prove
from nightjar.das.naming import minute_start_ns
from nightjard.merged import quality
from nightjard.merged.follow import UNDER_WAY

START = minute_start_ns("20261231", 1437)
OFF = {"align": "off"}
COUNT = 6


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> MadeNight:
    folder = tmp_path_factory.mktemp("night") / "n"
    return made_night(folder, COUNT, start="2026-12-31T23:57:00", seed=3)


def bench_of(root: Path, night: MadeNight) -> Bench:
    return Bench(root, night.folder, START, COUNT + 1, alignment=OFF)


class Program:
    """A real ``dasmerge`` with its workers, in a process group of its own."""

    def __init__(self, root: Path, *words: str) -> None:
        path = root / "bolo.json"
        value = config_value(root, alignment=OFF, storage={"compression": "zlib"})
        path.write_text(json.dumps(value))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nightjard.merged.command", "-cs", str(path), "--night",
             "20261231", "--output", str(root / "merged"), *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended just before
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=20)

    def finish(self) -> str:
        said, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, said
        return said


def test_killed_at_any_moment_the_next_run_makes_it_whole(tmp_path: Path, night: MadeNight) -> None:
    good = bench_of(tmp_path / "good", night)
    bench = bench_of(tmp_path / "killed", night)
    for one in (good, bench):
        one.put(range(3))
    good.settle()
    product = tmp_path / "killed/merged/20261231_23.nc"
    moments = random.Random(7)
    for _ in range(3):
        program = Program(tmp_path / "killed", "--once")
        # From when it writes on: at a random moment of the tenths of a second that it takes.
        end = time.monotonic() + 20
        while not product.exists() and program.process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.25))  # the moment is the point
        program.kill()
        for minute in range(3):  # all is to do again
            bench.file("raw", minute).touch()
    Program(tmp_path / "killed", "--once").finish()
    assert_same(bench.hours(), good.hours())
    assert not [p for p in product.parent.iterdir() if p.name.endswith(".new")]


def test_killed_while_it_merges_again_it_is_not_taken_for_done(
    tmp_path: Path, night: MadeNight
) -> None:
    """What the memory says is taken back before the file is touched."""
    bench = bench_of(tmp_path, night)
    bench.put([0, 1])
    bench.settle()
    good = bench.hours()

    class Killed(BaseException):
        pass

    def run(*_: object) -> None:
        import netCDF4

        with netCDF4.Dataset(tmp_path / "merged/20261231_23.nc", "a") as dataset:
            dataset["minute_status"][57] = quality.PENDING
            dataset["ra"][57 * 3000 : 57 * 3000 + 10] = 1.0
        raise Killed

    bench.follower.again([START])
    bench.executor.run = run  # type: ignore[method-assign,assignment]
    with pytest.raises(Killed):
        bench.step()
    bench.begin()
    assert bench.known(0).signature.startswith(UNDER_WAY)
    assert bench.settle() == [0]
    assert_same(bench.hours(), good)


def test_a_product_that_a_crash_of_the_machine_left_torn_is_made_anew(
    tmp_path: Path, night: MadeNight
) -> None:
    bench, good = bench_of(tmp_path / "torn", night), bench_of(tmp_path / "good", night)
    for one in (bench, good):
        one.put(range(2))
        one.settle()
    product = tmp_path / "torn/merged/20261231_23.nc"
    with product.open("r+b") as file:
        file.truncate(product.stat().st_size // 3)
    for one in (bench, good):
        one.put(2)
        one.settle()
    assert len(list(product.parent.glob("20261231_23.nc.damaged-*"))) == 1
    assert_same(bench.hours(), good.hours())


def test_interrupted_it_ends_with_130_and_leaves_no_process(
    tmp_path: Path, night: MadeNight
) -> None:
    bench_of(tmp_path, night).put(0)
    program = Program(tmp_path)
    assert program.process.stdout is not None
    for line in program.process.stdout:  # it waits for the next raw file
        if "waiting for the next raw file" in line:
            break
    program.process.send_signal(signal.SIGINT)
    program.process.communicate(timeout=20)
    assert program.process.returncode == 130
    eventually(lambda: not has_processes(program.process.pid), what="all of them end")


def has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_disk_fills_and_has_room_again(tmp_path: Path, night: MadeNight) -> None:
    (tmp_path / "disk").mkdir()
    prove("dasmerge_full_disk", tmp_path / "disk", night.folder, tmp_path)


READERS = {
    "TRUE": """
import sys, xarray
dataset = xarray.open_dataset(sys.argv[1])
read = lambda: dataset.ac_bolos.values[57 * 3000 :]
""",
    "FALSE": """
import sys, netCDF4
dataset = netCDF4.Dataset(sys.argv[1])
read = lambda: dataset["ac_bolos"][57 * 3000 :]
""",
}
READ = """
first = read()[:3000]
print("open", flush=True)
sys.stdin.readline()
assert (read()[:3000] == first).all()
dataset.close()
print("closed", flush=True)
"""


@pytest.fixture(params=["TRUE", "FALSE"])
def reader(request: pytest.FixtureRequest) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that read; HDF5's locks are on in one run and off in the other."""
    started: list[subprocess.Popen[str]] = []

    def start(path: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", READERS[request.param] + READ, str(path)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"HDF5_USE_FILE_LOCKING": request.param},
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    yield start  # type: ignore[misc]
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def test_readers_that_hold_the_file_stop_nobody(
    tmp_path: Path, night: MadeNight, reader: object
) -> None:
    bench = bench_of(tmp_path, night)
    bench.put(0)
    bench.settle()
    product = tmp_path / "merged/20261231_23.nc"
    held = reader(product)  # type: ignore[operator]
    for minute in (1, 2):
        bench.put(minute)
        assert minute in bench.settle()  # while it is held open
        dump = subprocess.run(
            ["ncdump", "-v", "minute_status", product], capture_output=True, text=True, check=True
        )
        assert dump.stdout.rstrip(" ;}\n").endswith("0, " * minute + "0" + ", _" * (2 - minute))
    out, err = held.communicate("\n", timeout=30)
    assert out == "closed\n", err  # what it had open stayed readable
    good = bench_of(tmp_path / "good", night)
    good.put(range(3))
    good.settle()
    assert_same(bench.hours(), good.hours())


def test_two_mergers_at_once_agree(tmp_path: Path, night: MadeNight) -> None:
    bench = bench_of(tmp_path / "two", night)
    bench.put(range(3))
    programs = [Program(tmp_path / "two", "-nend", "1439") for _ in range(2)]
    said = [program.finish() for program in programs]
    assert all("3 minutes merged" in text or "0 minutes merged" in text for text in said), said
    good = bench_of(tmp_path / "good", night)
    good.put(range(3))
    good.settle()
    assert_same(bench.hours(), good.hours())
    assert not list((tmp_path / "two/merged").glob("*damaged*"))
