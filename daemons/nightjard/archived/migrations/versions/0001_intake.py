# SPDX-License-Identifier: BSD-3-Clause
"""Intake: raw files, their history, settings, identities of roots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    big = sa.BigInteger()
    identity = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "raw_file",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("daemon", sa.String(80), nullable=False),
        sa.Column("camera", sa.String(80), nullable=False),
        sa.Column("run", sa.String(200), nullable=False),
        sa.Column("number", big, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("size", big, nullable=False),
        sa.Column("datasum", big, nullable=False),
        sa.Column("data_offset", big, nullable=False),
        sa.Column("night", sa.String(8), nullable=False),
        sa.Column("begin_ns", big, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("is_archived", sa.Boolean, nullable=False),
        sa.Column("object", sa.String(80)),
        sa.Column("frame_type", sa.String(32)),
        sa.Column("prefix", sa.String(80)),
        sa.Column("target", sa.String(600)),
        sa.Column("new_header", sa.LargeBinary),
        sa.Column("plan_size", big),
        sa.Column("plan_datasum", big),
        sa.Column("verdict", sa.Text),
        sa.Column("path", sa.String(600)),
        sa.Column("file_name", sa.String(255)),
        sa.Column("accepted_ns", big, nullable=False),
        sa.Column("finished_ns", big),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_error", sa.Text),
        sa.Column("is_acknowledged", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.UniqueConstraint("camera", "run", "number", name="uq_raw_file_key"),
        sa.UniqueConstraint("target", name="uq_raw_file_target"),
    )
    op.create_index("ix_raw_file_state", "raw_file", ["daemon", "state"])
    op.create_index("ix_raw_file_night", "raw_file", ["night", "camera", "state"])
    op.create_index("ix_raw_file_name", "raw_file", ["name"])
    op.create_index("ix_raw_file_file_name", "raw_file", ["file_name"])
    op.create_table(
        "event",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("raw_file_id", big, sa.ForeignKey("raw_file.id")),
        sa.Column("time_ns", big, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_index("ix_event_raw_file", "event", ["raw_file_id"])
    op.create_table(
        "setting",
        sa.Column("daemon", sa.String(80), primary_key=True),
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("changed_ns", big, nullable=False),
        sa.Column("changed_by", sa.String(200), nullable=False),
    )
    op.create_table(
        "archive_root",
        sa.Column("path", sa.String(600), primary_key=True),
        sa.Column("identity", sa.String(64), nullable=False),
    )
