# SPDX-License-Identifier: BSD-3-Clause
"""The files of all streams."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "file",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True,
            autoincrement=True,
        ),
        sa.Column("stream", sa.String(16), nullable=False),
        sa.Column("day", sa.String(8), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("start_ns", sa.BigInteger),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("source", sa.String(400), nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("crc32", sa.BigInteger),
        sa.Column("records", sa.Integer),
        sa.Column("mtime_ns", sa.BigInteger),
        sa.Column("seen_ns", sa.BigInteger, nullable=False),
        sa.Column("copied_ns", sa.BigInteger),
        sa.Column("verified_ns", sa.BigInteger),
        sa.Column("reason", sa.String(1000), nullable=False),
        sa.UniqueConstraint("stream", "day", "name", name="uq_file_stream_day_name"),
    )  # fmt: skip
    op.create_index("ix_file_day_start_ns", "file", ["day", "start_ns"])


def downgrade() -> None:
    """Remove it."""
    op.drop_table("file")
