# SPDX-License-Identifier: BSD-3-Clause
"""The table of detector drivers: a name in the configuration, never an import path."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightjar.clock import Clock
    from nightjard.camd.drivers.base import Detector
    from nightjard.camd.drivers.options import DriverOptions


def make_detector(options: DriverOptions, serial: int | str, clock: Clock) -> Detector:
    """Return the configured detector, not yet open; isolated in a child process if so asked.

    Parameters
    ----------
    options
        The ``driver`` part of the configuration.
    serial
        The ``camera_serial`` of the configuration.
    clock
        Time source; an isolated driver uses the system clock of its own process.
    """
    if options.isolated:
        from nightjard.camd.drivers.isolated import IsolatedDetector

        return IsolatedDetector(options, serial)
    return make_local_detector(options, serial, clock)


def make_local_detector(options: DriverOptions, serial: int | str, clock: Clock) -> Detector:
    """Return the configured detector in this process (vendor libraries load only here)."""
    from nightjard.camd.drivers.options import AtikOptions, IndiOptions, SimulatedOptions

    if isinstance(options, SimulatedOptions):
        from nightjard.camd.drivers.simulated import SimulatedDetector

        return SimulatedDetector(options, serial, clock)
    if isinstance(options, IndiOptions):
        from nightjard.camd.drivers.indi import IndiDetector

        return IndiDetector(options, serial, clock)
    if isinstance(options, AtikOptions):
        from nightjard.camd.drivers.atik import AtikDetector

        return AtikDetector(options, serial, clock)
    raise AssertionError(f"driver without an entry in the table: {options!r}")
