# SPDX-License-Identifier: BSD-3-Clause
"""Step `compress`: files in the product folders that came uncompressed, from wherever."""

from __future__ import annotations

from typing import Any

from nightjar.errors import NightjarError, StorageError
from nightjar.executor.tasks import Event, Task
from nightjar.files import is_temporary
from nightjard.archived.nights.steps.context import Context, Progress, hash_of

COMPRESS = "nightjard.archived.nights.writing.packing:compress_task"
_TASK_BYTES = 200_000_000


def uncompressed(context: Context) -> list[str]:
    """Return the FITS files in product folders that are not compressed, below the night."""
    if context.config.compression == "none":
        return []
    folders = {stream.folder for stream in context.config.streams.values()}
    return sorted(
        str(path.relative_to(context.folder))
        for folder in folders
        for path in (context.folder / folder).glob("*.fits")
        if not is_temporary(path)
    )


class Compress:
    """Nothing to do for products of ours, which are written compressed."""

    name = "compress"

    def is_wanted(self, context: Context) -> bool:
        """Every family has it."""
        return True

    def key(self, context: Context) -> str:
        """The products; what else lies there is seen by :meth:`still_holds`."""
        return hash_of(
            context.config.compression, [row["path"] for row in context.products()]
        )

    def still_holds(self, context: Context, result: Any) -> bool:
        """Nothing uncompressed has come."""
        return not uncompressed(context)

    def run(self, context: Context) -> dict[str, Any]:
        """Compress each, prove it, let the original go."""
        todo = uncompressed(context)
        failed: list[str] = []
        done: list[str] = []

        def on_result(task: Task, _: Any) -> None:
            done.append(task.id)
            context.progress(
                Progress("compress", len(done), len(todo), unit="files", text=task.id)
            )

        def on_failure(task: Task, error: NightjarError) -> None:
            failed.append(f"{task.id}: {error.message}")

        def on_event(_: Event) -> None:
            pass

        if todo:
            executor = context.tools.executor()
            try:
                executor.run(
                    (Task(name, COMPRESS, {"path": str(context.folder / name)}, _TASK_BYTES)
                     for name in todo),
                    on_result, on_failure, context.cancelled, on_event,
                )  # fmt: skip
            finally:
                executor.close()
        if failed:
            raise StorageError(f"{len(failed)} files could not be compressed, first {failed[0]}")
        return {"files": len(done)}
