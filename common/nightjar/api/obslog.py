# SPDX-License-Identifier: BSD-3-Clause
"""The observatory log's command table, the keys of its status and of its messages."""

from __future__ import annotations

from nightjar.api.commands import Command, Parameter

SEVERITIES: tuple[str, ...] = ("info", "warning", "error")
"""Severities, mildest first."""

MAX_TEXT = 4000
"""Longest text of one message, characters; what is longer is cut and ends in an ellipsis."""

MAX_SOURCE = 80
"""Longest name of a source, characters."""

MAX_APPEND = 1000
"""Most messages in one ``append``."""

MAX_PAGE = 1000
"""Most messages in one reply."""

_SOURCE = Parameter("source", "str", "Who says it: the log_name of a daemon, or a program.")
_SEVERITY = Parameter(
    "severity", "str", "How grave it is.", default="info", choices=SEVERITIES
)
_ONLY_SOURCE = Parameter(
    "source", "str", "Only of this source; * stands for any letters. Null for all.",
    default=None, is_nullable=True,
)  # fmt: skip
_ONLY_SEVERITY = Parameter(
    "severity", "str", "Only of this severity or a graver one. Null for all.",
    default=None, is_nullable=True, choices=SEVERITIES,
)  # fmt: skip

COMMANDS: tuple[Command, ...] = (
    Command(
        "append",
        "Add the messages that a daemon has kept, in order; each (spool, sequence, time) is "
        "stored once, however often it is sent.",
        (
            _SOURCE,
            Parameter("spool", "str", "Identity of the sender's spool file, hexadecimal."),
            Parameter(
                "messages", "list",
                f"At most {MAX_APPEND} of [sequence, time, severity, text]; time in nanoseconds "
                "UTC or as ISO text.",
            ),
        ),
        is_safe=True,
    ),
    Command(
        "write", "Add one message.",
        (
            _SOURCE,
            _SEVERITY,
            Parameter("text", "str", "The message, one line."),
            Parameter(
                "key", "str",
                "A text that no other message has (a random UUID): sent again with the same key, "
                "the message is stored once. Null for none.",
                default=None, is_nullable=True,
            ),
        ),
    ),
    Command(
        "tail", "Return messages in the order in which they arrived: the last ones, or those "
        "after an id.",
        (
            Parameter("count", "int", "How many at most.", default=20, low=1, high=MAX_PAGE),
            Parameter(
                "after", "int", "Only messages with a greater id, the oldest first. Null for the "
                "last ones.", default=None, is_nullable=True, low=0, high=2**62,
            ),
            _ONLY_SOURCE,
            _ONLY_SEVERITY,
        ),
        access="query", is_safe=True,
    ),
    Command(
        "search", "Return messages by time, the newest first, one page a call.",
        (
            Parameter(
                "text", "str", "Only messages with this text in them, in capitals or not. "
                "Empty for all.", default="",
            ),
            _ONLY_SOURCE,
            _ONLY_SEVERITY,
            Parameter(
                "since", "str", "UTC as ISO text: only messages of that time or later. "
                "Null for all.",
                default=None, is_nullable=True,
            ),
            Parameter(
                "until", "str", "UTC as ISO text: only messages before that time. Null for all.",
                default=None, is_nullable=True,
            ),
            Parameter("limit", "int", "How many at most.", default=100, low=1, high=MAX_PAGE),
            Parameter(
                "page", "str", "What the reply before gave as `next`; null for the first page.",
                default=None, is_nullable=True,
            ),
        ),
        access="query", is_safe=True,
    ),
)  # fmt: skip

MESSAGE_KEYS: dict[str, str] = {
    "id": "number in the order of arrival; only grows",
    "time": "UTC at which it was said, ISO text",
    "received": "UTC at which the log got it, ISO text",
    "source": "who said it",
    "severity": "info, warning or error",
    "text": "what was said, one line",
}
"""Key of a message in the replies of ``tail`` and ``search`` -> meaning."""

STATUS_KEYS: dict[str, str] = {
    "time": "UTC at which the snapshot was made, ISO text",
    "daemon": "registered name of the daemon",
    "summary": "STANDBY (no database), READY or STOPPING",
    "state": "the database's state: OPENING, OPEN, LOST or CLOSED",
    "state_since": "UTC at which that state began, ISO text",
    "health": "{level, reason, parts}",
    "database": "where messages are kept, without a password",
    "database_kind": "sqlite or postgresql",
    "messages": "messages in the database; null while it was never open",
    "last_id": "id of the last message; null before the first",
    "last_time": "UTC at which the last message was said; null before the first",
    "last_source": "who said it; null before the first",
    "stored": "messages stored since the daemon started",
    "duplicates": "messages that came again and were not stored again, since it started",
    "failures": "commands that the database failed, since the daemon started",
    "last_error": "{time, name, message} of the last failure; null before the first",
    "free_bytes": "space left for the database; null where it is on another machine",
}
"""Key of the status snapshot -> meaning."""
