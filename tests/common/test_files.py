# SPDX-License-Identifier: BSD-3-Clause
"""Files that are whole or not there, locks, folders."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nightjar import files
from nightjar.errors import Code, Refused, StorageError
from nightjar.files import (
    free_bytes,
    is_safe_name,
    is_temporary,
    locked,
    rename_new,
    require_folder,
    require_space,
    shared_memory_folder,
    shipped_folder,
    state_folder,
    temporary_name,
    write_durably,
    write_json_durably,
)


def test_a_new_file_is_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    write_durably(tmp_path / "a.fits", data)
    assert (tmp_path / "a.fits").read_bytes() == data
    assert os.listdir(tmp_path) == ["a.fits"]


def test_an_existing_file_is_never_replaced_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("first")
    with pytest.raises(FileExistsError):
        write_durably(path, b"second")
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["a"]
    write_durably(path, b"second", replace=True)
    assert path.read_text() == "second"
    assert os.listdir(tmp_path) == ["a"]


def test_the_order_is_file_then_name_then_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    path = tmp_path / "a"
    real_fsync, real_rename = os.fsync, files.rename_new

    def fsync(descriptor: int) -> None:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        steps.append(("fsync", "folder" if target == str(tmp_path) else "file", path.exists()))
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        steps.append(("rename", source.name, target.exists()))
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(files, "rename_new", rename)
    write_durably(path, b"x")
    assert steps == [
        ("fsync", "file", False),
        ("rename", temporary_name(path).name, False),
        ("fsync", "folder", True),
    ]


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def full(_descriptor: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new", replace=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    write_durably(tmp_path / "a", b"0123456789" * 10)
    assert (tmp_path / "a").read_bytes() == b"0123456789" * 10


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json_durably(path, {"b": [1, None], "a": "ü"})
    write_json_durably(path, {"b": [2, None], "a": "ü"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "ü", "b": [2, None]}
    assert "ü" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("has_renameat2", [True, False])
def test_renaming_never_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_renameat2: bool
) -> None:
    if not has_renameat2:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_named: object())
    source, target = tmp_path / "s", tmp_path / "t"
    source.write_text("new")
    rename_new(source, target)
    assert (target.read_text(), source.exists()) == ("new", False)
    source.write_text("newer")
    with pytest.raises(FileExistsError):
        rename_new(source, target)
    assert (target.read_text(), source.read_text()) == ("new", "newer")
    with pytest.raises(FileNotFoundError):
        rename_new(tmp_path / "none", tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        rename_new(source, tmp_path / "none" / "t")


@pytest.mark.parametrize("has_renameat2", [True, False])
def test_renaming_a_folder_never_replaces_not_even_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_renameat2: bool
) -> None:
    if not has_renameat2:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_named: object())
    source, target, empty = tmp_path / "s", tmp_path / "t", tmp_path / "empty"
    source.mkdir()
    empty.mkdir()
    (source / "file").write_text("new")
    with pytest.raises(FileExistsError):
        rename_new(source, empty)
    assert (os.listdir(source), os.listdir(empty)) == (["file"], [])
    rename_new(source, target)
    assert (os.listdir(target), source.exists()) == (["file"], False)
    with pytest.raises(FileNotFoundError):
        rename_new(source, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_file_systems_without_the_flag_are_served_by_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Libc:
        def renameat2(self, *_args: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_named: Libc())
    (tmp_path / "s").write_text("x")
    rename_new(tmp_path / "s", tmp_path / "t")
    assert os.listdir(tmp_path) == ["t"]


def test_of_many_that_want_one_name_one_wins(tmp_path: Path) -> None:
    target = tmp_path / "t"
    wins = []
    start = threading.Barrier(8)

    def race(number: int) -> None:
        source = tmp_path / f"s{number}"
        source.write_text(str(number))
        start.wait(5)
        try:
            rename_new(source, target)
            wins.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(wins) == 1
    assert target.read_text() == str(wins[0])
    assert len(os.listdir(tmp_path)) == 8


def test_temporary_names(tmp_path: Path) -> None:
    name = temporary_name(tmp_path / "frame.fits")
    assert name.parent == tmp_path
    assert is_temporary(name)
    assert name.name.startswith(".")
    assert not is_temporary(tmp_path / "frame.fits")
    assert not is_temporary(tmp_path / ".hidden")
    assert not is_temporary(tmp_path / "my.tmp")


@pytest.mark.parametrize(
    ("name", "is_safe"),
    [("test", True), ("a.b_c-d+1", True), ("9", True), ("x" * 200, True), ("x" * 201, False),
     ("", False), (".", False), ("..", False), (".hidden", False), ("a/b", False), ("/etc", False),
     ("a b", False), ("a\n", False), ("a\0", False), ("-rf", False), ("ä", False), ("a;b", False),
     ("$(x)", False)],
)  # fmt: skip
def test_names_that_may_become_paths(name: str, is_safe: bool) -> None:
    assert is_safe_name(name) is is_safe


# --- locks ---------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, "camd test"):
        assert path.read_text() == f"{os.getpid()}\n"
        with (
            pytest.raises(Refused, match=rf"camd test is already running \(pid {os.getpid()}"),
            locked(path, "camd test"),
        ):
            pass
    with locked(path, "camd test"):
        pass


HOLDER = """
import os, sys
from pathlib import Path
from nightjar.files import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_ends_with_its_process_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Refused) as refusal, locked(path, "it"):
            pass
        assert refusal.value.detail["pid"] == str(holder.pid)
        holder.kill()
    with locked(path, "it"):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_child_that_holds_the_descriptor_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, "it") as descriptor:
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            pass_fds=[descriptor],
        )
    try:
        with pytest.raises(Refused), locked(path, "it"):
            pass
    finally:
        child.communicate(timeout=10)
    with locked(path, "it"):
        pass


# --- folders -------------------------------------------------------------------------------------


def test_a_folder_that_can_be_written(tmp_path: Path) -> None:
    require_folder(tmp_path, "frames")
    assert os.listdir(tmp_path) == []


def test_folders_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"frames: folder .*none does not exist"):
        require_folder(tmp_path / "none", "frames")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file is no folder; move it aside"):
        require_folder(tmp_path / "file", "frames")

    def read_only(*_args: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)  # the tests may run as root, whom no mode stops
    with pytest.raises(StorageError, match=r"cannot write in .*Read-only file system"):
        require_folder(tmp_path, "frames")


def test_space(tmp_path: Path) -> None:
    free = free_bytes(tmp_path)
    assert 0 < free < 2**60
    require_space(tmp_path, free // 2, "frames")
    with pytest.raises(StorageError, match=r"frames: \d+ MB free in .*, \d+ MB needed") as refusal:
        require_space(tmp_path, free * 2, "frames")
    assert refusal.value.code is Code.NO_SPACE
    assert refusal.value.detail["needed_bytes"] == free * 2


def test_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/systemd:{tmp_path}/second")
    monkeypatch.setenv("NIGHTJAR_STATE_ROOT", str(tmp_path / "own"))
    assert state_folder() == tmp_path / "own"
    monkeypatch.delenv("NIGHTJAR_STATE_ROOT")
    assert state_folder() == tmp_path / "systemd"
    monkeypatch.delenv("STATE_DIRECTORY")
    assert state_folder() == tmp_path / "xdg" / "nightjar"
    assert state_folder().is_dir()


def test_a_state_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NIGHTJAR_STATE_ROOT", str(tmp_path / "file" / "state"))
    with pytest.raises(StorageError, match="cannot be made: Not a directory; set NIGHTJAR_STATE"):
        state_folder()


def test_shared_memory_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILK_SHM_DIR", str(tmp_path))
    assert shared_memory_folder() == tmp_path
    monkeypatch.setenv("MILK_SHM_DIR", str(tmp_path / "none"))
    assert shared_memory_folder() in (Path("/milk/shm"), Path("/dev/shm"))


def test_shipped_folders() -> None:
    assert (shipped_folder("etc") / "nightjar" / "registry.json").is_file()
    with pytest.raises(StorageError, match="nosuch"):
        shipped_folder("nosuch")
