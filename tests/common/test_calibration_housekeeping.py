# SPDX-License-Identifier: BSD-3-Clause
"""Housekeeping: files by name, limits of every version, the same judgement of files and live."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from nightjar.calibration.elvis import load_elvis
from nightjar.calibration.housekeeping import (
    HkFinding,
    HkLimits,
    HkReader,
    HkTable,
    HkWatch,
    HkWriter,
    NotHousekeeping,
    check_hk,
    check_statistics,
    hk_statistics,
    read_hk,
    read_hks,
)
from nightjar.errors import ConfigError
from nightjar.times import NS_PER_S, parse_iso
from nightjard.simulators.detector.housekeeping import HkSimulator

START = parse_iso("1980-02-21T10:15:30")
LIMITS = HkLimits.load("7.5.X")
#: Every electrode with a voltage of its own: a mix-up of two cannot pass.
COMMANDED = {
    name: round(6.0 + 0.5 * number, 3)
    for number, name in enumerate(
        sorted({p.commanded for p in LIMITS.parameters.values() if p.commanded})
    )
}


def simulated(seconds: int = 60, obsid: int = 1, elvis: str = "7.5.X") -> HkTable:
    return HkSimulator(elvis, seed=7).rows(obsid, START, START + seconds * NS_PER_S, COMMANDED)


def changed(table: HkTable, name: str, rows: slice, value: float | np.ndarray) -> HkTable:
    values = table.values.copy()
    values[rows, table.names.index(name)] = value
    return dataclasses.replace(table, values=values)


def kinds(findings: list[HkFinding]) -> list[tuple[str, str, str]]:
    return sorted((one.kind, one.parameter, one.level) for one in findings)


def write(path: Path, table: HkTable) -> Path:
    with HkWriter(path, table.names) as file:
        for utc_ns, row in zip(table.times_ns.tolist(), table.values, strict=True):
            file.append(utc_ns, dict(zip(table.names, row.tolist(), strict=True)))
    return path


# --- files ---


def test_a_file_comes_back(tmp_path: Path) -> None:
    table = simulated(20)
    found = read_hk(write(tmp_path / "HK_1_210280D101530T_ROE1.txt", table))
    assert found.names == load_elvis("7.5.X").housekeeping[1:]
    np.testing.assert_array_equal(found.times_ns, table.times_ns)
    np.testing.assert_array_equal(found.values, table.values)
    assert (found.missing, found.problems) == ((), ())
    np.testing.assert_array_equal(found["CCD2_OD_T"], table["CCD2_OD_T"])


def test_columns_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "HK_1_210280D101530T_ROE1.txt"
    path.write_text(
        "RPSU_TEMP1\tTimeStamp\tSPW_STATUS_REG\tCCD1_OD_T\t\n"
        "21.5\t21-02-80_10:15:30\t2FA0\t26.0\t\n"
        "\n"
        "21.6\t21-02-80_10:15:31\t12192\tn/a\t\r\n"
        "21.7\t21-02-80_10:15\t12192\t26\t\n"
        "21.7\t21-02-80_10:15:33\t12192\n"
        "21.7\t21-02-80_10:15:34\t121"
    )
    found = read_hk(path)
    assert found.times_ns.tolist() == [START, START + NS_PER_S]
    assert found["SPW_STATUS_REG"].tolist() == [12192, 12192]
    assert found["RPSU_TEMP1"].tolist() == [21.5, 21.6]
    assert np.isnan(found["CCD1_OD_T"][1])
    assert len(found.missing) == 79
    assert [problem.rpartition(f"{path}:")[2][:1] for problem in found.problems] == ["5", "6"]
    # The last line has no end: it is still being written.
    assert "10:15:34" not in str(found.problems)


def test_times_of_day_alone_are_completed_over_midnight(tmp_path: Path) -> None:
    path = tmp_path / "HK_1_210280D235958T_ROE1.txt"
    path.write_text("TimeStamp\tRPSU_TEMP1\n23:59:59\t1\n00:00:01\t2\n")
    first = parse_iso("1980-02-21T23:59:59")
    assert read_hk(path).times_ns.tolist() == [first, first + 2 * NS_PER_S]


def test_another_version_is_refused_with_the_one_that_fits(tmp_path: Path) -> None:
    path = write(tmp_path / "HK_1_210280D101530T_ROE1.txt", simulated(3, elvis="6.3.0"))
    with pytest.raises(ConfigError, match=r"are those of ELVIS 6\.3\.0, not of 7\.5\.X"):
        read_hk(path)
    assert len(read_hk(path, "6.3.0")) == 3


@pytest.mark.parametrize("text", ["", "TimeStamp", "a\tb\n1\t2\n", "TimeStamp\tA\tA\n"])
def test_what_is_no_housekeeping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "HK_1_210280D101530T_ROE1.txt").write_text(text)
    with pytest.raises(NotHousekeeping, match="HK_1_210280D101530T_ROE1"):
        read_hk(tmp_path / "HK_1_210280D101530T_ROE1.txt")


def test_a_master_that_grows_is_followed(tmp_path: Path) -> None:
    table = simulated(4)
    path = tmp_path / "HK_21-02-80_ROE1_01.txt"
    file = HkWriter(path, table.names)
    reader = HkReader(path)
    seen = []
    for utc_ns, row in zip(table.times_ns.tolist(), table.values, strict=True):
        file.append(utc_ns, dict(zip(table.names, row.tolist(), strict=True)))
        file.flush()
        seen += reader.poll().times_ns.tolist()
    file.close()
    assert seen == table.times_ns.tolist()
    with pytest.raises(NotHousekeeping, match="other columns"):
        HkWriter(path, table.names[1:])


def test_files_are_joined_by_time(tmp_path: Path) -> None:
    table = simulated(10)
    part = [
        dataclasses.replace(table, times_ns=table.times_ns[rows], values=table.values[rows])
        for rows in (slice(5, 10), slice(0, 6))
    ]
    paths = [write(tmp_path / f"HK_{n}_210280D101530T_ROE1.txt", p) for n, p in enumerate(part)]
    np.testing.assert_array_equal(read_hks(paths).values, table.values)


def test_statistics_leave_out_what_is_no_number() -> None:
    table = HkTable(("a", "b"), np.arange(3), np.array([[1, np.nan], [3, np.nan], [np.nan] * 2]))
    found = hk_statistics(table)
    assert dataclasses.astuple(found["a"]) == (2.0, 1.0, 1.0, 3.0, 2)
    assert found["b"].count == 0


# --- limits ---


def test_every_parameter_of_a_version_has_limits_and_no_other() -> None:
    for version in ("6.3.0", "6.5.X", "7.2.X", "7.5.X"):
        names = load_elvis(version).housekeeping[1:]
        assert set(HkLimits.load(version).parameters) == set(names)
    assert "CDPUClkSt" in HkLimits.load("7.2.X").parameters
    assert "CDPUClkSt" not in LIMITS.parameters


def test_each_electrode_is_judged_by_its_own_command() -> None:
    assert LIMITS.parameters["CCD2_IG1_B"].commanded == "IG1_2_B"
    assert LIMITS.parameters["CCD3_IG1_B"].commanded == "IG1_3_B"
    assert len(COMMANDED) == 18
    table = simulated()
    assert check_hk(table, LIMITS, commanded=COMMANDED) == []
    for name, parameter in LIMITS.parameters.items():
        if parameter.commanded is None:
            continue
        wrong = COMMANDED | {parameter.commanded: COMMANDED[parameter.commanded] + 0.3}
        assert kinds(check_hk(table, LIMITS, commanded=wrong)) == [("mean", name, "P")]


def test_limits_that_make_no_sense_are_refused_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    good = {"P": ["A", -121.0, -119.0], "S": ["A", -133.0, 35.0]}
    for key, value, what in (
        ("CCD9_TEMP_T", good, "no parameter CCD9_TEMP_T"),
        ("CCD1_TEMP_T", good | {"P": ["R", -1.0, 1.0]}, "nothing commands"),
        ("CCD1_TEMP_T", good | {"S": ["A", 35.0, -133.0]}, "not below"),
        ("CCD1_TEMP_T", good | {"commanded": "OD_9_T"}, "no column OD_9_T"),
        ("CCD1_TEMP_T", good | {"hysteresys": 1.0}, "hysteresis"),
    ):
        path.write_text(json.dumps({"elvis": "7.5.X", "parameters": {key: value}}))
        with pytest.raises(ConfigError, match=what) as raised:
            HkLimits.load(path)
        assert str(path) in raised.value.message
    with pytest.raises(ConfigError, match=r"there are: 6\.3\.0"):
        HkLimits.load("5.7.02")


# --- judgement of an exposure ---


def test_the_window_of_the_temperature_is_in_force() -> None:
    table = simulated()
    warm = changed(table, "CCD2_TEMP_B", slice(None), table["CCD2_TEMP_B"] + 2.0)
    (only,) = check_hk(warm, LIMITS, commanded=COMMANDED, obsid=17210)
    assert (only.kind, only.parameter, only.level, only.severity) == ("mean", "CCD2_TEMP_B", "P", 0)
    assert (only.low, only.high, only.obsid) == (-121.0, -119.0, 17210)
    assert only.value == pytest.approx(table["CCD2_TEMP_B"].mean() + 2.0)
    cold = changed(table, "CCD2_TEMP_B", slice(None), table["CCD2_TEMP_B"] - 14.0)
    (only,) = check_hk(cold, LIMITS, commanded=COMMANDED)
    assert (only.level, only.severity, only.low) == ("S", 2, -133.0)
    # A test at 148 K is in its own window, in no other.
    other = HkSimulator("7.5.X", 7).rows(1, START, START + 60 * NS_PER_S, COMMANDED, -125.15)
    assert check_hk(other, LIMITS.at_temperature(-125.15), commanded=COMMANDED) == []
    assert len(check_hk(other, LIMITS, commanded=COMMANDED)) == 6


def test_a_value_at_an_end_is_out() -> None:
    table = simulated()
    at_end = changed(table, "RPSU_VCCD_I", slice(None), 0.0)
    found = [one for one in check_hk(at_end, LIMITS, commanded=COMMANDED) if one.kind == "mean"]
    assert kinds(found) == [("mean", "RPSU_VCCD_I", "S")]


def test_severity_belongs_to_the_end_that_was_passed() -> None:
    table = simulated()
    for offset, severity in ((-40.0, 1), (25.0, 2)):
        moved = changed(table, "VID_PCB_TEMP_T", slice(None), table["VID_PCB_TEMP_T"] + offset)
        (only,) = check_hk(moved, LIMITS, commanded=COMMANDED)
        assert (only.level, only.severity) == ("S", severity)


def test_a_spike_is_told_and_does_not_move_the_mean() -> None:
    table = simulated()
    spoilt = changed(table, "CCD1_OD_T", slice(30, 31), 60.0)
    (only,) = check_hk(spoilt, LIMITS, commanded=COMMANDED)
    assert (only.kind, only.parameter, only.value) == ("spike", "CCD1_OD_T", 60.0)
    assert only.utc_ns == START + 30 * NS_PER_S


def test_a_gap_a_late_begin_and_an_early_end_are_told() -> None:
    table = simulated(60)
    keep = np.r_[0:20, 40:60]
    holed = dataclasses.replace(table, times_ns=table.times_ns[keep], values=table.values[keep])
    (only,) = check_hk(holed, LIMITS, commanded=COMMANDED)
    assert (only.kind, only.value) == ("gap", 21.0)
    span = {"start_ns": START - 30 * NS_PER_S, "end_ns": START + 100 * NS_PER_S}
    found = check_hk(table, LIMITS, commanded=COMMANDED, **span)
    assert [(one.kind, one.value) for one in found] == [("gap", 30.0), ("stale", 41.0)]


def test_all_values_standing_is_one_finding_and_one_value_standing_another() -> None:
    table = simulated(60)
    values = table.values.copy()
    values[20:] = values[20]
    (only,) = check_hk(dataclasses.replace(table, values=values), LIMITS, commanded=COMMANDED)
    assert only.kind == "stale"
    stuck = changed(table, "FPGA_BIAS_ID1", slice(10, 40), COMMANDED["IDH"])
    assert kinds(check_hk(stuck, LIMITS, commanded=COMMANDED)) == [("stuck", "FPGA_BIAS_ID1", "")]
    # Flags never change: they are no stuck values.
    assert check_hk(table, LIMITS, commanded=COMMANDED) == []


@pytest.mark.parametrize("state", [0, 1])
@pytest.mark.parametrize("bit", [0, 1, 2, 3])
def test_a_bit_that_stands_is_found_by_its_number(bit: int, state: int) -> None:
    table = simulated(60)
    counts = np.rint(table["CCD3_IG1_B"] * 1000).astype(int)
    counts = counts | 1 << bit if state else counts & ~(1 << bit)
    spoilt = changed(table, "CCD3_IG1_B", slice(None), counts / 1000)
    (only,) = check_hk(spoilt, LIMITS, commanded=COMMANDED)
    assert (only.kind, only.parameter) == ("stuck_bit", "CCD3_IG1_B")
    assert f"bit {bit} " in only.text
    assert f"stood at {state} " in only.text


def test_no_bit_is_found_stuck_by_chance() -> None:
    for obsid in range(60):
        assert check_hk(simulated(45, obsid), LIMITS, commanded=COMMANDED) == []


def test_a_register_tells_which_bits_differ() -> None:
    spoilt = changed(simulated(), "SPW_STATUS_REG", slice(None), 12192 ^ 0x14)
    (only,) = check_hk(spoilt, LIMITS, commanded=COMMANDED)
    assert (only.kind, only.level) == ("mean", "S")
    assert "0x14" in only.text
    # A counter that rises for one row leaves the mean near 0; it is out all the same.
    blip = changed(simulated(), "VccdErrFlg", slice(7, 8), 1)
    assert ("mean", "VccdErrFlg", "S") in kinds(check_hk(blip, LIMITS, commanded=COMMANDED))


def test_a_missing_or_bad_file_is_a_finding_and_kills_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "HK_1_210280D101530T_ROE1.txt"
    bad.write_bytes(b"\xff\x00 no housekeeping\n")
    wrong = write(tmp_path / "HK_2_210280D101530T_ROE1.txt", simulated(3, elvis="6.3.0"))
    short = tmp_path / "HK_3_210280D101530T_ROE1.txt"
    short.write_text("\t".join(load_elvis("7.5.X").housekeeping) + "\n")
    found = [check_hk(p, LIMITS) for p in (None, tmp_path / "gone", bad, wrong, short)]
    assert [[one.kind for one in each] for each in found] == [
        ["missing"], ["missing"], ["unreadable"], ["unreadable"], ["missing"]
    ]  # fmt: skip
    assert "6.3.0" in found[3][0].text


def test_without_a_command_nothing_relative_is_judged() -> None:
    assert check_hk(simulated(), LIMITS, commanded={}) == []
    only_one = {"OD_1_T": COMMANDED["OD_1_T"] + 1}
    assert kinds(check_hk(simulated(), LIMITS, commanded=only_one)) == [("mean", "CCD1_OD_T", "P")]


def test_statistics_alone_can_be_judged() -> None:
    statistics = hk_statistics(simulated())
    assert check_statistics(statistics, LIMITS, COMMANDED) == []
    statistics["RPSU_TEMP1"] = dataclasses.replace(statistics["RPSU_TEMP1"], count=0)
    assert kinds(check_statistics(statistics, LIMITS, COMMANDED)) == [("missing", "RPSU_TEMP1", "")]


# --- live ---


def watched(table: HkTable, watch: HkWatch | None = None) -> list[HkFinding]:
    watch = watch or HkWatch(LIMITS, table.names)
    watch.command(COMMANDED)
    found = []
    for utc_ns, row in zip(table.times_ns.tolist(), table.values, strict=True):
        found += watch.feed(utc_ns, row)
    return found + watch.finish()


def test_a_ramp_is_alarmed_once_at_each_level_and_told_when_over() -> None:
    """CCD2_TEMP_B falls to -134 in ten minutes and comes back."""
    table = simulated(1800)
    ramp = np.interp(np.arange(1800), [300, 900, 1200, 1500], [0, -14, -14, 0])
    found = watched(changed(table, "CCD2_TEMP_B", slice(None), table["CCD2_TEMP_B"] + ramp))
    told = [(one.level, one.is_over, one.severity) for one in found]
    assert told == [("P", False, 0), ("S", False, 2), ("S", True, 2), ("P", True, 0)]
    began = [(one.utc_ns - START) / NS_PER_S for one in found if one.utc_ns is not None]
    # -121 at 343 s and -133 at 857 s, but for the +-0.3 of the control's cycle.
    assert began[0] == pytest.approx(343, abs=20)
    assert began[1] == pytest.approx(857, abs=20)


def test_what_is_out_for_less_than_its_persistence_is_no_alarm() -> None:
    table = simulated(60)
    for rows, wanted in ((3, 0), (6, 2)):
        brief = changed(table, "CCD1_TEMP_T", slice(20, 20 + rows), -122.0)
        assert len([one for one in watched(brief) if one.kind == "limit"]) == wanted


def test_a_value_that_swings_about_its_limit_is_alarmed_once() -> None:
    table = simulated(240)
    swing = -121.0 + 0.2 * np.sin(np.arange(240) / 6.0)
    found = watched(changed(table, "CCD1_TEMP_T", slice(None), swing))
    assert [(one.kind, one.is_over) for one in found] == [("limit", False)]


def test_a_change_that_is_too_fast_is_told_once() -> None:
    table = simulated(300)
    fast = table["CCD1_TEMP_B"] + np.interp(np.arange(300), [100, 220], [0, 12])
    found = watched(changed(table, "CCD1_TEMP_B", slice(None), fast))
    assert [one.parameter for one in found if one.kind == "rate"] == ["CCD1_TEMP_B"]


def test_a_stream_that_stops_is_stale_once_and_new_values_end_it() -> None:
    table = simulated(40)
    watch = HkWatch(LIMITS, table.names)
    watch.command(COMMANDED)
    for utc_ns, row in zip(table.times_ns[:20].tolist(), table.values, strict=False):
        assert watch.feed(utc_ns, row) == []
    last = int(table.times_ns[19])
    told = [one for second in range(1, 40) for one in watch.tick(last + second * NS_PER_S)]
    assert [(one.kind, one.utc_ns, one.severity) for one in told] == [("stale", last, 1)]
    back = watch.feed(last + 40 * NS_PER_S, table.values[20])
    assert [(one.kind, one.is_over) for one in back] == [("gap", False), ("stale", True)]
    assert watch.feed(last + 41 * NS_PER_S, table.values[21]) == []


def test_a_clock_that_stands_is_stale() -> None:
    table = simulated(40)
    times = table.times_ns.copy()
    times[10:] = times[10]
    (only,) = watched(dataclasses.replace(table, times_ns=times))
    assert (only.kind, only.utc_ns) == ("stale", int(times[10]))


def test_a_new_command_moves_the_limits() -> None:
    table = simulated(60)
    step = changed(table, "CCD1_IG1_T", slice(30, None), table["CCD1_IG1_T"][30:] + 1.0)
    watch = HkWatch(LIMITS, step.names)
    watch.command(COMMANDED)
    found = []
    for number, (utc_ns, row) in enumerate(zip(step.times_ns.tolist(), step.values, strict=True)):
        if number == 31:  # a row is judged when the next has come
            watch.command(COMMANDED | {"IG1_1_T": COMMANDED["IG1_1_T"] + 1.0})
        found += watch.feed(utc_ns, row)
    assert found == []
    assert [one.level for one in watched(step)] == ["P"]


def test_findings_are_plain_values() -> None:
    found = watched(changed(simulated(), "CCD1_TEMP_T", slice(10, None), -122.0))
    assert json.loads(json.dumps([one.to_json() for one in found]))[0]["parameter"] == "CCD1_TEMP_T"
