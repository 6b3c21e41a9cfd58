# SPDX-License-Identifier: BSD-3-Clause
"""Real worker processes that are kept for all tests of a module: a start costs more than a night.

A test module asks for them by ``pytestmark = pytest.mark.usefixtures("kept_workers")``. Tests that
kill workers, or look at how they end, must not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kit import leftovers, nights
from nightjar.executor import choosing
from nightjar.executor.choosing import ExecutorConfig
from nightjar.executor.pool import PoolExecutor
from nightjar.executor.tasks import Executor
from nightjard.archived.nights import model
from nightjard.archived.nights.functions import ALLOWED

WORKERS = 2


class Kept(PoolExecutor):
    """A pool that whoever borrows it cannot close."""

    def close(self) -> None:
        """Stay, for the next one."""

    def end(self) -> None:
        """End the workers."""
        super().close()


class Pools:
    """One pool for each number of workers and each limit of memory."""

    def __init__(self) -> None:
        self._pools: dict[tuple[int, int], Kept] = {}

    def pids(self) -> list[int]:
        """Return the ids of all workers."""
        return [pid for pool in self._pools.values() for pid in pool.pids()]

    def _pool(self, workers: int, memory: int) -> Kept:
        return self._pools.setdefault(
            (workers, memory), Kept(workers, memory, allowed=ALLOWED)
        )

    def executor_of(self, config: ExecutorConfig, allowed: frozenset[str], **more: Any) -> Executor:
        """Return a kept pool for what is usual, and what is configured for all else."""
        is_usual = config == ExecutorConfig(workers=config.workers) and config.workers <= WORKERS
        if not is_usual or allowed != ALLOWED or more:
            return choosing.executor_of(config, allowed, **more)
        return self._pool(config.workers, config.memory)

    def end(self) -> None:
        """End all workers."""
        for pool in self._pools.values():
            pool.end()


@contextmanager
def kept_workers() -> Iterator[None]:
    """Have the pipeline borrow its workers while this lasts."""
    pools = Pools()
    with pytest.MonkeyPatch.context() as patch:
        for module in (model, nights):
            patch.setattr(module, "executor_of", pools.executor_of)
        leftovers.KEPT.append(pools.pids)
        try:
            yield
        finally:
            pools.end()
            leftovers.KEPT.remove(pools.pids)
