# SPDX-License-Identifier: BSD-3-Clause
"""What holds for any scan, any clock and any order of asking."""

from __future__ import annotations

import itertools

import erfa
import numpy as np
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nightjar.times import parse_iso
from nightjard.simulators.observatory import raw_minutes
from nightjard.simulators.observatory.das_clock import DasClock
from nightjard.simulators.observatory.faults import Fault
from nightjard.simulators.observatory.noise import smooth
from nightjard.simulators.observatory.patterns import Raster
from nightjard.simulators.observatory.sky import Sky, angles, unit

START = parse_iso("2026-11-21T10:00:00")
S = 10**9


@given(
    duration=st.floats(40, 900), length=st.floats(100, 1200), step=st.floats(5, 60),
    height=st.floats(0, 900), speed=st.floats(40, 240), turn=st.floats(0.5, 4),
)  # fmt: skip
def test_any_raster_is_continuous_within_its_field(
    duration: float, length: float, step: float, height: float, speed: float, turn: float
) -> None:
    raster = Raster(duration, length, step, height, speed, turn)
    tau = np.linspace(0, duration, 4000)
    x, y = raster.offsets(tau)
    most = tau[1] * max(speed * 3, 3 * (length + height) / raster.lead_s, 2 * step / turn * 2) + 1
    assert np.abs(np.diff(x)).max() < most
    assert np.abs(np.diff(y)).max() < most
    assert np.abs(x).max() <= length / 2 + speed * (turn / np.pi + raster.lead_s / 4) + 1e-6
    assert np.abs(y).max() <= max(height, step) / 2 + step + 1e-6
    edges = raster.edges()
    assert [up for _, up in edges] == [True, False] * raster.rows
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(edges))
    assert edges[-1][0] <= duration - raster.lead_s + 1e-6


@given(
    offset=st.floats(-5, 5), drift=st.floats(-200, 200), adc=st.floats(-200, 200),
    jitter=st.floats(0, 2e-3), step=st.floats(-3, 3), seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_clock_leaves_a_sample_in_its_slot(
    offset: float, drift: float, adc: float, jitter: float, step: float, seed: int
) -> None:
    clock = DasClock(
        START, offset, drift, jitter, ((START + 70 * S, step),), adc_ppm=adc, seed=seed
    )
    kept = raw_minutes.record(clock, START, 2, (Fault("gap", 0), Fault("lost-samples", 0)))
    assert (np.diff(kept.slot) > 0).all()
    assert kept.slot[0] >= 0
    assert kept.slot[-1] < 6000
    away = (kept.stamp - START) / 20e6 - kept.slot
    assert np.abs(away[~kept.is_copy]).max() <= raw_minutes.HYSTERESIS + 1e-9
    assert np.abs(away).max() <= 1 + raw_minutes.HYSTERESIS + 1e-9
    # Each sample is where it was taken: never another's time.
    true = clock.sample_times(int(kept.number[0]), int(np.ptp(kept.number)) + 1)
    shown = clock.read(true[kept.number - kept.number[0]])
    assert np.abs(shown - kept.stamp).max() <= max(1, 6e9 * jitter)


def sun_distance_deg(place: np.ndarray, t_ns: np.ndarray) -> float:
    days = t_ns[0] / 86400e9 + 2440587.5
    sun = -erfa.epv00(days, 0.0)[0]["p"]
    cosine = float(np.ravel(place) @ sun / np.linalg.norm(sun))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


@given(
    ra=st.floats(0, 360), dec=st.floats(-89, 89), days=st.integers(-2500, 2500),
)  # fmt: skip
@example(ra=0.0, dec=45.0, days=1946)
def test_places_come_back(ra: float, dec: float, days: int) -> None:
    sky = Sky()
    t = np.array([START + days * 86400 * S + 12_345_678_901])
    assume(sun_distance_deg(unit(ra, dec), t) > 10)  # light bends; no telescope looks there
    lst = sky.lst_rad(t)
    seen = sky.apparent(unit(ra, dec), t)
    assert np.abs(sky.icrs(seen, t) - unit(ra, dec)).max() < 1e-12
    az, el = sky.horizontal(*angles(seen), lst)
    back = unit(*sky.equatorial(az, el, lst))
    assert np.abs(back - seen).max() < 1e-12


@given(st.lists(st.integers(0, 10**11), min_size=1, max_size=30), st.integers(0, 100))
def test_noise_does_not_depend_on_what_else_is_asked(offsets: list[int], key: int) -> None:
    times = START + np.array(offsets)
    together = smooth(times, S // 5, key)
    alone = [smooth(times[k : k + 1], S // 5, key)[0] for k in range(times.size)]
    assert together.tolist() == alone
