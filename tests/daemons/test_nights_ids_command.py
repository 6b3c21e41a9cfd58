# SPDX-License-Identifier: BSD-3-Clause
"""``archive ids`` on a night of which cubes came late: files, names and database agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.depth import soaked
from kit.tiny_nights import DATE, EVENING_NS, Site, make_tiny, settle, site
from nightjar.errors import NightjarError
from nightjar.fits.hdus import read_headers
from nightjard.archived.nights import papers
from nightjard.archived.nights.ids import renaming
from nightjard.archived.nights.store import NightStore

pytestmark = pytest.mark.usefixtures("kept_workers")

ASKED = {"night": DATE, "family": "archival"}


class Crash(RuntimeError):
    """Stands for the end of the process; nothing between takes it for anything."""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    """A night whose first cubes came when the others had their IDs: these are out of order."""
    make_tiny(tmp_path / "raw")
    away = tmp_path / "away"
    away.mkdir()
    late = sorted((tmp_path / "raw" / DATE / "vcam1").iterdir())[:2]  # cube and text
    for path in late:
        path.rename(away / path.name)
    with site(tmp_path / "raw", tmp_path / "state") as made:
        made.run()
        for path in late:
            (away / path.name).rename(path)
        settle(tmp_path / "raw" / DATE / "vcam1", EVENING_NS)
        made.run()
        yield made


def in_order(here: Site) -> bool:
    rows = sorted(here.products(), key=lambda row: (row["first_ns"], row["name"]))
    ids = [row["frame_id"] for row in rows]
    return ids == sorted(ids)


def contents(here: Site) -> dict[str, tuple[str, str]]:
    """Return product -> ID in the header of the file that the database names, its payload."""
    found = {}
    for row in here.products():
        header = read_headers(here.root / DATE / row["path"])[1]
        assert row["path"].startswith(f"vgen2/{row['frame_id']}.")
        found[row["name"]] = (str(header["FRAMEID"]), row["payload_hash"])
    return found


def agree(here: Site) -> None:
    """Require that files, names, database and the journal of IDs say the same."""
    ids = {row["name"]: row["frame_id"] for row in here.products()}
    assert {name: one for name, (one, _) in contents(here).items()} == ids
    journal = here.model._papers._tools.ids.assigned("archival", DATE)
    assert {name: each.frame_id for name, each in journal.items() if name in ids} == ids
    found: Any = here.call("check_ids", **ASKED)
    assert found["problems"] == []
    assert here.call("verify_night", **ASKED)["is_good"]
    assert in_order(here)


def test_ids_out_of_order_are_exchanged(here: Site) -> None:
    assert not in_order(here)
    before = contents(here)
    assert not here.call("check_ids", **ASKED)["is_good"]
    done = here.call("fix_ids", **ASKED)
    assert done["changes"]
    assert done["is_good"]
    agree(here)
    after = contents(here)
    assert {name: each[1] for name, each in after.items()} == {
        name: each[1] for name, each in before.items()
    }
    here.run()
    agree(here)
    assert contents(here) == after


@pytest.mark.parametrize(
    ("place", "again"),
    [
        ("_park", "fix_ids"), ("_place", "run_night"), ("_close", "fix_ids"),
        ("follow", "run_night"), ("set_products", "fix_ids"),
        soaked("_park", "run_night"), soaked("_place", "fix_ids"), soaked("_close", "run_night"),
        soaked("follow", "fix_ids"), soaked("set_products", "run_night"),
    ],
)  # fmt: skip
def test_a_crash_in_between_is_made_up_for(
    here: Site, monkeypatch: pytest.MonkeyPatch, place: str, again: str
) -> None:
    target: Any = {"follow": papers, "set_products": NightStore}.get(place, renaming)
    real = getattr(target, place)
    left = [1 if place in ("_park", "_place") else 0]

    def limited(*given: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Crash
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(target, place, limited)
        with pytest.raises(NightjarError, match="Crash"):
            here.call("fix_ids", **ASKED)
    here.call(again, **ASKED)
    agree(here)
    after = contents(here)
    here.run()
    agree(here)
    assert contents(here) == after
    assert not list((here.root / DATE / "vgen2").glob(".ids-fix*"))
