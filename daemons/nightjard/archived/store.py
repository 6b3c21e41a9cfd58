# SPDX-License-Identifier: BSD-3-Clause
"""What the archive keeps and looks up: frames, their history, settings, identities of roots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from nightjar.api.archive import FrameState
from nightjar.errors import StorageError
from nightjard.archived.database import Database
from nightjard.archived.tables import Frame, Stored, archive_root, event, raw_file, setting

# Made once: building a statement of so many columns takes longer than SQLite to carry it out.
_COLUMNS = [raw_file.c[field.name] for field in fields(Frame)]
_SELECT = sa.select(*_COLUMNS).order_by(raw_file.c.id.desc())
_INSERT = sa.insert(raw_file).returning(*_COLUMNS)
_UPDATE = sa.update(raw_file).returning(*_COLUMNS)


class Store:
    """All access to the database; thread-safe.

    Parameters
    ----------
    url
        SQLAlchemy address.
    daemon
        Name under which this daemon's frames and settings are kept.

    Raises
    ------
    StorageError
        The database cannot be opened or brought to the present form; also from every method,
        where it fails or does not answer within seconds.
    """

    def __init__(self, url: str, daemon: str) -> None:
        self.daemon = daemon
        self.database = Database(url)

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    # --- frames ---

    def add(self, values: Mapping[str, Any], text: str) -> Frame:
        """Store an accepted frame; durable when this returns.

        Raises
        ------
        Duplicate
            A frame of the same camera, run and number is there.
        """
        with self.database.write("store the frame") as connection:
            row = connection.execute(
                _INSERT, {"daemon": self.daemon, "state": FrameState.ACCEPTED.value, **values}
            ).one()
            frame = _frame(row)
            _say(connection, frame.id, frame.accepted_ns, FrameState.ACCEPTED.value, text)
        return frame

    def update(
        self,
        identity: int,
        kind: str,
        text: str,
        now_ns: int,
        *,
        durable: bool = True,
        **values: Any,
    ) -> Frame:
        """Change a frame and say so in its history, in one transaction.

        Parameters
        ----------
        durable
            False where a power cut may undo it because the next life finds out by itself.

        Raises
        ------
        Duplicate
            Another frame has the new target.
        """
        with self.database.write("update the frame", durable=durable) as connection:
            row = connection.execute(
                _UPDATE.where(raw_file.c.id == identity).values(**values)
            ).one()
            _say(connection, identity, now_ns, kind, text)
        return _frame(row)

    def by_key(self, camera: str, run: str, number: int) -> Frame | None:
        """Return the frame of a key."""
        condition = sa.and_(
            raw_file.c.camera == camera, raw_file.c.run == run, raw_file.c.number == number
        )
        return next(iter(self._select(condition)), None)

    def by_id(self, identity: int) -> Frame | None:
        """Return a frame."""
        return next(iter(self._select(raw_file.c.id == identity)), None)

    def require(self, identity: int) -> Frame:
        """Return a frame that must be there; StorageError where it is not."""
        frame = self.by_id(identity)
        if frame is None:
            raise StorageError(f"frame {identity} is not in the database any more")
        return frame

    def named(self, name: str) -> list[Frame]:
        """Return frames that arrived, or lie, under a file name, newest first."""
        return self._select(sa.or_(raw_file.c.name == name, raw_file.c.file_name == name))

    def accepted(self) -> list[Frame]:
        """Return this daemon's frames that are not in their place, oldest first."""
        mine = sa.and_(
            raw_file.c.daemon == self.daemon, raw_file.c.state == FrameState.ACCEPTED.value
        )
        return self._select(mine)[::-1]

    def half_discarded(self) -> list[Frame]:
        """Return frames whose discard was decided but perhaps not carried out."""
        return self._select(
            sa.and_(
                raw_file.c.daemon == self.daemon,
                raw_file.c.state == FrameState.DISCARDED.value,
                raw_file.c.path.is_not(None),
            )
        )

    def find(
        self,
        *,
        night: str | None = None,
        camera: str | None = None,
        state: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Frame]:
        """Return frames that match, newest first."""
        conditions = [
            column == value
            for column, value in (
                (raw_file.c.night, night),
                (raw_file.c.camera, camera),
                (raw_file.c.state, state),
            )
            if value is not None
        ]
        if before is not None:
            conditions.append(raw_file.c.id < before)
        return self._select(sa.and_(sa.true(), *conditions), limit)

    def last_finished(self) -> dict[str, Frame]:
        """Return each camera's newest frame that is in its place."""
        newest = (
            sa.select(sa.func.max(raw_file.c.id))
            .where(raw_file.c.finished_ns.is_not(None))
            .group_by(raw_file.c.camera)
        )
        return {frame.camera: frame for frame in self._select(raw_file.c.id.in_(newest))}

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Return how many frames there are, by (night, camera, state)."""
        columns = (raw_file.c.night, raw_file.c.camera, raw_file.c.state)
        with self.database.read() as connection:
            rows = connection.execute(sa.select(*columns, sa.func.count()).group_by(*columns))
            return {(night, camera, state): count for night, camera, state, count in rows}

    def unacknowledged(self) -> dict[str, int]:
        """Return how many quarantined and missing frames nobody has looked at, by state."""
        bad = (FrameState.QUARANTINED.value, FrameState.MISSING.value)
        with self.database.read() as connection:
            rows = connection.execute(
                sa.select(raw_file.c.state, sa.func.count())
                .where(raw_file.c.state.in_(bad), raw_file.c.is_acknowledged.is_(False))
                .group_by(raw_file.c.state)
            )
            return {str(state): int(count) for state, count in rows}

    def acknowledge(self) -> int:
        """Mark all quarantined and missing frames as looked at; return how many were not."""
        bad = (FrameState.QUARANTINED.value, FrameState.MISSING.value)
        with self.database.write("acknowledge frames") as connection:
            result = connection.execute(
                sa.update(raw_file)
                .where(raw_file.c.state.in_(bad), raw_file.c.is_acknowledged.is_(False))
                .values(is_acknowledged=True)
            )
            return int(result.rowcount)

    def events(self, identity: int) -> list[tuple[int, str, str]]:
        """Return a frame's history as (time_ns, kind, text), oldest first."""
        with self.database.read() as connection:
            rows = connection.execute(
                sa.select(event.c.time_ns, event.c.kind, event.c.text)
                .where(event.c.raw_file_id == identity)
                .order_by(event.c.id)
            )
            return [(time_ns, kind, text) for time_ns, kind, text in rows]

    def is_known_target(self, target: str) -> bool:
        """Tell whether a path below the root was ever given to a frame."""
        with self.database.read() as connection:
            statement = sa.select(raw_file.c.id).where(raw_file.c.target == target)
            return connection.execute(statement).first() is not None

    def _select(self, condition: Any, limit: int | None = None) -> list[Frame]:
        with self.database.read() as connection:
            rows = connection.execute(_SELECT.where(condition).limit(limit))
            return [_frame(row) for row in rows]

    # --- settings and roots ---

    def setting(self, name: str) -> Stored | None:
        """Return a setting of this daemon."""
        condition = sa.and_(setting.c.daemon == self.daemon, setting.c.name == name)
        columns = (setting.c.value, setting.c.changed_ns, setting.c.changed_by)
        with self.database.read() as connection:
            row = connection.execute(sa.select(*columns).where(condition)).first()
        return None if row is None else Stored(json.loads(row[0]), row[1], row[2])

    def put_setting(self, name: str, stored: Stored, text: str) -> None:
        """Keep a setting and say in the history what changed."""
        condition = sa.and_(setting.c.daemon == self.daemon, setting.c.name == name)
        values = {
            "value": json.dumps(stored.value, sort_keys=True),
            "changed_ns": stored.changed_ns,
            "changed_by": stored.changed_by,
        }
        with self.database.write("keep the settings") as connection:
            result = connection.execute(sa.update(setting).where(condition).values(**values))
            if result.rowcount == 0:
                connection.execute(
                    sa.insert(setting).values(daemon=self.daemon, name=name, **values)
                )
            _say(connection, None, stored.changed_ns, "settings", text)

    def root_identity(self, path: Path) -> str | None:
        """Return the identity that a root is known to have."""
        with self.database.read() as connection:
            statement = sa.select(archive_root.c.identity).where(archive_root.c.path == str(path))
            row = connection.execute(statement).first()
        return None if row is None else str(row[0])

    def put_root_identity(self, path: Path, identity: str) -> None:
        """Remember the identity of a root."""
        condition = archive_root.c.path == str(path)
        with self.database.write("keep the root's identity") as connection:
            connection.execute(sa.delete(archive_root).where(condition))
            connection.execute(sa.insert(archive_root).values(path=str(path), identity=identity))


def _frame(row: Any) -> Frame:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name for it
    if values["new_header"] is not None:
        values["new_header"] = bytes(values["new_header"])
    return Frame(**values)


def _say(connection: Connection, identity: int | None, time_ns: int, kind: str, text: str) -> None:
    connection.execute(
        sa.insert(event).values(raw_file_id=identity, time_ns=time_ns, kind=kind, text=text)
    )
