# SPDX-License-Identifier: BSD-3-Clause
"""The file of an hour: made in full size, then written minute by minute, readable meanwhile.

A file is made under a hidden name and has its own when all its variables are there. Each writing
opens, writes, syncs and closes it: a reader finds it consistent between two minutes. Before a
minute is written its status becomes ``pending``: what a crash leaves in mid-minute is seen so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjar.das.naming import day_of
from nightjar.errors import Busy, Code, Refused, StorageError, storage_code
from nightjar.files import fsync_folder, locked, rename_new, temporary_name
from nightjar.times import iso
from nightjard.merged import attributes, quality
from nightjard.merged.calibration import entry_at
from nightjard.merged.config import MergedConfig
from nightjard.merged.variables import TEXT, Variable, all_variables, dimensions

# HDF5 locks files: a reader would make the next minute's writing fail. Before it is loaded.
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
import netCDF4

log = logging.getLogger(__name__)

HOUR_NS = 3600 * NS_PER_S
TRIES = 5
TRY_S = 0.2
LEAST_FREE_BYTES = 4_000_000
"""Where writing failed and less is free, that is why: the library does not tell the system's error.
A minute is 2 MB."""


def hour_of(utc_ns: int) -> int:
    """Return the start of the UT hour, ns."""
    return utc_ns // HOUR_NS * HOUR_NS


def hour_path(root: Path, utc_ns: int) -> Path:
    """Return the merged file of the hour that holds a time: ``YYYYMMDD_HH.nc``."""
    return root / f"{day_of(utc_ns)}_{utc_ns // HOUR_NS % 24:02d}.nc"


class DamagedFile(StorageError):
    """A merged file that cannot be read or written any more: it must be made anew."""


@contextlib.contextmanager
def hour_lock(config: MergedConfig, hour_ns: int) -> Iterator[None]:
    """Hold the right to write an hour's file.

    Raises
    ------
    Busy
        Another process holds it for longer than the configured time.
    """
    path = hour_path(config.merged_root, hour_ns)
    deadline = time.monotonic() + config.storage.lock_wait_s
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(path.with_name(f".{path.name}.lock"), f"merge {path}"))
                break
            except Refused as error:
                if time.monotonic() >= deadline:
                    raise Busy(error.message, **error.detail) from error
                threading.Event().wait(0.05)
        yield


def text_rows(texts: list[str], length: int) -> NDArray[np.bytes_]:
    """Return texts as rows of single bytes, (n, length): UTF-8, cut, padded with zeros."""
    # An hour has few that differ.
    cut = {one: one.encode()[:length].decode(errors="ignore").encode() for one in set(texts)}
    rows = np.array([cut[one] for one in texts], f"S{length}")
    return rows.view("S1").reshape(len(texts), length)


class HourFile:
    """An hour's file, open for writing.

    Parameters
    ----------
    path
        The file.
    dataset
        Open, without automatic scaling and masking.
    """

    def __init__(self, path: Path, dataset: Any) -> None:
        self.path = path
        self.dataset = dataset
        self._variables: dict[str, Any] = dict(dataset.variables)

    def write(self, name: str, first: int, values: NDArray[Any]) -> None:
        """Write values of a variable from an index of its first dimension on."""
        self._variables[name][first : first + len(values)] = values

    def has(self, name: str) -> bool:
        """Tell whether it has a variable."""
        return name in self._variables

    def read(self, name: str) -> NDArray[Any]:
        """Return a whole variable as stored."""
        return np.asarray(self._variables[name][...])

    def statuses(self) -> list[int]:
        """Return the status of each minute, -1 for those never merged."""
        return [int(one) for one in self.read("minute_status")]

    def begin(self, minutes: list[int]) -> None:
        """Mark minutes (0 to 59) as being written."""
        for minute in minutes:
            self.write("minute_status", minute, np.array([quality.PENDING], np.int8))
        self.dataset.sync()

    def clear(self, minute: int, rate_hz: int) -> None:
        """Set all values of a minute (0 to 59) back to fill."""
        per_minute = {"time": 60 * rate_hz, "onehertz": 60, "minute": 1}
        for name, variable in self._variables.items():
            size = per_minute.get(variable.dimensions[0] if variable.dimensions else "")
            if size is None or name in ("time", "time_onehertz", "time_minute"):
                continue
            shape = (size, *variable.shape[1:])
            fill = getattr(variable, "_FillValue", b"\0" if variable.dtype.kind == "S" else None)
            self.write(name, minute * size, np.full(shape, fill, variable.dtype))

    def note(self, text: str, utc_ns: int) -> None:
        """Add a line to the global attribute ``history``."""
        self.dataset.history = f"{self.dataset.history}\n{iso(utc_ns, 0)}Z {text}"


def create(config: MergedConfig, hour_ns: int, now_ns: int) -> Path:
    """Make the full-size file of an hour, all fill, unless it is there; return its path.

    Raises
    ------
    StorageError
        The folder or the disk failed.
    """
    path = hour_path(config.merged_root, hour_ns)
    if path.exists():
        return path
    temporary = temporary_name(path)
    try:
        with _opened(temporary, "w") as dataset:
            _define(dataset, config, hour_ns)
            dataset.setncatts(attributes.of_file(config, hour_ns, now_ns))
            _write_static(HourFile(temporary, dataset), config, hour_ns)
        _fsync(temporary)
        with contextlib.suppress(FileExistsError):
            rename_new(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot make {path}: {error.strerror or error}", code=storage_code(error),
            path=str(path),
        ) from error  # fmt: skip
    except RuntimeError as error:
        raise (
            _no_space(path)
            if _is_full(path.parent)
            else StorageError(f"cannot make {path}: {error}", path=str(path))
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(path: Path, mode: Literal["w", "a"]) -> Iterator[Any]:
    dataset = netCDF4.Dataset(path, mode, format="NETCDF4")
    try:
        dataset.set_auto_maskandscale(False)
        dataset.set_auto_chartostring(False)
        yield dataset
    finally:
        dataset.close()


def _define(dataset: Any, config: MergedConfig, hour_ns: int) -> None:
    sizes = dimensions(config)
    for name, size in sizes.items():
        dataset.createDimension(name, size)
    hour_text = iso(hour_ns, 0).replace("T", " ")
    for one in all_variables(config, hour_text):
        variable = dataset.createVariable(
            one.name, one.dtype, one.dims, fill_value=one.fill, **_storage(one, sizes, config)
        )
        variable.setncatts(one.attributes)
    # What was just defined would be scaled again by the first writing.
    dataset.set_auto_maskandscale(False)
    dataset.set_auto_chartostring(False)


def _storage(one: Variable, sizes: dict[str, int], config: MergedConfig) -> dict[str, Any]:
    """Return how a variable is stored: chunks of a minute, so that minutes never share one."""
    if not one.dims or one.dims[0] not in ("time", "onehertz"):
        return {}
    chunks = [sizes[name] for name in one.dims]
    chunks[0] = sizes[one.dims[0]] // 60
    storage: dict[str, Any] = {"chunksizes": chunks}
    if config.storage.compression != "none":
        storage |= {
            "compression": config.storage.compression, "complevel": config.storage.level,
            "shuffle": config.storage.shuffle,
        }  # fmt: skip
    return storage


def _write_static(file: HourFile, config: MergedConfig, hour_ns: int) -> None:
    """Write what holds for the whole hour."""
    file.write("time", 0, np.arange(3600 * config.rate_hz) / config.rate_hz)
    file.write("time_onehertz", 0, np.arange(3600.0))
    file.write("time_minute", 0, np.arange(60.0) * 60)
    array = config.array
    for low, numbers, skew in (
        ("ac", config.channels.bolometers("AC"), "skew"),
        ("dc", config.channels.bolometers("DC"), "skew_dc"),
    ):
        channels = np.array(numbers, np.int16)
        if channels.size:
            file.write(skew, 0, (channels * config.convert_interval_s).astype(np.float32))
            file.write(f"das_channel_{low}", 0, channels)
    file.write("bolo_name", 0, text_rows([one.name for one in array], TEXT))
    file.write("bolo_hextant", 0, np.array([one.hextant for one in array], np.int8))
    file.write("bolo_good", 0, np.array([one.is_good for one in array], np.int8))
    file.write("bolo_x", 0, np.array([one.x_arcsec for one in array], np.float32))
    file.write("bolo_y", 0, np.array([one.y_arcsec for one in array], np.float32))
    mounting = entry_at(config.conversions.array, hour_ns)
    if mounting is not None:
        file.dataset["fiducial_angle"][...] = mounting.fiducial_angle_deg
    file.dataset["sample_interval"][...] = 1 / config.rate_hz


@contextlib.contextmanager
def opened(config: MergedConfig, hour_ns: int) -> Iterator[HourFile]:
    """Open an hour's file for writing; it is synced and closed at the end.

    Raises
    ------
    Refused
        It was begun with another configuration.
    DamagedFile
        It cannot be opened or written any more.
    StorageError
        The disk is full.
    """
    path = hour_path(config.merged_root, hour_ns)
    dataset = _open_patiently(path)
    try:
        try:
            begun = getattr(dataset, "config_sha256", "")
            if begun != config.digest:
                raise Refused(
                    f"{path} was begun with another configuration (sha256 {begun[:12]}, now "
                    f"{config.digest[:12]}): move it away, then merge the hour again",
                    path=str(path),
                )
            yield HourFile(path, dataset)
        finally:
            dataset.close()
        _fsync(path)
    except (RuntimeError, OSError, IndexError, KeyError) as error:
        # The library has one exception for all that HDF5 says; a full disk is told by the system.
        full = isinstance(error, OSError) and storage_code(error).name == "NO_SPACE"
        if full or _is_full(path.parent):
            raise _no_space(path) from error
        raise DamagedFile(f"{path} cannot be written: {error}", path=str(path)) from error


def _no_space(path: Path) -> StorageError:
    return StorageError(
        f"cannot write {path}: no space left; make room, then merge again", code=Code.NO_SPACE,
        path=str(path),
    )  # fmt: skip


def _is_full(folder: Path) -> bool:
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize < LEAST_FREE_BYTES


def _open_patiently(path: Path) -> Any:
    """Open for writing; a reader with HDF5's locks may hold it for a moment."""
    for again in range(TRIES):
        try:
            dataset = netCDF4.Dataset(path, "a")
            dataset.set_auto_maskandscale(False)
            dataset.set_auto_chartostring(False)
            return dataset
        except OSError as error:
            if again == TRIES - 1:
                raise DamagedFile(
                    f"{path} cannot be opened for writing: {error}", path=str(path)
                ) from error
            log.info("%s: %s; trying again", path, error)
            threading.Event().wait(TRY_S)
    raise AssertionError("unreachable")


def set_aside(path: Path, now_ns: int) -> Path:
    """Rename a damaged file so that a new one can be made; nothing is deleted."""
    target = path.with_name(f"{path.name}.damaged-{iso(now_ns, 6).replace(':', '')}")
    rename_new(path, target)
    fsync_folder(path.parent)
    return target


def is_readable(file: HourFile) -> bool:
    """Read every value of a file once: whether a crash has left it whole."""
    try:
        for name in file.dataset.variables:
            file.read(name)
    except (RuntimeError, OSError):
        return False
    return True


def is_sound(path: Path) -> bool:
    """Tell whether a file can be opened and read to its end."""
    try:
        dataset = netCDF4.Dataset(path, "r")
    except (RuntimeError, OSError):
        return False
    try:
        dataset.set_auto_maskandscale(False)
        dataset.set_auto_chartostring(False)
        return is_readable(HourFile(path, dataset))
    finally:
        dataset.close()
