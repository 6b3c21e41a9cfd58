# SPDX-License-Identifier: BSD-3-Clause
"""A camera behind its daemon, ``camd``, as :mod:`.acquire` drives it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Cancelled, DeviceError, Refused, StorageError, TimedOut
from nightjar.times import parse_iso
from nightjard.calib.acquire import Taken

_POLL_S = 0.5
_MARGIN_S = 120.0


class Caller(Protocol):
    """Calls a daemon: :class:`nightjar.rpc.client.Client`."""

    def call(
        self, command: str, arguments: dict[str, Any] | None = None, *,
        timeout_s: float | None = None, is_safe: bool = False,
    ) -> Any:
        """Return the value of the reply."""
        ...


class CamdCamera:
    """A camera behind its daemon.

    Parameters
    ----------
    client
        Calls the daemon.
    clock
        Paces the looks at it.
    """

    def __init__(self, client: Caller, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._controls: frozenset[str] = frozenset()
        self._filters: list[str] = []
        self._shortest_s = 0.0
        self._size = (0, 0)

    @property
    def controls(self) -> frozenset[str]:
        """Names of its controls."""
        return self._controls

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of its frames."""
        return self._size

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = self._client.call("status", is_safe=True)
        return status

    def connect(self) -> None:
        """Initialize it where that has not been done.

        Raises
        ------
        Refused
            It is busy with somebody else's sequence.
        """
        status = self._status()
        if status["state"] == "OFFLINE":
            self._finish(self._client.call("init", {}), threading.Event(), 300.0)
            status = self._status()
        if status["state"] != "IDLE":
            raise Refused(
                f"the camera is {status['state']}; stop what it does before a session is acquired"
            )
        if status.get("pipeline") and status["pipeline"].get("daemon"):
            raise Refused(
                f"the camera hands its frames over to {status['pipeline']['daemon']}, which would "
                f"take them away; configure it with pipeline_daemon null"
            )
        self._controls = frozenset(status.get("controls") or {})
        self._filters = list(status.get("filters") or [])
        x1, x2, y1, y2 = status["window"]
        self._size = ((y2 - y1 + 1) // status["binning"], (x2 - x1 + 1) // status["binning"])

    def expose(
        self, values: Mapping[str, Any], obsid: int, filter_slot: int, stop: threading.Event
    ) -> Taken:
        """Take one frame."""
        exposure_s = float(values["exptime"])
        controls = {key: values[key] for key in self._controls if key in values}
        if "obsid" in self._controls:
            controls["obsid"] = obsid
        self._move_filter(filter_slot, stop)
        settings = {"exposure": exposure_s, "controls": controls}
        if not self._controls:
            settings.pop("controls")
        self._configure(settings)
        housekeeping: list[tuple[int, Mapping[str, float]]] = []
        begun = self._client.call("start", {"count": 1, "delay": 0.0})
        self._finish(begun, stop, exposure_s + _MARGIN_S, housekeeping)
        last = self._client.call("last", {"count": 1}, is_safe=True)[0]
        path = Path(str(last["path"]))
        if not path.is_file():
            raise StorageError(
                f"the camera saved {path}, which is not there: is its output_path a folder of this "
                f"host, and does nobody take frames from it?", path=str(path),
            )  # fmt: skip
        return Taken(path, parse_iso(str(last["start"])), tuple(housekeeping))

    def _configure(self, settings: dict[str, Any]) -> None:
        """Give settings to the camera; for no exposure at all, as of a bias, its shortest one."""
        shortest_s = self._shortest_s
        if settings["exposure"] == 0:
            settings["exposure"] = shortest_s
        try:
            self._client.call("configure", {"settings": settings})
        except Refused as error:
            low = error.detail.get("low")
            is_bias = settings["exposure"] == 0 and error.detail.get("name") == "exposure"
            if not is_bias or not isinstance(low, float):
                raise
            self._shortest_s = low if shortest_s == 0 else shortest_s
            self._client.call("configure", {"settings": {**settings, "exposure": low}})

    def _move_filter(self, slot: int, stop: threading.Event) -> None:
        if not self._filters:
            return
        if not 1 <= slot <= len(self._filters):
            raise Refused(f"wave {slot}: the camera's wheel has {len(self._filters)} filters")
        wanted = self._filters[slot - 1]
        if self._status()["filter"] != wanted:
            self._finish(self._client.call("set_filter", {"filter": wanted}), stop, 90.0)

    def _finish(
        self, begun: Mapping[str, Any], stop: threading.Event, timeout_s: float,
        housekeeping: list[tuple[int, Mapping[str, float]]] | None = None,
    ) -> None:
        """Wait for an operation, look at the electronics meanwhile; abort it when told to stop."""
        identity = begun["operation"]
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        while True:
            state = self._client.call(
                "wait", {"operation": identity, "timeout": _POLL_S}, timeout_s=_POLL_S + 5.0,
                is_safe=True,
            )  # fmt: skip
            if housekeeping is not None:
                self._look(housekeeping)
            if state["state"] != "running":
                break
            if stop.is_set():
                self._client.call("abort", {})
                raise Cancelled("the exposure was aborted")
            if self._clock.monotonic_ns() > deadline_ns:
                self._client.call("abort", {})
                raise TimedOut(
                    f"{state['name']} of the camera has not ended after {timeout_s:.0f} s "
                    f"({state['stage']} {state['message']}); it was aborted"
                )
        if state["state"] != "done":
            detail = state.get("detail") or {}
            raise DeviceError(
                f"{state['name']} of the camera ended as {state['state']}: {state['message']}",
                **{key: value for key, value in detail.items() if key not in ("message", "code")},
            )

    def _look(self, housekeeping: list[tuple[int, Mapping[str, float]]]) -> None:
        status = self._status()
        values = dict(status.get("housekeeping") or {})
        if status.get("temperature") is not None:
            for half in "TB":
                values.setdefault(f"CCD1_TEMP_{half}", float(status["temperature"]))
        now_ns = self._clock.now_ns() // NS_PER_S * NS_PER_S  # its times are whole seconds
        if values and (not housekeeping or housekeeping[-1][0] < now_ns):
            housekeeping.append((now_ns, values))
