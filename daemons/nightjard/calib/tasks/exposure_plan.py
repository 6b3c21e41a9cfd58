# SPDX-License-Identifier: BSD-3-Clause
"""What the frames of a linearity test were exposed for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightjard.calib.dataset import CcdFrame
from nightjard.calib.work import Work


@dataclass(frozen=True)
class Plan:
    """Frames of a test, by OBSID in order.

    Attributes
    ----------
    obsids, time_s, exposure_s, wave
        Time since the first; exposure as the shutter was open; wavelength in nm.
    is_stable
        The exposure that is repeated most.
    """

    obsids: NDArray[np.int64]
    time_s: NDArray[np.float64]
    exposure_s: NDArray[np.float64]
    wave: NDArray[np.int64]
    is_stable: NDArray[np.bool_]


def plan_of(work: Work) -> Plan:
    """Return what the frames of a test were exposed for."""
    frames: dict[int, CcdFrame] = {}
    for frame in work.dataset.frames:
        if frame.is_usable:
            frames.setdefault(frame.obsid, frame)
    ordered = [frames[obsid] for obsid in sorted(frames)]
    profile = work.dataset.profile
    waves = [work.dataset.wave_nm(frame) for frame in ordered]
    kinds = [
        (round(frame.exposure_s, 4), wave) for frame, wave in zip(ordered, waves, strict=True)
    ]
    repeated = Counter(kind for kind in kinds if kind[0] > 0).most_common(1)
    stable = repeated[0][0] if repeated else None
    start = ordered[0].utc_ns if ordered else 0
    return Plan(
        np.array([frame.obsid for frame in ordered], np.int64),
        np.array([(frame.utc_ns - start) / 1e9 for frame in ordered]),
        np.array([profile.actual_exposure_s(frame.exposure_s) for frame in ordered]),
        np.array(waves, np.int64),
        np.array([kind == stable for kind in kinds], bool),
    )
