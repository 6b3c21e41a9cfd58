# SPDX-License-Identifier: BSD-3-Clause
"""Running daemons as children: in order, watched, started again with growing pauses, ended.

For a laptop, a demonstration or CI; an observatory's host has systemd for this.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nightjar.errors import Code, NightjarError
from nightjar.registry import Entry
from nightjar.rpc.client import Client
from nightjard.site.configured import Configured

READY_LIMIT_S = 60.0
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_SETTLED_S = 60.0  # a life this long starts the pauses anew
_POLL_S = 0.1
_STATUS_TIMEOUT_S = 1.0
_KILL_AFTER_S = 15.0  # from the third request to stop
_LOG_LIMIT_BYTES = 20_000_000
_PR_SET_PDEATHSIG = 1



class Tell(Protocol):
    """Gets every event."""

    def __call__(self, label: str, event: str, text: str, **detail: Any) -> None:
        """Tell: the label of a daemon, a word for the event, a line for people, plain values."""
        ...


@dataclass
class Child:
    """A daemon that is to run."""

    configured: Configured
    entry: Entry
    log_path: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float | None = None
    failures: int = 0
    is_ready: bool = False
    told: str = field(default="", repr=False)

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.configured.label

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None


def command_of(configured: Configured) -> list[str]:
    """Return the command line of a daemon."""
    return [sys.executable, "-m", f"nightjard.{configured.program}", str(configured.path)]


def _die_with_parent() -> None:
    """Have the kernel end this child in order when `nightjar up` is killed; runs in the child."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


_libc = ctypes.CDLL(None, use_errno=True)


def ask_status(entry: Entry, timeout_s: float = _STATUS_TIMEOUT_S) -> dict[str, Any] | None:
    """Return a daemon's snapshot, None where it does not answer."""
    client = Client(entry, timeout_s)
    try:
        status: dict[str, Any] = client.call("status")
        return status
    except NightjarError:
        return None
    finally:
        client.close()


class Supervisor:
    """The daemons of this machine.

    Parameters
    ----------
    children
        In the order in which they start.
    tell
        Gets every event.
    command, pauses_s, ready_limit_s
        For tests.
    """

    def __init__(
        self,
        children: Sequence[Child],
        tell: Tell,
        command: Callable[[Configured], list[str]] = command_of,
        pauses_s: Sequence[float] = PAUSES_S,
        ready_limit_s: float = READY_LIMIT_S,
    ) -> None:
        self.children = list(children)
        self._tell = tell
        self._command = command
        self._pauses_s = tuple(pauses_s)
        self._ready_limit_s = ready_limit_s
        self._asked = 0

    # --- life ---

    def ask_stop(self) -> None:
        """Stop in order; asked again: skip what may be skipped; a third time: end soon.

        A signal handler may call this: it takes no lock (an event's could be held at that moment).
        """
        self._asked += 1

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked to stop."""
        return self._asked > 0

    def start(self) -> bool:
        """Start all; return whether each answers. Those of one program start together."""
        for group in self._groups():
            for child in group:
                self._spawn(child)
            deadline = time.monotonic() + self._ready_limit_s
            while not self.is_stopping and time.monotonic() < deadline:
                self._look(group)
                if all(child.is_ready or not child.is_running for child in group):
                    break
                time.sleep(_POLL_S)
            for child in group:
                if child.is_running and not child.is_ready and not self.is_stopping:
                    self._tell(
                        child.label, "silent",
                        f"does not answer after {self._ready_limit_s:.0f} s; see {child.log_path}",
                    )  # fmt: skip
        return all(child.is_ready for child in self.children)

    def run(self) -> None:
        """Watch until asked to stop: a daemon that ends is started again."""
        while not self.is_stopping:
            self._look(self.children)
            self._restart_due()
            time.sleep(_POLL_S)

    def _groups(self) -> list[list[Child]]:
        groups: dict[str, list[Child]] = {}
        for child in self.children:
            groups.setdefault(child.configured.program, []).append(child)
        return list(groups.values())

    # --- starting ---

    def _spawn(self, child: Child) -> None:
        child.log_path.parent.mkdir(parents=True, exist_ok=True)
        if child.log_path.exists() and child.log_path.stat().st_size > _LOG_LIMIT_BYTES:
            child.log_path.replace(child.log_path.with_suffix(".old.log"))
        with child.log_path.open("ab") as log:
            child.process = subprocess.Popen(
                self._command(child.configured),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C in the terminal is ours to pass on, in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )  # fmt: skip
        child.started = time.monotonic()
        child.due = None
        child.is_ready = False
        pid = child.process.pid
        self._tell(child.label, "starting", f"starting (pid {pid})", pid=pid)

    def _look(self, children: Sequence[Child]) -> None:
        for child in children:
            if child.process is None:
                continue
            code = child.process.poll()
            if code is not None:
                self._ended(child, code)
            elif not child.is_ready and self._answers(child):
                child.is_ready = True
                took = time.monotonic() - child.started
                where = f"{child.entry.address}:{child.entry.port}"
                self._tell(child.label, "ready", f"answers on {where} after {took:.1f} s")
            elif child.failures and time.monotonic() - child.started > _SETTLED_S:
                child.failures = 0

    def _answers(self, child: Child) -> bool:
        status = ask_status(child.entry)
        if status is None or child.process is None:
            return False
        pid = status.get("pid")
        return pid is None or pid == child.process.pid  # else: another one holds the port

    def _ended(self, child: Child, code: int) -> None:
        child.process = None
        child.is_ready = False
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        words = last_words(child.log_path)
        if code == Code.BAD_CONFIG.exit_code:
            self._tell(child.label, "refused", f"ended with {how}, not started again: {words}")
            return
        pause_s = self._pauses_s[min(child.failures, len(self._pauses_s) - 1)]
        child.failures += 1
        child.due = time.monotonic() + pause_s
        self._tell(
            child.label, "ended", f"ended with {how}, again in {pause_s:g} s; last words: {words}"
        )

    def _restart_due(self) -> None:
        for child in self.children:
            if child.due is not None and time.monotonic() >= child.due:
                self._spawn(child)

    # --- stopping ---

    def stop(self) -> bool:
        """Stop all, the last started first; return whether each ended by itself."""
        self._asked = max(self._asked, 1)
        ended_well = True
        for group in reversed(self._groups()):
            running = [child for child in group if child.is_running]
            for child in running:
                self._tell(child.label, "stopping", "stopping")
                self._signal(child, signal.SIGTERM)
            ended_well &= self._wait_ended(running)
        return ended_well

    def _wait_ended(self, children: Sequence[Child]) -> bool:
        asked, killed = self._asked, False
        third: float | None = None
        while any(child.is_running for child in children):
            if self._asked > asked:
                asked = self._asked
                for child in children:
                    self._signal(child, signal.SIGTERM)  # the second one means: hurry
            if asked >= 3:
                third = time.monotonic() if third is None else third
                if time.monotonic() - third > _KILL_AFTER_S and not killed:
                    killed = True
                    for child in children:
                        self._signal(child, signal.SIGKILL)
            self._tell_stopping(children)
            time.sleep(_POLL_S)
        for child in children:
            code = child.process.returncode if child.process else 0
            word = "stopped" if code == 0 else f"stopped with {code}: {last_words(child.log_path)}"
            self._tell(child.label, "stopped", word)
            child.process = None
        return not killed

    def _signal(self, child: Child, number: int) -> None:
        if child.is_running and child.process is not None:
            child.process.send_signal(number)

    def _tell_stopping(self, children: Sequence[Child]) -> None:
        for child in children:
            words = last_words(child.log_path)
            is_news = words != child.told and "stopping:" in words and "received" not in words
            if child.is_running and is_news:
                child.told = words
                self._tell(child.label, "stopping", words.partition("stopping: ")[2])


def last_words(path: Path) -> str:
    """Return the last line of a log without its time stamp."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 4096))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return "none"
    said = [line.strip() for line in lines if line.strip()]
    if not said:
        return "none"
    words = said[-1].split(maxsplit=1)
    is_stamped = len(words) == 2 and words[0][:4].isdigit() and "T" in words[0]
    return (words[1] if is_stamped else said[-1])[:300]
