# SPDX-License-Identifier: BSD-3-Clause
"""What a person types wrong, or leaves half done: each is told, with the place and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.calib_engine import FIRST, Site, tiny_detector
from nightjar.calibration.catalogue import load_catalogue, meant
from nightjard.calib.command import main
from nightjard.calib.drawing import draw_here
from nightjard.calib.plotting import curves, trend

EQUIPMENT = {
    "sn_roe": "FM15", "sn_rpsu": "FM15", "operator": "unk", "sn_ccd1": "14888-88-81",
    "sn_ccd2": "14888-88-82", "sn_ccd3": "14888-88-83",
}  # fmt: skip


def typed(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(one) for one in words])
    out, error = capsys.readouterr()
    return code, out, error


def inputs(folder: Path, **changes: Any) -> Path:
    path = folder / "inputs.json"
    value = {
        "equipment": EQUIPMENT, "elvis": "7.5.X", "CHAMBER": "B_NOSTROMO", "camptype": "Full",
        "detector": "ccd273-8th", "outpath": str(folder / "Scripts"), "toWrite": {"BIAS01": 1},
    }  # fmt: skip
    path.write_text(json.dumps(value | changes))
    return path


# --- scripts, sessions --------------------------------------------------------------------------


def test_a_dry_run_tells_that_the_folder_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scripts", "-j", str(inputs(tmp_path)), "--date", "01Apr19"]) == 0
    builder = tmp_path / "b.json"
    about = {"inpath": str(tmp_path / "Scripts"), "outpath": str(tmp_path / "Sessions")}
    builder.write_text(json.dumps({**about, "sessions": {"D11": ["BIAS01"]}}))
    assert main(["sessions", "-j", str(builder)]) == 0
    builder.write_text(json.dumps({**about, "sessions": {"D11": ["BIAS01", "BIAS01"]}}))
    other = inputs(tmp_path, toWrite={"BIAS02": 1})
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    for words in (("scripts", "-j", other, "--date", "01Apr19"), ("sessions", "-j", builder)):
        code, out, error = typed(capsys, *words, "--dry-run")
        assert (code, bool(out)) == (0, True)
        assert "warning: would be refused: " in error
        assert "--replace" in error
        assert "would be refused" not in typed(capsys, *words, "--dry-run", "--replace")[2]
    assert sorted(tmp_path.rglob("*")) == before


def test_one_serial_is_not_that_of_two_detectors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = inputs(tmp_path, equipment=EQUIPMENT | {"sn_ccd3": "14888-88-81"})
    code, _, error = typed(capsys, "scripts", "-j", path, "--dry-run")
    assert code == 2
    assert "equipment.sn_ccd3: '14888-88-81' is the serial of sn_ccd1, too" in error
    twice = [word for _ in range(2) for word in ("--ccd", "14888-88-81")]
    code, _, error = typed(capsys, "init", "BLOCK", "-p", tmp_path, *twice)
    assert code == 2
    assert "'14888-88-81' is given as serial of sn_ccd1 and sn_ccd2" in error
    assert not (tmp_path / "BLOCK").exists()


def test_faults_of_a_builder_name_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scripts", "-j", str(inputs(tmp_path)), "--date", "01Apr19"]) == 0
    capsys.readouterr()
    builder = tmp_path / "b.json"
    about = {"inpath": str(tmp_path / "Scripts"), "outpath": str(tmp_path / "Sessions"),
             "sessions": {"D11": ["BIAS01"]}}  # fmt: skip
    for key, what in (("inpath", "is not a folder"), ("detector", "no detector 'nowhere'")):
        builder.write_text(json.dumps({**about, key: "nowhere"}))
        code, _, error = typed(capsys, "sessions", "-j", builder)
        assert code == 2
        assert f"{builder}: {key}: " in error
        assert what in error


def test_a_day_that_is_none_names_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("scripts", "-j", inputs(tmp_path)), ("init", "BLOCK", "-p", tmp_path)):
        for day in ("31Feb19", "2019", "tomorrow", "2019-02-30"):
            code, _, error = typed(capsys, *words, "--date", day)
            assert (code, error.startswith("error: --date")) == (2, True), error
            assert day in error
    assert typed(capsys, "init", "BLOCK", "-p", tmp_path, "--date", "01Apr19", "-q")[0] == 0
    assert (tmp_path / "BLOCK" / "ANALYSIS" / "campaign_BLOCK_APR19.json").is_file()


# --- init ---------------------------------------------------------------------------------------


def test_a_serial_that_comes_too_late_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("init", "BLOCK", "-p", tmp_path, "--date", "2019-04-01")
    assert typed(capsys, *words, "--rpsu", "FM15")[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    code, out, error = typed(capsys, *words, "--roe", "FM16", "--rpsu", "FM15")
    assert (code, "new" in out) == (0, False)
    warned = error.splitlines()
    assert len(warned) == 2  # in the inputs of the scripts, in the campaign file
    assert all("says sn_roe 'FMNN', not 'FM16': edit it" in line for line in warned)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert not typed(capsys, *words, "--rpsu", "FM15")[2]


def test_no_half_tree_where_the_data_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    words = ("init", "BLOCK", "-p", tmp_path, "--data", tmp_path / "file" / "x")
    code, _, error = typed(capsys, *words)
    assert code == 1
    assert "cannot make" in error
    assert not (tmp_path / "BLOCK").exists()


def test_a_description_of_ones_own_is_found_from_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    tiny_detector(tmp_path / "own", ccds=1)
    monkeypatch.chdir(tmp_path / "own")
    words = ("init", "BLOCK", "-p", "..", "--detector", "tiny.json", "--chamber", "CAMD")
    serials = ("--camptype", "Camera", "--ccd", "A-1")
    assert typed(capsys, *words, *serials)[0] == 0
    monkeypatch.chdir(tmp_path / "BLOCK" / "SCRIPTS")
    (path,) = Path().glob("scripts_inputs_*.json")
    code, _, error = typed(capsys, "scripts", "-j", path, "--dry-run")
    assert code == 0, error


# --- run ----------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.acquire("BIAS01")
    site.write_campaign(tests=[["BIAS01"]])
    return site


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"waived_keys": ["mirror_pos"]}, "waived_keys: the log has no column 'mirror_pos'; did"),
        ({"inCDPs": {"Mask": {"CCD3": "x.fits"}}}, "inCDPs.Mask.CCD3: "),
        ({"inCDPs": {"FF": {"nm800": {"CCD9": "x.fits"}}}}, "inCDPs.FF.nm800.CCD9: "),
        ({"waivers": [{"flag": "HK_OOL", "test": "BIAS", "reason": "x", "expires": "2030-01-01"}]},
         "waivers.0.test: "),
    ],
)  # fmt: skip
def test_what_a_campaign_file_names_must_exist(
    site: Site, capsys: pytest.CaptureFixture[str], change: dict[str, Any], what: str
) -> None:
    path = site.write_campaign(tests=[["BIAS01"]], **change)
    code, _, error = typed(capsys, "run", path, "-R", "D11", "--dry-run")
    assert code == 2, error
    assert f"{path}: {what}" in error


def test_a_file_where_results_are_to_go_is_told_as_that(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (site.root / "file").write_text("mine")
    path = site.write_campaign(tests=[["BIAS01"]], resroot="file")
    code, _, error = typed(capsys, "run", path, "-R", "D11", "-m", 1)
    assert code == 1
    assert "file is no folder; move it aside" in error
    assert (site.root / "file").read_text() == "mine"


def test_a_first_obsid_after_the_last_is_told_as_that(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("run", site.path, "-R", "D11", "-T", "-m", 1, "-O", FIRST + 50)
    code, out, _ = typed(capsys, *words)
    assert code == 1
    assert f"no row of BIAS01 from OBSID {FIRST + 50} on in the log of" in out
    assert f"which has it with OBSIDs {FIRST} to {FIRST + 2}" in out


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_numbers_that_are_none(site: Site, capsys: pytest.CaptureFixture[str], value: str) -> None:
    given = (
        ("run", site.path, "-R", "D11", "-W", "--sleep", value),
        ("run", site.path, "-R", "D11", "-W", "--give-up", value),
        ("simulate", "BIAS01", "-o", site.root / "more", "--speed", value),
    )
    for words in given:
        code, _, error = typed(capsys, *words)
        assert code == 2
        assert f"invalid value for '{words[-2]}'" in error
    assert not (site.root / "more").exists()


def test_what_looks_alike_is_meant() -> None:
    handles = load_catalogue("Full").handles
    for typo, name in (("TPO1", "TP01"), ("BIASO2", "BIAS02"), ("FOCUSOO", "FOCUS00"),
                       ("CHINJO1", "CHINJ01"), ("nl02", "NL02")):  # fmt: skip
        assert meant(typo, handles) == f"did you mean {name}?"


def test_what_looks_alike_is_meant_in_a_campaign_file(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    path = site.write_campaign(camptype="Full", tasks2execute={"D11": ["TPO1"]})
    code, _, error = typed(capsys, "run", path, "-R", "D11", "--dry-run")
    assert (code, "did you mean TP01" in error) == (2, True), error


# --- small tools --------------------------------------------------------------------------------


def test_a_serial_of_a_ccd_without_a_mask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    products = tmp_path / "products"
    products.mkdir()
    path = products / "EUC_MASK_BLOCK_CCD1_SN_14888-88-81.fits"
    fits.PrimaryHDU(np.ones((4, 4), np.uint8)).writeto(path, checksum=True)
    words = ("masks", "promote", products, tmp_path / "cal", "--serial", "2=14888-88-82")
    code, _, error = typed(capsys, *words)
    assert code == 2
    assert "there is no mask of CCD2 to be copied; there are those of CCD1" in error
    assert not (tmp_path / "cal").exists()


def test_missing_frames_are_told_as_stretches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for obsid in (3, 5):
        fits.PrimaryHDU(np.ones((8, 8), np.uint8)).writeto(
            tmp_path / f"EUC_{obsid}_010119D101010T_ROE1_CCD1.fits"
        )
    words = ("show", "-p", tmp_path, "-c", 1, 1, 900, "--png", tmp_path / "a.png")
    code, out, _ = typed(capsys, *words)
    assert code == 0
    assert out.splitlines()[:3] == [
        "OBSID 1 to 2: not found", "OBSID 4: not found", "OBSID 6 to 900: not found",
    ]  # fmt: skip


# --- pictures -----------------------------------------------------------------------------------


def test_the_label_of_the_ordinate_is_beside_the_figures(site: Site, tmp_path: Path) -> None:
    points = {
        (ccd, quadrant): {"x": np.arange(5.0), "y": 12940.25 + 0.25 * np.arange(5)}
        for ccd in (1, 2)
        for quadrant in site.detector.names
    }
    figure = trend(site.detector, points, "x", {"y": "y"}, y_label="Offset / ADU")
    draw_here(figure, tmp_path / "a.png")
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    label = next(one for one in figure.texts if one.get_text() == "Offset / ADU")
    right = label.get_window_extent(renderer).x1
    ticks = [text for axes in figure.axes for text in axes.get_yticklabels() if text.get_text()]
    left = [text.get_window_extent(renderer).x0 for text in ticks]
    assert 0 < right < min(left)


def test_a_quadrant_without_data_says_so(site: Site) -> None:
    values = np.arange(5.0)
    seen = {(1, "E"): [(values, values, "level")], (2, "H"): []}
    for figure in (
        curves(site.detector, seen),
        trend(site.detector, {(1, "E"): {"x": values, "y": values}}, "x", {"y": "y"}),
    ):
        told = {
            axes.get_title(): [text.get_text() for text in axes.texts] for axes in figure.axes
        }
        assert told.pop("CCD1 E") == []
        assert len(told) >= 3
        assert all(texts == ["not measured"] for texts in told.values())
