# SPDX-License-Identifier: BSD-3-Clause
"""``stream copy``: every frame of one stream into another one, with its times and number."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nightjar.clock import NS_PER_S
from nightjar.errors import InvalidArgument, StorageError
from nightjar.streams.layout import StreamGeometry
from nightjar.streams.reader import Frame, StreamReader
from nightjar.streams.writer import StreamWriter

_KEYWORDS_EVERY_S = 0.5


@dataclass(slots=True)
class Copied:
    """What a copy came to.

    Attributes
    ----------
    frames, lost, torn
        Copied; overwritten in the source before they were; changed during the copy.
    remade
        How often the target was made anew because the source was.
    ended
        Why it ended: ``count``, ``until``, ``silence``, ``interrupted``.
    """

    frames: int = 0
    lost: int = 0
    torn: int = 0
    remade: int = 0
    seconds: float = 0.0
    ended: str = "silence"


@dataclass(frozen=True, slots=True)
class Limits:
    """When a copy ends.

    Attributes
    ----------
    count
        Frames; None without limit.
    until_ns
        UTC: the first frame acquired at this time or later is not copied.
    silence_s
        Longest time without a frame.
    """

    count: int | None = None
    until_ns: int | None = None
    silence_s: float = float("inf")


class Copier:
    """Follows a source and fills a target of the same geometry.

    Parameters
    ----------
    source, target, folder
        Names of the streams.
    depth
        Slots of the target; None for as many as the source has.
    start
        First frame, as in :class:`~nightjar.streams.reader.StreamReader`.

    Raises
    ------
    Refused
        No such source, or the target belongs to another living process.
    InvalidArgument
        Source and target are the same.
    """

    def __init__(
        self,
        source: str,
        target: str,
        folder: Path,
        *,
        depth: int | None = None,
        start: Literal["next", "oldest"] = "next",
    ) -> None:
        self._reader = StreamReader(source, folder=folder, start=start)
        self._target, self._folder, self._depth = target, folder, depth
        self._generation = 0
        self._keywords_at = 0.0
        self.copied = Copied()
        try:
            self._writer = self._make()
            if self._writer.path.resolve() == self._reader.path.resolve():
                raise InvalidArgument(f"{source} cannot be copied into itself")
        except BaseException:
            self._reader.close()
            raise

    def _make(self) -> StreamWriter:
        if self._target == self._reader.path.name.partition(".im.shm")[0]:
            raise InvalidArgument(f"{self._target} cannot be copied into itself")
        geometry = self._reader.geometry
        depth = self._depth or (geometry.depth if geometry.is_rolling else None)
        self._keywords_at = time.monotonic()
        writer = StreamWriter.create(
            self._target, geometry.frame_shape, geometry.dtype, depth=depth, folder=self._folder,
            nkw=geometry.keyword_count,
        )  # fmt: skip
        writer.load_keywords(self._reader.keyword_block())
        return writer

    @property
    def geometry(self) -> StreamGeometry:
        """What the target holds."""
        return self._writer.geometry

    def run(self, limits: Limits, on_frame: Callable[[Copied], None] = lambda _: None) -> Copied:
        """Copy until a limit is reached, or KeyboardInterrupt, after which nothing is half done."""
        copied, begin = self.copied, time.monotonic()
        try:
            for frame in self._reader.frames(limits.silence_s, copy=False):
                if limits.until_ns is not None and _time_of(frame) >= limits.until_ns:
                    copied.ended = "until"
                    break
                self._put(frame)
                on_frame(copied)
                if limits.count is not None and copied.frames >= limits.count:
                    copied.ended = "count"
                    break
        except KeyboardInterrupt:
            copied.ended = "interrupted"
        copied.seconds = time.monotonic() - begin
        copied.lost = self._reader.lost
        copied.torn += self._reader.torn
        return copied

    def _put(self, frame: Frame) -> None:
        if frame.generation != self._generation:
            self._writer.close()
            self._writer = self._make()
            self._generation = frame.generation
            self.copied.remade += 1
        elif time.monotonic() - self._keywords_at > _KEYWORDS_EVERY_S:
            self._keywords_at = time.monotonic()
            self._writer.load_keywords(self._reader.keyword_block())
        writer = self._writer
        if self.copied.frames % 64 == 0 and not writer.is_current():
            raise StorageError(f"stream {writer.path} was removed or made anew by somebody else")
        slot = writer.next_slot
        if writer.begun_slot is None:
            writer.begin(slot)
        writer.slot(slot)[...] = frame.data
        if self._reader.is_intact(frame):
            counter = frame.counter if frame.counter > writer.counter else None
            writer.publish(slot, frame.atime_ns, frame.writetime_ns, counter=counter)
            self.copied.frames += 1
        else:
            self.copied.torn += 1
            if writer.geometry.is_rolling:
                writer.abandon(slot)
            # A plain target has only this frame: it stays begun until the next one is whole.

    def close(self) -> None:
        """Close both ends; the target stays, without an owner."""
        self._reader.close()
        self._writer.close()


def _time_of(frame: Frame) -> int:
    return frame.atime_ns or frame.writetime_ns or time.time_ns()


def until_ns(text: str, now_ns: int) -> int:
    """Return UTC of ``2026-01-31T23:59:59`` or of ``23:59:59``, the next one to come.

    Raises
    ------
    InvalidArgument
        Neither.
    """
    from nightjar.times import iso, parse_iso

    try:
        if "-" in text:
            return parse_iso(text)
        stamp = parse_iso(f"{iso(now_ns, 0)[:10]}T{text if text.count(':') > 1 else text + ':00'}")
    except ValueError:
        raise InvalidArgument(
            f"{text!r} is no UTC time: write 23:59:59 or 2026-01-31T23:59:59"
        ) from None
    return stamp if stamp > now_ns else stamp + 86_400 * NS_PER_S
