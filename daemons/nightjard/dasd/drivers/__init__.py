# SPDX-License-Identifier: BSD-3-Clause
"""Drivers of ADCs, by their name in the configuration."""

from __future__ import annotations

from nightjar.clock import Clock
from nightjard.dasd.config import DasConfig, NidaqmxConfig
from nightjard.dasd.drivers.base import Adc


def make_adc(config: DasConfig, clock: Clock) -> Adc:
    """Return the configured ADC, not open; libraries of makers load only here."""
    options = config.adc.driver
    count = config.channels.count
    if isinstance(options, NidaqmxConfig):
        from nightjard.dasd.drivers.nidaqmx import NidaqmxAdc

        return NidaqmxAdc(options, config.adc, count, clock)
    from nightjard.dasd.drivers.plain_signals import PlainSignals
    from nightjard.dasd.drivers.simulated import SimulatedAdc

    signals = PlainSignals(config.channels, config.adc.volts_per_lsb, options.seed)
    return SimulatedAdc(options, config.adc, count, clock, signals)
