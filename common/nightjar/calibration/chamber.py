# SPDX-License-Identifier: BSD-3-Clause
"""The optical bench of a test chamber: how long until saturation, where the focus is.

A chamber's profile is kept with its whole history: ``chambers/<NAME>/<NNNN>.json``, one file a
version, none ever edited. In force is the newest version that is valid at the time asked for.
"""

from __future__ import annotations

import difflib
import functools
import re
import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from nightjar.calibration.detector import Detector, data_folders, described, described_names
from nightjar.config.load import StrictModel, load
from nightjar.errors import ConfigError
from nightjar.files import is_safe_name
from nightjar.times import iso, parse_iso

SPOT_NAMES = {"A": "ALPHA", "B": "BRAVO", "C": "CHARLIE", "D": "DELTA", "E": "ECHO"}
_WAVE = re.compile(r"nm(\d{1,5})\Z")
_SLOT = re.compile(r"F([1-6])\Z")

WaveName = Annotated[str, Field(pattern=r"^nm\d{1,5}$")]
SlotName = Annotated[str, Field(pattern=r"^F[1-6]$")]
Seconds = Annotated[float, Field(gt=0, le=10000, strict=False)]
Pair = Annotated[tuple[float, float], Field(strict=False)]


@dataclass(frozen=True, slots=True)
class Spot:
    """A star of the pattern on one CCD; x, y are physical pixels, 0-based."""

    id: str
    quadrant: str
    spot: str
    x: float
    y: float


class StarPattern(StrictModel):
    """Where the stars fall on each CCD."""

    reference: Pair = Field(
        description="Physical width and height, pixels, of the detector that x and y belong to."
    )
    source: str = ""
    ccds: dict[Annotated[str, Field(pattern=r"^CCD\d{1,2}$")], dict[str, Pair]] = Field(
        min_length=1, description="CCD1.. -> id (quadrant and spot letter) -> [x, y]."
    )


class ChamberProfile(StrictModel):
    """What scripts and checks must know of a chamber, in one version of its history."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    chamber: str = Field(pattern=r"^[A-Z]{1,8}$", description="Which chamber: A, B ...")
    version: int = Field(ge=1, le=9999)
    valid_from: str = Field(description="UTC, ISO 8601: from when on it is in force.")
    recorded: str = Field(description="UTC, ISO 8601: when it was written down.")
    author: str = Field(min_length=1, max_length=80)
    reason: str = Field(min_length=1, max_length=500)
    evidence: list[str] = Field(
        default_factory=list, description="Measurements that this version rests on, a line each."
    )
    tFWC_point: dict[WaveName, Seconds] = Field(  # noqa: N815 - the name that everybody knows
        description="Seconds until a star saturates, by nm; nm0 is the neutral density filter."
    )
    tFWC_flat: dict[WaveName, Seconds] = Field(  # noqa: N815
        description="Seconds until a flat saturates."
    )
    mirror_nom: dict[SlotName, Annotated[float, Field(ge=0, le=100)]] = Field(
        description="Mirror position of best focus, mm, by slot of the filter wheel."
    )
    fwhm_lambda: dict[WaveName, Annotated[float, Field(gt=0, le=50)]] = Field(
        description="Width of a star in focus, pixels."
    )
    FW: dict[SlotName, Annotated[int, Field(ge=0, le=99999)]] = Field(
        description="Filter wheel: slot -> nm; 0 is the neutral density filter."
    )
    shutter: list[Pair] = Field(
        min_length=2, description="Commanded and actual exposure, s, rising."
    )
    pattern: str = Field("", description="Star pattern: a file of star_patterns, without .json.")

    @model_validator(mode="after")
    def _check(self) -> ChamberProfile:
        for name in ("valid_from", "recorded"):
            try:
                parse_iso(getattr(self, name))
            except Exception as error:
                raise ValueError(f"{name}: {getattr(self, name)!r}: must be ISO 8601") from error
        waves = list(self.FW.values())
        if len(set(waves)) != len(waves):
            raise ValueError("FW: two slots have the same wavelength")
        for table in ("tFWC_point", "tFWC_flat", "fwhm_lambda"):
            for key in getattr(self, table):
                if int(key[2:]) not in waves:
                    raise ValueError(f"{table}.{key}: no slot of FW has {key[2:]} nm")
        for slot in self.mirror_nom:
            if slot not in self.FW:
                raise ValueError(f"mirror_nom.{slot}: FW has no {slot}")
        for one, next_one in zip(self.shutter, self.shutter[1:], strict=False):
            if not (0 <= one[0] < next_one[0] and 0 <= one[1] < next_one[1]):
                raise ValueError(f"shutter: {list(next_one)} must be above {list(one)}")
        return self

    # --- filter wheel ---

    @property
    def waves(self) -> list[int]:
        """Wavelengths in the wheel, nm; 0 is the neutral density filter."""
        return sorted(self.FW.values())

    def filter_slot(self, wave: int) -> int:
        """Return the slot, 1 to 6, of a wavelength in nm."""
        for slot, nm in self.FW.items():
            if nm == wave:
                return int(slot[1:])
        raise ConfigError(f"chamber {self.name} has no filter of {wave} nm; it has {self.waves}")

    def wave_of(self, slot: int) -> int:
        """Return the wavelength, nm, of a slot."""
        try:
            return self.FW[f"F{slot}"]
        except KeyError:
            raise ConfigError(f"chamber {self.name} has no filter F{slot}") from None

    # --- light ---

    def saturation_s(self, source: str, wave: int) -> float:
        """Return the seconds until ``flat`` or ``point`` saturates at a wavelength in nm."""
        table = {"flat": self.tFWC_flat, "point": self.tFWC_point}.get(source)
        if table is None:
            raise ConfigError(f"light source {source!r}: must be flat or point")
        if f"nm{wave}" not in table:
            raise ConfigError(
                f"chamber {self.name} has no saturation time of {source} at {wave} nm; it has "
                f"{', '.join(table)}"
            )
        return table[f"nm{wave}"]

    def mirror_mm(self, wave: int) -> float:
        """Return the mirror position of best focus at a wavelength in nm."""
        slot = f"F{self.filter_slot(wave)}"
        if slot not in self.mirror_nom:
            raise ConfigError(f"chamber {self.name} has no mirror_nom.{slot} ({wave} nm)")
        return self.mirror_nom[slot]

    def fwhm_px(self, wave: int) -> float:
        """Return the width of a star in focus, pixels."""
        if f"nm{wave}" not in self.fwhm_lambda:
            raise ConfigError(f"chamber {self.name} has no fwhm_lambda.nm{wave}")
        return self.fwhm_lambda[f"nm{wave}"]

    @property
    def longest_exposure_s(self) -> float:
        """Longest exposure that the shutter is calibrated for."""
        return self.shutter[-1][0]

    def actual_exposure_s(self, commanded_s: float) -> float:
        """Return how long the shutter really is open.

        The table's difference to the commanded time, interpolated on straight lines: exact at its
        points and rising between them. Above the table its last difference; 0 stays 0.
        """
        if commanded_s <= 0:
            return 0.0
        commanded = [pair[0] for pair in self.shutter]
        index = min(bisect_right(commanded, commanded_s), len(commanded) - 1)
        if index == 0:
            return commanded_s + self.shutter[0][1] - self.shutter[0][0]
        (x0, y0), (x1, y1) = self.shutter[index - 1 : index + 1]
        part = min((commanded_s - x0) / (x1 - x0), 1.0)
        return commanded_s + (y0 - x0) + part * ((y1 - x1) - (y0 - x0))

    # --- stars ---

    def spots(self, ccd: int, detector: Detector | None = None) -> list[Spot]:
        """Return the stars on a CCD, in physical pixels of the detector (default: the pattern's).

        A quadrant's name is the one that the detector has where the star falls.
        """
        pattern = load_pattern(self.pattern, self.name)
        stars = pattern.ccds.get(f"CCD{ccd}")
        if stars is None:
            raise ConfigError(
                f"star pattern {self.pattern} has no CCD{ccd}; it has {', '.join(pattern.ccds)}"
            )
        width, height = pattern.reference
        scale_x = scale_y = 1.0
        if detector is not None:
            new_width, new_height = physical_size(detector)
            scale_x, scale_y = new_width / width, new_height / height
        found = []
        for name, (x, y) in stars.items():
            place = (x * scale_x, y * scale_y)
            quadrant = name[0]
            if detector is not None and quadrant not in detector.quadrants:
                quadrant = _quadrant_under(detector, *place)
            spot = SPOT_NAMES.get(name[1:], name[1:])
            found.append(Spot(name, quadrant, spot, *place))
        return found

    # --- for expressions ---

    def names(self) -> dict[str, Any]:
        """Return what expressions of the catalogue may refer to, tables by wavelength in nm."""
        slots = {wave: int(slot[1:]) for slot, wave in self.FW.items()}
        return {
            "tFWC_point": _by_wave(self.tFWC_point),
            "tFWC_flat": _by_wave(self.tFWC_flat),
            "fwhm": _by_wave(self.fwhm_lambda),
            "mirror_nom": {self.FW[slot]: mm for slot, mm in self.mirror_nom.items()},
            "slot": slots,
        }


def _by_wave(table: Mapping[str, float]) -> dict[int, float]:
    return {int(name[2:]): value for name, value in table.items()}


def physical_size(detector: Detector) -> tuple[int, int]:
    """Return width and height of the silicon, pixels, injection rows included."""
    columns, rows = detector.grid
    gap = 2 * detector.injection_rows * (rows - 1)
    return (detector.image_columns * columns, detector.image_rows * rows + gap)


def _quadrant_under(detector: Detector, x: float, y: float) -> str:
    column = min(int(x // detector.image_columns), detector.grid[0] - 1)
    pitch = detector.image_rows + 2 * detector.injection_rows
    row = min(int(y // pitch), detector.grid[1] - 1)
    for name, place in detector.quadrants.items():
        if (place.column, place.row) == (column, row):
            return name
    raise ConfigError(f"detector {detector.name} has no quadrant at column {column}, row {row}")


@functools.lru_cache(maxsize=16)
def _read_pattern(path: Path, _mtime_ns: int) -> StarPattern:
    return load(path, StarPattern)


def load_pattern(name: str, profile: str = "") -> StarPattern:
    """Return a star pattern by name."""
    path = described("star_patterns", name)
    if path is not None:
        return _read_pattern(path, path.stat().st_mtime_ns)
    known = ", ".join(described_names("star_patterns"))
    raise ConfigError(
        f"chamber {profile}: no star pattern {name!r}; there are: {known or 'none'}"
    )


# --- the registry -----------------------------------------------------------------------------


def profile_names() -> list[str]:
    """Return the names of the chambers that have a profile, sorted."""
    return sorted(
        {
            folder.name
            for parent in data_folders("chambers")
            for folder in parent.iterdir()
            if folder.is_dir() and any(folder.glob("[0-9][0-9][0-9][0-9].json"))
        }
    )


def profile_history(name: str) -> list[ChamberProfile]:
    """Return all versions of a chamber's profile, oldest first: the shipped ones and one's own.

    Raises
    ------
    ConfigError
        There is none of that name, a version is not valid, or one number stands for two contents.
    """
    found: dict[int, tuple[Path, ChamberProfile]] = {}
    for parent in data_folders("chambers") if is_safe_name(name) else []:
        for path in sorted((parent / name).glob("[0-9][0-9][0-9][0-9].json")):
            profile = load(path, ChamberProfile)
            if profile.name != name or profile.version != int(path.stem):
                raise ConfigError(
                    f"{path}: says {profile.name} version {profile.version}; a version is never "
                    "renamed nor edited"
                )
            other = found.setdefault(profile.version, (path, profile))
            if other[1] != profile:
                raise ConfigError(f"{path} and {other[0]} differ: one version has two contents")
    if not found:
        known = profile_names()
        near = difflib.get_close_matches(name, known, 1)
        raise ConfigError(
            f"no chamber profile {name!r}; there are: {', '.join(known) or 'none'}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    return [found[version][1] for version in sorted(found)]


def load_profile(name: str, *, at_ns: int | None = None, version: int | None = None
                 ) -> ChamberProfile:  # fmt: skip
    """Return a chamber's profile: the newest that is valid now, at a time, or one version.

    Raises
    ------
    ConfigError
        There is none, with what there is.
    """
    history = profile_history(name)
    if version is not None:
        for profile in history:
            if profile.version == version:
                return profile
        raise ConfigError(f"chamber {name} has versions 1..{history[-1].version}, not {version}")
    moment = time.time_ns() if at_ns is None else at_ns
    valid = [profile for profile in history if parse_iso(profile.valid_from) <= moment]
    if not valid:
        raise ConfigError(
            f"chamber {name}: no profile is valid at {iso(moment, 0)}; the first one is from "
            f"{history[0].valid_from}"
        )
    return valid[-1]
