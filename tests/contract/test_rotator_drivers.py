# SPDX-License-Identifier: BSD-3-Clause
"""Motors and encoders of rotators against their contract: in process, and on pseudo-terminals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contract.rotator import RotatorContract, WireContract
from kit.rotator import Bench, pty_bench, simulated_bench


class TestSimulated(RotatorContract):
    @pytest.fixture
    def bench(self) -> Bench:
        return simulated_bench()

    def expect_silence(self, bench: Bench) -> None:
        assert not bench.motor.state().is_powered


class OnPty(WireContract):
    kind = ""

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        bench = pty_bench(self.kind)
        yield bench
        bench.close()


class TestSmartMotor(OnPty):
    kind = "smartmotor"


class TestSmartMotorWithEcho(OnPty):
    kind = "echo"


class TestSmartMotorInChain(OnPty):
    kind = "address"


class TestGalil(OnPty):
    kind = "galil"


class TestZaber(OnPty):
    kind = "zaber"
