# SPDX-License-Identifier: BSD-3-Clause
"""What drivers of the telescope logs are, and what the model may ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver is.

    Attributes
    ----------
    kind
        Its name in configurations.
    where
        Whom it talks to, for people.
    """

    kind: str
    where: str


@dataclass(frozen=True, slots=True)
class Facts:
    """A file as its folder lists it; the time is of its last change, ns UTC by its host."""

    name: str
    size: int
    mtime_ns: int


class TelescopeSource(Protocol):
    """Tells the telescope's record of housekeeping. One thread uses it."""

    @property
    def capabilities(self) -> Capabilities:
        """What it is."""
        ...

    def read(self) -> dict[str, Any]:
        """Return the record by name, as :func:`nightjar.das.telinfo.unpack`; connect as needed.

        Raises
        ------
        NightjarError
            No answer, or none that is a record; the next call tries anew.
        """
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class PointingSource(Protocol):
    """Sends pointing records, 100 Hz. One thread uses it."""

    @property
    def capabilities(self) -> Capabilities:
        """What it is."""
        ...

    def open(self) -> None:
        """Connect; raises DeviceNotFound."""
        ...

    def receive(self, timeout_s: float) -> bytes:
        """Return what has come, b"" for nothing in time.

        Raises
        ------
        DeviceLost
            The connection is gone, or silent for too long.
        """
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class RingSource(Protocol):
    """The telescope's folder of pointing logs. One thread uses it."""

    @property
    def capabilities(self) -> Capabilities:
        """What it is."""
        ...

    def look(self, names: Sequence[str]) -> dict[str, Facts]:
        """Return those of some files that are there; raises StorageError where the folder isn't."""
        ...

    def fetch(self, name: str, target: Path) -> int:
        """Copy a file durably; return its CRC-32.

        Raises
        ------
        StorageError
            It cannot be copied, or it changed meanwhile.
        """
        ...

    def last_record(self, name: str, size: int) -> bytes:
        """Return the last whole record of a growing file; b"" for none."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class DasSource(Protocol):
    """The DAS host's folders of raw files. One thread uses it."""

    @property
    def capabilities(self) -> Capabilities:
        """What it is."""
        ...

    def scan(self, day: str) -> list[Facts]:
        """Return the files of a day, by name; none where the day has no folder.

        Raises
        ------
        NightjarError
            The host or its folder cannot be reached.
        """
        ...

    def fetch(self, day: str, names: Sequence[str], into: Path) -> None:
        """Copy files of a day into a folder, with their times; some may be missing afterwards.

        Raises
        ------
        NightjarError
            The host or its folder cannot be reached, or there is no room here.
        """
        ...

    def close(self) -> None:
        """Let go of it; ends a copy under way."""
        ...
