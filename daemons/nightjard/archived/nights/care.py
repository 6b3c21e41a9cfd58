# SPDX-License-Identifier: BSD-3-Clause
"""What is done with a night after its steps: read again, sent again, released, taken back."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nightjar.api.night_results import MAX_LISTED
from nightjar.errors import Refused
from nightjar.files import free_bytes
from nightjar.times import NS_PER_DAY, iso, parse_iso
from nightjard.archived.nights.engine import Engine
from nightjard.archived.nights.steps.context import Context, Tools
from nightjard.archived.nights.steps.copying import (
    expected_files,
    is_night_safe,
    night_name,
    teller,
)
from nightjard.archived.nights.steps.others import digest
from nightjard.archived.nights.steps.proving import check_products
from nightjard.archived.nights.store import Row
from nightjard.archived.nights.transfer.forecast import forecast
from nightjard.archived.nights.transfer.sending import Outcome

_RESERVE_BYTES = 10_000_000_000


class Care:
    """The upkeep of nights.

    Parameters
    ----------
    tools, engine
        Of the pipeline.
    """

    def __init__(self, tools: Tools, engine: Engine) -> None:
        self._tools = tools
        self._engine = engine

    # --- reading again ---

    def verify(self, context: Context, *, dry_run: bool) -> dict[str, Any]:
        """Read all products again; return VERIFY_KEYS."""
        began = self._tools.clock.monotonic_ns()
        if dry_run:
            context.plan()
            rows = [row for row in context.store.products(context.identity) if row["path"]]
            bad = _bad_at_a_glance(context.folder, rows)
        else:
            with self._engine.held(context):
                plan = context.plan()
                rows = [row for row in context.store.products(context.identity) if row["path"]]
                bad = check_products(context, plan, rows)
        listed = [{"path": name, "problem": text} for name, text in sorted(bad.items())]
        return {
            "night": context.night["date"], "family": context.night["family"],
            "files": len(rows), "bytes": sum(row["size"] or 0 for row in rows),
            "bad": listed[:MAX_LISTED], "is_good": not bad,
            "seconds": round((self._tools.clock.monotonic_ns() - began) / 1e9, 3),
            "omitted": max(0, len(listed) - MAX_LISTED),
        }  # fmt: skip

    def copies(self, night: Row) -> dict[str, Any]:
        """Return COPY_KEYS by destination, from what is known."""
        found: dict[str, Any] = {}
        totals = self._tools.transfers.totals(night["id"])
        # Copies that are as they should be are thousands, and nobody wants to see their names.
        is_all_right = all(each.state == "verified" for each in totals)
        known = [] if is_all_right else self._tools.transfers.copies(night["id"])
        for name in self._tools.transfers.names(night["family"]):
            mine = [each for each in totals if each.destination == name]
            different, missing = (
                [each.path for each in known if (each.destination, each.state) == (name, state)]
                for state in ("different", "missing")
            )
            found[name] = _copy(
                mine[0].host if mine else None, sum(each.files for each in mine),
                sum(each.files for each in mine if each.state == "verified"), different, missing,
                sum(each.bytes for each in mine),
                max((each.verified_ns for each in mine), default=None),
            )  # fmt: skip
        return found

    def copies_of(self, night: Row, path: str) -> list[dict[str, Any]]:
        """Return what destinations have said of a file."""
        return [
            {"destination": each.destination, "host": each.host, "path": each.path,
             "state": each.state, "verified": iso(each.verified_ns, 0)}
            for each in self._tools.transfers.copies(night["id"]) if each.path == path
        ]  # fmt: skip

    def resend(
        self, context: Context, destination: str | None, *, dry_run: bool
    ) -> dict[str, Any]:
        """Copy what destinations lack; return COPY_KEYS by destination."""
        names = self._chosen(context, destination)
        if dry_run:
            return self._lacking(context, names)
        with self._engine.held(context):
            expected = expected_files(context)
            done = {
                name: self._tools.transfers.transfer(
                    night_name(context), context.folder, expected, name,
                    teller(context, "resend", name, len(expected)), context.cancelled,
                ) for name in names
            }  # fmt: skip
        self._note_safety(context, expected)
        return self._told(context, names, done)

    def _lacking(self, context: Context, names: Sequence[str]) -> dict[str, Any]:
        """Ask destinations what they have; of one that fetches by itself its last receipt tells."""
        expected = expected_files(context, is_kept=False)
        found = {name: each for name, each in self.copies(context.night).items() if name in names}
        for name in names:
            seen = self._tools.transfers.look(
                night_name(context), expected, name,
                teller(context, "resend", name, len(expected)), context.cancelled,
            )
            if seen is None:
                continue
            wanted = [*seen.verified, *seen.different, *seen.missing]
            found[name] = _copy(
                seen.receipt.machine_id, len(wanted), len(seen.verified), list(seen.different),
                list(seen.missing), sum(expected[path][0] for path in wanted),
                self._tools.clock.now_ns(),
            )  # fmt: skip
        return found

    def due(self, family: str | None, destination: str | None) -> list[tuple[Row, str]]:
        """Return the nights and destinations whose copies are to be read again."""
        now_ns = self._tools.clock.now_ns()
        found = []
        for each in self._tools.transfers.scrub_due(now_ns):
            row = self._tools.store.get(each.night_id)
            if family in (None, row["family"]) and destination in (None, each.destination):
                found.append((row, each.destination))
        return found

    def scrub(
        self, context: Context, destination: str | None, *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Have copies read again and compared; what is damaged is mended from the good side."""
        names, done = self._chosen(context, destination), {}
        if dry_run:
            return self._told(context, names, {})
        with self._engine.held(context):
            expected = expected_files(context)
            for name in names:
                done[name] = self._tools.transfers.scrub(
                    night_name(context), context.folder, expected, name,
                    teller(context, "scrub", name, len(expected)), context.cancelled,
                )  # fmt: skip
                self._mark_spoiled(context, done[name])
        self._note_safety(context, expected)
        return self._told(context, names, done)

    def _told(
        self, context: Context, names: Sequence[str], done: Mapping[str, Outcome]
    ) -> dict[str, Any]:
        """Return COPY_KEYS by destination, with what has just been mended."""
        found = {name: each for name, each in self.copies(context.night).items() if name in names}
        for name, outcome in done.items():
            found[name] |= {
                "sent": len(outcome.repaired), "mended": list(outcome.repaired)[:MAX_LISTED],
                "mended_here": list(outcome.restored)[:MAX_LISTED],
                "is_good": found[name]["is_good"] and not outcome.spoiled,
            }  # fmt: skip
            found[name]["omitted"] += sum(
                max(0, len(each) - MAX_LISTED) for each in (outcome.repaired, outcome.restored)
            )
        return found

    def _mark_spoiled(self, context: Context, outcome: Outcome) -> None:
        rows = {row["path"]: row for row in context.store.products(context.identity)}
        context.store.set_products(
            (rows[path]["id"], {"state": "failed", "error": why, "verified_ns": None})
            for path, why in outcome.spoiled.items() if path in rows
        )  # fmt: skip

    def _chosen(self, context: Context, destination: str | None) -> list[str]:
        names = self._tools.transfers.names(context.night["family"])
        if destination is not None and destination not in names:
            known = ", ".join(names) or "none"
            raise Refused(
                f"no destination {destination!r} for family {context.night['family']}; there "
                f"are: {known}"
            )
        if not names:
            raise Refused(f"no destination is configured for family {context.night['family']}")
        return [destination] if destination is not None else names

    def _note_safety(self, context: Context, expected: dict[str, tuple[int, str]]) -> None:
        is_safe = is_night_safe(context, expected)
        now_ns = self._tools.clock.now_ns()
        context.refresh()
        context.store.set_night(
            context.identity,
            safe_ns=(context.night["safe_ns"] or now_ns) if is_safe else None,
            safe_files=digest(context) if is_safe else None,
        )

    def forecast(self, nights: Sequence[Row]) -> dict[str, Any]:
        """Return FORECAST_KEYS."""
        config, now_ns = self._tools.config, self._tools.clock.now_ns()
        by_device: dict[int, list[str]] = {}
        for name, each in config.families.items():
            with contextlib.suppress(OSError):
                by_device.setdefault(each.root.stat().st_dev, []).append(name)
        disks = []
        for families in by_device.values():
            root = config.families[families[0]].root
            history = [
                (parse_iso(f"{row['date'][:4]}-{row['date'][4:6]}-{row['date'][6:]}"),
                 (row["raw_bytes"] or 0) + (row["product_bytes"] or 0))
                for row in nights if row["family"] in families
            ]  # fmt: skip
            free = free_bytes(root)
            said = forecast(history, free, _RESERVE_BYTES, now_ns)
            recent = [count for _, count in history if count]
            disks.append({
                "path": str(root), "families": families, "free_bytes": free,
                "bytes_per_night": sum(recent) // len(recent) if recent else 0,
                "nights_left": said.days_left,
                "full": iso(said.full_ns, 0)[:10] if said.full_ns is not None else None,
                "text": said.text,
            })  # fmt: skip
        wait_ns = round(config.retention.wait_days * NS_PER_DAY)
        releasable = [
            {"night": row["date"], "family": row["family"], "bytes": row["raw_bytes"] or 0,
             "when": iso(row["safe_ns"] + wait_ns, 0)[:10]}
            for row in nights
            if config.retention.release_raw and row["safe_ns"] and not row["released_ns"]
            and not row["veto"]
        ]  # fmt: skip
        return {"disks": disks, "releasable": releasable}


def _bad_at_a_glance(folder: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Return name -> problem of products that are not there, or have another size."""
    bad = {}
    for row in rows:
        try:
            size = (folder / row["path"]).stat().st_size
        except OSError as error:
            bad[row["name"]] = f"{row['path']}: {error.strerror}"
            continue
        if size != row["size"]:
            bad[row["name"]] = f"{row['path']} has {size} bytes instead of {row['size']}"
    return bad


def _copy(
    host: str | None, files: int, verified: int, different: list[str], missing: list[str],
    size: int, read_ns: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Return COPY_KEYS of a copy that nothing was done with."""
    return {
        "host": host, "files": files, "verified": verified,
        "different": different[:MAX_LISTED], "missing": missing[:MAX_LISTED], "bytes": size,
        "sent": 0, "mended": [], "mended_here": [],
        "receipt": None if read_ns is None else iso(read_ns, 0),
        "is_good": 0 < files == verified,
        "omitted": max(0, len(different) - MAX_LISTED) + max(0, len(missing) - MAX_LISTED),
    }  # fmt: skip
