# SPDX-License-Identifier: BSD-3-Clause
"""A night is brought back to its original state: what was made goes, raw stays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nightjar.errors import NightjarError, Refused, StorageError
from nightjar.files import fsync_folder, is_temporary
from nightjar.fits.hdus import read_headers
from nightjard.archived.nights.engine import Engine
from nightjard.archived.nights.ids.changes import NAME as NAME_CHANGES
from nightjard.archived.nights.plan import FOLDER
from nightjard.archived.nights.steps.context import Context, Progress, Tools, hash_of
from nightjard.archived.nights.steps.making import SUPERSEDED, has_content, is_ours


class Restoring:
    """Takes back what the steps made.

    Parameters
    ----------
    tools, engine
        Of the pipeline.
    """

    def __init__(self, tools: Tools, engine: Engine) -> None:
        self._tools = tools
        self._engine = engine

    def restore(
        self, context: Context, confirm: str | None, who: str, *, dry_run: bool
    ) -> dict[str, Any]:
        """Remove products and plan of a night; raw, IDs and far copies stay.

        Raises
        ------
        Refused
            Raw is not complete, so the products are the only copy; or it was not confirmed.
        """
        with self._engine.held(context):
            context.refresh()
            paths, kept = self._made(context)
            size = sum(path.stat().st_size for path in paths)
            rows = context.store.products(context.identity)
            token = hash_of(context.night["plan_hash"], sorted(map(str, paths)), size)[:16]
            self._require_raw(context)
            if not dry_run:
                if confirm != token:
                    raise Refused(
                        f"restore of night {context.night['date']} removes {len(paths)} files "
                        f"({size / 1e6:.1f} MB): confirm with {token}",
                        confirm=token,
                    )
                self._require_content(context)
                self._remove(context, paths, who, kept)
        names = [row["name"] for row in rows if row["frame_id"]]
        reserved = self._tools.ids.withdraw(context.night["family"], context.night["date"], names)
        return {
            "night": context.night["date"], "family": context.night["family"],
            "folder": str(context.folder),
            "state": "waiting" if not dry_run else context.night["state"],
            "files": len(paths), "bytes": size, "kept": len(kept), "ids": len(reserved),
            "confirm": token if dry_run else None,
        }  # fmt: skip

    def _made(self, context: Context) -> tuple[list[Path], list[Path]]:
        """Return what the pipeline made in a night's folder: what goes, and what stays.

        What was set aside stays where raw does not hold its frames any more, or where raw was taken
        as it was although it had changed: then it may be all that is left of them.

        Raises
        ------
        Refused
            A raw cube is gone of which a product has frames, whatever the database says.
        """
        gone, kept = [], []
        was_forced = context.store.was_forced(context.identity)
        for path in self._all_made(context):
            missing = _missing_raw(context.folder, path)
            if path.parent.name == SUPERSEDED and (missing or (was_forced and is_ours(path))):
                kept.append(path)
                continue
            if missing:
                raise Refused(
                    f"night {context.night['date']}: {path.relative_to(context.folder)} has frames "
                    f"of the raw cube {missing}, which is not there: they are in the products "
                    "only, which therefore stay"
                )
            gone.append(path)
        return gone, kept

    def _all_made(self, context: Context) -> Iterable[Path]:
        folders = {stream.folder for stream in context.config.streams.values()}
        known = {row["path"] for row in context.store.products(context.identity)}
        for name in sorted({*folders, FOLDER, SUPERSEDED}):
            for top, _, names in os.walk(context.folder / name):
                for each in sorted(names):
                    path = Path(top) / each
                    is_guest = name in folders and not (
                        str(path.relative_to(context.folder)) in known
                        or each == NAME_CHANGES or is_temporary(path) or is_ours(path)
                    )  # fmt: skip
                    # What others put beside our products can be made from no raw cube.
                    if each != ".lock" and not is_guest:
                        yield path
        for path in sorted(context.folder.glob("manifest_*.csv")):
            # Ours has its extended form beside it; any other was put there by a person.
            if (context.folder / FOLDER / path.with_suffix(".json").name).is_file():
                yield path

    def _require_raw(self, context: Context) -> None:
        for row in context.store.cubes(context.identity):
            path = context.folder / row["path"]
            try:
                size = path.stat().st_size
            except OSError:
                size = -1
            if row["released_ns"] is not None or size != row["size"]:
                what = "was released" if row["released_ns"] is not None else "is not there"
                raise Refused(
                    f"night {context.night['date']}: raw cube {row['path']} {what}: its frames "
                    "are in the products only, which therefore stay"
                )

    def _require_content(self, context: Context) -> None:
        for row in context.store.cubes(context.identity):
            if row["content_hash"] is None:
                continue  # nothing that was made rests on it
            context.require_going()
            context.progress(Progress("restore", text=f"reading {row['path']}"))
            if not has_content(context.folder / row["path"], row["content_hash"]):
                raise Refused(
                    f"night {context.night['date']}: raw cube {row['path']} is not what it was "
                    "when its frames went into products, which therefore stay"
                )

    def _remove(
        self, context: Context, paths: Sequence[Path], who: str, kept: Sequence[Path]
    ) -> None:
        # The database first: after a crash in between, files of no plan are set aside, not used.
        context.store.forget(context.identity)
        now_ns = self._tools.clock.now_ns()
        context.store.say(
            context.identity, now_ns, "restore",
            f"{len(paths)} files removed; raw is as it was" + (
                f"; {len(kept)} stay in {SUPERSEDED}/: raw may not hold their frames any more"
                if kept else ""
            ),
            who,
        )  # fmt: skip
        try:
            for path in paths:
                path.unlink(missing_ok=True)
            folders = {path.parent for path in paths} - {context.folder}
            for folder in sorted(folders, key=lambda each: -len(each.parts)):
                with contextlib.suppress(OSError):  # not empty: the lock, or what others put there
                    folder.rmdir()
            fsync_folder(context.folder)
        except OSError as error:
            raise StorageError(
                f"night {context.night['date']}: not all products could be removed: {error}; "
                "restore it again"
            ) from error
        context.refresh()


def _missing_raw(folder: Path, path: Path) -> str:
    """Return the first raw cube that a product of ours has frames of and that is not there."""
    if not path.name.endswith((".fits", ".fits.fz")):
        return ""
    try:
        headers = read_headers(path)
    except NightjarError:
        return ""  # it holds nothing that could be read
    for header in headers:
        if "PLANHASH" not in header:
            continue
        for number in range(1, int(str(header.get("NSRC", 0))) + 1):
            name = str(header.get(f"SRC{number}", "")).strip()
            if name and not (folder / name).is_file():
                return name
    return ""
