# SPDX-License-Identifier: BSD-3-Clause
"""What the live view says of channels, against samples of which all is known."""

from __future__ import annotations

import numpy as np
import pytest

from nightjar.das.channels import BOLOCAM
from nightjar.errors import InvalidArgument
from nightjard.dasd.config import LevelsConfig
from nightjard.dasd.levels import Levels, Ring, described, select, spectrum
from nightjard.dasd.plotting import draw

LSB = 20 / 65536


def filled(seconds: float = 10.0, rate_hz: float = 50.0) -> Ring:
    """Return white noise of 6 counts; 3 is dead, 5 saturated, 24 low, 25 high, 31 in between."""
    ring = Ring(rate_hz, 384)
    random = np.random.default_rng(1)
    samples = np.rint(random.normal(0, 6, (round(seconds * rate_hz), 384))).astype(np.int16)
    samples[:, 3] = 17
    samples[::10, 5] = 32767
    samples[:, 24], samples[:, 25], samples[:, 31] = 490, 15070, 2785
    for first in range(0, len(samples), 5):
        ring.add(samples[first : first + 5], first * 20_000_000)
    return ring


def test_levels_are_those_of_the_samples() -> None:
    levels = Levels(filled(), BOLOCAM, LevelsConfig(), LSB)
    told = levels.measure(12_000_000_000)
    rows = {row["channel"]: row for row in told["channels"]}
    assert told["dead"] == [3]
    assert told["saturated"] == [5]
    assert rows[5]["saturated"] == 50
    assert (told["lines"]["acq_das"], told["lines"]["trck_das"]) == (0, 1)
    assert told["lines"]["rot_lim"] == -1
    assert told["seconds"] == 10.0
    assert told["age_s"] == pytest.approx(12 - 9.9, abs=1e-3)
    assert 28 not in rows  # nothing is connected there
    assert rows[0]["rms_v"] == pytest.approx(6 * LSB, rel=0.1)
    # White noise of s per sample at rate f has s * sqrt(2 / f) per root Hz; a median of Welch's
    # estimates lies a little below their mean.
    noise = np.median([rows[n]["noise_v_rthz"] for n in range(64, 88)])
    assert noise == pytest.approx(6 * LSB * np.sqrt(2 / 50), rel=0.1)


def test_a_sine_stands_in_the_spectrum_with_its_power() -> None:
    seconds = np.arange(2000) / 50
    volts = (0.5 * np.sin(2 * np.pi * 7 * seconds))[:, None].astype(np.float32)
    frequency, density = spectrum(volts, 50.0)
    assert frequency[density[:, 0].argmax()] == pytest.approx(7.0, abs=0.26)
    power = float((density[:, 0] ** 2).sum() * (frequency[1] - frequency[0]))
    assert power == pytest.approx(0.125, rel=0.02)


def test_the_ring_keeps_the_last_in_order() -> None:
    ring = Ring(1.0, 8)
    for first in range(0, 200, 7):
        block = np.arange(first, first + 7, dtype=np.int16)[:, None] * np.ones(8, np.int16)
        ring.add(block, first)
    rows, _ = ring.last(1000)
    assert len(rows) == 60
    assert (np.diff(rows[:, 0]) == 1).all()
    assert rows[-1, 0] == 202
    assert ring.last(3)[0][:, 0].tolist() == [200, 201, 202]
    ring.clear()
    assert len(ring.last(10)[0]) == 0


def test_nothing_is_said_of_no_samples() -> None:
    levels = Levels(Ring(50.0, 384), BOLOCAM, LevelsConfig(), LSB)
    told = levels.measure(0)
    assert (told["utc_ns"], told["channels"], told["age_s"]) == (None, [], None)
    assert levels.trace([0], 10, 10)["channels"][0]["low_v"] == []


def test_a_trace_keeps_every_peak() -> None:
    ring = filled()
    samples, _ = ring.last(10)
    row = Levels(ring, BOLOCAM, LevelsConfig(), LSB).trace([0], 10, 7)["channels"][0]
    assert len(row["low_v"]) == len(row["high_v"]) == 7
    assert max(row["high_v"]) == pytest.approx(samples[:, 0].max() * LSB, abs=1e-6)
    assert min(row["low_v"]) == pytest.approx(samples[:, 0].min() * LSB, abs=1e-6)


def test_channels_by_number_range_and_name() -> None:
    assert select(BOLOCAM, ["3", "64-66", "3"]) == [3, 64, 65, 66]
    assert select(BOLOCAM, ["trck_das"]) == [25]
    assert len(select(BOLOCAM, ["bolometers"])) == 288
    assert select(BOLOCAM, ["hextant2"]) == [*range(64, 88), *range(96, 120)]
    for word in ("384", "5-3", "nosuch"):
        with pytest.raises(InvalidArgument):
            select(BOLOCAM, [word])


def test_modules_and_inputs_are_those_of_the_wiring() -> None:
    rows = described(BOLOCAM)
    assert (rows[25]["module"], rows[25]["input"], rows[25]["name"]) == (1, 25, "trck_das")
    assert (rows[344]["module"], rows[344]["name"]) == (11, "ref_acbias")
    assert (rows[376]["module"], rows[376]["input"]) == (12, 24)
    assert rows[28]["kind"] is None
    assert len(rows) == 384


def test_a_picture_is_a_png() -> None:
    facts = {
        "kind": "levels", "rate_hz": 50.0, "volts_per_lsb": LSB, "title": "test",
        "names": [str(n) for n in range(384)], "channels": list(range(384)),
    }  # fmt: skip
    png = draw(filled().last(10)[0], facts)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(png) > 5000
