# SPDX-License-Identifier: BSD-3-Clause
"""The reply of every command: code, name, message, detail, time, value; plain JSON values."""

from __future__ import annotations

from typing import Any, TypedDict

from nightjar.errors import Code, NightjarError, error_for
from nightjar.times import iso


class Reply(TypedDict):
    """What crosses the wire for every call."""

    code: int
    name: str
    message: str
    detail: dict[str, Any]
    time: str
    value: Any


def ok(value: Any, now_ns: int) -> Reply:
    """Return the reply of a command that succeeded."""
    return Reply(code=0, name="OK", message="", detail={}, time=iso(now_ns), value=value)


def failed(error: NightjarError, now_ns: int) -> Reply:
    """Return the reply of a command that failed."""
    return Reply(
        code=error.code.number, name=error.code.name, message=error.message,
        detail=plain(error.detail), time=iso(now_ns), value=None,
    )  # fmt: skip


def value_of(reply: Any) -> Any:
    """Return the value of a reply, or raise the error that it carries.

    Raises
    ------
    NightjarError
        PROTOCOL where `reply` is no reply at all.
    """
    if not isinstance(reply, dict) or "name" not in reply or "code" not in reply:
        raise NightjarError(f"not a reply: {str(reply)[:80]}", code=Code.PROTOCOL)
    if reply["name"] == "OK":
        return reply.get("value")
    given = reply.get("detail")
    detail = {str(key): value for key, value in given.items()} if isinstance(given, dict) else {}
    for taken in ("self", "message", "code"):
        detail.pop(taken, None)
    raise error_for(Code.from_name(str(reply["name"])), str(reply.get("message", "")), detail)


def plain(value: Any) -> Any:
    """Return `value` as plain JSON values only: what neither serializer can misread.

    Tuples become lists, numpy scalars Python numbers, paths and enumerations texts; NaN and
    infinities, which JSON does not know, become None.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "item"):  # numpy scalar
        return plain(value.item())
    if hasattr(value, "name") and hasattr(value, "value"):  # enumeration
        return str(value.name)
    return str(value)
