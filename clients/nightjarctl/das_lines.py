# SPDX-License-Identifier: BSD-3-Clause
"""What the data acquisition tells, as lines of text: pure functions, nothing is printed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nightjar.cli.text import (
    INDENT,
    STATE_COLORS,
    Paint,
    clock_text,
    health_lines,
    no_paint,
    size_text,
    table,
)

_COLORS = STATE_COLORS | {
    "RECORDING": "green", "IDLE": "green", "CONNECTING": "yellow", "STOPPED": "red",
    "CLOSING": "yellow",
}  # fmt: skip
_LEVELS = {"OK": "green", "DEGRADED": "yellow", "FAILED": "red"}
_BARS = "▁▂▃▄▅▆▇█"
_LINE = {1: "high", 0: "low", -1: "unclear"}


def status_lines(status: Mapping[str, Any], paint: Paint = no_paint) -> list[str]:
    """Return the lines of ``das status``."""
    state = str(status["state"])
    reason = f": {status['reason']}" if status["reason"] else ""
    lines = [f"DAS is {paint(state, _COLORS.get(state), bold=True)}{reason}"]
    lines += _recording_lines(status["recording"], paint)
    lines.append(_adc_line(status["adc"], paint))
    clock = status["clock"]
    lines.append(f"Clock: {paint(clock['level'], _LEVELS.get(clock['level']))}: {clock['text']}")
    telescope = status["telescope"]
    if telescope["daemon"]:
        lines.append(_telescope_line(telescope, paint))
    disk = status["disk"]
    if disk["free_bytes"] is None:
        lines.append(f"Disk: {paint('the folder is not there', 'red')}: {disk['root']}")
    else:
        room = size_text(disk["free_bytes"])
        lines.append(f"Disk: {room} free in {disk['root']}: {disk['hours']:.0f} h of data")
    if status["queue_s"] > 2:
        lines.append(paint(f"{status['queue_s']:.1f} s of samples wait for the disk", "yellow"))
    lines += health_lines(status, paint)
    return [INDENT + line for line in lines]


def _recording_lines(recording: Mapping[str, Any] | None, paint: Paint) -> list[str]:
    if recording is None:
        return []
    kind = "Test" if recording["is_test"] else "Recording"
    if recording["is_running"]:
        head = f"{kind} in {paint(recording['root'], bold=True)}"
        since = recording["since"]
        head += ", no sample yet" if since is None else f" since {clock_text(since)}"
    else:
        head = f"Last {kind.lower()} in {recording['root']} ended: {recording['ended']}"
    counts = [f"{recording['files']} files", f"{recording['samples']} samples"]
    for key, words in (
        ("missing", "missing"), ("dropped", "dropped"), ("gaps", "gaps"), ("slips", "slips"),
    ):  # fmt: skip
        if recording[key]:
            counts.append(paint(f"{recording[key]} {words}", "yellow"))
    lines = [head, ", ".join(counts)]
    if recording["last_file"]:
        lines.append(f"Last file is {recording['last_file']}")
    lines += [paint(f"Warning: {text}", "yellow") for text in recording["warnings"].values()]
    return lines


def _adc_line(adc: Mapping[str, Any], paint: Paint) -> str:
    text = f"ADC: {adc['model']}, {adc['channels']} channels at {adc['rate_hz']:g} Hz"
    if adc["measured_ppm"] is not None:
        text += f", {adc['measured_ppm']:+.1f} ppm against the clock"
    if adc["overruns"]:
        text += ", " + paint(f"{adc['overruns']} overruns", "yellow")
    if adc["restarts"]:
        text += ", " + paint(f"{adc['restarts']} times lost", "yellow")
    return text


def _telescope_line(telescope: Mapping[str, Any], paint: Paint) -> str:
    if not telescope["is_fresh"]:
        return f"Telescope's logs: {paint('stale', 'yellow')}: {telescope['reason']}"
    return (
        f"Telescope's logs: pointing {telescope['pointing_age_s']:.1f} s, "
        f"housekeeping {telescope['housekeeping_age_s']:.1f} s old"
    )


def channel_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of ``das channels``."""
    cells = [
        (
            row["channel"], row["module"], row["input"], row["kind"] or "unused",
            row["name"] or None, "" if row["is_connected"] or not row["kind"] else "unplugged",
        )
        for row in rows
    ]  # fmt: skip
    return table(("channel", "module", "input", "kind", "name", ""), cells, right=(0, 1, 2))


def map_lines(value: Mapping[str, Any]) -> list[str]:
    """Return the lines of ``das map``."""
    cells = [
        (
            f"{group['first']}-{group['first'] + group['count'] - 1}"
            if group["count"] > 1 else str(group["first"]),
            group["name"], group["kind"], group["hextant"], group["lockin"],
            None if group["is_connected"] else "unplugged",
        )
        for group in value["groups"]
    ]  # fmt: skip
    lines = table(("channels", "name", "kind", "hextant", "lock-in", ""), cells)
    return [*lines, f"{value['count']} channels, map {value['sha256'][:12]}"]


def check_lines(found: Sequence[Mapping[str, Any]], paint: Paint = no_paint) -> list[str]:
    """Return the lines of ``das check``."""
    width = max(len(row["what"]) for row in found)
    return [
        f"{row['what'].ljust(width)}  {paint(row['level'], _LEVELS.get(row['level']), bold=True)}  "
        f"{row['text']}"
        for row in found
    ]


def watch_summary(levels: Mapping[str, Any]) -> str:
    """Return levels as one line, for a pipe."""
    if levels["utc_ns"] is None:
        return "no samples"
    stamp = _stamp(levels["utc_ns"])
    lines = " ".join(f"{name}={level}" for name, level in levels["lines"].items())
    dead, saturated = len(levels["dead"]), len(levels["saturated"])
    noise = _median([
        row["noise_v_rthz"] for row in levels["channels"]
        if row["name"].startswith("ac_") and row["noise_v_rthz"] is not None
    ])  # fmt: skip
    text = f"{stamp}  age {levels['age_s']:.1f} s  dead {dead}  saturated {saturated}"
    if noise is not None:
        text += f"  noise {noise:.3g} V/rtHz"
    chosen = "  ".join(
        f"{row['name'] or row['channel']} {row['mean_v']:+.5f} V rms {row['rms_v']:.5f}"
        for row in levels.get("chosen", ())
    )
    return "  ".join(part for part in (text, lines, chosen) if part)


def watch_lines(
    status: Mapping[str, Any], levels: Mapping[str, Any], paint: Paint = no_paint
) -> list[str]:
    """Return the screen of ``das watch``."""
    lines = [*status_lines(status, paint), ""]
    if levels["utc_ns"] is None:
        return [*lines, "no samples"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in levels["channels"]:
        if row["line"] is None:
            name, _, rest = row["name"].partition("[")
            hextant = rest.partition("hextant ")[2]
            groups.setdefault(f"{name} {hextant}".strip(), []).append(row)
    cells = []
    for name, rows in groups.items():
        noise = _median([row["noise_v_rthz"] for row in rows if row["noise_v_rthz"] is not None])
        cells.append((
            name, len(rows), f"{_median([row['mean_v'] for row in rows]):+.5f}",
            f"{_median([row['rms_v'] for row in rows]):.5f}",
            None if noise is None else f"{noise:.3g}",
            sum(row["is_dead"] for row in rows) or None,
            sum(row["saturated"] > 0 for row in rows) or None,
        ))  # fmt: skip
    head = ("group", "n", "mean V", "rms V", "V/rtHz", "dead", "saturated")
    lines += table(head, cells, right=range(1, 7))
    lines.append("")
    lines += [
        f"{name}  {paint(_LINE[level], 'green' if level == 1 else None)}"
        for name, level in levels["lines"].items()
    ]
    for word, color in (("dead", "yellow"), ("saturated", "red")):
        if levels[word]:
            shown = " ".join(map(str, levels[word][:24]))
            more = " ..." if len(levels[word]) > 24 else ""
            lines.append(paint(f"{word}: {shown}{more}", color))
    if levels.get("chosen"):
        lines += ["", *_chosen_lines(levels["chosen"])]
    return [*lines, f"last sample {_stamp(levels['utc_ns'])}  (Ctrl-C ends)"]


def _chosen_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [
        (
            row["channel"], row["name"], f"{row['mean_v']:+.5f}", f"{row['rms_v']:.6f}",
            f"{row['min_v']:+.4f}", f"{row['max_v']:+.4f}",
            None if row["noise_v_rthz"] is None else f"{row['noise_v_rthz']:.3g}",
        )
        for row in rows
    ]  # fmt: skip
    head = ("channel", "name", "mean V", "rms V", "min V", "max V", "V/rtHz")
    return table(head, cells, right=(0, 2, 3, 4, 5, 6))


def trace_lines(told: Mapping[str, Any], paint: Paint = no_paint) -> list[str]:
    """Return the lines of ``das plot`` in a terminal: a bar a point, least and greatest value."""
    if told["utc_ns"] is None:
        return ["no samples"]
    names = [f"{row['channel']} {row['name']}".strip() for row in told["channels"]]
    width = max(len(name) for name in names)
    lines = []
    for name, row in zip(names, told["channels"], strict=True):
        middle = [(a + b) / 2 for a, b in zip(row["low_v"], row["high_v"], strict=True)]
        lines.append(
            f"{name.ljust(width)}  {paint(bars(middle), 'cyan')}  "
            f"{min(row['low_v']):+.5f} to {max(row['high_v']):+.5f} V"
        )
    return [*lines, f"the last {told['seconds']:g} s until {_stamp(told['utc_ns'])}"]


def bars(values: Sequence[float]) -> str:
    """Return numbers as bars between their least and their greatest."""
    low, high = min(values), max(values)
    span = high - low
    if not span:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(7, int((value - low) / span * 8))] for value in values)


def _median(values: Sequence[float]) -> float | None:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


def _stamp(utc_ns: int) -> str:
    from nightjar.times import iso

    return f"{iso(utc_ns, 1)}Z"
