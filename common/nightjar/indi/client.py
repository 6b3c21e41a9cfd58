# SPDX-License-Identifier: BSD-3-Clause
"""A connection to an INDI server: one thread that reads, and what the server has told.

Why not indipyclient: see :mod:`nightjar.indi.protocol` for the measured difference,
and it reconnects by itself, which would hide a lost exposure.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from nightjar.clock import Clock
from nightjar.errors import DeviceLost, DeviceNotFound, TimedOut
from nightjar.indi import protocol
from nightjar.indi.protocol import Blob, Element

T = TypeVar("T")
_READ_BYTES = 1 << 20
_SEND_TIMEOUT_S = 2.0
_JOIN_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Member:
    """One value of a vector, with the limits of a number."""

    value: str | float | bool
    low: float = 0.0
    high: float = 0.0
    label: str = ""


@dataclass(frozen=True, slots=True)
class Vector:
    """A property as last told by the server; replaced, never changed.

    Attributes
    ----------
    kind
        "Number", "Text", "Switch", "Light" or "BLOB".
    state
        "Idle", "Ok", "Busy" or "Alert".
    is_writable
        False for what a client may only read.
    revision
        Counts what arrived for it; any later message has a larger one.
    is_definition
        The last message was a definition, as an answer to getProperties is.
    """

    kind: str
    device: str
    name: str
    state: str
    members: Mapping[str, Member]
    revision: int
    is_writable: bool = True
    is_definition: bool = True

    def number(self, member: str) -> float:
        """Return the number of that member; nan where there is none."""
        found = self.members.get(member)
        return found.value if found is not None and isinstance(found.value, float) else float("nan")

    def is_on(self, member: str) -> bool:
        """Tell whether that switch is on."""
        found = self.members.get(member)
        return found is not None and found.value is True


class IndiClient:
    """A connection and the properties that came over it.

    Properties may be read at any time; the connection is single use: once `failure` is set,
    every call raises DeviceLost and a new object is needed.

    Parameters
    ----------
    on_blob
        Called in the reading thread with every image.
    on_vector
        Called in the reading thread with every definition and update.
    """

    def __init__(
        self,
        host: str,
        port: int,
        clock: Clock,
        on_blob: Callable[[Blob], None],
        on_vector: Callable[[Vector], None],
    ) -> None:
        self.host = host
        self.port = port
        self.failure: str | None = None
        self.received_ns = 0
        self._clock = clock
        self._on_vector = on_vector
        self._changed = threading.Condition()
        self._vectors: dict[str, dict[str, Vector]] = {}
        self._messages: dict[str, str] = {}
        self._removed: set[str] = set()
        self._revision = 0
        self._spare: bytearray | None = None
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._send_lock = threading.Lock()

        def deliver(blob: Blob) -> None:
            on_blob(blob)
            self._notify()

        self._parser = protocol.Parser(
            self._take_element, deliver, clock.monotonic_ns, self._take_buffer
        )

    @property
    def address(self) -> str:
        """Where the server is, for messages."""
        return f"{self.host}:{self.port}"

    @property
    def is_receiving(self) -> bool:
        """Tell whether an image is on its way."""
        return self._parser.is_receiving

    def connect(self, timeout_s: float) -> None:
        """Connect, ask for all properties and start reading.

        Raises
        ------
        DeviceNotFound
            Nobody listens there.
        """
        try:
            self._socket = socket.create_connection((self.host, self.port), timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise DeviceNotFound(
                f"no INDI server at {self.address} ({error}); is indiserver running?"
            ) from error
        self.received_ns = self._clock.monotonic_ns()
        self._thread = threading.Thread(
            target=self._read, args=(self._socket,), name=f"indi-{self.address}", daemon=True
        )
        self._thread.start()
        self.send(protocol.get_properties())

    def close(self) -> None:
        """Close the connection and wait for the reading thread; harmless when not connected."""
        self._is_closing = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other end was faster
            self._socket.close()
        if self._thread is not None:
            self._thread.join(_JOIN_TIMEOUT_S)
        self._fail("the connection was closed")

    def send(self, data: bytes) -> None:
        """Send bytes; a server that does not take them in time is a lost one."""
        self.check()
        assert self._socket is not None
        try:
            with self._send_lock:
                self._socket.settimeout(_SEND_TIMEOUT_S)
                self._socket.sendall(data)
        except OSError as error:
            self._fail(f"could not send: {error}")
            self.check()

    def set(self, vector: Vector, members: Mapping[str, str | float | bool]) -> int:
        """Send new values; return the revision after which the answer comes."""
        revision = self._revision
        self.send(protocol.new_vector(vector.kind, vector.device, vector.name, members))
        return revision

    def check(self) -> None:
        """Raise DeviceLost when the connection is gone."""
        if self.failure is not None:
            raise DeviceLost(f"INDI server at {self.address}: {self.failure}")

    def find(self, device: str, vector: str) -> Vector | None:
        """Return a vector as last told, None where the device has not defined it."""
        return self._vectors.get(device, {}).get(vector)

    def devices(self) -> list[str]:
        """Return the names of the devices that the server told of."""
        return sorted(self._vectors)

    def vectors(self, device: str) -> list[Vector]:
        """Return all properties of a device."""
        return list(self._vectors.get(device, {}).values())

    def was_removed(self, device: str) -> bool:
        """Tell whether the server has withdrawn the device, as it does when its driver dies."""
        return device in self._removed

    def last_message(self, device: str) -> str:
        """Return what the device last said in words, "" when nothing."""
        return self._messages.get(device, "")

    def wait(self, condition: Callable[[], T | None], timeout_s: float, what: str) -> T:
        """Return the first value of `condition` that is not None, looked at after each message.

        Raises
        ------
        TimedOut
            It stayed None; the message names `what`.
        DeviceLost
            The connection broke meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                value = condition()
                if value is not None:
                    return value
                self.check()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimedOut(
                        f"INDI server at {self.address}: no {what} within {timeout_s:g} s"
                    )
                self._changed.wait(left)

    def refresh(self, device: str, vector: str, timeout_s: float) -> Vector:
        """Ask for one definition and wait for it: by then all that was sent before is done.

        Drivers answer in the order in which they are asked, so this is also the way to know that
        commands have been worked off.
        """
        revision = self._revision
        self.send(protocol.get_properties(device, vector))

        def answer() -> Vector | None:
            found = self.find(device, vector)
            is_new = found is not None and found.revision > revision and found.is_definition
            return found if is_new else None

        return self.wait(answer, timeout_s, f"answer from {device} about {vector}")

    def give_back(self, buffer: bytearray) -> None:
        """Return the memory of an image that is no longer needed."""
        self._spare = buffer

    def _take_buffer(self, size: int) -> bytearray:
        spare, self._spare = self._spare, None
        return spare if spare is not None and size <= len(spare) <= 2 * size else bytearray(size)

    def _read(self, connection: socket.socket) -> None:
        buffer = bytearray(_READ_BYTES)
        view = memoryview(buffer)
        reason = "it closed the connection"
        try:
            while True:
                try:
                    count = connection.recv_into(view)
                except TimeoutError:
                    continue
                if not count:
                    break
                self.received_ns = self._clock.monotonic_ns()
                self._parser.feed(bytes(view[:count]))
        except protocol.ProtocolError as error:
            reason = f"it does not speak INDI: {error}"
        except OSError as error:
            reason = f"connection lost: {error}"
        finally:
            self._fail("the connection was closed" if self._is_closing else reason)
            # Ends the server's side too when the reason was ours.
            if not self._is_closing:
                connection.close()

    def _fail(self, reason: str) -> None:
        with self._changed:
            if self.failure is None:
                self.failure = reason
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _take_element(self, element: Element) -> None:
        attributes = element.attributes
        device, name = attributes.get("device", ""), attributes.get("name", "")
        with self._changed:
            self._revision += 1
            if attributes.get("message"):
                self._messages[device] = attributes["message"]
            if element.tag == "delProperty":
                self._delete(device, name)
            elif element.tag.startswith("def") and element.tag.endswith("Vector"):
                self._define(element, device, name)
            elif element.tag.startswith("set") and element.tag.endswith("Vector"):
                self._update(element, device, name)
            self._changed.notify_all()

    def _delete(self, device: str, name: str) -> None:
        if name:
            self._vectors.get(device, {}).pop(name, None)
        else:
            self._vectors.pop(device, None)
            self._removed.add(device)

    def _define(self, element: Element, device: str, name: str) -> None:
        kind = element.tag[3:-6]
        members = {
            attributes.get("name", ""): Member(
                _value(kind, text), _limit(attributes, "min"), _limit(attributes, "max"),
                attributes.get("label", ""),
            )
            for attributes, text in element.members
        }  # fmt: skip
        state = element.attributes.get("state", "Idle")
        self._vectors.setdefault(device, {})[name] = Vector(
            kind, device, name, state, members, self._revision,
            element.attributes.get("perm", "rw") != "ro",
        )  # fmt: skip
        self._on_vector(self._vectors[device][name])

    def _update(self, element: Element, device: str, name: str) -> None:
        known = self.find(device, name)
        if known is None:
            return
        members = dict(known.members)
        for attributes, text in element.members:
            old = members.get(attributes.get("name", ""))
            if old is None or known.kind == "BLOB":
                continue
            # Limits come along where they have changed.
            members[attributes["name"]] = Member(
                _value(known.kind, text), _limit(attributes, "min", old.low),
                _limit(attributes, "max", old.high), old.label,
            )  # fmt: skip
        self._vectors[device][name] = replace(
            known, state=element.attributes.get("state", known.state), members=members,
            revision=self._revision, is_definition=False,
        )  # fmt: skip
        self._on_vector(self._vectors[device][name])


def _value(kind: str, text: str) -> str | float | bool:
    if kind == "Switch":
        return text == "On"
    if kind != "Number":
        return text
    try:
        return protocol.parse_number(text)
    except ValueError:
        return float("nan")


def _limit(attributes: Mapping[str, str], name: str, default: float = 0.0) -> float:
    try:
        return protocol.parse_number(attributes[name])
    except (KeyError, ValueError):
        return default
