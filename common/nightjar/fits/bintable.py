# SPDX-License-Identifier: BSD-3-Clause
"""Binary tables with a row a frame: columns of numbers, integers as they are (FITS 4.0, 7.3).

Unsigned columns are written as FITS has them, signed with TZERO, which for 64 bits no float holds:
readers must add it in integers, as astropy and cfitsio do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.fits import checksum
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES
from nightjar.fits.header import Header
from nightjar.fits.writer import set_checksums

_TIMES_COMMENT = (
    "Times are integer nanoseconds UTC since 1970-01-01T00:00:00 as POSIX counts them "
    "(86400 s a day; a leap second repeats). TZERO must be added in integers."
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column: one number a row.

    Attributes
    ----------
    code
        Of TFORM: I, J, K (16, 32, 64 bits) or E (32-bit float).
    offset
        TZERO: half the range of an unsigned type, 0 for a signed one.
    null
        TNULL, the value that stands for "not known"; None where there is none.
    """

    name: str
    code: str
    text: str
    unit: str = ""
    offset: int = 0
    null: int | None = None

    @property
    def stored(self) -> str:
        """Type of its numbers in the file."""
        return {"I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4"}[self.code]

    def encoded(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the numbers that stand in the file for these values."""
        if not self.offset:
            return values
        # Subtracting the offset of an unsigned type is flipping its highest bit.
        flipped: npt.NDArray[Any] = values ^ values.dtype.type(self.offset)
        return flipped.view(f"i{values.dtype.itemsize}")


def stored_type(columns: Sequence[Column]) -> np.dtype[np.void]:
    """Return the type of a row in the file."""
    return np.dtype([(column.name, column.stored) for column in columns])


def table_unit(columns: Sequence[Column], table: npt.NDArray[np.void], name: str) -> bytes:
    """Return the whole extension: header, table, fill, with CHECKSUM and DATASUM.

    Parameters
    ----------
    table : (n,)
        Of :func:`stored_type`.
    name
        EXTNAME.
    """
    data = table.tobytes()
    data += bytes(-len(data) % BLOCK_BYTES)
    header = _header(columns, len(table), name)
    head = bytearray(header.to_bytes())
    cards = b"".join(card.to_bytes() for card in header.cards)
    set_checksums(head, len(cards) - 2 * CARD_BYTES, checksum.datasum(data))  # the last two
    return bytes(head) + data


def unit_bytes(columns: Sequence[Column], count: int, name: str) -> int:
    """Return the size of the extension of that many rows."""
    size = stored_type(columns).itemsize
    head = len(_header(columns, count, name).to_bytes())
    return head + -(-count * size // BLOCK_BYTES) * BLOCK_BYTES


def _header(columns: Sequence[Column], count: int, name: str) -> Header:
    header = Header()
    header.add("XTENSION", "BINTABLE", "binary table extension")
    header.add("BITPIX", 8, "bytes")
    header.add("NAXIS", 2, "number of axes")
    header.add("NAXIS1", stored_type(columns).itemsize, "bytes of a row")
    header.add("NAXIS2", count, "rows: frames of the cube")
    header.add("PCOUNT", 0, "no heap")
    header.add("GCOUNT", 1, "one group")
    header.add("TFIELDS", len(columns), "columns")
    header.add("EXTNAME", name, "name of the extension")
    header.add("EXTVER", 1, "version of the extension")
    for number, column in enumerate(columns, start=1):
        header.add(f"TTYPE{number}", column.name)
        header.add(f"TFORM{number}", column.code)
        if column.unit:
            header.add(f"TUNIT{number}", column.unit)
        if column.offset:
            header.add(f"TZERO{number}", column.offset, "offset of unsigned integers")
            header.add(f"TSCAL{number}", 1)
        if column.null is not None:
            header.add(f"TNULL{number}", column.null, "not known")
        header.add(f"TCOMM{number}", column.text)
    header.add("TIMESYS", "UTC", "time scale")
    header.add("TREFPOS", "TOPOCENTER", "times are those of the camera's host")
    header.comment(_TIMES_COMMENT)
    header.add("CHECKSUM", checksum.CHECKSUM_PLACEHOLDER, "checksum of the whole HDU")
    header.add("DATASUM", "0", "checksum of the data unit")
    return header
