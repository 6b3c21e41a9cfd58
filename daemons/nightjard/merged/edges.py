# SPDX-License-Identifier: BSD-3-Clause
"""Edges of the status lines in one minute, as the DAS saw them and as the telescope logged them.

Each has a half width: how far from the time told it can have been. A DAS sample every 20 ms leaves
10 ms, a record of the log every 10 ms leaves 5 ms; a sample that fell into the rise itself tells
the time within the rise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
from nightjard.merged.raw_minutes import RawPart, minute_bytes, timing_of
from nightjard.merged.reading import PointingPart

FIND_EDGES = "nightjard.merged.edges:find_edges"
"""The task's name, for the executor's table of functions."""
RISE_S = 0.0002
"""Rise time of a line between its levels."""
SPARSE_SAMPLES = 5
"""An edge between samples further apart is none: it may have been anywhere in a gap."""
SPARSE_RECORDS = 5
IN_RAMP = 0.15
"""A sample this part of the swing away from both levels lies in the rise."""

LineSamples = tuple[NDArray[np.float64], NDArray[np.int16], list[float]]
"""Times by the DAS's clock, s from the minute's start, (n,); counts of the lines, (n, lines); ends
of gaps."""
FlagWords = tuple[NDArray[np.int64], NDArray[np.uint32]]
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


@dataclass(frozen=True, slots=True)
class Known:
    """What was read of minutes already, by their start, ns UTC.

    Attributes
    ----------
    das, tel
        As :func:`lines_of` and :func:`flags_of` return them.
    """

    das: dict[int, LineSamples | None] = field(default_factory=dict)
    tel: dict[int, FlagWords | None] = field(default_factory=dict)


def minutes_edges(
    config: MergedConfig, starts: list[int], known: Known | None = None
) -> list[dict[str, Any]]:
    """Return the edges of minutes in order of time; each as of :func:`find_edges`.

    Parameters
    ----------
    config
        The configuration.
    starts
        Starts of the minutes, ns UTC.
    known
        What needs not be read from files.
    """
    known = known or Known()
    found = []
    das, tel = dict(known.das), dict(known.tel)
    for start in starts:
        before = start - MINUTE_NS
        for minute in (before, start):
            if minute not in das:
                das[minute] = _lines_in_file(config, minute)
            if minute not in tel:
                tel[minute] = _flags_in_file(config, minute)
        volts, flags = das[start], tel[start]
        gaps = [] if volts is None else volts[2]
        found.append(
            {"minute_ns": start,
             "das": [] if volts is None else _das_edges(config, volts, das[before]),
             "tel": [] if flags is None else _tel_edges(config, flags, tel[before]),
             "gaps": gaps, "has_das": volts is not None, "has_tel": flags is not None}
        )  # fmt: skip
        # The next needs this one only.
        del das[before], tel[before]
    return found


def _lines(config: MergedConfig) -> list[tuple[int, ChannelGroup, Line]]:
    """Return the lines that both sides record: (number, group of the DAS, line)."""
    groups = {group.name: group for group in config.channels.of_kind("line") if group.is_connected}
    known = {line.variable: line for line in Line}
    return [
        (number, groups[name], known[name])
        for number, name in enumerate(config.alignment.lines) if name in groups
    ]  # fmt: skip


def _das_edges(config: MergedConfig, now: LineSamples, before: LineSamples | None) -> list[Edge]:
    times, counts, _ = now
    if before is not None:  # its last second: an edge may lie between the minutes
        keep = config.rate_hz
        times = np.concatenate((before[0][-keep:] - 60, times))
        counts = np.concatenate((before[1][-keep:], counts))
    found: list[Edge] = []
    spread = SPARSE_SAMPLES / config.rate_hz
    volts = counts * config.volts_per_lsb
    is_high = volts > config.levels.high_v
    is_plain = is_high | ((volts < config.levels.low_v) & (counts != MISSING))
    is_quiet = is_plain.all(axis=0) & (is_high == is_high[0]).all(axis=0)
    for column, (number, group, _) in enumerate(_lines(config)):
        if is_quiet[column]:
            continue
        is_valid = counts[:, column] != MISSING
        skew = group.first * config.convert_interval_s
        delay = config.alignment.delays_s.get(group.name, 0.0)
        for rise, t_s, half in _of_volts(config, volts[is_valid, column], times[is_valid], spread):
            at = t_s + skew - delay
            if 0 <= t_s < 60:
                found.append([number, rise, at, half])
    return sorted(found, key=lambda edge: edge[2])


def lines_of(config: MergedConfig, raw: RawPart, start_ns: int) -> LineSamples | None:
    """Return what a raw minute that was read has of the lines, as edges are found in its file."""
    if raw.samples is None or not raw.has_timing or raw.size != minute_bytes(config):
        return _lines_in_file(config, start_ns)
    return _of_samples(config, raw.samples, raw.offsets_s, raw.gaps_s)


def _of_samples(
    config: MergedConfig, samples: NDArray[np.int16], offsets_s: NDArray[np.float64],
    gaps_s: list[float],
) -> LineSamples:  # fmt: skip
    counts = samples[:, [group.first for _, group, _ in _lines(config)]]
    return np.arange(len(samples)) / config.rate_hz + offsets_s, counts, gaps_s


def _lines_in_file(config: MergedConfig, start_ns: int) -> LineSamples | None:
    """Return what a raw file has of the lines; None where it cannot be used."""
    path = raw_path(config.raw_root, start_ns)
    rows, width = config.minute_samples, config.channels.count
    try:
        with path.open("rb") as file:
            header = parse_header(file.read(HEADER_BYTES), path.name)
        if (header["n_slots"], header["n_channels"]) != (rows, width):
            return None
        if path.stat().st_size != minute_bytes(config):
            return None
        samples = np.memmap(path, "<i2", "r", HEADER_BYTES, (rows, width))
        index = read_index(path)
        offsets, gaps = (np.zeros(rows), []) if index is None else timing_of(config, index)
        return _of_samples(config, samples, offsets, gaps)
    except (OSError, RawDamaged, ValueError, KeyError, TypeError, IndexError):
        return None


def _of_volts(
    config: MergedConfig, volts: NDArray[np.float64], t_s: NDArray[np.float64], spread_s: float
) -> list[tuple[int, float, float]]:
    """Return edges of one line: (1 rise or 0 fall, time, half width)."""
    if volts.size < 2:
        return []
    limits = config.levels
    is_high = volts > limits.high_v
    if np.all(is_high | (volts < limits.low_v)):
        level = is_high.view(np.int8)
    else:
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


def _tel_edges(config: MergedConfig, now: FlagWords, before: FlagWords | None) -> list[Edge]:
    ticks, flags = now
    if before is not None:
        ticks = np.concatenate((before[0][-10:] - 60 * log_format.RATE_HZ, ticks))
        flags = np.concatenate((before[1][-10:], flags))
    places = np.flatnonzero(flags[1:] != flags[:-1])
    apart = np.diff(ticks)
    places = places[apart[places] <= SPARSE_RECORDS]
    changed = flags[places + 1] ^ flags[places]
    found: list[Edge] = []
    for number, _, line in _lines(config):
        at = places[has_bit(changed, line.bit)]
        rises = has_bit(flags[at + 1], line.bit)
        for index, rise in zip(at.tolist(), rises.tolist(), strict=True):
            t_s = (ticks[index] + ticks[index + 1]) / (2 * log_format.RATE_HZ)
            half = apart[index] / (2 * log_format.RATE_HZ)
            found.append([number, int(rise), float(t_s), float(half)])
    return sorted(found, key=lambda edge: edge[2])


def flags_of(pointing: PointingPart, start_ns: int) -> FlagWords | None:
    """Return the flag words of a minute whose log was whole; None for others."""
    here = pointing.whole.get(start_ns)
    if here is None or pointing.records is None:
        return None
    flags = pointing.records.flags[here]
    return np.arange(flags.size), flags


def _flags_in_file(config: MergedConfig, start_ns: int) -> FlagWords | None:
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
