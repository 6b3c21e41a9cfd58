# SPDX-License-Identifier: BSD-3-Clause
"""Lives that end by SIGKILL before a chosen call, or in the middle of it.

For programs that fork, which a test process with threads must not.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from nightjar import files


class Instants:
    """Counts calls of this process; kills it before the chosen one, or half-way through it.

    Parameters
    ----------
    fatal
        Number of the call; None: only count.
    calls
        Names of functions of :mod:`os` that count; renaming without overwriting always does.
    is_told_late
        Renaming, and every second of the others, is done before the kill: nobody is told.
    """

    def __init__(
        self, fatal: int | None, calls: tuple[str, ...], *, is_told_late: bool = False
    ) -> None:
        self.count, self.fatal = 0, fatal
        self._is_told_late = is_told_late
        for name in calls:
            setattr(os, name, self.counted(getattr(os, name), name))
        files.rename_new = self.counted(files.rename_new, "rename_new")  # type: ignore[assignment]

    def counted(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return a function that counts, and may be the last one that is called."""

        def counted(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self.fatal:
                if name in ("write", "pwrite"):  # half of it reaches the file
                    data = memoryview(arguments[1]).cast("B")
                    call(arguments[0], data[: len(data) // 2], *arguments[2:])
                if self._is_told_late and (name == "rename_new" or self.count % 2):
                    call(*arguments, **named)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counted


def life(work: Callable[[], Any], begin: Callable[[], Instants]) -> int | None:
    """Do the work in a child; return how many calls it made, None if it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            instants = begin()
            work()
            instants.fatal = None
            os.write(writer, str(instants.count).encode())
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a forked child ends here
            os.write(writer, f"! {type(error).__name__}: {error}".encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert not said.startswith("!"), said
    return int(said)
