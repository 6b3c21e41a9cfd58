# SPDX-License-Identifier: BSD-3-Clause
"""``stream show``: the live frame in the terminal or in a PNG file."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.cli.session import Session, is_terminal, write
from nightjar.errors import InvalidArgument, Refused, StorageError, TimedOut
from nightjar.files import write_durably
from nightjar.streams.reader import Frame, StreamReader, Wake
from nightjar.times import iso
from nightjard.streamtools import drawing
from nightjard.streamtools.facts import shape_text

_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_HIDE, _SHOW, _CLEAR = "\x1b[?25l", "\x1b[?25h", "\x1b[2J"
_PIPED_SIZE = (80, 24)
_SLICE_S = 0.1


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked of ``stream show``.

    Attributes
    ----------
    slot
        Of a rolling stream; None for the newest frame.
    percent
        Drawn from this percentile to 100 minus it.
    fps
        Of ``--follow``: pictures a second at most.
    """

    slot: int | None
    stretch: drawing.Stretch
    percent: float
    origin: drawing.Origin
    png: Path | None
    force: bool
    follow: bool
    fps: float


def show(session: Session, name: str, folder: Path, wishes: Wishes) -> None:
    """Draw a frame once, or again and again until Ctrl-C.

    Raises
    ------
    Refused
        No such stream; no frame in it, or not in that slot; the PNG file is there.
    TimedOut
        The first frame did not come within the session's time.
    """
    if wishes.png is not None and wishes.png.exists() and not wishes.force:
        raise Refused(f"{wishes.png} is there; --force replaces it")
    with StreamReader(name, folder=folder, use_semaphore=wishes.follow) as reader:
        if wishes.slot is not None:
            depth = reader.geometry.depth
            if not 0 <= wishes.slot < depth:
                raise InvalidArgument(f"slot {wishes.slot}: {name} has slots 0 to {depth - 1}")
        if wishes.follow:
            _follow(session, reader, wishes)
        else:
            _present(session, reader, _frame(session, reader, wishes), wishes)


def _frame(session: Session, reader: StreamReader, wishes: Wishes) -> Frame:
    if wishes.slot is not None:
        frame = reader.frame_in(wishes.slot)
        if frame is None:
            raise Refused(f"stream {reader.path}: no whole frame is in slot {wishes.slot}")
        return frame
    frame = reader.latest()
    if frame is None and session.timeout_s and reader.wait(session.timeout_s) is Wake.FRAME:
        frame = reader.latest()
    if frame is None and session.timeout_s:
        raise TimedOut(f"stream {reader.path}: no whole frame within {session.timeout_s:g} s")
    if frame is None:
        raise Refused(f"stream {reader.path} has no whole frame yet; --timeout S waits for one")
    return frame


def _follow(session: Session, reader: StreamReader, wishes: Wishes) -> None:
    is_drawn = is_terminal(sys.stdout) and not session.is_json
    with _screen(is_drawn):
        last: tuple[int, int] | None = None
        seen_at = time.monotonic()
        while True:
            begin = time.monotonic()
            if reader.is_replaced():
                reader.relink()
            frame = reader.frame_in(wishes.slot) if wishes.slot is not None else reader.latest()
            if frame is not None and (frame.generation, frame.counter) != last:
                last, seen_at = (frame.generation, frame.counter), begin
                _present(session, reader, frame, wishes, is_live=is_drawn)
            elif session.timeout_s and begin - seen_at > session.timeout_s:
                raise TimedOut(f"stream {reader.path}: no frame for {session.timeout_s:g} s")
            time.sleep(max(0.0, 1 / wishes.fps - (time.monotonic() - begin)))


@contextmanager
def _screen(is_drawn: bool) -> Iterator[None]:
    if is_drawn:
        sys.stdout.write(_HIDE + _CLEAR)
    try:
        yield
    finally:
        if is_drawn:
            sys.stdout.write(_SHOW)
            sys.stdout.flush()


def _present(
    session: Session, reader: StreamReader, frame: Frame, wishes: Wishes, *, is_live: bool = False
) -> None:
    image = drawing.image_of(frame.data)
    numbers = drawing.statistics_of(image, wishes.percent)
    if wishes.png is not None:
        data = drawing.png_bytes(image, numbers, stretch=wishes.stretch, origin=wishes.origin)
        try:
            write_durably(wishes.png, data, replace=wishes.force or wishes.follow)
        except OSError as error:
            raise StorageError(f"cannot write {wishes.png}: {error.strerror}") from error
    told = _values(reader, frame, numbers)
    line = _line(reader, frame, numbers)
    if session.is_json or wishes.png is not None or (wishes.follow and not is_live):
        if wishes.png is not None:
            told["png"] = str(wishes.png)
            line = f"{wishes.png}: {line}"
        (session.event if wishes.follow else session.result)(told, line)
        return
    columns, rows = shutil.get_terminal_size(_PIPED_SIZE)
    lines = drawing.terminal_lines(
        image, columns, max(1, rows - 2), numbers, colors=_colors(session),
        stretch=wishes.stretch, origin=wishes.origin,
    )  # fmt: skip
    if is_live:
        text = "".join(f"{each}{_CLEAR_LINE}\n" for each in [*lines, line[:columns]])
        sys.stdout.write(_HOME + text + _CLEAR_BELOW)
        sys.stdout.flush()
    else:
        for each in [*lines, line]:
            write(each)


def _colors(session: Session) -> drawing.Colors:
    if not session.has_color():
        return "none"
    return "true" if os.environ.get("COLORTERM") in ("truecolor", "24bit") else "256"


def _values(
    reader: StreamReader, frame: Frame, numbers: drawing.Statistics
) -> dict[str, Any]:
    return {
        "stream": reader.path.name.partition(".im.shm")[0],
        "counter": frame.counter,
        "slot": frame.slot,
        "atime_ns": frame.atime_ns,
        "writetime_ns": frame.writetime_ns,
        "shape": list(frame.data.shape),
        "dtype": str(frame.data.dtype),
        **{name: getattr(numbers, name) for name in type(numbers).__slots__},
    }


def _line(reader: StreamReader, frame: Frame, numbers: drawing.Statistics) -> str:
    stamp = frame.atime_ns or frame.writetime_ns
    bad = f" bad {numbers.bad}" if numbers.bad else ""
    return (
        f"{reader.path.name.partition('.im.shm')[0]} #{frame.counter} "
        f"{iso(stamp, 3) if stamp > 0 else 'no time'} {shape_text(frame.data.shape)} "
        f"{frame.data.dtype} min {numbers.minimum:g} max {numbers.maximum:g} "
        f"mean {numbers.mean:.5g} median {numbers.median:g} sd {numbers.deviation:.4g}{bad} "
        f"drawn {numbers.low:g}..{numbers.high:g}"
    )
