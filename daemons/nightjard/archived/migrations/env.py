# SPDX-License-Identifier: BSD-3-Clause
"""Run the migrations on the connection that the store gives (alembic calls this file)."""

from __future__ import annotations

from alembic import context

from nightjard.archived.nights.tables import TABLES

metadata = TABLES[0].metadata  # the intake's tables are in it, too

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
