# SPDX-License-Identifier: BSD-3-Clause
"""Manifests, letters and frame IDs of nights, by command."""

from __future__ import annotations

import contextlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nightjar import __version__
from nightjar.api.night_results import MAX_LISTED
from nightjar.errors import Refused
from nightjard.archived.nights.engine import Engine
from nightjard.archived.nights.ids import check, fix
from nightjard.archived.nights.ids_following import complete_exchange, follow, product_folders
from nightjard.archived.nights.manifest import (
    Entry,
    entries_of_night,
    extended_manifest,
    known_ids,
    letter,
    manifest_name,
    read_confirmed,
    send,
    stars_manifest,
    write_letter,
    write_manifest,
)
from nightjard.archived.nights.manifest.taken import note, taken
from nightjard.archived.nights.plan import FOLDER
from nightjard.archived.nights.steps.context import Context, Progress, Tools
from nightjard.archived.nights.steps.listing import prefixes_of
from nightjard.archived.nights.store import Row

Tell = Callable[[Progress], None]


def say_nothing(_: Progress) -> None:
    """Take progress that nobody asked for."""


class Papers:
    """What goes to others with the files, and what stands in their headers.

    Parameters
    ----------
    tools, engine
        Of the pipeline.
    """

    def __init__(self, tools: Tools, engine: Engine) -> None:
        self._tools = tools
        self._engine = engine

    # --- manifest and mail ---

    def manifest(
        self, nights: Sequence[Row], *, combine: bool, text: bool, dry_run: bool = False,
        tell: Tell = say_nothing,
    ) -> dict[str, Any]:  # fmt: skip
        """Write manifests; return MANIFEST_KEYS."""
        if not nights:
            raise Refused("name at least one night")
        self._require_ids(nights)
        groups = [[night] for night in nights]
        if combine and len(nights) > 1:
            groups.append(list(nights))
        made = []
        for number, group in enumerate(groups):
            dates = ", ".join(night["date"] for night in group)
            tell(Progress("manifest", number, len(groups), unit="manifests", text=dates))
            with self._held([] if dry_run else group):
                made.append(self._manifest(group, text=text, dry_run=dry_run))
        return {"manifests": made}

    @contextlib.contextmanager
    def _held(self, nights: Sequence[Row]) -> Iterator[None]:
        """Have nights for oneself; Busy where somebody works on one of them."""
        with contextlib.ExitStack() as stack:
            for _, night in sorted({each["folder"]: each for each in nights}.items()):
                stack.enter_context(self._engine.held(self._engine.context(night)))
            yield

    def _manifest(
        self, nights: Sequence[Row], *, text: bool, dry_run: bool = False
    ) -> dict[str, Any]:
        entries = self._entries(nights)
        path = self._path(nights, entries)
        json_path = _record(path).with_suffix(".json")
        prefixes = prefixes_of(self._tools.config)
        data = stars_manifest(entries, prefixes)
        if not dry_run:
            json_path.parent.mkdir(exist_ok=True)
            write_manifest(path, data)
            versions = {"nightjar": __version__}
            if len(nights) == 1:  # as the step `manifest` writes it: the same bytes, once proven
                versions["plan"] = nights[0]["plan_hash"][:16]
            write_manifest(json_path, extended_manifest(entries, prefixes, versions=versions))
        return {
            "path": str(path), "json_path": str(json_path),
            "nights": [night["date"] for night in nights], "files": len(entries),
            "bytes": sum(entry.size for entry in entries),
            "text": data.decode() if text else None,
        }  # fmt: skip

    def _entries(self, nights: Sequence[Row]) -> list[Entry]:
        database = self._tools.store.database
        return [
            entry for night in nights
            for entry in entries_of_night(database, night["family"], night["date"])
        ]  # fmt: skip

    def _path(self, nights: Sequence[Row], entries: Sequence[Entry]) -> Path:
        """Return where a manifest goes: that of several nights beside them."""
        instrument = min(entry.frame_id for entry in entries)[:3]
        if len(nights) == 1:
            return Path(nights[0]["folder"]) / manifest_name(nights[0]["date"], instrument)
        return Path(nights[0]["folder"]).parent / manifest_name(instrument=instrument)

    def mail(self, nights: Sequence[Row], *, dry_run: bool) -> dict[str, Any]:
        """Write the letter about nights and send it where a server is configured."""
        with self._held([] if dry_run else nights):
            return self._mail(nights, dry_run=dry_run)

    def _mail(self, nights: Sequence[Row], *, dry_run: bool) -> dict[str, Any]:
        config = self._tools.config.mail
        self._require_ids(nights)
        entries = self._entries(nights)
        path = self._path(nights, entries)
        with tempfile.TemporaryDirectory() as folder:
            attached = path
            if dry_run:
                attached = Path(folder) / path.name
                prefixes = prefixes_of(self._tools.config)
                write_manifest(attached, stars_manifest(entries, prefixes))
            else:  # what lies there may be of other nights, or of before a repair
                self._manifest(nights, text=False)
            message = letter(
                config, [night["date"] for night in nights], attached, len(entries),
                sum(entry.size for entry in entries),
            )  # fmt: skip
        target = _record(path).with_suffix(".eml")
        is_sent = False
        if not dry_run:
            write_letter(message, target)
            if config.smtp_host is not None:
                record = target.with_suffix(".sent.json")
                is_sent = not send(message, config, self._tools.clock, record).refused
        body = message.get_body(("plain",))
        return {
            "path": None if dry_run else str(target), "to": list(config.to),
            "subject": str(message["Subject"]),
            "body": body.get_content() if body is not None else "",
            "attachments": [str(path)], "sent": is_sent,
            "server": f"{config.smtp_host}:{config.smtp_port}" if config.smtp_host else None,
        }  # fmt: skip

    def ingested(self, lines: Sequence[str], *, dry_run: bool) -> dict[str, Any]:
        """Keep what the observatory's archive took; return INGEST_KEYS."""
        database, store = self._tools.store.database, self._tools.store
        listed = read_confirmed("\n".join(lines).encode())
        owners = known_ids(database, listed)
        by_night: dict[tuple[str, str], list[str]] = defaultdict(list)
        for frame_id, owner in owners.items():
            by_night[owner].append(frame_id)
        now_ns = self._tools.clock.now_ns()
        nights: list[dict[str, Any]] = []
        missing: list[str] = []
        omitted = 0
        for (family, date), ids in sorted(by_night.items()):
            row = store.find(family, date)
            if row is None:
                continue
            before = taken(database, row["id"])
            after = taken(database, row["id"], ids)
            new = len(after.confirmed) - len(set(after.confirmed) & set(before.confirmed))
            if new and not dry_run:
                note(database, row["id"], ids, now_ns)
                store.say(
                    row["id"], now_ns, "ingest",
                    f"the observatory's archive has {len(after.confirmed)} of {after.files} files",
                )
            missing += after.missing
            omitted += max(0, len(after.missing) - MAX_LISTED)
            nights.append({
                "night": date, "family": family, "files": after.files, "new": new,
                "confirmed": len(after.confirmed), "missing": list(after.missing[:MAX_LISTED]),
            })  # fmt: skip
        unknown = sorted(set(listed) - set(owners))
        return {
            "nights": nights[:MAX_LISTED], "unknown": unknown[:MAX_LISTED],
            "is_good": not missing and not unknown,
            "omitted": omitted + max(0, len(unknown) - MAX_LISTED),
        }  # fmt: skip

    def _require_ids(self, nights: Iterable[Row]) -> None:
        for night in nights:
            family = night["family"]
            if not self._tools.config.families[family].ids:
                raise Refused(
                    f"night {night['date']}: family {family} gets no frame IDs and no manifest "
                    f"(families.{family}.ids is false)"
                )

    # --- frame IDs ---

    def check_ids(self, context: Context) -> dict[str, Any]:
        """Compare the IDs in files, names and database; return IDS_KEYS."""
        self._require_ids([context.night])
        return self._ids(context, [])

    def fix_ids(self, context: Context, *, dry_run: bool) -> dict[str, Any]:
        """Put IDs right by exchanging them; return IDS_KEYS."""
        self._require_ids([context.night])
        with self._engine.held(context):
            if not dry_run:
                complete_exchange(context)
            changes = fix(product_folders(context), dry_run=dry_run, clock=self._tools.clock)
            if changes and not dry_run:
                follow(context)
        listed = [
            {"path": str((each.folder / each.old).relative_to(context.folder)),
             "old": each.old_id or None, "new": each.new_id}
            for each in changes
        ]  # fmt: skip
        return self._ids(context, listed)

    def _ids(self, context: Context, changes: list[dict[str, Any]]) -> dict[str, Any]:
        rows = check(folder for folder in product_folders(context) if folder.is_dir())
        known = {row["path"]: row["frame_id"] for row in context.store.products(context.identity)}
        problems = []
        for row in rows:
            path = str(row.file.relative_to(context.folder))
            text = row.problem
            if not text and path in known and known[path] != row.frame_id:
                text = f"the database has {known[path]}"
            if text:
                problems.append({"path": path, "frame_id": row.frame_id, "problem": text})
        found = {str(row.file.relative_to(context.folder)) for row in rows}
        problems += [
            {"path": path, "frame_id": frame_id, "problem": "the file is missing"}
            for path, frame_id in known.items() if path is not None and path not in found
        ]  # fmt: skip
        return {
            "night": context.night["date"], "family": context.night["family"],
            "files": len(rows), "ids": sum(bool(row.frame_id) for row in rows),
            "problems": problems[:MAX_LISTED], "changes": changes[:MAX_LISTED],
            "is_good": not problems,
            "omitted": max(0, len(problems) - MAX_LISTED) + max(0, len(changes) - MAX_LISTED),
        }  # fmt: skip


def _record(path: Path) -> Path:
    """Return the place of what goes with a manifest: the folder `record` of a night."""
    is_night = (path.parent / FOLDER).is_dir()
    return path.parent / FOLDER / path.name if is_night else path
