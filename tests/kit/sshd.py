# SPDX-License-Identifier: BSD-3-Clause
"""A real sshd on the loopback: its own host key, port and authorized key; and a night to copy.

It runs as whoever runs the tests and serves only that user. A test that uses it is marked
``needs("/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync")``.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROGRAMS = ("/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync")
_SSHD = "/usr/sbin/sshd"
_PRIVATE = Path("/run/sshd")  # Debian's sshd wants it when root runs it


def make_key(path: Path) -> str:
    """Make a key without a passphrase; return its public half."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)],
        check=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return path.with_name(path.name + ".pub").read_text().strip()


class Sshd:
    """Started by the constructor; :meth:`stop` ends it and all its sessions.

    Parameters
    ----------
    base
        An empty folder of its own.
    port
        A free one.
    """

    def __init__(self, base: Path, port: int) -> None:
        self.base = base
        self.port = port
        base.mkdir(mode=0o700)
        self.identity = base / "user_key"
        self.known_hosts = base / "known_hosts"
        (base / "authorized").write_text(make_key(self.identity) + "\n")
        self.trust(make_key(base / "host_key"))
        self.receipt_key = base / "receipt_key"
        self.public_key = make_key(self.receipt_key)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def trust(self, host_key: str) -> None:
        """Make this the host key that clients know."""
        kind, key = host_key.split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def start(self) -> None:
        if os.geteuid() == 0:
            _PRIVATE.mkdir(exist_ok=True)
        options = {
            "ListenAddress": "127.0.0.1", "AuthorizedKeysFile": self.base / "authorized",
            "StrictModes": "no", "UsePAM": "no", "PidFile": "none", "PermitRootLogin": "yes",
            "PasswordAuthentication": "no", "MaxStartups": "50", "AllowUsers": getpass.getuser(),
        }  # fmt: skip
        arguments = [f"-o{key}={value}" for key, value in options.items()]
        command = [_SSHD, "-D", "-e", "-f", "/dev/null", "-p", str(self.port)]
        with (self.base / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-h", str(self.base / "host_key"), *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.base,
            )  # fmt: skip
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.base / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.01)
        raise AssertionError("sshd does not listen")

    def sessions(self) -> list[int]:
        """Return the ids of the processes that serve a connection, at any depth."""
        assert self.process is not None
        found: list[int] = []
        waiting = [self.process.pid]
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
                children = [int(word) for word in text.split()]
                found += children
                waiting += children
        return found

    def cut(self) -> int:
        """Kill all connections as a failing network does; return how many processes that were."""
        pids = self.sessions()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def stop(self) -> None:
        assert self.process is not None
        self.cut()
        self.process.terminate()
        self.process.wait(10)

    def program(self, machine_id: Path | None = None, key: Path | None = None) -> str:
        """Return the command that a destination runs there."""
        words = [sys.executable, "-m", "nightjard.archived.nights.transfer.far_side",
                 "--key", str(key or self.receipt_key)]  # fmt: skip
        if machine_id is not None:
            words += ["--machine-id", str(machine_id)]
        return shlex.join(words)

    def destination(self, path: Path, machine: str = "b", **changes: Any) -> dict[str, Any]:
        """Return a destination's configuration; `machine` is a letter, of which its id is made."""
        identity = self.base / f"machine-{machine}"
        identity.write_text(machine_id(machine) + "\n")
        return {
            "host": "127.0.0.1", "path": str(path), "port": self.port,
            "identity": str(self.identity), "user": getpass.getuser(),
            "program": self.program(identity), "public_key": self.public_key,
            "ssh_options": [
                "-T", "-c", "aes128-gcm@openssh.com", "-o", "Compression=no", "-x",
                "-o", "ConnectTimeout=10", "-F", "/dev/null",
                "-o", f"UserKnownHostsFile={self.known_hosts}",
                "-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes",
            ],
        } | changes  # fmt: skip


def machine_id(letter: str) -> str:
    """Return an id that begins with zeros and ends with hexadecimal digits of a letter."""
    return letter.encode().hex().zfill(32)


def programs_are_there() -> bool:
    """Tell whether all the programs are installed."""
    return all(shutil.which(name) for name in PROGRAMS)
