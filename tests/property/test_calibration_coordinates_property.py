# SPDX-License-Identifier: BSD-3-Clause
"""Coordinates of any detector: there and back is where one was; nothing else is silicon."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from kit.depth import examples
from nightjar.calibration.coordinates import convert, quadrant_at
from nightjar.calibration.detector import Detector


@st.composite
def detectors(draw) -> Detector:
    columns, rows = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    quadrants = {
        f"{chr(65 + row)}{column}": {
            "column": column, "row": row, "reads_from_right": draw(st.booleans()),
            "reads_from_top": draw(st.booleans()),
        }
        for row in range(rows)
        for column in range(columns)
    }  # fmt: skip
    return Detector(
        name="any", ccds=1, quadrants=quadrants, prescan=draw(st.integers(0, 6)),
        image_columns=draw(st.integers(1, 9)), overscan=draw(st.integers(0, 6)),
        image_rows=draw(st.integers(1, 9)), parallel_overscan=draw(st.integers(0, 5)),
        injection_rows=draw(st.integers(0, 3)), pixel_um=12.0, gain_e_adu=3.5, read_noise_e=4.0,
        full_well_e=2e5, offset_sector="none",
    )  # fmt: skip


@examples(25, 600, detectors(), st.integers(0, 2**32))
def test_there_and_back(detector, seed):
    """Every place of every frame comes back through each of the systems."""
    rows, columns = detector.frame_shape
    y, x = np.mgrid[0:rows, 0:columns].astype(float)
    jitter = np.random.default_rng(seed).uniform(-0.49, 0.49, (2, rows, columns))
    x, y = x + jitter[0], y + jitter[1]
    names = quadrant_at(detector, x, y)
    assert (names != "").all()
    silicon = np.zeros((rows, columns), bool)
    for name in detector.names:
        cut = detector.canonical(silicon, name)
        cut[detector.rows_of("image"), detector.columns_of("image")] = True
    for system in ("qrel", "qcan", "phys"):
        there = convert(detector, x, y, "ccd", system)
        back = convert(detector, *there, system, "ccd", names if system != "phys" else None)
        known = silicon if system == "phys" else np.ones_like(silicon)
        assert (np.isfinite(there[0]) == known).all()
        assert (np.isfinite(back[0]) == known).all()
        np.testing.assert_allclose(back[0][known], x[known], atol=1e-9)
        np.testing.assert_allclose(back[1][known], y[known], atol=1e-9)


@examples(25, 600, detectors())
def test_silicon_is_covered_once(detector):
    """Whole pixels of the silicon: each has one place in the frame, no two the same."""
    y, x = np.mgrid[0 : detector.frame_shape[0], 0 : detector.frame_shape[1]]
    phys_x, phys_y = convert(detector, x, y, "ccd", "phys")
    lit = np.isfinite(phys_x)
    places = set(zip(phys_x[lit].tolist(), phys_y[lit].tolist(), strict=True))
    assert len(places) == lit.sum()
    assert lit.sum() == (
        len(detector.quadrants) * detector.image_rows * detector.image_columns
    )  # fmt: skip
    outside = convert(detector, [-1, detector.frame_shape[1]], [0, 0], "ccd", "qcan")
    assert np.isnan(outside).all()
