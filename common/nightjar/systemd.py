# SPDX-License-Identifier: BSD-3-Clause
"""What systemd wants to hear (sd_notify(3)): readiness, status, watchdog. No dependency."""

from __future__ import annotations

import os
import socket


def notify(*assignments: str) -> bool:
    """Send assignments (``READY=1``, ``STATUS=...``) to the service manager.

    Returns
    -------
    bool
        False where there is no manager to tell, or it does not listen.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # abstract socket
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(1.0)
            channel.connect(address)
            channel.sendall("\n".join(assignments).encode())
    except OSError:
        return False
    return True


def watchdog_interval_s() -> float | None:
    """Return how often WATCHDOG=1 must be sent (half the limit); None without a watchdog."""
    limit_us = os.environ.get("WATCHDOG_USEC")
    pid = os.environ.get("WATCHDOG_PID")
    if not limit_us or not limit_us.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(limit_us) / 2e6
