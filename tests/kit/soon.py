# SPDX-License-Identifier: BSD-3-Clause
"""Bounds of real time, on a machine that is itself held up now and then."""

from __future__ import annotations

from collections.abc import Callable


def assert_soon(
    attempt: Callable[[], tuple[float, str]], limit_s: float, *, tries: int = 4
) -> None:
    """Fail where none of a few attempts was within `limit_s`; each tells its seconds, of what.

    Who waits where nobody may does so every time; a machine that stops for a moment does not.
    """
    taken = []
    for _ in range(tries):
        taken.append(attempt())
        if taken[-1][0] < limit_s:
            return
    told = ", ".join(f"{what} {seconds:.3f} s" for seconds, what in taken)
    raise AssertionError(f"not once within {limit_s:g} s: {told}")
