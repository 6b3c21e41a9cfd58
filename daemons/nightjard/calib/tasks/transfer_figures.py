# SPDX-License-Identifier: BSD-3-Clause
"""Maps of the full well and figures of photon transfer curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjard.calib.science.full_well import FullWell, find_knee
from nightjard.calib.science.photon_transfer import Points, Transfer
from nightjard.calib.tasks.transfer_options import Channel, options_of
from nightjard.calib.work import Work


def well_map(work: Work, points: Points, fit: Transfer) -> dict[int, FullWell]:
    """Return the full well of every tile of a quadrant."""
    full = float(work.detector.adc_full_scale)
    return {
        int(tile): find_knee(points.chosen(points.tile == tile), fit, run=3,
                             from_adu=options_of(work).full_well_from * full)
        for tile in np.unique(points.tile[points.tile >= 0])
    }  # fmt: skip


def leave_maps(work: Work, maps: Mapping[Channel, Mapping[int, FullWell]]) -> None:
    """Write the wells as images of one pixel a tile, in the frame's orientation."""
    detector = work.detector
    tiles = detector.tiles()
    across = len({columns.start for _, columns in tiles})
    for ccd in sorted({ccd for ccd, _ in maps}):
        shape = (len(tiles) // across, across)
        level, limit = {}, {}
        for quadrant in detector.names:
            wells = maps.get((ccd, quadrant), {})
            values = np.full(shape, np.nan, np.float32)
            is_limit = np.zeros(shape, bool)
            for tile, well in wells.items():
                values.flat[tile], is_limit.flat[tile] = well.level, not well.is_reached
            level[quadrant], limit[quadrant] = values, is_limit
        work.results.image(
            f"BloomMap_{work.dataset.test}_CCD{ccd}",
            {"BLOOM": mosaic(detector, level), "LIMIT": mosaic(detector, limit)},
            caption=f"Full well of the tiles of CCD{ccd}, ADU; LIMIT: not reached",
        )


def mosaic(detector: Detector, parts: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return small canonical maps of the quadrants put together as in the frame."""
    rows, columns = next(iter(parts.values())).shape
    across, above = detector.grid
    whole = np.zeros((rows * above, columns * across), next(iter(parts.values())).dtype)
    for name, part in parts.items():
        place = detector.quadrants[name]
        view = part[::-1] if place.reads_from_top else part
        view = view[:, ::-1] if place.reads_from_right else view
        y, x = place.row * rows, place.column * columns
        whole[y : y + rows, x : x + columns] = view
    return whole


def draw_curves(
    work: Work, lines: Mapping[Channel, tuple[Points, Transfer, FullWell]]
) -> None:
    """Draw the curves with their fits, and what is left."""
    from nightjard.calib import plotting

    ccds = sorted({ccd for ccd, _ in lines})
    test = work.dataset.test
    for name, title in (("PTC_curves", "photon transfer"), ("PTC_residuals", "residuals")):
        is_curve = name == "PTC_curves"
        figure, axes = plotting.panels(
            work.detector, ccds, title=f"{test}: {title}", x="mean / ADU",
            y="variance / ADU^2" if is_curve else "variance / fit - 1",
        )  # fmt: skip
        for channel, (points, fit, well) in lines.items():
            axis = axes[channel]
            seen = points.tile >= 0
            mean, variance = points.mean[seen], points.variance[seen]
            fine = np.linspace(0, float(mean.max()), 200)
            y = variance if is_curve else variance / fit(mean) - 1.0
            axis.plot(mean, y, ",", color=plotting.COLOURS[0])
            axis.plot(fine, fit(fine) if is_curve else 0 * fine, lw=0.7, color=plotting.COLOURS[1])
            if well.is_reached:
                axis.axvline(well.level, lw=0.7, ls="--", color="#888888")
            if not is_curve:
                axis.set_ylim(-0.1, 0.1)
        caption = "Variance against mean, with fit and full well" if is_curve else "Residuals"
        work.results.figure(name, figure, caption=caption)
