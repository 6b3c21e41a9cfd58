# SPDX-License-Identifier: BSD-3-Clause
"""Sending a letter through SMTP, once.

A file beside the letter says "sending" before the first word to the server and "sent" after its
last. Where the answer to the text itself got lost nobody can tell whether the letter went out: then
it is not sent again unless a person says so.
"""

from __future__ import annotations

import contextlib
import json
import smtplib
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from nightjar.clock import Clock
from nightjar.errors import ConfigError, Refused, StorageError, TimedOut, Unreachable
from nightjar.files import fsync_folder, locked, write_json_durably
from nightjar.times import iso
from nightjard.archived.nights.config import Mail

TIMEOUT_S = 30.0
_SENDING, _SENT = "sending", "sent"


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a letter.

    Attributes
    ----------
    is_new
        Whether it went out now; False: it had gone out before.
    time_ns
        When the server took it, ns UTC.
    refused
        Address -> the server's words, for those that it did not take; others got the letter.
    """

    is_new: bool
    time_ns: int
    refused: dict[str, str]


def send(
    message: EmailMessage, mail: Mail, clock: Clock, record: Path, *, again: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Sent:  # fmt: skip
    """Send a letter unless `record` says that it went out.

    Parameters
    ----------
    record
        File that remembers; one a letter.
    again
        Send it although it went out, or may have.
    timeout_s
        For each answer of the server.

    Raises
    ------
    ConfigError
        No ``smtp_host`` is configured, or nobody to send to.
    Refused
        The server refuses the letter; or it may have gone out before and nobody knows.
    Unreachable, TimedOut
        The server does not answer.
    StorageError
        The record cannot be read or written.
    """
    if not mail.smtp_host:
        raise ConfigError("mail.smtp_host is not set: the letter is written to a file, not sent")
    if not mail.to:
        raise ConfigError("mail.to is empty: nobody to send the letter to")
    with locked(record.with_name(f".{record.name}.lock"), f"sending {record.name}"):
        known = _read(record)
        is_same = known.get("message_id") == message["Message-ID"]
        if is_same and not again:
            if known["state"] == _SENT:
                return Sent(False, known["time_ns"], dict(known["refused"]))
            raise Refused(
                f"the letter {message['Subject']} may have gone out at {iso(known['time_ns'], 0)}: "
                f"the server took it and its answer got lost. Ask {message['To']}; send it again "
                f"only if it did not come",
            )  # fmt: skip
        _write(record, message, _SENDING, clock.now_ns(), {})
        try:
            refused = _deliver(message, mail, timeout_s)
        except _NotSent as failure:
            _restore(record, known)
            raise failure.reason from failure.__cause__
        now_ns = clock.now_ns()
        _write(record, message, _SENT, now_ns, refused)
        return Sent(True, now_ns, refused)


class _NotSent(Exception):
    """The letter certainly did not go out; `reason` says why."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason
        super().__init__(str(reason))


def _deliver(message: EmailMessage, mail: Mail, timeout_s: float) -> dict[str, str]:
    """Return the addresses that the server did not take, with its words."""
    assert mail.smtp_host is not None
    where = f"{mail.smtp_host}:{mail.smtp_port}"
    is_text_under_way = False
    try:
        with contextlib.closing(
            smtplib.SMTP(mail.smtp_host, mail.smtp_port, timeout=timeout_s)
        ) as server:
            server.ehlo_or_helo_if_needed()
            _expect(server.mail(mail.sender), where, f"the sender {mail.sender}")
            refused = {}
            for address in mail.to:
                code, answer = server.rcpt(address)
                if code not in (250, 251):
                    refused[address] = f"{code} {_text(answer)}"
            if len(refused) == len(mail.to):
                raise _NotSent(Refused(f"{where} takes no mail for {refused}; see mail.to"))
            is_text_under_way = True
            _expect(server.data(message.as_bytes()), where, "the letter")
            with contextlib.suppress(smtplib.SMTPException, OSError):
                server.quit()
            return refused
    except smtplib.SMTPDataError as error:  # refused before the text
        words = f"{error.smtp_code} {_text(error.smtp_error)}"
        raise _NotSent(Refused(f"{where} refuses the letter: {words}")) from error
    except (smtplib.SMTPException, OSError) as error:
        # smtplib makes its own error of one that it met in the middle.
        is_late = isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError)
        kind = TimedOut if is_late else Unreachable
        text = f"cannot send the letter through {where}: {error}"
        if not is_text_under_way:
            raise _NotSent(kind(text)) from error
        raise kind(f"{text}; it may have gone out all the same") from error


def _expect(answer: tuple[int, bytes], where: str, what: str) -> None:
    code, words = answer
    if code != 250:
        raise _NotSent(Refused(f"{where} refuses {what}: {code} {_text(words)}"))


def _text(words: bytes | str) -> str:
    return words if isinstance(words, str) else words.decode("utf-8", "replace")


# --- the record ---


def _read(record: Path) -> dict[str, Any]:
    try:
        value = json.loads(record.read_text())
        if not isinstance(value, dict) or value.get("state") not in (_SENDING, _SENT):
            raise ValueError("not a record of a letter")
        return value
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot read {record}: {error}; whether the letter went out is not known"
        ) from error


def _write(
    record: Path, message: EmailMessage, state: str, time_ns: int, refused: dict[str, str]
) -> None:
    value = {"state": state, "message_id": message["Message-ID"], "time_ns": time_ns,
             "subject": message["Subject"], "to": message["To"], "refused": refused}  # fmt: skip
    try:
        write_json_durably(record, value)
    except OSError as error:
        raise StorageError(f"cannot write {record}: {error.strerror}") from error


def _restore(record: Path, known: dict[str, Any]) -> None:
    """Put the record back to what it was before the attempt."""
    try:
        if known:
            write_json_durably(record, known)
        else:
            record.unlink(missing_ok=True)
            fsync_folder(record.parent)
    except OSError as error:
        raise StorageError(f"cannot write {record}: {error.strerror}") from error
