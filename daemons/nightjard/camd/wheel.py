# SPDX-License-Identifier: BSD-3-Clause
"""The filter wheel of an open detector: moved by name, watched until it has arrived."""

from __future__ import annotations

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Cancelled, Code, DeviceError, NightjarError, Refused
from nightjar.operations import Operation, Operations
from nightjard.camd.config import CameraConfig
from nightjard.camd.cooler import Cooler
from nightjard.camd.drivers.base import Capabilities, Detector

FILTER_TIMEOUT_S = 60.0
_POLL_S = 0.2


class FilterWheel:
    """Names of the configuration in front of the device's positions. Used by the owner thread.

    Parameters
    ----------
    config
        May give names of its own, one per position.
    detector, capabilities
        The device, open.
    cooler
        Takes the telemetry in which the wheel's position stands.
    operations, clock
        Parts of the runtime.

    Raises
    ------
    Refused
        BAD_CONFIG: not one name per position.
    """

    def __init__(
        self,
        config: CameraConfig,
        detector: Detector,
        capabilities: Capabilities,
        cooler: Cooler,
        operations: Operations,
        clock: Clock,
    ) -> None:
        self._detector = detector
        self._device_names = capabilities.filters
        self._cooler = cooler
        self._operations = operations
        self._clock = clock
        self._wanted: str | None = None
        self._operation: Operation | None = None
        self._deadline_ns = 0
        self._checked_ns = 0
        self.names = tuple(config.filters or capabilities.filters)
        if len(self.names) != len(self._device_names):
            raise Refused(
                f"filters: {len(self.names)} names are configured for a wheel of "
                f"{len(self._device_names)} positions", code=Code.BAD_CONFIG,
            )  # fmt: skip

    @property
    def is_moving(self) -> bool:
        """Whether it is on its way."""
        return self._wanted is not None

    @property
    def name(self) -> str | None:
        """The filter in the beam; None without a wheel or while it moves."""
        device_name = self._cooler.reading.telemetry.filter
        if device_name not in self._device_names:
            return None
        return self.names[self._device_names.index(device_name)]

    def check(self, name: str) -> str:
        """Return the device's name of a filter, or raise Refused (UNKNOWN_FILTER)."""
        if name not in self.names:
            known = ", ".join(self.names) or "this camera has no filter wheel"
            raise Refused(
                f"filter {name!r} is not installed; known: {known}", code=Code.UNKNOWN_FILTER
            )
        return self._device_names[self.names.index(name)]

    def move(self, name: str) -> Operation:
        """Start moving; the operation ends when the filter is in the beam."""
        device_name = self.check(name)
        self._detector.move_filter(device_name)
        operation = self._operations.begin("filter")
        if self._operation is not None:
            self._operation.fail(Cancelled(f"the filter wheel was sent to {name}"))
        self._wanted, self._operation = device_name, operation
        self._deadline_ns = self._clock.monotonic_ns() + round(FILTER_TIMEOUT_S * NS_PER_S)
        self._checked_ns = 0
        operation.update(stage="MOVING", message=f"filter wheel moves to {name}")
        return operation

    def watch(self) -> float:
        """Look whether it has arrived; returns seconds until the next look.

        Raises
        ------
        DeviceError
            It did not arrive in time, or cannot be asked.
        """
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._checked_ns < _POLL_S * NS_PER_S:
            return _POLL_S
        self._checked_ns = now_ns
        try:
            self._cooler.refresh()
            if now_ns > self._deadline_ns and not self._has_arrived():
                raise DeviceError(
                    f"the filter wheel did not arrive within {FILTER_TIMEOUT_S:.0f} s"
                )
        except NightjarError as error:
            self._end(error)
            raise
        if self._has_arrived():
            self._end(None)
        return _POLL_S

    def _has_arrived(self) -> bool:
        return self._cooler.reading.telemetry.filter == self._wanted

    def _end(self, error: NightjarError | None) -> None:
        operation = self.forget()
        if operation is None:
            return
        if error is None:
            operation.finish({"filter": self.name}, f"filter {self.name} is in the beam")
        else:
            operation.fail(error)

    def forget(self) -> Operation | None:
        """Stop watching; returns the operation that the caller is to end, if there is one."""
        operation, self._operation, self._wanted = self._operation, None, None
        return operation
