# SPDX-License-Identifier: BSD-3-Clause
"""Pixels of the simulated fast camera that prove themselves: which frame, when, whole or torn.

The image is a deterministic bank of a few frames. Over it go the truth, 16 words of 16 bits at the
start of the first row, most significant word first::

    0-1 magic "NJT2"   2-3 frame id   4-7 start, ns UTC   8-9 trigger index   10 camera + 256 x FLC
    11-12 exposure, 10 us   13 frames lost so far   14 crop number   15 sum of words 0..14

and, in column 0 of every other row, the low 16 bits of the frame id: a frame of which any row
belongs to another is found. Everything is read by value, so big-endian pixels of a FITS file do.

FLC codes: 0 not modulated, 1 A (driven high), 2 B (low). Trigger index: 0 when free running.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightjar.errors import InvalidArgument

TRUTH_WORDS = 16
MAGIC = (0x4E4A, 0x5432)  # "NJT2"
FLC_CODES = {"": 0, "A": 1, "B": 2}
FLC_NAMES = {code: name for name, code in FLC_CODES.items()}

_BIAS = 200
_NOISE_ADU = 4.0
_NOISE_PERIOD = 262_147  # prime: rows of no crop repeat each other
_BANK_SHIFT = 8_191

TRUTH_TYPE = np.dtype(
    [
        ("is_valid", "?"), ("frame_id", "<u4"), ("start_ns", "<i8"), ("trigger", "<u4"),
        ("camera", "u1"), ("flc", "u1"), ("exposure_10us", "<u4"), ("lost", "<u2"),
        ("crop", "<u2"),
    ]
)  # fmt: skip
"""One row of :func:`read_truths`."""


class Truth(NamedTuple):
    """What the pixels of a frame say of it."""

    frame_id: int
    start_ns: int = 0
    trigger: int = 0
    camera: int = 1
    flc: int = 0
    exposure_10us: int = 0
    lost: int = 0
    crop: int = 0


class Pattern:
    """The image of each frame, a function of its number only.

    Parameters
    ----------
    shape
        (rows, columns); at least 16 columns.
    seed
        Of the noise.
    bank
        Different images, used in turn. Keep bank x frame small against the cache for speed.
    """

    def __init__(self, shape: tuple[int, int], seed: int = 1, bank: int = 4) -> None:
        rows, columns = shape
        if rows < 1 or columns < TRUTH_WORDS or bank < 1:
            raise InvalidArgument(f"no pattern of shape {shape} in a bank of {bank}")
        self.shape = (rows, columns)
        self.bank = bank
        self._images = _images(self.shape, seed, bank)
        self._row = np.zeros(TRUTH_WORDS, np.uint16)

    def image(self, frame_id: int) -> NDArray[np.uint16]:
        """Return the image of a frame without its truth; do not write into it."""
        image: NDArray[np.uint16] = self._images[frame_id % self.bank]
        return image

    def fill(self, slot: NDArray[np.uint16], frame_id: int) -> None:
        """Copy the image of a frame."""
        np.copyto(slot, self._images[frame_id % self.bank])

    def stamp(self, slot: NDArray[np.uint16], truth: Truth) -> None:
        """Write the truth over the pixels; see the module's first lines."""
        frame_id, start, trigger, camera, flc, exposure, lost, crop = truth
        words = (
            MAGIC[0], MAGIC[1], frame_id >> 16 & 0xFFFF, frame_id & 0xFFFF,
            start >> 48 & 0xFFFF, start >> 32 & 0xFFFF, start >> 16 & 0xFFFF, start & 0xFFFF,
            trigger >> 16 & 0xFFFF, trigger & 0xFFFF, (camera | flc << 8) & 0xFFFF,
            exposure >> 16 & 0xFFFF, exposure & 0xFFFF, lost & 0xFFFF, crop & 0xFFFF,
        )  # fmt: skip
        row = self._row
        row[:15] = words
        row[15] = sum(words) & 0xFFFF
        slot[0, :TRUTH_WORDS] = row
        slot[1:, 0] = frame_id & 0xFFFF

    def differs(self, frame: NDArray[Any], frame_id: int) -> bool:
        """Tell whether any pixel that holds no truth differs from the image of that frame."""
        image = self.image(frame_id)
        return not (
            np.array_equal(frame[0, TRUTH_WORDS:], image[0, TRUTH_WORDS:])
            and np.array_equal(frame[1:, 1:], image[1:, 1:])
        )


def _images(shape: tuple[int, int], seed: int, bank: int) -> NDArray[np.uint16]:
    """Return the bank: bias, noise, a gradient and one star that moves from image to image."""
    rows, columns = shape
    rng = np.random.default_rng(seed)
    noise = np.rint(rng.normal(_BIAS, _NOISE_ADU, _NOISE_PERIOD)).astype(np.uint16)
    images = np.empty((bank, rows, columns), np.uint16)
    gradient = (np.arange(rows, dtype=np.uint16) // 64)[:, None]
    y, x = np.ogrid[:rows, :columns]
    for index in range(bank):
        shifted = np.roll(noise, index * _BANK_SHIFT)
        images[index] = np.resize(shifted, (rows, columns))
        images[index] += gradient
        # A star of 2.5 pixels, cut out so that large crops cost no more than small ones.
        row, column = rows // 2, (columns // 2 + 7 * index) % columns
        box = np.s_[max(0, row - 12) : row + 13, max(0, column - 12) : column + 13]
        distance = (y[box[0]] - row) ** 2 + (x[:, box[1]] - column) ** 2
        images[index][box] += np.rint(6000 * np.exp(-distance / 12.5)).astype(np.uint16)
    return images


# ---------------------------------------------------------------- reading it back


def read_truths(cube: NDArray[Any]) -> NDArray[Any]:
    """Return the truth of each frame of a cube.

    Parameters
    ----------
    cube
        Shape (frames, rows, columns), any integer type and byte order.

    Returns
    -------
    numpy.ndarray
        Shape (frames,), :data:`TRUTH_TYPE`; where ``is_valid`` is False the rest means nothing.
    """
    if cube.ndim != 3 or cube.shape[2] < TRUTH_WORDS:
        raise InvalidArgument(f"an array of shape {cube.shape} is no cube of frames with truth")
    words = cube[:, 0, :TRUTH_WORDS].astype(np.int64)
    truths = np.zeros(len(words), TRUTH_TYPE)
    truths["is_valid"] = (
        (words[:, 0] == MAGIC[0]) & (words[:, 1] == MAGIC[1])
        & (words[:, :15].sum(axis=1) & 0xFFFF == words[:, 15])
    )  # fmt: skip
    truths["frame_id"] = words[:, 2] << 16 | words[:, 3]
    truths["start_ns"] = (
        words[:, 4] << 48 | words[:, 5] << 32 | words[:, 6] << 16 | words[:, 7]
    )
    truths["trigger"] = words[:, 8] << 16 | words[:, 9]
    truths["camera"] = words[:, 10] & 0xFF
    truths["flc"] = words[:, 10] >> 8
    truths["exposure_10us"] = words[:, 11] << 16 | words[:, 12]
    truths["lost"] = words[:, 13]
    truths["crop"] = words[:, 14]
    return truths


def read_truth(frame: NDArray[Any]) -> Truth:
    """Return the truth of one frame, shape (rows, columns).

    Raises
    ------
    ValueError
        There is none, or it is damaged.
    """
    truth = read_truths(frame[None])[0]
    if not truth["is_valid"]:
        raise ValueError(f"no undamaged truth: the frame starts with {frame[0, :TRUTH_WORDS]}")
    return Truth(*(int(truth[name]) for name in Truth._fields))


@dataclass(slots=True)
class CubeReport:
    """What :func:`check_cube` found.

    Attributes
    ----------
    frames, whole
        Frames looked at; those with undamaged truth whose rows all belong to them.
    unreadable
        Indices of frames without undamaged truth.
    torn
        Indices of frames with rows of another frame; `torn_rows` counts the rows.
    altered
        Indices of frames whose image differs (only where a pattern was given).
    missing
        Frame ids between the first and the last that are absent.
    duplicates, backwards
        Frame ids that come more than once in a row; steps to a smaller id.
    first_id, last_id
        None without a readable frame.
    """

    frames: int
    whole: int = 0
    unreadable: list[int] = field(default_factory=list)
    torn: list[int] = field(default_factory=list)
    torn_rows: int = 0
    altered: list[int] = field(default_factory=list)
    missing: int = 0
    duplicates: int = 0
    backwards: int = 0
    first_id: int | None = None
    last_id: int | None = None

    @property
    def is_perfect(self) -> bool:
        """Whether every frame is whole and follows the one before."""
        return self.whole == self.frames and not (
            self.altered or self.missing or self.duplicates or self.backwards
        )

    def text(self) -> str:
        """Return one line for people."""
        return (
            f"{self.whole} of {self.frames} frames whole, {self.missing} missing, "
            f"{len(self.torn)} torn ({self.torn_rows} rows), {self.duplicates} duplicated, "
            f"{self.backwards} out of order, {len(self.unreadable)} unreadable, "
            f"{len(self.altered)} altered"
        )


def check_cube(cube: NDArray[Any], pattern: Pattern | None = None) -> CubeReport:
    """Look at each frame of a cube, shape (frames, rows, columns), and at their order.

    With `pattern` every pixel is compared too, which costs about as much as reading the cube.
    """
    truths = read_truths(cube)
    valid = truths["is_valid"]
    ids = truths["frame_id"].astype(np.int64)
    report = CubeReport(len(cube), unreadable=np.flatnonzero(~valid).tolist())
    strange = cube[:, 1:, 0] != (ids & 0xFFFF)[:, None]
    strange[~valid] = False
    rows = strange.sum(axis=1)
    report.torn = np.flatnonzero(rows).tolist()
    report.torn_rows = int(rows.sum())
    report.whole = int(np.count_nonzero(valid & (rows == 0)))
    if pattern is not None:
        report.altered = [
            int(index) for index in np.flatnonzero(valid & (rows == 0))
            if pattern.differs(cube[index], int(ids[index]))
        ]  # fmt: skip
    known = ids[valid]
    if len(known):
        steps = np.diff(known)
        report.first_id, report.last_id = int(known[0]), int(known[-1])
        report.missing = int((steps[steps > 1] - 1).sum())
        report.duplicates = int(np.count_nonzero(steps == 0))
        report.backwards = int(np.count_nonzero(steps < 0))
    return report
