# SPDX-License-Identifier: BSD-3-Clause
"""The final header of a product: cards of its raw cubes, true times, state, provenance.

It depends on nothing but its arguments: two runs of the same plan give the same bytes, and the
cards of time are the same text in all siblings. There is no DATE, which would tell when it was
written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from nightjar.fits.cards import CARD_BYTES, COMMENTARY, Card, is_long
from nightjar.fits.header import Header, section_cards
from nightjar.times import NS_PER_DAY, NS_PER_S, iso, mjd_text
from nightjard.archived.nights.dictionary.checks import check
from nightjard.archived.nights.dictionary.findings import Finding, FindingKind
from nightjard.archived.nights.dictionary.merging import Span, merged
from nightjard.archived.nights.dictionary.table import Dictionary, is_structural
from nightjard.archived.nights.dictionary.telemetry import TelemetryLog
from nightjard.archived.nights.records import Kind, Product, RunReport

#: Of the raw cube alone: what it says of its own file is not true of a product.
DROPPED = frozenset(
    ("DATE", "FRAMEID", "EXP-ID", "TIME-SRC", "SWVER", "CUBE-NUM", "CUBEEND", "TRUNCATE", "FRMEXP",
     "NSAVED", "NMISSED", "NTORN", "NDUP", "NLOSTCAM", "CNT0-STR", "CNT0-END", "HWID-STR",
     "HWID-END", "CUBERATE", "SIBLING", "NSRC", "PLANHASH", "DICTHASH", "SYNCRUN", "SYNCVERD",
     "SYNCOFF", "SYNCSIG", "SYNCDRFT", "SYNCPER", "SYNCJIT", "SYNCHALF", "NLOST", "NDUBIOUS",
     "REASON", "U_FLCDRV")
)  # fmt: skip
_DROPPED = re.compile(r"SR[CFN][1-9]\d*")
_TITLE = re.compile(r"--- .* ---\Z")
_NOT_AVAILABLE = re.compile(r"(\S+) not available(?::|\Z)")
_STATE_DRIVEN = {"A": {"A": "HIGH", "B": "LOW"}, "B": {"A": "LOW", "B": "HIGH"}}


def product_cards(
    product: Product, heads: Sequence[Header], spans: Sequence[Span], dictionary: Dictionary, *,
    exposure_s: float | None, local_offset_hours: float, program: str, plan_hash: str,
    run: RunReport | None = None, frame_id: str | None = None, exp_id: str | None = None,
    telemetry: TelemetryLog | None = None, sources: Sequence[str] = (),
    ranges: Sequence[tuple[int, int]] = (), high_is: str = "A", instrument: str = "vampires",
    required: bool = True,
) -> tuple[str, list[Finding]]:  # fmt: skip
    """Return the cards of a product without the structural ones, and what is to be said of them.

    Parameters
    ----------
    product
        What the plan says of it.
    heads
        Headers of the raw cubes that its frames come from, in the order of ``product.cubes``.
    spans
        (first_ns, last_ns, frames) of the frames of each cube that are in it; one per header.
    dictionary
        Formats and required keywords.
    exposure_s
        Of a frame; None where it is not known.
    local_offset_hours
        Local time is UTC plus this: cards HST*.
    program
        Name and version of the software.
    plan_hash
        Of the plan.
    run
        The run of its frames.
    frame_id, exp_id
        Where they are known already.
    telemetry
        Takes the place of snapshots that the recorder made when a cube was closed: of keywords
        that change all the time (flag ``continuous`` of the dictionary), and of those that differ
        between the cubes.
    sources, ranges
        Names of the cubes, and the first and last index of the frames taken from each.
    high_is
        Letter of U_FLC for frames exposed while the modulator was driven high.
    instrument
        Whose keywords are required.
    required
        Whether missing keywords are findings.

    Returns
    -------
    tuple
        Card images, ASCII, a multiple of 80 characters, no END; the findings.

    Raises
    ------
    ValueError
        No headers, or not one span each; a card that cannot be written.
    """
    if not heads or len(spans) != len(heads):
        raise ValueError(f"{product.name}: {len(heads)} headers and {len(spans)} spans")
    middle_ns = product.mid_ns if product.first_ns else 0
    base, changes, findings = merged(heads, spans, middle_ns, dictionary, telemetry)
    own = _times(product, exposure_s, local_offset_hours, dictionary)
    own += _states(product, dictionary, high_is)
    own += [
        dictionary.card(key, value, "number in the archive")
        for key, value in (("FRAMEID", frame_id), ("EXP-ID", exp_id))
        if value is not None
    ]
    provenance = _sync(product, run)
    provenance += _provenance(product, spans, sources, ranges, program, plan_hash, dictionary)
    decided = [
        dictionary.formatted(Card(key, value, comment))
        for key, (value, comment) in product.set_cards.items()
        if not is_structural(key)
    ]
    wanted = {card.keyword: card for card in (*own, *provenance, *decided)}
    cards = _arranged(base, wanted, {card.keyword for card in own})
    cards += [Card("HISTORY", line) for line in changes]
    final = [_formatted(_defined(card), dictionary, findings) for card in cards]
    if any(is_long(card) for card in final):
        final.insert(0, Card("LONGSTRN", "OGIP 1.0", "long strings go on in CONTINUE cards"))
    findings += _remarks(final, dictionary, instrument, required, findings)
    if not product.first_ns:
        findings.append(
            Finding(FindingKind.MISSING, "MJD", None, "the times of its frames are not known; the "
                    "raw header's stand")
        )  # fmt: skip
    text = b"".join(card.to_bytes() for card in final).decode("ascii")
    assert len(text) % CARD_BYTES == 0
    return text, findings


def clock_text(utc_ns: int, offset_hours: float = 0.0) -> str:
    """Return ``HH:MM:SS.sss`` of a time of day, truncated as DATE-OBS is, so that both agree."""
    shifted = utc_ns + round(offset_hours * 3600) * NS_PER_S
    milliseconds = shifted % NS_PER_DAY // 1_000_000
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}.{milliseconds:03d}"


def _times(
    product: Product, exposure_s: float | None, offset_hours: float, dictionary: Dictionary
) -> list[Card]:
    """Return the cards of time: UT-STR is the true start of the first exposure."""
    cards: list[Card] = []
    if exposure_s is not None:
        cards.append(dictionary.card("EXPTIME", exposure_s, "exposure time of a frame"))
    if not product.first_ns:
        return cards
    moments = (
        ("", product.mid_ns, "middle"), ("-STR", product.first_ns, "start of the first exposure"),
        ("-END", product.last_ns, "end of the last exposure"),
    )  # fmt: skip
    cards.append(dictionary.card("DATE-OBS", iso(product.first_ns, 0)[:10], "UTC date of UT-STR"))
    for suffix, time_ns, what in moments:
        cards.append(Card(f"UT{suffix}", clock_text(time_ns), f"UTC, {what}"))
        local = clock_text(time_ns, offset_hours)
        cards.append(Card(f"HST{suffix}", local, f"UTC{offset_hours:+g} h, {what}"))
        cards.append(Card(f"MJD{suffix}", Decimal(mjd_text(time_ns)), f"UTC, {what}", "d"))
    for key, (_, time_ns, what) in zip(
        ("DATE-AVG", "DATE-BEG", "DATE-END"), moments, strict=True
    ):  # fmt: skip
        cards.append(Card(key, iso(time_ns, 9), what))
    cards.append(Card("TIMESYS", "UTC", "time scale"))
    return cards


def _states(product: Product, dictionary: Dictionary, high_is: str) -> list[Card]:
    state = product.state or "NA"
    driven = _STATE_DRIVEN[high_is].get(state, "UNKNOWN" if product.state else "NA")
    return [
        dictionary.card("U_SYNC", product.kind is Kind.SYNC, "there is a synchronised sibling"),
        dictionary.card("U_FLC", state, "modulator state: A, B, D (dubious) or NA"),
        Card("U_FLCDRV", driven, "modulator driven HIGH, LOW, UNKNOWN or NA"),
    ]


def _sync(product: Product, run: RunReport | None) -> list[Card]:
    """Return what was found about the run of this camera."""
    if run is None:
        return []
    cards = [
        Card("SYNCRUN", run.number, "number of the run in the night"),
        Card("SYNCVERD", run.verdict, "verdict of the synchronisation"),
    ]
    if product.stream in run.streams:
        index = run.streams.index(product.stream)
        for key, values, unit, comment in (
            ("SYNCOFF", run.offsets_us, "us", "offset against the first camera"),
            ("SYNCSIG", run.sigma_us, "us", "scatter about it"),
            ("SYNCDRFT", run.drift_ppm, "", "drift against it, parts per million"),
        ):
            if index < len(values):
                cards.append(Card(key, round(float(values[index]), 3), comment, unit))
        lost = sum(run.lost.get(product.stream, {}).values())
        cards.append(Card("NLOST", lost, "frames of this camera missing in the run"))
    for key, value, comment in (
        ("SYNCPER", run.period_us, "period of the trigger"),
        ("SYNCJIT", run.jitter_us, "its jitter"),
        ("SYNCHALF", run.half_width_us, "half-width of the modulator's intervals"),
    ):
        if value is not None:
            cards.append(Card(key, round(float(value), 3), comment, "us"))
    cards.append(Card("NDUBIOUS", run.dubious, "frames of the run of unknown modulator state"))
    return cards


def _provenance(
    product: Product, spans: Sequence[Span], sources: Sequence[str],
    ranges: Sequence[tuple[int, int]], program: str, plan_hash: str, dictionary: Dictionary,
) -> list[Card]:  # fmt: skip
    cards = [
        Card("SIBLING", product.group, "the same text in all siblings"),
        Card("REASON", product.reason.name, "why its frames are in this product"),
        Card("NSRC", len(spans), "raw cubes that frames come from"),
    ]
    for number, (_, _, frames) in enumerate(spans, start=1):
        at = number - 1
        cube = product.cubes[at] if at < len(product.cubes) else at
        name = sources[at] if at < len(sources) else f"cube {cube} of the plan"
        cards.append(Card(f"SRC{number}", name, "raw cube"))
        if at < len(ranges):
            first, last = ranges[at]
            cards.append(Card(f"SRF{number}", f"{first}-{last}", "first and last index in it"))
        cards.append(Card(f"SRN{number}", frames, "frames from it"))
    return [
        *cards,
        Card("SWVER", program, "software that made this product"),
        Card("PLANHASH", plan_hash),
        Card("DICTHASH", dictionary.digest[:16], "header dictionary, sha256"),
    ]


def _arranged(base: Iterable[Card], wanted: dict[str, Card], own: set[str]) -> list[Card]:
    """Return the cards of the cubes with the wanted ones in their places, others behind them."""
    waiting = dict(wanted)
    cards: list[Card] = []
    for card in base:
        if card.keyword in waiting:
            cards.append(waiting.pop(card.keyword))
        elif not _is_dropped(card):
            match = _NOT_AVAILABLE.match(str(card.value)) if card.keyword == "COMMENT" else None
            if match is None or not _is_stale(match[1], wanted):
                cards.append(card)
    cards = _without_empty_sections(cards)
    for title, is_own in (("TIME AND STATE", True), ("SYNCHRONISATION AND PROVENANCE", False)):
        rest = [card for key, card in waiting.items() if (key in own) is is_own]
        if rest:
            cards += [*section_cards(title), *rest]
    return cards


def _is_dropped(card: Card) -> bool:
    key = card.keyword
    return key in DROPPED or is_structural(key) or _DROPPED.fullmatch(key) is not None


def _is_stale(key: str, wanted: Iterable[str]) -> bool:
    return key in DROPPED or key in wanted


def _without_empty_sections(cards: list[Card]) -> list[Card]:
    """Return cards without the titles (and the blank cards before them) that nothing follows."""
    kept: list[Card] = []
    for card in reversed(cards):
        is_title = card.keyword == "COMMENT" and _TITLE.match(str(card.value)) is not None
        after = kept[-1] if kept else Card("", "")
        if (is_title and after == Card("", "")) or (card == Card("", "") == after):
            continue
        kept.append(card)
    while kept and kept[0] == Card("", ""):
        del kept[0]
    return kept[::-1]


def _defined(card: Card) -> Card:
    """Return a COMMENT for a card with an undefined value, which fitsverify warns of."""
    if card.value is not None:
        return card
    unit = f"[{card.unit}] " if card.unit else ""
    return Card("COMMENT", f"{card.keyword} not available: {unit}{card.comment}".rstrip(": "))


def _formatted(card: Card, dictionary: Dictionary, findings: list[Finding]) -> Card:
    new, finding = dictionary.explained(card)
    if finding is not None:
        findings.append(finding)
    return new


def _remarks(
    cards: list[Card], dictionary: Dictionary, instrument: str, required: bool,
    known: Sequence[Finding],
) -> list[Finding]:  # fmt: skip
    """Return what the check says beyond what is known."""
    values: dict[str, Any] = {}
    for card in cards:
        if card.keyword not in COMMENTARY:
            values.setdefault(card.keyword, card.value)
    said = {(finding.kind, finding.key) for finding in known}
    found: list[Finding] = []
    for finding in check(values, dictionary, instrument=instrument, required=required):
        if (finding.kind, finding.key) not in said:
            found.append(finding)
    return found


__all__ = ["DROPPED", "clock_text", "product_cards"]
