# SPDX-License-Identifier: BSD-3-Clause
"""What is kept of the files of nights that are neither raw cubes nor products."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from nightjard.archived.nights.step_store import StepStore
from nightjard.archived.nights.tables import night_file
from nightjard.archived.nights.transfer.reading import storable


class FileState(NamedTuple):
    """A file as a glance sees it."""

    size: int
    mtime_ns: int


class KnownFile(NamedTuple):
    """What a file was when it was made, or first seen."""

    state: FileState
    file_hash: str


class FileStore(StepStore):
    """Access to table ``night_file``; part of :class:`.store.NightStore`."""

    def files(self, identity: int) -> dict[str, KnownFile]:
        """Return what is known of the other files of a night, by path as the table has it."""
        columns = night_file.c
        query = sa.select(
            columns.path, columns.size, columns.mtime_ns, columns.file_hash
        ).where(columns.night_id == identity)
        with self.database.read() as connection:
            return {
                path: KnownFile(FileState(size, mtime_ns), file_hash)
                for path, size, mtime_ns, file_hash in connection.execute(query)
            }

    def put_files(
        self, identity: int, files: Mapping[str, KnownFile], gone: Iterable[str], now_ns: int
    ) -> None:
        """Keep what files are, in place of what was known of them; forget those that are gone."""
        rows = [
            {"night_id": identity, "path": storable(path), "size": known.state.size,
             "mtime_ns": known.state.mtime_ns, "file_hash": known.file_hash, "seen_ns": now_ns}
            for path, known in files.items()
        ]  # fmt: skip
        old = [{"old_path": each} for each in (*(row["path"] for row in rows), *gone)]
        if not old:
            return
        with self.database.write("keep what files of a night are") as connection:
            connection.execute(
                sa.delete(night_file).where(
                    night_file.c.night_id == identity,
                    night_file.c.path == sa.bindparam("old_path"),
                ),
                old,
            )
            if rows:
                connection.execute(sa.insert(night_file), rows)
