# SPDX-License-Identifier: BSD-3-Clause
"""Logging of daemons: journald fields under systemd, one readable line elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import ClassVar, TextIO

_JOURNAL_PRIORITY = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


class _JournalStreamFormatter(logging.Formatter):
    """``<priority>`` prefixes, which journald reads from a service's stderr (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        priority = _JOURNAL_PRIORITY.get(record.levelno, 6)
        text = super().format(record)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines() or [""])


class _ConsoleFormatter(logging.Formatter):
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    _COLOURS: ClassVar[dict[str, str]] = {
        "WARNING": "\033[33m",
        "ERROR": "\033[31m",
        "CRITICAL": "\033[31;1m",
    }

    def __init__(self, coloured: bool) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self._coloured = coloured
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        colour = self._COLOURS.get(record.levelname) if self._coloured else None
        return f"{colour}{text}\033[0m" if colour else text


def _is_journal(stream: TextIO) -> bool:
    """Tell whether `stream` is the journal (systemd sets JOURNAL_STREAM to its device:inode)."""
    expected = os.environ.get("JOURNAL_STREAM")
    if not expected:
        return False
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return expected == f"{stat.st_dev}:{stat.st_ino}"


def set_up(
    level: str = "INFO", stream: TextIO | None = None, *, prefixes: bool = False
) -> None:
    """Set up the root logger of a daemon or worker process.

    Parameters
    ----------
    level
        DEBUG, INFO, WARNING or ERROR.
    stream
        Where to write; stderr by default. With the journal behind it and systemd-python
        installed, records carry fields (DAEMON, FRAME, ...) given as ``extra={"fields": {...}}``.
    prefixes
        Write ``<priority>`` before each line, for a parent process that relays them.
    """
    target = stream or sys.stderr
    handler: logging.Handler = logging.StreamHandler(target)
    if prefixes:
        handler.setFormatter(_JournalStreamFormatter("%(message)s"))
    elif _is_journal(target):
        handler = _journal_handler() or handler
        if isinstance(handler, logging.StreamHandler):
            handler.setFormatter(_JournalStreamFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(_ConsoleFormatter(target.isatty()))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # Pyro logs each closed connection; what matters of it is logged by nightjar.rpc.
    logging.getLogger("Pyro5").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)


def _journal_handler() -> logging.Handler | None:
    try:
        from systemd.journal import JournalHandler
    except ImportError:
        return None

    class FieldsHandler(JournalHandler):  # type: ignore[misc]
        """Sends ``extra={"fields": {...}}`` as journal fields."""

        def emit(self, record: logging.LogRecord) -> None:
            for key, value in getattr(record, "fields", {}).items():
                setattr(record, str(key).upper(), str(value))
            super().emit(record)

    handler: logging.Handler = FieldsHandler()
    return handler
