# SPDX-License-Identifier: BSD-3-Clause
"""What is to be said about a card of a header."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from nightjar.fits.cards import Value


class FindingKind(enum.Enum):
    """What is wrong; the values stand in reports."""

    MISSING = "missing"
    WRONG_TYPE = "wrong type"
    TOO_LONG = "too long"
    OUT_OF_RANGE = "out of range"
    UNKNOWN_KEY = "not in dictionary"
    PRECISION = "precision"
    TELEMETRY = "telemetry"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark.

    Attributes
    ----------
    kind, key
        What is wrong, with which keyword; `key` is empty for a file that cannot be read.
    value
        That was seen; None for what is missing.
    text
        One line for a person.
    """

    kind: FindingKind
    key: str
    value: Value
    text: str

    @property
    def is_fault(self) -> bool:
        """False for a keyword that the dictionary merely does not know."""
        return self.kind is not FindingKind.UNKNOWN_KEY

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; digits of a Decimal are kept as text."""
        value = str(self.value) if isinstance(self.value, Decimal) else self.value
        return {"kind": self.kind.value, "key": self.key, "value": value, "text": self.text}
