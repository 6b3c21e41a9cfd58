# SPDX-License-Identifier: BSD-3-Clause
"""Where a recording writes: is there room, is there a folder, also after midnight."""

from __future__ import annotations

import os
from pathlib import Path

from nightjar.das.naming import MINUTE_NS, day_of
from nightjar.errors import Code, Refused, StorageError
from nightjar.files import free_bytes, require_folder
from nightjard.dasd.config import DasConfig

MIDNIGHT_NS = 5 * MINUTE_NS


class Place:
    """A root with its folders of days.

    Parameters
    ----------
    root
        Is never made.
    config
        Of the daemon.
    is_test
        Folders of days are made in any case.
    warnings
        What is wrong and lets a recording go on is put there, by part.
    """

    def __init__(
        self, root: Path, config: DasConfig, is_test: bool, warnings: dict[str, str]
    ) -> None:
        self.root, self.warnings = root, warnings
        self._config = config
        self._makes_days = config.auto_mkdir or is_test

    def look_for_room(self) -> None:
        """Look how much room there is.

        Raises
        ------
        StorageError
            Too little to go on, or the root has vanished.
        """
        space = self._config.space
        try:
            free = free_bytes(self.root)
        except OSError as error:
            raise StorageError(
                f"the folder {self.root} has vanished ({error.strerror}); look what happened "
                "to the disk, then start again"
            ) from error
        if free < space.stop_bytes:
            raise StorageError(
                f"{free / 1e6:.0f} MB are free in {self.root}, fewer than the "
                f"{space.stop_bytes / 1e6:.0f} MB at which a recording stops; make room, then "
                "start again",
                code=Code.NO_SPACE,
            )
        hours = free / self._config.bytes_per_hour
        self.warnings.pop("room", None)
        if free < space.low_bytes:
            self.warnings["room"] = (
                f"only {free / 1e9:.2f} GB are free in {self.root}: {hours:.1f} h of data"
            )
        elif hours < space.warn_hours:
            self.warnings["room"] = (
                f"{free / 1e9:.1f} GB are free in {self.root}: {hours:.1f} h of data, fewer "
                f"than {space.warn_hours:g}"
            )

    def day_folder(self, utc_ns: int) -> None:
        """Have the folder of a day be there.

        Raises
        ------
        StorageError
            It is not, and is not or cannot be made.
        """
        folder = self.root / day_of(utc_ns)
        if folder.is_dir():
            return
        if not (self._makes_days):
            raise StorageError(
                f"the folder {folder} does not exist; create it, or set auto_mkdir, then start "
                "again"
            )
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"the folder {folder} cannot be made: {error.strerror}; look what happened to "
                "the disk, then start again"
            ) from error

    def look_to_midnight(self, utc_ns: int) -> None:
        """Make the folder of the next day five minutes before it begins, or warn."""
        ahead_ns = utc_ns + MIDNIGHT_NS
        if day_of(ahead_ns) == day_of(utc_ns):
            self.warnings.pop("midnight", None)
            return
        try:
            self.day_folder(ahead_ns)
            self.warnings.pop("midnight", None)
        except StorageError as error:
            self.warnings["midnight"] = f"at midnight the recording will stop: {error.message}"


def require_output(config: DasConfig, output: str) -> Path:
    """Return the folder that a person named for a test.

    Raises
    ------
    Refused, StorageError
        Not absolute, among the night's own data, not where tests may be; not there.
    """
    path = Path(os.path.normpath(output))
    if not path.is_absolute():
        raise Refused(f"output {output!r}: must be an absolute path on the DAS's machine")
    try:
        real = path.resolve(strict=True)
    except OSError as error:
        raise StorageError(f"output {output}: {error.strerror}; create it first") from error
    raw = Path(config.raw_root).resolve()
    if real == raw or raw in real.parents or real in raw.parents:
        raise Refused(f"output {output}: tests are not recorded with the night's data in {raw}")
    roots = [Path(root).resolve() for root in config.test_roots or ("/",)]
    if not any(root == real or root in real.parents for root in roots):
        raise Refused(f"output {output}: tests may be recorded below {', '.join(map(str, roots))}")
    require_folder(real, "output")
    return real
