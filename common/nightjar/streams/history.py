# SPDX-License-Identifier: BSD-3-Clause
"""The history of a stream file (CBsize of the format): copies of all pixels at each update.

Made by programs that want the last frames of a plain stream; a rolling buffer does the same
without copying. The C library fills the pixels and not the records beside them; we fill both.
"""

from __future__ import annotations

import mmap
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.streams.layout import (
    HISTORY_CYCLE_OFFSET,
    HISTORY_INDEX_OFFSET,
    HISTORY_RECORD_BYTES,
    METADATA_BYTES,
    StreamGeometry,
)

_NS = 10**9
_RECORD = struct.Struct("2Q4q")


class History:
    """The history of a mapped file; :meth:`keep` needs a writable mapping."""

    def __init__(self, mapping: mmap.mmap, geometry: StreamGeometry) -> None:
        offsets, depth = geometry.offsets(), geometry.history_depth
        view = memoryview(mapping)
        self.depth = depth
        self._index = view[HISTORY_INDEX_OFFSET : HISTORY_INDEX_OFFSET + 4].cast("I")
        self._cycle = view[HISTORY_CYCLE_OFFSET : HISTORY_CYCLE_OFFSET + 8].cast("Q")
        self._records = view[offsets.history_records : offsets.history_pixels]
        count, dtype = geometry.element_count, geometry.dtype
        self._pixels: NDArray[Any] = np.frombuffer(mapping, dtype, count, METADATA_BYTES)
        self._kept: NDArray[Any] = np.frombuffer(
            mapping, dtype, depth * count, offsets.history_pixels
        ).reshape(depth, *geometry.shape)

    def keep(self, counter: int, slot: int, atime_ns: int, writetime_ns: int) -> None:
        """Copy the present pixels into the next place, as the C library does before it counts."""
        index = (self._index[0] + 1) % self.depth
        if index == 0:
            self._cycle[0] += 1
        self._kept[index].reshape(-1)[:] = self._pixels
        _RECORD.pack_into(
            self._records, index * HISTORY_RECORD_BYTES,
            counter, slot, *divmod(atime_ns, _NS), *divmod(writetime_ns, _NS),
        )  # fmt: skip
        self._index[0] = index

    def oldest_first(self) -> NDArray[Any]:
        """Return a copy of what is kept, oldest first: (n, *shape of the file's pixels)."""
        index = self._index[0]
        if self._cycle[0]:
            order = [(index + 1 + step) % self.depth for step in range(self.depth)]
        else:
            order = list(range(1, index + 1))  # the first update goes into place 1
        copied: NDArray[Any] = self._kept[order]
        return copied
