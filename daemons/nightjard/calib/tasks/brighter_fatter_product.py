# SPDX-License-Identifier: BSD-3-Clause
"""The product G15TABLE: boundary shifts of every quadrant, written here, read where images are
corrected.

One row a lag: ``ccd quadrant row column west south gain``; ``west`` and ``south`` (see
``science.charge_shift``) in pixels per electron, ``gain`` in electrons per ADU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nightjar.errors import ConfigError
from nightjard.calib.science.charge_shift import Boundaries

Channel = tuple[int, str]


def boundary_rows(channel: Channel, boundaries: Boundaries, gain: float) -> list[dict[str, Any]]:
    """Return the rows of a quadrant; `boundaries` per electron."""
    sides = boundaries.west.shape[0]
    return [
        {"ccd": channel[0], "quadrant": channel[1], "row": row, "column": column,
         "west": float(boundaries.west[row, column]),
         "south": float(boundaries.south[row, column]), "gain": gain}
        for row in range(sides) for column in range(sides)
    ]  # fmt: skip


def boundaries_of(table: Any) -> dict[Channel, Boundaries]:
    """Return the boundaries of all quadrants of a table, per ADU."""
    found: dict[Channel, Boundaries] = {}
    for ccd, quadrant in sorted({(int(row["ccd"]), str(row["quadrant"])) for row in table}):
        mine = table[np.asarray((table["ccd"] == ccd) & (table["quadrant"] == quadrant))]
        sides = int(max(mine["row"])) + 1
        place = (np.asarray(mine["row"], int), np.asarray(mine["column"], int))
        west, south = np.zeros((sides, sides)), np.zeros((sides, sides))
        west[place], south[place] = mine["west"], mine["south"]
        whole = Boundaries(west, south, 0.0, 1.0)
        found[ccd, quadrant] = whole.in_units_of(float(mine["gain"][0]))
    return found


def load_boundaries(path: Path | str) -> dict[Channel, Boundaries]:
    """Return the boundaries of a product G15TABLE, per ADU.

    Raises
    ------
    ConfigError
        It cannot be read.
    """
    from astropy.table import Table

    try:
        return boundaries_of(Table.read(path, format="ascii.ecsv"))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"cannot read brighter-fatter coefficients from {path}: {error}; give a G15TABLE"
        ) from error
