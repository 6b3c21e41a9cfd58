# SPDX-License-Identifier: BSD-3-Clause
"""Sessions handed over: copied and read back, announced by a mail draft, compared with others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from nightjar.calibration.script import Script
from nightjar.calibration.script_book import parse_script_name, read_script
from nightjar.errors import ConfigError, NightjarError, Refused, StorageError, storage_code
from nightjar.files import fsync_folder, rename_new, require_space, temporary_name
from nightjar.times import duration_text
from nightjard.calib.sessions import MANIFEST, read_manifest


@dataclass(frozen=True, slots=True)
class Delivered:
    """What was handed over."""

    folder: Path
    sessions: list[dict[str, Any]]
    copied: list[str]
    kept: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "folder": str(self.folder), "sessions": self.sessions, "copied": self.copied,
            "already_there": self.kept,
        }  # fmt: skip


def verified_sessions(source: Path, only: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the sessions of a folder by name, all their bytes checked against the manifest.

    Raises
    ------
    ConfigError
        There is no manifest, or a session that was asked for is not in it.
    Refused
        A file is missing, changed or too much; every one is named.
    """
    manifest = read_manifest(source)
    if not manifest:
        raise ConfigError(f"{source} has no {MANIFEST}; build the sessions: calib sessions -j FILE")
    wanted = list(only) or list(manifest)
    for name in wanted:
        if name not in manifest:
            raise ConfigError(f"no session {name!r} in {source}; it has {', '.join(manifest)}")
    faults = [fault for name in wanted for fault in _session_faults(source / name, manifest[name])]
    if faults:
        raise Refused("\n".join(faults), faults=len(faults))
    return {name: manifest[name] for name in wanted}


def _session_faults(folder: Path, entry: Mapping[str, Any]) -> list[str]:
    expected = {test["file"]: test["sha256"] for test in entry["tests"]}
    sequence = f"TEST_SEQUENCE_{folder.name}.txt"
    text = "".join(f"{test['file']}\n" for test in entry["tests"])
    expected[sequence] = hashlib.sha256(text.encode()).hexdigest()
    there = {path.name for path in _files_in(folder)} if folder.is_dir() else set()
    faults = [f"{folder / name}: is missing" for name in expected if name not in there]
    faults += [
        f"{folder / name}: does not belong to the session"
        for name in sorted(there - expected.keys())
    ]
    for name in sorted(there & expected.keys()):
        try:
            is_same = _sha256(folder / name) == expected[name]
        except OSError as error:
            faults.append(f"{folder / name}: cannot be read: {error.strerror}")
            continue
        if not is_same:
            faults.append(f"{folder / name}: is not what it was when the session was built")
    return faults


def _files_in(folder: Path) -> list[Path]:
    """Return what is in a folder without hidden files: an office that shows a book leaves one."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def deliver(source: Path, target: Path, only: Iterable[str] = ()) -> Delivered:
    """Copy sessions into a folder; every copy is read back and compared.

    What is there already with the same bytes is left; with other bytes it is refused, and
    nothing is copied.

    Raises
    ------
    Refused
        The source does not fit its manifest, or another file is in the way.
    StorageError
        A copy failed or came out different.
    """
    sessions = verified_sessions(source, only)
    files = [
        path.relative_to(source) for name in sessions for path in _files_in(source / name)
    ]
    try:
        kept = _there_already(source, target, files)
        missing = [name for name in files if name.as_posix() not in kept]
        target.mkdir(parents=True, exist_ok=True)
        need = sum((source / name).stat().st_size for name in missing)
        require_space(target, need + 2**20, "delivering sessions")
        # The sequence comes last: who sees it sees its scripts, too.
        for name in sorted(missing, key=lambda name: name.name.startswith("TEST_SEQUENCE_")):
            _copy(source / name, target / name)
    except OSError as error:
        raise StorageError(
            f"cannot deliver to {target}: {error.strerror or error}", code=storage_code(error),
            path=str(target),
        ) from error  # fmt: skip
    return Delivered(
        target.resolve(), list(sessions.values()), [name.as_posix() for name in missing], kept
    )


def _there_already(source: Path, target: Path, files: Iterable[Path]) -> list[str]:
    """Return the files that are there with the same bytes; Refused where one has others."""
    kept = []
    for name in files:
        place = target / name
        if not place.exists():
            continue
        is_file = place.is_file() and not place.is_symlink()
        if not is_file or _sha256(place) != _sha256(source / name):
            raise Refused(
                f"{place} is there already and differs; deliver into another folder, or move "
                "the old one away",
                path=str(place),
            )
        kept.append(name.as_posix())
    return kept


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(target)
    data = source.read_bytes()
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            # Let it be read from the disk, not from memory, where the system does so.
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if temporary.read_bytes() != data:
            raise StorageError(f"the copy {target} differs from {source}; is the disk well?")
        rename_new(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(target.parent)


def mail_draft(
    delivered: Delivered, utc_ns: int, *, sender: str = "", recipients: Iterable[str] = ()
) -> bytes:
    """Return an RFC 5322 message that tells the operators what was delivered.

    Programs open it as a draft (``X-Unsent``).
    """
    import datetime as dt

    names = ", ".join(entry["session"] for entry in delivered.sessions)
    message = EmailMessage(policy=policy.SMTP)
    message["Subject"] = f"Acquisition scripts: sessions {names}"
    for header, value in (("From", sender), ("To", ", ".join(recipients))):
        if "\n" in value or "\r" in value:
            raise ConfigError(f"mail draft: {header}: {value!r}: must be one line")
        if value:
            message[header] = value
    message["Date"] = format_datetime(dt.datetime.fromtimestamp(utc_ns // 10**9, dt.UTC))
    message["X-Unsent"] = "1"
    lines = [f"The scripts of these sessions are in {delivered.folder}", ""]
    serials: set[str] = set()
    for entry in delivered.sessions:
        length = duration_text(60 * entry["minutes"])
        lines.append(
            f"Session {entry['session']}: {summary(entry)} ({length})"
        )
        lines += [
            f"  {test['test']:<16} {test['frames']:4d} frames {test['minutes']:8.2f} min"
            for test in entry["tests"]
        ]
        lines.append("")
        serials.update(entry["serials"])
    lines += ["Hardware, please compare:", *(f"  {text}" for text in sorted(serials)), ""]
    lines.append("SHA-256 of the scripts:")
    sums = {test["file"]: test["sha256"] for entry in delivered.sessions for test in entry["tests"]}
    lines += [f"  {digest}  {name}" for name, digest in sorted(sums.items())]
    text = "\n".join(lines) + "\n"
    # Lines of check sums stay whole where nothing asks for another encoding.
    message.set_content(text, cte="7bit" if text.isascii() else None)
    return message.as_bytes()


def summary(entry: Mapping[str, Any]) -> str:
    """Return how much a session of the manifest is: tests, frames, minutes."""
    count = len(entry["tests"])
    return (
        f"{count} test{'s' * (count != 1)}, {entry['frames']} frames, {entry['minutes']:.2f} min"
    )


# --- comparing ----------------------------------------------------------------------------------


def compare(old: Path, new: Path) -> dict[str, Any]:
    """Return how two folders of sessions, or of scripts, differ.

    Returns
    -------
    dict
        ``sessions``: what was added, removed, or put into another order; ``tests``: test to the
        list of changes (column, key, old, new), and to "added" or "removed".
    """
    before, after = (_scripts_in(folder) for folder in (old, new))
    tests: dict[str, Any] = {}
    for test in [*before, *(name for name in after if name not in before)]:
        if test not in after:
            tests[test] = "removed"
        elif test not in before:
            tests[test] = "added"
        elif changes := script_changes(before[test], after[test]):
            tests[test] = changes
    orders = [_orders_in(folder) for folder in (old, new)]
    sessions = {
        name: {"old": orders[0].get(name), "new": orders[1].get(name)}
        for name in sorted(orders[0].keys() | orders[1].keys())
        if orders[0].get(name) != orders[1].get(name)
    }
    return {"sessions": sessions, "tests": tests}


def _scripts_in(folder: Path) -> dict[str, Script]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    found: dict[str, Script] = {}
    origin: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.xlsx")):
        named = parse_script_name(path.name)
        if named is None:
            continue
        script = read_script(path)
        other = found.setdefault(named[0], script)
        if other != script:
            raise ConfigError(
                f"{path} and {origin[named[0]]} are scripts of one test and differ; name the "
                "folder of one generation"
            )
        origin.setdefault(named[0], path)
    if not found:
        raise ConfigError(f"{folder} has no scripts (vis_CalCamp_*.xlsx)")
    return found


def _orders_in(folder: Path) -> dict[str, list[str]]:
    orders = {}
    for path in sorted(folder.rglob("TEST_SEQUENCE_*.txt")):
        try:
            names = path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise NightjarError(f"{path}: cannot be read: {error}") from error
        session = path.stem.removeprefix("TEST_SEQUENCE_")
        orders[session] = [(parse_script_name(name) or (name,))[0] for name in names]
    return orders


def script_changes(old: Script, new: Script) -> list[dict[str, Any]]:
    """Return what differs between two scripts of a test: column, key, old, new."""
    changes: list[dict[str, Any]] = []
    if len(old.columns) != len(new.columns):
        changes.append(
            {"column": "", "key": "columns", "old": len(old.columns), "new": len(new.columns)}
        )
    for one, other in zip(old.columns, new.columns, strict=False):
        pairs = {"frames": (one.frames, other.frames)} | {
            key: (one.values.get(key), other.values.get(key)) for key in one.values
        }
        changes += [
            {"column": one.name, "key": key, "old": pair[0], "new": pair[1]}
            for key, pair in pairs.items()
            if pair[0] != pair[1]
        ]
    return changes


def change_lines(changes: list[dict[str, Any]]) -> list[str]:
    """Return changes for people: of a key that differs in all columns alike, one line."""
    grouped: dict[tuple[str, Any, Any], list[str]] = {}
    for change in changes:
        grouped.setdefault((change["key"], change["old"], change["new"]), []).append(
            change["column"]
        )
    return [
        f"{key:<10} {old!s} -> {new!s}"
        + (f"  ({columns[0]}" + (f" .. {columns[-1]}" if len(columns) > 1 else "") + ")"
           if columns[0] else "")
        for (key, old, new), columns in grouped.items()
    ]  # fmt: skip
