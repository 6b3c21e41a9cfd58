# SPDX-License-Identifier: BSD-3-Clause
"""From raw files alone, with the known clocks and the known pointing, the planet is where it is.

Catches what no single part shows: a wrong sign of a rotation, a skew or a delay forgotten. 20 ms at
120 arcsec/s would tear the two scan directions 4.8 arcsec apart.
"""

from __future__ import annotations

import numpy as np
import pytest

from kit.observatory import MadeNight, made_night
from nightjar.das.channels import BOLOCAM
from nightjar.das.raw import read_raw
from nightjard.simulators.observatory.das_clock import DasClock
from nightjard.simulators.observatory.focal_plane import FWHM_ARCSEC

Floats = np.ndarray


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> MadeNight:
    return made_night(tmp_path_factory.mktemp("map") / "n", 3, axes="radec")


def _signals(night: MadeNight) -> tuple[Floats, Floats]:
    """Return counts of the AC bolometers without the common mode, and true times of samples."""
    clock = DasClock(night.model["start_ns"])
    counts, times = [], []
    for path in night.files("raw"):
        raw = read_raw(path)
        stamps = raw.start_ns + np.arange(3000) * 20_000_000 + np.rint(raw.offsets_s() * 1e9)
        about = stamps - 800_000_000
        times.append(about - (clock.read(about.astype(np.int64)) - stamps))
        counts.append(raw.samples[:, BOLOCAM.bolometers("AC")].astype(float))
    data = np.concatenate(counts)
    data -= np.median(data, axis=0)
    common = np.median(data, axis=1)
    gains = (data.T @ common) / (common @ common)
    return data - common[:, None] * gains, np.concatenate(times)


def _offsets(night: MadeNight, times: Floats, pixel: int, late_s: float) -> tuple[Floats, Floats]:
    """Return where a pixel looks, arcsec east and north of the planet, by the convention."""
    t = night.truth
    when = times + late_s * 1e9
    grid = t["utc_ns"].astype(float)
    zero = grid[0]
    ra, dec, pa, theta = (
        np.interp(when - zero, grid - zero, np.unwrap(t[name], period=360))
        for name in ("ra_icrs", "dec_icrs", "pa", "theta")
    )
    # pa is to the pole of date: 20 years on that is 0.1 degrees, 0.4 arcsec at the array's edge.
    place = t["pixel_x"][pixel] + 1j * t["pixel_y"][pixel]
    a = np.angle(place) + np.radians(80.0 + pa - theta)
    source = night.model["sources"][0]
    cosine = np.cos(np.radians(source["dec_deg"]))
    east = (ra - source["ra_deg"]) * cosine * 3600 + abs(place) * np.cos(a)
    return east, (dec - source["dec_deg"]) * 3600 - abs(place) * np.sin(a)


def _centroid(night: MadeNight, extra_s: float = 0.0) -> dict[int, tuple[float, float, float]]:
    """Return for both scan directions: centre east and north, FWHM, arcsec."""
    data, times = _signals(night)
    t = night.truth
    scanning = np.interp(times, t["utc_ns"], (t["flags"] >> np.uint32(2)) & 1) > 0.99
    speed = np.interp(times, t["utc_ns"][1:], np.diff(t["x_offset"]))
    found = {}
    for direction in (-1, 1):
        chosen = scanning & (np.sign(speed) == direction)
        sums = np.zeros(5)
        for pixel, channel in enumerate(BOLOCAM.bolometers("AC")):
            east, north = _offsets(night, times[chosen], pixel, channel * 50e-6 + extra_s)
            near = np.hypot(east, north) < 40
            weight = data[chosen, pixel][near]
            x, y = east[near], north[near]
            sums += [weight.sum(), weight @ x, weight @ y, weight @ (x * x + y * y), 0]
        found[direction] = (sums[1] / sums[0], sums[2] / sums[0], np.sqrt(sums[3] / sums[0]))
    return found


def test_both_directions_find_the_planet(night: MadeNight) -> None:
    found = _centroid(night)
    for east, north, _ in found.values():
        assert abs(east) < 1.0
        assert abs(north) < 1.0
    assert abs(found[1][0] - found[-1][0]) < 1.0
    # Within 40 arcsec the mean square radius of a Gaussian beam is known.
    sigma = FWHM_ARCSEC / np.sqrt(8 * np.log(2))
    u = 40.0**2 / 2 / sigma**2
    wanted = sigma * np.sqrt(2 * (1 - u * np.exp(-u) / (1 - np.exp(-u))))
    for *_, radius in found.values():
        assert radius == pytest.approx(wanted, rel=0.03)


def test_a_sample_time_that_is_20_ms_wrong_is_seen(night: MadeNight) -> None:
    found = _centroid(night, 0.02)
    assert abs(found[1][0] - found[-1][0]) == pytest.approx(4.8, abs=1.0)
