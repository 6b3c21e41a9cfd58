# SPDX-License-Identifier: BSD-3-Clause
"""The three ways to show snapshots: a live screen, lines of what is new, JSON."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nightjar.cli.session import Session, is_terminal
from nightjard.fitswatcher.table import event_line, folder_rows, pattern_lines, snapshot_lines
from nightjard.fitswatcher.watcher import Snapshot, Watcher

if TYPE_CHECKING:
    from rich.console import Console
    from rich.panel import Panel

_BORDER_COLUMNS = 4
_BORDER_LINES = 2
_LOOK_AT_SIZE_S = 0.2
_TERMINATED = 128 + signal.SIGTERM


def watch(session: Session, watcher: Watcher, interval_s: float) -> None:
    """Show the folders until Ctrl-C; piped: a line a new file; with ``--json``: snapshots."""
    if session.is_json:
        while True:
            session.event(watcher.snapshot(), "")
            time.sleep(interval_s)
    elif is_terminal(sys.stdout) and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        _watch_screen(session, watcher, interval_s)
    else:
        _watch_lines(session, watcher, interval_s)


# --- screen -------------------------------------------------------------------------------------


def _watch_screen(session: Session, watcher: Watcher, interval_s: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(no_color=not session.has_color(), highlight=False)
    snapshot: Snapshot | None = None
    try:
        # The other screen of the terminal: a change of its size leaves no half boxes behind.
        with _ended_by_sigterm(), Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                due_s = time.monotonic() + interval_s
                snapshot = watcher.snapshot()
                live.update(panel(snapshot, session, console), refresh=True)
                _wait(live, console, session, snapshot, due_s)
    finally:
        if snapshot is not None:
            console.print(panel(snapshot, session, console, is_whole=True))


def _wait(live: Any, console: Console, session: Session, snapshot: Snapshot, due_s: float) -> None:
    """Return at a monotonic time; draws again where the terminal's size changes."""
    size = console.size
    while (left := due_s - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK_AT_SIZE_S))
        if console.size != size:
            size = console.size
            live.update(panel(snapshot, session, console), refresh=True)


def panel(
    snapshot: Snapshot, session: Session, console: Console, *, is_whole: bool = False
) -> Panel:
    """Return the box with everything in it that fits; `is_whole`: at any height."""
    from rich import box
    from rich.panel import Panel
    from rich.text import Text

    can_draw = console.encoding.lower().startswith("utf")
    lines = snapshot_lines(
        snapshot,
        session.paint,
        width=max(1, console.width - _BORDER_COLUMNS),
        height=None if is_whole else max(1, console.height - _BORDER_LINES),
        ellipsis="…" if can_draw else "~",
    )
    text = Text.from_ansi("\n".join(lines) or "looking")
    text.no_wrap, text.overflow = True, "crop"
    title = f"FITS Watcher - {str(snapshot['time'])[:19]} UTC"
    return Panel(
        text, title=Text(title), box=box.ROUNDED if can_draw else box.ASCII, padding=(0, 1)
    )


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Leave the block, and with it the other screen, where the program is told to end."""

    def end(_number: int, _frame: Any) -> None:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- lines --------------------------------------------------------------------------------------


def _watch_lines(session: Session, watcher: Watcher, interval_s: float) -> None:
    told: set[Any] = set()
    while True:
        snapshot = watcher.snapshot()
        seen = set()
        for key, value, line in news(snapshot):
            seen.add(key)
            if key not in told:
                session.event(value, line)
        told = seen
        time.sleep(interval_s)


def news(snapshot: Snapshot) -> Iterator[tuple[Any, dict[str, Any], str]]:
    """Yield (what makes it new, value, line) of each file and each trouble, oldest first."""
    stamp = str(snapshot["time"])[:19]
    for line in pattern_lines(snapshot):
        yield line, {"problem": line}, f"{stamp}  {line}"
    for folder in snapshot["folders"]:
        path = folder["path"]
        if folder["state"] != "ok":
            words = f"{folder['state']}: {folder['problem']}"
            yield (path, folder["state"]), folder, f"{stamp}  {path}  {words}"
        rows = folder_rows(folder)[len(folder["writing"]) :]
        for row, cells in reversed(list(zip(folder["newest"], rows, strict=True))):
            key = (path, row["name"], row["modified"], row["state"])
            yield key, row, event_line(stamp, path, cells)
