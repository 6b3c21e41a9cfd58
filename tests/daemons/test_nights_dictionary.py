# SPDX-License-Identifier: BSD-3-Clause
"""The header dictionary: reading it, writing values as it says, checking, fixing, repairing."""

from __future__ import annotations

import json
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightjar.errors import ConfigError
from nightjar.fits.cards import Card
from nightjar.fits.header import Header
from nightjar.fits.writer import write_image
from nightjard.archived.nights.dictionary import (
    SHIPPED,
    Dictionary,
    FindingKind,
    check,
    check_files,
)

SHIPPED_DICTIONARY = Dictionary.load()
PIXELS = np.random.default_rng(5).integers(0, 4000, (6, 16, 24)).astype(np.uint16)


def headings() -> list[str]:
    return SHIPPED.read_bytes().decode().split("\r\n")[1].split("\t")


def row(key: str, form: str, **cells: str) -> str:
    values = {"Gen2 Variable": ".", "FITS header": key, "Type": form, "fits:vampires": "1", **cells}
    return "\t".join(values.get(name, "") for name in headings())


def write_dictionary(folder: Path, *rows: str, first: str = "comment") -> Path:
    path = folder / "dictionary.tsv"
    names = "\t".join(headings()).replace("flag:required", "flag:other")
    lines = [first, names, *rows]
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode())
    return path


def one(keyword: str, value: Any, **options: Any) -> tuple[str, FindingKind | None]:
    """Return the text of a value as the shipped dictionary writes it, and what was said."""
    dictionary = Dictionary.load(**options) if options else SHIPPED_DICTIONARY
    card, finding = dictionary.explained(Card(keyword, value))
    assert dictionary.formatted(Card(keyword, value)).to_bytes() == card.to_bytes()
    text = card.to_bytes()[10:].decode().strip()
    return text, None if finding is None else finding.kind


# --- the file -----------------------------------------------------------------------------------


def test_the_shipped_dictionary_has_the_form_of_the_observatory() -> None:
    data = SHIPPED.read_bytes()
    lines = data.split(b"\r\n")
    assert lines.pop() == b""
    assert data.count(b"\n") == len(lines)
    assert {line.count(b"\t") for line in lines} == {29}
    entries = SHIPPED_DICTIONARY.entries
    assert len(entries) == len(lines) - 2
    assert entries["MJD"].format.text == "%20.8f"
    assert entries["U_SYNC"].format.text == "BOOLEAN"
    assert (entries["RET-ANG1"].owner, entries["RET-ANG1"].unit) == ("WPU", "deg")
    for suffix in ("", "B", "C", "D"):
        assert f"CD2_1{suffix}" in entries
    assert "U_FLC" in SHIPPED_DICTIONARY.required("vampires")
    assert SHIPPED_DICTIONARY.required("charis") == ()


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        (row("EXPTIME", "%20.8q"), "line 3, column 'Type': EXPTIME: unknown format '%20.8q'"),
        (row("EXPTIME", ""), "line 3, column 'Type'"),
        (row("EXPTIME", "%5.2d"), "line 3, column 'Type'"),
        (row("toolongkey", "%d"), "line 3, column 'FITS header': 'toolongkey'"),
        (row("EXPTIME", "%d") + "\tmore", "line 3: 31 cells, not 30"),
        (row("A", "%d") + "\r\n" + row("A", "%f"), "line 4, column 'Type': A is %f here and %d in"),
        (row("A", "%d", Unit="[s]"), "line 3, column 'Unit'"),
    ],
)
def test_a_wrong_dictionary_is_refused_by_line_and_column(
    tmp_path: Path, broken: str, where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Dictionary.load(write_dictionary(tmp_path, broken))
    assert where in str(caught.value)
    assert "dictionary.tsv" in str(caught.value)


def test_a_dictionary_without_its_columns_or_in_other_letters_is_refused(tmp_path: Path) -> None:
    path = write_dictionary(tmp_path, row("A", "%d"))
    good = path.read_bytes()
    for wrong, said in (
        (good.replace(b"\tType\t", b"\tKind\t"), "column 'Type'"),
        (good.replace(b"Gen2 Variable\t", b""), "line 2: 29 columns, not 30"),
        (good.replace(b"comment", b"\xff"), "line 1: byte 0xff"),
        (b"", "line 1"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(ConfigError, match=said):
            Dictionary.load(path)
    path.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        Dictionary.load(path)


def test_cells_of_a_spreadsheet_are_taken_as_they_are_meant(tmp_path: Path) -> None:
    path = write_dictionary(
        tmp_path, row("MJD    ", "%20.8f", Unit="NA"), row("X", "%d", **{"fits:vampires": "0"}), "",
        row("MJD", "%20.8f", Description="again"), "\t" * 29,
    )  # fmt: skip
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
    loaded = Dictionary.load(path)
    assert list(loaded.entries) == ["MJD", "X"]
    assert (loaded.entries["MJD"].unit, loaded.required("vampires")) == ("", ("MJD",))


def test_all_formats_in_use_are_known(tmp_path: Path) -> None:
    forms = (
        "%-16.16s %16.3f %16d %20.8f %-12s %9.5f %-16s %-10s %-20s %20d %-8s %20.1f %9.3f %20.2f "
        "BOOLEAN %7.3f %-30s %20.3f %6.2f %8.3f %20.5f %20.6f %-50s %1d"
    ).split()
    rows = [row(f"K{number}", form) for number, form in enumerate(forms)]
    loaded = Dictionary.load(write_dictionary(tmp_path, *rows))
    assert [entry.format.text for entry in loaded.entries.values()] == forms
    assert loaded.required("vampires") == tuple(loaded.entries)  # there is no flag:required here


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "value", "text"),
    [
        ("EXPTIME", 0.1, "0.10000000"),
        ("EXPTIME", 1, "1.00000000"),
        ("EXPTIME", 0.0, "0.00000000"),
        ("GAIN", 0.10333333333, "0.103"),
        ("U_TRIGJT", 500.0, "500"),
        ("BZERO", 32768, "32768"),
        ("BSCALE", 1, "1"),
        ("OBJECT", "00123", "'00123   '"),
        ("FILTER01", "1e5", "'1e5     '"),
        ("U_SYNC", True, "T"),
        ("RET-ANG1", 22.5, "22.50"),
        ("CRVAL1", -0.000000014, "-0.00000001"),
        ("CRPIX1", Decimal("268.05"), "268.0"),
        ("CDELT1", 5.9e-3 / 3600, "0.000001638889"),
        ("X_OTHER", 0.1234567890123, "0.1234567890123"),
        ("MJD", 60000.12345678901, "60000.12345678901"),
        ("MJD", Decimal("60000.12345678912"), "60000.12345678912"),
    ],
)
def test_values_are_written_as_the_dictionary_says(keyword: str, value: Any, text: str) -> None:
    assert one(keyword, value) == (text, None)


@pytest.mark.parametrize(
    ("keyword", "value", "kind"),
    [
        ("U_TRIGJT", 499.7, FindingKind.WRONG_TYPE),
        ("FILTER01", "x" * 31, FindingKind.TOO_LONG),
        ("EXPTIME", 1e-10, FindingKind.PRECISION),
        ("EXPTIME", "0.1", FindingKind.WRONG_TYPE),
        ("FRAMEID", 123, FindingKind.WRONG_TYPE),
        ("U_SYNC", 1, FindingKind.WRONG_TYPE),
        ("U_TRIGJT", True, FindingKind.WRONG_TYPE),
        ("EXPTIME", 1e80, FindingKind.TOO_LONG),
        ("U_TRIGJT", 1e80, FindingKind.TOO_LONG),
    ],
)
def test_what_a_format_would_change_stays_and_is_told(
    keyword: str, value: Any, kind: FindingKind
) -> None:
    assert one(keyword, value) == (Card(keyword, value).to_bytes()[10:].decode().strip(), kind)


def test_the_digits_of_mjd_are_cut_only_by_option() -> None:
    assert one("MJD", 60000.12345678901, archive_digits=True) == ("60000.12345679", None)


# --- checks -------------------------------------------------------------------------------------


def good_header() -> Header:
    """Return a header in which nothing is wrong."""
    special = {
        "DATE-OBS": "2026-03-01", "DATA-TYP": "OBJECT", "TIMESYS": "UTC", "U_FLC": "A",
        "RA": "05:14:32.272", "DEC": "-08:12:05.90", "MJD-STR": Decimal("61100.12345678900"),
        "MJD": Decimal("61100.12345678901"), "MJD-END": Decimal("61100.12345678902"),
        "U_CAMERA": 1, "ALTITUDE": 61.5,
        **dict.fromkeys(("UT", "UT-STR", "UT-END", "HST", "HST-STR", "HST-END"), "12:34:56.789"),
    }  # fmt: skip
    plain = {str: "X", int: 1, float: 1.5, bool: True}
    header = Header()
    for key in SHIPPED_DICTIONARY.required("vampires"):
        kind = SHIPPED_DICTIONARY.entries[key].format.kind
        header.append(SHIPPED_DICTIONARY.card(key, special.get(key, plain[kind])))
    return header


def changed(header: Header, **values: Any) -> Header:
    names = {key.replace("__", "-"): value for key, value in values.items()}
    kept = [card for card in header.cards if card.keyword not in names]
    added = [Card(key, value) for key, value in names.items() if value is not ...]
    return Header([*kept, *added])


def found(header: Header, **options: Any) -> list[tuple[FindingKind, str]]:
    return [(f.kind, f.key) for f in check(header, SHIPPED_DICTIONARY, **options)]


def test_check_says_what_is_wrong_and_nothing_else() -> None:
    header = good_header()
    assert found(header) == []
    wrong = changed(
        header, EXPTIME=0.0, DATA__TYP="SKY", U_CAMERA=3, OBJECT="o" * 31, GAIN="much",
        U_TRIGJT=499.7, NOSUCH=1, PROP__ID=..., UT="25:00:00", MJD=61099.5, U_FLC="C",
    )  # fmt: skip
    assert sorted(found(wrong), key=str) == sorted(
        [
            (FindingKind.OUT_OF_RANGE, "EXPTIME"), (FindingKind.OUT_OF_RANGE, "DATA-TYP"),
            (FindingKind.OUT_OF_RANGE, "U_CAMERA"), (FindingKind.TOO_LONG, "OBJECT"),
            (FindingKind.WRONG_TYPE, "GAIN"), (FindingKind.WRONG_TYPE, "U_TRIGJT"),
            (FindingKind.UNKNOWN_KEY, "NOSUCH"), (FindingKind.MISSING, "PROP-ID"),
            (FindingKind.OUT_OF_RANGE, "UT"), (FindingKind.OUT_OF_RANGE, "MJD"),
            (FindingKind.OUT_OF_RANGE, "U_FLC"),
        ],
        key=str,
    )  # fmt: skip
    assert (FindingKind.MISSING, "PROP-ID") not in found(wrong, required=False)
    assert (FindingKind.MISSING, "GAIN") in found(changed(header, GAIN=None))
    assert found(changed(header, RA="", FRAMEID="")) == [(FindingKind.MISSING, "RA")]
    assert found(Header(), instrument="charis") == []


def write(folder: Path, name: str, header: Header, *, packed: bool = False) -> Path:
    path = folder / name
    write_image(path, PIXELS, header)
    if packed:
        subprocess.run(["fpack", "-r", "-D", "-Y", str(path)], check=True)
        path = path.with_name(f"{name}.fz")
    return path


@pytest.mark.needs("fpack")
def test_many_files_are_checked_by_their_headers_alone(tmp_path: Path) -> None:
    good = write(tmp_path, "a.fits", good_header())
    packed = write(tmp_path, "b.fits", changed(good_header(), U_FLC=...), packed=True)
    coarse = write(tmp_path, "c.fits", changed(good_header(), MJD=Decimal("61100.12345679")))
    long = write(tmp_path, "d.fits", changed(good_header(), OBJECT="it's " * 30))
    with open(good, "r+b") as file:
        file.truncate(20 * 2880)  # pixels do not matter
    other = tmp_path / "e.fits"
    other.write_bytes(b"no FITS file")
    report = check_files([other, coarse, packed, good, long], SHIPPED_DICTIONARY)
    assert [file.path for file in report.files] == sorted(
        map(str, (good, packed, coarse, long, other))
    )
    told = [[(f.kind.value, f.key) for f in file.findings] for file in report.files]
    assert told == [
        [], [("missing", "U_FLC")], [("precision", "MJD"), ("out of range", "MJD")],
        [("too long", "OBJECT")], [("unreadable", "")],
    ]  # fmt: skip
    value = report.as_json()
    assert json.loads(json.dumps(value)) == value
    assert (value["checked"], value["with_faults"]) == (5, 4)
    assert value["counts"] == {
        "missing": 1, "out of range": 1, "precision": 1, "too long": 1, "unreadable": 1,
    }  # fmt: skip
    assert check_files([good, packed], SHIPPED_DICTIONARY, required=False).has_faults is False


def test_the_memory_of_cards_says_what_a_look_at_each_file_says(tmp_path: Path) -> None:
    headers = [
        changed(good_header(), GAIN=float(n % 3), NOSUCH=n, OTHER="x", EXPTIME=0.0 if n % 2 else 1)
        for n in range(6)
    ]
    paths = [write(tmp_path, f"{n}.fits", header) for n, header in enumerate(headers)]
    report = check_files(paths, SHIPPED_DICTIONARY)
    for header, file in zip(headers, report.files, strict=True):
        assert [(f.kind, f.key) for f in file.findings] == found(header)
