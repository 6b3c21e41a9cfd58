# SPDX-License-Identifier: BSD-3-Clause
"""What the steps of a night hand to each other: raw cubes, planned products, the plan.

A plan is two files in the night's folder ``record``: ``plan-HASH.json`` holds cubes, products and
the ledger, ``frames-HASH.npy`` one row of :data:`ROW` for every frame that any raw cube says it
has, ordered by product and position; rows of the ledger (product -1) stand last. So a product is a
slice of rows, and "every raw frame has exactly one destination" can be counted.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]

#: A raw frame and where it goes. Times are integer ns UTC; 0: not known. ``cube`` is the number of
#: the cube in the plan, ``index`` the frame in it; ``product`` -1 is the ledger. ATIME is the
#: frame grabber's time (end of the exposure and read-out), LTIME the logger's, MTIME the mean over
#: the cameras of one trigger. TRIGGER counts the triggers of a run (-1: not known). OFFSET is what
#: was taken off ATIME before cameras were compared. STATE is the modulator: 1 driven high (A),
#: -1 low (B), 0 not known. SYNCCONF and FLCCONF are probabilities 0..1.
ROW = np.dtype(
    [("cube", "<i4"), ("index", "<i4"), ("product", "<i4"), ("position", "<i4"),
     ("reason", "u1"), ("STATE", "i1"), ("RUN", "<i4"), ("ATIME", "<i8"), ("LTIME", "<i8"),
     ("MTIME", "<i8"), ("CNT0", "<u8"), ("CNT1", "<u8"), ("TRIGGER", "<i8"), ("OFFSET", "<i8"),
     ("SYNCCONF", "<f4"), ("FLCCONF", "<f4")]
)  # fmt: skip


class Reason(enum.IntEnum):
    """Why a frame is where it is; the values are stored."""

    PAIRED = 0  # with a frame of every other camera of its group
    UNTRIGGERED = 1  # the camera ran by itself
    ALONE = 2  # no other camera was recorded at the time
    UNMATCHED = 3  # the partner is missing: lost, or never exposed
    AMBIGUOUS = 4  # which partner it has cannot be told
    UNTIMED = 5  # no usable times for the cube: kept as it is
    NO_EXPOSURE_TIME = 6  # the header says nothing of the exposure: kept as it is
    SINGLE = 7  # a single-frame file of a camera daemon
    NOT_IN_FILE = 8  # ledger: the header promises it, the file ends before it
    UNREADABLE = 9  # ledger: the file is no FITS image


LEDGER_REASONS = frozenset((Reason.NOT_IN_FILE, Reason.UNREADABLE))


class Kind(enum.Enum):
    """What a product is; the values are stored."""

    SYNC = "sync"
    SOLO = "solo"
    BAD = "bad"
    SINGLE = "single"


@dataclass(frozen=True)
class Timing:
    """Times and counters of the frames of a cube, arrays of one length.

    Attributes
    ----------
    acquired_ns, logged_ns : (n,)
        ns UTC; 0 where not known.
    counter, slot : (n,)
        Stream counters cnt0 and cnt1.
    problem
        Why the times must not be used; "" where they may.
    """

    acquired_ns: Ints
    logged_ns: Ints
    counter: npt.NDArray[np.uint64]
    slot: npt.NDArray[np.uint64]
    problem: str = ""


@dataclass(frozen=True)
class CubeRef:
    """A raw file as the plan knows it; enough to read frames from it and to notice a change.

    Attributes
    ----------
    number
        Index in the plan's list.
    path
        Relative to the night's folder.
    stream
        ``vcam1``.
    size, mtime_ns
        Of the file when it was planned.
    head_hash
        blake3 (hex) of the bytes before the pixels.
    data_offset
        Where the first frame begins; for a compressed cube, where its header unit's data begin.
    frame_shape
        (rows, columns).
    bitpix, bzero
        How a pixel is stored.
    frames
        Frames that the header promises.
    present
        Frames that the file holds whole.
    compressed
        Its pixels are tiles: of a logger with compression on, one a frame; of fpack, of any shape.
    problem
        "" or why it is kept as it is.
    """

    number: int
    path: str
    stream: str
    size: int
    mtime_ns: int
    head_hash: str
    data_offset: int
    frame_shape: tuple[int, int]
    bitpix: int
    bzero: int
    frames: int
    present: int
    compressed: bool = False
    problem: str = ""

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame in an uncompressed file."""
        return self.frame_shape[0] * self.frame_shape[1] * abs(self.bitpix) // 8


@dataclass(frozen=True)
class Product:
    """A file to be made.

    Attributes
    ----------
    number
        Index in the plan's list.
    folder, name
        ``vgen2`` and ``vsync_HH:MM:SS.ffffff.cam1.A`` (without ``.fits``); below the night.
    kind, stream, camera
        `stream` is the raw stream, ``vcam1``; `camera` its number in the group, 1; 0 for none.
    group
        Siblings (cameras and states of one chunk) have the same text; it is unique in the night.
    state
        Value of U_FLC: ``A``, ``B``, ``D`` or "".
    start, stop
        Its rows in the plan.
    first_ns, last_ns, mid_ns
        Shared by all siblings, so that MJD is exactly the same: start of the first exposure,
        end of the last, and their mean.
    cubes
        Numbers of the raw cubes that its frames come from, in order.
    reason
        Of :class:`Reason`, the commonest of its frames.
    set_cards
        keyword -> (value, comment): what the plan decides about the header.
    """

    number: int
    folder: str
    name: str
    kind: Kind
    stream: str
    camera: int
    group: str
    state: str
    start: int
    stop: int
    first_ns: int
    last_ns: int
    mid_ns: int
    cubes: tuple[int, ...]
    reason: Reason
    set_cards: Mapping[str, tuple[Any, str]] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.stop - self.start


@dataclass(frozen=True)
class RunReport:
    """What was found about one run: a stretch of frames of one or more cameras, one set-up.

    Attributes
    ----------
    number
        As in column RUN.
    streams
        Of the cameras.
    frames
        Of each.
    triggers
        Triggers that the run had, seen or not.
    lost
        Frames missing of each camera, by evidence: ``{"vcam1": {"counter": 3, "time": 1}}``.
    verdict
        ``ok``, ``untriggered``, ``alone``, ``ambiguous``.
    text
        Says the verdict to a person.
    offsets_us, sigma_us, drift_ppm
        Against the first camera, per camera.
    period_us, jitter_us, half_width_us
        Of the trigger; half width None without modulation.
    dubious
        Frames whose modulator state is not known.
    """

    number: int
    streams: tuple[str, ...]
    frames: tuple[int, ...]
    first_ns: int
    last_ns: int
    triggers: int
    lost: Mapping[str, Mapping[str, int]]
    verdict: str
    text: str
    offsets_us: tuple[float, ...] = ()
    sigma_us: tuple[float, ...] = ()
    drift_ppm: tuple[float, ...] = ()
    period_us: float | None = None
    jitter_us: float | None = None
    half_width_us: float | None = None
    dubious: int = 0
