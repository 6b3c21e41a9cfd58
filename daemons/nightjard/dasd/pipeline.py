# SPDX-License-Identifier: BSD-3-Clause
"""What is done with a block: its time, the live view, the recording. Used by one thread."""

from __future__ import annotations

import logging

from nightjard.dasd.drivers.base import Block
from nightjard.dasd.levels import Ring
from nightjard.dasd.recorder import Recorder
from nightjard.dasd.timing import SampleClock, Step, WallClock

log = logging.getLogger(__name__)


class Pipeline:
    """Blocks in, samples with their times out.

    Parameters
    ----------
    rate_hz, n_channels
        Of the samples.
    """

    def __init__(self, rate_hz: float, n_channels: int) -> None:
        self.samples = SampleClock(rate_hz)
        self.wall = WallClock()
        self.ring = Ring(rate_hz, n_channels)
        self.recorder: Recorder | None = None
        self.steps: list[Step] = []
        """The last times that somebody set the host's clock."""
        self.held = ""
        """Why the host's clock is not followed now; "" where it is."""
        self._epoch: int | None = None
        self._waiting: list[tuple[Block, str]] = []

    def take(self, block: Block, note: str = "") -> None:
        """Take the next block.

        Parameters
        ----------
        block
            As read.
        note
            Why samples are missing before it; "" where none are known to be.

        Raises
        ------
        StorageError
            As :meth:`nightjard.dasd.recorder.Recorder.write`.
        """
        if block.epoch != self._epoch:
            self._flush()  # with the line as far as it is known
            if self._epoch is not None and self.recorder is not None:
                self.recorder.interrupt(note or "the ADC was started again", counter_restarts=True)
            self._epoch = block.epoch
            self.ring.clear()
        step = self.wall.update(block.utc_ns, block.monotonic_ns)
        if step is not None:
            self._stepped(step)
        last = block.counter + len(block.samples) - 1
        self.samples.update(block.epoch, last, block.monotonic_ns)
        self._waiting.append((block, note))
        if self.samples.is_settled:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for block, note in waiting:
            utc_ns = self.samples.time_ns(block.counter) + (self.wall.offset_ns or 0)
            period_ns = self.samples.period_ns
            after_ns = round((len(block.samples) - 1) * period_ns)
            self.ring.add(block.samples, utc_ns + after_ns)
            if self.recorder is not None:
                self.recorder.write(block.samples, block.counter, utc_ns, period_ns, note)

    def _stepped(self, step: Step) -> None:
        text = f"the host's clock was set by {step.seconds:+.3f} s"
        if step.is_followed:
            self.held = ""
        elif self.recorder is None:
            self.wall.release()
        else:
            text += "; the recording goes on by the time before: stop and start it to follow"
            self.held = text
        log.warning("%s", text)
        self.steps = [*self.steps[-9:], step]
        if self.recorder is not None:
            self.recorder.interrupt(text)

    def end_recording(self) -> None:
        """Have no recording, and follow the host's clock again."""
        self.recorder, self.held = None, ""
        self.wall.release()
