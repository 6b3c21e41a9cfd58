# SPDX-License-Identifier: BSD-3-Clause
r"""Raw minute files: a header of 4096 bytes, then the samples; and the sidecar that proves them.

A file is ``DASRAW1\n``, u32 length of the header (4096), u32 CRC-32 of the header with this word
zero, JSON padded with spaces and closed by a newline: ``head -c 4096`` shows it. Then
``n_slots * n_channels`` little-endian int16, channel fastest: 768 bytes a sample of 384 channels,
2 304 000 bytes for 3000 samples. Slot k is the sample of the nominal time minute + k / rate;
:data:`MISSING` in all channels where none was taken. Nothing is ever shifted by a loss.

The sidecar, same name with ``.idx``, is JSON: the CRC-32 of the data, which slots hold samples, per
second what happened, when samples were really taken, the gaps, and the clock's state at the close.
It has its name before the raw file has: a raw file that can be seen is whole. Its keys are
:data:`INDEX_KEYS`.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.das.naming import index_path
from nightjar.errors import StorageError

MAGIC = b"DASRAW1\n"
HEADER_BYTES = 4096
MISSING = -32768
"""A value that no sample has: a real -32768 is stored as -32767 and counted as saturated."""
INDEX_FORMAT = "DASIDX1"

GAP = 1
SLIP = 2
CLOCK_UNLOCKED = 4
SATURATED = 8
RESTARTED = 16
"""Flags of a second in the sidecar: samples missing; a slot filled or dropped by a clock that runs
at another rate; the host's clock not disciplined; a value at the rails; the DAS began in it."""

INDEX_KEYS: dict[str, str] = {
    "format": "DASIDX1",
    "file": "name of the raw file",
    "size": "its bytes",
    "crc32_data": "CRC-32 of all samples, header not included",
    "serial": "number of the file since the DAS was installed: the header's",
    "valid": "slots that hold a sample",
    "first_slot": "first of them; null for none",
    "last_slot": "last of them; null for none",
    "seconds": "for each second of the minute {slot, utc_ns, counter, valid, flags}: its first "
    "sample's slot, time by the DAS's clock and hardware counter, slots that hold a sample, GAP 1, "
    "SLIP 2, CLOCK_UNLOCKED 4, SATURATED 8, RESTARTED 16",
    "marks": "[[slot, offset_ns], ...]: sample time minus nominal time of the slot, at the begin "
    "of each second and on both sides of each gap and slip; straight lines between",
    "gaps": "[{slot, count, reason}, ...]: slots without a sample between others, or at the ends "
    "where the DAS began or ended in the minute",
    "saturated": "{channel: samples at the rails}",
    "clock": "state of the DAS's clock at the close: {source, is_locked, offset_s, rms_s, "
    "root_dispersion_s, frequency_ppm, stratum}",
    "recovered": "true where a restart has published what a killed DAS left",
    "closed_ns": "when it was published, ns UTC",
}
"""Key of a sidecar -> meaning."""

_HEAD = struct.Struct("<8sII")


class RawDamaged(StorageError):
    """A raw file or its sidecar is not what it must be; the message says where."""


@dataclass(frozen=True, slots=True, eq=False)
class RawMinute:
    """A raw file as read.

    Attributes
    ----------
    path
        Where it was read.
    header
        The JSON of its header: utc_start_ns, minute_of_day, sample_rate_hz, n_channels, n_slots,
        volts_per_lsb, convert_interval_s, channel_map_sha256, clock, serial, boot_id, ...
    samples
        (n_slots, n_channels) int16, memory-mapped read-only.
    index
        The JSON of its sidecar; None where it has none.
    """

    path: Path
    header: dict[str, Any]
    samples: NDArray[np.int16]
    index: dict[str, Any] | None

    @property
    def start_ns(self) -> int:
        """Start of its minute, ns UTC by the DAS's clock."""
        return int(self.header["utc_start_ns"])

    @property
    def rate_hz(self) -> float:
        """Samples per second."""
        return float(self.header["sample_rate_hz"])

    def is_valid(self) -> NDArray[np.bool_]:
        """Return which slots hold a sample, (n_slots,)."""
        return np.asarray(self.samples[:, 0] != MISSING)

    def offsets_s(self) -> NDArray[np.float64]:
        """Return when each slot was really sampled minus its nominal time, s by the DAS's clock.

        (n_slots,); zero where there is no sidecar.
        """
        slots = np.arange(self.samples.shape[0], dtype=np.float64)
        marks = np.array([] if self.index is None else self.index["marks"], np.float64)
        if not marks.size:
            return np.zeros(slots.size)
        return np.interp(slots, marks[:, 0], marks[:, 1] / 1e9)


def pack_header(header: dict[str, Any]) -> bytes:
    """Return the 4096 bytes of a header.

    Raises
    ------
    ValueError
        It does not fit.
    """
    text = json.dumps(header, separators=(", ", ": ")).encode()
    room = HEADER_BYTES - _HEAD.size - 1
    if len(text) > room:
        raise ValueError(f"the header of a raw file has {len(text)} bytes; {room} fit")
    body = text.ljust(room) + b"\n"
    crc = zlib.crc32(_HEAD.pack(MAGIC, HEADER_BYTES, 0) + body)
    return _HEAD.pack(MAGIC, HEADER_BYTES, crc) + body


def parse_header(data: bytes, name: str) -> dict[str, Any]:
    """Return the JSON of a header.

    Raises
    ------
    RawDamaged
        Cut short, another format, or changed (CRC).
    """
    if len(data) < HEADER_BYTES:
        raise RawDamaged(f"{name}: {len(data)} bytes; a raw file has a header of {HEADER_BYTES}")
    magic, length, crc = _HEAD.unpack_from(data)
    if magic != MAGIC or length != HEADER_BYTES:
        raise RawDamaged(f"{name}: begins with {magic!r}, {length}: this is no raw minute file")
    blank = _HEAD.pack(magic, length, 0) + data[_HEAD.size : HEADER_BYTES]
    if zlib.crc32(blank) != crc:
        raise RawDamaged(f"{name}: its header was changed (CRC-32 differs)")
    header: dict[str, Any] = json.loads(data[_HEAD.size : HEADER_BYTES])
    return header


def read_raw(path: Path, *, check: bool = True) -> RawMinute:
    """Read a raw file and its sidecar.

    Parameters
    ----------
    path
        The raw file.
    check
        Compare the CRC-32 of the data with the sidecar's.

    Raises
    ------
    RawDamaged
        Cut short or changed.
    StorageError
        It cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = parse_header(file.read(HEADER_BYTES), str(path))
        shape = (int(header["n_slots"]), int(header["n_channels"]))
        size = path.stat().st_size
        if size != HEADER_BYTES + shape[0] * shape[1] * 2:
            raise RawDamaged(
                f"{path}: {size} bytes; {HEADER_BYTES} + {shape[0]} samples of {shape[1] * 2} "
                f"bytes are {HEADER_BYTES + shape[0] * shape[1] * 2}: it was cut short"
            )
        samples = np.memmap(path, "<i2", "r", HEADER_BYTES, shape)
        index = read_index(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise RawDamaged(f"{path}: its header is no description of a raw file: {error}") from error
    if check and index is not None and zlib.crc32(samples.data) != index["crc32_data"]:
        raise RawDamaged(
            f"{path}: its data was changed: CRC-32 is not the one in {index_path(path).name}"
        )
    return RawMinute(path, header, samples, index)


def read_index(raw: Path) -> dict[str, Any] | None:
    """Return the sidecar of a raw file; None where it has none.

    Raises
    ------
    RawDamaged
        It is no sidecar.
    """
    path = index_path(raw)
    try:
        index: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RawDamaged(f"{path}: {error}") from error
    if not isinstance(index, dict) or index.get("format") != INDEX_FORMAT:
        raise RawDamaged(f"{path}: it is no sidecar of a raw file")
    return index
