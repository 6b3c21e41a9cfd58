# SPDX-License-Identifier: BSD-3-Clause
"""Frame IDs of the products of a night, in order of time.

Numbers pass through three states, all of them in the database: asked for (a batch has a request,
nobody knows its numbers yet), free for a night, bound to a product. Whatever ends the program, the
next call for the night goes on from there: it repeats the request of an open batch, uses free
numbers first, and asks for what is still missing. So a crash makes neither a gap nor a duplicate.
With numbers from this database all three happen in one transaction.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from nightjar.clock import Clock
from nightjar.errors import InvalidArgument, NightjarError, Refused, StorageError
from nightjar.files import is_safe_name
from nightjard.archived.database import Database
from nightjard.archived.nights.ids import journal
from nightjard.archived.nights.ids.allocators import Allocator, LocalAllocator
from nightjard.archived.nights.ids.names import exp_id, frame_id, parse, require_code

log = logging.getLogger(__name__)

_DATE = re.compile(r"\d{8}\Z", re.ASCII)
_ROUNDS = 20  # of asking; each but the first means that another process took what was asked for
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Item:
    """A product that needs an ID: its name, the code of its stream, its start in ns UTC."""

    name: str
    code: str
    first_ns: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """The two IDs of a product."""

    frame_id: str
    exp_id: str


class FrameIds:
    """Gives IDs to products and remembers them; several processes may do so at once.

    Parameters
    ----------
    database
        Remembers.
    allocator
        Gives numbers.
    clock
        For the journal.
    """

    def __init__(self, database: Database, allocator: Allocator, clock: Clock) -> None:
        self._database = database
        self._allocator = allocator
        self._clock = clock

    def assign(
        self, family: str, date: str, items: Sequence[Item], *, allow_older: bool = False
    ) -> dict[str, Assigned]:
        """Return name -> IDs for all items, giving numbers to those that have none.

        Parameters
        ----------
        family, date
            The night.
        items
            In any order; the numbers rise with (first_ns, name). Items that have IDs keep them.
        allow_older
            Give numbers although a later night of the same code has some.

        Raises
        ------
        Refused
            A later night has IDs of this code already; or the numbers that came are not right.
        InvalidArgument
            Two items of one name, or one that has an ID of another code.
        StorageError, Unreachable, TimedOut
            The database, or who gives the numbers, does not answer. To be called again.
        """
        _require_night(family, date)
        ordered = sorted(items, key=lambda item: (item.first_ns, item.name))
        _require_items(ordered)
        for _ in range(_ROUNDS):
            batch = self._advance(family, date, ordered, allow_older)
            if batch is None:
                break
            self._ask(batch, family, date)
        else:
            raise StorageError(
                f"frame IDs of {family} {date}: other processes took {_ROUNDS} batches that were "
                f"asked for; end them and try again"
            )
        found = self.assigned(family, date)
        return {item.name: found[item.name] for item in ordered}

    def assigned(self, family: str, date: str) -> dict[str, Assigned]:
        """Return name -> IDs of a night, asking nobody for numbers."""
        with self._database.read() as connection:
            return _texts(journal.bound(connection, family, date))

    def withdraw(self, family: str, date: str, names: Iterable[str]) -> dict[str, Assigned]:
        """Tell which IDs stay reserved for products that will not exist for now.

        A night that is restored is processed again, and its products then get the same IDs.
        Nothing else ever does. So nothing is changed here; names without an ID are left out.
        """
        found = self.assigned(family, date)
        kept = {name: found[name] for name in names if name in found}
        if kept:
            log.info("%s %s: %d frame IDs stay reserved", family, date, len(kept))
        return kept

    def adopt(self, family: str, date: str, given: Mapping[Item, str]) -> None:
        """Take over IDs that other programs gave, so that nothing else gets them.

        Harmless twice.

        Raises
        ------
        Refused
            An ID is known as that of another product, or a product has another ID.
        """
        _require_night(family, date)
        _require_items(list(given))
        with self._database.write("take over frame IDs") as connection:
            journal.lock(connection)
            found = journal.bound(connection, family, date)
            new: dict[str, list[tuple[int, Item]]] = {}
            for item, text in given.items():
                code, number = parse(text)
                if code != item.code:
                    raise InvalidArgument(f"{item.name}: {text} is no ID of code {item.code}")
                known = found.get(item.name)
                if known is not None and known.text != text:
                    raise Refused(f"{item.name} of {family} {date} has {known.text}, not {text}")
                if known is None:
                    new.setdefault(code, []).append((number, item))
            for code, pairs in sorted(new.items()):
                self._adopt(connection, family, date, code, sorted(pairs, key=lambda one: one[0]))

    def rebind(self, family: str, date: str, changed: Mapping[str, str]) -> None:
        """Follow a change of files on disk: product name -> its new frame ID.

        Raises
        ------
        Refused
            The new IDs are not the old ones of the same products in another order.
        """
        with self._database.write("exchange frame IDs") as connection:
            journal.lock(connection)
            found = journal.bound(connection, family, date)
            unknown = sorted(set(changed) - set(found))
            if unknown:
                raise Refused(f"{family} {date}: {unknown[0]} has no frame ID that could change")
            old = sorted(found[name].text for name in changed)
            if sorted(changed.values()) != old:
                raise Refused(f"{family} {date}: frame IDs may only be exchanged, not replaced")
            for code in {parse(text)[0] for text in old}:
                rows = [(name, found[name].time_ns, parse(text)[1])
                        for name, text in changed.items() if parse(text)[0] == code]  # fmt: skip
                if any(found[name].code != code for name, _, _ in rows):
                    raise Refused(f"{family} {date}: an ID cannot go to a product of another code")
                journal.rebind(connection, family, date, code, rows)

    def unused(self, family: str, date: str) -> list[str]:
        """Return what was reserved for a night and stands for no product: IDs, open requests.

        The next :meth:`assign` of the night uses them first.
        """
        with self._database.read() as connection:
            codes = journal.codes(connection, family, date)
            free = [frame_id(code, number) for code in codes
                    for number in journal.free(connection, family, date, code)]  # fmt: skip
            batches = journal.open_batches(connection, f"{family}/{date}/")
        return free + [f"{batch.count} of request {batch.request}" for batch in batches]

    def gaps(self, code: str) -> list[tuple[str, str]]:
        """Return ranges (first ID, last ID) between given IDs of a code that were never given here.

        With numbers from this database there are none; an observatory may have given them to
        others.
        """
        with self._database.read() as connection:
            found = journal.gaps(connection, require_code(code))
        return [(frame_id(code, first), frame_id(code, last)) for first, last in found]

    # --- one step ---

    def _advance(
        self, family: str, date: str, ordered: Sequence[Item], allow_older: bool
    ) -> journal.Batch | None:
        """Bind all items where there are numbers for them; else return what must be asked for."""
        with self._database.read() as connection:  # by far the commonest case locks nothing
            if not _lacking(ordered, journal.bound(connection, family, date)):
                return None
        with self._database.write(f"give frame IDs to {family} {date}") as connection:
            journal.lock(connection)
            found = journal.bound(connection, family, date)
            lacking = _lacking(ordered, found)
            numbers: dict[str, list[int]] = {}
            for code, wanting in lacking.items():
                free = journal.free(connection, family, date, code)
                if len(free) < len(wanting):
                    batch = self._reserve(
                        connection, family, date, code, wanting, len(free), allow_older
                    )
                    if batch is not None:
                        return batch
                    free = journal.free(connection, family, date, code)
                numbers[code] = free
            for code, wanting in lacking.items():
                _warn_of_disorder(family, date, wanting, found)
                journal.bind(
                    connection, family, date, code,
                    [(item.name, item.first_ns) for item in wanting],
                    numbers[code][: len(wanting)],
                )  # fmt: skip
        return None

    def _reserve(
        self, connection: Connection, family: str, date: str, code: str,
        wanting: Sequence[Item], free: int, allow_older: bool,
    ) -> journal.Batch | None:  # fmt: skip
        """Return the batch to ask for; None where the numbers came at once."""
        prefix = f"{family}/{date}/{code}/"
        for batch in journal.open_batches(connection, prefix):
            if batch.allocator != self._allocator.name:
                raise Refused(
                    f"request {batch.request} was made to {batch.allocator} and is unanswered, "
                    f"but {self._allocator.name} gives frame IDs now: set ids.kind to "
                    f"{batch.allocator} until {date} has its IDs"
                )
            return batch
        later = journal.later_night(connection, code, date)
        if later is not None:
            text = f"{later[0]} {later[1]} has frame IDs of {code} from {later[2]:08d} on"
            if not allow_older:
                raise Refused(
                    f"{family} {date} gets no frame IDs: the later night {text}, and IDs follow "
                    f"time, oldest night first; to have it all the same: archive run {date} "
                    f"--step ids --force",
                    family=later[0], date=later[1],
                )  # fmt: skip
            log.warning("%s %s gets frame IDs although the later night %s", family, date, text)
        count = len(wanting) - free
        # The count of batches makes a second request for the same products another one.
        text = "\n".join([str(journal.count_batches(connection, prefix)), str(count),
                          *(f"{item.first_ns} {item.name}" for item in wanting)])  # fmt: skip
        request = prefix + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        if isinstance(self._allocator, LocalAllocator):
            self._allocator.grant_in(connection, code, count, request, (family, date))
            return None
        now_ns = self._clock.now_ns()
        return journal.ask(connection, self._allocator.name, code, count, request, now_ns)

    def _ask(self, batch: journal.Batch, family: str, date: str) -> None:
        """Ask for the numbers of a batch that the journal has, and write them down."""
        log.info("asking %s for %d frame IDs of %s: request %s",
                 self._allocator.name, batch.count, batch.code, batch.request)  # fmt: skip
        try:
            numbers = self._allocator.grant(batch.code, batch.count, batch.request)
        except NightjarError as error:
            log.warning("frame IDs of %s %s: %s", family, date, error)
            raise
        with self._database.write("write down frame IDs") as connection:
            journal.lock(connection)
            now = journal.find_batch(connection, batch.request)
            if now is None:
                raise StorageError(f"request {batch.request} vanished from the database")
            if now.state == journal.GRANTED:  # another process asked the same
                if journal.granted(connection, now.id) != numbers:
                    raise Refused(
                        f"request {batch.request} was answered with other numbers before; the new "
                        f"ones are not used"
                    )
                return
            last = journal.largest(connection, batch.code)
            journal.grant(connection, now, numbers, self._clock.now_ns(), (family, date))
        if last is not None and numbers[0] < last:
            log.warning("frame IDs of %s %s begin at %s, below some that were given before",
                        family, date, frame_id(batch.code, numbers[0]))  # fmt: skip

    def _adopt(
        self, connection: Connection, family: str, date: str, code: str,
        pairs: Sequence[tuple[int, Item]],
    ) -> None:  # fmt: skip
        numbers = [number for number, _ in pairs]
        if len(set(numbers)) < len(numbers):
            raise Refused(f"{family} {date}: two products have one and the same ID of {code}")
        prefix = f"{family}/{date}/{code}/adopted-"
        request = f"{prefix}{journal.count_batches(connection, prefix)}"
        now_ns = self._clock.now_ns()
        batch = journal.ask(connection, "adopted", code, len(numbers), request, now_ns)
        journal.grant(connection, batch, numbers, now_ns, (family, date))
        journal.bind(connection, family, date, code,
                     [(item.name, item.first_ns) for _, item in pairs], numbers)  # fmt: skip


def _texts(found: Mapping[str, journal.Bound]) -> dict[str, Assigned]:
    return {name: Assigned(one.text, exp_id(one.text)) for name, one in found.items()}


def _require_night(family: str, date: str) -> None:
    if not is_safe_name(family) or len(family) > 40 or not _DATE.match(date):
        raise InvalidArgument(f"{family!r} {date!r} is no night: a family, a date YYYYMMDD")


def _require_items(items: Sequence[Item]) -> None:
    names: set[str] = set()
    for item in items:
        require_code(item.code)
        if not item.name or len(item.name) > _LONGEST_NAME:
            raise InvalidArgument(f"{item.name!r} is no name of 1 to {_LONGEST_NAME} characters")
        if item.name in names:
            raise InvalidArgument(f"two products have the name {item.name}: which ID is whose?")
        names.add(item.name)


def _lacking(
    ordered: Sequence[Item], found: Mapping[str, journal.Bound]
) -> dict[str, list[Item]]:
    """Return code -> the items that have no ID, in order."""
    result: dict[str, list[Item]] = {}
    for item in ordered:
        known = found.get(item.name)
        if known is None:
            result.setdefault(item.code, []).append(item)
        elif known.code != item.code:
            raise InvalidArgument(
                f"{item.name} has {known.text} and cannot get another ID of {item.code}: give its "
                f"stream the code {known.code} again"
            )
    return dict(sorted(result.items()))


def _warn_of_disorder(
    family: str, date: str, wanting: Sequence[Item], found: Mapping[str, journal.Bound]
) -> None:
    code = wanting[0].code
    latest_ns = max((one.time_ns for one in found.values() if one.code == code), default=None)
    if latest_ns is not None and wanting[0].first_ns < latest_ns:
        log.warning(
            "%s %s: products from %s on come after later ones had frame IDs; theirs are larger",
            family, date, wanting[0].name,
        )  # fmt: skip
