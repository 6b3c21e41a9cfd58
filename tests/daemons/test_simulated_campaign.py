# SPDX-License-Identifier: BSD-3-Clause
"""Simulated sessions: what is in the day folder, in which order it comes, and what goes wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

from kit.calibration import simulated_test
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.dayfolder import Day, list_day, list_days, parse_image_name
from nightjar.calibration.detector import Detector, load_detector
from nightjar.calibration.elvis import parse_stamp
from nightjar.calibration.explog import ExpLogReader, LogRow, read_explogs
from nightjar.calibration.housekeeping import HkLimits, check_hk, read_hk, read_hks
from nightjar.calibration.script import (
    DEFAULTS,
    Column,
    Script,
    expected_log_rows,
    frame_seconds,
)
from nightjar.calibration.script_book import script_bytes, script_name
from nightjar.clock import ManualClock
from nightjar.errors import Cancelled, ConfigError, Refused, StorageError
from nightjar.fits.verify import verify_image
from nightjar.times import NS_PER_S, iso, parse_iso
from nightjard.calib.command import calib
from nightjard.calib.simulating import catalogue_scripts
from nightjard.simulators.detector.campaign import Acquired, acquire_session
from nightjard.simulators.detector.faults import FAULTS, parse_fault
from nightjard.simulators.detector.recording import Exposure
from nightjard.simulators.detector.truth import Truth

START = parse_iso("2021-02-21T10:15:30")
EQUIPMENT = {"sn_roe": "FM15", "sn_rpsu": "FM15", "sn_ccd1": "14888-88-81",
             "sn_ccd2": "14888-88-82", "sn_ccd3": "14888-88-83"}  # fmt: skip
LIMITS = HkLimits.load("7.5.X")
DETECTOR = load_detector("ccd273-8th").model_copy(
    update={"prescan": 8, "image_columns": 12, "overscan": 4, "image_rows": 10,
            "parallel_overscan": 2, "prescan_trim": (0, 0), "overscan_trim": (0, 0)}
)  # fmt: skip


class PlainBench:
    """Frames whose every pixel says which frame and CCD it is of."""

    def __init__(self, detector: Detector = DETECTOR) -> None:
        self.detector = detector
        self.exposed: list[tuple[int, float, int]] = []

    def expose(
        self, obsid: int, values: Mapping[str, Any], time_ns: int
    ) -> dict[int, np.ndarray[Any, np.dtype[np.uint16]]]:
        self.exposed.append((obsid, float(values["exptime"]), time_ns))
        return {ccd: self.frame(obsid, ccd) for ccd in self.detector.ccd_numbers}

    def frame(self, obsid: int, ccd: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
        frame = np.full(self.detector.frame_shape, 2000 + 10 * (obsid % 1000) + ccd, np.uint16)
        frame[0, 0], frame[-1, -1] = 0, 65535
        return frame


def script(test: str, *columns: tuple[int, dict[str, Any]]) -> Script:
    return Script(
        test, test, "7.5.X",
        tuple(
            Column(f"col{number:03d}", frames, {**DEFAULTS, **EQUIPMENT, "test": test, **values})
            for number, (frames, values) in enumerate(columns, 1)
        ),
    )  # fmt: skip


BIAS = script("BIAS01", (4, {"exptime": 0.0, "shuttr": 0, "vend": 24}))
FLAT = script("PTC01", (2, {"exptime": 1.0, "IG1_2_B": 5.0}), (2, {"exptime": 2.0, "IG1_2_B": 5.5}))


def acquire(folder: Path, *faults: str, tests: tuple[Script, ...] = (BIAS, FLAT),
            bench: PlainBench | None = None, **more: Any) -> Acquired:  # fmt: skip
    options: dict[str, Any] = {"start_obsid": 17210, "start_time_ns": START} | more
    return acquire_session(bench or PlainBench(), tests, folder, faults=faults, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "21_Feb_21"


def rows_of(day: Day, test: str, elvis: str = "7.5.X") -> list[LogRow]:
    return [row for row in read_explogs(day.logs, elvis) if row.test == test]


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with fits.open(path) as hdus:
        return np.array(hdus[-1].data)


# --- the day folder ---


def test_a_session_is_a_day_folder_as_the_acquisition_writes_it(folder: Path) -> None:
    bench = PlainBench()
    acquired = acquire(folder, bench=bench)
    day = list_day(folder)
    assert [path.name for path in day.logs] == ["EXP_LOG_210221.txt"]
    assert [path.name for path in day.masters] == ["HK_21-02-21_ROE1_01.txt"]
    assert day.others == day.superseded == []
    obsids = list(range(17210, 17218))
    assert sorted(day.images) == [(obsid, ccd) for obsid in obsids for ccd in (1, 2, 3)]
    assert sorted(day.hk) == obsids
    assert [(run.test, run.first, run.last, run.is_complete) for run in acquired.runs] == [
        ("BIAS01", 17210, 17213, True), ("PTC01", 17214, 17217, True)
    ]  # fmt: skip
    assert acquired.next_obsid == 17218
    rows = read_explogs(day.logs)
    assert [(row.obsid, row.ccd) for row in rows] == sorted(day.images)
    for row in rows:
        path = day.by_name[row.file_name]
        named = parse_image_name(path.name)
        assert (named.obsid, named.ccd, named.utc_ns) == (row.obsid, row.ccd, row.utc_ns)
        np.testing.assert_array_equal(pixels(path), bench.frame(row.obsid, row.ccd))
    # No exposure begins before the one before it has ended.
    durations = [frame_seconds(c.values, DETECTOR) for s in (BIAS, FLAT) for c in s.columns
                 for _ in range(c.frames)]  # fmt: skip
    starts = np.array([time_ns for _, _, time_ns in bench.exposed]) / NS_PER_S
    np.testing.assert_allclose(np.diff(starts), durations[:-1], atol=1.0)
    assert acquired.end_ns / NS_PER_S == pytest.approx(START / NS_PER_S + sum(durations), abs=1.0)


def test_the_log_says_what_the_scripts_command(folder: Path) -> None:
    acquire(folder)
    rows = read_explogs(list_day(folder).logs)
    expected = expected_log_rows(BIAS) + expected_log_rows(FLAT)
    for row, wanted in zip(rows[::3], expected, strict=True):
        common = {key for key in wanted if key in row}
        assert len(common) > 50
        assert {key: row[key] for key in common} == {key: wanted[key] for key in common}


@pytest.mark.needs("fitsverify")
def test_images_are_valid_and_tell_the_acquisition(folder: Path) -> None:
    acquire(folder, tests=(FLAT,))
    day = list_day(folder)
    for path in day.images.values():
        assert verify_image(path).is_good
    path = day.images[17212, 2]
    told = subprocess.run(["fitsverify", str(path)], capture_output=True, text=True, check=False)
    assert "found 0 warning(s) and 0 error(s)" in told.stdout
    with fits.open(path) as hdus:
        assert hdus[0].data is None
        header = hdus[-1].header
    row = next(row for row in rows_of(day, "PTC01") if (row.obsid, row.ccd) == (17212, 2))
    wanted = {
        "EXTNAME": "ROE1_CCD2", "BITPIX": 16, "BZERO": 32768, "OBSID": 17212, "OBJECT": "PTC01",
        "EXPTIME": 2.0, "VEND": row["vend"], "IG1_2_B": 5.5, "SN_CCD2": "14888-88-82",
        "IPHI": "I1I2I3", "V_TP_MOD": row["v_tp_mod"], "WAVE": row["wave"],
        "R1C2_TT": row["R1C2_TT"], "POS_MIRR": row["mirr_pos"], "DATE": iso(row.utc_ns, 0),
    }  # fmt: skip
    assert {key: header[key] for key in wanted} == wanted
    missing = "PROGRAM OPERATOR FULLPATH LAB_VER CON_FILE FL_RDOUT CI_RDOUT CHINJ DWELL_S TOI_CH \
        SIFLSH_P FLUSHES VSTART RDMODE SWELLW INISWEEP SPW_CLK FPGA_VER EGSE_VER MOTR MOTR_SIZ \
        SOURCE SN_ROE SN_RPSU CALSCRPT COMMENTS R1C2_TB IDL IDH IG2_T OD_3_B RD_B BUNIT".split()
    assert [key for key in missing if key not in header] == []


def test_housekeeping_is_good_and_the_master_has_all_rows(folder: Path) -> None:
    acquire(folder)
    day = list_day(folder)
    for row in read_explogs(day.logs)[::3]:
        table = read_hk(day.hk[row.obsid])
        seconds = frame_seconds(
            (BIAS if row.test == "BIAS01" else FLAT).columns[0].values, DETECTOR
        )
        assert len(table) == pytest.approx(seconds + float(row["exptime"] or 0), abs=2.0)
        commanded = LIMITS.commands_of(row)
        assert check_hk(table, LIMITS, commanded=commanded, start_ns=row.utc_ns) == []
        for half in "TB":
            mean = table[f"CCD{row.ccd}_TEMP_{half}"].mean()
            assert row[f"R1C{row.ccd}_T{half}"] == pytest.approx(mean, abs=1e-3)
    master = read_hks(day.masters)
    parts = read_hks(day.hk.values())
    np.testing.assert_array_equal(master.values, parts.values)
    assert set(np.diff(master.times_ns)) == {NS_PER_S}


def test_the_same_session_is_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    acquire(folder)
    acquire(tmp_path / "again" / folder.name)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / folder.name / path.name).read_bytes()


def test_a_second_session_of_the_day_goes_on_and_never_overwrites(folder: Path) -> None:
    first = acquire(folder, tests=(BIAS,))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(Refused, match=r"OBSID 17211 already; .* 17214 for one"):
        acquire(folder, tests=(BIAS,), start_obsid=17211)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    acquire(folder, tests=(FLAT,), start_obsid=first.next_obsid, start_time_ns=first.end_ns)
    day = list_day(folder)
    assert [len(day.logs), len(day.masters), len(day.images)] == [1, 2, 24]
    assert [row.obsid for row in read_explogs(day.logs)[::3]] == list(range(17210, 17218))


def test_the_truth_is_told_beside_the_folder(folder: Path) -> None:
    acquired = acquire(folder, "aborted:test=PTC01,frames=1", "exptime-error:test=PTC01")
    assert acquired.truth_folder == folder.with_name("21_Feb_21_truth")
    told = json.loads((acquired.truth_folder / "17210_session.json").read_bytes())
    assert [run["is_complete"] for run in told["runs"]] == [True, False, True]
    assert [fault["name"] for fault in told["faults"]] == ["aborted", "exptime-error"]
    last = told["exposures"][-1]
    assert (last["test"], last["column"], last["commanded_s"]) == ("PTC01", "col002", 2.0)
    assert last["executed_s"] == pytest.approx(2.02)


# --- time ---


def test_on_a_clock_rows_come_second_by_second_and_the_log_last(folder: Path) -> None:
    """What a live monitor sees: the master grows, then files, then the lines of the log."""
    clock = ManualClock()
    seen: list[tuple[int, int]] = []
    done = threading.Event()

    def run() -> None:
        acquire(folder, tests=(BIAS,), clock=clock)
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    reader = ExpLogReader(folder / "EXP_LOG_210221.txt")
    rows = 0
    deadline = time.monotonic() + 60
    while not done.is_set():
        assert time.monotonic() < deadline
        clock.advance(0.5)
        if (folder / "HK_21-02-21_ROE1_01.txt").exists():
            for row in reader.poll():
                day = list_day(folder)
                rows += 1
                assert (row.obsid, row.ccd) in day.images
                assert row.obsid in day.hk
                seen.append((row.obsid, len(read_hks(day.masters))))
    thread.join(30)
    rows += len(reader.poll())
    assert done.is_set()
    assert rows == 12
    # The master had all rows of an exposure when the exposure was logged.
    assert all(count >= 20 * (obsid - 17209) for obsid, count in seen)


def test_a_session_that_is_stopped_is_whole_as_far_as_it_came(folder: Path) -> None:
    stop = threading.Event()

    def tell(done: int, _total: int, _exposure: Exposure) -> None:
        if done == 2:
            stop.set()

    with pytest.raises(Cancelled, match="stopped after OBSID 17211, 2 of 8"):
        acquire(folder, on_exposure=tell, stop=stop)
    day = list_day(folder)
    assert sorted(day.hk) == [17210, 17211]
    assert len(read_explogs(day.logs)) == len(day.images) == 6
    assert (folder.with_name("21_Feb_21_truth") / "17210_session.json").exists()


# --- faults ---


def test_a_missing_file_is_logged_and_not_there(folder: Path) -> None:
    acquire(folder, "missing-file:test=PTC01,frame=3,ccd=2")
    day = list_day(folder)
    missing = [row for row in read_explogs(day.logs) if row.file_name not in day.by_name]
    assert [(row.obsid, row.ccd) for row in missing] == [(17216, 2)]


def test_a_truncated_file_is_cut(folder: Path) -> None:
    acquire(folder, "truncated-file:frame=1,ccd=3,keep=0.7")
    day = list_day(folder)
    bad = {key for key, path in day.images.items() if not verify_image(path).is_good}
    assert bad == {(17210, 3)}
    assert "cut short" in verify_image(day.images[17210, 3]).problems[0]


def test_frames_and_rows_can_be_lost(folder: Path) -> None:
    acquire(folder, "missing-frame:frame=1", "missing-rows:frame=2", "missing-hk:frame=3")
    day = list_day(folder)
    assert {row.obsid for row in rows_of(day, "BIAS01")} == {17212, 17213}
    assert 17210 not in day.obsids
    assert 17211 in day.obsids
    assert {17210, 17212} & set(day.hk) == set()


def test_serials_of_another_block(folder: Path) -> None:
    acquire(folder, "wrong-serials:test=PTC01,serial=XX1")
    day = list_day(folder)
    assert {row["sn_ccd1"] for row in rows_of(day, "BIAS01")} == {"14888-88-81"}
    assert {row["sn_roe"] for row in rows_of(day, "PTC01")} == {"XX1"}
    assert fits.getheader(day.images[17214, 1], 1)["SN_ROE"] == "XX1"


def test_a_log_of_another_version(folder: Path) -> None:
    acquire(folder, "wrong-elvis")
    day = list_day(folder)
    with pytest.raises(ConfigError, match=r"those of ELVIS 6\.3\.0"):
        read_explogs(day.logs)
    assert len(rows_of(day, "PTC01", "6.3.0")) == 12


def test_a_test_that_is_aborted_and_taken_again(folder: Path) -> None:
    acquired = acquire(folder, "aborted:frames=3")
    assert [(run.first, run.last) for run in acquired.runs] == [
        (17210, 17212), (17213, 17216), (17217, 17220)
    ]  # fmt: skip
    assert acquired.obsids("BIAS01") == (17213, 17216)
    assert len(rows_of(list_day(folder), "BIAS01")) == 21


@pytest.mark.parametrize("percent", [1.0, 0.4])
def test_exposures_that_are_too_long(folder: Path, percent: float) -> None:
    bench = PlainBench()
    acquire(folder, f"exptime-error:test=PTC01,percent={percent}", bench=bench)
    logged = [row["exptime"] for row in rows_of(list_day(folder), "PTC01")[::3]]
    wanted = [t * (1 + percent / 100) for t in (1.0, 1.0, 2.0, 2.0)]
    assert logged == pytest.approx(wanted)
    assert [exptime for _, exptime, _ in bench.exposed[4:]] == pytest.approx(wanted)


def test_faults_of_pixels_stay_in_their_quadrant(folder: Path) -> None:
    acquire(folder, "stuck-bit:frame=1,ccd=1,quadrant=E,bit=4", "bias-jump:frame=2,ccd=2,adu=100",
            "dead-quadrant:frame=3,ccd=3,quadrant=G,value=7",
            "stuck-bit:bit=3,state=0,ccd=2,quadrant=H",
            tests=(BIAS,))  # fmt: skip
    day = list_day(folder)
    bench = PlainBench()
    for (obsid, ccd), path in day.images.items():
        found, before = pixels(path), bench.frame(obsid, ccd)
        frame = obsid - 17209
        for name in DETECTOR.names:
            is_, was = (DETECTOR.canonical(one, name).astype(int) for one in (found, before))
            if (ccd, name) == (1, "E"):
                was = was | 16
            elif (ccd, name) == (2, "F") and frame >= 2:
                was = np.minimum(was + 100, 65535)
            elif (ccd, name) == (2, "H") and frame >= 2:
                was = was & ~8
            elif (ccd, name) == (3, "G") and frame >= 3:
                was = np.full_like(was, 7)
            np.testing.assert_array_equal(is_, was)


@pytest.mark.parametrize(
    ("fault", "kind", "parameter"),
    [("hk-spike", "spike", "CCD2_OD_T"), ("hk-gap", "gap", ""), ("hk-stale", "stale", ""),
     ("hk-stuck", "stuck", "CCD1_TEMP_T"), ("hk-stuck-bit:bit=2", "stuck_bit", "CCD3_IG1_B"),
     ("hk-flag", "mean", "VccdErrFlg"), ("missing-hk", "missing", "")],
)  # fmt: skip
def test_faults_of_housekeeping_are_found_where_they_are(
    folder: Path, fault: str, kind: str, parameter: str
) -> None:
    name, _, rest = fault.partition(":")
    acquire(folder, f"{name}:test=PTC01,frame=2{rest and ',' + rest}")
    day = list_day(folder)
    found = [
        (finding.obsid, finding.kind, finding.parameter)
        for row in read_explogs(day.logs)[::3]
        for finding in check_hk(
            day.hk.get(row.obsid), LIMITS, commanded=LIMITS.commands_of(row), obsid=row.obsid
        )
    ]
    assert found == [(17215, kind, parameter)]


def test_a_temperature_that_runs_away_is_severe(folder: Path) -> None:
    acquire(folder, "hk-ramp:frame=1,seconds=40", tests=(BIAS,))
    day = list_day(folder)
    found = [f for obsid in sorted(day.hk) for f in check_hk(day.hk[obsid], LIMITS, obsid=obsid)]
    means = [(one.obsid, one.level, one.severity) for one in found if one.kind == "mean"]
    assert means == [(17210, "P", 0), (17211, "P", 0), (17212, "S", 2), (17213, "S", 2)]


def test_two_logs_a_day(folder: Path) -> None:
    acquire(folder, "two-logs:test=PTC01,frame=2")
    day = list_day(folder)
    assert [path.name for path in day.logs] == ["EXP_LOG_210221.txt", "EXP_LOG_210221_2.txt"]
    rows = read_explogs(day.logs)
    assert [row.obsid for row in rows[::3]] == list(range(17210, 17218))
    assert {row.obsid: row.explog_number for row in rows}[17215] == 1
    assert {row.obsid: row.explog_number for row in rows}[17214] == 0


@pytest.mark.parametrize("split_days", [False, True])
def test_a_session_over_midnight(folder: Path, split_days: bool) -> None:
    acquired = acquire(folder, "overnight:test=PTC01,frame=1", split_days=split_days)
    names = ["21_Feb_21", "22_Feb_21"] if split_days else ["21_Feb_21"]
    assert [path.name for path in acquired.folders] == names
    day = list_days(acquired.folders)
    assert [path.name for path in day.logs] == ["EXP_LOG_210221.txt", "EXP_LOG_220221.txt"]
    assert [path.name for path in day.masters] == [
        "HK_21-02-21_ROE1_01.txt", "HK_22-02-21_ROE1_01.txt"
    ]  # fmt: skip
    rows = read_explogs(day.logs)
    times = [row.utc_ns for row in rows[::3]]
    assert times == sorted(times)
    assert len(times) == 8
    midnight = parse_stamp("220221D000000T")
    assert [row.test for row in rows[::3] if row.utc_ns < midnight] == ["BIAS01"] * 4
    assert all(day.by_name[row.file_name].parent == row.datapath for row in rows)


@pytest.mark.parametrize("fault", ["late-files", "partial-files"])
def test_files_that_come_after_their_log_row(folder: Path, fault: str) -> None:
    """As a copy delivers them: logged, not there or half there, whole two exposures later."""
    states: dict[int, list[str]] = {}

    def look(_done: int, _total: int, _exposure: Exposure) -> None:
        day = list_day(folder)
        for row in read_explogs(day.logs):
            if row.ccd == 1:
                path = day.by_name.get(row.file_name)
                whole = path is not None and verify_image(path).is_good
                state = "whole" if whole else "half" if path is not None else "none"
                states.setdefault(row.obsid, []).append(state)

    acquire(folder, f"{fault}:frames=2", tests=(BIAS,), on_exposure=look)
    early = "none" if fault == "late-files" else "half"
    assert states[17210] == [early, early, "whole", "whole"]
    assert states[17212] == [early, early]
    assert all(verify_image(path).is_good for path in list_day(folder).images.values())


def test_obsids_can_leave_out_some(folder: Path) -> None:
    acquired = acquire(folder, "obsid-jump:frame=3,count=4", tests=(BIAS,))
    assert list_day(folder).obsids == [17210, 17211, 17216, 17217]
    assert acquired.next_obsid == 17218


@pytest.mark.parametrize(
    ("text", "what"),
    [("hk-spyke", "did you mean hk-spike"), ("missing-file:cdd=1", "a key of test, frame, ccd"),
     ("missing-file:ccd=two", "ccd must be a whole number"),
     ("aborted:frame=0", "frame must be 1 to"),
     ("missing-file:ccd=7", "has 3 CCD, none is 7"), ("late-files:frame=99", "has frames 1.."),
     ("stuck-bit:bit=99", "bit must be 0 to 15"), ("truncated-file:keep=nan", "keep must be 0 to"),
     ("dead-quadrant:quadrant=Z", "no quadrant Z; there are: E, F"),
     ("dead-quadrant:value=99999999", "value must be 0 to 65535"),
     ("hk-spike:parameter=CCD2_OD", "no CCD2_OD; did you mean CCD2_OD_"),
     ("exptime-error:percent=inf", "percent must be"), ("obsid-jump:count=-3", "count must be"),
     ("wrong-elvis:version=9", "no ELVIS version '9'"),
     ("missing-file:test=FLAT09", "no test FLAT09; it has BIAS01, PTC01")],
)  # fmt: skip
def test_a_fault_that_is_none_is_refused_before_anything_is_written(
    folder: Path, text: str, what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        acquire(folder, text)
    assert not folder.exists()


def test_every_fault_is_described_and_takes_its_defaults() -> None:
    for name, (meaning, arguments) in FAULTS.items():
        assert meaning
        fault = parse_fault(name)
        assert dict(fault.arguments) == arguments


# --- the command ---


def simulate(*arguments: str) -> Any:
    from nightjar.cli.session import Session

    session = Session("calib")
    session.is_json = True
    return CliRunner().invoke(
        calib, ["simulate", *arguments, "--json"], obj=session, standalone_mode=False
    )


def test_the_command_makes_day_folders_of_a_real_bench(tmp_path: Path) -> None:
    out = tmp_path / "data"
    result = simulate(
        "BIAS01", "FOCUS00_800", "-o", str(out), "--date", "1980-02-21T10:00:00", "--max-frames",
        "1", "--effects", "plain", "--start-obsid", "500", "--fault", "missing-hk:frame=1",
        "--speed", "100000",
    )  # fmt: skip
    assert result.exception is None
    (made,) = json.loads(result.output)["sessions"]
    assert made["folders"] == [str(out / "21_Feb_80")]
    day = list_day(out / "21_Feb_80")
    assert (len(day.images), len(day.hk)) == (30, 9)
    assert [run["last"] for run in made["runs"]] == [500, 509]
    frame = pixels(day.images[500, 1])
    assert frame.shape == load_detector("ccd273-8th").frame_shape
    told = json.loads((out / "21_Feb_80_truth" / "500_session.json").read_bytes())
    # A bias has its offset, and the noise of the truth.
    truth = told["exposures"][0]["truth"]["channels"]["1E"]
    quadrant = load_detector("ccd273-8th").canonical(frame, "E")
    assert np.median(quadrant[:258]) == pytest.approx(truth["offset_adu"], abs=1.0)


def test_the_log_names_the_scripts_of_a_session(tmp_path: Path) -> None:
    folder = tmp_path / "D11"
    folder.mkdir()
    written_ns = parse_iso("2019-04-01T00:00:00")
    (script,) = catalogue_scripts(
        ["BIAS01"], detector=load_detector("ccd273-8th"),
        profile=load_profile("B_NOSTROMO", at_ns=written_ns), camptype="Full", elvis="7.5.X",
    )  # fmt: skip
    name = script_name("BIAS01", written_ns, "7.5.X")
    (folder / name).write_bytes(script_bytes(script, written_ns))
    (folder / "TEST_SEQUENCE_D11.txt").write_text(f"{name}\n")
    result = simulate(
        "-s", str(folder), "-o", str(tmp_path), "--date", "2019-04-02T10:00:00", "--max-frames",
        "1", "--effects", "none",
    )  # fmt: skip
    assert result.exception is None
    day = list_day(tmp_path / "02_Apr_19")
    rows = read_explogs(day.logs, "7.5.X")
    assert [row["calscrpt"] for row in rows] == ["vis_CalCamp_BIAS01_01Apr19_v7.5.X.xlsx"] * 3


@pytest.mark.parametrize(
    ("arguments", "what"),
    [(["BIAS1"], "did you mean BIAS01"), (["BIAS01", "--date", "today"], "--date: not a UTC time"),
     ([], "name tests, or sessions"), (["BIAS01", "--effects", "no-gravity"], "gravity"),
     (["BIAS01", "--detector", "ccd274"], "no detector 'ccd274'"),
     (["BIAS01", "--date", "2069-12-31T23:59:00"], "2070: files and log have two digits"),
     (["BIAS01", "--date", "1969-01-01"], "and are read as 1970 to 2069"),
     (["BIAS01", "--fault", "hk-spike:test=PTC01"], "no session has a test PTC01")],
)  # fmt: skip
def test_the_command_refuses_what_it_does_not_know(
    tmp_path: Path, arguments: list[str], what: str
) -> None:
    result = simulate(*arguments, "-o", str(tmp_path / "data"))
    assert what in str(getattr(result.exception, "message", result.exception))
    assert list(tmp_path.rglob("*.fits")) == []


def test_ctrl_c_ends_after_the_exposure_at_work(tmp_path: Path) -> None:
    out = tmp_path / "data"
    command = [sys.executable, "-m", "nightjard.calib", "simulate", "BIAS01", "-o", str(out),
               "--date", "2021-02-21T10:00:00", "--effects", "none", "--speed", "40"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = out / "21_Feb_21"
    deadline = time.monotonic() + 60
    while not list(folder.glob("HK_1000_*")) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    # Whatever happens to the program now, what was injected is known.
    assert Truth.load(out / "21_Feb_21_truth" / "1000_bench.json").block == "NOSTROMO"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped after OBSID" in told
    day = list_day(folder)
    rows = read_explogs(day.logs)
    assert 3 <= len(rows) < 30
    assert len(day.images) == len(rows)
    assert all(verify_image(path).is_good for path in day.images.values())


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write the day folder"):
        acquire(tmp_path / "file" / "21_Feb_21")


def test_a_simulated_test_is_made_once_and_is_a_dataset() -> None:
    options: dict[str, Any] = {"ccds": 1, "max_frames": 2, "effects": "plain"}
    made = simulated_test("PTC01", columns=[0, 2], **options)
    assert simulated_test("PTC01", columns=[0, 2], **options).root == made.root
    assert simulated_test("PTC01", columns=[0, 3], **options).root != made.root
    dataset = made.dataset()
    assert [frame.label for frame in dataset.frames] == ["col001"] * 2 + ["col002"] * 2
    assert all(frame.is_usable for frame in dataset.frames)
    assert dataset.hk_missing == ()
    for frame, truth in zip(dataset.frames, made.truths, strict=True):
        assert frame.path is not None
        quadrant = made.detector.canonical(pixels(frame.path), "F").astype(float)
        channel = truth["channels"]["1F"]
        image = made.detector.sector(quadrant, "image", is_trimmed=True)
        level = image.mean() - channel["offset_adu"]
        assert level * channel["gain_e_adu"] == pytest.approx(channel["mean_e"], rel=0.01)
