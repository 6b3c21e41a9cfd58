# SPDX-License-Identifier: BSD-3-Clause
"""The messages, and the row by which the daemon tries whether it can write."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "message",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True,
            autoincrement=True,
        ),
        sa.Column("time_ns", sa.BigInteger, nullable=False),
        sa.Column("received_ns", sa.BigInteger, nullable=False),
        sa.Column("source", sa.String(80), nullable=False),
        sa.Column("severity", sa.SmallInteger, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("spool", sa.String(120)),
        sa.Column("sequence", sa.BigInteger),
        sa.UniqueConstraint("spool", "sequence", name="uq_message_spool_sequence"),
        sqlite_autoincrement=True,
    )  # fmt: skip
    op.create_index("ix_message_time_ns_id", "message", ["time_ns", "id"])
    op.create_index("ix_message_source_id", "message", ["source", "id"])
    op.create_table(
        "probe",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time_ns", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Remove both."""
    op.drop_table("probe")
    op.drop_table("message")
