# SPDX-License-Identifier: BSD-3-Clause
"""The database follows the frame IDs on the disk, whenever their exchange was cut off.

Files are exchanged first, by a journal of their own. What they are called afterwards stands in
``name_changes.txt`` of their folder; what the database says otherwise is behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nightjard.archived.nights.ids import parse_file_name, read_name_changes, take_up
from nightjard.archived.nights.steps.context import Context
from nightjard.archived.nights.store import Row
from nightjard.archived.nights.writing import file_hash


def product_folders(context: Context) -> list[Path]:
    """Return the folders of a night that hold products."""
    names = sorted({stream.folder for stream in context.config.streams.values()})
    return [context.folder / name for name in names if (context.folder / name).is_dir()]


def complete_exchange(context: Context) -> None:
    """Bring an exchange of IDs that was cut off to its end, files and database.

    Raises
    ------
    StorageError
        A file is not where it must be; the message says what to do.
    Refused
        Another program is at it.
    """
    if not context.family.ids:
        return
    for folder in product_folders(context):
        if take_up(folder, clock=context.tools.clock):
            context.say("ids", f"an exchange of IDs in {folder.name} was cut off; it was ended")
    follow(context)


def follow(context: Context) -> None:
    """Take what products are called on the disk into the database; harmless twice."""
    moved = _moved(context)
    if not moved:
        return
    night = context.night
    # First: what was proven of these names is no proof of what they stand for now.
    context.store.set_night(context.identity, transferred_ns=None, safe_ns=None)
    context.tools.ids.rebind(
        night["family"], night["date"], {row["name"]: text for row, text, _ in moved}
    )
    given = context.tools.ids.assigned(night["family"], night["date"])
    found: list[tuple[int, dict[str, Any]]] = [
        (row["id"], {
            "frame_id": text, "exp_id": given[row["name"]].exp_id,
            "path": str(path.relative_to(context.folder)), "size": path.stat().st_size,
            "file_hash": file_hash(path),
        })
        for row, text, path in moved
    ]  # fmt: skip
    context.store.set_products(found)
    context.refresh()


def _moved(context: Context) -> list[tuple[Row, str, Path]]:
    """Return products that have another ID on the disk than in the database: row, ID, file."""
    rows = {row["name"]: row for row in context.store.products(context.identity)
            if row["path"] and row["frame_id"]}  # fmt: skip
    found = []
    for folder in product_folders(context):
        for old, new in read_name_changes(folder):
            row = rows.get(old.removesuffix(".fits"))
            text = parse_file_name(new)
            if row is None or not text or row["folder"] != folder.name or row["frame_id"] == text:
                continue
            path = folder / Path(row["path"]).name.replace(row["frame_id"], text)
            if path.is_file():
                found.append((row, text, path))
    return found
