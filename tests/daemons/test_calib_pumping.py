# SPDX-License-Identifier: BSD-3-Clause
"""Trap pumping: dipoles, traps, electrodes, time constants, species, against simulated traps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from kit.calib_bench import run, run_all, take, values_of
from nightjar.calibration.detector import load_detector
from nightjar.errors import ConfigError
from nightjard.calib.results import Results
from nightjard.calib.task import load_task
from nightjard.calib.tasks import pumping as task
from nightjard.calib.tasks import pumping_maps, pumping_traps
from nightjard.calib.work import Work
from nightjard.simulators.detector import pumping as simulated
from nightjard.simulators.detector.truth import Truth

DETECTOR = load_detector("ccd273-8th")
KELVIN = 153.0
EFFECTS = {"crosstalk": False}  # with hot and dark pixels: they are no traps
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


@pytest.mark.parametrize("which", ["vertical", "serial"])
def test_maps_of_pumped_frames_show_the_dipoles_that_were_found(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    work, _ = request.getfixturevalue(which)
    raw = work.table("extract", "RAWCAT")
    again = dataclasses.replace(work, folder=tmp_path)
    again.results = Results(tmp_path, work.dataset.test, "extract")
    pumping_maps.leave_maps(again)
    again.results.close()
    pumped = [one for one in work.dataset.frames if pumping_maps.is_pumped(one.commanded)]
    maps = {one.name: one for one in (tmp_path / "products").glob("*.fits")}
    assert len(maps) == len(pumped)
    assert not list(again.intermediate.glob("rawmap_*"))
    obsids, counts = np.unique(raw["obsid"], return_counts=True)
    frame = next(one for one in pumped if one.obsid == obsids[np.argmax(counts)])
    (path,) = (one for name, one in maps.items() if f"_rawmap_{frame.obsid}_IDDLY_" in name)
    assert path.name.endswith("_ROE1_CCD1.fits")
    header = fits.getheader(path)
    how = pumping_maps.pumping_of(frame.commanded)
    assert (header["TPMODE"], header["TPTIME"]) == (how["mode"], how["time_us"])
    whole = fits.getdata(path, "MAP")
    mine = raw[raw["obsid"] == frame.obsid]
    strong = mine[np.argsort(-mine["A"])[:20]]
    quadrants = set()
    for row in strong:
        plane = DETECTOR.canonical(whole, str(row["quadrant"]))
        x, y = int(row["x"]), int(row["y"])
        if how["is_serial"]:
            pair = np.nanmean(plane[:, x : x + 2], axis=0)
        else:
            pair = plane[y : y + 2, x]
        assert pair[0] * pair[1] < 0
        assert np.ptp(pair) / 2 == pytest.approx(row["A"], rel=0.1)
        quadrants.add(row["quadrant"])
    others = [DETECTOR.canonical(whole, name) for name in DETECTOR.names if name not in quadrants]
    assert all(np.isnan(plane).all() for plane in others)


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


def test_the_analyses_name_all_functions_that_run_in_workers() -> None:
    for handle in ("TP01", "TP11", "TP02", "TP21"):
        assert set(task.WORKERS) <= set(load_task(handle).workers)
