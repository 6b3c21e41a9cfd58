# SPDX-License-Identifier: BSD-3-Clause
"""A fast camera's status as lines of text: pure functions, nothing is printed or asked here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nightjar.cli.text import (
    INDENT,
    STATE_COLORS,
    Paint,
    clock_text,
    health_lines,
    no_paint,
    size_text,
)


def fast_camera_lines(status: Mapping[str, Any], paint: Paint = no_paint) -> list[str]:
    """Return a fast camera's status as the lines of ``cam ID status``."""
    lines = [f"Camera is {_state(status, paint)}"]
    if status["model"]:
        serial = f" {status['serial']}" if status["serial"] else ""
        lines.append(f"Model is {status['model']}{serial} (source {status['source']})")
    lines += _setting_lines(status, paint)
    if status["stream_path"]:
        lines += _stream_lines(status, paint)
    lines += _frame_lines(status, paint)
    lines += _trouble_lines(status, paint)
    return [INDENT + line for line in lines]


def _state(status: Mapping[str, Any], paint: Paint) -> str:
    state, summary = str(status["state"]), str(status["summary"])
    text = paint(state, STATE_COLORS.get(state), bold=True)
    if state == "STREAMING":
        limit, count = status["sequence_frame_limit"], status["sequence_frame_count"]
        text += f" (frame {count} of {limit})" if limit else " until stopped"
    if summary in ("FAULT", "STOPPING"):
        text += f" ({paint(summary, STATE_COLORS.get(summary), bold=True)})"
    if state == "OFFLINE" and summary == "STANDBY":
        text += " (not initialized)"
    return text


def rate_text(hertz: float | None) -> str:
    """Return a rate with three decimals at most: ``508.751 Hz``."""
    return "unknown" if hertz is None else f"{round(hertz, 3):.10g} Hz"


def _setting_lines(status: Mapping[str, Any], paint: Paint) -> list[str]:
    def bold(value: Any) -> str:
        return paint(str(value), bold=True)

    crop = status["crop"] or "free"
    where = ""
    if status["window"]:
        x1, x2, y1, y2 = status["window"]
        where = f" [{x1}:{x2},{y1}:{y2}], {x2 - x1 + 1} x {y2 - y1 + 1} pixels"
        if status["pixel_type"]:
            where += f" {status['pixel_type']}"
    lines = [f"Crop is {bold(crop)}{where}"]
    if status["readout_mode"]:
        lines.append(f"Read-out mode is {bold(status['readout_mode'])}")
    lines.append(f"Exposure time is {bold(format(status['exposure_time'], '.6g'))} s")
    asked = status["rate_asked"]
    text = f"Rate is {bold(rate_text(status['rate']))}"
    text += f", asked {'the fastest' if asked is None else rate_text(asked)}"
    if status["rate_limit"] is not None:
        text += f", at most {rate_text(status['rate_limit'])}"
    lines.append(f"{text}; {size_text(status['data_rate'])}/s")
    external = status["external_trigger"]
    trigger = f"Trigger is {bold('EXTERNAL' if external else 'INTERNAL')}"
    if status["flc"] is not None and external:
        trigger += f", FLC {bold('A/B by turns' if status['flc'] else 'OFF')}"
    if status["pulses_missed"]:
        trigger += ", " + paint(f"{status['pulses_missed']} pulses missed", "yellow")
    lines.append(trigger)
    lines.append(f"Data type is {bold(status['data_type'])}")
    if status["temperature"] is not None:
        lines.append(f"Temperature is {bold(format(status['temperature'], '.1f'))}°C")
    return lines


def _stream_lines(status: Mapping[str, Any], paint: Paint) -> list[str]:
    name = paint(status["stream"], bold=True)
    size = size_text(status["ring_bytes"])
    readers = status["readers"]
    lines = [
        f"Stream is {name}: {status['ring_frames']} frames, {status['ring_seconds']:.3g} s, "
        f"{size}; {readers} reader{'' if readers == 1 else 's'}"
    ]
    if status["counter"] is not None:
        newest = f", of {_time(status['newest'])}" if status["newest"] else ""
        hardware = status["hardware_id"]
        number = f", camera's number {hardware}" if hardware is not None else ""
        lines.append(f"Newest frame is cnt0 {paint(str(status['counter']), bold=True)}"
                     f"{number}{newest}")  # fmt: skip
    return lines


def _time(iso_time: str) -> str:
    return iso_time[:23].replace("T", " ")


def _frame_lines(status: Mapping[str, Any], paint: Paint) -> list[str]:
    lost = status["frames_lost"]
    counts = [
        f"{status['frames_published']} published",
        paint(f"{lost} lost", "red" if lost else None, bold=bool(lost)),
    ]
    for key, word in (("frames_late", "late"), ("frames_incomplete", "incomplete")):
        if status[key]:
            counts.append(paint(f"{status[key]} {word}", "yellow"))
    if status["grabber_restarts"]:
        counts.append(paint(f"{status['grabber_restarts']} grabber restarts", "yellow"))
    return [f"Frames: {', '.join(counts)}"]


def _trouble_lines(status: Mapping[str, Any], paint: Paint) -> list[str]:
    lines = []
    if status["last_stop"]:
        lines.append(f"Last streaming ended: {status['last_stop']}")
    error = status["last_error"]
    if error:
        lines.append(
            f"Last error at {clock_text(error['time'])}: {error['message']} ({error['name']})"
        )
    return lines + health_lines(status, paint)


def one_line_words(status: Mapping[str, Any]) -> list[str]:
    """Return what a line of ``cam ID watch`` says of a fast camera."""
    words = [status["crop"] or "free", rate_text(status["rate"])]
    if status["counter"] is not None:
        words.append(f"cnt0 {status['counter']}")
    words.append(f"{status['frames_lost']} lost")
    reason = (status.get("health") or {}).get("reason")
    return [*words, reason] if reason else words
