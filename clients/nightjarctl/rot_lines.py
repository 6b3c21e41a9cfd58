# SPDX-License-Identifier: BSD-3-Clause
"""What ``rot`` prints, as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nightjar.cli.text import Paint, clock_text, health_lines, no_paint, table

_COLORS = {"READY": "green", "BUSY": "cyan", "STANDBY": "yellow", "FAULT": "red"}
_WIDTH = 61


def _degrees(value: float | None, digits: int = 2) -> str:
    return "unknown" if value is None else f"{value:.{digits}f} deg"


def status_lines(status: Mapping[str, Any], paint: Paint = no_paint) -> list[str]:
    """Return the status, the angle drawn on its range."""
    state = paint(str(status["state"]), _COLORS.get(str(status["summary"])), bold=True)
    reason = f": {status['reason']}" if status["reason"] else ""
    doing = f"; {status['job']}" if status["job"] else ""
    lines = [f"Rotator is {state}{reason}{doing}"]
    angle = _degrees(status["angle_deg"], 3)
    if status["angle_deg"] is not None and not status["is_homed"]:
        angle = f"about {angle}, not homed"
    target = ""
    if status["target_deg"] is not None:
        target = f", target {status['target_deg']:.2f}, {status['error_deg']:+.3f} to go"
    lines.append(f"   Angle {paint(angle, bold=True)}{target}")
    drawn = drawing(status)
    if drawn:
        lines += [f"   {line}" for line in drawn]
    homed = "never"
    if status["homed_at"]:
        homed = f"{clock_text(status['homed_at'])} UTC"
        if status["home_spread_deg"] is not None:
            homed += f", approaches within {status['home_spread_deg']:.3f} deg"
    lines.append(f"   Homed {homed}" + ("" if status["is_homed"] else ", does not hold"))
    power = {True: "on", False: paint("off", "yellow"), None: "unknown"}[status["is_powered"]]
    difference = status["difference_deg"]
    apart = "" if difference is None else f", {difference:+.2f} deg ahead of the encoder"
    lines.append(f"   Motor {_device(status['motor'])}, power {power}{apart}")
    age = status["reading_age_s"]
    lines.append(
        f"   Encoder {_device(status['encoder'])}"
        + ("" if age is None else f", read {age:.1f} s ago")
    )
    lines.append(f"   {_handshake(status)}")
    last = status["last_move"]
    if last:
        lines.append(
            f"   {status['moves']} moves; the last from {last['from_deg']:.2f} to "
            f"{last['to_deg']:.2f}: {last['seconds']:.1f} s, {last['corrections']} corrections, "
            f"error {last['error_deg']:+.3f}"
        )
    return lines + health_lines(status, paint)


def _device(device: Mapping[str, Any]) -> str:
    name = device["model"] or device["driver"]
    port = f" on {device['port']}" if device["port"] else ""
    return f"{name}{port}" + ("" if device["is_open"] else ", not connected")


def _handshake(status: Mapping[str, Any]) -> str:
    auto = status["auto"]
    text = f"auto mode on, scans along {auto['axis']}" if status["is_auto"] else "auto mode off"
    if status["rotate_line"] is None:
        return f"Telescope lines not connected, {text}"
    up = {True: "up", False: "down"}
    return (
        f"Telescope's ROTATE {up[status['rotate_line']]}, our ROTATING "
        f"{up[status['rotating_line']]}, {text}"
    )


def drawing(status: Mapping[str, Any]) -> list[str]:
    """Return the range as a scale with the angle and the target on it; empty where unknown."""
    angle = status["angle_deg"]
    if angle is None:
        return []
    low, high = status["limits_deg"]
    span = high - low

    def place(value: float) -> int:
        column: int = round((value - low) / span * (_WIDTH - 1))
        return max(0, min(_WIDTH - 1, column))

    scale = ["-"] * _WIDTH
    scale[place(0.0)] = "+"
    if status["target_deg"] is not None:
        scale[place(status["target_deg"])] = "T"
    scale[place(angle)] = "#"
    return [f"{low:g} |{''.join(scale)}| {high:+g}"]


def one_line(status: Mapping[str, Any]) -> str:
    """Return the status in one line."""
    parts = [str(status["state"]), _degrees(status["angle_deg"])]
    if status["target_deg"] is not None:
        parts.append(f"target {status['target_deg']:.2f}")
    if status["rotate_line"]:
        parts.append("ROTATE up")
    if status["rotating_line"]:
        parts.append("ROTATING up")
    return "  ".join(parts) + (f"  {status['reason']}" if status["reason"] else "")


def choice_lines(choice: Mapping[str, Any], paint: Paint = no_paint) -> list[str]:
    """Return a choice of an angle and its reasons."""
    stays = " (it stays there)" if choice["stays"] else ""
    lines = [f"{paint(_degrees(choice['angle_deg']), bold=True)}{stays}"]
    lines += [f"   {reason}" for reason in choice["reasons"]]
    for one in choice["solutions"]:
        side = "scan left of the rows" if one["side"] > 0 else "scan right of the rows"
        move = "" if one["move_deg"] is None else f", a move by {one['move_deg']:+.2f}"
        lines.append(f"   {_degrees(one['angle_deg'])}: {side}{move}")
    return lines + [f"   {paint('note', 'yellow')}: {text}" for text in choice["warnings"]]


def entry_line(entry: Mapping[str, Any]) -> str:
    """Return an entry of the journal."""
    when = clock_text(str(entry["time"]))
    if "to_deg" in entry:
        text = (
            f"{entry['from_deg']:.2f} -> {entry['to_deg']:.2f} deg, error "
            f"{entry['error_deg']:+.3f}, {entry['seconds']:.1f} s"
        )
    elif entry.get("message"):
        text = f"{entry.get('result', '')} {entry['message']}".strip()
    elif "spread_deg" in entry:
        text = f"{entry['approaches']} approaches within {entry['spread_deg']:.3f} deg"
    elif "play_deg" in entry:
        text = f"play {entry['play_deg']:.3f} deg, rms {entry['rms_deg']:.3f}"
    else:
        text = str(entry.get("result", ""))
    return f"{when}  {entry['what']:<11} {text}"


def sweep_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the table of a sweep."""
    rows = [
        (f"{row['motor_deg']:.2f}", f"{row['up_deg']:.3f}", f"{row['down_deg']:.3f}",
         f"{row['play_deg']:+.3f}")
        for row in result["rows"]
    ]  # fmt: skip
    lines = table(("motor", "encoder going up", "going down", "play"), rows)
    return [
        *lines,
        f"play {result['play_deg']:.3f} deg, encoder per motor {result['scale']:.5f}, "
        f"rms {result['rms_deg']:.3f} deg; written to {result['file']}",
    ]
