# SPDX-License-Identifier: BSD-3-Clause
"""The folder of what was put aside: each file with a note beside it that says why."""

from __future__ import annotations

import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any

from nightjar.clock import Clock
from nightjar.errors import StorageError, storage_code
from nightjar.files import fsync_folder, rename_new, write_durably
from nightjar.times import iso

log = logging.getLogger(__name__)
_NOTE = ".why.json"


class Quarantine:
    """Files that are not what they should be; nothing here is ever deleted.

    Parameters
    ----------
    folder
        Made where it is missing.
    clock
        Dates the notes.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder, self._clock = folder, clock
        self.count = len(self._notes())

    def _notes(self) -> list[Path]:
        try:
            return sorted(self.folder.glob(f"*{_NOTE}"))
        except OSError:
            return []

    def put(self, stream: str, day: str, name: str, data: bytes, reason: str) -> str:
        """Keep a copy of bytes; return its name. The same bytes are kept once.

        Raises
        ------
        StorageError
            It cannot be kept.
        """
        crc = zlib.crc32(data)
        kept = f"{stream}_{day}_{name}_{crc:08x}"
        target = self.folder / kept
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                write_durably(target, data)
            self._note(kept, stream, day, name, len(data), crc, reason)
        except OSError as error:
            raise self._failed(target, error) from error
        return kept

    def move(self, stream: str, day: str, path: Path, reason: str) -> str:
        """Keep a file by moving it here, copied where this is another file system.

        Raises
        ------
        StorageError
            It cannot be kept; it is where it was.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self._failed(path, error) from error
        crc = zlib.crc32(data)
        kept = f"{stream}_{day}_{path.name}_{crc:08x}"
        target = self.folder / kept
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                same = os.stat(self.folder).st_dev == path.stat().st_dev
                if same:
                    rename_new(path, target)
                    fsync_folder(self.folder)
                else:
                    write_durably(target, data)
            self._note(kept, stream, day, path.name, len(data), crc, reason)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(target, error) from error
        return kept

    def _failed(self, path: Path, error: OSError) -> StorageError:
        return StorageError(
            f"{path} cannot be put aside: {error.strerror}", code=storage_code(error),
            path=str(path),
        )  # fmt: skip

    def _note(
        self, kept: str, stream: str, day: str, name: str, size: int, crc: int, reason: str
    ) -> None:
        note = self.folder / f"{kept}{_NOTE}"
        if note.exists():
            return
        value = {
            "file": kept, "stream": stream, "day": day, "name": name, "size": size,
            "crc32": f"{crc:08x}", "reason": reason, "time": iso(self._clock.now_ns(), 3),
        }  # fmt: skip
        write_durably(note, (json.dumps(value, indent=1) + "\n").encode())
        self.count += 1
        log.warning("put aside: %s: %s", self.folder / kept, reason)

    def listed(self, count: int) -> list[dict[str, Any]]:
        """Return the notes, newest first."""
        found = []
        for path in self._notes():
            try:
                found.append(json.loads(path.read_bytes()))
            except (OSError, ValueError) as error:
                found.append({"file": path.name, "reason": f"its note is unreadable: {error}",
                              "time": ""})  # fmt: skip
        return sorted(found, key=lambda one: str(one["time"]), reverse=True)[:count]
