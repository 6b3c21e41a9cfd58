# SPDX-License-Identifier: BSD-3-Clause
"""The real programs rsync and ssh: their command lines, their progress, what their ends mean."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nightjar.errors import Code, ConfigError, NightjarError, StorageError, TimedOut, Unreachable
from nightjard.archived.nights.transfer.reading import PARTIAL_FOLDER

if TYPE_CHECKING:  # the far side, which runs rsync too, has no pydantic
    from nightjard.archived.nights.config import Destination

STALL_S = 120  # neither side says anything for so long: give up, try again later
# Ours, and what no archive wants: unfinished files of this and other programs.
OWN_EXCLUDES = (".*.tmp", ".nightjar-*", ".transfer", ".quarantine")
# archive, recursive, one-file-system, human-readable: as the archive has always been copied.
OPTIONS = (
    "--archive", "--recursive", "--one-file-system", "--human-readable", "--no-inc-recursive",
    "--info=progress2", "--outbuf=L", "--secluded-args",
    "--stderr=client",  # else ssh may end before it has passed on why the far rsync failed
    f"--partial-dir={PARTIAL_FOLDER}", f"--timeout={STALL_S}",
)  # fmt: skip
# The first value of an ssh option wins, so these give way to the configuration's.
_SSH = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
_PROGRESS = re.compile(r"([\d.,]+)([kKMGTP]?)\s+(\d{1,3})%\s+([\d.]+)([kMGT]?)B/s\s+([\d:]+)")
_UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def ssh_command(destination: Destination) -> list[str]:
    """Return ssh and its arguments up to the host."""
    command = ["ssh", *destination.ssh_options, *_SSH]
    if destination.port is not None:
        command += ["-p", str(destination.port)]
    if destination.identity is not None:
        command += ["-i", str(destination.identity), "-o", "IdentitiesOnly=yes"]
    if destination.user is not None:
        command += ["-l", destination.user]
    return command


def remote_command(destination: Destination, program: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a program on the far side; its arguments reach it as they are.

    `program` comes from the configuration and may be several words.
    """
    line = f"{program} {shlex.join(arguments)}"
    return [*ssh_command(destination), destination.host, "--", line]


def shell_words(command: Iterable[str]) -> str:
    """Return words for rsync's ``-e``, which knows quotes (doubled inside) but no backslash."""
    words = []
    for word in command:
        plain = re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII)
        words.append(word if plain else "'" + word.replace("'", "''") + "'")
    return " ".join(words)


def far_folder(destination: Destination, family: str, date: str) -> Path:
    """Return where a night lies on the far side.

    Two families have nights of one date: where a destination may take several, each has a folder.
    """
    if len(destination.families) == 1:
        return destination.path / date
    return destination.path / family / date


def remote(destination: Destination, folder: Path) -> str:
    """Return a folder there as rsync writes it, with the slash that means "what is in it"."""
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    return f"{host}:{folder}/"


def common_options(
    excludes: Iterable[str], bandwidth: float | None, *, repair: bool = False
) -> list[str]:
    """Return what all runs have.

    Parameters
    ----------
    excludes
        Patterns, relative to the night.
    bandwidth
        MB/s.
    repair
        Send what is named whatever sizes, times and ages say: they are the same where bits are not.
    """
    options = [*OPTIONS, *(["--ignore-times"] if repair else ["--update"])]
    options += [f"--exclude={pattern}" for pattern in (*OWN_EXCLUDES, *excludes)]
    if bandwidth is not None:
        options.append(f"--bwlimit={max(1, round(bandwidth * 1e6 / 1024))}")  # KiB/s
    return options


def push(
    destination: Destination, folder: Path, far: Path, *, only: Path | None = None,
    repair: bool = False,
) -> list[str]:  # fmt: skip
    """Return the command that sends a night.

    Parameters
    ----------
    folder, far
        Of the night, here and there; the far one is made.
    only
        File of paths, each ended by NUL, which are chosen already; None: all that is not
        excluded.
    repair
        See :func:`common_options`.
    """
    exclude = destination.exclude if only is None else ()
    command = ["rsync", *common_options(exclude, destination.bandwidth, repair=repair)]
    command += ["--mkpath", "-e", shell_words(ssh_command(destination))]
    if only is not None:
        command += [f"--files-from={only}", "--from0"]
    return [*command, "--", f"{os.fspath(folder)}/", remote(destination, far)]


def fetch(destination: Destination, far: Path, into: Path, only: Path) -> list[str]:
    """Return the command that brings named files of a night back into a folder of their own."""
    command = ["rsync", *common_options((), destination.bandwidth, repair=True)]
    command += ["-e", shell_words(ssh_command(destination)), f"--files-from={only}", "--from0"]
    return [*command, "--", remote(destination, far), f"{os.fspath(into)}/"]


def read_progress(text: str) -> tuple[float, str] | None:
    """Return fraction done and a text with the speed, of the last progress in a piece of output."""
    found = _PROGRESS.findall(text)
    if not found:
        return None
    done, unit, percent, speed, speed_unit, left = found[-1]
    rate = float(speed) * _UNITS[speed_unit] / 1e6
    return min(1.0, int(percent) / 100), f"{done}{unit}B, {rate:.1f} MB/s, {left} left"


# What stands in the messages -> is it worth another try, error, advice.
_WORDS: tuple[tuple[str, bool, type[NightjarError], Code | None, str], ...] = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", False, Unreachable, None,
     "the host key is not the known one: find out why before you correct known_hosts"),
    ("Host key verification failed", False, Unreachable, None,
     "its host key is not known here: log in once by hand as this user, or fill known_hosts"),
    ("Permission denied (", False, Unreachable, None,
     "it does not accept our key: put the public key of `identity` into its authorized_keys"),
    ("Could not resolve hostname", False, Unreachable, None, "correct `host` or the name service"),
    ("No space left on device", False, StorageError, Code.NO_SPACE,
     "the disk there is full: make room; what arrived is kept and is not sent again"),
    ("Disk quota exceeded", False, StorageError, Code.NO_SPACE,
     "the quota there is used up; what arrived is kept and is not sent again"),
    ("File too large", False, StorageError, Code.NO_SPACE,
     "a file is larger than the far side allows (file system or ulimit -f)"),
    ("Read-only file system", False, StorageError, None, "the disk there is read-only: look at it"),
    ("Permission denied", False, StorageError, None,
     "the user may not read here or write there: correct owner and mode of the folders"),
    ("command not found", False, ConfigError, None,
     "a program is not installed there, or not on the PATH of a shell without login"),
    ("rsync: not found", False, ConfigError, None, "rsync is not installed there"),
    ("Connection refused", True, Unreachable, None, "no sshd listens there: check host and port"),
)  # fmt: skip
_ENDS: dict[int, tuple[bool, type[NightjarError], str]] = {
    1: (False, ConfigError, "rsync does not know an option: both sides need rsync 3.2.4 or newer"),
    2: (False, ConfigError, "the two rsync do not understand each other: use one version"),
    5: (True, Unreachable, "rsync did not start on the far side"),
    10: (True, Unreachable, "the connection failed; what arrived is kept"),
    11: (False, StorageError, "a file could not be written or read: is a disk full or failing?"),
    12: (True, Unreachable, "the connection was cut; what arrived is kept"),
    20: (True, NightjarError, "rsync was ended by a signal"),
    22: (False, NightjarError, "out of memory"),
    23: (True, StorageError, "some files were not copied: see the messages"),
    24: (True, StorageError, "some files went away while the night was read: is it still growing?"),
    30: (True, TimedOut, "nothing moved for a long time; what arrived is kept"),
    35: (True, TimedOut, "the far side did not answer"),
    127: (False, ConfigError, "the program is not installed there, or not on the PATH of a shell "
          "without login"),
    255: (True, Unreachable, "ssh failed or was cut off; try the same ssh by hand"),
}  # fmt: skip


# Of nightjar-receipt itself, behind ssh.
_RECEIPT_ENDS = {code: _ENDS[code] for code in (127, 255)}


def explain(what: str, code: int, messages: str, *, is_rsync: bool = True) -> NightjarError:
    """Return the exception for the end of rsync or ssh; ``detail["again"]``: try it again.

    Parameters
    ----------
    what
        ``copying 20251106 to vault (host.example)``.
    code
        Exit code; negative for a signal.
    messages
        What it said on standard error.
    is_rsync
        False: another program, run by ssh.
    """
    said = " | ".join(line.strip() for line in messages.splitlines() if line.strip())[-500:]
    tail = f" ({said})" if said else ""
    for words, again, kind, reply, advice in _WORDS:
        if words in messages:
            text = f"{what} failed: {advice}{tail}"
            return kind(text, code=reply, again=again, exit_code=code)
    again, kind, advice = (_ENDS if is_rsync else _RECEIPT_ENDS).get(
        code, (code < 0, NightjarError, f"the program ended with exit code {code}")
    )
    return kind(f"{what} failed: {advice}{tail}", again=again, exit_code=code)
