# SPDX-License-Identifier: BSD-3-Clause
"""The log book: what it accepts, and what it says while its database is in trouble."""

from __future__ import annotations

import itertools
from concurrent.futures import Future
from typing import Any

import pytest

from nightjar.api.obslog import MAX_APPEND, MAX_TEXT, MESSAGE_KEYS
from nightjar.api.states import Level
from nightjar.clock import NS_PER_S, ManualClock
from nightjar.errors import Busy, Code, InvalidArgument, NightjarError, StorageError
from nightjar.health import Health
from nightjar.times import iso
from nightjard.obslogd.model import CHECK_INTERVAL_S, STUCK_S, LogBook
from nightjard.obslogd.store import Filter, Found, Row, Totals

NOW = 1_750_000_000 * NS_PER_S


class FakeDatabase:
    """A list of rows, and the trouble that a test asks for."""

    kind = "fake"
    label = "the fake database"

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.trouble: NightjarError | None = None
        self.opens: list[Future[Totals]] = []
        self.checks: list[tuple[int | None, Future[int | None]]] = []
        self.interrupted = 0
        self.is_closed = False
        self.asked: list[tuple[Any, ...]] = []
        self.pages: list[tuple[list[Found], bool]] = []

    def begin_open(self) -> Future[Totals]:
        self.opens.append(Future())
        return self.opens[-1]

    def begin_check(self, probe_ns: int | None) -> Future[int | None]:
        self.checks.append((probe_ns, Future()))
        return self.checks[-1][1]

    def interrupt(self) -> None:
        self.interrupted += 1

    def append(self, rows: list[Row]) -> list[int]:
        if self.trouble is not None:
            raise self.trouble
        fresh = [r for r in rows if r.sequence is None or r not in self.rows]
        self.rows += fresh
        return list(range(len(self.rows) - len(fresh) + 1, len(self.rows) + 1))

    def tail(self, count: int, after: int | None, wanted: Filter) -> tuple[list[Found], int]:
        if self.trouble is not None:
            raise self.trouble
        self.asked.append((count, after, wanted))
        return [], 0

    def search(
        self, wanted: Filter, limit: int, before: tuple[int, int] | None
    ) -> tuple[list[Found], bool]:
        self.asked.append((wanted, limit, before))
        return self.pages.pop(0) if self.pages else ([], False)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase()


@pytest.fixture
def health(clock: ManualClock) -> Health:
    return Health(clock.now_ns)


@pytest.fixture
def book(database: FakeDatabase, clock: ManualClock, health: Health) -> LogBook:
    return LogBook(database, clock, health, minimum_free_bytes=1000)


def open_it(book: LogBook, database: FakeDatabase, totals: Totals | None = None) -> None:
    book.tick()
    database.opens[-1].set_result(totals or Totals(0, None))
    book.tick()
    assert book.status()["state"] == "OPEN"


# --- commands ----------------------------------------------------------------------------------


def test_append_stores_and_says_what_is_safe(book: LogBook, database: FakeDatabase) -> None:
    open_it(book, database)
    reply = book.append(
        "camd@test", "a1b2", [[5, NOW - 2 * NS_PER_S, "info", "one"],
                              [6, "2025-06-15T15:06:39.5", "error", "two\nlines \x1b[0m"]],
    )  # fmt: skip
    assert reply == {
        "stored": 2, "duplicates": 0, "through": 6, "received": iso(NOW),
        "first": iso(NOW - 2 * NS_PER_S), "last": "2025-06-15T15:06:39.500000",
    }  # fmt: skip
    first, second = database.rows
    assert first == Row(NOW - 2 * NS_PER_S, NOW, "camd@test", 0, "one", "a1b2", 5)
    assert (second.severity, second.text) == (2, "two lines \ufffd[0m")
    again = book.append("camd@test", "a1b2", [[5, NOW - 2 * NS_PER_S, "info", "one"]])
    assert (again["stored"], again["duplicates"], again["through"]) == (0, 1, 5)
    status = book.status()
    assert (status["stored"], status["duplicates"], status["messages"]) == (2, 1, 2)
    assert (status["last_id"], status["last_source"]) == (2, "camd@test")


def test_append_of_nothing(book: LogBook, database: FakeDatabase) -> None:
    open_it(book, database)
    assert book.append("camd@test", "a", [])["through"] is None


def test_odd_texts_are_stored_rather_than_offered_for_ever(
    book: LogBook, database: FakeDatabase
) -> None:
    open_it(book, database)
    texts = ["", "\n\n", "x" * (MAX_TEXT + 1), "\x00"]
    book.append("s" * 200, "a", [[n, NOW, "info", text] for n, text in enumerate(texts)])
    assert [r.text for r in database.rows] == [
        "(empty message)", "(empty message)", "x" * (MAX_TEXT - 1) + "…", "\ufffd",
    ]  # fmt: skip
    assert database.rows[0].source == "s" * 79 + "…"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([[1, NOW, "info", "x"], "no"], r"messages\[1\]: must be"),
        ([[1, NOW, "info"]], r"messages\[0\]: must be"),
        ([["1", NOW, "info", "x"]], "sequence"),
        ([[True, NOW, "info", "x"]], "sequence"),
        ([[-1, NOW, "info", "x"]], "sequence"),
        ([[2**63, NOW, "info", "x"]], "sequence"),
        ([[1, 1.5, "info", "x"]], "time"),
        ([[1, -1, "info", "x"]], "time"),
        ([[1, 2**63, "info", "x"]], "time"),
        ([[1, "yesterday", "info", "x"]], "time"),
        ([[1, NOW, "fatal", "x"]], "severity"),
        ([[1, NOW, ["info"], "x"]], "severity"),
        ([[1, NOW, "info", 5]], "text"),
        ([[1, NOW, "info", "x"]] * (MAX_APPEND + 1), "at most"),
    ],
)
def test_append_refuses_what_no_sender_of_ours_sends(
    book: LogBook, database: FakeDatabase, messages: list[Any], message: str
) -> None:
    open_it(book, database)
    with pytest.raises(InvalidArgument, match=message):
        book.append("camd@test", "a", messages)
    assert database.rows == []


@pytest.mark.parametrize("spool", ["", "a/b", "a" * 65, "ключ", "key:x"])
def test_a_spool_has_a_plain_name(book: LogBook, database: FakeDatabase, spool: str) -> None:
    open_it(book, database)
    with pytest.raises(InvalidArgument, match="spool"):
        book.append("camd@test", spool, [[1, NOW, "info", "x"]])


def test_write(book: LogBook, database: FakeDatabase) -> None:
    open_it(book, database)
    assert book.write("me", "warning", " clouds\n", None) == {"stored": 1, "time": iso(NOW)}
    book.write("me", "info", "keyed", "k-1")
    first, second = database.rows
    assert (first.text, first.severity, first.spool, first.sequence) == ("clouds", 1, None, None)
    assert second.spool == "key:k-1"
    for source, text, key in (("", "x", None), ("me", " \n", None), ("me", "x", "a b")):
        with pytest.raises(InvalidArgument):
            book.write(source, "info", text, key)
    assert len(database.rows) == 2


def test_search_hands_on_pages(book: LogBook, database: FakeDatabase) -> None:
    open_it(book, database)
    found = Found(7, NOW - 5, NOW, "camd@test", 1, "text")
    database.pages = [([found], True), ([found], False)]
    reply = book.search("te\x00xt", None, "warning", "2025-01-01", None, 1, None)
    assert reply["next"] == f"{NOW - 5}:7"
    assert set(reply["messages"][0]) == set(MESSAGE_KEYS)
    assert reply["messages"][0]["severity"] == "warning"
    last = book.search("", "camd*", "info", None, None, 1, reply["next"])
    assert last["next"] is None
    assert database.asked == [
        (Filter("te\ufffdxt", None, 1, 1_735_689_600 * NS_PER_S, None), 1, None),
        (Filter("", "camd*", None, None, None), 1, (NOW - 5, 7)),
    ]


@pytest.mark.parametrize("page", ["", "x", "1:2:3", "-1:2", "1; drop", f"{2**63}:1", "9" * 30])
def test_a_page_that_nobody_was_given(book: LogBook, database: FakeDatabase, page: str) -> None:
    open_it(book, database)
    with pytest.raises(InvalidArgument, match="page"):
        book.search("", None, None, None, None, 1, page)


@pytest.mark.parametrize("time", ["yesterday", "2025-02-30", "2025-01-01T25:00:00", ""])
def test_a_time_that_is_none(book: LogBook, database: FakeDatabase, time: str) -> None:
    open_it(book, database)
    with pytest.raises(InvalidArgument, match="since must be UTC"):
        book.search("", None, None, time, None, 1, None)


# --- a database in trouble ------------------------------------------------------------------------


def test_before_the_database_is_open_commands_fail_at_once(
    book: LogBook, database: FakeDatabase
) -> None:
    with pytest.raises(StorageError, match="being opened"):
        book.write("me", "info", "x", None)
    with pytest.raises(StorageError, match="being opened"):
        book.tail(1, None, None, None)
    assert book.status()["summary"] == "STANDBY"
    assert book.status()["messages"] is None
    assert not book.has_tried.is_set()


def test_opening_is_tried_again_with_growing_pauses(
    book: LogBook, database: FakeDatabase, clock: ManualClock, health: Health
) -> None:
    moments = []
    for _ in range(200):
        tries = len(database.opens)
        book.tick()
        if len(database.opens) > tries:
            moments.append(clock.monotonic_ns() / NS_PER_S)
            database.opens[-1].set_exception(StorageError("no route to the database"))
            book.tick()
            assert health.level_of("database") is Level.DEGRADED
        clock.advance(0.25)
    pauses = [b - a for a, b in itertools.pairwise(moments)]
    assert pauses[:7] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert book.has_tried.is_set()
    assert book.status()["state"] == "LOST"
    assert book.status()["summary"] == "STANDBY"
    assert book.status()["last_error"]["message"] == "no route to the database"
    with pytest.raises(StorageError, match="no route"):
        book.write("me", "info", "x", None)
    clock.advance(10)
    book.tick()
    database.opens[-1].set_result(Totals(3, Found(9, NOW, NOW, "a", 0, "t")))
    book.tick()
    assert health.level_of("database") is Level.OK
    status = book.status()
    assert (status["summary"], status["messages"], status["last_id"]) == ("READY", 3, 9)


@pytest.mark.parametrize(
    "trouble", [Busy("locked"), StorageError("full", code=Code.NO_SPACE)], ids=["locked", "full"]
)
def test_locked_or_full_is_degraded_until_a_probe_succeeds(
    book: LogBook,
    database: FakeDatabase,
    clock: ManualClock,
    health: Health,
    trouble: NightjarError,
) -> None:
    open_it(book, database)
    database.trouble = trouble
    with pytest.raises(type(trouble)) as failure:
        book.append("c", "a", [[1, NOW, "info", "x"]])
    assert failure.value.code is trouble.code
    assert health.level_of("database") is Level.DEGRADED
    assert book.status()["state"] == "OPEN"
    assert book.status()["failures"] == 1
    clock.advance(3)
    book.tick()
    assert database.checks[-1][0] == clock.now_ns()  # it tries to write
    database.checks[-1][1].set_exception(trouble)
    book.tick()
    assert health.level_of("database") is Level.DEGRADED
    clock.advance(3)
    book.tick()
    database.checks[-1][1].set_result(5000)
    book.tick()
    assert health.level_of("database") is Level.OK
    database.trouble = None
    assert book.append("c", "a", [[1, NOW, "info", "x"]])["stored"] == 1


def test_the_next_message_that_is_stored_ends_the_trouble(
    book: LogBook, database: FakeDatabase, health: Health
) -> None:
    open_it(book, database)
    database.trouble = Busy("locked")
    with pytest.raises(Busy):
        book.write("c", "info", "x", None)
    database.trouble = None
    book.write("c", "info", "x", None)
    assert health.level_of("database") is Level.OK


def test_gone_is_lost_and_opened_again(
    book: LogBook, database: FakeDatabase, clock: ManualClock, health: Health
) -> None:
    open_it(book, database)
    database.trouble = StorageError("the database file is gone")
    with pytest.raises(StorageError, match="gone"):
        book.append("c", "a", [[1, NOW, "info", "x"]])
    assert book.status()["state"] == "LOST"
    database.trouble = None
    with pytest.raises(StorageError, match="gone"):  # not before it was opened again
        book.append("c", "a", [[1, NOW, "info", "x"]])
    clock.advance(10)
    open_it(book, database)
    assert book.append("c", "a", [[1, NOW, "info", "x"]])["stored"] == 1


def test_a_quiet_database_is_looked_at(
    book: LogBook, database: FakeDatabase, clock: ManualClock, health: Health
) -> None:
    open_it(book, database)
    book.tick()
    assert [probe for probe, _ in database.checks] == [None]
    database.checks[-1][1].set_result(999)
    book.tick()
    assert health.snapshot()["parts"]["disk space"]["level"] == "DEGRADED"
    assert book.status()["free_bytes"] == 999
    book.tick()
    assert len(database.checks) == 1
    clock.advance(CHECK_INTERVAL_S)
    book.tick()
    database.checks[-1][1].set_result(5000)
    book.tick()
    assert health.snapshot()["level"] == "OK"
    clock.advance(CHECK_INTERVAL_S)
    book.tick()
    database.checks[-1][1].set_exception(StorageError("connection refused"))
    book.tick()
    assert book.status()["state"] == "LOST"


def test_a_database_that_hangs_is_interrupted_and_said_to_be_lost(
    book: LogBook, database: FakeDatabase, clock: ManualClock, health: Health
) -> None:
    open_it(book, database)
    book.tick()
    clock.advance(STUCK_S + 1)
    book.tick()
    assert database.interrupted == 1
    assert book.status()["state"] == "LOST"
    assert "has not answered" in health.snapshot()["reason"]


def test_a_failed_question_does_not_stop_the_log(
    book: LogBook, database: FakeDatabase, health: Health
) -> None:
    open_it(book, database)
    database.trouble = StorageError("the database did not answer within 3 s")
    with pytest.raises(StorageError):
        book.tail(1, None, None, None)
    assert book.status()["state"] == "OPEN"
    assert book.status()["last_error"]["name"] == "STORAGE_FAILED"
    assert health.level_of("database") is Level.OK


def test_closed(book: LogBook, database: FakeDatabase) -> None:
    open_it(book, database)
    book.close()
    assert database.is_closed
    assert book.status()["summary"] == "STOPPING"
    with pytest.raises(NightjarError) as refusal:
        book.write("me", "info", "x", None)
    assert refusal.value.code is Code.STOPPING
    book.tick()
    assert len(database.checks) <= 1
