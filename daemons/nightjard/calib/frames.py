# SPDX-License-Identifier: BSD-3-Clause
"""Reading the frame of a CCD: mapped into memory, quadrants as unsigned numbers in native order.

The image is the last unit of the file. 16-bit images with BZERO 32768 (what the converter gives)
are converted in one pass a quadrant; all others (floats, tile-compressed, gzip) go through astropy.
"""

from __future__ import annotations

import functools
import mmap
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjar.errors import StorageError
from nightjar.fits.cards import Value
from nightjar.fits.hdus import Hdu, opened, walk
from nightjar.fits.header import Header

Raw = NDArray[np.uint16]

_SIGN = np.uint16(0x8000)  # BZERO 32768 turns the top bit over
_NAME_OBSID = re.compile(r"_(\d+)_[^_]*_ROE\d+_CCD(\d+)\.")
_EXTNAME_CCD = re.compile(r"CCD(\d+)")


class Frame:
    """The frame of one CCD.

    Parameters
    ----------
    path, detector
        The file, and what it is a frame of.
    units
        Its units.
    is_mapped
        The units are in the file as they are, not compressed as a whole.

    Attributes
    ----------
    vstart, vend
        Canonical rows that were read: ``vstart <= row < vend``. The others hold zeros.
    """

    def __init__(
        self, path: Path, detector: Detector, units: list[Hdu], *, is_mapped: bool = True
    ) -> None:
        self._is_mapped = is_mapped
        self.path = path
        self.detector = detector
        self._units = units
        self._quadrants: dict[str, Raw] = {}
        rows = detector.quadrant_shape[0]
        self.vstart = min(max(_whole(self.value("VSTART"), 0), 0), rows)
        self.vend = min(_whole(self.value("VEND"), rows), rows)
        if self.vend <= self.vstart:
            self.vend = rows

    # --- header ---

    @property
    def header(self) -> Header:
        """Header of the image."""
        return self._units[-1].header

    def value(self, keyword: str) -> Value:
        """Return a value of the image's header, else of the primary one; None without it."""
        for unit in (self._units[-1], self._units[0]):
            if keyword in unit.header:
                return unit.header[keyword]
        return None

    @functools.cached_property
    def obsid(self) -> int:
        """OBSID of the header, else of the file's name; -1 where neither has one."""
        found = _NAME_OBSID.search(self.path.name)
        return _whole(self.value("OBSID"), int(found[1]) if found else -1)

    @functools.cached_property
    def ccd(self) -> int:
        """CCD of the name of the unit, else of the file's; 1 where neither has one."""
        name = self.value("EXTNAME")
        found = _EXTNAME_CCD.search(name) if isinstance(name, str) else None
        if found is None and (in_name := _NAME_OBSID.search(self.path.name)):
            return int(in_name[2])
        return int(found[1]) if found else 1

    # --- pixels ---

    @functools.cached_property
    def _map(self) -> mmap.mmap:
        """The whole file."""
        try:
            with open(self.path, "rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise _unreadable(self.path, error) from error

    @functools.cached_property
    def _pixels(self) -> NDArray[Any]:
        """The frame ``[row, column]``: big-endian with the sign bit turned, or plain uint16."""
        unit = self._units[-1]
        if self._is_mapped and _is_plain(unit.header):
            return np.ndarray(self.detector.frame_shape, ">u2", self._map, unit.data_offset)
        return _converted(self.path, self.detector)

    def raw(self, quadrant: str) -> Raw:
        """Return a quadrant as it was converted, canonical ``[row, column]``, ADU.

        Kept until :meth:`forget`. What is no whole number of 0 to 65535 in the file (a frame that
        some program has worked on) is rounded and clipped to that.

        Raises
        ------
        StorageError
            The file cannot be read.
        """
        pixels = self._quadrants.get(quadrant)
        if pixels is None:
            pixels = self._quadrants[quadrant] = self.band(quadrant, 0, None)
        return pixels

    def band(
        self, quadrant: str, first: int, stop: int | None, columns: slice = slice(None)
    ) -> Raw:
        """Return canonical rows of a quadrant, or some of their columns; only these are read."""
        kept = self._quadrants.get(quadrant)
        if kept is not None:
            return kept[first:stop, columns]
        view = self.detector.canonical(self._pixels, quadrant)[first:stop, columns]
        pixels = view.astype(np.uint16, order="C")
        if view.dtype.byteorder == ">":
            pixels ^= _SIGN
        return pixels

    def drop(self, quadrant: str) -> None:
        """Let go of a converted quadrant."""
        self._quadrants.pop(quadrant, None)

    def forget(self) -> None:
        """Let go of converted quadrants, and of the pages of the file that were read."""
        self._quadrants.clear()
        if "_map" in self.__dict__:
            self._map.madvise(mmap.MADV_DONTNEED)

    def blake3(self) -> str:
        """Return the BLAKE3 digest of the file; the pixels are in the cache afterwards."""
        from blake3 import blake3

        return blake3(self._map).hexdigest()


def open_frame(path: Path | str, detector: Detector) -> Frame:
    """Open the frame of a CCD; pixels are read when they are asked for.

    Raises
    ------
    StorageError
        Not there, not FITS, cut short, or of another shape than the detector's; the message names
        the file and what was seen.
    """
    path = Path(path)
    if _is_compressed_file(path):
        frame = Frame(path, detector, _unzipped_units(path), is_mapped=False)
        _check_shape(path, frame.header, detector)
        return frame
    with opened(path) as (read, name):
        units = list(walk(read, name, is_lenient=True))
        size = path.stat().st_size
    last = units[-1]
    if size < last.data_offset + last.data_bytes:
        raise StorageError(
            f"{path}: cut short: {size} bytes, its headers tell of {last.end}; copy it again",
            path=str(path),
        )
    if last.header.get("NAXIS") == 0 or (
        last.number and last.header.get("XTENSION") not in ("IMAGE", "BINTABLE")
    ):
        raise StorageError(f"{path}: its last unit is no image ({len(units)} units)",
                           path=str(path))  # fmt: skip
    _check_shape(path, last.header, detector)
    return Frame(path, detector, units)


def _check_shape(path: Path, header: Header, detector: Detector) -> None:
    prefix = "Z" if header.get("ZIMAGE") is True else ""
    shape = tuple(header.get(f"{prefix}NAXIS{axis}") for axis in (2, 1))
    if shape != detector.frame_shape or header.get(f"{prefix}NAXIS") != 2:
        seen = " x ".join(str(one) for one in reversed(shape))
        wanted = " x ".join(str(one) for one in reversed(detector.frame_shape))
        raise StorageError(
            f"{path}: its image has {seen} pixels, {wanted} are a frame of {detector.name}",
            path=str(path),
        )


def _is_plain(header: Header) -> bool:
    """16 bits, unsigned by BZERO, not scaled: read without astropy."""
    return (
        header.get("BITPIX") == 16 and header.get("ZIMAGE") is not True
        and header.get("BZERO") == 32768 and header.get("BSCALE", 1) == 1
    )  # fmt: skip


def _whole(value: Value, default: int) -> int:
    try:
        return default if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return default


def _unreadable(path: Path, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or error
    return StorageError(f"cannot read {path}: {reason}", path=str(path))


# --- files that astropy reads ---


def _is_compressed_file(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        return os.pread(descriptor, 2, 0) == b"\x1f\x8b"
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)


def _unzipped_units(path: Path) -> list[Hdu]:
    """Return the units of a file that must be uncompressed as a whole first."""
    import gzip
    import zlib

    try:
        with gzip.open(path) as file:
            whole = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    with opened(whole) as (read, _name):
        return list(walk(read, str(path), is_lenient=True))


def _converted(path: Path, detector: Detector) -> Raw:
    """Return the last image of any FITS file as uint16: rounded, clipped, not-a-number as 0."""
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as units:
            data = units[-1].data
    except (OSError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error
    if data is None or data.shape != detector.frame_shape:
        shape = None if data is None else data.shape
        raise StorageError(f"{path}: its last image has the shape {shape}", path=str(path))
    if data.dtype.kind == "f":
        data = np.rint(np.nan_to_num(data, nan=0.0))
    pixels: Raw = np.clip(data, 0, 65535).astype(np.uint16)
    return pixels
