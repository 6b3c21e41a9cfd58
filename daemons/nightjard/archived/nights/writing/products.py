# SPDX-License-Identifier: BSD-3-Clause
"""A product in one pass: frames out of raw, hashed, compressed, written, read back, named."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.errors import StorageError
from nightjar.files import require_space
from nightjar.fits.checksum import DataSum, datasum
from nightjar.fits.tiles import TileCompressor
from nightjard.archived.nights.records import CubeRef, Rows
from nightjard.archived.nights.writing.checking import check_file
from nightjard.archived.nights.writing.hashes import (
    HASH_BYTES,
    Hashes,
    frame_hash,
    payload_hash,
)
from nightjard.archived.nights.writing.layout import ProductLayout
from nightjard.archived.nights.writing.output import (
    KEPT_BYTES,
    NewFile,
    Output,
    make_folder,
    open_output,
    remove_leftovers,
)
from nightjard.archived.nights.writing.raw import RawFrame, RawFrames
from nightjard.archived.nights.writing.same_file import storage_error
from nightjard.archived.nights.writing.tasks import ProductResult, ProductTask


class Stages:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def write_product(
    task: dict[str, Any], *, threads: int = 1, kept_bytes: int = KEPT_BYTES
) -> dict[str, Any]:
    """Write a product, or find that it is there.

    The same task gives the same bytes. Killed at any instant it leaves raw as it was, and a
    leftover that the next call for the same product removes; called after it was done it compares
    and changes nothing.

    Parameters
    ----------
    task
        Of :class:`ProductTask`.
    threads
        That compress. One is enough where a pool has a process a core.
    kept_bytes
        Of a file that is verified later as many are kept until its hash can be made; the rest is
        read back.

    Returns
    -------
    dict
        Of :class:`ProductResult`.

    Raises
    ------
    InvalidArgument
        The task makes no sense.
    StorageError
        Raw is not what was planned, or damaged; a file of that name holds something else; the
        disk is full or fails; what was written cannot be read back. There is no new file then.
    """
    begun = time.perf_counter()
    asked = ProductTask.from_json(task)
    rows = asked.rows()
    layout = ProductLayout(asked, rows)
    stages = Stages()
    if not layout.compressed and not asked.path.exists() and asked.path.parent.is_dir():
        size = layout.begin + layout.frames * layout.frame_bytes
        require_space(asked.path.parent, size, f"cannot write {asked.path}")
    raw = RawFrames(Path(asked.night), asked.cube_refs(), accepts_damage=asked.accepts_damage)
    is_verified = asked.verify == "inline"
    # Where the file is read back all the same, its hash is made of that.
    output = open_output(asked.path, kept_bytes=0 if is_verified else kept_bytes)
    try:
        output.reserve(layout.begin)
        with _Encoders(layout, threads) as encoders:
            writer = _Writer(layout, raw, output, stages)
            writer.take(rows, encoders)
        size = writer.finish()
        with stages.of("sync"):
            if is_verified:
                output.sync()
        with stages.of("verify" if is_verified else "hash"):
            file_hash = (
                _proven(output, layout, writer.hashes) if is_verified else output.content_hash()
            )
        with stages.of("sync"):
            if not is_verified:
                output.sync()
            write_hashes(asked.hashes_path, writer.hashes)
            output.publish()
    finally:
        output.close()
    stages.seconds["total"] = time.perf_counter() - begun
    return ProductResult(
        asked.target, size, file_hash, payload_hash(writer.hashes), layout.frames, is_verified,
        stages.seconds, raw.bytes_read, output.written, size if is_verified else 0,
        tuple(raw.damaged), output.was_there, output.read_back,
    ).to_json()  # fmt: skip


def _proven(output: Output, layout: ProductLayout, hashes: Hashes) -> str:
    """Return the hash of a file that was read back and is right."""
    try:
        checked = check_file(output.file, layout, hashes)
    except OSError as error:
        raise storage_error(output.file, error) from error
    if checked.problems:
        raise StorageError(
            "what was written is not what was read: " + "; ".join(checked.problems[:3]) + "; the "
            "disk or the memory of this host is faulty",
            path=str(output.file), problems=checked.problems,
        )  # fmt: skip
    return checked.file_hash


def write_hashes(path: Path, hashes: Hashes) -> None:
    """Keep the hashes of the frames of a product; nothing is done where they are kept already.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    buffer = io.BytesIO()
    np.save(buffer, hashes, allow_pickle=False)
    data = buffer.getvalue()
    try:
        make_folder(path.parent)
        remove_leftovers(path)
        if path.is_file() and path.read_bytes() == data:
            return
        output = NewFile(path)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        output.append(data)
        output.finish()
        output.sync()
        output.publish(replace=True)
    finally:
        output.close()


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A frame, ready to be written."""

    frame: RawFrame
    digest: bytes
    frame_sum: int
    piece: Any  # its tile, or its bytes
    piece_sum: int
    seconds: tuple[float, float]  # hashing, compressing


class _Encoders:
    """Hash and compress frames, in this thread or in others."""

    def __init__(self, layout: ProductLayout, threads: int) -> None:
        self._layout = layout
        self._coders = [
            TileCompressor(layout.dtype, layout.frame_shape)
            for _ in range(threads if layout.compressed else 0)
        ]
        self._pool: ThreadPoolExecutor | None = None
        if threads > 1 and layout.compressed:
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tiles")

    def __enter__(self) -> _Encoders:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def encode(self, frames: list[RawFrame]) -> Iterator[_Encoded]:
        """Yield what becomes of some frames, in order; each is good until the next is asked for."""
        if self._pool is None:
            for frame in frames:
                yield self._encoded(frame, self._coders[0] if self._coders else None)
            return
        # Every coder has one thread's frame at a time: frames go round the coders.
        count = len(self._coders)
        for first in range(0, len(frames), count):
            group = frames[first : first + count]
            yield from self._pool.map(self._encoded, group, self._coders[: len(group)])

    def _encoded(self, frame: RawFrame, coder: TileCompressor | None) -> _Encoded:
        start = time.perf_counter()
        digest = frame_hash(frame.data)
        hashed = time.perf_counter()
        encoded: tuple[int, Any, int]
        if coder is None:
            frame_sum = datasum(frame.data)
            encoded = (frame_sum, frame.data, frame_sum)
        elif frame.tile is not None and frame.tile_frame_sum is not None:
            # The tile of a compressed cube is what compressing its frame again would give.
            encoded = (frame.tile_frame_sum, frame.tile, datasum(frame.tile))
        else:
            frame_sum = coder.load_stored(frame.data)
            tile = coder.compress_loaded()
            encoded = (frame_sum, tile, datasum(tile))
        end = time.perf_counter()
        frame_sum, piece, piece_sum = encoded
        seconds = (hashed - start, end - hashed)
        return _Encoded(frame, digest, frame_sum, piece, piece_sum, seconds)


class _Writer:
    """Takes the frames of a product, and counts."""

    def __init__(
        self, layout: ProductLayout, raw: RawFrames, output: Output, stages: Stages
    ) -> None:
        self._layout = layout
        self._raw = raw
        self._output = output
        self._stages = stages
        self._lengths: list[int] = []
        self._image, self._pieces = DataSum(), DataSum()
        self.hashes: Hashes = np.empty((layout.frames, HASH_BYTES), np.uint8)

    def take(self, rows: Rows, encoders: _Encoders) -> None:
        """Read, encode and write all frames of the rows."""
        clock: Callable[[], float] = time.perf_counter
        source = self._raw.batches(rows)
        while True:
            start = clock()
            batch = next(source, None)
            self._stages.add("read", clock() - start)
            if batch is None:
                return
            ref, frames = batch
            for encoded in encoders.encode(frames):
                self._put(ref, encoded)

    def _put(self, ref: CubeRef, encoded: _Encoded) -> None:
        frame = encoded.frame
        self._raw.check(ref, frame.index, frame.wanted_sum, encoded.frame_sum)
        self.hashes[len(self._lengths)] = np.frombuffer(encoded.digest, np.uint8)
        start = time.perf_counter()
        self._output.append(encoded.piece)
        self._stages.add("write", time.perf_counter() - start)
        self._stages.add("hash", encoded.seconds[0])
        self._stages.add("compress", encoded.seconds[1])
        self._lengths.append(len(encoded.piece))
        self._image.add_sum(encoded.frame_sum, self._layout.frame_bytes)
        self._pieces.add_sum(encoded.piece_sum, len(encoded.piece))

    def finish(self) -> int:
        """Write what stands around the pixels; return the size of the file."""
        layout, output = self._layout, self._output
        with self._stages.of("write"):
            output.append(layout.tail(layout.begin + sum(self._lengths)))
            output.put(layout.start(self._lengths, self._image.value, self._pieces), 0)
            return output.finish()
