# SPDX-License-Identifier: BSD-3-Clause
"""The story of one frame or product: where it is, and why."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nightjar.errors import Code, Refused
from nightjar.times import iso
from nightjard.archived.nights import naming
from nightjard.archived.nights.plan import LedgerLine, Plan
from nightjard.archived.nights.records import LEDGER_REASONS, Reason
from nightjard.archived.nights.store import NightStore, Row

_WHY = {
    Reason.PAIRED: "it has a partner in every other camera",
    Reason.UNTRIGGERED: "the camera ran by itself, so there is nothing to pair it with",
    Reason.ALONE: "no other camera was recorded at the time",
    Reason.UNMATCHED: "the partner that the same trigger exposed is missing",
    Reason.AMBIGUOUS: "which partner it has cannot be told",
    Reason.UNTIMED: "its cube has no usable times",
    Reason.NO_EXPOSURE_TIME: "its cube does not say how long it was exposed",
    Reason.SINGLE: "it is a single frame",
    Reason.NOT_IN_FILE: "the header promises it, but the file ends before it",
    Reason.UNREADABLE: "its file is no FITS image",
}
_STATES = {1: "driven high", -1: "low", 0: "not known"}


def why(store: NightStore, frame: str, night: Row | None, family: str | None) -> dict[str, Any]:
    """Return WHY_KEYS.

    Parameters
    ----------
    frame
        Name of a product or of its file, frame ID, or ``STREAM/CUBE/INDEX`` of a raw frame.
    night, family
        Where to look; everywhere if None.

    Raises
    ------
    Refused
        UNKNOWN_ITEM; or it is in several nights: they are named.
    """
    name = PurePosixPath(frame).name
    parts = frame.strip("/").split("/")
    if len(parts) >= 3 and parts[-1].isdigit():
        return _raw(store, parts[-3], parts[-2], int(parts[-1]), night, family)
    rows = [
        row for row in store.product_named(name)
        if (night is None or row["night_id"] == night["id"])
        and (family is None or store.get(row["night_id"])["family"] == family)
    ]  # fmt: skip
    if not rows:
        raise Refused(
            f"nothing is known of {frame}: give a product's name, a frame ID, or "
            "STREAM/CUBE/INDEX of a raw frame",
            code=Code.UNKNOWN_ITEM,
        )
    if len(rows) > 1:
        nights = ", ".join(sorted({store.get(row["night_id"])["date"] for row in rows}))
        raise Refused(f"{frame} is in several nights: {nights}; name one of them")
    return _product(store, rows[0])


def _product(store: NightStore, row: Row) -> dict[str, Any]:
    night = store.get(row["night_id"])
    plan = Plan.load(Path(night["folder"]), night["plan_hash"])
    product = plan.products[row["number"]]
    siblings = [each.name for each in plan.products
                if each.group == product.group and each.number != product.number]  # fmt: skip
    where = row["path"] or f"{row['folder']}/{row['name']}"
    verdict = f"{where} holds {row['frames']} frames; it is {row['state']}"
    if row["error"]:
        verdict += f": {row['error']}"
    return {
        "frame": row["path"] or row["name"], "kind": "product", "night": night["date"],
        "family": night["family"], "verdict": verdict,
        "facts": {
            "name": row["name"], "path": row["path"], "frame_id": row["frame_id"],
            "exp_id": row["exp_id"], "frames": row["frames"], "kind": row["kind"],
            "first": iso(row["first_ns"], 6), "last": iso(row["last_ns"], 6),
            "state": row["flc"] or None, "reason": _WHY[product.reason], "siblings": siblings,
            "sources": [plan.cubes[number].path for number in product.cubes],
            "size": row["size"], "file_blake3": row["file_hash"],
            "payload_blake3": row["payload_hash"],
            "written": _time(row["written_ns"]), "verified": _time(row["verified_ns"]),
        },
        "copies": [], "story": _story(store, night, row["name"]),
    }  # fmt: skip


def _raw(
    store: NightStore, stream: str, cube: str, index: int, night: Row | None, family: str | None
) -> dict[str, Any]:
    rows = [night] if night is not None else [
        row for row in store.nights(family) if row["plan_hash"] is not None
    ]  # fmt: skip
    found: list[tuple[Row, Plan, int]] = []
    lost: list[tuple[Row, LedgerLine]] = []
    for row in rows:
        if row["plan_hash"] is None:
            continue
        plan = Plan.load(Path(row["folder"]), row["plan_hash"])
        found += [
            (row, plan, each.number) for each in plan.cubes
            if each.stream == stream
            and cube in (PurePosixPath(each.path).name, naming.stem(each.path))
        ]  # fmt: skip
        lost += [
            (row, line) for line in plan.ledger
            if not line.count and PurePosixPath(line.path).parts[0] == stream
            and cube in (PurePosixPath(line.path).name, naming.stem(line.path))
        ]  # fmt: skip
    if lost and not found:
        return _unreadable(store, *lost[0], index)
    if not found:
        raise Refused(
            f"no cube {stream}/{cube} in the plan of any night that was meant",
            code=Code.UNKNOWN_ITEM,
        )
    if len(found) > 1:
        dates = ", ".join(sorted({each[0]["date"] for each in found}))
        raise Refused(f"{stream}/{cube} is in several nights: {dates}; name one of them")
    row, plan, number = found[0]
    at = np.flatnonzero((plan.rows["cube"] == number) & (plan.rows["index"] == index))
    if not len(at):
        count = plan.cubes[number].frames
        text = f"frames 0 to {count - 1}" if count else "no frames"
        raise Refused(f"{stream}/{cube} has {text}", code=Code.UNKNOWN_ITEM)
    return _frame(store, row, plan, plan.rows[int(at[0])])


def _unreadable(store: NightStore, night: Row, line: LedgerLine, index: int) -> dict[str, Any]:
    reason = Reason[line.reason]
    return {
        "frame": f"{line.path}/{index}", "kind": "raw", "night": night["date"],
        "family": night["family"],
        "verdict": f"it is in no product: {_WHY[reason]} ({line.text}); it stays where it is",
        "facts": {"cube": line.path, "index": index, "reason": reason.name.lower()},
        "copies": [], "story": _story(store, night, line.path),
    }  # fmt: skip


def _frame(store: NightStore, night: Row, plan: Plan, row: Any) -> dict[str, Any]:
    cube = plan.cubes[int(row["cube"])]
    reason = Reason(int(row["reason"]))
    product = plan.products[int(row["product"])] if row["product"] >= 0 else None
    verdict = f"it is in no product: {_WHY[reason]}"
    made = None
    if product is not None:
        made = next(each for each in store.products(night["id"])
                    if each["number"] == product.number)  # fmt: skip
        place = made["path"] or f"{product.folder}/{product.name}, which is not written yet"
        verdict = f"frame {int(row['position'])} of {place}: {_WHY[reason]}"
    if cube.problem and reason not in LEDGER_REASONS:
        verdict += f" ({cube.problem})"
    run = plan.runs[int(row["RUN"])] if row["RUN"] >= 0 else None
    return {
        "frame": f"{cube.path}/{int(row['index'])}", "kind": "raw", "night": night["date"],
        "family": night["family"], "verdict": verdict,
        "facts": {
            "cube": cube.path, "index": int(row["index"]), "reason": reason.name.lower(),
            "acquired": _time(int(row["ATIME"])), "logged": _time(int(row["LTIME"])),
            "mean": _time(int(row["MTIME"])), "counter": int(row["CNT0"]),
            "slot": int(row["CNT1"]), "trigger": int(row["TRIGGER"]),
            "state": _STATES[int(row["STATE"])], "state_confidence": float(row["FLCCONF"]),
            "pair_confidence": float(row["SYNCCONF"]), "offset_us": int(row["OFFSET"]) / 1000,
            "product": product.name if product is not None else None,
            "path": made["path"] if made is not None else None,
            "frame_id": made["frame_id"] if made is not None else None,
            "position": int(row["position"]) if product is not None else None,
            "run": run.text if run is not None else None,
            "remarks": list(plan.notes.get(cube.path, ())),
        },
        "copies": [],
        "story": _story(store, night, product.name if product is not None else cube.path),
    }  # fmt: skip


def _time(time_ns: int | None) -> str | None:
    return iso(time_ns, 9) if time_ns else None


def _story(store: NightStore, night: Row, name: str) -> list[dict[str, str]]:
    told = [
        (each["time_ns"], each["kind"], each["text"])
        for each in store.events(night["id"], 1000)
        if name in each["text"] or each["kind"] in ("done", "failed", "transfer", "restore")
    ]
    told += [
        (each["started_ns"], "attempt", f"{each['step']}: {each['outcome']}: {each['error']}")
        for each in store.attempts(night["id"]) if each["task"] == name
    ]  # fmt: skip
    return [{"time": iso(when, 3), "kind": kind, "text": text}
            for when, kind, text in sorted(told)]  # fmt: skip
