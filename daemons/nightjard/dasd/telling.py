# SPDX-License-Identifier: BSD-3-Clause
"""What the data acquisition says of itself: the status, the check, pictures."""

from __future__ import annotations

import base64
import threading
import uuid
from collections import OrderedDict
from typing import Any

from nightjar.api.das import CHUNK_BYTES
from nightjar.api.states import Level
from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import day_of
from nightjar.errors import Code, InvalidArgument, NightjarError, Refused
from nightjar.files import free_bytes, require_folder
from nightjar.operations import Operation, Operations
from nightjar.times import iso
from nightjard.dasd.clockcheck import judge
from nightjard.dasd.levels import described, select
from nightjard.dasd.model import Acquisition
from nightjard.dasd.plotting import MOST_CURVES, draw

PICTURES_KEPT = 4


def snapshot(das: Acquisition, clock: Clock) -> dict[str, Any]:
    """Return the status but for daemon and health; see :data:`nightjar.api.das.STATUS_KEYS`."""
    feed, free = das.feed, das.free
    state = das.state
    level, text = judge(das.outlook.state, das.config.clock)
    names = {group.name for group in das.config.channels.groups}
    kinds = {group.kind for group in das.config.channels.groups}
    return {
        "summary": das.summary.name,
        "state": state.value,
        "reason": das.failure or feed.reason,
        "adc": _adc(das, clock),
        "recording": _recording(das),
        "clock": {
            **das.outlook.told, "level": level.name, "text": text,
            "age_s": round(das.outlook.age_s, 1),
        },
        "telescope": das.outlook.telescope,
        "disk": {
            "root": str(das.root), "free_bytes": free,
            "hours": None if free is None else round(free / das.config.bytes_per_hour, 1),
        },
        "queue_s": round(feed.waiting_s, 3),
        "channel_names": sorted(names | kinds),
    }  # fmt: skip


def _adc(das: Acquisition, clock: Clock) -> dict[str, Any]:
    feed, line = das.feed, das.pipeline.samples
    last = feed.last_ns
    return {
        "model": feed.adc.capabilities.model,
        "is_simulated": feed.adc.capabilities.is_simulated,
        "is_connected": feed.is_connected,
        "rate_hz": das.config.adc.sample_rate_hz,
        "channels": das.config.channels.count,
        "measured_ppm": round(line.ppm, 3) if line.is_settled else None,
        "jitter_s": float(f"{line.jitter_s:.3g}") if line.is_settled else None,
        "blocks": feed.blocks,
        "samples": feed.samples,
        "overruns": feed.overruns,
        "late_stamps": line.late,
        "restarts": feed.restarts,
        "age_s": None if last is None else round((clock.monotonic_ns() - last) / NS_PER_S, 2),
    }


def _recording(das: Acquisition) -> dict[str, Any] | None:
    recorder = das.recorder
    if recorder is None:
        return None
    counts = recorder.counts
    return {
        "is_running": das.is_running,
        "is_test": recorder.plan.is_test,
        "root": str(recorder.plan.root),
        "since": None if counts.first_ns is None else iso(counts.first_ns),
        "until": None if counts.last_ns is None else iso(counts.last_ns),
        "files": counts.files,
        "samples": counts.samples,
        "missing": counts.missing,
        "dropped": counts.dropped,
        "gaps": counts.gaps,
        "slips": counts.slips,
        "last_file": counts.last_file,
        "ended": das.ended,
        "warnings": dict(recorder.warnings),
        "events": list(counts.events),
    }


def check(das: Acquisition, *, clock_only: bool) -> list[dict[str, str]]:
    """Return what was looked at: [{what, level, text}]."""
    level, text = das.outlook.look_at_the_clock()
    found = [{"what": "clock", "level": level.name, "text": text}]
    if clock_only:
        return found
    feed, config = das.feed, das.config

    def add(what: str, level: Level, text: str) -> None:
        found.append({"what": what, "level": level.name, "text": text})

    if feed.reason:
        add("adc", Level.FAILED, feed.reason)
    else:
        rate_hz, ppm = config.adc.sample_rate_hz, das.pipeline.samples.ppm
        text = f"{config.channels.count} channels at {rate_hz:g} Hz, crystal {ppm:+.1f} ppm"
        add("adc", Level.OK, f"{feed.adc.capabilities.model}, {text}")
    try:
        require_folder(das.root, "recording")
        day = das.root / day_of(das.now_ns())
        is_made = day.is_dir() or config.auto_mkdir
        text = f"{das.root} can be written" if is_made else f"{day} does not exist; create it"
        add("folder", Level.OK if is_made else Level.FAILED, text)
        add("disk", *_room(das))
    except NightjarError as error:
        add("folder", Level.FAILED, error.message)
    if config.telescope_daemon is not None:
        das.outlook.look_at_telescope()
        told = das.outlook.telescope
        if told["is_fresh"]:
            add("telescope", Level.OK, f"pointing {told['pointing_age_s']:.1f} s old, housekeeping "
                f"{told['housekeeping_age_s']:.1f} s")  # fmt: skip
        else:
            add("telescope", Level.FAILED, told["reason"])
    return found


def _room(das: Acquisition) -> tuple[Level, str]:
    free, space = free_bytes(das.root), das.config.space
    hours = free / das.config.bytes_per_hour
    text = f"{free / 1e9:.2f} GB free in {das.root}: {hours:.0f} h of data"
    if free < space.stop_bytes:
        return Level.FAILED, f"{text}; make room"
    is_low = free < space.low_bytes or hours < space.warn_hours
    return (Level.DEGRADED if is_low else Level.OK), text


class Pictures:
    """Plots that were drawn, until they are fetched.

    Parameters
    ----------
    das
        Whose channels.
    operations
        Drawing takes seconds.
    """

    def __init__(self, das: Acquisition, operations: Operations) -> None:
        self._das, self._operations = das, operations
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._busy = threading.Lock()

    def channels(self) -> list[dict[str, Any]]:
        """Return all channels."""
        return described(self._das.config.channels)

    def plot(self, channels: list[str], seconds: float, kind: str) -> dict[str, str]:
        """Begin to draw; see :data:`nightjar.api.das.COMMANDS`."""
        config = self._das.config
        numbers = select(config.channels, channels) or list(range(config.channels.count))
        if kind != "levels" and len(numbers) > MOST_CURVES:
            raise InvalidArgument(
                f"{len(numbers)} channels are too many for one plot of kind {kind}: {MOST_CURVES} "
                "at most; kind levels shows all"
            )
        if not self._busy.acquire(blocking=False):
            raise Refused("a plot is being drawn; try again", code=Code.BUSY)
        operation = self._operations.begin("plot")
        threading.Thread(
            target=self._draw, args=(operation, numbers, seconds, kind), name="plot", daemon=True
        ).start()
        return {"operation": operation.id}

    def _draw(self, operation: Operation, numbers: list[int], seconds: float, kind: str) -> None:
        try:
            operation.finish(self._drawn(numbers, seconds, kind))
        except NightjarError as error:
            operation.fail(error)
        except Exception as error:  # noqa: BLE001 - it is the operation's outcome
            operation.fail(NightjarError(f"the plot was not drawn: {error}", code=Code.INTERNAL))
        finally:
            self._busy.release()

    def _drawn(self, numbers: list[int], seconds: float, kind: str) -> dict[str, Any]:
        config = self._das.config
        samples, last_ns = self._das.pipeline.ring.last(seconds, numbers)
        if len(samples) < 2:
            raise Refused("there are no samples to draw: is the ADC there?")
        title = f"{config.instrument or config.daemon}  {iso(last_ns, 3)} UTC"
        png = draw(samples, {
            "kind": kind, "rate_hz": config.adc.sample_rate_hz, "channels": numbers,
            "volts_per_lsb": config.adc.volts_per_lsb, "title": title,
            "names": [config.channels.name_of(one) or f"channel {one}" for one in numbers],
        })  # fmt: skip
        identity = uuid.uuid4().hex
        self._kept[identity] = png
        while len(self._kept) > PICTURES_KEPT:
            self._kept.popitem(last=False)
        return {"plot": identity, "bytes": len(png), "samples": len(samples)}

    def data(self, plot: str, offset: int) -> dict[str, Any]:
        """Return a part of a picture in base64."""
        png = self._kept.get(plot)
        if png is None:
            raise Refused(f"no plot {plot!r}: draw it again", code=Code.UNKNOWN_ITEM)
        end = offset + CHUNK_BYTES
        return {
            "data": base64.b64encode(png[offset:end]).decode(),
            "next": end if end < len(png) else None,
        }


def checked_words(das: Acquisition, channels: list[str]) -> list[int]:
    """Return the numbers of channels that words name; all for none."""
    return select(das.config.channels, channels) or list(range(das.config.channels.count))
