# SPDX-License-Identifier: BSD-3-Clause
"""Limits of a test: what its columns, its campaign and these defaults say about a measure.

Names that the common check knows:

===================  ======  ==================================================================
``offset_deviation``  ADU    offset of a sector less the expected one of the quadrant
``offset_gradient``   ADU    offset of overscan (in biases of the image, too) less the prescan's
``std``               ADU    deviation of prescan and overscan (in biases of the image, too)
``saturated_fraction``       part of the pixels of a CCD at the top of the converter
``lost_pixels``       px     pixels without a value within the rows that were read
===================  ======  ==================================================================

``std_pre``, ``offset_deviation_ove``, ``offset_gradient_img`` ... go before the general names. A
limit is ``[low, high]``, ``[low, high, unit]`` or ``{"low": ..., "high": ...}``; null takes it
away. Limits of single columns stand under ``columns``: ``{"columns": {"col002": {"limits":
{"fluence": [100, 200]}, "exempt": true}}}``; exempt columns saturate by design.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

DEFAULTS: dict[str, tuple[float | None, float | None, str]] = {
    "offset_deviation": (-50.0, 50.0, "ADU"),
    "offset_gradient": (-10.0, 10.0, "ADU"),
    "std": (0.86, 1.44, "ADU"),
    "saturated_fraction": (0.0, 0.1, ""),
    "lost_pixels": (0.0, 0.0, "px"),
}


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
        self._given = given
        columns = given.get("columns", {})
        if not isinstance(columns, Mapping):  # a list, in order
            columns = {f"col{number:03d}": one for number, one in enumerate(columns, start=1)}
        self._columns: dict[str, Mapping[str, Any]] = {
            label: one if isinstance(one, Mapping) else {} for label, one in columns.items()
        }

    def of(self, name: str, label: str = "") -> Limit | None:
        """Return the limit of a measure, in a column of that label; None where there is none.

        ``name`` may end in ``_pre``, ``_ove`` or ``_img``: the general name is tried then.
        """
        general = name.rsplit("_", 1)[0] if name[-4:] in ("_pre", "_ove", "_img") else name
        column = self._columns.get(label, {})
        for place in (column.get("limits", column), self._given):
            for key in dict.fromkeys((name, general)):
                if key in place:
                    return _limit(place[key])
        default = DEFAULTS.get(name, DEFAULTS.get(general))
        return None if default is None else Limit(*default)

    def is_exempt(self, label: str) -> bool:
        """Tell whether a column saturates by design."""
        given = self._given.get("exempt", ())
        return label in given or bool(self._columns.get(label, {}).get("exempt", False))


def _limit(rule: Any) -> Limit | None:
    if rule is None:
        return None
    if isinstance(rule, Mapping):
        return Limit(rule.get("low"), rule.get("high"), str(rule.get("unit", "")))
    low, high, *unit = rule
    return Limit(low, high, str(unit[0]) if unit else "")
