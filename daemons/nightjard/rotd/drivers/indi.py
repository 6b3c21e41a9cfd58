# SPDX-License-Identifier: BSD-3-Clause
"""A rotator behind an INDI server, motor and encoder in one: it moves by itself, tells its angle.

Property ``ABS_ROTATOR_ANGLE`` is angle and target, Busy while it moves; ``ROTATOR_ABORT_MOTION``
stops it. Angles of INDI go from 0 to 360: they are taken from -180 to 180 here, in thousandths.
Speeds are the device's own. There is no homing sensor: the angle that it tells is believed.
"""

from __future__ import annotations

import math

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import DeviceError, DeviceLost, DeviceNotFound, NightjarError
from nightjar.indi.client import IndiClient, Vector
from nightjard.rotd.config import IndiRotator as Options
from nightjard.rotd.drivers.base import EncoderReading, MotorCapabilities, MotorState

COUNTS_PER_DEG = 1000
_ANGLE, _MEMBER = "ABS_ROTATOR_ANGLE", "ANGLE"
_ABORT = "ROTATOR_ABORT_MOTION"
_BEGIN_S = 1.0  # until when it must have said that it moves


class IndiMotor:
    """What turns it; see :class:`nightjard.rotd.drivers.base.Motor`.

    Parameters
    ----------
    options
        Server and device.
    clock
        Times the readings.
    """

    def __init__(self, options: Options, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._client: IndiClient | None = None
        self._asked_revision = -1
        self._asked_ns = 0
        self.last_counts: int | None = None
        self.last_ns = 0

    # --- opening ---

    def open(self) -> MotorCapabilities:
        """Connect to the server, and the device to its hardware."""
        self.close()
        options = self._options
        client = IndiClient(
            options.host, options.port, self._clock, lambda _blob: None, lambda _vector: None
        )
        try:
            client.connect(options.timeout_s)
            self._connect(client)
        except NightjarError as error:
            client.close()
            raise DeviceNotFound(f"no INDI rotator {options.device}: {error.message}") from error
        self._client = client
        return MotorCapabilities(
            options.device, self._version(client), False, False, False, keeps_position=True
        )

    def _connect(self, client: IndiClient) -> None:
        name, timeout = self._options.device, self._options.timeout_s
        connection = client.wait(
            lambda: client.find(name, "CONNECTION"), timeout, f"device {name}"
        )
        if not connection.is_on("CONNECT"):
            client.set(connection, {"CONNECT": True, "DISCONNECT": False})
        client.wait(lambda: client.find(name, _ANGLE), timeout, f"{_ANGLE} of {name}")

    def _version(self, client: IndiClient) -> str:
        found = client.find(self._options.device, "DRIVER_INFO")
        member = None if found is None else found.members.get("DRIVER_VERSION")
        return str(member.value) if member is not None else ""

    def close(self) -> None:
        """Close the connection; the device stays as it is."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _opened(self) -> tuple[IndiClient, Vector]:
        client = self._client
        if client is None:
            raise DeviceLost(f"the INDI rotator {self._options.device} is not open")
        client.check()
        found = client.find(self._options.device, _ANGLE)
        if found is None:
            raise DeviceLost(
                f"INDI server at {client.address}: {self._options.device} is not connected to its "
                f"hardware any more ({client.last_message(self._options.device) or 'no reason'})"
            )
        return client, found

    # --- the motor ---

    def state(self) -> MotorState:
        """Return what the server told last."""
        client, vector = self._opened()
        angle = vector.number(_MEMBER)
        if not math.isfinite(angle):
            raise DeviceLost(f"{self._options.device} tells no angle")
        self.last_counts = counts_of(angle)
        self.last_ns = self._clock.now_ns()
        waited = (self._clock.monotonic_ns() - self._asked_ns) / NS_PER_S
        is_unheard = vector.revision <= self._asked_revision and waited < _BEGIN_S
        fault = ""
        if vector.state == "Alert" and not is_unheard:
            fault = client.last_message(self._options.device) or "state Alert"
        return MotorState(
            counts=self.last_counts, is_moving=vector.state == "Busy" or is_unheard,
            is_powered=True, is_home=None, is_limit_low=False, is_limit_high=False, fault=fault,
        )  # fmt: skip

    def move_to(self, counts: int, _speed: float, _acceleration: float) -> None:
        """Start an absolute move; the speed is the device's own."""
        client, vector = self._opened()
        angle = counts / COUNTS_PER_DEG % 360.0
        self._asked_revision = client.set(vector, {_MEMBER: angle})
        self._asked_ns = self._clock.monotonic_ns()

    def stop(self, _deceleration: float) -> None:
        """Abort the motion."""
        client, vector = self._opened()
        abort = client.find(self._options.device, _ABORT)
        self._asked_revision = -1
        if abort is not None:
            client.set(abort, {"ABORT": True})
        elif vector.state == "Busy":
            raise DeviceError(
                f"{self._options.device} has no {_ABORT}: it cannot be stopped from here"
            )

    def set_counts(self, counts: int) -> None:
        """Refuse: its zero point is its own.

        Raises
        ------
        DeviceError
            Always.
        """
        raise DeviceError(f"{self._options.device} keeps its own zero point ({counts} asked)")

    def set_power(self, on: bool) -> None:
        """Refuse: INDI rotators have no such switch.

        Raises
        ------
        DeviceError
            Always.
        """
        word = "on" if on else "off"
        raise DeviceError(f"{self._options.device} cannot be switched {word} from here")

    def clear(self) -> None:
        """Nothing is latched."""


class IndiEncoder:
    """What the rotator tells of its angle: the same that the motor's state is made of.

    Parameters
    ----------
    motor
        Has the connection.
    clock
        Stamps the readings.
    """

    def __init__(self, motor: IndiMotor, clock: Clock) -> None:
        self._motor = motor
        self._clock = clock

    @property
    def counts_per_turn(self) -> int:
        """Counts of a turn."""
        return 360 * COUNTS_PER_DEG

    def open(self) -> str:
        """See that there is an angle."""
        self.read()
        return "INDI"

    def close(self) -> None:
        """Nothing is to be closed: the motor has the connection."""

    def read(self) -> EncoderReading:
        """Return the angle that the motor's last state has: both must tell one moment."""
        if self._motor.last_counts is None:
            self._motor.state()
        counts = self._motor.last_counts
        assert counts is not None
        return EncoderReading(counts, self._motor.last_ns, False)


def counts_of(angle_deg: float) -> int:
    """Return an angle of INDI as counts from -180 to 180 degrees."""
    wrapped = (angle_deg + 180.0) % 360.0 - 180.0
    return round(wrapped * COUNTS_PER_DEG)
