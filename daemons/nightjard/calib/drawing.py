# SPDX-License-Identifier: BSD-3-Clause
"""Figures become files: here, or in processes beside while the analysis goes on.

Drawing a figure of twelve panels takes longer than most analyses of a small detector. Figures go
to our own worker processes as pickles, through a pipe; nothing of it is kept on a disk.
"""

from __future__ import annotations

import base64
import io
import pickle
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nightjar import files
from nightjar.errors import NightjarError
from nightjar.executor.pool import PoolExecutor
from nightjar.executor.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[["Figure", Path], None]

_DPI = 110
_PACKED = 1  # of zlib: a tenth larger than the usual 6, in half the time
_MOST_WAITING = 64
_MEMORY_BYTES = 1 << 30  # no figure says what it holds


def draw_here(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, red, green, blue; the same bytes each time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    data = io.BytesIO()
    # All is opaque: a fourth channel would be packed here and again in every report.
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(
        data, format="png", compress_level=_PACKED, dpi=(_DPI, _DPI)
    )
    files.write_durably(path, data.getvalue(), replace=True)


def draw_pickled(path: str, pickled: str) -> None:
    """Write a figure that the parent has pickled; runs in a worker."""
    draw_here(pickle.loads(base64.b64decode(pickled)), Path(path))


class Drawer:
    """Draws in processes of its own, which are started when they are first needed, then kept.

    Parameters
    ----------
    processes
        How many.
    """

    def __init__(self, processes: int) -> None:
        allowed = frozenset({f"{__name__}:{draw_pickled.__name__}"})
        self._pool = PoolExecutor(processes, _MEMORY_BYTES, allowed=allowed)
        self._orders: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._waiting: dict[str, Task] = {}
        self._thread: threading.Thread | None = None
        self._error: NightjarError | None = None

    def pids(self) -> list[int]:
        """Return the process ids of those that draw."""
        return self._pool.pids()

    def draw(self, figure: Figure, path: Path) -> None:
        """Have a figure written; it is there after :meth:`wait`.

        Raises
        ------
        NightjarError
            An earlier one could not be drawn or written.
        """
        try:
            pickled = base64.b64encode(pickle.dumps(figure, pickle.HIGHEST_PROTOCOL)).decode()
        except (pickle.PicklingError, AttributeError, TypeError):  # a lambda that formats, say
            draw_here(figure, path)
            return
        if len(self._waiting) >= _MOST_WAITING:
            self.wait()
        task = Task(
            str(path), f"{__name__}:{draw_pickled.__name__}",
            {"path": str(path), "pickled": pickled},
        )  # fmt: skip
        self._waiting[task.id] = task
        self._orders.put(task)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="figures", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until all figures are written.

        Raises
        ------
        NightjarError
            The first that could not be drawn or written, after all others were.
        """
        self._end_thread()
        left, self._waiting = self._waiting, {}
        error, self._error = self._error, None
        if error is not None:
            raise error
        for task in left.values():  # no worker could be had
            draw_pickled(**task.arguments)

    def close(self) -> None:
        """End the processes; what still waits to be drawn is not drawn."""
        self._orders.put(None)
        self._pool.close()
        self._end_thread()
        self._waiting.clear()

    def _end_thread(self) -> None:
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None
        self._orders = queue.SimpleQueue()

    # --- the thread that hands them out ---

    def _run(self) -> None:
        def on_result(task: Task, _result: Any) -> None:
            self._waiting.pop(task.id, None)

        def on_failure(task: Task, error: NightjarError) -> None:
            self._waiting.pop(task.id, None)
            told = NightjarError(f"figure {Path(task.id).name}: {error.message}", code=error.code)
            self._error = self._error or told

        try:
            self._pool.run(self._given(), on_result, on_failure, lambda: False)
        except NightjarError:
            return  # closed, or no worker can be had: what is left is drawn by wait()

    def _given(self) -> Iterator[Task]:
        while (task := self._orders.get()) is not None:
            yield task
