# SPDX-License-Identifier: BSD-3-Clause
"""Run by alembic for every command: which database, which schema."""

from __future__ import annotations

from nightjar.schema import run
from nightjard.obslogd.store import metadata

run(metadata)
