# SPDX-License-Identifier: BSD-3-Clause
"""Merged files as they are read and cut: open, whole values as stored, the hour they hold."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nightjar.clock import NS_PER_S
from nightjar.errors import Busy, Refused, StorageError
from nightjar.files import locked
from nightjard.merged import netcdf  # first: it tells HDF5 about locks before that is loaded

netCDF4 = netcdf.netCDF4  # type: ignore[attr-defined]  # noqa: N816

_UNITS = re.compile(r"seconds since (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Any]:
    """Open a file for reading, values as stored; it may be growing meanwhile.

    Raises
    ------
    StorageError
        It cannot be read, or is no netCDF file.
    """
    try:
        dataset = netCDF4.Dataset(path, "r")
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        dataset.set_auto_maskandscale(False)
        dataset.set_auto_chartostring(False)
        yield dataset
    except (RuntimeError, OSError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    finally:
        dataset.close()


@contextlib.contextmanager
def making(path: Path) -> Iterator[Any]:
    """Make a new file under a name that nobody knows yet."""
    dataset = netCDF4.Dataset(path, "w", format="NETCDF4")
    try:
        dataset.set_auto_maskandscale(False)
        dataset.set_auto_chartostring(False)
        yield dataset
    finally:
        dataset.close()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Any]:
    """Open a file for changes; it is on the disk at the end.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    try:
        dataset = netCDF4.Dataset(path, "a")
        try:
            dataset.set_auto_maskandscale(False)
            dataset.set_auto_chartostring(False)
            yield dataset
        finally:
            dataset.close()
        fsync(path)
    except (RuntimeError, OSError) as error:
        raise StorageError(f"{path} cannot be written: {error}") from error


@contextlib.contextmanager
def hour_held(path: Path, wait_s: float = 30.0) -> Iterator[None]:
    """Hold the right to write an hour's file, as the merge takes it.

    Raises
    ------
    Busy
        Another program holds it for longer.
    """
    deadline = time.monotonic() + wait_s
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(path.with_name(f".{path.name}.lock"), f"change {path}"))
                break
            except Refused as error:
                if time.monotonic() >= deadline:
                    raise Busy(error.message, **error.detail) from error
                threading.Event().wait(0.05)
        yield


def fsync(path: Path) -> None:
    """Have a file on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def start_ns(dataset: Any) -> int:
    """Return the zero point of a file's times, ns UTC.

    Raises
    ------
    StorageError
        It is no merged file.
    """
    try:
        match = _UNITS.match(dataset.variables["time"].units)
    except (KeyError, AttributeError):
        match = None
    if match is None:
        raise StorageError(f"{dataset.filepath()}: it is no merged file: it has no time")
    stamp = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    return int(stamp.timestamp()) * NS_PER_S
