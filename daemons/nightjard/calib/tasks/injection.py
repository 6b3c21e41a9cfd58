# SPDX-License-Identifier: BSD-3-Clause
"""Charge injection (CHINJ01, CHINJ02): levels against the voltages of input gate and drain.

``basic`` folds the injected rows and measures them: table ``EXTRACTION_TABLE``, image
``EUC_INJPROFIMG``. ``meta`` fits the levels: table ``METAFIT``, one value a number and quadrant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nightjar.calibration.detector import load_detector
from nightjar.config.load import StrictModel
from nightjar.errors import Refused
from nightjar.fits.cards import Card
from nightjard.calib import checks
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import Recipe, prepared, recipe_for
from nightjard.calib.preparing import is_dry, measure_offsets, prep_subtask, recipes_of
from nightjard.calib.science import blank, injection
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks.injection_check import check_arguments, check_frame, cycle_of, judge
from nightjard.calib.work import Work

UNITS = {
    "ig1_threshold": "V", "ig1_notch": "V", "slope": "ADU/V", "n_adu": "ADU", "bgd_adu": "ADU",
    "a_adu": "ADU", "k": "1/V", "steepness": "1/V", "idl_threshold": "V",
}  # fmt: skip


class InjectionOptions(StrictModel):
    """What a campaign may set for tests of charge injection."""

    error_floor_adu: float = Field(0.3, ge=0, description="Added to the error of levels.")
    error_floor_part: float = Field(5e-4, ge=0, description="Of the level, added to its error.")


# --- basic ---


def recipes_for(work: Work) -> dict[int, Recipe]:
    """Return how the frames are prepared: as ``prep`` recorded, or as it would where it was not.

    Frames are prepared as they are read: without ``prep`` only its record is missing.
    """
    try:
        return recipes_of(work)
    except Refused:
        return {ccd: recipe_for(work, ccd) for ccd in work.dataset.ccds}


def table_of(work: Work, subtask: str, name: str) -> Any:
    """Return a table of an earlier sub-task; None where that had nothing to put into it.

    Raises
    ------
    Refused
        The sub-task has not been done.
    """
    names = [one["name"] for one in work.earlier(subtask)["tables"]]
    return work.table(subtask, name) if name in names else None


def injected_frames(work: Work, ccd: int, quadrant: str) -> list[CcdFrame]:
    """Return the frames of a CCD in which this quadrant is injected."""
    half = work.detector.half_of(quadrant)
    return [
        one for one in work.dataset.of_ccd(ccd)
        if one.column is not None and injection.injected_half(one.commanded) == half
    ]  # fmt: skip


def measure_quadrant(
    frames: list[dict[str, Any]], detector: str, ccd: int, quadrant: str, recipe: dict[str, Any],
    pattern: str,
) -> list[dict[str, Any]]:
    """Measure the injection of a quadrant in all its frames.

    Parameters
    ----------
    frames
        ``path``, ``obsid``, ``on``, ``off``.
    pattern
        Path (.npy) that gets the mean folded pattern, relative to the level: (on + off, columns).

    Returns
    -------
    list
        Of each frame what `science.injection.measure` finds, ``start`` of the cycle, ``profile``
        along the cycle.
    """
    kind, how = load_detector(detector), Recipe.from_json(recipe)
    found, total, count = [], None, 0
    for one in frames:
        frame = open_frame(one["path"], kind)
        pixels, bad = prepared(frame, quadrant, how)
        area = (slice(frame.vstart, min(frame.vend, kind.image_rows)),
                kind.columns_of("image"))  # fmt: skip
        folded = injection.fold(pixels[area], bad[area], one["on"], one["off"])
        trimmed = (area[0], kind.columns_of("image", is_trimmed=True))
        measured = injection.measure(
            pixels[trimmed], bad[trimmed], folded, one["on"], one["off"]
        )
        if measured["level"] > 200:
            relative = folded.pattern / measured["level"]
            if total is None or total.shape == relative.shape:
                total = relative if total is None else total + relative
                count += 1
        profile = blank.median(folded.pattern, axis=1)
        found.append({
            "obsid": one["obsid"], "start": folded.start, "cycles": folded.cycles, **measured,
            "profile": [round(float(value), 3) for value in profile],
        })  # fmt: skip
    if total is not None:
        np.save(Path(pattern), (total / count).astype(np.float32))
    return found


_COLUMNS = (
    "level", "level_error", "background", "noise", *injection.STATISTICS, "non_uniformity",
    "column_non_uniformity", "spill", "spill_error",
)  # fmt: skip
_WITHOUT_UNIT = ("non_uniformity", "column_non_uniformity", "spill", "spill_error")


def basic(work: Work) -> None:
    """Fold the injected rows of every frame; measure level, evenness and spill."""
    from astropy.table import Table

    if is_dry(work):
        return
    items, keys, patterns = [], [], {}
    for ccd, how in recipes_for(work).items():
        recipe = how.as_json()
        for quadrant in work.detector.names:
            frames = injected_frames(work, ccd, quadrant)
            if not frames:
                continue
            path = work.intermediate / f"injection_CCD{ccd}_{quadrant}.npy"
            patterns[ccd, quadrant] = path
            keys.append((ccd, quadrant, frames))
            items.append({
                "frames": [
                    {"path": str(one.path), "obsid": one.obsid, **cycle_of(one.commanded)}
                    for one in frames
                ],
                "detector": work.detector_name, "ccd": ccd, "quadrant": quadrant,
                "recipe": recipe, "pattern": str(path),
            })  # fmt: skip
    pixels = math.prod(work.detector.quadrant_shape)
    outcomes = work.map(
        measure_quadrant, items, stage="quadrants measured", memory_bytes=40 * pixels
    )
    rows = [
        _row(work, frame, ccd, quadrant, one)
        for (ccd, quadrant, frames), outcome in zip(keys, outcomes, strict=True)
        for frame, one in zip(frames, outcome, strict=True)
    ]
    if not rows:
        work.results.flag("BADDATA", cause="no frame has an injected quadrant")
        return
    table = Table(rows=rows)
    for name in _COLUMNS:
        table[name].unit = "" if name in _WITHOUT_UNIT else "adu"
    table["ig1"].unit = table["idl"].unit = "V"
    work.results.table("EXTRACTION_TABLE", table, caption="Injected rows of every frame")
    _summarize(work, table)
    _images(work, patterns)
    _profiles(work, keys, outcomes)


def _row(
    work: Work, frame: CcdFrame, ccd: int, quadrant: str, one: Mapping[str, Any]
) -> dict[str, Any]:
    half = work.detector.half_of(quadrant)
    return {
        "obsid": frame.obsid, "ccd": ccd, "quadrant": quadrant, "column": frame.label,
        "ig1": injection.gate_v(frame.commanded, ccd, half),
        "idl": float(frame.commanded.get("IDL", math.nan)),
        **{name: math.nan if one.get(name) is None else one[name] for name in _COLUMNS},
        "start": one["start"], "cycles": one["cycles"],
    }  # fmt: skip


def _summarize(work: Work, table: Any) -> None:
    """Leave evenness and spill of each quadrant: medians over the frames that are injected."""
    for ccd, quadrant in sorted(set(zip(table["ccd"], table["quadrant"], strict=True))):
        mine = table[(table["ccd"] == ccd) & (table["quadrant"] == quadrant)]
        strong = mine[np.asarray(mine["level"] > 200)]
        if not len(strong):
            continue
        for name in ("non_uniformity", "column_non_uniformity", "spill"):
            values = np.asarray(strong[name], float)
            values = values[np.isfinite(values)]
            if len(values):
                error = 1.2533 * float(values.std()) / math.sqrt(len(values))
                work.results.value(name, float(np.median(values)), error=error, ccd=int(ccd),
                                   quadrant=str(quadrant))  # fmt: skip


def _images(work: Work, patterns: Mapping[tuple[int, str], Path]) -> None:
    for ccd in work.dataset.ccds:
        planes: dict[str, NDArray[Any]] = {
            quadrant: np.load(path)
            for (one, quadrant), path in patterns.items() if one == ccd and path.is_file()
        }  # fmt: skip
        if planes:
            serial = work.dataset.serials.get(f"sn_ccd{ccd}", "")
            cards = [Card("CCD", ccd, "number of the CCD"), Card("CCDSN", serial, "its serial")]
            work.results.image(f"EUC_INJPROFIMG_CCD{ccd}_{work.dataset.block}", planes, cards,
                               caption=f"CCD{ccd}: injected cycle over the level")  # fmt: skip


def _profiles(
    work: Work, keys: Sequence[tuple[int, str, list[CcdFrame]]], outcomes: Sequence[Any]
) -> None:
    from nightjard.calib import plotting

    lines = {}
    for (ccd, quadrant, _), outcome in zip(keys, outcomes, strict=True):
        ranked = sorted(outcome, key=lambda one: one["level"] or 0.0)
        chosen = {"highest level": ranked[-1], "middle level": ranked[len(ranked) // 2]}
        lines[ccd, quadrant] = [
            (np.arange(len(one["profile"])), np.array(one["profile"]), name)
            for name, one in chosen.items()
        ]
    figure = plotting.curves(work.detector, lines, title=f"{work.dataset.test}: injected cycle",
                             x_label="row of the cycle", y_label="signal / ADU")  # fmt: skip
    work.results.figure("profiles", figure, caption="Rows of the injected cycles, folded")


# --- meta ---


def meta_ig1(work: Work) -> None:
    """Fit the levels against input gate 1."""
    _fit_all(work, "ig1", "Input gate 1 / V")


def meta_idl(work: Work) -> None:
    """Fit the levels against the injection drain."""
    _fit_all(work, "idl", "Injection drain / V")


def _fit_all(work: Work, name: str, label: str) -> None:
    from astropy.table import Table

    if is_dry(work):
        return
    options = InjectionOptions.model_validate(dict(work.options))
    extracted = table_of(work, "basic", "EXTRACTION_TABLE")
    if extracted is None:
        work.results.flag("BADDATAPROD", cause="basic found no injected frame: nothing to fit")
        return
    rows, lines = [], {}
    for ccd, quadrant in sorted(set(zip(extracted["ccd"], extracted["quadrant"], strict=True))):
        mine = extracted[(extracted["ccd"] == ccd) & (extracted["quadrant"] == quadrant)]
        volts, level = (np.asarray(mine[one], float) for one in (name, "level"))
        floor = np.hypot(options.error_floor_adu, options.error_floor_part * level)
        error = np.hypot(np.asarray(mine["level_error"], float), floor)
        fitted = (injection.fit_ig1 if name == "ig1" else injection.fit_idl)(volts, level, error)
        where: dict[str, Any] = {"ccd": int(ccd), "quadrant": str(quadrant)}
        row: dict[str, Any] = {**where}
        for key, value in fitted.values.items():
            work.results.value(key, value, error=fitted.errors[key], unit=UNITS[key], **where)
            row[key], row[f"{key}_error"] = value, fitted.errors[key]
        row |= {"chi2": fitted.chi2, "degrees": fitted.degrees, "problem": fitted.problem}
        if fitted.problem:
            work.results.flag("BADFIT", cause=f"CCD{ccd} {quadrant}: {fitted.problem}",
                              metric="chi2", value=fitted.chi2, **where)  # fmt: skip
        rows.append(row)
        lines[int(ccd), str(quadrant)] = (volts, level, fitted)
    names = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(rows=[[row.get(key, math.nan) for key in names] for row in rows], names=names)
    for key in names:
        if (unit := UNITS.get(key.removesuffix("_error"))) is not None:
            table[key].unit = unit.replace("ADU", "adu")
    work.results.table("METAFIT", table, caption=f"Fits of the level against {label}")
    _curves(work, lines, name, label)


def _curves(work: Work, lines: Mapping[tuple[int, str], Any], name: str, label: str) -> None:
    from nightjard.calib import plotting

    ccds = sorted({ccd for ccd, _ in lines})
    title = f"{work.dataset.test}: injected level"
    figure, axes = plotting.panels(work.detector, ccds, title=title, x=label, y="level / ADU")
    curve = injection.ig1_curve if name == "ig1" else injection.idl_curve
    for channel, axis in axes.items():
        if channel not in lines:
            continue
        volts, level, fitted = lines[channel]
        axis.plot(volts, level, "o", ms=3, color=plotting.COLOURS[0])
        if fitted.parameters and np.isfinite(volts).any():
            fine = np.linspace(np.nanmin(volts), np.nanmax(volts), 200)
            axis.plot(fine, curve(fitted.parameters, fine), lw=0.8, color=plotting.COLOURS[1])
    work.results.figure("curves", figure, caption=f"Level against {label}, with the fits")


WORKERS = (measure_quadrant, measure_offsets)


def _task(title: str, meta: Any) -> Task:
    return Task(
        title,
        (
            Subtask("check", checks.check, "Data validation"),
            prep_subtask(),
            Subtask("basic", basic, "Injected rows"),
            Subtask("meta", meta, "Injection against voltage"),
        ),
        frame_check=check_frame, frame_check_arguments=check_arguments, judge=judge,
        workers=WORKERS, options=InjectionOptions,
    )  # fmt: skip


INJECTION_IG1 = _task("Charge injection against input gate 1", meta_ig1)
INJECTION_IDL = _task("Charge injection against the injection drain", meta_idl)
