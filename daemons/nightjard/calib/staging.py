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
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nightjar.errors import InvalidArgument, Refused, StorageError, storage_code
from nightjar.files import TEMPORARY_SUFFIX, fsync_folder, rename_new

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a folder.

    Attributes
    ----------
    is_written
        False where the same was there already.
    kept
        Where the one lies now whose place it took.
    """

    is_written: bool
    kept: Path | None = None


def publish(
    target: Path, contents: Mapping[str, bytes], *, replace: bool = False,
    is_ours: Callable[[str], bool] = lambda _name: True, seen: Mapping[str, bytes] | None = None,
    grown: Collection[str] = (), is_dry: bool = False,
) -> Published:  # fmt: skip
    """Make a folder with these files, all at once.

    Parameters
    ----------
    target
        The folder; its parents are made.
    contents
        Relative name, with ``/`` for a folder inside, to bytes.
    replace
        Put it in the place of another one, which is kept beside it.
    is_ours
        Whether a file of that relative name may be in a folder that is replaced. Anything else in
        it, links among it, tells that the folder is used for something else, too.
    seen
        What the caller found in the folder that is to be replaced.
    grown
        Files that the new one has in a newer form. Where all others of the old folder are in the
        new one byte by byte, it is not kept.
    is_dry
        Only tell whether it would be refused.

    Raises
    ------
    Refused
        There is something else already, and `replace` is not given; the folder is not ours, or no
        longer what was `seen`. The same is left as it is.
    StorageError
        It could not be written; nothing has changed.
    """
    require_name(target)
    try:
        target = _resolved(target)  # a link to another disk is meant to be followed
        if target.exists() and _holds(target, contents):
            return Published(is_written=False)
        if seen is not None and target.is_dir() and read_folder(target) != seen:
            raise _meanwhile(target)
        _refuse_other(target, replace=replace, is_ours=is_ours)
        if is_dry:
            return Published(is_written=False)
        return Published(is_written=True, kept=_put(target, contents, replace, seen, grown))
    except FileExistsError as error:
        raise _meanwhile(target) from error
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}", code=storage_code(error),
            path=str(target),
        ) from error  # fmt: skip


def _resolved(folder: Path) -> Path:
    try:
        return folder.resolve()
    except RuntimeError as error:
        raise StorageError(f"cannot write {folder}: its link goes in a circle") from error


def require_name(folder: Path) -> None:
    """Raise InvalidArgument where the name of a folder cannot be shown or written into a file."""
    if not str(folder).isprintable():
        raise InvalidArgument(f"{str(folder)!r}: a folder's name must be printable text")


def _put(
    target: Path, contents: Mapping[str, bytes], replace: bool, seen: Mapping[str, bytes] | None,
    grown: Collection[str],
) -> Path | None:  # fmt: skip
    """Write the folder beside its place, bring it there; return where the old one lies."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
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
    kept = _swap(staged, target, replace=replace, seen=seen)
    if kept is not None and grown and _is_contained(kept, contents, grown):
        shutil.rmtree(kept)
        return None
    return kept


def _meanwhile(target: Path) -> Refused:
    return Refused(f"{target} was changed by somebody else meanwhile; look, then again")


def _refuse_other(target: Path, *, replace: bool, is_ours: Callable[[str], bool]) -> None:
    if target.exists() and not target.is_dir():
        raise Refused(f"{target} is not a folder; give another one", path=str(target))
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not replace:
        raise Refused(
            f"{target} is there already and holds something else; give another folder, or "
            "--replace to have it kept beside the new one",
            path=str(target),
        )
    foreign = sorted(_foreign(target, is_ours))
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise Refused(
            f"{target} holds what does not belong there: {', '.join(foreign[:3])}{more}; give a "
            "folder of its own, or move that away",
            path=str(target),
        )


def _foreign(folder: Path, is_ours: Callable[[str], bool]) -> Iterator[str]:
    """Yield the relative names of what is not ours, or is no plain file."""
    for where, folders, names in os.walk(folder):
        for name in [*names, *(one for one in folders if (Path(where) / one).is_symlink())]:
            path = Path(where) / name
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or not path.is_file() or not is_ours(relative):
                yield relative


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, by relative name; StorageError where one cannot be read."""
    try:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    except OSError as error:
        raise StorageError(
            f"{error.filename}: cannot be read: {error.strerror}", path=str(folder)
        ) from error


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


def _swap(
    staged: Path, target: Path, *, replace: bool, seen: Mapping[str, bytes] | None
) -> Path | None:
    """Bring the new folder to its name; what had the name before is never deleted.

    It gets its name back where it is not what was `seen`.
    """
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
        if seen is not None and read_folder(staged) != seen:
            _exchange(staged, target)
            shutil.rmtree(staged, ignore_errors=True)
            raise _meanwhile(target)
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
