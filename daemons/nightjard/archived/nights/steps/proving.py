# SPDX-License-Identifier: BSD-3-Clause
"""Step `verify`: every product is read back and compared with raw, frame by frame."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nightjar.errors import NightjarError, StorageError
from nightjar.executor.tasks import Event, Task
from nightjard.archived.nights.plan import Plan, rows_path
from nightjard.archived.nights.steps.checking import Headers
from nightjard.archived.nights.steps.context import Context, Progress, hash_of
from nightjard.archived.nights.steps.making import hashes_name
from nightjard.archived.nights.store import Row

VERIFY = "nightjard.archived.nights.writing:verify_product"
_TASK_BYTES = 200_000_000


class Verify:
    """The proof; done already where products were verified when they were written."""

    name = "verify"

    def is_wanted(self, context: Context) -> bool:
        """Every family needs it."""
        return True

    def key(self, context: Context) -> str:
        """The files as they were written."""
        return hash_of(
            [(row["path"], row["file_hash"]) for row in context.products()]
        )

    def still_holds(self, context: Context, result: Any) -> bool:
        """All products are verified."""
        return all(
            row["state"] == "verified" for row in context.products()
        )

    def run(self, context: Context) -> dict[str, Any]:
        """Verify those that are not; all of them where that is asked for."""
        plan = context.plan()
        rows = context.store.products(context.identity)
        todo = [row for row in rows if context.is_forced or row["state"] != "verified"]
        bad = check_products(context, plan, todo)
        if bad:
            name, text = next(iter(bad.items()))
            raise StorageError(
                f"{len(bad)} of {len(todo)} products are damaged, first {name}: {text}; make them "
                f"again: archive run {context.night['date']} --step consolidate"
            )
        return {"products": len(rows), "read": len(todo)}


def check_products(context: Context, plan: Plan, rows: list[Row]) -> dict[str, str]:
    """Read products and compare them; return name -> problem of those that are damaged."""
    bad: dict[str, str] = {}
    total = sum(row["frames"] for row in rows)
    frames: dict[str, int] = {}
    octets: dict[str, int] = {}
    by_number = {row["number"]: row for row in rows}

    def note(number: str, problem: str) -> None:
        row = by_number[int(number)]
        now_ns = context.tools.clock.now_ns()
        state: dict[str, Any] = {"state": "verified", "verified_ns": now_ns, "error": None}
        if problem:
            bad[row["name"]] = problem
            # No task hash: what it was asked for, it is not any more, and it will be made anew.
            state = {"state": "failed", "error": problem, "verified_ns": None}
            context.say("damaged", f"{row['path'] or row['name']}: {problem}")
        context.store.set_products([(row["id"], state)])

    def on_result(task: Task, problems: list[str]) -> None:
        frames[task.id] = by_number[int(task.id)]["frames"]
        note(task.id, "; ".join(problems))
        tell("")

    def on_failure(task: Task, error: NightjarError) -> None:
        note(task.id, error.message)

    def on_event(event: Event) -> None:
        frames[event.task.id], octets[event.task.id] = event.frames, event.bytes
        tell(event.text)

    def tell(text: str) -> None:
        context.progress(
            Progress("verify", sum(frames.values()), total, sum(octets.values()), text=text)
        )

    headers = Headers(context, plan)
    executor = context.tools.executor()
    try:
        executor.run(
            (_task(context, plan, headers, row) for row in rows), on_result, on_failure,
            context.cancelled, on_event,
        )  # fmt: skip
    finally:
        executor.close()
    if bad:
        context.store.set_night(
            context.identity, processed_ns=None, transferred_ns=None, safe_ns=None
        )
    return bad


def _task(context: Context, plan: Plan, headers: Headers, row: Row) -> Task:
    product = plan.products[row["number"]]
    cards, _ = headers.cards(product, row["frame_id"], row["exp_id"])
    task = {
        "night": str(context.folder), "rows_file": str(rows_path(context.folder, plan.hash)),
        "start": product.start, "stop": product.stop, "target": row["path"], "cards": cards,
        "cubes": [asdict(plan.cubes[number]) for number in product.cubes],
        "compression": "rice" if str(row["path"]).endswith(".fz") else "none",
        "verify": "deferred",
        "hashes_file": hashes_name(product.name),
    }  # fmt: skip
    result = {
        "path": row["path"], "size": row["size"], "file_hash": row["file_hash"],
        "payload_hash": row["payload_hash"], "frames": row["frames"], "verified": False,
    }  # fmt: skip
    return Task(str(row["number"]), VERIFY, {"task": task, "result": result}, _TASK_BYTES)
