# SPDX-License-Identifier: BSD-3-Clause
"""A simulated night through the steps: every frame accounted for by what its own pixels say."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from kit.night_crash import Inline
from kit.nights import NightBench, files_of, night_bench, product_tags, products_of
from nightjar.errors import Busy, Refused
from nightjar.files import locked
from nightjar.fits.hdus import read_headers
from nightjard.archived.nights.engine import Engine
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.records import Kind, Reason
from nightjard.simulators.night import damage
from nightjard.simulators.night.damage import DAMAGES
from nightjard.simulators.night.parameters import NightParameters
from nightjard.simulators.night.presets import small
from nightjard.simulators.night.program import make_night
from nightjard.simulators.night.truth import NightTruth

pytestmark = pytest.mark.usefixtures("kept_workers")

RAW_ONLY = ("vcam1", "vcam2", "logging")


def hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files_of(folder).items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nights")


@pytest.fixture(scope="module")
def truth(base: Path) -> NightTruth:
    return make_night(base / "raw", small())


@pytest.fixture(scope="module")
def raw_hashes(truth: NightTruth) -> dict[str, str]:
    return hashes(truth.folder)


@pytest.fixture(scope="module")
def bench(base: Path, truth: NightTruth, raw_hashes: dict[str, str]) -> Iterator[NightBench]:
    with night_bench(base / "raw", base / "state") as made:
        made.run(truth.folder)
        yield made


def plan_of(bench: NightBench, folder: Path) -> Plan:
    name = bench.night(folder)["plan_hash"]
    assert name is not None
    return Plan.load(folder, name)


def test_every_raw_frame_is_in_one_product_and_nothing_else_is(
    bench: NightBench, truth: NightTruth
) -> None:
    paths = products_of(truth.folder)
    found = truth.conservation(product_tags(path) for path in paths)
    assert found.is_exact, found
    rows = bench.store.products(bench.night(truth.folder)["id"])
    assert {row["state"] for row in rows} == {"verified"}
    assert len(rows) == len(paths)


def test_raw_is_as_it_was(
    bench: NightBench, truth: NightTruth, raw_hashes: dict[str, str]
) -> None:
    now = hashes(truth.folder)
    assert {name: now[name] for name in raw_hashes} == raw_hashes


def test_frames_of_siblings_were_exposed_by_one_trigger(
    bench: NightBench, truth: NightTruth
) -> None:
    plan = plan_of(bench, truth.folder)
    made = {row["number"]: row for row in bench.store.products(bench.night(truth.folder)["id"])}
    groups: dict[str, list[int]] = {}
    for product in plan.products:
        if product.kind is Kind.SYNC:
            groups.setdefault(product.group, []).append(product.number)
    assert groups
    paired = wrong = 0
    for numbers in groups.values():
        by_camera: dict[int, list[np.ndarray]] = {}
        mjd = set()
        for number in numbers:
            path = truth.folder / made[number]["path"]
            tags = truth.find(product_tags(path))
            camera = plan.products[number].camera
            by_camera.setdefault(camera, []).append(tags["segment"] * 10**6 + tags["trigger"])
            mjd.add(next(card.value for card in read_headers(path)[1].cards
                         if card.keyword == "MJD"))  # fmt: skip
        assert len(mjd) == 1
        one, other = (np.sort(np.concatenate(by_camera[camera])) for camera in (1, 2))
        paired += len(one)
        wrong += int((one != other).sum())
    assert wrong == 0
    # What the plan calls ambiguous it must not pair; of the rest every pair is found.
    doubtful = [run.number for run in plan.runs if run.verdict == "ambiguous"]
    rows = plan.rows[np.isin(plan.rows["RUN"], doubtful)]
    assert (rows["reason"] != Reason.PAIRED).all()
    assert paired > 0.99 * (len(truth.pairs()[0]) - len(rows) / 2)
    assert paired > 0.8 * len(truth.pairs()[0])


def test_labels_are_those_of_the_modulator(bench: NightBench, truth: NightTruth) -> None:
    plan = plan_of(bench, truth.folder)
    rows = {row["number"]: row for row in bench.store.products(bench.night(truth.folder)["id"])}
    labelled = dubious = 0
    for product in plan.products:
        if not product.state:
            continue
        tags = product_tags(truth.folder / rows[product.number]["path"])
        if product.state == "D":
            dubious += len(tags)
            continue
        labelled += len(tags)
        assert (tags["state"] == {"A": 1, "B": -1}[product.state]).all(), product.name
    assert dubious < 0.02 * labelled


def test_a_second_run_does_nothing(bench: NightBench, truth: NightTruth) -> None:
    before = {path: path.stat().st_mtime_ns for path in truth.folder.rglob("*")}
    results = bench.run(truth.folder)
    assert set(results.values()) == {"done before"}
    after = {path: path.stat().st_mtime_ns for path in truth.folder.rglob("*")}
    lock = truth.folder / "record" / ".lock"
    assert {k: v for k, v in after.items() if k != lock} == {
        k: v for k, v in before.items() if k != lock
    }


def test_products_please_fitsverify(bench: NightBench, truth: NightTruth) -> None:
    if shutil.which("fitsverify") is None:
        pytest.skip("needs fitsverify")
    for path in products_of(truth.folder)[::7]:
        ended = subprocess.run(["fitsverify", "-q", path], capture_output=True, text=True)
        assert "verification OK" in ended.stdout, ended.stdout


def test_ids_rise_with_time_and_stand_in_name_and_header(
    bench: NightBench, truth: NightTruth
) -> None:
    rows = bench.store.products(bench.night(truth.folder)["id"])
    ids = [row["frame_id"] for row in sorted(rows, key=lambda row: (row["first_ns"], row["name"]))]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    for row in rows:
        header = read_headers(truth.folder / row["path"])[1]
        assert header["FRAMEID"] == row["frame_id"]
        assert header["EXP-ID"] == row["frame_id"][:3] + "E" + row["frame_id"][4:]
        assert Path(row["path"]).name == f"{row['frame_id']}.fits.fz"


def small_night(base: Path) -> NightTruth:
    parameters = small()
    return make_night(
        base, NightParameters(parameters.segments[:5], frame_shape=(16, 16), telemetry_s=0)
    )


def test_steps_out_of_order_are_refused_by_name(tmp_path: Path) -> None:
    truth = small_night(tmp_path / "raw")
    with night_bench(tmp_path / "raw", tmp_path / "state") as bench:
        with pytest.raises(Refused, match="step sync has not been done"):
            bench.run(truth.folder, "ids")
        bench.run(truth.folder, "sync")
        with pytest.raises(Refused, match="step headers has not been done"):
            bench.run(truth.folder, "consolidate")
        bench.run(truth.folder, "headers")
        with pytest.raises(Refused, match="step ids has not been done"):
            bench.run(truth.folder, "consolidate")
        assert not (truth.folder / "vgen2").exists()


def test_late_cubes_make_a_new_plan_and_leave_what_does_not_change(tmp_path: Path) -> None:
    truth = small_night(tmp_path / "raw")
    held = sorted((truth.folder / "vcam1").iterdir())[-2:]  # the last cube and its text
    others = sorted((truth.folder / "vcam2").iterdir())[-2:]
    aside = tmp_path / "aside"
    aside.mkdir()
    places = {path: aside / f"{path.parent.name}-{path.name}" for path in (*held, *others)}
    for path, place in places.items():
        path.rename(place)
    with night_bench(tmp_path / "raw", tmp_path / "state") as bench:
        bench.run(truth.folder)
        before = {path.name: path.read_bytes() for path in products_of(truth.folder)}
        plan = plan_of(bench, truth.folder)
        rows = bench.store.products(bench.night(truth.folder)["id"])
        last = plan.rows["RUN"].max()
        elsewhere = {
            f"{row['frame_id']}.fits.fz" for row in rows
            if (plan.rows_of(plan.products[row["number"]])["RUN"] != last).all()
        }  # fmt: skip
        assert elsewhere
        for path, place in places.items():
            place.rename(path)
        with pytest.raises(Refused, match="step sync must be done again"):
            bench.run(truth.folder, "verify")
        bench.run(truth.folder)
        after = {path.name: path.read_bytes() for path in products_of(truth.folder)}
        assert truth.conservation(
            product_tags(path) for path in products_of(truth.folder)
        ).is_exact
        assert elsewhere <= {name for name in before if after.get(name) == before[name]}


def test_two_processes_do_not_work_on_one_night(tmp_path: Path) -> None:
    truth = small_night(tmp_path / "raw")
    (truth.folder / "record").mkdir()
    with (
        night_bench(tmp_path / "raw", tmp_path / "state") as bench,
        locked(truth.folder / "record" / ".lock", "another"),
        pytest.raises(Busy, match="another process"),
    ):
        bench.run(truth.folder, "sync")


@pytest.fixture(scope="module")
def undamaged(base: Path) -> NightTruth:
    return small_night(base / "undamaged")


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_damage_loses_nothing(name: str, undamaged: NightTruth, tmp_path: Path) -> None:
    folder = tmp_path / "raw" / undamaged.folder.name
    truth = dataclasses.replace(undamaged, folder=folder)
    shutil.copytree(undamaged.folder, folder)
    rng = np.random.default_rng(5)
    with night_bench(tmp_path / "raw", tmp_path / "state") as bench:
        # In this process: that workers lose nothing is proven by the night above.
        bench.engine = Engine(dataclasses.replace(bench.tools, executor=Inline))
        done = damage.apply(truth.folder, name, rng)
        raw = hashes(truth.folder)
        bench.run(truth.folder)
        plan = plan_of(bench, truth.folder)
        made = [product_tags(path) for path in products_of(truth.folder)]
        present = sum(cube.present for cube in plan.cubes)
        assert sum(product.frames for product in plan.products) == present
        tags = np.concatenate(made) if made else np.zeros(0)
        assert len(tags) == present
        found = truth.conservation(made)
        if name not in ("name-collision", "growing"):  # these have frames twice, or held back
            assert not len(found.doubled)
            assert not len(found.foreign) or name == "bit-flip"
        if name not in ("fits-truncated", "one-camera", "growing", "bit-flip", "zero-frames"):
            assert not len(found.missing)
        assert {name: digest for name, digest in hashes(truth.folder).items() if name in raw} == raw
        if done.frames_left >= 0 and name == "fits-truncated":
            assert any(line.path == done.cube and line.count for line in plan.ledger)
        told = (
            plan.notes.get(done.cube) or any(line.path == done.cube for line in plan.ledger)
            or any(cube.path == done.cube and cube.problem for cube in plan.cubes)
        )  # fmt: skip
        if name in ("txt-missing", "txt-short", "txt-long", "txt-cut", "fits-truncated"):
            assert told, done
        reasons = {Reason(value) for value in np.unique(plan.rows["reason"]).tolist()}
        if name == "txt-missing":
            assert Reason.UNTIMED in reasons


def test_a_night_with_many_damages_is_processed_to_its_end(tmp_path: Path) -> None:
    truth = small_night(tmp_path / "raw")
    rng = np.random.default_rng(6)
    for name in ("zero-frames", "exptime-missing", "txt-missing", "blank-name", "tmp-left"):
        damage.apply(truth.folder, name, rng)
    with night_bench(tmp_path / "raw", tmp_path / "state", executor={"workers": 1}) as bench:
        bench.run(truth.folder)
        present = sum(cube.present for cube in plan_of(bench, truth.folder).cubes)
        tags = [product_tags(path) for path in products_of(truth.folder)]
        assert sum(map(len, tags)) == present
        assert truth.conservation(tags).is_exact


def test_files_that_came_uncompressed_are_compressed_and_proven(tmp_path: Path) -> None:
    truth = small_night(tmp_path / "raw")
    with night_bench(tmp_path / "raw", tmp_path / "state", executor={"workers": 1}) as bench:
        bench.run(truth.folder, "sync", "headers", "ids", "consolidate")
        stranger = truth.folder / "vgen2" / "stranger.fits"
        source = next(path for path in (truth.folder / "vcam1").glob("*.fits"))
        shutil.copy(source, stranger)
        original = fits.getdata(stranger)
        results = bench.run(truth.folder, "compress")
        assert results["compress"]["files"] == 1
        assert not stranger.exists()
        assert (fits.getdata(stranger.with_name("stranger.fits.fz"), 1) == original).all()
        # And what no plan made is left where it is by whatever comes after.
        bench.run(truth.folder, "consolidate", is_forced=True)
        assert stranger.with_name("stranger.fits.fz").exists()
