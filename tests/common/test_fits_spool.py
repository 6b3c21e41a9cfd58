# SPDX-License-Identifier: BSD-3-Clause
"""Spool files used again: only when nobody else can see them, and never by two."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from nightjar import files
from nightjar.errors import StorageError
from nightjar.fits import spool
from nightjar.fits.verify import verify_image
from nightjar.fits.writer import WrittenImage, write_image

PLENTY = 1 << 30
SHAPE = (300, 401)


@pytest.fixture
def folder() -> Path:
    """Return an empty folder on the RAM disk."""
    path = Path(os.environ["MILK_SHM_DIR"]) / "spool"
    path.mkdir()
    assert files.is_ram_disk(path)
    return path


def image(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 65536, SHAPE, np.uint16)


def write(path: Path, seed: int, **options: Any) -> WrittenImage:
    return write_image(path, image(seed), recycle=True, **options)


HOLDER = """
import mmap, os, sys
how, path = sys.argv[1:]
fd = os.open(path, os.O_RDWR if how == "write" else os.O_RDONLY)
if how == "mmap":
    memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    os.close(fd)
    read = lambda: memory[:]
else:
    read = lambda: os.pread(fd, 1 << 30, 0)
print("open", flush=True)
sys.stdin.readline()
sys.stdout.buffer.write(read())
"""


class Holder:
    """Another process that has a file open."""

    def __init__(self, how: str, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, how, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"open\n"

    def sees(self) -> bytes:
        """Return the content that it has before it, and let it go."""
        return self.process.communicate(b"\n", timeout=20)[0]


@contextmanager
def held(how: str, path: Path) -> Iterator[Holder]:
    holder = Holder(how, path)
    try:
        yield holder
    finally:
        holder.process.kill()
        holder.process.communicate(timeout=20)


def test_a_spool_file_is_used_again(folder: Path) -> None:
    first = folder / "1.fits"
    assert not write(first, 1).is_recycled
    inode, size = first.stat().st_ino, first.stat().st_size
    assert spool.recycle(first, PLENTY)
    assert not first.exists()
    assert spool.pooled_bytes(folder) == size
    written = write(folder / "2.fits", 2)
    assert written.is_recycled
    assert written.path.stat().st_ino == inode
    assert spool.pooled_bytes(folder) == 0
    assert verify_image(written.path).problems == ()
    assert np.array_equal(fits.getdata(written.path), image(2))
    assert sorted(os.listdir(folder)) == [".recycle", "2.fits"]


@pytest.mark.parametrize("shape", [(10, 10), (300, 401), (900, 900)])
def test_the_size_need_not_be_the_same(folder: Path, shape: tuple[int, int]) -> None:
    write(folder / "1.fits", 1)
    assert spool.recycle(folder / "1.fits", PLENTY)
    other = np.random.default_rng(3).integers(0, 65536, shape, np.uint16)
    written = write_image(folder / "2.fits", other, recycle=True)
    assert written.is_recycled
    assert verify_image(written.path).problems == ()
    assert np.array_equal(fits.getdata(written.path), other)


def test_the_file_of_the_nearest_size_is_taken(folder: Path) -> None:
    sizes = {}
    for rows in (10, 200, 900):
        path = folder / f"{rows}.fits"
        write_image(path, np.zeros((rows, 500), np.uint16))
        sizes[path.stat().st_ino] = rows
    for rows in sizes.values():
        assert spool.recycle(folder / f"{rows}.fits", PLENTY)
    written = write_image(folder / "a.fits", np.ones((210, 500), np.uint16), recycle=True)
    assert sizes[written.path.stat().st_ino] == 200


@pytest.mark.parametrize("how", ["read", "write", "mmap"])
def test_a_file_that_somebody_has_open_is_deleted_and_stays_as_it_is(
    folder: Path, how: str
) -> None:
    path = folder / "1.fits"
    write(path, 1)
    content = path.read_bytes()
    with held(how, path) as holder:
        assert spool.recycle(path, PLENTY) is False
        assert not path.exists()
        assert spool.pooled_bytes(folder) == 0
        assert not write(folder / "2.fits", 2).is_recycled
        assert holder.sees() == content


@pytest.mark.parametrize("how", ["read", "mmap"])
def test_a_file_opened_in_the_pool_is_not_written(folder: Path, how: str) -> None:
    write(folder / "1.fits", 1)
    content = (folder / "1.fits").read_bytes()
    assert spool.recycle(folder / "1.fits", PLENTY)
    (pooled,) = (folder / spool.POOL_NAME).iterdir()
    with held(how, pooled) as holder:
        assert not write(folder / "2.fits", 2).is_recycled
        assert holder.sees() == content
    assert spool.pooled_bytes(folder) == 0


def test_a_mapping_of_this_process_counts_too(folder: Path) -> None:
    path = folder / "1.fits"
    write(path, 1)
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    assert spool.recycle(path, PLENTY) is False
    memory.close()


def test_a_file_with_a_second_name_is_only_unlinked(folder: Path) -> None:
    path = folder / "1.fits"
    write(path, 1)
    os.link(path, folder / "archive.fits")
    assert spool.recycle(path, PLENTY) is False
    assert verify_image(folder / "archive.fits").is_good


def test_a_name_given_in_the_pool_spoils_the_file(folder: Path) -> None:
    write(folder / "1.fits", 1)
    assert spool.recycle(folder / "1.fits", PLENTY)
    (pooled,) = (folder / spool.POOL_NAME).iterdir()
    os.link(pooled, folder / "saved.fits")
    assert not write(folder / "2.fits", 2).is_recycled
    assert np.array_equal(fits.getdata(folder / "saved.fits"), image(1))


def test_the_pool_has_a_limit(folder: Path) -> None:
    paths = [write(folder / f"{number}.fits", number).path for number in range(3)]
    size = paths[0].stat().st_size
    assert [spool.recycle(path, 2 * size) for path in paths] == [True, True, False]
    assert spool.pooled_bytes(folder) == 2 * size
    assert spool.clear(folder) == 2 * size
    assert spool.pooled_bytes(folder) == 0


def test_only_on_a_ram_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not files.is_ram_disk(Path("/proc"))
    with pytest.raises(FileNotFoundError):
        files.is_ram_disk(folder / "none")
    write(folder / "1.fits", 1)
    monkeypatch.setattr(files, "is_ram_disk", lambda _: False)
    assert spool.recycle(folder / "1.fits", PLENTY) is False
    assert os.listdir(folder) == []


def test_links_folders_and_empty_files_are_no_spool_files(folder: Path) -> None:
    precious = folder / "precious.fits"
    write(precious, 1)
    (folder / "link.fits").symlink_to(precious)
    assert spool.recycle(folder / "link.fits", PLENTY) is False
    assert verify_image(precious).is_good
    (folder / "empty.fits").touch()
    assert spool.recycle(folder / "empty.fits", PLENTY) is False
    (folder / "folder").mkdir()
    with pytest.raises(StorageError, match=r"cannot remove spool file .*folder: Is a directory"):
        spool.recycle(folder / "folder", PLENTY)
    with pytest.raises(StorageError, match="No such file"):
        spool.recycle(folder / "gone.fits", PLENTY)


def test_an_unusable_pool_costs_speed_and_nothing_else(folder: Path) -> None:
    (folder / spool.POOL_NAME).write_text("not a folder")
    write(folder / "1.fits", 1)
    assert spool.recycle(folder / "1.fits", PLENTY) is False
    assert not write(folder / "2.fits", 2).is_recycled


def test_what_a_failed_write_took_is_gone(folder: Path) -> None:
    write(folder / "1.fits", 1)
    assert spool.recycle(folder / "1.fits", PLENTY)

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(StorageError, match="Input/output error"):
        write(folder / "2.fits", 2, on_consumed=fail)
    assert os.listdir(folder) == [".recycle"]
    assert spool.pooled_bytes(folder) == 0


def descriptor_of(name: Path) -> int:
    """Return the descriptor by which this process has a file open."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(entry) == str(name):
                return int(entry.name)
        except FileNotFoundError:
            continue
    raise AssertionError(f"{name} is not open")


def lease_of(name: Path) -> int:
    """Return the state of this process's lease on a file it has open."""
    return fcntl.fcntl(descriptor_of(name), fcntl.F_GETLEASE)


def test_no_lease_outlives_the_write_in_a_copy_of_the_descriptor(folder: Path) -> None:
    """A child forked at the wrong moment must not make readers of the new file wait."""
    write(folder / "1.fits", 1)
    assert spool.recycle(folder / "1.fits", PLENTY)
    path = folder / "2.fits"
    copies: list[int] = []
    name = files.temporary_name(path)
    assert write(path, 2, on_consumed=lambda: copies.append(os.dup(descriptor_of(name))))
    try:
        assert fcntl.fcntl(copies[0], fcntl.F_GETLEASE) == fcntl.F_UNLCK
    finally:
        os.close(copies[0])


def test_an_open_under_way_waits_for_the_whole_new_file(folder: Path) -> None:
    write(folder / "1.fits", 1)
    assert spool.recycle(folder / "1.fits", PLENTY)
    path = folder / "2.fits"
    temporary = files.temporary_name(path)
    command = [sys.executable, "-c", "import sys; sys.stdout.buffer.write(open(sys.argv[1],'rb')"
               ".read())", str(temporary)]  # fmt: skip
    readers: list[subprocess.Popen[bytes]] = []

    def somebody_opens_it() -> None:
        assert lease_of(temporary) == fcntl.F_WRLCK
        readers.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        deadline = time.monotonic() + 20
        # The kernel asks for the lease as soon as the reader's open is waiting for it.
        while lease_of(temporary) == fcntl.F_WRLCK and time.monotonic() < deadline:
            os.sched_yield()
        assert lease_of(temporary) != fcntl.F_WRLCK

    written = write(path, 2, on_consumed=somebody_opens_it)
    assert written.is_recycled
    (reader,) = readers
    with reader:
        content, _ = reader.communicate(timeout=20)
    assert reader.returncode == 0
    assert content == path.read_bytes()


TAKER = """
import os, sys
from pathlib import Path
from nightjar.fits import spool
folder, me = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
number = 0
while (fd := spool.take(folder, folder / f".{me}-{number}.tmp", 1000)) is not None:
    print(os.fstat(fd).st_ino, os.fstat(fd).st_size, flush=True)
    spool.release(fd)
    number += 1
"""


def test_two_workers_never_take_the_same_file(folder: Path) -> None:
    count = 150
    for number in range(count):
        path = folder / f"{number}.fits"
        path.write_bytes(b"garbage" * (number + 1))
        assert spool.recycle(path, PLENTY)
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, str(folder), str(me)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for me in range(3)
    ]  # fmt: skip
    for taker in takers:
        assert taker.stdout is not None
        assert taker.stdout.readline() == "ready\n"
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("\n")
        taker.stdin.flush()
    outputs = [taker.communicate(timeout=30)[0].split() for taker in takers]
    inodes = [inode for output in outputs for inode in output[0::2]]
    sizes = {size for output in outputs for size in output[1::2]}
    assert len(inodes) == len(set(inodes)) == count
    assert sizes == {"1000"}
    assert spool.pooled_bytes(folder) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_another_users_file_goes_to_the_pool_and_its_owner_proves_it(folder: Path) -> None:
    path = folder / "1.fits"
    write(path, 1)
    folder.chmod(0o777)
    folder.parent.chmod(0o755)
    script = (
        "import ctypes, os, sys; from pathlib import Path; from nightjar.fits import spool;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "print(spool.recycle(Path(sys.argv[1]), 1 << 30))"
    )
    command = [sys.executable, "-c", script, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.stdout == "True\n", result.stderr
    assert write(folder / "2.fits", 2).is_recycled
