# SPDX-License-Identifier: BSD-3-Clause
"""The raw file of one minute as the merge takes it: what is sound, and why the rest is not."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.das.naming import index_path, raw_path
from nightjar.das.raw import (
    HEADER_BYTES,
    MISSING,
    RawDamaged,
    parse_header,
    read_index,
)
from nightjard.merged import quality
from nightjard.merged.config import MergedConfig


@dataclass(slots=True, eq=False)
class RawPart:
    """One minute of raw samples.

    Attributes
    ----------
    samples
        (n_slots, n_channels) int16, MISSING where there is none; None without a usable file.
    is_valid
        Which slots hold a sample, (n_slots,).
    offsets_s
        Time of each slot by the DAS's clock minus its nominal time, (n_slots,) s.
    quality
        Bits that the raw file alone sets, (n_slots,) uint16.
    size
        Bytes of the file.
    has_timing
        Whether a sidecar tells the times.
    saturated
        Channels at the rails by the sidecar; None where nothing tells.
    gaps_s
        Ends of the gaps, s from the start of the minute.
    source
        Name of the file and CRC-32 of its data; "" without a file.
    is_simulated
        What its header says; None without one.
    reasons
        Why something of it is missing or doubtful.
    """

    samples: NDArray[np.int16] | None
    is_valid: NDArray[np.bool_]
    offsets_s: NDArray[np.float64]
    quality: NDArray[np.uint16]
    size: int = 0
    has_timing: bool = False
    saturated: list[int] | None = None
    gaps_s: list[float] = field(default_factory=list)
    source: str = ""
    is_simulated: bool | None = None
    reasons: list[str] = field(default_factory=list)


def _nothing(config: MergedConfig, reason: str) -> RawPart:
    count = config.minute_samples
    return RawPart(
        samples=None, is_valid=np.zeros(count, bool), offsets_s=np.zeros(count),
        quality=np.full(count, quality.NO_RAW, np.uint16), reasons=[reason],
    )  # fmt: skip


def minute_bytes(config: MergedConfig) -> int:
    """Return the bytes of a whole raw file."""
    return HEADER_BYTES + config.minute_samples * config.channels.count * 2


def buffer_for(config: MergedConfig) -> bytearray:
    """Return a buffer for a raw file; one more byte tells that a file is larger."""
    return bytearray(minute_bytes(config) + 1)


def _read(path: Path, buffer: bytearray) -> memoryview:
    """Return a file's content; it is in the buffer until the next is read, if it has room."""
    with path.open("rb", buffering=0) as file:
        size = 0
        while count := file.readinto(memoryview(buffer)[size:]):
            size += count
        if size < len(buffer):
            return memoryview(buffer)[:size]
        file.seek(0)
        return memoryview(file.readall())


def read_raw_part(
    config: MergedConfig, start_ns: int, buffer: bytearray, *, check: bool = True
) -> RawPart:
    """Read the raw file of a minute; a damaged one gives what is sound and says why.

    Parameters
    ----------
    config
        Where it is and what it should be.
    start_ns
        Start of the minute, ns UTC.
    buffer
        Of :func:`buffer_for`: the samples stay in it until it is used again.
    check
        Compare the CRC-32 of the data with the sidecar's.
    """
    path = raw_path(config.raw_root, start_ns)
    try:
        data = _read(path, buffer)
    except FileNotFoundError:
        return _nothing(config, f"no {path.name}")
    except OSError as error:
        return _nothing(config, f"{path.name} cannot be read: {error.strerror}")
    try:
        header = parse_header(bytes(data[:HEADER_BYTES]), path.name)
        reasons = _unlike(config, header, start_ns)
    except (RawDamaged, ValueError, KeyError, TypeError) as error:
        return _nothing(config, str(error))
    if isinstance(reasons, str):
        return _nothing(config, f"{path.name}: {reasons}")
    samples, index = _samples(config, path, data, header, reasons)
    crc = zlib.crc32(data[HEADER_BYTES:])
    if check and index is not None and samples.size and crc != index.get("crc32_data"):
        if len(data) == HEADER_BYTES + samples.nbytes:
            return _nothing(
                config, f"{path.name} was changed: the CRC-32 of its data is not the sidecar's"
            )
    part = _part(config, samples, index, header, reasons)
    part.size = len(data)
    part.source = f"{path.name} crc32 {crc:08x}"
    return part


def _unlike(config: MergedConfig, header: dict[str, Any], start_ns: int) -> list[str] | str:
    """Return doubts, or as text why it cannot be used."""
    shape = (int(header["n_slots"]), int(header["n_channels"]))
    expected = (config.minute_samples, config.channels.count)
    if shape != expected:
        return (
            f"{shape[0]} slots of {shape[1]} channels, the configuration has {expected[0]} of "
            f"{expected[1]}"
        )
    reasons = []
    if int(header["utc_start_ns"]) != start_ns:
        told = header.get("utc_start", header["utc_start_ns"])
        if not config.follow.trust_names:
            return f"its header begins at {told}: another minute than its name (follow.trust_names)"
        reasons.append(f"its header begins at {told}; its name is believed")
    if header.get("channel_map_sha256") not in (None, config.channels.digest):
        reasons.append("recorded with another channel map than the configuration's")
    scale = header.get("volts_per_lsb")
    if scale is not None and abs(scale / config.volts_per_lsb - 1) > 1e-6:
        reasons.append(f"recorded at {scale} V a count, not {config.volts_per_lsb}")
    return reasons


def _samples(
    config: MergedConfig, path: Path, data: memoryview, header: dict[str, Any], reasons: list[str]
) -> tuple[NDArray[np.int16], dict[str, Any] | None]:
    """Return the samples, MISSING behind the end of a file cut short, and the sidecar."""
    rows, width = config.minute_samples, config.channels.count
    have = min(rows, max(0, (len(data) - HEADER_BYTES) // (2 * width)))
    samples = np.frombuffer(data, "<i2", have * width, HEADER_BYTES).reshape(have, width)
    if have < rows:
        reasons.append(f"{path.name} was cut short: {have} of {rows} samples")
        whole = np.full((rows, width), MISSING, np.int16)
        whole[:have] = samples
        samples = whole
    try:
        index = read_index(path)
        if index is None:
            reasons.append(f"no {index_path(path).name}: sample times are nominal")
    except (RawDamaged, OSError) as error:
        reasons.append(f"the sidecar cannot be used, sample times are nominal: {error}")
        index = None
    return samples, index


def _part(
    config: MergedConfig, samples: NDArray[np.int16], index: dict[str, Any] | None,
    header: dict[str, Any], reasons: list[str],
) -> RawPart:  # fmt: skip
    rows = samples.shape[0]
    is_valid = np.asarray(samples[:, 0] != MISSING)
    part = RawPart(
        samples=samples, is_valid=is_valid, offsets_s=np.zeros(rows),
        quality=np.zeros(rows, np.uint16), is_simulated=header.get("simulated"), reasons=reasons,
    )  # fmt: skip
    if index is None:
        part.quality |= np.uint16(quality.CLOCK_UNLOCKED)
    else:
        try:
            _timing(config, part, index)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reasons.append(f"the sidecar lacks sense ({error!r}): sample times are nominal")
            part.has_timing = False
            part.offsets_s = np.zeros(rows)
            part.quality |= np.uint16(quality.CLOCK_UNLOCKED)
    if not is_valid.all():
        reasons.append(f"{int(rows - is_valid.sum())} of {rows} samples are missing")
        bits = quality.NO_RAW | (quality.GAP if is_valid.any() else 0)
        part.quality[~is_valid] |= np.uint16(bits)
    return part


def _timing(config: MergedConfig, part: RawPart, index: dict[str, Any]) -> None:
    part.has_timing = True
    part.offsets_s, part.gaps_s = timing_of(config, index)
    flags = np.zeros(60, np.int64)
    for number, second in enumerate(index["seconds"]):  # one a second, with samples or without
        flags[number] = int(second["flags"])
    part.quality |= quality.of_seconds(flags, config.rate_hz)
    part.saturated = sorted(int(channel) for channel in index["saturated"])


def timing_of(
    config: MergedConfig, index: dict[str, Any]
) -> tuple[NDArray[np.float64], list[float]]:
    """Return what a sidecar tells of times: offsets of the slots, s, and ends of the gaps, s.

    Raises
    ------
    KeyError, TypeError, ValueError, IndexError
        It lacks sense.
    """
    offsets = np.zeros(config.minute_samples)
    marks = np.array(index["marks"], np.float64)
    if marks.size:
        offsets = np.interp(np.arange(offsets.size), marks[:, 0], marks[:, 1] / 1e9)
    return offsets, [(gap["slot"] + gap["count"]) / config.rate_hz for gap in index["gaps"]]
