# SPDX-License-Identifier: BSD-3-Clause
"""A receipt is judged: who signed it, is it the answer to our question, is what it says the truth.

The truth is what was recorded here when a file was made, never what the file is now.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from nightjar.errors import Refused
from nightjard.archived.nights.config import Destination
from nightjard.archived.nights.transfer import receipts
from nightjard.archived.nights.transfer.reading import Digest

VERIFIED, DIFFERENT, MISSING = "verified", "different", "missing"
_GONE = "it is not there"

Expected = Mapping[str, tuple[int, str]]


@dataclass(frozen=True)
class Question:
    """What was asked of the far side.

    Attributes
    ----------
    night
        ``archival/20251106``.
    nonce
        Random text, used once.
    only
        Paths; None: everything.
    """

    night: str
    nonce: str
    only: frozenset[str] | None = None


@dataclass(frozen=True)
class Comparison:
    """What a receipt proves.

    Attributes
    ----------
    receipt
        As it was parsed.
    verified, different, missing
        Expected files by what is there; path -> what the far side says it is.
    extra
        Paths that are there and were not expected.
    reasons
        Path -> why, in words, of all that are not verified.
    is_signed
        By the key of the configuration.
    is_elsewhere
        On another machine than this one.
    """

    receipt: receipts.Receipt
    verified: Mapping[str, Digest]
    different: Mapping[str, Digest]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    reasons: Mapping[str, str]
    is_signed: bool
    is_elsewhere: bool

    @property
    def bad(self) -> tuple[str, ...]:
        """Expected files that are not verified, sorted."""
        return tuple(sorted((*self.different, *self.missing)))

    @property
    def counts(self) -> bool:
        """Whether what is verified is a copy: signed for, by another machine."""
        return self.is_signed and self.is_elsewhere


def accept_receipt(
    text: str, signature: str, destination: Destination, expected: Expected, *,
    question: Question, own_machine_id: str,
) -> Comparison:  # fmt: skip
    """Judge a receipt.

    Parameters
    ----------
    text, signature
        As the far side gave them.
    destination
        Its public key.
    expected
        Path -> (size, blake3) as recorded here, of every file that should be there.
    question
        What was asked.
    own_machine_id
        Of this machine: what is verified on it is no other copy.

    Raises
    ------
    Refused
        Signed by another key, or changed, or the answer to another question.
    NightjarError
        It is no receipt.
    """
    if destination.public_key is not None:  # before any of its words are read
        receipts.check_signature(text, signature, destination.public_key)
    receipt = receipts.parse(text)
    if receipt.nonce != question.nonce:
        raise Refused(
            f"the receipt for {receipt.night} answers another question (nonce {receipt.nonce!r}): "
            "an old one, or that of another transfer; nothing was believed"
        )
    if receipt.night != question.night:
        raise Refused(
            f"the receipt is for {receipt.night}, not for {question.night}; nothing was believed"
        )
    if receipt.is_whole != (question.only is None):
        raise Refused("the receipt covers other files than were asked for; nothing was believed")
    return _compare(receipt, destination, expected, question.only, own_machine_id)


def _compare(
    receipt: receipts.Receipt, destination: Destination, expected: Expected,
    only: Collection[str] | None, own_machine_id: str,
) -> Comparison:  # fmt: skip
    verified, different, missing, reasons = {}, {}, [], {}
    for path, (size, name) in expected.items():
        if only is not None and path not in only:
            continue
        there = receipt.files.get(path)
        if there is None:
            reasons[path] = receipt.problems.get(path, _GONE)
            if reasons[path] == _GONE:
                missing.append(path)
            else:
                different[path] = Digest(0, "")
        elif there == (size, name):
            verified[path] = there
        else:
            different[path] = there
            reasons[path] = (
                f"{there.size} bytes instead of {size}" if there.size != size
                else f"other content (blake3 {there.hash[:12]} instead of {name[:12]})"
            )  # fmt: skip
    return Comparison(
        receipt=receipt, verified=verified, different=different, missing=tuple(missing),
        extra=tuple(sorted(path for path in receipt.files if path not in expected)),
        reasons=reasons, is_signed=destination.public_key is not None,
        is_elsewhere=receipt.machine_id != own_machine_id,
    )  # fmt: skip
