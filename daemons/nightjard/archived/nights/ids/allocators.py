# SPDX-License-Identifier: BSD-3-Clause
"""Who gives numbers: the interface, and the archive's own database."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy.engine import Connection

from nightjar.clock import Clock, SystemClock
from nightjar.errors import InvalidArgument
from nightjard.archived.database import Database
from nightjard.archived.nights.ids import journal
from nightjard.archived.nights.ids.names import LARGEST, frame_id, require_code

LONGEST_REQUEST = 120
MOST = 1_000_000  # numbers of one request; a night has some thousand products


class Allocator(Protocol):
    """Gives numbers of frame IDs.

    Attributes
    ----------
    name
        Kept with each batch.
    """

    name: str

    def grant(self, code: str, count: int, request: str) -> list[int]:
        """Return `count` numbers, ascending, that nobody had before and nobody will have.

        Parameters
        ----------
        code
            The letters before the number, VMPA.
        request
            Whoever asks again with the same text gets the same numbers.

        Raises
        ------
        Refused
            The answer, or the request, is not right; no number is to be used.
        StorageError, Unreachable, TimedOut
            There was no answer. It may be repeated.
        """
        ...


def require_request(code: str, count: int, request: str) -> None:
    """Raise InvalidArgument unless this is a request that can be answered."""
    require_code(code)
    if not 1 <= count <= MOST:
        raise InvalidArgument(f"{count} frame IDs cannot be asked for at once: 1 to {MOST}")
    if not request or len(request) > LONGEST_REQUEST or not request.isprintable():
        raise InvalidArgument(f"a request is a text of 1 to {LONGEST_REQUEST} characters")


class LocalAllocator:
    """Numbers from the archive's database: gap-free, unique over all processes and hosts.

    The largest number in the database is the counter, and it grows in the transaction that hands
    numbers out: there is nothing that a crash could leave half done.

    Parameters
    ----------
    database
        SQLite or PostgreSQL.
    first
        Number of the first ID of each code.
    """

    name = "local"

    def __init__(self, database: Database, first: int = 1, clock: Clock | None = None) -> None:
        if not 0 <= first <= LARGEST:
            raise InvalidArgument(f"the first frame ID cannot have number {first}: 0 to {LARGEST}")
        self._database = database
        self._first = first
        self._clock: Clock = clock or SystemClock()

    def grant(self, code: str, count: int, request: str) -> list[int]:
        """Return numbers; durable when this returns. See :class:`Allocator`."""
        with self._database.write("give frame IDs") as connection:
            return self.grant_in(connection, code, count, request)

    def grant_in(
        self, connection: Connection, code: str, count: int, request: str,
        night: tuple[str, str] | None = None,
    ) -> list[int]:  # fmt: skip
        """Return numbers, given when the caller's transaction ends; `night`: (family, date)."""
        require_request(code, count, request)
        journal.lock(connection)
        now_ns = self._clock.now_ns()
        batch = journal.ask(connection, self.name, code, count, request, now_ns)
        if batch.state == journal.GRANTED:
            return journal.granted(connection, batch.id)
        last = journal.largest(connection, code)
        begin = self._first if last is None else max(self._first, last + 1)
        frame_id(code, begin + count - 1)  # refused where the digits are used up
        numbers = list(range(begin, begin + count))
        journal.grant(connection, batch, numbers, now_ns, night)
        return numbers
