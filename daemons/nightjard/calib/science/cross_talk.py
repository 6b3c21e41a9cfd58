# SPDX-License-Identifier: BSD-3-Clause
"""Cross-talk between channels that are read at the same time, from the stars on them.

Channels are canonical quadrants of all CCDs of one exposure: the same pixel of each is converted
at the same moment. Where a star lies on a source channel, a victim channel shows ``c`` times it.
The pixels of a victim about a star are fitted with ``background + sum c_s source_s``: all channels
that are lit there at once, since the same star of the pattern falls on nearly the same pixels of
several CCDs; the background is a polynomial of second degree, so that offset, slopes and far wings
of other stars do not enter ``c``; charge that a star of the victim left behind in transfer has its
own terms. Sums of the fits add up over stars and exposures, so that every
one counts with its statistical weight, and the equations of each victim are solved in the end.
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
VICTIM_REACH_PX = 3
#: What is lit on a victim: more than cross-talk can be.
_OWN_ADU = 40.0
#: Stars of different channels nearer than this are looked at together.
_TOGETHER_PX = 12
#: How far behind a star charge is looked for that was left behind, and how fast it fades, px.
_TRAIL_PX = 60
_FADING_PX = (2.5, 6.0, 15.0)
_LEAST_PIXELS = 60
_CLIP_SIGMA = 5.0
#: Sources whose light is more alike than this (correlation) cannot be told from each other.
_MOST_ALIKE = 0.995


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
    """What the pixels of all stars add up to, for each victim.

    Attributes
    ----------
    xx : array (victims, sources, sources)
        Sums of products of sources, after the background of each star was taken off.
    xy : array (victims, sources)
        Sums of source by victim.
    yy, freedom : arrays (victims,)
        Sums of victim squared; pixels less fitted numbers of the background.
    stars : array (victims, sources)
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
        n = channels
        return cls(
            np.zeros((n, n, n)), np.zeros((n, n)), np.zeros(n), np.zeros(n), np.zeros((n, n))
        )

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
    images: list[Any], bads: list[Any], stars: list[list[Star]], *, lit_adu: float = LIT_ADU,
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
    for group in together(stars):
        xs, ys = [star.x for star in group], [star.y for star in group]
        rows = slice(max(min(ys) - half_px, 0), min(max(ys) + half_px + 1, shape[0]))
        columns = slice(max(min(xs) - half_px, 0), min(max(xs) + half_px + 1, shape[1]))
        _add_group(sums, images, bads, rows, columns, lit_adu)
    return sums


def together(stars: list[list[Star]]) -> list[list[Star]]:
    """Return the stars of all channels in groups of those that fall near each other."""
    left = sorted((star for one in stars for star in one), key=lambda star: (-star.peak, star.x))
    groups = []
    while left:
        first, rest = left[0], left[1:]
        near = [
            star for star in rest
            if abs(star.x - first.x) <= _TOGETHER_PX and abs(star.y - first.y) <= _TOGETHER_PX
        ]  # fmt: skip
        groups.append([first, *near])
        left = [star for star in rest if star not in near]
    return groups


def _add_group(
    sums: Sums, images: list[Any], bads: list[Any], rows: slice, columns: slice, lit_adu: float
) -> None:
    here = (rows, columns)
    lit = [
        channel for channel, image in enumerate(images)
        if image is not None and _is_lit(image[here], lit_adu)
    ]  # fmt: skip
    if not lit:
        return
    light = np.stack([np.asarray(images[channel][here], float) for channel in lit], axis=-1)
    usable = ~np.any([bads[channel][here] for channel in lit], axis=0)
    dy, dx = (one - one.mean() for one in np.indices(usable.shape, float))
    basis = np.stack([np.ones_like(dx), dx, dy, dx * dx, dx * dy, dy * dy], axis=-1)
    for victim, image in enumerate(images):
        if image is None:
            continue
        good = usable & ~bads[victim][here] & ~_own_light(image, rows, columns)
        sources = [index for index, channel in enumerate(lit) if channel != victim]
        # A source counts where its own light is among the pixels that are left.
        sources = [one for one in sources if _is_lit(light[..., one][good], lit_adu)]
        if not sources or good.sum() < _LEAST_PIXELS:
            continue
        known = np.concatenate([basis, trails(image, rows, columns, lit_adu)], axis=-1)
        found = _freed(
            light[good][:, sources], np.asarray(image[here], float)[good], known[good]
        )
        if found is None:
            continue
        x, y = found
        which = [lit[one] for one in sources]
        sums.xx[victim][np.ix_(which, which)] += x.T @ x
        sums.xy[victim][which] += x.T @ y
        sums.yy[victim] += float(y @ y)
        sums.freedom[victim] += len(y) - known.shape[-1]
        sums.stars[victim][which] += 1


def _is_lit(light: Any, lit_adu: float) -> bool:
    """Whether there is a star, not just a pixel."""
    return bool((np.asarray(light) > lit_adu).sum() >= 3)


def _own_light(image: Any, rows: slice, columns: slice) -> Bools:
    """Tell which pixels of a window are near light of the channel itself."""
    margin = VICTIM_REACH_PX
    up, left = min(rows.start, margin), min(columns.start, margin)
    part = image[rows.start - up : rows.stop + margin, columns.start - left : columns.stop + margin]
    own = np.asarray(part) > float(np.median(part)) + _OWN_ADU
    if own.any():
        own = ndimage.binary_dilation(own, np.ones((3, 3), bool), iterations=margin)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    return np.asarray(own[up : up + height, left : left + width])


def trails(image: Any, rows: slice, columns: slice, lit_adu: float) -> Floats:
    """Return what charge left behind by stars of the channel itself looks like in a window.

    A star trails into rows and columns that are read later: its profile across, times
    exponentials along. Shape (rows, columns, terms); no terms where no star lies before.
    """
    height, width = rows.stop - rows.start, columns.stop - columns.start
    terms: list[Floats] = []
    for is_parallel in (True, False):
        turned = image if is_parallel else image.T
        along, across = (rows, columns) if is_parallel else (columns, rows)
        first = max(along.start - _TRAIL_PX, 0)
        part = np.asarray(turned[first : along.stop, across], float)
        bright = np.where(part > lit_adu, part, 0.0)
        if (bright > 0).sum() < 3:
            continue
        profile = bright.sum(axis=0)
        centre = float((bright.sum(axis=1) * np.arange(len(bright))).sum() / bright.sum())
        distance = np.arange(along.start, along.stop) - first - centre
        for fading in _FADING_PX:
            fade = np.where(distance > 0, np.exp(-np.maximum(distance, 0.0) / fading), 0.0)
            term = np.outer(fade, profile / profile.max())
            terms.append(term if is_parallel else term.T)
    if not terms:
        return np.zeros((height, width, 0))
    return np.stack(terms, axis=-1)


def _freed(x: Floats, y: Floats, basis: Floats) -> tuple[Floats, Floats] | None:
    """Return sources and victim without the background; pixels that do not fit are left out."""
    kept = np.ones(len(y), bool)
    for _round in range(4):
        frame = _axes(basis[kept])
        a = x[kept] - frame @ (frame.T @ x[kept])
        b = y[kept] - frame @ (frame.T @ y[kept])
        if not (np.einsum("ij,ij->j", a, a) > 0).all():
            return None
        rest = b - a @ np.linalg.lstsq(a, b, rcond=1e-9)[0]
        spread = 1.4826 * float(np.median(np.abs(rest)))
        far = np.abs(rest) > _CLIP_SIGMA * max(spread, 0.3)
        if not far.any() or kept.sum() - far.sum() < _LEAST_PIXELS or _round == 3:
            break
        kept[np.flatnonzero(kept)[far]] = False
    return a, b


def _axes(basis: Floats) -> Floats:
    """Return orthonormal axes of what the terms span, those that are nothing left out."""
    scale = np.sqrt((basis**2).sum(axis=0))
    terms = basis[:, scale > 1e-6] / scale[scale > 1e-6]
    left, size, _ = np.linalg.svd(terms, full_matrices=False)
    return np.asarray(left[:, size > 1e-7 * size[0]])


@dataclass(frozen=True)
class CrossTalk:
    """Cross-talk from sources (rows) to victims (columns): ratio, its error (1 sigma).

    NaN where no star told of it, where sources cannot be told from each other, and on the
    diagonal.

    Attributes
    ----------
    noise_adu : array (victims,)
        Of a pixel of a victim about the fit.
    stars
        Stars that counted.
    """

    ratio: Floats
    error: Floats
    noise_adu: Floats
    stars: Floats


def matrix(sums: Sums) -> CrossTalk:
    """Return the cross-talk that the sums tell."""
    count = len(sums.yy)
    ratio, error = np.full((count, count), np.nan), np.full((count, count), np.nan)
    noise = np.full(count, np.nan)
    for victim in range(count):
        which = np.flatnonzero(sums.stars[victim] > 0)
        if len(which) == 0:
            continue
        xx, xy = sums.xx[victim][np.ix_(which, which)], sums.xy[victim][which]
        scale = np.sqrt(np.diag(xx))
        likeness = xx / np.outer(scale, scale)
        inverse = np.linalg.pinv(likeness, rcond=1e-10, hermitian=True)
        found = (inverse @ (xy / scale)) / scale
        freedom = max(sums.freedom[victim] - len(which), 1.0)
        variance = max(float(sums.yy[victim] - found @ xy), 0.0) / freedom
        # How much of a source the others cannot imitate.
        own = 1.0 / np.maximum(np.diag(inverse), 1e-12)
        clear = own > 1.0 - _MOST_ALIKE**2
        ratio[which[clear], victim] = found[clear]
        error[which[clear], victim] = np.sqrt(variance * np.diag(inverse)[clear]) / scale[clear]
        noise[victim] = np.sqrt(variance)
    return CrossTalk(ratio, error, noise, sums.stars.T.copy())
