# SPDX-License-Identifier: BSD-3-Clause
"""Run by alembic for every command: which database, which schema."""

from __future__ import annotations

from nightjar.schema import run
from nightjard.archived.nights.tables import TABLES

run(TABLES[0].metadata, transactional_ddl=True)  # the intake's tables are in it, too
