# SPDX-License-Identifier: BSD-3-Clause
"""``calib scripts``: the practical case of the cookbook, and everything that is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from nightjar import __version__
from nightjar.calibration.coordinates import is_silicon
from nightjar.calibration.detector import load_detector
from nightjar.calibration.script import KEYS
from nightjar.calibration.script_book import read_script
from nightjar.errors import Refused, StorageError
from nightjard.calib.command import main
from nightjard.calib.staging import publish
from nightjard.camd.drivers.options import SimulatedOptions
from nightjard.camd.drivers.sensor import Geometry

INPUTS = {
    "equipment": {
        "sn_roe": "FM15", "sn_rpsu": "FM15", "operator": "unk", "sn_ccd1": "14888-88-81",
        "sn_ccd2": "14888-88-82", "sn_ccd3": "14888-88-83",
    },
    "elvis": "7.5.X", "CHAMBER": "B_NOSTROMO", "camptype": "Full",
    "outpath": "Scripts_NOSTROMO_APR19_W18",
    "toWrite": {
        "CHINJ02": 1, "BIAS01": 1, "TP01": 1, "BIAS02": 1, "CHINJ01": 1, "FOCUS00": 1, "DARK01": 0,
    },
}  # fmt: skip
DATE = "2019-04-01T12:56:31"
TESTS = ["CHINJ02", "BIAS01", "TP01", "BIAS02", "CHINJ01"] + [
    f"FOCUS00_{wave}" for wave in (590, 730, 800, 880)
]
#: As the cookbook prints it, but for the version.
INVENTORY = """Scripts written on 01Apr19 12:56:31
checksumf: CHECK_SUMS_01Apr19.txt
vison version: nightjar VERSION

CHINJ02: 26 [42.31 min] cols: ONES26
BIAS01: 1 [15.58 min] cols: [10]
TP01: 50 [120.31 min] cols: ONES50
BIAS02: 1 [15.58 min] cols: [10]
CHINJ01: 36 [58.58 min] cols: ONES36
FOCUS00_590: 9 [15.11 min] cols: [1, 1, 1, 1, 1, 1, 1, 1, 1]
FOCUS00_730: 9 [14.25 min] cols: [1, 1, 1, 1, 1, 1, 1, 1, 1]
FOCUS00_800: 9 [14.22 min] cols: [1, 1, 1, 1, 1, 1, 1, 1, 1]
FOCUS00_880: 9 [14.39 min] cols: [1, 1, 1, 1, 1, 1, 1, 1, 1]

 168 Frames Total

 310.33 Minutes Total
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(**changes) -> str:
    Path("inputs.json").write_text(json.dumps({**INPUTS, **changes}))
    return "inputs.json"


def run(*words: str) -> int:
    return main(["scripts", "-j", *words])


@pytest.fixture(scope="module")
def nostromo(tmp_path_factory) -> Path:
    """The folder of the practical case, for looking only."""
    folder = tmp_path_factory.mktemp("nostromo")
    (folder / "inputs.json").write_text(json.dumps(INPUTS))
    out = folder / INPUTS["outpath"]
    assert main(["scripts", "-j", str(folder / "inputs.json"), "--date", DATE, "--out", str(out)]
                ) == 0  # fmt: skip
    return out


def test_the_practical_case(place, capsys):
    assert run(write(), "--date", DATE) == 0
    console = ["WRITING SCRIPTS...", *(f"{test}..." for test in TESTS)]
    assert capsys.readouterr().out.splitlines() == console
    folder = place / "Scripts_NOSTROMO_APR19_W18"
    books = [f"vis_CalCamp_{test}_01Apr19_v7.5.X.xlsx" for test in TESTS]
    assert {path.name for path in folder.iterdir()} == {
        *books, "CHECK_SUMS_01Apr19.txt", "CHECK_SUMS_01Apr19.sha256",
        "TESTS_INVENTORY_01Apr19.txt", "TESTS_SCHEDULER_01Apr19.xlsx",
    }  # fmt: skip
    expected = INVENTORY.replace("VERSION", __version__)
    for count in (26, 50, 36):
        expected = expected.replace(f"ONES{count}", str([1] * count))
    assert (folder / "TESTS_INVENTORY_01Apr19.txt").read_text() == expected


def test_check_sums_in_the_form_of_the_cookbook_and_of_sha256sum(nostromo):
    folder = nostromo
    lines = (folder / "CHECK_SUMS_01Apr19.txt").read_text().splitlines()
    assert len(lines) == len(TESTS)
    for line in lines:
        name, digest = line[:60].rstrip(), line[61:]
        assert line[60] == "\t"
        assert hashlib.md5((folder / name).read_bytes()).hexdigest() == digest
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "CHECK_SUMS_01Apr19.sha256"], cwd=folder,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.count(": OK") == len(TESTS)


def test_the_table_for_the_scheduler(nostromo):
    book = openpyxl.load_workbook(nostromo / "TESTS_SCHEDULER_01Apr19.xlsx")
    rows = list(book["Tests"].iter_rows(values_only=True))
    assert rows[0] == ("Test", "Ncols", "Nframes", "Duration_min")
    assert rows[3] == ("TP01", 50, 50, "120.31")
    meta = {row[0]: row[1] for row in book["Meta"].iter_rows(min_row=5, values_only=True)}
    assert meta["Nframes"] == 168
    assert meta["Total_duration"] == "310.33"
    assert meta["checksumfile"] == "CHECK_SUMS_01Apr19.txt"


def test_every_script_bears_serials_and_chamber(nostromo):
    for test in TESTS:
        script = read_script(nostromo / f"vis_CalCamp_{test}_01Apr19_v7.5.X.xlsx")
        for column in script.columns:
            for key in ("sn_roe", "sn_ccd3"):
                assert column.values[key] == INPUTS["equipment"][key]
            if test == "FOCUS00_800":
                assert column.values["exptime"] == 1.32


def test_the_same_date_gives_the_same_bytes(place, capsys):
    few = write(toWrite={"BIAS01": 1, "FOCUS00": 1})
    assert run(few, "--date", DATE, "--out", "one/A") == 0
    assert run(few, "--date", DATE, "--out", "two/A") == 0
    names = sorted(path.name for path in (place / "one" / "A").iterdir())
    for name in names:
        one, two = (place / parent / "A" / name for parent in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), name
    capsys.readouterr()
    assert run(write(), "--date", "01Apr19", "--json", "--dry-run") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["frames"], round(told["minutes"], 2)) == (168, 310.33)
    assert told["tests"][0]["file"] == "vis_CalCamp_CHINJ02_01Apr19_v7.5.X.xlsx"
    assert told["written"] is False


def test_a_dry_run_writes_nothing(place, capsys):
    assert run(write(), "--dry-run") == 0
    assert [path.name for path in place.iterdir()] == ["inputs.json"]
    assert "FOCUS00_800: 9 [14.22 min]" in capsys.readouterr().out


def test_repetitions_and_own_values(place):
    toWrite = {"BIAS01": 1, "BIAS01.2": 1}  # noqa: N806 - the name of the key
    path = write(toWrite=toWrite, overrides={"*": {"IDL": 12.5}, "BIAS01": {"OD_*": 26.5}})
    assert run(path, "--date", DATE, "--out", "S") == 0
    again = read_script(place / "S" / "vis_CalCamp_BIAS01.2_01Apr19_v7.5.X.xlsx")
    values = again.columns[0].values
    assert (values["test"], values["IDL"], values["OD_2_B"]) == ("BIAS01.2", 12.5, 26.5)


def test_another_folder_is_never_overwritten(place, capsys):
    assert run(write(toWrite={"BIAS01": 1}), "--date", DATE, "--out", "S") == 0
    before = {path.name: path.read_bytes() for path in (place / "S").iterdir()}
    assert run("inputs.json", "--date", DATE, "--out", "S") == 0  # the same: nothing to do
    assert run("inputs.json", "--date", "02Apr19", "--out", "S") == 3
    assert "is there already" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (place / "S").iterdir()} == before
    assert run("inputs.json", "--date", "02Apr19", "--out", "S", "--replace") == 0
    assert "TESTS_INVENTORY_02Apr19.txt" in {path.name for path in (place / "S").iterdir()}
    kept = {path.name: path.read_bytes() for path in (place / "S.replaced-1").iterdir()}
    assert kept == before


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"toWrite": {"FOCUS01": 1}}, "toWrite.FOCUS01: no such handle in the catalogue Full; "
         "did you mean FOCUS00?"),
        ({"toWrite": {"FOCUS00_800": 1}}, "it comes with the handle FOCUS00"),
        ({"toWrite": {"BIAS01": 2}}, "toWrite.BIAS01: 2: must be less than or equal to 1"),
        ({"toWrite": {"BIAS01": 0}}, "nothing is to be written"),
        ({"toWrite": {"BF01": 1, "BIAS01": 1}}, "toWrite.BF01: has no script of its own, it "
         "analyses the frames of PTC01"),
        ({"CHAMBER": "B_NOSTRMO"}, "CHAMBER: no chamber profile 'B_NOSTRMO'; there are: "
         "B_NOSTROMO, CAMD; did you mean B_NOSTROMO?"),
        ({"camptype": "Fll"}, "camptype: no catalogue of a 'Fll' campaign"),
        ({"elvis": "7.6.X"}, "elvis: '7.6.X': must be one of 6.5.X, 7.2.X, 7.5.X"),
        ({"detector": "ccd274"}, "detector: no detector 'ccd274'"),
        ({"camtype": "Full"}, "camtype: unknown key; known are: CHAMBER, camptype"),
        ({"equipment": {**INPUTS["equipment"], "sn_ccd1": "14XXX-XX-XX"}},
         "equipment.sn_ccd1: '14XXX-XX-XX': must be a serial number like 14123-12-12"),
        ({"equipment": {**INPUTS["equipment"], "sn_roe": "FMNN"}},
         "equipment.sn_roe: 'FMNN': must be a serial number like FM12"),
        ({"equipment": {**INPUTS["equipment"], "sn_ccd4": "x"}}, "equipment.sn_ccd4: unknown key"),
        ({"detector": "camd-61mpx"}, "equipment.sn_ccd2: '14888-88-82': camd-61mpx has 1 CCD"),
        ({"overrides": {"BIAS01": {"OD_1_T": 31}}},
         "overrides.BIAS01.OD_1_T: 31: out of the safe range; must be a number -0.3..30 V"),
        ({"overrides": {"BIAS01": {"OD_1_X": 26}}}, "unknown key 'OD_1_X'; did you mean OD_1_"),
        ({"overrides": {"FOCUS00": {"exptime": 120}}}, "is calibrated for 0..100 s"),
        ({"overrides": {"FOCUS": {}}}, "overrides.FOCUS: did you mean FOCUS00?"),
        ({"outpath": ""}, "outpath"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_located_and_nothing_is_written(place, capsys, changes, what):
    assert run(write(**changes), "--date", DATE) == 2
    error = capsys.readouterr().err
    assert what in error
    assert "inputs.json: " in error
    assert [path.name for path in place.iterdir()] == ["inputs.json"]


def test_all_faults_are_told_at_once(capsys):
    path = write(CHAMBER="X", elvis="1", toWrite={"BAIS01": 1, "FOCUS0": 1})
    assert run(path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[-2] for line in lines if "elvis" in line]
    assert sum("inputs.json: " in line for line in lines) == 4


def test_comments_are_no_json(place, capsys):
    text = json.dumps(INPUTS, indent=1).replace('"elvis"', '# elvis version\n "elvis"')
    (place / "inputs.json").write_text(text)
    assert run("inputs.json") == 2
    assert "JSON has no comments" in capsys.readouterr().err


def test_dates_that_cannot_be_meant(capsys):
    for date, what in (("31Feb19", "day is out of range"), ("2019-13-01", "--date 2019-13-01"),
                       ("yesterday", "such as 01Apr19"), ("2018-01-01", "no profile is valid")):
        assert run(write(), "--date", date) == 2
        assert what in capsys.readouterr().err


def test_the_profile_of_the_date_is_taken(place, monkeypatch):
    monkeypatch.setenv("CALIB_CONFIG_ROOT", str(place / "etc"))
    folder = place / "etc" / "chambers" / "B_NOSTROMO"
    folder.mkdir(parents=True)
    from nightjar.calibration.chamber import load_profile

    content = load_profile("B_NOSTROMO", version=1).model_dump(mode="json")
    content.update(version=2, valid_from="2019-05-01T00:00:00Z")
    content["mirror_nom"]["F4"] = 47.5
    (folder / "0002.json").write_text(json.dumps(content))
    write(toWrite={"FOCUS00": 1})
    for date, stamp, focus in (("30Apr19", "30Apr19", 47.2), ("01May19", "01May19", 47.5)):
        assert run("inputs.json", "--date", date, "--out", date) == 0
        script = read_script(place / date / f"vis_CalCamp_FOCUS00_800_{stamp}_v7.5.X.xlsx")
        assert script.columns[4].values["mirr_pos"] == focus


def test_the_big_camera_has_scripts_too(place):
    """One CCD, its own number of rows, serial numbers, light and limits."""
    equipment = {"sn_roe": "", "sn_rpsu": "", "sn_ccd1": "12345"}
    wanted = {"BIAS01": 1, "FLATFLUX00": 1, "PTC01": 1}
    path = write(
        equipment=equipment, detector="camd-61mpx", camptype="Camera", CHAMBER="CAMD",
        toWrite=wanted,
    )  # fmt: skip
    assert run(path, "--date", DATE, "--out", "S") == 0
    script = read_script(place / "S" / "vis_CalCamp_PTC01_01Apr19_v7.5.X.xlsx")
    assert {column.values["vend"] for column in script.columns} == {6422}
    assert script.columns[4].values["exptime"] == 2.81
    assert set(script.columns[0].values) == set(KEYS) - {"frames"}


def test_the_big_camera_is_described_as_its_driver_reads_it_out():
    detector = load_detector("camd-61mpx")
    options = SimulatedOptions()
    geometry = Geometry.of(options)
    assert detector.frame_shape == (geometry.readout.height, geometry.readout.width)
    lit = is_silicon(detector, *np.meshgrid([0, 21, 23, 24, 9599], [0, 6387, 6388, 6421]))
    expected = [
        [geometry.image.x1 <= x + 1 <= geometry.image.x2
         and geometry.image.y1 <= y + 1 <= geometry.image.y2 for x in (0, 21, 23, 24, 9599)]
        for y in (0, 6387, 6388, 6421)
    ]  # fmt: skip
    assert lit.tolist() == expected
    dark = detector.columns_of("prescan", is_trimmed=True)
    assert geometry.dark.x1 - 1 <= dark.start < dark.stop <= geometry.dark.x2
    gain = options.e_per_adu * 10 ** (-options.gain_default / options.gain_decade)
    assert detector.gain_e_adu == pytest.approx(gain, abs=1e-4)


# --- staging ---


def test_a_folder_that_cannot_be_written_leaves_nothing(place):
    blocker = place / "file"
    blocker.write_text("x")
    with pytest.raises(Refused, match="file is not a folder"):
        publish(blocker / "inner", {"a": b"1"})
    with pytest.raises(Refused, match="is not a folder"):
        publish(blocker, {"a": b"1"}, replace=True)
    assert blocker.read_text() == "x"
    assert sorted(path.name for path in place.iterdir()) == ["file"]


def test_a_failure_between_files_leaves_the_old_folder(place):
    publish(place / "S", {"a": b"old"})
    broken = {"a": b"new", "x" * 300: b"a name that no file system takes"}
    with pytest.raises(StorageError, match="cannot write"):
        publish(place / "S", broken, replace=True)
    assert (place / "S" / "a").read_bytes() == b"old"
    assert [path.name for path in place.iterdir()] == ["S"]


def test_the_place_of_a_link_is_kept(place):
    (place / "disk").mkdir()
    (place / "S").symlink_to("disk/S")
    publish(place / "S", {"a/b": b"1"})
    assert (place / "disk" / "S" / "a" / "b").read_bytes() == b"1"
    assert (place / "S").is_symlink()


def test_a_folder_of_other_things_is_never_moved_aside(place, capsys):
    write(outpath=".", toWrite={"BIAS01": 1})
    assert run("inputs.json", "--replace") == 3
    assert "holds what does not belong there: inputs.json" in capsys.readouterr().err
    assert [path.name for path in place.iterdir()] == ["inputs.json"]


@pytest.mark.parametrize(
    ("key", "name"),
    [("camptype", "../catalogue/Full"), ("camptype", "x" * 300), ("CHAMBER", "x" * 300),
     ("CHAMBER", "../chambers/B_NOSTROMO"), ("detector", "y" * 300), ("outpath", "z" * 300),
     ("outpath", "a\0b"), ("outpath", "a\x01b"), ("outpath", "\ud800")],
)  # fmt: skip
def test_names_that_no_file_has_are_told(place, capsys, key, name):
    assert run(write(**{key: name}), "--date", DATE) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert [path.name for path in place.iterdir()] == ["inputs.json"]


def test_names_of_any_language_are_taken(place):
    assert run(write(outpath="Üb ñ 漢", toWrite={"BIAS01": 1}), "--date", DATE) == 0
    assert (place / "Üb ñ 漢" / "TESTS_INVENTORY_01Apr19.txt").is_file()


def test_a_fault_is_told_once_and_quiet_is_quiet(capsys):
    path = write(equipment={**INPUTS["equipment"], "operator": "a\tb"},
                 overrides={"*": {"exptim": 3}})  # fmt: skip
    assert run(path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "equipment.operator: 'a\\tb': must be a text of one line" in lines[0]
    assert "overrides.*.exptim: unknown key 'exptim'; did you mean exptime?" in lines[1]
    assert run(write(toWrite={"BIAS01": 1}), "--date", DATE, "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert run("inputs.json", "--date", DATE) == 0
    assert "holds just this already; nothing was written" in capsys.readouterr().out


def test_a_campaign_of_unknown_kind_is_refused(capsys):
    assert run(write(camptype="devel")) == 2
    assert "camptype: no catalogue of a 'devel' campaign; there are: AsBuilt, Camera, Full" in (
        capsys.readouterr().err
    )
