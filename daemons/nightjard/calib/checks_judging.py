# SPDX-License-Identifier: BSD-3-Clause
"""Judges what the common check measured: pixels, offsets, gradients, noise, dead, stuck."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nightjard.calib.limits import Limit, Limits
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

#: Less noise than this is none: the converter alone gives 0.29 ADU.
_NO_NOISE_ADU = 0.2
#: A quadrant that sees less than this part of what its CCD's others see gives no signal.
_DARK_PART = 0.02
_BRIGHT_ADU = 1000.0

Outcomes = Mapping[tuple[int, int], Mapping[str, Any]]


def judge_metrics(work: Work, table: Table, outcomes: Outcomes) -> None:
    """Judge the table ``metrics`` by the limits of the test; leave compliances and flags."""
    limits = Limits(work.limits)
    judge_pixels(work, table, limits)
    is_bias = work.dataset.handle.startswith("BIAS")
    if not work.inputs.offsets:
        work.results.note("offsets are not judged: none are expected for this block")
    for ccd, quadrant in sorted(set(zip(table["ccd"], table["quadrant"], strict=True))):
        rows = table[np.asarray((table["ccd"] == ccd) & (table["quadrant"] == quadrant))]
        _judge_quadrant(work, rows, limits, int(ccd), str(quadrant), is_bias)
    _judge_dead(work, table)
    _judge_bits(work, outcomes)


def judge_worst(
    work: Work, metric: str, values: Iterable[float], obsids: Iterable[int], limit: Limit | None,
    *, flag: str, **where: Any,
) -> bool:  # fmt: skip
    """Judge the one of several values that is worst by a limit; one compliance for all.

    Values that are not there (NaN of all: the detector has no such sector) are not judged.

    Returns
    -------
    bool
        All lie within.
    """
    numbers = np.asarray(list(values), float)
    if limit is None or not len(numbers) or np.isnan(numbers).all():
        return True
    low = -math.inf if limit.low is None else limit.low
    high = math.inf if limit.high is None else limit.high
    # How far beyond the nearer end; what is not a number is beyond all.
    beyond = np.where(np.isfinite(numbers), np.maximum(low - numbers, numbers - high), np.inf)
    worst = int(np.argmax(beyond))
    outside = int((beyond > 0).sum())
    if outside:
        where = {**where, "frames_outside": outside}
    return work.results.compliance(
        metric, float(numbers[worst]), limit.low, limit.high, unit=limit.unit, flag=flag,
        obsid=int(list(obsids)[worst]), **where,
    )  # fmt: skip


def judge_pixels(work: Work, table: Table, limits: Limits) -> None:
    """Judge lost pixels of every CCD, and saturated ones of every column that is not exempt."""
    for ccd in sorted(set(table["ccd"])):
        rows = table[np.asarray(table["ccd"] == ccd)]
        obsids = sorted(set(rows["obsid"]))
        lost = [int(rows["npix_zero"][rows["obsid"] == obsid].sum()) for obsid in obsids]
        judge_worst(work, "lost_pixels", lost, obsids, limits.of("lost_pixels"),
                    flag="LOSTPIXELS", ccd=int(ccd))  # fmt: skip
        for label in sorted(set(rows["column"])):
            some = rows[np.asarray(rows["column"] == label)]
            obsids = sorted(set(some["obsid"]))
            fractions = [
                float(some["npix_sat"][some["obsid"] == obsid].sum())
                / max(float(some["npix"][some["obsid"] == obsid].sum()), 1.0)
                for obsid in obsids
            ]
            if limits.is_exempt(str(label)):
                continue
            judge_worst(work, "saturated_fraction", fractions, obsids,
                        limits.of("saturated_fraction", str(label)), flag="SATURATION",
                        ccd=int(ccd), column=str(label))  # fmt: skip


def judge_fluence(work: Work, table: Table, metric: str = "fluence") -> None:
    """Judge the fluence of every column that has a limit of it; raises FLUENCE_OOL or BGD_OOL.

    Parameters
    ----------
    metric
        ``fluence``: median above the prescan; ``background``: above the mean of both scans.
    """
    limits = Limits(work.limits)
    flag = "FLUENCE_OOL" if metric == "fluence" else "BGD_OOL"
    for ccd, quadrant in sorted(set(zip(table["ccd"], table["quadrant"], strict=True))):
        rows = table[np.asarray((table["ccd"] == ccd) & (table["quadrant"] == quadrant))]
        for label in sorted({str(one) for one in rows["column"] if one}):
            some = rows[np.asarray(rows["column"] == label)]
            values = np.asarray(some["fluence"], float)
            if metric == "background":
                scans = np.nanmean([some["offset_pre"], some["offset_ove"]], axis=0)
                values = np.asarray(some["offset_img"], float) - scans
            judge_worst(work, metric, values, some["obsid"], limits.of(metric, label),
                        flag=flag, ccd=int(ccd), quadrant=str(quadrant), column=label)  # fmt: skip


def _judge_quadrant(
    work: Work, rows: Table, limits: Limits, ccd: int, quadrant: str, is_bias: bool
) -> None:
    where = {"ccd": ccd, "quadrant": quadrant}
    sectors = ("pre", "ove", "img") if is_bias else ("pre", "ove")
    expected = work.inputs.offsets.get((ccd, quadrant))
    for sector in sectors:
        for limit, some in _by_limit(rows, limits, f"offset_deviation_{sector}"):
            if expected is None:
                continue
            low, high = (None if edge is None else expected + edge for edge in limit[:2])
            around = Limit(low, high, "ADU")
            judge_worst(work, f"offset_{sector}", some[f"offset_{sector}"], some["obsid"],
                        around, flag="OFFSET_OOL", **where)  # fmt: skip
    _judge_jumps(work, rows, limits, where)
    for sector in sectors[1:]:
        name = f"offset_gradient_{sector}"
        for limit, some in _by_limit(rows, limits, name):
            gradients = some[f"offset_{sector}"] - some["offset_pre"]
            judge_worst(work, name, gradients, some["obsid"], limit, flag="OFFSET_OOL", **where)
    for sector in sectors:
        name = f"std_{sector}"
        for limit, some in _by_limit(rows, limits, name):
            judge_worst(work, name, some[name], some["obsid"], limit, flag="RON_OOL", **where)


def _by_limit(rows: Table, limits: Limits, name: str) -> list[tuple[Limit, Table]]:
    """Return the rows by the limit that their column has; not those where it has none."""
    places: dict[Limit, list[int]] = {}
    for index, label in enumerate(rows["column"]):
        limit = limits.of(name, str(label))
        if limit is not None:
            places.setdefault(limit, []).append(index)
    return [(limit, rows[indices]) for limit, indices in places.items()]


def _judge_jumps(work: Work, rows: Table, limits: Limits, where: dict[str, Any]) -> None:
    """Judge how the offset changes from one frame to the next that is read in the same way."""
    modes = {frame.obsid: str(frame.logged.get("rdmode", "")) for frame in work.dataset.frames}
    name = "offset_jump_pre"
    for limit, some in _by_limit(rows, limits, name):
        jumps, obsids = [], []
        for before, after in itertools.pairwise(some):
            if modes.get(int(before["obsid"])) == modes.get(int(after["obsid"])):
                jumps.append(float(after["offset_pre"] - before["offset_pre"]))
                obsids.append(int(after["obsid"]))
        judge_worst(work, name, jumps, obsids, limit, flag="OFFSET_OOL", **where)


def _judge_dead(work: Work, table: Table) -> None:
    """Raise DEADQUAD where a quadrant has no noise at all or sees nothing of what others see."""
    dead: dict[int, set[str]] = {}
    for row in table:
        ccd, quadrant, obsid = int(row["ccd"]), str(row["quadrant"]), int(row["obsid"])
        noises = [row["std_pre"], row["std_ove"], row["std_img"]]
        noises = [float(one) for one in noises if np.isfinite(one)]
        same = table[np.asarray((table["obsid"] == obsid) & (table["ccd"] == ccd))]
        brightest = float(np.max(same["fluence"]))
        cause = ""
        if noises and max(noises) < _NO_NOISE_ADU:
            cause = f"its values do not vary (standard deviation {max(noises):.2f} ADU)"
        elif _is_flat_field(work, obsid) and brightest > _BRIGHT_ADU and (
            row["fluence"] < _DARK_PART * brightest
        ):
            cause = f"it sees {row['fluence']:.0f} ADU where the CCD sees {brightest:.0f} ADU"
        if cause:
            dead.setdefault(ccd, set()).add(quadrant)
            work.results.flag("DEADQUAD", cause=f"OBSID {obsid}, CCD{ccd} {quadrant}: {cause}",
                              obsid=obsid, ccd=ccd, quadrant=quadrant)  # fmt: skip
    for ccd, quadrants in dead.items():
        if quadrants == set(work.detector.names):
            work.results.flag("DEADCCD", cause=f"CCD{ccd}: no quadrant gives a signal", ccd=ccd)


def _is_flat_field(work: Work, obsid: int) -> bool:
    """A frame that all quadrants should see: lit, and nothing injected."""
    frame = next(one for one in work.dataset.frames if one.obsid == obsid)
    values = {**frame.commanded, **frame.logged}
    is_switched = any(_number(values.get(name, 0)) for name in ("chinj", "v_tpump", "s_tpump"))
    is_flat = str(values.get("source", "flat")).lower().startswith("f")
    return frame.exposure_s > 0 and is_flat and not is_switched


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _judge_bits(work: Work, outcomes: Outcomes) -> None:
    """Flag bits that are stuck; one that a later frame shows moving is not, it only looked so."""
    moved: dict[tuple[int, str, int], int] = {}
    for (obsid, ccd), outcome in sorted(outcomes.items()):
        for quadrant, found in outcome["quadrants"].items():
            for bit in found.get("moving_bits", ()):
                moved[ccd, quadrant, int(bit)] = obsid
    seen: dict[tuple[int, str, int], list[int]] = {}
    for (obsid, ccd), outcome in sorted(outcomes.items()):
        for quadrant, found in outcome["quadrants"].items():
            for bit in found["stuck_bits"]:
                if obsid > moved.get((ccd, quadrant, int(bit)), -1):
                    seen.setdefault((ccd, quadrant, int(bit)), []).append(obsid)
    for (ccd, quadrant, bit), obsids in sorted(seen.items()):
        work.results.flag(
            "STUCKBIT", cause=f"CCD{ccd} {quadrant}: bit {bit} of the converter does not change "
            f"in {len(obsids)} frames, from OBSID {obsids[0]}", metric="bit", value=bit,
            ccd=ccd, quadrant=quadrant, obsid=obsids[0], bit=bit,
        )  # fmt: skip


