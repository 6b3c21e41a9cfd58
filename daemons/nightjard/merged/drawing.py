# SPDX-License-Identifier: BSD-3-Clause
"""The picture of a map."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nightjard.merged.mapping import SkyMap
from nightjard.merged.sources import smoothed

_FAINT = 40.0  # sigma: below it the noise of single pixels hides the source
_SMOOTH = 0.35  # of the beam's sigma, for faint ones


def draw(sky: SkyMap, target: Path) -> None:
    """Draw a map as PNG: north up, east left, as the sky is seen; grey where nothing was seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 6.2), dpi=110)
    axes = figure.subplots()
    half = sky.pixel_arcsec / 2
    extent = (sky.x_arcsec[0] - half, sky.x_arcsec[-1] + half,
              sky.y_arcsec[0] - half, sky.y_arcsec[-1] + half)  # fmt: skip
    source = sky.found
    is_faint = not source.snr > _FAINT
    values = sky.values * 1e3
    if is_faint:
        values = smoothed(values, sky.weight, _SMOOTH * sky.beam_arcsec / sky.pixel_arcsec)
    colours = matplotlib.colormaps["inferno"].with_extremes(bad="0.6")
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, [1, 99.7]) if known.size else (0.0, 1.0)
    if not is_faint:  # its core is not to be cut off
        high = max(high, source.peak * 1e3)
    elif np.isfinite(source.peak):
        high = max(high, 0.9 * source.peak * 1e3)
    image = axes.imshow(
        values, origin="lower", extent=extent, cmap=colours, interpolation="nearest",
        vmin=float(low), vmax=max(float(high), float(low) + 1e-9),
    )  # fmt: skip
    axes.set_facecolor("0.6")
    axes.invert_xaxis()
    figure.colorbar(image, ax=axes, label="mV, smoothed" if is_faint else "mV", extend="both")
    ra, dec = sky.centre_deg
    axes.set_xlabel("offset east, arcsec")
    axes.set_ylabel("offset north, arcsec")
    title = sky.source or "map"
    if np.isfinite(source.peak):
        title += (
            f": {source.peak * 1e3:.1f} mV ({source.snr:.0f} sigma) at {source.x:+.1f}, "
            f"{source.y:+.1f} arcsec"
        )
        if np.isfinite(source.fwhm):
            title += f", FWHM {source.fwhm:.1f}"
        reach = 1.2 * sky.beam_arcsec
        axes.plot(
            [source.x - reach, source.x + reach, np.nan, source.x, source.x],
            [source.y, source.y, np.nan, source.y - reach, source.y + reach],
            color="cyan", linewidth=0.8,
        )  # fmt: skip
    else:
        title += ": nothing stands out"
    axes.set_title(f"{title}\ncentre RA {ra:.4f}, Dec {dec:+.4f} deg (ICRS)", fontsize=10)
    figure.tight_layout()
    figure.savefig(target)
