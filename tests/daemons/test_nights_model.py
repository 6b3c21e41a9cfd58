# SPDX-License-Identifier: BSD-3-Clause
"""The commands of the nights, as the daemon carries them out, on tiny simulated nights."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path

import numpy as np
import pytest

from kit.nights import files_of, product_tags, products_of
from kit.tiny_nights import DATE, EVENING_NS, MORNING_NS, Site, make_tiny, settle, site
from nightjar.api.night_results import (
    FORECAST_KEYS,
    NIGHT_KEYS,
    SUMMARY_KEYS,
    TABLE_KEYS,
    WHY_KEYS,
)
from nightjar.api.nights import STEPS
from nightjar.clock import ManualClock
from nightjar.errors import (
    Busy,
    Cancelled,
    Code,
    InvalidArgument,
    Refused,
    StorageError,
)
from nightjar.fits.hdus import read_headers
from nightjar.fits.verify import verify_image
from nightjard.archived.nights.processing import steps_between
from nightjard.simulators.night import damage
from nightjard.simulators.night.truth import Fate, NightTruth

pytestmark = pytest.mark.usefixtures("kept_workers")

ALL = tuple(step for step in STEPS if step != "transfer")
TELEMETRY = {"telemetry": "logging/keywords_log*.tsv"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> NightTruth:
    return make_tiny(tmp_path_factory.mktemp("raw"), telemetry_s=1.0)


@pytest.fixture
def truth(raw: NightTruth, tmp_path: Path) -> NightTruth:
    """A copy of the night that a test may spoil."""
    shutil.copytree(raw.folder, tmp_path / "raw" / DATE)
    return NightTruth(
        tmp_path / "raw" / DATE, raw.truth_folder, raw.frames, raw.cubes, raw.parameters,
        raw.segments,
    )  # fmt: skip


@pytest.fixture
def here(truth: NightTruth, tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path / "raw", tmp_path / "state", **TELEMETRY) as made:
        yield made


@pytest.fixture(scope="module")
def done(
    raw: NightTruth, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, NightTruth]]:
    """A night that was run; not to be changed."""
    base = tmp_path_factory.mktemp("done")
    shutil.copytree(raw.folder, base / "raw" / DATE)
    truth = NightTruth(base / "raw" / DATE, raw.truth_folder, raw.frames, raw.cubes,
                       raw.parameters, raw.segments)  # fmt: skip
    with site(base / "raw", base / "state", **TELEMETRY) as made:
        made.run()
        yield made, truth


def flip(path: Path, at: int) -> None:
    """Change one bit of a file, and not its time."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


# --- looking -----------------------------------------------------------------------------------


def test_the_table_of_a_night_that_is_done(done: tuple[Site, NightTruth]) -> None:
    here, truth = done
    (row,) = here.call("nights_table", family=None)
    assert set(row) == set(TABLE_KEYS)
    assert row["scexao5_path"] == str(truth.folder)
    assert row["utc_date"] == "2026-06-11"
    assert (row["processed"], row["transferred_to_scexao6"], row["safe_on_scexao6"]) == (
        True, False, False
    )  # fmt: skip
    assert row["processed_timestamp"] == "2026-06-12T18:00:00"
    assert row["raw_frames"] == len(truth.logged)
    assert row["ledger_frames"] == 0
    assert row["lost_frames"] == (truth.frames["fate"] == Fate.LOST_AFTER_MEMORY).sum()
    assert row["product_bytes"] == sum(path.stat().st_size for path in products_of(truth.folder))
    with pytest.raises(Refused, match=r"no family 'x'; there are: archival"):
        here.call("nights_table", family="x")


def test_the_status_says_what_was_done_and_what_follows(done: tuple[Site, NightTruth]) -> None:
    here, truth = done
    status = here.call("night_status", night="2026-06-11", family="archival")
    assert set(status) == set(NIGHT_KEYS)
    states = {each["name"]: each["state"] for each in status["steps"]}
    assert states == dict.fromkeys(ALL, "done") | {"transfer": "not wanted"}
    assert status["products"] == {"verified": len(products_of(truth.folder))}
    assert {name: each["files"] for name, each in status["cubes"].items()} == {
        name: len(list((truth.folder / name).glob("*.fits"))) for name in ("vcam1", "vcam2")
    }
    assert status["state"] == "verified"
    assert "no destination has proven a copy" in status["next"]
    assert here.call("night_status", night=str(truth.folder), family="archival") == status
    for text, error in (("20260612", "no archival night 20260612"), ("/tmp", "is no night")):
        with pytest.raises(Refused, match=error):
            here.call("night_status", night=text, family="archival")
    with pytest.raises(InvalidArgument, match="is no night"):
        here.call("night_status", night="yesterday", family="archival")


def test_the_summary_counts_as_the_truth_does(done: tuple[Site, NightTruth]) -> None:
    here, truth = done
    found = here.call("summary", night=DATE, family="archival")
    assert set(found) == set(SUMMARY_KEYS)
    assert found["raw_frames"] == found["product_frames"] == len(truth.logged)
    pairs, _ = truth.pairs()
    for camera in (1, 2):
        for letter, state in (("A", 1), ("B", -1)):
            count = found["totals"].get(f"vsync .cam{camera}.{letter}", 0)
            assert count == (pairs["state"] == state).sum()
    assert sum(found["totals"].values()) == len(truth.logged)
    assert found["lost"]["vcam2"] == 1
    assert found["lost_fraction"] > found["thresholds"]["lost_fraction"]
    assert not found["is_good"]
    assert "frames (" in found["reasons"][0]
    assert sum(sum(each["counts"].values()) for each in found["minutes"]) == len(truth.logged)


def test_why_of_every_raw_frame_agrees_with_its_pixels(done: tuple[Site, NightTruth]) -> None:
    here, truth = done
    tags = {path: product_tags(path) for path in products_of(truth.folder)}
    rng = np.random.default_rng(2)
    for frame in rng.choice(truth.logged, 25, replace=False):
        cube = Path(truth.cubes[frame["cube"]].path)
        told = here.call(
            "why", frame=f"{cube.parent}/{cube.name}/{frame['index']}", night=None, family=None
        )
        assert set(told) == set(WHY_KEYS)
        facts = told["facts"]
        tag = tags[truth.folder / facts["path"]][facts["position"]]
        assert (tag["camera"], tag["segment"], tag["trigger"]) == (
            frame["camera"], frame["segment"], frame["trigger"]
        )  # fmt: skip
        assert facts["counter"] == frame["counter"]
    lone = truth.logged[(truth.logged["segment"] == 1) & (truth.logged["trigger"] == 19)]
    assert len(lone) == 1  # its sibling is the frame that was lost
    cube = Path(truth.cubes[lone["cube"][0]].path)
    told = here.call("why", frame=f"vcam1/{cube.name}/{lone['index'][0]}", night=DATE, family=None)
    assert "the partner that the same trigger exposed is missing" in told["verdict"]


def test_why_of_a_product_by_each_of_its_names(done: tuple[Site, NightTruth]) -> None:
    here, _ = done
    row = next(each for each in here.products() if each["flc"] == "A")
    for name in (row["name"], row["frame_id"], row["exp_id"], Path(row["path"]).name, row["path"]):
        told = here.call("why", frame=name, night=None, family=None)
        assert told["kind"] == "product"
        assert told["facts"]["frame_id"] == row["frame_id"]
        assert told["facts"]["siblings"]
        assert any(each["text"].startswith("consolidate") for each in told["story"])
    for name, error in (("VMPA99999999", "nothing is known"), ("vcam1/x/0", "no cube vcam1/x"),
                        ("%", "nothing is known")):  # fmt: skip
        with pytest.raises(Refused, match=error):
            here.call("why", frame=name, night=None, family=None)
    cube = sorted((here.root / DATE / "vcam1").glob("*.fits"))[0].name
    with pytest.raises(Refused, match="has frames 0 to"):
        here.call("why", frame=f"vcam1/{cube}/1000", night=None, family=None)


def test_why_of_frames_that_no_product_holds(here: Site, truth: NightTruth) -> None:
    rng = np.random.default_rng(1)
    cubes = sorted((truth.folder / "vcam1").glob("*.fits"))
    cut = damage.apply(truth.folder, "fits-truncated", rng, cubes[-1])
    (cubes[0].with_name("vcam1_nothing.fits")).write_text("not FITS at all")
    settle(truth.folder)
    here.run(until_step="sync")
    last = here.call("why", frame=f"{cut.cube}/{cut.frames_left}", night=None, family=None)
    assert last["verdict"] == (
        "it is in no product: the header promises it, but the file ends before it"
    )
    told = here.call("why", frame="vcam1/vcam1_nothing.fits/0", night=None, family=None)
    assert "its file is no FITS image" in told["verdict"]
    assert told["facts"]["reason"] == "unreadable"
    plan = here.call("plan_night", night=DATE, family="archival", dry_run=True)
    assert plan["is_conserved"]
    assert plan["raw_frames"] == plan["product_frames"] + plan["ledger_frames"]


def test_steps_between() -> None:
    assert steps_between(None, None, None) == STEPS
    assert steps_between("ids", None, None) == ("ids",)
    assert steps_between(None, "ids", None) == STEPS[STEPS.index("ids") :]
    assert steps_between(None, None, "ids") == STEPS[: STEPS.index("ids") + 1]
    assert steps_between(None, "ids", "ids") == ("ids",)
    with pytest.raises(InvalidArgument, match="comes before"):
        steps_between(None, "verify", "ids")
    with pytest.raises(InvalidArgument, match="not both"):
        steps_between("ids", "ids", None)


def test_forecast_and_doctor(done: tuple[Site, NightTruth]) -> None:
    here, _ = done
    found = here.call("forecast")
    assert set(found) == set(FORECAST_KEYS)
    assert found["disks"][0]["bytes_per_night"] > 0
    report = here.call("doctor")
    levels = {each["name"]: each["level"] for each in report["checks"]}
    assert levels["database"] == levels["workers"] == "ok"
    assert levels["destinations"] == "warning"
    assert report["is_good"]


def test_the_doctor_names_a_root_that_is_gone(here: Site) -> None:
    here.root.rename(here.root.with_name("elsewhere"))
    report = here.call("doctor")
    assert not report["is_good"]
    assert any(each["level"] == "bad" and "does not exist" in each["text"]
               for each in report["checks"])  # fmt: skip


# --- working -----------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing(here: Site, truth: NightTruth) -> None:
    before = files_of(truth.folder)
    found = here.run(dry_run=True)
    assert [(each["name"], each["outcome"]) for each in found["steps"]] == [
        (name, "would run") for name in ALL
    ]
    assert files_of(truth.folder) == before
    assert here.products() == []


def test_restore_asks_then_a_new_run_gives_the_same(here: Site, truth: NightTruth) -> None:
    raw = files_of(truth.folder)
    here.run()
    first = files_of(truth.folder)
    guest = truth.folder / "vgen2" / "notes of an observer.txt"
    guest.write_text("seeing was good")
    for confirm in (None, "wrong"):
        with pytest.raises(Refused, match="confirm with") as caught:
            here.call("restore_night", night=DATE, family="archival", dry_run=False,
                      confirm=confirm)  # fmt: skip
        assert files_of(truth.folder).keys() >= first.keys()
    asked = here.call("restore_night", night=DATE, family="archival", dry_run=True, confirm=None)
    assert asked["confirm"] == caught.value.detail["confirm"]
    assert asked["ids"] == len(here.products())
    assert asked["files"] == len(first) - len(raw)
    here.call("restore_night", night=DATE, family="archival", dry_run=False,
              confirm=asked["confirm"])  # fmt: skip
    # What others put there can be made from no raw cube: it stays.
    assert files_of(truth.folder) == raw | {"vgen2/notes of an observer.txt": b"seeing was good"}
    assert here.row()["plan_hash"] is None
    guest.unlink()
    here.run()
    assert files_of(truth.folder) == first


def test_restore_is_refused_where_products_are_all_there_is(
    here: Site, truth: NightTruth
) -> None:
    here.run()
    asked = here.call("restore_night", night=DATE, family="archival", dry_run=True, confirm=None)
    cube = sorted((truth.folder / "vcam2").glob("*.fits"))[0]
    products = products_of(truth.folder)

    def restore() -> None:
        with pytest.raises(Refused, match="which therefore stay"):
            here.call("restore_night", night=DATE, family="archival", dry_run=False,
                      confirm=asked["confirm"])  # fmt: skip
        assert products_of(truth.folder) == products

    flip(cube, cube.stat().st_size // 2)  # same size, same time
    restore()
    flip(cube, cube.stat().st_size // 2)
    cube.rename(cube.with_suffix(".gone"))
    restore()


def test_verify_finds_a_flipped_bit_and_the_next_run_heals(here: Site, truth: NightTruth) -> None:
    here.run()
    first = files_of(truth.folder)
    assert here.call("verify_night", night=DATE, family="archival")["is_good"]
    path = products_of(truth.folder)[3]
    flip(path, path.stat().st_size - 5000)
    found = here.call("verify_night", night=DATE, family="archival")
    assert not found["is_good"]
    assert [each["path"] for each in found["bad"]] == [
        row["name"] for row in here.products() if row["frame_id"] == path.name[:12]
    ]
    row = here.call("nights_table", family=None)[0]
    assert not row["processed"]
    here.run()
    again = files_of(truth.folder)
    damaged = again.pop(f"superseded/{path.name}")
    assert damaged != first[f"vgen2/{path.name}"]
    assert again == first
    assert here.call("verify_night", night=DATE, family="archival")["is_good"]


def test_the_letter_has_the_manifest_of_now(here: Site, truth: NightTruth) -> None:
    here.run()
    path = truth.folder / f"manifest_VMP_{DATE}.csv"
    right = path.read_bytes()
    extended = truth.folder / "record" / f"manifest_VMP_{DATE}.json"
    proven = extended.read_bytes()
    path.write_bytes(b"of another day")
    here.call("send_mail", nights=(DATE,), family="archival", dry_run=True)
    assert path.read_bytes() == b"of another day"
    done = here.call("send_mail", nights=(DATE,), family="archival", dry_run=False)
    assert (path.read_bytes(), extended.read_bytes()) == (right, proven)
    message = message_from_bytes(Path(done["path"]).read_bytes(), policy=policy.default)
    (attached,) = message.iter_attachments()
    assert attached.get_content() == right


def test_repaired_headers_stay_repaired(here: Site, truth: NightTruth) -> None:
    here.run()
    log = next(truth.folder.glob(TELEMETRY["telemetry"]))
    lines = log.read_text().splitlines()
    column = lines[0].split("\t").index("RET-ANG1")
    rows = [line.split("\t") for line in lines[1:]]
    for fields in rows:
        fields[column] = "67.5"
    log.write_text("\n".join([lines[0], *("\t".join(fields) for fields in rows)]) + "\n")
    pixels = {path.name: product_tags(path) for path in products_of(truth.folder)}

    def angles() -> set[float]:
        return {float(str(read_headers(path)[1]["RET-ANG1"]))
                for path in products_of(truth.folder)}  # fmt: skip

    before = angles()
    assert 67.5 not in before
    dry = here.call("repair_headers", night=DATE, family="archival", keys=("RET-ANG1",),
                    dry_run=True)  # fmt: skip
    assert len(dry["changes"]) == dry["files"] == len(pixels)
    assert angles() == before
    done = here.call("repair_headers", night=DATE, family="archival", keys=("RET-ANG1",),
                     dry_run=False)  # fmt: skip
    assert done["changes"] == dry["changes"]
    assert angles() == {67.5}
    for path in products_of(truth.folder):
        found = verify_image(path)
        assert found.is_good, found.problems
        history = [str(card.value) for card in read_headers(path)[1].cards
                   if card.keyword == "HISTORY"]  # fmt: skip
        assert any("RET-ANG1 was 22.5" in line or "RET-ANG1 was 0" in line for line in history)
        assert (product_tags(path) == pixels[path.name]).all()
    # A repaired product is no damaged one, whoever looks; and no later run takes it back.
    assert here.call("verify_night", night=DATE, family="archival")["is_good"]
    assert here.call("check_ids", night=DATE, family="archival")["is_good"]
    here.run(force=True)
    assert angles() == {67.5}
    again = here.call("repair_headers", night=DATE, family="archival", keys=("RET-ANG1",),
                      dry_run=False)  # fmt: skip
    assert again["changes"] == []
    states = here.call("night_status", night=DATE, family="archival")["steps"]
    assert {each["state"] for each in states} == {"done", "not wanted"}


def test_headers_of_products_are_in_the_form_of_the_dictionary(
    done: tuple[Site, NightTruth]
) -> None:
    here, truth = done
    before = files_of(truth.folder)
    fixed = here.call("fix_headers", night=DATE, family="archival", dry_run=False)
    assert fixed["changes"] == []
    checked = here.call("check_headers", night=DATE, family="archival", paths=())
    assert checked["files"] == len(products_of(truth.folder))
    assert here.call(
        "check_headers", night=None, family="archival", paths=(str(truth.folder / "vgen2"),)
    ) == checked  # fmt: skip
    with pytest.raises(Refused, match="not below the root"):
        here.call("check_headers", night=None, family="archival", paths=("/etc",))
    with pytest.raises(InvalidArgument, match="one of them"):
        here.call("check_headers", night=None, family="archival", paths=())
    assert files_of(truth.folder) == before


def test_ids_that_were_exchanged_by_hand_are_put_right(here: Site, truth: NightTruth) -> None:
    here.run()
    first, second = products_of(truth.folder)[:2]
    held = first.with_name("held")
    first.rename(held)
    second.rename(first)
    held.rename(second)
    checked = here.call("check_ids", night=DATE, family="archival")
    assert not checked["is_good"]
    before = files_of(truth.folder / "vgen2")
    dry = here.call("fix_ids", night=DATE, family="archival", dry_run=True)
    assert dry["changes"]
    assert files_of(truth.folder / "vgen2") == before
    here.call("fix_ids", night=DATE, family="archival", dry_run=False)
    assert here.call("check_ids", night=DATE, family="archival")["is_good"]
    ids = [row["frame_id"] for row in here.products()]
    assert len(set(ids)) == len(ids)
    here.run()
    assert here.call("verify_night", night=DATE, family="archival")["is_good"]
    assert truth.conservation(
        product_tags(path) for path in products_of(truth.folder)
    ).is_exact  # fmt: skip


def test_veto_and_seal_are_written_down(here: Site) -> None:
    here.call("nights_table", family=None)
    row = here.call("veto", night=DATE, family="archival", reason=" wait for the observer ")
    assert row["veto"] == "wait for the observer"
    assert here.call("veto", night=DATE, family="archival", reason=None)["veto"] is None
    assert here.call("seal", night=DATE, family="archival")["sealed"]
    events = here.call("night_status", night=DATE, family="archival")["events"]
    assert [(each["kind"], each["by"]) for each in events] == [
        ("veto", "tester"), ("veto", "tester"), ("seal", "tester")
    ]  # fmt: skip


# --- cubes that are announced, nights that are recorded -------------------------------------------


def test_a_cube_is_announced_once_and_reopens_the_night(here: Site, truth: NightTruth) -> None:
    cube = sorted((truth.folder / "vcam1").glob("*.fits"))[0]
    given = {"family": "archival", "night": DATE, "stream": "vcam1", "filename": cube.name,
             "size": cube.stat().st_size}  # fmt: skip
    assert here.call("notify_cube", **given)["state"] == "noted"
    assert here.call("notify_cube", **given)["state"] == "known"
    for change, code in (
        ({"family": "x"}, Code.FRAME_REFUSED), ({"stream": "vcam9"}, Code.FRAME_REFUSED),
        ({"night": "2026061"}, Code.INVALID_ARGUMENT), ({"size": 5}, Code.FRAME_REFUSED),
        ({"filename": "../../x.fits"}, Code.INVALID_ARGUMENT),
        ({"filename": "x.txt"}, Code.INVALID_ARGUMENT),
        ({"filename": "missing.fits"}, Code.FRAME_REFUSED),
    ):  # fmt: skip
        with pytest.raises((Refused, InvalidArgument)) as caught:
            here.call("notify_cube", **{**given, **change})
        assert caught.value.code is code, change
    here.clock.advance(7 * 3600)
    here.run()
    here.store.set_night(here.row()["id"], safe_ns=MORNING_NS, transferred_ns=MORNING_NS)
    late = cube.with_name("vcam1_23:59:58.000000000.fits")
    shutil.copy2(cube, late)
    here.call("notify_cube", **{**given, "filename": late.name})
    row = here.call("nights_table", family=None)[0]
    for key in ("safe_on_scexao6", "processed", "transferred_to_scexao6"):
        assert row[key] is False


def test_a_night_that_grows_is_refused_and_its_late_cubes_come_in(
    here: Site, truth: NightTruth
) -> None:
    damage.apply(truth.folder, "growing", np.random.default_rng(3))
    moved = NightTruth(truth.folder, truth.folder.parent / "truth" / DATE, truth.frames,
                       truth.cubes, truth.parameters, truth.segments)  # fmt: skip
    for path in truth.folder.rglob("*.tmp"):
        os.utime(path, ns=(MORNING_NS - 5 * 10**9,) * 2)
    found = here.call("process_all", family=None, dry_run=False)
    assert found["nights"] == []
    assert "still being recorded" in found["skipped"][0]["reason"]
    with pytest.raises(Refused, match="still being recorded"):
        here.run()
    assert not (truth.folder / "vgen2").exists()
    # A recorder that died leaves its unfinished file for ever; after hours the night goes on.
    here.clock.advance(8 * 3600)
    assert here.call("process_all", family=None, dry_run=False)["nights"]
    assert here.row()["processed_ns"] is not None
    here.store.set_night(here.row()["id"], safe_ns=MORNING_NS, transferred_ns=MORNING_NS)
    assert here.call("nights_table", family=None)[0]["safe_on_scexao6"]
    damage.grow(truth.folder)
    settle(truth.folder, MORNING_NS + 9 * 3600 * 10**9)
    row = here.call("nights_table", family=None)[0]
    assert (row["processed"], row["safe_on_scexao6"], row["state"]) == (False, False, "waiting")
    here.clock.advance(12 * 3600)
    here.call("process_all", family=None, dry_run=False)
    assert here.row()["safe_ns"] is None  # the new files were copied nowhere
    assert moved.conservation(
        product_tags(path) for path in products_of(truth.folder)
    ).is_exact  # fmt: skip


def test_a_clock_that_was_set_back_does_not_hold_up_a_sealed_night(
    truth: NightTruth, tmp_path: Path
) -> None:
    settle(truth.folder, MORNING_NS + 3 * 3600 * 10**9)  # the recorder's clock was ahead
    with site(tmp_path / "raw", tmp_path / "state", ManualClock(MORNING_NS)) as here:
        found = here.call("process_all", family=None, dry_run=False)
        assert "still being recorded" in found["skipped"][0]["reason"]
        here.call("seal", night=DATE, family="archival")
        found = here.call("process_all", family=None, dry_run=False)
        assert [each["state"] for each in found["nights"]] == ["verified"]
        here.clock.step_wall(-40 * 86400)
        assert here.call("process_all", family=None, dry_run=False)["skipped"]
        assert here.call("verify_night", night=DATE, family="archival")["is_good"]


def test_all_nights_in_order_and_on_after_one_that_fails(
    raw: NightTruth, tmp_path: Path
) -> None:
    root = tmp_path / "raw"
    dates = ["20260608", "20260609", "20260610", "20260611"]
    for date in reversed(dates):
        for stream in ("vcam1", "vcam2"):
            shutil.copytree(raw.folder / stream, root / date / stream)
    (root / "20260609" / "vgen2").write_text("a file where the folder of products must be")
    for path in (root / "20260610" / "vcam1").iterdir():
        os.utime(path, ns=(MORNING_NS - 3600 * 10**9,) * 2)  # an hour ago: it may go on
    (root / "20260612" / "vcam1").mkdir(parents=True)
    with site(root, tmp_path / "state") as here:
        found = here.call("process_all", family=None, dry_run=False)
        assert [each["night"] for each in found["nights"]] == ["20260608", "20260611"]
        assert [each["night"] for each in found["failed"]] == ["20260609"]
        assert "vgen2" in found["failed"][0]["error"]
        reasons = {each["night"]: each["reason"] for each in found["skipped"]}
        assert "it may go on" in reasons["20260610"]
        assert reasons["20260612"] == "it has no raw cubes"
        row = here.call("nights_table", family=None)[1]
        assert (row["night"], row["state"]) == ("20260609", "failed")
        assert "vgen2" in row["error"]
        # Put right, it goes on where it stood. Its IDs come after those of later nights: by force.
        (root / "20260609" / "vgen2").unlink()
        here.run("20260609")
        found = here.call("process_all", family=None, dry_run=False)
        assert found["nights"] == found["failed"] == []
        ids = {date: [row["frame_id"] for row in here.products(date)]
               for date in ("20260608", "20260609", "20260611")}  # fmt: skip
        every = [each for listed in ids.values() for each in listed]
        assert len(set(every)) == len(every)


def test_a_command_that_is_cancelled_goes_on_next_time(here: Site, truth: NightTruth) -> None:
    here.call("nights_table", family=None)
    answer = here.commands["run_night"](
        night=DATE, family="archival", step=None, from_step=None, until_step=None, dry_run=False,
        force=False,
    )  # fmt: skip
    operation = here.operations.get(answer["operation"])
    refused = ""
    try:
        here.run()
    except Busy as busy:
        refused = busy.message
    # It may have ended before we came.
    assert "run_night is at work on it" in refused or operation.is_done
    deadline = time.monotonic() + 30
    while not products_of(truth.folder) and not operation.is_done:
        assert time.monotonic() < deadline
        (progress,) = here.call("nights_progress") or [None]
        assert progress is None or progress["night"] == DATE
    operation.cancel()
    assert operation.wait(30)
    if operation.error is not None:  # it may have ended just before
        assert isinstance(operation.error, Cancelled)
        status = here.call("night_status", night=DATE, family="archival")
        assert status["error"] is None
        assert "archive run" in status["next"]
    here.run()
    assert truth.conservation(
        product_tags(path) for path in products_of(truth.folder)
    ).is_exact  # fmt: skip
    assert not list(truth.folder.rglob("*.tmp"))


def test_a_night_of_which_nothing_can_be_read_ends_well(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / DATE / "vcam1"
    folder.mkdir(parents=True)
    (folder / "vcam1_05:00:00.000000000.fits").write_text("not FITS")
    settle(folder.parent)
    with site(tmp_path / "raw", tmp_path / "state") as here:
        found = here.call("process_all", family=None, dry_run=False)
        assert found["failed"] == []
        assert [each["state"] for each in found["nights"]] == ["verified"]
        plan = here.call("plan_night", night=DATE, family="archival", dry_run=True)
        assert [each["reason"] for each in plan["ledger"]] == ["unreadable"]
        summary = here.call("summary", night=DATE, family="archival")
        assert not summary["is_good"]
        assert "1 raw files are in no product" in summary["reasons"][0]
        found = here.call("process_all", family=None, dry_run=False)
        assert [each["reason"] for each in found["skipped"]] == ["nothing to do"]
        assert here.call("verify_night", night=DATE, family="archival")["is_good"]


def test_a_night_whose_family_went_is_skipped(here: Site, tmp_path: Path) -> None:
    here.run()
    other = tmp_path / "engineering"
    other.mkdir()
    families = {"engineering": {"root": str(other)}}
    with site(here.root, tmp_path / "state", families=families) as later:
        found = later.call("process_all", family=None, dry_run=False)
        assert found["skipped"][0]["reason"] == "family archival is not configured any more"
        assert found["failed"] == []


def test_raw_that_went_or_shrank_is_refused_and_products_stay(
    here: Site, truth: NightTruth
) -> None:
    here.run()
    products = files_of(truth.folder / "vgen2")
    cube = sorted((truth.folder / "vcam1").glob("*.fits"))[-1]
    whole = cube.read_bytes()

    def refused(text: str) -> None:
        if cube.exists():
            os.utime(cube, ns=(EVENING_NS + 10**9,) * 2)
        with pytest.raises(Refused, match=text):
            here.run()
        assert files_of(truth.folder / "vgen2") == products
        assert here.call("nights_table", family=None)[0]["error"]

    cube.unlink()
    refused("it is gone")
    cube.write_bytes(whole[:-3000])
    refused("bytes and had")
    cube.write_bytes(whole[:6000] + bytes([whole[6000] ^ 1]) + whole[6001:])
    refused("its content is not what went into products")
    # The same content at another time is the same cube.
    cube.write_bytes(whole)
    os.utime(cube, ns=(EVENING_NS + 2 * 10**9,) * 2)
    here.run()
    assert {row["state"] for row in here.products()} == {"verified"}
    # A person may insist.
    cube.unlink()
    here.run(step="sync", force=True)
    here.run()
    assert here.row()["raw_frames"] < len(truth.logged)
    assert any(each["kind"] == "damaged" for each in here.store.events(here.row()["id"]))


def test_a_plan_that_was_damaged_is_noticed_and_made_anew(here: Site, truth: NightTruth) -> None:
    here.run(until_step="ids")
    (rows,) = (truth.folder / "record").glob("frames-*.npy")
    good = rows.read_bytes()
    flip(rows, len(good) // 2)
    with pytest.raises(StorageError, match="damaged"):
        here.run(step="consolidate")
    here.run()
    assert rows.read_bytes() == good
    assert {row["state"] for row in here.products()} == {"verified"}
