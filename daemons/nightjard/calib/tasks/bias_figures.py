# SPDX-License-Identifier: BSD-3-Clause
"""Figures of the bias tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nightjard.calib import plotting
from nightjard.calib.tasks.stacking import Stacked
from nightjard.calib.work import Work

Channel = tuple[int, str]


def draw_basic(
    work: Work, channels: Sequence[Channel], found: Sequence[dict[str, Any]],
    hours: Mapping[int, Sequence[float]], matrix: np.ndarray[Any, Any], error: float,
) -> None:  # fmt: skip
    """Draw profiles, noise, spectra, correlations, drift."""
    saved: dict[Channel, dict[str, Any]] = {}
    for channel, one in zip(channels, found, strict=True):
        with np.load(one["out"]) as arrays:
            saved[channel] = {name: arrays[name] for name in arrays.files if name != "stream"}
    _draw_profiles(work, saved)
    _draw_spectra(work, saved)
    _draw_noise(work, dict(zip(channels, found, strict=True)))
    _draw_scatter(work, saved)
    _draw_matrix(work, channels, matrix, error)
    points = {
        (ccd, q): {"hours": np.array(hours[ccd]), "offset": np.array(one["levels"]["reference"])}
        for (ccd, q), one in zip(channels, found, strict=True)
    }
    figure = plotting.trend(
        work.detector, points, "hours", {"offset": "offset"}, y_label="offset / ADU",
        title=f"{work.dataset.test}: drift of the offset", x_label="hours since the first exposure",
    )  # fmt: skip
    work.results.figure("drift", figure, caption="Offset of every frame")


def _draw_profiles(work: Work, saved: Mapping[Channel, dict[str, Any]]) -> None:
    for name, label, what, text in (
        ("profs1D_hor", "column", "mean_hor", "mean bias of columns"),
        ("profs1D_ver", "row", "mean_ver", "mean bias of rows"),
        ("profs1Dstd_hor", "column", "std_hor", "noise of columns"),
        ("profs1Dstd_ver", "row", "std_ver", "noise of rows"),
    ):
        lines = {
            channel: [(np.arange(len(one[what])), one[what], "")] for channel, one in saved.items()
        }
        figure = plotting.curves(
            work.detector, lines, title=f"{work.dataset.test}: {text}", x_label=label,
            y_label="ADU",
        )  # fmt: skip
        work.results.figure(name, figure, caption=text.capitalize())


def _draw_spectra(work: Work, saved: Mapping[Channel, dict[str, Any]]) -> None:
    lines = {
        channel: [(one["hertz"], one["highest"], "highest"), (one["hertz"], one["power"], "mean")]
        for channel, one in saved.items() if one["power"].any()  # none of a dead channel
    }
    figure = plotting.curves(
        work.detector, lines, title=f"{work.dataset.test}: spectrum of the noise",
        x_label="frequency / Hz", y_label="power / ADU^2", scale="log",
    )  # fmt: skip
    work.results.figure("noise_power", figure, caption="Spectrum of the noise: mean and highest "
                        "power in bins of frequency")  # fmt: skip


def _draw_noise(work: Work, found: Mapping[Channel, dict[str, Any]]) -> None:
    figure = plotting.new_figure(7, 4)
    axes = figure.add_subplot()
    series = {"image": "img", "prescan": "pre", "overscan": "ove", "about a model": ""}
    for number, (label, sector) in enumerate(series.items()):
        pairs = [one["ron"][sector] if sector else one["ron_model"] for one in found.values()]
        values = [np.nan if value is None else value for value, _error in pairs]
        axes.plot(range(len(values)), values, "o", ms=4, color=plotting.COLOURS[number],
                  label=label)  # fmt: skip
    axes.set_xticks(range(len(found)), [f"{ccd}{quadrant}" for ccd, quadrant in found])
    axes.set_xlabel("CCD and quadrant")
    axes.set_ylabel("read noise / ADU")
    axes.legend(fontsize=8)
    axes.set_title(f"{work.dataset.test}: read noise", fontsize=11)
    work.results.figure("read_noise", figure, caption="Read noise of every quadrant")


def _draw_scatter(work: Work, saved: Mapping[Channel, dict[str, Any]]) -> None:
    """Draw noise against mean of the prescan's columns: what varies together hints at the ADC."""
    scan = work.detector.columns_of("prescan")
    if scan.stop <= scan.start:
        return
    figure, axes = plotting.panels(
        work.detector, sorted({ccd for ccd, _ in saved}), x="mean / ADU", y="deviation / ADU",
        title=f"{work.dataset.test}: noise against level of the columns of the prescan",
    )  # fmt: skip
    for channel, one in saved.items():
        axes[channel].plot(one["mean_hor"][scan], one["std_hor"][scan], ".", ms=3,
                           color=plotting.COLOURS[0])  # fmt: skip
    work.results.figure("std_vs_mean", figure, caption="Noise against level of the columns of "
                        "the prescan: a hint at differential non-linearity")  # fmt: skip


def _draw_matrix(
    work: Work, channels: Sequence[Channel], matrix: np.ndarray[Any, Any], error: float
) -> None:
    figure = plotting.new_figure(6, 5)
    axes = figure.add_subplot()
    shown = matrix - np.eye(len(channels))
    most = max(float(np.nanmax(np.abs(shown), initial=0.0)), 4 * error)
    picture = axes.imshow(shown, vmin=-most, vmax=most, cmap="RdBu_r", interpolation="nearest")
    names = [f"{ccd}{quadrant}" for ccd, quadrant in channels]
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title(f"{work.dataset.test}: correlation of the noise", fontsize=11)
    figure.colorbar(picture)
    work.results.figure("correlation", figure, caption="Correlation of the noise of quadrants; "
                        f"one of zero scatters by {error:.1g}")  # fmt: skip


def draw_master(work: Work, stacked: Mapping[int, Stacked]) -> None:
    """Draw the master biases."""
    figure = plotting.images(
        {ccd: one.mean for ccd, one in stacked.items()}, label="ADU",
        title=f"{work.dataset.test}: master bias",
    )  # fmt: skip
    work.results.figure("masterbias", figure, caption="Master bias, 5 to 95 %")
    lines: dict[str, dict[Channel, list[Any]]] = {"hor": {}, "ver": {}}
    for ccd, one in stacked.items():
        for quadrant in work.detector.names:
            plane = work.detector.canonical(one.mean, quadrant)
            for axis, name in enumerate(("hor", "ver")):
                profile = plane.mean(axis=axis, dtype=np.float64)
                lines[name][ccd, quadrant] = [(np.arange(len(profile)), profile, "")]
    for name, label in (("hor", "column"), ("ver", "row")):
        figure = plotting.curves(
            work.detector, lines[name], title=f"{work.dataset.test}: profile of the master bias",
            x_label=label, y_label="ADU",
        )  # fmt: skip
        work.results.figure(f"masterbias_{name}", figure, caption=f"Master bias by {label}")
