# SPDX-License-Identifier: BSD-3-Clause
"""Workbooks of scripts: the layout, the same bytes each time, and the same script back."""

from __future__ import annotations

import hashlib
import io
import zipfile

import openpyxl
import pytest

from nightjar.calibration.catalogue import load_catalogue
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import load_detector
from nightjar.calibration.script import KEYS
from nightjar.calibration.script_book import (
    date_stamp,
    parse_date_stamp,
    parse_script_name,
    read_script,
    script_bytes,
    script_name,
    time_stamp,
    workbook_bytes,
)
from nightjar.errors import ConfigError, InvalidArgument, StorageError
from nightjar.times import parse_iso

DAY = parse_iso("2019-04-01T12:56:31")
EQUIPMENT = {"sn_roe": "FM15", "sn_rpsu": "FM15", "operator": "unk", "sn_ccd1": "14888-88-81"}


def script(test: str):
    return load_catalogue().script(
        test, equipment=EQUIPMENT, profile=load_profile("B_NOSTROMO", version=1),
        detector=load_detector("ccd273"),
    )  # fmt: skip


def grid(data: bytes):
    return list(openpyxl.load_workbook(io.BytesIO(data))["Sheet1"].iter_rows(values_only=True))


def test_layout():
    rows = grid(script_bytes(script("PTC01"), DAY))
    assert [row[0] for row in rows] == list(KEYS)
    assert rows[0] == ("frames", 10, 20, 30, 40, 50, 60, 70, 80, 84, 88, 92, "End")
    assert {len(row) for row in rows} == {13}
    exposures = next(row for row in rows if row[0] == "exptime")
    assert exposures[1:12] == (0.175, 0.35, 0.7, 1.05, 1.75, 2.45, 2.8, 3.15, 3.5, 3.85, 4.2)
    assert {row[12] for row in rows[1:]} == {None}


@pytest.mark.parametrize("test", ["BIAS01", "TP01", "FOCUS00_800", "PERSIST01", "BIAS02.3"])
def test_read_back_it_is_the_same_script(tmp_path, test):
    made = script(test)
    path = tmp_path / script_name(test, DAY, "7.5.X")
    path.write_bytes(script_bytes(made, DAY))
    assert read_script(path) == made


def test_same_script_and_date_give_the_same_bytes():
    made = script("CHINJ02")
    first = script_bytes(made, DAY)
    assert hashlib.sha256(first).digest() == hashlib.sha256(script_bytes(made, DAY)).digest()
    assert first != script_bytes(made, DAY + 10**9)
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        times = {member.date_time for member in archive.infolist()}
        assert times == {(2019, 4, 1, 12, 56, 30)}  # zip files have even seconds
        core = archive.read("docProps/core.xml").decode()
    assert core.count("2019-04-01T12:56:31Z") == 2


def test_texts_are_never_formulas():
    data = workbook_bytes({"Sheet1": [["=1+1", 2]]}, DAY)
    cell = openpyxl.load_workbook(io.BytesIO(data))["Sheet1"]["A1"]
    assert (cell.data_type, cell.value) == ("s", "=1+1")


def test_workbooks_of_others_are_read(tmp_path):
    """Without our document properties, with numbers that a spreadsheet has made whole."""
    made = script("FOCUS00_800")
    book = openpyxl.Workbook()
    for row in grid(script_bytes(made, DAY)):
        book.active.append(
            [int(v) if isinstance(v, float) and v == int(v) else v for v in row]
        )  # fmt: skip
    path = tmp_path / "vis_CalCamp_FOCUS00_800_01Apr19_v7.5.X.xlsx"
    book.save(path)
    assert read_script(path) == made


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda rows: rows.pop(5), "the key 'IG1_1_T' is missing"),
        (lambda rows: rows.append(["exptme", 1]), "unknown key 'exptme'"),
        (lambda rows: rows[0].remove("End"), "no End behind the last column"),
        (lambda rows: rows[0].__setitem__(3, 2), "col003: frames 2: must be above 2"),
        (lambda rows: rows[0].__setitem__(3, "x"), "col003: frames 'x'"),
        (lambda rows: rows[3].__setitem__(4, 99), r"col004: IDL: 99: out of the safe range"),
        (lambda rows: rows[3].__setitem__(4, None), "col004: IDL: None: must be a number"),
        (lambda rows: rows[2].__setitem__(4, "FOCUS00_590"), "col004 is of the test"),
        (lambda rows: [row.__setitem__(slice(1, 10), ["X"] * 9) for row in rows[2:3]],
         "the script in it is of the test 'X'"),
    ],
)  # fmt: skip
def test_faults_in_a_workbook_are_located(tmp_path, change, what):
    rows = [list(row) for row in grid(script_bytes(script("FOCUS00_800"), DAY))]
    change(rows)
    path = tmp_path / "vis_CalCamp_FOCUS00_800_01Apr19_v7.5.X.xlsx"
    path.write_bytes(workbook_bytes({"Sheet1": rows}, DAY))
    with pytest.raises(ConfigError, match=what) as caught:
        read_script(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("keep", [0, 100, 5000, -100])
def test_cut_files_are_no_workbooks(tmp_path, keep):
    path = tmp_path / "vis_CalCamp_BIAS01_01Apr19_v7.5.X.xlsx"
    path.write_bytes(script_bytes(script("BIAS01"), DAY)[:keep])
    with pytest.raises(ConfigError, match="not a workbook"):
        read_script(path)
    with pytest.raises(StorageError, match="cannot be read"):
        read_script(tmp_path / "none.xlsx")


def test_names_and_days():
    assert date_stamp(DAY) == "01Apr19"
    assert time_stamp(DAY) == "01Apr19 12:56:31"
    assert parse_date_stamp("01Apr19") == parse_iso("2019-04-01")
    assert parse_date_stamp("29Feb80") == parse_iso("2080-02-29")
    name = script_name("FOCUS00_800", DAY, "7.5.X")
    assert name == "vis_CalCamp_FOCUS00_800_01Apr19_v7.5.X.xlsx"
    assert parse_script_name(name) == ("FOCUS00_800", "01Apr19", "7.5.X")
    assert parse_script_name("TESTS_SCHEDULER_01Apr19.xlsx") is None
    for text in ("1Apr19", "01apr19", "31Feb19", "01Apr2019", ""):
        with pytest.raises(InvalidArgument):
            parse_date_stamp(text)
