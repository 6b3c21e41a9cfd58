# SPDX-License-Identifier: BSD-3-Clause
"""What an ADC must do for the DAS, whoever made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class HostClock(Protocol):
    """The clock of the machine that the ADC is in; :class:`nightjar.clock.Clock` is one."""

    def now_ns(self) -> int:
        """Return its UTC, ns: what minutes and slots are counted by."""
        ...

    def monotonic_ns(self) -> int:
        """Return a time that never steps, ns."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What is known of an ADC before it is opened.

    Attributes
    ----------
    model
        For people and headers.
    is_simulated
        Its samples are made up.
    has_faults
        It can be told to fail (:meth:`Adc.fault`).
    sample_ref
        Which moment a sample's time is: "first_channel" where channels are converted one by one.
    """

    model: str
    is_simulated: bool = False
    has_faults: bool = False
    sample_ref: str = "first_channel"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Samples that follow each other without a loss.

    Attributes
    ----------
    samples
        (n, channels) int16, n at least 1; the receiver's own.
    counter
        Hardware counter of the first: samples taken since the start, lost ones included.
    utc_ns, monotonic_ns
        Both clocks of the host when the last sample was there to be read, as soon as it was known.
    epoch
        Number of the ADC's start: where it changes, the counter begins anew.
    loss
        Why samples are missing before the block; "" where none are known to be.
    """

    samples: NDArray[np.int16]
    counter: int
    utc_ns: int
    monotonic_ns: int
    epoch: int
    loss: str = ""


class Adc(Protocol):
    """One ADC with all its channels; used by one thread, but for :meth:`fault`.

    A failure is a :class:`nightjar.errors.DeviceError`: DeviceNotFound from :meth:`open`,
    DeviceLost from a device that answered before. After one of those, :meth:`close` and
    :meth:`open` begin anew. An overrun is no failure: the ADC goes on by itself and tells it as the
    loss of the next block.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What is known of it before it is opened."""
        ...

    @property
    def host(self) -> HostClock:
        """The clock of its machine."""
        ...

    def open(self) -> dict[str, Any]:
        """Connect; return what headers shall tell of it (plain JSON values).

        Raises
        ------
        DeviceNotFound
            It is not there.
        DeviceError
            It does not do what is configured.
        """
        ...

    def start(self) -> None:
        """Begin to sample, at the configured rate, until :meth:`stop`."""
        ...

    def read(self, timeout_s: float) -> Block | None:
        """Return the next samples, about ten times a second; None where none came in time.

        Raises
        ------
        DeviceLost
            It does not answer any more.
        """
        ...

    def stop(self) -> None:
        """Stop sampling; nothing happens where it does not sample."""
        ...

    def close(self) -> None:
        """Disconnect; never raises, and may be called at any time."""
        ...

    def fault(self, kind: str, seconds: float, channel: int | None, amount: float) -> None:
        """Make it fail (simulated ones only); safe from any thread.

        Raises
        ------
        Refused
            UNSUPPORTED.
        """
        ...
