# SPDX-License-Identifier: BSD-3-Clause
"""One recording: samples into the slots of minute files, and what can happen to those.

Used by one thread, which is not the one that reads the ADC: a disk that stalls loses nothing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.das.naming import MINUTE_NS, raw_path
from nightjar.das.raw import CLOCK_UNLOCKED, RESTARTED, SLIP, RawDamaged
from nightjar.das.raw_journal import KILLED
from nightjar.das.raw_writer import RawMinuteWriter
from nightjar.errors import StorageError
from nightjar.files import locked, require_folder
from nightjard.dasd.config import DasConfig
from nightjard.dasd.leftovers import folders_near, take_over
from nightjard.dasd.places import Place
from nightjard.dasd.timing import Slots

log = logging.getLogger(__name__)

LOCK_NAME = ".dasd.lock"
BEGAN = "the DAS began"
PREPARE_NS = 10 * 1_000_000_000
GRACE_NS = 2 * 1_000_000_000
"""A minute without samples at its end is published so long after it."""


@dataclass
class Counts:
    """What a recording has done."""

    files: int = 0
    samples: int = 0
    missing: int = 0
    dropped: int = 0
    gaps: int = 0
    slips: int = 0
    last_file: str | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    events: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What a recording needs to know.

    Attributes
    ----------
    root
        Folder of the folders of days.
    is_test
        A test: folders of days are made.
    rescue_root
        Where a minute goes whose folder was deleted.
    make_header
        Returns the header of the minute that begins at a time, with a new serial number.
    clock_state
        Returns the state of the host's clock as plain values.
    now_ns
        Returns the time by the host's clock.
    """

    root: Path
    is_test: bool
    rescue_root: Path
    make_header: Callable[[int], dict[str, Any]]
    clock_state: Callable[[], dict[str, Any]]
    now_ns: Callable[[], int]


class Recorder:
    """A recording.

    Parameters
    ----------
    config
        Of the daemon.
    plan
        What and where.
    utc_ns
        Now, by the ADC's host.

    Raises
    ------
    StorageError
        The folder is missing or has no room.
    Refused
        Another DAS records there.
    """

    def __init__(self, config: DasConfig, plan: Plan, utc_ns: int) -> None:
        self.config, self.plan = config, plan
        self.counts = Counts()
        self.warnings: dict[str, str] = {}
        """What is wrong and lets it go on, by part."""
        self.place = Place(plan.root, config, plan.is_test, self.warnings)
        self._slots = Slots(config.adc.n_slots)
        self._n_slots = config.adc.n_slots
        self._writer: RawMinuteWriter | None = None
        self._ready: RawMinuteWriter | None = None
        self._next: int | None = None
        self._why = BEGAN
        self._moved = 0
        self._is_restart = True
        self._held = contextlib.ExitStack()
        require_folder(plan.root, "recording")
        self._held.enter_context(locked(plan.root / LOCK_NAME, f"a DAS that writes {plan.root}"))
        try:
            self.place.look_for_room()
            self.place.day_folder(utc_ns)
            for folder in folders_near(plan.root, utc_ns):
                _, current = take_over(folder, utc_ns, plan.clock_state(), goes_on=True)
                if current is not None and self._fits(current):
                    self._writer, self._why = current, KILLED
                elif current is not None:
                    current.publish(plan.clock_state(), utc_ns, KILLED, recovered=True)
            if self._writer is None:
                self._writer = self._open(utc_ns // MINUTE_NS)
        except BaseException:
            self._held.close()
            raise

    # --- samples --------------------------------------------------------------------------------

    def write(
        self, samples: NDArray[np.int16], counter: int, utc_ns: int, period_ns: float, why: str = ""
    ) -> None:
        """Record samples that follow each other.

        Parameters
        ----------
        samples
            (n, channels) int16.
        counter, utc_ns, period_ns
            Hardware counter and time of the first, by the host's clock; time from one to the next.
        why
            Why samples are missing before it, where that is known.

        Raises
        ------
        StorageError
            The disk failed; :meth:`close` publishes what there is.
        """
        slot, moved = self._slots.number(counter, utc_ns)
        self._moved += moved
        self._why = why or self._why
        if self._next is None:
            self._next = self._first(slot)
        elif slot > self._next:  # also over the end of a minute, and whole minutes
            self.counts.missing += slot - self._next
        offset = max(0, self._next - slot)
        if offset:
            self.counts.dropped += min(offset, len(samples))
        while offset < len(samples):
            minute, first = divmod(slot + offset, self._n_slots)
            writer = self._minute(minute)
            if writer is None:  # its file is there and cannot be gone on with
                offset += self._n_slots - first
                continue
            if first < writer.next_slot:  # of a file that was there before
                self.counts.dropped += min(writer.next_slot - first, len(samples) - offset)
                offset += writer.next_slot - first
                self._next = slot + offset
                continue
            count = min(len(samples) - offset, self._n_slots - first)
            self._write(
                writer, first, samples[offset : offset + count],
                utc_ns + round(offset * period_ns), period_ns, counter + offset,
            )  # fmt: skip
            offset += count
            self._next = slot + offset

    def _first(self, slot: int) -> int:
        """Return where a recording begins: not in what is recorded already."""
        writer = self._writer
        if writer is None or slot // self._n_slots != writer.start_ns // MINUTE_NS:
            return slot
        return max(slot, slot - slot % self._n_slots + writer.next_slot)

    def _write(
        self, writer: RawMinuteWriter, first: int, samples: NDArray[np.int16], utc_ns: int,
        period_ns: float, counter: int,
    ) -> None:  # fmt: skip
        counts = self.counts
        flags = 0 if self.plan.clock_state().get("is_locked") else CLOCK_UNLOCKED
        if self._is_restart:
            flags |= RESTARTED
        gap = first - writer.next_slot
        if self._moved and not self._is_restart and abs(self._moved) <= 1 and not self._why:
            flags |= SLIP
            counts.slips += 1
            filled = "one slot stays empty" if self._moved > 0 else "one sample was dropped"
            self._why = f"slip: the ADC's clock runs at another rate; {filled}"
        elif self._moved < 0 and not self._is_restart:
            flags |= SLIP
        if gap or flags & SLIP:
            self._why = self._why or "no samples came"
            if gap and self._why != BEGAN:
                counts.gaps += 1
                counts.missing += gap if self._is_restart else 0  # others are counted in write
            if not flags & SLIP or abs(self._moved) > 1:
                self._tell(utc_ns, gap, self._why)
        writer.write(
            first, samples, utc_ns, period_ns, counter, flags=flags, reason=self._why
        )  # fmt: skip
        self._moved, self._why, self._is_restart = 0, "", False
        counts.samples += len(samples)
        counts.first_ns = utc_ns if counts.first_ns is None else counts.first_ns
        counts.last_ns = utc_ns + round((len(samples) - 1) * period_ns)

    def _tell(self, utc_ns: int, gap: int, why: str) -> None:
        if why != BEGAN:
            event = {"utc_ns": utc_ns, "missing": gap, "reason": why}
            self.counts.events = [*self.counts.events[-19:], event]
            log.warning("gap of %d samples: %s", gap, why)

    def interrupt(self, why: str, *, counter_restarts: bool = False) -> None:
        """Say why samples that come next may not follow the last ones."""
        self._why = why
        if counter_restarts:
            self._slots.forget()

    # --- minutes --------------------------------------------------------------------------------

    def _minute(self, minute: int) -> RawMinuteWriter | None:
        """Return the writer of a minute; the one before is published."""
        writer = self._writer
        if writer is not None and writer.start_ns == minute * MINUTE_NS:
            return writer
        if writer is not None:
            self._publish(self._why or "no samples came")
        ready, self._ready = self._ready, None
        if ready is not None and ready.start_ns != minute * MINUTE_NS:
            ready.discard()
            ready = None
        self._writer = ready or self._open(minute)
        return self._writer

    def _fits(self, writer: RawMinuteWriter) -> bool:
        return (writer.n_slots, writer.n_channels) == (self._n_slots, self.config.channels.count)

    def _open(self, minute: int) -> RawMinuteWriter | None:
        """Return the writer of a minute, also where a file of it is there; None where it differs.

        Raises
        ------
        StorageError
            No folder, no room.
        """
        start_ns = minute * MINUTE_NS
        self.place.look_for_room()
        self.place.day_folder(start_ns)
        path = raw_path(self.plan.root, start_ns)
        self.warnings.pop("minute", None)
        if not path.exists():
            return RawMinuteWriter(self.plan.root, start_ns, self.plan.make_header(start_ns))
        try:
            writer = RawMinuteWriter.extend(self.plan.root, path)
        except RawDamaged as error:
            self.warnings["minute"] = f"{error.message}; recording goes on in the next minute"
            return None
        if self._fits(writer):
            if writer.next_slot == self._n_slots:
                self.warnings["minute"] = (
                    f"{path} is there and full: samples of its minute are dropped; was the clock "
                    "set back?"
                )
            return writer
        writer.discard()
        self.warnings["minute"] = (
            f"{path} is there and has other channels or another rate; recording goes on in the "
            "next minute"
        )
        return None

    def _publish(self, why: str) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if not writer.valid or (writer.replaces and not writer.has_new):
            writer.discard()  # all of it is published already
            return
        # What is missing at the end; where nothing is, it does not show.
        path = writer.publish(self.plan.clock_state(), self.plan.now_ns(), why)
        self.counts.files += 1
        self.counts.last_file = str(path)

    # --- what is due every second ----------------------------------------------------------------

    def tick(self, utc_ns: int) -> None:
        """Bring samples to the disk, look after room and folders, prepare the next minute.

        Raises
        ------
        StorageError
            The folder has vanished, the disk is full: stop.
        """
        writer = self._writer
        if writer is not None:
            writer.sync()
            if not writer.is_in_place():
                raise StorageError(
                    f"the folder {writer.path.parent} has vanished while {writer.path.name} was "
                    "recorded; look what happened to the disk, then start again"
                )
            end_ns = writer.start_ns + MINUTE_NS
            if utc_ns > end_ns + GRACE_NS and writer.valid:
                self._publish(self._why or "no samples came")
            elif self._ready is None and utc_ns > end_ns - PREPARE_NS:
                self._prepare(end_ns)
        self.place.look_for_room()
        self.place.look_to_midnight(utc_ns)

    def _prepare(self, start_ns: int) -> None:
        """Begin the next minute ahead of its time: what fails then fails again when it is due."""
        if raw_path(self.plan.root, start_ns).exists():
            return
        try:
            self._ready = self._open(start_ns // MINUTE_NS)
            self.warnings.pop("next", None)
        except StorageError as error:
            self.warnings["next"] = f"the next minute cannot be begun: {error.message}"

    # --- the end --------------------------------------------------------------------------------

    def close(self, why: str) -> Path | None:
        """Publish what there is and let go; return the last minute's file where it is elsewhere.

        Raises
        ------
        StorageError
            It cannot be published anywhere; the hidden files are kept where they can be.
        """
        ready, self._ready = self._ready, None
        with contextlib.suppress(OSError):
            if ready is not None:
                ready.discard()
        writer = self._writer
        elsewhere = None
        try:
            if writer is not None and writer.valid and not writer.is_in_place():
                elsewhere = self._save(writer, why)
            else:
                self._publish(why)
        finally:
            with contextlib.suppress(OSError):
                self._held.close()
        return elsewhere

    def _save(self, writer: RawMinuteWriter, why: str) -> Path:
        """Publish a minute whose folder was moved, or whose file was deleted."""
        self._writer = None
        if writer.is_deleted():
            writer.rescue(self.plan.rescue_root)
        path = writer.publish(self.plan.clock_state(), self.plan.now_ns(), why)
        self.counts.files += 1
        self.counts.last_file = str(path)
        return path
