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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.chamber import ChamberProfile
from nightjar.calibration.dayfolder import PREFIX, UNIT, day_folder_name, list_day
from nightjar.calibration.detector import Detector
from nightjar.calibration.script import DEFAULTS, KEYS, Column, Script
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Cancelled, InvalidArgument, Refused, StorageError
from nightjar.fits.hdus import opened, walk
from nightjar.fits.verify import verify_image
from nightjar.times import parse_iso
from nightjard.calib.day_writer import DayWriter

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


def missing_controls(scripts: Sequence[Script], camera: frozenset[str]) -> dict[str, list[str]]:
    """Return what scripts command and a camera has no control for: key -> tests.

    Keys at their defaults, and texts that only the log carries, need no control.
    """
    carried = {"program", "test", "operator", "comments", "roe-tab"}
    missing: dict[str, list[str]] = {}
    for script in scripts:
        for column in script.columns:
            for key in KEYS:
                value = column.values.get(key, DEFAULTS[key])
                is_carried = key in OWN_SETTINGS or key in carried or key.startswith("sn_")
                if is_carried or key in camera or value == DEFAULTS[key]:
                    continue
                tests = missing.setdefault(key, [])
                if script.test not in tests:
                    tests.append(script.test)
    return missing


def next_obsid(data: Path, first: int = 1000) -> int:
    """Return the OBSID after the highest in the day folders of a block; `first` without any."""
    highest = first - 1
    for folder in sorted(data.iterdir()) if data.is_dir() else []:
        if folder.is_dir():
            highest = max([highest, *list_day(folder).obsids])
    return highest + 1


def cut(frame: NDArray[np.uint16], detector: Detector) -> dict[int, NDArray[np.uint16]]:
    """Return the frames of the CCDs that stand side by side in the frame of a camera.

    Raises
    ------
    InvalidArgument
        The frame has another size than the detector's.
    """
    require_size((frame.shape[0], frame.shape[1]), detector)
    columns = detector.frame_shape[1]
    return {
        ccd: frame[:, (ccd - 1) * columns : ccd * columns] for ccd in detector.ccd_numbers
    }


def require_size(size: tuple[int, int], detector: Detector) -> None:
    """Raise InvalidArgument unless frames of (rows, columns) show the CCDs side by side."""
    rows, columns = detector.frame_shape
    if size != (rows, columns * detector.ccds):
        raise InvalidArgument(
            f"the camera's frames have {size[1]} x {size[0]} pixels, {detector.ccds} "
            f"{detector.name} side by side {columns * detector.ccds} x {rows}; name the detector "
            f"that the camera has, and set neither window nor binning"
        )


def read_frame(path: Path) -> NDArray[np.uint16]:
    """Return the pixels of a camera's file, uint16 [row, column], its checksums verified.

    Raises
    ------
    StorageError
        It cannot be read, or is not what was written.
    """
    verified = verify_image(path)
    if not verified.is_good:
        raise StorageError(
            f"{path}: {'; '.join(verified.problems)}; the frame was not taken over and its file "
            f"stays where it is", path=str(path),
        )  # fmt: skip
    with opened(path) as (read, name):
        unit = next(iter(walk(read, name)))
        header = unit.header
        if (header.get("BITPIX"), header.get("NAXIS")) != (16, 2):
            raise StorageError(f"{path} holds no image of 16 bits: sum of binned pixels?")
        shape = (int(str(header["NAXIS2"])), int(str(header["NAXIS1"])))
        data = read(unit.data_offset, unit.data_bytes)
    stored = np.frombuffer(data, ">u2").reshape(shape)
    # BZERO 32768: the sign bit is turned round.
    return stored.astype(np.uint16) ^ np.uint16(0x8000)


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
        Parent of the day folders.
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
        A key has no control; an OBSID is taken.
    Cancelled
        `stop` was set; what was acquired until then is whole.
    StorageError
        No room, or a file that is not what was written.
    """
    stop = stop or threading.Event()
    steps = steps_of(scripts)
    if not steps:
        raise InvalidArgument("no frame to take: the scripts have no columns")
    _require_profile(scripts, profile)
    first = next_obsid(data) if start_obsid is None else start_obsid
    folder = data / (day_folder or day_folder_name(clock.now_ns()))
    taken = [o for o in (list_day(folder).obsids if folder.is_dir() else [])
             if first <= o < first + len(steps)]  # fmt: skip
    if taken:
        raise Refused(
            f"{folder} has OBSID {taken[0]} already; the next free one is {next_obsid(data)}"
        )
    camera.connect()
    require_size(camera.size, detector)
    missing = missing_controls([script for _, script in scripts], camera.controls)
    if missing and not allows_missing:
        listed = "; ".join(f"{key} ({', '.join(tests[:3])})" for key, tests in missing.items())
        raise Refused(
            f"the camera has no control for what the scripts command: {listed}; set these by hand "
            f"and say --allow-missing, or leave the tests out"
        )
    acquired = Acquired(folder, planned=len(steps))
    writer = DayWriter(folder, detector, elvis=elvis, unit=unit, prefix=prefix)
    try:
        for done, step in enumerate(steps):
            obsid = first + done
            if stop.is_set():
                raise Cancelled(_how_far(acquired))
            if on_frame is not None:
                on_frame(done, len(steps), step, obsid)
            values = {**DEFAULTS, **step.column.values, "test": step.test}
            shot = camera.expose(values, obsid, int(values["wave"]), stop)
            frames = cut(read_frame(shot.path), detector)
            writer.write(
                obsid, shot.start_ns, values, frames, shot.housekeeping, step.script_name
            )
            if not keeps_spool:
                shot.path.unlink()
            start, _ = acquired.obsids.get(step.test, (obsid, obsid))
            acquired.obsids[step.test] = (start, obsid)
            acquired.done += 1
    except Cancelled:
        raise Cancelled(_how_far(acquired)) from None
    finally:
        writer.close()
    return acquired


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


# --- a camera behind camd -----------------------------------------------------------------------

_POLL_S = 0.5
_MARGIN_S = 120.0


class Caller(Protocol):
    """Calls a daemon: :class:`nightjar.rpc.client.Client`."""

    def call(
        self, command: str, arguments: dict[str, Any] | None = None, *,
        timeout_s: float | None = None, is_safe: bool = False,
    ) -> Any:
        """Return the value of the reply."""
        ...


class CamdCamera:
    """A camera behind its daemon.

    Parameters
    ----------
    client
        Calls the daemon.
    clock
        Paces the looks at it.
    """

    def __init__(self, client: Caller, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._controls: frozenset[str] = frozenset()
        self._filters: list[str] = []
        self._shortest_s = 0.0
        self._size = (0, 0)

    @property
    def controls(self) -> frozenset[str]:
        """Names of its controls."""
        return self._controls

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of its frames."""
        return self._size

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = self._client.call("status", is_safe=True)
        return status

    def connect(self) -> None:
        """Initialize it where that has not been done.

        Raises
        ------
        Refused
            It is busy with somebody else's sequence.
        """
        status = self._status()
        if status["state"] == "OFFLINE":
            self._finish(self._client.call("init", {}), threading.Event(), 300.0)
            status = self._status()
        if status["state"] != "IDLE":
            raise Refused(
                f"the camera is {status['state']}; stop what it does before a session is acquired"
            )
        if status.get("pipeline") and status["pipeline"].get("daemon"):
            raise Refused(
                f"the camera hands its frames over to {status['pipeline']['daemon']}, which would "
                f"take them away; configure it with pipeline_daemon null"
            )
        self._controls = frozenset(status.get("controls") or {})
        self._filters = list(status.get("filters") or [])
        x1, x2, y1, y2 = status["window"]
        self._size = ((y2 - y1 + 1) // status["binning"], (x2 - x1 + 1) // status["binning"])

    def expose(
        self, values: Mapping[str, Any], obsid: int, filter_slot: int, stop: threading.Event
    ) -> Taken:
        """Take one frame."""
        exposure_s = float(values["exptime"])
        controls = {key: values[key] for key in self._controls if key in values}
        if "obsid" in self._controls:
            controls["obsid"] = obsid
        self._move_filter(filter_slot, stop)
        settings = {"exposure": exposure_s, "controls": controls}
        if not self._controls:
            settings.pop("controls")
        self._configure(settings)
        housekeeping: list[tuple[int, Mapping[str, float]]] = []
        begun = self._client.call("start", {"count": 1, "delay": 0.0})
        self._finish(begun, stop, exposure_s + _MARGIN_S, housekeeping)
        last = self._client.call("last", {"count": 1}, is_safe=True)[0]
        path = Path(str(last["path"]))
        if not path.is_file():
            raise StorageError(
                f"the camera saved {path}, which is not there: is its output_path a folder of this "
                f"host, and does nobody take frames from it?", path=str(path),
            )  # fmt: skip
        return Taken(path, parse_iso(str(last["start"])), tuple(housekeeping))

    def _configure(self, settings: dict[str, Any]) -> None:
        """Give settings to the camera; for no exposure at all, as of a bias, its shortest one."""
        shortest_s = self._shortest_s
        if settings["exposure"] == 0:
            settings["exposure"] = shortest_s
        try:
            self._client.call("configure", {"settings": settings})
        except Refused as error:
            low = error.detail.get("low")
            is_bias = settings["exposure"] == 0 and error.detail.get("name") == "exposure"
            if not is_bias or not isinstance(low, float):
                raise
            self._shortest_s = low if shortest_s == 0 else shortest_s
            self._client.call("configure", {"settings": {**settings, "exposure": low}})

    def _move_filter(self, slot: int, stop: threading.Event) -> None:
        if not self._filters:
            return
        if not 1 <= slot <= len(self._filters):
            raise Refused(f"wave {slot}: the camera's wheel has {len(self._filters)} filters")
        wanted = self._filters[slot - 1]
        if self._status()["filter"] != wanted:
            self._finish(self._client.call("set_filter", {"filter": wanted}), stop, 90.0)

    def _finish(
        self, begun: Mapping[str, Any], stop: threading.Event, timeout_s: float,
        housekeeping: list[tuple[int, Mapping[str, float]]] | None = None,
    ) -> None:
        """Wait for an operation, look at the electronics meanwhile; abort it when told to stop."""
        identity = begun["operation"]
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        while True:
            state = self._client.call(
                "wait", {"operation": identity, "timeout": _POLL_S}, timeout_s=_POLL_S + 5.0,
                is_safe=True,
            )  # fmt: skip
            if housekeeping is not None:
                self._look(housekeeping)
            if state["state"] != "running":
                break
            if stop.is_set():
                self._client.call("abort", {})
                raise Cancelled("the exposure was aborted")
            if self._clock.monotonic_ns() > deadline_ns:
                raise StorageError(
                    f"{state['name']} of the camera has not ended after {timeout_s:.0f} s "
                    f"({state['stage']} {state['message']})"
                )
        if state["state"] != "done":
            detail = state.get("detail") or {}
            raise StorageError(
                f"{state['name']} of the camera ended as {state['state']}: {state['message']}",
                **{key: value for key, value in detail.items() if key not in ("message", "code")},
            )

    def _look(self, housekeeping: list[tuple[int, Mapping[str, float]]]) -> None:
        status = self._status()
        values = dict(status.get("housekeeping") or {})
        if status.get("temperature") is not None:
            for half in "TB":
                values.setdefault(f"CCD1_TEMP_{half}", float(status["temperature"]))
        now_ns = self._clock.now_ns() // NS_PER_S * NS_PER_S  # its times are whole seconds
        if values and (not housekeeping or housekeeping[-1][0] < now_ns):
            housekeeping.append((now_ns, values))
