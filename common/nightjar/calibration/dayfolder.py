# SPDX-License-Identifier: BSD-3-Clause
"""Names of the files of a day, and what a day folder holds.

=====================  ==================================================
day folder             ``21_Feb_80``
image of a CCD         ``EUC_17210_210280D101530T_ROE1_CCD1.fits``
exposure log           ``EXP_LOG_210280.txt``, further ones ``EXP_LOG_210280_2.txt``
housekeeping of OBSID  ``HK_17210_210280D101530T_ROE1.txt``
housekeeping master    ``HK_21-02-80_ROE1_01.txt``
=====================  ==================================================

Prefix and unit are free: a camera of ours writes ``NJ_1_..._CAM1_CCD1.fits``. Times are UTC; two
digits of a year are resolved by :func:`nightjar.calibration.elvis.full_year`. A session that goes
on over midnight stays in its folder, but may begin a new log and a new master there; it may also
be split over two folders: see :func:`list_days`.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nightjar.calibration.elvis import as_ns, full_year, parse_stamp, stamp, utc
from nightjar.errors import StorageError, storage_code

PREFIX = "EUC"
UNIT = "ROE1"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WORD = r"[A-Za-z][A-Za-z0-9-]*"
_IMAGE = re.compile(
    rf"(?P<prefix>{_WORD})_(?P<obsid>\d{{1,9}})_(?P<stamp>\d{{6}}D\d{{6}}T)"
    rf"_(?P<unit>{_WORD})_CCD(?P<ccd>\d{{1,2}})\.fits\Z",
    re.ASCII,
)
_LOG = re.compile(r"EXP_LOG_(\d{2})(\d{2})(\d{2})(?:_(\d{1,3}))?\.txt\Z", re.ASCII)
_HK = re.compile(
    rf"HK_(?P<obsid>\d{{1,9}})_(?P<stamp>\d{{6}}D\d{{6}}T)_(?P<unit>{_WORD})\.txt\Z", re.ASCII
)
_MASTER = re.compile(
    rf"HK_(\d{{2}})-(\d{{2}})-(\d{{2}})_(?P<unit>{_WORD})_(?P<number>\d{{1,4}})\.txt\Z", re.ASCII
)
_FOLDER = re.compile(r"(\d{2})_([A-Z][a-z]{2})_(\d{2})\Z", re.ASCII)


# --- names ---


def day_folder_name(day: int | dt.date) -> str:
    """Return the name of the folder of a day, given as a date or as nanoseconds UTC."""
    date = utc(day) if isinstance(day, int) else day
    return f"{date.day:02d}_{_MONTHS[date.month - 1]}_{date.year % 100:02d}"


def parse_day_folder(name: str) -> dt.date:
    """Return the date of a day folder; ValueError where it is none."""
    match = _FOLDER.match(name)
    if match is None or match[2] not in _MONTHS:
        raise ValueError(f"not a day folder like 21_Feb_80: {name!r}")
    return dt.date(full_year(int(match[3])), _MONTHS.index(match[2]) + 1, int(match[1]))


def file_stem(obsid: int, utc_ns: int, ccd: int, *, unit: str = UNIT, prefix: str = PREFIX) -> str:
    """Return the name of an image without extension: what the log calls ``File_name``."""
    return f"{prefix}_{obsid}_{stamp(utc_ns)}_{unit}_CCD{ccd}"


def image_name(obsid: int, utc_ns: int, ccd: int, *, unit: str = UNIT, prefix: str = PREFIX) -> str:
    """Return the name of the image of a CCD."""
    return file_stem(obsid, utc_ns, ccd, unit=unit, prefix=prefix) + ".fits"


@dataclass(frozen=True, slots=True)
class ImageName:
    """The parts of the name of an image."""

    obsid: int
    utc_ns: int
    ccd: int
    unit: str = UNIT
    prefix: str = PREFIX


def parse_image_name(name: str) -> ImageName:
    """Return the parts of the name of an image.

    Raises
    ------
    ValueError
        It is not one.
    """
    match = _IMAGE.match(name)
    if match is None:
        raise ValueError(f"not an image like EUC_17210_210280D101530T_ROE1_CCD1.fits: {name!r}")
    return ImageName(
        int(match["obsid"]), parse_stamp(match["stamp"]), int(match["ccd"]), match["unit"],
        match["prefix"],
    )  # fmt: skip


def explog_name(utc_ns: int, number: int = 1) -> str:
    """Return the name of the log of a day; further ones that day are numbered."""
    tail = f"_{number}" if number > 1 else ""
    return f"EXP_LOG_{utc(utc_ns).strftime('%d%m%y')}{tail}.txt"


def parse_explog_name(name: str) -> tuple[dt.date, int]:
    """Return day and number of a log; ValueError where it is none."""
    match = _LOG.match(name)
    if match is None:
        raise ValueError(f"not a log like EXP_LOG_210280.txt: {name!r}")
    date = dt.date(full_year(int(match[3])), int(match[2]), int(match[1]))
    return date, int(match[4] or 1)


def hk_name(obsid: int, utc_ns: int, *, unit: str = UNIT) -> str:
    """Return the name of the housekeeping of an OBSID."""
    return f"HK_{obsid}_{stamp(utc_ns)}_{unit}.txt"


def parse_hk_name(name: str) -> tuple[int, int, str]:
    """Return OBSID, time and unit of housekeeping of an OBSID; ValueError where it is none."""
    match = _HK.match(name)
    if match is None:
        raise ValueError(f"not housekeeping like HK_17210_210280D101530T_ROE1.txt: {name!r}")
    return int(match["obsid"]), parse_stamp(match["stamp"]), match["unit"]


def hk_master_name(utc_ns: int, number: int = 1, *, unit: str = UNIT) -> str:
    """Return the name of a master file of housekeeping."""
    return f"HK_{utc(utc_ns).strftime('%d-%m-%y')}_{unit}_{number:02d}.txt"


def parse_hk_master_name(name: str) -> tuple[dt.date, int, str]:
    """Return day, number and unit of a master file; ValueError where it is none."""
    match = _MASTER.match(name)
    if match is None:
        raise ValueError(f"not housekeeping like HK_21-02-80_ROE1_01.txt: {name!r}")
    date = dt.date(full_year(int(match[3])), int(match[2]), int(match[1]))
    return date, int(match["number"]), match["unit"]


# --- what is there ---


@dataclass(slots=True)
class Day:
    """What one or several day folders hold.

    Attributes
    ----------
    folders
        In the order given.
    logs, masters
        Sorted by date and number of the name.
    images, hk
        By (OBSID, CCD) and by OBSID. Of several files for one (an OBSID given twice), the one
        with the latest time in its name.
    by_name
        Images by name without extension, as the log names them.
    superseded
        Files that are not in `images` or `hk` because another has their OBSID.
    others
        Names that are none of these (scripts, notes); hidden and temporary files are not listed.
    """

    folders: tuple[Path, ...]
    logs: list[Path] = field(default_factory=list)
    masters: list[Path] = field(default_factory=list)
    images: dict[tuple[int, int], Path] = field(default_factory=dict)
    hk: dict[int, Path] = field(default_factory=dict)
    by_name: dict[str, Path] = field(default_factory=dict)
    superseded: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    @property
    def obsids(self) -> list[int]:
        """OBSIDs of which there is an image, sorted."""
        return sorted({obsid for obsid, _ in self.images})


def list_day(folder: Path) -> Day:
    """Return what a day folder holds; subfolders are not entered.

    Raises
    ------
    StorageError
        It cannot be listed.
    """
    return list_days([folder])


def list_days(folders: Iterable[Path]) -> Day:
    """Return what several day folders hold together (a session over midnight).

    Raises
    ------
    StorageError
        One cannot be listed.
    """
    day = Day(tuple(folders))
    images: list[tuple[int, int, int, Path]] = []
    housekeeping: list[tuple[int, int, Path]] = []
    logs: list[tuple[dt.date, int, int, Path]] = []
    masters: list[tuple[dt.date, int, Path]] = []
    for index, folder in enumerate(day.folders):
        for name in _names(folder):
            path = folder / name
            try:
                if name.endswith(".fits"):
                    image = parse_image_name(name)
                    images.append((image.utc_ns, image.obsid, image.ccd, path))
                    day.by_name[path.stem] = path
                elif name.startswith("EXP_LOG_"):
                    date, number = parse_explog_name(name)
                    logs.append((date, number, index, path))
                elif _HK.match(name):
                    obsid, time_ns, _ = parse_hk_name(name)
                    housekeeping.append((time_ns, obsid, path))
                else:
                    date, number, _ = parse_hk_master_name(name)
                    masters.append((date, number, path))
            except ValueError:
                day.others.append(path)
    for _, obsid, ccd, path in sorted(images):
        if (obsid, ccd) in day.images:
            day.superseded.append(day.images[obsid, ccd])
        day.images[obsid, ccd] = path
    for _, obsid, path in sorted(housekeeping):
        if obsid in day.hk:
            day.superseded.append(day.hk[obsid])
        day.hk[obsid] = path
    day.logs = [path for *_, path in sorted(logs)]
    day.masters = [path for *_, path in sorted(masters)]
    return day


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and e.is_file()]
    except OSError as error:
        raise StorageError(
            f"cannot list the day folder {folder}: {error.strerror}; give the folder that the "
            "acquisition writes",
            code=storage_code(error), path=str(folder),
        ) from error  # fmt: skip
    return sorted(names)


def day_start_ns(date: dt.date) -> int:
    """Return nanoseconds UTC of the beginning of a day."""
    return as_ns(dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC))
