# SPDX-License-Identifier: BSD-3-Clause
"""The tables of the archive's database, and their rows as records.

A change here needs a new version in ``migrations/versions``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

_BIG = sa.BigInteger()
_IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts only INTEGER keys

metadata = sa.MetaData()

raw_file = sa.Table(
    "raw_file",
    metadata,
    sa.Column("id", _IDENTITY, primary_key=True, autoincrement=True),
    sa.Column("daemon", sa.String(80), nullable=False),
    sa.Column("camera", sa.String(80), nullable=False),
    sa.Column("run", sa.String(200), nullable=False),
    sa.Column("number", _BIG, nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("size", _BIG, nullable=False),
    sa.Column("datasum", _BIG, nullable=False),
    sa.Column("data_offset", _BIG, nullable=False),
    sa.Column("night", sa.String(8), nullable=False),
    sa.Column("begin_ns", _BIG, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("is_archived", sa.Boolean, nullable=False),
    sa.Column("object", sa.String(80)),
    sa.Column("frame_type", sa.String(32)),
    sa.Column("prefix", sa.String(80)),
    sa.Column("target", sa.String(600)),
    sa.Column("new_header", sa.LargeBinary),
    sa.Column("plan_size", _BIG),
    sa.Column("plan_datasum", _BIG),
    sa.Column("verdict", sa.Text),
    sa.Column("path", sa.String(600)),
    sa.Column("file_name", sa.String(255)),
    sa.Column("accepted_ns", _BIG, nullable=False),
    sa.Column("finished_ns", _BIG),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_error", sa.Text),
    sa.Column("is_acknowledged", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("camera", "run", "number", name="uq_raw_file_key"),
    sa.UniqueConstraint("target", name="uq_raw_file_target"),
    sa.Index("ix_raw_file_state", "daemon", "state"),
    sa.Index("ix_raw_file_night", "night", "camera", "state"),
    sa.Index("ix_raw_file_name", "name"),
    sa.Index("ix_raw_file_file_name", "file_name"),
)
event = sa.Table(
    "event",
    metadata,
    sa.Column("id", _IDENTITY, primary_key=True, autoincrement=True),
    sa.Column("raw_file_id", _BIG, sa.ForeignKey("raw_file.id")),
    sa.Column("time_ns", _BIG, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Index("ix_event_raw_file", "raw_file_id"),
)
setting = sa.Table(
    "setting",
    metadata,
    sa.Column("daemon", sa.String(80), primary_key=True),
    sa.Column("name", sa.String(80), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("changed_ns", _BIG, nullable=False),
    sa.Column("changed_by", sa.String(200), nullable=False),
)
archive_root = sa.Table(
    "archive_root",
    metadata,
    sa.Column("path", sa.String(600), primary_key=True),
    sa.Column("identity", sa.String(64), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One row of ``raw_file``.

    Attributes
    ----------
    is_archived
        Whether archiving was on for the camera when the frame was accepted.
    object, frame_type, prefix
        The settings at that time.
    target, new_header, plan_size, plan_datasum
        The plan being carried out (:class:`nightjard.archived.placing.Plan`).
    verdict
        Why the frame goes to quarantine; None for one that is good.
    path
        Where the file lies, below the root; None while it is in the incoming folder.
    file_name
        The last part of `path`, kept after a discard.
    """

    id: int
    daemon: str
    camera: str
    run: str
    number: int
    name: str
    size: int
    datasum: int
    data_offset: int
    night: str
    begin_ns: int
    state: str
    is_archived: bool
    object: str | None
    frame_type: str | None
    prefix: str | None
    target: str | None
    new_header: bytes | None
    plan_size: int | None
    plan_datasum: int | None
    verdict: str | None
    path: str | None
    file_name: str | None
    accepted_ns: int
    finished_ns: int | None
    attempts: int
    last_error: str | None
    is_acknowledged: bool

    @property
    def key(self) -> str:
        """``CAMERA/RUN/NUMBER``."""
        return f"{self.camera}/{self.run}/{self.number}"


@dataclass(frozen=True, slots=True)
class Stored:
    """A setting with its age."""

    value: Any
    changed_ns: int
    changed_by: str
