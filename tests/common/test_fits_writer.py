# SPDX-License-Identifier: BSD-3-Clause
"""Whole files: read back by astropy, accepted by fitsverify, never half there."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from nightjar import files
from nightjar.errors import Code, Refused, StorageError
from nightjar.fits.binning import bin_image
from nightjar.fits.cards import Card
from nightjar.fits.header import Header
from nightjar.fits.verify import verify_image
from nightjar.fits.writer import STRUCTURAL, write_image

RNG_SEED = 20250102


def frame(rows: int = 64, columns: int = 78, dtype: str = "u2") -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(RNG_SEED)
    if dtype[0] == "f":
        return rng.normal(1000, 300, (rows, columns)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (rows, columns), dtype, endpoint=True)


CASES = [
    ("plain", frame(), 1, "sum"),
    ("odd", frame(63, 77), 1, "sum"),
    ("one pixel", frame(1, 1), 1, "sum"),
    ("several blocks", frame(700, 801), 1, "sum"),
    ("window", frame()[3:60, 5:72], 1, "sum"),
    ("window of an odd offset", frame()[1:61, 1:61], 2, "sum"),
    ("sum 2", frame(), 2, "sum"),
    ("mean 2", frame(), 2, "mean"),
    ("sum 3", frame(63, 78), 3, "sum"),
    ("sum 13", frame(13, 26), 13, "sum"),
    ("row", frame()[0], 1, "sum"),
    ("cube", frame().reshape(4, 16, 78), 1, "sum"),
    ("mirrored", frame()[::-1, ::-1], 1, "sum"),
    ("turned", frame().T, 1, "sum"),
    ("big-endian", frame().astype(">u2"), 1, "sum"),
    ("all zero in the file", np.full((8, 8), 32768, "u2"), 1, "sum"),
    *((dtype, frame(37, 41, dtype), 1, "sum") for dtype in
      ("u1", "i2", "i4", "u4", "i8", "u8", "f4", "f8")),
    *((f"{dtype} sum 2", frame(36, 40, dtype), 2, "sum") for dtype in ("u1", "i2", "u4", "f4")),
]  # fmt: skip

HEADER = Header(
    [
        Card("DATE-OBS", "2025-01-02T03:04:05.678901", "start of exposure (UTC)"),
        Card("TIMESYS", "UTC", "time system"),
        Card("EXPTIME", 0.1, "exposure time", "s"),
        Card("OBSERVER", "O'Hara & others " * 8, "people"),
        Card("HISTORY", "written by a test " * 8),
    ]
)


@pytest.mark.parametrize(
    ("image", "b", "method"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_astropy_reads_the_same_pixels_and_accepts_the_checksums(
    tmp_path: Path, image: np.ndarray[Any, Any], b: int, method: Any
) -> None:
    path = tmp_path / "a.fits"
    written = write_image(path, image, HEADER, capacity=144, binning=b, method=method)
    expected = image if b == 1 else bin_image(image, b, method)
    with fits.open(path, checksum=True) as hdus:  # a wrong checksum is a warning, so an error
        data = hdus[0].data
        assert data.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        assert np.array_equal(data, expected)
        for keyword, value in HEADER.items():
            assert hdus[0].header[keyword] == (value.strip() if isinstance(value, str) else value)
        assert int(hdus[0].header["DATASUM"]) == written.datasum
        assert "CHECKSUM" in hdus[0].header
    assert written.size == path.stat().st_size
    assert written.shape == expected.shape
    assert written.bytes_read == image.nbytes
    assert written.size < written.bytes_written <= written.size + 6 * 2880
    assert verify_image(path).problems == ()
    assert os.listdir(tmp_path) == ["a.fits"]


@pytest.mark.needs("fitsverify")
def test_fitsverify_finds_neither_errors_nor_warnings(tmp_path: Path) -> None:
    paths = []
    for number, (_, image, b, method) in enumerate(CASES):
        paths.append(tmp_path / f"{number}.fits")
        write_image(paths[-1], image, HEADER, capacity=50, binning=b, method=method)
    command = ["fitsverify", "-q", *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    verdicts = [line for line in result.stdout.splitlines() if line.strip()]
    assert len(verdicts) == len(CASES)
    assert [line for line in verdicts if "verification OK" not in line] == []


@pytest.mark.needs("fitsverify")
def test_an_undefined_value_is_no_error_to_fitsverify(tmp_path: Path) -> None:
    write_image(tmp_path / "a.fits", frame(), [Card("CCD-TEMP", None, "not known", "deg C")])
    command = ["fitsverify", "-e", str(tmp_path / "a.fits")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "0 error(s)" in result.stdout


def test_a_pipeline_can_add_cards_without_moving_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    write_image(path, frame(), HEADER, capacity=144)
    before, inode = path.read_bytes(), path.stat().st_ino
    with fits.open(path, mode="update") as hdus:
        free = 144 - len(HEADER.to_bytes().split(b"END   ")[0]) // 80 - 20
        for number in range(free):
            hdus[0].header[f"ADDED{number}"] = number
    after = path.read_bytes()
    assert len(after) == len(before)
    assert path.stat().st_ino == inode
    assert after[5 * 2880 :] == before[5 * 2880 :]
    assert fits.getheader(path)[f"ADDED{free - 1}"] == free - 1


@pytest.mark.parametrize("keyword", [*sorted(STRUCTURAL), "NAXIS1", "NAXIS3"])
def test_structural_cards_are_the_writers_own(tmp_path: Path, keyword: str) -> None:
    with pytest.raises(ValueError, match=keyword):
        write_image(tmp_path / "a.fits", frame(), [Card(keyword, 1)])
    assert os.listdir(tmp_path) == []


def test_a_keyword_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="A comes twice"):
        write_image(tmp_path / "a.fits", frame(), [Card("A", 1), Card("A", 2)])


def test_a_binning_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="binning 5 does not divide an image of 78 x 64"):
        write_image(tmp_path / "a.fits", frame(), binning=5)
    assert os.listdir(tmp_path) == []


def test_an_existing_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        write_image(path, frame())
    assert path.read_text() == "precious"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        write_image(path, frame())
    assert os.listdir(tmp_path) == ["a.fits"]


def test_a_name_taken_while_writing_is_not_replaced_either(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    with pytest.raises(FileExistsError):
        write_image(path, frame(), on_consumed=lambda: path.write_text("precious") and None)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["a.fits"]


def test_the_source_may_be_reused_before_the_file_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    image = frame(700, 801)
    expected = image.copy()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        events.append("fsync")
        real(descriptor)

    def consumed() -> None:
        events.append("consumed")
        image[:] = 0

    monkeypatch.setattr(os, "fsync", fsync)
    write_image(tmp_path / "a.fits", image, on_consumed=consumed)
    assert events == ["consumed", "fsync", "fsync"]  # the file, then the folder
    assert np.array_equal(fits.getdata(tmp_path / "a.fits"), expected)
    events.clear()
    write_image(tmp_path / "b.fits", image, fsync=False)
    assert events == []


def test_no_name_before_the_content_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.fits"
    seen: list[bool] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append(path.exists())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_image(path, frame())
    assert seen == [False, True]


# --- faults --------------------------------------------------------------------------------------


def test_more_than_the_disk_has_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    endless = np.broadcast_to(np.uint16(0), (10**7, 10**7))
    with pytest.raises(StorageError, match=r"a\.fits: \d+ MB free in .*, 200000000 MB needed") as e:
        write_image(tmp_path / "a.fits", endless)
    assert e.value.code is Code.NO_SPACE
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, Code.NO_SPACE),
        (errno.EDQUOT, Code.NO_SPACE),
        (errno.EIO, Code.STORAGE_FAILED),
    ],
)
@pytest.mark.parametrize("call", ["write", "pwrite", "fsync"])
def test_a_failing_disk_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: Code, call: str
) -> None:
    real, calls = getattr(os, call), []

    def failing(*arguments: Any) -> Any:
        calls.append(call)
        if len(calls) >= (3 if call == "write" else 1):
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(StorageError) as caught:
        write_image(tmp_path / "a.fits", frame(700, 801))
    assert caught.value.code is code
    assert os.strerror(number) in caught.value.message
    assert str(tmp_path / "a.fits") in caught.value.message
    assert "\n" not in caught.value.message
    assert os.listdir(tmp_path) == []


def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:1000]))
    image = frame()
    write_image(tmp_path / "a.fits", image)
    assert np.array_equal(fits.getdata(tmp_path / "a.fits"), image)


def test_a_read_only_folder_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StorageError, match=r"cannot write .*a\.fits .*Read-only file system"):
        write_image(tmp_path / "a.fits", frame())


def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"a\.fits .*folder .*gone.* is gone"):
        write_image(tmp_path / "gone" / "a.fits", frame())


def test_a_folder_that_vanishes_while_writing_is_a_storage_error(tmp_path: Path) -> None:
    folder = tmp_path / "night"
    folder.mkdir()
    with pytest.raises(StorageError, match=r"folder .*night is gone"):
        write_image(folder / "a.fits", frame(), on_consumed=lambda: shutil.rmtree(folder))


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "a.fits", frame(), on_consumed=interrupt)
    assert os.listdir(tmp_path) == []


CHILD = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
from nightjar.errors import StorageError
from nightjar.fits.writer import write_image
folder, mode = Path(sys.argv[1]), sys.argv[2]
image = np.arange(700 * 801, dtype=np.uint16).reshape(700, 801)
if mode == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
    try:
        write_image(folder / "a.fits", image)
    except StorageError as error:
        print(error.message)
elif mode == "kill":
    write_image(folder / "a.fits", image, on_consumed=lambda: os.kill(os.getpid(), signal.SIGKILL))
else:
    for number in range(100_000):
        write_image(folder / f"{number:06d}.fits", image)
        print(number, flush=True)
"""


def child(folder: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(folder), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_real_limit_of_the_file_size_leaves_nothing(tmp_path: Path) -> None:
    with child(tmp_path, "limit") as process:
        output, _ = process.communicate(timeout=30)
    assert "File too large" in output
    assert output.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_kill_in_mid_write_leaves_no_name_and_does_not_hinder_the_next(tmp_path: Path) -> None:
    with child(tmp_path, "kill") as process:
        assert process.wait(timeout=30) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert files.is_temporary(left)
    # A process of the same number comes upon the leftover.
    left.rename(files.temporary_name(tmp_path / "a.fits"))
    write_image(tmp_path / "a.fits", frame())
    assert os.listdir(tmp_path) == ["a.fits"]


@pytest.mark.parametrize("after", [1, 2, 4])
def test_whatever_has_its_name_after_a_kill_is_whole(tmp_path: Path, after: int) -> None:
    with child(tmp_path, "loop") as process:
        assert process.stdout is not None
        for _ in range(after):
            process.stdout.readline()
        process.kill()
        process.wait(timeout=30)
    named = sorted(tmp_path.glob("[0-9]*.fits"))
    assert len(named) >= after
    assert [path.name for path in named if verify_image(path).problems] == []
    assert all(files.is_temporary(path) for path in tmp_path.iterdir() if path not in named)
