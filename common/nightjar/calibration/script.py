# SPDX-License-Identifier: BSD-3-Clause
"""An acquisition script: what the acquisition software is told for every frame of a test.

A script is a list of columns; each column is a number of frames that are taken with the same
values of some 70 keys. This module knows the keys (of ELVIS 7.5.X), their defaults, units and
safe ranges, how long a frame takes, and what the exposure log must say about it afterwards.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nightjar.calibration.detector import Detector
from nightjar.calibration.elvis import load_elvis, log_values
from nightjar.errors import Code, InvalidArgument, Refused

Value = str | int | float
Kind = Literal["int", "float", "text"]
ELVIS_VERSIONS = ("6.5.X", "7.2.X", "7.5.X")
"""Versions of the acquisition software whose scripts and logs have these keys."""

_PIXEL_S = 14.3e-6
"""Time to read one pixel."""
_OVERHEAD_S = 20.0
"""Time between two frames: header, transfer, housekeeping."""
_CLOCKED_OVERSCAN = 29
"""Overscan that the planning of ccd273 counts: the flight format's, not the 20 px of the ground."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a script.

    Attributes
    ----------
    low, high
        Safe range, ends included; None for text.
    choices
        What else is allowed: only these.
    """

    name: str
    default: Value
    unit: str = ""
    meaning: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] = ()

    @property
    def kind(self) -> Kind:
        """Type of its values."""
        if isinstance(self.default, str):
            return "text"
        return "float" if isinstance(self.default, float) else "int"

    @property
    def allowed(self) -> str:
        """What is allowed, for people."""
        if self.choices:
            return "one of " + ", ".join(str(choice) for choice in self.choices)
        if self.kind == "text":
            return "a text of one line, at most 80 characters"
        what = "a whole number" if self.kind == "int" else "a number"
        return f"{what} {self.low:g}..{self.high:g}{self.unit and ' ' + self.unit}"

    def check(self, value: object, where: str) -> Value:
        """Return a value in the key's type.

        Raises
        ------
        InvalidArgument
            Wrong type.
        Refused
            Outside the safe range.
        """
        if self.kind == "text":
            if not isinstance(value, str) or len(value) > 80 or not value.isprintable():
                raise InvalidArgument(f"{where}: {value!r}: must be {self.allowed}")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidArgument(f"{where}: {value!r}: must be {self.allowed}")
        elif not math.isfinite(value) or (self.kind == "int" and value != int(value)):
            raise InvalidArgument(f"{where}: {value!r}: must be {self.allowed}")
        else:
            # Sums like 47.2 + 0.2 leave dust behind the 6th decimal: below what anything resolves.
            value = int(value) if self.kind == "int" else round(float(value), 6)
            if self.low is not None and not self.low <= value <= (self.high or 0.0):
                raise Refused(
                    f"{where}: {value:g}: out of the safe range; must be {self.allowed}",
                    code=Code.OUT_OF_RANGE, key=self.name, low=self.low, high=self.high,
                )  # fmt: skip
        if self.choices and value not in self.choices:
            raise InvalidArgument(f"{where}: {value!r}: must be {self.allowed}")
        return value


def _volts(names: str, default: float, low: float, high: float, meaning: str) -> list[Key]:
    return [Key(name, default, "V", meaning, low, high) for name in names.split()]


def _switch(name: str, default: int, meaning: str) -> Key:
    return Key(name, default, "", meaning, 0, 1)


_TABLE: list[Key] = [
    Key("frames", 1, "", "frames of the column", 1, 9999),
    Key("program", "CALCAMP", "", "name of the programme"),
    Key("test", "", "", "name of the test"),
    *_volts("IDL", 13.0, -0.3, 25, "injection drain, low"),
    *_volts("IDH", 18.0, -0.3, 25, "injection drain, high"),
    *_volts("IG1_1_T IG1_2_T IG1_3_T IG1_1_B IG1_2_B IG1_3_B", 6.0, -20, 20, "injection gate 1"),
    *_volts("IG2_T IG2_B", 2.0, -20, 20, "injection gate 2"),
    *_volts("OD_1_T OD_2_T OD_3_T OD_1_B OD_2_B OD_3_B", 26.0, -0.3, 30, "output drain"),
    *_volts("RD_T RD_B", 16.0, -0.3, 25, "reset drain"),
    _switch("IPHI1", 1, "phase 1 high during integration"),
    _switch("IPHI2", 1, "phase 2 high during integration"),
    _switch("IPHI3", 1, "phase 3 high during integration"),
    _switch("IPHI4", 0, "phase 4 high during integration"),
    Key("rdmode", "fwd_bas", "", "read-out mode", choices=(
        "fwd_bas", "fwd_e2v", "rwd_bas_v", "rwd_bas_s", "rwd_bas_vs")),
    Key("flushes", 7, "", "flushes before the exposure", 0, 1000),
    _switch("siflsh", 1, "serial flush"),
    Key("siflsh_p", 500, "ms", "length of the serial flush", 0, 60000),
    Key("swellw", 8.4, "us", "summing well, width", 0, 14.3),
    Key("swelldly", 5.625, "us", "summing well, delay", 0, 14.3),
    _switch("inisweep", 1, "initial sweep"),
    Key("vstart", 0, "row", "first row read", 0, 65535),
    Key("vend", 2086, "row", "row after the last one read", 1, 65535),
    Key("toi_fl", 143, "us", "quarter of a line transfer in a flush", 1, 65535),
    Key("toi_tp", 1000, "us", "quarter of a line transfer in trap pumping", 1, 65535),
    Key("toi_ro", 1000, "us", "quarter of a line transfer in read-out", 1, 65535),
    Key("toi_ch", 1000, "us", "quarter of a line transfer in charge injection", 1, 65535),
    _switch("chinj", 0, "charge injection"),
    Key("chinj_on", 1, "row", "rows injected in a row", 0, 65535),
    Key("chinj_of", 1, "row", "rows not injected in a row", 0, 65535),
    Key("id_wid", 100, "us", "width of the injection pulse", 0, 65535),
    Key("id_dly", 1500, "us", "delay of the injection pulse", 0, 65535),
    Key("chin_dly", 0, "", "lines read per injected row", 0, 65535),
    _switch("s_tpump", 0, "serial trap pumping"),
    Key("s_tpmod", 23, "", "serial pumping mode", choices=(23, 31)),
    _switch("v_tpump", 0, "vertical trap pumping"),
    Key("v_tpmod", 123, "", "vertical pumping mode", choices=(123, 234, 341, 412)),
    Key("s_tp_cnt", 1000, "", "serial shuffles", 0, 65535),
    Key("v_tp_cnt", 1000, "", "vertical shuffles", 0, 65535),
    Key("dwell_v", 0.0, "us", "dwell of vertical pumping", 0, 65535),
    Key("dwell_s", 0.0, "us", "dwell of serial pumping", 0, 65535),
    Key("exptime", 0.0, "s", "exposure", 0, 14400),
    _switch("shuttr", 1, "shutter opens"),
    _switch("e_shuttr", 0, "electronic shutter"),
    _switch("mirr_on", 0, "mirror moves"),
    Key("mirr_pos", 70.0, "mm", "position of the mirror", 0, 100),
    Key("wave", 4, "", "slot of the filter wheel", 1, 6),
    _switch("motr_on", 0, "source dithers"),
    Key("motr_cnt", 2, "", "steps of the dither", 0, 1000),
    Key("motr_siz", 50, "um", "size of a step of the dither", 0, 10000),
    Key("source", "flat", "", "light source", choices=("flat", "point")),
    Key("operator", "unk", "", "who runs the test"),
    Key("sn_ccd1", "", "", "serial of CCD 1"),
    Key("sn_ccd2", "", "", "serial of CCD 2"),
    Key("sn_ccd3", "", "", "serial of CCD 3"),
    Key("sn_roe", "", "", "serial of the read-out electronics"),
    Key("sn_rpsu", "", "", "serial of the power supply"),
    Key("comments", "", "", "what the column is for"),
    Key("roe-tab", "hrdstart", "", "table of the read-out electronics"),
]  # fmt: skip
KEY_TABLE: dict[str, Key] = {key.name: key for key in _TABLE}
KEYS: tuple[str, ...] = tuple(KEY_TABLE)
"""The 70 keys in the order of the workbook."""
DEFAULTS: dict[str, Value] = {key.name: key.default for key in _TABLE}

SUMMING_WELL: dict[str, tuple[float, float]] = {
    "fwd_bas": (8.4, 5.625), "fwd_e2v": (7.15, 6.725), "rwd_bas_v": (8.4, 5.625),
    "rwd_bas_s": (6.5, 0.175), "rwd_bas_vs": (6.5, 0.175),
}  # fmt: skip
"""Width and delay of the summing well, us, that belong to a read-out mode."""

def key_of(name: str, where: str) -> Key:
    """Return a key; InvalidArgument, with what may have been meant, where there is none."""
    key = KEY_TABLE.get(name)
    if key is None:
        near = difflib.get_close_matches(name, KEYS, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; keys are: {', '.join(KEYS)}"
        raise InvalidArgument(f"{where}: unknown key {name!r}{hint}")
    return key


@dataclass(frozen=True, slots=True)
class Column:
    """Frames that are taken with the same values.

    Attributes
    ----------
    name
        ``col001`` and on.
    frames
        How many.
    values
        Of every key but ``frames``.
    """

    name: str
    frames: int
    values: Mapping[str, Value] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Script:
    """A test as it is acquired.

    Attributes
    ----------
    test
        Specific name: ``FOCUS00_800``; ``BIAS01.2`` is the second time that BIAS01 is taken.
    handle
        Name in the catalogue: ``FOCUS00``.
    elvis
        Version of the acquisition software.
    """

    test: str
    handle: str
    elvis: str
    columns: tuple[Column, ...]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return sum(column.frames for column in self.columns)

    def seconds(self, detector: Detector) -> float:
        """Return how long the test takes, s."""
        return sum(
            column.frames * frame_seconds(column.values, detector) for column in self.columns
        )

    def minutes(self, detector: Detector) -> float:
        """Return how long the test takes, minutes."""
        return self.seconds(detector) / 60.0

    def column_of_frame(self, frame: int) -> int:
        """Return the index of the column of a frame, both from 0; InvalidArgument outside."""
        left = frame
        for index, column in enumerate(self.columns):
            if 0 <= left < column.frames:
                return index
            left -= column.frames
        raise InvalidArgument(f"{self.test} has frames 0..{self.frames - 1}, not {frame}")


def frame_seconds(values: Mapping[str, Value], detector: Detector) -> float:
    """Return how long one frame takes, s: exposure, flush, read-out, injection, pumping, overhead.

    The model of the planning of the ground campaign; flushes count once whatever ``flushes`` says.
    A detector whose description tells its time of read-out takes that and the exposure.
    """
    if detector.readout_s is not None:
        return float(values.get("exptime", DEFAULTS["exptime"])) + detector.readout_s

    def number(key: str) -> float:
        return float(values.get(key, DEFAULTS[key]))

    overscan = _CLOCKED_OVERSCAN if detector.name.startswith("ccd273") else detector.overscan
    line_s = _PIXEL_S * (detector.prescan + detector.image_columns + overscan)
    rows = detector.image_rows
    read_rows = number("vend") - number("vstart")
    seconds = number("exptime") + _OVERHEAD_S
    if number("siflsh"):
        seconds += number("siflsh_p") * 1e-3
    seconds += rows * 4 * number("toi_fl") * 1e-6
    seconds += read_rows * (4 * number("toi_ro") * 1e-6 + line_s)
    if number("chinj") or number("s_tpump") or number("v_tpump"):
        seconds += rows * (4 * number("toi_ch") * 1e-6 + line_s * number("chin_dly"))
    if number("s_tpump"):
        dwell_s = 2 * _PIXEL_S + number("dwell_s") * 1e-6
        seconds += read_rows * dwell_s * number("s_tp_cnt")
    if number("v_tpump"):
        shuffle_s = (4 * number("toi_tp") + number("dwell_v")) * 1e-6
        seconds += shuffle_s * number("v_tp_cnt")
    return seconds


def expected_log_rows(script: Script) -> list[dict[str, Value | None]]:
    """Return what the exposure log must say, one table a frame, in order of acquisition.

    By the names of the log and typed as there; who operates is left out, for nobody knows that
    when a script is written.
    """
    version = load_elvis(script.elvis)
    rows = []
    for column in script.columns:
        row = log_values(column.values, version)
        row.pop("operator", None)
        rows += [row] * column.frames
    return rows
