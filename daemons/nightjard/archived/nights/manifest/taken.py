# SPDX-License-Identifier: BSD-3-Clause
"""What the observatory's archive has confirmed of a night, kept as it came.

A list of IDs has no hashes and no signature. So it tells what need not be sent again, and proves
nothing of any content: neither `safe` nor the release of raw rests on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from nightjard.archived.database import Database
from nightjard.archived.nights.tables import product, receipt

KIND = "ingest"
FORMAT = "nightjar-ingest 1"
WHO = "observatory archive"  # in the place of a destination's name


@dataclass(frozen=True)
class Taken:
    """What was confirmed of a night.

    Attributes
    ----------
    files
        Products with an ID.
    confirmed, missing
        IDs of these that some list had, and that none had; sorted.
    time_ns
        Of the last list; None where there was none.
    """

    files: int
    confirmed: tuple[str, ...]
    missing: tuple[str, ...]
    time_ns: int | None


def note(database: Database, night_id: int, ids: Iterable[str], now_ns: int) -> None:
    """Keep that a list had these IDs of a night."""
    body = json.dumps({"format": FORMAT, "ids": sorted(ids)}, separators=(",", ":"))
    with database.write("keep what the observatory's archive took") as connection:
        connection.execute(sa.insert(receipt).values(
            night_id=night_id, destination=WHO, host="", time_ns=now_ns, kind=KIND, body=body,
            signature="",
        ))  # fmt: skip


def taken(database: Database, night_id: int, further: Iterable[str] = ()) -> Taken:
    """Return what was confirmed of a night's present products, by all lists and `further` IDs."""
    named = set(further)
    with database.read() as connection:
        rows = connection.execute(
            sa.select(receipt.c.body, receipt.c.time_ns)
            .where(receipt.c.night_id == night_id, receipt.c.kind == KIND)
        ).all()
        ours: set[str] = set()
        if rows or named:
            ours = set(connection.execute(
                sa.select(product.c.frame_id)
                .where(product.c.night_id == night_id, product.c.frame_id.is_not(None))
            ).scalars())  # fmt: skip
    for body, _ in rows:
        named.update(json.loads(body)["ids"])
    return Taken(
        len(ours), tuple(sorted(ours & named)), tuple(sorted(ours - named)),
        max((int(when) for _, when in rows), default=None),
    )  # fmt: skip
