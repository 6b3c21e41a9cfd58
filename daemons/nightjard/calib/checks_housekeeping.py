# SPDX-License-Identifier: BSD-3-Clause
"""Housekeeping of a test: means against limits, rows against spikes, gaps and stuck values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.calibration.dayfolder import list_day
from nightjar.calibration.housekeeping import (
    HkFinding,
    HkLimits,
    HkStat,
    check_hk,
    check_statistics,
)
from nightjar.errors import NightjarError
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.limits import Limits
from nightjard.calib.work import Work

_KELVIN = re.compile(r"_(\d{3})K(?:\.\d+)?$")
_CCD_TEMPERATURE = re.compile(r"CCD\d+_TEMP_")
_NO_COLUMN = "no column "
_MOST_NAMED = 8  # of a panel, in two lines above it
_GROUPS = (
    ("CCD temperature / C", r"CCD\d+_TEMP_"), ("OD / V", r"CCD\d+_OD_"), ("RD / V", r"COMM_RD_"),
    ("IG1 / V", r"CCD\d+_IG1_"), ("IG2 / V", r"COMM_IG2_"), ("ID / V", r"FPGA_BIAS_ID[12]$"),
    ("Board temperature / C", r"(VID|FPGA)_PCB_TEMP_|RPSU_TEMP"),
    ("Supply / V", r"RPSU_28V_PRI_V|_VCCD_V$"),
)  # fmt: skip


def check_housekeeping(work: Work) -> None:
    """Judge the housekeeping of every exposure; leave the tables ``hk`` and ``hk_findings``.

    Where the files of the exposures lie beside the frames their rows are judged, too.
    """
    dataset = work.dataset
    for obsid in dataset.hk_missing:
        work.results.flag("MISSDATA", cause=f"OBSID {obsid} has no housekeeping", obsid=obsid,
                          severity="warning")  # fmt: skip
    try:
        limits = limits_of(work)
    except NightjarError as error:
        work.results.note(f"housekeeping was not judged: {error.message}")
        return
    files = _files(work)
    firsts = {frame.obsid: frame for frame in reversed(dataset.frames)}
    findings: list[HkFinding] = []
    for obsid in dataset.obsids:
        findings += _judge(work, limits, firsts[obsid], files.get(obsid))
    _raise(work, _of_this_camera(work, limits, [one for one in findings if not one.is_over]))
    _write(work, findings)


def limits_of(work: Work) -> HkLimits:
    """Return the limits of housekeeping for a test.

    At its temperature (of its limits, or its name), by the campaign's voltage calibration.

    Raises
    ------
    ConfigError
        There are none for its version of ELVIS.
    """
    limits = HkLimits.load(work.dataset.script.elvis).with_voltages(work.inputs.voltages)
    wanted = Limits(work.limits).of("ccd_temperature")
    if wanted is not None and wanted.low is not None and wanted.high is not None:
        half = (wanted.high - wanted.low) / 2
        return limits.at_temperature(wanted.low + half, half)
    kelvin = _KELVIN.search(work.dataset.test)
    return limits.at_temperature(int(kelvin[1]) - 273.15) if kelvin else limits


def _judge(
    work: Work, limits: HkLimits, frame: CcdFrame, path: Path | None
) -> list[HkFinding]:
    values = {**frame.commanded, **frame.logged}
    commanded = limits.commands_of(values)
    if path is not None:
        return check_hk(path, limits, commanded=commanded, obsid=frame.obsid)
    found = work.dataset.hk.get(frame.obsid)
    if found is None:
        return []
    statistics = {
        name: HkStat(mean, std, low, high, 0 if math.isnan(mean) else 1)
        for name, (mean, std, low, high) in found.items()
    }
    return check_statistics(statistics, limits, commanded, frame.obsid)


def _files(work: Work) -> dict[int, Path]:
    """Return the housekeeping files beside the frames, by OBSID."""
    folders = sorted({frame.path.parent for frame in work.dataset.frames if frame.path})
    found: dict[int, Path] = {}
    for folder in folders:
        try:
            found.update(list_day(folder).hk)
        except (NightjarError, OSError) as error:
            work.results.note(f"housekeeping files of {folder} were not listed: {error}")
    return found


def _of_this_camera(
    work: Work, limits: HkLimits, findings: list[HkFinding]
) -> list[HkFinding]:
    """Return the findings without the columns of electronics that this camera does not have.

    Where most parameters have no column the limits are those of other electronics: that is no fault
    of the data, and is told in a sentence.
    """
    absent = [one for one in findings if one.kind == "missing" and one.text.startswith(_NO_COLUMN)]
    most = max((one.text.count(",") + 1 for one in absent), default=0)
    if 2 * most <= len(limits.parameters):
        return findings
    work.results.note(
        f"housekeeping: {most} of {len(limits.parameters)} parameters are not measured by this "
        f"camera and were not judged"
    )
    return [one for one in findings if one not in absent]


def _raise(work: Work, findings: Iterable[HkFinding]) -> None:
    """Raise flags: one for every parameter, with its first cause."""
    told: set[tuple[str, str, str]] = set()
    for one in findings:
        key = (one.kind, one.parameter, one.level)
        if key in told:
            continue
        told.add(key)
        where: dict[str, Any] = {"obsid": one.obsid, "parameter": one.parameter}
        cause = f"OBSID {one.obsid}: {one.text}"
        if one.kind in ("missing", "unreadable"):
            work.results.flag("MISSDATA", cause=cause, severity="warning", **where)
            continue
        where |= {"metric": one.parameter, "value": one.value, "low": one.low, "high": one.high}
        work.results.flag("HK_OOL", cause=cause, severity="error" if one.level == "S" else None,
                          **where)  # fmt: skip
        if one.kind in ("mean", "limit") and _CCD_TEMPERATURE.match(one.parameter):
            work.results.flag("CCDTEMP_OOL", cause=cause, **where,
                              severity="error" if one.level == "S" else "warning")  # fmt: skip


def _write(work: Work, findings: list[HkFinding]) -> None:
    from astropy.table import Table

    groups: dict[tuple[str, str, str], list[HkFinding]] = {}
    for one in findings:
        if not one.is_over:
            groups.setdefault((one.parameter, one.kind, one.level), []).append(one)
    work.results.value("hk_findings", sum(len(group) for group in groups.values()))
    if groups:
        rows = [
            {"parameter": parameter or "all", "kind": kind, "level": level,
             "exposures": len({one.obsid for one in group}), "first_obsid": group[0].obsid or -1,
             "text": group[0].text}
            for (parameter, kind, level), group in sorted(groups.items())
        ]  # fmt: skip
        work.results.table("hk_findings", Table(rows=rows), caption="Housekeeping out of limits")
    hk = work.dataset.hk
    names = sorted({name for one in hk.values() for name in one})
    if names:
        columns: dict[str, Any] = {"obsid": sorted(hk)}
        for name in names:
            columns[name] = [
                float(hk[obsid].get(name, (math.nan,) * 4)[0]) for obsid in sorted(hk)
            ]
        work.results.table("hk", Table(columns), caption="Housekeeping: mean of every exposure",
                           show=False)  # fmt: skip


def draw_housekeeping(work: Work) -> None:
    """Draw the most telling parameters along the test, with their limits for performance."""
    from nightjard.calib import plotting

    try:
        limits = limits_of(work)
    except NightjarError:
        return  # told by the judgement
    hk = work.dataset.hk
    times = {frame.obsid: frame.utc_ns for frame in work.dataset.frames}
    obsids = sorted(obsid for obsid in hk if obsid in times)
    names = sorted({name for obsid in obsids for name in hk[obsid]})
    if not obsids or not names:
        return
    hours = np.array([times[obsid] - min(times.values()) for obsid in obsids]) / 3.6e12
    figure = plotting.new_figure(10, 9)
    grid = figure.subplots(4, 2, squeeze=False, sharex=True).ravel()
    figure.subplots_adjust(left=0.09, right=0.98, top=0.92, bottom=0.06, hspace=0.3, wspace=0.2)
    for axes, (label, pattern) in zip(grid, _GROUPS, strict=True):
        drawn = [one for one in names if re.search(pattern, one)]
        for name in drawn:
            values = [hk[obsid].get(name, (math.nan,) * 4)[0] for obsid in obsids]
            axes.plot(hours, values, ".-", ms=3, lw=0.6, label=name)
            window = limits.parameters[name].window("P", {}) if name in limits.parameters else None
            for edge in set(window or ()):
                axes.axhline(edge, ls="--", lw=0.5, color="#888888")
        axes.set_ylabel(label, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(useOffset=False)
        if 1 < len(drawn) <= _MOST_NAMED:
            axes.legend(fontsize=6, ncols=4, loc="lower left", bbox_to_anchor=(0.0, 0.99),
                        frameon=False, borderpad=0, handlelength=1.2, columnspacing=1)  # fmt: skip
    figure.suptitle(f"{work.dataset.test}: housekeeping along the test", fontsize=11)
    figure.supxlabel("hours since the first exposure", fontsize=9)
    work.results.figure("hk_vs_time", figure, caption="Housekeeping, mean of every exposure; "
                        "broken: limits for performance")  # fmt: skip
