# SPDX-License-Identifier: BSD-3-Clause
"""Observations by the edges of a line: whatever lies between, each is found once, whole or cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nightjar.das.lines import Line
from nightjard.merged.observations import filled, pair, runs_of, without_glitches

RATE = 50
SHORT = 5  # samples of a tenth of a second

# Lengths in samples: (low, high) by turns, all longer than a glitch.
lengths = st.lists(st.integers(SHORT, 400), min_size=1, max_size=12)
levels = st.lists(
    st.tuples(st.sampled_from([-1, 0, 1]), st.integers(1, 30)), min_size=0, max_size=25
)


def line_of(parts: list[tuple[int, int]]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int8), *(np.full(n, v, np.int8) for v, n in parts)])


@given(lengths, st.booleans(), st.data())
def test_observations_are_found_where_they_were_put(
    parts: list[int], starts_high: bool, data: st.DataObject
) -> None:
    """Glitches of up to four samples, off the edges, change nothing."""
    line = line_of([(int(i % 2 == (0 if starts_high else 1)), n) for i, n in enumerate(parts)])
    truth = [
        (b, e, b == 0, e == line.size) for b, e, level in runs_of(line) if level == 1
    ]  # fmt: skip
    seen = line.copy()
    for begin, end, level in runs_of(line):
        if end - begin > 4 * SHORT and data.draw(st.booleans()):
            at = data.draw(st.integers(begin + SHORT, end - 2 * SHORT))
            seen[at : at + data.draw(st.integers(1, SHORT - 1))] = data.draw(
                st.sampled_from([1 - level, -1])
            )
    found = [(o.begin, o.end, o.is_begin_cut, o.is_end_cut) for o in pair(seen, RATE)]
    assert found == truth


@given(levels)
def test_pairs_are_in_order_and_within_what_was_high(parts: list[tuple[int, int]]) -> None:
    line = line_of(parts)
    found = pair(line, RATE)
    clean = without_glitches(line, RATE)
    bounds = [index for one in found for index in (one.begin, one.end)]
    assert bounds == sorted(bounds)
    high = np.zeros(line.size, bool)
    for one in found:
        assert (clean[one.begin : one.end] == 1).all()
        high[one.begin : one.end] = True
        assert one.is_begin_cut == (one.begin == 0 or clean[one.begin - 1] == -1)
        assert one.is_end_cut == (one.end == line.size or clean[one.end] == -1)
    assert (high == (clean == 1)).all()  # none is forgotten


@given(levels)
def test_glitches_are_gone_and_the_rest_is_as_it_was(parts: list[tuple[int, int]]) -> None:
    line = line_of(parts)
    clean = without_glitches(line, RATE)
    assert (without_glitches(clean, RATE) == clean).all()
    runs = runs_of(clean)
    for before, here, after in zip(runs, runs[1:], runs[2:], strict=False):
        assert here[1] - here[0] >= SHORT or before[2] != after[2]
    for begin, end, level in runs_of(line):
        if end - begin >= SHORT:
            assert (clean[begin:end] == level).all()


@given(levels)
def test_over_a_hole_an_observation_goes_on_if_it_is_the_same(
    parts: list[tuple[int, int]],
) -> None:
    line = line_of(parts)
    apart, joined = pair(line, RATE), pair(line, RATE, lambda _a, _b: True)
    assert len(joined) <= len(apart)
    clean = without_glitches(line, RATE)
    for one in joined:
        assert (clean[one.begin : one.end] != 0).all()  # a clear low always ends it
        assert clean[one.begin] == clean[one.end - 1] == 1
    assert {one.begin for one in joined} <= {one.begin for one in apart}


@given(levels)
def test_the_telescope_fills_what_the_das_does_not_know(parts: list[tuple[int, int]]) -> None:
    line = line_of(parts)
    truth = (np.arange(line.size) // 7 % 2).astype(np.int32)
    flags = (truth << Line.OBSERVATION.bit) | 5
    flags[3::11] = -1
    seen = filled(line, flags.astype(np.int32))
    assert (seen[line >= 0] == line[line >= 0]).all()
    unknown = (line < 0) & (flags != -1)
    assert (seen[unknown] == truth[unknown]).all()
    assert (seen[(line < 0) & (flags == -1)] == -1).all()
    assert (filled(line, None) == line).all()
