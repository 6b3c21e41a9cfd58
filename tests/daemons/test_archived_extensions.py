# SPDX-License-Identifier: BSD-3-Clause
"""Files with extensions (a cube and its table of frames) come into the archive whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.archive_frames import FULL_BLOCK, Bench, quick_folder
from nightjar.fits.frame_table import empty_rows, read_table, table_hdu
from nightjar.fits.hdus import read_headers
from nightjar.fits.verify import verify_image
from nightjard.archived.intake import Announcement


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(quick_folder())
    yield made
    made.close()


def cube(bench: Bench, number: int = 1, **options: Any) -> Announcement:
    """Write a frame with a table behind it; return what its camera would announce."""
    announced = bench.frame(number, **options)
    path = bench.incoming / announced.filename
    rows = empty_rows(100)
    rows["CNT0"] = 1000 * number + np.arange(100)
    with path.open("ab") as file:
        file.write(table_hdu(rows))
    return replace(announced, size=path.stat().st_size)


def take(bench: Bench, announced: Announcement) -> dict[str, Any]:
    bench.archive.notify(announced)
    bench.work()
    return bench.archive.catalog.show(announced.key)


def is_whole(path: str, number: int = 1) -> bool:
    found = verify_image(Path(path))
    assert found.problems == ()
    assert len(found.units) == 2
    return int(read_table(path)["CNT0"][7]) == 1000 * number + 7


def test_it_is_archived_with_its_table_and_new_cards(bench: Bench) -> None:
    bench.archive.set_settings({"object": "NGC 7027"}, "test")
    frame = take(bench, cube(bench))
    assert frame["state"] == "archived"
    assert is_whole(frame["path"])
    primary, table = read_headers(frame["path"])
    assert (primary["OBJECT"], table["EXTNAME"]) == ("NGC 7027", "FRAMES")
    assert "OBJECT" not in table


@pytest.mark.parametrize("is_full", [False, True])
def test_it_is_copied_to_another_file_system(tmp_path: Path, is_full: bool) -> None:
    incoming = Path(os.environ["MILK_SHM_DIR"]) / "incoming"
    bench = Bench(tmp_path, incoming_data_path=str(incoming))
    bench.archive.set_settings({"object": "M 31"}, "test")
    full: dict[str, Any] = {"capacity": 0, "cards": FULL_BLOCK} if is_full else {}
    frame = take(bench, cube(bench, **full))
    assert frame["state"] == "archived"
    assert is_whole(frame["path"])
    assert read_headers(frame["path"])[0]["OBJECT"] == "M 31"
    bench.close()


def test_a_damaged_table_goes_to_quarantine(bench: Bench) -> None:
    announced = cube(bench)
    path = bench.incoming / announced.filename
    content = bytearray(path.read_bytes())
    content[-2000] ^= 1
    path.write_bytes(content)
    frame = take(bench, announced)
    assert frame["state"] == "quarantined"
    assert frame["last_error"].startswith("extension 1 (FRAMES): DATASUM does not agree")


def test_in_place_already_it_is_recognised_by_all_of_its_bytes(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    done = take(first, cube(first))
    first.close()
    # The database is lost, the camera announces the same file once more.
    again = Bench(tmp_path, url=f"sqlite:///{tmp_path / 'new.db'}")
    frame = take(again, cube(again))
    assert (frame["state"], frame["path"]) == ("archived", done["path"])
    assert os.listdir(again.incoming) == []
    again.close()
    # And a third time, with the same image but without the table: another file.
    third = Bench(tmp_path, url=f"sqlite:///{tmp_path / 'third.db'}")
    other = third.take(1)
    assert other["state"] == "archived"
    assert other["path"] != done["path"]
    assert is_whole(done["path"])
    third.close()


def test_a_crash_between_the_rename_and_the_database_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    announced = cube(bench)
    bench.archive.notify(announced)
    with monkeypatch.context() as patch:
        patch.setattr("nightjard.archived.steps.Steps._finish", _die)
        with pytest.raises(KeyboardInterrupt):
            bench.work()
    bench.close()
    after = Bench(tmp_path)
    after.work()
    frame = after.archive.catalog.show(announced.key)
    assert frame["state"] == "archived"
    assert is_whole(frame["path"])
    assert len(after.files()) == 1
    after.close()


def _die(*_: object) -> None:
    raise KeyboardInterrupt
