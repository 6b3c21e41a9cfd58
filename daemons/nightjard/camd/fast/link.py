# SPDX-License-Identifier: BSD-3-Clause
"""The grabber as its daemon sees it: one life of the process, what it told, what it counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import (
    Code,
    DeviceLost,
    DeviceWedged,
    NightjarError,
    Refused,
    TimedOut,
    Unreachable,
    error_for,
)
from nightjard.camd.fast.settings import COUNTS, News

Message = dict[str, Any]
CALL_TIMEOUT_S = 3.0  # of a short question to the grabber
_STOP_S = 2.0


class Process(Protocol):
    """The grabber process; :class:`nightjar.child.Child` is one."""

    @property
    def pid(self) -> int | None:
        """Process id."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        ...

    @property
    def lived_s(self) -> float:
        """Seconds since its start."""
        ...

    def start(self) -> None:
        """Start it."""
        ...

    def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 5.0
    ) -> Any:
        """Return its answer."""
        ...

    def stop(self, timeout_s: float) -> None:
        """End it in order."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


MakeProcess = Callable[[Callable[[Message], None], Callable[[str], None]], Process]
"""Makes a process, not yet started, from a taker of messages and one of its end."""


class Listener(Protocol):
    """Who is told by a link; called from the process's reader thread."""

    def on_progress(self, published: int) -> None:
        """So many frames of the sequence are published."""
        ...

    def on_sequence_end(self, count: int, reason: str) -> None:
        """The grabber stopped by itself."""
        ...

    def on_failure(self, error: NightjarError) -> None:
        """The source failed, or the process ended unasked."""
        ...


class GrabberLink:
    """A grabber that may be there or not.

    Parameters
    ----------
    make_process
        Makes one.
    listener, clock
        Who is told; source of time.

    Attributes
    ----------
    news
        What it told last; all zero before.
    is_asking
        Whether an answer is being waited for.
    """

    def __init__(self, make_process: MakeProcess, listener: Listener, clock: Clock) -> None:
        self._make_process = make_process
        self._listener = listener
        self._clock = clock
        self._process: Process | None = None
        self._totals: dict[str, int] = dict.fromkeys(COUNTS, 0)
        self._news_ns = 0
        self._is_making = False
        self._why_killed = ""
        self.news = News()
        self.is_asking = False

    @property
    def is_there(self) -> bool:
        """Whether a grabber was started and not given up."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid if self._process is not None else None

    @property
    def lived_s(self) -> float:
        """Seconds since its start."""
        return self._process.lived_s if self._process is not None else 0.0

    @property
    def silent_s(self) -> float:
        """Seconds since it gave a sign of life; 0 where there is none."""
        if self._process is None or not self._process.is_alive:
            return 0.0
        return (self._clock.monotonic_ns() - self._news_ns) / NS_PER_S

    def counts(self) -> dict[str, int]:
        """Return what all grabbers counted."""
        totals, news = self._totals, self.news
        if self._process is None:
            return dict(totals)
        return {name: totals[name] + int(getattr(news, name)) for name in COUNTS}

    # ---------------------------------------------------------------- life

    def open(self, timeout_s: float) -> Mapping[str, Any]:
        """Start a grabber and have it connect to the camera; return what the camera is.

        Raises
        ------
        NightjarError
            It cannot be started, or the camera did not open: :meth:`drop` it.
        """
        holder: list[Process] = []
        process = self._make_process(
            lambda message: self._on_message(message, holder[0]),
            lambda how: self._on_end(how, holder[0]),
        )
        holder.append(process)
        self._process, self.news = process, News()
        self._news_ns = self._clock.monotonic_ns()
        process.start()
        reply: Mapping[str, Any] = self.ask("open", timeout_s=timeout_s)
        self.news = News(telemetry=reply["telemetry"])
        return reply

    def drop(self, *, kill: bool = False) -> None:
        """End the grabber; what it counted stays. Harmless without one."""
        process = self._process
        if process is None:
            return
        self._totals = self.counts()
        self._process = None
        self.news = self.news.ended()
        if kill:
            process.kill()
        process.stop(_STOP_S)

    def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Any:  # fmt: skip
        """Return the grabber's answer.

        Raises
        ------
        DeviceWedged
            None in time: it should be dropped.
        DeviceLost
            It has ended.
        Refused
            There is none (NOT_INITIALIZED).
        """
        process = self._process
        if process is None:
            raise Refused("the camera is not initialised", code=Code.NOT_INITIALIZED)
        self._news_ns = self._clock.monotonic_ns()
        self._is_making, self._why_killed = command == "open", ""
        self.is_asking = True
        try:
            return process.ask(command, arguments, timeout_s)
        except TimedOut as error:
            raise DeviceWedged(error.message) from None
        except Unreachable as error:
            if self._why_killed:
                raise DeviceWedged(self._why_killed) from None
            raise DeviceLost(error.message) from None
        finally:
            self._news_ns = self._clock.monotonic_ns()
            self.is_asking = self._is_making = False

    def watch(self, limit_s: float) -> None:
        """End a grabber that neither answers nor gives a sign of life; for another thread.

        The thread that asks cannot see it: some answers take as long as making a stream does.
        """
        process = self._process
        silent_s = self.silent_s
        if process is None or not self.is_asking or self._is_making or silent_s <= limit_s:
            return
        self._why_killed = f"the grabber has given no sign of life for {silent_s:.1f} s"
        process.kill()

    # ---------------------------------------------------------------- what it tells

    def _on_message(self, message: Message, process: Process) -> None:
        if process is not self._process:
            return
        if "news" in message:
            self.news = News(**message["news"])
            self._news_ns = self._clock.monotonic_ns()
            self._listener.on_progress(self.news.sequence)
        elif "making" in message:
            self._is_making = True
        elif "ended" in message:
            self._listener.on_sequence_end(message["ended"]["count"], message["ended"]["reason"])
        elif "failed" in message:
            failed = message["failed"]
            self._listener.on_failure(
                error_for(Code.from_name(failed["code"]), failed["message"])
            )

    def _on_end(self, how: str, process: Process) -> None:
        if process is self._process:
            self._listener.on_failure(DeviceLost(f"the grabber ended ({how})"))
