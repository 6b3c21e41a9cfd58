# SPDX-License-Identifier: BSD-3-Clause
"""The archive's answers as lines of text: pure functions, nothing is printed or asked here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nightjarctl import render

_STATE_COLORS = {
    "archived": "green", "accepted": "yellow", "unarchived": "yellow", "quarantined": "red",
    "missing": "red",
}  # fmt: skip


def status_lines(snapshot: Mapping[str, Any], paint: render.Paint) -> list[str]:
    """Return the status as lines."""
    summary, state = str(snapshot["summary"]), str(snapshot["state"])
    word = paint(state, render.STATE_COLORS.get(summary), bold=True)
    lines = [f"Archive is {word}, night {snapshot['night']}"]
    for camera, counted in snapshot["cameras"].items():
        lines += _camera_lines(camera, counted, paint)
    free, least = snapshot["free_bytes"], snapshot["minimum_free_bytes"]
    if free is None:
        lines.append(f"Space left in {snapshot['root']} is {paint('UNKNOWN', 'red', bold=True)}")
    else:
        text = paint(render.size_text(free), "red" if free < least else None, bold=True)
        lines.append(
            f"Space left in {snapshot['root']} is {text} (frames refused under "
            f"{render.size_text(least)})"
        )
    if snapshot["strays"]:
        count = paint(str(snapshot["strays"]), "yellow", bold=True)
        lines.append(f"Never announced in {snapshot['incoming']}: {count} files (archive strays)")
    lines += [line.strip() for line in setting_lines(snapshot["settings"], paint)]
    lines += _night_lines(snapshot.get("nights"), paint)
    lines += render.health_lines(snapshot, paint)
    error = snapshot["last_error"]
    if error:
        lines.append(f"Last error at {render.clock_text(error['time'])}: {error['message']}")
    return [render.INDENT + line for line in lines]


def _night_lines(nights: Mapping[str, Any] | None, paint: render.Paint) -> list[str]:
    if nights is None:
        return []
    lines = []
    for each in nights["running"]:
        share = f", {100 * each['fraction']:.0f} %" if each["fraction"] is not None else ""
        night = f"night {each['night']}, " if each["night"] else ""
        lines.append(f"At work: {each['command']}, {night}step {each['step'] or '-'}{share}")
    if nights["failed"]:
        dates = ", ".join(nights["failed"][:5])
        text = paint(f"{len(nights['failed'])} nights have failed", "red", bold=True)
        lines.append(f"{text}: {dates} (archive status NIGHT)")
    elif not nights["running"]:
        lines.append("Nights: none is at work, none has failed (archive table)")
    return lines


def _camera_lines(camera: str, counted: Mapping[str, Any], paint: render.Paint) -> list[str]:
    is_on = counted["archive"]
    switch = paint("ON" if is_on else "OFF", "green" if is_on else "yellow", bold=True)
    parts = []
    for key in ("archived", "unarchived", "quarantined", "missing"):
        count, total = counted["tonight"][key], counted["total"][key]
        bad = key in ("quarantined", "missing")
        if bad and not total and key == "missing":
            continue
        text = f"{count} {key}"
        parts.append(paint(text, "red", bold=True) if bad and count else text)
    waiting = counted["waiting"]
    parts.append(paint(f"{waiting} waiting", "yellow") if waiting else "0 waiting")
    lines = [f"{camera}: archiving {switch}; tonight {', '.join(parts)}"]
    totals = ", ".join(f"{n} {key}" for key, n in counted["total"].items() if n)
    lines.append(f"{render.INDENT}all nights: {totals or 'no frames'}")
    last = counted["last_frame"]
    if last:
        where = last["path"] or last["state"]
        lines.append(f"{render.INDENT}last frame {last['frame_number']}: {where}")
    return lines


def setting_lines(settings: Mapping[str, Any], paint: render.Paint) -> list[str]:
    """Return the settings as lines."""

    def shown(value: str | None, none: str) -> str:
        return paint(value, bold=True) if value else none

    switches = ", ".join(
        f"{camera} {paint('ON' if is_on else 'OFF', 'green' if is_on else 'yellow', bold=True)}"
        for camera, is_on in settings["archive"].items()
    )
    changed = "never changed"
    if settings["changed"]:
        changed = f"{render.clock_text(settings['changed'])} by {settings['changed_by']}"
    lines = [
        f"Object is {shown(settings['object'], 'as the camera wrote it')}, "
        f"type is {shown(settings['frame_type'], 'as the camera wrote it')}, "
        f"prefix is {shown(settings['prefix'], 'none')}",
        f"Archiving: {switches}",
        f"Settings changed: {changed}",
    ]
    return [render.INDENT + line for line in lines]


def frame_lines(frames: Iterable[Mapping[str, Any]], paint: render.Paint) -> list[str]:
    """Return frames as a table."""
    rows = [
        (frame["id"], frame["night"], frame["camera"], frame["frame_number"], frame["state"],
         render.size_text(frame["size"]), frame["path"] or frame["name"])
        for frame in frames
    ]  # fmt: skip
    if not rows:
        return ["no frames"]
    headings = ("id", "night", "camera", "number", "state", "size", "file")
    lines = render.table(headings, rows, right=[0, 3, 5])
    return [lines[0]] + [
        line.replace(str(row[4]), paint(str(row[4]), _STATE_COLORS.get(str(row[4]))), 1)
        for line, row in zip(lines[1:], rows, strict=True)
    ]


def show_lines(frame: Mapping[str, Any], paint: render.Paint) -> list[str]:
    """Return a frame with its history as lines."""
    state = str(frame["state"])
    lines = [
        f"Frame {frame['frame_number']} of camera {frame['camera']}, run {frame['run']} "
        f"(id {frame['id']}) is {paint(state, _STATE_COLORS.get(state), bold=True)}",
        f"File is {frame['path'] or 'gone'} ({render.size_text(frame['size'])}), "
        f"arrived as {frame['name']}",
        f"Exposure began {frame['begin']}, night {frame['night']}",
    ]
    if frame["last_error"]:
        lines.append(paint(f"Reason: {frame['last_error']}", "red"))
    lines += [
        f"{render.clock_text(event['time'])}  {event['kind']:<12} {event['text']}"
        for event in frame["history"]
    ]
    return [render.INDENT + line for line in lines]
