# SPDX-License-Identifier: BSD-3-Clause
"""Headers of files made anew: by the dictionary's formats, and from telemetry."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightjar.errors import StorageError
from nightjar.fits.cards import Card, parse_cards
from nightjar.fits.header import Header, NotFits
from nightjar.fits.writer import write_image
from nightjar.times import NS_PER_S, parse_iso
from nightjard.archived.nights.dictionary import (
    Dictionary,
    FindingKind,
    TelemetryLog,
    fixes,
    fixes_of,
    repair,
)
from nightjard.archived.nights.dictionary.images import read_image

SHIPPED_DICTIONARY = Dictionary.load()
PIXELS = np.random.default_rng(5).integers(0, 4000, (6, 16, 24)).astype(np.uint16)


def write(folder: Path, name: str, header: Header, *, packed: bool = False) -> Path:
    path = folder / name
    write_image(path, PIXELS, header)
    if packed:
        subprocess.run(["fpack", "-r", "-D", "-Y", str(path)], check=True)
        path = path.with_name(f"{name}.fz")
    return path


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
    header.comment("RET-POS1 not available: stage of the plate")
    header.add("LONG", "it's " * 40)
    header.comment("stays / as it is")
    header.history("and this = 1.0")
    return header


FIXED = ("EXPTIME", "GAIN", "U_TRIGJT", "RET-ANG1", "DETPXSZ1", "MJD")


@pytest.mark.needs("fpack")
@pytest.mark.parametrize("packed", [False, True])
def test_a_fix_changes_digits_and_nothing_else(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path, "a.fits", raw_header(), packed=packed)
    before = path.read_bytes()
    result = fixes_of(path, SHIPPED_DICTIONARY)
    assert path.read_bytes() == before
    assert result.changed == FIXED
    kinds = {f.key: f.kind for f in result.findings}
    assert kinds["U_TRIGPW"] is FindingKind.WRONG_TYPE
    assert kinds["U_FLC"] is FindingKind.MISSING
    old = read_image(path).cards
    assert len(result.cards) == len(old)
    differing = {new[:8].decode().strip() for new, card in zip(result.cards, old, strict=True)
                 if new != card}  # fmt: skip
    assert differing == set(FIXED)
    header = Header()
    for card in parse_cards(b"".join(result.cards)):
        header.append(card, may_repeat=True)
    assert header.get("BZERO") == 32768
    assert type(header["BZERO"]) is int
    assert (header["U_TRIGJT"], header["RET-ANG1"], header["OBJECT"]) == (500, 45.0, "00123")
    assert (header["DETPXSZ1"], header.card("GAIN").comment) == (0.001, "c" * 47)
    again = fixes(result.cards, SHIPPED_DICTIONARY)
    assert (again.cards, again.changed) == (result.cards, ())


def test_what_is_no_header_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "a.fits", raw_header())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(NotFits):
        fixes_of(path, SHIPPED_DICTIONARY)
    with pytest.raises(StorageError, match="cannot read"):
        fixes_of(tmp_path / "gone.fits", SHIPPED_DICTIONARY)


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


def test_waveplate_angles_come_from_the_log_of_the_plate(tmp_path: Path) -> None:
    log = tmp_path / "20260301.HWP.csv"
    log.write_text(
        "t_hst,t_utc,stage,position,target,mode\n"
        "2026-03-01 13:59:21-10:00,2026-03-01 23:59:21+00:00,HWP,0.00,0.0,SYNCHRO_OFF\n"
        "2026-03-01 13:59:31-10:00,2026-03-01 23:59:31+00:00,HWP,101.99,45.0,ASYNC_FIX\n"
    )
    keys, log_read = ("RET-ANG1", "RET-POS1", "RET-MOD1"), TelemetryLog.read([log])
    cards, findings = repair(
        raw_header(), log_read, keys, START, dictionary=SHIPPED_DICTIONARY
    )
    assert [finding.key for finding in findings] == ["RET-POS1", "RET-MOD1"]
    values = {card.keyword: card.value for card in cards}
    assert [str(values[key]) for key in keys] == ["45", "101.99", "ASYNC_FIX"]
    assert sum(card.keyword == "HISTORY" for card in cards) == 3
    assert not any("not available" in str(card.value) for card in cards)
    again, findings = repair(cards, log_read, keys, START, dictionary=SHIPPED_DICTIONARY)
    assert (again, findings) == (cards, [])


