# SPDX-License-Identifier: BSD-3-Clause
"""Clearing of intermediate files: which folders, how much, and their emptying.

Only folders below a results marker are ever touched: the marker is the file that ``calib run``
leaves in every folder that it makes. Links are never followed, and the folders themselves stay.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nightjar.errors import InvalidArgument, Refused, StorageError
from nightjar.files import locked
from nightjard.calib.engine.layout import LOCK, MARKER

_RESULTS = frozenset({MARKER, "results.json", "flags.json", "products", "figs", "subtasks"})


@dataclass(frozen=True)
class Clearing:
    """A folder that would be emptied: how many files, how many bytes on disk."""

    folder: Path
    files: int
    bytes: int


def find_folders(root: Path, name: str) -> list[Path]:
    """Return the folders of a name below a folder, sorted; links are not followed.

    Raises
    ------
    InvalidArgument
        The name is empty or a path, or there is no such folder.
    Refused
        A folder of that name is not within results, or is one of results.
    StorageError
        A folder cannot be listed.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidArgument(f"{name!r} is no name of a folder; give one, as in -k intermediate")
    if not root.is_dir():
        raise InvalidArgument(f"there is no folder {root}")
    found = []
    for folder, children, _names in os.walk(root, onerror=_stop, followlinks=False):
        here = Path(folder)
        for child in sorted(children):
            path = here / child
            if child == name and not path.is_symlink():
                _require_marker(path)
                _require_no_results(path)
                found.append(path)
        # What is inside of a folder to be emptied goes with it.
        children[:] = [child for child in children if child != name]
    return sorted(found)


def _require_marker(folder: Path) -> None:
    resolved = folder.resolve()
    if not any((parent / MARKER).is_file() for parent in resolved.parents):
        raise Refused(
            f"{folder} is not inside a results folder of calib run (no {MARKER} above it); "
            f"nothing was cleared"
        )


def _require_no_results(folder: Path) -> None:
    """Raise Refused for a folder whose contents nobody could make again: a test's, an attempt's."""
    within = [folder.name]
    for _where, folders, names in os.walk(folder, onerror=_stop, followlinks=False):
        within += [*folders, *names]
    kept = sorted(_RESULTS.intersection(within))
    if kept:
        raise Refused(
            f"{folder} holds results ({', '.join(kept)}), which are not cleared; intermediate "
            f"files are in folders such as 'intermediate'"
        )


def _stop(error: OSError) -> None:
    raise StorageError(f"cannot list {error.filename}: {error.strerror}") from error


@contextmanager
def undisturbed(folders: Iterable[Path]) -> Iterator[None]:
    """Hold the locks of the runs whose folders these are in: no run starts or works meanwhile.

    Raises
    ------
    Refused
        A run is at work.
    """
    runs = {parent for folder in folders for parent in folder.resolve().parents}
    with ExitStack() as stack:
        for run in sorted(run for run in runs if (run / LOCK).is_file()):
            stack.enter_context(locked(run / LOCK, f"calib run of {run}"))
        yield


def measure(folder: Path) -> Clearing:
    """Return how much lies in a folder: files of all depths, links counted as files of no size."""
    count = size = 0
    for path in _files(folder):
        try:
            information = path.lstat()
        except FileNotFoundError:
            continue  # removed meanwhile
        count += 1
        if stat.S_ISREG(information.st_mode) and information.st_nlink == 1:
            size += information.st_size
    return Clearing(folder, count, size)


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder, followlinks=False):
        for name in names:
            yield Path(where) / name
        for name in folders:
            if (Path(where) / name).is_symlink():
                yield Path(where) / name


def clear(folder: Path, trash: Path | None = None) -> None:
    """Empty a folder; what was in it goes to `trash` where one is given.

    Raises
    ------
    Refused
        It is not inside results, holds results, or is a link.
    StorageError
        Something in it cannot be removed.
    """
    if folder.is_symlink():
        raise Refused(f"{folder} is a link; what it points to is not cleared")
    _require_marker(folder)
    _require_no_results(folder)
    if trash is not None and trash.resolve().is_relative_to(folder.resolve()):
        raise Refused(f"the trash {trash} is inside {folder}; give a folder elsewhere")
    try:
        if trash is not None:
            _move(folder, trash)
            return
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise StorageError(
            f"cannot clear {folder}: {error.filename}: {error.strerror}", path=str(folder)
        ) from error


def _move(folder: Path, trash: Path) -> None:
    target = trash / "-".join(folder.resolve().parts[-4:])
    number = 0
    while target.exists():
        number += 1
        target = target.with_name(f"{target.name.rpartition('~')[0] or target.name}~{number}")
    target.mkdir(parents=True)
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        shutil.move(entry.path, target / entry.name)
