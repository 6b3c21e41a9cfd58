# SPDX-License-Identifier: BSD-3-Clause
"""Signals of the simulated observatory: its sky, telescope, rotator and lines, over its wires."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightjar.das.channels import ChannelMap
from nightjar.errors import DeviceNotFound, NightjarError
from nightjard.dasd.config import AdcConfig
from nightjard.simulators.observatory.adc import Adc, AdcParameters
from nightjard.simulators.observatory.scenes import WiresScene
from nightjard.simulators.wires import Wires

AHEAD_S = 0.5
"""A stretch that is made up at once."""


class WiredSignals:
    """What the inputs of a DAS in a simulated observatory carry.

    Parameters
    ----------
    path
        File of the wires; it is opened when samples are first asked for.
    channels, adc
        As configured.
    seed
        Of all that is random.
    """

    def __init__(self, path: Path, channels: ChannelMap, adc: AdcConfig, seed: int) -> None:
        self._path, self._channels = path, channels
        self._parameters = AdcParameters(seed=seed, skew_s=adc.convert_interval_s)
        self._adc: Adc | None = None
        self._ahead = max(1, round(AHEAD_S * adc.sample_rate_hz))
        self._made: tuple[int, int, NDArray[np.int16]] | None = None  # first, time, samples

    def samples(self, t_ns: NDArray[np.int64], first: int) -> NDArray[np.int16]:
        """Return what the ADC measures at true times, (n, channels) int16.

        Raises
        ------
        DeviceNotFound
            The wires cannot be opened or made.
        """
        if self._adc is None:
            try:
                scene = WiresScene(Wires.ensure(self._path))
            except (NightjarError, OSError) as error:
                raise DeviceNotFound(
                    f"the wires of the simulated observatory {self._path} cannot be opened: "
                    f"{error}; start it first (nightjar simulate das)"
                ) from error
            self._adc = Adc(scene, self._channels, self._parameters)
        return self._taken(self._adc, t_ns, first)

    def _taken(self, adc: Adc, t_ns: NDArray[np.int64], first: int) -> NDArray[np.int16]:
        """Return samples of a longer stretch, made at once: that costs a quarter."""
        count = t_ns.size
        if count < 2 or count >= self._ahead:
            return adc.samples(t_ns, first)
        if self._made is not None:
            begin, begun_ns, samples = self._made
            place = first - begin
            period = (t_ns[-1] - t_ns[0]) / (count - 1)
            is_there = 0 <= place <= len(samples) - count
            # A new start of the ADC numbers on from the last, but not at the same times.
            if is_there and abs(begun_ns + place * period - t_ns[0]) < 1000 + 1e-5 * place * period:
                return samples[place : place + count].copy()
        period = (t_ns[-1] - t_ns[0]) / (count - 1)
        times = t_ns[0] + np.rint(np.arange(self._ahead) * period).astype(np.int64)
        self._made = (first, int(t_ns[0]), adc.samples(times, first))
        return self._made[2][:count].copy()
