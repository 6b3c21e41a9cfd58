# SPDX-License-Identifier: BSD-3-Clause
"""The qCMOS of the simulated fast camera in numbers: crops, line times, read-out and rates.

4096 x 2304 pixels of 16 bits. Two rows are read per line time, from the middle outwards, and five
more lines are overhead. Sizes of the crops and line times are those of the VAMPIRES cameras; where
a crop lies on the sensor is chosen here: centred, but for the offset ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nightjard.camd.geometry import Region

SENSOR = (4096, 2304)  # columns, rows
LINE_TIMES_S = {"FAST": 7.2e-6, "SLOW": 172.8e-6}
OVERHEAD_LINES = 5

_SIZES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    # crop: (columns, rows) of camera 1 and of camera 2
    "STANDARD": ((536, 536), (536, 536)),
    "NPBS": ((536, 536), (536, 536)),
    "TWOARC": ((360, 360), (360, 360)),
    "HALFARC": ((268, 268), (268, 268)),
    "ONEARC": ((184, 184), (184, 184)),
    "MBI": ((2236, 1096), (2240, 1096)),
    "MBI_REDUCED": ((2232, 540), (2228, 552)),
    "MBI_ONEHALF": ((1888, 220), (1888, 236)),
    "PUPIL": ((888, 892), (760, 760)),
    "FULL": (SENSOR, SENSOR),
}
_OFFSETS = {("NPBS", 2): (24, -16)}  # without the beam splitter the image falls elsewhere
_MODES = {
    "MBI": "IPOL_MBI", "MBI_REDUCED": "IPOL_MBIR", "MBI_ONEHALF": "IPOL_MBIR",
    "PUPIL": "IMAG_PUP", "NPBS": "IMAG",
}  # fmt: skip


def crops_of(camera: int) -> Mapping[str, Region]:
    """Return the named crops of camera 1 or 2; camera 3 has those of 2."""
    return {name: _region(name, camera) for name in _SIZES}


def _region(name: str, camera: int) -> Region:
    width, height = _SIZES[name][min(camera, 2) - 1]
    dx, dy = _OFFSETS.get((name, min(camera, 2)), (0, 0))
    x1 = (SENSOR[0] - width) // 2 + 1 + dx
    y1 = (SENSOR[1] - height) // 2 + 1 + dy
    return Region(x1, x1 + width - 1, y1, y1 + height - 1)


def crop_number(name: str) -> int:
    """Return the number of a crop in embedded truth; 0 for a free one."""
    return list(_SIZES).index(name) + 1 if name in _SIZES else 0


def observing_mode(crop: str) -> str:
    """Return the value of the keyword OBS-MOD for a crop."""
    return _MODES.get(crop, "IPOL")


@dataclass(frozen=True, slots=True)
class Timing:
    """What rows and read-out mode make of time, seconds."""

    line_s: float
    readout_s: float

    @classmethod
    def of(cls, rows: int, readout_mode: str) -> Timing:
        """Return the timing of a crop of so many rows."""
        line_s = LINE_TIMES_S[readout_mode]
        return cls(line_s, (rows / 2 + OVERHEAD_LINES) * line_s)

    def max_rate_hz(self, exposure_s: float, *, is_triggered: bool) -> float:
        """Return the highest frame rate.

        Free running, exposure and read-out overlap; with the external trigger a frame begins only
        when the one before is read out.
        """
        if is_triggered:
            return 1 / (exposure_s + self.readout_s)
        return 1 / max(exposure_s, self.readout_s)
