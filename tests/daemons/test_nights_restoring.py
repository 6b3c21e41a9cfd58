# SPDX-License-Identifier: BSD-3-Clause
"""``archive restore`` where raw is not what it was: products that may be all there is stay."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kit.nights import products_of
from kit.tiny_nights import DATE, Site, make_tiny, site
from nightjar.errors import Refused, StorageError
from nightjar.fits.hdus import read_headers
from nightjar.fits.header import read_header
from nightjard.archived.nights.ids import read_name_changes

pytestmark = pytest.mark.usefixtures("kept_workers")


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return Path(make_tiny(tmp_path / "raw").folder)


def here(night: Path, **changes: Any) -> Any:
    return site(night.parent, night.parent.parent / "state", **changes)


def restored(made: Site) -> dict[str, Any]:
    asked = {"night": DATE, "family": "archival"}
    dry = made.call("restore_night", **asked, dry_run=True, confirm=None)
    done = made.call("restore_night", **asked, dry_run=False, confirm=dry["confirm"])
    assert done["kept"] == dry["kept"]
    return dict(done)


def set_aside(night: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (night / "superseded").glob("*")}


def sources(path: Path) -> set[str]:
    header = read_headers(path)[1]
    return {str(header[f"SRC{number}"]) for number in range(1, int(str(header["NSRC"])) + 1)}


def test_frames_of_a_raw_cube_that_is_gone_stay(night: Path) -> None:
    cube = sorted((night / "vcam2").glob("*.fits"))[0]
    with here(night) as made:
        made.run()
        of_cube = {path.name: path.read_bytes() for path in products_of(night)
                   if f"vcam2/{cube.name}" in sources(path)}  # fmt: skip
        assert of_cube
        cube.unlink()  # a disk has lost it, and the operator goes on without it
        made.run(step="sync", force=True)
        made.run()
        assert set_aside(night) == of_cube
        done = restored(made)
        assert done["kept"] == len(of_cube)
        assert set_aside(night) == of_cube
        assert products_of(night) == []
        assert not read_name_changes(night / "vgen2")
        made.run()  # and the night is made again beside it
        assert set_aside(night) == of_cube


def test_what_was_made_before_raw_was_damaged_stays(night: Path) -> None:
    cube = sorted((night / "vcam2").glob("*.fits"))[0]
    with here(night) as made:
        made.run()
        of_cube = {path.name: path.read_bytes() for path in products_of(night)
                   if f"vcam2/{cube.name}" in sources(path)}  # fmt: skip
    state, data = cube.stat(), bytearray(cube.read_bytes())
    data[read_header(cube).data_offset + 100] ^= 4  # same size, same time
    cube.write_bytes(data)
    os.utime(cube, ns=(state.st_atime_ns, state.st_mtime_ns))
    with here(night, local_offset_hours=-4.0) as made:  # all headers change
        with pytest.raises(StorageError):
            made.run()
        made.run(step="consolidate", force=True)
        good = set_aside(night)
        assert of_cube.items() <= good.items()
        assert restored(made)["kept"] == len(good)
        assert set_aside(night) == good


def test_an_empty_database_proves_nothing(night: Path) -> None:
    cube = sorted((night / "vcam2").glob("*.fits"))[0]
    with here(night) as made:
        made.run()
    before = products_of(night)
    cube.unlink()
    for path in (night.parent.parent / "state").glob("archive.db*"):
        path.unlink()  # lost, and made anew
    with here(night) as made:
        with pytest.raises(Refused, match=f"raw cube vcam2/{cube.name}, which is not there"):
            restored(made)
        assert products_of(night) == before
