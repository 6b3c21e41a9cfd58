# SPDX-License-Identifier: BSD-3-Clause
"""One header out of those of several raw cubes.

A milk logger copies keywords when a cube is closed, a logger of this suite at its first frame, and
at the last one into ``KEY_E``. So each header tells values at one or two moments; the one nearest
to the middle of the product counts, and HISTORY tells which keywords changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from nightjar.fits.cards import COMMENTARY, Card, Value
from nightjar.fits.header import Header
from nightjar.times import parse_iso
from nightjard.archived.nights.dictionary.findings import Finding
from nightjard.archived.nights.dictionary.formats import shown
from nightjard.archived.nights.dictionary.repairing import NEVER, logged_value
from nightjard.archived.nights.dictionary.table import Dictionary, is_structural
from nightjard.archived.nights.dictionary.telemetry import TelemetryLog

#: (first_ns, last_ns, frames) of the frames of a cube.
Span = tuple[int, int, int]

CONTINUOUS = "continuous"
_MOST_SHOWN = 30  # characters of a value in HISTORY
#: What every cube has its own of.
_EACH = NEVER | {"CHECKSUM", "DATASUM", "CUBE-NUM", "CNT0-STR", "CNT0-END", "HWID-STR", "HWID-END",
                 "CUBERATE", "CUBEEND", "TRUNCATE", "NSAVED", "NMISSED", "NTORN", "NDUP",
                 "NLOSTCAM", "FRMEXP", "CLK-ERR"}  # fmt: skip


def merged(
    heads: Sequence[Header], spans: Sequence[Span], middle_ns: int, dictionary: Dictionary,
    telemetry: TelemetryLog | None,
) -> tuple[list[Card], list[str], list[Finding]]:  # fmt: skip
    """Return the cards of the first header, then others' further ones, with values of the middle.

    Parameters
    ----------
    heads, spans
        Of the cubes, in order.
    middle_ns
        Of the product; 0 where it is not known: the first header counts.
    telemetry
        See :func:`.product.product_cards`.

    Returns
    -------
    tuple
        Cards (each keyword once), lines of HISTORY, findings.
    """
    cubes = [_Cube(head, span) for head, span in zip(heads, spans, strict=True)]
    cards: list[Card] = []
    changes: list[str] = []
    findings: list[Finding] = []
    seen: set[str] = set()
    for number, cube in enumerate(cubes):
        for card in cube.head.cards:
            key = card.keyword
            if key in COMMENTARY:
                if number == 0:
                    cards.append(card)
                continue
            if key in seen or is_structural(key) or key in cube.late_keys:
                continue
            seen.add(key)
            samples = [sample for other in cubes for sample in other.samples(key)]
            chosen = min(samples, key=lambda item: abs(item[0] - middle_ns))[1]
            has_changed = key not in _EACH and _differs(samples)
            if has_changed:
                first, last = (_short(samples[at][1].value) for at in (0, -1))
                changes.append(f"{key} changed, first {first}, last {last}")
            is_wanted = has_changed or _is_continuous(key, dictionary)
            if telemetry is not None and middle_ns and is_wanted:
                chosen = _from_telemetry(chosen, telemetry, middle_ns, dictionary, findings)
            cards.append(chosen)
    return cards, changes, findings


class _Cube:
    """What the header of a cube tells, and of when.

    Attributes
    ----------
    late_keys
        Keywords that tell the value of another one at the last frame.
    """

    def __init__(self, head: Header, span: Span) -> None:
        self.head = head
        self.begin_ns, self.end_ns = span[1], span[1]
        self._late: dict[str, str] = {}
        if "CUBEEND" in head:  # of a logger of this suite
            self.begin_ns = _moment(head.get("DATE-BEG"), span[0])
            self.end_ns = _moment(head.get("DATE-END"), span[1])
            self._late = _late(head)
        self.late_keys = frozenset(self._late.values())

    def samples(self, key: str) -> list[tuple[int, Card]]:
        """Return (time, card) of a keyword; none where the cube does not have it."""
        if key not in self.head:
            return []
        card = self.head.card(key)
        samples = [(self.begin_ns, card)]
        if self.end_ns != self.begin_ns:
            value = self.head[self._late[key]] if key in self._late else card.value
            samples.append((self.end_ns, Card(key, value, card.comment, card.unit)))
        return samples


def _late(head: Header) -> dict[str, str]:
    """Return keyword -> keyword of its value at the last frame, where that is beyond doubt.

    The name is cut to six characters, so that several keywords may have it; the comment is that
    of the right one.
    """
    begins: dict[str, list[Card]] = {}
    for key in head:
        if not key.endswith("_E"):
            begins.setdefault(key[:6], []).append(head.card(key))
    found = {}
    for key in head:
        if key.endswith("_E") and key[:-2] in begins:
            late = head.card(key)
            candidates = begins[key[:-2]]
            if len(candidates) > 1:
                candidates = [
                    card for card in candidates
                    if late.comment and (card.comment, card.unit) == (late.comment, late.unit)
                ]  # fmt: skip
            if len(candidates) == 1:
                found[candidates[0].keyword] = key
    return found


def _moment(value: Value, otherwise_ns: int) -> int:
    try:
        return parse_iso(str(value))
    except ValueError:
        return otherwise_ns


def _differs(samples: Sequence[tuple[int, Card]]) -> bool:
    values = [card.value for _, card in samples]
    return any(type(v) is not type(values[0]) or v != values[0] for v in values[1:])


def _is_continuous(key: str, dictionary: Dictionary) -> bool:
    entry = dictionary.entries.get(key)
    return entry is not None and CONTINUOUS in entry.flags


def _from_telemetry(
    card: Card, log: TelemetryLog, middle_ns: int, dictionary: Dictionary, findings: list[Finding]
) -> Card:
    """Return a card with the value that was logged at the middle, where there is one."""
    key = card.keyword
    if key in NEVER or key not in log.keys:
        return card
    how = "linear" if _is_continuous(key, dictionary) else "previous"
    value, reading, finding = logged_value(
        log, key, middle_ns, dictionary, how=how, like=card  # type: ignore[arg-type]
    )  # fmt: skip
    if finding is not None:
        findings.append(finding)
    if reading is None:
        return card
    return Card(key, value, card.comment, card.unit)


def _short(value: Value) -> str:
    text = shown(float(value) if isinstance(value, Decimal) else value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
