# SPDX-License-Identifier: BSD-3-Clause
"""A curve of non-linearity, and where its zero is.

Light and signal are known only up to a factor, so that a curve needs a rule for its zero, the same
for curves that are compared. ``origin``: the response is called linear, on average, between 15 %
and 25 % of full scale, on a line through zero light. ``segment``: on the straight line through that
part of the response, wherever it meets zero light. The second magnifies any error of the levels
threefold at no light; below a percent of full scale it tells more of the lamp than of the detector.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from nightjard.calib.science.robust import Float64s

Reference = Literal["origin", "segment"]


@dataclass(frozen=True)
class Curve:
    """A curve of non-linearity, percent over ADU.

    Attributes
    ----------
    full_scale
        ADU of x = 1.
    amplitude, scale
        Of the exponential, at x = 0.
    coefficients
        Of the polynomial, constant first.
    zero
        Percent on which the curve stands; what :func:`referenced` sets.
    intercept
        ADU that the line of the reference has at no light; 0 with ``origin``.
    """

    full_scale: float
    amplitude: float
    scale: float
    coefficients: tuple[float, ...]
    zero: float = 0.0
    intercept: float = 0.0

    def raw(self, signal: Any) -> Float64s:
        """Return the fitted function, before it is set on its zero."""
        x = np.asarray(signal, np.float64) / self.full_scale
        smooth = np.polynomial.polynomial.polyval(x, np.array(self.coefficients))
        result: Float64s = self.amplitude * np.exp(-x / self.scale) + smooth
        return result

    def __call__(self, signal: Any) -> Float64s:
        """Return the non-linearity in percent at signals as measured, ADU above dark."""
        ratio = (1.0 + self.raw(signal) / 100.0) / (1.0 + self.zero / 100.0)
        if self.intercept:
            # F / F_lin of the line through zero, turned into (F - a) / (b t).
            signal = np.asarray(signal, np.float64)
            ratio = ratio * (1.0 - self.intercept / np.maximum(signal, 1e-9))
        result: Float64s = 100.0 * (ratio - 1.0)
        return result

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Curve:
        """Return the curve of :meth:`as_json`."""
        return cls(**{**document, "coefficients": tuple(document["coefficients"])})

    def linearised(self, signal: Any) -> Float64s:
        """Return what a linear detector would have given, ADU."""
        signal = np.asarray(signal, np.float64)
        bounded = np.clip(signal, 0.0, 1.05 * self.full_scale)
        ratio = (1.0 + self.raw(bounded) / 100.0) / (1.0 + self.zero / 100.0)
        result: Float64s = signal / ratio
        return result


def referenced(
    curve: Curve, reference: Reference, low: float = 0.15, high: float = 0.25
) -> Curve:
    """Return a curve that has its zero where the rule wants it.

    Parameters
    ----------
    low, high
        Parts of full scale between which the response counts as linear.
    """
    curve = replace(curve, zero=0.0, intercept=0.0)
    signal = np.linspace(low, high, 41) * curve.full_scale
    light = signal / (1.0 + curve.raw(signal) / 100.0)
    if reference == "origin":
        rate = float((signal / light).mean())
        return replace(curve, zero=100.0 * (rate - 1.0))
    slope, intercept = np.polyfit(light, signal, 1)
    return replace(curve, zero=100.0 * (float(slope) - 1.0), intercept=float(intercept))
