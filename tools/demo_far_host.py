# SPDX-License-Identifier: BSD-3-Clause
"""A host that keeps copies, for demonstrations: the real sshd on the loopback, a folder, keys.

It runs as whoever starts it, listens on 127.0.0.1 only, and lets in only the key that it made. All
its files lie in one folder; ending it ends every connection.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo import BIN, DemoError

PACKAGES = {
    "sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client",
    "rsync": "rsync",
}  # fmt: skip
_SYSTEM_FOLDERS = "/usr/sbin:/usr/local/sbin:/sbin"
# Debian's sshd wants this empty folder when root runs it.
_EMPTY = Path("/run/sshd")
_WAIT_S = 10.0


def missing_packages() -> list[str]:
    """Return the Debian packages whose programs are not here."""
    return sorted({package for name, package in PACKAGES.items() if _program(name) is None})


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_FOLDERS}")


class FarHost:
    """The host; made by :func:`far_host`.

    Parameters
    ----------
    folder
        Of its own, made where it is missing.
    port
        A free one.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.copies = folder / "copies"
        self._folder = folder
        self._port = port
        self._user = pwd.getpwuid(os.geteuid()).pw_name
        self._identity = folder / "near_key"
        self._known_hosts = folder / "known_hosts"
        self._process: subprocess.Popen[bytes] | None = None
        self.copies.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        _make_key(self._identity)
        kind, key = _make_key(folder / "host_key").split()[:2]
        self._known_hosts.write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
        self._public_key = _make_key(folder / "receipt_key")
        shutil.copy(f"{self._identity}.pub", folder / "authorized")
        if not (folder / "machine-id").exists():
            (folder / "machine-id").write_text(secrets.token_hex(16) + "\n")

    def start(self) -> None:
        """Start sshd and log in once.

        Raises
        ------
        DemoError
            It does not start, or does not let this user in.
        """
        options = {
            "ListenAddress": "127.0.0.1", "AuthorizedKeysFile": self._folder / "authorized",
            "HostKey": self._folder / "host_key", "PidFile": "none", "StrictModes": "no",
            "UsePAM": "no", "PasswordAuthentication": "no", "PermitRootLogin": "prohibit-password",
            "AllowUsers": self._user,
        }  # fmt: skip
        command = [_program("sshd") or "sshd", "-D", "-e", "-f", "/dev/null", "-p", str(self._port)]
        command += [f"-o{key}={value}" for key, value in options.items()]
        log = self._folder / "sshd.log"
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=self._folder
            )
        deadline = time.monotonic() + _WAIT_S
        while not self._is_listening():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"sshd does not start here: {_last_line(log)}")
            time.sleep(0.02)
        done = subprocess.run(
            ["ssh", *self._ssh_options(), "-o", "BatchMode=yes", "-p", str(self._port), "-i",
             str(self._identity), "-l", self._user, "127.0.0.1", "true"],
            capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise DemoError(f"sshd does not let {self._user} in: {reason[-1]}; {_last_line(log)}")

    def _is_listening(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
            return True
        return False

    def stop(self) -> None:
        """End sshd; its connections have ended with the commands that used them."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_WAIT_S)

    def _ssh_options(self) -> list[str]:
        return [
            "-T", "-x", "-F", "/dev/null", "-o", "Compression=no", "-o", "ConnectTimeout=10",
            "-o", f"UserKnownHostsFile={self._known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null",
            "-o", "StrictHostKeyChecking=yes",
        ]  # fmt: skip

    def destination(self) -> dict[str, Any]:
        """Return the configuration of a destination: one entry of ``nights.destinations``."""
        installed = BIN / "nightjar-receipt"
        module = "nightjard.archived.nights.transfer.far_side"
        program = [str(installed)] if installed.exists() else [str(BIN / "python"), "-m", module]
        program += ["--key", str(self._folder / "receipt_key")]
        program += ["--machine-id", str(self._folder / "machine-id")]
        return {
            "host": "127.0.0.1", "port": self._port, "user": self._user,
            "identity": str(self._identity), "path": str(self.copies),
            "ssh_options": self._ssh_options(), "program": shlex.join(program),
            "public_key": self._public_key,
        }  # fmt: skip


def _make_key(path: Path) -> str:
    """Make a key without a passphrase where there is none; return its public half."""
    if not path.exists():
        subprocess.run(
            [_program("ssh-keygen") or "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C",
             f"nightjar demonstration {path.name}", "-f", str(path)],
            check=True, timeout=30, stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
    return Path(f"{path}.pub").read_text().strip()


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else "it says nothing"


@contextlib.contextmanager
def far_host(folder: Path, port: int) -> Iterator[FarHost | None]:
    """Run the host; None, after saying why, where it cannot be on this machine."""
    packages = missing_packages()
    if packages:
        print(f"  not here: Debian packages {', '.join(packages)}\n"
              f"  apt-get install {' '.join(packages)}  and the night will become safe; now it "
              f"ends as processed", flush=True)  # fmt: skip
        yield None
        return
    is_ours = os.geteuid() == 0 and not _EMPTY.is_dir()
    if is_ours:
        _EMPTY.mkdir()
    host: FarHost | None = None
    try:
        try:
            host = FarHost(folder, port)
            host.start()
        except (DemoError, OSError, KeyError, subprocess.SubprocessError) as error:
            print(f"  no copy this time, the night ends as processed: {error}", flush=True)
            yield None
            return
        yield host
    finally:
        if host is not None:
            host.stop()
        if is_ours:
            with contextlib.suppress(OSError):
                _EMPTY.rmdir()
