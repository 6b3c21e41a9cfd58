# SPDX-License-Identifier: BSD-3-Clause
"""Command tables: the one source of help, completion, argument checks and reference pages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nightjar.errors import Code, InvalidArgument, Refused

Kind = Literal["float", "int", "str", "bool", "ints", "strs", "list", "object"]

_TYPES: dict[str, tuple[type, ...]] = {
    "float": (int, float),
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "ints": (list, tuple),
    "strs": (list, tuple),
    "list": (list, tuple),
    "object": (dict,),
}
_REQUIRED = "required"
_MAX_TEXT = 4096


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a command.

    Attributes
    ----------
    kind
        JSON type: float (an integer will do), int, str, bool, ints, strs, list (of anything:
        who handles it checks its parts), object.
    help, unit
        For people.
    default
        Value where the caller gives none; the text "required" for none.
    is_nullable
        None (JSON null) is a value of its own, explained in `help`.
    choices, low, high
        What is allowed beyond the type; limits inclusive.
    """

    name: str
    kind: Kind
    help: str
    unit: str = ""
    default: Any = _REQUIRED
    is_nullable: bool = False
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def is_required(self) -> bool:
        """Whether the caller must give it."""
        return bool(self.default == _REQUIRED)

    def check(self, value: Any) -> Any:
        """Return the value if it may be used.

        Raises
        ------
        InvalidArgument
            Wrong type or not one of the choices.
        Refused
            Outside the limits (OUT_OF_RANGE).
        """
        if value is None and self.is_nullable:
            return None
        fits = isinstance(value, _TYPES[self.kind])
        if isinstance(value, bool) and self.kind != "bool":
            fits = False  # Python's bool is an int; on this wire it is not
        if fits and isinstance(value, list | tuple):
            wanted = {"ints": int, "strs": str}.get(self.kind)
            fits = wanted is None or all(type(part) is wanted for part in value)
            value = list(value)
        if not fits:
            raise InvalidArgument(
                f"{self.name} must be {_article(self.kind)}, not {_shown(value)}", name=self.name
            )
        if isinstance(value, str) and len(value) > _MAX_TEXT:
            raise InvalidArgument(f"{self.name} is longer than {_MAX_TEXT} characters")
        chosen = value if isinstance(value, list) else [value]
        if self.choices and any(part not in self.choices for part in chosen):
            raise InvalidArgument(
                f"{self.name} must be one of {', '.join(self.choices)}, not {_shown(value)}",
                name=self.name,
            )
        if isinstance(value, int | float) and self.kind in ("int", "float"):
            return self._check_limits(value)
        return value

    def _check_limits(self, value: float) -> float:
        try:
            is_finite = math.isfinite(value)
        except OverflowError:  # a whole number beyond any float
            is_finite = False
        if is_finite and (self.low is None or value >= self.low) and (
            self.high is None or value <= self.high
        ):
            return value
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        unit = f" {self.unit}" if self.unit else ""
        raise Refused(
            f"{self.name} must be {low} to {high}{unit}, not {_shown(value)}",
            code=Code.OUT_OF_RANGE, name=self.name, low=self.low, high=self.high,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a daemon.

    Attributes
    ----------
    access
        "query" for machines that may read, "control" for those that may command.
    is_safe
        Harmless to repeat: the client may retry it after a lost reply.
    is_operation
        Returns ``{"operation": id}`` at once; progress, cancel and wait by that id.
    """

    name: str
    help: str
    parameters: tuple[Parameter, ...] = ()
    access: Literal["query", "control"] = "control"
    is_safe: bool = False
    is_operation: bool = False
    aliases: tuple[str, ...] = field(default=())

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with defaults, every one checked.

        Raises
        ------
        InvalidArgument, Refused
            As :meth:`Parameter.check`; also for unknown and missing arguments.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        unknown = sorted(set(arguments) - set(known))
        if unknown:
            allowed = ", ".join(known) or "none"
            raise InvalidArgument(
                f"{self.name}: unknown argument {', '.join(map(repr, unknown))}; known: {allowed}"
            )
        checked = {}
        for name, parameter in known.items():
            if name in arguments:
                checked[name] = parameter.check(arguments[name])
            elif parameter.is_required:
                raise InvalidArgument(f"{self.name}: argument {name} is missing", name=name)
            else:
                checked[name] = parameter.default
        return checked

    def describe(self) -> dict[str, Any]:
        """Return the command as plain JSON values."""
        return asdict(self)


def _article(kind: str) -> str:
    return {
        "float": "a number",
        "int": "a whole number",
        "str": "a text",
        "bool": "true or false",
        "ints": "a list of whole numbers",
        "strs": "a list of texts",
        "list": "a list",
        "object": "an object",
    }[kind]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


OPERATION_ID = Parameter("operation", "str", "Id that the command returned.")

COMMON_COMMANDS: tuple[Command, ...] = (
    Command("status", "Return the ready-made snapshot.", access="query", is_safe=True),
    Command("describe", "Return the command table.", access="query", is_safe=True),
    Command(
        "operation", "Return the state of an operation.", (OPERATION_ID,),
        access="query", is_safe=True,
    ),
    Command(
        "wait", "Return the state of an operation when it ends or after `timeout`.",
        (OPERATION_ID, Parameter("timeout", "float", "Longest wait.", "s", 2.0, low=0, high=5)),
        access="query", is_safe=True,
    ),
    Command("cancel", "Cancel an operation.", (OPERATION_ID,), is_safe=True),
)  # fmt: skip
"""Commands that the daemon runtime answers for every daemon."""
