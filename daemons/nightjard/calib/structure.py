# SPDX-License-Identifier: BSD-3-Clause
"""Was what the script commands really acquired? The log of a test beside its script.

Numbers may differ by 0.5 %, texts must be the same; keys that the campaign waives are not
compared. The log's pumping modes are compared under the names that the log has for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nightjar.calibration.explog import LogRow
from nightjar.calibration.script import Script, expected_log_rows
from nightjard.calib.results import Results

TOLERANCE = 0.005
#: Of places, whose zero means nothing: 0.5 % of 47 mm would pass a whole step of the focus.
ABSOLUTE = {"mirr_pos": 0.05}
_DUST = 1e-9
_SERIALS = "sn_"
_SHOWN = 6


@dataclass(frozen=True)
class Difference:
    """A key whose logged values are not those of the script.

    Attributes
    ----------
    columns, ccds
        Where: ``col001`` ..., 1 ...; sorted.
    found
        The values that the log has instead, each once.
    """

    key: str
    expected: Any
    found: tuple[Any, ...]
    columns: tuple[str, ...]
    ccds: tuple[int, ...]

    def text(self, all_columns: int) -> str:
        """Return it as a person reads it."""
        shown = [repr(value) for value in self.found[:_SHOWN]]
        more = f" and {len(self.found) - _SHOWN} more" if len(self.found) > _SHOWN else ""
        where = "all columns" if len(self.columns) == all_columns else ", ".join(self.columns)
        ccds = ", ".join(f"CCD{ccd}" for ccd in self.ccds)
        return (
            f"{self.key}: expected {self.expected!r}, found [{', '.join(shown)}]{more} "
            f"({ccds}; {where})"
        )


@dataclass
class Structure:
    """What the comparison found.

    Attributes
    ----------
    messages
        Every cause, in words.
    failed_columns, failed_keys
        Columns of the script and keys of the log that differ.
    missing
        OBSIDs that the log leaves out between others of the test.
    """

    messages: list[str] = field(default_factory=list)
    failed_columns: list[str] = field(default_factory=list)
    failed_keys: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)

    @property
    def is_consistent(self) -> bool:
        """Nothing differs."""
        return not self.messages

    def record(self, results: Results) -> None:
        """Put it into the findings of the ingestion; MISSDATA where something differs."""
        results.value("is_consistent", self.is_consistent, note="acquisition beside the script")
        results.document(
            "STRUCTURE",
            {
                "is_consistent": self.is_consistent, "messages": self.messages,
                "failed_columns": self.failed_columns, "failed_keys": self.failed_keys,
            },
            caption="What was acquired beside what the script commands",
        )  # fmt: skip
        for message in self.messages:
            results.note(message)
        if self.messages:
            results.flag("MISSDATA", cause="; ".join(self.messages), metric="structure",
                         value=float(len(self.messages)))  # fmt: skip


def compare(
    script: Script, frames: Sequence[Sequence[LogRow]], ccds: Iterable[int],
    waived: Iterable[str] = (),
) -> Structure:  # fmt: skip
    """Compare the rows of a test with its script.

    Parameters
    ----------
    frames
        Rows of each exposure, in order of OBSID.
    ccds
        That each exposure should have.
    waived
        Columns of the log that are not compared.
    """
    found = Structure()
    numbers = frame_numbers(script, frames)
    _compare_counts(found, script, frames, numbers, list(ccds))
    skipped = set(waived)
    grouped: dict[tuple[str, str], dict[str, Any]] = {}
    wanted = expected_log_rows(script)
    for number, rows in zip(numbers, frames, strict=True):
        if number >= len(wanted):
            continue  # told above
        expected = wanted[number]
        column = script.columns[script.column_of_frame(number)].name
        for row in rows:
            for key, value in _failures(expected, row, skipped):
                entry = grouped.setdefault(
                    (key, repr(expected[key])),
                    {"expected": expected[key], "found": {}, "columns": set(), "ccds": set()},
                )
                entry["found"].setdefault(repr(value), value)
                entry["columns"].add(column)
                entry["ccds"].add(row.ccd)
    for (key, _), entry in grouped.items():
        found.differences.append(
            Difference(
                key, entry["expected"], tuple(entry["found"].values()),
                tuple(sorted(entry["columns"])), tuple(sorted(entry["ccds"])),
            )
        )  # fmt: skip
    found.messages += [one.text(len(script.columns)) for one in found.differences]
    found.failed_keys += sorted({one.key for one in found.differences})
    found.failed_columns = sorted(
        {*found.failed_columns, *(name for one in found.differences for name in one.columns)}
    )
    return found


def _failures(
    expected: Mapping[str, Any], row: LogRow, waived: set[str]
) -> Iterable[tuple[str, Any]]:
    for key, value in expected.items():
        if key in waived or key not in row:
            continue
        if key.startswith(_SERIALS) and value == "":
            continue  # the campaign does not say which hardware it is
        if not agrees(value, row[key], ABSOLUTE.get(key)):
            yield key, row[key]


def agrees(expected: Any, found: Any, within: float | None = None) -> bool:
    """Tell whether a logged value is the commanded one: numbers to 0.5 %, texts exactly.

    Numbers for which `within` is given agree where they differ by no more than that.
    """
    if isinstance(expected, str):
        return str(found if found is not None else "").strip() == expected.strip()
    try:
        number = float(found)
    except (TypeError, ValueError):
        return False
    if within is None:
        within = TOLERANCE * abs(float(expected))
    return abs(number - float(expected)) <= within + _DUST


def frame_numbers(script: Script, frames: Sequence[Sequence[LogRow]]) -> list[int]:
    """Return which frame of the script, 0-based, each exposure is.

    Where there are fewer exposures than frames, OBSIDs that are left out or values that do not
    fit tell which are missing: the others keep their columns.
    """
    seen, wanted = len(frames), script.frames
    if not frames or seen >= wanted:
        return list(range(seen))
    expected = expected_log_rows(script)
    keys = [
        key for key in expected[0]
        if any(row.get(key) != expected[0][key] for row in expected)
    ]  # fmt: skip
    gaps = [rows[0].obsid - frames[0][0].obsid for rows in frames]
    # OBSIDs first, then one after the other: of equals the first is taken.
    candidates = [
        [place + shift for place in places]
        for places in (gaps, list(range(seen)))
        for shift in range(wanted - places[-1])
    ]
    return min(
        candidates,
        key=lambda numbers: sum(
            _distance(expected[number][key], rows[0].get(key))
            for number, rows in zip(numbers, frames, strict=True) for key in keys
            if key in rows[0]
        ),
    )  # fmt: skip


def _distance(expected: Any, found: Any) -> float:
    """Return how much a logged value differs, 0 to 1."""
    if isinstance(expected, str):
        return 0.0 if agrees(expected, found) else 1.0
    try:
        number, wanted = float(found), float(expected)
    except (TypeError, ValueError):
        return 1.0
    return round(min(abs(number - wanted) / max(abs(number), abs(wanted), _DUST), 1.0), 6)


def _compare_counts(
    found: Structure, script: Script, frames: Sequence[Sequence[LogRow]], numbers: list[int],
    ccds: list[int],
) -> None:  # fmt: skip
    wanted, seen = script.frames, len(frames)
    if seen > wanted:
        found.messages.append(
            f"more exposures than expected: {seen} of {wanted}; the last {seen - wanted} "
            "belong to no column"
        )
    elif seen < wanted:
        _tell_missing(found, script, frames, numbers)
    for ccd in ccds:
        without = [rows[0].obsid for rows in frames if all(row.ccd != ccd for row in rows)]
        if without:
            found.messages.append(f"CCD{ccd}: no row in the log for {obsid_text(without)}")
    for rows in frames:
        strange = sorted({row.ccd for row in rows} - set(ccds))
        if strange:
            found.messages.append(
                f"OBSID {rows[0].obsid}: rows of CCD {strange}, which the detector does not have"
            )


def _tell_missing(
    found: Structure, script: Script, frames: Sequence[Sequence[LogRow]], numbers: list[int]
) -> None:
    gone = sorted(set(range(script.frames)) - set(numbers))
    names = list(dict.fromkeys(script.columns[script.column_of_frame(i)].name for i in gone))
    found.failed_columns += names
    text = f"missing frames, {len(frames)} of {script.frames}"
    if not frames or gone[0] > numbers[-1]:
        found.messages.append(
            f"ended too early: {text}; {names[0]} is the first column that lacks some"
        )
        return
    first = frames[0][0].obsid - numbers[0]
    inner = [i for i in gone if i < numbers[-1]]
    if all(rows[0].obsid - i == first for i, rows in zip(numbers, frames, strict=True)):
        found.missing = [first + i for i in inner]
        text += f": {obsid_text(found.missing)} not in the log"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    lack = "lacks" if len(names) == 1 else "lack"
    found.messages.append(f"{text}; {', '.join(names[:_SHOWN])}{more} {lack} some")


def stretches(obsids: Sequence[int]) -> list[tuple[int, int]]:
    """Return first and last of the OBSIDs that follow each other, in order."""
    found: list[tuple[int, int]] = []
    for obsid in sorted(set(obsids)):
        if found and obsid == found[-1][1] + 1:
            found[-1] = (found[-1][0], obsid)
        else:
            found.append((obsid, obsid))
    return found


def obsid_text(obsids: Sequence[int]) -> str:
    """Return OBSIDs for people: ``OBSIDs 17210-17214, 17216``."""
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in stretches(obsids)]
    return f"OBSID{'s' if len(set(obsids)) > 1 else ''} {', '.join(texts)}"
