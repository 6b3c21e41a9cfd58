# SPDX-License-Identifier: BSD-3-Clause
"""Sub-task ``bayes`` of PSF01: posteriors of the shape of spots by a forward model.

Unlike fits of Gaussians and moments it knows wings and turned ellipses, and has honest errors of
all of them; it is the answer where stars are not Gaussian.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nightjard.calib.science.psf_posterior import combined, ln_odds_of_wings, posterior
from nightjard.calib.science.spot_growth import weighted_mean
from nightjard.calib.tasks.psf_shapes import usable
from nightjard.calib.tasks.psf_stamps import StampFile, read_stamps, stamp_files
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

_ODDS = math.log(100.0)


def posterior_stamps(
    path: str, ccd: int, frame: int, spots: list[dict[str, float]]
) -> dict[str, Any]:  # fmt: skip
    """Return posteriors of the shapes on the stamps of a frame, for spots that were measured.

    Parameters
    ----------
    spots
        ``index`` in the product, ``x``, ``y`` (canonical), ``flux``, ``background``, ``noise``,
        ``gain``.

    Raises
    ------
    StorageError
        The stamps cannot be read.
    """
    del ccd
    stamps, x0, y0 = read_stamps(path, frame, frame + 1)
    index = np.array([int(spot["index"]) for spot in spots])
    column = {
        name: np.array([spot[name] for spot in spots], float)
        for name in ("x", "y", "flux", "background", "noise", "gain")
    }
    pixels = stamps[0][index]
    bad = ~np.isfinite(pixels)
    rest = np.where(bad, 0.0, pixels - column["background"][:, None, None])
    found = posterior(
        rest, bad, column["x"] - x0[0][index], column["y"] - y0[0][index], flux=column["flux"],
        noise=column["noise"], gain_e_adu=column["gain"],
    )  # fmt: skip
    return {
        "index": index.tolist(), "mean": found.mean.tolist(),
        "covariance": found.covariance.tolist(), "chi2": found.chi2.tolist(),
        "is_good": found.is_good.tolist(),
    }  # fmt: skip


def bayes(work: Work) -> None:
    """Leave the table ``posteriors``: shape of every spot in every column, with its errors.

    Raises
    ------
    Refused
        ``prep`` or ``basic`` was not done.
    """
    if work.is_drill:
        return
    table = work.table("basic", "spots")
    table = table[usable(table, work.detector.point_saturation_adu)]
    if not len(table):
        work.results.flag("BADDATAPROD", cause="no spot can be used for posteriors")
        return
    most = int(work.options.get("bayes_frames", 4))
    items, columns = [], []
    for one in stamp_files(work, "prep", "Spots"):
        here = table[table["ccd"] == one.ccd]
        seen: dict[str, int] = {}
        for number, obsid in enumerate(one.obsids):
            rows = here[here["obsid"] == obsid]
            label = str(rows["column"][0]) if len(rows) else ""
            if not label or seen.get(label, 0) >= most:
                continue
            seen[label] = seen.get(label, 0) + 1
            columns.append((one, label))
            items.append(
                {"path": str(one.path), "ccd": one.ccd, "frame": number,
                 "spots": _starts(work, rows, one)}
            )  # fmt: skip
    found = work.map(posterior_stamps, items, stage="posteriors")
    rows = _combine(work, columns, found)
    if not rows:
        work.results.flag("BADDATAPROD", cause="no spot has a posterior")
        return
    from astropy.table import Table

    result = Table(rows=rows)
    for name in ("fwhm", "fwhm_error"):
        result[name].unit = "pix"
    work.results.table("posteriors", result, caption="Shape of spots by a forward model")
    _record(work, result)


def _starts(work: Work, rows: Table, one: StampFile) -> list[dict[str, float]]:
    place = {name: index for index, name in enumerate(one.ids)}
    return [
        {"index": place[str(row["id"])], "x": float(row["x"]), "y": float(row["y"]),
         "flux": float(row["flux"]), "background": float(row["background"]),
         "noise": float(row["background_sigma"]),
         "gain": work.gain_e_adu(one.ccd, str(row["quadrant"]))}
        for row in rows
    ]  # fmt: skip


def _combine(
    work: Work, columns: list[tuple[StampFile, str]], found: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    groups: dict[tuple[int, str, str], list[tuple[Any, Any, float]]] = {}
    quadrants: dict[tuple[int, str], str] = {}
    for (product, label), one in zip(columns, found, strict=True):
        for i, index in enumerate(one["index"]):
            if one["is_good"][i]:
                name = product.ids[index]
                quadrants[product.ccd, name] = product.quadrants[index]
                groups.setdefault((product.ccd, label, name), []).append(
                    (one["mean"][i], one["covariance"][i], one["chi2"][i])
                )
    rows = []
    for (ccd, label, name), parts in sorted(groups.items()):
        mean, covariance = combined(
            np.array([part[0] for part in parts]), np.array([part[1] for part in parts])
        )
        errors = np.sqrt(np.diag(covariance))
        quadrant = quadrants[ccd, name]
        place = work.detector.quadrants[quadrant]
        turned = -1.0 if place.reads_from_right != place.reads_from_top else 1.0
        fwhm = float(np.exp(mean[0]))
        rows.append(
            {"ccd": ccd, "quadrant": quadrant, "column": label, "id": name,
             "exposures": len(parts), "fwhm": fwhm, "fwhm_error": fwhm * float(errors[0]),
             "e1": float(mean[1]), "e1_error": float(errors[1]), "e2": turned * float(mean[2]),
             "e2_error": float(errors[2]), "q": float(mean[3]), "q_error": float(errors[3]),
             "ln_odds_of_wings": ln_odds_of_wings(float(mean[3]), float(errors[3])),
             "chi2": float(np.mean([part[2] for part in parts]))}
        )  # fmt: skip
    return rows


def _record(work: Work, table: Table) -> None:
    units = {"fwhm": "px", "e1": "", "e2": "", "q": ""}
    groups = sorted({(int(r["ccd"]), str(r["quadrant"]), str(r["column"])) for r in table})
    for ccd, quadrant, label in groups:
        one = table[
            (table["ccd"] == ccd) & (table["quadrant"] == quadrant) & (table["column"] == label)
        ]
        for name, unit in units.items():
            value, error = weighted_mean(one[name], one[f"{name}_error"])
            work.results.value(f"posterior_{name}", value, error=error, unit=unit, ccd=ccd,
                               quadrant=quadrant, column=label)  # fmt: skip
    odds = np.asarray(table["ln_odds_of_wings"], float)
    work.results.value("spots_with_wings", int((odds > _ODDS).sum()),
                       note=f"of {len(table)}: odds above 100 against a Gaussian")  # fmt: skip
