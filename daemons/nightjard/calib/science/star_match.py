# SPDX-License-Identifier: BSD-3-Clause
"""The star pattern found among sources: a similarity transform, without any random choice.

Every pair of pattern stars is laid on every pair of sources. What turns, scales or shifts it by
more than the chamber can is dropped; the rest are counted by how many stars find a source. The
best is fitted by least squares to its stars, each source given away once, and residuals far
outside of the others are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """``place = pivot + shift + scale * turned(star - pivot)``, turned anticlockwise.

    Errors are 1 sigma, of the fit.
    """

    scale: float = 1.0
    rotation_deg: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    pivot_x: float = 0.0
    pivot_y: float = 0.0
    scale_error: float = 0.0
    rotation_error_deg: float = 0.0
    shift_x_error: float = 0.0
    shift_y_error: float = 0.0

    def apply(self, x: Any, y: Any) -> tuple[Floats, Floats]:
        """Return where stars of the pattern come to lie."""
        angle = np.radians(self.rotation_deg)
        a, b = self.scale * np.cos(angle), self.scale * np.sin(angle)
        u, v = np.asarray(x, float) - self.pivot_x, np.asarray(y, float) - self.pivot_y
        return (
            self.pivot_x + self.shift_x + a * u - b * v,
            self.pivot_y + self.shift_y + b * u + a * v,
        )


@dataclass(frozen=True)
class Limits:
    """What a chamber can do to the pattern, at most; shift and tolerance in pixels."""

    scale: float = 0.0122
    rotation_deg: float = 1.4
    shift_px: float = 1000.0
    tolerance_px: float = 16.0

    @classmethod
    def for_width(cls, width_px: float) -> Limits:
        """Return the limits for silicon so wide: those of 4096 pixels, in proportion."""
        part = width_px / 4096.0
        return cls(shift_px=1000.0 * part, tolerance_px=max(16.0 * part, 4.0))


@dataclass(frozen=True)
class Match:
    """A pattern that was found: its transform, which star is which source, the residuals."""

    similarity: Similarity
    stars: NDArray[np.intp]
    sources: NDArray[np.intp]
    rms_px: float

    @property
    def count(self) -> int:
        """Stars that were found."""
        return len(self.stars)


def match_pattern(
    stars: Any, sources: Any, limits: Limits | None = None, *, pivot: tuple[float, float] = (0, 0),
    minimum: int = 8, brightest: int = 80,
) -> Match | None:  # fmt: skip
    """Return how a pattern lies on sources; None where it is not found.

    Parameters
    ----------
    stars : array (n, 2)
        x, y of the pattern, pixels.
    sources : array (m, 2)
        x, y of sources, brightest first.
    pivot
        Point that scale and rotation leave where it is.
    minimum
        Stars that must be found.
    brightest
        Sources that are looked at.
    """
    limits = limits or Limits()
    stars = np.asarray(stars, float).reshape(-1, 2)
    sources = np.asarray(sources, float).reshape(-1, 2)[:brightest]
    if len(stars) < minimum or len(sources) < minimum:
        return None
    p = _complex(stars, pivot)
    s = _complex(sources, pivot)
    best: tuple[int, float, complex, complex] | None = None
    for factor, shift in _candidates(p, s, limits):
        distance = np.abs(factor * p[:, None] + shift - s[None, :]).min(axis=1)
        near = distance < limits.tolerance_px
        key = (int(near.sum()), -float(distance[near].sum()))
        if key[0] >= minimum and (best is None or key > best[:2]):
            best = (*key, factor, shift)
    if best is None:
        return None
    return _refined(p, s, best[2], best[3], limits, minimum, pivot)


def _complex(points: Floats, pivot: tuple[float, float]) -> NDArray[np.complex128]:
    return (points[:, 0] - pivot[0]) + 1j * (points[:, 1] - pivot[1])


def _candidates(p: Any, s: Any, limits: Limits) -> list[tuple[complex, complex]]:
    """Transforms that lay a pair of stars on a pair of sources and are within the limits."""
    i, j = np.triu_indices(len(p), 1)
    k, m = np.nonzero(~np.eye(len(s), dtype=bool))
    step = p[j] - p[i]
    far = np.abs(step) > 0.2 * np.abs(step).max()  # near ones give poor angles
    i, j, step = i[far], j[far], step[far]
    found = []
    for star, along in zip(p[i], step, strict=True):
        factor = (s[m] - s[k]) / along
        shift = s[k] - factor * star
        slack = 2 * limits.tolerance_px / abs(along)
        good = (
            (np.abs(np.abs(factor) - 1) <= limits.scale + slack)
            & (np.abs(np.angle(factor)) <= np.radians(limits.rotation_deg) + slack)
            & (np.abs(shift) <= limits.shift_px * 1.5)
        )
        found += list(zip(factor[good], shift[good], strict=True))
    return found


def _pairs(p: Any, s: Any, factor: complex, shift: complex, tolerance: float) -> Any:
    """Stars and their nearest sources, each source once, the nearest first."""
    distance = np.abs(factor * p[:, None] + shift - s[None, :])
    stars, sources = np.nonzero(distance < tolerance)
    taken_stars: set[int] = set()
    taken_sources: set[int] = set()
    pairs = []
    for index in np.argsort(distance[stars, sources], kind="stable"):
        star, source = int(stars[index]), int(sources[index])
        if star not in taken_stars and source not in taken_sources:
            taken_stars.add(star)
            taken_sources.add(source)
            pairs.append((star, source))
    return np.array(sorted(pairs), int).reshape(-1, 2)


def _refined(
    p: Any, s: Any, factor: complex, shift: complex, limits: Limits, minimum: int,
    pivot: tuple[float, float],
) -> Match | None:  # fmt: skip
    tolerance = limits.tolerance_px
    for _round in range(12):
        pairs = _pairs(p, s, factor, shift, tolerance)
        if len(pairs) < minimum:
            return None
        factor, shift = _fit(p[pairs[:, 0]], s[pairs[:, 1]])
        rest = np.abs(factor * p[pairs[:, 0]] + shift - s[pairs[:, 1]])
        # Closer each time, never closer than what a centre of a bright source is worth.
        narrower = float(np.clip(5.0 * np.median(rest), 0.1, tolerance))
        if narrower == tolerance:
            break
        tolerance = narrower
    similarity = _similarity(p[pairs[:, 0]], factor, shift, rest, pivot)
    if not is_within(similarity, limits):
        return None
    rms = float(np.sqrt(np.mean(rest**2)))
    return Match(similarity, pairs[:, 0], pairs[:, 1], rms)


def _fit(p: Any, s: Any) -> tuple[complex, complex]:
    """Least squares for ``s = factor * p + shift`` in complex numbers: a similarity."""
    dp, ds = p - p.mean(), s - s.mean()
    factor = complex(np.vdot(dp, ds) / np.vdot(dp, dp).real)
    return factor, complex(s.mean() - factor * p.mean())


def _similarity(
    p: Any, factor: complex, shift: complex, rest: Any, pivot: tuple[float, float]
) -> Similarity:
    count = len(p)
    variance = float(np.sum(rest**2)) / max(2 * count - 4, 1)  # of one coordinate
    spread = float(np.sum(np.abs(p - p.mean()) ** 2))
    of_factor = float(np.sqrt(variance / spread)) if spread else float("inf")
    of_shift = float(np.sqrt(variance / count + of_factor**2 * abs(p.mean()) ** 2))
    return Similarity(
        abs(factor), float(np.degrees(np.angle(factor))), shift.real, shift.imag, *pivot,
        of_factor, float(np.degrees(of_factor)), of_shift, of_shift,
    )  # fmt: skip


def is_within(similarity: Similarity, limits: Limits) -> bool:
    """Whether a transform is one that a chamber can make."""
    return (
        abs(similarity.scale - 1) <= limits.scale
        and abs(similarity.rotation_deg) <= limits.rotation_deg
        and abs(similarity.shift_x) <= limits.shift_px
        and abs(similarity.shift_y) <= limits.shift_px
    )
