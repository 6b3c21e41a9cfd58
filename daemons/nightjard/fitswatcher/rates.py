# SPDX-License-Identifier: BSD-3-Clause
"""How fast files come into a folder, from their own times: true at the first look already."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from nightjar.times import NS_PER_S
from nightjard.fitswatcher.listing import Entry

_WINDOW_NS = 120 * NS_PER_S
_LONG_WINDOW_NS = 900 * NS_PER_S  # for files that come minutes apart
_ENOUGH = 3
_GROWTH_NS = 5 * NS_PER_S
_STOPPED_NS = 10 * NS_PER_S
_LEAST_SPAN_NS = 10 * NS_PER_S  # files that come in one go have no rate


@dataclass(frozen=True, slots=True)
class Rate:
    """What comes into a folder at present.

    Attributes
    ----------
    files_per_min, bytes_per_s
        Zero where nothing comes; None where that cannot be told yet.
    """

    files_per_min: float | None = None
    bytes_per_s: float | None = None


class Growth:
    """How fast each unfinished file grows, over the last seconds."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[tuple[int, int]]] = {}

    def note(self, entries: Iterable[Entry], monotonic_ns: int) -> None:
        """Take the present sizes; files that are gone are forgotten."""
        present = {entry.inode: entry for entry in entries}
        self._seen = {inode: seen for inode, seen in self._seen.items() if inode in present}
        for inode, entry in present.items():
            seen = self._seen.setdefault(inode, deque())
            if seen and entry.size < seen[-1][1]:
                seen.clear()
            seen.append((monotonic_ns, entry.size))
            while len(seen) > 2 and monotonic_ns - seen[1][0] >= _GROWTH_NS:
                seen.popleft()

    def bytes_per_s(self, entry: Entry) -> float | None:
        """Return the rate; None where the file was seen only once."""
        seen = self._seen.get(entry.inode)
        if not seen or seen[-1][0] <= seen[0][0]:
            return None
        return (seen[-1][1] - seen[0][1]) * NS_PER_S / (seen[-1][0] - seen[0][0])


class RateMeter:
    """The rate of a folder; files that were taken away again are counted, too."""

    def __init__(self) -> None:
        self._finished: dict[tuple[int, int], int] = {}

    def note(self, entries: Iterable[Entry], now_ns: int) -> None:
        """Take the finished files; only those of the last minutes count."""
        first_ns = now_ns - _LONG_WINDOW_NS
        for entry in entries:
            if entry.modified_ns > first_ns:
                self._finished[entry.modified_ns, entry.inode] = entry.size
        for key in [key for key in self._finished if key[0] <= first_ns]:
            del self._finished[key]

    def rate(self, unfinished_bytes: int, growth: float | None, now_ns: int) -> Rate:
        """Return the present rate.

        Parameters
        ----------
        unfinished_bytes
            Of the files being written.
        growth
            Bytes per second of these together; None where not known.
        now_ns
            The present time, UTC.
        """
        events = sorted((*key, size) for key, size in self._finished.items() if key[0] <= now_ns)
        recent = [event for event in events if event[0] > now_ns - _WINDOW_NS]
        if len(recent) >= _ENOUGH:
            events = recent
        # Files that lie minutes back say nothing about what is written now.
        alone = Rate(None, growth) if unfinished_bytes and growth != 0 else Rate(0.0, 0.0)
        if len(events) < 2:
            return alone
        first_ns, last_ns = events[0][0], events[-1][0]
        gap_ns = (last_ns - first_ns) / (len(events) - 1)
        if now_ns - last_ns > 3 * gap_ns + _STOPPED_NS:
            return alone
        count = len(events) - 1
        # The first file marks the beginning: its own bytes came before.
        total = sum(size for _, _, size in events[1:])
        span_ns = last_ns - first_ns
        if not gap_ns or now_ns - last_ns > 1.5 * gap_ns:  # the next file is late, or longer
            total += unfinished_bytes
            span_ns = max(now_ns - first_ns, _LEAST_SPAN_NS)
        return Rate(count * 60 * NS_PER_S / span_ns, total * NS_PER_S / span_ns)
