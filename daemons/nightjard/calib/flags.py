# SPDX-License-Identifier: BSD-3-Clause
"""What can be wrong with a test: names as data analysts know them, each with a severity.

Names and bits are those of the flag word that earlier campaigns recorded, so that theirs can be
compared with ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class FlagKind:
    """A kind of fault: bit of the flag word, usual severity, meaning."""

    bit: int
    severity: Severity
    meaning: str


FLAGS: dict[str, FlagKind] = {
    "MISSDATA": FlagKind(0, "error", "what was acquired differs from the script"),
    "POORQUALDATA": FlagKind(1, "warning", "a measure of quality is out of its limits"),
    "BADDATA": FlagKind(2, "error", "frames that cannot be used"),
    "WRONGTEST": FlagKind(3, "error", "the data are of another test"),
    "WRONG_ROE_CONF": FlagKind(4, "error", "the read-out electronics were set otherwise"),
    "SOURCEON": FlagKind(5, "error", "light where none was wanted"),
    "SOURCEOFF": FlagKind(6, "error", "no light where some was wanted"),
    "WRONGSOURCE": FlagKind(7, "error", "another source than wanted"),
    "HK_OOL": FlagKind(8, "warning", "housekeeping out of limits"),
    "CCDTEMP_OOL": FlagKind(9, "error", "temperature of a CCD out of limits"),
    "UNDERPERFORM": FlagKind(10, "warning", "worse than expected"),
    "REQNOTMET": FlagKind(11, "error", "a requirement is not met"),
    "BADDATAPROD": FlagKind(12, "error", "a data product could not be made"),
    "DEADCCD": FlagKind(13, "error", "a CCD gives no signal"),
    "DEADQUAD": FlagKind(14, "error", "a quadrant gives no signal"),
    "LOWMEMORY": FlagKind(15, "warning", "memory ran short"),
    "TOOSLOW": FlagKind(16, "info", "took longer than expected"),
    "UNKNOWN": FlagKind(17, "error", "the test could not be processed"),
    "RON_OOL": FlagKind(18, "warning", "read noise out of limits"),
    "FLUENCE_OOL": FlagKind(19, "warning", "fluence out of limits"),
    "FLUENCEGRAD_OOL": FlagKind(20, "warning", "gradient of the fluence out of limits"),
    "FOCUS_OOL": FlagKind(21, "warning", "width of the spots out of limits"),
    "BGD_OOL": FlagKind(22, "warning", "background out of limits"),
    "CCDSATUR": FlagKind(23, "warning", "saturated where it should not be"),
    "FLUX_OOL": FlagKind(24, "warning", "time to saturation differs from the chamber profile"),
    "STARS_MISSING": FlagKind(25, "error", "the spots were not found"),
    "SUBTASKCRASH": FlagKind(26, "error", "a sub-task failed"),
    "BADFIT": FlagKind(27, "warning", "a fit is not to be trusted"),
    "SATURATION": FlagKind(28, "warning", "too many saturated pixels"),
    "LOSTPIXELS": FlagKind(29, "error", "pixels without a value inside the rows that were read"),
    "NONSATURATION": FlagKind(30, "warning", "did not saturate where it should"),
    "OFFSET_OOL": FlagKind(31, "warning", "offset of a quadrant out of limits"),
    "STUCKBIT": FlagKind(32, "error", "a bit of the converter does not change"),
}


@dataclass(frozen=True)
class Flag:
    """A fault that was found: its name, severity, cause in words, the measure behind it.

    Attributes
    ----------
    metric, value, low, high
        The measure that raised it and its limits, where there is one.
    where
        CCD, quadrant, column, OBSID ... of the first that raised it.
    count
        How many did.
    others
        Further causes that differ, the first of them.
    """

    name: str
    severity: Severity
    cause: str
    subtask: str = ""
    metric: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    where: dict[str, Any] = field(default_factory=dict)
    count: int = 1
    waiver: str = ""
    others: tuple[str, ...] = ()


SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
_OTHERS = 24


def joined(old: Flag, new: Flag) -> Flag:
    """Return a flag that was raised again: the worse cause first, both counted.

    Of causes that differ the first 24 are kept beside it.
    """
    is_worse = SEVERITIES.index(new.severity) > SEVERITIES.index(old.severity)
    first, second = (new, old) if is_worse else (old, new)
    others = list(old.others)
    if second.cause not in (first.cause, *others):
        others.append(second.cause)
    return replace(
        first, count=old.count + new.count,
        others=tuple(one for one in others if one != first.cause)[:_OTHERS],
    )  # fmt: skip


def place_text(where: Mapping[str, Any]) -> str:
    """Return where something is, as people say it: ``CCD1 E col001, OBSID 1001``."""
    names = {"quadrant": "{}", "column": "{}", "spot": "{}", "obsid": "OBSID {}",
             "frames_outside": "worst of {} frames"}  # fmt: skip
    head = [f"CCD{where['ccd']}"] if "ccd" in where else []
    tail: list[str] = []
    for key, value in where.items():
        if key == "frames_outside" and value == 1:
            continue
        text = names.get(key, key.replace("_", " ") + " {}").format(value)
        if key in ("quadrant", "column", "spot"):
            head.append(text)
        elif key != "ccd":
            tail.append(text)
    return ", ".join([*([" ".join(head)] if head else []), *tail])


def flag_word(names: list[str]) -> int:
    """Return the bits of flags as one number.

    Raises
    ------
    KeyError
        There is no flag of that name.
    """
    word = 0
    for name in names:
        word |= 1 << FLAGS[name].bit
    return word
