# SPDX-License-Identifier: BSD-3-Clause
"""Which functions tasks may call: a fixed table, never a name that came from outside.

Each is called with the task's arguments by name and returns plain JSON values. It must be
idempotent: it may be killed at any instruction and run again, on another host as well.
"""

from __future__ import annotations

LOOK = "nightjard.archived.nights.executor.probes:look"
ALLOWED: frozenset[str] = frozenset(
    (
        LOOK,
        "nightjard.archived.nights.writing:write_product",
        "nightjard.archived.nights.writing:verify_product",
        "nightjard.archived.nights.writing.packing:compress_task",
    )
)  # fmt: skip
"""``module:name`` of every function that a task may call."""
