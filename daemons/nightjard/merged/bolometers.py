# SPDX-License-Identifier: BSD-3-Clause
"""The bolometers of an array: their names, places in the focal plane and which are good.

The axes are the array's own, at rotator angle 0: a bolometer at ``(x, y)`` has the angle
``atan2(y, x)`` that the analysis software of the instrument calls its bolometer angle. On the sky
it stands at the position angle ``angle + fiducial_angle + pa - rotangle + 90`` degrees, north
through east, at the distance ``hypot(x, y)``.
"""

from __future__ import annotations

import math

from pydantic import Field

from nightjar.config.load import StrictModel

PITCH_ARCSEC = 38.5
"""Distance of neighbours: 5 mm at 7.7 arcsec/mm."""
HEXTANTS = 6
PER_HEXTANT = 24


class Bolometer(StrictModel):
    """One bolometer."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,16}$", description="Its name in the products.")
    hextant: int = Field(ge=1, le=64, description="Part of the array that it belongs to.")
    x_arcsec: float = Field(ge=-36000, le=36000, description="Place in the focal plane, arcsec.")
    y_arcsec: float = Field(ge=-36000, le=36000, description="Place in the focal plane, arcsec.")
    is_good: bool = Field(True, description="Whether the analysis should use it.")


def hexagonal_array(pitch_arcsec: float = PITCH_ARCSEC) -> tuple[Bolometer, ...]:
    """Return 144 bolometers on a hexagonal lattice, by hextant, then outward and by angle.

    The sites nearest to the centre, which stays empty; the largest radius is 6.245 pitches.
    Hextant h is the sector from 60 (h - 1) degrees on: a site has the same place in each.
    """
    # In a sector: a >= 1 steps along one vector of the lattice, b >= 0 along the next.
    sites = sorted(
        (a * a + a * b + b * b, b / (a + b), math.atan2(b * math.sqrt(0.75), a + b / 2))
        for a in range(1, 8)
        for b in range(8)
    )
    sector = [(square, angle) for square, _, angle in sites[:PER_HEXTANT]]
    found = []
    for hextant in range(1, HEXTANTS + 1):
        for number, (square, place) in enumerate(sector, 1):
            angle = place + math.radians(60 * (hextant - 1))
            radius = math.sqrt(square) * pitch_arcsec
            found.append(
                Bolometer(
                    name=f"h{hextant}b{number:02d}", hextant=hextant,
                    x_arcsec=round(radius * math.cos(angle), 3),
                    y_arcsec=round(radius * math.sin(angle), 3),
                )
            )  # fmt: skip
    return tuple(found)
