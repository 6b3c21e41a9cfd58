# SPDX-License-Identifier: BSD-3-Clause
"""Signals without an observatory: noise of bolometers, levels of lines, biases, a chopper.

For a DAS that is tried alone. The recipe is that of the simulated observatory, without a sky.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nightjar.das.channels import ChannelMap

WHITE_COUNTS = 6.0
LOW_V, HIGH_V = 0.15, 4.6
_TABLE = 1 << 18


class PlainSignals:
    """What is on the inputs of a DAS that nothing is connected to.

    Parameters
    ----------
    channels
        Which quantity is where.
    volts_per_lsb
        Volts of a count.
    seed
        Of the noise.
    """

    def __init__(self, channels: ChannelMap, volts_per_lsb: float, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._count, self._lsb = channels.count, volts_per_lsb
        # Noise is taken from a table at random places: drawing it would cost more than recording.
        self._noise = random.standard_normal(_TABLE, np.float32) * np.float32(WHITE_COUNTS)
        self._random = random
        self._level = np.zeros(channels.count, np.float32)
        self._common = np.zeros(channels.count, np.float32)
        self._lines: list[tuple[int, float]] = []
        self._chopper: list[int] = []
        self._open: list[int] = []
        for group in channels.groups:
            span = slice(group.channels.start, group.channels.stop)
            if group.kind == "bolometers":
                self._common[span] = 1.0
                self._level[span] = 0 if group.lockin == "AC" else 5.0 / volts_per_lsb / 2
            elif group.kind == "line":
                for number in group.channels:
                    if group.is_connected:
                        self._lines.append((number, 7.0 + 3.0 * len(self._lines)))
                    else:
                        self._open.append(number)
            elif group.kind == "chopper":
                self._chopper.extend(group.channels)
            else:
                volts = {"reference": 2.5, "bias": 1.0, "grt": 0.27}.get(group.kind, 0.1)
                self._level[span] = volts / volts_per_lsb

    def samples(self, t_ns: NDArray[np.int64], first: int) -> NDArray[np.int16]:
        """Return what the ADC measures at true times, (n, channels) int16."""
        size = t_ns.size * self._count
        begin = int(self._random.integers(0, max(1, _TABLE - size)))
        noise = np.resize(self._noise[begin : begin + size], (t_ns.size, self._count))
        seconds = (t_ns - t_ns[0]) / 1e9 + t_ns[0] % 86_400_000_000_000 / 1e9
        air = 60 * np.sin(2 * np.pi * seconds / 37.0) + 25 * np.sin(2 * np.pi * seconds / 5.3)
        values = noise + self._level + air[:, None].astype(np.float32) * self._common
        for number, period_s in self._lines:
            is_high = seconds % (2 * period_s) >= period_s
            values[:, number] = np.where(is_high, HIGH_V, LOW_V) / self._lsb + noise[:, number]
        for number in self._open:
            values[:, number] = 0.85 / self._lsb + 80 * noise[:, number] / WHITE_COUNTS
        for number in self._chopper:
            values[:, number] = 6.0 * np.sin(4 * np.pi * seconds) / self._lsb + noise[:, number]
        counts: NDArray[np.int16] = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
        return counts
