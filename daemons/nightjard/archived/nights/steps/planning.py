# SPDX-License-Identifier: BSD-3-Clause
"""Step `sync`: look at the raw files, find what belongs together, make the plan."""

from __future__ import annotations

from typing import Any

from blake3 import blake3

from nightjar.errors import Refused
from nightjard.archived.nights.building import make_plan
from nightjard.archived.nights.config import NightsConfig
from nightjard.archived.nights.finding import list_raw
from nightjard.archived.nights.losses import losses
from nightjard.archived.nights.plan import VERSION, Plan, plan_path, rows_path
from nightjard.archived.nights.scan import RawFile, Unreadable, look, raw_paths
from nightjard.archived.nights.steps.context import Context, Progress, hash_of
from nightjard.archived.nights.steps.making import has_content

_ENDINGS = (".fits", ".fits.fz", ".txt")


def inputs_hash(context: Context) -> str:
    """Return the hash of names, sizes and times of all raw files and their texts."""
    seen = context.listing
    if seen is None:
        seen = list_raw(context.folder, tuple(context.config.streams))
    listed = [each for each in seen if each[1][0] != "." and each[1].endswith(_ENDINGS)]
    return blake3(repr(sorted(listed)).encode()).hexdigest()


def scanned(context: Context) -> list[RawFile | Unreadable]:
    """Return what all raw files' headers and times say."""
    paths = list(raw_paths(context.folder, tuple(context.config.streams)))
    found = []
    for number, (stream, path) in enumerate(paths):
        context.require_going()
        if number % 50 == 0:
            context.progress(Progress("sync", number, len(paths), unit="files", text=path.name))
        found.append(look(context.folder, stream, path))
    return found


class Sync:
    """The plan."""

    name = "sync"

    def is_wanted(self, context: Context) -> bool:
        """Every family needs it."""
        return True

    def key(self, context: Context) -> str:
        """Raw files, rules, version."""
        config = context.config
        return hash_of(
            VERSION, inputs_hash(context), config.chunks.model_dump(),
            {name: each.model_dump() for name, each in config.groups.items()},
            {name: each.model_dump() for name, each in config.streams.items()}, config.high_is,
        )  # fmt: skip

    def still_holds(self, context: Context, result: Any) -> bool:
        """The plan's files are there."""
        name = context.night["plan_hash"]
        return name is not None and all(
            path.exists() for path in (plan_path(context.folder, name),
                                       rows_path(context.folder, name))
        )  # fmt: skip

    def make(self, context: Context) -> tuple[Plan, list[RawFile | Unreadable], str]:
        """Return the plan, what was seen, and the hash of the inputs; writes nothing."""
        before = inputs_hash(context)
        found = scanned(context)
        plan = make_plan(context.night["date"], found, context.config)
        if inputs_hash(context) != before:
            raise Refused(
                f"raw files of night {context.night['date']} came or changed while they were "
                "looked at: it is still being recorded; try again when it is not"
            )
        return plan, found, before

    def run(self, context: Context) -> dict[str, Any]:
        """Make the plan and the rows of products in the database."""
        if any(row["released_ns"] for row in context.store.cubes(context.identity)):
            raise Refused(
                f"raw cubes of night {context.night['date']} were released: it cannot be "
                "planned again"
            )
        plan, found, inputs = self.make(context)
        _require_known(context, [each for each in found if isinstance(each, RawFile)])
        name = plan.save(context.folder)
        context.store.put_cubes(
            context.identity, [each for each in found if isinstance(each, RawFile)]
        )
        summary = summary_of(plan, context.config)
        context.store.put_plan(
            context.identity, name, plan.products, inputs_hash=inputs,
            raw_frames=summary["raw_frames"], lost_frames=summary["lost"],
            dubious_frames=plan.dubious, ledger_frames=summary["ledger_frames"],
            raw_bytes=sum(cube.size for cube in plan.cubes),
        )  # fmt: skip
        context.refresh()
        context.keep(plan, name)
        return {"plan": name, **summary}


def _require_known(context: Context, files: list[RawFile]) -> None:
    """Refuse a night of which raw cubes are gone, became shorter or have other content.

    Frames that are in products already would go from them without a word. By force it is done.
    """
    here = {each.ref.path: each.ref for each in files}
    bad: dict[str, str] = {}
    gone: list[int] = []
    touched: dict[int, int] = {}
    for row in context.store.cubes(context.identity):
        ref = here.get(row["path"])
        if ref is None:
            gone.append(row["id"])
            bad[row["path"]] = "it is gone, or cannot be read any more"
        elif ref.size < row["size"]:
            bad[row["path"]] = f"it has {ref.size} bytes and had {row['size']}"
        elif row["content_hash"] and (ref.size, ref.mtime_ns) != (row["size"], row["mtime_ns"]):
            context.require_going()
            if has_content(context.folder / row["path"], row["content_hash"]):
                touched[row["id"]] = ref.mtime_ns
            else:
                bad[row["path"]] = "its content is not what went into products"
    context.store.touch_cubes(touched)
    if not bad:
        return
    path, why = next(iter(bad.items()))
    text = f"{len(bad)} raw cubes changed after they were planned, first {path}: {why}"
    date = context.night["date"]
    if not context.is_forced:
        raise Refused(
            f"night {date}: {text}; restore them, or have it planned as it is now: archive run "
            f"{date} --step sync --force",
            cubes=bad,
        )  # fmt: skip
    context.store.forget_cubes(gone)
    context.store.set_night(context.identity, forced_ns=context.tools.clock.now_ns())
    context.say("damaged", f"{text}; planned by force as they are")


def summary_of(plan: Plan, config: NightsConfig) -> dict[str, Any]:
    """Return the numbers of a plan as plain JSON."""
    kinds: dict[str, int] = {}
    for product in plan.products:
        kinds[product.kind.value] = kinds.get(product.kind.value, 0) + product.frames
    return {
        "raw_files": len(plan.cubes), "raw_frames": len(plan.rows),
        "products": len(plan.products), "frames": kinds,
        "ledger_frames": sum(line.count for line in plan.ledger),
        "ledger_lines": len(plan.ledger), "lost": losses(plan, config).total,
        "dubious": plan.dubious,
        "ambiguous": [run.text for run in plan.runs if run.verdict == "ambiguous"],
    }  # fmt: skip
