# SPDX-License-Identifier: BSD-3-Clause
"""Header, name and sidecars of files brought to the IDs that they should have, all or nothing.

The new names may be a permutation of the old ones, so it is done in two phases: first every file
leaves its old name for a hidden one (with its new header already), then every file takes its new
name. A journal in the folder says what is meant; it is written before the first change and closed
after the last, and whoever comes next completes what it says. No rename replaces a file, and a file
that was copied goes only after its copy has been read back.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nightjar.clock import Clock, SystemClock
from nightjar.errors import Refused, StorageError
from nightjar.files import (
    TEMPORARY_SUFFIX,
    fsync_folder,
    rename_new,
    require_space,
    write_durably,
    write_json_durably,
)
from nightjar.times import file_stamp
from nightjard.archived.nights.ids import changes
from nightjard.archived.nights.ids.existing import Row, check, expanded
from nightjard.archived.nights.ids.header import require_patchable, write_patched
from nightjard.archived.nights.ids.names import ending, exp_id, parse_file_name

JOURNAL = ".ids-fix.json"
FORMAT = "nightjar-ids-fix-1"
_PARK, _PLACE = "park", "place"
_MARGIN_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Change:
    """One file that is changed.

    Attributes
    ----------
    folder
        Where it lies.
    old, new
        File names.
    old_id, new_id
        Frame IDs, in the header before and after; `old_id` may be "".
    sidecars
        (old, new) names of the files that go with it.
    is_patched
        Whether its header changes, and so its hash.
    """

    folder: Path
    old: str
    new: str
    old_id: str
    new_id: str
    sidecars: tuple[tuple[str, str], ...]
    is_patched: bool


@dataclass
class _Entry:
    """A file in the journal; `size` and `mtime_ns` tell the right one from another."""

    old: str
    new: str
    parked: str
    size: int
    mtime_ns: int
    frame_id: str
    is_patched: bool


def fix(
    files: Iterable[Path], *, dry_run: bool = False, clock: Clock | None = None
) -> list[Change]:
    """Give files the IDs that :func:`~nightjard.archived.nights.ids.existing.check` expects.

    What an interrupted call left is completed first. Files whose ID cannot be told (unreadable,
    doubled, none) are left as they are; `check` names them.

    Parameters
    ----------
    files
        ``.fits`` and ``.fits.fz``, of any number of folders; a folder stands for those in it, also
        for those that an interrupted call has hidden.
    dry_run
        Only tell what would be done.

    Raises
    ------
    Refused
        A new name is that of a file that stays; a file is damaged; another program is at it, or,
        with `dry_run`, an interrupted call is to be completed.
    StorageError
        A file cannot be read or written. Call again when that has been mended.
    """
    clock = clock or SystemClock()
    folders: dict[Path, list[Path]] = {}
    for file in map(Path, files):
        if file.is_dir():
            folders.setdefault(file, []).extend(expanded(file))
        else:
            folders.setdefault(file.parent, []).append(file)
    done = []
    for folder, paths in sorted(folders.items()):
        if dry_run:
            if (folder / JOURNAL).exists():
                raise Refused(f"{folder}: an earlier fix of frame IDs was interrupted; complete it")
            done += _planned(folder, check(paths))
            continue
        with _held(folder):
            if complete(folder, clock=clock):
                paths = expanded(folder)  # names have just changed
            planned = _planned(folder, check(paths))
            if planned:
                _begin(folder, planned, clock.now_ns())
                complete(folder, clock=clock)
            done += planned
    return done


def take_up(folder: Path, *, clock: Clock | None = None) -> bool:
    """Complete what an interrupted call left in a folder; False where there was nothing.

    Errors as :func:`fix`.
    """
    if not (folder / JOURNAL).exists():
        return False
    with _held(folder):
        return complete(folder, clock=clock)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder against another fix; the kernel lets go when the program ends."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"cannot open {folder}: {error.strerror}", path=str(folder)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Refused(f"{folder}: another program is changing frame IDs there") from error
        yield
    finally:
        os.close(descriptor)


# --- what to do ---


def _planned(folder: Path, rows: Sequence[Row]) -> list[Change]:
    """Return the changes of one folder.

    Raises
    ------
    Refused
        A new name is taken by a file that stays.
    """
    wrong = [row for row in rows if row.expected and not row.is_right]
    if not wrong:
        return []
    names = set(os.listdir(folder))
    sidecars = _sidecars(names)
    planned = [_change(row, sidecars) for row in wrong]
    pairs = [pair for one in planned for pair in ((one.old, one.new), *one.sidecars)]
    leaving = {old for old, _ in pairs}
    arriving: set[str] = set()
    for old, _ in pairs:
        if not (folder / old).is_file() or (folder / old).is_symlink():
            raise Refused(f"{folder / old} is not a plain file: not renamed", path=str(folder))
    if len(leaving) < len(pairs):
        twice = next(old for old, count in Counter(old for old, _ in pairs).items() if count > 1)
        raise Refused(
            f"{folder}: {twice} goes with two files that get different IDs; move one of the three "
            f"away", path=str(folder),
        )  # fmt: skip
    for old, new in pairs:
        if new in arriving or (new in names and new not in leaving):
            raise Refused(
                f"{folder}: {old} should become {new}, but there is such a file and it stays; look "
                f"at both, move one away", path=str(folder),
            )  # fmt: skip
        arriving.add(new)
    return planned


def _sidecars(names: Iterable[str]) -> dict[str, list[str]]:
    """Return, by the name of a FITS file without its ending, the files that go with it."""
    ordered = sorted(names)
    stems = {name.removesuffix(ending(name)) for name in ordered if ending(name)}
    result: dict[str, list[str]] = {stem: [] for stem in stems}
    for name in ordered:
        parts = name.split(".")
        # Of `a.fits` and `a.b.fits` the second one has `a.b.txt`.
        longer = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
        stem = next((stem for stem in longer if stem in stems), None)
        if stem is not None and not ending(name):
            result[stem].append(name)
    return result


def _change(row: Row, sidecars: Mapping[str, list[str]]) -> Change:
    end = ending(row.file.name)
    stem = row.file.name.removesuffix(end)
    going = tuple((name, row.expected + name.removeprefix(stem)) for name in sidecars[stem])
    is_patched = (row.frame_id, row.exp_id) != (row.expected, exp_id(row.expected))
    return Change(
        row.file.parent, row.file.name, row.expected + end, row.frame_id, row.expected,
        going, is_patched,
    )  # fmt: skip


def _begin(folder: Path, planned: Sequence[Change], now_ns: int) -> None:
    """Write the journal; from here on the changes are meant."""
    for one in planned:
        if one.is_patched:  # one that cannot be changed must not stop the others half-way
            require_patchable(folder / one.old, _values(one.new_id))
    entries: list[_Entry] = []
    for one in planned:
        for old, new in ((one.old, one.new), *one.sidecars):
            stat = (folder / old).lstat()
            entries.append(_Entry(
                old, new, f".ids-fix-{len(entries):06d}.parked", stat.st_size, stat.st_mtime_ns,
                one.new_id, one.is_patched and old == one.old,
            ))  # fmt: skip
    largest = max((entry.size for entry in entries if entry.is_patched), default=0)
    require_space(folder, largest + _MARGIN_BYTES, "frame IDs")
    write_json_durably(folder / JOURNAL, {
        "format": FORMAT, "phase": _PARK, "begun_ns": now_ns,
        "entries": [asdict(entry) for entry in entries],
        "name_changes": _new_list(folder, planned),
    })  # fmt: skip


def _values(frame_id: str) -> dict[str, str]:
    return {"FRAMEID": frame_id, "EXP-ID": exp_id(frame_id)}


def _new_list(folder: Path, planned: Sequence[Change]) -> list[list[str]] | None:
    """Return the pairs of the list of old names after the change; None where it stays."""
    pairs = changes.read_name_changes(folder)
    renamed = {f"{one.old.removesuffix(ending(one.old))}.fits": f"{one.new_id}.fits"
               for one in planned}  # fmt: skip
    # A file that has an old name yet may be in the list: the list is written before the rename.
    first = {old for old in renamed if not parse_file_name(old)}
    result = [[old, renamed[old] if old in first else renamed.get(new, new)] for old, new in pairs]
    listed = {old for old, _ in pairs}
    result += [[old, new] for old, new in renamed.items() if old in first and old not in listed]
    return None if result == [list(pair) for pair in pairs] else result


# --- doing it ---


def complete(folder: Path, *, clock: Clock | None = None) -> bool:
    """Bring an interrupted fix to its end; False where there was none.

    Raises
    ------
    StorageError
        A file of the journal is not where it must be, or something cannot be written. The journal
        stays; mend it and call again.
    """
    journal = folder / JOURNAL
    try:
        record = json.loads(journal.read_text())
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {journal}: {error}", path=str(journal)) from error
    if record.get("format") != FORMAT:
        raise StorageError(f"{journal} was not made by this version: {record.get('format')!r}")
    entries = [_Entry(**entry) for entry in record["entries"]]
    try:
        if record["phase"] == _PARK:
            for entry in entries:
                _park(folder, entry)
            fsync_folder(folder)
            record["phase"] = _PLACE
            write_json_durably(journal, record)
        for entry in entries:
            _place(folder, entry)
        fsync_folder(folder)
        _close(folder, record, (clock or SystemClock()).now_ns())
    except OSError as error:
        raise StorageError(
            f"{folder}: frame IDs are half changed: {error}; mend that and call again, nothing is "
            f"lost", path=str(folder),
        ) from error  # fmt: skip
    return True


def _park(folder: Path, entry: _Entry) -> None:
    """Take a file from its old name, with its new header."""
    old, parked = folder / entry.old, folder / entry.parked
    if not os.path.lexists(parked):
        _require_same(old, entry)
        if not entry.is_patched:
            rename_new(old, parked)
            return
        # Made anew where a part of it was left; its ending tells what kind of file it is.
        copy = folder / f"{entry.parked}{ending(entry.old)}"
        try:
            write_patched(old, copy, _values(entry.frame_id))
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        rename_new(copy, parked)
        fsync_folder(folder)
    if os.path.lexists(old):  # its copy has been read back
        _require_same(old, entry)
        old.unlink()


def _require_same(path: Path, entry: _Entry) -> None:
    """Raise StorageError unless this is the file that the journal means."""
    try:
        stat = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        raise StorageError(
            f"{path} vanished while frame IDs were changed; put it back and call again, or correct "
            f"{path.parent / JOURNAL}", path=str(path),
        ) from None  # fmt: skip
    if (stat.st_size, stat.st_mtime_ns) != (entry.size, entry.mtime_ns):
        raise StorageError(
            f"{path} is not the file that it was when the fix of frame IDs began: not touched",
            path=str(path),
        )  # fmt: skip


def _place(folder: Path, entry: _Entry) -> None:
    """Give a parked file its new name."""
    parked, new = folder / entry.parked, folder / entry.new
    if os.path.lexists(parked):
        rename_new(parked, new)
    elif not os.path.lexists(new):
        raise StorageError(f"{new} vanished while frame IDs were changed", path=str(new))


def _close(folder: Path, record: dict[str, Any], now_ns: int) -> None:
    """Write the list of old names, and keep the journal as a record of what was done."""
    pairs = record["name_changes"]
    if pairs is not None:
        text = changes.name_changes_text((old, new) for old, new in pairs)
        write_durably(folder / changes.NAME, text, replace=True)
    stamp = file_stamp(now_ns)
    for name in (JOURNAL, changes.NAME):  # what killed programs left of writing these
        for left in folder.glob(f".{name}.*{TEMPORARY_SUFFIX}"):
            left.unlink(missing_ok=True)
    for number in range(1000):
        kept = folder / f"ids_fix_{stamp}{f'-{number}' if number else ''}.json"
        with contextlib.suppress(FileExistsError):
            rename_new(folder / JOURNAL, kept)
            break
    else:
        raise StorageError(f"{folder}: too many records of fixes at {stamp}")
    fsync_folder(folder)
