# SPDX-License-Identifier: BSD-3-Clause
"""Damage to simulated nights is what it says, and nothing else is touched."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from kit.simulated_night import content, pixels_of, tiny
from nightjar.errors import InvalidArgument, StorageError
from nightjar.fits.header import read_header
from nightjar.fits.timing_text import read_timing_text, text_path
from nightjar.fits.verify import verify_image
from nightjard.simulators.night import damage
from nightjard.simulators.night.pixels import FramePool, Tag, read_tags
from nightjard.simulators.night.program import make_night
from nightjard.simulators.night.truth import NightTruth


def damaged(tmp_path: Path, name: str, **changes: Any) -> tuple[NightTruth, damage.Damage, Path]:
    truth = make_night(tmp_path, tiny(**changes))
    done = damage.apply(truth.folder, name, np.random.default_rng(6))
    return truth, done, truth.folder / done.cube


@pytest.mark.parametrize(
    ("name", "lines", "columns", "is_cut"),
    [("txt-short", -1, 7, False), ("txt-long", 1, 7, False), ("txt-cut", -1, 7, True),
     ("txt-six-columns", 0, 6, False), ("txt-no-acquisition", 0, 7, False)],
)  # fmt: skip
def test_damaged_texts(tmp_path: Path, name: str, lines: int, columns: int, is_cut: bool) -> None:
    truth, done, cube = damaged(tmp_path, name)
    (whole,) = [c for c in truth.cubes if c.path == done.before]
    text = read_timing_text(text_path(cube))
    assert (len(text.rows), text.columns, text.is_cut) == (whole.frames + lines, columns, is_cut)
    has_times = bool((text.rows["ATIME"] > 0).all())
    assert has_times == (name not in ("txt-six-columns", "txt-no-acquisition"))
    assert blake3(cube.read_bytes()).hexdigest() == whole.blake3


def test_damaged_names(tmp_path: Path) -> None:
    truth, done, cube = damaged(tmp_path / "hst", "hst-name")
    (whole,) = [c for c in truth.cubes if c.path == done.before]
    assert cube.name[6:9] == "19:"
    assert blake3(cube.read_bytes()).hexdigest() == whole.blake3
    assert text_path(cube).is_file()
    assert not (truth.folder / done.before).exists()
    truth, done, cube = damaged(tmp_path / "blank", "blank-name")
    assert " " in cube.name
    assert text_path(cube).is_file()
    truth, done, cube = damaged(tmp_path / "twin", "name-collision")
    twins = list(cube.parent.glob(cube.name[:-6] + "*.fits"))
    assert len(twins) == 2
    assert len({blake3(path.read_bytes()).hexdigest() for path in twins}) == 1


@pytest.mark.parametrize("form", ["milk", "fitslogd"])
def test_damaged_headers_stay_fits_files(tmp_path: Path, form: str) -> None:
    truth, _, cube = damaged(tmp_path / "exptime", "exptime-missing", form=form)
    assert "EXPTIME" not in read_header(cube)
    assert np.array_equal(read_tags(pixels_of(cube))["index"], np.arange(len(pixels_of(cube))))
    _, _, other = damaged(tmp_path / "trigger", "untriggered", form=form)
    assert read_header(other)["EXTTRIG"] is False
    if form == "fitslogd":
        assert verify_image(cube).is_good
        assert verify_image(other).is_good
    assert len(truth.cubes) == 8


def test_truncated_cube_keeps_the_frames_that_it_says(tmp_path: Path) -> None:
    truth, done, cube = damaged(tmp_path, "fits-truncated")
    header = read_header(cube)
    held = cube.stat().st_size - header.data_offset
    assert held // (16 * 16 * 2) == done.frames_left < header["NAXIS3"]
    assert str(done.frames_left) in done.text
    assert (truth.folder / done.cube).is_file()


def test_one_bit_is_flipped(tmp_path: Path) -> None:
    truth, done, cube = damaged(tmp_path, "bit-flip")
    (whole,) = [c for c in truth.cubes if c.path == done.before]
    assert blake3(cube.read_bytes()).hexdigest() != whole.blake3
    pool = FramePool((16, 16), 1)
    rows = truth.of_cube(whole.number)
    wanted = np.array([
        pool.frame(Tag(*(int(row[n]) for n in ("camera", "segment", "trigger", "state", "index"))),
                   "star") for row in rows
    ])  # fmt: skip
    assert int(np.bitwise_count(wanted ^ pixels_of(cube)).sum()) == 1


def test_leftovers_and_empty_cubes(tmp_path: Path) -> None:
    truth, _, cube = damaged(tmp_path / "tmp", "tmp-left")
    (left,) = truth.folder.glob("vcam*/*.tmp")
    assert cube.read_bytes().startswith(left.read_bytes())
    truth, _, cube = damaged(tmp_path / "zero", "zero-frames")
    (empty,) = [p for p in damage.cubes_of(truth.folder) if read_header(p)["NAXIS3"] == 0]
    assert not len(read_timing_text(text_path(empty)).rows)
    truth, _, cube = damaged(tmp_path / "text", "txt-missing")
    assert not text_path(cube).exists()
    truth, _, cube = damaged(tmp_path / "ro", "read-only")
    assert not cube.stat().st_mode & 0o222


def test_short_cubes_hold_the_same_frames(tmp_path: Path) -> None:
    truth, done, cube = damaged(tmp_path, "short-cubes")
    cubes = damage.cubes_of(truth.folder)
    lengths = sorted(int(str(read_header(path)["NAXIS3"])) for path in cubes)
    assert lengths[:3] == [1, 2, 3]
    assert truth.conservation([read_tags(pixels_of(path)) for path in cubes]).is_exact
    parts = [path for path in cubes if str(path.relative_to(truth.folder)) not in
             {c.path for c in truth.cubes} or path == cube]  # fmt: skip
    times = np.concatenate([read_timing_text(text_path(path)).rows["ATIME"] for path in parts])
    (whole,) = [c for c in truth.cubes if c.path == done.before]
    assert (times == truth.of_cube(whole.number)["acquired_ns"]).all()


def test_night_without_the_second_camera(tmp_path: Path) -> None:
    truth, done, _ = damaged(tmp_path, "one-camera")
    assert done.cube == ""
    assert {path.parent.name for path in damage.cubes_of(truth.folder)} == {"vcam1"}


def test_growing_night_becomes_the_whole_one(tmp_path: Path) -> None:
    truth, _, _ = damaged(tmp_path, "growing")
    assert len(damage.cubes_of(truth.folder)) == len(truth.cubes) - 2
    assert len(list(truth.folder.glob("vcam*/*.fits.*.tmp"))) == 2
    assert len(damage.grow(truth.folder)) == 2
    for cube in truth.cubes:
        assert blake3((truth.folder / cube.path).read_bytes()).hexdigest() == cube.blake3
    assert not list(truth.folder.glob("vcam*/*.tmp"))


def test_damage_is_repeatable_and_refuses_unknown_names(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        truth = make_night(tmp_path / name, tiny(damages=("fits-truncated", "txt-cut")))
        texts.append(content(truth.folder))
    assert texts[0] == texts[1]
    rng = np.random.default_rng(1)
    with pytest.raises(InvalidArgument, match="there are: txt-missing"):
        damage.apply(truth.folder, "txt-gone", rng)
    shutil.rmtree(truth.folder / "vcam1")
    shutil.rmtree(truth.folder / "vcam2")
    with pytest.raises(StorageError, match="nothing to damage"):
        damage.apply(truth.folder, "txt-cut", rng)


def test_damages_of_a_night_are_done_to_different_cubes(tmp_path: Path) -> None:
    names = ("txt-missing", "txt-cut", "txt-short", "fits-truncated", "bit-flip", "exptime-missing")
    whole, broken = (
        make_night(tmp_path / name, tiny(damages=damages))
        for name, damages in (("whole", ()), ("broken", names))
    )
    before, after = content(whole.folder), content(broken.folder)
    changed = {Path(name).stem for name in before if before[name] != after.get(name)}
    assert len(changed) == len(names)


def test_every_damage_can_be_done_to_both_forms_or_is_refused(tmp_path: Path) -> None:
    for form in ("milk", "fitslogd"):
        for name in damage.DAMAGES:
            parameters = tiny(form=form, damages=(name,))
            if form == "fitslogd" and name in damage.MILK_ONLY:
                with pytest.raises(InvalidArgument, match="milk's form only"):
                    make_night(tmp_path / form / name, parameters)
                assert not (tmp_path / form / name).exists()
                continue
            truth = make_night(tmp_path / form / name, parameters)
            files = content(truth.folder)
            hashes = {c.path: c.blake3 for c in truth.cubes}
            texts = {str(text_path(Path(c.path))): c.text_blake3 for c in truth.cubes}
            if name == "read-only":
                assert files == hashes | texts
            else:
                assert files != hashes | texts
