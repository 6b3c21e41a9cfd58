# SPDX-License-Identifier: BSD-3-Clause
"""ZMQ sockets of links of policy ``latest``, set up so that nothing queues and nothing hangs.

The sender has an XPUB socket, the receiver an XSUB one: publish and subscribe, and besides the
receiver can say something back, which is how a sender knows who listens. Topics end in a NUL byte:
subscriptions match by prefix, and no name is then the beginning of another.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import zmq

from nightjar.errors import StorageError
from nightjard.streamlinkd import net
from nightjard.streamlinkd.wire import JSON_LIMIT

_KERNEL_BYTES = 1 << 20  # enough for 500 Mbit/s over 16 ms, and no store of old pictures
_QUEUE_BYTES = _KERNEL_BYTES // 4
_QUEUE_MOST = 64  # messages
_BEAT_MS, _DEAD_MS = 1000, 2500
_AGAIN_MS, _AGAIN_MOST_MS = 100, 1000
_PART_BYTES = 9  # of ZMQ's framing, at most
NONCE_TOPIC = b"?"

Socket = Any  # zmq.Socket is generic over what it returns, which strict checking cannot follow


def topic_of(wire_name: str) -> bytes:
    """Return the topic of a stream."""
    return wire_name.encode() + b"\0"


def octets_of(parts: list[bytes | memoryview]) -> int:
    """Return what a message takes on the wire, without the headers of TCP and below."""
    return sum(len(part) + _PART_BYTES for part in parts)


def _set_up(sock: Socket, messages: int, interface: str | None) -> None:
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.IPV6, 1)
    sock.setsockopt(zmq.SNDHWM, messages)
    sock.setsockopt(zmq.RCVHWM, messages)
    sock.setsockopt(zmq.SNDBUF, _KERNEL_BYTES)
    sock.setsockopt(zmq.RCVBUF, _KERNEL_BYTES)
    sock.setsockopt(zmq.HEARTBEAT_IVL, _BEAT_MS)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, _DEAD_MS)
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
    if interface is not None:
        sock.setsockopt(zmq.BINDTODEVICE, interface.encode())


def publisher(
    context: Any, host: str | None, port: int, interface: str | None, messages: int
) -> Socket:
    """Return a bound socket in which so many messages may wait.

    Raises
    ------
    Unreachable, StorageError
        The name is not known; the port is in use or the address not ours.
    """
    sock = context.socket(zmq.XPUB)
    try:
        _set_up(sock, messages, interface)
        sock.setsockopt(zmq.XPUB_VERBOSER, 1)
        # Whoever subscribes may say a little, and nothing large.
        sock.setsockopt(zmq.MAXMSGSIZE, 2 * JSON_LIMIT)
        where = "*" if host is None else _bracketed(net.resolve(host, port, passive=True)[0])
        sock.bind(f"tcp://{where}:{port}")
    except zmq.ZMQError as error:
        sock.close(0)
        raise StorageError(
            f"cannot listen on {host or '*'} port {port}: {zmq.strerror(error.errno or 0)}"
        ) from error
    except BaseException:
        sock.close(0)
        raise
    return sock


def subscriber(context: Any, interface: str | None, streams: int, largest: int) -> Socket:
    """Return a socket that is not yet connected."""
    sock = context.socket(zmq.XSUB)
    _set_up(sock, max(2, streams), interface)
    sock.setsockopt(zmq.RECONNECT_IVL, _AGAIN_MS)
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, _AGAIN_MOST_MS)
    sock.setsockopt(zmq.MAXMSGSIZE, largest)
    return sock


def queue_length(octets: int, streams: int) -> int:
    """Return how many messages of a publisher may wait for ZMQ's own thread, for each receiver.

    Of large frames two, or one of each stream: more would be old pictures. Of small ones as many
    as take a quarter of what the kernel holds anyway, or they would be lost whenever the machine
    holds that thread up for a moment.

    Parameters
    ----------
    octets
        Of the largest message.
    """
    return max(2, streams, min(_QUEUE_MOST, _QUEUE_BYTES // max(1, octets)))


def endpoint(address: net.Address) -> str:
    """Return where to connect to."""
    return f"tcp://{_bracketed(address)}:{address[1][1]}"


def _bracketed(address: net.Address) -> str:
    host = str(address[1][0])
    return f"[{host}]" if ipaddress.ip_address(host.partition("%")[0]).version == 6 else host
