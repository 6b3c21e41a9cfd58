# SPDX-License-Identifier: BSD-3-Clause
"""Which folders a pattern means; asked again and again, because folders come and go."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nightjard.fitswatcher.listing import is_fits_name


@dataclass(frozen=True, slots=True)
class Matches:
    """What a pattern means at present.

    Attributes
    ----------
    folders
        Absolute paths, sorted.
    below
        Folders inside these that hold FITS files, where subfolders were asked for.
    files
        How many files match as well: they are not watched.
    problem
        Why nothing could be looked up.
    """

    folders: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    files: int = 0
    problem: str | None = None


def expand(pattern: str, *, is_recursive: bool = False) -> Matches:
    """Return the folders that a pattern means now.

    Parameters
    ----------
    pattern
        A path with ``*``, ``?``, ``[...]`` and ``**`` as the shell knows them; ``~`` is a home.
    is_recursive
        Give all folders below that hold FITS files, too; hidden ones and what is behind symbolic
        links are left out.
    """
    whole = os.path.abspath(os.path.expanduser(pattern))
    folders: list[str] = []
    files = 0
    try:
        for path, is_folder in _matching(whole):
            if is_folder:
                folders.append(path)
            else:
                files += 1
    except OSError as error:
        return Matches(problem=f"{error.filename or whole}: {error.strerror}")
    below = {found for folder in folders for found in _below(folder)} if is_recursive else set()
    return Matches(tuple(sorted(folders)), tuple(sorted(below.difference(folders))), files)


def _matching(whole: str) -> Iterator[tuple[str, bool]]:
    """Yield what matches, and whether it is a folder."""
    head, tail = os.path.split(whole)
    if not glob.has_magic(tail) or "**" in whole:
        is_every = tail == "**"  # all folders below: with a slash no file is looked at
        asked = f"{whole}/" if is_every else whole
        paths = glob.iglob(asked, recursive=True) if glob.has_magic(whole) else [whole]
        for path in paths:
            if os.path.lexists(path):
                yield path.rstrip("/") or "/", os.path.isdir(path)
        return
    # Not glob: a scan tells folders from files without a look at each of them, so that one dead
    # mount among them does not hold up the others.
    for parent in glob.iglob(head, recursive=True) if glob.has_magic(head) else [head]:
        try:
            items = os.scandir(parent)
        except OSError as error:
            if not glob.has_magic(head) and not isinstance(
                error, (FileNotFoundError, NotADirectoryError)
            ):
                raise
            continue
        with items:
            for item in items:
                is_hidden = item.name.startswith(".") and not tail.startswith(".")
                if not is_hidden and fnmatchcase(item.name, tail):
                    yield item.path, item.is_dir()


def _below(folder: str) -> Iterator[str]:
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(is_fits_name(name) for name in names):
            yield path
