# SPDX-License-Identifier: BSD-3-Clause
"""Nights: cubes, products, steps, copies, receipts, frame IDs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables of the pipeline."""
    big = sa.BigInteger()
    identity = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "night",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("family", sa.String(40), nullable=False),
        sa.Column("date", sa.String(8), nullable=False),
        sa.Column("folder", sa.String(600), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("plan_hash", sa.String(64)),
        sa.Column("inputs_hash", sa.String(64)),
        sa.Column("seen_ns", big, nullable=False),
        sa.Column("changed_ns", big),
        sa.Column("sealed_ns", big),
        sa.Column("processed_ns", big),
        sa.Column("transferred_ns", big),
        sa.Column("safe_ns", big),
        sa.Column("released_ns", big),
        sa.Column("raw_frames", big),
        sa.Column("lost_frames", big),
        sa.Column("dubious_frames", big),
        sa.Column("ledger_frames", big),
        sa.Column("raw_bytes", big),
        sa.Column("product_bytes", big),
        sa.Column("veto", sa.Text),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("family", "date", name="uq_night"),
    )
    op.create_index("ix_night_state", "night", ["state"])
    op.create_table(
        "cube",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("night_id", big, sa.ForeignKey("night.id"), nullable=False),
        sa.Column("path", sa.String(600), nullable=False),
        sa.Column("stream", sa.String(80), nullable=False),
        sa.Column("size", big, nullable=False),
        sa.Column("mtime_ns", big, nullable=False),
        sa.Column("frames", big),
        sa.Column("begin_ns", big),
        sa.Column("end_ns", big),
        sa.Column("announced_ns", big),
        sa.Column("problem", sa.Text),
        sa.Column("content_hash", sa.String(64)),
        sa.Column("file_hash", sa.String(64)),
        sa.Column("released_ns", big),
        sa.UniqueConstraint("night_id", "path", name="uq_cube_path"),
    )
    op.create_table(
        "product",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("night_id", big, sa.ForeignKey("night.id"), nullable=False),
        sa.Column("plan_hash", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("folder", sa.String(80), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("stream", sa.String(80), nullable=False),
        sa.Column("group", sa.String(200), nullable=False),
        sa.Column("flc", sa.String(1), nullable=False),
        sa.Column("frames", big, nullable=False),
        sa.Column("first_ns", big, nullable=False),
        sa.Column("last_ns", big, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("frame_id", sa.String(16)),
        sa.Column("exp_id", sa.String(16)),
        sa.Column("path", sa.String(600)),
        sa.Column("task_hash", sa.String(64)),
        sa.Column("size", big),
        sa.Column("file_hash", sa.String(64)),
        sa.Column("payload_hash", sa.String(64)),
        sa.Column("written_ns", big),
        sa.Column("verified_ns", big),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("night_id", "plan_hash", "number", name="uq_product"),
    )
    op.create_index("ix_product_frame_id", "product", ["frame_id"])
    op.create_index("ix_product_night_state", "product", ["night_id", "state"])
    op.create_table(
        "step",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("night_id", big, sa.ForeignKey("night.id"), nullable=False),
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_ns", big, nullable=False),
        sa.Column("ended_ns", big),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("night_id", "name", name="uq_step"),
    )
    op.create_table(
        "attempt",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("night_id", big, sa.ForeignKey("night.id"), nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("task", sa.String(200)),
        sa.Column("started_ns", big, nullable=False),
        sa.Column("ended_ns", big),
        sa.Column("outcome", sa.String(16)),
        sa.Column("error", sa.Text),
        sa.Column("worker", sa.String(200)),
    )
    op.create_index("ix_attempt_night", "attempt", ["night_id", "step"])
    op.create_table(
        "night_event",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("night_id", big, sa.ForeignKey("night.id"), nullable=False),
        sa.Column("time_ns", big, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("by", sa.String(200)),
    )
    op.create_index("ix_night_event", "night_event", ["night_id"])
    op.create_table(
        "receipt",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("night_id", big, sa.ForeignKey("night.id"), nullable=False),
        sa.Column("destination", sa.String(80), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("time_ns", big, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
    )
    op.create_index("ix_receipt_night", "receipt", ["night_id", "destination"])
    op.create_table(
        "copy",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("night_id", big, sa.ForeignKey("night.id"), nullable=False),
        sa.Column("destination", sa.String(80), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("path", sa.String(600), nullable=False),
        sa.Column("size", big, nullable=False),
        sa.Column("file_hash", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("verified_ns", big, nullable=False),
        sa.Column("receipt_id", big, sa.ForeignKey("receipt.id"), nullable=False),
        sa.UniqueConstraint("night_id", "destination", "path", name="uq_copy"),
    )
    op.create_table(
        "id_batch",
        sa.Column("id", identity, primary_key=True, autoincrement=True),
        sa.Column("request", sa.String(120), nullable=False),
        sa.Column("allocator", sa.String(16), nullable=False),
        sa.Column("code", sa.String(4), nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("asked_ns", big, nullable=False),
        sa.Column("granted_ns", big),
        sa.UniqueConstraint("request", name="uq_id_batch_request"),
    )
    op.create_table(
        "frame_id",
        sa.Column("code", sa.String(4), primary_key=True),
        sa.Column("number", big, primary_key=True),
        sa.Column("batch_id", big, sa.ForeignKey("id_batch.id"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("family", sa.String(40)),
        sa.Column("date", sa.String(8)),
        sa.Column("product", sa.String(200)),
        sa.Column("time_ns", big),
        sa.UniqueConstraint("family", "date", "product", name="uq_frame_id_product"),
    )
    op.create_index("ix_frame_id_batch", "frame_id", ["batch_id"])
