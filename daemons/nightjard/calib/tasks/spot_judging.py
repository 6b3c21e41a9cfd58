# SPDX-License-Identifier: BSD-3-Clause
"""How the measures of spots are judged within the common check."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.limits import Limit, Limits
from nightjard.calib.tasks import spot_check
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

NO_LIMIT = Limit(None, None)
_BLEMISH_CHI2 = 30.0


def judge_saturation(work: Work, table: Table, wave_nm: int, source: str, part: float) -> None:
    """Record saturation times and judge them by the chamber's profile.

    Values: ``saturation_time`` of the block (what a new profile would say) and of every quadrant.

    Parameters
    ----------
    table
        Rows of measures: ccd, quadrant, saturation_time, saturation_time_error.
    part
        How far they may be from the profile where the limits of the test do not say.
    """
    if not len(table):
        work.results.flag(
            "FLUX_OOL", cause=f"no {source} exposure tells how long until saturation"
        )
        return
    nominal = work.dataset.profile.saturation_s(source, wave_nm)
    limit = Limits(work.limits).of("saturation_s") or Limit(
        (1 - part) * nominal, (1 + part) * nominal, "s"
    )
    quadrants = []
    for ccd, quadrant in sorted({(int(r["ccd"]), str(r["quadrant"])) for r in table}):
        one = table[(table["ccd"] == ccd) & (table["quadrant"] == quadrant)]
        value, error = spot_check.middle(one["saturation_time"], one["saturation_time_error"])
        quadrants.append((value, error))
        where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant, "wave": wave_nm}
        work.results.value("saturation_time", value, error=error, unit="s", **where)
        work.results.compliance(
            "saturation_time", value, limit.low, limit.high, unit="s", flag="FLUX_OOL", **where
        )
    told = {(int(r["ccd"]), str(r["quadrant"])) for r in table}
    for ccd in work.dataset.ccds:
        if missing := [name for name in work.detector.names if (ccd, name) not in told]:
            work.results.flag(
                "FLUX_OOL", cause=f"CCD{ccd} {', '.join(missing)}: no {source} exposure tells how "
                "long until saturation", ccd=ccd, wave=wave_nm,
            )  # fmt: skip
    value, error = spot_check.middle([one[0] for one in quadrants], [one[1] for one in quadrants])
    work.results.value(
        "saturation_time", value, error=error, unit="s", wave=wave_nm, source=source,
        note=f"profile: {nominal:g} s",
    )  # fmt: skip
    work.results.value(
        "saturation_time_ratio", value / nominal, error=error / nominal, wave=wave_nm,
        source=source,
    )  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """A measure of spots that is judged: a value for each row of the table of photometry.

    Attributes
    ----------
    limit
        Where the test has none of that name.
    is_light
        In proportion to the light: limits, which are for the commanded time, are taken for the
        time the shutter was open.
    """

    values: Any
    unit: str
    flag: str
    limit: Limit = NO_LIMIT
    is_light: bool = False


def judge_spots(work: Work, table: Table, measures: dict[str, Measure]) -> None:
    """Judge measures of spots by the limits of each column, and tell what was not measured.

    The worst spot of a quadrant counts, those apart that lie on a blemish which no mask tells
    (they are noted); of backgrounds the median, within the limits and what the structure of the
    offset explains.

    Parameters
    ----------
    measures
        By name of the limit.
    """
    limits = Limits(work.limits)
    labels = {(int(r["ccd"]), str(r["column"])) for r in table}
    channels = sorted(
        (ccd, quadrant, label) for ccd, label in labels for quadrant in work.detector.names
    )
    good = np.asarray(table["is_good"], bool)
    clean = good & ~_blemished(table)
    for ccd, quadrant, label in channels:
        here = np.asarray(
            (table["ccd"] == ccd) & (table["quadrant"] == quadrant) & (table["column"] == label)
        )
        where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant, "column": label}
        if not (here & good).any():
            work.results.flag(
                "STARS_MISSING", cause=f"CCD{ccd} {quadrant} {label}: no spot can be measured",
                severity="warning", **where,
            )  # fmt: skip
            continue
        counted = here & clean if (here & clean).any() else here & good
        for name, measure in measures.items():
            limit = limits.of(name, label) or measure.limit
            one = np.asarray(measure.values, float)[counted]
            if name == "background":
                limit = _widened(limit, float(np.median(table["structure"][here])))
                value = float(np.median(one))
            else:
                limit = as_open(limit, table[here]) if measure.is_light else limit
                value = _worst(one, limit)
            work.results.compliance(
                name, value, limit.low, limit.high, unit=measure.unit, flag=measure.flag, **where
            )
    _tell_lost(work, table)


def _blemished(table: Table) -> NDArray[np.bool_]:
    """Tell which spots are no stars alone: far worse fits than those of the same column.

    A hot pixel or column in the core of a spot, which its fit cannot leave out. Widths out of
    focus or a profile with wings make all spots of a column worse.
    """
    chi2, labels = np.asarray(table["chi2"], float), np.asarray(table["column"])
    good = np.asarray(table["is_good"], bool)
    found = np.zeros(len(table), bool)
    for label in np.unique(labels):
        here = (labels == label) & good
        if here.any():
            usual = max(float(np.nanmedian(chi2[here])), 1.0)
            found |= here & (chi2 > _BLEMISH_CHI2 * usual)
    return found


def _tell_lost(work: Work, table: Table) -> None:
    """Note spots that no frame shows or that lie on blemishes, and CCDs without any spot."""
    blemished = np.unique(
        [f"CCD{row['ccd']} {row['id']}" for row in table[_blemished(table)]]
    ).tolist()
    if blemished:
        work.results.note(f"on blemishes, not judged there: {', '.join(blemished)}")
    lost = []
    for ccd, name in sorted({(int(r["ccd"]), str(r["id"])) for r in table}):
        here = np.asarray((table["ccd"] == ccd) & (table["id"] == name))
        if not np.asarray(table["is_good"], bool)[here].any():
            lost.append(f"CCD{ccd} {name}")
    if lost:
        work.results.note(f"not measured on any frame: {', '.join(lost)}")
    for ccd in sorted(set(work.dataset.ccds) - {int(one) for one in table["ccd"]}):
        work.results.flag(
            "STARS_MISSING", cause=f"CCD{ccd}: it is not known where its spots are: the lock that "
            "is used has none of this CCD", ccd=ccd,
        )  # fmt: skip


def _widened(limit: Limit, by: float) -> Limit:
    low, high = limit.low, limit.high
    return Limit(None if low is None else low - by, None if high is None else high + by, limit.unit)


def as_open(limit: Limit, frames: Table) -> Limit:
    """Return a limit of light, which is of the commanded time, for the time it was open."""
    commanded = float(np.median(frames["exptime"]))
    part = float(np.median(frames["open_s"])) / commanded if commanded > 0 else 1.0
    low, high = (None if one is None else one * part for one in (limit.low, limit.high))
    return Limit(low, high, limit.unit)


def _worst(values: NDArray[Any], limit: Limit) -> float:
    """Return the value that is farthest outside of a limit, or nearest to its end."""
    low = -math.inf if limit.low is None else limit.low
    high = math.inf if limit.high is None else limit.high
    room = np.minimum(values - low, high - values)
    return float(values[int(np.argmin(np.nan_to_num(room, nan=-math.inf, posinf=1e300)))])
