# SPDX-License-Identifier: BSD-3-Clause
"""Is this file a whole image, and are its bytes those that were written?"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeGuard

from nightjar.errors import StorageError
from nightjar.fits import checksum
from nightjar.fits.cards import BLOCK_BYTES, Value
from nightjar.fits.header import Header, NotFits, read_header_from

_CHUNK_BYTES = 1 << 18
_BITPIX = (8, 16, 32, 64, -32, -64)
_MAX_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class Verified:
    """What an inspection found.

    Attributes
    ----------
    path, size
        The file and its bytes.
    header
        None where it cannot be read.
    datasum_ok, checksum_ok
        Whether the cards agree with the bytes; None where there is no such card, or no way to
        tell because the file is cut short or its header makes no sense.
    problems
        One line each; empty for a file that is whole and unchanged.
    """

    path: Path
    size: int
    header: Header | None
    datasum_ok: bool | None
    checksum_ok: bool | None
    problems: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """True where nothing is wrong."""
        return not self.problems


def verify_image(path: Path, *, checksums_required: bool = True) -> Verified:
    """Inspect a file that holds one image and nothing else, reading each byte once.

    Parameters
    ----------
    path
        The file.
    checksums_required
        Whether a file without CHECKSUM and DATASUM has a problem.

    Raises
    ------
    StorageError
        The file cannot be read. (One that is no FITS file can, and has problems.)
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _verify(descriptor, path, checksums_required)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error


def _verify(descriptor: int, path: Path, checksums_required: bool) -> Verified:
    size = os.fstat(descriptor).st_size
    try:
        header = read_header_from(descriptor, path.name)
        data_bytes = _data_bytes(header)
    except NotFits as error:
        return Verified(path, size, None, None, None, (error.message,))
    except ValueError as error:
        return Verified(path, size, header, None, None, (str(error),))
    expected = header.data_offset + -(-data_bytes // BLOCK_BYTES) * BLOCK_BYTES
    if size < expected:
        problem = f"cut short: {size} bytes of {expected}"
        return Verified(path, size, header, None, None, (problem,))
    problems = []
    if size > expected:
        problems.append(f"{size - expected} bytes follow the image")
    datasum_ok, checksum_ok = _compare(descriptor, header, expected)
    if datasum_ok is False:
        problems.append("DATASUM does not agree: the pixels were changed")
    if checksum_ok is False:
        problems.append("CHECKSUM does not agree: the header or the pixels were changed")
    if checksums_required:
        problems += [
            f"no {keyword} card"
            for keyword, found in (("DATASUM", datasum_ok), ("CHECKSUM", checksum_ok))
            if found is None
        ]
    return Verified(path, size, header, datasum_ok, checksum_ok, tuple(problems))


def _compare(descriptor: int, header: Header, end: int) -> tuple[bool | None, bool | None]:
    """Return whether DATASUM and CHECKSUM agree with the bytes; None for a card not there."""
    data, whole = checksum.DataSum(), checksum.DataSum()
    for piece in _pieces(descriptor, 0, header.data_offset):
        whole.add(piece)
    for piece in _pieces(descriptor, header.data_offset, end):
        data.add(piece)
    whole.add_sum(data.value, data.count)
    stated = header.get("DATASUM")
    datasum_ok = checksum_ok = None
    if stated is not None:
        text = str(stated).strip()
        datasum_ok = text.isdecimal() and int(text) == data.value
    if header.get("CHECKSUM") is not None:
        checksum_ok = whole.value == checksum.MODULUS
    return datasum_ok, checksum_ok


def _pieces(descriptor: int, start: int, end: int) -> Iterator[memoryview]:
    """Yield the bytes of a part of a file; each piece is overwritten by the next."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, end - start)))
    while start < end:
        count = os.preadv(descriptor, [buffer[: end - start]], start)
        if count == 0:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        yield buffer[:count]
        start += count


def _data_bytes(header: Header) -> int:
    """Return the bytes of the data unit; ValueError where the structural cards make no sense."""
    names = [card.keyword for card in header.cards[:3]]
    if names != ["SIMPLE", "BITPIX", "NAXIS"]:
        raise ValueError(f"the header begins with {', '.join(names)}, not SIMPLE, BITPIX, NAXIS")
    if header["SIMPLE"] is not True:
        raise ValueError("SIMPLE is not T: the file says itself that it is not standard FITS")
    bitpix, naxis = header["BITPIX"], header["NAXIS"]
    if not isinstance(bitpix, int) or bitpix not in _BITPIX:
        raise ValueError(f"impossible BITPIX {bitpix!r}")
    if not _is_count(naxis, 999):
        raise ValueError(f"impossible NAXIS {naxis!r}")
    lengths: list[int] = []
    for number in range(1, naxis + 1):
        length = header.get(f"NAXIS{number}")
        if not _is_count(length, _MAX_BYTES):
            raise ValueError(f"impossible NAXIS{number} {length!r}")
        lengths.append(length)
    total = prod(lengths) * abs(bitpix) // 8 if lengths else 0
    if total > _MAX_BYTES:
        raise ValueError(f"impossible image size: {' x '.join(map(str, lengths))}")
    return total


def _is_count(value: Value, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
