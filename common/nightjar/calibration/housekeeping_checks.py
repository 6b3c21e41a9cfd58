# SPDX-License-Identifier: BSD-3-Clause
"""Judges the housekeeping of an exposure: its rows as :class:`HkWatch` does, and its means."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from nightjar.calibration.housekeeping_findings import HkFinding, out_of_limits
from nightjar.calibration.housekeeping_limits import LEVELS, HkLimits
from nightjar.calibration.housekeeping_table import HkStat, HkTable, hk_statistics, read_hk
from nightjar.calibration.housekeeping_watch import HkWatch
from nightjar.errors import NightjarError
from nightjar.times import NS_PER_S


def check_hk(
    source: HkTable | Path | None,
    limits: HkLimits,
    *,
    commanded: Mapping[str, float] | None = None,
    obsid: int | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> list[HkFinding]:
    """Judge the housekeeping of an exposure; a file that is missing or bad is a finding.

    Parameters
    ----------
    source
        The rows, or the file; None where there is none.
    limits
        Of the version.
    commanded
        Columns of the log that command voltages; without one, limits relative to it judge nothing.
    obsid
        Told in the findings.
    start_ns, end_ns
        What the rows should cover, where that is known.
    """
    return [
        dataclasses.replace(finding, obsid=obsid)
        for finding in _check(source, limits, commanded or {}, start_ns, end_ns)
    ]


def _check(
    source: HkTable | Path | None,
    limits: HkLimits,
    commanded: Mapping[str, float],
    start_ns: int | None,
    end_ns: int | None,
) -> Iterator[HkFinding]:
    if source is None or (isinstance(source, Path) and not source.exists()):
        yield HkFinding("missing", "", f"no housekeeping: {source or 'there is no file'}")
        return
    try:
        table = source if isinstance(source, HkTable) else read_hk(source, limits.elvis)
    except NightjarError as error:
        yield HkFinding("unreadable", "", str(error))
        return
    for problem in table.problems:
        yield HkFinding("unreadable", "", problem)
    absent = [name for name in limits.parameters if name not in table.names]
    if absent:
        yield HkFinding("missing", "", f"no column {', '.join(absent)}")
    if not len(table):
        yield HkFinding("missing", "", "no rows")
        return
    yield from _coverage(table, limits, start_ns, end_ns)
    watch = HkWatch(limits, table.names)
    watch.command(commanded)
    rows: list[HkFinding] = []
    for utc_ns, row in zip(table.times_ns.tolist(), table.values, strict=True):
        rows += watch.feed(utc_ns, row)
    rows += watch.finish()
    means = check_statistics(hk_statistics(_without(table, _spikes(rows))), limits, commanded)
    told = {(finding.parameter, finding.level) for finding in means}
    told |= {(parameter, "P") for parameter, level in told if level == "S"}
    yield from (
        row for row in rows if row.kind != "limit" or (row.parameter, row.level) not in told
    )
    yield from means


def _spikes(findings: list[HkFinding]) -> dict[str, set[int]]:
    spikes: dict[str, set[int]] = {}
    for finding in findings:
        if finding.kind == "spike" and finding.utc_ns is not None:
            spikes.setdefault(finding.parameter, set()).add(finding.utc_ns)
    return spikes


def _without(table: HkTable, spikes: Mapping[str, set[int]]) -> HkTable:
    """Return the rows without the values that are spikes: they must not move the means."""
    if not spikes:
        return table
    values = table.values.copy()
    for name, times in spikes.items():
        values[np.isin(table.times_ns, list(times)), table.names.index(name)] = np.nan
    return dataclasses.replace(table, values=values)


def _coverage(
    table: HkTable, limits: HkLimits, start_ns: int | None, end_ns: int | None
) -> Iterator[HkFinding]:
    first, last = int(table.times_ns.min()), int(table.times_ns.max())
    if start_ns is not None and first - start_ns > limits.stale_s * NS_PER_S:
        late = (first - start_ns) / NS_PER_S
        yield HkFinding("gap", "", f"begins {late:.0f} s late", value=late, utc_ns=start_ns)
    if end_ns is not None and end_ns - last > limits.stale_s * NS_PER_S:
        early = (end_ns - last) / NS_PER_S
        text = f"ends {early:.0f} s before the exposure does"
        yield HkFinding("stale", "", text, value=early, utc_ns=last)


def check_statistics(
    statistics: Mapping[str, HkStat],
    limits: HkLimits,
    commanded: Mapping[str, float],
    obsid: int | None = None,
) -> list[HkFinding]:
    """Judge the mean of every parameter over an exposure: S first, else P."""
    found = []
    for name, parameter in limits.parameters.items():
        stat = statistics.get(name)
        if stat is None:
            continue
        if stat.count == 0:
            text = f"{name} has no value in any row"
            found.append(HkFinding("missing", name, text, obsid=obsid))
            continue
        for level in reversed(LEVELS):
            window = parameter.window(level, commanded)
            if window is None:
                continue
            low, high = window
            value = stat.mean
            if parameter.is_equality(level):
                is_good = stat.min == low == stat.max
                value = stat.max if stat.max != low else stat.min
            else:
                is_good = low < stat.mean < high
            if not is_good:
                found.append(
                    dataclasses.replace(
                        out_of_limits("mean", limits, name, level, value, low, high), obsid=obsid
                    )
                )
                break
    return found
