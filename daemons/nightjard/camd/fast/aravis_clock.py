# SPDX-License-Identifier: BSD-3-Clause
"""A camera's own clock and frame numbers, brought to the host's: pure arithmetic."""

from __future__ import annotations

import math
from collections import deque

from nightjar.clock import NS_PER_S

_KEPT_S = 64
_ENOUGH_FOR_A_SLOPE = 5
_MOST_DRIFT = 5e-4  # 500 ppm: no oscillator is that bad; what looks so is a disturbance
_STEP_NS = NS_PER_S
_SHORT_IDS = 0xFFFF


class FrameNumbers:
    """Frame numbers of the camera, unwrapped and counted.

    GigE Vision numbers frames with 16 bits, 1 to 65535 and then 1 again (0 is no frame); its
    extended form and USB3 Vision have 64 bits.
    """

    def __init__(self, *, is_wide: bool = False) -> None:
        self._is_wide = is_wide
        self._raw: int | None = None
        self._number = 0
        self._unnumbered = 0

    def take(self, raw: int, *, is_whole: bool = True) -> tuple[int, int]:
        """Return (number, frames lost before it) of the next frame.

        The number counts up from the first one seen and does not wrap. A frame that is late, or
        comes again, has its number and lost nothing. Of an incomplete frame the part with the
        number may be missing (`raw` is 0 then): it is the next one until a whole one tells, and 0
        where no number was seen yet.
        """
        if not is_whole and raw == 0:
            if self._raw is None:
                return 0, 0
            self._unnumbered += 1
            return self._number + self._unnumbered, 0
        before, unnumbered = self._raw, self._unnumbered
        if before is None:
            self._raw = self._number = raw
            return raw, 0
        self._is_wide = self._is_wide or raw > _SHORT_IDS
        step = raw - before
        if step < 0:
            # 64 bits never wrap: such a camera began to count anew. A camera of 16 bits that
            # does count 0 has one number more.
            step = 1 if self._is_wide else step + _SHORT_IDS + (raw == 0)
            if step > _SHORT_IDS // 2:
                return self._number + step - _SHORT_IDS, 0
        self._raw, self._unnumbered = raw, 0
        self._number += step
        return self._number, max(0, step - 1 - unnumbered)


class CameraClock:
    """What the host's clock showed when the camera's showed so much, from arrivals of frames.

    An arrival is late by the camera's preparation, the cable, the network and the kernel, never
    early; so the true relation lies along the lower edge of (arrival - stamp) over time. The
    smallest difference of each second is kept for 64 s, and the line below them all that lies
    closest to them gives offset and drift. What even the fastest frame takes stays unknown.
    """

    def __init__(self) -> None:
        self._minima: deque[tuple[int, int, int]] = deque(maxlen=_KEPT_S)  # second, stamp, diff
        self._origin_ns = 0
        self._offset_ns = 0.0  # at the origin of the stamps
        self._drift = 0.0
        self.error_ns = 0.0
        self.resets = 0

    @property
    def drift_ppm(self) -> float:
        """How much faster the host's clock runs than the camera's."""
        return self._drift * 1e6

    def take(self, stamp_ns: int, arrival_ns: int) -> int:
        """Take a frame into account and return the host's time of its stamp.

        Parameters
        ----------
        stamp_ns
            By the camera's clock.
        arrival_ns
            By the host's clock (one that never steps), less what the camera must have waited
            between the stamp and the first packet.
        """
        difference = arrival_ns - stamp_ns
        excess = difference - self._difference_at(stamp_ns)
        if self._minima and abs(excess) > _STEP_NS:
            # One of the clocks was set.
            self._minima.clear()
            self.resets += 1
        second = arrival_ns // NS_PER_S
        if not self._minima or second != self._minima[-1][0]:
            self._minima.append((second, stamp_ns, difference))
            self._fit()
        elif difference < self._minima[-1][2]:
            self._minima[-1] = (second, stamp_ns, difference)
            if excess < 0:
                self._fit()
        return stamp_ns + round(self._difference_at(stamp_ns))

    def _difference_at(self, stamp_ns: int) -> float:
        return self._offset_ns + self._drift * (stamp_ns - self._origin_ns)

    def _fit(self) -> None:
        points = sorted((stamp, difference) for _, stamp, difference in self._minima)
        self._origin_ns = points[-1][0]
        if len(points) < _ENOUGH_FOR_A_SLOPE:
            self._drift = 0.0
            self._offset_ns = float(min(difference for _, difference in points))
        else:
            self._drift, self._offset_ns = _line_below(points, self._origin_ns)
        residuals = (difference - self._difference_at(stamp) for stamp, difference in points)
        self.error_ns = math.sqrt(sum(one * one for one in residuals) / len(points))


def _line_below(points: list[tuple[int, int]], origin: int) -> tuple[float, float]:
    """Return (slope, value at `origin`) of the closest line that no point lies under.

    It is the edge of the lower convex hull over the mean abscissa.
    """
    base = points[0][1]
    hull: list[tuple[int, int]] = []
    for x, y in ((x - origin, y - base) for x, y in points):
        while len(hull) > 1:
            (x1, y1), (x2, y2) = hull[-2:]
            if (x2 - x1) * (y - y1) > (y2 - y1) * (x - x1):
                break
            hull.pop()
        hull.append((x, y))
    mean = sum(x - origin for x, _ in points) / len(points)
    index = next(i for i in range(1, len(hull)) if hull[i][0] >= mean)
    (x1, y1), (x2, y2) = hull[index - 1 : index + 1]
    slope = (y2 - y1) / (x2 - x1) if x2 > x1 else 0.0
    slope = min(_MOST_DRIFT, max(-_MOST_DRIFT, slope))
    # Where the slope was limited the line goes as high as it can.
    value = min(y - slope * x for x, y in hull)
    return slope, base + value
