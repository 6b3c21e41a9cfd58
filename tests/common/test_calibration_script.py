# SPDX-License-Identifier: BSD-3-Clause
"""Scripts: keys, how long frames take, and what the log must say afterwards."""

from __future__ import annotations

import pytest

from nightjar.calibration.catalogue import load_catalogue
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import load_detector
from nightjar.calibration.elvis import load_elvis
from nightjar.calibration.script import (
    DEFAULTS,
    KEY_TABLE,
    KEYS,
    expected_log_rows,
    frame_seconds,
    key_of,
)
from nightjar.errors import InvalidArgument, NightjarError

BLOCK = load_detector("ccd273")
SERIALS = {"sn_roe": "FM15", "sn_ccd1": "14888-88-81"}


def script(test: str):
    return load_catalogue().script(
        test, equipment=SERIALS, profile=load_profile("B_NOSTROMO"), detector=BLOCK
    )


def test_there_are_seventy_keys_and_a_bias_takes_93_5_seconds():
    assert len(KEYS) == len(set(KEYS)) == 70
    assert frame_seconds(DEFAULTS, BLOCK) == pytest.approx(93.50, abs=0.005)


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ({"exptime": 12.5}, 12.5),
        ({"siflsh": 0}, -0.5),
        ({"vend": 1043}, -1043 * (4e-3 + 2128 * 14.3e-6)),
        ({"chinj": 1, "toi_ch": 500}, 2066 * 2e-3),
        ({"chinj": 1, "toi_ch": 500, "chin_dly": 1}, 2066 * (2e-3 + 2128 * 14.3e-6)),
        ({"v_tpump": 1, "toi_ch": 250, "toi_tp": 8000, "v_tp_cnt": 5000}, 2.066 + 160),
        ({"s_tpump": 1, "toi_ch": 250, "dwell_s": 28.6, "s_tp_cnt": 5000}, 2.066 + 2086 * 0.286),
        ({"flushes": 700}, 0.0),  # the planning counts one whatever they are
    ],
)  # fmt: skip
def test_what_a_key_adds_to_a_frame(values, seconds):
    plain = frame_seconds(DEFAULTS, BLOCK)
    assert frame_seconds({**DEFAULTS, **values}, BLOCK) - plain == pytest.approx(seconds, abs=1e-6)


def test_smaller_detectors_are_read_faster():
    small, camera = load_detector("ccd273-8th"), load_detector("camd-61mpx")
    rows = {**DEFAULTS, "vend": 278}
    expected = 20.5 + 258 * 4 * 143e-6 + 278 * (4e-3 + 14.3e-6 * (51 + 256 + 29))
    assert frame_seconds(rows, small) == pytest.approx(expected)
    # A camera that is not clocked by the keys tells how long it takes.
    assert frame_seconds({**rows, "exptime": 4.0}, camera) == 4.0 + camera.readout_s


def test_frames_know_their_column():
    focus = script("PSF01_800")
    assert [focus.column_of_frame(frame) for frame in (0, 19, 20, 34, 35, 52)] == [0, 0, 1, 1, 2, 4]
    for frame in (-1, 53):
        with pytest.raises(InvalidArgument, match=r"0\.\.52"):
            focus.column_of_frame(frame)


def test_the_log_must_say_it_in_its_own_words():
    columns = load_elvis("7.5.X").columns
    pumped = script("TP01")
    rows = expected_log_rows(pumped)
    assert len(rows) == pumped.frames == 50
    assert all(set(row) <= set(columns) for row in rows)
    assert rows[1]["v_tp_mod"] == 123
    assert rows[1]["IPHI"] == "I1I2I3"
    assert rows[0]["sn_ccd1"] == "14888-88-81"
    assert rows[0]["test"] == "TP01"
    assert {row["v_tp_mod"] for row in rows} == {123, 234, 341, 412}
    # what nobody can know beforehand, and what logs do not hold
    assert not {"operator", "comments", "shuttr", "v_tpmod"} & set(rows[0])
    assert [row["motr"] for row in expected_log_rows(script("PSF01_800"))] == [1] * 53


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("OD_1_T", 31.0, r"31: out of the safe range; must be a number -0.3..30 V"),
        ("IG1_1_T", "6", "must be a number"),
        ("wave", 7, r"a whole number 1\.\.6"),
        ("wave", 2.5, "a whole number"),
        ("exptime", float("nan"), "must be a number"),
        ("exptime", True, "must be a number"),
        ("v_tpmod", 124, "one of 123, 234, 341, 412"),
        ("rdmode", "fwd", "one of fwd_bas, fwd_e2v"),
        ("comments", "a\tb", "a text of one line"),
    ],
)
def test_values_that_no_key_may_have(key, value, what):
    with pytest.raises(NightjarError, match=what) as caught:
        KEY_TABLE[key].check(value, f"file.json: x.{key}")
    assert caught.value.message.startswith(f"file.json: x.{key}: ")


def test_mistyped_keys_are_named():
    with pytest.raises(InvalidArgument, match="did you mean exptime"):
        key_of("exptme", "here")


def test_every_default_is_allowed():
    for key in KEYS:
        assert KEY_TABLE[key].check(DEFAULTS[key], key) == DEFAULTS[key]
