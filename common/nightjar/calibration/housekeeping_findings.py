# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong with housekeeping, told in words and as plain values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from nightjar.calibration.housekeeping_limits import HkLimits, Level

Kind = Literal[
    "mean", "limit", "spike", "gap", "stale", "stuck", "stuck_bit", "rate", "missing", "unreadable"
]


@dataclass(frozen=True, slots=True)
class HkFinding:
    """Something wrong with housekeeping.

    Attributes
    ----------
    kind
        ``mean`` and ``limit``: out of limits, of the exposure and of rows; the others as named.
    parameter
        Empty where it is about all of them.
    level
        P or S of limits, else empty.
    severity
        0 told, 1 e-mail, 2 e-mail and SMS.
    value, low, high
        The value and its limits, where there are any.
    utc_ns
        When it began.
    is_over
        It had been told, and is over.
    """

    kind: Kind
    parameter: str
    text: str
    level: Level | Literal[""] = ""
    severity: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    utc_ns: int | None = None
    obsid: int | None = None
    is_over: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def out_of_limits(
    kind: Kind, limits: HkLimits, name: str, level: Level, value: float, low: float, high: float,
    *, utc_ns: int | None = None, is_over: bool = False,
) -> HkFinding:  # fmt: skip
    """Return the finding that a value is out of a limit, or back in it."""
    parameter = limits.parameters[name]
    unit = f" {parameter.unit}" if parameter.unit else ""
    what = "mean " if kind == "mean" else ""
    if parameter.is_equality(level):
        bits = int(value) ^ int(low)
        text = f"{name} {value:g} must be {low:g}; bits that differ: {bits:#x}"
    else:
        text = f"{name} {what}{value:.3f}{unit}, limits {level} {low:g} to {high:g}"
    if is_over:
        text = f"{name} is back: {value:.3f}{unit}"
    severity = parameter.severity[0 if value <= low else 1] if level == "S" else 0
    return HkFinding(kind, name, text, level, severity, value, low, high, utc_ns, is_over=is_over)
