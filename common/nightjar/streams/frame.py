# SPDX-License-Identifier: BSD-3-Clause
"""What a reader hands out: a frame, and why a wait ended."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


class Wake(enum.Enum):
    """Why a wait ended."""

    FRAME = "frame"  # at least one frame is unread
    TIMEOUT = "timeout"
    STOPPED = "stopped"  # the stop event was set, or the reader closed
    REPLACED = "replaced"  # the name leads to a new file: relink()


@dataclass(slots=True, eq=False)  # not frozen: making one would cost three times as much
class Frame:
    """One frame.

    Attributes
    ----------
    counter
        Its number since the stream was made (cnt0).
    slot, generation
        Where it lay, and in which attachment; another generation may have another geometry.
    atime_ns, writetime_ns
        UTC of acquisition and of the end of writing; 0 where the writer gave none.
    data
        Pixels, shape of one frame: a copy, or a read-only view that the writer will overwrite.
    missed
        Frames lost or torn since the one delivered before.
    """

    counter: int
    slot: int
    generation: int
    atime_ns: int
    writetime_ns: int
    data: NDArray[Any]
    missed: int = 0
