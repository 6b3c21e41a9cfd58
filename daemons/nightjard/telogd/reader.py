# SPDX-License-Identifier: BSD-3-Clause
"""The process that touches mounted folders: a mount that hangs hangs it alone, and it is killed.

Run by the daemon as ``python -m nightjard.telogd.reader``; it ends with its daemon.
"""

from __future__ import annotations

import os
import stat
import sys
import zlib
from pathlib import Path
from typing import Any

from nightjar.child import Parent
from nightjar.errors import StorageError, storage_code

PAGE = 5000
_BLOCK = 1 << 20


def _failed(what: str, path: str, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be {what}: {error.strerror}", code=storage_code(error), path=path
    )


def look(folder: str, names: list[str]) -> dict[str, list[int]]:
    """Return size and mtime of those of some files that are there.

    Raises
    ------
    StorageError
        The folder is not there.
    """
    found: dict[str, list[int]] = {}
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                try:
                    facts = os.stat(name, dir_fd=descriptor)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(facts.st_mode):
                    found[name] = [facts.st_size, facts.st_mtime_ns]
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _failed("looked into", folder, error) from error
    return found


def ping() -> bool:
    """Tell that the process is up."""
    return True


def scan(folder: str, offset: int) -> dict[str, Any]:
    """Return {files: [[name, size, mtime_ns]], more}: regular files by name from an offset on.

    A folder that is not there has none, where its parent is there.
    """
    try:
        names = sorted(one.name for one in os.scandir(folder) if not one.name.startswith("."))
    except FileNotFoundError as error:
        if Path(folder).parent.is_dir():
            return {"files": [], "more": False}
        raise _failed("listed", folder, error) from error
    except OSError as error:
        raise _failed("listed", folder, error) from error
    page = names[offset : offset + PAGE]
    found = look(folder, page)
    files = [[name, *found[name]] for name in page if name in found]
    return {"files": files, "more": len(names) > offset + PAGE}


def last(path: str, size: int) -> dict[str, Any]:
    """Return the last whole record of a growing file: {hex, mtime_ns}; hex is "" where none is."""
    try:
        with open(path, "rb") as file:
            facts = os.fstat(file.fileno())
            count = facts.st_size // size
            data = os.pread(file.fileno(), size, (count - 1) * size) if count else b""
    except OSError as error:
        raise _failed("read", path, error) from error
    return {"hex": data.hex(), "mtime_ns": facts.st_mtime_ns}


def fetch(source: str, target: str) -> dict[str, int]:
    """Copy a file, make it durable, keep its mtime; return {size, crc32, mtime_ns}.

    Raises
    ------
    StorageError
        It cannot be read or written, or it changed meanwhile.
    """
    crc = 0
    try:
        with open(source, "rb", buffering=0) as reading:
            before = os.fstat(reading.fileno())
            try:
                with open(target, "wb", buffering=0) as writing:
                    while block := reading.read(_BLOCK):
                        crc = zlib.crc32(block, crc)
                        view = memoryview(block)
                        while view:
                            view = view[writing.write(view) :]
                    os.fsync(writing.fileno())
            except OSError as error:
                raise _failed("written", target, error) from error
            after = os.stat(source)
    except OSError as error:
        raise _failed("read", source, error) from error
    same = (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size, before.st_mtime_ns, before.st_ino
    )  # fmt: skip
    if not same or os.stat(target).st_size != after.st_size:
        raise StorageError(f"{source} changed while it was read; it is read again", path=source)
    os.utime(target, ns=(after.st_mtime_ns, after.st_mtime_ns))
    return {"size": after.st_size, "crc32": crc, "mtime_ns": after.st_mtime_ns}


def main() -> int:
    """Serve until the daemon is gone."""
    parent = Parent.connect()
    parent.serve({"ping": ping, "look": look, "scan": scan, "last": last, "fetch": fetch})
    parent.gone.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
