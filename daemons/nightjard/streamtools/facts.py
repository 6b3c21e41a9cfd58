# SPDX-License-Identifier: BSD-3-Clause
"""What ``stream list`` and ``stream stat`` tell: plain values, and the lines for people."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nightjar.cli.text import Paint, no_paint, table
from nightjar.clock import NS_PER_S
from nightjar.streams.inspect import BrokenStream, StreamInfo, list_streams
from nightjar.streams.process import command_of
from nightjar.streams.reader import StreamReader, Wake
from nightjar.times import duration_text, iso
from nightjar.units import bytes_text

HEADINGS = ("stream", "frame", "type", "slots", "frames", "rate", "age", "owner", "readers", "size")
_RIGHT = (3, 4, 5, 6, 8, 9)
_GAP = 1.5  # a time between two frames of more than so many usual ones is a gap


@dataclass(frozen=True, slots=True)
class Live:
    """What a look of some time saw of a stream.

    Attributes
    ----------
    seconds, frames
        How long the look was, and how many frames were published meanwhile.
    rate_hz
        Frames per second.
    lost
        Of these, overwritten before this look got at them.
    gaps
        Times between frames of more than 1.5 usual ones.
    longest_s, usual_s
        Between two frames; None with less than two, or where the writer gives no times.
    mbytes_per_s
        Pixels.
    """

    seconds: float
    frames: int
    rate_hz: float
    lost: int
    gaps: int | None
    longest_s: float | None
    usual_s: float | None
    mbytes_per_s: float


def watch(reader: StreamReader, seconds: float) -> Live:
    """Look at every frame's times for some seconds."""
    first, begin, stamps = reader.counter, time.monotonic(), []
    deadline = begin + seconds
    while (left := deadline - time.monotonic()) > 0:
        if reader.wait(left) not in (Wake.FRAME, Wake.TIMEOUT):
            break
        while time.monotonic() < deadline and (frame := reader.next_frame(copy=False)) is not None:
            stamps.append(frame.atime_ns or frame.writetime_ns)
    taken, frames = time.monotonic() - begin, max(0, reader.counter - first)
    steps = [b - a for a, b in pairwise(stamps) if a and b]
    usual = statistics.median(steps) if steps else None
    lost = reader.lost + reader.torn
    rate = frames / taken if taken > 0 else 0.0
    if steps and not lost and sum(steps) > 0:
        rate = len(steps) * NS_PER_S / sum(steps)  # from frame to frame: exact for few, too
    return Live(
        seconds=taken,
        frames=frames,
        rate_hz=rate,
        lost=lost,
        gaps=sum(step > _GAP * usual for step in steps) if usual is not None else None,
        longest_s=max(steps) / NS_PER_S if steps else None,
        usual_s=usual / NS_PER_S if usual is not None else None,
        mbytes_per_s=rate * reader.geometry.frame_bytes / 1e6,
    )


def live_values(live: Live) -> dict[str, Any]:
    """Return a look as JSON values."""
    return {name: getattr(live, name) for name in Live.__slots__}


def values(info: StreamInfo | BrokenStream) -> dict[str, Any]:
    """Return a description as JSON values: times as text beside integer nanoseconds."""
    if isinstance(info, BrokenStream):
        return {"name": info.name, "path": info.path, "problem": info.problem}
    found: dict[str, Any] = {
        name: getattr(info, name)
        for name in StreamInfo.__slots__
        if name not in ("readers", "keywords", "notes", "shape")
    }
    found["shape"] = list(info.shape)
    for name in ("created", "atime", "writetime"):
        stamp = found[f"{name}_ns"]
        found[name] = iso(stamp, 9) if stamp > 0 else None
    found["is_orphan"] = info.is_orphan
    found["owner_command"] = command_of(info.owner_pid) if info.is_owner_alive else None
    found["readers"] = [
        {name: getattr(entry, name) for name in type(entry).__slots__} for entry in info.readers
    ]
    found["keywords"] = {
        name: {"value": keyword.value, "comment": keyword.comment}
        for name, keyword in info.keywords.items()
    }
    found["notes"] = list(info.notes)
    return found


def look_at_all(folder: Path, interval_s: float) -> list[tuple[StreamInfo | BrokenStream, float]]:
    """Describe all streams, each with its rate: frames counted in `interval_s`."""
    before = {item.path: item for item in list_streams(folder) if isinstance(item, StreamInfo)}
    if before:
        time.sleep(interval_s)
    return [(item, _rate(before.get(item.path), item)) for item in list_streams(folder)]


def _rate(before: StreamInfo | None, now: StreamInfo | BrokenStream) -> float:
    if not isinstance(now, StreamInfo):
        return 0.0
    frames = now.counter - before.counter if before is not None else 0
    if before is not None and frames > 0 and now.writetime_ns > before.writetime_ns:
        # From frame to frame, not from look to look: true for one frame in a second, too.
        return frames * NS_PER_S / (now.writetime_ns - before.writetime_ns)
    if now.rate_hz and now.age_s is not None and now.age_s < 3 / now.rate_hz:
        return now.rate_hz
    return 0.0


def shape_text(shape: Sequence[int]) -> str:
    """Return ``536x536``: rows x columns."""
    return "x".join(map(str, shape))


def owner_text(info: StreamInfo) -> str:
    """Return who owns a stream: ``camd (123)``, ``dead (123)``, ``none``."""
    if info.owner_pid <= 0:
        return "none"
    if not info.is_owner_alive:
        return f"dead ({info.owner_pid})"
    return f"{command_of(info.owner_pid) or '?'} ({info.owner_pid})"


def age_text(age_s: float | None) -> str:
    """Return how long ago the newest frame was written."""
    if age_s is None:
        return "-"
    if age_s < 0:
        return f"{age_s:.3f} s"
    return f"{age_s * 1e3:.0f} ms" if age_s < 1 else duration_text(age_s)


def list_lines(
    found: Sequence[tuple[StreamInfo | BrokenStream, float]], paint: Paint = no_paint
) -> list[str]:
    """Return a table, one line a stream; files that are none below it."""
    rows = [
        (
            item.name, shape_text(item.shape), item.dtype, item.depth if item.is_rolling else "-",
            item.counter, f"{rate:.1f} Hz" if rate else "-", age_text(item.age_s),
            owner_text(item), len([entry for entry in item.readers if entry.is_alive]),
            bytes_text(item.size_bytes),
        )
        for item, rate in found if isinstance(item, StreamInfo)
    ]  # fmt: skip
    lines = table(HEADINGS, rows, _RIGHT) if rows else []
    for item, _ in found:
        if isinstance(item, BrokenStream):
            lines.append(f"{paint(item.name, 'red')}: {item.problem}")
    return lines


def stat_lines(
    info: StreamInfo, live: Live | None, *, keywords: bool, paint: Paint = no_paint
) -> list[str]:
    """Return what is known of one stream, a line a fact."""
    kind = f"rolling, {info.depth} slots" if info.is_rolling else "plain"
    facts = [
        ("frame", f"{shape_text(info.shape)} {info.dtype}, {bytes_text(info.frame_bytes)}"),
        ("kind", f"{kind}, imagetype {info.imagetype:#x}"),
        ("file", f"{info.path}, {bytes_text(info.size_bytes)}, mode {info.mode:04o}"),
        ("created", f"{iso(info.created_ns, 3)} by pid {info.creator_pid}"),
        ("owner", _owner_line(info, paint)),
        ("frames", f"{info.counter}, newest in slot {info.newest_slot}"
                   + (", one is being written" if info.is_writing else "")),
        ("acquired", iso(info.atime_ns, 6) if info.atime_ns > 0 else "-"),
        ("written", iso(info.writetime_ns, 6) if info.writetime_ns > 0 else "-"),
        ("age", age_text(info.age_s)),
    ]  # fmt: skip
    if info.rate_hz:
        facts.append(("ring", f"{info.rate_hz:.3f} Hz, the mean of the frames it holds"))
    if live is not None:
        facts.append(("now", _live_line(live, paint)))
    facts.append(("keywords", f"{len(info.keywords)}"))
    lines = [paint(info.name, bold=True)]
    lines += [f"  {name.ljust(9)} {text}" for name, text in facts]
    lines += _reader_lines(info, paint)
    if keywords:
        lines += keyword_lines(info, indent="  ")
    lines += [f"  {paint('note', 'yellow')}      {note}" for note in info.notes]
    return lines


def _owner_line(info: StreamInfo, paint: Paint) -> str:
    if info.is_orphan:
        return paint(f"dead (pid {info.owner_pid})", "red") + "; stream rm --orphans removes it"
    return "none: its writer has closed it" if info.owner_pid <= 0 else owner_text(info)


def _live_line(live: Live, paint: Paint) -> str:
    if live.frames == 0:
        return paint(f"no frame in {live.seconds:.1f} s", "yellow")
    text = f"{live.rate_hz:.2f} Hz, {live.mbytes_per_s:.1f} MB/s in {live.seconds:.1f} s"
    if live.usual_s is not None and live.longest_s is not None:
        text += f"; period {live.usual_s * 1e3:.3f} ms, longest {live.longest_s * 1e3:.3f} ms"
        gaps = f"{live.gaps} gaps"
        text += f", {paint(gaps, 'yellow') if live.gaps else gaps}"
    if live.lost:
        text += f"; {live.lost} went by unseen by this look"
    return text


def _reader_lines(info: StreamInfo, paint: Paint) -> list[str]:
    if not info.readers:
        return ["  readers   none that waits in a semaphore"]
    lines = []
    for entry in info.readers:
        who = f"{entry.command or '?'} (pid {entry.pid})"
        state = "" if entry.is_alive else paint(", dead", "red")
        behind = f", {entry.pending} ticks pending" if entry.pending else ""
        if entry.pending >= 10:
            behind = paint(f"{behind}: does not keep up", "yellow")
        lines.append(f"  reader    semaphore {entry.index}: {who}{state}{behind}")
    return lines


def keyword_lines(info: StreamInfo, indent: str = "") -> list[str]:
    """Return the keywords in columns: name, value, comment."""
    rows = [
        (indent + name, repr(keyword.value), keyword.comment)
        for name, keyword in info.keywords.items()
    ]
    return table((indent + "keyword", "value", "comment"), rows) if rows else []
