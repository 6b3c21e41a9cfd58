# SPDX-License-Identifier: BSD-3-Clause
"""Minute files of a simulated night: formats, bytes, clock, truth and each fault."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from kit.observatory import MadeNight, made_night
from nightjar.das.channels import BOLOCAM
from nightjar.das.housekeeping import read_housekeeping
from nightjar.das.lines import Line, has_bit, levels
from nightjar.das.naming import MINUTE_NS
from nightjar.das.pointing import PointingDamaged, check_minute, decode, encode, read_pointing
from nightjar.das.raw import GAP, RESTARTED, SLIP, RawDamaged, read_raw
from nightjar.errors import InvalidArgument
from nightjar.times import parse_iso
from nightjard.simulators.observatory.das_clock import DasClock
from nightjard.simulators.observatory.faults import FAULTS, parse_faults
from nightjard.simulators.observatory.records import pointing_of
from nightjard.simulators.observatory.scenario import lay_out, plan
from nightjard.simulators.observatory.truth import TelescopeParameters

S = 10**9


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> MadeNight:
    return made_night(tmp_path_factory.mktemp("clean") / "night", 3)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> MadeNight:
    """Every fault of a file, a minute each."""
    names = [name for name in FAULTS if name.split("-")[0] in ("pointing", "raw", "housekeeping")]
    spec = ",".join(f"{name}@{minute}" for minute, name in enumerate([*names, "rpc-dead"]))
    return made_night(tmp_path_factory.mktemp("faulty") / "night", len(names) + 2, faults=spec)


def _minute(made: MadeNight, name: str) -> int:
    return next(int(one["minute"]) for one in made.model["faults"] if one["name"] == name)


def _path(made: MadeNight, stream: str, minute: int) -> Path:
    day = made.folder / stream / "20261121"
    mmmm = f"{600 + minute:04d}"
    return (
        day
        / {
            "pointing": mmmm,
            "raw": f"raw_261121_{mmmm}.bin",
            "housekeeping": f"enc_261121_{mmmm}.jsonl",
        }[stream]
    )


def test_a_clean_night_is_whole_and_sound(clean: MadeNight) -> None:
    assert clean.told["files"] == {"raw": 3, "pointing": 3, "housekeeping": 3}
    serials = []
    for minute in range(3):
        start = clean.model["start_ns"] + minute * MINUTE_NS
        path = _path(clean, "pointing", minute)
        check_minute(path.read_bytes(), start, str(path))
        raw = read_raw(_path(clean, "raw", minute))
        assert raw.is_valid().all()
        assert raw.start_ns == start
        assert raw.index is not None
        assert raw.index["gaps"] == []
        assert all(second["flags"] == 0 for second in raw.index["seconds"])
        assert raw.header["channel_map_sha256"] == BOLOCAM.digest
        lines, bad = read_housekeeping(_path(clean, "housekeeping", minute))
        assert (len(lines), bad) == (660, 0)
        serials += [line["seq"] for line in lines]
        assert {line["record"]["observation_number"] for line in lines if line["kind"] == "tel"}
    assert serials == list(range(3 * 660))
    assert not list(clean.folder.rglob(".*"))


def test_the_same_seed_gives_the_same_bytes(clean: MadeNight, tmp_path: Path) -> None:
    again = made_night(tmp_path / "again", 1)
    other = made_night(tmp_path / "other", 1, seed=2)
    for stream in ("raw", "pointing", "housekeeping"):
        name = _path(clean, stream, 0).relative_to(clean.folder)
        assert (again.folder / name).read_bytes() == (clean.folder / name).read_bytes()
        assert (other.folder / name).read_bytes() != (clean.folder / name).read_bytes()
    with pytest.raises(InvalidArgument, match="another folder"):
        made_night(tmp_path / "again", 1)


def test_bytes_of_a_pointing_record_by_hand() -> None:
    start = parse_iso("2026-11-21T10:00:00")
    p = TelescopeParameters()
    night = lay_out(p, plan(p, start, 120, axes="radec"), start + 120 * S)
    t = start + 41_230_000_000
    truth = night.observatory.at(np.array([t]))
    source = night.sources[0]
    assert truth.flags[0] & 1
    # MJD 61365; 10:00:41.23 is tick 3 604 123 of the day.
    expected = struct.pack(
        ">IIIIIiiiiiiii",
        61365, 3_604_123, int(truth.flags[0]),
        round(truth.lst_h[0] * 360_000), round(truth.centre_ra[0] * 24_000),
        round(truth.centre_dec[0] * 36_000), round(truth.centre_pa[0] * 36_000),
        round(truth.x_offset[0] * 36_000), round(truth.y_offset[0] * 36_000),
        round(truth.requested_az[0] * 36_000), round(truth.requested_el[0] * 36_000),
        round((truth.az[0] - truth.requested_az[0]) * 36_000),
        round((truth.el[0] - truth.requested_el[0]) * 36_000),
    )  # fmt: skip
    assert encode(pointing_of(truth)) == expected
    # Requested RA and Dec are the centre's: the source's apparent place; the offsets are moving.
    assert abs(truth.centre_dec[0] - source.dec_deg) < 0.1
    assert abs(truth.x_offset[0]) > 1e-3
    back = decode(expected)
    cosine = np.cos(np.radians(back.dec_deg))
    moved = night.observatory.sky.horizontal(
        back.ra_deg + back.x_offset_deg / cosine, back.dec_deg + back.y_offset_deg,
        night.observatory.sky.lst_rad(np.array([t])),
    )  # fmt: skip
    assert abs(moved[0] - back.az_deg)[0] * 3600 < 0.5
    assert abs(moved[1] - back.el_deg)[0] * 3600 < 0.3


def test_the_log_and_its_errors_give_the_truth_back(clean: MadeNight) -> None:
    truth = clean.truth
    for path in clean.files("pointing"):
        log = read_pointing(path)
        index = np.searchsorted(truth["utc_ns"], log.utc_ns[::2])
        assert (truth["utc_ns"][index] == log.utc_ns[::2]).all()
        az = (log.az_deg + log.eaz_deg)[::2] - truth["az"][index]
        el = (log.el_deg + log.eel_deg)[::2] - truth["el"][index]
        assert np.abs((az + 180) % 360 - 180).max() * 3600 <= 0.11
        assert np.abs(el).max() * 3600 <= 0.11
        assert (log.flags[::2] == truth["flags"][index]).all()


def test_raw_is_by_the_clock_of_the_das(clean: MadeNight) -> None:
    """An edge in raw, taken to true time by marks and clock model, is the edge in the log."""
    clock = DasClock(clean.model["start_ns"])
    truth = clean.truth
    edges = truth[f"edges_{Line.TRACKING.variable}"]
    (channel,) = BOLOCAM.channels_of(Line.TRACKING.variable)
    volts, when = [], []
    for path in clean.files("raw"):
        raw = read_raw(path)
        volts.append(raw.samples[:, channel] * raw.header["volts_per_lsb"])
        slots = raw.start_ns + np.arange(3000) * 20_000_000 + np.rint(raw.offsets_s() * 1e9)
        when.append(slots.astype(np.int64))
    times = np.concatenate(when)
    seen = levels(np.concatenate(volts))
    rows = np.flatnonzero(np.diff(seen)) + 1
    # By the DAS's own time all is 0.8 s late; by its model it is right.
    by_model = times[rows] - (clock.read(times[rows] - 800_000_000) - times[rows] + 800_000_000)
    true = by_model + channel * 50_000
    wanted = edges[(edges[:, 0] > true[0] - 50_000_000) & (edges[:, 0] < true[-1] + 1)]
    assert len(wanted) == len(rows) >= 30
    late = (true - wanted[:, 0]) / 1e6
    assert late.min() > -1.5
    assert late.max() < 22
    assert np.median(np.abs(times[rows] - wanted[:, 0])) / 1e9 == pytest.approx(0.81, abs=0.02)
    numbers = truth["sample_utc_ns"][np.searchsorted(truth["sample_slot"], np.arange(9000))]
    modelled = clock.read(numbers)
    assert np.abs(modelled - times).max() < 1_500_000


def test_a_clock_that_runs_away_slips_a_slot_and_shifts_nothing(tmp_path: Path) -> None:
    # 3000 ppm: a slot every 6.7 s.
    for ppm, name in ((-3000.0, "drop"), (3000.0, "copy")):
        made = made_night(
            tmp_path / name, 1, clock=DasClock(0, offset_s=0.0, drift_ppm=ppm, adc_ppm=0.0)
        )
        raw = read_raw(made.files("raw")[0])
        assert raw.index is not None
        assert raw.is_valid().all()
        slips = [k for k, one in enumerate(raw.index["seconds"]) if one["flags"] & SLIP]
        assert 7 <= len(slips) <= 18
        # Sample times by the marks stay within a slot of nominal, and are the true ones.
        offsets = raw.offsets_s()
        assert np.abs(offsets).max() < 0.0335
        times = raw.start_ns + np.arange(3000) * 20_000_000 + np.rint(offsets * 1e9).astype(int)
        clock = DasClock(made.model["start_ns"], offset_s=0.0, drift_ppm=ppm, adc_ppm=0.0)
        true = clock.read(made.truth["sample_utc_ns"])
        assert np.abs(times - true).max() < 2_000_000


def test_losses_gap_restart_and_step_are_where_they_were_put(tmp_path: Path) -> None:
    made = made_night(tmp_path / "n", 4, faults="gap@0,das-restart@1,clock-step@2,lost-samples")
    raws = [read_raw(path) for path in made.files("raw")]
    indices = [raw.index for raw in raws if raw.index is not None]
    gaps = [[(one["count"], one["reason"]) for one in index["gaps"]] for index in indices]
    assert any(15 <= count <= 16 for count, _ in gaps[0])
    assert any(200 <= count <= 202 and reason == "restart" for count, reason in gaps[1])
    assert any(65 <= count <= 67 for count, _ in gaps[2])
    flags = [one["flags"] for one in indices[1]["seconds"]]
    assert sum(bool(one & RESTARTED) for one in flags) == 1
    assert sum(bool(one & GAP) for one in flags) >= 4
    counters = [one["counter"] for one in indices[1]["seconds"] if one["counter"] is not None]
    assert counters[-1] < counters[0]
    lost = sum(1 for one in gaps for count, _ in one if count == 1)
    assert 3 <= lost <= 30
    for raw, index in zip(raws, indices, strict=True):
        assert int(raw.is_valid().sum()) == index["valid"]
        assert index["valid"] + sum(one["count"] for one in index["gaps"]) == 3000
    # After the step the slots are by the stepped clock: 1.3 s on.
    slots, times = made.truth["sample_slot"], made.truth["sample_utc_ns"]
    ahead = made.model["start_ns"] + slots * 20_000_000 - times
    assert (ahead[-1] - ahead[0]) / 1e9 == pytest.approx(1.3, abs=0.02)


def test_each_fault_of_the_pointing_log(faulty: MadeNight) -> None:
    seen = {}
    for name in FAULTS:
        if not name.startswith("pointing-"):
            continue
        minute = _minute(faulty, name)
        path = _path(faulty, "pointing", minute)
        start = faulty.model["start_ns"] + minute * MINUTE_NS
        if name == "pointing-missing":
            assert not path.exists()
            continue
        data = path.read_bytes()
        try:
            check_minute(data, start, name)
            seen[name] = "passes"
        except PointingDamaged as error:
            seen[name] = str(error)
    assert seen.pop("pointing-lst") == "passes"
    raw = _path(faulty, "pointing", _minute(faulty, "pointing-lst")).read_bytes()
    assert struct.unpack(">i", raw[12:16])[0] < 0
    assert 0 <= decode(raw[:52]).lst_h[0] < 24
    assert "another day" in seen["pointing-yesterday"]
    assert "300000 bytes" in seen["pointing-truncated"]
    assert f"{5999 * 52} bytes" in seen["pointing-lost"]
    assert "tick 0" in seen["pointing-tick"]
    assert all("passes" != text for text in seen.values())


def test_each_fault_of_raw(faulty: MadeNight) -> None:
    def read(name: str) -> object:
        return read_raw(_path(faulty, "raw", _minute(faulty, name)))

    assert not _path(faulty, "raw", _minute(faulty, "raw-missing")).exists()
    with pytest.raises(RawDamaged, match="cut short"):
        read("raw-truncated")
    with pytest.raises(RawDamaged, match="CRC-32"):
        read("raw-corrupt")
    assert read_raw(_path(faulty, "raw", _minute(faulty, "raw-noindex"))).index is None
    minute = _minute(faulty, "raw-yesterday")
    late = read_raw(_path(faulty, "raw", minute))
    assert late.start_ns == faulty.model["start_ns"] + minute * MINUTE_NS - 86400 * S
    assert np.abs(late.offsets_s()).max() < 0.03


def test_each_fault_of_housekeeping(faulty: MadeNight) -> None:
    def read(name: str) -> tuple[list[dict], int]:  # type: ignore[type-arg]
        return read_housekeeping(_path(faulty, "housekeeping", _minute(faulty, name)))

    assert not _path(faulty, "housekeeping", _minute(faulty, "housekeeping-missing")).exists()
    lines, bad = read("housekeeping-truncated")
    assert bad == 1
    assert len(lines) < 600
    lines, _ = read("housekeeping-yesterday")
    start = faulty.model["start_ns"] + _minute(faulty, "housekeeping-yesterday") * MINUTE_NS
    assert start - 86400 * S <= lines[0]["utc_ns"] < start - 86340 * S
    assert read("housekeeping-corrupt")[1] == 33
    lines, bad = read("housekeeping-lost")
    assert (len(lines), bad) == (660 - 132, 0)
    path = _path(faulty, "housekeeping", _minute(faulty, "housekeeping-duplicate"))
    assert len(path.read_bytes().splitlines()) == 1320
    assert len(read_housekeeping(path)[0]) == 660
    lines, _ = read("rpc-dead")
    dead = [line for line in lines if line["kind"] == "tel"]
    assert len(dead) == 60
    assert not any(line["is_ok"] or line["record"] for line in dead)


def test_azimuth_ra_midnight_and_the_year_go_over(tmp_path: Path) -> None:
    north = made_night(tmp_path / "az", 4, faults="az-wrap", scan_s=100.0)
    assert north.truth["az"].max() > 359
    assert north.truth["az"].min() < 1
    zero = made_night(tmp_path / "ra", 2, faults="ra-24h", start="2026-11-21T06:30:00")
    celestial = has_bit(zero.truth["flags"], 0)
    assert zero.truth["ra"][celestial].max() > 359.9
    assert zero.truth["ra"][celestial].min() < 0.4
    year = made_night(tmp_path / "year", 2, start="2026-12-31T23:59:00")
    names = sorted(p.relative_to(year.folder).as_posix() for p in year.files("pointing"))
    assert names == ["pointing/20261231/1439", "pointing/20270101/0000"]
    logs = [read_pointing(path) for path in year.files("pointing")]
    assert logs[1].utc_ns[0] - logs[0].utc_ns[-1] == 10_000_000
    assert (year.folder / "raw/20270101/raw_270101_0000.bin").is_file()


def test_the_truth_tells_all_that_was_asked(clean: MadeNight) -> None:
    truth, model = clean.truth, clean.model
    n = truth["utc_ns"].size
    assert n == (3 * 60 + 10) * 50
    for name in ("az", "el", "ra", "dec", "ra_icrs", "dec_icrs", "pa", "theta", "lst_h"):
        assert truth[name].shape == (n,)
        assert np.isfinite(truth[name]).all()
    assert model["clock"]["offset_s"] == 0.8
    assert model["clock"]["drift_ppm"] == -27.0
    assert model["sources"][0]["name"] == "planet"
    json.dumps(model)
    assert truth["pixel_x"].size == truth["gain"].size == 144


def test_a_wrong_fault_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="must be NAME"):
        parse_faults("explosion", 5)
    with pytest.raises(InvalidArgument, match="last minute is 4"):
        parse_faults("gap@5", 5)
    assert parse_faults("clock-step@1=-0.5", 5)[0].value == -0.5
