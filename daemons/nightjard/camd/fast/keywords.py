# SPDX-License-Identifier: BSD-3-Clause
"""The keywords of a fast camera's stream: names, values and comments, pure.

Names are those of the camera's FITS headers (at most 8 characters), so that a logger copies them.
True and false are the texts ``#TRUE#`` and ``#FALSE#``, as loggers of this layout expect. What
belongs to the telescope or to optics that this daemon does not know has a default that the
configuration or ``set_keyword`` replaces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightjar.errors import InvalidArgument
from nightjar.streams.keywords import KeywordValue, encode_keyword
from nightjard.camd.fast.sensor import observing_mode

if TYPE_CHECKING:
    from nightjard.camd.fast.situation import Situation

TRUE, FALSE = "#TRUE#", "#FALSE#"
Entries = dict[str, tuple[KeywordValue, str]]
Given = str | int | float | bool

_PIXEL_MM = 0.0046
_SCALE_DEG = 5.9e-3 / 3600  # 5.9 mas a pixel
_FIELDS = ("", "B", "C", "D")
_FIELD_NAMES = ("F610", "F670", "F720", "F760")

TELEMETRY_KEYWORDS = {
    "significant_bits": ("DET-BITS", "significant bits of a pixel"),
    "clock_error_us": ("CLK-ERR", "[us] scatter of the camera's clock about UTC"),
}
"""Keywords that follow a source's telemetry, where it has that value: key to (name, comment)."""

COMPUTED = frozenset(
    {
        "CROPPED", "DATA-TYP", "DET-TMP", "EXPTIME", "EXTTRIG", "FRATE", "MFRATE", "OBS-MOD",
        "PRD-MIN1", "PRD-MIN2", "PRD-RNG1", "PRD-RNG2", "U_DETMOD", "U_CROP", "HW-OFF", "HW-FROM",
        "HW-OFFP", "LOST-CAM", *(name for name, _ in TELEMETRY_KEYWORDS.values()),
    }
)  # fmt: skip
"""Keywords that follow from the camera's state: no command or configuration sets them."""


def _truth(value: Any) -> str:
    return TRUE if value else FALSE


def default_keywords(camera: int, camera_id: str) -> Entries:
    """Return the keywords that do not follow from the camera's state, with their defaults."""
    entries: Entries = {
        "DETECTOR": (camera_id[:16], "name of the detector"),
        "U_CAMERA": (camera, "number of the camera"),
        "BIN-FCT1": (1, "[pixel] binning in X"), "BIN-FCT2": (1, "[pixel] binning in Y"),
        "BSCALE": (1.0, "real = data * BSCALE + BZERO"), "BZERO": (0.0, "offset of real values"),
        "BUNIT": ("ADU", "unit of the original values"),
        "DETBIAS": (200.0, "[ADU] bias"),
        "DETPXSZ1": (_PIXEL_MM, "[mm] size of a pixel in X"),
        "DETPXSZ2": (_PIXEL_MM, "[mm] size of a pixel in Y"),
        "F-RATIO": (21.3, "focal ratio at the detector"),
        "GAIN": (0.103, "[e-/ADU] conversion factor"),
        "INST-PA": (0.0, "[deg] position angle of the instrument"),
        "FILTER01": ("Open", "filter wheel"), "FILTER02": ("Open", "differential filter wheel"),
        "D_IMRANG": (0.0, "[deg] angle of the image rotator"),
        "D_IMRPAD": (0.0, "[deg] position angle of the image rotator"),
        "X_POLARP": ("OUT", "polariser"),
        "U_QWP1": (0.0, "[deg] angle of quarter-wave plate 1"),
        "U_QWP1TH": (0.0, "[deg] offset of quarter-wave plate 1"),
        "U_QWP2": (0.0, "[deg] angle of quarter-wave plate 2"),
        "U_QWP2TH": (0.0, "[deg] offset of quarter-wave plate 2"),
        "RET-ANG1": (0.0, "[deg] angle of retarder plate 1"),
        "RET-ANG2": (0.0, "[deg] angle of retarder plate 2"),
        "RET-POS1": (0.0, "[deg] stage position of retarder plate 1"),
        "RET-POS2": (0.0, "[deg] stage position of retarder plate 2"),
        "OBJECT": ("SIMULATED", "target"),
    }  # fmt: skip
    for suffix, field in zip(_FIELDS, _FIELD_NAMES, strict=True):
        entries |= _wcs(suffix, field)
    return entries


def _wcs(suffix: str, field: str) -> Entries:
    names: Entries = {f"WCSNAME{suffix}": (field, "multiband field of this set")}
    for axis, kind in ((1, "RA---TAN"), (2, "DEC--TAN")):
        names |= {
            f"CRPIX{axis}{suffix}": (0.0, f"[pixel] reference in axis {axis}"),
            f"CRVAL{axis}{suffix}": (0.0, "[deg] sky coordinate of the reference"),
            f"CDELT{axis}{suffix}": (_SCALE_DEG, "[deg/pixel] scale"),
            f"CTYPE{axis}{suffix}": (kind, "projection"),
            f"CUNIT{axis}{suffix}": ("deg", "unit of CRVAL and CDELT"),
        }
    for row in (1, 2):
        for column in (1, 2):
            value = _SCALE_DEG * (0 if row != column else -1 if row == 1 else 1)
            names[f"CD{row}_{column}{suffix}"] = (value, "[deg/pixel] rotation and scale")
    return names


def computed_keywords(situation: Situation) -> Entries:
    """Return the keywords that follow from the camera's state."""
    x1, x2, y1, y2 = situation.window
    telemetry = situation.telemetry
    flc = bool(telemetry.get("flc")) and situation.external_trigger
    entries: Entries = {
        "CROPPED": (_truth(situation.is_cropped), "whether only a part of the sensor is read"),
        "PRD-MIN1": (x1 - 1, "[pixel] first column read, from 0"),
        "PRD-MIN2": (y1 - 1, "[pixel] first row read, from 0"),
        "PRD-RNG1": (x2 - x1 + 1, "[pixel] columns read"),
        "PRD-RNG2": (y2 - y1 + 1, "[pixel] rows read"),
        "EXPTIME": (situation.exposure_s, "[s] exposure time of a frame"),
        "FRATE": (situation.rate_hz, "[Hz] frame rate of the settings"),
        "MFRATE": (0.0, "[Hz] measured frame rate"),
        "EXTTRIG": (_truth(situation.external_trigger), "external trigger"),
        "DATA-TYP": (situation.data_type, "what the frames are"),
        "OBS-MOD": (observing_mode(situation.crop), "observing mode"),
        "U_DETMOD": (situation.readout_mode.capitalize()[:16], "read-out mode"),
        "U_CROP": (situation.crop[:16] or "FREE", "name of the crop"),
    }
    if "flc" in telemetry:
        entries |= {
            "U_FLC": ("NA", "FLC state of the frames: not told apart here"),
            "U_FLCEN": (_truth(flc), "whether the trigger modulates the FLC"),
            "U_FLCST": ("IN" if telemetry["flc"] else "OUT", "stage of the FLC"),
            "U_TRIGEN": (_truth(situation.external_trigger), "whether the trigger runs"),
            "U_TRIGJT": (int(telemetry.get("flc_half_width_us") or 0),
                         "[us] half width of the FLC's jitter"),
            "U_TRIGOF": (20, "[us] delay of the pulse after the FLC"),
            "U_TRIGPW": (20, "[us] width of the pulse"),
        }  # fmt: skip
    if telemetry.get("temperature_c") is not None:
        entries["DET-TMP"] = (float(telemetry["temperature_c"]), "[degC] detector temperature")
    return entries


def given_keyword(name: str, value: Given, comment: str | None) -> tuple[KeywordValue, str]:
    """Return a keyword that a person gave, checked; true and false in their stream form.

    Raises
    ------
    InvalidArgument
        It does not fit the layout, or is one that the camera sets itself.
    """
    if name in COMPUTED:
        raise InvalidArgument(f"keyword {name} follows from the camera's state: it is not set")
    if isinstance(value, bool):
        value = _truth(value)
    if not isinstance(value, str | int | float) or value != value:
        raise InvalidArgument(f"keyword {name}: must be a number, true, false or a text")
    if not name.isascii() or not name.isprintable() or " " in name:
        raise InvalidArgument(f"keyword name {name!r}: printable characters without blanks only")
    encode_keyword(name, value, comment or "", 0)
    return value, comment or ""
