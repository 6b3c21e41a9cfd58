# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar status`` and ``nightjar watch``: every daemon of the site in one table."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nightjar.cli.session import Session, is_terminal
from nightjar.cli.text import STATE_COLORS, Paint, no_paint, size_text, table
from nightjar.config.paths import registry_path
from nightjar.errors import ConfigError, NightjarError
from nightjar.registry import Entry, Registry
from nightjar.rpc.client import Client
from nightjard.site.configured import all_configured

HEADINGS = ("daemon", "runs", "where", "summary", "state", "health", "more")
_LOOK_TIMEOUT_S = 1.0
_CHANGING = (
    "time", "free_bytes", "temperature", "cooler_power", "exposure_progress", "counter", "newest",
    "hardware_id", "frames_published", "sequence_frame_count", "rate", "data_rate",
    "frame_cost_us",
)  # fmt: skip


def daemons_to_watch() -> list[tuple[str, Entry]]:
    """Return what each daemon runs (``camd test``, or what it is about) and where it is.

    Those that are configured here first; then the others of the registry.
    """
    chosen = all_configured()
    registry = Registry.find(chosen[0].path if chosen else None)
    found: dict[str, tuple[str, Entry]] = {}
    for one in chosen:
        try:
            entry = one.entry(registry)
        except ConfigError:
            continue  # check-config and doctor say what is wrong with it
        found[entry.name] = (one.label, entry)
    if not found:
        if not registry.daemons:
            raise ConfigError(f"{registry_path()} has no daemons")
        found = {name: (entry.about, entry) for name, entry in registry.daemons.items()}
    return list(found.values())


def look(entry: Entry, timeout_s: float = _LOOK_TIMEOUT_S) -> dict[str, Any]:
    """Return a daemon's snapshot; ``{"summary": "OFFLINE", "reason": ...}`` where it is away."""
    client = Client(entry, timeout_s)
    try:
        snapshot: dict[str, Any] = client.call("status")
        return snapshot
    except NightjarError as error:
        return {"summary": "OFFLINE", "reason": error.message}
    finally:
        client.close()


def look_at_all(
    daemons: Sequence[tuple[str, Entry]], timeout_s: float = _LOOK_TIMEOUT_S
) -> dict[str, dict[str, Any]]:
    """Return the snapshots by registered name; all are asked at the same time."""
    with ThreadPoolExecutor(max(1, min(16, len(daemons)))) as pool:
        snapshots = pool.map(lambda each: look(each[1], timeout_s), daemons)
        return {entry.name: seen for (_, entry), seen in zip(daemons, snapshots, strict=True)}


def more(snapshot: Mapping[str, Any]) -> str:
    """Return what else is worth a column: temperature, frames, messages, or the trouble."""
    health = snapshot.get("health") or {}
    if snapshot.get("reason"):
        return str(snapshot["reason"])
    words = []
    if snapshot.get("mode") == "stream" and snapshot.get("shape"):
        rows, columns = snapshot["shape"]
        words.append(f"{snapshot['crop'] or 'free'} {columns} x {rows}")
        words.append(f"{round(snapshot['rate'], 3):.10g} Hz")
    elif snapshot.get("temperature") is not None:
        words.append(f"{snapshot['temperature']:.1f} C {snapshot.get('cooler_mode')}")
    if snapshot.get("sequence_frame_limit") and snapshot.get("operation"):
        words.append(
            f"frames {snapshot.get('sequence_frame_count')} / {snapshot['sequence_frame_limit']}"
        )
    if snapshot.get("frames_lost"):
        words.append(f"{snapshot['frames_lost']} LOST")
    waiting = snapshot.get("waiting")
    if waiting:
        words.append(f"{len(waiting) if isinstance(waiting, list) else waiting} waiting")
    if snapshot.get("angle_deg") is not None:
        words.append(f"{snapshot['angle_deg']:.2f} deg")
    if snapshot.get("offset_s") is not None:
        words.append(f"clock {snapshot['offset_s']:+.3f} s")
    if snapshot.get("night"):
        words.append(f"night {snapshot['night']}")
    if snapshot.get("messages") is not None:
        words.append(f"{snapshot['messages']} messages")
    free = snapshot.get("free_bytes") or (snapshot.get("disk") or {}).get("free_bytes")
    if isinstance(free, dict):  # of several folders the one with the least room
        free = min((one for one in free.values() if one is not None), default=None)
    if free is not None:
        words.append(f"{size_text(free)} free")
    if health.get("reason"):
        words.append(str(health["reason"]))
    return ", ".join(words)


def status_lines(
    daemons: Sequence[tuple[str, Entry]],
    snapshots: Mapping[str, Mapping[str, Any]],
    paint: Paint = no_paint,
) -> list[str]:
    """Return the table, one line a daemon."""
    rows = []
    for runs, entry in daemons:
        seen = snapshots[entry.name]
        level = str((seen.get("health") or {}).get("level", "-"))
        rows.append(
            (
                entry.name, runs, f"{entry.address}:{entry.port}", seen.get("summary"),
                seen.get("state") or "-", level, more(seen),
            )
        )  # fmt: skip
    lines = table(HEADINGS, rows)
    coloured = lines[:1]
    for line, row in zip(lines[1:], rows, strict=True):
        text = line
        for word in (str(row[3]), str(row[5])):
            if word in STATE_COLORS:
                text = text.replace(f" {word} ", f" {paint(word, STATE_COLORS[word])} ", 1)
        coloured.append(text)
    return coloured


def show_status(session: Session) -> int:
    """Print the table once; returns 0 where every daemon answers, else 5."""
    daemons = daemons_to_watch()
    snapshots = look_at_all(daemons, session.timeout_s or _LOOK_TIMEOUT_S)
    session.result(snapshots, status_lines(daemons, snapshots, session.paint))
    missing = any(seen["summary"] == "OFFLINE" for seen in snapshots.values())
    return 5 if missing else 0


def watch(session: Session, interval_s: float) -> None:
    """Show the table until Ctrl-C; piped, or with ``--json``: what changes, a line a daemon."""
    daemons = daemons_to_watch()
    if session.is_json or not is_terminal(sys.stdout):
        _watch_lines(session, daemons, interval_s)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not session.has_color(), highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            snapshots = look_at_all(daemons)
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            lines = [f"{stamp} UTC  (Ctrl-C ends)"]
            lines += status_lines(daemons, snapshots, session.paint)
            text = Text.from_ansi("\n".join(lines))
            text.no_wrap, text.overflow = True, "ellipsis"
            live.update(text, refresh=True)
            time.sleep(interval_s)


def _watch_lines(
    session: Session, daemons: Sequence[tuple[str, Entry]], interval_s: float
) -> None:
    told: dict[str, Any] = {}
    while True:
        for name, seen in look_at_all(daemons).items():
            news = {key: value for key, value in seen.items() if key not in _CHANGING}
            if not session.is_json:
                level = (seen.get("health") or {}).get("level")
                news = {"summary": seen["summary"], "state": seen.get("state"), "health": level}
            if told.get(name) != news:
                told[name] = news
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
                words = (stamp, name, seen["summary"], seen.get("state") or "", more(seen))
                session.event({"daemon": name, **seen}, "  ".join(map(str, words)).rstrip())
        time.sleep(interval_s)
