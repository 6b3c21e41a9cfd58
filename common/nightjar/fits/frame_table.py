# SPDX-License-Identifier: BSD-3-Clause
"""The table of a cube: one row a frame, counters and times as integers, nothing rounded.

Rows live as a numpy array of :data:`ROW` (little-endian, 56 bytes: a logger may append them to its
journal as they are) and stand in the file as the binary table extension ``FRAMES`` (FITS 4.0
section 7.3) with the column ``FRAME`` before them. Unsigned columns are written as FITS has them,
signed with TZERO, which for 64 bits no float holds: readers must add it in integers, as astropy
and cfitsio do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nightjar.fits import checksum
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES
from nightjar.fits.hdus import Hdu, Source, opened, walk
from nightjar.fits.header import Header, NotFits
from nightjar.fits.writer import set_checksums

Rows = npt.NDArray[np.void]

#: A frame: stream counters; times of acquisition, of the write into memory and of logging
#: (integer ns UTC; 0 = not given); the camera's own frame number (-1 = unknown); frames missed
#: right before this one; DATASUM of the frame's bytes as they stand in the data unit, as if they
#: began at a multiple of four.
ROW = np.dtype(
    [("CNT0", "<u8"), ("CNT1", "<u8"), ("ATIME", "<i8"), ("WTIME", "<i8"), ("LTIME", "<i8"),
     ("HWID", "<i8"), ("MISSED", "<u4"), ("DATASUM", "<u4")]
)  # fmt: skip
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
        return {"J": ">i4", "K": ">i8"}[self.code]


_COLUMNS = (
    _Column("FRAME", "J", "index in the cube, from 0"),
    _Column("CNT0", "K", "stream counter", offset=1 << 63),
    _Column("CNT1", "K", "slice of the rolling stream", offset=1 << 63),
    _Column("ATIME", "K", "acquisition time, UTC; 0: not given", "ns", null=0),
    _Column("WTIME", "K", "time of the write into memory, UTC; 0: not given", "ns", null=0),
    _Column("LTIME", "K", "logging time, UTC; 0: not given", "ns", null=0),
    _Column("HWID", "K", "frame number of the camera; -1: unknown", null=-1),
    _Column("MISSED", "J", "frames missed right before this one", offset=1 << 31),
    _Column("DATASUM", "J", "DATASUM of the bytes of this frame alone", offset=1 << 31),
)
_STORED = np.dtype([(column.name, column.stored) for column in _COLUMNS])
_TIMES_COMMENT = (
    "Times are integer nanoseconds UTC since 1970-01-01T00:00:00 as POSIX counts them "
    "(86400 s a day; a leap second repeats). TZERO must be added in integers."
)


def empty_rows(count: int) -> Rows:
    """Return `count` rows of zeros, with HWID unknown."""
    rows = np.zeros(count, ROW)
    rows["HWID"] = -1
    return rows


def table_hdu(rows: Rows, *, name: str = EXTNAME) -> bytes:
    """Return the whole extension: header, table, fill, with CHECKSUM and DATASUM.

    Parameters
    ----------
    rows : (n,)
        Of :data:`ROW`; none is allowed.
    name
        EXTNAME.

    Raises
    ------
    ValueError
        Rows of another type or shape.
    """
    if rows.dtype != ROW or rows.ndim != 1:
        raise ValueError(f"rows of type {rows.dtype} and shape {rows.shape} are no frame table")
    table = np.empty(len(rows), _STORED)
    table["FRAME"] = np.arange(len(rows), dtype=np.int32)
    for column in _COLUMNS[1:]:
        values = rows[column.name]
        if column.offset:
            # Subtracting the offset of an unsigned type is flipping its highest bit.
            values = (values ^ values.dtype.type(column.offset)).view(f"i{values.dtype.itemsize}")
        table[column.name] = values
    data = table.tobytes()
    data += bytes(-len(data) % BLOCK_BYTES)
    header = _header(len(rows), name)
    head = bytearray(header.to_bytes())
    cards = b"".join(card.to_bytes() for card in header.cards)
    set_checksums(head, len(cards) - 2 * CARD_BYTES, checksum.datasum(data))  # the last two
    return bytes(head) + data


def table_bytes(count: int) -> int:
    """Return the size of the extension of that many rows (for the space check before a cube)."""
    return len(_header(count, EXTNAME).to_bytes()) + -(
        -count * _STORED.itemsize // BLOCK_BYTES
    ) * BLOCK_BYTES


def _header(count: int, name: str) -> Header:
    header = Header()
    header.add("XTENSION", "BINTABLE", "binary table extension")
    header.add("BITPIX", 8, "bytes")
    header.add("NAXIS", 2, "number of axes")
    header.add("NAXIS1", _STORED.itemsize, "bytes of a row")
    header.add("NAXIS2", count, "rows: frames of the cube")
    header.add("PCOUNT", 0, "no heap")
    header.add("GCOUNT", 1, "one group")
    header.add("TFIELDS", len(_COLUMNS), "columns")
    header.add("EXTNAME", name, "name of the extension")
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
    header.add("CHECKSUM", checksum.CHECKSUM_PLACEHOLDER, "checksum of the whole HDU")
    header.add("DATASUM", "0", "checksum of the data unit")
    return header


def read_table(source: Source, *, name: str = EXTNAME) -> Rows:
    """Return the rows of a file's frame table.

    Parameters
    ----------
    source
        A path, the bytes of a file, or an open binary file.
    name
        EXTNAME of the table. Its columns may stand in any order and have others among them.

    Raises
    ------
    NotFits
        No FITS file, no such table in it, or the table is cut short or lacks a column.
    StorageError
        The file cannot be read.
    """
    with opened(source) as (read, label):
        for hdu in walk(read, label):
            if hdu.name == name and hdu.header.get("XTENSION") == "BINTABLE":
                data = read(hdu.data_offset, hdu.data_bytes)
                try:
                    return _rows(hdu, data)
                except ValueError as error:
                    raise NotFits(f"{label}: table {name}: {error}", path=label) from None
    raise NotFits(f"{label}: no table {name}: not the cube of a logger", path=label)


_FORMS = {
    "L": "i1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "A": "S1",
    "C": ">c8", "M": ">c16", "P": ">i8", "Q": ">i8", "X": "u1",
}  # fmt: skip


def _rows(hdu: Hdu, data: bytes) -> Rows:
    """Return the rows of a table's bytes; ValueError where they cannot be had."""
    header = hdu.header
    width, count = int(str(header["NAXIS1"])), int(str(header["NAXIS2"]))
    if len(data) < width * count:
        raise ValueError(f"cut short: {len(data)} bytes of {width * count}")
    found = _offsets(header)
    for column in _COLUMNS[1:]:
        if column.name not in found:
            raise ValueError(f"no column {column.name}")
        number, _ = found[column.name]
        form, zero = header[f"TFORM{number}"], header.get(f"TZERO{number}", 0)
        if str(form).strip() not in (column.code, f"1{column.code}") or zero != column.offset:
            raise ValueError(f"column {column.name} is {form!r} + {zero}, not {column.code!r}")
    kind = np.dtype(
        {
            "names": [column.name for column in _COLUMNS[1:]],
            "formats": [column.stored for column in _COLUMNS[1:]],
            "offsets": [found[column.name][1] for column in _COLUMNS[1:]],
            "itemsize": width,
        }
    )
    table = np.ndarray((count,), kind, data or bytes(width))
    rows = np.empty(count, ROW)
    for column in _COLUMNS[1:]:
        target = rows[column.name]
        target.view(f"<i{target.dtype.itemsize}")[:] = table[column.name]
        if column.offset:
            target ^= target.dtype.type(column.offset)
    return rows


def _offsets(header: Header) -> dict[str, tuple[int, int]]:
    """Return name -> (number, byte offset in the row) of every column."""
    offset, found = 0, {}
    for number in range(1, int(str(header.get("TFIELDS", 0))) + 1):
        form = str(header.get(f"TFORM{number}", "")).strip()
        digits = len(form) - len(form.lstrip("0123456789"))
        repeat, code = int(form[:digits] or 1), form[digits : digits + 1]
        if code not in _FORMS:
            raise ValueError(f"TFORM{number} {form!r} is no form of a binary table")
        found[str(header.get(f"TTYPE{number}", ""))] = (number, offset)
        size = np.dtype(_FORMS[code]).itemsize
        # X counts bits; P is a pair of 32-bit words, Q of 64-bit ones.
        offset += -(-repeat // 8) if code == "X" else repeat * size * (2 if code == "Q" else 1)
    return found
