# SPDX-License-Identifier: BSD-3-Clause
"""The telescope's folder of pointing logs, mounted here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nightjard.telogd.config import PointingRing
from nightjard.telogd.drivers.base import Capabilities, Facts
from nightjard.telogd.drivers.mounted import MountReader, facts_of

_MINUTE_BYTES = 312_000


class PlogFolder:
    """The ring of files MMMM.

    Parameters
    ----------
    config
        Where.
    """

    def __init__(self, config: PointingRing) -> None:
        self._folder = config.folder
        self.reader = MountReader("pointing-ring", config.limit_s)
        self.capabilities = Capabilities("folder", str(config.folder))

    def look(self, names: Sequence[str]) -> dict[str, Facts]:
        """Return those of some files that are there."""
        return facts_of(self.reader.ask("look", folder=str(self._folder), names=list(names)))

    def fetch(self, name: str, target: Path) -> int:
        """Copy a file durably; return its CRC-32."""
        told = self.reader.ask(
            "fetch", _MINUTE_BYTES, source=str(self._folder / name), target=str(target)
        )
        return int(told["crc32"])

    def last_record(self, name: str, size: int) -> bytes:
        """Return the last whole record of a growing file; b"" for none."""
        told = self.reader.ask("last", path=str(self._folder / name), size=size)
        return bytes.fromhex(told["hex"])

    def close(self) -> None:
        """End the reading process."""
        self.reader.close()
