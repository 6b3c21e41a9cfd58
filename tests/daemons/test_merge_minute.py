# SPDX-License-Identifier: BSD-3-Clause
"""Minutes of three streams become an hour's file: bit-exact, idempotent, readable by others."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.merge import LSB, RA0, SKEW, START_NS, World, make_config, minute_ns
from nightjar.das.channels import BOLOCAM
from nightjar.das.lines import Line
from nightjar.das.raw import MISSING, read_raw
from nightjar.errors import InvalidArgument, NightjarError, Refused
from nightjard.merged import quality
from nightjard.merged.alignment import align_minutes, as_json
from nightjard.merged.config import MergedConfig
from nightjard.merged.hour import merge_hour
from nightjard.merged.minute import merge_minute

MINUTES = range(4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("world"))
    world.write(MINUTES)
    for beside in (-1, 4):  # the DAS's clock is ahead: its minutes begin in the one before
        world.write_pointing(beside)
        world.write_housekeeping(beside)
    return world


@pytest.fixture(scope="module")
def alignment(world: World) -> dict[str, Any]:
    config = make_config(world.root)
    return as_json(align_minutes(config, [minute_ns(one) for one in MINUTES]))


def stored(path: str | Path) -> dict[str, np.ndarray]:
    """Return all variables as stored."""
    import netCDF4

    with netCDF4.Dataset(path) as dataset:
        dataset.set_auto_maskandscale(False)
        dataset.set_auto_chartostring(False)
        return {name: np.asarray(one[...]) for name, one in dataset.variables.items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values.tobytes() == other[name].tobytes(), name


@pytest.fixture(scope="module")
def merged(world: World, alignment: dict[str, Any]) -> tuple[MergedConfig, dict[str, np.ndarray]]:
    """Return the four minutes, merged one by one in an order that is not theirs."""
    config = make_config(world.root)
    for minute in (2, 0, 3, 1):
        result = merge_minute(config.text, minute_ns(minute), alignment)
        assert result["minutes"][0]["status"] == quality.COMPLETE, result
        assert not result["minutes"][0]["reason"]
        assert result["again"] == []
    return config, stored(config.merged_root / "20260301_06.nc")


def test_counts_are_the_raw_counts(world: World, merged: Any) -> None:
    _, found = merged
    for minute in MINUTES:
        raw = read_raw(world.root / f"raw/20260301/raw_260301_{360 + minute:04d}.bin").samples
        here = slice(minute * 3000, minute * 3000 + 3000)
        np.testing.assert_array_equal(found["ac_bolos"][here], raw[:, BOLOCAM.bolometers("AC")])
        np.testing.assert_array_equal(found["dc_bolos"][here], raw[:, BOLOCAM.bolometers("DC")])
        np.testing.assert_array_equal(found["ac_bias"][here], raw[:, 345:351])
        np.testing.assert_array_equal(found["ref_dcbias"][here], raw[:, 376])
        np.testing.assert_array_equal(found["rgrt_raw"][here], raw[:, 56])
        np.testing.assert_allclose(found["rgrt"][here], raw[:, 56] * LSB * 1e5, rtol=1e-6)
        np.testing.assert_allclose(found["chop_enc"][here], raw[:, 57] * LSB * 10, rtol=1e-6)
    assert found["skew"][24] == pytest.approx(64 * SKEW)
    assert found["skew_dc"][0] == pytest.approx(32 * SKEW)
    assert (found["das_channel_ac"] == BOLOCAM.bolometers("AC")).all()


def test_the_rest_of_the_hour_is_fill(merged: Any) -> None:
    _, found = merged
    assert (found["ac_bolos"][12000:] == MISSING).all()
    assert (found["quality"][12000:] == 65535).all()
    assert np.isnan(found["ra"][12000:]).all()
    assert (found["trck_das"][12000:] == -1).all()
    np.testing.assert_array_equal(found["time"], np.arange(180_000) / 50)
    assert found["minute_status"].tolist() == [0] * 4 + [-1] * 56


def test_an_hour_at_once_is_the_same_as_minute_by_minute(
    world: World, merged: Any, alignment: dict[str, Any]
) -> None:
    config = make_config(world.root, merged_root=str(world.root / "at_once"))
    config.merged_root.mkdir()
    result = merge_hour(config.text, START_NS, [minute_ns(one) for one in MINUTES], alignment)
    same(merged[1], stored(result["path"]))


def test_neither_blocks_nor_holes_change_a_value(
    world: World, alignment: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing logs, a slew, no CELESTIAL for a while: at once in odd blocks as one by one."""
    from nightjar.das import pointing as log_format
    from nightjard.merged import placing

    for minute in range(-1, 5):
        source = world.root / f"pointing/20260301/{360 + minute:04d}"
        target = tmp_path / f"pointing/20260301/{360 + minute:04d}"
        target.parent.mkdir(parents=True, exist_ok=True)
        records = np.frombuffer(source.read_bytes(), log_format.RECORD).copy()
        if minute == 0:
            records["flags"][4000:] &= ~np.uint32(1)
        elif minute == 1:
            records["az"][1000:3000] += 36000  # a degree off
            records["flags"][5000:] |= 1 << 15  # offsets along RA and Dec
        elif minute == 3:
            records = np.delete(records, slice(2000, 2400))
        if minute != 2:
            target.write_bytes(records.tobytes())
    results = []
    for name in ("at_once", "one_by_one"):
        (tmp_path / name).mkdir()
        config = make_config(
            world.root, pointing_root=str(tmp_path / "pointing"),
            merged_root=str(tmp_path / name), storage={"compression": "none"},
        )  # fmt: skip
        minutes = [minute_ns(one) for one in MINUTES]
        if name == "at_once":
            monkeypatch.setattr(placing, "BLOCK", 1777)
            merge_hour(config.text, START_NS, minutes, alignment)
        else:
            monkeypatch.setattr(placing, "BLOCK", 15_000)
            for start in minutes:
                merge_minute(config.text, start, alignment)
        results.append(stored(config.merged_root / "20260301_06.nc"))
    same(*results)
    is_horizontal = (results[0]["quality"][:12000] & quality.NOT_CELESTIAL) > 0
    assert 1500 < is_horizontal.sum() < 3000
    assert np.isnan(results[0]["ra"][6100:8800]).all()
    assert np.isfinite(results[0]["ra"][9100:9900]).all()


def test_alignment_on_the_way_is_that_of_the_files(
    world: World, alignment: dict[str, Any], tmp_path: Path
) -> None:
    """Edges found while raw files are merged lead to the same alignment as edges of files."""
    config = make_config(world.root, merged_root=str(tmp_path), storage={"compression": "none"})
    minutes = [minute_ns(one) for one in MINUTES]
    found = stored(merge_hour(config.text, START_NS, minutes)["path"])
    told = [rows[-1] for rows in alignment.values()]
    assert found["clock_drift"][:4].tolist() == [row[3] for row in told]
    assert found["clock_edges"][:4].tolist() == [row[4] for row in told]
    assert found["clock_sigma"][:4].tolist() == [row[5] for row in told]


def test_merged_twice_is_merged_once(merged: Any, alignment: dict[str, Any]) -> None:
    config, before = merged
    merge_minute(config.text, minute_ns(1), alignment)
    same(before, stored(config.merged_root / "20260301_06.nc"))


@pytest.mark.parametrize("storage", [{"compression": "none"}, {"compression": "zlib", "level": 4}])
def test_storage_changes_no_value(
    world: World, merged: Any, alignment: dict[str, Any], storage: dict[str, Any]
) -> None:
    root = world.root / storage["compression"]
    root.mkdir()
    config = make_config(world.root, merged_root=str(root), storage=storage)
    result = merge_hour(config.text, START_NS, [minute_ns(one) for one in MINUTES], alignment)
    same(merged[1], stored(result["path"]))


def test_status_lines_are_levels_by_true_time(world: World, merged: Any) -> None:
    _, found = merged
    count = 12000
    das = np.arange(count) / 50 + np.concatenate([world.samples(one)[1] for one in MINUTES])
    for line in (Line.TRACKING, Line.ACQUIRED, Line.ROTATING):
        channel = BOLOCAM.channels_of(line.variable)[0]
        truth = world.level(line, world.true_of(das + channel * SKEW))
        np.testing.assert_array_equal(found[line.variable][:count], truth)
    assert (found["rot_lim"] == -1).all()  # unplugged
    is_rotating = (found["quality"][:count] & quality.ROTATING) > 0
    truth = world.level(Line.ROTATING, world.true_of(das))
    # The rotator says it ten times a second, so its bit may be 50 ms wider.
    assert (is_rotating >= (found["rotating"][:count] == 1)).all()
    assert abs(int(is_rotating.sum()) - int(truth.sum())) < 10
    assert set(np.unique(found["quality"][:count]).tolist()) == {0, quality.ROTATING}


def test_housekeeping_is_by_the_second(world: World, merged: Any) -> None:
    _, found = merged
    assert found["obsnumber"][:240].tolist() == [7] * 240
    assert (found["obsnumber"][240:] == -999999).all()
    np.testing.assert_allclose(found["rotangle"][:240], 10 + 0.001 * np.arange(240), atol=1e-4)
    np.testing.assert_allclose(found["source_ra"][:240], 127.5)
    assert bytes(found["source_name"][3]).rstrip(b"\0") == b"URANUS"
    assert bytes(found["source_name"][300]) == b"\0" * 32
    assert np.isnan(found["temperature"][240:]).all()


def test_each_minute_names_its_inputs(merged: Any) -> None:
    _, found = merged
    name = bytes(found["input_raw"][2]).rstrip(b"\0").decode()
    assert name.startswith("raw_260301_0362.bin crc32 ")
    assert bytes(found["input_pointing"][2]).startswith(b"0362 crc32 ")
    assert bytes(found["input_housekeeping"][2]).startswith(b"enc_260301_0362.jsonl crc32 ")


def test_flipped_errors_would_be_seen(world: World, merged: Any, tmp_path: Path) -> None:
    """RA and Dec are within 0.3 arcsec of the truth, and no longer with the sign of eaz flipped."""
    config, found = merged
    assert places_rms(world, found) < 0.3
    other = World(world.root, eaz_sign=-1.0)
    flipped = make_config(world.root, pointing_root=str(tmp_path / "pointing"),
                          merged_root=str(tmp_path))  # fmt: skip
    other.root = tmp_path
    for minute in range(-1, 5):
        other.write_pointing(minute)
    minutes = [minute_ns(one) for one in MINUTES]
    result = merge_hour(flipped.text, START_NS, minutes, as_json(align_minutes(config, minutes)))
    assert places_rms(world, stored(result["path"])) > 3


def places_rms(world: World, found: dict[str, np.ndarray]) -> float:
    count = 12000
    das = np.arange(count) / 50 + np.concatenate([world.samples(one)[1] for one in MINUTES])
    truth = world.truth(world.true_of(das))
    ra = (found["ra"][:count] - truth["ra"]) * np.cos(np.radians(truth["dec"]))
    dec = found["dec"][:count] - truth["dec"]
    assert found["ra"][0] == pytest.approx(RA0, abs=1)
    return float(np.sqrt(np.mean(ra**2 + dec**2)) * 3600)


def test_offsets_along_ra_and_dec(world: World, tmp_path: Path) -> None:
    """With equat_offset_tel set X and Y go along RA (over cos Dec) and Dec."""
    from nightjar.das import pointing as log_format

    config = make_config(world.root, merged_root=str(tmp_path), alignment={"align": "off"},
                         pointing_root=str(tmp_path / "pointing"),
                         pointing={"use_errors": False})  # fmt: skip
    for minute in range(-1, 5):
        source = world.root / f"pointing/20260301/{360 + minute:04d}"
        raw = np.frombuffer(source.read_bytes(), log_format.RECORD).copy()
        raw["flags"] |= 1 << 15
        target = tmp_path / f"pointing/20260301/{360 + minute:04d}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(raw.tobytes())
    found = stored(merge_minute(config.text, minute_ns(1))["path"])
    here = slice(3000, 6000)
    t_s = 60 + np.arange(3000) / 50 + found["das_offset"][here]
    x, y = world.offsets_arcsec(t_s)
    cos_dec = np.cos(np.radians(12.0))
    assert np.abs((found["ra"][here] - RA0) * 3600 * cos_dec - x).max() < 0.5
    assert np.abs((found["dec"][here] - 12.0) * 3600 - y).max() < 0.5


def test_azimuth_and_elevation_lead_to_the_same_place(world: World, tmp_path: Path) -> None:
    """Without CELESTIAL the same sky comes from az and el, and quality says so."""
    other = World(tmp_path, is_celestial=False)
    for minute in range(-1, 5):
        other.write_pointing(minute)
    config = make_config(world.root, pointing_root=str(tmp_path / "pointing"),
                         merged_root=str(tmp_path))  # fmt: skip
    minutes = [minute_ns(one) for one in MINUTES]
    found = stored(merge_hour(config.text, START_NS, minutes)["path"])
    # Closed form in the truth: 0.35 arcsec of diurnal aberration stand between them.
    assert places_rms(world, found) < 0.5
    assert ((found["quality"][:12000] & quality.NOT_CELESTIAL) > 0).all()
    assert (found["cele_tel"][:12000] == 0).all()


@pytest.mark.parametrize("file_format", [0, 1, 2])
def test_old_formats_have_records_of_44_bytes(
    world: World, tmp_path: Path, file_format: int
) -> None:
    other = World(tmp_path)
    other.write_pointing(1, "old")
    config = make_config(world.root, pointing_root=str(tmp_path / "pointing"),
                         merged_root=str(tmp_path), file_format=file_format)  # fmt: skip
    result = merge_minute(config.text, minute_ns(1))
    found = stored(result["path"])
    here = slice(3000, 5900)
    assert np.isnan(found["x_offset"][here]).all()
    assert np.abs(found["ra"][here] - RA0).max() * 3600 < 10  # the errors only
    assert np.isfinite(found["az"][here]).all()


def test_the_old_housekeeping_records_are_read(world: World, tmp_path: Path) -> None:
    from nightjar.das.telinfo import pack

    folder = tmp_path / "hk" / "20260301"
    folder.mkdir(parents=True)
    records = [pack(world.record(60 + one) | {"rotator_encoder_deg": 12.5}) for one in range(60)]
    (folder / "20260301_0361_rpc.bin").write_bytes(b"".join(records) + b"cut")
    config = make_config(world.root, housekeeping_root=str(tmp_path / "hk"),
                         merged_root=str(tmp_path))  # fmt: skip
    result = merge_minute(config.text, minute_ns(1))
    found = stored(result["path"])
    assert (found["obsnumber"][60:120] == 7).all()
    np.testing.assert_allclose(found["rotangle"][60:119], 12.5)
    assert "20260301_0361_rpc.bin: 1 records" in result["minutes"][0]["reason"]


def test_readers_of_others(merged: Any) -> None:
    """Read by ncdump, by xarray without a warning; the compliance checker finds no error."""
    config, found = merged
    path = config.merged_root / "20260301_06.nc"
    dump = subprocess.run(["ncdump", "-h", path], capture_output=True, text=True, check=True)
    assert "short ac_bolos(time, bolo)" in dump.stdout
    import xarray

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xarray.open_dataset(path) as dataset:
            assert str(dataset.time.values[50])[:21] == "2026-03-01T06:00:01.0"
            volts = dataset.ac_bolos.isel(time=slice(9000, 15000)).values
            truth = found["ac_bolos"][9000:12000] * LSB
            np.testing.assert_allclose(volts[:3000], truth, rtol=1e-6)
            assert np.isnan(volts[3000:]).all()
            assert str(dataset.source_name.values[0]) in ("URANUS", "b'URANUS'")
        with xarray.open_mfdataset([path], combine="by_coords") as dataset:
            assert dataset.sizes["time"] == 180_000


def test_the_compliance_checker_finds_no_error(merged: Any, tmp_path: Path) -> None:
    """CF without any; ACDD with nothing but standard names, which CF has not for a bolometer."""
    config, _ = merged
    path = config.merged_root / "20260301_06.nc"
    told = tmp_path / "found.json"
    subprocess.run(
        [sys.executable, "-m", "kit.compliance", path, told], capture_output=True, check=False,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    found = json.loads(told.read_text())
    assert found["cf:1.10"]["scored_points"] > 1000
    cf = [one for one in found["cf:1.10"]["high_priorities"] if one["msgs"]]
    assert not cf, cf
    messages = [text for one in found["acdd:1.3"]["high_priorities"] for text in one["msgs"]]
    assert {text.split(":")[-1].strip() for text in messages} <= {"standard_name"}, messages


def test_another_configuration_is_refused(world: World, merged: Any) -> None:
    config, before = merged
    other = make_config(world.root, levels={"low_v": 0.7})
    with pytest.raises(Refused, match="begun with another configuration"):
        merge_minute(other.text, minute_ns(1))
    same(before, stored(config.merged_root / "20260301_06.nc"))


def test_folders_and_executor_make_no_other_product(world: World) -> None:
    config = make_config(world.root)
    other = make_config(world.root, merged_root="/elsewhere", executor={"workers": 7})
    assert config.digest == other.digest
    assert config.digest != make_config(world.root, rate_hz=25).digest


def test_what_is_no_minute_is_refused(world: World) -> None:
    config = make_config(world.root)
    with pytest.raises(InvalidArgument, match="start of a UT minute"):
        merge_minute(config.text, START_NS + 1)
    with pytest.raises(InvalidArgument, match="one after the other"):
        merge_hour(config.text, START_NS, [minute_ns(0), minute_ns(2)])
    with pytest.raises(InvalidArgument, match="of the hour"):
        merge_hour(config.text, START_NS, [minute_ns(60)])


def test_a_missing_folder_is_told(world: World, tmp_path: Path) -> None:
    config = make_config(world.root, merged_root=str(tmp_path / "nowhere"))
    with pytest.raises(NightjarError, match="nowhere does not exist"):
        merge_minute(config.text, minute_ns(0))
