# SPDX-License-Identifier: BSD-3-Clause
"""Logs, papers and raw on their way to copies: what was first seen is what counts."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command as alembic_command
from alembic.config import Config
from pydantic import ValidationError

from kit.nights import nights_config
from kit.sshd import PROGRAMS, Sshd, flip_bit, machine_id
from kit.tiny_nights import DATE, Site, make_tiny, settle, site
from nightjar.errors import Busy, NightjarError
from nightjar.files import locked
from nightjard.archived.migrations import SCHEMA
from nightjard.archived.nights import tables
from nightjard.archived.nights.transfer import patterns

pytestmark = [pytest.mark.needs(*PROGRAMS), pytest.mark.usefixtures("kept_workers")]
LOG = "logging/weather.log"
BEFORE_COPY = ("sync", "headers", "ids", "consolidate", "compress", "verify", "manifest")
DAY_S = 86400.0


def sited(sshd: Sshd, tmp_path: Path, raw: dict[str, bool], **changes: Any) -> Any:
    destinations = {
        name: sshd.destination(tmp_path / name, name[0], raw=is_raw) for name, is_raw in raw.items()
    }
    return site(
        tmp_path / "raw", tmp_path / "state", destinations=destinations,
        machine_id=machine_id("z"),
        retention={"release_raw": True, "wait_days": 1, "quarantine_days": 1}, **changes,
    )  # fmt: skip


@pytest.fixture
def here(sshd: Sshd, tmp_path: Path) -> Iterator[Site]:
    """A night with a log that others wrote, and one destination."""
    night = make_tiny(tmp_path / "raw").folder
    (night / LOG).parent.mkdir(exist_ok=True)
    (night / LOG).write_bytes(b"wind 3 m/s\n" * 50)
    settle(night)
    with sited(sshd, tmp_path, {"vault": False}) as made:
        yield made


def night(here: Site) -> Path:
    return Path(here.root, DATE)


def table(here: Site) -> dict[str, Any]:
    (row,) = here.call("nights_table", family=None)
    return dict(row)


def said(here: Site, kind: str) -> list[str]:
    return [each["text"] for each in here.store.events(here.row()["id"]) if each["kind"] == kind]


def process(here: Site) -> None:
    """Do everything but the copies."""
    here.run(until_step="manifest")


# --- other files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [LOG, "record/manifest_VMP_20260611.json"])
def test_a_bit_that_flips_before_the_copy_is_not_copied_as_truth(here: Site, name: str) -> None:
    process(here)
    good = (night(here) / name).read_bytes()
    flip_bit(night(here) / name, random.Random(2))
    for force in (False, True):  # force takes what somebody wrote, never what rotted
        with pytest.raises(NightjarError, match="not proven"):
            here.run(step="transfer", force=force)
        assert not table(here)["safe_on_scexao6"]
    (night(here) / name).write_bytes(good)
    here.run(step="transfer") if name == LOG else here.run(step="transfer", force=True)
    assert table(here)["safe_on_scexao6"]


def test_a_file_that_somebody_wrote_anew_waits_for_a_person(here: Site, tmp_path: Path) -> None:
    process(here)
    (night(here) / LOG).write_bytes(b"all was well\n")
    with pytest.raises(NightjarError, match=f"{LOG}: changed after they were first seen"):
        here.run(step="transfer")
    assert not table(here)["safe_on_scexao6"]
    assert not list((tmp_path / "vault").rglob("weather.log"))
    here.run(step="transfer", force=True)
    assert any("taken as it is now by force" in text for text in said(here, "changed"))
    assert table(here)["safe_on_scexao6"]
    (copy,) = (tmp_path / "vault").rglob("weather.log")
    assert copy.read_bytes() == b"all was well\n"


def test_a_log_may_grow_and_a_file_may_be_touched(here: Site) -> None:
    process(here)
    with (night(here) / LOG).open("ab") as log:
        log.write(b"wind 9 m/s\n")
    manifest = next(night(here).glob("manifest_*.csv"))
    os.utime(manifest, ns=(1, 1))
    here.run(step="transfer")
    assert table(here)["safe_on_scexao6"]


def test_papers_that_others_write_to_are_told_also_when_nobody_worked(here: Site) -> None:
    process(here)
    manifest = next(night(here).glob("manifest_*.csv"))
    manifest.write_bytes(manifest.read_bytes().replace(b"VMPA", b"VMPB"))
    with pytest.raises(NightjarError, match="changed after they were first seen"):
        here.run(step="transfer")


# --- safe, as it is read ---------------------------------------------------------------------


def test_a_safe_night_is_not_when_anything_came_or_changed(here: Site) -> None:
    here.run()
    assert table(here)["state"] == "safe"
    late = night(here) / "logging" / "late.log"
    late.write_bytes(b"forgotten\n")
    row = table(here)
    assert (row["state"], row["safe_on_scexao6"]) == ("verified", False)
    status = here.call("night_status", night=DATE, family="archival")
    assert "logging/late.log" in status["next"]
    here.run()  # what process-all would do
    assert table(here)["state"] == "safe"
    left = night(here) / "vcam1" / ".vcam1_23:00:00.fits.4711.tmp"
    left.write_bytes(b"\0" * 2880)
    assert not table(here)["safe_on_scexao6"]
    left.unlink()
    assert table(here)["safe_on_scexao6"]
    product = next((night(here) / "vgen2").glob("*.fits.fz"))
    os.utime(product, ns=(1, 1))
    assert not table(here)["safe_on_scexao6"]


def test_mail_after_the_copies_lowers_safe_until_they_have_it(
    sshd: Sshd, tmp_path: Path, here: Site
) -> None:
    here.run()
    asked = {"nights": [DATE], "family": "archival", "dry_run": False}
    here.call("send_mail", **asked)  # the letter that is there already
    assert table(here)["safe_on_scexao6"]
    with sited(sshd, tmp_path, {"vault": False}, mail={"signature": "Anna"}) as now:
        letter = Path(now.call("send_mail", **asked)["path"])
        assert not table(now)["safe_on_scexao6"]
        assert now.row()["safe_ns"] is None
        now.call("resend", night=DATE, family="archival", destination=None, dry_run=False)
        assert table(now)["safe_on_scexao6"]
    (copy,) = (tmp_path / "vault").rglob("*.eml")
    assert b"Anna" in letter.read_bytes() == copy.read_bytes()


# --- raw that is kept elsewhere ----------------------------------------------------------------


@pytest.mark.parametrize("is_raw", [True, False])
def test_a_night_with_a_truncated_cube_goes_only_by_copies_of_raw(
    sshd: Sshd, tmp_path: Path, is_raw: bool
) -> None:
    made = make_tiny(tmp_path / "raw", damages=("fits-truncated",)).folder
    raw = {str(path.relative_to(made)): path.read_bytes() for path in made.glob("vcam?/*")}
    wanted = {"vault": True, "cellar": is_raw}
    with sited(sshd, tmp_path, wanted) as here:
        here.run()
        assert table(here)["state"] == "safe"
        far = next((tmp_path / "vault").rglob("vcam1")).parent
        there = {str(path.relative_to(far)): path.read_bytes() for path in far.glob("vcam?/*")}
        assert there == raw
        assert bool(list((tmp_path / "cellar").rglob("vcam1"))) == is_raw
        here.clock.advance(1.5 * DAY_S)
        (row,) = here.call("release")["nights"]
        if not is_raw:
            assert row["action"] == "keep"
            assert "only copies of the cube itself would do" in "; ".join(row["reasons"])
            return
        assert row["action"] == "quarantine"
        here.clock.advance(1.5 * DAY_S)
        (cube,) = (path for path in far.glob("vcam?/*.fits") if path.stat().st_size % 2880)
        good = cube.read_bytes()
        flip_bit(cube, random.Random(1))
        (row,) = here.call("release")["nights"]
        assert row["action"] == "keep"
        cube.write_bytes(good)
        here.clock.advance(1.5 * DAY_S)
        (row,) = here.call("release")["nights"]
        assert row["action"] == "remove"
        assert not list(made.glob("vcam?/*.fits"))


def test_raw_that_changed_after_its_frames_were_taken_is_not_copied(
    sshd: Sshd, tmp_path: Path
) -> None:
    made = make_tiny(tmp_path / "raw").folder
    with sited(sshd, tmp_path, {"vault": True}) as here:
        process(here)
        flip_bit(next(made.glob("vcam2/*.fits")), random.Random(3))
        with pytest.raises(NightjarError, match="not what its frames were taken from"):
            here.run(step="transfer")
        assert not list((tmp_path / "vault").rglob("*.fits"))


# --- what destinations leave out ---------------------------------------------------------------


def test_raw_stays_whatever_its_streams_are_called() -> None:
    files = dict.fromkeys(("cam1/a.fits", "cam1_a.txt", "vgen2/cam1/b.fits", "vgen2/c.fits"))
    assert list(patterns.belonging(files, (), {"cam1"}, False)) == list(files)[1:]
    assert list(patterns.belonging(files, ("*.fits",), {"cam1"}, True)) == [
        "cam1_a.txt", "cam1/a.fits"
    ]  # fmt: skip


def test_excludes_that_leave_out_products_are_refused(tmp_path: Path) -> None:
    place = {"host": "localhost", "path": "/vault"}
    for exclude in (["vgen2/"], ["*.fits"], ["vg*"]):
        with pytest.raises(ValidationError, match="leaves out products"):
            nights_config(tmp_path, destinations={"vault": {**place, "exclude": exclude}})
    nights_config(tmp_path, destinations={
        "vault": {**place, "exclude": ["vgen2/"], "counts_as_copy": False},
    })  # fmt: skip


def test_products_that_a_pattern_leaves_out_are_the_reason_why_not_safe(
    sshd: Sshd, tmp_path: Path
) -> None:
    make_tiny(tmp_path / "raw")
    with site(
        tmp_path / "raw", tmp_path / "state", machine_id=machine_id("z"), compression="rice",
        destinations={"vault": sshd.destination(tmp_path / "vault", exclude=["*.fits.fz"])},
    ) as here:
        with pytest.raises(NightjarError, match="excluded at every destination that counts"):
            here.run()
        assert not table(here)["safe_on_scexao6"]


# --- one at a time, and only ours --------------------------------------------------------------


@pytest.mark.parametrize("command", ["make_manifest", "send_mail"])
def test_papers_wait_for_whoever_has_the_night(here: Site, command: str) -> None:
    process(here)
    more = {"combine": False, "text": False} if command == "make_manifest" else {}
    asked = {"nights": [DATE, DATE], "family": "archival", "dry_run": False, **more}
    with locked(night(here) / "record" / ".lock", "a test"), pytest.raises(Busy):
        here.call(command, **asked)
    here.call(command, **{**asked, "nights": [DATE]})


def test_restore_leaves_a_manifest_that_a_person_put_there(here: Site) -> None:
    process(here)
    theirs = night(here) / "manifest_OLD_20240101.csv"
    theirs.write_text("by hand\n")
    asked = {"night": DATE, "family": "archival"}
    token = here.call("restore_night", **asked, dry_run=True, confirm=None)["confirm"]
    here.call("restore_night", **asked, dry_run=False, confirm=token)
    assert [path.name for path in night(here).glob("manifest_*")] == [theirs.name]
    assert theirs.read_text() == "by hand\n"


def test_raw_taken_by_force_is_remembered_whatever_the_events_say(here: Site) -> None:
    process(here)
    assert not here.store.was_forced(here.row()["id"])
    next(night(here).glob("vcam1/*.fits")).unlink()
    here.run(step="sync", force=True)
    with here.database.write("forget") as connection:
        connection.execute(sa.delete(tables.night_event))
    assert here.store.was_forced(here.row()["id"])


def test_an_older_database_keeps_which_nights_were_forced(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'old.db'}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(SCHEMA.folder))
        config.attributes["connection"] = connection
        alembic_command.upgrade(config, "0002")
        connection.execute(sa.text(
            "insert into night (id, family, date, folder, state, seen_ns) values "
            "(1, 'a', '20260611', '/x', 'new', 1), (2, 'a', '20260612', '/y', 'new', 1)"
        ))  # fmt: skip
        connection.execute(sa.text(
            "insert into night_event (night_id, time_ns, kind, text) values "
            "(1, 76, 'damaged', 'x is damaged'), (2, 77, 'damaged', 'planned by force as they are')"
        ))  # fmt: skip
        SCHEMA.upgrade(connection)
        rows = connection.execute(sa.text("select id, forced_ns from night order by id")).all()
    engine.dispose()
    assert [tuple(row) for row in rows] == [(1, None), (2, 77)]
