# SPDX-License-Identifier: BSD-3-Clause
"""Numbers and texts as people read them."""

from __future__ import annotations

import math
import re
from typing import Any

CELL_LENGTH = 700
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")


def number(value: Any, error: Any = None) -> str:
    """Return a value with its error, rounded to what the error allows."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(number(one) for one in value)
    if isinstance(value, dict):
        known = {key: one for key, one in value.items() if one is not None}
        return "; ".join(f"{key}: {number(one)}" for key, one in known.items()) or "-"
    if isinstance(value, int) or not isinstance(value, float):
        return str(value)
    if isinstance(error, (int, float)) and 0 < error < math.inf:
        # Two digits of the error, one where it begins with 2 or more.
        digits = -math.floor(math.log10(error)) + (1 if _leading(error) < 2 else 0)
        if digits <= 6 and abs(value) < 1e7:
            return f"{value:.{max(digits, 0)}f} ± {error:.{max(digits, 0)}f}"
        power = math.floor(math.log10(max(abs(value), error)))
        digits = max(digits + power, 0)
        scaled, left = value / 10.0**power, error / 10.0**power
        return f"({scaled:.{digits}f} ± {left:.{digits}f})e{power}"
    return f"{value:.5g}" if abs(value) < 1e5 or abs(value) >= 1e7 else f"{value:.0f}"


def _leading(value: float) -> float:
    return value / 10.0 ** math.floor(math.log10(value))


def cell(value: Any) -> str:
    """Return a value of a table."""
    import numpy as np

    if value is None or np.ma.is_masked(value):
        return "-"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return "-" if math.isnan(value) else number(float(value))
    return str(value)


def cleaned(text: str) -> str:
    """Return a text that can be written: what is no character shows as its code."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def shortened(text: str, length: int = CELL_LENGTH) -> str:
    """Return a text that fits into a cell: a cell is not continued on the next page."""
    return text if len(text) <= length else text[: length - 2].rstrip() + " …"


def counted(count: int, one: str, many: str = "") -> str:
    """Return ``1 error``, ``2 errors``."""
    return f"{count} {one if count == 1 else many or one + 's'}"
