# SPDX-License-Identifier: BSD-3-Clause
"""What the headers of a file tell: ours, those of other programs, and damaged ones."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.fits_folder import cube
from nightjard.fitswatcher.facts import Facts, read_facts


def test_a_full_cube_of_ours_tells_everything(tmp_path: Path) -> None:
    facts = read_facts(cube(tmp_path, "a.fits"))
    assert facts == Facts(
        state="ok", shape=(5, 4, 6), dtype="uint16", bitpix=16, object="HD 1", data_type="DARK",
        begin="2026-01-31T23:00:00.000000", session="S1", frame_rate_hz=57.03, expected=5, saved=5,
        missed=0, torn=0, duplicated=0, truncated=False, cube_end="full", cube_number=7,
    )  # fmt: skip


def test_a_truncated_cube_says_why(tmp_path: Path) -> None:
    path = cube(tmp_path, "a.fits", frames=2, TRUNCATE=True, CUBEEND="paused", NMISSED=3)
    facts = read_facts(path)
    assert (facts.state, facts.problem) == ("truncated", "paused, 2 of 5 frames")
    assert (facts.truncated, facts.missed) == (True, 3)


def test_fewer_frames_than_expected_are_truncated_without_the_card_too(tmp_path: Path) -> None:
    facts = read_facts(cube(tmp_path, "a.fits", frames=2, TRUNCATE=None, CUBEEND=None))
    assert (facts.state, facts.problem) == ("truncated", "no reason given, 2 of 5 frames")
    assert facts.truncated is True


def test_a_count_that_contradicts_the_image_is_bad(tmp_path: Path) -> None:
    path = cube(tmp_path, "a.fits", FRMEXP=5, NSAVED=5, frames=5)
    fits.setval(path, "NSAVED", value=9)
    facts = read_facts(path)
    assert (facts.state, facts.problem) == ("bad", "NSAVED says 9 frames, there are 5")


def test_the_rate_is_the_cubes_own_else_the_cameras_else_from_the_times(
    tmp_path: Path,
) -> None:
    assert read_facts(cube(tmp_path, "0.fits", CUBERATE=56.9)).frame_rate_hz == 56.9
    assert read_facts(cube(tmp_path, "a.fits", MFRATE=None)).frame_rate_hz == 60
    facts = read_facts(cube(tmp_path, "b.fits", MFRATE=None, FRATE=None))
    assert facts.frame_rate_hz == pytest.approx(4 / 8.64, rel=1e-3)
    nothing: dict[str, Any] = dict.fromkeys(("MFRATE", "FRATE", "MJD_STR"))
    assert read_facts(cube(tmp_path, "c.fits", **nothing)).frame_rate_hz is None


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("u1", "uint8"), ("i1", "int8"), ("i2", "int16"), ("u2", "uint16"), ("i4", "int32"),
     ("u4", "uint32"), ("u8", "uint64"), ("f4", "float32"), ("f8", "float64")],
)  # fmt: skip
def test_the_type_of_pixels_is_named(tmp_path: Path, dtype: str, name: str) -> None:
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(np.zeros((3, 2), dtype)).writeto(path)
    facts = read_facts(path)
    assert (facts.shape, facts.dtype, facts.state) == ((3, 2), name, "ok")
    assert (facts.missed, facts.truncated, facts.object) == (None, None, None)


def test_scaled_pixels_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    unit = fits.PrimaryHDU(np.zeros((3, 2), np.int16))
    unit.header["BSCALE"], unit.header["BZERO"] = 0.5, 3.0
    unit.writeto(path)
    assert read_facts(path).dtype == "int16 scaled"


def test_tiles_show_the_image_inside(tmp_path: Path) -> None:
    path = tmp_path / "stream_05:12:00.123456789.fits.fz"
    tiles = fits.CompImageHDU(np.zeros((4, 64, 65), np.int16), compression_type="RICE_1")
    tiles.header["OBJECT"], tiles.header["NMISSED"] = "M 31", 2
    fits.HDUList([fits.PrimaryHDU(), tiles]).writeto(path)
    facts = read_facts(path)
    assert (facts.shape, facts.dtype, facts.compression) == ((4, 64, 65), "int16", "RICE_1")
    assert (facts.object, facts.missed, facts.bitpix) == ("M 31", 2, 16)


def test_an_image_in_an_extension_is_shown_and_a_table_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=np.arange(9))])
    fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(np.zeros((7, 8), "f4"))]).writeto(path)
    assert read_facts(path).shape == (7, 8)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)
    facts = read_facts(path)
    assert (facts.shape, facts.dtype, facts.state) == (None, None, "ok")


def test_a_file_cut_short_or_with_a_tail_is_told(tmp_path: Path) -> None:
    path = cube(tmp_path, "a.fits")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    facts = read_facts(path)
    assert facts.state == "cut short"
    assert facts.problem == f"{len(whole) - 1} bytes of {len(whole)}"
    assert facts.object == "HD 1"
    path.write_bytes(whole + b"tail")
    assert read_facts(path).problem == "4 bytes follow its last unit"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a FITS file, it begins with b''"),
        (b"GIF89a....", "not a FITS file, it begins with b'GIF89a...'"),
        (b"SIMPLE  =                    T".ljust(2880), "no END card"),
        (b"SIMPLE  =          T".ljust(80) + b"END".ljust(2800), "impossible BITPIX None"),
    ],
)
def test_what_makes_no_sense_is_bad(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(content)
    facts = read_facts(path)
    assert facts.state == "bad"
    assert problem in str(facts.problem)


def test_one_odd_card_does_not_hide_the_others(tmp_path: Path) -> None:
    path = cube(tmp_path, "a.fits")
    content = path.read_bytes()
    at = content.index(b"SESSION = ")
    path.write_bytes(content[:at] + b"SESSION = 'open".ljust(80) + content[at + 80 :])
    facts = read_facts(path)
    assert (facts.state, facts.object, facts.session) == ("ok", "HD 1", None)
    assert "SESSION = 'open" in str(facts.problem)


def test_only_header_blocks_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.fits"
    big = np.zeros((50, 100, 100), np.int16)
    fits.HDUList([fits.PrimaryHDU(big), fits.ImageHDU(big)]).writeto(path)
    taken = []
    real = os.pread
    monkeypatch.setattr(
        os, "pread", lambda fd, count, at: (taken.append(count), real(fd, count, at))[1]
    )
    assert read_facts(path).shape == (50, 100, 100)
    assert sum(taken) <= 6 * 2880


def test_a_file_that_may_not_be_read_says_so_and_one_that_is_gone_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        read_facts(tmp_path / "none.fits")

    def refuse(path: Any, *_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = cube(tmp_path, "a.fits")
    monkeypatch.setattr(os, "open", refuse)
    assert read_facts(path) == Facts("unreadable", "Permission denied")
