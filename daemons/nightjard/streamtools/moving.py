# SPDX-License-Identifier: BSD-3-Clause
"""The commands of ``stream`` that move frames: copy, record, replay. All end well with Ctrl-C."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from nightjar.cli.frame import FrameCommand, Seconds
from nightjar.cli.numbers import FiniteRange
from nightjar.cli.session import Session, is_terminal
from nightjar.errors import Code, InvalidArgument
from nightjard.streamtools.options import (
    complete_names,
    folder_option,
    pass_session,
    stream_folder,
)

_FOREVER_S = 1e7
_TELL_EVERY_S = 0.5


class _Progress:
    """One line on a terminal's stderr that is written over twice a second."""

    def __init__(self, session: Session, what: str) -> None:
        self._is_shown = is_terminal(sys.stderr) and not session.is_json and not session.is_quiet
        self._what = what
        self._next = time.monotonic() + _TELL_EVERY_S

    def tell(self, frames: int) -> None:
        """Say how many frames there are."""
        if self._is_shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + _TELL_EVERY_S
            sys.stderr.write(f"\r{self._what} {frames} frames; Ctrl-C ends it\x1b[K")
            sys.stderr.flush()

    def end(self) -> None:
        """Wipe the line."""
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")


@contextmanager
def _ended_gently() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: what came is kept, the stream is given up."""

    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _end(session: Session, done: Any, line: str, *, is_short: bool) -> None:
    """Print what it came to; exit 6 where frames failed to come, 130 where a person ended it."""
    session.done(dataclasses.asdict(done), line)
    if done.ended == "silence":
        click.get_current_context().exit(Code.TIMED_OUT.exit_code)
    if done.ended == "interrupted" and is_short:
        click.get_current_context().exit(Code.INTERRUPTED.exit_code)


@click.command(cls=FrameCommand)
@click.argument("source", shell_complete=complete_names)
@click.argument("target")
@click.option("-n", "--count", type=click.IntRange(1), metavar="N", help="End after N frames.")
@click.option("--until", metavar="UTC",
              help="End before the first frame acquired then: 23:59:59 or 2026-01-31T23:59:59.")
@click.option("--depth", type=click.IntRange(2), metavar="N",
              help="Slots of the target (default: as many as the source has).")
@click.option("--oldest", is_flag=True, help="Begin with the frames that are still in the ring.")
@folder_option
@pass_session
def copy(
    session: Session, source: str, target: str, count: int | None, until: str | None,
    depth: int | None, oldest: bool, folder: Path | None,
) -> None:
    """Copy every frame of SOURCE into a stream TARGET, until Ctrl-C.

    Times, numbers and keywords go along; where SOURCE is made anew, TARGET is. With --timeout a
    longer silence ends it (exit code 6).
    """
    from nightjar.clock import SystemClock
    from nightjard.streamtools.copying import Copier, Limits, until_ns

    end_ns = until_ns(until, SystemClock().now_ns()) if until else None
    limits = Limits(count, end_ns, session.timeout_s or _FOREVER_S)
    copier = Copier(
        source, target, stream_folder(folder), depth=depth, start="oldest" if oldest else "next"
    )
    progress = _Progress(session, f"copying {source} to {target}:")
    try:
        with _ended_gently():
            done = copier.run(limits, lambda copied: progress.tell(copied.frames))
    finally:
        progress.end()
        copier.close()
    _end(session, done, f"{source} -> {target}: {done.frames} frames in {done.seconds:.1f} s, "
         f"{done.lost} lost, {done.torn} torn, made anew {done.remade} times; "
         f"ended: {done.ended}", is_short=count is not None or until is not None)


@click.command(cls=FrameCommand)
@click.argument("name", shell_complete=complete_names)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("-n", "--count", type=click.IntRange(1), metavar="N", help="End after N frames.")
@click.option("--seconds", type=Seconds(), metavar="S", help="End after S seconds.")
@folder_option
@pass_session
def record(
    session: Session, name: str, file: Path, count: int | None, seconds: float | None,
    folder: Path | None,
) -> None:
    """Record frames of a stream into a new FITS cube with their times, until Ctrl-C.

    For a night's data there is fitslog. The recording ends where the stream is made anew, and
    where no frame comes for --timeout (default 5 s; exit code 6); what came is kept.
    """
    from nightjar.clock import SystemClock
    from nightjar.units import bytes_text
    from nightjard.streamtools import cubes

    limits = cubes.RecordLimits(count, seconds, session.call_timeout_s)
    progress = _Progress(session, f"recording {name}:")
    try:
        with _ended_gently():
            done = cubes.record(
                name, stream_folder(folder), file, limits, SystemClock(), progress.tell
            )
    finally:
        progress.end()
    _end(session, done, f"{file}: {done.frames} frames in {done.seconds:.1f} s, "
         f"{bytes_text(done.size_bytes)}, {done.lost} lost, {done.torn} torn; "
         f"ended: {done.ended}", is_short=count is not None or seconds is not None)


@click.command(cls=FrameCommand)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("name")
@click.option("--rate", type=FiniteRange(1e-3, 1e5), metavar="HZ", help="Frames per second.")
@click.option("--own-timing", is_flag=True, help="As it was recorded (the default).")
@click.option("--loop", is_flag=True, help="Begin again at the end, until Ctrl-C.")
@click.option("--depth", type=click.IntRange(2), metavar="N",
              help="Slots of the stream (default: half a second of frames).")
@folder_option
@pass_session
def replay(
    session: Session, file: Path, name: str, rate: float | None, own_timing: bool, loop: bool,
    depth: int | None, folder: Path | None,
) -> None:
    """Play the frames of a FITS cube into a stream, at the times between them as recorded.

    Frames are stamped as if they were taken now; the cards of the header become keywords.
    """
    from nightjar.clock import SystemClock
    from nightjar.streams.writer import StreamWriter
    from nightjard.streamtools import cubes

    if rate is not None and own_timing:
        raise InvalidArgument("--rate and --own-timing exclude each other")
    cube = cubes.Cube(file)
    offsets = cubes.timing(cube, rate, is_looped=loop)
    keywords = cube.keywords()
    progress = _Progress(session, f"replaying {file} into {name}:")
    with StreamWriter.open(
        name, cube.shape, cube.dtype, depth=depth or cubes.replay_depth(cube, rate),
        folder=stream_folder(folder), keywords=keywords, nkw=max(50, len(keywords) + 8),
    ) as writer:
        try:
            with _ended_gently():
                done = cubes.replay(cube, writer, offsets, SystemClock(), progress.tell)
        finally:
            progress.end()
    _end(session, done, f"{file} -> {name}: {done.frames} frames in {done.seconds:.1f} s, at most "
         f"{done.latest_s * 1e3:.1f} ms late; ended: {done.ended}", is_short=not loop)
