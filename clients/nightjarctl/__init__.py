# SPDX-License-Identifier: BSD-3-Clause
"""Nightjar's commands, and :func:`connect` for programs that ask the same questions.

>>> from nightjarctl import connect
>>> connect("localhost_test").status()  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightjarctl.camera import Camera
    from nightjarctl.connection import Connection, Operation, connect

__all__ = ["Camera", "Connection", "Operation", "connect"]


def __getattr__(name: str) -> Any:
    # Imported at first use: a command must not pay for what only programs need.
    if name == "Camera":
        from nightjarctl.camera import Camera

        return Camera
    if name in __all__:
        from nightjarctl import connection

        return getattr(connection, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
