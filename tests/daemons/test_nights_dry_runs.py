# SPDX-License-Identifier: BSD-3-Clause
"""Dry runs of all commands say what would be done and change nothing, here or far away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kit.nights import files_of
from kit.sshd import PROGRAMS, Sshd, machine_id
from kit.tiny_nights import DATE, Site, make_tiny, site
from nightjar.api.night_results import COPY_KEYS, INGEST_KEYS, VERIFY_KEYS
from nightjar.api.nights import NIGHT_COMMANDS
from nightjard.archived.nights.tables import TABLES

pytestmark = [pytest.mark.needs(*PROGRAMS), pytest.mark.usefixtures("kept_workers")]
ASKED = {"night": DATE, "family": "archival"}
NIGHTS = {"nights": [DATE], "family": "archival"}
#: What else each command is given.
GIVEN: dict[str, dict[str, Any]] = {
    "plan_night": ASKED, "run_night": ASKED, "process_all": {}, "verify_night": ASKED,
    "resend": ASKED, "scrub": ASKED, "restore_night": ASKED, "release": {},
    "make_manifest": NIGHTS, "send_mail": NIGHTS, "fix_ids": ASKED, "fix_headers": ASKED,
    "repair_headers": {**ASKED, "keys": ["RET-ANG1"]}, "veto": {**ASKED, "reason": "wait"},
    "seal": ASKED, "note_ingested": {"lines": ["VMPA00000001", "VMPA99999999"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def here(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A night that was run, and was not copied."""
    base = tmp_path_factory.mktemp("dry")
    make_tiny(base / "raw", telemetry_s=1.0)
    changes = {
        "destinations": {"vault": sshd.destination(base / "far")},
        "machine_id": machine_id("a"), "telemetry": "logging/keywords_log*.tsv",
        "retention": {"release_raw": True, "wait_days": 0},
        "mail": {"to": ["archive@observatory.example"], "address": "192.0.2.1"},
    }  # fmt: skip
    with site(base / "raw", base / "state", **changes) as made:
        made.run(until_step="manifest")
        yield made


def far(here: Site) -> Path:
    return here.root.parent / "far"


def kept(here: Site) -> dict[str, Any]:
    """Return everything that is stored: files here and far away, and all rows."""
    with here.database.read() as connection:
        rows = {table.name: [tuple(row) for row in connection.execute(sa.select(table))]
                for table in TABLES}  # fmt: skip
    return {"here": files_of(here.root), "far": files_of(far(here)), **rows}


def test_all_commands_that_change_something_have_one() -> None:
    without = {
        "nights_table", "night_status", "nights_settings", "nights_progress", "summary", "why",
        "forecast", "doctor", "check_ids", "check_headers", "notify_cube",
    }  # fmt: skip
    names = {each.name for each in NIGHT_COMMANDS}
    dry = {each.name for each in NIGHT_COMMANDS
           if any(one.name == "dry_run" for one in each.parameters)}  # fmt: skip
    assert dry == names - without == set(GIVEN)


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_nothing_changes(here: Site, name: str) -> None:
    before = kept(here)
    assert here.call(name, **GIVEN[name], dry_run=True) is not None
    assert kept(here) == before


def test_what_is_said_is_what_would_be(here: Site) -> None:
    assert here.call("seal", **ASKED, dry_run=True)["sealed"]
    assert here.call("veto", **ASKED, reason=" wait ", dry_run=True)["veto"] == "wait"
    (made,) = here.call("make_manifest", **NIGHTS, text=True, dry_run=True)["manifests"]
    assert made["text"] == Path(made["path"]).read_bytes().decode()  # the step has written it
    assert made["files"] == len(here.products())
    assert here.call("scrub", **ASKED, dry_run=True)["vault"]["files"] == 0
    assert here.call("scrub", dry_run=True) == {}  # none is due


def test_verify_looks_at_names_and_sizes(here: Site) -> None:
    found = here.call("verify_night", **ASKED, dry_run=True)
    assert set(found) == set(VERIFY_KEYS)
    assert found["is_good"]
    assert found["files"] == len(here.products())
    first, second = (here.root / DATE / row["path"] for row in here.products()[:2])
    first.rename(first.with_suffix(".away"))
    size = second.stat().st_size
    try:
        os.truncate(second, size + 1)
        found = here.call("verify_night", **ASKED, dry_run=True)
        assert not found["is_good"]
        said = " ".join(each["problem"] for each in found["bad"])
        assert "No such file" in said
        assert f"{size + 1} bytes instead of {size}" in said
        assert {row["state"] for row in here.products()} == {"verified"}
    finally:
        os.truncate(second, size)
        first.with_suffix(".away").rename(first)


def test_resend_asks_the_far_side_what_it_lacks(here: Site) -> None:
    found = here.call("resend", **ASKED, dry_run=True)["vault"]
    assert set(found) == set(COPY_KEYS)
    assert found["host"] == machine_id("b")
    assert len(found["missing"]) == found["files"] > len(here.products())
    assert not found["is_good"]
    assert not far(here).exists()

    done = here.call("resend", **ASKED)["vault"]
    assert done["is_good"]
    copies = sorted((far(here) / "archival" / DATE / "vgen2").glob("*.fits.fz"))
    copies[0].unlink()
    data = bytearray(copies[1].read_bytes())
    data[len(data) // 2] ^= 1
    copies[1].write_bytes(data)
    before = kept(here)
    found = here.call("resend", **ASKED, dry_run=True)["vault"]
    assert found["missing"] == [f"vgen2/{copies[0].name}"]
    assert found["different"] == [f"vgen2/{copies[1].name}"]
    assert found["files"] == done["files"]
    assert found["verified"] == done["files"] - 2
    assert kept(here) == before  # and no receipt was left there, either
    assert here.call("resend", **ASKED)["vault"]["is_good"]
    assert here.call("resend", **ASKED, dry_run=True)["vault"]["is_good"]


@pytest.mark.parametrize("name", ["resend", "scrub"])
def test_copies_tell_how_far_they_are(
    here: Site, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.call("resend", **ASKED)
    told: list[tuple[str, int, str]] = []
    context = here.model._processing.context

    def watched(night: Any, job: Any) -> Any:
        made = context(night, job)
        progress = made.progress

        def note(each: Any) -> None:
            told.append((each.step, each.total, each.text))
            progress(each)

        made.progress = note
        return made

    monkeypatch.setattr(here.model._processing, "context", watched)
    done = here.call(name, **ASKED)["vault"]
    assert done["is_good"]
    assert told
    assert {(step, total) for step, total, _ in told} == {(name, done["files"])}
    assert any("read on the far side" in text for _, _, text in told)


def test_what_the_observatory_took_is_kept_and_proves_nothing(here: Site) -> None:
    ours = [str(row["frame_id"]) for row in here.products()]
    before = here.call("night_status", **ASKED)
    assert before["ingested"] is None
    first = here.call("note_ingested", lines=["# taken today", *ours[:3], "XYZA00000009"])
    assert set(first) == set(INGEST_KEYS)
    assert not first["is_good"]
    assert first["unknown"] == ["XYZA00000009"]
    (night,) = first["nights"]
    assert (night["night"], night["family"]) == (DATE, "archival")
    assert (night["files"], night["new"], night["confirmed"]) == (len(ours), 3, 3)
    assert night["missing"] == sorted(ours[3:])

    again = here.call("note_ingested", lines=ours[:3])["nights"][0]
    assert (again["new"], again["confirmed"]) == (0, 3)
    rest = here.call("note_ingested", lines=[f"{name.lower()}.fits.fz,ok" for name in ours[2:]])
    assert rest["is_good"]
    assert rest["nights"][0]["new"] == len(ours) - 3
    after = here.call("night_status", **ASKED)
    assert after["ingested"]["confirmed"] == after["ingested"]["files"] == len(ours)
    assert after["copies"] == before["copies"]  # a list of names is no copy
    assert after["safe_on_scexao6"] == before["safe_on_scexao6"]
    told = [each["text"] for each in after["events"] if each["kind"] == "ingest"]
    assert told == [f"the observatory's archive has {count} of {len(ours)} files"
                    for count in (3, len(ours))]  # fmt: skip
