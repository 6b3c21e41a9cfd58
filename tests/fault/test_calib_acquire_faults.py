# SPDX-License-Identifier: BSD-3-Clause
"""Acquisition on a camera: what goes wrong around its frames costs none of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kit.paper_camera import DAY, PaperCamera, books, take
from nightjar.calibration.dayfolder import list_day
from nightjar.calibration.explog import read_explogs
from nightjar.errors import Code, FrameInvalid, InvalidArgument, Refused, StorageError
from nightjar.files import locked
from nightjard.calib.acquire import LOCK

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def camera(tmp_path: Path) -> PaperCamera:
    return PaperCamera(tmp_path / "spool")


def logged(data: Path) -> list[tuple[int, int]]:
    """Return OBSID and CCD of the log's lines, whose images are all there."""
    day = list_day(data / DAY)
    rows = [(row.obsid, row.ccd) for row in read_explogs(day.logs)]
    assert set(rows) <= set(day.images)
    return rows


def test_a_session_without_trouble(tmp_path: Path, camera: PaperCamera) -> None:
    done = take(tmp_path / "data", camera)
    assert done.obsids == {"BIAS01": (1000, 1002)}
    assert logged(tmp_path / "data") == [(o, c) for o in (1000, 1001, 1002) for c in (1, 2, 3)]
    assert not list(camera.spool.iterdir())


def test_a_plain_camera_takes_biases(tmp_path: Path, camera: PaperCamera) -> None:
    """It reads all rows, and no light falls in no time: neither needs a control."""
    camera.controls = frozenset()
    assert take(tmp_path / "data", camera, scripts=books(1)).done == 1
    with pytest.raises(Refused, match=r"shuttr \(BIAS01\); set these by hand"):
        take(tmp_path / "data", camera, scripts=books(1, exptime=5.0))
    with pytest.raises(Refused, match=r"vend \(BIAS01\)"):
        take(tmp_path / "data", camera, scripts=books(1, vend=100))


@pytest.mark.parametrize("name", ["../x", "/tmp", "a/b", ".", ".hidden", "x" * 300])
def test_a_day_folder_stays_where_it_belongs(
    tmp_path: Path, camera: PaperCamera, name: str
) -> None:
    with pytest.raises(InvalidArgument, match=r"give a name in .*, such as 21_Feb_26"):
        take(tmp_path / "data", camera, day_folder=name)
    assert not list(tmp_path.iterdir())


def test_what_will_not_do_is_told_before_a_frame_is_taken(
    tmp_path: Path, camera: PaperCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    take(data, camera, scripts=books(1))
    with pytest.raises(Refused, match=f"{DAY} has OBSID 1000 already; the next free one is 1001"):
        take(data, camera, day_folder="22_Feb_26", start_obsid=998)
    with (
        locked(data / LOCK, "another"),
        pytest.raises(Refused, match=r"calib acquire in .* is already running"),
    ):
        take(data, camera)
    (data / "file").touch()
    with pytest.raises(StorageError, match=r"cannot make the folder .*file: File exists; give"):
        take(data, camera, day_folder="file")
    monkeypatch.setattr("nightjar.files.free_bytes", lambda _folder: 1_000_000)
    with pytest.raises(StorageError, match="acquiring 3 frames: 1 MB free") as caught:
        take(data, camera)
    assert caught.value.code is Code.NO_SPACE
    assert camera.taken == [1000]


@pytest.mark.parametrize(
    ("altered", "text"),
    [({"OBSID": 7}, "OBSID 7, commanded was 1000"), ({"IDL": 12.5}, "IDL 12.5, commanded was 13"),
     ({"SOURCE": "point"}, "SOURCE point, commanded was flat"), ({"EXPRQSTD": 3.0}, "EXPRQSTD 3")],
)  # fmt: skip
def test_a_frame_with_settings_of_somebody_else_is_not_taken_over(
    tmp_path: Path, altered: dict[str, object], text: str
) -> None:
    camera = PaperCamera(tmp_path / "spool", **altered)
    with pytest.raises(FrameInvalid, match=text):
        take(tmp_path / "data", camera, scripts=books(exptime=1.0))
    assert [path.name for path in camera.spool.iterdir()] == ["frame-1000.fits"]
    assert logged(tmp_path / "data") == []


def test_a_file_that_cannot_be_removed_is_told(
    tmp_path: Path, camera: PaperCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a spool folder that only the camera's user may write."""
    unlink = Path.unlink

    def refused(path: Path, **named: bool) -> None:
        if path.parent == camera.spool:
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, **named)

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StorageError, match="taken over as OBSID 1000 and cannot be removed: Perm"):
        take(tmp_path / "data", camera)
    assert logged(tmp_path / "data") == [(1000, ccd) for ccd in (1, 2, 3)]


@pytest.mark.parametrize("where", ["HkWriter", "write_ccd_image", "verify_image", "log_values"])
def test_killed_at_any_step_the_next_one_goes_on(
    tmp_path: Path, camera: PaperCamera, where: str
) -> None:
    """kill -9 while an exposure is written: no line without its files, no OBSID twice."""
    done = subprocess.run(
        [sys.executable, "-m", "kit.paper_camera", tmp_path, where], cwd=TESTS, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    before = logged(tmp_path / "data")
    assert before in ([], [(1000, ccd) for ccd in (1, 2, 3)])
    assert list(camera.spool.glob("*.fits"))  # the frame at work is still the camera's
    again = take(tmp_path / "data", camera)
    first, last = again.obsids["BIAS01"]
    assert (first, last - first) == (max(list_day(tmp_path / "data" / DAY).obsids) - 2, 2)
    assert logged(tmp_path / "data") == before + [
        (obsid, ccd) for obsid in range(first, last + 1) for ccd in (1, 2, 3)
    ]
