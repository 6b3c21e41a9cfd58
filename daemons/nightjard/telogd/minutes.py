# SPDX-License-Identifier: BSD-3-Clause
"""Minute files of pointing and housekeeping: what they hold, how two of one minute are joined."""

from __future__ import annotations

import itertools
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.api.telog import FileState
from nightjar.clock import NS_PER_S
from nightjar.das.naming import MINUTE_NS, day_of, minute_of
from nightjar.das.pointing import (
    MJD_EPOCH,
    RATE_HZ,
    RECORD,
    RECORDS,
    TICK_NS,
    PointingDamaged,
    check_minute,
)
from nightjar.errors import NightjarError
from nightjar.times import parse_iso

DAY_TICKS = 86400 * RATE_HZ
_ROT_STEP_NS = NS_PER_S
_TEL_STEP_NS = 3 * NS_PER_S


@dataclass(frozen=True, slots=True)
class MinuteFile:
    """What the ledger is told of a file.

    Attributes
    ----------
    stream, day, name
        Which one: raw, pointing or housekeeping; its folder and name.
    start_ns
        Its minute, ns UTC; None for no minute file.
    state
        What is known of it.
    size, crc32
        Of its bytes; None where it is not here.
    records
        Sound records, lines or samples in it.
    source
        Where it came from.
    reason
        What is wrong with it, "" for nothing.
    """

    stream: str
    day: str
    name: str
    start_ns: int | None
    state: FileState
    size: int | None = None
    crc32: int | None = None
    records: int | None = None
    source: str = ""
    reason: str = ""
    mtime_ns: int | None = None


def ticks_of(start_ns: int) -> tuple[int, int]:
    """Return MJD and first tick of a minute."""
    day, tick = divmod(start_ns // TICK_NS, DAY_TICKS)
    return day + MJD_EPOCH, tick


def slots_of(raw: NDArray[np.void], start_ns: int) -> NDArray[np.int64]:
    """Return the place of each record in its minute, 0 to 5999; others are of another minute."""
    mjd, tick = ticks_of(start_ns)
    return (
        (raw["mjd"].astype(np.int64) - mjd) * DAY_TICKS + raw["ticks"].astype(np.int64) - tick
    )


def ordered(data: bytes, start_ns: int) -> bytes:
    """Return the records of a minute in order, each tick once: the first that came."""
    raw = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
    slots = slots_of(raw, start_ns)
    ours = np.flatnonzero((slots >= 0) & (slots < RECORDS))
    _, first = np.unique(slots[ours], return_index=True)
    return raw[ours[first]].tobytes()


def join_pointing(start_ns: int, before: bytes, after: bytes) -> bytes:
    """Return all records of two logs of a minute; where both have one, that of the first."""
    return ordered(before[: len(before) // RECORD.itemsize * RECORD.itemsize] + after, start_ns)


def pointing_facts(data: bytes, start_ns: int, source: str) -> MinuteFile:
    """Return what a pointing log of a minute is."""
    day, name = day_of(start_ns), f"{minute_of(start_ns):04d}"
    count, reason, state = len(data) // RECORD.itemsize, "", FileState.WHOLE
    try:
        check_minute(data, start_ns, name)
    except PointingDamaged:
        state = FileState.PARTIAL
        reason = f"{count} of {RECORDS} records; missing {_holes(data, start_ns)}"
    return MinuteFile(
        "pointing", day, name, start_ns, state, len(data), zlib.crc32(data), count, source, reason
    )


def _holes(data: bytes, start_ns: int) -> str:
    """Return the seconds of a minute where records are missing, as text: "0.00-12.49 59.99"."""
    raw = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
    has = np.zeros(RECORDS + 2, bool)
    slots = slots_of(raw, start_ns)
    has[slots[(slots >= 0) & (slots < RECORDS)] + 1] = True
    has[0] = has[-1] = True
    steps = np.diff(has.astype(np.int8))
    begins, ends = np.flatnonzero(steps == -1), np.flatnonzero(steps == 1)
    parts = [
        f"{begin / RATE_HZ:.2f}-{(end - 1) / RATE_HZ:.2f}"
        for begin, end in zip(begins[:8].tolist(), ends[:8].tolist(), strict=True)
    ]
    return " ".join(parts) + (" ..." if begins.size > 8 else "") + " s"


def whole_minute_in(data: bytes, minute: int) -> int | None:
    """Return the start of the minute that a whole log holds by its own date; None for none.

    Parameters
    ----------
    minute
        The minute of the day by its name.
    """
    if len(data) != RECORDS * RECORD.itemsize:
        return None
    mjd = int(np.frombuffer(data, RECORD, 1)["mjd"][0])
    start = (mjd - MJD_EPOCH) * 86400 * NS_PER_S + minute * MINUTE_NS
    try:
        check_minute(data, start, "")
    except PointingDamaged:
        return None
    return start


# --- housekeeping --------------------------------------------------------------------------------


def parse_lines(data: bytes) -> list[tuple[int, int, str, bytes]]:
    """Return (seq, utc_ns, kind, line) of the readable lines of a housekeeping file."""
    found = []
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            continue
        try:
            values: dict[str, Any] = json.loads(line)
            found.append((int(values["seq"]), parse_iso(values["t"]), str(values["kind"]), line))
        except (ValueError, KeyError, TypeError, NightjarError):
            continue
    return found


def join_lines(before: bytes, after: bytes) -> bytes:
    """Return the lines of two files, in order of number, each number once."""
    lines: dict[int, bytes] = {}
    for seq, _, _, line in (*parse_lines(before), *parse_lines(after)):
        lines.setdefault(seq, line)
    return b"".join(lines[seq] for seq in sorted(lines))


def housekeeping_facts(
    data: bytes, start_ns: int, kinds: tuple[str, ...], source: str
) -> MinuteFile:
    """Return what a housekeeping file is: whole where each kind goes from its begin to its end."""
    day = day_of(start_ns)
    lines = parse_lines(data)
    wrong = []
    for kind in kinds:
        step = _ROT_STEP_NS if kind == "rot" else _TEL_STEP_NS
        times = sorted(utc for _, utc, one, _ in lines if one == kind)
        edges = [start_ns, *times, start_ns + MINUTE_NS]
        longest = max(b - a for a, b in itertools.pairwise(edges))
        if longest > step:
            wrong.append(f"{kind}: {len(times)} lines, {longest / NS_PER_S:.1f} s without")
    seen = {seq for seq, *_ in lines}
    if seen and max(seen) - min(seen) + 1 != len(seen):
        wrong.append(f"{max(seen) - min(seen) + 1 - len(seen)} numbers are missing")
    return MinuteFile(
        "housekeeping", day, f"enc_{day[2:]}_{minute_of(start_ns):04d}.jsonl", start_ns,
        FileState.PARTIAL if wrong or not lines else FileState.WHOLE, len(data), zlib.crc32(data),
        len(lines), source, "; ".join(wrong),
    )  # fmt: skip
