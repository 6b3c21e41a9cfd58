# SPDX-License-Identifier: BSD-3-Clause
"""The links of a host: which shall run, their processes, and what they last told of themselves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from nightjar.api.states import Level, Summary
from nightjar.api.streamlink import LinkState
from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Code, NightjarError, Refused
from nightjar.health import Health
from nightjar.times import iso
from nightjard.streamlinkd.config import DEFAULT_BUDGET, DEFAULT_RATE, LinkConfig

log = logging.getLogger(__name__)

STOP_S = 3.0
STUCK_S = 10.0
PATIENCE_S = 10.0  # how long a link may be without its other end before health says so
_ORDER = (
    LinkState.ERROR, LinkState.STALE, LinkState.STARTING, LinkState.CONNECTING, LinkState.QUIET,
    LinkState.LIVE,
)  # fmt: skip
_EMPTY: dict[str, Any] = {
    "address": None, "peer": None, "is_sealed": False, "frames": 0, "lost": 0, "lost_on_wire": 0,
    "duplicated": 0, "torn": 0, "dropped": 0, "bad_messages": 0, "rate": 0.0, "mbit_per_s": 0.0,
    "budget": None, "wanted_rate": None, "reconnects": 0, "heard_s": None, "latency_ms": None,
    "last_error": None, "streams": {},
}  # fmt: skip


class Worker(Protocol):
    """What is needed of :class:`nightjar.child.Child`."""

    @property
    def pid(self) -> int | None:
        """Its process id."""
        ...

    @property
    def lived_s(self) -> float:
        """Seconds since its start."""
        ...

    def start(self) -> None:
        """Start the process."""
        ...

    def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 5.0
    ) -> Any:
        """Return its answer to a command."""
        ...

    def stop(self, timeout_s: float) -> None:
        """End the process in order, killed at the deadline."""
        ...

    def kill(self) -> None:
        """End the process at once."""
        ...


class Pauses(Protocol):
    """What is needed of :class:`nightjar.child.Backoff`."""

    def next_pause_s(self, lived_s: float) -> float:
        """Return the pause after a life of that length."""
        ...


MakeWorker = Callable[
    [LinkConfig, Callable[[dict[str, Any]], None], Callable[[str], None]], Worker
]


class Link:
    """One link and its process; commands may come from any thread, :meth:`tick` from one.

    Parameters
    ----------
    config
        As configured.
    make_worker
        Called as ``make_worker(config, on_message, on_end)`` for each start.
    pauses
        How long to wait before the process is started again.
    clock
        For times and deadlines.
    """

    def __init__(
        self, config: LinkConfig, make_worker: MakeWorker, pauses: Pauses, clock: Clock
    ) -> None:
        self.config = config
        self.is_wanted = config.start
        self.restarts = 0
        self._make_worker, self._pauses, self._clock = make_worker, pauses, clock
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._stopping: threading.Thread | None = None
        self._wants_restart = False
        self._told: dict[str, Any] = dict(_EMPTY)
        self._told_ns = 0
        self._next_start_ns = 0
        self._state = LinkState.STOPPED
        self._reason = ""
        self._since_ns = clock.now_ns()
        self._since_mono_ns = clock.monotonic_ns()
        self._failure = ""

    # --- looking after it -----------------------------------------------------------------------

    def tick(self) -> None:
        """Start, stop or restart the process where that is due; never waits."""
        now = self._clock.monotonic_ns()
        with self._lock:
            worker, stopping = self._worker, self._stopping
            if stopping is not None:
                if stopping.is_alive():
                    return
                self._stopping = None
                self._set(LinkState.STOPPED, "")
            if worker is not None:
                if not self.is_wanted or self._wants_restart:
                    self._wants_restart = False
                    self._next_start_ns = 0
                    self._worker = None
                    self._stopping = threading.Thread(
                        target=worker.stop, args=(STOP_S,), name=f"stop {self.config.name}"
                    )
                    self._stopping.start()
                elif now - self._told_ns > STUCK_S * NS_PER_S:
                    log.error("link %s: its process is stuck and is killed", self.config.name)
                    self._told_ns = now
                    worker.kill()
                return
            if not self.is_wanted:
                self._set(LinkState.STOPPED, "")
            elif now >= self._next_start_ns:
                self._start(now)

    def _start(self, now_ns: int) -> None:
        self._wants_restart = False
        self._failure = ""
        self._told, self._told_ns = dict(_EMPTY), now_ns
        worker = self._make_worker(self.config, self._hear, lambda how: self._ended(worker, how))
        try:
            worker.start()
        except NightjarError as error:
            self._next_start_ns = now_ns + round(self._pauses.next_pause_s(0) * NS_PER_S)
            self._set(LinkState.ERROR, error.message)
            return
        self._worker = worker
        if self._state is not LinkState.ERROR:
            self._set(LinkState.STARTING, "its process is being started")

    def _hear(self, message: dict[str, Any]) -> None:
        if "failed" in message:
            self._failure = str(message["failed"])
            return
        status = message.get("status")
        if isinstance(status, dict):
            with self._lock:
                if self._worker is None:
                    return
                self._told, self._told_ns = status, self._clock.monotonic_ns()
                self._set(LinkState(status["state"]), str(status["reason"]))

    def _ended(self, worker: Worker, how: str) -> None:
        with self._lock:
            if self._worker is not worker:
                return  # it was stopped
            self._worker = None
            self.restarts += 1
            pause_s = self._pauses.next_pause_s(worker.lived_s)
            self._next_start_ns = self._clock.monotonic_ns() + round(pause_s * NS_PER_S)
            reason = self._failure or f"its process ended: {how}; it is started again"
            self._set(LinkState.ERROR, reason)
            last = {"time": iso(self._clock.now_ns()), "message": reason}
            off = {"state": "WAITING", "reason": "the link's process does not run", "rate": 0.0}
            told = self._told
            self._told = {
                **told, "peer": None, "rate": 0.0, "mbit_per_s": 0.0, "last_error": last,
                "streams": {name: {**lane, **off} for name, lane in told["streams"].items()},
            }  # fmt: skip
        log.error("link %s: %s", self.config.name, reason)

    def _set(self, state: LinkState, reason: str) -> None:
        if state is not self._state:
            if state is not LinkState.LIVE or reason:
                log.info("link %s is %s: %s", self.config.name, state.value, reason)
            else:
                log.info("link %s is %s", self.config.name, state.value)
            self._since_ns, self._since_mono_ns = self._clock.now_ns(), self._clock.monotonic_ns()
        self._state, self._reason = state, reason

    # --- commands -------------------------------------------------------------------------------

    def restart(self) -> None:
        """Have the process end and another one start."""
        with self._lock:
            self.is_wanted = True
            self._wants_restart = self._worker is not None
            self._next_start_ns = 0

    def start(self) -> None:
        """Have it run; one that waits to be started again is started at once."""
        with self._lock:
            self.is_wanted = True
            if self._worker is None:
                self._next_start_ns = 0

    def stop(self) -> None:
        """Have it not run."""
        with self._lock:
            self.is_wanted = False

    def set(self, rate: float | None, budget: float | None) -> dict[str, Any]:
        """Change rate and budget, also for later lives of the process.

        Raises
        ------
        Refused
            It is no sender of policy latest.
        """
        config = self.config
        if (config.role, config.policy) != ("send", "latest"):
            raise Refused(
                f"link {config.name} {config.role}s with policy {config.policy}: only the sender "
                f"of a link of policy latest has a rate and a budget"
            )
        changes = {
            key: value for key, value in (("rate", rate), ("budget", budget)) if value is not None
        }
        with self._lock:
            self.config = config.model_copy(update=changes)
            worker = self._worker
        if worker is not None:
            worker.ask("set", {"rate": rate, "budget": budget}, timeout_s=2.0)
        return {
            "rate": self.config.rate or DEFAULT_RATE, "budget": self.config.budget or DEFAULT_BUDGET
        }  # fmt: skip

    # --- telling --------------------------------------------------------------------------------

    @property
    def state(self) -> LinkState:
        """What it is doing."""
        return self._state

    @property
    def is_settled(self) -> bool:
        """Whether it is as the last command wants it."""
        if self._wants_restart or self._stopping is not None:
            return False
        return (self._worker is not None) == self.is_wanted

    def trouble(self) -> str:
        """Return what is wrong with it; "" where nothing is."""
        if not self.is_wanted:
            return ""
        lasted_s = (self._clock.monotonic_ns() - self._since_mono_ns) / NS_PER_S
        is_late = self._state in (LinkState.CONNECTING, LinkState.STARTING)
        if self._state in (LinkState.ERROR, LinkState.STALE) or (
            is_late and lasted_s > PATIENCE_S
        ):
            return f"link {self.config.name} is {self._state.value}: {self._reason}"
        return ""

    def snapshot(self) -> dict[str, Any]:
        """Return it as :data:`nightjar.api.streamlink.LINK_KEYS` tell."""
        worker, state = self._worker, self._state
        told = dict(_EMPTY) if state is LinkState.STOPPED else self._told
        return {
            **told,
            "role": self.config.role,
            "policy": self.config.policy,
            "state": state.value,
            "reason": self._reason,
            "since": iso(self._since_ns),
            "pid": worker.pid if worker is not None else None,
            "restarts": self.restarts,
        }


class Links:
    """All links of a daemon.

    Parameters
    ----------
    links
        By name, in the order of the configuration.
    clock
        For deadlines.
    health
        Told what is wrong with each.
    """

    def __init__(self, links: Mapping[str, Link], clock: Clock, health: Health) -> None:
        self._links = dict(links)
        self._clock, self._health = clock, health
        self._is_stopping = False
        self.wake = threading.Event()
        """Set by a command, so that it is carried out at once."""

    def tick(self) -> None:
        """Look after every link."""
        for name, link in self._links.items():
            link.tick()
            trouble = link.trouble()
            if trouble:
                self._health.set(name, Level.DEGRADED, trouble)
            else:
                self._health.ok(name)

    def _chosen(self, names: Sequence[str]) -> list[Link]:
        for name in names:
            if name not in self._links:
                raise Refused(
                    f"no link {name!r}; there are: {', '.join(self._links) or 'none'}",
                    code=Code.UNKNOWN_ITEM,
                )
        return [self._links[name] for name in names] if names else list(self._links.values())

    def _carry_out(self, links: list[Link]) -> dict[str, str]:
        self.wake.set()
        deadline = self._clock.monotonic_ns() + NS_PER_S * 4 // 10
        pause = threading.Event()
        while self._clock.monotonic_ns() < deadline and not all(one.is_settled for one in links):
            self._clock.wait(pause, 0.01)
        return {link.config.name: link.state.value for link in links}

    def start(self, links: Sequence[str]) -> dict[str, str]:
        """Have links run; return their states."""
        if self._is_stopping:
            raise Refused("the daemon is stopping", code=Code.STOPPING)
        chosen = self._chosen(links)
        for link in chosen:
            link.start()
        return self._carry_out(chosen)

    def stop(self, links: Sequence[str]) -> dict[str, str]:
        """Have links not run; return their states."""
        chosen = self._chosen(links)
        for link in chosen:
            link.stop()
        return self._carry_out(chosen)

    def restart(self, links: Sequence[str]) -> dict[str, str]:
        """Have links run anew; return their states."""
        if self._is_stopping:
            raise Refused("the daemon is stopping", code=Code.STOPPING)
        chosen = self._chosen(links)
        for link in chosen:
            link.restart()
        return self._carry_out(chosen)

    def set(self, link: str, rate: float | None, budget: float | None) -> dict[str, Any]:
        """Change rate or budget of a link; return both."""
        return self._chosen([link])[0].set(rate, budget)

    def close(self, report: Callable[[str], None]) -> None:
        """Stop all links and wait for their ends."""
        self._is_stopping = True
        for link in self._links.values():
            link.stop()
        pause = threading.Event()
        report(f"stopping {len(self._links)} links")
        while True:
            for link in self._links.values():
                link.tick()
            if all(link.is_settled for link in self._links.values()):
                return
            self._clock.wait(pause, 0.01)

    def status(self) -> dict[str, Any]:
        """Return the snapshot; see :data:`nightjar.api.streamlink.STATUS_KEYS`."""
        wanted = {link.state for link in self._links.values() if link.is_wanted}
        worst = next((state for state in _ORDER if state in wanted), LinkState.STOPPED)
        summary = Summary.BUSY if wanted else Summary.READY
        return {
            "summary": (Summary.STOPPING if self._is_stopping else summary).name,
            "state": worst.value,
            "links": {name: link.snapshot() for name, link in self._links.items()},
        }
