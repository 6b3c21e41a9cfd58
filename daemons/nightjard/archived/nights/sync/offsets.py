# SPDX-License-Identifier: BSD-3-Clause
"""How much later one camera's frames come than another's, along a run.

The offset is a path: straight lines between the medians of blocks of frames, broken where it
steps. Which of the paths a whole number of triggers apart is the right one is decided in `lag`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightjard.archived.nights.sync.cadence import Cadence
from nightjard.archived.nights.sync.model import Floats, Ints, Places

_SEED_BLOCK = 512
_SEEDS = 8
_TRACK_BLOCK = 256
_FINE_BLOCK = 128
_LEAST_BLOCK = 8
_NEAR = 0.4  # of the shorter interval


@dataclass(frozen=True)
class OffsetPath:
    """Offset against time, both in us; constant before the first and after the last node."""

    node_us: Floats
    offset_us: Floats
    steps: tuple[tuple[float, float], ...] = ()  # (time, size) of sudden changes

    def at(self, time_us: Floats) -> Floats:
        """Return the offset at times of the later camera or of the first: they hardly differ."""
        if len(self.node_us) == 1:
            return np.full(len(time_us), self.offset_us[0])
        return np.interp(time_us, self.node_us, self.offset_us)

    def shifted(self, by_us: float) -> OffsetPath:
        """Return the path a constant further on."""
        return OffsetPath(self.node_us, self.offset_us + by_us, self.steps)

    def fit(self) -> tuple[float, float]:
        """Return median offset (us) and drift (ppm), the latter without sudden changes."""
        mean = float(np.median(self.offset_us))
        if len(self.node_us) < 4 or np.ptp(self.node_us) < 1e6:
            return mean, 0.0
        smooth = self.offset_us.copy()
        for when, size in self.steps:
            smooth[self.node_us > when] -= size
        time_s = (self.node_us - self.node_us.mean()) / 1e6
        return mean, float((time_s * smooth).sum() / (time_s**2).sum())

    def describe_steps(self) -> list[str]:
        """Return what is to be said about sudden changes."""
        if not self.steps:
            return []
        named = ", ".join(f"{size:+.0f} us at {when / 1e6:.1f} s" for when, size in self.steps[:3])
        return [f"offset changed suddenly {len(self.steps)} times: {named}"]


def nearest(sorted_us: Floats, at_us: Floats) -> Places:
    """Return the index of the nearest of sorted times for each of `at_us`."""
    return np.searchsorted((sorted_us[1:] + sorted_us[:-1]) / 2, at_us)


def seed(reference: Floats, other: Floats, cadence: Cadence) -> tuple[Places, float] | None:
    """Return a block of the reference and the commonest offset in it; None: no common time.

    With the modulator, offsets that are an odd number of triggers off are half as common.
    """
    first, last = np.searchsorted(reference, [other[0], other[-1]])
    first = max(0, int(first) - 1)
    last = min(len(reference), int(last) + 1)
    if last <= first:
        return None
    reach_us = (1.05 if cadence.half_us else 0.55) * (cadence.mean_us + cadence.half_us)
    width_us = float(np.clip(1.5 * cadence.sigma_us, 10.0, reach_us / 8))
    found: list[tuple[float, int, Places, float]] = []
    starts = np.unique(np.linspace(first, max(first, last - _SEED_BLOCK), _SEEDS).astype(int))
    for start in starts.tolist():
        block = np.arange(start, min(start + _SEED_BLOCK, last))
        differences = _differences(reference[block], other, reach_us)
        if not len(differences):
            continue
        edges = np.arange(-reach_us - width_us, reach_us + 2 * width_us, width_us)
        counts = np.histogram(differences, edges)[0].astype(float)
        smooth = np.convolve(counts, [0.5, 1.0, 0.5], "same")
        middle = (edges[:-1] + edges[1:]) / 2
        # Of equal peaks the one that needs the smaller latency.
        best = int(np.argmax(smooth * (1.0 - 0.1 * np.abs(middle) / reach_us)))
        close = differences[np.abs(differences - middle[best]) < 2 * width_us]
        found.append((float(smooth[best]) / len(block), start, block, float(np.median(close))))
    if not found:
        return None
    _, _, block, offset_us = max(found, key=lambda item: item[:2])
    return block, offset_us


def _differences(reference: Floats, other: Floats, reach_us: float) -> Floats:
    low = np.searchsorted(other, reference - reach_us)
    high = np.searchsorted(other, reference + reach_us)
    found = []
    for step in range(min(int((high - low).max()), 64)):
        here = low + step
        ok = here < high
        found.append(other[here[ok]] - reference[ok])
    return np.concatenate(found) if found else np.zeros(0)


def track(
    reference: Floats, other: Floats, block: Places, offset_us: float, cadence: Cadence
) -> OffsetPath:
    """Follow the offset from a block to both ends of the common time."""
    near_us = _NEAR * cadence.period_us
    residual = _residuals(reference, other - offset_us)
    path = _medians(reference, residual, near_us, _TRACK_BLOCK)
    if path is None:
        return OffsetPath(reference[block[:1]], np.array([offset_us]))
    if np.abs(path.offset_us).max() > 0.2 * cadence.period_us:
        return _follow(reference, other, block, offset_us, cadence)
    return path.shifted(offset_us)


def _residuals(reference: Floats, other: Floats) -> Floats:
    return other[nearest(other, reference)] - reference


def _medians(time_us: Floats, residual: Floats, near_us: float, block: int) -> OffsetPath | None:
    """Return the medians of blocks of the residuals that are near enough."""
    ok = np.abs(residual) < near_us
    time_us, residual = time_us[ok], residual[ok]
    if not len(residual):
        return None
    blocks = max(1, len(residual) // block)
    block = len(residual) if blocks == 1 else block
    whole = blocks * block
    center = np.median(residual[:whole].reshape(blocks, block), axis=1)
    return OffsetPath(time_us[:whole].reshape(blocks, block)[:, block // 2], center)


def _follow(
    reference: Floats, other: Floats, block: Places, offset_us: float, cadence: Cadence
) -> OffsetPath:
    """Follow an offset that wanders by more than a fraction of the period."""
    near_us = _NEAR * cadence.period_us
    middle = int(block[len(block) // 2])
    nodes: dict[int, float] = {middle: offset_us}
    size = _TRACK_BLOCK
    for direction in (1, -1):
        current = offset_us
        place = middle
        while 0 <= place < len(reference):
            part = reference[max(0, place) : place + size]
            near = np.searchsorted(other, part[[0, -1]] + current + [-near_us, near_us])
            span = other[max(0, near[0] - 1) : near[1] + 1]
            if len(span) > 1:
                residual = _residuals(part, span - current)
                residual = residual[np.abs(residual) < near_us]
                if len(residual) >= min(16, size // 4):
                    current += float(np.median(residual))
            nodes[place + len(part) // 2] = current
            place += direction * size
    where = np.array(sorted(nodes))
    where = where[where < len(reference)]
    return OffsetPath(reference[where], np.array([nodes[int(index)] for index in where]))


def refine(time_us: Floats, residual: Floats, path: OffsetPath, sigma_us: float) -> OffsetPath:
    """Return the path through matched frames.

    Parameters
    ----------
    time_us, residual : (n,)
        Of the pairs: the reference's time, what the present path leaves.
    sigma_us
        Noise of a residual.
    """
    if not len(residual):
        return path
    total = residual + path.at(time_us)
    size = _FINE_BLOCK
    while True:
        blocks = max(1, len(residual) // size)
        bounds = np.linspace(0, len(residual), blocks + 1).astype(int)
        size = len(residual) // blocks
        center = np.median(total[bounds[:-1, None] + np.arange(size)], axis=1)
        error = 1.3 * sigma_us / np.sqrt(size) + 1.0
        moves = np.diff(center)
        drift = float(np.median(moves)) if len(moves) else 0.0
        # Long intervals: a drift may move the offset within a block.
        smaller = max(_LEAST_BLOCK, size // 4)
        if (abs(drift) < 2.0 * error and blocks >= 4) or len(residual) // smaller <= blocks:
            break
        size = smaller
    nodes = time_us[bounds[:-1] + size // 2]
    jumps = np.flatnonzero(np.abs(moves - drift) > max(8.0 * error, 2.0 * sigma_us))
    if len(jumps):
        return _with_steps(time_us, total, bounds, nodes, center, jumps)
    return OffsetPath(nodes, center)


def _with_steps(
    time_us: Floats, total: Floats, bounds: Ints, nodes: Floats, center: Floats, jumps: Places
) -> OffsetPath:
    """Put a sharp step where the path jumps from one block to the next."""
    extra_time: list[float] = []
    extra_offset: list[float] = []
    steps: list[tuple[float, float]] = []
    dropped: set[int] = set()
    for jump in jumps.tolist():
        left, right = max(0, jump - 1), min(len(center) - 1, jump + 2)
        low, high = center[left], center[right]
        if abs(high - low) < 0.5 * abs(center[jump + 1] - center[jump]) or jump in dropped:
            continue
        start, stop = int(bounds[left]), int(bounds[right + 1])
        part = total[start:stop]
        cost = np.cumsum(np.abs(part - low) - np.abs(part - high))
        split = start + int(np.argmin(cost)) + 1
        if split >= stop:
            continue
        extra_time += [float(time_us[split - 1]), float(time_us[split])]
        extra_offset += [float(low), float(high)]
        steps.append((float(time_us[split - 1]), float(high - low)))
        dropped.update(range(left + 1, right))
    kept = np.array([index for index in range(len(center)) if index not in dropped], int)
    time = np.concatenate([nodes[kept], extra_time])
    order = np.argsort(time, kind="stable")
    offset = np.concatenate([center[kept], extra_offset])[order]
    return OffsetPath(time[order], offset, tuple(steps))
