# SPDX-License-Identifier: BSD-3-Clause
"""Volts to quantities, by the entry of the configuration that holds at the time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nightjard.merged.config import ChopperConversion, GrtConversion, Validity

Entry = TypeVar("Entry", bound=Validity)


def entry_at(entries: Sequence[Entry], utc_ns: int) -> Entry | None:
    """Return the entry that holds at a time: the last of them where several do; None for none."""
    return next((entry for entry in reversed(entries) if entry.holds_at(utc_ns)), None)


def ohms(volts: NDArray[np.floating], conversion: GrtConversion | None) -> NDArray[np.float32]:
    """Return the resistance of the GRT thermometer, ohm; NaN where no conversion holds.

    Parameters
    ----------
    volts
        Output of the resistance bridge, any shape; NaN stays.
    conversion
        ``(V * range_gain - offset_v) * ohm_per_volt``.
    """
    if conversion is None:
        return np.full(volts.shape, np.nan, np.float32)
    value = (volts * conversion.range_gain - conversion.offset_v) * conversion.ohm_per_volt
    return np.asarray(value, np.float32)


def arcseconds(
    volts: NDArray[np.floating], conversion: ChopperConversion | None
) -> NDArray[np.float32]:
    """Return the position of the chopper, arcsec; NaN where no conversion holds.

    Parameters
    ----------
    volts
        Output of its encoder, any shape; NaN stays.
    conversion
        ``sign * (a0 + a1 V + a2 V^2)``.
    """
    if conversion is None:
        return np.full(volts.shape, np.nan, np.float32)
    value = conversion.a0 + volts * (conversion.a1 + conversion.a2 * volts)
    return np.asarray(conversion.sign * value, np.float32)
