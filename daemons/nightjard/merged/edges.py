# SPDX-License-Identifier: BSD-3-Clause
"""Edges of the status lines in one minute, as the DAS saw them and as the telescope logged them.

Each has a half width: how far from the time told it can have been. A DAS sample every 20 ms leaves
10 ms, a record of the log every 10 ms leaves 5 ms; a sample that fell into the rise itself tells
the time within the rise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.das import pointing as log_format
from nightjar.das.channels import ChannelGroup
from nightjar.das.lines import Line, has_bit, levels
from nightjar.das.naming import MINUTE_NS, pointing_path, raw_path
from nightjar.das.raw import HEADER_BYTES, MISSING, RawDamaged, parse_header, read_index
from nightjar.errors import NightjarError
from nightjard.merged.config import MergedConfig, config_of

FIND_EDGES = "nightjard.merged.edges:find_edges"
"""The task's name, for the executor's table of functions."""
RISE_S = 0.0002
"""Rise time of a line between its levels."""
SPARSE_SAMPLES = 5
"""An edge between samples further apart is none: it may have been anywhere in a gap."""
SPARSE_RECORDS = 5
IN_RAMP = 0.15
"""A sample this part of the swing away from both levels lies in the rise."""

_Volts = tuple[NDArray[np.float64], NDArray[np.int16], list[float]]
"""Times by the DAS's clock, s from the minute's start, (n,); counts of the lines, (n, lines); ends
of gaps."""
_Flags = tuple[NDArray[np.int64], NDArray[np.uint32]]
"""Ticks from the minute's start and flag words, (n,)."""
Edge = list[float]
"""[number of the line in the configuration, 1 rise or 0 fall, s from the minute's start, half]"""


def find_edges(config: str, start_ns: int) -> dict[str, Any]:
    """Return the edges of one minute; what cannot be read has none.

    Parameters
    ----------
    config
        The text of a :class:`.config.MergedConfig`.
    start_ns
        Start of the minute, ns UTC.

    Returns
    -------
    dict
        ``minute_ns``; ``das`` and ``tel``: edges by either clock, in order of time; ``gaps``: ends
        of gaps of the raw data, s from the start; ``has_das``, ``has_tel``: whether there was
        something to look at.
    """
    return minutes_edges(config_of(config), [start_ns])[0]


def minutes_edges(config: MergedConfig, starts: list[int]) -> list[dict[str, Any]]:
    """Return the edges of minutes in order of time; each as of :func:`find_edges`."""
    found = []
    volts: tuple[int, _Volts | None] = (-1, None)
    flags: tuple[int, _Flags | None] = (-1, None)
    for start in starts:
        before = start - MINUTE_NS
        volts_before = volts[1] if volts[0] == before else _raw_samples(config, before)
        flags_before = flags[1] if flags[0] == before else _flags(config, before)
        volts = (start, _raw_samples(config, start))
        flags = (start, _flags(config, start))
        das = None if volts[1] is None else _das_edges(config, volts[1], volts_before)
        tel = None if flags[1] is None else _tel_edges(config, flags[1], flags_before)
        gaps = [] if volts[1] is None else volts[1][2]
        found.append(
            {"minute_ns": start, "das": das or [], "tel": tel or [], "gaps": gaps,
             "has_das": das is not None, "has_tel": tel is not None}
        )  # fmt: skip
    return found


def _lines(config: MergedConfig) -> list[tuple[int, ChannelGroup, Line]]:
    """Return the lines that both sides record: (number, group of the DAS, line)."""
    groups = {group.name: group for group in config.channels.of_kind("line") if group.is_connected}
    known = {line.variable: line for line in Line}
    return [
        (number, groups[name], known[name])
        for number, name in enumerate(config.alignment.lines) if name in groups
    ]  # fmt: skip


def _das_edges(config: MergedConfig, now: _Volts, before: _Volts | None) -> list[Edge]:
    times, lines, _ = now
    if before is not None:  # its last second: an edge may lie between the minutes
        keep = config.rate_hz
        times = np.concatenate((before[0][-keep:] - 60, times))
        lines = np.concatenate((before[1][-keep:], lines))
    found: list[Edge] = []
    spread = SPARSE_SAMPLES / config.rate_hz
    for column, (number, group, _) in enumerate(_lines(config)):
        counts = lines[:, column]
        is_valid = counts != MISSING
        volts = counts[is_valid] * config.volts_per_lsb
        skew = group.first * config.convert_interval_s
        delay = config.alignment.delays_s.get(group.name, 0.0)
        for rise, t_s, half in _of_volts(config, volts, times[is_valid], spread):
            at = t_s + skew - delay
            if 0 <= t_s < 60:
                found.append([number, rise, at, half])
    return sorted(found, key=lambda edge: edge[2])


def _raw_samples(config: MergedConfig, start_ns: int) -> _Volts | None:
    """Return what a raw file has of the lines; None where it cannot be used."""
    path = raw_path(config.raw_root, start_ns)
    rows, width = config.minute_samples, config.channels.count
    try:
        with path.open("rb") as file:
            header = parse_header(file.read(HEADER_BYTES), path.name)
        if (header["n_slots"], header["n_channels"]) != (rows, width):
            return None
        if path.stat().st_size != HEADER_BYTES + rows * width * 2:
            return None
        samples = np.memmap(path, "<i2", "r", HEADER_BYTES, (rows, width))
        index = read_index(path)
        offsets = np.zeros(rows)
        gaps: list[float] = []
        if index is not None and index["marks"]:
            marks = np.array(index["marks"], np.float64)
            offsets = np.interp(np.arange(rows), marks[:, 0], marks[:, 1] / 1e9)
            gaps = [(gap["slot"] + gap["count"]) / config.rate_hz for gap in index["gaps"]]
        lines = samples[:, [group.first for _, group, _ in _lines(config)]]
        return np.arange(rows) / config.rate_hz + offsets, lines, gaps
    except (OSError, RawDamaged, ValueError, KeyError, TypeError, IndexError):
        return None


def _of_volts(
    config: MergedConfig, volts: NDArray[np.float64], t_s: NDArray[np.float64], spread_s: float
) -> list[tuple[int, float, float]]:
    """Return edges of one line: (1 rise or 0 fall, time, half width)."""
    if volts.size < 2:
        return []
    limits = config.levels
    level = levels(volts, -1, limits.low_v, limits.high_v)
    changed = np.flatnonzero((level[1:] != level[:-1]) & (level[:-1] >= 0)) + 1
    if not changed.size:
        return []
    low, high = np.median(volts[level == 0]), np.median(volts[level == 1])
    fraction = (volts - low) / (high - low)
    found = []
    for new in changed.tolist():
        rise = int(level[new])
        old = new - 1
        # Between clear levels the line keeps its level: go back to the last sample at rest.
        while old > 0 and IN_RAMP < fraction[old] < 1 - IN_RAMP:
            old -= 1
        while new + 1 < volts.size and IN_RAMP < fraction[new] < 1 - IN_RAMP:
            new += 1
        if t_s[new] - t_s[old] > spread_s:
            continue
        found.append((rise, *_crossing(rise, fraction[old : new + 1], t_s[old : new + 1])))
    return found


def _crossing(
    rise: int, fraction: NDArray[np.float64], t_s: NDArray[np.float64]
) -> tuple[float, float]:
    """Return when a line crossed half its swing, and the half width of that.

    `fraction` begins and ends with a sample at rest; what is between lies in the rise.
    """
    inner = fraction.size - 2
    if inner == 0:
        return float(t_s[0] + t_s[1]) / 2, float(t_s[1] - t_s[0]) / 2
    done = fraction if rise else 1 - fraction
    if inner == 1:
        return float(t_s[1] + (0.5 - done[1]) * RISE_S), RISE_S
    slope = (done[-2] - done[1]) / (t_s[-2] - t_s[1])
    if slope <= 0:
        return float(t_s[0] + t_s[-1]) / 2, float(t_s[-1] - t_s[0]) / 2
    # A slow line: the straight line through its rise.
    return float(t_s[1] + (0.5 - done[1]) / slope), float(t_s[1] - t_s[0]) / 4


def _tel_edges(config: MergedConfig, now: _Flags, before: _Flags | None) -> list[Edge]:
    ticks, flags = now
    if before is not None:
        ticks = np.concatenate((before[0][-10:] - 60 * log_format.RATE_HZ, ticks))
        flags = np.concatenate((before[1][-10:], flags))
    changed = flags[1:] ^ flags[:-1]
    apart = np.diff(ticks)
    found: list[Edge] = []
    for number, _, line in _lines(config):
        at = np.flatnonzero(has_bit(changed, line.bit) & (apart <= SPARSE_RECORDS))
        rises = has_bit(flags[at + 1], line.bit)
        for index, rise in zip(at.tolist(), rises.tolist(), strict=True):
            t_s = (ticks[index] + ticks[index + 1]) / (2 * log_format.RATE_HZ)
            half = apart[index] / (2 * log_format.RATE_HZ)
            found.append([number, int(rise), float(t_s), float(half)])
    return sorted(found, key=lambda edge: edge[2])


def _flags(config: MergedConfig, start_ns: int) -> _Flags | None:
    """Return what is sound of a pointing log; None where nothing is."""
    if config.pointing_root is None:
        return None
    try:
        data = pointing_path(config.pointing_root, start_ns).read_bytes()
    except OSError:
        return None
    dtype = log_format.RECORD if config.layout == "current" else log_format.OLD_RECORD
    try:
        raw = np.frombuffer(data, dtype, len(data) // dtype.itemsize)
        day, tick = divmod(start_ns // log_format.TICK_NS, 86400 * log_format.RATE_HZ)
        since = raw["ticks"].astype(np.int64) - tick
        is_ours = (raw["mjd"] == day + log_format.MJD_EPOCH) & (since >= 0)
        is_ours &= since < log_format.RECORDS
        ticks, first = np.unique(since[is_ours], return_index=True)
        return (ticks, raw["flags"][is_ours][first].astype(np.uint32)) if ticks.size else None
    except (ValueError, NightjarError):
        return None
