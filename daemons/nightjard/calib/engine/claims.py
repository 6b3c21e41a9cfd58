# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the same name in two sessions of one day: which exposures are whose.

BIAS02 is taken in several sessions, and the log does not say in which. Its place in the log does: a
run lies beside other tests of its session, after those that the session's schedule has before it.
Where the place tells nothing, what a session has processed is its own. Where OBSIDs are given,
these hold, and nothing is asked here.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nightjar.calibration.explog import LogRow
from nightjar.errors import ConfigError, Refused, StorageError
from nightjard.calib.engine.plan import Setup, TestPlan, session_tests
from nightjard.calib.engine.runs import Exposure, exposures_of, latest_run
from nightjard.calib.engine.state import DONE, FILE, read_state, state_of
from nightjard.calib.structure import obsid_text

BY_PLACE = "are, by log and schedules, session"
_PROCESSED = "were processed as session"


@dataclass(frozen=True)
class Planned:
    """What the campaign file says of a session.

    Attributes
    ----------
    names
        What the log calls its tests, in the order of its schedule; those with frames of their own.
    obsids, days
        By these names: limits of OBSID, where they are given; day folders.
    """

    names: tuple[str, ...]
    obsids: Mapping[str, tuple[int, int]]
    days: Mapping[str, frozenset[Path]]


@dataclass(frozen=True)
class Claims:
    """What sessions of a campaign plan and have processed.

    Attributes
    ----------
    run
        The session that asks.
    sessions
        All, this one included.
    processed
        Test -> (session, first OBSID, last OBSID, day folders); this session first.
    """

    run: str
    sessions: Mapping[str, Planned]
    processed: Mapping[str, Sequence[tuple[str, int, int, frozenset[Path]]]]


def claims_of(setup: Setup, run: str, run_folder: Path) -> Claims:
    """Return what the sessions of a campaign plan, and what those beside a folder have done."""
    found: dict[str, list[tuple[str, int, int, frozenset[Path]]]] = {}
    paths = run_folder.parent.glob(f"*/{FILE}")
    for path in sorted(paths, key=lambda path: (path.parent != run_folder, path)):
        if path.parent.is_symlink():
            continue
        try:
            kept = read_state(path.parent)
        except StorageError:
            continue  # told when that session is run
        for one in map(state_of, kept.get("tests", ())):
            if kept.get("is_drill") or one.stage not in DONE or one.obsids == (-1, -1):
                continue
            days = frozenset(Path(day).resolve() for day in one.days)
            found.setdefault(one.test, []).append((path.parent.name, *one.obsids, days))
    sessions = {name: _planned(setup, name) for name in setup.campaign.file.sessions}
    return Claims(run, sessions, found)


def _planned(setup: Setup, run: str) -> Planned:
    campaign = setup.campaign
    session = campaign.file.test_specifics.get(run)
    entries = {entry.test: entry for entry in (session.schedule if session else ())}
    names: list[str] = []
    obsids: dict[str, tuple[int, int]] = {}
    days: dict[str, frozenset[Path]] = {}
    try:
        tests = dict.fromkeys([*entries, *session_tests(setup, run)])
        own = [test for test in tests if setup.catalogue.surrogate_of(test) is None]
    except ConfigError:
        own = []  # told when that session is run
    for test in own:
        entry = entries.get(test)
        folders = (entry.datapath if entry else None) or (session.datapath if session else ())
        names.append(test)
        days[test] = frozenset(campaign.day_folder(text).resolve() for text in folders)
        first, last = entry.obsids if entry else (None, None)
        if first is not None and last is not None:
            obsids[test] = (first, last)
    return Planned(tuple(names), obsids, days)


def share_out(
    found: Sequence[LogRow], rows: Sequence[LogRow], plan: TestPlan, setup: Setup, claims: Claims,
    *, is_wait: bool,
) -> tuple[list[LogRow], str]:  # fmt: skip
    """Return which rows of a test count for a session, and what is to be said about the others.

    Parameters
    ----------
    found
        Of the test.
    rows
        Of all tests of its day folders.
    is_wait
        More may come: what cannot be told is not refused, and without others none are taken.

    Raises
    ------
    Refused
        There are several runs, and nothing tells which is whose.
    """
    rivals = _rivals(plan, claims)
    # Those whose OBSIDs are given have these and no others.
    others = [name for name, one in rivals.items() if plan.log_name not in one.obsids]
    own, free, theirs = _parted(found, rows, plan, setup, claims, rivals, is_shared=bool(others))
    notes = [
        f"{_span(left)} of {plan.log_name} {how} {name}'s (give OBSIDs or --start-obsid to "
        "take them all the same)"
        for (name, how), left in theirs.items()
    ]
    # Who has a part of a run may still lack a whole one: it was aborted and taken again.
    have = {
        name for (name, _), left in theirs.items()
        if len(exposures_of(left)) >= plan.script.frames
    }  # fmt: skip
    waiting = [name for name in others if name not in have]
    if len(exposures_of(own)) >= plan.script.frames:
        counted = own
        if free:
            notes.append(f"{_span(free)} of {plan.log_name} may be session "
                         f"{_or([claims.run, *others])}'s: left out")  # fmt: skip
    else:
        counted = [*own, *free]
        if free and waiting:
            _doubt(free, plan, setup, [claims.run, *waiting], notes, is_wait=is_wait)
    if not counted and not is_wait:  # what is another's only by what that session did before
        counted = [row for (_, how), left in theirs.items() if how == _PROCESSED for row in left]
    return counted, "; ".join(notes)


def _rivals(plan: TestPlan, claims: Claims) -> dict[str, Planned]:
    """Return the other sessions that take a test in the same day folders."""
    if plan.log_name not in claims.sessions[claims.run].names:
        return {}  # it only uses frames that another test has taken
    days = {Path(day).resolve() for day in plan.days}
    return {
        name: one for name, one in claims.sessions.items()
        if name != claims.run and one.days.get(plan.log_name, frozenset()) & days
    }  # fmt: skip


def _parted(
    found: Sequence[LogRow], rows: Sequence[LogRow], plan: TestPlan, setup: Setup, claims: Claims,
    rivals: Mapping[str, Planned], *, is_shared: bool,
) -> tuple[list[LogRow], list[LogRow], dict[tuple[str, str], list[LogRow]]]:  # fmt: skip
    """Return the rows that are a session's own, nobody's, and those of others by who and why."""
    days = {Path(day).resolve() for day in plan.days}
    owners = _owners(found, rows, plan, setup, claims, rivals) if rivals else {}
    ranges = [
        one for one in claims.processed.get(plan.test, ())
        if one[3] & days and (is_shared or one[0] != claims.run)
    ]
    own: list[LogRow] = []
    free: list[LogRow] = []
    theirs: dict[tuple[str, str], list[LogRow]] = {}
    for row in found:
        by_place = owners.get(row.obsid)
        name = by_place or next((who for who, a, b, _ in ranges if a <= row.obsid <= b), None)
        if name is None:
            free.append(row)
        elif name == claims.run:
            own.append(row)
        else:
            theirs.setdefault((name, BY_PLACE if by_place else _PROCESSED), []).append(row)
    return own, free, theirs


def _doubt(
    free: Sequence[LogRow], plan: TestPlan, setup: Setup, names: Sequence[str], notes: list[str],
    *, is_wait: bool,
) -> None:  # fmt: skip
    """Tell of exposures that may be several sessions'; refuse several runs of them."""
    runs = [
        run for run in _runs(plan, exposures_of(free), setup) if len(run) == plan.script.frames
    ]
    if len(runs) > 1 and not is_wait:
        raise Refused(
            f"{plan.test}: the log does not tell which run of {plan.log_name} is session "
            f"{_or(names)}'s: OBSIDs "
            f"{', '.join(f'{one[0].obsid}-{one[-1].obsid}' for one in runs)}; write the OBSIDs "
            "into the schedule"
        )
    if runs:
        notes.append(f"{_span(free)} of {plan.log_name} may be session {_or(names)}'s, "
                     "the log does not tell: taken; if they are not, give OBSIDs")  # fmt: skip


def _owners(
    found: Sequence[LogRow], rows: Sequence[LogRow], plan: TestPlan, setup: Setup, claims: Claims,
    rivals: Mapping[str, Planned],
) -> dict[int, str]:  # fmt: skip
    """Return OBSID -> session, of the exposures whose place in the log tells it."""
    name = plan.log_name
    owners: dict[int, str] = {}
    open_to = {claims.run: claims.sessions[claims.run].names}
    for session, planned in rivals.items():
        limits = planned.obsids.get(name)
        if limits is None:
            open_to[session] = planned.names
        else:
            owners |= {
                row.obsid: session for row in found if limits[0] <= row.obsid <= limits[1]
            }
    if len(open_to) < 2:
        return owners
    # Tests of one session only: what several have points to none.
    times = Counter(test for names in open_to.values() for test in names)
    beside = sorted({row.obsid: row.test for row in rows if times[row.test] == 1}.items())
    seen = {test for _, test in beside}
    have_all_begun = all(seen.intersection(names) for names in open_to.values())
    is_in_order = all(_is_in_order(names, beside) for names in open_to.values())
    walls = sorted({row.obsid for row in rows if row.test != name})
    exposures = [one for one in exposures_of(found) if one.obsid not in owners]
    runs = [
        run
        for _, group in itertools.groupby(exposures, lambda one: bisect.bisect(walls, one.obsid))
        for run in _runs(plan, list(group), setup)
    ]
    line = sorted([*beside, *((run[0].obsid, name) for run in runs)])
    for run in runs:
        at = line.index((run[0].obsid, name))
        before = line[at - 1][1] if at else "" if have_all_begun else None
        after = line[at + 1][1] if at + 1 < len(line) else None
        if owner := _owner(name, before, after, open_to, is_in_order=is_in_order):
            owners |= {one.obsid: owner for one in run}
    return owners


def _runs(
    plan: TestPlan, exposures: Sequence[Exposure], setup: Setup
) -> Iterator[Sequence[Exposure]]:
    """Yield the complete runs and what lies between them, in order."""
    run = latest_run(plan.script, exposures, setup.detector)
    if not exposures or not run.is_complete:
        yield from [exposures] if exposures else []
        return
    start = exposures.index(run.exposures[0])
    yield from _runs(plan, exposures[:start], setup)
    yield run.exposures
    yield from _runs(plan, exposures[start + len(run.exposures) :], setup)


def _is_in_order(names: Sequence[str], beside: Sequence[tuple[int, str]]) -> bool:
    """Tell whether the log has the tests of a session as its schedule has them."""
    places = [names.index(test) for _, test in beside if test in names]
    return places == sorted(places)


def _owner(
    name: str, before: str | None, after: str | None, sessions: Mapping[str, Sequence[str]], *,
    is_in_order: bool,
) -> str | None:  # fmt: skip
    """Return the session to which the tests beside a run point; None where they do not.

    Nothing before it (empty) fits all sessions; None fits none: one of them may lie there whole.
    """
    points: dict[str, int] = {}
    around = []
    for session, names in sessions.items():
        place = {test: index for index, test in enumerate(names)}
        at = place[name]
        others = {*names} - {name}
        points[session] = is_in_order and (
            (place.get(before or "", at) < at) + (place.get(after or "", at) > at)
        )
        if before in {"", *others} and after in others:
            around.append(session)
    best = [session for session, one in points.items() if one == max(points.values())]
    if len(best) > 1:
        best = around
    return best[0] if len(best) == 1 else None


def _span(rows: Sequence[LogRow]) -> str:
    return obsid_text([row.obsid for row in rows])


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
