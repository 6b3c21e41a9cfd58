# SPDX-License-Identifier: BSD-3-Clause
"""What stands in the headers of products: looked at, put right, repaired; by command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nightjar.api.night_results import MAX_LISTED
from nightjar.errors import NightjarError, Refused
from nightjar.fits.cards import Card
from nightjar.fits.hdus import read_headers
from nightjard.archived.nights.dictionary import Finding, check_files, fixes_of, repair
from nightjard.archived.nights.engine import Engine
from nightjard.archived.nights.ids_following import product_folders
from nightjard.archived.nights.papers import Tell, say_nothing
from nightjard.archived.nights.steps.checking import Headers, telemetry
from nightjard.archived.nights.steps.context import Context, Progress, Tools
from nightjard.archived.nights.store import Row
from nightjard.archived.nights.writing.layout import verbatim_cards

_REMAKING = ("headers", "ids", "consolidate", "compress", "verify")
_PROBLEMS = {
    "missing": "missing", "wrong type": "type", "too long": "length", "out of range": "range",
    "precision": "precision",
}  # fmt: skip


class HeaderCare:
    """What stands in the headers of products.

    Parameters
    ----------
    tools, engine
        Of the pipeline.
    """

    def __init__(self, tools: Tools, engine: Engine) -> None:
        self._tools = tools
        self._engine = engine

    def check_headers(self, context: Context) -> dict[str, Any]:
        """Compare the headers of a night's products with the dictionary."""
        return self.check_files(
            [path for folder in product_folders(context)
             for path in sorted(folder.glob("*.fits*"))],
            context.progress,
        )  # fmt: skip

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

    def check_files(
        self, paths: Sequence[Path], tell: Tell = say_nothing
    ) -> dict[str, Any]:
        """Compare headers with the dictionary; return HEADERS_KEYS."""

        def told() -> Iterator[Path]:
            for number, path in enumerate(paths):
                tell(Progress("headers", number, len(paths), unit="files", text=path.name))
                yield path

        report = check_files(told(), self._tools.dictionary)
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
        for number, row in enumerate(rows):
            context.require_going()
            context.progress(
                Progress("headers", number, len(rows), unit="files", text=row["path"])
            )
            path = context.folder / row["path"]
            result = fixes_of(path, self._tools.dictionary)
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


def _values(path: Path) -> dict[str, Any]:
    try:
        headers = read_headers(path)
    except NightjarError:
        return {}
    return dict(headers[1] if len(headers) > 1 and "ZIMAGE" in headers[1] else headers[0])


def _text(value: Any) -> str | None:
    return None if value is None else str(value)

