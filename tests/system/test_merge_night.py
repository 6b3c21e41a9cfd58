# SPDX-License-Identifier: BSD-3-Clause
"""A simulated night through both passes of the merge and an executor, scored against its truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kit.merge import make_config
from kit.observatory import MadeNight, made_night
from nightjar.executor.choosing import ExecutorConfig, executor_of
from nightjar.times import parse_iso
from nightjard.merged import quality
from nightjard.merged.config import MergedConfig
from nightjard.merged.hour import TASKS, merge_hours
from nightjard.merged.netcdf import HOUR_NS, hour_of, hour_path

START = "2026-12-31T23:54:00"  # over midnight and the year's end
MINUTES = 12
FAULTS = "gap@3,das-restart@8"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> MadeNight:
    folder = tmp_path_factory.mktemp("night") / "n"
    return made_night(folder, MINUTES, start=START, faults=FAULTS)


def merged(night: MadeNight, config: MergedConfig) -> dict[str, np.ndarray]:
    """Merge the night's hours in processes of their own; return variables along its minutes."""
    import netCDF4

    start = parse_iso(START)
    hours = [hour_of(start), hour_of(start) + HOUR_NS]
    executor = executor_of(ExecutorConfig(workers=2), TASKS)
    try:
        failed = merge_hours(config, hours, executor)
    finally:
        executor.close()
    assert not failed
    found: dict[str, list[np.ndarray]] = {}
    for hour in hours:
        with netCDF4.Dataset(hour_path(config.merged_root, hour)) as dataset:
            dataset.set_auto_maskandscale(False)
            for name in ("ra", "dec", "ra_j2000", "dec_j2000", "das_offset", "quality", "acq_tel",
                         "clock_offset", "clock_drift", "minute_status", "rotangle_fast", "mjd",
                         "ac_bolos"):  # fmt: skip
                found.setdefault(name, []).append(np.asarray(dataset[name][...]))
    first = (start - hours[0]) // (60 * 10**9)
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    per_minute = {name: len(values) // 120 for name, values in joined.items()}
    return {
        name: values[first * per_minute[name] : (first + MINUTES) * per_minute[name]]
        for name, values in joined.items()
    }


@pytest.fixture(scope="module")
def products(night: MadeNight) -> dict[str, np.ndarray]:
    return merged(night, make_config(night.folder, storage={"compression": "none"}))


def true_times(night: MadeNight) -> np.ndarray:
    """Return true times of the slots, s from the start; NaN where none was sampled."""
    slots, when = night.truth["sample_slot"], night.truth["sample_utc_ns"]
    found = np.full(MINUTES * 3000, np.nan)
    inside = (slots >= 0) & (slots < found.size)
    found[slots[inside]] = (when[inside] - parse_iso(START)) / 1e9
    return found


def off_arcsec(night: MadeNight, found: dict[str, np.ndarray], ra: str, dec: str) -> np.ndarray:
    """Return how far places of acquired samples are from the truth's at their true times."""
    names = {"ra": "ra", "dec": "dec", "ra_j2000": "ra_icrs", "dec_j2000": "dec_icrs"}
    t_s = (night.truth["utc_ns"] - parse_iso(START)) / 1e9
    true = true_times(night)
    lon = np.degrees(np.interp(true, t_s, np.unwrap(np.radians(night.truth[names[ra]]))))
    lat = np.interp(true, t_s, night.truth[names[dec]])
    d_lon = ((found[ra] - lon + 180) % 360 - 180) * np.cos(np.radians(lat))
    off = np.hypot(d_lon, found[dec] - lat) * 3600
    chosen = (found["acq_tel"] == 1) & np.isfinite(true) & (found["quality"] & quality.NO_RAW == 0)
    return off[chosen]


@pytest.mark.parametrize(("ra", "dec"), [("ra", "dec"), ("ra_j2000", "dec_j2000")])
def test_places_are_within_0_3_arcsec(
    night: MadeNight, products: dict[str, np.ndarray], ra: str, dec: str
) -> None:
    off = off_arcsec(night, products, ra, dec)
    assert off.size > 20_000
    # An hour has 0.08 arcsec; a few minutes have few edges, and 1 ms is 0.12 arcsec.
    assert np.sqrt(np.mean(off**2)) < 0.3
    assert off.max() < 1.0


def test_the_clock_is_found(night: MadeNight, products: dict[str, np.ndarray]) -> None:
    true = true_times(night)
    has = np.isfinite(true) & (products["quality"] & quality.NO_RAW == 0)
    told = np.arange(true.size) / 50 + products["das_offset"]
    error = (told - true)[has]
    # Eleven minutes hold two observations, each with one error of up to 5 ms against the log.
    assert np.abs(error).max() < 0.005
    assert np.abs(products["clock_offset"] - 0.8).max() < 0.05


def test_without_the_alignment_it_would_not_do(night: MadeNight, tmp_path: Path) -> None:
    config = make_config(
        night.folder, merged_root=str(tmp_path), storage={"compression": "none"},
        alignment={"align": "record"},
    )  # fmt: skip
    found = merged(night, config)
    assert np.sqrt(np.mean(off_arcsec(night, found, "ra", "dec") ** 2)) > 10
    assert np.abs(found["clock_offset"] - 0.8).max() < 0.05  # known, and not applied


def test_bits_stand_where_the_faults_are(night: MadeNight, products: dict[str, np.ndarray]) -> None:
    true = true_times(night)
    gap = (products["quality"] & quality.GAP) > 0
    assert (gap == np.isnan(true)).mean() > 0.9995  # the ends of the night are partial minutes
    inner = slice(100, -100)
    for minute, length_s in ((3, 0.3), (8, 4.0)):
        here = gap[minute * 3000 : minute * 3000 + 3000]
        assert abs(here.sum() / 50 - length_s) < 0.1
        assert abs(np.flatnonzero(here)[0] / 50 - 20) < 0.1
    other = [one for one in range(1, MINUTES - 1) if one not in (3, 8)]
    for minute in other:
        assert not gap[minute * 3000 : minute * 3000 + 3000][inner].any()
        assert products["minute_status"][minute] == quality.COMPLETE
    theta = np.interp(true, (night.truth["utc_ns"] - parse_iso(START)) / 1e9, night.truth["theta"])
    has = np.isfinite(true)
    has[:100] = False
    assert np.nanmax(np.abs(products["rotangle_fast"] - theta)[has]) < 0.15
    assert (np.diff(products["mjd"]) > 0).all()  # over midnight and the year
