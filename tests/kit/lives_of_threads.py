# SPDX-License-Identifier: BSD-3-Clause
"""Threads of a test, with an end that is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable

JOIN_S = 20.0


class Threads:
    """Functions that run until they are told to end."""

    def __init__(self, *works: Callable[[], None]) -> None:
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for their ends; fail where one does not come."""
        for thread in self._threads:
            thread.join(JOIN_S)
            assert not thread.is_alive(), f"{thread.name} has not ended"
