# SPDX-License-Identifier: BSD-3-Clause
"""The common check: good data raise nothing, each fault raises its flag and says where."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.calib_bench import FIRST_OBSID, flags_of, run, take
from nightjar.calibration.detector import load_detector
from nightjar.calibration.housekeeping import HkLimits
from nightjar.executor.pool import PoolExecutor
from nightjard.calib.checks import check, checked
from nightjard.calib.limits import Limits
from nightjard.calib.task import worker_functions
from nightjard.calib.work import Inputs, Work, WorkersMapper
from nightjard.simulators.detector.truth import Truth

EIGHTH = load_detector("ccd273-8th")
PLAIN = Truth.default(EIGHTH, effects={"persistence": False, "defects": False})
Pixels = np.ndarray[Any, Any]


def bias(folder: Path, spoil: Any = None, **changes: Any) -> Work:
    return take(folder, "BIAS01", PLAIN, frames={"col001": 3}, spoil=spoil, **changes)


def part(frame: Pixels, quadrant: str) -> Pixels:
    return EIGHTH.canonical(frame, quadrant)


def good_hk(work: Work) -> dict[int, dict[str, tuple[float, float, float, float]]]:
    """Housekeeping in the middle of all limits."""
    limits = HkLimits.load("7.5.X")
    found = {}
    for frame in work.dataset.frames:
        commanded = limits.commands_of({**frame.commanded, **frame.logged})
        values = {}
        for name, one in limits.parameters.items():
            window = one.window("P", commanded)
            assert window is not None, name
            middle = sum(window) / 2
            values[name] = (middle, 0.0, middle, middle)
        found[frame.obsid] = values
    return found


# --- good data ---


def test_good_data_raise_nothing_and_give_the_truth(tmp_path: Path) -> None:
    work = bias(tmp_path, ccds=(1, 2, 3))
    work.dataset = dataclasses.replace(work.dataset, hk=good_hk(work))
    found = run(work, "check", check)
    assert found["flags"] == []
    assert all(one["is_good"] for one in found["compliances"])
    table = work.table("check", "metrics")
    assert len(table) == 3 * 3 * 4
    assert table["offset_pre"].unit == "adu"
    for row in table:
        name = f"{row['ccd']}{row['quadrant']}"
        electronics = PLAIN.electronics
        assert row["offset_pre"] == pytest.approx(electronics.offset_adu[name], abs=2.0)
        # Without the bias's course along the rows.
        for sector in ("pre", "ove", "img"):
            assert row[f"std_{sector}"] == pytest.approx(electronics.read_noise_adu[name], rel=0.05)
        assert (row["npix_zero"], row["npix_sat"], row["npix"]) == (0, 0, 278 * 327)
        assert (row["column"], row["exptime"]) == ("col001", 0.0)
        assert row["median_img"] == row["offset_img"]
    for sector in ("pre", "ove"):
        deviations = np.asarray(table[f"deltaoff_{sector}"]).reshape(3, 12)
        np.testing.assert_allclose(deviations.mean(axis=0), 0, atol=1e-9)
    names = {one["name"] for one in found["figures"]}
    assert names == {"offset_vs_time", "deltaoff_vs_time", "std_vs_time", "hk_vs_time"}
    metrics = {one["metric"] for one in found["compliances"]}
    assert metrics == {
        "lost_pixels", "saturated_fraction", "offset_pre", "offset_ove", "offset_img",
        "offset_gradient_ove", "offset_gradient_img", "offset_jump_pre", "std_pre", "std_ove",
        "std_img",
    }  # fmt: skip


def test_workers_give_the_same_and_pictures_are_the_same(tmp_path: Path) -> None:
    work = take(tmp_path, "BIAS01", PLAIN, frames={"col001": 2})
    here = run(work, "check", check)
    pictures = {path.name: path.read_bytes() for path in (work.folder / "figs").iterdir()}
    other = dataclasses.replace(work, folder=tmp_path / "other")
    with PoolExecutor(2, 1_000_000_000, allowed=worker_functions(["BIAS01"])) as executor:
        other.mapper = WorkersMapper(executor, lambda: False)
        there = run(other, "check", check)
    assert json.dumps(here) == json.dumps(there)
    assert pictures == {path.name: path.read_bytes() for path in (other.folder / "figs").iterdir()}


# --- faults of pixels ---


def shift(obsid: int, _ccd: int, frame: Pixels) -> None:
    if obsid == FIRST_OBSID + 1:
        part(frame, "F")[...] += 80


def tilt(obsid: int, _ccd: int, frame: Pixels) -> None:
    if obsid == FIRST_OBSID:
        part(frame, "G")[:, 307:] += 14


def shake(obsid: int, _ccd: int, frame: Pixels) -> None:
    rng = np.random.default_rng(obsid)
    view = part(frame, "E")
    view[...] = view + rng.normal(0, 1.3, view.shape).round().astype(np.int64)


def lose(obsid: int, _ccd: int, frame: Pixels) -> None:
    if obsid == FIRST_OBSID + 2:
        part(frame, "H")[100, 100:103] = 0


def saturate(obsid: int, _ccd: int, frame: Pixels) -> None:
    if obsid == FIRST_OBSID + 2:
        part(frame, "H")[:150] = 65535


def deaden(_obsid: int, _ccd: int, frame: Pixels) -> None:
    part(frame, "G")[...] = 2540


def deaden_all(_obsid: int, _ccd: int, frame: Pixels) -> None:
    frame[...] = 2600


def stick(_obsid: int, _ccd: int, frame: Pixels) -> None:
    part(frame, "F")[...] |= 1


@pytest.mark.parametrize(
    ("spoil", "flag", "quadrant", "obsid", "text"),
    [
        (shift, "OFFSET_OOL", "F", 1, "limits 2590 to 2690"),
        (tilt, "OFFSET_OOL", "G", 0, "limits -10 to 10"),
        (shake, "RON_OOL", "E", None, "limits 0.86 to 1.44"),
        (lose, "LOSTPIXELS", None, 2, "lost_pixels is 3 px"),
        (saturate, "SATURATION", None, 2, "limits 0 to 0.1"),
        (deaden, "DEADQUAD", "G", 0, "do not vary"),
        (deaden_all, "DEADCCD", None, None, "CCD1: no quadrant gives a signal"),
        (stick, "STUCKBIT", "F", 0, "bit 0 of the converter does not change in 3 frames"),
    ],
)
def test_each_fault_raises_its_flag_and_says_where(
    spoil: Any, flag: str, quadrant: str | None, obsid: int | None, text: str, tmp_path: Path
) -> None:
    work = bias(tmp_path, spoil)
    flags = flags_of(run(work, "check", checked))
    assert text in flags[flag]["cause"]
    where = flags[flag]["where"]
    assert where["ccd"] == 1
    assert where.get("quadrant") == quadrant
    if obsid is not None:
        assert where["obsid"] == FIRST_OBSID + obsid
    others = set(flags) - {flag, "POORQUALDATA"}
    assert others <= {
        "SATURATION": {"OFFSET_OOL", "RON_OOL"}, "DEADQUAD": {"RON_OOL"},
        "DEADCCD": {"RON_OOL", "OFFSET_OOL", "DEADQUAD"},
    }.get(flag, set())  # fmt: skip


def test_a_frame_that_cannot_be_read_is_told_and_the_others_are_measured(tmp_path: Path) -> None:
    work = bias(tmp_path)
    path = work.dataset.frames[1].path
    assert path is not None
    with path.open("r+b") as file:
        file.truncate(90_000)
    missing = dataclasses.replace(work.dataset.frames[2], path=None)
    frames = (*work.dataset.frames[:2], missing)
    work.dataset = dataclasses.replace(work.dataset, frames=frames)
    found = run(work, "check", checked)
    flags = flags_of(found)
    assert "cut short" in flags["BADDATA"]["cause"]
    assert flags["BADDATA"]["where"] == {"obsid": FIRST_OBSID + 1, "ccd": 1}
    assert "its file is missing" in flags["MISSDATA"]["cause"]
    assert set(work.table("check", "metrics")["obsid"]) == {FIRST_OBSID}
    problems = list(work.table("check", "inventory")["problem"])
    assert "CCD1: its file is missing" in problems[2]


def test_the_inventory_tells_the_problems_of_all_ccds(tmp_path: Path) -> None:
    work = bias(tmp_path)
    first = dataclasses.replace(work.dataset.frames[0], path=None)
    second = dataclasses.replace(first, ccd=2, problem="cut short")
    work.dataset = dataclasses.replace(
        work.dataset, frames=(first, second, *work.dataset.frames[1:])
    )
    run(work, "check", checked)
    problem = work.table("check", "inventory")["problem"][0]
    assert problem == "CCD1: its file is missing; CCD2: cut short"


def test_columns_that_saturate_by_design_are_exempt(tmp_path: Path) -> None:
    truth = Truth.default(EIGHTH, effects="plain")
    work = take(tmp_path, "PTC01", truth, frames={f"col{n:03d}": 0 for n in range(1, 11)} | {
        "col008": 1, "col011": 1})  # fmt: skip
    found = run(work, "check", checked)
    table = work.table("check", "metrics")
    top = table[table["column"] == "col011"]
    assert (top["npix_sat"] > 0.5 * top["npix"]).all()
    judged = {one["where"]["column"] for one in found["compliances"]
              if one["metric"] == "saturated_fraction"}  # fmt: skip
    assert judged == {"col008"}
    assert "SATURATION" not in flags_of(found)


def test_a_quadrant_that_sees_no_light_is_dead(tmp_path: Path) -> None:
    def darken(_obsid: int, _ccd: int, frame: Pixels) -> None:
        dark = np.random.default_rng(1).normal(2610, 1.1, EIGHTH.quadrant_shape)
        part(frame, "H")[...] = dark.round().astype(np.uint16)

    truth = Truth.default(EIGHTH, effects="plain")
    work = take(tmp_path, "FLAT_STB", truth, frames={"col001": 1}, spoil=darken)
    flag = flags_of(run(work, "check", checked))["DEADQUAD"]
    assert flag["where"]["quadrant"] == "H"
    assert "it sees 0 ADU where the CCD sees" in flag["cause"].replace("-0", "0")


# --- limits ---


def test_limits_come_from_campaign_column_catalogue_default() -> None:
    limits = Limits({
        "columns": {
            "col001": {"limits": {"fluence": [1, 2, "ADU"], "std": [0.5, 3.0, "ADU"]}},
            "col002": {"limits": {"fluence": [5, 6, "ADU"]}, "is_exempt": True},
        },
        "overrides": {"std_ove": [0.1, 9], "offset_deviation": None,
                      "columns": {"col002": {"fluence": {"low": 7, "high": None}}}},
    })  # fmt: skip
    assert limits.of("fluence", "col001") == (1, 2, "ADU")
    assert limits.of("fluence", "col002") == (7, None, "")
    assert limits.of("std_pre", "col001") == (0.5, 3.0, "ADU")
    assert limits.of("std_ove", "col001") == (0.1, 9, "")
    assert limits.of("std_img", "col002") == (0.86, 1.44, "ADU")
    assert limits.of("offset_deviation_pre") is None
    assert limits.of("nothing of the kind") is None
    assert (limits.is_exempt("col001"), limits.is_exempt("col002")) == (False, True)
    assert Limits({}).of("saturated_fraction", "col001") == (0.0, 0.1, "")


def test_a_campaign_can_widen_a_limit(tmp_path: Path) -> None:
    work = bias(tmp_path, shake)
    work.limits = {**work.limits, "overrides": {"std": [0.5, 2.5]}}
    assert flags_of(run(work, "check", checked)) == {}


# --- housekeeping ---


def hk_flags(work: Work, changes: dict[str, float], obsid: int = FIRST_OBSID + 1) -> Any:
    hk = good_hk(work)
    for name, value in changes.items():
        hk[obsid][name] = (value, 0.0, value, value)
    work.dataset = dataclasses.replace(work.dataset, hk=hk)
    return flags_of(run(work, "check", checked))


@pytest.mark.parametrize(
    ("name", "value", "severity", "text"),
    [
        ("CCD2_TEMP_B", -124.0, "warning", "limits P -121 to -119"),
        ("CCD2_TEMP_B", -134.0, "error", "limits S -133 to 35"),
        ("CCD3_IG1_B", 6.5, "warning", "CCD3_IG1_B"),
        ("SPW_STATUS_REG", 12193.0, "error", "bits that differ: 0x1"),
    ],
)
def test_housekeeping_out_of_limits_is_told(
    name: str, value: float, severity: str, text: str, tmp_path: Path
) -> None:
    work = dataclasses.replace(bias(tmp_path), is_drill=True)
    flags = hk_flags(work, {name: value})
    assert text in flags["HK_OOL"]["cause"]
    assert f"OBSID {FIRST_OBSID + 1}" in flags["HK_OOL"]["cause"]
    assert flags["HK_OOL"]["severity"] == severity
    assert flags["HK_OOL"]["where"]["parameter"] == name
    assert ("CCDTEMP_OOL" in flags) == ("TEMP" in name)
    assert list(work.table("check", "hk_findings")["parameter"]) == [name]


def test_voltages_are_judged_by_the_calibration_of_their_electronics(tmp_path: Path) -> None:
    work = dataclasses.replace(bias(tmp_path), is_drill=True)
    commanded = work.dataset.frames[0].commanded["IG1_3_B"]
    read = {"CCD3_IG1_B": 0.31 + 1.02 * commanded}
    flags = hk_flags(work, read)
    assert flags["HK_OOL"]["where"]["parameter"] == "CCD3_IG1_B"
    work.inputs = Inputs(voltages={"CCD3_IG1_B": (0.31, 1.02)})
    # That exposure is well now; the others, which read the command itself, are not.
    flags = hk_flags(work, read)
    assert flags["HK_OOL"]["where"]["obsid"] == FIRST_OBSID
    found = work.table("check", "hk_findings")
    assert list(found["exposures"]) == [len(work.dataset.obsids) - 1]


def test_missing_housekeeping_is_told_and_the_rest_judged(tmp_path: Path) -> None:
    work = dataclasses.replace(bias(tmp_path), is_drill=True)
    hk = good_hk(work)
    del hk[FIRST_OBSID + 2]
    work.dataset = dataclasses.replace(work.dataset, hk=hk, hk_missing=(FIRST_OBSID + 2,))
    found = run(work, "check", checked)
    flags = flags_of(found)
    assert set(flags) == {"MISSDATA"}
    assert flags["MISSDATA"]["where"]["obsid"] == FIRST_OBSID + 2
    assert "drill: no pixels were measured" in found["notes"]


def test_a_test_at_another_temperature_is_judged_by_it(tmp_path: Path) -> None:
    one = {f"col{number:03d}": int(number == 1) for number in range(1, 7)}
    work = take(tmp_path, "PTC02_148K", PLAIN, frames=one)
    work.is_drill = True
    flags = hk_flags(work, {}, FIRST_OBSID)
    assert "limits P -126.15 to -124.15" in flags["CCDTEMP_OOL"]["cause"]
    cold = {f"CCD{ccd}_TEMP_{half}": -125.0 for ccd in (1, 2, 3) for half in "TB"}
    work.folder = tmp_path / "again"
    assert hk_flags(work, cold, FIRST_OBSID) == {}


def test_a_drill_misses_no_frames(tmp_path: Path) -> None:
    work = bias(tmp_path)
    frames = tuple(dataclasses.replace(one, path=None) for one in work.dataset.frames)
    work.dataset = dataclasses.replace(work.dataset, frames=frames, hk=good_hk(work))
    work.is_drill = True
    assert run(work, "check", check, is_drawn=False)["flags"] == []
