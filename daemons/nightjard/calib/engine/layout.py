# SPDX-License-Identifier: BSD-3-Clause
"""The tree of results: ``<resroot>/<RUN>/<TEST>/attempt-NN``, and which attempt is in force.

Every folder that is ours carries a marker; tools that clear space work below one only. An attempt
that another has followed stays as it is: ``current`` points to the one in force.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import Any

from nightjar import files
from nightjar.errors import StorageError, storage_code
from nightjard.calib.campaign import Campaign

MARKER = ".calib-results.json"
CURRENT = "current"
LOCK = ".calib.lock"
_ATTEMPT = re.compile(r"attempt-(\d{2,})\Z")
_LINKED = ("figs", "products", "results.json", "flags.json")


def is_held(run_folder: Path) -> bool | None:
    """Tell whether a process is at work in a session's folder; None where that cannot be told."""
    try:
        descriptor = os.open(run_folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        # Shared, for a moment: whoever else only looks is no process at work.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def plain(path: Path) -> Path:
    """Return a path without steps up; links stay where they are no part of one."""
    if ".." not in path.parts:
        return path
    whole = path.absolute()
    short = Path(os.path.normpath(whole))
    # Beyond a link, a step up leads elsewhere than the text says.
    return short if short.resolve() == whole.resolve() else whole.resolve()


def require_room(campaign: Campaign, needed: int) -> None:
    """Raise StorageError unless results can be written: before any work is done.

    Parameters
    ----------
    needed
        Bytes that the products of a test may take.
    """
    root = campaign.results_root
    if not root.exists():
        _make(root)
    files.require_folder(root, f"results of {campaign.file.BLOCKID}")
    files.require_space(root, needed, f"results of {campaign.file.BLOCKID}")


def make_marked(folder: Path, kind: str, **about: Any) -> Path:
    """Make a folder of results with its marker; one that is there gets the marker if it lacks it.

    Raises
    ------
    StorageError
        It cannot be made or written.
    """
    _make(folder)
    marker = folder / MARKER
    if not marker.exists():
        try:
            files.write_json_durably(marker, {"kind": kind, "written_by": "calib", **about})
        except OSError as error:
            raise storage_error(folder, error) from error
    return folder


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error


def storage_error(folder: Path, error: OSError) -> StorageError:
    """Return what to tell of a folder of results that cannot be written."""
    hint = {
        "NO_SPACE": "make room (calib clear), then run again: what is done stays done",
    }.get(storage_code(error).name, "correct its permissions or resroot in the campaign file")
    return StorageError(
        f"results cannot be written in {folder}: {error.strerror}; {hint}",
        code=storage_code(error), path=str(folder),
    )  # fmt: skip


def attempts(test_folder: Path) -> list[Path]:
    """Return the attempts of a test, oldest first."""
    if not test_folder.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in test_folder.iterdir()
        if (match := _ATTEMPT.match(path.name)) and path.is_dir() and not path.is_symlink()
    ]
    return [path for _, path in sorted(found)]


def next_attempt(test_folder: Path) -> Path:
    """Return the folder of an attempt that does not exist yet."""
    known = attempts(test_folder)
    number = int(known[-1].name.partition("-")[2]) + 1 if known else 1
    return test_folder / f"attempt-{number:02d}"


def switch_current(test_folder: Path, attempt: Path) -> None:
    """Make an attempt the one in force, and link what people look for at the level of the test."""
    replace_link(test_folder / CURRENT, attempt.name)
    for path in sorted(attempt.iterdir()):
        if path.name in _LINKED or "_report." in path.name:
            replace_link(test_folder / path.name, f"{CURRENT}/{path.name}")


def replace_link(link: Path, target: str) -> None:
    """Point a link elsewhere in one step; what is there and no link stays.

    Raises
    ------
    StorageError
        There is something of that name that is no link.
    """
    if link.is_symlink() and os.readlink(link) == target:
        return
    if link.exists() and not link.is_symlink():
        raise StorageError(f"{link} is in the way: no link, and not written by calib; move it")
    temporary = files.temporary_name(link)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
    files.fsync_folder(link.parent)


def current_attempt(test_folder: Path) -> Path | None:
    """Return the attempt in force; None without one."""
    link = test_folder / CURRENT
    return link.resolve() if link.is_symlink() and link.is_dir() else None
