# SPDX-License-Identifier: BSD-3-Clause
"""The observatory's service of frame IDs, on the wire: XML-RPC, a counter in a file, faults.

``get_frames(instrument, letter, count, request)`` returns ``{"request", "frames"}``. The instrument
is three letters or its number at the observatory. The counter and all answers stand in a file, so
that a request made again has the same answer, also after a crash. ``truth.jsonl`` beside it says
what was granted and what was answered.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socketserver
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from nightjar.errors import InvalidArgument
from nightjar.files import write_json_durably

#: Numbers of instruments at the observatory.
INSTRUMENTS = {16: "SCX", 31: "VMP"}
FAULTS = {
    "slow": "answers after a second",
    "hang": "grants, then never answers",
    "stale": "answers with the last answer but to the older request",
    "repeat": "answers with older numbers, as if they were of this request",
    "duplicate": "one ID stands twice in the answer",
    "short": "one ID is missing in the answer",
    "unsorted": "the first two IDs change places",
    "cut": "the connection ends in the middle of the answer",
    "crash": "grants, writes that down, and dies before it answers",
}
_SLOW_S = 1.0
_MOST = 1_000_000
_LARGEST = 99_999_999


@dataclass(frozen=True)
class Fault:
    """A fault and when it comes: at the n-th request since the start, or by chance.

    Attributes
    ----------
    number
        Of the request, from 1; 0 where `fraction` decides.
    """

    kind: str
    number: int
    fraction: float


def parse_faults(text: str) -> list[Fault]:
    """Return the faults of a text: ``stale@2,crash@5,slow@10%``; ``@*`` is always.

    Raises
    ------
    InvalidArgument
        Not of this form.
    """
    faults = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, _, when = part.partition("@")
        when = when or "*"
        try:
            if kind not in FAULTS:
                raise ValueError
            if when == "*":
                faults.append(Fault(kind, 0, 1.0))
            elif when.endswith("%"):
                faults.append(Fault(kind, 0, float(when[:-1]) / 100))
            else:
                faults.append(Fault(kind, int(when), 0.0))
        except ValueError:
            raise InvalidArgument(
                f"{part!r} is no fault: KIND@N, KIND@P% or KIND@*, with KIND one of "
                f"{', '.join(FAULTS)}"
            ) from None
    return faults


class FrameIdService:
    """The counter, its file and its faults; thread-safe.

    Parameters
    ----------
    folder
        For ``gen2.json`` and ``truth.jsonl``; made where it is missing.
    first
        Number of the first ID of each code.
    faults
        What goes wrong.
    seed
        Of the faults that come by chance.
    """

    def __init__(
        self, folder: Path, *, first: int = 1, faults: Iterable[Fault] = (), seed: int = 1
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "gen2.json"
        self._truth = folder / "truth.jsonl"
        self._first = first
        self._faults = list(faults)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._requests = 0
        self.stopped = threading.Event()
        self._state: dict[str, Any] = {"next": {}, "answers": {}}
        if self._path.exists():
            self._state = json.loads(self._path.read_text())

    def get_frames(
        self, instrument: str | int, letter: str, count: int, request: str
    ) -> dict[str, Any]:
        """Return the IDs of a request."""
        code = f"{INSTRUMENTS.get(instrument, '') if isinstance(instrument, int) else instrument}"
        code += letter
        if not (len(code) == 4 and code.isascii() and code.isalpha() and code.isupper()):
            raise ValueError(f"no instrument {instrument!r} with camera {letter!r}")
        if not isinstance(count, int) or not 1 <= count <= _MOST or not isinstance(request, str):
            raise ValueError(f"cannot give {count!r} frame IDs for request {request!r}")
        with self._lock:
            self._requests += 1
            fault = self._fault()
            older = [key for key in self._state["answers"] if key != request]
            answer = self._granted(code, count, request)
            given = self._spoilt(answer, fault, older)
            self._write_truth(request, answer["frames"], given, fault)
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang":
            self.stopped.wait(3600)
        if fault == "slow":
            self.stopped.wait(_SLOW_S)
        return given | ({"cut": True} if fault == "cut" else {})

    def _fault(self) -> str:
        for fault in self._faults:
            chance = fault.fraction and self._random.random() < fault.fraction
            if fault.number == self._requests or chance:
                return fault.kind
        return ""

    def _granted(self, code: str, count: int, request: str) -> dict[str, Any]:
        """Return the right answer, written down."""
        known = self._state["answers"].get(request)
        if known is None:
            begin = self._state["next"].get(code, self._first)
            if begin + count - 1 > _LARGEST:
                raise ValueError(f"no frame IDs of {code} are left")
            known = {"code": code, "first": begin, "count": count}
            self._state["next"][code] = begin + count
            self._state["answers"][request] = known
            write_json_durably(self._path, self._state)
        elif (known["code"], known["count"]) != (code, count):
            raise ValueError(f"request {request} was for {known['count']} of {known['code']}")
        return {"request": request, "frames": _ids(known)}

    def _spoilt(self, answer: dict[str, Any], fault: str, older: list[str]) -> dict[str, Any]:
        frames = list(answer["frames"])
        last = self._state["answers"][older[-1]] if older else None
        if fault == "stale":
            old = _ids(last) if last else frames
            return {"request": older[-1] if older else "", "frames": old}
        if fault == "repeat" and last:
            frames = _ids({**last, "count": len(frames)})
        if fault == "duplicate":
            frames[-1] = frames[0]
            frames = frames if len(frames) > 1 else frames * 2
        if fault == "short":
            frames = frames[:-1]
        if fault == "unsorted":
            frames[:2] = frames[1::-1]
        return {"request": answer["request"], "frames": frames}

    def _write_truth(
        self, request: str, granted: list[str], given: dict[str, Any], fault: str
    ) -> None:
        line = {"time_ns": time.time_ns(), "number": self._requests, "request": request,
                "granted": granted, "answered": given, "fault": fault}  # fmt: skip
        with self._truth.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _ids(known: dict[str, Any]) -> list[str]:
    first = known["first"]
    return [f"{known['code']}{number:08d}" for number in range(first, first + known["count"])]


class _Handler(SimpleXMLRPCRequestHandler):
    """Answers as the library does; breaks off where the fault wants it."""

    def do_POST(self) -> None:  # noqa: N802 - the library's name
        """Answer one call."""
        self.close_connection = True
        super().do_POST()

    def decode_request_content(self, data: bytes) -> bytes | None:
        """Return the question."""
        self._is_cut = False
        return super().decode_request_content(data)

    def _dispatch(self, method: str, params: tuple[Any, ...]) -> Any:
        server = self.server
        assert isinstance(server, Gen2Server)
        if method != "get_frames":
            raise ValueError(f"no method {method}")
        answer = server.service.get_frames(*params)
        self._is_cut = answer.pop("cut", False)
        return answer

    def end_headers(self) -> None:
        """Send the headers, and nothing more where the answer is to be cut."""
        super().end_headers()
        if getattr(self, "_is_cut", False):
            self.wfile.flush()
            self.wfile = _Nothing()  # type: ignore[assignment]


class _Nothing:
    """A file that takes everything and sends nothing."""

    closed = False

    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class Gen2Server(socketserver.ThreadingMixIn, SimpleXMLRPCServer):
    """The service on a TCP port of this machine; `port` 0 takes one that is free."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, service: FrameIdService, port: int = 0, host: str = "127.0.0.1") -> None:
        self.service = service
        super().__init__((host, port), _Handler, logRequests=False, allow_none=False)

    @property
    def url(self) -> str:
        """Its address."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"

    def stop(self) -> None:
        """End the service, also calls that hang."""
        self.service.stopped.set()
        self.shutdown()
        self.server_close()
