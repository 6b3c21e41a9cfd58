# SPDX-License-Identifier: BSD-3-Clause
"""From the plan, the database and the folder to the facts that a release is decided on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from nightjard.archived.database import Database
from nightjard.archived.nights import tables
from nightjard.archived.nights.records import CubeRef, Rows
from nightjard.archived.nights.transfer.policy import CubeFact, NightFacts, ProductFact
from nightjard.archived.nights.transfer.reading import storable
from nightjard.archived.nights.transfer.sending import Night, label
from nightjard.archived.nights.transfer.store import CopyStore

_SIDECARS = (".txt",)  # stay where they are: small, and not bit for bit in the products


@dataclass(frozen=True)
class Evidence:
    """A night and its plan.

    Attributes
    ----------
    folder
        Of the night.
    rows
        Of all frames, of :data:`~nightjard.archived.nights.records.ROW`.
    cubes
        Of the plan; index is number.
    is_whole
        Nothing has come for so long that nothing follows.
    """

    folder: Path
    rows: Rows
    cubes: Sequence[CubeRef]
    is_whole: bool = False


@dataclass(frozen=True)
class Coverage:
    """What the plan does with the frames of each cube, arrays or lists indexed by cube.

    Attributes
    ----------
    covered
        Different frames that are in products.
    products
        Numbers of these products.
    doubts
        Rows that do not add up.
    """

    covered: Sequence[int]
    products: Sequence[tuple[int, ...]]
    doubts: tuple[str, ...]


def coverage(rows: Rows, cubes: Sequence[CubeRef]) -> Coverage:
    """Count, from the rows alone, where the frames of each cube go.

    Every frame that any header promises must have exactly one row.
    """
    doubts = []
    count = len(cubes)
    cube = rows["cube"].astype(np.int64)
    index = rows["index"].astype(np.int64)
    sizes = np.array([each.frames for each in cubes], dtype=np.int64)
    present = np.array([each.present for each in cubes], dtype=np.int64)
    known = (cube >= 0) & (cube < count)
    if not known.all():
        doubts.append(f"{np.count_nonzero(~known)} rows of the plan are of no cube")
    cube, index, product = cube[known], index[known], rows["product"][known].astype(np.int64)
    inside = (index >= 0) & (index < sizes[cube])
    key = (cube << 32) | np.where(inside, index, 0)
    different = len(np.unique(key[inside]))
    if not (inside.all() and different == len(key) == int(sizes.sum())):
        doubts.append(
            f"the plan does not add up: {int(sizes.sum())} frames, {len(rows)} rows, "
            f"{different} different"
        )
    used = inside & (product >= 0) & (index < present[cube])
    covered = np.bincount(np.unique(key[used]) >> 32, minlength=count)
    pairs = np.unique(np.stack([cube[used], product[used]], axis=1), axis=0)
    products: list[list[int]] = [[] for _ in range(count)]
    for number, goal in pairs.tolist():
        products[number].append(goal)
    return Coverage(
        [int(each) for each in covered], [tuple(each) for each in products], tuple(doubts)
    )


def strangers(
    place: Path, cubes: Sequence[CubeRef], gone: frozenset[str] = frozenset()
) -> list[str]:
    """Return what is wrong with the raw files in `place`: missing, changed, not in the plan.

    `gone` are those that need not be there.
    """
    found = []
    known = {each.path for each in cubes}
    for each in cubes:
        try:
            state = (place / each.path).lstat()
        except OSError:
            if each.path in gone:
                continue
            found.append(f"{each.path} is not there")
            continue
        if (state.st_size, state.st_mtime_ns) != (each.size, each.mtime_ns):
            found.append(f"{each.path} changed after it was planned")
    for folder in sorted({Path(each.path).parent for each in cubes}):
        if not (place / folder).is_dir():
            continue
        for path in sorted((place / folder).iterdir()):
            name = (folder / path.name).as_posix()
            if name not in known and path.suffix not in _SIDECARS:
                found.append(f"{name} is in no plan")
    return found


def gather(
    database: Database, store: CopyStore, night: Night, evidence: Evidence, *,
    counting: frozenset[str], own_machine_id: str, since_ns: int,
    place: Path, held_ns: int | None, gone: frozenset[str] = frozenset(),
) -> NightFacts:  # fmt: skip
    """Return the facts of a night.

    Parameters
    ----------
    counting, own_machine_id, since_ns
        Which receipts are believed; see :meth:`CopyStore.hosts`.
    place
        Where the raw cubes lie now: the night's folder, or its quarantine.
    held_ns
        Since when they are in quarantine.
    gone
        Cubes that an earlier life has deleted already.
    """
    product, cube = tables.product, tables.cube
    with database.read() as connection:
        row = connection.execute(
            sa.select(tables.night).where(tables.night.c.id == night.id)
        ).one()
        made = connection.execute(
            sa.select(product).where(
                product.c.night_id == night.id, product.c.plan_hash == row.plan_hash
            )
        ).all()
        raw = connection.execute(sa.select(cube).where(cube.c.night_id == night.id)).all()
    expected = {
        each.path: (each.size, each.file_hash)
        for each in (*made, *raw)
        if each.path and each.file_hash
    }
    hosts = store.hosts(night.id, expected, counting, own_machine_id, since_ns)
    products = {
        each.number: ProductFact(
            each.path or "", each.verified_ns is not None, hosts.get(each.path, frozenset())
        )
        for each in made
    }
    counted = coverage(evidence.rows, evidence.cubes)
    problems = {each.path: each.problem or "" for each in raw}
    doubts = [*counted.doubts, *strangers(place, evidence.cubes, gone)]
    return NightFacts(
        night=label(night), veto=row.veto,
        is_sealed=row.sealed_ns is not None or evidence.is_whole,
        safe_ns=row.safe_ns, held_ns=held_ns, doubts=doubts, products=products,
        cubes=[
            CubeFact(
                path=each.path, size=each.size, mtime_ns=each.mtime_ns, frames=each.frames,
                present=each.present, covered=counted.covered[number],
                products=counted.products[number],
                problem=each.problem or problems.get(storable(each.path), ""),
                hosts=hosts.get(each.path, frozenset()),
            )
            for number, each in enumerate(evidence.cubes)
        ],
    )  # fmt: skip
