# SPDX-License-Identifier: BSD-3-Clause
"""Whatever is written into an exposure log comes back; whatever is cut off or damaged is no row."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nightjar.calibration.dayfolder import (
    ImageName,
    day_folder_name,
    image_name,
    parse_day_folder,
    parse_image_name,
)
from nightjar.calibration.elvis import known_versions, load_elvis, parse_stamp, stamp, utc
from nightjar.calibration.explog import ExpLogReader, NotExpLog, read_explog
from nightjar.calibration.explog_writer import row_line
from nightjar.calibration.housekeeping import NotHousekeeping, read_hk
from nightjar.errors import ConfigError

VERSION = load_elvis("7.5.X")
HEAD = ("\t".join(VERSION.columns) + "\n").encode()
SECONDS = st.integers(0, 3_155_759_999).map(lambda s: s * 10**9)  # 1970 to 2069
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=12)
WORD = st.from_regex(
    r"[A-Za-z][A-Za-z0-9-]{0,9}", fullmatch=True, alphabet=st.characters(codec="ascii")
)
VALUES = {
    "int": st.integers(-(10**9), 10**9),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "str": TEXT,
}


@st.composite
def rows(draw: st.DrawFn) -> dict[str, object]:
    """A row with some of its columns."""
    columns = draw(st.sets(st.sampled_from(VERSION.columns)))
    row = {name: draw(VALUES[VERSION.log[name]]) for name in sorted(columns)}
    return row | {
        "ObsID": draw(st.integers(0, 10**8)), "CCD": f"CCD{draw(st.integers(1, 99))}",
        "date": stamp(draw(SECONDS)),
    }  # fmt: skip


@given(SECONDS)
@example(946684799 * 10**9)
@example(951782400 * 10**9)
def test_times_come_back(utc_ns: int) -> None:
    assert parse_stamp(stamp(utc_ns)) == utc_ns
    assert parse_day_folder(day_folder_name(utc_ns)) == utc(utc_ns).date()


@given(
    st.integers(0, 10**9 - 1), SECONDS, st.integers(0, 99),
    WORD, WORD,
)  # fmt: skip
def test_names_of_images_come_back(
    obsid: int, utc_ns: int, ccd: int, unit: str, prefix: str
) -> None:
    name = image_name(obsid, utc_ns, ccd, unit=unit, prefix=prefix)
    assert parse_image_name(name) == ImageName(obsid, utc_ns, ccd, unit, prefix)


@given(st.lists(rows(), min_size=1, max_size=4), st.data())
def test_rows_come_back_and_a_cut_log_gives_whole_rows_only(
    written: list[dict[str, object]], data: st.DataObject
) -> None:
    lines = [row_line(row, VERSION).encode() for row in written]
    whole = HEAD + b"".join(lines)
    cut = data.draw(st.integers(len(HEAD), len(whole)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "EXP_LOG_210280.txt"
        path.write_bytes(whole[:cut])
        reader = ExpLogReader(path)
        early = reader.poll()
        assert len(early) == whole[:cut].count(b"\n") - 1
        path.write_bytes(whole)
        found = early + reader.poll()
        assert not reader.problems
    assert len(found) == len(written)
    for row, given_row in zip(found, written, strict=True):
        for name, value in given_row.items():
            assert row[name] == value
        for name in set(VERSION.columns) - set(given_row):
            assert row[name] in (None, "")


@given(st.binary(max_size=400), st.sampled_from(known_versions()), st.booleans())
def test_any_bytes_are_read_or_refused(junk: bytes, elvis: str, has_head: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "EXP_LOG_210280.txt"
        path.write_bytes((HEAD if has_head else b"") + junk)
        told = str(path)
        try:
            read_explog(path, elvis, problems=[])
        except (ConfigError, NotExpLog) as error:
            told = error.message
    assert str(path) in told


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_of_housekeeping_are_read_or_refused(junk: bytes, has_head: bool) -> None:
    head = ("\t".join(VERSION.housekeeping) + "\n").encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "HK_5_210280D101530T_ROE1.txt"
        path.write_bytes((head if has_head else b"") + junk)
        told = str(path)
        try:
            table = read_hk(path)
            assert table.values.shape == (len(table), len(table.names))
        except (ConfigError, NotHousekeeping) as error:
            told = error.message
    assert str(path) in told


def test_a_log_whose_names_were_refused_is_read_from_its_names_again(tmp_path: Path) -> None:
    """While it is copied, its beginning may be anything; what is strange in the end is refused."""
    path = tmp_path / "EXP_LOG_120319.txt"
    path.write_bytes(bytes(30) + b"\n")
    reader = ExpLogReader(path, "7.5.X")
    for _ in range(2):
        with pytest.raises(NotExpLog):
            reader.poll()
    row = row_line({"ObsID": 7, "CCD": "CCD1", "date": "120319D100000T"}, VERSION)
    path.write_bytes(HEAD + row.encode())
    assert [one.obsid for one in reader.poll()] == [7]
    assert reader.problems == []
