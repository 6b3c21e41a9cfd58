# SPDX-License-Identifier: BSD-3-Clause
"""One raw minute file while it grows: hidden, full size from the start, published when it is over.

Three hidden files stand in the folder of the day. The *part* becomes the raw file: all slots are
:data:`~nightjar.das.raw.MISSING` at first, so a killed program leaves nothing that looks like a
sample and is none. The *journal* gets a line a second with what the samples do not tell: when they
were taken. The *sidecar* is room that is reserved, so that a disk which fills up costs no minute.

The folder is held open: a minute is published where its folder is, also when that was moved.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.das import raw_journal
from nightjar.das.naming import MINUTE_NS, index_path, raw_path
from nightjar.das.raw import GAP, HEADER_BYTES, INDEX_FORMAT, MISSING, SATURATED, SLIP, pack_header
from nightjar.das.raw_journal import Marks, Second
from nightjar.errors import Code, StorageError, storage_code
from nightjar.files import fsync_folder, rename_new, temporary_name, write_at

RAIL = 32767
SIDECAR_BYTES = 65536
"""Room that is reserved for a sidecar."""
_FILL = np.full(32768, MISSING, "<i2").data.cast("B")


class RawMinuteWriter:
    """A raw file that grows; slots are written in order, each at most once.

    Parameters
    ----------
    root
        Below it is the folder of the day, which must exist.
    start_ns
        Begin of the minute.
    header
        As :func:`nightjar.das.raw.pack_header` takes it, with n_slots and n_channels.

    Raises
    ------
    StorageError
        The folder is missing or the disk full; nothing is left behind.
    """

    def __init__(self, root: Path, start_ns: int, header: Mapping[str, Any]) -> None:
        self.header = dict(header)
        self.start_ns = start_ns
        self.n_slots, self.n_channels = int(header["n_slots"]), int(header["n_channels"])
        self.path = raw_path(root, start_ns)
        self._begin()
        part = temporary_name(self.path)
        self._names = raw_journal.hidden_names(part)
        packed = pack_header(self.header)
        try:
            self._folder = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._create(packed)
            except BaseException:
                self._forget()
                raise
        except OSError as error:
            raise _failed(f"cannot begin {self.path}", error) from error

    def _begin(self) -> None:
        """Set what is the same for new files and for resumed ones."""
        self.next_slot = 0
        self.valid = 0
        self.is_recovered = False
        self.replaces = False
        """Whether it has all samples of the published file of its minute, and may replace it."""
        self.has_new = False
        """Whether it may hold samples that the published file of its minute has not."""
        self._crc = 0
        self._seconds: dict[int, Second] = {}
        self._marks: Marks = []
        self._gaps: list[dict[str, Any]] = []
        self._saturated = np.zeros(self.n_channels, np.int64)
        self._last: tuple[int, int, int] | None = None  # slot, offset, counter
        self._told = [0, 0]  # marks and gaps that the journal has
        self._touched: set[int] = set()
        self._journal_end = 0
        self._fds: list[int] = []

    @property
    def row_bytes(self) -> int:
        """Bytes of a sample of all channels."""
        return 2 * self.n_channels

    @property
    def size(self) -> int:
        """Bytes of the raw file."""
        return HEADER_BYTES + self.n_slots * self.row_bytes

    def _at(self, name: str) -> Path:
        """Return a path in the folder, wherever that has been moved to."""
        return Path(f"/proc/self/fd/{self._folder}") / name

    def _create(self, packed: bytes) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        sizes = (self.size, SIDECAR_BYTES, SIDECAR_BYTES)
        for name, size in zip(self._names, sizes, strict=True):
            self._fds.append(os.open(self._at(name), flags, 0o644))
            os.posix_fallocate(self._fds[-1], 0, size)
        part, journal, _ = self._fds
        os.ftruncate(journal, 0)
        os.posix_fallocate(journal, 0, SIDECAR_BYTES)
        _fill(part, HEADER_BYTES, self.size)
        write_at(part, packed, 0)

    def _forget(self) -> None:
        """Close and remove the hidden files."""
        for descriptor in self._fds:
            os.close(descriptor)
        self._fds = []
        for name in self._names:
            with contextlib.suppress(OSError):
                self._at(name).unlink()
        os.close(self._folder)

    # --- going on in what an earlier life left ---------------------------------------------------

    @classmethod
    def resume(cls, part: Path) -> RawMinuteWriter:
        """Return the writer of a hidden file that a killed program left.

        Raises
        ------
        StorageError
            It cannot be read.
        RawDamaged
            It was never begun in full: no header, or cut short.
        """
        state = raw_journal.read_left(part)
        self = cls.__new__(cls)
        self.header = state.header
        self.start_ns = int(state.header["utc_start_ns"])
        self.n_slots, self.n_channels = state.shape
        self.path = part.with_name(raw_path(Path(), self.start_ns).name)
        self._begin()
        self.has_new = True
        self._names = raw_journal.hidden_names(part)
        try:
            self._folder = os.open(part.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            for name in self._names:
                self._fds.append(os.open(self._at(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC))
            self._take_over(state)
        except OSError as error:
            raise _failed(f"cannot go on with {part}", error) from error
        return self

    @classmethod
    def extend(cls, root: Path, published: Path) -> RawMinuteWriter:
        """Return a writer that has all samples of a published file and will replace it.

        Raises
        ------
        StorageError, RawDamaged
            As the constructor and :func:`nightjar.das.raw.read_raw`.
        """
        state = raw_journal.read_published(published)
        self = cls(root, int(state.header["utc_start_ns"]), state.header)
        self.replaces = True
        try:
            write_at(self._fds[0], np.ascontiguousarray(state.samples), HEADER_BYTES)
            self._take_over(state)
        except OSError as error:
            self.discard()
            raise _failed(f"cannot go on with {published}", error) from error
        return self

    def _take_over(self, state: raw_journal.Left) -> None:
        is_valid = state.is_valid
        for row in np.flatnonzero(state.is_torn):
            _fill(self._fds[0], HEADER_BYTES + int(row) * self.row_bytes,
                  HEADER_BYTES + int(row + 1) * self.row_bytes)  # fmt: skip
        self.valid = int(is_valid.sum())
        self.next_slot = int(np.flatnonzero(is_valid)[-1]) + 1 if self.valid else 0
        self._seconds, self._marks, self._gaps = state.seconds, state.marks, state.gaps
        self._saturated = state.saturated
        if self.valid and self._marks:
            counter = max((one.counter + one.valid for one in self._seconds.values()), default=0)
            self._last = (self.next_slot - 1, self._marks[-1][1], counter)
        self._journal_end = state.journal_bytes
        done = 0
        while done < self.next_slot * self.row_bytes:
            block = os.pread(
                self._fds[0], min(1 << 20, self.next_slot * self.row_bytes - done),
                HEADER_BYTES + done,
            )  # fmt: skip
            self._crc = zlib.crc32(block, self._crc)
            done += len(block)

    # --- writing --------------------------------------------------------------------------------

    def write(
        self,
        slot: int,
        samples: NDArray[np.int16],
        utc_ns: int,
        period_ns: float,
        counter: int,
        *,
        flags: int = 0,
        reason: str = "",
    ) -> None:
        """Write samples into slots that follow each other.

        Parameters
        ----------
        slot
            Slot of the first sample, :attr:`next_slot` or later: what is between is a gap.
        samples
            (n, n_channels) int16; -32768 is stored as -32767.
        utc_ns, period_ns
            When the first sample was taken by the DAS's clock, and time from one to the next.
        counter
            Hardware counter of the first sample.
        flags
            Of :mod:`nightjar.das.raw`, for the seconds that the samples are in.
        reason
            Of a gap before them, or of a slip.

        Raises
        ------
        StorageError
            The disk failed or is full.
        ValueError
            The slots are not free or beyond the minute.
        """
        count = len(samples)
        if slot < self.next_slot or slot + count > self.n_slots:
            raise ValueError(f"slots {slot} to {slot + count - 1} are not free in {self.path}")
        data = np.ascontiguousarray(samples, "<i2")
        lowest, highest = int(data.min(initial=0)), int(data.max(initial=0))
        if lowest == MISSING:
            data = np.maximum(data, -RAIL)
        if slot > self.next_slot or flags & SLIP:
            self._break(slot, reason)
        try:
            write_at(self._fds[0], data, HEADER_BYTES + slot * self.row_bytes)
        except OSError as error:
            raise _failed(f"cannot write {self.path}", error) from error
        self._crc = zlib.crc32(data.data.cast("B"), self._crc)
        at_rails = max(-lowest, highest) >= RAIL
        self._note(slot, data, utc_ns, period_ns, counter, flags, at_rails)
        self.next_slot = slot + count
        self.valid += count
        self.has_new = True

    def _break(self, slot: int, reason: str) -> None:
        """Note a gap, or samples that were dropped, before a slot."""
        missing = slot - self.next_slot
        self._gaps.append({"slot": self.next_slot, "count": missing, "reason": reason})
        self._crc = _crc_missing(self._crc, missing * self.row_bytes)
        if self._last is not None:
            self._mark(self._last[0], self._last[1])
        self._last = None  # the first sample behind it gets a mark

    def _mark(self, slot: int, offset_ns: int) -> None:
        if not self._marks or self._marks[-1][0] != slot:
            self._marks.append([slot, offset_ns])

    def nominal_ns(self, slot: int) -> int:
        """Return the nominal time of a slot, ns UTC."""
        return self.start_ns + (slot * MINUTE_NS + self.n_slots // 2) // self.n_slots

    def _note(
        self, slot: int, data: NDArray[np.int16], utc_ns: int, period_ns: float, counter: int,
        flags: int, at_rails: bool,
    ) -> None:  # fmt: skip
        """Note in the seconds that samples are in when they were taken."""
        end = slot + len(data)
        at = slot
        while at < end:
            number = at * 60 // self.n_slots
            until = min(end, -(-(number + 1) * self.n_slots // 60))
            done = at - slot
            time_ns = utc_ns + round(done * period_ns)
            second = self._seconds.get(number)
            if second is None:
                second = self._seconds[number] = Second(at, time_ns, counter + done)
                self._mark(at, time_ns - self.nominal_ns(at))
            elif self._last is None:
                self._mark(at, time_ns - self.nominal_ns(at))
            second.valid += until - at
            second.flags |= flags
            if at_rails:
                over = (np.abs(data[done : until - slot]) >= RAIL).sum(axis=0)
                if over.any():
                    second.flags |= SATURATED
                    self._saturated += over
            self._touched.add(number)
            last = until - 1 - slot
            offset_ns = utc_ns + round(last * period_ns) - self.nominal_ns(until - 1)
            self._last = (until - 1, offset_ns, counter + last)
            at = until

    # --- keeping and publishing -----------------------------------------------------------------

    def sync(self) -> None:
        """Bring all to the disk: what a power cut loses is what came after.

        Raises
        ------
        StorageError
            The disk failed.
        """
        line = raw_journal.journal_line(
            {number: self._seconds[number] for number in sorted(self._touched)},
            self._marks[self._told[0] :], self._gaps[self._told[1] :],
        )  # fmt: skip
        self._touched.clear()
        self._told = [len(self._marks), len(self._gaps)]
        try:
            write_at(self._fds[1], line, self._journal_end)
            self._journal_end += len(line)
            os.fdatasync(self._fds[0])
        except OSError as error:
            raise _failed(f"cannot write {self.path}", error) from error

    def is_in_place(self) -> bool:
        """Tell whether the hidden file is still where it was made."""
        try:
            seen = os.stat(self.path.with_name(self._names[0]))
        except OSError:
            return False
        mine = os.fstat(self._fds[0])
        return (seen.st_dev, seen.st_ino) == (mine.st_dev, mine.st_ino)

    def is_deleted(self) -> bool:
        """Tell whether the hidden file has no name any more, in whatever folder."""
        return os.fstat(self._fds[0]).st_nlink == 0

    def rescue(self, root: Path) -> None:
        """Go on in another root, where the folder of the day is made: this one's was deleted.

        Raises
        ------
        StorageError
            That cannot be written either.
        """
        target = raw_path(root, self.start_ns)
        old = self._fds
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(target.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            os.close(self._folder)
            self._folder, self._fds, self.path = folder, [], target
            self._create(os.pread(old[0], HEADER_BYTES, 0))
            for done in range(0, self.size, 1 << 20):
                write_at(self._fds[0], os.pread(old[0], 1 << 20, done), done)
        except OSError as error:
            raise _failed(f"cannot save {self.path.name} in {root}", error) from error
        finally:
            for descriptor in old:
                os.close(descriptor)
        self._journal_end = 0

    def discard(self) -> None:
        """Remove it: it holds no sample that is not elsewhere."""
        self._forget()

    def publish(
        self, clock: Mapping[str, Any], closed_ns: int, reason: str, *, recovered: bool = False
    ) -> Path:
        """Give it its name; what has no sample at its end is a gap with that reason.

        Returns
        -------
        Path
            The raw file.

        Raises
        ------
        StorageError
            The disk failed, or there is another file of that name; the hidden files are kept.
        """
        index = self._index(clock, closed_ns, reason, recovered)
        text = json.dumps(index, separators=(",", ":")).encode() + b"\n"
        part, sidecar = self._fds[0], self._fds[2]
        final = self._at(self.path.name)
        try:
            if final.exists() and not self.replaces:
                raise FileExistsError(17, "another file of that name is there")
            write_at(sidecar, text, 0)
            os.ftruncate(sidecar, len(text))
            os.fsync(sidecar)
            os.fsync(part)
            os.replace(self._at(self._names[2]), self._at(index_path(self.path).name))
            if self.replaces:
                os.replace(self._at(self._names[0]), final)
            else:
                rename_new(self._at(self._names[0]), final)
            fsync_folder(self._at("."))
            place = Path(os.readlink(f"/proc/self/fd/{self._folder}")) / self.path.name
        except OSError as error:
            raise _failed(f"cannot publish {self.path}", error) from error
        self._forget()
        return place

    def _index(
        self, clock: Mapping[str, Any], closed_ns: int, reason: str, recovered: bool
    ) -> dict[str, Any]:
        gaps = list(self._gaps)
        crc = self._crc
        if self.next_slot < self.n_slots:
            missing = self.n_slots - self.next_slot
            gaps.append({"slot": self.next_slot, "count": missing, "reason": reason})
            crc = _crc_missing(crc, missing * self.row_bytes)
        marks = list(self._marks)
        if self._last is not None and (not marks or marks[-1][0] != self._last[0]):
            marks.append([self._last[0], self._last[1]])
        seconds = []
        for number in range(60):
            first = -(-number * self.n_slots // 60)
            whole = -(-(number + 1) * self.n_slots // 60) - first
            second = self._seconds.get(number)
            told = second.told() if second else Second.none()
            told["flags"] |= GAP if told["valid"] < whole else 0
            seconds.append(told)
        slots = [one.slot for one in self._seconds.values()]
        return {
            "format": INDEX_FORMAT,
            "file": self.path.name,
            "size": self.size,
            "crc32_data": crc,
            "serial": self.header.get("serial"),
            "valid": self.valid,
            "first_slot": min(slots) if slots else None,
            "last_slot": self.next_slot - 1 if self.valid else None,
            "seconds": seconds,
            "marks": marks,
            "gaps": gaps,
            "saturated": {
                str(channel): int(self._saturated[channel])
                for channel in np.flatnonzero(self._saturated)
            },
            "clock": dict(clock),
            "recovered": recovered or self.is_recovered,
            "closed_ns": closed_ns,
        }


def _fill(descriptor: int, begin: int, end: int) -> None:
    """Make a part of a file :data:`MISSING`."""
    for at in range(begin, end, len(_FILL)):
        write_at(descriptor, _FILL[: end - at], at)


def _crc_missing(crc: int, count: int) -> int:
    """Return the CRC-32 with so many bytes of :data:`MISSING` behind it."""
    while count > 0:
        crc = zlib.crc32(_FILL[:count], crc)
        count -= len(_FILL)
    return crc


def _failed(what: str, error: OSError) -> StorageError:
    code = storage_code(error)
    hint = "; make room on the disk, then start again" if code is Code.NO_SPACE else ""
    if isinstance(error, FileNotFoundError):
        hint = "; its folder does not exist: create it, then start again"
    return StorageError(f"{what}: {error.strerror}{hint}", code=code)
