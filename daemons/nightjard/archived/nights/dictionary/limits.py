# SPDX-License-Identifier: BSD-3-Clause
"""What values of cards can be true: numbers within limits, texts of a form or out of a list."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal

from nightjar.fits.cards import Value
from nightjard.archived.nights.dictionary.formats import shown

DATA_TYPES = (
    "ACQUISITION", "BIAS", "COMPARISON", "DARK", "DOMEFLAT", "FLAT", "FOCUSING", "OBJECT",
    "SKYFLAT", "STANDARD", "TEST",
)  # fmt: skip
STATES = ("A", "B", "D", "NA")
DRIVEN = ("HIGH", "LOW", "UNKNOWN", "NA")

_CLOCK = (r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d*)?", "HH:MM:SS.sss")
_DAY = (r"(19|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", "YYYY-MM-DD")
_MOMENT = (rf"{_DAY[0]}T{_CLOCK[0]}", "YYYY-MM-DDTHH:MM:SS.sss")
_FORMS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("UT", "UT-STR", "UT-END", "HST", "HST-STR", "HST-END", "LST"), _CLOCK
    ),
    "DATE-OBS": (rf"{_DAY[0]}(T{_CLOCK[0]})?", "YYYY-MM-DD"),
    "DATE-BEG": _MOMENT, "DATE-AVG": _MOMENT, "DATE-END": _MOMENT,
    "RA": (r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d*)?", "HH:MM:SS.sss"),
    "DEC": (r"[+-]?[0-8]\d:[0-5]\d:[0-5]\d(\.\d*)?|[+-]?90:00:00(\.0*)?", "+DD:MM:SS.ss"),
    "FRAMEID": (r"[A-Z0-9_]{4}\d{8}", "four letters and eight digits"),
    "EXP-ID": (r"[A-Z0-9_]{3}E\d{8}", "three letters, E and eight digits"),
}  # fmt: skip
_COMPILED = {key: re.compile(form) for key, (form, _) in _FORMS.items()}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "DATA-TYP": DATA_TYPES, "U_FLC": STATES, "U_FLCDRV": DRIVEN, "TIMESYS": ("UTC",),
}  # fmt: skip
# Lowest and highest; both are allowed.
_RANGES: Mapping[str, tuple[float, float]] = {
    # MJD of 2000-01-01 and 2100-01-01: before lies an unset clock, behind a broken one.
    **dict.fromkeys(("MJD", "MJD-STR", "MJD-END"), (51544.0, 88069.0)),
    "FRATE": (0.0, 1e5), "MFRATE": (0.0, 1e5),
    "U_CAMERA": (1, 2), "GAIN": (1e-6, 1e4), "BIAS": (0.0, 65535.0), "DET-TMP": (-273.15, 400.0),
    **dict.fromkeys(("BIN-FCT1", "BIN-FCT2"), (1, 64)),
    **dict.fromkeys(("PRD-MIN1", "PRD-MIN2"), (0, 1 << 20)),
    **dict.fromkeys(("PRD-RNG1", "PRD-RNG2"), (1, 1 << 20)),
    **dict.fromkeys(("DETPXSZ1", "DETPXSZ2"), (1e-6, 1e3)),
    **dict.fromkeys(
        ("RET-ANG1", "RET-ANG2", "RET-POS1", "RET-POS2", "U_QWP1", "U_QWP2", "U_QWP1TH",
         "U_QWP2TH", "INST-PA", "D_IMRPAD", "D_IMRANG", "D_IMRPAP"), (-720.0, 720.0)
    ),
    "AZIMUTH": (-360.0, 720.0), "ALTITUDE": (-5.0, 95.0), "ZD": (-5.0, 95.0),
    "AIRMASS": (0.99, 60.0), "EQUINOX": (1900.0, 2100.0), "F-RATIO": (0.1, 1e4),
    # Limits of the trigger controller.
    "U_TRIGJT": (0, 1000), "U_TRIGOF": (0, 1_000_000), "U_TRIGPW": (0, 1_000_000),
}  # fmt: skip
_POSITIVE = {"EXPTIME": 86400.0}


def fault(key: str, value: Value) -> str:
    """Return what is wrong with a value; empty where nothing is, or nothing is known."""
    if isinstance(value, str):
        return _text_fault(key, value.strip(" "))
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return ""
    number = float(value)
    if key in _POSITIVE and not 0 < number <= _POSITIVE[key]:
        return f"{value} is not above 0 and at most {_POSITIVE[key]:g}"
    low, high = _RANGES.get(key, (-math.inf, math.inf))
    return "" if low <= number <= high else f"{value} is not within {low:g} and {high:g}"


def _text_fault(key: str, value: str) -> str:
    if not value:
        return ""  # not known yet
    choices = _CHOICES.get(key)
    if choices is not None and value not in choices:
        return f"{shown(value)} is none of {', '.join(choices)}"
    if key in _COMPILED and not _COMPILED[key].fullmatch(value):
        return f"{shown(value)} is not of the form {_FORMS[key][1]}"
    return ""
