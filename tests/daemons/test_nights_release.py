# SPDX-License-Identifier: BSD-3-Clause
"""The command release, on a night that was made from raw and copied to two machines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.sshd import PROGRAMS, Sshd, machine_id
from kit.tiny_nights import DATE, EVENING_NS, RAW, Site, make_tiny, site
from nightjar import files
from nightjar.errors import NightjarError, Refused
from nightjard.archived.nights.transfer import quarantine as quarantine_module

pytestmark = [pytest.mark.needs(*PROGRAMS), pytest.mark.usefixtures("kept_workers")]
ASKED = {"night": DATE, "family": "archival"}
DAY_S = 86400.0


class Crash(RuntimeError):
    """Stands for the end of the process; nothing between takes it for anything."""


@pytest.fixture
def here(sshd: Sshd, tmp_path: Path) -> Iterator[Site]:
    """A safe night, whose raw may go after two days, and for ever after three more."""
    make_tiny(tmp_path / "raw")
    changes = {
        "destinations": {
            "vault": sshd.destination(tmp_path / "vault"),
            "cellar": sshd.destination(tmp_path / "cellar", "c"),
        },
        "machine_id": machine_id("a"),
        "retention": {"release_raw": True, "wait_days": 2, "quarantine_days": 3},
    }
    with site(tmp_path / "raw", tmp_path / "state", **changes) as made:
        made.run()
        yield made


def cubes(place: Path) -> dict[str, bytes]:
    """Return the raw cubes below a folder."""
    return {str(path.relative_to(place)): path.read_bytes()
            for name in RAW for path in (place / name).glob("*.fits")}  # fmt: skip


def night(here: Site) -> Path:
    return Path(here.root, DATE)


def held(here: Site) -> Path:
    return Path(here.root, ".quarantine", DATE)


def release(here: Site, **given: Any) -> dict[str, Any]:
    (row,) = here.call("release", **given)["nights"]
    return dict(row)


def quarantined(here: Site) -> dict[str, bytes]:
    """Let raw go into quarantine; return what it is."""
    raw = cubes(night(here))
    here.clock.advance(2 * DAY_S)
    assert release(here)["action"] == "quarantine"
    assert (cubes(night(here)), cubes(held(here))) == ({}, raw)
    return raw


def test_raw_goes_into_quarantine_and_after_it_for_ever(here: Site) -> None:
    kept = release(here)
    assert kept["action"] == "keep"
    assert "waits until 2026-06-14" in "; ".join(kept["reasons"])
    raw = quarantined(here)  # nobody sealed the night: seal_hours have passed
    assert here.row()["state"] == "released"
    kept = release(here)
    assert kept["action"] == "keep"
    assert "waits until 2026-06-17" in "; ".join(kept["reasons"])
    here.clock.advance(3 * DAY_S)
    assert release(here, dry_run=True)["action"] == "remove"
    assert cubes(held(here)) == raw
    done = here.call("release")  # both machines are asked first: their receipts are days old
    assert done["nights"][0]["action"] == "remove"
    assert done["freed_bytes"] == sum(map(len, raw.values()))
    assert cubes(held(here)) == cubes(night(here)) == {}
    assert list(held(here).glob("purged-*.json"))
    assert here.call("release")["nights"] == []  # nothing is left to be let go


def test_what_no_longer_holds_is_said(here: Site, tmp_path: Path) -> None:
    raw = quarantined(here)
    copy = next((tmp_path / "cellar").rglob("*.fits.fz"))
    copy.unlink()
    here.clock.advance(3 * DAY_S)
    kept = release(here)
    assert kept["action"] == "keep"
    assert f"vgen2/{copy.name} is proven on 1 other machines" in "; ".join(kept["reasons"])
    assert cubes(held(here)) == raw


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_crash_while_raw_moves_is_made_up_for_by_the_same_command(
    here: Site, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    raw = cubes(night(here))
    here.clock.advance(2 * DAY_S)
    real, left = files.rename_new, [count]

    def limited(*given: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash
        real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(quarantine_module, "rename_new", limited)
        with pytest.raises(NightjarError, match="Crash"):
            here.call("release")
    assert cubes(night(here)) | cubes(held(here)) == raw
    assert len(cubes(held(here))) == count
    products = {each["path"] for each in here.products()}
    result = here.call("process_all")  # must not plan half a night
    assert "released" in result["skipped"][0]["reason"]
    with pytest.raises(Refused, match="released"):
        here.run(step="sync")
    assert {each["path"] for each in here.products()} == products
    assert release(here)["action"] == "quarantine"
    assert (cubes(night(here)), cubes(held(here))) == ({}, raw)


def test_raw_is_brought_back(here: Site) -> None:
    raw = quarantined(here)
    before = {each["path"]: each["file_hash"] for each in here.products()}
    dry = release(here, **ASKED, back=True, dry_run=True)
    assert (dry["action"], dry["cubes"]) == ("return", len(raw))
    assert cubes(held(here)) == raw
    assert release(here, **ASKED, back=True)["action"] == "return"
    assert (cubes(night(here)), cubes(held(here))) == (raw, {})
    assert here.row()["released_ns"] is None
    assert here.row()["state"] == "safe"
    here.run()
    assert {each["path"]: each["file_hash"] for each in here.products()} == before
    with pytest.raises(Refused, match="nothing of 20260611 is in quarantine"):
        here.call("release", **ASKED, back=True)
    with pytest.raises(NightjarError, match="name the night"):
        here.call("release", back=True)


def test_a_crash_while_raw_comes_back_is_made_up_for(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = quarantined(here)
    real, left = files.rename_new, [len(raw)]

    def limited(*given: Any) -> None:
        left[0] -= 1
        if left[0] < 0:  # all cubes are back, the note is not closed
            raise Crash
        real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(quarantine_module, "rename_new", limited)
        with pytest.raises(NightjarError, match="Crash"):
            here.call("release", **ASKED, back=True)
    assert cubes(night(here)) == raw
    assert release(here, **ASKED, back=True)["action"] == "return"
    assert here.row()["released_ns"] is None
    with here.database.read() as connection:
        assert connection.exec_driver_sql(
            "select count(*) from cube where released_ns is not null"
        ).scalar() == 0  # fmt: skip


def test_a_note_that_cannot_be_read_does_not_hold_up_other_nights(here: Site) -> None:
    quarantined(here)
    (held(here) / "note.json").write_text("{")
    here.clock.advance(3 * DAY_S)
    kept = release(here)
    assert kept["action"] == "keep"
    assert "cannot be read" in kept["reasons"][0]


def test_cubes_that_come_after_the_release_are_told_of(here: Site) -> None:
    quarantined(here)
    assert here.call("process_all")["failed"] == []
    late = night(here) / "vcam1" / "vcam1_23:59:59.000000001.fits"
    late.write_bytes((held(here) / next(iter(cubes(held(here))))).read_bytes())
    os.utime(late, ns=(here.clock.now_ns(), here.clock.now_ns()))
    here.clock.advance(DAY_S)
    (row,) = here.call("nights_table", family=None)
    assert (row["processed"], row["safe_on_scexao6"]) == (False, False)
    (failed,) = here.call("process_all")["failed"]
    assert f"vcam1/{late.name}" in failed["error"]
    assert f"archive release {DATE} --back" in failed["error"]
    assert "--back" in here.call("night_status", **ASKED)["next"]
    # What is said helps.
    here.call("release", **ASKED, back=True)
    here.run()
    assert any(late.name in each["path"] for each in here.store.cubes(here.row()["id"]))
    assert here.row()["state"] == "safe"


@pytest.mark.parametrize("name", ["vcam1_05:00:09.000000001.fits.77.78.tmp", "old.fits.gz"])
def test_frames_that_a_dead_recorder_left_make_no_night_safe(here: Site, name: str) -> None:
    assert here.row()["safe_ns"] is not None
    left = night(here) / "vcam1" / name
    left.write_bytes(b"frames")
    os.utime(left, ns=(EVENING_NS, EVENING_NS))
    done = here.call("resend", **ASKED)
    assert all(copy["is_good"] for copy in done.values())
    assert here.row()["safe_ns"] is None
    said = here.call("night_status", **ASKED)["next"]
    assert f"vcam1/{name}" in said
    assert "not safe until" in said
    left.unlink()
    here.call("resend", **ASKED)
    assert here.row()["safe_ns"] is not None
