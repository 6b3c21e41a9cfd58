# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of accepted frames: archived, unarchived, quarantined, missing; and what is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kit.archive_frames import FULL_BLOCK, NIGHT, RUN, Bench, pixels, quick_folder
from nightjar.api.archive import STATUS_KEYS
from nightjar.clock import ManualClock
from nightjar.errors import Code, InvalidArgument, NightjarError, Refused
from nightjar.fits.header import read_header
from nightjar.fits.verify import verify_image


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(quick_folder())
    yield made
    made.close()


def image(path: str | Path) -> np.ndarray:
    header = read_header(path)
    shape = (int(str(header["NAXIS2"])), int(str(header["NAXIS1"])))
    raw = np.fromfile(path, ">i2", shape[0] * shape[1], offset=header.data_offset)
    return (raw.astype(np.int32) + 32768).reshape(shape)


def damage(path: Path, offset: int = -3000) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


# --- good frames ---


def test_an_archived_frame_is_whole_in_its_place_and_gone_from_the_spool(bench: Bench) -> None:
    frame = bench.take(7, "GUIDE")
    path = Path(frame["path"])
    assert path == bench.root / NIGHT / "GUIDE" / f"GUIDE-{RUN}-00000007.fits"
    assert verify_image(path).problems == ()
    assert np.array_equal(image(path), pixels("GUIDE", 7))
    assert os.listdir(bench.incoming) == []
    assert [event["kind"] for event in frame["history"]] == ["accepted", "planned", "archived"]
    assert bench.archive.status()["cameras"]["GUIDE"]["last_frame"]["frame_number"] == 7


def test_settings_are_written_into_the_frames_accepted_from_then_on(bench: Bench) -> None:
    before = bench.frame(1)
    bench.archive.notify(before)
    bench.archive.set_settings(
        {"object": "NGC 7027", "frame_type": "flat", "prefix": "ngc"}, "LocalHost"
    )
    after = bench.take(2)
    first = read_header(bench.archive.catalog.show(before.key)["path"])
    second = read_header(after["path"])
    assert "OBJECT" not in first
    assert first["FILENAME"] == before.filename
    assert (second["OBJECT"], second["IMAGETYP"]) == ("NGC 7027", "FLAT")
    assert second["FILENAME"] == f"ngc-TEST-{RUN}-00000002.fits" == Path(after["path"]).name
    assert verify_image(Path(after["path"])).problems == ()
    assert np.array_equal(image(after["path"]), pixels("TEST", 2))


def test_a_header_without_room_grows_in_a_copy(bench: Bench) -> None:
    bench.archive.set_settings({"object": "M 31"}, "test")
    frame = bench.take(1, capacity=0, cards=FULL_BLOCK)
    assert frame["size"] == 3 * 2880
    assert Path(frame["path"]).stat().st_size == 4 * 2880
    assert verify_image(Path(frame["path"])).problems == ()
    header = read_header(frame["path"])
    assert (header["OBJECT"], header["FILL18"]) == ("M 31", 18)
    assert np.array_equal(image(frame["path"]), pixels("TEST", 1))
    assert set(os.listdir(bench.incoming)) <= {".recycle"}


@pytest.mark.parametrize("is_full", [False, True])
def test_a_frame_on_another_file_system_is_copied_and_compared(
    tmp_path: Path, is_full: bool
) -> None:
    incoming = Path(os.environ["MILK_SHM_DIR"]) / "incoming"
    bench = Bench(tmp_path, incoming_data_path=str(incoming), recycle_bytes=10**6)
    if incoming.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("both folders are on one file system here")
    bench.archive.set_settings({"object": "M 31", "frame_type": "SCIENCE"}, "test")
    full = {"capacity": 0, "cards": FULL_BLOCK} if is_full else {}
    frame = bench.take(1, **full)
    assert verify_image(Path(frame["path"])).problems == ()
    assert np.array_equal(image(frame["path"]), pixels("TEST", 1))
    assert read_header(frame["path"])["OBJECT"] == "M 31"
    assert os.listdir(incoming) == [".recycle"]
    assert len(os.listdir(incoming / ".recycle")) == 1
    bench.close()


def test_a_copy_that_reads_back_differently_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming = Path(os.environ["MILK_SHM_DIR"]) / "incoming"
    bench = Bench(tmp_path, incoming_data_path=str(incoming))
    if incoming.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("both folders are on one file system here")
    announced = bench.frame(1)
    bench.archive.notify(announced)
    real = os.pwrite

    def rotten(descriptor: int, data: memoryview, offset: int) -> int:
        changed = bytearray(data)
        changed[len(changed) // 2] ^= 1
        return real(descriptor, changed, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", rotten)
        bench.work()
    assert bench.files() == []
    assert (incoming / announced.filename).exists()
    frame = bench.archive.catalog.show(announced.key)
    assert frame["state"] == "accepted"
    assert "reads back differently" in frame["last_error"]
    assert bench.health.snapshot()["level"] == "DEGRADED"
    bench.clock.advance(2)
    assert bench.work() == 1
    assert verify_image(Path(bench.archive.catalog.show(announced.key)["path"])).is_good
    assert bench.health.snapshot()["level"] == "OK"
    bench.close()


def test_a_foreign_file_is_never_replaced(bench: Bench) -> None:
    folder = bench.root / NIGHT / "TEST"
    folder.mkdir(parents=True)
    name = f"TEST-{RUN}-00000001.fits"
    (folder / name).write_bytes(b"somebody's")
    frame = bench.take(1)
    assert Path(frame["path"]).name == f"TEST-{RUN}-00000001-2.fits"
    assert read_header(frame["path"])["FILENAME"] == f"TEST-{RUN}-00000001-2.fits"
    assert (folder / name).read_bytes() == b"somebody's"


def test_the_same_frame_in_place_already_is_recognised(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.archive.set_settings({"object": "M 31"}, "test")
    done = first.take(1)
    original = Path(done["path"]).read_bytes()
    first.close()
    # The database is lost, the camera announces the frame once more.
    again = Bench(tmp_path, url=f"sqlite:///{tmp_path / 'new.db'}")
    frame = again.take(1)
    assert (frame["state"], frame["path"]) == ("archived", done["path"])
    assert Path(frame["path"]).read_bytes() == original
    assert os.listdir(again.incoming) == []
    assert again.files() == [f"{NIGHT}/TEST/{Path(done['path']).name}"]
    again.close()


# --- archiving off ---


def test_with_archiving_off_frames_are_kept_listed_and_removed_only_by_command(
    bench: Bench,
) -> None:
    bench.archive.set_settings({"archive": {"TEST": False}}, "test")
    frames = [bench.take(number) for number in (1, 2, 3)]
    kept = bench.take(1, "GUIDE")
    assert {frame["state"] for frame in frames} == {"unarchived"}
    assert Path(frames[0]["path"]).parent == bench.root / NIGHT / "unarchived" / "TEST"
    assert kept["state"] == "archived"
    with pytest.raises(Refused, match="is archived: only unarchived"):
        bench.archive.discard([str(frames[0]["id"]), str(kept["id"])], "test")
    with pytest.raises(Refused, match="nothing is discarded"):
        bench.archive.discard([], "test")
    assert len(bench.files()) == 4
    begun = bench.archive.discard([str(frames[0]["id"]), frames[1]["name"]], "LocalHost")
    operation = bench.operations.get(begun["operation"])
    assert operation.wait(10)
    assert operation.snapshot()["result"] == {"discarded": 2, "asked": 2}
    assert len(bench.files()) == 2
    gone = bench.archive.catalog.show(str(frames[0]["id"]))
    assert (gone["state"], gone["path"]) == ("discarded", None)
    assert gone["history"][-2]["text"] == "by LocalHost"
    total = bench.archive.status()["cameras"]["TEST"]["total"]
    assert (total["discarded"], total["unarchived"]) == (2, 1)
    assert bench.archive.notify(bench.frame(1))["state"] == "discarded"


# --- bad frames ---


@pytest.mark.parametrize("offset", [-3000, 3 * 80 + 40])
def test_a_bit_flip_goes_to_quarantine_with_its_reason(bench: Bench, offset: int) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    damage(bench.incoming / announced.filename, offset)
    damaged = (bench.incoming / announced.filename).read_bytes()
    bench.work()
    frame = bench.archive.catalog.show(announced.key)
    assert frame["state"] == "quarantined"
    path = Path(frame["path"])
    assert path.parent == bench.root / "quarantine" / NIGHT
    assert path.read_bytes() == damaged
    note = json.loads(path.with_name(path.name + ".json").read_text())
    assert note["reason"] == frame["last_error"]
    assert (note["camera"], note["frame_number"]) == ("TEST", 1)
    assert os.listdir(bench.incoming) == []
    assert bench.said.lines[-1][0] == "error"
    assert bench.health.snapshot()["level"] == "DEGRADED"
    assert "1 quarantined" in bench.health.snapshot()["reason"]
    bench.archive.acknowledge("test")
    assert bench.health.snapshot()["level"] == "OK"


def test_a_file_cut_short_after_it_was_accepted_goes_to_quarantine(bench: Bench) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    os.truncate(bench.incoming / announced.filename, announced.size - 2880)
    bench.work()
    frame = bench.archive.catalog.show(announced.key)
    assert frame["state"] == "quarantined"
    assert "cut short" in frame["last_error"]


def test_a_file_overwritten_by_another_frame_goes_to_quarantine(bench: Bench) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    other = bench.frame(2)
    os.replace(bench.incoming / other.filename, bench.incoming / announced.filename)
    bench.work()
    frame = bench.archive.catalog.show(announced.key)
    assert frame["state"] == "quarantined"
    assert "EXPCNT says 2, not 1" in frame["last_error"]


def test_a_quarantined_frame_can_be_tried_again(bench: Bench) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    damage(bench.incoming / announced.filename)
    bench.work()
    bad = Path(bench.archive.catalog.show(announced.key)["path"])
    bench.archive.retry([announced.key])
    bench.work()
    assert bench.archive.catalog.show(announced.key)["state"] == "quarantined"
    assert Path(bench.archive.catalog.show(announced.key)["path"]) == bad
    damage(bad)  # the same bit: it is whole again
    bench.archive.retry([announced.key])
    assert bench.work() == 1
    frame = bench.archive.catalog.show(announced.key)
    assert frame["state"] == "archived"
    assert np.array_equal(image(frame["path"]), pixels("TEST", 1))
    assert bench.files() == [f"{NIGHT}/TEST/{announced.filename}"]
    assert bench.health.snapshot()["level"] == "OK"
    with pytest.raises(Refused, match="is archived: there is nothing"):
        bench.archive.retry([announced.key])


def test_a_file_removed_by_somebody_is_an_alarm_and_comes_back(bench: Bench) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    away = (bench.incoming / announced.filename).rename(bench.base / "away.fits")
    bench.work()
    frame = bench.archive.catalog.show(announced.key)
    assert (frame["state"], frame["path"]) == ("missing", None)
    assert bench.health.snapshot()["level"] == "FAILED"
    os.utime(away, (1, 1))
    away.rename(bench.incoming / announced.filename)
    bench.clock.advance(60)
    bench.archive.probe()  # the rescan finds it
    assert bench.work() == 1
    assert bench.archive.catalog.show(announced.key)["state"] == "archived"
    assert bench.health.snapshot()["level"] == "OK"


def test_a_missing_frame_that_is_announced_again_is_taken(bench: Bench) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    path = bench.incoming / announced.filename
    content = path.read_bytes()
    path.unlink()
    bench.work()
    with pytest.raises(Refused, match="there is no file"):
        bench.archive.notify(announced)
    path.write_bytes(content)
    assert bench.archive.notify(announced)["state"] == "accepted"
    bench.work()
    assert bench.archive.catalog.show(announced.key)["state"] == "archived"


def test_files_that_nobody_announced_are_reported_and_left_alone(bench: Bench) -> None:
    known = bench.take(1)
    stray = bench.frame(2)
    fresh = bench.frame(3)
    (bench.incoming / "counter.json").write_text("{}")
    (bench.incoming / known["name"]).write_bytes(b"again")
    for name in (stray.filename, known["name"], "counter.json"):
        os.utime(bench.incoming / name, (1, 1))
    bench.clock.advance(60)
    bench.archive.probe()
    found = {row["name"]: row for row in bench.archive.strays()}
    assert set(found) == {stray.filename, known["name"]}
    assert found[stray.filename]["frames"] == []
    assert found[known["name"]]["frames"] == [f"TEST/{RUN}/1 (archived)"]
    assert bench.archive.status()["strays"] == 2
    assert bench.work() == 0
    assert len(os.listdir(bench.incoming)) == 4
    assert bench.archive.notify(fresh)["state"] == "accepted"


# --- settings ---


def test_settings_survive_and_tell_their_age(tmp_path: Path) -> None:
    clock = ManualClock(1_800_000_000 * 10**9)
    bench = Bench(tmp_path, clock=clock)
    assert bench.archive.status()["settings"]["changed"] is None
    assert bench.archive.status()["cameras"]["TEST"]["archive"] is True
    bench.archive.set_settings(
        {"object": "M 31", "frame_type": "dark", "prefix": "d", "archive": {"TEST": False}}, "ctrl"
    )
    bench.close()
    again = Bench(tmp_path)
    settings = again.archive.status()["settings"]
    assert settings == {
        "object": "M 31", "frame_type": "DARK", "prefix": "d",
        "archive": {"TEST": False, "GUIDE": True}, "changed": "2027-01-15T08:00:00",
        "changed_by": "ctrl",
    }  # fmt: skip
    again.archive.set_settings({"object": None, "prefix": ""}, "ctrl")
    assert again.archive.status()["settings"]["object"] is None
    assert again.archive.status()["settings"]["prefix"] is None
    assert again.archive.status()["settings"]["frame_type"] == "DARK"
    again.close()


def test_changes_are_logged_and_what_stays_is_not(bench: Bench) -> None:
    bench.archive.set_settings({"object": "M 31", "archive": {"TEST": False}}, "ctrl")
    assert bench.said.lines == [
        ("info", "archive settings: object none -> M 31, archiving of TEST on -> off (by ctrl)")
    ]
    bench.archive.set_settings({"object": "M 31"}, "ctrl")
    assert len(bench.said.lines) == 1


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({}, InvalidArgument), ({"objekt": "x"}, InvalidArgument), ({"object": 5}, InvalidArgument),
     ({"object": "x" * 69}, Refused), ({"object": "caf\u00e9"}, Refused),
     ({"frame_type": "LIGHT"}, Refused),
     ({"prefix": "../x"}, Refused), ({"prefix": "a/b"}, Refused),
     ({"prefix": "x" * 41}, Refused), ({"prefix": "-x"}, Refused),
     ({"archive": {"NONE": True}}, Refused), ({"archive": {"TEST": 1}}, InvalidArgument),
     ({"archive": True}, InvalidArgument)],
)  # fmt: skip
def test_bad_settings_change_nothing(
    bench: Bench, changes: dict[str, object], kind: type[NightjarError]
) -> None:
    before = bench.archive.settings.present
    with pytest.raises(kind):
        bench.archive.set_settings({"object": "good", **changes} if changes else {}, "ctrl")
    assert bench.archive.settings.present == before
    assert bench.said.lines == []


# --- finding ---


def test_frames_are_found_by_night_camera_state_and_in_pages(bench: Bench) -> None:
    for number in range(1, 6):
        bench.take(number)
    bench.take(1, "GUIDE", begin_ns=1_770_000_000 * 10**9)
    catalog = bench.archive.catalog
    assert [f["frame_number"] for f in catalog.frames(camera="TEST")] == [5, 4, 3, 2, 1]
    assert [f["camera"] for f in catalog.frames(night="20260201")] == ["GUIDE"]
    page = catalog.frames(limit=2)
    assert [f["id"] for f in page] == [6, 5]
    assert [f["id"] for f in catalog.frames(limit=2, before=page[-1]["id"])] == [4, 3]
    assert catalog.frames(state="unarchived") == []
    by_key = catalog.show(f"TEST/{RUN}/3")
    assert catalog.show(str(by_key["id"])) == by_key
    assert catalog.show(by_key["name"]) == catalog.show(by_key["path"]) == by_key
    for unknown in ("99", "x.fits", f"TEST/{RUN}/99", "9" * 30, "a/b/c", "%"):
        with pytest.raises(Refused) as caught:
            catalog.show(unknown)
        assert caught.value.code is Code.UNKNOWN_ITEM


def test_status_has_every_documented_key_and_plain_values_only(bench: Bench) -> None:
    bench.take(1)
    status = bench.archive.status()
    assert set(status) == set(STATUS_KEYS)
    assert json.loads(json.dumps(status)) == status


def test_counts_are_by_state_for_tonight_and_for_all_nights(bench: Bench) -> None:
    bench.take(1)
    bench.take(2, begin_ns=1_700_000_000 * 10**9)
    announced = bench.frame(3)
    bench.archive.notify(announced)
    damage(bench.incoming / announced.filename)
    bench.work()
    bench.archive.notify(bench.frame(4))
    status = bench.archive.status()
    counted = status["cameras"]["TEST"]
    assert status["state"] == "WORKING"
    assert {k: n for k, n in counted["tonight"].items() if n} == {
        "accepted": 1, "archived": 1, "quarantined": 1,
    }  # fmt: skip
    assert {k: n for k, n in counted["total"].items() if n} == {
        "accepted": 1, "archived": 2, "quarantined": 1,
    }  # fmt: skip
    assert (counted["waiting"], status["waiting"]) == (1, 1)
    bench.work()
    again = Bench(bench.base)
    restarted = again.archive.status()["cameras"]
    again.close()
    assert restarted == bench.archive.status()["cameras"]


def test_a_camera_says_what_it_likes_but_the_reply_tells_the_state(bench: Bench) -> None:
    announced = bench.frame(1)
    bench.archive.notify(announced)
    damage(bench.incoming / announced.filename)
    bench.work()
    assert bench.archive.notify(announced)["state"] == "quarantined"
    with pytest.raises(Refused):
        bench.archive.notify(replace(announced, datasum="1"))
