# SPDX-License-Identifier: BSD-3-Clause
"""Pointing log and housekeeping of some minutes as arrays; damaged files give what is sound.

Times are float64 seconds from the start of the UT hour, so that a minute gives the same numbers
whether it is merged alone or with its hour.
"""

from __future__ import annotations

import logging
import math
import operator
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjar.das import pointing as log_format
from nightjar.das import telinfo
from nightjar.das.housekeeping import read_housekeeping
from nightjar.das.naming import (
    MINUTE_NS,
    day_of,
    housekeeping_path,
    minute_of,
    pointing_path,
)
from nightjar.das.pointing import Pointing
from nightjar.errors import NightjarError
from nightjard.merged.config import MergedConfig
from nightjard.merged.variables import ONEHERTZ

log = logging.getLogger(__name__)

TEL_KEYS = tuple(key for _, key, *_ in ONEHERTZ.values())
"""What is kept of the telescope's records: all of an hour would fill 20 MB."""
_taken = operator.itemgetter(*TEL_KEYS)
_of_rot = operator.itemgetter("t", "age_s", "angle_deg", "error_deg", "is_busy", "is_limit")


@dataclass(slots=True)
class Source:
    """What became of one file.

    Attributes
    ----------
    name
        Name and CRC-32 of its content; "" where it is missing.
    reason
        Why it is missing or what of it is not sound; "" for none.
    """

    name: str = ""
    reason: str = ""


@dataclass(slots=True, eq=False)
class PointingPart:
    """Sound pointing records of some minutes, in order, each once.

    Attributes
    ----------
    records
        None where there is not one.
    t_s
        Their times by the telescope's clock, s from the start of the hour, (n,).
    whole
        Start of a minute, ns -> where its records are; only of minutes that have all of them.
    sources
        Start of a minute, ns -> what became of its file.
    """

    records: Pointing | None
    t_s: NDArray[np.float64]
    whole: dict[int, slice]
    sources: dict[int, Source]


@dataclass(slots=True, eq=False)
class HousekeepingPart:
    """Rotator and telescope records of some minutes, in order of time.

    Attributes
    ----------
    rot_t_s
        Times of the rotator's readings, s from the start of the hour, (n,); those with an angle.
    angle_deg, error_deg
        Its angle, and target minus angle (NaN where not known), (n,).
    is_busy, is_limit
        Whether it moves by its own word; whether its limit is latched, (n,).
    tel_t_s
        Times of the telescope's records, (m,).
    tel
        Their values, in the order of :data:`TEL_KEYS`; None for what is not known.
    sources
        Start of a minute, ns -> what became of its file.
    """

    rot_t_s: NDArray[np.float64]
    angle_deg: NDArray[np.float64]
    error_deg: NDArray[np.float64]
    is_busy: NDArray[np.bool_]
    is_limit: NDArray[np.bool_]
    tel_t_s: NDArray[np.float64]
    tel: list[tuple[Any, ...]]
    sources: dict[int, Source]


def read_pointing_part(config: MergedConfig, minutes: list[int], hour_ns: int) -> PointingPart:
    """Read the pointing logs of minutes.

    Parameters
    ----------
    config
        Where they are, and their layout.
    minutes
        Starts of the minutes, ns UTC, in order.
    hour_ns
        Zero point of the times, ns UTC.
    """
    parts, sources, whole, count = [], {}, {}, 0
    for start in minutes:
        source, records = _pointing_minute(config, start)
        sources[start] = source
        if records is not None and len(records):
            parts.append(records)
            if not source.reason:
                whole[start] = slice(count, count + len(records))
            count += len(records)
    if not parts:
        return PointingPart(None, np.zeros(0), whole, sources)
    records = log_format.join(parts)
    return PointingPart(records, (records.utc_ns - hour_ns) / 1e9, whole, sources)


def _pointing_minute(config: MergedConfig, start: int) -> tuple[Source, Pointing | None]:
    if config.pointing_root is None:
        return Source(reason="no folder of pointing logs is configured"), None
    path = pointing_path(config.pointing_root, start)
    name = f"pointing {path.name}"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Source(reason=f"no {name}"), None
    except OSError as error:
        return Source(reason=f"{name} cannot be read: {error.strerror}"), None
    source = Source(f"{path.name} crc32 {zlib.crc32(data):08x}")
    if path.with_name(path.name + log_format.LOCK_SUFFIX).exists():
        source.reason = f"{name} is still being written ({path.name}{log_format.LOCK_SUFFIX})"
        return source, None
    records = log_format.decode(data, config.layout)
    expected = start + np.arange(log_format.RECORDS, dtype=np.int64) * log_format.TICK_NS
    if len(records) == expected.size and np.array_equal(records.utc_ns, expected):
        return source, records
    sound = log_format.sound_records(data, start, config.layout)
    sound = sound.part(np.argsort(sound.utc_ns, kind="stable"))  # type: ignore[arg-type]
    source.reason = _lost_pointing(name, records, sound, start)
    return source, sound


def _lost_pointing(name: str, records: Pointing, sound: Pointing, start: int) -> str:
    if not len(sound):
        if not len(records):
            return f"{name} has not one whole record"
        day = day_of(int(records.utc_ns[0])) if records.utc_ns[0] > 0 else "none"
        return (
            f"{name} has not one record of its minute; the first is of day {day}, minute "
            f"{minute_of(int(records.utc_ns[0])):04d}: another minute's file under this name"
        )
    return f"{name}: {len(sound)} of {log_format.RECORDS} records are sound"


@dataclass(slots=True)
class _Rows:
    """Rows of housekeeping while they are gathered.

    Attributes
    ----------
    rot
        Blocks (n, 5) of time, angle, error, is busy, is limit.
    tel
        (time, values as of :class:`HousekeepingPart`).
    """

    rot: list[NDArray[np.float64]] = field(default_factory=list)
    tel: list[tuple[float, tuple[Any, ...]]] = field(default_factory=list)


def read_housekeeping_part(
    config: MergedConfig, minutes: list[int], hour_ns: int
) -> HousekeepingPart:
    """Read the housekeeping of minutes; parameters as of :func:`read_pointing_part`."""
    rows, sources = _Rows(), {}
    for start in minutes:
        sources[start] = _housekeeping_minute(config, start, hour_ns, rows)
    rows.tel.sort(key=lambda row: row[0])
    rot = np.concatenate([np.zeros((0, 5)), *rows.rot])
    # A time twice tells nothing new.
    rot = rot[np.unique(rot[:, 0], return_index=True)[1]]
    return HousekeepingPart(
        rot_t_s=rot[:, 0].copy(), angle_deg=rot[:, 1].copy(), error_deg=rot[:, 2].copy(),
        is_busy=rot[:, 3] > 0, is_limit=rot[:, 4] > 0,
        tel_t_s=np.array([t for t, _ in rows.tel]), tel=[values for _, values in rows.tel],
        sources=sources,
    )  # fmt: skip


def _housekeeping_minute(config: MergedConfig, start: int, hour_ns: int, rows: _Rows) -> Source:
    if config.housekeeping_root is None:
        return Source(reason="no folder of housekeeping is configured")
    path = housekeeping_path(config.housekeeping_root, start)
    old = path.with_name(f"{path.parent.name}_{minute_of(start):04d}_rpc.bin")
    for one, reader in ((path, _lines), (old, _records)):
        try:
            data = one.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            return Source(reason=f"{one.name} cannot be read: {error.strerror}")
        source = Source(f"{one.name} crc32 {zlib.crc32(data):08x}")
        bad = reader(one, data, start, hour_ns, rows)
        if bad:
            source.reason = f"{one.name}: {bad}"
        return source
    return Source(reason=f"no {path.name}")


def _lines(path: Path, data: bytes, start: int, hour_ns: int, rows: _Rows) -> str:
    """Take JSON lines; return what is wrong with them."""
    base = (start - hour_ns) / 1e9
    stamp = _minute_text(start)
    try:
        # A file is whole as a rule, and its lines are objects: one call for all of them.
        found = orjson.loads(b"[" + data.rstrip(b"\n").replace(b"\n", b",") + b"]")
        if len({one["seq"] for one in found}) != len(found):
            raise ValueError("duplicates")
        texts = [one["t"] for one in found]
        if texts and not (min(texts).startswith(stamp) and max(texts).startswith(stamp)):
            raise ValueError("lines of another minute")
        rot, tel = (
            [one for one in found if one["kind"] == kind and one[key] is not None]
            for kind, key in (("rot", "angle_deg"), ("tel", "record"))
        )
        block = _rot_block(rot, base)
        records = [(base + float(one["t"][17:]), _values(one["record"])) for one in tel]
    except (ValueError, KeyError, TypeError):
        return _doubtful_lines(path, base, hour_ns, rows)
    rows.rot.append(block)
    rows.tel += records
    return ""


def _values(record: dict[str, Any]) -> tuple[Any, ...]:
    try:
        found: tuple[Any, ...] = _taken(record)
        return found
    except KeyError:
        return tuple(record.get(key) for key in TEL_KEYS)


def _rot_block(lines: list[dict[str, Any]], base: float) -> NDArray[np.float64]:
    """Return rows of :class:`_Rows` of the rotator's lines; they have an angle."""
    if not lines:
        return np.zeros((0, 5))
    stamps, ages, angles, errors, busy, limits = zip(*map(_of_rot, lines), strict=True)
    block = np.empty((len(lines), 5))
    block[:, 0] = base + np.array([float(one[17:]) for one in stamps])
    block[:, 0] -= np.nan_to_num(np.array(ages, np.float64))  # None becomes NaN
    block[:, 1], block[:, 2] = np.array(angles, np.float64), np.array(errors, np.float64)
    block[:, 3], block[:, 4] = np.array(busy, bool), np.array(limits, bool)
    return block


def _doubtful_lines(path: Path, base: float, hour_ns: int, rows: _Rows) -> str:
    """Take JSON lines one by one; return what is wrong with them."""
    kept, bad = read_housekeeping(path)
    strange = 0
    for one in kept:
        t_s = (one["utc_ns"] - hour_ns) / 1e9
        if not base - 1 <= t_s < base + 61:
            strange += 1  # of another minute: its clock or its name is wrong
            continue
        try:
            _take(rows, t_s, one)
        except (TypeError, ValueError, KeyError):
            bad += 1
    faults = [f"{bad} lines are unreadable"] * (bad > 0)
    faults += [f"{strange} lines are of another minute"] * (strange > 0)
    return ", ".join(faults)


def _minute_text(start: int) -> str:
    seconds = start // NS_PER_S
    day = day_of(start)
    return f"{day[:4]}-{day[4:6]}-{day[6:]}T{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:"


def _take(rows: _Rows, t_s: float, one: dict[str, Any]) -> None:
    kind = one["kind"]
    if kind == "rot":
        angle = one["angle_deg"]
        if angle is not None:
            error = one["error_deg"]
            at = t_s - (one.get("age_s") or 0.0)
            off = math.nan if error is None else float(error)
            row = (at, float(angle), off, bool(one["is_busy"]), bool(one["is_limit"]))
            rows.rot.append(np.array([row], np.float64))
    elif kind == "tel" and one["record"] is not None:
        rows.tel.append((t_s, _values(one["record"])))


def _records(path: Path, data: bytes, start: int, hour_ns: int, rows: _Rows) -> str:
    """Take the old records of 768 bytes; return what is wrong with them."""
    size = telinfo.RECORD_BYTES
    bad = 1 if len(data) % size else 0
    for at in range(0, len(data) - size + 1, size):
        try:
            record = telinfo.unpack(data[at : at + size])
        except NightjarError:
            bad += 1
            continue
        if not start <= record["utc_ns"] < start + MINUTE_NS:
            bad += 1
            continue
        t_s = (record["utc_ns"] - hour_ns) / 1e9
        rows.tel.append((t_s, _values(record)))
        angle = record["rotator_encoder_deg"]
        if angle is not None:
            rows.rot.append(np.array([(t_s, angle, math.nan, 0, 0)]))
    return f"{bad} records are damaged or of another minute" if bad else ""
