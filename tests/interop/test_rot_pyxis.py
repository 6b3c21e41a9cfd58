# SPDX-License-Identifier: BSD-3-Clause
"""The INDI project's driver of Optec's Pyxis rotator drives our simulator of it on a pty."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.indi import IndiServer
from kit.site import eventually
from nightjar.clock import SystemClock
from nightjard.simulators.rotator.mechanics import Mechanics, Parameters
from nightjard.simulators.rotator.pyxis import PyxisDevice
from nightjard.simulators.rotator.wire import Pty

pytestmark = pytest.mark.needs(
    "indiserver", "indi_pyxis_rotator", "indi_setprop", "indi_getprop"
)


@pytest.fixture
def server(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[IndiServer]:
    folder = tmp_path / "indi"
    folder.mkdir()
    server = IndiServer(folder, free_ports(1)[0], "indi_pyxis_rotator")
    server.start()
    yield server
    server.stop()


def indi(program: str, server: IndiServer, *words: str) -> str:
    """Run one of the INDI project's own clients."""
    done = subprocess.run(
        [program, "-p", str(server.port), "-t", "15", *words], capture_output=True, text=True,
        check=False, timeout=30, env={**os.environ, "HOME": str(server.folder)},
    )  # fmt: skip
    return done.stdout.strip()


def test_the_real_driver_turns_it_and_reads_the_truth(server: IndiServer, tmp_path: Path) -> None:
    mechanics = Mechanics(
        SystemClock(),
        Parameters(start_deg=0.0, belt_play_deg=0.0, stiction_deg=0.0, stretch_s2=0.0,
                   limit_low_deg=-181.0, limit_high_deg=181.0),
    )  # fmt: skip
    device = PyxisDevice(mechanics, speed_deg_s=60.0)
    with Pty(device, tmp_path / "pyxis") as port:
        vector = "Pyxis.ABS_ROTATOR_ANGLE"
        angle = f"{vector}.ANGLE"
        eventually(lambda: indi("indi_getprop", server, "-1", "Pyxis.DEVICE_PORT.PORT"))
        indi("indi_setprop", server, f"Pyxis.DEVICE_PORT.PORT={port.path}")
        indi("indi_setprop", server, "Pyxis.CONNECTION.CONNECT=On")
        eventually(lambda: indi("indi_getprop", server, "-1", angle), 20)
        for target, truth in ((77, 77.0), (330, -30.0)):
            indi("indi_setprop", server, f"{angle}={target}")
            eventually(lambda t=target: f"CPA{t:03d}" in device.received, 20)
            eventually(lambda t=truth: abs(mechanics.load_deg - t) < 1e-6, 20)
            # Not before it has read the end of the motion: while it moves it hears nothing.
            eventually(lambda: indi("indi_getprop", server, "-1", f"{vector}._STATE") == "Ok", 20)
            eventually(
                lambda t=target: float(indi("indi_getprop", server, "-1", angle) or -1) == t, 20
            )
        indi("indi_setprop", server, "Pyxis.ROTATOR_HOME.HOME=On")
        eventually(lambda: abs(mechanics.load_deg) < 1e-6, 20)
    assert {"CCLINK", "CMREAD", "CGETPA", "CHOMES"} <= set(device.received)
