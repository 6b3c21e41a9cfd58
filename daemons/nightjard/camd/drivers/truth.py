# SPDX-License-Identifier: BSD-3-Clause
"""The truth file of a simulated detector: one JSON line per delivered frame."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

if TYPE_CHECKING:
    from nightjard.camd.drivers.base import FrameBuffer, FrameRecord
    from nightjard.camd.drivers.options import SimulatedOptions
    from nightjard.camd.drivers.sensor import Exposure


class TruthFile:
    """Appends to ``truth_path``; does nothing where none is configured."""

    def __init__(self, options: SimulatedOptions) -> None:
        self._options = options
        self._file: TextIO | None = None

    def open(self) -> None:
        """Open for appending."""
        if self._options.truth_path and self._file is None:
            # Line buffered: a line is out as soon as its frame is.
            self._file = open(self._options.truth_path, "a", buffering=1, encoding="utf-8")

    def close(self) -> None:
        """Close; harmless when not open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(
        self, exposure: Exposure, record: FrameRecord, more: dict[str, Any], buffer: FrameBuffer
    ) -> None:
        """Write the line of a frame; with the option truth_digest, of its pixels too."""
        if self._file is None:
            return
        line: dict[str, Any] = {
            "frame": exposure.frame_id, "hardware_id": record.hardware_id,
            "start_ns": exposure.start_ns, "end_ns": record.end_ns,
            "read_end_ns": record.read_end_ns, "exposure_ns": exposure.exposure_ns,
            "temperature_c": exposure.temperature_c, "gain": exposure.gain,
            "offset": exposure.offset, "window": str(exposure.window),
            "binning": exposure.binning, "lost_before": record.lost_before,
            "lost": exposure.lost, "scene": self._options.scene, "seed": self._options.seed,
            "slot": [buffer.path, buffer.offset], **more,
        }  # fmt: skip
        if self._options.truth_digest:
            line["digest"] = digest(buffer.array)
        self._file.write(json.dumps(line) + "\n")


def digest(pixels: np.ndarray[Any, Any]) -> str:
    """Return BLAKE2b-128 of the pixels as native 16-bit words."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()
