# SPDX-License-Identifier: BSD-3-Clause
"""What crosses between a camera daemon and the child process of its detector.

Messages on a socket pair: four bytes of length, big endian, then JSON; never pickle. A request is
``{"id", "call", "args"}``, a reply ``{"id", "result"}`` or ``{"id", "error"}``, the error with
code, message and detail. Pixels do not cross: the child writes them into the stream file itself.

A shared page of memory carries the cancellation: a byte that is not 0 while the present call shall
be cancelled, so that the child can look at it between any two rows.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from nightjar.errors import Code, DeviceError, NightjarError, error_for
from nightjard.camd.drivers.base import (
    Capabilities,
    Control,
    FrameRecord,
    Phase,
    Progress,
    Range,
    Readout,
    Settings,
    Telemetry,
)
from nightjard.camd.geometry import Region

MOST_BYTES = 1 << 20
_LENGTH = struct.Struct(">I")
_REGION_FIELDS = ("readout", "image_region", "bias_region", "dark_region")
_RANGE_FIELDS = ("exposure_s", "gain", "offset", "setpoint_c")


class PeerGone(Exception):
    """The other end has closed its socket or died."""


class Malformed(Exception):
    """What arrived is not a message."""


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Send one message.

    Raises
    ------
    PeerGone
        Nobody is there any more.
    TypeError, ValueError
        The message cannot cross; nothing was sent.
    """
    body = json.dumps(message, default=_plain, allow_nan=True).encode()
    if len(body) > MOST_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is too long")
    try:
        channel.sendall(_LENGTH.pack(len(body)) + body)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise PeerGone from error


def receive(channel: socket.socket) -> dict[str, Any]:
    """Receive one message, waiting as long as the socket's timeout allows.

    Raises
    ------
    PeerGone
        The other end closed.
    TimeoutError
        The socket's timeout passed.
    Malformed
        What arrived is not a message.
    """
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size))
    if length > MOST_BYTES:
        raise Malformed(f"a message of {length} bytes")
    try:
        message = json.loads(_exactly(channel, length))
    except ValueError as error:
        raise Malformed("a message that is not JSON") from error
    if not isinstance(message, dict):
        raise Malformed("JSON that is not a message")
    return message


def _exactly(channel: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        try:
            part = channel.recv(count - len(parts))
        except ConnectionResetError as error:
            raise PeerGone from error
        if not part:
            raise PeerGone
        parts += part
    return bytes(parts)


def _plain(value: Any) -> Any:
    """Turn a numpy scalar, which a driver may return by oversight, into a Python number."""
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"{type(value).__name__} cannot cross between processes")
    return item()


# -- records ------------------------------------------------------------------------------------


def pack_error(error: NightjarError) -> dict[str, Any]:
    """Return an error as plain values."""
    return {"code": error.code.name, "message": error.message, "detail": error.detail}


def unpack_error(value: dict[str, Any]) -> NightjarError:
    """Return the exception of a reply; a DeviceError where its code has no class of its own."""
    detail = {k: v for k, v in value["detail"].items() if k not in ("code", "message")}
    error = error_for(Code.from_name(value["code"]), value["message"], detail)
    if type(error) is NightjarError:
        return DeviceError(error.message, code=error.code, **detail)
    return error


def _pack_region(region: Region | None) -> list[int] | None:
    return None if region is None else [region.x1, region.x2, region.y1, region.y2]


def _unpack_region(value: list[int] | None) -> Any:
    return None if value is None else Region(*value)


def pack_capabilities(value: Capabilities) -> dict[str, Any]:
    """Return capabilities as plain values."""
    plain = {name: getattr(value, name) for name in Capabilities.__slots__}
    plain.update({name: _pack_region(plain[name]) for name in _REGION_FIELDS})
    plain["controls"] = [
        {name: getattr(control, name) for name in Control.__slots__} for control in value.controls
    ]
    return plain


def unpack_capabilities(plain: dict[str, Any]) -> Capabilities:
    """Return the capabilities of :func:`pack_capabilities`."""
    value = dict(plain)
    for name in _REGION_FIELDS:
        value[name] = _unpack_region(value[name])
    for name in _RANGE_FIELDS:
        value[name] = None if value[name] is None else Range(*value[name])
    value["filters"], value["binnings"] = tuple(value["filters"]), tuple(value["binnings"])
    value["controls"] = tuple(
        Control(**{**control, "choices": tuple(control["choices"])})
        for control in value["controls"]
    )
    return Capabilities(**value)


def pack_settings(value: Settings) -> dict[str, Any]:
    """Return settings as plain values."""
    plain = {name: getattr(value, name) for name in Settings.__slots__}
    plain["window"] = _pack_region(value.window)
    return plain


def unpack_settings(plain: dict[str, Any]) -> Settings:
    """Return the settings of :func:`pack_settings`."""
    controls = tuple((name, value) for name, value in plain["controls"])
    return Settings(
        **{**plain, "window": _unpack_region(plain["window"]), "controls": controls}
    )


def pack_readout(value: Readout) -> list[Any]:
    """Return a read-out as plain values."""
    return [_pack_region(value.region), value.binning]


def unpack_readout(plain: list[Any]) -> Readout:
    """Return the read-out of :func:`pack_readout`."""
    return Readout(_unpack_region(plain[0]), plain[1])


def pack_progress(value: Progress) -> list[Any]:
    """Return a progress as plain values."""
    return [value.phase.value, value.elapsed_ns]


def unpack_progress(plain: list[Any]) -> Progress:
    """Return the progress of :func:`pack_progress`."""
    return Progress(Phase(plain[0]), plain[1])


def pack_record(value: FrameRecord) -> dict[str, Any]:
    """Return a frame's record as plain values."""
    plain = {name: getattr(value, name) for name in FrameRecord.__slots__}
    plain["cards"] = dict(value.cards)
    return plain


def unpack_record(plain: dict[str, Any]) -> FrameRecord:
    """Return the record of :func:`pack_record`."""
    cards = {key: (value, comment) for key, (value, comment) in plain["cards"].items()}
    return FrameRecord(**{**plain, "cards": cards})


def pack_telemetry(value: Telemetry) -> dict[str, Any]:
    """Return measurements as plain values."""
    return {name: getattr(value, name) for name in Telemetry.__slots__}


def unpack_telemetry(plain: dict[str, Any]) -> Telemetry:
    """Return the measurements of :func:`pack_telemetry`."""
    return Telemetry(**plain)
