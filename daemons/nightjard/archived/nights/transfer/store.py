# SPDX-License-Identifier: BSD-3-Clause
"""Receipts and copies in the database, and the events that tell of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from nightjard.archived.database import Database
from nightjard.archived.nights import tables
from nightjard.archived.nights.transfer.accepting import (
    DIFFERENT,
    MISSING,
    VERIFIED,
    Comparison,
    Expected,
)
from nightjard.archived.nights.transfer.reading import storable

Hosts = dict[str, frozenset[str]]


@dataclass(frozen=True)
class Copy:
    """A file at a destination, as the host there last read it; as in table ``copy``."""

    destination: str
    host: str
    path: str
    size: int
    file_hash: str
    state: str
    verified_ns: int


@dataclass(frozen=True)
class Totals:
    """Files of a night at a destination that are in one state."""

    destination: str
    state: str
    host: str
    files: int
    bytes: int
    verified_ns: int


class CopyStore:
    """What is known of copies.

    Parameters
    ----------
    database
        Of the archive.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self, night_id: int, destination: str, kind: str, comparison: Comparison,
        text: str, signature: str, now_ns: int,
    ) -> int:  # fmt: skip
        """Keep a receipt and what it proves, in one transaction; return its number.

        Parameters
        ----------
        night_id, destination
            Whose.
        kind
            ``transfer`` or ``scrub``.
        comparison, text, signature
            The receipt, judged, and as it came.
        now_ns
            By the clock of this side; the far one may be wrong.
        """
        host = comparison.receipt.machine_id
        rows: list[dict[str, Any]] = [
            {"path": storable(path), "size": there.size, "file_hash": there.hash, "state": state}
            for state, files in ((VERIFIED, comparison.verified), (DIFFERENT, comparison.different))
            for path, there in files.items()
        ]
        rows += [
            {"path": storable(path), "size": 0, "file_hash": "", "state": MISSING}
            for path in comparison.missing
        ]
        copy = tables.copy
        mine = sa.and_(copy.c.night_id == night_id, copy.c.destination == destination)
        with self._database.write(f"record a receipt of {destination}") as connection:
            made = connection.execute(
                sa.insert(tables.receipt).values(
                    night_id=night_id, destination=destination, host=host, time_ns=now_ns,
                    kind=kind, body=text, signature=signature,
                )
            )  # fmt: skip
            assert made.inserted_primary_key is not None
            receipt_id = int(made.inserted_primary_key[0])
            if comparison.receipt.is_whole:
                known = connection.execute(
                    sa.select(copy.c.path, copy.c.size, copy.c.file_hash).where(mine)
                ).all()
                rows += _others(known, {str(row["path"]) for row in rows}, comparison)
            if rows:
                connection.execute(
                    sa.delete(copy).where(mine, copy.c.path == sa.bindparam("old_path")),
                    [{"old_path": row["path"]} for row in rows],
                )
                shared = {
                    "night_id": night_id, "destination": destination, "host": host,
                    "verified_ns": now_ns, "receipt_id": receipt_id,
                }  # fmt: skip
                connection.execute(sa.insert(copy), [{**row, **shared} for row in rows])
        return receipt_id

    def copies(self, night_id: int) -> list[Copy]:
        """Return all that is known of the copies of a night, sorted."""
        copy = tables.copy
        query = (
            sa.select(
                copy.c.destination, copy.c.host, copy.c.path, copy.c.size, copy.c.file_hash,
                copy.c.state, copy.c.verified_ns,
            )
            .where(copy.c.night_id == night_id)
            .order_by(copy.c.path, copy.c.destination)
        )  # fmt: skip
        with self._database.read() as connection:
            return [Copy(*row) for row in connection.execute(query)]

    def totals(self, night_id: int) -> list[Totals]:
        """Return how many files of a night are in which state at each destination."""
        copy = tables.copy
        query = (
            sa.select(
                copy.c.destination, copy.c.state, sa.func.min(copy.c.host),
                sa.func.count(), sa.func.sum(copy.c.size), sa.func.max(copy.c.verified_ns),
            )
            .where(copy.c.night_id == night_id)
            .group_by(copy.c.destination, copy.c.state)
            .order_by(copy.c.destination, copy.c.state)
        )  # fmt: skip
        with self._database.read() as connection:
            return [
                Totals(name, state, host, int(files), int(size), int(when))
                for name, state, host, files, size, when in connection.execute(query)
            ]

    def hosts(
        self, night_id: int, expected: Expected, counting: Collection[str], own_machine_id: str,
        since_ns: int = 0,
    ) -> Hosts:  # fmt: skip
        """Return path -> machines that have it, exactly as recorded, as they themselves said.

        Parameters
        ----------
        expected
            Path -> (size, blake3).
        counting
            Names of the destinations that count.
        own_machine_id
            Of this machine, which does not.
        since_ns
            Older receipts are not believed.
        """
        stored = {storable(path): path for path in expected}
        found: dict[str, set[str]] = defaultdict(set)
        for each in self.copies(night_id):
            path = stored.get(each.path)
            if (
                path is not None
                and each.state == VERIFIED
                and each.destination in counting
                and each.host != own_machine_id
                and each.verified_ns >= since_ns
                and (each.size, each.file_hash) == tuple(expected[path])
            ):
                found[path].add(each.host)
        return {path: frozenset(found.get(path, ())) for path in expected}

    def oldest(self) -> list[tuple[int, str, int]]:
        """Return (night, destination, time of the oldest receipt that a copy rests on)."""
        copy = tables.copy
        query = sa.select(
            copy.c.night_id, copy.c.destination, sa.func.min(copy.c.verified_ns)
        ).group_by(copy.c.night_id, copy.c.destination)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return sorted((int(night), str(name), int(when)) for night, name, when in rows)

    def say(self, night_id: int, kind: str, text: str, now_ns: int, by: str | None = None) -> None:
        """Add a line to the events of a night."""
        with self._database.write("record an event") as connection:
            connection.execute(
                sa.insert(tables.night_event).values(
                    night_id=night_id, time_ns=now_ns, kind=kind, text=storable(text), by=by
                )
            )

    def set_night(self, night_id: int, values: Mapping[str, int | None]) -> None:
        """Change times of a night."""
        with self._database.write("change a night") as connection:
            connection.execute(
                sa.update(tables.night).where(tables.night.c.id == night_id).values(**values)
            )

    def set_released(self, night_id: int, paths: Iterable[str], now_ns: int | None) -> None:
        """Say of raw cubes when they left the night's folder; None: they are back."""
        cube = tables.cube
        rows = [{"released_path": storable(path)} for path in paths]
        if not rows:
            return
        with self._database.write("record what was released") as connection:
            connection.execute(
                sa.update(cube)
                .where(cube.c.night_id == night_id, cube.c.path == sa.bindparam("released_path"))
                .values(released_ns=now_ns),
                rows,
            )

    def released(self, night_id: int) -> frozenset[str]:
        """Return the paths of raw cubes that are not in the night's folder any more."""
        cube = tables.cube
        query = sa.select(cube.c.path).where(
            cube.c.night_id == night_id, cube.c.released_ns.is_not(None)
        )
        with self._database.read() as connection:
            return frozenset(connection.execute(query).scalars())

    def veto(self, night_id: int) -> str | None:
        """Return a person's reason why nothing of a night may be released."""
        query = sa.select(tables.night.c.veto).where(tables.night.c.id == night_id)
        with self._database.read() as connection:
            reason: str | None = connection.execute(query).scalar()
            return reason


def _others(
    known: Iterable[Any], told: Collection[str], comparison: Comparison
) -> list[dict[str, Any]]:
    """Return rows of files that were not asked about this time: the host has read them, too.

    They were recorded before, as part of another request, or under a name that is not used now.
    """
    there = {storable(path): found for path, found in comparison.receipt.files.items()}
    rows = []
    for path, size, name in known:
        if path in told:
            continue
        found = there.get(path)
        state = MISSING if found is None else VERIFIED if found == (size, name) else DIFFERENT
        rows.append(
            {"path": path, "size": found.size if found else 0, "state": state,
             "file_hash": found.hash if found else ""}
        )  # fmt: skip
    return rows
