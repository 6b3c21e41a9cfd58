# SPDX-License-Identifier: BSD-3-Clause
"""Cards filled or corrected from a log of keywords, the old value kept in HISTORY."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation

from nightjar.fits.cards import COMMENTARY, Card, Value
from nightjar.fits.header import Header
from nightjar.times import NS_PER_S, iso
from nightjard.archived.nights.dictionary.findings import Finding, FindingKind
from nightjard.archived.nights.dictionary.formats import shown
from nightjard.archived.nights.dictionary.table import Dictionary, is_structural
from nightjard.archived.nights.dictionary.telemetry import How, Reading, TelemetryLog

#: The plan cut the night by these, and pairs cameras by them: a log of every ten seconds that says
#: otherwise cannot be right about a product.
NEVER = frozenset(
    ("EXPTIME", "U_SYNC", "U_FLC", "U_FLCDRV", "U_CAMERA", "FRAMEID", "EXP-ID", "DATE", "DATE-OBS",
     "DATE-BEG", "DATE-AVG", "DATE-END", "UT", "UT-STR", "UT-END", "HST", "HST-STR", "HST-END",
     "MJD", "MJD-STR", "MJD-END", "TIMESYS")
)  # fmt: skip
LIMIT_S = 30.0
_NOT_AVAILABLE = re.compile(r"(\S+) not available(?::|\Z)")
_TEXT_ROOM = 72  # characters of a COMMENT card
_LOGICAL = {
    "#TRUE#": True, "TRUE": True, "T": True, "#FALSE#": False, "FALSE": False, "F": False,
}  # fmt: skip


def repair(
    cards: Header | Iterable[Card], log: TelemetryLog, keys: Sequence[str], time_ns: int, *,
    dictionary: Dictionary, limit_s: float = LIMIT_S, how: How = "previous",
) -> tuple[list[Card], list[Finding]]:  # fmt: skip
    """Return cards with keywords as a log has them.

    A keyword that is missing or undefined is filled; another one is replaced, and a HISTORY card
    tells its old value. Where it has that value already nothing changes.

    Parameters
    ----------
    cards
        Of a file.
    log
        What was logged.
    keys
        Keywords to fill or to replace.
    time_ns
        UTC; the middle of the exposures.
    dictionary
        Tells the types: text stays text there (an ID ``00123``).
    limit_s
        A row further away is not used, and that is said.
    how
        See :meth:`TelemetryLog.at`.
    """
    present = list(cards.cards if isinstance(cards, Header) else cards)
    findings: list[Finding] = []
    for key in keys:
        value, reading, finding = logged_value(
            log, key, time_ns, dictionary, limit_s=limit_s, how=how, like=_first(present, key)
        )
        if finding is not None or reading is None:
            findings += [finding] if finding is not None else []
            continue
        old = _first(present, key)
        new = dictionary.card(key, value) if old is None else dictionary.formatted(
            Card(key, value, old.comment, old.unit)
        )  # fmt: skip
        if old is not None and old.value is not None and _is_equal(old.value, new.value):
            continue
        source = f"from telemetry of {iso(reading.time_ns, 0)}"
        was = "was missing" if old is None else f"was {shown(old.value)}"
        findings.append(
            Finding(FindingKind.TELEMETRY, key, new.value, f"{key}: {shown(new.value)} {source}")
        )
        present = _put(present, new)
        present.append(Card("HISTORY", f"{key} {was}, {source}"))
    return present, findings


def logged_value(
    log: TelemetryLog, key: str, time_ns: int, dictionary: Dictionary, *,
    limit_s: float = LIMIT_S, how: How = "previous", like: Card | None = None,
) -> tuple[Value, Reading | None, Finding | None]:  # fmt: skip
    """Return a keyword's typed value at a time, the reading, and why there is none.

    Parameters
    ----------
    like
        A card whose type the value gets where the dictionary does not have the keyword.
    """
    if key in NEVER or is_structural(key) or key in COMMENTARY:
        return None, None, _refusal(key, "is not taken from telemetry")
    entry = dictionary.entries.get(key)
    kind = entry.format.kind if entry is not None else _kind_of(like)
    if how == "linear" and kind is not float:
        how = "nearest"  # nothing lies between two texts, not even if they look like numbers
    reading = log.at(key, time_ns, how, limit_s=limit_s)
    if reading is None:
        return None, None, _refusal(key, _why_not(log, key, time_ns, how, limit_s))
    try:
        value = _typed(reading.value, kind)
    except ValueError as error:
        return None, None, Finding(
            FindingKind.WRONG_TYPE, key, str(reading.value), f"{key}: telemetry has {error}"
        )
    return value, reading, None


def _why_not(log: TelemetryLog, key: str, time_ns: int, how: How, limit_s: float) -> str:
    if key not in log.keys:
        return "the telemetry does not have it; nothing is changed"
    found = log.at(key, time_ns, how)
    if found is None:
        return f"no row of telemetry before {iso(time_ns, 0)} has it; nothing is changed"
    age_s = found.age_ns / NS_PER_S
    return (
        f"the nearest row of telemetry is {age_s:.0f} s away, more than {limit_s:g} s; "
        "nothing is changed"
    )


def _refusal(key: str, text: str) -> Finding:
    return Finding(FindingKind.TELEMETRY, key, None, f"{key}: {text}")


def _typed(value: str | float, kind: type) -> Value:
    """Return a value in a type; ValueError where it is not of it."""
    if isinstance(value, float):
        return value
    if kind is str:
        return value
    if kind is bool:
        if value.upper() not in _LOGICAL:
            raise ValueError(f"{value!r}, which is not a logical")
        return _LOGICAL[value.upper()]
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{value!r}, which is not a number") from None
    if not number.is_finite():
        raise ValueError(f"{value!r}, which is not a number")
    if kind is int:
        if number != number.to_integral_value():
            raise ValueError(f"{value!r}, which is not a whole number")
        return int(number)
    return number


def _kind_of(card: Card | None) -> type:
    value = None if card is None else card.value
    if isinstance(value, bool):
        return bool
    return int if isinstance(value, int) else float if isinstance(value, (float, Decimal)) else str


def _first(cards: Iterable[Card], key: str) -> Card | None:
    return next((card for card in cards if card.keyword == key), None)


def _missing_key(text: str) -> str:
    """Return the keyword of which a COMMENT says that it is not available; empty for another."""
    match = _NOT_AVAILABLE.match(text)
    return match[1] if match is not None and len(text) < _TEXT_ROOM else ""


def _put(cards: list[Card], new: Card) -> list[Card]:
    """Return cards with one replaced (or the COMMENT that it is not available), or added."""
    for index, card in enumerate(cards):
        is_gap = card.keyword == "COMMENT" and _missing_key(str(card.value)) == new.keyword
        if card.keyword == new.keyword or is_gap:
            return [*cards[:index], new, *cards[index + 1 :]]
    return [*cards, new]


def _is_equal(old: Value, new: Value) -> bool:
    numbers = (int, float, Decimal)
    if isinstance(old, bool) or isinstance(new, bool) or isinstance(old, str):
        return type(old) is type(new) and old == new
    if isinstance(old, numbers) and isinstance(new, numbers):
        return float(old) == float(new)
    return False


__all__ = ["LIMIT_S", "NEVER", "logged_value", "repair"]
