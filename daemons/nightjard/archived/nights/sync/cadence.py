# SPDX-License-Identifier: BSD-3-Clause
"""Times of a camera made ready, and what its intervals say: period, half width, noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nightjard.archived.nights.sync.model import (
    US,
    Bools,
    CameraFrames,
    Floats,
    Ints,
    Physics,
    Places,
)

_SAMPLE = 200_000
_MAD = 1.4826  # median absolute deviation to standard deviation
_STALL_US = 200e3  # a counter jump may stand this much too early: frames wait, then come at once
_BLOCK = 16
MOST_FEW = 256  # intervals: of more the usual ones outnumber the rest
_CROWD_US = 60.0
_NOMINAL, _NOMINAL_US = 0.03, 250.0


@dataclass(frozen=True)
class Train:
    """Frames of a camera that are used, in time order.

    Attributes
    ----------
    kept
        Their places in the camera's arrays; second records of a frame are left out.
    time_us : (n,)
        Since the run's base.
    lost : (n,)
        Frames that the counter proves missing just before each.
    """

    kept: Places
    time_us: Floats
    lost: Ints

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.time_us)


@dataclass(frozen=True)
class Cadence:
    """Rhythm of a run.

    Attributes
    ----------
    period_us
        Mean of the shorter interval.
    half_us
        Half width that is used to decode; 0 without modulation.
    sigma_us
        Standard deviation of a camera's latency.
    line_us
        Standard deviation of the trigger's own randomness.
    fitted_half_us
        Half width that the data show before decoding; None: too few.
    is_nominal
        Whether the period is as the header's physics tells.
    """

    period_us: float
    half_us: float
    sigma_us: float
    line_us: float
    fitted_half_us: float | None = None
    is_nominal: bool = True

    @property
    def mean_us(self) -> float:
        """Mean interval."""
        return self.period_us + self.half_us

    @property
    def interval_sigma_us(self) -> float:
        """Standard deviation of an interval as one camera sees it."""
        return float(np.sqrt(2.0 * self.sigma_us**2 + self.line_us**2))

    @property
    def late_us(self) -> float:
        """A shorter interval proves that the frame before it came late."""
        return max(0.6 * self.period_us, self.period_us - 6.0 * self.interval_sigma_us)


def base_of(cameras: Sequence[CameraFrames]) -> int:
    """Return the time that a run's floats count from, ns."""
    return min((int(camera.acquired_ns.min()) for camera in cameras if len(camera.acquired_ns)),
               default=0)  # fmt: skip


def prepare(camera: CameraFrames, base_ns: int, physics: Physics) -> Train:
    """Make a camera's times ready: no second records, never backwards, counter jumps proven."""
    counter = camera.counter.astype(np.int64)
    time_us = (camera.acquired_ns - base_ns) / US
    step = np.diff(counter)
    wait = np.diff(time_us)
    is_again = np.concatenate([[False], (step == 0) & (np.abs(wait) < physics.period_us)])
    kept = np.flatnonzero(~is_again[: len(counter)])
    counter, time_us = counter[kept], _unfold(time_us[kept], physics.period_us)
    lost = np.zeros(len(kept), np.int64)
    if len(kept) > 1:
        step, wait = np.diff(counter), np.diff(time_us)
        # A counter that starts anew, or runs ahead of the clock, proves nothing.
        is_proof = (step > 1) & (step - 1 <= (wait + _STALL_US) / physics.period_us)
        lost[1:] = np.where(is_proof, step - 1, 0)
    return Train(kept, time_us, lost)


def _unfold(time_us: Floats, period_us: float) -> Floats:
    """Take backward steps of the clock out: one period goes by there."""
    step = np.diff(time_us)
    if not len(step) or step.min() >= 0:
        return time_us
    fill = np.where(step < 0, period_us - step, 0.0)
    return np.asarray(time_us + np.concatenate([[0.0], np.cumsum(fill)]))


def measure(trains: Sequence[Train], physics: Physics) -> Cadence:
    """Measure period, half width and noise of a run."""
    half_us = physics.half_width_us
    intervals = [_intervals(train) for train in trains]
    mean_us, is_nominal = _mean_interval(intervals, physics)
    fitted = None
    if half_us > 0:
        fitted = _fit_half_width(intervals, mean_us, half_us)
        if fitted is not None and abs(fitted - half_us) > max(0.25 * half_us, 10.0):
            # The header's half width is not what happened: a wrong one would decode noise.
            half_us = fitted
    sigma_us = _noise(intervals, mean_us, physics.line_sigma_us)
    return Cadence(mean_us - half_us, half_us, sigma_us, physics.line_sigma_us, fitted, is_nominal)


def _intervals(train: Train) -> Floats:
    """Return intervals, nan where frames are known to be missing; no more than are needed."""
    start = max(0, (train.count - _SAMPLE) // 2)
    found = np.diff(train.time_us[start : start + _SAMPLE])
    found[train.lost[start + 1 : start + _SAMPLE] > 0] = np.nan
    return found


def _mean_interval(intervals: Sequence[Floats], physics: Physics) -> tuple[float, bool]:
    nominal = physics.period_us + physics.half_width_us
    # Two intervals together are one round of the modulator.
    step = 2 if physics.half_width_us > 0 else 1
    sums = []
    for each in intervals:
        total = each if step == 1 else (each[1:] + each[:-1]) / 2
        sums.append(total[np.isfinite(total)])
    found = np.concatenate(sums) if sums else np.zeros(0)
    if not len(found):
        return nominal, True
    if len(found) <= MOST_FEW:
        mean_us = _crowd(intervals, physics)
        return mean_us, is_nominal(mean_us, physics)
    near = found[np.abs(found - nominal) < _NOMINAL * nominal + _NOMINAL_US]
    if len(near) >= max(1, 0.4 * len(found)):
        if len(near) < 8:
            return (float(np.median(near)) if step == 2 and len(near) > 1 else nominal), True
        return _clipped_mean(near, float(np.median(near))), True
    # No trigger comes much faster than exposure and read-out let it.
    found = found[found > 0.3 * nominal]
    if len(found) < 3:
        return nominal, True
    return _clipped_mean(found, float(np.median(found))), False


def is_nominal(mean_us: float, physics: Physics) -> bool:
    """Return whether a mean interval is as the header's physics tells."""
    nominal = physics.period_us + physics.half_width_us
    return abs(mean_us - nominal) < _NOMINAL * nominal + _NOMINAL_US


def crowds(span_us: Floats, half_us: float, nominal: float, spread_us: float) -> list[float]:
    """Return periods for which most intervals are the shorter or the longer, the best first.

    Pauses only add, each as much as it likes: usual intervals stand together.

    Parameters
    ----------
    span_us : (n,)
        Intervals.
    half_us, nominal
        Half width, and the period that the header tells, us.
    spread_us
        How far usual intervals are apart by themselves, latency not counted.
    """
    span = span_us[(span_us > 0.3 * nominal) & (span_us < 1e7)]
    width = _CROWD_US + spread_us
    trial = np.concatenate([[nominal], span, span - 2.0 * half_us])
    trial = trial[trial > 0.3 * nominal]
    if not len(span):
        return []
    off = span[None, :] - trial[:, None]
    is_long = np.abs(off - 2.0 * half_us) < np.abs(off)
    off = np.where(is_long, off - 2.0 * half_us, off)
    weight = np.exp(-((off / width) ** 2) / 2.0)
    score = weight.sum(axis=1)
    # The header counts for an interval or two.
    score += (1.0 + 0.1 * len(span)) * np.exp(-np.abs(trial - nominal) / 100.0)
    found: list[float] = []
    for _ in range(4):
        best = int(score.argmax())
        if score[best] <= 0.5:
            break
        one, two = weight[best] * ~is_long[best], weight[best] * is_long[best]
        shift = [float((part * off[best]).sum() / part.sum()) for part in (one, two)
                 if part.sum() > 0.5]  # fmt: skip
        found.append(float(trial[best]) + float(np.mean(shift) if shift else 0.0))
        score[np.abs(trial - trial[best]) < 2.0 * width] = 0.0
    return found


def _crowd(intervals: Sequence[Floats], physics: Physics) -> float:
    """Return the mean interval of a short run."""
    every = np.concatenate(list(intervals)) if intervals else np.zeros(0)
    every = every[np.isfinite(every)]
    half_us, spread_us = physics.half_width_us, physics.line_sigma_us
    nominal = physics.period_us + half_us
    if 2.0 * half_us > 3.0 * _CROWD_US:
        found = crowds(every, half_us, physics.period_us, spread_us)
        return found[0] + half_us if found else nominal
    # The shorter and the longer are one crowd.
    found = crowds(every, 0.0, nominal, spread_us + half_us)
    return found[0] if found else nominal


def _clipped_mean(values: Floats, center: float) -> float:
    width = 5.0 * _MAD * float(np.median(np.abs(values - center))) + 2.0
    return float(values[np.abs(values - center) < width].mean())


def _fit_half_width(intervals: Sequence[Floats], mean_us: float, header_us: float) -> float | None:
    """Return the half width by the alternation of intervals, blind to its phase.

    Two neighbouring blocks have the same phase, and noise of their own: the mean of their product
    is the square of the half width. 0.0: the times show that there is none; None: too few.
    """
    products: list[Floats] = []
    for each in intervals:
        blocks = len(each) // _BLOCK
        if blocks < 2:
            continue
        excess = each[: blocks * _BLOCK].reshape(blocks, _BLOCK) - mean_us
        excess = excess * np.where(np.arange(_BLOCK) % 2, -1.0, 1.0)
        # A loss or a late frame would turn or drown the pattern: such a block counts for nothing.
        is_clean = np.abs(excess).max(axis=1) < 0.9 * mean_us
        product = excess.mean(axis=1)
        product = product[1:] * product[:-1]
        products.append(product[is_clean[1:] & is_clean[:-1]])
    found = np.concatenate(products) if products else np.zeros(0)
    if len(found) < 4:
        return None
    center = float(np.median(found))
    width = 6.0 * _MAD * float(np.median(np.abs(found - center))) + 1.0
    found = found[np.abs(found - center) < width]
    square = float(found.mean())
    error = float(found.std()) / np.sqrt(len(found)) + 1e-3
    if square > 4.0 * error:
        return float(np.sqrt(square))
    return 0.0 if square + 4.0 * error < (0.3 * header_us) ** 2 else None


def _noise(intervals: Sequence[Floats], mean_us: float, line_us: float) -> float:
    """Return the latency noise; the modulator cancels in intervals two apart."""
    found = [each[2:] - each[:-2] for each in intervals if len(each) > 2]
    values = np.concatenate(found) if found else np.zeros(0)
    values = np.abs(values[np.isfinite(values)])
    values = values[values < 0.9 * mean_us]
    if len(values) < 16:
        return 40.0
    variance = (_MAD * float(np.median(values))) ** 2
    return float(np.sqrt(max((variance - 2.0 * line_us**2) / 4.0, 4.0)))


def late_frames(time_us: Floats, cadence: Cadence) -> Bools:
    """Return which frames cannot be on time: those on either side of too short an interval."""
    is_late = np.zeros(len(time_us), np.bool_)
    short = np.flatnonzero(np.diff(time_us) < cadence.late_us)
    is_late[short] = True
    is_late[short + 1] = True
    return is_late
