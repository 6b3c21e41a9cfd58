# SPDX-License-Identifier: BSD-3-Clause
"""The simulated image: its statistics are those of the options, its truth is in its pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from nightjar.errors import Cancelled
from nightjard.camd.drivers.embedded import Embedded, embed, read_embedded
from nightjard.camd.drivers.options import SimulatedOptions
from nightjard.camd.drivers.scene import Renderer
from nightjard.camd.drivers.sensor import Exposure, Geometry
from nightjard.camd.drivers.starfield import star_positions
from nightjard.camd.geometry import Region

QUIET: dict[str, Any] = {
    "width": 400, "height": 300, "hot_pixels": 0, "cosmic_rate": 0.0, "embed": False,
    "bias_level": 300.0, "bias_per_offset": 10.0, "e_per_adu": 0.5, "gain_default": 0,
}  # fmt: skip


def render(frame_id: int = 1, **changes: Any) -> NDArray[np.uint16]:
    chosen = {**QUIET, **changes}
    exposure_s = chosen.pop("exposure_s", 1.0)
    temperature_c = chosen.pop("temperature_c", -10.0)
    gain, offset = chosen.pop("gain", 0), chosen.pop("offset", 0)
    window, binning = chosen.pop("window", None), chosen.pop("binning", 1)
    renderer = Renderer(SimulatedOptions(**chosen))
    exposure = Exposure(
        frame_id, 10**18 + frame_id, round(exposure_s * 1e9), temperature_c, gain, offset,
        window or renderer.geometry.readout, binning,
    )  # fmt: skip
    out = np.full(
        (exposure.window.height // binning, exposure.window.width // binning), 0xA5A5, np.uint16
    )
    renderer.render(exposure, out)
    return out


# -- geometry -----------------------------------------------------------------------------------


def test_default_geometry_fills_the_framebuffer_of_the_seed() -> None:
    geometry = Geometry.of(SimulatedOptions())
    assert geometry.readout.width * geometry.readout.height * 2 * 5 == 616_512_000
    assert (geometry.image.width, geometry.image.height) == (9576, 6388)
    assert str(geometry.bias) == "[1:9600,6391:6422]"
    assert str(geometry.dark) == "[1:22,1:6388]"


@pytest.mark.parametrize(
    ("given_regions", "image"),
    [
        ({}, "[1:100,1:80]"),
        ({"dark_region": "[1:10,1:80]"}, "[11:100,1:80]"),
        ({"dark_region": "[91:100,1:80]"}, "[1:90,1:80]"),
        ({"bias_region": "[1:100,75:80]"}, "[1:100,1:74]"),
        ({"bias_region": "[1:100,1:4]", "dark_region": "[1:8,5:80]"}, "[9:100,5:80]"),
        ({"image_region": "[20:60,20:60]"}, "[20:60,20:60]"),
    ],
)
def test_image_region_is_what_the_others_leave(
    given_regions: dict[str, str], image: str
) -> None:
    options = SimulatedOptions(width=100, height=80, **given_regions)  # type: ignore[arg-type]
    assert str(Geometry.of(options).image) == image


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"image_region": "[1:401,1:10]"}, "image_region"),
        ({"dark_region": "[10:1,1:10]"}, "dark_region"),
        ({"bias_region": "everything"}, "bias_region"),
        ({"gain_default": 101}, "gain_default"),
        ({"exposure_min": 2.0, "exposure_max": 1.0}, "exposure_min"),
        ({"hardware_binnings": [2]}, "hardware_binnings"),
        ({"filters": ["V", "V"]}, "filters"),
        ({"faults": [{"kind": "gremlin"}]}, "faults"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_options_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        SimulatedOptions(width=400, height=300, **{"gain_range": [0, 100], **wrong})


# -- levels and noise ---------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["pool", "fresh"])
def test_bias_has_level_and_read_noise(noise: str) -> None:
    frame = render(scene="bias", noise=noise, read_noise=4.0, offset=20)
    assert frame.mean() == pytest.approx(300 + 10 * 20, abs=0.15)
    # Rounding to integers adds 1/12 ADU^2.
    assert frame.std() == pytest.approx(math.sqrt(8.0**2 + 1 / 12), rel=0.02)


@pytest.mark.parametrize("noise", ["pool", "fresh"])
def test_photon_transfer_gives_back_the_gain(noise: str) -> None:
    """Variance over signal of two flats is 1 / (e-/ADU): the classical measurement."""
    common: dict[str, Any] = {"scene": "flat", "flat_level": 8000.0, "noise": noise, "gain": 20}
    first = render(1, **common).astype(float)
    second = render(2, **common).astype(float)
    expected = 0.5 * 10 ** (-20 / 100)
    signal = (first.mean() + second.mean()) / 2 - 300
    variance = (first - second).var() / 2 - (3.0 / expected) ** 2
    assert signal == pytest.approx(8000 / expected, rel=0.002)
    assert signal / variance == pytest.approx(expected, rel=0.03)


def test_dark_current_doubles_with_temperature() -> None:
    common: dict[str, Any] = {
        "scene": "dark", "dark_current": 2.0, "dark_reference": -10.0, "dark_doubling": 6.0,
        "exposure_s": 100.0,
    }  # fmt: skip
    electrons = [
        (render(temperature_c=celsius, **common).mean() - 300) * 0.5 for celsius in (-10, -4, 2)
    ]
    assert electrons == pytest.approx([200, 400, 800], rel=0.01)


def test_regions_see_what_they_should() -> None:
    frame = render(
        scene="flat", flat_level=1000.0, dark_current=50.0, exposure_s=2.0,
        bias_region="[1:400,281:300]", dark_region="[1:30,1:280]",
    )  # fmt: skip
    light, dark = 2 * 1000 / 0.5, 2 * 50 / 0.5
    assert frame[280:].mean() == pytest.approx(300, abs=0.5)
    assert frame[:280, :30].mean() == pytest.approx(300 + dark, abs=1)
    assert frame[:280, 30:].mean() == pytest.approx(300 + dark + light, abs=1)


def test_level_follows_the_exposure_and_saturates_at_the_converter() -> None:
    short = render(scene="flat", flat_level=1000.0, exposure_s=0.5).mean() - 300
    longer = render(scene="flat", flat_level=1000.0, exposure_s=4.0).mean() - 300
    assert longer / short == pytest.approx(8, rel=0.01)
    assert (render(scene="flat", exposure_s=1000.0, full_well=1e9) == 65535).all()
    assert render(scene="flat", exposure_s=1000.0, full_well=1e9, bits=12).max() == 4095


def test_a_full_well_holds_no_more() -> None:
    frame = render(scene="flat", exposure_s=1000.0, full_well=10_000.0)
    assert frame.mean() == pytest.approx(300 + 10_000 / 0.5, rel=0.01)


def test_pool_noise_repeats_neither_in_rows_nor_in_frames() -> None:
    first = render(1, scene="bias").astype(float) - 300
    second = render(2, scene="bias").astype(float) - 300
    power = (first**2).mean()
    assert abs((first[:-1] * first[1:]).mean()) < 0.03 * power
    assert abs((first[:, :-1] * first[:, 1:]).mean()) < 0.03 * power
    assert abs((first * second).mean()) < 0.03 * power
    assert len({row.tobytes() for row in first}) == len(first)


def test_a_frame_is_a_function_of_its_exposure_and_seed() -> None:
    common: dict[str, Any] = {"stars": 30, "hot_pixels": 50, "cosmic_rate": 50.0}
    assert np.array_equal(render(7, **common), render(7, **common))
    assert not np.array_equal(render(7, **common), render(8, **common))
    assert not np.array_equal(render(7, **common), render(7, seed=2, **common))


# -- sparse light -------------------------------------------------------------------------------


def test_stars_have_their_flux_at_their_place() -> None:
    options: dict[str, Any] = {"stars": 5, "brightest_star": 2e5, "sky_level": 10.0, "fwhm": 3.0}
    chosen = SimulatedOptions(**{**QUIET, **options})
    frame = render(full_well=1e9, **options).astype(float) - 300 - 10 / 0.5
    x, y, flux = star_positions(chosen, Geometry.of(chosen))
    rows, columns = np.indices(frame.shape)
    checked = 0
    for index in range(5):
        inside = (columns - x[index]) ** 2 + (rows - y[index]) ** 2 < 8**2
        near = (x - x[index]) ** 2 + (y - y[index]) ** 2 < 25**2
        off_edge = 10 < x[index] < 390 and 10 < y[index] < 290
        if near.sum() > 1 or not off_edge:
            continue
        light = frame[inside]
        assert light.sum() * 0.5 == pytest.approx(flux[index], rel=0.03)
        assert (light * columns[inside]).sum() / light.sum() == pytest.approx(x[index], abs=0.2)
        assert (light * rows[inside]).sum() / light.sum() == pytest.approx(y[index], abs=0.2)
        checked += 1
    assert checked >= 3


def test_starlight_has_photon_noise() -> None:
    options: dict[str, Any] = {"stars": 1, "brightest_star": 5e5, "sky_level": 0.0, "fwhm": 8.0}
    frames = np.array([render(number, **options) for number in range(1, 60)]).astype(float)
    bright = frames.mean(axis=0) > 2000
    electrons = (frames.mean(axis=0)[bright] - 300) * 0.5
    noise = frames.std(axis=0, ddof=1)[bright] * 0.5
    assert bright.sum() > 50
    assert (noise**2 / (electrons + 9)).mean() == pytest.approx(1.0, abs=0.06)


def test_a_window_shows_its_part_of_the_field() -> None:
    options: dict[str, Any] = {"stars": 40, "brightest_star": 1e5, "sky_level": 1.0}
    whole = render(**options).astype(float)
    window = Region(101, 220, 51, 170)
    part = render(window=window, **options).astype(float)
    crop = whole[50:170, 100:220]
    assert part.shape == crop.shape
    assert np.corrcoef(part.ravel(), crop.ravel())[0, 1] > 0.95
    shifted = whole[51:171, 101:221]
    assert np.corrcoef(part.ravel(), shifted.ravel())[0, 1] < 0.85


def test_binning_adds_pixels() -> None:
    options: dict[str, Any] = {"stars": 20, "brightest_star": 1e5, "sky_level": 100.0}
    whole = render(**options).astype(float)
    binned = render(binning=2, **options).astype(float)
    summed = whole.reshape(150, 2, 200, 2).sum(axis=(1, 3))
    assert binned.shape == (150, 200)
    assert np.median(binned) == pytest.approx(np.median(summed), rel=0.005)
    assert np.corrcoef(binned.ravel(), summed.ravel())[0, 1] > 0.98
    sky: dict[str, Any] = {"scene": "flat", "flat_level": 100.0}
    expected = render(**sky).reshape(150, 2, 200, 2).sum(axis=(1, 3)).std()
    assert render(binning=2, **sky).std() == pytest.approx(expected, rel=0.02)


def test_hot_pixels_follow_the_temperature() -> None:
    common: dict[str, Any] = {
        "scene": "dark", "hot_pixels": 200, "hot_current": 100.0, "dark_current": 0.0,
        "exposure_s": 10.0,
    }  # fmt: skip
    cold = (render(temperature_c=-10.0, **common).astype(float) - 300).clip(100)
    warm = (render(temperature_c=2.0, **common).astype(float) - 300).clip(100)
    hot = (cold > 500) & (warm < 60_000)
    assert 100 < hot.sum() <= 200
    assert np.median(warm[hot] / cold[hot]) == pytest.approx(4.0, rel=0.05)


def test_cosmic_rays_come_with_their_rate() -> None:
    renderer = Renderer(SimulatedOptions(**{**QUIET, "scene": "dark", "cosmic_rate": 1e3}))
    readout = renderer.geometry.readout
    out = np.empty((300, 400), np.uint16)
    counts = []
    for number in range(30):
        exposure = Exposure(number, number, 10**9, -10.0, 0, 0, readout)
        counts.append(renderer.render(exposure, out)["cosmic_rays"])
    expected = 30 * 1e3 * 300 * 400 / 1e7
    assert sum(counts) == pytest.approx(expected, abs=4 * math.sqrt(expected))
    assert out.max() > 1000


# -- prepared frames, cancellation --------------------------------------------------------------


def test_fast_frames_are_copies_with_their_own_truth() -> None:
    renderer = Renderer(SimulatedOptions(**{**QUIET, "render": "fast", "embed": True}))
    readout = renderer.geometry.readout
    frames = []
    for number in range(1, 6):
        out = np.empty((300, 400), np.uint16)
        renderer.render(Exposure(number, 10**18, 10**9, -10.0, 0, 0, readout), out)
        assert read_embedded(out).frame_id == number
        frames.append(out)
    assert np.array_equal(frames[0][1:], frames[2][1:])
    assert not np.array_equal(frames[0][1:], frames[1][1:])
    longer = np.empty((300, 400), np.uint16)
    renderer.render(Exposure(6, 10**18, 10**10, -10.0, 0, 0, readout), longer)
    assert np.median(longer) > np.median(frames[0]) + 100


@pytest.mark.parametrize("options", [{}, {"noise": "fresh"}, {"render": "fast"}])
def test_cancellation_stops_within_some_hundred_rows(options: dict[str, Any]) -> None:
    renderer = Renderer(SimulatedOptions(**{**QUIET, "height": 2000, "width": 32, **options}))
    exposure = Exposure(1, 1, 10**9, -10.0, 0, 0, renderer.geometry.readout)
    renderer.render(exposure, np.empty((2000, 32), np.uint16))  # prepares what is prepared once
    out = np.zeros((2000, 32), np.uint16)
    calls = iter([False, False, True])
    with pytest.raises(Cancelled):
        renderer.render(exposure, out, lambda: next(calls))
    assert 0 < out.any(axis=1).sum() <= 512


# -- embedded truth -----------------------------------------------------------------------------


@given(
    st.builds(
        Embedded,
        frame_id=st.integers(0, 2**32 - 1),
        start_ns=st.integers(0, 2**63 - 1),
        exposure_us=st.integers(0, 2**48),
        temperature_c=st.integers(-10_000, 6_000).map(lambda value: value / 100),
        lost=st.integers(0, 65535),
    ),
    st.sampled_from([np.uint16, np.uint32, np.int64, np.float32, np.float64]),
)
def test_embedded_truth_reads_back(truth: Embedded, kind: Any) -> None:
    frame = np.zeros((2, 20), np.uint16)
    embed(frame, truth)
    assert not frame[0, 16:].any()
    assert not frame[1].any()
    assert read_embedded(frame.astype(kind)) == truth


@given(st.integers(0, 15), st.integers(1, 65535))
def test_damaged_truth_is_refused(place: int, change: int) -> None:
    frame = np.zeros((1, 16), np.uint16)
    embed(frame, Embedded(5, 10**18, 10**6, -10.0, 3))
    frame[0, place] = (int(frame[0, place]) + change) & 0xFFFF
    with pytest.raises(ValueError, match="embedded truth"):
        read_embedded(frame)


@pytest.mark.parametrize("shape", [(3, 15), (16,), (2, 2, 16)])
def test_no_room_for_embedded_truth(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="holds no embedded truth"):
        read_embedded(np.zeros(shape, np.uint16))


def test_a_frame_narrower_than_the_truth_is_all_image() -> None:
    renderer = Renderer(SimulatedOptions(width=12, height=8, scene="bias"))
    exposure = Exposure(1, 10**18, 10**9, -10.0, 0, 0, renderer.geometry.readout)
    out = np.zeros((8, 12), np.uint16)
    renderer.render(exposure, out)
    assert (abs(out.astype(float) - 200) < 60).all()
    wide = Renderer(SimulatedOptions(width=16, height=8, scene="bias"))
    wide_out = np.zeros((8, 16), np.uint16)
    wide.render(replace(exposure, window=wide.geometry.readout), wide_out)
    assert read_embedded(wide_out).frame_id == 1
