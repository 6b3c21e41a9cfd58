# SPDX-License-Identifier: BSD-3-Clause
"""The product with the stamps of all spots of a CCD: written by one sub-task, read by others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.errors import Refused, StorageError
from nightjar.fits.cards import Card
from nightjard.calib.work import Work

#: Frames that a worker takes at once.
CHUNK = 8


@dataclass(frozen=True)
class StampFile:
    """What a product of stamps holds beside its pixels."""

    path: Path
    ccd: int
    obsids: list[int]
    ids: list[str]
    quadrants: list[str]

    def chunks(self) -> list[tuple[int, int]]:
        """Return first and end of runs of frames, for workers."""
        count = len(self.obsids)
        return [(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]


def leave_stamps(
    work: Work, ccd: int, kind: str, stamps: Any, x0: Any, y0: Any, obsids: Sequence[int],
    ids: Sequence[str], quadrants: Sequence[str], cards: Sequence[Card] = (),
) -> None:  # fmt: skip
    """Write the stamps of a CCD as a product."""
    name = product_name(work, kind, ccd)
    work.results.image(
        name,
        {"STAMPS": stamps, "X0": x0, "Y0": y0, "OBSID": np.asarray(obsids, np.int32),
         "IDS": _letters(ids), "QUADRANTS": _letters(quadrants)},
        [Card("CCD", ccd, "CCD"), *cards],
        caption=f"Stamps of the spots of CCD{ccd}",
    )  # fmt: skip


def _letters(ids: Sequence[str]) -> NDArray[np.uint8]:
    """Return names as rows of characters: a header's card would be too short for them."""
    width = max((len(name) for name in ids), default=1)
    return np.array([list(name.ljust(width).encode()) for name in ids], np.uint8)


def product_name(work: Work, kind: str, ccd: int) -> str:
    """Return the name of a product of stamps: ``Spots_PSF01_800_NOSTROMO_CCD1``."""
    return f"{kind}_{work.dataset.test}_{work.dataset.block}_CCD{ccd}"


def stamp_files(work: Work, subtask: str, kind: str) -> list[StampFile]:
    """Return the products of stamps that a sub-task left.

    Raises
    ------
    Refused
        The sub-task was not done.
    StorageError
        A product cannot be read.
    """
    from astropy.io import fits

    found = []
    for ccd in work.dataset.ccds:
        try:
            path = work.image_path(subtask, product_name(work, kind, ccd))
        except Refused:
            work.earlier(subtask)  # not done at all: that is told
            continue
        try:
            with fits.open(path) as units:
                obsids = [int(one) for one in units["OBSID"].data]
                ids, quadrants = (
                    [bytes(row).decode().strip() for row in units[name].data]
                    for name in ("IDS", "QUADRANTS")
                )
        except (OSError, KeyError, ValueError) as error:
            raise StorageError(f"cannot read the stamps {path}: {error}", path=str(path)) from error
        found.append(StampFile(path, ccd, obsids, ids, quadrants))
    return found


def read_stamps(path: str, first: int, stop: int) -> tuple[NDArray[Any], Any, Any]:
    """Return stamps, X0 and Y0 of a run of frames: [frame, spot, ...].

    Raises
    ------
    StorageError
        The product cannot be read.
    """
    from astropy.io import fits

    try:
        with fits.open(path, memmap=True) as units:
            stamps = np.array(units["STAMPS"].data[first:stop], np.float64)
            places = [np.array(units[name].data[first:stop], int) for name in ("X0", "Y0")]
    except (OSError, KeyError, ValueError) as error:
        raise StorageError(f"cannot read the stamps {path}: {error}", path=path) from error
    return stamps, places[0], places[1]
