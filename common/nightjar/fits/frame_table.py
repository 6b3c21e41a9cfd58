# SPDX-License-Identifier: BSD-3-Clause
"""The table of a cube: one row a frame, counters and times as integers, nothing rounded.

Rows live as a numpy array of :data:`ROW` (little-endian, 56 bytes: a logger may append them to its
journal as they are) and stand in the file as the binary table extension ``FRAMES`` (FITS 4.0
section 7.3) with the column ``FRAME`` before them. Unsigned columns are written as FITS has them,
signed with TZERO, which for 64 bits no float holds: readers must add it in integers, as astropy
and cfitsio do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nightjar.fits.bintable import Column, stored_type, table_unit, unit_bytes
from nightjar.fits.hdus import Hdu, Source, opened, walk
from nightjar.fits.header import Header, NotFits

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


_COLUMNS = (
    Column("FRAME", "J", "index in the cube, from 0"),
    Column("CNT0", "K", "stream counter", offset=1 << 63),
    Column("CNT1", "K", "slice of the rolling stream", offset=1 << 63),
    Column("ATIME", "K", "acquisition time, UTC; 0: not given", "ns", null=0),
    Column("WTIME", "K", "time of the write into memory, UTC; 0: not given", "ns", null=0),
    Column("LTIME", "K", "logging time, UTC; 0: not given", "ns", null=0),
    Column("HWID", "K", "frame number of the camera; -1: unknown", null=-1),
    Column("MISSED", "J", "frames missed right before this one", offset=1 << 31),
    Column("DATASUM", "J", "DATASUM of the bytes of this frame alone", offset=1 << 31),
)
_STORED = stored_type(_COLUMNS)


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
        table[column.name] = column.encoded(rows[column.name])
    return table_unit(_COLUMNS, table, name)


def table_bytes(count: int) -> int:
    """Return the size of the extension of that many rows (for the space check before a cube)."""
    return unit_bytes(_COLUMNS, count, EXTNAME)


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
