# SPDX-License-Identifier: BSD-3-Clause
"""Is a product what its task says, and does it hold the pixels of raw?

Every byte of the file is read from the disk once. The pixels are expanded, and the hash of each
frame is compared with that of the raw frame; from them and from the task the rest of the file is
made anew and compared byte for byte, headers, checksums and tables. So no bit of the file can
change without notice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from nightjar.errors import NightjarError, StorageError
from nightjar.fits.cards import BLOCK_BYTES
from nightjar.fits.checksum import DataSum, datasum
from nightjar.fits.tiles import DESCRIPTOR_BYTES, TileCompressor
from nightjard.archived.nights.writing.hashes import (
    HASH_BYTES,
    Hashes,
    frame_hash,
    payload_hash,
)
from nightjard.archived.nights.writing.layout import ProductLayout
from nightjard.archived.nights.writing.tasks import ProductResult, ProductTask

_READ_BYTES = 8 << 20
_MOST_PROBLEMS = 20


@dataclass
class Checked:
    """What was found.

    Attributes
    ----------
    problems
        One line each; none for a file that is right.
    file_hash, size
        Of the file as it was read.
    """

    problems: list[str] = field(default_factory=list)
    file_hash: str = ""
    size: int = 0

    def add(self, text: str) -> None:
        """Note a problem; only the first ones are kept."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(text)


def verify_product(task: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """Read a product back from the disk and compare it with its task and with raw's hashes.

    Parameters
    ----------
    task, result
        Of :class:`ProductTask`, and of what :func:`write_product` answered.

    Returns
    -------
    list of str
        What is wrong, a line each; empty where everything is right.
    """
    try:
        asked, answered = ProductTask.from_json(task), ProductResult.from_json(result)
        layout = ProductLayout(asked, asked.rows())
        hashes = read_hashes(asked)
        checked = check_file(asked.path, layout, hashes)
    except NightjarError as error:
        return [error.message]
    except OSError as error:
        return [f"{asked.path} cannot be read: {error.strerror or error}"]
    if payload_hash(hashes) != answered.payload_hash:
        checked.add(f"{asked.hashes_path}: the hashes of the frames are not those that were taken")
    if checked.size != answered.size:
        checked.add(f"{asked.path} has {checked.size} bytes, {answered.size} were written")
    if checked.file_hash != answered.file_hash:
        checked.add(f"{asked.path}: its blake3 is not that of the file that was written")
    return checked.problems


def read_hashes(task: ProductTask) -> Hashes:
    """Return the hashes of the frames of a product.

    Raises
    ------
    StorageError
        They are not there or not those of so many frames.
    """
    path = task.hashes_path
    try:
        hashes = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{task.path} cannot be compared with raw: the hashes of its frames, {path}, cannot "
            f"be read: {error}; write the product again",
            path=str(path),
        ) from error
    if hashes.dtype != np.uint8 or hashes.shape != (task.frames, HASH_BYTES):
        raise StorageError(
            f"{task.path} cannot be compared with raw: {path} does not hold the hashes of "
            f"{task.frames} frames; write the product again",
            path=str(path),
        )
    return np.asarray(hashes)


def check_file(path: Path, layout: ProductLayout, hashes: Hashes) -> Checked:
    """Read a file and compare it; its cached pages are dropped before, so the disk is asked.

    Parameters
    ----------
    path, layout
        The file, and what must be in it.
    hashes : (n, 32)
        Of its frames.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system that has no pages to drop
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return _Check(descriptor, path, layout, hashes).run()
    finally:
        os.close(descriptor)


class _Check:
    """One walk through an open file."""

    def __init__(self, descriptor: int, path: Path, layout: ProductLayout, hashes: Hashes) -> None:
        self._descriptor = descriptor
        self._path = path
        self._layout = layout
        self._hashes = hashes
        self._at = 0
        self._hasher = blake3()
        self._image, self._pixels = DataSum(), DataSum()
        self.found = Checked(size=os.fstat(descriptor).st_size)

    def run(self) -> Checked:
        """Return what was found."""
        layout = self._layout
        start = self._next(layout.begin)
        lengths = self._lengths(start)
        if lengths is None:
            self._drain()
        else:
            for index, data in enumerate(self._pieces(lengths)):
                self._frame(index, data)
            wanted = layout.start(lengths, self._image.value, self._pixels)
            self._compare_start(start, wanted)
            tail = layout.tail(self._at)
            if self._next(len(tail)) != tail:
                self.found.add(
                    f"{self._path}: table FRAMES, or what fills the blocks before and behind it, "
                    "is not what was planned"
                )
            if self._drain():
                self.found.add(f"{self._path}: there are bytes behind its end")
        self.found.file_hash = self._hasher.hexdigest()
        return self.found

    def _next(self, count: int) -> bytes:
        """Return the next bytes of the file; fewer at its end."""
        data = os.pread(self._descriptor, count, self._at)
        while 0 < len(data) < count:
            more = os.pread(self._descriptor, count - len(data), self._at + len(data))
            if not more:
                break
            data += more
        self._at += len(data)
        self._hasher.update(data)
        return data

    def _drain(self) -> int:
        """Read to the end of the file; return how many bytes there were."""
        begin = self._at
        while self._next(_READ_BYTES):
            pass
        return self._at - begin

    def _lengths(self, start: bytes) -> list[int] | None:
        """Return the bytes of each frame's piece; None where the table cannot be followed."""
        layout = self._layout
        if not layout.compressed:
            return [layout.frame_bytes] * layout.frames
        table = start[layout.rows_offset :]
        if len(table) == layout.frames * DESCRIPTOR_BYTES:
            lengths: list[int] = np.frombuffer(table, ">i8")[::2].tolist()
            most = 2 * layout.frame_bytes + 4096
            if all(0 < length <= most for length in lengths) and (
                layout.descriptors(lengths) == table
            ):
                return lengths
        self.found.add(f"{self._path}: the table of its tiles is damaged")
        return None

    def _pieces(self, lengths: list[int]) -> Iterator[memoryview]:
        """Yield the bytes of every frame's piece, read several at a time."""
        first = 0
        while first < len(lengths):
            last, size = first + 1, lengths[first]
            while last < len(lengths) and size + lengths[last] <= _READ_BYTES:
                size += lengths[last]
                last += 1
            data = memoryview(self._next(size))
            # The disk fetches what comes next while this is worked on.
            os.posix_fadvise(self._descriptor, self._at, _READ_BYTES, os.POSIX_FADV_WILLNEED)
            for length in lengths[first:last]:
                yield data[:length]
                data = data[length:]
            first = last

    def _frame(self, index: int, data: memoryview) -> None:
        layout = self._layout
        if not layout.compressed:
            stored, frame_sum = data, datasum(data)
        else:
            if index == 0:
                self._coder = TileCompressor(layout.dtype, layout.frame_shape)
                self._stored = memoryview(bytearray(layout.frame_bytes))
            self._pixels.add_sum(datasum(data), len(data))
            stored = self._stored
            try:
                frame_sum = self._coder.expand_stored(data, stored)
            except ValueError as error:
                self.found.add(f"{self._path}: frame {index} cannot be expanded: {error}")
                return
        self._image.add_sum(frame_sum, layout.frame_bytes)
        if frame_hash(stored) != self._hashes[index].tobytes():
            self.found.add(f"{self._path}: frame {index} is not the one of the raw cube")

    def _compare_start(self, start: bytes, wanted: bytes) -> None:
        if start == wanted:
            return
        last = min(len(start), len(wanted))
        differ = np.frombuffer(start, np.uint8, last) != np.frombuffer(wanted, np.uint8, last)
        place = int(np.argmax(differ)) if differ.any() else last
        self.found.add(
            f"{self._path}: byte {place} (block {place // BLOCK_BYTES}) of its headers and "
            "checksums is not what was planned for these pixels"
        )
