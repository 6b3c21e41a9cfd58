# SPDX-License-Identifier: BSD-3-Clause
"""The DAS host's folder of raw files: mounted here, or reached by rsync over ssh."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from nightjar.clock import NS_PER_S
from nightjar.errors import (
    Cancelled,
    Code,
    ConfigError,
    NightjarError,
    StorageError,
    TimedOut,
    Unreachable,
)
from nightjar.files import is_safe_name
from nightjard.telogd.config import Das, MountedDas, SshDas
from nightjard.telogd.drivers.base import Capabilities, DasSource, Facts
from nightjard.telogd.drivers.mounted import MountReader, scan_all

_LISTED = re.compile(
    r"-[rwxsStT-]{9}\S*\s+([\d,]+)\s+(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d)(?:\.\d+)?\s(.+)\Z"
)
_POLL_S = 0.1
_TERM_S = 3.0
_KEPT = 4000
# The first value of an ssh option wins, so these give way to the configuration's.
_SSH = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")


class MountedHost:
    """A mounted folder, read by a process that is killed when the mount hangs."""

    def __init__(self, config: MountedDas) -> None:
        self._folder = config.folder
        self.reader = MountReader("das-folder", config.limit_s)
        self.capabilities = Capabilities("folder", str(config.folder))

    def scan(self, day: str) -> list[Facts]:
        """Return the files of a day; see :class:`nightjard.telogd.drivers.base.DasSource`."""
        return [one for one in scan_all(self.reader, self._folder / day) if is_safe_name(one.name)]

    def fetch(self, day: str, names: Sequence[str], into: Path) -> None:
        """Copy files of a day into a folder."""
        failure: StorageError | None = None
        for name in names:
            try:
                self.reader.ask(
                    "fetch", 10_000_000, source=str(self._folder / day / name),
                    target=str(into / name),
                )  # fmt: skip
            except StorageError as error:
                if error.code is Code.NO_SPACE or self.reader.pid is None:
                    raise
                failure = error  # the others may be read
        if failure is not None and not any(into.iterdir()):
            raise failure

    def close(self) -> None:
        """End the reading process."""
        self.reader.close()


class RsyncHost:
    """A folder on another host, listed and copied by the programs rsync and ssh."""

    def __init__(self, config: SshDas) -> None:
        self._config = config
        self._is_closed = threading.Event()
        user = f"{config.user}@" if config.user else ""
        self.capabilities = Capabilities("rsync", f"{user}{config.host}:{config.folder}")

    def scan(self, day: str) -> list[Facts]:
        """Return the files of a day; see :class:`nightjard.telogd.drivers.base.DasSource`."""
        # The folder of the day may not be there yet; its parent must be.
        command = self._command(
            "--list-only", "--recursive", "--no-human-readable", f"--include=/{day}/",
            f"--include=/{day}/*", "--exclude=*",
        )  # fmt: skip
        output = self._run([*command, "--", f"{self._remote(self._config.folder)}/"], "listing")
        found = []
        for line in output.splitlines():
            match = _LISTED.match(line)
            if match is None:
                continue
            folder, _, name = match[3].partition("/")
            if folder == day and is_safe_name(name):
                when = datetime.strptime(match[2], "%Y/%m/%d %H:%M:%S").replace(tzinfo=UTC)
                size = int(match[1].replace(",", ""))
                found.append(Facts(name, size, int(when.timestamp()) * NS_PER_S))
        return sorted(found, key=lambda one: one.name)

    def fetch(self, day: str, names: Sequence[str], into: Path) -> None:
        """Copy files of a day into a folder."""
        command = self._command("--times", "--files-from=-", "--from0", "--whole-file")
        if self._config.bandwidth is not None:
            command.append(f"--bwlimit={max(1, round(self._config.bandwidth * 1e6 / 1024))}")
        remote = f"{self._remote(self._config.folder / day)}/"
        data = b"".join(os.fsencode(name) + b"\0" for name in names)
        self._run([*command, "--", remote, f"{into}/"], "copying", data, vanished_ok=True)

    def _command(self, *options: str) -> list[str]:
        config = self._config
        ssh = ["ssh", *config.ssh_options, *_SSH]
        if config.port is not None:
            ssh += ["-p", str(config.port)]
        if config.identity is not None:
            ssh += ["-i", str(config.identity), "-o", "IdentitiesOnly=yes"]
        if config.user is not None:
            ssh += ["-l", config.user]
        return [
            "rsync", "--secluded-args", "--stderr=client", f"--timeout={round(config.limit_s)}",
            "-e", _shell_words(ssh), *options,
        ]  # fmt: skip

    def _remote(self, folder: Path) -> str:
        host = self._config.host
        return f"[{host}]:{folder}" if ":" in host and "[" not in host else f"{host}:{folder}"

    def _run(
        self, command: list[str], what: str, data: bytes = b"", *, vanished_ok: bool = False
    ) -> str:
        """Run rsync to its end; it is ended when it says nothing, or when we close.

        Raises
        ------
        NightjarError
            It failed; the message says what it said.
        """
        text = f"{what} {self.capabilities.where}"
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True, env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC0"},
            )  # fmt: skip
        except FileNotFoundError as error:
            raise ConfigError(f"{text}: the program rsync is not installed here") from error
        is_over = False
        try:
            output, said = self._follow(process, text, data)
            is_over = True
        finally:
            code = _end(process, is_over)
        if code == 0 or (vanished_ok and code == 24):
            return output
        if vanished_ok and code == 23 and "No such file" in said:
            return output
        raise _explained(text, code, said)

    def _follow(
        self, process: subprocess.Popen[bytes], text: str, data: bytes
    ) -> tuple[str, str]:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        parts: dict[int, bytearray] = {
            process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()
        }  # fmt: skip
        left = memoryview(data)
        heard = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            while selector.get_map():
                if self._is_closed.is_set():
                    raise Cancelled(f"{text}: ended; what arrived is kept")
                # rsync itself gives up after its --timeout; ssh may hang before it begins.
                if time.monotonic() - heard > self._config.limit_s + 2:
                    raise TimedOut(
                        f"{text}: nothing was heard for {self._config.limit_s:g} s: is the host "
                        "up, does its disk answer?"
                    )
                for key, _ in selector.select(_POLL_S):
                    if key.fileobj is process.stdin:
                        try:
                            left = left[os.write(key.fd, left[:65536]) if left else 0 :]
                        except BlockingIOError:
                            continue
                        except BrokenPipeError:
                            left = left[:0]
                        if not left:
                            selector.unregister(process.stdin)
                            process.stdin.close()
                        continue
                    heard = time.monotonic()
                    piece = os.read(key.fd, 1 << 16)
                    parts[key.fd] += piece
                    if not piece:
                        selector.unregister(key.fileobj)
        output, said = (bytes(part).decode("utf-8", "replace") for part in parts.values())
        return output, said[-_KEPT:]

    def close(self) -> None:
        """End a copy under way; nothing can be asked any more."""
        self._is_closed.set()


def _end(process: subprocess.Popen[bytes], is_over: bool) -> int:
    """Wait for a program's end where it is over, end it where not, and all that it left running.

    It is reaped last: until then nobody else's group can have its number.
    """
    if is_over:
        _wait_unreaped(process, _TERM_S)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        if _wait_unreaped(process, _TERM_S):
            break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None and not pipe.closed:
            pipe.close()
    return process.wait()


def _wait_unreaped(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait until a program has ended, without taking its exit code; False where it has not."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        how = os.WEXITED | os.WNOWAIT | os.WNOHANG
        if os.waitid(os.P_PID, process.pid, how) is not None:
            return True
        time.sleep(0.01)
    return False


def _shell_words(command: Sequence[str]) -> str:
    """Return words for rsync's ``-e``, which knows quotes (doubled inside) but no backslash."""
    return " ".join(
        word if re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII)
        else "'" + word.replace("'", "''") + "'"
        for word in command
    )  # fmt: skip


_WORDS: tuple[tuple[str, type[NightjarError], str], ...] = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", Unreachable,
     "the host key is not the known one: find out why before known_hosts is corrected"),
    ("Host key verification failed", Unreachable,
     "its host key is not known here: log in once by hand as this user"),
    ("Permission denied (", Unreachable, "it does not accept our key: see its authorized_keys"),
    ("Connection refused", Unreachable, "no sshd listens there: is the host up?"),
    ("timed out", Unreachable, "the host does not answer"),
    ("Could not resolve hostname", Unreachable, "correct `das.host` or the name service"),
    ("No space left on device", StorageError, "the disk here is full: make room"),
    ("No such file or directory", StorageError, "the folder is not there: is its disk mounted?"),
    ("Permission denied", StorageError, "the user may not read there or write here"),
)


def _explained(text: str, code: int, said: str) -> NightjarError:
    words = " | ".join(line.strip() for line in said.splitlines() if line.strip())[-300:]
    for part, kind, advice in _WORDS:
        if part in said:
            reply = Code.NO_SPACE if part.startswith("No space") else None
            return kind(f"{text} failed: {advice} ({words})", code=reply)
    return Unreachable(f"{text} failed: rsync ended with exit code {code} ({words})")


def make_das(config: Das) -> DasSource:
    """Return the driver of a configuration."""
    return MountedHost(config) if isinstance(config, MountedDas) else RsyncHost(config)
