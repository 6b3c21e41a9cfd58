# SPDX-License-Identifier: BSD-3-Clause
"""Cross-talk between channels that are read at the same time, from the stars on them.

Channels are canonical quadrants of all CCDs of one exposure: the same pixel of each is converted
at the same moment. Where a star lies on a source channel, a victim channel shows ``c`` times it.
For every star its pixels on the victim are fitted with ``background + plane + c * source``; the
background of the victim, its slope and its offset do not enter ``c``. Sums of the fits add up over
stars and exposures, so that every one counts with its statistical weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Half of the side of the square of victim pixels about a star, and what counts as lit.
HALF_PX = 7
LIT_ADU = 500.0
#: A victim pixel counts only this far from what is lit on the victim itself.
VICTIM_REACH_PX = 9
_BASIS = 3
_LEAST_PIXELS = 60
_CLIP_SIGMA = 5.0


@dataclass(frozen=True)
class Star:
    """A lit group of pixels on a source channel: its middle pixel and its highest pixel, ADU."""

    x: int
    y: int
    peak: float


def lit_stars(
    image: Any, bad: Bools, *, lit_adu: float = LIT_ADU, minimum_px: int = 3
) -> list[Star]:
    """Return the stars of a canonical quadrant (background zero), as groups of lit pixels.

    Looked at are only the lit pixels: this costs little more than one comparison of the image.
    """
    where = np.flatnonzero(image > lit_adu)
    if len(where) == 0 or len(where) > image.size // 20:
        return []
    columns = image.shape[1]
    y, x = where // columns, where % columns
    mask = np.zeros(image.shape, bool)
    mask.ravel()[where] = True
    labels, count = ndimage.label(mask, np.ones((3, 3), bool))
    label = labels.ravel()[where] - 1
    size = np.bincount(label, minlength=count)
    value = image.ravel()[where].astype(float)
    # A group that only shows in one row or column is a defect.
    stars = []
    for group in np.flatnonzero(size >= minimum_px):
        inside = label == group
        gx, gy, gv = x[inside], y[inside], value[inside]
        if np.ptp(gx) < 1 or np.ptp(gy) < 1 or np.ptp(gx) > 40 or np.ptp(gy) > 40:
            continue
        stars.append(
            Star(int(np.rint(np.average(gx, weights=gv))),
                 int(np.rint(np.average(gy, weights=gv))), float(gv.max()))
        )  # fmt: skip
    return stars


@dataclass
class Sums:
    """What the pixels of all stars add up to; arrays (sources, victims).

    Attributes
    ----------
    xx, xy, yy
        Sums of source squared, source by victim and victim squared after background and plane
        of each star were taken off both.
    freedom
        Pixels minus fitted numbers.
    stars
        Stars that counted.
    """

    xx: Floats
    xy: Floats
    yy: Floats
    freedom: Floats
    stars: Floats

    @classmethod
    def none(cls, channels: int) -> Sums:
        """Return empty sums."""
        return cls(*(np.zeros((channels, channels)) for _ in range(5)))

    def add(self, other: Sums) -> None:
        """Add the sums of other stars."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[...] += getattr(other, name)

    def as_json(self) -> dict[str, Any]:
        """Return plain lists."""
        return {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Sums:
        """Return the sums of plain lists."""
        return cls(*(np.array(value[name], float) for name in cls.__dataclass_fields__))


def accumulate(
    images: list[Any], bads: list[Bools], stars: list[list[Star]], *, lit_adu: float = LIT_ADU,
    half_px: int = HALF_PX,
) -> Sums:  # fmt: skip
    """Return the sums of one exposure.

    Parameters
    ----------
    images : list of arrays (rows, columns)
        Canonical quadrants of all channels, offset taken off, ADU. None where one is missing.
    bads
        Pixels to leave out of each.
    stars
        Lit groups of each, see :func:`lit_stars`.
    """
    sums = Sums.none(len(images))
    shape = next(image.shape for image in images if image is not None)
    for source, image in enumerate(images):
        if image is None:
            continue
        for star in stars[source]:
            rows = slice(max(star.y - half_px, 0), min(star.y + half_px + 1, shape[0]))
            columns = slice(max(star.x - half_px, 0), min(star.x + half_px + 1, shape[1]))
            _add_star(sums, source, images, bads, rows, columns, lit_adu)
    return sums


def _add_star(
    sums: Sums, source: int, images: list[Any], bads: list[Bools], rows: slice, columns: slice,
    lit_adu: float,
) -> None:  # fmt: skip
    light = np.asarray(images[source][rows, columns], float)
    usable = ~bads[source][rows, columns]
    margin = VICTIM_REACH_PX
    wide = (
        slice(max(rows.start - margin, 0), rows.stop + margin),
        slice(max(columns.start - margin, 0), columns.stop + margin),
    )
    inner = (
        slice(rows.start - wide[0].start, rows.start - wide[0].start + light.shape[0]),
        slice(columns.start - wide[1].start, columns.start - wide[1].start + light.shape[1]),
    )
    dy, dx = np.indices(light.shape, float)
    basis = np.stack([np.ones_like(dx), dx - dx.mean(), dy - dy.mean()], axis=-1)
    for victim, image in enumerate(images):
        if victim == source or image is None:
            continue
        # The wings of a star of the victim itself are steep: nothing of them is used.
        own = np.asarray(image[wide]) > lit_adu / 5
        own = ndimage.binary_dilation(ndimage.binary_opening(own), iterations=margin)
        good = usable & ~bads[victim][rows, columns] & ~own[inner]
        if good.sum() < _LEAST_PIXELS:
            continue
        found = _regress(light[good], np.asarray(image[rows, columns], float)[good], basis[good])
        if found is not None:
            for name, value in zip(("xx", "xy", "yy", "freedom"), found, strict=True):
                getattr(sums, name)[source, victim] += value
            sums.stars[source, victim] += 1


def _regress(x: Floats, y: Floats, basis: Floats) -> tuple[float, float, float, float] | None:
    """Sums of x and y freed of the basis, pixels that do not fit (5 sigma) left out."""
    kept = np.ones(len(x), bool)
    for _round in range(3):
        frame, _ = np.linalg.qr(basis[kept])
        a = x[kept] - frame @ (frame.T @ x[kept])
        b = y[kept] - frame @ (frame.T @ y[kept])
        xx = float(a @ a)
        if xx <= 0:
            return None
        rest = b - a * float(a @ b) / xx
        spread = 1.4826 * float(np.median(np.abs(rest)))
        far = np.abs(rest) > _CLIP_SIGMA * max(spread, 0.3)
        if not far.any() or kept.sum() - far.sum() < _LEAST_PIXELS:
            return xx, float(a @ b), float(b @ b), float(len(a) - _BASIS)
        kept[np.flatnonzero(kept)[far]] = False
    frame, _ = np.linalg.qr(basis[kept])
    a = x[kept] - frame @ (frame.T @ x[kept])
    b = y[kept] - frame @ (frame.T @ y[kept])
    return float(a @ a), float(a @ b), float(b @ b), float(len(a) - _BASIS)


@dataclass(frozen=True)
class CrossTalk:
    """Cross-talk from sources (rows) to victims (columns): ratio, its error (1 sigma), noise.

    NaN where no star told of it, and on the diagonal.
    """

    ratio: Floats
    error: Floats
    noise_adu: Floats
    stars: Floats


def matrix(sums: Sums) -> CrossTalk:
    """Return the cross-talk that the sums tell."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = sums.xy / sums.xx
        variance = (sums.yy - ratio * sums.xy) / np.maximum(sums.freedom - sums.stars, 1)
        error = np.sqrt(variance / sums.xx)
    silent = (sums.stars < 1) | (sums.xx <= 0)
    for one in (ratio, error, variance):
        one[silent] = np.nan
    return CrossTalk(ratio, error, np.sqrt(variance), sums.stars)
