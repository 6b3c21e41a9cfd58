# SPDX-License-Identifier: BSD-3-Clause
"""Options of photon transfer, and tables with a row of many quadrants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from nightjar.config.load import StrictModel
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

Channel = tuple[int, str]


class TransferOptions(StrictModel):
    """What a campaign may set for photon transfer."""

    model: Literal["exponential", "quadratic"] = Field(
        "exponential", description="Shape of the curve: with the brighter-fatter effect, or a "
        "parabola.",
    )  # fmt: skip
    fit_from: float = Field(0.015, gt=0, lt=1, description="Lowest level of the fit, full scale 1.")
    fit_to: float = Field(0.75, gt=0, le=1.2, description="Highest level of the fit.")
    full_well_from: float = Field(
        0.45, gt=0, lt=1, description="The knee of the full well is looked for above."
    )
    neighbours: float | None = Field(
        None, ge=1, le=3, description="Sum of the squares of all brighter-fatter coefficients by "
        "that of the pixel's own; null: from the covariances of the same frames.",
    )  # fmt: skip
    clip_sigma: float = Field(4.5, ge=3, le=20, description="Pixels of a difference further out "
                              "do not count.")  # fmt: skip
    draws: int = Field(100, ge=0, le=10000, description="Repetitions of the bootstrap.")
    pair_difference: float = Field(
        0.1, gt=0, le=1, description="Pairs whose levels differ by more are left out."
    )
    linearity: str | None = Field(
        None, description="Product NL_MODEL of a linearity test; the frames are corrected by it. "
        "null: that of the campaign's inCDPs.NL, if any.",
    )  # fmt: skip
    is_transfer_corrected: bool = Field(
        True, description="Gives the curves the variance back that trailing charge smooths away."
    )
    edge_from: float = Field(0.15, gt=0, lt=1, description="Lowest level of rows and columns whose "
                             "trail is measured, full scale 1.")  # fmt: skip
    edge_to: float = Field(0.77, gt=0, lt=1.2, description="Highest level.")
    largest_edge_response: float = Field(
        1.5e-3, gt=0, description="Largest share of the signal in the first overscan pixel."
    )


def options_of(work: Work) -> TransferOptions:
    """Return the options for photon transfer, whatever else the task's own model has."""
    known = {key: value for key, value in work.options.items()
             if key in TransferOptions.model_fields}  # fmt: skip
    return TransferOptions.model_validate(known)


# --- tables ---

_UNITS = {
    "mean": "adu", "variance": "adu2", "covariance": "adu2", "error": "adu2",
    "gain": "electron / adu", "gain_error": "electron / adu", "gain_bootstrap": "electron / adu",
    "alpha": "1 / electron", "alpha_error": "1 / electron", "alpha_bootstrap": "1 / electron",
    "read_noise": "electron", "read_noise_error": "electron", "bloom": "adu",
    "bloom_error": "adu", "bloom_e": "electron",
}  # fmt: skip


EDGE_UNITS = {"signal": "adu", "base": "adu", "level": "adu", "level_error": "adu", "tail": "pix"}


def with_units(rows: list[dict[str, Any]], units: Mapping[str, str] | None = None) -> Table:
    """Return rows as a table whose columns have units."""
    from astropy.table import Table

    table = Table(rows=rows)
    for name in table.colnames:
        if unit := (units or {}).get(name, _UNITS.get(name)):
            table[name].unit = unit
    return table


def channels_of(table: Table) -> list[Channel]:
    """Return the (CCD, quadrant) of a table, in order."""
    return sorted({(int(row["ccd"]), str(row["quadrant"])) for row in table})


def rows_of(table: Table, channel: Channel) -> Any:
    """Return the rows of a quadrant."""
    ccd, quadrant = channel
    return table[np.asarray((table["ccd"] == ccd) & (table["quadrant"] == quadrant))]


def optional_table(work: Work, subtask: str, name: str) -> Any:
    """Return a table of an earlier sub-task, None where it left none of that name."""
    names = {entry["name"] for entry in work.earlier(subtask)["tables"]}
    return work.table(subtask, name) if name in names else None
