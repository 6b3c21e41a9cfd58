# SPDX-License-Identifier: BSD-3-Clause
"""Rates and budget of links of policy ``latest``: even, within the budget, without bursts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjard.streamlinkd import pace
from nightjard.streamlinkd.pace import Beat, Bucket, Demand

NS = 10**9
DEMANDS = st.lists(
    st.builds(
        Demand, st.integers(200, 10**8), st.floats(0.01, 1000),
        st.none() | st.floats(0, 2000),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@given(DEMANDS, st.floats(1e4, 1e10))
def test_shares_fit_the_budget_and_fall_evenly(demands, budget):
    rates = pace.shares(demands, budget)
    used = sum(min(rate, one.rate) * one.octets for rate, one in zip(rates, demands, strict=True))
    assert used <= budget * (1 + 1e-9)
    factors = [rate / one.wanted for rate, one in zip(rates, demands, strict=True)]
    assert max(factors) <= 1 + 1e-9
    assert max(factors) == pytest.approx(min(factors))
    if max(factors) < 1 - 1e-9:  # nothing is withheld without need
        assert used == pytest.approx(budget, rel=1e-6)


def test_two_full_frames_in_500_mbit():
    full = 4_901_312
    assert pace.shares([Demand(full, 20), Demand(full, 20)], 62.5e6) == pytest.approx([6.376, 6.376], abs=1e-3)  # noqa: E501
    why = pace.explanation("vcam1", [Demand(full, 20), Demand(full, 20)], 0, 6.376, 500, 1)
    assert why == "vcam1 20 -> 6.4 frames/s: 2 streams of 4.9 MB exceed 500 Mbit/s"
    assert pace.explanation("vcam1", [Demand(full, 20)], 0, 20, 5000, 1) == ""


def test_what_a_silent_source_leaves_goes_to_the_others():
    full = 4_901_312
    first, _ = pace.shares([Demand(full, 20, 57.0), Demand(full, 20, 0.0)], 62.5e6)
    assert first == pytest.approx(12.75, abs=0.01)


@given(
    st.floats(1e5, 1e8),
    st.lists(st.tuples(st.integers(100, 5_000_000), st.integers(0, 3 * 10**8)), max_size=60),
)
def test_no_second_carries_more_than_the_budget_and_one_message(budget, sends):
    bucket, now, sent = Bucket(budget, 0), 0, []
    for octets, idle_ns in sends:
        now = max(now + idle_ns, bucket.free_ns())
        bucket.take(octets, now)
        sent.append((now, octets))
    largest = max((octets for _, octets in sent), default=0)
    for start, _ in sent:
        for span_s in (1.0, 3.0):
            carried = sum(n for t, n in sent if start <= t <= start + span_s * NS)
            assert carried <= budget * span_s + largest + 1


@given(st.floats(1e5, 1e8), st.floats(1e5, 1e8))
def test_another_budget_holds_from_now_on(before, after):
    bucket = Bucket(before, 0)
    bucket.take(10**6, 0)
    bucket.set_rate(after, 0)
    assert bucket.free_ns() / NS == pytest.approx(1e6 / after / pace.HEADROOM, abs=0.01)


@given(st.floats(0.1, 500), st.lists(st.floats(-0.05, 0.05), min_size=20, max_size=50))
def test_beat_is_even_whatever_the_jitter(rate, jitter):
    beat = Beat(0)
    beat.set_rate(rate)
    beat.sent(0)
    times = [0.0]
    for part in jitter:
        now = beat.due_ns + round(part * beat.period_ns)
        times.append(now)
        beat.sent(now)
    mean = times[-1] / len(jitter)
    assert mean == pytest.approx(NS / rate, rel=0.05 / len(jitter) + 1e-6)


@given(st.floats(0.1, 500), st.floats(2, 1000))
def test_after_a_stall_the_beat_begins_anew(rate, periods):
    beat = Beat(0)
    beat.set_rate(rate)
    beat.sent(0)
    now = round(periods * beat.period_ns)
    beat.sent(now)
    assert beat.due_ns == now + beat.period_ns
