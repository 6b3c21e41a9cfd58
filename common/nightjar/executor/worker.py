# SPDX-License-Identifier: BSD-3-Clause
"""A worker process of the pool: runs one task after the other until its parent is gone.

Started by :mod:`.pool` as ``python -m nightjar.executor.worker FD [idle]``.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import queue
import signal
import socket
import sys
import threading
from typing import Any

from nightjar.errors import NightjarError
from nightjar.executor.channel import Channel
from nightjar.executor.progress import Progress, use_for_process
from nightjar.executor.tasks import call, failure_of
from nightjar.logs import set_up

log = logging.getLogger(__name__)

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # linux/asm/unistd.h
_IOPRIO_IDLE = 3 << 13  # class idle, ioprio_set(2)
_WHO_PROCESS = 1


class Worker:
    """The parent's tasks, one at a time.

    Parameters
    ----------
    channel
        To the parent.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancel = threading.Event()

    def run(self) -> None:
        """Serve for ever; the process ends with its parent, whatever it is doing."""
        threading.Thread(target=self._listen, name="parent", daemon=True).start()
        self._channel.send({"ready": True})
        while True:
            self._work(self._tasks.get())

    def _listen(self) -> None:
        while (messages := self._channel.receive()) is not None:
            for message in messages:
                if "cancel" in message:
                    self._cancel.set()
                else:
                    self._cancel.clear()
                    self._tasks.put(message)
        # The parent has closed or died. Tasks bear being killed; nobody waits for this one.
        os._exit(0)

    def _work(self, task: dict[str, Any]) -> None:
        progress = Progress(self._tell, self._cancel.is_set)
        use_for_process(progress)
        try:
            reply: dict[str, Any] = {"result": call(task["function"], task["arguments"])}
            progress.flush()
        except NightjarError as error:
            reply = {"error": failure_of(error)}
        except Exception as error:
            log.exception("task %s", task["function"])
            reply = {"error": failure_of(error)}
        finally:
            use_for_process(None)
        self._channel.send(reply)

    def _tell(self, frames: int, size: int, stage: str) -> None:
        self._channel.send({"progress": [frames, size, stage]})


def be_idle() -> None:
    """Take processor and disk only where nobody else wants them."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, _WHO_PROCESS, 0, _IOPRIO_IDLE)


def main() -> None:
    """Serve the parent at the other end of the descriptor that was passed on."""
    number = int(sys.argv[1])
    os.set_inheritable(number, False)  # a program that a task starts must not keep it open
    # What a terminal or systemd sends to the whole group is the daemon's to answer.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    if "idle" in sys.argv[2:]:
        be_idle()
    set_up("INFO")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Worker(Channel(socket.socket(fileno=number))).run()


if __name__ == "__main__":
    main()
