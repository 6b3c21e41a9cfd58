# SPDX-License-Identifier: BSD-3-Clause
"""calib show, clear and init with what nobody meant: odd names, damaged files, runs at work."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from nightjar.errors import ConfigError, InvalidArgument, Refused, StorageError
from nightjar.files import locked
from nightjard.calib.clear import MARKER, clear, find_folders
from nightjard.calib.command import main
from nightjard.calib.engine.layout import LOCK
from nightjard.calib.init import make_tree
from nightjard.calib.show import draw_mosaic, find_frames

DAY = datetime.date(2019, 4, 30)


# --- show ---------------------------------------------------------------------------------------


def frames(folder: Path) -> list[Path]:
    """Write a cube, a packed image, an image without a number, and half an image."""
    units = {
        1: fits.PrimaryHDU(np.ones((3, 40, 50), np.float32)),
        2: fits.CompImageHDU(np.arange(2000, dtype=np.int16).reshape(40, 50)),
        3: fits.PrimaryHDU(np.full((40, 50), np.nan, np.float32)),
        4: fits.PrimaryHDU(np.ones((400, 50), np.float32)),
    }
    paths = [folder / f"EUC_{n}_010119D101010T_ROE1_CCD1.fits" for n in units]
    for path, unit in zip(paths, units.values(), strict=True):
        unit.writeto(path)
    paths[3].write_bytes(paths[3].read_bytes()[:6000])
    return paths


def test_a_damaged_frame_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = frames(tmp_path)
    words = ["show", "-p", str(tmp_path), "-c", "1"]
    png = tmp_path / "mosaic.png"
    assert main([*words, "1", "4", "--png", str(png)]) == 0
    out, err = capsys.readouterr()
    assert "3 frames in" in out
    assert err.strip() == f"warning: {paths[3]} cannot be read as an image"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert main([*words, "4", "--png", str(png)]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_a_picture_never_takes_the_place_of_a_frame(tmp_path: Path) -> None:
    path = frames(tmp_path)[0]
    before = path.read_bytes()
    with pytest.raises(InvalidArgument, match=r"must end in \.png"):
        draw_mosaic([path], path)
    with pytest.raises(StorageError, match=r"cannot write .*: No such file"):
        draw_mosaic([path], tmp_path / "nowhere" / "a.png")
    assert path.read_bytes() == before


def test_a_range_that_nobody_meant_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="at most 1000 are shown"):
        find_frames(tmp_path, 1000, 2_000_000_000, 1, 1)


# --- clear --------------------------------------------------------------------------------------


def results(root: Path, *names: str) -> Path:
    """Make results of a test as calib run leaves them, with folders of these names in it."""
    attempt = root / "D11" / "BIAS01" / "attempt-01"
    (attempt / "products").mkdir(parents=True)
    (attempt / "products" / "bias.fits").write_bytes(bytes(10))
    for folder in (root / "D11", attempt):
        (folder / MARKER).write_text("{}")
    for name in names:
        (attempt / name).mkdir()
        (attempt / name / "frame.npy").write_bytes(bytes(10))
    return attempt


@pytest.mark.parametrize("name", ["ccd pickles", ".hidden", "Zwischenstände", "-x", "_a"])
def test_folders_of_any_name_are_cleared(tmp_path: Path, name: str) -> None:
    attempt = results(tmp_path, name)
    assert main(["clear", "-p", str(tmp_path), f"--name={name}", "--yes"]) == 0
    assert not list(attempt.rglob("*.npy"))
    assert (attempt / "products" / "bias.fits").exists()


@pytest.mark.parametrize("name", ["attempt-01", "BIAS01", "D11", "products"])
def test_results_are_never_cleared(tmp_path: Path, name: str) -> None:
    attempt = results(tmp_path / "all", "intermediate")
    (tmp_path / MARKER).write_text("{}")
    with pytest.raises(Refused, match=r"holds results .*, which are not cleared"):
        find_folders(tmp_path, name)
    with pytest.raises(Refused, match="holds results"):
        clear(attempt)
    assert (attempt / "products" / "bias.fits").exists()


def test_a_run_at_work_is_not_disturbed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = results(tmp_path, "intermediate")
    lock = tmp_path / "D11" / LOCK
    with locked(lock, "run"):
        assert main(["clear", "-p", str(tmp_path), "-k", "intermediate", "--yes"]) == 3
    assert "calib run of" in capsys.readouterr().err
    assert (attempt / "intermediate" / "frame.npy").exists()
    assert main(["clear", "-p", str(tmp_path), "-k", "intermediate", "--yes"]) == 0
    assert not list(attempt.rglob("*.npy"))


def test_trash_within_what_is_cleared_is_refused(tmp_path: Path) -> None:
    attempt = results(tmp_path, "intermediate")
    with pytest.raises(Refused, match="is inside"):
        clear(attempt / "intermediate", attempt / "intermediate" / "trash")
    assert (attempt / "intermediate" / "frame.npy").exists()


# --- init ---------------------------------------------------------------------------------------


def test_a_tree_for_the_big_camera_leads_to_scripts_and_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--detector", "camd-61mpx", "--chamber", "CAMD", "--camptype", "Camera"]
    assert main(["init", "APX", *words, "--date", "2019-04-30", "-q"]) == 0
    assert capsys.readouterr().out == ""
    monkeypatch.chdir(tmp_path / "APX" / "SCRIPTS")
    path = Path("scripts_inputs_APX_APR19_W18.json")
    inputs = json.loads(path.read_text())
    assert set(inputs["equipment"]) == {"sn_roe", "sn_rpsu", "operator", "sn_ccd1"}
    assert main(["scripts", "-j", str(path), "--date", "30Apr19"]) == 2
    assert "equipment.sn_ccd1: ''" in capsys.readouterr().err
    inputs["equipment"]["sn_ccd1"] = "APX-60-12345"
    path.write_text(json.dumps(inputs))
    assert main(["scripts", "-j", str(path), "--date", "30Apr19"]) == 0
    assert main(["sessions", "-j", "sessions_builder_APX_APR19_W18.json"]) == 0
    assert "session: D12" in capsys.readouterr().out
    campaign = json.loads((tmp_path / "APX/ANALYSIS/campaign_APX_APR19.json").read_text())
    assert list(campaign["inCDPs"]["Mask"]) == ["CCD1"]
    assert campaign["camptype"] == "Camera"
    assert [one[0] for one in campaign["test_specifics"]["D11"]["schedule"]] == [
        "COSMETICS00", "FLATFLUX00_800",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"detector": "ccd274"}, ConfigError, "no detector 'ccd274'"),
        ({"chamber": "B_NOSTRMO"}, ConfigError, "did you mean B_NOSTROMO"),
        ({"camptype": "devel"}, ConfigError, "no catalogue of a 'devel' campaign"),
        ({"results_name": "../x"}, InvalidArgument, "must be the name of one folder"),
        ({"serials": {"sn_roe": 'a"b'}}, InvalidArgument, "must fit the pattern"),
        ({"serials": {"sn_ccd4": "14888-88-84"}}, InvalidArgument, "sn_ccd4: ccd273 has 3 CCD"),
    ],
)
def test_what_init_does_not_know_is_refused_and_nothing_made(
    tmp_path: Path, options: dict, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        make_tree(tmp_path, "NOSTROMO", DAY, **options)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_of_a_tree_is_told(tmp_path: Path) -> None:
    (tmp_path / "NOSTROMO").touch()
    with pytest.raises(StorageError, match=r"cannot make .*NOSTROMO: File exists"):
        make_tree(tmp_path, "NOSTROMO", DAY)
    (tmp_path / "LOST").symlink_to("/nonexistent/x")
    with pytest.raises(StorageError, match=r"cannot make .*LOST"):
        make_tree(tmp_path, "LOST", DAY)


# --- masks --------------------------------------------------------------------------------------


def masks(folder: Path, *serials: str) -> Path:
    """Write masks of CCD 1 as COSMETICS00 leaves them."""
    (folder / "products").mkdir(parents=True)
    for serial in serials:
        name = f"EUC_MASK_NOSTROMO_CCD1_SN_{serial}.fits"
        unit = fits.PrimaryHDU(np.zeros((8, 8), np.uint8))
        unit.writeto(folder / "products" / name, checksum=True)
    return folder


def test_names_of_masks_stay_in_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, target = masks(tmp_path / "C", "14888-88-81"), tmp_path / "calproducts"
    words = ["masks", "promote", str(results), str(target)]
    for odd in (["--serial", "1=../../x"], ["--block", "A/B"], ["--block", ""]):
        assert main([*words, *odd]) in (0, 2)
    assert "letters, digits and - only" in capsys.readouterr().err
    assert {path.name for path in tmp_path.rglob("*.fits")} == {
        "EUC_MASK_NOSTROMO_CCD1_SN_14888-88-81.fits"
    }
    two = masks(tmp_path / "two", "14888-88-81", "14888-88-82")
    assert main(["masks", "promote", str(two), str(target), "--serial", "1=14888-88-83"]) == 2
    assert "two of the masks would be" in capsys.readouterr().err
    (target / "masks" / "promoted.json").write_text("{broken")
    assert main([*words, "--block", "OTHER"]) == 2
    assert "promoted.json" in capsys.readouterr().err


def test_masks_that_cannot_be_written_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = masks(tmp_path / "C", "14888-88-81")
    (tmp_path / "calproducts").touch()
    assert main(["masks", "promote", str(results), str(tmp_path / "calproducts")]) in (1, 2)
    assert capsys.readouterr().err.startswith("error: ")
