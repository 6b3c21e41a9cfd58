# SPDX-License-Identifier: BSD-3-Clause
"""What is said of the begin of an INDI exposure holds, whenever the process is held up."""

from __future__ import annotations

from kit.held_up import HeldUpClock
from nightjar.clock import ManualClock
from nightjar.indi.client import Vector
from nightjard.camd.drivers.indi_exposure import ExposureTracker


def test_the_error_of_the_start_has_the_time_in_which_we_were_held_up() -> None:
    clock = HeldUpClock(2.0)
    tracker = ExposureTracker(clock, "Camera", "CCD1")
    exposure = tracker.new(1_000_000_000)
    tracker.begin(exposure, 0)
    offset_ns = ManualClock.now_ns(clock) - clock.monotonic_ns()
    commanded_ns = clock.monotonic_ns() + offset_ns
    clock.advance(0.01)
    tracker.take_vector(Vector("Number", "Camera", "CCD_EXPOSURE", "Busy", {}, 1))
    assert exposure.confirmed_ns is not None
    assert exposure.sent_ns is not None
    error_ns = exposure.confirmed_ns - exposure.sent_ns  # as the frame's record tells it
    assert exposure.start_ns <= commanded_ns <= exposure.start_ns + error_ns
