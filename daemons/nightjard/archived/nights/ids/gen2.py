# SPDX-License-Identifier: BSD-3-Clause
"""Numbers from the observatory's control system, by XML-RPC, believed only after a look at them.

The call is ``get_frames(instrument, letter, count, request)``, with "VMP", "A" and 3 for instance.
The answer is a struct: ``request``, the text that was sent, and ``frames``, the IDs. The request
makes a repeated question harmless, and a late answer to another question known for what it is.
"""

from __future__ import annotations

import http.client
import io
import socket
import urllib.parse
import xmlrpc.client
from typing import Any, cast
from xml.parsers.expat import ExpatError

from nightjar.clock import NS_PER_S, Clock, SystemClock
from nightjar.errors import ConfigError, InvalidArgument, Refused, TimedOut, Unreachable
from nightjard.archived.nights.ids.allocators import require_request
from nightjard.archived.nights.ids.names import parse

_LARGEST_ANSWER = 64 << 20
_PIECE = 1 << 16


class Gen2Allocator:
    """Asks the service at an address.

    Parameters
    ----------
    url
        ``http://HOST:PORT/``.
    timeout_s
        For the whole of a call: connecting, asking, the last byte of the answer.

    Raises
    ------
    ConfigError
        Not such an address.
    """

    name = "gen2"

    def __init__(self, url: str, timeout_s: float = 30.0, clock: Clock | None = None) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urllib.parse.urlsplit(""), None
        if parts.scheme != "http" or not parts.hostname or port is None:
            raise ConfigError(f"ids.url: {url!r} is not of the form http://HOST:PORT/")
        self._url = url
        self._address = (parts.hostname, port)
        self._path = parts.path or "/"
        self._timeout_s = timeout_s
        self._clock: Clock = clock or SystemClock()

    def grant(self, code: str, count: int, request: str) -> list[int]:
        """Return numbers; see :class:`~nightjard.archived.nights.ids.allocators.Allocator`.

        Raises
        ------
        Refused
            The service refuses, or its answer is to another request, has not `count` numbers, or
            has some twice, out of order or of another code.
        Unreachable, TimedOut
            It does not answer.
        """
        require_request(code, count, request)
        answer = self._call("get_frames", code[:3], code[3], count, request)
        return self._checked(answer, code, count, request)

    def _checked(self, answer: Any, code: str, count: int, request: str) -> list[int]:
        """Return the numbers of an answer in which everything is right."""

        def refuse(what: str) -> Refused:
            return Refused(
                f"the answer of {self._url} to request {request} for {count} frame IDs of {code} "
                f"{what}; no number of it is used. Ask again; if it stays so, tell the "
                f"observatory",
                request=request, url=self._url,
            )  # fmt: skip

        if not isinstance(answer, dict) or not isinstance(answer.get("frames"), list):
            raise refuse(f"is {answer!r:.80}, not a struct with request and frames")
        if answer.get("request") != request:
            raise refuse(f"is to request {answer.get('request')!r:.140}: a stale answer")
        frames = answer["frames"]
        if len(frames) != count:
            raise refuse(f"has {len(frames)} frame IDs")
        numbers: list[int] = []
        for text in frames:
            try:
                given, number = parse(text) if isinstance(text, str) else ("", -1)
            except InvalidArgument:
                raise refuse(f"has {text!r:.40}, which is no frame ID") from None
            if given != code:
                raise refuse(f"has {text!r:.40}, which is of another code")
            if numbers and number <= numbers[-1]:
                what = "twice" if number in numbers else "out of order"
                raise refuse(f"has {text} {what}")
            numbers.append(number)
        return numbers

    # --- one call ---

    def _call(self, method: str, *arguments: Any) -> Any:
        body = xmlrpc.client.dumps(arguments, method, encoding="utf-8").encode()
        heading = (
            f"POST {self._path} HTTP/1.0\r\nHost: {self._address[0]}:{self._address[1]}\r\n"
            f"Content-Type: text/xml\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        try:
            data = self._exchange(heading.encode("latin-1", "replace") + body)
        except TimeoutError as error:
            raise TimedOut(
                f"{self._url} did not answer {method} within {self._timeout_s:g} s; the request "
                f"is kept and will be made again with the same text"
            ) from error
        except OSError as error:
            raise Unreachable(
                f"cannot ask {self._url} for frame IDs: {error.strerror or error}; is the service "
                f"running?"
            ) from error
        return self._understood(data, method)

    def _exchange(self, question: bytes) -> bytes:
        """Return all bytes of the answer; TimeoutError at the deadline, however they trickle."""
        deadline_ns = self._clock.monotonic_ns() + round(self._timeout_s * NS_PER_S)

        def left_s() -> float:
            left = (deadline_ns - self._clock.monotonic_ns()) / NS_PER_S
            if left <= 0:
                raise TimeoutError
            return left

        pieces: list[bytes] = []
        total = 0
        with socket.create_connection(self._address, left_s()) as connection:
            connection.settimeout(left_s())
            connection.sendall(question)
            while total <= _LARGEST_ANSWER:
                connection.settimeout(left_s())
                piece = connection.recv(_PIECE)
                if not piece:
                    return b"".join(pieces)
                pieces.append(piece)
                total += len(piece)
        raise OSError("the answer does not end")

    def _understood(self, data: bytes, method: str) -> Any:
        try:
            response = http.client.HTTPResponse(cast(socket.socket, _Received(data)))
            response.begin()
            body = response.read()
            if response.status != http.client.OK:
                raise Unreachable(
                    f"{self._url} answers {response.status} {response.reason} to {method}: it is "
                    f"no service of frame IDs, or at another path"
                )
            values, _ = xmlrpc.client.loads(body.decode("utf-8"))
            return values[0]
        except xmlrpc.client.Fault as error:
            raise Refused(f"{self._url} refuses {method}: {error.faultString}") from error
        except (http.client.HTTPException, xmlrpc.client.Error, ExpatError, ValueError,
                IndexError) as error:  # fmt: skip
            raise Unreachable(
                f"{self._url} broke off its answer to {method}, or does not speak XML-RPC: "
                f"{type(error).__name__} {error}".rstrip()
            ) from error


class _Received:
    """Bytes that have arrived, where http.client expects a socket to read from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: Any, **__: Any) -> Any:
        """Return the bytes as a file."""
        return io.BytesIO(self._data)
