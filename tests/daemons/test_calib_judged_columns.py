# SPDX-License-Identifier: BSD-3-Clause
"""Columns of which a test does not judge a measure: the catalogue's null, and what replaces it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kit.calib_bench import FIRST_OBSID, flags_of, run, take
from nightjar.calibration.detector import load_detector
from nightjard.calib import checks
from nightjard.calib.limits import Limits
from nightjard.simulators.detector.truth import Truth

DETECTOR = load_detector("ccd273-8th")
TRUTH = Truth.default(DETECTOR, seed=5, effects="plain")
NOT_JUDGED = {"columns": {"col001": {"limits": {"std": [0.9, 1.4, "ADU"]}},
                          "col002": {"limits": {"std": None}}}}  # fmt: skip


@pytest.mark.parametrize(("spoiled", "flags"), [(0, set()), (1, {"OFFSET_OOL"}), (2, set())])
def test_offsets_of_the_warm_test_are_those_of_rwdv(
    tmp_path: Path, spoiled: int, flags: set[str]
) -> None:
    """Offsets of RWDV (second frame) are judged, those of RWDVS and RAMP are not."""

    def jump(obsid: int, _ccd: int, pixels: np.ndarray) -> None:
        if obsid == FIRST_OBSID + spoiled:
            pixels += np.uint16(100)

    work = take(tmp_path, "MOT_WARM", TRUTH, ccds=(1,), spoil=jump)
    found = run(work, "check", checks.check)
    assert flags_of(found).keys() & {"OFFSET_OOL", "RON_OOL"} == flags
    judged = {(one["metric"], one["where"]["obsid"]) for one in found["compliances"]}
    assert {obsid for metric, obsid in judged if metric.startswith("std")} == {FIRST_OBSID}
    assert {o for metric, o in judged if metric.startswith("offset_")} == {FIRST_OBSID + 1}


def test_a_column_that_is_not_judged_stays_so_unless_it_is_named() -> None:
    limits = Limits(NOT_JUDGED | {"overrides": {"std": [0.5, 2.0]}})
    assert limits.of("std_pre", "col001") == (0.5, 2.0, "")
    assert limits.of("std_pre", "col002") is None
    own = {"std": [0.5, 2.0], "columns": {"col002": {"std": [0.1, 9.0]}}}
    limits = Limits(NOT_JUDGED | {"overrides": own})
    assert limits.of("std_ove", "col002") == (0.1, 9.0, "")
    assert Limits(NOT_JUDGED).of("offset_jump_pre", "col002") == (-10.0, 10.0, "ADU")
