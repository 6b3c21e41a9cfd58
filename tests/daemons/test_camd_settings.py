# SPDX-License-Identifier: BSD-3-Clause
"""What an observer may set on a given detector."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.camera_bench import camera_config
from nightjar.errors import Code, Refused
from nightjard.camd.drivers.base import Capabilities, Control, Range
from nightjard.camd.geometry import Region
from nightjard.camd.settings import Observation, check_observation, check_setpoint

CONTROLS = (
    Control("source", "flat", choices=("flat", "point")),
    Control("mirror", 70.0, "mm", low=0, high=100),
    Control("flushes", 7, low=0, high=10),
    Control("comment", ""),
)
SENSOR = Region.full(100, 60)
FULL = Capabilities(
    "m", "s", SENSOR, SENSOR, Range(0.001, 100.0), gain=Range(0, 50), offset=Range(5, 9),
    setpoint_c=Range(-30, 20), cooler="setpoint", has_stream_mode=True,
)  # fmt: skip
BARE = Capabilities("m", "s", SENSOR, SENSOR, Range(0.001, 100.0))
PLAIN = Observation(1.0, None, 1, "sum", None, None, False)


@pytest.mark.parametrize(
    "changes",
    [{}, {"exposure_s": 0.001}, {"exposure_s": 100}, {"gain": 0}, {"gain": 50}, {"offset": 5},
     {"stream": True}, {"binning": 20}, {"window": Region(100, 100, 60, 60)},
     {"window": Region(2, 7, 2, 4), "binning": 3}],
)  # fmt: skip
def test_what_is_possible_is_accepted(changes: dict[str, Any]) -> None:
    check_observation(PLAIN.with_(**changes), FULL)


@pytest.mark.parametrize(
    ("changes", "capabilities", "code"),
    [
        ({"exposure_s": 0.0009}, FULL, Code.OUT_OF_RANGE),
        ({"exposure_s": 100.1}, FULL, Code.OUT_OF_RANGE),
        ({"exposure_s": math.nan}, FULL, Code.OUT_OF_RANGE),
        ({"exposure_s": math.inf}, FULL, Code.OUT_OF_RANGE),
        ({"gain": 51}, FULL, Code.OUT_OF_RANGE),
        ({"offset": 4}, FULL, Code.OUT_OF_RANGE),
        ({"gain": 1}, BARE, Code.UNSUPPORTED),
        ({"offset": 6}, BARE, Code.UNSUPPORTED),
        ({"stream": True}, BARE, Code.UNSUPPORTED),
        ({"window": Region(1, 101, 1, 60)}, FULL, Code.WINDOW_OUT_OF_BOUNDS),
        ({"binning": 7}, FULL, Code.BINNING_MISMATCH),
        ({"window": Region(1, 6, 1, 5), "binning": 2}, FULL, Code.BINNING_MISMATCH),
    ],
)
def test_what_is_impossible_is_refused_with_its_code(
    changes: dict[str, Any], capabilities: Capabilities, code: Code
) -> None:
    with pytest.raises(Refused) as caught:
        check_observation(PLAIN.with_(**changes), capabilities)
    assert caught.value.code is code


def test_set_points_lie_within_the_device_and_the_configuration() -> None:
    check_setpoint(None, BARE, (-50, 50))
    check_setpoint(-30.0, FULL, (-50, 50))
    check_setpoint(-49.0, replace(FULL, cooler="pwm", setpoint_c=None), (-50, 50))
    for celsius, capabilities, configured, code in (
        (-30.1, FULL, (-50, 50), Code.OUT_OF_RANGE), (-20.1, FULL, (-20, 50), Code.OUT_OF_RANGE),
        (15.0, FULL, (-50, 10), Code.OUT_OF_RANGE), (math.nan, FULL, (-50, 50), Code.OUT_OF_RANGE),
        (0.0, BARE, (-50, 50), Code.UNSUPPORTED),
    ):  # fmt: skip
        with pytest.raises(Refused) as caught:
            check_setpoint(celsius, capabilities, configured)
        assert caught.value.code is code


def test_the_driver_gets_what_was_wanted(tmp_path: Path) -> None:
    config = camera_config(
        tmp_path, exposure=0.1, gain=9, offset=7, binning=2, binning_method="mean", stream=True,
        windows={"default": [1, 4, 1, 8]},
    )  # fmt: skip
    settings = Observation.default(config).for_driver()
    assert (settings.exposure_ns, settings.gain, settings.offset) == (100_000_000, 9, 7)
    assert (settings.binning, settings.binning_method, settings.stream) == (2, "mean", True)
    assert settings.window == Region(1, 4, 1, 8)


@pytest.mark.parametrize("seconds", [1e-5, 0.1, 1 / 3, 59.9999999, 14_400.0])
def test_nanoseconds_are_the_nearest(seconds: float) -> None:
    assert abs(PLAIN.with_(exposure_s=seconds).exposure_ns - seconds * 1e9) <= 0.5


# --- controls -----------------------------------------------------------------------------------

EQUIPPED = replace(FULL, controls=CONTROLS)


def test_controls_keep_what_is_not_named() -> None:
    first = PLAIN.controlled({"source": "point", "mirror": 47}, EQUIPPED)
    second = first.controlled({"mirror": 48.5, "comment": "F1"}, EQUIPPED)
    assert dict(second.controls) == {"source": "point", "mirror": 48.5, "comment": "F1"}
    assert isinstance(dict(first.controls)["mirror"], float)
    # Back at its default, a control is not told to the driver any more.
    assert dict(second.controlled({"source": "flat"}, EQUIPPED).controls) == {
        "mirror": 48.5, "comment": "F1",
    }  # fmt: skip
    assert second.for_driver().controls == second.controls


@pytest.mark.parametrize(
    ("changes", "capabilities", "text"),
    [
        ({"sourc": "flat"}, EQUIPPED, "no control 'sourc'; did you mean source?"),
        ({"lamp": 1}, FULL, "this camera has none"),
        ({"source": "lamp"}, EQUIPPED, "must be one of flat, point"),
        ({"source": 3}, EQUIPPED, "must be a text"),
        ({"mirror": 100.1}, EQUIPPED, "must be 0 to 100 mm"),
        ({"mirror": math.nan}, EQUIPPED, "must be 0 to 100 mm"),
        ({"mirror": "near"}, EQUIPPED, "must be a number"),
        ({"flushes": 1.5}, EQUIPPED, "must be a whole number"),
        ({"flushes": True}, EQUIPPED, "must be a number"),
        ({"comment": "a\nb"}, EQUIPPED, "must be a text of one line"),
        ({"mirror": 50, "source": "x"}, EQUIPPED, "must be one of"),
    ],
)
def test_controls_that_a_detector_cannot_have_are_refused(
    changes: dict[str, Any], capabilities: Capabilities, text: str
) -> None:
    with pytest.raises(Refused, match=text):
        PLAIN.controlled(changes, capabilities)
