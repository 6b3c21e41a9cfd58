# SPDX-License-Identifier: BSD-3-Clause
"""Angles, byte sizes and bounded numbers."""

from __future__ import annotations

import math


def wrap_360(angle_deg: float) -> float:
    """Return the angle in [0, 360)."""
    wrapped = math.fmod(angle_deg, 360.0)
    if wrapped < 0:
        wrapped += 360.0
    return 0.0 if wrapped >= 360.0 else wrapped


def wrap_180(angle_deg: float) -> float:
    """Return the angle in [-180, 180)."""
    return wrap_360(angle_deg + 180.0) - 180.0


def clamp(value: float, low: float, high: float) -> float:
    """Return `value` moved into [low, high]."""
    return max(low, min(high, value))


def bytes_text(count: float) -> str:
    """Return a byte count in decimal units: ``123.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < (999.5 if unit == "B" else 999.95):  # else it rounds up to 1000
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
