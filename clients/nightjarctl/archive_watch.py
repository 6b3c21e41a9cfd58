# SPDX-License-Identifier: BSD-3-Clause
"""``archive watch``: what the pipeline does, again and again."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nightjar.errors import TimedOut, Unreachable
from nightjarctl import app
from nightjarctl.archive_tables import progress_lines, rate_text
from nightjarctl.connection import Connection

Progress = list[dict[str, Any]]


def watch_nights(
    session: app.Session, daemon: Connection, interval_s: float, *, until_idle: bool
) -> None:
    """Show what runs until Ctrl-C, the deadline of ``--timeout``, or nothing runs any more.

    A daemon that goes away is shown as such and waited for.
    """
    if session.is_json or not app.is_terminal(sys.stdout):
        teller = _Teller(session)
        for progress, reason in _looks(session, daemon, interval_s, until_idle):
            teller.tell(progress, reason)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not session.has_color(), highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        for progress, reason in _looks(session, daemon, interval_s, until_idle):
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            lines = [f"archive  {stamp} UTC  (Ctrl-C ends)"]
            lines += [reason] if progress is None else progress_lines(progress, session.paint)
            live.update(Text.from_ansi("\n".join(lines)), refresh=True)


def _looks(
    session: app.Session, daemon: Connection, interval_s: float, until_idle: bool
) -> Iterator[tuple[Progress | None, str]]:
    """Return what is seen at each look, and why nothing is."""
    end = math.inf if session.timeout_s is None else time.monotonic() + session.timeout_s
    while True:
        progress: Progress | None = None
        reason = ""
        try:
            # --timeout ends the watch; each look has the usual time.
            progress = daemon.call(
                "nights_progress", timeout_s=app.DEFAULT_TIMEOUT_S, is_safe=True
            )
        except (Unreachable, TimedOut) as error:
            reason = error.message
        yield progress, reason
        if until_idle and progress == []:
            return
        left_s = end - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(interval_s, left_s))


class _Teller:
    """Prints one line for each that runs, where there is news."""

    def __init__(self, session: app.Session) -> None:
        self._session = session
        self._told: Any = None

    def tell(self, progress: Progress | None, reason: str) -> None:
        """Print what was seen if it differs from the last time."""
        lines = [reason] if progress is None else [one_line(one) for one in progress]
        news: Any = {"progress": progress, "reason": reason} if self._session.is_json else lines
        if news == self._told:
            return
        self._told = news
        if self._session.is_json:
            self._session.event(news, "")
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        for line in lines or ["nothing runs"]:
            self._session.event(None, f"{stamp}  {line}")


def one_line(one: Mapping[str, Any]) -> str:
    """Return what runs in one line, for a pipe."""
    words: Sequence[str] = [one["night"] or one["command"], one["family"] or "", one["step"]]
    fraction = "" if one["fraction"] is None else f"{100 * one['fraction']:.0f} %"
    rates = rate_text(one["frames_per_s"], one["bytes_per_s"])
    return "  ".join(part for part in (*words, fraction, rates, str(one["text"])) if part)
