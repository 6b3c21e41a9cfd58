# SPDX-License-Identifier: BSD-3-Clause
"""How long the disk lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nightjar.times import NS_PER_DAY, iso
from nightjar.units import bytes_text

_SHORTEST_DAYS = 1.0


@dataclass(frozen=True)
class Forecast:
    """What is to be expected.

    Attributes
    ----------
    days_left
        Until only the reserve is left; None: nothing is known of the use.
    full_ns
        When that is, UTC.
    text
        For a person.
    """

    days_left: float | None
    full_ns: int | None
    text: str


def forecast(
    history: Sequence[tuple[int, int]], free_bytes: int, reserve_bytes: int, now_ns: int,
    window_days: float = 30.0,
) -> Forecast:  # fmt: skip
    """Say when the disk is full if observing goes on as in the last weeks.

    Parameters
    ----------
    history
        (time in ns UTC, bytes written) of each night.
    free_bytes, reserve_bytes
        Free now; what must stay free.
    now_ns
        UTC.
    window_days
        Older nights say little of the next ones.

    Notes
    -----
    Bytes of the window over its length: nights without observing count, as they will come again.
    A history shorter than the window is taken for its own length.
    """
    room = free_bytes - reserve_bytes
    if room <= 0:
        text = f"{bytes_text(free_bytes)} free, reserved are {bytes_text(reserve_bytes)}"
        return Forecast(0.0, now_ns, text)
    begin_ns = now_ns - round(window_days * NS_PER_DAY)
    recent = [(when, count) for when, count in history if begin_ns <= when <= now_ns and count > 0]
    if not recent:
        return Forecast(None, None, f"{bytes_text(free_bytes)} free; no night in the last weeks")
    first_ns = min(when for when, _ in history if when <= now_ns)
    days = max(_SHORTEST_DAYS, min(window_days, (now_ns - first_ns) / NS_PER_DAY))
    rate = sum(count for _, count in recent) / days
    left = room / rate
    full_ns = now_ns + round(min(left, 36500.0) * NS_PER_DAY)
    text = (
        f"{bytes_text(free_bytes)} free, {bytes_text(rate)} a day in the last {days:.0f} days: "
        f"{left:.0f} days left, until {iso(full_ns, 0)[:10]}"
    )
    return Forecast(left, full_ns, text)
