# SPDX-License-Identifier: BSD-3-Clause
"""What survives a restart: the number of the next file, and the recording that runs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from nightjar.clock import NS_PER_S
from nightjar.files import write_json_durably

log = logging.getLogger(__name__)


class Memory:
    """Small files in the daemon's state folder; where they cannot be written, recording goes on.

    Parameters
    ----------
    folder
        Is made where it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._serials = folder / "serial.json"
        self._recording = folder / "recording.json"
        self._serial = 0

    def next_serial(self) -> int:
        """Return a number that no file had before."""
        if not self._serial:
            try:
                self._serial = int(json.loads(self._serials.read_bytes())["last"])
            except FileNotFoundError:
                pass
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.error("%s: %s; files are numbered anew", self._serials, error)
        self._serial += 1
        self._write(self._serials, {"last": self._serial})
        return self._serial

    def remember(self, root: Path, is_test: bool, utc_ns: int) -> None:
        """Keep that a recording runs, and that it did so at a time."""
        self._write(
            self._recording, {"root": str(root), "is_test": is_test, "alive_ns": utc_ns}
        )  # fmt: skip

    def forget(self) -> None:
        """Keep that none runs."""
        self._recording.unlink(missing_ok=True)

    def recall(self, utc_ns: int, limit_s: float) -> tuple[Path, bool] | None:
        """Return root and is_test of a recording that ran until just now; None where none did."""
        try:
            value = json.loads(self._recording.read_bytes())
            root, is_test = Path(value["root"]), bool(value["is_test"])
            age_s = (utc_ns - int(value["alive_ns"])) / NS_PER_S
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("%s: %s; no recording is gone on with", self._recording, error)
            return None
        if abs(age_s) > limit_s:
            log.warning("a recording in %s ended %.0f s ago: it is not gone on with", root, age_s)
            self.forget()
            return None
        return root, is_test

    @staticmethod
    def _write(path: Path, value: dict[str, object]) -> None:
        try:
            write_json_durably(path, value)
        except OSError as error:
            log.error("%s cannot be written: %s", path, error.strerror)
