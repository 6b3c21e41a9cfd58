# SPDX-License-Identifier: BSD-3-Clause
"""The tools that make the environment, and the test tools themselves."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from kit import leftovers

PROJECT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tool_{name}", PROJECT / f"tools/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bootstrap = load("bootstrap")
debian_packages = load("debian_packages")


# --- bootstrap ---------------------------------------------------------------------------------


def simple_page(*links: str) -> bytes:
    return ("<!DOCTYPE html><html><body>" + "".join(links) + "</body></html>").encode()


def link(name: str, digest: str = "a" * 64, attributes: str = "") -> str:
    return f'<a href="../../files/{name}#sha256={digest}" {attributes}>{name}</a>'


def test_newest_pip_is_by_version_and_not_by_place_or_text() -> None:
    page = simple_page(
        link("pip-9.0.3-py2.py3-none-any.whl"),
        link("pip-9.0.3-py3-none-any.whl"),
        link("pip-24.10-py3-none-any.whl", "b" * 64),
        link("pip-24.9.1-py3-none-any.whl"),
        link("pip-25.0b1-py3-none-any.whl"),
        link("pip-26.0-py3-none-any.whl", attributes='data-yanked="broken"'),
        link("pip-27.0-py3-none-any.whl", attributes='data-requires-python="&gt;=3.99"'),
        '<a href="pip-28.0-py3-none-any.whl">no digest</a>',
        link("pip-29.0.tar.gz"),
    )
    url, name, digest = bootstrap.newest_pip_wheel("https://index.test/simple/pip/", page)
    assert (url, name) == ("https://index.test/files/pip-24.10-py3-none-any.whl", url[-26:])
    assert digest == "b" * 64


def test_page_without_a_checkable_wheel_is_refused() -> None:
    with pytest.raises(bootstrap.BootstrapError, match="no pip wheel"):
        bootstrap.newest_pip_wheel("https://index.test/", simple_page("<a href='x.whl'>x</a>"))


@pytest.mark.parametrize(
    ("requirement", "admitted"),
    [("", True), (">=3.9", True), (">=3.9,<4", True), ("!=3.0.*,>=3.2", True), ("<3", False),
     (">=4", False), ("~=3.9", False), ("nonsense", False)],
)  # fmt: skip
def test_requires_python(requirement: str, admitted: bool) -> None:
    assert bootstrap.allows_this_python(requirement) is admitted


def local_index(folder: Path, content: bytes, digest: str) -> str:
    page = folder / "simple" / "pip" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_bytes(simple_page(f'<a href="../w/pip-30.0-py3-none-any.whl#sha256={digest}">p</a>'))
    wheel = folder / "simple" / "w" / "pip-30.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(content)
    return (folder / "simple").as_uri()


def test_pip_wheel_with_another_digest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", local_index(tmp_path, b"altered", "0" * 64))
    with pytest.raises(bootstrap.BootstrapError, match="sha256"):
        bootstrap.download_pip(tmp_path)


def test_pip_wheel_comes_from_the_configured_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"a wheel"
    url = local_index(tmp_path, content, hashlib.sha256(content).hexdigest())
    configuration = tmp_path / "pip.conf"
    configuration.write_text(f"[global]\nindex-url = {url}\n")
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    assert bootstrap.download_pip(tmp_path).read_bytes() == content


def test_without_any_index_one_line_names_it_but_not_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://user:secret@127.0.0.1:{free_port}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (tmp_path / "none").as_uri())
    with pytest.raises(bootstrap.BootstrapError) as refusal:
        bootstrap.download_pip(tmp_path)
    text = str(refusal.value)
    assert f"127.0.0.1:{free_port}" in text
    assert "refused" in text
    assert "secret" not in text
    assert "\n" not in text


def test_extras_hold_what_they_pull_in_and_unknown_ones_are_refused() -> None:
    assert {"dev", "daemons", "postgres"} <= bootstrap.contained_extras(["dev"])
    with pytest.raises(bootstrap.BootstrapError, match=r"nosuch.*daemons"):
        bootstrap.contained_extras(["nosuch"])


def test_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(bootstrap.BootstrapError, match="no virtual environment"):
        bootstrap.make_environment(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def write_stamp(venv: Path, **values: object) -> None:
    (venv / bootstrap.STAMP).write_text(json.dumps({"fingerprint": "x", "extras": [], **values}))


def test_extra_without_what_it_is_built_with_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(bootstrap, "install_project", None)  # must not be called
    write_stamp(tmp_path)
    bootstrap.try_extra(tmp_path, "aravis")
    told = capsys.readouterr().out
    assert "without extra aravis" in told
    assert "pkg-config, cc" in told
    with pytest.raises(bootstrap.BootstrapError, match="nosuch"):
        bootstrap.try_extra(tmp_path, "nosuch")


def test_extra_that_does_not_build_is_tried_once_and_one_that_does_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = []

    def fail(python: Path, extras: list[str], *, quiet: bool) -> None:
        tries.append(extras)
        raise bootstrap.BootstrapError("cairo.h: no such file")

    monkeypatch.setattr(bootstrap, "missing_for", lambda name: "")
    monkeypatch.setattr(bootstrap, "install_project", fail)
    write_stamp(tmp_path, extras=["dev"])
    for _ in range(2):
        bootstrap.try_extra(tmp_path, "aravis")
        assert "cairo.h: no such file" in capsys.readouterr().out
    assert tries == [["aravis", "dev"]]
    assert bootstrap.read_stamp(tmp_path)["extras"] == ["dev"]
    write_stamp(tmp_path, extras=["dev"])
    monkeypatch.setattr(bootstrap, "install_project", lambda *_, **__: None)
    bootstrap.try_extra(tmp_path, "aravis")
    assert bootstrap.read_stamp(tmp_path)["extras"] == ["aravis", "dev"]


# --- Debian packages and the needs marker ------------------------------------------------------


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert debian_packages.find_program("fitsverify") is None
    assert debian_packages.missing_packages(["fpack", "funpack"]) == ["libcfitsio-bin"]


def test_a_file_is_found_by_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.typelib").touch()
    assert debian_packages.find_program(f"{tmp_path}/*/a.typelib") == f"{tmp_path}/lib/a.typelib"
    assert debian_packages.find_program(f"{tmp_path}/*/b.typelib") is None


def test_install_without_root_or_apt_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "no Debian" in debian_packages.install(["indi-bin"])
    monkeypatch.setattr(debian_packages.shutil, "which", lambda name: name == "apt-get" or None)
    monkeypatch.setattr(debian_packages.os, "geteuid", lambda: 1000)
    assert "passwordless sudo" in debian_packages.install(["indi-bin"])


INNER = '''
import os, subprocess, threading, time
import pytest

@pytest.mark.needs("fitsverify")
def test_skipped(): raise AssertionError

def test_child(): subprocess.Popen(["/bin/sleep", "60"])

def test_orphan(): subprocess.run(["/bin/sh", "-c", "/bin/sleep 61 >/dev/null 2>&1 &"])

def test_thread(): threading.Thread(target=time.sleep, args=(60,), name="owl", daemon=True).start()

def test_folders():
    assert os.path.isdir(os.environ["NIGHTJAR_STATE_ROOT"])
    assert os.environ["MILK_SHM_DIR"].startswith("/dev/shm/nightjar-test-")
    assert "CAMD_CONFIG_ROOT" not in os.environ
'''


def test_conftest_skips_with_the_package_and_fails_leftovers(tmp_path: Path) -> None:
    for name in ("conftest.py", "kit/leftovers.py", "kit/ports.py"):
        target = tmp_path / "tests" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (PROJECT / "tests" / name).read_text()
        target.write_text(text.replace("GRACE_S = 15", "GRACE_S = 0"))
    (tmp_path / "tools").symlink_to(PROJECT / "tools")
    (tmp_path / "tests" / "test_inner.py").write_text(INNER)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = tests\naddopts = --import-mode=importlib -p no:asyncio\n"
        "markers = needs(*programs): x\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**os.environ, "PATH": "/nonexistent", "CAMD_CONFIG_ROOT": "/etc/mine"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "4 passed, 1 skipped, 3 errors" in done.stdout, done.stdout
    assert "missing Debian packages: fitsverify (1 skipped)" in done.stdout
    assert "left processes running" in done.stdout
    assert "/bin/sleep 60" in done.stdout
    assert "/bin/sleep 61" in done.stdout
    assert "left threads running: owl" in done.stdout


def test_leftovers_finds_a_child_and_spares_what_was_there() -> None:
    before = leftovers.all_pids()
    token = os.environ[leftovers.TOKEN_NAME]
    child = subprocess.Popen(["sleep", "60"], env={})  # no token: found as a child
    try:
        (found,) = leftovers.live_processes(before, token)
        assert found.pid == child.pid
        assert leftovers.live_processes(before | {child.pid}, token) == []
        leftovers.end_processes([found], token)
        assert child.wait(timeout=10) == -9
        assert leftovers.wait_for_processes(before, token, 5.0) == []
    finally:
        child.kill()
        child.wait(timeout=10)


def test_leftover_threads_are_waited_for_a_moment_only() -> None:
    before = set(threading.enumerate())
    end = threading.Event()
    thread = threading.Thread(target=end.wait, args=(60,))
    thread.start()
    assert leftovers.wait_for_threads(before, 0.01) == [thread]
    end.set()
    assert leftovers.wait_for_threads(before, 5.0) == []
