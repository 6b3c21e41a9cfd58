# SPDX-License-Identifier: BSD-3-Clause
"""Dipoles found in arrays, electrodes, merging, fits of time constants, energies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kit.depth import counts
from nightjard.calib.science import dipoles, traps
from nightjard.simulators.detector import pumping as simulated


def noisy(shape: tuple[int, int] = (200, 150), seed: int = 3) -> Any:
    rng = np.random.default_rng(seed)
    column = rng.normal(1000, 30, shape[1])
    slope = np.linspace(0.98, 1.02, shape[0])[:, None]
    return (column * slope + rng.normal(0, 3, shape)).astype(np.float32)


def test_columns_and_slopes_do_not_hide_dipoles() -> None:
    pixels = noisy()
    for row, column, amplitude in ((50, 40, 40), (51, 90, -40), (120, 5, 20)):
        pixels[row, column] += amplitude
        pixels[row + 1, column] -= amplitude
    found = dipoles.find(dipoles.flatten(pixels, None), threshold=5.5)
    places = sorted(zip(found.row.tolist(), found.column.tolist(), found.polarity, strict=True))
    assert places == [(50, 40, 1), (51, 90, 0), (120, 5, 1)]
    assert found.amplitude[np.argmax(found.row)] == pytest.approx(0.02, abs=0.006)


def test_spikes_blemishes_and_bad_pixels_are_no_dipoles() -> None:
    pixels = noisy()
    pixels[30, 30] += 500  # a hot pixel
    pixels[60, 60] -= 500
    pixels[100:140, 70] += 200  # part of a column
    pixels[80:90, 20:30] -= 100  # a blemish
    bad = np.zeros(pixels.shape, bool)
    pixels[150, 100], pixels[151, 100] = 60000, 0
    bad[150:152, 100] = True
    found = dipoles.find(dipoles.flatten(pixels, bad), threshold=5.5, bad=bad)
    assert len(found) == 0


def test_noise_alone_is_rarely_a_dipole() -> None:
    pixels = np.random.default_rng(4).normal(1000, 3, (1000, 1000)).astype(np.float32)
    one = dipoles.flatten(pixels, None)
    assert one.noise == pytest.approx(0.003, rel=0.02)
    assert len(dipoles.find(one)) <= 2


def test_columns_without_charge_are_left_out() -> None:
    pixels = noisy()
    pixels[:, :10] = np.random.default_rng(5).normal(0, 3, (200, 10))
    one = dipoles.flatten(pixels, None)
    assert np.isnan(one.level[:10]).all()
    assert not one.residual[:, :10].any()
    assert len(dipoles.find(one)) == 0
    nothing = dipoles.flatten(np.zeros((50, 20), np.float32), None)
    assert len(dipoles.find(nothing)) == 0


def test_a_trap_need_not_be_seen_at_the_first_time() -> None:
    maps = []
    for time_us, amplitude in ((50.0, 0.0), (1000.0, 60.0), (8000.0, 0.0)):
        pixels = noisy(seed=int(time_us))
        pixels[70, 33] += amplitude
        pixels[71, 33] -= amplitude
        maps.append(dipoles.Pumped("123", time_us, dipoles.flatten(pixels, None)))
    found = dipoles.catalogue(maps)
    assert [len(one) for one in found.found] == [0, 1, 0]
    assert len(found.places) == 1
    assert (found.places.row[0], found.places.phase[0]) == (71, 1)
    # It is measured at all times, where it was not detected as well.
    assert found.amplitude[0, 0] == pytest.approx([0.0, 0.06, 0.0], abs=0.01)
    assert np.isnan(found.amplitude[0, 1]).all()


# --- electrodes, merging, fits ---


@pytest.mark.parametrize("mode", ["123", "234", "341", "412"])
def test_the_electrode_told_is_the_one_the_clocks_expose(mode: str) -> None:
    for phase in range(1, 5):
        moved = simulated.transfer(mode, phase)
        if moved is None:
            continue
        first = min(moved)
        polarity = int(moved[0] == first)  # the pixel that gains is the brighter
        assert traps.electrode(mode, polarity) == (phase, -first)


def test_detections_of_one_trap_merge_and_others_do_not() -> None:
    row = np.array([10, 10, 11, 13, 10, 10])
    column = np.array([5, 5, 5, 5, 6, 5])
    phase = np.array([1, 1, 1, 1, 1, 3])
    strength = np.array([6.0, 9.0, 7.0, 6.0, 6.0, 6.0])
    places = traps.merge(row, column, phase, strength)
    kept = sorted(zip(places.row, places.column, places.phase, places.strength, strict=True))
    assert kept == [(10, 5, 1, 9.0), (10, 5, 3, 6.0), (10, 6, 1, 6.0), (13, 5, 1, 6.0)]
    exact = traps.merge(row, column, phase, strength, tolerance_px=0)
    assert len(exact) == 5
    none = np.zeros(0, np.int64)
    assert len(traps.merge(none, none, none, np.zeros(0))) == 0


@pytest.mark.parametrize("count", counts(300, 10000))
@pytest.mark.parametrize("shape", [traps.vertical_shape, traps.serial_shape])
def test_errors_of_time_constants_are_those_of_their_scatter(shape: Any, count: int) -> None:
    rng = np.random.default_rng(9)
    is_serial = shape is traps.serial_shape
    times = (np.array([4.75, 9.5, 19.05, 33.35]) if is_serial
             else np.array([50.0, 200, 1000, 2000, 4000, 8000]))  # fmt: skip
    tau = np.exp(rng.uniform(np.log(times[0] * 1.5), np.log(times[-1] * 0.5), count))
    charge = rng.uniform(0.4, 0.9, count)
    truth = 5000 * charge[:, None] * shape(times[None, :], tau[:, None])
    noise = 15.0
    data = np.full((count, 2, len(times)), np.nan)
    data[:, 0] = truth + rng.normal(0, noise, truth.shape)
    data[::2, 1] = truth[::2] + rng.normal(0, noise, truth[::2].shape)
    found = traps.fit(times, data, np.where(np.isfinite(data), noise, np.nan), cycles=5000,
                      shape=shape)  # fmt: skip
    pull = (np.log(found.tau_us / tau)) / (found.tau_error_us / found.tau_us)
    assert abs(np.median(pull)) < 0.2
    assert 0.85 < 1.4826 * np.median(np.abs(pull)) < 1.2
    assert found.is_good.mean() > 0.95
    pulled = (found.capture_e - charge) / found.capture_error_e
    assert 0.85 < 1.4826 * np.median(np.abs(pulled)) < 1.2
    assert np.median(found.chi2 / found.degrees) == pytest.approx(0.9, abs=0.25)


def test_time_constants_outside_the_pumping_times_are_not_trusted() -> None:
    times = np.array([50.0, 200, 1000])
    data = 1000 * traps.vertical_shape(times, np.array(1e6))[None, None, :]
    found = traps.fit(times, data, np.full(data.shape, 5.0), cycles=5000,
                      shape=traps.vertical_shape)  # fmt: skip
    assert not found.is_good[0]
    empty = traps.fit(times, np.zeros((0, 2, 3)), np.zeros((0, 2, 3)), cycles=5000,
                      shape=traps.vertical_shape)  # fmt: skip
    assert len(empty.tau_us) == 0


def test_energies_come_from_two_temperatures_and_not_from_one() -> None:
    kelvin = np.array([148.0, 158.0])
    tau = np.array([[float(traps.tau_us_of(0.225, 5e-16, k)) for k in kelvin],
                    [float(traps.tau_us_of(0.30, 1e-14, kelvin[0])), np.nan]])  # fmt: skip
    energy, error, section, relative = traps.energy_and_section(kelvin, tau, 0.01 * tau)
    assert energy[0] == pytest.approx(0.225, abs=1e-4)
    assert section[0] == pytest.approx(5e-16, rel=1e-2)
    assert 0 < error[0] < 0.005
    assert 0 < relative[0] < 1
    assert np.isnan(energy[1])
    # By the formula, and as simulated: two ways to the same number.
    assert traps.tau_us_of(0.225, 5e-16, 153.0) == pytest.approx(
        float(simulated.emission_us(0.225, 5e-16, 153.0)), rel=1e-6
    )
    assert traps.cross_section_cm2(307.4, 0.225, 153.0) == pytest.approx(5e-16, rel=0.01)


def test_a_species_is_told_among_others_or_not_at_all() -> None:
    rng = np.random.default_rng(11)
    tau = np.concatenate((307 * np.exp(rng.normal(0, 0.05, 20)), np.exp(rng.uniform(4, 9, 20))))
    found = traps.species_peak(tau, 0.05 * tau, 0.225, 200.0, 153.0)
    assert found is not None
    assert found.tau_us == pytest.approx(307, rel=0.05)
    assert traps.species_peak(tau[:2], 0.05 * tau[:2], 0.225, 307.0, 153.0) is None
    assert traps.species_peak(tau, 0.05 * tau, 0.225, 1e6, 153.0) is None
