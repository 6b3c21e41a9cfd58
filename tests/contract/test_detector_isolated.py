# SPDX-License-Identifier: BSD-3-Clause
"""The detector contract through a child process, in real time."""

from __future__ import annotations

import pytest

from contract.detector import Bench, DetectorContract
from nightjard.camd.drivers.isolated import IsolatedDetector
from nightjard.camd.drivers.options import SimulatedOptions


class TestIsolated(DetectorContract):
    @pytest.fixture
    def bench(self, monkeypatch: pytest.MonkeyPatch) -> Bench:
        # A child that is held up is not hung.
        monkeypatch.setattr("nightjard.camd.drivers.isolated._CANCEL_S", 15.0)
        options = SimulatedOptions(
            call_timeout=15.0,
            width=240, height=96, stars=20, hardware_window=True, hardware_binnings=[1, 2],
            filters=["B", "V", "R"], filter_time=0.02, serial="SIM1",
        )  # fmt: skip

        def make(serial: str = "SIM1") -> IsolatedDetector:
            return IsolatedDetector(options, serial)

        return Bench(make=make, make_missing=lambda: make("SIM2"), exposure_s=0.02)
