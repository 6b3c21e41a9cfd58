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

    def samples(self, t_ns: NDArray[np.int64], first: int) -> NDArray[np.int16]:
        """Return what the ADC measures at true times, (n, channels) int16.

        Raises
        ------
        DeviceNotFound
            There are no wires.
        """
        if self._adc is None:
            try:
                scene = WiresScene(Wires.open(self._path))
            except (NightjarError, OSError) as error:
                raise DeviceNotFound(
                    f"the wires of the simulated observatory {self._path} cannot be opened: "
                    f"{error}; start it first (nightjar simulate das)"
                ) from error
            self._adc = Adc(scene, self._channels, self._parameters)
        return self._adc.samples(t_ns, first)
