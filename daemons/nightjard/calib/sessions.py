# SPDX-License-Identifier: BSD-3-Clause
"""Sessions: which scripts are run in which order, as folders that the acquisition software takes.

``<outpath>/<session>/`` holds copies of the scripts and ``TEST_SEQUENCE_<session>.txt``, their
names in order. ``<outpath>/SESSIONS.json`` says how long each session takes and which bytes
belong to it: delivery and acquisition check against that.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from nightjar.calibration.catalogue import Catalogue, load_catalogue, meant
from nightjar.calibration.detector import Detector
from nightjar.calibration.script import Script
from nightjar.calibration.script_book import parse_script_name, read_script
from nightjar.config.load import StrictModel, load
from nightjar.errors import ConfigError, NightjarError, Refused, StorageError
from nightjard.calib.script_detector import detector_of
from nightjard.calib.staging import Published, publish, read_folder

MANIFEST = "SESSIONS.json"
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}\Z")
_SUM_LINE = re.compile(r"(\S.*?)\s*\t\s*([0-9a-f]{32})\s*\Z")


class SessionBuilder(StrictModel):
    """The file of ``calib sessions -j``."""

    inpath: str = Field(min_length=1, description="Folder of the scripts.")
    outpath: str = Field(min_length=1, description="Folder in which the sessions are made.")
    sessions: dict[str, list[str]] = Field(
        min_length=1, description="Session -> specific names of its tests, in order."
    )
    detector: str = Field(
        "", description="For the durations; empty: that for which the scripts were written."
    )
    camptype: str = Field("Full", description="Catalogue that knows which test needs which.")


@dataclass(frozen=True, slots=True)
class SessionTest:
    """A script in a session."""

    script: Script
    file: str
    sha256: str
    minutes: float


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it will be on disk."""

    name: str
    tests: tuple[SessionTest, ...]

    @property
    def minutes(self) -> float:
        """How long it takes."""
        return sum(test.minutes for test in self.tests)

    @property
    def frames(self) -> int:
        """Number of its frames."""
        return sum(test.script.frames for test in self.tests)

    @property
    def sequence(self) -> str:
        """Text of ``TEST_SEQUENCE_<session>.txt``."""
        return "".join(f"{test.file}\n" for test in self.tests)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, as the manifest keeps them."""
        serials = sorted(
            {
                f"{key} {value}"
                for test in self.tests
                for key, value in test.script.columns[0].values.items()
                if key.startswith("sn_") and value
            }
        )
        return {
            "session": self.name, "frames": self.frames, "minutes": round(self.minutes, 4),
            "serials": serials,
            "tests": [
                {"test": test.script.test, "handle": test.script.handle, "file": test.file,
                 "frames": test.script.frames, "minutes": round(test.minutes, 4),
                 "sha256": test.sha256}
                for test in self.tests
            ],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class SessionSet:
    """All sessions of a builder, not yet written.

    Attributes
    ----------
    contents
        Every file of the folder, those of other sessions in it included.
    seen
        What the folder holds now.
    changed
        Sessions that are there already and are something else.
    """

    folder: Path
    sessions: tuple[Session, ...]
    contents: Mapping[str, bytes]
    seen: Mapping[str, bytes]
    warnings: tuple[str, ...]
    changed: tuple[str, ...]

    def write(self, *, replace: bool = False, is_dry: bool = False) -> Published:
        """Write them in one step; dry: only what would be refused is.

        Raises
        ------
        Refused
            A session is there already and is something else, and `replace` is not given; or the
            folder holds more than sessions.
        """
        if self.changed and not replace:
            raise Refused(
                f"{self.folder}: there already and different: {', '.join(self.changed)}; look at "
                "calib sessions diff, then build with --replace, or into another folder"
            )
        own = {name.split("/")[0] for name in self.contents if "/" in name}
        return publish(
            self.folder, self.contents, replace=True, seen=self.seen, grown={MANIFEST},
            is_ours=lambda name: name == MANIFEST or ("/" in name and name.split("/")[0] in own),
            is_dry=is_dry,
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "folder": str(self.folder), "sessions": [one.as_json() for one in self.sessions],
            "warnings": list(self.warnings), "changed": list(self.changed),
        }  # fmt: skip


@dataclass
class _Source:
    """The scripts of a folder, each read and verified once."""

    folder: Path
    detector: Detector
    by_test: dict[str, list[str]]
    sums: dict[str, tuple[str, str]]
    warnings: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)
    tests: dict[str, SessionTest] = field(default_factory=dict)


def make_sessions(path: Path, *, out: Path | None = None) -> SessionSet:
    """Return the sessions that a builder file asks for; nothing is written yet.

    Tests are found by their exact name. Sessions that are in the folder already and that the
    file does not name stay as they are.

    Raises
    ------
    ConfigError
        A script is missing, is there more than once, or is not what its check sum says; every
        fault with the session and test, and what there is.
    """
    builder = load(path, SessionBuilder)
    source = _open_source(path, builder)
    catalogue = load_catalogue(builder.camptype)
    faults = [
        f"{path}: sessions.{name}: not a name for a session: letters, digits, - and _"
        for name in builder.sessions
        if not _SESSION.match(name)
    ]
    sessions = []
    for name, tests in builder.sessions.items():
        if not tests:
            faults.append(f"{path}: sessions.{name}: has no tests")
        found = []
        for index, test in enumerate(tests):
            try:
                found.append(_find(source, test, catalogue))
            except NightjarError as error:
                faults.append(f"{path}: sessions.{name}.{index}: {error.message}")
        sessions.append(Session(name, tuple(found)))
    if faults:
        raise ConfigError("\n".join(faults), faults=len(faults))
    folder = out or Path(builder.outpath)
    seen = read_folder(folder) if folder.is_dir() else {}
    contents = _contents(sessions, source.contents, folder, seen)
    warnings = source.warnings + _order_warnings(sessions, catalogue) + _serial_warnings(sessions)
    changed = tuple(one.name for one in sessions if _is_changed(one.name, seen, contents))
    return SessionSet(folder, tuple(sessions), contents, seen, tuple(warnings), changed)


# --- finding scripts ----------------------------------------------------------------------------


def _open_source(path: Path, builder: SessionBuilder) -> _Source:
    folder = Path(builder.inpath)
    if not folder.is_dir():
        raise ConfigError(
            f"{path}: inpath: {folder} is not a folder; write the scripts first: calib scripts",
            path=str(folder),
        )
    by_test: dict[str, list[str]] = {}
    for book in sorted(folder.glob("*.xlsx")):
        named = parse_script_name(book.name)
        if named:
            by_test.setdefault(named[0], []).append(book.name)
    detector, warnings = detector_of(folder, builder.detector, path)
    sums = read_sums(folder)
    if not sums:
        warnings.append(f"{folder} has no CHECK_SUMS: the scripts are taken as they are")
    return _Source(folder, detector, by_test, sums, warnings)


def read_sums(folder: Path) -> dict[str, tuple[str, str]]:
    """Return file name to (algorithm, sum) of all check sum files in a folder.

    Of a file with both, the sha256.
    """
    sums: dict[str, tuple[str, str]] = {}
    for path in sorted(folder.glob("CHECK_SUMS_*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = _SUM_LINE.match(line)
            if match is None:
                if not line.strip():
                    continue
                raise ConfigError(f"{path}:{number}: not a line of name, tab, md5: {line!r}")
            sums[match[1]] = ("md5", match[2])
    for path in sorted(folder.glob("CHECK_SUMS_*.sha256")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            digest, _, name = line.partition("  ")
            if not re.fullmatch(r"[0-9a-f]{64}", digest) or not name:
                raise ConfigError(f"{path}:{number}: not a line of sha256sum: {line!r}")
            sums[name] = ("sha256", digest)
    return sums


def _find(source: _Source, test: str, catalogue: Catalogue) -> SessionTest:
    names = source.by_test.get(test, [])
    if not names:
        if test in catalogue.handles and test not in catalogue.tests:
            several = ", ".join(catalogue.specific_names(test))
            hint = f"{test} stands for {several}: name one of them"
        else:
            hint = meant(test, source.by_test) if source.by_test else "the folder has no scripts"
        raise ConfigError(f"{test!r}: no script of this test in {source.folder}; {hint}")
    if len(names) > 1:
        raise ConfigError(
            f"{test!r}: {len(names)} scripts of this test in {source.folder}: {', '.join(names)}; "
            "leave one there"
        )
    if test not in source.tests:
        source.tests[test] = _read(source, names[0])
    return source.tests[test]


def _read(source: _Source, name: str) -> SessionTest:
    path = source.folder / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    if source.sums:
        kind, expected = source.sums.get(name, ("", ""))
        if not kind:
            raise ConfigError(f"{path}: has no check sum; write the scripts again")
        found = hashlib.new(kind, data, usedforsecurity=False).hexdigest()
        if found != expected:
            raise ConfigError(
                f"{path}: its {kind} is {found}, CHECK_SUMS says {expected}: changed after it was "
                "written; write the scripts again"
            )
    script = read_script(path)
    source.contents[name] = data
    return SessionTest(
        script, name, hashlib.sha256(data).hexdigest(), script.minutes(source.detector)
    )


# --- what goes where ----------------------------------------------------------------------------


def _contents(
    sessions: list[Session], scripts: Mapping[str, bytes], folder: Path, seen: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return all files of the folder: the new sessions, and those of its manifest as they are."""
    own = {session.name for session in sessions}
    manifest = {
        name: entry for name, entry in read_manifest(folder).items() if name not in own
    }  # fmt: skip
    contents = {name: data for name, data in seen.items() if name.split("/")[0] in manifest}
    for session in sessions:
        for test in session.tests:
            contents[f"{session.name}/{test.file}"] = scripts[test.file]
        contents[f"{session.name}/TEST_SEQUENCE_{session.name}.txt"] = session.sequence.encode()
        manifest[session.name] = session.as_json()
    text = json.dumps({"sessions": manifest}, indent=2, sort_keys=True, ensure_ascii=False)
    contents[MANIFEST] = (text + "\n").encode()
    return contents


def _is_changed(name: str, seen: Mapping[str, bytes], contents: Mapping[str, bytes]) -> bool:
    old, new = (
        {path: data for path, data in files.items() if path.startswith(f"{name}/")}
        for files in (seen, contents)
    )
    return bool(old) and old != new


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return session name to its entry of ``SESSIONS.json``; empty where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())["sessions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a manifest of sessions: {error}") from error
    if not isinstance(found, dict) or not all(map(_is_entry, found.values())):
        raise ConfigError(f"{path}: not a manifest of sessions; build them again")
    return found


def _is_entry(entry: Any) -> bool:
    """Whether something of a manifest is a session as :meth:`Session.as_json` gives it."""
    if not isinstance(entry, dict) or not isinstance(entry.get("tests"), list):
        return False
    keys = {"test", "file", "sha256", "frames", "minutes"}
    return {"session", "frames", "minutes", "serials"} <= entry.keys() and all(
        isinstance(test, dict) and keys <= test.keys() for test in entry["tests"]
    )


def _order_warnings(sessions: list[Session], catalogue: Catalogue) -> list[str]:
    """Return what a test needs and that does not come before it, in the order of the file."""
    seen: set[str] = set()
    all_handles = {test.script.handle for session in sessions for test in session.tests}
    warnings = []
    for session in sessions:
        for test in session.tests:
            handle = test.script.handle
            if handle in catalogue.handles:
                for needed in catalogue.definition(handle).needs:
                    if needed in seen:
                        continue
                    when = (
                        "comes only after it" if needed in all_handles else "is in none of these"
                    )
                    warnings.append(
                        f"session {session.name}: {test.script.test} needs {needed}, which {when}"
                    )
            seen.add(handle)
        names = [test.script.test for test in session.tests]
        for name in sorted({name for name in names if names.count(name) > 1}):
            warnings.append(f"session {session.name}: {name} is in it {names.count(name)} times")
    return warnings


def _serial_warnings(sessions: list[Session]) -> list[str]:
    """Return serial numbers of which the scripts have more than one."""
    found: dict[str, set[str]] = {}
    for session in sessions:
        for test in session.tests:
            for column in test.script.columns:
                for key, value in column.values.items():
                    if key.startswith("sn_"):
                        found.setdefault(key, set()).add(str(value))
    return [
        f"the scripts do not agree on {key}: {', '.join(sorted(values))}"
        for key, values in found.items()
        if len(values) > 1
    ]
