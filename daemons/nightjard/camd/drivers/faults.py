# SPDX-License-Identifier: BSD-3-Clause
"""Which fault a simulated detector shows now: those of its options, and those of a control file."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nightjar.errors import DeviceError
from nightjard.camd.drivers.options import FaultOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nightjar.clock import Clock

_LOG = logging.getLogger(__name__)
_FRAME_KINDS = frozenset({"zero_frame", "stale_frame", "slow_readout"})
_DEFAULT_CALL = {"wedge": "fetch", "crash": "open"}


@dataclass(slots=True)
class _Armed:
    """A fault, since when it is armed, and the frames it has struck."""

    fault: FaultOptions
    since_ns: int
    struck: set[int] = field(default_factory=set)

    def is_due(self, call: str, frame_id: int, now_ns: int) -> bool:
        fault = self.fault
        if call != (fault.at_call or _DEFAULT_CALL.get(fault.kind, call)):
            return False
        if fault.at_frame is not None and frame_id < fault.at_frame:
            return False
        start = self.since_ns + round((fault.after_s or 0.0) * 1e9)
        if now_ns < start:
            return False
        if fault.duration_s is not None and now_ns >= start + round(fault.duration_s * 1e9):
            return False
        limit = fault.frames
        if limit is None and fault.kind in _FRAME_KINDS:
            limit = 1 if fault.at_frame is not None or fault.after_s is not None else None
        return limit is None or frame_id in self.struck or len(self.struck) < limit


class FaultPlan:
    """The faults of one detector.

    Parameters
    ----------
    faults
        Those of the options; armed again by :meth:`arm` (at each opening).
    control
        A file ``{"faults": [...]}`` that is read whenever it has changed; missing: no faults.
    """

    def __init__(self, faults: Iterable[FaultOptions], control: str | None) -> None:
        self._configured = tuple(faults)
        self._control = Path(control) if control else None
        self._stamp: tuple[int, ...] | None = None
        self._armed: list[_Armed] = []
        self._controlled: list[_Armed] = []

    def arm(self, now_ns: int) -> None:
        """Start the configured faults' time."""
        self._armed = [_Armed(fault, now_ns) for fault in self._configured]

    def refresh(self, now_ns: int) -> None:
        """Read the control file where it has changed."""
        if self._control is None:
            return
        try:
            stat = os.stat(self._control)
        except OSError:
            self._stamp, self._controlled = None, []
            return
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if stamp == self._stamp:
            return
        try:
            faults = _parse(json.loads(self._control.read_text()))
        except (OSError, ValueError, ValidationError) as error:
            # Perhaps half written: the next call reads it again; the old faults stay.
            _LOG.warning("fault file %s is not usable: %s", self._control, error)
            self._stamp = stamp
            return
        self._stamp = stamp
        self._controlled = [_Armed(fault, now_ns) for fault in faults]
        _LOG.info("faults now: %s", ", ".join(fault.kind for fault in faults) or "none")

    def active(self, kind: str, call: str, frame_id: int, now_ns: int) -> FaultOptions | None:
        """Return the fault of that kind in effect for a call and frame, counting the strike."""
        for armed in (*self._armed, *self._controlled):
            if armed.fault.kind == kind and armed.is_due(call, frame_id, now_ns):
                armed.struck.add(frame_id)
                return armed.fault
        return None


def _parse(value: Any) -> list[FaultOptions]:
    if not isinstance(value, dict) or not isinstance(value.get("faults"), list):
        raise ValueError('expected {"faults": [...]}')
    return [FaultOptions.model_validate(item) for item in value["faults"]]


def hang(clock: Clock, call: str, fault: FaultOptions) -> None:
    """Do not return, or only after the fault's `seconds`."""
    _LOG.warning("fault: %s hangs", call)
    now = clock.monotonic_ns()
    end = math.inf if fault.seconds is None else now + round(fault.seconds * 1e9)
    while now < end:
        clock.sleep(min(3600.0, (end - now) / 1e9))
        now = clock.monotonic_ns()


def end_process(call: str, fault: FaultOptions, in_own_process: bool) -> None:
    """End the process as the fault says; where it is not the driver's own, fail instead."""
    if not in_own_process:
        raise DeviceError(f"simulated crash in {call}")
    _LOG.critical("fault: crash in %s", call)
    if fault.signal is not None:
        os.kill(os.getpid(), fault.signal)
    os._exit(fault.status)
