# SPDX-License-Identifier: BSD-3-Clause
"""The difference of the clocks is found again from quantised, lost and false edges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.merge import SKEW, World, make_config, minute_ns
from nightjar.das.channels import BOLOCAM
from nightjar.das.lines import Line
from nightjard.merged.alignment import Alignment, as_json, fit, offsets_at, pieces_of
from nightjard.merged.clusters import trapezoid
from nightjard.merged.config import MergedConfig

LINES = ("acq_das", "trck_das", "rot_enab", "obs_number_das", "rotating")
OFFSET_S, DRIFT_PPM = 0.002, 1.0  # what must be reached


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MergedConfig:
    return make_config(tmp_path_factory.mktemp("config"))


def edges_of(
    world: World, minutes: range, drop: float = 0.0, false: float = 0.0, glitches: int = 0,
    delays_s: Sequence[float] = (0, 0, 0, 0, 0), gaps: dict[int, list[float]] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return edges as both sides record them: DAS samples of 20 ms, records of 10 ms."""
    random = np.random.default_rng(world.seed)
    found = {
        one: {"minute_ns": minute_ns(one), "das": [], "tel": [], "gaps": (gaps or {}).get(one, [])}
        for one in minutes
    }  # fmt: skip

    def put(side: str, row: list[float]) -> None:
        minute = int(row[2] // 60)
        if minute in found and random.random() >= drop:
            found[minute][side].append([*row[:2], row[2] - 60 * minute, row[3]])

    for number, name in enumerate(LINES):
        line = next(one for one in Line if one.variable == name)
        channel = BOLOCAM.channels_of(name)[0]
        for index, t in enumerate(world.edges[line]):
            put("tel", [number, 1 - index % 2, np.ceil(t * 100) / 100 - 0.005, 0.005])
            seen = t + delays_s[number]
            das = seen + float(world.ahead_s(seen)) - channel * SKEW
            das = np.ceil(das * 50) / 50 - 0.01 + channel * SKEW
            put("das", [number, 1 - index % 2, das, 0.01])
    for minute in minutes:
        for side in ("das", "tel"):
            for _ in range(random.poisson(false)):
                found[minute][side].append(
                    [int(random.integers(5)), int(random.integers(2)), random.uniform(0, 60), 0.01]
                )
            for _ in range(glitches):  # one sample up and down again
                at = random.uniform(0, 59)
                found[minute][side] += [[1, 1, at, 0.01], [1, 0, at + 0.02, 0.01]]
            found[minute][side].sort(key=lambda edge: edge[2])
    return list(found.values())


def errors(world: World, found: Alignment, minutes: range) -> tuple[np.ndarray, np.ndarray]:
    """Return errors of offset (s) and drift (1e-6) in the middle of each minute's last piece."""
    offset, drift = [], []
    for minute in minutes:
        piece = found[minute_ns(minute)][-1]
        das_s = (piece.ref_ns - minute_ns(0)) / 1e9
        offset.append(piece.offset_at(piece.ref_ns) - float(world.ahead_s(world.true_of(das_s))))
        drift.append(piece.drift_ppm - world.drift_ppm)
    return np.array(offset), np.array(drift)


def fitted(config: MergedConfig, edges: list[dict[str, Any]], minutes: range) -> Alignment:
    starts = [minute_ns(one) for one in minutes]
    return fit(edges, starts, config.alignment, config.levels)


NIGHT, INNER = range(240), range(30, 210)


@pytest.mark.parametrize(
    ("changes", "spoiled"),
    [
        ({}, {}),
        ({"seed": 2, "rows_s": 4.9871, "turn_s": 2.0143}, {}),
        ({"offset_s": 4.9}, {}),
        ({"offset_s": -4.5}, {"drop": 0.2, "false": 1.0}),
        ({"offset_s": 3.0, "seed": 4}, {"drop": 0.1, "false": 0.5, "glitches": 1}),
        ({"offset_s": 0.0, "drift_ppm": 80.0}, {"drop": 0.1}),
        ({"has_scan": False, "seed": 5}, {"drop": 0.05, "false": 0.2}),
    ],
    ids=["clean", "uneven", "far", "alias", "glitches", "fast", "few"],
)
def test_offset_and_drift_of_a_night(
    config: MergedConfig, tmp_path: Path, changes: dict[str, Any], spoiled: dict[str, Any]
) -> None:
    world = World(tmp_path, **changes)
    offset, drift = errors(
        world, fitted(config, edges_of(world, NIGHT, **spoiled), INNER), INNER
    )  # fmt: skip
    assert np.sqrt(np.mean(offset**2)) < OFFSET_S
    assert np.abs(offset).max() < (1.5 if spoiled else 1.0) * OFFSET_S
    assert np.abs(drift).max() < DRIFT_PPM


def test_known_delays_of_lines_are_taken_off(config: MergedConfig, tmp_path: Path) -> None:
    """What all lines are late by is in D itself: only the configuration can tell it."""
    world = World(tmp_path)
    late = edges_of(world, NIGHT, delays_s=(0.003, 0.003, 0.003, 0.003, 0.003))
    offset, _ = errors(world, fitted(config, late, INNER), INNER)
    assert 0.0015 < offset.mean() < 0.0045


def test_live_uses_what_is_known_so_far(config: MergedConfig, tmp_path: Path) -> None:
    """Each minute is fitted from its own past only; that is good after an hour."""
    world = World(tmp_path, seed=3)
    edges = edges_of(world, NIGHT)
    for minute in (90, 120, 200):
        known = edges[max(0, minute - 180) : minute + 1]
        offset, drift = errors(
            world, fitted(config, known, range(minute, minute + 1)), range(minute, minute + 1)
        )
        assert abs(offset[0]) < 2 * OFFSET_S
        assert abs(drift[0]) < 3 * DRIFT_PPM


def test_the_error_told_is_the_error_made(config: MergedConfig, tmp_path: Path) -> None:
    pulls = []
    for seed in range(1, 9):
        world = World(tmp_path, seed=seed)
        found = fitted(config, edges_of(world, range(120)), range(60, 61))
        offset, _ = errors(world, found, range(60, 61))
        pulls.append(offset[0] / found[minute_ns(60)][0].sigma_s)
    assert 0.3 < np.sqrt(np.mean(np.square(pulls))) < 2.5


@pytest.mark.parametrize("size", [1.3, -2.0, 0.1])
def test_a_step_of_the_clock_cuts_the_fit(
    config: MergedConfig, tmp_path: Path, size: float
) -> None:
    when = 7000.0
    world = World(tmp_path, steps=[(when, size)])
    das_s = when + float(world.ahead_s(when))
    gaps = {int(das_s // 60): [das_s % 60]}
    edges = edges_of(world, NIGHT, gaps=gaps)
    minutes = range(30, 210)
    found = fitted(config, edges, minutes)
    offset, _ = errors(world, found, minutes)
    beside = np.array([abs(one - das_s // 60) > 1 for one in minutes])
    assert np.abs(offset[beside]).max() < 2.5 * OFFSET_S
    inside = found[minute_ns(int(das_s // 60))]
    assert len(inside) == 2
    assert (inside[1].from_ns - minute_ns(0)) / 1e9 == pytest.approx(das_s, abs=0.05)
    start = minute_ns(int(das_s // 60))
    t_s = np.array([das_s - 2, das_s + 2])
    before, after = offsets_at(inside, start, t_s, minute_ns(0))
    assert after - before == pytest.approx(size, abs=0.01)


def test_nothing_is_told_from_nothing(config: MergedConfig, tmp_path: Path) -> None:
    world = World(tmp_path)
    assert fitted(config, [], range(3)) == {}
    one_sided = [one | {"tel": []} for one in edges_of(world, range(30))]
    assert fitted(config, one_sided, range(3)) == {}


def test_clocks_too_far_apart_are_not_aligned(config: MergedConfig, tmp_path: Path) -> None:
    """The scan repeats every 7 s: a difference of 8.2 s looks like one of 1.2 s to most edges."""
    world = World(tmp_path, offset_s=8.2, drift_ppm=0.0)
    assert fitted(config, edges_of(world, range(60)), range(60)) == {}


def test_edges_of_chance_are_not_aligned(config: MergedConfig) -> None:
    random = np.random.default_rng(9)

    def some() -> list[list[float]]:
        return sorted(
            ([int(random.integers(5)), int(random.integers(2)), random.uniform(0, 60), 0.01]
             for _ in range(3)), key=lambda edge: edge[2],
        )  # fmt: skip

    edges = [
        {"minute_ns": minute_ns(one), "das": some(), "tel": some(), "gaps": []} for one in range(60)
    ]
    found = fitted(config, edges, range(60))
    assert not found


def test_off_and_json(config: MergedConfig, tmp_path: Path) -> None:
    world = World(tmp_path)
    found = fitted(config, edges_of(world, range(60)), range(60))
    assert pieces_of(as_json(found)) == found
    off = make_config(tmp_path, alignment={"align": "off"})
    assert fitted(off, edges_of(world, range(60)), range(60)) == {}


def test_the_density_of_a_pair_is_one() -> None:
    r = np.arange(-0.05, 0.05, 1e-5)
    density = trapezoid(np.abs(r), 0.01, 0.005)
    assert density.sum() * 1e-5 == pytest.approx(1, abs=1e-3)
    assert np.sqrt((density * r**2).sum() * 1e-5) == pytest.approx(0.0065, abs=2e-4)
