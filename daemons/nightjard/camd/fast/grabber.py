# SPDX-License-Identifier: BSD-3-Clause
"""The grabber: the process of a fast camera that owns the source and the stream.

One thread makes every call of the source, publishes the frames and carries out what the daemon
asks, between two frames; so a stop or a change takes hold after the frame in hand. News go to the
daemon five times a second, whether frames come or not: no news means that the source hangs.
"""

from __future__ import annotations

import collections
import gc
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from nightjar.child import Parent
from nightjar.clock import NS_PER_S, Clock, SystemClock
from nightjar.errors import Busy, Code, NightjarError, Refused
from nightjar.streams.keywords import KeywordValue
from nightjard.camd.fast.grabbing import RateMeter, prepare_process, stream_plan
from nightjard.camd.fast.keywords import TELEMETRY_KEYWORDS
from nightjard.camd.fast.options import AnySourceOptions
from nightjard.camd.fast.publisher import Publisher
from nightjard.camd.fast.source import (
    FrameSource,
    GeometryChanged,
    SourceGeometry,
    SourceSettings,
)
from nightjard.camd.fast.sources import make_source
from nightjard.camd.geometry import Region

log = logging.getLogger(__name__)

NEWS_NS = NS_PER_S // 5
SLOW_NS = NS_PER_S
_WAIT_S = 0.1
_LAST_ANSWER_S = 1.0


class _Job:
    """A command on its way to the grabbing thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class Grabber:
    """Source, stream, and the loop between them.

    Parameters
    ----------
    source, publisher
        What it owns.
    tell
        Takes news for the daemon.
    """

    def __init__(
        self, source: FrameSource, publisher: Publisher, tell: Callable[[dict[str, Any]], None],
        clock: Clock,
    ) -> None:  # fmt: skip
        self._source = source
        self._publisher = publisher
        self._tell = tell
        self._clock = clock
        self._jobs: collections.deque[_Job] = collections.deque()
        self._wake = threading.Event()
        self._settings: SourceSettings | None = None
        self._geometry: SourceGeometry | None = None
        self._telemetry: dict[str, Any] = {}
        self._is_open = self._is_streaming = self._is_over = False
        self._left: int | None = None
        self._sequence_start = 0
        self._news_ns = self._slow_ns = 0
        self._rate = RateMeter()
        self._cost: tuple[float, int] = (0.0, 0)
        self._cost_us: float | None = None

    # ---------------------------------------------------------------- commands

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Return what the daemon can ask."""
        return {
            name: self._handler(getattr(self, name))
            for name in ("open", "configure", "start", "stop", "set_keywords", "close")
        }

    def _handler(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def handle(**arguments: Any) -> Any:
            job = _Job(lambda: method(**arguments))
            self._jobs.append(job)
            self._wake.set()
            job.done.wait()
            if job.error is not None:
                raise job.error
            return job.result

        return handle

    def open(self) -> dict[str, Any]:
        """Connect to the camera; return its capabilities as plain values."""
        capabilities = self._source.open()
        self._is_open = True
        self._measure()
        return {
            **asdict(capabilities),
            "crops": {
                name: [region.x1, region.x2, region.y1, region.y2]
                for name, region in capabilities.crops.items()
            },
            "telemetry": self._telemetry,
        }

    def configure(
        self, settings: dict[str, Any], plan: dict[str, Any], keywords: dict[str, list[Any]]
    ) -> dict[str, Any]:
        """Have source and stream as wanted, all or nothing; streaming goes on.

        Parameters
        ----------
        settings
            As :class:`SourceSettings`, the region as [x1, x2, y1, y2].
        plan
            As :class:`StreamPlan` without shape, type and depth: these follow from the geometry
            by `ring_seconds`, `ring_bytes` and `least_frames`.
        keywords
            Name to [value, comment]; those that need the geometry come by :meth:`set_keywords`.
        """
        wanted = SourceSettings(**{**settings, "region": Region(*settings["region"])})
        old, was_streaming = self._settings, self._is_streaming
        began = time.monotonic()
        geometry, was_stopped = self._configure_source(wanted)
        try:
            stream = stream_plan(geometry, plan)
            if not self._publisher.fits(stream):
                self._tell({"making": stream.name})  # silence for a while
                if self._is_streaming and not was_stopped:
                    self._source.stop()  # what comes while the new stream is made is not lost
                    was_stopped = True
            is_new = self._publisher.adopt(
                stream, {name: (value, comment) for name, (value, comment) in keywords.items()}
            )
            if is_new:
                self._source.prepare(self._publisher.slots())
        except BaseException:
            if old is not None:
                self._configure_source(old)
            if was_stopped:
                self._source.start()
            raise
        self._settings, self._geometry = wanted, geometry
        if was_stopped:
            self._source.start()
        if is_new or was_stopped:
            self._rate.reset()
        seconds = time.monotonic() - began
        if is_new:
            log.info("stream %s is made in %.2f s", plan["name"], seconds)
        self._send_news()
        return {**self._geometry_reply(geometry), "is_new": is_new, "seconds": seconds,
                "is_streaming": was_streaming}  # fmt: skip

    def _configure_source(self, settings: SourceSettings) -> tuple[SourceGeometry, bool]:
        """Configure, stopping the source where that is needed; tell whether it was stopped."""
        if not self._is_streaming:
            return self._source.configure(settings), False
        try:
            geometry = self._source.configure(settings)
        except Busy:
            self._source.stop()
            try:
                return self._source.configure(settings), True
            except BaseException:
                self._source.start()
                raise
        return geometry, False

    def _geometry_reply(self, geometry: SourceGeometry) -> dict[str, Any]:
        writer = self._publisher.writer
        assert writer is not None
        region = geometry.region
        return {
            "shape": list(geometry.shape),
            "window": [region.x1, region.x2, region.y1, region.y2],
            "exposure_s": geometry.exposure_s, "max_rate_hz": geometry.max_rate_hz,
            "rate_hz": geometry.rate_hz, "readout_s": geometry.readout_s,
            "pixel_type": geometry.pixel_type, "depth": writer.geometry.depth,
            "frame_bytes": writer.geometry.frame_bytes, "path": str(writer.path),
        }  # fmt: skip

    def start(self, count: int = 0) -> None:
        """Start streaming, for `count` frames where it is not 0."""
        if self._geometry is None:
            raise Refused("the camera is not configured", code=Code.NOT_INITIALIZED)
        self._left = count or None
        self._sequence_start = self._publisher.published
        if not self._is_streaming:
            self._source.start()
            self._is_streaming = True
            self._rate.reset()
            self._cost = (time.process_time(), self._publisher.published)
        self._send_news()

    def stop(self, reason: str = "stopped") -> dict[str, Any]:
        """Stop streaming; return how many frames the sequence had."""
        if self._is_streaming:
            self._is_streaming = False
            self._source.stop()
        self._left = None
        count = self._publisher.published - self._sequence_start
        self._rate.reset()
        self._cost_us = None
        self._slow_keywords()
        self._send_news()
        return {"count": count, "reason": reason}

    def set_keywords(self, keywords: dict[str, list[Any]]) -> None:
        """Set keywords of the stream: name to [value, comment]."""
        self._publisher.set_keywords(
            {name: (value, comment) for name, (value, comment) in keywords.items()}
        )

    def close(self) -> None:
        """Disconnect, remove the stream and end."""
        self.finish(unlink=True)

    def finish(self, *, unlink: bool) -> None:
        """End in order."""
        self._is_over = True
        try:
            if self._is_streaming:
                self.stop("closed")
            if self._is_open:
                self._source.close()
        finally:
            self._publisher.close(unlink=unlink)

    # ---------------------------------------------------------------- the loop

    def run(self, is_gone: Callable[[], bool]) -> None:
        """Grab until the daemon says close, or has gone."""
        while not self._is_over:
            while self._jobs:
                self._carry_out(self._jobs.popleft())
            if is_gone():
                self.finish(unlink=False)
            elif self._is_streaming:
                self._grab()
            elif not self._is_over:
                self._wake.wait(_WAIT_S)
                self._wake.clear()
            now_ns = time.monotonic_ns()
            if now_ns >= self._news_ns and not self._is_over:
                self._tick(now_ns)

    def _carry_out(self, job: _Job) -> None:
        try:
            job.result = job.call()
        except Exception as error:  # noqa: BLE001 - it is raised where the command was given
            job.error = error
        job.done.set()

    def _grab(self) -> None:
        try:
            if not self._source.wait(_WAIT_S):
                return
            if self._publisher.take(self._source.fetch) and self._left is not None:
                self._left -= 1
                if self._left == 0:
                    self._tell({"ended": self.stop("count reached")})
        except GeometryChanged as error:
            self._restore(error)
        except NightjarError as error:
            self._fail(error)

    def _restore(self, error: NightjarError) -> None:
        """Configure the source again as it was: somebody else has changed it."""
        log.warning("%s; it is configured again", error.message)
        assert self._settings is not None
        try:
            self._source.stop()
            self._source.configure(self._settings)
            self._source.start()
        except NightjarError as worse:
            self._fail(worse)

    def _fail(self, error: NightjarError) -> None:
        self._is_streaming = False
        try:
            self._source.stop()
        except NightjarError as worse:
            log.warning("the source did not stop: %s", worse.message)
        self._tell({"failed": {"code": error.code.name, "message": error.message}})

    # ---------------------------------------------------------------- news

    def _tick(self, now_ns: int) -> None:
        self._news_ns = now_ns + NEWS_NS
        if now_ns >= self._slow_ns:
            self._slow_ns = now_ns + SLOW_NS
            self._measure()
            self._note_cost()
        newest = self._publisher.newest
        if self._is_streaming and newest is not None:
            self._rate.note(self._publisher.published, newest.atime_ns, now_ns)
        self._slow_keywords()
        self._send_news()

    def _measure(self) -> None:
        if not self._is_open:
            return
        try:
            self._telemetry = dict(self._source.telemetry())
        except NightjarError as error:
            if not self._is_streaming:  # else the wait tells it
                self._is_open = False
                self._tell({"failed": {"code": error.code.name, "message": error.message}})

    def _note_cost(self) -> None:
        if self._is_streaming:
            cpu_s, count = time.process_time(), self._publisher.published
            frames = count - self._cost[1]
            self._cost_us = (cpu_s - self._cost[0]) / frames * 1e6 if frames else None
            self._cost = (cpu_s, count)

    def _slow_keywords(self) -> None:
        publisher = self._publisher
        values: dict[str, tuple[KeywordValue, str]] = {
            "MFRATE": (round(self._rate.hz, 3), "[Hz] measured frame rate"),
            "LOST-CAM": (publisher.lost, "frames lost by camera or transport"),
        }
        temperature = self._telemetry.get("temperature_c")
        if temperature is not None:
            values["DET-TMP"] = (float(temperature), "[degC] detector temperature")
        for key, (name, comment) in TELEMETRY_KEYWORDS.items():
            if self._telemetry.get(key) is not None:
                values[name] = (self._telemetry[key], comment)
        publisher.set_keywords(values)

    def _send_news(self) -> None:
        publisher = self._publisher
        newest, writer = publisher.newest, publisher.writer
        self._tell(
            {
                "news": {
                    "streaming": self._is_streaming,
                    "counter": writer.counter if writer is not None else None,
                    "published": publisher.published, "lost": publisher.lost,
                    "missed": publisher.missed, "late": publisher.late,
                    "incomplete": publisher.incomplete,
                    "sequence": publisher.published - self._sequence_start,
                    "atime_ns": newest.atime_ns if newest else None,
                    "hardware_id": newest.hardware_id if newest else None,
                    "rate": self._rate.hz, "telemetry": self._telemetry,
                    "cost_us": self._cost_us,
                }
            }
        )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the grabber that a daemon starts; returns its exit code.

    The one argument is a JSON object: source (options), priority, cpus.
    """
    (text,) = sys.argv[1:] if arguments is None else arguments
    options = json.loads(text)
    parent = Parent.connect()
    prepare_process(options.get("priority"), options.get("cpus"))
    clock = SystemClock()
    adapter: TypeAdapter[Any] = TypeAdapter(AnySourceOptions)
    source = make_source(adapter.validate_json(json.dumps(options["source"])), clock)
    grabber = Grabber(source, Publisher(clock), parent.tell, clock)
    gc.freeze()  # nothing of the start is looked through again
    parent.serve(grabber.handlers())
    grabber.run(parent.gone.is_set)
    parent.gone.wait(_LAST_ANSWER_S)  # the answer to close has to get out
    return 0


if __name__ == "__main__":
    sys.exit(main())
