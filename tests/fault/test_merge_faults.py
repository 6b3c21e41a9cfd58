# SPDX-License-Identifier: BSD-3-Clause
"""Every file of the merge missing, late, cut or changed: fill, a bit, a reason; never an exception.

And its own file: damaged, killed while it is written, held by a reader, wanted by two.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.depth import soaked
from kit.merge import START_NS, World, make_config, minute_ns
from kit.small_disk import prove
from nightjar.das import pointing as log_format
from nightjar.das.naming import housekeeping_path, index_path, pointing_path, raw_path
from nightjar.das.raw import HEADER_BYTES, MISSING, pack_header, parse_header
from nightjar.errors import Busy, NightjarError
from nightjard.merged import netcdf, quality
from nightjard.merged.config import MergedConfig
from nightjard.merged.edges import find_edges
from nightjard.merged.minute import merge_minute

CRASH = Path(__file__).parents[1] / "kit" / "merge_crash.py"
MINUTE = 1
HERE = slice(3000, 6000)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = World(tmp_path_factory.mktemp("clean"), offset_s=0.0, drift_ppm=0.0)
    world.write(range(3))
    return world.root


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    """Return a copy of the clean night that a test may spoil."""
    for name in ("raw", "pointing", "housekeeping"):
        shutil.copytree(clean / name, tmp_path / name)
    return tmp_path


def config_of(root: Path, **changes: Any) -> MergedConfig:
    return make_config(
        root, alignment={"align": "off"}, storage={"compression": "none", "lock_wait_s": 0.3},
        **changes,
    )  # fmt: skip


def raw_of(root: Path) -> Path:
    return raw_path(root / "raw", minute_ns(MINUTE))


def pointing_of(root: Path) -> Path:
    return pointing_path(root / "pointing", minute_ns(MINUTE))


def housekeeping_of(root: Path) -> Path:
    return housekeeping_path(root / "housekeeping", minute_ns(MINUTE))


def merged(root: Path, **changes: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Merge the minute; return what is told of it and the file's variables as stored."""
    result = merge_minute(config_of(root, **changes).text, minute_ns(MINUTE))
    return result["minutes"][0], stored(result["path"])


def stored(path: str | Path) -> dict[str, np.ndarray]:
    import netCDF4

    with netCDF4.Dataset(path) as dataset:
        dataset.set_auto_maskandscale(False)
        dataset.set_auto_chartostring(False)
        return {name: np.asarray(one[...]) for name, one in dataset.variables.items()}


def bits(found: dict[str, np.ndarray], but: int = quality.ROTATING) -> set[int]:
    return set(np.unique(found["quality"][HERE] & np.uint16(0xFFFF ^ but)).tolist())


def test_a_clean_minute_has_no_bit_and_no_reason(root: Path) -> None:
    told, found = merged(root)
    assert told["status"] == quality.COMPLETE
    assert told["reason"] == ""
    assert bits(found) == {0}


# --- raw ---
def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x5A
    path.write_bytes(data)


def other_header(path: Path, **changes: Any) -> None:
    data = path.read_bytes()
    header = parse_header(data[:HEADER_BYTES], "x") | changes
    path.write_bytes(pack_header(header) + data[HEADER_BYTES:])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "no raw_260301_0361.bin"),
        (lambda path: cut(path, 100), "100 bytes; a raw file has a header"),
        (lambda path: cut(path, 0), "0 bytes"),
        (lambda path: flip(path, 20), "its header was changed"),
        (lambda path: flip(path, 1_000_001), "CRC-32 of its data is not the sidecar's"),
        (lambda path: path.write_bytes(b"\0" * 5000), "this is no raw minute file"),
        (
            lambda path: other_header(path, utc_start_ns=minute_ns(MINUTE - 1440)),
            "another minute than its name",
        ),
        (lambda path: other_header(path, n_channels=192), "3000 slots of 192 channels"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read: Is a directory"),
    ],
    ids=["missing", "headless", "empty", "header", "data", "zeros", "yesterday", "shape", "folder"],
)
def test_a_raw_file_that_cannot_be_used(
    root: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    spoil(raw_of(root))
    told, found = merged(root)
    assert told["status"] == quality.WITHOUT_RAW
    assert reason in told["reason"]
    assert "\n" not in told["reason"]
    assert bits(found) == {quality.NO_RAW}
    assert (found["ac_bolos"][HERE] == MISSING).all()
    assert (found["trck_das"][HERE] == -1).all()
    assert np.isnan(found["rgrt"][HERE]).all()
    # What the others know is there.
    assert np.isfinite(found["ra"][HERE]).all()
    assert (found["obsnumber"][60:120] == 7).all()


def test_a_raw_file_cut_short_gives_its_sound_samples(root: Path) -> None:
    whole = np.fromfile(raw_of(root), "<i2", offset=HEADER_BYTES).reshape(3000, 384)
    cut(raw_of(root), HEADER_BYTES + 768 * 2000 + 100)
    told, found = merged(root)
    assert told["status"] == quality.RAW_GAPS
    assert "cut short: 2000 of 3000 samples" in told["reason"]
    np.testing.assert_array_equal(found["ac_bolos"][3000:5000, :24], whole[:2000, :24])
    assert (found["ac_bolos"][5000:6000] == MISSING).all()
    assert (found["quality"][5000:6000] & quality.GAP > 0).all()
    assert (found["quality"][3000:5000] & quality.GAP == 0).all()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "sample times are nominal"),
        (lambda path: path.write_text("{"), "sample times are nominal"),
        (lambda path: path.write_text('{"format": "DASIDX1", "marks": 3}'), "lacks sense"),
    ],
    ids=["missing", "cut", "senseless"],
)
def test_without_a_sidecar_times_are_nominal_and_doubted(
    root: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    path = index_path(raw_of(root))
    crc = json.loads(path.read_text())["crc32_data"]
    spoil(path)
    if path.exists() and "DASIDX1" in path.read_text():
        path.write_text(path.read_text()[:-1] + f', "crc32_data": {crc}}}')
    told, found = merged(root)
    assert told["status"] == quality.COMPLETE
    assert reason in told["reason"]
    assert bits(found) == {quality.CLOCK_UNLOCKED}
    assert (found["das_offset"][HERE] == 0).all()


def test_gaps_and_an_unlocked_clock_are_told_where_they_are(root: Path) -> None:
    world = World(root, offset_s=0.0, drift_ppm=0.0)
    world.write_raw(MINUTE, missing=[slice(100, 115)], unlocked=[7])
    told, found = merged(root)
    assert told["status"] == quality.RAW_GAPS
    assert told["samples"] == 2985
    bad = found["quality"][HERE] & np.uint16(quality.GAP | quality.NO_RAW)
    assert np.flatnonzero(bad).tolist() == list(range(100, 115))
    unlocked = found["quality"][HERE] & np.uint16(quality.CLOCK_UNLOCKED)
    assert np.flatnonzero(unlocked).tolist() == list(range(350, 400))
    assert (found["trck_das"][3100:3115] == -1).all()
    assert np.isnan(found["rgrt"][3100:3115]).all()
    assert np.isfinite(found["ra"][HERE]).all()


@pytest.mark.parametrize("rail", [32767, -32767])
def test_saturated_bolometers_are_told(root: Path, rail: int) -> None:
    def change(samples: np.ndarray) -> None:
        samples[200:210, 65] = rail  # a bolometer of hextant 2
        samples[400:410, 60] = rail  # an unused channel

    World(root, offset_s=0.0, drift_ppm=0.0).write_raw(MINUTE, change=change)
    for is_told in (True, False):
        if not is_told:
            index_path(raw_of(root)).unlink()
        _, found = merged(root)
        saturated = found["quality"][HERE] & np.uint16(quality.SATURATED)
        assert np.flatnonzero(saturated).tolist() == list(range(200, 210))


def test_another_channel_map_and_scale_are_told(root: Path) -> None:
    other_header(raw_of(root), channel_map_sha256="0" * 64, volts_per_lsb=1e-4)
    told, _ = merged(root)
    assert "another channel map" in told["reason"]
    assert "0.0001 V a count" in told["reason"]


# --- pointing ---
def shift_day(path: Path) -> None:
    raw = np.frombuffer(path.read_bytes(), log_format.RECORD).copy()
    raw["mjd"] -= 1
    path.write_bytes(raw.tobytes())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "no pointing 0361"),
        (shift_day, "not one record of its minute; the first is of day 20260228, minute 0361"),
        (lambda path: path.write_bytes(b""), "not one whole record"),
        (lambda path: path.with_name("0361.lck").touch(), "is still being written"),
        (lambda path: path.write_bytes(b"\xff" * 312000), "not one record of its minute"),
    ],
    ids=["missing", "yesterday", "empty", "locked", "noise"],
)
def test_a_pointing_log_that_cannot_be_used(
    root: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    spoil(pointing_of(root))
    told, found = merged(root)
    assert told["status"] == quality.WITHOUT_POINTING
    assert reason in told["reason"]
    inner = slice(3010, 5990)
    nothing = quality.NO_POINTING | quality.SPARSE_POINTING
    assert (found["quality"][inner] & nothing == nothing).all()
    for name in ("ra", "dec_j2000", "az", "lst", "pa", "eaz"):
        assert np.isnan(found[name][inner]).all(), name
    assert (found["flags_tel"][inner] == -1).all()
    assert (found["ac_bolos"][HERE] != MISSING).all()


def records(root: Path) -> np.ndarray:
    return np.frombuffer(pointing_of(root).read_bytes(), log_format.RECORD).copy()


@pytest.mark.parametrize(
    ("gap", "sparse", "lost"),
    [(1, 0, 0), (4, 0, 0), (6, 4, 0), (20, 10, 10)],
    ids=["20 ms", "50 ms", "70 ms", "210 ms"],
)
def test_gaps_of_pointing(root: Path, gap: int, sparse: int, lost: int) -> None:
    """50 ms are interpolated, 100 ms are and told so, more is fill; only between its records."""
    raw = records(root)
    pointing_of(root).write_bytes(np.delete(raw, np.s_[3001 : 3001 + gap]).tobytes())
    told, found = merged(root)
    assert f"{6000 - gap} of 6000 records are sound" in told["reason"]
    is_sparse = found["quality"][HERE] & np.uint16(quality.SPARSE_POINTING) > 0
    is_lost = found["quality"][HERE] & np.uint16(quality.NO_POINTING) > 0
    assert (is_lost == np.isnan(found["ra"][HERE])).all()
    assert abs(int(is_sparse.sum()) - sparse) <= 1
    assert abs(int(is_lost.sum()) - lost) <= 1
    assert not is_sparse[:1499].any()
    assert not is_sparse[1514:].any()


def test_doubled_records_zero_ticks_and_disorder_are_sorted_out(root: Path) -> None:
    _, clean = merged(root)
    raw = records(root)
    raw[10]["ticks"] = 0
    raw[20] = raw[21]
    raw[[100, 101]] = raw[[101, 100]]
    pointing_of(root).write_bytes(raw.tobytes() + b"tail")
    told, found = merged(root)
    assert "5998 of 6000 records are sound" in told["reason"]
    assert told["status"] == quality.COMPLETE
    np.testing.assert_allclose(found["ra"][HERE], clean["ra"][HERE], atol=0.2 / 3600)


# --- housekeeping ---
def text(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "no enc_260301_0361.jsonl"),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_bytes(b"\xff\xfe{]\n" * 50), "50 lines are unreadable"),
        (lambda path: path.write_text('3\n[1]\n{"t": 3}\n'), "3 lines are unreadable"),
        (lambda path: text(path, lambda lines: [
            one.replace("2026-03-01T06:01", "2026-02-28T06:01") for one in lines
        ]), "660 lines are of another minute"),
    ],
    ids=["missing", "empty", "noise", "other", "yesterday"],
)  # fmt: skip
def test_housekeeping_that_cannot_be_used(
    root: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    spoil(housekeeping_of(root))
    told, found = merged(root)
    assert reason in told["reason"]
    assert (found["quality"][3150:5850] & quality.NO_ENCODER > 0).all()
    assert (found["obsnumber"][60:120] == -999999).all()
    assert np.isnan(found["rotangle"][63:117]).all()
    assert bytes(found["source_name"][70]) == b"\0" * 32
    assert np.isfinite(found["ra"][HERE]).all()


def test_housekeeping_cut_doubled_and_spoiled_gives_what_is_sound(root: Path) -> None:
    _, clean = merged(root)

    def spoil(lines: list[str]) -> list[str]:
        doubled = [one for one in lines for _ in range(2)]
        return [*doubled[:200], "{not json", *doubled[200:-1], doubled[-1][:50]]

    text(housekeeping_of(root), spoil)
    told, found = merged(root)
    assert "2 lines are unreadable" in told["reason"]
    np.testing.assert_array_equal(found["obsnumber"], clean["obsnumber"])
    np.testing.assert_allclose(found["rotangle_fast"][HERE], clean["rotangle_fast"][HERE])


def test_a_telescope_that_does_not_answer_gives_fill(root: Path) -> None:
    def dead(lines: list[str]) -> list[str]:
        kept = []
        for one in lines:
            values = json.loads(one)
            if values["kind"] == "tel":
                values |= {"is_ok": False, "latency_ms": None, "record": None}
            kept.append(json.dumps(values))
        return kept

    text(housekeeping_of(root), dead)
    told, found = merged(root)
    assert told["status"] == quality.COMPLETE
    assert np.isnan(found["tau"][60:120]).all()
    assert np.isfinite(found["rotangle"][60:120]).all()
    assert np.isfinite(found["ra"][HERE]).all()  # UT1 is the neighbour's


def test_other_forms_of_a_line_mean_the_same(root: Path) -> None:
    """Lines with another order of keys take the way through JSON."""
    _, clean = merged(root)
    text(housekeeping_of(root), lambda lines: [
        json.dumps(dict(reversed(json.loads(one).items()))) for one in lines
    ])  # fmt: skip
    _, found = merged(root)
    for name in ("rotangle_fast", "rotangle", "rot_err", "tau", "quality"):
        np.testing.assert_array_equal(found[name], clean[name])


def test_nothing_at_all(root: Path) -> None:
    for name in ("raw", "pointing", "housekeeping"):
        shutil.rmtree(root / name)
    told, found = merged(root)
    assert told["status"] == quality.WITHOUT_RAW
    for name in ("no raw_260301_0361.bin", "no pointing 0361", "no enc_260301_0361.jsonl"):
        assert name in told["reason"]
    assert np.isfinite(found["das_offset"][HERE]).all()
    assert find_edges(config_of(root).text, minute_ns(MINUTE))["das"] == []


def test_streams_that_are_not_configured(root: Path) -> None:
    told, _ = merged(root, pointing_root=None, housekeeping_root=None)
    assert told["status"] == quality.RAW_ONLY
    assert "no folder of pointing logs is configured" in told["reason"]


def test_late_files_heal_the_minute(root: Path) -> None:
    _, clean = merged(root)
    late = {path: path.read_bytes() for path in (raw_of(root), pointing_of(root))}
    for path in late:
        path.unlink()
    merged(root)
    for path, data in late.items():
        path.write_bytes(data)
    result = merge_minute(config_of(root).text, minute_ns(MINUTE), is_late=True)
    found = stored(result["path"])
    assert (found["quality"][HERE] & quality.LATE > 0).all()
    for name, values in clean.items():
        if name != "quality":
            assert values.tobytes() == found[name].tobytes(), name


# --- the merged file ---
def whole(root: Path) -> dict[str, np.ndarray]:
    config = config_of(root)
    for minute in range(3):
        result = merge_minute(config.text, minute_ns(minute))
    return stored(result["path"])


@pytest.mark.parametrize("at", [5, 75, soaked(2), soaked(40)])
def test_killed_in_mid_minute(root: Path, at: int) -> None:
    """What a SIGKILL leaves is found and merged again; then the file is as if nothing had been."""
    expected = whole(root)
    path = root / "merged" / "20260301_06.nc"
    path.unlink()
    config = config_of(root)
    merge_minute(config.text, minute_ns(0))
    died = subprocess.run(
        [sys.executable, CRASH, str(at), str(minute_ns(MINUTE))], input=config.text, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL, died.stderr
    result = merge_minute(config.text, minute_ns(2))
    assert minute_ns(MINUTE) in result["again"]
    for again in result["again"]:
        if again <= minute_ns(2):
            assert merge_minute(config.text, again)["again"] == []
    found = stored(path)
    for name, values in expected.items():
        assert values.tobytes() == found[name].tobytes(), name


@pytest.mark.parametrize("spoil", [lambda p: cut(p, 20_000), lambda p: p.write_bytes(b"no")])
def test_a_damaged_file_is_set_aside_and_made_anew(
    root: Path, spoil: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netcdf, "TRY_S", 0.01)
    expected = whole(root)
    path = root / "merged" / "20260301_06.nc"
    spoil(path)
    damaged = path.read_bytes()
    result = merge_minute(config_of(root).text, minute_ns(1))
    assert Path(result["set_aside"]).read_bytes() == damaged
    assert len(result["again"]) == 59
    for minute in (0, 2):
        merge_minute(config_of(root).text, minute_ns(minute))
    found = stored(path)
    assert all(values.tobytes() == found[name].tobytes() for name, values in expected.items())


def test_a_reader_that_holds_the_file_stops_nothing(root: Path) -> None:
    """Another process holds it with HDF5's lock, as ncdump and xarray do."""
    config = config_of(root)
    path = merge_minute(config.text, minute_ns(0))["path"]
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys, netCDF4; d = netCDF4.Dataset(sys.argv[1]); "
         "print(d['minute_status'][0], flush=True); sys.stdin.read()", path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline().strip() == "0"
        result = merge_minute(config.text, minute_ns(1))
        assert result["set_aside"] is None
        assert stored(path)["minute_status"][1] == quality.COMPLETE
    finally:
        reader.communicate("")


def test_two_writers_of_an_hour_wait_for_each_other(root: Path) -> None:
    config = config_of(root)
    with netcdf.hour_lock(config, START_NS), pytest.raises(Busy, match="already running"):
        merge_minute(config.text, minute_ns(1))
    results: list[Any] = []
    patient = make_config(root, alignment={"align": "off"})

    def merge(minute: int) -> None:
        results.append(merge_minute(patient.text, minute_ns(minute)))

    threads = [threading.Thread(target=merge, args=(one,)) for one in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert len(results) == 2
    assert stored(results[0]["path"])["minute_status"][:2].tolist() == [0, 0]


def test_a_full_disk_costs_nothing(tmp_path: Path) -> None:
    """On a real small disk: told as full, and with room again the hour is whole."""
    for name in ("disk", "inputs"):
        (tmp_path / name).mkdir()
    prove("merge_full_disk", tmp_path / "disk", tmp_path / "inputs")


def test_a_file_that_cannot_be_made_is_told(root: Path) -> None:
    """A limit on the size of files of this process stands for a disk: the same place fails."""
    import resource

    config = config_of(root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(NightjarError, match=r"cannot (make|write) .*20260301_06\.nc"):
            merge_minute(config.text, minute_ns(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not list((root / "merged").glob(".*tmp*"))
    assert merge_minute(config.text, minute_ns(0))["minutes"][0]["status"] == quality.COMPLETE
