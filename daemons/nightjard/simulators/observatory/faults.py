# SPDX-License-Identifier: BSD-3-Clause
"""What can go wrong in a recorded night, and how it is asked for: ``name``, ``name@minute``."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightjar.das.pointing import RECORD
from nightjar.errors import InvalidArgument

FAULTS: dict[str, str] = {
    "pointing-missing": "no pointing log of that minute",
    "pointing-truncated": "the pointing log ends after 300 000 bytes",
    "pointing-yesterday": "the pointing log is yesterday's",
    "pointing-corrupt": "a kilobyte of the pointing log is noise",
    "pointing-lost": "record 3000 of the pointing log is missing",
    "pointing-duplicate": "record 3000 of the pointing log is there twice, the last is not",
    "pointing-tick": "record 3000 of the pointing log has tick 0",
    "pointing-lst": "sidereal time is negative in the pointing log",
    "raw-missing": "no raw file of that minute",
    "raw-truncated": "the raw file is cut short",
    "raw-yesterday": "the raw file is yesterday's",
    "raw-corrupt": "one value of the raw file is changed",
    "raw-noindex": "no sidecar of the raw file",
    "housekeeping-missing": "no housekeeping of that minute",
    "housekeeping-truncated": "housekeeping ends in the middle of a line",
    "housekeeping-yesterday": "housekeeping is yesterday's",
    "housekeeping-corrupt": "one line of housekeeping in twenty is no JSON",
    "housekeeping-lost": "12 s of housekeeping are missing",
    "housekeeping-duplicate": "each line of housekeeping is there twice",
    "rpc-dead": "the telescope computer does not answer in that minute",
    "lost-samples": "one sample in a thousand is lost, all the time",
    "gap": "300 ms without a sample, from second 20 by the DAS's clock",
    "das-restart": "the DAS stops at second 20 for 4 s and begins again",
    "clock-step": "the DAS's clock steps by +1.3 s (or @MINUTE=SECONDS), at second 30 of true UTC",
    "az-wrap": "the source goes through azimuth 0 in the middle of the night",
    "ra-24h": "the source is at RA 24 h = 0 h",
}
"""Name of a fault -> what it is. Midnight and the year's change come by the start that is asked."""

ALWAYS = ("lost-samples", "az-wrap", "ra-24h")
"""Faults that have no minute."""
_SPEC = re.compile(r"([a-z0-9-]+)(?:@(\d{1,4}))?(?:=([-+]?\d{1,3}(?:\.\d{1,6})?))?\Z", re.ASCII)
TRUNCATED_POINTING = 300_000
RESTART_S = 4.0
GAP_S = 0.3
STEP_S = 1.3
LOST = 1e-3


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and where it is.

    Attributes
    ----------
    name
        One of FAULTS.
    minute
        Number of the minute since the start.
    value
        Of a clock's step, s.
    """

    name: str
    minute: int
    value: float = 0.0


def parse_faults(text: str, minutes: int) -> tuple[Fault, ...]:
    """Return the faults that a text with commas names; without a minute: the middle one.

    Raises
    ------
    InvalidArgument
        No such fault, or no such minute.
    """
    found = []
    for one in filter(None, (part.strip() for part in text.split(","))):
        match = _SPEC.match(one)
        if match is None or match[1] not in FAULTS:
            raise InvalidArgument(
                f"fault {one!r}: must be NAME or NAME@MINUTE of {', '.join(FAULTS)}"
            )
        minute = minutes // 2 if match[2] is None else int(match[2])
        if minute >= minutes:
            raise InvalidArgument(f"fault {one!r}: the last minute is {minutes - 1}")
        value = float(match[3]) if match[3] is not None else STEP_S
        found.append(Fault(match[1], minute, value))
    return tuple(found)


def names_at(faults: tuple[Fault, ...], minute: int, stream: str) -> set[str]:
    """Return what is wrong with a stream's file of a minute: ``missing``, ``corrupt`` ..."""
    begin = f"{stream}-"
    return {
        one.name.removeprefix(begin)
        for one in faults
        if one.minute == minute and one.name.startswith(begin)
    }


def spoil_pointing(data: bytes, what: set[str], seed: int) -> bytes | None:
    """Return a pointing log with its faults; None for missing."""
    if "missing" in what:
        return None
    records: NDArray[np.void] = np.frombuffer(data, RECORD).copy()
    middle = len(records) // 2
    if "yesterday" in what:
        records["mjd"] -= 1
    if "tick" in what:
        records["ticks"][middle] = 0
    if "lst" in what:
        # What old logs did: minus 24 hours, as an unsigned number.
        records["lst"] = (records["lst"].astype(np.int64) - 8_640_000) % 2**32
    if "duplicate" in what:
        records[middle + 1 :] = records[middle:-1].copy()
    if "lost" in what:
        records = np.delete(records, middle)
    data = records.tobytes()
    if "corrupt" in what:
        at = len(data) // 3
        data = data[:at] + np.random.default_rng(seed).bytes(1024) + data[at + 1024 :]
    return data[:TRUNCATED_POINTING] if "truncated" in what else data


def spoil_housekeeping(lines: list[str], what: set[str]) -> bytes | None:
    """Return a housekeeping file with its faults (``yesterday`` is the writer's); None: missing."""
    if "missing" in what:
        return None
    if "lost" in what:
        length = len(lines) // 5
        lines = lines[: 2 * length] + lines[3 * length :]
    if "duplicate" in what:
        lines = [line for line in lines for _ in range(2)]
    if "corrupt" in what:
        for k in range(7, len(lines), 20):
            lines[k] = lines[k][: len(lines[k]) // 2] + "\n"
    text = "".join(lines).encode()
    return text[: len(text) * 2 // 3 + 5] if "truncated" in what else text
