# SPDX-License-Identifier: BSD-3-Clause
"""The DAS in the simulated observatory: edges of lines come out at their true times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nightjar.clock import NS_PER_S, ManualClock
from nightjar.config.load import parse
from nightjar.das.channels import BOLOCAM
from nightjar.das.lines import Line, levels
from nightjar.errors import DeviceNotFound
from nightjard.dasd.config import DasConfig
from nightjard.dasd.drivers import make_adc
from nightjard.dasd.drivers.observed import WiredSignals
from nightjard.dasd.pipeline import Pipeline
from nightjard.simulators.observatory.adc import Adc, AdcParameters
from nightjard.simulators.observatory.scenes import WiresScene
from nightjard.simulators.wires import Wires

OFFSET_S, DRIFT_PPM = 0.8, -27.0


def das_config(wires: Path) -> DasConfig:
    driver = {
        "name": "simulated", "wires": str(wires), "offset_s": OFFSET_S, "drift_ppm": DRIFT_PPM,
        "crystal_ppm": 3.0,
    }  # fmt: skip
    value = {
        "daemon": "das", "log_name": "das", "control_machines": [], "raw_root": "/raw",
        "adc": {"driver": driver},
    }  # fmt: skip
    return parse(value, DasConfig, "test")


def test_edges_are_seen_at_their_times_by_the_wrong_clock(tmp_path: Path) -> None:
    config = das_config(tmp_path / "wires")
    clock = ManualClock()
    adc = make_adc(config, clock)
    adc.open()
    adc.start()
    start_ns = clock.now_ns()
    wires = Wires.ensure(tmp_path / "wires")
    random = np.random.default_rng(5)
    true_ns = start_ns + np.cumsum(random.uniform(0.4, 1.5, 40) * NS_PER_S).astype(np.int64)
    for place, when in enumerate(true_ns.tolist()):
        wires.set_line(Line.TRACKING, place % 2 == 0, when)
    pipeline = Pipeline(50.0, 384)
    (channel,) = BOLOCAM.channels_of(Line.TRACKING.variable)
    volts: list[float] = []
    times: list[float] = []
    while clock.now_ns() < true_ns[-1] + 3 * NS_PER_S:
        clock.advance(0.1)
        while (block := adc.read(0.0)) is not None:
            pipeline.take(block)
            assert (pipeline.samples.is_settled) or len(volts) < 50
            utc_ns = pipeline.samples.time_ns(block.counter) + (pipeline.wall.offset_ns or 0)
            times += (utc_ns + np.arange(5) * pipeline.samples.period_ns).tolist()
            volts += (block.samples[:, channel] * np.float64(20 / 65536)).tolist()
    level = levels(np.array(volts))
    seen = np.array(times)[1:][np.diff(level) != 0]
    assert seen.size == true_ns.size
    # By the host's clock, which is ahead and loses; a sample comes up to 20 ms after the edge.
    late = (
        (seen - true_ns) / NS_PER_S - OFFSET_S - (true_ns - start_ns) / NS_PER_S * DRIFT_PPM / 1e6
    )
    delay = AdcParameters().delays_s[Line.TRACKING] - channel * config.adc.convert_interval_s
    settled = late[3:]
    assert settled.min() > delay - 0.001
    assert settled.max() < delay + 0.0215
    assert settled.mean() == pytest.approx(delay + 0.010, abs=0.003)


def test_samples_made_ahead_are_those_made_at_once(tmp_path: Path) -> None:
    config = das_config(tmp_path / "wires")
    wires = Wires.ensure(tmp_path / "wires")
    wires.set_line(Line.ACQUIRED, True, 10 * NS_PER_S)
    times = 9 * NS_PER_S + np.arange(100, dtype=np.int64) * 19_999_940
    whole = Adc(WiresScene(wires), BOLOCAM, AdcParameters(seed=1)).samples(times, 700)
    signals = WiredSignals(tmp_path / "wires", BOLOCAM, config.adc, 1)
    parts = [signals.samples(times[n : n + 5], 700 + n) for n in range(0, 100, 5)]
    # Times of a block tell the period to a nanosecond: 100 ns after half a second.
    assert np.abs(np.concatenate(parts).astype(int) - whole).max() <= 1
    jumped = signals.samples(times[:5] + 7 * NS_PER_S, 805)
    again = Adc(WiresScene(wires), BOLOCAM, AdcParameters(seed=1))
    assert np.array_equal(jumped, again.samples(times[:5] + 7 * NS_PER_S, 805))


def test_wires_that_cannot_be_made_are_told(tmp_path: Path) -> None:
    clock = ManualClock()
    adc = make_adc(das_config(tmp_path / "nowhere/wires"), clock)
    adc.open()
    adc.start()
    clock.advance(2)
    with pytest.raises(DeviceNotFound, match="nightjar simulate das"):
        adc.read(0.0)
