# SPDX-License-Identifier: BSD-3-Clause
"""Runs the steps of a tiny night in a process of its own: ``... ROOT URL [WORKERS [PRODUCTS]]``.

Prints the process ids of the workers as they come, and at the end ``done`` or what went wrong.
Where so many products have their names it prints ``held`` and waits to be killed.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from kit.nights import products_of
from kit.tiny_nights import DATE, bench_of
from nightjar.errors import NightjarError
from nightjar.executor.pool import PoolExecutor
from nightjard.archived.nights import engine
from nightjard.archived.nights.functions import ALLOWED
from nightjard.archived.nights.steps.context import Progress


class Told(PoolExecutor):
    """Says which processes work for it."""

    def staff(self, wanted: int) -> None:
        before = set(self.pids())
        super().staff(wanted)
        for pid in set(self.pids()) - before:
            print(f"worker {pid}", flush=True)


def main() -> int:
    """Run all steps but the transfer."""
    root, url = Path(sys.argv[1]), sys.argv[2]
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    most = int(sys.argv[4]) if len(sys.argv) > 4 else None

    def progress(each: Progress) -> None:
        print(f"step {each.step}", flush=True)
        if most is not None and len(products_of(root / DATE)) >= most:
            print("held", flush=True)
            signal.pause()

    try:
        bench = bench_of(root, url)
        bench.tools = engine.Tools(
            **{**vars(bench.tools), "executor": lambda: Told(workers, 10**9, allowed=ALLOWED)}
        )
        bench.engine = engine.Engine(bench.tools)
        bench.run(root / DATE, progress=progress)
        bench.close()
    except NightjarError as error:
        print(f"{type(error).__name__}: {error.message}", flush=True)
        return 1
    print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
