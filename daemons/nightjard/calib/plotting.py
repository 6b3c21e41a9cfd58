# SPDX-License-Identifier: BSD-3-Clause
"""Figures that all analyses draw: a panel a quadrant, a row a CCD; however many there are.

No window system, no state shared between figures, no date in them: the same data give the same
picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nightjar.calibration.detector import Detector

Channel = tuple[int, str]
_MOST_BESIDE = 8
_MOST_PIXELS = 700
_NARROW = 200.0  # a logarithmic axis of fewer than so many times its begin

COLOURS = ("#1f5fa8", "#c23b22", "#2e8b57", "#8a5fb0", "#c98a00", "#5a5a5a")


def new_figure(width: float = 10.0, height: float = 6.0) -> Figure:
    """Return an empty figure, inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def panels(
    detector: Detector, ccds: Sequence[int], *, title: str = "", x: str = "", y: str = "",
) -> tuple[Figure, dict[Channel, Any]]:  # fmt: skip
    """Return a figure with one panel for every quadrant of every CCD.

    Parameters
    ----------
    x, y
        What the axes are; told at the outer panels.

    Returns
    -------
    Figure, dict
        (CCD, quadrant) to its axes.
    """
    names = detector.names
    beside = min(len(names), _MOST_BESIDE)
    lines = -(-len(names) // beside)
    rows = max(len(ccds), 1) * lines
    figure = new_figure(2.6 * beside + 0.9, 1.9 * rows + 1.0)
    grid = figure.subplots(rows, beside, squeeze=False)
    height = figure.get_figheight()
    figure.subplots_adjust(
        left=0.9 / figure.get_figwidth(), right=0.985, top=1 - 0.55 / height,
        bottom=0.55 / height, hspace=0.45, wspace=0.42,
    )  # fmt: skip
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(x, fontsize=9)
    # At the very edge: seven figures beside a panel leave no more room.
    figure.supylabel(y, fontsize=9, x=0.06 / figure.get_figwidth())
    axes: dict[Channel, Any] = {}
    for place, ccd in enumerate(ccds):
        for number, quadrant in enumerate(names):
            one = grid[place * lines + number // beside][number % beside]
            # A given y: where there is none, every draw looks for room twice.
            one.set_title(f"CCD{ccd} {quadrant}", fontsize=8, pad=3, y=1.0)
            one.tick_params(labelsize=7)
            axes[ccd, quadrant] = one
    for one in set(grid.ravel()) - set(axes.values()):
        one.set_visible(False)
    return figure, axes


def trend(
    detector: Detector, points: Mapping[Channel, Mapping[str, NDArray[Any]]], x: str,
    series: Mapping[str, str], *, title: str = "", x_label: str = "", y_label: str = "",
    limits: Mapping[Channel, tuple[float | None, float | None]] | None = None,
) -> Figure:  # fmt: skip
    """Return a figure of measures along time (or whatever `x` names), a panel a quadrant.

    Parameters
    ----------
    points
        (CCD, quadrant) -> name -> values, all of one length.
    x, series
        Name of the abscissa; names of what is drawn, and their labels.
    limits
        (CCD, quadrant) -> low and high, drawn as broken lines.
    """
    ccds = sorted({ccd for ccd, _ in points})
    figure, axes = panels(detector, ccds, title=title, x=x_label or x, y=y_label)
    for channel, one in axes.items():
        columns = points.get(channel)
        if columns is None:
            _tell_empty(one)
            continue
        for colour, (name, label) in zip(COLOURS, series.items(), strict=False):
            values = np.asarray(columns[name], float)
            one.plot(np.asarray(columns[x], float), values, ".-", ms=4, lw=0.7, color=colour,
                     label=label)  # fmt: skip
        for edge in (limits or {}).get(channel, ()):
            if edge is not None:
                one.axhline(edge, ls="--", lw=0.7, color="#888888")
        one.ticklabel_format(useOffset=False)
    legend(figure, axes)
    return figure


def curves(
    detector: Detector, lines: Mapping[Channel, Sequence[tuple[Any, Any, str]]], *,
    title: str = "", x_label: str = "", y_label: str = "", scale: str = "linear",
) -> Figure:  # fmt: skip
    """Return a figure of lines, a panel a quadrant: (CCD, quadrant) -> (x, y, label) ..."""
    ccds = sorted({ccd for ccd, _ in lines})
    figure, axes = panels(detector, ccds, title=title, x=x_label, y=y_label)
    for channel, one in axes.items():
        if not lines.get(channel):
            _tell_empty(one)
            continue
        for colour, (x, y, label) in zip(COLOURS, lines.get(channel, ()), strict=False):
            one.plot(x, y, lw=0.7, color=colour, label=label)
        if scale != "linear":
            one.set_xscale("log")
            one.set_yscale("log")
            _thin_out(one.xaxis)
            _thin_out(one.yaxis)
        else:
            one.ticklabel_format(useOffset=False)
    legend(figure, axes)
    return figure


def _thin_out(axis: Any) -> None:
    """Have few ticks along a logarithmic axis: a small panel has no room for more.

    Those between the decades cost most of the drawing, too.
    """
    axis.set_minor_locator(NullLocator())
    low, high = axis.get_view_interval()
    if 0 < low < high < _NARROW * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _tell_empty(axes: Any) -> None:
    """Say in a panel that there is nothing to draw; scales of nothing would look like a loss."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "not measured", fontsize=8, color="#888888", ha="center", va="center",
              transform=axes.transAxes)  # fmt: skip


def legend(figure: Figure, axes: Mapping[Channel, Any]) -> None:
    """Put one legend above all panels: that of the panel with the most lines."""
    shown = [one.get_legend_handles_labels() for one in axes.values()]
    handles, labels = max(shown, key=lambda one: len(one[0]), default=([], []))
    if len(handles) > 1:
        figure.legend(handles, labels, fontsize=8, ncols=len(handles), loc="upper right",
                      frameon=False)  # fmt: skip


def images(
    frames: Mapping[int, NDArray[Any]], *, title: str = "", label: str = "",
    percentiles: tuple[float, float] = (5.0, 95.0), colours: str = "gray",
) -> Figure:  # fmt: skip
    """Return a figure of whole CCDs beside each other, row 0 at the bottom.

    Parameters
    ----------
    frames
        CCD -> frame ``[row, column]``; averaged down to what a page shows.
    percentiles
        That black and white stand for, of all CCDs together.
    """
    small = {ccd: shrunk(frame) for ccd, frame in sorted(frames.items())}
    values = np.concatenate([one[np.isfinite(one)] for one in small.values()] or [np.zeros(1)])
    low, high = np.percentile(values if len(values) else [0.0, 1.0], percentiles)
    figure = new_figure(3.6 * max(len(small), 1) + 0.8, 4.2)
    grid = figure.subplots(1, max(len(small), 1), squeeze=False)[0]
    figure.subplots_adjust(left=0.03, right=0.9, top=0.88, bottom=0.05, wspace=0.08)
    figure.suptitle(title, fontsize=11)
    picture = None
    for one, (ccd, frame) in zip(grid, small.items(), strict=False):
        picture = one.imshow(frame, origin="lower", vmin=low, vmax=high if high > low else low + 1,
                             cmap=colours, interpolation="nearest")  # fmt: skip
        one.set_title(f"CCD{ccd}", fontsize=9)
        one.set_xticks([])
        one.set_yticks([])
    if picture is not None:
        bar = figure.add_axes((0.915, 0.12, 0.015, 0.7))
        figure.colorbar(picture, cax=bar)
        bar.set_title(label, fontsize=8)
        bar.tick_params(labelsize=7)
    return figure


def shrunk(frame: NDArray[Any], most: int = _MOST_PIXELS) -> NDArray[np.float64]:
    """Return a frame averaged in whole boxes to at most `most` pixels a side."""
    step = max(-(-max(frame.shape) // most), 1)
    rows, columns = (size // step * step for size in frame.shape)
    boxes = frame[:rows, :columns].reshape(rows // step, step, columns // step, step)
    mean: NDArray[np.float64] = boxes.mean(axis=(1, 3), dtype=np.float64)
    return mean
