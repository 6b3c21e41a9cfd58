# SPDX-License-Identifier: BSD-3-Clause
"""What charge that trails makes of the noise of flat fields.

A packet that is moved n times leaves the share ``p = n cti`` behind, which follows it with
``h_k = p (1 - r) r^(k - 1)``, ``r = exp(-1 / tail)``. That smooths the image along the transfer:
of independent noise the variance falls by about 2 p, and neighbours become alike. Over rows and
columns with all numbers of transfers the power at a frequency is multiplied by the mean of
``|1 + p (h - 1)|^2``, h the transform of ``(1 - r) r^(k - 1)``: no more than the means of p and of
its square are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightjard.calib.science.robust import Float64s

GRID = 32  # pixels of the plane on which covariances are computed


@dataclass(frozen=True)
class Trailing:
    """Charge left behind along one direction.

    Attributes
    ----------
    cti
        Share left behind in one transfer.
    tail_px
        Length of the trail.
    first, last
        Transfers of the nearest and the farthest pixel.
    """

    cti: float
    tail_px: float
    first: int
    last: int

    def power(self, size: int = GRID) -> Float64s:
        """Return by what the power of the noise is multiplied at the frequencies of `size` px."""
        if self.cti == 0.0:
            return np.ones(size)
        transfers = np.arange(self.first, self.last + 1, dtype=np.float64)
        share, square = self.cti * transfers.mean(), self.cti**2 * (transfers**2).mean()
        ratio = float(np.exp(-1.0 / self.tail_px))
        turn = np.exp(-2j * np.pi * np.fft.fftfreq(size))
        away = (1.0 - ratio) * turn / (1.0 - ratio * turn) - 1.0
        result: Float64s = 1.0 + 2.0 * share * away.real + square * np.abs(away) ** 2
        return result


def smoothing(serial: Trailing, parallel: Trailing, size: int = GRID) -> Float64s:
    """Return the factor of the power on the plane of frequencies, ``[row, column]``."""
    return np.outer(parallel.power(size), serial.power(size))
