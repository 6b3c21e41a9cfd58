# SPDX-License-Identifier: BSD-3-Clause
"""How far a test is, in one line of a terminal: fraction, stage, how long still."""

from __future__ import annotations

import shutil
from typing import TextIO

from nightjar.cli.session import is_terminal
from nightjar.clock import NS_PER_S, Clock
from nightjar.times import duration_text

_INTERVAL_NS = NS_PER_S // 5
_MIN_FRACTION = 0.02  # before that an estimate is a guess


class ProgressLine:
    """Draws over itself; silent where the stream is no terminal."""

    def __init__(self, stream: TextIO, clock: Clock, *, is_wanted: bool = True) -> None:
        self._stream = stream
        self._clock = clock
        self._is_on = is_wanted and is_terminal(stream)
        self._started_ns = clock.monotonic_ns()
        self._drawn_ns = -_INTERVAL_NS
        self._width = 0
        self._test = ""

    def begin(self, test: str) -> None:
        """Begin with a test."""
        self._test = test
        self._started_ns = self._clock.monotonic_ns()
        self._drawn_ns = self._started_ns - _INTERVAL_NS

    def update(self, fraction: float, stage: str) -> None:
        """Tell how far it is, 0 to 1, and what is being done."""
        now_ns = self._clock.monotonic_ns()
        if not self._is_on or now_ns - self._drawn_ns < _INTERVAL_NS:
            return
        self._drawn_ns = now_ns
        text = f"{self._test}  {100 * fraction:3.0f} %  {stage}"
        if fraction >= _MIN_FRACTION:
            spent_s = (now_ns - self._started_ns) / NS_PER_S
            text += f"  {duration_text(spent_s * (1 - fraction) / fraction)} left"
        room = shutil.get_terminal_size().columns - 1
        self._draw(text[:room])

    def clear(self) -> None:
        """Take the line away, so that another may be printed."""
        if self._is_on and self._width:
            self._draw("")

    def _draw(self, text: str) -> None:
        self._stream.write("\r" + text.ljust(self._width) + ("" if text else "\r"))
        self._stream.flush()
        self._width = len(text)
