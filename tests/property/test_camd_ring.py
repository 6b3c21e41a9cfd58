# SPDX-License-Identifier: BSD-3-Clause
"""The frame buffer under any order of acquiring, publishing, abandoning, saving and killing."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightjar.clock import SystemClock
from nightjard.camd.drivers.base import FrameBuffer
from nightjard.camd.ring import FrameRing, leftover_jobs, remove_leftovers

ACTIONS = st.lists(
    st.one_of(
        st.sampled_from(["acquire", "publish", "publish", "abandon"]), st.integers(0, 4)
    ),
    max_size=60,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(ACTIONS, st.integers(2, 5))
def test_journal_and_slots_always_tell_the_truth(actions: list[str | int], slots: int) -> None:
    ring = FrameRing("TEST", (3, 5), slots * 30, SystemClock())
    filling: tuple[int, FrameBuffer] | None = None
    full: dict[int, int] = {}
    number = 0
    for action in actions:
        if action == "acquire" and filling is None:
            filling = ring.acquire()
            assert (filling is None) == (len(full) == slots or number % slots in full)
            if filling is not None:
                assert filling[0] not in full, "a slot with an unsaved frame is never given out"
                filling[1].array.fill(number + 1)
        elif action == "publish" and filling is not None:
            number += 1
            ring.publish(filling[0], {"number": number}, number)
            full[filling[0]] = number
            filling = None
        elif action == "abandon" and filling is not None:
            ring.abandon(filling[0])
            filling = None
        elif isinstance(action, int) and action in full:
            ring.release(action)
            del full[action]
        assert ring.used == len(full) + (filling is not None)
        # The daemon is killed here: what would the next one find?
        found = leftover_jobs("TEST")
        assert [(slot, job["number"]) for slot, job in found] == sorted(
            full.items(), key=lambda item: item[1]
        )
    if filling is not None:
        ring.abandon(filling[0])
    for slot in list(full):
        ring.release(slot)
    ring.close(unlink=True)
    remove_leftovers("TEST")
