# SPDX-License-Identifier: BSD-3-Clause
"""Running rsync and ssh: output as it comes, a deadline for silence, an end when asked."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from nightjar.errors import Cancelled, ConfigError, TimedOut

_POLL_S = 0.1
_TERM_S = 5.0
_KEPT = 16_000  # of the messages
LONGEST_OUTPUT = 1 << 30

Cancelled_ = Callable[[], bool]


class Progress(Protocol):
    """What :meth:`nightjar.operations.Operation.update` looks like."""

    def __call__(
        self, fraction: float | None = None, stage: str | None = None, message: str | None = None
    ) -> None:
        """Report; None leaves as it was."""
        ...


def say_nothing(
    fraction: float | None = None, stage: str | None = None, message: str | None = None
) -> None:
    """Be a :class:`Progress` for those who do not want to know."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int  # negative: the signal
    output: str
    messages: str  # standard error


def run(
    command: Sequence[str], what: str, *, is_cancelled: Cancelled_, silence_s: float,
    on_output: Callable[[str], None] | None = None, on_message: Callable[[str], bool] | None = None,
    data: bytes = b"",
) -> Ended:  # fmt: skip
    """Run a program to its end in a process group of its own.

    Parameters
    ----------
    command, what
        The program; what it is for, for messages.
    is_cancelled
        Asked ten times a second.
    silence_s
        It is ended when it says nothing for so long.
    on_output
        Gets the pieces of standard output, which are then not kept.
    on_message
        Gets the lines of standard error; True: the line need not be kept.
    data
        For its standard input.

    Raises
    ------
    Cancelled, TimedOut
        It was ended, with all that it had started.
    ConfigError
        There is no such program.
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env={**os.environ, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ConfigError(
            f"{what}: the program {command[0]} is not installed here; Debian packages "
            "rsync, openssh-client"
        ) from error
    try:
        return _Talk(process, what, is_cancelled, silence_s, on_output, on_message).follow(data)
    finally:
        _end(process)


class _Talk:
    def __init__(
        self, process: subprocess.Popen[bytes], what: str, is_cancelled: Cancelled_,
        silence_s: float, on_output: Callable[[str], None] | None,
        on_message: Callable[[str], bool] | None,
    ) -> None:  # fmt: skip
        self._process = process
        self._what = what
        self._is_cancelled = is_cancelled
        self._silence_s = silence_s
        self._on_output = on_output
        self._on_message = on_message
        self._output = bytearray()
        self._messages = ""
        self._line = ""

    def follow(self, data: bytes) -> Ended:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        heard = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, self._take_output)
            selector.register(process.stderr, selectors.EVENT_READ, self._take_messages)
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            left = memoryview(data)
            while selector.get_map():
                if self._is_cancelled():
                    raise Cancelled(f"{self._what}: cancelled; what arrived is kept")
                if time.monotonic() - heard > self._silence_s:
                    raise TimedOut(
                        f"{self._what}: nothing was heard for {self._silence_s:.0f} s; ended. "
                        "Look at the network and at the load of the far side", again=True,
                    )  # fmt: skip
                for key, _ in selector.select(_POLL_S):
                    heard = time.monotonic()
                    if key.fileobj is process.stdin:
                        left = _feed(process.stdin, left)
                        if not left:
                            selector.unregister(process.stdin)
                            _close(process.stdin)
                        continue
                    piece = os.read(key.fd, 1 << 16)
                    key.data(piece)
                    if not piece:
                        selector.unregister(key.fileobj)
        code = process.wait(_TERM_S)
        return Ended(code, self._output.decode("utf-8", "surrogateescape"), self._messages)

    def _take_output(self, piece: bytes) -> None:
        if self._on_output is not None:
            self._on_output(piece.decode(errors="replace"))
            return
        self._output += piece
        if len(self._output) > LONGEST_OUTPUT:
            raise TimedOut(f"{self._what}: the far side does not stop talking; ended")

    def _take_messages(self, piece: bytes) -> None:
        self._line += piece.decode(errors="replace")
        *lines, self._line = self._line.split("\n")
        if not piece and self._line:
            lines, self._line = [self._line], ""
        for line in lines:
            if self._on_message is None or not self._on_message(line):
                self._messages = (self._messages + line + "\n")[-_KEPT:]


def _feed(stdin: IO[bytes], left: memoryview) -> memoryview:
    try:
        return left[os.write(stdin.fileno(), left[: 1 << 16]) :] if left else left
    except BlockingIOError:
        return left
    except BrokenPipeError:
        return left[:0]  # how it ended says why


def _close(stdin: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):
        stdin.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with all that it started; rsync's own ssh is in its group."""
    if process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TERM_S)
                break
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
