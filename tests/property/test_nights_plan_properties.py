# SPDX-License-Identifier: BSD-3-Clause
"""Whatever a night is like, every frame has one destination; cubes decide nothing but names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from kit.depth import examples
from kit.plan_cases import BEGIN_NS, CARDS, check_plan, config_of, cut, raw_file
from nightjar.times import NS_PER_S
from nightjard.archived.nights.building import make_plan
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.records import Kind, Reason
from nightjard.archived.nights.scan import RawFile, Unreadable
from nightjard.simulators.night.triggers import (
    CameraTiming,
    TriggerSegment,
    simulate_segment,
)

STREAMS = ("vcam1", "vcam2", "other")
CHANGES: tuple[dict[str, Any], ...] = (
    {}, {}, {"OBJECT": "FLAT"}, {"EXTTRIG": False}, {"EXTTRIG": None}, {"EXPTIME": None},
    {"EXPTIME": 0.02}, {"U_FLCEN": False}, {"FILTER01": "Halpha"}, {"U_TRIGJT": "much"},
    {"PRD-RNG2": 0}, {"EXPTIME": 0}, {"EXPTIME": -1.0}, {"EXPTIME": 1e9}, {"EXPTIME": 1e300},
    {"U_TRIGJT": -5}, {"U_TRIGJT": 1e9}, {"PRD-RNG2": 10**9}, {"U_DETMOD": 3},
)  # fmt: skip


@st.composite
def nights(draw: st.DrawFn) -> list[RawFile | Unreadable]:
    """Raw files of up to three cameras, each of its own rate, with everything that goes wrong."""
    found: list[RawFile | Unreadable] = []
    for stream in draw(st.sets(st.sampled_from(STREAMS), min_size=1)):
        at = BEGIN_NS + draw(st.integers(0, 3_000_000))
        period_ns = draw(st.sampled_from((1_100_000, 2_956_000, 3_000_001, 400_000_000)))
        counter = draw(st.integers(0, 2**40))
        for number in range(draw(st.integers(0, 4))):
            rng = np.random.default_rng(draw(st.integers(0, 2**32)))
            count = draw(st.integers(0, 25))
            steps = period_ns + rng.integers(0, 40_000, count)
            lost = rng.random(count) < draw(st.sampled_from((0.0, 0.1, 0.5)))
            steps += lost * period_ns * rng.integers(1, 4, count)
            times = at + np.cumsum(steps)
            counters = counter + np.cumsum(1 + lost * rng.integers(0, 2, count))
            at = int(times[-1]) if count else at
            counter = int(counters[-1]) if count else counter
            at += draw(st.sampled_from((0, 0, 2 * NS_PER_S, 60 * NS_PER_S, -5_000_000)))
            found.append(_spoiled(draw, stream, number, times, counters))
    if draw(st.booleans()):
        found.append(Unreadable("vcam1/vcam1_bad.fits", "vcam1", 3, 4, "not FITS"))
    return found


def _spoiled(
    draw: st.DrawFn, stream: str, number: int, times: np.ndarray, counters: np.ndarray
) -> RawFile:
    kind = draw(st.sampled_from(("", "", "", "untimed", "holes", "cut", "twice", "single", "none")))
    problem, frames = "", len(times)
    if kind == "untimed":
        times, problem = np.zeros_like(times), "no timing file"
    elif kind == "holes":
        times = np.where(np.arange(len(times)) % 3 == 1, 0, times)
    elif kind == "cut":
        frames += draw(st.integers(1, 5))
    elif kind == "twice" and len(times) > 3:
        times, counters = times.copy(), counters.copy()
        times[2], counters[2] = times[1], counters[1]
    elif kind == "none":
        times, counters, frames = times[:0], counters[:0], draw(st.sampled_from((0, 7)))
    elif kind == "single" and len(times):
        return raw_file(stream, number, times[:1], counters=counters[:1], is_single=True)
    changes = draw(st.sampled_from(CHANGES))
    return raw_file(
        stream, number, times, counters=counters, frames=frames, problem=problem, **changes
    )


@examples(
    20, 40, nights(), st.sampled_from((0.004, 0.05, 10.0)), st.sampled_from((2, 5, 100_000)),
    st.sampled_from(("A", "B")),
)  # fmt: skip
def test_every_frame_has_one_destination(
    found: list[RawFile | Unreadable], seconds: float, frames: int, high_is: str
) -> None:
    check_plan(found, config_of(chunks={"seconds": seconds, "frames": frames}))
    letters = config_of(chunks={"break_keys": ["OBJECT"]}, high_is=high_is)
    plan = make_plan("20260611", found, letters)
    for product in plan.products:
        if product.state in ("A", "B"):
            is_high = bool((plan.rows_of(product)["STATE"] == 1).all())
            assert is_high == (product.state == high_is)


Fates = dict[tuple[str, int], tuple[Any, ...]]


def fates(plan: Plan, *, is_named: bool = True) -> Fates:
    """Return what becomes of each frame, known by its counter: nothing in it is of a cube."""
    found: Fates = {}
    for row in plan.rows:
        stream = plan.cubes[row["cube"]].stream
        product = plan.products[row["product"]]
        name = product.name if product.kind is Kind.SYNC and is_named else ""
        found[stream, int(row["CNT0"])] = (
            Reason(row["reason"]).name, int(row["STATE"]), int(row["MTIME"]), int(row["TRIGGER"]),
            name, product.state, round(float(row["SYNCCONF"]), 5),
        )  # fmt: skip
    return found


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=8)


@examples(
    15, 40, st.integers(0, 2**32), st.integers(2, 90), st.sampled_from((0.0, 0.01, 0.1)),
    st.sampled_from((-300.0, 0.0, 150.0, 800.0)), st.tuples(LENGTHS, LENGTHS, LENGTHS, LENGTHS),
)  # fmt: skip
def test_where_cubes_end_decides_nothing(
    seed: int, triggers: int, loss: float, offset_us: float, lengths: Sequence[Sequence[int]]
) -> None:
    timings = (
        CameraTiming(loss_before=loss / 2, loss_after=loss / 2),
        CameraTiming(offset_us=offset_us, loss_before=loss),
    )
    segment = TriggerSegment(
        BEGIN_NS, 0.001, 536, timings, triggers=triggers, has_flc=True,
        half_width_us=float(CARDS["U_TRIGJT"]),
    )  # fmt: skip
    truth = simulate_segment(segment, np.random.default_rng(seed))
    plans = []
    for first, second in (lengths[:2], lengths[2:]):
        files: list[RawFile | Unreadable] = []
        for stream, camera, cubes in zip(STREAMS, truth.cameras, (first, second), strict=False):
            files += cut(stream, camera.acquired_ns.tolist(), camera.counter.tolist(), cubes)
        plans.append(check_plan(files, config_of(chunks={"seconds": 0.05})))
    assert fates(plans[0]) == fates(plans[1])
    # Nor does the length of products decide a label.
    longer = make_plan("20260611", files, config_of(chunks={"seconds": 1000.0}))
    assert fates(longer, is_named=False) == fates(plans[1], is_named=False)
