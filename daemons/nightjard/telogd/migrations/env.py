# SPDX-License-Identifier: BSD-3-Clause
"""Run by alembic for every command: which database, which schema."""

from __future__ import annotations

from nightjar.schema import run
from nightjard.telogd.ledger import metadata

run(metadata)
