# SPDX-License-Identifier: BSD-3-Clause
"""Trap pumping: dipoles, traps, electrodes, time constants, species, against simulated traps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from kit.calib_bench import run, run_all, take, values_of
from kit.depth import counts
from nightjar.calibration.detector import load_detector
from nightjar.errors import ConfigError
from nightjard.calib.science import dipoles, traps
from nightjard.calib.task import load_task
from nightjard.calib.tasks import pumping as task
from nightjard.calib.tasks import pumping_traps
from nightjard.calib.work import Work
from nightjard.simulators.detector import pumping as simulated
from nightjard.simulators.detector.truth import Truth

DETECTOR = load_detector("ccd273-8th")
KELVIN = 153.0
# Charge that transfer defers is another test's.
EFFECTS = {"crosstalk": False, "defects": False}
TRUTH = Truth.default(DETECTOR, seed=6, effects=EFFECTS)
STEPS = ("prep", "injection", "extract", "basic", "meta")
Found = tuple[Work, dict[str, Any]]


@pytest.fixture(scope="module")
def vertical(tmp_path_factory: pytest.TempPathFactory) -> Found:
    work = take(tmp_path_factory.mktemp("tp01"), "TP01", TRUTH)
    return work, run_all(work, *STEPS)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Found:
    work = take(tmp_path_factory.mktemp("tp02"), "TP02", TRUTH)
    return work, run_all(work, *STEPS)


def truth_of(quadrant: str) -> simulated.PumpingTruth:
    return simulated.prepare(TRUTH.pumping or {}, DETECTOR)[f"1{quadrant}"]


def strongest_e(one: simulated.Traps, times: list[float], *, is_serial: bool = False) -> Any:
    """Return the largest amplitude of each trap over the pumping times, electrons."""
    tau = one.tau_us(KELVIN)
    shapes = [
        1 - np.exp(-t / tau) if is_serial else simulated.pumped_fraction(t, tau) for t in times
    ]
    return 5000 * one.capture_e * np.max(shapes, axis=0)


def matched(catalogue: Table, quadrant: str, one: simulated.Traps) -> tuple[Any, Any]:
    """Return the catalogue of a quadrant, and for each of its traps the true one's index or -1."""
    mine = catalogue[catalogue["quadrant"] == quadrant]
    places = {
        (int(x) + DETECTOR.prescan, int(y)): i for i, (x, y) in enumerate(
            zip(one.column, one.row, strict=True))
    }  # fmt: skip
    index = [places.get((int(row["x"]), int(row["y"])), -1) for row in mine]
    return mine, np.array(index)


# --- the whole analysis, vertical ---


def test_strong_traps_are_found_and_no_others(vertical: Found) -> None:
    work, _ = vertical
    catalogue = work.table("meta", "MERGEDCAT")
    false, strong, seen = 0, 0, 0
    for quadrant in DETECTOR.names:
        one = truth_of(quadrant).vertical
        amplitude = strongest_e(one, [50, 200, 1000, 2000, 4000, 8000])
        level_e = values_of(vertical[1]["injection"], "injection_level")[1, quadrant][0] * 3.5
        noise_e = 0.003 * level_e / np.sqrt(2)
        _, index = matched(catalogue, quadrant, one)
        is_strong = amplitude > 8 * noise_e
        strong += int(is_strong.sum())
        seen += len(set(index[index >= 0]) & set(np.flatnonzero(is_strong)))
        false += int((index < 0).sum())
    assert strong > 50
    assert seen > 0.95 * strong
    assert false < len(DETECTOR.names) * DETECTOR.image_rows * DETECTOR.image_columns / 1e5


def test_electrode_time_constant_and_charge_are_the_true_ones(vertical: Found) -> None:
    work, _ = vertical
    catalogue = work.table("meta", "MERGEDCAT")
    phases, ratios, charges, pulls = [], [], [], []
    for quadrant in DETECTOR.names:
        one = truth_of(quadrant).vertical
        mine, index = matched(catalogue, quadrant, one)
        good = (index >= 0) & (np.asarray(mine["largest_sigma"], float) > 8)
        mine, index = mine[good], index[good]
        tau = one.tau_us(KELVIN)[index]
        phases += list(np.asarray(mine["phase"]) == one.phase[index])
        ratios += list(np.abs(np.asarray(mine["tau_us"], float) / tau - 1))
        charges += list(np.asarray(mine["pc_e"], float) / one.capture_e[index])
        pulls += list(
            (np.asarray(mine["tau_us"], float) - tau) / np.asarray(mine["tau_error_us"], float)
        )
    assert len(ratios) > 50
    assert np.mean(phases) > 0.95
    assert np.median(ratios) < 0.10
    assert np.median(charges) == pytest.approx(1.0, abs=0.03)
    assert 0.7 < 1.4826 * np.median(np.abs(pulls)) < 1.5


def test_cross_sections_of_known_species_are_found(vertical: Found, serial: Found) -> None:
    for found, species in (
        (vertical, {"0.225 eV": 5e-16, "0.30 eV": 1e-14}), (serial, {"0.20 eV": 1e-14})
    ):  # fmt: skip
        sections = {
            one["where"]["species"]: (one["value"], one["error"])
            for one in found[1]["meta"]["values"]
            if one["name"] == "cross_section" and "quadrant" not in one["where"]
        }
        assert set(sections) == set(species)
        for name, truth in species.items():
            value, error = sections[name]
            assert truth / 1.5 < value < truth * 1.5
            assert abs(value - truth) < 5 * error
            assert error < 0.2 * value


def test_dipoles_are_counted_by_mode_time_and_sense(vertical: Found) -> None:
    work, found = vertical
    summary = work.table("basic", "SUMMARY")
    assert set(summary["mode"]) == {"123", "234", "341", "412"}
    assert (summary["S"] + summary["N"] == summary["number"]).all()
    total = sum(value for value, _ in values_of(found["basic"], "dipoles").values())
    assert total == sum(summary["number"]) == len(work.table("extract", "RAWCAT"))
    assert {one["name"] for one in found["meta"]["figures"]} == {"heatmap"}


def test_the_level_before_pumping_is_measured_with_its_noise(vertical: Found) -> None:
    _, found = vertical
    levels = values_of(found["injection"], "injection_level")
    noises = values_of(found["injection"], "injection_noise")
    for channel, (level, error) in levels.items():
        assert 4500 < level < 6500
        assert 0 < error < 1
        assert noises[channel][0] == pytest.approx(0.003 * level, rel=0.1)


def test_a_step_done_again_gives_the_same_bytes(vertical: Found) -> None:
    work, found = vertical
    paths = [work.folder / one["path"] for one in found["extract"]["tables"]]
    before = [path.read_bytes() for path in paths]
    run(work, "extract", task.extract)
    assert [path.read_bytes() for path in paths] == before


# --- serial ---


def test_serial_traps_are_found_where_they_are(serial: Found) -> None:
    work, _ = serial
    catalogue = work.table("meta", "MERGEDCAT")
    ratios, charges, phases = [], [], []
    missing, false = 0, 0
    for quadrant in DETECTOR.names:
        one = truth_of(quadrant).serial
        mine, index = matched(catalogue, quadrant, one)
        amplitude = strongest_e(one, [4.75, 9.5, 19.05, 33.35], is_serial=True)
        # The edges of the register have no neighbour to compare with.
        inner = (one.column > 4) & (one.column < DETECTOR.image_columns - 5)
        missing += len(set(np.flatnonzero(inner & (amplitude > 600))) - set(index.tolist()))
        false += int((index < 0).sum())
        mine, index = mine[index >= 0], index[index >= 0]
        phases += list(np.asarray(mine["phase"]) == one.phase[index])
        ratios += list(np.abs(np.asarray(mine["tau_us"], float) / one.tau_us(KELVIN)[index] - 1))
        charges += list(np.asarray(mine["pc_e"], float) / one.capture_e[index])
    assert len(ratios) > 30
    assert missing == 0
    assert false <= 1
    assert np.mean(phases) > 0.95
    assert np.median(ratios) < 0.10
    assert np.median(charges) == pytest.approx(1.0, abs=0.05)


def test_a_serial_test_without_an_unpumped_frame_is_told(serial: Found, tmp_path: Path) -> None:
    work, _ = serial
    kept = tuple(one for one in work.dataset.frames if task.is_pumped(one.commanded))
    bare = dataclasses.replace(
        work, dataset=dataclasses.replace(work.dataset, frames=kept), folder=tmp_path
    )
    found = run_all(bare, "prep", "injection", "extract")
    assert "BADDATA" in {flag["name"] for flag in found["injection"]["flags"]}
    flag = next(flag for flag in found["extract"]["flags"] if flag["name"] == "BADDATA")
    assert "not pumped" in flag["cause"]


# --- other temperatures ---


def other_catalogue(folder: Path, kelvin: float) -> str:
    rows = []
    for quadrant in DETECTOR.names:
        one = truth_of(quadrant).vertical
        for i, tau in enumerate(one.tau_us(kelvin)):
            rows.append({
                "ccd": 1, "quadrant": quadrant, "x": int(one.column[i]) + DETECTOR.prescan,
                "y": int(one.row[i]), "phase": int(one.phase[i]), "tau_us": float(tau),
                "tau_error_us": 0.02 * float(tau), "is_good": True,
            })  # fmt: skip
    path = folder / f"other_{kelvin:.0f}.ecsv"
    Table(rows=rows).write(path, format="ascii.ecsv")
    return str(path)


def test_two_temperatures_give_energy_and_cross_section(vertical: Found, tmp_path: Path) -> None:
    work, _ = vertical
    work.options = {
        "other_temperatures": [
            {"catalogue": other_catalogue(tmp_path, kelvin), "temperature_k": kelvin}
            for kelvin in (148.0, 158.0)
        ]
    }
    try:
        run(work, "meta", pumping_traps.meta)
    finally:
        work.options = {}
    energies = work.table("meta", "ENERGIES")
    assert len(energies) > 40
    errors, pulls = [], []
    for quadrant in DETECTOR.names:
        one = truth_of(quadrant).vertical
        mine, index = matched(energies, quadrant, one)
        difference = np.asarray(mine["energy_ev"], float) - one.energy_ev[index]
        errors += list(np.abs(difference))
        pulls += list(difference / np.asarray(mine["energy_error_ev"], float))
    assert np.median(errors) < 0.01
    # Times at the other temperatures are the true ones here: pulls are small, not 1.
    assert np.median(np.abs(pulls)) < 1


def test_a_catalogue_that_is_none_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "some.ecsv"
    Table({"x": [1]}).write(path, format="ascii.ecsv")
    with pytest.raises(ConfigError, match=r"some\.ecsv has no columns ccd"):
        pumping_traps._read(str(path))
    with pytest.raises(ConfigError, match=r"cannot read .*none\.ecsv"):
        pumping_traps._read(str(tmp_path / "none.ecsv"))


@pytest.mark.parametrize("source", ["campaign", "housekeeping", "name of the test", "nominal"])
def test_the_temperature_is_the_best_that_is_known(vertical: Found, source: str) -> None:
    work, _ = vertical
    hk = {1: {"CCD1_TEMP_T": (-115.0, 0, 0, 0), "CCD2_TEMP_T": (-100.0, 0, 0, 0)}}
    dataset = dataclasses.replace(
        work.dataset, hk=hk if source in ("campaign", "housekeeping") else {},
        test="TP11_148K" if source == "name of the test" else "TP01",
    )  # fmt: skip
    options = pumping_traps.PumpingOptions(temperature_k=150.0 if source == "campaign" else None)
    found = pumping_traps.temperature_of(dataclasses.replace(work, dataset=dataset), 1, options)
    expected = {"campaign": 150.0, "housekeeping": 158.15, "name of the test": 148.0}
    assert found == (pytest.approx(expected.get(source, 153.0)), source)


# --- dipoles ---


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


def test_the_analyses_name_all_functions_that_run_in_workers() -> None:
    for handle in ("TP01", "TP11", "TP02", "TP21"):
        assert set(task.WORKERS) <= set(load_task(handle).workers)
