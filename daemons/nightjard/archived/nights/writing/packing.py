# SPDX-License-Identifier: BSD-3-Clause
"""Files that arrive uncompressed: to ``NAME.fits.fz``, proven, and back.

What is made is what ``fpack -r`` makes, and is read by ``funpack``. It is read back, expanded and
compared byte for byte with the original before it gets its name, and only then may the original
go. Floats, which Rice would have to round, and tables stay as they are in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from nightjar.errors import Code, Refused, StorageError
from nightjar.files import fsync_folder, temporary_name
from nightjar.fits import rice
from nightjar.fits.cards import BLOCK_BYTES, COMMENTARY
from nightjar.fits.checksum import DataSum
from nightjar.fits.hdus import Hdu, Reader, opened, walk
from nightjar.fits.header import Header, NotFits
from nightjar.fits.tile_file import empty_primary
from nightjar.fits.tiles import DESCRIPTOR_BYTES
from nightjard.archived.nights.writing.output import KEPT_BYTES, Output, open_output
from nightjard.archived.nights.writing.packed import (
    Tiling,
    card_images,
    encoded,
    packed_header,
    tiling_for,
    unpacked,
)
from nightjard.archived.nights.writing.same_file import hash_of, storage_error

ENDING = ".fz"
_CHUNK_BYTES = 4 << 20
_NO_DATA = blake3().hexdigest()


@dataclass(frozen=True)
class Packed:
    """A file and its compressed form.

    Attributes
    ----------
    path
        Of the file that was made: compressed by :func:`compress_file`, plain by
        :func:`decompress_file`.
    size, file_hash
        Its bytes, and their blake3 (hexadecimal).
    original_size, original_hash
        Of the file that it was made from.
    was_there
        It was there already, and right.
    is_removed
        The original has gone.
    """

    path: Path
    size: int
    file_hash: str
    original_size: int
    original_hash: str
    was_there: bool
    is_removed: bool


def compress_task(path: str) -> dict[str, Any]:
    """Compress a file, let the original go when that is proven; plain values, for an executor."""
    return {**dataclasses.asdict(compress_file(Path(path), keep=False)), "path": f"{path}{ENDING}"}


def compress_file(path: Path, *, keep: bool) -> Packed:
    """Compress the images of a file without loss, into ``NAME.fz`` beside it.

    Parameters
    ----------
    path
        Any FITS file with an image of 8, 16 or 32-bit integers, of two axes or more, in its
        primary unit or an extension.
    keep
        Whether the original stays.

    Raises
    ------
    NotFits
        It is none, or not whole.
    Refused
        There is nothing in it that can be compressed without loss, or it is compressed already.
    StorageError
        It changes meanwhile; a file of that name exists, is whole, and holds something else; the
        disk is full or fails. The original stays.
    """
    target = path.with_name(path.name + ENDING)
    if not os.path.lexists(path) and os.path.lexists(target):
        return _without_original(target)
    with opened(path) as (read, name):
        before = path.stat()
        units = _units(read, before.st_size, name)
        was_there = os.path.lexists(target) and _is_same(target, read, before.st_size, name)
        if not was_there:
            _write(target, read, units, name)
        original_hash = _hash(read, before.st_size)
        after = path.stat()
    mark = ("st_size", "st_mtime_ns", "st_ino")
    if [getattr(before, key) for key in mark] != [getattr(after, key) for key in mark]:
        raise StorageError(f"{path} changed while it was compressed; run again", path=str(path))
    if not keep:
        _remove(path)
    return Packed(
        target, target.stat().st_size, hash_of(target), before.st_size, original_hash, was_there,
        not keep,
    )  # fmt: skip


def decompress_file(path: Path, *, keep: bool = True) -> Packed:
    """Expand a compressed file, ours or one of ``fpack``, into its name without ``.fz``.

    Parameters
    ----------
    path
        ``NAME.fits.fz``.
    keep
        Whether the compressed file stays.

    Raises
    ------
    NotFits
        It is none, or damaged.
    Refused
        It was compressed in a way that is not read here, with loss say; or has another ending.
    StorageError
        A file of that name exists and holds something else; the disk is full or fails.
    """
    if path.suffix != ENDING:
        raise Refused(f"cannot expand {path}: its name does not end in {ENDING}")
    target = path.with_suffix("")
    output = None
    with opened(path) as (read, name):
        size = path.stat().st_size
        try:
            output = open_output(target, kept_bytes=KEPT_BYTES)
            for piece in unpacked(read, size, name):
                output.append(piece)
            target_size = output.finish()
            output.sync()
            file_hash = output.content_hash()
            output.publish()
        finally:
            if output is not None:
                output.close()
        original_hash = _hash(read, size)
    if not keep:
        _remove(path)
    return Packed(target, target_size, file_hash, size, original_hash, output.was_there, not keep)


def _units(read: Reader, size: int, name: str) -> list[tuple[Hdu, Tiling | None]]:
    """Return the units of a file with how each is compressed."""
    units = [(hdu, tiling_for(hdu)) for hdu in walk(read, name, is_lenient=True)]
    end = units[-1][0].end
    if end != size:
        raise NotFits(
            f"cannot compress {name}: it has {size} bytes, not {end} as its headers say", path=name
        )
    if any(hdu.header.get("ZIMAGE") is True for hdu, _ in units):
        raise Refused(f"{name} is compressed already")
    if all(tiling is None for _, tiling in units):
        raise Refused(
            f"{name} stays as it is: no image of 8, 16 or 32-bit integers with two axes or more, "
            "and nothing else can be compressed without loss",
            code=Code.UNSUPPORTED,
        )
    return units


def _write(target: Path, read: Reader, units: list[tuple[Hdu, Tiling | None]], name: str) -> None:
    output = open_output(target)
    try:
        for hdu, tiling in units:
            if tiling is None:
                for at in range(hdu.start, hdu.end, _CHUNK_BYTES):
                    output.append(read(at, min(_CHUNK_BYTES, hdu.end - at)))
                continue
            if hdu.number == 0:
                output.append(empty_primary())
            _write_image(output, read, hdu, tiling)
        size = output.finish()
        output.sync()
        _drop_pages(output.file)
        with opened(output.file) as (read_back, temporary):
            problem = _difference(unpacked(read_back, size, temporary), read, units[-1][0].end)
        if problem:
            raise StorageError(
                f"{target} was not made: what was written is not what was read, {problem}; the "
                "disk or the memory of this host is faulty",
                path=str(target),
            )
        output.publish()
    finally:
        output.close()


def _write_image(output: Output, read: Reader, hdu: Hdu, tiling: Tiling) -> None:
    counts = tiling.counts()
    images = card_images(read, hdu)
    # The table has a row a tile, its header cards whose number is known: room for both is kept.
    head_bytes = len(packed_header(images, tiling, [0] * len(counts), 0))
    begin = output.reserve(head_bytes + len(counts) * DESCRIPTOR_BYTES)
    out = np.empty(rice.room(max(counts), tiling.pixel_bytes), np.uint8)
    rows = np.zeros((len(counts), 2), ">i8")
    heap, at = DataSum(), hdu.data_offset
    for number, count in enumerate(counts):
        data = read(at, count * tiling.pixel_bytes)
        tile = encoded(data, tiling, out)
        rows[number] = len(tile), heap.count
        heap.add(tile)
        output.append(tile)
        at += len(data)
    table = rows.tobytes()
    data_sum = DataSum()
    data_sum.add(table)
    data_sum.add_sum(heap.value, heap.count)
    output.append(bytes(-data_sum.count % BLOCK_BYTES))
    header = packed_header(images, tiling, rows[:, 0].tolist(), data_sum.value)
    output.put(header + table, begin)


def _drop_pages(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system that has no pages to drop
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _difference(pieces: Iterator[bytes], read: Reader, size: int) -> str:
    """Return where bytes differ from those of a file; "" if they do not."""
    at = 0
    for piece in pieces:
        if piece != read(at, len(piece)):
            return f"at or after byte {at}"
        at += len(piece)
    return "" if at == size else f"{at} bytes instead of {size}"


def _is_same(target: Path, read: Reader, size: int, name: str) -> bool:
    """Tell whether a compressed file holds the original; put one that is not whole aside.

    Raises
    ------
    StorageError
        It is whole, and holds something else.
    """
    try:
        with opened(target) as (read_packed, packed_name):
            packed_size = target.stat().st_size
            pieces = unpacked(read_packed, packed_size, packed_name)
            if not _difference(pieces, read, size):
                return True
            # fpack may write structural cards with other comments; the rest must be the same.
            pieces = unpacked(read_packed, packed_size, packed_name)
            found, wanted = _content_of(pieces, target), _content(read, size, name)
        if found == wanted:
            return True
        is_part = found == wanted[: len(found)] or [data for _, data in found] == [_NO_DATA]
    except Refused:
        is_part = False
    except NotFits:
        is_part = True
    if is_part:
        # Somebody was killed while it was written. The original is whole: this one may go, and
        # does when the new one is begun (a temporary name that nobody holds).
        target.rename(temporary_name(target))
        return False
    raise StorageError(
        f"cannot compress {name}: {target} exists and holds something else; both stay as they are; "
        "find out which is right, then remove the other",
        path=str(target),
    )


def _content_of(pieces: Iterator[bytes], target: Path) -> list[tuple[object, str]]:
    """Return the content of a file that is given in pieces, by way of the disk."""
    with tempfile.TemporaryFile(dir=target.parent) as file:
        for piece in pieces:
            file.write(piece)
        end = file.tell()
        with opened(file) as (read, name):
            return _content(read, end, name)


def _without_original(target: Path) -> Packed:
    """Return what was done by a call that was killed right after the original went."""
    size, hasher = 0, blake3()
    with opened(target) as (read, name):
        packed_size = target.stat().st_size
        for piece in unpacked(read, packed_size, name):
            hasher.update(piece)
            size += len(piece)
    return Packed(
        target, packed_size, hash_of(target), size, hasher.hexdigest(), was_there=True,
        is_removed=True,
    )  # fmt: skip


def _content(read: Reader, size: int, name: str) -> list[tuple[object, str]]:
    """Return of every unit its cards without comments and sums, and the hash of its data."""
    found: list[tuple[object, str]] = []
    for hdu in walk(read, name, is_lenient=True):
        data = blake3()
        for at in range(hdu.data_offset, hdu.end, _CHUNK_BYTES):
            data.update(read(at, min(_CHUNK_BYTES, hdu.end - at)))
        found.append((_cards(hdu.header), data.hexdigest()))
    return found


def _cards(header: Header) -> list[tuple[str, object]]:
    return [
        (card.keyword, card.value)
        for card in header.cards
        if card.keyword not in ("CHECKSUM", "DATASUM")
        and not (card.keyword in COMMENTARY and not card.value)
    ]


def _hash(read: Reader, size: int) -> str:
    hasher = blake3()
    for at in range(0, size, _CHUNK_BYTES):
        hasher.update(read(at, min(_CHUNK_BYTES, size - at)))
    return hasher.hexdigest()


def _remove(path: Path) -> None:
    try:
        path.unlink()
        fsync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
