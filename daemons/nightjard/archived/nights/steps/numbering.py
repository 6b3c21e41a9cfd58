# SPDX-License-Identifier: BSD-3-Clause
"""Step `ids`: every product of the plan gets its frame ID, in order of time."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from nightjard.archived.nights.ids import Item
from nightjard.archived.nights.ids.changes import read_name_changes
from nightjard.archived.nights.steps.context import Context, hash_of

_LISTED = 20


class Number:
    """Frame IDs."""

    name = "ids"

    def is_wanted(self, context: Context) -> bool:
        """Only the families that are archived."""
        return context.family.ids

    def key(self, context: Context) -> str:
        """The plan."""
        return hash_of(context.night["plan_hash"], context.config.ids.kind)

    def still_holds(self, context: Context, result: Any) -> bool:
        """All products have one."""
        return all(row["frame_id"] for row in context.products())

    def run(self, context: Context) -> dict[str, Any]:
        """Assign; a product that had one keeps it."""
        plan, streams = context.plan(), context.config.streams
        items = [Item(each.name, streams[each.stream].code, each.first_ns)
                 for each in plan.products]  # fmt: skip
        if not items:
            return {"products": 0}
        night = context.night
        self._adopt(context, items)
        given = context.tools.ids.assign(
            night["family"], night["date"], items, allow_older=context.is_forced
        )
        rows = context.store.products(context.identity)
        context.store.set_products(
            (row["id"], {"frame_id": given[row["name"]].frame_id,
                         "exp_id": given[row["name"]].exp_id})
            for row in rows
            if row["frame_id"] != given[row["name"]].frame_id
        )  # fmt: skip
        numbers = sorted(each.frame_id for each in given.values())
        reserved = self._tell_reserved(context, given)
        return {"products": len(items), "first": numbers[0], "last": numbers[-1],
                "reserved": reserved}  # fmt: skip

    def _tell_reserved(self, context: Context, given: Collection[str]) -> int:
        """Tell of IDs of names that the plan has no more; return how many there are.

        They may have been sent to somebody, and nothing else may be called so ever after.
        """
        night = context.night
        known = context.tools.ids.assigned(night["family"], night["date"])
        gone = sorted((each.frame_id, name) for name, each in known.items() if name not in given)
        if gone:
            listed = ", ".join(f"{number} of {name}" for number, name in gone[:_LISTED])
            context.say(
                "ids",
                f"{len(gone)} IDs stay reserved for products that the plan has no more: {listed}"
                + (", ..." if len(gone) > _LISTED else ""),
            )
        return len(gone)

    def _adopt(self, context: Context, items: list[Item]) -> None:
        """Take over the IDs that products have on the disk and a database that was lost had."""
        night, ids = context.night, context.tools.ids
        known = ids.assigned(night["family"], night["date"])
        lacking = {item.name: item for item in items if item.name not in known}
        if not lacking:
            return
        folders = sorted({stream.folder for stream in context.config.streams.values()})
        found = {
            old.removesuffix(".fits"): new.removesuffix(".fits")
            for folder in folders for old, new in read_name_changes(context.folder / folder)
        }  # fmt: skip
        given = {item: found[name] for name, item in lacking.items() if name in found}
        if given:
            ids.adopt(night["family"], night["date"], given)
            context.say("ids", f"{len(given)} IDs are those that the products had on the disk")
