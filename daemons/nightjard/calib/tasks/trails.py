# SPDX-License-Identifier: BSD-3-Clause
"""What trails behind the last column and row of flat fields: hard-edge response, inefficiency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nightjar.calibration.detector import Detector, load_detector
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import Recipe, prepared
from nightjard.calib.preparing import is_dry, recipes_of
from nightjard.calib.science.edge_response import (
    Edge,
    inefficiency,
    merged,
    parallel_edge,
    serial_edge,
)
from nightjard.calib.science.robust import Float64s
from nightjard.calib.science.trailing import Trailing, smoothing
from nightjard.calib.tasks.transfer_options import (
    EDGE_UNITS,
    Channel,
    TransferOptions,
    channels_of,
    optional_table,
    options_of,
    rows_of,
    with_units,
)
from nightjard.calib.work import Work


def measure_edges(
    path: str, detector: str, recipe: dict[str, Any], low_adu: float, high_adu: float
) -> dict[str, Any]:
    """Return the profiles across the last column and row of every quadrant; a worker's.

    Raises
    ------
    StorageError
        The frame or a product cannot be read.
    """
    geometry = load_detector(detector)
    frame = open_frame(path, geometry)
    found: dict[str, Any] = {}
    for quadrant in geometry.names:
        pixels, bad = prepared(frame, quadrant, Recipe.from_json(recipe))
        frame.forget()
        edges = {"serial": serial_edge(pixels, bad, geometry, low_adu, high_adu),
                 "parallel": parallel_edge(pixels, bad, geometry, low_adu, high_adu)}  # fmt: skip
        found[quadrant] = {
            name: {"image": edge.image.tolist(), "trail": edge.trail.tolist(),
                   "error": edge.error.tolist(), "lines": edge.lines, "slope": edge.slope}
            for name, edge in edges.items() if edge is not None
        }  # fmt: skip
    return found


def edge_of(document: Mapping[str, Any]) -> Edge:
    """Return the profile that a worker measured."""
    image, trail, error = (np.array(document[key]) for key in ("image", "trail", "error"))
    return Edge(image, trail, error, int(document["lines"]), float(document["slope"]))


def edges_of(
    work: Work, frames: list[CcdFrame], options: TransferOptions, *, is_any_level: bool = False
) -> list[dict[str, Any]]:
    """Return the profiles of frames, in order: quadrant -> direction -> plain values.

    Parameters
    ----------
    is_any_level
        Trails of all levels are wanted, not of middling ones alone.
    """
    recipes, full = recipes_of(work), float(work.detector.adc_full_scale)
    low = 0.01 if is_any_level else options.edge_from
    high = 1.1 if is_any_level else options.edge_to
    items = [
        {"path": str(frame.path), "detector": work.detector_name,
         "recipe": recipes[frame.ccd].as_json(), "low_adu": low * full, "high_adu": high * full}
        for frame in frames
    ]  # fmt: skip
    rows, columns = work.detector.quadrant_shape
    return work.map(measure_edges, items, stage="edges measured", memory_bytes=16 * rows * columns)


def transfers_of(detector: Detector) -> dict[str, int]:
    """Return how often the last column and the last row of a quadrant are moved."""
    return {"serial": detector.prescan + detector.image_columns, "parallel": detector.image_rows}


def extract_edges(work: Work) -> None:
    """Tell the transfer inefficiency from the trails; leave HER, HER_profiles."""
    if is_dry(work):
        return
    options = options_of(work)
    table = optional_table(work, "extract_PTC", "PTC_TRAILS")
    if table is None:
        work.results.flag("BADDATAPROD", cause="no frame has edges between "
                          f"{options.edge_from:.0%} and {options.edge_to:.0%} of full scale")
        return  # fmt: skip
    rows, profiles = [], []
    lines: dict[Channel, list[tuple[Any, Any, str]]] = {}
    for ccd, quadrant in channels_of(table):
        for direction, edge in trails_of(table, (ccd, quadrant)).items():
            row = record_edge(work, ccd, quadrant, direction, edge)
            relative = (edge.trail - float(row["base"])) / edge.signal
            if direction == "serial":
                _judge(work, row, options.largest_edge_response)
            rows.append(row)
            profiles += [
                {"ccd": ccd, "quadrant": quadrant, "direction": direction, "pixel": pixel,
                 "level": float(edge.trail[pixel]), "level_error": float(edge.error[pixel]),
                 "relative": float(relative[pixel])}
                for pixel in range(edge.trail.size)
            ]  # fmt: skip
            lines.setdefault((ccd, quadrant), []).append(
                (np.arange(edge.trail.size), relative, direction)
            )
    work.results.table("HER", with_units(rows, EDGE_UNITS), caption="Hard-edge response and "
                       "transfer inefficiency")  # fmt: skip
    work.results.table("HER_profiles", with_units(profiles, EDGE_UNITS), show=False,
                       caption="Pixels behind the last of the image")  # fmt: skip
    from nightjard.calib import plotting

    figure = plotting.curves(
        work.detector, lines, title=f"{work.dataset.test}: trails behind the image",
        x_label="pixels behind the image", y_label="share of the signal",
    )  # fmt: skip
    work.results.figure("HER", figure, caption="What trails behind the last column and row")


def _judge(work: Work, row: Mapping[str, Any], largest: float) -> None:
    """Flag a register that leaves more behind than a healthy one."""
    if abs(row["her"]) > largest:
        ccd, quadrant = row["ccd"], row["quadrant"]
        work.results.flag(
            "UNDERPERFORM", metric="her_serial", ccd=ccd, quadrant=quadrant,
            cause=f"CCD{ccd} {quadrant}: the first overscan pixel has {row['her']:.2e} of the "
            f"signal, allowed are {largest:.1e}",
        )


def half_scale(
    work: Work, pairs: list[tuple[int, int, CcdFrame, CcdFrame]], levels: list[list[float]]
) -> list[CcdFrame]:
    """Return the frames of each CCD's column whose median level is nearest to half of full scale.

    Parameters
    ----------
    pairs
        CCD, column, both frames.
    levels
        Of the quadrants of each pair, ADU.
    """
    half = 0.5 * work.detector.adc_full_scale
    seen: dict[int, dict[int, list[float]]] = {}
    for (ccd, column, _, _), some in zip(pairs, levels, strict=True):
        seen.setdefault(ccd, {}).setdefault(column, []).extend(
            one for one in some if math.isfinite(one)
        )
    nearest = {}
    for ccd, columns in seen.items():
        away = {column: abs(float(np.median(some)) - half)
                for column, some in columns.items() if some}  # fmt: skip
        if away:
            nearest[ccd] = min(away, key=lambda column: away[column])
    return [frame for ccd, column, first, second in pairs if nearest.get(ccd) == column
            for frame in (first, second)]  # fmt: skip


def record_edge(
    work: Work, ccd: int, quadrant: str, direction: str, edge: Edge
) -> dict[str, Any]:
    """Record the values of a trail; return its row of the table."""
    found = inefficiency(edge, transfers_of(work.detector)[direction])
    hard, hard_error = edge.hard_edge
    where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant}
    results = work.results
    results.value(f"cti_{direction}", found.cti, error=found.error, unit="1/transfer",
                  note="first pixel of the fitted trail", **where)  # fmt: skip
    results.value(f"eper_{direction}", found.deferred, error=found.deferred_error,
                  unit="1/transfer", note="sum of the fitted trail", **where)  # fmt: skip
    results.value(f"her_{direction}", hard, error=hard_error, **where)
    return {
        **where, "direction": direction, "signal": edge.signal, "her": hard,
        "her_error": hard_error, "cti": found.cti, "cti_error": found.error,
        "deferred": found.deferred, "tail": found.tail_px, "base": found.base,
        "lines": edge.lines,
    }  # fmt: skip


def leave_trails(work: Work, options: TransferOptions, frames: list[CcdFrame]) -> None:
    """Leave the table PTC_TRAILS: profiles of frames (those nearest to half of full scale)."""
    gathered: dict[tuple[int, str, str], list[Edge]] = {}
    for frame, quadrants in zip(frames, edges_of(work, frames, options), strict=True):
        for quadrant, both in quadrants.items():
            for direction, document in both.items():
                key = (frame.ccd, quadrant, direction)
                gathered.setdefault(key, []).append(edge_of(document))
    rows = []
    for (ccd, quadrant, direction), edges in sorted(gathered.items()):
        edge = merged(edges)
        levels = np.concatenate([edge.image, edge.trail])
        errors = np.concatenate([np.full(edge.image.size, np.nan), edge.error])
        rows += [
            {"ccd": ccd, "quadrant": quadrant, "direction": direction,
             "pixel": pixel - edge.image.size, "level": float(levels[pixel]),
             "level_error": float(errors[pixel]), "lines": edge.lines, "slope": edge.slope}
            for pixel in range(levels.size)
        ]  # fmt: skip
    if rows:
        work.results.table("PTC_TRAILS", with_units(rows, EDGE_UNITS), show=False,
                           caption="Last pixels of the image and those behind it")  # fmt: skip


def smoothing_of(work: Work, table: Any, channel: Channel) -> Float64s | None:
    """Return what the trails of a quadrant make of the power of its noise; None without a table.

    Trails that are not seen count as none.
    """
    edges, detector = trails_of(table, channel), work.detector
    if not edges:
        return None
    spans = {"serial": (detector.prescan + 1, detector.prescan + detector.image_columns),
             "parallel": (1, detector.image_rows)}  # fmt: skip
    both = {}
    for direction, (first, last) in spans.items():
        found = None
        if direction in edges:
            found = inefficiency(edges[direction], transfers_of(detector)[direction])
        is_seen = found is not None and math.isfinite(found.tail_px)
        cti, tail = (found.cti, found.tail_px) if found is not None and is_seen else (0.0, 1.0)
        both[direction] = Trailing(cti, tail, first, last)
    return smoothing(both["serial"], both["parallel"])


def trails_of(table: Any, channel: Channel) -> dict[str, Edge]:
    """Return the profiles of a quadrant by direction; none without a table."""
    edges: dict[str, Edge] = {}
    if table is None:
        return edges
    rows = rows_of(table, channel)
    for direction in sorted(set(rows["direction"])):
        one = rows[np.asarray(rows["direction"] == direction)]
        level, behind = np.asarray(one["level"], float), np.asarray(one["pixel"]) >= 0
        error = np.asarray(one["level_error"], float)
        edges[str(direction)] = Edge(
            level[~behind], level[behind], error[behind], int(one["lines"][0]),
            float(one["slope"][0]),
        )
    return edges
