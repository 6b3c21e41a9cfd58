# SPDX-License-Identifier: BSD-3-Clause
"""The header of a camera frame: which cards, in which order, in which unit.

The keywords follow the FITS standard (4.0, §9: DATE-BEG, DATE-AVG, DATE-END, MJD-*, TIMESYS) and
the names that the reduction software of this camera family already reads (CAM-*, EXPCNT,
IMAG-RGN, ...). Times refer to the first row of the window; ROWDELTA gives those of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from nightjar import __version__
from nightjar.clock import NS_PER_S
from nightjar.fits.cards import Card
from nightjar.fits.header import Field, Header, HeaderTemplate, Section
from nightjar.times import iso, mjd_text

CAMERA_FRAME = HeaderTemplate(
    Section("DATE/TIME"),
    Field("DATE", str, "UTC at which this header was made"),
    Field("TIMESYS", str, "time scale of all dates"),
    Field("DATE-OBS", str, "start of exposure, row 1 of window"),
    Field("DATE-BEG", str, "start of exposure, row 1 of window"),
    Field("DATE-AVG", str, "middle of exposure, row 1 of window"),
    Field("DATE-END", str, "end of exposure, row 1 of window"),
    Field("MJD-OBS", float, "start of exposure", "d"),
    Field("MJD-BEG", float, "start of exposure", "d"),
    Field("MJD-AVG", float, "middle of exposure", "d"),
    Field("MJD-END", float, "end of exposure", "d"),
    Field("TIME-SRC", str, "what stamped start and end"),
    Field("TIME-ERR", float, "uncertainty of the stamps", "s"),
    Field("CLK-SYNC", bool, "was the host clock disciplined"),
    Field("CLK-ERR", float, "estimated error of the host clock", "s"),
    Field("CLK-STEP", float, "host clock steps in this sequence", "s"),
    Field("EXPTIME", float, "actual exposure time", "s"),
    Field("EXPRQSTD", float, "requested exposure time", "s"),
    Field("EXPCADNC", float, "time since previous start", "s"),
    Field("ROWDELTA", float, "rolling shutter: period of unbinned rows", "us"),
    Field("PC-RDEND", str, "last pixel had arrived"),
    Section("FRAME"),
    Field("ORIGIN", str, "what wrote this file"),
    Field("SWVERS", str, "software version"),
    Field("RUN-ID", str, "sequence that this frame belongs to"),
    Field("EXPCNT", int, "continuous frame number"),
    Field("EXPCREF", str, "date since which EXPCNT counts"),
    Field("SEQ-NUM", int, "number within the sequence, from 1"),
    Field("SEQ-LIM", int, "frames asked for, 0 until stopped"),
    Field("HW-FRAME", int, "frame number counted by the camera"),
    Field("LOST-PRE", int, "frames lost since the previous file"),
    Field("LOST-SEQ", int, "frames lost in this sequence so far"),
    Field("INVALPRE", int, "bad frames repeated before this one"),
    Field("NTORN", int, "frames torn: 0, each slot has one owner"),
    Field("NDUP", int, "duplicated frames: 0, stale are refused"),
    Field("BUF-FULL", int, "waits for a free buffer in sequence"),
    Section("CAMERA INFORMATION"),
    Field("CAMERA", str, "name of the camera"),
    Field("CAMSER", str, "serial number of the device"),
    Field("CAMMODEL", str, "detector model"),
    Field("SDKVER", str, "version of the camera library"),
    Field("FWVER", str, "version of the camera firmware"),
    Field("FILTER", str, "filter in the beam", is_optional=True),
    Field("CAM-TFER", str, "STREAM: overlapped, SINGLE: one by one"),
    Field("CAM-GAIN", int, "gain setting"),
    Field("CAM-OFST", int, "offset setting"),
    Field("CAM-TEMP", float, "detector temperature", "Celsius"),
    Field("TEMP-AGE", float, "temperature read so long before DATE-END", "s"),
    Field("TEMP-MOD", str, "cooler mode"),
    Field("TEMP-PWR", float, "cooler power", "%"),
    Field("TEMP-SET", float, "set point, undefined when warm", "Celsius"),
    Field("TEMP-LCK", bool, "was the set point held"),
    Field("CAM-HUMD", float, "humidity", "%", is_optional=True),
    Field("CAM-PRES", float, "pressure", "hPa", is_optional=True),
    Field("CAM-BIN", int, "binning in each direction"),
    Field("CAM-BMET", str, "binning method"),
    Field("CAM-WIND", str, "part of the read-out in this image"),
    Field("IMAG-RGN", str, "light-sensitive part of this image"),
    Field("BIAS-RGN", str, "overscan part of this image"),
    Field("DARK-RGN", str, "covered part of this image"),
)
"""Template of every camera frame; driver-specific cards follow it under DRIVER."""


@dataclass(frozen=True, slots=True)
class Stamps:
    """Times of one frame, UTC nanoseconds."""

    start_ns: int
    end_ns: int
    read_end_ns: int

    def values(self) -> dict[str, Any]:
        """Return the date cards."""
        middle_ns = (self.start_ns + self.end_ns) // 2
        return {
            "TIMESYS": "UTC",
            "DATE-OBS": iso(self.start_ns),
            "DATE-BEG": iso(self.start_ns),
            "DATE-AVG": iso(middle_ns),
            "DATE-END": iso(self.end_ns),
            "MJD-OBS": mjd_text(self.start_ns),
            "MJD-BEG": mjd_text(self.start_ns),
            "MJD-AVG": mjd_text(middle_ns),
            "MJD-END": mjd_text(self.end_ns),
            "EXPTIME": (self.end_ns - self.start_ns) / NS_PER_S,
            "PC-RDEND": iso(self.read_end_ns),
        }


def build_header(
    values: Mapping[str, Any], extra: Mapping[str, tuple[Any, str]], now_ns: int
) -> Header:
    """Return the header of a frame.

    Parameters
    ----------
    values
        Keywords of :data:`CAMERA_FRAME`; MJD-* as texts, so that JSON keeps all their digits.
    extra
        Driver-specific cards: keyword -> (value, comment). Those that the template has are
        left out: the daemon's own value counts.
    now_ns
        Time of writing.
    """
    filled = dict(values)
    filled["DATE"] = iso(now_ns, 3)
    filled["ORIGIN"] = "Nightjar camd"
    filled["SWVERS"] = __version__
    for keyword, value in filled.items():
        if keyword.startswith("MJD-") and isinstance(value, str):
            filled[keyword] = Decimal(value)
    own = [
        Card(keyword, value, comment)
        for keyword, (value, comment) in extra.items()
        if keyword not in CAMERA_FRAME.fields
    ]
    heading = [Card("", ""), Card("COMMENT", "--- DRIVER ---")] if own else []
    return CAMERA_FRAME.fill(filled, heading + own)
