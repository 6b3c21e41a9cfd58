# SPDX-License-Identifier: BSD-3-Clause
"""The header dictionary: a table of keywords with their types, in 30 tab-separated columns.

Lines end in CR LF. The first line is free text, the second names the columns, each further one is
a keyword. Columns are found by name, so that their order does not matter; there must be 30.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nightjar.errors import ConfigError
from nightjar.fits.cards import COMMENTARY, Card
from nightjard.archived.nights.dictionary.findings import Finding, FindingKind
from nightjard.archived.nights.dictionary.formats import Format, Unformattable

COLUMNS = 30
SHIPPED = Path(__file__).with_name("vampires.tsv")
REQUIRED_FLAG = "required"

_VARIABLE, _KEY, _OWNER, _MECHANISM = "Gen2 Variable", "FITS header", "Mgmt", "Mgmt2"
_SHM, _TYPE, _UNIT, _DESCRIPTION = "Name in SHM", "Type", "Unit", "Description"
_COMMENTS, _ORDER = "Comments", "Original ordering"
NAMED_COLUMNS = (
    _VARIABLE, _KEY, _OWNER, _MECHANISM, _SHM, _TYPE, _UNIT, _DESCRIPTION, _COMMENTS, _ORDER,
)  # fmt: skip
_GROUPS = {"fits": "instruments", "dict": "dictionaries", "flag": "flags"}
_NO_UNIT = frozenset(("NA", "N/A", "-", "NONE", "UNITLESS"))
_MARKED = frozenset(("1", "TRUE", "T", "X", "Y"))
_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}\Z")

#: Cards that tell how the file is built; what they say is never formatted, checked or repaired.
STRUCTURAL = frozenset(
    ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "GROUPS", "EXTEND", "END",
     "BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "EXTNAME", "EXTVER", "EXTLEVEL", "INHERIT",
     "LONGSTRN", "TFIELDS", "THEAP", "BLOCKED", "CONTINUE")
)  # fmt: skip
_STRUCTURAL = re.compile(
    r"NAXIS\d+|T(?:TYPE|FORM|UNIT|NULL|SCAL|ZERO|DISP|DIM|COMM)\d+"
    r"|Z(?:IMAGE|CMPTYPE|SIMPLE|EXTEND|BITPIX|NAXIS\d*|TILE\d+|NAME\d+|VAL\d+|PCOUNT|GCOUNT"
    r"|TENSION|BLOCKED|MASKCMP|QUANTIZ|DITHER0|SCALE|ZERO|BLANK|HECKSUM|DATASUM)"
)

#: Decimals that are written whatever the dictionary says, and why.
KEPT_DECIMALS: Mapping[str, int] = {
    # Siblings (cameras and states of one chunk) are found by exactly equal MJD: the eight decimals
    # of the observatory's dictionary are 0.86 ms, coarser than the distance of two frames; eleven
    # are 0.9 us, all that a float64 has.
    **dict.fromkeys(("MJD", "MJD-STR", "MJD-END"), 11),
    # A pixel of 5.9 mas is 1.6e-6 degrees: eight decimals would leave three digits of the scale.
    **{
        f"{name}{suffix}": 12
        for name in ("CDELT1", "CDELT2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
        for suffix in ("", "B", "C", "D")
    },
}
#: Fewer than these of an MJD are told of.
LEAST_DECIMALS = 9


def is_structural(keyword: str) -> bool:
    """Tell whether a card belongs to the structure of the file."""
    return keyword in STRUCTURAL or _STRUCTURAL.fullmatch(keyword) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """A keyword of the dictionary.

    Attributes
    ----------
    key
        Of the card.
    format
        How its value is written.
    unit, description
        For its comment.
    owner, mechanism
        Who gives the value (VAMPIRES, SUBARU, ...), and by which way.
    variable, shm_name
        Its names in the observatory's status and in shared memory; ``""`` or ``.`` for none.
    comments
        Of the authors.
    instruments, dictionaries, flags
        Names of the columns ``fits:``, ``dict:``, ``flag:`` that are marked.
    line
        In the file, from 1.
    """

    key: str
    format: Format
    unit: str
    description: str
    owner: str
    mechanism: str
    variable: str
    shm_name: str
    comments: str
    instruments: frozenset[str]
    dictionaries: frozenset[str]
    flags: frozenset[str]
    line: int


_REMEMBERED = 20_000  # cards whose form was found out


class Dictionary:
    """Keywords, and how their values are written.

    Attributes
    ----------
    entries
        Keyword to entry, in the order of the file.
    path
        Of the file.
    digest
        sha256 of it (hex): goes into whatever depends on it.
    has_required
        It has a column ``flag:required``; else all keywords of an instrument are required.
    archive_digits
        The digits of the file instead of :data:`KEPT_DECIMALS`.
    """

    def __init__(
        self, entries: Mapping[str, Entry], path: Path, digest: str, *,
        has_required: bool = False, archive_digits: bool = False,
    ) -> None:  # fmt: skip
        self.entries = entries
        self.path = path
        self.digest = digest
        self.has_required = has_required
        self.archive_digits = archive_digits
        self._explained: dict[tuple[Card, type, str], tuple[Card, Finding | None]] = {}

    @classmethod
    def load(cls, path: Path | None = None, *, archive_digits: bool = False) -> Dictionary:
        """Read a dictionary; the shipped one without a path.

        Raises
        ------
        ConfigError
            The file cannot be read or is not of this form; the message names file, line, column.
        """
        path = path or SHIPPED
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"cannot read the header dictionary {path}: {error.strerror}", path=str(path)
            ) from error
        columns, entries = _Reader(path, data).result()
        return cls(
            entries, path, hashlib.sha256(data).hexdigest(),
            has_required=f"flag:{REQUIRED_FLAG}" in columns, archive_digits=archive_digits,
        )  # fmt: skip

    def required(self, instrument: str) -> tuple[str, ...]:
        """Return the keywords that a final header of an instrument must have."""
        return tuple(
            entry.key
            for entry in self.entries.values()
            if instrument in entry.instruments
            and (not self.has_required or REQUIRED_FLAG in entry.flags)
            and not is_structural(entry.key)
        )

    def decimals(self, key: str) -> int | None:
        """Return the decimals that are written whatever the format says; None: as it says."""
        return None if self.archive_digits else KEPT_DECIMALS.get(key)

    def formatted(self, card: Card) -> Card:
        """Return a card with its value written as the dictionary says, else the card itself."""
        return self.explained(card)[0]

    def explained(self, card: Card) -> tuple[Card, Finding | None]:
        """Return a card as :meth:`formatted` does, and why it was left as it is.

        Structural and commentary cards, undefined values and keywords that the dictionary does
        not have are left without a word.
        """
        entry = self.entries.get(card.keyword)
        if entry is None or card.value is None or card.keyword in COMMENTARY:
            return card, None
        # Type and text, too: 1, 1.0 and True are equal, as are 0.0 and -0.0, but not in a card.
        key = (card, type(card.value), str(card.value))
        found = self._explained.get(key)
        if found is None:
            if len(self._explained) > _REMEMBERED:
                self._explained.clear()
            found = self._explained[key] = self._explain(card, entry)
        return found

    def _explain(self, card: Card, entry: Entry) -> tuple[Card, Finding | None]:
        if is_structural(card.keyword):
            return card, None
        try:
            value = entry.format.write(card.value, self.decimals(card.keyword))
        except Unformattable as error:
            return card, Finding(error.kind, card.keyword, card.value, f"{card.keyword}: {error}")
        if isinstance(value, str):
            return card, None  # trailing blanks mean nothing in FITS: nothing to be written anew
        return Card(card.keyword, value, card.comment, card.unit), None

    def card(self, key: str, value: object, comment: str = "") -> Card:
        """Return a new card in the dictionary's words; `comment` where it has none."""
        entry = self.entries.get(key)
        if entry is None:
            return Card(key, value, comment)  # type: ignore[arg-type]
        text = entry.description or comment
        return self.formatted(Card(key, value, text, entry.unit))  # type: ignore[arg-type]

    def missing(self, key: str) -> Finding:
        """Return what is said of a keyword that is not there."""
        entry = self.entries.get(key)
        owner = f", which {entry.owner} gives" if entry is not None and entry.owner else ""
        return Finding(FindingKind.MISSING, key, None, f"{key}{owner}, is missing")


class _Reader:
    """One reading of a file."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        try:
            self._lines = data.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise self._error(line, "", f"byte {data[error.start]:#04x} is not UTF-8") from None
        self._columns: list[str] = []

    def _error(self, line: int, column: str, what: str) -> ConfigError:
        where = f", column {column!r}" if column else ""
        return ConfigError(
            f"header dictionary {self._path}, line {line}{where}: {what}",
            path=str(self._path), line=line, column=column,
        )  # fmt: skip

    def result(self) -> tuple[list[str], dict[str, Entry]]:
        """Return the names of the columns and the entries."""
        rows = [line.rstrip("\r").split("\t") for line in self._lines]
        if len(rows) < 3:
            raise self._error(len(rows), "", "a line of text, the names of columns, then keywords")
        self._columns = [name.strip() for name in rows[1]]
        if len(self._columns) != COLUMNS:
            raise self._error(2, "", f"{len(self._columns)} columns, not {COLUMNS}")
        for name in NAMED_COLUMNS:
            if self._columns.count(name) != 1:
                raise self._error(2, name, "there must be one column of this name")
        if len(set(self._columns)) < COLUMNS:
            raise self._error(2, "", "two columns have one name")
        entries: dict[str, Entry] = {}
        for number, row in enumerate(rows[2:], start=3):
            if not any(cell.strip() for cell in row):
                continue
            entry = self._entry(number, row)
            first = entries.setdefault(entry.key, entry)
            if first.format != entry.format:
                raise self._error(
                    number, _TYPE,
                    f"{entry.key} is {entry.format.text} here and {first.format.text} in line "
                    f"{first.line}",
                )  # fmt: skip
        if not entries:
            raise self._error(len(rows), "", "no keywords")
        return self._columns, entries

    def _entry(self, number: int, row: list[str]) -> Entry:
        if len(row) != COLUMNS:
            raise self._error(number, "", f"{len(row)} cells, not {COLUMNS}")
        cells = dict(zip(self._columns, (cell.strip() for cell in row), strict=True))
        key = cells[_KEY]
        if not _KEYWORD.match(key):
            raise self._error(
                number, _KEY, f"{key!r} is no FITS keyword: at most 8 of A-Z, 0-9, '_' and '-'"
            )
        try:
            form = Format.parse(cells[_TYPE])
        except ValueError as error:
            raise self._error(number, _TYPE, f"{key}: {error}") from None
        if "[" in cells[_UNIT] or "]" in cells[_UNIT]:
            raise self._error(number, _UNIT, f"{key}: a unit must not contain brackets")
        unit = "" if cells[_UNIT].upper() in _NO_UNIT else cells[_UNIT]
        groups = {
            name: frozenset(
                column.partition(":")[2]
                for column, cell in cells.items()
                if column.startswith(f"{prefix}:") and cell.upper() in _MARKED
            )
            for prefix, name in _GROUPS.items()
        }
        return Entry(
            key=key, format=form, unit=unit, description=cells[_DESCRIPTION],
            owner=cells[_OWNER], mechanism=cells[_MECHANISM], variable=cells[_VARIABLE],
            shm_name=cells[_SHM], comments=cells[_COMMENTS], line=number, **groups,
        )  # fmt: skip
