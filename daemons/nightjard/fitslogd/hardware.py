# SPDX-License-Identifier: BSD-3-Clause
"""The camera's own frame numbers, from what the stream's keywords tell of them now and then.

HW-OFF is the hardware number minus cnt0, HW-FROM the first cnt0 for which that holds, HW-OFFP what
held before. The keywords are looked at ten times a second, and a camera that loses frames may
change them more often: what held in between is then unknown, and is said to be.
"""

from __future__ import annotations

from collections.abc import Mapping

from nightjar.fits.frame_table import Rows
from nightjar.streams.keywords import Keyword

_Span = tuple[int, int, int]  # first and last counter, offset


class HardwareNumbers:
    """Offsets of one stream file, as far as they are proven."""

    def __init__(self) -> None:
        self._spans: list[_Span] = []

    def note(self, keywords: Mapping[str, Keyword], newest: int) -> None:
        """Take note of keywords that were read after the frame `newest` had been published."""
        offset, since, before = (
            int(item.value) if item is not None and isinstance(item.value, int) else None
            for item in map(keywords.get, ("HW-OFF", "HW-FROM", "HW-OFFP"))
        )
        if offset is None:
            return
        first = since or 0
        last = self._spans[-1] if self._spans else None
        if last is not None and first < last[0]:
            self._spans, last = [], None  # its counter went back
        if last is not None and (first, offset) == (last[0], last[2]):
            self._spans[-1] = (first, max(last[1], newest), offset)
            return
        if last is not None and before == last[2]:
            self._spans[-1] = (last[0], first - 1, last[2])  # one change, and this is it
        elif last is not None and first <= last[1]:
            self._spans[-1] = (last[0], first - 1, last[2])
        self._spans.append((first, max(first, newest), offset))

    def fill(self, rows: Rows) -> None:
        """Write the numbers into a cube's rows; those that are not known stay as they are."""
        for first, last, offset in self._spans:
            chosen = (rows["CNT0"] >= first) & (rows["CNT0"] <= last)
            rows["HWID"][chosen] = rows["CNT0"][chosen].astype("i8") + offset

    def taken(self, counter: int) -> HardwareNumbers:
        """Return what is known now, and forget what holds for no frame behind that one."""
        told = HardwareNumbers()
        told._spans = self._spans
        self._spans = [span for span in told._spans[:-1] if span[1] > counter] + told._spans[-1:]
        return told
