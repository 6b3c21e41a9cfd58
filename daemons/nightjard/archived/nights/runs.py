# SPDX-License-Identifier: BSD-3-Clause
"""Runs: stretches of frames of one set-up, over all cameras of a group, and what is found in them.

A camera's cubes are strung together as long as exposure, crop, mode and trigger stay the same, so
that nothing that is found depends on where a cube ends. Stretches of several cameras that overlap
in time, with the same set-up, are one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nightjar.fits.header import Header
from nightjar.times import NS_PER_S
from nightjard.archived.nights.records import Reason, Rows, RunReport
from nightjard.archived.nights.scan import RawFile, exposure_of
from nightjard.archived.nights.sync import CameraFrames, Physics, solve_run

Places = npt.NDArray[np.int64]

_SETUP_KEYS = (
    "PRD-RNG1", "PRD-RNG2", "U_DETMOD", "EXTTRIG",
    "U_FLCEN", "U_FLCST", "U_TRIGJT",
)  # fmt: skip
_GAP_NS = 30 * NS_PER_S  # a camera that gives nothing for so long has begun anew
_MARGIN_NS = 2 * NS_PER_S
_HALF_WIDTH_US = 500.0  # the trigger controller's default


@dataclass(frozen=True)
class Setup:
    """What must be the same for frames to be compared.

    Attributes
    ----------
    key
        Compares equal for the same set-up.
    exposure_s, rows, is_slow
        Of the read-out.
    is_triggered, half_width_us
        External trigger; the modulator's half width, None where it does not modulate.
    """

    key: tuple[object, ...]
    exposure_s: float
    rows: int
    is_slow: bool
    is_triggered: bool
    half_width_us: float | None

    @classmethod
    def of(cls, header: Header, frame_shape: tuple[int, int]) -> Setup:
        """Return the set-up that a cube's header tells of; the frame's rows where no crop is named.

        The shape is given, for NAXISn of a compressed cube are those of its table of tiles.
        """
        exposure_s = exposure_of(header) or 0.0
        is_triggered = header.get("EXTTRIG") is True
        modulated = (
            is_triggered
            and header.get("U_FLCEN") is True
            and str(header.get("U_FLCST", "")).strip() == "IN"
        )
        width = header.get("U_TRIGJT")
        half_width = float(width) if isinstance(width, (int, float)) else _HALF_WIDTH_US
        crop = header.get("PRD-RNG2")
        return cls(
            (round(exposure_s, 6), frame_shape, *(header.get(key) for key in _SETUP_KEYS)),
            exposure_s,
            int(crop) if isinstance(crop, (int, float)) and crop > 0 else frame_shape[0],
            str(header.get("U_DETMOD", "")).strip().lower() == "slow",
            is_triggered,
            half_width if modulated and half_width > 0 else None,
        )


@dataclass(frozen=True)
class Stretch:
    """Frames of one stream: rows of the night's table, all of one set-up, in order of time."""

    stream: str
    setup: Setup
    where: Places
    first_ns: int
    last_ns: int


def stretches(
    stream: str, files: Sequence[tuple[RawFile, int]], rows: Rows
) -> Iterator[Stretch]:
    """Yield the stretches of one stream.

    Parameters
    ----------
    files
        The stream's cubes that have times, each with the place of its first frame in `rows`.
    rows : (n,)
        Of :data:`~nightjard.archived.nights.records.ROW`; frames without a time are passed over.
    """
    pieces: list[tuple[Setup, Places]] = []
    for raw, start in sorted(files, key=lambda item: (item[0].begin_ns, item[0].ref.path)):
        where = start + np.flatnonzero(raw.timing.acquired_ns > 0)
        setup = Setup.of(raw.header, raw.ref.frame_shape)
        times = rows["ATIME"][where]
        cuts = np.flatnonzero(np.diff(times) > _GAP_NS) + 1
        for part in np.split(where, cuts):
            if pieces and (
                pieces[-1][0].key != setup.key
                or rows["ATIME"][part[0]] - rows["ATIME"][pieces[-1][1][-1]] > _GAP_NS
            ):
                yield _stretch(stream, pieces, rows)
                pieces = []
            pieces.append((setup, part))
    if pieces:
        yield _stretch(stream, pieces, rows)


def _stretch(
    stream: str, pieces: list[tuple[Setup, Places]], rows: Rows
) -> Stretch:
    where = np.concatenate([part for _, part in pieces])
    times = rows["ATIME"][where]
    return Stretch(stream, pieces[0][0], where, int(times.min()), int(times.max()))


def gather(found: Sequence[Stretch]) -> list[list[Stretch]]:
    """Return runs: stretches of one group that overlap in time and have the same set-up.

    In the order of their beginning; within a run, too.
    """
    runs: list[tuple[object, int, list[Stretch]]] = []
    for stretch in sorted(found, key=lambda each: (each.first_ns, each.stream)):
        mine = [
            run for run in runs
            if run[0] == stretch.setup.key and stretch.first_ns <= run[1] + _MARGIN_NS
        ]  # fmt: skip
        # One stretch may bridge two runs of the other camera: then all are one.
        merged = [each for run in mine for each in run[2]] + [stretch]
        runs = [run for run in runs if run not in mine]
        runs.append((stretch.setup.key, max(each.last_ns for each in merged), merged))
    listed = [run[2] for run in runs]
    return sorted(listed, key=lambda run: (run[0].first_ns, run[0].stream))


def solve(
    number: int, run: Sequence[Stretch], streams: Sequence[str], rows: Rows
) -> RunReport:
    """Find out what belongs together in a run, and write it into the night's table.

    Fills RUN, TRIGGER, STATE, OFFSET, MTIME, the confidences and the reason of the run's frames.

    Parameters
    ----------
    number
        Of the run.
    run
        Its stretches.
    streams
        The group's cameras in their order.
    """
    present = [name for name in streams if any(each.stream == name for each in run)]
    where = {
        name: np.concatenate([each.where for each in run if each.stream == name])
        for name in present
    }
    setup = run[0].setup
    for part in where.values():
        rows["RUN"][part] = number
        rows["MTIME"][part] = rows["ATIME"][part]
        rows["TRIGGER"][part] = -1
    first_ns = min(each.first_ns for each in run)
    last_ns = max(each.last_ns for each in run)
    if not setup.is_triggered:
        for part in where.values():
            rows["reason"][part] = Reason.UNTRIGGERED
        return RunReport(
            number, tuple(present), tuple(map(len, where.values())), first_ns, last_ns, 0,
            {name: _counter_losses(rows["CNT0"][part]) for name, part in where.items()},
            "untriggered", "the cameras ran by themselves: frames are not compared",
        )  # fmt: skip
    physics = Physics.of(setup.exposure_s, setup.rows, setup.is_slow, setup.half_width_us)
    solution = solve_run(
        [CameraFrames(name, rows["ATIME"][part], rows["CNT0"][part])
         for name, part in where.items()],
        physics,
    )  # fmt: skip
    for index, part in enumerate(where.values()):
        rows["TRIGGER"][part] = solution.trigger[index]
        rows["reason"][part] = solution.reason[index]
        rows["SYNCCONF"][part] = solution.confidence[index]
        rows["OFFSET"][part] = solution.offset_ns[index]
        rows["STATE"][part] = solution.state[index]
        rows["FLCCONF"][part] = solution.state_confidence[index]
    _mean_times(rows, list(where.values()))
    return _report(number, present, where, first_ns, last_ns, solution.report)


def _counter_losses(counters: npt.NDArray[np.uint64]) -> Mapping[str, int]:
    steps = np.diff(counters.astype(np.int64))
    return {"counter": int((steps[steps > 1] - 1).sum())}


def _mean_times(rows: Rows, where: list[Places]) -> None:
    """Give the frames of one trigger the mean of their times."""
    paired = np.concatenate([part[rows["reason"][part] == Reason.PAIRED] for part in where])
    if not len(paired):
        return
    paired = paired[np.argsort(rows["TRIGGER"][paired], kind="stable")]
    triggers, times = rows["TRIGGER"][paired], rows["ATIME"][paired]
    starts = np.flatnonzero(np.diff(triggers, prepend=triggers[0] - 1))
    counts = np.diff(starts, append=len(paired))
    # The mean of the differences: the sum of two times does not fit into 64 bits for ever.
    base = np.repeat(times[starts], counts)
    shift = np.add.reduceat(times - base, starts) // counts
    rows["MTIME"][paired] = base + np.repeat(shift, counts)


def _report(
    number: int, streams: Sequence[str], where: Mapping[str, Places], first_ns: int, last_ns: int,
    found: Mapping[str, object],
) -> RunReport:  # fmt: skip
    return RunReport(
        number=number, streams=tuple(streams), frames=tuple(len(part) for part in where.values()),
        first_ns=first_ns, last_ns=last_ns, **found,  # type: ignore[arg-type]
    )  # fmt: skip
