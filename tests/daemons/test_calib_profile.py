# SPDX-License-Identifier: BSD-3-Clause
"""``calib profile``: from measurements to a proposal, from a proposal to a version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nightjar.calibration.chamber import load_profile
from nightjar.files import shipped_folder
from nightjard.calib.command import main
from nightjard.calib.engine.record import write_results
from nightjard.calib.results import Results

SHIPPED = shipped_folder("etc") / "calib" / "chambers" / "B_NOSTROMO"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALIB_CONFIG_ROOT", str(tmp_path / "own"))
    return tmp_path


def results(folder: str, test: str, *values: tuple, **about) -> Path:
    """Write results as an analysis leaves them: name, value, error, and where."""
    found = Results(Path(folder), test, "meta")
    for name, value, error, where in values:
        found.value(name, value, error=error, unit="", **where)
    empty = ("tables", "images", "figures", "documents", "compliances")
    merged = {"values": found.values, **{kind: [] for kind in empty}}
    Path(folder).mkdir(parents=True)
    write_results(
        Path(folder),
        {"test": test, "handle": test.split("_")[0], "chamber": "B_NOSTROMO", "is_drill": False}
        | about,
        [], [], merged,
    )  # fmt: skip
    return Path(folder)


def focus(value=47.2134, error=0.004, folder="R/D11/FOCUS00_800", **about) -> Path:
    return results(
        folder, "FOCUS00_800",
        ("best_focus", value, error, {"wave": 800}),
        ("focus", 47.9, error, {"wave": 800, "ccd": 1}),
        ("saturation_time", 2.5, 0.05, {"wave": 800, "source": "point"}), **about,
    )  # fmt: skip


def propose(*words: str, at: str = "R/D11") -> int:
    return main(["profile", "propose", "--from", at, "-c", "B_NOSTROMO", *words])


def accept(*words: str, file: str = "B_NOSTROMO-version-2.json") -> int:
    return main(["profile", "accept", file, "--reason", "focus of D11", *words])


def patch(path: str = "B_NOSTROMO-version-2.json") -> dict[str, tuple[float, float]]:
    content = json.loads(Path(path).read_text())
    return {one["path"]: (one["old"], one["value"]) for one in content["patch"]}


def test_from_results_to_a_new_version(place, capsys):
    before = {path.name: path.read_bytes() for path in SHIPPED.iterdir()}
    focus()
    results("R/D11/FLATFLUX00_800/attempt-01", "FLATFLUX00_800",
            ("saturation_time", 3.78, 0.02, {"wave": 800, "source": "flat"}),
            ("saturation_time", 9.0, 0.02, {"wave": 800, "ccd": 1, "quadrant": "E"}))  # fmt: skip
    (place / "R/D11/FLATFLUX00_800/current").symlink_to("attempt-01")
    results("R/D11/PSFLUX00_800", "PSFLUX00_800",
            ("saturation_time", 2.31, 0.02, {"wave": 800, "source": "point"}))  # fmt: skip
    results("R/D11/BIAS01", "BIAS01", ("ron", 1.1, 0.01, {"ccd": 1}))
    assert propose() == 0
    shown = capsys.readouterr().out
    assert "mirror_nom.F4: 47.2 -> 47.213 +- 0.004 mm, +0.013 mm, from FOCUS00_800" in shown
    assert "tFWC_flat.nm800: 3.5 -> 3.78 +- 0.02 s, +0.28 s (+8.0 %)" in shown
    # the star's time is from the test that is made for it, not from that of the focus
    assert patch() == {
        "/mirror_nom/F4": (47.2, 47.213), "/tFWC_flat/nm800": (3.5, 3.78),
        "/tFWC_point/nm800": (2.2, 2.31),
    }  # fmt: skip
    assert load_profile("B_NOSTROMO").version == 1  # nothing has changed yet
    assert accept("--author", "custodian") == 0
    profile = load_profile("B_NOSTROMO")
    assert (profile.version, profile.mirror_mm(800), profile.mirror_mm(590)) == (2, 47.213, 47.2)
    assert profile.saturation_s("point", 800) == 2.31
    assert (profile.author, profile.reason) == ("custodian", "focus of D11")
    assert any("FOCUS00_800 best_focus 47.2134" in line for line in profile.evidence)
    assert (place / "own/chambers/B_NOSTROMO/0002.json").is_file()
    assert {path.name: path.read_bytes() for path in SHIPPED.iterdir()} == before
    assert load_profile("B_NOSTROMO", version=1).mirror_mm(800) == 47.2
    capsys.readouterr()
    assert main(["profile", "history", "B_NOSTROMO"]) == 0
    told = capsys.readouterr().out
    assert "custodian: focus of D11" in told
    assert "mirror_nom.F4: 47.2 -> 47.213" in told


def test_the_proposal_is_a_json_patch(place):
    """RFC 6902: applied to the old version it gives the new values."""
    focus()
    assert propose() == 0
    content = load_profile("B_NOSTROMO").model_dump(mode="json")
    for step in json.loads(Path("B_NOSTROMO-version-2.json").read_text())["patch"]:
        assert step["op"] == "replace"
        table, key = step["path"].strip("/").split("/")
        assert content[table][key] == step["old"]
        content[table][key] = step["value"]
        (evidence,) = step["evidence"]
        assert Path(evidence["results"]).is_file()
        assert len(evidence["sha256"]) == 64
    assert accept() == 0
    new = load_profile("B_NOSTROMO").model_dump(mode="json")
    assert {key: new[key] for key in ("mirror_nom", "tFWC_point", "tFWC_flat")} == {
        key: content[key] for key in ("mirror_nom", "tFWC_point", "tFWC_flat")
    }


def test_what_is_the_same_within_its_error_is_left(capsys):
    focus(value=47.205, error=0.004)
    assert propose("--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [step["path"] for step in told["patch"]] == ["/tFWC_point/nm800"]
    assert told["unchanged"][0].startswith("mirror_nom.F4: 47.2 -> 47.205")
    assert not Path("B_NOSTROMO-version-2.json").exists()


def test_filters_that_were_not_measured_may_be_shifted_along():
    focus()
    results("R/D11/FOCUS00_590", "FOCUS00_590", ("best_focus", 47.2, 0.01, {"wave": 590}))
    assert propose("--shift-all") == 0
    changes = patch()
    assert {path for path in changes if path.startswith("/mirror_nom")} == {
        f"/mirror_nom/F{slot}" for slot in (2, 3, 4, 5, 6)  # F1 was found to be right
    }
    assert changes["/mirror_nom/F6"] == (47.2, 47.213)


def test_measurements_of_one_thing_are_weighted(capsys):
    focus(value=47.25, error=0.01)
    focus(value=47.21, error=0.005, folder="R/D12/FOCUS00_800")
    assert main(["profile", "propose", "--from", "R/D11", "R/D12", "-c", "B_NOSTROMO"]) == 0
    assert patch()["/mirror_nom/F4"] == (47.2, 47.218)  # (47.25 + 4 * 47.21) / 5
    focus(value=47.4, error=0.001, folder="R/D13/FOCUS00_800")
    capsys.readouterr()
    assert main(["profile", "propose", "--from", "R/D11", "R/D13", "-c", "B_NOSTROMO",
                 "--dry-run"]) == 0  # fmt: skip
    assert "mirror_nom/F4: the measurements differ by" in capsys.readouterr().err


def test_large_changes_are_accepted_on_demand_only(capsys):
    results("R/D11/FLATFLUX00_800", "FLATFLUX00_800",
            ("saturation_time", 7.0, 0.02, {"wave": 800, "source": "flat"}))  # fmt: skip
    assert propose() == 0
    assert "tFWC_flat/nm800: a large change; is it true?" in capsys.readouterr().err
    assert accept() == 3
    assert "accept it with --large" in capsys.readouterr().err
    assert load_profile("B_NOSTROMO").version == 1
    assert accept("--large") == 0
    assert load_profile("B_NOSTROMO").saturation_s("flat", 800) == 7.0


def test_a_proposal_is_taken_once_and_only_onto_what_it_was_made_for(capsys):
    focus()
    assert propose() == 0
    assert propose("--out", "other.json") == 0
    assert propose("--out", "other.json") == 3
    assert "is there already; name another file" in capsys.readouterr().err
    assert accept() == 0
    assert accept(file="other.json") == 3
    assert "in force is version 2; propose it again" in capsys.readouterr().err


def test_a_folder_of_a_test_counts_once_however_often_it_was_analysed(place, capsys):
    folder = focus(error=0.004)
    for attempt in ("attempt-01", "attempt-02"):
        focus(error=0.004, folder=folder / attempt)
    (folder / "current").symlink_to("attempt-02")
    assert propose("--dry-run", at=str(folder)) == 0
    assert "mirror_nom.F4: 47.2 -> 47.213 +- 0.004 mm" in capsys.readouterr().out


def test_nothing_to_change_is_told_and_no_file_written(place, capsys):
    results("R/D11/PSFLUX00_800", "PSFLUX00_800",
            ("saturation_time", 2.21, 0.02, {"wave": 800, "source": "point"}))  # fmt: skip
    assert propose() == 0
    assert "nothing to change in version 1 of B_NOSTROMO" in capsys.readouterr().out
    assert not list(place.glob("*.json"))
    assert propose("--json") == 0
    assert json.loads(capsys.readouterr().out)["file"] is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda step: step.update(value=47.9), "value, old and difference do not fit"),
        (lambda step: step.update(old=47.1, difference=0.113), "was 47.1, the profile says 47.2"),
        (lambda step: step.update(path="/author"), "patch.0.path: \"/author\": must match pattern"),
        (lambda step: step.update(op="remove"), "patch.0.op"),
        (lambda step: step.update(evidence=[]), "patch.0.evidence"),
    ],
)  # fmt: skip
def test_a_proposal_that_was_tampered_with_is_refused(capsys, change, what):
    focus()
    assert propose() == 0
    path = Path("B_NOSTROMO-version-2.json")
    content = json.loads(path.read_text())
    change(content["patch"][0])
    path.write_text(json.dumps(content))
    assert accept() in (2, 3)
    assert what in capsys.readouterr().err
    assert load_profile("B_NOSTROMO").version == 1


def test_part_of_a_proposal_can_be_taken():
    focus()
    assert propose() == 0
    path = Path("B_NOSTROMO-version-2.json")
    content = json.loads(path.read_text())
    content["patch"] = [step for step in content["patch"] if "mirror" in step["path"]]
    path.write_text(json.dumps(content))
    assert accept("--valid-from", "2026-01-01T00:00:00") == 0
    profile = load_profile("B_NOSTROMO")
    assert (profile.mirror_mm(800), profile.saturation_s("point", 800)) == (47.213, 2.2)


def test_a_version_cannot_hold_before_its_predecessor(capsys):
    focus()
    assert propose() == 0
    assert accept("--valid-from", "2018-01-01") == 3
    assert "holds from 2019-03-01" in capsys.readouterr().err
    assert accept("--valid-from", "soon") == 2


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Path("R/D11/x").mkdir(parents=True), "has no results.json"),
        (lambda: results("R/D11/BIAS01", "BIAS01", ("ron", 1.0, 0.1, {})), "none of these results"),
        (lambda: focus(is_drill=True), "none of these results"),
        (lambda: focus(value=None), None),
        (lambda: results("R/D11/F", "FOCUS00_640", ("best_focus", 47.0, 0.1, {"wave": 640})),
         "has no filter of 640 nm"),
        (lambda: (Path("R/D11").mkdir(parents=True),
                  Path("R/D11/results.json").write_text("{}")), "no results of a test"),
    ],
)  # fmt: skip
def test_results_that_say_nothing(capsys, make, what):
    make()
    if what is None:  # the other value is still one
        assert propose() == 0
        assert "best_focus is None: left out" in capsys.readouterr().err
        return
    assert propose() == 2
    assert what in capsys.readouterr().err


def test_a_root_that_cannot_be_written(place, capsys):
    focus()
    assert propose() == 0
    (place / "own").write_text("a file")
    assert accept() == 1
    assert "set CALIB_CONFIG_ROOT" in capsys.readouterr().err


def test_looking(capsys):
    assert main(["profile", "list"]) == 0
    assert "B_NOSTROMO           version 1 since 2019-03-01" in capsys.readouterr().out
    assert main(["profile", "show", "B_NOSTROMO"]) == 0
    assert "F4       800" in capsys.readouterr().out
    assert main(["profile", "show", "B_NOSTROMO", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tFWC_flat"]["nm800"] == 3.5
    assert main(["profile", "show", "B_NOSTRO"]) == 2
    assert "did you mean B_NOSTROMO?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "values.0: not a value as calib run writes it"),
        ({"name": "best_focus", "value": 47.3, "where": 5}, "values.0: not a value"),
        ({"name": "best_focus", "value": 47.3, "error": "x", "where": {"wave": 800}}, "values.0"),
        ({"name": "best_focus", "value": True, "where": {"wave": 800}}, "none of these results"),
        ({"name": "best_focus", "value": 47.3, "where": {"wave": "x"}}, "none of these results"),
        ({"name": "best_focus", "value": 47.3, "where": {"wave": 801}}, "no filter of 801 nm"),
    ],
)
def test_results_that_somebody_spoilt_are_told(place, capsys, value, text):
    folder = place / "R" / "D11" / "FOCUS00_800"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"test": "FOCUS00_800", "values": [value]}))
    assert propose("--dry-run") == 2
    assert text in capsys.readouterr().err
