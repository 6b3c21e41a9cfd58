# SPDX-License-Identifier: BSD-3-Clause
"""Plans that earlier releases made stay of use: why, summary and restore, and the next run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from blake3 import blake3

from kit.nights import files_of, products_of
from kit.tiny_nights import DATE, Site, make_tiny, site
from nightjar.errors import StorageError
from nightjard.archived.nights import tables
from nightjard.archived.nights.plan import UPGRADES, VERSION, Plan, plan_path, rows_path
from nightjard.simulators.night.truth import NightTruth

pytestmark = pytest.mark.usefixtures("kept_workers")

#: Written by releases of those versions for the night of `make_tiny`, which is always the same.
STORED = Path(__file__).parents[1] / "kit" / "old_plans"
NAMES = {
    1: "2d29ccb6b82b570be8cc4c8ff5bc390ec5fa64698895dd5c9292eb514bb2bb83",
    2: "baf452c4ca177a69c8ec186438fbcde61191030e2af9ac2214867dcb048a67cf",
}
_FOUND = ("run", "pair_confidence", "state_confidence", "offset_us")


@pytest.fixture
def truth(tmp_path: Path) -> NightTruth:
    return make_tiny(tmp_path / "raw")


@pytest.fixture
def here(truth: NightTruth, tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path / "raw", tmp_path / "state") as made:
        made.run()
        yield made


def take_over(here: Site, folder: Path, version: int) -> str:
    """Have the night as a release of that version left it; return the hash of its plan."""
    name = NAMES[version]
    record = folder / "record"
    for path in (*record.glob("plan-*"), *record.glob("frames-*")):
        path.unlink()
    for make in (plan_path, rows_path):
        target = make(folder, name)
        shutil.copyfile(STORED / target.name, target)
    row = here.row()
    with here.database.write("a night of an earlier release") as connection:
        for table, column in ((tables.night, "id"), (tables.product, "night_id")):
            connection.execute(
                sa.update(table).where(table.c[column] == row["id"]).values(plan_hash=name)
            )
        # The version is part of what a step is known by.
        connection.execute(sa.update(tables.step).values(key="of another version"))
    return name


def answers(here: Site) -> list[Any]:
    """Return what is told of every product, of some raw frames, and of the night."""
    frames = [row["name"] for row in here.products()]
    plan = Plan.load(Path(here.row()["folder"]), here.row()["plan_hash"])
    frames += [f"{cube.path}/{index}" for cube in plan.cubes for index in (0, cube.frames - 1)]
    told = [here.call("why", frame=frame, night=None, family=None) for frame in frames]
    for each in told:
        for key in _FOUND:  # what that release found out about the cameras, in its own way
            each["facts"].pop(key, None)
    return [
        *({key: each[key] for key in each if key != "story"} for each in told),
        {**here.call("summary", night=DATE, family="archival"), "state": ""},
    ]


def test_every_version_has_an_upgrade_and_an_example() -> None:
    assert set(UPGRADES) == set(NAMES) == set(range(1, VERSION))
    for version, name in NAMES.items():
        assert json.loads(_text(name))["version"] == version


def _text(name: str) -> bytes:
    return (STORED / plan_path(Path(), name).name).read_bytes()


@pytest.mark.parametrize("version", NAMES)
def test_why_and_summary_answer_as_before(here: Site, truth: NightTruth, version: int) -> None:
    wanted = answers(here)
    name = take_over(here, truth.folder, version)
    assert answers(here) == wanted
    assert Plan.load(truth.folder, name).hash == name
    Plan.load(truth.folder, name).check()


def test_a_night_whose_raw_was_released_still_answers(here: Site, truth: NightTruth) -> None:
    take_over(here, truth.folder, 1)
    wanted = answers(here)
    here.store.set_night(here.row()["id"], released_ns=1, state="released")
    for stream in ("vcam1", "vcam2"):
        shutil.rmtree(truth.folder / stream)
    assert answers(here) == wanted


def test_the_next_run_plans_anew_and_makes_nothing_again(
    here: Site, truth: NightTruth
) -> None:
    products = {path: path.stat() for path in products_of(truth.folder)}
    now = here.row()["plan_hash"]
    take_over(here, truth.folder, 1)
    here.run()
    assert here.row()["plan_hash"] == now
    assert here.row()["state"] == "verified"
    assert {path: path.stat() for path in products_of(truth.folder)} == products


def test_a_night_of_an_earlier_version_is_restored(here: Site, truth: NightTruth) -> None:
    raw = {name: files_of(truth.folder / name) for name in ("vcam1", "vcam2")}
    take_over(here, truth.folder, 1)
    asked = here.call("restore_night", night=DATE, family="archival", dry_run=True, confirm=None)
    here.call("restore_night", night=DATE, family="archival", dry_run=False,
              confirm=asked["confirm"])  # fmt: skip
    assert {name: files_of(truth.folder / name) for name in raw} == raw
    assert products_of(truth.folder) == []
    assert here.row()["plan_hash"] is None


def changed(folder: Path, **values: Any) -> str:
    """Write a stored plan of version 1 with other values, None for none; return its hash."""
    value = json.loads(_text(NAMES[1]))
    value = {key: item for key, item in {**value, **values}.items() if item is not None}
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    rows = np.load(STORED / rows_path(Path(), NAMES[1]).name)
    name = blake3(text.encode()).update(rows.tobytes()).hexdigest()
    (folder / "record").mkdir(exist_ok=True)
    plan_path(folder, name).write_text(text)
    np.save(rows_path(folder, name), rows)
    return name


def test_the_first_plans_had_no_facts_of_cubes(tmp_path: Path) -> None:
    plan = Plan.load(tmp_path, changed(tmp_path, facts=None))
    assert [dict(each) for each in plan.facts] == [{}] * len(plan.cubes)


def test_a_plan_of_a_later_release_is_refused_with_what_to_do(tmp_path: Path) -> None:
    name = changed(tmp_path, version=VERSION + 1)
    wanted = rf"of version {VERSION + 1}, which a later release .* install that release again"
    with pytest.raises(StorageError, match=wanted):
        Plan.load(tmp_path, name)


def test_an_old_plan_that_is_damaged_is_refused(tmp_path: Path) -> None:
    name = changed(tmp_path)
    path = plan_path(tmp_path, name)
    path.write_text(path.read_text().replace("vcam1", "vcam2", 1))
    with pytest.raises(StorageError, match="it or its rows are damaged"):
        Plan.load(tmp_path, name)
