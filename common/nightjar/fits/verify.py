# SPDX-License-Identifier: BSD-3-Clause
"""Is this FITS file whole, unit by unit, and are its bytes those that were written?"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nightjar.errors import StorageError
from nightjar.fits import checksum
from nightjar.fits.cards import BLOCK_BYTES
from nightjar.fits.hdus import data_unit_bytes, header_at
from nightjar.fits.header import Header, NotFits

_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class VerifiedUnit:
    """One unit (header and data) of an inspected file.

    Attributes
    ----------
    header
        Its header, with ``data_offset``.
    start, end
        Where it begins and where the next one would.
    datasum_ok, checksum_ok
        Whether the cards agree with the bytes; None where there is no such card, or no way to
        tell because the unit is cut short or its header makes no sense.
    """

    header: Header
    start: int
    end: int
    datasum_ok: bool | None
    checksum_ok: bool | None


@dataclass(frozen=True, slots=True)
class Verified:
    """What an inspection found.

    Attributes
    ----------
    path, size
        The file and its bytes.
    header
        Of the primary unit; None where it cannot be read.
    datasum_ok, checksum_ok
        Whether the cards of all units agree with the bytes: False where one does not; None where
        none disagrees but one has no such card, or there is no way to tell.
    problems
        One line each; empty for a file that is whole and unchanged.
    units
        The primary unit and the extensions, as far as the file could be walked.
    rest_sum
        32-bit sum (as of DATASUM) of everything behind the primary header, extensions included;
        None where the file is not whole.
    """

    path: Path
    size: int
    header: Header | None
    datasum_ok: bool | None
    checksum_ok: bool | None
    problems: tuple[str, ...]
    units: tuple[VerifiedUnit, ...] = ()
    rest_sum: int | None = None

    @property
    def is_good(self) -> bool:
        """True where nothing is wrong."""
        return not self.problems


def verify_image(path: Path, *, checksums_required: bool = True) -> Verified:
    """Inspect an image file, with any number of extensions, reading each byte once.

    Parameters
    ----------
    path
        The file.
    checksums_required
        Whether a unit without CHECKSUM and DATASUM has a problem.

    Raises
    ------
    StorageError
        The file cannot be read. (One that is no FITS file can, and has problems.)
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _Inspection(descriptor, path, checksums_required).result()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error


class _Inspection:
    """One walk through an open file."""

    def __init__(self, descriptor: int, path: Path, checksums_required: bool) -> None:
        self._descriptor = descriptor
        self._path = path
        self._checksums_required = checksums_required
        self._size = os.fstat(descriptor).st_size
        self._units: list[VerifiedUnit] = []
        self._problems: list[str] = []
        self._rest = checksum.DataSum()

    def result(self) -> Verified:
        """Walk, and return what was found."""
        offset: int | None = 0
        while offset is not None:
            offset = self._unit(offset)
        units = tuple(self._units)
        is_whole = bool(units) and units[-1].end <= self._size
        return Verified(
            self._path, self._size, units[0].header if units else None,
            _all(unit.datasum_ok for unit in units), _all(unit.checksum_ok for unit in units),
            tuple(self._problems), units, self._rest.value if is_whole else None,
        )  # fmt: skip

    def _read(self, offset: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, offset)

    def _unit(self, start: int) -> int | None:
        """Inspect the unit at an offset; return where the next begins, None at the end."""
        number = len(self._units)
        if number and start == self._size:
            return None
        if number and not self._read(start, 9).startswith(b"XTENSION="):
            what = "the image" if number == 1 else "the last extension"
            self._problems.append(f"{self._size - start} bytes follow {what}")
            return None
        where = ""
        header = None
        try:
            header = header_at(self._read, start, self._path.name)
            where = _where(number, header)
            _require_order(header, is_primary=number == 0)
            data_bytes = data_unit_bytes(header)
        except (NotFits, ValueError) as error:
            where = where or _where(number, None)
            self._problems.append(where + str(error))
            if header is not None:
                # Where it ends is not known: it counts as cut short.
                self._units.append(VerifiedUnit(header, start, self._size + 1, None, None))
            return None
        end = header.data_offset + -(-data_bytes // BLOCK_BYTES) * BLOCK_BYTES
        if self._size < end:
            self._problems.append(f"{where}cut short: {self._size} bytes of {end}")
            self._units.append(VerifiedUnit(header, start, end, None, None))
            return None
        self._units.append(self._sums(header, start, end, where))
        return end

    def _sums(self, header: Header, start: int, end: int, where: str) -> VerifiedUnit:
        datasum_ok, checksum_ok = self._compare(header, start, end)
        data = "pixels were" if not start else "data were"
        if datasum_ok is False:
            self._problems.append(f"{where}DATASUM does not agree: the {data} changed")
        if checksum_ok is False:
            self._problems.append(
                f"{where}CHECKSUM does not agree: the header or the {data} changed"
            )
        if self._checksums_required:
            self._problems += [
                f"{where}no {keyword} card"
                for keyword, found in (("DATASUM", datasum_ok), ("CHECKSUM", checksum_ok))
                if found is None
            ]
        return VerifiedUnit(header, start, end, datasum_ok, checksum_ok)

    def _compare(self, header: Header, start: int, end: int) -> tuple[bool | None, bool | None]:
        """Return whether DATASUM and CHECKSUM agree with the bytes; None for a card not there."""
        data, whole = checksum.DataSum(), checksum.DataSum()
        for piece in _pieces(self._descriptor, start, header.data_offset):
            whole.add(piece)
        if start:
            self._rest.add_sum(whole.value, whole.count)
        for piece in _pieces(self._descriptor, header.data_offset, end):
            data.add(piece)
        whole.add_sum(data.value, data.count)
        self._rest.add_sum(data.value, data.count)
        stated = header.get("DATASUM")
        datasum_ok = checksum_ok = None
        if stated is not None:
            text = str(stated).strip()
            datasum_ok = text.isdecimal() and int(text) == data.value
        if header.get("CHECKSUM") is not None:
            checksum_ok = whole.value == checksum.MODULUS
        return datasum_ok, checksum_ok


def _all(found: Iterator[bool | None]) -> bool | None:
    values = set(found)
    return False if False in values else None if None in values or not values else True


def _where(number: int, header: Header | None) -> str:
    """Return what begins a line about an extension; nothing for the primary unit."""
    if number == 0:
        return ""
    name = header.get("EXTNAME") if header is not None else None
    return f"extension {number} ({name}): " if name else f"extension {number}: "


def _require_order(header: Header, *, is_primary: bool) -> None:
    """Raise ValueError unless the header begins as it must (FITS 4.0 tables 7 and 10)."""
    wanted = ["SIMPLE" if is_primary else "XTENSION", "BITPIX", "NAXIS"]
    names = [card.keyword for card in header.cards[:3]]
    if names != wanted:
        raise ValueError(f"the header begins with {', '.join(names)}, not {', '.join(wanted)}")
    if is_primary and header["SIMPLE"] is not True:
        raise ValueError("SIMPLE is not T: the file says itself that it is not standard FITS")


def _pieces(descriptor: int, start: int, end: int) -> Iterator[memoryview]:
    """Yield the bytes of a part of a file; each piece is overwritten by the next."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, end - start)))
    while start < end:
        count = os.preadv(descriptor, [buffer[: end - start]], start)
        if count == 0:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        yield buffer[:count]
        start += count
