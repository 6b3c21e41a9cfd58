# SPDX-License-Identifier: BSD-3-Clause
"""The data of one test: which frames there are, what was commanded, what was logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightjar.calibration.chamber import ChamberProfile
from nightjar.calibration.detector import Detector
from nightjar.calibration.script import Script


@dataclass(frozen=True)
class CcdFrame:
    """The frame of one CCD of one exposure.

    Attributes
    ----------
    ccd
        1 to n.
    column
        Index of its column in the script, 0-based; None where it belongs to none.
    path
        None where the file is missing.
    utc_ns
        Start of the exposure as logged.
    commanded
        Keys of the script and their values; empty where it belongs to no column.
    logged
        Columns of the exposure log and their values.
    problem
        Why its file cannot be used; empty where it can.
    """

    obsid: int
    ccd: int
    column: int | None
    path: Path | None
    utc_ns: int
    commanded: Mapping[str, Any]
    logged: Mapping[str, Any]
    problem: str = ""

    @property
    def is_usable(self) -> bool:
        """There is a file, and it can be read."""
        return self.path is not None and not self.problem

    @property
    def label(self) -> str:
        """Name of its column: col001 ...; empty where it belongs to none."""
        return "" if self.column is None else f"col{self.column + 1:03d}"

    @property
    def exposure_s(self) -> float:
        """Exposure time as logged, s; the commanded one where the log has none."""
        value = self.logged.get("exptime", self.commanded.get("exptime", 0.0))
        return float(value)


@dataclass(frozen=True)
class Dataset:
    """The frames of a test, with everything that says what they are.

    Attributes
    ----------
    test, handle
        FOCUS00_800 and FOCUS00.
    frames
        In order of OBSID, then CCD.
    serials
        sn_ccd1 ..., sn_roe, sn_rpsu as the campaign says.
    hk
        OBSID -> parameter -> (mean, std, min, max), of the exposures that have housekeeping.
    hk_missing
        OBSIDs without it.
    hk_paths
        OBSID -> its file, for checks that need more than statistics.
    """

    test: str
    handle: str
    block: str
    detector: Detector
    detector_name: str
    profile: ChamberProfile
    script: Script
    frames: tuple[CcdFrame, ...]
    serials: Mapping[str, str] = field(default_factory=dict)
    hk: Mapping[int, Mapping[str, tuple[float, float, float, float]]] = field(default_factory=dict)
    hk_missing: tuple[int, ...] = ()
    hk_paths: Mapping[int, Path] = field(default_factory=dict)

    @property
    def ccds(self) -> tuple[int, ...]:
        """CCDs that have usable frames."""
        return tuple(sorted({frame.ccd for frame in self.frames if frame.is_usable}))

    @property
    def obsids(self) -> tuple[int, ...]:
        """OBSIDs, in order."""
        return tuple(sorted({frame.obsid for frame in self.frames}))

    @property
    def obsid_range(self) -> tuple[int, int]:
        """First and last OBSID; (-1, -1) where there is none."""
        obsids = self.obsids
        return (obsids[0], obsids[-1]) if obsids else (-1, -1)

    def of_ccd(self, ccd: int) -> list[CcdFrame]:
        """Return the usable frames of a CCD, in order of OBSID."""
        return [frame for frame in self.frames if frame.ccd == ccd and frame.is_usable]

    def by_column(self, ccd: int) -> dict[int, list[CcdFrame]]:
        """Return the usable frames of a CCD by column index; columns without frames too."""
        groups: dict[int, list[CcdFrame]] = {i: [] for i in range(len(self.script.columns))}
        for frame in self.of_ccd(ccd):
            if frame.column is not None:
                groups[frame.column].append(frame)
        return groups

    def wave_nm(self, frame: CcdFrame) -> int:
        """Return the wavelength of a frame's filter; 0 is the neutral density filter."""
        slot = int(frame.logged.get("wave", frame.commanded.get("wave", 4)))
        return self.profile.wave_of(slot)


def usable_paths(frames: Sequence[CcdFrame]) -> list[str]:
    """Return the paths of frames as text, for arguments of tasks."""
    return [str(frame.path) for frame in frames if frame.is_usable]
