# SPDX-License-Identifier: BSD-3-Clause
"""With which script was a test taken? That of the chamber's profile when its exposures began.

Which exposures are the test depends on the script, and the script on when they were taken: both
are found together. The profile that is in force now plays no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nightjar.calibration.explog import LogRow
from nightjard.calib.engine.plan import Setup, TestPlan, in_force
from nightjard.calib.engine.runs import Run


def with_its_script(
    setup: Setup, plan: TestPlan, rows: Sequence[LogRow], choose: Callable[[TestPlan], Run]
) -> tuple[TestPlan, Run]:
    """Return the plan as the profile was when the test was taken, and its exposures.

    Parameters
    ----------
    rows
        Of the log; those of other tests do not matter.
    choose
        Returns the exposures that are taken for a plan.
    """
    times = [row.utc_ns for row in rows if row.test == plan.log_name and _is_within(row, plan)]
    if times:  # the latest: an older run that fits a newer script better must not be preferred
        plan = in_force(setup, plan, max(times))
    tried = set()
    while True:
        run = choose(plan)
        tried.add(plan.profile.version)
        if not run.exposures:
            return plan, run
        other = in_force(setup, plan, run.exposures[0].utc_ns)
        if other.profile.version in tried:
            return plan, run
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
