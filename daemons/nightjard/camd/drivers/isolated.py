# SPDX-License-Identifier: BSD-3-Clause
"""A detector whose driver runs in a child process, so that a hung SDK can be killed.

Each call has a deadline. One that is not answered in time ends the process with SIGKILL and raises
DeviceWedged; a process that dies by itself raises DeviceLost (DeviceError while opening). Either
way the object can be opened again, with a new process: some SDKs cannot reconnect within one.

==========  =====================================================================================
call        deadline
==========  =====================================================================================
open        ``open_timeout``, the start of the process included
configure   three times ``call_timeout``: it sets and reads back a handful of things
fetch       ``call_timeout`` plus the frame's size divided by ``fetch_rate``; after a cancellation
            one second
close       0.8 s, then the process is killed
others      ``call_timeout``
==========  =====================================================================================
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nightjar.errors import (
    Busy,
    Code,
    DeviceError,
    DeviceLost,
    DeviceWedged,
    NightjarError,
    Refused,
)
from nightjard.camd.drivers import childwire as wire
from nightjard.camd.drivers.process import CallTimedOut, ChildProcess

if TYPE_CHECKING:
    from nightjard.camd.drivers.base import (
        Capabilities,
        FrameBuffer,
        FrameRecord,
        Progress,
        Readout,
        Settings,
        Telemetry,
    )
    from nightjard.camd.drivers.options import DriverOptions

_LOG = logging.getLogger(__name__)
_CONFIGURE_FACTOR = 3.0
_CANCEL_S = 1.0
_CLOSE_S = 0.8
_LEAVE_S = 0.2
_BEING_MADE_S = 2.0
_LET_GO_S = 5.0  # a thread whose call was interrupted reaps the child before it lets go
_BYTES_PER_PIXEL = 2


class IsolatedDetector:
    """Any driver in a child process; see :class:`~nightjard.camd.drivers.base.Detector`.

    Parameters
    ----------
    options
        Of the driver; its deadlines apply here.
    serial
        Passed to the driver.
    """

    def __init__(self, options: DriverOptions, serial: int | str) -> None:
        self.options = options
        self._serial = serial
        self._child: ChildProcess | None = None
        self._gone: str | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the child; None without one."""
        return None if self._child is None else self._child.pid

    def interrupt(self, reason: str) -> None:
        """End the child now, from any thread; a call that waits for it fails with `reason`."""
        deadline = time.monotonic() + _BEING_MADE_S
        # One that is just being started is waited for, or it would be opened all the same.
        while (child := self._child) is None and self._lock.locked():
            if time.monotonic() >= deadline:
                return
            time.sleep(0.005)
        if child is not None:
            child.kill(reason)

    def open(self) -> Capabilities:
        """Start a new child process, load the driver there and open the device."""
        self.close()
        deadline = time.monotonic() + self.options.open_timeout
        with self._one_call():
            child = self._child = ChildProcess()
            with self._watched(child, "open", self.options.open_timeout, DeviceError):
                text = self.options.model_dump_json()
                child.greet(text, self._serial, self.options.open_timeout)
                remaining = max(0.01, deadline - time.monotonic())
                result = child.call("open", [], remaining)
            self._gone = None
            return wire.unpack_capabilities(result)

    def close(self) -> None:
        """Close the device and end the child, by force where it does not answer."""
        # A call of another thread that hangs is ended first: its process goes anyway.
        if not self._lock.acquire(timeout=_LEAVE_S):
            self.interrupt("the detector was closed")
            if not self._lock.acquire(timeout=_LET_GO_S):
                raise DeviceError("another thread does not let go of the detector process")
        try:
            child, self._child = self._child, None
            self._gone = None
            if child is not None:
                _close_child(child)
        finally:
            self._lock.release()

    def configure(self, settings: Settings) -> Readout:
        """Forward."""
        timeout_s = _CONFIGURE_FACTOR * self.options.call_timeout
        return wire.unpack_readout(
            self._call("configure", [wire.pack_settings(settings)], timeout_s)
        )

    def start(self) -> None:
        """Forward."""
        self._call("start")

    def poll(self) -> Progress:
        """Forward."""
        return wire.unpack_progress(self._call("poll"))

    def fetch(self, buffer: FrameBuffer, is_cancelled: Callable[[], bool]) -> FrameRecord:
        """Have the child write the pixels into the stream file, which it maps itself."""
        rows, columns = buffer.array.shape
        size_mb = rows * columns * _BYTES_PER_PIXEL / 1e6
        timeout_s = self.options.call_timeout + size_mb / self.options.fetch_rate
        arguments = [buffer.path, buffer.offset, [rows, columns]]
        return wire.unpack_record(self._call("fetch", arguments, timeout_s, is_cancelled))

    def abort(self) -> None:
        """Forward."""
        self._call("abort")

    def telemetry(self) -> Telemetry:
        """Forward."""
        return wire.unpack_telemetry(self._call("telemetry"))

    def set_cooler_power(self, pwm: int) -> None:
        """Forward."""
        self._call("set_cooler_power", [pwm])

    def set_cooler_target(self, celsius: float | None) -> None:
        """Forward."""
        self._call("set_cooler_target", [celsius])

    def move_filter(self, name: str) -> None:
        """Forward."""
        self._call("move_filter", [name])

    def _call(
        self,
        name: str,
        arguments: list[Any] | None = None,
        timeout_s: float | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Any:
        limit = self.options.call_timeout if timeout_s is None else timeout_s
        with self._one_call():
            child = self._child
            if child is None:
                if self._gone is not None:
                    raise DeviceLost(f"{self._gone}; initialise the camera again")
                raise Refused("the camera is not open", code=Code.NOT_INITIALIZED)
            with self._watched(child, name, limit, DeviceLost):
                return child.call(name, arguments or [], limit, is_cancelled, _CANCEL_S)

    @contextmanager
    def _one_call(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise Busy("another thread is within a call to the detector process")
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _watched(
        self, child: ChildProcess, call: str, limit_s: float, when_dead: type[NightjarError]
    ) -> Iterator[None]:
        """Turn a hung or dead child into an error, after which there is no child."""
        try:
            yield
        except CallTimedOut as error:
            child.show_stacks()
            is_gone = child.end()
            end = "was killed" if is_gone else "does not end, the kernel holds it"
            text = (
                f"driver call {call} did not return within {str(error) or f'{limit_s:.3g} s'}; "
                f"its process {child.pid} {end}"
            )
            self._drop(text)
            raise DeviceWedged(
                f"{text}; initialise the camera again", call=call, limit_s=limit_s, pid=child.pid
            ) from None
        except wire.PeerGone:
            child.join(_CLOSE_S)
            text = f"the detector process {child.pid} is gone in {call}: {child.how_it_ended()}"
            child.end()
            self._drop(text)
            raise when_dead(
                text, call=call, status=child.status, output=child.last_lines(30)
            ) from None
        except wire.Malformed as error:
            child.end()
            text = f"the detector process {child.pid} sent {error} in {call} and was killed"
            self._drop(text)
            raise when_dead(text, call=call) from error
        except NightjarError:
            # The driver said no. While opening this leaves nothing that is worth a process.
            if call == "open":
                _close_child(child)
                self._child = None
            raise
        except BaseException:
            # A call left half way (an interrupt, a broken message): the channel is out of step.
            child.end()
            self._drop(f"the detector process was ended: {call} was interrupted")
            raise

    def _drop(self, why: str) -> None:
        self._child = None
        self._gone = why


def _close_child(child: ChildProcess) -> None:
    """Close the device and end the process; by force where it does not answer."""
    try:
        child.call("close", [], _CLOSE_S)
    except (CallTimedOut, wire.PeerGone):
        _LOG.warning("the detector process %d does not close; it is killed", child.pid)
    except NightjarError as error:
        _LOG.warning("closing the detector: %s", error)
    else:
        child.leave(_LEAVE_S)
    if not child.end():
        _LOG.error("the detector process %d does not end; the kernel holds it", child.pid)
