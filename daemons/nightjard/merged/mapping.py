# SPDX-License-Identifier: BSD-3-Clause
"""A map of what a merged file or slice has seen: to look at, and to see that all came together.

Each detector's place on the sky is the pointing at the time when its channel was read (``skew``),
plus its place in the focal plane turned by ``bolo angle + fiducial angle + pa - rotangle``. What
all detectors have in common is the atmosphere and is taken off; what is left is averaged in pixels.
No science product: it shows whether a source is where it should be, and round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.errors import InvalidArgument
from nightjard.merged import quality
from nightjard.merged.cleaning import cleaned
from nightjard.merged.products import reading
from nightjard.merged.sources import Source, find

_BAD = quality.NO_RAW | quality.NO_POINTING | quality.NO_ENCODER | quality.SATURATED
_LEAST_HITS = 0.2  # of the usual number: pixels at the edge are noise
_MASK_BEAMS = 2.0
_LEAST_SPEED = 0.5  # of the usual one, to count for a direction
BEAM_ARCSEC = 31.2
"""Width of a point source, 1.1 mm."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SkyMap:
    """A map, offsets from its centre on the sky: x to the east, y to the north.

    Attributes
    ----------
    values
        Weighted mean of the samples, V, (rows, columns); NaN where there are too few.
    weight
        1 / variance of the pixels by the detectors' noise, 1 / V^2.
    hits
        Samples in each pixel.
    pixel_arcsec, beam_arcsec
        Size of a pixel, width of a point source.
    centre_deg
        Right ascension and declination of the centre, ICRS.
    x_arcsec, y_arcsec
        Of the pixels' middles.
    source
        Name of the target; "" for none.
    found
        The brightest thing: V and arcsec.
    """

    values: Floats
    weight: Floats
    hits: NDArray[np.int64]
    pixel_arcsec: float
    beam_arcsec: float
    centre_deg: tuple[float, float]
    x_arcsec: Floats
    y_arcsec: Floats
    source: str
    found: Source

    def as_json(self) -> dict[str, Any]:
        """Return what is known of its source, as plain values."""

        def number(value: float) -> float | None:
            return float(value) if np.isfinite(value) else None

        one = self.found
        return {
            "source": self.source, "centre_deg": list(self.centre_deg), "peak_v": number(one.peak),
            "snr": number(one.snr), "peak_x_arcsec": number(one.x), "peak_y_arcsec": number(one.y),
            "fwhm_arcsec": number(one.fwhm), "pixel_arcsec": self.pixel_arcsec,
            "samples": int(self.hits.sum()),
        }  # fmt: skip


@dataclass(slots=True, eq=False)
class _Scan:
    """What is read of a file."""

    ra: Floats
    dec: Floats
    angle: Floats
    good: NDArray[np.bool_]
    bolos: NDArray[np.float32]
    radius: Floats
    azimuth: Floats
    skew: Floats
    rate_hz: float
    source: str
    target: tuple[float, float] | None


def make_map(
    path: Path,
    *,
    pixel_arcsec: float = 6.0,
    centre_deg: tuple[float, float] | None = None,
    lockin: str = "ac",
    size_arcsec: float | None = None,
    deskew: bool = True,
    heading: int = 0,
    beam_arcsec: float = BEAM_ARCSEC,
) -> SkyMap:
    """Make a map of a merged file or slice.

    Parameters
    ----------
    path
        The file.
    pixel_arcsec
        Size of a pixel.
    centre_deg
        Right ascension and declination, ICRS; None: the target where the file knows it, else the
        middle of what was seen.
    lockin
        ``ac`` or ``dc``.
    size_arcsec
        Width and height; None: as far as the telescope's axis went.
    deskew
        Place each detector where it was when its channel was read.
    heading
        1 or -1: only rows in one of the two directions of the scan; 0: all.
    beam_arcsec
        Width of a point source.

    Raises
    ------
    InvalidArgument
        There is nothing to map in it.
    StorageError
        It cannot be read.
    """
    scan = _read(path, lockin)
    ra0, dec0 = centre_deg or scan.target or _middle(scan)
    x0 = _wrapped(scan.ra - ra0) * np.cos(np.radians(scan.dec)) * 3600
    y0 = (scan.dec - dec0) * 3600
    if size_arcsec is None:
        reach = np.nanpercentile(np.hypot(x0[scan.good], y0[scan.good]), 98)
        size_arcsec = 2 * max(float(reach), 60.0)
    count = max(3, round(size_arcsec / pixel_arcsec) | 1)
    samples = np.arange(x0.size, dtype=np.float64)

    def place(number: int) -> tuple[Floats, Floats]:  # of an hour, all at once were 400 MB
        return _detector(scan, x0, y0, samples, number, deskew)

    near: NDArray[np.bool_] = np.zeros(scan.bolos.shape, bool)
    for number in range(near.shape[1]):
        x, y = place(number)
        near[:, number] = np.hypot(x, y) < _MASK_BEAMS * beam_arcsec
    focal = np.asarray(scan.radius * np.exp(1j * np.radians(scan.azimuth)), np.complex128)
    signal, noise = cleaned(scan.bolos, near, focal, scan.rate_hz)
    used = scan.good & (_headings(scan, x0, y0) == heading) if heading else scan.good
    sums, weight, hits = _binned(signal, noise, place, used, count, pixel_arcsec)
    seen = hits > _LEAST_HITS * np.median(hits[hits > 0]) if hits.any() else hits > 0
    values = np.where(seen, sums / np.where(seen, weight, 1), np.nan)
    middles = (np.arange(count, dtype=np.float64) + 0.5) * pixel_arcsec - count * pixel_arcsec / 2
    return SkyMap(
        values, weight, hits, pixel_arcsec, beam_arcsec, (ra0, dec0), middles, middles,
        scan.source, find(values, weight, middles, beam_arcsec),
    )  # fmt: skip


def _binned(
    signal: NDArray[np.float32], noise: Floats, place: Callable[[int], tuple[Floats, Floats]],
    used: NDArray[np.bool_], count: int, pixel: float,
) -> tuple[Floats, Floats, NDArray[np.int64]]:  # fmt: skip
    """Return weighted sums, weights and numbers of the samples in square pixels."""
    sums, weight = np.zeros(count * count), np.zeros(count * count)
    hits = np.zeros(count * count, np.int64)
    edge = count * pixel / 2
    for number in range(signal.shape[1]):
        if not np.isfinite(noise[number]):
            continue
        x, y = place(number)
        share = 1 / noise[number] ** 2
        with np.errstate(invalid="ignore"):
            column, row = np.floor((x + edge) / pixel), np.floor((y + edge) / pixel)
            inside = (column >= 0) & (column < count) & (row >= 0) & (row < count)
        inside &= np.isfinite(signal[:, number]) & used
        index = (row[inside] * count + column[inside]).astype(np.int64)
        found = np.bincount(index, minlength=count * count)
        sums += share * np.bincount(index, signal[inside, number], count * count)
        weight += share * found
        hits += found
    shape = (count, count)
    return sums.reshape(shape), weight.reshape(shape), hits.reshape(shape)


def _headings(scan: _Scan, x0: Floats, y0: Floats) -> NDArray[np.int8]:
    """Return 1 and -1 for the two directions along which most of the scan goes, 0 for neither."""
    speed = np.stack([np.gradient(np.where(scan.good, one, np.nan)) for one in (x0, y0)])
    known = np.isfinite(speed).all(axis=0)
    rate = np.hypot(*speed)
    along = np.linalg.eigh(np.cov(speed[:, known]))[1][:, -1]
    along = along * np.sign(along[np.argmax(np.abs(along))])
    with np.errstate(invalid="ignore"):
        forth = along @ speed
        fast = np.abs(forth) > _LEAST_SPEED * np.nanmedian(rate[known])
    return np.where(known & fast, np.sign(forth), 0).astype(np.int8)


def _read(path: Path, lockin: str) -> _Scan:
    with reading(path) as dataset:
        variables = dataset.variables
        name = f"{lockin}_bolos"
        if name not in variables or "ra_j2000" not in variables:
            raise InvalidArgument(f"{path}: it has no {name} or no ra_j2000: it is no merged file")
        counts = variables[name]
        bits = np.asarray(variables["quality"][...])
        ra, dec = (np.asarray(variables[one][...]) for one in ("ra_j2000", "dec_j2000"))
        seen = np.flatnonzero((bits & _BAD == 0) & np.isfinite(ra))
        if seen.size < 100:
            raise InvalidArgument(f"{path}: only {seen.size} samples have data and pointing")
        part = slice(int(seen[0]), int(seen[-1]) + 1)
        bolos = np.asarray(counts[part]).astype(np.float32) * counts.scale_factor
        bolos[np.asarray(counts[part]) == counts.getncattr("_FillValue")] = np.nan
        bolos[:, np.asarray(variables["bolo_good"][...]) == 0] = np.nan
        x, y = (np.asarray(variables[f"bolo_{axis}"][...], np.float64) for axis in "xy")
        fiducial = float(variables["fiducial_angle"][...])
        angle = np.asarray(variables["pa"][part], np.float64) + (
            0.0 if np.isnan(fiducial) else fiducial
        )
        rotator = np.asarray(variables["rotangle_fast"][part], np.float64)
        skew = variables["skew" if lockin == "ac" else "skew_dc"]
        return _Scan(
            ra=ra[part], dec=dec[part], angle=angle - np.nan_to_num(rotator),
            good=(bits[part] & _BAD == 0) & np.isfinite(ra[part]), bolos=bolos,
            radius=np.hypot(x, y), azimuth=np.degrees(np.arctan2(y, x)),
            skew=np.asarray(skew[...], np.float64),
            rate_hz=1 / float(variables["sample_interval"][...]),
            source=_source_name(dataset), target=_target(variables),
        )  # fmt: skip


def _source_name(dataset: Any) -> str:
    if "source_name" in dataset.ncattrs():
        return str(dataset.source_name)
    rows = np.asarray(dataset.variables["source_name"][...])
    texts = [row.tobytes().split(b"\0")[0].decode("utf-8", "replace") for row in rows]
    known = [text for text in texts if text]
    return max(set(known), key=known.count) if known else ""


def _target(variables: Any) -> tuple[float, float] | None:
    """Return the target by the telescope's records, where they give it for 2000."""
    if "source_epoch" not in variables:
        return None
    epoch = np.asarray(variables["source_epoch"][...], np.float64)
    chosen = np.flatnonzero(epoch == 2000.0)
    if not chosen.size:
        return None
    ra = np.asarray(variables["source_ra"][...], np.float64)[chosen]
    dec = np.asarray(variables["source_dec"][...], np.float64)[chosen]
    if variables["source_ra"].units.startswith("h"):
        ra = ra * 15
    return float(np.nanmedian(ra)), float(np.nanmedian(dec))


def _middle(scan: _Scan) -> tuple[float, float]:
    ra = scan.ra[scan.good]
    first = float(ra[0])
    return (
        (first + float(np.median(_wrapped(ra - first)))) % 360,
        float(np.median(scan.dec[scan.good])),
    )


def _wrapped(degrees: Floats) -> Floats:
    return np.asarray((degrees + 180) % 360 - 180)


def _detector(
    scan: _Scan, x0: Floats, y0: Floats, samples: Floats, number: int, deskew: bool
) -> tuple[Floats, Floats]:
    """Return a detector's places, arcsec from the centre."""
    late = scan.skew[number] * scan.rate_hz if deskew else 0.0
    x = np.interp(samples + late, samples, x0)
    y = np.interp(samples + late, samples, y0)
    turned = np.radians(scan.azimuth[number] + scan.angle)
    return (
        x + scan.radius[number] * np.cos(turned), y - scan.radius[number] * np.sin(turned)
    )
