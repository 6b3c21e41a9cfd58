# SPDX-License-Identifier: BSD-3-Clause
"""The thin face of the data acquisition on the network."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightjar.api.commands import Command
from nightjar.api.das import COMMANDS
from nightjar.daemon import Context, Spec, heartbeat_age
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjar.rpc.server import Handler
from nightjard.dasd.clockcheck import ClockState, look
from nightjard.dasd.config import DasConfig, NidaqmxConfig, SimulatedConfig
from nightjard.dasd.drivers import make_adc
from nightjard.dasd.model import Acquisition
from nightjard.dasd.telling import Pictures, check, checked_words, snapshot

log = logging.getLogger(__name__)

LOOK_S = 1.0
ASK_S = 1.0
_COUNTS = {
    "files": "Minute files published by the recording",
    "samples": "Samples recorded",
    "missing": "Slots without a sample",
    "dropped": "Samples that had no slot",
    "gaps": "Gaps between samples",
    "slips": "Slots moved because the ADC's clock runs at another rate",
}


class DasService:
    """Carries :class:`nightjard.dasd.model.Acquisition`."""

    commands: Sequence[Command] = COMMANDS

    def __init__(self, context: Context[DasConfig]) -> None:
        self._context = context
        config, clock = context.config, context.clock
        self._das = Acquisition(
            config, make_adc(config, clock), clock, context.health, context.state,
            _clock_of(config), _telescope_of(config, context.registry),
        )  # fmt: skip
        self._pictures = Pictures(self._das, context.operations)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (
                ("adc", self._das.feed.run), ("recorder", self._das.run), ("care", self._care),
            )
        ]  # fmt: skip

    def handlers(self) -> Mapping[str, Handler]:
        """Return a handler per command."""
        das, pictures = self._das, self._pictures
        levels, channels = das.levels, das.config.channels
        return {
            "start": das.start,
            "stop": das.stop,
            "channels": pictures.channels,
            "map": lambda: {**channels.model_dump(mode="json"), "sha256": channels.digest},
            "levels": lambda: levels.measure(das.now_ns()),
            "trace": lambda channels, seconds, points: levels.trace(
                checked_words(das, channels), seconds, points
            ),
            "plot": pictures.plot,
            "plot_data": pictures.data,
            "check": lambda clock: check(das, clock_only=clock),
            "fault": self._fault,
        }

    def _fault(
        self, kind: str, seconds: float, channel: int | None, amount: float
    ) -> dict[str, Any]:
        self._das.feed.adc.fault(kind, seconds, channel, amount)
        log.warning("the simulated ADC was told to fail: %s", kind)
        return {"kind": kind}

    def status(self) -> Mapping[str, Any]:
        """Return the snapshot."""
        return self._context.snapshot(snapshot(self._das, self._context.clock))

    def start(self) -> None:
        """Start the threads; a recording that was killed goes on."""
        for thread in self._threads:
            thread.start()

    def _care(self) -> None:
        clock = self._context.clock
        while not self._stopping.is_set():
            try:
                self._das.look_around()
                self._measure()
            except Exception:
                log.exception("looking around")
            clock.wait(self._stopping, LOOK_S)

    def _measure(self) -> None:
        metrics, status = self._context.metrics, snapshot(self._das, self._context.clock)
        adc, recording = status["adc"], status["recording"] or {}
        gauge = metrics.gauge
        gauge("das_adc_connected", "Whether the ADC is there", adc["is_connected"])
        gauge("das_adc_samples", "Samples read since the daemon started", adc["samples"])
        gauge("das_adc_overruns", "Times that the ADC lost samples", adc["overruns"])
        gauge("das_adc_late_stamps", "Stamps too late to tell the time", adc["late_stamps"])
        if adc["age_s"] is not None:
            gauge("das_adc_age_seconds", "Age of the last samples", adc["age_s"])
        if adc["measured_ppm"] is not None:
            gauge("das_adc_ppm", "ADC's crystal against the host's clock", adc["measured_ppm"])
        gauge("das_recording", "Whether a recording runs", recording.get("is_running", False))
        for key, text in _COUNTS.items():
            gauge(f"das_recording_{key}", text, recording.get(key, 0))
        gauge("das_queue_seconds", "Samples that wait to be written", status["queue_s"])
        clock = status["clock"]
        gauge("das_clock_locked", "Whether the host's clock is disciplined", clock["is_locked"])
        if clock["offset_s"] is not None:
            gauge("das_clock_offset_seconds", "Offset of the host's clock", clock["offset_s"])
        if status["disk"]["free_bytes"] is not None:
            gauge("das_disk_free_bytes", "Room for samples", status["disk"]["free_bytes"])

    def stop(self, report: Callable[[str], None]) -> None:
        """Publish what there is; the next life goes on with the recording."""
        report("publishing the minute")
        self._das.close()
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(10)

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the slower of the two threads last went round its loop."""
        das = self._das
        beat_ns = min(das.beat_ns, das.feed.beat_ns)
        return heartbeat_age(self._context.clock.monotonic_ns(), beat_ns)


def _clock_of(config: DasConfig) -> Callable[[], ClockState]:
    """Return what tells how good the clock of the ADC's machine is."""
    driver = config.adc.driver
    if isinstance(driver, SimulatedConfig):
        is_good = driver.offset_s == driver.drift_ppm == 0
        return lambda: ClockState("simulated", is_good)
    return look


def _telescope_of(config: DasConfig, registry: Registry) -> Callable[[], Mapping[str, Any]] | None:
    """Return what asks the daemon of the telescope's logs; None where none is configured."""
    if config.telescope_daemon is None:
        return None
    client = Client(registry.daemon(config.telescope_daemon), ASK_S)

    def ask() -> Mapping[str, Any]:
        told: Mapping[str, Any] = client.call("telescope", is_safe=True)
        return told

    return ask


def check_config(config: DasConfig, registry: Registry) -> Sequence[str]:
    """Return what is doubtful about a valid configuration.

    Raises
    ------
    ConfigError
        The telescope's daemon is not registered.
    """
    warnings = []
    if config.telescope_daemon is not None:
        registry.daemon(config.telescope_daemon)
    if not Path(config.raw_root).is_dir():
        warnings.append(f"raw_root: {config.raw_root} does not exist: recording will be refused")
    if isinstance(config.adc.driver, NidaqmxConfig):
        warnings.append("adc.driver: nidaqmx has not been tested with hardware")
    return warnings


SPEC = Spec(
    program="dasd",
    help="Records the channels of an ADC in minute files.",
    config_model=DasConfig,
    build=DasService,
    check=check_config,
)
