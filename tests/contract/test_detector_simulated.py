# SPDX-License-Identifier: BSD-3-Clause
"""The detector contract against the simulated driver, in its variants, without real time."""

from __future__ import annotations

from typing import Any

import pytest

from contract.detector import Bench, DetectorContract
from nightjar.clock import ManualClock
from nightjard.camd.drivers.options import SimulatedOptions
from nightjard.camd.drivers.simulated import SimulatedDetector

SMALL: dict[str, Any] = {"width": 240, "height": 96, "stars": 20}


def simulated_bench(**options: Any) -> Bench:
    clock = ManualClock()

    def make(serial: str = "SIM1") -> SimulatedDetector:
        chosen = SimulatedOptions(**{**SMALL, "serial": "SIM1", **options})
        return SimulatedDetector(chosen, serial, clock)

    return Bench(
        make=make,
        make_missing=lambda: make("SIM2"),
        clock=clock,
        tick=lambda: clock.advance(0.01),
        stamp_s=0.0,
    )


class TestPlain(DetectorContract):
    @pytest.fixture
    def bench(self) -> Bench:
        return simulated_bench()


class TestAllInHardware(DetectorContract):
    @pytest.fixture
    def bench(self) -> Bench:
        return simulated_bench(
            hardware_window=True, hardware_binnings=[1, 2, 3, 4], cooler="setpoint",
            filters=["B", "V", "R", "I"], bias_region="[1:240,93:96]", dark_region="[1:20,1:92]",
        )  # fmt: skip


class TestBare(DetectorContract):
    @pytest.fixture
    def bench(self) -> Bench:
        return simulated_bench(
            stream_mode=False, hardware_id=False, cooler="none", exposure_min=0.001,
            noise="fresh", scene="flat",
        )  # fmt: skip


class TestFast(DetectorContract):
    @pytest.fixture
    def bench(self) -> Bench:
        return simulated_bench(render="fast", speed=100.0, readout_time=0.0)
