# SPDX-License-Identifier: BSD-3-Clause
"""Names of a day's files, the years that two digits mean, and what a day folder holds."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from nightjar.calibration import dayfolder
from nightjar.calibration.elvis import full_year, load_elvis, log_values, parse_stamp, stamp
from nightjar.errors import ConfigError, StorageError
from nightjar.times import parse_iso

MOMENT = parse_iso("1980-02-21T10:15:30")


def test_names_are_those_of_the_acquisition() -> None:
    assert dayfolder.day_folder_name(MOMENT) == "21_Feb_80"
    assert dayfolder.day_folder_name(dt.date(2019, 3, 12)) == "12_Mar_19"
    assert dayfolder.image_name(17210, MOMENT, 1) == "EUC_17210_210280D101530T_ROE1_CCD1.fits"
    assert dayfolder.explog_name(MOMENT) == "EXP_LOG_210280.txt"
    assert dayfolder.hk_name(17210, MOMENT) == "HK_17210_210280D101530T_ROE1.txt"
    assert dayfolder.hk_master_name(MOMENT, 3) == "HK_21-02-80_ROE1_03.txt"


def test_names_are_read_back_with_other_prefixes_and_units() -> None:
    name = dayfolder.image_name(3, MOMENT, 12, unit="CAM2", prefix="NJ")
    assert name == "NJ_3_210280D101530T_CAM2_CCD12.fits"
    assert dayfolder.parse_image_name(name) == dayfolder.ImageName(3, MOMENT, 12, "CAM2", "NJ")
    assert dayfolder.parse_day_folder("21_Feb_80") == dt.date(1980, 2, 21)
    assert dayfolder.parse_explog_name("EXP_LOG_210280_2.txt") == (dt.date(1980, 2, 21), 2)
    assert dayfolder.parse_hk_name("HK_9_210280D101530T_CAM2.txt") == (9, MOMENT, "CAM2")
    assert dayfolder.parse_hk_master_name("HK_21-02-80_ROE1_12.txt")[1] == 12


@pytest.mark.parametrize(
    ("digits", "year"), [(0, 2000), (19, 2019), (20, 2020), (26, 2026), (69, 2069), (70, 1970),
                         (80, 1980), (99, 1999)],
)  # fmt: skip
def test_years_of_2020_and_later_are_right(digits: int, year: int) -> None:
    assert full_year(digits) == year
    moment = parse_stamp(f"0103{digits:02d}D235959T")
    assert moment == parse_iso(f"{year}-03-01T23:59:59")
    assert stamp(moment) == f"0103{digits:02d}D235959T"


@pytest.mark.parametrize(
    "text",
    ["", "300280D101530T", "210280D251530T", "210280D101530", "21-02-80D101530T",
     "²10280D101530T"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_stamp(text)


@pytest.mark.parametrize(
    "name",
    ["EUC_1_210280D101530T_ROE1.fits", "EUC_1_210280D101530T_ROE1_CCD1.fits.fz",
     "_1_210280D101530T_ROE1_CCD1.fits", "EUC_1_310280D101530T_ROE1_CCD1.fits", "a.fits"],
)  # fmt: skip
def test_what_is_no_image_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        dayfolder.parse_image_name(name)


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_a_day_with_two_logs_and_an_obsid_given_twice(tmp_path: Path) -> None:
    touch(
        tmp_path, "EXP_LOG_210280_2.txt", "EXP_LOG_210280.txt", "EXP_LOG_220280.txt",
        "EUC_5_210280D101530T_ROE1_CCD1.fits", "EUC_5_210280D111530T_ROE1_CCD1.fits",
        "EUC_6_210280D101630T_ROE1_CCD2.fits", "HK_5_210280D101530T_ROE1.txt",
        "HK_21-02-80_ROE1_02.txt", "HK_21-02-80_ROE1_01.txt", "notes.txt",
        ".EUC_7_210280D101530T_ROE1_CCD1.fits.Xa3", "EUC_99_990280D101530T_ROE1_CCD1.fits",
    )  # fmt: skip
    (tmp_path / "subfolder").mkdir()
    day = dayfolder.list_day(tmp_path)
    assert [path.name for path in day.logs] == [
        "EXP_LOG_210280.txt", "EXP_LOG_210280_2.txt", "EXP_LOG_220280.txt"
    ]  # fmt: skip
    assert [path.name[-6:-4] for path in day.masters] == ["01", "02"]
    assert day.images[5, 1].name == "EUC_5_210280D111530T_ROE1_CCD1.fits"
    assert [path.name for path in day.superseded] == ["EUC_5_210280D101530T_ROE1_CCD1.fits"]
    assert day.by_name["EUC_5_210280D101530T_ROE1_CCD1"].exists()
    assert day.obsids == [5, 6]
    assert set(day.hk) == {5}
    # A file whose name is no time at all is told, not dropped.
    assert [path.name for path in day.others] == [
        "EUC_99_990280D101530T_ROE1_CCD1.fits", "notes.txt"
    ]  # fmt: skip


def test_a_session_over_midnight_is_one_day_of_two_folders(tmp_path: Path) -> None:
    touch(tmp_path / "31_Dec_19", "EXP_LOG_311219.txt", "EUC_1_311219D235900T_ROE1_CCD1.fits")
    touch(tmp_path / "01_Jan_20", "EXP_LOG_010120.txt", "EUC_2_010120D000100T_ROE1_CCD1.fits")
    day = dayfolder.list_days([tmp_path / "01_Jan_20", tmp_path / "31_Dec_19"])
    assert [path.name for path in day.logs] == ["EXP_LOG_311219.txt", "EXP_LOG_010120.txt"]
    assert day.obsids == [1, 2]


def test_a_folder_that_is_not_there_is_told_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="give the folder that the acquisition writes"):
        dayfolder.list_day(tmp_path / "gone")


def test_the_log_of_a_script_is_named_by_its_version() -> None:
    values: dict[str, int | float | str] = {
        "v_tpmod": 123, "motr_on": 1, "IPHI1": 1, "IPHI2": 0, "IPHI3": 1, "exptime": 3,
        "test": "TP01", "dwell_v": 2,
    }  # fmt: skip
    new = log_values(values, load_elvis("7.5.X"))
    assert new == {"v_tp_mod": 123, "motr": 1, "IPHI": "I1I3", "exptime": 3.0, "test": "TP01",
                   "dwell_v": 2.0}  # fmt: skip
    old = log_values(values, load_elvis("6.3.0"))
    assert (old["v_tpmod"], old["motr_on"]) == (123, 1)


def test_versions_have_the_columns_that_they_are_known_by() -> None:
    assert len(load_elvis("7.5.X").columns) == 81
    assert load_elvis("FPA").columns == ("ObsID", "File_name", "date", "program", "test")
    assert len(load_elvis("7.5.X").housekeeping) == 83
    assert load_elvis("6.5.X").log == load_elvis("7.2.X").log == load_elvis("7.5.X").log
    with pytest.raises(ConfigError, match=r"described are: 5\.7\.02"):
        load_elvis("8.0.X")
