# SPDX-License-Identifier: BSD-3-Clause
"""What every test gets: folders of its own, no leftovers, honest skips, reproducible examples."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from kit import leftovers, ports

if TYPE_CHECKING:
    from kit.sshd import Sshd

PROJECT = Path(__file__).resolve().parent.parent
# Hundreds of daemons are started: each would compile its hundred modules again, and each worker
# all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
GRACE_S = 15.0
SHM_PARENT = Path("/dev/shm")
SHM_PREFIX = "nightjar-test-"
# Settings of the person who runs the tests must not reach them.
FOREIGN_VARIABLES = re.compile(
    r"NIGHTJAR_.*|\w+_CONFIG_ROOT|MILK_SHM_DIR|NOTIFY_SOCKET|WATCHDOG_(USEC|PID)|LISTEN_\w+"
    r"|(STATE|RUNTIME|CACHE|LOGS|CONFIGURATION)_DIRECTORY|INVOCATION_ID|JOURNAL_STREAM|PYRO_\w+"
)
SKIP_REASON = "needs {program}: Debian package {package}"
SKIP_PATTERN = re.compile(r"needs (\S+): Debian package ([\w.+-]+)")

# `make soak` asks for more examples than a run of minutes can afford.
EXAMPLES = 500 if os.environ.get("NIGHTJAR_TESTS") == "long" else 40
settings.register_profile(
    "default", deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow]
)
# In CI the same examples every time: a red run must be red again when it is looked into.
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")


# --- tests that need a program -----------------------------------------------------------------


def _load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tools_{name}", PROJECT / f"tools/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


debian_packages = _load_tool("debian_packages")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose program is not installed, naming the Debian package that holds it."""
    for item in items:
        for marker in item.iter_markers("needs"):
            for program in marker.args:
                if program not in debian_packages.PACKAGES:
                    raise pytest.UsageError(
                        f"{item.nodeid} needs {program!r}: add it to tools/debian_packages.py"
                    )
                if debian_packages.find_program(program) is None:
                    package = debian_packages.package_of(program)
                    reason = SKIP_REASON.format(program=program, package=package)
                    item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Leave the tests and all that they import out of every later search for garbage."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line which Debian packages are missing and what that left untested."""
    missing: Counter[str] = Counter()
    # Under xdist only the reports come back from the workers, so the reasons are read from them.
    for report in terminalreporter.stats.get("skipped", []):
        match = SKIP_PATTERN.search(str(report.longrepr))
        if match:
            missing[match[2]] += 1
    if missing:
        counted = ", ".join(f"{name} ({count} skipped)" for name, count in sorted(missing.items()))
        terminalreporter.write_line(f"missing Debian packages: {counted}", yellow=True)
        command = f"sudo apt-get install --no-install-recommends {' '.join(sorted(missing))}"
        terminalreporter.write_line(f"install them: {command}")


# --- folders of its own for every test ---------------------------------------------------------


def _sweep_shm() -> None:
    """Remove the stream folders of test runs that were killed: they hold memory."""
    for folder in SHM_PARENT.glob(f"{SHM_PREFIX}*"):
        owner = folder.name.removeprefix(SHM_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _private_folders(patch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    for name in list(os.environ):
        if FOREIGN_VARIABLES.fullmatch(name) and name != leftovers.TOKEN_NAME:
            patch.delenv(name)
    base = Path(tempfile.mkdtemp(prefix="nightjar-test-"))
    shm = Path(tempfile.mkdtemp(prefix=f"{SHM_PREFIX}{os.getpid()}-", dir=SHM_PARENT))
    for variable, name in (("NIGHTJAR_STATE_ROOT", "state"), ("NIGHTJAR_CONFIG_ROOT", "etc")):
        (base / name).mkdir()
        patch.setenv(variable, str(base / name))
    patch.setenv("MILK_SHM_DIR", str(shm))
    return base, shm


@pytest.fixture(scope="session", autouse=True)
def _session_folders() -> Iterator[str]:
    """Folders and token for what fixtures of a wider scope start, and an end to all leftovers."""
    _sweep_shm()
    before = leftovers.all_pids()
    token = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(leftovers.TOKEN_NAME, token)
        folders = _private_folders(patch)
        yield token
    left = leftovers.wait_for_processes(before, token, GRACE_S)
    leftovers.end_processes(left, token)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    if left:
        pytest.fail("a fixture left processes running: " + ", ".join(map(str, left)), pytrace=False)


@pytest.fixture(autouse=True)
def _private(_session_folders: str) -> Iterator[None]:
    """Give the test its own state, configuration and stream folders; fail it for leftovers."""
    pids, threads = leftovers.all_pids(), set(threading.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        folders = _private_folders(patch)
        yield
    processes = leftovers.wait_for_processes(pids, _session_folders, GRACE_S)
    leftovers.end_processes(processes, _session_folders)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    live = leftovers.wait_for_threads(threads, GRACE_S)
    if processes:
        names = ", ".join(map(str, processes))
        pytest.fail(f"the test left processes running: {names}", pytrace=False)
    if live:
        names = ", ".join(thread.name for thread in live)
        pytest.fail(f"the test left threads running: {names}", pytrace=False)


# --- ports -------------------------------------------------------------------------------------


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """Return a function that gives `count` different free TCP ports of the loopback."""
    return ports.free_ports


@pytest.fixture
def free_port(free_ports: Callable[[int], list[int]]) -> int:
    """Return one free TCP port of the loopback."""
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd on the loopback; the module must say that it needs its programs."""
    from kit.sshd import Sshd

    made = Sshd(tmp_path_factory.mktemp("ssh") / "d", *ports.free_ports(1))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def kept_workers(_session_folders: str) -> Iterator[None]:
    """Real worker processes of the pipeline for all tests of a module."""
    from kit.kept_workers import kept_workers

    with kept_workers():
        yield
