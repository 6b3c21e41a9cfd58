# SPDX-License-Identifier: BSD-3-Clause
"""The structure check: what was acquired beside the script, each difference named."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kit.calib_engine import EQUIPMENT, Site
from nightjar.calibration.elvis import load_elvis, log_values, stamp
from nightjar.calibration.explog import LogRow
from nightjar.calibration.script import Script
from nightjard.calib.results import Results, read_subtask
from nightjard.calib.structure import Structure, agrees, compare, obsid_text

CCDS = (1, 2)
VERSION = load_elvis("7.5.X")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("structure"), camptype="Full")


def rows_of(script: Script, *, first: int = 1000, ccds: Sequence[int] = CCDS) -> list[list[LogRow]]:
    """Return what a faultless acquisition logs."""
    frames = []
    for index in range(script.frames):
        values = script.columns[script.column_of_frame(index)].values
        told = log_values(values, VERSION)
        frames.append([
            LogRow(
                {**dict.fromkeys(VERSION.columns, ""), **told, "ObsID": first + index,
                 "CCD": f"CCD{ccd}", "date": stamp((first + index) * 100_000_000_000)},
                Path(),
            )
            for ccd in ccds
        ])  # fmt: skip
    return frames


def changed(
    frames: list[list[LogRow]], changes: dict[str, Any], at: Iterable[int] | None = None,
    ccds: Iterable[int] = CCDS,
) -> list[list[LogRow]]:  # fmt: skip
    """Return frames with other logged values."""
    wanted = set(range(len(frames)) if at is None else at)
    chosen = set(ccds)
    return [
        [
            LogRow({**row, **changes}, row.datapath)
            if index in wanted and row.ccd in chosen else row
            for row in rows
        ]
        for index, rows in enumerate(frames)
    ]  # fmt: skip


@pytest.mark.parametrize("test", ["BIAS02", "FOCUS00_800", "CHINJ01", "TP01", "TP02", "PERSIST01"])
def test_what_the_script_says_is_consistent(site: Site, test: str) -> None:
    (script,) = site.scripts(test)
    assert compare(script, rows_of(script), CCDS, ["motr_siz"]) == Structure()


def test_half_a_percent_is_allowed_and_a_whole_is_not(site: Site) -> None:
    (script,) = site.scripts("FOCUS00_800")
    exposure_s = float(script.columns[0].values["exptime"])
    good = changed(rows_of(script), {"exptime": exposure_s * 1.004})
    assert compare(script, good, CCDS).is_consistent
    bad = changed(rows_of(script), {"exptime": exposure_s * 1.01}, at=[3], ccds=[2])
    found = compare(script, bad, CCDS)
    assert (found.failed_columns, found.failed_keys) == (["col004"], ["exptime"])
    assert found.messages == [
        f"exptime: expected {exposure_s!r}, found [{exposure_s * 1.01!r}] (CCD2; col004)"
    ]


def test_a_mirror_that_missed_its_step_is_told(site: Site) -> None:
    (script,) = site.scripts("FOCUS00_800")
    places = [float(column.values["mirr_pos"]) for column in script.columns]
    off = changed(rows_of(script), {"mirr_pos": places[3] + 0.2}, at=[3])
    assert compare(script, off, CCDS).failed_keys == ["mirr_pos"]
    near = changed(rows_of(script), {"mirr_pos": places[3] + 0.04}, at=[3])
    assert compare(script, near, CCDS).is_consistent


def test_pumping_modes_are_compared_under_the_names_of_the_log(site: Site) -> None:
    vertical, serial = site.scripts("TP01", "TP02")
    found = compare(vertical, changed(rows_of(vertical), {"v_tp_mod": 234}, at=[1]), CCDS)
    assert found.failed_keys == ["v_tp_mod"]
    assert "expected 123, found [234]" in found.messages[0]
    found = compare(serial, changed(rows_of(serial), {"s_tp_mod": 31}, at=[1]), CCDS)
    assert found.failed_keys == ["s_tp_mod"]


def test_texts_must_be_the_same_and_serials_are_told_once(site: Site) -> None:
    (script,) = site.scripts("PTC01")
    frames = changed(rows_of(script), {"sn_roe": "FM99"})
    frames = changed(frames, {"rdmode": "rwd_bas_v"}, at=[0, 1])
    found = compare(script, frames, CCDS)
    assert found.failed_keys == ["rdmode", "sn_roe"]
    assert found.failed_columns == [column.name for column in script.columns]
    assert sorted(found.messages) == [
        "rdmode: expected 'fwd_bas', found ['rwd_bas_v'] (CCD1, CCD2; col001)",
        "sn_roe: expected 'FM15', found ['FM99'] (CCD1, CCD2; all columns)",
    ]


def test_serials_that_the_campaign_does_not_know_are_not_compared(site: Site) -> None:
    (script,) = site.scripts("BIAS02")
    nameless = dataclasses.replace(
        script,
        columns=tuple(
            dataclasses.replace(
                column, values={**column.values, **dict.fromkeys(EQUIPMENT, ""), "operator": "me"}
            )
            for column in script.columns
        ),
    )
    assert compare(nameless, rows_of(script), CCDS).is_consistent


def test_waived_keys_are_not_compared(site: Site) -> None:
    (script,) = site.scripts("FOCUS00_800")
    frames = changed(rows_of(script), {"motr_siz": 120})
    assert compare(script, frames, CCDS, ["motr_siz"]).is_consistent
    assert compare(script, frames, CCDS).failed_keys == ["motr_siz"]


def test_missing_frames_name_the_first_column_that_lacks_some(site: Site) -> None:
    (script,) = site.scripts("FOCUS00_800")
    found = compare(script, rows_of(script)[:7], CCDS)
    assert found.failed_columns == ["col008", "col009"]
    assert found.messages == [
        "ended too early: missing frames, 7 of 9; col008 is the first column that lacks some"
    ]
    more = compare(script, [*rows_of(script), *rows_of(script, first=1009)[:2]], CCDS)
    assert more.messages == [
        "more exposures than expected: 11 of 9; the last 2 belong to no column"
    ]


def test_a_ccd_without_rows_and_one_too_many(site: Site) -> None:
    (script,) = site.scripts("BIAS02")
    frames = [rows if i not in (2, 3, 5) else rows[:1] for i, rows in enumerate(rows_of(script))]
    assert compare(script, frames, CCDS).messages == [
        "CCD2: no row in the log for OBSIDs 1002-1003, 1005"
    ]
    found = compare(script, rows_of(script, ccds=(1, 2, 3)), CCDS)
    assert len(found.messages) == script.frames
    assert "OBSID 1000: rows of CCD [3]" in found.messages[0]


def test_every_cause_is_in_the_flag(site: Site, tmp_path: Path) -> None:
    (script,) = site.scripts("FOCUS00_800")
    frames = changed(rows_of(script), {"sn_roe": "FM99", "exptime": 99.0})[:8]
    structure = compare(script, frames, CCDS)
    results = Results(tmp_path, script.test, "init")
    structure.record(results)
    results.close()
    kept = read_subtask(tmp_path, "init")
    assert kept is not None
    (flag,) = kept["flags"]
    assert flag["name"] == "MISSDATA"
    assert all(message in flag["cause"] for message in structure.messages)
    assert len(structure.messages) == 3


@pytest.mark.parametrize(
    ("expected", "found", "is_same"),
    [
        (0, 0.0, True), (0, 1e-6, False), (200.0, 201.0, True), (200.0, 201.1, False),
        (-5.0, -5.02, True), (4, "4", True), (4, None, False), (4, "four", False),
        ("FM15", "FM15 ", True), ("FM15", "fm15", False), ("FM15", None, False),
    ],
)  # fmt: skip
def test_agreement(expected: Any, found: Any, is_same: bool) -> None:
    assert agrees(expected, found) is is_same


def test_obsids_for_people() -> None:
    assert obsid_text([5]) == "OBSID 5"
    assert obsid_text([3, 1, 2, 7, 9, 10]) == "OBSIDs 1-3, 7, 9-10"
