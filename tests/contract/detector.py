# SPDX-License-Identifier: BSD-3-Clause
"""What every detector driver must do: checks that a driver's test module inherits.

A test module says how to make its driver, and gets all checks::

    class TestMyCamera(DetectorContract):
        @pytest.fixture
        def bench(self) -> Bench:
            return Bench(make=lambda: MyDetector(...), make_missing=lambda: MyDetector(...))

A check of something that the device says it cannot do asserts the refusal instead. Where the
clock is a :class:`~nightjar.clock.ManualClock`, `tick` advances it; else it takes a short nap
between two looks, always under a deadline of `patience_s`.
"""

from __future__ import annotations

import json
import math
import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kit.soon import assert_soon
from nightjar.clock import Clock, SystemClock
from nightjar.errors import Cancelled, Code, DeviceNotFound, NightjarError
from nightjard.camd.drivers.base import (
    Capabilities,
    Detector,
    FrameBuffer,
    FrameRecord,
    Phase,
    Readout,
    Settings,
)
from nightjard.camd.geometry import Region

FILL = 0xA5A5
SLOT_OFFSET = 4096  # a frame is not at the start of its file


def nap() -> None:
    """Let a little real time pass between two looks at a device."""
    time.sleep(0.003)


@dataclass
class Bench:
    """How the checks get at a driver.

    Attributes
    ----------
    make, make_missing
        Return a driver, not open, of a device that is there; of one that is not (None: cannot be
        tested).
    clock, tick
        The driver's time, and what lets some of it pass.
    exposure_s, long_exposure_s
        A short exposure that the device really does, and one that does not end during a test.
    patience_s
        Driver time after which a frame, a filter or an abort is overdue.
    call_s
        Real time within which each call must return.
    stamp_s
        How far start time and duration may be off (a host's stamps carry its jitter).
    changes_pixels
        Two frames are never equal.
    """

    make: Callable[[], Detector]
    make_missing: Callable[[], Detector] | None = None
    clock: Clock = field(default_factory=SystemClock)
    tick: Callable[[], None] = nap
    exposure_s: float = 0.05
    long_exposure_s: float = 30.0
    patience_s: float = 10.0
    call_s: float = 1.0
    stamp_s: float = 0.3
    changes_pixels: bool = True

    def until(self, is_true: Callable[[], bool], what: str) -> None:
        """Let time pass until something is true."""
        deadline = self.clock.monotonic_ns() + round(self.patience_s * 1e9)
        while not is_true():
            if self.clock.monotonic_ns() > deadline:
                raise AssertionError(f"not within {self.patience_s} s: {what}")
            self.tick()


def make_buffer(folder: Path, shape: tuple[int, int], name: str = "stream") -> FrameBuffer:
    """Return a buffer in a real mapped file, filled with a pattern."""
    path = folder / f"{name}.shm"
    count = shape[0] * shape[1]
    with path.open("wb") as file:
        file.truncate(SLOT_OFFSET + 2 * count + 512)
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    array = np.frombuffer(mapped, np.uint16, count, SLOT_OFFSET).reshape(shape)
    array.fill(FILL)
    return FrameBuffer(str(path), SLOT_OFFSET, array)


def never() -> bool:
    """Not cancelled."""
    return False


class Timed:
    """A detector, and which of its calls took longest in real time."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.slowest: tuple[float, str] = (0.0, "")

    def __getattr__(self, name: str) -> Callable[..., object]:
        call = getattr(self._detector, name)

        def timed(*arguments: object) -> object:
            began = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self.slowest = max(self.slowest, (time.perf_counter() - began, name))

        return timed


def refused_with(code: Code, call: Callable[[], object]) -> NightjarError:
    """Make a call that must fail with a code; return the error."""
    with pytest.raises(NightjarError) as caught:
        call()
    assert caught.value.code is code, f"{caught.value.code} instead of {code}: {caught.value}"
    assert len(caught.value.message) > 10, "the message says nothing"
    assert "\n" not in caught.value.message
    return caught.value


class DetectorContract:
    """The checks; inherit and define the fixture ``bench``."""

    @pytest.fixture
    def opened(self, bench: Bench) -> Iterator[tuple[Detector, Capabilities]]:
        made = bench.make()
        try:
            yield made, made.open()
        finally:
            made.close()

    @pytest.fixture
    def detector(self, opened: tuple[Detector, Capabilities]) -> Detector:
        return opened[0]

    @pytest.fixture
    def capabilities(self, opened: tuple[Detector, Capabilities]) -> Capabilities:
        return opened[1]

    def settings(self, bench: Bench, **changes: object) -> Settings:
        return replace(Settings(round(bench.exposure_s * 1e9)), **changes)  # type: ignore[arg-type]

    def long(self, bench: Bench, **changes: object) -> Settings:
        return self.settings(bench, exposure_ns=round(bench.long_exposure_s * 1e9), **changes)

    def wait_ready(self, bench: Bench, detector: Detector) -> None:
        bench.until(lambda: detector.poll().phase is Phase.READY, "a frame is ready")

    def take(
        self, bench: Bench, detector: Detector, folder: Path, settings: Settings
    ) -> tuple[FrameRecord, FrameBuffer, Readout]:
        readout = detector.configure(settings)
        buffer = make_buffer(folder, readout.shape)
        detector.start()
        self.wait_ready(bench, detector)
        return detector.fetch(buffer, never), buffer, readout

    # -- connection -----------------------------------------------------------------------------

    def test_capabilities_are_consistent(self, capabilities: Capabilities) -> None:
        c = capabilities
        assert (c.readout.x1, c.readout.y1) == (1, 1)
        assert c.readout.contains(c.image_region)
        for region in (c.bias_region, c.dark_region):
            if region is not None:
                assert c.readout.contains(region)
                assert c.image_region.intersection(region) is None, f"{region} sees light"
        for limits in (c.exposure_s, c.gain, c.offset, c.setpoint_c):
            if limits is not None:
                assert math.isfinite(limits.low)
                assert limits.low <= limits.high
        assert c.exposure_s.low >= 0
        assert c.exposure_s.high > 0
        assert 1 in c.binnings
        assert list(c.binnings) == sorted(set(c.binnings))
        assert (c.cooler == "pwm") == (c.pwm_max > 0)
        assert (c.cooler == "setpoint") == (c.setpoint_c is not None)
        assert len(set(c.filters)) == len(c.filters)
        assert c.row_period_ns >= 0
        assert c.model
        assert isinstance(c.serial, str)

    def test_capabilities_are_plain_values(self, capabilities: Capabilities) -> None:
        json.dumps(asdict(capabilities), allow_nan=False)

    def test_opens_again_after_close(self, bench: Bench) -> None:
        detector = bench.make()
        first = detector.open()
        detector.close()
        assert detector.open() == first
        detector.close()

    def test_close_is_harmless_when_not_open(self, bench: Bench) -> None:
        detector = bench.make()
        detector.close()
        detector.open()
        detector.close()
        detector.close()
        with pytest.raises(NightjarError):
            detector.start()

    def test_refuses_calls_before_open(self, bench: Bench) -> None:
        detector = bench.make()
        for call in (
            lambda: detector.configure(self.settings(bench)), detector.start, detector.poll,
            detector.abort, detector.telemetry,
        ):  # fmt: skip
            with pytest.raises(NightjarError):
                call()

    def test_missing_device_is_not_found(self, bench: Bench) -> None:
        if bench.make_missing is None:
            pytest.skip("this bench has no way to miss the device")
        detector = bench.make_missing()
        try:
            with pytest.raises(DeviceNotFound) as caught:
                detector.open()
            assert len(caught.value.message) > 10
        finally:
            detector.close()

    # -- one exposure ---------------------------------------------------------------------------

    def test_exposure_goes_through_its_phases(
        self, bench: Bench, detector: Detector, tmp_path: Path
    ) -> None:
        settings = self.settings(bench)
        readout = detector.configure(settings)
        buffer = make_buffer(tmp_path, readout.shape)
        assert detector.poll().phase is Phase.IDLE
        before = bench.clock.now_ns()
        detector.start()
        order = [Phase.EXPOSING, Phase.READING, Phase.READY]
        seen: list[Phase] = []
        elapsed = [0]

        def look() -> bool:
            progress = detector.poll()
            seen.append(progress.phase)
            if progress.phase is Phase.EXPOSING:
                elapsed.append(progress.elapsed_ns)
            return progress.phase is Phase.READY

        bench.until(look, "a frame is ready")
        assert seen == sorted(seen, key=order.index), "phases went backwards"
        assert elapsed == sorted(elapsed), "the exposed time went backwards"
        assert elapsed[-1] <= settings.exposure_ns + bench.stamp_s * 1e9
        record = detector.fetch(buffer, never)
        after = bench.clock.now_ns()
        slack = round(bench.stamp_s * 1e9)
        assert detector.poll().phase is Phase.IDLE
        assert before - slack <= record.start_ns <= after
        assert abs(record.end_ns - record.start_ns - settings.exposure_ns) <= slack
        assert record.end_ns <= record.read_end_ns <= after + slack
        assert record.lost_before == 0
        assert record.time_source
        assert (buffer.array != FILL).mean() > 0.5, "the buffer was not written"

    def test_readout_is_the_array_that_arrives(
        self, bench: Bench, detector: Detector, tmp_path: Path, capabilities: Capabilities
    ) -> None:
        _, buffer, readout = self.take(bench, detector, tmp_path, self.settings(bench))
        assert readout.region == capabilities.readout
        assert readout.binning == 1
        assert buffer.array.shape == (capabilities.readout.height, capabilities.readout.width)
        # Whole rows at both ends arrived: nothing is short, shifted or left over.
        assert (buffer.array[0] != FILL).mean() > 0.5
        assert (buffer.array[-1] != FILL).mean() > 0.5
        tail = Path(buffer.path).read_bytes()[SLOT_OFFSET + buffer.array.nbytes :]
        assert tail == bytes(len(tail)), "bytes after the frame were written"

    def test_two_frames_are_two_frames(
        self, bench: Bench, detector: Detector, tmp_path: Path, capabilities: Capabilities
    ) -> None:
        first, buffer, _ = self.take(bench, detector, tmp_path, self.settings(bench))
        pixels = buffer.array.copy()
        second, buffer, _ = self.take(bench, detector, tmp_path, self.settings(bench))
        assert second.start_ns >= first.end_ns - round(bench.stamp_s * 1e9)
        assert second.start_ns > first.start_ns
        if capabilities.has_frame_id:
            assert first.hardware_id is not None
            assert second.hardware_id == first.hardware_id + 1
        else:
            assert second.hardware_id is None
        if bench.changes_pixels:
            assert not np.array_equal(pixels, buffer.array)

    def test_record_is_plain_values(
        self, bench: Bench, detector: Detector, tmp_path: Path
    ) -> None:
        record, _, _ = self.take(bench, detector, tmp_path, self.settings(bench))
        plain = {name: getattr(record, name) for name in FrameRecord.__slots__}
        plain["cards"] = dict(record.cards)
        json.dumps(plain, allow_nan=False)
        for keyword in record.cards:
            assert 0 < len(keyword) <= 8
            assert keyword == keyword.upper()

    def test_shortest_exposure(
        self, bench: Bench, detector: Detector, tmp_path: Path, capabilities: Capabilities
    ) -> None:
        shortest = self.settings(bench, exposure_ns=math.ceil(capabilities.exposure_s.low * 1e9))
        record, buffer, _ = self.take(bench, detector, tmp_path, shortest)
        assert record.end_ns >= record.start_ns
        assert (buffer.array != FILL).mean() > 0.5

    def test_calls_return_soon_during_an_exposure(
        self, bench: Bench, detector: Detector, capabilities: Capabilities
    ) -> None:
        def slowest() -> tuple[float, str]:
            timed = Timed(detector)
            timed.configure(self.long(bench))
            timed.start()
            for _ in range(20):
                timed.poll()
                timed.telemetry()
                bench.tick()
            timed.abort()
            bench.until(lambda: detector.poll().phase is Phase.IDLE, "IDLE after abort")
            assert timed.slowest[1], "nothing was called"
            return timed.slowest

        assert_soon(slowest, bench.call_s)

    # -- refusals -------------------------------------------------------------------------------

    def test_configure_while_exposing_is_refused(self, bench: Bench, detector: Detector) -> None:
        detector.configure(self.long(bench))
        detector.start()
        refused_with(Code.NOT_IDLE, lambda: detector.configure(self.settings(bench)))
        refused_with(Code.NOT_IDLE, detector.start)
        assert detector.poll().phase is Phase.EXPOSING
        detector.abort()

    def test_fetch_without_a_frame_fails(
        self, bench: Bench, detector: Detector, tmp_path: Path
    ) -> None:
        readout = detector.configure(self.long(bench))
        buffer = make_buffer(tmp_path, readout.shape)
        for prepare in (lambda: None, detector.start):
            prepare()
            with pytest.raises(NightjarError):
                detector.fetch(buffer, never)
        detector.abort()
        assert (buffer.array == FILL).all(), "a failed fetch wrote pixels"

    def test_exposure_outside_limits_is_refused(
        self, bench: Bench, detector: Detector, capabilities: Capabilities
    ) -> None:
        low, high = capabilities.exposure_s
        wrong = [round(high * 1e9) + 1_000_000_000]
        if low > 1e-9:
            wrong.append(math.floor(low * 1e9) - 1)
        for exposure_ns in (*wrong, -1):
            refused_with(
                Code.OUT_OF_RANGE,
                lambda ns=exposure_ns: detector.configure(self.settings(bench, exposure_ns=ns)),
            )
        assert detector.poll().phase is Phase.IDLE

    @pytest.mark.parametrize("name", ["gain", "offset"])
    def test_gain_and_offset(
        self, bench: Bench, detector: Detector, capabilities: Capabilities, name: str
    ) -> None:
        limits = getattr(capabilities, name)
        if limits is None:
            call = lambda: detector.configure(self.settings(bench, **{name: 1}))  # noqa: E731
            refused_with(Code.UNSUPPORTED, call)
            return
        for value in (math.ceil(limits.low), math.floor(limits.high)):
            detector.configure(self.settings(bench, **{name: value}))
        for value in (math.floor(limits.low) - 1, math.ceil(limits.high) + 1):
            refused_with(
                Code.OUT_OF_RANGE,
                lambda v=value: detector.configure(self.settings(bench, **{name: v})),
            )

    # -- window, binning ------------------------------------------------------------------------

    def window(self, capabilities: Capabilities) -> Region:
        """Return a window off the centre that binnings 1 to 4 divide."""
        image = capabilities.image_region
        width, height = image.width // 2 // 12 * 12, image.height // 2 // 12 * 12
        x1, y1 = image.x1 + image.width // 4, image.y1 + image.height // 4
        return Region(x1, x1 + width - 1, y1, y1 + height - 1)

    def test_window(
        self, bench: Bench, detector: Detector, capabilities: Capabilities, tmp_path: Path
    ) -> None:
        window = self.window(capabilities)
        settings = self.settings(bench, window=window)
        _, buffer, readout = self.take(bench, detector, tmp_path, settings)
        expected = window if capabilities.has_window else capabilities.readout
        assert readout.region == expected
        assert buffer.array.shape == (expected.height, expected.width)
        assert (buffer.array[-1] != FILL).mean() > 0.5
        # The whole read-out comes back with the window gone.
        assert detector.configure(self.settings(bench)).region == capabilities.readout

    def test_window_outside_is_refused(
        self, bench: Bench, detector: Detector, capabilities: Capabilities
    ) -> None:
        whole = capabilities.readout
        outside = Region(1, whole.x2 + 1, 1, whole.y2)
        refused_with(
            Code.WINDOW_OUT_OF_BOUNDS,
            lambda: detector.configure(self.settings(bench, window=outside)),
        )

    def test_binning(
        self, bench: Bench, detector: Detector, capabilities: Capabilities, tmp_path: Path
    ) -> None:
        for binning in capabilities.binnings:
            settings = self.settings(bench, binning=binning)
            whole = capabilities.readout
            if whole.width % binning or whole.height % binning:
                if not capabilities.has_window:
                    continue
                settings = replace(settings, window=self.window(capabilities))
            _, buffer, readout = self.take(bench, detector, tmp_path, settings)
            assert readout.binning == binning
            assert readout.shape == buffer.array.shape
            assert (buffer.array[-1] != FILL).mean() > 0.5

    def test_what_it_cannot_bin_is_left_to_the_daemon(
        self, bench: Bench, detector: Detector, capabilities: Capabilities
    ) -> None:
        other = next(b for b in range(2, 100) if b not in capabilities.binnings)
        assert detector.configure(self.settings(bench, binning=other)).binning == 1

    # -- abort, cancel --------------------------------------------------------------------------

    def test_abort_while_exposing(
        self, bench: Bench, detector: Detector, tmp_path: Path
    ) -> None:
        aborted_ns = 0

        def abort() -> tuple[float, str]:
            nonlocal aborted_ns
            detector.configure(self.long(bench))
            detector.start()
            bench.tick()
            assert detector.poll().phase is Phase.EXPOSING
            aborted_ns = bench.clock.now_ns()
            detector.abort()
            bench.until(lambda: detector.poll().phase is Phase.IDLE, "IDLE after abort")
            return (bench.clock.now_ns() - aborted_ns) / 1e9, "abort"

        assert_soon(abort, 0.5)
        record, _, _ = self.take(bench, detector, tmp_path, self.settings(bench))
        assert record.start_ns >= aborted_ns - round(bench.stamp_s * 1e9)
        assert abs(record.end_ns - record.start_ns - bench.exposure_s * 1e9) <= bench.stamp_s * 1e9

    def test_abort_of_a_ready_frame_discards_it(
        self, bench: Bench, detector: Detector, tmp_path: Path
    ) -> None:
        readout = detector.configure(self.settings(bench))
        detector.start()
        self.wait_ready(bench, detector)
        detector.abort()
        bench.until(lambda: detector.poll().phase is Phase.IDLE, "IDLE after abort")
        with pytest.raises(NightjarError):
            detector.fetch(make_buffer(tmp_path, readout.shape), never)

    def test_abort_when_idle_is_harmless(
        self, bench: Bench, detector: Detector, tmp_path: Path
    ) -> None:
        detector.abort()
        detector.abort()
        assert detector.poll().phase is Phase.IDLE
        self.take(bench, detector, tmp_path, self.settings(bench))

    def test_cancelled_fetch(self, bench: Bench, detector: Detector, tmp_path: Path) -> None:
        readout = detector.configure(self.settings(bench))
        buffer = make_buffer(tmp_path, readout.shape)
        detector.start()
        self.wait_ready(bench, detector)
        with pytest.raises(Cancelled):
            detector.fetch(buffer, lambda: True)
        detector.abort()
        bench.until(lambda: detector.poll().phase is Phase.IDLE, "IDLE after abort")
        # The cancellation is over: the next frame comes as ever.
        self.take(bench, detector, tmp_path, self.settings(bench))

    # -- stream ---------------------------------------------------------------------------------

    def test_stream(
        self, bench: Bench, detector: Detector, capabilities: Capabilities, tmp_path: Path
    ) -> None:
        settings = self.settings(bench, stream=True)
        if not capabilities.has_stream_mode:
            refused_with(Code.UNSUPPORTED, lambda: detector.configure(settings))
            return
        readout = detector.configure(settings)
        buffer = make_buffer(tmp_path, readout.shape)
        detector.start()
        records = []
        for _ in range(5):
            self.wait_ready(bench, detector)
            records.append(detector.fetch(buffer, never))
        for before, after in pairwise(records):
            step = after.start_ns - before.start_ns
            assert step > 0.9 * settings.exposure_ns - bench.stamp_s * 1e9
            assert after.start_ns > before.start_ns
            if capabilities.has_frame_id:
                assert before.hardware_id is not None
                assert after.hardware_id == before.hardware_id + 1 + after.lost_before
        detector.abort()
        bench.until(lambda: detector.poll().phase is Phase.IDLE, "IDLE after abort")

    def test_stream_counts_what_was_overwritten(
        self, bench: Bench, detector: Detector, capabilities: Capabilities, tmp_path: Path
    ) -> None:
        if not (capabilities.has_stream_mode and capabilities.has_frame_id):
            pytest.skip("no stream with frame numbers")
        readout = detector.configure(self.settings(bench, stream=True))
        buffer = make_buffer(tmp_path, readout.shape)
        detector.start()
        self.wait_ready(bench, detector)
        first = detector.fetch(buffer, never)
        ahead = bench.clock.monotonic_ns() + round(20 * bench.exposure_s * 1e9)
        bench.until(lambda: bench.clock.monotonic_ns() > ahead, "20 exposures passed")
        self.wait_ready(bench, detector)
        later = detector.fetch(buffer, never)
        assert later.lost_before > 0
        assert first.hardware_id is not None
        assert later.hardware_id == first.hardware_id + 1 + later.lost_before
        detector.abort()

    # -- cooler, filters, measurements ----------------------------------------------------------

    def test_telemetry_is_plain_values(
        self, bench: Bench, detector: Detector, capabilities: Capabilities
    ) -> None:
        telemetry = detector.telemetry()
        json.dumps(asdict(telemetry), allow_nan=False)
        assert telemetry.fault is None
        if telemetry.temperature_c is not None:
            assert -120 < telemetry.temperature_c < 60
        if telemetry.cooler_power is not None:
            assert 0 <= telemetry.cooler_power <= 1
        if capabilities.cooler != "none":
            assert telemetry.temperature_c is not None
        assert telemetry.filter is None or telemetry.filter in capabilities.filters

    def test_cooler_power(
        self, bench: Bench, detector: Detector, capabilities: Capabilities
    ) -> None:
        if capabilities.cooler != "pwm":
            refused_with(Code.UNSUPPORTED, lambda: detector.set_cooler_power(0))
            return
        for pwm in (-1, capabilities.pwm_max + 1):
            refused_with(Code.OUT_OF_RANGE, lambda p=pwm: detector.set_cooler_power(p))
        detector.set_cooler_power(capabilities.pwm_max)
        bench.until(lambda: (detector.telemetry().cooler_power or 0) > 0.9, "full power")
        detector.set_cooler_power(0)
        bench.until(lambda: (detector.telemetry().cooler_power or 0) < 0.1, "no power")

    def test_cooler_target(
        self, bench: Bench, detector: Detector, capabilities: Capabilities
    ) -> None:
        if capabilities.setpoint_c is None:
            refused_with(Code.UNSUPPORTED, lambda: detector.set_cooler_target(0.0))
            return
        limits = capabilities.setpoint_c
        for celsius in (limits.low - 1, limits.high + 1, math.nan):
            refused_with(Code.OUT_OF_RANGE, lambda c=celsius: detector.set_cooler_target(c))
        start = detector.telemetry().temperature_c
        assert start is not None
        detector.set_cooler_target(max(limits.low, start - 5))
        bench.until(lambda: (detector.telemetry().temperature_c or start) < start - 0.3, "cooling")
        detector.set_cooler_target(None)

    def test_filters(self, bench: Bench, detector: Detector, capabilities: Capabilities) -> None:
        if not capabilities.filters:
            assert detector.telemetry().filter is None
            refused_with(Code.UNSUPPORTED, lambda: detector.move_filter("V"))
            return
        refused_with(Code.UNKNOWN_FILTER, lambda: detector.move_filter("no such filter"))
        for name in (*capabilities.filters, capabilities.filters[0]):
            detector.move_filter(name)
            bench.until(lambda n=name: detector.telemetry().filter == n, f"filter {name}")
