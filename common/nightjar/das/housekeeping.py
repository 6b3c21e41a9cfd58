# SPDX-License-Identifier: BSD-3-Clause
"""Housekeeping minute files: a JSON object a line, rotator at 10 Hz, telescope and weather at 1 Hz.

A line is ``{"t": UTC with ms, "seq": n, "kind": "rot" | "tel" | "gap", ...}`` with the keys below
beside it. What is not known is null, never 0. Lines are appended and flushed one by one to a hidden
name; the file has its name when its minute is over. ``seq`` goes on over files and restarts: a gap
in it is a loss, the same number twice a duplicate.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightjar.errors import NightjarError, StorageError
from nightjar.times import iso, parse_iso

log = logging.getLogger(__name__)

ROT_KEYS: dict[str, str] = {
    "angle_deg": "rotator angle by its encoder, degrees, counter-clockwise from above, home = 0",
    "raw_counts": "encoder reading, counts",
    "motor_counts": "motor's shaft encoder, counts",
    "motor_angle_deg": "rotator angle by the motor, degrees",
    "state": "state of the rotator",
    "is_homed": "whether the zero points hold",
    "is_limit": "whether the limit is latched",
    "is_busy": "whether the line ROTATING is up",
    "target_deg": "angle that was asked for, degrees",
    "error_deg": "target minus angle, degrees",
    "age_s": "age of the encoder reading, s",
}
"""Keys of a line of kind ``rot`` -> meaning."""

TEL_KEYS: dict[str, str] = {
    "is_ok": "whether the telescope computer answered",
    "latency_ms": "time that its answer took, ms",
    "record": "its record by name, as nightjar.das.telinfo.unpack; null where it did not answer",
}
"""Keys of a line of kind ``tel`` -> meaning."""

GAP_KEYS: dict[str, str] = {
    "what": "rot or tel",
    "since": "UTC of the last line of that kind before the gap",
    "reason": "why",
}
"""Keys of a line of kind ``gap`` -> meaning."""


def line(seq: int, utc_ns: int, kind: str, values: Mapping[str, Any]) -> str:
    """Return a line of a housekeeping file, with its newline."""
    head = {"t": iso(utc_ns, 3), "seq": seq, "kind": kind}
    return json.dumps({**head, **values}, separators=(",", ":")) + "\n"


def read_housekeeping(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of a file in order of time, each number once, and how many were unreadable.

    Each has ``utc_ns`` beside its own keys. A last line cut short counts as unreadable.

    Raises
    ------
    StorageError
        It cannot be read.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    found: dict[int, dict[str, Any]] = {}
    bad = 0
    for number, one in enumerate(text.splitlines(), 1):
        try:
            values = json.loads(one)
            values["utc_ns"] = parse_iso(values["t"])
            found.setdefault(int(values["seq"]), values)
        except (ValueError, KeyError, TypeError, AttributeError, NightjarError) as error:
            bad += 1
            log.warning("%s: line %d is unreadable: %s", path, number, error)
    return sorted(found.values(), key=lambda values: values["utc_ns"]), bad
