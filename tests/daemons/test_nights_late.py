# SPDX-License-Identifier: BSD-3-Clause
"""Cubes that come after a night was processed: which names and IDs stay, and which are gaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kit.depth import soaked
from kit.nights import product_tags, products_of
from kit.tiny_nights import DARK, RAW, SCIENCE, Site, make_tiny, settle, site
from nightjard.archived.nights.store import Row
from nightjard.simulators.night.parameters import Segment
from nightjard.simulators.night.triggers import CameraTiming

pytestmark = pytest.mark.usefixtures("kept_workers")

CAMERAS = (CameraTiming(), CameraTiming(offset_us=150.0))
SEGMENTS = (
    Segment(SCIENCE, frames=120, cube_frames=((20,), (25,)), timings=CAMERAS),
    Segment(DARK, frames=10, cube_frames=((6,), (8,))),
)
Cubes = dict[str, list[Path]]


@dataclass
class Night:
    """A night before and after a cube came: products by name, files by name."""

    before: dict[str, Row]
    after: dict[str, Row]
    files_before: dict[str, bytes]
    files_after: dict[str, bytes]
    history: str

    @property
    def kept(self) -> set[str]:
        """Names that both have; their IDs must be the same."""
        names = set(self.before) & set(self.after)
        for name in names:
            assert self.before[name]["frame_id"] == self.after[name]["frame_id"]
        return names

    @property
    def gaps(self) -> set[str]:
        """IDs of names that are no more."""
        return {self.before[name]["frame_id"] for name in set(self.before) - set(self.after)}

    @property
    def new(self) -> set[str]:
        """IDs of names that are new."""
        return {self.after[name]["frame_id"] for name in set(self.after) - set(self.before)}

    @property
    def same_files(self) -> set[str]:
        """Names of products whose files are the same byte for byte."""
        return {
            name for name in self.kept
            if self.files_before[self.before[name]["frame_id"]]
            == self.files_after[self.after[name]["frame_id"]]
        }  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name.partition(".")[0]: path.read_bytes() for path in products_of(folder)}


def rows_of(here: Site) -> dict[str, Row]:
    return {row["name"]: row for row in here.products()}


def come_late(tmp_path: Path, pick: Callable[[Cubes], list[Path]]) -> Night:
    """Process a night without some cubes, then with them."""
    truth = make_tiny(tmp_path / "raw", segments=SEGMENTS)
    cubes = {name: sorted((truth.folder / name).glob("*.fits")) for name in RAW}
    held = {path: tmp_path / path.name for cube in pick(cubes)
            for path in (cube, cube.with_suffix(".txt"))}  # fmt: skip
    for path, place in held.items():
        path.rename(place)
    with site(tmp_path / "raw", tmp_path / "state", chunks={"seconds": 0.1}) as here:
        here.run()
        before, files = rows_of(here), files_of(truth.folder)
        for path, place in held.items():
            place.rename(path)
        settle(truth.folder)
        here.run()
        assert truth.conservation(product_tags(path) for path in products_of(truth.folder)).is_exact
        events = here.store.events(here.row()["id"])
        night = Night(before, rows_of(here), files, files_of(truth.folder),
                      "\n".join(each["text"] for each in events))  # fmt: skip
    # Whatever came first: numbers are never given twice, and none is left out by itself.
    assert not night.gaps & {row["frame_id"] for row in night.after.values()}
    given = sorted(night.gaps | {row["frame_id"] for row in night.after.values()})
    assert given == [f"VMPA{number:08d}" for number in range(1, len(given) + 1)]
    if night.gaps:
        assert f"{len(night.gaps)} IDs stay reserved for products that the plan" in night.history
        assert all(number in night.history for number in sorted(night.gaps)[:20])
    else:
        assert "reserved" not in night.history
    assert min(night.new) > max(row["frame_id"] for row in night.before.values())
    return night


@pytest.mark.parametrize("which", [7, soaked(6)])
def test_a_cube_without_trigger_changes_no_names(tmp_path: Path, which: int) -> None:
    night = come_late(tmp_path, lambda cubes: [cubes["vcam1"][which]])
    assert night.kept == set(night.before)
    assert night.gaps == set()
    # The second one fills a hole: headers of its run told of frames that were lost there.
    own = {name for name in night.before if name.startswith("vcam1_05:00:03")}
    assert len(own) == 2
    assert night.kept - night.same_files == (own if which == 7 else set())


def test_the_end_of_a_run_keeps_names_and_ids(tmp_path: Path) -> None:
    night = come_late(tmp_path, lambda cubes: [cubes["vcam1"][5], cubes["vcam2"][4]])
    assert night.kept == set(night.before)
    assert night.gaps == set()
    assert {name for name in night.kept if "vsync" not in name} <= night.same_files


def test_a_gap_of_one_camera_costs_the_names_of_frames_without_partners(tmp_path: Path) -> None:
    night = come_late(tmp_path, lambda cubes: [cubes["vcam1"][2]])
    assert night.gaps
    assert {name for name in night.kept if "vsync" in name}
    solo = {name for name in night.before if name.startswith("vcam2_") and name[-2] == "."}
    assert solo
    assert not solo & set(night.after)


@pytest.mark.parametrize("cameras", [RAW, soaked(("vcam1",))])
def test_an_earlier_beginning_renames_a_run_and_nothing_else(
    tmp_path: Path, cameras: tuple[str, ...]
) -> None:
    night = come_late(tmp_path, lambda cubes: [cubes[name][0] for name in cameras])
    dark = {name for name in night.before if "vsync" not in name and name[-2] != "."}
    assert night.kept == night.same_files == dark
    assert dark
