# SPDX-License-Identifier: BSD-3-Clause
"""The scripts of a campaign: from a file of inputs to a folder of workbooks, all or none.

Beside the workbooks the folder holds ``CHECK_SUMS_<day>.txt`` (md5) and ``.sha256``,
``TESTS_INVENTORY_<day>.txt`` and ``TESTS_SCHEDULER_<day>.xlsx``.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nightjar import __version__
from nightjar.calibration.catalogue import Catalogue, expand_patterns, load_catalogue, meant
from nightjar.calibration.chamber import ChamberProfile, load_profile
from nightjar.calibration.detector import Detector, load_detector
from nightjar.calibration.script import ELVIS_VERSIONS, KEY_TABLE, Script
from nightjar.calibration.script_book import (
    date_stamp,
    parse_date_stamp,
    script_bytes,
    script_name,
    time_stamp,
    workbook_bytes,
)
from nightjar.config.load import StrictModel, load
from nightjar.errors import ConfigError, InvalidArgument, NightjarError
from nightjar.times import parse_iso
from nightjard.calib.staging import Published, publish, require_name

_REPEATED = re.compile(r"(.+)\.([1-9]\d?)\Z")
_OURS = re.compile(r"(vis_CalCamp_|CHECK_SUMS_|TESTS_(INVENTORY|SCHEDULER)_)[^/]*")
_DAY_NS = 86_400 * 10**9
Switch = Annotated[int, Field(ge=0, le=1)]
Override = str | int | float


class Equipment(StrictModel):
    """What is tested: serial numbers go into every script, and from there into every header."""

    sn_roe: str
    sn_rpsu: str
    operator: str = Field("unk", description="Nobody knows in advance: leave it at unk.")
    sn_ccd1: str
    sn_ccd2: str = ""
    sn_ccd3: str = ""


class ScriptInputs(StrictModel):
    """The file of ``calib scripts -j``."""

    equipment: Equipment
    elvis: str = Field(description="Version of the acquisition software: 7.5.X")
    CHAMBER: str = Field(description="Name of the chamber's profile.")
    camptype: str = Field(description="Kind of campaign: Full, Mini, MOT ...")
    outpath: str = Field(min_length=1, description="Folder that is made.")
    toWrite: dict[str, Switch] = Field(  # noqa: N815 - the name that everybody knows
        description="Handle, or HANDLE.k for its k-th repetition, -> 1 to write its scripts."
    )
    detector: str = Field("ccd273", description="Name of the detector's description.")
    overrides: dict[str, dict[str, Override]] = Field(
        default_factory=dict,
        description="Handle, or * for all, -> keys and the values that they have there.",
    )


@dataclass(frozen=True, slots=True)
class WrittenTest:
    """A test whose script is written."""

    script: Script
    minutes: float
    file: str
    md5: str
    sha256: str

    def line(self) -> str:
        """Return its line of the inventory."""
        frames = [column.frames for column in self.script.columns]
        return f"{self.script.test}: {len(frames)} [{self.minutes:.2f} min] cols: {frames}"

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "test": self.script.test, "handle": self.script.handle,
            "columns": [column.frames for column in self.script.columns],
            "frames": self.script.frames, "minutes": round(self.minutes, 4), "file": self.file,
            "md5": self.md5, "sha256": self.sha256,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScriptSet:
    """All scripts of a file of inputs, not yet written.

    Attributes
    ----------
    folder
        Where they are to go.
    contents
        File name to bytes.
    utc_ns
        The time that they bear.
    """

    folder: Path
    contents: Mapping[str, bytes]
    tests: tuple[WrittenTest, ...]
    utc_ns: int
    profile: ChamberProfile

    @property
    def frames(self) -> int:
        """Number of frames of all tests."""
        return sum(test.script.frames for test in self.tests)

    @property
    def minutes(self) -> float:
        """How long all tests take together."""
        return sum(test.minutes for test in self.tests)

    def write(self, *, replace: bool = False, is_dry: bool = False) -> Published:
        """Write the folder; one of other scripts is kept beside it where it is replaced.

        Dry: only what would be refused is.
        """
        return publish(
            self.folder, self.contents, replace=replace,
            is_ours=lambda name: _OURS.fullmatch(name) is not None, is_dry=is_dry,
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "folder": str(self.folder), "date": date_stamp(self.utc_ns),
            "profile": {"name": self.profile.name, "version": self.profile.version},
            "tests": [test.as_json() for test in self.tests],
            "frames": self.frames, "minutes": round(self.minutes, 4),
        }  # fmt: skip


def parse_date(text: str | None) -> tuple[int, int]:
    """Return the time that scripts bear, and the time whose chamber profile holds, ns UTC.

    Parameters
    ----------
    text
        ``01Apr19``, a date, or a date and time, ISO 8601 UTC; None: now. Of a day alone the scripts
        bear its beginning, and the profile is the one that holds at its end.
    """
    if text is None:
        now = time.time_ns() // 10**9 * 10**9
        return now, now
    try:
        if "-" not in text:
            begin = parse_date_stamp(text)
            return begin, begin + _DAY_NS - 1
        begin = parse_iso(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"--date: {error.message}; or write it like 2019-04-01") from error
    except ValueError as error:
        raise InvalidArgument(f"--date {text}: {error}; or write it like 01Apr19") from error
    return begin, begin if "T" in text else begin + _DAY_NS - 1


def make_scripts(path: Path, *, date: str | None = None, out: Path | None = None) -> ScriptSet:
    """Return the scripts that a file of inputs asks for; nothing is written yet.

    Raises
    ------
    ConfigError
        Whatever is wrong in the file or comes out of it; one line a fault.
    """
    inputs = load(path, ScriptInputs)
    folder = out or Path(inputs.outpath)
    require_name(folder)
    utc_ns, at_ns = parse_date(date)
    faults: list[str] = []
    catalogue = _tried(faults, path, "camptype", lambda: load_catalogue(inputs.camptype))
    profile = _tried(faults, path, "CHAMBER", lambda: load_profile(inputs.CHAMBER, at_ns=at_ns))
    detector = _tried(faults, path, "detector", lambda: load_detector(inputs.detector))
    if inputs.elvis not in ELVIS_VERSIONS:
        faults.append(
            f"{path}: elvis: {inputs.elvis!r}: must be one of {', '.join(ELVIS_VERSIONS)}"
        )
    if catalogue and detector:
        faults += _equipment_faults(inputs, catalogue, detector, path)
    if catalogue:
        faults += _handle_faults(inputs, catalogue, path)
    faults += _override_faults(inputs, path)
    _stop_at(faults)
    scripts = _expand(inputs, catalogue, profile, detector, path)
    tests, contents = _files(scripts, detector, utc_ns)
    contents |= _summaries(tests, utc_ns, folder, detector)
    return ScriptSet(folder, contents, tuple(tests), utc_ns, profile)


# --- checking -----------------------------------------------------------------------------------


def _tried(faults: list[str], path: Path, key: str, read: Callable[[], Any]) -> Any:
    """Return what is read; where that fails, None and one fault more."""
    try:
        return read()
    except NightjarError as error:
        faults.append(f"{path}: {key}: {error.message}")
        return None


def _stop_at(faults: list[str]) -> None:
    if faults:
        raise ConfigError("\n".join(faults), faults=len(faults))


def _equipment_faults(
    inputs: ScriptInputs, catalogue: Catalogue, detector: Detector, path: Path
) -> list[str]:
    faults = []
    seen: dict[str, str] = {}
    for key, value in inputs.equipment.model_dump().items():
        number = int(key[-1]) if key.startswith("sn_ccd") else 0
        if number > detector.ccds:
            if value:
                faults.append(
                    f"{path}: equipment.{key}: {value!r}: {detector.name} has {detector.ccds} CCD; "
                    "leave it out"
                )
            continue
        try:
            KEY_TABLE[key].check(value, f"{path}: equipment.{key}")
        except NightjarError as error:
            faults.append(error.message)
            continue
        pattern = catalogue.serials.get(key)
        if pattern and not re.fullmatch(pattern, value):
            faults.append(
                f"{path}: equipment.{key}: {value!r}: must be a serial number like "
                f"{_example(pattern)} (pattern {pattern})"
            )
        elif number and value and value in seen:
            faults.append(f"{path}: equipment.{key}: {value!r} is the serial of {seen[value]}, too")
        elif number:
            seen[value] = key
    return faults


def _override_faults(inputs: ScriptInputs, path: Path) -> list[str]:
    faults = []
    for handle, values in inputs.overrides.items():
        try:
            expand_patterns(values, f"overrides.{handle}")
        except NightjarError as error:
            faults += [f"{path}: {line}" for line in error.message.split("\n")]
    return faults


def _example(pattern: str) -> str:
    """Return a serial number of a pattern: of digits, and of the first of alternatives."""
    text = re.sub(r"\[0-9\]\{(\d)\}", lambda match: "123456789"[: int(match[1])], pattern)
    return re.sub(r"\((\w+)\|[^)]*\)", r"\1", text)


def _handle_faults(inputs: ScriptInputs, catalogue: Catalogue, path: Path) -> list[str]:
    faults = []
    for name, is_wanted in inputs.toWrite.items():
        match = _REPEATED.match(name)
        handle = match[1] if match else name
        where = f"{path}: toWrite.{name}"
        if handle not in catalogue.handles:
            if handle in catalogue.tests:
                hint = f"it comes with the handle {catalogue.handle_of(handle)}: write that"
            else:
                hint = meant(handle, catalogue.handles)
            faults.append(f"{where}: no such handle in the catalogue {catalogue.camptype}; {hint}")
        elif is_wanted and (surrogate := catalogue.definition(handle).surrogate):
            faults.append(f"{where}: has no script of its own, it analyses the frames of "
                          f"{surrogate}; say 0")  # fmt: skip
    for handle in inputs.overrides:
        if handle != "*" and handle not in catalogue.handles:
            faults.append(f"{path}: overrides.{handle}: {meant(handle, catalogue.handles)}")
    if not any(inputs.toWrite.values()):
        faults.append(f"{path}: toWrite: nothing is to be written; say 1 for a test")
    return faults


def _expand(
    inputs: ScriptInputs, catalogue: Catalogue, profile: ChamberProfile, detector: Detector,
    path: Path,
) -> list[Script]:  # fmt: skip
    faults: list[str] = []
    scripts: list[Script] = []
    equipment = inputs.equipment.model_dump()
    for name, is_wanted in inputs.toWrite.items():
        if not is_wanted:
            continue
        match = _REPEATED.match(name)
        handle = match[1] if match else name
        overrides = {**inputs.overrides.get("*", {}), **inputs.overrides.get(handle, {})}
        try:
            planned = catalogue.plan(
                handle, equipment=equipment, profile=profile, detector=detector,
                elvis=inputs.elvis, overrides=overrides,
                repetition=int(match[2]) if match else None,
            )  # fmt: skip
        except NightjarError as error:
            faults += [f"{path}: {name}: {line}" for line in error.message.split("\n")]
            continue
        scripts += [one.script for one in planned]
    _stop_at(faults)
    return scripts


# --- files --------------------------------------------------------------------------------------


def _files(
    scripts: list[Script], detector: Detector, utc_ns: int
) -> tuple[list[WrittenTest], dict[str, bytes]]:
    tests = []
    contents = {}
    for script in scripts:
        data = script_bytes(script, utc_ns)
        name = script_name(script.test, utc_ns, script.elvis)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        sha256 = hashlib.sha256(data).hexdigest()
        tests.append(WrittenTest(script, script.minutes(detector), name, md5, sha256))
        contents[name] = data
    return tests, contents


def _summaries(
    tests: list[WrittenTest], utc_ns: int, folder: Path, detector: Detector
) -> dict[str, bytes]:
    day = date_stamp(utc_ns)
    sums = f"CHECK_SUMS_{day}.txt"
    frames = sum(test.script.frames for test in tests)
    minutes = sum(test.minutes for test in tests)
    lines = [
        f"Scripts written on {time_stamp(utc_ns)}", f"checksumf: {sums}",
        f"vison version: nightjar {__version__}", "", *(test.line() for test in tests), "",
        f" {frames} Frames Total", "", f" {minutes:.2f} Minutes Total",
    ]  # fmt: skip
    meta: list[list[Any]] = [[]] * 4 + [
        ["date", time_stamp(utc_ns)], ["checksumfile", sums],
        ["version", f"nightjar {__version__}"], ["path", folder.name], ["Nframes", frames],
        ["Total_duration", f"{minutes:.2f}"], ["detector", detector.name],
    ]  # fmt: skip
    rows: list[list[Any]] = [["Test", "Ncols", "Nframes", "Duration_min"]]
    rows += [
        [test.script.test, len(test.script.columns), test.script.frames, f"{test.minutes:.2f}"]
        for test in tests
    ]
    return {
        sums: "".join(f"{test.file:<60}\t{test.md5}\n" for test in tests).encode(),
        f"CHECK_SUMS_{day}.sha256": "".join(
            f"{test.sha256}  {test.file}\n" for test in tests
        ).encode(),
        f"TESTS_INVENTORY_{day}.txt": ("\n".join(lines) + "\n").encode(),
        f"TESTS_SCHEDULER_{day}.xlsx": workbook_bytes({"Meta": meta, "Tests": rows}, utc_ns),
    }
