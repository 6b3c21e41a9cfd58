# SPDX-License-Identifier: BSD-3-Clause
"""The warm test: what a warm ramp tells of the electronics; go or no-go, with reasons."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.calib_bench import flags_of, run, take, values_of
from nightjar.calibration.detector import load_detector
from nightjard.calib import checks
from nightjard.calib.results import Results
from nightjard.calib.science import converter
from nightjard.calib.task import load_task
from nightjard.calib.tasks import mot_warm as task
from nightjard.calib.work import Work
from nightjard.simulators.detector.truth import Truth

DETECTOR = load_detector("ccd273-8th")
EFFECTS = {"crosstalk": False, "brighter_fatter": False, "pickup": False}
# Of the small detector the ramp is short: with less dark current its exposures are not full of it.
WARM_E_S = 16000.0
TRUTH = Truth.default(DETECTOR, seed=8, effects=EFFECTS, overrides={"dark.warm_e_s": WARM_E_S})
Found = tuple[Work, dict[str, Any]]


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("warm")
    work = take(folder, "MOT_WARM", TRUTH, detector=described(folder, ccds=1))
    _metrics(work)
    return work, run(work, "basic", task.basic)


def described(folder: Path, **changes: Any) -> str:
    """Return the path of a description of a detector that differs from the usual one."""
    path = folder / "detector.json"
    path.write_text(DETECTOR.model_copy(update=changes).model_dump_json())
    return str(path)


def _metrics(work: Work) -> None:
    """Leave the table of the common check without its figures."""
    work.results = Results(work.folder, work.dataset.test, "check")
    work.results.table("metrics", checks.metrics_table(work, checks.measure(work)))
    work.results.close()


def document(work: Work) -> dict[str, Any]:
    path = work.folder / "products" / "MOT_WARM_GO_NOGO.json"
    content: dict[str, Any] = json.loads(path.read_text())["content"]
    return content


def measured(work: Work) -> dict[tuple[int, str], dict[str, Any]]:
    """Return what was measured, as `decide` gets it."""
    frames = {
        kind: [str(one.path) for one in work.dataset.of_ccd(1) if task.kind_of(one) == kind]
        for kind in task.KINDS
    }
    found = task.measure_ccd(
        frames, "ccd273-8th", task.Recipe().as_json(), {"half": "T", "on": 30, "off": 50}, 60000.0
    )
    return {
        (1, quadrant): {**task._of_check(work, 1, quadrant), **one}
        for quadrant, one in found.items()
    }


def test_a_good_detector_is_a_go(analysed: Found) -> None:
    work, found = analysed
    assert values_of(found, "go") == {(): (True, None)}
    assert not found["flags"]
    told = document(work)
    assert told["go"] is True
    assert told["reasons"] == []
    assert {one["verdict"] for one in told["checks"]} == {"good"}
    assert {one["check"] for one in told["checks"]} == {
        "offset", "noise", "ramp_top", "nonlinearity", "edge_response", "injection", "flat", "spots"
    }  # fmt: skip


def test_numbers_are_the_true_ones(analysed: Found) -> None:
    _, found = analysed
    rows, line_s = DETECTOR.image_rows, 4 * 500e-6 + 14.3e-6 * DETECTOR.quadrant_shape[1]
    for quadrant in DETECTOR.names:
        name = f"1{quadrant}"
        gain = TRUTH.electronics.gain_e_adu[name]
        slope, error = values_of(found, "ramp_slope")[1, quadrant]
        assert slope == pytest.approx(WARM_E_S * line_s / gain, rel=0.03)
        assert 0 < error < 0.01 * slope
        offset, _ = values_of(found, "offset")[1, quadrant]
        assert offset == pytest.approx(TRUTH.electronics.offset_adu[name], abs=2.0)
        top, _ = values_of(found, "ramp_top")[1, quadrant]
        assert top == pytest.approx(slope * rows, rel=0.05)
        nonlinearity, error = values_of(found, "nonlinearity")[1, quadrant]
        assert abs(nonlinearity) < 1.0
        assert 0 < error < 0.2
        response, error = values_of(found, "edge_response")[1, quadrant]
        assert 0 < response < 1e-3
        assert 0 < error < 2e-4
        assert values_of(found, "spots")[1, quadrant][0] == 5
    assert set(values_of(found, "injection")) == {(1, "E"), (1, "F")}


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "offset": (lambda one: one.update(offset=9000.0), "the offset is 9000", "OFFSET_OOL"),
    "noise": (lambda one: one.update(noise=3.0), "the read noise is 3", "RON_OOL"),
    "bit": (lambda one: one.update(stuck_bits=[7]), "bit 7 of the converter", "STUCKBIT"),
    "dead": (lambda one: one.update(ramp_top=3.0), "the dark current", "UNDERPERFORM"),
    "linearity": (lambda one: one.update(nonlinearity=-8.0), "non-linearity", "UNDERPERFORM"),
    "edge": (lambda one: one.update(edge_response=4e-3), "the edge", "UNDERPERFORM"),
    "injection": (lambda one: one.update(injection=3.0), "injected charge is 3", "FLUENCE_OOL"),
    "lamp": (lambda one: one.update(flat=0.4), "the flat field is 0.4", "FLUENCE_OOL"),
    "no light": (lambda one: one.pop("flat"), "flat field could not be", "REQNOTMET"),
    "spots": (lambda one: one.update(spots=0), "the number of spots is 0", "STARS_MISSING"),
}


@pytest.fixture(scope="module")
def numbers(analysed: Found) -> dict[tuple[int, str], dict[str, Any]]:
    return measured(analysed[0])


@pytest.mark.parametrize("fault", list(FAULTS))
def test_every_fault_of_one_quadrant_is_a_no_go_with_its_reason(
    analysed: Found, numbers: dict[tuple[int, str], dict[str, Any]], fault: str, tmp_path: Path
) -> None:
    spoil, reason, flag = FAULTS[fault]
    found = copy.deepcopy(numbers)
    spoil(found[1, "F"])
    work = dataclasses.replace(analysed[0], folder=tmp_path)
    work.results = Results(tmp_path, "MOT_WARM", "basic")
    assert task.decide(work, found) is False
    told = document(work)
    assert told["go"] is False
    assert len(told["reasons"]) == 1
    assert told["reasons"][0].startswith("CCD1 F: ")
    assert reason in told["reasons"][0]
    assert {flag, "REQNOTMET"} <= {one.name for one in work.results.flags}
    assert work.results.headline == f"NO-GO: {told['reasons'][0]}"


def test_no_frame_at_all_is_a_no_go(analysed: Found, tmp_path: Path) -> None:
    dataset = dataclasses.replace(analysed[0].dataset, frames=())
    work = dataclasses.replace(analysed[0], dataset=dataset, folder=tmp_path)
    found = run(work, "basic", task.basic)
    assert values_of(found, "go") == {(): (False, None)}
    assert "BADDATA" in flags_of(found)
    assert document(work)["reasons"] == ["no quadrant was measured"]


def test_what_a_weak_ramp_cannot_tell_is_a_warning(
    analysed: Found, numbers: dict[tuple[int, str], dict[str, Any]], tmp_path: Path
) -> None:
    found = copy.deepcopy(numbers)
    found[1, "H"].update(edge_response=None, nonlinearity=None)
    work = dataclasses.replace(analysed[0], folder=tmp_path)
    work.results = Results(tmp_path, "MOT_WARM", "basic")
    assert task.decide(work, found) is True
    assert len(document(work)["warnings"]) == 2


def test_nothing_measured_is_no_go(analysed: Found, tmp_path: Path) -> None:
    work = dataclasses.replace(analysed[0], folder=tmp_path)
    work.results = Results(tmp_path, "MOT_WARM", "basic")
    assert task.decide(work, {}) is False


def test_a_ccd_that_was_not_seen_at_all_is_a_no_go(
    analysed: Found, numbers: dict[tuple[int, str], dict[str, Any]], tmp_path: Path
) -> None:
    dataset = dataclasses.replace(analysed[0].dataset, detector=DETECTOR)
    work = dataclasses.replace(analysed[0], dataset=dataset, folder=tmp_path)
    work.results = Results(tmp_path, "MOT_WARM", "basic")
    assert task.decide(work, numbers) is False
    assert document(work)["reasons"] == ["CCD2: no usable frame", "CCD3: no usable frame"]


@pytest.mark.parametrize("overscan", [0, 4])
def test_a_detector_with_hardly_an_overscan_is_judged_by_the_rest(
    tmp_path: Path, overscan: int
) -> None:
    path = described(tmp_path, ccds=1, overscan=overscan, overscan_trim=(0, 0))
    truth = Truth.default(load_detector(path), seed=8, effects=EFFECTS,
                          overrides={"dark.warm_e_s": WARM_E_S})  # fmt: skip
    work = take(tmp_path, "MOT_WARM", truth, detector=path)
    _metrics(work)
    found = run(work, "basic", task.basic)
    assert values_of(found, "go")[()][0] is True
    assert not values_of(found, "edge_response")
    told = document(work)
    assert told["warnings"] == [f"CCD1 {q}: the response at the edge could not be measured"
                                for q in "EFGH"]  # fmt: skip


def test_missing_frames_and_real_faults_are_told(tmp_path: Path) -> None:
    def spoil(obsid: int, _ccd: int, frame: Any) -> None:
        view = DETECTOR.canonical(frame, "G")
        view |= np.uint16(1 << 6)  # a bit that is stuck
        number = obsid - 17210
        if number >= 4:  # the lamp is off: dark current alone
            for quadrant in DETECTOR.names:
                DETECTOR.canonical(frame, quadrant)[:] = ramp[quadrant]
        if number == 2:
            ramp.update({q: DETECTOR.canonical(frame, q).copy() for q in DETECTOR.names})

    ramp: dict[str, Any] = {}
    work = take(tmp_path, "MOT_WARM", TRUTH, spoil=spoil)
    frames = tuple(one for one in work.dataset.frames if task.kind_of(one) != "RWDV")
    work.dataset = dataclasses.replace(work.dataset, frames=frames)
    _metrics(work)
    found = run(work, "basic", task.basic)
    reasons = document(work)["reasons"]
    assert "CCD1: no usable frame RWDV" in reasons
    assert "CCD1 G: bit 6 of the converter does not change" in reasons
    assert sum("the flat field is" in one for one in reasons) == 4
    assert sum("the number of spots is 0" in one for one in reasons) == 4
    assert sum("the offset could not be measured" in one for one in reasons) == 4
    assert values_of(found, "go")[()][0] is False
    assert {"STUCKBIT", "STARS_MISSING", "FLUENCE_OOL", "REQNOTMET"} <= set(flags_of(found))


# --- the converter ---


def test_bits_are_counted() -> None:
    counts = np.zeros(65536, np.int64)
    counts[[0b101, 0b100, 0b111, 0b110]] = 10
    found = converter.bit_means(counts)
    assert found[:4].tolist() == [0.5, 0.5, 1.0, 0.0]
    assert np.isnan(converter.bit_means(np.zeros(65536, np.int64))).all()


@pytest.mark.parametrize("bit", [0, 3, 6, 11])
@pytest.mark.parametrize("value", [0, 1])
def test_a_bit_that_is_stuck_over_a_ramp_is_told(bit: int, value: int) -> None:
    ramp = np.random.default_rng(6).integers(2500, 16000, 60000)
    good = np.bincount(ramp, minlength=65536)
    assert converter.stuck_bits(good) == []
    spoiled = ramp | (1 << bit) if value else ramp & ~(1 << bit)
    assert converter.stuck_bits(np.bincount(spoiled, minlength=65536)) == [bit]
    flat = np.bincount(np.random.default_rng(7).integers(2600, 2606, 60000), minlength=65536)
    assert converter.stuck_bits(flat) == []
    assert converter.stuck_bits(np.zeros(65536, np.int64)) == []


def test_a_bent_ramp_is_told_by_how_much_it_bends() -> None:
    rng = np.random.default_rng(3)
    signal = 30.0 * np.arange(1000)[:, None] + np.zeros(200)
    bent = signal * (1 - 0.03 * np.clip(signal / 30000 - 0.3, 0, None) / 0.7)
    found = converter.measure_ramp(bent + rng.normal(0, 30, bent.shape), None)
    assert found.slope_adu_row == pytest.approx(30.0, rel=2e-3)
    assert found.largest_pc == pytest.approx(-3.0, abs=0.4)
    assert found.at_adu > 25000
    straight = converter.measure_ramp(signal + rng.normal(0, 30, bent.shape), None)
    assert abs(straight.largest_pc) < 0.3


def test_no_ramp_gives_no_numbers() -> None:
    rng = np.random.default_rng(4)
    flat = converter.measure_ramp(rng.normal(0, 2, (300, 50)), None)
    assert np.isnan(flat.largest_pc)
    bad = converter.measure_ramp(np.zeros((300, 50)), np.ones((300, 50), bool))
    assert np.isnan(bad.slope_adu_row)


def test_the_edge_tells_deferred_charge() -> None:
    rng = np.random.default_rng(5)
    pixels = rng.normal(0, 1.3, (400, 120))
    pixels[:, :100] += np.linspace(0, 30000, 400)[:, None]
    pixels[:, 100] += 8e-4 * np.linspace(0, 30000, 400)
    response, error, profile = converter.edge_response(pixels, slice(0, 100), slice(100, 120))
    assert response == pytest.approx(8e-4, abs=5 * error)
    assert 0 < error < 2e-5
    assert len(profile) == 25
    assert profile[:10] == pytest.approx(1.0, abs=1e-3)
    weak = converter.edge_response(pixels[:10], slice(0, 100), slice(100, 120))
    assert np.isnan(weak[0])


def test_the_analysis_names_all_functions_that_run_in_workers() -> None:
    assert set(task.WORKERS) <= set(load_task("MOT_WARM").workers)
