# SPDX-License-Identifier: BSD-3-Clause
"""Charge left behind, from what trails into the overscan (extended pixel edge response).

The last columns (rows) of the image of a flat field are followed by pixels that got no light: what
they hold was lost by the charge packets before them. Where each packet leaves a share p behind
that trails with ``h_k``, ``sum h_k = p``, the pixel j behind an edge holds ``sum_{k >= j} h_k`` of
the signal: the first holds p itself, which divided by the transfers is the charge transfer
inefficiency. The sum of all, which is often quoted, is larger by the mean length of the trail.

The packets before the last one were moved less often, the one m before it m times less: with a tail
of 5 px the mean is 4.5 transfers less than those of the last packet, 1.7 % of 258 and 0.2 % of 2066
rows. And they have not all the same charge. So the packets are counted one by one (:func:`_fed`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjard.calib.science.robust import (
    Float64s,
    clipped_moments,
    weighted_least_squares,
)

EDGE = 10  # last pixels of the image that are the signal
BASE = 3  # last pixels of the overscan, for the plain hard-edge response
_UNSEEN_ADU = 1.0  # that an offset may change across a quadrant without being seen
#: Of the signal, read at 10 000 to 50 000 ADU, against a trail of some ADU: the curve of the
#: converter, which is straight to some tenths of a percent.
_CURVE = 0.003
_TAILS = np.geomspace(0.25, 8.0, 61)  # lengths of the tail that are tried, px


@dataclass(frozen=True)
class Edge:
    """Mean profile across an edge, ADU.

    Attributes
    ----------
    image
        Last :data:`EDGE` pixels of the image, in the order of reading.
    trail, error
        Pixels behind it and their errors.
    lines
        Rows (columns) that it is the mean of.
    slope
        That the offset may have along the profile, ADU a pixel: an offset that changes looks like
        a trail, so it is in the errors of what trails.
    """

    image: Float64s
    trail: Float64s
    error: Float64s
    lines: int
    slope: float = 0.0

    @property
    def signal(self) -> float:
        """Signal of the last pixels, ADU above that of the end of the trail."""
        return float(self.image.mean() - self.trail[-BASE:].mean())

    @property
    def hard_edge(self) -> tuple[float, float]:
        """First pixel behind the edge as a share of the signal, and its error."""
        base = float(self.trail[-BASE:].mean())
        error = math.hypot(float(self.error[0]), float(self.error[-1]) / math.sqrt(BASE))
        return (float(self.trail[0]) - base) / self.signal, error / self.signal


def serial_edge(
    pixels: NDArray[np.float32], bad: NDArray[np.bool_], detector: Detector,
    low_adu: float = 1e4, high_adu: float = 5e4,
) -> Edge | None:
    """Return the profile across the last image column, over rows whose signal lies in limits.

    Parameters
    ----------
    pixels, bad
        Canonical quadrant above offset, ADU.

    Returns
    -------
    Edge or None
        None where there is no overscan to speak of, or too few rows are lit.
    """
    stop = detector.prescan + detector.image_columns
    area = slice(0, detector.image_rows)
    return _edge(pixels[area].T, bad[area].T, stop, detector.overscan, low_adu, high_adu,
                 _column_slope(pixels, detector))  # fmt: skip


def parallel_edge(
    pixels: NDArray[np.float32], bad: NDArray[np.bool_], detector: Detector,
    low_adu: float = 1e4, high_adu: float = 5e4,
) -> Edge | None:
    """Return the profile across the last image row; as :func:`serial_edge`."""
    area = detector.columns_of("image")
    edge = _edge(
        pixels[:, area], bad[:, area], detector.image_rows, detector.parallel_overscan,
        low_adu, high_adu, _UNSEEN_ADU / detector.image_rows,
    )  # fmt: skip
    if edge is None:
        return None
    behind = _row_slope(pixels, detector) * np.arange(edge.trail.size)
    return replace(edge, trail=edge.trail - behind)


def _column_slope(pixels: NDArray[np.float32], detector: Detector) -> float:
    """Return by how much the offset may change along rows near the overscan, ADU a pixel.

    What the prescan says, which is far from there, and one ADU across the quadrant.
    """
    scan = pixels[: detector.image_rows, detector.columns_of("prescan", is_trimmed=True)]
    unknown = _UNSEEN_ADU / detector.image_columns
    if scan.shape[1] < 4:
        return unknown
    line = np.asarray(scan.mean(axis=0, dtype=np.float64))
    return math.hypot(float(np.polyfit(np.arange(line.size), line, 1)[0]), unknown)


def _row_slope(pixels: NDArray[np.float32], detector: Detector) -> float:
    """Return how the offset changes from row to row behind the image, ADU, as the prescan shows.

    What differs between the prescan and the image is in the errors, as along rows.
    """
    scan = pixels[: detector.image_rows, detector.columns_of("prescan", is_trimmed=True)]
    if scan.shape[1] < 4:
        return 0.0
    # From -1 to 1 over the image; its end is the place wanted.
    place = np.linspace(-1.0, 1.0, scan.shape[0])
    _, linear, curved = np.polyfit(place, np.median(scan, axis=1), 2)[::-1].tolist()
    return float((linear + 2.0 * curved) * 2.0 / scan.shape[0])


def _edge(
    pixels: NDArray[np.float32], bad: NDArray[np.bool_], stop: int, behind: int,
    low_adu: float, high_adu: float, slope: float,
) -> Edge | None:
    """Profile along the first axis; lines are along the second."""
    if behind < BASE + 3:
        return None
    strip = slice(stop - EDGE, stop + behind)
    values, is_bad = pixels[strip], bad[strip]
    level = values[:EDGE].mean(axis=0)
    lit = (level > low_adu) & (level < high_adu) & ~is_bad.any(axis=0)
    if int(lit.sum()) < 20:
        return None
    # Lines next to a defect of the image are lit otherwise: those far from the others are left out.
    spread = clipped_moments(level[lit], 4.5)
    lit &= np.abs(level - spread.mean) <= 6.0 * math.sqrt(max(spread.variance, 1.0))
    moments = [clipped_moments(line[lit]) for line in values]
    means = np.array([one.mean for one in moments])
    errors = np.array([math.sqrt(max(one.variance, 1e-6) / one.count) for one in moments])
    return Edge(means[:EDGE], means[EDGE:], errors[EDGE:], int(lit.sum()), slope)


def merged(edges: list[Edge]) -> Edge:
    """Return the mean of profiles of like frames, weighted by their lines.

    Raises
    ------
    ValueError
        There is none.
    """
    if not edges:
        raise ValueError("no edge to merge")
    weights = np.array([edge.lines for edge in edges], np.float64)
    weights /= weights.sum()
    return Edge(
        sum((w * e.image for w, e in zip(weights, edges, strict=True)), np.zeros(EDGE)),
        sum((w * e.trail for w, e in zip(weights, edges, strict=True)),
            np.zeros_like(edges[0].trail)),
        np.sqrt(sum(((w * e.error) ** 2 for w, e in zip(weights, edges, strict=True)),
                    np.zeros_like(edges[0].trail))),
        sum(edge.lines for edge in edges),
        float(sum(w * e.slope for w, e in zip(weights, edges, strict=True))),
    )  # fmt: skip


@dataclass(frozen=True)
class Inefficiency:
    """Charge transfer inefficiency.

    Attributes
    ----------
    cti, error
        Share of the charge left behind in one transfer, 1 sigma: of the first pixel. What the
        converter's curve does to the signal, but not to the trail, is in the error.
    deferred, deferred_error
        Sum of the whole trail instead, beyond the overscan too; NaN where the tail is not seen.
    tail_px
        Length of the exponential tail; NaN where it is too faint to tell.
    base
        Level of the far end of the overscan, ADU.
    """

    cti: float
    error: float
    deferred: float
    deferred_error: float
    tail_px: float
    base: float


def inefficiency(edge: Edge, transfers: int) -> Inefficiency:
    """Return the inefficiency from a trail ``base + A exp(-k/tail)``, k = 0, 1 ...

    Where the tail is not seen (below 3 sigma), the first pixel above the second half of the
    overscan is returned with its error: compatible with nothing, and not pushed up by the best of
    many lengths.
    """
    steps = np.arange(edge.trail.size, dtype=np.float64)
    weights = 1.0 / edge.error**2
    chi2, fits = [], []
    for tail in _TAILS:
        design = np.stack([np.ones_like(steps), np.exp(-steps / tail)], axis=1)
        solution, covariance = weighted_least_squares(design, edge.trail, weights)
        residual = edge.trail - design @ solution
        chi2.append(float(residual @ (residual * weights)))
        fits.append((solution, covariance))
    best = int(np.argmin(chi2))
    (base, amplitude), covariance = fits[best]
    per = edge.signal * transfers
    if amplitude < 3.0 * math.sqrt(covariance[1, 1]):
        return _first_pixel(edge, per)
    tail, base, amplitude, full, bias = _improved(edge, float(_TAILS[best]), base, amplitude)
    share = math.exp(-1.0 / tail)
    per = _fed(edge, share, base, transfers)
    total = amplitude / (1.0 - share)
    # d total / d tail of A / (1 - exp(-1/tail)).
    slope = amplitude * share / (tail**2 * (1.0 - share) ** 2)
    gradient = np.array([0.0, 1.0 / (1.0 - share), slope])
    error = math.hypot(math.sqrt(max(float(gradient @ full @ gradient), 0.0)),
                       float(gradient @ bias))  # fmt: skip
    sigma = math.hypot(math.sqrt(max(float(full[1, 1]), 0.0)), float(bias[1]))
    sigma, error = math.hypot(sigma, _CURVE * amplitude), math.hypot(error, _CURVE * total)
    return Inefficiency(amplitude / per, sigma / per, total / per, error / per, tail, base)


def _fed(edge: Edge, share: float, base: float, transfers: int) -> float:
    """Return charge times transfers of the packets that the first pixel behind the edge got.

    Of the packet m before the last, ``share^m`` of what it left is still on its way:
    ``(1 - share) sum_m share^m (transfers - m) charge_m``. Packets further away than the profile
    reaches count with its mean.

    Parameters
    ----------
    share
        Of the charge on its way that stays there at every pixel, ``exp(-1 / tail)``.
    """
    steps = np.arange(transfers, dtype=np.float64)
    weights = (1.0 - share) * share**steps * (transfers - steps)
    charge = np.full(transfers, float(edge.image.mean()))
    near = min(edge.image.size, transfers)
    charge[:near] = edge.image[::-1][:near]
    return float(weights @ (charge - base))


def _improved(
    edge: Edge, tail: float, base: float, amplitude: float
) -> tuple[float, float, float, Float64s, Float64s]:
    """Return tail, base, amplitude at the minimum; their covariance; what the slope may add."""
    steps = np.arange(edge.trail.size, dtype=np.float64)
    weights = 1.0 / edge.error**2
    covariance = np.zeros((3, 3))
    for _ in range(30):
        decay = np.exp(-steps / tail)
        design = np.stack(
            [np.ones_like(steps), decay, amplitude * decay * steps / tail**2], axis=1
        )
        residual = edge.trail - base - amplitude * decay
        step, covariance = weighted_least_squares(design, residual, weights)
        base, amplitude = base + float(step[0]), amplitude + float(step[1])
        tail = min(max(tail + float(np.clip(step[2], -0.3 * tail, 0.3 * tail)), 0.2), 12.0)
        if abs(float(step[2])) < 1e-6 * tail:
            break
    bias, _ = weighted_least_squares(design, edge.slope * steps, weights)
    return tail, base, amplitude, covariance, bias


def _first_pixel(edge: Edge, per: float) -> Inefficiency:
    half = edge.trail.size // 2
    base = float(edge.trail[half:].mean())
    variance = float(edge.error[0]) ** 2
    variance += float((edge.error[half:] ** 2).sum()) / (edge.trail.size - half) ** 2
    variance += (edge.slope * float(np.mean(np.arange(half, edge.trail.size)))) ** 2
    first = float(edge.trail[0]) - base
    return Inefficiency(first / per, math.sqrt(variance) / abs(per), math.nan, math.nan, math.nan,
                        base)  # fmt: skip
