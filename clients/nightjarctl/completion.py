# SPDX-License-Identifier: BSD-3-Clause
"""Shell completion of values that only the daemon knows.

A completion never fails, never prints an error and never takes longer than 0.3 s: where the daemon
does not answer there are simply fewer words.
"""

from __future__ import annotations

from typing import Any

import click

from nightjar.errors import NightjarError

LIMIT_S = 0.25  # connecting and answering; a daemon answers in a few milliseconds


def status_words(kind: str, identity: str, key: str) -> list[str]:
    """Return the texts under `key` of a daemon's status; none where it does not answer."""
    from nightjarctl.connection import Connection, configured_entry

    try:
        status = Connection(configured_entry(kind, identity), LIMIT_S).status()
    except (NightjarError, OSError, ValueError):
        return []
    words: Any = status.get(key) or []
    return [str(word) for word in words]


def identity_of(context: click.Context) -> str:
    """Return the id that was typed on the line that is being completed."""
    return (context.parent.info_name if context.parent else None) or ""
