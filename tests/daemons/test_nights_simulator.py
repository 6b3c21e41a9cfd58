# SPDX-License-Identifier: BSD-3-Clause
"""Simulated nights are what they say: files as loggers leave them, truth that holds, damage."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from kit.simulated_night import content, pixels_of, tiny
from nightjar.errors import (
    ConfigError,
    FrameInvalid,
    InvalidArgument,
    NightjarError,
    Refused,
)
from nightjar.fits.header import read_header
from nightjar.fits.timing_text import text_path
from nightjar.times import NS_PER_S, parse_iso
from nightjard.simulators.night.headers import Setup
from nightjard.simulators.night.parameters import Segment, parse_parameters
from nightjard.simulators.night.pixels import (
    FramePool,
    Tag,
    check_tags,
    kind_of,
    read_tag,
    read_tags,
    tag_words,
)
from nightjard.simulators.night.presets import PRESETS, small
from nightjard.simulators.night.program import make_night
from nightjard.simulators.night.triggers import CameraTiming
from nightjard.simulators.night.truth import Fate, NightTruth, read_truth


@pytest.fixture(scope="module", params=["milk", "fitslogd"])
def night(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NightTruth:
    parameters = dataclasses.replace(small(), form=request.param)
    return make_night(tmp_path_factory.mktemp(request.param), parameters)


@pytest.fixture(scope="module")
def milk(tmp_path_factory: pytest.TempPathFactory) -> NightTruth:
    return make_night(tmp_path_factory.mktemp("night"), small())


# --- the night ---------------------------------------------------------------------------------


def test_same_parameters_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 4), ("two", 4), ("other", 5)):
        make_night(tmp_path / name, tiny(seed=seed, telemetry_s=1.0))
    one, two, other = (content(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    cubes = [
        {value for name, value in made.items() if name.endswith(".fits")} for made in (one, other)
    ]
    assert len(cubes[0]) == 8
    assert not cubes[0] & cubes[1]


def test_small_night_is_small(milk: NightTruth) -> None:
    assert 2500 < len(milk.logged) < 3500
    assert sum(path.stat().st_size for path in milk.folder.rglob("*.fits")) < 60e6


def test_every_frame_of_the_files_is_proven_by_its_tag(night: NightTruth) -> None:
    tags = []
    for cube in night.cubes:
        found = read_tags(pixels_of(night.folder / cube.path))
        assert (night.find(found) == night.of_cube(cube.number)).all()
        tags.append(found)
    result = night.conservation(tags)
    assert result.is_exact
    assert sum(map(len, tags)) == len(night.logged)


def test_conservation_tells_missing_doubled_and_foreign_frames(milk: NightTruth) -> None:
    tags = [read_tags(pixels_of(milk.folder / cube.path)) for cube in milk.cubes]
    foreign = tags[3][:1].copy()
    foreign["trigger"] += 100_000
    result = milk.conservation([*tags[:5], *tags[6:], tags[0][2:3], foreign])
    assert (result.missing == np.sort(milk.of_cube(5), order=["segment", "trigger"])).all()
    assert list(result.doubled["trigger"]) == [tags[0][2]["trigger"]]
    assert (result.foreign == foreign).all()
    assert not result.is_exact


def test_files_are_those_of_the_hashes(night: NightTruth) -> None:
    for cube in night.cubes:
        path = night.folder / cube.path
        assert blake3(path.read_bytes()).hexdigest() == cube.blake3
        assert blake3(text_path(path).read_bytes()).hexdigest() == cube.text_blake3
        assert path.stat().st_size == cube.size
    assert {str(path.relative_to(night.folder)) for path in night.folder.glob("vcam*/*.fits")} == {
        cube.path for cube in night.cubes
    }


def test_truth_can_be_read_again(night: NightTruth) -> None:
    again = read_truth(night.folder)
    assert (again.frames == night.frames).all()
    assert again.cubes == night.cubes
    assert parse_parameters(again.parameters) == parse_parameters(night.parameters)
    lines = (night.truth_folder / "truth_pairs.csv").read_text().splitlines()
    assert len(lines) == len(night.pairs()[0]) + 1
    losses = (night.truth_folder / "truth_losses.csv").read_text().splitlines()
    assert len(losses) == len(night.losses) + 1


def test_pixels_are_those_of_the_pool_and_look_like_a_detector(milk: NightTruth) -> None:
    pool = FramePool((64, 64), 1)
    for cube in (milk.cubes[0], milk.cubes[-1]):
        frames = pixels_of(milk.folder / cube.path)
        for frame, row in zip(frames, milk.of_cube(cube.number), strict=True):
            tag = read_tag(frame)
            kind = kind_of(str(milk.segments[tag.segment]["data_type"]))
            assert (frame == pool.frame(tag, kind)).all()
            assert (tag.camera, tag.trigger) == (row["camera"], row["trigger"])
    dark = pool.images("dark", 1, 0)[:, 1:].astype(float)
    assert dark.mean() == pytest.approx(200, abs=1)
    assert dark.std() == pytest.approx(np.hypot(0.4, np.sqrt(0.05)) / 0.103, rel=0.05)
    flux = {
        (camera, state): pool.images("star", camera, state)[:, 1:].astype(float).sum()
        for camera in (1, 2) for state in (1, -1)
    }  # fmt: skip
    assert flux[1, 1] > flux[1, -1] > flux[2, -1]


def test_a_damaged_tag_is_no_tag() -> None:
    frame = FramePool((8, 16), 3).frame(Tag(2, 7, 70_000, -1, 12), "star")
    assert read_tag(frame) == Tag(2, 7, 70_000, -1, 12)
    for word in range(8):
        broken = frame.copy()
        broken[0, word] ^= 4
        with pytest.raises(FrameInvalid, match="no undamaged tag"):
            read_tag(broken)
    with pytest.raises(InvalidArgument, match="no cube"):
        read_tags(np.zeros((3, 4, 7), np.uint16))


def test_check_tags_finds_what_is_wrong_with_a_product() -> None:
    frames = np.zeros((4, 2, 8), np.uint16)
    frames[:, 0] = tag_words(1, [3, 3, 3, 3], [10, 12, 11, 13], [1, 1, -1, 1], [0, 1, 2, 3])
    assert check_tags(frames[[0, 1, 3]], camera=1, segment=3, state=1) == []
    wrong = check_tags(frames, camera=1, state=1)
    assert wrong == [
        "frame 2: state is -1, not 1", "frame 2: trigger 11 comes after a later one",
    ]  # fmt: skip
    frames[3, 0, 5] += 1
    assert check_tags(frames[3:]) == ["frame 0: no valid tag"]


# --- the parts of a real night -----------------------------------------------------------------


def test_small_night_has_the_parts_of_a_real_one(milk: NightTruth) -> None:
    rows, segments = milk.frames, milk.segments
    kinds = {(s["data_type"], s["is_triggered"]) for s in segments}
    assert {("FLAT", False), ("DARK", False), ("COMPARISON", False), ("OBJECT", True)} <= kinds
    assert {s["angle_deg"] for s in segments if s["flc"]} == {0.0, 45.0, 22.5, 67.5}
    assert {s["mode"] for s in segments} == {"Fast", "Slow"}
    assert {int(fate) for fate in np.unique(rows["fate"])} == {
        Fate.LOGGED, Fate.LOST_BEFORE_MEMORY, Fate.LOST_AFTER_MEMORY, Fate.NOT_LOGGED
    }  # fmt: skip
    assert rows["repeats"].sum() == 1
    assert {1, 2, 3} <= {cube.frames for cube in milk.cubes}
    shapes = {pixels_of(milk.folder / cube.path).shape[1:] for cube in milk.cubes[-12:]}
    assert shapes == {(64, 64), (48, 80)}


def test_one_segment_crosses_midnight_in_the_old_folder(night: NightTruth) -> None:
    midnight = parse_iso("2026-06-12")
    rows = night.logged[night.logged["segment"] == 4]
    assert rows["acquired_ns"].min() < midnight < rows["acquired_ns"].max()
    names = [Path(cube.path).name for cube in night.cubes if cube.camera == 1]
    assert night.folder.name == "20260611"
    if night.parameters["form"] == "milk":
        assert names != sorted(names)  # after midnight the names begin again
    else:
        assert names == sorted(names)


def test_filter_and_target_change_within_cubes_and_the_header_tells_the_end(
    milk: NightTruth,
) -> None:
    found = set()
    for cube in milk.cubes:
        inside = np.unique(milk.of_cube(cube.number)["segment"]).tolist()
        if len(inside) > 1:
            found.add(tuple(inside))
            header = read_header(milk.folder / cube.path)
            assert header["OBJECT"] == milk.segments[inside[-1]]["target"]
            assert header["FILTER02"] == milk.segments[inside[-1]]["filter2"]
    assert {(6, 7), (7, 8)} <= found or (6, 7, 8) in found


def test_our_logger_tells_both_ends_of_a_change(tmp_path: Path) -> None:
    first = Segment(Setup(filter2="Halpha"), frames=20, cube_frames=((100,), (100,)))
    second = dataclasses.replace(first, setup=Setup(filter2="Open"), continues=True)
    truth = make_night(tmp_path, tiny(segments=(first, second), form="fitslogd"))
    header = read_header(truth.folder / truth.cubes[0].path)
    assert (header["FILTER02"], header["FILTER_E"]) == ("Halpha", "Open")


def test_pairs_are_of_one_trigger_and_its_state(milk: NightTruth) -> None:
    one, other = milk.pairs()
    assert len(one) > 900
    for name in ("segment", "trigger", "state", "true_ns"):
        assert (one[name] == other[name]).all()
    assert (one["camera"] == 1).all()
    assert (other["camera"] == 2).all()
    assert not {0, 1, 2} & set(one["segment"].tolist())  # not triggered


def test_low_exposures_are_followed_by_the_long_interval(milk: NightTruth) -> None:
    rows = milk.logged
    rows = rows[(rows["camera"] == 1) & (rows["segment"] == 3)]
    is_next = np.diff(rows["trigger"]) == 1
    interval_us = np.diff(rows["acquired_ns"])[is_next] / 1e3
    state = rows["state"][:-1][is_next]
    longer = np.median(interval_us[state == -1]) - np.median(interval_us[state == 1])
    assert longer == pytest.approx(1000, abs=60)


def test_counter_jumps_for_losses_of_the_logger_only(milk: NightTruth) -> None:
    # Camera 2 loses frames in segment 12 everywhere; what its counter misses are those after.
    rows = milk.frames[(milk.frames["camera"] == 2) & (milk.frames["segment"] == 11)]
    logged = rows[(rows["fate"] == Fate.LOGGED) & ~rows["repeats"]]
    jumped = int((np.diff(logged["counter"].astype(np.int64)) - 1).sum())
    first, last = logged["trigger"][[0, -1]]
    lost = rows[(rows["trigger"] > first) & (rows["trigger"] < last)]
    assert jumped == (lost["fate"] == Fate.LOST_AFTER_MEMORY).sum() > 5
    assert (lost["fate"] == Fate.LOST_BEFORE_MEMORY).sum() > 1


def test_a_frame_is_lost_right_where_a_cube_would_begin(milk: NightTruth) -> None:
    cubes = [c for c in milk.cubes if (milk.of_cube(c.number)["segment"] == 11).all()]
    for camera in (1, 2):
        ends = [milk.of_cube(cube.number)["trigger"] for cube in cubes if cube.camera == camera]
        lost = milk.losses[milk.losses["segment"] == 11]
        missing = set(lost["trigger"][lost["camera"] == camera].tolist())
        assert len(ends) > 1
        assert int(ends[0][-1]) + 1 in missing


def test_a_camera_is_off_for_a_while_and_its_cube_ends_there(milk: NightTruth) -> None:
    rows = milk.frames[(milk.frames["camera"] == 2) & (milk.frames["segment"] == 9)]
    off = np.flatnonzero(rows["fate"] == Fate.NOT_LOGGED)
    assert 30 < len(off) < 60
    before, after = rows[off[0] - 1], rows[off[-1] + 1]
    assert before["cube"] != after["cube"]
    assert after["counter"] - before["counter"] > 30  # the camera went on
    assert after["index"] == 0


def test_a_whole_cube_can_vanish(tmp_path: Path) -> None:
    lossy = Segment(frames=60, cube_frames=((20,), (25,)), lost_cube=1)
    truth = make_night(tmp_path, tiny(segments=(lossy,)))
    gone = truth.frames[truth.frames["fate"] == Fate.CUBE_LOST]
    assert len(gone) == 20
    assert set(gone["camera"].tolist()) == {1}
    assert len(truth.cubes) == 2 + 3
    assert [cube.number for cube in truth.cubes] == list(range(5))


# --- the telemetry -----------------------------------------------------------------------------


def test_telemetry_knows_the_true_angle_where_the_headers_do_not(milk: NightTruth) -> None:
    lines = (milk.folder / "logging" / "keywords_log.tsv").read_text().splitlines()
    names = lines[0].split("\t")
    assert names[0] == "WRITTIME"
    assert not any(name.startswith("U_") for name in names)
    log = {}
    for line in lines[1:]:
        values = dict(zip(names, line.split("\t"), strict=True))
        stamp = values["WRITTIME"]
        assert re.fullmatch(r"\d{8}-\d\d:\d\d:\d\d", stamp)
        day = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}"
        log[parse_iso(f"{day}T{stamp[9:]}")] = float(values["RET-ANG1"])
    assert len(log) == len(lines) - 1
    wrong = [c for c in milk.cubes if (milk.of_cube(c.number)["segment"] == 13).all()]
    assert len(wrong) > 4
    for cube in wrong:
        assert read_header(milk.folder / cube.path)["RET-ANG1"] == 0.0
        time_ns = int(milk.of_cube(cube.number)["acquired_ns"][0])
        assert log[max(key for key in log if key <= time_ns)] == 45.0


# --- parameters and the command ----------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_be_written_and_read(preset: str) -> None:
    parameters = PRESETS[preset]().scaled(2000)
    assert parse_parameters(json.loads(json.dumps(parameters.to_plain()))) == parameters


@pytest.mark.parametrize("preset", ["realistic", "big"])
def test_presets_can_be_made_small(tmp_path: Path, preset: str) -> None:
    parameters = PRESETS[preset]().scaled(1500)
    plain = tuple(dataclasses.replace(s, frame_shape=None) for s in parameters.segments)
    truth = make_night(
        tmp_path, dataclasses.replace(parameters, segments=plain, frame_shape=(8, 16))
    )
    assert 1000 < len(truth.logged) < 1600


@pytest.mark.parametrize(
    ("change", "message"),
    [({"segmnts": []}, "segmnts"), ({"segments": [{"frames": "many"}]}, "segments.0.frames"),
     ({"segments": [{"setup": {"colour": 1}}]}, "segments.0.setup.colour"),
     ({"segments": []}, "no segments"), ({"date": "20261340"}, "date"),
     ({"segments": [{"timings": [{}]}]}, "cube_frames"),
     ({"segments": [{"loss_places": ["here"]}]}, "here"),
     ({"segments": [{"continues": True}]}, "continue"),
     ({"segments": [{"frames": 20, "restarts": [[30, 1.0]]}]}, "restarts")],
)  # fmt: skip
def test_wrong_parameters_are_refused(change: dict[str, Any], message: str) -> None:
    plain = json.loads(json.dumps(tiny().to_plain())) | change
    with pytest.raises((ConfigError, InvalidArgument), match=message):
        parse_parameters(plain)


def test_an_existing_night_is_not_touched(tmp_path: Path) -> None:
    make_night(tmp_path, tiny())
    before = content(tmp_path)
    with pytest.raises(Refused, match="exists"):
        make_night(tmp_path, tiny(seed=2))
    assert content(tmp_path) == before
    with pytest.raises(NightjarError, match="at least 1 x 8"):
        make_night(tmp_path / "narrow", tiny(frame_shape=(8, 4)))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nightjard.site", "simulate", "night", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_command_makes_a_night_and_makes_it_again_from_its_parameters(tmp_path: Path) -> None:
    done = run(tmp_path / "a", "--frames", 600, "--size", "16x24", "--seed", 9, "--json",
               "--damage", "txt-missing")  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    truth = read_truth(Path(said["folder"]))
    assert said["frames"] == len(truth.logged)
    assert said["damages"] == ["txt-missing"]
    assert len(list(truth.folder.glob("vcam*/*.txt"))) == said["cubes"] - 1
    again = run(tmp_path / "b", "--params", truth.truth_folder / "params.json")
    assert again.returncode == 0, again.stderr
    assert "the night is in" in again.stdout
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [(["--size", "64"], 2, "ROWSxCOLS"), (["--damage", "fire"], 2, "txt-missing"),
     (["--date", "2026"], 2, "YYYYMMDD"), (["--params", "nothing.json"], 2, "nothing.json")],
)  # fmt: skip
def test_command_refuses(tmp_path: Path, arguments: list[str], code: int, text: str) -> None:
    done = run(tmp_path / "n", *arguments)
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "n").exists()


def test_losses_at_chunk_borders(tmp_path: Path) -> None:
    slow = Setup(exposure_s=0.25)
    timings = (CameraTiming(), CameraTiming(offset_us=150.0))
    segment = Segment(slow, frames=100, timings=timings, loss_places=("chunk-border",))
    truth = make_night(tmp_path, tiny(segments=(segment,)))
    lost = truth.losses
    assert len(lost) == 2
    since = (lost["true_ns"] - truth.frames["true_ns"].min()) / NS_PER_S % 10
    assert (since < 0.3).all()
