# SPDX-License-Identifier: BSD-3-Clause
"""One attempt at a test: what is done in it already, what it takes over from the one before.

The attempt goes on where it was as long as nothing that went into it has changed: after a crash,
and when more sub-tasks are asked for. Otherwise a new one is begun, which takes over by hard links
what still holds; the old one is never touched again. A new one has its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nightjar import files
from nightjard.calib.engine import layout
from nightjard.calib.results import read_subtask

_FILE = "attempt.json"
_KINDS = ("tables", "images", "figures", "documents")


class Attempt:
    """An attempt's folder and what it knows of itself.

    Attributes
    ----------
    taken
        Sub-tasks whose findings were taken over from another attempt, and which.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = _read(folder / _FILE) or {}
        self.taken: dict[str, str] = dict(self.about.get("taken", {}))

    @property
    def inputs(self) -> dict[str, Any] | None:
        """Identities of the files that went in."""
        found = self.about.get("inputs")
        return found if isinstance(found, dict) else None

    def save(self, **about: Any) -> None:
        """Remember something, durably."""
        self.about.update(about)
        self.about["taken"] = self.taken
        files.write_json_durably(self.folder / _FILE, self.about)

    def key_of(self, subtask: str) -> str | None:
        """Return the key under which a sub-task was done; None where it was not."""
        found = read_subtask(self.folder, subtask)
        return str(found["key"]) if found and "key" in found else None

    def is_done(self, subtask: str, key: str) -> bool:
        """Tell whether a sub-task is done with this key, its products all there."""
        found = read_subtask(self.folder, subtask)
        return (
            found is not None
            and found.get("key") == key
            and all(path.exists() for path in self._products(found))
        )

    def _products(self, document: Mapping[str, Any]) -> list[Path]:
        return [
            self.folder / str(entry["path"]) for kind in _KINDS for entry in document.get(kind, ())
        ]

    def take_over(self, other: Attempt, keys: Mapping[str, str]) -> None:
        """Link the findings of sub-tasks that `other` has done with the same keys."""
        is_any = False
        for subtask, key in keys.items():
            if not other.is_done(subtask, key):
                continue
            document = read_subtask(other.folder, subtask) or {}
            for path in other._products(document):
                self._link(path, other.folder)
            self._link(other.folder / "subtasks" / f"{subtask}.json", other.folder)
            self.taken[subtask] = other.taken.get(subtask, other.folder.name)
            is_any = True
        if is_any and (other.folder / "intermediate").is_dir():
            for folder, _, names in os.walk(other.folder / "intermediate"):
                for name in names:
                    self._link(Path(folder) / name, other.folder)

    def _link(self, path: Path, base: Path) -> None:
        target = self.folder / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return
        try:
            os.link(path, target)
        except OSError:  # a file system without hard links
            files.write_durably(target, path.read_bytes())


def latest(test_folder: Path) -> Attempt | None:
    """Return the newest attempt of a test; None without one."""
    known = layout.attempts(test_folder)
    return Attempt(known[-1]) if known else None


def open_attempt(
    test_folder: Path, before: Attempt | None, keys: Mapping[str, str], stale: Sequence[str],
    about: dict[str, Any],
) -> Attempt:  # fmt: skip
    """Return the attempt to go on with: the newest where nothing changed, else a new one.

    Parameters
    ----------
    before
        The newest attempt.
    keys
        Of all sub-tasks that are wanted or were done before.
    stale
        Sub-tasks of the newest whose findings must not be met in what is done now.
    """
    if before is not None and not stale and all(
        before.key_of(name) in (None, key) for name, key in keys.items()
    ):  # fmt: skip
        before.save(**about)
        return before
    for left in test_folder.glob(".attempt-*.tmp"):  # of a run that was killed: links, no more
        shutil.rmtree(left)
    folder = layout.next_attempt(test_folder)
    temporary = files.temporary_name(folder)
    temporary.mkdir()
    attempt = Attempt(temporary)
    if before is not None:
        attempt.take_over(before, keys)
    attempt.save(**about)
    os.rename(temporary, folder)
    files.fsync_folder(test_folder)
    return Attempt(folder)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
