# SPDX-License-Identifier: BSD-3-Clause
"""A map of what a merged file or slice has seen: to look at, and to see that all came together.

Each detector's place on the sky is the pointing at the time when its channel was read (``skew``),
plus its place in the focal plane turned by ``bolo angle + fiducial angle + pa - rotangle``. What
all detectors have in common is the atmosphere and is taken off; what is left is averaged in pixels.
No science product: it shows whether a source is where it should be, and round.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.errors import InvalidArgument
from nightjard.merged import quality
from nightjard.merged.products import reading

_BAD = quality.NO_RAW | quality.NO_POINTING | quality.NO_ENCODER | quality.SATURATED
_FWHM_PER_SIGMA = 2.3548200450309493
_LEAST_HITS = 0.2  # of the usual number: pixels at the edge are noise
_MASK_ARCSEC = 60.0
_BASELINE_S = 10.0
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SkyMap:
    """A map, offsets from its centre on the sky: x to the east, y to the north.

    Attributes
    ----------
    values
        Mean of the samples, V, (rows, columns); NaN where there are none.
    hits
        Samples in each pixel.
    pixel_arcsec
        Size of a pixel.
    centre_deg
        Right ascension and declination of the centre, ICRS.
    x_arcsec, y_arcsec
        Of the pixels' middles.
    source
        Name of the target; "" for none.
    peak, peak_x_arcsec, peak_y_arcsec, fwhm_arcsec
        Of the brightest thing: height, place by its centroid, width; NaN where nothing stands out.
    """

    values: Floats
    hits: NDArray[np.int64]
    pixel_arcsec: float
    centre_deg: tuple[float, float]
    x_arcsec: Floats
    y_arcsec: Floats
    source: str
    peak: float
    peak_x_arcsec: float
    peak_y_arcsec: float
    fwhm_arcsec: float

    def as_json(self) -> dict[str, Any]:
        """Return what is known of its source, as plain values."""

        def number(value: float) -> float | None:
            return float(value) if np.isfinite(value) else None

        return {
            "source": self.source, "centre_deg": list(self.centre_deg),
            "peak_v": number(self.peak), "peak_x_arcsec": number(self.peak_x_arcsec),
            "peak_y_arcsec": number(self.peak_y_arcsec), "fwhm_arcsec": number(self.fwhm_arcsec),
            "pixel_arcsec": self.pixel_arcsec, "samples": int(self.hits.sum()),
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
    cleaned = _cleaned(scan, x0, y0)
    edge = count * pixel_arcsec / 2
    sums, hits = np.zeros(count * count), np.zeros(count * count, np.int64)
    samples = np.arange(x0.size, dtype=np.float64)
    for number in range(scan.bolos.shape[1]):
        signal = cleaned[:, number]
        if not np.isfinite(signal).any():
            continue
        x, y = _detector(scan, x0, y0, samples, number, deskew)
        column, row = np.floor((x + edge) / pixel_arcsec), np.floor((y + edge) / pixel_arcsec)
        inside = (column >= 0) & (column < count) & (row >= 0) & (row < count)
        inside &= np.isfinite(signal) & scan.good
        index = (row[inside] * count + column[inside]).astype(np.int64)
        sums += np.bincount(index, signal[inside], count * count)
        hits += np.bincount(index, minlength=count * count)
    seen = hits > _LEAST_HITS * np.median(hits[hits > 0]) if hits.any() else hits > 0
    values = np.where(seen, sums / np.where(hits, hits, 1), np.nan).reshape(count, count)
    middles = (np.arange(count, dtype=np.float64) + 0.5) * pixel_arcsec - edge
    found = _source(values, middles, pixel_arcsec)
    return SkyMap(
        values, hits.reshape(count, count), pixel_arcsec, (ra0, dec0), middles, middles,
        scan.source, *found,
    )  # fmt: skip


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


def _cleaned(scan: _Scan, x0: Floats, y0: Floats) -> NDArray[np.float32]:
    """Return the bolometers without what they have in common and without slow drifts."""
    bolos: NDArray[Any] = scan.bolos - np.nanmedian(scan.bolos, axis=0)
    near = np.zeros(bolos.shape, bool)
    samples = np.arange(x0.size, dtype=np.float64)
    for number in range(bolos.shape[1]):
        x, y = _detector(scan, x0, y0, samples, number, False)
        near[:, number] = np.hypot(x, y) < _MASK_ARCSEC
    for _ in range(2):  # the second time with the drifts of the first taken off
        common = np.where(near, np.nan, bolos)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a sample without a detector
            level = np.nanmedian(common, axis=1)
        bolos = bolos - np.nan_to_num(level)[:, np.newaxis]
        bolos = bolos - _drifts(np.where(near, np.nan, bolos), scan.rate_hz)
    return np.asarray(bolos, np.float32)


def _drifts(bolos: NDArray[np.float32], rate_hz: float) -> NDArray[np.float32]:
    """Return the slow part of each detector: medians of stretches, lines between them."""
    stretch = max(1, round(_BASELINE_S * rate_hz))
    count = max(1, bolos.shape[0] // stretch)
    bounds = np.linspace(0, bolos.shape[0], count + 1).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a stretch without a sample
        medians = np.stack([
            np.nanmedian(bolos[low:high], axis=0)
            for low, high in itertools.pairwise(bounds)
        ])  # fmt: skip
    medians = np.nan_to_num(medians)
    middles = (bounds[:-1] + bounds[1:]) / 2
    samples = np.arange(bolos.shape[0])
    return np.stack(
        [np.interp(samples, middles, medians[:, n]) for n in range(bolos.shape[1])], axis=1
    ).astype(np.float32)


def _source(
    values: Floats, middles: Floats, pixel: float
) -> tuple[float, float, float, float]:
    """Return height, place and width of the brightest thing by moments about its peak."""
    unknown = (float("nan"),) * 4
    if not np.isfinite(values).any():
        return unknown
    noise = 1.4826 * float(np.nanmedian(np.abs(values - np.nanmedian(values))))
    row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
    peak = float(values[row, column])
    if peak < 5 * noise:
        return unknown
    x, y = np.meshgrid(middles, middles)
    cx, cy = float(middles[column]), float(middles[row])
    level = float(np.nanmedian(values))
    for _ in range(5):
        near = (np.hypot(x - cx, y - cy) < 45) & np.isfinite(values) & (values > level + 0.3 * (
            peak - level))  # fmt: skip
        weight = values[near] - level
        if weight.sum() <= 0:
            return unknown
        cx = float((x[near] * weight).sum() / weight.sum())
        cy = float((y[near] * weight).sum() / weight.sum())
    # A Gaussian's logarithm is a parabola in the distance squared: a line fitted to its upper part.
    near = (np.hypot(x - cx, y - cy) < 40) & np.isfinite(values)
    upper = near & (values > level + 0.3 * (peak - level))
    if upper.sum() < 5:
        return peak, cx, cy, float("nan")
    squared = (x[upper] - cx) ** 2 + (y[upper] - cy) ** 2
    slope = np.polyfit(squared, np.log(values[upper] - level), 1, w=values[upper] - level)[0]
    if slope >= 0:
        return peak, cx, cy, float("nan")
    sigma = float(np.sqrt(-0.5 / slope))
    # A pixel smears what falls into it.
    sigma = float(np.sqrt(max(sigma**2 - pixel**2 / 12, 0)))
    return peak, cx, cy, sigma * _FWHM_PER_SIGMA


def draw(sky: SkyMap, target: Path) -> None:
    """Draw a map as PNG: north up, east left, as the sky is seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 6.2), dpi=110)
    axes = figure.subplots()
    half = sky.pixel_arcsec / 2
    extent = (sky.x_arcsec[0] - half, sky.x_arcsec[-1] + half,
              sky.y_arcsec[0] - half, sky.y_arcsec[-1] + half)  # fmt: skip
    image = axes.imshow(
        sky.values * 1e3, origin="lower", extent=extent, cmap="inferno", interpolation="nearest"
    )
    axes.invert_xaxis()
    figure.colorbar(image, ax=axes, label="mV")
    ra, dec = sky.centre_deg
    axes.set_xlabel("offset east, arcsec")
    axes.set_ylabel("offset north, arcsec")
    title = sky.source or "map"
    if np.isfinite(sky.peak):
        title += (
            f": {sky.peak * 1e3:.1f} mV at {sky.peak_x_arcsec:+.1f}, {sky.peak_y_arcsec:+.1f} "
            f"arcsec, FWHM {sky.fwhm_arcsec:.1f}"
        )
        axes.plot(sky.peak_x_arcsec, sky.peak_y_arcsec, "+", color="white", markersize=14)
    axes.set_title(f"{title}\ncentre RA {ra:.4f}, Dec {dec:+.4f} deg (ICRS)", fontsize=10)
    figure.tight_layout()
    figure.savefig(target)
