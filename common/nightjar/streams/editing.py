# SPDX-License-Identifier: BSD-3-Clause
"""Changing a stream that another process owns: its keywords."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from nightjar.errors import Code, Refused, StorageError
from nightjar.streams.allocate import no_such_stream, stream_path
from nightjar.streams.keywords import KeywordBlock, KeywordValue
from nightjar.streams.layout import METADATA_BYTES, parse_geometry, parse_metadata


def set_keyword(
    name_or_path: str | Path,
    name: str,
    value: KeywordValue,
    comment: str | None = None,
    *,
    folder: Path | None = None,
) -> None:
    """Set one keyword of a stream, whoever owns it; without a comment the old one stays.

    A writer that sets the same keyword overwrites it again.

    Raises
    ------
    Refused
        No such stream (code UNKNOWN_ITEM), or all its keyword slots are used.
    StorageError
        Not writable for us, or not a stream of a known layout.
    InvalidArgument
        Name, value or comment do not fit.
    """
    path = stream_path(name_or_path, folder)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Refused(no_such_stream(path), code=Code.UNKNOWN_ITEM, path=str(path)) from None
    except OSError as error:
        raise StorageError(f"cannot change stream {path}: {error.strerror}") from error
    try:
        header = os.pread(descriptor, METADATA_BYTES, 0)
        geometry = parse_geometry(header, os.fstat(descriptor).st_size, str(path))
        offsets = geometry.offsets()
        base = offsets.keywords // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        mapping = mmap.mmap(descriptor, offsets.semaphores - base, offset=base)
    finally:
        os.close(descriptor)
    block = KeywordBlock(memoryview(mapping)[offsets.keywords - base :])
    block.set(name, value, comment, int(parse_metadata(header, str(path))["cnt0"]))
