# SPDX-License-Identifier: BSD-3-Clause
"""The camera's status as lines of text: pure functions, nothing is printed or asked here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nightjar.cli.text import (
    INDENT,
    SEVERITY_COLORS,
    STATE_COLORS,
    Paint,
    clock_text,
    health_lines,
    no_paint,
    plain_lines,
    size_text,
    table,
)

__all__ = [
    "COOLER_COLORS", "INDENT", "SEVERITY_COLORS", "STATE_COLORS", "Paint", "camera_lines",
    "clock_text", "frame_rows", "health_lines", "no_paint", "plain_lines", "size_text",
    "status_lines", "table",
]  # fmt: skip

COOLER_COLORS = {
    "WARM": "red", "FAULT": "red", "UNKNOWN": "red", "WARMING": "yellow", "LOCKING": "yellow",
    "COOLING": "cyan", "LOCKED": "green",
}  # fmt: skip


def _number(value: Any, form: str, missing: str = "unknown") -> str:
    return missing if value is None else format(value, form)


def status_lines(status: Mapping[str, Any], paint: Paint = no_paint) -> list[str]:
    """Return the status of either kind of camera; of another daemon its plain values."""
    if status.get("mode") == "stream":
        from nightjarctl.fast_render import fast_camera_lines

        return fast_camera_lines(status, paint)
    return camera_lines(status, paint) if "cooler_mode" in status else plain_lines(status)


def camera_lines(status: Mapping[str, Any], paint: Paint = no_paint) -> list[str]:
    """Return a camera's status as the lines of ``cam ID status``."""
    state = str(status["state"])
    lines = [f"Camera is {_state(status, paint)}"]
    if state != "OFFLINE":
        lines += _sequence_lines(status, paint)
        lines += _cooler_lines(status, paint)
        lines += _setting_lines(status, paint)
    lines += _frame_lines(status, paint)
    lines += _trouble_lines(status, paint)
    return [INDENT + line for line in lines]


def _state(status: Mapping[str, Any], paint: Paint) -> str:
    state, summary = str(status["state"]), str(status["summary"])
    text = paint(state, STATE_COLORS.get(state), bold=True)
    progress = status.get("exposure_progress")
    if state == "EXPOSING" and progress is not None:
        text += f" ({progress:.1f} / {status['exposure_time']:.1f} s)"
    if summary in ("FAULT", "STOPPING"):
        text += f" ({paint(summary, STATE_COLORS.get(summary), bold=True)})"
    if state == "OFFLINE" and summary == "STANDBY":
        text += " (not initialized)"
    return text


def _sequence_lines(status: Mapping[str, Any], paint: Paint) -> list[str]:
    if status["state"] not in ("WAITING", "EXPOSING", "READING", "DRAINING", "ABORTING"):
        return []
    limit = status.get("sequence_frame_limit") or 0
    done = status.get("sequence_frame_count") or 0
    if not limit:
        until = paint("UNTIL STOPPED", bold=True)
        return [f"Acquiring {until} ({done} done)"]
    return [f"Acquiring frame {paint(str(min(done + 1, limit)), bold=True)} / {limit}"]


def _cooler_lines(status: Mapping[str, Any], paint: Paint) -> list[str]:
    mode = str(status["cooler_mode"])
    lines = []
    if status["temperature"] is not None or mode != "NONE":
        degrees = paint(_number(status["temperature"], ".0f") + "°C", bold=True)
        power = status.get("cooler_power")
        parts = [] if power is None else [f"{100 * power:.0f}% power"]
        parts.append(paint(mode, COOLER_COLORS.get(mode), bold=True))
        lines.append(f"Temperature is {degrees} ({', '.join(parts)})")
    if status["cooler_setpoint"] is not None:
        lines.append(
            f"Temperature set point is {paint(format(status['cooler_setpoint'], 'g'), bold=True)}°C"
        )
    air = []
    if status.get("humidity") is not None:
        air.append(f"humidity {status['humidity']:.0f}%")
    if status.get("pressure") is not None:
        air.append(f"pressure {status['pressure']:.0f} hPa")
    if air:
        lines.append(f"Inside: {', '.join(air)}")
    return lines


def _setting_lines(status: Mapping[str, Any], paint: Paint) -> list[str]:
    def bold(value: Any) -> str:
        return paint(str(value), bold=True)

    lines = [f"Frame streaming is {bold('ENABLED' if status['stream'] else 'DISABLED')}"]
    # Milliseconds, and all digits of what is shorter: 10 us are not 0.000 s.
    seconds = status["exposure_time"]
    exposure = bold(f"{seconds:.3f}" if seconds == round(seconds, 3) else f"{seconds:.6f}")
    delay = f", {status['delay']:g} s between exposures" if status.get("delay") else ""
    lines.append(f"Exposure time is {exposure} s{delay}")
    window = status.get("window")
    if window:
        x1, x2, y1, y2 = window
        lines.append(f"Output window is {bold(f'[{x1}:{x2},{y1}:{y2}]')}")
    binning = status["binning"]
    lines.append(f"Binning is {bold(f'{binning}x{binning}')} ({status['binning_method']})")
    if status.get("filters") or status.get("filter"):
        lines.append(f"Filter is {bold(status.get('filter') or 'MOVING')}")
    known = [
        f"{name} is {bold(status[key])}"
        for name, key in (("Gain", "gain"), ("Offset", "offset"))
        if status.get(key) is not None
    ]
    if known:
        lines.append(", ".join(known).replace(", Offset", ", offset"))
    return lines


def _frame_lines(status: Mapping[str, Any], paint: Paint) -> list[str]:
    counts = [f"{status['frames_taken']} taken, {status['frames_saved']} saved"]
    counts.append(f"{status['frames_handed_over']} handed over")
    for key, word, color in (
        ("frames_waiting", "waiting for the pipeline", "yellow"),
        ("frames_invalid", "taken again", "yellow"),
    ):
        if status.get(key):
            counts.append(paint(f"{status[key]} {word}", color))
    lost = status["frames_lost"]
    counts.append(paint(f"{lost} lost", "red" if lost else None, bold=bool(lost)))
    lines = [f"Frames: {', '.join(counts)}"]
    if status.get("buffer_slots"):
        used, slots = status["buffer_used"], status["buffer_slots"]
        fill = paint(f"{used} of {slots}", "red" if used == slots else None, bold=True)
        workers = status["workers"]
        more = [f"{workers} worker{'' if workers == 1 else 's'}"]
        for key, words in (
            ("frames_unsaved", "frames not yet in a file"),
            ("buffer_waits", "waits for a free slot"),
            ("worker_restarts", "worker restarts"),
        ):
            if status.get(key):
                more.append(paint(f"{status[key]} {words}", "yellow"))
        lines.append(f"Frame buffer has {fill} slots in use, {', '.join(more)}")
    if status["last_file"]:
        lines.append(f"Last file is {status['last_file']}")
    free = status.get("free_bytes")
    if free is not None:
        lines.append(f"Space left is {size_text(free)}")
    return lines


def _trouble_lines(status: Mapping[str, Any], paint: Paint) -> list[str]:
    lines = []
    if status["last_stop"]:
        lines.append(f"Last sequence ended: {status['last_stop']}")
    error = status["last_error"]
    if error:
        lines.append(
            f"Last error at {clock_text(error['time'])}: {error['message']} ({error['name']})"
        )
    pipeline = status.get("pipeline") or {}
    if pipeline.get("is_reachable") is False:
        word = paint("NOT REACHABLE", "red", bold=True)
        reason = f": {pipeline['message']}" if pipeline.get("message") else ""
        lines.append(f"Pipeline {pipeline.get('daemon')} is {word}{reason}")
    return lines + health_lines(status, paint)


def frame_rows(frames: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the frames of ``cam ID last`` as a table."""
    rows = [
        (
            frame["number"], clock_text(frame["start"]), f"{frame['exposure']:g} s",
            frame["state"], None if frame["size"] is None else size_text(frame["size"]),
            frame["path"],
        )
        for frame in frames
    ]  # fmt: skip
    if not rows:
        return ["no frames since the daemon started"]
    return table(("frame", "start (UTC)", "exposure", "state", "size", "file"), rows, right=(0, 2))
