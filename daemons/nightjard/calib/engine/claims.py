# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the same name in two sessions of one day: what one session has processed is its own.

BIAS02 is taken in several sessions, and the log does not say in which. Exposures that another
session beside this one has processed do not count here, unless OBSIDs are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nightjar.calibration.explog import LogRow
from nightjar.errors import StorageError
from nightjard.calib.engine.plan import TestPlan
from nightjard.calib.engine.state import FILE, read_state, state_of

#: Test -> (session, first OBSID, last OBSID, day folders) of others that have it.
Claims = Mapping[str, list[tuple[str, int, int, frozenset[Path]]]]
_ENDED = ("processed", "over-acquired")


def claims_of(run_folder: Path) -> Claims:
    """Return what the other sessions beside a session's folder have processed."""
    found: dict[str, list[tuple[str, int, int, frozenset[Path]]]] = {}
    for path in sorted(run_folder.parent.glob(f"*/{FILE}")):
        if path.parent.name == run_folder.name or path.parent.is_symlink():
            continue
        try:
            kept = read_state(path.parent)
        except StorageError:
            continue  # told when that session is run
        for one in map(state_of, kept.get("tests", ())):
            if kept.get("is_drill") or one.stage not in _ENDED or one.obsids == (-1, -1):
                continue
            days = frozenset(Path(day).resolve() for day in one.days)
            found.setdefault(one.test, []).append((path.parent.name, *one.obsids, days))
    return found


def unclaimed(
    rows: Iterable[LogRow], plan: TestPlan, claims: Claims
) -> tuple[list[LogRow], dict[str, list[int]]]:
    """Return the rows that no other session has processed, and by session the OBSIDs of others."""
    days = {Path(day).resolve() for day in plan.days}
    mine: list[LogRow] = []
    theirs: dict[str, list[int]] = {}
    ranges = [one for one in claims.get(plan.test, ()) if one[3] & days]
    for row in rows:
        owner = next((name for name, a, b, _ in ranges if a <= row.obsid <= b), None)
        if owner is None:
            mine.append(row)
        else:
            theirs.setdefault(owner, []).append(row.obsid)
    return mine, theirs


def claims_text(plan: TestPlan, theirs: Mapping[str, list[int]]) -> str:
    """Return which exposures belong to other sessions; empty without any."""
    return "; ".join(
        f"OBSIDs {min(obsids)}-{max(obsids)} of {plan.log_name} were processed as session {name}'s "
        "(give OBSIDs or --start-obsid to take them all the same)"
        for name, obsids in theirs.items()
    )
