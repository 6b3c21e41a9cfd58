# SPDX-License-Identifier: BSD-3-Clause
"""Which exposures are the test: rows of the log grouped, and a resubmission told from its remains.

A test that was aborted and submitted again has more exposures than its script. What counts is the
latest complete run: as many consecutive exposures as the script has frames, whose columns are
those of the script. A single-column test does not show by its values where a run begins; OBSIDs
that jump and an unsteady pace do: nobody submits a script as evenly as it takes its frames. Where
neither tells, as many exposures as the script has are the test; where there are more, the run is
sure only when no more of it comes.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nightjar.calibration.detector import Detector
from nightjar.calibration.explog import LogRow
from nightjar.calibration.script import Script, expected_log_rows, frame_seconds
from nightjar.times import NS_PER_S
from nightjard.calib.structure import ABSOLUTE, agrees, obsid_text

_PAUSE_S = 60.0
_SLOW = 2.0
_JITTER_S = 10.0  # of frames that follow each other by themselves


@dataclass(frozen=True)
class Exposure:
    """The rows of one OBSID, one a CCD."""

    obsid: int
    rows: tuple[LogRow, ...]

    @property
    def utc_ns(self) -> int:
        """Start, as the first of its rows says."""
        return self.rows[0].utc_ns


@dataclass(frozen=True)
class Run:
    """The exposures that are taken for the test.

    Attributes
    ----------
    is_complete
        There are as many as the script has frames.
    is_sure
        They are consecutive, without a pause, and their columns are those of the script; where
        it has one column only, they are at an even pace, and all that was taken since the last
        pause. Where this is not so, more may be coming.
    note
        What was left out and why; empty where nothing was.
    """

    exposures: tuple[Exposure, ...]
    is_complete: bool
    is_sure: bool
    note: str = ""

    @property
    def obsids(self) -> tuple[int, int]:
        """First and last OBSID; (-1, -1) without any."""
        if not self.exposures:
            return (-1, -1)
        return (self.exposures[0].obsid, self.exposures[-1].obsid)


def exposures_of(rows: Iterable[LogRow]) -> list[Exposure]:
    """Return rows as exposures in order of OBSID, those of an exposure in order of CCD."""
    grouped: dict[int, dict[int, LogRow]] = {}
    for row in rows:
        grouped.setdefault(row.obsid, {})[row.ccd] = row
    return [
        Exposure(obsid, tuple(found[ccd] for ccd in sorted(found)))
        for obsid, found in sorted(grouped.items())
    ]


def rows_of_test(
    rows: Iterable[LogRow], test: str, *, waves: Iterable[int] | None = None,
    first: int | None = None, last: int | None = None,
) -> tuple[list[LogRow], int]:  # fmt: skip
    """Return the rows of a test and how many were left out for their filter.

    Parameters
    ----------
    waves
        Slots of the filter wheel that the script commands; None for a colour-blind test.
    first, last
        Limits of OBSID, both included.
    """
    wanted = None if waves is None else set(waves)
    found, strange = [], 0
    for row in rows:
        if row.test != test:
            continue
        if (first is not None and row.obsid < first) or (last is not None and row.obsid > last):
            continue
        if wanted is not None and row.get("wave") not in wanted:
            strange += 1
            continue
        found.append(row)
    return found, strange


def latest_run(script: Script, exposures: Sequence[Exposure], detector: Detector) -> Run:
    """Return the latest complete run; all exposures where there are too few for one."""
    wanted = script.frames
    if len(exposures) < wanted:
        return Run(tuple(exposures), False, False)
    keys = _telling(script)
    matches = _matches(script, exposures, keys)
    breaks = _breaks(script, exposures, detector)
    if not keys:
        breaks = [a or b for a, b in zip(breaks, _jolts(exposures), strict=True)]
    best, key = 0, (-1, False, -1)
    for start in range(len(exposures) - wanted + 1):
        good = sum(matches[start])
        gapless = not any(breaks[start + 1 : start + wanted])
        if (good, gapless, start) > key:
            best, key = start, (good, gapless, start)
    chosen = tuple(exposures[best : best + wanted])
    is_whole = (best == 0 or breaks[best]) and best + wanted == len(exposures)
    is_sure = key[0] == wanted and key[1] and (bool(keys) or wanted == 1 or is_whole)
    others = [one.obsid for one in (*exposures[:best], *exposures[best + wanted :])]
    note = ""
    if others:
        note = (
            f"{len(exposures)} exposures for {wanted} frames: submitted again; the latest "
            f"complete run is {obsid_text([one.obsid for one in chosen])}, left out are "
            f"{obsid_text(others)}"
        )
    return Run(chosen, True, is_sure, note)


def _telling(script: Script) -> list[str]:
    """Return the columns of the log whose values tell the frames of a script apart."""
    expected = expected_log_rows(script)
    return [
        key for key in expected[0]
        if any(row.get(key) != expected[0].get(key) for row in expected)
    ]  # fmt: skip


def _matches(
    script: Script, exposures: Sequence[Exposure], varying: Sequence[str]
) -> list[list[bool]]:
    """Return, for each start, whether each frame has the values that tell columns apart."""
    expected = expected_log_rows(script)
    rows = [one.rows[0] for one in exposures]
    return [
        [
            all(
                agrees(wanted[key], rows[start + frame][key], ABSOLUTE.get(key))
                for key in varying
                if key in rows[start + frame]
            )
            for frame, wanted in enumerate(expected)
        ]
        for start in range(len(exposures) - len(expected) + 1)
    ]


def _breaks(
    script: Script, exposures: Sequence[Exposure], detector: Detector
) -> list[bool]:
    """Return whether something lies between each exposure and the one before it."""
    usual_s = [
        frame_seconds(column.values, detector)
        for column in script.columns
        for _ in range(column.frames)
    ]
    # From the end: the last exposures are those of the run that counts, if there is one.
    expected_s = [max(usual_s)] * max(len(exposures) - len(usual_s), 0) + usual_s
    taken_s = [
        (later.utc_ns - earlier.utc_ns) / NS_PER_S
        for earlier, later in itertools.pairwise(exposures)
    ]
    if not taken_s:
        return [False]
    ratios = [
        taken / expected for taken, expected in zip(taken_s, expected_s[:-1], strict=True)
    ]
    pace = max(statistics.median(ratios), 1.0)
    breaks = [False]
    for index, taken in enumerate(taken_s):
        jumps = exposures[index + 1].obsid != exposures[index].obsid + 1
        breaks.append(jumps or taken > _SLOW * pace * expected_s[index] + _PAUSE_S)
    return breaks


def _jolts(exposures: Sequence[Exposure]) -> list[bool]:
    """Return whether each exposure of equal ones comes later than the pace of the others says."""
    taken_ns = [later.utc_ns - earlier.utc_ns for earlier, later in itertools.pairwise(exposures)]
    if not taken_ns:
        return [False]
    usual_ns = statistics.median_low(taken_ns)
    return [False, *(taken > usual_ns + _JITTER_S * NS_PER_S for taken in taken_ns)]


def quiet_s(
    script: Script, detector: Detector, exposures: Sequence[Exposure] = (),
    written_ns: Sequence[int] = (),
) -> float:  # fmt: skip
    """Return how long nothing must come before a doubtful run is taken for complete, s.

    Parameters
    ----------
    exposures, written_ns
        Exposures and when their files were written: a simulation that runs faster than the times
        in its log is waited for as much less.
    """
    longest = max(frame_seconds(column.values, detector) for column in script.columns)
    usual_s = _SLOW * longest + _PAUSE_S
    logged = [b.utc_ns - a.utc_ns for a, b in itertools.pairwise(exposures)]
    written = [b - a for a, b in itertools.pairwise(written_ns)]
    if not logged or len(logged) != len(written) or statistics.median(logged) <= 0:
        return usual_s
    pace = statistics.median(written) / statistics.median(logged)
    return usual_s * min(max(pace, 0.0), 1.0)
