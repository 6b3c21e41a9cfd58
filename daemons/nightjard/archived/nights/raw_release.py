# SPDX-License-Identifier: BSD-3-Clause
"""Raw cubes of nights go into quarantine, from there for ever, or come back: the command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nightjar.api.night_results import MAX_LISTED
from nightjar.api.nights import NightState
from nightjar.errors import Cancelled, NightjarError, Refused
from nightjar.times import NS_PER_S
from nightjard.archived.nights.engine import Engine
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.steps.context import Context, Progress, Tools
from nightjard.archived.nights.steps.copying import (
    expected_files,
    is_still_safe,
    night_name,
    still_text,
    unproven,
)
from nightjard.archived.nights.transfer.evidence import Evidence
from nightjard.archived.nights.transfer.quarantine import MOVING, Note

_KEEP, _QUARANTINE, _REMOVE, _RETURN = "keep", "quarantine", "remove", "return"


class RawRelease:
    """Lets raw go as far as the policy allows, and brings it back.

    Parameters
    ----------
    tools, engine
        Of the pipeline.
    """

    def __init__(self, tools: Tools, engine: Engine) -> None:
        self._tools = tools
        self._engine = engine

    def release(
        self, contexts: Sequence[Context], who: str, *, dry_run: bool
    ) -> dict[str, Any]:
        """Move raw that is proven elsewhere to quarantine, delete what was there long enough."""
        listed: list[dict[str, Any]] = []
        for number, context in enumerate(contexts):
            context.progress(Progress(
                "release", number, len(contexts), unit="nights", text=context.night["date"]
            ))  # fmt: skip
            if context.night["plan_hash"] is None:
                continue
            row = _row(context)
            try:
                is_something = self._one(context, row, who, dry_run=dry_run)
            except Cancelled:
                raise
            except NightjarError as error:  # of this night alone
                row.update(action=_KEEP, reasons=[error.message])
                is_something = True
            if is_something:
                listed.append(row)
        return _told(listed)

    def _one(self, context: Context, row: dict[str, Any], who: str, *, dry_run: bool) -> bool:
        """Do it with one night; return whether it has any raw to speak of."""
        transfers, night = self._tools.transfers, night_name(context)
        note = transfers.held(context.folder)
        if note is None and context.night["released_ns"] is not None:
            return False  # deleted for ever
        plan = context.plan()
        if context.night["safe_ns"] is not None and not is_still_safe(context):
            row["reasons"] = [still_text(unproven(context), context.night["date"])]
            return True
        row.update(cubes=len(plan.cubes), bytes=sum(cube.size for cube in plan.cubes))
        if note is not None and note.state != MOVING:
            self._purge(context, self._evidence(context, plan), row, dry_run=dry_run)
            return True
        if note is not None:  # its move was cut off; it was decided on, and goes on
            if context.night["veto"]:
                row["reasons"] = [
                    f"veto: {context.night['veto']}; its cubes are half in quarantine: archive "
                    f"release {context.night['date']} --back"
                ]
                return True
        else:
            decision = transfers.decide_release(night, self._evidence(context, plan))
            if not decision.may_release:
                row["reasons"] = list(decision.reasons)
                return True
        row["action"] = _QUARANTINE
        if not dry_run:
            with self._engine.held(context):
                transfers.quarantine(night, self._evidence(context, plan), who)
                # Later than the folders' times: what changes them from now on is looked at.
                context.store.set_night(
                    context.identity, released_ns=self._tools.clock.now_ns(),
                    state=NightState.RELEASED.value,
                )
        return True

    def _evidence(self, context: Context, plan: Plan) -> Evidence:
        newest_ns = max([context.night["changed_ns"] or 0, *(c.mtime_ns for c in plan.cubes)])
        age_s = (self._tools.clock.now_ns() - newest_ns) / NS_PER_S
        is_whole = age_s > self._tools.config.seal_hours * 3600
        return Evidence(context.folder, plan.rows, plan.cubes, is_whole)

    def _purge(
        self, context: Context, evidence: Evidence, row: dict[str, Any], *, dry_run: bool
    ) -> None:
        transfers, night = self._tools.transfers, night_name(context)
        if not transfers.is_purge_due(night, evidence):
            row["reasons"] = list(transfers.decide_release(night, evidence).reasons)
        elif dry_run:  # the machines are asked when it is done
            row["action"] = _REMOVE
        elif transfers.purge_due(
            [(night, evidence, expected_files(context, is_kept=False))],
            cancelled=context.cancelled,
        ):
            row["action"] = _REMOVE
        else:
            row["reasons"] = list(transfers.decide_release(night, evidence).reasons)

    def bring_back(self, context: Context, who: str, *, dry_run: bool) -> dict[str, Any]:
        """Bring the raw cubes of a night back from quarantine.

        Raises
        ------
        Refused
            Nothing of it is there.
        """
        note = self._tools.transfers.held(context.folder)
        if note is None:
            raise Refused(f"nothing of {context.night['date']} is in quarantine")
        if not dry_run:
            with self._engine.held(context):
                self._tools.transfers.unquarantine(night_name(context), context.folder, who)
                context.refresh()
                self._engine.settle(context)
        return _told([_row(context) | {"action": _RETURN, **_size(note)}])


def _size(note: Note) -> dict[str, int]:
    return {"cubes": len(note.files), "bytes": sum(each.size for each in note.files)}


def _row(context: Context) -> dict[str, Any]:
    return {"night": context.night["date"], "family": context.night["family"], "action": _KEEP,
            "reasons": [], "cubes": 0, "bytes": 0}  # fmt: skip


def _told(listed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return RELEASE_KEYS."""
    moved, freed = (
        sum(row["bytes"] for row in listed if row["action"] == action)
        for action in (_QUARANTINE, _REMOVE)
    )
    return {"nights": list(listed[:MAX_LISTED]), "quarantined_bytes": moved, "freed_bytes": freed,
            "omitted": max(0, len(listed) - MAX_LISTED)}  # fmt: skip
