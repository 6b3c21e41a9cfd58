# SPDX-License-Identifier: BSD-3-Clause
"""A program on a pseudo-terminal: what a person would type and see."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from types import TracebackType

_CONTROL = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>])")


class Terminal:
    """Runs ``python -m MODULE ARGUMENTS`` on a terminal of 80 x 24."""

    def __init__(self, module: str, *arguments: str, rows: int = 24, columns: int = 80) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
            env=os.environ | {"TERM": "xterm-256color"}, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.said = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._ours)

    def type(self, text: str) -> None:
        """Type."""
        os.write(self._ours, text.encode())

    def expect(self, text: str, timeout_s: float = 15.0) -> str:
        """Wait until a text is shown after what was awaited before; return what came with it."""
        deadline = time.monotonic() + timeout_s
        while text not in self.said:
            if not self._read(max(0.0, deadline - time.monotonic())):
                raise AssertionError(f"{text!r} was not shown; seen: {self.said!r}")
        before, _, self.said = self.said.partition(text)
        return before + text

    def wait(self, timeout_s: float = 15.0) -> int:
        """Wait for the program's end, reading all that it says; return its exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read(max(0.0, deadline - time.monotonic())):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def modes(self) -> list[int]:
        """Return whether the terminal echoes and edits lines, as numbers to be compared."""
        return [int(flags) for flags in termios.tcgetattr(self._ours)[:4]]

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._ours], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # nobody has the other end open any more
            return False
        # What was read may end within a letter, or within a control sequence.
        self.said = _CONTROL.sub("", self.said + self._decoder.decode(data))
        return bool(data)
