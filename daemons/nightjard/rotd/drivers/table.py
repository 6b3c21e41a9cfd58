# SPDX-License-Identifier: BSD-3-Clause
"""Drivers by the names in the configuration."""

from __future__ import annotations

from nightjar.clock import Clock
from nightjard.rotd import config as options
from nightjard.rotd.config import RotdConfig
from nightjard.rotd.drivers.base import Encoder, Lines, Motor, PowerSwitch
from nightjard.rotd.drivers.galil import GalilMotor
from nightjard.rotd.drivers.indi import IndiEncoder, IndiMotor
from nightjard.rotd.drivers.lines import ModemLines, NoLines, WiredLines
from nightjard.rotd.drivers.power import ProgramSwitch
from nightjard.rotd.drivers.sei import SeiEncoder
from nightjard.rotd.drivers.simulated import SimulatedEncoder, SimulatedMotor
from nightjard.rotd.drivers.smartmotor import SmartMotor
from nightjard.rotd.drivers.zaber import ZaberMotor
from nightjard.simulators.rotator.mechanics import Mechanics, Parameters
from nightjard.simulators.wires import Wires


def make_devices(config: RotdConfig, clock: Clock) -> tuple[Motor, Encoder]:
    """Return motor and encoder of a configuration, not yet opened."""
    motor, encoder = config.motor, config.encoder
    if isinstance(motor, options.Simulated):
        mechanics = _mechanics(config, motor, clock)
        return SimulatedMotor(mechanics), SimulatedEncoder(mechanics, clock)
    if isinstance(motor, options.IndiRotator):
        device = IndiMotor(motor, clock)
        return device, IndiEncoder(device, clock)
    made: Motor
    if isinstance(motor, options.SmartMotor):
        made = SmartMotor(motor, clock)
    elif isinstance(motor, options.GalilMotor):
        made = GalilMotor(motor, clock)
    else:
        made = ZaberMotor(motor, clock)
    if not isinstance(encoder, options.SeiEncoder):
        raise AssertionError(f"encoder {encoder.kind} without its motor")  # config.py refuses it
    return made, SeiEncoder(encoder, clock)


def _mechanics(config: RotdConfig, motor: options.Simulated, clock: Clock) -> Mechanics:
    geometry = config.geometry
    parameters = Parameters(
        motor_counts_per_deg=geometry.motor_counts_per_deg,
        gear=geometry.large_teeth / geometry.small_teeth, start_deg=motor.start_deg,
        limit_low_deg=geometry.low_switch_deg, limit_high_deg=geometry.high_switch_deg,
    )  # fmt: skip
    tell = None
    if motor.wires is not None:
        tell = Wires.ensure(motor.wires).put_angle
    return Mechanics(clock, parameters, seed=motor.seed, on_angle=tell)


def make_lines(config: options.Lines) -> Lines:
    """Return the status lines of a configuration, not yet opened."""
    if isinstance(config, options.WiredLines):
        return WiredLines(config.file)
    if isinstance(config, options.ModemLines):
        return ModemLines(config.port)
    return NoLines()


def make_power(config: options.Power) -> PowerSwitch | None:
    """Return the switch of the motor's supply; None where the motor itself is asked."""
    return ProgramSwitch(config) if isinstance(config, options.PowerProgram) else None
