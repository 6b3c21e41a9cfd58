# SPDX-License-Identifier: BSD-3-Clause
"""Folders that appear whole or not at all: staged beside their place, then renamed.

What is replaced is kept beside it, ``<name>.replaced-1`` and on: nothing is deleted.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from nightjar.errors import Refused, StorageError, storage_code
from nightjar.files import TEMPORARY_SUFFIX, fsync_folder, rename_new

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def publish(
    target: Path, contents: Mapping[str, bytes], *, replace: bool = False,
    grown: Collection[str] = (),
) -> Path | None:  # fmt: skip
    """Make a folder with these files, all at once.

    Parameters
    ----------
    target
        The folder; its parents are made.
    contents
        Relative name, with ``/`` for a folder inside, to bytes.
    replace
        Put it in the place of another one, which is kept beside it.
    grown
        Files that the new one has in a newer form. Where all others of the old folder are in the
        new one byte by byte, it is not kept.

    Returns
    -------
    Path or None
        Where the old one lies now.

    Raises
    ------
    Refused
        There is something else already, and `replace` is not given. The same is left as it is.
    StorageError
        It could not be written; nothing has changed.
    """
    target = target.resolve()  # a link to another disk is meant to be followed
    if target.exists() and _holds(target, contents):
        return None
    _refuse_other(target, replace=replace)
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise Refused(f"{target.parent} is not a folder; give another one") from error
        staged = Path(
            tempfile.mkdtemp(prefix=f".{target.name}.", suffix=TEMPORARY_SUFFIX, dir=target.parent)
        )
        try:
            staged.chmod(0o755)
            _fill(staged, contents)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)  # nobody else knew of it
            raise
        kept = _swap(staged, target, replace=replace)
        if kept is not None and grown and _is_contained(kept, contents, grown):
            shutil.rmtree(kept)
            kept = None
        return kept
    except FileExistsError as error:
        raise Refused(f"{target} was made by somebody else meanwhile; look, then again") from error
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}", code=storage_code(error),
            path=str(target),
        ) from error  # fmt: skip


def _refuse_other(target: Path, *, replace: bool) -> None:
    if target.exists() and not target.is_dir():
        raise Refused(f"{target} is not a folder; give another one", path=str(target))
    if target.is_dir() and not replace and any(target.iterdir()):
        raise Refused(
            f"{target} is there already and holds something else; give another folder, or "
            "--replace to have it kept beside the new one",
            path=str(target),
        )


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, by relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _holds(folder: Path, contents: Mapping[str, bytes]) -> bool:
    names = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip
    return folder.is_dir() and names.keys() == contents.keys() and all(
        path.stat().st_size == len(contents[name]) and path.read_bytes() == contents[name]
        for name, path in names.items()
    )  # fmt: skip


def _is_contained(folder: Path, contents: Mapping[str, bytes], grown: Collection[str]) -> bool:
    return all(
        name in grown or contents.get(name) == data for name, data in read_folder(folder).items()
    )


def _fill(folder: Path, contents: Mapping[str, bytes]) -> None:
    made = {folder}
    for name, data in contents.items():
        path = folder / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        made.add(path.parent)
        with path.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    for one in sorted(made, key=lambda path: -len(path.parts)):
        fsync_folder(one)


def _swap(staged: Path, target: Path, *, replace: bool) -> Path | None:
    """Bring the new folder to its name; what had the name before is never deleted."""
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()  # fails where something has come into it
    if not (replace and target.is_dir()):
        _rename_or_remove(staged, target)
        fsync_folder(target.parent)
        return None
    kept = next(
        path
        for number in itertools.count(1)
        if not (path := target.with_name(f"{target.name}.replaced-{number}")).exists()
    )
    if _exchange(staged, target):
        rename_new(staged, kept)  # should it fail, the old one stays under the hidden name
    else:  # a file system that cannot exchange: for a moment the name is free
        try:
            rename_new(target, kept)
        except OSError:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        _rename_or_remove(staged, target, instead=kept)
    fsync_folder(target.parent)
    return kept


def _rename_or_remove(staged: Path, target: Path, instead: Path | None = None) -> None:
    """Rename a staged folder; where that fails, remove it and give the old one its name back."""
    try:
        rename_new(staged, target)
    except OSError:
        shutil.rmtree(staged, ignore_errors=True)
        if instead is not None:
            rename_new(instead, target)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the file system cannot."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(function(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
