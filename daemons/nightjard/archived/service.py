# SPDX-License-Identifier: BSD-3-Clause
"""The thin RPC face of the archive daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import URL

from nightjar.access import AccessPolicy, Role
from nightjar.api.archive import COMMANDS
from nightjar.api.commands import Command
from nightjar.api.nights import NIGHT_COMMANDS
from nightjar.daemon import Context, Spec
from nightjar.errors import Code, Refused
from nightjar.registry import Registry
from nightjar.rpc.server import Handler, caller_address
from nightjard.archived.config import ArchiveConfig, check
from nightjard.archived.intake import Announcement
from nightjard.archived.model import Archive
from nightjard.archived.nights.model import Nights
from nightjard.archived.store import Store
from nightjard.archived.tools import Tools

DATABASE_NAME = "archive.db"


class ArchiveService:
    """Checks who calls, calls the model, translates."""

    commands: Sequence[Command] = (*COMMANDS, *NIGHT_COMMANDS)

    def __init__(self, context: Context[ArchiveConfig]) -> None:
        config = context.config
        self._registry: Registry = context.registry
        notifiers = config.notify_machines
        self._notifiers = AccessPolicy(
            context.registry, config.control_machines if notifiers is None else notifiers, ()
        )
        url = config.database_url or URL.create(
            "sqlite", database=str((context.state / DATABASE_NAME).absolute())
        ).render_as_string(hide_password=False)
        self._store = Store(url, config.daemon)
        tools = Tools(
            context.clock, context.health, context.operations, context.metrics, context.obslog
        )
        self._model = Archive(config, self._store, tools)
        self._nights = None
        if config.nights is not None:
            self._nights = Nights(config.nights, self._store.database, tools)

    def handlers(self) -> Mapping[str, Handler]:
        """Return a handler per command."""
        model = self._model
        return {
            "notify_frame": self._notify_frame,
            "set_settings": lambda changes: model.set_settings(changes, self._caller()),
            "list_frames": model.catalog.frames,
            "show_frame": lambda frame: model.catalog.show(frame),
            "list_strays": model.strays,
            "discard": lambda frames: model.discard(frames, self._caller()),
            "retry": lambda frames: model.retry(list(frames)),
            "acknowledge": lambda: model.acknowledge(self._caller()),
            "adopt_root": lambda: model.adopt_root(self._caller()),
            **self._night_handlers(),
        }

    def _night_handlers(self) -> Mapping[str, Handler]:
        if self._nights is None:
            return {command.name: self._refuse_nights for command in NIGHT_COMMANDS}
        handlers = dict(self._nights.handlers(self._caller))
        notify_cube = handlers["notify_cube"]

        def notify(**arguments: Any) -> Any:
            self._require_notifier()
            return notify_cube(**arguments)

        return {**handlers, "notify_cube": notify}

    def _refuse_nights(self, **_: Any) -> Any:
        raise Refused("this archive has no nights: its configuration has no key `nights`")

    def _caller(self) -> str:
        address = caller_address()
        return self._registry.machine_of(address) or address

    def _notify_frame(self, **arguments: Any) -> dict[str, Any]:
        self._require_notifier()
        return self._model.notify(Announcement(**arguments))

    def _require_notifier(self) -> None:
        address = caller_address()
        if self._notifiers.role(address) is not Role.CONTROL:
            allowed = ", ".join(self._notifiers.control_machines) or "no machine"
            raise Refused(
                f"frames are not accepted from {self._notifiers.name(address)}; "
                f"notify_machines: {allowed}",
                code=Code.FRAME_REFUSED, machine=address,
            )  # fmt: skip

    def status(self) -> Mapping[str, Any]:
        """Return the present snapshot."""
        nights = self._nights.brief() if self._nights is not None else None
        return {**self._model.status(), "nights": nights}

    def start(self) -> None:
        """Take over what an earlier life left, then start the threads."""
        self._model.open()
        self._model.start()
        if self._nights is not None:
            self._nights.start()

    def stop(self, report: Callable[[str], None]) -> None:
        """Finish the frames in hand and close the database."""
        if self._nights is not None:
            self._nights.stop(report)
        self._model.stop(report)
        self._store.close()

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the daemon's own thread went round."""
        return self._model.heartbeat_age_s()


SPEC = Spec(
    program="archived",
    help="Archive daemon: takes finished frames over and keeps them.",
    config_model=ArchiveConfig,
    build=ArchiveService,
    check=check,
)
