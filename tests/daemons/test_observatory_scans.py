# SPDX-License-Identifier: BSD-3-Clause
"""Scans and status lines of the simulated telescope: geometry, motion, the rules of the lines."""

from __future__ import annotations

import numpy as np
import pytest

from nightjar.das.lines import Line, has_bit
from nightjar.das.pointing import FLAG_BITS
from nightjar.errors import InvalidArgument
from nightjar.times import parse_iso
from nightjard.simulators.observatory.patterns import Lissajous, Raster
from nightjard.simulators.observatory.rotation import ROWS_DEG, best_angle
from nightjard.simulators.observatory.scenario import Night, lay_out, plan, sources_up
from nightjard.simulators.observatory.timeline import Observation
from nightjard.simulators.observatory.truth import TelescopeParameters

START = parse_iso("2026-11-21T10:00:00")
S = 10**9


def _night(pattern: str, minutes: float = 10, **chosen: object) -> Night:
    p = TelescopeParameters()
    wanted = plan(p, START, minutes * 60, pattern=pattern, **chosen)  # type: ignore[arg-type]
    return lay_out(p, wanted, START + round(minutes * 60 * S))


@pytest.mark.parametrize("speed", [60.0, 120.0, 240.0])
def test_rows_of_a_raster_are_straight_even_and_alternate(speed: float) -> None:
    raster = Raster(300.0, speed_arcsec_s=speed)
    edges = raster.edges()
    rows = list(zip(edges[::2], edges[1::2], strict=True))
    assert len(rows) == raster.rows >= 20
    for number, ((begin, up), (end, down)) in enumerate(rows):
        assert up
        assert not down
        assert end - begin == pytest.approx(600.0 / speed)
        tau = np.linspace(begin + 1e-6, end - 1e-6, 50)
        x, y = raster.offsets(tau)
        np.testing.assert_allclose(np.diff(x) / np.diff(tau), speed * (-1) ** number, rtol=1e-6)
        assert np.ptp(y) == pytest.approx(0.0, abs=1e-9)
        assert abs(x[0]) == pytest.approx(300.0, abs=1e-3)
    heights = [raster.offsets(np.array([begin + 1.0]))[1][0] for (begin, _), _ in rows]
    np.testing.assert_allclose(np.abs(np.diff(heights)), 30.0, atol=1e-9)
    assert min(heights) == -300.0
    assert max(heights) <= 300.0
    assert rows[1][0][0] - rows[0][1][0] == pytest.approx(2.0)


@pytest.mark.parametrize("pattern", [Raster(100.0), Raster(170.0, speed_arcsec_s=240.0),
                                     Lissajous(90.0)])  # fmt: skip
def test_motion_is_smooth_and_begins_and_ends_in_the_centre(pattern: Raster | Lissajous) -> None:
    tau = np.arange(-1.0, pattern.duration_s + 1.0, 0.001)
    x, y = pattern.offsets(tau)
    for values in (x, y):
        speed = np.diff(values) / 0.001
        assert np.abs(speed).max() < 500.0
        # A jump of speed would be a jump of 1000 times that in the acceleration.
        assert np.abs(np.diff(speed)).max() < 1.5
        assert abs(values[0]) < 1e-9
        assert abs(values[-1]) < 1e-9
    assert np.abs(pattern.overshoot(tau)).max() <= 1.0


def test_a_scan_that_is_too_short_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="one row"):
        Raster(10.0)
    with pytest.raises(InvalidArgument, match="raster, lissajous"):
        Observation(sources_up(TelescopeParameters(), START)[0], "spiral", 60, 1).motion()


def test_the_lines_obey_their_rules() -> None:
    night = _night("raster", axes="azel")
    timeline = night.observatory.timeline
    t = START + np.arange(0, 590 * 100) * (S // 100)
    truth = night.observatory.at(t)
    lines = {line: has_bit(truth.flags, line.bit) for line in Line}
    flags = {name: has_bit(truth.flags, bit) for name, bit in FLAG_BITS.items()}
    # TRACKING is the flag TRACKING and not SCANNING: low in rows, high in turnarounds.
    assert (lines[Line.TRACKING] == (flags["trck_tel"] & ~flags["scan_tel"])).all()
    assert flags["scan_tel"].any()
    assert lines[Line.TRACKING].any()
    assert (lines[Line.ACQUIRED] == flags["acq_tel"]).all()
    assert (lines[Line.CELESTIAL] == flags["cele_tel"]).all()
    # ROTATE comes once before each scan, ROTATING answers within it, and nothing scans meanwhile.
    rotate = [when for when, _ in timeline.edges(Line.ROTATE)[1:]]
    rotating = [when for when, _ in timeline.edges(Line.ROTATING)]
    assert len(rotate) == len(rotating)
    assert len(rotate) >= 6
    for up, down, busy, free in zip(
        rotate[::2], rotate[1::2], rotating[::2], rotating[1::2], strict=True
    ):
        assert up < busy < free < down
        assert free - busy >= 0.2 * S
        assert not flags["scan_tel"][(t >= up) & (t <= down)].any()
    # OBSERVATION marks each observation and is low for at least a second between two.
    marks = timeline.edges(Line.OBSERVATION)[1:]
    assert [level for _, level in marks] == [k % 2 == 0 for k in range(len(marks))]
    for (down, _), (up, _) in zip(marks[1::2], marks[2::2], strict=False):
        assert up - down >= S
    assert set(np.unique(truth.number[lines[Line.OBSERVATION]])) == {1, 2, 3, 4}


def test_error_is_small_in_rows_and_never_hidden() -> None:
    night = _night("raster", axes="azel")
    t = START + np.arange(20 * 100, 580 * 100) * (S // 100)
    truth = night.observatory.at(t)
    cosine = np.cos(np.radians(truth.el))
    eaz = ((truth.az - truth.requested_az + 180) % 360 - 180) * 3600 * cosine
    eel = (truth.el - truth.requested_el) * 3600
    is_row = has_bit(truth.flags, FLAG_BITS["scan_tel"])
    # 0.08 s at 120 arcsec/s; after the lag of the turnaround's end has gone.
    late = np.median(np.abs(eaz[is_row]))
    assert late == pytest.approx(0.08 * 120, abs=0.3)
    is_still = has_bit(truth.flags, Line.TRACKING.bit) & (truth.number == 0)
    still = eel[is_still & has_bit(truth.flags, FLAG_BITS["acq_tel"])]
    assert 0.2 < np.std(still) < 0.9
    assert np.abs(eaz).max() < 25
    assert np.abs(eel).max() < 25


@pytest.mark.parametrize("pattern", ["lissajous", "drift", "pointed"])
def test_other_patterns(pattern: str) -> None:
    night = _night(pattern)
    t = START + np.arange(0, 590 * 20) * (S // 20)
    truth = night.observatory.at(t)
    scanning = has_bit(truth.flags, FLAG_BITS["scan_tel"])
    celestial = has_bit(truth.flags, FLAG_BITS["cele_tel"])
    rotate = has_bit(truth.flags, Line.ROTATE.bit)
    if pattern == "pointed":
        assert not scanning.any()
        assert not rotate.any()
    else:
        assert scanning.any()
        assert rotate.any()
    if pattern == "drift":
        assert not celestial.any()
        assert np.isnan(truth.centre_ra).all()
        part = truth.part(scanning & (truth.number == 1))
        assert np.ptp(part.requested_az) == 0
        assert np.ptp(part.requested_el) == 0
        # The sky drifts by 15.04 arcsec a second, over the source in the middle.
        rate = np.diff(np.unwrap(part.ra, period=360)).mean() * 20 * 3600
        assert rate == pytest.approx(15.04, abs=0.1)
        source = night.scenario.observations[0].source
        where = night.observatory.source_place
        place = [where(source.direction, int(when)) for when in part.utc_ns]
        away = np.hypot(*(np.array(place) - np.stack([part.az, part.el], 1)).T) * 3600
        assert away.min() < 90


def test_the_rotator_is_sent_where_rows_are_10_7_degrees_off() -> None:
    for pa in (-170.0, -60.0, 0.0, 25.0, 133.0):
        angle = best_angle(3.0, 80.0, pa, 90.0)
        off = (90.0 - (80.0 + pa - angle + 90.0)) % 60.0
        assert min(abs(off - ROWS_DEG), abs(off - 60 + ROWS_DEG)) < 1e-9
        assert -36 < angle < 24


def test_a_source_below_the_limit_is_refused() -> None:
    p = TelescopeParameters()
    low = sources_up(p, START + 12 * 3600 * S)[0]
    with pytest.raises(InvalidArgument, match="elevation"):
        lay_out(p, plan(p, START, 60, sources=[low]), START + 60 * S)
