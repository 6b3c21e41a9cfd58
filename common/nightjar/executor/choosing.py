# SPDX-License-Identifier: BSD-3-Clause
"""The executor that is configured."""

from __future__ import annotations

from pydantic import Field

from nightjar.config.load import StrictModel
from nightjar.executor.pool import PoolExecutor
from nightjar.executor.tasks import Executor


class ExecutorConfig(StrictModel):
    """Where tasks run."""

    workers: int = Field(2, ge=1, le=256, description="Processes on this host.")
    memory: int = Field(
        1_000_000_000, ge=100_000_000, description="Bytes that all tasks together may hold."
    )
    scheduler: str | None = Field(
        None, pattern=r"^(tcp|tls)://[^:/]+:\d+$",
        description="tcp://HOST:PORT of a Dask scheduler; processes here if not given.",
    )


def executor_of(
    config: ExecutorConfig, allowed: frozenset[str], *, idle: bool = False
) -> Executor:
    """Return the executor that is configured; to be closed after use.

    Parameters
    ----------
    config
        Key ``executor`` of a configuration.
    allowed
        ``module:name`` of every function that a task may call.
    idle
        Workers of this host take processor and disk only where nobody else wants them.

    Raises
    ------
    ConfigError
        A Dask scheduler is configured, and ``distributed`` is not installed.
    """
    if config.scheduler is None:
        return PoolExecutor(config.workers, config.memory, allowed=allowed, idle=idle)
    from nightjar.executor.cluster import DaskExecutor

    return DaskExecutor(config.scheduler, allowed=allowed)
