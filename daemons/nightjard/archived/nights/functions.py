# SPDX-License-Identifier: BSD-3-Clause
"""Which functions the tasks of a night may call; see :mod:`nightjar.executor`."""

from __future__ import annotations

ALLOWED: frozenset[str] = frozenset(
    (
        "nightjard.archived.nights.writing:write_product",
        "nightjard.archived.nights.writing:verify_product",
        "nightjard.archived.nights.writing.packing:compress_task",
    )
)
"""``module:name`` of every function that a task may call."""
