# SPDX-License-Identifier: BSD-3-Clause
"""The table of a product: what is known of each frame, and which raw frame it was.

Integers as they are, nothing rounded; unsigned columns with TZERO, which readers must add in
integers (FITS 4.0 section 7.3.2), as astropy and cfitsio do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES
from nightjar.fits.checksum import CHECKSUM_PLACEHOLDER, datasum
from nightjar.fits.header import Header
from nightjar.fits.writer import set_checksums
from nightjard.archived.nights.records import Rows

EXTNAME = "FRAMES"


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    code: str  # of TFORM
    text: str
    unit: str = ""
    offset: int = 0  # TZERO
    null: int | None = None  # TNULL

    @property
    def stored(self) -> str:
        return {"I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4"}[self.code]


_COLUMNS = (
    _Column("FRAME", "J", "index in this cube, from 0"),
    _Column("ATIME", "K", "frame grabber, end of read-out, UTC; 0: not known", "ns", null=0),
    _Column("LTIME", "K", "logging time, UTC; 0: not known", "ns", null=0),
    _Column("MTIME", "K", "mean of the cameras, UTC; 0: not known", "ns", null=0),
    _Column("CNT0", "K", "stream counter", offset=1 << 63),
    _Column("CNT1", "K", "slice of the rolling stream", offset=1 << 63),
    _Column("TRIGGER", "K", "trigger of the run, from 0; -1: not known", null=-1),
    _Column("OFFSET", "K", "taken off ATIME to compare cameras", "ns"),
    _Column("SYNCCONF", "E", "probability that the partner is right"),
    _Column("FLCCONF", "E", "probability that STATE is right"),
    _Column("STATE", "I", "modulator: 1 driven high, -1 low, 0 not known"),
    _Column("SRCCUBE", "J", "raw cube: number n of card SRCn"),
    _Column("SRCIDX", "J", "index in the raw cube, from 0"),
)
STORED = np.dtype([(column.name, column.stored) for column in _COLUMNS])
_TIMES_COMMENT = (
    "Times are integer nanoseconds UTC since 1970-01-01T00:00:00 as POSIX counts them "
    "(86400 s a day; a leap second repeats). TZERO must be added in integers."
)


def table(rows: Rows, cubes: Sequence[int]) -> npt.NDArray[Any]:
    """Return the table of a product, of :data:`STORED`.

    Parameters
    ----------
    rows : (n,)
        Of the plan.
    cubes
        Numbers of its raw cubes; the first is SRCCUBE 1.
    """
    stored = np.empty(len(rows), STORED)
    stored["FRAME"] = np.arange(len(rows), dtype=np.int32)
    for column in _COLUMNS[1:-2]:
        values = rows[column.name]
        if column.offset:
            # Subtracting the offset of an unsigned type is flipping its highest bit.
            values = (values ^ values.dtype.type(column.offset)).view("i8")
        stored[column.name] = values
    places = {number: place for place, number in enumerate(cubes, start=1)}
    numbers, inverse = np.unique(rows["cube"], return_inverse=True)
    stored["SRCCUBE"] = np.array([places[int(number)] for number in numbers], ">i4")[inverse]
    stored["SRCIDX"] = rows["index"]
    return stored


def table_hdu(rows: Rows, cubes: Sequence[int]) -> bytes:
    """Return the whole extension of :func:`table`: header, table, fill, both checksums."""
    data = table(rows, cubes).tobytes()
    data += bytes(-len(data) % BLOCK_BYTES)
    header = _header(len(rows))
    head = bytearray(header.to_bytes())
    cards = b"".join(card.to_bytes() for card in header.cards)
    set_checksums(head, len(cards) - 2 * CARD_BYTES, datasum(data))  # the last two
    return bytes(head) + data


def _header(count: int) -> Header:
    header = Header()
    header.add("XTENSION", "BINTABLE", "binary table extension")
    header.add("BITPIX", 8, "bytes")
    header.add("NAXIS", 2, "number of axes")
    header.add("NAXIS1", STORED.itemsize, "bytes of a row")
    header.add("NAXIS2", count, "rows: frames of the cube")
    header.add("PCOUNT", 0, "no heap")
    header.add("GCOUNT", 1, "one group")
    header.add("TFIELDS", len(_COLUMNS), "columns")
    header.add("EXTNAME", EXTNAME, "name of the extension")
    header.add("EXTVER", 1, "version of the extension")
    for number, column in enumerate(_COLUMNS, start=1):
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
    header.add("CHECKSUM", CHECKSUM_PLACEHOLDER, "checksum of the whole HDU")
    header.add("DATASUM", "0", "checksum of the data unit")
    return header
