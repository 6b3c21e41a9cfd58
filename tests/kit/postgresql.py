# SPDX-License-Identifier: BSD-3-Clause
"""A real PostgreSQL server of its own: a folder, a port, an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from glob import glob
from pathlib import Path

import psycopg

from kit.leftovers import TOKEN_NAME

_FOLDERS = "/usr/lib/postgresql/*/bin"


def _program(name: str) -> str:
    further = sorted(glob(_FOLDERS), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *further]))
    assert found is not None, name
    return found


class PostgresServer:
    """Started by :meth:`start`; :meth:`remove` stops it and deletes its folder."""

    def __init__(self, port: int) -> None:
        self.port = port
        # Not below pytest's folders: these are closed to the server's user.
        self.folder = Path(tempfile.mkdtemp(prefix="nightjar-postgresql-"))
        # Its helpers come and go; a test must not take them for leftovers of its own.
        self._environment = {k: v for k, v in os.environ.items() if k != TOKEN_NAME}
        self._environment["LC_ALL"] = "C.UTF-8"
        self._prefix: list[str] = []
        if os.geteuid() == 0:  # which the server refuses to run as
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            identity = {"--reuid": user.pw_uid, "--regid": user.pw_gid}
            options = [str(part) for pair in identity.items() for part in pair]
            self._prefix = ["setpriv", *options, "--clear-groups"]
        command = [_program("initdb"), "-D", str(self.data), "-A", "trust", "-U", "postgres"]
        subprocess.run(
            [*self._prefix, *command, "--no-sync", "--no-instructions"], check=True,
            capture_output=True, timeout=60, env=self._environment, cwd=self.folder,
        )  # fmt: skip

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(
            f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres connect_timeout=5",
            autocommit=True,
        )

    def clear(self) -> None:
        """Make the database as empty as a new one."""
        with self.connect() as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "autovacuum": "off",
            "unix_socket_directories": self.folder, "max_connections": 30, "fsync": "off",
        }  # fmt: skip
        options = " ".join(f"-c {key}={value}" for key, value in settings.items())
        self._control("start", "-w", "-t", "30", "-o", options, "-l", str(self.folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `fast` (connections are told) or `immediate` (as in a crash)."""
        if (self.data / "postmaster.pid").exists():
            self._control("stop", "-w", "-t", "30", "-m", mode)

    def _control(self, *arguments: str) -> None:
        # pg_ctl detaches the server, so that one which a test restarts is no leftover of the test.
        done = subprocess.run(
            [*self._prefix, _program("pg_ctl"), "-D", str(self.data), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=60, env=self._environment, cwd=self.folder, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (self.folder / "log").read_text()

    def _all(self) -> list[int]:
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def freeze(self) -> None:
        """Make it hang: connections stay open, nothing answers."""
        for pid in self._all():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._all():
            os.kill(pid, signal.SIGCONT)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
