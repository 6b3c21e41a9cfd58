# SPDX-License-Identifier: BSD-3-Clause
"""Keys, forms and orders of ``fitslog top``: what a person typed becomes a command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from nightjar.api.fitslog import MAX_CUBE_FRAMES

GREY = "bright_black"
HELP = (
    "Marks: ● logger process alive, ● prepared, ● saving; grey where not.",
    "",
    "up down  choose a stream or a group        space  start saving, or pause it now",
    "p        prepare (a form)                  f      finish the last cube, then end",
    "c        cube length    + -  one step      n      next cube now",
    "s        stop: release the logger          K      stop --kill: restart the logger",
    "t        data type                         q      quit; the loggers go on",
    "",
    "A group's line commands all its streams at once, on the common rule.",
    "Press any key.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Order:
    """A command to be sent.

    Attributes
    ----------
    daemon
        Number of the daemon.
    command, arguments
        As in its table.
    """

    daemon: int
    command: str
    arguments: dict[str, Any]


@dataclass
class Entry:
    """A line of text that a person edits, or chooses.

    Attributes
    ----------
    label, text
        What is shown.
    is_number
        The first digit takes the place of what stood there.
    choices
        What it may be; any text where there are none.
    """

    label: str
    text: str
    choices: tuple[str, ...] = ()
    is_number: bool = False
    _is_fresh: bool = True

    def press(self, key: str) -> None:
        """Take a key."""
        if self.choices:
            step = {"left": -1, "right": 1, " ": 1}.get(key, 0)
            self.text = self.choices[(self.choices.index(self.text) + step) % len(self.choices)]
            return
        if key == "backspace":
            self.text = self.text[:-1]
        elif key == "clear":
            self.text = ""
        elif len(key) == 1 and key.isprintable():
            self.text = key if self.is_number and self._is_fresh else self.text + key
        self._is_fresh = False


@dataclass
class Form:
    """Questions in the place of the details; `done` makes the order of the answers."""

    title: str
    entries: list[Entry]
    done: Callable[[list[str]], Order]
    at: int = 0

    def press(self, key: str) -> Order | None:
        """Take a key; return the order when the last question is answered.

        Raises
        ------
        ValueError
            An answer cannot be used.
        """
        if key in ("down", "tab") or (key == "enter" and self.at < len(self.entries) - 1):
            self.at = (self.at + 1) % len(self.entries)
        elif key == "up":
            self.at = (self.at - 1) % len(self.entries)
        elif key == "enter":
            return self.done([entry.text for entry in self.entries])
        else:
            self.entries[self.at].press(key)
        return None

    def lines(self) -> list[Text]:
        """Return it as it is shown."""
        lines = [Text(self.title, style="bold")]
        for index, entry in enumerate(self.entries):
            is_here = index == self.at
            shown = f"< {entry.text} >" if entry.choices else entry.text
            line = Text(f"  {entry.label + ':':34} ")
            mark = "_" if is_here and not entry.choices else ""
            line.append(f"{shown}{mark}", style="reverse" if is_here else "")
            lines.append(line)
        keys = "left right: choose, " if any(entry.choices for entry in self.entries) else ""
        last = "Enter: next, at the end go" if len(self.entries) > 1 else "Enter: go"
        lines.append(Text(f"  {keys}{last}; Esc: leave it", style=GREY))
        return lines


def number(text: str, low: int = 1) -> int:
    """Return a whole number that a person typed.

    Raises
    ------
    ValueError
        It is none, or below `low`.
    """
    if not text.lstrip("-").isdigit() or int(text) < low:
        raise ValueError(f"must be a whole number from {low}, not {text!r}")
    return int(text)


def step(length: int, up: bool) -> int:
    """Return the next of 1, 2, 2.5, 5 x 10^n above or below a cube length."""
    tens: list[int] = [10**power for power in range(8)]
    every = {twice * ten // 2 for ten in tens for twice in (2, 4, 5, 10)}
    steps = sorted(each for each in every if each <= MAX_CUBE_FRAMES)
    if up:
        return next((each for each in steps if each > length), steps[-1])
    return next((each for each in reversed(steps) if each < length), steps[0])


def keys_of(data: bytes) -> Sequence[str]:
    """Return the keys in what a terminal sent: letters, up, down, enter, escape ..."""
    named = {
        b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "right", b"\x1b[D": "left",
        b"\x1bOA": "up", b"\x1bOB": "down", b"\x1bOC": "right", b"\x1bOD": "left",
        b"\r": "enter", b"\n": "enter", b"\t": "tab", b"\x7f": "backspace", b"\x08": "backspace",
        b"\x15": "clear",
    }  # fmt: skip
    found: list[str] = []
    while data:
        name = next((key for key in named if data.startswith(key)), None)
        if name is not None:
            found.append(named[name])
            data = data[len(name) :]
        elif data == b"\x1b":
            return [*found, "escape"]
        elif data[:1] == b"\x1b":  # a key that means nothing here
            end = next((i for i, c in enumerate(data[2:], 2) if 0x40 <= c <= 0x7E), len(data) - 1)
            data = data[end + 1 :]
        else:
            letter = data[:1].decode("ascii", "ignore")
            found += [letter] if letter.isprintable() and letter else []
            data = data[1:]
    return found
