# SPDX-License-Identifier: BSD-3-Clause
"""When a sender of policy ``latest`` may send: even shares of a budget, and no bursts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nightjar.clock import NS_PER_S
from nightjar.units import bytes_text

_GRACE_NS = 2_000_000
HEADROOM = 1 - _GRACE_NS / NS_PER_S
_LATE = 0.4  # a frame that is later than this part of the period moves the beat: the next one
# is never nearer than the rest


@dataclass(frozen=True, slots=True)
class Demand:
    """What a stream would take.

    Attributes
    ----------
    octets
        Of one message on the wire, to all receivers together.
    wanted
        Frames per second asked for.
    offered
        Frames per second that the source gives; None while that is not known.
    """

    octets: int
    wanted: float
    offered: float | None = None

    @property
    def rate(self) -> float:
        """Frames per second without a budget."""
        return self.wanted if self.offered is None else min(self.wanted, self.offered)


def shares(demands: Sequence[Demand], octets_per_s: float) -> list[float]:
    """Return the frames per second of each stream within a budget.

    The rates that were asked for fall by one common factor until they fit. What a slow source
    leaves of its share goes to the others.
    """
    if sum(one.rate * one.octets for one in demands) <= octets_per_s:
        return [one.wanted for one in demands]
    factor = _factor(demands, octets_per_s)
    return [one.wanted * factor for one in demands]


def _factor(demands: Sequence[Demand], octets_per_s: float) -> float:
    """Return f with sum(min(f * wanted, rate) * octets) = budget: streams drop out as f grows."""
    # Sorted by the factor at which a source gives no more.
    order = sorted(demands, key=lambda one: one.rate / one.wanted)
    left = octets_per_s
    open_octets = sum(one.wanted * one.octets for one in demands)
    for one in order:
        limit = one.rate / one.wanted
        if open_octets > 0 and limit * open_octets >= left:
            break
        left -= one.rate * one.octets
        open_octets -= one.wanted * one.octets
    return left / open_octets if open_octets > 0 else 1.0


def explanation(
    name: str, demands: Sequence[Demand], index: int, rate: float, budget: float, receivers: int
) -> str:
    """Return why a stream is slower than asked for; "" where it is not."""
    mine = demands[index]
    if rate >= mine.wanted * 0.999:
        return ""
    sizes = sorted({bytes_text(one.octets / max(1, receivers)) for one in demands})
    count = f"{len(demands)} streams" if len(demands) > 1 else "1 stream"
    to = f" to {receivers} receivers" if receivers > 1 else ""
    return (
        f"{name} {mine.wanted:g} -> {rate:.1f} frames/s: {count} of {', '.join(sizes)}{to} "
        f"exceed {budget:g} Mbit/s"
    )


class Bucket:
    """Never lets more pass in any second, or longer span, than the budget and one message.

    A message that was sent up to 2 ms late does not delay those after it, or the rate would always
    fall short of the budget. What that could add to a second is taken off the budget.

    Parameters
    ----------
    octets_per_s
        The budget.
    now_ns
        Monotonic time.
    """

    def __init__(self, octets_per_s: float, now_ns: int) -> None:
        self._octets_per_s = octets_per_s * HEADROOM
        self._free_ns = now_ns  # when all that was sent is paid for

    def set_rate(self, octets_per_s: float, now_ns: int) -> None:
        """Change the budget; what was sent before stays a debt."""
        octets_per_s *= HEADROOM
        debt_ns = max(0, self._free_ns - now_ns)
        if octets_per_s != self._octets_per_s:
            self._free_ns = now_ns + round(debt_ns * self._octets_per_s / octets_per_s)
            self._octets_per_s = octets_per_s

    def free_ns(self) -> int:
        """Return from when on the next message may be sent."""
        return self._free_ns

    def take(self, octets: int, now_ns: int) -> None:
        """Pay for a message that is sent now."""
        cost_ns = round(octets * NS_PER_S / self._octets_per_s)
        self._free_ns = max(now_ns - _GRACE_NS, self._free_ns) + cost_ns


class Beat:
    """The times at which one stream is due: evenly, and after a stall from the present on."""

    def __init__(self, now_ns: int) -> None:
        self.due_ns = now_ns
        self.period_ns = 0

    def set_rate(self, rate: float) -> None:
        """Change frames per second, from the next one on."""
        period_ns = round(NS_PER_S / rate)
        if self.period_ns and period_ns != self.period_ns:
            self.due_ns += period_ns - self.period_ns
        self.period_ns = period_ns

    def sent(self, now_ns: int) -> None:
        """A frame was sent: the next is due a period later."""
        late_ns = now_ns - self.due_ns
        if abs(late_ns) > self.period_ns * _LATE:
            self.due_ns = now_ns
        self.due_ns += self.period_ns
