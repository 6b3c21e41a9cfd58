# SPDX-License-Identifier: BSD-3-Clause
"""Trap pumping, vertical (TP01, TP11) and serial (TP02, TP21): traps and what they are.

``injection`` measures the level that is pumped: table ``INJECTION``. ``extract`` makes maps of
every pumped frame, finds dipoles (``RAWCAT``), merges them into traps and measures every trap in
every map (``AMPLITUDES``). ``basic`` counts. ``meta`` is in :mod:`.pumping_traps`.
Positions are canonical quadrant pixels, 0-based.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector, load_detector
from nightjard.calib import checks
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.prepare import Recipe
from nightjard.calib.preparing import is_dry, measure_offsets, prep_subtask
from nightjard.calib.results import plain
from nightjard.calib.science import blank, dipoles
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks.injection import injected_frames, recipes_for, table_of
from nightjard.calib.tasks.injection_check import check_arguments, check_frame, judge
from nightjard.calib.tasks.pumping_maps import (
    image_of,
    is_pumped,
    leave_maps,
    line_of,
    map_frame,
    pumping_of,
    reference_of,
)
from nightjard.calib.tasks.pumping_traps import PumpingOptions, meta
from nightjard.calib.work import Work

_MOST_LOST = 0.5  # share of bad pixels from which on a frame is lost

# --- injection: the level that is pumped ---


def measure_level(
    path: str, detector: str, quadrant: str, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Fit each column of an un-pumped quadrant by a parabola along its rows; a worker's task.

    Returns
    -------
    dict
        ``level`` (median of the parabolas, ADU), ``noise`` (median over columns of the deviation
        about them, ADU), ``rows`` read, ``columns`` with a level, ``slope`` (last row over first,
        less 1).
    """
    kind = load_detector(detector)
    pixels, bad, _ = image_of(path, kind, quadrant, Recipe.from_json(recipe))
    values = np.where(bad, np.nan, pixels)
    if not np.isfinite(values).any():
        return {"level": None, "noise": None, "columns": 0, "rows": len(values), "slope": None}
    medians = blank.median(values[:: max(len(values) // 300, 1)], axis=0)
    x = np.linspace(-1, 1, len(values), dtype=np.float32)
    design = np.stack((np.ones_like(x), x, x * x), axis=1)
    # Bad pixels hold the median of their column: a handful of thousands moves nothing.
    filled = np.where(np.isfinite(values), values, np.nan_to_num(medians)[None, :])
    solution = np.linalg.lstsq(design, filled, rcond=None)[0]
    rest = filled - (design @ solution).astype(np.float32)
    noise = 1.4826 * np.median(np.abs(rest), axis=0)
    model = solution[0] + solution[2] / 3  # mean of the parabola
    return {
        "level": float(np.median(model)), "noise": float(np.median(noise)),
        "columns": int((model > 50).sum()), "rows": len(values),
        "slope": float(np.median(2 * solution[1]) / max(float(np.median(model)), 1e-3)),
    }  # fmt: skip


def injection(work: Work) -> None:
    """Measure level and noise of the un-pumped frames."""
    from astropy.table import Table

    if is_dry(work):
        return
    keys, items = [], []
    for ccd, recipe in recipes_for(work).items():
        _tell_unknown(work, ccd)
        for quadrant in work.detector.names:
            for frame in injected_frames(work, ccd, quadrant):
                if not is_pumped(frame.commanded):
                    keys.append((frame.obsid, ccd, quadrant))
                    items.append({"path": str(frame.path), "detector": work.detector_name,
                                  "quadrant": quadrant, "recipe": recipe.as_json()})  # fmt: skip
    if not items:
        work.results.flag("BADDATA", cause="no frame is injected without being pumped")
        return
    rows, columns = work.detector.quadrant_shape
    outcomes = work.map(measure_level, items, stage="levels measured",
                        memory_bytes=30 * rows * columns)  # fmt: skip
    table_rows = []
    for (obsid, ccd, quadrant), one in zip(keys, outcomes, strict=True):
        table_rows.append({"obsid": obsid, "ccd": ccd, "quadrant": quadrant, **{
            name: math.nan if value is None else value for name, value in one.items()
        }})  # fmt: skip
        where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant}
        if one["level"] is None:
            work.results.flag("BADDATA", severity="warning", cause=f"CCD{ccd} {quadrant}: OBSID "
                              f"{obsid}, which was not pumped, is lost", **where)  # fmt: skip
            continue
        error = one["noise"] / math.sqrt(max(one["columns"], 1) * max(one["rows"], 1))
        work.results.value("injection_level", one["level"], error=error, unit="ADU", **where)
        work.results.value("injection_noise", one["noise"], unit="ADU", **where)
    table = Table(rows=table_rows)
    table["level"].unit = table["noise"].unit = "adu"
    work.results.table("INJECTION", table, caption="Charge before pumping")


def _tell_unknown(work: Work, ccd: int) -> None:
    """Say which quadrants were pumped and have no frame that was injected only."""
    unknown = [
        quadrant for quadrant in work.detector.names
        if (frames := injected_frames(work, ccd, quadrant))
        and all(is_pumped(one.commanded) for one in frames)
    ]  # fmt: skip
    if unknown:
        work.results.flag(
            "BADDATA", severity="warning", cause=f"CCD{ccd} {', '.join(unknown)}: no frame is "
            "injected without being pumped: the level before is not known, hot pixels may count "
            "as traps", ccd=ccd,
        )  # fmt: skip


# --- extract: maps, dipoles, traps ---


def extract_quadrant(
    pumped: list[dict[str, Any]], reference: str | None, detector: str, quadrant: str,
    recipe: dict[str, Any], gain_e_adu: float, threshold: float, tolerance_px: int,
) -> dict[str, Any]:
    """Find the traps of a quadrant in all its pumped frames and measure them; a worker's task.

    Parameters
    ----------
    pumped
        ``path``, ``obsid``, ``mode``, ``time_us``, ``is_serial`` of each frame.
    reference
        Path of the frame that was injected but not pumped. Serial pumping needs it; in vertical
        pumping pixels that depart in it are no traps.

    Returns
    -------
    dict
        ``found``: of each frame positions, polarities and amplitudes (part of the level, e-) of
        its dipoles; ``traps``: ``x``, ``y``, ``phase``, ``strength``; ``time_us``;
        ``amplitude_e`` and ``error_e`` (traps, 2, times); ``noise`` of the maps; ``lost``, OBSIDs
        of frames of which hardly a pixel counts: they take no part. ``problem`` alone where
        nothing can be found.
    """
    kind, how = load_detector(detector), Recipe.from_json(recipe)
    is_serial = pumped[0]["is_serial"]
    line = None if not is_serial or reference is None else line_of(reference, kind, quadrant, how)
    if is_serial and (line is None or not np.isfinite(line).any()):
        return {"problem": "there is no frame that was injected but not pumped"}
    maps, bad, first_row, levels = [], None, 0, None
    used: list[dict[str, Any]] = []
    lost: list[int] = []
    if not is_serial and reference is not None:
        bad = _blemishes(reference, kind, quadrant, how)
    for one in pumped:
        if line is not None:
            its_line = line_of(one["path"], kind, quadrant, how)
            ratio, levels = dipoles.serial_ratio(its_line, line)
            flat = dipoles.flatten(ratio[:, None], None, minimum_level=0.05)
        else:
            pixels, its_bad, rows = image_of(one["path"], kind, quadrant, how)
            if its_bad.mean() > _MOST_LOST:
                lost.append(one["obsid"])
                continue
            first_row = rows.start
            bad = its_bad if bad is None else bad | its_bad
            flat = dipoles.flatten(pixels, its_bad)
        used.append(one)
        maps.append(dipoles.Pumped(one["mode"], float(one["time_us"]), flat))
    if not maps:
        return {"problem": "all its pumped frames are lost"}
    cat = dipoles.catalogue(maps, threshold=threshold, bad=bad, tolerance_px=tolerance_px)
    level_e = _levels_e(maps, levels, gain_e_adu)
    # Serial maps are one column: what runs along it are the columns of the quadrant.
    origin = np.array([kind.prescan, 0] if is_serial else [first_row, kind.prescan])
    noises = [one.map.noise for one in maps]
    return {**_told(used, cat, level_e, origin, noises, is_serial), "lost": lost}


def _blemishes(path: str, kind: Detector, quadrant: str, how: Recipe) -> NDArray[np.bool_] | None:
    """Return pixels of the image area that are no traps; both of a pair must be none of them.

    None where the frame that was not pumped is lost: it tells of none.
    """
    pixels, bad, _ = image_of(path, kind, quadrant, how)
    if bad.mean() > _MOST_LOST:
        return None
    return bad | dipoles.blemishes(dipoles.flatten(pixels, bad))


def _levels_e(
    maps: Sequence[dipoles.Pumped], levels: NDArray[Any] | None, gain_e_adu: float
) -> NDArray[np.float64]:
    """Return the pumped level of every column, electrons; the mean over the maps."""
    if levels is None:
        stack = np.stack([one.map.level for one in maps])
        good = np.isfinite(stack)
        levels = np.where(good, stack, 0).sum(axis=0) / np.maximum(good.sum(axis=0), 1)
    return np.asarray(levels * gain_e_adu, np.float64)


def _told(
    pumped: Sequence[Mapping[str, Any]], cat: dipoles.Catalogue, level_e: NDArray[np.float64],
    origin: NDArray[np.int64], noises: Sequence[float], is_serial: bool,
) -> dict[str, Any]:
    def of(row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float64]:
        index = row if is_serial else column
        return level_e[np.clip(index, 0, len(level_e) - 1)]

    def xy(row: NDArray[np.int64], column: NDArray[np.int64]) -> dict[str, Any]:
        along, across = row + origin[0], column + origin[1]
        return {"x": along, "y": across * 0 - 1} if is_serial else {"x": across, "y": along}

    found = []
    for one, dip in zip(pumped, cat.found, strict=True):
        amplitude_e = dip.amplitude * of(dip.row, dip.column)
        found.append({
            "obsid": one["obsid"], "mode": one["mode"], "time_us": one["time_us"],
            **xy(dip.row, dip.column), "S": dip.polarity, "A": dip.amplitude, "A_e": amplitude_e,
        })  # fmt: skip
    at = of(cat.places.row, cat.places.column)[:, None, None]
    result: dict[str, Any] = plain({
        "found": found, "noise": list(noises), "time_us": cat.time_us,
        "traps": {**xy(cat.places.row, cat.places.column), "phase": cat.places.phase,
                  "strength": cat.places.strength},
        "amplitude_e": np.round(cat.amplitude * at, 3), "error_e": np.round(cat.error * at, 3),
    })  # fmt: skip
    return result


def extract(work: Work) -> None:
    """Find dipoles in all pumped frames, merge them into traps, measure these in all frames."""
    if is_dry(work):
        return
    options = PumpingOptions.model_validate(dict(work.options))
    keys: list[tuple[int, str]] = []
    items: list[dict[str, Any]] = []
    for ccd, recipe in recipes_for(work).items():
        for quadrant in work.detector.names:
            frames = injected_frames(work, ccd, quadrant)
            pumped = [one for one in frames if is_pumped(one.commanded)]
            if not pumped:
                continue
            keys.append((ccd, quadrant))
            items.append({
                "pumped": [_argument(one) for one in pumped],
                "reference": reference_of(frames), "detector": work.detector_name,
                "quadrant": quadrant, "recipe": recipe.as_json(),
                "gain_e_adu": work.gain_e_adu(ccd, quadrant),
                "threshold": options.threshold_sigma, "tolerance_px": options.tolerance_px,
            })  # fmt: skip
    if not items:
        work.results.flag("BADDATA", cause="no frame was pumped")
        return
    rows, columns = work.detector.quadrant_shape
    most = max(len(item["pumped"]) for item in items)
    outcomes = work.map(extract_quadrant, items, stage="quadrants searched",
                        memory_bytes=(4 * most + 40) * rows * columns)  # fmt: skip
    kept = {}
    for key, one in zip(keys, outcomes, strict=True):
        if "problem" in one:
            work.results.flag("BADDATA", cause=f"CCD{key[0]} {key[1]}: {one['problem']}",
                              ccd=key[0], quadrant=key[1])  # fmt: skip
        else:
            kept[key] = one
            if one["lost"]:
                lost = ", ".join(map(str, one["lost"]))
                work.results.note(f"CCD{key[0]} {key[1]}: frames that are lost (0 or saturated) "
                                  f"take no part: OBSID {lost}")  # fmt: skip
    _leave_tables(work, kept)
    if options.raw_maps:
        leave_maps(work)


def _argument(frame: CcdFrame) -> dict[str, Any]:
    how = pumping_of(frame.commanded)
    return {"path": str(frame.path), "obsid": frame.obsid,
            **{name: how[name] for name in ("mode", "time_us", "is_serial")}}  # fmt: skip


def _leave_tables(work: Work, outcomes: Mapping[tuple[int, str], Mapping[str, Any]]) -> None:
    raw: list[tuple[Any, ...]] = []
    long: list[tuple[Any, ...]] = []
    for (ccd, quadrant), one in outcomes.items():
        for frame in one["found"]:
            head = (frame["obsid"], ccd, quadrant, frame["mode"], frame["time_us"])
            columns = (frame[name] for name in ("x", "y", "S", "A", "A_e"))
            raw += [(*head, *row) for row in zip(*columns, strict=True)]
        places = one["traps"]
        amplitude = np.array(one["amplitude_e"], float).reshape(-1, 2, len(one["time_us"]))
        error = np.array(one["error_e"], float).reshape(amplitude.shape)
        for trap, place in enumerate(
            zip(places["x"], places["y"], places["phase"], places["strength"], strict=True)
        ):
            for view, k in zip(*np.nonzero(np.isfinite(amplitude[trap])), strict=True):
                long.append((ccd, quadrant, trap, *place, int(view), one["time_us"][k],
                             amplitude[trap, view, k], error[trap, view, k]))  # fmt: skip
    heads: list[str] = ["obsid", "ccd", "quadrant", "mode", "time_us", "x", "y", "S", "A", "A_e"]
    table = _table(raw, heads, "iissfiiiff", {"time_us": "us", "A_e": "electron"})
    work.results.table("RAWCAT", table, caption="Dipoles of every pumped frame", show=False)
    heads = ["ccd", "quadrant", "trap", "x", "y", "phase", "strength", "view", "time_us",
             "amplitude_e", "error_e"]  # fmt: skip
    units = {"time_us": "us", "amplitude_e": "electron", "error_e": "electron"}
    table = _table(long, heads, "isiiiififff", units)
    work.results.table("AMPLITUDES", table, caption="Traps in every map", show=False)


def _table(
    rows: Sequence[tuple[Any, ...]], names: Sequence[str], kinds: str, units: Mapping[str, str]
) -> Any:
    from astropy.table import Table

    types: dict[str, Any] = {"i": np.int64, "f": np.float64, "s": "U8"}
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    table = Table(
        [np.array(one, dtype=types[kind]) for one, kind in zip(columns, kinds, strict=True)],
        names=list(names),
    )
    for name, unit in units.items():
        table[name].unit = unit
    return table


# --- basic ---


def basic(work: Work) -> None:
    """Count the dipoles of every CCD, quadrant, mode and time."""
    from astropy.table import Table

    if is_dry(work):
        return
    raw = table_of(work, "extract", "RAWCAT")
    if raw is None:
        work.results.flag("BADDATAPROD", cause="extract found no pumped frame: nothing to count")
        return
    rows: list[dict[str, Any]] = []
    keys = list(zip(raw["ccd"], raw["quadrant"], raw["mode"], raw["time_us"], strict=True))
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    for (ccd, quadrant, mode, time_us), where in sorted(groups.items()):
        mine = raw[where]
        south = int(np.sum(mine["S"]))
        rows.append({
            "ccd": int(ccd), "quadrant": str(quadrant), "mode": str(mode),
            "time_us": float(time_us), "number": len(mine), "S": south, "N": len(mine) - south,
            "ratio_S_N": south / max(len(mine) - south, 1),
            "median_A": float(np.median(mine["A"])), "median_A_e": float(np.median(mine["A_e"])),
        })  # fmt: skip
    if not rows:
        work.results.note("no dipole was found in any frame")
        return
    table = Table(rows=rows)
    table["time_us"].unit, table["median_A_e"].unit = "us", "electron"
    work.results.table("SUMMARY", table, caption="Dipoles of each mode and pumping time")
    for ccd, quadrant in sorted({(row["ccd"], row["quadrant"]) for row in rows}):
        mine_rows = [r for r in rows if r["ccd"] == ccd and r["quadrant"] == quadrant]
        total = sum(int(r["number"]) for r in mine_rows)
        work.results.value("dipoles", total, error=math.sqrt(total), ccd=ccd, quadrant=quadrant)


WORKERS = (measure_level, extract_quadrant, map_frame, measure_offsets)


def _task(title: str) -> Task:
    return Task(
        title,
        (
            Subtask("check", checks.check, "Data validation"),
            prep_subtask(),
            Subtask("injection", injection, "Charge before pumping"),
            Subtask("extract", extract, "Dipoles and traps"),
            Subtask("basic", basic, "Numbers of dipoles"),
            Subtask("meta", meta, "Time constants, charges, cross-sections"),
        ),
        frame_check=check_frame, frame_check_arguments=check_arguments, judge=judge,
        workers=WORKERS, options=PumpingOptions,
    )  # fmt: skip


VERTICAL_PUMPING = _task("Vertical trap pumping")
SERIAL_PUMPING = _task("Serial trap pumping")
