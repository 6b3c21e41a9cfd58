# SPDX-License-Identifier: BSD-3-Clause
"""The ``aravis`` source: GigE Vision and USB3 Vision cameras.

Frames arrive in a thread of the library, in memory that was made here; one copy puts each into its
slot of the stream. ``python -m nightjard.camd.fast.aravis`` lists the cameras that are there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Busy, Code, DeviceError, DeviceLost, Refused
from nightjard.camd.fast import aravis_library as library
from nightjard.camd.fast.aravis_camera import CLOSE_S, SIGNIFICANT_BITS, AravisCamera
from nightjard.camd.fast.aravis_clock import CameraClock, FrameNumbers
from nightjard.camd.fast.aravis_options import AravisOptions
from nightjard.camd.fast.source import (
    GeometryChanged,
    SourceCapabilities,
    SourceFrame,
    SourceGeometry,
    SourceSettings,
)

log = logging.getLogger(__name__)

_SILENCE_S = 0.5  # and four periods: then the camera is asked whether it is there
_NO_FRAMES_S = 5.0  # and four periods: then something keeps the frames away
_FRESH_S = 0.1  # so long after a frame the camera is certainly there
_RELEASE_S = 10.0
_RESTART_S = 2.0
_WHOLE = 0  # ArvBufferStatus


class AravisSource:
    """One camera through Aravis.

    Parameters
    ----------
    options
        Which camera and how.
    clock
        The system's clock: the library stamps the arrival of frames with it.
    """

    def __init__(self, options: AravisOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._camera: AravisCamera | None = None
        self._settings: SourceSettings | None = None
        self._geometry: SourceGeometry | None = None
        self._stream: Any = None
        self._memory: dict[Any, NDArray[np.uint8]] = {}
        self._found: Any = None  # a buffer that wait() found and nobody has fetched
        self._heard_ns = 0  # when the last frame came, monotonic
        self._numbers = FrameNumbers()
        self._camera_clock = CameraClock()
        self._received = self._lost = self._underruns = 0
        self._incomplete: Counter[str] = Counter()

    # ---------------------------------------------------------------- opening

    def open(self) -> SourceCapabilities:
        """Find the camera, take it, stop what a dead program has left running."""
        if self._camera is not None:
            raise Refused("the camera is open already", code=Code.ALREADY_INITIALIZED)
        library.wait_for_releases(_RELEASE_S)
        self._camera = AravisCamera(self._options)
        return self._camera.capabilities

    def close(self) -> None:
        """Let go of the camera."""
        camera = self._camera
        if camera is None:
            return
        self.stop()
        self._camera = self._settings = self._geometry = None
        self._memory = {}
        camera.close()

    def configure(self, settings: SourceSettings) -> SourceGeometry:
        """Take settings; while streaming only exposure and rate may differ."""
        camera, before = self._require_open(), self._settings
        camera.check(settings)
        if self._stream is not None and before is not None:
            for name in ("region", "readout_mode", "external_trigger"):
                if getattr(settings, name) != getattr(before, name):
                    raise Busy(f"changing the {name} needs a stop", code=Code.NOT_IDLE)
        with library.device_call(f"setting up camera {camera.name}"):
            geometry = camera.apply(settings, is_streaming=self._stream is not None)
        self._settings, self._geometry = settings, geometry
        return geometry

    def prepare(self, slots: Sequence[NDArray[Any]]) -> None:
        """Note nothing: frames arrive in memory of our own, for not all of them arrive whole."""

    def _require_open(self) -> AravisCamera:
        if self._camera is None:
            raise Refused("the camera is not open", code=Code.NOT_INITIALIZED)
        return self._camera

    # ---------------------------------------------------------------- streaming

    def start(self) -> None:
        """Start streaming, with a new stream of the library."""
        camera = self._require_open()
        if self._settings is None:
            raise Refused("configure the camera before it starts", code=Code.NOT_INITIALIZED)
        if self._stream is not None:
            return
        if not library.wait_for_releases(_RESTART_S):
            raise DeviceLost(f"camera {camera.name} did not stop: it does not answer")
        self._numbers = FrameNumbers(is_wide=not camera.is_gv)
        self._camera_clock = CameraClock()
        with library.device_call(f"making the stream of camera {camera.name}"):
            self._memory = camera.make_memory(self._memory)
            self._stream = camera.make_stream()
        for buffer in self._memory:
            self._give_back(buffer)
        try:
            camera.start()
        except DeviceError:
            self._drop_stream()
            raise
        self._heard_ns = self._clock.monotonic_ns()

    def stop(self) -> None:
        """Stop streaming; what was not fetched is dropped."""
        if self._stream is not None:
            self._drop_stream()

    def _drop_stream(self) -> None:
        camera = self._require_open()
        self._count_underruns()
        stream, self._stream, self._found = self._stream, None, None
        # The library may write into the memory until the stream is gone, and with a lost camera
        # that takes seconds: then the memory goes with it, and the next start makes its own.
        parts = [self._memory, stream]
        del stream
        is_lost = bool(camera.prober.trouble)  # such a one is not asked: it does not answer
        library.release(parts, CLOSE_S, first=[] if is_lost else [camera.stopper()])
        if parts:
            self._memory = {}

    def _count_underruns(self) -> None:
        if self._stream is not None:
            statistics = library.load()[0].Stream.get_statistics(self._stream)
            self._underruns += statistics[2]

    def wait(self, timeout_s: float) -> bool:
        """Wait until a frame can be fetched."""
        if self._stream is None:
            raise Refused("the camera is not streaming", code=Code.NOT_ACQUIRING)
        if self._found is None:
            self._found = self._stream.timeout_pop_buffer(int(timeout_s * 1e6))
            if self._found is None:
                self._look_for_trouble()
                return False
            self._heard_ns = self._clock.monotonic_ns()
        return True

    def _heard_s(self) -> float:
        """Return how long ago the last frame came."""
        return (self._clock.monotonic_ns() - self._heard_ns) / NS_PER_S

    def _silence_s(self) -> float:
        """Return for how long frames have been overdue."""
        assert self._geometry is not None
        assert self._settings is not None
        period_s = max(1 / self._geometry.rate_hz, self._geometry.exposure_s)
        if self._settings.external_trigger:
            period_s = self._geometry.exposure_s
        return self._heard_s() - 4 * period_s

    def _look_for_trouble(self) -> None:
        """Find out why no frame comes; the camera's answer is there at a later call."""
        assert self._settings is not None
        camera, silence_s = self._require_open(), self._silence_s()
        if silence_s < _SILENCE_S:
            return
        if camera.prober.trouble:
            raise DeviceLost(
                f"camera {camera.name} is lost: {camera.prober.trouble}; look at its power and "
                "cable, then initialize it again"
            )
        camera.prober.ask()
        does_answer = camera.prober.answered_ns > self._heard_ns
        if does_answer and silence_s > _NO_FRAMES_S and not self._settings.external_trigger:
            raise DeviceError(
                f"camera {camera.name} answers but has sent no frame for {silence_s:.0f} s: look "
                "at the firewall (UDP to this machine), packet_size and packet_socket"
            )

    def fetch(self, slot: NDArray[Any]) -> SourceFrame:
        """Copy the frame that was found; of an incomplete one nothing is copied."""
        buffer, self._found = self._found, None
        assert self._geometry is not None
        if buffer is None:
            raise Refused("no frame was waited for")
        try:
            status = buffer.get_status()
            is_whole = status == _WHOLE
            number, lost = self._numbers.take(buffer.get_frame_id(), is_whole=is_whole)
            start_ns, atime_ns, arrival_ns = self._times(buffer, is_whole=is_whole)
            if is_whole:
                self._copy(buffer, slot)
        finally:
            self._give_back(buffer)
        self._received += 1
        self._lost += lost
        if not is_whole:
            self._note_incomplete(status.value_nick, number)
        age_ns = self._clock.now_ns() - arrival_ns
        return SourceFrame(
            start_ns, atime_ns, number, lost,
            is_late=age_ns * self._geometry.rate_hz > 2 * NS_PER_S,
            is_incomplete=not is_whole,
        )  # fmt: skip

    def _give_back(self, buffer: Any) -> None:
        """Let the library fill a buffer again."""
        buffer.set_frame_id(0)  # else a frame whose first packet is missing has the number of old
        self._stream.push_buffer(buffer)

    def _copy(self, buffer: Any, slot: NDArray[Any]) -> None:
        rows, columns = slot.shape
        sent = (buffer.get_image_height(), buffer.get_image_width())
        padding, _ = buffer.get_image_padding()
        pitch = columns * slot.itemsize + padding
        memory = self._memory[buffer]
        if sent != (rows, columns) or pitch * rows - padding > len(memory):
            raise GeometryChanged(
                f"camera {self._require_open().name} sends {sent[1]} x {sent[0]} pixels where "
                f"{columns} x {rows} of {slot.dtype} were set; another program changed it?"
            )
        kind = slot.dtype.newbyteorder("<")
        np.copyto(slot, np.ndarray((rows, columns), kind, memory, 0, (pitch, slot.itemsize)))

    def _times(self, buffer: Any, *, is_whole: bool) -> tuple[int, int, int]:
        """Return (start of exposure, end of read-out, arrival of the first packet), UTC."""
        assert self._geometry is not None
        exposure_ns = round(self._geometry.exposure_s * NS_PER_S)
        readout_ns = round(self._geometry.readout_s * NS_PER_S)
        now_ns = self._clock.now_ns()
        arrival_ns = buffer.get_system_timestamp() or now_ns
        stamp_ns = buffer.get_timestamp()
        if not stamp_ns or not is_whole:
            return arrival_ns - exposure_ns - readout_ns, arrival_ns, arrival_ns
        marks = self._options.stamp_marks
        # Related to the monotonic clock, so that a step of UTC does not upset it.
        utc_ns = now_ns - self._clock.monotonic_ns()
        waited_ns = exposure_ns if marks == "exposure_start" else 0
        start_ns = utc_ns + self._camera_clock.take(stamp_ns, arrival_ns - utc_ns - waited_ns)
        if marks != "exposure_start":
            start_ns -= exposure_ns + (readout_ns if marks == "readout_end" else 0)
        return start_ns, start_ns + exposure_ns + readout_ns, arrival_ns

    def _note_incomplete(self, status: str, number: int) -> None:
        self._incomplete[status] += 1
        count = self._incomplete.total()
        if count & (count - 1) == 0:  # at 1, 2, 4, 8 ...: told, but not a thousand times a second
            log.warning(
                "frame %d came incomplete (%s), %d so far: look at packet_size, socket_buffer and "
                "the network", number, status, count,
            )  # fmt: skip

    # ---------------------------------------------------------------- telemetry

    def telemetry(self) -> Mapping[str, float | int | str | bool | None]:
        """Return counters and what is known of the camera's clock."""
        if self._camera is None or self._settings is None:
            return {"temperature_c": None}
        camera, clock = self._camera, self._camera_clock
        underruns = self._underruns
        temperature_c: float | None = None
        if self._stream is not None:
            underruns += library.load()[0].Stream.get_statistics(self._stream)[2]
        # A camera that sends no frames may be gone, and asking one that is gone takes seconds.
        if self._stream is None or self._heard_s() < _FRESH_S:
            with library.device_call(f"reading the temperature of camera {camera.name}"):
                temperature_c = camera.number("DeviceTemperature")
        return {
            "temperature_c": temperature_c,
            "significant_bits": SIGNIFICANT_BITS[self._settings.readout_mode],
            "frames_received": self._received,
            "frames_incomplete": self._incomplete.total(),
            "frames_lost": self._lost,
            "buffer_underruns": underruns,
            "packet_size": camera.packet_size,
            "clock_error_us": round(clock.error_ns / 1e3, 3),
            "clock_drift_ppm": round(clock.drift_ppm, 3),
            "clock_resets": clock.resets,
        }


def main() -> None:
    """List the cameras that are there, one a line."""
    import click

    @click.command(help="List the GigE Vision and USB3 Vision cameras that answer.")
    @click.option("--list", "_", is_flag=True, help="List them: what it does anyway.")
    @click.option("--fake", is_flag=True, help="With the simulated camera inside the library.")
    def run(_: bool, fake: bool) -> None:
        try:
            if fake:
                library.load()[0].enable_interface("Fake")
            cameras = library.list_cameras()
        except DeviceError as error:
            raise click.ClickException(str(error)) from None
        for one in cameras:
            click.echo(
                f"{one.device}\t{one.vendor} {one.model}\tserial {one.serial}\t"
                f"{one.protocol} {one.address}"
            )
        if not cameras:
            raise click.ClickException("no camera answers: power, cable, address, firewall?")

    run()


if __name__ == "__main__":
    main()
