# SPDX-License-Identifier: BSD-3-Clause
"""What a database of the observatory log must do, whichever it is; each test gets an open one."""

from __future__ import annotations

import random
import threading

from nightjar.api.obslog import MAX_TEXT
from nightjard.obslogd.store import KEYED, Filter, Found, Row, Store, Totals

T0 = 1_795_000_000_000_000_000
S = 1_000_000_000


def row(sequence: int | None, text: str = "x", **changes: object) -> Row:
    values: dict[str, object] = {
        "time_ns": T0 + (sequence or 0) * S, "received_ns": T0, "source": "camd@test",
        "severity": 0, "text": text, "spool": None if sequence is None else "abc",
        "sequence": sequence,
    }  # fmt: skip
    return Row(**(values | changes))  # type: ignore[arg-type]


def opened(store: Store) -> Totals:
    return store.begin_open().result(20)


def everything(store: Store) -> list[Found]:
    found: list[Found] = []
    while True:
        page, last = store.tail(1000, found[-1].id if found else 0, Filter())
        if not page:
            return found
        assert page[-1].id <= last
        found += page


class StoreContract:
    """Inherited by the test classes; `store` is a fixture of each module."""

    def test_messages_come_back_as_they_were(self, store: Store) -> None:
        text = "Überlauf 'quoted' \\ % _ ☾ 日本 🌙 " + "y" * (MAX_TEXT - 40)
        given = row(7, text, severity=2, time_ns=T0 + 123_456_789, received_ns=2**62)
        assert store.append([given]) == [1]
        found, last = store.tail(10, None, Filter())
        assert found == [Found(1, T0 + 123_456_789, 2**62, "camd@test", 2, text)]
        assert last == 1

    def test_each_sequence_number_of_a_spool_is_stored_once(self, store: Store) -> None:
        batch = [row(n, f"m{n}") for n in range(1, 6)]
        assert len(store.append(batch)) == 5
        assert store.append(batch) == []
        overlap = [row(n, f"m{n}") for n in range(4, 9)]
        assert len(store.append(overlap)) == 3
        assert len(store.append([row(4, spool="other")])) == 1
        assert [m.text for m in everything(store)] == [*(f"m{n}" for n in range(1, 9)), "x"]

    def test_twice_in_one_batch_is_once(self, store: Store) -> None:
        assert len(store.append([row(1, "a"), row(1, "a"), row(2, "b")])) == 2

    def test_a_number_used_again_for_another_message_loses_neither(self, store: Store) -> None:
        # A spool file put back from a copy: the same number, another time and text.
        store.append([row(1, "before"), row(2, "before 2")])
        again = [row(2, "after", time_ns=T0 + 99 * S), row(3, "after 3")]
        assert len(store.append(again)) == 2
        assert store.append(again) == []
        texts = [m.text for m in everything(store)]
        assert texts == ["before", "before 2", "after", "after 3"]

    def test_a_key_is_stored_once_whatever_the_time(self, store: Store) -> None:
        first = row(KEYED, spool="key:k", time_ns=T0)
        again = row(KEYED, spool="key:k", time_ns=T0 + 5 * S)
        assert len(store.append([first])) == 1
        assert store.append([again]) == []

    def test_messages_without_a_number_are_all_stored(self, store: Store) -> None:
        assert len(store.append([row(None), row(None)])) == 2
        assert len(store.append([row(None)])) == 1

    def test_a_thousand_in_one_transaction_keep_their_order(self, store: Store) -> None:
        batch = [row(n, f"m{n}") for n in range(1, 1001)]
        ids = store.append(batch)
        assert ids == sorted(ids)
        assert len(ids) == 1000
        assert [m.text for m in everything(store)] == [r.text for r in batch]

    def test_tail_and_filters(self, store: Store) -> None:
        rng = random.Random(5)
        rows = [
            row(n, f"m{n}", source=rng.choice(["camd@a", "camd@b", "CAMD_x", "tel%"]),
                severity=rng.randrange(3))
            for n in range(1, 200)
        ]  # fmt: skip
        store.append(rows)
        found, last = store.tail(5, None, Filter())
        assert [m.text for m in found] == ["m195", "m196", "m197", "m198", "m199"]
        assert last == found[-1].id
        found, _ = store.tail(3, found[0].id, Filter())
        assert [m.text for m in found] == ["m196", "m197", "m198"]

        def texts(wanted: Filter) -> list[str]:
            return [m.text for m in store.tail(1000, None, wanted)[0]]

        assert texts(Filter(source="camd@a")) == [r.text for r in rows if r.source == "camd@a"]
        assert texts(Filter(source="camd*")) == [r.text for r in rows if r.source[:3] != "tel"]
        assert texts(Filter(source="camd_*")) == [r.text for r in rows if r.source == "CAMD_x"]
        assert texts(Filter(source="*%")) == [r.text for r in rows if r.source == "tel%"]
        assert texts(Filter(severity=1)) == [r.text for r in rows if r.severity >= 1]
        assert texts(Filter(severity=2, source="camd@b")) == [
            r.text for r in rows if r.severity == 2 and r.source == "camd@b"
        ]

    def test_search_finds_text_as_it_is_written_or_not(self, store: Store) -> None:
        store.append(
            [row(1, "Filter wheel STUCK"), row(2, "100% done"), row(3, "100 percent"),
             row(4, "under_score"), row(5, "underXscore"), row(6, "a\\b")]
        )  # fmt: skip

        def texts(text: str) -> list[str]:
            return [m.text for m in store.search(Filter(text=text), 10, None)[0]]

        assert texts("stuck") == ["Filter wheel STUCK"]
        assert texts("0%") == ["100% done"]
        assert texts("R_S") == ["under_score"]
        assert texts("a\\b") == ["a\\b"]
        assert texts("wheel stuck") == ["Filter wheel STUCK"]
        assert texts("nothing of it") == []

    def test_search_by_time_in_pages(self, store: Store) -> None:
        rng = random.Random(11)
        # Many share a time, and arrival is not in the order of time.
        rows = [row(n, f"m{n}", time_ns=T0 + rng.randrange(40) * S) for n in range(1, 150)]
        ids = dict(zip((r.text for r in rows), store.append(rows), strict=True))
        wanted = Filter(since_ns=T0 + 5 * S, until_ns=T0 + 30 * S)
        expected = sorted(
            (r for r in rows if T0 + 5 * S <= r.time_ns < T0 + 30 * S),
            key=lambda r: (r.time_ns, ids[r.text]), reverse=True,
        )  # fmt: skip
        found: list[Found] = []
        pages = 0
        has_more = True
        while has_more:
            before = (found[-1].time_ns, found[-1].id) if found else None
            page, has_more = store.search(wanted, 7, before)
            assert 1 <= len(page) <= 7
            found += page
            pages += 1
        assert [m.text for m in found] == [r.text for r in expected]
        assert pages == -(-len(expected) // 7)

    def test_a_page_never_grows_beyond_what_a_reply_can_hold(self, store: Store) -> None:
        store.append([row(n, "日" * MAX_TEXT) for n in range(1, 201)])
        page, last = store.tail(1000, None, Filter())
        assert 10 < len(page) < 200
        assert page[-1].id == last
        assert sum(len(m.text.encode()) for m in page) < 500_000
        first, _ = store.tail(1000, 0, Filter())
        assert first[0].id == 1
        found, has_more = store.search(Filter(), 1000, None)
        assert has_more
        assert len(found) == len(page)
        assert len(everything(store)) == 200

    def test_many_senders_at_once(self, store: Store) -> None:
        def send(spool: str) -> None:
            for start in range(1, 41, 10):
                batch = [row(n, f"{spool}{n}", spool=spool) for n in range(start, start + 10)]
                store.append(batch)
                store.append(batch)  # as after a lost reply

        threads = [threading.Thread(target=send, args=(name,)) for name in "abcdef"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        found = everything(store)
        assert len(found) == 240
        for name in "abcdef":
            mine = [m.text for m in found if m.text[0] == name]
            assert mine == [f"{name}{n}" for n in range(1, 41)]

    def test_opening_tells_what_is_there(self, store: Store) -> None:
        store.append([row(1, "a"), row(2, "b")])
        totals = opened(store)
        assert totals.messages == 2
        assert totals.last is not None
        assert totals.last.text == "b"

    def test_probing_writes_nothing_that_is_seen(self, store: Store) -> None:
        for time_ns in (None, T0, T0 + 1):
            store.begin_check(time_ns).result(5)
        assert everything(store) == []
