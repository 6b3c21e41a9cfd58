# SPDX-License-Identifier: BSD-3-Clause
"""The raw files of simulated nights are those that loggers leave."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from kit.simulated_night import tiny
from nightjar.fits.frame_table import read_table
from nightjar.fits.header import read_header
from nightjar.fits.timing_text import read_timing_text, text_path
from nightjar.fits.verify import verify_image
from nightjar.times import NS_PER_S, parse_iso
from nightjard.simulators.night.presets import small
from nightjard.simulators.night.program import make_night
from nightjard.simulators.night.truth import NightTruth

ROW = re.compile(
    r"^[ \d]{10}  [ \d]{10}  [ \d.]{15}   [ \d.]{20}  [ \d.]{17}   [ \d]{10}   [ \d]{10}$"
)


@pytest.fixture(scope="module", params=["milk", "fitslogd"])
def night(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NightTruth:
    parameters = dataclasses.replace(small(), form=request.param)
    return make_night(tmp_path_factory.mktemp(request.param), parameters)


@pytest.fixture(scope="module")
def milk(tmp_path_factory: pytest.TempPathFactory) -> NightTruth:
    return make_night(tmp_path_factory.mktemp("night"), small())


def test_text_has_the_form_of_milk_and_the_times_of_the_truth(milk: NightTruth) -> None:
    for cube in milk.cubes:
        path = text_path(milk.folder / cube.path)
        lines = path.read_text().splitlines()
        assert all(line.startswith("# ") for line in lines[:11])
        assert all(ROW.match(line) for line in lines[11:])
        text, rows = read_timing_text(path), milk.of_cube(cube.number)
        assert (text.columns, text.is_cut) == (7, False)
        assert (text.rows["FRAME"] == rows["index"]).all()
        assert (text.rows["ATIME"] == rows["acquired_ns"]).all()
        assert np.abs(text.rows["LTIME"] - rows["logged_ns"]).max() < 500  # doubles
        assert (text.rows["CNT0"] == rows["counter"]).all()
        assert (text.rows["MAIN"] == rows["counter"]).all()
        assert (text.rows["CNT1"] == rows["counter"] % 100).all()
        stamp = parse_iso(f"2026-06-12T{Path(cube.path).stem[6:]}")
        assert (stamp - rows["logged_ns"][0]) % (86_400 * NS_PER_S) == 0


def test_header_has_the_form_of_milk(milk: NightTruth) -> None:
    cube = milk.cubes[6]
    data = (milk.folder / cube.path).read_bytes()
    cards = [data[at : at + 80].decode("latin-1") for at in range(0, 2880 * 6, 80)]
    end = cards.index("END".ljust(80))
    names = [card[:8].rstrip() for card in cards[:end]]
    assert len(names) == len(set(names))
    assert names[:7] == ["SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "EXTEND"]
    assert names[-12:] == ["UT", "MJD", "HST", "UT-STR", "MJD-STR", "HST-STR", "UT-END", "MJD-END",
                           "HST-END", "BSCALE", "BZERO", "DATE"]  # fmt: skip
    aux = names[7 : names.index("BIN-FCT1")]
    assert aux == sorted(aux)
    assert "BZERO   =                32768 /" in cards[names.index("BZERO")]
    assert "U_SYNC" not in names
    header, rows = read_header(milk.folder / cube.path), milk.of_cube(cube.number)
    assert header["U_FLC"] is None
    assert header["EXTTRIG"] is True
    assert header["U_TRIGJT"] == 500
    assert header["PRD-RNG2"] == 536
    assert len(repr(header["EXPTIME"])) > 15  # more digits than the dictionary has
    start = rows["logged_ns"][0]
    mjd = 40587 + start / 86_400e9
    assert header["MJD-STR"] == pytest.approx(mjd, abs=1e-11)


def test_pixels_are_unsigned_and_short_cubes_are_cut(milk: NightTruth) -> None:
    lengths = []
    for cube in milk.cubes:
        with fits.open(milk.folder / cube.path) as hdus:
            assert len(hdus) == 1
            assert hdus[0].header["BITPIX"] == 16
            assert hdus[0].data.dtype == np.uint16
            assert len(hdus[0].data) == cube.frames
        assert (milk.folder / cube.path).stat().st_size % 2880 == 0
        lengths.append(cube.frames)
    assert max(lengths) == 70
    assert sum(length < 50 for length in lengths) > 10


@pytest.mark.needs("fitsverify")
def test_fitsverify_finds_no_error(night: NightTruth) -> None:
    paths = sorted(night.folder.glob("vcam*/*.fits"))
    done = subprocess.run(["fitsverify", *paths], capture_output=True, text=True, check=False)
    ends = re.findall(r"found (\d+) warning\(s\) and (\d+) error", done.stdout)
    assert len(ends) == len(paths)
    # milk leaves U_FLC without a value
    most = "1" if night.parameters["form"] == "milk" else "0"
    assert {warnings for warnings, _ in ends} <= {"0", most}
    assert {errors for _, errors in ends} == {"0"}


def test_times_may_count_tai(tmp_path: Path) -> None:
    truth = make_night(tmp_path, tiny(tai_s=37))
    rows, cube = truth.of_cube(0), truth.cubes[0]
    text = read_timing_text(text_path(truth.folder / cube.path)).rows
    assert np.abs(text["LTIME"] - rows["logged_ns"] - 37 * NS_PER_S).max() < 500
    assert (text["ATIME"] == rows["acquired_ns"]).all()
    # Hour and minute of UTC, seconds of TAI: as the recorder does.
    assert Path(cube.path).name.startswith("vcam1_05:00:37.")


def test_our_form_has_a_table_and_right_sums(tmp_path: Path) -> None:
    truth = make_night(tmp_path, tiny(form="fitslogd"))
    for cube in truth.cubes:
        path, rows = truth.folder / cube.path, truth.of_cube(cube.number)
        assert verify_image(path).is_good
        table = read_table(path)
        assert (table["ATIME"] == rows["acquired_ns"]).all()
        assert (table["LTIME"] == rows["logged_ns"]).all()
        assert (table["CNT0"] == rows["counter"]).all()
        text = read_timing_text(text_path(path)).rows
        assert (text["LTIME"] == rows["logged_ns"]).all()
