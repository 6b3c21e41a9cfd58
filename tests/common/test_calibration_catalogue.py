# SPDX-License-Identifier: BSD-3-Clause
"""The catalogue: frames and durations as planned on the ground, strict data, expectations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nightjar.calibration.catalogue import catalogue_names, load_catalogue
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import load_detector
from nightjar.calibration.expressions import evaluate, fill
from nightjar.calibration.script import KEYS, SUMMING_WELL
from nightjar.errors import ConfigError, InvalidArgument

BLOCK = load_detector("ccd273")
PROFILE = load_profile("B_NOSTROMO", version=1)
FULL = load_catalogue()

#: The published plan of the training block: columns, frames, minutes.
PLAN = {
    "BIAS01": (1, 10, 15.58), "BIAS02": (1, 10, 15.58), "DARK01": (1, 4, 43.90),
    "COSMETICS00": (2, 10, 15.73), "FOCUS00_590": (9, 9, 15.11), "FOCUS00_730": (9, 9, 14.25),
    "FOCUS00_800": (9, 9, 14.22), "FOCUS00_880": (9, 9, 14.39), "PSFLUX00_590": (4, 4, 6.59),
    "PSFLUX00_730": (4, 4, 6.31), "PSFLUX00_800": (4, 4, 6.30), "PSFLUX00_880": (4, 4, 6.35),
    "PSFLUX00_0": (4, 4, 7.58), "FLATFLUX00_2000": (4, 4, 6.24), "CHINJ01": (36, 36, 58.58),
    "CHINJ02": (26, 26, 42.31), "TP01": (50, 50, 120.31), "TP02": (18, 18, 13.56),
    "NL01": (36, 89, 186.76), "NL02": (44, 109, 178.76), "PTC01": (11, 92, 146.21),
    "PTC02_590": (6, 24, 40.13), "PTC02_730": (6, 24, 38.19), "PTC02_880": (6, 24, 38.99),
    "PTC02_148K": (6, 24, 38.17), "PTC02_158K": (6, 24, 38.17), "PTC02_155R": (6, 24, 38.17),
    "PTC02_160R": (6, 24, 38.17), "PTC02_165R": (6, 24, 38.17), "FLAT01": (3, 170, 269.16),
    "FLAT02_590": (2, 110, 180.21), "FLAT02_730": (2, 110, 173.97),
    "FLAT02_880": (2, 110, 176.52), "FLAT_STB": (1, 15, 23.64), "PSF01_590": (5, 53, 85.86),
    "PSF01_730": (5, 53, 83.28), "PSF01_800": (5, 53, 83.19), "PSF01_880": (5, 53, 83.68),
    "PSF02_148K": (5, 52, 81.63), "PSF02_158K": (5, 52, 81.63), "PERSIST01": (4, 12, 85.20),
    "MOT_WARM": (8, 8, 12.13),
}  # fmt: skip
#: What the generator of the ground campaign made of FLATFLUX00.
AS_BUILT = {
    "FLATFLUX00_590": 6.59, "FLATFLUX00_2000": 6.24, "FLATFLUX00_730": 6.31,
    "FLATFLUX00_800": 6.30, "FLATFLUX00_880": 6.35, "FLATFLUX00_0": 7.58,
}  # fmt: skip


def plan(catalogue, test):
    return catalogue.planned(test, equipment={}, profile=PROFILE, detector=BLOCK)


def script(test):
    return plan(FULL, test).script


def key(test, name):
    return [column.values[name] for column in script(test).columns]


@pytest.mark.parametrize("test", PLAN)
def test_frames_and_minutes_are_those_of_the_plan(test):
    made = script(test)
    assert (len(made.columns), made.frames, f"{made.minutes(BLOCK):.2f}") == (
        *PLAN[test][:2], f"{PLAN[test][2]:.2f}"
    )  # fmt: skip
    assert made.test == test
    assert all(set(column.values) == set(KEYS) - {"frames"} for column in made.columns)


def test_all_tests_of_the_plan_are_in_the_catalogue_and_more():
    assert {*PLAN, *AS_BUILT} <= set(FULL.tests)
    more = {"TP11", "TP21", "NL02_155R", "NL02_160R", "NL02_165R", "BF01", "BF01_590"}
    assert more <= set(FULL.tests)


def test_the_generators_own_flats_can_be_had():
    built = load_catalogue("AsBuilt")
    found = {test: f"{plan(built, test).script.minutes(BLOCK):.2f}" for test in AS_BUILT}
    assert found == {test: f"{minutes:.2f}" for test, minutes in AS_BUILT.items()}
    # the documented ones are shorter or longer than stars of the same wavelength
    assert key("FLATFLUX00_800", "exptime") == pytest.approx([0.175, 0.7, 1.75, 2.8])


def test_the_columns_say_what_the_tests_are_about():
    assert key("FOCUS00_800", "mirr_pos") == [46.4, 46.6, 46.8, 47.0, 47.2, 47.4, 47.6, 47.8, 48.0]
    assert key("FOCUS00_800", "exptime") == [1.32] * 9
    assert key("FOCUS00_800", "comments") == [f"F{j}" for j in range(-4, 5)]
    assert key("FOCUS00_590", "wave") == [1] * 9
    assert key("CHINJ01", "IG1_2_B")[:3] == [2.5, 2.75, 3.0]
    assert key("CHINJ01", "id_dly") == [1250] * 18 + [750] * 18
    assert key("CHINJ02", "IDL")[-1] == 12.5
    assert key("CHINJ02", "IG1_1_T") == [4.0] * 26
    assert key("TP01", "v_tpump") == ([0] + [1] * 24) * 2
    assert key("TP01", "toi_tp")[1:6] == [50, 50, 50, 50, 200]
    assert key("TP11", "IDL") == [10.5] * 50
    assert key("TP02", "vend") == [100] * 18
    assert key("NL02", "wave")[:6] == [5, 5, 6, 5, 6, 5]
    assert key("PTC02_155R", "RD_T") == key("PTC02_155R", "RD_B") == [15.5] * 6
    assert key("PERSIST01", "mirr_pos")[2] == 37.2
    assert key("BIAS02", "rdmode") == ["rwd_bas_v"]
    frames = [column.frames for column in script("PSF01_590").columns]
    assert frames == [20, 15, 10, 4, 4]


def test_the_summing_well_fits_the_read_out_mode():
    for column in script("MOT_WARM").columns:
        values = column.values
        assert (values["swellw"], values["swelldly"]) == SUMMING_WELL[values["rdmode"]]
    assert key("MOT_WARM", "rdmode")[:3] == ["rwd_bas_vs", "rwd_bas_v", "fwd_bas"]


def test_half_rule_of_injection():
    for test in ("CHINJ01", "CHINJ02", "TP01", "TP02"):
        ratios = {c.values["id_dly"] / c.values["toi_ch"] for c in script(test).columns}
        assert ratios == {2.5, 1.5}


def test_all_rows_are_read_of_any_detector():
    small = load_detector("ccd273-8th")
    made = FULL.script("TP01", equipment={}, profile=PROFILE, detector=small)
    assert {(c.values["vend"], c.values["chinj_on"]) for c in made.columns} == {(278, 258)}


def test_names_and_handles():
    assert FULL.handle_of("FOCUS00_800") == "FOCUS00"
    assert FULL.handle_of("PTC02_730") == "PTC02WAVE"
    assert FULL.handle_of("PTC02_165R") == "PTC02RD"
    assert FULL.handle_of("BIAS01.2") == "BIAS01"
    assert FULL.surrogate_of("BF01_730") == "PTC02_730"
    assert FULL.surrogate_of("PTC01") is None
    assert FULL.expand("BF01", equipment={}, profile=PROFILE, detector=BLOCK) == []
    assert script("BF01_730") == script("PTC02_730")
    assert script("BIAS01.2").columns[0].values["test"] == "BIAS01.2"
    with pytest.raises(ConfigError, match="did you mean FOCUS00_800"):
        FULL.handle_of("FOCUS0_800")
    with pytest.raises(ConfigError, match="FOCUS00_590, FOCUS00_730"):
        FULL.handle_of("FOCUS00")
    with pytest.raises(ConfigError, match="did you mean BIAS01"):
        FULL.definition("BAIS01")


def test_values_given_for_all_go_before_the_catalogues():
    made = FULL.script(
        "PTC02_155R", equipment={"sn_roe": "FM15"}, profile=PROFILE, detector=BLOCK,
        overrides={"RD_*": 16.2},
    )  # fmt: skip
    assert {column.values["RD_B"] for column in made.columns} == {16.2}
    assert {column.values["sn_roe"] for column in made.columns} == {"FM15"}
    for overrides, what in (
        ({"OD_1_T": 35}, r"overrides.OD_1_T: 35: out of the safe range; must be .*-0.3\.\.30 V"),
        ({"ODD_*": 26}, "no key is like"), ({"test": "X"}, "the catalogue's to say"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=what):
            FULL.expand(
                "BIAS01", equipment={}, profile=PROFILE, detector=BLOCK, overrides=overrides
            )
    with pytest.raises(InvalidArgument, match=r"equipment.sn_rsu.*did you mean SN_RPSU|sn_rpsu"):
        FULL.expand("BIAS01", equipment={"sn_rsu": "x"}, profile=PROFILE, detector=BLOCK)


def test_what_is_expected_of_columns():
    expected = plan(FULL, "PTC01").expectations
    assert expected["col001"].limits["fluence"][2] == "ADU"
    assert expected["col001"].limits["fluence"][:2] == pytest.approx((2949.12, 3604.48))
    assert expected["col011"].limits["fluence"][:2] == pytest.approx((58982.4, 72089.6))
    assert [one.is_exempt for one in expected.values()] == [False] * 8 + [True] * 3
    assert expected["col003"].variables == {"w": 800, "f": 0.2, "n": 10}
    nl = plan(FULL, "NL02").expectations
    assert sum(one.is_exempt for one in nl.values()) == 3  # 95, 100, 110 %, not their STAB
    focus = plan(FULL, "FOCUS00_880").expectations["col001"].limits
    assert focus["saturation_s"] == (3.2, 4.8, "s")
    chinj = plan(FULL, "CHINJ01").expectations
    assert chinj["col001"].limits["injection"] == (-10, 66191, "ADU")  # IG1 2.5 V: none flows
    level = 1300 + 3300 * (6 - 0.5 - 4)  # col007: IG1 4 V
    assert chinj["col007"].limits["injection"] == (0.5 * level, 1.5 * level, "ADU")
    latent = plan(FULL, "PERSIST01").expectations
    assert "background" not in latent["col003"].limits
    assert latent["col003"].is_exempt


@pytest.mark.parametrize("name", catalogue_names())
@pytest.mark.parametrize("detector", ["ccd273", "ccd273-8th"])
def test_every_test_of_every_shipped_catalogue_can_be_made(name, detector):
    catalogue = load_catalogue(name)
    geometry = load_detector("camd-61mpx" if name == "Camera" else detector)
    for handle in catalogue.handles:
        definition = catalogue.definition(handle)
        planned = catalogue.plan(handle, equipment={}, profile=PROFILE, detector=geometry)
        assert planned or definition.surrogate
        assert definition.subtasks
        for needed in definition.needs:
            catalogue.definition(needed)
        for one in planned:
            assert len(one.expectations) == len(one.script.columns)
            assert all(one.limits for one in one.expectations.values())


# --- strictness ---

BASE = {
    "camptype": "Own", "description": "x",
    "tests": {"T1": {"description": "x", "columns": [{"values": {"exptime": "2*f"},
                                                      "each": {"f": [1, 2]}}]}},
}  # fmt: skip


def own(tmp_path: Path, **test) -> Path:
    content = json.loads(json.dumps(BASE))
    if "values" in test:
        del content["tests"]["T1"]["columns"][0]["values"]
    content["tests"]["T1"].update(test)
    path = tmp_path / "Own.json"
    path.write_text(json.dumps(content))
    return path


def expand(path: Path):
    return load_catalogue(path).expand("T1", equipment={}, profile=PROFILE, detector=BLOCK)


def test_an_own_catalogue(tmp_path):
    (made,) = expand(own(tmp_path))
    assert [column.values["exptime"] for column in made.columns] == [2.0, 4.0]


@pytest.mark.parametrize(
    ("test", "what"),
    [
        ({"values": {"exptme": 1}}, r"tests.T1.values.exptme: unknown key.*did you mean exptime"),
        ({"values": {"exptime": "2*tFWC_flat[805]"}}, r"values.exptime: .*tFWC_flat has no 805"),
        ({"values": {"exptime": "g"}}, "unknown name 'g'"),
        ({"values": {"exptime": "__import__('os').getpid()"}}, "not allowed in an expression"),
        ({"values": {"exptime": "(1).real"}}, "not allowed in an expression"),
        ({"values": {"exptime": "2**9999999"}}, "Pow is not allowed"),
        ({"values": {"exptime": "1/0"}}, "division by zero"),
        ({"values": {"exptime": "1 +"}}, "not an expression"),
        ({"values": {"IG1_*": 30}}, r"IG1_\*: 30: out of the safe range"),
        ({"values": {"comments": "{nope}"}}, "unknown name 'nope'"),
        ({"columns": [{"values": {"exptime": 101}}]}, "calibrated for 0..100 s; say long_exposure"),
        ({"columns": [{"frames": 0}]}, r"columns.0.frames: 0: .*number 1\.\.9999"),
        ({"columns": [{"each": {"f": []}}]}, "must be a list"),
        ({"columns": [{"each": {"f,n": [[1]]}}]}, "must be a list of 2"),
        ({"columns": [{"each": {"f;n": [1]}}]}, "variables are words"),
        ({"frame": 1}, "frame: unknown key; .*did you mean frames"),
        ({"limits": {"fluence": {"low": 2, "high": 1}}}, "low 2 is above high 1"),
        ({"limits": {"fluence": {"low": "w", "high": 1}}}, r"limits.fluence.low: .*unknown name"),
        ({"name": "T_{w}", "variants": [{"w": 1}, {"w": 1}]}, "two of them are named T_1"),
        ({"like": "T2"}, r"tests.T1.like: 'T2'"),
        ({"like": "T1"}, "is like itself"),
        ({"like": ["T2"]}, r"tests.T1.like: \['T2'\]"),
        ({"columns": [{"each": {"f": {"first": 0, "last": 1e30, "step": 1}}}]}, "999 steps away"),
        ({"columns": [{"each": {"f": {"first": 1, "last": 0, "step": 1}}}]}, "at or after first"),
    ],
)
def test_faults_in_a_catalogue_are_located(tmp_path, test, what):
    path = own(tmp_path, **test)
    with pytest.raises(ConfigError, match=what) as caught:
        expand(path)
    assert str(path) in caught.value.message
    assert "tests.T1" in caught.value.message


def test_long_exposures_are_taken_where_they_are_meant(tmp_path):
    block = {"values": {"exptime": 600}}
    assert expand(own(tmp_path, columns=[block | {"long_exposure": True}]))
    closed = {"values": {"exptime": 600, "shuttr": 0}}
    assert expand(own(tmp_path, columns=[closed]))


def test_a_catalogue_cannot_extend_itself(tmp_path):
    first = tmp_path / "catalogue"
    first.mkdir()
    (first / "A.json").write_text(json.dumps({**BASE, "camptype": "A", "extends": "A"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALIB_CONFIG_ROOT", str(tmp_path))
        with pytest.raises(ConfigError, match="extends itself"):
            load_catalogue("A")
    with pytest.raises(ConfigError, match="did you mean Full"):
        load_catalogue("Ful")


def test_expressions_and_texts():
    names = {"t": {800: 2.0}, "w": 800, "f": 0.25}
    assert evaluate("min(f, 1)*t[w] if w == 800 and f < 1 else -1", names, "x") == 0.5
    assert evaluate("not f or -f % 1", names, "x") == 1  # truth, as a condition
    assert fill("EXP{f:.0%} at {w} nm", names, "x") == "EXP25% at 800 nm"
    with pytest.raises(ConfigError, match=r"here: .*f is not a table"):
        evaluate("f[1]", names, "here")


def test_a_null_limit_of_a_column_is_told_apart_from_none(tmp_path):
    """Null: this column is not judged. Nothing said: the limits of all tests hold."""
    catalogue = load_catalogue()
    planned = catalogue.planned(
        "PERSIST01", equipment={}, profile=load_profile("B_NOSTROMO"),
        detector=load_detector("ccd273-8th"),
    )
    limits = [one.limits for one in planned.expectations.values()]
    assert [one["std"] is None for one in limits] == [False, True, True, True]
    assert limits[0]["offset_deviation"] == (-50.0, 50.0, "ADU")
    assert limits[1]["background"] == (0.0, 200.0, "ADU")
