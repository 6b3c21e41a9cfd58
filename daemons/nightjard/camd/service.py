# SPDX-License-Identifier: BSD-3-Clause
"""The camera's RPC face, and the wiring of its parts: frame buffer, saving, hand-over."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightjar.api.camera import COMMANDS, CONFIGURE_KEYS
from nightjar.api.commands import Command
from nightjar.api.states import Level
from nightjar.clock import NS_PER_S
from nightjar.daemon import Context, heartbeat_age
from nightjar.errors import InvalidArgument, NightjarError
from nightjar.files import free_bytes, is_temporary
from nightjar.fits import spool
from nightjar.operations import Operation
from nightjar.rpc.client import Client
from nightjar.rpc.server import Handler
from nightjar.times import iso
from nightjard.camd.config import CameraConfig
from nightjard.camd.counter import FrameCounter
from nightjard.camd.drivers import make_detector
from nightjard.camd.drivers.base import FrameRecord
from nightjard.camd.handover import HandOver, SpooledFrame, spooled_frames
from nightjard.camd.model import Camera
from nightjard.camd.ring import FrameRing, forget_leftover, leftover_jobs, remove_leftovers
from nightjard.camd.saver import Job, Saved, Saver

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 60.0
REMEMBERED = 1000
_SPACE_PERIOD_S = 2.0


class PipelineClient:
    """Tells the pipeline daemon of new frames."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def notify(self, frame: SpooledFrame, timeout_s: float) -> None:
        """Offer a frame; see :class:`nightjard.camd.handover.Pipeline`."""
        self._client.call(
            "notify_frame",
            {
                "camera": frame.camera, "run": frame.run, "frame_number": frame.number,
                "filename": frame.path.name, "size": frame.size, "datasum": frame.datasum,
            },
            timeout_s=timeout_s,
        )  # fmt: skip


class CameraService:
    """One camera daemon.

    Parameters
    ----------
    context
        From the runtime.
    """

    def __init__(self, context: Context[CameraConfig]) -> None:
        self._context = context
        self.config = context.config
        self.commands: Sequence[Command] = COMMANDS
        self._table = {command.name: command for command in COMMANDS}
        self._recent: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self._by_number: dict[int, dict[str, Any]] = {}
        self._recent_lock = threading.Lock()
        self._saved = self._handed_over = 0
        self._leftover_slots: dict[int, int] = {}
        self._last_file: str | None = None
        self._free_bytes: int | None = None
        self._ending = threading.Event()
        self._spool_floor = 0
        pipeline = None
        if self.config.pipeline_daemon is not None:
            entry = context.registry.daemon(self.config.pipeline_daemon)
            pipeline = PipelineClient(Client(entry))
        self._handover = HandOver(
            pipeline, self.config.pipeline_handover_timeout, self._on_accepted,
            self._on_not_accepted, context.clock,
        )  # fmt: skip
        self._saver = Saver(
            self.config.worker_processes, self._on_saved, self._on_not_saved, context.clock
        )
        detector = make_detector(self.config.driver, self.config.camera_serial, context.clock)
        self.camera = Camera(
            self.config, detector, self._make_ring, self._make_counter, self, context.clock,
            context.health, context.operations,
        )  # fmt: skip
        self._space_thread = threading.Thread(target=self._watch_space, name="space", daemon=True)

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Start the parts; frames that an earlier life read out are saved and handed over."""
        spooled = spooled_frames(
            self.config.output_path, self.config.output_prefix, self.config.camera_id
        )
        self._clear_temporaries()
        self._spool_floor = max((frame.number for frame in spooled), default=0)
        self._saver.start()
        self._handover.adopt(spooled)
        self._recover_buffer()
        self._handover.start()
        self.camera.start_thread()
        self._space_thread.start()
        if spooled:
            self.info(f"{len(spooled)} frames in the spool are handed over")

    def _clear_temporaries(self) -> None:
        """Remove half-written files of saving processes that were killed; their frames are safe.

        The frame is in the frame buffer (and saved again from there) until its file has its name.
        """
        for path in self.config.output_path.glob(f".{self.config.output_prefix}-*"):
            writer = path.name.split(".")[-2]
            if is_temporary(path) and writer.isdigit() and not Path("/proc", writer).exists():
                log.info("removed %s, left by a process that was killed", path)
                path.unlink(missing_ok=True)

    def _recover_buffer(self) -> None:
        """Save what an earlier life had read out but not saved."""
        leftovers = leftover_jobs(self.config.camera_id)
        for slot, job in leftovers:
            self._spool_floor = max(self._spool_floor, int(job["number"]))
            self._leftover_slots[int(job["number"])] = slot
            self._handover.expect(int(job["number"]))
            self._saver.submit(job)
        if leftovers:
            self.info(f"{len(leftovers)} frames were left in the frame buffer and are being saved")
        else:
            remove_leftovers(self.config.camera_id)

    def stop(self, report: Callable[[str], None]) -> None:
        """End sequences, warm up, save and hand over what is left, end all processes."""
        self.camera.close_for_exit(report, self._context.hurry)
        report("saving the last frames")
        if not self._saver.stop(DRAIN_TIMEOUT_S):
            self.error("frames are left in the frame buffer; the next start saves them")
        deadline = self._context.clock.monotonic_ns() + round(
            self.config.pipeline_handover_timeout * NS_PER_S
        )
        while not self._handover.is_idle and self._context.clock.monotonic_ns() < deadline:
            self._context.clock.wait(self._context.hurry, 0.05)
            if self._context.hurry.is_set():
                break
        self._ending.set()
        self._handover.stop(self.config.pipeline_handover_timeout)
        self.camera.end_thread()
        if self.camera.ring is not None:
            self.camera.ring.close(unlink=True)
        spool.clear(self.config.output_path)

    def heartbeat_age_s(self) -> float:
        """Return the age of the owner thread's last turn."""
        return heartbeat_age(self._context.clock.monotonic_ns(), self.camera.beat_ns)

    # ------------------------------------------------------------ parts

    def _make_ring(self, shape: tuple[int, int]) -> FrameRing:
        if self._leftover_slots:
            raise NightjarError(
                f"{len(self._leftover_slots)} frames of an earlier run are still being saved; "
                f"try again"
            )
        return FrameRing(
            self.config.camera_id, shape, self.config.framebuffer_bytes, self._context.clock,
            self.camera.wake,
        )  # fmt: skip

    def _make_counter(self) -> FrameCounter:
        return FrameCounter(self.config.expcount_path, self._context.clock, self._spool_floor)

    def _watch_space(self) -> None:
        """Keep the free space current; statvfs on a dead mount may hang, so not in the owner."""
        while not self._ending.is_set():
            try:
                self._free_bytes = free_bytes(self.config.output_path)
            except OSError:
                self._free_bytes = None
            self._context.clock.wait(self._ending, _SPACE_PERIOD_S)

    # ------------------------------------------------------------ outlets of the model

    def submit(self, job: Job) -> None:
        """Save a frame."""
        self._saver.submit(job)

    def expect(self, number: int) -> None:
        """Hand a frame over once it is saved."""
        self._handover.expect(number)

    def is_drained(self) -> bool:
        """Tell whether every frame is saved and offered."""
        return self._saver.pending == 0 and self._handover.is_idle

    def on_frame(self, job: Job, record: FrameRecord) -> None:
        """Remember a frame that was read out."""
        entry = {
            "number": job["number"], "run": job["run"], "start": iso(record.start_ns),
            "exposure": job["exposure"], "path": job["path"], "state": "read out", "size": None,
        }  # fmt: skip
        with self._recent_lock:
            if len(self._recent) == self._recent.maxlen:
                self._by_number.pop(self._recent[0]["number"], None)
            self._recent.append(entry)
            self._by_number[entry["number"]] = entry
        self._context.metrics.count("camera_frames_total", "Frames read out")

    def info(self, text: str) -> None:
        """Tell the observatory log."""
        self._context.obslog.info(text)

    def error(self, text: str) -> None:
        """Tell the observatory log of a failure."""
        self._context.obslog.error(text)

    def _note(self, number: int, **changes: Any) -> None:
        with self._recent_lock:
            entry = self._by_number.get(number)
            if entry is not None:
                entry.update(changes)

    def _on_saved(self, saved: Saved) -> None:
        job = saved.job
        number = int(job["number"])
        leftover = self._leftover_slots.get(number)
        if leftover is not None:
            forget_leftover(self.config.camera_id, leftover)
        elif self.camera.ring is not None:
            self.camera.ring.release(int(job["slot"]))
        self._saved += 1
        self._last_file = str(job["path"])
        self._note(number, state="saved", size=saved.size)
        self._context.health.ok("storage")
        self._context.metrics.observe("camera_save_seconds", "Time to save a frame", saved.seconds)
        self._handover.saved(
            SpooledFrame(
                self.config.camera_id, str(job["run"]), number, Path(job["path"]), saved.size,
                saved.datasum,
            )
        )  # fmt: skip
        if leftover is not None:
            del self._leftover_slots[number]
            if not self._leftover_slots:
                remove_leftovers(self.config.camera_id)
                self.info("all frames that were left in the frame buffer are saved")

    def _on_not_saved(self, job: Job, error: NightjarError) -> None:
        self._note(int(job["number"]), state="waits to be saved")
        self.camera.frame_not_saved(int(job["number"]), error)

    def _on_accepted(self, frame: SpooledFrame) -> None:
        self._handed_over += 1
        self._note(frame.number, state="handed over")
        self._context.health.ok("pipeline")

    def _on_not_accepted(self, frame: SpooledFrame, error: NightjarError) -> None:
        self._note(frame.number, state="waits for the pipeline")
        self._context.health.set(
            "pipeline", Level.DEGRADED, f"frames stay in {self.config.output_path}: {error.message}"
        )
        self.camera.frame_not_accepted(frame.number, error)

    # ------------------------------------------------------------ commands

    def handlers(self) -> Mapping[str, Handler]:
        """Return a handler per command of the table."""
        camera = self.camera
        return {
            "init": lambda: _operation(camera.init()),
            "shutdown": lambda warm: _operation(camera.shutdown(warm)),
            "start": lambda count, delay: _operation(camera.start(count, delay)),
            "stop": camera.stop,
            "abort": lambda: _operation(camera.abort()),
            "set_exposure": lambda seconds: camera.set_exposure(seconds),
            "set_window": lambda window, name: camera.set_window(window, name),
            "set_binning": lambda binning, method: camera.set_binning(binning, method),
            "set_gain": lambda gain: camera.set_gain(gain),
            "set_offset": lambda offset: camera.set_offset(offset),
            "set_filter": lambda filter: _operation(camera.set_filter(filter)),
            "set_stream": lambda enabled: camera.set_stream(enabled),
            "set_temperature": lambda celsius: camera.set_temperature(celsius),
            "configure": self._configure,
            "last": self._last,
            "hand_over": self._handover.retry_now,
        }

    def _configure(self, settings: dict[str, Any]) -> None:
        for key, value in settings.items():
            if key not in CONFIGURE_KEYS:
                known = ", ".join(CONFIGURE_KEYS)
                raise InvalidArgument(f"configure: unknown key {key!r}; known: {known}")
            command, parameter = CONFIGURE_KEYS[key]
            described = next(p for p in self._table[command].parameters if p.name == parameter)
            described.check(value)
        self.camera.configure(settings)

    def _last(self, count: int) -> list[dict[str, Any]]:
        with self._recent_lock:
            newest = list(self._recent)[-count:]
            return [dict(entry) for entry in reversed(newest)]

    def status(self) -> Mapping[str, Any]:
        """Return the snapshot; see :data:`nightjar.api.camera.STATUS_KEYS`."""
        handover = self._handover
        return {
            "time": iso(self._context.clock.now_ns(), 3),
            "daemon": self.config.daemon,
            "pid": os.getpid(),
            **self.camera.status(),
            "frames_saved": self._saved,
            "frames_handed_over": self._handed_over,
            "frames_waiting": handover.waiting,
            "frames_unsaved": self._saver.pending,
            "workers": self._saver.alive,
            "worker_restarts": self._saver.restarts,
            "last_file": self._last_file,
            "free_bytes": self._free_bytes,
            "pipeline": {
                "daemon": self.config.pipeline_daemon,
                "is_reachable": handover.is_reachable,
                "message": handover.message,
            },
        }


def _operation(operation: Operation) -> dict[str, str]:
    return {"operation": operation.id}

