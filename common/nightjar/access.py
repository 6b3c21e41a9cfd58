# SPDX-License-Identifier: BSD-3-Clause
"""Who may command and who may read, by the machine a connection comes from."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from nightjar.errors import AccessDenied
from nightjar.registry import Registry, normal_address


class Role(enum.IntEnum):
    """What a machine may do."""

    NONE = 0
    QUERY = 1
    CONTROL = 2


class AccessPolicy:
    """Decides by peer address; names were resolved once, from the registry.

    Parameters
    ----------
    registry
        Gives the addresses of machine names.
    control_machines
        May command and read.
    query_machines
        May read; None for every machine of the registry.

    Raises
    ------
    ConfigError
        A name is not in the registry.
    """

    def __init__(
        self,
        registry: Registry,
        control_machines: Sequence[str],
        query_machines: Sequence[str] | None = None,
    ) -> None:
        self._registry = registry
        self.control_machines = tuple(control_machines)
        self._control = {a for name in control_machines for a in registry.addresses(name)}
        readers = registry.machines if query_machines is None else query_machines
        self._query = {a for name in readers for a in registry.addresses(name)}

    def role(self, address: str) -> Role:
        """Return what a machine may do."""
        normal = normal_address(address)
        if normal in self._control:
            return Role.CONTROL
        return Role.QUERY if normal in self._query else Role.NONE

    def name(self, address: str) -> str:
        """Return the machine's name and address for messages."""
        machine = self._registry.machine_of(address)
        return f"{machine} ({address})" if machine else address

    def require(self, address: str, needed: Role, command: str) -> None:
        """Raise AccessDenied unless the machine may use a command."""
        if self.role(address) < needed:
            allowed = ", ".join(self.control_machines) or "no machine"
            raise AccessDenied(
                f"{command} is not accepted from {self.name(address)}; "
                f"control_machines: {allowed}",
                machine=address, control_machines=list(self.control_machines),
            )  # fmt: skip
