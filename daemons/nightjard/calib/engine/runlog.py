# SPDX-License-Identifier: BSD-3-Clause
"""The log of a run and its progress block, in the shape that analysts know.

::

    2019-04-01 14:27:37,934 - INFO - Pipeline sleeping for 120 seconds...

Times are UTC. Records are parted by an empty line, their texts wrapped at 80 columns.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nightjar import __version__
from nightjar.clock import Clock
from nightjar.errors import StorageError, storage_code
from nightjar.times import iso

WIDTH = 80
_RULE = "#" * 70
_GAP = ["_"] * 4


@dataclass(frozen=True)
class Header:
    """What log and progress block say of the run."""

    pipeline_id: str
    block: str
    chamber: str
    tests: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return it as lines."""
        return [
            f"Pipeline ID: {self.pipeline_id}", f"BLOCK ID: {self.block}",
            f"Chamber: {self.chamber}", f"nightjar version: {__version__}",
            f"Tasks: {list(self.tests)}",
        ]  # fmt: skip


@dataclass(frozen=True)
class Done:
    """A test that has ended, as the progress block tells of it."""

    test: str
    minutes: float
    obsids: tuple[int, int] = (-1, -1)
    flags: tuple[str, ...] = ()
    has_errors: bool = False

    def lines(self) -> list[str]:
        """Return it as lines."""
        lines = [self.test, f"Executed in {self.minutes:.1f} minutes"]
        if self.has_errors:
            lines.append("Executed with Error(s)")
        lines.append(f"OBSIDs range = [{self.obsids[0]},{self.obsids[1]}]")
        return [*lines, f"Raised Flags = {list(self.flags)}"]


def summary_lines(header: Header, tests: Iterable[Done]) -> list[str]:
    """Return the progress block."""
    lines = [*_GAP, _RULE, *header.lines()]
    for test in tests:
        lines += ["_", *test.lines()]
    return [*lines, *_GAP, _RULE]


def pipeline_id(now_ns: int, tag: str = "", *, is_debug: bool = False) -> str:
    """Return the name of a run: ``FM20190401_141840_D00``, ``PipeDebug_D00``."""
    if is_debug:
        return f"PipeDebug{tag}"
    return "FM" + iso(now_ns, 0).replace("-", "").replace(":", "").replace("T", "_") + tag


class RunLog:
    """Writes records to the log file, and to whoever else listens.

    Parameters
    ----------
    path
        Of the file; None: no file is written.
    listener
        Gets the text of every record.
    complain
        Told once that the log cannot be written any more: the analyses go on without it.

    Attributes
    ----------
    last
        Lines of the last record.
    """

    def __init__(
        self, path: Path | None, clock: Clock, listener: Callable[[str], None] | None = None,
        complain: Callable[[str], None] = lambda _text: None,
    ) -> None:  # fmt: skip
        self.path = path
        self._clock = clock
        self._listener = listener
        self._complain = complain
        self._file: int | None = None
        self.last: list[str] = []
        if path is not None:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._file = os.open(path, flags, 0o644)
            except OSError as error:
                raise StorageError(
                    f"cannot write the log {path}: {error.strerror}; give another --log-folder",
                    code=storage_code(error), path=str(path),
                ) from error  # fmt: skip

    def write(self, text: str | Sequence[str]) -> None:
        """Write a record; of several lines the first stands beside the time."""
        lines = self.last = [text] if isinstance(text, str) else list(text)
        wrapped = [part for line in lines for part in _wrap(line)]
        stamp = iso(self._clock.now_ns(), 3).replace("T", " ").replace(".", ",")
        record = f"{stamp} - INFO - " + "\n".join(wrapped) + "\n\n"
        if self._file is not None:
            self._append(self._file, record.encode())
        if self._listener is not None:
            self._listener("\n".join(lines))

    def _append(self, file: int, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(file, view) :]
        except OSError as error:
            self._complain(f"the log {self.path} is not kept any more: {error.strerror}")
            self._file = None
            os.close(file)

    def close(self) -> None:
        """Close the file, all of it on the disk."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a disk that is full: what is there is there
                os.fsync(self._file)
            os.close(self._file)
            self._file = None


def _wrap(line: str) -> list[str]:
    wrapped: list[str] = []
    for part in line.splitlines() or [""]:
        wrapped += textwrap.wrap(
            part, WIDTH, break_long_words=False, break_on_hyphens=False, drop_whitespace=True,
            replace_whitespace=False,
        ) or [""]  # fmt: skip
    return wrapped
