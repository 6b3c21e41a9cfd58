# SPDX-License-Identifier: BSD-3-Clause
"""A minute file while it grows: whole in memory, its shadow on disk under a hidden name.

What is appended goes to the disk with one system call, so a killed daemon leaves it there; what
the disk does not take (full, gone) stays in memory and goes with the next attempt. The file gets
its name when its minute is over. Where the name is taken already, by the part before a restart or
by a copy, both are joined, and the name never comes to hold less than it did.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from nightjar.errors import StorageError, storage_code
from nightjar.files import fsync_folder, rename_new, temporary_name

LIVE_SUFFIX = ".live.tmp"
Join = Callable[[bytes, bytes], bytes]
_PUBLISHING = threading.Lock()  # a copy and the receiver may publish the same minute


def live_name(path: Path) -> Path:
    """Return the hidden name under which a minute file grows."""
    return path.with_name(f".{path.name}{LIVE_SUFFIX}")


def final_name(live: Path) -> Path:
    """Return the name that a growing file will have."""
    return live.with_name(live.name[1:].removesuffix(LIVE_SUFFIX))


def leftovers(root: Path, days: int = 3) -> list[Path]:
    """Return what killed daemons left growing in the newest days' folders, in order of name.

    Raises
    ------
    StorageError
        The root cannot be read.
    """
    try:
        folders = sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdigit())[-days:]
        return sorted(p for folder in folders for p in folder.glob(f".*{LIVE_SUFFIX}"))
    except OSError as error:
        raise StorageError(f"{root} cannot be read: {error.strerror}", path=str(root)) from error


def _write(descriptor: int, data: bytes, what: Path) -> None:
    view = memoryview(data)
    while view:
        count = os.write(descriptor, view)
        if count == 0:
            raise StorageError(f"{what}: nothing more can be written")
        view = view[count:]


class Growing:
    """One minute file. Methods are for one thread at a time.

    Parameters
    ----------
    root
        The stream's root; must exist: a mount that has gone must not be written under.
    path
        Its final name, in a day's folder below the root.
    join
        Returns the content that holds all of two contents of this minute.
    content
        What is known of it already.
    """

    def __init__(self, root: Path, path: Path, join: Join, content: bytes = b"") -> None:
        self.root, self.path = root, path
        self._join = join
        self.content = bytearray(content)
        self._descriptor: int | None = None
        self._written = 0
        self.is_dirty = False

    def append(self, data: bytes) -> None:
        """Add to it and write; see :meth:`flush`."""
        self.content += data
        self.flush()

    def flush(self) -> None:
        """Bring to the disk what it has not taken yet.

        Raises
        ------
        StorageError
            It does not take it; nothing is lost: try again.
        """
        try:
            self._reopen_where_gone()
            if self._written < len(self.content):
                assert self._descriptor is not None
                _write(self._descriptor, bytes(self.content[self._written :]), self.path)
                self._written = len(self.content)
                self.is_dirty = True
        except OSError as error:
            self._drop_unfinished()
            raise StorageError(
                f"{self.path} cannot be written: {error.strerror}; what is missing there is kept "
                "in memory", code=storage_code(error), path=str(self.path),
            ) from error  # fmt: skip

    def _reopen_where_gone(self) -> None:
        live = live_name(self.path)
        if self._descriptor is not None:
            if os.fstat(self._descriptor).st_nlink and live.exists():
                return
            self._close()
        if not self.root.is_dir():
            raise FileNotFoundError(2, "the root folder is not there", str(self.root))
        self.path.parent.mkdir(exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(live, flags, 0o644)
        there = live.read_bytes()
        # What a killed daemon wrote stays, but for the end that the kill has cut: never is the
        # file emptied to be written again.
        is_ours = self.content.startswith(there) or there.startswith(self.content)
        self._written = min(len(there), len(self.content)) if is_ours else 0
        os.ftruncate(self._descriptor, self._written)

    def _drop_unfinished(self) -> None:
        """Take a part that was written before the disk was full off again: no cut lines."""
        if self._descriptor is None:
            return
        try:
            os.ftruncate(self._descriptor, self._written)
        except OSError:
            self._close()  # then the file is begun anew

    def sync(self) -> None:
        """Make durable what was written; OSError as the system says."""
        if self._descriptor is not None and self.is_dirty:
            self.is_dirty = False
            os.fdatasync(self._descriptor)

    def unsynced(self) -> int | None:
        """Return a descriptor of what was written and is not durable; who asks closes it."""
        if self._descriptor is None or not self.is_dirty:
            return None
        self.is_dirty = False
        return os.dup(self._descriptor)

    def publish(self, content: bytes | None = None) -> bytes:
        """Give the file its name; return what it then holds.

        Parameters
        ----------
        content
            Its final form where that is another than what was appended (put in order).

        Raises
        ------
        StorageError
            It cannot be; what was written stays under the hidden name: try again.
        """
        with _PUBLISHING:
            return self._publish(bytes(self.content) if content is None else content)

    def _publish(self, final: bytes) -> bytes:
        live = live_name(self.path)
        try:
            if not self.root.is_dir():
                raise FileNotFoundError(2, "the root folder is not there", str(self.root))
            self.path.parent.mkdir(exist_ok=True)
            if self.path.exists():
                final = self._publish_joined(final)
            elif self._is_on_disk(final):
                assert self._descriptor is not None
                os.fsync(self._descriptor)
                rename_new(live, self.path)
            else:
                self._place(final, replace=False)
            if self._descriptor is not None:
                live.unlink(missing_ok=True)
            fsync_folder(self.path.parent)
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be published: {error.strerror}; it is kept and tried again",
                code=storage_code(error), path=str(self.path),
            ) from error  # fmt: skip
        self._close()
        return final

    def _is_on_disk(self, final: bytes) -> bool:
        return (
            self._descriptor is not None and self._written == len(self.content)
            and final == self.content and os.fstat(self._descriptor).st_nlink > 0
            and live_name(self.path).exists()
        )  # fmt: skip

    def _publish_joined(self, final: bytes) -> bytes:
        before = self.path.read_bytes()
        joined = self._join(before, final)
        if joined != before:
            self._place(joined, replace=True)
        return joined

    def _place(self, data: bytes, *, replace: bool) -> None:
        temporary = temporary_name(self.path)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC,
                                 0o644)  # fmt: skip
            try:
                _write(descriptor, data, self.path)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if replace:
                os.replace(temporary, self.path)
            else:
                rename_new(temporary, self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def abandon(self) -> None:
        """Let go of the file; what was written stays under the hidden name."""
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._written = 0
