# SPDX-License-Identifier: BSD-3-Clause
"""The status lines between telescope and instrument, as the telescope's "RX2" connector has them.

Outputs are driven by the telescope, inputs by the instrument. The pointing log records all of them
in its flag word (output n is bit 15 + n, input n bit 23 + n); the ADC digitises five. So the edges
of the lines are recorded by both clocks.
"""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

LOW_V = 0.8
"""A line below is low (TTL)."""
HIGH_V = 2.0
"""A line above is high (TTL); between both it keeps its level."""


class Line(enum.Enum):
    """A status line: (bit of the pointing log's flags, name in merged files).

    ``TRACKING`` is not the log's flag of that name: the line is low while the telescope scans.
    ``OBSERVATION`` is a level that marks an observation; its number is housekeeping.
    """

    CELESTIAL = (18, "cele_line")
    ACQUIRED = (20, "acq_das")
    TRACKING = (21, "trck_das")
    ROTATE = (22, "rot_enab")
    OBSERVATION = (23, "obs_number_das")
    ROTATING = (24, "rotating")

    def __init__(self, bit: int, variable: str) -> None:
        self.bit = bit
        self.variable = variable


def levels(
    volts: NDArray[np.floating], before: int = -1, low_v: float = LOW_V, high_v: float = HIGH_V
) -> NDArray[np.int8]:
    """Return the logic level of each sample: 1, 0, or -1 where it was never clear.

    Parameters
    ----------
    volts
        Samples of one line in order, (n,); NaN where there is none: the level is kept.
    before
        Level before the first sample.
    low_v, high_v
        The hysteresis: what lies between keeps the last clear level.
    """
    clear = np.full(volts.shape, -1, np.int8)
    clear[volts < low_v] = 0
    clear[volts > high_v] = 1
    last = np.maximum.accumulate(np.where(clear >= 0, np.arange(clear.size), -1))
    return np.where(last >= 0, clear[last], np.int8(before)).astype(np.int8)


def has_bit(flags: NDArray[np.unsignedinteger], bit: int) -> NDArray[np.bool_]:
    """Return whether a bit of the pointing log's flag word is set, per record."""
    return np.asarray((flags >> np.uint32(bit)) & np.uint32(1) == 1)
