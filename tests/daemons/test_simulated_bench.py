# SPDX-License-Identifier: BSD-3-Clause
"""The simulated bench: frames that can be made again, electronics that do what the truth says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.simulated_detector import BIAS, DETECTOR, FLAT, STARS, START, bench
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import Detector, QuadrantPlace
from nightjar.errors import ConfigError, InvalidArgument
from nightjard.simulators.detector import electronics
from nightjard.simulators.detector.bench import Bench
from nightjard.simulators.detector.profile import PlainProfile
from nightjard.simulators.detector.truth import Truth, channels_of


def quadrant(frame: np.ndarray, name: str = "E", sector: Any = "all") -> np.ndarray:
    return DETECTOR.sector(DETECTOR.canonical(frame, name), sector).astype(float)


def digest(frames: dict[int, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(frames[ccd].tobytes() for ccd in sorted(frames))).hexdigest()


# --- any frame alone ---

REMAKE = """
import json, sys
from nightjar.calibration.detector import load_detector
from nightjard.simulators.detector.bench import Bench
from nightjard.simulators.detector.profile import PlainProfile
from nightjard.simulators.detector.truth import Truth
import hashlib, pathlib
detector = load_detector("ccd273-8th")
made = Bench(detector, Truth.load(pathlib.Path(sys.argv[1])), PlainProfile())
frame = made.expose(7, json.loads(sys.argv[2]), int(sys.argv[3]), ccds=[2])
print(hashlib.sha256(frame[2].tobytes()).hexdigest())
"""


def test_a_frame_is_the_same_in_any_order_process_and_selection(tmp_path: Path) -> None:
    truth = Truth.default(DETECTOR, seed=3)
    one = Bench(DETECTOR, truth, PlainProfile())
    frames = one.expose(7, STARS, START)
    assert set(frames) == {1, 2, 3}
    assert frames[1].shape == DETECTOR.frame_shape
    assert frames[1].dtype == np.uint16

    later = Bench(DETECTOR, truth, PlainProfile())
    other = later.expose(6, BIAS, START)
    assert digest(later.expose(7, STARS, START)) == digest(frames)
    assert digest(other) != digest(later.expose(8, BIAS, START))

    truth.save(tmp_path / "truth.json")
    command = [sys.executable, "-c", REMAKE, str(tmp_path / "truth.json"), json.dumps(STARS)]
    out = subprocess.run(
        [*command, str(START)], capture_output=True, text=True, timeout=60, check=True,
        env=dict(os.environ),
    ).stdout  # fmt: skip
    assert out.strip() == hashlib.sha256(frames[2].tobytes()).hexdigest()


def test_another_seed_is_other_noise_but_the_same_detector() -> None:
    truth = Truth.default(DETECTOR, effects={"drift": False, "photon_noise": False})
    first = Bench(DETECTOR, truth, PlainProfile()).expose(1, FLAT, START)[1].astype(float)
    second = Bench(DETECTOR, truth, PlainProfile(), seed=99).expose(1, FLAT, START)[1].astype(float)
    difference = quadrant(first - second, "H", "image")
    noise = truth.electronics.read_noise_adu["1H"]
    assert difference.std() == pytest.approx(noise * np.sqrt(2.0), rel=0.02)


def test_the_shipped_chamber_and_a_camera_of_another_build_work() -> None:
    made = Bench(DETECTOR, Truth.default(DETECTOR), load_profile("B_NOSTROMO"))
    frame = made.expose(1, STARS | {"test": "PSF01_800"}, START, ccds=[1])[1]
    assert made.last is not None
    star = made.last.stars["1EA"]
    assert star.quadrant == "E"
    canonical = DETECTOR.canonical(frame, "E")
    peak = canonical[round(star.canonical_y), round(star.canonical_x)]
    assert peak > 0.8 * canonical.max()

    described = DETECTOR.model_dump() | {"name": "single", "ccds": 1, "offset_sector": "none"}
    described |= {"quadrants": {"A": {"column": 0, "row": 0}}, "prescan": 0, "overscan": 0}
    described |= {"prescan_trim": (0, 0), "overscan_trim": (0, 0), "parallel_overscan": 0}
    single = Detector.model_validate(described)
    alone = Bench(single, Truth.default(single), PlainProfile())
    assert alone.expose(1, FLAT, START)[1].shape == single.quadrant_shape


# --- truth ---


def test_truth_is_read_back_and_says_when_it_cannot_be(tmp_path: Path) -> None:
    truth = Truth.default(DETECTOR, "NOSTROMO", 5, {"cosmics": True})
    truth.save(tmp_path / "truth.json")
    assert Truth.load(tmp_path / "truth.json") == truth
    assert Truth.default(DETECTOR, "NOSTROMO", 5, {"cosmics": True}) == truth
    assert Truth.default(DETECTOR, "NOSTROMO", 6, {"cosmics": True}) != truth
    (tmp_path / "truth.json").write_text('{"block": "X"}')
    with pytest.raises(ConfigError, match="no truth"):
        Truth.load(tmp_path / "truth.json")
    with pytest.raises(ConfigError, match="cannot read"):
        Truth.load(tmp_path / "none.json")


def test_wrong_names_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="no effect blooming"):
        Truth.default(DETECTOR, effects={"blooming": True})
    with pytest.raises(InvalidArgument, match=r"no number 'electronics\.gian'"):
        Truth.default(DETECTOR, overrides={"electronics.gian": 3.0})
    with pytest.raises(InvalidArgument, match="source 'laser'"):
        bench().expose(1, FLAT | {"source": "laser"}, START)
    with pytest.raises(InvalidArgument, match="no CCD 4"):
        bench().expose(1, FLAT, START, ccds=[4])
    two = DETECTOR.model_copy(update={"ccds": 2})
    with pytest.raises(InvalidArgument, match="nothing about channel 3E"):
        Bench(DETECTOR, Truth.default(two), PlainProfile())


def test_overrides_reach_all_channels_or_one() -> None:
    truth = Truth.default(DETECTOR, overrides={
        "electronics.gain_e_adu": 3.3, "electronics.gain_e_adu.2F": 3.6})  # fmt: skip
    gains = truth.electronics.gain_e_adu
    assert gains["2F"] == 3.6
    assert {value for name, value in gains.items() if name != "2F"} == {3.3}


# --- electronics ---


def test_offset_noise_and_what_is_not_read() -> None:
    made = bench("read_noise", "drift", "structure", "settling", "gain_spread")
    frames = made.expose(4, BIAS | {"vstart": 10, "vend": 200}, START)
    assert made.last is not None
    for name in ("1E", "2G"):
        canonical = DETECTOR.canonical(frames[int(name[0])], name[1]).astype(float)
        assert not canonical[:10].any()
        assert not canonical[200:].any()
    whole = made.expose(4, BIAS, START)
    for name in channels_of(DETECTOR):
        scan = quadrant(whole[int(name[0])], name[1], "prescan")[:, 25:46]
        truth = made.truth.electronics
        assert scan.mean() == pytest.approx(made.last.channels[name].offset_adu, abs=0.08)
        assert abs(made.last.channels[name].offset_adu - truth.offset_adu[name]) < 2.5
        assert np.diff(scan, axis=1).std() == pytest.approx(
            truth.read_noise_adu[name] * np.sqrt(2.0), rel=0.04
        )
        head = quadrant(whole[int(name[0])], name[1], "prescan")[:, :2].mean(axis=0)
        step = truth.settling_adu * (1.0 - np.exp(-1.0 / truth.settling_px))
        assert head[0] - head[1] == pytest.approx(step, abs=0.5)


def test_drift_has_the_spread_of_the_truth() -> None:
    made = bench("drift", overrides={"electronics.drift_adu": 5.0})
    offsets = []
    for obsid in range(30):
        made.expose(obsid, BIAS, START, ccds=[1])
        assert made.last is not None
        offsets += [made.last.channels[f"1{q}"].offset_adu for q in DETECTOR.names]
    away = np.array(offsets).reshape(30, 4) - [made.truth.electronics.offset_adu[f"1{q}"]
                                               for q in DETECTOR.names]  # fmt: skip
    assert away.std() == pytest.approx(5.0, rel=0.25)
    assert abs(np.corrcoef(away[:, 0], away[:, 1])[0, 1]) < 0.5


def test_structure_is_seen_in_a_mean_of_biases() -> None:
    made = bench("structure", "read_noise")
    mean = np.mean([quadrant(made.expose(i, BIAS, START, [1])[1]) for i in range(40)], axis=0)
    x, y, cross = electronics.base(DETECTOR, made.truth.electronics, "1E", 2650.0)
    u, v = (np.linspace(-1, 1, n) for n in (x.size, y.size))
    expected = x[None, :] + y[:, None] + cross * np.outer(v, u)
    assert np.ptp(expected) > 0.5
    assert np.std(mean - expected) == pytest.approx(
        made.truth.electronics.read_noise_adu["1E"] / np.sqrt(40), rel=0.1
    )


def test_cross_talk_is_the_matrix() -> None:
    on, off = bench("crosstalk"), bench()
    loud = {"electronics.crosstalk": (np.array(on.truth.electronics.crosstalk) * 300).tolist()}
    on = bench(overrides=loud)
    names = channels_of(DETECTOR)
    matrix = np.array(on.truth.electronics.crosstalk)
    assert np.abs(matrix).max() == pytest.approx(0.06)
    bright = STARS | {"exptime": 1.0}
    clean, mixed = off.expose(1, bright, START), on.expose(1, bright, START, ccds=[3])
    signals = {n: quadrant(clean[int(n[0])], n[1]) - off.truth.electronics.offset_adu[n]
               for n in names}  # fmt: skip
    for victim in ("3E", "3G"):
        index = names.index(victim)
        got = quadrant(mixed[3], victim[1]) - on.truth.electronics.offset_adu[victim]
        want = signals[victim] + sum(
            matrix[s, index] * signals[name] for s, name in enumerate(names)
        )
        assert np.abs(want - signals[victim]).max() > 100.0
        assert np.abs(got - want).max() <= 1.01


def test_linearity_follows_the_curve() -> None:
    levels = np.array([0.005, 0.03, 0.1, 0.5, 0.85])
    on = bench("nonlinearity", overrides={"electronics.nonlinearity_scale": 1.0})
    off = bench()
    for level in levels:
        values = FLAT | {"exptime": 3.5 * level}
        straight = quadrant(off.expose(1, values, START, [1])[1], "E", "image").mean() - 2650
        bent = quadrant(on.expose(1, values, START, [1])[1], "E", "image").mean() - 2650
        x = straight / 65536
        percent = 2.0 * np.exp(-(x - 0.05) / 0.1) + 0.6 * x**3 - 0.3 * x**2 + 0.5 * x
        assert 100.0 * (bent / straight - 1.0) == pytest.approx(percent, abs=60.0 / straight + 2e-3)


def test_the_converter_clips_sticks_and_misses_codes() -> None:
    made = bench("photon_noise", "stuck_bit", "missing_codes")
    frame = made.expose(1, FLAT | {"exptime": 4.0}, START, [1])[1]
    assert quadrant(frame, "F", "image").max() >= 65535 - 64
    stuck = DETECTOR.canonical(frame, "E")
    assert ((stuck >> 6) & 1).all()
    free = DETECTOR.canonical(made.expose(1, FLAT | {"exptime": 0.1}, START, [1])[1], "F")
    lit = free[:258, 51:307]
    assert not (lit % 64 == 0).any()
    assert len(np.unique(lit % 64)) == 63
    plain = bench().expose(1, FLAT | {"exptime": 4.0}, START, [1])[1]
    assert (quadrant(plain, "E", "image") == 65535).all()


def test_pick_up_is_a_line_in_the_spectrum_and_common_to_channels() -> None:
    made = bench("read_noise", "pickup", overrides={"electronics.pickup": [(6000.0, 1.0)]})
    frames = made.expose(1, BIAS, START)
    rows = quadrant(frames[1], "E")
    columns = rows.shape[1]
    power = np.mean(np.abs(np.fft.rfft(rows - rows.mean(), axis=1)) ** 2, axis=0)
    line = 6000.0 * electronics.PIXEL_S * columns
    assert abs(int(np.argmax(power[1:])) + 1 - line) <= 1.0
    other = quadrant(frames[3], "G")
    both = np.mean((rows - rows.mean()) * (other - other.mean()))
    assert both == pytest.approx(0.5, rel=0.15)  # the mean square of a line of amplitude 1


def test_flicker_rises_to_low_frequencies() -> None:
    made = bench("flicker", overrides={"electronics.flicker_adu": 20.0})
    noise = quadrant(made.expose(1, BIAS, START, [1])[1], "E")
    assert noise.std() == pytest.approx(20.0, rel=0.02)
    power = np.abs(np.fft.rfft((noise - noise.mean()).ravel())) ** 2
    low, high = power[100:200].mean(), power[10000:20000].mean()
    assert low / high == pytest.approx(100.0, rel=0.4)


def test_gain_is_the_slope_of_variance_over_mean_and_moves_with_temperature_and_rd() -> None:
    made = bench("photon_noise", "gain_spread", "read_noise")
    pairs = [made.expose(i, FLAT, START) for i in (1, 2)]
    for name in channels_of(DETECTOR):
        one, two = (quadrant(f[int(name[0])], name[1], "image") for f in pairs)
        mean = one.mean() - made.truth.electronics.offset_adu[name]
        variance = (one - two).var() / 2 - made.truth.electronics.read_noise_adu[name] ** 2
        assert mean / variance == pytest.approx(made.truth.electronics.gain_e_adu[name], rel=0.022)
    assert made.last is not None
    normal = made.last.channels["1E"].gain_e_adu
    made.expose(3, FLAT | {"test": "PTC02_148K", "RD_T": 16.5, "RD_B": 16.0}, START, [1])
    assert made.last.temperature_k == 148.0
    e = made.truth.electronics
    changed = (1 - 5 * e.gain_per_k) * (1 + 0.5 * e.gain_per_rd_v)
    assert made.last.channels["1E"].gain_e_adu / normal == pytest.approx(changed, rel=1e-4)
    assert made.last.channels["1H"].gain_e_adu < made.last.channels["1H"].gain_e_adu * changed


@pytest.mark.parametrize(("columns", "rows"), [(48, 40), (16, 12), (5, 3), (1, 1)])
def test_a_detector_of_a_few_pixels_works(columns: int, rows: int) -> None:
    """Of any size down to one pixel: every effect, every kind of exposure."""
    tiny = Detector(
        name="tiny", ccds=1, quadrants={"A": QuadrantPlace(column=0, row=0)}, prescan=0,
        image_columns=columns, overscan=0, image_rows=rows, pixel_um=12.0, gain_e_adu=3.5,
        read_noise_e=4.5, full_well_e=2e5, offset_sector="none", tile_px=4,
    )  # fmt: skip
    bench = Bench(tiny, Truth.default(tiny), load_profile("B_NOSTROMO"))
    for values in (
        {"exptime": 1.0}, {"exptime": 1.0, "source": "point"}, {"test": "MOT_WARM", "s_tpump": 1},
        {"chinj": 1, "toi_ch": 500, "id_dly": 1250, "v_tpump": 1},
    ):  # fmt: skip
        assert bench.expose(1, values, 10**18)[1].shape == (rows, columns)
