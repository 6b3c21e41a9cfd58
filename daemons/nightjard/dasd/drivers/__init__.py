# SPDX-License-Identifier: BSD-3-Clause
"""Drivers of ADCs, by their name in the configuration."""

from __future__ import annotations

from pathlib import Path

from nightjar.clock import Clock
from nightjard.dasd.config import DasConfig, NidaqmxConfig
from nightjard.dasd.drivers.base import Adc

WIRES_DELAY_S = 1.0
"""Samples are made up half a second at once, and others drive the wires a little late."""


def make_adc(config: DasConfig, clock: Clock) -> Adc:
    """Return the configured ADC, not open; libraries of makers load only here."""
    options = config.adc.driver
    count = config.channels.count
    if isinstance(options, NidaqmxConfig):
        from nightjard.dasd.drivers.nidaqmx import NidaqmxAdc

        return NidaqmxAdc(options, config.adc, count, clock)
    from nightjard.dasd.drivers.simulated import SimulatedAdc

    if options.wires is not None:
        from nightjard.dasd.drivers.observed import WiredSignals

        wired = WiredSignals(Path(options.wires), config.channels, config.adc, options.seed)
        return SimulatedAdc(options, config.adc, count, clock, wired, WIRES_DELAY_S)
    from nightjard.dasd.drivers.plain_signals import PlainSignals

    signals = PlainSignals(config.channels, config.adc.volts_per_lsb, options.seed)
    return SimulatedAdc(options, config.adc, count, clock, signals)
