# SPDX-License-Identifier: BSD-3-Clause
"""Are the inputs those of last time, and is the code? What decides whether work is done again.

A file is the same where its size, time and inode are, or where its content is: data that were
copied to another disk are not analysed again. Contents are hashed when they are read anyway.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nightjar.calibration.housekeeping import HkLimits
from nightjar.errors import ConfigError, StorageError
from nightjard.calib.dataset import Dataset
from nightjard.calib.results import digest
from nightjard.calib.task import Subtask

_CODE = ("nightjard.calib", "nightjar.calibration", "nightjar.fits")
#: Bring data in or findings away, and change no number.
_CARRIERS = frozenset(
    f"nightjard.calib.{name}" for name in ("results", "work", "task", "flags", "campaign", "ingest")
)


@dataclass
class FileIdentity:
    """What tells a file from another; `blake3` is empty until its content has been read."""

    size: int
    mtime_ns: int
    inode: int
    blake3: str = ""

    def has_same_state(self, other: FileIdentity) -> bool:
        """Tell whether nobody has touched it in between."""
        mine = (self.size, self.mtime_ns, self.inode)
        return mine == (other.size, other.mtime_ns, other.inode)


def identity_of(path: Path) -> FileIdentity:
    """Return the identity of a file, its content unread; StorageError where it is gone."""
    try:
        state = path.stat()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    return FileIdentity(state.st_size, state.st_mtime_ns, state.st_ino)


def hash_of(path: Path) -> str:
    """Return the BLAKE3 digest of a file's content."""
    from blake3 import blake3

    try:
        return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
    except OSError as error:
        reason = error.strerror or error  # the library gives a text only
        raise StorageError(f"cannot read {path}: {reason}", path=str(path)) from error


class Inputs:
    """The files that go into a test, by their roles: names of frames, ``Mask.CCD1`` ...

    Parameters
    ----------
    known
        What :meth:`as_json` of an earlier attempt gave.
    by_value
        Roles whose values stand in the keys themselves (gains): that their file was written anew
        changes nothing.

    Attributes
    ----------
    id
        Stands for these contents: the same as last time where nothing changed.
    """

    def __init__(
        self, paths: Mapping[str, Path], known: Mapping[str, Any] | None,
        by_value: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.paths = dict(paths)
        self._by_value = frozenset(by_value)
        self.files = {role: identity_of(path) for role, path in paths.items()}
        old = known or {}
        if self._is_same({k: FileIdentity(**v) for k, v in old.get("files", {}).items()}):
            self.id = str(old["id"])
        else:
            self.id = digest(
                {role: asdict(one) for role, one in self.files.items() if role in self._roles}
            )

    @property
    def _roles(self) -> frozenset[str]:
        return frozenset(self.files) - self._by_value

    def _is_same(self, old: dict[str, FileIdentity]) -> bool:
        if set(old) - self._by_value != self._roles or not self._roles:
            return False
        for role in self._roles:
            now, before = self.files[role], old[role]
            if not now.has_same_state(before):
                if now.size != before.size or not before.blake3:
                    return False
                now.blake3 = hash_of(self.paths[role])
                if now.blake3 != before.blake3:
                    return False
            now.blake3 = now.blake3 or before.blake3
        return True

    def learn(self, role: str, blake3: str) -> None:
        """Take over the digest of a content that was read, if the file is still the same."""
        if role in self.files and self.files[role].has_same_state(identity_of(self.paths[role])):
            self.files[role].blake3 = blake3

    def complete(self) -> None:
        """Hash what has not been hashed yet.

        A file that was replaced since the beginning gets no digest: nobody knows which of the two
        contents went in, so that next time it counts as changed.
        """
        for role, one in self.files.items():
            if not one.blake3:
                found = hash_of(self.paths[role])
                if one.has_same_state(identity_of(self.paths[role])):
                    one.blake3 = found

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"id": self.id, "files": {role: asdict(one) for role, one in self.files.items()}}


def data_files(dataset: Dataset) -> dict[str, Path]:
    """Return the images and housekeeping files of a test, by their names."""
    images = (frame.path for frame in dataset.frames if frame.path is not None)
    return {path.name: path for path in (*images, *dataset.hk_paths.values())}


def option_files(options: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files that options of an analysis name: their contents are inputs, too."""
    return {
        f"option.{name}": Path(text)
        for name, text in _texts(options, "") if "/" in text or "." in text
        if Path(text).is_file()
    }


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(one, f"{name}.{key}".strip("."))
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _texts(one, f"{name}.{number}")


def dataset_digest(dataset: Dataset) -> str:
    """Return what stands for logs, script and housekeeping of a test: other tests do not matter."""
    frames = [
        [f.obsid, f.ccd, f.column, f.utc_ns, dict(f.commanded), dict(f.logged), f.problem]
        for f in dataset.frames
    ]
    return digest(
        dataset.test, dataset.block, dataset.detector.model_dump(mode="json"),
        dataset.profile.model_dump(mode="json"), frames, dict(dataset.serials),
        {str(obsid): {k: list(v) for k, v in found.items()} for obsid, found in dataset.hk.items()},
        [[one.name, one.frames, dict(one.values)] for one in dataset.script.columns],
        _hk_limits(dataset.script.elvis),
    )  # fmt: skip


def _hk_limits(elvis: str) -> Any:
    try:
        return HkLimits.load(elvis).model_dump(mode="json")
    except ConfigError:
        return None  # told by whoever needs them


def code_digest(subtask: Subtask) -> str:
    """Return what stands for the code of a sub-task: its module and all that it imports of ours.

    Imports are read from the source, those within functions too: what happens to have been imported
    in this process makes no difference.
    """
    names = _modules_of(subtask.function.__module__)
    return digest(subtask.version, {name: _source(name)[1] for name in sorted(names)})


@functools.cache
def _modules_of(first: str) -> frozenset[str]:
    found: set[str] = set()
    waiting = [first]
    while waiting:
        name = waiting.pop()
        if name not in found and _source(name)[1]:
            found.add(name)
            waiting += [
                one for one in _source(name)[0]
                if one.startswith(_CODE) and one not in _CARRIERS
            ]  # fmt: skip
    return frozenset(found)


@functools.cache
def _source(name: str) -> tuple[tuple[str, ...], str]:
    """Return what a module may import, and the digest of its source; empty where it is none."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # the part before the dot is no package
        return (), ""
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return (), ""
    data = Path(found.origin).read_bytes()
    names: list[str] = []
    for node in ast.walk(ast.parse(data)):
        if isinstance(node, ast.Import):
            names += [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # Modules of a package, or names of a module: the latter are no modules.
            names += [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
    return tuple(dict.fromkeys(names)), hashlib.sha256(data).hexdigest()
