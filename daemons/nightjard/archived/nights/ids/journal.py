# SPDX-License-Identifier: BSD-3-Clause
"""What the database remembers of frame IDs: requests, numbers, products.

A number is a row of ``frame_id`` from the moment it is granted: bound to a product, or free for
its night. All changes happen in transactions that hold :func:`lock`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from nightjar.errors import Refused
from nightjard.archived.nights.ids.names import frame_id as id_text
from nightjard.archived.nights.tables import frame_id, id_batch

ASKED, GRANTED = "asked", "granted"
_ID = frame_id.c


@dataclass(frozen=True, slots=True)
class Batch:
    """Numbers asked for together.

    Attributes
    ----------
    request
        Says for whom; the same request has the same numbers for ever.
    """

    id: int
    request: str
    allocator: str
    code: str
    count: int
    state: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A product that has its number."""

    code: str
    number: int
    time_ns: int

    @property
    def text(self) -> str:
        """The frame ID."""
        return id_text(self.code, self.number)


def lock(connection: Connection) -> None:
    """Let no other transaction change numbers; SQLite's writers are one at a time anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE id_batch IN SHARE ROW EXCLUSIVE MODE")


def bound(connection: Connection, family: str, date: str) -> dict[str, Bound]:
    """Return product -> number of a night."""
    rows = connection.execute(
        sa.select(_ID.product, _ID.code, _ID.number, _ID.time_ns)
        .where(_ID.family == family, _ID.date == date, _ID.product.is_not(None))
    )  # fmt: skip
    return {name: Bound(code, number, time_ns or 0) for name, code, number, time_ns in rows}


def free(connection: Connection, family: str, date: str, code: str) -> list[int]:
    """Return the numbers of a night that no product has yet, ascending."""
    return list(connection.scalars(
        sa.select(_ID.number).where(
            _ID.family == family, _ID.date == date, _ID.code == code, _ID.product.is_(None)
        ).order_by(_ID.number)
    ))  # fmt: skip


def bind(
    connection: Connection, family: str, date: str, code: str,
    products: Sequence[tuple[str, int]], numbers: Sequence[int],
) -> None:  # fmt: skip
    """Give each product, (name, start in ns), its number."""
    if products:
        connection.execute(
            sa.update(frame_id)
            .where(_ID.code == code, _ID.number == sa.bindparam("which"))
            .values(family=family, date=date, product=sa.bindparam("name"),
                    time_ns=sa.bindparam("start")),
            [{"which": number, "name": name, "start": start_ns}
             for (name, start_ns), number in zip(products, numbers, strict=True)],
        )  # fmt: skip


def rebind(
    connection: Connection, family: str, date: str, code: str,
    changed: Sequence[tuple[str, int, int]],
) -> None:  # fmt: skip
    """Exchange numbers among products: (name, start in ns, new number); all numbers are held."""
    where = (_ID.family == family, _ID.date == date, _ID.code == code)
    # Two rows may hold a name at no time: first all are free, then each has its new one.
    connection.execute(
        sa.update(frame_id).where(*where, _ID.product == sa.bindparam("name"))
        .values(product=None, time_ns=None),
        [{"name": name} for name, _, _ in changed],
    )  # fmt: skip
    bind(connection, family, date, code, [(name, start) for name, start, _ in changed],
         [number for _, _, number in changed])  # fmt: skip


def find_batch(connection: Connection, request: str) -> Batch | None:
    """Return the batch of a request."""
    row = connection.execute(_batches().where(id_batch.c.request == request)).one_or_none()
    return None if row is None else Batch(*row)


def open_batches(connection: Connection, prefix: str) -> list[Batch]:
    """Return batches that were asked for and not granted, oldest first; `prefix` of the request."""
    found = connection.execute(
        _batches().where(
            id_batch.c.state == ASKED, id_batch.c.request.startswith(prefix, autoescape=True)
        ).order_by(id_batch.c.id)
    )  # fmt: skip
    return [Batch(*row) for row in found]


def count_batches(connection: Connection, prefix: str) -> int:
    """Return how many requests begin with `prefix`."""
    return connection.execute(
        sa.select(sa.func.count()).select_from(id_batch)
        .where(id_batch.c.request.startswith(prefix, autoescape=True))
    ).scalar_one()  # fmt: skip


def _batches() -> sa.Select[Any]:
    c = id_batch.c
    return sa.select(c.id, c.request, c.allocator, c.code, c.count, c.state)


def ask(
    connection: Connection, allocator: str, code: str, count: int, request: str, now_ns: int
) -> Batch:
    """Write down that numbers are about to be asked for; an earlier row stands."""
    found = find_batch(connection, request)
    if found is None:
        identity = connection.execute(
            sa.insert(id_batch).values(
                request=request, allocator=allocator, code=code, count=count, state=ASKED,
                asked_ns=now_ns,
            ).returning(id_batch.c.id)
        ).scalar_one()  # fmt: skip
        found = Batch(identity, request, allocator, code, count, ASKED)
    if (found.code, found.count) != (code, count):
        raise Refused(
            f"request {request} for {count} frame IDs of {code} was made before for {found.count} "
            f"of {found.code}; a request must not be changed"
        )
    return found


def grant(
    connection: Connection, batch: Batch, numbers: Sequence[int], now_ns: int,
    night: tuple[str, str] | None = None,
) -> None:  # fmt: skip
    """Write down the numbers of a batch, free for a night (family, date).

    Raises
    ------
    Refused
        One of them was given before; none is used.
    """
    taken = _given(connection, batch.code, numbers)
    if taken:
        raise Refused(
            f"{batch.allocator} gave {_named(batch.code, taken)} for request {batch.request}, but "
            f"that was given before: a stale or repeated answer; no number of it is used",
            request=batch.request, numbers=taken[:20],
        )  # fmt: skip
    family, date = night or (None, None)
    if numbers:
        connection.execute(
            sa.insert(frame_id),
            [{"code": batch.code, "number": number, "batch_id": batch.id, "position": position,
              "family": family, "date": date}
             for position, number in enumerate(numbers)],
        )  # fmt: skip
    connection.execute(
        sa.update(id_batch).where(id_batch.c.id == batch.id)
        .values(state=GRANTED, granted_ns=now_ns)
    )  # fmt: skip


def _given(connection: Connection, code: str, numbers: Sequence[int]) -> list[int]:
    wanted = set(numbers)
    if not wanted:
        return []
    rows = connection.scalars(
        sa.select(_ID.number)
        .where(_ID.code == code, _ID.number >= min(wanted), _ID.number <= max(wanted))
        .order_by(_ID.number)
    )
    return [number for number in rows if number in wanted]


def _named(code: str, numbers: Sequence[int]) -> str:
    named = ", ".join(id_text(code, number) for number in numbers[:3])
    return named + (f" and {len(numbers) - 3} more" if len(numbers) > 3 else "")


def granted(connection: Connection, batch_id: int) -> list[int]:
    """Return the numbers of a batch in the order in which they were given."""
    return list(connection.scalars(
        sa.select(_ID.number).where(_ID.batch_id == batch_id).order_by(_ID.position)
    ))  # fmt: skip


def largest(connection: Connection, code: str) -> int | None:
    """Return the largest number given; None before the first."""
    found = connection.execute(
        sa.select(sa.func.max(_ID.number)).where(_ID.code == code)
    ).scalar_one()
    return None if found is None else int(found)


def later_night(connection: Connection, code: str, date: str) -> tuple[str, str, int] | None:
    """Return (family, date, smallest number) of the first later night that has IDs of a code."""
    row = connection.execute(
        sa.select(_ID.family, _ID.date, sa.func.min(_ID.number))
        .where(_ID.code == code, _ID.date > date)
        .group_by(_ID.family, _ID.date).order_by(_ID.date).limit(1)
    ).one_or_none()  # fmt: skip
    return None if row is None else (row[0] or "", row[1], row[2])


def owners(connection: Connection, ids: Iterable[tuple[str, int]]) -> dict[str, tuple[str, str]]:
    """Return frame ID -> (family, date), for those of `ids`, (code, number), that are bound."""
    wanted: dict[str, set[int]] = {}
    for code, number in ids:
        wanted.setdefault(code, set()).add(number)
    found: dict[str, tuple[str, str]] = {}
    for code, numbers in wanted.items():
        rows = connection.execute(
            sa.select(_ID.number, _ID.family, _ID.date).where(
                _ID.code == code, _ID.number >= min(numbers), _ID.number <= max(numbers),
                _ID.product.is_not(None),
            )
        )  # fmt: skip
        found |= {id_text(code, n): (f or "", d or "") for n, f, d in rows if n in numbers}
    return found


def codes(connection: Connection, family: str, date: str) -> list[str]:
    """Return the codes of which a night has numbers."""
    return list(connection.scalars(
        sa.select(_ID.code).where(_ID.family == family, _ID.date == date)
        .distinct().order_by(_ID.code)
    ))  # fmt: skip


def gaps(connection: Connection, code: str) -> list[tuple[int, int]]:
    """Return the ranges (first, last) between the numbers of a code that nobody here was given."""
    following = sa.func.lead(_ID.number).over(order_by=_ID.number).label("following")
    pairs = sa.select(_ID.number, following).where(_ID.code == code).subquery()
    rows = connection.execute(
        sa.select(pairs.c.number, pairs.c.following)
        .where(pairs.c.following > pairs.c.number + 1).order_by(pairs.c.number)
    )  # fmt: skip
    return [(number + 1, after - 1) for number, after in rows]
