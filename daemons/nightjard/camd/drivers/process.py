# SPDX-License-Identifier: BSD-3-Clause
"""The parent's side of a detector child: start it, ask it with deadlines, end it, reap it.

One thread owns the process: it starts it, forwards its standard error into logging, reaps it. The
parent-death signal that the child asks for is bound to the *thread* that started it, so that thread
lives exactly as long as the child, whichever threads make the calls.
"""

from __future__ import annotations

import collections
import logging
import mmap
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from nightjar.errors import DeviceError
from nightjard.camd.drivers import childwire as wire

_LOG = logging.getLogger(__name__)
_LEVEL = re.compile(r"<(\d{1,2})>")
_STACK = re.compile(r"\s|Current thread|Thread 0x|Extension modules|Traceback")
_LONGEST_LINE = 4096
_LINES_KEPT = 30
_LOOK_S = 0.02  # how often a waiting call looks at is_cancelled
_START_S = 10.0
# Both only cost start-up time: threads of a library that is not used, a search for plugins.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"}
_REAP_S = 2.0
_STACKS_S = 0.1


class CallTimedOut(Exception):
    """A call was not answered in time; its text says which limit it was, where not the call's."""


class ChildProcess:
    """One started child. Whoever makes it ends it: :meth:`end`.

    Raises
    ------
    DeviceError
        The process cannot be started.
    """

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        descriptor = os.memfd_create("camd-detector", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, mmap.PAGESIZE)
        self._cancel = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._lines: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        self._line_count = 0
        self._id = 0
        self._kill_lock = threading.Lock()
        self._pidfd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._ended_because: str | None = None
        self._is_started = threading.Event()
        self._thread = threading.Thread(
            target=self._own, args=(theirs, descriptor), name="detector-process", daemon=True
        )
        self._thread.start()
        self._is_started.wait(_START_S)
        if self._process is None:
            self.end("it could not be started")
            raise DeviceError(f"cannot start a detector process: {self._failure or 'no answer'}")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.returncode

    def last_lines(self, count: int = 3) -> list[str]:
        """Return the last lines of its standard error."""
        return list(self._lines)[-count:]

    def how_it_ended(self) -> str:
        """Say how it ended, with its last words."""
        status = self.status
        if self._ended_because is not None:
            how = self._ended_because
        elif status is None:
            how = "it closed its connection"
        elif status < 0:
            how = f"it was ended by {_signal_name(-status)}"
        else:
            how = f"it ended with exit status {status}"
        said = [line for line in self.last_lines(_LINES_KEPT) if not _STACK.match(line)]
        words = " | ".join(line[:160] for line in said[-3:])
        return f"{how}; last output: {words}" if words else how

    def call(
        self,
        name: str,
        arguments: list[Any],
        timeout_s: float,
        is_cancelled: Callable[[], bool] | None = None,
        cancel_s: float = 1.0,
    ) -> Any:
        """Make one call and return its result.

        Parameters
        ----------
        timeout_s
            Deadline of the reply.
        is_cancelled, cancel_s
            Looked at while waiting; once true the child is told, and has `cancel_s` to reply.

        Raises
        ------
        CallTimedOut
            No reply; the child is in an unknown state and must be ended.
        wire.PeerGone
            The child has died.
        NightjarError
            What the driver raised.
        """
        self._id += 1
        deadline = time.monotonic() + timeout_s
        is_told = is_cancelled is not None and is_cancelled()
        self._cancel[0] = int(is_told)
        self._channel.settimeout(timeout_s)
        try:
            wire.send(self._channel, {"id": self._id, "call": name, "args": arguments})
            while True:
                deadline = self._wait(deadline, is_told, is_cancelled, cancel_s)
                self._channel.settimeout(max(0.01, deadline - time.monotonic()))
                reply = wire.receive(self._channel)
                if reply.get("id") == self._id:
                    break
        except TimeoutError as error:
            raise CallTimedOut from error
        if "error" in reply:
            raise wire.unpack_error(reply["error"])
        return reply["result"]

    def greet(self, options_json: str, serial: int | str, timeout_s: float) -> None:
        """Name the driver; the child loads it. Raises as :meth:`call`."""
        self._id += 1
        self._channel.settimeout(max(0.01, timeout_s))
        hello = {"id": self._id, "options": options_json, "serial": serial}
        try:
            wire.send(self._channel, hello)
            reply = wire.receive(self._channel)
        except TimeoutError as error:
            raise CallTimedOut from error
        if "error" in reply:
            raise wire.unpack_error(reply["error"])

    def _wait(
        self,
        deadline: float,
        is_told: bool,
        is_cancelled: Callable[[], bool] | None,
        cancel_s: float,
    ) -> float:
        """Wait for the first byte of a reply; return the deadline, nearer after a cancellation."""
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        while True:
            pause = max(0.0, deadline - time.monotonic())
            is_last = pause == 0.0
            if is_cancelled is not None and not is_told:
                pause = min(pause, _LOOK_S)
            # Looked at once more after the deadline: it may be us who had no time.
            if poller.poll(pause * 1000):
                return deadline
            if is_last:
                raise CallTimedOut(f"{cancel_s:g} s of its cancellation" if is_told else "")
            if is_cancelled is not None and not is_told and is_cancelled():
                is_told = True
                self._cancel[0] = 1
                deadline = min(deadline, time.monotonic() + cancel_s)

    def show_stacks(self) -> None:
        """Have the child write where its threads are into the log, as far as it still can."""
        start = before = self._line_count
        self._signal(signal.SIGUSR1)
        deadline = time.monotonic() + _STACKS_S
        while time.monotonic() < deadline:
            self._thread.join(_LOOK_S)
            if self._line_count != start and self._line_count == before:
                return  # it has written, and has stopped writing
            before = self._line_count

    def leave(self, timeout_s: float) -> bool:
        """Close the connection, which ends a healthy child; tell whether it ended in time."""
        self._channel.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def kill(self, reason: str | None = None) -> None:
        """Send SIGKILL, from any thread; a call that waits fails at once."""
        if reason is not None:
            self._ended_because = reason
        self._signal(signal.SIGKILL)

    def end(self, reason: str | None = None) -> bool:
        """Kill and reap the process, release everything; tell whether it is gone.

        It is not where the kernel holds it in an uninterruptible call; it then ends, and is
        reaped, when the kernel lets go.
        """
        self.kill(reason)
        self._channel.close()
        self._thread.join(_REAP_S)
        if not self._cancel.closed:
            self._cancel.close()
        return not self._thread.is_alive()

    def join(self, timeout_s: float) -> bool:
        """Wait until the process has been reaped and its output read."""
        self._thread.join(timeout_s)
        if self._has_ended():  # only we are late
            self._thread.join(_REAP_S)
        return not self._thread.is_alive()

    def _has_ended(self) -> bool:
        with self._kill_lock:
            if self._pidfd < 0:
                return False
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            return bool(poller.poll(0))

    def _signal(self, number: int) -> None:
        with self._kill_lock:
            if self._pidfd >= 0:
                try:
                    signal.pidfd_send_signal(self._pidfd, number)
                except ProcessLookupError:
                    return  # it has ended and is about to be reaped

    # -- the owning thread ----------------------------------------------------------------------

    def _own(self, theirs: socket.socket, cancel_fd: int) -> None:
        try:
            process = self._start(theirs.fileno(), cancel_fd)
        except OSError as error:
            self._failure = error
            return
        finally:
            theirs.close()
            os.close(cancel_fd)
            if self._process is None:
                self._is_started.set()
        assert process.stdout is not None
        try:
            self._forward(process.stdout.fileno())
        finally:
            process.stdout.close()
            process.wait()  # returns at once: the pidfd said that it has ended
            with self._kill_lock:
                os.close(self._pidfd)
                self._pidfd = -1

    def _start(self, channel_fd: int, cancel_fd: int) -> subprocess.Popen[bytes]:
        level = logging.getLogger("nightjard.camd.drivers").getEffectiveLevel()
        process = subprocess.Popen(
            [
                sys.executable, "-P", "-m", "nightjard.camd.drivers.child",
                "--channel-fd", str(channel_fd), "--cancel-fd", str(cancel_fd),
                "--parent", str(os.getpid()), "--log-level", str(level),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=(channel_fd, cancel_fd), env={**os.environ, **_ENVIRONMENT},
        )  # fmt: skip
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.communicate()
            raise
        self._process = process
        self._is_started.set()
        return process

    def _forward(self, descriptor: int) -> None:
        """Log the child's output line by line until it has ended."""
        os.set_blocking(descriptor, False)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.register(self._pidfd, select.POLLIN)
        rest = b""
        has_ended = False
        while not has_ended:
            events = dict(poller.poll())
            has_ended = self._pidfd in events
            while (data := _read(descriptor)) is not None:
                if not data:  # its end closed; only the process's own end is waited for now
                    if not has_ended:
                        poller.unregister(descriptor)
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._log_line(line)
                if len(rest) > _LONGEST_LINE:
                    self._log_line(rest)
                    rest = b""
        if rest:
            self._log_line(rest)

    def _log_line(self, raw: bytes) -> None:
        line = raw[:_LONGEST_LINE].decode(errors="replace").rstrip()
        if len(raw) > _LONGEST_LINE:
            line += f" [{len(raw) - _LONGEST_LINE} bytes cut]"
        match = _LEVEL.match(line)
        level = int(match.group(1)) if match else logging.INFO
        if match:
            line = line[match.end() :]
        if line:
            self._lines.append(line)
            self._line_count += 1
            _LOG.log(level, "detector process %d: %s", self.pid, line)


def _read(descriptor: int) -> bytes | None:
    """Return what is there, b"" at the end, None when nothing is there now."""
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
