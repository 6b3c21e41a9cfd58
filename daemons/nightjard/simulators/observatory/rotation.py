# SPDX-License-Identifier: BSD-3-Clause
"""The rotator of a simulated night that is not lived through: when it turns, and to where."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjard.simulators.observatory.sky import Floats

ROWS_DEG = 10.7
"""Angle between rows of the array and the scan for the best sampling."""
RANGE_DEG = (-35.5, 23.5)
SPEED_DEG_S = 5.0
RISE_S = 0.15
"""From the rise of ROTATE to the rise of ROTATING."""
SETTLE_S = 1.2
LEAST_S = 0.2
"""Shortest time that ROTATING is up."""


@dataclass(slots=True)
class Rotation:
    """Moves of the rotator in order of time, and the edges of ROTATING by them."""

    first_deg: float = 0.0
    moves: list[tuple[int, int, float, float]] = field(default_factory=list)
    edges: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def angle_deg(self) -> float:
        """Angle after the last move."""
        return self.moves[-1][3] if self.moves else self.first_deg

    def answer(self, rotate_ns: int, goal_deg: float) -> int:
        """Turn as ROTATE asks; return when ROTATING falls."""
        rise = rotate_ns + round(RISE_S * NS_PER_S)
        way = abs(goal_deg - self.angle_deg)
        length = LEAST_S if way < 0.5 else way * math.pi / 2 / SPEED_DEG_S
        stop = rise + round(length * NS_PER_S)
        if way >= 0.5:
            self.moves.append((rise, stop, self.angle_deg, goal_deg))
            stop += round(SETTLE_S * NS_PER_S)
        self.edges += [(rise, True), (stop, False)]
        return stop

    def angles_at(self, t_ns: NDArray[np.int64]) -> Floats:
        """Return the angle at times, degrees."""
        found = np.full(t_ns.shape, self.first_deg)
        for start, stop, before, after in self.moves:
            share = np.clip((t_ns - start) / (stop - start), 0.0, 1.0)
            found += (after - before) * (1 - np.cos(np.pi * share)) / 2
        return found


def best_angle(now_deg: float, fiducial_deg: float, pa_deg: float, scan_deg: float) -> float:
    """Return the nearest rotator angle with rows 10.7 degrees off the scan's direction.

    Parameters
    ----------
    now_deg
        Where it is.
    fiducial_deg
        Angle of the array in its dewar.
    pa_deg
        Parallactic angle.
    scan_deg
        Position angle of the scan on the sky, north through east.
    """
    found = [
        angle
        for sign in (-1, 1)
        for turn in range(-8, 9)
        if RANGE_DEG[0]
        <= (angle := fiducial_deg + pa_deg + 90 - scan_deg + sign * ROWS_DEG + 60 * turn)
        <= RANGE_DEG[1]
    ]
    if not found:  # a gap of the range's ends between two solutions
        return now_deg
    return min(found, key=lambda angle: (abs(angle - now_deg), angle))
