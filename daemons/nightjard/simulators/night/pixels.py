# SPDX-License-Identifier: BSD-3-Clause
"""Pixels of a simulated night, and the tag by which every frame proves which one it is.

The first eight pixels of the first row are the tag::

    0 camera   1 segment   2-3 trigger index, high word first   4 modulator: 0 none, 1 high, 2 low
    5 index of the frame in its raw cube   6 magic   7 exclusive or of words 0..6

It survives lossless compression, copies and re-ordering. The rest comes from a pool of a few
frames made once, so that a night costs no more than writing it; which one follows from the tag:
the whole frame can be made again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.errors import FrameInvalid, InvalidArgument
from nightjar.fits.checksum import datasum

TAG_WORDS = 8
MAGIC = 0x4E53
BIAS_ADU = 200.0
GAIN_E_PER_ADU = 0.103
READ_NOISE_E = 0.4
KINDS = ("dark", "flat", "spots", "star")

Pixels = npt.NDArray[np.uint16]
Tags = npt.NDArray[np.void]

#: A tag as it was read; where ``is_valid`` is False the rest means nothing. STATE is 1 for a
#: modulator driven high, -1 for low, 0 without modulation.
TAG = np.dtype(
    [("camera", "<i4"), ("segment", "<i4"), ("trigger", "<i8"), ("state", "i1"), ("index", "<i4"),
     ("is_valid", "?")]
)  # fmt: skip

_FLIP = np.uint16(0x8000)
_POOL_BYTES = 16 << 20  # of one kind of frames
_STAR_E = 5000.0  # electrons in the star, per frame
_FLAT_ADU = 3000.0
# The modulator and the beam splitter share the light out: the polarimetry of a night is not flat.
_CAMERA_FLUX = (1.0, 1.0, 0.93, 0.9)
_STATE_FLUX = {0: 1.0, 1: 1.08, -1: 0.92}


@dataclass(frozen=True, slots=True)
class Tag:
    """Which frame it is."""

    camera: int
    segment: int
    trigger: int
    state: int
    index: int


def tag_words(
    camera: int,
    segment: npt.ArrayLike,
    trigger: npt.ArrayLike,
    state: npt.ArrayLike,
    index: npt.ArrayLike,
) -> Pixels:
    """Return the tags of frames of one camera.

    Parameters
    ----------
    camera
        Its number.
    segment, trigger, state, index : (n,)
        State is 1, -1 or 0.

    Returns
    -------
    numpy.ndarray
        (n, 8).
    """
    triggers = np.asarray(trigger, np.int64)
    words = np.empty((len(triggers), TAG_WORDS), np.uint16)
    words[:, 0] = camera
    words[:, 1] = np.asarray(segment)
    words[:, 2] = triggers >> 16 & 0xFFFF
    words[:, 3] = triggers & 0xFFFF
    words[:, 4] = np.asarray(state, np.int64) % 3
    words[:, 5] = np.asarray(index, np.int64) & 0xFFFF
    words[:, 6] = MAGIC
    words[:, 7] = np.bitwise_xor.reduce(words[:, :7], axis=1)
    return words


def read_tags(frames: npt.NDArray[Any]) -> Tags:
    """Return the tags of the frames of a cube.

    Parameters
    ----------
    frames : (n, rows, columns)
        Pixel values (BZERO applied) of any integer or float type.

    Returns
    -------
    numpy.ndarray
        (n,) of :data:`TAG`.

    Raises
    ------
    InvalidArgument
        Not a cube, or too narrow.
    """
    if frames.ndim != 3 or frames.shape[2] < TAG_WORDS:
        raise InvalidArgument(f"an array of shape {frames.shape} is no cube of tagged frames")
    words = frames[:, 0, :TAG_WORDS].astype(np.int64)
    tags = np.zeros(len(words), TAG)
    tags["camera"], tags["segment"] = words[:, 0], words[:, 1]
    tags["trigger"] = words[:, 2] << 16 | words[:, 3]
    tags["state"] = np.where(words[:, 4] == 2, -1, words[:, 4])
    tags["index"] = words[:, 5]
    tags["is_valid"] = (
        (words[:, 6] == MAGIC) & (words[:, 4] < 3) & (words[:, 0] > 0)
        & (np.bitwise_xor.reduce(words, axis=1) == 0)
    )  # fmt: skip
    return tags


def read_tag(frame: npt.NDArray[Any]) -> Tag:
    """Return the tag of one frame, shape (rows, columns).

    Raises
    ------
    FrameInvalid
        There is none, or it is damaged.
    """
    tag = read_tags(frame[None])[0]
    if not tag["is_valid"]:
        raise FrameInvalid(f"no undamaged tag: the frame begins with {frame[0, :TAG_WORDS]}")
    return Tag(**{field.name: int(tag[field.name]) for field in fields(Tag)})


def check_tags(
    frames: npt.NDArray[Any],
    *,
    camera: int | None = None,
    segment: int | None = None,
    state: int | None = None,
) -> list[str]:
    """Return what is wrong with the frames of a product, a line each; nothing where all is well.

    Every frame must have a valid tag and triggers must rise; what is given must hold for all.

    Parameters
    ----------
    frames : (n, rows, columns)
        Pixel values.
    camera, segment, state
        What the product claims to hold.
    """
    tags = read_tags(frames)
    bad = [f"frame {index}: no valid tag" for index in np.flatnonzero(~tags["is_valid"])]
    for name, wanted in (("camera", camera), ("segment", segment), ("state", state)):
        if wanted is not None:
            wrong = np.flatnonzero(tags["is_valid"] & (tags[name] != wanted))
            bad += [f"frame {i}: {name} is {tags[name][i]}, not {wanted}" for i in wrong]
    order = tags["segment"].astype(np.int64) << 32 | tags["trigger"]
    back = np.flatnonzero(np.diff(order) < 0) + 1
    return bad + [f"frame {i}: trigger {tags['trigger'][i]} comes after a later one" for i in back]


class FramePool:
    """Frames of one shape, made once and used in turn.

    Parameters
    ----------
    shape
        (rows, columns); at least 8 columns.
    seed
        The same seed gives the same frames.

    Attributes
    ----------
    size
        Different frames of each kind, camera and state.

    Raises
    ------
    InvalidArgument
        The shape has no room for a tag.
    """

    def __init__(self, shape: tuple[int, int], seed: int) -> None:
        rows, columns = shape
        if rows < 1 or columns < TAG_WORDS:
            raise InvalidArgument(
                f"frames of {rows} x {columns} pixels: at least 1 x {TAG_WORDS} are needed"
            )
        self.shape = (rows, columns)
        self.size = max(4, min(32, _POOL_BYTES // (rows * columns * 2)))
        self._seed = seed
        self._noise: npt.NDArray[np.float32] | None = None
        self._made: dict[tuple[str, int, int], Pixels] = {}
        self._pieces: dict[tuple[str, int, int], list[memoryview]] = {}
        self._sums: dict[tuple[str, int, int], npt.NDArray[np.uint64]] = {}

    def images(self, kind: str, camera: int, state: int) -> Pixels:
        """Return the pixel values of the frames of a kind, without tags.

        Parameters
        ----------
        kind
            Of :data:`KINDS`.
        camera, state
            As in the tag; a star's flux depends on both.

        Returns
        -------
        numpy.ndarray
            (size, rows, columns).
        """
        return pixel_values(self.stored(kind, camera, state))

    def stored(self, kind: str, camera: int, state: int) -> Pixels:
        """Return the same as their bytes stand in a file; not to be written to."""
        key = (kind, camera, state)
        if key not in self._made:
            if self._noise is None:
                rng = np.random.default_rng([self._seed, 0x706F6F6C])
                self._noise = rng.standard_normal((self.size, *self.shape), np.float32)
            electrons = _scene(kind, self.shape, camera, state)
            sigma = np.sqrt(electrons + READ_NOISE_E**2) / GAIN_E_PER_ADU
            # Cameras and states differ although one noise serves all: each begins elsewhere in it.
            shift = (camera * 7919 + (state % 3) * 104_729) % (self.shape[0] * self.shape[1])
            noise = np.roll(self._noise.reshape(self.size, -1), shift, axis=1)
            values = noise.reshape(self._noise.shape)
            values *= sigma.astype(np.float32)
            values += (BIAS_ADU + electrons / GAIN_E_PER_ADU).astype(np.float32)
            self._made[key] = stored(np.rint(np.clip(values, 0, 65535)).astype(np.uint16))
        return self._made[key]

    def numbers(self, segment: npt.ArrayLike, trigger: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return which of the frames the given ones use."""
        turn = np.asarray(trigger, np.int64) * 5 + np.asarray(segment, np.int64) * 3
        chosen: npt.NDArray[np.int64] = turn % self.size
        return chosen

    def pieces(self, kind: str, camera: int, state: int) -> list[memoryview]:
        """Return the bytes of each frame in a file, those of its tag left out."""
        key = (kind, camera, state)
        if key not in self._pieces:
            images = self.stored(kind, camera, state)
            self._pieces[key] = [memoryview(image).cast("B")[2 * TAG_WORDS :] for image in images]
        return self._pieces[key]

    def sums(self, kind: str, camera: int, state: int) -> npt.NDArray[np.uint64]:
        """Return the DATASUM of each frame in a file, its tag taken as zeros."""
        key = (kind, camera, state)
        if key not in self._sums:
            images = self.stored(kind, camera, state).copy()
            images[:, 0, :TAG_WORDS] = 0
            self._sums[key] = np.array([datasum(image) for image in images], np.uint64)
        return self._sums[key]

    def frame(self, tag: Tag, kind: str) -> Pixels:
        """Return one whole frame, tag and all, as it was written."""
        number = int(self.numbers([tag.segment], [tag.trigger])[0])
        frame: Pixels = self.images(kind, tag.camera, tag.state)[number].copy()
        frame[0, :TAG_WORDS] = tag_words(
            tag.camera, [tag.segment], [tag.trigger], [tag.state], [tag.index]
        )[0]
        return frame


def stored(pixels: Pixels) -> Pixels:
    """Return unsigned pixels as their bytes stand in a FITS file with BZERO 32768."""
    flipped: Pixels = (pixels ^ _FLIP).byteswap()
    return flipped


def pixel_values(pixels: Pixels) -> Pixels:
    """Undo :func:`stored`."""
    values: Pixels = pixels.byteswap()
    values ^= _FLIP
    return values


def kind_of(data_type: str) -> str:
    """Return the kind of frames that a value of DATA-TYP means."""
    if data_type in ("DARK", "BIAS"):
        return "dark"
    if data_type in ("FLAT", "DOMEFLAT", "SKYFLAT"):
        return "flat"
    return "spots" if data_type == "COMPARISON" else "star"


def _scene(
    kind: str, shape: tuple[int, int], camera: int, state: int
) -> npt.NDArray[np.float64]:
    """Return the mean electrons of each pixel."""
    rows, columns = shape
    y, x = np.ogrid[:rows, :columns]
    if kind == "flat":
        vignetting = 1 - 0.1 * ((y / rows - 0.5) ** 2 + (x / columns - 0.5) ** 2)
        return np.asarray(_FLAT_ADU * GAIN_E_PER_ADU * vignetting)
    electrons = np.full(shape, 0.05)
    if kind == "spots":
        electrons += 40.0 * ((y % 16 == 8) & (x % 16 == 8))
    elif kind == "star":
        flux = _STAR_E * _CAMERA_FLUX[min(camera, 3)] * _STATE_FLUX[state]
        row, column, sigma = rows / 2, columns / 2 + 2 * camera, max(1.5, min(shape) / 40)
        distance = (y - row) ** 2 + (x - column) ** 2
        electrons += flux / (2 * np.pi * sigma**2) * np.exp(-distance / (2 * sigma**2))
    return electrons
