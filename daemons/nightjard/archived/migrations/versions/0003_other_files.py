# SPDX-License-Identifier: BSD-3-Clause
"""Nights: what their other files were when they were first seen; what was safe; raw by force."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table of other files; take from the history which nights were forced."""
    big = sa.BigInteger()
    identity = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "night_file",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("night_id", big, sa.ForeignKey("night.id"), nullable=False),
        sa.Column("path", sa.String(600), nullable=False),
        sa.Column("size", big, nullable=False),
        sa.Column("mtime_ns", big, nullable=False),
        sa.Column("file_hash", sa.String(64), nullable=False),
        sa.Column("seen_ns", big, nullable=False),
        sa.UniqueConstraint("night_id", "path", name="uq_night_file"),
    )
    op.add_column("night", sa.Column("safe_files", sa.String(64)))
    op.add_column("night", sa.Column("forced_ns", big))
    op.add_column("night", sa.Column("at_work_ns", big))
    night = sa.table("night", sa.column("id", big), sa.column("forced_ns", big))
    event = sa.table(
        "night_event", sa.column("night_id", big), sa.column("time_ns", big),
        sa.column("kind", sa.String), sa.column("text", sa.Text),
    )  # fmt: skip
    forced = (
        sa.select(sa.func.max(event.c.time_ns))
        .where(event.c.night_id == night.c.id, event.c.kind == "damaged",
               event.c.text.contains("by force"))
        .scalar_subquery()
    )  # fmt: skip
    op.execute(sa.update(night).values(forced_ns=forced))
