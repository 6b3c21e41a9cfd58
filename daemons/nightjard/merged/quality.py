# SPDX-License-Identifier: BSD-3-Clause
"""The bits of ``quality``, the values of ``minute_status``, and what sets them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nightjar.das import raw

NO_RAW = 1 << 0
NO_POINTING = 1 << 1
NO_ENCODER = 1 << 2
CLOCK_UNLOCKED = 1 << 3
SLIP = 1 << 4
GAP = 1 << 5
SATURATED = 1 << 6
SPARSE_POINTING = 1 << 7
ROTATING = 1 << 8
NOT_CELESTIAL = 1 << 9
LIMIT = 1 << 10
LATE = 1 << 11

BITS: dict[str, tuple[int, str]] = {
    "no_raw": (NO_RAW, "no sample was taken, or its file is missing or damaged"),
    "no_pointing": (NO_POINTING, "no pointing at this time: ra, dec, az, el are fill"),
    "no_encoder": (NO_ENCODER, "no rotator angle within 2 s"),
    "clock_unlocked": (CLOCK_UNLOCKED, "the clock of the DAS was not disciplined, or nothing says"),
    "slip": (SLIP, "a slot was filled or dropped in this second because the clocks' rates differ"),
    "gap": (GAP, "no sample in a minute that has others"),
    "saturated": (SATURATED, "a bolometer channel was at the rails of the ADC"),
    "sparse_pointing": (SPARSE_POINTING, "the pointing records around it are over 50 ms apart; "
                        "over 100 ms nothing is interpolated"),
    "rotating": (ROTATING, "the rotator moved"),
    "not_celestial": (NOT_CELESTIAL, "the telescope did not follow the sky: ra and dec are from "
                      "azimuth and elevation"),
    "limit": (LIMIT, "the limit switch of the rotator was latched"),
    "late": (LATE, "merged again from files that came late"),
}  # fmt: skip
"""Name of a quality bit -> (its mask, its meaning)."""

COMPLETE = 0
RAW_ONLY = 1
PENDING = 2
RAW_GAPS = 3
WITHOUT_POINTING = 4
WITHOUT_HOUSEKEEPING = 5
WITHOUT_RAW = 6
STATUS: dict[str, tuple[int, str]] = {
    "complete": (COMPLETE, "all three streams"),
    "raw_only": (RAW_ONLY, "neither pointing nor housekeeping"),
    "pending": (PENDING, "being written now, or left so by a crash"),
    "raw_gaps": (RAW_GAPS, "all three streams, raw samples are missing"),
    "no_pointing": (WITHOUT_POINTING, "pointing is missing or has gaps"),
    "no_housekeeping": (WITHOUT_HOUSEKEEPING, "housekeeping is missing"),
    "no_raw": (WITHOUT_RAW, "not one raw sample"),
}
"""Name of a minute's status -> (its value, its meaning); -1: never merged, or cleared."""


def of_seconds(flags: NDArray[np.integer], rate_hz: int) -> NDArray[np.uint16]:
    """Return the quality bits that the seconds of a sidecar stand for, a value a sample.

    Parameters
    ----------
    flags
        The sidecar's flags, (n_seconds,).
    rate_hz
        Samples per second.
    """
    bits = np.where(flags & raw.CLOCK_UNLOCKED, CLOCK_UNLOCKED, 0)
    bits |= np.where(flags & raw.SLIP, SLIP, 0)
    return np.repeat(bits, rate_hz).astype(np.uint16)


def minute_status(is_valid: NDArray[np.bool_], has_pointing: bool, has_housekeeping: bool) -> int:
    """Return the value of ``minute_status`` for what a minute holds.

    Parameters
    ----------
    is_valid
        Which slots hold a raw sample, (n,).
    has_pointing
        Every sample has a pointing.
    has_housekeeping
        There is a line of housekeeping in it.
    """
    if not is_valid.any():
        return WITHOUT_RAW
    if not has_pointing and not has_housekeeping:
        return RAW_ONLY
    if not has_pointing:
        return WITHOUT_POINTING
    if not has_housekeeping:
        return WITHOUT_HOUSEKEEPING
    return COMPLETE if is_valid.all() else RAW_GAPS
