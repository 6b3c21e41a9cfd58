# SPDX-License-Identifier: BSD-3-Clause
"""``name_changes.txt``: which file had which name before it got its frame ID.

Two columns with a tab between them, no heading: old name, ``FRAMEID.fits``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nightjar.errors import Refused, StorageError
from nightjar.files import write_changed

NAME = "name_changes.txt"


def read_name_changes(folder: Path) -> list[tuple[str, str]]:
    """Return (old name, new name), in the order of the file; empty where there is none.

    Raises
    ------
    StorageError
        It cannot be read, or a line has not two columns.
    """
    path = folder / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):  # a folder that is none fails where it is made
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read {path}: {error}", path=str(path)) from error
    return parse_name_changes(text, str(path))


def parse_name_changes(text: str, name: str) -> list[tuple[str, str]]:
    """Return the pairs of a text; `name` stands for it in messages."""
    pairs = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line:
            continue
        old, tab, new = line.partition("\t")
        if not (old and tab and new) or "\t" in new:
            raise StorageError(f"{name}: line {number} has not two columns: {line[:80]!r}")
        pairs.append((old, new))
    return pairs


def name_changes_text(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Return the content of the file."""
    return "".join(f"{old}\t{new}\n" for old, new in pairs).encode()


def write_name_changes(folder: Path, pairs: Iterable[tuple[str, str]]) -> Path:
    """Add pairs, (old name, new name), that the file does not have yet; return its path.

    Raises
    ------
    Refused
        The file says something else of a name.
    StorageError
        It cannot be read or written.
    """
    path = folder / NAME
    known = read_name_changes(folder)
    by_new = {new: old for old, new in known}
    added = []
    for old, new in pairs:
        if "\t" in old + new or not (old + new).isprintable():
            raise Refused(f"{path}: {old!r} or {new!r} cannot stand in a column")
        if new not in by_new:
            added.append((old, new))
            by_new[new] = old
        elif by_new[new] != old:
            raise Refused(
                f"{path}: {new} was {by_new[new]} and cannot have been {old}; `archive ids "
                f"--check` tells what is on disk"
            )
    if added or not path.exists():
        write_changed(path, name_changes_text(known + added))
    return path
