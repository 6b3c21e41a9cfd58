# SPDX-License-Identifier: BSD-3-Clause
"""The refusal of a value that a device does not take."""

from __future__ import annotations

from nightjar.errors import Code, Refused
from nightjard.camd.drivers.base import Range


def check_range(name: str, value: float, limits: Range | None) -> None:
    """Raise Refused unless the device has that setting and takes the value; nan it never takes."""
    if limits is None:
        raise Refused(f"this camera has no {name} to set", code=Code.UNSUPPORTED)
    if not limits.low <= value <= limits.high:
        raise Refused(
            f"{name} {value:g} is outside of {limits.low:g} .. {limits.high:g}",
            code=Code.OUT_OF_RANGE, low=limits.low, high=limits.high,
        )  # fmt: skip
