# SPDX-License-Identifier: BSD-3-Clause
"""TCP ports of the loopback that nobody else takes before the test's own daemon does.

A port that the kernel gives for number 0 can be given again as soon as it is let go: to another
worker of the tests, or to the near end of any connection. These lie below the range from which the
kernel gives, each process has some hundred of its own, and none comes again soon.
"""

from __future__ import annotations

import atexit
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_FIRST = 10_240
_SHARE = 500
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_held: dict[int, tuple[socket.socket | None, Iterator[int]]] = {}  # by process: forks get their own


def _share() -> tuple[socket.socket | None, Iterator[int]]:
    """Return the lock on a share of the ports, held while this process lives, and its ports."""
    try:
        end = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        end = _FIRST
    for first in range(_FIRST, end - _SHARE + 1, _SHARE):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0nightjar-test-ports-{first}")
        except OSError:
            lock.close()
            continue
        atexit.register(lock.close)
        return lock, itertools.cycle(range(first, first + _SHARE))
    return None, itertools.repeat(0)  # no range is left: as the kernel gives them


def free_ports(count: int) -> list[int]:
    """Return different free TCP ports of the loopback."""
    if os.getpid() not in _held:
        _held[os.getpid()] = _share()
    _, candidates = _held[os.getpid()]
    sockets: list[socket.socket] = []
    try:
        for port in candidates:
            try:
                sockets.append(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue  # somebody listens there
            if len(sockets) == count:
                break
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
