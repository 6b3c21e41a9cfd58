# SPDX-License-Identifier: BSD-3-Clause
"""``fitslog top`` on a terminal: draws the screen, reads keys, asks daemons, sends orders."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nightjar.errors import NightjarError
from nightjarctl.connection import Connection
from nightjarctl.fitslog_keys import Order, keys_of
from nightjarctl.fitslog_screen import Screen

if TYPE_CHECKING:
    from rich.console import Console, ScreenContext

_LOOK_S = 0.25
_KEY_S = 0.1
_ESCAPE_S = 0.03  # the rest of a key's sequence comes at once
_CALL_S = 3.0
_TOLD_S = 8.0  # how long a result stands where the keys are shown else
_REST_S = 600.0  # how long the end of a command is waited for


class Feed:
    """Asks each daemon again and again, and sends orders; the screen never waits.

    Parameters
    ----------
    daemons
        Their connections.
    screen
        Gets snapshots and results.
    """

    def __init__(self, daemons: Sequence[Connection], screen: Screen) -> None:
        self._daemons = list(daemons)
        self._screen = screen
        self._stop = threading.Event()
        self.news = threading.Event()
        """Set when there is something new to be drawn."""
        screen.snapshots = [None] * len(self._daemons)
        screen.reasons = [f"{daemon.name}: asking" for daemon in self._daemons]
        self._threads = [
            threading.Thread(target=self._look, args=(number,), name=f"top-{number}", daemon=True)
            for number in range(len(self._daemons))
        ]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; the loggers go on."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_CALL_S + 1)

    def _look(self, number: int) -> None:
        daemon = self._daemons[number]
        while not self._stop.is_set():
            try:
                snapshot: dict[str, Any] | None = daemon.call(
                    "status", timeout_s=_CALL_S, is_safe=True
                )
                reason = ""
            except NightjarError as error:
                snapshot, reason = None, error.message
            self._screen.snapshots[number] = snapshot
            self._screen.reasons[number] = reason
            self.news.set()
            self._stop.wait(_LOOK_S)
        daemon.close()

    def send(self, order: Order) -> None:
        """Carry an order out in a thread of its own."""
        threading.Thread(target=self._send, args=(order,), name="top-order", daemon=True).start()

    def _send(self, order: Order) -> None:
        daemon = self._daemons[order.daemon]
        try:
            reply = daemon.call(order.command, order.arguments, timeout_s=_CALL_S)
            if reply["pending"]:
                self._tell(f"{reply['message']} ...")
                reply = daemon.operation(str(reply["operation"])).wait(_REST_S)
            self._tell(str(reply["message"]))
        except NightjarError as error:
            self._tell(" - ".join(error.message.splitlines()), is_error=True)
        finally:
            daemon.close()

    def _tell(self, text: str, *, is_error: bool = False) -> None:
        self._screen.told(text, is_error=is_error)
        self.news.set()


@contextmanager
def _keys_at_once(descriptor: int) -> Iterator[None]:
    """Have keys come one by one and unseen, and the terminal as it was afterwards."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read_keys(descriptor: int, timeout_s: float) -> list[str]:
    if not select.select([descriptor], [], [], timeout_s)[0]:
        return []
    data = os.read(descriptor, 256)
    if not data:
        return ["q"]  # the terminal has gone
    if data.endswith(b"\x1b") and select.select([descriptor], [], [], _ESCAPE_S)[0]:
        data += os.read(descriptor, 256)
    return list(keys_of(data))


def run(daemons: Sequence[Connection], text: str, *, has_color: bool) -> None:
    """Show the screen until it is left with q or Ctrl-C."""
    from rich.console import Console

    console = Console(no_color=not has_color, highlight=False)
    screen = Screen(text)
    feed = Feed(daemons, screen)
    descriptor = sys.stdin.fileno()
    with _keys_at_once(descriptor):
        feed.start()
        try:
            with console.screen() as shown:
                _loop(console, shown, screen, feed, descriptor)
        except KeyboardInterrupt:
            return
        finally:
            feed.stop()


def _loop(
    console: Console, shown: ScreenContext, screen: Screen, feed: Feed, descriptor: int
) -> None:
    from rich.console import Group
    from rich.control import Control

    drawn_s, size = 0.0, None
    told, told_s = "", 0.0
    while not screen.is_over:
        keys = _read_keys(descriptor, _KEY_S)
        for key in keys:
            order = screen.press(key)
            if order is not None:
                feed.send(order)
        now_s = time.monotonic()
        if screen.message != told:
            told, told_s = screen.message, now_s
        elif told and now_s - told_s > _TOLD_S:
            screen.told("")
        if keys or feed.news.is_set() or console.size != size or now_s - drawn_s > 1:
            feed.news.clear()
            drawn_s, size = now_s, console.size
            console.control(Control.home())
            shown.update(Group(*screen.lines(size.width, size.height)))
