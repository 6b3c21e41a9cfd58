# SPDX-License-Identifier: BSD-3-Clause
"""Worker processes of a daemon: started, asked, told, listened to and ended the same way by all.

A daemon that moves frames keeps them out of its own process: a worker owns a stream or a link, the
daemon answers the network. Between both runs a socket pair with one JSON object a line. The worker
sees the end of its daemon, however that comes, as :attr:`Parent.gone`; the daemon sees the end of
its worker, however that comes, in `on_end`.

Messages: ``{"id", "ask", "arguments"}`` and its answer ``{"id", "result"}`` or ``{"id", "error"}``;
anything else is news, passed on as it is.
"""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nightjar.errors import Code, NightjarError, TimedOut, Unreachable, error_for
from nightjar.logs import set_up

log = logging.getLogger(__name__)

Message = dict[str, Any]
Handler = Callable[..., Any]

_CHANNEL = "NIGHTJAR_CHANNEL"
_LONGEST_LINE = 1 << 20
_LINES_KEPT = 20
_EXIT_S = 120.0  # a logger may have a gigabyte to bring to the disk after its last word
_LEVELS = {"<7>": logging.DEBUG, "<6>": logging.INFO, "<5>": logging.INFO,
           "<4>": logging.WARNING, "<3>": logging.ERROR, "<2>": logging.CRITICAL}  # fmt: skip


class _Lines:
    """A socket as lines of JSON; several threads may send."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._rest = b""
        self._unsent = b""

    def send(self, message: Mapping[str, Any]) -> bool:
        """Send a message, never waiting for the other end; False where that has closed.

        What a stopped process does not take is kept and goes with the next message; past a
        megabyte, messages are dropped.
        """
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if len(self._unsent) < _LONGEST_LINE:
                self._unsent += data
            try:
                while self._unsent:
                    sent = self._channel.send(self._unsent, socket.MSG_DONTWAIT)
                    self._unsent = self._unsent[sent:]
            except BlockingIOError:
                return True
            except OSError:
                return False
        return True

    def receive(self) -> list[Message] | None:
        """Wait for messages; None when the other end has closed or sends what is none."""
        while b"\n" not in self._rest:
            try:
                part = self._channel.recv(65536)
            except OSError:
                return None
            if not part or len(self._rest) > _LONGEST_LINE:
                return None
            self._rest += part
        *lines, self._rest = self._rest.split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            log.error("a worker's channel carries no JSON: %r", lines[0][:80])
            return None

    def close(self) -> None:
        """Close both directions; whoever waits in :meth:`receive` returns."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.close()


class Backoff:
    """The pauses before restarts: growing while lives are short, short again after a long one.

    Parameters
    ----------
    first_s, longest_s
        Bounds of the pause.
    healthy_s
        A life of this length counts as a success.
    """

    def __init__(
        self, first_s: float = 0.2, longest_s: float = 30.0, healthy_s: float = 60.0
    ) -> None:
        self._first_s, self._longest_s, self._healthy_s = first_s, longest_s, healthy_s
        self._pause_s = first_s

    def next_pause_s(self, lived_s: float) -> float:
        """Return the seconds to wait after a life of `lived_s` seconds."""
        if lived_s >= self._healthy_s:
            self._pause_s = self._first_s
        pause_s = self._pause_s
        self._pause_s = min(self._longest_s, 2 * pause_s)
        return pause_s


class Child:
    """One worker process.

    Parameters
    ----------
    name
        Of the worker, for the log.
    module, arguments
        What runs: ``python -m MODULE ARGUMENTS``.
    on_message
        Called from the reader thread with every message that is no answer.
    on_end
        Called once, from the reader thread, with how the process ended.
    environment
        Added to that of the daemon.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str] = (),
        *,
        on_message: Callable[[Message], None] | None = None,
        on_end: Callable[[str], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._command = [sys.executable, "-m", module, *arguments]
        self._on_message = on_message
        self._on_end = on_end
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: _Lines | None = None
        self._said: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        self._lock = threading.Lock()
        self._next_id = 0
        self._waiting: dict[int, queue.SimpleQueue[Message]] = {}
        self._is_over = threading.Event()
        self.how_it_ended = ""
        self.started_s = 0.0

    @property
    def pid(self) -> int | None:
        """Its process id; None before the start."""
        return self._process.pid if self._process is not None else None

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and not self._is_over.is_set()

    @property
    def lived_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s if self.started_s else 0.0

    def start(self) -> None:
        """Start the process; it can be asked at once.

        Raises
        ------
        NightjarError
            It cannot be started.
        """
        ours, theirs = socket.socketpair()
        environment = os.environ | self._environment | {
            _CHANNEL: str(theirs.fileno()), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0,
                pass_fds=(theirs.fileno(),), env=environment,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise NightjarError(f"cannot start {self.name}: {error.strerror}") from error
        finally:
            theirs.close()
        self.started_s = time.monotonic()
        self._lines = _Lines(ours)
        threading.Thread(target=self._relay, name=f"{self.name}-log", daemon=True).start()
        threading.Thread(target=self._read, name=f"{self.name}-reader", daemon=True).start()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message that has no answer; lost where the process is dead."""
        if self._lines is not None:
            self._lines.send(message)

    def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 5.0
    ) -> Any:
        """Return the worker's answer to a command.

        Raises
        ------
        NightjarError
            What the worker's handler raised.
        TimedOut
            No answer in time; the worker may carry it out all the same.
        Unreachable
            The process is dead.
        """
        answers: queue.SimpleQueue[Message] = queue.SimpleQueue()
        with self._lock:
            self._next_id += 1
            number = self._next_id
            self._waiting[number] = answers
        try:
            message = {"id": number, "ask": command, "arguments": dict(arguments or {})}
            if self._lines is None or self._is_over.is_set() or not self._lines.send(message):
                raise Unreachable(f"{self.name} is not running {self.how_it_ended}".rstrip())
            try:
                answer = answers.get(timeout=timeout_s)
            except queue.Empty:
                raise TimedOut(
                    f"{self.name} did not answer {command!r} within {timeout_s:g} s"
                ) from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        error = answer.get("error")
        if error is not None:
            raise error_for(Code.from_name(error["code"]), error["message"], error.get("detail"))
        return answer.get("result")

    def stop(self, timeout_s: float) -> None:
        """End the process: it is told by the end of its channel, and killed at the deadline."""
        process = self._process
        if process is None:
            return
        if self._lines is not None:
            self._lines.close()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            log.error("%s did not end within %g s and is killed", self.name, timeout_s)
            self.kill()
        self._is_over.wait(5.0)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()

    def wait_over(self, timeout_s: float) -> bool:
        """Wait until the process has ended and `on_end` has been called."""
        return self._is_over.wait(timeout_s)

    def _read(self) -> None:
        assert self._lines is not None
        assert self._process is not None
        while (messages := self._lines.receive()) is not None:
            for message in messages:
                self._dispatch(message)
        self._lines.close()
        try:
            status = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            log.error("%s has closed its channel and does not end: it is killed", self.name)
            self._process.kill()
            status = self._process.wait()
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        said = " | ".join(list(self._said)[-3:])
        words = f"; last words: {said}" if status and said else ""
        self.how_it_ended = f"({how}{words})"
        over = {"code": "UNREACHABLE", "message": f"{self.name} ended {self.how_it_ended}"}
        self._is_over.set()
        with self._lock:
            for waiting in self._waiting.values():
                waiting.put({"error": over})
        if self._on_end is not None:
            self._guarded(self._on_end, f"{how}{words}")

    def _dispatch(self, message: Message) -> None:
        number = message.get("id")
        if number is None:
            if self._on_message is not None:
                self._guarded(self._on_message, message)
            return
        with self._lock:
            waiting = self._waiting.get(number)
        if waiting is not None:
            waiting.put(message)

    def _guarded(self, call: Callable[[Any], None], value: Any) -> None:
        try:
            call(value)
        except Exception:
            log.exception("%s: what it sent could not be handled: %.200r", self.name, value)

    def _relay(self) -> None:
        """Pass the worker's standard error on to the daemon's log, with its levels."""
        assert self._process is not None
        assert self._process.stderr is not None
        with os.fdopen(os.dup(self._process.stderr.fileno()), "r", errors="replace") as lines:
            for line in lines:
                text = line.rstrip("\n")[:4000]
                level = _LEVELS.get(text[:3])
                if level is not None:
                    text = text[3:]
                if (level or logging.WARNING) >= logging.WARNING:
                    self._said.append(text[:200])
                log.log(level or logging.WARNING, "%s: %s", self.name, text)
        self._process.stderr.close()


class Parent:
    """The daemon, as its worker sees it; made by :meth:`connect`.

    Attributes
    ----------
    gone
        Set when the daemon has closed the channel or died: finish in order and exit.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._lines = _Lines(channel)
        self.gone = threading.Event()

    @classmethod
    def connect(cls) -> Parent:
        """Return the channel that this process was started with; logging goes to the daemon.

        Raises
        ------
        NightjarError
            It was started by hand.
        """
        number = os.environ.pop(_CHANNEL, "")
        if not number.isdigit():
            raise NightjarError("this program is started by its daemon, not by hand")
        # What a terminal or systemd sends to the whole group is the daemon's to answer.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal of a site run by hand closes
        set_up("INFO", prefixes=True)
        return cls(socket.socket(fileno=int(number)))

    def serve(self, handlers: Mapping[str, Handler]) -> None:
        """Start the thread that answers the daemon's commands, one after the other."""
        threading.Thread(
            target=self._serve, args=(dict(handlers),), name="commands", daemon=True
        ).start()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send news to the daemon; nothing happens where it is gone."""
        if not self.gone.is_set() and not self._lines.send(message):
            self.gone.set()

    def _serve(self, handlers: dict[str, Handler]) -> None:
        while (messages := self._lines.receive()) is not None:
            for message in messages:
                if "ask" in message:
                    self._answer(message, handlers)
        self.gone.set()

    def _answer(self, message: Message, handlers: dict[str, Handler]) -> None:
        reply: Message = {"id": message.get("id")}
        try:
            handler = handlers.get(message["ask"])
            if handler is None:
                raise NightjarError(f"no command {message['ask']!r}", code=Code.PROTOCOL)
            reply["result"] = handler(**message.get("arguments", {}))
        except NightjarError as error:
            reply["error"] = {
                "code": error.code.name, "message": error.message, "detail": error.detail,
            }  # fmt: skip
        except Exception as error:  # it is raised where the command was given
            log.exception("command %s", message.get("ask"))
            reply["error"] = {"code": "INTERNAL", "message": f"internal error: {error}"}
        try:
            self.tell(reply)
        except (TypeError, ValueError) as error:
            log.error("the answer to %s cannot be sent: %s", message.get("ask"), error)
            reply = {"code": "INTERNAL", "message": f"bad answer: {error}"}
            self.tell({"id": message.get("id"), "error": reply})
