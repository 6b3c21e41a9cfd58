# SPDX-License-Identifier: BSD-3-Clause
"""The camera's RPC face, and the wiring of its parts: frame buffer, saving, hand-over."""

from __future__ import annotations

import contextlib
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
from nightjar.errors import Busy, InvalidArgument, NightjarError
from nightjar.files import free_bytes, is_temporary, locked
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
from nightjard.camd.ring import (
    FrameRing,
    forget_leftover,
    leftover_jobs,
    lock_path,
    remove_leftovers,
)  # fmt: skip
from nightjard.camd.saver import WORKER_COMMAND, Job, Saved, Saver, wait_for_old_workers

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 60.0
OLD_WORKERS_TIMEOUT_S = 15.0
REMEMBERED = 1000
_SPACE_PERIOD_S = 2.0
_HANDOVER_STOP_S = 3.0


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
            # Announcing twice is harmless, and after a restart of the pipeline the first attempt
            # finds a connection that is dead.
            is_safe=True,
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
        # Two daemons of other names must not share a camera: its frame buffer has one owner.
        self._camera_lock = contextlib.ExitStack()
        self._camera_lock.enter_context(
            locked(lock_path(self.config.camera_id), f"a daemon of camera {self.config.camera_id}")
        )
        self.commands: Sequence[Command] = COMMANDS
        self._table = {command.name: command for command in COMMANDS}
        self._recent: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self._by_path: dict[str, dict[str, Any]] = {}
        self._recent_lock = threading.Lock()
        self._saved = self._handed_over = 0
        self._leftover_slots: dict[str, int] = {}
        self._leftover_lock = threading.Lock()
        self._last_file: str | None = None
        self._free_bytes: int | None = None
        self._ending = threading.Event()
        self._highest_number = 0
        pipeline = None
        if self.config.pipeline_daemon is not None:
            entry = context.registry.daemon(self.config.pipeline_daemon)
            pipeline = PipelineClient(Client(entry))
        self._handover = HandOver(
            pipeline, self.config.pipeline_handover_timeout, self._on_accepted,
            self._on_not_accepted, self._on_gone, context.clock,
        )  # fmt: skip
        self._worker_lock = context.state / "workers.lock"
        self._saver = Saver(
            self.config.worker_processes, self._on_saved, self._on_not_saved, context.clock,
            (*WORKER_COMMAND, str(self._worker_lock)),
        )  # fmt: skip
        detector = make_detector(self.config.driver, self.config.camera_serial, context.clock)
        self.camera = Camera(
            self.config, detector, self._make_ring, self._make_counter, self, context.clock,
            context.health, context.operations,
        )  # fmt: skip
        self._space_thread = threading.Thread(target=self._watch_space, name="space", daemon=True)

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Start the parts; frames that an earlier life read out are saved and handed over."""
        # Saving processes outlive a daemon that was killed by the frame in hand; what they finish
        # must not be taken for unsaved.
        if not wait_for_old_workers(self._worker_lock, self._context.clock, OLD_WORKERS_TIMEOUT_S):
            self.error(f"a saving process of an earlier daemon still holds {self._worker_lock}")
        self._clear_temporaries()
        leftovers = leftover_jobs(self.config.camera_id)
        unsaved = {str(job["path"]) for _, job in leftovers}
        spooled = spooled_frames(
            self.config.output_path, self.config.output_prefix, self.config.camera_id
        )
        self._highest_number = max(
            [frame.number for frame in spooled] + [int(job["number"]) for _, job in leftovers] + [0]
        )
        self._saver.start()
        self._handover.adopt([frame for frame in spooled if str(frame.path) not in unsaved])
        self._recover_buffer(leftovers)
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

    def _recover_buffer(self, leftovers: list[tuple[int, Job]]) -> None:
        """Save what an earlier life had read out but not saved."""
        for slot, job in leftovers:
            self._leftover_slots[str(job["path"])] = slot
        for _, job in leftovers:
            self._handover.expect(Path(job["path"]))
            self._saver.submit(job)
        if leftovers:
            self.info(f"{len(leftovers)} frames were left in the frame buffer and are being saved")
        else:
            remove_leftovers(self.config.camera_id)

    def stop(self, report: Callable[[str], None]) -> None:
        """End sequences, warm up, save and hand over what is left, end all processes."""
        self.camera.close_for_exit(report, self._context.hurry)
        self._wait(
            DRAIN_TIMEOUT_S, lambda: self._saver.pending == 0,
            lambda: report(f"saving the last {self._saver.pending} frames"),
        )  # fmt: skip
        if not self._saver.stop(0.0):
            self.error("frames are left in the frame buffer; the next start saves them")
        self._wait(
            self.config.pipeline_handover_timeout, lambda: self._handover.is_idle,
            lambda: report("handing over the last frames"),
        )  # fmt: skip
        self._ending.set()
        # A call in hand is not waited for: the pipeline knows the frame when it is offered again.
        self._handover.stop(_HANDOVER_STOP_S)
        self.camera.end_thread()
        if self.camera.ring is not None:
            self.camera.ring.close(unlink=True)
        spool.clear(self.config.output_path)
        lock_path(self.config.camera_id).unlink(missing_ok=True)
        self._camera_lock.close()

    def _wait(
        self, timeout_s: float, is_done: Callable[[], bool], report: Callable[[], None]
    ) -> None:
        """Wait in a stop: no longer than `timeout_s`, nor when it hurries; report every second."""
        clock = self._context.clock
        deadline_ns = clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        report_ns = 0
        while not is_done() and clock.monotonic_ns() < deadline_ns:
            if clock.monotonic_ns() >= report_ns:
                report()
                report_ns = clock.monotonic_ns() + NS_PER_S
            if clock.wait(self._context.hurry, 0.02):
                return

    def heartbeat_age_s(self) -> float:
        """Return the age of the owner thread's last turn, beyond what connecting may take."""
        age_s = heartbeat_age(self._context.clock.monotonic_ns(), self.camera.beat_ns)
        patience_s = self.config.driver.open_timeout if self.camera.is_connecting else 0.0
        return max(0.0, age_s - patience_s)

    # ------------------------------------------------------------ parts

    def _make_ring(self, shape: tuple[int, int]) -> FrameRing:
        if self._leftover_slots:
            raise Busy(
                f"{len(self._leftover_slots)} frames of an earlier run are still being saved; "
                f"try again"
            )
        return FrameRing(
            self.config.camera_id, shape, self.config.framebuffer_bytes, self._context.clock,
            self.camera.wake,
        )  # fmt: skip

    def _make_counter(self) -> FrameCounter:
        return FrameCounter(self.config.expcount_path, self._context.clock, self._highest_number)

    def _watch_space(self) -> None:
        """Keep the free space current; statvfs on a dead mount may hang, so not in the owner."""
        while not self._ending.is_set():
            try:
                free = free_bytes(self.config.output_path)
            except OSError:
                self._free_bytes = None
            else:
                self._free_bytes = free
                self.camera.note_space(free)
            self._context.clock.wait(self._ending, _SPACE_PERIOD_S)

    # ------------------------------------------------------------ outlets of the model

    def submit(self, job: Job) -> None:
        """Save a frame."""
        self._saver.submit(job)

    def expect(self, path: Path) -> None:
        """Hand a file over once it is saved."""
        self._handover.expect(path)

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
                self._by_path.pop(self._recent[0]["path"], None)
            self._recent.append(entry)
            self._by_path[entry["path"]] = entry
        self._highest_number = max(self._highest_number, int(job["number"]))
        self._context.metrics.count("camera_frames_total", "Frames read out")

    def info(self, text: str) -> None:
        """Tell the observatory log."""
        self._context.obslog.info(text)

    def warning(self, text: str) -> None:
        """Tell the observatory log what a person should look at."""
        self._context.obslog.warning(text)

    def error(self, text: str) -> None:
        """Tell the observatory log of a failure."""
        self._context.obslog.error(text)

    def _note(self, path: str | Path, **changes: Any) -> None:
        with self._recent_lock:
            entry = self._by_path.get(str(path))
            if entry is not None:
                entry.update(changes)

    def _on_saved(self, saved: Saved) -> None:
        job = saved.job
        path = str(job["path"])
        leftover = self._leftover_slots.get(path)
        if leftover is not None:
            forget_leftover(self.config.camera_id, leftover)
        elif self.camera.ring is not None:
            self.camera.ring.release(int(job["slot"]))
        self._saved += 1
        self._last_file = path
        self._note(path, state="saved", size=saved.size)
        self._context.health.ok("storage")
        self._context.metrics.observe("camera_save_seconds", "Time to save a frame", saved.seconds)
        self._handover.saved(
            SpooledFrame(
                self.config.camera_id, str(job["run"]), int(job["number"]), Path(path),
                saved.size, saved.datasum,
            )
        )  # fmt: skip
        if leftover is not None:
            self._forget_leftover(path)

    def _forget_leftover(self, path: str) -> None:
        with self._leftover_lock:
            if len(self._leftover_slots) == 1:
                # Before the last is forgotten: from then on a new frame buffer has these names.
                remove_leftovers(self.config.camera_id)
                self.info("all frames that were left in the frame buffer are saved")
            del self._leftover_slots[path]

    def _on_not_saved(self, job: Job, error: NightjarError) -> None:
        self._note(job["path"], state="waits to be saved")
        self.camera.frame_not_saved(int(job["number"]), error)

    def _on_accepted(self, frame: SpooledFrame) -> None:
        self._handed_over += 1
        self._note(frame.path, state="handed over")
        self._context.health.ok("pipeline")

    def _on_gone(self, frame: SpooledFrame) -> None:
        self._note(frame.path, state="taken away")
        if not self._handover.waiting:
            self._context.health.ok("pipeline")

    def _on_not_accepted(self, frame: SpooledFrame, error: NightjarError) -> None:
        self._note(frame.path, state="waits for the pipeline")
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
            "set_controls": lambda values: camera.set_controls(values),
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
            if key == "window" and isinstance(value, str):
                parameter = "name"
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

