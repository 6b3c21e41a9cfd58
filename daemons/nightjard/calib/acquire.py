# SPDX-License-Identifier: BSD-3-Clause
"""Acquisition of a session on a camera of ours: scripts in, a day folder out.

``camd`` takes the frames: exposure time and filter are settings of its own, every other key of a
script is one of its controls. Each saved frame is verified, cut into its CCDs and written as the
acquisition software does: images, housekeeping, last the lines of the exposure log. So whoever sees
a line in the log finds its files. The camera's own file is removed only when what was cut from it
has been read back from the disk unchanged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nightjar.calibration.chamber import ChamberProfile
from nightjar.calibration.dayfolder import PREFIX, UNIT, day_folder_name, list_day
from nightjar.calibration.detector import Detector
from nightjar.calibration.elvis import load_elvis
from nightjar.calibration.script import DEFAULTS, KEYS, Column, Script
from nightjar.clock import Clock
from nightjar.errors import (
    Cancelled,
    InvalidArgument,
    Refused,
    StorageError,
    storage_code,
)
from nightjar.files import is_safe_name, locked, require_folder, require_space
from nightjard.calib.camera_frames import cut, read_frame, require_commanded, require_size
from nightjard.calib.day_writer import DayWriter

LOCK = ".calib-acquire.lock"
#: Keys that the camera has settings of its own for.
OWN_SETTINGS = frozenset({"exptime", "wave", "frames"})


@dataclass(frozen=True)
class Taken:
    """A frame that the camera has saved.

    Attributes
    ----------
    path
        The camera's own file.
    start_ns
        UTC at which the exposure began.
    housekeeping
        (UTC ns, name -> value) of the looks at the electronics during the exposure.
    """

    path: Path
    start_ns: int
    housekeeping: tuple[tuple[int, Mapping[str, float]], ...] = ()


class Camera(Protocol):
    """What takes frames."""

    def connect(self) -> None:
        """Make it ready: initialized and idle."""
        ...

    @property
    def controls(self) -> frozenset[str]:
        """Names of its controls."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of its frames."""
        ...

    def expose(
        self, values: Mapping[str, Any], obsid: int, filter_slot: int, stop: threading.Event
    ) -> Taken:
        """Take one frame with the values of a script; return when it is saved.

        Raises
        ------
        Cancelled
            `stop` was set; the exposure was aborted.
        NightjarError
            The camera failed.
        """
        ...


@dataclass(frozen=True)
class Step:
    """One exposure of the plan."""

    test: str
    column: Column
    frame: int
    of_test: int
    script_name: str


@dataclass
class Acquired:
    """What was acquired: the day folder, OBSIDs by test, exposures done of those planned."""

    folder: Path
    obsids: dict[str, tuple[int, int]] = field(default_factory=dict)
    done: int = 0
    planned: int = 0


OnFrame = Callable[[int, int, Step, int], None]


def steps_of(scripts: Sequence[tuple[str, Script]]) -> list[Step]:
    """Return the exposures of scripts (file name, script), in order."""
    return [
        Step(script.test, column, number + 1, script.frames, name)
        for name, script in scripts
        for number, column in enumerate(
            column for column in script.columns for _ in range(column.frames)
        )
    ]


def missing_controls(
    scripts: Sequence[Script], camera: frozenset[str], detector: Detector
) -> dict[str, list[str]]:
    """Return what scripts command and a camera has no control for: key -> tests.

    Keys at their defaults, texts that only the log carries, reading all rows, and the shutter of
    an exposure of no time need no control.
    """
    carried = {"program", "test", "operator", "comments", "roe-tab"}
    rows = detector.quadrant_shape[0]
    missing: dict[str, list[str]] = {}
    for script in scripts:
        for column in script.columns:
            for key in KEYS:
                value = column.values.get(key, DEFAULTS[key])
                is_carried = key in OWN_SETTINGS or key in carried or key.startswith("sn_")
                is_plain = value == DEFAULTS[key] or (key, value) == ("vend", rows)
                is_dark = key == "shuttr" and float(column.values.get("exptime", 0.0)) == 0.0
                if is_carried or is_plain or is_dark or key in camera:
                    continue
                tests = missing.setdefault(key, [])
                if script.test not in tests:
                    tests.append(script.test)
    return missing


def taken_obsids(data: Path) -> dict[int, Path]:
    """Return the OBSIDs in the day folders of a block, and the folder of each."""
    folders = sorted(path for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    return {obsid: folder for folder in folders for obsid in list_day(folder).obsids}


def next_obsid(taken: Iterable[int], first: int = 1000) -> int:
    """Return the OBSID after the highest of those that are taken; `first` without any."""
    return max(taken, default=first - 1) + 1


def acquire(
    camera: Camera,
    scripts: Sequence[tuple[str, Script]],
    data: Path,
    detector: Detector,
    profile: ChamberProfile,
    clock: Clock,
    *,
    elvis: str,
    start_obsid: int | None = None,
    day_folder: str | None = None,
    allows_missing: bool = False,
    keeps_spool: bool = False,
    unit: str = UNIT,
    prefix: str = PREFIX,
    stop: threading.Event | None = None,
    on_frame: OnFrame | None = None,
) -> Acquired:
    """Take all frames of scripts, one after the other, into a day folder.

    Parameters
    ----------
    scripts
        Name of the workbook, and the script.
    data
        Parent of the day folders; one acquisition at a time writes there.
    start_obsid
        Of the first frame; default the one after the highest in `data`.
    day_folder
        Name; default that of today. A session that runs past midnight stays in it.
    allows_missing
        Go on though the camera has no control for some keys: they are in the log as commanded.
    keeps_spool
        Leave the camera's own files.
    on_frame
        Called before each exposure: frames done, all, step, OBSID.

    Raises
    ------
    Refused
        A key has no control; an OBSID is taken; another acquisition writes there.
    Cancelled
        `stop` was set; what was acquired until then is whole.
    DeviceError, TimedOut
        The camera failed, or took a frame with other settings.
    StorageError
        No room, or a file that is not what was written.
    """
    steps = steps_of(scripts)
    name = day_folder or day_folder_name(clock.now_ns())
    if not steps:
        raise InvalidArgument("no frame to take: the scripts have no columns")
    if not is_safe_name(name):
        raise InvalidArgument(f"day folder {name!r}: give a name in {data}, such as 21_Feb_26")
    _require_profile(scripts, profile)
    load_elvis(elvis)
    _make_folder(data)
    with locked(data / LOCK, f"calib acquire in {data}"):
        first = _first_obsid(data, start_obsid, len(steps))
        camera.connect()
        require_size(camera.size, detector)
        if not allows_missing:
            _require_controls(camera, scripts, detector)
        _make_folder(data / name)
        require_space(data, _image_bytes(len(steps), detector), f"acquiring {len(steps)} frames")
        writer = DayWriter(data / name, detector, elvis=elvis, unit=unit, prefix=prefix)
        run = _Run(camera, writer, detector, Acquired(data / name, planned=len(steps)), keeps_spool)
        try:
            return run.take(steps, first, stop or threading.Event(), on_frame)
        finally:
            writer.close()


@dataclass
class _Run:
    """Takes frames until all are done or something stops it."""

    camera: Camera
    writer: DayWriter
    detector: Detector
    acquired: Acquired
    keeps_spool: bool

    def take(
        self, steps: Sequence[Step], first: int, stop: threading.Event, on_frame: OnFrame | None
    ) -> Acquired:
        """Take the frames of steps."""
        for done, step in enumerate(steps):
            if stop.is_set():
                raise Cancelled(_how_far(self.acquired))
            if on_frame is not None:
                on_frame(done, len(steps), step, first + done)
            try:
                self._one(step, first + done, stop)
            except Cancelled:
                raise Cancelled(_how_far(self.acquired)) from None
        return self.acquired

    def _one(self, step: Step, obsid: int, stop: threading.Event) -> None:
        values = {**DEFAULTS, **step.column.values, "test": step.test}
        shot = self.camera.expose(values, obsid, int(values["wave"]), stop)
        pixels, header = read_frame(shot.path)
        require_commanded(header, values, obsid, self.camera.controls, shot.path)
        self.writer.write(
            obsid, shot.start_ns, values, cut(pixels, self.detector), shot.housekeeping,
            step.script_name,
        )  # fmt: skip
        if not self.keeps_spool:
            try:
                shot.path.unlink()
            except OSError as error:
                raise StorageError(
                    f"{shot.path} was taken over as OBSID {obsid} and cannot be removed: "
                    f"{error.strerror}; let this user write in its folder, or say --keep-spool",
                    path=str(shot.path),
                ) from error
        start, _ = self.acquired.obsids.get(step.test, (obsid, obsid))
        self.acquired.obsids[step.test] = (start, obsid)
        self.acquired.done += 1


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make the folder {folder}: {error.strerror}; give another one with --data",
            code=storage_code(error), path=str(folder),
        ) from error  # fmt: skip
    require_folder(folder, "acquiring a session")


def _image_bytes(frames: int, detector: Detector) -> int:
    """Return what the images take, and some room for logs and housekeeping."""
    rows, columns = detector.frame_shape
    return frames * (detector.ccds * (2 * rows * columns + 4 * 2880) + 50_000) + (10 << 20)


def _first_obsid(data: Path, wanted: int | None, count: int) -> int:
    taken = taken_obsids(data)
    free = next_obsid(taken)
    first = free if wanted is None else wanted
    clash = next((obsid for obsid in range(first, first + count) if obsid in taken), None)
    if clash is not None:
        raise Refused(f"{taken[clash]} has OBSID {clash} already; the next free one is {free}")
    return first


def _require_controls(
    camera: Camera, scripts: Sequence[tuple[str, Script]], detector: Detector
) -> None:
    missing = missing_controls([script for _, script in scripts], camera.controls, detector)
    if missing:
        listed = "; ".join(f"{key} ({', '.join(tests[:3])})" for key, tests in missing.items())
        raise Refused(
            f"the camera has no control for what the scripts command: {listed}; set these by hand "
            f"and say --allow-missing, or leave the tests out"
        )


def _how_far(acquired: Acquired) -> str:
    return (
        f"stopped after {acquired.done} of {acquired.planned} frames; those are in "
        f"{acquired.folder}. The test at work has to be taken again as a whole"
    )


def _require_profile(
    scripts: Sequence[tuple[str, Script]], profile: ChamberProfile
) -> None:
    """Raise Refused where a script opens the shutter for longer than the chamber knows."""
    longest = profile.longest_exposure_s
    for name, script in scripts:
        for column in script.columns:
            exposure_s = float(column.values.get("exptime", 0.0))
            if column.values.get("shuttr", 1) and exposure_s > longest and \
                    column.values.get("source") == "flat":
                raise Refused(
                    f"{name}: {column.name}: exptime {exposure_s:g} s is beyond the shutter table "
                    f"of {profile.name} ({longest:g} s)"
                )
