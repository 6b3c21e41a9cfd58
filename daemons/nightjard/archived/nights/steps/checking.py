# SPDX-License-Identifier: BSD-3-Clause
"""Step `headers`: make every product's header, and report what is wrong in it.

The headers are made again when the products are, with their IDs; here is found out, before hours
of work, whether they can be made, and what a person should know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from blake3 import blake3

from nightjar import __version__
from nightjar.errors import StorageError
from nightjar.files import write_json_durably
from nightjar.fits.header import Header
from nightjard.archived.nights.dictionary import Finding, TelemetryLog, product_cards
from nightjard.archived.nights.plan import FOLDER, Plan
from nightjard.archived.nights.records import Product
from nightjard.archived.nights.scan import Unreadable, exposure_of, look_at_head
from nightjard.archived.nights.steps.changes import HeaderChanges
from nightjard.archived.nights.steps.context import Context, Progress, hash_of

_KEPT_FINDINGS = 2000


class Headers:
    """Headers of the products of a plan; those of the raw cubes are read once."""

    def __init__(self, context: Context, plan: Plan) -> None:
        self._context = context
        self._plan = plan
        self._heads: dict[int, Header] = {}
        self._telemetry = telemetry(context)
        self.changes = HeaderChanges(context.folder)

    def cards(
        self, product: Product, frame_id: str | None, exp_id: str | None
    ) -> tuple[str, Sequence[Finding]]:
        """Return a product's cards and what was found out about them."""
        plan, config = self._plan, self._context.config
        rows = plan.rows_of(product)
        heads = [self._head(number) for number in product.cubes]
        runs = np.unique(rows["RUN"])
        run = plan.runs[int(runs[0])] if len(runs) == 1 and runs[0] >= 0 else None
        text, findings = product_cards(
            product, heads, list(_spans(rows, product.cubes)), self._context.tools.dictionary,
            exposure_s=exposure_of(heads[0]),
            local_offset_hours=config.local_offset_hours,
            program=f"Nightjar {__version__}", plan_hash=plan.product_hash(product)[:16], run=run,
            frame_id=frame_id, exp_id=exp_id, telemetry=self._telemetry,
            sources=[plan.cubes[number].path for number in product.cubes],
            ranges=list(_ranges(rows, product.cubes)), high_is=config.high_is,
        )  # fmt: skip
        return self.changes.applied(product.name, text), findings

    def _head(self, number: int) -> Header:
        header = self._heads.get(number)
        if header is None:
            cube = self._plan.cubes[number]
            found = look_at_head(
                self._context.folder, cube.stream, self._context.folder / cube.path
            )
            if isinstance(found, Unreadable) or found[0].head_hash != cube.head_hash:
                seen = found if isinstance(found, Unreadable) else found[0]
                is_changed = (seen.size, seen.mtime_ns) != (cube.size, cube.mtime_ns)
                why = (
                    "it has changed since it was planned; plan the night again" if is_changed else
                    "it is damaged, though its size and time are as planned; restore it"
                )  # fmt: skip
                raise StorageError(
                    f"raw cube {cube.path} has not the header that was planned: {why}",
                    path=cube.path,
                )
            header = self._heads[number] = found[1]
        return header


def _spans(rows: Any, cubes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    for number in cubes:
        times = rows["ATIME"][rows["cube"] == number]
        known = times[times > 0]
        if len(known):
            yield int(known.min()), int(known.max()), len(times)
        else:
            yield 0, 0, len(times)


def _ranges(rows: Any, cubes: Sequence[int]) -> Iterator[tuple[int, int]]:
    for number in cubes:
        index = rows["index"][rows["cube"] == number]
        yield int(index.min()), int(index.max())


def telemetry(context: Context) -> TelemetryLog | None:
    """Return the night's telemetry log where one is configured and there."""
    pattern = context.config.telemetry
    paths = sorted(context.folder.glob(pattern)) if pattern is not None else []
    return TelemetryLog.read(paths) if paths else None


def rules_hash(context: Context) -> str:
    """Return the hash of what headers are made from besides the raw cubes."""
    logs = []
    if context.config.telemetry is not None:
        for path in sorted(context.folder.glob(context.config.telemetry)):
            logs.append((path.name, blake3(path.read_bytes()).hexdigest()))
    return hash_of(
        __version__, context.tools.dictionary.digest, logs, context.config.local_offset_hours,
        context.config.high_is, HeaderChanges(context.folder).digest,
        *(["archive digits"] if context.config.archive_digits else []),
    )


class Check:
    """The report."""

    name = "headers"

    def is_wanted(self, context: Context) -> bool:
        """Every family has it."""
        return True

    def key(self, context: Context) -> str:
        """Plan, dictionary, telemetry."""
        return hash_of(context.night["plan_hash"], rules_hash(context))

    def still_holds(self, context: Context, result: Any) -> bool:
        """The report is only a report."""
        return True

    def run(self, context: Context) -> dict[str, Any]:
        """Make all headers; write ``record/headers.json``."""
        plan = context.plan()
        maker = Headers(context, plan)
        counts: Counter[str] = Counter()
        listed: list[dict[str, Any]] = []
        for number, product in enumerate(plan.products):
            context.require_going()
            if number % 20 == 0:
                context.progress(Progress(
                    "headers", number, len(plan.products), unit="products", text=product.name
                ))  # fmt: skip
            _, findings = maker.cards(product, None, None)
            for finding in findings:
                counts[finding.kind.value] += 1
                if len(listed) < _KEPT_FINDINGS:
                    listed.append({"product": product.name, **finding.as_json()})
        orphans = maker.changes.orphans(product.name for product in plan.products)
        if orphans:
            context.say(
                "headers", f"{len(orphans)} products with repaired headers are in the plan no "
                f"more, first {orphans[0]}: repair those that took their place",
            )  # fmt: skip
        report = {"products": len(plan.products), "findings": dict(counts), "list": listed}
        write_json_durably(context.folder / FOLDER / "headers.json", report)
        return {"products": len(plan.products), "findings": dict(counts)}

