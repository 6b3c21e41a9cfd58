# SPDX-License-Identifier: BSD-3-Clause
"""The table of a product: what is known of each frame, and which raw frame it was.

Integers as they are, nothing rounded; unsigned columns with TZERO, which readers must add in
integers (FITS 4.0 section 7.3.2), as astropy and cfitsio do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.fits.bintable import Column, stored_type, table_unit
from nightjard.archived.nights.records import Rows

EXTNAME = "FRAMES"


_COLUMNS = (
    Column("FRAME", "J", "index in this cube, from 0"),
    Column("ATIME", "K", "frame grabber, end of read-out, UTC; 0: not known", "ns", null=0),
    Column("LTIME", "K", "logging time, UTC; 0: not known", "ns", null=0),
    Column("MTIME", "K", "mean of the cameras, UTC; 0: not known", "ns", null=0),
    Column("CNT0", "K", "stream counter", offset=1 << 63),
    Column("CNT1", "K", "slice of the rolling stream", offset=1 << 63),
    Column("TRIGGER", "K", "trigger of the run, from 0; -1: not known", null=-1),
    Column("OFFSET", "K", "taken off ATIME to compare cameras", "ns"),
    Column("SYNCCONF", "E", "probability that the partner is right"),
    Column("FLCCONF", "E", "probability that STATE is right"),
    Column("STATE", "I", "modulator: 1 driven high, -1 low, 0 not known"),
    Column("SRCCUBE", "J", "raw cube: number n of card SRCn"),
    Column("SRCIDX", "J", "index in the raw cube, from 0"),
)
STORED = stored_type(_COLUMNS)


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
        stored[column.name] = column.encoded(rows[column.name])
    places = {number: place for place, number in enumerate(cubes, start=1)}
    numbers, inverse = np.unique(rows["cube"], return_inverse=True)
    stored["SRCCUBE"] = np.array([places[int(number)] for number in numbers], ">i4")[inverse]
    stored["SRCIDX"] = rows["index"]
    return stored


def table_hdu(rows: Rows, cubes: Sequence[int]) -> bytes:
    """Return the whole extension of :func:`table`: header, table, fill, both checksums."""
    return table_unit(_COLUMNS, table(rows, cubes), EXTNAME)
