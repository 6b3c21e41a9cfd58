# SPDX-License-Identifier: BSD-3-Clause
"""Charge transfer inefficiency at every level of a linearity test (sub-task ``satCTE``)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nightjard.calib.preparing import is_dry
from nightjard.calib.science.edge_response import inefficiency, merged
from nightjard.calib.tasks.exposure_plan import plan_of
from nightjard.calib.tasks.trails import edge_of, edges_of, transfers_of
from nightjard.calib.tasks.transfer_options import (
    EDGE_UNITS,
    Channel,
    channels_of,
    options_of,
    rows_of,
    with_units,
)
from nightjard.calib.work import Work

_CTE_GROWTH = 3.0  # times the usual inefficiency


def measure_trails(work: Work) -> None:
    """Tell the transfer inefficiency of every level, and from where it grows; leave SATCTE."""
    if is_dry(work):
        return
    plan = plan_of(work)
    stable = set(plan.obsids[plan.is_stable].tolist())
    frames = [
        frame for ccd in work.dataset.ccds for frame in work.dataset.of_ccd(ccd)
        if frame.exposure_s > 0 and frame.obsid not in stable
    ]  # fmt: skip
    edges: dict[tuple[int, str, str, str], list[Any]] = {}
    measured = edges_of(work, frames, options_of(work), is_any_level=True)
    for frame, quadrants in zip(frames, measured, strict=True):
        for quadrant, both in quadrants.items():
            for direction, document in both.items():
                key = (frame.ccd, quadrant, direction, frame.label)
                edges.setdefault(key, []).append(edge_of(document))
    rows = []
    for (ccd, quadrant, direction, column), some in sorted(edges.items()):
        edge = merged(some)
        one = inefficiency(edge, transfers_of(work.detector)[direction])
        rows.append({"ccd": ccd, "quadrant": quadrant, "direction": direction, "column": column,
                     "signal": edge.signal, "cti": one.cti, "cti_error": one.error,
                     "tail": one.tail_px})  # fmt: skip
    if not rows:
        work.results.flag("BADDATAPROD", cause="no frame has edges that can be measured")
        return
    table = with_units(rows, EDGE_UNITS)
    work.results.table("SATCTE", table, caption="Transfer inefficiency by signal", show=False)
    for channel in channels_of(table):
        mine = rows_of(table, channel)
        for direction in sorted(set(mine["direction"])):
            _record_growth(work, channel, str(direction),
                           mine[np.asarray(mine["direction"] == direction)])  # fmt: skip


def _record_growth(work: Work, channel: Channel, direction: str, rows: Any) -> None:
    """Record the usual inefficiency and the signal from which it is several times that."""
    full = work.detector.adc_full_scale
    order = np.argsort(np.asarray(rows["signal"], float), kind="stable")
    signal, cti, error = (np.asarray(rows[name], float)[order]
                          for name in ("signal", "cti", "cti_error"))  # fmt: skip
    calm = (signal > 0.1 * full) & (signal < 0.7 * full)
    if not calm.any():
        return
    weight = 1.0 / error[calm] ** 2
    usual = float((weight * cti[calm]).sum() / weight.sum())
    where: dict[str, Any] = {"ccd": channel[0], "quadrant": channel[1]}
    # What the structure of the offset may add is the same at every level: no mean lowers it.
    work.results.value(f"cti_{direction}", usual, error=float(error[calm].min()),
                       unit="1/transfer", **where)  # fmt: skip
    grown = (signal > 0.5 * full) & (cti > _CTE_GROWTH * abs(usual) + 3.0 * error)
    level = float(signal[grown].min()) if grown.any() else float(signal.max())
    below = signal[~grown & (signal < level)] if grown.any() else signal
    step = (level - float(below.max())) / math.sqrt(12.0) if grown.any() and below.size else None
    work.results.value(
        f"cti_growth_{direction}", level, error=step, unit="ADU",
        note="" if grown.any() else "lower limit: it does not grow", **where,
    )  # fmt: skip
