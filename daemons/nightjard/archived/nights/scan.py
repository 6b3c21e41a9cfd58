# SPDX-License-Identifier: BSD-3-Clause
"""A look at the raw files of a night: headers and frame times, no pixels.

Raw files are those of milk-streamFITSlog (a cube and its seven-column text), of fitslogd (a table
FRAMES besides; plain or tile compressed) and single frames of a camera daemon; any of them may
have been through fpack. What is wrong with a file is told with it, and nothing is left out: a file
without times is still one to keep.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from nightjar.errors import StorageError
from nightjar.files import is_temporary
from nightjar.fits.frame_table import EXTNAME, read_table
from nightjar.fits.hdus import Hdu, opened
from nightjar.fits.header import Header, NotFits
from nightjar.fits.timing_text import read_timing_text, text_path
from nightjar.times import NS_PER_S, parse_iso
from nightjard.archived.nights.records import CubeRef, Ints, Timing
from nightjard.archived.nights.writing.raw import stored_dtype
from nightjard.archived.nights.writing.raw_image import find_image

_SUFFIXES = (".fits", ".fits.fz")
_MOST_FRAMES = 10_000_000  # that a header may promise of frames that are not there
_LONGEST_S = 86_400.0
_TAI_NS = 37 * NS_PER_S
_TAI_SLACK_NS = 2 * NS_PER_S


@dataclass(frozen=True)
class RawFile:
    """A raw file, looked at.

    Attributes
    ----------
    ref
        What the plan keeps of it; numbered later.
    header
        Of its image, with the cards of the image even where that is compressed.
    timing
        Of the frames that are present.
    notes
        What is remarkable about it but does no harm.
    is_single
        One frame of a camera daemon, not a cube.
    """

    ref: CubeRef
    header: Header
    timing: Timing
    notes: tuple[str, ...] = ()
    is_single: bool = False

    @property
    def begin_ns(self) -> int:
        """Time of the first frame; 0 where not known."""
        return _bound(self.timing.acquired_ns, np.min)

    @property
    def end_ns(self) -> int:
        """Time of the last frame; 0 where not known."""
        return _bound(self.timing.acquired_ns, np.max)


def _bound(times: Ints, pick: Any) -> int:
    known = times[times > 0]
    return int(pick(known)) if len(known) else 0


@dataclass(frozen=True)
class Unreadable:
    """A raw file that is no FITS image; it stays where it is, in the ledger."""

    path: str
    stream: str
    size: int
    mtime_ns: int
    problem: str


def raw_paths(night: Path, streams: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield (stream, path) of every raw file of a night, in the order of their names.

    Files under a temporary name are being written and do not count.

    Raises
    ------
    StorageError
        A folder cannot be read.
    """
    for stream in streams:
        folder = night / stream
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StorageError(
                f"cannot read {folder}: {error.strerror}", path=str(folder)
            ) from error
        for name in names:
            if name.endswith(_SUFFIXES) and not is_temporary(Path(name)):
                yield stream, folder / name


def look(night: Path, stream: str, path: Path) -> RawFile | Unreadable:
    """Return what a raw file's header and times say.

    Parameters
    ----------
    night
        Folder of the night; the path is kept relative to it.

    Raises
    ------
    StorageError
        The disk does not answer; a file that is wrong is told of, not raised.
    """
    seen = look_at_head(night, stream, path)
    if isinstance(seen, Unreadable):
        return seen
    if path.suffix == ".fz" and path.with_suffix("").exists():
        # Frames that are there twice would have no partners, or the wrong ones.
        text = (
            f"{path.stem} is there as well: when they are known to be the same, take one of the "
            "two out of this folder"
        )
        return Unreadable(seen[0].path, stream, seen[0].size, seen[0].mtime_ns, text)
    ref, header, notes = seen
    if header.get("ZNAXIS" if ref.compressed else "NAXIS") == 2:
        return _single(ref, header)
    timing, more = _timing(path, ref)
    notes += more
    problem = timing.problem
    if not problem and exposure_of(header) is None:
        value = header.get("EXPTIME")
        told = "has no EXPTIME" if value is None else f"says EXPTIME {value!r}, which cannot be"
        problem = f"its header {told}"
    if ref.present < ref.frames:
        notes.append(f"the file ends after {ref.present} of {ref.frames} frames")
    return RawFile(dataclasses.replace(ref, problem=problem), header, timing, tuple(notes))


def look_at_head(
    night: Path, stream: str, path: Path
) -> tuple[CubeRef, Header, list[str]] | Unreadable:
    """Return what a raw file's header says of it, its times left alone; as :func:`look`."""
    try:
        status = path.stat()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    name = str(path.relative_to(night))
    ref = CubeRef(
        0, name, stream, status.st_size, status.st_mtime_ns, "", 0, (0, 0), 0, 0, 0, 0
    )
    try:
        ref, hdu, notes = _seen(path, ref)
    except NotFits as error:
        text = error.message.removeprefix(f"{path}: ")
        return Unreadable(name, stream, status.st_size, status.st_mtime_ns, text)
    except (ValueError, OverflowError) as error:
        text = f"its header makes no sense: {error}"
        return Unreadable(name, stream, status.st_size, status.st_mtime_ns, text)
    return ref, hdu.header, notes


def exposure_of(header: Header) -> float | None:
    """Return the exposure time (s) that a header tells of; None where it tells of none that can be.

    Not more than a day: times of frames are reckoned with it.
    """
    value = header.get("EXPTIME")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= _LONGEST_S else None


def _seen(path: Path, ref: CubeRef) -> tuple[CubeRef, Hdu, list[str]]:
    """Return what the image of a file is, and what is remarkable about it."""
    with opened(path) as (read, label):
        image = find_image(read, label, ref.size)
        head = blake3(read(0, image.hdu.data_offset)).hexdigest()
    hdu, frames = image.hdu, image.frames
    ref = dataclasses.replace(
        ref, head_hash=head, data_offset=hdu.data_offset, compressed=image.compressed,
        frames=frames, present=image.present, frame_shape=image.frame_shape, bitpix=image.bitpix,
        bzero=image.bzero,
    )  # fmt: skip
    try:
        stored_dtype(ref)
    except StorageError as error:
        raise NotFits(error.message.removeprefix(f"raw cube {ref.path} "), path=ref.path) from None
    if frames <= max(_MOST_FRAMES, ref.present):
        return ref, hdu, []
    # A row of the plan for each of them would take all of the memory.
    note = f"its header promises {frames} frames, which cannot be; it holds {ref.present}"
    return dataclasses.replace(ref, frames=ref.present), hdu, [note]


def _single(ref: CubeRef, header: Header) -> RawFile:
    """Return a camera daemon's frame; its time is the end of the exposure."""
    time_ns = _header_time(header)
    times = np.full(ref.present, time_ns, np.int64)
    number = header.get("EXPCNT")
    is_counter = isinstance(number, int) and 0 <= number < 1 << 64
    counter = np.full(ref.present, number if is_counter else 0, np.uint64)
    problem = "" if time_ns else "its header has no time"
    timing = Timing(times, times.copy(), counter, np.zeros(ref.present, np.uint64), problem)
    return RawFile(dataclasses.replace(ref, problem=problem), header, timing, is_single=True)


def _header_time(header: Header) -> int:
    for keyword in ("DATE-END", "DATE-OBS"):
        value = header.get(keyword)
        if isinstance(value, str) and "T" in value:
            try:
                return parse_iso(value)
            except ValueError:
                continue
    return 0


def _timing(path: Path, ref: CubeRef) -> tuple[Timing, list[str]]:
    """Return the times of the frames that are present: from the file's own table, or the text."""
    notes: list[str] = []
    try:
        rows = read_table(path, name=EXTNAME)
    except NotFits:
        pass
    else:
        if len(rows) == ref.frames:
            kept = rows[: ref.present]
            return _arranged(
                kept["ATIME"], kept["LTIME"], kept["CNT0"], kept["CNT1"], notes
            ), notes  # fmt: skip
        notes.append(f"its table has {len(rows)} rows for {ref.frames} frames")
    text = text_path(path)
    try:
        found = read_timing_text(text)
    except StorageError as error:
        reason = error.message if text.exists() else f"no timing file {text.name}"
        return _no_times(ref, reason), notes
    rows = found.rows
    if found.is_cut or len(rows) != ref.frames:
        notes.append(f"{text.name} has {len(rows)} rows for {ref.frames} frames")
    # The first column says which frame a row is of; without it the rows are nobody's.
    index = rows["FRAME"]
    if len(rows) == 0 or (index != np.arange(len(rows))).any():
        return _no_times(ref, f"the rows of {text.name} are not in the order of frames"), notes
    rows = rows[: ref.present]
    if found.columns == 6:
        notes.append(f"{text.name} has no acquisition times: those of the logger are used")
    timing = _arranged(rows["ATIME"], rows["LTIME"], rows["CNT0"], rows["CNT1"], notes)
    missing = ref.present - len(rows)
    if missing > 0:
        timing = Timing(
            np.pad(timing.acquired_ns, (0, missing)), np.pad(timing.logged_ns, (0, missing)),
            np.pad(timing.counter, (0, missing)), np.pad(timing.slot, (0, missing)),
            timing.problem,
        )  # fmt: skip
    return timing, notes


def _arranged(
    acquired: Ints, logged: Ints, counter: Any, slot: Any, notes: list[str]
) -> Timing:
    acquired, logged = acquired.astype(np.int64), logged.astype(np.int64)
    known = (acquired > 0) & (logged > 0)
    if known.any():
        behind = int(np.median(logged[known] - acquired[known]))
        if abs(behind - _TAI_NS) < _TAI_SLACK_NS:
            # The logger's clock ran in TAI; the frame grabber's never does.
            logged = np.where(logged > 0, logged - _TAI_NS, 0)
            notes.append("times of logging were TAI: 37 s taken off")
    if len(acquired) and not (acquired > 0).any():
        acquired = logged.copy()
        if len(logged):
            notes.append("no acquisition times: those of the logger are used")
    problem = "" if not len(acquired) or (acquired > 0).any() else "it has no times"
    return Timing(acquired, logged, counter.astype(np.uint64), slot.astype(np.uint64), problem)


def _no_times(ref: CubeRef, problem: str) -> Timing:
    zeros = np.zeros(ref.present, np.int64)
    nothing = np.zeros(ref.present, np.uint64)
    return Timing(zeros, zeros.copy(), nothing, nothing.copy(), problem)
