# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong with the headers of a night: one, or thousands of files in a second."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from nightjar.errors import StorageError
from nightjar.fits.cards import COMMENTARY, Card, Value, parse_card
from nightjard.archived.nights.dictionary import limits
from nightjard.archived.nights.dictionary.findings import Finding, FindingKind
from nightjard.archived.nights.dictionary.formats import Unformattable, exact
from nightjard.archived.nights.dictionary.images import grouped, read_image
from nightjard.archived.nights.dictionary.table import (
    LEAST_DECIMALS,
    Dictionary,
    is_structural,
)

#: Cards that pipeline, logger and standard add, which a dictionary of an instrument need not have.
OWN = frozenset(
    ("DATE", "DATE-BEG", "DATE-AVG", "DATE-END", "TIMESYS", "TIME-SRC", "MJD-AVG", "STREAM",
     "SESSION", "HOST", "SWVER", "CLK-SYNC", "CLK-ERR", "ORIGIN", "AUTHOR", "REFERENC",
     "U_FLCDRV", "SIBLING", "NSRC", "PLANHASH", "DICTHASH", "SYNCRUN", "SYNCVERD", "SYNCOFF",
     "SYNCSIG", "SYNCDRFT", "SYNCPER", "SYNCJIT", "SYNCHALF", "NLOST", "NDUBIOUS", "REASON",
     "CUBE-NUM", "CUBEEND", "TRUNCATE", "FRMEXP", "NSAVED", "NMISSED", "NTORN", "NDUP",
     "NLOSTCAM", "CNT0-STR", "CNT0-END", "HWID-STR", "HWID-END", "CUBERATE")
)  # fmt: skip
_OWN = re.compile(r"SR[CFN][1-9]\d*|[A-Z0-9_-]{1,6}_E")
_TIMES = ("MJD-STR", "MJD", "MJD-END")
_KEEP = 200_000  # card images remembered


def check(
    header: Mapping[str, Value], dictionary: Dictionary, *,
    instrument: str = "vampires", required: bool = True,
) -> list[Finding]:  # fmt: skip
    """Return what is wrong with a header, missing keywords last.

    Parameters
    ----------
    header
        Keyword to value; a :class:`~nightjar.fits.header.Header` is one.
    instrument
        Whose keywords are asked for: a column ``fits:`` of the dictionary.
    required
        Whether missing keywords are told of; not for raw cubes, which lack what the pipeline adds.
    """
    found = [
        finding
        for key, value in header.items()
        for finding in _card_findings(key, value, dictionary)
    ]
    found += _together(header)
    if required:
        found += [
            dictionary.missing(key)
            for key in dictionary.required(instrument)
            if header.get(key) in (None, "")
        ]
    return found


def _card_findings(key: str, value: Value, dictionary: Dictionary) -> list[Finding]:
    """Return what can be said of a card by itself."""
    if key in COMMENTARY or is_structural(key) or value is None:
        return []
    found = []
    entry = dictionary.entries.get(key)
    if entry is not None:
        try:
            entry.format.write(value, dictionary.decimals(key))
        except Unformattable as error:
            found.append(Finding(error.kind, key, value, f"{key}: {error}"))
    elif key not in OWN and not _OWN.fullmatch(key):
        found.append(_unknown(key))
    if not any(finding.kind is FindingKind.WRONG_TYPE for finding in found):
        text = limits.fault(key, value)
        if text:
            found.append(Finding(FindingKind.OUT_OF_RANGE, key, value, f"{key}: {text}"))
    return found


@cache
def _unknown(key: str) -> Finding:
    return Finding(FindingKind.UNKNOWN_KEY, key, None, f"{key} is not in the dictionary")


def _decimals(value: Value) -> int:
    exponent = exact(value).as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _together(header: Mapping[str, Value]) -> list[Finding]:
    """Return what is wrong between cards."""
    times = [header.get(key) for key in _TIMES]
    numbers = [t for t in times if isinstance(t, (int, float, Decimal)) and t is not None]
    found = []
    if len(numbers) == 3 and not numbers[0] <= numbers[1] <= numbers[2]:
        found.append(
            Finding(FindingKind.OUT_OF_RANGE, "MJD", times[1], "MJD: not MJD-STR <= MJD <= MJD-END")
        )
    return found


def precision_findings(images: Iterable[Card]) -> list[Finding]:
    """Return a finding for each MJD whose digits are too few to tell siblings by.

    Only digits as they stand on the card can tell: values have to be Decimal.
    """
    return [
        Finding(
            FindingKind.PRECISION, card.keyword, card.value,
            f"{card.keyword}: {card.value} has {_decimals(card.value)} decimals; siblings are "
            f"found by equal MJD, which takes {LEAST_DECIMALS}",
        )
        for card in images
        if card.keyword in _TIMES
        and isinstance(card.value, Decimal)
        and _decimals(card.value) < LEAST_DECIMALS
    ]  # fmt: skip


@dataclass(frozen=True)
class FileFindings:
    """A file that was checked.

    Attributes
    ----------
    path
        As it was given.
    findings
        What was found.
    """

    path: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Report:
    """What was found in files.

    Attributes
    ----------
    files
        In the order of their names.
    counts
        Kind of finding to number of findings.
    keys
        (kind, keyword) to number of files.
    """

    files: tuple[FileFindings, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def has_faults(self) -> bool:
        """True where anything but unknown keywords was found."""
        return any(finding.is_fault for file in self.files for finding in file.findings)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "files": [
                {"path": file.path, "findings": [item.as_json() for item in file.findings]}
                for file in self.files
            ],
            "counts": dict(self.counts),
            "keys": [
                {"kind": kind, "key": key, "files": count}
                for (kind, key), count in self.keys.items()
            ],
            "checked": len(self.files),
            "with_faults": sum(any(f.is_fault for f in file.findings) for file in self.files),
        }


def check_files(
    paths: Iterable[Path], dictionary: Dictionary, *,
    instrument: str = "vampires", required: bool = True,
) -> Report:  # fmt: skip
    """Check the headers of files, reading their header blocks only.

    Of a compressed file it is the header of the image. A file that cannot be read has a finding.
    """
    reader = _Remembering(dictionary)
    wanted = dictionary.required(instrument) if required else ()
    files = [
        FileFindings(str(path), tuple(reader.findings(path, wanted))) for path in sorted(paths)
    ]
    counts: Counter[str] = Counter()
    keys: Counter[tuple[str, str]] = Counter()
    for file in files:
        counts.update(finding.kind.value for finding in file.findings)
        keys.update({(finding.kind.value, finding.key) for finding in file.findings})
    ordered = dict(sorted(keys.items(), key=lambda item: (-item[1], item[0])))
    return Report(tuple(files), dict(sorted(counts.items())), ordered)


class _Remembering:
    """Checks card by card; most cards of a night are the same 80 bytes in every file."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self._seen: dict[bytes, tuple[str, Value, list[Finding]]] = {}

    def findings(self, path: Path, required: Iterable[str]) -> list[Finding]:
        """Return what is wrong with a file."""
        try:
            groups = grouped(read_image(path).cards)
        except StorageError as error:
            return [Finding(FindingKind.UNREADABLE, "", None, str(error))]
        found: list[Finding] = []
        values: dict[str, Value] = {}
        for image in groups:
            known = self._seen.get(image)
            if known is None:
                known = self._look(image)
                if len(self._seen) < _KEEP:
                    self._seen[image] = known
            key, value, remarks = known
            if key not in values:
                values[key] = value
            found += remarks
        found += _together(values)
        found += [
            self._dictionary.missing(key) for key in required if values.get(key) in (None, "")
        ]
        return found

    def _look(self, image: bytes) -> tuple[str, Value, list[Finding]]:
        match = _PLAIN.match(image)
        if match is not None and (key := match[1].decode("ascii")) not in self._dictionary.entries:
            if key not in OWN and not is_structural(key) and not _OWN.fullmatch(key):
                return key, None, [_unknown(key)]  # whatever number it holds
        try:
            card = parse_card(image)
        except ValueError as error:
            return "", None, [Finding(FindingKind.UNREADABLE, "", None, str(error))]
        if card.keyword in COMMENTARY:
            return card.keyword, card.value, []
        digits = digits_of(image) if card.keyword in _TIMES else None
        remarks = _card_findings(card.keyword, card.value, self._dictionary)
        if digits is not None and not self._dictionary.archive_digits:
            remarks += precision_findings([Card(card.keyword, digits)])
        return card.keyword, card.value, remarks


#: A card that certainly follows the standard and holds a number or a logical.
_PLAIN = re.compile(
    rb"(?=.{8}= )([A-Z0-9_-]{1,8}) *= +(?:[TF]|[+-]?\d+\.?\d*(?:E[+-]?\d+)?) *(?:/[ -~]*)?\Z"
)
_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d+)?\Z")


def digits_of(image: bytes) -> Decimal | None:
    """Return the number of a card with all its digits; None where it holds no number."""
    text = image[10:80].partition(b"/")[0].strip()
    if not _NUMBER.match(text):
        return None
    return Decimal(text.decode("ascii").upper().replace("D", "E"))
