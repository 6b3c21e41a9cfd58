# SPDX-License-Identifier: BSD-3-Clause
"""The executor that is configured."""

from __future__ import annotations

from nightjard.archived.nights import config as nights_config
from nightjard.archived.nights.executor.pool import PoolExecutor
from nightjard.archived.nights.executor.tasks import Executor


def executor_of(config: nights_config.Executor, *, idle: bool = False) -> Executor:
    """Return the executor that is configured; to be closed after use.

    Parameters
    ----------
    config
        Key ``executor`` of the nights' configuration.
    idle
        Workers of this host take processor and disk only where nobody else wants them.

    Raises
    ------
    ConfigError
        A Dask scheduler is configured, and ``distributed`` is not installed.
    """
    if config.scheduler is None:
        return PoolExecutor(config.workers, config.memory, idle=idle)
    from nightjard.archived.nights.executor.cluster import DaskExecutor

    return DaskExecutor(config.scheduler)
