# SPDX-License-Identifier: BSD-3-Clause
"""The tables of the pipeline, in the same database as the intake's.

A change here needs a new version in ``migrations/versions``. Times are ns UTC; hashes are blake3 in
hexadecimal; paths are relative to the night's folder unless said otherwise.
"""

from __future__ import annotations

import sqlalchemy as sa

from nightjard.archived.tables import metadata

_BIG = sa.BigInteger()
_IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _key() -> sa.Column[int]:
    return sa.Column("id", _IDENTITY, primary_key=True, autoincrement=True)


def _night() -> sa.Column[int]:
    return sa.Column("night_id", _BIG, sa.ForeignKey("night.id"), nullable=False)


# One folder of one family. The four pairs of the table that observers know (processed,
# transferred, safe) are times here: null is "not".
night = sa.Table(
    "night", metadata, _key(),
    sa.Column("family", sa.String(40), nullable=False),
    sa.Column("date", sa.String(8), nullable=False),  # YYYYMMDD
    sa.Column("folder", sa.String(600), nullable=False),  # absolute
    sa.Column("state", sa.String(16), nullable=False),  # api.archive.NightState
    sa.Column("plan_hash", sa.String(64)),
    sa.Column("inputs_hash", sa.String(64)),  # of the names, sizes, times of all raw cubes
    sa.Column("seen_ns", _BIG, nullable=False),
    sa.Column("changed_ns", _BIG),  # when raw cubes last came or went
    sa.Column("sealed_ns", _BIG),  # the recorder said that nothing follows
    sa.Column("processed_ns", _BIG),
    sa.Column("transferred_ns", _BIG),
    sa.Column("safe_ns", _BIG),
    sa.Column("safe_files", sa.String(64)),  # of names, sizes, times of what was proven then
    sa.Column("forced_ns", _BIG),  # when raw that had changed was last taken as it was
    sa.Column("at_work_ns", _BIG),  # somebody has it in hand, or was killed then
    sa.Column("released_ns", _BIG),
    sa.Column("raw_frames", _BIG),
    sa.Column("lost_frames", _BIG),
    sa.Column("dubious_frames", _BIG),
    sa.Column("ledger_frames", _BIG),
    sa.Column("raw_bytes", _BIG),
    sa.Column("product_bytes", _BIG),
    sa.Column("veto", sa.Text),  # a person's reason why nothing may be released
    sa.Column("error", sa.Text),
    sa.UniqueConstraint("family", "date", name="uq_night"),
    sa.Index("ix_night_state", "state"),
)  # fmt: skip
cube = sa.Table(
    "cube", metadata, _key(), _night(),
    sa.Column("path", sa.String(600), nullable=False),
    sa.Column("stream", sa.String(80), nullable=False),
    sa.Column("size", _BIG, nullable=False),
    sa.Column("mtime_ns", _BIG, nullable=False),
    sa.Column("frames", _BIG),
    sa.Column("begin_ns", _BIG),
    sa.Column("end_ns", _BIG),
    sa.Column("announced_ns", _BIG),  # null: found by a look at the folder
    sa.Column("problem", sa.Text),
    sa.Column("content_hash", sa.String(64)),  # of head, frames, tail: see writing.raw_hash
    sa.Column("file_hash", sa.String(64)),  # of the whole file; made when raw is copied
    sa.Column("released_ns", _BIG),
    sa.UniqueConstraint("night_id", "path", name="uq_cube_path"),
)  # fmt: skip
product = sa.Table(
    "product", metadata, _key(), _night(),
    sa.Column("plan_hash", sa.String(64), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("name", sa.String(200), nullable=False),  # without ID and ending
    sa.Column("folder", sa.String(80), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("stream", sa.String(80), nullable=False),
    sa.Column("group", sa.String(200), nullable=False),
    sa.Column("flc", sa.String(1), nullable=False),
    sa.Column("frames", _BIG, nullable=False),
    sa.Column("first_ns", _BIG, nullable=False),
    sa.Column("last_ns", _BIG, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # api.archive.ProductState
    sa.Column("frame_id", sa.String(16)),
    sa.Column("exp_id", sa.String(16)),
    sa.Column("path", sa.String(600)),  # of the file that was made
    sa.Column("task_hash", sa.String(64)),  # of what was asked for when it was made
    sa.Column("size", _BIG),
    sa.Column("file_hash", sa.String(64)),
    sa.Column("payload_hash", sa.String(64)),
    sa.Column("written_ns", _BIG),
    sa.Column("verified_ns", _BIG),
    sa.Column("error", sa.Text),
    sa.UniqueConstraint("night_id", "plan_hash", "number", name="uq_product"),
    sa.Index("ix_product_frame_id", "frame_id"),
    sa.Index("ix_product_night_state", "night_id", "state"),
)  # fmt: skip
# A step is done while its key (hash of inputs, parameters, version) is the present one.
step = sa.Table(
    "step", metadata, _key(), _night(),
    sa.Column("name", sa.String(16), nullable=False),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # running, interrupted, done, failed
    sa.Column("started_ns", _BIG, nullable=False),
    sa.Column("ended_ns", _BIG),
    sa.Column("result", sa.Text),  # JSON
    sa.Column("error", sa.Text),
    sa.UniqueConstraint("night_id", "name", name="uq_step"),
)  # fmt: skip
attempt = sa.Table(
    "attempt", metadata, _key(), _night(),
    sa.Column("step", sa.String(16), nullable=False),
    sa.Column("task", sa.String(200)),  # null: the step as a whole
    sa.Column("started_ns", _BIG, nullable=False),
    sa.Column("ended_ns", _BIG),
    sa.Column("outcome", sa.String(16)),  # done, failed, killed, cancelled
    sa.Column("error", sa.Text),
    sa.Column("worker", sa.String(200)),
    sa.Index("ix_attempt_night", "night_id", "step"),
)  # fmt: skip
night_event = sa.Table(
    "night_event", metadata, _key(), _night(),
    sa.Column("time_ns", _BIG, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("by", sa.String(200)),
    sa.Index("ix_night_event", "night_id"),
)  # fmt: skip
# A file that is neither raw cube nor product, as it was when it was made or first seen.
night_file = sa.Table(
    "night_file", metadata, _key(), _night(),
    sa.Column("path", sa.String(600), nullable=False),
    sa.Column("size", _BIG, nullable=False),
    sa.Column("mtime_ns", _BIG, nullable=False),
    sa.Column("file_hash", sa.String(64), nullable=False),
    sa.Column("seen_ns", _BIG, nullable=False),
    sa.UniqueConstraint("night_id", "path", name="uq_night_file"),
)  # fmt: skip
# A file of a night on another host, as that host itself last read it.
copy = sa.Table(
    "copy", metadata, _key(), _night(),
    sa.Column("destination", sa.String(80), nullable=False),  # name in the configuration
    sa.Column("host", sa.String(200), nullable=False),  # machine-id of the far side
    sa.Column("path", sa.String(600), nullable=False),
    sa.Column("size", _BIG, nullable=False),
    sa.Column("file_hash", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # verified, different, missing
    sa.Column("verified_ns", _BIG, nullable=False),
    sa.Column("receipt_id", _BIG, sa.ForeignKey("receipt.id"), nullable=False),
    sa.UniqueConstraint("night_id", "destination", "path", name="uq_copy"),
)  # fmt: skip
receipt = sa.Table(
    "receipt", metadata, _key(), _night(),
    sa.Column("destination", sa.String(80), nullable=False),
    sa.Column("host", sa.String(200), nullable=False),
    sa.Column("time_ns", _BIG, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),  # transfer, scrub, ingest
    sa.Column("body", sa.Text, nullable=False),  # the signed JSON text
    sa.Column("signature", sa.Text, nullable=False),
    sa.Index("ix_receipt_night", "night_id", "destination"),
)  # fmt: skip
# Numbers are reserved before they are used: whoever asks again with the same request gets the same.
id_batch = sa.Table(
    "id_batch", metadata, _key(),
    sa.Column("request", sa.String(120), nullable=False),
    sa.Column("allocator", sa.String(16), nullable=False),  # local, gen2
    sa.Column("code", sa.String(4), nullable=False),  # VMPA
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # asked, granted
    sa.Column("asked_ns", _BIG, nullable=False),
    sa.Column("granted_ns", _BIG),
    sa.UniqueConstraint("request", name="uq_id_batch_request"),
)  # fmt: skip
frame_id = sa.Table(
    "frame_id", metadata,
    sa.Column("code", sa.String(4), primary_key=True),
    sa.Column("number", _BIG, primary_key=True),
    sa.Column("batch_id", _BIG, sa.ForeignKey("id_batch.id"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),  # in its batch
    sa.Column("family", sa.String(40)),
    sa.Column("date", sa.String(8)),
    sa.Column("product", sa.String(200)),  # name; null: not given to any (yet)
    sa.Column("time_ns", _BIG),  # start of the product
    sa.UniqueConstraint("family", "date", "product", name="uq_frame_id_product"),
    sa.Index("ix_frame_id_batch", "batch_id"),
)  # fmt: skip

TABLES = (
    night, cube, product, step, attempt, night_event, night_file, receipt, copy, id_batch, frame_id,
)  # fmt: skip
