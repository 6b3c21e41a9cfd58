# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong in a simulated session, and where: ``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``.

``test`` and ``frame`` (1-based within the test) say where; without them it is the first test and
the second frame. Faults of pixels and of commands that last (``stuck-bit``, ``dead-quadrant``,
``bias-jump``, ``wrong-serials``, ``exptime-error``) go on to the end of the test.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjar.calibration.elvis import load_elvis
from nightjar.calibration.housekeeping import HkTable
from nightjar.errors import ConfigError
from nightjar.times import NS_PER_S

#: Fault -> what it does, the keys that it takes besides test and frame, and their defaults.
FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "missing-file": ("the image of a CCD never comes", {"ccd": 2}),
    "truncated-file": ("the image of a CCD is cut short for good", {"ccd": 2, "keep": 0.6}),
    "missing-hk": ("an exposure has no housekeeping file", {}),
    "missing-frame": ("an exposure is neither logged nor written", {}),
    "missing-rows": ("an exposure is written, but not logged", {}),
    "wrong-serials": ("serials of another block in log and images", {"serial": "FM99"}),
    "wrong-elvis": ("the log has the columns of another version", {"version": "6.3.0"}),
    "aborted": ("the test ends after so many frames and is taken again", {"frames": 3}),
    "exptime-error": ("exposures are longer than commanded", {"percent": 1.0}),
    "stuck-bit": ("a bit of the converter stands", {"ccd": 1, "quadrant": "E", "bit": 4,
                                                    "state": 1}),
    "bias-jump": ("the offset jumps", {"ccd": 1, "quadrant": "F", "adu": 80}),
    "dead-quadrant": ("a quadrant gives one value", {"ccd": 3, "quadrant": "G", "value": 0}),
    "hk-spike": ("one row of a parameter is off", {"parameter": "CCD2_OD_T", "by": 4.0}),
    "hk-gap": ("rows are missing in the middle", {"seconds": 12.0}),
    "hk-stale": ("all values stand from the middle on", {}),
    "hk-stuck": ("a parameter stands", {"parameter": "CCD1_TEMP_T"}),
    "hk-stuck-bit": ("a bit of a parameter stands", {"parameter": "CCD3_IG1_B", "bit": 3}),
    "hk-flag": ("a flag is up", {"parameter": "VccdErrFlg", "value": 1.0}),
    "hk-ramp": ("a parameter drifts away", {"parameter": "CCD2_TEMP_B", "to": -134.0,
                                            "seconds": 600.0}),
    "two-logs": ("a second log of the day is begun with this frame", {}),
    "overnight": ("midnight comes before this frame, which begins a new log and master", {}),
    "late-files": ("files come this many frames after the log row", {"frames": 1}),
    "partial-files": ("the first half of a file is there before the rest", {"frames": 1}),
    "obsid-jump": ("OBSIDs leave out some", {"count": 5}),
}  # fmt: skip
_RANGES: dict[str, tuple[float, float]] = {
    "frame": (1, 10**6), "ccd": (1, 99), "keep": (0, 1), "frames": (1, 10**6),
    "percent": (-99, 1000), "bit": (0, 15), "state": (0, 1), "adu": (-65535, 65535),
    "value": (0, 65535), "by": (-1e6, 1e6), "seconds": (1e-3, 1e6), "to": (-1e6, 1e6),
    "count": (1, 10**6),
}  # fmt: skip
"""What the numbers of faults may be, both ends included."""
_LASTING = {"stuck-bit", "bias-jump", "dead-quadrant", "wrong-serials", "exptime-error", "hk-ramp"}
_OF_TEST = {"late-files", "partial-files", "wrong-serials", "exptime-error"}
"""Without ``frame`` these begin with the first one of the test."""

Frame = NDArray[np.uint16]


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes
    ----------
    test
        Specific name; empty: the first one of the session.
    frame
        1-based within the test.
    """

    name: str
    test: str
    frame: int
    arguments: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.arguments[key]

    def is_at(self, test: str, frame: int) -> bool:
        """Whether it is in force at a frame (1-based) of a test."""
        if test != self.test:
            return False
        return frame >= self.frame if self.name in _LASTING | _OF_TEST else frame == self.frame

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self) | {"arguments": dict(self.arguments)}


def parse_fault(text: str) -> Fault:
    """Return the fault of a text ``NAME:KEY=VALUE,...``.

    Raises
    ------
    ConfigError
        There is none of that name, or it has no such key, or the value is of another type.
    """
    name, _, rest = text.partition(":")
    if name not in FAULTS:
        near = difflib.get_close_matches(name, FAULTS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(FAULTS)}"
        raise ConfigError(f"no fault {name!r}; {hint}")
    arguments = dict(FAULTS[name][1])
    place: dict[str, Any] = {"test": "", "frame": 1 if name in _OF_TEST else 2}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        target = place if key in place else arguments
        if not equals or key not in target:
            keys = ", ".join((*place, *arguments))
            raise ConfigError(f"fault {text!r}: {part!r} must be KEY=VALUE with a key of {keys}")
        try:
            target[key] = type(target[key])(value)
        except ValueError:
            raise ConfigError(
                f"fault {text!r}: {key} must be {_KINDS[type(target[key])]}, not {value!r}"
            ) from None
        low, high = _RANGES.get(key, (0, 0))
        if key in _RANGES and not low <= target[key] <= high:
            raise ConfigError(f"fault {text!r}: {key} must be {low:g} to {high:g}, not {value!r}")
    return Fault(name, place["test"], place["frame"], arguments)


_KINDS = {int: "a whole number", float: "a number", str: "a text"}


def parse_faults(texts: Iterable[str], tests: list[str]) -> list[Fault]:
    """Return faults with their tests filled in; ConfigError where a test is not in the session."""
    found = []
    for text in texts:
        fault = parse_fault(text)
        if fault.test and fault.test not in tests:
            raise ConfigError(
                f"fault {text!r}: the session has no test {fault.test}; it has {', '.join(tests)}"
            )
        found.append(dataclasses.replace(fault, test=fault.test or tests[0]))
    return found


def require_effect(
    faults: Iterable[Fault], frames: Mapping[str, int], detector: Detector, elvis: str
) -> None:
    """Raise ConfigError where a fault cannot be: before anything is made.

    Parameters
    ----------
    frames
        Test -> number of its frames.
    elvis
        Version whose housekeeping is written.
    """
    parameters = load_elvis(elvis).housekeeping[1:]
    for fault in faults:
        where = f"fault {fault.name}"
        count = frames[fault.test]
        if fault.frame > count:
            raise ConfigError(f"{where}: {fault.test} has frames 1..{count}, not {fault.frame}")
        if fault.name == "aborted" and count < 2:
            raise ConfigError(f"{where}: {fault.test} has one frame: nothing is left to abort")
        if fault.arguments.get("ccd", 1) not in detector.ccd_numbers:
            raise ConfigError(
                f"{where}: {detector.name} has {detector.ccds} CCD, none is {fault['ccd']}"
            )
        quadrant = fault.arguments.get("quadrant", detector.names[0])
        if quadrant not in detector.quadrants:
            raise ConfigError(
                f"{where}: no quadrant {quadrant}; there are: {', '.join(detector.names)}"
            )
        parameter = fault.arguments.get("parameter")
        if parameter is not None and parameter not in parameters:
            near = difflib.get_close_matches(parameter, parameters, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{where}: housekeeping has no {parameter}{hint}")
        if fault.name == "wrong-elvis":
            load_elvis(fault["version"])


# --- pixels ---


def spoil_frame(fault: Fault, detector: Detector, ccd: int, frame: Frame) -> None:
    """Change the frame of a CCD in place, as far as the fault is one of pixels and of this CCD."""
    if fault.name not in ("stuck-bit", "bias-jump", "dead-quadrant") or ccd != fault["ccd"]:
        return
    quadrant = detector.canonical(frame, fault["quadrant"])
    if fault.name == "stuck-bit":
        bit = np.uint16(1 << fault["bit"])
        if fault["state"]:
            np.bitwise_or(quadrant, bit, out=quadrant)
        else:
            np.bitwise_and(quadrant, ~bit, out=quadrant)
    elif fault.name == "dead-quadrant":
        quadrant[...] = fault["value"]
    else:
        moved = quadrant.astype(np.int32) + fault["adu"]
        quadrant[...] = np.clip(moved, 0, detector.saturation_adu).astype(np.uint16)


# --- commands ---


def executed_values(faults: Iterable[Fault], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is executed and logged in place of what the script says."""
    executed = dict(values)
    for fault in faults:
        if fault.name == "exptime-error":
            executed["exptime"] = round(float(values["exptime"]) * (1 + fault["percent"] / 100), 6)
        elif fault.name == "wrong-serials":
            for key in ("sn_roe", "sn_rpsu", "sn_ccd1", "sn_ccd2", "sn_ccd3"):
                executed[key] = fault["serial"]
    return executed


# --- housekeeping ---


def spoil_housekeeping(fault: Fault, table: HkTable, began_ns: int) -> HkTable:
    """Return the rows of an exposure as a fault leaves them.

    Parameters
    ----------
    began_ns
        When the first frame with this fault began, for what drifts.
    """
    if not fault.name.startswith("hk-"):
        return table
    times, values = table.times_ns, table.values.copy()
    middle = len(table) // 2
    if fault.name == "hk-gap":
        keep = np.abs(times - times[middle]) > fault["seconds"] / 2 * NS_PER_S
        return dataclasses.replace(table, times_ns=times[keep], values=values[keep])
    if fault.name == "hk-stale":
        values[middle:] = values[middle]
        return dataclasses.replace(table, values=values)
    column = table.names.index(fault["parameter"])
    if fault.name == "hk-spike":
        values[middle, column] += fault["by"]
    elif fault.name == "hk-stuck":
        values[:, column] = values[0, column]
    elif fault.name == "hk-stuck-bit":
        counts = np.rint(values[:, column] * 1000).astype(np.int64) | (1 << fault["bit"])
        values[:, column] = counts / 1000
    elif fault.name == "hk-flag":
        values[:, column] = fault["value"]
    elif fault.name == "hk-ramp":
        part = np.clip((times - began_ns) / NS_PER_S / fault["seconds"], 0.0, 1.0)
        values[:, column] += part * (fault["to"] - values[0, column])
    return dataclasses.replace(table, values=values)
