# SPDX-License-Identifier: BSD-3-Clause
"""Pointing and rotator at the times of samples; nothing is invented over a gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SPARSE_S = 0.05
"""Records further apart than this are told as sparse; before the first and behind the last of them
this is how far values are carried on."""
GAP_S = 0.1
"""Nothing is interpolated between records further apart."""
MISSING_S = 60.0
"""Between records further apart a minute's file is missing: they are a last one and a first one. A
minute beside it has the same values alone, where it sees no others, and with its hour."""


def wrapped(values: Floats, period: float) -> Floats:
    """Return values brought into 0 to a period: as ``values % period``, much faster."""
    return values - period * np.floor(values * (1 / period))


@dataclass(frozen=True, slots=True, eq=False)
class Bracket:
    """Between which records each time lies.

    Attributes
    ----------
    before, after
        Indexes of the records, (n,); both are 0 where there are no records.
    share
        0 at the record before, 1 at the one after, (n,); outside 0 to 1 where carried on.
    has_value
        Whether a value can be had, (n,).
    is_sparse
        No value, or from records more than SPARSE_S apart, (n,).
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    share: Floats
    has_value: NDArray[np.bool_]
    is_sparse: NDArray[np.bool_]

    @property
    def nearest(self) -> NDArray[np.int64]:
        """Index of the nearest record, (n,)."""
        return np.where(self.share < 0.5, self.before, self.after)

    def linear(self, values: Floats) -> Floats:
        """Return values of records at the times; NaN where there is none."""
        first = values[self.before]
        found = first + (values[self.after] - first) * self.share
        found[~self.has_value] = np.nan
        return found

    def circular(self, values: Floats, period: float) -> Floats:
        """Return angles at the times, the short way between records; not brought into a range."""
        first = values[self.before]
        step = values[self.after] - first
        step -= period * np.rint(step * (1 / period))
        found = first + step * self.share
        found[~self.has_value] = np.nan
        return found


def bracket(
    record_t_s: Floats, t_s: Floats, sparse_s: float = SPARSE_S, gap_s: float = GAP_S
) -> Bracket:
    """Return between which records each time lies.

    Parameters
    ----------
    record_t_s
        Times of the records, increasing, (m,).
    t_s
        Times asked for, (n,).
    sparse_s, gap_s
        See SPARSE_S and GAP_S.
    """
    count = record_t_s.size
    if count < 2:
        zeros = np.zeros(t_s.size, np.int64)
        nothing = np.zeros(t_s.size, bool)
        return Bracket(zeros, zeros, np.zeros(t_s.size), nothing, ~nothing)
    after = np.clip(np.searchsorted(record_t_s, t_s, "right"), 1, count - 1)
    missing = np.flatnonzero(record_t_s[after] - record_t_s[after - 1] > MISSING_S)
    if missing.size:
        after[missing] += _beside(record_t_s, t_s[missing], after[missing], sparse_s)
    before = after - 1
    t_before = record_t_s[before]
    apart = record_t_s[after] - t_before
    share = (t_s - t_before) / apart
    outside = np.maximum(-share, share - 1) * apart
    has_value = (apart <= gap_s + 1e-6) & (outside <= sparse_s)
    # A time on a record needs no other, however far the next one is.
    has_value |= np.minimum(np.abs(share), np.abs(1 - share)) * apart < 1e-6
    is_sparse = ~has_value | (apart > sparse_s + 1e-6) | (outside > 0)
    return Bracket(before, after, share, has_value, is_sparse)


def _beside(
    record_t_s: Floats, t_s: Floats, after: NDArray[np.int64], reach_s: float
) -> NDArray[np.int64]:
    """Return by how much `after` changes at times in a gap: to the pair of records at its end."""
    to_next, since = record_t_s[after] - t_s, t_s - record_t_s[after - 1]
    is_next = (to_next <= reach_s) & (to_next <= since) & (after + 1 < record_t_s.size)
    is_last = (since <= reach_s) & (since < to_next) & (after > 1)
    return is_next.astype(np.int64) - is_last.astype(np.int64)
