# SPDX-License-Identifier: BSD-3-Clause
"""The exposure log: typed rows, versions told apart, half lines left, growth followed."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from nightjar.calibration.elvis import load_elvis, parse_stamp
from nightjar.calibration.explog import ExpLogReader, NotExpLog, read_explog, read_explogs
from nightjar.calibration.explog_writer import ExpLogWriter, row_line
from nightjar.errors import ConfigError, StorageError

STAMP = "210280D101530T"


def row(obsid: int, ccd: int = 1, **more: object) -> dict[str, object]:
    return {
        "ObsID": obsid, "CCD": f"CCD{ccd}", "date": STAMP, "test": "BIAS01", "exptime": 1.5,
        "File_name": f"EUC_{obsid}_{STAMP}_ROE1_CCD{ccd}", "wave": 4, **more,
    }  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with ExpLogWriter(tmp_path / "EXP_LOG_210280.txt") as log:
        log.append([row(17210, ccd) for ccd in (1, 2, 3)])
    return tmp_path / "EXP_LOG_210280.txt"


def test_rows_come_back_typed(path: Path) -> None:
    rows = read_explog(path)
    assert [one.ccd for one in rows] == [1, 2, 3]
    first = rows[0]
    assert (first.obsid, first.test, first["exptime"], first["wave"]) == (17210, "BIAS01", 1.5, 4)
    assert isinstance(first["wave"], int)
    assert first["mirr_pos"] is None
    assert first["operator"] == ""
    assert first.utc_ns == parse_stamp(STAMP)
    assert (first.datapath, first.line) == (path.parent, 2)
    assert list(first) == list(load_elvis("7.5.X").columns)


@pytest.mark.parametrize("version", ["5.7.02", "5.7.04", "6.0.0", "6.3.0", "FPA"])
def test_a_log_of_another_version_is_refused_with_the_one_that_fits(
    path: Path, version: str
) -> None:
    with pytest.raises(ConfigError, match=r":1: .*7\.5\.X, not of .*--elvis 7\.5\.X") as raised:
        read_explog(path, version)
    assert version in raised.value.message
    assert raised.value.detail["fitting"] == ["6.5.X", "7.2.X", "7.5.X"]


def test_versions_with_the_same_columns_are_all_taken(path: Path) -> None:
    assert len(read_explog(path, "6.5.X")) == len(read_explog(path, "7.2.X")) == 3


def test_an_old_log_is_read_by_its_own_names(tmp_path: Path) -> None:
    version = load_elvis("6.0.0")
    with ExpLogWriter(tmp_path / "a.txt", "6.0.0") as log:
        log.append([{"ObsID": 5, "CCD": "CCD2", "DATE": STAMP, "TEST": "PTC01", "Exptime": 3}])
    (only,) = read_explog(tmp_path / "a.txt", "6.0.0")
    assert (only.test, only.ccd, only["Exptime"], len(only)) == ("PTC01", 2, 3.0, len(version.log))
    assert only.utc_ns == parse_stamp(STAMP)


@pytest.mark.parametrize(
    ("head", "what"),
    [("ObsID\tFile_name\n", "missing: CCD"), ("", "empty or cut short"),
     ("a picture\n", "unknown: a picture")],
)  # fmt: skip
def test_what_is_no_log_is_refused_with_what_was_seen(tmp_path: Path, head: str, what: str) -> None:
    (tmp_path / "EXP_LOG_210280.txt").write_text(head)
    with pytest.raises(NotExpLog, match=what):
        read_explog(tmp_path / "EXP_LOG_210280.txt")


def test_columns_in_another_order_are_never_read_by_position(path: Path) -> None:
    text = path.read_text().replace("exptime\tfl_rdout", "fl_rdout\texptime", 1)
    path.write_text(text)
    with pytest.raises(NotExpLog, match="another order from column 17 on"):
        read_explog(path)


def test_a_log_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read the exposure log"):
        read_explog(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [("exptime", "1,5", "exptime is '1,5', not a number"), ("wave", "4.5", "not a whole number"),
     ("CCD", "CCDX", "CCD is 'CCDX'"), ("date", "tomorrow", "ddmmyyDhhmmssT"),
     ("ObsID", "", "ObsID is empty")],
)  # fmt: skip
def test_a_bad_line_is_told_with_its_place(path: Path, column: str, value: str, what: str) -> None:
    columns = load_elvis("7.5.X").columns
    lines = path.read_text().splitlines()
    fields = lines[2].split("\t")
    fields[columns.index(column)] = value
    lines[2] = "\t".join(fields)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(NotExpLog, match=f"EXP_LOG_210280.txt:3: .*{what}"):
        read_explog(path)
    problems: list[str] = []
    assert [one.ccd for one in read_explog(path, problems=problems)] == [1, 3]
    assert len(problems) == 1


def test_a_half_line_is_left_for_the_next_read(path: Path) -> None:
    reader = ExpLogReader(path)
    assert len(reader.poll()) == 3
    line = row_line(row(17211), load_elvis("7.5.X")).encode()
    # The last value without its line end may itself be cut: 16 of 16.5.
    for end in (10, len(line) // 2, len(line) - 1):
        whole = path.read_bytes().rpartition(b"\n")[0] + b"\n"
        path.write_bytes(whole + line[:end])
        assert reader.poll() == []
        assert reader.is_cut
    assert len(read_explog(path)) == 3
    path.write_bytes(whole + line)
    assert [one.obsid for one in reader.poll()] == [17211]
    assert reader.poll() == []
    assert not reader.problems


def test_a_last_line_without_an_end_can_be_asked_for(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    reader = ExpLogReader(path)
    assert len(reader.poll()) == 2
    assert [one.ccd for one in reader.finish()] == [3]


def test_a_log_that_is_not_there_yet_gives_nothing(tmp_path: Path) -> None:
    reader = ExpLogReader(tmp_path / "EXP_LOG_210280.txt")
    assert reader.poll() == []
    with ExpLogWriter(reader.path) as log:
        log.append([row(1)])
        assert [one.obsid for one in reader.poll()] == [1]
        log.append([row(2)])
        assert [one.obsid for one in reader.poll()] == [2]


def test_a_copy_that_replaces_the_file_goes_on_where_it_was(path: Path) -> None:
    reader = ExpLogReader(path)
    reader.poll()
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes() + row_line(row(17211), load_elvis("7.5.X")).encode())
    os.replace(copy, path)
    assert [one.obsid for one in reader.poll()] == [17211]
    assert reader.restarts == 0


def test_a_log_that_changed_is_read_anew_and_told(path: Path) -> None:
    reader = ExpLogReader(path)
    reader.poll()
    path.write_text(path.read_text().replace("BIAS01", "BIAS02"))
    assert [one.test for one in reader.poll()] == ["BIAS02"] * 3
    assert reader.restarts == 1
    assert "have changed" in reader.problems[0]


def test_two_logs_are_stacked_and_no_row_comes_twice(path: Path, tmp_path: Path) -> None:
    second = tmp_path / "other" / "EXP_LOG_220280.txt"
    second.parent.mkdir()
    with ExpLogWriter(second) as log:
        log.append([row(17210, 3), row(17211, 1)])
    rows = read_explogs([path, second])
    assert [(one.obsid, one.ccd, one.explog_number) for one in rows] == [
        (17210, 1, 0), (17210, 2, 0), (17210, 3, 0), (17211, 1, 1)
    ]  # fmt: skip
    assert rows[-1].datapath == second.parent


def test_the_writer_goes_on_in_a_log_and_saves_what_a_crash_cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b"17211\tEUC_17211")
    with ExpLogWriter(path) as log:
        log.append([row(17212)])
    assert [one.obsid for one in read_explog(path)] == [17210, 17210, 17210, 17212]
    assert path.with_name(path.name + ".cut").read_bytes() == b"17211\tEUC_17211\n"


def test_the_writer_refuses_a_log_of_another_version(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="give --elvis 7"):
        ExpLogWriter(path, "6.3.0")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("values", "what"),
    [({"test": "a\tb"}, "does not fit"), ({"test": "a\nb"}, "does not fit"),
     ({"tset": "x"}, "no column tset")],
)  # fmt: skip
def test_the_writer_refuses_what_would_break_a_line(
    path: Path, values: dict[str, object], what: str
) -> None:
    before = path.read_bytes()
    with ExpLogWriter(path) as log, pytest.raises(ValueError, match=what):
        log.append([row(1), row(2) | values])
    assert path.read_bytes() == before


def test_a_write_that_fails_in_the_middle_leaves_no_half_line(path: Path) -> None:
    """As on a full disk: the system takes a part of the rows and refuses the rest."""
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ExpLogWriter(path) as log:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 300, limits[1]))
        try:
            with pytest.raises(StorageError, match="cannot write the exposure log"):
                log.append([row(17211, ccd) for ccd in (1, 2, 3)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        log.append([row(17211)])
    assert [one.obsid for one in read_explog(path)] == [17210] * 3 + [17211]
