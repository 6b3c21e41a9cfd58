# SPDX-License-Identifier: BSD-3-Clause
"""Where frames lie below the archive's root, and proof that the root is the archive.

::

    <root>/.nightjar-archive.json                identity: a root without it is not written to
    <root>/<night>/<camera>/<name>               archived
    <root>/<night>/unarchived/<camera>/<name>    taken while archiving was off
    <root>/quarantine/<night>/<camera>_<run>_<number>_<name>, and <the same>.json with the reason

The night is that of the frame's own DATE-BEG. A name is the one under which the frame arrived,
with the prefix of the settings before it: ``<prefix>-<name>``. Where that is taken by another
frame, ``-2``, ``-3``, ... goes before the suffix; a name is never used again, not even after a
discard.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nightjar.errors import StorageError
from nightjar.files import fsync_folder, is_temporary, require_folder, write_durably

IDENTITY_NAME = ".nightjar-archive.json"
QUARANTINE = "quarantine"
UNARCHIVED = "unarchived"
FITS_SUFFIXES = (".fits", ".fits.fz", ".fits.gz", ".fit")
_MAX_NAME = 240
_PROBE_AGE_S = 600.0


def frame_folder(night: str, camera: str, is_archived: bool) -> PurePosixPath:
    """Return the folder of a frame, below the root."""
    return PurePosixPath(night, camera) if is_archived else PurePosixPath(night, UNARCHIVED, camera)


def frame_names(name: str, prefix: str | None) -> Iterator[str]:
    """Yield the names that a frame may have in its folder, the best first."""
    whole = f"{prefix}-{name}" if prefix else name
    stem, suffix = _split(whole)
    if len(whole) > _MAX_NAME:
        stem = stem[: _MAX_NAME - len(suffix)]
    yield stem + suffix
    for number in range(2, 1_000_000):
        yield f"{stem}-{number}{suffix}"


def quarantine_names(night: str, camera: str, run: str, number: int, name: str) -> Iterator[str]:
    """Yield the paths below the root that a damaged frame may have."""
    for other in frame_names(f"{camera}_{run}_{number:08d}_{name}", None):
        yield str(PurePosixPath(QUARANTINE, night, other))


def is_fits_name(name: str) -> bool:
    """Tell whether a file in the incoming folder looks like a frame."""
    return name.endswith(FITS_SUFFIXES) and not name.startswith(".")


def _split(name: str) -> tuple[str, str]:
    suffix = next((s for s in sorted(FITS_SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")
    return name[: len(name) - len(suffix)], suffix


def _temporaries(folder: Path) -> list[Path]:
    return [path for path in map(Path, os.scandir(folder)) if is_temporary(path)]


def make_folder(folder: Path, root: Path) -> None:
    """Make a folder below the root, durably, and those between."""
    missing = []
    while folder != root and not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        fsync_folder(each.parent)


@dataclass(frozen=True, slots=True)
class Root:
    """The archive's root folder.

    A root on a file system of its own that is not mounted looks like an empty folder; frames
    written there would vanish under the mount. So the root carries a file with its identity,
    which the database knows too.
    """

    path: Path

    def identity(self) -> str | None:
        """Return the identity that the folder carries; None where there is none.

        Raises
        ------
        StorageError
            The file is there but cannot be understood.
        """
        file = self.path / IDENTITY_NAME
        try:
            return str(json.loads(file.read_text(encoding="utf-8"))["archive"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {file}: {error.strerror}", path=str(file)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{file} does not hold an archive's identity: {error}") from error

    def establish(self) -> str:
        """Return the folder's identity, making folder and identity where there are none.

        Raises
        ------
        StorageError
            The parent folder does not exist, or nothing can be written.
        """
        try:
            self.path.mkdir(exist_ok=True)
            require_folder(self.path, "archive root")
            present = self.identity()
            if present is not None:
                return present
            made = uuid.uuid4().hex
            write_durably(self.path / IDENTITY_NAME, json.dumps({"archive": made}).encode() + b"\n")
            fsync_folder(self.path.parent)
        except OSError as error:
            raise StorageError(
                f"archive root {self.path} cannot be made: {error.strerror}", path=str(self.path)
            ) from error
        return made

    def require(self, known: str) -> None:
        """Raise StorageError unless the folder is the archive that the database knows."""
        if not self.path.is_dir():
            raise StorageError(
                f"archive root {self.path} is gone; frames wait in the incoming folder: "
                "mount or restore it",
                path=str(self.path),
            )
        present = self.identity()
        if present != known:
            what = "has no identity file" if present is None else "is another archive"
            raise StorageError(
                f"archive root {self.path} {what} (is its disk mounted?); frames wait in the "
                "incoming folder: mount it, or 'archive adopt-root' if it was changed on purpose",
                path=str(self.path),
            )
        require_folder(self.path, "archive root")

    def clear_temporaries(self, target: str) -> None:
        """Remove half-made copies of a frame that an earlier life left."""
        path = self.path / target
        if path.parent.is_dir():
            for entry in _temporaries(path.parent):
                if entry.name.startswith(f".{path.name}."):
                    entry.unlink(missing_ok=True)

    def clear_probes(self) -> None:
        """Remove what an earlier life left in the root itself; another host's may be in use."""
        for entry in _temporaries(self.path) if self.path.is_dir() else ():
            with contextlib.suppress(OSError):
                if time.time() - entry.stat().st_mtime > _PROBE_AGE_S:
                    entry.unlink(missing_ok=True)
