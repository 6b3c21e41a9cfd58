# SPDX-License-Identifier: BSD-3-Clause
"""A compressed cube that is logged: frames in, tiles out, the compression in other threads.

Compression runs in the threads of a :class:`TilePool`, which do not hold the interpreter there.
Tiles are written in the order of their frames, by whoever appends.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nightjar.fits.binning import Pixels
from nightjar.fits.cards import Card
from nightjar.fits.checksum import datasum
from nightjar.fits.frame_table import Rows
from nightjar.fits.tile_file import TileFile, TileLayout
from nightjar.fits.tiles import TileCompressor


class TilePool:
    """Threads that compress and the buffers that they need, shared by the cubes of a stream.

    Parameters
    ----------
    frame_shape, dtype
        Of the frames.
    threads
        How many compress at a time.

    Raises
    ------
    Refused
        Such frames cannot be compressed, or the library is missing: see
        :class:`~nightjar.fits.tiles.TileCompressor`.
    """

    def __init__(
        self, frame_shape: tuple[int, ...], dtype: npt.DTypeLike, threads: int = 2
    ) -> None:
        self.frame_shape, self.dtype = tuple(frame_shape), np.dtype(dtype)
        self._free: queue.SimpleQueue[TileCompressor] = queue.SimpleQueue()
        for _ in range(threads + 2):
            self._free.put(TileCompressor(dtype, frame_shape))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tiles")

    def take(self, *, wait: bool) -> TileCompressor | None:
        """Return an idle compressor; None where there is none and nobody wants to wait."""
        if wait:
            return self._free.get()
        with suppress(queue.Empty):
            return self._free.get_nowait()
        return None

    def give_back(self, compressor: TileCompressor) -> None:
        """Return a compressor."""
        self._free.put(compressor)

    def start(self, compressor: TileCompressor) -> Future[tuple[memoryview, int]]:
        """Compress what is loaded, some time soon; gives the tile and its DATASUM."""
        return self._threads.submit(_compress, compressor)

    def stop(self) -> None:
        """End the threads after what is in line."""
        self._threads.shutdown()


def _compress(compressor: TileCompressor) -> tuple[memoryview, int]:
    tile = compressor.compress_loaded()
    return tile, datasum(tile)


class CompressedCube:
    """A compressed cube being written under its temporary name.

    Parameters
    ----------
    path
        Of the file; must not exist.
    layout
        What goes in.
    pool
        Of the same frames.

    Raises
    ------
    OSError
        The file cannot be made or, in every method, written.
    ValueError
        The pool is for other frames.
    """

    def __init__(self, path: Path, layout: TileLayout, pool: TilePool) -> None:
        if (pool.frame_shape, pool.dtype) != (layout.frame_shape, layout.dtype):
            raise ValueError("the pool compresses frames of another kind")
        self.path = path
        self.layout = layout
        self._file = TileFile(path, layout)
        self._pool = pool
        self._line: deque[tuple[TileCompressor, Future[tuple[memoryview, int]]]] = deque()

    @property
    def frames(self) -> int:
        """Frames taken."""
        return self._file.frames + len(self._line)

    @property
    def heap_bytes(self) -> int:
        """Bytes of the tiles that are in the file."""
        return self._file.heap_bytes

    @property
    def is_full(self) -> bool:
        """No further frame has room: :attr:`TileLayout.capacity`."""
        return self.frames >= self.layout.capacity

    def append(self, frame: Pixels) -> int:
        """Take a frame, reading it once; waits where compression or the disk do not keep up.

        Parameters
        ----------
        frame
            Shape and dtype of the layout; a view of shared memory will do.

        Returns
        -------
        int
            DATASUM of its bytes as they would stand uncompressed.

        Raises
        ------
        ValueError
            The cube is full (:attr:`is_full`).
        """
        if self.is_full:
            raise ValueError(f"the cube has room for {self.layout.capacity} frames and no more")
        while self._line and self._line[0][1].done():
            self._write_oldest()
        compressor = self._pool.take(wait=False)
        while compressor is None:
            if self._line:
                self._write_oldest()
            compressor = self._pool.take(wait=not self._line)
        try:
            frame_sum = compressor.load(frame)
        except BaseException:
            self._pool.give_back(compressor)
            raise
        self._line.append((compressor, self._pool.start(compressor)))
        return frame_sum

    def drop_last(self) -> None:
        """Take the last frame back: it was overwritten while it was read."""
        if self._line:
            self._give_up(*self._line.pop())
        else:
            self._file.drop_last()

    def hand_over(self) -> None:
        """Be done with taking frames: every tile goes into the file.

        The next cube needs the buffers, perhaps before another thread comes to complete this one.
        """
        while self._line:
            self._write_oldest()

    def drop_line(self) -> None:
        """Take back every frame that is not in the file yet: the disk is full, say.

        Afterwards :attr:`frames` counts what can be completed.
        """
        while self._line:
            self._give_up(*self._line.pop())

    def _write_oldest(self) -> None:
        # Where writing fails the tile stays in line: it can be tried again, or given up.
        compressor, future = self._line[0]
        self._file.append(*future.result())
        self._line.popleft()
        self._pool.give_back(compressor)

    def _give_up(
        self, compressor: TileCompressor, future: Future[tuple[memoryview, int]]
    ) -> None:
        if not future.cancel():
            future.exception()  # waits: its buffers are in use
        self._pool.give_back(compressor)

    def complete(self, cards: Iterable[Card], rows: Rows, *, fsync: bool = True) -> int:
        """Make it a FITS file and close it; return its size. See :meth:`TileFile.complete`."""
        try:
            self.hand_over()
            return self._file.complete(cards, rows, fsync=fsync)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file as it is; harmless twice."""
        self.drop_line()
        self._file.close()
