# SPDX-License-Identifier: BSD-3-Clause
"""The exposure sequence: a state machine stepped by the thread that owns the detector.

WAITING -> EXPOSING -> READING -> (WAITING ...) -> DRAINING -> ended. A sequence is complete when
its last frame is in its file and the pipeline has answered for it; abort ends it at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightjar.api.states import CameraState
from nightjar.clock import NS_PER_S, Clock, clock_health
from nightjar.errors import (
    Cancelled,
    Code,
    DeviceError,
    DeviceWedged,
    FrameInvalid,
    NightjarError,
    Refused,
)  # fmt: skip
from nightjar.operations import Operation
from nightjar.times import file_stamp
from nightjard.camd.config import CameraConfig
from nightjard.camd.cooler import Cooler
from nightjard.camd.counter import FrameCounter
from nightjard.camd.drivers.base import Capabilities, Detector, FrameRecord, Phase, Readout
from nightjard.camd.frames import (
    Crop,
    FrameContext,
    check_frame,
    header_values,
    sample,
    saving_job,
    stream_keywords,
)  # fmt: skip
from nightjard.camd.hostclock import HostClock
from nightjard.camd.ring import FrameRing
from nightjard.camd.settings import Observation
from nightjard.camd.wheel import FilterWheel

log = logging.getLogger(__name__)

POLL_S = 0.02  # longest pause between two looks at an exposure that is about to end
SLOW_POLL_S = 0.1  # while much of a long exposure is left


@dataclass
class Counts:
    """Totals since the daemon started."""

    taken: int = 0
    lost: int = 0
    invalid: int = 0
    buffer_waits: int = 0


@dataclass
class _Sequence:
    run: str
    limit: int
    delay_s: float
    operation: Operation
    host_clock: HostClock
    taken: int = 0
    lost: int = 0
    invalid_before: int = 0
    lost_before: int = 0
    missing: int = 0  # reported by the device since the last frame that was kept
    invalid_in_row: int = 0
    buffer_waits: int = 0
    clock_step_s: float = 0.0
    previous_start_ns: int | None = None  # monotonic, of the frame before
    known_start_ns: int | None = None  # of the last frame of which it is known
    last_id: int | None = None
    not_before_ns: int = 0
    deadline_ns: int = 0
    is_stopping: bool = False
    stop_reason: str = ""
    stop_error: NightjarError | None = None
    is_waiting_for_buffer: bool = False
    was_drained: bool = False
    reported: int = field(default=-1)


@dataclass(frozen=True)
class Sinks:
    """Where frames and news go."""

    submit: Callable[[dict[str, Any]], None]
    expect: Callable[[Path], None]
    is_drained: Callable[[], bool]
    on_frame: Callable[[dict[str, Any], FrameRecord], None]
    on_end: Callable[[str, NightjarError | None], None]
    say: Callable[[str], None]
    warn: Callable[[str], None]


class Sequencer:
    """Runs sequences on one open detector.

    Parameters
    ----------
    config, detector, capabilities, cooler, wheel, counter, clock
        The camera's parts.
    sinks
        Where frames go.
    counts
        Totals, shared with the status.
    """

    def __init__(
        self,
        config: CameraConfig,
        detector: Detector,
        capabilities: Capabilities,
        cooler: Cooler,
        wheel: FilterWheel,
        counter: FrameCounter,
        clock: Clock,
        sinks: Sinks,
        counts: Counts,
    ) -> None:
        self._config = config
        self._detector = detector
        self._capabilities = capabilities
        self._cooler = cooler
        self._wheel = wheel
        self._counter = counter
        self._clock = clock
        self._sinks = sinks
        self._counts = counts
        self._sequence: _Sequence | None = None
        self._phase = CameraState.IDLE
        self._observation: Observation | None = None
        self._readout: Readout | None = None
        self._crop: Crop | None = None
        self._ring: FrameRing | None = None
        # Kept from one sequence to the next: the first frame may be an old one as well.
        self._last_sample: bytes | None = None
        self._must_abort = False
        self.cancel_fetch = threading.Event()
        self.exposure_started_ns: int | None = None

    # ------------------------------------------------------------ what it is doing

    @property
    def is_running(self) -> bool:
        """Whether a sequence is in progress, draining included."""
        return self._sequence is not None

    @property
    def is_taking(self) -> bool:
        """Whether a sequence goes on taking frames: it is neither draining nor to be stopped."""
        sequence = self._sequence
        return (
            sequence is not None
            and not sequence.is_stopping
            and self._phase is not CameraState.DRAINING
        )

    @property
    def operation(self) -> Operation | None:
        """The operation of the sequence in progress."""
        return self._sequence.operation if self._sequence else None

    @property
    def state(self) -> CameraState:
        """IDLE, WAITING, EXPOSING, READING or DRAINING."""
        return self._phase

    def progress(self) -> tuple[int, int, float]:
        """Return (frames taken, frames asked for, delay in seconds) of the sequence, else zeros."""
        sequence = self._sequence
        return (sequence.taken, sequence.limit, sequence.delay_s) if sequence else (0, 0, 0.0)

    # ------------------------------------------------------------ commands

    def begin(
        self,
        observation: Observation,
        readout: Readout,
        crop: Crop,
        ring: FrameRing,
        limit: int,
        delay_s: float,
        operation: Operation,
    ) -> None:
        """Begin a sequence; the detector is configured and idle."""
        now_ns = self._clock.now_ns()
        self._observation, self._readout, self._crop, self._ring = observation, readout, crop, ring
        self._sequence = _Sequence(
            run=file_stamp(now_ns), limit=limit, delay_s=delay_s, operation=operation,
            host_clock=HostClock(self._clock),
        )  # fmt: skip
        self._phase = CameraState.WAITING
        # A new one: who still holds that of an earlier sequence cannot cancel this one's fetch.
        self.cancel_fetch = threading.Event()
        wanted = f"{limit} frames" if limit else "frames until stopped"
        self._sinks.say(
            f"sequence {self._sequence.run}: {wanted} of {observation.exposure_s:g} s begun"
        )

    def stop(
        self, reason: str = "stopped by command", error: NightjarError | None = None
    ) -> None:
        """End after the present frame; with an error, that is how its operation ends.

        Raises
        ------
        Refused
            No sequence is running.
        """
        if self._sequence is None or self._phase is CameraState.DRAINING:
            raise Refused("camera is not acquiring", code=Code.NOT_ACQUIRING)
        if not self._sequence.is_stopping:
            self._sequence.is_stopping = True
            self._sequence.stop_reason, self._sequence.stop_error = reason, error

    def abort(self, reason: str, error: NightjarError | None = None) -> None:
        """End now; the frame being exposed is discarded, those read out are saved."""
        if self._sequence is None:
            return
        try:
            if self._phase is not CameraState.DRAINING:
                self._must_abort = True
                self.settle()
        finally:
            self._end(reason, error or Cancelled(f"sequence aborted: {reason}"))

    def settle(self) -> None:
        """Make sure that the detector is idle: an abort that failed is asked for again."""
        if self._must_abort:
            self._detector.abort()
            self._must_abort = False

    def forget(self, error: NightjarError) -> None:
        """End because the detector is gone: nothing more is asked of it."""
        if self._sequence is not None:
            self._end(error.message, error)

    # ------------------------------------------------------------ one look

    def step(self) -> float:
        """Advance as far as possible without waiting; returns seconds until the next look."""
        sequence = self._sequence
        if sequence is None:
            return 1.0
        self._report(sequence)
        if self._phase is CameraState.DRAINING:
            # Twice: a failed hand-over is reported before its frame counts as dealt with, and the
            # report is read between two looks.
            if self._sinks.is_drained() and sequence.was_drained:
                self._end(sequence.stop_reason, sequence.stop_error)
            sequence.was_drained = self._sinks.is_drained()
            return 0.0 if sequence.was_drained and self._sequence is not None else POLL_S
        if self._phase is CameraState.WAITING and self.exposure_started_ns is None:
            return self._start_exposure(sequence)
        return self._look(sequence)

    def _start_exposure(self, sequence: _Sequence) -> float:
        assert self._ring is not None
        assert self._observation is not None
        if sequence.is_stopping:
            self._drain(sequence)
            return 0.0
        now_ns = self._clock.monotonic_ns()
        if now_ns < sequence.not_before_ns:
            return min(SLOW_POLL_S, (sequence.not_before_ns - now_ns) / NS_PER_S)
        if self.cancel_fetch.is_set():
            # Whoever cancelled the read-out gave its command up; the frame is gone all the same.
            self.abort("aborted by command")
            return 0.0
        if self._wheel.is_moving:
            return POLL_S
        if not self._ring.has_room and self._config.full_buffer != "drop":
            self._note_full_buffer(sequence)
            if self._config.full_buffer == "stop":
                self._stop_for_buffer()
                return 0.0
            return POLL_S
        sequence.is_waiting_for_buffer = False
        self._counter.secure()
        self._detector.start()
        self._expose_from(now_ns, sequence)
        return 0.0

    def _expose_from(self, now_ns: int, sequence: _Sequence) -> None:
        assert self._observation is not None
        self.exposure_started_ns = now_ns
        sequence.deadline_ns = (
            now_ns + self._observation.exposure_ns + round(self._config.readout_timeout * NS_PER_S)
        )
        self._phase = CameraState.EXPOSING

    def _look(self, sequence: _Sequence) -> float:
        """Look at the exposure, and fetch its frame when it is there."""
        assert self._observation is not None
        progress = self._detector.poll()
        if progress.phase is Phase.READY:
            return self._fetch(sequence)
        if progress.phase is Phase.EXPOSING:
            self._phase = CameraState.EXPOSING
        elif progress.phase is Phase.READING:
            self._phase = CameraState.READING
        else:
            raise DeviceError("the exposure ended without a frame")
        if self._clock.monotonic_ns() > sequence.deadline_ns:
            raise DeviceWedged(
                f"no frame {self._config.readout_timeout:g} s after the end of an exposure of "
                f"{self._observation.exposure_s:g} s"
            )
        left_s = (self._observation.exposure_ns - progress.elapsed_ns) / NS_PER_S
        if progress.phase is Phase.READING or left_s <= 0:
            return POLL_S / 4
        return min(SLOW_POLL_S, max(0.001, left_s / 2))

    def _fetch(self, sequence: _Sequence) -> float:
        assert self._ring is not None
        self._phase = CameraState.READING
        acquired = self._ring.acquire()
        if acquired is None:
            return self._no_slot(sequence)
        sequence.is_waiting_for_buffer = False
        slot, buffer = acquired
        published = False
        try:
            record = self._detector.fetch(buffer, self.cancel_fetch.is_set)
            sequence.missing += record.lost_before
            sampled = sample(buffer.array)
            check_frame(buffer.array, sampled, record, sequence.last_id, self._last_sample)
            job = self._make_job(sequence, slot, buffer.path, buffer.offset, record)
            self._ring.publish(
                slot, job, record.start_ns, stream_keywords(record, job["number"])
            )
            published = True
        except FrameInvalid as error:
            return self._repeat(sequence, error)
        except Cancelled:
            # The command that wants it waits already, see Camera.abort; nothing is kept.
            self._detector.abort()
            self.exposure_started_ns = None
            self._phase = CameraState.WAITING
            sequence.not_before_ns = self._clock.monotonic_ns() + NS_PER_S
            return 0.0
        finally:
            if not published:
                self._ring.abandon(slot)
        self._kept(sequence, job, record, sampled)
        return self._next(sequence)

    def _no_slot(self, sequence: _Sequence) -> float:
        """A frame is ready and its slot is still in use."""
        assert self._observation is not None
        self._note_full_buffer(sequence)
        policy = self._config.full_buffer
        if policy == "stop":
            self._stop_for_buffer()
        if policy == "drop" and not self._observation.stream:
            self._detector.abort()
            self._lose(sequence, 1, "no free slot in the frame buffer")
            self._pause(sequence)
            return 0.0
        # The camera keeps the frame; one that overlaps exposures overwrites it in the end, and
        # that is counted by its own frame numbers.
        sequence.deadline_ns = self._clock.monotonic_ns() + round(
            self._config.readout_timeout * NS_PER_S
        )
        return POLL_S / 4

    def _stop_for_buffer(self) -> None:
        text = "the frame buffer is full: saving is slower than the camera"
        self.stop(text, NightjarError(text))

    def _pause(self, sequence: _Sequence) -> None:
        """Wait for the next exposure's time."""
        self.exposure_started_ns = None
        sequence.not_before_ns = self._clock.monotonic_ns() + round(sequence.delay_s * NS_PER_S)
        self._phase = CameraState.WAITING

    def _note_full_buffer(self, sequence: _Sequence) -> None:
        if not sequence.is_waiting_for_buffer:
            sequence.is_waiting_for_buffer = True
            sequence.buffer_waits += 1
            self._counts.buffer_waits += 1
            log.warning(
                "frame buffer is full (wait %d of this sequence): saving is slower than the camera",
                sequence.buffer_waits,
            )

    def _lose(self, sequence: _Sequence, count: int, why: str) -> None:
        sequence.lost += count
        sequence.lost_before += count
        self._counts.lost += count
        self._sinks.say(f"{count} frame{'s' if count > 1 else ''} lost: {why}")

    def _repeat(self, sequence: _Sequence, error: FrameInvalid) -> float:
        """Count a bad frame and take it again, a limited number of times."""
        assert self._observation is not None
        sequence.invalid_in_row += 1
        sequence.invalid_before += 1
        self._counts.invalid += 1
        log.warning("%s (%d in a row)", error.message, sequence.invalid_in_row)
        if sequence.invalid_in_row > self._config.frame_retries:
            raise FrameInvalid(
                f"{error.message}, {sequence.invalid_in_row} times in a row; "
                f"shut the camera down, check its power and cable, and init it again"
            )
        if self._observation.stream:
            self._expose_from(self._clock.monotonic_ns(), sequence)
        else:
            self.exposure_started_ns = None
            self._phase = CameraState.WAITING
        return 0.0

    def _make_job(
        self, sequence: _Sequence, slot: int, path: str, offset: int, record: FrameRecord
    ) -> dict[str, Any]:
        """Return the saving job of a good frame, with its number."""
        assert self._observation is not None
        assert self._readout is not None
        assert self._crop is not None
        lost = sequence.missing
        if self._observation.stream and record.hardware_id and sequence.last_id:
            gap = record.hardware_id - sequence.last_id - 1
            lost = max(lost, gap - sequence.invalid_before)
        sequence.missing = 0
        if lost:
            self._lose(sequence, lost, "the camera reports them missing")
        # Spans of time are those of the monotonic clock.
        self._watch_clock(sequence)
        start_ns = sequence.host_clock.monotonic_ns(record.start_ns, sequence.known_start_ns)
        sequence.known_start_ns = start_ns or sequence.known_start_ns
        end_ns = sequence.host_clock.monotonic_ns(record.end_ns, sequence.known_start_ns)
        previous_ns, sequence.previous_start_ns = sequence.previous_start_ns, start_ns
        reading = self._cooler.reading
        context = FrameContext(
            number=self._counter.take(), reference=self._counter.reference, run=sequence.run,
            index=sequence.taken + 1, limit=sequence.limit,
            cadence_s=_seconds_between(previous_ns, start_ns),
            temperature_age_s=_seconds_between(reading.monotonic_ns or None, end_ns),
            lost_before=sequence.lost_before,
            lost_in_sequence=sequence.lost, invalid_before=sequence.invalid_before,
            buffer_waits=sequence.buffer_waits, clock_step_s=sequence.clock_step_s,
            clock=clock_health(), cooler=reading, filter=self._wheel.name,
        )  # fmt: skip
        values = header_values(
            self._config, self._capabilities, self._observation, self._readout, record, context
        )
        return saving_job(
            self._config, self._crop, self._observation, self._readout, record, values,
            (path, offset, slot),
        )  # fmt: skip

    def _kept(
        self, sequence: _Sequence, job: dict[str, Any], record: FrameRecord, sampled: bytes
    ) -> None:
        """Pass on a frame that is in its slot and in the journal."""
        self._sinks.expect(Path(job["path"]))
        self._sinks.on_frame(job, record)
        self._sinks.submit(job)
        sequence.taken += 1
        self._counts.taken += 1
        sequence.invalid_in_row = sequence.invalid_before = sequence.lost_before = 0
        sequence.last_id, self._last_sample = record.hardware_id, sampled

    def _watch_clock(self, sequence: _Sequence) -> None:
        """Note whether the host's clock was stepped since the last frame."""
        step_s = sequence.host_clock.look()
        if step_s:
            sequence.clock_step_s += step_s
            self._sinks.warn(f"the host's clock was stepped by {step_s:+.3f} s during a sequence")

    def _next(self, sequence: _Sequence) -> float:
        assert self._observation is not None
        if sequence.limit and sequence.taken >= sequence.limit:
            sequence.is_stopping = True
            sequence.stop_reason = "all frames taken"
        if sequence.is_stopping:
            self._drain(sequence)
            return 0.0
        if self._observation.stream:
            self._expose_from(self._clock.monotonic_ns(), sequence)
        else:
            self._pause(sequence)
        return 0.0

    def _drain(self, sequence: _Sequence) -> None:
        self._detector.abort()  # ends a stream; harmless after a single exposure
        self.exposure_started_ns = None
        sequence.stop_reason = sequence.stop_reason or "stopped by command"
        self._phase = CameraState.DRAINING

    def _end(self, reason: str, error: NightjarError | None) -> None:
        sequence = self._sequence
        assert sequence is not None
        self._sequence = None
        self._phase = CameraState.IDLE
        self.exposure_started_ns = None
        result = {
            "run": sequence.run, "frames": sequence.taken, "lost": sequence.lost, "reason": reason,
        }  # fmt: skip
        lost = f", {sequence.lost} lost" if sequence.lost else ""
        self._sinks.say(
            f"sequence {sequence.run} ended: {reason}; {sequence.taken} frames taken{lost}"
        )
        self._sinks.on_end(reason, error)
        if error is None:
            sequence.operation.finish(result, f"{sequence.taken} frames taken{lost}; {reason}")
        else:
            error.detail.update(result)
            sequence.operation.fail(error)

    def _report(self, sequence: _Sequence) -> None:
        if sequence.limit:
            done = float(sequence.taken)
            started = self.exposure_started_ns
            if started is not None and self._observation is not None:
                span_ns = max(1, self._observation.exposure_ns)
                done += min(0.99, (self._clock.monotonic_ns() - started) / span_ns)
            fraction = min(0.99, done / sequence.limit)
            message = f"frame {min(sequence.taken + 1, sequence.limit)} of {sequence.limit}"
        else:
            fraction, message = None, f"frame {sequence.taken + 1}"
        if self._phase is CameraState.DRAINING:
            message = "saving the last frames"
        sequence.operation.update(fraction, self._phase.name, message)


def _seconds_between(earlier_ns: int | None, later_ns: int | None) -> float | None:
    if earlier_ns is None or later_ns is None:
        return None
    return (later_ns - earlier_ns) / NS_PER_S
