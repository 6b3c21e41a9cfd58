# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar up`` and ``nightjar down``."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nightjar.cli.session import Session
from nightjar.config.paths import SYSTEM_ROOT
from nightjar.errors import Code, ConfigError, NightjarError, Refused, TimedOut
from nightjar.files import locked, state_folder
from nightjar.registry import Registry
from nightjard.site.checking import Finding, check_all
from nightjard.site.configured import Configured, all_configured, of_this_machine
from nightjard.site.supervise import Child, Supervisor

LOCK_NAME = "nightjar-up.lock"
DOWN_LIMIT_S = 900.0
READY_LINE = "READY\n"
_POLL_S = 0.1


def site_name() -> str:
    """Return the folder that the site is configured in, for messages."""
    return os.environ.get("NIGHTJAR_CONFIG_ROOT") or str(SYSTEM_ROOT)


def find_site(only: Sequence[str]) -> tuple[list[Configured], Registry]:
    """Return the configurations in force and the registry.

    Raises
    ------
    ConfigError
        Nothing is configured.
    """
    chosen = all_configured(only)
    if not chosen:
        raise ConfigError(
            f"nothing is configured in {site_name()}; name a folder with --config-root, or make "
            f"one: nightjar simulate site DIR"
        )
    return chosen, Registry.find(chosen[0].path)


def up(session: Session, only: Sequence[str], ready: int | None) -> int:
    """Run the site until asked to stop; returns the exit code."""
    chosen, registry = find_site(only)
    _refuse_errors(session, chosen)
    here, elsewhere = of_this_machine(chosen, registry)
    state = state_folder()
    teller = _Teller(session, ready)
    for one, entry in elsewhere:
        teller(one.label, "elsewhere", f"runs on {entry.machine} ({entry.address}), not here")
    if not here:
        raise ConfigError(f"no daemon in {site_name()} runs on this machine")
    children = [
        Child(one, one.entry(registry), state / "log" / f"{one.program}-{one.identity}.log")
        for one in here
    ]
    with locked(state / LOCK_NAME, f"nightjar up with state in {state}"), _stream_folder():
        supervisor = Supervisor(children, teller)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: supervisor.ask_stop())
        try:
            started = time.monotonic()
            if supervisor.start() and not supervisor.is_stopping:
                took = time.monotonic() - started
                many = "" if len(children) == 1 else "s"
                teller("site", "up", f"{len(children)} daemon{many} up after {took:.1f} s; "
                       f"Ctrl-C or nightjar down stops them")  # fmt: skip
            if not supervisor.is_stopping:
                teller.ready()
            supervisor.run()
        finally:
            began = time.monotonic()
            ended_well = supervisor.stop()
            teller("site", "down", f"stopped after {time.monotonic() - began:.1f} s")
    return 0 if ended_well else 1


@contextlib.contextmanager
def _stream_folder() -> Iterator[None]:
    """Make the folder that MILK_SHM_DIR names; it goes again if it was ours and is empty."""
    name = os.environ.get("MILK_SHM_DIR")
    if not name or Path(name).is_dir():
        yield
        return
    folder = Path(name)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a stream was left in it, which somebody may want
            folder.rmdir()


class _Teller:
    """Prints events; until the site is up also to who waits for `--detach`."""

    def __init__(self, session: Session, ready: int | None) -> None:
        self._session = session
        self._pipe = os.fdopen(ready, "w") if ready is not None else None

    def __call__(self, label: str, event: str, text: str, **detail: Any) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        value = {"time": now, "daemon": label, "event": event, "message": text, **detail}
        line = f"{now[11:]}  {label.ljust(18)} {text}"
        self._session.event(value, line)
        if self._pipe is not None:
            self._pipe.write(line + "\n")
            self._pipe.flush()

    def ready(self) -> None:
        """Let go of who waits."""
        if self._pipe is not None:
            self._pipe.write(READY_LINE)
            self._pipe.close()
            self._pipe = None


def _refuse_errors(session: Session, chosen: Sequence[Configured]) -> None:
    """Raise ConfigError for configurations that no daemon would start with; show doubts."""
    _, findings = check_all(one.path for one in chosen)
    errors = [one for one in findings if one.level == "error"]
    for finding in findings:
        if finding.level == "warning":
            session.note(describe(finding))
    if errors:
        raise ConfigError("\n".join(f"{one.path}: {one.text}" for one in errors))


def describe(finding: Finding) -> str:
    """Return a finding with its file, in one line."""
    return f"{finding.level}: {finding.path}: {finding.text}"


def detach(session: Session, arguments: Sequence[str]) -> None:
    """Start ``nightjar up`` in the background; return when the site is up.

    Raises
    ------
    NightjarError
        It ended before; its last words are the message.
    """
    log_path = up_log()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = os.pipe()
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "nightjard.site", "up", *arguments, "--ready-fd", str(theirs)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, pass_fds=(theirs,),
        )  # fmt: skip
    os.close(theirs)
    is_up = False
    with os.fdopen(ours) as events:
        for line in events:
            is_up = line == READY_LINE
            if not is_up:
                session.note(line.rstrip("\n"))
    if not is_up:
        code = child.wait(DOWN_LIMIT_S)
        lines = log_path.read_text(errors="replace").splitlines()
        words = next((line for line in reversed(lines) if line.startswith("error: ")), "")
        raise NightjarError(
            words.removeprefix("error: ") or f"it ended; see {log_path}",
            code={2: Code.BAD_CONFIG, 3: Code.NOT_PERMITTED}.get(code, Code.FAILED),
        )
    # The child lives on without us; Python need not warn about it.
    child.returncode = 0
    session.done(
        {"pid": child.pid, "log": str(log_path)},
        f"nightjar up runs in the background (pid {child.pid}, log {log_path}); "
        f"stop it: nightjar down",
    )


def down(session: Session) -> None:
    """Stop the ``nightjar up`` whose state is in this state folder; return when it has ended.

    Raises
    ------
    Refused
        None is running.
    TimedOut
        It has not ended by the deadline.
    """
    path = state_folder() / LOCK_NAME
    pid = running_pid(path)
    if pid is None:
        raise Refused(f"no nightjar up is running with state in {path.parent}", path=str(path))
    events = _Tail(up_log())
    os.kill(pid, signal.SIGTERM)
    limit_s = DOWN_LIMIT_S if session.timeout_s is None else session.timeout_s
    deadline = time.monotonic() + limit_s
    session.note(f"nightjar up (pid {pid}) stops the daemons in order")
    while running_pid(path) == pid:
        events.relay(session)
        if time.monotonic() >= deadline:
            raise TimedOut(
                f"nightjar up (pid {pid}) is still stopping after {limit_s:g} s; cameras may be "
                f"warming up: nightjar status; hurry: nightjar down again"
            )
        time.sleep(_POLL_S)
    events.relay(session)
    session.done({"pid": pid}, "all daemons are stopped")


class _Tail:
    """What is added to a log from now on; nothing where there is no such log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0

    def relay(self, session: Session) -> None:
        """Print the lines that are new."""
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._position)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # half a line: the rest comes with the next look
                self._position += len(line)
                session.note(line.decode(errors="replace").rstrip())


def up_log() -> Path:
    """Return the file that a detached ``nightjar up`` writes its events to."""
    return state_folder() / "log" / "nightjar-up.log"


def running_pid(path: Path) -> int | None:
    """Return the process that holds a lock file of ours, None where nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)
    return None
