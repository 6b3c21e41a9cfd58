# SPDX-License-Identifier: BSD-3-Clause
"""Regions of a detector, and what a window and a binning leave of them: pure arithmetic.

Regions are 1-indexed, inclusive and unbinned, as in the FITS cards: ``[x1:x2,y1:y2]``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nightjar.errors import Code, InvalidArgument, Refused

_REGION = re.compile(r"\[(\d+):(\d+),(\d+):(\d+)\]\Z")


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of pixels, 1-indexed and inclusive."""

    x1: int
    x2: int
    y1: int
    y2: int

    def __post_init__(self) -> None:
        if self.x1 < 1 or self.y1 < 1 or self.x2 < self.x1 or self.y2 < self.y1:
            raise InvalidArgument(f"not a region (1-indexed, first <= last): {self}")

    def __str__(self) -> str:
        return f"[{self.x1}:{self.x2},{self.y1}:{self.y2}]"

    @property
    def width(self) -> int:
        """Columns."""
        return self.x2 - self.x1 + 1

    @property
    def height(self) -> int:
        """Rows."""
        return self.y2 - self.y1 + 1

    def contains(self, other: Region) -> bool:
        """Tell whether `other` lies wholly inside."""
        return (
            self.x1 <= other.x1 and other.x2 <= self.x2
            and self.y1 <= other.y1 and other.y2 <= self.y2
        )  # fmt: skip

    def intersection(self, other: Region) -> Region | None:
        """Return the common part, None where there is none."""
        x1, x2 = max(self.x1, other.x1), min(self.x2, other.x2)
        y1, y2 = max(self.y1, other.y1), min(self.y2, other.y2)
        return Region(x1, x2, y1, y2) if x1 <= x2 and y1 <= y2 else None

    def within(self, window: Region, binning: int = 1) -> Region | None:
        """Return this region in pixels of an image that shows `window` binned by `binning`.

        Only whole binned pixels that lie fully inside the region count.
        """
        part = self.intersection(window)
        if part is None:
            return None
        x1 = -(-(part.x1 - window.x1) // binning) + 1
        y1 = -(-(part.y1 - window.y1) // binning) + 1
        x2 = (part.x2 - window.x1 + 1) // binning
        y2 = (part.y2 - window.y1 + 1) // binning
        return Region(x1, x2, y1, y2) if x1 <= x2 and y1 <= y2 else None

    @classmethod
    def full(cls, width: int, height: int) -> Region:
        """Return the region of a whole frame."""
        return cls(1, width, 1, height)

    @classmethod
    def parse(cls, text: str) -> Region:
        """Return the region of ``[x1:x2,y1:y2]``.

        Raises
        ------
        InvalidArgument
            Not of that form.
        """
        match = _REGION.match(text.replace(" ", ""))
        if match is None:
            raise InvalidArgument(f"not a region of the form [x1:x2,y1:y2]: {text!r}")
        return cls(*(int(part) for part in match.groups()))


def check_window(window: Region, sensor: Region, binning: int) -> None:
    """Raise Refused unless `window` fits the sensor and holds whole binned pixels."""
    if not sensor.contains(window):
        raise Refused(
            f"window {window} extends outside the read-out {sensor}",
            code=Code.WINDOW_OUT_OF_BOUNDS, window=str(window), allowed=str(sensor),
        )  # fmt: skip
    if window.width % binning or window.height % binning:
        raise Refused(
            f"binning {binning} does not divide the {window.width} x {window.height} pixels of "
            f"window {window}; choose another window or binning",
            code=Code.BINNING_MISMATCH, window=str(window), binning=binning,
        )  # fmt: skip
