# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar doctor``: is this machine ready to run its site?"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nightjar import __version__
from nightjar.cli.session import Session
from nightjar.cli.text import size_text
from nightjar.clock import clock_health
from nightjar.errors import ConfigError, NightjarError
from nightjar.files import free_bytes, require_folder, shared_memory_folder, state_folder
from nightjar.registry import Entry, Registry
from nightjard.site.checking import Checked, check_all, check_file
from nightjard.site.configured import Configured, is_local
from nightjard.site.looking import look
from nightjard.site.running import find_site

_MARKS = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "error": ("FAIL", "red")}
_LOW_SPACE = 5_000_000_000
_DAEMON_PACKAGES = ("numpy", "pydantic", "prometheus_client", "sqlalchemy", "alembic")
# program -> (Debian package, what for)
_PROGRAMS = {
    "fitsverify": ("fitsverify", "checks FITS files against the standard"),
    "funpack": ("libcfitsio-bin", "reads compressed FITS files"),
    "chronyc": ("chrony", "keeps this machine's clock on UTC"),
}
_INDI_PROGRAMS = {"indiserver": ("indi-bin", "runs INDI drivers")}


@dataclass(frozen=True, slots=True)
class Result:
    """What one look found."""

    level: Literal["ok", "warning", "error"]
    part: str
    text: str


def examine(session: Session) -> int:
    """Print what was found; returns 1 where something is wrong, else 0."""
    results = list(diagnose())
    lines = []
    for one in results:
        mark, color = _MARKS[one.level]
        lines.append(f"{session.paint(mark.ljust(4), color)}  {one.part.ljust(9)} {one.text}")
    wrong = sum(one.level == "error" for one in results)
    doubtful = sum(one.level == "warning" for one in results)
    lines.append(f"{len(results)} looks: {wrong} wrong, {doubtful} doubtful")
    session.result([asdict(one) for one in results], lines)
    return 1 if wrong else 0


def diagnose() -> Iterator[Result]:
    """Look at everything; each look stands alone, so that one failure hides no other."""
    yield from _python()
    try:
        chosen, registry = find_site(())
    except NightjarError as error:
        yield Result("error", "config", error.message)
        yield from _clock()
        yield from _programs(())
        return
    yield Result("ok", "registry", f"{registry.path}: {len(registry.daemons)} daemons")
    _, findings = check_all([registry.path, *(one.path for one in chosen)])
    for finding in findings:
        yield Result(finding.level, "config", f"{finding.path}: {finding.text}")
    checked = [one for one in (check_file(each)[0] for each in chosen) if one is not None]
    yield Result("ok", "config", f"{len(checked)} of {len(chosen)} files are valid")
    local = [one for one in checked if is_local(one.registry.daemon(one.config.daemon).bind)]
    for one in chosen:
        yield from _port(one, registry)
    yield from _folders(local)
    yield from _shared_memory(local)
    yield from _clock()
    yield from _programs(local)


def _python() -> Iterator[Result]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Result("ok", "nightjar", f"{__version__} with Python {version} in {sys.prefix}")
    missing = [name for name in _DAEMON_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        yield Result(
            "error", "packages",
            f"{', '.join(missing)} missing: daemons cannot run; pip install 'nightjar[daemons]'",
        )  # fmt: skip


def _port(configured: Configured, registry: Registry) -> Iterator[Result]:
    try:
        entry = configured.entry(registry)
    except ConfigError:
        return  # was told with the configuration
    where = f"{entry.bind}:{entry.port}"
    if not is_local(entry.bind):
        seen = look(entry)
        level: Literal["ok", "warning"] = "warning" if seen["summary"] == "OFFLINE" else "ok"
        yield Result(level, "port", f"{configured.label} on {entry.machine}: {seen['summary']}")
        return
    if is_free(entry):
        yield Result("ok", "port", f"{where} is free for {configured.label}")
        return
    seen = look(entry)
    if seen.get("daemon") == entry.name:
        yield Result("ok", "port", f"{where} is {configured.label}, {seen['summary']}")
        return
    yield Result(
        "error", "port", f"{where} of {configured.label} is used by {who_listens(entry.port)}"
    )


def is_free(entry: Entry) -> bool:
    """Tell whether a daemon could listen at its address now."""
    family = socket.AF_INET6 if ":" in entry.bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((entry.bind, entry.port))
        except OSError:
            return False
    return True


def who_listens(port: int) -> str:
    """Return who listens on a TCP port, as far as /proc lets this user see."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            cells = row.split()
            if cells[3] == "0A" and int(cells[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{cells[9]}]")
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and inodes & _open_files(folder):
            try:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue  # ended meanwhile
            return f"process {folder.name} ({words[:120]})"
    return "a process of another user" if inodes else "nobody any more"


def _open_files(folder: Path) -> set[str]:
    """Return what a process has open; nothing for another user's, or one that has ended."""
    links = set()
    with contextlib.suppress(OSError):
        for each in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                links.add(os.readlink(each))
    return links


def _folders(checked: Sequence[Checked]) -> Iterator[Result]:
    folders: dict[Path, str] = {state_folder(): "state"}
    for one in checked:
        label = one.configured.label
        for key in ("output_path", "incoming_data_path"):
            if hasattr(one.config, key):
                folders.setdefault(getattr(one.config, key), f"{key} of {label}")
        if hasattr(one.config, "expcount_path"):
            folders.setdefault(one.config.expcount_path.parent, f"expcount_path of {label}")
        if hasattr(one.config, "root"):
            root = one.config.root
            folders.setdefault(root if root.exists() else root.parent, f"root of {label}")
    for folder, purpose in folders.items():
        try:
            require_folder(folder, purpose)
            free = free_bytes(folder)
        except (NightjarError, OSError) as error:
            yield Result("error", "folder", str(error))
            continue
        level: Literal["ok", "warning"] = "warning" if free < _LOW_SPACE else "ok"
        yield Result(level, "folder", f"{folder} ({purpose}): {size_text(free)} free")


def _shared_memory(checked: Sequence[Checked]) -> Iterator[Result]:
    needed = sum(getattr(one.config, "framebuffer_bytes", 0) for one in checked)
    rings = sum(getattr(one.config, "ring_bytes", 0) for one in checked)
    if not needed and not rings:
        return
    folder = shared_memory_folder()
    try:
        stat = os.statvfs(folder)
    except OSError as error:
        yield Result("error", "memory", f"{folder}: {error.strerror}")
        return
    size, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    text = f"{folder}: {size_text(size)}, {size_text(free)} free; buffers need {size_text(needed)}"
    if rings:
        text += f", streams of fast cameras up to {size_text(rings)}"
    if needed > size:
        yield Result("error", "memory", f"{text}: too small; mount it larger, or fewer slots")
    elif needed + rings > free:
        yield Result("warning", "memory", f"{text} (unless the daemons run already)")
    else:
        yield Result("ok", "memory", text)
    memory = _available_memory()
    if memory is not None and memory < needed:
        yield Result(
            "warning", "memory", f"{size_text(memory)} of memory available, less than the buffers"
        )


def _available_memory() -> int | None:
    try:
        rows = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for row in rows:
        if row.startswith("MemAvailable:"):
            return int(row.split()[1]) * 1024
    return None


def _clock() -> Iterator[Result]:
    health = clock_health()
    if not health.is_synchronised:
        yield Result(
            "warning", "clock",
            "not synchronised: frames will say so (apt install chrony, where there is a network)",
        )  # fmt: skip
        return
    error = health.maximum_error_s
    bound = f", at most {1000 * error:.1f} ms off" if error is not None else ""
    yield Result("ok", "clock", f"synchronised{bound}")


def _programs(checked: Sequence[Checked]) -> Iterator[Result]:
    wanted = dict(_PROGRAMS)
    if any(_driver_name(one.config) == "indi" for one in checked):
        wanted |= _INDI_PROGRAMS
    for program, (package, purpose) in wanted.items():
        if shutil.which(program):
            yield Result("ok", "program", f"{program} ({purpose})")
        else:
            yield Result(
                "warning", "program", f"{program} is missing ({purpose}): apt install {package}"
            )


def _driver_name(config: Any) -> str | None:
    return getattr(getattr(config, "driver", None), "name", None)

