# SPDX-License-Identifier: BSD-3-Clause
"""The units of a FITS file, one after the other: header blocks read, data units stepped over.

FITS 4.0 sections 3.1 and 4.4.1. Conforming extensions of any kind are walked; only their headers
are touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from nightjar.errors import StorageError
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES, Value, parse_cards
from nightjar.fits.header import Header, NotFits

Source = Path | str | bytes | bytearray | memoryview | BinaryIO
Reader = Callable[[int, int], bytes]

_END = b"END".ljust(CARD_BYTES)
_MAX_HEADER_BLOCKS = 2000
_MAX_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class Hdu:
    """One unit of a file: where it stands, and its header.

    Attributes
    ----------
    number
        0 for the primary unit.
    start, data_offset, end
        Where header and data unit begin and where the next unit would; `end` is beyond the file
        where it was cut short.
    data_bytes
        Of the data unit without its fill.
    problems
        Cards that do not follow the standard and were left out; only where that was asked for.
    """

    number: int
    start: int
    data_offset: int
    data_bytes: int
    end: int
    header: Header
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """EXTNAME; empty where it has none."""
        name = self.header.get("EXTNAME")
        return name if isinstance(name, str) else ""


@contextmanager
def opened(source: Source) -> Iterator[tuple[Reader, str]]:
    """Give a function that reads (offset, count) and the name for messages.

    Parameters
    ----------
    source
        A path, the bytes of a file, or an open binary file that can seek (its position changes).

    Raises
    ------
    StorageError
        The file cannot be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        whole = memoryview(source).cast("B")
        yield lambda offset, count: bytes(whole[offset : offset + count]), "bytes in memory"
    elif isinstance(source, (str, Path)):
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(str(source), error) from error
        try:
            yield lambda offset, count: _pread(descriptor, offset, count), str(source)
        except OSError as error:
            raise _unreadable(str(source), error) from error
        finally:
            os.close(descriptor)
    else:
        name = str(getattr(source, "name", "open file"))
        try:
            yield lambda offset, count: _seek_read(source, offset, count), name
        except OSError as error:
            raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> StorageError:
    return StorageError(f"cannot read {name}: {error.strerror or error}", path=name)


def _pread(descriptor: int, offset: int, count: int) -> bytes:
    data = os.pread(descriptor, count, offset)
    while len(data) < count:  # one call gives at most 2 GiB
        more = os.pread(descriptor, count - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _seek_read(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def walk(read: Reader, name: str, *, is_lenient: bool = False) -> Iterator[Hdu]:
    """Yield the units of a file; stops quietly at its end and at special records.

    Parameters
    ----------
    read, name
        From :func:`opened`.
    is_lenient
        Leave out cards that do not follow the standard (files of other programs) and tell of
        them in :attr:`Hdu.problems`.

    Raises
    ------
    NotFits
        A header that is none, is cut short or makes no sense; the message names the file.
    """
    offset = 0
    for number in range(1 << 20):
        if number and not read(offset, BLOCK_BYTES).startswith(b"XTENSION="):
            return
        problems: list[str] | None = [] if is_lenient else None
        header = header_at(read, offset, name, problems)
        try:
            data_bytes = data_unit_bytes(header)
        except ValueError as error:
            raise NotFits(f"{name}: unit {number}: {error}", path=name) from None
        end = header.data_offset + -(-data_bytes // BLOCK_BYTES) * BLOCK_BYTES
        yield Hdu(
            number, offset, header.data_offset, data_bytes, end, header, tuple(problems or ())
        )
        offset = end


def read_headers(path: Path | str) -> list[Header]:
    """Return the headers of all units of a file, reading header blocks and nothing else.

    A file that is cut short gives the headers that are there.

    Raises
    ------
    NotFits
        Not a FITS file, or a header is wrong; the message names the file.
    StorageError
        The file cannot be read.
    """
    with opened(path) as (read, name):
        return [hdu.header for hdu in walk(read, name)]


def header_at(
    read: Reader, offset: int, name: str, problems: list[str] | None = None
) -> Header:
    """Return the header that begins at `offset`, its :attr:`Header.data_offset` set.

    Parameters
    ----------
    read, offset, name
        See :func:`opened`.
    problems
        Takes what is wrong with single cards, which are left out; None: it is an error.

    Raises
    ------
    NotFits
        No header, no END, or a card is wrong.
    """
    block = read(offset, BLOCK_BYTES)
    if not block.startswith((b"SIMPLE  =", b"XTENSION=")):
        raise NotFits(f"{name}: not a FITS file, it begins with {block[:9]!r}", path=name)
    images = b""
    for number in range(_MAX_HEADER_BLOCKS):
        if len(block) < BLOCK_BYTES:
            break
        for at in range(0, BLOCK_BYTES, CARD_BYTES):
            if block[at : at + CARD_BYTES] == _END:
                header = _parse(images + block[:at], name, problems)
                header.data_offset = offset + (number + 1) * BLOCK_BYTES
                return header
        images += block
        block = read(offset + (number + 1) * BLOCK_BYTES, BLOCK_BYTES)
    raise NotFits(f"{name}: no END card after byte {offset}; the file is cut short", path=name)


def _parse(images: bytes, name: str, problems: list[str] | None) -> Header:
    header = Header()
    try:
        for card in parse_cards(images):
            header.append(card, may_repeat=True)
    except ValueError as error:
        if problems is None:
            raise NotFits(f"{name}: {error}", path=name) from None
        return _parse_singly(images, problems)
    return header


def _parse_singly(images: bytes, problems: list[str]) -> Header:
    """Return the header of the cards that can be understood."""
    header = Header()
    lines = [images[at : at + CARD_BYTES] for at in range(0, len(images), CARD_BYTES)]
    index = 0
    while index < len(lines):
        first = index
        index += 1
        while index < len(lines) and lines[index].startswith(b"CONTINUE  "):
            index += 1
        try:
            for card in parse_cards(b"".join(lines[first:index])):
                header.append(card, may_repeat=True)
        except ValueError as error:
            text = str(error).partition(": ")[2]  # "card 1: ...": counted from this one
            problems.append(f"card {first + 1}: {text}")
    return header


def data_unit_bytes(header: Header) -> int:
    """Return the bytes of a data unit without its fill (FITS 4.0 equation 2).

    Raises
    ------
    ValueError
        The structural cards make no sense.
    """
    bitpix, naxis = header.get("BITPIX"), header.get("NAXIS")
    if bitpix not in (8, 16, 32, 64, -32, -64) or not isinstance(bitpix, int):
        raise ValueError(f"impossible BITPIX {bitpix!r}")
    count = _count("NAXIS", naxis, 999)
    if count == 0:
        return 0
    names = [f"NAXIS{number}" for number in range(1, count + 1)]
    if header.get("GROUPS") is True and header.get("NAXIS1") == 0:
        del names[0]  # random groups, section 6.1.1
    pixels = prod(_count(key, header.get(key), _MAX_BYTES) for key in names)
    pixels += _count("PCOUNT", header.get("PCOUNT", 0), _MAX_BYTES)
    total = pixels * _count("GCOUNT", header.get("GCOUNT", 1), _MAX_BYTES) * abs(bitpix) // 8
    if total > _MAX_BYTES:
        raise ValueError(f"impossible image size: {total} bytes")
    return total


def _count(keyword: str, value: Value, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"impossible {keyword} {value!r}")
    return value
