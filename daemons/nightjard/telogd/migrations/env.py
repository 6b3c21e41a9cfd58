# SPDX-License-Identifier: BSD-3-Clause
"""Run by alembic for every command: which database, which schema."""

from __future__ import annotations

from alembic import context

from nightjard.telogd.ledger import metadata

connection = context.config.attributes.get("connection")
if connection is None and context.is_offline_mode():
    context.configure(dialect_name="sqlite", target_metadata=metadata)
else:
    # transaction_per_migration would commit the caller's transaction half way.
    context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
