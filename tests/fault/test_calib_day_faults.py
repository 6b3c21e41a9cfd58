# SPDX-License-Identifier: BSD-3-Clause
"""Data that are not what they should be: the right flag, and a cause that says where.

Faults are put into simulated day folders; the pipeline and its checks are the real ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.calib_day import RUN, Seen, look_at, run_faulty
from kit.calibration import simulated_session
from nightjar.errors import ConfigError

CLEAN: dict[str, Any] = {"seed": 2}
"""A block whose biases are within all limits."""

FEW_STEPS: dict[str, Any] = {
    "test": "PTC01", "columns": [0, 1], "max_frames": 2, "simulated": CLEAN,
}  # fmt: skip


def parameters(seen: Seen) -> set[tuple[str, str]]:
    """Return kind and parameter of what the housekeeping check found."""
    from astropy.table import Table

    (entry,) = [one for one in seen.results()["tables"] if one["name"] == "hk_findings"]
    attempt = seen.folder / seen.results()["test"] / "current"
    table = Table.read(attempt / entry["path"], format="ascii.ecsv")
    return {(str(row["kind"]), str(row["parameter"])) for row in table}


def test_good_data_raise_no_flag(tmp_path: Path) -> None:
    seen = run_faulty(tmp_path, simulated=CLEAN)
    assert seen.results()["flags"] == []
    assert "BIAS01 acquisition consistent with expectations" in seen.log
    assert "Raised Flags = []" in seen.log


# --- files ---


def test_files_that_are_missing_or_cut_short(tmp_path: Path) -> None:
    seen = run_faulty(
        tmp_path, "missing-file:ccd=2,frame=1", "truncated-file:ccd=3,frame=2",
        "missing-hk:frame=3", ccds=3, simulated=CLEAN,
    )  # fmt: skip
    assert seen.result["failed"] == []
    structure = seen.cause("MISSDATA")
    assert "CCD2: no file for OBSID 1000" in structure
    assert "OBSID 1001 CCD3: " in structure
    flags = [one["name"] for one in seen.results()["flags"] if one["severity"] == "error"]
    assert (flags.count("MISSDATA"), flags.count("BADDATA")) == (1, 1)  # told once each
    assert any("OBSID 1002 has no housekeeping" in one for one in told(seen, "MISSDATA"))
    assert "cut short" in seen.cause("BADDATA")
    assert "OBSID 1001 CCD3" in seen.cause("BADDATA")
    # What is there was measured all the same.
    (entry,) = [one for one in seen.results()["tables"] if one["name"] == "metrics"]
    assert entry["rows"] == (9 - 2) * 4
    assert "BIAS01 acquisition NOT consistent with expectations" in seen.log


def told(seen: Seen, flag: str) -> list[str]:
    """Return all causes of a flag: first and others, of all sub-tasks."""
    found = [one for one in seen.results()["flags"] if one["name"] == flag]
    return [cause for one in found for cause in (one["cause"], *one["others"])]


def test_a_frame_that_is_missing_leaves_the_others_their_columns(tmp_path: Path) -> None:
    """Mirror positions of a sweep differ by less than the tolerance of the comparison."""
    seen = run_faulty(
        tmp_path, "missing-frame:frame=4", test="FOCUS00_800", simulated=CLEAN,
        is_ingested_only=True,
    )  # fmt: skip
    assert seen.cause("MISSDATA") == (
        "missing frames, 8 of 9: OBSID 1003 not in the log; col004 lacks some"
    )
    assert seen.results()["obsids"] == [1000, 1008]
    document = seen.folder / "FOCUS00_800" / "products" / "FOCUS00_800_STRUCTURE.json"
    assert '"failed_keys": []' in document.read_text()


def test_images_that_the_log_does_not_know(tmp_path: Path) -> None:
    seen = run_faulty(tmp_path, "missing-rows:frame=3", **FEW_STEPS, is_ingested_only=True)
    cause = seen.cause("MISSDATA")
    assert "3 of 4: OBSID 1002 not in the log; col002 lacks some" in cause
    assert "OBSID 1002: images are there, but no row in the log" in cause


# --- log ---


def test_serials_of_another_block_are_told_and_the_analysis_goes_on(tmp_path: Path) -> None:
    session = simulated_session(
        ["BIAS01"], ccds=1, max_frames=2, faults=["wrong-serials"], **CLEAN
    )
    folders = [str(folder) for folder in session.folders]
    schedule = [["BIAS01", [None, None], {"check": True, "prep": True}]]
    seen = look_at(
        session, tmp_path, max_frames=2, is_check_only=False,
        campaign={"test_specifics": {RUN: {"datapath": folders, "schedule": schedule}}},
    )  # fmt: skip
    cause = seen.cause("MISSDATA")
    for key in ("sn_roe", "sn_rpsu", "sn_ccd1"):
        assert f"{key}: expected " in cause
    assert "found ['FM99']" in cause
    steps = {one["name"]: one["status"] for one in seen.results()["steps"]}
    assert (steps["init"], steps["check"], steps["prep"]) == ("done",) * 3


@pytest.mark.parametrize(("percent", "is_seen"), [(1.0, True), (0.4, False)])
def test_exposure_times_that_are_not_those_of_the_script(
    tmp_path: Path, percent: float, is_seen: bool
) -> None:
    seen = run_faulty(
        tmp_path, f"exptime-error:percent={percent}", **FEW_STEPS, is_ingested_only=True
    )
    assert ("MISSDATA" in seen.flags) is is_seen
    if is_seen:
        assert "exptime: expected 0.175, found [0.17675] (CCD1; col001)" in seen.cause("MISSDATA")


def test_a_log_of_another_version_is_refused_with_the_one_that_fits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"columns are those of ELVIS 6.3.0.*--elvis 6.3.0") as no:
        run_faulty(tmp_path, "wrong-elvis", simulated=CLEAN)
    assert no.value.detail["fitting"] == ["6.3.0"]
    assert "the run ends:" in next(tmp_path.glob("Calib_*.log")).read_text()


# --- housekeeping ---


def test_housekeeping_that_is_odd_in_every_way(tmp_path: Path) -> None:
    seen = run_faulty(
        tmp_path, "hk-spike:frame=1", "hk-gap:frame=2", "hk-stuck:frame=3",
        "hk-stuck-bit:frame=4", "hk-flag:frame=5", "hk-stale:frame=6",
        "hk-ramp:frame=7,seconds=20", max_frames=7, simulated=CLEAN,
    )  # fmt: skip
    assert set(seen.flags) == {"HK_OOL", "CCDTEMP_OOL"}
    cold = seen.flags["CCDTEMP_OOL"]
    assert (cold["severity"], cold["where"]["parameter"]) == ("error", "CCD2_TEMP_B")
    assert cold["cause"].startswith("OBSID 1006: CCD2_TEMP_B -13")
    assert "limits S -133 to 35" in cold["cause"]
    flag = seen.flags["HK_OOL"]
    # A flag of the electronics is a matter of safety: it stands first, whatever came before it.
    assert (flag["severity"], flag["where"]) == (
        "error", {"obsid": 1004, "parameter": "VccdErrFlg"}
    )  # fmt: skip
    causes = told(seen, "HK_OOL")
    for part in (
        "OBSID 1000: CCD2_OD_T was 29.99", "OBSID 1001: no rows for 14 s after",
        "OBSID 1002: CCD1_TEMP_T was -1", "OBSID 1003: CCD3_IG1_B: bit 3 of its counts",
        "OBSID 1004: VccdErrFlg 1 must be 0", "OBSID 1005: no value has changed for 11 rows",
    ):  # fmt: skip
        assert any(part in cause for cause in causes), (part, causes)
    found = {(kind, name) for kind, name in parameters(seen) if name != "CCD2_TEMP_B"}
    assert found == {
        ("spike", "CCD2_OD_T"), ("gap", "all"), ("stuck", "CCD1_TEMP_T"),
        ("stuck_bit", "CCD3_IG1_B"), ("mean", "VccdErrFlg"), ("stale", "all"),
    }  # fmt: skip


def test_the_warm_test_is_judged_at_its_own_temperature(tmp_path: Path) -> None:
    seen = run_faulty(
        tmp_path, "hk-ramp:to=-20,seconds=2,parameter=CCD1_TEMP_T", test="MOT_WARM",
        simulated=CLEAN,
    )  # fmt: skip
    assert seen.flags["CCDTEMP_OOL"]["where"]["parameter"] == "CCD1_TEMP_T"
    assert "limits P 5 to 35" in seen.cause("CCDTEMP_OOL")
    # The other CCDs are at 20 C as well, and that is as it should be.
    assert {name for _, name in parameters(seen)} == {"CCD1_TEMP_T"}


# --- pixels ---


def test_quadrants_that_are_dead_jump_or_have_a_stuck_bit(tmp_path: Path) -> None:
    seen = run_faulty(
        tmp_path, "stuck-bit:ccd=1,quadrant=E,bit=4", "bias-jump:ccd=1,quadrant=F,adu=80",
        "dead-quadrant:ccd=1,quadrant=G,value=2000", **FEW_STEPS,
    )  # fmt: skip
    stuck = seen.flags["STUCKBIT"]
    assert stuck["cause"] == (
        "CCD1 E: bit 4 of the converter does not change in 3 frames, from OBSID 1001"
    )
    jump = seen.flags["OFFSET_OOL"]
    assert jump["cause"].startswith("CCD1 F, OBSID 1001: offset_jump_pre is ")
    assert jump["value"] == pytest.approx(80, abs=5)
    assert "OBSID 1001, CCD1 G: its values do not vary" in seen.cause("DEADQUAD")
    assert all("CCD1 G" in cause for cause in told(seen, "DEADQUAD"))
    assert "CCD1 G" in seen.cause("RON_OOL")


def test_dead_quadrants_are_all_named_and_a_dead_ccd_is_told(tmp_path: Path) -> None:
    dead = [(1, "G"), (1, "E"), *((2, quadrant) for quadrant in "EFGH")]
    seen = run_faulty(
        tmp_path, *(f"dead-quadrant:ccd={ccd},quadrant={quadrant}" for ccd, quadrant in dead),
        ccds=2, simulated=CLEAN,
    )  # fmt: skip
    causes = told(seen, "DEADQUAD")
    assert {cause.partition(":")[0] for cause in causes} == {
        f"OBSID {obsid}, CCD{ccd} {quadrant}" for obsid in (1001, 1002) for ccd, quadrant in dead
    }
    assert seen.flags["DEADQUAD"]["count"] == 12
    assert "lost_pixels" in seen.cause("LOSTPIXELS")
