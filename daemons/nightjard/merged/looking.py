# SPDX-License-Identifier: BSD-3-Clause
"""What ``dasmerge show`` and ``dasmerge status`` tell."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.cli.text import clock_text, health_lines
from nightjar.config.paths import config_names, config_path, read_json
from nightjar.errors import ConfigError
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjar.times import iso
from nightjard.merged.model import status_name
from nightjard.merged.products import reading, start_ns

_MARKS = {"complete": "#", "raw_gaps": "=", "no_pointing": "p", "no_housekeeping": "h",
          "raw_only": "r", "no_raw": "-", "pending": "?", "waiting": "w", "failed": "!",
          "new": "."}  # fmt: skip


def describe(path: Path) -> dict[str, Any]:
    """Return what a merged file tells of its minutes, as plain values."""
    with reading(path) as dataset:
        begin = start_ns(dataset)
        if "minute_status" not in dataset.variables:
            return {
                "file": str(path), "begin": iso(begin), "observation": True,
                "samples": len(dataset.dimensions["time"]),
                "source": str(getattr(dataset, "source_name", "")), "minutes": [],
            }  # fmt: skip
        states = [status_name(int(one)) for one in np.asarray(dataset["minute_status"][...])]
        rows = np.asarray(dataset["minute_reason"][...])
        reasons = [row.tobytes().split(b"\0")[0].decode("utf-8", "replace") for row in rows]
        offsets = np.asarray(dataset["clock_offset"][...], float)
        edges = np.asarray(dataset["clock_edges"][...])
        minutes = [
            {"minute": number, "status": state, "reason": reason,
             "offset_s": float(offset) if np.isfinite(offset) else None,
             "edges": int(count) if count >= 0 else None}
            for number, (state, reason, offset, count)
            in enumerate(zip(states, reasons, offsets, edges, strict=True))
        ]  # fmt: skip
        return {
            "file": str(path), "begin": iso(begin), "observation": False, "minutes": minutes,
            "config_sha256": str(getattr(dataset, "config_sha256", "")),
        }  # fmt: skip


def lines_of(found: dict[str, Any]) -> list[str]:
    """Return a file's description as lines."""
    name = Path(found["file"]).name
    if found["observation"]:
        return [f"{name}: an observation of {found['source'] or 'an unknown source'}, "
                f"{found['samples']} samples from {clock_text(found['begin'])}"]  # fmt: skip
    minutes = found["minutes"]
    counts = Counter(one["status"] for one in minutes)
    counts["not merged"] = counts.pop("new", 0)
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = [f"{name}: {told}", f"   |{''.join(_MARKS[one['status']] for one in minutes)}|"]
    known = [one for one in minutes if one["offset_s"] is not None]
    if known:
        first, last = known[0], known[-1]
        text = f"   clock of the DAS minus the telescope's: {first['offset_s']:+.4f} s"
        if last is not first:
            drift = (last["offset_s"] - first["offset_s"]) / (
                60 * (last["minute"] - first["minute"])
            )
            text += f" to {last['offset_s']:+.4f} s, {drift * 1e6:+.2f} ppm"
        lines.append(text)
    lines += [f"   {one['minute']:02d} {one['status']}: {one['reason']}"
              for one in minutes if one["reason"]]  # fmt: skip
    return lines


def ask_daemon(
    identity: str | None, timeout_s: float, command: str = "status", **arguments: Any
) -> dict[str, Any]:
    """Return what the merge daemon answers to a command, its status by default.

    Raises
    ------
    ConfigError
        Which one is not clear.
    Unreachable
        It does not answer.
    NightjarError
        It refuses, or failed.
    """
    names = config_names("merged")
    if identity is None and len(names) == 1:
        identity = names[0]
    if identity is None:
        raise ConfigError(f"which merge daemon? configured: {', '.join(names) or 'none'}; --id ID")
    if identity in names:
        path = config_path("merged", identity)
        entry = Registry.find(path).daemon(str(read_json(path).get("daemon")))
    else:
        entry = Registry.find().daemon(identity)
    client = Client(entry, timeout_s)
    try:
        found: dict[str, Any] = client.call(command, arguments, is_safe=True)
    finally:
        client.close()
    return found


def minutes_lines(found: dict[str, Any]) -> list[str]:
    """Return what became of a day's minutes: a row of marks an hour, then what is not complete."""
    minutes = {one["minute"]: one for one in found["minutes"]}
    if not minutes:
        return [f"no raw minute of {found['night']}, and nothing merged"]
    counts = Counter(one["status"] for one in minutes.values())
    lines = [f"{found['night']}: " + ", ".join(f"{n} {state}" for state, n in counts.items())]
    for hour in sorted({minute // 60 for minute in minutes}):
        row = (minutes.get(60 * hour + one, {}).get("status") for one in range(60))
        lines.append(f"   {hour:02d} |{''.join(_MARKS.get(one or 'new', '!') for one in row)}|")
    return lines + [
        f"   {minute:04d} {one['status']}: {one['reason']}"
        for minute, one in sorted(minutes.items()) if one["reason"]
    ]  # fmt: skip


def status_lines(status: dict[str, Any]) -> list[str]:
    """Return the daemon's status as lines."""
    lag = "" if status["lag_s"] is None else f", {status['lag_s']:.1f} s after it was over"
    newest = status["newest_merged"]
    lines = [
        f"Merge is {status['state']}",
        f"   newest raw minute {clock_text(status['newest_raw'])}, newest merged "
        f"{clock_text(newest)}{lag}",
        f"   {status['merged']} minutes merged, {status['again']} of them again; files in "
        f"{status['merged_root']}",
    ]
    last = status["last"]
    if last is not None:
        offset = "" if last["offset_s"] is None else f", clock {last['offset_s']:+.4f} s"
        why = f": {last['reason']}" if last["reason"] else ""
        lines.append(f"   last: {last['minute']} {last['status']}{offset}{why}")
    for one in status["waiting"]:
        missing = " and ".join(one["missing"])
        lines.append(f"   {one['minute']} waits for {missing}, {one['waited_s']:.0f} s")
    lines += [f"   {one['minute']} failed: {one['reason']}" for one in status["failed"]]
    return lines + health_lines(status)
