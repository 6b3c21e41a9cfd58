# SPDX-License-Identifier: BSD-3-Clause
"""Limits of a test: what its columns, its campaign and these defaults say about a measure.

Names that the common check knows:

===================  ======  ==================================================================
``offset_deviation``  ADU    offset of a sector less the expected one of the quadrant
``offset_gradient``   ADU    offset of overscan (in biases of the image, too) less the prescan's
``offset_jump``       ADU    offset of the prescan less that of the frame before
``std``               ADU    noise of prescan and overscan (in biases of the image, too), from
                             the steps between neighbouring rows: without the offset's course
``saturated_fraction``       part of the pixels of a CCD at the top of the converter
``lost_pixels``       px     pixels without a value within the rows that were read
``ccd_temperature``   C      housekeeping: at what the CCDs should be, where not at -120
===================  ======  ==================================================================

``std_pre``, ``offset_deviation_ove``, ``offset_gradient_img`` ... go before the general names. A
limit is ``[low, high]``, ``[low, high, unit]`` or ``{"low": ..., "high": ...}``; null takes it
away. What the catalogue says stands under ``columns``, what a campaign replaces under
``overrides``: ``{"columns": {"col002": {"limits": {"fluence": [100, 200]}, "is_exempt": true}},
"overrides": {"std": [0.8, 1.6]}}``. Exempt columns saturate by design. What the catalogue does
not judge in a column stays so where a campaign replaces the limit of the whole test.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

DEFAULTS: dict[str, tuple[float | None, float | None, str]] = {
    "offset_deviation": (-50.0, 50.0, "ADU"),
    "offset_gradient": (-10.0, 10.0, "ADU"),
    "offset_jump": (-10.0, 10.0, "ADU"),
    "std": (0.86, 1.44, "ADU"),
    "saturated_fraction": (0.0, 0.1, ""),
    "lost_pixels": (0.0, 0.0, "px"),
}


#: Further measures: those of which the catalogue has the limits.
OF_TESTS = (
    "background", "ccd_temperature", "exposed_fraction", "fluence", "fwhm", "injection",
    "injection_std", "saturation_s", "spot_fluence", "spot_peak_at_2.5px",
)  # fmt: skip
_COLUMN = re.compile(r"col\d{3}\Z")


class Limit(NamedTuple):
    """Between what a measure must lie, both ends included; None is no limit."""

    low: float | None
    high: float | None
    unit: str = ""


class Limits:
    """Looks up limits: of the column, else of the test, else the default.

    Parameters
    ----------
    given
        ``work.limits``.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        columns = given.get("columns", {})
        self._columns: dict[str, Mapping[str, Any]] = dict(columns)
        self._given = given
        overrides: Mapping[str, Any] = given.get("overrides", {})
        self._overrides = overrides
        self._own: Mapping[str, Any] = overrides.get("columns", {})

    def of(self, name: str, label: str = "") -> Limit | None:
        """Return the limit of a measure, in a column of that label; None where there is none.

        ``name`` may end in ``_pre``, ``_ove`` or ``_img``: the general name is tried then. Without
        a label it is that of the first column that has one.
        """
        general = name.rsplit("_", 1)[0] if name[-4:] in ("_pre", "_ove", "_img") else name
        names = tuple(dict.fromkeys((name, general)))
        columns = [self._columns.get(label, {})] if label else list(self._columns.values())
        catalogue = [one.get("limits", {}) for one in columns]
        own = self._own.get(label, {})
        if label and not any(key in own for key in names):
            if any(key in one and one[key] is None for one in catalogue for key in names):
                return None
        for place in (own, self._overrides, *catalogue, self._given):
            for key in names:
                if key in place:
                    return _limit(place[key])
        default = DEFAULTS.get(name, DEFAULTS.get(general))
        return None if default is None else Limit(*default)

    def is_exempt(self, label: str) -> bool:
        """Tell whether a column saturates by design."""
        column = self._columns.get(label, {})
        return bool(self._own.get(label, {}).get("is_exempt", column.get("is_exempt", False)))


def fault_of(overrides: Mapping[str, Any]) -> tuple[str, str]:
    """Return what is wrong with the limits that a campaign sets for a test: key, what; else empty.

    A limit that is misspelt would be no limit at all.
    """
    for key, rule in overrides.items():
        if key != "columns":
            if fault := _fault_of_rule(key, rule):
                return key, fault
            continue
        if not isinstance(rule, Mapping):
            return key, "must be an object: col002 -> limits, is_exempt"
        for label, column in rule.items():
            where = f"columns.{label}"
            if not _COLUMN.match(label) or not isinstance(column, Mapping):
                return where, "must be a column such as col002 with limits, is_exempt"
            for name, limit in column.items():
                if name == "is_exempt" and isinstance(limit, bool):
                    continue
                if fault := _fault_of_rule(name, limit):
                    return f"{where}.{name}", fault
    return "", ""


def _fault_of_rule(name: str, rule: Any) -> str:
    general = name.rsplit("_", 1)[0] if name[-4:] in ("_pre", "_ove", "_img") else name
    if general not in (*DEFAULTS, *OF_TESTS):
        near = difflib.get_close_matches(general, [*DEFAULTS, *OF_TESTS], 2, 0.5)
        there = f"did you mean {' or '.join(near)}?" if near else "there are: " + ", ".join(
            [*DEFAULTS, *OF_TESTS]
        )
        return f"no measure of that name is judged; {there}"
    form = "must be [low, high], [low, high, unit] or null, with null for an end that is open"
    ends: list[Any]
    if rule is None:
        return ""
    if isinstance(rule, Mapping):
        if set(rule) - {"low", "high", "unit"}:
            return form
        ends = [rule.get("low"), rule.get("high")]
    elif isinstance(rule, list) and 2 <= len(rule) <= 3:
        ends = rule[:2]
    else:
        return form
    if any(isinstance(end, bool) or not isinstance(end, int | float | None) for end in ends):
        return form
    low, high = ends
    if low is not None and high is not None and not low <= high:
        return f"the low end {low} is above the high end {high}"
    return ""


def _limit(rule: Any) -> Limit | None:
    if rule is None:
        return None
    if isinstance(rule, Mapping):
        return Limit(rule.get("low"), rule.get("high"), str(rule.get("unit", "")))
    low, high, *unit = rule
    return Limit(low, high, str(unit[0]) if unit else "")
