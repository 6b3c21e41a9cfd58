# SPDX-License-Identifier: BSD-3-Clause
"""What the common check measures of injected rows, and how that is judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nightjard.calib.checks_judging import judge_worst
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.frames import Frame
from nightjard.calib.limits import Limit, Limits
from nightjard.calib.prepare import offset_of
from nightjard.calib.science import injection
from nightjard.calib.science.read_noise import clipped_std
from nightjard.calib.work import Work

_NEITHER = Limit(-10.0, 66191.0, "ADU")
_NEITHER_STD = Limit(0.0, 1e4, "ADU")
_CLIP_SIGMA = 8.0
_MOST_ROWS = 500  # of a frame in the check: a good sample


def check_arguments(work: Work, ccd: int) -> dict[str, Any]:
    """Return how the frames of each column are injected, for the check."""
    del ccd
    return {"columns": {one.name: cycle_of(one.values) for one in work.dataset.script.columns}}


def cycle_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the injected half and the rows on and off of a column."""
    return {
        "half": injection.injected_half(values), "on": int(values.get("chinj_on", 1)),
        "off": int(values.get("chinj_of", 0)), "chinj": int(values.get("chinj", 0)),
    }  # fmt: skip


def check_frame(frame: Frame, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return level and deviation of the rows that are on, of every quadrant of a frame, ADU."""
    cycle = arguments["columns"].get(arguments["label"])
    if cycle is None or not cycle["chinj"]:
        return {}
    detector, found = frame.detector, {}
    stop = min(frame.vend, detector.image_rows)
    rows = np.arange(frame.vstart, stop)
    on = rows[rows % max(cycle["on"] + cycle["off"], 1) < cycle["on"]]
    # Whole rows, evenly taken: the raw quadrant is in memory already.
    on = on[:: max(len(on) // _MOST_ROWS, 1)]
    for quadrant in detector.names:
        offset = float(np.median(offset_of(frame, quadrant, "median")))
        values = frame.raw(quadrant)[on, detector.columns_of("image", is_trimmed=True)]
        found[quadrant] = {
            "level": float(np.median(values)) - offset if values.size else None,
            # A hot column is no unevenness of the injection.
            "std": _plain(clipped_std(values.astype(np.float32), _CLIP_SIGMA).value),
        }
    return found


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def judge(work: Work, found: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Judge levels and deviations of injected rows by what is expected of them.

    Frames of a quadrant with the same limits are judged together, by the one that is worst.
    """
    frames = {(one.obsid, one.ccd): one for one in work.dataset.frames}
    groups: dict[tuple[str, str, int, str, Limit], list[tuple[int, float]]] = {}
    for (obsid, ccd), quadrants in sorted(found.items()):
        frame = frames[obsid, ccd]
        half = injection.injected_half(frame.commanded)
        for quadrant, one in quadrants.items():
            mine = work.detector.half_of(quadrant)
            level, std = _expected(work, frame, ccd, mine, is_injected=mine == half)
            for metric, key, limit, flag in (
                ("injection", "level", level, "FLUENCE_OOL"),
                ("injection_std", "std", std, "FLUENCEGRAD_OOL"),
            ):
                value = math.nan if one[key] is None else float(one[key])
                groups.setdefault((metric, flag, ccd, quadrant, limit), []).append((obsid, value))
    for (metric, flag, ccd, quadrant, limit), members in groups.items():
        obsids, values = zip(*members, strict=True)
        labels = sorted({frames[obsid, ccd].label for obsid in obsids})
        column = {"column": labels[0]} if len(labels) == 1 else {}
        judge_worst(work, metric, values, obsids, limit, flag=flag, ccd=ccd, quadrant=quadrant,
                    **column)  # fmt: skip


def _expected(
    work: Work, frame: CcdFrame, ccd: int, half: str, *, is_injected: bool
) -> tuple[Limit, Limit]:
    """Return the limits of level and deviation of a half of a CCD.

    The catalogue's are for the voltages of the first CCD's top half; where this half has others
    they follow from its own, unless the campaign sets limits itself.
    """
    if not is_injected:
        return _NEITHER, _NEITHER_STD
    values = frame.commanded
    limits = Limits(work.limits)
    expected = injection.expected_adu(values, ccd, half)
    usual, mine = (
        (injection.gate_v(values, one, side), values.get(f"IG2_{side}"))
        for one, side in ((1, "T"), (ccd, half))
    )
    level, std = _NEITHER, _NEITHER_STD
    if math.isfinite(expected):
        level = Limit(0.5 * expected, 1.5 * expected, "ADU")
        std = Limit(0.0, 0.45 * expected, "ADU")
    if mine != usual:
        limits = Limits({"overrides": work.limits.get("overrides", {})})
    return (
        limits.of("injection", frame.label) or level, limits.of("injection_std", frame.label) or std
    )
