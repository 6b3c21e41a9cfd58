# SPDX-License-Identifier: BSD-3-Clause
"""TCP sockets of links: names and addresses of either family, buffers, whole messages."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from nightjar.errors import StorageError, Unreachable

SLICE_S = 0.25  # how long a read or write sleeps before it looks around
_BUFFER_BYTES = 4 << 20

Address = tuple[int, tuple[str | int, ...]]


class Closed(Exception):
    """The connection has ended; the text says how."""


def resolve(host: str | None, port: int, *, passive: bool = False) -> list[Address]:
    """Return the addresses of a name, in the system's order.

    Raises
    ------
    Unreachable
        The name is not known.
    """
    flags = socket.AI_PASSIVE if passive else 0
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except OSError as error:
        raise Unreachable(f"the name {host} is not known: {error.strerror}") from error
    listed: list[Address] = [(int(item[0]), (*item[4],)) for item in found]
    return list(dict.fromkeys(listed))


def text_of(sockaddr: tuple[str | int, ...]) -> str:
    """Return an address as people write it."""
    host = str(sockaddr[0]).removeprefix("::ffff:")
    return f"[{host}]:{sockaddr[1]}" if ":" in host else f"{host}:{sockaddr[1]}"


def listen(host: str | None, port: int, interface: str | None) -> socket.socket:
    """Return a listening socket; without `host` for IPv4 and IPv6.

    Raises
    ------
    StorageError
        The port is in use, the address is not ours, or the interface does not exist.
    """
    where = f"{host or 'port'} {port}" if host is None else f"{host}:{port}"
    family, sockaddr = (
        resolve(host, port, passive=True)[0]
        if host is not None
        else (socket.AF_INET6, ("::", port))
    )
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError:  # a machine without IPv6
        if host is not None:
            raise
        listener, sockaddr = socket.socket(socket.AF_INET, socket.SOCK_STREAM), ("0.0.0.0", port)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            only6 = host is not None and sockaddr[0] != "::"
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only6))
        _set_interface(listener, interface)
        _set_buffers(listener)
        listener.bind(sockaddr)
        listener.listen(4)
        listener.settimeout(SLICE_S)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        on = f" (interface {interface})" if interface is not None else ""
        raise StorageError(f"cannot listen on {where}{on}: {reason}") from error
    return listener


def connect(host: str, port: int, interface: str | None, timeout_s: float) -> socket.socket:
    """Return a connection to the first address of a name that takes it.

    Raises
    ------
    Unreachable
        None does; the message says what the last one did.
    """
    last = "no address"
    for family, sockaddr in resolve(host, port):
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            last = error.strerror or str(error)
            continue
        try:
            _set_interface(connection, interface)
            _set_buffers(connection)
            connection.settimeout(timeout_s)
            connection.connect(sockaddr)
            return connection
        except OSError as error:
            connection.close()
            last = f"{text_of(sockaddr)}: {error.strerror or error}"
    on = f" by interface {interface}" if interface is not None else ""
    raise Unreachable(f"cannot connect to {host} port {port}{on}: {last}")


def prepare(connection: socket.socket) -> None:
    """Make a connected socket ready for :func:`send_all` and :func:`receive_into`."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setblocking(True)
    # Not settimeout(): it makes the socket non-blocking, and each call then moves only what fits
    # the kernel's buffer. With the kernel's own timeouts a call moves a whole frame.
    timeout = struct.pack("@ll", 0, round(SLICE_S * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)


def _set_interface(sock: socket.socket, interface: str | None) -> None:
    if interface is not None:
        option = os.fsencode(interface) + b"\0"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, option)


def _set_buffers(sock: socket.socket) -> None:
    # A fixed size ends the kernel's own tuning, so it is only set where it is not cut down.
    for option, name in ((socket.SO_SNDBUF, "wmem_max"), (socket.SO_RCVBUF, "rmem_max")):
        try:
            largest = int(Path("/proc/sys/net/core", name).read_text())
        except (OSError, ValueError):
            continue
        if largest >= _BUFFER_BYTES:
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)


def send_all(
    connection: socket.socket,
    parts: list[bytes | memoryview],
    look: Callable[[bool], None],
    flags: int = 0,
) -> None:
    """Send parts in one go where the kernel takes them.

    Parameters
    ----------
    look
        Called with whether anything moved, whenever a call moved less than all; raises to give up.
    flags
        ``MSG_MORE`` where something follows at once.

    Raises
    ------
    Closed
        The other end has closed.
    """
    left = sum(map(len, parts))
    while True:
        try:
            sent = connection.sendmsg(parts, (), flags)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise Closed(error.strerror or str(error)) from error
        left -= sent
        if not left:
            return
        look(sent > 0)
        parts = _rest(parts, sent)


def _rest(parts: list[bytes | memoryview], sent: int) -> list[bytes | memoryview]:
    for index, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []


def receive_into(
    connection: socket.socket, target: memoryview, look: Callable[[bool], None]
) -> None:
    """Fill `target`; parameters and errors are those of :func:`send_all`."""
    size = len(target)
    done = 0
    while done < size:
        view = target[done:] if done else target
        try:
            count = connection.recv_into(view, 0, socket.MSG_WAITALL)
        except BlockingIOError:
            look(False)
            continue
        except OSError as error:
            raise Closed(error.strerror or str(error)) from error
        if count == 0:
            raise Closed("the other end has closed the connection")
        done += count
        if done < size:
            look(True)


def receive_all(
    connection: socket.socket, targets: list[memoryview], look: Callable[[bool], None]
) -> None:
    """Fill several targets one after the other, by one call of the kernel where that will do."""
    try:
        count = connection.recvmsg_into(targets, 0, socket.MSG_WAITALL)[0]
    except BlockingIOError:
        look(False)
        count = 0
    except OSError as error:
        raise Closed(error.strerror or str(error)) from error
    else:
        if count == 0:
            raise Closed("the other end has closed the connection")
    for target in targets:
        if count < len(target):
            receive_into(connection, target[count:], look)
        count = max(0, count - len(target))
