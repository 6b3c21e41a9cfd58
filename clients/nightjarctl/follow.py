# SPDX-License-Identifier: BSD-3-Clause
"""Following an operation: progress, the deadline, and what Ctrl-C does.

The first Ctrl-C detaches: the operation goes on and the text says how to come back or stop it. A
second one within 3 s aborts, but only what this very command started.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from nightjar.errors import Code, NightjarError, TimedOut, Unreachable
from nightjar.times import duration_text
from nightjarctl.connection import Operation, outcome
from nightjarctl.session import Session, is_terminal, write

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SECOND_CHANCE_S = 3.0
_POLL_S = 0.25
_ABSENCE_S = 15.0  # a daemon may be away for so long (network, restart) before we give up
_CANCEL_S = 10.0
_STEP = 0.1  # plain lines: one per such part


@dataclass(frozen=True, slots=True)
class Subject:
    """What is being followed, in words.

    Attributes
    ----------
    what
        "init of camera test".
    come_back, stop
        Commands to type: to look again, to end it.
    is_ours
        This command started it, so a second Ctrl-C may abort it.
    """

    what: str
    come_back: str
    stop: str
    is_ours: bool = True


def follow(session: Session, operation: Operation, subject: Subject) -> dict[str, Any]:
    """Show an operation's progress until it ends; return its last state.

    Raises
    ------
    TimedOut
        ``--timeout`` passed; the operation goes on.
    NightjarError
        It failed, was cancelled, or the daemon is away for longer than 15 s.
    """
    deadline = None if session.timeout_s is None else time.monotonic() + session.timeout_s
    try:
        with _reporter(session, subject.what) as reporter:
            state = _until_done(operation, reporter, deadline)
    except KeyboardInterrupt:
        _detach(session, operation, subject)
        raise
    if state is None:
        raise TimedOut(
            f"{subject.what} has not ended after {session.timeout_s:g} s; it goes on\n"
            f"look again: {subject.come_back}; end it: {subject.stop}",
            operation=operation.id,
        )
    outcome(state)
    return state


def _until_done(
    operation: Operation, reporter: Reporter, deadline: float | None
) -> dict[str, Any] | None:
    seen = time.monotonic()
    while True:
        try:
            state = operation.poll(_POLL_S)
            seen = time.monotonic()
        except (Unreachable, TimedOut) as error:
            if time.monotonic() - seen > _ABSENCE_S:
                raise
            reporter.update({"stage": "daemon does not answer", "message": error.message})
            time.sleep(_POLL_S)
        else:
            reporter.update(state)
            if state["state"] != "running":
                return state
        if deadline is not None and time.monotonic() >= deadline:
            return None


def _detach(session: Session, operation: Operation, subject: Subject) -> None:
    again = f"; Ctrl-C again within {SECOND_CHANCE_S:.0f} s aborts it" if subject.is_ours else ""
    try:
        session.note(f"{subject.what} goes on{again}")
        session.note(f"look again: {subject.come_back}; end it: {subject.stop}")
        if subject.is_ours:
            time.sleep(SECOND_CHANCE_S)
    except KeyboardInterrupt:
        if subject.is_ours:
            _abort(session, operation, subject)


def _abort(session: Session, operation: Operation, subject: Subject) -> None:
    session.note(f"aborting {subject.what}")
    operation.cancel()
    try:
        operation.wait(_CANCEL_S)
    except NightjarError as error:
        if error.code is not Code.CANCELLED:
            session.note(error.message)


# --- showing it ---------------------------------------------------------------------------------


class Reporter(Protocol):
    """Shows states of an operation as they come."""

    def __enter__(self) -> Reporter:
        """Begin."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        ...

    def update(self, state: dict[str, Any]) -> None:
        """Show a state."""
        ...


class _Silent:
    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def update(self, state: dict[str, Any]) -> None:
        """Show nothing."""


class _Lines:
    """One line for each change of stage and each tenth, on stderr."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told: tuple[str, int] | None = None

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def update(self, state: dict[str, Any]) -> None:
        """Print a line where there is news."""
        fraction = state.get("fraction")
        step = -1 if fraction is None else int(fraction / _STEP + 1e-6)
        news = (str(state.get("stage") or ""), step)
        if news == self._told or state.get("state") in ("failed", "cancelled"):
            return
        self._told = news
        parts = [news[0]] if news[0] else []
        if fraction is not None:
            parts.append(f"{100 * fraction:.0f} %")
        if state.get("message"):
            parts.append(str(state["message"]))
        write(f"{self._what}: {', '.join(parts) or 'started'}", sys.stderr)


class _Bar:
    """A progress bar on stderr that ends when the operation ends."""

    def __init__(self, what: str, color: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True, no_color=not color, highlight=False)
        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=30),
            TextColumn("{task.fields[percent]}"), TextColumn("{task.fields[text]}", markup=False),
            console=console, refresh_per_second=8,
        )  # fmt: skip
        self._task: TaskID = self._progress.add_task(what, total=None, percent="", text="")

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def update(self, state: dict[str, Any]) -> None:
        """Move the bar."""
        fraction, eta_s = state.get("fraction"), state.get("eta_s")
        texts = [str(state[key]) for key in ("stage", "message") if state.get(key)]
        if eta_s and state.get("state") == "running":
            texts.append(f"{duration_text(eta_s)} left")
        self._progress.update(
            self._task,
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
            percent="" if fraction is None else f"{100 * fraction:3.0f} %",
            text=", ".join(texts),
        )


def _reporter(session: Session, what: str) -> Reporter:
    if session.is_quiet:
        return _Silent()
    if is_terminal(sys.stderr):
        return _Bar(what, session.has_color(sys.stderr))
    return _Silent() if session.is_json else _Lines(what)
