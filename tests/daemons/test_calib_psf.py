# SPDX-License-Identifier: BSD-3-Clause
"""PSF01: stamps, shapes, growth with the signal, correction for it, posteriors; against truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.optimize import curve_fit
from scipy.special import erf

from kit.calib_bench import flags_of, run, run_all, take
from kit.calib_spots import pushed_charge, spot
from nightjar.calibration.detector import load_detector
from nightjar.errors import ConfigError, Refused
from nightjard.calib.science.spot_growth import (
    mean_line,
    robust_line,
    weighted_mean,
    without_transfer,
)
from nightjard.calib.tasks import psf_correction, psf_shapes
from nightjard.calib.work import Work
from nightjard.simulators.detector.truth import Truth

SMALL = load_detector("ccd273-8th")
EFFECTS = {
    "only": True, "photon_noise": True, "read_noise": True, "pattern": True, "shape": True,
    "brighter_fatter": True, "structure": True, "gain_spread": True,
}  # fmt: skip
FRAMES = {"col001": 7, "col002": 5, "col003": 4, "col004": 3, "col005": 1}


# --- lines ---


def test_a_line_leaves_strays_out_and_has_true_errors() -> None:
    rng = np.random.default_rng(2)
    pulls, at_zero = [], []
    for _ in range(200):
        peak = rng.choice([3e3, 1.5e4, 3e4, 4.5e4], 30)
        error = 300.0 / peak  # bright spots weigh most: pivot and slope are correlated
        value = 2.1 + 0.01 * (peak - 2**15) / 1e4 + rng.normal(0, error)
        value[3] += 0.5
        line = robust_line(peak, value, error)
        pulls.append((line.slope - 0.01) / line.slope_error)
        at_zero.append((line.at_zero - 2.1 + 0.01 * 2**15 / 1e4) / line.at_zero_error)
        assert line.points >= 28
    assert abs(np.mean(pulls)) < 0.3
    assert 0.75 < np.std(pulls) < 1.25
    assert abs(np.mean(at_zero)) < 0.3
    assert 0.75 < np.std(at_zero) < 1.25
    assert not robust_line([1e4, 1e4, 1e4], [1, 2, 3], [1, 1, 1]).is_good
    assert not mean_line([]).is_good
    assert weighted_mean([1.0, 1.1, np.nan, 0.9, 1.0, 9.0], [0.1] * 6)[0] == pytest.approx(1.0)


def test_what_transfer_adds_is_told_from_what_the_optics_make() -> None:
    rng = np.random.default_rng(3)
    rows, columns = np.tile([400.0, 1030.0, 1650.0], 20), np.repeat([400.0, 1020.0, 1640.0], 20)
    pulls = []
    for _ in range(100):
        e1 = 0.02 - 2.5e-5 * rows + 4e-6 * columns + rng.normal(0, 0.002, 60)
        e1[7] += 0.2
        value, error = without_transfer(e1, np.full(60, 0.002), rows, columns)
        pulls.append((value - 0.02) / error)
    assert abs(np.mean(pulls)) < 0.4
    assert 0.75 < np.std(pulls) < 1.25
    assert np.isnan(without_transfer(e1[:5], e1[:5], rows[:5], columns[:5])[0])
    assert np.isnan(without_transfer(e1[:9], np.ones(9), np.ones(9), columns[:9])[0])


# --- the analysis ---


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("psf")
    truth = Truth.default(SMALL, effects=EFFECTS)
    work = take(folder, "PSF01_800", truth, frames=FRAMES)
    work.inputs.kernels = shifts(folder / "G15TABLE.ecsv", truth)
    work.options = {"bayes_frames": 1}
    names = ("lock", "prep", "corrBFE_G15", "basic", "basic_nobfe", "bayes", "meta")
    return work, run_all(work, *names)


def shifts(path: Path, truth: Truth) -> Path:
    """Write the boundary shifts that the true coefficients make."""
    from nightjard.calib.science.charge_shift import solve_boundaries
    from nightjard.calib.tasks.brighter_fatter_product import boundary_rows

    coefficients = np.zeros((5, 5))
    for column, row, k in truth.brighter_fatter.kernel:
        coefficients[row, column] = k
    coefficients[0, 0] = truth.brighter_fatter.centre
    found = solve_boundaries(coefficients, np.full((5, 5), 1e-9))
    rows = []
    for quadrant in SMALL.names:
        gain = truth.electronics.gain_e_adu[f"1{quadrant}"]
        rows += boundary_rows((1, quadrant), found, gain)
    Table(rows=rows).write(path, format="ascii.ecsv")
    return path


def growth(truth: Truth) -> tuple[float, float]:
    """Growth of FWHM along x and y, px per 1e4 ADU: charge pushed step by step, no noise."""
    wide = {}
    for name, electrons in (("faint", 1.0), ("bright", 1e5)):
        both = []
        for x, y in ((10.0, 10.0), (10.3, 10.4), (10.5, 10.1), (10.2, 10.5)):
            light = spot(21, x, y, flux=electrons * 5.0, fwhm=2.1)
            charge = pushed_charge(light, truth.brighter_fatter.kernel)
            both.append(fitted(charge))
        wide[name] = np.mean(both, axis=0)
    sigma = 2.1 / 2.3548
    peak = 5e5 * erf(0.5 / sigma / 2**0.5) ** 2 / SMALL.gain_e_adu
    return tuple((wide["bright"] - wide["faint"]) / peak * 1e4)  # type: ignore[return-value]


def fitted(image: Any) -> Any:
    axis = np.arange(len(image), dtype=float)

    def edge(centre: float, sigma: float) -> Any:
        scale = sigma * 2**0.5
        return (erf((axis + 0.5 - centre) / scale) - erf((axis - 0.5 - centre) / scale)) / 2

    def gaussian(_: Any, flux: float, x: float, y: float, sx: float, sy: float) -> Any:
        return flux * np.outer(edge(y, sy), edge(x, sx)).ravel()

    values, _ = curve_fit(gaussian, None, image.ravel(), [image.sum(), 10.2, 10.2, 0.9, 0.9])
    return np.abs(values[3:5]) * 2.3548


def whole(found: dict[str, Any], name: str, kind: str = "measured") -> tuple[float, float]:
    one = next(
        one for one in found["values"] if one["name"] == name and one["where"] == {"kind": kind}
    )
    return one["value"], one["error"]


def test_widths_and_ellipticities_at_no_light_are_those_of_the_optics(
    done: tuple[Work, dict[str, Any]],
) -> None:
    _work, found = done
    meta = found["meta"]
    e1, e2 = 0.02, -0.015
    for name, truth in (("fwhm_x", 2.1 * np.sqrt(1 + e1)), ("fwhm_y", 2.1 * np.sqrt(1 - e1))):
        value, error = whole(meta, f"{name}_faint")
        assert value == pytest.approx(truth, abs=0.02)
        assert error < 0.01
    for name, truth in (("e1", e1), ("e2", e2)):
        value, error = whole(meta, f"{name}_faint")
        assert value == pytest.approx(truth, abs=0.003)
        assert 0 < error < 0.002
        untrailed, error = whole(meta, f"{name}_untrailed")  # nothing trails here
        assert untrailed == pytest.approx(truth, abs=4 * error)
        assert error < 0.006
    # Every quadrant for itself, whichever way it is read.
    table = found_table(done, "meta", "psf")
    assert np.all(np.abs(table["e2_faint"] - e2) < 0.003 + 4 * table["e2_faint_error"])
    assert np.all(np.abs(table["e1_faint"] - e1) < 0.003 + 4 * table["e1_faint_error"])
    assert not flags_of(meta)


def found_table(done: tuple[Work, dict[str, Any]], subtask: str, name: str) -> Table:
    return done[0].table(subtask, name)


@pytest.mark.soak
def test_charge_left_behind_in_transfer_does_not_reach_the_untrailed_shape(tmp_path: Path) -> None:
    """Five stars of each quadrant are lengthened along columns: e1 of all is 0.0065 too small."""
    found = []
    for seed in range(1, 7):
        truth = Truth.default(SMALL, seed=seed, effects=EFFECTS | {"transfer": True})
        work = take(tmp_path / str(seed), "PSF01_800", truth, frames=FRAMES)
        meta = run_all(work, "lock", "prep", "basic", "meta")["meta"]
        found.append((*whole(meta, "e1_untrailed"), whole(meta, "e1_faint")[0]))
    value, error, trailing = np.array(found).T
    assert np.mean(trailing) < 0.017
    assert abs(np.mean(value) - 0.02) < 0.003
    assert np.abs((value - 0.02) / error).max() < 4


def test_widths_grow_with_the_signal_as_charge_is_pushed(
    done: tuple[Work, dict[str, Any]],
) -> None:
    _work, found = done
    truth = growth(Truth.default(SMALL, effects=EFFECTS))
    for name, expected in zip(("fwhm_x", "fwhm_y"), truth, strict=True):
        value, error = whole(found["meta"], f"{name}_growth")
        assert value == pytest.approx(expected, rel=0.1)
        assert abs(value - expected) < 5 * error + 0.05 * expected
    assert truth[1] > 1.3 * truth[0]  # along columns more


def test_corrected_stamps_do_not_grow(done: tuple[Work, dict[str, Any]]) -> None:
    _work, found = done
    for name in ("fwhm_x", "fwhm_y"):
        before, error = whole(found["meta"], f"{name}_growth")
        after, _ = whole(found["meta"], f"{name}_growth", "corrected")
        assert abs(after) < 0.12 * before + 3 * error
        faint = whole(found["meta"], f"{name}_faint")[0]
        assert whole(found["meta"], f"{name}_faint", "corrected")[0] == pytest.approx(
            faint, abs=0.005
        )


def test_posteriors_tell_the_same_with_their_errors(done: tuple[Work, dict[str, Any]]) -> None:
    table = found_table(done, "bayes", "posteriors")
    faint = table[table["column"] == "col001"]
    assert len(faint) == 20
    for name, truth in (("e1", 0.02), ("e2", -0.015)):
        value, error = weighted_mean(faint[name], faint[f"{name}_error"])
        # A little of the growth is there already at 4000 ADU.
        assert abs(value - truth) < 4 * error + 0.001
        spread = np.std(faint[name]) / np.mean(faint[f"{name}_error"])
        assert 0.5 < spread < 1.6
    value, error = weighted_mean(faint["fwhm"], faint["fwhm_error"])
    assert value == pytest.approx(2.1, abs=0.02)
    assert np.median(faint["ln_odds_of_wings"]) < 0  # the stars are Gaussian


def test_stamps_are_a_product_that_says_what_it_is(done: tuple[Work, dict[str, Any]]) -> None:
    work, found = done
    entry = found["prep"]["images"][0]
    with fits.open(work.folder / entry["path"]) as units:
        assert units["STAMPS"].data.shape == (20, 20, 75, 75)
        assert list(units["OBSID"].data) == [frame.obsid for frame in work.dataset.frames]
        ids = [bytes(row).decode().strip() for row in units["IDS"].data]
        stamp = units["STAMPS"].data[18, ids.index("EC")]
        x0, y0 = units["X0"].data[18, ids.index("EC")], units["Y0"].data[18, ids.index("EC")]
    rows = found_table(done, "basic", "spots")
    row = rows[(rows["obsid"] == work.dataset.frames[18].obsid) & (rows["id"] == "EC")][0]
    top = np.unravel_index(int(np.nanargmax(stamp)), stamp.shape)
    assert abs(top[1] + x0 - row["x"]) < 1
    assert abs(top[0] + y0 - row["y"]) < 1
    assert not list((work.intermediate / "stamps").iterdir())


def test_without_coefficients_shapes_are_those_measured(
    done: tuple[Work, dict[str, Any]], tmp_path: Path
) -> None:
    work, _found = done
    kept, work.inputs.kernels = work.inputs.kernels, None
    folder, work.folder = work.folder, tmp_path
    try:
        found = run(work, "corrBFE_G15", psf_correction.correct)
        assert "not corrected" in found["notes"][0]
        found = run(work, "basic_nobfe", psf_shapes.basic_nobfe)
        assert not found["tables"]
        with pytest.raises(Refused, match="needs prep"):
            run(work, "basic", psf_shapes.basic)
        with pytest.raises(Refused, match="needs basic"):
            run(work, "meta", psf_shapes.meta)
        work.inputs.kernels = tmp_path / "other.ecsv"
        Table({"ccd": [1]}).write(work.inputs.kernels, format="ascii.ecsv")
        with pytest.raises(ConfigError):
            run(work, "corrBFE_G15", psf_correction.correct)
    finally:
        work.inputs.kernels, work.folder = kept, folder
