# SPDX-License-Identifier: BSD-3-Clause
"""Manifests, letters, frame IDs and headers of nights, by command."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nightjar import __version__
from nightjar.api.night_results import MAX_LISTED
from nightjar.errors import NightjarError, Refused
from nightjar.fits.cards import Card
from nightjar.fits.hdus import read_headers
from nightjard.archived.nights.dictionary import Finding, check_files, fix_file, repair
from nightjard.archived.nights.engine import Engine
from nightjard.archived.nights.ids import Change, check, fix
from nightjard.archived.nights.manifest import (
    Entry,
    entries_of_night,
    extended_manifest,
    letter,
    manifest_name,
    send,
    stars_manifest,
    write_letter,
    write_manifest,
)
from nightjard.archived.nights.plan import FOLDER
from nightjard.archived.nights.steps.checking import Headers, telemetry
from nightjard.archived.nights.steps.context import Context, Progress, Tools
from nightjard.archived.nights.store import Row
from nightjard.archived.nights.writing import file_hash
from nightjard.archived.nights.writing.layout import verbatim_cards

_REMAKING = ("headers", "ids", "consolidate", "compress", "verify")
_PROBLEMS = {
    "missing": "missing", "wrong type": "type", "too long": "length", "out of range": "range",
    "precision": "precision",
}  # fmt: skip


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

    def manifest(self, nights: Sequence[Row], *, combine: bool, text: bool) -> dict[str, Any]:
        """Write manifests; return MANIFEST_KEYS."""
        if not nights:
            raise Refused("name at least one night")
        self._require_ids(nights)
        groups = [[night] for night in nights]
        if combine and len(nights) > 1:
            groups.append(list(nights))
        return {"manifests": [self._manifest(group, text=text) for group in groups]}

    def _manifest(self, nights: Sequence[Row], *, text: bool) -> dict[str, Any]:
        entries = self._entries(nights)
        path = self._path(nights, entries)
        json_path = _record(path).with_suffix(".json")
        data = stars_manifest(entries)
        json_path.parent.mkdir(exist_ok=True)
        write_manifest(path, data)
        versions = {"nightjar": __version__}
        if len(nights) == 1:  # as the step `manifest` writes it: the same bytes, proven elsewhere
            versions["plan"] = nights[0]["plan_hash"][:16]
        write_manifest(json_path, extended_manifest(entries, versions=versions))
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
        config = self._tools.config.mail
        self._require_ids(nights)
        entries = self._entries(nights)
        path = self._path(nights, entries)
        with tempfile.TemporaryDirectory() as folder:
            attached = path
            if dry_run:
                attached = Path(folder) / path.name
                write_manifest(attached, stars_manifest(entries))
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
            changes = fix(_folders(context), dry_run=dry_run, clock=self._tools.clock)
            if changes and not dry_run:
                self._follow(context, changes)
        listed = [
            {"path": str((each.folder / each.old).relative_to(context.folder)),
             "old": each.old_id or None, "new": each.new_id}
            for each in changes
        ]  # fmt: skip
        return self._ids(context, listed)

    def _follow(self, context: Context, changes: Sequence[Change]) -> None:
        """Take what files are called now into the database."""
        night = context.night
        by_path = {str((each.folder / each.old).relative_to(context.folder)): each
                   for each in changes}  # fmt: skip
        rows = [row for row in context.store.products(context.identity)
                if row["path"] in by_path]  # fmt: skip
        self._tools.ids.rebind(
            night["family"], night["date"],
            {row["name"]: by_path[row["path"]].new_id for row in rows},
        )  # fmt: skip
        given = self._tools.ids.assigned(night["family"], night["date"])
        for row in rows:
            change = by_path[row["path"]]
            path = change.folder / change.new
            context.store.set_products([(row["id"], {
                "frame_id": given[row["name"]].frame_id, "exp_id": given[row["name"]].exp_id,
                "path": str(path.relative_to(context.folder)), "size": path.stat().st_size,
                "file_hash": file_hash(path),
            })])  # fmt: skip
        context.store.set_night(context.identity, transferred_ns=None, safe_ns=None)

    def _ids(self, context: Context, changes: list[dict[str, Any]]) -> dict[str, Any]:
        rows = check(folder for folder in _folders(context) if folder.is_dir())
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

    # --- headers ---

    def check_headers(self, context: Context) -> dict[str, Any]:
        """Compare the headers of a night's products with the dictionary."""
        return self.check_files(
            path for folder in _folders(context) for path in sorted(folder.glob("*.fits*"))
        )

    def below_roots(self, paths: Sequence[str]) -> list[Path]:
        """Return FITS files that paths mean; they must be below a family's root.

        Raises
        ------
        Refused
            They are not, or are not there.
        """
        roots = [each.root.resolve() for each in self._tools.config.families.values()]
        found: list[Path] = []
        for text in paths:
            path = Path(text).resolve()
            if not any(path.is_relative_to(root) for root in roots):
                where = ", ".join(map(str, roots))
                raise Refused(f"{text} is not below the root of a family: {where}")
            if not path.exists():
                raise Refused(f"{text} is not there")
            found += sorted(path.rglob("*.fits*")) if path.is_dir() else [path]
        return found

    def check_files(self, paths: Iterable[Path]) -> dict[str, Any]:
        """Compare headers with the dictionary; return HEADERS_KEYS."""
        report = check_files(paths, self._tools.dictionary)
        findings = [
            _finding(file.path, finding)
            for file in report.files for finding in file.findings if finding.is_fault
        ]  # fmt: skip
        return _headers(len(report.files), findings, [])

    def fix_headers(self, context: Context, *, dry_run: bool) -> dict[str, Any]:
        """Write values as the dictionary wants them; return HEADERS_KEYS."""
        listed: list[dict[str, Any]] = []
        findings: list[dict[str, Any]] = []
        rows = self._rows_to_change(context)
        for row in rows:
            path = context.folder / row["path"]
            result = fix_file(path, self._tools.dictionary, dry_run=True)
            findings += [_finding(row["path"], each) for each in result.findings if each.is_fault]
            before = _values(path)
            listed += [{"path": row["path"], "keyword": key, "old": _text(before.get(key)),
                        "new": None} for key in result.changed]  # fmt: skip
        if listed and not dry_run:
            # A product follows from raw and the dictionary of today: it is made anew.
            self._make_anew(context, f"{len(listed)} values in the dictionary's form")
        return _headers(len(rows), findings, listed)

    def repair_headers(
        self, context: Context, keys: Sequence[str], *, dry_run: bool
    ) -> dict[str, Any]:
        """Take values from the night's telemetry log; return HEADERS_KEYS."""
        log = telemetry(context)
        if log is None:
            pattern = context.config.telemetry
            raise Refused(
                f"night {context.night['date']} has no telemetry log: "
                + (f"nothing matches {context.folder}/{pattern}" if pattern
                   else "key `telemetry` of the configuration names none")
            )
        listed: list[dict[str, Any]] = []
        findings: list[dict[str, Any]] = []
        with self._engine.held(context):
            rows = self._rows_to_change(context)
            plan = context.plan()
            headers = Headers(context, plan)
            for number, row in enumerate(rows):
                context.require_going()
                context.progress(
                    Progress("headers", number, len(rows), unit="files", text=row["path"])
                )
                product = plan.products[row["number"]]
                text, _ = headers.cards(product, row["frame_id"], row["exp_id"])
                old = verbatim_cards(text)
                new, said = repair(
                    old, log, keys, product.mid_ns, dictionary=self._tools.dictionary
                )
                findings += [_finding(row["path"], each) for each in said if each.is_fault]
                cards = _differing(old, new)
                if not cards:
                    continue
                history = [card for card in new[len(old) :] if card.keyword == "HISTORY"]
                headers.changes.add(row["name"], cards, history)
                values = {card.keyword: card.value for card in old}
                listed += [{"path": row["path"], "keyword": key, "old": _text(values.get(key)),
                            "new": _text(card.value)} for key, card in cards.items()]  # fmt: skip
            if listed and not dry_run:
                headers.changes.save()
        if listed and not dry_run:
            changed = sorted({each["keyword"] for each in listed})
            self._make_anew(context, f"{len(listed)} values repaired: {', '.join(changed)[:300]}")
        return _headers(len(rows), findings, listed)

    def _rows_to_change(self, context: Context) -> list[Row]:
        context.refresh()
        date = context.night["date"]
        if context.night["released_ns"] is not None:
            raise Refused(f"raw of night {date} was released: its products are not changed")
        rows = context.store.products(context.identity)
        if context.night["plan_hash"] is None or any(row["path"] is None for row in rows):
            raise Refused(
                f"night {date}: not all products are written; first: archive run {date} --until "
                "consolidate"
            )
        return rows

    def _make_anew(self, context: Context, text: str) -> None:
        """Have the products made whose headers are not as they should be any more."""
        context.say("headers", text)
        self._engine.run(
            context.night, _REMAKING, progress=context.progress, cancelled=context.cancelled
        )


def _differing(old: Sequence[Card], new: Sequence[Card]) -> dict[str, Card]:
    """Return keyword -> card of the cards that were put in place of others, or behind them."""
    replaced = [card for before, card in zip(old, new, strict=False) if card is not before]
    added = [card for card in new[len(old) :] if card.keyword != "HISTORY"]
    return {card.keyword: card for card in (*replaced, *added)}


def _headers(
    files: int, findings: list[dict[str, Any]], changes: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "files": files, "findings": findings[:MAX_LISTED], "changes": changes[:MAX_LISTED],
        "is_good": not findings,
        "omitted": max(0, len(findings) - MAX_LISTED) + max(0, len(changes) - MAX_LISTED),
    }  # fmt: skip


def _finding(path: str, finding: Finding) -> dict[str, Any]:
    return {
        "path": path, "keyword": finding.key,
        "problem": _PROBLEMS.get(finding.kind.value, finding.kind.value),
        "value": finding.value if finding.value is None else str(finding.value),
        "text": finding.text,
    }  # fmt: skip


def _folders(context: Context) -> list[Path]:
    names = sorted({stream.folder for stream in context.config.streams.values()})
    return [context.folder / name for name in names if (context.folder / name).is_dir()]


def _record(path: Path) -> Path:
    """Return the place of what goes with a manifest: the folder `record` of a night."""
    is_night = (path.parent / FOLDER).is_dir()
    return path.parent / FOLDER / path.name if is_night else path


def _values(path: Path) -> dict[str, Any]:
    try:
        headers = read_headers(path)
    except NightjarError:
        return {}
    return dict(headers[1] if len(headers) > 1 and "ZIMAGE" in headers[1] else headers[0])


def _text(value: Any) -> str | None:
    return None if value is None else str(value)

