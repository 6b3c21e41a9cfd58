# SPDX-License-Identifier: BSD-3-Clause
"""The camera's frame numbers in a cube's table: right, or said to be unknown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nightjar.fits.frame_table import Rows, empty_rows
from nightjar.streams.keywords import Keyword
from nightjard.fitslogd.hardware import HardwareNumbers

UNKNOWN = -1


def told(offset: int, since: int, before: int) -> dict[str, Keyword]:
    values = {"HW-OFF": offset, "HW-FROM": since, "HW-OFFP": before}
    return {name: Keyword(value, "") for name, value in values.items()}


def table(first: int, last: int) -> Rows:
    rows = empty_rows(last - first + 1)
    rows["CNT0"] = range(first, last + 1)
    return rows


def filled(numbers: HardwareNumbers, first: int, last: int) -> list[int]:
    rows = table(first, last)
    numbers.fill(rows)
    return [int(value) for value in rows["HWID"]]


def test_what_changed_between_two_looks_is_known_where_it_changed_once() -> None:
    numbers = HardwareNumbers()
    numbers.note(told(10, 1, 10), 3)
    numbers.note(told(12, 6, 10), 7)
    assert filled(numbers, 1, 7) == [11, 12, 13, 14, 15, 18, 19]


def test_what_changed_twice_between_two_looks_is_unknown_in_between() -> None:
    numbers = HardwareNumbers()
    numbers.note(told(10, 1, 10), 3)
    numbers.note(told(15, 6, 12), 7)
    assert filled(numbers, 1, 7) == [11, 12, 13, UNKNOWN, UNKNOWN, 21, 22]


def test_frames_behind_a_cube_keep_what_was_told_while_it_was_open() -> None:
    numbers = HardwareNumbers()
    numbers.note(told(10, 1, 10), 3)
    numbers.note(told(12, 6, 10), 7)
    cube = numbers.taken(2)
    assert filled(cube, 1, 2) == [11, 12]
    assert filled(numbers, 3, 7) == [13, 14, 15, 18, 19]
    numbers.taken(7)
    assert filled(numbers, 5, 7) == [UNKNOWN, 18, 19]


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.sets(st.integers(1, 40)),
    st.integers(1, 12),
)
def test_a_number_that_is_told_is_the_camera_s(
    losses: list[int], looks: set[int], cube_frames: int
) -> None:
    numbers = HardwareNumbers()
    offset, since, before = 100, 1, 100
    truth = []
    for index, lost in enumerate(losses):
        counter = index + 1
        if lost:
            offset, since, before = offset + lost, counter, offset
        truth.append(counter + offset)
        if counter in looks:
            numbers.note(told(offset, since, before), counter)
        if counter % cube_frames == 0:
            numbers.note(told(offset, since, before), counter)
            found = filled(numbers.taken(counter), counter - cube_frames + 1, counter)
            assert found[-1] == truth[-1]
            for each, right in zip(found, truth[-cube_frames:], strict=True):
                assert each in (UNKNOWN, right)
