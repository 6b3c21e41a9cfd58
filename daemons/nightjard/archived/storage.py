# SPDX-License-Identifier: BSD-3-Clause
"""Watching what the archive stands on: the root, its space, the incoming folder."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import Any, Protocol

from nightjar import files
from nightjar.api.archive import FrameState
from nightjar.api.states import Level
from nightjar.clock import NS_PER_S
from nightjar.errors import Code, NightjarError, StorageError
from nightjar.health import Health
from nightjar.metrics import Metrics
from nightjar.times import iso
from nightjar.units import bytes_text
from nightjard.archived.config import ArchiveConfig
from nightjard.archived.layout import Root, is_fits_name
from nightjard.archived.store import Store
from nightjard.archived.tables import Frame

log = logging.getLogger(__name__)

STRAY_AGE_S = 30.0  # a camera announces a file within seconds
MAX_STRAYS = 10_000


class WaitingNames(Protocol):
    """What is needed of :class:`~nightjard.archived.backlog.Backlog`."""

    def names(self) -> set[str]:
        """Return the file names of all waiting frames."""
        ...


class Storage:
    """Looks at the folders and says in health what is wrong with them.

    Attributes
    ----------
    free_bytes : int or None
        Space below the root when last looked; None where it could not be read.
    is_well : bool
        Whether frames can be moved to the root.
    """

    def __init__(
        self,
        config: ArchiveConfig,
        root: Root,
        store: Store,
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._root = root
        self._store = store
        self._health = health
        self._metrics = metrics
        self._identity: str | None = None
        self.is_well = False
        self._is_same_disk = False
        self._needed_bytes = 0
        self._strays: list[dict[str, Any]] = []
        self._strays_due_ns = 0
        self.free_bytes: int | None = None

    # --- the root ---

    def require_root(self) -> None:
        """Raise StorageError unless the root is there and is the archive that is known."""
        if self._identity is None:
            known = self._store.root_identity(self._root.path)
            if known is None:
                known = self._root.establish()
                self._store.put_root_identity(self._root.path, known)
            self._identity = known
        self._root.require(self._identity)

    def adopt(self) -> str:
        """Take the root as it is, making its identity where it has none; return the identity."""
        identity = self._root.establish()
        self._store.put_root_identity(self._root.path, identity)
        self._identity = identity
        return identity

    def fault_behind(self, error: NightjarError) -> str | None:
        """Return what is wrong with the storage as a whole; None where it was the one frame."""
        try:
            self.require_root()
        except StorageError as fault:
            self._report_root(fault.message)
            self.is_well = False
            return fault.message
        if error.code is Code.NO_SPACE:
            self._needed_bytes = int(error.detail.get("needed_bytes", 0))
            self._report_root(error.message)
            self.is_well = False
            return error.message
        return None

    def _report_root(self, reason: str) -> None:
        self._health.set("root", Level.DEGRADED, reason)

    # --- space ---

    def require_space(self, size: int, waiting_bytes: int) -> None:
        """Raise StorageError (NO_SPACE) where a frame more would leave too little."""
        free = self.free_bytes
        if free is None:
            return  # the root is away: frames wait in the incoming folder
        needed = self._config.minimum_free_bytes
        if not self._is_same_disk:
            needed += size + waiting_bytes
        if free < needed:
            raise StorageError(
                f"{bytes_text(free)} free in {self._root.path}, {bytes_text(needed)} needed for "
                "this frame, those that wait, and the reserve: make space",
                code=Code.NO_SPACE, free_bytes=free, needed_bytes=needed,
            )  # fmt: skip

    # --- the regular look ---

    def probe(self, now_ns: int, waiting: WaitingNames) -> tuple[bool, list[Frame]]:
        """Look at everything once.

        Returns
        -------
        is_back : bool
            The root has just become well again.
        returned : list of Frame
            Missing frames whose file is in the incoming folder again.
        """
        was_well = self.is_well
        returned: list[Frame] = []
        self._probe_root()
        self._probe_incoming()
        if now_ns >= self._strays_due_ns:
            self._strays_due_ns = now_ns + int(self._config.rescan_interval * NS_PER_S)
            self._strays, returned = self._find_strays(waiting.names())
            self._metrics.gauge(
                "archive_strays", "files in the incoming folder nobody announced",
                len(self._strays),
            )  # fmt: skip
        return self.is_well and not was_well, returned

    def _probe_root(self) -> None:
        try:
            self.require_root()
            self.free_bytes = files.free_bytes(self._root.path)
            root_device = self._root.path.stat().st_dev
        except (StorageError, OSError) as error:
            self.free_bytes = None
            self.is_well = False
            self._report_root(str(error))
            self._health.ok("space")
            return
        self._metrics.gauge("archive_free_bytes", "space left below the root", self.free_bytes)
        try:
            self._is_same_disk = self._config.incoming_data_path.stat().st_dev == root_device
        except OSError:
            self._is_same_disk = False
        low = self.free_bytes < self._config.minimum_free_bytes
        if low:
            self._health.set(
                "space", Level.DEGRADED,
                f"{bytes_text(self.free_bytes)} free in {self._root.path}, under "
                f"{bytes_text(self._config.minimum_free_bytes)}: new frames are refused",
            )  # fmt: skip
        else:
            self._health.ok("space")
        if self.free_bytes >= self._needed_bytes:
            self.is_well = True
            self._needed_bytes = 0
            self._health.ok("root")

    def _probe_incoming(self) -> None:
        folder = self._config.incoming_data_path
        if folder.is_dir():
            self._health.ok("incoming")
        else:
            self._health.set(
                "incoming", Level.DEGRADED, f"the incoming folder {folder} does not exist"
            )

    # --- strays ---

    def strays(self) -> list[dict[str, Any]]:
        """Return the files that nobody announced, as last seen."""
        return list(self._strays)

    def _find_strays(self, waiting: set[str]) -> tuple[list[dict[str, Any]], list[Frame]]:
        strays: list[dict[str, Any]] = []
        returned: list[Frame] = []
        for name, status in sorted(self._incoming_frames()):
            if name in waiting:
                continue
            frames = self._store.named(name)
            missing = [
                frame for frame in frames
                if frame.state == FrameState.MISSING.value and frame.size == status.st_size
            ]  # fmt: skip
            if missing:
                returned.append(missing[0])
                continue
            strays.append(
                {"name": name, "size": status.st_size, "modified": iso(status.st_mtime_ns, 0),
                 "frames": [f"{frame.key} ({frame.state})" for frame in frames[:3]]}
            )  # fmt: skip
        return strays, returned

    def _incoming_frames(self) -> list[tuple[str, os.stat_result]]:
        """Return the FITS files in the incoming folder that are old enough to be announced."""
        found: list[tuple[str, os.stat_result]] = []
        now_s = time.time()  # compared with times that the kernel stamped
        try:
            with os.scandir(self._config.incoming_data_path) as entries:
                for entry in entries:
                    if len(found) >= MAX_STRAYS:
                        break
                    if not is_fits_name(entry.name) or not entry.is_file(follow_symlinks=False):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # moved meanwhile
                        status = entry.stat(follow_symlinks=False)
                        if now_s - status.st_mtime >= STRAY_AGE_S:
                            found.append((entry.name, status))
        except OSError as error:
            log.debug("incoming folder: %s", error)
        return found
