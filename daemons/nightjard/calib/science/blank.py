# SPDX-License-Identifier: BSD-3-Clause
"""Medians and means of values among which there may be none: not a number then, and no warning."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


def median(values: Any, axis: int | None = None) -> Any:
    """Return the median of what is a number along an axis."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of slices without a number
        return np.nanmedian(values, axis=axis)


def mean(values: Any, axis: int | None = None) -> Any:
    """Return the mean of what is a number along an axis."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)
