# SPDX-License-Identifier: BSD-3-Clause
"""Slices and maps of merged hours, scored by the truth of the simulated observatory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.dasmerge import Bench, stored
from kit.observatory import MadeNight, made_night
from nightjar.das.naming import minute_start_ns
from nightjar.errors import InvalidArgument, StorageError
from nightjar.times import parse_iso
from nightjard.merged.command import main
from nightjard.merged.drawing import draw
from nightjard.merged.mapping import make_map
from nightjard.merged.slicing import Hours, find_hours
from nightjard.merged.standalone import cut_observations
from nightjard.merged.variables import INT_FILL
from nightjard.simulators.observatory.focal_plane import FWHM_ARCSEC

START = minute_start_ns("20261121", 10 * 60 + 55)
COUNT = 9
HOURS = ("20261121_10.nc", "20261121_11.nc")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> MadeNight:
    """Nine minutes over an hour's end: planet, planet, a faint source."""
    folder = tmp_path_factory.mktemp("night") / "n"
    return made_night(folder, COUNT, start="2026-11-21T10:55:00", seed=3, axes="radec")


@pytest.fixture(scope="module")
def merged(night: MadeNight, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = Bench(tmp_path_factory.mktemp("merged"), night.folder, START, COUNT + 1)
    bench.put(range(COUNT))
    bench.settle()
    return bench.config.merged_root


@pytest.fixture(scope="module")
def slices(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    output = tmp_path_factory.mktemp("slices")
    return cut_observations([merged], None, set(), 1.0, output, dry_run=False, force=False)


# --- slices -------------------------------------------------------------------------------------


def line_edges(night: MadeNight) -> np.ndarray:
    """Return true times, ns, at which the line OBSERVATION changed."""
    high = (night.truth["flags"] >> np.uint32(23)) & 1
    return night.truth["utc_ns"][1:][np.diff(high.astype(int)) != 0]


def test_observations_begin_and_end_by_the_truth(
    night: MadeNight, slices: list[dict[str, Any]]
) -> None:
    edges = line_edges(night) / 1e9
    for row in slices:
        for key in ("begin", "end"):
            if key in row["cut"]:
                continue
            # Nominal times are by the DAS's clock, 0.8 s ahead; half a sample of uncertainty.
            at = parse_iso(row[key]) / 1e9 - 0.8
            assert np.abs(edges - at).min() < 0.03, row
    assert [row["source"] for row in slices] == ["planet", "planet", "weak1", "planet"]
    assert [row["number"] for row in slices] == sorted({row["number"] for row in slices})
    assert len(edges) >= 4


def test_a_slice_over_the_hour_is_what_the_hours_hold(
    merged: Path, slices: list[dict[str, Any]]
) -> None:
    row = next(r for r in slices if r["begin"] < "2026-11-21T11" < r["end"])
    found = stored(row["file"])
    hours = [stored(merged / name) for name in HOURS]
    first = round((parse_iso(row["begin"]) - parse_iso("2026-11-21T10:00:00")) / 2e7)
    rest = found["time"].size - (180_000 - first)
    for name, values in found.items():
        if values.shape[:1] == (found["time"].size,) and name != "time":
            both = np.concatenate([hours[0][name][first:], hours[1][name][:rest]])
            assert values.tobytes() == both.tobytes(), name
    np.testing.assert_allclose(np.diff(found["time"]), 0.02, atol=1e-9)
    np.testing.assert_allclose(np.diff(found["time_onehertz"]), 1.0)
    assert (found["obs_number_das"] == 1).all()
    assert (found["das_channel_ac"] == hours[0]["das_channel_ac"]).all()
    seconds = found["time_onehertz"]
    assert seconds[0] <= found["time"][0] < seconds[0] + 1
    assert seconds[-1] <= found["time"][-1] < seconds[-1] + 1
    scans = found["scans_info"]
    assert len(scans) > 5
    for begin, end in scans:
        assert (found["scan_tel"][begin + 5 : end - 5] == 1).all()


def test_a_missing_hour_cuts(merged: Path, tmp_path: Path) -> None:
    whole = Hours([merged / name for name in HOURS]).observations()
    first = Hours([merged / HOURS[0]]).observations()
    second = Hours([merged / HOURS[1]]).observations()
    seam = parse_iso("2026-11-21T11:00:00")
    over = next(one for one in whole if one.begin_ns < seam < one.end_ns)
    assert first[-1].begin_ns == over.begin_ns
    assert first[-1].is_end_cut
    assert second[0].is_begin_cut
    assert second[0].end_ns == over.end_ns
    assert first[-1].end_ns == second[0].begin_ns
    later = tmp_path / "20261121_13.nc"  # two hours later: nothing of 10h goes on in it
    shutil.copy(merged / HOURS[1], later)
    import netCDF4

    with netCDF4.Dataset(later, "a") as dataset:
        for name in ("time", "time_onehertz", "time_minute"):
            dataset[name].units = dataset[name].units.replace("11:00", "13:00")
    apart = Hours([later, merged / HOURS[0]]).observations()
    assert len(apart) == len(first) + len(second)
    assert [one.is_end_cut for one in apart[: len(first)]] == [one.is_end_cut for one in first]


def test_a_gap_of_the_das_does_not_cut(night: MadeNight, tmp_path: Path) -> None:
    """The telescope's log tells the line meanwhile."""
    bench = Bench(tmp_path, night.folder, START, COUNT + 1)
    bench.put(range(5))
    bench.put(range(5), ["pointing", "housekeeping"])
    bench.take("raw", 3)
    bench.settle()
    whole = Hours(find_hours([tmp_path / "merged"], None)).observations()
    # Minute 3 has no raw file: it is never merged, and nothing tells but the number.
    spans = [one for one in whole if one.begin_ns < bench.at(3) and one.end_ns > bench.at(4)]
    assert len(spans) == 1


def test_numbers_that_were_given_twice(merged: Path, tmp_path: Path) -> None:
    import netCDF4

    hour = tmp_path / HOURS[1]
    shutil.copy(merged / HOURS[1], hour)
    with netCDF4.Dataset(hour, "a") as dataset:
        values = dataset["obsnumber"][:]
        dataset["obsnumber"][:] = np.where(values.mask, INT_FILL, 7)

    def cut(**how: Any) -> list[dict[str, Any]]:
        # The first two are cut short by the hour and by the end of the data.
        rows = cut_observations([hour], None, {7}, 30.0, tmp_path, **how)
        return [row for row in rows if row["file"]]

    names = [Path(row["file"]).name for row in cut(dry_run=True, force=False)]
    assert names == ["261121_o07_raw.nc", "261121_o07_2_raw.nc"][: len(names)]
    assert len(names) >= 2
    assert not any(row["kept"] for row in cut(dry_run=False, force=False))
    before = (tmp_path / names[1]).stat().st_ino
    assert all(row["kept"] for row in cut(dry_run=False, force=False))
    assert (tmp_path / names[1]).stat().st_ino == before
    assert not any(row["kept"] for row in cut(dry_run=False, force=True))
    assert (tmp_path / names[1]).stat().st_ino != before
    with pytest.raises(InvalidArgument, match="no observation 8"):
        cut_observations([hour], None, {8}, 1.0, tmp_path, dry_run=True, force=False)


def test_a_slice_is_not_cut_again_nor_half_written(merged: Path, tmp_path: Path) -> None:
    hours = Hours([merged / HOURS[0]])
    one = hours.observations()[0]
    target = hours.cut(one, tmp_path / "a.nc", 0)
    with pytest.raises(StorageError, match="exists already: --force replaces it"):
        hours.cut(one, target, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]
    with pytest.raises(StorageError, match="cannot be written"):
        hours.cut(one, tmp_path / "no/such/b.nc", 0)


def test_others_read_slices(merged: Path, slices: list[dict[str, Any]], tmp_path: Path) -> None:
    """xarray without a warning; the compliance checker finds no error; many hours as one."""
    import dask
    import xarray

    path = slices[3]["file"]
    with warnings.catch_warnings(), dask.config.set(scheduler="synchronous"):
        warnings.simplefilter("error")
        with xarray.open_dataset(path) as dataset:
            assert str(dataset.time.values[0])[:19] == slices[3]["begin"][:19]
            assert dataset.attrs["source_name"] == "planet"
            assert np.isfinite(dataset.ac_bolos.values[:10]).all()
        files = [merged / name for name in HOURS]
        with xarray.open_mfdataset(
            files, combine="by_coords", data_vars="minimal", coords="minimal", compat="override",
            join="outer", preprocess=lambda hour: hour.drop_dims(["onehertz", "minute"]),
        ) as fast:  # fmt: skip
            assert fast.sizes["time"] == 360_000
            assert str(fast.time.values[180_000])[:19] == "2026-11-21T11:00:00"
            assert np.isfinite(fast.ra_j2000.values[179_000:181_000]).all()
        with xarray.open_mfdataset(
            files, combine="nested", concat_dim="onehertz", data_vars="minimal", coords="minimal",
            compat="override", join="outer",
            preprocess=lambda hour: hour.drop_dims(["time", "minute"]),
        ) as slow:  # fmt: skip
            assert slow.sizes["onehertz"] == 7200
            assert str(slow.time_onehertz.values[3600])[:19] == "2026-11-21T11:00:00"
    told = tmp_path / "found.json"
    program = Path(sys.executable).parent / "compliance-checker"
    subprocess.run(
        [program, "--test=cf:1.10", "-f", "json", "-o", told, path], capture_output=True,
        check=False,
    )  # fmt: skip
    found = json.loads(told.read_text())["cf:1.10"]
    assert found["scored_points"] > 100
    assert not [one for one in found["high_priorities"] if one["msgs"]], found["high_priorities"]


def test_the_command_cuts_and_draws(
    merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["slice", str(merged), "--shortest", "150"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.startswith("not written") for line in said] == [False, False, False, True]
    assert said[3].endswith("planet  cut at its end")
    name = next(path.name for path in sorted(tmp_path.glob("*_raw.nc")))
    assert main(["map", name, "--size", "300"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{name[:-3]}.png: planet: ")
    assert (tmp_path / f"{name[:-3]}.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["slice", str(merged), "--number", "99"]) == 2
    assert main(["map", name, name, "--png", "a.png"]) == 2


# --- maps ---------------------------------------------------------------------------------------


def planet(slices: list[dict[str, Any]]) -> Path:
    return Path(slices[1]["file"])


def test_the_planet_is_where_it_is_and_round(slices: list[dict[str, Any]]) -> None:
    sky = make_map(planet(slices), size_arcsec=400)
    assert np.hypot(sky.found.x, sky.found.y) < 1.0
    assert sky.found.fwhm == pytest.approx(FWHM_ARCSEC, rel=0.03)
    assert sky.found.snr > 200
    assert sky.source == "planet"


def split(path: Path) -> float:
    """Return how far apart the planet is in the two directions of the scan, arcsec."""
    found = [make_map(path, size_arcsec=400, heading=one).found for one in (1, -1)]
    return float(np.hypot(found[0].x - found[1].x, found[0].y - found[1].y))


def test_both_directions_agree_and_20_ms_would_be_seen(
    slices: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert split(planet(slices)) < 1.0
    import netCDF4

    late = tmp_path / "late.nc"
    shutil.copy(planet(slices), late)
    with netCDF4.Dataset(late, "a") as dataset:
        for name in ("ra_j2000", "dec_j2000"):
            values = dataset[name][:]
            values[1:] = values[:-1].copy()
            dataset[name][:] = values
    assert split(late) > 3.0  # 4.8 at 120 arcsec/s


def test_the_skew_of_the_channels_is_taken_off(slices: list[dict[str, Any]]) -> None:
    flat = make_map(planet(slices), size_arcsec=400, deskew=False, heading=1).found
    assert np.hypot(flat.x, flat.y) > 0.7  # half of 19.2 ms at 120 arcsec/s


def test_a_faint_source_is_found_not_a_noisy_edge(
    slices: list[dict[str, Any]], tmp_path: Path
) -> None:
    faint = Path(slices[2]["file"])
    sky = make_map(faint)  # all that was seen, its thin edges too
    assert sky.source == "weak1"
    assert np.hypot(sky.found.x, sky.found.y) < 2.0
    assert 20 < sky.found.snr < 500
    assert sky.found.peak == pytest.approx(20 * 3.0517578125e-4, rel=0.15)
    target = tmp_path / "map.png"
    draw(sky, target)
    from matplotlib.image import imread

    picture = imread(target)
    assert (np.abs(picture[..., :3] - 0.6).max(axis=2) < 0.01).sum() > 500  # grey: not seen


def test_where_nothing_is_nothing_stands_out(
    slices: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The same detectors, their samples in disorder: noise without a source."""
    import netCDF4

    noise = tmp_path / "noise.nc"
    shutil.copy(slices[2]["file"], noise)
    random = np.random.default_rng(1)
    with netCDF4.Dataset(noise, "a") as dataset:
        dataset.set_auto_maskandscale(False)
        values = dataset["ac_bolos"][:]
        dataset["ac_bolos"][:] = np.rint(6 * random.standard_normal(values.shape)).astype("i2")
    sky = make_map(noise, size_arcsec=500)
    assert np.isnan(sky.found.snr)
    assert np.isnan(sky.found.peak)
    draw(sky, tmp_path / "noise.png")


def test_glitches_are_left_out(slices: list[dict[str, Any]], tmp_path: Path) -> None:
    import netCDF4

    spiky = tmp_path / "spiky.nc"
    shutil.copy(slices[2]["file"], spiky)
    random = np.random.default_rng(2)
    with netCDF4.Dataset(spiky, "a") as dataset:
        dataset.set_auto_maskandscale(False)
        values = dataset["ac_bolos"][:]
        rows, columns = (random.integers(0, n, 60) for n in values.shape)
        values[rows, columns] = 20_000  # a thousand times the source
        dataset["ac_bolos"][:] = values
    found = make_map(spiky, size_arcsec=500).found
    assert np.hypot(found.x, found.y) < 2.0
    assert found.peak == pytest.approx(20 * 3.0517578125e-4, rel=0.15)


def test_what_cannot_be_mapped_is_told(merged: Path, tmp_path: Path) -> None:
    import netCDF4

    empty = tmp_path / "20261121_10.nc"
    shutil.copy(merged / HOURS[0], empty)
    with netCDF4.Dataset(empty, "a") as dataset:
        dataset["quality"][:] = 1
    with pytest.raises(InvalidArgument, match="only 0 samples have data and pointing"):
        make_map(empty)
