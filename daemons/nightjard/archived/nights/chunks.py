# SPDX-License-Identifier: BSD-3-Clause
"""Where products begin and end.

Paired frames are cut by their triggers, for all cameras at once, so that siblings share their
boundaries by construction. Frames that nothing pairs stay with their cube; the few without a
partner in a paired run are kept together for the run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nightjar.times import NS_PER_DAY, NS_PER_S
from nightjard.archived.nights.config import Chunks
from nightjard.archived.nights.records import Reason, Rows
from nightjard.archived.nights.runs import Places

_KEPT_BY_CUBE = (Reason.UNTRIGGERED, Reason.ALONE, Reason.AMBIGUOUS, Reason.SINGLE)


@dataclass(frozen=True)
class Chunk:
    """Frames that go into sibling products.

    Attributes
    ----------
    where : list of (n,)
        One array of places in the night's table for each camera, in order of time.
    """

    where: list[Places]


def paired_chunks(
    where: Sequence[Places], rows: Rows, keys: Places, exposure_s: float, frame_bytes: int,
    rules: Chunks,
) -> Iterator[Chunk]:  # fmt: skip
    """Cut the paired frames of a run.

    Parameters
    ----------
    where
        For each camera the places of its frames, in order.
    keys : (cubes,)
        For each cube a number that is the same where all break keys are.
    exposure_s
        A pause counts from the end of an exposure to the beginning of the next.
    frame_bytes
        Of the largest frame.
    """
    paired = [part[rows["reason"][part] == Reason.PAIRED] for part in where]
    numbers = [rows["TRIGGER"][part] for part in paired]
    orders = [np.argsort(each, kind="stable") for each in numbers]
    paired = [part[order] for part, order in zip(paired, orders, strict=True)]
    numbers = [each[order] for each, order in zip(numbers, orders, strict=True)]
    # Sorting what is sorted piece by piece is quicker than numpy's unique, which hashes.
    triggers = np.sort(np.concatenate(numbers), kind="stable")
    if not len(triggers):
        return
    triggers = triggers[np.diff(triggers, prepend=triggers[0] - 1) > 0]
    times = np.zeros(len(triggers), np.int64)
    breaks = np.zeros(len(triggers), bool)
    for part, number in zip(paired, numbers, strict=True):
        at = np.searchsorted(triggers, number)
        times[at] = rows["MTIME"][part]
        key = keys[rows["cube"][part]]
        breaks[at[1:]] |= key[1:] != key[:-1]
    gap_ns = round((rules.gap_seconds + exposure_s) * NS_PER_S)
    breaks[1:] |= np.diff(times) > gap_ns
    breaks[1:] |= np.diff(_days(times, exposure_s)) != 0
    starts = _starts(times, breaks, rules, frame_bytes)
    for first, stop in zip(starts, [*starts[1:], len(triggers)], strict=True):
        bounds = (triggers[first], triggers[stop - 1] + 1)
        yield Chunk(
            [part[slice(*np.searchsorted(number, bounds))]
             for part, number in zip(paired, numbers, strict=True)]
        )  # fmt: skip


def _days(times: Places, exposure_s: float) -> Places:
    """Return a number that changes at midnight UTC.

    Readers combine DATE-OBS with UT-STR and UT-END, so no product may span midnight; a frame whose
    own exposure does is one by itself.
    """
    return times // NS_PER_DAY + (times - round(exposure_s * NS_PER_S)) // NS_PER_DAY


def _starts(
    times: Places, breaks: np.ndarray[tuple[int], np.dtype[np.bool_]], rules: Chunks, octets: int
) -> list[int]:
    """Return where chunks begin: at breaks, and where the rules have had enough."""
    most = max(2, min(rules.frames, rules.bytes // max(1, octets)))
    long_ns = round(rules.seconds * NS_PER_S)
    starts = []
    for low, high in _pieces(breaks):
        at = low
        while at < high:
            starts.append(at)
            # A frame belongs to the chunk while it ends less than so long after the first one.
            end = at + int(np.searchsorted(times[at:high], times[at] + long_ns))
            at = min(high, at + most, max(end, at + 1))
    return starts


def _pieces(breaks: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(breaks[1:]) + 1).tolist(), len(breaks)]
    return list(itertools.pairwise(edges))


def lone_chunks(
    where: Places, rows: Rows, keys: Places, exposure_s: float, frame_bytes: int, rules: Chunks
) -> Iterator[Chunk]:
    """Cut the frames of one camera that have no partner, in the order of their cubes."""
    reason = rows["reason"][where]
    rules_of: tuple[tuple[Places, Callable[[Places], Places]], ...] = (
        (where[np.isin(reason, _KEPT_BY_CUBE)], lambda part: rows["cube"][part].astype(np.int64)),
        (where[reason == Reason.UNMATCHED], lambda part: keys[rows["cube"][part]]),
    )
    most = max(2, min(rules.frames, rules.bytes // max(1, frame_bytes)))
    for part, key_of in rules_of:
        if not len(part):
            continue
        key = key_of(part)
        days = _days(rows["MTIME"][part], exposure_s)
        breaks = np.concatenate([[True], (key[1:] != key[:-1]) | (days[1:] != days[:-1])])
        for low, high in _pieces(breaks):
            for at in range(low, high, most):
                yield Chunk([part[at : min(at + most, high)]])
