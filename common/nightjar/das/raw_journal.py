# SPDX-License-Identifier: BSD-3-Clause
"""What a growing minute file knows beside its samples, and how it is found again after a kill."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.das.raw import GAP, HEADER_BYTES, MISSING, RawDamaged, parse_header, read_raw
from nightjar.errors import StorageError
from nightjar.files import TEMPORARY_SUFFIX

RAIL = 32767
KILLED = "the DAS was killed"
_PART = re.compile(r"\.(raw_\d{6}_\d{4})\.bin\.(\d+)\.tmp\Z")
Marks = list[list[int]]


@dataclass(slots=True)
class Second:
    """A second of a minute: its first sample's slot, time and counter; how many; flags."""

    slot: int
    utc_ns: int
    counter: int
    valid: int = 0
    flags: int = 0

    def told(self) -> dict[str, Any]:
        """Return it as it stands in a sidecar."""
        return {
            "slot": self.slot, "utc_ns": self.utc_ns, "counter": self.counter,
            "valid": self.valid, "flags": self.flags,
        }  # fmt: skip

    @staticmethod
    def none() -> dict[str, Any]:
        """Return a second without a sample."""
        return {"slot": None, "utc_ns": None, "counter": None, "valid": 0, "flags": GAP}


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """What was found of a minute.

    Attributes
    ----------
    header, samples
        Its JSON; (n_slots, n_channels) int16.
    is_valid, is_torn
        Slots that hold a sample; slots that hold a part of one, which is thrown away.
    seconds, marks, gaps, saturated
        As far as the journal or the sidecar told, completed from the samples.
    journal_bytes
        Where its journal ends.
    """

    header: dict[str, Any]
    samples: NDArray[np.int16]
    is_valid: NDArray[np.bool_]
    is_torn: NDArray[np.bool_]
    seconds: dict[int, Second]
    marks: Marks
    gaps: list[dict[str, Any]]
    saturated: NDArray[np.int64]
    journal_bytes: int

    @property
    def shape(self) -> tuple[int, int]:
        """(n_slots, n_channels)."""
        return self.samples.shape[0], self.samples.shape[1]


def hidden_names(part: Path) -> tuple[str, str, str]:
    """Return the names of part, journal and reserved sidecar that belong together."""
    stem, _, rest = part.name.partition(".bin.")
    return part.name, f"{stem}.jnl.{rest}", f"{stem}.idx.{rest}"


def parts_in(folder: Path) -> list[Path]:
    """Return the hidden parts in a folder of a day, by name; none where there is no folder."""
    try:
        return sorted(path for path in folder.iterdir() if _PART.match(path.name))
    except FileNotFoundError:
        return []


def orphans_in(folder: Path) -> list[Path]:
    """Return journals and reserved sidecars whose part has been published."""
    try:
        names = {path.name for path in folder.iterdir() if path.name.endswith(TEMPORARY_SUFFIX)}
    except FileNotFoundError:
        return []
    found = []
    for name in sorted(names):
        match = re.match(r"(\.raw_\d{6}_\d{4})\.(jnl|idx)\.(\d+\.tmp)\Z", name)
        if match and f"{match[1]}.bin.{match[3]}" not in names:
            found.append(folder / name)
    return found


def journal_line(seconds: dict[int, Second], marks: Marks, gaps: list[dict[str, Any]]) -> bytes:
    """Return what happened since the last line."""
    value = {
        "seconds": {str(number): one.told() for number, one in seconds.items()},
        "marks": marks, "gaps": gaps,
    }  # fmt: skip
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def read_left(part: Path) -> Left:
    """Read a hidden part and its journal.

    Raises
    ------
    StorageError
        It cannot be read.
    RawDamaged
        It was never begun in full.
    """
    try:
        with part.open("rb") as file:
            header = parse_header(file.read(HEADER_BYTES), str(part))
        shape = (int(header["n_slots"]), int(header["n_channels"]))
        if part.stat().st_size != HEADER_BYTES + 2 * shape[0] * shape[1]:
            raise RawDamaged(f"{part}: it was cut short")
        samples = np.memmap(part, "<i2", "r", HEADER_BYTES, shape)
        journal = part.with_name(hidden_names(part)[1])
        text = journal.read_bytes() if journal.exists() else b""
    except OSError as error:
        raise StorageError(f"{part} cannot be read: {error.strerror}") from error
    seconds: dict[int, Second] = {}
    marks: Marks = []
    gaps: list[dict[str, Any]] = []
    used = 0
    for line in text.splitlines(keepends=True):
        try:
            value = json.loads(line)
            told = {int(key): Second(**one) for key, one in value["seconds"].items()}
            marks += value["marks"]
            gaps += value["gaps"]
        except (ValueError, KeyError, TypeError):
            break  # the end: reserved zeros, or a line that the kill cut
        seconds.update(told)
        used += len(line)
    return _completed(header, samples, seconds, marks, gaps, used)


def read_published(path: Path) -> Left:
    """Read a published file, to go on in a copy of it.

    Raises
    ------
    StorageError, RawDamaged
        As :func:`nightjar.das.raw.read_raw`.
    """
    minute = read_raw(path)
    index = minute.index or {"seconds": [], "marks": [], "gaps": []}
    seconds = {
        number: Second(**one) for number, one in enumerate(index["seconds"])
        if one["slot"] is not None
    }  # fmt: skip
    is_valid = minute.is_valid()
    end = int(np.flatnonzero(is_valid)[-1]) + 1 if is_valid.any() else 0
    gaps = [gap for gap in index["gaps"] if gap["slot"] < end]
    return _completed(minute.header, minute.samples, seconds, list(index["marks"]), gaps, 0)


def _completed(
    header: dict[str, Any],
    samples: NDArray[np.int16],
    seconds: dict[int, Second],
    marks: Marks,
    gaps: list[dict[str, Any]],
    journal_bytes: int,
) -> Left:
    """Count from the samples what the journal did not tell any more."""
    missing = samples == MISSING
    is_torn = missing.any(axis=1) & ~missing.all(axis=1)
    is_valid = ~missing.any(axis=1)
    n_slots = samples.shape[0]
    offset = marks[-1][1] if marks else 0
    start_ns = int(header["utc_start_ns"])
    for number in range(60):
        first = -(-number * n_slots // 60)
        here = np.flatnonzero(is_valid[first : -(-(number + 1) * n_slots // 60)])
        if not here.size:
            seconds.pop(number, None)
            continue
        if number not in seconds:
            slot = first + int(here[0])
            before = max((key for key in seconds if key < number), default=None)
            last = seconds[before] if before is not None else Second(slot, 0, 0)
            counter = last.counter + slot - last.slot
            nominal = start_ns + (slot * 60_000_000_000 + n_slots // 2) // n_slots
            seconds[number] = Second(slot, nominal + offset, counter)
        seconds[number].valid = int(here.size)
    known = {gap["slot"] for gap in gaps}
    ends = np.flatnonzero(np.diff(np.concatenate(([1], is_valid.astype(np.int8)))))
    for begin, end in zip(ends[::2].tolist(), ends[1::2].tolist(), strict=False):
        if begin not in known:
            gaps.append({"slot": begin, "count": end - begin, "reason": "not known"})
    gaps.sort(key=lambda gap: int(gap["slot"]))
    saturated = np.asarray((np.abs(samples.astype(np.int32)) == RAIL).sum(axis=0), np.int64)
    return Left(
        header, samples, is_valid, is_torn, dict(sorted(seconds.items())), marks, gaps, saturated,
        journal_bytes,
    )  # fmt: skip
