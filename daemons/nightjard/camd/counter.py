# SPDX-License-Identifier: BSD-3-Clause
"""The continuous frame number: reserved ahead in blocks, so that no crash ever reuses one.

The file holds ``exposure_count``, the highest number that may have been used, and
``exposure_reference``, the date on which counting began. A block of numbers is written to the file
before its first is used; an orderly stop gives the rest of the block back.
"""

from __future__ import annotations

import os
from pathlib import Path

from nightjar.clock import Clock
from nightjar.config.paths import read_json
from nightjar.errors import ConfigError, StorageError
from nightjar.files import write_json_durably
from nightjar.times import iso

BLOCK = 100


class FrameCounter:
    """Frame numbers of one camera.

    Parameters
    ----------
    path
        The configuration's ``expcount_path``.
    clock
        Dates a new count, and the name under which a damaged file is kept.
    floor
        A number known to be used (seen in a spooled file); counting goes on above it.

    Attributes
    ----------
    last
        The number used last; 0 before the first.
    reference
        Date since which is counted.
    warning
        What a person should know of how the count was found; "" when all is well.

    Raises
    ------
    StorageError
        The file cannot be read or written.
    """

    def __init__(self, path: Path, clock: Clock, floor: int = 0) -> None:
        self._path = path
        self._clock = clock
        self._reserved = 0
        self.last = floor
        self.reference = iso(clock.now_ns(), 0)[:10]
        self.warning = ""
        self._load(floor)
        self._reserve()

    def _load(self, floor: int) -> None:
        try:
            value = read_json(self._path)
            count, reference = value["exposure_count"], value.get("exposure_reference", "")
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise ConfigError(f"{self._path}: exposure_count: {count!r}: is not a count")
        except (ConfigError, KeyError) as error:
            cause = error.__cause__
            if isinstance(cause, FileNotFoundError):
                return
            # Only what was read and makes no sense is damaged: a folder, a file of somebody else
            # or a failing disk says nothing about the count.
            if isinstance(cause, OSError):
                raise self._failure("read", cause) from error
            self._set_aside(floor)
            return
        self.last = max(count, floor)
        self.reference = str(reference) or self.reference

    def _set_aside(self, floor: int) -> None:
        kept = self._path.with_name(f"{self._path.name}.damaged-{self._clock.now_ns()}")
        try:
            os.rename(self._path, kept)
        except OSError as error:
            raise self._failure("renamed", error) from error
        self.warning = (
            f"frame counter {self._path} was damaged (kept as {kept.name}); counting starts "
            f"again at {floor + 1}"
        )

    def _failure(self, what: str, error: OSError) -> StorageError:
        return StorageError(
            f"frame counter {self._path} cannot be {what}: {error.strerror}", path=str(self._path)
        )

    def _reserve(self) -> None:
        # Only a block that is in the file is used: after a failure the next call tries again.
        reserved = self.last + BLOCK
        self._write(reserved)
        self._reserved = reserved

    def _write(self, count: int) -> None:
        try:
            write_json_durably(
                self._path, {"exposure_count": count, "exposure_reference": self.reference}
            )
        except OSError as error:
            raise self._failure("written", error) from error

    def secure(self) -> None:
        """Make sure that the next number can be taken: before the exposure, not after it.

        Raises
        ------
        StorageError
            The next block cannot be reserved.
        """
        if self.last >= self._reserved:
            self._reserve()

    def take(self) -> int:
        """Return the next number; it is never returned again, whatever happens.

        Raises
        ------
        StorageError
            The next block cannot be reserved.
        """
        self.secure()
        self.last += 1
        return self.last

    def close(self) -> None:
        """Give the unused rest of the block back."""
        self._write(self.last)
        self._reserved = self.last
