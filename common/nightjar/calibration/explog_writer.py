# SPDX-License-Identifier: BSD-3-Clause
"""Appends to an exposure log; see :mod:`nightjar.calibration.explog`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nightjar.calibration.elvis import LATEST, ElvisVersion, load_elvis, typed
from nightjar.calibration.explog import check_columns, column_names, some_of
from nightjar.errors import StorageError, storage_code
from nightjar.files import fsync_folder


class ExpLogWriter:
    """Appends to a log, making it where it is missing; every append is durable when it returns.

    Parameters
    ----------
    path
        Of the log.
    elvis
        Version whose columns are written.

    Raises
    ------
    ConfigError, NotExpLog
        There is a log, and it is of another version or none.
    StorageError
        It cannot be read or written.
    """

    def __init__(self, path: Path, elvis: str = LATEST) -> None:
        self.path = path
        self._version = load_elvis(elvis)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o644)
            self._begin()
        except OSError as error:
            raise self._failed(error) from error

    def _begin(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if data[whole:]:
            # A crash cut the last append short. What is left of it is kept beside the log.
            with open(self.path.with_name(self.path.name + ".cut"), "ab") as cut:
                cut.write(data[whole:] + b"\n")
                cut.flush()
                os.fsync(cut.fileno())
            os.ftruncate(self._descriptor, whole)
        if whole:
            check_columns(column_names(data[: data.index(b"\n")]), self._version, f"{self.path}:1")
            return
        os.write(self._descriptor, ("\t".join(self._version.columns) + "\n").encode())
        os.fsync(self._descriptor)
        fsync_folder(self.path.parent)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows in one write; columns that a row does not name stay empty.

        Raises
        ------
        ValueError
            A row names a column that the version does not have, or holds a tab or a line end.
        StorageError
            It cannot be written.
        """
        data = "".join(row_line(row, self._version) for row in rows).encode()
        start = os.fstat(self._descriptor).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, start)  # no half line stays
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> ExpLogWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot write the exposure log {self.path}: {error.strerror}",
            code=storage_code(error), path=str(self.path),
        )  # fmt: skip


def row_line(row: Mapping[str, Any], version: ElvisVersion) -> str:
    """Return the line of a row, with its end.

    Raises
    ------
    ValueError
        As :meth:`ExpLogWriter.append`.
    """
    strange = [name for name in row if name not in version.log]
    if strange:
        raise ValueError(f"ELVIS {version.version} has no column {some_of(strange)}")
    texts = []
    for column, kind in version.log.items():
        value = typed("" if row.get(column) is None else row[column], kind)
        text = "" if value is None else str(value)
        if len(text.splitlines()) > 1 or "\t" in text or "\n" in text:
            raise ValueError(f"{column}: {text!r} does not fit into a line of the log")
        texts.append(text)
    return "\t".join(texts) + "\n"
