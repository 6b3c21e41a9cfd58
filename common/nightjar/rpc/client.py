# SPDX-License-Identifier: BSD-3-Clause
"""Calling a daemon: one connection per thread, a deadline on every call, no silent retries."""

from __future__ import annotations

import threading
import time
from typing import Any

import Pyro5.client
import Pyro5.errors
from Pyro5 import config as pyro_config

from nightjar.api.reply import value_of
from nightjar.errors import Code, NightjarError, TimedOut, Unreachable
from nightjar.registry import Entry
from nightjar.rpc.tls import use_for_calls

DEFAULT_TIMEOUT_S = 5.0
_MAX_IDLE_S = 60.0  # the server drops idle connections later than this
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024

pyro_config.SERIALIZER = "serpent"
pyro_config.MAX_MESSAGE_SIZE = _MAX_MESSAGE_BYTES
pyro_config.SOCK_NODELAY = True


class Client:
    """The face of one daemon for a program on any machine.

    Parameters
    ----------
    entry
        Where the daemon is.
    timeout_s
        Deadline of a call that names none.

    Raises
    ------
    ConfigError
        The registry asks for TLS and its files cannot be used.

    Notes
    -----
    Safe to share between threads: each gets its own connection, as Pyro asks.
    """

    def __init__(self, entry: Entry, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        use_for_calls(entry.tls)
        self.entry = entry
        self.timeout_s = timeout_s
        self._local = threading.local()

    def call(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        is_safe: bool = False,
    ) -> Any:
        """Return the value of a command's reply.

        Parameters
        ----------
        command, arguments
            As in the daemon's command table.
        timeout_s
            Deadline, seconds.
        is_safe
            Retry once on a fresh connection if the old one broke before the reply.

        Raises
        ------
        Unreachable, TimedOut
            No connection, or no reply in time. After TimedOut the command may still be carried
            out; the message says so.
        NightjarError
            Whatever the daemon replied.
        """
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        try:
            return self._attempt(command, arguments or {}, deadline, is_safe)
        except Unreachable:
            if not is_safe or time.monotonic() >= deadline:
                raise
            return self._attempt(command, arguments or {}, deadline, is_safe)

    def _attempt(
        self, command: str, arguments: dict[str, Any], deadline: float, is_safe: bool
    ) -> Any:
        remaining = max(0.001, deadline - time.monotonic())
        proxy = self._proxy(remaining)
        try:
            # Two methods are known by name, so the metadata round trip of Pyro is not needed.
            reply = proxy._pyroInvoke("call", (command, arguments), {})
        except Pyro5.errors.TimeoutError:
            self.close()
            raise TimedOut(
                f"{self._who()} did not answer {command!r} within {remaining:.1f} s; "
                + (
                    f"it hangs, or the network does: look at its journal on {self.entry.machine}"
                    if is_safe
                    else "it may still carry it out: look at status"
                ),
                daemon=self.entry.name, command=command,
            ) from None  # fmt: skip
        except Pyro5.errors.ProtocolError as error:
            self.close()
            raise NightjarError(f"{self._who()}: {error}", code=Code.PROTOCOL) from None
        except (Pyro5.errors.CommunicationError, OSError) as error:
            self.close()
            raise Unreachable(self._unreachable(error), daemon=self.entry.name) from None
        except Pyro5.errors.PyroError as error:
            self.close()
            raise NightjarError(
                f"{self._who()} is not a Nightjar daemon of that name: {error}", code=Code.PROTOCOL
            ) from None
        self._local.used = time.monotonic()
        return value_of(reply)

    def _proxy(self, timeout_s: float) -> Pyro5.client.Proxy:
        proxy = getattr(self._local, "proxy", None)
        if proxy is not None and time.monotonic() - self._local.used > _MAX_IDLE_S:
            self.close()
            proxy = None
        if proxy is None:
            proxy = Pyro5.client.Proxy(self.entry.uri)
            self._local.proxy = proxy
            self._local.used = time.monotonic()
        proxy._pyroTimeout = timeout_s
        return proxy

    def close(self) -> None:
        """Drop this thread's connection; the next call makes a new one."""
        proxy = getattr(self._local, "proxy", None)
        if proxy is not None:
            proxy._pyroRelease()
            self._local.proxy = None

    def _who(self) -> str:
        return f"{self.entry.name} at {self.entry.address}:{self.entry.port}"

    def _unreachable(self, error: Exception) -> str:
        text = str(error)
        if "refused" in text:
            return (
                f"cannot reach {self._who()}: connection refused; "
                f"is it running on {self.entry.machine}?"
            )
        if "receiving" in text or "closed" in text or "reset" in text or "sending" in text:
            return (
                f"{self._who()} closed the connection; it was stopped, or this machine is not "
                f"in its registry, or has too many connections open"
            )
        return f"cannot reach {self._who()}: {text}"
