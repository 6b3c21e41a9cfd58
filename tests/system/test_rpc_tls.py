# SPDX-License-Identifier: BSD-3-Clause
"""TLS on request of the registry: real certificates, the real daemon, the real command."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.obslog_site import NAME, LogDaemon
from kit.rawrpc import RawClient, connect_message
from nightjar.errors import ConfigError
from nightjar.registry import Registry

pytestmark = pytest.mark.needs("openssl")


def openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with certificates for 127.0.0.1 and for elsewhere; a stranger's authority."""
    folder = tmp_path_factory.mktemp("certificates")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    for authority in ("site", "stranger"):
        openssl(
            folder, "req", "-x509", *curve, "-subj", f"/CN={authority}", "-keyout",
            f"{authority}.key", "-out", f"{authority}.pem",
        )  # fmt: skip
    for name, authority, address in (
        ("host", "site", "127.0.0.1"), ("other", "site", "192.0.2.1"),
        ("intruder", "stranger", "127.0.0.1"),
    ):  # fmt: skip
        openssl(
            folder, "req", "-x509", *curve, "-subj", f"/CN={name}", "-addext",
            f"subjectAltName=IP:{address}", "-addext", "basicConstraints=critical,CA:FALSE", "-CA",
            f"{authority}.pem", "-CAkey", f"{authority}.key", "-keyout", f"{name}.key", "-out",
            f"{name}.pem",
        )  # fmt: skip
    return folder


def with_tls(daemon: LogDaemon, certificates: Path, authority: str, name: str) -> None:
    registry = json.loads(daemon.registry_path.read_text())
    relative = os.path.relpath(certificates, daemon.registry_path.parent)
    registry["tls"] = {
        "authority": f"{relative}/{authority}.pem", "certificate": f"{relative}/{name}.pem",
        "key": f"{relative}/{name}.key",
    }  # fmt: skip
    daemon.registry_path.write_text(json.dumps(registry))


def without_tls(daemon: LogDaemon) -> None:
    registry = json.loads(daemon.registry_path.read_text())
    registry.pop("tls", None)
    daemon.registry_path.write_text(json.dumps(registry))


def obslog(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nightjarctl.obslog", *arguments], capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip


@pytest.fixture
def daemon(free_port: int) -> Iterator[LogDaemon]:
    made = LogDaemon(free_port)
    yield made
    assert made.stop() == 0


def start(daemon: LogDaemon) -> None:
    """Start it; calls of this process would be without TLS, so the open port has to do."""
    with open(daemon.errors, "a", encoding="utf-8") as output:
        daemon.process = subprocess.Popen(
            [sys.executable, "-m", "nightjard.obslogd", str(daemon.config)],
            stderr=output, text=True,
        )  # fmt: skip
    deadline = time.monotonic() + 20
    while "started" not in daemon.errors.read_text():
        assert time.monotonic() < deadline
        assert daemon.process.poll() is None, daemon.errors.read_text()
        time.sleep(0.02)


def test_who_has_a_certificate_of_the_site_is_served(
    daemon: LogDaemon, certificates: Path
) -> None:
    with_tls(daemon, certificates, "site", "host")
    start(daemon)
    assert obslog("write", "over TLS", "--source", "me").returncode == 0
    told = json.loads(obslog("tail", "--json").stdout)
    assert [m["text"] for m in told] == ["over TLS"]
    # A client's certificate says nothing of its address: that is what the access rules are for.
    with_tls(daemon, certificates, "site", "other")
    assert obslog("tail").returncode == 0
    for _ in range(3):  # once is enough, the machine's own stops left out
        with socket.create_connection(("127.0.0.1", daemon.entry.port), 5) as silent:
            # Somebody who connects and never shakes hands keeps nobody out.
            started = time.monotonic()
            assert obslog("status").returncode == 0
            taken_s = time.monotonic() - started
            silent.settimeout(15)
            assert silent.recv(1) == b""  # and is hung up on
        if taken_s < 4:
            break
    assert taken_s < 4


def test_who_has_none_or_a_stranger_s_is_turned_away(daemon: LogDaemon, certificates: Path) -> None:
    with_tls(daemon, certificates, "site", "host")
    start(daemon)
    without_tls(daemon)
    plain = obslog("write", "in the clear")
    assert plain.returncode == 5
    with RawClient(daemon.entry.port) as client:
        client.send(connect_message(NAME))
        assert client.is_closed()
    with_tls(daemon, certificates, "site", "intruder")  # trusts the site, is not of it
    intruder = obslog("write", "from a stranger")
    assert intruder.returncode == 5
    with_tls(daemon, certificates, "stranger", "intruder")
    assert obslog("write", "from a stranger").returncode == 5
    for done in (plain, intruder):
        assert len(done.stderr.splitlines()) == 1
    with_tls(daemon, certificates, "site", "host")
    assert json.loads(obslog("tail", "--json").stdout) == []
    assert "TLS" in daemon.errors.read_text()
    assert "Traceback" not in daemon.errors.read_text()


@pytest.mark.parametrize(
    ("authority", "name"), [("site", "other"), ("stranger", "intruder")], ids=["address", "issuer"]
)
def test_a_daemon_that_cannot_prove_who_it_is_is_not_talked_to(
    daemon: LogDaemon, certificates: Path, authority: str, name: str
) -> None:
    with_tls(daemon, certificates, authority, name)
    start(daemon)
    with_tls(daemon, certificates, "site", "host")
    done = obslog("status")
    assert done.returncode == 5
    assert "certificate verify failed" in done.stderr


def test_files_that_cannot_be_used_are_named(daemon: LogDaemon, certificates: Path) -> None:
    with_tls(daemon, certificates, "site", "nosuch")
    command = [sys.executable, "-m", "nightjard.obslogd", str(daemon.config)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    client = obslog("status")
    for done in (refused, client):
        assert done.returncode == 2
        assert "nosuch.pem" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_registry_s_entry(tmp_path: Path) -> None:
    raw = {
        "machines": {"M": ["127.0.0.1"]}, "daemons": {"d": {"machine": "M", "port": 5}},
        "tls": {"authority": "ca.pem", "certificate": "/abs/host.pem", "key": "sub/host.key"},
    }  # fmt: skip
    tls = Registry.parse(raw, tmp_path / "registry.json").daemon("d").tls
    assert tls is not None
    assert tls.authority == tmp_path / "ca.pem"
    assert tls.certificate == Path("/abs/host.pem")
    assert tls.key == tmp_path / "sub" / "host.key"
    good = raw["tls"]
    for wrong in ({"authority": "a"}, {**good, "x": "y"}, {**good, "key": 5}, [], "ca.pem"):
        with pytest.raises(ConfigError, match="tls: must have authority, certificate and key"):
            Registry.parse({**raw, "tls": wrong}, tmp_path / "registry.json")
