# SPDX-License-Identifier: BSD-3-Clause
"""The text file of frame times: the shape that old readers expect, every digit true."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjar.errors import StorageError
from nightjar.fits.frame_table import ROW, Rows, empty_rows
from nightjar.fits.timing_text import TimingText, read_timing_text, text_path, timing_text

START = 1718071234_123456955


def rows_of(count: int = 5, start: int = START, step: int = 2_000_037) -> Rows:
    rows = empty_rows(count)
    rows["CNT0"] = 48211 + np.arange(count)
    rows["CNT1"] = np.arange(count) % 40
    rows["LTIME"] = start + step * np.arange(count)
    rows["ATIME"] = rows["LTIME"] - 1954_955
    return rows


def lines_of(rows: Rows, **more: int) -> list[str]:
    text = timing_text(rows, program="logger 1", **more).decode("ascii")
    assert text.endswith("\n")
    return text.splitlines()


def reread(tmp_path: Path, content: bytes) -> TimingText:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    return read_timing_text(path)


def test_a_row_has_the_shape_of_the_format() -> None:
    rows = rows_of(1)
    assert lines_of(rows)[11] == (
        "         0       48211      0.000000000   1718071234.123456955  1718071234.121502"
        "        48211            0"
    )


def test_the_heading_has_eleven_comment_lines() -> None:
    text = timing_text(rows_of(2), program="fitslogd 1.0", cube="vcam1.fits").decode("ascii")
    lines = text.splitlines()
    assert [line.startswith("#") for line in lines] == [True] * 11 + [False] * 2
    assert lines[0] == "# Telemetry stream timing data"
    assert "fitslogd 1.0" in lines[1]
    assert "vcam1.fits" in lines[1]
    assert [line.split()[1] for line in lines[3:10]] == [f"col{n}" for n in range(1, 8)]
    assert lines[2].strip() == lines[10].strip() == "#"


def test_numpy_reads_it(tmp_path: Path) -> None:
    rows = rows_of(300)
    rows["ATIME"][7] = 0
    path = tmp_path / "a.txt"
    path.write_bytes(timing_text(rows, program="p"))
    table = np.loadtxt(path)
    assert table.shape == (300, 7)
    assert (table[:, 0] == np.arange(300)).all()
    assert (table[:, 1] == rows["CNT0"]).all()
    assert (table[:, 5] == rows["CNT0"]).all()
    assert (table[:, 6] == rows["CNT1"]).all()
    np.testing.assert_allclose(table[:, 2], (rows["LTIME"] - START) / 1e9, rtol=0, atol=1e-12)
    np.testing.assert_allclose(table[:, 3], rows["LTIME"] / 1e9, rtol=0, atol=3e-7)
    np.testing.assert_allclose(table[:, 4], rows["ATIME"] / 1e9, rtol=0, atol=1.3e-6)
    assert table[7, 4] == 0


COUNTER = st.integers(0, 2**64 - 1)
TIME = st.integers(-(2**62), 2**62)


@given(st.lists(st.tuples(COUNTER, COUNTER, TIME, TIME), min_size=1, max_size=8))
def test_every_digit_is_that_of_the_integer(values: list[tuple[int, int, int, int]]) -> None:
    rows = empty_rows(len(values))
    for row, (cnt0, cnt1, logged, acquired) in zip(rows, values, strict=True):
        row["CNT0"], row["CNT1"], row["LTIME"], row["ATIME"] = cnt0, cnt1, logged, acquired
    origin = values[0][2] // 2
    for index, line in enumerate(lines_of(rows, origin_ns=origin)[11:]):
        cnt0, cnt1, logged, acquired = values[index]
        fields = line.split()
        assert [int(fields[i]) for i in (0, 1, 5, 6)] == [index, cnt0, cnt0, cnt1]
        assert Decimal(fields[2]).scaleb(9) == logged - origin
        assert Decimal(fields[3]).scaleb(9) == logged
        assert 0 <= abs(acquired) - abs(int(Decimal(fields[4]).scaleb(9))) < 1000
        assert fields[4].startswith("-") == (acquired < 0)


@pytest.mark.parametrize(("column", "value"), [
    ("CNT0", 2**64 - 1), ("CNT1", 10**10), ("ATIME", -1), ("LTIME", START + 10**14),
])  # fmt: skip
def test_one_row_that_does_not_fit_changes_no_other(column: str, value: int) -> None:
    """Rows that fit their columns are written by other code than those that do not."""
    rows = rows_of(12_345)
    rows["CNT0"][:7] = 0, 9, 10, 99, 100, 10**9 - 1, 10**10 - 1
    rows["LTIME"][-1] = START + 10**14 - 1  # the last that fits
    rows["ATIME"][5] = 0
    usual = lines_of(rows)
    assert {len(line) for line in usual[11:]} == {107}
    rows[column][6_000] = value
    other = lines_of(rows)
    assert [at for at, pair in enumerate(zip(usual, other, strict=True)) if len(set(pair)) > 1] \
        == [6_011]  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = rows_of(50)
    read = reread(tmp_path, timing_text(rows, program="p"))
    assert (read.columns, read.is_cut) == (7, False)
    assert (read.rows["LTIME"] == rows["LTIME"]).all()
    assert (read.rows["SINCE"] == rows["LTIME"] - START).all()
    assert (read.rows["ATIME"] == rows["ATIME"] // 1000 * 1000).all()
    assert (read.rows["CNT1"] == rows["CNT1"]).all()
    assert (read.rows["MAIN"] == read.rows["CNT0"]).all()


def test_no_rows(tmp_path: Path) -> None:
    read = reread(tmp_path, timing_text(empty_rows(0), program="p"))
    assert (len(read.rows), read.columns, read.is_cut) == (0, 0, False)


def test_an_older_file_of_six_columns_is_read(tmp_path: Path) -> None:
    old = b"# Telemetry stream timing data \n" + b"".join(
        b"%10d  %10d  %15s   %20s   %10d   %10d\n" % row
        for row in (
            (0, 48211, b"0.000000000", b"1718071234.123456955", 48211, 1),
            (1, 48212, b"0.002000093", b"1718071234.125457048", 48212, 2),
        )
    )
    read = reread(tmp_path, old)
    assert read.columns == 6
    assert read.rows["ATIME"].tolist() == [0, 0]
    assert read.rows["LTIME"].tolist() == [START, START + 2000093]
    assert read.rows["CNT0"].tolist() == [48211, 48212]
    assert read.rows["CNT1"].tolist() == [1, 2]


def test_every_cut_of_the_last_line_is_survived(tmp_path: Path) -> None:
    content = timing_text(rows_of(3), program="p")
    whole = reread(tmp_path, content).rows
    last = content.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(content)):
        read = reread(tmp_path, content[:end])
        assert read.rows.tolist() == whole[:2].tolist(), content[last:end]
        # Of blanks nothing is lost that anybody could miss.
        assert read.is_cut == bool(content[last:end].strip())
    zeros = reread(tmp_path, content[: last + 30] + bytes(4096) + b"\n")
    assert zeros.is_cut
    assert zeros.rows.tolist() == whole[:2].tolist()


@pytest.mark.parametrize(
    "line", ["0 1 2 3 4", "0 1 2 3 4 5 6 7", "a 1 2 3 4 5 6", "0 1 nan 3 4 5 6", "0 1 inf 3 4 5 6",
             "0 1 2 1e30 4 5 6", "0 -1 2 3 4 5 6"],
)  # fmt: skip
def test_a_wrong_line_in_the_middle_is_told(tmp_path: Path, line: str) -> None:
    content = timing_text(rows_of(1), program="p") + line.encode() + b"\n"
    with pytest.raises(StorageError, match=r"a\.txt: not a timing file: "):
        reread(tmp_path, content)


def test_a_mixed_file_and_a_missing_one_are_told(tmp_path: Path) -> None:
    content = timing_text(rows_of(1), program="p")
    with pytest.raises(StorageError, match="six and of seven"):
        reread(tmp_path, content + b"1 2 3 4 5 6\n")
    with pytest.raises(StorageError, match=r"line 13: '1 2'"):
        reread(tmp_path, content + b"1 2\n")
    with pytest.raises(StorageError, match="cannot read"):
        read_timing_text(tmp_path / "none.txt")


def test_the_heading_stays_eleven_lines_whatever_the_name() -> None:
    text = timing_text(rows_of(1), program="p\nq", cube="ä\n1").decode("ascii")
    assert len(text.splitlines()) == 12


def test_the_name_of_the_text_file() -> None:
    assert text_path(Path("/d/a.fits")) == Path("/d/a.txt")
    assert text_path(Path("/d/a_01:02:03.5.fits.fz")) == Path("/d/a_01:02:03.5.txt")


def test_rows_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match="no frame table"):
        timing_text(np.zeros(3, ROW.newbyteorder(">")), program="p")


def test_lines_out_of_column_are_read_as_those_in_column(tmp_path: Path) -> None:
    rows = empty_rows(50)
    rows["CNT0"] = np.arange(50) + 7
    rows["LTIME"] = 1_780_000_000_123_456_789 + np.arange(50) * 1_999_999
    rows["ATIME"] = rows["LTIME"] // 1000 * 1000 - 40_000
    whole = timing_text(rows, program="test")
    path = tmp_path / "a.txt"
    path.write_bytes(whole)
    expected = read_timing_text(path).rows
    lines = whole.decode().splitlines(keepends=True)
    for change in (
        [*lines[:20], lines[20].replace("  ", " ", 1), *lines[21:]],  # one line is shorter
        [line.replace("  ", " ") for line in lines],  # no columns at all
        [*lines[:-1], lines[-1].rstrip() + "\r\n"],
    ):
        path.write_text("".join(change))
        assert (read_timing_text(path).rows == expected).all()
    good = lines[30]
    for bad in (good.replace("1780000000.", "17x0000000."), good[:40] + "-" + good[41:]):
        path.write_text("".join([*lines[:30], bad, *lines[31:]]))
        with pytest.raises(StorageError, match="line 31"):
            read_timing_text(path)
