# SPDX-License-Identifier: BSD-3-Clause
"""One minute, or several of an hour, from the three streams into the hour's file.

The work on a minute is pure and idempotent: from the same files, configuration and alignment it
writes the same values, alone or with its hour, once or again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import Clock, SystemClock
from nightjar.das.naming import MINUTE_NS, raw_path
from nightjar.das.raw import HEADER_BYTES, MISSING
from nightjar.errors import InvalidArgument, NightjarError
from nightjard.merged import columns, netcdf, placing, quality
from nightjard.merged.alignment import Alignment, Piece, align_minutes, offsets_at, pieces_of
from nightjard.merged.config import MergedConfig, config_of
from nightjard.merged.edges import Known, flags_of, lines_of
from nightjard.merged.raw_minutes import RawPart, buffer_for, read_raw_part
from nightjard.merged.reading import (
    HousekeepingPart,
    PointingPart,
    read_housekeeping_part,
    read_pointing_part,
)
from nightjard.merged.variables import FILE_TEXT, INT_FILL, REASON_TEXT

log = logging.getLogger(__name__)

MERGE_MINUTE = "nightjard.merged.minute:merge_minute"
"""The task's name, for the executor's table of functions."""


@dataclass(slots=True)
class Span:
    """Minutes of one hour that are merged together.

    Attributes
    ----------
    config
        The configuration.
    minutes
        Starts, ns UTC, one after the other without a hole.
    alignment
        Pieces by minute start, as :func:`.alignment.fit` returns them; {} for none. None: fitted
        from the edges of these minutes, found on the way, and of those around them.
    is_late
        They were merged before, and their files came late: quality tells it.
    """

    config: MergedConfig
    minutes: list[int]
    alignment: Alignment | None = field(default_factory=dict)
    is_late: bool = False

    @property
    def hour_ns(self) -> int:
        """Start of their hour."""
        return netcdf.hour_of(self.minutes[0])

    @property
    def first(self) -> int:
        """Number of the first minute in its hour."""
        return (self.minutes[0] - self.hour_ns) // MINUTE_NS

    @property
    def with_margin(self) -> list[int]:
        """The minutes and one on each side."""
        return [self.minutes[0] - MINUTE_NS, *self.minutes, self.minutes[-1] + MINUTE_NS]


def merge_minute(
    config: str, start_ns: int, alignment: dict[str, Any] | None = None, is_late: bool = False
) -> dict[str, Any]:
    """Merge one minute into its hour's file; make the file if there is none.

    Parameters
    ----------
    config
        The text of a :class:`.config.MergedConfig`.
    start_ns
        Start of the minute, ns UTC.
    alignment
        As :func:`.alignment.as_json` makes it; None for none.
    is_late
        Mark the samples as merged again from late files.

    Returns
    -------
    dict
        ``path``; ``minutes``: a list with one {minute_ns, status, reason, samples}; ``again``:
        starts of other minutes of the hour that must be merged again, because a crash left them
        in mid-writing or the file was damaged and made anew; ``set_aside``: the damaged file.

    Raises
    ------
    NightjarError
        The product cannot be written: one line says what and why. Whatever is wrong with the
        inputs never raises: it gives fill, quality bits and a reason.
    """
    if start_ns % MINUTE_NS:
        raise InvalidArgument(f"start_ns {start_ns}: must be the start of a UT minute")
    span = Span(config_of(config), [start_ns], pieces_of(alignment), is_late)
    return merge_span(span)


def merge_span(span: Span, clock: Clock | None = None) -> dict[str, Any]:
    """Merge minutes of one hour; as :func:`merge_minute`."""
    config = span.config
    clock = clock or SystemClock()
    path = netcdf.hour_path(config.merged_root, span.hour_ns)
    if not config.merged_root.is_dir():
        raise NightjarError(f"cannot merge into {path}: folder {config.merged_root} does not exist")
    streams = Streams.read(span)
    aside = None
    with netcdf.hour_lock(config, span.hour_ns):
        for attempt in (1, 2):
            try:
                result = _write(span, streams, clock)
                break
            except netcdf.DamagedFile as error:
                # Writing can fail while the file is whole: then it stays, and the caller is told.
                if attempt == 2 or (path.exists() and netcdf.is_sound(path)):
                    raise
                if path.exists():
                    aside = netcdf.set_aside(path, clock.now_ns())
                    log.error("%s; it is now %s, the hour is made anew", error, aside.name)
    if aside is not None:
        others = range(span.hour_ns, span.hour_ns + netcdf.HOUR_NS, MINUTE_NS)
        result["again"] = [one for one in others if one not in span.minutes]
        result["set_aside"] = str(aside)
    return result


@dataclass(slots=True, eq=False)
class Streams:
    """Pointing and housekeeping of a span, with margins; raw files are read one by one."""

    pointing: PointingPart
    housekeeping: HousekeepingPart

    @classmethod
    def read(cls, span: Span) -> Streams:
        """Read them."""
        minutes, hour = span.with_margin, span.hour_ns
        return cls(
            read_pointing_part(span.config, minutes, hour),
            read_housekeeping_part(span.config, minutes, hour),
        )


def _write(span: Span, streams: Streams, clock: Clock) -> dict[str, Any]:
    config = span.config
    netcdf.create(config, span.hour_ns, clock.now_ns())
    numbers = list(range(span.first, span.first + len(span.minutes)))
    with netcdf.opened(config, span.hour_ns) as file:
        left = [
            number for number, status in enumerate(file.statuses()) if status == quality.PENDING
        ]
        if left and not netcdf.is_readable(file):
            raise netcdf.DamagedFile(f"{file.path} was left unreadable by a crash in mid-minute")
        file.begin(numbers)
        part = _Part.of(span)
        buffer = buffer_for(config)
        for number, start in zip(numbers, span.minutes, strict=True):
            _write_raw(file, span, number, read_raw_part(config, start, buffer), part, start)
        _align(span, part, streams)
        placing.write_sky(file, config, span.minutes, part.columns, streams.pointing,
                          streams.housekeeping)  # fmt: skip
        columns.write_housekeeping(file, span.hour_ns, span.minutes, streams.housekeeping)
        minutes = _close_minutes(file, span, part, streams)
    return {
        "path": str(netcdf.hour_path(config.merged_root, span.hour_ns)),
        "minutes": minutes,
        "again": [span.hour_ns + one * MINUTE_NS for one in left if one not in numbers],
        "set_aside": None,
    }


@dataclass(slots=True, eq=False)
class _Part:
    """What is gathered over the raw files of a span."""

    columns: columns.Columns
    raw: list[RawPart] = field(default_factory=list)
    known: Known = field(default_factory=Known)
    alignment: Alignment = field(default_factory=dict)

    @classmethod
    def of(cls, span: Span) -> _Part:
        config = span.config
        first = span.first * config.minute_samples
        return cls(columns.Columns.empty(config, span.hour_ns, first, len(span.minutes)))


def _write_raw(
    file: netcdf.HourFile, span: Span, number: int, raw: RawPart, part: _Part, start: int
) -> None:
    """Write a minute's bolometers, and put its other channels into the columns of the span."""
    config = span.config
    rows = config.minute_samples
    at = (number - span.first) * rows
    here = slice(at, at + rows)
    gathered = part.columns
    gathered.quality[here] = raw.quality | np.uint16(quality.LATE if span.is_late else 0)
    gathered.is_valid[here] = raw.is_valid
    gathered.das_offset[here] = raw.offsets_s
    if span.alignment is None:
        part.known.das[start] = lines_of(config, raw, start)
    _write_bolometers(file, config, number * rows, raw, gathered.quality[here])
    gathered.take_channels(config, here, raw, lambda: _last_row(config, start))
    raw.samples = None  # its megabytes are in the file now
    part.raw.append(raw)
    if raw.is_simulated is not None:
        told = "true" if raw.is_simulated else "false"
        if getattr(file.dataset, "simulated", "") != told:
            file.dataset.simulated = told


def _align(span: Span, part: _Part, streams: Streams) -> None:
    """Fit the difference of the clocks where it is not given, and take it off."""
    config = span.config
    if span.alignment is None:
        flags = {one: flags_of(streams.pointing, one) for one in streams.pointing.whole}
        known = Known(part.known.das, flags)
        part.alignment = align_minutes(config, span.minutes, known)
    else:
        part.alignment = span.alignment
    if config.alignment.align != "apply":
        return
    rows = config.minute_samples
    for index, start in enumerate(span.minutes):
        offsets = part.columns.das_offset[index * rows : (index + 1) * rows]
        nominal = (np.arange(rows) + (span.first + index) * rows) / config.rate_hz
        pieces = part.alignment.get(start, [])
        offsets -= offsets_at(pieces, start, nominal + offsets, span.hour_ns)


def _write_bolometers(
    file: netcdf.HourFile, config: MergedConfig, first: int, raw: RawPart,
    bits: NDArray[np.uint16],
) -> None:  # fmt: skip
    channels = {"AC": config.channels.bolometers("AC"), "DC": config.channels.bolometers("DC")}
    for lockin, numbers in channels.items():
        if not numbers:
            continue
        if raw.samples is None:
            values = np.full((config.minute_samples, len(numbers)), MISSING, np.int16)
        else:
            values = columns.gather(raw.samples, numbers)
        file.write(f"{lockin.lower()}_bolos", first, values)
    if raw.samples is None:
        return
    used = set(channels["AC"]) | set(channels["DC"])
    suspects = sorted(used if raw.saturated is None else used & set(raw.saturated))
    if suspects:
        chosen = raw.samples[:, suspects]
        at_rails = ((chosen == 32767) | (chosen == -32767)).any(axis=1)
        bits[at_rails] |= np.uint16(quality.SATURATED)


def _last_row(config: MergedConfig, start: int) -> NDArray[np.int16] | None:
    """Return the last sample of the minute before; None where it has none."""
    path = raw_path(config.raw_root, start - MINUTE_NS)
    width = config.channels.count
    try:
        with path.open("rb") as file:
            file.seek(HEADER_BYTES + (config.minute_samples - 1) * width * 2)
            row = np.frombuffer(file.read(width * 2), "<i2")
    except OSError:
        return None
    return row if row.size == width and row[0] != MISSING else None


def _close_minutes(
    file: netcdf.HourFile, span: Span, part: _Part, streams: Streams
) -> list[dict[str, Any]]:
    """Write what holds for whole minutes, status last, and return it."""
    rows = span.config.minute_samples
    found = []
    for index, start in enumerate(span.minutes):
        raw = part.raw[index]
        here = slice(index * rows, (index + 1) * rows)
        sources = [streams.pointing.sources[start], streams.housekeeping.sources[start]]
        bits = part.columns.quality[here]
        status = quality.minute_status(
            raw.is_valid, not (bits & quality.NO_POINTING).any(), bool(sources[1].name)
        )
        reasons = [*raw.reasons, *(one.reason for one in sources if one.reason)]
        without = int(((bits & quality.NO_POINTING) > 0).sum())
        if without and not sources[0].reason:
            reasons.append(f"no pointing at {without} samples: a minute beside it is missing")
        found.append(
            {"minute_ns": start, "status": status, "reason": "; ".join(reasons),
             "samples": int(raw.is_valid.sum()), "raw": raw.source,
             "pointing": sources[0].name, "housekeeping": sources[1].name}
        )  # fmt: skip
    _write_minutes(file, span, part.alignment, found)
    return found


def _write_minutes(
    file: netcdf.HourFile, span: Span, alignment: Alignment, found: list[dict[str, Any]]
) -> None:
    first = span.first
    for name in ("raw", "pointing", "housekeeping"):
        rows = netcdf.text_rows([one[name] for one in found], FILE_TEXT)
        file.write(f"input_{name}", first, rows)
    reasons = netcdf.text_rows([one["reason"] for one in found], REASON_TEXT)
    file.write("minute_reason", first, reasons)
    values: dict[str, list[float]] = {name: [] for name in ("offset", "drift", "sigma", "residual")}
    edges, applied = [], []
    for start in span.minutes:
        pieces = alignment.get(start, [])
        piece = pieces[-1] if pieces else Piece.unknown(start)
        middle = start + MINUTE_NS // 2
        values["offset"].append(piece.offset_at(middle))
        values["drift"].append(piece.drift_ppm)
        values["sigma"].append(piece.sigma_s)
        values["residual"].append(piece.residual_s)
        edges.append(piece.n_edges if pieces else INT_FILL)
        applied.append(bool(pieces) and span.config.alignment.align == "apply")
    for name, column in values.items():
        file.write(f"clock_{name}", first, np.array(column, np.float64))
    file.write("clock_edges", first, np.array(edges, np.int32))
    file.write("clock_applied", first, np.array(applied, np.int8))
    # After all else: until then the minute is pending.
    file.dataset.sync()
    file.write("minute_status", first, np.array([one["status"] for one in found], np.int8))
