# SPDX-License-Identifier: BSD-3-Clause
"""What ``telog`` prints, as lines of text: pure functions, nothing is printed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nightjar.cli.text import (
    INDENT,
    Paint,
    clock_text,
    health_lines,
    no_paint,
    size_text,
    table,
)

_COLORS = {"RUNNING": "green", "WAITING": "yellow", "STOPPED": "yellow", "CLOSING": "yellow"}
_STATES = {"whole": "green", "partial": "yellow", "damaged": "red", "seen": "yellow"}
_STREAMS = ("raw", "pointing", "housekeeping")


def _age(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s old"


def status_lines(status: Mapping[str, Any], paint: Paint = no_paint) -> list[str]:
    """Return the lines of ``telog status``."""
    state = str(status["state"])
    reason = f": {status['reason']}" if status["reason"] else ""
    lines = [f"Telescope's logs are {paint(state, _COLORS.get(state), bold=True)}{reason}"]
    lines += _pointing_lines(status["pointing"], status["ring"], paint)
    lines += _housekeeping_lines(status["housekeeping"], paint)
    lines += _raw_lines(status["raw"], paint)
    behind = [f"{name} {lag:.0f} s" for name, lag in status["lag"].items() if lag > 5]
    if behind:
        lines.append(paint(f"Behind: {', '.join(behind)}", "yellow"))
    dead = [one["name"] for one in status["helpers"] if not one["is_running"]]
    if dead:
        lines.append(paint(f"Helpers that ended: {', '.join(dead)}", "red"))
    rooms = {
        f"{size_text(free)}" if free is not None else paint("not there", "red")
        for free in status["free_bytes"].values()
    }
    if rooms:
        lines.append(f"Free: {', '.join(sorted(rooms))}")
    if status["quarantined"]:
        lines.append(f"Put aside: {status['quarantined']} files (telog quarantine)")
    lines += health_lines(status, paint)
    return [INDENT + line for line in lines]


def _pointing_lines(
    pointing: Mapping[str, Any] | None, ring: Mapping[str, Any] | None, paint: Paint
) -> list[str]:
    if pointing is None:
        return ["Pointing: not configured"]
    source = f", by {pointing['source']}" if pointing["source"] else ""
    lines = [f"Pointing: {_age(pointing['age_s'])}{source}"]
    counts = [
        f"{pointing.get(key, 0)} {words}"
        for key, words in (
            ("whole", "whole minutes"), ("partial", "partial"), ("duplicates", "duplicates"),
            ("conflicts", "contradictions"), ("gaps", "gaps"), ("wrong_time", "of a wrong time"),
        )
        if pointing.get(key)
    ]  # fmt: skip
    if counts:
        lines.append(f"  received: {', '.join(counts)}")
    if ring is not None and "copied" in ring:
        text = f"  ring {ring['folder']}: {ring['copied']} copied, {ring['completed']} completed"
        for key in ("stale", "damaged"):
            if ring[key]:
                text += ", " + paint(f"{ring[key]} {key}", "yellow")
        if ring["behind"]:  # what was before these logs began is not their loss
            first = clock_text(ring["behind"][0])
            text += ", " + paint(f"{len(ring['behind'])} not whole since {first}", "yellow")
        lines.append(text)
    return lines


def _housekeeping_lines(value: Mapping[str, Any] | None, paint: Paint) -> list[str]:
    if value is None:
        return ["Housekeeping: not configured"]
    text = f"Housekeeping: {_age(value['age_s'])}, line {value['seq']}"
    if value.get("gaps"):
        text += ", " + paint(f"{value['gaps']} gaps", "yellow")
    lines = [text]
    telescope, rotator = value["telescope"], value["rotator"]
    if telescope is not None:
        state = f"{telescope['latency_ms']:.1f} ms" if telescope["is_ok"] else paint(
            f"does not answer: {telescope['last_error']}", "red"
        )
        lines.append(f"  telescope ({telescope['driver']}): {state}")
    if rotator is not None:
        state = _age(rotator["age_s"]) if rotator["is_ok"] else paint(
            f"does not answer: {rotator['last_error']}", "red"
        )
        lines.append(f"  rotator ({rotator['daemon']}): {state}")
    return lines


def _raw_lines(value: Mapping[str, Any] | None, paint: Paint) -> list[str]:
    if value is None:
        return ["Raw files: written on this machine"]
    if "copied" not in value:
        return [f"Raw files: from {value['source']}"]
    text = (
        f"Raw files: {value['copied']} copied from {value['source']} ({size_text(value['bytes'])})"
    )
    if value["lag_s"] is not None:
        text += f", the last {value['lag_s']:.1f} s after its minute"
    if value["waiting"]:
        text += ", " + paint(f"{value['waiting']} wait", "yellow")
    if value["damaged"]:
        text += ", " + paint(f"{value['damaged']} damaged", "red")
    return [text]


def one_line(status: Mapping[str, Any]) -> str:
    """Return the status in one line."""
    parts = [str(status["state"])]
    for key in ("pointing", "housekeeping"):
        if status[key] is not None:
            parts.append(f"{key} {_age(status[key]['age_s'])}")
    if status["raw"] is not None:
        parts.append(f"raw {status['raw'].get('copied', 0)} copied")
    parts += [f"{name} {lag:.0f} s behind" for name, lag in status["lag"].items() if lag > 5]
    level = status["health"]["level"]
    if level != "OK":
        parts.append(f"{level}: {status['health']['reason']}")
    return "  ".join(parts)


def started_lines(result: Mapping[str, Any]) -> list[str]:
    """Return what ``telog start`` has reached."""
    names = ", ".join(one["name"] for one in result["helpers"])
    lines = [
        f"running: {names}",
        f"pointing {_age(result['pointing_age_s'])}, housekeeping "
        f"{_age(result['housekeeping_age_s'])}",
    ]
    lines += [
        f"{one['name']}: {one['last_error']}" for one in result["helpers"] if one["last_error"]
    ]
    return lines


def recovered_text(result: Mapping[str, Any]) -> str:
    """Return what ``telog recover`` has found, in one line."""
    parts = []
    for key, words in (
        ("copied", "copied"), ("completed", "completed"), ("present", "were here"),
        ("absent", "not in the ring"), ("stale", "of another day"), ("damaged", "damaged"),
        ("locked", "being written"),
    ):  # fmt: skip
        if result.get(key):
            parts.append(f"{result[key]} {words}")
    if result.get("raw") is not None:
        parts.append(f"{result['raw']} raw files copied")
    if result.get("raw_trouble"):
        parts.append(str(result["raw_trouble"]))
    return f"{result['hours']:.1f} h back: {', '.join(parts) or 'nothing'}"


def telescope_lines(known: Mapping[str, Any]) -> list[str]:
    """Return the lines of ``telog telescope``."""

    def number(key: str, digits: int = 4) -> str | None:
        return None if known[key] is None else f"{known[key]:.{digits}f}"

    rows = [
        ("source", known["source_name"] or None),
        ("RA, Dec of the epoch", _pair(number("source_ra_deg"), number("source_dec_deg"))),
        ("apparent RA, Dec", _pair(number("apparent_ra_deg"), number("apparent_dec_deg"))),
        ("azimuth, elevation", _pair(number("az_deg"), number("el_deg"))),
        ("parallactic angle", number("pa_deg")),
        ("sidereal time, h", number("lst_h", 5)),
        ("observation", known["observation_number"]),
        ("flags", None if known["flags"] is None else f"{known['flags']:#010x}"),
        ("age of pointing", _age(known["pointing_age_s"])),
        ("age of housekeeping", _age(known["age_s"])),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name.ljust(width)}  {'-' if value is None else value}" for name, value in rows]


def _pair(one: str | None, other: str | None) -> str | None:
    return None if one is None and other is None else f"{one or '-'} {other or '-'}"


def spans(minutes: Sequence[int]) -> str:
    """Return minutes of the day as spans: ``0100-0104 0107``."""
    found: list[list[int]] = []
    for minute in minutes:
        if found and minute == found[-1][1] + 1:
            found[-1][1] = minute
        else:
            found.append([minute, minute])
    return " ".join(f"{a:04d}" if a == b else f"{a:04d}-{b:04d}" for a, b in found)


def minute_lines(
    value: Mapping[str, Any], paint: Paint = no_paint, *, everything: bool = False
) -> list[str]:
    """Return the lines of ``telog minutes``: a row per hour, holes named below it."""
    lines = [f"{value['day']}  whole minutes of those that are over"]
    head = ("hour", *_STREAMS, "")
    cells = [
        (
            f"{row['hour']:02d}", *(f"{row[name]['whole']}/{row['minutes']}" for name in _STREAMS),
            "complete" if row["is_complete"] else "",
        )
        for row in value["hours"]
    ]  # fmt: skip
    rows = table(head, cells, right=(1, 2, 3))
    lines.append(rows[0])
    begun = 0 if everything else _first_with_something(value["hours"])
    if begun:
        last = f"{value['hours'][begun - 1]['hour']:02d}"
        lines.append(f"{'00' if begun == 1 else f'00 to {last}'}: nothing")
    for text, row in list(zip(rows[1:], value["hours"], strict=True))[begun:]:
        lines.append(text)
        for name in _STREAMS:
            for key, color in (("missing", "red"), ("partial", "yellow")):
                found = row[name][key]
                if found and (everything or len(found) < row["minutes"]):
                    shown = " ".join(f"{m:04d}" for m in found) if everything else spans(found)
                    lines.append(f"      {paint(f'{name} {key}', color)}: {shown}")
    if not value["hours"]:
        lines.append("that day has not begun")
    return lines


def _first_with_something(hours: Sequence[Mapping[str, Any]]) -> int:
    """Return the first hour of which anything is here: before it, nothing ran. 0 for none."""
    for index, row in enumerate(hours):
        if any(row[name]["whole"] or row[name]["partial"] for name in _STREAMS):
            return index
    return 0


def file_lines(files: Sequence[Mapping[str, Any]], paint: Paint = no_paint) -> list[str]:
    """Return the lines of ``telog files``."""
    if not files:
        return ["the ledger has no such file"]
    cells = [
        (
            one["day"], one["name"], one["stream"], one["state"],
            None if one["size"] is None else size_text(one["size"]), one["crc32"],
            clock_text(one["copied"]), one["source"], one["reason"],
        )
        for one in files
    ]  # fmt: skip
    head = ("day", "name", "stream", "state", "size", "CRC-32", "copied", "source", "")
    lines = table(head, cells, right=(4,))
    return [lines[0], *(
        text if one["state"] not in _STATES else text.replace(
            f"  {one['state']} ", f"  {paint(one['state'], _STATES[one['state']])} ", 1
        )
        for text, one in zip(lines[1:], files, strict=True)
    )]  # fmt: skip


def quarantine_lines(value: Mapping[str, Any]) -> list[str]:
    """Return the lines of ``telog quarantine``."""
    if not value["files"]:
        return [f"nothing was put aside in {value['folder']}"]
    return [f"in {value['folder']}:", *(
        f"{clock_text(one['time'])}  {one['file']}  {one['reason']}" for one in value["files"]
    )]  # fmt: skip
