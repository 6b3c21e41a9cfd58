# SPDX-License-Identifier: BSD-3-Clause
"""FOCUS00: best focus, width and tilt against truth; sweeps that do not hold the focus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from kit.calib_bench import flags_of, run_all, take
from kit.calib_spots import pushed_charge, spot
from kit.depth import soaked
from nightjar.calibration.detector import load_detector
from nightjar.errors import Refused
from nightjard.calib.results import Results
from nightjard.calib.science.focus_fit import (
    fit_focus,
    fit_plane,
    growth_with_light,
    pushing_light,
    sweep_problem,
)
from nightjard.calib.science.spots import Stamps, photometry
from nightjard.calib.work import Work
from nightjard.simulators.detector.truth import Truth

SWEEP = 47.2 + 0.2 * np.arange(-4, 5)
SMALL = "ccd273-8th"
LIGHT = {"only": True, "photon_noise": True, "read_noise": True, "pattern": True, "shape": True}


def widths(z0: float, f0: float = 2.1, k: float = 5.0) -> Any:
    return np.sqrt(f0**2 + (k * (SWEEP - z0)) ** 2)


# --- fits ---


@pytest.mark.parametrize("z0", [47.2, 47.31, 46.8, 47.6])
def test_the_fit_is_exact_wherever_the_focus_lies(z0: float) -> None:
    found = fit_focus(SWEEP, widths(z0), np.full(9, 0.01))
    assert found.z0_mm == pytest.approx(z0, abs=1e-9)
    assert found.f0_px == pytest.approx(2.1, abs=1e-9)
    assert found.slope_px_mm == pytest.approx(5.0, abs=1e-9)
    assert found.fwhm_px(z0) == pytest.approx(2.1)


def test_errors_of_the_fit_are_true() -> None:
    rng = np.random.default_rng(3)
    pulls = []
    for _ in range(300):
        error = 0.004 * widths(47.25)
        found = fit_focus(SWEEP, widths(47.25) + rng.normal(0, np.hypot(error, 0.003)), error)
        pulls.append(((found.z0_mm - 47.25) / found.z0_error_mm,
                      (found.f0_px - 2.1) / found.f0_error_px))  # fmt: skip
    spread = np.std(pulls, axis=0)
    assert np.all((spread > 0.6) & (spread < 1.2))
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 0.25)


def test_a_spoiled_exposure_is_rejected() -> None:
    wide = widths(47.25)
    wide[2] *= 1.4
    found = fit_focus(SWEEP, wide, np.full(9, 0.01))
    assert not found.used[2]
    assert sum(found.used) == 8
    assert found.z0_mm == pytest.approx(47.25, abs=1e-6)


def test_widths_without_a_minimum_give_no_focus() -> None:
    rng = np.random.default_rng(4)
    for wide in (np.full(9, 2.5) + rng.normal(0, 0.02, 9), 4 - widths(47.2) / 4):
        assert not fit_focus(SWEEP, wide, np.full(9, 0.02)).is_good
    assert not fit_focus(SWEEP[:3], widths(47.2)[:3], np.full(3, 0.02)).is_good


def test_a_plane_is_fitted_and_a_stray_spot_rejected() -> None:
    rng = np.random.default_rng(5)
    u, v = rng.uniform(-0.8, 0.8, (2, 20))
    z = 47.2 + 0.05 * u / 2 - 0.03 * v / 2 + rng.normal(0, 0.001, 20)
    z[4] += 0.1
    z[7] = np.nan
    found = fit_plane(u, v, z, np.full(20, 0.001))
    assert found is not None
    assert not found.used[4]
    assert not found.used[7]
    assert found.centre_mm == pytest.approx(47.2, abs=0.001)
    assert found.tilt_x_mm == pytest.approx(0.05, abs=4 * found.tilt_x_error_mm)
    assert found.tilt_y_mm == pytest.approx(-0.03, abs=4 * found.tilt_y_error_mm)
    assert fit_plane(u[:3], v[:3], z[:3], np.full(3, 0.001)) is None


def test_growth_with_the_light_is_told_from_defocus() -> None:
    rng = np.random.default_rng(6)
    curves, z, fwhm, error, light = [], [], [], [], []
    for _ in range(20):
        z0 = 47.2 + rng.uniform(-0.03, 0.03)
        pushing = pushing_light(4.1e4 * (2.1 / widths(z0)) ** 2, widths(z0))
        wide = np.sqrt(widths(z0) ** 2 + 7e-6 * pushing) + rng.normal(0, 0.002, 9)
        curves.append(fit_focus(SWEEP, wide, np.full(9, 0.002)))
        z.append(SWEEP), fwhm.append(wide), error.append(np.full(9, 0.002)), light.append(pushing)
    growth, sigma = growth_with_light(curves, z, fwhm, error, light)
    assert growth == pytest.approx(7e-6, abs=4 * sigma)
    assert sigma < 2e-6


def test_the_law_of_growth_holds_for_spots_in_and_out_of_focus() -> None:
    """Charge pushed step by step, no noise: FWHM squared grows by the same part of the light."""
    kernel = ((0, 1, 3.0e-7), (1, 0, 1.5e-7), (1, 1, 0.6e-7), (0, 2, 0.5e-7), (2, 0, 0.3e-7))
    parts = []
    for width in (2.1, 2.8, 3.5):
        light = np.stack([spot(75, 37 + x, 37 + y, flux=1.3e6, fwhm=width)
                          for x, y in ((0.0, 0.0), (0.3, 0.4), (0.5, -0.2))])  # fmt: skip
        before, after = (measured(image) for image in (light, pushed_charge(light, kernel)))
        grown = np.mean(after.fwhm_x**2 + after.fwhm_y**2 - before.fwhm_x**2 - before.fwhm_y**2) / 2
        parts.append(grown / np.mean(pushing_light(after.fit_peak, after.fwhm_x)))
    assert np.ptp(parts) < 0.1 * np.mean(parts)


def measured(electrons: Any) -> Any:
    zeros = np.zeros(len(electrons), int)
    return photometry(
        Stamps(electrons / 3.5 + 2000, np.zeros(electrons.shape, bool), zeros, zeros)
    )


def test_a_focus_outside_of_the_sweep_or_at_its_end_is_told() -> None:
    assert sweep_problem(SWEEP, 47.3) == ""
    assert "within a step" in sweep_problem(SWEEP, 47.95)
    assert "outside" in sweep_problem(SWEEP, 48.1)
    assert "no minimum" in sweep_problem(SWEEP, float("nan"))


# --- the analysis ---


def analysed(folder: Path, effects: Any = None, **numbers: Any) -> tuple[Work, dict[str, Any]]:
    truth = Truth.default(load_detector(SMALL), effects=effects or LIGHT, overrides=numbers)
    work = take(folder, "FOCUS00_800", truth)
    return work, run_all(work)


def value(found: dict[str, Any], name: str) -> tuple[float, float]:
    one = next(one for one in found["values"] if one["name"] == name)
    return one["value"], one["error"]


@pytest.mark.parametrize("focus", [47.6, soaked(47.21), soaked(46.8)])
def test_focus_width_and_tilt_come_out(
    tmp_path: Path, focus: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the sweep 0.4 mm off and a quadrant dark, which must not pull along the tilt."""
    named = {}

    def looked_at(results: Results, name: str, figure: Figure, *, caption: str = "") -> Path:
        named[name] = [text.get_text() for one in figure.legends for text in one.get_texts()]
        return paint(results, name, figure, caption=caption)

    paint = Results.figure
    monkeypatch.setattr(Results, "figure", looked_at)
    missing = tuple(f"1G{one}" for one in "ABCDE")
    work, found = analysed(
        tmp_path, **{"stars.focus_mm": focus, "stars.missing": missing}
    )
    meta = found["meta"]
    best, error = value(meta, "best_focus")
    assert best == pytest.approx(focus, abs=0.01)
    assert abs(best - focus) < 5 * error
    assert value(meta, "best_fwhm")[0] == pytest.approx(2.1, abs=0.03)
    assert value(meta, "f0")[0] == pytest.approx(2.1, abs=0.01)
    assert value(meta, "focus_slope")[0] == pytest.approx(5.0, rel=0.01)
    assert value(meta, "focus_tilt_x")[0] == pytest.approx(0.05, rel=0.1)
    assert value(meta, "focus_tilt_y")[0] == pytest.approx(-0.03, rel=0.1)
    assert not flags_of(meta)
    table = work.table("meta", "focus")
    assert sum(table["is_used"]) >= 14
    figures = {one["name"] for one in meta["figures"]}
    assert figures == {"fwhm_vs_mirror", "focus_map"}
    assert named["fwhm_vs_mirror"] == ["ALPHA", "BRAVO", "CHARLIE", "DELTA", "ECHO"]
    assert "STARS_MISSING" in flags_of(found["check"])  # of the dark quadrant

    # The same with the mirror never moved up to the focus, from the side that has the steps.
    curves = work.table("basic", "curves")
    path = work.folder / "products" / "FOCUS00_800_curves.ecsv"
    mirror = np.asarray(curves["mirr_pos"])
    kept = mirror < focus - 0.05 if focus > 47.0 else mirror > focus + 0.05
    curves[kept].write(path, format="ascii.ecsv", overwrite=True)
    short = run_all(work, "meta")["meta"]
    assert "outside" in flags_of(short)["FOCUS_OOL"]["cause"]


def test_a_full_detector_gives_the_width_of_faint_stars_too(tmp_path: Path) -> None:
    _work, found = analysed(tmp_path, "standard")
    meta = found["meta"]
    assert value(meta, "best_focus")[0] == pytest.approx(47.21, abs=0.01)
    faint, error = value(meta, "f0_faint")
    assert 0.001 < error < 0.012
    assert faint == pytest.approx(2.1, abs=3 * error)
    assert value(meta, "best_fwhm")[0] > 2.12  # brighter-fatter
    check = flags_of(found["check"])
    assert not {"FLUX_OOL", "FOCUS_OOL", "STARS_MISSING"} & set(check)


def test_meta_needs_basic(tmp_path: Path) -> None:
    truth = Truth.default(load_detector(SMALL), effects=LIGHT)
    work = take(tmp_path, "FOCUS00_800", truth, frames={f"col00{i}": 1 for i in range(1, 10)})
    with pytest.raises(Refused, match="needs basic"):
        run_all(work, "meta")
