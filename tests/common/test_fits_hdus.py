# SPDX-License-Identifier: BSD-3-Clause
"""Headers of all units of a file, without a look at its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from nightjar.errors import StorageError
from nightjar.fits.hdus import opened, read_headers, walk
from nightjar.fits.header import NotFits


def cards(*lines: str) -> bytes:
    return "".join(f"{line:80}" for line in [*lines, "END"]).ljust(2880).encode()


PRIMARY = ("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "many.fits"
    units = [fits.PrimaryHDU(np.zeros((3, 700), np.int16))]
    units += [fits.ImageHDU(np.zeros((n, n), np.float64), name=f"E{n}") for n in (1, 20, 30)]
    units[2].header.extend([(f"KEY{n}", n) for n in range(200)])
    fits.HDUList(units).writeto(made)
    return made


def test_all_headers_are_read_and_no_data(path: Path) -> None:
    asked: list[tuple[int, int]] = []
    with opened(path) as (read, name):
        found = list(walk(lambda at, count: (asked.append((at, count)), read(at, count))[1], name))
    assert [unit.name for unit in found] == ["", "E1", "E20", "E30"]
    assert found[-1].end == path.stat().st_size
    assert found[2].header["KEY199"] == 199
    inside = [
        at for at, _ in asked for unit in found if unit.data_offset <= at < unit.end
    ]  # fmt: skip
    assert inside == []
    headers = read_headers(path)
    assert [header["NAXIS1"] for header in headers] == [700, 1, 20, 30]
    assert [header.data_offset for header in headers] == [unit.data_offset for unit in found]


def test_a_file_cut_short_gives_the_headers_that_are_there(path: Path) -> None:
    whole = path.read_bytes()
    with opened(whole) as (read, name):
        second = list(walk(read, name))[1]
    path.write_bytes(whole[: second.data_offset + 3])
    assert len(read_headers(path)) == 2


def test_what_is_no_fits_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(NotFits, match=r"a\.fits: not a FITS file"):
        read_headers(path)
    path.write_bytes(cards(*PRIMARY) + cards("XTENSION= 'IMAGE'", "BITPIX  = 7", "NAXIS   = 1"))
    with pytest.raises(NotFits, match=r"a\.fits: unit 1: impossible BITPIX 7"):
        read_headers(path)
    with pytest.raises(StorageError, match=r"none\.fits: No such file"):
        read_headers(tmp_path / "none.fits")


def test_cards_of_other_programs_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(
        cards(
            *PRIMARY, "A       = nan / no number of FITS", "lower   = 1", "B       = 2",
            "C       = 'part &'", "CONTINUE  'and end'", "D       = 'open", "CONTINUE  'x'",
        )
    )  # fmt: skip
    with pytest.raises(NotFits, match=r"card 4: .*nan"):
        read_headers(path)
    with opened(path) as (read, name):
        (unit,) = walk(read, name, is_lenient=True)
    assert (unit.header["B"], unit.header["C"]) == (2, "part and end")
    assert "A" not in unit.header
    numbers = [problem.partition(":")[0] for problem in unit.problems]
    assert numbers == ["card 4", "card 5", "card 9"]
    assert "nan / no number" in unit.problems[0]
