# SPDX-License-Identifier: BSD-3-Clause
"""The simulated detector's trap pumping: which mode shows what, how much charge, where."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from nightjar.calibration.detector import load_detector
from nightjard.simulators.detector import pumping
from nightjard.simulators.detector.pumping import PumpingTruth, Traps

DETECTOR = load_detector("ccd273-8th")
SHAPE = (DETECTOR.image_rows, DETECTOR.image_columns)
LEVEL = 20000.0


def trap(
    row: int, column: int, phase: int, capture_e: float = 0.4, tau_us: float = 1000.0
) -> Traps:
    def whole(value: int) -> np.ndarray:
        return np.array([value], np.int64)

    section = float(pumping.section_of(tau_us, 0.25, 153.0))
    return Traps(whole(row), whole(column), whole(phase), whole(-1), np.array([0.25]),
                 np.array([section]), np.array([capture_e]))  # fmt: skip


def pump(truth: PumpingTruth, kelvin: float = 153.0, level: float = LEVEL, **values: Any) -> Any:
    electrons = np.full(SHAPE, level, np.float32)
    pumping.apply(
        electrons, {"1E": truth}, values=values, ccd=1, quadrant="E", detector=DETECTOR,
        temperature_k=kelvin, key=lambda _text: 0,
    )  # fmt: skip
    return electrons - np.float32(level)


def vertical(mode: int, time_us: float = 700.0) -> dict[str, Any]:
    return {"v_tpump": 1, "v_tpmod": mode, "toi_tp": time_us, "v_tp_cnt": 5000}


@pytest.mark.parametrize(
    ("mode", "phase", "gains", "loses"),
    # A trap gives to whichever packet is nearest when the charge has moved on.
    [(123, 1, 99, 100), (123, 3, 101, 100), (234, 2, 99, 100), (234, 4, 101, 100),
     (341, 3, 99, 100), (341, 1, 100, 99), (412, 4, 99, 100), (412, 2, 100, 99),
     (123, 2, None, None), (123, 4, None, None), (341, 4, None, None), (412, 3, None, None)],
)  # fmt: skip
def test_every_mode_shows_traps_of_two_electrodes_with_opposite_senses(
    mode: int, phase: int, gains: int | None, loses: int | None
) -> None:
    change = pump(PumpingTruth(vertical=trap(100, 30, phase)), **vertical(mode))
    if gains is None:
        assert not change.any()
        return
    moved = 5000 * 0.4 * (np.exp(-0.7) - np.exp(-1.4))
    assert change[gains, 30] == pytest.approx(moved, rel=1e-4)
    assert change[loses, 30] == pytest.approx(-moved, rel=1e-4)
    assert np.count_nonzero(change) == 2


def test_the_charge_depends_on_the_time_as_capture_and_release_do() -> None:
    times = np.array([50.0, 300.0, 693.1, 1500.0, 5000.0])
    moved = [
        pump(PumpingTruth(vertical=trap(50, 5, 1)), **vertical(123, t))[49, 5] for t in times
    ]
    assert np.argmax(moved) == 2  # at tau ln 2, where it is a quarter of what is caught
    assert moved[2] == pytest.approx(5000 * 0.4 * 0.25, rel=1e-3)


def test_no_more_charge_is_moved_than_there_is() -> None:
    change = pump(PumpingTruth(vertical=trap(50, 5, 1, capture_e=0.9)), level=300.0,
                  **vertical(123))  # fmt: skip
    assert change[50, 5] == -300.0
    assert change.sum() == 0.0


def test_time_constants_are_those_of_silicon() -> None:
    kelvins = (148.0, 153.0, 158.0)
    for (energy, section), expected in (
        ((0.225, 5e-16), (585, 307, 168)), ((0.30, 1e-14), (10500, 4540, 2070)),
        ((0.20, 1e-14), (4.1, 2.3, 1.3)),
    ):  # fmt: skip
        found = [float(pumping.emission_us(energy, section, kelvin)) for kelvin in kelvins]
        assert found == pytest.approx(expected, rel=0.04)


def test_serial_pumping_is_the_same_on_every_row_and_leaves_the_line_late() -> None:
    truth = PumpingTruth(serial=trap(-1, 40, 2, capture_e=0.3, tau_us=2.0))
    change = pump(truth, s_tpump=1, s_tpmod=23, s_tp_cnt=5000, dwell_s=4.75)
    moved = 5000 * 0.3 * (1 - np.exp(-9.5 / 2.0))
    assert change[:, 39] == pytest.approx(moved, rel=1e-4)
    assert change[:, 40] == pytest.approx(-moved, rel=1e-4)
    assert (change[:, 0] == -LEVEL).all()
    assert not change[:, 41:].any()
    other = pump(truth, s_tpump=1, s_tpmod=31, s_tp_cnt=5000, dwell_s=4.75)
    assert not other[:, 1:].any()


def test_traps_of_a_block_survive_json_and_keep_apart() -> None:
    part = pumping.default(DETECTOR, "X", 7)
    again = pumping.prepare(json.loads(json.dumps(part)), DETECTOR)
    assert len(again) == DETECTOR.ccds * len(DETECTOR.names)
    traps = again["2G"].vertical
    assert np.array_equal(traps.row, pumping.prepare(part, DETECTOR)["2G"].vertical.row)
    assert 30 <= len(traps) <= 40
    assert traps.row.min() >= 3
    assert traps.row.max() < SHAPE[0] - 3
    assert set(traps.phase) == {1, 2, 3, 4}
    assert {-1, 0, 1} == set(traps.species)
    order = np.lexsort((traps.row, traps.column))
    same = np.diff(traps.column[order]) == 0
    assert (np.diff(traps.row[order])[same] >= 3).all()
    tau = traps.tau_us(153.0)[traps.species == 0]
    assert tau == pytest.approx(307.0, rel=0.02)
    assert not np.array_equal(traps.row, again["2H"].vertical.row)
    full = pumping.default(load_detector("ccd273"), "X", 7)
    assert 290 <= len(full["vertical"]["1E"]["row"]) <= 300


def test_pumping_without_traps_or_without_being_asked_changes_nothing() -> None:
    assert not pump(PumpingTruth(), **vertical(123)).any()
    assert not pump(PumpingTruth(vertical=trap(100, 30, 1)), v_tpump=0, s_tpump=0).any()
