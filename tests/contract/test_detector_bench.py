# SPDX-License-Identifier: BSD-3-Clause
"""The detector contract against a simulated camera on a calibration bench; what it sees is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from contract.detector import Bench, DetectorContract
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import load_detector
from nightjar.clock import ManualClock
from nightjard.camd.drivers.base import FrameBuffer, Phase, Settings
from nightjard.camd.drivers.options import SimulatedOptions
from nightjard.camd.drivers.simulated import SimulatedDetector
from nightjard.simulators.detector.bench import Bench as DetectorBench
from nightjard.simulators.detector.truth import Truth

SMALL = {
    "name": "small", "ccds": 2, "quadrants": {
        "E": {"column": 0, "row": 1, "reads_from_top": True},
        "F": {"column": 1, "row": 1, "reads_from_right": True, "reads_from_top": True},
        "G": {"column": 1, "row": 0, "reads_from_right": True}, "H": {"column": 0, "row": 0},
    },
    "prescan": 10, "image_columns": 100, "overscan": 10, "image_rows": 92, "parallel_overscan": 4,
    "pixel_um": 12.0, "gain_e_adu": 3.5, "read_noise_e": 4.5, "full_well_e": 210000.0,
    "prescan_trim": [2, 2], "overscan_trim": [2, 2], "tile_px": 20,
}  # fmt: skip


@pytest.fixture
def described(tmp_path: Path) -> str:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL))
    return str(path)


def camera(described: str, clock: ManualClock, serial: str = "SIM1", **more: Any) -> Any:
    options = SimulatedOptions.model_validate_json(
        json.dumps({"serial": "SIM1", "bench": {"detector": described, "effects": "plain"}, **more})
    )
    return SimulatedDetector(options, serial, clock)


class TestBench(DetectorContract):
    @pytest.fixture
    def bench(self, described: str) -> Bench:
        clock = ManualClock()
        return Bench(
            make=lambda: camera(described, clock),
            make_missing=lambda: camera(described, clock, "SIM2"),
            clock=clock, tick=lambda: clock.advance(0.01), stamp_s=0.0,
        )  # fmt: skip


def test_controls_and_filter_decide_what_a_frame_shows(described: str) -> None:
    clock = ManualClock()
    device = camera(described, clock, filter_time=0.0)
    capabilities = device.open()
    detector, profile = load_detector(described), load_profile("B_NOSTROMO")
    reference = DetectorBench(
        detector, Truth.default(detector, "NOSTROMO", 1, "plain", {}), profile
    )
    defaults = {control.name: control.default for control in capabilities.controls}
    shape = (capabilities.readout.height, capabilities.readout.width)
    seen = []
    for obsid, name, given in (
        (7, "730", {"source": "flat"}), (8, "880", {"source": "flat"}),
        (9, "880", {"source": "point", "mirr_on": 1, "mirr_pos": 47.2}),
        (10, "880", {"source": "flat", "shuttr": 0}),
    ):  # fmt: skip
        device.move_filter(name)
        given = {**given, "obsid": obsid}
        device.configure(
            Settings(exposure_ns=500_000_000, controls=tuple(sorted(given.items())))
        )
        device.start()
        while device.poll().phase is not Phase.READY:
            clock.advance(0.05)
        pixels = np.zeros(shape, np.uint16)
        record = device.fetch(FrameBuffer("", 0, pixels), lambda: False)
        slot = [str(profile.wave_of(one)) for one in range(1, 7)].index(name) + 1
        values = {**defaults, **given, "exptime": 0.5, "wave": slot}
        frames = reference.expose(obsid, values, record.start_ns)
        assert np.array_equal(pixels, np.hstack([frames[1], frames[2]]))
        assert record.cards["SOURCE"][0] == given["source"]
        seen.append(pixels.mean())
    assert len(set(seen)) == 4
    assert seen[3] < min(seen[:3])  # the shutter stayed closed


def test_what_a_bench_decides_cannot_be_set_otherwise(described: str) -> None:
    with pytest.raises(ValidationError, match="the bench's frames have 480"):
        camera(described, ManualClock(), width=100)
    with pytest.raises(ValidationError, match="no detector 'ccd27'"):
        camera("ccd27", ManualClock())


def test_an_obsid_that_is_taken_again_has_other_noise(described: str) -> None:
    """A bias of an OBSID is no copy of the one before: that would be a stale frame."""
    clock = ManualClock()
    device = camera(described, clock)
    readout = device.open().readout
    frames = []
    for obsid in (5, 5, 5, 6):
        device.configure(Settings(exposure_ns=0, controls=(("obsid", obsid), ("shuttr", 0))))
        device.start()
        while device.poll().phase is not Phase.READY:
            clock.advance(0.05)
        frames.append(np.zeros((readout.height, readout.width), np.uint16))
        device.fetch(FrameBuffer("", 0, frames[-1]), lambda: False)
    assert len({frame.tobytes() for frame in frames}) == 4
    truth = Truth.default(load_detector(described), "NOSTROMO", 1, "plain", {})
    reference = DetectorBench(load_detector(described), truth, load_profile("B_NOSTROMO"))
    for obsid, frame in ((5, frames[0]), (6, frames[3])):
        expected = reference.expose(obsid, {"shuttr": 0}, 0)
        assert np.array_equal(frame, np.hstack([expected[1], expected[2]]))
