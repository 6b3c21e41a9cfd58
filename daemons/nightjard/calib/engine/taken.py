# SPDX-License-Identifier: BSD-3-Clause
"""With which script was a test taken? That of the chamber's profile when its exposures began.

Which exposures are the test depends on the script, and the script on when they were taken: both
are found together. The profile that is in force now plays no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from nightjar.calibration.explog import LogRow
from nightjard.calib.engine.plan import Setup, TestPlan, in_force
from nightjard.calib.engine.runs import Exposure


class Choice(Protocol):
    """What is taken for a test: a run, or what holds one."""

    @property
    def exposures(self) -> Sequence[Exposure]:
        """Those that are taken."""
        ...


C = TypeVar("C", bound=Choice)


def with_its_script(
    setup: Setup, plan: TestPlan, rows: Sequence[LogRow], choose: Callable[[TestPlan], C]
) -> tuple[TestPlan, C]:
    """Return the plan as the profile was when the test was taken, and what is taken for it.

    Parameters
    ----------
    rows
        Of the log; those of other tests do not matter.
    choose
        Returns what is taken for a plan.
    """
    times = [row.utc_ns for row in rows if row.test == plan.log_name and _is_within(row, plan)]
    if times:  # the latest: an older run that fits a newer script better must not be preferred
        plan = in_force(setup, plan, max(times))
    tried = set()
    while True:
        chosen = choose(plan)
        tried.add(plan.profile.version)
        if not chosen.exposures:
            return plan, chosen
        other = in_force(setup, plan, chosen.exposures[0].utc_ns)
        if other.profile.version in tried:
            return plan, chosen
        plan = other


def _is_within(row: LogRow, plan: TestPlan) -> bool:
    return plan.obsids is None or plan.obsids[0] <= row.obsid <= plan.obsids[1]


def profile_note(setup: Setup, plan: TestPlan) -> str:
    """Return which version of the profile counts, where there is a later one; else nothing."""
    if plan.profile.version >= setup.profile.version:  # a later one was accepted meanwhile
        return ""
    return (
        f"chamber {plan.profile.name}: version {plan.profile.version} of the profile was in force "
        f"when it was taken, today it is version {setup.profile.version}"
    )
