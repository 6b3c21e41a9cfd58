# SPDX-License-Identifier: BSD-3-Clause
"""Spots on stamps: places, fluxes, widths, shapes come out as they were drawn, errors as true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kit.calib_spots import GAIN, NOISE, OFFSET, exposed, spot, stamps
from nightjard.calib.science import moments, psf_posterior
from nightjard.calib.science.sources import find_sources, star_like
from nightjard.calib.science.spots import Photometry, Stamps, cut, outliers, photometry


def measured(pixels: Any, **options: Any) -> Photometry:
    zeros = np.zeros(len(pixels), int)
    return photometry(
        Stamps(pixels, np.zeros(pixels.shape, bool), zeros, zeros), gain_e_adu=GAIN, **options
    )


def pull(values: Any, truth: Any, errors: Any) -> tuple[float, float]:
    """Mean of the deviations in standard errors of the mean, and spread beside the errors."""
    one = (values - truth) / errors
    return float(one.mean() * np.sqrt(len(one))), float(one.std())


@pytest.mark.parametrize("flux", [1.2e4, 2.5e5])
@pytest.mark.parametrize("fwhm", [2.1, 4.6])
def test_places_fluxes_and_widths_are_unbiased_and_their_errors_are_true(
    flux: float, fwhm: float
) -> None:
    pixels, x, y = stamps(120, np.random.default_rng(5), flux=flux, fwhm=fwhm)
    found = measured(pixels)
    assert found.is_good.all()
    for values, truth, errors in (
        (found.x, x, found.x_error), (found.y, y, found.y_error),
        (found.flux, flux, found.flux_error), (found.fwhm_x, fwhm, found.fwhm_x_error),
        (found.fwhm_y, fwhm, found.fwhm_y_error),
    ):  # fmt: skip
        mean, spread = pull(values, truth, errors)
        assert abs(mean) < 4
        assert 0.75 < spread < 1.3
    assert abs(np.mean(found.fwhm_x) - fwhm) < 0.02
    assert np.mean(found.background) == pytest.approx(OFFSET, abs=0.01)
    assert np.mean(found.background_sigma) == pytest.approx(np.hypot(NOISE, 12**-0.5), rel=0.02)


def test_widths_by_moments_are_freed_of_window_and_pixel() -> None:
    pixels, _, _ = stamps(60, np.random.default_rng(6), flux=2e5, fwhm=2.3)
    found = measured(pixels)
    assert np.mean(found.fwhm_x_moments) == pytest.approx(2.3, abs=0.02)
    assert np.mean(found.fwhm_y_moments) == pytest.approx(2.3, abs=0.02)


def test_widths_do_not_depend_on_the_flux_of_a_star_with_wings() -> None:
    rng = np.random.default_rng(7)
    faint, bright = (
        measured(stamps(100, rng, flux=flux, fwhm=2.1, beta=3.5)[0]) for flux in (1.5e4, 3e5)
    )
    assert abs(np.mean(faint.fwhm_x) - np.mean(bright.fwhm_x)) < 0.01


def test_hot_pixels_and_cosmic_rays_do_not_matter() -> None:
    rng = np.random.default_rng(8)
    pixels, x, _ = stamps(60, rng, flux=1e5, fwhm=2.2)
    for stamp in pixels:  # single pixels brighter than the star, and warm ones in the aperture
        stamp[tuple(rng.integers(0, 75, 2))] += 5e4
        stamp[42, 29] += 300
        stamp[30, 44] += 90
    found = measured(pixels)
    assert found.is_good.mean() > 0.9
    good = found.is_good
    assert np.median(np.abs(found.x - x)[good]) < 0.01
    assert np.median(found.flux[good]) == pytest.approx(1e5, rel=0.003)


def test_outliers_leave_the_wings_of_a_star_alone() -> None:
    rng = np.random.default_rng(9)
    light = spot(75, 37.2, 36.9, flux=4e5, fwhm=2.1, beta=3.5)[None]
    pixels = exposed(light, rng, offset=0.0)
    pixels[0, 37, 50] += 60
    marks = outliers(
        pixels, np.zeros(pixels.shape, bool), np.array([37.2]), np.array([36.9]),
        np.array([NOISE]),
    )  # fmt: skip
    assert marks[0, 37, 50]
    assert marks.sum() <= 4


def test_an_empty_stamp_has_no_spot() -> None:
    rng = np.random.default_rng(10)
    found = measured(exposed(np.zeros((20, 75, 75)), rng))
    assert found.is_good.sum() == 0


def test_stamps_that_say_nothing_do_not_disturb_the_others() -> None:
    pixels, x, y = stamps(4, np.random.default_rng(16), flux=1e5, fwhm=2.2)
    bad = np.zeros(pixels.shape, bool)
    bad[1] = True
    pixels[2] = 3000.0
    bad[3, 37 - 20 : 37 + 21, 37 - 20 : 37 + 21] = True
    zeros = np.zeros(4, int)
    found = photometry(Stamps(pixels, bad, zeros, zeros), gain_e_adu=GAIN)
    assert found.is_good.tolist() == [True, False, False, False]
    assert found.x[0] == pytest.approx(x[0], abs=0.02)
    assert found.y[0] == pytest.approx(y[0], abs=0.02)


def test_stamps_at_an_edge_and_bad_pixels_are_left_out() -> None:
    rng = np.random.default_rng(11)
    image = exposed(spot(90, 8.3, 80.6, flux=1e5, fwhm=2.2), rng)
    bad = np.zeros(image.shape, bool)
    image[80, 12], bad[80, 12] = 0, True
    piece = cut(image, [8.0], [81.0], bad=bad)
    assert piece.bad.sum() > 75 * 29
    found = photometry(piece, gain_e_adu=GAIN)
    assert found.is_good[0]
    assert found.x[0] == pytest.approx(8.3, abs=0.02)
    assert found.y[0] == pytest.approx(80.6, abs=0.02)
    assert found.flux[0] == pytest.approx(1e5, rel=0.01)


@pytest.mark.parametrize(("e1", "e2"), [(0.02, -0.015), (-0.1, 0.06)])
def test_weighted_moments_give_back_shapes(e1: float, e2: float) -> None:
    rng = np.random.default_rng(12)
    pixels, x, y = stamps(80, rng, flux=3e5, fwhm=2.1, e1=e1, e2=e2)
    rest, noise = pixels - OFFSET, np.full(80, NOISE)
    found = moments.shapes(
        rest, np.zeros(rest.shape, bool), x, y, noise=noise, gain_e_adu=GAIN
    )  # fmt: skip
    assert np.mean(found.e1) == pytest.approx(e1, abs=0.003)
    assert np.mean(found.e2) == pytest.approx(e2, abs=0.003)
    assert np.mean(found.r2) == pytest.approx(2 * 2.1**2 / (8 * np.log(2)), rel=0.02)
    for values, errors in ((found.e1, found.e1_error), (found.e2, found.e2_error)):
        assert 0.7 < np.std(values) / np.mean(errors) < 1.4
    assert np.mean(found.a / found.b) > 1


def test_skewness_tells_charge_that_was_left_behind() -> None:
    rng = np.random.default_rng(13)
    light = spot(75, 37, 37, flux=2e5, fwhm=2.1)
    trailing = light * 0.99
    for step in range(1, 6):
        trailing[:, step:] += 0.01 * light[:, :-step] / 5
    for image, is_trailing in ((light, False), (trailing, True)):
        pixels = np.stack([exposed(image, rng) for _ in range(30)])
        found = measured(pixels)
        shape = found.columns()
        from nightjard.calib.science.gaussian_fit import gaussian_pixels

        axis = np.tile(np.arange(75.0), (30, 1))
        values = np.stack(
            [shape["fit_flux"], shape["x"], shape["y"], shape["fwhm_x"] / 2.3548,
             shape["fwhm_y"] / 2.3548, 0 * shape["x"]], axis=1,
        )  # fmt: skip
        rest = pixels - found.background[:, None, None] - gaussian_pixels(values, axis, axis)[0]
        variance = np.broadcast_to(image / GAIN + NOISE**2 + 1 / 12, rest.shape)
        along_x, along_y, error_of_one = moments.residual_skewness(
            rest, np.zeros(rest.shape, bool), found.x, found.y, found.fit_flux, variance
        )
        assert 0.6 < np.std(along_x) / np.mean(error_of_one) < 1.7
        error = np.std(along_x) / np.sqrt(30)
        assert (np.mean(along_x) > 5 * error) == is_trailing
        assert abs(np.mean(along_y)) < 5 * np.std(along_y) / np.sqrt(30)


@pytest.mark.parametrize("beta", [None, 3.5])
def test_posteriors_know_turned_ellipses_and_wings(beta: float | None) -> None:
    rng = np.random.default_rng(14)
    pixels, x, y = stamps(40, rng, flux=8e4, fwhm=2.1, e1=0.03, e2=-0.02, beta=beta)
    rest = pixels - OFFSET
    found = psf_posterior.posterior(
        rest, np.zeros(rest.shape, bool), x, y, flux=np.full(40, 8e4), noise=np.full(40, NOISE),
        gain_e_adu=GAIN,
    )  # fmt: skip
    assert found.is_good.all()
    mean, covariance = psf_posterior.combined(found.mean, found.covariance)
    errors = np.sqrt(np.diag(covariance))
    truth = np.array([np.log(2.1), 0.03, -0.02])
    assert np.all(np.abs(mean[:3] - truth) < 4 * errors[:3] + [0.004, 0.001, 0.001])
    assert np.all(np.abs(mean[:3] - truth) < [0.009, 0.003, 0.003])
    spread = np.std(found.mean[:, 1]) / np.sqrt(np.mean(found.covariance[:, 1, 1]))
    assert 0.65 < spread < 1.5
    odds = psf_posterior.ln_odds_of_wings(float(mean[3]), float(errors[3]))
    if beta is None:
        assert odds < 1
    else:
        assert odds > 10
        assert 1 / mean[3] == pytest.approx(beta, rel=0.1)


def test_sources_are_found_on_a_sloping_background_and_defects_are_not() -> None:
    rng = np.random.default_rng(15)
    light = np.zeros((300, 260))
    truth = [(60.3, 80.2), (190.6, 40.1), (130.0, 220.7)]
    for x, y in truth:
        a, b = round(x) - 15, round(y) - 15
        light[b : b + 31, a : a + 31] += spot(31, x - a, y - b, flux=6e4, fwhm=2.3)
    slope = np.linspace(0, 40, 260)[None, :] + np.linspace(0, 25, 300)[:, None]
    image = exposed(light + slope, rng)
    image[:, 100] += 3000  # a hot column
    image[20, 20] += 4e4
    image[150, 30:60] += 900  # a track
    found = star_like(find_sources(image.astype(np.float32)))
    assert len(found) == 3
    for x, y in truth:
        assert np.min(np.hypot(found.x - x, found.y - y)) < 0.15
