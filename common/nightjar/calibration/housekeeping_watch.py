# SPDX-License-Identifier: BSD-3-Clause
"""Judges rows of housekeeping in order of time: what begins and what is over, each told once."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.housekeeping_findings import HkFinding, out_of_limits
from nightjar.calibration.housekeeping_limits import LEVELS, HkLimits, Level
from nightjar.times import NS_PER_S, iso

_RATE_NS = 60 * NS_PER_S
_RATE_EVERY = 5
_BIT_ROWS = 22
"""Rows after which a bit that never changed is stuck: by chance once in 2**21."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class HkWatch:
    """Judges rows as they come.

    A row is judged when the next has come: a single row that is off is a spike, not an excursion.

    Parameters
    ----------
    limits
        Of the version.
    names
        Parameters in the order of the rows; those without limits are not judged.
    levels
        Which sets are judged.
    """

    def __init__(
        self, limits: HkLimits, names: tuple[str, ...], levels: tuple[Level, ...] = LEVELS
    ) -> None:
        self.limits = limits
        self.levels = levels
        self._take = [i for i, name in enumerate(names) if name in limits.parameters]
        self._names = [names[i] for i in self._take]
        self._parameters = [limits.parameters[name] for name in self._names]
        count = len(self._names)
        self._spike = self._array("spike", np.inf)
        self._stuck_rows = self._array("stuck_rows", np.inf)
        self._rate = self._array("rate_per_min", np.inf)
        self._lsb = self._array("lsb", np.nan)
        self._persistence = self._array("persistence_s", 0.0) * NS_PER_S
        self._hysteresis = self._array("hysteresis", 0.0)
        self._low = np.full((len(levels), count), -np.inf)
        self._high = np.full((len(levels), count), np.inf)
        self._is_equality = np.array(
            [[p.is_equality(level) for p in self._parameters] for level in levels], bool
        ).reshape(len(levels), count)
        self._since = np.full((len(levels), count), -1, np.int64)
        self._in_since = np.full((len(levels), count), -1, np.int64)
        self._is_out = np.zeros((len(levels), count), bool)
        self._equal = np.ones(count)
        self._is_stuck = np.zeros(count, bool)
        self._is_fast = np.zeros(count, bool)
        self._rows: deque[tuple[int, Floats]] = deque(maxlen=3)
        self._minute: deque[tuple[int, Floats]] = deque()
        self._bits: list[NDArray[np.int64]] = []
        self._is_bit_told = np.zeros(count, bool)
        self._fed = 0
        self._frozen = 0
        self._is_stale = False
        self.command({})

    def _array(self, attribute: str, default: float) -> Floats:
        values = [getattr(parameter, attribute) for parameter in self._parameters]
        return np.array([default if value is None else value for value in values], float)

    def command(self, commanded: Mapping[str, float]) -> None:
        """Tell what is commanded from now on; relative limits without a command judge nothing."""
        for row, level in enumerate(self.levels):
            for column, parameter in enumerate(self._parameters):
                window = parameter.window(level, commanded)
                self._low[row, column], self._high[row, column] = window or (-np.inf, np.inf)
        self._bits.clear()

    # --- rows ---

    def feed(self, utc_ns: int, row: Floats) -> list[HkFinding]:
        """Take a row, in the order of the names; return what began and what is over."""
        values = np.asarray(row, float)[self._take]
        found: list[HkFinding] = []
        if self._rows:
            last_ns, last = self._rows[-1]
            if utc_ns <= last_ns:
                return self._not_newer(utc_ns)
            found += self._gap(last_ns, utc_ns)
            found += self._freeze(utc_ns, values, last)
        spikes = self._spikes(values)
        if self._rows:
            found += self._tell_spikes(spikes)
            found += self._limits(*self._rows[-1], ~spikes)
        self._rows.append((utc_ns, values))
        found += self._stuck(utc_ns)
        found += self._stuck_bits(utc_ns, values)
        found += self._rates(utc_ns, values)
        return found

    def tick(self, now_ns: int) -> list[HkFinding]:
        """Tell, while no row comes, that there is none; call it about once a second."""
        if not self._rows or self._is_stale:
            return []
        age_s = (now_ns - self._rows[-1][0]) / NS_PER_S
        if age_s <= self.limits.stale_s:
            return []
        return [self._stale(self._rows[-1][0], f"no housekeeping for {age_s:.0f} s")]

    def finish(self) -> list[HkFinding]:
        """Judge the last row, after which no other comes."""
        if not self._rows:
            return []
        return self._limits(*self._rows[-1], np.ones(len(self._names), bool))

    # --- the rules ---

    def _not_newer(self, utc_ns: int) -> list[HkFinding]:
        self._frozen += 1
        if self._is_stale or self._frozen * self.limits.period_s <= self.limits.stale_s:
            return []
        return [self._stale(utc_ns, f"the time has stood at {iso(utc_ns, 0)} for "
                            f"{self._frozen} rows")]  # fmt: skip

    def _freeze(self, utc_ns: int, values: Floats, last: Floats) -> list[HkFinding]:
        """Tell of rows that go on in time while no value of any parameter changes."""
        # Flags and counters never change; what has noise is what can be stuck.
        noisy = np.isfinite(self._stuck_rows)
        if noisy.any() and np.array_equal(values[noisy], last[noisy], equal_nan=True):
            self._frozen += 1
            if not self._is_stale and self._frozen * self.limits.period_s > self.limits.stale_s:
                text = f"no value has changed for {self._frozen} rows"
                return [self._stale(self._rows[-1][0], text)]
            return []
        self._frozen = 0
        if self._is_stale:
            self._is_stale = False
            return [HkFinding("stale", "", "new values come again", utc_ns=utc_ns, is_over=True)]
        return []

    def _stale(self, utc_ns: int, text: str) -> HkFinding:
        self._is_stale = True
        return HkFinding("stale", "", text, severity=1, utc_ns=utc_ns)

    def _gap(self, last_ns: int, utc_ns: int) -> list[HkFinding]:
        seconds = (utc_ns - last_ns) / NS_PER_S
        if seconds <= self.limits.gap_s:
            return []
        text = f"no rows for {seconds:.0f} s after {iso(last_ns, 0)}"
        return [HkFinding("gap", "", text, value=seconds, utc_ns=last_ns)]

    def _spikes(self, values: Floats) -> Flags:
        """Return which parameters of the last row stand apart from the rows around it."""
        if len(self._rows) < 2:
            return np.zeros(len(values), bool)
        before, middle = self._rows[-2][1], self._rows[-1][1]
        with np.errstate(invalid="ignore"):
            up, down = middle - before, middle - values
            return (
                (np.abs(up) > self._spike)
                & (np.abs(down) > self._spike)
                & (up * down > 0)
                & (np.abs(values - before) < self._spike)
            )

    def _tell_spikes(self, spikes: Flags) -> list[HkFinding]:
        found = []
        for at in np.flatnonzero(spikes):
            value, usual = float(self._rows[-1][1][at]), float(self._rows[-2][1][at])
            text = f"{self._of(at, value)} in one row, {usual:g} before"
            found.append(
                HkFinding("spike", self._names[at], text, value=value, utc_ns=self._rows[-1][0])
            )
        return found

    def _limits(self, utc_ns: int, values: Floats, valid: Flags) -> list[HkFinding]:
        with np.errstate(invalid="ignore"):
            out = np.where(
                self._is_equality,
                values != self._low,
                (values <= self._low) | (values >= self._high),
            ) & (valid & np.isfinite(values))
            back = np.where(
                self._is_equality,
                values == self._low,
                (values > self._low + self._hysteresis) & (values < self._high - self._hysteresis),
            ) & valid  # fmt: skip
        if not out.any() and not self._is_out.any():
            self._since[:] = -1
            return []
        self._since = np.where(out, np.where(self._since < 0, utc_ns, self._since), -1)
        self._in_since = np.where(back, np.where(self._in_since < 0, utc_ns, self._in_since), -1)
        begins = out & ~self._is_out & (utc_ns - self._since >= self._persistence)
        ends = back & self._is_out & (utc_ns - self._in_since >= self._persistence)
        self._is_out = (self._is_out | begins) & ~ends
        for marks in (begins, ends):
            marks[:-1] &= ~marks[-1]  # out of S as well: that says it
        return [
            self._excursion(row, column, float(values[column]), utc_ns, is_over=bool(over))
            for marks, over in ((begins, False), (ends, True))
            for row, column in zip(*np.nonzero(marks), strict=True)
        ]

    def _excursion(
        self, row: int, column: int, value: float, utc_ns: int, *, is_over: bool
    ) -> HkFinding:
        level = self.levels[row]
        low, high = float(self._low[row, column]), float(self._high[row, column])
        began = utc_ns if is_over else int(self._since[row, column])
        return out_of_limits("limit", self.limits, self._names[column], level, value, low, high,
                              utc_ns=began, is_over=is_over)  # fmt: skip

    def _stuck(self, utc_ns: int) -> list[HkFinding]:
        if len(self._rows) < 2:
            return []
        same = self._rows[-1][1] == self._rows[-2][1]
        self._equal = np.where(same, self._equal + 1, 1)
        self._is_stuck &= same
        if self._frozen:
            return []  # everything is: told as stale
        new = (self._equal >= self._stuck_rows) & ~self._is_stuck
        self._is_stuck |= new
        return [
            HkFinding(
                "stuck", self._names[at],
                f"{self._of(at, float(self._rows[-1][1][at]))} in {int(self._equal[at])} rows, "
                "without any noise",
                value=float(self._rows[-1][1][at]), utc_ns=utc_ns,
            )
            for at in np.flatnonzero(new)
        ]  # fmt: skip

    def _stuck_bits(self, utc_ns: int, values: Floats) -> list[HkFinding]:
        """Tell of bits below the noise that never change."""
        steps = values / self._lsb
        self._bits.append(np.where(np.isfinite(steps), np.rint(steps), 0).astype(np.int64))
        if len(self._bits) < _BIT_ROWS:
            return []
        rows = np.stack(self._bits)
        self._bits.clear()
        noise = np.median(np.abs(np.diff(rows, axis=0)), axis=0)
        changed = np.bitwise_or.reduce(rows ^ rows[0], axis=0)
        found = []
        for at in np.flatnonzero(np.isfinite(self._lsb) & ~self._is_bit_told):
            below = range(int(noise[at]).bit_length())
            quiet = [bit for bit in below if not int(changed[at]) >> bit & 1]
            # Few values: their step is coarser than is thought.
            if not quiet or len(np.unique(rows[:, at])) < _BIT_ROWS // 4:
                continue
            self._is_bit_told[at] = True
            state = int(rows[0, at]) >> quiet[0] & 1
            text = (
                f"{self._names[at]}: bit {', '.join(map(str, quiet))} of its counts "
                f"({self._lsb[at]:g} {self._parameters[at].unit} each) stood at {state} in "
                f"{len(rows)} rows"
            )
            found.append(HkFinding("stuck_bit", self._names[at], text, utc_ns=utc_ns))
        return found

    def _rates(self, utc_ns: int, values: Floats) -> list[HkFinding]:
        self._minute.append((utc_ns, values))
        while utc_ns - self._minute[0][0] > _RATE_NS:
            self._minute.popleft()
        first_ns = self._minute[0][0]
        self._fed += 1
        if self._fed % _RATE_EVERY or utc_ns - first_ns < _RATE_NS // 2:
            return []
        # Medians of three rows at both ends: a spike is no slope.
        start = np.median([row for _, row in list(self._minute)[:3]], axis=0)
        stop = np.median([row for _, row in list(self._minute)[-3:]], axis=0)
        slope = (stop - start) / ((utc_ns - first_ns) / _RATE_NS)
        is_fast = np.abs(slope) > self._rate
        new = is_fast & ~self._is_fast
        self._is_fast = is_fast
        return [
            HkFinding(
                "rate", self._names[at],
                f"{self._names[at]} changes by {slope[at]:+.2f} {self._parameters[at].unit} a "
                f"minute, at most {self._rate[at]:g}",
                value=float(slope[at]), high=float(self._rate[at]), utc_ns=first_ns,
            )
            for at in np.flatnonzero(new)
        ]  # fmt: skip

    def _of(self, at: np.signedinteger[Any], value: float) -> str:
        return f"{self._names[at]} was {value:g} {self._parameters[at].unit}".rstrip()
