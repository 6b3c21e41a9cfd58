# SPDX-License-Identifier: BSD-3-Clause
"""One run of a client's command: the session of every program, and the daemons it talks to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from nightjar.cli.session import DEFAULT_TIMEOUT_S, is_terminal, write
from nightjar.cli.session import Session as PlainSession
from nightjar.errors import ConfigError

if TYPE_CHECKING:
    from nightjar.registry import Registry
    from nightjarctl.connection import Connection

__all__ = ["DEFAULT_TIMEOUT_S", "Session", "is_terminal", "pass_session", "write"]


class Session(PlainSession):
    """One run of a command that talks to daemons."""

    def __init__(self, program: str) -> None:
        super().__init__(program)
        self._registry: Registry | None = None

    @property
    def registry(self) -> Registry:
        """The registry in force."""
        if self._registry is None:
            from nightjar.registry import Registry

            self._registry = Registry.find()
        return self._registry

    def daemon(self, name: str) -> Connection:
        """Return the connection to a daemon by its registered name (nothing is sent yet)."""
        from nightjarctl.connection import Connection

        return Connection(self.registry.daemon(name), self.call_timeout_s)

    def configured(self, kind: str, identity: str) -> Connection:
        """Return the connection to a daemon by the id of its configuration.

        Parameters
        ----------
        kind, identity
            ``camd``, ``test`` stand for ``test.json`` in the folder of camd's configurations.
            Where no such file is, a registered daemon of that name will do.

        Raises
        ------
        ConfigError
            Neither; the message lists what is configured.
        """
        from nightjarctl.connection import Connection, configured_entry

        return Connection(configured_entry(kind, identity), self.call_timeout_s)

    def only(self, kind: str, given: str | None) -> Connection:
        """Return the connection to the one daemon of a kind that sites have once.

        `given` (an option or ``KIND_ID``) chooses where there are several.
        """
        from nightjar.config.paths import config_names, config_root

        identity = given or os.environ.get(f"{kind.upper().removesuffix('D')}_ID")
        if identity is None:
            names = config_names(kind)
            if len(names) != 1:
                seen = f"has {', '.join(names)}" if names else "has none"
                raise ConfigError(
                    f"which {kind}? {config_root(kind)} {seen}; "
                    f"name one, or set {kind.upper()}_CONFIG_ROOT"
                )
            identity = names[0]
        return self.configured(kind, identity)


pass_session = click.make_pass_decorator(Session)
