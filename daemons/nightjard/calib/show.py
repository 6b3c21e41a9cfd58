# SPDX-License-Identifier: BSD-3-Clause
"""Frames in DS9 over XPA, or drawn beside each other where there is no DS9.

XPA is spoken by the programs of Debian's xpa-tools (``xpaget``, ``xpaset``): they know all its
transports and name servers.
"""

from __future__ import annotations

import fnmatch
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nightjar.clock import Clock, SystemClock
from nightjar.errors import (
    Code,
    InvalidArgument,
    NightjarError,
    Refused,
    StorageError,
    TimedOut,
    Unreachable,
)
from nightjar.files import write_durably

#: Where OBSID, ROE and CCD stand in a name; * is for what is not known.
TEMPLATE = "EUC_%i_*D*T_ROE%i_CCD%i.fits"
_CALL_S = 30.0
_START_S = 20.0
_TITLE = "nightjar"
_PLAIN = re.compile(r"[A-Za-z0-9_./+~-]+\Z")
_PANEL_PX = 512
_MOST = 1000


@dataclass(frozen=True)
class Found:
    """The files of consecutive OBSIDs, and the OBSIDs that have none."""

    paths: tuple[Path, ...]
    missing: tuple[int, ...]


def find_frames(
    folder: Path, first: int, last: int, roe: int, ccd: int, template: str = TEMPLATE
) -> Found:
    """Return the files of OBSIDs `first` to `last` (inclusive) in a folder, not below it.

    Parameters
    ----------
    template
        A name with three %i (or %d, %05d ...): OBSID, ROE, CCD; * and ? stand for other text.

    Raises
    ------
    InvalidArgument
        No such folder, last before first, too many, or a template without three numbers.
    StorageError
        The folder cannot be listed.
    """
    if not folder.is_dir():
        raise InvalidArgument(f"there is no folder {folder}")
    if last < first:
        raise InvalidArgument(f"the last OBSID, {last}, is before the first, {first}")
    if os.sep in template or len(re.findall(r"%0?\d*[id]", template)) != 3:
        raise InvalidArgument(
            f"template {template!r} must be a file name with three %i: OBSID, ROE, CCD"
        )
    if last - first >= _MOST:
        raise InvalidArgument(
            f"OBSID {first} to {last} are {last - first + 1} frames; at most {_MOST} are shown"
        )
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError as error:
        raise StorageError(f"cannot list {folder}: {error.strerror}", path=str(folder)) from error
    paths, missing = [], []
    for obsid in range(first, last + 1):
        try:
            pattern = template % (obsid, roe, ccd)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"template {template!r}: {error}") from None
        matches = fnmatch.filter(names, pattern)
        paths += [folder / name for name in matches]
        if not matches:
            missing.append(obsid)
    return Found(tuple(paths), tuple(missing))


# --- DS9 ----------------------------------------------------------------------------------------


class Ds9:
    """A running DS9, by its XPA access point.

    Parameters
    ----------
    target
        Title, ``host:port`` or socket as File > XPA > Information tells; ``*`` where only one runs.
    environment
        Variables for the XPA programs, this process's own if not given.
    """

    def __init__(self, target: str = "*", environment: dict[str, str] | None = None) -> None:
        self.target = target
        self._environment = environment

    def set(self, *words: str) -> None:
        """Send a command.

        Raises
        ------
        Unreachable
            There is no such DS9.
        NightjarError
            It refuses the command.
        TimedOut
            It does not answer.
        """
        done = self._call(["xpaset", "-p", self.target, *words])
        if done.returncode or "XPA$ERROR" in done.stderr:
            raise self._error(" ".join(words), done.stderr)

    def get(self, *words: str) -> str:
        """Ask, return the answer; errors as :meth:`set`."""
        done = self._call(["xpaget", self.target, *words])
        if done.returncode or "XPA$ERROR" in done.stderr:
            raise self._error(" ".join(words), done.stderr)
        return done.stdout.strip()

    def load(self, path: Path) -> None:
        """Load a file into the current frame; errors as :meth:`set`."""
        name = str(path.resolve())
        if _PLAIN.match(name):
            self.set("file", name)
            return
        # DS9 takes brackets of a name for a section and blanks for its end: it gets the bytes.
        title = re.sub(r"[^A-Za-z0-9_.+-]", "_", path.name)
        with open(path, "rb") as data:
            done = _xpa(["xpaset", self.target, "fits", title], self._environment, data)
        if done.returncode or "XPA$ERROR" in done.stderr:
            raise self._error(f"fits of {path}", done.stderr)

    def _call(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return _xpa(words, self._environment)

    def _error(self, what: str, text: str) -> NightjarError:
        text = " ".join(text.split())
        if "no 'xpaset' access points" in text or "no 'xpaget' access points" in text:
            return Unreachable(
                f"no DS9 answers as {self.target!r} (File > XPA > Information tells its method); "
                f"start one, or draw with --png FILE"
            )
        return NightjarError(f"DS9 {self.target}: {what}: {text}")


def _xpa(
    words: list[str], environment: dict[str, str] | None = None, data: IO[bytes] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, capture_output=True, text=True, timeout=_CALL_S, check=False,
            stdin=data or subprocess.DEVNULL, env=environment,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise NightjarError(
            f"{words[0]} is not installed (Debian package xpa-tools); draw with --png FILE",
            code=Code.BAD_CONFIG,
        ) from error
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"{' '.join(words)}: no answer within {_CALL_S:.0f} s") from error


def running_targets(environment: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """Return title and method of every DS9 that the XPA name server knows.

    Raises
    ------
    NightjarError
        The XPA programs are not installed.
    """
    done = _xpa(["xpaget", "xpans"], environment)
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(row[1], row[3]) for row in rows if len(row) >= 4 and row[0] == "DS9"]


def choose_ds9(
    target: str | None, environment: dict[str, str] | None = None, clock: Clock | None = None
) -> Ds9:
    """Return the DS9 that is meant: the named one, the only one that runs, or a new one.

    Raises
    ------
    Refused
        Several run and none is named; the message lists them.
    Unreachable
        None runs, and none can be started.
    """
    if target is not None:
        return Ds9(target, environment)
    found = running_targets(environment)
    if len(found) > 1:
        known = ", ".join(f"{title} ({method})" for title, method in found)
        raise Refused(f"{len(found)} DS9 are running: {known}; name one with -d METHOD")
    if found:
        return Ds9(found[0][1], environment)
    return _start(environment, clock or SystemClock())


def _start(environment: dict[str, str] | None, clock: Clock) -> Ds9:
    surroundings = os.environ if environment is None else environment
    if not surroundings.get("DISPLAY"):
        raise Unreachable("no DS9 is running and there is no display; draw with --png FILE")
    program = shutil.which("ds9")
    if program is None:
        raise Unreachable(
            "no DS9 is running and none is installed (Debian package saods9); draw with --png FILE"
        )
    # It outlives this command: a session of its own, nothing of ours open in it.
    subprocess.Popen(
        [program, "-title", _TITLE], start_new_session=True, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = clock.monotonic_ns() + int(_START_S * 1e9)
    while clock.monotonic_ns() < deadline:
        for title, method in running_targets(environment):
            if title == _TITLE:
                return Ds9(method, environment)
        clock.sleep(0.2)
    raise TimedOut(f"{program} was started and did not answer within {_START_S:.0f} s")


def show_in_ds9(
    ds9: Ds9, paths: Sequence[Path], on_shown: Callable[[Path], None] = lambda _path: None
) -> None:
    """Load files, each into a new frame: the whole of it visible, histogram, then zscale."""
    for path in paths:
        if ds9.get("fits", "size") != "0 0":  # the first frame of a new DS9 is empty
            ds9.set("frame", "new")
        ds9.load(path)
        ds9.set("zoom", "to", "fit")
        ds9.set("scale", "histequ")
        ds9.set("scale", "mode", "zscale")
        on_shown(path)


# --- the mosaic ---------------------------------------------------------------------------------


def draw_mosaic(paths: Sequence[Path], target: Path) -> tuple[Path, ...]:
    """Draw files beside each other into a PNG, each with its own zscale limits.

    Returns
    -------
    tuple of Path
        Files that cannot be read as images; their panels say so.

    Raises
    ------
    InvalidArgument
        The picture's name does not end in ``.png``: it could be a frame's.
    StorageError
        No file can be read, or the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if target.suffix.lower() != ".png":
        raise InvalidArgument(f"--png {target}: must end in .png")
    columns = min(len(paths), 4)
    rows = -(-len(paths) // columns)
    figure = Figure(figsize=(columns * 3.4, rows * 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    damaged = []
    for number, path in enumerate(paths, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_title(path.stem, fontsize=6)
        axes.set_axis_off()
        try:
            pixels, low, high = _small_image(path)
        except StorageError:
            damaged.append(path)
            if len(damaged) == len(paths):
                raise
            axes.text(0.5, 0.5, "cannot be read", ha="center", va="center")
            continue
        axes.imshow(pixels, origin="lower", cmap="gray", vmin=low, vmax=high, aspect="equal")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150, metadata={"Software": None})
    try:
        write_durably(target, picture.getvalue(), replace=True)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror}", path=str(target)) from error
    return tuple(damaged)


def _small_image(path: Path) -> tuple[Any, float, float]:
    """Return the last image of a file, of a cube its first plane, thinned out; its limits."""
    import warnings

    import numpy as np
    from astropy.io import fits
    from astropy.visualization import ZScaleInterval

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an error tells it
            with fits.open(path, memmap=False) as units:
                images = [unit for unit in units if unit.header.get("NAXIS", 0) >= 2]
                if not images:
                    raise StorageError(f"{path} holds no image", path=str(path))
                shape = images[-1].shape
                thin = slice(None, None, max(1, max(shape[-2:]) // _PANEL_PX))
                plane = (0,) * (len(shape) - 2)
                pixels = np.asarray(images[-1].section[(*plane, thin, thin)], dtype=np.float32)
    except (OSError, TypeError, ValueError, IndexError) as error:
        raise StorageError(f"cannot read {path} as an image: {error}", path=str(path)) from error
    if not np.isfinite(pixels).any():
        return pixels, 0.0, 1.0
    low, high = ZScaleInterval().get_limits(pixels)
    return pixels, float(low), float(max(high, low + 1))
