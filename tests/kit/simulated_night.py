# SPDX-License-Identifier: BSD-3-Clause
"""Small simulated nights for tests, and a look at their files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from blake3 import blake3

from nightjard.simulators.night.parameters import NightParameters, Segment


def tiny(**changes: Any) -> NightParameters:
    """A night of 160 frames in 8 cubes."""
    segment = Segment(frames=40, cube_frames=((20,), (25,)))
    night = NightParameters((segment, segment), frame_shape=(16, 16), telemetry_s=0)
    return dataclasses.replace(night, **changes)


def pixels_of(path: Path) -> np.ndarray:
    """The pixel values of a cube."""
    with fits.open(path) as hdus:
        return np.array(hdus[0].data)


def content(root: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    return {
        str(path.relative_to(root)): blake3(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
