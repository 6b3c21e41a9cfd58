# SPDX-License-Identifier: BSD-3-Clause
"""What a manifest lists: products that were made, proven and numbered, and lie where they say."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy as sa

from nightjar.errors import Code, InvalidArgument, NightjarError, Refused, StorageError
from nightjard.archived.database import Database
from nightjard.archived.nights.ids.header import read_main_header
from nightjard.archived.nights.ids.names import exp_id, parse, parse_file_name
from nightjard.archived.nights.tables import night as nights
from nightjard.archived.nights.tables import product as products

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a manifest.

    Attributes
    ----------
    frame_id
        Of the product; its file has this name.
    path
        Absolute, on this host.
    size
        Bytes, as known when it was made.
    first_ns, last_ns
        Start of the first and end of the last exposure, ns UTC; 0 where not known.
    state
        Value of U_FLC.
    """

    frame_id: str
    path: Path
    size: int
    family: str = ""
    date: str = ""
    name: str = ""
    kind: str = ""
    stream: str = ""
    group: str = ""
    state: str = ""
    object: str = ""
    frames: int = 0
    first_ns: int = 0
    last_ns: int = 0
    file_hash: str = ""
    payload_hash: str = ""
    plan_hash: str = ""
    verified_ns: int = 0

    @property
    def exp_id(self) -> str:
        """The exposure ID."""
        return exp_id(self.frame_id)


@dataclass(frozen=True)
class PrefixMap:
    """Folders on this host and what they are called on the host that keeps the files.

    Parameters
    ----------
    pairs
        (folder here, folder there), absolute; the longest one that fits is used.

    Raises
    ------
    InvalidArgument
        A folder is not absolute.
    """

    pairs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for folder in (part for pair in self.pairs for part in pair):
            if not PurePosixPath(folder).is_absolute():
                raise InvalidArgument(f"{folder!r} is no absolute path: paths cannot be rewritten")

    def rewrite(self, path: Path) -> str:
        """Return the path there.

        Raises
        ------
        Refused
            There are pairs, but none for this path.
        """
        here = PurePosixPath(path)
        for old, new in sorted(self.pairs, key=lambda pair: -len(PurePosixPath(pair[0]).parts)):
            if here.is_relative_to(old):
                return str(PurePosixPath(new) / here.relative_to(old))
        if self.pairs:
            raise Refused(f"{path} is below none of the folders whose name there is known")
        return str(here)


def look_at(entries: Iterable[Entry]) -> None:
    """Raise StorageError unless every file is there, is a plain file, and has its size and name.

    All of them are looked at; the message counts and names what is wrong.
    """
    problems: list[str] = []
    for entry in entries:
        parse(entry.frame_id)
        if parse_file_name(entry.path.name) != entry.frame_id:
            problems.append(f"{entry.path}: its name is not {entry.frame_id}")
            continue
        try:
            found = entry.path.lstat()
        except OSError as error:
            problems.append(f"{entry.path}: {error.strerror}")
            continue
        if not stat.S_ISREG(found.st_mode):
            problems.append(f"{entry.path}: not a plain file")
        elif found.st_size != entry.size:
            problems.append(f"{entry.path}: {found.st_size} bytes, not {entry.size}")
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise StorageError(
            f"{len(problems)} files cannot be listed in a manifest: "
            f"{'; '.join(problems[:_NAMED])}{more}. Run verify for the night",
            problems=problems[:1000],
        )  # fmt: skip


def entries_of_night(
    database: Database, family: str, date: str, *, partial: bool = False
) -> list[Entry]:
    """Return the products of a night that can be listed, in order of their IDs.

    Parameters
    ----------
    partial
        Leave out products that are not made, proven and numbered, instead of refusing.

    Raises
    ------
    Refused
        There is no such night, or a product is not ready.
    StorageError
        The database failed, or a header cannot be read.
    """
    with database.read() as connection:
        found = connection.execute(
            sa.select(nights.c.id, nights.c.folder, nights.c.plan_hash)
            .where(nights.c.family == family, nights.c.date == date)
        ).one_or_none()  # fmt: skip
        rows: Sequence[Mapping[str, Any]] = []
        if found is not None and found.plan_hash:
            rows = connection.execute(
                sa.select(products)
                .where(products.c.night_id == found.id, products.c.plan_hash == found.plan_hash)
                .order_by(products.c.frame_id, products.c.number)
            ).mappings().all()  # type: ignore[assignment]  # fmt: skip
    if found is None or not rows:
        raise Refused(
            f"{family} {date} has no products to list: plan and run it first",
            code=Code.UNKNOWN_ITEM,
        )
    ready = [row for row in rows if _is_ready(row)]
    missing = [str(row["name"]) for row in rows if not _is_ready(row)]
    if missing and not partial:
        raise Refused(
            f"{len(missing)} of {len(rows)} products of {family} {date} are not made, proven and "
            f"numbered yet, the first of them {missing[0]}: run consolidate, ids, verify",
            missing=missing[:1000],
        )  # fmt: skip
    return [_entry(row, Path(found.folder), family, date) for row in ready]


def _is_ready(row: Mapping[str, Any]) -> bool:
    return all(row[key] is not None for key in ("frame_id", "path", "size", "verified_ns"))


def _entry(row: Mapping[str, Any], folder: Path, family: str, date: str) -> Entry:
    path = folder / row["path"]
    return Entry(
        row["frame_id"], path, row["size"], family, date, row["name"], row["kind"], row["stream"],
        row["group"], row["flc"], _object(path), row["frames"], row["first_ns"], row["last_ns"],
        row["file_hash"] or "", row["payload_hash"] or "", row["plan_hash"], row["verified_ns"],
    )  # fmt: skip


def _object(path: Path) -> str:
    """Return OBJECT; "" where the file is not there, which :func:`look_at` says."""
    try:
        value = read_main_header(path, ("OBJECT",)).get("OBJECT")
    except NightjarError:
        return ""
    return value if isinstance(value, str) else ""
