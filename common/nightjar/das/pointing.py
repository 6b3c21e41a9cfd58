# SPDX-License-Identifier: BSD-3-Clause
"""The telescope's pointing log: fixed big-endian records at 100 Hz, a file MMMM per UT minute.

The layouts are those of the CSO's antenna computer (its pages plog, plog2, plog3 and plog4): 52
bytes now, 44 bytes (no X and Y offset) before July 2002. A file has 6000 records and is
overwritten the next day: only the MJD inside tells which day it holds. While it is written,
``MMMM.lck`` exists beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjar.das.naming import MINUTE_NS, pointing_start_ns
from nightjar.errors import StorageError

RATE_HZ = 100
RECORDS = 60 * RATE_HZ
TICK_NS = NS_PER_S // RATE_HZ
MJD_EPOCH = 40587
"""MJD of 1970-01-01."""
LOCK_SUFFIX = ".lck"

_HEAD = [
    ("mjd", ">u4"), ("ticks", ">u4"), ("flags", ">u4"), ("lst", ">u4"), ("ra", ">u4"),
    ("dec", ">i4"), ("pa", ">i4"),
]  # fmt: skip
_OFFSETS = [("x_offset", ">i4"), ("y_offset", ">i4")]
_TAIL = [("az", ">i4"), ("el", ">i4"), ("eaz", ">i4"), ("eel", ">i4")]
RECORD = np.dtype([*_HEAD, *_OFFSETS, *_TAIL])
"""The present layout, 52 bytes: ``mjd`` at UTC midnight; ``ticks`` 0.01 s since midnight;
``flags``; ``lst`` apparent, 0.01 s; ``ra`` requested, apparent, 0.01 s of time; ``dec`` 0.1 arcsec;
``pa`` parallactic angle 0.1 arcsec; offsets, az, el and their errors 0.1 arcsec."""
OLD_RECORD = np.dtype([*_HEAD, *_TAIL])
"""The layout before July 2002, 44 bytes."""
RECORD_BYTES = {"current": RECORD.itemsize, "old": OLD_RECORD.itemsize}

FLAG_BITS: dict[str, int] = {
    "equat_offset_tel": 15, "off_beam_tel": 10, "on_beam_tel": 9, "chopping_tel": 8,
    "trck_tel": 4, "acq_tel": 3, "scan_tel": 2, "tran_tel": 1, "cele_tel": 0,
}  # fmt: skip
"""Name in merged files -> bit of the flag word. RA, Dec and PA hold only with ``cele_tel`` set.
The status lines are in the same word: :class:`nightjar.das.lines.Line`."""

_ARCSEC10 = 1 / 36000  # degrees per 0.1 arcsec
_HUNDREDTH_S = 1 / 360000  # hours per 0.01 s of time


class PointingDamaged(StorageError):
    """A pointing log is cut short, of another day or not in order; the message says which."""


@dataclass(frozen=True, slots=True, eq=False)
class Pointing:
    """Pointing records in physical units; all arrays (n,), in order of time.

    Attributes
    ----------
    utc_ns
        int64, ns UTC by the telescope's clock.
    flags
        uint32, the flag word.
    lst_h
        Apparent sidereal time, hours.
    ra_deg, dec_deg
        Requested apparent place, degrees; NaN where not celestial.
    pa_deg
        Parallactic angle, degrees, north through east; NaN where not celestial.
    x_offset_deg, y_offset_deg
        Moving offsets of a scan, degrees on the sky; NaN in the old layout. Along RA and Dec where
        the flag equat_offset_tel is set, else along azimuth and elevation.
    az_deg, el_deg
        Requested, degrees.
    eaz_deg, eel_deg
        True minus requested, degrees of the coordinate (azimuth not times cos el).
    """

    utc_ns: NDArray[np.int64]
    flags: NDArray[np.uint32]
    lst_h: NDArray[np.float64]
    ra_deg: NDArray[np.float64]
    dec_deg: NDArray[np.float64]
    pa_deg: NDArray[np.float64]
    x_offset_deg: NDArray[np.float64]
    y_offset_deg: NDArray[np.float64]
    az_deg: NDArray[np.float64]
    el_deg: NDArray[np.float64]
    eaz_deg: NDArray[np.float64]
    eel_deg: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.utc_ns.size)

    def part(self, chosen: NDArray[np.bool_] | slice) -> Pointing:
        """Return some of the records."""
        return Pointing(*(getattr(self, each.name)[chosen] for each in fields(self)))


def join(parts: list[Pointing]) -> Pointing:
    """Return records of several logs as one, in the order given."""
    return Pointing(
        *(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Pointing))
    )


def decode(data: bytes, layout: Literal["current", "old"] = "current") -> Pointing:
    """Return records as physical values; a last one cut short is left out."""
    dtype = RECORD if layout == "current" else OLD_RECORD
    raw = np.frombuffer(data, dtype, len(data) // dtype.itemsize)
    is_celestial = (raw["flags"] & 1) == 1
    unknown = np.full(raw.size, np.nan)

    def degrees(name: str) -> NDArray[np.float64]:
        return raw[name].astype(np.float64) * _ARCSEC10

    has_offsets = layout == "current"
    days = raw["mjd"].astype(np.int64) - MJD_EPOCH
    return Pointing(
        utc_ns=days * (86400 * NS_PER_S) + raw["ticks"].astype(np.int64) * TICK_NS,
        flags=raw["flags"].astype(np.uint32),
        # Clocks of old logs wrote small negative sidereal times: u32 of them is taken back here.
        lst_h=np.asarray(raw["lst"].astype(np.int32) * _HUNDREDTH_S % 24, np.float64),
        ra_deg=np.where(is_celestial, raw["ra"] * (_HUNDREDTH_S * 15), np.nan),
        dec_deg=np.where(is_celestial, degrees("dec"), np.nan),
        pa_deg=np.where(is_celestial, degrees("pa"), np.nan),
        x_offset_deg=degrees("x_offset") if has_offsets else unknown,
        y_offset_deg=degrees("y_offset") if has_offsets else unknown,
        az_deg=degrees("az"), el_deg=degrees("el"), eaz_deg=degrees("eaz"), eel_deg=degrees("eel"),
    )  # fmt: skip


def encode(pointing: Pointing, layout: Literal["current", "old"] = "current") -> bytes:
    """Return the records of a log, rounded to its units; NaN becomes 0."""
    raw = np.zeros(len(pointing), RECORD if layout == "current" else OLD_RECORD)
    day_ns = 86400 * NS_PER_S
    raw["mjd"] = pointing.utc_ns // day_ns + MJD_EPOCH
    raw["ticks"] = (pointing.utc_ns % day_ns + TICK_NS // 2) // TICK_NS
    raw["flags"] = pointing.flags

    def put(name: str, values: NDArray[np.float64], unit: float) -> None:
        raw[name] = np.rint(np.nan_to_num(values) / unit).astype(np.int64)

    put("lst", pointing.lst_h, _HUNDREDTH_S)
    put("ra", np.nan_to_num(pointing.ra_deg) % 360, _HUNDREDTH_S * 15)
    for name in ("dec", "pa", "az", "el", "eaz", "eel"):
        put(name, getattr(pointing, f"{name}_deg"), _ARCSEC10)
    if layout == "current":
        put("x_offset", pointing.x_offset_deg, _ARCSEC10)
        put("y_offset", pointing.y_offset_deg, _ARCSEC10)
    return raw.tobytes()


def check_minute(data: bytes, start_ns: int, name: str) -> None:
    """Check that a whole log of the present layout holds a certain minute.

    Parameters
    ----------
    data
        Content of the file.
    start_ns
        Start of the minute that it should hold, ns UTC.
    name
        What messages call it.

    Raises
    ------
    PointingDamaged
        Cut short; of another day or minute; ticks that do not go on by one.
    """
    if len(data) != RECORDS * RECORD.itemsize:
        raise PointingDamaged(
            f"{name}: {len(data)} bytes; a whole minute has {RECORDS * RECORD.itemsize}"
        )
    raw = np.frombuffer(data, RECORD)
    day, tick = divmod(start_ns // TICK_NS, 86400 * RATE_HZ)
    wrong_day = np.flatnonzero(raw["mjd"] != day + MJD_EPOCH)
    if wrong_day.size:
        found = int(raw["mjd"][wrong_day[0]])
        raise PointingDamaged(
            f"{name}: record {wrong_day[0]} is of MJD {found}, not {day + MJD_EPOCH}: "
            "the file of another day under this name"
        )
    wrong = np.flatnonzero(raw["ticks"] != tick + np.arange(RECORDS))
    if wrong.size:
        raise PointingDamaged(
            f"{name}: record {wrong[0]} has tick {raw['ticks'][wrong[0]]}, not {tick + wrong[0]}; "
            f"{wrong.size} records are not where they should be"
        )


def sound_records(data: bytes, start_ns: int, layout: Literal["current", "old"]) -> Pointing:
    """Return what is sound of a damaged minute: its records of the right minute, in order, once."""
    pointing = decode(data, layout)
    is_ours = (pointing.utc_ns >= start_ns) & (pointing.utc_ns < start_ns + MINUTE_NS)
    ours = pointing.part(is_ours)
    _, first = np.unique(ours.utc_ns, return_index=True)
    kept = np.zeros(len(ours), bool)
    kept[first] = True
    return ours.part(kept)


def read_pointing(path: Path, layout: Literal["current", "old"] = "current") -> Pointing:
    """Return the sound records of a log, in order; its folder and name tell its minute.

    Raises
    ------
    PointingDamaged
        Not one record in it is of its minute, or its name is no minute's.
    StorageError
        It cannot be read.
    """
    start = pointing_start_ns(path)
    if start is None:
        raise PointingDamaged(f"{path}: must be YYYYMMDD/MMMM")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    pointing = sound_records(data, start, layout)
    if not len(pointing):
        check_minute(data, start, str(path))
        raise PointingDamaged(f"{path}: not one record is of its minute")
    return pointing
