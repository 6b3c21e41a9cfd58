# SPDX-License-Identifier: BSD-3-Clause
"""What a recording depends on and does not own: the host's clock and the telescope's logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nightjar.api.states import Level
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import NightjarError, Refused
from nightjar.health import Health
from nightjard.dasd.clockcheck import ClockState, judge
from nightjard.dasd.config import DasConfig

UNKNOWN = ClockState("kernel", False)


class Outlook:
    """Clock and telescope, as they were last seen.

    Parameters
    ----------
    config
        Of the daemon.
    clock, health
        For ages; told what is wrong.
    look_at_clock
        Returns the state of the host's clock, within half a second.
    ask_telescope
        Returns what the telescope's daemon tells of it; raises NightjarError where it is away.
        None where there is no telescope.
    """

    def __init__(
        self,
        config: DasConfig,
        clock: Clock,
        health: Health,
        look_at_clock: Callable[[], ClockState],
        ask_telescope: Callable[[], Mapping[str, Any]] | None,
    ) -> None:
        self.config = config
        self._clock, self._health = clock, health
        self._look_at_clock, self._ask_telescope = look_at_clock, ask_telescope
        self.state, self._seen_ns = UNKNOWN, clock.monotonic_ns()
        self.told: dict[str, Any] = UNKNOWN.told()
        """The state of the clock as plain values, for headers and sidecars."""
        self.telescope: dict[str, Any] = self._no_telescope("not asked yet")

    @property
    def age_s(self) -> float:
        """Seconds since the clock was looked at."""
        return (self._clock.monotonic_ns() - self._seen_ns) / NS_PER_S

    def look_around(self, *, needs_telescope: bool) -> None:
        """Look at the clock where that is due, and at the telescope's logs."""
        if self.state is UNKNOWN or self.age_s > self.config.clock.interval_s:
            self.look_at_the_clock()
        if self._ask_telescope is None:
            return
        self.look_at_telescope()
        if needs_telescope and not self.telescope["is_fresh"]:
            self._health.set("telescope", Level.DEGRADED, self.telescope["reason"])
        else:
            self._health.ok("telescope")

    def require_fresh(self) -> None:
        """Raise Refused unless pointing and housekeeping are being logged now."""
        if self._ask_telescope is None:
            return
        self.look_at_telescope()
        if not self.telescope["is_fresh"]:
            raise Refused(
                f"{self.telescope['reason']}; start the telescope's logs first (telog start), or "
                "record a test: das start --test --output DIR"
            )

    def require_clock(self) -> None:
        """Raise Refused where the clock is bad and the configuration says so."""
        level, text = self.look_at_the_clock()
        if self.config.clock.refuse and (level is Level.FAILED or not self.state.is_locked):
            raise Refused(f"clock.refuse is set, and the clock is not good: {text}")

    def look_at_the_clock(self) -> tuple[Level, str]:
        """Ask anew how the host's clock is; return how good it is, and why."""
        state = self._look_at_clock()
        level, text = judge(state, self.config.clock)
        self.state, self._seen_ns = state, self._clock.monotonic_ns()
        self.told = state.told()
        # An unlocked clock is marked in the files and does not make the DAS FAILED.
        is_wrong = level and state.source != "simulated"
        if is_wrong:
            self._health.set("clock", min(level, Level.DEGRADED), text)
        else:
            self._health.ok("clock")
        return level, text

    def _no_telescope(self, reason: str) -> dict[str, Any]:
        return {
            "daemon": self.config.telescope_daemon, "pointing_age_s": None,
            "housekeeping_age_s": None, "is_fresh": False, "reason": reason,
        }  # fmt: skip

    def look_at_telescope(self) -> None:
        """Ask anew how old the telescope's pointing and housekeeping are."""
        if self._ask_telescope is None:
            return
        name, limit_s = self.config.telescope_daemon, self.config.fresh_limit_s
        try:
            told = self._ask_telescope()
        except NightjarError as error:
            reason = f"the telescope's logs are not known: {error.message}"
            self.telescope = self._no_telescope(reason)
            return
        ages = {"pointing": told.get("pointing_age_s"), "housekeeping": told.get("age_s")}
        stale = [
            f"{what} of {name} is "
            + ("missing" if age is None else f"{age:.1f} s old (limit {limit_s:g} s)")
            for what, age in ages.items()
            if age is None or age >= limit_s
        ]
        self.telescope = {
            "daemon": name, "pointing_age_s": ages["pointing"],
            "housekeeping_age_s": ages["housekeeping"], "is_fresh": not stale,
            "reason": "; ".join(stale),
        }  # fmt: skip
