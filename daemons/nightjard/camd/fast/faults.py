# SPDX-License-Identifier: BSD-3-Clause
"""Which fault the simulated fast camera shows now: of its options, and of a file at run time."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from nightjar.clock import NS_PER_S
from nightjard.camd.fast.options import FastFaultOptions

log = logging.getLogger(__name__)

_LOOK_NS = NS_PER_S // 10


@dataclass(slots=True)
class _Armed:
    fault: FastFaultOptions
    since_ns: int
    is_spent: bool = False


class FastFaults:
    """The faults of one source. Each strikes once, but for lost_camera, which stays.

    Parameters
    ----------
    faults
        Those of the options.
    path
        A file ``{"faults": [...]}`` that is read whenever it has changed; missing: none.
    """

    def __init__(self, faults: Iterable[FastFaultOptions], path: str | None) -> None:
        self._configured = tuple(faults)
        self._path = Path(path) if path else None
        self._stamp: tuple[int, ...] | None = None
        self._armed: list[_Armed] = []
        self._from_file: list[_Armed] = []
        self._look_ns = 0

    def arm(self, now_ns: int) -> None:
        """Start the configured faults' time (monotonic)."""
        self._armed = [_Armed(fault, now_ns) for fault in self._configured]

    def due(self, frame_id: int, now_ns: int) -> list[FastFaultOptions]:
        """Return the faults that strike now, monotonic time `now_ns`, or at this frame."""
        if self._path is not None and now_ns >= self._look_ns:
            self._look_ns = now_ns + _LOOK_NS
            self._read(now_ns)
        if not self._armed and not self._from_file:
            return []
        found = []
        for armed in (*self._armed, *self._from_file):
            fault = armed.fault
            if (
                armed.is_spent
                or (fault.at_frame is not None and frame_id < fault.at_frame)
                or now_ns < armed.since_ns + round((fault.after_s or 0.0) * NS_PER_S)
            ):
                continue
            armed.is_spent = fault.kind != "lost_camera"
            found.append(fault)
        return found

    def _read(self, now_ns: int) -> None:
        assert self._path is not None
        try:
            stat = os.stat(self._path)
        except OSError:
            self._stamp, self._from_file = None, []
            return
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            listed = json.loads(self._path.read_text())["faults"]
            faults = [FastFaultOptions.model_validate(each) for each in listed]
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            # Perhaps half written: it is read again when it changes; the old faults stay.
            log.warning("fault file %s is not usable: %s", self._path, error)
            return
        self._from_file = [_Armed(fault, now_ns) for fault in faults]
        log.info("faults now: %s", ", ".join(fault.kind for fault in faults) or "none")
