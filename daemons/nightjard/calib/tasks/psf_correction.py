# SPDX-License-Identifier: BSD-3-Clause
"""Sub-task ``corrBFE_G15``: stamps of spots with charge put back where its light fell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nightjar.errors import StorageError
from nightjard.calib.tasks.psf_stamps import leave_stamps, read_stamps, stamp_files
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from nightjard.calib.science.charge_shift import Boundaries


def boundaries_of(work: Work) -> dict[tuple[int, str], dict[str, Any]]:
    """Return the shifts of every channel as plain values, per ADU: the product G15TABLE of BF01.

    Raises
    ------
    ConfigError
        It cannot be read or is another table.
    """
    path = work.inputs.kernels
    if path is None:
        return {}
    from nightjard.calib.tasks.brighter_fatter_product import load_boundaries

    return {
        channel: {"west": one.west.tolist(), "south": one.south.tolist()}
        for channel, one in load_boundaries(path).items()
    }


def correct_stamps(
    path: str, ccd: int, first: int, stop: int, quadrants: list[str],
    boundaries: dict[str, dict[str, Any]], target: str,
) -> str:  # fmt: skip
    """Correct the stamps of a run of frames; return the path of the array.

    Parameters
    ----------
    quadrants
        Of each spot.
    boundaries
        By quadrant: west and south, per ADU; spots of others stay as they are.

    Raises
    ------
    StorageError
        The stamps cannot be read, or the array not be written.
    """
    del ccd
    stamps, _x0, _y0 = read_stamps(path, first, stop)
    shifts = {
        name: _boundaries(one["west"], one["south"]) for name, one in boundaries.items()
    }
    for frame in stamps:
        for i, quadrant in enumerate(quadrants):
            if quadrant in shifts and np.isfinite(frame[i]).any():
                frame[i] = without_shifts(frame[i], shifts[quadrant])
    try:
        np.save(target, stamps.astype(np.float32))
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror}", path=target) from error
    return target


def _boundaries(west: Any, south: Any) -> Boundaries:
    from nightjard.calib.science.charge_shift import Boundaries

    return Boundaries(np.asarray(west, float), np.asarray(south, float), 0.0, 1.0)


def without_shifts(stamp: Any, boundaries: Boundaries) -> Any:
    """Return a stamp without the shifts; bad pixels (not a number) stay bad.

    One step, as the coefficients are meant: stars lose 1.06 of their growth, 1.15 if the step is
    repeated with what it gave (stars of 2.1 px, up to 40 000 ADU).
    """
    from nightjard.calib.science.charge_shift import corrected

    bad = ~np.isfinite(stamp)
    seen = np.where(bad, np.nanmedian(stamp), stamp)
    return np.where(bad, np.nan, corrected(seen, boundaries))


def correct(work: Work) -> None:
    """Leave the stamps of ``prep`` without brighter-fatter; a note where nothing is known of it.

    Raises
    ------
    Refused
        ``prep`` was not done.
    ConfigError
        The table of coefficients is not one.
    """
    if work.is_drill:
        return
    known = boundaries_of(work)
    if not known:
        work.results.note("no table of brighter-fatter coefficients is configured: not corrected")
        return
    folder = work.intermediate / "nobfe"
    folder.mkdir(exist_ok=True)
    for one in stamp_files(work, "prep", "Spots"):
        mine = {name: values for (ccd, name), values in known.items() if ccd == one.ccd}
        missing = sorted(set(one.quadrants) - set(mine))
        if missing:
            work.results.note(f"CCD{one.ccd} {', '.join(missing)}: no coefficients, not corrected")
        items = [
            {"path": str(one.path), "ccd": one.ccd, "first": first, "stop": stop,
             "quadrants": one.quadrants, "boundaries": mine,
             "target": str(folder / f"{one.ccd}_{first:05d}.npy")}
            for first, stop in one.chunks()
        ]  # fmt: skip
        parts = work.map(correct_stamps, items, stage=f"brighter-fatter of CCD{one.ccd}")
        stamps = np.concatenate([np.load(path) for path in parts])
        _, x0, y0 = read_stamps(str(one.path), 0, len(one.obsids))
        leave_stamps(work, one.ccd, "SpotsNoBFE", stamps, x0.astype(np.int32),
                     y0.astype(np.int32), one.obsids, one.ids, one.quadrants)  # fmt: skip
