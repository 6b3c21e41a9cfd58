# SPDX-License-Identifier: BSD-3-Clause
"""The runtime that carries a service: arguments, configuration, signals, watchdog, orderly stop.

``main(SPEC)`` is the whole ``__main__`` of a daemon. The service is built by the spec from a
:class:`Context` and is started, watched and stopped from here, the same way for each daemon.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from nightjar import __version__, logs, systemd
from nightjar.access import AccessPolicy
from nightjar.api.commands import COMMON_COMMANDS, Command
from nightjar.api.states import Level
from nightjar.clock import NS_PER_S, Clock, SystemClock
from nightjar.config.load import DaemonConfig, load
from nightjar.config.paths import config_path, read_json
from nightjar.errors import ConfigError, NightjarError, StorageError
from nightjar.files import locked, state_folder
from nightjar.health import Health
from nightjar.metrics import Metrics
from nightjar.obslog import ObservatoryLog
from nightjar.operations import Operations
from nightjar.registry import Entry, Registry
from nightjar.rpc.client import Client
from nightjar.rpc.server import Handler, RpcServer
from nightjar.times import iso

log = logging.getLogger(__name__)

HEARTBEAT_LIMIT_S = 5.0
_EXTEND_S = 30  # how far each progress report of a stop moves systemd's deadline

ConfigT = TypeVar("ConfigT", bound=DaemonConfig)
ConfigT_contra = TypeVar("ConfigT_contra", bound=DaemonConfig, contravariant=True)


class Service(Protocol):
    """What a daemon's ``service.py`` gives to the runtime."""

    commands: Sequence[Command]

    def handlers(self) -> Mapping[str, Handler]:
        """Return a handler per command of the table, called with checked arguments by keyword."""
        ...

    def status(self) -> Mapping[str, Any]:
        """Return the present snapshot: never waits for a lock, a device or another command."""
        ...

    def start(self) -> None:
        """Start threads and take over what an earlier life left."""
        ...

    def stop(self, report: Callable[[str], None]) -> None:
        """Stop in order; `report` progress at least every 20 s or be ended."""
        ...

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the thread that owns the device last went round its loop."""
        ...


@dataclass(frozen=True)
class Context(Generic[ConfigT]):
    """What a service is built from."""

    config: ConfigT
    config_path: Path
    registry: Registry
    entry: Entry
    clock: Clock
    health: Health
    operations: Operations
    metrics: Metrics
    obslog: ObservatoryLog
    state: Path
    """Folder for this daemon's small files that must survive a restart."""
    hurry: threading.Event
    """Set when a second signal asks for a stop without waiting (no ramp to warm)."""

    def snapshot(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a status: what every daemon tells of itself, and what this one does."""
        return {
            "time": iso(self.clock.now_ns()),
            "daemon": self.entry.name,
            "health": self.health.snapshot(),
            **values,
        }


@dataclass(frozen=True)
class Spec(Generic[ConfigT]):
    """What makes one daemon different from another."""

    program: str
    help: str
    config_model: type[ConfigT]
    build: Callable[[Context[ConfigT]], Service]
    check: Callable[[ConfigT, Registry], Sequence[str]] | None = None
    """Returns warnings about a configuration that is valid but doubtful."""
    variants: Mapping[str, Spec[Any]] = field(default_factory=dict)
    """Other kinds of configuration of the same program, by the value of the key ``mode``, whose
    default is the kind of this one."""

    @property
    def config_models(self) -> tuple[type[DaemonConfig], ...]:
        """The models of all kinds of configuration, this one's first."""
        return (self.config_model, *(each.config_model for each in self.variants.values()))

    def for_file(self, path: Path) -> Spec[Any]:
        """Return the spec for a configuration file.

        Raises
        ------
        ConfigError
            Not readable, or its ``mode`` is none that there is.
        """
        if not self.variants:
            return self
        kinds = {self.config_model.model_fields["mode"].default: self, **self.variants}
        mode = read_json(path).get("mode")
        if mode is None:
            return self
        if not isinstance(mode, str) or mode not in kinds:
            known = ", ".join(map(repr, kinds))
            raise ConfigError(f"{path}: mode: {mode!r}: must be one of {known}, or not given")
        return kinds[mode]


def _parser(spec: Spec[Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=spec.program, description=spec.help)
    parser.add_argument(
        "config",
        help=f"configuration file, or the name of one in {spec.program.upper()}_CONFIG_ROOT",
    )
    parser.add_argument(
        "--check", action="store_true", help="check the configuration and the registry, then exit"
    )
    parser.add_argument(
        "--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR")
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def resolve_config(program: str, given: str) -> Path:
    """Return the configuration file that a person named by path or by id."""
    path = Path(given)
    if path.suffix == ".json" or os.sep in given:
        return path
    return config_path(program, given)


def main(spec: Spec[Any], arguments: Sequence[str] | None = None) -> int:
    """Run a daemon until it is told to stop; returns the exit code."""
    options = _parser(spec).parse_args(arguments)
    logs.set_up(options.log_level)
    try:
        path = resolve_config(spec.program, options.config)
        spec = spec.for_file(path)
        config = load(path, spec.config_model)
        registry = Registry.find(path)
        try:
            entry = registry.daemon(config.daemon)
            access = AccessPolicy(registry, config.control_machines, config.query_machines)
            warnings = spec.check(config, registry) if spec.check else ()
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.message}") from error
        for warning in warnings:
            log.warning("%s: %s", path, warning)
        if options.check:
            print(f"{path}: valid; {entry.name} on {entry.address}:{entry.port}")  # noqa: T201
            return 0
        return _Runtime(spec, config, path, registry, entry, access).run()
    except NightjarError as error:
        for line in error.message.splitlines():
            print(f"{spec.program}: {line}", file=sys.stderr)  # noqa: T201
        return error.code.exit_code


class _Runtime:
    """One life of a daemon."""

    def __init__(
        self,
        spec: Spec[Any],
        config: DaemonConfig,
        path: Path,
        registry: Registry,
        entry: Entry,
        access: AccessPolicy,
    ) -> None:
        self.spec = spec
        self.config = config
        self.path = path
        self.registry = registry
        self.entry = entry
        self.access = access
        self.clock: Clock = SystemClock()
        self.stop_asked = threading.Event()
        self.hurry = threading.Event()
        self.stop_reason = ""

    def run(self) -> int:
        state = state_folder() / self.config.daemon
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the folder {state} cannot be made: {error.strerror}") from error
        with locked(state / "lock", f"{self.spec.program} {self.config.daemon}"):
            return self._run(state)

    def _run(self, state: Path) -> int:
        obslog = self._make_obslog(state)
        metrics = Metrics(self.entry.name)
        health = Health(self.clock.now_ns, lambda *change: _log_health(obslog, *change))
        operations = Operations(self.clock)
        context = Context(
            self.config, self.path, self.registry, self.entry, self.clock, health, operations,
            metrics, obslog, state, self.hurry,
        )  # fmt: skip
        started: Service | None = None
        server: RpcServer | None = None
        self._catch_signals()
        try:
            service = self.spec.build(context)
            server = RpcServer(
                self.entry, _all_commands(service, operations), self.access, self.clock
            )
            started = service
            service.start()
            server.start()
            if self.config.metrics_port is not None:
                metrics.serve(self.entry.bind, self.config.metrics_port)
            obslog.info(f"{self.spec.program} {__version__} started (pid {os.getpid()})")
            self._watch(service)
            obslog.info(f"{self.spec.program} is stopping: {self.stop_reason}")
            systemd.notify("STOPPING=1")
            started = None
            service.stop(_report_stop)
            obslog.info(f"{self.spec.program} stopped")
        finally:
            if started is not None:
                started.stop(_report_stop)
            if server is not None:
                server.stop()
            metrics.close()
            obslog.close()
        return 0

    def _make_obslog(self, state: Path) -> ObservatoryLog:
        caller = None
        name = self.registry.log_daemon
        if name is not None and name != self.entry.name:
            caller = Client(self.registry.daemon(name))
        spool = state / "obslog-spool.db"
        return ObservatoryLog(self.config.log_name, caller, spool, self.clock)

    def _catch_signals(self) -> None:
        """Have SIGTERM and SIGINT ask for the stop, and a second one for haste.

        The events are set by a thread of its own that reads Python's wake-up pipe: a handler runs
        in the middle of the main thread, perhaps while that holds the lock of the very event.
        """
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(reading, True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

        def listen() -> None:
            while numbers := os.read(reading, 16):
                for number in numbers:
                    if number in (signal.SIGTERM, signal.SIGINT):
                        self._asked_to_stop(signal.Signals(number).name)

        threading.Thread(target=listen, name="signals", daemon=True).start()

    def _asked_to_stop(self, name: str) -> None:
        if self.stop_asked.is_set():
            self.hurry.set()
        self.stop_reason = f"{name} received"
        self.stop_asked.set()

    def _watch(self, service: Service) -> None:
        """Feed the watchdog for as long as the device's thread is alive; return to stop."""
        systemd.notify("READY=1", f"STATUS={_status_line(service)}")
        interval_s = min(watchdog := systemd.watchdog_interval_s() or 2.0, 2.0) / 2
        told = ""
        while not self.stop_asked.wait(interval_s):
            age_s = service.heartbeat_age_s()
            if age_s > max(HEARTBEAT_LIMIT_S, watchdog):
                log.error("the device thread has not moved for %.1f s", age_s)
                continue  # no WATCHDOG=1: systemd restarts us
            line = _status_line(service)
            if line != told:
                systemd.notify("WATCHDOG=1", f"STATUS={line}")
                told = line
            else:
                systemd.notify("WATCHDOG=1")


def _status_line(service: Service) -> str:
    status = service.status()
    detail = status.get("state", "")
    return f"{status.get('summary', '')} {detail}".strip()


def _report_stop(message: str) -> None:
    log.info("stopping: %s", message)
    systemd.notify(
        "WATCHDOG=1", f"EXTEND_TIMEOUT_USEC={_EXTEND_S * 1_000_000}", f"STATUS=stopping: {message}"
    )


def _log_health(obslog: ObservatoryLog, part: str, level: Level, reason: str) -> None:
    if level is Level.OK:
        obslog.info(f"{part} is well again")
    elif level is Level.DEGRADED:
        obslog.warning(f"{part}: {reason}")
    else:
        obslog.error(f"{part}: {reason}")


def _all_commands(
    service: Service, operations: Operations
) -> dict[str, tuple[Command, Handler]]:
    handlers = service.handlers()
    table = {command.name: command for command in service.commands}
    if set(table) != set(handlers):
        odd = sorted(set(table) ^ set(handlers))
        raise ConfigError(f"command table and handlers differ: {', '.join(odd)}")
    merged = {name: (command, handlers[name]) for name, command in table.items()}
    common: dict[str, Handler] = {
        "status": lambda: dict(service.status()),
        "describe": lambda: {
            "version": __version__,
            "commands": [command.describe() for command, _ in merged.values()],
        },
        "operation": lambda operation: operations.get(operation).snapshot(),
        "wait": lambda operation, timeout: _wait(operations, operation, timeout),
        "cancel": lambda operation: _cancel(operations, operation),
    }
    for command in COMMON_COMMANDS:
        merged[command.name] = (command, common[command.name])
    return merged


def _wait(operations: Operations, identity: str, timeout_s: float) -> dict[str, Any]:
    operation = operations.get(identity)
    operation.wait(timeout_s)
    return operation.snapshot()


def _cancel(operations: Operations, identity: str) -> dict[str, Any]:
    operation = operations.get(identity)
    operation.cancel()
    return operation.snapshot()


def heartbeat_age(now_ns: int, last_beat_ns: int) -> float:
    """Return the age of a heartbeat, seconds."""
    return (now_ns - last_beat_ns) / NS_PER_S
