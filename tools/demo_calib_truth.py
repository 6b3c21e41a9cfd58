# SPDX-License-Identifier: BSD-3-Clause
"""What the analyses found beside what the simulator put in, for :mod:`demo_calib`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Truth = Callable[[dict[str, Any]], float]


@dataclass(frozen=True)
class Compared:
    """A measure: where it was found, what is true, what it may differ by.

    Attributes
    ----------
    allowed
        Absolute, or with `is_relative` a part of the truth.
    """

    test: str
    name: str
    title: str
    truth: Truth
    allowed: float
    is_relative: bool = False


def _channel(where: Mapping[str, Any]) -> str:
    return f"{where['ccd']}{where['quadrant']}"


def measures(bench: dict[str, Any], exposures: list[dict[str, Any]]) -> list[Compared]:
    """Return what is compared."""
    electronics, stars, transfer = bench["electronics"], bench["stars"], bench["transfer"]

    def offset(where: dict[str, Any]) -> float:
        # The offset drifts from frame to frame; the measure is that of all frames of the test.
        return float(np.median([
            one["truth"]["channels"][_channel(where)]["offset_adu"]
            for one in exposures if one["test"] == "BIAS01"
        ]))  # fmt: skip

    lags = bench["brighter_fatter"]["kernel"]
    # Each lag has two signs on each axis that it is not zero on; the centre loses what they gain.
    alpha = sum(k * (2 if row else 1) * (2 if column else 1) for row, column, k in lags)
    return [
        Compared("BIAS01", "offset", "offset", offset, 0.25),
        Compared("BIAS01", "ron", "read noise",
                 lambda at: electronics["read_noise_adu"][_channel(at)], 0.01, True),
        Compared("FOCUS00_800", "best_focus", "best focus", lambda _: stars["focus_mm"], 0.01),
        Compared("FOCUS00_800", "f0_faint", "width in focus", lambda _: stars["fwhm0_px"], 0.03),
        Compared("FOCUS00_800", "focus_tilt_x", "tilt, left to right",
                 lambda _: stars["tilt_mm"][0], 0.005),
        Compared("FOCUS00_800", "lock_scale", "scale of the star pattern",
                 lambda _: stars["scale"], 1e-4),
        Compared("FOCUS00_800", "lock_rotation_deg", "its rotation",
                 lambda _: stars["rotation_deg"], 0.005),
        Compared("PTC02_730", "gain", "gain",
                 lambda at: electronics["gain_e_adu"][_channel(at)], 0.02, True),
        Compared("PTC02_730", "alpha", "brighter-fatter, bend of the curve", lambda _: alpha,
                 0.15, True),
        Compared("PTC02_730", "cti_parallel", "parallel transfer inefficiency",
                 lambda at: transfer["parallel"][_channel(at)], 0.1, True),
        Compared("CHINJ02", "idl_threshold", "threshold of the injection drain",
                 lambda at: bench["injection"]["drain_v"][_channel(at)], 0.03),
    ]  # fmt: skip


def read(results: Path, truth: Path, first_obsid: int) -> tuple[
    dict[str, list[dict[str, Any]]], dict[str, Any], list[dict[str, Any]]
]:  # fmt: skip
    """Return the values of each test, the truth of the block, that of each exposure."""
    bench = json.loads((truth / f"{first_obsid}_bench.json").read_text())
    session = json.loads((truth / f"{first_obsid}_session.json").read_text())
    values = {
        path.parent.name: json.loads(path.read_text())["values"]
        for path in sorted(results.glob("*/results.json"))
    }
    return values, bench, session["exposures"]


def compare(results: Path, truth: Path, first_obsid: int) -> tuple[list[str], bool]:
    """Return lines of a table, one a measure with its worst value, and whether all are good."""
    values, bench, exposures = read(results, truth, first_obsid)
    lines = [
        f"{'measure':36} {'of':>3} {'worst at':9} {'found':>12} {'1 sigma':>9} {'true':>12} "
        f"{'allowed':>9}  unit"
    ]
    are_good = True
    for one in measures(bench, exposures):
        found = [value for value in values.get(one.test, []) if value["name"] == one.name]
        if not found:
            lines.append(f"{one.title:36}   0  not found in {one.test}")
            are_good = False
            continue
        true = [one.truth(value["where"]) for value in found]
        scale = [abs(x) if one.is_relative else 1.0 for x in true]
        off = [
            abs(value["value"] - x) / s if value["value"] is not None else np.inf
            for value, x, s in zip(found, true, scale, strict=True)
        ]
        worst = int(np.argmax(off))
        value, where = found[worst], found[worst]["where"]
        place = "CCD" + str(where["ccd"]) + where.get("quadrant", "") if "ccd" in where else "-"
        is_good = bool(off[worst] <= one.allowed)
        are_good &= is_good
        allowed = f"{100 * one.allowed:g} %" if one.is_relative else f"{one.allowed:g}"
        error = "-" if value["error"] is None else f"{value['error']:.2g}"
        shown = "none" if value["value"] is None else f"{value['value']:.7g}"
        lines.append(
            f"{one.title:36} {len(found):3} {place:9} {shown:>12} {error:>9} {true[worst]:12.7g} "
            f"{allowed:>9}  {value['unit']}{'' if is_good else '   WRONG'}"
        )
    return lines, are_good


def draw(results: Path, truth: Path, first_obsid: int, path: Path) -> Path:
    """Draw focus curve, photon transfer curve and gains beside the truth into a picture."""
    from matplotlib.figure import Figure

    values, bench, _ = read(results, truth, first_obsid)
    figure = Figure(figsize=(9.6, 3.2), dpi=100, layout="constrained")
    figure.set_constrained_layout_pads(wspace=0.06)
    focus, transfer, gains = figure.subplots(1, 3)
    _draw_focus(focus, results, bench["stars"])
    _draw_transfer(transfer, results, values)
    _draw_gains(gains, values, bench["electronics"]["gain_e_adu"])
    for axes in (focus, transfer, gains):
        axes.title.set_size(10)
        axes.grid(alpha=0.25)
    figure.savefig(path, metadata={"Software": None})
    return path


def _draw_focus(axes: Any, results: Path, stars: dict[str, Any]) -> None:
    from astropy.table import Table

    table = Table.read(
        results / "FOCUS00_800" / "products" / "FOCUS00_800_curves.ecsv", format="ascii.ecsv"
    )
    table = table[(table["is_good"] == "True") | (table["is_good"] == True)]  # noqa: E712
    mirror = np.asarray(table["mirr_pos"], float)
    square = np.asarray(table["fwhm"], float) ** 2
    axes.plot(mirror, square, ".", color="#5b8fc7", markersize=3)
    grid = np.linspace(mirror.min(), mirror.max(), 200)
    axes.plot(grid, np.polyval(np.polyfit(mirror, square, 2), grid), color="#1f2933", lw=1)
    axes.axvline(stars["focus_mm"], color="#b4322f", lw=1, ls="--")
    axes.set(title="60 spots in a sweep; true focus dashed", xlabel="mirror, mm",
             ylabel="FWHM², px²")  # fmt: skip


def _draw_transfer(axes: Any, results: Path, values: dict[str, list[dict[str, Any]]]) -> None:
    from astropy.table import Table

    table = Table.read(
        results / "PTC02_730" / "products" / "PTC02_730_PTC.ecsv", format="ascii.ecsv"
    )
    table = table[(table["ccd"] == 1) & (table["quadrant"] == "E")]
    axes.plot(table["mean"] / 1e3, table["variance"] / 1e3, ".", color="#5b8fc7", markersize=2)
    (gain,) = (
        one["value"] for one in values["PTC02_730"]
        if one["name"] == "gain" and _channel(one["where"]) == "1E"
    )  # fmt: skip
    top = float(np.max(table["mean"])) / 1e3
    axes.plot([0, top], [0, top / gain], color="#1f2933", lw=1)
    axes.set(title=f"photon transfer, CCD1 E: {gain:.2f} e-/ADU",
             xlabel="mean, kADU", ylabel="variance, kADU²")  # fmt: skip


def _draw_gains(axes: Any, values: dict[str, list[dict[str, Any]]], true: dict[str, float]) -> None:
    found = {_channel(one["where"]): one for one in values["PTC02_730"] if one["name"] == "gain"}
    names = sorted(found)
    place = np.arange(len(names))
    axes.errorbar(
        place, [found[name]["value"] for name in names],
        yerr=[found[name]["error"] or 0.0 for name in names], fmt="o", color="#5b8fc7",
        markersize=4, capsize=2, label="found",
    )  # fmt: skip
    axes.plot(place, [true[name] for name in names], "_", color="#b4322f", markersize=12,
              label="true")  # fmt: skip
    axes.set_xticks(place, names, fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    axes.set(title="gain of each quadrant, 1 sigma", ylabel="e-/ADU")
