# SPDX-License-Identifier: BSD-3-Clause
"""Ways to scan: offsets of the beam from the field's centre as functions of the time since start.

A pattern begins and ends at rest in the centre. Offsets are arcsec on the sky along the axes of
the scan; ``is_scanning`` holds in rows, not in turnarounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nightjar.errors import InvalidArgument

Floats = NDArray[np.float64]


class Pattern(Protocol):
    """A way to scan."""

    @property
    def duration_s(self) -> float:
        """Whole length."""
        ...

    def offsets(self, tau_s: Floats) -> tuple[Floats, Floats]:
        """Return the offsets x, y, arcsec; zero before and after."""
        ...

    def overshoot(self, tau_s: Floats) -> Floats:
        """Return how far the drives run over in turnarounds: -1 to 1 along x."""
        ...

    def edges(self) -> list[tuple[float, bool]]:
        """Return when scanning begins and ends: (s since start, is scanning)."""
        ...


def _approach(tau: Floats, length: float, goal: float, speed: float) -> Floats:
    """Return the way from rest at 0 to ``goal`` with ``speed`` at ``length`` (Hermite)."""
    u = np.clip(tau / length, 0.0, 1.0)
    return np.asarray(goal * u * u * (3 - 2 * u) + speed * length * u * u * (u - 1))


@dataclass(frozen=True, slots=True)
class Raster:
    """Parallel rows in alternate directions, half-cosine velocity in the turnarounds.

    Attributes
    ----------
    duration_s
        At most; as many whole rows are made as fit.
    length_arcsec, step_arcsec, height_arcsec
        Of a row; between rows; of the field: at its edge the rows come back.
    speed_arcsec_s
        In the rows.
    turn_s
        Of a turnaround.
    lead_s
        From rest in the centre to the first row, and back at the end.
    """

    duration_s: float
    length_arcsec: float = 600.0
    step_arcsec: float = 30.0
    height_arcsec: float = 600.0
    speed_arcsec_s: float = 120.0
    turn_s: float = 2.0
    lead_s: float = 4.0

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InvalidArgument(
                f"a raster of {self.duration_s:g} s: one row of {self.length_arcsec:g} arcsec at "
                f"{self.speed_arcsec_s:g} arcsec/s needs {2 * self.lead_s + self.row_s:g} s"
            )

    @property
    def row_s(self) -> float:
        """Time of a row."""
        return self.length_arcsec / self.speed_arcsec_s

    @property
    def rows(self) -> int:
        """Whole rows that fit."""
        room = self.duration_s - 2 * self.lead_s + self.turn_s
        return math.floor(room / (self.row_s + self.turn_s) + 1e-9)

    @property
    def used_s(self) -> float:
        """Time that is really used, with both leads."""
        return 2 * self.lead_s + self.rows * (self.row_s + self.turn_s) - self.turn_s

    def _height(self, row: NDArray[np.int64]) -> Floats:
        most = max(1, round(self.height_arcsec / self.step_arcsec))
        place = most - np.abs(np.mod(row, 2 * most) - most)
        return np.asarray((place - most / 2) * self.step_arcsec)

    def _phase(self, tau_s: Floats) -> tuple[NDArray[np.int64], Floats]:
        period = self.row_s + self.turn_s
        since = tau_s - self.lead_s
        row = np.clip(np.floor(since / period), 0, self.rows - 1).astype(np.int64)
        return row, since - row * period

    def offsets(self, tau_s: Floats) -> tuple[Floats, Floats]:
        """Return the offsets x, y, arcsec."""
        row, phase = self._phase(tau_s)
        direction = np.where(row % 2, -1.0, 1.0)
        turning = np.clip(phase - self.row_s, 0.0, self.turn_s)
        half = self.length_arcsec / 2
        x = np.where(
            phase <= self.row_s,
            -half + self.speed_arcsec_s * phase,
            half + self.speed_arcsec_s * self.turn_s / np.pi
            * np.sin(np.pi * turning / self.turn_s),
        )  # fmt: skip
        x = direction * x
        here, there = self._height(row), self._height(row + 1)
        y = here + (there - here) * (1 - np.cos(np.pi * turning / self.turn_s)) / 2
        begins, ends = tau_s < self.lead_s, tau_s > self.used_s - self.lead_s
        first, last = self._height(np.array([0, self.rows - 1]))
        way = -1.0 if self.rows % 2 == 0 else 1.0
        back = self.used_s - tau_s
        x = np.where(begins, _approach(tau_s, self.lead_s, -half, self.speed_arcsec_s), x)
        y = np.where(begins, _approach(tau_s, self.lead_s, first, 0.0), y)
        x = np.where(ends, way * _approach(back, self.lead_s, half, -self.speed_arcsec_s), x)
        return x, np.where(ends, _approach(back, self.lead_s, last, 0.0), y)

    def overshoot(self, tau_s: Floats) -> Floats:
        """Return how far the drives run over: outward in each turnaround."""
        row, phase = self._phase(tau_s)
        u = np.clip((phase - self.row_s) / self.turn_s, 0.0, 1.0)
        is_between = (row < self.rows - 1) & (tau_s > self.lead_s)
        return np.where(is_between, np.where(row % 2, -1.0, 1.0) * np.sin(np.pi * u) ** 2, 0.0)

    def edges(self) -> list[tuple[float, bool]]:
        """Return when rows begin and end."""
        period = self.row_s + self.turn_s
        begins = [self.lead_s + row * period for row in range(self.rows)]
        return [edge for t in begins for edge in ((t, True), (t + self.row_s, False))]


@dataclass(frozen=True, slots=True)
class Lissajous:
    """Two sines at right angles, in and out of the centre by a ramp of the amplitude."""

    duration_s: float
    amplitude_arcsec: float = 300.0
    speed_arcsec_s: float = 120.0
    ratio: float = math.sqrt(3) / 2
    lead_s: float = 4.0

    def __post_init__(self) -> None:
        if self.duration_s < 3 * self.lead_s:
            raise InvalidArgument(
                f"a Lissajous scan of {self.duration_s:g} s: at least {3 * self.lead_s:g} s"
            )

    def offsets(self, tau_s: Floats) -> tuple[Floats, Floats]:
        """Return the offsets x, y, arcsec."""
        rate = self.speed_arcsec_s / self.amplitude_arcsec
        ramp = _approach(tau_s, self.lead_s, 1.0, 0.0) * _approach(
            self.duration_s - tau_s, self.lead_s, 1.0, 0.0
        )
        size = self.amplitude_arcsec * ramp
        return size * np.sin(rate * tau_s), size * np.sin(rate * self.ratio * tau_s)

    def overshoot(self, tau_s: Floats) -> Floats:
        """Return zeros: it has no turnarounds."""
        return np.zeros(tau_s.shape)

    def edges(self) -> list[tuple[float, bool]]:
        """Return when it begins and ends, without the ramps."""
        return [(self.lead_s, True), (self.duration_s - self.lead_s, False)]
