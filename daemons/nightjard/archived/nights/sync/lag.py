# SPDX-License-Identifier: BSD-3-Clause
"""Which trigger a camera's frames belong to, when offsets a whole number of triggers apart all fit.

Equal intervals look the same whatever trigger they are counted from. What tells: the trigger's own
randomness, which both cameras share; the modulator's alternation; pauses; a common beginning or
end; and that latencies are small. Each gives a log likelihood for every lag. Their sum decides, or
it is said that nothing does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nightjard.archived.nights.sync.alignment import Alignment, Side
from nightjard.archived.nights.sync.cadence import Cadence
from nightjard.archived.nights.sync.model import Bools, Floats, Ints, Places
from nightjard.archived.nights.sync.offsets import OffsetPath

CLEAR = 0.998
_MOST_LAGS = 16
_REACH_US = 6000.0
# Latency between cameras: mostly a few hundred us, rarely some ms.
_LATENCY_US, _FAR_US, _FAR_SHARE = 300.0, 2000.0, 0.02
_START_SHARE, _END_SHARE, _END_NEXT = 0.3, 0.2, 0.15
_APART_US = 2e6  # cameras are started by hand about so far apart
_CAP = 40.0
_EACH = 0.5  # the most that one interval's randomness says
_FAR_LAGS = np.arange(40, 72)
_FFT = 1024
_PARITY = 64


@dataclass(frozen=True)
class Choice:
    """The lag that was chosen.

    Attributes
    ----------
    lag, shift_us
        Triggers, and time, that the offset has to be moved by.
    is_clear
        Whether it may be used.
    probability
        Of the lag.
    evidence
        What it is known by.
    candidates
        (shift in us, probability), the likeliest first.
    common_us
        First and last time at which both cameras were recorded.
    """

    lag: int
    shift_us: float
    is_clear: bool
    probability: float
    evidence: str
    candidates: tuple[tuple[float, float], ...] = ()
    common_us: tuple[float, float] = (0.0, 0.0)
    has_common_time: bool = True

    @classmethod
    def nothing_in_common(cls) -> Choice:
        """Return the choice for cameras that were not recorded at the same time."""
        return cls(0, 0.0, True, 1.0, "", has_common_time=False)

    def describe(self, offset_us: float) -> str:
        """Return the candidates as words."""
        named = [f"{offset_us + shift:+.0f} us" for shift, chance in self.candidates[:4]
                 if chance > 1e-3]  # fmt: skip
        return " or ".join(named) or f"{offset_us:+.0f} us"


@dataclass
class _Indexed:
    """Both cameras' frames on one index of triggers."""

    place_1: Places
    place_2: Places
    time_1: Floats
    time_2: Floats
    size: int
    grid_1: Floats = field(init=False)
    grid_2: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.grid_1 = np.full(self.size, np.nan)
        self.grid_2 = np.full(self.size, np.nan)
        self.grid_1[self.place_1] = self.time_1
        self.grid_2[self.place_2] = self.time_2


def choose(
    reference: Side, side: Side, found: Alignment, path: OffsetPath, cadence: Cadence, loss: float,
    is_cut: tuple[bool, bool] = (False, False),
) -> Choice:  # fmt: skip
    """Choose the lag.

    Parameters
    ----------
    reference, side, found
        Two cameras and their alignment along `path`.
    loss
        Fraction of frames that a camera loses.
    is_cut
        The first, the last frames are not where the cameras began and ended.
    """
    both = _index(reference, side, found)
    most = int(np.clip(np.ceil(_REACH_US / cadence.mean_us), 1, _MOST_LAGS))
    lags = np.arange(-most, most + 1)
    shifts = _shifts(both, lags, cadence)
    mean_us = float(np.median(path.offset_us))
    parts = {
        "the trigger's randomness": _fingerprint(both, lags, cadence),
        "the modulator": _parity(both, lags, cadence),
        "pauses": _pauses(reference, side, both, lags, cadence),
        "a common beginning or end": _edges(both, lags, cadence, loss, is_cut),
        "small latency": _prior(mean_us + shifts),
    }
    total = np.sum(list(parts.values()), axis=0)
    chance = np.exp(total - total.max())
    chance /= chance.sum()
    order = np.argsort(-chance, kind="stable")
    best = int(order[0])
    first_us = max(float(reference.time_us[0]), float(side.time_us[0]))
    last_us = min(float(reference.time_us[-1]), float(side.time_us[-1]))
    return Choice(
        int(lags[best]),
        float(shifts[best]),
        bool(chance[best] >= CLEAR),
        float(chance[best]),
        _words(parts, order, lags),
        tuple((float(shifts[index]), float(chance[index])) for index in order[:5]),
        (first_us - 2 * cadence.mean_us, last_us + 2 * cadence.mean_us),
    )


def _words(parts: dict[str, Floats], order: Places, lags: Ints) -> str:
    """Name what speaks for the best lag against the second."""
    best = int(order[0])
    named = []
    rivals = [index for index in (best - 1, best + 1) if 0 <= index < len(lags)]
    for name, values in parts.items():
        gain = min((float(values[best] - values[index]) for index in rivals), default=0.0)
        if gain > 1.0:
            named.append(f"{name} ({gain:.0f})")
    return ", ".join(named) or "nothing that would tell"


def _index(reference: Side, side: Side, found: Alignment) -> _Indexed:
    fresh = np.flatnonzero(found.partner < 0)
    at = np.searchsorted(reference.time_us, side.time_us[fresh])
    count = len(reference.time_us)
    shift = np.cumsum(np.bincount(at, minlength=count + 1))[:count]
    place_1 = np.arange(count) + shift
    place_2 = np.empty(len(side.time_us), np.intp)
    paired = found.partner >= 0
    place_2[paired] = place_1[found.partner[paired]]
    place_2[fresh] = at + np.arange(len(fresh))
    return _Indexed(place_1, place_2, reference.time_us, side.time_us, count + len(fresh))


def _shifted(both: _Indexed, lag: int) -> tuple[Floats, Floats]:
    """Return the first camera's times and the second's `lag` triggers later."""
    start, stop = max(0, -lag), min(both.size, both.size - lag)
    if stop <= start:
        return np.zeros(0), np.zeros(0)
    return both.grid_1[start:stop], both.grid_2[start + lag : stop + lag]


def _shifts(both: _Indexed, lags: Ints, cadence: Cadence) -> Floats:
    found = []
    for lag in lags.tolist():
        one, two = _shifted(both, lag)
        step = max(1, len(one) // 20_000) | 1  # odd: both states of the modulator
        difference = (two - one)[::step]
        difference = difference[np.isfinite(difference)]
        value = float(np.median(difference)) if len(difference) else lag * cadence.mean_us
        found.append(0.0 if lag == 0 else value)
    return np.array(found)


def _prior(offset_us: Floats) -> Floats:
    size = np.abs(offset_us)
    near = np.exp(-np.minimum(size / _LATENCY_US, 500.0)) / _LATENCY_US
    far = np.exp(-np.minimum(size / _FAR_US, 500.0)) / _FAR_US
    return np.asarray(np.log((1.0 - _FAR_SHARE) * near + _FAR_SHARE * far + 1e-300))


def _edges(
    both: _Indexed, lags: Ints, cadence: Cadence, loss: float, is_cut: tuple[bool, bool]
) -> Floats:
    """Cameras that wait for the trigger begin, and end, with the same one."""
    # Cameras that share a short run were not started, or stopped, farther apart than it lasts.
    apart_us = min(_APART_US, both.size * cadence.mean_us)
    by_chance = float(np.clip(cadence.mean_us / apart_us, 1e-5, 1.0))
    begin = np.abs(lags - (int(both.place_2[0]) - int(both.place_1[0])))
    end = np.abs(lags - (int(both.place_2[-1]) - int(both.place_1[-1])))
    value = np.zeros(len(lags))
    if not is_cut[0]:
        value += np.log(_START_SHARE * loss ** np.minimum(begin, 50) + by_chance)
    if not is_cut[1]:
        # Recorders that are stopped by one command may end a frame apart.
        stopped = np.where(end == 1, np.maximum(_END_NEXT, loss), loss ** np.minimum(end, 50))
        value += np.log(_END_SHARE * stopped + by_chance)
    return value


def _intervals(both: _Indexed, cadence: Cadence) -> tuple[Floats, Floats]:
    """Return what intervals are off the mean, 0 where missing or not ordinary."""
    limit = cadence.half_us + 5.0 * cadence.interval_sigma_us
    found = []
    for grid in (both.grid_1, both.grid_2):
        off = np.diff(grid) - cadence.mean_us
        found.append(np.where(np.abs(off) < limit, off, 0.0))  # nan compares false
    return found[0], found[1]


def _blocks(values: Floats, length: int) -> Floats:
    count = -(-len(values) // length)
    padded = np.zeros(count * length)
    padded[: len(values)] = values
    return padded.reshape(count, length)


def _parity(both: _Indexed, lags: Ints, cadence: Cadence) -> Floats:
    """The modulator's alternation must agree; its phase may be any in each block."""
    if cadence.half_us <= 0 or both.size < 3:
        return np.zeros(len(lags))
    sign = np.where(np.arange(_PARITY) % 2, -1.0, 1.0)
    one, two = (_blocks(off, _PARITY) for off in _intervals(both, cadence))
    valid = ((one != 0) & (two != 0)).sum(axis=1)
    both_valid = (one != 0) & (two != 0)
    used = valid >= 2
    number = np.maximum(valid, 1)
    first = ((one * sign * both_valid).sum(axis=1) / number)[used]
    second = ((two * sign * both_valid).sum(axis=1) / number)[used]
    noise = (4.0 * cadence.sigma_us**2 + cadence.line_us**2 + 25.0) / number[used]
    half = cadence.half_us
    gain = _log_cosh((first + second) * half / noise) - _log_cosh((first - second) * half / noise)
    total = float(np.clip(np.clip(gain, -10.0, 10.0).sum() / 2, -_CAP, _CAP))
    return np.where(lags % 2 == 0, total, -total)


def _log_cosh(value: Floats) -> Floats:
    size = np.abs(value)
    return np.asarray(size + np.log1p(np.exp(-2.0 * size)) - np.log(2.0))


def _fingerprint(both: _Indexed, lags: Ints, cadence: Cadence) -> Floats:
    """The trigger's randomness is in both cameras' intervals: Whittle likelihood of each lag.

    With u the spectrum of the randomness and n that of the differences of latency, the cross
    spectrum C of the intervals gives sum(2 u Re(C exp(-i w lag)) / ((u + n)^2 - u^2)).
    """
    nothing = np.zeros(len(lags))
    length = _FFT if both.size > _FFT else 1 << max(4, int(np.ceil(np.log2(max(both.size, 2)))))
    if both.size < 8 or cadence.line_us <= 0:
        return nothing
    one, two = (_blocks(off, length) for off in _flat(*_intervals(both, cadence), cadence))
    filled = max(float((one != 0).mean()), 1e-3)
    cross = (np.fft.rfft(one) * np.conj(np.fft.rfft(two)))[:, 1:-1] / length
    omega = 2.0 * np.pi * np.arange(1, length // 2) / length
    shared = cadence.line_us**2
    # Differences of latency add up to nothing but for the ends of each unbroken stretch.
    ends = 2.0 * max(_stretches(one), _stretches(two)) / filled
    noise = cadence.sigma_us**2 * (2.0 - 2.0 * np.cos(omega) + ends) + 0.2
    weight = 2.0 * shared / ((shared + noise) ** 2 - shared**2)
    far_lags = _FAR_LAGS[_FAR_LAGS < length // 2]
    everywhere = np.concatenate([lags, far_lags, -far_lags])
    turn = np.exp(-1j * np.outer(everywhere, omega))
    value = _clipped_sum(((cross * weight) @ turn.T).real)
    expected = float((weight * shared).sum()) * len(one) * filled
    far = value[len(lags) :]
    level = float(far.mean()) if len(far) else 0.0
    value = value[: len(lags)] - level
    share = float(value.max()) / expected if expected > 0 else 0.0
    if expected > 8.0 and not 0.3 < share < 2.5:
        return nothing  # the trigger's randomness is not what the detector's line time makes it
    # What was seen cannot tell lags apart better than there is to know.
    apart = 1.0 - np.cos(np.outer(lags - lags[int(value.argmax())], omega))
    known = (apart * (weight * shared)).sum(axis=1) * len(one) * filled
    value = 0.7 * (value - value.max())
    # Of a few intervals one odd one, or a noise that is not well known, would decide by itself.
    most = min(0.6 * _CAP, _EACH * float(((one != 0) & (two != 0)).sum()))
    return np.asarray(np.maximum(value, -np.minimum(most, 2.0 * known)))


def _stretches(blocks: Floats) -> float:
    """Return the number of unbroken stretches by interval."""
    there = blocks != 0
    begins = there.copy()
    begins[:, 1:] &= ~there[:, :-1]
    return float(begins.mean())


def _clipped_sum(parts: Floats) -> Floats:
    """Sum likelihoods over blocks, (blocks, lags); no block may decide by itself."""
    middle = parts.mean(axis=1, keepdims=True)
    away = parts - middle
    if len(parts) >= 8:
        width = 6.0 * 1.4826 * np.median(np.abs(away), axis=0)
        away = np.clip(away, -width, width)
    return np.asarray((away + middle).sum(axis=0))


def _flat(first: Floats, second: Floats, cadence: Cadence) -> tuple[Floats, Floats]:
    """Take the modulator's alternation out, by blocks.

    Where it turns round within a block it would be left over: in both cameras, far above the noise,
    and no randomness of the trigger. Such a block counts for nothing.
    """
    sign = np.where(np.arange(_PARITY) % 2, -1.0, 1.0)
    limit = 5.0 * cadence.interval_sigma_us
    found, broken = [], np.zeros(-(-len(first) // _PARITY), np.bool_)
    for off in (first, second):
        blocks = _blocks(off, _PARITY)
        valid = blocks != 0
        number = np.maximum(valid.sum(axis=1), 1)
        level = (blocks * sign).sum(axis=1) / number
        if cadence.half_us > 0:
            error = 2.0 * cadence.sigma_us / np.sqrt(number)
            broken |= np.abs(np.abs(level) - cadence.half_us) > 4.0 * error + 2.0
        rest = blocks - level[:, None] * sign * valid
        found.append(np.where(np.abs(rest) < limit, rest, 0.0))
    kept = ~broken[:, None]
    one, two = ((rest * kept).ravel()[: len(first)] for rest in found)
    return one, two


def _pauses(reference: Side, side: Side, both: _Indexed, lags: Ints, cadence: Cadence) -> Floats:
    """Unusual intervals of the same length in both cameras; neither of them comes first."""
    there = _agreement(reference, side, both.place_1, both.place_2, both.size, lags, cadence)
    back = _agreement(side, reference, both.place_2, both.place_1, both.size, -lags, cadence)
    return np.asarray((there + back) / 2)


def _agreement(
    one: Side, two: Side, place_1: Places, place_2: Places, size: int, lags: Ints, cadence: Cadence
) -> Floats:
    """Return how much likelier than chance the unusual intervals of one camera are in the other."""
    events = _events(one, cadence)
    if not len(events) or len(two.time_us) < 2:
        return np.zeros(len(lags))
    width = np.diff(one.time_us)[events]
    start = place_1[events]
    frame = np.full(size, -1, np.intp)
    frame[place_2[:-1]] = np.arange(len(place_2) - 1)
    theirs = np.diff(two.time_us)
    near = 5.0 * np.sqrt(2.0) * cadence.interval_sigma_us

    def votes(lag: int) -> int:
        where = start + lag
        inside = (where >= 0) & (where < size)
        index = frame[where[inside]]
        agree = np.abs(theirs[index] - width[inside]) < near
        return int((agree & (index >= 0)).sum())

    counted = np.array([votes(lag) for lag in lags.tolist()], float)
    far = np.mean([votes(lag) for lag in np.concatenate([_FAR_LAGS, -_FAR_LAGS]).tolist()])
    number = len(events)
    chance = max(float(far), 1e-3 * number, 1e-3)
    share = np.maximum(counted, chance)
    return np.asarray(np.minimum(counted * np.log(share / chance) - (share - chance), _CAP))


def _events(side: Side, cadence: Cadence) -> Places:
    """Return frames after which there is a pause, or frames are missing unproven."""
    width = np.diff(side.time_us)
    longest = cadence.period_us + 2.0 * cadence.half_us + 8.0 * cadence.interval_sigma_us
    late: Bools = side.is_late
    # Frames missing unproven are among them: how often these agree by chance is counted.
    return np.flatnonzero((width > longest) & (side.lost[1:] == 0) & ~late[1:] & ~late[:-1])
