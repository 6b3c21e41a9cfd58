# SPDX-License-Identifier: BSD-3-Clause
"""The one way by which frames are removed: unarchived ones, by an explicit command."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from nightjar.api.archive import FrameState
from nightjar.clock import Clock
from nightjar.errors import Code, NightjarError, Refused, StorageError
from nightjar.operations import Operation
from nightjard.archived.ledger import Ledger
from nightjard.archived.storage import Storage
from nightjard.archived.store import Store
from nightjard.archived.tables import Frame

log = logging.getLogger(__name__)


def require_unarchived(frames: list[Frame]) -> None:
    """Raise Refused unless every frame may be discarded."""
    if not frames:
        raise Refused("no frame named: nothing is discarded")
    for frame in frames:
        if frame.state != FrameState.UNARCHIVED.value:
            raise Refused(
                f"frame {frame.key} is {frame.state}: only unarchived frames can be discarded; "
                "nothing was removed",
                state=frame.state,
            )


class Discarding:
    """Decides in the database first, then removes the file; a crash between is made up for.

    Parameters
    ----------
    store, storage, ledger, clock
        Its tools.
    root
        Folder of the archive.
    """

    def __init__(
        self, store: Store, storage: Storage, ledger: Ledger, root: Path, clock: Clock
    ) -> None:
        self._store = store
        self._storage = storage
        self._ledger = ledger
        self._root = root
        self._clock = clock

    def resume(self) -> None:
        """Remove the files of frames whose discard an earlier life decided."""
        for frame in self._store.half_discarded():
            self._remove(frame)

    def run(
        self,
        frames: list[Frame],
        who: str,
        operation: Operation,
        is_over: Callable[[], bool],
        done: Callable[[str], None],
    ) -> None:
        """Discard frames until all are or `is_over` says to end; report through `operation`."""
        count = 0
        try:
            for frame in frames:
                if is_over():
                    break
                ended = self._store.update(
                    frame.id, FrameState.DISCARDED.value, f"by {who}", self._clock.now_ns(),
                    state=FrameState.DISCARDED.value,
                )  # fmt: skip
                self._ledger.moved(frame, ended)
                self._remove(ended)
                count += 1
                operation.update(count / len(frames), "removing", str(frame.path))
        except NightjarError as error:
            operation.fail(error)
        except Exception as error:
            log.exception("discarding frames")
            operation.fail(NightjarError(f"internal error: {error}", code=Code.INTERNAL))
        else:
            operation.finish({"discarded": count, "asked": len(frames)})
        done(f"{count} of {len(frames)} unarchived frames discarded by {who}")

    def _remove(self, frame: Frame) -> None:
        assert frame.path is not None
        try:
            self._storage.require_root()
            (self._root / frame.path).unlink(missing_ok=True)
        except (StorageError, OSError) as error:
            log.warning("discarded frame %s is removed at the next start: %s", frame.key, error)
            return
        self._store.update(frame.id, "removed", frame.path, self._clock.now_ns(), path=None)
