# SPDX-License-Identifier: BSD-3-Clause
"""The header dictionary: reading it, writing values as it says, checking, fixing, repairing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightjar.errors import ConfigError, Refused, StorageError
from nightjar.fits.cards import Card
from nightjar.fits.hdus import read_headers
from nightjar.fits.header import Header, NotFits
from nightjar.fits.verify import verify_image
from nightjar.fits.writer import write_image
from nightjar.times import NS_PER_S, parse_iso
from nightjard.archived.nights.dictionary import (
    SHIPPED,
    Dictionary,
    FindingKind,
    TelemetryLog,
    check,
    check_files,
    fix_file,
    repair,
    repair_file,
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


# --- fixing -------------------------------------------------------------------------------------


def raw_header() -> Header:
    """Return a header with numbers as a recorder writes them, full of digits."""
    header = Header()
    header.add("EXPTIME", 0.1234567890123, "exposure", "s")
    header.add("GAIN", 0.10333333333333333, "c" * 47)
    header.add("U_TRIGJT", 500.0, "half-width")
    header.add("RET-ANG1", 45)
    header.add("OBJECT", "00123", "an ID")
    header.add("FILTER01", "1e5")
    header.add("DETPXSZ1", 1.0e-3, "a comment")
    header.add("U_TRIGPW", 499.7, "not whole")
    header.add("MJD", 60000.123456789, "middle")
    header.add("EXTTRIG", True)
    header.add("FOO", 1.25)
    header.add("LONG", "it's " * 40)
    header.comment("stays / as it is")
    header.history("and this = 1.0")
    return header


FIXED = ("EXPTIME", "GAIN", "U_TRIGJT", "RET-ANG1", "DETPXSZ1", "MJD")


def fitsverify(*paths: Path) -> str:
    done = subprocess.run(["fitsverify", "-q", *map(str, paths)], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout


@pytest.mark.needs("fpack", "funpack", "fitsverify")
@pytest.mark.parametrize("packed", [False, True])
def test_a_fix_changes_digits_and_nothing_else(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path, "a.fits", raw_header(), packed=packed)
    os.chmod(path, 0o640)
    os.link(path, tmp_path / "other name")
    before = path.read_bytes()
    dry = fix_file(path, SHIPPED_DICTIONARY, dry_run=True)
    assert (dry.changed, dry.is_written) == (FIXED, False)
    assert path.read_bytes() == before
    result = fix_file(path, SHIPPED_DICTIONARY)
    assert (result.changed, result.is_written) == (FIXED, True)
    assert result.findings == dry.findings
    kinds = {f.key: f.kind for f in result.findings}
    assert kinds["U_TRIGPW"] is FindingKind.WRONG_TYPE
    assert kinds["U_FLC"] is FindingKind.MISSING
    after = path.read_bytes()
    assert (tmp_path / "other name").read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o640
    differing = {
        after[at : at + 8].decode().strip()
        for at in range(0, len(before), 80)
        if before[at : at + 80] != after[at : at + 80]
    }
    assert len(before) == len(after)
    assert differing <= {*FIXED, "CHECKSUM", "ZHECKSUM"}
    assert verify_image(path).is_good
    assert fitsverify(path) == ""
    header = read_headers(path)[1 if packed else 0]
    assert header.get("BZERO") == 32768
    assert type(header["BZERO"]) is int
    assert (header["U_TRIGJT"], header["RET-ANG1"], header["OBJECT"]) == (500, 45.0, "00123")
    assert (header["DETPXSZ1"], header.card("GAIN").comment) == (0.001, "c" * 47)
    if packed:  # without touching the checksums itself funpack makes a file whose sums agree
        subprocess.run(["funpack", "-C", str(path)], check=True)
        assert verify_image(tmp_path / "a.fits").is_good
    assert fix_file(path, SHIPPED_DICTIONARY).is_written is False
    assert path.read_bytes() == after
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_damaged_and_read_only_files_are_not_given_new_checksums(tmp_path: Path) -> None:
    path = write(tmp_path, "a.fits", raw_header())
    whole = path.read_bytes()
    path.chmod(0o444)
    with pytest.raises(Refused, match="read-only"):
        fix_file(path, SHIPPED_DICTIONARY)
    path.chmod(0o644)
    link = tmp_path / "link.fits"
    link.symlink_to(path)
    with pytest.raises(Refused, match="symbolic link"):
        fix_file(link, SHIPPED_DICTIONARY)
    for at in (whole.index(b"FOO  ") + 29, len(whole) - 2880):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match="damaged"):
            fix_file(path, SHIPPED_DICTIONARY)
        assert path.read_bytes() == damaged
    path.write_bytes(whole[:1000])
    with pytest.raises(NotFits):
        fix_file(path, SHIPPED_DICTIONARY)


KILLED = """
import os, signal, sys
from pathlib import Path
from nightjard.archived.nights.dictionary import Dictionary, fix_file
def stage(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
fix_file(Path(sys.argv[1]), Dictionary.load(), on_stage=stage)
"""


@pytest.mark.parametrize("stage", ["copied", "compared", "renamed"])
def test_a_killed_fix_leaves_the_old_file_or_the_new_one(tmp_path: Path, stage: str) -> None:
    path = write(tmp_path, "a.fits", raw_header())
    before = path.read_bytes()
    shutil.copy(path, tmp_path / "b.fits")
    fix_file(tmp_path / "b.fits", SHIPPED_DICTIONARY)
    wanted = (tmp_path / "b.fits").read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), stage], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == (wanted if stage == "renamed" else before)
    fix_file(path, SHIPPED_DICTIONARY)
    assert path.read_bytes() == wanted
    if stage != "renamed":
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fits", "b.fits"]


# --- telemetry ----------------------------------------------------------------------------------

START = parse_iso("2026-03-01T23:59:40")


def telemetry(folder: Path) -> TelemetryLog:
    """Return a log of two files: columns changed in between; the last row of the second is cut."""
    first = folder / "keywords_log_23:59:55.tsv"
    first.write_text(
        "WRITTIME\tAZIMUTH\tOBJECT\tRET-ANG1\n"
        "20260301-23:59:40\t359.0\t00123\t45.0\n"
        "20260301-23:59:50\t1.0\t00123\tnan\n"
        "20260301-23:5\n"
    )
    second = folder / "keywords_log.tsv"
    second.write_text(
        "WRITTIME\tOBJECT\tAZIMUTH\tU_TRIGJT\n"
        "20260302-00:00:00\t\"1e5\"\t3.0\t499.7\n"
        "20260302-00:00:10\t1e5\t5.0\t500\r\n"
        "20260302-00:00:20\t1e5\t7.0\t50"
    )
    return TelemetryLog.read([second, first])


def test_logs_are_read_over_renames_and_cuts(tmp_path: Path) -> None:
    log = telemetry(tmp_path)
    assert (len(log), log.skipped) == (4, 2)
    assert log.keys == {"AZIMUTH", "OBJECT", "RET-ANG1", "U_TRIGJT"}

    def value(key: str, after_s: float, how: Any, **options: Any) -> Any:
        reading = log.at(key, START + round(after_s * NS_PER_S), how, **options)
        return None if reading is None else reading.value

    assert value("OBJECT", 0, "previous") == "00123"
    assert value("OBJECT", 19.9, "previous") == "00123"
    assert value("OBJECT", 19.9, "nearest") == "1e5"
    assert value("OBJECT", -0.1, "previous") is None
    assert value("OBJECT", -0.1, "nearest") == "00123"
    assert value("AZIMUTH", 2.5, "linear") == pytest.approx(359.5)
    assert value("AZIMUTH", 7.5, "linear") == pytest.approx(0.5)
    assert value("AZIMUTH", 27.5, "linear") == pytest.approx(4.5)
    assert value("RET-ANG1", 12, "previous") == "45.0"  # what is not known in a row is not 0
    assert value("RET-ANG1", 12, "previous", limit_s=11) is None
    assert value("NOSUCH", 0, "nearest") is None
    (tmp_path / "x.tsv").write_text("TIME\tA\n")
    with pytest.raises(StorageError, match="no telemetry log"):
        TelemetryLog.read([tmp_path / "x.tsv"])


def test_cards_are_repaired_with_their_types_and_the_old_value_kept(tmp_path: Path) -> None:
    log = telemetry(tmp_path)
    cards = [Card("OBJECT", "HD 1", "target"), Card("RET-ANG1", 0.0), Card("U_TRIGJT", 30)]
    keys = ("OBJECT", "RET-ANG1", "AZIMUTH", "U_TRIGJT", "MJD", "NOSUCH")
    new, findings = repair(cards, log, keys, START + 5 * NS_PER_S, dictionary=SHIPPED_DICTIONARY)
    lines = [card.to_bytes().decode().rstrip() for card in new]
    assert lines[:3] == [
        "OBJECT  = '00123   '           / target", "RET-ANG1=                45.00",
        "U_TRIGJT=                   30",
    ]  # fmt: skip
    assert lines[3].startswith("HISTORY OBJECT was 'HD 1', from telemetry of 2026-03-01T23:59:40")
    assert lines[5].startswith("AZIMUTH =            359.00000 / [deg]")
    assert [f.key for f in findings if f.value is None] == ["U_TRIGJT", "MJD", "NOSUCH"]
    again, _ = repair(
        new, log, ("OBJECT", "RET-ANG1"), START + 5 * NS_PER_S, dictionary=SHIPPED_DICTIONARY
    )
    assert again == new
    late, findings = repair(
        cards, log, ("OBJECT", "RET-ANG1", "U_TRIGJT"), START + 50 * NS_PER_S,
        dictionary=SHIPPED_DICTIONARY,
    )  # fmt: skip
    assert [card.value for card in late[:3]] == ["1e5", 0.0, 500]
    assert "50 s away, more than 30 s" in findings[1].text
    between, _ = repair(
        cards, log, ["OBJECT"], START + 12 * NS_PER_S, dictionary=SHIPPED_DICTIONARY, how="linear"
    )
    assert between[0].value == "00123"
    wrong, findings = repair(
        cards, log, ["U_TRIGJT"], START + 21 * NS_PER_S, dictionary=SHIPPED_DICTIONARY
    )
    assert wrong == cards
    assert findings[0].kind is FindingKind.WRONG_TYPE


@pytest.mark.needs("fpack", "funpack", "fitsverify")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("more", range(0, 36, 5))
def test_waveplate_angles_are_repaired_in_a_file(tmp_path: Path, packed: bool, more: int) -> None:
    log = tmp_path / "20260301.HWP.csv"
    log.write_text(
        "t_hst,t_utc,stage,position,target,mode\n"
        "2026-03-01 13:59:21-10:00,2026-03-01 23:59:21+00:00,HWP,0.00,0.0,SYNCHRO_OFF\n"
        "2026-03-01 13:59:31-10:00,2026-03-01 23:59:31+00:00,HWP,101.99,45.0,ASYNC_FIX\n"
    )
    header = raw_header()
    for number in range(more):  # wherever the last block ends
        header.add(f"MORE{number}", number)
    path = write(tmp_path, "a.fits", header, packed=packed)
    pixels = path.read_bytes()[-2880:]
    keys = ("RET-ANG1", "RET-POS1", "RET-MOD1")
    log_read = TelemetryLog.read([log])
    result = repair_file(path, log_read, keys, SHIPPED_DICTIONARY, time_ns=START)
    assert (result.changed, result.is_written) == (("RET-POS1", "RET-MOD1"), True)
    header = read_headers(path)[1 if packed else 0]
    assert [header[key] for key in keys] == [45, 101.99, "ASYNC_FIX"]
    assert sum(card.keyword == "HISTORY" for card in header.cards) == 3
    assert path.read_bytes()[-2880:] == pixels
    assert verify_image(path).is_good
    assert fitsverify(path) == ""
    if packed:
        subprocess.run(["funpack", "-C", str(path)], check=True)
        assert verify_image(tmp_path / "a.fits").is_good
    assert repair_file(path, log_read, keys, SHIPPED_DICTIONARY, time_ns=START).is_written is False


