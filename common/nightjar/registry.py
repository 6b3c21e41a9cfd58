# SPDX-License-Identifier: BSD-3-Clause
"""Where each daemon lives and which machines there are: one JSON file, no name server.

The file::

    {"machines": {"LocalHost": ["127.0.0.1", "::1"]},
     "daemons": {"localhost_test": {"machine": "LocalHost", "port": 9000, "about": "..."}},
     "log_daemon": "observatory_log"}

``tls``, where given, is ``{"authority": ..., "certificate": ..., "key": ...}``: PEM files, relative
to the registry's folder; then every connection of the site is encrypted and both ends are checked.

A machine's first address is the one its daemons bind and clients call; ``bind`` of a daemon
overrides the address it listens on (for instance ``0.0.0.0``).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.config.paths import read_json, registry_path
from nightjar.errors import ConfigError
from nightjar.files import is_safe_name

_TOP_KEYS = {"machines", "daemons", "log_daemon", "tls"}
_DAEMON_KEYS = {"machine", "port", "about", "bind"}


@dataclass(frozen=True, slots=True)
class Tls:
    """Files (PEM) for encrypted connections: the site's authority, this machine's certificate."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one daemon is."""

    name: str
    machine: str
    address: str
    port: int
    bind: str
    about: str = ""
    tls: Tls | None = None

    @property
    def uri(self) -> str:
        """The Pyro address."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"PYRO:{self.name}@{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Registry:
    """Machines and daemons of a site."""

    path: Path
    machines: dict[str, tuple[str, ...]]
    daemons: dict[str, Entry]
    log_daemon: str | None = None

    @classmethod
    def find(cls, beside: Path | None = None) -> Registry:
        """Load the registry in force; `beside` is the configuration file in use, if any."""
        return cls.load(registry_path(beside))

    @classmethod
    def load(cls, path: Path) -> Registry:
        """Read and check a registry file.

        Raises
        ------
        ConfigError
            Unreadable, unknown keys, wrong types, bad addresses, unknown machines, or two daemons
            on one port of one machine.
        """
        return cls.parse(read_json(path), path)

    @classmethod
    def parse(cls, value: dict[str, Any], path: Path) -> Registry:
        """Check a registry object; see :meth:`load`."""
        unknown = set(value) - _TOP_KEYS
        if unknown:
            raise ConfigError(
                f"{path}: {', '.join(sorted(unknown))}: unknown key; known are: "
                f"{', '.join(sorted(_TOP_KEYS))}"
            )
        machines = _machines(value.get("machines"), path)
        tls = _tls(value.get("tls"), path)
        raw = value.get("daemons")
        if not isinstance(raw, dict):
            raise ConfigError(f"{path}: daemons: must be an object of daemons by name")
        daemons = {name: _entry(name, entry, machines, tls, path) for name, entry in raw.items()}
        _check_clashes(daemons, path)
        log_daemon = value.get("log_daemon")
        if log_daemon is not None and (
            not isinstance(log_daemon, str) or log_daemon not in daemons
        ):
            raise ConfigError(f"{path}: log_daemon: {log_daemon!r}: is not one of the daemons")
        return cls(path, machines, daemons, log_daemon)

    def daemon(self, name: str) -> Entry:
        """Return where a daemon is.

        Raises
        ------
        ConfigError
            Not registered; the message lists those that are.
        """
        entry = self.daemons.get(name)
        if entry is None:
            raise ConfigError(
                f"daemon {name!r} is not in the registry {self.path}; "
                f"it has: {', '.join(sorted(self.daemons)) or 'none'}"
            )
        return entry

    def addresses(self, machine: str) -> tuple[str, ...]:
        """Return a machine's addresses.

        Raises
        ------
        ConfigError
            Not registered; the message lists those that are.
        """
        try:
            return self.machines[machine]
        except KeyError:
            raise ConfigError(
                f"machine {machine!r} is not in the registry {self.path}; "
                f"it has: {', '.join(sorted(self.machines))}"
            ) from None

    def machine_of(self, address: str) -> str | None:
        """Return the name of the machine that has an address; None for a stranger."""
        wanted = normal_address(address)
        for name, addresses in self.machines.items():
            if wanted in addresses:
                return name
        return None


def normal_address(text: str) -> str:
    """Return an IP address in its one usual form; IPv4 in IPv6 clothes becomes IPv4."""
    try:
        address = ipaddress.ip_address(text.split("%")[0])
    except ValueError:
        return text
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _machines(raw: Any, path: Path) -> dict[str, tuple[str, ...]]:
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(f"{path}: machines: must be an object of address lists by machine name")
    machines = {}
    for name, addresses in raw.items():
        listed = [addresses] if isinstance(addresses, str) else addresses
        if not isinstance(listed, list) or not listed:
            raise ConfigError(f"{path}: machines.{name}: must be a list of IP addresses")
        for address in listed:
            if not _is_address(address):
                raise ConfigError(f"{path}: machines.{name}: {address!r}: must be an IP address")
        machines[name] = tuple(normal_address(address) for address in listed)
    return machines


def _is_address(value: Any) -> bool:
    try:
        ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


def _tls(raw: Any, path: Path) -> Tls | None:
    if raw is None:
        return None
    keys = {"authority", "certificate", "key"}
    if not isinstance(raw, dict) or set(raw) != keys or not all(
        isinstance(value, str) and value for value in raw.values()
    ):
        raise ConfigError(f"{path}: tls: must have authority, certificate and key: file names")
    folder = path.resolve().parent
    return Tls(**{key: folder / raw[key] for key in keys})


def _entry(
    name: str, raw: Any, machines: dict[str, tuple[str, ...]], tls: Tls | None, path: Path
) -> Entry:
    where = f"{path}: daemons.{name}"
    if not is_safe_name(name):
        raise ConfigError(f"{where}: a name has letters, digits and . _ + - only")
    if not isinstance(raw, dict) or set(raw) - _DAEMON_KEYS or not {"machine", "port"} <= set(raw):
        raise ConfigError(f"{where}: must have machine and port, and may have about and bind only")
    port, machine = raw["port"], raw["machine"]
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise ConfigError(f"{where}.port: {port!r}: must be a whole number from 1 to 65535")
    if not isinstance(machine, str) or machine not in machines:
        raise ConfigError(
            f"{where}.machine: {machine!r}: is not one of the machines {', '.join(machines)}"
        )
    address = machines[machine][0]
    bind, about = raw.get("bind", address), raw.get("about", "")
    if not _is_address(bind):
        raise ConfigError(f"{where}.bind: {bind!r}: must be an IP address, e.g. 0.0.0.0")
    if not isinstance(about, str):
        raise ConfigError(f"{where}.about: {about!r}: must be a text")
    return Entry(name, machine, address, port, bind, about, tls)


def _check_clashes(daemons: dict[str, Entry], path: Path) -> None:
    seen: dict[tuple[str, int], str] = {}
    for entry in daemons.values():
        other = seen.setdefault((entry.address, entry.port), entry.name)
        if other != entry.name:
            raise ConfigError(
                f"{path}: daemons.{entry.name}.port: {entry.port}: is taken by {other} "
                f"on {entry.address}"
            )
