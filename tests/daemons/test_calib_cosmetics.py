# SPDX-License-Identifier: BSD-3-Clause
"""COSMETICS00: the masks are the defects that were put in, exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.calib_bench import flags_of, run, run_all, take, values_of
from nightjar.calibration.detector import load_detector
from nightjard.calib.frames import open_frame
from nightjard.calib.prepare import Recipe, prepared
from nightjard.calib.task import load_task
from nightjard.simulators.detector.truth import Defects, Truth

EIGHTH = load_detector("ccd273-8th")
GAIN = 3.5
NAME = "NOSTROMO_CCD1_SN_14888-88-81"
Found = dict[str, dict[str, Any]]

#: More than twice beyond the thresholds of 50 ADU and of 0.5 to 1.5.
DEFECTS = Defects(
    dark_pixels=tuple((20 + 7 * n, 11 + 13 * n, 0.2) for n in range(15)),
    dead_columns=((133, 0.05),),
    hot_pixels=tuple((5 + 9 * n, 240 - 7 * n, 110 * GAIN * (n + 1), 0.0) for n in range(20)),
    hot_columns=((200, 100, 400 * GAIN), (210, 240, 400 * GAIN)),
    clusters=((60, 60, 3.0, 0.1),),
)


def truth_of() -> Truth:
    truth = Truth.default(
        EIGHTH, effects={"defects": False, "persistence": False, "transfer": False,
                         "crosstalk": False, "gain_spread": False},
        overrides={"electronics.gain_e_adu": GAIN, "dark.tail_fraction": 0.0},
    )  # fmt: skip
    return dataclasses.replace(truth, defects={**truth.defects, "1G": DEFECTS})


def expected() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Masks of the dark and of the flat, image area of G."""
    dark = np.zeros((EIGHTH.image_rows, EIGHTH.image_columns), bool)
    flat = dark.copy()
    for x, y, *_ in DEFECTS.hot_pixels:
        dark[y, x] = True
    dark[:, 200] = True  # 158 of its rows: the whole column
    dark[240:, 210] = True  # 18: only these
    for x, y, _ in DEFECTS.dark_pixels:
        flat[y, x] = True
    flat[:, 133] = True
    y, x = np.mgrid[: dark.shape[0], : dark.shape[1]]
    flat |= (x - 60) ** 2 + (y - 60) ** 2 <= 3.0**2
    return dark, flat


@pytest.fixture(scope="module")
def cosmetics(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Found]:
    work = take(tmp_path_factory.mktemp("cosmetics"), "COSMETICS00", truth_of())
    return work, run_all(work)


def image_of(work: Any, subtask: str, name: str, plane: str, quadrant: str) -> Any:
    with fits.open(work.image_path(subtask, name), checksum=True) as units:
        data = units[plane].data
    return EIGHTH.sector(EIGHTH.canonical(data, quadrant), "image")


def test_defects_far_beyond_the_thresholds_are_found_exactly(
    cosmetics: tuple[Any, Found],
) -> None:
    work, _found = cosmetics
    dark, flat = expected()
    for quadrant in EIGHTH.names:
        is_bad = quadrant == "G"
        seen = image_of(work, "masks", f"EUC_DKMASK_{NAME}", "MASK", quadrant) != 0
        np.testing.assert_array_equal(seen, dark & is_bad)
        seen = image_of(work, "masks", f"EUC_FLMASK_{NAME}", "MASK", quadrant) != 0
        np.testing.assert_array_equal(seen, flat & is_bad)
        merged = image_of(work, "meta", f"EUC_MASK_{NAME}", "MASK", quadrant) != 0
        np.testing.assert_array_equal(merged, (dark | flat) & is_bad)
        bits = image_of(work, "meta", f"EUC_MASK_{NAME}", "DEFECTS", quadrant)
        np.testing.assert_array_equal((bits & 1) != 0, dark & is_bad)
        np.testing.assert_array_equal((bits & 2) != 0, flat & is_bad)
        columns = np.flatnonzero((bits & 4).any(axis=0))
        assert columns.tolist() == ([133, 200] if is_bad else [])


def test_defects_are_counted(cosmetics: tuple[Any, Found]) -> None:
    work, found = cosmetics
    dark, flat = expected()
    table = work.table("meta", "DEFECTS")
    row = table[table["quadrant"] == "G"][0]
    merged = int((dark | flat).sum())
    assert (row["N_DARK"], row["N_FLAT"], row["N_MERGE"]) == (dark.sum(), flat.sum(), merged)
    assert (row["NCOLS_DARK"], row["NCOLS_FLAT"], row["NCOLS_MERGE"]) == (1, 1, 2)
    assert row["PIXLOST"] == pytest.approx(100 * merged / (258 * 256))
    assert values_of(found["meta"], "bad_pixels")[1, "G"] == (merged, None)
    assert values_of(found["meta"], "bad_pixels")[1, "E"] == (0, None)
    assert all(flags_of(one) == {} for one in found.values())
    with fits.open(work.image_path("masks", f"EUC_DKMASK_{NAME}")) as units:
        header = units[0].header
        assert (header["MASKTYPE"], header["SN"]) == ("dark", "14888-88-81")
        assert (header["THRESH"], header["SUBBGD"], header["NORMED"]) == ("-1000 50", True, False)


def test_the_mask_serves_later_preparations(cosmetics: tuple[Any, Found]) -> None:
    work, _found = cosmetics
    dark, flat = expected()
    path = work.image_path("meta", f"EUC_MASK_{NAME}")
    frame = open_frame(work.dataset.frames[0].path, EIGHTH)
    _, bad = prepared(frame, "G", Recipe(mask=str(path)))
    np.testing.assert_array_equal(EIGHTH.sector(bad, "image"), dark | flat)
    assert not bad[:, : EIGHTH.prescan].any()


def test_flats_alone_give_a_mask_and_tell_what_is_missing(tmp_path: Path) -> None:
    work = take(tmp_path, "COSMETICS00", truth_of(), frames={"col001": 0, "col002": 2})
    task = load_task("COSMETICS00")
    found = {one.name: run(work, one.name, one.function) for one in task.subtasks[1:]}
    assert "no usable bias" in flags_of(found["masks"])["MISSDATA"]["cause"]
    merged = image_of(work, "meta", f"EUC_MASK_{NAME}", "MASK", "G") != 0
    np.testing.assert_array_equal(merged, expected()[1])


def test_a_flat_that_is_too_faint_is_told(tmp_path: Path) -> None:
    work = take(tmp_path, "COSMETICS00", truth_of(), frames={"col001": 1, "col002": 1},
                overrides={"exptime": 0.9})  # fmt: skip
    found = run_all(work, "check")
    assert "limits 29491.2 to 36044.8" in flags_of(found["check"])["FLUENCE_OOL"]["cause"]
