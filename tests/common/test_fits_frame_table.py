# SPDX-License-Identifier: BSD-3-Clause
"""The frame table: every integer survives, other programs read the same, damage is told."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from nightjar.errors import StorageError
from nightjar.fits.cards import Card
from nightjar.fits.checksum import MODULUS, datasum
from nightjar.fits.frame_table import ROW, Rows, empty_rows, read_table, table_bytes, table_hdu
from nightjar.fits.hdus import opened, walk
from nightjar.fits.header import NotFits
from nightjar.fits.writer import write_image

U8 = st.integers(0, 2**64 - 1)
I8 = st.integers(-(2**63), 2**63 - 1)
U4 = st.integers(0, 2**32 - 1)
ANY_ROW = st.tuples(U8, U8, I8, I8, I8, I8, U4, U4)
# The ends of every type, and a plain row of a night.
EXTREME: list[tuple[int, ...]] = [
    (0, 0, 0, 0, 0, -1, 0, 0),
    (2**64 - 1, 2**63, 2**63 - 1, -(2**63), -1, 2**63 - 1, 2**32 - 1, 2**31),
    (2**63 - 1, 1, 1718071234123456789, 1718071234123456790, 1718071234123457001, 7, 1, 2**31 - 1),
]


def rows_of(values: list[tuple[int, ...]]) -> Rows:
    return np.array(values, ROW)


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    path = tmp_path / "cube.fits"
    write_image(path, np.zeros((3, 4, 5), np.uint16), [Card("EXTEND", True)])
    with open(path, "ab") as file:
        file.write(table_hdu(rows_of(EXTREME)))
    return path


@given(st.lists(ANY_ROW, max_size=30))
def test_what_is_written_is_read(values: list[tuple[int, ...]]) -> None:
    rows = rows_of(values)
    hdu = table_hdu(rows)
    assert len(hdu) == table_bytes(len(rows))
    assert datasum(hdu) == MODULUS  # CHECKSUM brings a whole unit to minus zero
    primary = b"".join(
        card.ljust(80)
        for card in (b"SIMPLE  =                    T", b"BITPIX  =                    8",
                     b"NAXIS   =                    0", b"END")
    ).ljust(2880)  # fmt: skip
    assert read_table(primary + hdu).tolist() == rows.tolist()
    assert read_table(io.BytesIO(primary + hdu)).tolist() == rows.tolist()


def test_astropy_reads_the_same_integers(cube: Path) -> None:
    with fits.open(cube, checksum=True) as hdus:  # a wrong sum is a warning, which is an error
        table: Any = hdus["FRAMES"]
        assert table.data["FRAME"].tolist() == [0, 1, 2]
        for index, column in enumerate(ROW.names or ()):
            assert table.data[column].tolist() == [row[index] for row in EXTREME], column
        assert table.header["TIMESYS"] == "UTC"
        assert table.header["EXTVER"] == 1
        assert {table.header[f"TUNIT{number}"] for number in (4, 5, 6)} == {"ns"}


@pytest.mark.needs("fitsverify")
@pytest.mark.parametrize("count", [0, 1, 48, 100])
def test_fitsverify_finds_nothing(tmp_path: Path, count: int) -> None:
    path = tmp_path / "cube.fits"
    write_image(path, np.zeros((3, 4, 5), np.uint16), [Card("EXTEND", True)])
    with open(path, "ab") as file:
        file.write(table_hdu(empty_rows(count)))
    done = subprocess.run(["fitsverify", path], capture_output=True, text=True, check=False)
    assert "found 0 warning(s) and 0 error(s)" in done.stdout, done.stdout


def test_the_table_of_another_program_is_read(tmp_path: Path) -> None:
    """Other order, a column more of every kind, written by astropy."""
    rows = rows_of(EXTREME)
    columns = [
        fits.Column("NOTE", "5A", array=["a", "b", "c"]),
        fits.Column("BITS", "11X", array=np.zeros((3, 11), bool)),
        fits.Column("LIST", "QJ()", array=np.array([[1], [2, 3], []], object)),
        fits.Column("PAIR", "2E", array=np.zeros((3, 2))),
    ]
    for name in reversed(ROW.names or ()):
        kind = ROW[name]
        bits = 8 * kind.itemsize
        zero = {"bzero": 1 << (bits - 1)} if kind.kind == "u" else {}
        columns.append(fits.Column(name, "K" if bits == 64 else "J", array=rows[name], **zero))
    table = fits.BinTableHDU.from_columns(columns, name="FRAMES")
    path = tmp_path / "other.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2))), table]).writeto(path)
    assert read_table(path).tolist() == rows.tolist()


def test_files_without_a_table_are_refused(tmp_path: Path, cube: Path) -> None:
    plain = tmp_path / "plain.fits"
    write_image(plain, np.zeros((3, 4), np.uint16), [])
    text = tmp_path / "text.txt"
    text.write_text("no FITS file at all")
    with pytest.raises(NotFits, match=r"plain\.fits: no table FRAMES"):
        read_table(plain)
    with pytest.raises(NotFits, match="not a FITS file"):
        read_table(text)
    with pytest.raises(StorageError, match=r"cannot read .*missing"):
        read_table(tmp_path / "missing.fits")
    with pytest.raises(StorageError, match="cannot read"):
        read_table(tmp_path)
    content = cube.read_bytes()
    with pytest.raises(NotFits, match="cut short"):
        read_table(content[: 2880 * 2 + 5760 + 100])
    # A column under another name, and one whose offset was lost, would give wrong numbers.
    with pytest.raises(NotFits, match="no column HWID"):
        read_table(content.replace(b"'HWID    '", b"'HWIX    '"))
    with pytest.raises(NotFits, match=r"column MISSED is .* \+ 0"):
        read_table(content.replace(b"TZERO8  =           2147483648", b"TZERO8  = %20d" % 0))
    with pytest.raises(NotFits, match="column ATIME is 'D'"):
        read_table(content.replace(b"TFORM4  = 'K       '", b"TFORM4  = 'D       '"))


def test_rows_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match="no frame table"):
        table_hdu(np.zeros(3, ROW.newbyteorder(">")))
    with pytest.raises(ValueError, match="no frame table"):
        table_hdu(np.zeros((3, 2), ROW))


def test_the_units_of_a_file_are_found(cube: Path) -> None:
    with opened(cube) as (read, name):
        primary, table = walk(read, name)
    assert (primary.number, primary.name, primary.data_bytes) == (0, "", 120)
    assert (table.number, table.name, table.start) == (1, "FRAMES", primary.end)
    assert table.end == cube.stat().st_size
    with fits.open(cube) as hdus:
        info = hdus[1].fileinfo()
    assert (info["hdrLoc"], info["datLoc"]) == (table.start, table.data_offset)
