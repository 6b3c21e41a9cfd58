# SPDX-License-Identifier: BSD-3-Clause
"""Frames that a logger takes several at a time: saved, cut and counted as one by one."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.logging_bench import (
    PERIOD_NS,
    SHAPE,
    T0,
    Bench,
    Source,
    cube_paths,
    fitsverify,
    numbers,
    read_cubes,
)
from nightjar.fits.cube import CubeWriter
from nightjard.fitslogd.recorder import Recorder

DEPTH = 512


def stamp(number: int) -> int:
    return T0 + number * PERIOD_NS


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source(depth=DEPTH)
    yield source
    source.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


@pytest.fixture
def handfuls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what was taken at once."""
    taken: list[int] = []
    take_run = Recorder.take_run

    def noted(self: Recorder, frames: Any, *more: Any) -> bool:
        is_whole = take_run(self, frames, *more)
        taken.append(frames.count if is_whole else -frames.count)
        return is_whole

    monkeypatch.setattr(Recorder, "take_run", noted)
    return taken


def burst(bench: Bench, source: Source, count: int, **options: Any) -> int:
    """Publish frames while the logger does something else."""
    gate = bench.stall_main()
    last = source.publish(count, **options)
    gate.set()
    return last


def test_cubes_are_cut_where_they_are_full(
    bench: Bench, source: Source, handfuls: list[int]
) -> None:
    bench.prepare(30)
    bench.start()
    burst(bench, source, 200)
    bench.saved(200)
    bench.ask("release")
    bench.over()
    cubes = read_cubes(bench.root, source.pattern)
    assert [len(cube.ids) for cube in cubes] == [30] * 6 + [20]
    assert numbers(cubes) == list(range(1, 201))
    for cube in cubes:
        assert cube.rows["ATIME"].tolist() == [stamp(number) for number in cube.ids]
        assert cube.rows["WTIME"].tolist() == [stamp(number) for number in cube.ids]
        assert cube.rows["CNT1"].tolist() == [(number - 1) % DEPTH for number in cube.ids]
        assert cube.rows["MISSED"].tolist() == [0] * len(cube.ids)
    assert max(handfuls) >= 25  # the first of a cube names it and comes alone
    status = bench.status()
    assert (status["missed"], status["torn"], status["duplicated"]) == (0, 0, 0)
    assert status["bytes_written"] == 200 * 2 * SHAPE[0] * SHAPE[1]
    fitsverify(*cube_paths(bench.root))


@pytest.mark.parametrize("limit", ["frames", "until_ns", "pause"])
def test_session_ends_with_the_very_frame(
    bench: Bench, source: Source, handfuls: list[int], limit: str
) -> None:
    bench.prepare(1000)
    options = {"frames": 77} if limit == "frames" else {"until_ns": stamp(78)}
    bench.start(**options if limit != "pause" else {})
    burst(bench, source, 40)
    bench.saved(40)
    gate = bench.stall_main()
    source.publish(100)
    if limit == "pause":
        bench.ask("pause", not_after_ns=stamp(78))
    gate.set()
    bench.over()
    cubes = read_cubes(bench.root, source.pattern)
    assert numbers(cubes) == list(range(1, 78))
    assert bench.status()["missed"] == 0
    assert max(handfuls) > 10


def test_same_stamp_is_a_duplicate_within_a_handful_and_between_two(
    bench: Bench, source: Source, handfuls: list[int]
) -> None:
    bench.prepare(1000)
    bench.start()
    burst(bench, source, 100)
    bench.saved(100)
    burst(bench, source, 3, atime_ns=stamp(100))
    status = bench.saved(103)
    assert status["duplicated"] == 3
    assert sum(handfuls) >= 99


def test_gap_before_a_handful_is_counted(
    bench: Bench, source: Source, handfuls: list[int]
) -> None:
    bench.prepare(2000)
    bench.start()
    source.publish(10)
    bench.saved(10)
    burst(bench, source, DEPTH + 300)
    bench.until("the last", lambda s: bench.logger._recorder.last_counter == DEPTH + 310)
    bench.ask("release")
    bench.over()
    (cube,) = read_cubes(bench.root, source.pattern)
    assert cube.ids == [*range(1, 11), *range(311, DEPTH + 311)]
    assert cube.rows["MISSED"].tolist() == [0] * 10 + [300] + [0] * (DEPTH - 1)
    assert cube.header["NMISSED"] == bench.status()["missed"] == 300


def test_handful_that_is_overwritten_in_part_keeps_the_rest(
    bench: Bench, source: Source, handfuls: list[int]
) -> None:
    bench.prepare(5000)
    bench.start()
    source.publish(1)
    bench.saved(1)
    writer = bench.logger._recorder._cube.writer  # type: ignore[union-attr]
    assert isinstance(writer, CubeWriter)
    append_run, done = writer.append_run, []

    def slow(frames: Any, sums: list[int]) -> None:
        if not done:
            # All but 2 of 200 unread ones and of what comes now fit the ring.
            done.append(source.publish(DEPTH - 200 + 2))
        append_run(frames, sums)

    writer.append_run = slow  # type: ignore[method-assign]
    last = burst(bench, source, 200) + DEPTH - 198
    bench.until("the last", lambda s: bench.logger._recorder.last_counter == last)
    status = bench.status()
    bench.ask("release")
    bench.over()
    assert min(handfuls) < -10  # taken back, and looked at one by one
    (cube,) = read_cubes(bench.root, source.pattern)
    assert cube.ids[0] == 1
    assert cube.ids[-1] == last
    assert status["torn"] >= 1
    assert len(cube.ids) + status["torn"] + status["missed"] == last
    assert cube.header["NTORN"] == status["torn"]
    assert cube.rows["MISSED"].sum() == status["torn"] + status["missed"]
    fitsverify(*cube_paths(bench.root))


def test_what_was_written_before_a_failure_is_kept(
    bench: Bench, source: Source, handfuls: list[int]
) -> None:
    bench.prepare(5000)
    bench.start()
    source.publish(1)
    bench.saved(1)
    writer = bench.logger._recorder._cube.writer  # type: ignore[union-attr]
    assert isinstance(writer, CubeWriter)
    sink = writer._sink
    commit, end = sink.commit, writer.layout.frame_offset(6)

    def failing(count: int) -> None:
        if sink.position + count > end:  # as a RAM disk that has room for 6 frames and no more
            raise OSError(errno.EIO, "input/output error")
        commit(count)

    sink.commit = failing  # type: ignore[method-assign]
    burst(bench, source, 40)
    bench.until("again saving", lambda s: s["cube_count"] == 2)
    last = source.publish(5)
    bench.until("the last", lambda s: bench.logger._recorder.last_counter == last)
    bench.ask("release")
    bench.over()
    cubes = read_cubes(bench.root, source.pattern)
    assert cubes[0].ids == [1, 2, 3, 4, 5, 6]
    assert cubes[0].header["CUBEEND"] == "storage failed"
    assert numbers(cubes) == list(range(1, last + 1))  # the others came again
    assert bench.status()["missed"] == 0


def test_run_that_cannot_be_noted_ends_the_cube_with_its_frames_in_it(
    bench: Bench, source: Source, handfuls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.prepare(5000)
    bench.start()
    source.publish(1)
    bench.saved(1)
    journal = bench.logger._recorder._cube.journal  # type: ignore[union-attr]

    def full(_rows: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(journal, "write", full)
    burst(bench, source, 20)
    bench.until("a failure", lambda s: s["error"] or s["cube_count"] == 2)
    bench.until("closed", lambda s: s["closing"] == 0 and len(cube_paths(bench.root)) >= 1)
    first = read_cubes(bench.root, source.pattern)[0]
    assert first.ids == list(range(1, len(first.ids) + 1))
    assert len(first.ids) > 10
    assert any("make room there" in note for note in bench.notes)
