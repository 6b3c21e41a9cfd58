# SPDX-License-Identifier: BSD-3-Clause
"""The simulated ADC and its clocks: values by true time, blocks as at once, the beam in place."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nightjar.das.channels import BOLOCAM, ChannelGroup, ChannelMap
from nightjar.das.lines import Line, levels
from nightjar.times import parse_iso
from nightjard.simulators.observatory import focal_plane
from nightjard.simulators.observatory.adc import VOLTS_PER_LSB, Adc, AdcParameters, rise
from nightjard.simulators.observatory.das_clock import DasClock
from nightjard.simulators.observatory.noise import normal, smooth
from nightjard.simulators.observatory.scenario import FIDUCIAL_DEG, Night, lay_out, plan
from nightjard.simulators.observatory.scenes import NightScene, WiresScene, store_sources
from nightjard.simulators.observatory.sky import angles
from nightjard.simulators.observatory.timeline import Observation
from nightjard.simulators.observatory.truth import TelescopeParameters
from nightjard.simulators.wires import Wires

START = parse_iso("2026-11-21T10:00:00")
S = 10**9
QUIET = AdcParameters(
    white_counts=0.0, atmosphere_counts=0.0, mains_counts=0.0, glitches_per_minute=0,
    gain_spread=0.0,
)  # fmt: skip


class EmptySky(NightScene):
    """A night without sources."""

    def sources(self, t_ns: object) -> list:  # type: ignore[type-arg]
        """Return none."""
        return []


@pytest.fixture(scope="module")
def night() -> Night:
    p = TelescopeParameters()
    return lay_out(p, plan(p, START + 2 * S, 240), START + 240 * S)


def test_blocks_are_the_same_as_all_at_once(night: Night) -> None:
    clock = DasClock(START)
    times = clock.sample_times(900, 1300)
    whole = Adc(NightScene(night)).samples(times, 900)
    adc = Adc(NightScene(night))
    for first, count in ((0, 5), (5, 123), (128, 1), (129, 1171)):
        part = adc.samples(times[first : first + count], 900 + first)
        assert (part == whole[first : first + count]).all()
    other = Adc(NightScene(night), parameters=AdcParameters(seed=2)).samples(times, 900)
    assert (other[:, 0] != whole[:, 0]).mean() > 0.9


def test_levels_and_noise_are_as_asked(night: Night) -> None:
    clock = DasClock(START)
    adc = Adc(NightScene(night), parameters=AdcParameters(atmosphere_counts=400.0, dead=(3,)))
    data = adc.samples(clock.sample_times(0, 6000), 0).astype(float)
    ac = BOLOCAM.bolometers("AC")
    white = np.diff(data[:, ac], axis=0).std(0) / np.sqrt(2)
    assert 5.5 < np.median(white) < 8.0
    assert data[:, ac[3]].std() < 1.0
    # What the sky does is common: far pixels are correlated too.
    quiet = dataclasses.replace(QUIET, atmosphere_counts=400.0)
    sky = Adc(EmptySky(night), parameters=quiet).samples(clock.sample_times(0, 6000), 0)
    assert np.corrcoef(sky[:, [ac[0], ac[100]]].T)[0, 1] > 0.97
    volts = data * VOLTS_PER_LSB
    np.testing.assert_allclose(volts[:, [344, 376]].mean(0), 2.5, rtol=5e-3)
    np.testing.assert_allclose(volts[:, 345:351].mean(0), 1.0, rtol=5e-3)
    assert 1.7 <= volts[:, 56].mean() <= 2.3
    assert 0.39 < volts[:, 31].min()
    assert volts[:, 31].max() < 1.31
    assert volts[:, 32 : 32 + 24].mean() == pytest.approx(5.0, abs=0.2)
    glitches = adc.glitches(0, 6000)
    assert len(glitches) == 2
    for row, channel, counts in glitches:
        if 10 < row < 5990:
            around = np.median(data[row - 3 : row, channel])
            assert data[row, channel] - around == pytest.approx(counts, abs=60)


def test_volts_of_lines_follow_their_edges(night: Night) -> None:
    clock = DasClock(START)
    adc = Adc(NightScene(night))
    times = clock.sample_times(0, 10_000)
    data = adc.samples(times, 0) * VOLTS_PER_LSB
    for line in (Line.ACQUIRED, Line.TRACKING, Line.OBSERVATION, Line.ROTATE, Line.ROTATING):
        (channel,) = BOLOCAM.channels_of(line.variable)
        seen = levels(data[:, channel])
        when = adc.channel_times(times, channel)
        edges = [(t, up) for t, up in night.observatory.timeline.edges(line) if t > times[0]]
        edges = [(t, up) for t, up in edges if t < times[-1]]
        rows = np.flatnonzero(np.diff(seen)) + 1
        assert len(rows) == len(edges) > 0
        for row, (t, up) in zip(rows, edges, strict=True):
            assert bool(seen[row]) == up
            late = when[row] - t
            assert 0 <= late <= 20_000_000 + 1_500_000
    assert rise([(1000, True)], np.array([999, 1000, 101_000, 201_000]))[2] == pytest.approx(0.5)


def test_the_array_is_sixfold_and_of_the_known_size() -> None:
    pixels = focal_plane.hexagonal(144)
    assert len({(round(p.real, 3), round(p.imag, 3)) for p in pixels}) == 144
    assert np.abs(pixels).max() / 38.5 == pytest.approx(6.245, abs=1e-3)
    np.testing.assert_allclose(pixels[24:48], pixels[:24] * np.exp(1j * np.pi / 3))
    gaps = np.abs(pixels[:, None] - pixels)[~np.eye(144, dtype=bool)]
    assert gaps.min() == pytest.approx(38.5)
    assert focal_plane.hexagonal(10).size == 10


def test_a_source_is_seen_where_the_convention_says() -> None:
    """RA += r cos A / cos Dec, Dec -= r sin A, A = b + fiducial + pa - theta."""
    ra, dec, pa, theta = 123.0, 41.0, 33.0, -12.0
    pixel = focal_plane.hexagonal(144)[77]
    radius, angle = abs(pixel), np.degrees(np.angle(pixel))
    a = np.radians(angle + FIDUCIAL_DEG + pa - theta)
    seen_ra = ra + radius * np.cos(a) / 3600 / np.cos(np.radians(dec))
    seen_dec = dec - radius * np.sin(a) / 3600
    place = focal_plane.in_array(
        *(np.array([v]) for v in (ra, dec, seen_ra, seen_dec, FIDUCIAL_DEG + pa - theta))
    )
    assert abs(place[0] - pixel) < 0.2


def test_each_bolometer_sees_the_planet_at_its_own_time(night: Night) -> None:
    """Peaks of crossings, channel by channel, against the true pointing at that channel's time."""
    clock = DasClock(START)
    adc = Adc(NightScene(night), parameters=dataclasses.replace(QUIET, seed=5))
    first, count = 1500, 6000
    times = clock.sample_times(first, count)
    data = adc.samples(times, first).astype(float)
    ac = BOLOCAM.bolometers("AC")
    observatory = night.observatory
    source = night.sources[0]
    checked = 0
    for pixel in range(0, 144, 5):
        channel = ac[pixel]
        signal = data[:, channel] - np.median(data[:, channel])
        row = int(np.argmax(signal))
        if signal[row] < 300 or not 5 < row < count - 5:
            continue
        rows = np.arange(row - 5, row + 6)
        when = adc.channel_times(times[rows], channel)
        ra, dec, pa = observatory.boresight(when)
        theta = night.rotation.angles_at(when)
        a = np.angle(adc.pixels[pixel]) + np.radians(FIDUCIAL_DEG + pa - theta)
        radius = abs(adc.pixels[pixel]) / 3600
        beam_ra = ra + radius * np.cos(a) / np.cos(np.radians(dec))
        beam_dec = dec - radius * np.sin(a)
        seen_ra, seen_dec = angles(observatory.sky.apparent(source.direction, when))
        away = np.hypot(
            (beam_ra - seen_ra) * np.cos(np.radians(dec)), beam_dec - seen_dec
        ) * 3600  # fmt: skip
        wanted = 500 * np.exp(-(away**2) / 2 / focal_plane.SIGMA_ARCSEC**2)
        # 3 counts are 0.1 arcsec at the steepest place.
        np.testing.assert_allclose(signal[rows], wanted, atol=4.0)
        checked += 1
    assert checked > 10


def test_an_array_of_another_shape() -> None:
    channels = ChannelMap(
        count=8,
        groups=(
            ChannelGroup(name="bolos", kind="bolometers", first=0, count=6, hextant=1, lockin="AC"),
            ChannelGroup(name="trck_das", kind="line", first=7),
        ),
    )
    p = TelescopeParameters()
    made = lay_out(p, plan(p, START, 60), START + 60 * S)
    data = Adc(NightScene(made), channels).samples(DasClock(START).sample_times(0, 100), 0)
    assert data.shape == (100, 8)


def test_wires_show_the_same_sky(night: Night, tmp_path) -> None:  # type: ignore[no-untyped-def]
    wires = Wires.create(tmp_path / "wires")
    store_sources(wires.path, night.observatory.sky, night.sources)
    grid = START + np.arange(20 * 100, 40 * 100) * (S // 100)
    wires.put_pointing(grid, *night.observatory.pointing(grid))
    wires.put_angle(grid, night.rotation.angles_at(grid))
    for line in Line:
        for t, up in night.observatory.timeline.edges(line):
            if t < grid[-1]:
                wires.set_line(line, up, t)
    times = DasClock(START).sample_times(1100, 500)
    alone = Adc(NightScene(night)).samples(times, 1100).astype(int)
    wired = Adc(WiresScene(wires)).samples(times, 1100).astype(int)
    # Straight lines between records of 100 Hz: some counts on the flanks of the planet at most.
    assert np.abs(alone - wired).max() <= 6


def test_the_clock_of_the_das() -> None:
    clock = DasClock(START, steps=((START + 100 * S, 1.3),))
    assert clock.read(START)[0] - START == 0.8 * S
    hour = clock.read([START + 50 * S])[0] - (START + 50 * S)
    assert hour == pytest.approx(0.8 * S - 27e-6 * 50 * S, abs=1)
    assert clock.read(START + 100 * S)[0] - clock.read(START + 100 * S - 1)[0] > 1.29 * S
    for t in (START + 10 * S, START + 99 * S, START + 3600 * S):
        assert abs(clock.true_of(int(clock.read(t)[0])) - t) <= 1
    times = clock.sample_times(0, 180_000)
    assert (times[-1] - START) / S == pytest.approx(179_999 / 50 / (1 + 3e-6), abs=1e-8)
    assert clock.sample_times(clock.counter_at(START + 5 * S), 1)[0] >= START + 5 * S
    jitter = clock.stamps(0, 5000) - clock.read(clock.sample_times(0, 5000))
    assert np.std(jitter) == pytest.approx(2e-4 * S, rel=0.05)
    assert (clock.stamps(10, 5) == clock.stamps(0, 20)[10:15]).all()


def test_noise_is_a_function_of_time() -> None:
    t = START + np.arange(200_000) * (S // 100)
    whole = smooth(t, S // 5, 3)
    assert np.std(whole) == pytest.approx(1.0, rel=0.05)
    assert (smooth(t[777:779], S // 5, 3) == whole[777:779]).all()
    assert np.abs(np.diff(whole)).max() < 0.5
    values = normal(np.arange(100_000), 1)
    assert abs(values.mean()) < 0.02
    assert values.std() == pytest.approx(1.0, rel=0.02)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02


def test_observation_defaults() -> None:
    p = TelescopeParameters()
    wanted = plan(p, START, 600, pattern="mixed").observations
    assert [one.pattern for one in wanted[:4]] == ["raster", "lissajous", "drift", "pointed"]
    assert isinstance(wanted[0], Observation)
    assert wanted[0].number == 1
