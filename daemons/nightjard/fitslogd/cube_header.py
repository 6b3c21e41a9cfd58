# SPDX-License-Identifier: BSD-3-Clause
"""The header of a cube: its place in the session, times, losses, and the stream's keywords.

A keyword of the stream stands as it was at the cube's first frame; where it was another at the
last one, that value stands in ``<name>_E``, the name cut to six characters. Names that FITS has
no cards for, as of more than eight characters, and those that have a meaning of their own here are
told in COMMENT cards; those that begin with an underscore are the stream's own business and left
out, as are those that the configuration sets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from nightjar import __version__
from nightjar.clock import NS_PER_S, ClockHealth
from nightjar.fits.cards import Card
from nightjar.fits.frame_table import Rows
from nightjar.fits.header import Field, HeaderTemplate, Section, section_cards
from nightjar.fits.writer import STRUCTURAL
from nightjar.streams.keywords import Keyword
from nightjar.times import iso, mjd_text
from nightjard.fitslogd.naming import LogSettings, clock_text

_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}\Z")
# Of the standard, and with a meaning that a stream's keyword cannot have.
_RESERVED = frozenset(("END", "CONTINUE", "HIERARCH", "COMMENT", "HISTORY", "BLANK", "INHERIT"))
_LIKELY_KEYWORDS = 150  # milk's streams have slots for thousands
_LOGICAL = {"#TRUE#": True, "#FALSE#": False}

TEMPLATE = HeaderTemplate(
    Field("EXTEND", bool, "the table FRAMES follows"),
    Section("CUBE"),
    Field("STREAM", str, "name of the shared-memory stream"),
    Field("SESSION", str, "logging session, the same for its streams"),
    Field("CUBE-NUM", int, "number of the cube in its session"),
    Field("CUBEEND", str, "why the cube was closed"),
    Field("TRUNCATE", bool, "closed before it was full"),
    Field("SWVER", str, "software that wrote this file"),
    Field("HOST", str, "machine that logged"),
    Section("FRAMES"),
    Field("FRMEXP", int, "frames expected: length asked for"),
    Field("NSAVED", int, "frames in this cube"),
    Field("NMISSED", int, "frames that passed and are not here"),
    Field("NTORN", int, "further ones, not kept: torn in memory"),
    Field("NDUP", int, "frames with the time stamp of the one before"),
    Field("NLOSTCAM", int, "frames that the camera itself lost"),
    Field("CNT0-STR", int, "stream counter of the first frame"),
    Field("CNT0-END", int, "stream counter of the last frame"),
    Field("HWID-STR", int, "camera's number of the first frame"),
    Field("HWID-END", int, "camera's number of the last frame"),
    Field("CUBERATE", float, "mean rate of the frames here", "Hz"),
    Section("TIME"),
    Field("TIMESYS", str, "time scale"),
    Field("TIME-SRC", str, "times are those of"),
    Field("DATE-BEG", str, "first frame"),
    Field("DATE-AVG", str, "middle"),
    Field("DATE-END", str, "last frame"),
    Field("MJD", float, "middle", "d"),
    Field("MJD-STR", float, "first frame", "d"),
    Field("MJD-END", float, "last frame", "d"),
    Field("UT", str, "middle, HH:MM:SS.SS"),
    Field("UT-STR", str, "first frame"),
    Field("UT-END", str, "last frame"),
    Field("CLK-SYNC", bool, "the host's clock was disciplined"),
    Field("CLK-ERR", float, "its estimated error", "s", is_optional=True),
    Field("DATE", str, "when this file was closed"),
)
OWN = frozenset(TEMPLATE.fields) | STRUCTURAL | {"EXTNAME", "LONGSTRN", "DATASUM"}


@dataclass(frozen=True)
class CubeFacts:
    """What a cube's header tells beside its rows and keywords.

    Attributes
    ----------
    expected
        Length asked for.
    reason, truncated
        Why it was closed, and whether before it was full.
    missed, torn
        Since the frame before the cube's first.
    """

    stream: str
    session: str
    number: int
    expected: int
    reason: str
    truncated: bool
    missed: int
    torn: int
    host: str


def cube_cards(
    facts: CubeFacts,
    rows: Rows,
    settings: LogSettings,
    at_start: Mapping[str, Keyword],
    at_end: Mapping[str, Keyword],
    clock: ClockHealth,
    now_ns: int,
) -> list[Card]:
    """Return the cards of a cube (see :data:`TEMPLATE`), those of its keywords after them.

    Parameters
    ----------
    rows
        The table, at least one row.
    at_start, at_end
        The stream's keywords at the first and at the last frame.
    """
    times, source = frame_times(rows)
    first, last = int(times[0]), int(times[-1])
    middle = (first + last) // 2
    span_s = (last - first) / NS_PER_S
    hardware = rows["HWID"]
    known = bool((hardware >= 0).all())
    values: dict[str, Any] = {
        "EXTEND": True,
        "STREAM": facts.stream,
        "SESSION": facts.session,
        "CUBE-NUM": facts.number,
        "CUBEEND": facts.reason,
        "TRUNCATE": facts.truncated,
        "SWVER": f"nightjar {__version__}",
        "HOST": facts.host,
        "FRMEXP": facts.expected,
        "NSAVED": len(rows),
        "NMISSED": facts.missed,
        "NTORN": facts.torn,
        "NDUP": duplicates(rows),
        "NLOSTCAM": lost_by_camera(rows) if known else None,
        "CNT0-STR": int(rows["CNT0"][0]),
        "CNT0-END": int(rows["CNT0"][-1]),
        "HWID-STR": int(hardware[0]) if known else None,
        "HWID-END": int(hardware[-1]) if known else None,
        "CUBERATE": round((len(rows) - 1) / span_s, 6) if span_s > 0 else None,
        "TIMESYS": "UTC",
        "TIME-SRC": source,
        "DATE-BEG": iso(first, 9),
        "DATE-AVG": iso(middle, 9),
        "DATE-END": iso(last, 9),
        "MJD": Decimal(mjd_text(middle)),
        "MJD-STR": Decimal(mjd_text(first)),
        "MJD-END": Decimal(mjd_text(last)),
        "UT": clock_text(middle),
        "UT-STR": clock_text(first),
        "UT-END": clock_text(last),
        "CLK-SYNC": clock.is_synchronised,
        "CLK-ERR": clock.estimated_error_s,
        "DATE": iso(now_ns, 3),
    }
    extra = [*_local_cards(settings, (middle, first, last))]
    used = OWN | {card.keyword for card in extra}
    static = _static_cards(settings, used)
    configured = {card.keyword for card in static}
    extra += static
    extra += _keyword_cards(
        {name: item for name, item in at_start.items() if name.upper() not in configured},
        {name: item for name, item in at_end.items() if name.upper() not in configured},
        used | configured | _RESERVED,
    )
    return list(TEMPLATE.fill(values, extra).cards)


def frame_times(rows: Rows) -> tuple[Any, str]:
    """Return the times of the frames, ns UTC, and what they are the times of."""
    for column, source in (("ATIME", "acquisition"), ("WTIME", "write into memory")):
        if (rows[column] > 0).all():
            return rows[column], source
    return rows["LTIME"], "logging"


def duplicates(rows: Rows) -> int:
    """Return how many frames have the acquisition stamp of the one before them."""
    stamps = rows["ATIME"]
    return int(((stamps[1:] == stamps[:-1]) & (stamps[1:] > 0)).sum())


def lost_by_camera(rows: Rows) -> int:
    """Return the frames that the camera numbered and the stream never had."""
    numbers = rows["HWID"].astype(np.int64)
    counters = rows["CNT0"].astype(np.int64)
    return int(max(0, (numbers[-1] - numbers[0]) - (counters[-1] - counters[0])))


def _local_cards(settings: LogSettings, times: tuple[int, int, int]) -> Iterable[Card]:
    name, offset = settings.local_name, settings.local_offset_hours
    if not name:
        return
    for suffix, time_ns, what in zip(
        ("", "-STR", "-END"), times, ("middle", "first frame", "last frame"), strict=True
    ):
        yield Card(f"{name}{suffix}", clock_text(time_ns, offset), f"{what}, UTC{offset:+g} h")


def _static_cards(settings: LogSettings, used: Iterable[str]) -> list[Card]:
    cards = dict(settings.cards)
    if settings.data_type is not None:
        cards["DATA-TYP"] = (settings.data_type, "type of data")
    chosen = [
        Card(name, value, comment) for name, (value, comment) in cards.items() if name not in used
    ]
    return [*section_cards("CONFIGURED"), *chosen] if chosen else []


def _keyword_cards(
    at_start: Mapping[str, Keyword], at_end: Mapping[str, Keyword], used: Iterable[str]
) -> list[Card]:
    taken = set(used)
    cards = [*section_cards("KEYWORDS OF THE STREAM")] if at_start else []
    changed = []
    for name, keyword in at_start.items():
        if name.startswith("_") or not name.strip():
            continue
        short = name.upper()
        if _is_free(short, taken):
            taken.add(short)
            cards.append(_card(short, keyword))
        else:
            cards.append(Card("COMMENT", f"{name} = {keyword.value!r} / {keyword.comment}"))
        last = at_end.get(name)
        if last is not None and _differs(last.value, keyword.value):
            changed.append((name, last))
    late = [(name, item) for name, item in at_end.items()
            if name not in at_start and not name.startswith("_") and name.strip()]  # fmt: skip
    if changed or late:
        cards += section_cards("THE SAME AT THE LAST FRAME, WHERE THEY HAD CHANGED")
    for name, keyword in (*changed, *late):
        short = f"{name.upper()[:6]}_E"
        if not _is_free(short, taken):
            cards.append(Card("COMMENT", f"{name} = {keyword.value!r} at the last frame"))
            continue
        taken.add(short)
        cards.append(_card(short, keyword))
    return cards


def _is_free(name: str, taken: Iterable[str]) -> bool:
    """Tell whether a card of that name may be made."""
    return bool(_KEYWORD.match(name)) and not name.startswith("NAXIS") and name not in taken


def _differs(one: Any, other: Any) -> bool:
    is_nan = [isinstance(value, float) and math.isnan(value) for value in (one, other)]
    return bool(one != other) and not all(is_nan)


def _card(name: str, keyword: Keyword) -> Card:
    value: Any = keyword.value
    if isinstance(value, str):
        value = _LOGICAL.get(value, value)
    elif isinstance(value, float) and not math.isfinite(value):
        return Card("COMMENT", f"{name} not available ({value}): {keyword.comment}")
    return Card(name, value, keyword.comment)


def card_count(settings: LogSettings, keywords: Mapping[str, Keyword], slots: int) -> int:
    """Return the cards to keep room for: each keyword may come twice, others may appear.

    Parameters
    ----------
    slots
        Keywords that the stream has room for.
    """
    most = max(len(keywords), min(slots, _LIKELY_KEYWORDS))
    return len(TEMPLATE.entries) * 2 + len(settings.cards) + 2 * most + 40
