# SPDX-License-Identifier: BSD-3-Clause
"""What the observatory's archive says that it took."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from nightjar.errors import StorageError
from nightjard.archived.database import Database
from nightjard.archived.nights.ids import journal
from nightjard.archived.nights.ids.names import parse

_ID = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{4}\d{8})(?:\.fits(?:\.fz)?)?(?![A-Za-z0-9])", re.ASCII)
_BLANK = re.compile(r"\s*(?:#.*)?\Z")


@dataclass(frozen=True, slots=True)
class Ingest:
    """A list of the archive beside ours.

    Attributes
    ----------
    confirmed
        It has them, and so have we.
    unknown
        It has them, we never gave them.
    missing
        We have them, it does not say so.
    """

    confirmed: tuple[str, ...]
    unknown: tuple[str, ...]
    missing: tuple[str, ...]


def read_confirmed(data: bytes, name: str = "the list") -> list[str]:
    """Return the frame IDs of a text: one a line, or the first in each line of a CSV.

    IDs may be in small letters and may have the endings of files. A first line without an ID is a
    heading; empty lines and those with ``#`` count nothing; an ID that comes again counts once.

    Raises
    ------
    StorageError
        Another line has no ID, or there is none at all; `name` stands for the file.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise StorageError(f"{name} is no text: byte {error.start} is not UTF-8") from None
    found: dict[str, None] = {}
    is_first = True
    for number, line in enumerate(lines, start=1):
        if _BLANK.match(line):
            continue
        match = _ID.search(line)
        if match is not None:
            found[match[1].upper()] = None
        elif not is_first:
            raise StorageError(f"{name}: line {number} has no frame ID: {line[:80]!r}")
        is_first = False
    if not found:
        raise StorageError(f"{name} has no frame IDs")
    return list(found)


def compare(confirmed: Iterable[str], known: Collection[str]) -> Ingest:
    """Return which of the confirmed IDs are ours, which are not, and which of ours are missing."""
    theirs, ours = set(confirmed), set(known)
    return Ingest(
        tuple(sorted(theirs & ours)), tuple(sorted(theirs - ours)), tuple(sorted(ours - theirs))
    )


def known_ids(database: Database, ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return ID -> night (family, date), for those of `ids` that products have."""
    pairs = [parse(text) for text in ids]
    with database.read() as connection:
        return journal.owners(connection, pairs)
