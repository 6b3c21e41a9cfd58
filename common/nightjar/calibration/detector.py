# SPDX-License-Identifier: BSD-3-Clause
"""A detector as data: how many CCDs, which quadrants, where each is read out, how wide its scans.

Frames are numpy arrays ``[row, column]`` as in the FITS file: row 0 at the bottom. A quadrant is
handled in *canonical* orientation: ``[0, 0]`` is the pixel that is read first, columns are prescan,
image, overscan, rows are image, parallel overscan. The same canonical pixel of all quadrants is
read at the same time.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from nightjar.config.load import StrictModel, load
from nightjar.config.paths import config_root
from nightjar.errors import ConfigError
from nightjar.files import is_safe_name, shipped_folder

Sector = Literal["prescan", "image", "overscan", "parallel_overscan", "all"]
Array = NDArray[Any]


class QuadrantPlace(StrictModel):
    """Where a quadrant lies in the frame and in which of its corners it is read out."""

    column: int = Field(ge=0, description="0: left, 1: next to the right ...")
    row: int = Field(ge=0, description="0: bottom, 1: next above ...")
    reads_from_right: bool = Field(False, description="Its node is in a right corner.")
    reads_from_top: bool = Field(False, description="Its node is in an upper corner.")


class Detector(StrictModel):
    """A detector, or several of one kind that are read together."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")
    description: str = ""
    ccds: int = Field(ge=1, le=99, description="Detectors that are read together.")
    quadrants: dict[str, QuadrantPlace] = Field(min_length=1)
    prescan: int = Field(ge=0, description="Serial prescan columns of a quadrant.")
    image_columns: int = Field(ge=1)
    overscan: int = Field(ge=0, description="Serial overscan columns.")
    image_rows: int = Field(ge=1)
    parallel_overscan: int = Field(0, ge=0, description="Rows read after the image.")
    injection_rows: int = Field(0, ge=0, description="Rows for charge injection in each half.")
    pixel_um: float = Field(gt=0)
    adc_bits: int = Field(16, ge=8, le=32)
    gain_e_adu: float = Field(gt=0, description="Nominal gain, electrons per ADU.")
    read_noise_e: float = Field(gt=0)
    full_well_e: float = Field(gt=0)
    point_saturation_adu: float = Field(
        55000.0, description="Peak of a star above offset that counts as saturated."
    )
    prescan_trim: tuple[int, int] = Field(
        (0, 0), strict=False, description="Columns left out of statistics: first, last."
    )
    overscan_trim: tuple[int, int] = Field((0, 0), strict=False)
    image_trim: tuple[int, int] = Field((0, 0), strict=False)
    tile_px: int = Field(300, ge=4, description="Side of the tiles of photon transfer.")
    readout_s: float | None = Field(
        None, gt=0,
        description="Time from the end of an exposure to the next one. Not given: it is clocked "
        "line by line as the keys of the script say.",
    )  # fmt: skip
    offset_sector: Literal["prescan", "overscan", "none"] = Field(
        "prescan", description="Which scan gives the offset; none: a master bias does."
    )

    @model_validator(mode="after")
    def _check(self) -> Detector:
        places = [(place.column, place.row) for place in self.quadrants.values()]
        if len(set(places)) != len(places):
            raise ValueError("two quadrants have the same place")
        if len(places) != self.grid[0] * self.grid[1]:
            raise ValueError("the quadrants do not fill the frame")
        for name in self.quadrants:
            if not re.fullmatch(r"[A-Z][A-Z0-9]{0,7}", name):
                raise ValueError(f"quadrant {name!r}: capital letters and digits")
        for sector in ("prescan", "overscan", "image"):
            trim = getattr(self, f"{sector}_trim")
            width = self.image_columns if sector == "image" else getattr(self, sector)
            if min(trim) < 0 or (width and sum(trim) >= width):
                raise ValueError(f"{sector}_trim leaves no column of {width}")
        if self.offset_sector != "none" and not getattr(self, self.offset_sector):
            raise ValueError(f"offset_sector is {self.offset_sector}, which has no columns")
        return self

    # --- sizes ---

    @functools.cached_property
    def grid(self) -> tuple[int, int]:
        """Quadrants beside and above each other."""
        places = self.quadrants.values()
        return (max(p.column for p in places) + 1, max(p.row for p in places) + 1)

    @property
    def quadrant_shape(self) -> tuple[int, int]:
        """(rows, columns) of a quadrant, scans included."""
        return (
            self.image_rows + self.parallel_overscan,
            self.prescan + self.image_columns + self.overscan,
        )

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(rows, columns) of the frame of a CCD: NAXIS2, NAXIS1."""
        rows, columns = self.quadrant_shape
        return (rows * self.grid[1], columns * self.grid[0])

    @property
    def adc_full_scale(self) -> int:
        """Levels of the converter: 65536 for 16 bits."""
        return 1 << self.adc_bits

    @property
    def saturation_adu(self) -> int:
        """Highest value that a pixel can have."""
        return self.adc_full_scale - 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the quadrants, in the order of the description."""
        return tuple(self.quadrants)

    @property
    def ccd_numbers(self) -> range:
        """1 to the number of CCDs."""
        return range(1, self.ccds + 1)

    # --- cutting frames ---

    def bounds(self, quadrant: str) -> tuple[int, int, int, int]:
        """Return x0, x1, y0, y1 of a quadrant in the frame, 0-based, ends exclusive."""
        place = self.quadrants[quadrant]
        rows, columns = self.quadrant_shape
        x0, y0 = place.column * columns, place.row * rows
        return (x0, x0 + columns, y0, y0 + rows)

    def canonical(self, frame: Array, quadrant: str) -> Array:
        """Return a view of a quadrant of a frame ``[row, column]``, canonical orientation."""
        x0, x1, y0, y1 = self.bounds(quadrant)
        place = self.quadrants[quadrant]
        view = frame[..., y0:y1, x0:x1]
        if place.reads_from_top:
            view = view[..., ::-1, :]
        return view[..., ::-1] if place.reads_from_right else view

    def assemble(self, quadrants: dict[str, Array]) -> Array:
        """Return the frame of canonical quadrants, all of one dtype."""
        first = next(iter(quadrants.values()))
        frame = np.empty((*first.shape[:-2], *self.frame_shape), first.dtype)
        for name, pixels in quadrants.items():
            self.canonical(frame, name)[...] = pixels
        return frame

    def columns_of(self, sector: Sector, *, is_trimmed: bool = False) -> slice:
        """Return the canonical columns of a sector; trimmed as for statistics."""
        edges = {
            "prescan": (0, self.prescan, self.prescan_trim),
            "image": (self.prescan, self.prescan + self.image_columns, self.image_trim),
            "overscan": (
                self.prescan + self.image_columns, self.quadrant_shape[1], self.overscan_trim,
            ),
        }  # fmt: skip
        if sector not in edges:
            return slice(0, self.quadrant_shape[1])
        start, stop, trim = edges[sector]
        return slice(start + trim[0], stop - trim[1]) if is_trimmed else slice(start, stop)

    def rows_of(self, sector: Sector) -> slice:
        """Return the canonical rows of a sector."""
        if sector == "parallel_overscan":
            return slice(self.image_rows, self.quadrant_shape[0])
        if sector == "all":
            return slice(0, self.quadrant_shape[0])
        return slice(0, self.image_rows)

    def sector(self, quadrant: Array, sector: Sector, *, is_trimmed: bool = False) -> Array:
        """Return the view of a sector of a canonical quadrant.

        Serial scans and image without the parallel overscan rows, as offsets are measured.
        """
        return quadrant[..., self.rows_of(sector), self.columns_of(sector, is_trimmed=is_trimmed)]

    def tiles(self) -> list[tuple[slice, slice]]:
        """Return (rows, columns) of the whole tiles of the image area of a canonical quadrant."""
        side = self.tile_px
        return [
            (slice(y, y + side), slice(self.prescan + x, self.prescan + x + side))
            for y in range(0, self.image_rows - side + 1, side)
            for x in range(0, self.image_columns - side + 1, side)
        ]

    def half_of(self, quadrant: str) -> Literal["B", "T"]:
        """Return the half of a quadrant: T where its node is at the top of the frame, else B."""
        return "T" if self.quadrants[quadrant].reads_from_top else "B"


def load_detector(name: str | Path) -> Detector:
    """Return a detector by the name of its description or by a path.

    Looked for in ``CALIB_CONFIG_ROOT``/detectors, then among those that are shipped.

    Raises
    ------
    ConfigError
        There is none of that name, or its description is not valid.
    """
    if isinstance(name, Path) or name.endswith(".json"):
        return load(Path(name), Detector)
    path = described("detectors", name)
    if path is not None:
        return load(path, Detector)
    known = ", ".join(described_names("detectors"))
    raise ConfigError(f"no detector {name!r}; described are: {known or 'none'}")


def data_folders(kind: str) -> list[Path]:
    """Return the folders that hold descriptions of a kind, own ones before the shipped ones."""
    folders = [config_root("calib") / kind, shipped_folder("etc") / "calib" / kind]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def described(kind: str, name: str) -> Path | None:
    """Return the file of a description by its name; None where there is none of that name."""
    if not is_safe_name(name):  # a path, or longer than a file system takes
        return None
    paths = (folder / f"{name}.json" for folder in data_folders(kind))
    return next((path for path in paths if path.is_file()), None)


def described_names(kind: str) -> list[str]:
    """Return the names of all descriptions of a kind, sorted."""
    return sorted({path.stem for folder in data_folders(kind) for path in folder.glob("*.json")})
