# SPDX-License-Identifier: BSD-3-Clause
"""What is kept of nights: how far they are, their cubes, products, steps and history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from nightjard.archived.nights.file_store import FileStore
from nightjard.archived.nights.records import Product
from nightjard.archived.nights.scan import RawFile
from nightjard.archived.nights.tables import cube, night, night_event, product, step

Row = sa.RowMapping
_CARRIED = ("frame_id", "exp_id", "path", "task_hash", "size", "file_hash", "payload_hash",
            "written_ns", "verified_ns", "error")  # fmt: skip

# Of a night whose products are to be made, or to be made anew.
_UNPROVEN = {"processed_ns": None, "transferred_ns": None, "safe_ns": None}


class NightStore(FileStore):
    """All access to the tables of nights; thread-safe.

    Raises
    ------
    StorageError
        From every method: the database failed or does not answer.
    """

    # --- nights ---

    def see(self, family: str, date: str, folder: str, now_ns: int) -> Row:
        """Return the row of a night, made if it is new."""
        found = self.find(family, date)
        if found is not None:
            return found
        with self.database.write("note a night") as connection:
            present = _one(connection, sa.select(night).where(_is(family, date)))
            if present is None:
                connection.execute(sa.insert(night).values(
                    family=family, date=date, folder=folder, state="new", seen_ns=now_ns
                ))  # fmt: skip
        row = self.find(family, date)
        assert row is not None
        return row

    def find(self, family: str, date: str) -> Row | None:
        """Return the row of a night."""
        with self.database.read() as connection:
            return _one(connection, sa.select(night).where(_is(family, date)))

    def get(self, identity: int) -> Row:
        """Return the row of a night that is there."""
        with self.database.read() as connection:
            row = _one(connection, sa.select(night).where(night.c.id == identity))
        assert row is not None
        return row

    def nights(self, family: str | None = None) -> list[Row]:
        """Return all nights, oldest first."""
        statement = sa.select(night).order_by(night.c.date, night.c.family)
        if family is not None:
            statement = statement.where(night.c.family == family)
        with self.database.read() as connection:
            return list(connection.execute(statement).mappings())

    def set_night(self, identity: int, **values: Any) -> None:
        """Change a night."""
        with self.database.write("note how far a night is") as connection:
            connection.execute(sa.update(night).where(night.c.id == identity).values(**values))

    def say(self, identity: int, now_ns: int, kind: str, text: str, by: str | None = None) -> None:
        """Add to a night's history."""
        with self.database.write("write a night's history") as connection:
            connection.execute(sa.insert(night_event).values(
                night_id=identity, time_ns=now_ns, kind=kind, text=text, by=by
            ))  # fmt: skip

    def events(self, identity: int, limit: int = 200) -> list[Row]:
        """Return the last events of a night, oldest first."""
        statement = (
            sa.select(night_event).where(night_event.c.night_id == identity)
            .order_by(night_event.c.id.desc()).limit(limit)
        )  # fmt: skip
        with self.database.read() as connection:
            return list(connection.execute(statement).mappings())[::-1]

    def was_forced(self, identity: int) -> bool:
        """Tell whether raw of a night was ever taken by force although it had changed."""
        return self.get(identity)["forced_ns"] is not None

    def unprove(self, identity: int) -> None:
        """Take back that a night is safe: its files are not those that were proven."""
        with self.database.write("note that a night is not safe") as connection:
            mine = night.c.id == identity
            connection.execute(
                sa.update(night).where(mine)
                .values(transferred_ns=None, safe_ns=None, safe_files=None)
            )  # fmt: skip
            connection.execute(
                sa.update(night).where(mine, night.c.state.in_(("safe", "transferred")))
                .values(state="verified")
            )  # fmt: skip

    # --- cubes ---

    def put_cubes(self, identity: int, files: Sequence[RawFile]) -> None:
        """Keep what was seen of a night's raw files; files that are gone stay known."""
        known = {row["path"]: row for row in self.cubes(identity)}
        new, changed = [], []
        for each in files:
            ref = each.ref
            values = {
                "stream": ref.stream, "size": ref.size, "mtime_ns": ref.mtime_ns,
                "frames": ref.frames, "begin_ns": each.begin_ns, "end_ns": each.end_ns,
                "problem": ref.problem or None,
            }  # fmt: skip
            row = known.get(ref.path)
            if row is None:
                new.append({"night_id": identity, "path": ref.path, **values})
            elif any(row[key] != value for key, value in values.items()):
                # Its text may have come late: what its frames were hashed to is true still.
                if any(row[key] != values[key] for key in ("size", "mtime_ns")):
                    values.update(content_hash=None, file_hash=None)
                changed.append({"b_id": row["id"], **values})
        with self.database.write("note a night's cubes") as connection:
            if new:
                connection.execute(sa.insert(cube), new)
            for values in changed:
                where = cube.c.id == values.pop("b_id")
                connection.execute(sa.update(cube).where(where).values(**values))

    def announce(
        self, identity: int, path: str, stream: str, size: int, mtime_ns: int, now_ns: int
    ) -> bool:
        """Keep that a recorder announced a cube; False where that is known."""
        where = sa.and_(cube.c.night_id == identity, cube.c.path == path)
        with self.database.write("note a cube") as connection:
            row = _one(connection, sa.select(cube).where(where))
            if row is not None and row["announced_ns"] is not None and row["size"] == size:
                return False
            values: dict[str, Any] = {
                "size": size, "mtime_ns": mtime_ns, "announced_ns": now_ns,
            }  # fmt: skip
            if row is not None and (row["size"], row["mtime_ns"]) != (size, mtime_ns):
                values["file_hash"] = None
            if row is None:
                connection.execute(sa.insert(cube).values(
                    night_id=identity, path=path, stream=stream, **values
                ))  # fmt: skip
            else:
                connection.execute(sa.update(cube).where(where).values(**values))
            # The cube is in no product yet: whatever was proven before, this night is not safe.
            connection.execute(
                sa.update(night).where(night.c.id == identity)
                .values(changed_ns=now_ns, **_UNPROVEN)
            )  # fmt: skip
        return True

    def cubes(self, identity: int) -> list[Row]:
        """Return the cubes of a night by path."""
        statement = sa.select(cube).where(cube.c.night_id == identity).order_by(cube.c.path)
        with self.database.read() as connection:
            return list(connection.execute(statement).mappings())

    def touch_cubes(self, cubes: Mapping[int, int]) -> None:
        """Keep, by the row's id, that cubes have another time of change and the same content."""
        with self.database.write("note a night's cubes") as connection:
            for identity, mtime_ns in cubes.items():
                connection.execute(
                    sa.update(cube).where(cube.c.id == identity).values(mtime_ns=mtime_ns)
                )

    def forget_cubes(self, identities: Iterable[int]) -> None:
        """Forget cubes, by the row's id, that a person has said are gone for good."""
        with self.database.write("forget raw cubes") as connection:
            for identity in identities:
                connection.execute(sa.delete(cube).where(cube.c.id == identity))

    def put_file_hash(self, cube_id: int, value: str) -> None:
        """Keep the hash of a whole raw file, by the row's id."""
        with self.database.write("keep the hash of a raw file") as connection:
            connection.execute(
                sa.update(cube).where(cube.c.id == cube_id).values(file_hash=value)
            )

    def cube_totals(self, identity: int) -> dict[str, dict[str, int]]:
        """Return {stream: {files, frames, bytes, problems}} of a night."""
        count = sa.func.count
        statement = (
            sa.select(
                cube.c.stream, count().label("files"),
                sa.func.coalesce(sa.func.sum(cube.c.frames), 0).label("frames"),
                sa.func.coalesce(sa.func.sum(cube.c.size), 0).label("bytes"),
                count(cube.c.problem).label("problems"),
            )
            .where(cube.c.night_id == identity)
            .group_by(cube.c.stream).order_by(cube.c.stream)
        )  # fmt: skip
        with self.database.read() as connection:
            return {
                row["stream"]: {key: int(row[key])
                                for key in ("files", "frames", "bytes", "problems")}
                for row in connection.execute(statement).mappings()
            }  # fmt: skip

    def product_facts(self, identity: int) -> list[dict[str, Any]]:
        """Return what steps look at of products, in their order; a third of the time of all."""
        columns = (product.c.path, product.c.size, product.c.state, product.c.file_hash,
                   product.c.frame_id, product.c.stream)  # fmt: skip
        statement = (
            sa.select(*columns).where(product.c.night_id == identity).order_by(product.c.number)
        )
        names = [column.name for column in columns]
        with self.database.read() as connection:
            # Plain dictionaries: they are looked into several times, and there are thousands.
            return [dict(zip(names, row, strict=True)) for row in connection.execute(statement)]

    def product_states(self, identity: int) -> dict[str, int]:
        """Return {state: count} of a night's products."""
        statement = (
            sa.select(product.c.state, sa.func.count())
            .where(product.c.night_id == identity)
            .group_by(product.c.state).order_by(product.c.state)
        )  # fmt: skip
        with self.database.read() as connection:
            return {str(state): int(count) for state, count in connection.execute(statement)}

    def put_raw_hashes(self, identity: int, hashes: Mapping[str, str]) -> None:
        """Keep the content hashes of cubes, by path."""
        with self.database.write("keep the hashes of raw cubes") as connection:
            for path, value in hashes.items():
                connection.execute(
                    sa.update(cube)
                    .where(cube.c.night_id == identity, cube.c.path == path)
                    .values(content_hash=value)
                )

    # --- products ---

    def put_plan(
        self, identity: int, plan_hash: str, products: Sequence[Product], **values: Any
    ) -> None:
        """Make a plan the one of its night; products of earlier ones are forgotten.

        What is known of a product that both plans have (same name, frames, times) is kept.
        """
        with self.database.write("keep a plan") as connection:
            old = {
                row["name"]: row
                for row in connection.execute(
                    sa.select(product).where(product.c.night_id == identity)
                ).mappings()
            }
            same = {row["plan_hash"] for row in old.values()} == {plan_hash}
            if not same or len(old) != len(products):
                values = {**values, **_UNPROVEN}
                connection.execute(sa.delete(product).where(product.c.night_id == identity))
                rows = [_product_row(identity, plan_hash, each, old) for each in products]
                if rows:
                    connection.execute(sa.insert(product), rows)
            connection.execute(
                sa.update(night)
                .where(night.c.id == identity)
                .values(plan_hash=plan_hash, **values)
            )

    def products(self, identity: int) -> list[Row]:
        """Return the products of a night's plan in their order."""
        statement = (
            sa.select(product).where(product.c.night_id == identity).order_by(product.c.number)
        )
        with self.database.read() as connection:
            return list(connection.execute(statement).mappings())

    def product_named(self, text: str) -> list[Row]:
        """Return products by frame ID, name or the file's name, in any night."""
        stem = text.removesuffix(".fz").removesuffix(".fits")
        where = sa.or_(
            product.c.frame_id == stem, product.c.exp_id == stem, product.c.name == stem,
            product.c.path.endswith(f"/{text}", autoescape=True),
        )  # fmt: skip
        with self.database.read() as connection:
            return list(connection.execute(sa.select(product).where(where)).mappings())

    def set_products(self, values: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Change products, (id, values) each, in one transaction."""
        with self.database.write("keep what became of products") as connection:
            for identity, changes in values:
                connection.execute(
                    sa.update(product).where(product.c.id == identity).values(**changes)
                )

    def forget(self, identity: int) -> None:
        """Forget plan, products and steps of a night; its history and cubes stay."""
        with self.database.write("forget a plan") as connection:
            connection.execute(sa.delete(product).where(product.c.night_id == identity))
            connection.execute(sa.delete(step).where(step.c.night_id == identity))
            connection.execute(
                sa.update(night).where(night.c.id == identity).values(
                    state="new", plan_hash=None, inputs_hash=None, processed_ns=None,
                    transferred_ns=None, safe_ns=None, raw_frames=None, lost_frames=None,
                    dubious_frames=None, ledger_frames=None, product_bytes=None, error=None,
                )
            )  # fmt: skip


def _is(family: str, date: str) -> sa.ColumnElement[bool]:
    return sa.and_(night.c.family == family, night.c.date == date)


def _one(connection: sa.Connection, statement: sa.Select[Any]) -> Row | None:
    return connection.execute(statement).mappings().first()


def _product_row(
    identity: int, plan_hash: str, each: Product, old: Mapping[str, Row]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "night_id": identity, "plan_hash": plan_hash, "number": each.number, "name": each.name,
        "folder": each.folder, "kind": each.kind.value, "stream": each.stream,
        "group": each.group, "flc": each.state, "frames": each.frames,
        "first_ns": each.first_ns, "last_ns": each.last_ns, "state": "planned",
    }  # fmt: skip
    before = old.get(each.name)
    # The numbers stay with the name. Whether the file is still right the task's hash tells.
    for column in _CARRIED:
        row[column] = before[column] if before else None
    row["state"] = before["state"] if before else "planned"
    return row

