# SPDX-License-Identifier: BSD-3-Clause
"""calib show without DS9, calib clear, calib init, calib masks."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kit.terminal import Terminal
from nightjar.errors import InvalidArgument, Refused
from nightjar.fits.cards import Card
from nightjard.calib.clear import MARKER, clear, find_folders
from nightjard.calib.command import main
from nightjard.calib.init import make_tree
from nightjard.calib.masks import promote
from nightjard.calib.results import fits_bytes
from nightjard.calib.show import find_frames

DAY = datetime.date(2019, 4, 30)


# --- show ---------------------------------------------------------------------------------------


def test_frames_are_found_by_obsid_and_ccd(tmp_path: Path) -> None:
    names = [f"EUC_{o}_120319D101010T_ROE1_CCD{c}.fits" for o in (99, 100, 102) for c in (1, 2)]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "EUC_101_120319D101010T_ROE1_CCD2.fits").touch()
    found = find_frames(tmp_path, 99, 102, 1, 2)
    assert [path.name for path in found.paths] == names[1::2]
    assert found.missing == (101,)


def test_a_template_names_files_of_other_programs(tmp_path: Path) -> None:
    (tmp_path / "FF_00007_r1_c3.fits").touch()
    (tmp_path / "FF_00070_r1_c3.fits").touch()
    found = find_frames(tmp_path, 7, 7, 1, 3, "FF_%05d_r%i_c%i.fits")
    assert [path.name for path in found.paths] == ["FF_00007_r1_c3.fits"]
    with pytest.raises(InvalidArgument, match="three %i"):
        find_frames(tmp_path, 7, 7, 1, 3, "FF_%05d.fits")


def test_a_mosaic_shows_every_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from matplotlib.image import imread

    for obsid, level in ((1, 100), (2, 200), (3, 300)):
        pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) + level
        data = fits_bytes({"ROE1_CCD1": pixels}, [Card("OBSID", obsid)], {})
        (tmp_path / f"EUC_{obsid}_120319D101010T_ROE1_CCD1.fits").write_bytes(data)
    png = tmp_path / "mosaic.png"
    assert main(["show", "-p", str(tmp_path), "-c", "1", "1", "3", "--png", str(png)]) == 0
    assert "3 frames" in capsys.readouterr().out
    picture = imread(png)
    assert picture.shape[1] > 2.5 * picture.shape[0] / 1.2  # three beside each other
    third = picture.shape[1] // 3
    for number in range(3):  # a ramp in each: dark below, bright above
        part = picture[:, number * third : (number + 1) * third, 0]
        middle = part.shape[0] // 2
        assert part[middle - 100 : middle - 60].mean() > part[middle + 60 : middle + 100].mean()


def test_no_frame_at_all_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "-p", str(tmp_path), "-c", "1", "5"]) == 1
    assert "no frame of CCD 1 with OBSID 5" in capsys.readouterr().err
    assert main(["show", "-p", str(tmp_path), "-c", "1", "5", "4"]) == 2
    assert main(["show", "-p", str(tmp_path), "-c", "1"]) == 2


# --- clear --------------------------------------------------------------------------------------


def make_results(root: Path) -> None:
    (root / "D11").mkdir(parents=True)
    (root / MARKER).write_text("{}")
    for test, count in (("TP01", 0), ("BIAS01", 3), ("BIAS 02", 2)):
        folder = root / "D11" / test / "ccdpickles"
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"frame {number}.pick").write_bytes(bytes(1000))
        (folder.parent / "products").mkdir()
        (folder.parent / "products" / "bias.fits").write_bytes(bytes(10))


def test_clear_asks_twice_as_the_cookbook_shows(tmp_path: Path) -> None:
    root = tmp_path / "results"
    make_results(root)
    words = ("clear", "-p", str(root / "D11"), "-k", "ccdpickles")
    with Terminal("nightjard.calib", *words) as terminal:
        listed = terminal.expect("Are you happy with the selection? yes=y/Y")
        assert listed.count("ccdpickles") == 3
        terminal.type("y\n")
        sizes = terminal.expect("Still want to proceed? yes=y/Y")
        assert "TOTAL: 5 files" in sizes
        terminal.type("Y\n")
        assert terminal.wait() == 0
    assert not list(root.rglob("*.pick"))
    assert len(list(root.rglob("ccdpickles"))) == 3  # the folders stay
    assert len(list(root.rglob("bias.fits"))) == 3


@pytest.mark.parametrize("answers", ["n\n", "y\nn\n", "\n", "yes\n", ""])
def test_without_two_clear_answers_nothing_goes(tmp_path: Path, answers: str) -> None:
    make_results(tmp_path / "results")
    done = subprocess.run(
        [sys.executable, "-m", "nightjard.calib", "clear", "-p", str(tmp_path), "-k", "ccdpickles"],
        input=answers, text=True, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert "nothing was cleared" in done.stderr
    assert len(list(tmp_path.rglob("*.pick"))) == 5


def test_a_second_run_is_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_results(tmp_path)
    words = ["clear", "-p", str(tmp_path), "-k", "ccdpickles", "--yes", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 5
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 0


def test_only_results_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "mine" / "ccdpickles").mkdir(parents=True)
    (tmp_path / "mine" / "ccdpickles" / "thesis.tex").touch()
    with pytest.raises(Refused, match="not inside a results folder"):
        find_folders(tmp_path, "ccdpickles")
    with pytest.raises(Refused, match="not inside a results folder"):
        clear(tmp_path / "mine" / "ccdpickles")
    assert (tmp_path / "mine" / "ccdpickles" / "thesis.tex").exists()
    make_results(tmp_path / "results")
    for name in ("", "..", "a/b", "products"):
        with pytest.raises((InvalidArgument, Refused)):
            find_folders(tmp_path / "results", name)


def test_links_are_not_followed(tmp_path: Path) -> None:
    make_results(tmp_path / "results")
    outside = tmp_path / "outside" / "ccdpickles"
    outside.mkdir(parents=True)
    (outside / "precious").touch()
    (tmp_path / "results" / "D11" / "BIAS01" / "ccdpickles" / "link").symlink_to(outside)
    (tmp_path / "results" / "D11" / "LINK").symlink_to(outside.parent)
    (tmp_path / "results" / "D11" / "TP01" / "ccdpickles").rmdir()
    (tmp_path / "results" / "D11" / "TP01" / "ccdpickles").symlink_to(outside)
    for folder in find_folders(tmp_path / "results", "ccdpickles"):
        clear(folder)
    assert (outside / "precious").exists()
    assert not list((tmp_path / "results").rglob("*.pick"))


def test_trash_keeps_what_is_cleared(tmp_path: Path) -> None:
    make_results(tmp_path / "results")
    trash = tmp_path / "trash"
    words = ["clear", "-p", str(tmp_path / "results"), "-k", "ccdpickles", "--yes"]
    assert main([*words, "--trash", str(trash)]) == 0
    assert not list((tmp_path / "results").rglob("*.pick"))
    assert len(list(trash.rglob("*.pick"))) == 5


# --- init ---------------------------------------------------------------------------------------


def test_a_work_tree_has_the_folders_and_links_of_the_cookbook(tmp_path: Path) -> None:
    data = tmp_path / "disk" / "NOSTROMO"
    tree = make_tree(
        tmp_path, "NOSTROMO", DAY, data=data, serials={"sn_roe": "FM07", "sn_ccd2": "14999-01-02"}
    )
    root = tmp_path / "NOSTROMO"
    assert os.readlink(root / "atCALDATA") == str(data)
    assert (root / "ANALYSIS" / "results_atCALDATA").resolve() == data / "results"
    assert (root / "ANALYSIS" / "calproducts" / "masks").is_dir()
    inputs = json.loads((root / "SCRIPTS/scripts_inputs_NOSTROMO_APR19_W18.json").read_text())
    assert inputs["equipment"]["sn_roe"] == "FM07"
    assert inputs["equipment"]["sn_ccd2"] == "14999-01-02"
    assert inputs["outpath"] == "Scripts_NOSTROMO_APR19_W18"
    assert tree.made


def test_a_tree_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    make_tree(tmp_path, "NOSTROMO", DAY)
    inputs = tmp_path / "NOSTROMO/SCRIPTS/scripts_inputs_NOSTROMO_APR19_W18.json"
    inputs.write_text("{}")
    again = make_tree(tmp_path, "NOSTROMO", DAY)
    assert again.made == []
    assert inputs.read_text() == "{}"
    (tmp_path / "NOSTROMO" / "atCALDATA").unlink()
    (tmp_path / "NOSTROMO" / "atCALDATA").symlink_to("/tmp")
    with pytest.raises(Refused, match="does not point to"):
        make_tree(tmp_path, "NOSTROMO", DAY)


def test_init_refuses_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "no stromo", "-p", str(tmp_path)]) == 2
    assert "capital letters" in capsys.readouterr().err
    assert main(["init", "NOSTROMO", "-p", str(tmp_path), "--date", "2019-04-30"]) == 0
    assert "new" in capsys.readouterr().out


# --- masks --------------------------------------------------------------------------------------


def make_masks(folder: Path, value: int = 1) -> None:
    (folder / "products").mkdir(parents=True, exist_ok=True)
    for ccd in (1, 2):
        name = f"EUC_MASK_NOSTROMO_CCD{ccd}_SN_14888-88-8{ccd}.fits"
        plane = np.full((8, 8), value, np.uint8)
        data = fits_bytes({"MASK": plane}, [Card("MASKTYPE", "MERGE")], {})
        (folder / "products" / name).write_bytes(data)
    (folder / "products" / "EUC_DKMASK_NOSTROMO_CCD1.fits").touch()


def test_masks_are_promoted_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_masks(tmp_path / "COSMETICS00")
    words = ["masks", "promote", str(tmp_path / "COSMETICS00"), str(tmp_path / "calproducts")]
    assert main([*words, "--dry-run"]) == 0
    assert not (tmp_path / "calproducts").exists()
    assert main(words) == 0
    target = tmp_path / "calproducts/masks/EUC_MASK_NOSTROMO_CCD2_SN_14888-88-82.fits"
    source = tmp_path / "COSMETICS00/products" / target.name
    assert target.read_bytes() == source.read_bytes()
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out.count("is there already") == 2


def test_another_mask_is_replaced_only_when_asked(tmp_path: Path) -> None:
    make_masks(tmp_path / "a")
    make_masks(tmp_path / "b", value=0)
    masks = tmp_path / "calproducts" / "masks"
    words = ["masks", "promote"]
    assert main([*words, str(tmp_path / "a"), str(tmp_path / "calproducts")]) == 0
    before = {path.name: path.read_bytes() for path in masks.glob("*.fits")}
    assert main([*words, str(tmp_path / "b"), str(tmp_path / "calproducts")]) == 3
    assert {path.name: path.read_bytes() for path in masks.glob("*.fits")} == before
    assert main([*words, str(tmp_path / "b"), str(tmp_path / "calproducts"), "--replace"]) == 0
    for name, data in before.items():
        assert (masks / f"{name}.1").read_bytes() == data
        assert (masks / name).read_bytes() != data


def test_a_damaged_mask_is_not_promoted(tmp_path: Path) -> None:
    make_masks(tmp_path / "a")
    path = sorted((tmp_path / "a" / "products").glob("EUC_MASK*"))[1]
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1
    path.write_bytes(data)
    with pytest.raises(Refused, match="checksums are wrong; nothing was copied"):
        promote(sorted((tmp_path / "a/products").glob("EUC_MASK*")), tmp_path / "calproducts")
    assert not (tmp_path / "calproducts").exists()


def test_masks_get_the_serials_of_the_block(tmp_path: Path) -> None:
    make_masks(tmp_path / "a")
    words = ["masks", "promote", str(tmp_path / "a"), str(tmp_path / "calproducts")]
    assert main([*words, "--block", "BORN", "--serial", "1=14333-01-01"]) == 0
    names = sorted(path.name for path in (tmp_path / "calproducts/masks").glob("*.fits"))
    assert names == ["EUC_MASK_BORN_CCD1_SN_14333-01-01.fits",
                     "EUC_MASK_BORN_CCD2_SN_14888-88-82.fits"]  # fmt: skip
