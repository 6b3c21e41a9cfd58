# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the rotator daemon."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nightjar.config.load import DaemonConfig, StrictModel
from nightjar.errors import ConfigError


class SerialPort(StrictModel):
    """A serial port."""

    port: str = Field(
        min_length=1, max_length=255,
        description="Device (/dev/ttyS4, /dev/serial/by-id/...), or a URL of pyserial: "
        "socket://HOST:PORT, rfc2217://HOST:PORT.",
    )  # fmt: skip
    baud: int = Field(9600, ge=300, le=1_000_000, description="Bits per second.")
    timeout_s: float = Field(0.3, ge=0.05, le=1.5, description="Longest wait for an answer, s.")
    tries: int = Field(4, ge=1, le=10, description="How often a question is asked.")


class SmartMotor(SerialPort):
    """Animatics (Moog) SmartMotor."""

    kind: Literal["smartmotor"] = Field("smartmotor", description="Animatics (Moog) SmartMotor.")
    address: int | None = Field(
        None, ge=0, le=32, description="Address in a daisy chain; null: it is alone and has none."
    )
    echoes: bool = Field(False, description="Whether what is sent comes back, as in a daisy chain.")
    velocity_scale: float = Field(
        16.1089, gt=0, description="Units of V= per count/s (4 kHz servo rate: 65536 / 4069)."
    )
    acceleration_scale: float = Field(
        0.00396, gt=0, description="Units of A= per count/s2."
    )
    home_input: str = Field(
        "UAI", pattern="^U[A-G]I$", description="Input of the homing sensor: UAI to UGI."
    )
    home_level: Literal[0, 1] = Field(0, description="What it reads where the tab is in it.")


class GalilMotor(SerialPort):
    """Galil DMC controller."""

    kind: Literal["galil"] = Field("galil", description="Galil DMC controller, RS-232 or TCP.")
    axis: Literal["A", "B", "C", "D", "E", "F", "G", "H"] = Field("A", description="Its axis.")
    home_input: int = Field(1, ge=1, le=16, description="Digital input of the homing sensor.")
    home_level: Literal[0, 1] = Field(0, description="What it reads where the tab is in it.")


class ZaberMotor(SerialPort):
    """Zaber stage, ASCII protocol."""

    kind: Literal["zaber"] = Field("zaber", description="Zaber stage, ASCII protocol.")
    address: int = Field(1, ge=1, le=99, description="Address of the device in the chain.")
    axis: int = Field(1, ge=1, le=9, description="Its axis.")
    home_input: int = Field(1, ge=1, le=8, description="Digital input of the homing sensor.")
    home_level: Literal[0, 1] = Field(1, description="What it reads where the tab is in it.")


class IndiRotator(StrictModel):
    """A rotator behind an INDI server: motor and encoder are one."""

    kind: Literal["indi"] = Field("indi", description="A rotator behind an INDI server.")
    host: str = Field("127.0.0.1", min_length=1, max_length=255, description="Of the server.")
    port: int = Field(7624, ge=1, le=65535, description="TCP port of the server.")
    device: str = Field("Rotator Simulator", min_length=1, max_length=80, description="Its name.")
    timeout_s: float = Field(5.0, ge=0.5, le=60, description="Longest wait for an answer, s.")


class Simulated(StrictModel):
    """A rotator in this process, with the truth of its mechanics."""

    kind: Literal["simulated"] = Field("simulated", description="A rotator in this process.")
    seed: int = Field(1, ge=0, description="Of what comes by chance.")
    start_deg: float = Field(7.0, ge=-74, le=25, description="Where it is at first.")
    wires: Path | None = Field(
        None, strict=False,
        description="File of the simulated observatory's wires, which is told the true angle.",
    )  # fmt: skip


class SeiEncoder(SerialPort):
    """US Digital absolute encoder on the SEI bus."""

    kind: Literal["sei"] = Field("sei", description="US Digital A2 or AD2-4 on the SEI bus.")
    address: int = Field(0, ge=0, le=14, description="Address on the bus.")
    counts_per_turn: int = Field(
        4096, ge=2, le=65536, description="Resolution that it is set to when opened."
    )


class SimulatedEncoder(StrictModel):
    """The encoder of the simulated rotator."""

    kind: Literal["simulated"] = Field("simulated", description="That of the simulated motor.")


class IndiEncoder(StrictModel):
    """The angle that an INDI rotator tells."""

    kind: Literal["indi"] = Field("indi", description="What the INDI rotator tells.")


class NoLines(StrictModel):
    """No handshake."""

    kind: Literal["none"] = Field("none", description="Nothing is connected.")


class WiredLines(StrictModel):
    """The lines of the simulated observatory."""

    kind: Literal["wires"] = Field("wires", description="Of the simulated observatory.")
    file: Path = Field(strict=False, description="Its file of wires.")


class ModemLines(StrictModel):
    """The control lines of a serial port."""

    kind: Literal["modem"] = Field(
        "modem", description="Control lines of a serial port: CTS is ROTATE, DSR is ACQUIRED, DCD "
        "is TRACKING, RTS is ROTATING.",
    )  # fmt: skip
    port: str = Field(min_length=1, max_length=255, description="Device.")


class NoPower(StrictModel):
    """Nothing but the motor itself, or a hand, switches its supply."""

    kind: Literal["motor"] = Field(
        "motor", description="The motor itself, where it can; else a person is asked to."
    )


class PowerProgram(StrictModel):
    """A program that switches the motor's supply."""

    kind: Literal["program"] = Field(
        "program", description="A program of this host, for example that of a power strip."
    )
    command: tuple[str, ...] = Field(
        strict=False, min_length=1,
        description="Program and its arguments; 'on' or 'off' is added. No shell is involved.",
    )  # fmt: skip
    timeout_s: float = Field(5.0, gt=0, le=30, description="Longest that it may take.")


Power = Annotated[NoPower | PowerProgram, Field(discriminator="kind")]
Motor = Annotated[
    SmartMotor | GalilMotor | ZaberMotor | IndiRotator | Simulated, Field(discriminator="kind")
]
Encoder = Annotated[SeiEncoder | SimulatedEncoder | IndiEncoder, Field(discriminator="kind")]
Lines = Annotated[NoLines | WiredLines | ModemLines, Field(discriminator="kind")]


class Geometry(StrictModel):
    """How motor and encoder turn with the rotator."""

    large_teeth: int = Field(512, ge=1, description="Teeth of the gear on the rotator's flange.")
    small_teeth: int = Field(64, ge=1, description="Teeth of the gear on the encoder's shaft.")
    encoder_sign: Literal[1, -1] = Field(
        1, description="1: its counts rise counter-clockwise as seen from above."
    )
    motor_counts_per_deg: float = Field(gt=0, description="Motor counts per degree of rotator.")
    motor_sign: Literal[1, -1] = Field(
        1, description="1: its counts rise counter-clockwise as seen from above."
    )
    home_angle_deg: float = Field(
        0.0, ge=-360, le=360, description="Angle at the homing tab: the zero point."
    )
    low_deg: float = Field(-36.0, ge=-360, le=360, description="Lowest angle to be asked for.")
    high_deg: float = Field(24.0, ge=-360, le=360, description="Highest angle to be asked for.")
    low_switch_deg: float = Field(
        -75.0, ge=-720, le=720,
        description="About where the clockwise limit switch is: what is known after it was hit.",
    )  # fmt: skip
    high_switch_deg: float = Field(
        26.0, ge=-720, le=720, description="About where the counter-clockwise limit switch is."
    )
    ebox_right_deg: float = Field(
        24.0, ge=-360, le=360,
        description="Angle at which the electronics box is due right, over the motor.",
    )  # fmt: skip
    approach: Literal["cw", "ccw"] = Field(
        "cw", description="Direction of every final approach: that of homing, so that play cancels."
    )


class Motion(StrictModel):
    """How it moves."""

    speed_deg_s: float = Field(5.0, gt=0, le=90, description="Of coarse moves.")
    acceleration_deg_s2: float = Field(5.0, gt=0, le=360, description="Of all moves.")
    stop_deceleration_deg_s2: float = Field(20.0, gt=0, le=720, description="Of stops.")
    fine_speed_deg_s: float = Field(0.5, gt=0, le=10, description="Of final approaches.")
    tolerance_deg: float = Field(0.05, gt=0, le=5, description="Error that is accepted.")
    pass_by_deg: float = Field(1.0, gt=0, le=10, description="By how much a target is passed.")
    short_deg: float = Field(0.3, gt=0, le=10, description="How far before it a coarse move ends.")
    corrections: int = Field(5, ge=1, le=50, description="Fine moves in one direction.")
    still_deg: float = Field(0.012, gt=0, le=1, description="It is at rest within this.")
    move_timeout_s: float = Field(60.0, ge=5, le=600, description="After which a move is stopped.")
    slip_deg: float = Field(
        1.0, gt=0, le=20, description="Difference of motor and encoder that means a slip."
    )
    uncommanded_deg: float = Field(
        0.3, gt=0, le=20, description="Motion that nobody asked for and that is told."
    )


class Homing(StrictModel):
    """How the tab is sought."""

    speed_deg_s: float = Field(2.0, gt=0, le=20, description="Of the search.")
    approach_speed_deg_s: float = Field(1.0, gt=0, le=5, description="Towards the tab.")
    edge_speed_deg_s: float = Field(0.15, gt=0, le=2, description="Over its edge.")
    clockwise_deg: float = Field(
        28.0, gt=0, le=360,
        description="Search first so far clockwise: a little more than from the limit switch of "
        "the other end to the tab,",
    )  # fmt: skip
    counterclockwise_deg: float = Field(75.0, gt=0, le=360, description="then so far back.")
    clear_deg: float = Field(2.0, gt=0, le=20, description="How far it goes off the tab.")
    proofs: int = Field(3, ge=1, le=10, description="Approaches that prove the zero point.")
    spread_deg: float = Field(0.05, gt=0, le=1, description="Largest spread of them.")
    moved_tab_deg: float = Field(
        0.1, gt=0, le=5, description="Change of the zero point that is told: the tab was moved."
    )
    timeout_s: float = Field(180.0, ge=10, le=1800, description="After which it has failed.")


class Mounting(StrictModel):
    """The array as it was mounted from a date on."""

    since: date = Field(strict=False, description="First UT day.")
    fiducial_deg: float = Field(ge=-360, le=360, description="Array angle, from a beam map.")


class ArrayConfig(StrictModel):
    """The array and the best sampling."""

    mountings: tuple[Mounting, ...] = Field(
        strict=False, min_length=1, description="The newest that has begun is in force."
    )
    row_angle_deg: float = Field(10.7, ge=0, le=60, description="Between rows and scan.")
    symmetry_deg: float = Field(60.0, gt=0, le=360, description="Of the array.")
    sky_sign: Literal[1, -1] = Field(
        1, description="1: counter-clockwise lowers the array's position angle on the sky."
    )


class Auto(StrictModel):
    """The answer to the telescope."""

    is_on: bool = Field(False, description="Whether it rotates when asked, at the daemon's start.")
    axis: Literal["az", "el", "ra", "dec", "pa"] = Field("az", description="Of the scans.")
    angle_deg: float = Field(0.0, ge=-360, le=360, description="As the command scan takes it.")
    duration_s: float = Field(600.0, ge=0, le=86400, description="Of an observation.")


class RotdConfig(DaemonConfig):
    """A rotator."""

    motor: Motor = Field(description="What turns it.")
    encoder: Encoder = Field(description="What tells its angle.")
    power: Power = Field(NoPower(), description="What switches the motor's supply.")
    lines: Lines = Field(NoLines(), description="Status lines to and from the telescope.")
    geometry: Geometry = Field(description="Gears, zero point, range.")
    motion: Motion = Field(Motion(), description="Moves.")
    homing: Homing = Field(Homing(), description="Homing.")
    array: ArrayConfig = Field(description="What is rotated.")
    auto: Auto = Field(Auto(), description="Handshake with the telescope.")
    latitude_deg: float = Field(19.8224389, ge=-90, le=90, description="Of the telescope.")
    longitude_deg: float = Field(
        -155.4754972, ge=-180, le=360, description="Of the telescope, positive east."
    )
    telescope_daemon: str | None = Field(
        None, description="Registered name of the telescope log's daemon; null for none."
    )
    telescope_fresh_s: float = Field(
        5.0, gt=0, le=600, description="Older knowledge of the telescope is not used."
    )
    poll_s: float = Field(0.1, ge=0.02, le=1, description="Between readings.")

    @model_validator(mode="after")
    def _fits_together(self) -> RotdConfig:
        if self.geometry.low_deg >= self.geometry.high_deg:
            raise ValueError("geometry: low_deg must be below high_deg")
        if not (
            self.geometry.low_switch_deg < self.geometry.low_deg
            and self.geometry.high_deg < self.geometry.high_switch_deg
        ):
            raise ValueError("geometry: low_deg and high_deg must lie between the switches")
        if self.motor.kind == "indi" and (
            self.geometry.motor_counts_per_deg != 1000
            or self.geometry.large_teeth != self.geometry.small_teeth
        ):
            raise ValueError(
                "geometry: an INDI rotator tells its own angle: motor_counts_per_deg must be 1000, "
                "large_teeth and small_teeth equal"
            )
        pairs = {"simulated": "simulated", "indi": "indi"}
        for one, other in ((self.motor.kind, self.encoder.kind),
                           (self.encoder.kind, self.motor.kind)):  # fmt: skip
            if one in pairs and pairs[one] != other:
                raise ValueError(f"motor and encoder: {one} goes with {pairs[one]} only")
        return self

    def fiducial_deg(self, day: date) -> float:
        """Return the array's angle on a UT day.

        Raises
        ------
        ConfigError
            No mounting has begun by then.
        """
        begun = [one for one in self.array.mountings if one.since <= day]
        if not begun:
            raise ConfigError(f"array.mountings: none has begun on {day}; add the one in force")
        return max(begun, key=lambda one: one.since).fiducial_deg
