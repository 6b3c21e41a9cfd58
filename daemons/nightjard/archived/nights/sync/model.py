# SPDX-License-Identifier: BSD-3-Clause
"""What goes into the synchronisation of a run, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

# Orca-Quest: read-out of a row and the randomness of its start, us.
_ROW_US = {False: 3.6, True: 86.4}
_LINE_US = {False: 7.2, True: 172.8}
#: What the controller adds to exposure and read-out, us.
PULSE_US = 20.0
US = 1e3  # ns


@dataclass(frozen=True)
class CameraFrames:
    """Frames of one camera in a run.

    Attributes
    ----------
    stream
        Name of the camera.
    acquired_ns : (n,)
        Time of the frame grabber, ns UTC, in the order of the files.
    counter : (n,)
        Stream counter cnt0.
    """

    stream: str
    acquired_ns: Ints
    counter: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Physics:
    """What the headers say about the trigger.

    Attributes
    ----------
    exposure_ns, readout_ns
        Their sum and the pulse are the shortest interval.
    line_ns
        The detector starts up to a line time late, at random; all cameras wait for it.
    half_width_ns
        Exposures with the modulator low are followed by twice this more. None: not modulated.
    """

    exposure_ns: int
    readout_ns: int
    line_ns: int
    half_width_ns: int | None

    @classmethod
    def of(
        cls, exposure_s: float, rows: int, is_slow: bool, half_width_us: float | None
    ) -> Physics:
        """Return the physics of a read-out of `rows` rows, fast or slow."""
        return cls(
            round(exposure_s * 1e9),
            round(rows * _ROW_US[is_slow] * US),
            round(_LINE_US[is_slow] * US),
            None if half_width_us is None else round(half_width_us * US),
        )

    @property
    def period_us(self) -> float:
        """Mean of the shorter interval."""
        return (self.exposure_ns + self.readout_ns + self.line_ns / 2) / US + PULSE_US

    @property
    def line_sigma_us(self) -> float:
        """Standard deviation of the random start."""
        return self.line_ns / US / float(np.sqrt(12.0))

    @property
    def half_width_us(self) -> float:
        """Half width, 0 without modulation."""
        return (self.half_width_ns or 0) / US


@dataclass(frozen=True)
class RunSolution:
    """What was found; one array per camera, one value per frame.

    Attributes
    ----------
    trigger
        Number of the trigger in the run, -1 where not known.
    reason
        :class:`~nightjard.archived.nights.records.Reason`.
    confidence
        Probability that the frame is with the right partner, or rightly without.
    offset_ns
        What has to be taken off the camera's time to compare it with the first camera's.
    state
        Modulator: 1 driven high (the shorter interval follows), -1 low, 0 not known.
    state_confidence
        Probability of the likelier state; 0 without modulation.
    report
        Arguments of :class:`~nightjard.archived.nights.records.RunReport`.
    """

    trigger: tuple[Ints, ...]
    reason: tuple[npt.NDArray[np.uint8], ...]
    confidence: tuple[npt.NDArray[np.float32], ...]
    offset_ns: tuple[Ints, ...]
    state: tuple[npt.NDArray[np.int8], ...]
    state_confidence: tuple[npt.NDArray[np.float32], ...]
    report: Mapping[str, Any] = field(default_factory=dict)
