# SPDX-License-Identifier: BSD-3-Clause
"""A cube that grows frame by frame in its file, and is made a FITS file when it is closed.

The header's blocks are kept free at the start, each frame goes from the shared memory through the
processor's cache to its place, and at the end NAXIS3, cards, sums, fill and the table of frames
are put in. So a cube has no buffer, its length need not be known, and what a killed process leaves
behind needs nothing but its table to become a whole file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.files import write_at
from nightjar.fits.binning import BLOCK_PIXELS, Pixels
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES, Card
from nightjar.fits.checksum import DataSum, datasum, fold, rotate_right
from nightjar.fits.frame_table import Rows, table_hdu
from nightjar.fits.pixels import BlockEncoder, ImageFormat, image_format
from nightjar.fits.sink import PIECE_BYTES, RUN_BYTES, DiskQueue, open_sink
from nightjar.fits.writer import card_images, set_checksums

_HALF = np.uint64(32)


@dataclass(frozen=True)
class CubeLayout:
    """Where things lie in the file of a cube.

    Attributes
    ----------
    frame_shape
        (rows, columns), or any shape of one frame.
    dtype
        Of the pixels in memory.
    header_bytes
        Room kept for the header: the data unit begins there.

    Raises
    ------
    ValueError
        FITS has no such pixels.
    """

    frame_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    header_bytes: int

    def __post_init__(self) -> None:
        image_format(self.dtype)

    @cached_property
    def frame_pixels(self) -> int:
        """Pixels of one frame."""
        return math.prod(self.frame_shape)

    @classmethod
    def make(cls, frame_shape: tuple[int, ...], dtype: Any, cards: int) -> CubeLayout:
        """Return the layout with room for a number of cards beside those of the standard."""
        needed = (cards + 16) * CARD_BYTES
        return cls(
            tuple(frame_shape), np.dtype(dtype), -(-needed // BLOCK_BYTES) * BLOCK_BYTES
        )

    @property
    def image(self) -> ImageFormat:
        """How the pixels stand in the file."""
        return image_format(self.dtype)

    @cached_property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.frame_pixels * self.dtype.itemsize

    @property
    def card_room(self) -> int:
        """Cards that fit, those that the standard demands not counted."""
        return self.header_bytes // CARD_BYTES - 16

    def frame_offset(self, index: int) -> int:
        """Return the byte at which frame `index` begins."""
        return self.header_bytes + index * self.frame_bytes


class _SmallFrames:
    """Encodes whole frames that fit the cache, several with the calls that one takes.

    What :class:`~nightjar.fits.pixels.BlockEncoder` does for pieces of any length: with frames of
    some ten kilobytes its steps would cost as much as the pixels do.

    Attributes
    ----------
    most
        Frames at once.
    """

    def __init__(self, layout: CubeLayout) -> None:
        image = layout.image
        self.most = RUN_BYTES // layout.frame_bytes
        self._native = np.zeros((self.most, layout.frame_pixels), image.dtype)
        self._words = self._native.view(np.uint64)
        self._sign = image.dtype.type(image.bzero) if image.bzero else None
        self._turn = 16 if image.dtype.itemsize == 2 else 0  # see BlockEncoder.finish
        self._stored = image.dtype.newbyteorder(">")

    @staticmethod
    def can(layout: CubeLayout) -> bool:
        """Tell whether frames are of a kind that is encoded here."""
        octets = layout.frame_bytes
        return octets <= PIECE_BYTES and octets % 8 == 0 and layout.dtype.itemsize > 1

    def encode(self, pixels: Pixels, room: memoryview) -> list[int]:
        """Put frames, (count, pixels), into memory of their length; return the DATASUM of each."""
        count, turn = len(pixels), self._turn
        native, words = self._native[:count], self._words[:count]
        stored = np.frombuffer(room, self._stored).reshape(native.shape)
        high = stored.view(np.uint64)  # no memory but this: the cache has room for so much
        if self._sign is None:
            np.copyto(native, pixels)
        else:
            np.bitwise_xor(pixels, self._sign, native)
        np.right_shift(words, _HALF, high)  # the sum of native_word_sum
        tops, totals = np.add.reduce(high, 1).tolist(), np.add.reduce(words, 1).tolist()
        np.copyto(stored, native)
        return [
            rotate_right(fold(top + ((total - (top << 32)) & 0xFFFF_FFFF_FFFF_FFFF)), turn)
            for top, total in zip(tops, totals, strict=True)
        ]


class CubeWriter:
    """A cube being written under its temporary name.

    Parameters
    ----------
    path
        Of the file; must not exist.
    layout
        What goes in.
    disk
        Writes chunks to disks; not used on a RAM disk.

    Attributes
    ----------
    frames
        Frames in the file.

    Raises
    ------
    OSError
        The file cannot be made or, in every method, written.
    """

    def __init__(self, path: Path, layout: CubeLayout, disk: DiskQueue) -> None:
        self.path = path
        self.layout = layout
        self.frames = 0
        self._pixels = layout.frame_pixels
        self._sum = DataSum()
        self._encoder = BlockEncoder(layout.image, min(BLOCK_PIXELS, self._pixels), self._sum)
        self._size = layout.dtype.itemsize
        self._frame_bytes = layout.frame_bytes
        self._small = _SmallFrames(layout) if _SmallFrames.can(layout) else None
        self._sink = open_sink(path, layout.header_bytes, disk)

    def append(self, frame: Pixels) -> int:
        """Put a frame at the end, reading it once.

        Parameters
        ----------
        frame
            Shape and dtype of the layout, C-contiguous; a view of shared memory will do.

        Returns
        -------
        int
            DATASUM of its bytes, as if they began at a multiple of four.
        """
        sink, encoder, size = self._sink, self._encoder, self._size
        flat = frame.reshape(-1)
        if self._small is not None:
            room = sink.reserve(self._frame_bytes)
            if len(room) == self._frame_bytes:
                (total,) = self._small.encode(flat[np.newaxis], room)
                sink.commit(self._frame_bytes)
                self.frames += 1
                return total
        self._sum.reset()
        start = 0
        while start < self._pixels:
            room = sink.reserve(min(BLOCK_PIXELS, self._pixels - start) * size)
            count = len(room) // size
            encoder.load(flat[start : start + count])
            encoder.finish(count, np.frombuffer(room, encoder.big_endian))
            sink.commit(count * size)
            start += count
        self.frames += 1
        return self._sum.value

    def append_run(self, frames: Pixels, sums: list[int]) -> None:
        """Put several frames at the end: the same bytes as one by one, and cheaper where small.

        Parameters
        ----------
        frames
            (count, *shape of the layout), C-contiguous.
        sums
            Takes what :meth:`append` returns of each frame that is in, also where one fails.
        """
        small, size, start = self._small, self._frame_bytes, 0
        if small is not None:
            flat = frames.reshape(len(frames), -1)
            while start < len(frames):
                room = self._sink.reserve(min(small.most, len(frames) - start) * size)
                count = len(room) // size
                if count == 0:  # a frame across the end of a chunk
                    sums.append(self.append(frames[start]))
                    start += 1
                    continue
                found = small.encode(flat[start : start + count], room[: count * size])
                try:
                    self._sink.commit(count * size)
                except OSError:
                    break  # one by one: the first of them may have room
                self.frames += count
                sums += found
                start += count
        for frame in frames[start:]:
            sums.append(self.append(frame))

    def drop_last(self) -> None:
        """Take the last frame back: it was overwritten while it was read."""
        self.frames -= 1
        self._sink.rewind(self.layout.frame_offset(self.frames))

    def hand_over(self) -> None:
        """Be done with taking frames: the rest is left to another thread.

        What is not in the file yet goes before the frames of the next cube: a process that is
        killed then leaves no gap behind which frames are saved.
        """
        self._sink.send()

    def complete(self, cards: Iterable[Card], rows: Rows, *, fsync: bool = True) -> int:
        """Make it a FITS file, still under its temporary name, and close it; return its size.

        Parameters
        ----------
        cards
            Header without the structural cards; at most :attr:`CubeLayout.card_room`.
        rows
            The table, one row a frame.
        """
        try:
            self._sink.flush()
            size = finish_cube(self._sink.descriptor, self.layout, cards, rows)
            if fsync:
                os.fsync(self._sink.descriptor)
        finally:
            self.close()
        return size

    def close(self) -> None:
        """Close the file as it is; harmless twice."""
        self._sink.close()


def finish_cube(descriptor: int, layout: CubeLayout, cards: Iterable[Card], rows: Rows) -> int:
    """Put header, fill and table around the frames of a cube; return the size of the file.

    Parameters
    ----------
    descriptor
        Of the file, which holds the header's room and at least ``len(rows)`` frames.
    cards, rows
        As in :meth:`CubeWriter.complete`; the sums of the frames are those of the rows.

    Raises
    ------
    OSError
        The file cannot be written.
    ValueError
        A card that is not allowed, or more than fit.
    """
    images, checksum_at = card_images(layout.image, (len(rows), *layout.frame_shape), cards)
    if len(images) + CARD_BYTES > layout.header_bytes:
        raise ValueError(f"{len(images) // CARD_BYTES} cards do not fit the header of this cube")
    head = bytearray(images + b"END".ljust(CARD_BYTES))
    head[-CARD_BYTES:-CARD_BYTES] = b" " * (layout.header_bytes - len(head))
    set_checksums(head, checksum_at, _data_sum(layout, rows))
    end = layout.frame_offset(len(rows))
    fill = -end % BLOCK_BYTES
    table = table_hdu(rows)
    # From the end to the start: until the header is there, nothing looks like a FITS file.
    os.ftruncate(descriptor, end)
    write_at(descriptor, bytes(fill) + table, end)
    write_at(descriptor, bytes(head), 0)
    return end + fill + len(table)


def _data_sum(layout: CubeLayout, rows: Rows) -> int:
    """Return the DATASUM of all frames from their own sums: each is turned by where it begins."""
    total = 0
    turns = (np.arange(len(rows), dtype=np.int64) * layout.frame_bytes) % 4
    sums = rows["DATASUM"].astype(np.uint64)
    for turn in range(4):
        bits = 8 * turn
        chosen = sums[turns == turn]
        mask = np.uint64(0xFFFF_FFFF)
        turned = (
            (chosen >> np.uint64(bits)) | (chosen << np.uint64(32 - bits))
        ) & mask if bits else chosen
        total += int(turned.sum(dtype=np.uint64))
    return fold(total)



def salvage_frames(descriptor: int, layout: CubeLayout, rows: Rows) -> Rows:
    """Return the rows of the frames that an unfinished file really holds, moved together in it.

    Every frame is read and summed: after a power cut the table may tell of frames that did not
    reach the disk.

    Parameters
    ----------
    descriptor
        Of the file, open for reading and writing.
    rows
        What the writer had noted, in order.

    Raises
    ------
    OSError
        The file cannot be read or written.
    """
    kept: list[int] = []
    for index in range(len(rows)):
        data = os.pread(descriptor, layout.frame_bytes, layout.frame_offset(index))
        if len(data) < layout.frame_bytes or datasum(data) != int(rows["DATASUM"][index]):
            continue
        if len(kept) != index:
            write_at(descriptor, data, layout.frame_offset(len(kept)))
        kept.append(index)
    return rows[kept]
