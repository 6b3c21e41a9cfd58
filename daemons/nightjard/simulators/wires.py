# SPDX-License-Identifier: BSD-3-Clause
r"""The wires of a simulated observatory, and its physical truth: a file that processes share.

The telescope and the rotator, both simulated, drive status lines and say where they really are;
the simulated ADC and rotator's driver read them. A memory-mapped file of fixed size stands for the
copper: it needs no server and outlives any process.

======  ==========================================================================
bytes   content
======  ==========================================================================
0       magic ``NJWIRES1\n``, padded to 16 bytes; u64 size of the file; padded to 64
then    for each status line: u64 begun, u64 done, 1024 edges (i64 ns UTC, i64 level)
then    angle: u64 begun, u64 done, 65536 rows (i64 ns UTC, f8 degrees)
then    pointing: u64 begun, u64 done, 65536 rows (i64 ns UTC, 5 f8 degrees)
======  ==========================================================================

All are little endian. Each ring has one writer. It counts a row in ``begun``, writes it, then
counts it in ``done``: a reader that finds ``begun`` too far ahead after it has copied rows knows
that some were overwritten under it, and copies again. Nothing is ever locked.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightjar.das.lines import Line
from nightjar.errors import InvalidArgument, StorageError

MAGIC = b"NJWIRES1\n"
EDGES = 1024
"""Edges of a line that are kept."""
ROWS = 65536
"""Rows of angle and of pointing that are kept: 655 s at 100 Hz."""
POINTING = ("az_deg", "el_deg", "ra_deg", "dec_deg", "pa_deg")
"""Columns of pointing: where the beam really looks; RA and Dec are of date (apparent)."""
_WRAPS = (0, 2, 4)  # columns that may jump by 360 degrees
_HEAD_BYTES = 64
_COUNT_BYTES = 16
_RETRIES = 100


class _Ring:
    """One ring of rows in the file: ``begun`` and ``done`` count all that were ever written."""

    def __init__(self, view: memoryview, offset: int, dtype: np.dtype[Any], rows: int) -> None:
        self._counts = np.frombuffer(view, "<u8", 2, offset)
        self._rows = np.frombuffer(view, dtype, rows, offset + _COUNT_BYTES)

    @property
    def done(self) -> int:
        return int(self._counts[1])

    def put(self, times: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Add rows in order of time; only the ring's one writer may."""
        done, size = self.done, self._rows.size
        if len(times) >= size:
            raise InvalidArgument(f"{len(times)} rows at once; the ring of wires keeps {size}")
        self._counts[0] = done + len(times)
        places = (done + np.arange(len(times))) % size
        self._rows["t"][places] = times
        self._rows["v"][places] = values
        self._counts[1] = done + len(times)

    def since(self, t_ns: int) -> NDArray[Any]:
        """Return a copy of the rows from the last one at or before ``t_ns`` on."""
        size = self._rows.size
        wanted = 64
        for _ in range(_RETRIES):
            done = self.done
            first = max(0, done - min(wanted, size - 1))
            rows = self._rows[np.arange(first, done) % size]
            # The slot of row i is written again by row i + size.
            if int(self._counts[0]) > first + size:
                continue
            if first == 0 or wanted >= size or (rows.size and rows["t"][0] <= t_ns):
                return rows
            wanted *= 4
        raise StorageError("the wires are written faster than they can be read")


_EDGE = np.dtype([("t", "<i8"), ("v", "<i8")])
_ANGLE = np.dtype([("t", "<i8"), ("v", "<f8")])
_PLACE = np.dtype([("t", "<i8"), ("v", "<f8", (len(POINTING),))])


def _layout() -> tuple[list[tuple[int, np.dtype[Any], int]], int]:
    places: list[tuple[int, np.dtype[Any], int]] = []
    offset = _HEAD_BYTES
    for dtype, rows in [*((_EDGE, EDGES) for _ in Line), (_ANGLE, ROWS), (_PLACE, ROWS)]:
        places.append((offset, dtype, rows))
        offset += _COUNT_BYTES + rows * dtype.itemsize
    return places, offset


class Wires:
    """The wires: levels of the status lines, the rotator's load angle, the true pointing.

    All times are true UTC, ns: the host's clock. Each line and each ring has one writer.
    """

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.path = path
        self._map = mapped
        self._view = memoryview(mapped)
        places, _ = _layout()
        rings = [_Ring(self._view, *place) for place in places]
        self._lines = dict(zip(Line, rings, strict=False))
        self._angle, self._pointing = rings[-2:]

    @classmethod
    def create(cls, path: Path) -> Wires:
        """Make the file with all lines low, and open it.

        Raises
        ------
        StorageError
            It exists already, or cannot be made.
        """
        _, size = _layout()
        try:
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            try:
                os.write(descriptor, (MAGIC.ljust(16, b"\0") + size.to_bytes(8, "little")))
                os.ftruncate(descriptor, size)
                os.fchmod(descriptor, 0o660)
                os.link(name, path)
            finally:
                os.close(descriptor)
                os.unlink(name)
        except OSError as error:
            raise StorageError(f"wires {path} cannot be made: {error.strerror}") from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Wires:
        """Open the file.

        Raises
        ------
        StorageError
            There is none, or it is something else.
        """
        _, size = _layout()
        try:
            with path.open("r+b") as file:
                if file.read(len(MAGIC)) != MAGIC or os.fstat(file.fileno()).st_size != size:
                    raise StorageError(f"{path}: it is no file of simulated wires")
                return cls(path, mmap.mmap(file.fileno(), size))
        except OSError as error:
            raise StorageError(f"wires {path} cannot be opened: {error.strerror}") from error

    @classmethod
    def ensure(cls, path: Path) -> Wires:
        """Open the file; make it first where there is none."""
        if not path.exists():
            try:
                return cls.create(path)
            except StorageError as error:
                if not isinstance(error.__cause__, FileExistsError):
                    raise
        return cls.open(path)

    def close(self) -> None:
        """Let go of the file; the object cannot be used any more."""
        self._lines.clear()
        del self._angle, self._pointing
        self._view.release()
        self._map.close()

    def set_line(self, line: Line, level: bool, t_ns: int | None = None) -> None:
        """Drive a line; the same level as after its last edge is no edge.

        Parameters
        ----------
        line
            Which.
        level
            True for high.
        t_ns
            When, ns UTC; None for now; may be still to come. Never before the last edge: then it
            is at that one.
        """
        ring = self._lines[line]
        last = ring.since(2**62)
        if bool(last["v"][-1] if last.size else False) == level:
            return
        when = time.time_ns() if t_ns is None else t_ns
        when = max(when, int(last["t"][-1])) if last.size else when
        ring.put(np.array([when], np.int64), np.array([level], np.int64))

    def level(self, line: Line) -> bool:
        """Return the level now, by the host's clock; low where it was never driven.

        A line may have edges that are still to come: the telescope knows its own half a second
        ahead, so that who samples the wires late or early sees them at the right time.
        """
        return bool(self.levels_at(line, [time.time_ns()])[0])

    def edges(self, line: Line) -> list[tuple[int, bool]]:
        """Return the edges that are kept: (ns UTC, level after it)."""
        return [(int(row["t"]), bool(row["v"])) for row in self._lines[line].since(-(2**62))]

    def levels_at(self, line: Line, t_ns: ArrayLike) -> NDArray[np.bool_]:
        """Return the level at true times, (n,)."""
        when = np.atleast_1d(np.asarray(t_ns, np.int64))
        rows = self._lines[line].since(int(when.min()) if when.size else 0)
        if not rows.size:
            return np.zeros(when.shape, bool)
        before = rows["v"][0] == 0  # the level before the first edge that is kept
        known = np.concatenate(([before], rows["v"] != 0))
        return np.asarray(known[np.searchsorted(rows["t"], when, "right")])

    def put_angle(self, t_ns: ArrayLike, theta_deg: ArrayLike) -> None:
        """Say where the rotator's load really is: one time or several in order."""
        self._angle.put(
            np.atleast_1d(np.asarray(t_ns, np.int64)),
            np.atleast_1d(np.asarray(theta_deg, np.float64)),
        )

    def angles_at(self, t_ns: ArrayLike) -> NDArray[np.float64]:
        """Return the load's angle at true times, (n,): straight lines, the last one held.

        NaN where nobody ever said one.
        """
        when = np.atleast_1d(np.asarray(t_ns, np.int64))
        rows = self._angle.since(int(when.min()) if when.size else 0)
        if not rows.size:
            return np.full(when.shape, np.nan)
        zero = rows["t"][-1]
        return np.asarray(np.interp(when - zero, rows["t"] - zero, rows["v"]))

    def put_pointing(
        self,
        t_ns: ArrayLike,
        az: ArrayLike,
        el: ArrayLike,
        ra: ArrayLike,
        dec: ArrayLike,
        pa: ArrayLike,
    ) -> None:
        """Say where the beam really looks, degrees; RA and Dec apparent; one row or several."""
        values = np.stack(
            [np.atleast_1d(np.asarray(each, np.float64)) for each in (az, el, ra, dec, pa)], 1
        )
        self._pointing.put(np.atleast_1d(np.asarray(t_ns, np.int64)), values)

    def pointing_at(self, t_ns: ArrayLike) -> NDArray[np.float64]:
        """Return the true pointing at true times, (n, 5): the columns of :data:`POINTING`.

        Straight lines between rows, also over 0 = 360 degrees; the last one held; NaN for none.
        """
        when = np.atleast_1d(np.asarray(t_ns, np.int64))
        rows = self._pointing.since(int(when.min()) if when.size else 0)
        found = np.full((when.size, len(POINTING)), np.nan)
        if not rows.size:
            return found
        zero = rows["t"][-1]
        for column in range(len(POINTING)):
            values = rows["v"][:, column]
            if column in _WRAPS:
                values = np.unwrap(values, period=360.0)
            found[:, column] = np.interp(when - zero, rows["t"] - zero, values)
            if column in (0, 2):
                found[:, column] %= 360.0
        return found

    def last_pointing_ns(self) -> int | None:
        """Return the time of the newest row of pointing; None for none."""
        rows = self._pointing.since(2**62)
        return int(rows["t"][-1]) if rows.size else None
