# SPDX-License-Identifier: BSD-3-Clause
"""A real sshd on the loopback: its own host key, port and authorized key; and a night to copy.

It runs as whoever runs the tests and serves only that user. A test that uses it is marked
``needs("/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync")``.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import blake3
import sqlalchemy as sa

from nightjar.clock import Clock, SystemClock
from nightjard.archived.database import Database
from nightjard.archived.nights import tables
from nightjard.archived.nights.config import Destination, Retention
from nightjard.archived.nights.transfer.transfers import Transfers

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
    further
        Options as ``ForceCommand=...``.
    """

    def __init__(self, base: Path, port: int, *further: str) -> None:
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
        self._start(further)

    def trust(self, host_key: str) -> None:
        """Make this the host key that clients know."""
        kind, key = host_key.split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def _start(self, further: tuple[str, ...]) -> None:
        if os.geteuid() == 0:
            _PRIVATE.mkdir(exist_ok=True)
        options = {
            "ListenAddress": "127.0.0.1", "AuthorizedKeysFile": self.base / "authorized",
            "StrictModes": "no", "UsePAM": "no", "PidFile": "none", "PermitRootLogin": "yes",
            "PasswordAuthentication": "no", "MaxStartups": "50", "AllowUsers": getpass.getuser(),
            # Nobody listens on the loopback: the post-quantum exchange costs 60 ms each time.
            "KexAlgorithms": "curve25519-sha256",
            # bash takes it for an inner shell: the user's own .bashrc must not reach the tests.
            "SetEnv": "SHLVL=1",
        }  # fmt: skip
        arguments = [f"-o{key}={value}" for key, value in options.items()]
        arguments += [f"-o{option}" for option in further]
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
        count = 0
        for pid in self.sessions():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                    os.kill(pid, signal.SIGKILL)
                    count += 1
        return count

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
                "-o", "KexAlgorithms=curve25519-sha256",  # half the time of a connection
                "-o", "ConnectTimeout=10", "-F", "/dev/null",
                "-o", f"UserKnownHostsFile={self.known_hosts}",
                "-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes",
            ],
        } | changes  # fmt: skip


def machine_id(letter: str) -> str:
    """Return an id made of a letter."""
    return letter.encode().hex().zfill(32)


class Bench:
    """A night with known files, a database, and destinations on an sshd.

    Parameters
    ----------
    base
        An empty folder.
    sshd
        Where the destinations are.
    clock
        The system's if not given.
    """

    def __init__(self, base: Path, sshd: Sshd, clock: Clock | None = None) -> None:
        self.base = base
        self.sshd = sshd
        self.clock = clock or SystemClock()
        self.database = Database(f"sqlite:///{base}/archive.db")
        self.expected: dict[str, tuple[int, str]] = {}
        self.destinations: dict[str, Destination] = {}
        self.add("vault")
        self.night = self.make_night()
        self.folder = Path(self.night.folder)
        self.far = base / "vault" / "archival" / self.night.date

    def make_night(self, family: str = "archival", date: str = "20251106") -> sa.Row[Any]:
        folder = self.base / family / date
        folder.mkdir(parents=True)
        with self.database.write("make a night") as connection:
            connection.execute(
                sa.insert(tables.night).values(
                    family=family, date=date, folder=str(folder), state="processed",
                    seen_ns=self.clock.now_ns(),
                )
            )  # fmt: skip
        with self.database.read() as connection:
            night = tables.night.c
            query = sa.select(tables.night).where(night.family == family, night.date == date)
            return connection.execute(query).one()

    def add(self, name: str, machine: str = "b", **changes: Any) -> Destination:
        settings = self.sshd.destination(self.base / name, machine, **changes)
        self.destinations[name] = Destination(**settings)
        return self.destinations[name]

    def transfers(self, **retention: Any) -> Transfers:
        return Transfers(
            self.database, self.clock, self.destinations, Retention(**retention),
            machine_id=machine_id("a"),
        )  # fmt: skip

    def file(self, path: str, data: bytes) -> Path:
        """Make a file of the night and record it."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.expected[path] = (len(data), blake3.blake3(data).hexdigest())
        return target

    def files(self, count: int, size: int, seed: int = 1) -> list[Path]:
        rng = random.Random(seed)
        return [
            self.file(f"vgen2/VMPA{number:08d}.fits.fz", rng.randbytes(size))
            for number in range(count)
        ]

    def events(self, kind: str = "") -> list[str]:
        event = tables.night_event.c
        with self.database.read() as connection:
            rows = connection.execute(sa.select(event.kind, event.text).order_by(event.id)).all()
        return [text for each, text in rows if not kind or each == kind]

    def receipts(self) -> list[sa.Row[Any]]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(tables.receipt)).all())

    def close(self) -> None:
        self.database.close()


def flip_bit(path: Path, rng: random.Random) -> None:
    """Change one bit and leave size and times as they were, as a failing disk does."""
    state = path.stat()
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data) * 8)
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
