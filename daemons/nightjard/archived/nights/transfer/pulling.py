# SPDX-License-Identifier: BSD-3-Clause
"""A destination that fetches by itself: it is asked by a file, and its receipt is waited for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from nightjar.clock import Clock
from nightjar.errors import NightjarError, StorageError
from nightjar.files import write_durably
from nightjar.times import file_stamp
from nightjard.archived.nights.transfer import receipts, requests, rsync
from nightjard.archived.nights.transfer.accepting import Comparison, Expected, Question
from nightjard.archived.nights.transfer.link import Link
from nightjard.archived.nights.transfer.requests import Request
from nightjard.archived.nights.transfer.sending import (
    ROUNDS,
    Night,
    Outcome,
    Sender,
    label,
    local_faults,
    night_lock,
    told,
)
from nightjard.archived.nights.transfer.store import CopyStore


class Puller:
    """Asks, and looks for the answer; never waits.

    Parameters
    ----------
    store, sender, clock
        Its tools.
    """

    def __init__(self, store: CopyStore, sender: Sender, clock: Clock) -> None:
        self._store = store
        self._sender = sender
        self._clock = clock

    def transfer(
        self, night: Night, folder: Path, expected: Expected, link: Link, kind: str = "transfer"
    ) -> Outcome:
        """Ask for a night, or take the answer if it is there; to be called again while waiting.

        Raises
        ------
        NightjarError
            The answer was not believed; it is kept aside and asked for again.
        """
        ours = link.wanted(expected)
        with night_lock(folder, link.name) as office:
            desk = office / link.name
            request = self._read(desk, folder.name)
            if request is None:
                self._ask(desk, self._request(night, folder, link, kind))
                self._sender.say(night, kind, f"{link.name}: asked to fetch the night")
                return Outcome(link.name, is_waiting=True)
            answer = desk / request.answer_name
            if not answer.exists():
                return Outcome(link.name, is_waiting=True)
            comparison = self._take(night, ours, link, request, answer)
            return self._judge(night, folder, ours, link, request, comparison, desk)

    def _take(
        self, night: Night, ours: Expected, link: Link, request: Request, answer: Path
    ) -> Comparison:
        only = None if request.only is None else frozenset(request.only)
        question = Question(label(night), request.nonce, only)
        try:
            text, signature = receipts.split(answer.read_text(errors="replace"))
            return self._sender.take(night, ours, link, request.kind, question, text, signature)
        except StorageError:
            raise  # the database: the answer stays for the next try
        except NightjarError:
            stamp = file_stamp(self._clock.now_ns())
            answer.rename(answer.with_name(f"{answer.name}.refused-{stamp}"))
            (answer.parent / request.request_name).unlink(missing_ok=True)
            raise

    def _judge(
        self, night: Night, folder: Path, ours: Expected, link: Link, request: Request,
        comparison: Comparison, desk: Path,
    ) -> Outcome:  # fmt: skip
        bad: Mapping[str, str] = comparison.reasons
        spoiled = local_faults(folder, ours, bad, link.report, link.is_cancelled) if bad else {}
        again = tuple(sorted(path for path in bad if path not in spoiled))
        if bad:
            self._sender.say(night, "bad copy", f"{link.name}: {told(bad)}")
        (desk / request.answer_name).unlink(missing_ok=True)
        if again and request.round < ROUNDS:
            following = self._request(
                night, folder, link, request.kind, only=again, number=request.round + 1
            )
            self._ask(desk, following)
            return Outcome(link.name, is_waiting=True, bad=bad, spoiled=spoiled)
        (desk / request.request_name).unlink(missing_ok=True)
        hosts = self._store.hosts(night.id, ours, {link.name}, "")
        outcome = Outcome(
            destination=link.name, host=comparison.receipt.host,
            machine_id=comparison.receipt.machine_id,
            verified=sum(1 for each in hosts.values() if each),
            bad={path: bad.get(path, "not proven") for path, each in hosts.items() if not each},
            spoiled=spoiled, counts=comparison.counts,
            repaired=request.only or () if request.round > 1 and not bad else (),
            extra=comparison.extra if comparison.receipt.is_whole else (),
        )  # fmt: skip
        self._sender.say(night, request.kind, outcome.text)
        return outcome

    def _request(
        self, night: Night, folder: Path, link: Link, kind: str,
        only: tuple[str, ...] | None = None, number: int = 1,
    ) -> Request:  # fmt: skip
        destination = link.destination
        far = rsync.far_folder(destination, night.family, night.date)
        return Request(
            night=label(night), date=folder.name, folder=str(far.relative_to(destination.path)),
            nonce=secrets.token_hex(16), exclude=link.far_exclude,
            bandwidth=destination.bandwidth, only=only, is_repair=only is not None, round=number,
            kind=kind,
        )  # fmt: skip

    def _ask(self, desk: Path, request: Request) -> None:
        try:
            desk.mkdir(exist_ok=True)
            data = requests.write(request).encode()
            write_durably(desk / request.request_name, data, replace=True)
        except OSError as error:
            raise StorageError(f"cannot leave a request in {desk}: {error.strerror}") from error

    def _read(self, desk: Path, date: str) -> Request | None:
        path = desk / f"{date}{requests.SUFFIX}"
        try:
            return requests.parse(path.read_text())
        except FileNotFoundError:
            return None
        except NightjarError:  # ours, of another version: asked anew
            return None
