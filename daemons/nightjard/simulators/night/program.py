# SPDX-License-Identifier: BSD-3-Clause
"""Making a night: simulate the times, write the cubes, write the truth, do the damage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nightjar.errors import InvalidArgument, Refused, StorageError
from nightjar.files import require_space
from nightjar.fits.timing_text import text_path
from nightjar.times import NS_PER_S
from nightjard.simulators.night import damage
from nightjard.simulators.night.files import CubeContent, file_hash, write_cube
from nightjard.simulators.night.headers import Setup
from nightjard.simulators.night.parameters import NightParameters, check
from nightjard.simulators.night.pixels import FramePool
from nightjard.simulators.night.recording import Cube, Run, cut_cubes, simulate_runs
from nightjard.simulators.night.telemetry import write_log
from nightjard.simulators.night.truth import CubeTruth, NightTruth, Rows, truth_folder

Progress = Callable[[int, int], None]
_HEADER_BYTES = 40_000  # of a cube, and as much for its text


def make_night(
    folder: Path, parameters: NightParameters, *, progress: Progress | None = None
) -> NightTruth:
    """Make a night below a folder: ``folder/YYYYMMDD/vcam1/...``, its truth in ``folder/truth``.

    Parameters
    ----------
    folder
        Root of the nights; made where it is missing.
    parameters
        The same parameters give the same bytes.
    progress
        Called with bytes written and bytes in all after every cube.

    Returns
    -------
    NightTruth
        What really happened; also in the files. Damage is not in it: see
        ``parameters["damages"]`` and :mod:`~nightjard.simulators.night.damage`.

    Raises
    ------
    InvalidArgument
        The parameters make no night.
    Refused
        The night's folder exists.
    StorageError
        No space, or a file cannot be written.
    """
    check(parameters)
    folder = folder.resolve()
    night = folder / parameters.date
    if night.exists():
        raise Refused(f"{night} exists; remove it or give another folder or date")
    runs = simulate_runs(parameters)
    per_camera, cubes = cut_cubes(parameters, runs)
    try:
        for camera in range(1, parameters.cameras + 1):
            (night / f"vcam{camera}").mkdir(parents=True)
    except OSError as error:
        raise StorageError(
            f"the simulated night {night} cannot be made: {error.strerror}", path=str(night)
        ) from error
    truths = _write_cubes(parameters, night, runs, per_camera, cubes, progress)
    truth = NightTruth(
        night, truth_folder(night), np.concatenate(per_camera), tuple(truths),
        parameters.to_plain(), tuple(_described(parameters)),
    )  # fmt: skip
    if parameters.telemetry_s:
        write_log(night, _changes(runs), runs[-1].end_ns, parameters.telemetry_s)
    truth.write()
    _damage(truth, parameters)
    return truth


def _damage(truth: NightTruth, parameters: NightParameters) -> None:
    """Do the damages, each to a cube of its own."""
    rng = np.random.default_rng([parameters.seed, 0x64616D])
    whole = [truth.folder / cube.path for cube in truth.cubes]
    for name in parameters.damages:
        whole = [path for path in whole if path.is_file()]
        if not whole:
            raise InvalidArgument(f"damage {name}: every cube of {truth.folder} is damaged already")
        chosen = whole.pop(int(rng.integers(len(whole))))
        damage.apply(truth.folder, name, rng, chosen)


def _write_cubes(
    parameters: NightParameters,
    night: Path,
    runs: Sequence[Run],
    per_camera: Sequence[Rows],
    cubes: Sequence[Cube],
    progress: Progress | None,
) -> list[CubeTruth]:
    sizes = [_size(parameters, runs[cube.run], len(cube.rows)) for cube in cubes]
    require_space(night, sum(sizes), f"simulated night {night}")
    futures = []
    pools: dict[tuple[int, int], FramePool] = {}
    done = 0
    # Hashing keeps up with writing in a thread: neither holds the interpreter.
    with ThreadPoolExecutor(1, thread_name_prefix="hashes") as hashes:
        for number, (cube, size) in enumerate(zip(cubes, sizes, strict=True)):
            rows = per_camera[cube.camera - 1][cube.rows]
            shape = runs[cube.run].first.frame_shape or parameters.frame_shape
            pool = pools.setdefault(shape, FramePool(shape, parameters.seed))
            path = _write(parameters, night, number, cube, runs, rows, pool)
            futures.append(hashes.submit(_cube_truth, night, path, number, cube))
            done += size
            if progress is not None:
                progress(done, sum(sizes))
    return [future.result() for future in futures]


def _size(parameters: NightParameters, run: Run, frames: int) -> int:
    rows, columns = run.first.frame_shape or parameters.frame_shape
    return frames * (rows * columns * 2 + 180) + _HEADER_BYTES


def _write(
    parameters: NightParameters,
    night: Path,
    number: int,
    cube: Cube,
    runs: Sequence[Run],
    rows: Rows,
    pool: FramePool,
) -> Path:
    is_full = len(rows) >= cube.expected
    last_ns = int(rows["logged_ns"][-1])
    content = CubeContent(
        camera=cube.camera, frames=rows,
        setups={n: segment.header_setup for n, segment in enumerate(parameters.segments)},
        expected=cube.expected, rate_hz=NS_PER_S / runs[cube.run].period_ns,
        closed_ns=last_ns + (1_000_000 if is_full else round(parameters.timeout_s * NS_PER_S)),
        number=number + 1, session=f"{parameters.date}-{parameters.seed}",
        tai_ns=parameters.tai_s * NS_PER_S,
    )  # fmt: skip
    return write_cube(night / content.stream, content, pool, parameters.form)


def _cube_truth(night: Path, path: Path, number: int, cube: Cube) -> CubeTruth:
    return CubeTruth(
        number, cube.camera, str(path.relative_to(night)), len(cube.rows), path.stat().st_size,
        file_hash(path), file_hash(text_path(path)),
    )  # fmt: skip


def _described(parameters: NightParameters) -> list[dict[str, object]]:
    return [
        dataclasses.asdict(segment.setup)
        | {"header_angle_deg": segment.header_setup.angle_deg, "continues": segment.continues}
        for segment in parameters.segments
    ]


def _changes(runs: Sequence[Run]) -> list[tuple[int, Setup]]:
    """Return when the instrument was set up how: moves are done in the pause before."""
    changes = []
    for run in runs:
        pause_ns = round(run.first.pause_s * NS_PER_S)
        for number, segment in run.segments:
            if number == run.segments[0][0]:
                changes.append((run.start_ns - pause_ns // 2, segment.setup))
                continue
            begins = [rows["true_ns"][rows["segment"] == number] for rows in run.frames]
            times = [int(times[0]) for times in begins if len(times)]
            if times:
                changes.append((min(times), segment.setup))
    return changes
