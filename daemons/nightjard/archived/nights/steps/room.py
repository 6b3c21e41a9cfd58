# SPDX-License-Identifier: BSD-3-Clause
"""Room for the making of products: on the disk, and in the memory of workers."""

from __future__ import annotations

from collections.abc import Sequence

from nightjar.errors import Code, Refused
from nightjar.executor.choosing import ExecutorConfig
from nightjar.files import free_bytes
from nightjard.archived.nights.steps.context import Context
from nightjard.archived.nights.writing import KEPT_BYTES

_TASK_BYTES = 200_000_000
_BARE_BYTES = 130_000_000  # of a worker that writes the largest frames, and keeps nothing
_SPARE_BYTES = 1_000_000_000


def kept_bytes(config: ExecutorConfig) -> int:
    """Return how much of a file a worker may keep for its hash: all workers must find room."""
    room = config.memory // config.workers if config.scheduler is None else _TASK_BYTES
    return max(0, min(KEPT_BYTES, room - _BARE_BYTES))


def task_bytes(kept: int) -> int:
    """Return the memory of the making of a product of which so many bytes are kept."""
    return max(_TASK_BYTES, _BARE_BYTES + kept)


def require_space(context: Context, sizes: Sequence[int]) -> None:
    """Refuse to begin where the products will not fit the disk.

    Parameters
    ----------
    sizes
        Bytes of their pixels. Compressed they need about half; nobody knows before.
    """
    needed = sum(sizes) // (2 if context.config.compression == "rice" else 1)
    free = free_bytes(context.folder)
    if sizes and free < needed + _SPARE_BYTES:
        raise Refused(
            f"{context.folder} has {free / 1e9:.1f} GB free, the products need about "
            f"{needed / 1e9:.1f} GB and {_SPARE_BYTES / 1e9:.0f} GB to spare: make room",
            code=Code.NO_SPACE, path=str(context.folder), free_bytes=free, needed_bytes=needed,
        )  # fmt: skip
