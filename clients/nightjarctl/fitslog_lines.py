# SPDX-License-Identifier: BSD-3-Clause
"""The FITS loggers' answers as lines of text: pure functions, nothing is printed or asked here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nightjar.times import duration_text
from nightjarctl import render

STATE_COLORS = {
    "idle": None, "armed": "cyan", "saving": "green", "finishing": "yellow", "error": "red",
}  # fmt: skip
_FULL, _EMPTY = "#", "."

View = Mapping[str, Any]


def bar(fraction: float, width: int = 20) -> str:
    """Return a bar of text; any share of more than nothing shows."""
    filled = round(max(0.0, min(1.0, fraction)) * width)
    if fraction > 0:
        filled = max(1, filled)
    return f"[{_FULL * filled}{_EMPTY * (width - filled)}]"


def shape_text(view: View) -> str:
    """Return a stream's geometry: ``536 x 536 uint16``, columns first as people say them."""
    if not view.get("shape"):
        return "no stream"
    sides = " x ".join(str(n) for n in reversed(view["shape"]))
    return f"{sides} {view.get('dtype') or ''}".strip()


def rate_text(view: View) -> str:
    """Return a stream's rate, or since when nothing came."""
    if not view.get("shape"):
        return "-"
    if not view.get("is_alive"):
        age_s = view.get("age_s")
        return "no frame yet" if age_s is None else f"still for {duration_text(age_s)}"
    rate = view.get("rate_hz")
    return "-" if rate is None else f"{rate:.1f} Hz"


def losses_text(view: View, paint: render.Paint) -> str:
    """Return what was lost, in red where anything was."""
    parts = []
    for key in ("missed", "torn", "duplicated"):
        count = view.get(key) or 0
        parts.append(paint(f"{count} {key}", "red" if count else None, bold=bool(count)))
    return ", ".join(parts)


def limits_text(view: View) -> str:
    """Return where a session ends by itself; empty where it does not."""
    from nightjar.times import iso

    parts = []
    if view.get("frames_limit"):
        parts.append(f"{view['frames_limit']} frames")
    if view.get("cubes_limit"):
        parts.append(f"{view['cubes_limit']} cubes")
    if view.get("until_ns"):
        parts.append(f"{iso(view['until_ns'], 0)[11:]} UTC")
    return " or ".join(parts)


def lost_count(view: View) -> int:
    """Return how many frames a session lost."""
    return (view.get("missed") or 0) + (view.get("torn") or 0)


def cube_text(view: View) -> str:
    """Return how far the present cube is, or how long cubes will be."""
    if view["state"] not in ("saving", "finishing"):
        return str(view.get("cube_frames") or "-")
    return f"{view.get('cube_count') or 0}: {view.get('cube_index') or 0}/{view['cube_frames']}"


def _is_active(view: View) -> bool:
    return view["state"] in ("saving", "finishing") or bool(view.get("closing"))


def stream_lines(name: str, view: View, paint: render.Paint) -> list[str]:
    """Return one stream as lines."""
    state = paint(str(view["state"]).upper(), STATE_COLORS.get(str(view["state"])), bold=True)
    lines = [f"{name} is {state}: {shape_text(view)}, {rate_text(view)}"]
    if _is_active(view) or view.get("frames_saved"):
        index, length = view.get("cube_index") or 0, view.get("cube_frames") or 0
        done = f"{view.get('frames_saved') or 0} frames saved, {losses_text(view, paint)}"
        if view["state"] in ("saving", "finishing"):
            share = bar(index / length if length else 0.0)
            lines.append(f"cube {view.get('cube_count') or 0} {share} {index} / {length}; {done}")
        else:
            lines.append(f"last session: {done}")
        limit = limits_text(view)
        if limit and view["state"] == "saving":
            lines.append(f"ends after {limit}")
    if view["state"] == "armed" and view.get("cube_frames"):
        lines.append(f"prepared for {view['cube_frames']} frames per cube, {view['data_type']}")
    if view["state"] in ("saving", "finishing") and view.get("ring_depth"):
        lines.append(_ring_line(view, paint))
    if view.get("closing"):
        lines.append(f"{view['closing']} files are being finished")
    if view["state"] != "idle" and view.get("folder"):
        lines.append(_folder_line(view, paint))
    if view.get("last_file"):
        lines.append(f"last file {view['last_file']}")
    if view.get("restarts"):
        lines.append(paint(f"its logger died {view['restarts']} times", "yellow"))
    for key, color in (("error", "red"), ("warning", "yellow")):
        if view.get(key):
            lines.append(paint(str(view[key]), color))
    return [lines[0], *(render.INDENT + line for line in lines[1:])]


def _ring_line(view: View, paint: render.Paint) -> str:
    unread, depth = view.get("ring_unread") or 0, view["ring_depth"]
    share = unread / depth
    color = "red" if share > 0.8 else "yellow" if share > 0.4 else None
    text = f"ring {bar(share)} {paint(f'{unread} / {depth}', color)} frames wait"
    if view.get("ring_seconds"):
        text += f", it bridges {view['ring_seconds']:.1f} s"
    if view.get("write_mb_s") is not None:
        text += f"; {view['write_mb_s']:.1f} MB/s"
    return text


def _folder_line(view: View, paint: render.Paint) -> str:
    text = f"into {view['folder']}"
    if view.get("free_bytes") is not None:
        text += f", {render.size_text(view['free_bytes'])} free"
    left = view.get("seconds_left")
    if left is not None:
        color = "red" if left < 600 else None
        text += f" ({paint(duration_text(left), color)} at this rate)"
    return text


def group_lines(group: str, snapshot: View, paint: render.Paint) -> list[str]:
    """Return one group of a status snapshot as lines."""
    known = snapshot["groups"][group]
    state = paint(str(known["state"]).upper(), STATE_COLORS.get(str(known["state"])), bold=True)
    session = f", session {known['session']}" if known.get("session") else ""
    lines = [f"Group {group} is {state}{session}"]
    if known.get("in_use_by"):
        lines[0] += f", in use by group {', '.join(known['in_use_by'])}"
    for stream in known["streams"]:
        lines += stream_lines(stream, snapshot["streams"][stream], paint)
    return [render.INDENT + line for line in [*lines, *render.health_lines(snapshot, paint)]]


def status_lines(snapshot: View, paint: render.Paint) -> list[str]:
    """Return the status of all groups as lines."""
    summary = str(snapshot["summary"])
    word = paint(summary, render.STATE_COLORS.get(summary), bold=True)
    lines = [f"FITS loggers {snapshot['daemon']} are {word}"]
    for stream, view in snapshot["streams"].items():
        lines += stream_lines(stream, view, paint)
    several = {g: known for g, known in snapshot["groups"].items() if list(known["streams"]) != [g]}
    lines += [f"group {g}: {', '.join(known['streams'])}" for g, known in several.items()]
    return [render.INDENT + line for line in [*lines, *render.health_lines(snapshot, paint)]]


def cube_rows(cubes: Iterable[View], paint: render.Paint = render.no_paint) -> list[str]:
    """Return the last files as a table."""
    rows = []
    for cube in cubes:
        lost = (cube.get("missed") or 0) + (cube.get("torn") or 0)
        end = f"closed early: {cube.get('reason')}" if cube.get("truncated") else "full"
        size = cube.get("size")
        rows.append((
            render.clock_text(cube["time"]), cube["stream"], cube.get("frames"), lost,
            None if size is None else render.size_text(size), end, cube.get("path"),
        ))  # fmt: skip
    if not rows:
        return ["no cubes since the daemon started"]
    headings = ("time (UTC)", "stream", "frames", "lost", "size", "end", "file")
    return render.table(headings, rows, right=(2, 3, 4))


def advice_lines(advice: View) -> list[str]:
    """Return the advised number of frames per cube, for the group and each stream."""
    rows = []
    for stream, one in advice["streams"].items():
        size = one["cube_bytes"]
        rows.append((
            stream, shape_text(one), one["cube_frames"],
            None if size is None else render.size_text(size),
        ))  # fmt: skip
    lines = render.table(("stream", "geometry", "frames per cube", "file"), rows, right=(2, 3))
    return [*lines, f"advised for {advice['group']}: {advice['cube_frames'] or 'unknown'}"]


def advice_text(advice: View) -> str:
    """Return the advice in half a line; empty where none can be given."""
    frames = advice.get("cube_frames")
    if frames is None:
        return ""
    known = [one for one in advice["streams"].values() if one["cube_frames"] == frames]
    size = f", {render.size_text(known[0]['cube_bytes'])}" if known else ""
    return f"{frames} for {shape_text(known[0])}{size}" if known else str(frames)


def failed_lines(results: Mapping[str, View]) -> Sequence[str]:
    """Return a line for each stream at which a command failed."""
    return [f"{name}: {one['message']}" for name, one in results.items() if not one["ok"]]
