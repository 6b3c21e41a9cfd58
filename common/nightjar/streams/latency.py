# SPDX-License-Identifier: BSD-3-Clause
"""What a process does that must see its frames soon although other threads of it compute.

A thread that wakes up needs the interpreter's lock (GIL). Where another thread computes in Python,
the one that woke gets the lock only after the *switch interval*, 5 ms by default: a whole frame at
200 Hz. Nothing in a wait can change that; only the interval can, for the whole process. Frames of a
few hundred kB are then better used in place (``next_frame(copy=False)``) than copied, because the
other thread asks for the lock back after the same interval.
"""

from __future__ import annotations

import os
import sys

PREFERRED_SWITCH_S = 20e-6


def prefer_latency(
    switch_interval_s: float = PREFERRED_SWITCH_S, realtime_priority: int | None = None
) -> bool:
    """Let threads of this process that wake up run soon; costs computing threads about 5 %.

    To be called by a program whose threads follow streams, never by a library.

    Parameters
    ----------
    switch_interval_s
        New switch interval of the process; one that is shorter already stays.
    realtime_priority
        Also give the calling thread this real-time priority (SCHED_FIFO, 1 to 99), which cuts the
        rare long delays. Children do not inherit it.

    Returns
    -------
    bool
        Whether all of it was done: False where the system does not permit real-time priority
        (``LimitRTPRIO=`` in a systemd unit, or CAP_SYS_NICE, does).
    """
    if sys.getswitchinterval() > switch_interval_s:
        sys.setswitchinterval(switch_interval_s)
    if realtime_priority is None:
        return True
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(0, policy, os.sched_param(realtime_priority))  # 0: this thread
    except PermissionError:
        return False
    return True
