# SPDX-License-Identifier: BSD-3-Clause
"""The simulated detector's charge injection: levels, halves, rows, pattern, spill."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from nightjar.calibration.detector import load_detector
from nightjard.simulators.detector import injection
from nightjard.simulators.detector.injection import InjectionTruth
from nightjard.simulators.detector.seeds import key_of

DETECTOR = load_detector("ccd273-8th")
TRUTH = injection.prepare(json.loads(json.dumps(injection.default(DETECTOR, "X", 3))), DETECTOR)
VALUES: dict[str, Any] = {
    "chinj": 1, "chinj_on": 30, "chinj_of": 100, "toi_ch": 500, "id_dly": 1250, "id_wid": 60,
    "IDL": 11.0, "IG1_1_T": 4.0, "IG1_1_B": 4.5, "IG1_2_T": 2.5,
}  # fmt: skip


def inject(quadrant: str = "E", ccd: int = 1, obsid: int = 1, **changes: Any) -> np.ndarray:
    electrons = np.zeros((DETECTOR.image_rows, DETECTOR.image_columns), np.float32)
    injection.apply(
        electrons, TRUTH, values={**VALUES, **changes}, ccd=ccd, quadrant=quadrant,
        detector=DETECTOR, temperature_k=153.0, key=lambda text: key_of(obsid, quadrant, text),
    )  # fmt: skip
    return electrons


@pytest.mark.parametrize(
    ("delay", "injected"), [(1250, "EF"), (750, "GH"), (1000, ""), (500, ""), (1600, "")]
)
def test_the_delay_of_the_drain_says_which_half_is_injected(delay: int, injected: str) -> None:
    lit = "".join(name for name in DETECTOR.names if inject(name, id_dly=delay).any())
    assert lit == injected


def test_nothing_is_injected_without_a_pulse_or_without_being_asked() -> None:
    assert not inject(chinj=0).any()
    assert not inject(id_wid=9).any()


def test_rows_are_injected_in_cycles_from_the_first_that_is_read() -> None:
    rows = np.median(inject(), axis=1)
    on = rows > 1000
    assert on[:30].all()
    assert not on[30:130].any()
    assert on[130:160].all()
    assert not on[160:].any()
    spill = rows[[30, 160]] / np.median(rows[on])
    assert spill == pytest.approx(0.005, rel=0.05)
    assert rows[[31, 100, 161]] == pytest.approx(0.0)
    assert (np.median(inject(chinj_on=2066, chinj_of=0), axis=1) > 1000).all()


def test_each_ccd_and_half_has_the_voltage_of_its_own_gate() -> None:
    below = np.median(inject(ccd=2)[:30])
    assert below < 0.01 * np.median(inject(ccd=1)[:30])  # 2.5 V lies below every threshold
    lower = np.median(inject("G", id_dly=750)[:30]) / DETECTOR.gain_e_adu
    assert lower == pytest.approx(TRUTH["1G"].level_adu(4.5, 11.0), rel=0.01)


def test_level_follows_gate_and_drain() -> None:
    truth = InjectionTruth()
    full = 65536 * truth.drain(11.0)
    assert truth.drain(11.3) == pytest.approx(0.5)
    assert truth.level_adu(6.5, 11.0) == pytest.approx(full * 0.02, rel=1e-6)  # the notch alone
    assert truth.level_adu(4.5, 11.0) == pytest.approx(full * (0.05 + 0.02), rel=1e-6)
    assert truth.level_adu(3.0, 11.0) == pytest.approx(full * 0.5 * (0.125 + 0.02), rel=1e-6)
    assert truth.level_adu(2.0, 11.0) < 0.01
    assert truth.level_adu(4.0, 13.0) < 1.0


def test_columns_have_a_fixed_pattern_and_pixels_a_noise_of_their_own() -> None:
    first, second = inject(obsid=1)[:30], inject(obsid=2)[:30]
    level = np.median(first)
    columns = first.mean(axis=0) / level
    assert columns.std() == pytest.approx(0.02, rel=0.2)
    assert np.corrcoef(columns, second.mean(axis=0))[0, 1] > 0.99
    assert ((first - second) / level).std() == pytest.approx(0.003 * np.sqrt(2), rel=0.05)
    assert np.array_equal(first, inject(obsid=1)[:30])
    assert abs(np.corrcoef(columns, inject("F", obsid=1)[:30].mean(axis=0))[0, 1]) < 0.3


def test_what_a_fit_should_find_is_told_for_the_gain_and_the_drain() -> None:
    truth = TRUTH["1E"]
    seen = truth.as_seen(11.0, gain_ratio=1.02)
    volts = np.array([truth.notch_v - 1.0, truth.notch_v])
    high, low = (truth.level_adu(float(v), 11.0) * 1.02 for v in volts)
    assert seen["n_adu"] == pytest.approx(low, rel=1e-6)
    assert seen["slope"] == pytest.approx(high - low, rel=1e-6)
