# SPDX-License-Identifier: BSD-3-Clause
"""Which frames of several cameras were taken on one trigger, and in which state of the modulator.

Pure functions of times and counters. `cadence` makes the times ready and measures the rhythm,
`offsets` finds how much later one camera's frames come, `lag` which of the offsets that fit is
right, `alignment` and `slots` which frames belong together, `triggers` gathers them, `modulator`
decodes the states, `solving` does it all for a run; `parts` cuts a run where an offset changed.
"""

from nightjard.archived.nights.sync.model import CameraFrames, Physics, RunSolution
from nightjard.archived.nights.sync.solving import solve_run

__all__ = ["CameraFrames", "Physics", "RunSolution", "solve_run"]
