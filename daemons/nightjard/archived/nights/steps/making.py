# SPDX-License-Identifier: BSD-3-Clause
"""Step `consolidate`: every product is written, from raw, in one pass, with its final header."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.errors import NightjarError, StorageError
from nightjar.executor.tasks import Event, Task
from nightjar.files import is_temporary, rename_new
from nightjar.fits.hdus import read_headers
from nightjar.fits.header import NotFits
from nightjard.archived.nights.ids import write_name_changes
from nightjard.archived.nights.plan import FOLDER, Plan, rows_path
from nightjard.archived.nights.records import Product
from nightjard.archived.nights.steps.checking import Headers, rules_hash
from nightjard.archived.nights.steps.context import Context, Progress, hash_of
from nightjard.archived.nights.steps.room import kept_bytes, require_space, task_bytes
from nightjard.archived.nights.store import Row
from nightjard.archived.nights.writing import ProductTask, cube_head, hash_cube, raw_hash

WRITE = "nightjard.archived.nights.writing:write_product"
SUPERSEDED = "superseded"
HASHES = f"{FOLDER}/hashes"
_HASH_BYTES = 32
_COMMIT_EVERY = 20


class Consolidate:
    """The files."""

    name = "consolidate"

    def is_wanted(self, context: Context) -> bool:
        """Every family needs it."""
        return True

    def key(self, context: Context) -> str:
        """Plan, headers, IDs, form of the files."""
        ids = [row["frame_id"] for row in context.products()]
        return hash_of(
            context.night["plan_hash"], rules_hash(context), ids, context.config.compression
        )

    def still_holds(self, context: Context, result: Any) -> bool:
        """All files are there, with their sizes."""
        rows = context.products()
        folders = {row["path"].rpartition("/")[0] for row in rows if row["path"]}
        sizes = _sizes(context.folder, folders)
        return all(
            row["state"] in ("written", "verified") and row["size"] == sizes.get(row["path"], -1)
            for row in rows
        )

    def run(self, context: Context) -> dict[str, Any]:
        """Write what is not there as it should be; then prove that all of raw was read."""
        plan = context.plan()
        rows = context.store.products(context.identity)
        work = _Work(context, plan, rows)
        work.set_aside_others()
        todo = work.todo()
        require_space(context, [
            product.frames * plan.cubes[product.cubes[0]].frame_bytes for product, _ in todo
        ])  # fmt: skip
        work.carry_out(todo)
        if work.failed:
            first = work.failed[0]
            raise StorageError(
                f"{len(work.failed)} of {len(todo)} products could not be written; first "
                f"{first[0]}: {first[1].message}",
                code=first[1].code,
            )
        raw = raw_hashes(context, plan)
        _require_same_raw(context, raw)
        context.store.put_raw_hashes(context.identity, raw)
        if context.family.ids:
            _note_names(context)
        rows = context.store.products(context.identity)
        size = sum(row["size"] or 0 for row in rows)
        context.store.set_night(context.identity, product_bytes=size)
        return {
            "products": len(rows), "written": len(todo), "bytes": size, "raw_proven": len(raw),
            **work.sums,
        }  # fmt: skip


class _Work:
    """The products of one night, on their way."""

    def __init__(self, context: Context, plan: Plan, rows: list[Row]) -> None:
        self._context = context
        self._plan = plan
        self._rows = {row["number"]: row for row in rows}
        self._headers = Headers(context, plan)
        self._done: list[tuple[int, dict[str, Any]]] = []
        self._hashes: dict[str, str] = {}
        self._frames: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._total = 0
        self.failed: list[tuple[str, NightjarError]] = []
        self.sums: dict[str, int] = {"bytes_read": 0, "bytes_written": 0}

    def target(self, product: Product) -> str:
        """Return where a product goes."""
        row = self._rows[product.number]
        ending = ".fits.fz" if self._context.config.compression == "rice" else ".fits"
        return f"{product.folder}/{row['frame_id'] or product.name}{ending}"

    def todo(self) -> list[tuple[Product, ProductTask]]:
        """Return what is to be written."""
        found = []
        for product in self._plan.products:
            self._context.require_going()
            task = self._task(product)
            row = self._rows[product.number]
            self._hashes[str(product.number)] = hash_of(
                task.target, task.cards, task.compression, self._plan.product_hash(product)
            )
            is_there = (
                row["state"] in ("written", "verified")
                and row["task_hash"] == self._hashes[str(product.number)]
                and _has_size(self._context.folder, row)
            )
            if not is_there:
                found.append((product, task))
        return found

    def _task(self, product: Product) -> ProductTask:
        row, context, plan = self._rows[product.number], self._context, self._plan
        cards, _ = self._headers.cards(product, row["frame_id"], row["exp_id"])
        return ProductTask(
            str(context.folder), str(rows_path(context.folder, plan.hash)), product.start,
            product.stop, self.target(product), cards,
            tuple(asdict(plan.cubes[number]) for number in product.cubes),
            context.config.compression, context.verify or context.config.verify,
            hashes_name(product.name), context.is_forced,
        )  # fmt: skip

    def set_aside_others(self) -> None:
        """Move products of ours that are none of the present plan out of the product folders.

        They were made by an earlier plan. Raw is complete, so they could be made again.
        """
        wanted = {self.target(product) for product in self._plan.products}
        for folder in {product.folder for product in self._plan.products}:
            for path in sorted((self._context.folder / folder).glob("*.fits*")):
                name = f"{folder}/{path.name}"
                if name not in wanted and not is_temporary(path) and is_ours(path):
                    self._set_aside(path, "no product of the present plan")

    def _set_aside(self, path: Path, why: str) -> None:
        folder = self._context.folder / SUPERSEDED
        folder.mkdir(exist_ok=True)
        for number in range(1000):
            target = folder / (f"{path.name}.{number}" if number else path.name)
            try:
                rename_new(path, target)
            except FileExistsError:
                continue
            self._context.say("superseded", f"{path.name} set aside: {why}")
            return
        raise StorageError(f"{folder} holds too many files named {path.name}: remove some")

    def carry_out(self, todo: list[tuple[Product, ProductTask]]) -> None:
        """Have all tasks done."""
        self._total = sum(product.frames for product, _ in todo)
        executor = self._context.tools.executor()
        try:
            executor.run(
                self._tasks(todo), self._on_result, self._on_failure,
                self._context.cancelled, self._on_event,
            )  # fmt: skip
        finally:
            try:
                self._commit()
            finally:
                executor.close()

    def _tasks(self, todo: list[tuple[Product, ProductTask]]) -> Iterator[Task]:
        """Yield the tasks, after what was made otherwise is out of the way.

        What is meant to be made is noted first: a file that is there after a crash is then known
        to be the one, or to be none of ours.
        """
        noted = []
        for product, task in todo:
            row, wanted = self._rows[product.number], self._hashes[str(product.number)]
            path = self._context.folder / task.target
            path.parent.mkdir(parents=True, exist_ok=True)
            task.hashes_path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and (row["task_hash"] != wanted or row["state"] == "failed"):
                self._set_aside(path, "it is made anew")
            noted.append((row["id"], {
                "state": "planned", "task_hash": wanted, "verified_ns": None, "path": None,
            }))  # fmt: skip
        if noted:
            # What was proven of the night before is no proof of files that are made now.
            self._context.store.set_night(
                self._context.identity, processed_ns=None, transferred_ns=None, safe_ns=None
            )
        self._context.store.set_products(noted)
        most = kept_bytes(self._context.config.executor)
        for product, task in todo:
            plain = product.frames * self._plan.cubes[product.cubes[0]].frame_bytes
            kept = min(most, plain) if task.verify == "deferred" else 0
            yield Task(
                str(product.number), WRITE, {"task": task.to_json(), "kept_bytes": kept},
                task_bytes(kept),
            )  # fmt: skip

    def _on_event(self, event: Event) -> None:
        if event.kind == "again":
            self._context.say("again", f"product {event.task.id}: {event.text}; it is tried again")
        self._frames[event.task.id] = event.frames
        self._bytes[event.task.id] = event.bytes
        self._tell(event.text)

    def _tell(self, text: str) -> None:
        self._context.progress(Progress(
            "consolidate", sum(self._frames.values()), self._total, sum(self._bytes.values()),
            text=text,
        ))  # fmt: skip

    def _on_result(self, task: Task, result: dict[str, Any]) -> None:
        product = self._plan.products[int(task.id)]
        now_ns = self._context.tools.clock.now_ns()
        self._frames[task.id] = product.frames
        self._bytes[task.id] = result["bytes_read"]
        for key in self.sums:
            self.sums[key] += result[key]
        if result["damaged"]:
            listed = ", ".join(result["damaged"][:10])
            self._context.say(
                "damaged",
                f"{product.name}: taken by force although their checksums are wrong: {listed}",
            )
        is_verified = bool(result["verified"])
        self._done.append((self._rows[product.number]["id"], {
            "state": "verified" if is_verified else "written", "path": result["path"],
            "task_hash": self._hashes[task.id], "size": result["size"],
            "file_hash": result["file_hash"], "payload_hash": result["payload_hash"],
            "written_ns": now_ns, "verified_ns": now_ns if is_verified else None, "error": None,
        }))  # fmt: skip
        if len(self._done) >= _COMMIT_EVERY:
            self._commit()
        self._tell(result["path"])

    def _on_failure(self, task: Task, error: NightjarError) -> None:
        product = self._plan.products[int(task.id)]
        self.failed.append((product.name, error))
        self._done.append((self._rows[product.number]["id"], {
            "state": "failed", "error": error.message
        }))  # fmt: skip
        now_ns = self._context.tools.clock.now_ns()
        self._context.store.note_attempt(
            self._context.identity, "consolidate", product.name, now_ns, now_ns, error.message
        )

    def _commit(self) -> None:
        done, self._done = self._done, []
        if done:
            self._context.store.set_products(done)


def is_ours(path: Path) -> bool:
    """Tell whether a file is a product of this program."""
    try:
        return any("PLANHASH" in header for header in read_headers(path))
    except NightjarError:
        return False


def hashes_name(product: str) -> str:
    """Return where the hashes of a product's frames go, below the night."""
    return f"{HASHES}/{product}.npy"


def _has_size(folder: Path, row: Row) -> bool:
    try:
        return row["path"] is not None and (folder / row["path"]).stat().st_size == row["size"]
    except OSError:
        return False


def _sizes(night: Path, folders: Iterable[str]) -> dict[str, int]:
    """Return path -> bytes of all files in folders of a night; faster than to ask for each."""
    found = {}
    for folder in folders:
        try:
            with os.scandir(night / folder) as entries:
                for entry in entries:
                    found[f"{folder}/{entry.name}"] = entry.stat().st_size
        except OSError:
            continue  # what is not found is made again
    return found


def raw_hashes(context: Context, plan: Plan) -> dict[str, str]:
    """Return the content hash of every raw cube, from the hashes of its frames in products.

    So it is proven that every frame that a cube holds was read and went into a product.

    Raises
    ------
    StorageError
        A frame was not; the message names it.
    """
    rows = plan.rows
    kept = rows["product"] >= 0
    counts = np.array([cube.present for cube in plan.cubes], np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    found = np.zeros((int(starts[-1]), _HASH_BYTES), np.uint8)
    seen = np.zeros(int(starts[-1]), bool)
    at = starts[rows["cube"][kept]] + rows["index"][kept]
    done = 0
    for product in plan.products:
        path = context.folder / hashes_name(product.name)
        try:
            part = np.load(path)
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot read {path}: {error}", path=str(path)) from error
        where = at[done : done + product.frames]
        found[where], seen[where] = part, True
        done += product.frames
    if not seen.all():
        number = int(np.searchsorted(starts, int(np.flatnonzero(~seen)[0]), side="right")) - 1
        raise StorageError(f"not all frames of {plan.cubes[number].path} are in products")
    result = {}
    for cube, start, stop in zip(plan.cubes, starts, starts[1:], strict=False):
        head = cube_head(context.folder / cube.path)
        if (head.size, head.mtime_ns, head.head_hash) != (cube.size, cube.mtime_ns,
                                                          cube.head_hash):  # fmt: skip
            raise StorageError(
                f"raw cube {cube.path} has changed since it was planned: archive run --step sync"
            )
        result[cube.path] = raw_hash(head.head_hash, found[start:stop], head.tail_hash)
    return result


def has_content(path: Path, wanted: str) -> bool:
    """Read a raw cube; tell whether its content hash is the one that :func:`raw_hashes` gave."""
    try:
        _, _, content = hash_cube(path)
    except NotFits:
        return False
    return content == wanted


def _require_same_raw(context: Context, raw: dict[str, str]) -> None:
    """Refuse raw that was read otherwise before: it is damaged, and products are made of it."""
    known = {row["path"]: row["content_hash"] for row in context.store.cubes(context.identity)}
    bad = [path for path, value in raw.items() if known.get(path) not in (None, value)]
    if not bad:
        return
    text = (
        f"{len(bad)} raw cubes are not what they were when they were first read, though their "
        f"sizes and times are, first {bad[0]}"
    )
    if not context.is_forced:
        raise StorageError(
            f"{text}: they are damaged; restore them (earlier products are in {SUPERSEDED}/), or "
            "take them as they are: archive run "
            f"{context.night['date']} --step consolidate --force",
            cubes=bad[:100],
        )
    context.store.set_night(context.identity, forced_ns=context.tools.clock.now_ns())
    context.say("damaged", f"{text}; taken as they are by force")


def _note_names(context: Context) -> None:
    """Write which product has which ID, as other programs expect it."""
    names: dict[str, dict[str, str]] = {}
    for row in context.store.products(context.identity):
        if row["frame_id"]:
            names.setdefault(row["folder"], {})[f"{row['name']}.fits"] = f"{row['frame_id']}.fits"
    for folder, pairs in names.items():
        write_name_changes(context.folder / folder, pairs.items())
