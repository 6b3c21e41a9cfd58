# SPDX-License-Identifier: BSD-3-Clause
"""What runs in the workers and the scheduler of a Dask cluster; see :mod:`.cluster`."""

from __future__ import annotations

import logging
from typing import Any

from nightjar import __version__
from nightjar.errors import ConfigError, NightjarError
from nightjar.executor.progress import Progress, use_for_thread
from nightjar.executor.tasks import Failure, call, failure_of

log = logging.getLogger(__name__)

RESOURCE = "MEMORY"

_cancelled: set[str] = set()


async def cancel_run(run: str) -> None:
    """Have the tasks of a run end at their next report; runs in every worker."""
    _cancelled.add(run)


def work(version: str, run: str, task: str, function: str, arguments: Any) -> Failure:
    """Run one task in a Dask worker; it never raises.

    Returns
    -------
    dict
        ``result`` and ``told``, what it had done at its end, or ``error``; and ``worker``.
    """
    from distributed import get_worker

    worker: Any = get_worker()

    def send(frames: int, size: int, stage: str) -> None:
        worker.log_event(run, {"task": task, "told": [frames, size, stage]})

    progress = Progress(send, lambda: run in _cancelled)
    use_for_thread(progress)
    try:
        if version != __version__:
            raise ConfigError(
                f"Dask worker {worker.address} has Nightjar {__version__}, not {version}: its "
                "files would not be the same; install the same version on all hosts"
            )
        worker.log_event(run, {"task": task, "started": worker.address})
        progress.add(0, 0, "")
        result = call(function, arguments)
        return {"worker": worker.address, "result": result, "told": progress.sums}
    except Exception as error:
        if not isinstance(error, NightjarError):
            log.exception("task %s", task)
        return {"worker": worker.address, "error": failure_of(error)}
    finally:
        use_for_thread(None)


def census(dask_scheduler: Any) -> dict[str, tuple[int, float | None]]:
    """Return threads and declared memory of every worker; runs in the scheduler."""
    return {
        address: (state.nthreads, state.resources.get(RESOURCE))
        for address, state in dask_scheduler.workers.items()
    }
