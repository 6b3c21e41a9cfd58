# SPDX-License-Identifier: BSD-3-Clause
"""Serving commands: one Pyro5 object per daemon, access by machine, hostile bytes survived.

Strangers are turned away before a byte of theirs is read. Only serpent and JSON are accepted;
nothing sent can make this process unpickle, unpack a bomb, start threads or wait for the rest of a
message for long. Detailed tracebacks stay in the daemon's log.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import Pyro5.errors
import Pyro5.server
from Pyro5 import config as pyro_config
from Pyro5.callcontext import current_context
from Pyro5.svr_threads import ClientConnectionJob, SocketServer_Threadpool

from nightjar.access import AccessPolicy, Role
from nightjar.api.commands import Command
from nightjar.api.reply import Reply, failed, ok, plain
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Code, ConfigError, InvalidArgument, NightjarError, Refused
from nightjar.registry import Entry, normal_address
from nightjar.rpc.tls import server_context
from nightjar.rpc.wire import HANDSHAKE_TIMEOUT_S, Wire, accept_plain_serializers_only

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 1024 * 1024
IDLE_TIMEOUT_S = 120.0
MAX_CONNECTIONS_PER_MACHINE = 64
_REFUSAL_LOG_INTERVAL_S = 10
_ACCEPT_PAUSE_S = 0.2


class _Connection(ClientConnectionJob):  # type: ignore[misc]
    """One client: handshake under a short deadline, then requests until it goes."""

    def __init__(self, client: socket.socket, address: Any, daemon: _PyroDaemon) -> None:
        # Not the parent's: it would wrap the socket in Pyro's own, patient way.
        self.csock = Wire(client)
        self.caddr = address
        self.daemon = daemon

    def __call__(self) -> None:
        address = self.caddr[0]
        self.daemon.connections.add(self)
        try:
            if self.daemon.tls is not None:
                # In this thread: who is slow to shake hands keeps nobody else out.
                self.csock.sock.settimeout(HANDSHAKE_TIMEOUT_S)
                self.csock.sock = self.daemon.tls.wrap_socket(self.csock.sock, server_side=True)
            if not self.daemon._handshake(self.csock):
                log.warning("turned away %s: not a valid connect message", address)
                return
            self.csock.patience_s = IDLE_TIMEOUT_S
            while True:
                self.daemon.handleRequest(self.csock)
        except ssl.SSLError as error:
            log.warning("turned away %s: TLS: %s", address, error.reason or error)
        except (OSError, Pyro5.errors.ConnectionClosedError, Pyro5.errors.TimeoutError):
            log.debug("%s disconnected", address)
        except Exception as error:  # noqa: BLE001 - whatever a client sends must not end a thread
            log.warning("closed the connection of %s: %s", address, _one_line(error))
        finally:
            self.daemon.connections.discard(self)
            self.csock.close()
            self.daemon.released(address)

    def hang_up(self) -> None:
        """End the connection from another thread; its thread sees the end and leaves."""
        with contextlib.suppress(OSError):
            self.csock.sock.shutdown(socket.SHUT_RDWR)


class _Gate(SocketServer_Threadpool):  # type: ignore[misc]
    """Pyro's thread server, but strangers are refused at the door and nobody takes all seats."""

    def events(self, eventsockets: Any) -> None:
        """Accept one connection if there is one."""
        if not self._selector.select(pyro_config.POLLTIMEOUT):
            return
        try:
            client, address = self.sock.accept()
        except TimeoutError:
            return
        except OSError as error:
            if not self.shutting_down:  # no descriptor left, most likely
                log.error("cannot accept connections: %s", error)
                time.sleep(_ACCEPT_PAUSE_S)
            return
        if self.shutting_down or not self.daemon.admit(address[0]):
            client.close()
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        job = _Connection(client, address, self.daemon)
        threading.Thread(target=job, name=f"rpc-{address[0]}", daemon=True).start()

    def end(self, accepting: threading.Thread) -> None:
        """Stop accepting; Pyro's own way sleeps 0.2 s where this one waits for threads."""
        self.shutting_down = True
        if accepting.is_alive():
            self.wakeup()
            accepting.join(5)
        workers = list(self.pool.idle)  # of Pyro's; ours are not in its pool
        self.pool.closed = True
        for worker in workers:
            worker.process(None)
        for worker in workers:
            worker.join(1)
        self.close()


class _PyroDaemon(Pyro5.server.Daemon):  # type: ignore[misc]
    def __init__(self, entry: Entry, access: AccessPolicy) -> None:
        self._access = access
        self.connections: set[_Connection] = set()
        self._seats: Counter[str] = Counter()
        self._seats_lock = threading.Lock()
        self._refused_at: dict[str, float] = {}
        self.tls = server_context(entry.tls) if entry.tls is not None else None
        was, pyro_config.SSL = pyro_config.SSL, False  # or it would shake hands while it accepts
        try:
            super().__init__(host=entry.bind, port=entry.port)
        finally:
            pyro_config.SSL = was
        # Pyro5 offers no hook between accept and the first read; the state is the parent's.
        self.transportServer.__class__ = _Gate

    def admit(self, address: str) -> bool:
        """Tell whether a connection from `address` may talk at all; the caller counts as seated."""
        known = self._access.role(address) is not Role.NONE
        with self._seats_lock:
            free = self._seats[address] < MAX_CONNECTIONS_PER_MACHINE
            if known and free:
                self._seats[address] += 1
                return True
        reason = "too many connections" if known else "not a machine of the registry"
        self._log_refusal(address, reason)
        return False

    def released(self, address: str) -> None:
        """Free the seat of a connection that ended."""
        with self._seats_lock:
            self._seats[address] -= 1
            if self._seats[address] <= 0:
                del self._seats[address]

    def _log_refusal(self, address: str, reason: str) -> None:
        # Every refusal is counted; the log is not a way to fill the disk.
        now = time.monotonic()
        if now - self._refused_at.get(address, -1e9) >= _REFUSAL_LOG_INTERVAL_S:
            self._refused_at[address] = now
            log.warning("refused a connection from %s: %s", address, reason)


class Endpoint:
    """The one object that is exposed."""

    def __init__(self, server: RpcServer) -> None:
        self._server = server

    def call(self, command: Any, arguments: Any = None) -> Reply:
        """Carry out a command of the table; see :class:`nightjar.api.reply.Reply`."""
        address: Any = current_context.client_sock_addr
        return self._server.handle(command, arguments, address[0] if address else "unknown")

    def status(self) -> Reply:
        """Return the status snapshot."""
        return self.call("status")


Pyro5.server.expose(Endpoint)

Handler = Callable[..., Any]

_caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="unknown")


def caller_address() -> str:
    """Return the address of the machine whose call this thread carries out; else "unknown"."""
    return _caller.get()


class RpcServer:
    """Serves one daemon's commands.

    Parameters
    ----------
    entry
        Name, address and port.
    commands
        ``{name: (Command, handler)}``; the handler gets the checked arguments by keyword.
    access
        Who may do what.
    clock
        Stamps replies.

    Raises
    ------
    ConfigError
        The address is not of this machine, or the port is taken.
    """

    def __init__(
        self,
        entry: Entry,
        commands: Mapping[str, tuple[Command, Handler]],
        access: AccessPolicy,
        clock: Clock,
    ) -> None:
        self._entry = entry
        self._access = access
        self._clock = clock
        self._commands = dict(commands)
        for command, handler in list(commands.values()):
            for alias in command.aliases:
                self._commands[alias] = (command, handler)
        self._warned: dict[str, int] = {}
        pyro_config.MAX_MESSAGE_SIZE = MAX_MESSAGE_BYTES
        pyro_config.POLLTIMEOUT = 0.5
        pyro_config.THREADPOOL_SIZE_MIN = 1  # connections have threads of their own
        pyro_config.THREADPOOL_SIZE = 1
        pyro_config.ITER_STREAMING = False
        pyro_config.DETAILED_TRACEBACK = False
        accept_plain_serializers_only()
        self._pyro = self._listen()
        self._pyro.register(Endpoint(self), entry.name)
        self._thread = threading.Thread(target=self._loop, name="rpc-accept", daemon=True)

    def _listen(self) -> _PyroDaemon:
        entry = self._entry
        where = f"{entry.bind}:{entry.port}"
        try:
            return _PyroDaemon(entry, self._access)
        except OSError as error:
            if error.errno == 98:  # EADDRINUSE
                raise ConfigError(
                    f"port {where} is already in use: is {entry.name} already running?",
                    port=entry.port,
                ) from error
            raise ConfigError(
                f"cannot listen on {where}: {error.strerror}; the registry says that {entry.name} "
                f"runs on {entry.machine}"
            ) from error

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def _loop(self) -> None:
        self._pyro.requestLoop()

    def stop(self) -> None:
        """Stop answering; returns when the accepting thread has ended (at most 5 s)."""
        gate = self._pyro.transportServer
        if gate is None:
            return
        gate.end(self._thread)
        self._pyro.close()
        for connection in list(self._pyro.connections):
            connection.hang_up()

    def handle(self, command: Any, arguments: Any, address: str) -> Reply:
        """Return the reply to a call from `address`; never raises."""
        now_ns = self._clock.now_ns()
        token = _caller.set(normal_address(address))
        try:
            value = self._carry_out(command, arguments, normal_address(address))
            return ok(plain(value), self._clock.now_ns())
        except NightjarError as error:
            if isinstance(error, Refused):
                self._log_refusal(str(command)[:40], error, address)
            return failed(error, now_ns)
        except Exception as error:
            number = f"{now_ns:x}"[-8:]
            log.exception("internal error %s in %s", number, str(command)[:40])
            return failed(
                NightjarError(
                    f"internal error {number} ({_one_line(error)}); see the daemon's log",
                    code=Code.INTERNAL,
                ),
                now_ns,
            )
        finally:
            _caller.reset(token)

    def _carry_out(self, command: Any, arguments: Any, address: str) -> Any:
        if not isinstance(command, str):
            raise InvalidArgument("the command must be a text")
        if command not in self._commands:
            known = ", ".join(sorted(self._commands))
            raise InvalidArgument(f"unknown command {command[:40]!r}; known: {known}")
        described, handler = self._commands[command]
        needed = Role.QUERY if described.access == "query" else Role.CONTROL
        self._access.require(address, needed, described.name)
        given = {} if arguments is None else arguments
        if not isinstance(given, dict) or any(not isinstance(key, str) for key in given):
            raise InvalidArgument("arguments must be an object of values by name")
        if not _is_plain(given):
            raise InvalidArgument("arguments must be plain JSON values")
        return handler(**described.check(given))

    def _log_refusal(self, command: str, error: NightjarError, address: str) -> None:
        now = self._clock.monotonic_ns()
        key = f"{address}/{command}/{error.code.name}"
        if now - self._warned.get(key, -(10**18)) >= _REFUSAL_LOG_INTERVAL_S * NS_PER_S:
            if len(self._warned) > 1000:
                self._warned.clear()
            self._warned[key] = now
            log.warning("refused %s from %s: %s", command, address, error.message)


def _is_plain(value: Any) -> bool:
    """Tell whether JSON could have carried it: serpent may make proxies, bytes, sets, dates."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if type(part) is dict:
            if any(type(key) is not str for key in part):
                return False
            waiting += part.values()
        elif type(part) in (list, tuple):
            waiting += part
        elif part is not None and type(part) not in (bool, int, float, str):
            return False
    return True


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
