# SPDX-License-Identifier: BSD-3-Clause
"""A daemon as a Python object: what :func:`nightjarctl.connect` returns.

Safe to share between threads (each has its own network connection). Every call has a deadline.
Failures are exceptions of :mod:`nightjar.errors`.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from nightjar.config.paths import config_names, config_path, read_json
from nightjar.errors import Code, ConfigError, TimedOut, error_for
from nightjar.registry import Entry, Registry
from nightjar.rpc.client import DEFAULT_TIMEOUT_S, Client

KINDS = (
    "camd", "archived", "obslogd", "fitslogd", "streamlinkd", "rotd", "telogd", "merged", "dasd",
)  # fmt: skip
"""Daemons whose configuration ids :func:`connect` accepts beside registered names."""
_POLL_S = 2.0  # longest time that one call waits at the daemon for an operation
_GRACE_S = 5.0  # what such a call may take beyond that
_PYTHON_TYPES = {
    "float": float, "int": int, "str": str, "bool": bool, "ints": list[int], "strs": list[str],
    "list": list[Any], "object": dict[str, Any],
}  # fmt: skip


def configured_entry(kind: str, identity: str) -> Entry:
    """Return where the daemon of a configuration id is; a registered name will do as well.

    Raises
    ------
    ConfigError
        Neither; the message lists what is configured and what is registered.
    """
    try:
        path = config_path(kind, identity)
    except ConfigError as error:
        registry = Registry.find()
        if identity in registry.daemons:
            return registry.daemons[identity]
        if not config_names(kind):
            registered = ", ".join(sorted(registry.daemons)) or "none"
            message = f"{error.message}; registered in {registry.path}: {registered}"
            raise ConfigError(message) from None
        raise
    name = read_json(path).get("daemon")
    if not isinstance(name, str):
        raise ConfigError(f"{path}: daemon: must be the registered name of the daemon")
    return Registry.find(path).daemon(name)


def named_entry(name: str) -> Entry:
    """Return where a daemon is, by its registered name or the id of its configuration.

    Raises
    ------
    ConfigError
        Unknown; the message lists the names that are known.
    """
    registry = Registry.find()
    if name in registry.daemons:
        return registry.daemons[name]
    for kind in KINDS:
        if name in config_names(kind):
            return configured_entry(kind, name)
    ids = {identity for kind in KINDS for identity in config_names(kind)}
    known = ", ".join(sorted(set(registry.daemons) | ids)) or "none"
    raise ConfigError(f"no daemon or id {name!r} in {registry.path} or beside it; known: {known}")


class Operation:
    """A command that takes longer, under way at a daemon.

    It goes on whether or not anybody waits; an object may be dropped, kept, or made again from
    the id with :meth:`Connection.operation`.
    """

    def __init__(self, connection: Connection, identity: str) -> None:
        self.id = identity
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Operation {self.id} of {self._connection.name}>"

    def progress(self) -> dict[str, Any]:
        """Return its present state.

        Returns
        -------
        dict
            operation, name, state (running, done, failed, cancelled), fraction (0..1 or None),
            stage, message, eta_s, code, detail, result, started, ended.
        """
        return self._ask("operation")

    @property
    def is_done(self) -> bool:
        """Whether it ended, well or not."""
        return bool(self.progress()["state"] != "running")

    def wait(self, timeout_s: float | None = None) -> Any:
        """Return its result when it has ended.

        Parameters
        ----------
        timeout_s
            Deadline, seconds; None waits for as long as the daemon answers.

        Raises
        ------
        TimedOut
            It has not ended by the deadline; it goes on.
        Cancelled
            Somebody cancelled it.
        NightjarError
            It failed.
        Unreachable
            The daemon does not answer any more.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = _POLL_S if deadline is None else deadline - time.monotonic()
            state = self.poll(max(0.0, min(_POLL_S, left)))
            if state["state"] != "running":
                return outcome(state)
            if deadline is not None and time.monotonic() >= deadline:
                stage = " ".join(part for part in (state["stage"], state["message"]) if part)
                raise TimedOut(
                    f"{state['name']} of {self._connection.name} has not ended after "
                    f"{timeout_s:g} s ({stage or 'no stage reported'}); it goes on",
                    operation=self.id,
                )

    def poll(self, wait_s: float = 0.0) -> dict[str, Any]:
        """Return its state when it ends, or after `wait_s` (at most 5) seconds."""
        return self._ask("wait", timeout=min(wait_s, 5.0))

    def cancel(self) -> dict[str, Any]:
        """Ask the daemon to give up; returns the state at once: wait for the end.

        Raises
        ------
        AccessDenied
            This machine may not command.
        """
        return self._ask("cancel")

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        asked = {"operation": self.id, **arguments}
        limit_s = arguments.get("timeout", 0.0) + max(self._connection.timeout_s, _GRACE_S)
        reply: dict[str, Any] = self._connection.call(
            command, asked, timeout_s=limit_s, is_safe=True
        )
        return reply


def outcome(state: Mapping[str, Any]) -> Any:
    """Return the result in the state of an ended operation, or raise its failure."""
    if state["state"] == "done":
        return state["result"]
    detail = dict(state.get("detail") or {})
    for taken in ("message", "code"):
        detail.pop(taken, None)
    raise error_for(Code.from_name(str(state["code"])), str(state["message"]), detail)


class Connection:
    """The face of one daemon.

    Every command of the daemon is a method of the same name, with the arguments of its table:
    ``help(connection.set_exposure)``. The table is asked of the daemon once, at the first use of
    such a method; making the object sends nothing.

    Parameters
    ----------
    entry
        Where the daemon is.
    timeout_s
        Deadline of each call, seconds.
    """

    def __init__(self, entry: Entry, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.entry = entry
        self.timeout_s = timeout_s
        self._client = Client(entry, timeout_s)
        self._table: dict[str, dict[str, Any]] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self.entry.address}:{self.entry.port}>"

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The daemon's registered name."""
        return self.entry.name

    def call(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        is_safe: bool = False,
    ) -> Any:
        """Send one command; return the value of the reply.

        Parameters
        ----------
        command, arguments
            As in the daemon's table, see :meth:`describe`.
        timeout_s
            Deadline of this call; default that of the connection.
        is_safe
            Harmless to repeat: try once more where the connection breaks before the reply.

        Raises
        ------
        Unreachable, TimedOut
            No connection, or no reply in time (the command may still be carried out).
        AccessDenied, Refused, Busy, InvalidArgument, NightjarError
            What the daemon replied.
        """
        return self._client.call(command, arguments, timeout_s=timeout_s, is_safe=is_safe)

    def status(self) -> dict[str, Any]:
        """Return the daemon's ready-made snapshot: plain values, never waits for a device."""
        value: dict[str, Any] = self.call("status", is_safe=True)
        return value

    def describe(self) -> dict[str, Any]:
        """Return the daemon's version and its command table as plain values."""
        value: dict[str, Any] = self.call("describe", is_safe=True)
        return value

    def operation(self, identity: str) -> Operation:
        """Return the operation of an id that a command returned (perhaps to somebody else)."""
        return Operation(self, identity)

    def start_operation(self, command: str, arguments: dict[str, Any] | None = None) -> Operation:
        """Send a command that begins an operation; return it."""
        return Operation(self, str(self.call(command, arguments)["operation"]))

    def close(self) -> None:
        """Drop the network connection of this thread; the next call makes a new one."""
        self._client.close()

    # --- the daemon's commands as methods ---

    def _commands(self) -> dict[str, dict[str, Any]]:
        if self._table is None:
            table = {}
            for command in self.describe()["commands"]:
                for name in (command["name"], *command.get("aliases", ())):
                    table[str(name)] = command
            self._table = table
        return self._table

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        command = self._commands().get(name)
        if command is None:
            known = ", ".join(sorted(self._commands()))
            raise AttributeError(f"{self.name} has no command {name!r}; it has: {known}")
        method = _method(self, command)
        self.__dict__[name] = method
        return method

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(self._table or {})})


def _method(connection: Connection, command: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a command as a function with signature and docstring."""
    signature = command_signature(command)
    name = str(command["name"])

    def method(*arguments: Any, **named: Any) -> Any:
        given = dict(signature.bind(*arguments, **named).arguments)
        if command.get("is_operation"):
            return connection.start_operation(name, given)
        return connection.call(name, given, is_safe=bool(command.get("is_safe")))

    method.__name__ = method.__qualname__ = name
    method.__doc__ = command_help(command)
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method


def command_signature(command: Mapping[str, Any]) -> inspect.Signature:
    """Return the Python signature of a command of a table (plain values)."""
    parameters = []
    for parameter in command["parameters"]:
        kind: Any = _PYTHON_TYPES.get(parameter["kind"], Any)
        if parameter["is_nullable"]:
            kind = kind | None
        default = parameter["default"]
        parameters.append(
            inspect.Parameter(
                parameter["name"],
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if default == "required" else default,
                annotation=kind,
            )
        )
    parameters.sort(key=lambda each: each.default is not inspect.Parameter.empty)
    returns: Any = Operation if command.get("is_operation") else Any
    return inspect.Signature(parameters, return_annotation=returns)


def command_help(command: Mapping[str, Any]) -> str:
    """Return the docstring of a command of a table (plain values)."""
    lines = [str(command["help"])]
    if command["parameters"]:
        lines += ["", "Parameters", "----------"]
    for parameter in command["parameters"]:
        low, high = parameter["low"], parameter["high"]
        limits = f" From {low:g} to {high:g}." if low is not None and high is not None else ""
        choices = f" One of {', '.join(parameter['choices'])}." if parameter["choices"] else ""
        unit = f" ({parameter['unit']})" if parameter["unit"] else ""
        lines += [parameter["name"], f"    {parameter['help']}{unit}{limits}{choices}"]
    if command.get("is_operation"):
        lines += ["", "Returns", "-------", "Operation", "    Under way; wait() for its end."]
    return "\n".join(lines)


Face = TypeVar("Face", bound=Connection)


@overload
def connect(name: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> Connection: ...


@overload
def connect(name: str, timeout_s: float = DEFAULT_TIMEOUT_S, *, face: type[Face]) -> Face: ...


def connect(
    name: str, timeout_s: float = DEFAULT_TIMEOUT_S, *, face: type[Connection] = Connection
) -> Connection:
    """Return the connection to a daemon; nothing is sent until the first call.

    Parameters
    ----------
    name
        Registered name of the daemon (``localhost_test``) or the id of its configuration
        (``test`` for ``camd/test.json``).
    timeout_s
        Deadline of each call, seconds.
    face
        A class with written-out methods for editors and type checkers:
        :class:`nightjarctl.Camera`.

    Raises
    ------
    ConfigError
        No daemon of that name; the message lists those that are known.
    """
    return face(named_entry(name), timeout_s)
